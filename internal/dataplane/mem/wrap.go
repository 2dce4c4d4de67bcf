package mem

import (
	"encoding/binary"
	"slices"
	"time"

	"kedge/internal/dataplane"
	"kedge/wire"
	"kedge/wire/ip"
)

// sent counts a packet that left in the session's chain.
func (s *session) sent(pkt []byte) {
	s.count.pOut.Add(1)
	s.count.oOut.Add(uint64(len(pkt)))
}

// forwardStack does what forward does, for a chain that is not plain.
func (e *Engine) forwardStack(now time.Duration, s *session, pkt []byte, h *ip.Header, u *ip.Upper, c cause, hop bool, out *Out) {
	if hop && h.TTL <= 1 {
		e.drops[hopLimit].Add(1)
		e.sendError(now, ip.TimeExceeded, 0, pkt, h, c, out)
		return
	}
	if s.chain.RO != 0 {
		e.forwardOptimized(now, s, pkt, h, u, c, hop, out)
		return
	}
	k := s.stack
	if k.loops(h) {
		e.drops[loop].Add(1)
		return
	}
	w := wrapping{mtu: e.pathMTU(s, now), ttl: hopsLeft(pkt, h, u, hop)}
	over, refused := e.limits(k, pkt, u, &w)
	if refused != 0 {
		e.drops[encapsulationLimit].Add(1)
		if refused == 1 {
			e.sendError(now, ip.ParameterFail, uint32(u.Limit), pkt, h, c, out)
		} else {
			// The layer that says so is this router's own: its answer to itself is "unreachable" to the source (RFC 2473 8.1).
			e.sendError(now, ip.Unreachable, 0, pkt, h, c, out)
		}
		return
	}
	room := w.mtu - over
	if len(pkt) > room {
		if h.Is4() && h.DF || !h.Is4() && len(pkt) > ip.MinMTU6 {
			e.drops[tooBig].Add(1)
			e.sendError(now, ip.TooBig, tunnelMTU(h, room), pkt, h, c, out)
			return
		}
	} else {
		w.df = h.Is4() && h.DF || !h.Is4() && s.chain.MTU == 0 && room >= ip.MinMTU6 // as in forward
	}
	if hop {
		ip.DecrementTTL(pkt)
	}
	if e.wrap(k, pkt, h, w, out) {
		s.sent(pkt)
	}
}

// answerStack sends a packet that was made here: an ICMP error, which always passes.
func (e *Engine) answerStack(now time.Duration, s *session, msg []byte, h *ip.Header, out *Out) {
	if s.chain.RO != 0 {
		return // errors about what a correspondent sends come to it from its own kernel
	}
	w := wrapping{mtu: e.pathMTU(s, now)}
	if _, refused := e.limits(s.stack, msg, &ip.Upper{}, &w); refused == 0 && e.wrap(s.stack, msg, h, w, out) {
		s.sent(msg)
	}
}

// loops: as of a tunnel, for each layer.
func (k *stack) loops(h *ip.Header) bool {
	for i := range k.n {
		t := &k.layer[i]
		if h.Src == t.local.Addr() && h.Dst == t.remote.Addr() {
			return true
		}
	}
	t := &k.layer[0]
	return h.Is4() && h.Src == t.remote.Addr() && !t.udp()
}

// limits decides on the Tunnel Encapsulation Limit of each IPv6 layer (RFC 2473 4.1.1): what enters with one, also from the layer
// inside, leaves with one less. It returns the octets of all headers, and the layer, counted from 1, that may not be.
func (e *Engine) limits(k *stack, pkt []byte, u *ip.Upper, w *wrapping) (over, refused int) {
	over = k.over
	n, has := uint8(0), u.Limit != 0
	if has {
		n = pkt[u.Limit]
	}
	for i := range k.n {
		if k.layer[i].is4() {
			has = false // an IPv4 header has no such option
			continue
		}
		switch {
		case has && n == 0:
			return over, i + 1
		case has:
			n--
		case e.cfg.EncapsulationLimit != 0:
			n, has = e.cfg.EncapsulationLimit, true
		}
		if !has {
			continue
		}
		over += limitLen
		if i == 0 {
			w.limit, w.limited = n, true
		} else {
			w.limitOut, w.limitedOut = n, true
		}
	}
	return over, 0
}

// wrap writes the outer packet of a stack around pkt, or its fragments: those are of the outermost layer.
func (e *Engine) wrap(k *stack, pkt []byte, h *ip.Header, w wrapping, out *Out) bool {
	next, start, at := uint8(ip.IPv6), len(out.buf), 0
	if h.Is4() {
		next = ip.IPv4
	}
	in, outer := &k.layer[0], &k.layer[1]
	if k.n == 2 && outer.sa == 0 {
		at = outer.lead(w.limitedOut)
	}
	b, ok := e.seal(in, next, pkt, extend(out.buf, at+in.lead(w.limited)))
	out.buf = b[:start] // the room stays, whatever comes of it
	if !ok || !e.cover(b[start+at:], k, 0, next, h.TOS, &w) {
		return false
	}
	if k.n == 2 {
		if next = ip.IPv6; in.is4() {
			next = ip.IPv4
		}
		if outer.sa != 0 {
			end := len(b)
			b, ok = e.seal(outer, next, b[start:end], extend(b, outer.lead(w.limitedOut)))
			out.buf, start = b[:start], end
			if !ok {
				return false
			}
		}
		if !e.cover(b[start:], k, 1, next, h.TOS, &w) {
			return false
		}
	}
	out.buf = b
	whole := b[start:]
	if len(whole) <= w.mtu {
		out.add(dataplane.ToTunnel, whole)
		return true
	}
	return e.fragment(whole, w.mtu, e.identification(k.path), Packet{To: dataplane.ToTunnel}, out)
}

// lead is how many octets stand before the payload of a layer.
func (o *outLayer) lead(limited bool) int {
	if limited {
		return o.head + limitLen
	}
	return o.head
}

func extend(b []byte, n int) []byte { return slices.Grow(b, n)[:len(b)+n] }

// seal appends the payload of a layer to b: the packet, or ESP around it. False: dropped.
func (e *Engine) seal(o *outLayer, next uint8, pkt, b []byte) ([]byte, bool) {
	if o.sa == 0 {
		return append(b, pkt...), true
	}
	b, err := e.cfg.Security.Seal(o.sa, next, pkt, b)
	if err != nil {
		e.refused(err)
	}
	return b, err == nil
}

// refused counts what a Security did not take.
func (e *Engine) refused(err error) {
	r := wire.ReasonOf(err)
	for i := range reasons {
		if reasons[i] == r {
			e.drops[i].Add(1)
			return
		}
	}
	e.drops[malformed].Add(1)
}

// cover writes the headers of layer i before the payload that b ends with. False: b is too long.
func (e *Engine) cover(b []byte, k *stack, i int, next, tos uint8, w *wrapping) bool {
	o := &k.layer[i]
	h := ip.Header{Src: o.local.Addr(), Dst: o.remote.Addr(), TOS: ip.Encapsulate(tos), TTL: e.hopLimit(w)}
	at, limit, limited := ip.IPv6Len, w.limit, w.limited
	if i == 1 {
		limit, limited = w.limitOut, w.limitedOut
	}
	if o.is4() {
		at = ip.IPv4Len
		if h.DF = w.df; h.DF {
			h.ID = k.mark(len(b))
		} else {
			h.ID = nonZero(e.identification(k.path))
		}
	} else if k.layer[0].sa|k.layer[1].sa != 0 && !o.udp() { // of datagrams the kernel may make several of one, which have none
		h.Flow = k.label()
	}
	n := len(b) - at
	if limited {
		at += limitLen
	}
	udp := at
	if o.udp() {
		at += ip.UDPLen
	}
	h.Proto = next
	switch {
	case o.sa != 0:
		h.Proto = ip.ESP
	case o.kind&inGRE != 0:
		h.Proto = ip.GRE
	}
	if o.tlv != 0 {
		ip.AppendTLV(b[at:at], o.tlv, h.Proto, len(b)-at-ip.TLVLen)
		at += ip.TLVLen
	}
	if o.kind&inGRE != 0 {
		ip.AppendGRE(b[at:at], next, o.key)
	}
	if o.udp() {
		h.Proto = ip.UDP
	}
	if limited {
		ip.AppendLimit(b[udp-limitLen:udp-limitLen], h.Proto, limit)
		h.Proto = ip.DstOpts
	}
	if _, err := h.Append(b[:0], n); err != nil { // with its outer headers it exceeds 65,535 octets
		e.drops[tooBig].Add(1)
		return false
	}
	if o.udp() {
		datagramHead(b[udp:], o.tuple, o.local.Port() == PortESP && o.is4())
	}
	return true
}

// datagramHead writes a UDP header before the payload that b ends with. bare: without a checksum, as ESP is over IPv4 (RFC 3948
// 2.1), which protects itself.
func datagramHead(b []byte, t tuple, bare bool) {
	binary.BigEndian.PutUint16(b, t.local.Port())
	binary.BigEndian.PutUint16(b[2:], t.remote.Port())
	binary.BigEndian.PutUint16(b[4:], uint16(len(b)))
	b[6], b[7] = 0, 0
	if bare {
		return
	}
	sum := ip.PseudoChecksum(t.local.Addr(), t.remote.Addr(), ip.UDP, b)
	if sum == 0 { // 0 says "no checksum"
		sum = 0xffff
	}
	binary.BigEndian.PutUint16(b[6:], sum)
}

// label is the Flow Label of packets whose inside nobody can read: one for all of a path (RFC 6437 3), which only this router
// knows. An ICMP error that quotes it is about a packet that was sent.
func (p *path) label() uint32 { return uint32(p.secret>>36) & 0xfffff }

// unframe takes off what stands between the outer IP or UDP header and the inner packet: TLV, GRE, ESP. o then says which tunnel it
// came in, and its Proto is that of the inner packet. False: dropped.
func (e *Engine) unframe(now time.Duration, o *Outer, pkt []byte) ([]byte, bool) {
	if o.Proto == ip.UDP {
		layout, proto, err := ip.ParseTLV(pkt)
		if err != nil {
			e.drops[badTLV].Add(1)
			return nil, false
		}
		o.kind, o.tlv, o.Proto, pkt = inTLV, layout, proto, pkt[ip.TLVLen:]
	}
	switch o.Proto {
	case ip.GRE:
		g, err := ip.ParseGRE(pkt)
		if err != nil {
			e.drops[badGRE].Add(1)
			return nil, false
		}
		if o.kind |= inGRE; g.Keyed {
			o.kind |= keyed
		}
		o.key, o.Proto, pkt = g.Key, g.Proto, pkt[g.Len:]
	case ip.ESP:
		if e.cfg.Security == nil {
			e.drops[unknownSPI].Add(1)
			return nil, false
		}
		sa, next, inner, err := e.cfg.Security.Open(now, o.Local, o.Remote, pkt, nil)
		if err != nil {
			e.refused(err)
			return nil, false
		}
		o.kind, o.key, o.Proto, o.Offload, pkt = o.kind|inESP, sa, next, false, inner
	}
	return pkt, true
}
