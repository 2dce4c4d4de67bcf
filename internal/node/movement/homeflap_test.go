package movement

import (
	"net/netip"
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

// TestHomeLinkBecomesIPv4: the network behind the carrier that comes back has no IPv6 router, so that nobody contradicts the
// home router's old advertisement. Its silence does, and before that an IPv4 router that is another machine.
func TestHomeLinkBecomesIPv4(t *testing.T) {
	for _, dhcp := range []time.Duration{50 * time.Millisecond, 3 * time.Second} {
		r := newRig(t, homeConfig)
		r.add(2, "eth0", false)
		r.carrier(2, newNet(1, "2001:db8:1::/64"))
		r.run(3 * time.Second)
		if _, is := r.m.AtHome(); !is {
			t.Fatal("not at home")
		}
		n := newNet(2)
		n.routers[0].ra = nil
		n.routers[0].v4 = netip.MustParseAddr("192.168.1.1")
		r.carrier(2, nil)
		r.carrier(2, n)
		r.run(dhcp)
		r.dhcp(2, "192.168.1.77/24", "192.168.1.1")
		r.run(100 * time.Millisecond)
		for _, c := range r.m.CareOfs() {
			if c.Addr.Is4() && c.Home {
				t.Errorf("DHCP after %v: %+v", dhcp, c)
			}
		}
		r.run(2 * time.Second)
		if at, is := r.m.AtHome(); is {
			t.Errorf("DHCP after %v: still at home: %+v", dhcp, at)
		}
		r.want("eth0 192.168.1.0/24")
		r.carrier(2, nil)
		r.undhcp(2, "192.168.1.77/24", "192.168.1.1")
		r.carrier(2, newNet(1, "2001:db8:1::/64"))
		r.run(3 * time.Second)
		if _, is := r.m.AtHome(); !is {
			t.Errorf("DHCP after %v: not at home again", dhcp)
		}
	}
}

// TestAtHomeByIPv6: whatever else is on the home link, what the node is told of it serves a deregistration, which is IPv6.
func TestAtHomeByIPv6(t *testing.T) {
	r := newRig(t, homeConfig)
	n := newNet(1)
	n.routers[0].v4 = netip.MustParseAddr("203.0.113.1")
	r.add(2, "eth0", false)
	r.carrier(2, n)
	r.dhcp(2, "203.0.113.77/24", "203.0.113.1")
	r.run(time.Second)
	p := pi("2001:db8:1::/64", 100, 50)
	p.Autonomous = false
	n.routers[0].ra.Options = append(n.routers[0].ra.Options, p)
	n.routers[0].advertise(r, n, 2, nil)
	r.run(time.Second)
	if at, is := r.m.AtHome(); !is || at.Router.String() != "fe80::1" {
		t.Errorf("at home %v: %+v", is, at)
	}
}
