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

// forward sends a packet into the tunnel of s. hop: this router forwards it, and so takes one from its hop limit (RFC 2473 3.1).
func (e *Engine) forward(now time.Duration, s *session, pkt []byte, h *ip.Header, u *ip.Upper, c cause, hop bool, out *Out) {
	if hop && h.TTL <= 1 {
		e.drops[hopLimit].Add(1)
		e.sendError(now, ip.TimeExceeded, 0, pkt, h, c, out)
		return
	}
	if h.Src == s.tun.local && h.Dst == s.tun.remote { // RFC 2473 4.1.2
		e.drops[loop].Add(1)
		return
	}
	overhead, limit, limited := ip.IPv6Len, e.cfg.EncapsulationLimit, e.cfg.EncapsulationLimit != 0
	if u.Limit != 0 {
		// RFC 2473 4.1.1: a tunnel packet that enters a tunnel says how often it still may.
		if pkt[u.Limit] == 0 {
			e.drops[encapsulationLimit].Add(1)
			e.sendError(now, ip.ParameterFail, uint32(u.Limit), pkt, h, c, out)
			return
		}
		limit, limited = pkt[u.Limit]-1, true
	}
	if limited {
		overhead += limitLen
	}
	mtu := e.pathMTU(s, now)
	if len(pkt) > mtu-overhead {
		if h.Is4() && h.DF || !h.Is4() && len(pkt) > ip.MinMTU6 {
			e.drops[tooBig].Add(1)
			e.sendError(now, ip.TooBig, tunnelMTU(h, mtu-overhead), pkt, h, c, out)
			return
		}
	}
	if hop {
		ip.DecrementTTL(pkt)
	}
	if e.encapsulate(s, pkt, h, mtu, limit, limited, out) {
		s.count.pOut.Add(1)
		s.count.oOut.Add(uint64(len(pkt)))
	}
}

// tunnelMTU is what Packet Too Big tells: IPv6 sources are never told less than 1,280 (RFC 2473 7.1), as those packets are
// fragmented outside.
func tunnelMTU(h *ip.Header, mtu int) uint32 {
	if !h.Is4() {
		mtu = max(mtu, ip.MinMTU6)
	}
	return uint32(mtu)
}

func (e *Engine) pathMTU(s *session, now time.Duration) int {
	mtu := s.tun.pathMTU(now, e.cfg.MTU)
	if s.chain.MTU != 0 {
		mtu = min(mtu, int(s.chain.MTU))
	}
	return mtu
}

// encapsulate writes the outer packet, or its fragments (RFC 2473 7.1 (b), 7.2 (b)).
func (e *Engine) encapsulate(s *session, pkt []byte, h *ip.Header, mtu int, limit uint8, limited bool, out *Out) bool {
	o := ip.Header{Src: s.tun.local, Dst: s.tun.remote, Proto: ip.IPv6, TOS: ip.Encapsulate(h.TOS), TTL: e.cfg.HopLimit}
	if h.Is4() {
		o.Proto = ip.IPv4
	}
	n, inner := len(pkt), o.Proto
	if limited {
		n, o.Proto = n+limitLen, ip.DstOpts
	}
	start := len(out.buf)
	b, err := o.Append(out.buf, n)
	if err != nil { // with its outer extension header it exceeds 65,535 octets
		e.drops[tooBig].Add(1)
		return false
	}
	if limited {
		b = ip.AppendLimit(b, inner, limit)
	}
	out.buf = append(b, pkt...)
	whole := out.buf[start:]
	if len(whole) <= mtu {
		out.add(dataplane.ToTunnel, whole)
		return true
	}
	return e.fragment(whole, mtu, e.identification(s.tun), Packet{To: dataplane.ToTunnel}, out)
}

// identification counts from a secret start for each pair of addresses (RFC 7739 5.3), so that a stranger cannot foresee it.
func (e *Engine) identification(t *tunnel) uint32 {
	return uint32(maphash.Comparable(e.seed, identity{t.local.As16(), t.remote.As16()})) + e.fragID.Add(1)
}

type identity struct{ local, remote [16]byte }

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

// SetPathMTU says what the route to a tunnel's remote carries, octets; 0 = unknown again. Unknown tunnels are ignored.
func (e *Engine) SetPathMTU(local, remote netip.Addr, octets int) {
	e.mu.RLock()
	defer e.mu.RUnlock()
	if t := e.tables.tunnels[tuple{local, remote}]; t != nil {
		if octets != 0 {
			octets = max(octets, ip.MinMTU6)
		}
		t.base.Store(uint32(octets))
	}
}

// Tunnels lists the tunnels in use: local and remote address.
func (e *Engine) Tunnels() [][2]netip.Addr {
	e.mu.RLock()
	defer e.mu.RUnlock()
	out := make([][2]netip.Addr, 0, len(e.tables.tunnels))
	for t := range e.tables.tunnels {
		out = append(out, [2]netip.Addr{t.local, t.remote})
	}
	return out
}
