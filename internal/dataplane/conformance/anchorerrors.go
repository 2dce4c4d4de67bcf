package conformance

import (
	"fmt"
	"net/netip"
	"time"

	"kedge/internal/core"
	"kedge/internal/dataplane"
	"kedge/internal/spec"
	"kedge/wire"
)

// told wants an ICMP error on the native side of an anchor.
func told(dst netip.Addr, typ, code byte, info uint32, about []byte) want {
	return want{Packet{Side: Native}, &icmpWant{dst: dst, typ: typ, code: code, info: info, about: about}}
}

// tunnelError is an ICMPv6 error of a router in the core about an outer packet.
func tunnelError(dst netip.Addr, typ, code byte, info uint32, about []byte) Packet {
	quote := about[:min(len(about), 1232)]
	return fromCore(v6(Alien, dst, 58, hdr{}, icmp6(Alien, dst, typ, code, info, quote)))
}

var anchorErrorCases = []testCase{
	{name: "anchor/too big", o: anchor, f: func(b *bench) {
		big6 := udpPacket(CN6, H16, hdr{}, tunnelMTU+1)
		b.dropped(wire.TooBig, 1, func() { b.pass("IPv6", fromCN(big6), told(CN6, 2, 0, uint32(tunnelMTU), big6)) })
		big4 := udpPacket(CN4, H14, hdr{df: true}, tunnelMTU+1)
		b.dropped(wire.TooBig, 1, func() { b.pass("IPv4 with DF", fromCN(big4), told(CN4, 3, 4, uint32(tunnelMTU), big4)) })
		b.fragmented("IPv4 without DF", fromCN(udpPacket(CN4, H14, hdr{id: 3}, tunnelMTU+1)), wrap(LMAA, CoA1, udpPacket(CN4, H14, hdr{id: 3, hop: 63}, tunnelMTU+1)), 1500)
		b.fragmented("IPv4 without DF, whole MTU", fromCN(udpPacket(CN4, H14, hdr{id: 3, tos: 0x2a}, 1500)), wrap(LMAA, CoA1, udpPacket(CN4, H14, hdr{id: 3, hop: 63, tos: 0x2a}, 1500)), 1500)
	}},
	{name: "anchor/small path MTU", o: anchor, f: func(b *bench) {
		// A router in the core says that the path to gateway 1 carries 1,290 octets: a tunnel MTU of 1,250.
		sent := wrap(LMAA, CoA1, udpPacket(CN6, H16, hdr{hop: 63}, 1400))
		inner := udpPacket(CN6, H16, hdr{}, 1400)
		b.pass("Packet Too Big is relayed", tunnelError(LMAA, 2, 0, 1290, sent), told(CN6, 2, 0, 1280, inner[:1232-40]))
		six, four := udpPacket(CN6, H16, hdr{}, 1281), udpPacket(CN4, H14, hdr{df: true}, 1251)
		b.pass("IPv6 of 1,281 octets", fromCN(six), told(CN6, 2, 0, 1280, six))
		b.fragmented("IPv6 of 1,280 octets", fromCN(udpPacket(CN6, H16, hdr{}, 1280)), wrap(LMAA, CoA1, udpPacket(CN6, H16, hdr{hop: 63}, 1280)), 1290)
		b.fragmented("IPv6 of 1,251 octets", fromCN(udpPacket(CN6, H16, hdr{}, 1251)), wrap(LMAA, CoA1, udpPacket(CN6, H16, hdr{hop: 63}, 1251)), 1290)
		b.pass("IPv6 that fits", fromCN(udpPacket(CN6, H16, hdr{}, 1250)), toCore(wrap(LMAA, CoA1, udpPacket(CN6, H16, hdr{hop: 63}, 1250))))
		b.pass("IPv4 with DF", fromCN(four), told(CN4, 3, 4, 1250, four))
		b.fragmented("IPv4 without DF", fromCN(udpPacket(CN4, H14, hdr{}, 1251)), wrap(LMAA, CoA1, udpPacket(CN4, H14, hdr{hop: 63}, 1251)), 1290)
		b.pass("another gateway's path", fromCN(udpPacket(CN6, H26, hdr{}, 1460)), toCore(wrap(LMAA, CoA2, udpPacket(CN6, H26, hdr{hop: 63}, 1460))))
		b.r.Advance(10*time.Minute + time.Second)
		b.pass("forgotten after ten minutes", fromCN(udpPacket(CN6, H16, hdr{}, 1460)), toCore(wrap(LMAA, CoA1, udpPacket(CN6, H16, hdr{hop: 63}, 1460))))
		b.update(core.SetSession{ID: sessionOne, Chain: core.Chain{N: 1, MTU: 1290, Layer: chain(LMAA, CoA1).Layer}})
		b.pass("MTU of the chain", fromCN(six), told(CN6, 2, 0, 1280, six))
	}},
	{name: "anchor/forged too big", o: anchor, f: func(b *bench) {
		full := udpPacket(CN6, H16, hdr{}, 1460)
		still := func(why string) {
			b.Helper()
			b.pass("after "+why, fromCN(full), toCore(wrap(LMAA, CoA1, udpPacket(CN6, H16, hdr{hop: 63}, 1460))))
		}
		sent := wrap(LMAA, CoA1, udpPacket(CN6, H16, hdr{hop: 63}, 1400))
		b.pass("below 1,280", tunnelError(LMAA, 2, 0, 1279, sent))
		still("one below 1,280 (RFC 8201 4)")
		b.pass("not smaller than the packet", tunnelError(LMAA, 2, 0, 1440, sent))
		still("one that is not smaller than the packet")
		b.dropped(wire.Unsolicited, 1, func() {
			b.pass("unknown tunnel", tunnelError(LMAA, 2, 0, 1300, wrap(LMAA, Alien, udpPacket(CN6, H16, hdr{}, 1400))))
		})
		b.dropped(wire.Unsolicited, 1, func() {
			b.pass("a packet to nobody", tunnelError(LMAA, 1, 3, 0, wrap(LMAA, CoA2, udpPacket(CN6, Nobody, hdr{}, 1400))))
		})
		b.dropped(wire.Unsolicited, 1, func() {
			b.pass("a host at another gateway", tunnelError(LMAA, 1, 3, 0, wrap(LMAA, CoA2, udpPacket(CN6, H16, hdr{}, 1400))))
		})
		// Whoever knows the two ends of a tunnel does not know who is behind it.
		b.dropped(wire.Unsolicited, 4, func() {
			b.pass("too big, to nobody", tunnelError(LMAA, 2, 0, 1280, wrap(LMAA, CoA1, udpPacket(CN6, Nobody, hdr{}, 1400))))
			b.pass("too big, to a host at another gateway", tunnelError(LMAA, 2, 0, 1280, wrap(LMAA, CoA1, udpPacket(CN6, H26, hdr{}, 1400))))
			b.pass("too big, inner packet shorter than the outer one says", tunnelError(LMAA, 2, 0, 1280, v6(LMAA, CoA1, 41, hdr{}, append(udpPacket(CN6, H16, hdr{}, 100), filling(1300)...))))
			b.pass("too big, inner packet longer", tunnelError(LMAA, 2, 0, 1280, wrap(LMAA, CoA1, udpPacket(CN6, H16, hdr{}, 1400)[:1390])))
		})
		b.pass("too big, no inner packet left", tunnelError(LMAA, 2, 0, 1280, sent[:40]))
		b.pass("too big, a later fragment", tunnelError(LMAA, 2, 0, 1280, cut(wrap(LMAA, CoA1, udpPacket(CN6, H16, hdr{hop: 63}, 2800)), 1500)[1]))
		b.pass("too big, another protocol", tunnelError(LMAA, 2, 0, 1280, v6(LMAA, CoA1, 135, hdr{}, filling(1400))))
		still("forged ones")
	}},
	{name: "anchor/errors in the tunnel", o: anchor, f: func(b *bench) {
		// RFC 2473 8.2, 8.3: whatever happened in the tunnel is "address unreachable" or "host unreachable" to the source.
		for _, c := range []struct {
			name      string
			typ, code byte
		}{{"no route", 1, 0}, {"prohibited", 1, 1}, {"address unreachable", 1, 3}, {"hop limit exceeded", 3, 0}} {
			in6, in4 := udpPacket(CN6, H16, hdr{}, 500), udpPacket(CN4, H14, hdr{df: true}, 500)
			b.pass(c.name+", IPv6", tunnelError(LMAA, c.typ, c.code, 0, wrap(LMAA, CoA1, in6)), told(CN6, 1, 3, 0, in6))
			b.pass(c.name+", IPv4", tunnelError(LMAA, c.typ, c.code, 0, wrap(LMAA, CoA1, in4)), told(CN4, 3, 1, 0, in4))
		}
		long := udpPacket(CN4, H14, hdr{df: true}, 1400)
		b.pass("a quotation that is cut short", tunnelError(LMAA, 1, 3, 0, wrap(LMAA, CoA1, long)), told(CN4, 3, 1, 0, long))
		b.pass("Packet Too Big about IPv4 with DF", tunnelError(LMAA, 2, 0, 1300, wrap(LMAA, CoA1, long)), told(CN4, 3, 4, 1260, long))
		b.r.Advance(time.Hour)
		b.pass("about a packet that is fragmented from now on", tunnelError(LMAA, 2, 0, 1290, wrap(LMAA, CoA1, udpPacket(CN6, H16, hdr{}, 1280))))
		b.pass("about a hairpin packet", tunnelError(LMAA, 1, 3, 0, wrap(LMAA, CoA2, udpPacket(H16, H26, hdr{}, 300))), want{Packet{Side: Tunnel}, &icmpWant{
			outer: wrap(LMAA, CoA1, v6(LMAA, H16, 58, hdr{}, nil)), dst: H16, typ: 1, code: 3, about: udpPacket(H16, H26, hdr{}, 300),
		}})
		parts := cut(wrap(LMAA, CoA1, udpPacket(CN6, H16, hdr{}, 1280)), 700)
		b.pass("about the first fragment of an outer packet", tunnelError(LMAA, 1, 3, 0, parts[0]), told(CN6, 1, 3, 0, udpPacket(CN6, H16, hdr{}, 1280)[:len(parts[0])-48]))
		b.pass("about a later fragment", tunnelError(LMAA, 1, 3, 0, parts[1]))
		errorIn := v6(CN6, H16, 58, hdr{}, icmp6(CN6, H16, 1, 4, 0, udpPacket(H16, CN6, hdr{}, 200)))
		b.pass("about an ICMPv6 error", tunnelError(LMAA, 1, 3, 0, wrap(LMAA, CoA1, errorIn)))
		b.pass("parameter problem of another kind", tunnelError(LMAA, 4, 1, 6, wrap(LMAA, CoA1, udpPacket(CN6, H16, hdr{}, 200))))
		b.pass("cut within the inner header", tunnelError(LMAA, 1, 3, 0, wrap(LMAA, CoA1, udpPacket(CN6, H16, hdr{}, 200))[:79]))
	}},
	{name: "anchor/expired hop limit", o: anchor, f: func(b *bench) {
		for _, f := range families {
			typ := map[bool]byte{true: 11, false: 3}[f.cn.Is4()]
			down := udpPacket(f.cn, f.one, hdr{hop: 1}, 100)
			b.pass(f.name+" down", fromCN(down), told(f.cn, typ, 0, 0, down))
			b.pass(f.name+" down, hop limit 2", fromCN(udpPacket(f.cn, f.one, hdr{hop: 2}, 100)), toCore(wrap(LMAA, CoA1, udpPacket(f.cn, f.one, hdr{hop: 1}, 100))))
			up := udpPacket(f.one, f.cn, hdr{hop: 1}, 100)
			me := map[bool]netip.Addr{true: LMAA4, false: LMAA}[f.cn.Is4()]
			b.pass(f.name+" up", fromCore(wrap(CoA1, LMAA, up)), want{Packet{Side: Tunnel}, &icmpWant{
				outer: wrap(LMAA, CoA1, packet(me, f.one, 1, hdr{}, nil)), dst: f.one, typ: typ, about: up,
			}})
		}
	}},
	{name: "anchor/nobody", o: anchor, f: func(b *bench) {
		spec.Covers(b, "S001-3.3.3-04")
		for _, f := range families {
			nobody, typ, code := Nobody, byte(1), byte(3)
			if f.cn.Is4() {
				nobody, typ, code = Nemo4, 3, 1
			}
			b.reports()
			b.r.Advance(time.Second)
			in := udpPacket(f.cn, nobody, hdr{}, 700)
			b.dropped(wire.UnknownHome, 1, func() { b.pass(f.name, fromCN(in), told(f.cn, typ, code, 0, in)) })
			if r := b.report(wire.UnknownHome); r.Inner.Dst != host(nobody) || r.Inner.Src != host(f.cn) {
				b.Errorf("report %+v does not say for whom", r)
			}
			// The bucket of one source holds ten.
			b.r.Advance(time.Minute)
			got := 0
			for range 40 {
				b.r.Send(fromCN(udpPacket(f.cn, nobody, hdr{}, 100)))
				got += len(b.r.Drain())
			}
			if got != 10 {
				b.Errorf("%s: 40 packets to nobody were answered by %d errors, want 10", f.name, got)
			}
			b.r.Advance(time.Second)
			in = udpPacket(f.cn, nobody, hdr{}, 100)
			b.pass(f.name+", a second later", fromCN(in), told(f.cn, typ, code, 0, in))
		}
		b.r.Advance(time.Second)
		err6 := v6(CN6, Nobody, 58, hdr{}, icmp6(CN6, Nobody, 1, 3, 0, udpPacket(Nobody, CN6, hdr{}, 100)))
		b.pass("an ICMPv6 error to nobody", fromCN(err6))
		b.pass("an ICMP error to nobody", fromCN(v4(CN4, Nemo4, 1, hdr{}, icmp4(3, 1, 0, udpPacket(Nemo4, CN4, hdr{}, 100)[:48]))))
		b.pass("a later fragment to nobody", fromCN(v4(CN4, Nemo4, 17, hdr{off: 64}, filling(64))))
		echo := v6(CN6, Nobody, 58, hdr{}, icmp6(CN6, Nobody, 128, 0, 1, nil))
		b.pass("an echo request to nobody", fromCN(echo), told(CN6, 1, 3, 0, echo))
		hairpin := udpPacket(H16, Nobody, hdr{}, 100)
		b.pass("from a host", fromCore(wrap(CoA1, LMAA, hairpin)), want{Packet{Side: Tunnel}, &icmpWant{
			outer: wrap(LMAA, CoA1, v6(LMAA, H16, 58, hdr{}, nil)), dst: H16, typ: 1, code: 3, about: hairpin,
		}})
	}},
	{name: "anchor/encapsulation limit", o: anchor, f: func(b *bench) {
		limit := func(n byte, hop int) []byte { // a tunnel packet that enters the tunnel: IPv6 in IPv6 with a limit
			return v6(CN6, H16, 60, hdr{hop: hop}, append([]byte{41, 0, 4, 1, n, 1, 1, 0}, udpPacket(CN6, H26, hdr{}, 100)...))
		}
		around := func(n byte, in []byte) []byte {
			return v6(LMAA, CoA1, 60, hopsLeft(hdr{}, in), append([]byte{41, 0, 4, 1, n, 1, 1, 0}, in...))
		}
		b.pass("limit 3", fromCN(limit(3, 64)), toCore(around(2, limit(3, 63))))
		b.pass("limit 1", fromCN(limit(1, 64)), toCore(around(0, limit(1, 63))))
		b.dropped(wire.EncapsulateDeep, 1, func() { b.pass("limit 0", fromCN(limit(0, 64)), told(CN6, 4, 0, 44, limit(0, 64))) })
		out := around(2, limit(3, 63))
		b.pass("another octet of the option", tunnelError(LMAA, 4, 0, 43, out))
		b.pass("another code about the limit", tunnelError(LMAA, 4, 2, 44, out))
		b.pass("the limit ends in the tunnel", tunnelError(LMAA, 4, 0, 44, out), told(CN6, 1, 3, 0, limit(3, 63)))
	}},
	{name: "anchor/configured encapsulation limit", o: Options{Role: dataplane.Anchor, EncapsulationLimit: 4}, f: func(b *bench) {
		for _, f := range families {
			next := map[bool]byte{true: 4, false: 41}[f.cn.Is4()]
			for _, size := range []int{100, 1452} {
				b.pass(fmt.Sprintf("%s, %d octets", f.name, size), fromCN(udpPacket(f.cn, f.one, hdr{df: true}, size)),
					toCore(v6(LMAA, CoA1, 60, hdr{}, append([]byte{next, 0, 4, 1, 4, 1, 1, 0}, udpPacket(f.cn, f.one, hdr{df: true, hop: 63}, size)...))))
			}
		}
		big := udpPacket(CN6, H16, hdr{}, 1453)
		b.pass("the option costs eight octets", fromCN(big), told(CN6, 2, 0, 1452, big))
		in := udpPacket(H16, CN6, hdr{}, 100)
		b.pass("and is taken off", fromCore(v6(CoA1, LMAA, 60, hdr{}, append([]byte{41, 0, 4, 1, 0, 1, 1, 0}, in...))), toCN(udpPacket(H16, CN6, hdr{hop: 63}, 100)))
	}},
}

// fragmented wants the outer packet in fragments that fit the path.
func (b *bench) fragmented(name string, in Packet, outer []byte, mtu int) {
	b.Helper()
	var wants []want
	for _, p := range cut(outer, mtu) {
		wants = append(wants, toCore(p))
	}
	b.pass(name, in, wants...)
}
