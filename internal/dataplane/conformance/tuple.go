package conformance

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"kedge/internal/core"
	"kedge/internal/dataplane"
	"kedge/wire"
)

// tupleCases are about which outer packets a session takes.
var tupleCases = slices.Concat(
	inEach("the other framing", func(v view) { // issue: data is accepted plain and in UDP from the care-of address
		src, dst := v.up(families[0]), v.down(families[0])
		back, out := udpPacket(dst, src, hdr{}, 100), v.out(udpPacket(dst, src, hdr{hop: v.hop(64)}, 100))
		other := v.f.other()
		if !v.f.is4() {
			v.dropped(wire.WrongTunnel, 1, func() { v.pass("over IPv6 there is one", fromCore(other.back().wrap(back, hdr{}))) })
			return
		}
		v.pass("taken", fromCore(other.back().wrap(back, hdr{})), out)
		four := udpPacket(v.down(families[1]), v.up(families[1]), hdr{}, 100)
		v.pass("taken, IPv4", fromCore(other.back().wrap(four, hdr{})), v.out(udpPacket(v.down(families[1]), v.up(families[1]), hdr{hop: v.hop(64)}, 100)))
		v.pass("and moves nothing", v.native(udpPacket(src, dst, hdr{}, 100)), toCore(v.f.wrapDF(udpPacket(src, dst, hdr{hop: v.hop(64)}, 100))))
		stranger := other
		stranger.remote = ap(Alien4, other.remote.Port())
		v.dropped(wire.WrongTunnel, 1, func() { v.pass("not from another address", fromCore(stranger.back().wrap(back, hdr{}))) })
		if v.f.udp() {
			return
		}
		// A plain chain whose remote port says from where UDP came: its Binding Update, without a NAT.
		v.update(core.SetSession{ID: sessionOne, Chain: core.Chain{N: 1, Layer: [2]core.Layer{{Local: v.f.local, Remote: ap(v.f.remote.Addr(), 5000)}}}, Grace: grace})
		v.dropped(wire.WrongTunnel, 1, func() { v.pass("not from 4191 now", fromCore(other.back().wrap(back, hdr{}))) })
		other.remote = ap(v.f.remote.Addr(), 5000)
		v.pass("taken from the observed port", fromCore(other.back().wrap(back, hdr{})), out)
		v.pass("and still sent plain", v.native(udpPacket(src, dst, hdr{}, 100)), toCore(v.f.wrapDF(udpPacket(src, dst, hdr{hop: v.hop(64)}, 100))))
	}),
	inEach("another tuple", func(v view) {
		v.covers(dataplane.Anchor, "IPv4", "S004-2.2.2-13")
		src, dst := v.up(families[0]), v.down(families[0])
		back := udpPacket(dst, src, hdr{}, 100)
		tell := func(name string, f framing) {
			v.Helper()
			v.reports()
			v.r.Advance(time.Second)
			v.dropped(wire.WrongTunnel, 3, func() {
				for range 3 {
					v.pass(name, fromCore(f.back().wrap(back, hdr{})))
				}
			})
			// One of three, and it says what a machine needs to know the session and where it may be now.
			if r := v.report(wire.WrongTunnel); r.ID != sessionOne || r.Outer != (core.Layer{Local: f.local, Remote: f.remote}) || r.Inner.Src != host(dst) || r.Inner.Dst != host(src) {
				v.Errorf("%s: report %+v", name, r)
			}
			v.pass("and moves nothing", v.native(udpPacket(src, dst, hdr{}, 100)), toCore(v.f.wrapDF(udpPacket(src, dst, hdr{hop: v.hop(64)}, 100))))
		}
		other := v.f
		other.remote = ap(map[bool]netip.Addr{true: Alien4, false: Alien}[v.f.is4()], v.f.remote.Port())
		tell("another address", other)
		if v.f.udp() {
			other = v.f
			other.remote = ap(v.f.remote.Addr(), 40002)
			tell("another port of the NAT", other)
			other.remote = ap(v.f.remote.Addr(), 40003)
			v.pass("each port has a report of its own", fromCore(other.back().wrap(back, hdr{})))
			if r := v.report(wire.WrongTunnel); r.Outer.Remote != other.remote {
				v.Errorf("report %+v", r)
			}
		}
	}),
	[]testCase{{name: "anchor/one NAT", o: anchor, f: func(b *bench) { // two nodes behind it, told apart by their ports
		one, two := framing{"", ap(LMAA4, port), ap(NAT4, 40001)}, framing{"", ap(LMAA4, port), ap(NAT4, 40002)}
		b.update(core.SetSession{ID: sessionOne, Chain: one.chain()}, core.SetSession{ID: sessionTwo, Chain: two.chain()})
		for _, fam := range families {
			for f, h := range map[framing]netip.Addr{one: fam.one, two: fam.two} {
				b.pass("down", fromCN(udpPacket(fam.cn, h, hdr{}, 100)), toCore(f.wrapDF(udpPacket(fam.cn, h, hdr{hop: 63}, 100))))
				b.pass("up", fromCore(f.back().wrap(udpPacket(h, fam.cn, hdr{}, 100), hdr{})), toCN(udpPacket(h, fam.cn, hdr{hop: 63}, 100)))
				b.pass("up, plain", fromCore(f.back().plain().wrap(udpPacket(h, fam.cn, hdr{}, 100), hdr{})), toCN(udpPacket(h, fam.cn, hdr{hop: 63}, 100)))
			}
			b.dropped(wire.WrongTunnel, 1, func() {
				b.pass("the other's address", fromCore(one.back().wrap(udpPacket(fam.two, fam.cn, hdr{}, 100), hdr{})))
			})
			b.pass("across", fromCore(one.back().wrap(udpPacket(fam.one, fam.two, hdr{}, 100), hdr{})), toCore(two.wrapDF(udpPacket(fam.one, fam.two, hdr{hop: 63}, 100))))
		}
		b.update(core.Drop{ID: sessionOne})
		b.pass("the other one stays", fromCore(two.back().plain().wrap(udpPacket(H26, CN6, hdr{}, 100), hdr{})), toCN(udpPacket(H26, CN6, hdr{hop: 63}, 100)))
		b.dropped(wire.WrongSource, 1, func() { b.pass("the one is gone", fromCore(two.back().wrap(udpPacket(H16, CN6, hdr{}, 100), hdr{}))) })
		b.update(core.Drop{ID: sessionTwo})
		b.dropped(wire.WrongTunnel, 2, func() {
			b.pass("both are gone", fromCore(two.back().wrap(udpPacket(H26, CN6, hdr{}, 100), hdr{})))
			b.pass("both are gone, plain", fromCore(two.back().plain().wrap(udpPacket(H26, CN6, hdr{}, 100), hdr{})))
		})
	}}},
	inEach("garbage", func(v view) {
		back := v.f.back()
		good := udpPacket(v.down(families[1]), v.up(families[1]), hdr{}, 100)
		raw := func(next byte, body []byte) Packet { // around something that is no packet
			if v.f.udp() {
				return fromCore(packet(back.local.Addr(), back.remote.Addr(), 17, hdr{}, datagram(back.local, back.remote, body)))
			}
			return fromCore(packet(back.local.Addr(), back.remote.Addr(), next, hdr{}, body))
		}
		edit := func(at int, b byte) []byte { p := slices.Clone(good); p[at] = b; return p }
		for name, in := range map[string][]byte{
			"truncated": good[:60], "two octets": good[:2], "version 7": edit(0, 0x75), "checksum": edit(10, good[10]+1), "header length 0": edit(0, 0x40),
			"version 0": edit(0, 0x05), "IPv6, truncated": udpPacket(CN6, H16, hdr{}, 100)[:90], "a jumbogram": append(v6(CN6, H16, 0, hdr{}, nil), 17, 0, 0xc2, 4, 0, 1, 0, 0),
		} {
			v.dropped(wire.BadInner, 1, func() { v.pass(name, raw(4, in)) })
		}
		if !v.f.udp() {
			v.dropped(wire.BadInner, 1, func() { v.pass("41 around IPv4", raw(41, good)) })
			return
		}
		before := v.r.Keepalives()
		v.pass("a keepalive of no octet", raw(0, nil))
		v.pass("a keepalive of one octet", raw(0, []byte{0xff}))
		stranger := framing{"", ap(map[bool]netip.Addr{true: Alien4, false: Alien}[v.f.is4()], 7), back.remote}
		v.pass("a stranger's keepalive", fromCore(packet(stranger.local.Addr(), stranger.remote.Addr(), 17, hdr{}, datagram(stranger.local, stranger.remote, nil))))
		if n := v.r.Keepalives() - before; n != 3 {
			v.Errorf("%d keepalives were counted, want 3", n)
		}
		v.silent()
		sumless := datagram(back.local, back.remote, good)
		sumless[6], sumless[7] = 0, 0
		if v.f.is4() {
			v.pass("no UDP checksum", fromCore(packet(back.local.Addr(), back.remote.Addr(), 17, hdr{}, sumless)), v.out(udpPacket(v.down(families[1]), v.up(families[1]), hdr{hop: v.hop(64)}, 100)))
		}
	}),
	[]testCase{{name: "anchor/tunnels in tunnels", o: anchor, f: func(b *bench) {
		f := framing{"", ap(LMAA4, 0), ap(CoA4, 0)}
		b.update(core.SetSession{ID: sessionOne, Chain: f.chain()})
		inner := v6(H16, LMAA, 41, hdr{}, udpPacket(H16, CN6, hdr{}, 100))
		b.dropped(wire.EncapsulateDeep, 2, func() {
			b.pass("41 in 41", fromCore(f.back().wrap(inner, hdr{})))
			b.pass("4 in 4", fromCore(f.back().wrap(v4(H14, LMAA4, 4, hdr{}, udpPacket(H14, CN4, hdr{}, 100)), hdr{})))
		})
		b.pass("to another one", fromCore(f.back().wrap(v6(H16, CN6, 41, hdr{}, udpPacket(H16, CN6, hdr{}, 100)), hdr{})), toCN(v6(H16, CN6, 41, hdr{hop: 63}, udpPacket(H16, CN6, hdr{}, 100))))
		loop := udpPacket(CoA4, H14, hdr{}, 100) // from the tunnel's exit point: RFC 2003 3.2
		b.dropped(wire.TunnelLoop, 1, func() { b.pass("from the care-of address", fromCN(loop)) })
		// Whoever else is behind the node's NAT may talk to it.
		nat := framing{"", ap(LMAA4, port), ap(CoA4, 40001)}
		b.update(core.SetSession{ID: sessionOne, Chain: nat.chain()})
		b.pass("from the NAT's address", fromCN(loop), toCore(nat.wrapDF(udpPacket(CoA4, H14, hdr{hop: 63}, 100))))
	}}, {name: "anchor/nodes behind a mobile router", o: anchor, empty: true, f: func(b *bench) {
		// A router at CoA2 has the network HNP3 and H34's; host 1, a node of the same anchor, has its care-of address there.
		in4 := H34
		net4, _ := H34.Prefix(31)
		for _, node := range []framing{{"", ap(LMAA, 0), ap(H36, 0)}, {"", ap(LMAA4, 0), ap(in4, 0)}, {"", ap(LMAA4, port), ap(in4, 40001)}} {
			for _, way := range []framing{{"", ap(LMAA, 0), ap(CoA2, 0)}, {"", ap(LMAA4, 0), ap(CoA4, 0)}, {"", ap(LMAA4, port), ap(NAT4, 40001)}} {
				b.update(
					core.SetSession{ID: sessionTwo, Chain: way.chain()},
					core.SetKey{ID: sessionTwo, Match: core.Match{Dst: host(H26)}, Up: true, Down: true},
					core.SetKey{ID: sessionTwo, Match: core.Match{Dst: HNP3}, Up: true, Down: true},
					core.SetKey{ID: sessionTwo, Match: core.Match{Dst: net4}, Up: true, Down: true},
					core.SetSession{ID: sessionOne, Chain: node.chain()},
					core.SetKey{ID: sessionOne, Match: core.Match{Dst: host(H16)}, Up: true, Down: true},
					core.SetKey{ID: sessionOne, Match: core.Match{Dst: host(H14)}, Up: true, Down: true},
				)
				for _, fam := range families {
					name := fmt.Sprintf("%s to %s in %s to %s", fam.name, node.remote, way.name, way.remote)
					up := node.back().wrap(udpPacket(fam.one, fam.cn, hdr{}, 100), hdr{})
					b.pass(name+", up", fromCore(way.back().wrap(up, hdr{})), toCN(udpPacket(fam.one, fam.cn, hdr{hop: 63}, 100)))
					// Routing brings the outer packet back.
					b.r.Send(fromCN(udpPacket(fam.cn, fam.one, hdr{}, 100)))
					got := b.r.Drain()
					h, at := hdr{hop: 64, df: fam.cn.Is6()}, way.head()
					if len(got) == 1 && len(got[0].B) > at+40 && got[0].B[at+map[bool]int{true: 8, false: 7}[node.is4()]] == 63 {
						h.hop = 63 // a kernel takes nothing from what it sent itself
					}
					down := node.wrap(udpPacket(fam.cn, fam.one, hdr{hop: 63}, 100), h)
					if node.is4() && len(got) == 1 && len(got[0].B) > at+20 { // its Identification is the router's choice
						copy(down[4:6], got[0].B[at+4:])
						copy(down[10:], []byte{0, 0})
						binary.BigEndian.PutUint16(down[10:], plainSum(down[:20]))
					}
					b.check(name+", down", got, toCore(way.wrapDF(down)))
				}
			}
		}
		// What another anchor sends to a node there has no more hops in the router's tunnel than are left to it: it might come round. Of
		// everything else the tunnel is one hop.
		for _, way := range []framing{{"", ap(LMAA, 0), ap(CoA2, 0)}, {"", ap(LMAA4, 0), ap(CoA4, 0)}, {"", ap(LMAA4, port), ap(NAT4, 40001)}} {
			b.update(core.SetSession{ID: sessionTwo, Chain: way.chain()})
			for _, to := range []struct{ from, at netip.Addr }{{CN6, H36}, {CN4, H34}} {
				inner := udpPacket(CN6, Nobody, hdr{}, 100)
				ports := func(src, dst uint16) []byte { return datagram(ap(to.from, src), ap(to.at, dst), inner) }
				for name, c := range map[string]struct {
					next  byte
					body  []byte
					nests bool
				}{
					"41": {41, inner, true}, "4": {4, udpPacket(CN4, Nemo4, hdr{}, 100), true}, "GRE": {47, append([]byte{0, 0, 0x86, 0xdd}, inner...), true},
					"ESP": {50, filling(100), true}, "UDP": {17, ports(40001, port), true}, "UDP, back": {17, ports(port, 40001), true},
					"ESP in UDP": {17, ports(40001, 4500), true}, "ESP in UDP, back": {17, ports(4500, 40001), true}, "other UDP": {17, ports(40001, 4501), false},
				} {
					for _, hop := range []int{2, 5, 200} {
						want := 64
						if c.nests {
							want = min(hop-1, 64)
						}
						in, df := packet(to.from, to.at, c.next, hdr{hop: hop, id: 8}, c.body), to.at.Is6()
						out := way.compared(way.wrap(packet(to.from, to.at, c.next, hdr{hop: hop - 1, id: 8}, c.body), hdr{hop: want, df: df}))
						b.pass(fmt.Sprintf("%s to %s, hop limit %d, in a tunnel to %s", name, to.at, hop, way.remote), fromCN(in), toCore(out))
					}
				}
			}
		}
		// What comes of the network, and is in no tunnel of it.
		one, way := framing{"", ap(LMAA, 0), ap(H36, 0)}, framing{"", ap(LMAA, 0), ap(CoA2, 0)}
		b.update(core.SetSession{ID: sessionTwo, Chain: way.chain()}, core.SetSession{ID: sessionOne, Chain: one.chain()})
		inner := udpPacket(H16, CN6, hdr{}, 100)
		b.dropped(wire.WrongSource, 1, func() {
			b.pass("from another address", fromCore(way.back().wrap(v6(Nobody, LMAA, 41, hdr{}, inner), hdr{})))
		})
		b.dropped(wire.WrongTunnel, 2, func() {
			b.pass("from another's care-of address there", fromCore(way.back().wrap(v6(H36.Next(), LMAA, 41, hdr{}, inner), hdr{})))
			b.pass("not from there at all", fromCore(way.back().wrap(inner, hdr{})))
		})
		b.pass("its own", fromCore(way.back().wrap(udpPacket(H26, CN6, hdr{}, 100), hdr{})), toCN(udpPacket(H26, CN6, hdr{hop: 63}, 100)))
	}}, {name: "anchor/encapsulation limit over IPv4", o: Options{Role: dataplane.Anchor, EncapsulationLimit: 4}, f: func(b *bench) {
		f := framing{"", ap(LMAA4, port), ap(NAT4, 40001)}
		b.update(core.SetSession{ID: sessionOne, Chain: f.chain()})
		b.pass("none", fromCN(udpPacket(CN6, H16, hdr{}, 100)), toCore(f.wrapDF(udpPacket(CN6, H16, hdr{hop: 63}, 100))))
		limited := v6(CN6, H16, 60, hdr{}, append([]byte{41, 0, 4, 1, 0, 1, 1, 0}, udpPacket(CN6, H26, hdr{}, 100)...))
		out := slices.Clone(limited)
		out[7]--
		b.pass("nor is an inner one looked at", fromCN(limited), toCore(f.wrapDF(out)))
	}}},
)
