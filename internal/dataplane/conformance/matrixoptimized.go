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
// header, and its correspondent, which does the reverse. For back ends that take packets of any next header.
func Optimized(t *testing.T, f Factory) {
	var all []testCase
	for _, role := range []dataplane.Role{dataplane.Anchor, dataplane.Node} {
		all = append(all, testCase{name: [...]string{"correspondent", "", "node"}[role], o: Options{Role: role, Optimized: true}, f: func(b *bench) {
			s := straight{site{b, encap{}, role}, CoA1, CN6}
			if role == dataplane.Anchor {
				s.care, s.peer = CoA1, LMAA
			}
			s.start(0)
			for _, f := range []func(*sheet){s.sizes, s.headers, s.hopsAndClasses, s.refusals, s.errors} {
				s.run(f)
			}
			for _, mtu := range []int{1280, 1303} {
				s.start(uint16(mtu))
				s.run(func(sh *sheet) { s.short(sh, mtu) })
			}
		}})
	}
	run(t, f, all)
}

// straight is a router with a session of route optimization: home address H16, care-of address and correspondent.
type straight struct {
	site
	care, peer netip.Addr
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
	c := core.Chain{RO: 1, MTU: mtu, Layer: [2]core.Layer{{Local: ap(s.care, 0), Remote: ap(s.peer, 0)}}}
	m := core.Match{Src: host(H16), Dst: host(s.peer)}
	if s.role == dataplane.Anchor {
		c.Layer[0].Local, c.Layer[0].Remote = c.Layer[0].Remote, c.Layer[0].Local
		m.Src, m.Dst = m.Dst, m.Src
	}
	s.update(core.Drop{ID: sessionOne}, core.SetSession{ID: sessionOne, Chain: c}, core.SetKey{ID: sessionOne, Match: m, Up: true, Down: true})
}

// inner are source and destination of what the router sends.
func (s straight) inner() (src, dst netip.Addr) {
	if s.role == dataplane.Anchor {
		return s.peer, H16
	}
	return H16, s.peer
}

// carried is a packet with its header of route optimization, up from the node or down to it: RFC 6275 6.3 and 6.4. It stands behind
// Hop-by-Hop Options and routing headers, with the Destination Options before those.
func (s straight) carried(pkt []byte, up bool) []byte {
	at, named := 40, 6
	for o, n := 40, 6; pkt[n] == 0 || pkt[n] == 43 || pkt[n] == 60; {
		kind := pkt[n]
		n, o = o, o+8+int(pkt[o+1])*8
		if kind != 60 {
			at, named = o, n
		}
	}
	ext, next, field := routing(H16, pkt[named]), byte(43), 24
	if up {
		ext, next, field = homeOption(H16, pkt[named]), 60, 8
	}
	out := slices.Concat(pkt[:at], ext, pkt[at:])
	out[named] = next
	copy(out[field:], s.care.AsSlice())
	binary.BigEndian.PutUint16(out[4:], uint16(len(out)-40))
	return out
}

func (s straight) sends(sh *sheet, name string, build func(hop int) []byte) {
	sh.serial++
	in, out := build(64), build(s.hop(64))
	sh.add(trial{name: name + ", out", in: []Packet{s.native(in)}, wants: []want{toCore(s.carried(out, s.up()))}, count: core.Counter{PacketsOut: 1, OctetsOut: uint64(len(in))}})
}

func (s straight) gets(sh *sheet, name string, b []byte) {
	sh.serial++
	sh.add(trial{name: name + ", in", in: []Packet{fromCore(s.carried(b, !s.up()))}, wants: []want{s.out(b)}, count: core.Counter{PacketsIn: 1, OctetsIn: uint64(len(b))}})
}

func (s straight) sizes(sh *sheet) {
	src, dst := s.inner()
	most := sh.path - straightLen
	for _, k := range []kind{kindUDP, kindTCP, kindEcho, kindSCTP, kindOther, kindDataESP, kindGRE, kindIPIP} {
		for _, n := range []int{40 + k.least, 41 + k.least, 600, 1256, 1280, 1281, most - 1, most} {
			name := fmt.Sprintf("%s of %d octets", k.name, n)
			s.sends(sh, name, func(hop int) []byte { return sh.of(k, src, dst, hdr{hop: hop}, n) })
			if k.name != kindIPIP.name { // a tunnel is another session's
				s.gets(sh, name, sh.of(k, dst, src, hdr{}, n))
			}
		}
		sh.serial++
		big := sh.of(k, src, dst, hdr{}, most+1)
		sh.add(trial{name: k.name + ", too big", in: []Packet{s.native(big)}, wants: []want{s.told(2, 0, uint32(most), big)}, drop: wire.TooBig})
	}
}

func (s straight) headers(sh *sheet) {
	src, dst := s.inner()
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
	src, dst := s.inner()
	for tos := range 256 {
		for _, hop := range []int{64, 2, 255, 1} {
			if s.hop(hop) == 0 {
				continue
			}
			sh.serial++
			h, left := hdr{tos: byte(tos), hop: hop, flow: 0x12345}, hdr{tos: byte(tos), hop: s.hop(hop), flow: 0x12345}
			in := sh.of(kindUDP, src, dst, h, 100)
			sh.add(trial{name: fmt.Sprintf("class %02x, hop limit %d, out", tos, hop), in: []Packet{s.native(in)},
				wants: []want{toCore(s.carried(sh.of(kindUDP, src, dst, left, 100), s.up()))}, count: core.Counter{PacketsOut: 1, OctetsOut: 100}})
			s.gets(sh, fmt.Sprintf("class %02x, hop limit %d", tos, hop), sh.of(kindTCP, dst, src, h, 100))
		}
	}
}

// refusals: a header of somebody else's, from or to another place.
func (s straight) refusals(sh *sheet) {
	src, dst := s.inner()
	good := s.carried(sh.of(kindUDP, dst, src, hdr{}, 100), !s.up())
	home := 48
	for name, change := range map[string]func(b []byte){
		"another home address": func(b []byte) { b[home+15]++ },
		"another sender":       func(b []byte) { copy(b[8:], Alien.AsSlice()) },
	} {
		b := slices.Clone(good)
		change(b)
		sh.add(trial{name: name, in: []Packet{fromCore(b)}, drop: wire.WrongTunnel})
	}
}

// errors about packets on the direct way are told to their source, about what it had sent.
func (s straight) errors(sh *sheet) {
	src, dst := s.inner()
	me := s.care
	if s.role == dataplane.Anchor {
		me = s.peer
	}
	for code, told := range map[byte]byte{0: 0, 1: 1, 3: 3, 4: 3} {
		sh.serial++
		in, out := sh.of(kindUDP, src, dst, hdr{}, 300), sh.of(kindUDP, src, dst, hdr{hop: s.hop(64)}, 300)
		sh.add(trial{name: fmt.Sprintf("unreachable, code %d", code), in: []Packet{fromCore(v6(Alien, me, 58, hdr{}, icmp6(Alien, me, 1, code, 0, s.carried(out, s.up()))))},
			wants: []want{s.told(1, told, 0, in)}})
	}
}

// short: a path of less than 1,304 octets. What may not be refused is fragmented, and each fragment has the header.
func (s straight) short(sh *sheet, mtu int) {
	src, dst := s.inner()
	for _, k := range []kind{kindUDP, kindTCP, kindEcho} {
		for _, n := range []int{mtu - straightLen - 1, mtu - straightLen, mtu - straightLen + 1, 1279, 1280} {
			sh.serial++
			in, out := sh.of(k, src, dst, hdr{}, n), sh.of(k, src, dst, hdr{hop: s.hop(64)}, n)
			t := trial{name: fmt.Sprintf("%s of %d octets over a path of %d", k.name, n, mtu), in: []Packet{s.native(in)}, count: core.Counter{PacketsOut: 1, OctetsOut: uint64(n)}}
			parts := [][]byte{out}
			if n > mtu-straightLen {
				parts = cut(out, mtu-straightLen)
			}
			for _, p := range parts {
				t.wants = append(t.wants, toCore(s.carried(p, s.up())))
			}
			sh.add(t)
			back := sh.of(k, dst, src, hdr{}, n)
			t = trial{name: fmt.Sprintf("%s of %d octets in fragments", k.name, n), wants: []want{s.out(back)}, count: core.Counter{PacketsIn: 1, OctetsIn: uint64(n)}}
			for _, p := range cut(back, 700) {
				binary.BigEndian.PutUint32(p[44:], uint32(sh.serial))
				t.in = append(t.in, fromCore(s.carried(p, !s.up())))
			}
			sh.add(t)
		}
	}
}
