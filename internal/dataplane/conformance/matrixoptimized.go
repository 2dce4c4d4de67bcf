package conformance

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"slices"
	"testing"

	"kedge/internal/core"
	"kedge/internal/dataplane"
	"kedge/wire"
)

// Optimized is the matrix of route optimization (RFC 6275): a node that sends with a Home Address option and gets a type 2 routing
// header, its correspondent, which does the reverse, and two nodes that are each other's correspondents: with both headers, and while one
// of them is at home, or is not registered with the other and so sends through its tunnel. For back ends that take packets of any next header.
func Optimized(t *testing.T, f Factory) {
	var all []testCase
	for _, w := range straightWays {
		role := dataplane.Node
		if w.own == LMAA {
			role = dataplane.Anchor
		}
		all = append(all, testCase{name: w.name, o: Options{Role: role, Optimized: true, Anchors: []netip.Addr{LMAA}}, f: func(b *bench) {
			s := straight{site{b, encap{}, role}, w}
			s.start(0)
			for _, f := range []func(*sheet){s.sizes, s.headers, s.hopsAndClasses, s.refusals, s.errors} {
				s.run(f)
			}
			for _, mtu := range []int{1280, 1279 + w.over(), 1280 + w.over()} {
				s.start(uint16(mtu))
				s.run(func(sh *sheet) { s.short(sh, mtu) })
			}
		}})
	}
	run(t, f, all)
}

// straightWay is a pair of addresses, and those between which their packets go.
type straightWay struct {
	name                      string
	own, other, local, remote netip.Addr
	tunnel                    bool // from CoA1 to LMAA
}

var straightWays = []straightWay{
	{name: "correspondent", own: LMAA, other: H16, local: LMAA, remote: CoA1},
	{name: "node", own: H16, other: CN6, local: CoA1, remote: CN6},
	{name: "both ends mobile", own: H16, other: H26, local: CoA1, remote: CoA2},
	{name: "not registered with a mobile node", own: H16, other: H26, local: H16, remote: CoA2, tunnel: true},
}

// over is how many octets a packet is longer on the wire.
func (w *straightWay) over() (n int) {
	if w.local != w.own {
		n += straightLen
	}
	if w.remote != w.other {
		n += straightLen
	}
	if w.tunnel {
		n += 40
	}
	return n
}

// straight is a router with a session of route optimization.
type straight struct {
	site
	straightWay
}

// kindDataESP has an SPI of data: other ESP between these ends is signalling.
var kindDataESP = kind{"ESP", 8, func(s *sheet, _, _ netip.Addr, n int) (byte, []byte) {
	b := s.udp(n)
	b[0] |= 0x80
	return 50, b
}}

const straightLen = 24 // of either header, octets

func (s straight) start(mtu uint16) {
	s.Helper()
	c := core.Chain{RO: 1, MTU: mtu, Layer: [2]core.Layer{{Local: ap(s.local, 0), Remote: ap(s.remote, 0)}}}
	if s.tunnel {
		c.N, c.Layer[1] = 1, core.Layer{Local: ap(CoA1, 0), Remote: ap(LMAA, 0)}
	}
	s.update(core.Drop{ID: sessionOne}, core.SetSession{ID: sessionOne, Chain: c},
		core.SetKey{ID: sessionOne, Match: core.Match{Src: host(s.own), Dst: host(s.other)}, Up: true, Down: true})
	if s.role == dataplane.Node { // plain packets come in the tunnel
		s.update(core.SetSession{ID: 77, Chain: chain(CoA1, LMAA)}, core.SetKey{ID: 77, Match: core.Match{Src: host(H16)}, Up: true, Down: true})
	}
}

// sent is a packet with its headers of route optimization as the router sends it, carried one as it gets it: RFC 6275 6.3 and 6.4.
func (s straight) sent(pkt []byte) []byte {
	b := s.detour(pkt, s.own, s.other, s.local, s.remote)
	if s.tunnel {
		b = wrap(CoA1, LMAA, b)
	}
	return b
}

func (s straight) carried(pkt []byte) []byte {
	b := s.detour(pkt, s.other, s.own, s.remote, s.local)
	if s.tunnel {
		b = wrap(LMAA, CoA1, b)
	}
	return b
}

// detour puts the headers in. They stand behind Hop-by-Hop Options and routing headers, with the Destination Options before those.
func (s straight) detour(pkt []byte, src, dst, from, to netip.Addr) []byte {
	at, named := 40, 6
	for o, n := 40, 6; pkt[n] == 0 || pkt[n] == 43 || pkt[n] == 60; {
		kind := pkt[n]
		n, o = o, o+8+int(pkt[o+1])*8
		if kind != 60 {
			at, named = o, n
		}
	}
	next, ext := pkt[named], []byte(nil)
	if src != from {
		ext, next = homeOption(src, next), 60
	}
	if dst != to {
		ext, next = append(routing(dst, next), ext...), 43
	}
	out := slices.Concat(pkt[:at], ext, pkt[at:])
	out[named] = next
	copy(out[8:], from.AsSlice())
	copy(out[24:], to.AsSlice())
	binary.BigEndian.PutUint16(out[4:], uint16(len(out)-40))
	return out
}

func (s straight) sends(sh *sheet, name string, build func(hop int) []byte) {
	sh.serial++
	in, out := build(64), build(s.hop(64))
	sh.add(trial{name: name + ", out", in: []Packet{s.native(in)}, wants: []want{toCore(s.sent(out))}, count: core.Counter{PacketsOut: 1, OctetsOut: uint64(len(in))}})
}

func (s straight) gets(sh *sheet, name string, b []byte) {
	sh.serial++
	sh.add(trial{name: name + ", in", in: []Packet{fromCore(s.carried(b))}, wants: []want{s.out(b)}, count: core.Counter{PacketsIn: 1, OctetsIn: uint64(len(b))}})
}

func (s straight) sizes(sh *sheet) {
	src, dst := s.own, s.other
	most := sh.path - s.over()
	for _, k := range []kind{kindUDP, kindTCP, kindEcho, kindSCTP, kindOther, kindDataESP, kindGRE, kindIPIP} {
		for _, n := range []int{40 + k.least, 41 + k.least, 600, 1256, 1280, 1281, most - 1, most} {
			name := fmt.Sprintf("%s of %d octets", k.name, n)
			s.sends(sh, name, func(hop int) []byte { return sh.of(k, src, dst, hdr{hop: hop}, n) })
			if k.name != kindIPIP.name && (k.name != kindGRE.name || !s.tunnel) { // a tunnel is another session's
				s.gets(sh, name, sh.of(k, dst, src, hdr{}, n))
			}
		}
		sh.serial++
		big := sh.of(k, src, dst, hdr{}, most+1)
		sh.add(trial{name: k.name + ", too big", in: []Packet{s.native(big)}, wants: []want{s.told(2, 0, uint32(most), big)}, drop: wire.TooBig})
	}
}

func (s straight) headers(sh *sheet) {
	src, dst := s.own, s.other
	for name := range extensions(17) {
		build := func(a, b netip.Addr) []byte {
			proto, body := kindUDP.make(sh, a, b, 120)
			x := extensions(proto)[name]
			return v6(a, b, x.first, hdr{}, slices.Concat(x.b, body))
		}
		sh.serial++
		s.sends(sh, "behind "+name, func(hop int) []byte {
			p := build(src, dst)
			p[7] = byte(hop)
			return p
		})
		// The last destination of a routing header is not the node, and of a fragment more must come.
		if name != "a routing header" && name != "two of them" && name != "a fragment behind them" {
			s.gets(sh, "behind "+name, build(dst, src))
		}
	}
}

func (s straight) hopsAndClasses(sh *sheet) {
	src, dst := s.own, s.other
	for tos := range 256 {
		for _, hop := range []int{64, 2, 255, 1} {
			if s.hop(hop) == 0 {
				continue
			}
			sh.serial++
			h, left := hdr{tos: byte(tos), hop: hop, flow: 0x12345}, hdr{tos: byte(tos), hop: s.hop(hop), flow: 0x12345}
			in := sh.of(kindUDP, src, dst, h, 100)
			sh.add(trial{name: fmt.Sprintf("class %02x, hop limit %d, out", tos, hop), in: []Packet{s.native(in)},
				wants: []want{toCore(s.sent(sh.of(kindUDP, src, dst, left, 100)))}, count: core.Counter{PacketsOut: 1, OctetsOut: 100}})
			s.gets(sh, fmt.Sprintf("class %02x, hop limit %d", tos, hop), sh.of(kindTCP, dst, src, h, 100))
		}
	}
}

// refusals: a header of somebody else's, from or to another place, or more than one of them.
func (s straight) refusals(sh *sheet) {
	plain := sh.of(kindUDP, s.other, s.own, hdr{}, 100)
	good := s.carried(plain)
	first := 40 // the first header of route optimization
	if s.tunnel {
		first = 80
	}
	for name, change := range map[string]func(b []byte){
		"another home address": func(b []byte) { b[first+23]++ },
		"another sender":       func(b []byte) { copy(b[first-32:], Alien.AsSlice()) },
	} {
		b := slices.Clone(good)
		change(b)
		sh.add(trial{name: name, in: []Packet{fromCore(b)}, drop: wire.WrongTunnel})
	}
	bad := func(name string, r wire.Reason, b []byte) {
		if s.tunnel {
			b = wrap(LMAA, CoA1, b)
		}
		sh.add(trial{name: name, in: []Packet{fromCore(b)}, drop: r})
	}
	inside := s.detour(plain, s.other, s.own, s.remote, s.local)
	again := func(ext []byte) []byte { // a header once more, before the others
		kind := byte(60)
		if len(ext) > 2 && ext[2] == 2 {
			kind = 43
		}
		b := slices.Concat(inside[:40], ext, inside[40:])
		b[6], b[40] = kind, inside[6]
		binary.BigEndian.PutUint16(b[4:], uint16(len(b)-40))
		return b
	}
	if s.remote != s.other {
		bad("two Home Address options", wire.BadInner, again(homeOption(s.other, 0)))
		bad("a multicast home address", wire.BadInner, s.detour(plain, netip.MustParseAddr("ff02::1"), s.own, s.remote, s.local))
		bad("a link-local home address", wire.BadInner, s.detour(plain, netip.MustParseAddr("fe80::1"), s.own, s.remote, s.local))
		bad("a mapped home address", wire.BadInner, s.detour(plain, netip.MustParseAddr("::ffff:10.0.0.1"), s.own, s.remote, s.local))
	}
	if s.local != s.own {
		bad("two routing headers", wire.BadInner, again(routing(s.own, 0)))
		for name, change := range map[string]func(b []byte){
			"segments left 0": func(b []byte) { b[43] = 0 }, "segments left 2": func(b []byte) { b[43] = 2 }, "segments left 255": func(b []byte) { b[43] = 255 },
		} {
			b := slices.Clone(inside)
			change(b)
			bad(name, wire.BadInner, b)
		}
		bad("behind the option", wire.BadInner, func() []byte { // RFC 6275 6.3
			b := s.detour(plain, Nobody, s.own, s.remote, s.own)
			b = s.detour(b, s.own, s.own, s.remote, s.remote)
			ext := routing(s.own, b[40])
			b = slices.Concat(b[:64], ext, b[64:])
			b[40] = 43
			copy(b[24:], s.local.AsSlice())
			binary.BigEndian.PutUint16(b[4:], uint16(len(b)-40))
			return b
		}())
	}
}

// errors about packets on the direct way are told to their source, about what it had sent.
func (s straight) errors(sh *sheet) {
	src, dst := s.own, s.other
	packets := func() (in, out []byte) {
		sh.serial++
		return sh.of(kindUDP, src, dst, hdr{}, 300), s.detour(sh.of(kindUDP, src, dst, hdr{hop: s.hop(64)}, 300), s.own, s.other, s.local, s.remote)
	}
	// A router behind the tunnel sends its errors to where the packet came from: into the tunnel.
	back := func(msg []byte) Packet {
		b := v6(Alien, s.local, 58, hdr{}, msg)
		if s.tunnel {
			b = wrap(LMAA, CoA1, b)
		}
		return fromCore(b)
	}
	for code, told := range map[byte]byte{0: 0, 1: 1, 3: 3, 4: 3} {
		in, out := packets()
		sh.add(trial{name: fmt.Sprintf("unreachable, code %d", code), in: []Packet{back(icmp6(Alien, s.local, 1, code, 0, out))}, wants: []want{s.told(1, told, 0, in)}})
	}
	in, out := packets()
	sh.add(trial{name: "hop limit", in: []Packet{back(icmp6(Alien, s.local, 3, 0, 0, out))}, wants: []want{s.told(3, 0, 0, in)}})
	if s.tunnel { // of the tunnel itself
		in, out := packets()
		sh.add(trial{name: "unreachable in the tunnel", in: []Packet{fromCore(v6(Alien, CoA1, 58, hdr{}, icmp6(Alien, CoA1, 1, 0, 0, wrap(CoA1, LMAA, out))))},
			wants: []want{s.told(1, 3, 0, in)}})
	}
}

// short: a path of less than 1,280 octets and the headers. What may not be refused is fragmented, and each fragment has them; a tunnel
// fragments what it carries.
func (s straight) short(sh *sheet, mtu int) {
	src, dst, most := s.own, s.other, mtu-s.over()
	for _, k := range []kind{kindUDP, kindTCP, kindEcho} {
		for _, n := range []int{most - 1, most, most + 1, 1279, 1280} {
			if n > 1280 {
				continue
			}
			sh.serial++
			in, out := sh.of(k, src, dst, hdr{}, n), sh.of(k, src, dst, hdr{hop: s.hop(64)}, n)
			t := trial{name: fmt.Sprintf("%s of %d octets over a path of %d", k.name, n, mtu), in: []Packet{s.native(in)}, count: core.Counter{PacketsOut: 1, OctetsOut: uint64(n)}}
			switch {
			case n <= most:
				t.wants = append(t.wants, toCore(s.sent(out)))
			case s.tunnel:
				for _, p := range cut(s.sent(out), mtu) {
					t.wants = append(t.wants, toCore(p))
				}
			default:
				for _, p := range cut(out, most) {
					t.wants = append(t.wants, toCore(s.sent(p)))
				}
			}
			sh.add(t)
			t = trial{name: fmt.Sprintf("%s of %d octets in fragments", k.name, n)}
			for _, p := range cut(sh.of(k, dst, src, hdr{}, n), 700) { // each is taken by itself
				binary.BigEndian.PutUint32(p[44:], uint32(sh.serial))
				t.in, t.wants = append(t.in, fromCore(s.carried(p))), append(t.wants, s.out(p))
				t.count.PacketsIn, t.count.OctetsIn = t.count.PacketsIn+1, t.count.OctetsIn+uint64(len(p))
			}
			sh.add(t)
		}
	}
}
