package mem

import (
	"hash/maphash"
	"net/netip"
	"time"

	"kedge/internal/core"
	"kedge/internal/dataplane"
	"kedge/wire/ip"
)

// cause is where a packet came from, so that an error about it finds the way back.
type cause struct {
	domain core.Domain
	host   hostKey // on an access link
}

const limitLen = 8 // Destination Options header with a Tunnel Encapsulation Limit option

// wrapping says how an outer packet is made.
type wrapping struct {
	mtu     int
	ttl     uint8 // the most that its hop limit may be; 0 = as configured
	df      bool  // IPv4: no router may fragment it
	limit   uint8
	limited bool // IPv6: with a Tunnel Encapsulation Limit option
	// The same of the outer one of two layers.
	limitOut   uint8
	limitedOut bool
}

// forward sends a packet into the tunnel of s. hop: this router forwards it, and so takes one from its hop limit (RFC 2473 3.1).
func (e *Engine) forward(now time.Duration, s *session, pkt []byte, h *ip.Header, u *ip.Upper, c cause, hop bool, out *Out) {
	if s.stack != nil {
		e.forwardStack(now, s, pkt, h, u, c, hop, out)
		return
	}
	if hop && h.TTL <= 1 {
		e.drops[hopLimit].Add(1)
		e.sendError(now, ip.TimeExceeded, 0, pkt, h, c, out)
		return
	}
	if s.tun.loops(h) {
		e.drops[loop].Add(1)
		return
	}
	overhead, w := s.tun.head(), wrapping{mtu: e.pathMTU(s, now), ttl: hopsLeft(pkt, h, u, hop)}
	if !s.tun.is4() {
		w.limit, w.limited = e.cfg.EncapsulationLimit, e.cfg.EncapsulationLimit != 0
		if u.Limit != 0 {
			// RFC 2473 4.1.1: a tunnel packet that enters a tunnel says how often it still may.
			if pkt[u.Limit] == 0 {
				e.drops[encapsulationLimit].Add(1)
				e.sendError(now, ip.ParameterFail, uint32(u.Limit), pkt, h, c, out)
				return
			}
			w.limit, w.limited = pkt[u.Limit]-1, true
		}
		if w.limited {
			overhead += limitLen
		}
	}
	if len(pkt) > w.mtu-overhead {
		if h.Is4() && h.DF || !h.Is4() && len(pkt) > ip.MinMTU6 {
			e.drops[tooBig].Add(1)
			e.sendError(now, ip.TooBig, tunnelMTU(h, w.mtu-overhead), pkt, h, c, out)
			return
		}
	} else if h.Is4() {
		w.df = h.DF // RFC 2003 3.1: what the source allows, the tunnel may
	} else {
		// RFC 4213 3.2.2: set while the tunnel carries what any IPv6 link must; 3.2.1: never with a static MTU.
		w.df = s.chain.MTU == 0 && w.mtu-overhead >= ip.MinMTU6
	}
	if hop {
		ip.DecrementTTL(pkt)
	}
	if !e.encapsulate(s.tun, pkt, nil, h, w, out) {
		return
	}
	packets, octets := uint64(1), uint64(len(pkt))
	for out.whole && len(pkt) <= w.mtu-overhead {
		// None of the segments that follow is longer, so the same becomes of them: nothing is left to decide.
		start := len(out.buf)
		b, payload, ok := out.super.Head(out.buf)
		if !ok {
			break
		}
		out.buf = b
		head := b[start:]
		if hop {
			ip.DecrementTTL(head)
		}
		if e.encapsulate(s.tun, head, payload, h, w, out) {
			packets, octets = packets+1, octets+uint64(len(head)+len(payload))
		}
	}
	s.count.pOut.Add(packets)
	s.count.oOut.Add(octets)
}

// loops: a packet that is already between the tunnel's ends does not enter it (RFC 2473 4.1.2), nor does one of IPv4 that comes
// from its exit point (RFC 2003 3.2).
func (t *tunnel) loops(h *ip.Header) bool {
	return h.Src == t.local.Addr() && h.Dst == t.remote.Addr() || h.Is4() && h.Src == t.remote.Addr() && !t.udp()
}

// tunnelMTU is what Packet Too Big tells: IPv6 sources are never told less than 1,280 (RFC 2473 7.1, RFC 4213 3.2.2), as those
// packets are fragmented outside.
func tunnelMTU(h *ip.Header, mtu int) uint32 {
	if !h.Is4() {
		mtu = max(mtu, ip.MinMTU6)
	}
	return uint32(mtu)
}

func (e *Engine) pathMTU(s *session, now time.Duration) int {
	mtu := s.exit.pathMTU(now, e.cfg.MTU)
	if s.chain.MTU != 0 {
		mtu = min(mtu, int(s.chain.MTU))
	}
	return mtu
}

// encapsulate writes the outer packet, or its fragments (RFC 2473 7.1 (b), 7.2 (b), RFC 4213 3.2). tail follows the headers of a
// segment of out.super, and stays where it is.
func (e *Engine) encapsulate(t *tunnel, pkt, tail []byte, h *ip.Header, w wrapping, out *Out) bool {
	o := ip.Header{Src: t.local.Addr(), Dst: t.remote.Addr(), Proto: ip.IPv6, TOS: ip.Encapsulate(h.TOS), TTL: e.hopLimit(&w)}
	if h.Is4() {
		o.Proto = ip.IPv4
	}
	size, id := len(pkt)+len(tail), uint32(0)
	n := size
	if t.udp() {
		n, o.Proto = n+ip.UDPLen, ip.UDP
	}
	inner := o.Proto
	if w.limited {
		n, o.Proto = n+limitLen, ip.DstOpts
	}
	switch whole := n + ip.IPv6Len; {
	case t.is4() && w.df:
		o.DF, o.ID = true, t.mark(n+ip.IPv4Len)
	case t.is4():
		id = e.identification(t.path)
		o.ID = nonZero(id)
	case whole > w.mtu:
		id = e.identification(t.path)
	}
	start := len(out.buf)
	b, err := o.Append(out.buf, n)
	if err == nil {
		if w.limited {
			b = ip.AppendLimit(b, inner, w.limit)
		}
		if t.udp() {
			// With a checksum, though IPv4 and RFC 3948 could do without: translators on the way to IPv6-only networks drop
			// datagrams that have none (RFC 7915 4.5), and a pass over octets that are being copied anyway costs little.
			if tail == nil {
				b, err = ip.AppendUDP(b, t.local, t.remote, pkt)
			} else if b, err = ip.AppendUDPHead(b, t.local, t.remote, size, out.super.Sum(pkt, size)); err == nil {
				b = append(b, pkt...)
			}
		} else {
			b = append(b, pkt...)
		}
	}
	if err != nil { // with its outer headers it exceeds 65,535 octets
		e.drops[tooBig].Add(1)
		return false
	}
	out.buf = b
	whole := out.buf[start:]
	if len(whole)+len(tail) <= w.mtu {
		out.Packets = append(out.Packets, Packet{To: dataplane.ToTunnel, B: whole, Tail: tail})
		return true
	}
	return e.fragment(whole, w.mtu, id, Packet{To: dataplane.ToTunnel}, out)
}

// identification counts from a secret start for each tunnel (RFC 7739 5.3), so that a stranger cannot foresee it.
func (e *Engine) identification(t *path) uint32 { return uint32(t.secret) + e.fragID.Add(1) }

// mark is the Identification of a packet that no router may fragment, where it means nothing (RFC 6864 4.1): so it says secretly
// that a packet of this length was sent into this tunnel. An ICMP error that quotes too little else is known by it.
func (t *path) mark(length int) uint16 {
	x := (t.secret ^ uint64(length)) * 0x9e3779b97f4a7c15
	x = (x ^ x>>29) * 0xbf58476d1ce4e5b9
	return nonZero(uint32(x >> 48))
}

// nonZero: the kernel replaces an IPv4 Identification of 0.
func nonZero(id uint32) uint16 { return max(uint16(id), 1) }

func (e *Engine) hash(t tuple) uint64 {
	return maphash.Comparable(e.seed, identity{t.local.Addr().As16(), t.remote.Addr().As16(), t.local.Port(), t.remote.Port()})
}

type identity struct {
	local, remote         [16]byte
	localPort, remotePort uint16
}

// fragment sends pkt in fragments of at most mtu octets, each as like says.
func (e *Engine) fragment(pkt []byte, mtu int, id uint32, like Packet, out *Out) bool {
	f, err := ip.NewFragmenter(pkt, mtu, id)
	if err != nil {
		e.drops[tooBig].Add(1)
		return false
	}
	for {
		start := len(out.buf)
		b, ok := f.Next(out.buf)
		if !ok {
			return true
		}
		out.buf = b
		like.B = b[start:]
		out.Packets = append(out.Packets, like)
	}
}

// SetPathMTU says what the route between the ends of an outermost layer carries, octets; 0 = unknown again. Unknown ends are ignored.
func (e *Engine) SetPathMTU(local, remote netip.AddrPort, octets int) {
	e.mu.RLock()
	defer e.mu.RUnlock()
	if t := e.tables.paths[tuple{local, remote}]; t != nil {
		if octets != 0 {
			octets = max(octets, t.leastMTU())
		}
		t.base.Store(uint32(octets))
		e.mirrorMTU(t)
	}
}

// Tunnels lists the ends of the outermost layers that sessions send: local and remote address, with ports if they are in UDP. One
// path may carry many tunnels.
func (e *Engine) Tunnels() [][2]netip.AddrPort {
	e.mu.RLock()
	defer e.mu.RUnlock()
	out := make([][2]netip.AddrPort, 0, len(e.tables.paths))
	for t, p := range e.tables.paths {
		if p.senders != 0 {
			out = append(out, [2]netip.AddrPort{t.local, t.remote})
		}
	}
	return out
}
