package pool

import (
	"errors"
	"net/netip"
	"strings"
	"testing"
	"time"

	"kedge/internal/core"
)

// TestSettle: the home network of nodes is nobody's home network prefix, and may have many nodes.
func TestSettle(t *testing.T) {
	p, err := New(Config{Name: "p", Prefix: netip.MustParsePrefix("2001:db8::/62")}) // four /64
	if err != nil {
		t.Fatal(err)
	}
	unit := netip.MustParsePrefix("2001:db8:0:1::/64")
	own := netip.MustParsePrefix("2001:db8:0:2::/64")
	if err := p.Reserve(own, "a"); err != nil {
		t.Fatal(err)
	}
	for _, s := range []struct {
		a, owner string
		want     error
	}{
		{"2001:db8:0:1::10", "a", nil}, {"2001:db8:0:1::11", "b", nil}, {"2001:db8:0:2::10", "a", nil},
		{"2001:db8:0:2::11", "b", ErrReserved}, {"2001:db9::1", "a", ErrOutside},
	} {
		if err := p.Settle(netip.MustParseAddr(s.a), s.owner); !errors.Is(err, s.want) {
			t.Errorf("%s of %s: %v, want %v", s.a, s.owner, err, s.want)
		}
	}
	if err := p.Take(core.Now{}, unit, "a"); !errors.Is(err, ErrReserved) {
		t.Errorf("a home network is taken: %v", err)
	}
	if err := p.Take(core.Now{}, own, "a"); err != nil {
		t.Errorf("his own prefix, in which he has his home address: %v", err)
	}
	for range 2 {
		if u, err := p.Allocate(core.Now{}, p.Range(), "z"); err != nil || u == unit || u == own {
			t.Errorf("allocated %v, %v", u, err)
		}
	}
	if u, err := p.Allocate(core.Now{}, p.Range(), "z"); !errors.Is(err, ErrExhausted) {
		t.Errorf("allocated %v, %v", u, err)
	}
}

// TestReclaim: only what is his already: reserved, resting, or free since he had it.
func TestReclaim(t *testing.T) {
	p, err := New(Config{Name: "p", Prefix: netip.MustParsePrefix("10.0.0.0/28"), Lease: time.Minute})
	if err != nil {
		t.Fatal(err)
	}
	if p.Lease() != time.Minute {
		t.Error("lease")
	}
	unit := func(s string) netip.Prefix { return netip.PrefixFrom(netip.MustParseAddr(s), 32) }
	now := core.Now{Boot: time.Hour}
	if err := p.Reserve(unit("10.0.0.9"), "a"); err != nil {
		t.Fatal(err)
	}
	got, err := p.Allocate(now, p.Range(), "z")
	if err != nil {
		t.Fatal(err)
	}
	check := func(s netip.Prefix, owner string, want error) {
		t.Helper()
		if err := p.Reclaim(now, s, owner); !errors.Is(err, want) {
			t.Errorf("%s for %s: %v, want %v", s, owner, err, want)
		}
	}
	check(unit("10.0.0.9"), "b", ErrReserved)
	check(unit("10.0.0.9"), "a", nil)
	check(unit("10.0.0.9"), "a", ErrTaken) // in use
	check(unit("10.0.0.5"), "a", ErrFree)
	check(unit("10.0.1.5"), "a", ErrOutside)
	check(got, "a", ErrTaken)
	p.Release(now, got, "a", 10*time.Second)
	check(got, "b", ErrTaken)
	check(got, "a", nil)
	check(got, "a", ErrTaken)
	p.Release(now, got, "a", 10*time.Second)
	now.Boot += 10 * time.Second
	check(got, "b", ErrFree) // free again, but another was the last
	check(got, "a", nil)
}

// TestExclude: a mobile network in a pool is not handed out.
func TestExclude(t *testing.T) {
	p, err := New(Config{Name: "p", Prefix: netip.MustParsePrefix("10.0.0.0/28")})
	if err != nil {
		t.Fatal(err)
	}
	if err := p.Exclude(netip.MustParsePrefix("10.0.0.8/29")); err != nil {
		t.Fatal(err)
	}
	if _, free := p.Used(core.Now{}); free != 6 { // 2 to 7
		t.Errorf("%d are free", free)
	}
	if err := p.Exclude(netip.MustParsePrefix("10.0.0.0/24")); !errors.Is(err, ErrOutside) {
		t.Errorf("%v", err)
	}
	big, err := New(Config{Name: "big", Prefix: netip.MustParsePrefix("2001:db8::/32")})
	if err != nil {
		t.Fatal(err)
	}
	if err := big.Exclude(netip.MustParsePrefix("2001:db8::/33")); err == nil || !strings.Contains(err.Error(), "smaller") {
		t.Errorf("%v", err)
	}
}

func TestLeaseConfig(t *testing.T) {
	for want, c := range map[string]Config{
		"shorter than 4s": {Name: "p", Prefix: netip.MustParsePrefix("10.0.0.0/28"), Lease: 3 * time.Second},
		"for IPv4 pools":  {Name: "p", Prefix: netip.MustParsePrefix("2001:db8::/48"), Lease: time.Minute},
	} {
		if _, err := New(c); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %q", err, want)
		}
	}
}
