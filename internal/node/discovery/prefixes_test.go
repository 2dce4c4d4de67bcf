package discovery

import (
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"
	"time"

	"kedge/internal/spec"
	"kedge/wire"
	"kedge/wire/nd"
)

var (
	hoa   = netip.MustParsePrefix("2001:db8:2000::5/64")
	old   = hoa.Masked()
	fresh = netip.MustParsePrefix("2001:db8:2001::/64")
	hoa2  = netip.MustParsePrefix("2001:db8:2001::5/64")
)

const forever = 1<<32 - 1

func info(p netip.Prefix, preferred, valid uint32) *nd.PrefixInformation {
	return &nd.PrefixInformation{Prefix: p, OnLink: true, Autonomous: true, Preferred: preferred, Valid: valid}
}

func prefixes() *Prefixes {
	return NewPrefixes(hoa, func(p netip.Prefix) bool { return p == old || p == fresh }, rand.NewChaCha8([32]byte{2}))
}

// advertise asks and has it answered.
func advertise(t *testing.T, p *Prefixes, now time.Duration, os ...nd.Option) {
	t.Helper()
	p.Ask(now)
	id, ok := p.Due(now+InitialSolicit, true)
	if !ok {
		t.Fatal("nothing is due")
	}
	if r := p.Advertised(now, &nd.MobilePrefixAdvertisement{ID: id, Options: os}, true); r != "" {
		t.Fatal(r)
	}
}

// TestSolicitSchedule: 3 s, doubled, the same identifier; five in all, then only when there is a reason again.
func TestSolicitSchedule(t *testing.T) {
	spec.Covers(t, "RFC6275-11.4.2")
	p := prefixes()
	p.Ask(sec)
	p.Ask(sec)
	var at []time.Duration
	ids := map[uint16]bool{}
	for now := sec; now < 1000*sec; now += sec {
		if id, ok := p.Due(now, true); ok {
			at, ids[id] = append(at, now), true
		}
	}
	if !slices.Equal(at, []time.Duration{1 * sec, 4 * sec, 10 * sec, 22 * sec, 46 * sec}) || len(ids) != 1 {
		t.Errorf("at %v with %d identifiers", at, len(ids))
	}
	p.Ask(1000 * sec)
	if id, ok := p.Due(1000*sec, true); !ok || ids[id] {
		t.Errorf("again: %v, %v", id, ok)
	}
}

// TestSolicitInTime: before the preferred lifetime is over, then before the valid one; at a time that is not everybody's.
func TestSolicitInTime(t *testing.T) {
	spec.Covers(t, "RFC6275-11.4.2")
	times := map[time.Duration]bool{}
	for seed := range byte(20) {
		p := NewPrefixes(hoa, func(netip.Prefix) bool { return true }, rand.NewChaCha8([32]byte{seed}))
		if p.Deadline(true) != never {
			t.Fatal("asks without a reason")
		}
		advertise(t, p, 0, info(old, 1000, 4000))
		at := p.Deadline(true)
		times[at] = true
		if at < 800*sec || at > 900*sec {
			t.Errorf("asks at %v", at)
		}
		if p.Deadline(false) != 1000*sec {
			t.Errorf("the lifetime ends at %v", p.Deadline(false))
		}
		if _, ok := p.Due(at, true); !ok {
			t.Error("does not ask")
		}
		for now := at; now < 1000*sec; now += sec { // unanswered
			p.Due(now, true)
		}
		if !p.Changed(1000 * sec) {
			t.Error("the end of the preferred lifetime is not told")
		}
		if p.Changed(1000 * sec) {
			t.Error("told twice")
		}
	}
	if len(times) < 10 {
		t.Errorf("%d nodes ask at %d times", 20, len(times))
	}
}

// TestAdvertisements: which answer the solicitation.
func TestAdvertisements(t *testing.T) {
	spec.Covers(t, "RFC6275-11.4.3")
	p := prefixes()
	if r := p.Advertised(0, &nd.MobilePrefixAdvertisement{Options: nd.Options{info(old, 0, 0)}}, true); r != wire.Unsolicited {
		t.Errorf("unsolicited: %q", r)
	}
	id, ok := p.Due(0, true) // it is the reason for a solicitation
	if !ok {
		t.Fatal("not asked")
	}
	for other := range uint16(1000) {
		if other != id {
			p.Advertised(0, &nd.MobilePrefixAdvertisement{ID: other, Options: nd.Options{info(old, 0, 0)}}, true)
		}
	}
	if h, _ := p.Find(hoa.Addr()); h.Valid != Forever {
		t.Errorf("%+v", h)
	}
	if p.Deadline(true) != InitialSolicit {
		t.Errorf("a flood makes it ask at %v", p.Deadline(true))
	}
	if r := p.Advertised(sec, &nd.MobilePrefixAdvertisement{ID: id, Options: nd.Options{info(old, 100, 200)}}, true); r != "" {
		t.Error(r)
	}
	if h, _ := p.Find(hoa.Addr()); h.Preferred != 101*sec || h.Valid != 201*sec {
		t.Errorf("%+v", h)
	}
	if r := p.Advertised(sec, &nd.MobilePrefixAdvertisement{ID: id, Options: nd.Options{info(old, 0, 0)}}, true); r != wire.Unsolicited {
		t.Errorf("a repetition: %q", r) // "no other advertisement has yet been received for this value"
	}
	asked := 0
	for now := sec; now < 61*sec; now += 100 * time.Millisecond {
		p.Advertised(now, &nd.MobilePrefixAdvertisement{ID: id + 1}, true)
		if _, ok := p.Due(now, true); ok {
			asked++
		}
	}
	if asked > 6 {
		t.Errorf("a flood of a minute is answered %d times", asked)
	}
}

// TestLifetimes: what advertisements do to home addresses.
func TestLifetimes(t *testing.T) {
	spec.Covers(t, "RFC6275-11.4.3")
	for _, c := range []struct {
		name    string
		options nd.Options
		best    netip.Prefix
		homes   int
		valid   time.Duration // of the old one
	}{
		{"refreshed", nd.Options{info(old, 100, 200)}, hoa, 1, 200 * sec},
		{"for ever", nd.Options{info(old, forever, forever)}, hoa, 1, Forever},
		{"another one beside it", nd.Options{info(old, 100, 200), info(fresh, 100, 200)}, hoa, 1, 200 * sec},
		{"deprecated", nd.Options{info(old, 0, 200), info(fresh, 100, 200)}, hoa2, 2, 200 * sec},
		{"deprecated, the other way round", nd.Options{info(fresh, 100, 200), info(old, 0, 200)}, hoa2, 2, 200 * sec},
		{"deprecated without another one", nd.Options{info(old, 0, 200)}, hoa, 1, 200 * sec},
		{"gone", nd.Options{info(fresh, 100, 200)}, hoa2, 2, twoHours},
		{"nothing at all", nil, hoa, 1, twoHours},
		{"another one that is deprecated", nd.Options{info(old, 0, 200), info(fresh, 0, 200)}, hoa, 1, 200 * sec},
		{"another one that is not for addresses", nd.Options{info(old, 0, 200), &nd.PrefixInformation{Prefix: fresh, Preferred: 100, Valid: 200}}, hoa, 1, 200 * sec},
		{"one that is not allowed", nd.Options{info(old, 0, 200), info(netip.MustParsePrefix("2001:db8:666::/64"), 100, 200)}, hoa, 1, 200 * sec},
		{"another length", nd.Options{info(old, 0, 200), info(netip.MustParsePrefix("2001:db8:2001::/56"), 100, 200)}, hoa, 1, 200 * sec},
		{"longer preferred than valid", nd.Options{info(old, 300, 200)}, hoa, 1, Forever},
		{"link-local", nd.Options{info(old, 0, 200), info(netip.MustParsePrefix("fe80::/64"), 100, 200)}, hoa, 1, 200 * sec},
		{"with the router's address", nd.Options{&nd.PrefixInformation{Prefix: netip.MustParsePrefix("2001:db8:2000::1/64"), OnLink: true, Autonomous: true, RouterAddr: true, Preferred: 100, Valid: 200}}, hoa, 1, 200 * sec},
		{"twice", nd.Options{info(old, 100, 200), info(old, 0, 0)}, hoa, 1, 200 * sec},
		{"not valid any more", nd.Options{info(old, 0, 0), info(fresh, 100, 200)}, hoa2, 2, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := prefixes()
			advertise(t, p, 0, c.options...)
			best, _ := p.Best(0)
			h, _ := p.Find(hoa.Addr())
			if best.Prefix != c.best && c.valid > 0 || len(p.Homes()) != c.homes || h.Valid != c.valid {
				t.Errorf("%v of %+v", best, p.Homes())
			}
		})
	}
}

// TestUnprotected: nobody who cannot show that he is the home agent ends a home address within two hours.
func TestUnprotected(t *testing.T) {
	p := prefixes()
	p.Ask(0)
	id, _ := p.Due(0, true)
	p.Advertised(0, &nd.MobilePrefixAdvertisement{ID: id, Options: nd.Options{info(old, 0, 0)}}, false)
	if h, _ := p.Find(hoa.Addr()); h.Valid != twoHours {
		t.Errorf("%+v", h)
	}
}

// TestLengths: the interface identifier stays where prefixes do not end on an octet.
func TestLengths(t *testing.T) {
	p := NewPrefixes(netip.MustParsePrefix("2001:db8:0:12::abcd/60"), func(netip.Prefix) bool { return true }, rand.NewChaCha8([32]byte{}))
	advertise(t, p, 0, info(netip.MustParsePrefix("2001:db8:0:f0::/60"), 10, 20))
	if best, _ := p.Best(0); best.Prefix != netip.MustParsePrefix("2001:db8:0:f2::abcd/60") {
		t.Errorf("%v", best)
	}
}

// TestManyRenumberings: however often it happens, few addresses are there at a time.
func TestManyRenumberings(t *testing.T) {
	p := NewPrefixes(hoa, func(netip.Prefix) bool { return true }, rand.NewChaCha8([32]byte{}))
	now := time.Duration(0)
	for i := range 50 {
		now += time.Minute
		a := old.Addr().As16()
		a[5] = byte(i + 1)
		advertise(t, p, now, info(netip.PrefixFrom(netip.AddrFrom16(a), 64), 1000, 2000))
		if n := len(p.Homes()); n > MaxHomes {
			t.Fatalf("%d home addresses", n)
		}
		p.Expire(now)
	}
	if gone := p.Expire(now + 3*time.Hour); len(gone) == 0 {
		t.Error("none ends")
	}
	if _, ok := p.Best(now + 3*time.Hour); ok {
		t.Errorf("left: %+v", p.Homes())
	}
}

// TestLongLifetimes: the longest lifetime that ends, 136 years, is no reason to ask at once, and again and again.
func TestLongLifetimes(t *testing.T) {
	for _, preferred := range []uint32{forever - 1, 2_000_000_000, 400_000_000} {
		p := prefixes()
		now := 1000 * sec
		advertise(t, p, now, info(old, preferred, forever-1))
		left := time.Duration(preferred) * sec
		if at := p.Deadline(true) - now; at < left/10*8 || at > left/10*9 {
			t.Errorf("lifetime %v: asks after %v", left, at)
		}
	}
}
