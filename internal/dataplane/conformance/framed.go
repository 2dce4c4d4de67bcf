package conformance

import (
	"fmt"
	"slices"
	"time"

	"kedge/internal/core"
	"kedge/internal/dataplane"
	"kedge/internal/spec"
	"kedge/wire"
)

// pathMTU is that of the routes of a Router.
const pathMTU = 1500

var framedCases = slices.Concat(
	inEach("into the tunnel", func(v view) {
		v.covers(dataplane.Anchor, "IPv6", "S004-2.2.1-03", "S004-3.4-21")
		v.covers(dataplane.Anchor, "IPv4", "S004-2.2.2-09", "S004-3.4-14", "S004-3.4-21")
		v.covers(dataplane.Node, "IPv4", "S004-2.2.2-13")
		most := pathMTU - v.f.head()
		for _, fam := range families {
			src, dst := v.ends(fam)
			for _, size := range []int{fam.least(), 600, 1280, most - 1, most} {
				for _, df := range []bool{true, false} {
					before, after := hdr{df: df, id: 7}, hdr{hop: v.hop(64), df: df, id: 7}
					v.pass(fmt.Sprintf("%s UDP, %d octets", fam.name, size), v.native(udpPacket(src, dst, before, size)),
						toCore(v.f.wrapDF(udpPacket(src, dst, after, size))))
					size := max(size, headerLen(src)+20+1)
					v.pass(fmt.Sprintf("%s TCP, %d octets", fam.name, size), v.native(tcpPacket(src, dst, before, size)),
						toCore(v.f.wrapDF(tcpPacket(src, dst, after, size))))
				}
			}
		}
	}),
	inEach("out of the tunnel", func(v view) {
		v.covers(dataplane.Anchor, "IPv4", "S004-2.2.2-13")
		for _, fam := range families {
			dst, src := v.ends(fam)
			for _, size := range []int{fam.least(), 600, 1280, pathMTU - v.f.head()} {
				v.pass(fmt.Sprintf("%s, %d octets", fam.name, size), fromCore(v.f.back().wrap(udpPacket(src, dst, hdr{id: 7}, size), hdr{})),
					v.out(udpPacket(src, dst, hdr{id: 7, hop: v.hop(64)}, size)))
			}
			in := tcpPacket(src, dst, hdr{id: 7, df: true}, 900)
			v.pass(fam.name+" TCP", fromCore(v.f.back().wrap(in, hdr{df: true})), v.out(tcpPacket(src, dst, hdr{id: 7, df: true, hop: v.hop(64)}, 900)))
		}
		one, two := make([]core.Counter, 1), make([]core.Counter, 1)
		if err := v.r.Counters([]core.ID{sessionOne}, one); err != nil {
			v.Fatal(err)
		}
		v.pass("counted", fromCore(v.f.back().wrap(udpPacket(v.down(families[0]), v.up(families[0]), hdr{}, 300), hdr{})), v.out(udpPacket(v.down(families[0]), v.up(families[0]), hdr{hop: v.hop(64)}, 300)))
		if err := v.r.Counters([]core.ID{sessionOne}, two); err != nil || two[0].PacketsIn != one[0].PacketsIn+1 || two[0].OctetsIn != one[0].OctetsIn+300 {
			v.Errorf("counters %+v, %v after %+v", two, err, one)
		}
	}),
	inEach("traffic class", func(v view) {
		for _, fam := range families {
			src, dst := v.ends(fam)
			for ecn := range byte(4) {
				tos := 0x28 | ecn
				v.pass(fmt.Sprintf("%s in, %02x", fam.name, tos), v.native(udpPacket(src, dst, hdr{tos: tos}, 100)),
					toCore(v.f.wrapDF(udpPacket(src, dst, hdr{hop: v.hop(64), tos: tos}, 100))))
			}
			for _, row := range congestionTable {
				name := fmt.Sprintf("%s, inner ECN %d, outer %d", fam.name, row.inner, row.outer)
				in := v.f.back().wrap(udpPacket(dst, src, hdr{tos: 0x28 | row.inner}, 100), hdr{tos: 0xb8 | row.outer})
				if row.result == dropped {
					v.dropped(wire.ECNDrop, 1, func() { v.pass(name, fromCore(in)) })
					continue
				}
				v.pass(name, fromCore(in), v.out(udpPacket(dst, src, hdr{hop: v.hop(64), tos: 0xb8 | row.result}, 100)))
			}
		}
	}),
	inEach("too big", func(v view) {
		most := pathMTU - v.f.head()
		for _, fam := range families {
			src, dst := v.ends(fam)
			big := udpPacket(src, dst, hdr{df: true}, most+1)
			v.dropped(wire.TooBig, 1, func() { v.pass(fam.name, v.native(big), v.tooBig(most, big)) })
		}
		for _, size := range []int{most + 1, 1500, 3000} {
			v.fragmentedIn(fmt.Sprintf("IPv4 without DF, %d octets", size), families[1], size, pathMTU)
		}
		src, dst := v.ends(families[1])
		if v.f.head() == 40 { // the length of an IPv6 packet does not count its header
			v.fragmentedIn("IPv4 of 65,535 octets", families[1], 65535, pathMTU)
			return
		}
		// Longer than any packet, with its outer headers.
		v.dropped(wire.TooBig, 1, func() { v.pass("IPv4 of 65,535 octets", v.native(udpPacket(src, dst, hdr{}, 65535))) })
	}),
	inEach("outer fragments", func(v view) {
		for _, fam := range families {
			dst, src := v.ends(fam)
			in, out := udpPacket(src, dst, hdr{id: 5}, 1280), udpPacket(src, dst, hdr{id: 5, hop: v.hop(64)}, 1280)
			for n, h := range []hdr{{id: 77}, {id: 78}} {
				parts := v.f.cutOuter(v.f.back().wrap(in, h), 600)
				if n == 1 {
					slices.Reverse(parts)
					for _, p := range parts {
						if !v.f.is4() {
							p[47]++ // another Identification
						}
					}
				}
				for i, p := range parts {
					var wants []want
					if i == len(parts)-1 {
						wants = append(wants, v.out(out))
					}
					v.pass(fmt.Sprintf("%s fragment %d", fam.name, i), fromCore(p), wants...)
				}
			}
		}
		parts := v.f.cutOuter(v.f.back().wrap(udpPacket(v.down(families[0]), v.up(families[0]), hdr{}, 1280), hdr{id: 79}), 600)
		v.pass("a first fragment without the rest", fromCore(parts[0]))
	}),
	inEach("a move", func(v view) { // make before break: the former chain is let in for the grace, whatever the families and framings are
		for _, to := range framingsOf(v.role) {
			for _, fam := range families {
				src, dst := v.ends(fam)
				in, out := udpPacket(src, dst, hdr{}, 100), udpPacket(src, dst, hdr{hop: v.hop(64)}, 100)
				back, native := udpPacket(dst, src, hdr{}, 100), v.out(udpPacket(dst, src, hdr{hop: v.hop(64)}, 100))
				v.update(core.SetSession{ID: sessionOne, Chain: v.f.chain()})
				v.pass("before", v.native(in), toCore(v.f.wrapDF(out)))
				v.update(core.SetSession{ID: sessionOne, Chain: to.chain(), Grace: grace})
				v.pass("after, into "+to.name, v.native(in), toCore(to.wrapDF(out)))
				v.pass("from the new one", fromCore(to.back().wrap(back, hdr{})), native)
				v.pass("from the old one, on its way still", fromCore(v.f.back().wrap(back, hdr{})), native)
				if v.f.is4() {
					v.pass("and in its other framing", fromCore(v.f.other().back().wrap(back, hdr{})), native)
				}
				v.r.Advance(grace - time.Millisecond)
				v.pass("in the last millisecond of grace", fromCore(v.f.back().wrap(back, hdr{})), native)
				v.r.Advance(time.Millisecond)
				v.pass("from the new one still", fromCore(to.back().wrap(back, hdr{})), native)
				if !v.together(to) {
					v.dropped(wire.WrongTunnel, 1, func() { v.pass("from the old one", fromCore(v.f.back().wrap(back, hdr{}))) })
				}
			}
		}
	}),
	inEach("mapped addresses", func(v view) { // never in data: draft-soliman-v4v6-mipv6-00 3.3, 3.4
		spec.Covers(v.bench, "S004-3.4-22", "S004-3.3-02")
		v.covers(dataplane.Anchor, "IPv4", "S004-3.4-14", "S004-3.4-23")
		src, dst := v.ends(families[0])
		for name, p := range map[string][]byte{
			"from one": udpPacket(mapped(v.f.remote.Addr()), dst, hdr{}, 100), "to one": udpPacket(src, mapped(v.f.remote.Addr()), hdr{}, 100),
			"from a home address": udpPacket(mapped(H14), dst, hdr{}, 100), "to a home address": udpPacket(src, mapped(H14), hdr{}, 100),
		} {
			v.mappedIn(name, p)
			v.dropped(wire.MappedAddress, 1, func() { v.pass(name+", out of the tunnel", fromCore(v.f.back().wrap(p, hdr{}))) })
		}
	}),
)
