package mem

import (
	"encoding/binary"
	"net/netip"
	"time"

	"kedge/internal/dataplane"
	"kedge/wire/ip"
)

// quoted is what an ICMP error says about a packet of a tunnel.
type quoted struct {
	h      ip.Header // outer
	u      ip.Upper
	frame  frame
	opaque bool   // encrypted: of what it carried nothing can be said
	inner  []byte // from the inner header on, as much as there is
	off    int    // octets before it
}

// TunnelError takes an ICMP or, if not is4, ICMPv6 error, from its type on, that somebody sent about an outer packet. "Too big"
// lowers the path MTU; what the inner source should know is relayed to it, whatever the families are (RFC 2473 8, RFC 4213 3.4,
// RFC 2003 4). The quoted packet must be one that this router can have sent: of a known tunnel, of a session in it, and as long as
// the inner packet asks; or one whose Identification only this router can have made, for many IPv4 routers quote no more than
// eight octets behind the header. Whoever only knows the two ends of a tunnel changes nothing. Of a packet that was fragmented
// outside only the first fragment, the longest, says so much.
func (e *Engine) TunnelError(now time.Duration, is4 bool, msg []byte, out *Out) {
	if len(msg) < 8 {
		e.drops[malformed].Add(1)
		return
	}
	defer e.deliver(out)
	e.mu.RLock()
	defer e.mu.RUnlock()
	if !is4 && e.pairs.Load() != 0 && e.optimizedError(now, e.cfg.Domain, msg, out) {
		return
	}
	q, ok := e.quotation(is4, msg[8:])
	tun := e.tables.find(&q.frame)
	way := e.tables.paths[q.frame.tuple]
	if q.opaque {
		tun = nil
	} else if tun != nil {
		way = tun.path
	}
	if !ok || tun == nil && !(q.opaque && way != nil) {
		e.drops[unsolicited].Add(1)
		return
	}
	e.drops[tunnelError].Add(1)
	marked := is4 && q.h.DF && !q.u.Fragment && q.h.ID == way.mark(q.h.Len)
	big, mtu := bigger(is4, msg, &q.h)
	if q.opaque {
		if big && (marked || !is4 && q.h.Flow == way.label() || e.witnessed(q.inner)) {
			e.tooBig(now, way, mtu, &q.h)
		}
		return
	}
	ih, err := ip.ParseQuoted(q.inner)
	if err != nil { // nothing is left to tell anybody about
		if big && marked {
			e.tooBig(now, way, mtu, &q.h)
		}
		return
	}
	s := e.sender(tun, &ih, now)
	if s == nil || !q.u.Fragment && q.off+ih.Len != q.h.Len {
		e.drops[unsolicited].Add(1)
		return
	}
	if tun.bridge != nil { // the host knows nothing of this router
		if big {
			e.tooBig(now, way, mtu, &q.h)
		}
		return
	}
	if e.pairs.Load() != 0 && !e.straightQuote(&q, &ih, out) {
		return
	}
	p, value := ip.Unreachable, uint32(0)
	switch {
	case big:
		if !e.tooBig(now, way, mtu, &q.h) || ih.Is4() && !ih.DF || !ih.Is4() && ih.Len <= ip.MinMTU6 {
			return // not true; or from now on fragmented outside
		}
		p, value = ip.TooBig, tunnelMTU(&ih, e.pathMTU(s, now)-q.off)
	case is4:
		// Unreachable for whatever reason, or too far away: RFC 4213 3.4, RFC 2003 4.1 and 4.4.
		if msg[0] != 3 && msg[0] != 11 || msg[0] == 3 && msg[1] == 4 {
			return
		}
	case msg[0] == 1 || msg[0] == 3: // RFC 2473 8.1: any of these is "unreachable" to the inner source
	case msg[0] == 4: // only about the encapsulation limit that was put in
		if msg[1] != 0 || q.u.Limit == 0 || binary.BigEndian.Uint32(msg[4:]) != uint32(q.u.Limit) {
			return
		}
	default:
		return
	}
	e.sendError(now, p, value, q.inner, &ih, cause{domain: tun.domain}, out)
}

// quotation reads the outer packet that an error quotes, and finds the way that it left by; false if it is none of a tunnel. Its
// tuple is without ports if they are not there.
func (e *Engine) quotation(is4 bool, b []byte) (q quoted, ok bool) {
	var err error
	if q.h, err = ip.ParseQuoted(b); err != nil || q.h.Is4() != is4 {
		return quoted{}, false
	}
	q.frame.tuple = tuple{netip.AddrPortFrom(q.h.Src, 0), netip.AddrPortFrom(q.h.Dst, 0)}
	if q.u, err = ip.FindUpper(b, &q.h); err != nil || q.u.FragOff != 0 || len(b) < q.u.Off {
		return q, true
	}
	if !q.peel(b, q.u.Off, q.u.Proto) {
		return quoted{}, false
	}
	if e.carriers.Load() == 0 || q.opaque {
		return q, true
	}
	f := q.frame
	f.kind |= leaving
	c := e.tables.carriers[f]
	if c == nil {
		return q, true
	}
	mh, err := ip.ParseQuoted(q.inner)
	if err != nil {
		return q, true
	}
	mu, err := ip.FindUpper(q.inner, &mh)
	if err != nil || mu.Fragment || len(q.inner) < mu.Off {
		return q, true
	}
	in := q
	in.frame = frame{tuple: tuple{netip.AddrPortFrom(mh.Src, 0), netip.AddrPortFrom(mh.Dst, 0)}, kind: leaving, within: c.serial}
	if !in.peel(b, q.off+mu.Off, mu.Proto) {
		return q, true
	}
	if in.opaque {
		in.frame = q.frame // what is known of it is the path
		return in, true
	}
	if e.tables.find(&in.frame) == nil {
		return q, true
	}
	return in, true
}

// peel reads what stands between the IP header of a layer and its payload, at off.
func (q *quoted) peel(b []byte, off int, proto uint8) bool {
	f := &q.frame
	if proto == ip.UDP {
		if off+ip.UDPLen > len(b) {
			return false
		}
		f.local = netip.AddrPortFrom(f.local.Addr(), binary.BigEndian.Uint16(b[off:]))
		f.remote = netip.AddrPortFrom(f.remote.Addr(), binary.BigEndian.Uint16(b[off+2:]))
		off += ip.UDPLen
		if f.local.Port() == PortESP {
			proto = ip.ESP
		} else if ip.IsTLV(b[off:]) {
			_, p, err := ip.ParseQuotedTLV(b[off:])
			if err != nil {
				return false
			}
			f.kind, proto, off = f.kind|inTLV|leaving, p, off+ip.TLVLen
		}
	}
	switch proto {
	case ip.GRE:
		g, err := ip.ParseQuotedGRE(b[off:])
		if err != nil {
			return false
		}
		f.kind, f.key, off = f.kind|inGRE|leaving, g.Key, off+g.Len
		if g.Keyed {
			f.kind |= keyed
		}
	case ip.ESP:
		q.opaque = true
	case ip.IPv4, ip.IPv6, ip.UDP:
	default:
		return true
	}
	q.inner, q.off = b[off:], off
	return true
}

// plateaus are path MTUs that there are (RFC 1191 7.1): for routers that do not say theirs.
var plateaus = [...]int{32000, 17914, 8166, 4352, 2002, 1492, 1006, minMTU4}

// bigger reports whether an error says that the quoted packet was too big, and the MTU that it names, octets.
func bigger(is4 bool, msg []byte, h *ip.Header) (bool, int) {
	if !is4 {
		return msg[0] == 2, int(min(binary.BigEndian.Uint32(msg[4:]), ip.MaxPacket+1))
	}
	if msg[0] != 3 || msg[1] != 4 || !h.DF { // what may be fragmented is never too big
		return false, 0
	}
	mtu := int(binary.BigEndian.Uint16(msg[6:]))
	if mtu == 0 {
		for _, p := range plateaus {
			if p < h.Len {
				return true, p
			}
		}
	}
	return true, max(mtu, minMTU4)
}

// tooBig notes a smaller path MTU; false if the message cannot be true: below the least MTU of IPv6, or not smaller than the
// packet that was too big (RFC 8201 4, RFC 1191 6.3).
func (e *Engine) tooBig(now time.Duration, t *path, mtu int, h *ip.Header) bool {
	if mtu < t.leastMTU() || mtu >= h.Len {
		return false
	}
	old := t.learned.Load()
	expires := uint64((now + mtuLifetime) / time.Second)
	if uint64(now/time.Second) < old>>16 && old&0xffff < uint64(mtu) {
		return true
	}
	t.learned.Store(expires<<16 | uint64(mtu))
	e.mirrorMTU(t)
	return true
}

// sender finds the session that sent an inner packet into tun: at an anchor the one that delivers to its destination, at others
// the one whose key its source is; in bridged mode the tunnel's own.
func (e *Engine) sender(tun *tunnel, h *ip.Header, now time.Duration) *session {
	if tun.bridge != nil {
		return tun.bridge
	}
	if e.cfg.Role == dataplane.Anchor {
		if to, _ := e.tables.down(tun.domain, h.Dst); to != nil && to.s.sends(tun, now) {
			return to.s
		}
		return nil
	}
	l := e.tables.lengthsOf(h.Src)
	for _, bits := range l.bits[:l.n] {
		p, _ := h.Src.Prefix(int(bits))
		if n := e.tables.keys[prefixKey{tun.domain, p}]; n != nil {
			for _, b := range n.bindings {
				if b.up && b.s.sends(tun, now) {
					return b.s
				}
			}
		}
	}
	return nil
}
