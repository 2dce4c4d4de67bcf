package kernel

import (
	"encoding/binary"
	"net/netip"
	"time"

	"kedge/internal/core"
	"kedge/internal/dataplane"
	"kedge/internal/dataplane/conformance"
	"kedge/wire/ip"
)

// The addresses of IPv6 differ from all others of the suite in more octets than it changes in a packet at random.
var (
	markGW   = netip.MustParseAddr("2001:db8:a::fe")
	markGW4  = netip.MustParseAddr("198.51.100.254")
	mark6    = netip.MustParseAddr("2001:db8:1f5a:a5f0:c3d2:e1f0:7856:3401")
	mark4    = netip.MustParseAddr("10.20.254.1")
	markMAC  = core.MAC{2, 0, 0, 0, 0, 0xfe}
	markMAC2 = core.MAC{2, 0, 0, 0, 0, 0xfd}
	mark26   = netip.MustParseAddr("2001:db8:1f5b:a5f0:c3d2:e1f0:7856:3401")
	mark24   = netip.MustParseAddr("10.20.253.1")
	markMAC3 = core.MAC{2, 0, 0, 0, 0, 0xfc} // of the session over IPv4
	markMAC4 = core.MAC{2, 0, 0, 0, 0, 0xfb} // of those in GRE
	markMAC5 = core.MAC{2, 0, 0, 0, 0, 0xfa}
	mark36   = netip.MustParseAddr("2001:db8:1f5c:a5f0:c3d2:e1f0:7856:3401")
	mark34   = netip.MustParseAddr("10.20.252.1")
)

// markers are sessions of the test itself: their packets show that everything before them has passed.
func (r *router) markers() []core.Op {
	ch := func(local, remote netip.Addr) core.Chain {
		return core.Chain{N: 1, Layer: [2]core.Layer{{Local: netip.AddrPortFrom(local, 0), Remote: netip.AddrPortFrom(remote, 0)}}}
	}
	var ops []core.Op
	if r.o.Role != dataplane.Gateway {
		// One session for each pair of addresses, and in UDP: over IPv4 the plain framing is let in as well.
		six, four := r.ends()
		for i, c := range []core.Chain{ch(six, markGW), ch4191(six, markGW), ch4191(four, markGW4), chGRE(six, markGW), chGRE(four, markGW4)} {
			id := Markers + core.ID(i)
			ops = append(ops, core.SetSession{ID: id, Chain: c})
			for _, a := range []netip.Addr{markAddr(i, true), markAddr(i, false)} {
				m := core.Match{Src: netip.PrefixFrom(a, a.BitLen())}
				if r.o.Role == dataplane.Anchor {
					m.Src, m.Dst = netip.Prefix{}, m.Src
				}
				ops = append(ops, core.SetKey{ID: id, Match: m, Up: true, Down: true})
			}
		}
		return append(append(ops, r.straightMarkers()...), r.securedMarkers()...)
	}
	for i, h := range []struct {
		chain core.Chain
		link  int
		mac   core.MAC
		keys  []netip.Addr
	}{
		{ch(conformance.CoA1, markGW), 0, markMAC, []netip.Addr{mark6, mark4}}, {ch(conformance.CoA1, markGW), 1, markMAC2, []netip.Addr{mark26, mark24}},
		{chGRE(conformance.CoA1, markGW), 0, markMAC4, []netip.Addr{markAddr(3, true)}},
		{ch(conformance.CoA4, markGW4), 0, markMAC3, []netip.Addr{mark36, mark34}}, {chGRE(conformance.CoA4, markGW4), 0, markMAC5, []netip.Addr{markAddr(4, true)}},
	} {
		if i == 3 && !r.o.IPv4 {
			break
		}
		id, ifi := Markers+core.ID(i), r.native[h.link].ifi
		ops = append(ops, core.SetSession{ID: id, Chain: h.chain, If: ifi, MAC: h.mac})
		for _, a := range h.keys {
			ops = append(ops, core.SetKey{ID: id, Match: core.Match{Src: netip.PrefixFrom(a, a.BitLen()), If: ifi, MAC: h.mac}, Up: true, Down: true})
		}
	}
	return append(ops, r.securedMarkers()...)
}

// securedWays are the ways into a router with security associations: two sockets of each family.
func (r *router) securedWays() (out []core.Layer) {
	if !r.o.Secured {
		return nil
	}
	six, four := conformance.CoA1, conformance.CoA4
	if r.o.Role == dataplane.Anchor {
		six, four = conformance.LMAA, conformance.LMAA4
	}
	for _, port := range []uint16{0, 4500} {
		for _, a := range [][2]netip.Addr{{six, markGW}, {four, markGW4}} {
			out = append(out, core.Layer{Local: netip.AddrPortFrom(a[0], 0), Remote: netip.AddrPortFrom(a[1], 0), SA: conformance.MarkerHandle, ESPPort: port})
		}
	}
	return out
}

// securedMarkers are a session for each of them, each with an address of its own.
func (r *router) securedMarkers() (ops []core.Op) {
	for i, l := range r.securedWays() {
		set := core.SetSession{ID: Markers + 16 + core.ID(i), Chain: core.Chain{N: 1, Layer: [2]core.Layer{l}}}
		m := core.Match{Src: netip.PrefixFrom(markAddr(16+i, true), 128)}
		switch r.o.Role {
		case dataplane.Anchor:
			m.Src, m.Dst = netip.Prefix{}, m.Src
		case dataplane.Gateway:
			set.If, set.MAC = r.native[0].ifi, core.MAC{2, 0, 0, 0, 0, byte(0xe0 + i)}
			m.If, m.MAC = set.If, set.MAC
		}
		ops = append(ops, set, core.SetKey{ID: set.ID, Match: m, Up: true, Down: true})
	}
	return ops
}

// ends are the router's own of the marker sessions.
func (r *router) ends() (six, four netip.Addr) {
	if r.o.Role == dataplane.Node {
		return conformance.CoA1, conformance.CoA4
	}
	return conformance.LMAA, conformance.LMAA4
}

func chGRE(local, remote netip.Addr) core.Chain {
	return core.Chain{N: 1, Layer: [2]core.Layer{{Local: netip.AddrPortFrom(local, 0), Remote: netip.AddrPortFrom(remote, 0), GRE: true}}}
}

func ch4191(local, remote netip.Addr) core.Chain {
	return core.Chain{N: 1, Layer: [2]core.Layer{{Local: netip.AddrPortFrom(local, 4191), Remote: netip.AddrPortFrom(remote, 4191)}}}
}

// markAddr is the i-th home address of the markers of a family.
func markAddr(i int, six bool) netip.Addr {
	a := mark4
	if six {
		a = mark6
	}
	for range i {
		a = a.Next()
	}
	return a
}

// markAll sends a marker on every way in.
func (r *router) markAll() (waiting map[uint32]bool) {
	r.t.Helper()
	waiting = map[uint32]bool{}
	mark := func(src, dst netip.Addr) []byte {
		r.marks++
		waiting[r.marks] = true
		udp, err := ip.AppendUDP(nil, netip.AddrPortFrom(src, 9), netip.AddrPortFrom(dst, 9), binary.BigEndian.AppendUint32([]byte("kedge marker"), r.marks))
		must(r.t, err)
		h := ip.Header{Src: src, Dst: dst, Proto: ip.UDP, TTL: 9}
		b, err := h.Append(nil, len(udp))
		must(r.t, err)
		return append(b, udp...)
	}
	outer := func(src, dst netip.Addr, proto uint8, in []byte) []byte {
		h := ip.Header{Src: src, Dst: dst, Proto: proto, TTL: 9}
		b, err := h.Append(nil, len(in))
		must(r.t, err)
		return append(b, in...)
	}
	wrap := func(local netip.Addr, in []byte) []byte {
		remote, proto := markGW, uint8(ip.IPv6)
		if local.Is4() {
			remote = markGW4
		}
		if in[0]>>4 == 4 {
			proto = ip.IPv4
		}
		return outer(remote, local, proto, in)
	}
	wrapGRE := func(local, remote netip.Addr, in []byte) []byte { // around IPv6
		return outer(remote, local, ip.GRE, append([]byte{0, 0, 0x86, 0xdd}, in...))
	}
	wrapUDP := func(local, remote netip.Addr, in []byte) []byte {
		b, err := ip.AppendUDP(nil, netip.AddrPortFrom(remote, 4191), netip.AddrPortFrom(local, 4191), in)
		must(r.t, err)
		return outer(remote, local, ip.UDP, b)
	}
	into := func(w *Wire, dst, src core.MAC, b []byte) { w.frame(r.t, dst, src, b, ip.VNet{}) }
	c, n := r.core, r.native[0]
	for i, l := range r.securedWays() {
		a, up := markAddr(16+i, true), r.o.Role == dataplane.Anchor
		src, dst := conformance.CN6, a
		if up {
			src, dst = a, conformance.CN6
		}
		b, proto := conformance.SealESP(l.SA, up, ip.IPv6, mark(src, dst)), uint8(ip.ESP)
		if l.ESPPort != 0 {
			var err error
			b, err = ip.AppendUDP(nil, netip.AddrPortFrom(l.Remote.Addr(), l.ESPPort), netip.AddrPortFrom(l.Local.Addr(), l.ESPPort), b)
			must(r.t, err)
			proto = ip.UDP
		}
		into(c, c.peer, c.mac, outer(l.Remote.Addr(), l.Local.Addr(), proto, b))
	}
	if r.o.Role != dataplane.Gateway {
		six, four := r.ends()
		// On an anchor the home addresses are destinations on the native side, on a node sources.
		native := func(i int) []byte { return mark(conformance.CN6, markAddr(i, true)) }
		tunnel := func(i int, six bool) []byte {
			if six {
				return mark(markAddr(i, true), conformance.CN6)
			}
			return mark(markAddr(i, false), conformance.CN4)
		}
		if r.o.Role == dataplane.Node {
			native = func(i int) []byte { return mark(markAddr(i, true), conformance.CN6) }
			tunnel = func(i int, six bool) []byte {
				if six {
					return mark(conformance.CN6, markAddr(i, true))
				}
				return mark(conformance.CN4, markAddr(i, false))
			}
		}
		into(n, n.peer, n.mac, native(0))
		for _, b := range [][]byte{
			wrap(six, tunnel(0, true)), wrap(six, tunnel(0, false)), wrap(four, tunnel(2, true)), wrap(four, tunnel(2, false)),
			wrapUDP(six, markGW, tunnel(1, true)), wrapUDP(four, markGW4, tunnel(2, true)),
			wrapGRE(six, markGW, tunnel(3, true)), wrapGRE(four, markGW4, tunnel(4, true)),
		} {
			into(c, c.peer, c.mac, b)
		}
		if r.o.Optimized {
			into(c, c.peer, c.mac, r.straightMark(mark))
		}
		if r.icmpSent[false] {
			into(c, c.peer, c.mac, r.icmpMark(six, native(0), false))
		}
		if r.icmpSent[true] {
			into(c, c.peer, c.mac, r.icmpMark(four, native(2), true))
		}
		return waiting
	}
	// Each family may have a socket of its own, on both sides.
	into(n, conformance.RouterMAC, markMAC, mark(mark6, conformance.CN6))
	into(n, conformance.RouterMAC, markMAC, mark(mark4, conformance.CN4))
	into(r.native[1], conformance.RouterMAC, markMAC2, mark(mark26, conformance.CN6))
	into(r.native[1], conformance.RouterMAC, markMAC2, mark(mark24, conformance.CN4))
	into(c, c.peer, c.mac, wrap(conformance.CoA1, mark(conformance.CN6, mark6)))
	into(c, c.peer, c.mac, wrap(conformance.CoA1, mark(conformance.CN4, mark24)))
	into(c, c.peer, c.mac, wrapGRE(conformance.CoA1, markGW, mark(conformance.CN6, markAddr(3, true))))
	if r.o.IPv4 {
		into(c, c.peer, c.mac, wrapGRE(conformance.CoA4, markGW4, mark(conformance.CN6, markAddr(4, true))))
		into(c, c.peer, c.mac, wrap(conformance.CoA4, mark(conformance.CN6, mark36)))
		into(c, c.peer, c.mac, wrap(conformance.CoA4, mark(conformance.CN4, mark34)))
	}
	if r.icmpSent[false] {
		into(c, c.peer, c.mac, r.icmpMark(conformance.CoA1, mark(mark6, conformance.CN6), false))
	}
	if r.icmpSent[true] && r.o.IPv4 {
		into(c, c.peer, c.mac, r.icmpMark(conformance.CoA4, mark(mark36, conformance.CN6), false))
	}
	return waiting
}

// icmpMark is an ICMP error about a marker in its tunnel, perhaps one in UDP.
func (r *router) icmpMark(local netip.Addr, inner []byte, inUDP bool) []byte {
	remote, proto, icmp, code := markGW, uint8(ip.IPv6), uint8(ip.ICMPv6), []byte{1, 3, 0, 0, 0, 0, 0, 0}
	if local.Is4() {
		remote, icmp, code = markGW4, ip.ICMPv4, []byte{3, 1, 0, 0, 0, 0, 0, 0}
	}
	if inUDP {
		proto = ip.UDP
		b, err := ip.AppendUDP(nil, netip.AddrPortFrom(local, 4191), netip.AddrPortFrom(remote, 4191), inner)
		must(r.t, err)
		inner = b
	}
	o := ip.Header{Src: local, Dst: remote, Proto: proto, TTL: 9}
	quoted, err := o.Append(nil, len(inner))
	must(r.t, err)
	msg := append(code, append(quoted, inner...)...)
	sum := ip.Checksum(msg)
	if !local.Is4() {
		sum = ip.PseudoChecksum(remote, local, ip.ICMPv6, msg)
	}
	binary.BigEndian.PutUint16(msg[2:], sum)
	h := ip.Header{Src: remote, Dst: local, Proto: icmp, TTL: 9}
	b, err := h.Append(nil, len(msg))
	must(r.t, err)
	r.Advance(200 * time.Millisecond) // a token for the error that comes back
	return append(b, msg...)
}
