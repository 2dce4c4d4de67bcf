package homelist

import (
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"kedge/internal/access"
	"kedge/internal/core"
	"kedge/internal/spec"
	"kedge/wire/nd"
)

// TestAdvertisement holds what one says: RFC 6275 7.1 to 7.5.
func TestAdvertisement(t *testing.T) {
	spec.Covers(t, "RFC6275-7.1", "RFC6275-7.2", "RFC6275-7.3", "RFC6275-7.4", "RFC3963-7.3")
	full := nd.Options{
		nd.SourceLinkLayer(mac), nd.AdvertisementInterval(600000), nd.HomeAgentInformation{Preference: 7, Lifetime: 1800},
		&nd.PrefixInformation{Prefix: netip.PrefixFrom(own, 64), OnLink: true, Autonomous: true, RouterAddr: true, Valid: 2592000, Preferred: 604800},
	}
	for _, c := range []struct {
		name   string
		change func(*Config)
		want   *nd.RouterAdvertisement
	}{
		{"with a preference", func(c *Config) { c.Preference = 7 },
			&nd.RouterAdvertisement{CurHopLimit: 64, HomeAgent: true, RouterLifetime: 1800, Options: full}},
		{"defaults need no option", func(*Config) {},
			&nd.RouterAdvertisement{CurHopLimit: 64, HomeAgent: true, RouterLifetime: 1800, Options: slices.Delete(slices.Clone(full), 2, 3)}},
		{"no default router, and an address of elsewhere", func(c *Config) {
			c.RouterLifetime, c.Addresses, c.Managed, c.Other, c.Mobile = -1, []netip.Addr{own2, own}, true, true, true
		}, &nd.RouterAdvertisement{CurHopLimit: 64, HomeAgent: true, Managed: true, Other: true, Options: nd.Options{
			full[0], full[1], nd.HomeAgentInformation{Mobile: true, Lifetime: 1800}, full[3],
			&nd.PrefixInformation{Prefix: netip.PrefixFrom(own2, 64), RouterAddr: true, Valid: 2592000, Preferred: 604800},
		}}},
		{"often", func(c *Config) { c.MaxInterval = 70 * time.Millisecond },
			&nd.RouterAdvertisement{CurHopLimit: 64, HomeAgent: true, RouterLifetime: 1, Options: nd.Options{full[0], nd.AdvertisementInterval(90), full[3]}}},
		{"a prefix that is forever and one that ends", func(c *Config) {
			c.Preference = 7
			c.Prefixes = []Prefix{{Prefix: link, OnLink: true, Autonomous: true, Valid: DefaultValid, Preferred: DefaultPreferred},
				{Prefix: second, OnLink: true, Valid: Forever, Preferred: 0, Explicit: true}}
		}, &nd.RouterAdvertisement{CurHopLimit: 64, HomeAgent: true, RouterLifetime: 1800, Options: append(slices.Clone(full),
			&nd.PrefixInformation{Prefix: second, OnLink: true, Valid: nd.Infinity})}},
	} {
		r := newRig(t, constant(0), func(cfg *Config) { cfg.Advertise = true; c.change(cfg) })
		sent := r.sent()
		if len(sent) != 1 {
			t.Fatalf("%s: sent %d at the start", c.name, len(sent))
		}
		if d := cmp.Diff(c.want, sent[0], cmp.Comparer(func(a, b netip.Prefix) bool { return a == b })); d != "" {
			t.Errorf("%s (-want +sent):\n%s", c.name, d)
		}
	}
}

// TestSchedule: at the start three in quick succession, then between the two intervals (RFC 4861 6.2.4).
func TestSchedule(t *testing.T) {
	spec.Covers(t, "RFC6275-7.5")
	// Of a range the number 0x0707...07 >> 1 is some point: the same each time.
	r := newRig(t, constant(7), func(c *Config) { c.Advertise = true; c.MinInterval = 200 * time.Second })
	span := uniform(constant(7), 400*time.Second)
	wants := []time.Duration{0, 16 * time.Second, 32 * time.Second, 32*time.Second + 200*time.Second + span, 32*time.Second + 2*(200*time.Second+span)}
	begin := r.now.Boot
	for n, at := range wants {
		if n > 0 {
			r.pass(begin + at - r.now.Boot - 1)
			if len(r.sent()) != 0 {
				t.Fatalf("number %d is early", n)
			}
			r.pass(1)
		}
		if len(r.sent()) != 1 {
			t.Fatalf("number %d is not sent at %v", n, at)
		}
	}
	if off := newRig(t, constant(0)); len(off.sent()) != 0 {
		t.Error("sent without advertise")
	} else if _, ok := off.m.Deadline(); ok {
		t.Error("waits for something")
	}
}

// TestSolicited: an answer to all nodes after a random delay, no sooner than the least time after the last one, and one for many
// who ask (RFC 4861 6.2.6).
func TestSolicited(t *testing.T) {
	r := newRig(t, constant(7), func(c *Config) { c.Advertise = true })
	delay := uniform(constant(7), 500*time.Millisecond)
	r.sent()
	ask := func() {
		r.m.Frame(r.now, &access.Frame{Src: core.MAC{2, 0, 0, 0, 9, 9}, SrcIP: careOf, Body: &nd.RouterSolicitation{}})
	}
	exactly := func(after time.Duration) {
		t.Helper()
		r.pass(after - 1)
		if n := len(r.sent()); n != 0 {
			t.Fatalf("%d sent too early", n)
		}
		r.pass(1)
		if n := len(r.sent()); n != 1 {
			t.Fatalf("%d sent", n)
		}
	}
	r.pass(time.Second)
	for range 100 {
		ask()
	}
	exactly(2*time.Second + delay) // three seconds after the first one
	r.pass(5 * time.Second)
	ask()
	exactly(delay)
	// One that is due before will do.
	at, _ := r.m.Deadline()
	r.pass(at - r.now.Boot - time.Millisecond)
	ask()
	exactly(time.Millisecond)
	// Our own frames, and what others advertise, ask for nothing.
	at, _ = r.m.Deadline()
	r.m.Frame(r.now, &access.Frame{Src: mac, SrcIP: local, Body: &nd.RouterSolicitation{}})
	if again, _ := r.m.Deadline(); again != at {
		t.Error("heard ourselves")
	}
}

// TestAdvertisementEnd: the last one says that there is no router and no home agent, and takes no prefix back (RFC 4861 6.2.5).
func TestAdvertisementEnd(t *testing.T) {
	spec.Covers(t, "RFC6275-7.1", "RFC6275-7.4")
	r := newRig(t, constant(0), func(c *Config) { c.Advertise, c.Preference = true, 7 })
	r.pass(time.Minute)
	r.sent()
	r.m.End(r.now)
	sent := r.sent()
	if len(sent) != 1 {
		t.Fatalf("%d sent", len(sent))
	}
	want := &nd.RouterAdvertisement{CurHopLimit: 64, Options: nd.Options{
		nd.SourceLinkLayer(mac), nd.AdvertisementInterval(600000),
		&nd.PrefixInformation{Prefix: netip.PrefixFrom(own, 64), OnLink: true, Autonomous: true, RouterAddr: true, Valid: 2592000, Preferred: 604800},
	}}
	if d := cmp.Diff(want, sent[0], cmp.Comparer(func(a, b netip.Prefix) bool { return a == b })); d != "" {
		t.Error(d)
	}
	r.m.Retire(r.now, false)
	r.m.Frame(r.now, &access.Frame{Src: core.MAC{2, 0, 0, 0, 9, 9}, SrcIP: agentA, Body: &nd.RouterSolicitation{}})
	r.m.End(r.now)
	r.pass(time.Hour)
	if n := len(r.sent()); n != 0 {
		t.Errorf("%d more", n)
	}
	other := newRig(t, constant(0))
	other.heard(agentA, agent(addrA, 1800, 7))
	if got := other.heard(agentA, want); !slices.Equal(got, []string{"left"}) {
		t.Errorf("who hears it: %v", got)
	}
	quiet := newRig(t, constant(0))
	if quiet.m.End(quiet.now); len(quiet.sent()) != 0 {
		t.Error("who never advertised says something")
	}
}
