package access

import (
	"net/netip"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"kedge/wire"
	"kedge/wire/ether"
)

// RFC 5844 3.2.4: the whole home subnet but the host's own address, always with the router's MAC.
func TestProxyARP(t *testing.T) {
	r := newRig(t, config())
	r.grant(macA, dualStack())
	r.grant(macB, Grant{IPv4: homeB, Router4: router4, Valid: time.Minute})
	me := homeA.Addr()
	for _, c := range []struct {
		name        string
		src, target netip.Addr
		answered    bool
	}{
		{"default router", me, router4, true},
		{"another host of the link", me, homeB.Addr(), true},
		{"a host elsewhere", me, addr("10.20.0.200"), true},
		{"itself", me, me, false},
		{"network address", me, addr("10.20.0.0"), false},
		{"broadcast address", me, addr("10.20.0.255"), false},
		{"another subnet", me, addr("10.20.1.1"), false},
		{"probe of its own address", none4, me, false},
		{"probe of another address", none4, addr("10.20.0.200"), false},
		{"probe of 0.0.0.0", none4, none4, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			r.t = t
			res := r.in(arp(macA, c.src, c.target))
			if !c.answered {
				res.did("Attached")
				return
			}
			f := res.did("Attached", "arp").only()
			want := &ether.ARP{Op: ether.ARPReply, SenderHW: routerMAC, SenderIP: c.target, TargetHW: macA, TargetIP: me}
			if d := cmp.Diff(want, f.Body, cmpopts.EquateComparable(netip.Addr{})); d != "" || f.Dst != macA {
				t.Error(d, f.Dst)
			}
		})
	}
	r.t = t
	// A host that tests whether it may have the router's address is told that it may not (RFC 5227 2.4).
	res := r.in(arp(macA, none4, router4)).did("Attached", "Refused", "arp").refused(wire.RouterImpersonate)
	if a := res.only().Body.(*ether.ARP); a.SenderIP != router4 || a.TargetIP != none4 {
		t.Errorf("%+v", a)
	}
}

func TestARPForSmallSubnets(t *testing.T) {
	r := newRig(t, config())
	me := addr("10.20.0.10")
	r.grant(macA, Grant{IPv4: netip.PrefixFrom(me, 31), Router4: addr("10.20.0.11"), Valid: time.Minute})
	r.in(arp(macA, me, addr("10.20.0.11"))).did("Attached", "arp")
	// A single address: the router is outside of the subnet, and still ours.
	r.grant(macA, Grant{IPv4: netip.PrefixFrom(me, 32), Router4: router4, Valid: time.Minute})
	r.in(arp(macA, me, router4)).did("Attached", "arp")
	r.in(arp(macA, me, addr("10.20.0.11"))).did("Attached")
}

// Right after a move the host asks for its router before the registration is done: it is answered with the grant.
func TestARPHeldUntilGrant(t *testing.T) {
	r := newRig(t, config())
	r.in(arp(macA, homeA.Addr(), router4)).did("Attached")
	r.after(200 * time.Millisecond)
	r.grant(macA, dualStack()).did("ra", "arp") // once
	// The last request counts; one that got old, or that came from an address that is not the host's, is dropped.
	r.in(arp(macB, homeB.Addr(), router4))
	r.in(arp(macB, homeB.Addr(), addr("10.20.0.77")))
	g := Grant{IPv4: homeB, Router4: router4, Valid: time.Minute}
	res := r.grant(macB, g).did("arp", "arp")
	if a := res.frames[0].Body.(*ether.ARP); a.SenderIP != addr("10.20.0.77") {
		t.Errorf("answered for %v", a.SenderIP)
	}
	r.grant(macB, Grant{})
	other := g
	other.Router4 = addr("10.20.0.2")
	r.in(arp(macB, homeB.Addr(), addr("10.20.0.77")))
	r.after(5*time.Second + 1)
	r.grant(macB, other).toldRouter(homeB.Addr(), other.Router4)
	r.grant(macB, Grant{})
	r.in(arp(macB, addr("10.20.0.99"), addr("10.20.0.77")))
	r.grant(macB, g).toldRouter(homeB.Addr(), router4)
}

// The request of a host may get lost while its link comes up: the router's MAC is told with each grant, unasked, to the
// host alone.
func TestGrantTellsRouter(t *testing.T) {
	me := homeA.Addr()
	g := Grant{IPv4: homeA, Router4: router4, Valid: time.Minute}
	r := newRig(t, config())
	r.grant(macA, g).toldRouter(me, router4)
	r.grant(macA, g).toldRouter(me, router4) // a host that came back within its binding has an empty table too
	r.grant(macA, Grant{}).silent()
	// A single address has its router outside of its subnet.
	g.IPv4 = netip.PrefixFrom(me, 32)
	r.grant(macA, g).toldRouter(me, router4)
	// No router from the anchor: what DHCP gives as one, or nothing.
	g = Grant{IPv4: homeA, Valid: time.Minute}
	newRig(t, config()).grant(macA, g).silent()
	cfg := config()
	cfg.DHCP.Fixed = addr("10.20.0.9")
	newRig(t, cfg).grant(macA, g).toldRouter(me, addr("10.20.0.9"))
	g.Router4 = me // a host is not its own router
	newRig(t, cfg).grant(macA, g).silent()
	newRig(t, config()).grant(macA, Grant{Prefixes: []netip.Prefix{prefixA}, Valid: time.Minute}).did("ra")
}

func TestARPFromWrongAddress(t *testing.T) {
	r := newRig(t, config())
	r.grant(macA, dualStack())
	r.in(arp(macA, addr("10.20.0.99"), router4)).did("Attached", "Refused").refused(wire.WrongAddress)
	r.in(arp(macA, addr("192.168.1.5"), router4)).silent().refused(wire.WrongAddress)
	// Another host of the link has it: refused whether or not the forger has an address of its own.
	res := r.in(arp(macB, homeA.Addr(), homeA.Addr())).silent().refused(wire.AddressClaimed)
	if a := res.attached(); a.Addr.IsValid() {
		t.Errorf("the stolen address is passed on: %+v", a)
	}
}
