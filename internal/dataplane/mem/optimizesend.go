package mem

import (
	"encoding/binary"
	"net/netip"
	"time"

	"kedge/internal/dataplane"
	"kedge/wire"
	"kedge/wire/ip"
)

// forwardOptimized sends a packet straight to the other end, with its headers. What would be too long with them, and may not be
// refused, is fragmented first, so that the headers stand before the Fragment header of each (RFC 6275 6.3). In a tunnel it is the
// outer packet that is fragmented, unless the way beyond the tunnel is known to carry less.
func (e *Engine) forwardOptimized(now time.Duration, s *session, pkt []byte, h *ip.Header, u *ip.Upper, c cause, hop bool, out *Out) {
	over := 0
	if s.way.local != h.Src {
		over += ip.HomeAddressLen
	}
	if s.way.remote != h.Dst {
		over += ip.Routing2Len
	}
	w := wrapping{mtu: e.pathMTU(s, now), ttl: hopsLeft(pkt, h, u, hop)}
	room, most := w.mtu-over, w.mtu-over
	if s.chain.N == 1 {
		around, refused := e.limits(s.stack, pkt, u, &w)
		if refused != 0 {
			e.drops[encapsulationLimit].Add(1)
			e.sendError(now, ip.ParameterFail, uint32(u.Limit), pkt, h, c, out)
			return
		}
		most = s.beyond.pathMTU(now, ip.MaxPacket) - over
		room = min(room-around, most)
		w.df = len(pkt) <= room && s.chain.MTU == 0 && w.mtu-around >= ip.MinMTU6+over
	}
	if len(pkt) > room && len(pkt) > ip.MinMTU6 {
		e.drops[tooBig].Add(1)
		e.sendError(now, ip.TooBig, tunnelMTU(h, room), pkt, h, c, out)
		return
	}
	if hop {
		ip.DecrementTTL(pkt)
	}
	if len(pkt) <= most {
		if e.detour(s, pkt, h, w, over, out) {
			s.sent(pkt)
		}
		return
	}
	f, err := ip.NewFragmenter(pkt, most, e.identification(s.exit.path))
	if err != nil {
		e.drops[tooBig].Add(1)
		return
	}
	for {
		start := len(out.buf)
		b, ok := f.Next(out.buf)
		if !ok {
			s.sent(pkt)
			return
		}
		out.buf = b
		if !e.detour(s, b[start:], h, w, over, out) {
			return
		}
	}
}

// detour sends pkt with the headers of route optimization, of so many octets, and with the addresses of its way.
func (e *Engine) detour(s *session, pkt []byte, h *ip.Header, w wrapping, over int, out *Out) bool {
	at, named, err := unfragmentable(pkt)
	if err != nil || len(pkt)-ip.IPv6Len+over > ip.MaxPacket {
		e.drops[badInner].Add(1)
		return false
	}
	start, next := len(out.buf), pkt[named]
	b := append(out.buf, pkt[:at]...)
	kind := next
	if s.way.local != h.Src {
		kind = ip.DstOpts
	}
	// RFC 6275 6.3: the option stands after the routing header.
	if s.way.remote != h.Dst {
		b, kind = ip.AppendRouting2(b, kind, h.Dst), ip.Routing
	}
	if s.way.local != h.Src {
		b = ip.AppendHomeAddress(b, next, h.Src)
	}
	b = append(b, pkt[at:]...)
	out.buf = b
	whole := b[start:]
	whole[named] = kind
	copyAddr(whole[8:], s.way.local)
	copyAddr(whole[24:], s.way.remote)
	binary.BigEndian.PutUint16(whole[4:], uint16(len(whole)-ip.IPv6Len))
	if s.chain.N == 0 {
		out.add(dataplane.ToTunnel, whole)
		return true
	}
	return e.wrap(s.stack, whole, h, w, out)
}

func copyAddr(into []byte, a netip.Addr) {
	b := a.As16()
	copy(into, b[:])
}

// unfragmentable is where the headers end that every node on the way may look at, and the offset of the octet that names what
// follows: behind Hop-by-Hop Options and routing headers, with the Destination Options that belong to them (RFC 8200 4.1). What has
// a header of route optimization already is not sent with another one.
func unfragmentable(pkt []byte) (at, named int, err error) {
	at, named = ip.IPv6Len, 6
	for o, n := at, named; ; {
		next := pkt[n]
		if next != ip.HopByHop && next != ip.Routing && next != ip.DstOpts {
			return at, named, nil
		}
		if o+8 > len(pkt) || o+8+int(pkt[o+1])*8 > len(pkt) {
			return 0, 0, wire.Truncated
		}
		ext := pkt[o : o+8+int(pkt[o+1])*8]
		if next == ip.Routing && ext[2] == ip.RoutingType2 || next == ip.DstOpts && homeOption(ext) != 0 {
			return 0, 0, wire.DuplicateOption
		}
		n, o = o, o+len(ext)
		if next != ip.DstOpts {
			at, named = o, n
		}
	}
}
