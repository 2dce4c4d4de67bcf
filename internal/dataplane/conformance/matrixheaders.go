package conformance

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"net/netip"
	"slices"

	"kedge/internal/core"
	"kedge/wire"
)

// hops: a router takes one from the hop limit, and tells of those that end; a node takes none.
func hops(s *sheet) {
	for _, fam := range families {
		src, dst := s.ends(fam)
		for _, before := range []int{1, 2, 3, 255} {
			after := s.hop(before)
			name := fmt.Sprintf("%s with hop limit %d", fam.name, before)
			s.serial++
			in, out := s.of(kindUDP, src, dst, hdr{hop: before}, 100), s.of(kindUDP, dst, src, hdr{hop: before}, 100)
			if after > 0 {
				s.add(trial{name: name + ", in", in: []Packet{s.native(in)}, wants: s.emitted(s.of(kindUDP, src, dst, hdr{hop: after}, 100), s.path, s.static),
					count: core.Counter{PacketsOut: 1, OctetsOut: 100}})
				s.add(trial{name: name + ", out", in: []Packet{s.arrives(out, hdr{})}, wants: []want{s.out(s.of(kindUDP, dst, src, hdr{hop: after}, 100))},
					count: core.Counter{PacketsIn: 1, OctetsIn: 100}})
				continue
			}
			// That of a packet out of the tunnel goes back into it, or by plain routing: other cases show it.
			typ := map[bool]byte{true: 11, false: 3}[src.Is4()]
			s.add(trial{name: name + ", in", in: []Packet{s.native(in)}, wants: []want{s.told(typ, 0, 0, in)}, unsure: wire.HopLimit})
		}
	}
}

// innerFragments are packets like others: nobody puts them together.
func innerFragments(s *sheet) {
	for _, fam := range families {
		src, dst := s.ends(fam)
		for _, f := range []struct {
			name string
			off  int
			more bool
			df   bool
		}{{"the first", 0, true, false}, {"a middle", 1400, true, false}, {"the last", 2800, false, false}, {"an atomic", 0, false, false}, {"a middle, DF", 1400, true, true}} {
			build := func(a, b netip.Addr) func(int) []byte {
				return func(hop int) []byte {
					_, body := kindUDP.make(s, a, b, 200)
					if a.Is4() {
						return v4(a, b, 17, hdr{hop: hop, id: uint16(s.serial), off: f.off, mf: f.more, df: f.df}, body)
					}
					frag := []byte{17, 0, byte(f.off >> 8), byte(f.off), 0, 0, byte(s.serial >> 8), byte(s.serial)}
					if f.more {
						frag[3] |= 1
					}
					return v6(a, b, 44, hdr{hop: hop}, append(frag, body...))
				}
			}
			name := fam.name + ", " + f.name + " fragment"
			s.in(name, build(src, dst))
			s.outOf(name, hdr{id: 3}, build(dst, src))
		}
	}
}

// outerFragments are put together, in whatever order they come, but not if they overlap (RFC 5722, RFC 2473 7).
func outerFragments(s *sheet) {
	var f framing
	f.local, f.remote = s.e.outermost().Local, s.e.outermost().Remote
	for _, fam := range families {
		src, dst := s.ends(fam)
		for _, k := range []kind{kindUDP, kindTCP, kindEcho, kindOther} {
			for _, n := range []int{700, 1280, 1499, s.longest()} {
				for _, size := range []int{600, 1280} {
					for order, arrange := range map[string]func([][]byte) [][]byte{
						"in order": func(p [][]byte) [][]byte { return p },
						"reversed": func(p [][]byte) [][]byte { slices.Reverse(p); return p },
						"turned":   func(p [][]byte) [][]byte { return slices.Concat(p[1:], p[:1]) },
					} {
						s.serial++
						inner := s.of(k, dst, src, hdr{id: 5}, n)
						whole := s.e.wrap(inner, hdr{id: uint16(s.serial)}, true, !s.up())
						if len(whole) <= size {
							continue
						}
						var in []Packet
						for _, p := range arrange(f.cutOuter(whole, size)) {
							if !s.e.is4() {
								binary.BigEndian.PutUint32(p[44:], uint32(s.serial)|0x10000)
							}
							in = append(in, fromCore(p))
						}
						s.add(trial{name: fmt.Sprintf("%s %s of %d octets in outer fragments of %d, %s", fam.name, k.name, n, size, order), in: in,
							wants: []want{s.out(s.of(k, dst, src, hdr{id: 5, hop: s.hop(64)}, n))}, count: core.Counter{PacketsIn: 1, OctetsIn: uint64(n)}})
					}
				}
			}
		}
		for name, shift := range map[string]int{"overlapping": -8, "with a gap": 8} {
			s.serial++
			whole := s.e.wrap(s.of(kindUDP, dst, src, hdr{}, 1280), hdr{id: uint16(s.serial)}, true, !s.up())
			parts := f.cutOuter(whole, 700)
			last := parts[len(parts)-1]
			if s.e.is4() {
				binary.BigEndian.PutUint16(last[6:], uint16(int(binary.BigEndian.Uint16(last[6:]))+shift/8))
				copy(last[10:], []byte{0, 0})
				binary.BigEndian.PutUint16(last[10:], plainSum(last[:20]))
			} else {
				binary.BigEndian.PutUint16(last[42:], uint16(int(binary.BigEndian.Uint16(last[42:]))+shift))
			}
			var in []Packet
			for _, p := range parts {
				if !s.e.is4() {
					binary.BigEndian.PutUint32(p[44:], uint32(s.serial)|0x10000)
				}
				in = append(in, fromCore(p))
			}
			t := trial{name: fam.name + " outer fragments " + name, in: in}
			if name == "overlapping" {
				t.unsure = wire.OverlapFragment // the kernel counts in its own way
			}
			s.add(t)
		}
	}
}

// extensions are headers between the IPv6 header and the upper layer: what of them the data plane must not stumble over.
func extensions(next byte) map[string]struct {
	first byte
	b     []byte
} {
	pad := []byte{1, 4, 0, 0, 0, 0}
	options := append([]byte{next, 0}, pad...)
	long := append([]byte{next, 2, 1, 20}, make([]byte, 20)...)
	routing := append([]byte{next, 2, 0, 0, 0, 0, 0, 0}, CN6.AsSlice()...)
	auth := append([]byte{next, 4, 0, 0, 0, 0, 1, 1, 0, 0, 0, 7}, make([]byte, 12)...)
	type x = struct {
		first byte
		b     []byte
	}
	return map[string]x{
		"destination options":      {60, options},
		"long destination options": {60, long},
		"a routing header":         {43, routing},
		"authentication":           {51, auth},
		"two of them":              {60, slices.Concat([]byte{43, 0}, pad, routing)},
		"a fragment behind them":   {60, slices.Concat([]byte{44, 0}, pad, []byte{next, 0, 0, 1, 1, 2, 3, 4})},
		"an unknown option":        {60, append([]byte{next, 0, 0x1e, 4}, make([]byte, 4)...)},
		"hop-by-hop options":       {0, options},
	}
}

// innerExtensions: IPv6 extension headers and IPv4 options of inner packets pass as they are.
func innerExtensions(s *sheet) {
	src, dst := s.ends(families[0])
	for _, k := range []kind{kindUDP, kindTCP, kindEcho} {
		for _, n := range []int{120, 1280} {
			probe, _ := k.make(s, src, dst, 100)
			for name := range extensions(probe) {
				build := func(a, b netip.Addr) func(int) []byte {
					return func(hop int) []byte {
						proto, body := k.make(s, a, b, n-100)
						x := extensions(proto)[name]
						return v6(a, b, x.first, hdr{hop: hop}, slices.Concat(x.b, body))
					}
				}
				s.in(fmt.Sprintf("%s of %d octets behind %s", k.name, n, name), build(src, dst))
				s.outOf(fmt.Sprintf("%s of %d octets behind %s", k.name, n, name), hdr{}, build(dst, src))
			}
		}
	}
	src, dst = s.ends(families[1])
	for name, options := range map[string][]byte{
		"no operations": {1, 1, 1, 0}, "a security option": {130, 11, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0}, "the most": append([]byte{222, 40}, make([]byte, 38)...),
	} {
		for _, n := range []int{200, 1281} {
			build := func(a, b netip.Addr) func(int) []byte {
				return func(hop int) []byte {
					p := s.of(kindUDP, a, b, hdr{hop: hop, df: true}, n)
					p = slices.Concat(p[:20], options, p[20:])
					p[0] += byte(len(options) / 4)
					binary.BigEndian.PutUint16(p[2:], uint16(len(p)))
					copy(p[10:], []byte{0, 0})
					binary.BigEndian.PutUint16(p[10:], plainSum(p[:20+len(options)]))
					return p
				}
			}
			s.in(fmt.Sprintf("IPv4 of %d octets with %s", n, name), build(src, dst))
			s.outOf(fmt.Sprintf("IPv4 of %d octets with %s", n, name), hdr{}, build(dst, src))
		}
	}
}

// outerExtensions: options of outer headers are taken off with them (RFC 2473 5.1), whatever is behind the packet of the link's own.
func outerExtensions(s *sheet) {
	for _, fam := range families {
		src, dst := s.ends(fam)
		inner, out := func() []byte { return s.of(kindTCP, dst, src, hdr{}, 333) }, func() []byte { return s.of(kindTCP, dst, src, hdr{hop: s.hop(64)}, 333) }
		add := func(name string, outer []byte) {
			s.add(trial{name: fam.name + " behind outer " + name, in: []Packet{fromCore(outer)}, wants: []want{s.out(out())}, count: core.Counter{PacketsIn: 1, OctetsIn: 333}})
			s.serial++
		}
		if s.e.is4() {
			for name, options := range map[string][]byte{"no operations": {1, 1, 1, 0}, "a security option": {130, 11, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0}} {
				o := s.e.wrap(inner(), hdr{id: 4}, true, !s.up())
				o = slices.Concat(o[:20], options, o[20:])
				o[0] += byte(len(options) / 4)
				binary.BigEndian.PutUint16(o[2:], uint16(len(o)))
				copy(o[10:], []byte{0, 0})
				binary.BigEndian.PutUint16(o[10:], plainSum(o[:20+len(options)]))
				add(name, o)
			}
			continue
		}
		for name, x := range map[string][]byte{
			"destination options": {0, 0, 1, 4, 0, 0, 0, 0}, "an encapsulation limit": {0, 0, 4, 1, 3, 1, 1, 0},
		} {
			o := s.e.wrap(inner(), hdr{}, true, !s.up())
			x = bytes.Clone(x)
			x[0], o[6] = o[6], 60
			o = slices.Concat(o[:40], x, o[40:])
			binary.BigEndian.PutUint16(o[4:], uint16(len(o)-40))
			add(name, o)
		}
	}
}

// relayed: what routers in the core say of outer packets is told to the inner source, as RFC 2473 8, RFC 2003 4 and RFC 4213 3.4 ask.
func relayed(s *sheet) {
	v := view{s.bench, framing{"", s.e.outermost().Local, s.e.outermost().Remote}, s.role}
	for _, fam := range families {
		src, dst := s.ends(fam)
		typ, code := byte(1), byte(3)
		if src.Is4() {
			typ, code = 3, 1
		}
		for _, k := range []kind{kindUDP, kindTCP, kindEcho} {
			for _, n := range []int{s.e.head() + 60, s.e.head() + 200, whole} { // as much as the router quoted
				for _, c := range [][4]byte{{1, 0, 3, 0}, {1, 1, 3, 9}, {1, 3, 3, 1}, {1, 4, 3, 3}, {1, 6, 3, 13}, {3, 0, 11, 0}} {
					s.serial++
					in := s.of(k, src, dst, hdr{df: true}, 500)
					sent := s.e.wrap(s.of(k, src, dst, hdr{df: true, hop: s.hop(64)}, 500), hdr{df: true, id: 4711}, false, s.up())
					about := in[:min(len(in), n-s.e.head())]
					s.add(trial{name: fmt.Sprintf("%s %s, %d octets quoted, error %v", fam.name, k.name, n, c), in: []Packet{v.coreError(c[0], c[1], c[2], c[3], 0, sent, n)},
						wants: []want{s.told(typ, code, 0, about)}})
				}
			}
		}
		// An error about an error is told to nobody (RFC 1122 3.2.2, RFC 4443 2.4).
		s.serial++
		back := s.of(kindUDP, dst, src, hdr{}, 300)
		var in []byte
		if src.Is4() {
			in = v4(src, dst, 1, hdr{df: true}, icmp4(3, 3, 0, back[:48]))
		} else {
			in = v6(src, dst, 58, hdr{}, icmp6(src, dst, 1, 4, 0, back))
		}
		sent := s.e.wrap(in, hdr{df: true, id: 4711}, false, s.up())
		s.add(trial{name: fam.name + ": an error about an error", in: []Packet{v.coreError(1, 0, 3, 1, 0, sent, whole)}})
	}
}
