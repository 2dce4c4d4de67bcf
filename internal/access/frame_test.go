package access

import (
	"bytes"
	"errors"
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/insomniacslk/dhcp/dhcpv4"

	"kedge/internal/core"
	"kedge/internal/testpcap"
	"kedge/wire"
	"kedge/wire/ether"
	"kedge/wire/ip"
	"kedge/wire/nd"
)

var sameFrame = cmp.Options{cmpopts.EquateComparable(netip.Addr{}, netip.Prefix{}), cmpopts.EquateEmpty()}

// hostFrames are one of each kind that a host sends.
func hostFrames() map[string]*Frame {
	return map[string]*Frame{
		"rs": rs(macA, llA), "ns": ns(macA, llA, routerLL), "na": na(macA, llA), "mld": mld(macA, none6),
		"echo": echo6(macA, llA), "echo4": echo4(macA, homeA.Addr()), "arp": arp(macA, homeA.Addr(), router4),
		"discover": discover(macA), "selecting": selecting(macA, router4, homeA.Addr()), "rebinding": rebinding(macA, homeA.Addr()),
	}
}

func bytesOf(t testing.TB, f *Frame) []byte {
	t.Helper()
	b, err := f.Append(nil)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestFrameRoundTrip(t *testing.T) {
	for name, f := range hostFrames() {
		b := bytesOf(t, f)
		for _, padding := range []int{0, 1, 60} {
			got, err := Decode(append(bytes.Clone(b), make([]byte, padding)...))
			if err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			if d := cmp.Diff(f, got, sameFrame); d != "" {
				t.Errorf("%s with %d octets of padding: %s", name, padding, d)
			}
			if got.Kind() == "data" {
				t.Errorf("%s is data", name)
			}
		}
	}
}

// Cut anywhere, a frame is refused with its reason, or is data; the sender is known as soon as the Ethernet header is.
func TestFrameTruncated(t *testing.T) {
	for name, f := range hostFrames() {
		b := bytesOf(t, f)
		for n := range b {
			got, err := Decode(b[:n])
			var e *wire.Error
			if err == nil || !errors.As(err, &e) {
				t.Errorf("%s cut to %d: %v", name, n, err)
			}
			if n < ether.HeaderLen != (got == nil) || got != nil && (got.Src != macA || got.Body != nil) {
				t.Errorf("%s cut to %d: %+v", name, n, got)
			}
		}
	}
}

func TestFrameRefused(t *testing.T) {
	with := func(f *Frame, change func(b []byte)) []byte {
		b := bytesOf(t, f)
		change(b)
		return b
	}
	resum := func(b []byte) { // IPv4 header checksum
		b[24], b[25] = 0, 0
		s := ip.Checksum(b[14:34])
		b[24], b[25] = byte(s>>8), byte(s)
	}
	resumUDP := func(b []byte) {
		b[40], b[41] = 0, 0
		s := ip.PseudoChecksum(netip.AddrFrom4([4]byte(b[26:30])), netip.AddrFrom4([4]byte(b[30:34])), ip.UDP, b[34:])
		b[40], b[41] = byte(s>>8), byte(s)
	}
	dhcp := func(change func(m []byte)) []byte {
		return with(discover(macA), func(b []byte) { change(b[42:]); resumUDP(b) })
	}
	overload := discover(macA)
	overload.Body.(*dhcpv4.DHCPv4).Options[52] = []byte{1}
	for _, c := range []struct {
		name string
		b    []byte
		want wire.Reason
	}{
		{"IPv6 in an IPv4 frame", with(rs(macA, llA), func(b []byte) { b[12], b[13] = 8, 0 }), wire.BadValue},
		{"ND hop limit", with(rs(macA, llA), func(b []byte) { b[21] = 64 }), wire.BadHopLimit},
		{"ND checksum", with(rs(macA, llA), func(b []byte) { b[56] ^= 1 }), wire.BadChecksum},
		{"IPv4 checksum", with(discover(macA), func(b []byte) { b[24] ^= 1 }), wire.BadChecksum},
		{"UDP checksum", with(discover(macA), func(b []byte) { b[40] ^= 1 }), wire.BadChecksum},
		{"UDP length beyond the packet", with(discover(macA), func(b []byte) { b[38] = 0xff }), wire.BadLength},
		{"UDP length below its header", with(discover(macA), func(b []byte) { b[38], b[39] = 0, 7 }), wire.BadLength},
		{"ICMP checksum", with(echo4(macA, homeA.Addr()), func(b []byte) { b[36] ^= 1 }), wire.BadChecksum},
		{"IPv4 version", with(discover(macA), func(b []byte) { b[14] = 0x55; resum(b) }), wire.UnknownType},
		{"DHCP cookie", dhcp(func(m []byte) { m[236] = 0 }), wire.Malformed},
		{"DHCP hlen", dhcp(func(m []byte) { m[2] = 17 }), wire.BadLength},
		{"DHCP option beyond the end", dhcp(func(m []byte) { copy(m[240:], []byte{12, 255}) }), wire.Malformed},
		{"DHCP without end", dhcp(func(m []byte) { clear(m[240:]) }), wire.Malformed},
		{"DHCP message type of two octets", dhcp(func(m []byte) { copy(m[240:], []byte{53, 2, 1, 1, 255}) }), wire.BadOptionLength},
		{"DHCP message type twice", dhcp(func(m []byte) { copy(m[240:], []byte{53, 1, 1, 53, 1, 3, 255}) }), wire.BadOptionLength},
		{"DHCP requested address of no octet", dhcp(func(m []byte) { copy(m[240:], []byte{53, 1, 1, 50, 0, 255}) }), wire.BadOptionLength},
		{"DHCP server identifier of five", dhcp(func(m []byte) { copy(m[240:], []byte{53, 1, 1, 54, 5, 1, 2, 3, 4, 5, 255}) }), wire.BadOptionLength},
		{"DHCP overload beyond the field", with(overload, func(b []byte) { b[42+108], b[42+109], b[42+235] = 12, 200, 1; resumUDP(b) }), wire.Malformed},
	} {
		t.Run(c.name, func(t *testing.T) {
			f, err := Decode(c.b)
			if !errors.Is(err, c.want) {
				t.Errorf("%v, want %s", err, c.want)
			}
			if f == nil || f.Src != macA || f.Body != nil {
				t.Errorf("%+v", f)
			}
		})
	}
}

func TestManyDHCPOptions(t *testing.T) {
	f := discover(macA)
	for code := range maxDHCPOptions {
		f.Body.(*dhcpv4.DHCPv4).Options[uint8(100+code%150)] = []byte{1}
	}
	for code := range 60 {
		f.Body.(*dhcpv4.DHCPv4).Options[uint8(60+code)] = []byte{1}
	}
	if _, err := Decode(bytesOf(t, f)); !errors.Is(err, wire.TooManyOptions) {
		t.Error(err)
	}
}

// Options that overflow into 'file' and 'sname' count like the others (RFC 2131 4.1).
func TestOverloadedOptions(t *testing.T) {
	f := dhcpOf(macA, dhcpv4.MessageTypeRequest, none4, all4, netip.Addr{}, map[uint8][]byte{52: {3}})
	b := bytesOf(t, f)
	copy(b[42+108:], []byte{50, 4, 10, 20, 0, 10, 255})
	copy(b[42+44:], []byte{54, 4, 10, 20, 0, 1, 255})
	b[40], b[41] = 0, 0 // no UDP checksum is allowed on IPv4
	got, err := Decode(b)
	if err != nil {
		t.Fatal(err)
	}
	m := got.Body.(*dhcpv4.DHCPv4)
	if option4(m, 50) != homeA.Addr() || option4(m, 54) != router4 {
		t.Error(m.Summary())
	}
}

// What is no signalling is data: known by its addresses, without error.
func TestData(t *testing.T) {
	udp := func(src, dst netip.AddrPort) []byte {
		h := ip.Header{Src: src.Addr(), Dst: dst.Addr(), Proto: ip.UDP, TTL: 64}
		kind := ether.TypeIPv4
		if src.Addr().Is6() {
			kind = ether.TypeIPv6
		}
		b, _ := h.Append((ether.Header{Dst: routerMAC, Src: macA, Type: kind}).Append(nil), ip.UDPLen+3)
		b, err := ip.AppendUDP(b, src, dst, []byte("abc"))
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	fragment := bytesOf(t, discover(macA))
	fragment[20] = 0x20
	fragment[24], fragment[25] = 0, 0
	s := ip.Checksum(fragment[14:34])
	fragment[24], fragment[25] = byte(s>>8), byte(s)
	icmp := bytesOf(t, echo4(macA, homeA.Addr()))
	icmp[34] = 3
	v6 := addr("2001:db8:1000::a")
	for name, b := range map[string][]byte{
		"UDP":           udp(netip.AddrPortFrom(homeA.Addr(), 5000), netip.AddrPortFrom(router4, 53)),
		"UDP over IPv6": udp(netip.AddrPortFrom(v6, 546), netip.AddrPortFrom(routerLL, 547)),
		"fragment":      fragment,
		"ICMP error":    icmp,
		"VLAN":          append((ether.Header{Dst: routerMAC, Src: macA, Type: 0x8100}).Append(nil), 0, 1, 8, 0),
		"LLC":           append((ether.Header{Dst: routerMAC, Src: macA, Type: 3}).Append(nil), 0x42, 0x42, 3),
	} {
		f, err := Decode(b)
		if err != nil || f.Body != nil || f.Src != macA || f.Kind() != "data" {
			t.Errorf("%s: %+v, %v", name, f, err)
		}
	}
	if f, _ := Decode(udp(netip.AddrPortFrom(v6, 1), netip.AddrPortFrom(routerLL, 2))); f.SrcIP != v6 || f.DstIP != routerLL {
		t.Errorf("%+v", f)
	}
	if _, err := (&Frame{}).Append(nil); !errors.Is(err, wire.UnsupportedMessage) {
		t.Errorf("a frame without body: %v", err)
	}
}

// A client that renews over a UDP socket on a virtual link: the checksum is that of the pseudo header alone.
func TestUnfinishedUDPChecksum(t *testing.T) {
	b := bytesOf(t, renewing(macA, router4, homeA.Addr()))
	var s uint32
	for _, w := range []uint32{0x0a14, 0x000a, 0x0a14, 0x0001, 17, uint32(len(b) - 34)} {
		s += w
	}
	b[40], b[41] = byte(s>>8), byte(s)
	f, err := Decode(b)
	if err != nil || f.Kind() != "dhcp" {
		t.Errorf("%+v, %v", f, err)
	}
	b[41]++
	if _, err := Decode(b); !errors.Is(err, wire.BadChecksum) {
		t.Error(err)
	}
}

// RFC 6980: Neighbor Discovery behind a Fragment header is refused, even if it is whole.
func TestFragmentedND(t *testing.T) {
	b := bytesOf(t, rs(macA, llA))
	icmp := bytes.Clone(b[54:])
	b[18], b[19], b[20] = 0, byte(8+len(icmp)), ip.Fragment
	b = append(append(b[:54], ip.ICMPv6, 0, 0, 0, 1, 2, 3, 4), icmp...)
	if f, err := Decode(b); !errors.Is(err, wire.BadValue) || f.Body != nil {
		t.Errorf("%+v, %v", f, err)
	}
	b[56] = 1 // not the first fragment
	if f, err := Decode(b); err != nil || f.Body != nil {
		t.Errorf("%+v, %v", f, err)
	}
}

// Every frame of real clients is read, and what is ours to read is read as what it is.
func TestDecodeVectors(t *testing.T) {
	count := map[string]int{}
	for i, b := range testpcap.Read(t, clients) {
		f, err := Decode(b)
		if err != nil {
			t.Errorf("frame %d: %v", i+1, err)
			continue
		}
		count[f.Kind()]++
	}
	// As tshark counts them; data is DHCPv6.
	if want := (map[string]int{"dhcp": 14, "arp": 4, "rs": 2, "ra": 14, "ns": 8, "na": 6, "mld": 27, "echo": 1, "data": 16}); !cmp.Equal(want, count) {
		t.Error(cmp.Diff(want, count))
	}
}

func FuzzDecode(f *testing.F) {
	for _, x := range hostFrames() {
		f.Add(bytesOf(f, x))
	}
	for _, b := range testpcap.Read(f, clients) {
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		x, err := Decode(b)
		if err != nil {
			var e *wire.Error
			if !errors.As(err, &e) || e.Reason == "" || x != nil && x.Body != nil {
				t.Fatalf("%+v, %v", x, err)
			}
			return
		}
		if x.Body == nil {
			return
		}
		again, err := x.Append(nil)
		if err != nil {
			t.Fatalf("%+v cannot be written: %v", x, err)
		}
		if _, err := Decode(again); err != nil {
			t.Fatalf("%x: %v", again, err)
		}
	})
}

// FuzzLink gives a link whole frames as they come from the wire, in every state of the host.
func FuzzLink(f *testing.F) {
	for _, x := range hostFrames() {
		f.Add(bytesOf(f, x), uint8(0))
		f.Add(bytesOf(f, x), uint8(7))
	}
	for _, b := range testpcap.Read(f, clients) {
		f.Add(b, uint8(3))
	}
	f.Fuzz(func(t *testing.T, b []byte, state uint8) {
		x, _ := Decode(b)
		if x == nil {
			return
		}
		r := newRig(t, config())
		if state&1 != 0 {
			r.grant(x.Src, dualStack())
		}
		if state&2 != 0 {
			r.grant(macB, Grant{IPv4: homeB, Router4: router4, Valid: 300e9})
		}
		res := r.result(r.l.Handle(r.now, x, nil))
		for _, s := range res.frames {
			if s.Dst != x.Src {
				t.Fatalf("an answer to %v went to %v", x.Src, s.Dst)
			}
			if m, ok := s.Body.(*dhcpv4.DHCPv4); ok && state&1 == 0 && m.MessageType() != nak {
				t.Fatalf("%v without a grant", m.MessageType())
			}
			if m, ok := s.Body.(*nd.RouterAdvertisement); ok && state&1 == 0 {
				t.Fatalf("%+v without a grant", m)
			}
		}
		if state&4 != 0 {
			r.deny(x.Src, V4|V6, "not-authorized")
		}
		r.grant(x.Src, dualStack())
		r.result(r.l.Probe(r.now, x.Src, nil))
		for i := 0; ; i++ {
			at, ok := r.l.Deadline()
			if !ok {
				break
			}
			if i > 100 {
				t.Fatal("the link never comes to rest")
			}
			r.now.Boot = at
			r.result(r.l.Tick(r.now, nil))
		}
	})
}

var _ core.Appender = (*Frame)(nil)
