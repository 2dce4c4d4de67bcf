package homelist

import (
	"net/netip"
	"testing"
	"time"

	"kedge/internal/spec"
	"kedge/wire/nd"
)

// telling is a home agent's advertisement of one prefix.
func telling(p netip.Prefix, valid, preferred uint32) *nd.RouterAdvertisement {
	return &nd.RouterAdvertisement{HomeAgent: true, RouterLifetime: 9000, Options: nd.Options{
		&nd.PrefixInformation{Prefix: p, OnLink: true, Autonomous: true, Valid: valid, Preferred: preferred}}}
}

func (r *rig) lifetimes(a netip.Addr) (valid, preferred time.Duration) {
	r.t.Helper()
	valid, preferred, ok := r.m.Lifetimes(r.now, a)
	if !ok {
		r.t.Fatalf("nothing is known of %v", a)
	}
	return valid, preferred
}

// TestPrefixes: of what home agents advertise a change is told, and the passing of time is none (RFC 6275 10.6.1, 10.6.2).
func TestPrefixes(t *testing.T) {
	spec.Covers(t, "RFC6275-10.6.1")
	r := newRig(t, constant(0), func(c *Config) { c.Prefixes = nil })
	away := netip.MustParseAddr("2001:db8:2::10")
	want(t, "of no home agent", r.heard(agentA, &nd.RouterAdvertisement{RouterLifetime: 9000, Options: telling(second, 9000, 900).Options}), nil)
	want(t, "the first", r.heard(agentA, telling(second, 90000, 9000)), []string{"new", "prefix-new"})
	want(t, "the same", r.heard(agentA, telling(second, 90000, 9000)), nil)
	r.now.Boot += 1000 * time.Second
	want(t, "the same later", r.heard(agentA, telling(second, 90000, 9000)), nil)
	r.now.Boot += 1000 * time.Second
	want(t, "counted down", r.heard(agentA, telling(second, 89000, 8000)), nil)
	want(t, "deprecated", r.heard(agentA, telling(second, 89000, 0)), []string{"prefix-changed"})
	if v, p := r.lifetimes(away); v != 89000*time.Second || p != 0 {
		t.Errorf("valid %v, preferred %v", v, p)
	}
	want(t, "preferred again", r.heard(agentA, telling(second, 89000, 8000)), []string{"prefix-changed"})
	flags := telling(second, 89000, 8000)
	flags.Options[0].(*nd.PrefixInformation).Autonomous = false
	want(t, "another flag", r.heard(agentA, flags), []string{"prefix-changed"})
	for name, ra := range map[string]*nd.RouterAdvertisement{
		"link-local":           telling(netip.MustParsePrefix("fe80::/64"), 9000, 900),
		"multicast":            telling(netip.MustParsePrefix("ff05::/64"), 9000, 900),
		"preferred over valid": telling(link, 900, 9000),
		"already over":         telling(link, 0, 0),
		"of length 0":          telling(netip.MustParsePrefix("::/0"), 900, 90),
	} {
		want(t, name, r.heard(agentA, ra), nil)
	}
}

// TestForgedLifetimes: who is not authenticated leaves a prefix two hours at least, and these only once (RFC 4862 5.5.3 e).
func TestForgedLifetimes(t *testing.T) {
	r := newRig(t, constant(0), func(c *Config) { c.Prefixes = nil })
	a := netip.MustParseAddr("2001:db8:2::10")
	r.heard(agentA, telling(second, 2592000, 604800))
	want(t, "withdrawn by who told it", r.heard(agentA, telling(second, 0, 0)), []string{"prefix-changed"})
	if v, p := r.lifetimes(a); v != 2*time.Hour || p != 0 {
		t.Errorf("valid %v, preferred %v", v, p)
	}
	r.now.Boot += time.Hour
	r.heard(agentA, telling(second, 0, 0))
	if v, _ := r.lifetimes(a); v != time.Hour {
		t.Errorf("valid %v: each withdrawal makes it longer", v)
	}
	// Another one who withdraws it does not end what a router advertises.
	r.heard(agentA, telling(second, 2592000, 604800))
	r.heard(agentB, telling(second, 0, 0))
	if v, p := r.lifetimes(a); v != 720*time.Hour || p != 168*time.Hour {
		t.Errorf("valid %v, preferred %v", v, p)
	}
}

// TestOwnPrefixes: the config counts, whatever is heard; so does what the anchor itself advertises, beside others; the prefix of
// an interface that it does not advertise on is as routers say.
func TestOwnPrefixes(t *testing.T) {
	for _, c := range []struct {
		name      string
		explicit  bool
		advertise bool
		want      time.Duration // preferred, after another one has deprecated it
	}{{"of the config", true, false, DefaultPreferred}, {"advertised", false, true, DefaultPreferred}, {"of the interface", false, false, 0}} {
		r := newRig(t, constant(0), func(cfg *Config) { cfg.Advertise, cfg.Prefixes[0].Explicit = c.advertise, c.explicit })
		if v, p := r.lifetimes(home); v != DefaultValid || p != DefaultPreferred {
			t.Errorf("%s: valid %v, preferred %v at the start", c.name, v, p)
		}
		news := r.heard(agentA, telling(link, 2592000, 0))
		if _, p := r.lifetimes(home); p != c.want {
			t.Errorf("%s: preferred %v, want %v", c.name, p, c.want)
		}
		if changed := len(news) == 2; changed != (c.want == 0) {
			t.Errorf("%s: news %q", c.name, news)
		}
	}
	r := newRig(t, constant(0), func(c *Config) {
		c.Prefixes = []Prefix{{Prefix: link, Valid: Forever, Preferred: Forever, Explicit: true}}
	})
	if v, p := r.lifetimes(home); v != Forever || p != Forever {
		t.Errorf("valid %v, preferred %v", v, p)
	}
}

// TestPrefixOutlivesItsRouter: a router that is gone takes no prefix with it before the time that it told; then it is gone.
func TestPrefixOutlivesItsRouter(t *testing.T) {
	r := newRig(t, constant(0), func(c *Config) { c.Prefixes = nil })
	ra := telling(second, 20000, 9000)
	ra.RouterLifetime = 100
	r.heard(agentA, ra)
	r.pass(100 * time.Second)
	want(t, "the router is gone", r.taken(), []string{"expired"})
	r.pass(19900*time.Second - 1)
	want(t, "just before the end", r.taken(), nil)
	r.pass(1)
	want(t, "the end", r.taken(), []string{"prefix-gone"})
	if _, _, ok := r.m.Lifetimes(r.now, netip.MustParseAddr("2001:db8:2::1")); ok {
		t.Error("still known")
	}
	if _, ok := r.m.Deadline(); ok {
		t.Error("waits for something")
	}
}

// TestAdvertisementToNode is RFC 6275 6.8 and 10.6.3: all prefixes, that of the home address first, with our address in it.
func TestAdvertisementToNode(t *testing.T) {
	spec.Covers(t, "RFC6275-6.8", "RFC6275-10.6.3")
	r := newRig(t, constant(0))
	ra := telling(netip.MustParsePrefix("2001:db8:0:5::/64"), 50000, 40000)
	ra.Other = true
	r.heard(agentA, ra)
	r.now.Boot += 1000 * time.Second
	a := r.m.Advertisement(r.now, netip.PrefixFrom(home, 64), 0xbeef)
	b, err := nd.Append(nil, a, own, home)
	if err != nil {
		t.Fatal(err)
	}
	back, err := nd.Parse(b, nd.Envelope{Src: own, Dst: home})
	if err != nil {
		t.Fatal(err)
	}
	got := back.(*nd.MobilePrefixAdvertisement)
	if got.ID != 0xbeef || got.Managed || !got.Other || len(got.Options) != 2 {
		t.Fatalf("%+v", got)
	}
	first, other := got.Options[0].(*nd.PrefixInformation), got.Options[1].(*nd.PrefixInformation)
	if first.Prefix != netip.PrefixFrom(own, 64) || !first.RouterAddr || first.Valid != 2592000 || first.Preferred != 604800 {
		t.Errorf("%+v", first)
	}
	if other.Prefix.Masked().String() != "2001:db8:0:5::/64" || other.RouterAddr || other.Valid != 49000 || other.Preferred != 39000 {
		t.Errorf("%+v", other)
	}
	// Of a home prefix that nobody advertises the node is told all the same.
	a = r.m.Advertisement(r.now, netip.MustParsePrefix("2001:db8:77::10/64"), 1)
	if p := a.Options[0].(*nd.PrefixInformation); len(a.Options) != 3 || p.Prefix.String() != "2001:db8:77::/64" || p.Valid == 0 {
		t.Errorf("%+v", a.Options)
	}
}
