package conformance

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"testing"

	"kedge/internal/core"
	"kedge/internal/dataplane"
	"kedge/wire"
)

// The matrix: every role and encapsulation, with every family, upper layer, size and header field that may matter. What must come out is
// built from the RFCs' pictures by the plain code of this package.
var matrixCases = matrixOf(encapsOf)

// Chained is the matrix of encapsulations of more headers than one, of ESP, and of bridged mode.
func Chained(t *testing.T, f Factory) {
	run(t, f, matrixOf(chainedOf))
	run(t, f, matrixOf(securedOf))
	run(t, f, bridgedCases())
}

func matrixOf(encaps func(dataplane.Role) []encap) (out []testCase) {
	for _, o := range []Options{anchor, both(gateway), node} {
		for _, e := range encaps(o.Role) {
			role := [...]string{"anchor", "gateway", "node"}[o.Role]
			o := o
			o.Secured = e.secured()
			out = append(out, testCase{name: "matrix/" + role + " in " + e.name, o: o, f: func(b *bench) {
				b.secured = o.Secured
				s := site{b, e, o.Role}
				s.begin(0)
				for _, f := range []func(*sheet){sizes, layers, classes, hops, innerFragments, outerFragments, innerExtensions, outerExtensions} {
					s.run(f)
				}
				if !o.Secured { // nobody can look into what is quoted
					s.run(relayed)
				}
				s.run(offloads)
				s.small()
			}})
		}
	}
	return out
}

// begin gives host 1 the session of the site, on a path of a static MTU or 0.
func (s site) begin(mtu uint16) {
	c := s.e.chain
	c.MTU = mtu
	op := core.SetSession{ID: sessionOne, Chain: c, Grace: grace}
	if s.role == dataplane.Gateway {
		op.If, op.MAC = s.r.If(1), Host1
	}
	s.update(op)
	s.r.Advance(grace)
}

// sheet is a list of trials in the making.
type sheet struct {
	site
	path   int  // MTU of the path
	static bool // as configured
	serial int
	all    []trial
}

func (s site) run(f func(*sheet)) {
	s.Helper()
	sh := &sheet{site: s, path: pathMTU}
	f(sh)
	s.burst(sh.all)
}

// most is the size of the largest inner packet that needs no fragments outside.
func (s *sheet) most() int { return s.path - s.e.head() }

// longest is as much as the native link carries, or long enough for several fragments.
func (s *sheet) longest() int {
	if s.role == dataplane.Gateway {
		return 1500
	}
	return 2999
}

func (s *sheet) add(t trial) { s.all = append(s.all, t) }

// fill is n octets that no other packet has, if they are enough.
//
//go:norace
func (s *sheet) fill(n int) []byte {
	b := filling(n)
	for i := range b {
		b[i] ^= byte(s.serial >> (i % 4 * 4))
	}
	return b
}

// kinds are upper layers, by name. Each makes one of n octets, with ports or the like that no other packet has.
type kind struct {
	name  string
	least int
	make  func(s *sheet, src, dst netip.Addr, n int) (proto byte, body []byte)
}

var (
	kindUDP = kind{"UDP", 8, func(s *sheet, src, dst netip.Addr, n int) (byte, []byte) {
		b := s.udp(n)
		sum := pseudoSum(src, dst, 17, b)
		if sum == 0 {
			sum = 0xffff
		}
		binary.BigEndian.PutUint16(b[6:], sum)
		return 17, b
	}}
	kindTCP = kind{"TCP", 20, func(s *sheet, src, dst netip.Addr, n int) (byte, []byte) {
		return 6, s.tcp(src, dst, 1000, 0x18, s.fill(n-20))
	}}
	kindEcho = kind{"echo", 8, func(s *sheet, src, dst netip.Addr, n int) (byte, []byte) {
		id := 0x12340000 | uint32(s.serial&0xffff)
		if src.Is4() {
			return 1, icmp4(8, 0, id, s.fill(n-8))
		}
		return 58, icmp6(src, dst, 128, 0, id, s.fill(n-8))
	}}
	kindUnsummed = kind{"UDP without checksum", 8, func(s *sheet, _, _ netip.Addr, n int) (byte, []byte) { return 17, s.udp(n) }}
	kindSCTP     = kind{"SCTP", 12, func(s *sheet, _, _ netip.Addr, n int) (byte, []byte) { return 132, s.udp(n) }} // its sum is a CRC, which nobody looks at
	kindOther    = kind{"protocol 253", 2, func(s *sheet, _, _ netip.Addr, n int) (byte, []byte) {
		return 253, append([]byte{byte(s.serial >> 8), byte(s.serial)}, s.fill(n-2)...)
	}}
	kindESP = kind{"ESP", 8, func(s *sheet, _, _ netip.Addr, n int) (byte, []byte) { return 50, s.udp(n) }}
	kindGRE = kind{"GRE", 8, func(s *sheet, _, _ netip.Addr, n int) (byte, []byte) {
		return 47, append([]byte{0x20, 0, 8, 0}, s.udp(n)[:n-4]...)
	}}
	kindIPIP = kind{"IPv6 in it", 48, func(s *sheet, _, _ netip.Addr, n int) (byte, []byte) {
		return 41, v6(Nobody, CN6, 17, hdr{}, s.udp(n-40))
	}}
)

// udp is a datagram without checksum.
func (s *sheet) udp(n int) []byte {
	b := []byte{byte(0x40 | s.serial>>8), byte(s.serial), 0xc3, 0x50, byte(n >> 8), byte(n), 0, 0}
	return append(b, s.fill(n-8)...)
}

func (s *sheet) tcp(src, dst netip.Addr, seq uint32, flags byte, payload []byte) []byte {
	b := tcp(src, dst, seq, flags, payload)
	b[0], b[1] = byte(0x40|s.serial>>8), byte(s.serial)
	copy(b[16:], []byte{0, 0})
	binary.BigEndian.PutUint16(b[16:], pseudoSum(src, dst, 6, b))
	return b
}

// of is a packet of size octets in all.
func (s *sheet) of(k kind, src, dst netip.Addr, h hdr, size int) []byte {
	proto, body := k.make(s, src, dst, size-headerLen(src))
	return packet(src, dst, proto, h, body)
}

// in adds the packet that make builds with a hop limit to what enters the tunnel.
func (s *sheet) in(name string, build func(hop int) []byte) {
	s.serial++
	in, out := build(64), build(s.hop(64))
	s.add(trial{name: name + ", in", in: []Packet{s.native(in)}, wants: s.emitted(out, s.path, s.static), count: core.Counter{PacketsOut: 1, OctetsOut: uint64(len(in))}})
}

// outOf does so with what leaves it, in an outer packet with h.
func (s *sheet) outOf(name string, h hdr, build func(hop int) []byte) {
	s.serial++
	in, out := build(64), build(s.hop(64))
	s.add(trial{name: name + ", out", in: []Packet{s.arrives(in, h)}, wants: []want{s.out(out)}, count: core.Counter{PacketsIn: 1, OctetsIn: uint64(len(in))}})
}

// sizes: from one octet of payload to what the tunnel just carries, and one more.
func sizes(s *sheet) {
	for _, fam := range families {
		src, dst := s.ends(fam)
		for _, k := range []kind{kindUDP, kindTCP, kindEcho, kindOther} {
			for _, n := range []int{headerLen(src) + k.least, headerLen(src) + k.least + 1, 127, 600, 1279, 1280, 1281, s.most() - 1, s.most()} {
				if n > s.most() {
					continue
				}
				for _, df := range []bool{true, false} {
					if !df && !src.Is4() {
						continue
					}
					name := fmt.Sprintf("%s %s of %d octets, DF %v", fam.name, k.name, n, df)
					s.in(name, func(hop int) []byte { return s.of(k, src, dst, hdr{hop: hop, df: df, id: 7}, n) })
					s.outOf(name, hdr{id: 9, df: df}, func(hop int) []byte { return s.of(k, dst, src, hdr{hop: hop, df: df, id: 7}, n) })
				}
			}
			s.serial++
			big := s.of(k, src, dst, hdr{df: true}, s.most()+1)
			s.tooBig(fam.name+" "+k.name, big)
			if src.Is4() {
				for _, n := range []int{s.most() + 1, 1500, s.longest()} {
					s.in(fmt.Sprintf("IPv4 %s of %d octets", k.name, n), func(hop int) []byte { return s.of(k, src, dst, hdr{hop: hop, id: 7}, n) })
				}
			}
		}
	}
}

// tooBig wants the ICMP error of the family.
func (s *sheet) tooBig(name string, big []byte) {
	w := s.told(2, 0, uint32(max(s.most(), 1280)), big)
	if big[0]>>4 == 4 {
		w = s.told(3, 4, uint32(s.most()), big)
	}
	s.add(trial{name: name + ", too big", in: []Packet{s.native(big)}, wants: []want{w}, drop: wire.TooBig})
}

// small is the matrix of sizes on a path that carries less than 1,280 octets of inner packets: those of IPv6 up to there are
// fragmented outside (RFC 2473 7.1, RFC 4213 3.2), as are those of IPv4 that may be.
func (s site) small() {
	for _, mtu := range []int{1280, 1280 + s.e.head() - 1} {
		s.begin(uint16(mtu))
		sh := &sheet{site: s, path: mtu, static: true}
		for _, fam := range families {
			src, dst := s.ends(fam)
			for _, k := range []kind{kindUDP, kindTCP, kindEcho} {
				for _, n := range []int{headerLen(src) + k.least + 1, sh.most() - 1, sh.most(), sh.most() + 1, 1279, 1280} {
					sh.in(fmt.Sprintf("%s %s of %d octets over a path of %d", fam.name, k.name, n, mtu), func(hop int) []byte { return sh.of(k, src, dst, hdr{hop: hop, id: 7}, n) })
				}
				sh.serial++
				n := map[bool]int{true: sh.most() + 1, false: 1281}[src.Is4()]
				sh.tooBig(fmt.Sprintf("%s %s over a path of %d", fam.name, k.name, mtu), sh.of(k, src, dst, hdr{df: true}, n))
			}
		}
		s.burst(sh.all)
	}
	s.begin(0)
}

// layers: upper layers that nobody looks into, and sums that are wrong or absent, pass as they are.
func layers(s *sheet) {
	for _, fam := range families {
		src, dst := s.ends(fam)
		for _, k := range []kind{kindSCTP, kindESP, kindGRE, kindIPIP, kindOther, kindUnsummed} {
			if k.name == kindUnsummed.name && !src.Is4() {
				continue // RFC 8200 8.1
			}
			for _, n := range []int{100, 901, s.most()} {
				name := fmt.Sprintf("%s %s of %d octets", fam.name, k.name, n)
				s.in(name, func(hop int) []byte { return s.of(k, src, dst, hdr{hop: hop, df: true}, n) })
				s.outOf(name, hdr{}, func(hop int) []byte { return s.of(k, dst, src, hdr{hop: hop, df: true}, n) })
			}
		}
		if s.e.udp() {
			continue // a sum of sums would tell, RFC 768: such a packet may be lost on the way
		}
		for _, k := range []kind{kindUDP, kindTCP, kindEcho} {
			wrong := func(a, b netip.Addr) func(int) []byte {
				return func(hop int) []byte {
					p := s.of(k, a, b, hdr{hop: hop}, 200)
					p[len(p)-1] ^= 0x55
					return p
				}
			}
			s.in(fam.name+" "+k.name+" with a wrong checksum", wrong(src, dst))
			s.outOf(fam.name+" "+k.name+" with a wrong checksum", hdr{}, wrong(dst, src))
		}
	}
}

// classes: DSCP and ECN. Into the tunnel both are copied (RFC 2983 4.1, RFC 6040 4.1); out of it DSCP is the outer one's, and ECN as figure 4
// of RFC 6040 says.
func classes(s *sheet) {
	for _, fam := range families {
		src, dst := s.ends(fam)
		for _, dscp := range []byte{0, 0x28, 0xb8, 0xfc} {
			for ecn := range byte(4) {
				tos := dscp | ecn
				s.in(fmt.Sprintf("%s of class %02x", fam.name, tos), func(hop int) []byte { return s.of(kindUDP, src, dst, hdr{hop: hop, tos: tos}, 100) })
			}
			for _, outer := range []byte{0, 0x48, 0xfc} {
				for _, row := range congestionTable {
					in, out := dscp|row.inner, outer|row.result
					if outer|row.outer == 0 {
						continue // which of hdr says "as the packet's"
					}
					name := fmt.Sprintf("%s of class %02x in %02x", fam.name, in, outer|row.outer)
					s.serial++
					t := trial{name: name + ", out", in: []Packet{s.arrives(s.of(kindTCP, dst, src, hdr{tos: in}, 120), hdr{tos: outer | row.outer})}}
					if row.result == dropped {
						t.drop = wire.ECNDrop
					} else {
						t.wants = []want{s.out(s.of(kindTCP, dst, src, hdr{hop: s.hop(64), tos: out}, 120))}
						t.count = core.Counter{PacketsIn: 1, OctetsIn: 120}
					}
					s.add(t)
				}
			}
		}
		// Flow labels stay inside (RFC 2473 6.5 leaves the outer one open).
		if !src.Is4() {
			s.in("a flow label", func(hop int) []byte { return s.of(kindUDP, src, dst, hdr{hop: hop, flow: 0xabcde}, 100) })
			s.outOf("a flow label", hdr{}, func(hop int) []byte { return s.of(kindUDP, dst, src, hdr{hop: hop, flow: 0xabcde}, 100) })
		}
	}
}
