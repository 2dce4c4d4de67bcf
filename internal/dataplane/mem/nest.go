package mem

import (
	"net/netip"
	"time"

	"kedge/internal/dataplane"
	"kedge/wire"
	"kedge/wire/ip"
)

// tunnelled reports whether an inner packet is itself one of a tunnel, or a fragment that may be.
func (e *Engine) tunnelled(h *ip.Header, u *ip.Upper) bool {
	switch u.Proto {
	case ip.IPv4, ip.IPv6, ip.GRE, ip.UDP:
		return true
	case ip.ESP:
		return e.cfg.Security != nil
	}
	return u.Fragment && !h.Is4() // its Fragment header may name anything
}

// unnest takes the middle header off a packet that came in a carrier, if it is of a tunnel of a session that has both layers. o is
// then the inner tunnel. goes is false if it is no such packet, and as it was; inner is nil if it was dropped or is kept for
// reassembly.
func (e *Engine) unnest(now time.Duration, o *Outer, pkt []byte, h *ip.Header, u *ip.Upper) (inner []byte, goes bool) {
	f := o.frame()
	e.mu.RLock()
	c := e.tables.carriers[f]
	e.mu.RUnlock()
	if c == nil || e.cfg.Role != dataplane.Node && !e.own(h.Dst) {
		return nil, false
	}
	if u.Fragment {
		// Scoped by the carrier: behind different ones the same private addresses may be in use.
		whole, err := e.gather(now, c.serial, pkt)
		if err != nil {
			e.drops[fragmentReason(err)].Add(1)
		}
		return whole, true // to be looked at again
	}
	m := Outer{Local: netip.AddrPortFrom(h.Dst, 0), Remote: netip.AddrPortFrom(h.Src, 0), Proto: u.Proto, Offload: o.Offload, within: c.serial}
	body := pkt[u.Off:h.Len]
	switch u.Proto {
	case ip.UDP:
		if !e.datagram(&m, body) {
			return nil, false
		}
		body = body[ip.UDPLen : int(body[4])<<8|int(body[5])]
	case ip.IPv4, ip.IPv6, ip.GRE, ip.ESP:
	default:
		return nil, false
	}
	tos, ok, _ := ip.Decapsulate(h.TOS, o.TOS)
	if m.TOS = tos; !ok {
		e.drops[ecnDrop].Add(1)
		return nil, true
	}
	if m.Proto == ip.ESP {
		sa, next, opened, err := e.cfg.Security.Open(now, m.Local, m.Remote, body, nil)
		switch {
		case err == nil:
			m.kind, m.key, m.Proto, m.Offload, body = inESP, sa, next, false, opened
		case wire.ReasonOf(err) == wire.UnknownSPI:
			return nil, false // perhaps it is signalling
		default:
			e.refused(err)
			return nil, true
		}
	} else if !e.within(&m, body) {
		return nil, false
	}
	*o = m
	return body, true
}

// within reports whether some session has a tunnel between the ends of m in its carrier: before anything is opened that may be
// somebody else's.
func (e *Engine) within(m *Outer, body []byte) bool {
	f := m.frame()
	switch m.Proto {
	case ip.GRE:
		g, err := ip.ParseGRE(body)
		if err != nil {
			return true // to be counted
		}
		if f.kind, f.key = inGRE, g.Key; g.Keyed {
			f.kind |= keyed
		}
	case ip.UDP:
		if ip.IsTLV(body) {
			return true
		}
	}
	e.mu.RLock()
	defer e.mu.RUnlock()
	return e.tables.framed[f] != nil
}

// gather puts fragments of one scope together; nil without an error: there are more to come.
func (e *Engine) gather(now time.Duration, scope uint32, pkt []byte) ([]byte, error) {
	e.reassembly.Lock()
	gone := e.reassembly.r.Expire(now)
	pkt, err := e.reassembly.r.AddIn(now, scope, pkt)
	evicted := e.reassembly.r.Evicted()
	e.reassembly.Unlock()
	e.drops[reassemblyTimeout].Add(uint64(gone))
	e.drops[reassemblyLimit].Add(uint64(evicted))
	return pkt, err
}
