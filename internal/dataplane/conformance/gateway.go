package conformance

import (
	"bytes"
	"fmt"
	"net/netip"
	"time"

	"kedge/internal/core"
	"kedge/internal/dataplane"
	"kedge/internal/spec"
	"kedge/wire"
)

var gateway = Options{Role: dataplane.Gateway}

// toldHost wants an ICMP error on access link 1, to host 1.
func toldHost(dst netip.Addr, typ, code byte, info uint32, about []byte) want {
	return want{Packet{Side: Native, Link: 1, MAC: Host1}, &icmpWant{dst: dst, typ: typ, code: code, info: info, about: about}}
}

var gatewayCases = []testCase{
	{name: "gateway/up", o: gateway, f: func(b *bench) {
		spec.Covers(b, "S001-3.2.2-19", "S001-3.2.2-20")
		for _, f := range families {
			for _, size := range []int{f.least(), 600, tunnelMTU - 1, tunnelMTU} {
				before, after := hdr{df: true, id: 7}, hdr{df: true, id: 7, hop: 63}
				b.pass(fmt.Sprintf("%s UDP, %d octets", f.name, size), from1(udpPacket(f.one, f.cn, before, size)),
					toCore(wrap(CoA1, LMAA, udpPacket(f.one, f.cn, after, size))))
				size = max(size, headerLen(f.cn)+20+1)
				b.pass(fmt.Sprintf("%s TCP, %d octets", f.name, size), from1(tcpPacket(f.one, f.cn, before, size)),
					toCore(wrap(CoA1, LMAA, tcpPacket(f.one, f.cn, after, size))))
			}
			// All traffic, whatever the destination: in the home network and out of it, also to a neighbour.
			for _, dst := range map[bool][]netip.Addr{true: {Nemo4, H24, netip.MustParseAddr("8.8.8.8")}, false: {Nobody, H26, CoA1}}[f.cn.Is4()] {
				b.pass("to "+dst.String(), from1(udpPacket(f.one, dst, hdr{}, 100)), toCore(wrap(CoA1, LMAA, udpPacket(f.one, dst, hdr{hop: 63}, 100))))
			}
		}
		padded := append(udpPacket(H14, CN4, hdr{}, 29), make([]byte, 17)...) // to the least Ethernet frame
		b.pass("padding of the link", from1(padded), toCore(wrap(CoA1, LMAA, udpPacket(H14, CN4, hdr{hop: 63}, 29))))
	}},
	{name: "gateway/down", o: gateway, f: func(b *bench) {
		for _, f := range families {
			for _, size := range []int{f.least(), 600, tunnelMTU} {
				b.pass(fmt.Sprintf("%s, %d octets", f.name, size), fromCore(wrap(LMAA, CoA1, udpPacket(f.cn, f.one, hdr{id: 7}, size))), to1(udpPacket(f.cn, f.one, hdr{id: 7, hop: 63}, size)))
			}
			b.pass(f.name+" to host 2", fromCore(wrap(LMAA, CoA1, udpPacket(f.cn, f.two, hdr{}, 100))), to2(udpPacket(f.cn, f.two, hdr{hop: 63}, 100)))
		}
		b.dropped(wire.UnknownHome, 2, func() {
			b.pass("to nobody, silently", fromCore(wrap(LMAA, CoA1, udpPacket(CN6, Nobody, hdr{}, 100))))
			b.pass("to nobody, silently, IPv4", fromCore(wrap(LMAA, CoA1, udpPacket(CN4, Nemo4, hdr{}, 100))))
		})
	}},
	{name: "gateway/traffic class", o: gateway, f: func(b *bench) {
		for _, f := range families {
			for ecn := range byte(4) {
				tos := 0x28 | ecn
				b.pass(fmt.Sprintf("%s up, %02x", f.name, tos), from1(udpPacket(f.one, f.cn, hdr{tos: tos}, 100)),
					toCore(v6(CoA1, LMAA, map[bool]byte{true: 4, false: 41}[f.cn.Is4()], hdr{tos: tos}, udpPacket(f.one, f.cn, hdr{hop: 63, tos: tos}, 100))))
			}
			b.congestion(f, LMAA, CoA1, f.cn, f.one, fromCore, to1)
		}
	}},
	{name: "gateway/neighbours", o: gateway, f: func(b *bench) { // through the anchor: EnableMAGLocalRouting is off
		for _, f := range families {
			b.pass(f.name, from1(udpPacket(f.one, f.two, hdr{}, 100)), toCore(wrap(CoA1, LMAA, udpPacket(f.one, f.two, hdr{hop: 63}, 100))))
			b.pass(f.name+", back from the anchor", fromCore(wrap(LMAA, CoA1, udpPacket(f.one, f.two, hdr{hop: 62}, 100))), to2(udpPacket(f.one, f.two, hdr{hop: 61}, 100)))
		}
	}},
	{name: "gateway/local routing", o: Options{Role: dataplane.Gateway, LocalRouting: true}, f: func(b *bench) {
		for _, f := range families {
			b.pass(f.name, from1(udpPacket(f.one, f.two, hdr{}, 100)), to2(udpPacket(f.one, f.two, hdr{hop: 63}, 100)))
			b.pass(f.name+", others", from1(udpPacket(f.one, f.cn, hdr{}, 100)), toCore(wrap(CoA1, LMAA, udpPacket(f.one, f.cn, hdr{hop: 63}, 100))))
			last := udpPacket(f.one, f.two, hdr{hop: 1}, 100)
			b.pass(f.name+", hop limit 1", from1(last), toldHost(f.one, map[bool]byte{true: 11, false: 3}[f.cn.Is4()], 0, 0, last))
			b.pass(f.name+", forged", from1(udpPacket(f.two, f.two, hdr{}, 100)))
		}
	}},
	{name: "gateway/too big", o: gateway, f: func(b *bench) {
		big6, big4 := udpPacket(H16, CN6, hdr{}, tunnelMTU+1), udpPacket(H14, CN4, hdr{df: true}, tunnelMTU+1)
		b.pass("IPv6", from1(big6), toldHost(H16, 2, 0, uint32(tunnelMTU), big6))
		b.pass("IPv4 with DF", from1(big4), toldHost(H14, 3, 4, uint32(tunnelMTU), big4))
		b.fragmented("IPv4 without DF", from1(udpPacket(H14, CN4, hdr{id: 3}, 1500)), wrap(CoA1, LMAA, udpPacket(H14, CN4, hdr{id: 3, hop: 63}, 1500)), 1500)
		// The path to the anchor carries 1,280 octets only.
		sent := wrap(CoA1, LMAA, udpPacket(H16, CN6, hdr{hop: 63}, 1400))
		b.pass("Packet Too Big is relayed", tunnelError(CoA1, 2, 0, 1280, sent), toldHost(H16, 2, 0, 1280, udpPacket(H16, CN6, hdr{}, 1400)[:1232-40]))
		b.fragmented("IPv6 of 1,280 octets", from1(udpPacket(H16, CN6, hdr{}, 1280)), wrap(CoA1, LMAA, udpPacket(H16, CN6, hdr{hop: 63}, 1280)), 1280)
		four := udpPacket(H14, CN4, hdr{df: true}, 1241)
		b.pass("IPv4 with DF", from1(four), toldHost(H14, 3, 4, 1240, four))
	}},
	{name: "gateway/errors in the tunnel", o: gateway, f: func(b *bench) {
		in6, in4 := udpPacket(H16, CN6, hdr{}, 500), udpPacket(H14, CN4, hdr{df: true}, 500)
		b.pass("unreachable, IPv6", tunnelError(CoA1, 1, 0, 0, wrap(CoA1, LMAA, in6)), toldHost(H16, 1, 3, 0, in6))
		b.pass("unreachable, IPv4", tunnelError(CoA1, 1, 0, 0, wrap(CoA1, LMAA, in4)), toldHost(H14, 3, 1, 0, in4))
		b.pass("hop limit, IPv6", tunnelError(CoA1, 3, 0, 0, wrap(CoA1, LMAA, in6)), toldHost(H16, 1, 3, 0, in6))
		b.dropped(wire.Unsolicited, 1, func() {
			b.pass("about a packet of nobody's", tunnelError(CoA1, 1, 0, 0, wrap(CoA1, LMAA, udpPacket(Nobody, CN6, hdr{}, 500))))
		})
	}},
	{name: "gateway/expired hop limit", o: gateway, f: func(b *bench) {
		for _, f := range families {
			typ := map[bool]byte{true: 11, false: 3}[f.cn.Is4()]
			up := udpPacket(f.one, f.cn, hdr{hop: 1}, 100)
			b.dropped(wire.HopLimit, 1, func() { b.pass(f.name+" up", from1(up), toldHost(f.one, typ, 0, 0, up)) })
			b.pass(f.name+" up, hop limit 2", from1(udpPacket(f.one, f.cn, hdr{hop: 2}, 100)), toCore(wrap(CoA1, LMAA, udpPacket(f.one, f.cn, hdr{hop: 1}, 100))))
		}
		// The error about a packet from the tunnel goes to its source by plain routing.
		down := udpPacket(CN6, H16, hdr{hop: 1}, 100)
		b.dropped(wire.HopLimit, 1, func() {
			b.pass("down", fromCore(wrap(LMAA, CoA1, down)), want{Packet{Side: Tunnel}, &icmpWant{dst: CN6, typ: 3, about: down}})
		})
	}},
	{name: "gateway/fragments", o: gateway, f: func(b *bench) {
		for _, f := range families {
			out := udpPacket(f.cn, f.one, hdr{id: 5, hop: 63}, 1280)
			parts := cut(wrap(LMAA, CoA1, udpPacket(f.cn, f.one, hdr{id: 5}, 1280)), 600)
			for i, p := range parts {
				var wants []want
				if i == len(parts)-1 {
					wants = append(wants, to1(out))
				}
				b.pass(fmt.Sprintf("%s outer fragment %d", f.name, i), fromCore(p), wants...)
			}
		}
		parts := cut(wrap(LMAA, CoA1, udpPacket(CN6, H16, hdr{}, 1280)), 600)
		evil := bytes.Clone(parts[1])
		evil[43] -= 8
		b.pass("first", fromCore(parts[0]))
		b.pass("overlapping", fromCore(evil))
		for i, p := range parts[1:] {
			b.pass(fmt.Sprintf("rest %d", i), fromCore(p))
		}
		later := v4(H14, CN4, 17, hdr{id: 9, off: 64, mf: true}, filling(64))
		b.pass("inner fragment up", from1(later), toCore(wrap(CoA1, LMAA, v4(H14, CN4, 17, hdr{id: 9, off: 64, mf: true, hop: 63}, filling(64)))))
	}},
	{name: "gateway/forged", o: gateway, f: func(b *bench) {
		spec.Covers(b, "S001-3.2.2-21")
		one := b.r.If(1)
		for _, f := range families {
			other := map[bool]netip.Addr{true: Nemo4, false: Nobody}[f.cn.Is4()]
			in := udpPacket(f.one, f.cn, hdr{}, 100)
			b.r.Advance(time.Second)
			b.dropped(wire.WrongSource, 1, func() { b.pass(f.name+": another source", from1(udpPacket(other, f.cn, hdr{}, 100))) })
			if r := b.report(wire.WrongSource); r.Inner != (core.Match{If: one, MAC: Host1, Src: host(other)}) {
				b.Errorf("report %+v does not say who did it", r)
			}
			b.dropped(wire.WrongSource, 1, func() { b.pass(f.name+": a neighbour's source", from1(udpPacket(f.two, f.cn, hdr{}, 100))) })
			b.dropped(wire.UnknownHost, 1, func() { b.pass(f.name+": another MAC", Packet{Side: Native, Link: 1, MAC: Stranger, B: in}) })
			if r := b.report(wire.UnknownHost); r.Inner != (core.Match{If: one, MAC: Stranger, Src: host(f.one)}) {
				b.Errorf("report %+v does not say who came", r)
			}
			b.dropped(wire.UnknownHost, 1, func() { b.pass(f.name+": another link", Packet{Side: Native, Link: 2, MAC: Host1, B: in}) })
			b.report(wire.UnknownHost)
			b.dropped(wire.WrongTunnel, 1, func() {
				b.pass(f.name+": outer source", fromCore(wrap(Alien, CoA1, udpPacket(f.cn, f.one, hdr{}, 100))))
			})
			b.report(wire.WrongTunnel)
		}
		b.r.Advance(time.Second)
		for range 50 {
			b.pass("a flood", Packet{Side: Native, Link: 1, MAC: Stranger, B: udpPacket(Nobody, CN6, hdr{}, 100)})
		}
		b.report(wire.UnknownHost) // one of fifty
		b.r.Advance(time.Second)
		b.pass("a second later", Packet{Side: Native, Link: 1, MAC: Stranger, B: udpPacket(Nobody, CN6, hdr{}, 100)})
		b.report(wire.UnknownHost)
		b.pass("a frame to another host", Packet{Side: Native, Link: 1, MAC: Host1, Other: Stranger, B: udpPacket(H16, CN6, hdr{}, 100)})
		b.pass("the router's own MAC", Packet{Side: Native, Link: 1, MAC: RouterMAC, B: udpPacket(H16, CN6, hdr{}, 100)})
		b.r.Advance(time.Second)
		group := core.MAC{0x33, 0x33, 0, 0, 0, 0xfb}
		b.pass("multicast of a new MAC", Packet{Side: Native, Link: 1, MAC: Stranger, Other: group, B: udpPacket(netip.MustParseAddr("fe80::66"), netip.MustParseAddr("ff02::fb"), hdr{}, 100)})
		if r := b.report(wire.UnknownHost); r.Inner.MAC != Stranger {
			b.Errorf("report %+v: a host may first be seen by multicast", r)
		}
		b.pass("multicast of a known MAC", Packet{Side: Native, Link: 1, MAC: Host1, Other: group, B: udpPacket(netip.MustParseAddr("fe80::a"), netip.MustParseAddr("ff02::fb"), hdr{}, 100)})
		b.silent()
	}},
	{name: "gateway/malformed", o: gateway, f: func(b *bench) {
		good := udpPacket(H14, CN4, hdr{}, 100)
		edit := func(at int, v byte) []byte { p := bytes.Clone(good); p[at] = v; return p }
		for name, in := range map[string][]byte{
			"truncated": good[:60], "one octet": good[:1], "version 7": edit(0, 0x75), "checksum": edit(10, good[10]+1), "header length 0": edit(0, 0x40),
		} {
			b.dropped(wire.Malformed, 1, func() { b.pass(name, from1(in)) })
		}
	}},
	{name: "gateway/deprecated", o: gateway, f: func(b *bench) {
		one := b.r.If(1)
		b.update(
			core.SetKey{ID: sessionOne, Match: core.Match{Src: HNP1, If: one, MAC: Host1}},
			core.SetKey{ID: sessionOne, Match: core.Match{Src: host(H14), If: one, MAC: Host1}},
		)
		for _, f := range families {
			b.dropped(wire.Deprecated, 1, func() { b.pass(f.name+" up", from1(udpPacket(f.one, f.cn, hdr{}, 100))) })
			b.dropped(wire.Deprecated, 1, func() { b.pass(f.name+" down", fromCore(wrap(LMAA, CoA1, udpPacket(f.cn, f.one, hdr{}, 100)))) })
		}
		b.silent()
	}},
	{name: "gateway/link scope", o: gateway, f: func(b *bench) {
		for name, in := range scopedPackets(H16, H14) {
			b.dropped(wire.LinkScope, 1, func() { b.pass(name+" up", from1(in)) })
		}
		for name, in := range map[string][]byte{
			"DHCP to a server":   v4(H14, CN4, 17, hdr{}, udpPorts(H14, CN4, 68, 67, 300)),
			"DHCP to a client":   v4(H14, H24, 17, hdr{}, udpPorts(H14, H24, 67, 68, 300)),
			"DHCP from the host": v4(H14, netip.MustParseAddr("10.20.0.1"), 17, hdr{}, udpPorts(H14, netip.MustParseAddr("10.20.0.1"), 68, 67, 300)),
		} {
			b.dropped(wire.LinkScope, 1, func() { b.pass(name, from1(in)) })
		}
		for name, in := range scopedPackets(CN6, CN4) {
			b.dropped(wire.LinkScope, 1, func() { b.pass(name+" down", fromCore(wrap(LMAA, CoA1, in))) })
		}
		b.dropped(wire.LinkScope, 1, func() {
			b.pass("a forged DHCP answer", fromCore(wrap(LMAA, CoA1, v4(CN4, H14, 17, hdr{}, udpPorts(CN4, H14, 67, 68, 300)))))
		})
	}},
	{name: "gateway/move", o: gateway, f: func(b *bench) { // a host with another MAC, then on another link: one update moves its keys
		b.update(core.SetSession{ID: sessionOne, Chain: chain(CoA1, LMAA), If: b.r.If(2), MAC: Stranger})
		for _, f := range families {
			down, up := udpPacket(f.cn, f.one, hdr{hop: 63}, 100), udpPacket(f.one, f.cn, hdr{}, 100)
			b.pass(f.name+" down", fromCore(wrap(LMAA, CoA1, udpPacket(f.cn, f.one, hdr{}, 100))), want{Packet: Packet{Side: Native, Link: 2, MAC: Stranger, B: down}})
			b.pass(f.name+" up", Packet{Side: Native, Link: 2, MAC: Stranger, B: up}, toCore(wrap(CoA1, LMAA, udpPacket(f.one, f.cn, hdr{hop: 63}, 100))))
			b.pass(f.name+" up from the old place", from1(up))
		}
	}},
	{name: "gateway/another anchor", o: gateway, f: func(b *bench) { // packets on their way from the old anchor address still come in
		other := netip.MustParseAddr("2001:db8:a::2")
		b.update(core.SetSession{ID: sessionOne, Chain: chain(CoA1, other), If: b.r.If(1), MAC: Host1, Grace: grace})
		down, out := udpPacket(CN6, H16, hdr{}, 100), udpPacket(CN6, H16, hdr{hop: 63}, 100)
		b.pass("new", fromCore(wrap(other, CoA1, down)), to1(out))
		b.pass("old", fromCore(wrap(LMAA, CoA1, down)), to1(out))
		b.r.Advance(grace)
		b.dropped(wire.WrongTunnel, 1, func() { b.pass("old, after the grace", fromCore(wrap(LMAA, CoA1, down))) })
	}},
	{name: "gateway/super packets", o: gateway, f: func(b *bench) {
		for _, f := range families {
			b.superPacket(f.one, f.cn, from1(nil), func(seg []byte) []byte { return wrap(CoA1, LMAA, seg) })
		}
	}},
	{name: "gateway/partial checksum from the tunnel", o: gateway, f: func(b *bench) {
		b.partial(func(p []byte) []byte { return wrap(LMAA, CoA1, p) }, to1, CN6, H16)
		b.partial(func(p []byte) []byte { return wrap(LMAA, CoA1, p) }, to1, CN4, H14)
	}},
}
