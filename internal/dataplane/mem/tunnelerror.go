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
	h     ip.Header // outer
	u     ip.Upper
	tuple tuple
	inner []byte // from the inner header on, as much as there is
	off   int    // octets before it
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
	e.mu.RLock()
	defer e.mu.RUnlock()
	q, ok := quotation(is4, msg[8:])
	tun := e.tables.tunnels[q.tuple]
	if !ok || tun == nil {
		e.drops[unsolicited].Add(1)
		return
	}
	e.drops[tunnelError].Add(1)
	marked := is4 && q.h.DF && !q.u.Fragment && q.h.ID == tun.mark(q.h.Len)
	big, mtu := bigger(is4, msg, &q.h)
	ih, err := ip.ParseQuoted(q.inner)
	if err != nil { // nothing is left to tell anybody about
		if big && marked {
			e.tooBig(now, tun, mtu, &q.h)
		}
		return
	}
	s := e.sender(tun, &ih, now)
	if s == nil || !q.u.Fragment && q.off+ih.Len != q.h.Len {
		e.drops[unsolicited].Add(1)
		return
	}
	p, value := ip.Unreachable, uint32(0)
	switch {
	case big:
		if !e.tooBig(now, tun, mtu, &q.h) || ih.Is4() && !ih.DF || !ih.Is4() && ih.Len <= ip.MinMTU6 {
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

// quotation reads the outer packet that an error quotes; false if it is none of a tunnel. Its tuple is the zero one if the ports
// are not there.
func quotation(is4 bool, b []byte) (q quoted, ok bool) {
	var err error
	if q.h, err = ip.ParseQuoted(b); err != nil || q.h.Is4() != is4 {
		return quoted{}, false
	}
	q.tuple = tuple{netip.AddrPortFrom(q.h.Src, 0), netip.AddrPortFrom(q.h.Dst, 0)}
	if q.u, err = ip.FindUpper(b, &q.h); err != nil || q.u.FragOff != 0 || len(b) < q.u.Off {
		return q, true
	}
	q.off = q.u.Off
	switch q.u.Proto {
	case ip.IPv4, ip.IPv6:
	case ip.UDP:
		if q.off += ip.UDPLen; q.off > len(b) {
			return quoted{}, false
		}
		q.tuple.local = netip.AddrPortFrom(q.h.Src, binary.BigEndian.Uint16(b[q.u.Off:]))
		q.tuple.remote = netip.AddrPortFrom(q.h.Dst, binary.BigEndian.Uint16(b[q.u.Off+2:]))
	default:
		return q, true
	}
	q.inner = b[q.off:]
	return q, true
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
func (e *Engine) tooBig(now time.Duration, t *tunnel, mtu int, h *ip.Header) bool {
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
// the one whose key its source is.
func (e *Engine) sender(tun *tunnel, h *ip.Header, now time.Duration) *session {
	if e.cfg.Role == dataplane.Anchor {
		if to, _ := e.tables.down(tun.domain, h.Dst); to != nil && to.s.sends(tun, now) {
			return to.s
		}
		return nil
	}
	if from, _, _ := e.tables.up(tun.domain, tun, h.Src, now); from != nil && from.s.sends(tun, now) {
		return from.s
	}
	return nil
}
