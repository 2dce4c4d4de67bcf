package access

import (
	"bytes"
	"net/netip"
	"testing"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"github.com/insomniacslk/dhcp/iana"

	"kedge/internal/core"
	"kedge/internal/spec"
	"kedge/wire"
)

const (
	offer = dhcpv4.MessageTypeOffer
	ack   = dhcpv4.MessageTypeAck
	nak   = dhcpv4.MessageTypeNak
)

func offerOf(mac core.MAC) *dhcpv4.DHCPv4 {
	zero := []byte{0, 0, 0, 0}
	return &dhcpv4.DHCPv4{
		OpCode: dhcpv4.OpcodeBootReply, HWType: iana.HWTypeEthernet, ClientHWAddr: mac[:],
		ClientIPAddr: zero, YourIPAddr: zero, ServerIPAddr: zero, GatewayIPAddr: zero, Options: dhcpv4.Options{53: {byte(offer)}},
	}
}

// granted is a link on which host A has its address and host B another of the same subnet.
func granted(t testing.TB, cfg LinkConfig) *rig {
	r := newRig(t, cfg)
	r.grant(macA, Grant{IPv4: homeA, Router4: router4, Valid: 300 * time.Second})
	r.grant(macB, Grant{IPv4: homeB, Router4: router4, Valid: 300 * time.Second})
	return r
}

// The first attachment as in figure 2 of document 001, steps 1 and 5 to 7.
func TestDiscoverOfferRequestAck(t *testing.T) {
	spec.Covers(t, "S001-3.1-11", "S001-3.1-16", "S001-3.1-20", "S001-3.1-21")
	r := newRig(t, config())
	res := r.in(discover(macA)).did("Attached") // no OFFER before the grant
	if a := res.attached(); a != (Attached{MAC: macA, By: "dhcp", Wants: V4, Arriving: true}) {
		t.Errorf("%+v", a)
	}
	r.after(80 * time.Millisecond)
	g := Grant{IPv4: homeA, Router4: router4, Valid: 300 * time.Second}
	f, m := r.grant(macA, g).dhcp(offer)
	if f.Dst != macA || f.SrcIP != router4 || f.DstIP != homeA.Addr() || addr4(m.YourIPAddr) != homeA.Addr() ||
		m.TransactionID != (dhcpv4.TransactionID{1, 2, 3, 0xa}) || !bytes.Equal(m.ClientHWAddr, macA[:]) {
		t.Errorf("%v %v %v: %v", f.Dst, f.SrcIP, f.DstIP, m.Summary())
	}
	res = r.in(selecting(macA, option4(m, 54), addr4(m.YourIPAddr))).did("Attached", "dhcp")
	_, m = res.dhcp(ack)
	if addr4(m.YourIPAddr) != homeA.Addr() || option4(m, 54) != router4 || m.TransactionID != (dhcpv4.TransactionID{1, 2, 3, 0xa}) {
		t.Error(m.Summary())
	}
	if a := res.attached(); a.Hint != homeA.Addr() || a.Wants != V4 {
		t.Errorf("%+v", a)
	}
}

// Every option of the reply, as the grant and the configuration say.
func TestReplyOptions(t *testing.T) {
	r := granted(t, config())
	_, m := r.in(discover(macA)).dhcp(offer)
	want := dhcpv4.Options{
		1: {255, 255, 255, 0}, 3: {10, 20, 0, 1}, 6: {10, 20, 0, 53}, 15: []byte("example.net"), 26: {1460 >> 8, 1460 & 255},
		51: {0, 0, 0x0e, 0x10}, 53: {2}, 54: {10, 20, 0, 1}, 58: {0, 0, 7, 8}, 59: {0, 0, 0x0c, 0x4e},
	}
	same := func(got dhcpv4.Options) {
		t.Helper()
		for code, v := range want {
			if !bytes.Equal(got[code], v) {
				t.Errorf("option %d is %v, want %v", code, got[code], v)
			}
		}
		for code := range got {
			if _, ok := want[code]; !ok {
				t.Errorf("option %d: %v", code, got[code])
			}
		}
	}
	same(m.Options)

	// Without a parameter request list the host gets all; with one, what it names and what RFC 5844 3.4.3 demands.
	f := discover(macA)
	delete(f.Body.(*dhcpv4.DHCPv4).Options, 55)
	_, m = r.in(f).dhcp(offer)
	same(m.Options)
	f.Body.(*dhcpv4.DHCPv4).Options[55] = []byte{6, 6, 119}
	delete(want, 15)
	_, m = r.in(f).dhcp(offer)
	same(m.Options)

	// The client identifier goes back as it came, of whatever form (RFC 6842).
	id := []byte{255, 1, 2, 3, 4, 0, 1, 0, 1, 5, 6, 7, 8, 9}
	f.Body.(*dhcpv4.DHCPv4).Options[61] = id
	want[61] = id
	_, m = r.in(f).dhcp(offer)
	same(m.Options)
}

// The same on every gateway (document 001 3.1), and none of the protocol's own options can be configured away.
func TestExtraOptions(t *testing.T) {
	spec.Covers(t, "S001-3.1-15")
	cfg := config()
	cfg.DHCP.Extra = map[uint8][]byte{4: {10, 20, 0, 37}, 9: {10, 20, 0, 9}, 42: {10, 20, 0, 42}, 51: {0, 0, 0, 1}, 53: {9}, 54: {9, 9, 9, 9}, 3: {9, 9, 9, 9}}
	f := discover(macA)
	f.Body.(*dhcpv4.DHCPv4).Options[55] = []byte{1, 3, 6, 4, 9, 51, 54}
	var seen []dhcpv4.Options
	for range 2 {
		r := granted(t, cfg)
		_, o := r.in(f).dhcp(offer)
		q := selecting(macA, router4, homeA.Addr())
		q.Body.(*dhcpv4.DHCPv4).Options[55] = []byte{1, 3, 6, 4, 9, 51, 54}
		_, a := r.in(q).dhcp(ack)
		seen = append(seen, o.Options, a.Options)
	}
	for _, o := range seen {
		for code, v := range map[uint8][]byte{
			4: {10, 20, 0, 37}, 9: {10, 20, 0, 9}, 6: {10, 20, 0, 53}, 51: {0, 0, 0x0e, 0x10}, 54: {10, 20, 0, 1}, 3: {10, 20, 0, 1},
		} {
			if !bytes.Equal(o[code], v) {
				t.Errorf("option %d is %v, want %v", code, o[code], v)
			}
		}
		if _, ok := o[42]; ok {
			t.Error("option 42 was not asked for")
		}
	}
}

// A reply never exceeds what the client takes (RFC 2132 9.10): optional parameters are left out, in the order of the list.
func TestMessageSize(t *testing.T) {
	cfg := config()
	cfg.DHCP.Extra = map[uint8][]byte{200: make([]byte, 200), 201: make([]byte, 200), 202: {7}}
	r := granted(t, cfg)
	f := discover(macA)
	o := f.Body.(*dhcpv4.DHCPv4).Options
	o[55] = []byte{201, 200, 202}
	_, m := r.in(f).dhcp(offer)
	if len(m.Options[201]) != 200 || len(m.Options[200]) != 0 || len(m.Options[202]) != 1 || len(m.ToBytes()) > 576-28 {
		t.Errorf("%d octets: %v", len(m.ToBytes()), m.Options)
	}
	o[57] = []byte{0x05, 0xdc}
	if _, m := r.in(f).dhcp(offer); len(m.Options[201]) != 200 || len(m.Options[200]) != 200 {
		t.Errorf("%v", m.Options)
	}
	o[57] = []byte{0, 1} // nonsense: 576 is the least
	if _, m := r.in(f).dhcp(offer); len(m.Options[201]) != 200 {
		t.Errorf("%v", m.Options)
	}
}

// Where a reply goes to (RFC 2131 4.1): on IP as the rules say, on the link layer to the host alone.
func TestReplyDestination(t *testing.T) {
	r := granted(t, config())
	flagged := func(f *Frame) *Frame { f.Body.(*dhcpv4.DHCPv4).Flags = 0x8000; return f }
	for _, c := range []struct {
		name  string
		f     *Frame
		kind  dhcpv4.MessageType
		to    netip.Addr
		flags uint16
	}{
		{"offer", discover(macA), offer, homeA.Addr(), 0},
		{"offer, broadcast flag", flagged(discover(macA)), offer, all4, 0x8000},
		{"ack", selecting(macA, router4, homeA.Addr()), ack, homeA.Addr(), 0},
		{"ack, broadcast flag", flagged(selecting(macA, router4, homeA.Addr())), ack, all4, 0x8000},
		{"ack of a renewal", renewing(macA, router4, homeA.Addr()), ack, homeA.Addr(), 0},
		{"ack of a renewal, broadcast flag", flagged(renewing(macA, router4, homeA.Addr())), ack, homeA.Addr(), 0x8000},
		{"nak", initReboot(macA, addr("192.168.1.7")), nak, all4, 0},
	} {
		f, m := r.in(c.f).dhcp(c.kind)
		if f.Dst != macA || f.DstIP != c.to || m.Flags != c.flags {
			t.Errorf("%s: to %v %v, flags %#x", c.name, f.Dst, f.DstIP, m.Flags)
		}
	}
}

// Table 4 and section 4.3.2 of RFC 2131, for a host that has its address.
func TestRequestStates(t *testing.T) {
	me, other, away := homeA.Addr(), homeB.Addr(), addr("192.168.1.7")
	both := func(f *Frame) *Frame { f.Body.(*dhcpv4.DHCPv4).Options[50] = me.AsSlice(); return f }
	from := func(f *Frame, src netip.Addr) *Frame { f.SrcIP = src; return f }
	for _, c := range []struct {
		name    string
		f       *Frame
		did     []string
		kind    dhcpv4.MessageType
		refused wire.Reason
	}{
		{"SELECTING", selecting(macA, router4, me), []string{"Attached", "dhcp"}, ack, ""},
		{"SELECTING another address", selecting(macA, router4, away), []string{"Attached", "Refused", "dhcp"}, nak, wire.WrongAddress},
		{"SELECTING another host's address", selecting(macA, router4, other), []string{"Attached", "Refused", "dhcp"}, nak, wire.AddressClaimed},
		{"SELECTING another server", selecting(macA, addr("10.20.0.2"), me), []string{"Attached", "Refused"}, 0, wire.ForeignServer},
		{"INIT-REBOOT", initReboot(macA, me), []string{"Attached", "dhcp"}, ack, ""},
		{"INIT-REBOOT on the wrong network", initReboot(macA, away), []string{"Attached", "Refused", "dhcp"}, nak, wire.WrongAddress},
		{"INIT-REBOOT with another host's address", initReboot(macA, other), []string{"Attached", "Refused", "dhcp"}, nak, wire.AddressClaimed},
		{"RENEWING", renewing(macA, router4, me), []string{"Attached", "Renewed", "dhcp"}, ack, ""},
		{"RENEWING with option 50 too", both(renewing(macA, router4, me)), []string{"Attached", "Renewed", "dhcp"}, ack, ""},
		{"RENEWING at another server", renewing(macA, away, me), []string{"Attached", "Refused"}, 0, wire.ForeignServer},
		{"RENEWING a wrong address", renewing(macA, router4, away), []string{"Attached", "Refused", "dhcp"}, nak, wire.WrongAddress},
		{"RENEWING another host's address", renewing(macA, router4, other), []string{"Attached", "Refused", "dhcp"}, nak, wire.AddressClaimed},
		{"RENEWING from a forged source", from(renewing(macA, router4, me), other), []string{"Attached", "Refused"}, 0, wire.WrongSource},
		{"REBINDING", rebinding(macA, me), []string{"Attached", "Renewed", "dhcp"}, ack, ""},
		{"REBINDING without source", from(rebinding(macA, me), none4), []string{"Attached", "Renewed", "dhcp"}, ack, ""},
		{"REBINDING a wrong address", rebinding(macA, away), []string{"Attached", "Refused", "dhcp"}, nak, wire.WrongAddress},
		{"no address at all", dhcpOf(macA, dhcpv4.MessageTypeRequest, none4, all4, netip.Addr{}, nil), []string{"Attached", "Refused"}, 0, wire.BadValue},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := granted(t, config())
			res := r.in(c.f).did(c.did...)
			if c.refused != "" {
				res.refused(c.refused)
			}
			if c.kind == 0 {
				res.silent()
				return
			}
			f, m := res.dhcp(c.kind)
			if option4(m, 54) != router4 || f.SrcIP != router4 {
				t.Errorf("server identifier %v from %v", option4(m, 54), f.SrcIP)
			}
			if c.kind == nak {
				for code := range m.Options { // RFC 2131 Table 3
					if code != 53 && code != 54 && code != 56 && code != 61 {
						t.Errorf("option %d in a DHCPNAK", code)
					}
				}
				if addr4(m.YourIPAddr).IsValid() || addr4(m.ClientIPAddr).IsValid() {
					t.Error(m.Summary())
				}
			} else if addr4(m.YourIPAddr) != me {
				t.Error(m.Summary())
			}
		})
	}
}

// A request that comes before the registration waits for it, and is answered with what the anchor gave.
func TestRequestsWaitForGrant(t *testing.T) {
	spec.Covers(t, "RFC5844-3.4.1")
	me, server := homeA.Addr(), addr("10.20.0.1")
	g := Grant{IPv4: homeA, Router4: router4, Valid: 300 * time.Second}
	elsewhere := Grant{IPv4: homeB, Router4: router4, Valid: 300 * time.Second}
	for _, c := range []struct {
		name string
		f    *Frame
		same dhcpv4.MessageType // the anchor gave the address
		diff dhcpv4.MessageType // it gave another
	}{
		{"DISCOVER", discover(macA), offer, offer},
		{"SELECTING", selecting(macA, server, me), ack, nak},
		{"INIT-REBOOT", initReboot(macA, me), ack, nak},
		{"RENEWING", renewing(macA, server, me), ack, nak},
		{"REBINDING", rebinding(macA, me), ack, nak},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := newRig(t, config())
			r.in(c.f).did("Attached")
			r.after(time.Second)
			r.grant(macA, Grant{Prefixes: []netip.Prefix{prefixA}, Valid: time.Minute}).did("ra") // IPv6 first: it goes on waiting
			r.after(time.Second)
			res := r.grant(macA, dualStack())
			res.dhcp(c.same)
			if len(res.news) > 0 {
				t.Errorf("the registration that was waited for needs no other: %+v", res.news)
			}
			r.grant(macA, dualStack()).did("ra", "arp") // once

			r = newRig(t, config())
			r.in(c.f)
			r.grant(macA, elsewhere).dhcp(c.diff)

			// No answer in time: silence, and the late grant answers nothing.
			r = newRig(t, config())
			r.in(c.f)
			r.next(5 * time.Second).did("Refused").refused(wire.NoAnswer)
			r.grant(macA, g).did("arp")
		})
	}
}

// For a newer request the older one is forgotten: one pending message a host.
func TestNewestRequestCounts(t *testing.T) {
	r := newRig(t, config())
	first, second := discover(macA), discover(macA)
	second.Body.(*dhcpv4.DHCPv4).TransactionID = dhcpv4.TransactionID{9, 9, 9, 9}
	r.in(first)
	r.after(4 * time.Second)
	r.in(second)
	r.after(4 * time.Second)
	_, m := r.grant(macA, Grant{IPv4: homeA, Router4: router4, Valid: time.Minute}).dhcp(offer)
	if m.TransactionID != (dhcpv4.TransactionID{9, 9, 9, 9}) {
		t.Error(m.TransactionID)
	}
}

// RFC 5844 3.4.1 and 3.4.3: a refused registration means no OFFER, and a DHCPNAK for who asks for an address, where we
// know who we are. If no anchor answered, the host keeps its lease.
func TestDenied(t *testing.T) {
	me := homeA.Addr()
	fixedID := config()
	fixedID.DHCP.Fixed = addr("192.0.2.67")
	ownID := config()
	ownID.DHCP.OwnID, ownID.DHCP.Own = true, addr("10.20.0.2")
	for _, c := range []struct {
		name   string
		cfg    LinkConfig
		f      *Frame
		reason string
		nak    bool
	}{
		{"DISCOVER", fixedID, discover(macA), "not-authorized", false},
		{"SELECTING", fixedID, selecting(macA, fixedID.DHCP.Fixed, me), "not-authorized", true},
		{"SELECTING elsewhere", fixedID, selecting(macA, router4, me), "not-authorized", false},
		{"INIT-REBOOT", fixedID, initReboot(macA, me), "pool-exhausted", true},
		{"RENEWING", fixedID, renewing(macA, fixedID.DHCP.Fixed, me), "not-authorized", true},
		{"RENEWING elsewhere", fixedID, renewing(macA, router4, me), "not-authorized", false},
		{"REBINDING", fixedID, rebinding(macA, me), "not-authorized", true},
		{"REBINDING, own id", ownID, rebinding(macA, me), "not-authorized", true},
		{"REBINDING, anchor silent", fixedID, rebinding(macA, me), "no-answer", false},
		{"INIT-REBOOT, identifier not known", config(), initReboot(macA, me), "not-authorized", false},
		{"INFORM", fixedID, dhcpOf(macA, dhcpv4.MessageTypeInform, me, all4, me, nil), "not-authorized", false},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := newRig(t, c.cfg)
			r.in(c.f).silent()
			res := r.deny(macA, V4, c.reason)
			if !c.nak {
				res.silent()
			} else if _, m := res.dhcp(nak); string(m.Options[56]) != c.reason {
				t.Errorf("%q", m.Options[56])
			}
			r.deny(macA, V4, c.reason).did() // once
			if r.l.hosts[macA].held != nil {
				t.Error("still held")
			}
		})
	}
	t.Run("only IPv6 is refused", func(t *testing.T) {
		r := newRig(t, config())
		r.in(discover(macA))
		r.deny(macA, V6, "not-authorized").did()
		r.grant(macA, Grant{IPv4: homeA, Router4: router4, Valid: time.Minute}).dhcp(offer)
	})
}

func TestRelease(t *testing.T) {
	rel := func(mac core.MAC, a netip.Addr) *Frame {
		return dhcpOf(mac, dhcpv4.MessageTypeRelease, a, router4, a, map[uint8][]byte{54: router4.AsSlice()})
	}
	r := granted(t, config())
	r.in(rel(macA, homeB.Addr())).did("Refused").refused(wire.AddressClaimed)
	r.in(rel(macA, addr("10.20.0.99"))).did("Refused").refused(wire.WrongAddress)
	r.in(rel(core.MAC{2, 0, 0, 0, 0, 0xc}, homeA.Addr())).did("Refused").refused(wire.NotAttached)
	r.in(rel(macA, homeA.Addr())).did("Released")
	r.in(rel(macA, homeA.Addr())).did() // repeated
	// It is not given out again on the old registration, but on the next.
	r.in(discover(macA)).did("Attached")
	r.in(initReboot(macA, homeA.Addr())).did("Attached")
	r.grant(macA, Grant{IPv4: homeA, Router4: router4, Valid: time.Minute}).dhcp(ack)
}

func TestDecline(t *testing.T) {
	dec := func(mac core.MAC, a, server netip.Addr) *Frame {
		return dhcpOf(mac, dhcpv4.MessageTypeDecline, none4, all4, netip.Addr{}, map[uint8][]byte{50: a.AsSlice(), 54: server.AsSlice()})
	}
	r := granted(t, config())
	r.in(dec(macA, homeB.Addr(), router4)).did("Refused").refused(wire.AddressClaimed)
	r.in(dec(macA, homeA.Addr(), addr("10.20.0.2"))).did("Refused").refused(wire.ForeignServer)
	r.in(dec(core.MAC{2, 0, 0, 0, 0, 0xc}, homeA.Addr(), router4)).did("Refused").refused(wire.NotAttached)
	res := r.in(dec(macA, homeA.Addr(), router4)).did("Declined")
	if d := res.news[0].(Declined); d.Addr != homeA.Addr() || d.MAC != macA {
		t.Errorf("%+v", d)
	}
	// The same address is not offered again for a minute, another at once.
	r.in(discover(macA)).silent()
	r.grant(macA, Grant{IPv4: homeA, Router4: router4, Valid: 300 * time.Second}).did("arp")
	other := Grant{IPv4: netip.MustParsePrefix("10.20.0.12/24"), Router4: router4, Valid: 300 * time.Second}
	if _, m := r.grant(macA, other).dhcp(offer); addr4(m.YourIPAddr) != addr("10.20.0.12") {
		t.Error(m.Summary())
	}
	r.grant(macA, Grant{IPv4: homeA, Router4: router4, Valid: 300 * time.Second})
	r.after(time.Minute)
	r.in(discover(macA)).dhcp(offer)
}

func TestInform(t *testing.T) {
	inform := func(mac core.MAC, a netip.Addr) *Frame {
		return dhcpOf(mac, dhcpv4.MessageTypeInform, a, all4, a, map[uint8][]byte{55: {6, 15, 51}})
	}
	r := granted(t, config())
	f, m := r.in(inform(macA, homeA.Addr())).did("Attached", "dhcp").dhcp(ack)
	if f.DstIP != homeA.Addr() || addr4(m.YourIPAddr).IsValid() || !bytes.Equal(m.Options[6], []byte{10, 20, 0, 53}) {
		t.Error(f.DstIP, m.Summary())
	}
	for _, code := range []uint8{51, 58, 59} { // RFC 2131 4.3.5
		if m.Options[code] != nil {
			t.Errorf("option %d in the answer to a DHCPINFORM", code)
		}
	}
	r.in(inform(macA, homeB.Addr())).did("Attached", "Refused").refused(wire.AddressClaimed)
	// A host with a static address tells it this way: a hint for its registration.
	r = newRig(t, config())
	if a := r.in(inform(macA, homeA.Addr())).did("Attached").attached(); a.Hint != homeA.Addr() || a.Addr != homeA.Addr() || a.Wants != V4 {
		t.Errorf("%+v", a)
	}
	r.grant(macA, Grant{IPv4: homeA, Router4: router4, Valid: time.Minute}).dhcp(ack)
}

func TestRefusedDHCP(t *testing.T) {
	change := func(f func(m *dhcpv4.DHCPv4)) *Frame {
		d := discover(macA)
		f(d.Body.(*dhcpv4.DHCPv4))
		return d
	}
	for _, c := range []struct {
		name string
		f    *Frame
		want wire.Reason
	}{
		{"chaddr of another host", change(func(m *dhcpv4.DHCPv4) { m.ClientHWAddr = macB[:] }), wire.WrongMAC},
		{"chaddr of eight octets", change(func(m *dhcpv4.DHCPv4) { m.ClientHWAddr = append(bytes.Clone(macA[:]), 0, 0) }), wire.WrongMAC},
		{"no chaddr", change(func(m *dhcpv4.DHCPv4) { m.ClientHWAddr = nil }), wire.WrongMAC},
		{"not Ethernet", change(func(m *dhcpv4.DHCPv4) { m.HWType = iana.HWTypeInfiniband }), wire.WrongMAC},
		{"relayed", change(func(m *dhcpv4.DHCPv4) { m.GatewayIPAddr = []byte{10, 20, 0, 5} }), wire.NotForUs},
		{"no message type", change(func(m *dhcpv4.DHCPv4) { delete(m.Options, 53) }), wire.UnknownType},
		{"a server's message type", change(func(m *dhcpv4.DHCPv4) { m.Options[53] = []byte{5} }), wire.UnknownType},
		{"unknown message type", change(func(m *dhcpv4.DHCPv4) { m.Options[53] = []byte{99} }), wire.UnknownType},
		{"a server", change(func(m *dhcpv4.DHCPv4) { m.OpCode = dhcpv4.OpcodeBootReply }), wire.RouterImpersonate},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := granted(t, config())
			r.in(c.f).did("Refused").refused(c.want)
		})
	}
}

// A hint that is another host's address is not passed on.
func TestHints(t *testing.T) {
	r := granted(t, config())
	f := discover(macA)
	f.Body.(*dhcpv4.DHCPv4).Options[50] = homeB.Addr().AsSlice()
	if a := r.in(f).attached(); a.Hint.IsValid() {
		t.Errorf("%+v", a)
	}
	f.Body.(*dhcpv4.DHCPv4).Options[50] = []byte{10, 20, 0, 99}
	if a := r.in(f).attached(); a.Hint != addr("10.20.0.99") {
		t.Errorf("%+v", a)
	}
}

func TestDHCPOff(t *testing.T) {
	cfg := config()
	cfg.DHCP.Off = true
	r := granted(t, cfg)
	if a := r.in(discover(macA)).did("Attached").attached(); a.Wants != 0 {
		t.Errorf("%+v", a)
	}
	r.in(arp(macA, homeA.Addr(), router4)).did("Attached", "arp") // the router is there all the same
}

// Nobody named a default router: fixed identifiers and own addresses stand in where the host can reach them, else there is
// nothing to answer with.
func TestNoDefaultRouter(t *testing.T) {
	g := Grant{IPv4: homeA, Valid: time.Minute}
	r := newRig(t, config())
	r.in(discover(macA))
	r.grant(macA, g).silent().refused(wire.NoAddressInAnswer)

	cfg := config()
	cfg.DHCP.Fixed = addr("10.20.0.3")
	r = newRig(t, cfg)
	r.in(discover(macA))
	if _, m := r.grant(macA, g).dhcp(offer); option4(m, 3) != cfg.DHCP.Fixed || option4(m, 54) != cfg.DHCP.Fixed {
		t.Error(m.Summary())
	}
	cfg.DHCP.Fixed = addr("192.0.2.67")
	r = newRig(t, cfg)
	r.in(discover(macA))
	if _, m := r.grant(macA, g).dhcp(offer); m.Options[3] != nil || option4(m, 54) != cfg.DHCP.Fixed {
		t.Error(m.Summary())
	}
}

// The lease lives on its own: the binding's remaining lifetime changes nothing in it (RFC 5844 3.4.3, document 001 3.2.2).
func TestLeaseAndBindingAreIndependent(t *testing.T) {
	spec.Covers(t, "S001-3.2.2-50")
	r := granted(t, config())
	ends := r.l.hosts[macA].ends
	for range 3 {
		r.after(90 * time.Second)
		_, m := r.in(renewing(macA, router4, homeA.Addr())).dhcp(ack)
		if !bytes.Equal(m.Options[51], []byte{0, 0, 0x0e, 0x10}) {
			t.Errorf("lease %v", m.Options[51])
		}
	}
	if r.l.hosts[macA].ends != ends {
		t.Error("a renewal changed the binding's lifetime")
	}
	// The other way round: without a binding a lease that still runs is worth nothing.
	r.after(30 * time.Second)
	r.in(renewing(macA, router4, homeA.Addr())).silent()
	r.result(r.l.Tick(r.now, nil)).silent()
	r.in(renewing(macA, router4, homeA.Addr())).silent()
}
