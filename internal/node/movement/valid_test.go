package movement

import (
	"net/netip"
	"testing"
	"time"
)

// TestValidUntil: the valid lifetime that the router told counts from when it was heard; of what no router told nothing is known.
func TestValidUntil(t *testing.T) {
	r := newRig(t, Config{})
	r.add(2, "eth0", false)
	n := newNet(1, "2001:db8:1::/64")
	r.carrier(2, n)
	r.run(3 * time.Second)
	list := r.m.CareOfs()
	if len(list) == 0 {
		t.Fatal("no care-of address")
	}
	var want time.Duration
	for _, p := range r.m.links[2].prefixes {
		want = p.valid
	}
	if got := r.m.ValidUntil(2, list[0].Addr); got != want || got <= r.now || got == never {
		t.Errorf("valid until %v, want %v", got, want)
	}
	for ifi, a := range map[int]netip.Addr{2: netip.MustParseAddr("2001:db8:1::dead"), 9: list[0].Addr} {
		if got := r.m.ValidUntil(ifi, a); got != never {
			t.Errorf("%v on link %d is valid until %v", a, ifi, got)
		}
	}
}
