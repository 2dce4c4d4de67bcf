package access

import (
	"net/netip"
	"testing"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"

	"kedge/internal/spec"
	"kedge/wire"
)

// Document 001 as it was written: each gateway is a DHCP server of its own.
func TestOwnServerIdentifier(t *testing.T) {
	spec.Covers(t, "S001-3.1-13", "S001-3.1-14", "S001-3.2.2-53", "S001-3.2.2-54", "S001-3.2.2-57")
	id1, id2, me := addr("10.20.0.2"), addr("10.20.0.3"), homeA.Addr()
	link := func(own netip.Addr) *rig {
		cfg := config()
		cfg.DHCP.OwnID, cfg.DHCP.Own = true, own
		return newRig(t, cfg)
	}
	one, two := link(id1), link(id2)
	g := Grant{IPv4: homeA, Router4: router4, Valid: 300 * time.Second}

	one.in(discover(macA))
	f, m := one.grant(macA, g).dhcp(offer)
	if option4(m, 54) != id1 || f.SrcIP != id1 || option4(m, 3) != router4 {
		t.Errorf("OFFER from %v: %v", f.SrcIP, m.Summary())
	}
	if _, m := one.in(selecting(macA, id1, me)).dhcp(ack); option4(m, 54) != id1 {
		t.Error(m.Summary())
	}
	if _, m := one.in(renewing(macA, id1, me)).did("Attached", "Renewed", "dhcp").dhcp(ack); option4(m, 54) != id1 {
		t.Error(m.Summary())
	}

	// The host moved and did not notice: it renews with the gateway that it left. Silence, no DHCPNAK.
	two.grant(macA, g)
	two.in(renewing(macA, id1, me)).did("Attached", "Refused").refused(wire.ForeignServer)
	two.in(selecting(macA, id1, me)).did("Attached", "Refused").refused(wire.ForeignServer)
	// After T2 it asks everybody, and has a server again.
	if _, m := two.in(rebinding(macA, me)).did("Attached", "Renewed", "dhcp").dhcp(ack); option4(m, 54) != id2 {
		t.Error(m.Summary())
	}
	two.in(renewing(macA, id2, me)).did("Attached", "Renewed", "dhcp")
	// A DHCPRELEASE frees the address whoever gave it (RFC 5844 3.4.3).
	two.in(dhcpOf(macA, dhcpv4.MessageTypeRelease, me, id1, me, nil)).did("Released")
}

// The same before the registration at the new gateway is done: what is for another server is not held either.
func TestOwnServerIdentifierBeforeGrant(t *testing.T) {
	cfg := config()
	cfg.DHCP.OwnID, cfg.DHCP.Own = true, addr("10.20.0.3")
	r := newRig(t, cfg)
	r.in(renewing(macA, addr("10.20.0.2"), homeA.Addr())).did("Attached", "Refused").refused(wire.ForeignServer)
	r.grant(macA, Grant{IPv4: homeA, Router4: router4, Valid: time.Minute}).did("arp")
	// Our own address is a station of the home subnet like the router.
	r.in(arp(macA, homeA.Addr(), cfg.DHCP.Own)).did("Attached", "arp")
	r.in(arp(macA, cfg.DHCP.Own, cfg.DHCP.Own)).refused(wire.RouterImpersonate)
}

// With the fixed identifier a renewal is answered by whichever gateway serves the host.
func TestFixedServerIdentifierAfterMove(t *testing.T) {
	for _, fixed := range []string{"", "192.0.2.67"} {
		cfg, id := config(), router4
		if fixed != "" {
			cfg.DHCP.Fixed, id = addr(fixed), addr(fixed)
		}
		one, two := newRig(t, cfg), newRig(t, cfg)
		g := Grant{IPv4: homeA, Router4: router4, Valid: 300 * time.Second}
		one.in(discover(macA))
		_, m := one.grant(macA, g).dhcp(offer)
		one.in(selecting(macA, option4(m, 54), homeA.Addr())).dhcp(ack)
		two.grant(macA, g)
		if _, m := two.in(renewing(macA, id, homeA.Addr())).dhcp(ack); option4(m, 54) != id {
			t.Error(m.Summary())
		}
	}
}
