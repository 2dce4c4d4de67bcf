package movement

import (
	"testing"
	"time"
)

// TestHomeLinkChangesUnderneath: after a flap of the carrier another router answers on the link. The node is not at home there,
// although nobody has yet given the home router up.
func TestHomeLinkChangesUnderneath(t *testing.T) {
	r := newRig(t, homeConfig)
	r.add(2, "eth0", false)
	r.carrier(2, newNet(1, "2001:db8:1::/64"))
	r.run(3 * time.Second)
	if _, is := r.m.AtHome(); !is {
		t.Fatal("not at home")
	}
	r.carrier(2, nil)
	r.carrier(2, newNet(2, "2001:db8:2::/64"))
	homeward := false
	for range 30 {
		r.run(100 * time.Millisecond)
		for _, c := range r.m.CareOfs() {
			if _, is := r.m.AtHome(); is || c.Home {
				homeward = true
			}
		}
	}
	if homeward {
		t.Error("the other network was taken for the home link")
	}
	r.want("eth0 2001:db8:2::/64")
	r.carrier(2, nil)
	r.carrier(2, newNet(1, "2001:db8:1::/64"))
	r.run(3 * time.Second)
	if _, is := r.m.AtHome(); !is {
		t.Error("not at home again")
	}
}
