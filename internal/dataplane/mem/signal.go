package mem

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/maphash"
	"net/netip"
	"slices"
	"time"

	"kedge/internal/core"
	"kedge/internal/dataplane"
	"kedge/wire/ip"
)

const (
	maxSignalHeaders = 4 // Destination Options and type 2 Routing headers before the message
	echoReply6       = 129
)

// Encapsulate puts a packet of signalling into a chain: an IPv6 packet, whole. No session is needed, and an ICMP error about it
// tells nobody. No router is forbidden to fragment it, for it must arrive; what exceeds the path MTU is fragmented here. Only an
// echo of more than 1,280 octets is sent whole or not at all: it asks how much the path carries (RFC 8899 4.1). On an error,
// which says what is wrong with the chain or the packet, nothing was appended.
func (e *Engine) Encapsulate(now time.Duration, chain core.Chain, pkt []byte, out *Out) error {
	if err := e.carries(chain); err != nil {
		return err
	}
	h, err := ip.Parse(pkt)
	if err != nil {
		return err
	}
	if h.Is4() {
		return fmt.Errorf("signalling from %v to %v is not IPv6", h.Src, h.Dst)
	}
	if chain.N == 0 || chain.RO != 0 {
		return errors.New("signalling outside of tunnels is not this back end's")
	}
	way, _ := e.frames(outermost(&chain), [2]uint32{})
	e.mu.RLock()
	p := e.tables.paths[way.tuple]
	e.mu.RUnlock()
	if p == nil {
		p = &path{ends: way.tuple, secret: e.hash(way.tuple)}
	}
	mtu := p.pathMTU(now, e.cfg.MTU)
	if chain.MTU != 0 {
		mtu = min(mtu, int(chain.MTU))
	}
	probe := h.Proto == ip.ICMPv6 && h.Len > ip.MinMTU6
	w, fits := wrapping{mtu: mtu, df: probe}, false
	if special(&chain) {
		k := e.stackOf(&chain, p)
		fits = (!probe || h.Len+k.over <= mtu) && e.wrap(k, pkt[:h.Len], &h, w, out)
	} else {
		fits = (!probe || h.Len+way.head() <= mtu) && e.encapsulate(&tunnel{frame: frame{tuple: way.tuple}, path: p}, pkt[:h.Len], nil, &h, w, out)
	}
	if !fits {
		return fmt.Errorf("signalling of %d octets to %v: %w", h.Len, way.remote, core.ErrTooLarge)
	}
	return nil
}

// signal hands a packet that came out of a tunnel over if it is signalling for this router, and reports whether it is that, also
// if it was dropped. tun is nil if no session knows the tuple. The lock is held.
func (e *Engine) signal(now time.Duration, tun *tunnel, o Outer, pkt []byte, h *ip.Header, out *Out) bool {
	if h.Is4() || e.cfg.Role == dataplane.Gateway || !e.signals6(pkt, h) || !e.signalFor(o, h.Dst) {
		return false
	}
	if !unicast(o.Remote.Addr()) || o.Local.Port() != 0 && o.Remote.Port() == 0 {
		return false // nobody could be answered
	}
	if tun == nil && (o.kind&^inTLV != 0 || o.within != 0) {
		return false // how an answer would have to look, only a session says
	}
	if h.Src.Is4In6() && (o.kind != 0 || o.Proto != ip.IPv6 || h.Src.Unmap() != o.Remote.Addr()) {
		// A mapped source repeats the outer one of protocol 41 (draft-soliman-v4v6-mipv6-00 3.3): else somebody speaks for another.
		e.drops[mapped].Add(1)
		return true
	}
	if tun == nil && !e.signals.take(now, 0, maphash.Comparable(e.seed, o.Remote.Addr().As16()), signalsPerSource) {
		e.drops[rateLimit].Add(1)
		return true
	}
	p := Packet{To: dataplane.ToSignal, B: pkt}
	if !e.behind(now, tun, h.Src) { // else the router's tunnel is how the node is reached wherever it goes
		p.Outer = e.answer(tun, &o)
	}
	out.Packets = append(out.Packets, p)
	return true
}

// answer is the chain that an answer to what came in a tunnel takes. The lock is held.
func (e *Engine) answer(tun *tunnel, o *Outer) core.Chain {
	if tun != nil && tun.answer != nil {
		return *tun.answer
	}
	f := o.frame()
	return core.Chain{N: 1, Layer: [2]core.Layer{e.layer(&f, o.tlv)}}
}

// signals6 reports whether an IPv6 packet carries signalling: a Mobility Header, ESP or prefix discovery, and at a node the reply to its probe.
// The Home Address option is in a Destination Options header, the care-of address in a type 2 Routing header before it.
func (e *Engine) signals6(pkt []byte, h *ip.Header) bool {
	proto, off := h.Proto, h.HdrLen
	for range maxSignalHeaders {
		if proto != ip.DstOpts && proto != ip.Routing {
			break
		}
		if off+8 > len(pkt) || proto == ip.Routing && pkt[off+2] != 2 {
			return false
		}
		proto, off = pkt[off], off+8+int(pkt[off+1])*8
	}
	switch proto {
	case ip.Mobility:
		return off < len(pkt)
	case ip.ESP:
		// A node's applications may use ESP with others.
		return off < len(pkt) && (e.cfg.Role != dataplane.Node || len(e.cfg.Anchors) == 0 || slices.Contains(e.cfg.Anchors, h.Src))
	case ip.ICMPv6:
		switch {
		case off+8 > len(pkt):
		case e.cfg.Role == dataplane.Anchor:
			return pkt[off] == prefixSolicitation
		case pkt[off] == prefixAdvertisement:
			return true
		default:
			return e.cfg.ProbeID != 0 && pkt[off] == echoReply6 && binary.BigEndian.Uint16(pkt[off+4:]) == e.cfg.ProbeID
		}
	}
	return false
}

// signalFor reports whether signalling to a is this router's: to an anchor's own addresses; to a node's home addresses, not to
// those of the hosts in its mobile networks, or in protocol 41 to the mapped form of the care-of address that it came to (draft-soliman-v4v6-mipv6-00 3.4).
func (e *Engine) signalFor(o Outer, a netip.Addr) bool {
	if e.cfg.Role == dataplane.Anchor {
		return e.own(a) && e.own(o.Local.Addr())
	}
	if a.Is4In6() {
		return o.Proto == ip.IPv6 && a.Unmap() == o.Local.Addr()
	}
	return slices.Contains(e.cfg.Home, a) || e.tables.keys[prefixKey{e.cfg.Domain, netip.PrefixFrom(a, a.BitLen())}] != nil
}
