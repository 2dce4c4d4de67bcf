package conformance

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"slices"

	"kedge/internal/core"
	"kedge/internal/dataplane"
)

// encap is a way to carry packets between the router and the other end of its tunnel: the chain of a session.
type encap struct {
	name  string
	chain core.Chain
}

// one is a chain of one layer.
func one(l core.Layer) core.Chain { return core.Chain{N: 1, Layer: [2]core.Layer{l}} }

// headOf is what a layer costs, octets.
func headOf(l core.Layer) int {
	n := headerLen(l.Remote.Addr())
	if l.Local.Port() != 0 {
		n += 8
	}
	if l.TLV != 0 {
		n += 4
	}
	if l.GRE {
		n += 4
		if l.KeyUp != 0 {
			n += 4
		}
	}
	if l.ESPPort != 0 {
		n += 8
	}
	if l.SA != 0 {
		n += overheadESP
	}
	return n
}

func (e encap) head() (n int) {
	for _, l := range e.chain.Layer[:e.chain.N] {
		n += headOf(l)
	}
	return n
}

func (e encap) outermost() core.Layer { return e.chain.Layer[e.chain.N-1] }
func (e encap) secured() bool         { return e.chain.Layer[0].SA != 0 }
func (e encap) is4() bool             { return e.outermost().Remote.Addr().Is4() }

// udp: is anything of it a UDP datagram, whose checksum covers what is inside?
func (e encap) udp() bool {
	return slices.ContainsFunc(e.chain.Layer[:e.chain.N], func(l core.Layer) bool { return l.Local.Port() != 0 })
}

// wrap puts the outer headers of the chain around a packet, from this end or, back, from the other one. up: towards the anchor.
// h is of each outer header, but for the traffic class, which is the packet's if h has none.
func (e encap) wrap(inner []byte, h hdr, back, up bool) []byte {
	h = hopsLeft(h, inner)
	for _, l := range e.chain.Layer[:e.chain.N] {
		src, dst, key := l.Local, l.Remote, l.KeyDown
		if up {
			key = l.KeyUp
		}
		if back {
			src, dst = dst, src
		}
		inner = wrapLayer(l, src, dst, key, up, inner, h)
	}
	return inner
}

// wrapLayer is one layer: outer IP | UDP | TLV | GRE | packet. RFC 2473 3.1, RFC 2003 3.1, RFC 4213 3.5, RFC 5555 4.1, RFC 2784 2 and RFC 2890 2,
// RFC 5845 7.2 and, before it, the layout of the drafts of 2007.
// RFC 4303 3.1.2 for ESP in tunnel mode, RFC 3948 2.1 in UDP.
func wrapLayer(l core.Layer, src, dst netip.AddrPort, key uint32, up bool, inner []byte, h hdr) []byte {
	four := inner[0]>>4 == 4
	next, ethertype, old, tos := byte(41), uint16(0x86dd), byte(2), inner[0]<<4|inner[1]>>4
	if four {
		next, ethertype, old, tos = 4, 0x0800, 1, inner[1]
	}
	if h.tos == 0 {
		h.tos = tos
	}
	if l.SA != 0 {
		inner, next, old = SealESP(l.SA, up, next, inner), 50, 4
	}
	if l.ESPPort != 0 {
		next, inner = 17, datagram(ap(src.Addr(), portESP), ap(dst.Addr(), portESP), inner)
		if src.Addr().Is4() {
			inner[6], inner[7] = 0, 0
		}
	}
	if l.GRE {
		g := []byte{0, 0, byte(ethertype >> 8), byte(ethertype)}
		if key != 0 {
			g[0] = 0x20
			g = binary.BigEndian.AppendUint32(g, key)
		}
		inner, next, old = append(g, inner...), 47, 4
	}
	switch l.TLV {
	case 1:
		inner = append([]byte{0, next, byte(len(inner) >> 8), byte(len(inner))}, inner...)
	case 2:
		inner = append([]byte{old, byte(len(inner)), 0, 0}, inner...)
	}
	if l.Local.Port() != 0 {
		next, inner = 17, datagram(src, dst, inner)
	}
	return packet(src.Addr(), dst.Addr(), next, h, inner)
}

// encapsOf are those that a role is tested in.
func encapsOf(r dataplane.Role) (out []encap) {
	if r == dataplane.Gateway {
		return []encap{
			{"IPv6", one(core.Layer{Local: ap(CoA1, 0), Remote: ap(LMAA, 0)})},
			{"IPv4", one(core.Layer{Local: ap(CoA4, 0), Remote: ap(LMAA4, 0)})},
		}
	}
	for _, f := range framingsOf(r) {
		out = append(out, encap{f.name, f.chain()})
	}
	return out
}

// chainedOf are encapsulations of more headers than one: GRE with and without keys, TLV headers of both layouts, and one tunnel in another.
func chainedOf(r dataplane.Role) (out []encap) {
	six, four := framingsOf(dataplane.Anchor)[0], framingsOf(dataplane.Anchor)[2]
	if r != dataplane.Anchor {
		six, four = framingsOf(dataplane.Node)[0], framingsOf(dataplane.Node)[2]
	}
	layer := func(f framing, change func(*core.Layer)) core.Layer {
		l := core.Layer{Local: f.local, Remote: f.remote}
		change(&l)
		return l
	}
	plain := func(*core.Layer) {}
	gre := func(l *core.Layer) { l.GRE = true }
	keyed := func(l *core.Layer) { l.GRE, l.KeyUp, l.KeyDown = true, 0xfedc0001, 7 }
	out = append(out, encap{"GRE over IPv6", one(layer(six, gre))}, encap{"GRE over IPv4", one(layer(four.plain(), gre))},
		encap{"GRE with keys over IPv6", one(layer(six, keyed))}, encap{"GRE with keys over IPv4", one(layer(four.plain(), keyed))})
	if r == dataplane.Gateway {
		return out // in UDP only if it is told to be
	}
	for tlv := uint8(1); tlv <= 2; tlv++ {
		name := map[uint8]string{1: "TLV", 2: "TLV of 2007"}[tlv]
		out = append(out, encap{name + " over IPv4", one(layer(four, func(l *core.Layer) { l.TLV = tlv }))},
			encap{name + " and GRE over IPv4", one(layer(four, func(l *core.Layer) { keyed(l); l.TLV = tlv }))})
	}
	return append(out,
		encap{"IPv6 in UDP over IPv4", core.Chain{N: 2, Layer: [2]core.Layer{layer(six, plain), layer(four, plain)}}},
		encap{"IPv6 in IPv4", core.Chain{N: 2, Layer: [2]core.Layer{layer(six, plain), layer(four.plain(), plain)}}},
		encap{"GRE with keys over IPv6 in UDP over IPv4", core.Chain{N: 2, Layer: [2]core.Layer{layer(six, keyed), layer(four, plain)}}})
}

// securedOf are those in ESP, with protocol 50 and in UDP port 4500, over both families.
func securedOf(r dataplane.Role) (out []encap) {
	six, four := framingsOf(dataplane.Anchor)[0], framingsOf(dataplane.Anchor)[2]
	if r != dataplane.Anchor {
		six, four = framingsOf(dataplane.Node)[0], framingsOf(dataplane.Node)[2]
	}
	for _, f := range []framing{six, four.plain()} {
		family := map[bool]string{true: "IPv4", false: "IPv6"}[f.is4()]
		out = append(out, encap{"ESP over " + family, one(core.Layer{Local: f.local, Remote: f.remote, SA: Handle})},
			encap{"ESP in UDP over " + family, one(core.Layer{Local: f.local, Remote: f.remote, SA: Handle, ESPPort: portESP})})
	}
	return out
}

// site is a router with one session, of host 1, in one encapsulation: packets go out of one side and into the other.
type site struct {
	*bench
	e    encap
	role dataplane.Role
}

// ends are source and destination of what enters the tunnel.
func (s site) ends(fam family) (src, dst netip.Addr) {
	if s.role == dataplane.Anchor {
		return fam.cn, fam.one
	}
	return fam.one, fam.cn
}

// hop is what is left of a hop limit: a node forwards nothing.
func (s site) hop(before int) int {
	if s.role == dataplane.Node {
		return before
	}
	return before - 1
}

func (s site) up() bool { return s.role != dataplane.Anchor }

func (s site) native(b []byte) Packet {
	if s.role == dataplane.Gateway {
		return from1(b)
	}
	return Packet{Side: Native, B: b}
}

func (s site) out(b []byte) want {
	if s.role == dataplane.Gateway {
		return to1(b)
	}
	return want{Packet: Packet{Side: Native, B: b}}
}

// told wants an ICMP error on the native side, where its cause came from.
func (s site) told(typ, code byte, info uint32, about []byte) want {
	src, _, _ := addresses(about)
	w := s.out(nil)
	w.icmp = &icmpWant{dst: src, typ: typ, code: code, info: info, about: about}
	return w
}

// arrives is a packet of the tunnel's other end.
func (s site) arrives(inner []byte, h hdr) Packet {
	return fromCore(s.e.wrap(inner, h, true, !s.up()))
}

// emitted is the outer packet, or its fragments, of one that enters the tunnel on a path of mtu octets, of which is known by a
// static setting that is may change: then nothing forbids its fragmentation (RFC 4213 3.2.1).
func (s site) emitted(inner []byte, mtu int, static bool) (out []want) {
	h := hdr{}
	if len(inner)+s.e.head() <= mtu {
		if inner[0]>>4 == 4 {
			h.df = inner[6]&0x40 != 0 // RFC 2003 3.1
		} else {
			h.df = !static && mtu-s.e.head() >= 1280 // RFC 4213 3.2.2
		}
		return []want{toCore(s.e.wrap(inner, h, false, s.up()))}
	}
	var f framing
	f.local, f.remote = s.e.outermost().Local, s.e.outermost().Remote
	whole := s.e.wrap(inner, h, false, s.up())
	if s.e.secured() { // padding may be less than the most that there is
		w := toCore(whole)
		if len(whole) > mtu {
			for i, p := range f.cutOuter(whole, mtu) {
				w.pieces += map[bool]string{true: " "}[i > 0] + fmt.Sprint(len(p))
			}
		}
		return []want{w}
	}
	for _, p := range f.cutOuter(whole, mtu) {
		out = append(out, toCore(p))
	}
	return out
}

// Encap is a way to carry packets, for tests with real hosts: the chain of the gateway or node, and that of its anchor.
type Encap struct {
	Name     string
	End, Top core.Chain
	IPv4     bool // the outermost addresses are of IPv4
	Head     int  // octets that it costs, at most
}

// Encaps are all of a gateway, or of a node, between CoA1 or CoA4 and LMAA or LMAA4: those of one plain layer.
func Encaps(r dataplane.Role) []Encap { return exported(encapsOf(r)) }

// ChainedEncaps are those of more headers than one: GRE, TLV, a tunnel in another, and ESP by the security association Handle.
func ChainedEncaps(r dataplane.Role) []Encap { return exported(append(chainedOf(r), securedOf(r)...)) }

func exported(all []encap) (out []Encap) {
	for _, e := range all {
		top := e.chain
		for i := range top.Layer[:top.N] {
			l := &top.Layer[i]
			l.Local, l.Remote = l.Remote, l.Local
		}
		out = append(out, Encap{e.name, e.chain, top, e.is4(), e.head()})
	}
	return out
}

// Chains are those of all encapsulations of a role, as its router has them.
func Chains(r dataplane.Role) (out []core.Chain) {
	for _, e := range encapsOf(r) {
		out = append(out, e.chain)
	}
	return out
}
