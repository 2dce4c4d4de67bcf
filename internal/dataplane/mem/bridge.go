package mem

import (
	"time"

	"kedge/internal/core"
	"kedge/internal/dataplane"
	"kedge/wire/ip"
)

// Bridged mode: the access node of document 002, section 3.2.1, is seen by the host as a bridge to its home link. All that comes
// from the host enters the tunnel, all that comes out of it goes to the host: link scope, multicast, Neighbor Discovery, DHCP, each
// octet as it was but ECN (a mark of congestion is handed on, RFC 6040). The host is known by link and MAC downward, by care-of
// address and GRE key upward. An anchor's side of it is an inner link of the session's own, by its index: what stands on the home
// link there sees the host as if it were at home. Packets with a key of the session that come another way are routed into it.

// bridge makes the native side at, and the tunnel, all of s's own.
func (e *Engine) bridge(s *session, at hostKey) {
	if h := e.tables.hosts[s.access]; h != nil && h.bridge == s && s.access != at {
		delete(e.tables.hosts, s.access)
	}
	e.tables.hosts[at] = &host{bridge: s}
	s.access, s.tun.bridge = at, s
}

// bridged finds the session that has all of a place on the native side.
func (e *Engine) bridged(in *Native) *session {
	if len(e.tables.hosts) == 0 || e.cfg.Role == dataplane.Anchor && in.If == 0 {
		return nil
	}
	at := hostKey{in.If, in.MAC}
	if e.cfg.Role == dataplane.Anchor {
		at.mac = core.MAC{}
	}
	if h := e.tables.hosts[at]; h != nil {
		return h.bridge
	}
	return nil
}

// forwardBridged sends a packet into the tunnel as it is. No error is ever sent to a host that does not know of this router: what
// is too long is fragmented outside.
func (e *Engine) forwardBridged(now time.Duration, s *session, pkt []byte, h *ip.Header, u *ip.Upper, out *Out) {
	w, ok := wrapping{mtu: e.pathMTU(s, now)}, false
	k := s.stack
	if k == nil {
		k = &stack{n: 1, layer: [2]outLayer{{frame: s.exit.frame, head: s.exit.head()}}, over: s.exit.head(), path: s.exit.path}
	}
	if _, refused := e.limits(k, pkt, u, &w); refused != 0 {
		e.drops[encapsulationLimit].Add(1)
		return
	}
	if s.stack != nil {
		ok = e.wrap(k, pkt, h, w, out)
	} else {
		ok = e.encapsulate(s.exit, pkt, nil, h, w, out)
	}
	if ok {
		s.sent(pkt)
	}
}

// unbridge hands a packet out of a bridged session's tunnel to its place on the native side.
func (e *Engine) unbridge(now time.Duration, tun *tunnel, o Outer, pkt []byte, h *ip.Header, out *Out) {
	s := tun.bridge
	if !s.accepts(tun, now) {
		e.drops[wrongTunnel].Add(1)
		e.tellTunnel(now, wrongTunnel, o, h, nil, tun.domain, out)
		return
	}
	// The traffic class of the host's own is kept: only ECN is taken over (RFC 2983 4.2 for DSCP).
	if !e.congestion(pkt, h, h.TOS&^3|o.TOS&3) {
		return
	}
	s.count.pIn.Add(1)
	s.count.oIn.Add(uint64(len(pkt)))
	out.Packets = append(out.Packets, Packet{To: dataplane.ToNative, If: s.access.ifi, MAC: s.access.mac, B: pkt})
}
