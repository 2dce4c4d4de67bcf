package mem

import (
	"encoding/binary"
	"net/netip"
	"time"

	"kedge/internal/core"
	"kedge/wire/ip"
)

// detoured is what a quoted packet that left with headers of route optimization says.
type detoured struct {
	own, other netip.Addr // of the pair
	option     netip.Addr // what its Home Address option says, if it has one
	routing    netip.Addr // what its type 2 routing header says
	from, to   int        // where these headers begin and end
}

// quotedEnds reads the headers of a quoted IPv6 packet.
func quotedEnds(b []byte, h *ip.Header) (q detoured, ok bool) {
	if len(b) < ip.IPv6Len {
		return q, false
	}
	q.own, q.other = h.Src, h.Dst
	for at, named := ip.IPv6Len, 6; ; {
		next := b[named]
		if next != ip.HopByHop && next != ip.Routing && next != ip.DstOpts || at+8 > len(b) || at+8+int(b[at+1])*8 > len(b) {
			return q, q.to != 0
		}
		ext, found := b[at:at+8+int(b[at+1])*8], true
		switch i := homeOption(ext); {
		case next == ip.DstOpts && i != 0:
			q.option = netip.AddrFrom16([16]byte(ext[i+2 : i+18]))
			q.own = q.option
		case next == ip.Routing && ext[2] == ip.RoutingType2 && len(ext) == ip.Routing2Len:
			q.routing = netip.AddrFrom16([16]byte(ext[8:24]))
			q.other = q.routing
		default:
			found = false
		}
		if found {
			if q.from == 0 {
				q.from = at
			}
			q.to = at + len(ext)
		}
		named, at = at, at+len(ext)
	}
}

// detouring finds the session that sends between two addresses on the way between two others, or did so a while ago, and what is known of
// that way.
func (e *Engine) detouring(now time.Duration, d core.Domain, q *detoured, h *ip.Header) (*session, *path) {
	n := e.tables.pairs[pairKey{d, q.own, q.other}]
	if n == nil {
		return nil, nil
	}
	for _, b := range n.bindings {
		s := b.s
		switch {
		case s.way.local == h.Src && s.way.remote == h.Dst && s.chain.N == 1:
			return s, s.beyond
		case s.way.local == h.Src && s.way.remote == h.Dst:
			return s, s.exit.path
		case now < s.beforeUntil && s.before.local == h.Src && s.before.remote == h.Dst:
			return s, e.tables.paths[tuple{netip.AddrPortFrom(h.Src, 0), netip.AddrPortFrom(h.Dst, 0)}]
		}
	}
	return nil, nil
}

// optimizedError takes an ICMPv6 error about a packet that left with a header of route optimization, and hands it to its source
// as one about what it had sent. Other errors are left alone. The lock is held. Whoever quotes both home addresses and both
// addresses on the wire may say that a packet was too big, as any host believes who quotes its packets; never of 1,280 octets.
func (e *Engine) optimizedError(now time.Duration, d core.Domain, msg []byte, out *Out) bool {
	if len(msg) < 8 {
		return false
	}
	h, err := ip.ParseQuoted(msg[8:])
	if err != nil || h.Is4() {
		return false
	}
	if t := e.tables.framed[frame{tuple: tuple{netip.AddrPortFrom(h.Src, 0), netip.AddrPortFrom(h.Dst, 0)}, kind: without | leaving}]; t != nil {
		d = t.domain
	}
	q, ok := quotedEnds(msg[8:], &h)
	if !ok {
		return false
	}
	s, way := e.detouring(now, d, &q, &h)
	if s == nil {
		return false
	}
	// The quotation is edited in a copy.
	start := len(out.buf)
	out.buf = append(out.buf, msg[8:]...)
	quote := restore(out.buf[start:], q.option, q.routing)
	if quote == nil {
		return false
	}
	sent, err := ip.ParseQuoted(quote)
	if err != nil {
		return false
	}
	e.drops[tunnelError].Add(1)
	p, value, over := ip.Unreachable, uint32(0), q.to-q.from
	of, o := &binding{s: s}, Outer{Local: netip.AddrPortFrom(h.Src, 0), Remote: netip.AddrPortFrom(h.Dst, 0)}
	big, mtu := bigger(false, msg, &h)
	switch {
	case big:
		if way == nil || !e.tooBig(now, way, mtu, &h) || sent.Len <= ip.MinMTU6 {
			return true
		}
		p, value = ip.TooBig, tunnelMTU(&sent, min(way.pathMTU(now, ip.MaxPacket), e.pathMTU(s, now))-over)
	case msg[0] == 1:
		e.tellReason(now, core.ReportUnreachable, o, &sent, of, d, out)
		switch msg[1] {
		case 0:
			p = ip.NoRoute
		case 1:
			p = ip.Prohibited
		}
	case msg[0] == 3:
		p = ip.TimeExceeded
	case msg[0] == 4:
		at := binary.BigEndian.Uint32(msg[4:])
		if msg[1] == 2 || msg[1] == 0 && at >= uint32(q.from) && at < uint32(q.to) {
			// The other end does not know the option or the routing header (RFC 6275 11.3.5): the machine's business.
			e.tellTunnel(now, tunnelError, o, &sent, of, d, out)
			return true
		}
		// What names the upper layer has moved: it is the header before it that does.
		p, value = ip.ParameterFail, at
		if msg[1] == 1 {
			p = ip.UnknownHeader
		}
		if at >= uint32(q.from) {
			value = 6
			if at >= uint32(q.to) {
				value = at - uint32(over)
			}
		}
	default:
		return true
	}
	e.sendError(now, p, value, quote, &sent, cause{domain: d}, out)
	return true
}

// straightQuote takes headers of route optimization off the inner packet that an error quotes, which went through a node's tunnel with
// them. False: nobody can be told about what is left.
func (e *Engine) straightQuote(q *quoted, h *ip.Header, out *Out) bool {
	if h.Is4() {
		return true
	}
	d, ok := quotedEnds(q.inner, h)
	if !ok || e.tables.pairs[pairKey{e.cfg.Domain, d.own, d.other}] == nil {
		return true
	}
	start := len(out.buf)
	out.buf = append(out.buf, q.inner...)
	b := restore(out.buf[start:], d.option, d.routing)
	if b == nil {
		return false
	}
	sent, err := ip.ParseQuoted(b)
	if err != nil {
		return false
	}
	q.inner, q.off, *h = b, q.off+d.to-d.from, sent
	return true
}
