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
	"kedge/wire/ip"
)

var anchor = Options{Role: dataplane.Anchor}

// family is a correspondent node and two hosts in one address family.
type family struct {
	name         string
	cn, one, two netip.Addr
}

var families = []family{{"IPv6", CN6, H16, H26}, {"IPv4", CN4, H14, H24}}

func (f family) least() int { return headerLen(f.cn) + 8 + 1 } // one octet of UDP payload

var anchorCases = []testCase{
	{name: "anchor/down", o: anchor, f: func(b *bench) {
		spec.Covers(b, "S001-3.3.2-15", "S001-3.3.3-03", "S001-3.3.3-05")
		for _, f := range families {
			for _, size := range []int{f.least(), 600, tunnelMTU - 1, tunnelMTU} {
				before, after := hdr{hop: 60, df: true, id: 7}, hdr{hop: 59, df: true, id: 7}
				b.pass(fmt.Sprintf("%s UDP, %d octets", f.name, size), fromCN(udpPacket(f.cn, f.one, before, size)),
					toCore(wrap(LMAA, CoA1, udpPacket(f.cn, f.one, after, size))))
				size = max(size, headerLen(f.cn)+20+1)
				b.pass(fmt.Sprintf("%s TCP, %d octets", f.name, size), fromCN(tcpPacket(f.cn, f.one, before, size)),
					toCore(wrap(LMAA, CoA1, tcpPacket(f.cn, f.one, after, size))))
			}
		}
		// The bytes of one written out in full.
		b.pass("written out", fromCN([]byte{
			0x45, 0x00, 0x00, 0x1d, 0x00, 0x01, 0x40, 0x00, 0x40, 0x11, 0xf4, 0xa7, 203, 0, 113, 9, 10, 20, 0, 10,
			0x9c, 0x40, 0xc3, 0x50, 0x00, 0x09, 0x00, 0x00, 'x',
		}), toCore([]byte{
			0x60, 0x00, 0x00, 0x00, 0x00, 0x1d, 0x04, 0x40,
			0x20, 0x01, 0x0d, 0xb8, 0x00, 0x0a, 0, 0, 0, 0, 0, 0, 0, 0, 0x00, 0x01,
			0x20, 0x01, 0x0d, 0xb8, 0x00, 0x0a, 0, 0, 0, 0, 0, 0, 0, 0, 0x00, 0x11,
			0x45, 0x00, 0x00, 0x1d, 0x00, 0x01, 0x40, 0x00, 0x3f, 0x11, 0xf5, 0xa7, 203, 0, 113, 9, 10, 20, 0, 10,
			0x9c, 0x40, 0xc3, 0x50, 0x00, 0x09, 0x00, 0x00, 'x',
		}))
	}},
	{name: "anchor/up", o: anchor, f: func(b *bench) {
		spec.Covers(b, "S001-3.3.2-15", "S001-3.3.3-06")
		for _, f := range families {
			for _, size := range []int{f.least(), 600, tunnelMTU} {
				in := udpPacket(f.one, f.cn, hdr{hop: 64, id: 7}, size)
				out := udpPacket(f.one, f.cn, hdr{hop: 63, id: 7}, size)
				b.pass(fmt.Sprintf("%s, %d octets", f.name, size), fromCore(wrap(CoA1, LMAA, in)), toCN(out))
			}
			seg := tcpPacket(f.one, f.cn, hdr{id: 7}, 900)
			b.pass(f.name+" TCP", fromCore(wrap(CoA1, LMAA, seg)), toCN(tcpPacket(f.one, f.cn, hdr{hop: 63, id: 7}, 900)))
		}
	}},
	{name: "anchor/hairpin", o: anchor, f: func(b *bench) {
		spec.Covers(b, "S001-3.3.3-06")
		// Host 3 shares gateway 1 with host 1; hosts 1, 2 and 3 have addresses of one /24.
		b.update(
			core.SetSession{ID: 3, Chain: chain(LMAA, CoA1)},
			core.SetKey{ID: 3, Match: core.Match{Dst: HNP3}, Up: true, Down: true},
			core.SetKey{ID: 3, Match: core.Match{Dst: host(H34)}, Up: true, Down: true},
		)
		for _, c := range []struct {
			name     string
			src, dst netip.Addr
			to       netip.Addr
		}{{"two gateways, IPv6", H16, H26, CoA2}, {"two gateways, IPv4", H14, H24, CoA2}, {"one gateway, IPv6", H16, H36, CoA1}, {"one gateway, IPv4", H14, H34, CoA1}} {
			in := udpPacket(c.src, c.dst, hdr{hop: 64, tos: 0xb9}, 500)
			out := udpPacket(c.src, c.dst, hdr{hop: 63, tos: 0xb9}, 500)
			b.pass(c.name, fromCore(wrap(CoA1, LMAA, in)), toCore(wrap(LMAA, c.to, out)))
		}
		in := udpPacket(H16, H26, hdr{hop: 1}, 500)
		b.dropped(wire.HopLimit, 1, func() {
			b.pass("hop limit 1", fromCore(wrap(CoA1, LMAA, in)), want{Packet{Side: Tunnel}, &icmpWant{
				outer: wrap(LMAA, CoA1, v6(LMAA, H16, 58, hdr{}, nil)), dst: H16, typ: 3, about: in,
			}})
		})
	}},
	{name: "anchor/traffic class", o: anchor, f: func(b *bench) {
		spec.Covers(b, "S001-3.3.2-16")
		for _, f := range families {
			for ecn := range byte(4) {
				tos := 0x28 | ecn
				b.pass(fmt.Sprintf("%s down, %02x", f.name, tos), fromCN(udpPacket(f.cn, f.one, hdr{tos: tos}, 100)),
					toCore(v6(LMAA, CoA1, map[bool]byte{true: 4, false: 41}[f.cn.Is4()], hdr{tos: tos}, udpPacket(f.cn, f.one, hdr{hop: 63, tos: tos}, 100))))
			}
			b.congestion(f, CoA1, LMAA, f.one, f.cn, fromCore, toCN)
		}
	}},
	{name: "anchor/fragments", o: anchor, f: func(b *bench) { // inner ones pass as they are, outer ones are put together
		frag := func(hop int) []byte {
			return v6(CN6, H16, 44, hdr{hop: hop}, append([]byte{17, 0, 0, 65, 1, 2, 3, 4}, filling(64)...))
		}
		b.pass("IPv6 fragment down", fromCN(frag(64)), toCore(wrap(LMAA, CoA1, frag(63))))
		later := hdr{id: 9, off: 64, mf: true}
		after := later
		after.hop = 63
		b.pass("IPv4 fragment down", fromCN(v4(CN4, H14, 17, later, filling(64))), toCore(wrap(LMAA, CoA1, v4(CN4, H14, 17, after, filling(64)))))
		for _, f := range families {
			in, out := udpPacket(f.one, f.cn, hdr{id: 5}, 1280), udpPacket(f.one, f.cn, hdr{id: 5, hop: 63}, 1280)
			parts := cut(wrap(CoA1, LMAA, in), 600)
			for i, p := range parts {
				var wants []want
				if i == len(parts)-1 {
					wants = append(wants, toCN(out))
				}
				b.pass(fmt.Sprintf("%s outer fragment %d", f.name, i), fromCore(p), wants...)
			}
			for i := range parts {
				p := bytes.Clone(parts[len(parts)-1-i])
				p[47]++ // another Identification
				var wants []want
				if i == len(parts)-1 {
					wants = append(wants, toCN(out))
				}
				b.pass(fmt.Sprintf("%s outer fragment %d, backwards", f.name, i), fromCore(p), wants...)
			}
		}
	}},
	{name: "anchor/overlapping fragments", o: anchor, f: func(b *bench) {
		parts := cut(wrap(CoA1, LMAA, udpPacket(H16, CN6, hdr{}, 1280)), 600)
		evil := bytes.Clone(parts[1])
		evil[43] -= 8 // eight octets into the first one
		b.pass("first", fromCore(parts[0]))
		b.pass("overlapping", fromCore(evil))
		for i, p := range parts[1:] {
			b.pass(fmt.Sprintf("rest %d", i), fromCore(p))
		}
	}},
	{name: "anchor/forged", o: anchor, f: func(b *bench) {
		spec.Covers(b, "S001-3.3.3-07")
		for _, f := range families {
			other := map[bool]netip.Addr{true: Nemo4, false: Nobody}[f.cn.Is4()]
			b.reports()
			b.r.Advance(time.Second)
			b.dropped(wire.WrongSource, 1, func() {
				b.pass(f.name+": source is nobody's", fromCore(wrap(CoA1, LMAA, udpPacket(other, f.cn, hdr{}, 100))))
			})
			if r := b.report(wire.WrongSource); r.Outer.Remote.Addr() != CoA1 || r.Inner.Src != host(other) {
				b.Errorf("report %+v does not say who did it", r)
			}
			b.r.Advance(time.Second)
			b.dropped(wire.WrongTunnel, 1, func() {
				b.pass(f.name+": source of a host at another gateway", fromCore(wrap(CoA1, LMAA, udpPacket(f.two, f.cn, hdr{}, 100))))
			})
			b.report(wire.WrongTunnel)
			b.r.Advance(time.Second)
			b.dropped(wire.WrongTunnel, 1, func() {
				b.pass(f.name+": outer source is nobody's", fromCore(wrap(Alien, LMAA, udpPacket(f.one, f.cn, hdr{}, 100))))
			})
			b.report(wire.WrongTunnel)
			b.dropped(wire.WrongSource, 1, func() {
				b.pass(f.name+": source outside the home network", fromCore(wrap(CoA1, LMAA, udpPacket(f.cn, f.one, hdr{}, 100))))
			})
		}
		b.reports()
		b.r.Advance(time.Second)
		b.dropped(wire.WrongTunnel, 50, func() {
			for range 50 {
				b.pass("a flood", fromCore(wrap(Alien, LMAA, udpPacket(H16, CN6, hdr{}, 100))))
			}
		})
		b.report(wire.WrongTunnel) // one of fifty
	}},
	{name: "anchor/bad inner", o: anchor, f: func(b *bench) {
		good := udpPacket(H14, CN4, hdr{}, 100)
		edit := func(at int, v byte) []byte { p := bytes.Clone(good); p[at] = v; return p }
		for name, in := range map[string][]byte{
			"truncated": good[:60], "one octet": good[:1], "version 7": edit(0, 0x75), "checksum": edit(10, good[10]+1),
			"header length 0": edit(0, 0x40), "version of the other family": udpPacket(H16, CN6, hdr{}, 100)[:39],
		} {
			b.dropped(wire.BadInner, 1, func() { b.pass(name, fromCore(v6(CoA1, LMAA, 4, hdr{}, in))) })
		}
		b.dropped(wire.BadInner, 3, func() {
			b.pass("IPv6 where the outer header says IPv4", fromCore(v6(CoA1, LMAA, 4, hdr{}, udpPacket(H16, CN6, hdr{}, 100))))
			b.pass("IPv4 where the outer header says IPv6", fromCore(v6(CoA1, LMAA, 41, hdr{}, good)))
			jumbo := append(v6(H16, CN6, 0, hdr{}, nil), 17, 0, 0xc2, 4, 0, 1, 0, 0) // its length is in an option
			b.pass("a jumbogram", fromCore(v6(CoA1, LMAA, 41, hdr{}, jumbo)))
		})
		// What a router does not look at passes: options, routing headers, tunnels in tunnels.
		for name, c := range map[string]struct {
			next byte
			body []byte
		}{
			"hop-by-hop options":        {0, append([]byte{17, 0, 5, 2, 0, 0, 1, 0}, udp(H16, CN6, 100)...)},
			"a routing header":          {43, append([]byte{17, 2, 0, 0, 0, 0, 0, 0, 0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 9}, udp(H16, CN6, 100)...)},
			"IPv6 in IPv6":              {41, udpPacket(Nobody, LMAA, hdr{}, 100)},
			"IPv6 in IPv6 in IPv6":      {41, v6(Nobody, H26, 41, hdr{}, udpPacket(H16, CN6, hdr{}, 100))},
			"no next header, with data": {59, filling(16)},
		} {
			b.pass(name, fromCore(wrap(CoA1, LMAA, v6(H16, CN6, c.next, hdr{}, c.body))), toCN(v6(H16, CN6, c.next, hdr{hop: 63}, c.body)))
			b.pass(name+", down", fromCN(v6(CN6, H16, c.next, hdr{}, c.body)), toCore(wrap(LMAA, CoA1, v6(CN6, H16, c.next, hdr{hop: 63}, c.body))))
		}
	}},
	{name: "anchor/link scope", o: anchor, f: func(b *bench) {
		for name, in := range scopedPackets(H16, H14) {
			b.dropped(wire.LinkScope, 1, func() { b.pass(name, fromCore(wrap(CoA1, LMAA, in))) })
		}
	}},
	{name: "anchor/handover", o: anchor, f: func(b *bench) {
		spec.Covers(b, "S001-3.3.2-17")
		in6, in4 := udpPacket(CN6, H16, hdr{}, 100), udpPacket(CN4, H14, hdr{}, 100)
		out6, out4 := udpPacket(CN6, H16, hdr{hop: 63}, 100), udpPacket(CN4, H14, hdr{hop: 63}, 100)
		b.pass("before, IPv6", fromCN(in6), toCore(wrap(LMAA, CoA1, out6)))
		b.pass("before, IPv4", fromCN(in4), toCore(wrap(LMAA, CoA1, out4)))
		b.update(core.SetSession{ID: sessionOne, Chain: chain(LMAA, CoA2), Grace: grace})
		b.pass("after, IPv6", fromCN(in6), toCore(wrap(LMAA, CoA2, out6)))
		b.pass("after, IPv4: one update moves every key", fromCN(in4), toCore(wrap(LMAA, CoA2, out4)))

		up, upOut := udpPacket(H14, CN4, hdr{}, 100), udpPacket(H14, CN4, hdr{hop: 63}, 100)
		b.pass("from the new gateway", fromCore(wrap(CoA2, LMAA, up)), toCN(upOut))
		b.pass("from the old one, on its way still", fromCore(wrap(CoA1, LMAA, up)), toCN(upOut))
		b.r.Advance(grace - time.Millisecond)
		b.pass("in the last millisecond of grace", fromCore(wrap(CoA1, LMAA, up)), toCN(upOut))
		b.r.Advance(time.Millisecond)
		b.dropped(wire.WrongTunnel, 1, func() { b.pass("after the grace", fromCore(wrap(CoA1, LMAA, up))) })
		b.pass("from the new gateway still", fromCore(wrap(CoA2, LMAA, up)), toCN(upOut))

		b.update(core.SetSession{ID: sessionOne, Chain: chain(LMAA, CoA1)})
		b.dropped(wire.WrongTunnel, 1, func() { b.pass("no grace", fromCore(wrap(CoA2, LMAA, up))) })
		b.pass("back", fromCN(in4), toCore(wrap(LMAA, CoA1, out4)))

		b.update(core.Drop{ID: sessionOne})
		b.r.Advance(time.Minute)
		b.pass("gone", fromCN(in4), want{Packet{Side: Native}, &icmpWant{dst: CN4, typ: 3, code: 1, about: in4}})
		b.dropped(wire.WrongTunnel, 1, func() { b.pass("gone, up", fromCore(wrap(CoA1, LMAA, up))) })
	}},
	{name: "anchor/deprecated", o: anchor, f: func(b *bench) {
		b.update(
			core.SetKey{ID: sessionOne, Match: core.Match{Dst: HNP1}},
			core.SetKey{ID: sessionOne, Match: core.Match{Dst: host(H14)}},
		)
		for _, f := range families {
			b.dropped(wire.Deprecated, 1, func() { b.pass(f.name+" down, silently", fromCN(udpPacket(f.cn, f.one, hdr{}, 100))) })
			b.dropped(wire.Deprecated, 1, func() { b.pass(f.name+" up", fromCore(wrap(CoA1, LMAA, udpPacket(f.one, f.cn, hdr{}, 100)))) })
			b.dropped(wire.Deprecated, 1, func() { b.pass(f.name+" from a host", fromCore(wrap(CoA2, LMAA, udpPacket(f.two, f.one, hdr{}, 100)))) })
		}
		b.silent()
		// Transparent where a shorter key of another registration takes over.
		b.update(core.SetKey{ID: sessionTwo, Match: core.Match{Dst: netip.MustParsePrefix("2001:db8:1000::/60")}, Up: true, Down: true})
		b.pass("another registration", fromCN(udpPacket(CN6, H16, hdr{}, 100)), toCore(wrap(LMAA, CoA2, udpPacket(CN6, H16, hdr{hop: 63}, 100))))
	}},
	{name: "anchor/shadow", o: anchor, f: func(b *bench) {
		// A host registration takes the downward direction; the proxy registration of the same address keeps the upward one.
		b.update(
			core.SetKey{ID: sessionTwo, Match: core.Match{Dst: host(H14)}, Up: true, Down: true},
			core.SetKey{ID: sessionOne, Match: core.Match{Dst: host(H14)}, Up: true},
		)
		b.pass("down", fromCN(udpPacket(CN4, H14, hdr{}, 100)), toCore(wrap(LMAA, CoA2, udpPacket(CN4, H14, hdr{hop: 63}, 100))))
		up, out := udpPacket(H14, CN4, hdr{}, 100), udpPacket(H14, CN4, hdr{hop: 63}, 100)
		b.pass("up by the shadow", fromCore(wrap(CoA1, LMAA, up)), toCN(out))
		b.pass("up by the other", fromCore(wrap(CoA2, LMAA, up)), toCN(out))
	}},
	{name: "anchor/super packets", o: anchor, f: func(b *bench) {
		for _, f := range families {
			b.superPacket(f.cn, f.one, Packet{Side: Native}, func(seg []byte) []byte { return wrap(LMAA, CoA1, seg) })
		}
	}},
	{name: "anchor/partial checksum from the tunnel", o: anchor, f: func(b *bench) {
		b.partial(func(p []byte) []byte { return wrap(CoA1, LMAA, p) }, toCN, H16, CN6)
		b.partial(func(p []byte) []byte { return wrap(CoA1, LMAA, p) }, toCN, H14, CN4)
	}},
}

// congestion runs the whole table of RFC 6040 figure 4 through a decapsulation, with DSCP from the outer header.
func (b *bench) congestion(f family, osrc, odst, src, dst netip.Addr, in func([]byte) Packet, out func([]byte) want) {
	b.Helper()
	for _, row := range congestionTable {
		name := fmt.Sprintf("%s, inner ECN %d, outer %d", f.name, row.inner, row.outer)
		pkt := udpPacket(src, dst, hdr{tos: 0x28 | row.inner}, 100)
		outer := v6(osrc, odst, map[bool]byte{true: 4, false: 41}[src.Is4()], hdr{tos: 0xb8 | row.outer}, pkt)
		if row.result == dropped {
			b.dropped(wire.ECNDrop, 1, func() { b.pass(name, in(outer)) })
			continue
		}
		b.pass(name, in(outer), out(udpPacket(src, dst, hdr{hop: 63, tos: 0xb8 | row.result}, 100)))
	}
}

// superPacket sends a TCP packet of nearly 64 KB that the sender's device should have cut, and a UDP one, and wants segments.
func (b *bench) superPacket(src, dst netip.Addr, where Packet, expect func(seg []byte) []byte) {
	b.Helper()
	b.superPacketHop(src, dst, where, 63, expect)
}

func (b *bench) superPacketHop(src, dst netip.Addr, where Packet, hop int, expect func(seg []byte) []byte) {
	b.Helper()
	const size, fin, ack, psh = 1300, 1, 16, 8
	head, kind := headerLen(src), uint8(ip.GSOTCP6)
	if src.Is4() {
		kind = ip.GSOTCP4
	}
	payload := filling(65535 - 60 - 40)
	body := tcp(src, dst, 7000, fin|psh|ack, payload)
	// What a host with offloads leaves in the checksum field: the sum of the pseudo header, not inverted.
	sum := ^pseudoSumOnly(src, dst, 6, len(body))
	body[16], body[17] = byte(sum>>8), byte(sum)
	where.B = packet(src, dst, 6, hdr{df: true, id: 100}, body)
	where.VNet = ip.VNet{NeedsChecksum: true, Type: kind, Size: size, CsumStart: head, CsumOffset: 16}
	var wants []want
	for off, i := 0, 0; off < len(payload); off, i = off+size, i+1 {
		end, flags := min(off+size, len(payload)), byte(ack)
		if end == len(payload) {
			flags |= fin | psh
		}
		h := hdr{hop: hop, df: true}
		if src.Is4() {
			h.id = uint16(100 + i)
		}
		wants = append(wants, toCore(expect(packet(src, dst, 6, h, tcp(src, dst, 7000+uint32(off), flags, payload[off:end])))))
	}
	b.unsummed = true // where a device cuts it, each segment would need a checksum of its own
	b.pass("TCP super packet", where, wants...)
	b.unsummed = false

	// A small one with only the checksum left to the device.
	body = udp(src, dst, 300)
	whole := bytes.Clone(body)
	sum = ^pseudoSumOnly(src, dst, 17, len(body))
	body[6], body[7] = byte(sum>>8), byte(sum)
	where.B = packet(src, dst, 17, hdr{}, body)
	where.VNet = ip.VNet{NeedsChecksum: true, CsumStart: head, CsumOffset: 6}
	b.pass("UDP with a partial checksum", where, toCore(expect(packet(src, dst, 17, hdr{hop: hop}, whole))))
}

func pseudoSumOnly(src, dst netip.Addr, proto byte, n int) uint16 {
	b := append(src.AsSlice(), dst.AsSlice()...)
	return plainSum(append(b, 0, 0, byte(n>>8), byte(n), 0, 0, 0, proto))
}

// partial sends a packet through the tunnel whose inner checksum was left to a device, as neighbours on one machine do.
func (b *bench) partial(outer func([]byte) []byte, out func([]byte) want, src, dst netip.Addr) {
	b.Helper()
	body := tcp(src, dst, 1, 16, filling(333))
	left := bytes.Clone(body)
	sum := ^pseudoSumOnly(src, dst, 6, len(body))
	left[16], left[17] = byte(sum>>8), byte(sum)
	in := fromCore(outer(packet(src, dst, 6, hdr{}, left)))
	in.VNet = ip.VNet{NeedsChecksum: true, CsumStart: 40 + headerLen(src), CsumOffset: 16}
	b.pass("partial checksum", in, out(packet(src, dst, 6, hdr{hop: 63}, body)))
}

// scopedPackets are packets that belong to one link.
func scopedPackets(h6, h4 netip.Addr) map[string][]byte {
	addr := netip.MustParseAddr
	nd := func(typ byte) []byte {
		return v6(h6, CN6, 58, hdr{hop: 255}, icmp6(h6, CN6, typ, 0, 0, make([]byte, 16)))
	}
	return map[string][]byte{
		"to all nodes":          udpPacket(h6, addr("ff02::1"), hdr{}, 100),
		"to a wider group":      udpPacket(h6, addr("ff0e::1"), hdr{}, 100),
		"to link-local":         udpPacket(h6, addr("fe80::2"), hdr{}, 100),
		"from link-local":       udpPacket(addr("fe80::2"), CN6, hdr{}, 100),
		"from nowhere":          udpPacket(addr("::"), CN6, hdr{}, 100),
		"router solicitation":   nd(133),
		"router advertisement":  nd(134),
		"neighbor solicitation": nd(135),
		"neighbor advertised":   nd(136),
		"redirect":              nd(137),
		"ND behind an extension header": v6(h6, CN6, 60, hdr{hop: 255}, append([]byte{58, 0, 1, 4, 0, 0, 0, 0},
			icmp6(h6, CN6, 135, 0, 0, make([]byte, 16))...)),
		"IPv4 multicast":       udpPacket(h4, addr("224.0.0.251"), hdr{}, 100),
		"IPv4 wider multicast": udpPacket(h4, addr("239.1.2.3"), hdr{}, 100),
		"IPv4 broadcast":       udpPacket(h4, addr("255.255.255.255"), hdr{}, 100),
		"to IPv4 link-local":   udpPacket(h4, addr("169.254.1.1"), hdr{}, 100),
		"from IPv4 link-local": udpPacket(addr("169.254.1.1"), CN4, hdr{}, 100),
		"IPv4 from nowhere":    udpPacket(addr("0.0.0.0"), CN4, hdr{}, 100),
		"IPv4 loopback":        udpPacket(h4, addr("127.0.0.1"), hdr{}, 100),
	}
}
