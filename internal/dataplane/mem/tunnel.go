package mem

import (
	"errors"
	"net/netip"
	"time"

	"kedge/internal/dataplane"
	"kedge/wire"
	"kedge/wire/ip"
)

// Outer is what is left of an outer packet whose headers were taken off.
type Outer struct {
	Local, Remote netip.Addr // its destination and source
	TOS           uint8      // its traffic class
	Proto         uint8      // its upper-layer protocol: ip.IPv4 or ip.IPv6
	// Offload: the packet comes from a kernel socket, behind which senders' and receivers' offloads may have left a partial
	// checksum, or several segments in one.
	Offload bool
}

// Tunnel takes one outer packet as it comes from the core: a tunnel packet, a fragment of one, or an ICMPv6 error about one.
func (e *Engine) Tunnel(now time.Duration, pkt []byte, out *Out) {
	h, err := ip.Parse(pkt)
	if err != nil || h.Is4() {
		e.drops[malformed].Add(1)
		return
	}
	u, err := ip.FindUpper(pkt[:h.Len], &h)
	if u.Fragment {
		e.reassembly.Lock()
		gone := e.reassembly.r.Expire(now)
		pkt, err = e.reassembly.r.Add(now, pkt)
		e.reassembly.Unlock()
		e.drops[reassemblyTimeout].Add(uint64(gone))
		if err == nil && pkt == nil {
			return
		}
		if err == nil {
			if h, err = ip.Parse(pkt); err == nil {
				u, err = ip.FindUpper(pkt, &h)
			}
		}
	}
	if err != nil {
		e.drops[fragmentReason(err)].Add(1)
		return
	}
	body := pkt[u.Off:h.Len]
	switch u.Proto {
	case ip.IPv4, ip.IPv6:
		e.Decapsulate(now, Outer{Local: h.Dst, Remote: h.Src, TOS: h.TOS, Proto: u.Proto}, body, out)
	case ip.ICMPv6:
		if ip.PseudoChecksum(h.Src, h.Dst, ip.ICMPv6, body) != 0 {
			e.drops[malformed].Add(1)
			return
		}
		e.TunnelError(now, body, out)
	default:
		e.drops[malformed].Add(1)
	}
}

func fragmentReason(err error) reason {
	switch {
	case errors.Is(err, wire.OverlapFragment):
		return overlap
	case errors.Is(err, wire.ReassemblyLimit):
		return reassemblyLimit
	case errors.Is(err, wire.ECNDrop):
		return ecnDrop
	}
	return malformed
}

// Decapsulate takes the inner packet of an outer one. It must come from a tunnel that is known, and at an anchor from a source
// that is a key with Up of a session in that tunnel. B may be changed.
func (e *Engine) Decapsulate(now time.Duration, o Outer, pkt []byte, out *Out) {
	h, err := ip.Parse(pkt)
	if err != nil || h.Is4() != (o.Proto == ip.IPv4) {
		e.drops[badInner].Add(1)
		return
	}
	pkt = pkt[:h.Len]
	u, _ := ip.FindUpper(pkt, &h)
	if !o.Offload || !ip.CompletePartial(pkt, &h, &u) || len(pkt) <= e.cfg.MTU-ip.IPv6Len || u.Proto != ip.TCP {
		e.decapsulate(now, o, pkt, &h, &u, out)
		e.deliver(out)
		return
	}
	// Several segments in one. How long they were is not known any more: cut what the tunnel carries.
	kind, head := uint8(ip.GSOTCP6), u.Off+int(pkt[u.Off+12]>>4)*4
	if h.Is4() {
		kind = ip.GSOTCP4
	}
	s, err := ip.NewSegmenter(pkt, kind, e.cfg.MTU-ip.IPv6Len-head)
	if err != nil {
		e.drops[badInner].Add(1)
		return
	}
	for {
		start := len(out.buf)
		b, ok := s.Next(out.buf)
		if !ok {
			return
		}
		out.buf = b
		seg := b[start:]
		if h, err := ip.Parse(seg); err == nil {
			e.decapsulate(now, o, seg, &h, &u, out)
			e.deliver(out)
		}
	}
}

func (e *Engine) decapsulate(now time.Duration, o Outer, pkt []byte, h *ip.Header, u *ip.Upper, out *Out) {
	e.mu.RLock()
	defer e.mu.RUnlock()
	tun := e.tables.tunnels[tuple{o.Local, o.Remote}]
	if tun == nil {
		e.drops[wrongTunnel].Add(1)
		e.tellTunnel(now, wrongTunnel, o, h, nil, out)
		return
	}
	if scoped(pkt, h, u, e.cfg.Role == dataplane.Gateway) {
		e.drops[linkScope].Add(1)
		return
	}
	if e.cfg.Role == dataplane.Gateway {
		e.downlink(now, tun, o, pkt, h, u, out)
		return
	}
	from, known, dead := e.tables.up(tun, h.Src, now)
	if from == nil {
		switch {
		case dead:
			e.drops[deprecated].Add(1)
		case known:
			e.drops[wrongTunnel].Add(1)
			e.tellTunnel(now, wrongTunnel, o, h, nil, out)
		default:
			e.drops[wrongSource].Add(1)
			e.tellTunnel(now, wrongSource, o, h, tun, out)
		}
		return
	}
	if !e.congestion(pkt, h, o.TOS) {
		return
	}
	from.s.count.pIn.Add(1)
	from.s.count.oIn.Add(uint64(len(pkt)))
	c := cause{domain: tun.domain}
	if e.own(h.Dst) {
		out.add(dataplane.ToNative, pkt)
		return
	}
	to, dark := e.tables.down(tun.domain, h.Dst)
	switch {
	case to != nil: // from mobile to mobile, without a detour
		e.forward(now, to.s, pkt, h, u, c, true, out)
	case dark:
		e.drops[deprecated].Add(1)
	case e.cfg.Forwarded:
		out.add(dataplane.ToNative, pkt)
	case h.TTL <= 1:
		e.drops[hopLimit].Add(1)
		e.sendError(now, ip.TimeExceeded, 0, pkt, h, c, out)
	default:
		ip.DecrementTTL(pkt)
		out.add(dataplane.ToNative, pkt)
	}
}

// downlink takes a packet from the anchor to a host.
func (e *Engine) downlink(now time.Duration, tun *tunnel, o Outer, pkt []byte, h *ip.Header, u *ip.Upper, out *Out) {
	to, known := e.tables.down(tun.domain, h.Dst)
	switch {
	case to == nil && known:
		e.drops[deprecated].Add(1)
		return
	case to == nil: // silently, RFC 5213 6.10.5
		e.drops[unknownHome].Add(1)
		return
	case !to.s.accepts(tun, now):
		e.drops[wrongTunnel].Add(1)
		e.tellTunnel(now, wrongTunnel, o, h, nil, out)
		return
	}
	if !e.congestion(pkt, h, o.TOS) {
		return
	}
	if e.toHost(now, to, pkt, h, u, cause{domain: tun.domain}, out) {
		to.s.count.pIn.Add(1)
		to.s.count.oIn.Add(uint64(len(pkt)))
	}
}

// congestion combines the outer traffic class with the inner one; false: the packet was dropped for it.
func (e *Engine) congestion(pkt []byte, h *ip.Header, outer uint8) bool {
	tos, ok, _ := ip.Decapsulate(h.TOS, outer)
	if !ok {
		e.drops[ecnDrop].Add(1)
		return false
	}
	if tos != h.TOS {
		ip.SetTOS(pkt, tos)
		h.TOS = tos
	}
	return true
}

// own reports whether a is an address of this router.
func (e *Engine) own(a netip.Addr) bool {
	for _, l := range e.cfg.Local {
		if l == a {
			return true
		}
	}
	return false
}
