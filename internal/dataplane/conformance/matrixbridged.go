package conformance

import (
	"fmt"
	"net/netip"

	"kedge/internal/core"
	"kedge/internal/dataplane"
)

// bridgedCases: document 002, 3.2.1. A gateway that the host sees as a bridge: all that comes from it enters the tunnel, all that comes out
// goes to it, each octet as it was but ECN; nobody is told anything, and what is too long goes in fragments.
func bridgedCases() (out []testCase) {
	for _, e := range append(encapsOf(dataplane.Gateway), chainedOf(dataplane.Gateway)...) {
		out = append(out, testCase{name: "bridged in " + e.name, o: both(gateway), empty: true, f: func(b *bench) {
			s := site{b, e, dataplane.Gateway}
			s.update(core.SetSession{ID: sessionOne, Chain: e.chain, Mode: core.Bridged, If: s.r.If(1), MAC: Host1})
			for _, f := range []func(*sheet){bridgedSizes, bridgedScopes, bridgedClasses} {
				s.run(f)
			}
			if got := s.reports(); len(got) != 0 {
				s.Errorf("reports %+v", got)
			}
		}})
	}
	return out
}

// bridged adds a packet of the host's, to a MAC or to the router's, that leaves as it is.
func (s *sheet) bridged(name string, to core.MAC, b []byte) {
	s.serial++
	p := from1(b)
	p.Other = to
	t := trial{name: name + ", in", in: []Packet{p}, count: core.Counter{PacketsOut: 1, OctetsOut: uint64(len(b))}}
	whole := [][]byte{s.e.wrap(b, hdr{hop: 64}, false, true)} // whatever it is: a bridge sees no packets
	if len(whole[0]) > s.path {
		f := framing{"", s.e.outermost().Local, s.e.outermost().Remote}
		whole = f.cutOuter(whole[0], s.path)
	}
	for _, o := range whole {
		t.wants = append(t.wants, toCore(o))
	}
	s.add(t)
}

// unbridged adds one of the tunnel.
func (s *sheet) unbridged(name string, h hdr, in, out []byte) {
	s.serial++
	s.add(trial{name: name + ", out", in: []Packet{s.arrives(in, h)}, wants: []want{to1(out)}, count: core.Counter{PacketsIn: 1, OctetsIn: uint64(len(in))}})
}

func bridgedSizes(s *sheet) {
	for _, fam := range families {
		for _, k := range []kind{kindUDP, kindTCP, kindEcho, kindSCTP, kindOther, kindGRE, kindESP} {
			for _, n := range []int{headerLen(fam.one) + k.least, 127, 1280, s.most(), s.most() + 1, 1500} {
				for _, hop := range []int{1, 2, 64, 255} {
					name := fmt.Sprintf("%s %s of %d octets, hop limit %d", fam.name, k.name, n, hop)
					s.bridged(name, core.MAC{}, s.of(k, fam.one, fam.cn, hdr{hop: hop, id: 7, df: hop == 64}, n))
					if n <= s.most() {
						b := s.of(k, fam.cn, fam.one, hdr{hop: hop, id: 7, df: hop == 64}, n)
						s.unbridged(name, hdr{id: 9}, b, b)
					}
				}
			}
		}
	}
}

// bridgedScopes: what a router must keep to itself, and senders and receivers that nobody told of.
func bridgedScopes(s *sheet) {
	ll, far := netip.MustParseAddr("fe80::a"), netip.MustParseAddr("fe80::b")
	nodes, routers := netip.MustParseAddr("ff02::1"), netip.MustParseAddr("ff02::2")
	any4, all4, group := netip.IPv4Unspecified(), netip.AddrFrom4([4]byte{255, 255, 255, 255}), netip.MustParseAddr("224.0.0.251")
	many := func(a netip.Addr) core.MAC {
		if a.Is6() {
			b := a.As16()
			return core.MAC{0x33, 0x33, b[12], b[13], b[14], b[15]}
		}
		if a == all4 {
			return core.MAC{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}
		}
		b := a.As4()
		return core.MAC{1, 0, 0x5e, b[1] & 0x7f, b[2], b[3]}
	}
	for typ := byte(133); typ <= 137; typ++ { // Neighbor Discovery (RFC 4861 4)
		for _, dst := range []netip.Addr{far, nodes, routers} {
			to := core.MAC{}
			if dst.IsMulticast() {
				to = many(dst)
			}
			b := v6(ll, dst, 58, hdr{hop: 255}, icmp6(ll, dst, typ, 0, uint32(s.serial), s.fill(24)))
			s.bridged(fmt.Sprintf("ICMPv6 %d to %v", typ, dst), to, b)
			s.unbridged(fmt.Sprintf("ICMPv6 %d to %v", typ, dst), hdr{}, b, b)
		}
	}
	for _, c := range [][2]netip.Addr{{any4, all4}, {H14, group}, {H14, all4}, {H16, nodes}, {Nobody, CN6}, {Nemo4, CN4}, {H26, H36}, {ll, CN6}, {H14, Nemo4}} {
		to := core.MAC{}
		if c[1].IsMulticast() || c[1] == all4 {
			to = many(c[1])
		}
		b := s.of(kindUDP, c[0], c[1], hdr{hop: 1}, 328)
		s.bridged(fmt.Sprintf("%v to %v", c[0], c[1]), to, b)
		s.unbridged(fmt.Sprintf("%v to %v", c[0], c[1]), hdr{id: 3}, b, b)
	}
}

// bridgedClasses: as of others into the tunnel; out of it the packet keeps its DSCP, and a mark of congestion is handed on (RFC 6040).
func bridgedClasses(s *sheet) {
	for _, fam := range families {
		for tos := range 256 {
			s.bridged(fmt.Sprintf("%s of class %02x", fam.name, tos), core.MAC{}, s.of(kindUDP, fam.one, fam.cn, hdr{tos: byte(tos)}, 100))
		}
		for _, row := range congestionTable {
			if row.result == dropped || row.outer == 0 {
				continue
			}
			in, out := byte(0xb8)|row.inner, byte(0xb8)|row.result
			b := func(tos byte) []byte { return s.of(kindTCP, fam.cn, fam.one, hdr{tos: tos}, 120) }
			s.unbridged(fmt.Sprintf("%s of class %02x in %02x", fam.name, in, 0x48|row.outer), hdr{tos: 0x48 | row.outer}, b(in), b(out))
		}
	}
}
