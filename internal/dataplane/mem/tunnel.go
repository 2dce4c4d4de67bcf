package mem

import (
	"encoding/binary"
	"errors"
	"net/netip"
	"time"

	"kedge/internal/dataplane"
	"kedge/wire"
	"kedge/wire/ip"
)

// Outer is what is left of an outer packet whose headers were taken off.
type Outer struct {
	Local, Remote netip.AddrPort // its destination and source; ports in UDP only
	TOS           uint8          // its traffic class
	// Proto is what its payload is: ip.IPv4, ip.IPv6, ip.UDP (without the UDP header), ip.GRE (from the GRE header on) or ip.ESP (from
	// the SPI on; with ports if it was in UDP).
	Proto uint8
	// Offload: the packet comes from a kernel socket, behind which senders' and receivers' offloads may have left a partial
	// checksum, or several segments in one.
	Offload bool

	// What was found between the outer header and the inner packet: unframe.
	kind   kind
	tlv    uint8
	key    uint32
	within uint32 // serial of the carrier that it came in
}

// frame is the tunnel that the packet came in.
func (o *Outer) frame() frame { return frame{tuple{o.Local, o.Remote}, o.kind, o.key, o.within} }

// Tunnel takes one outer packet as it comes from the core: a tunnel packet, a fragment of one, or an ICMP error about one.
func (e *Engine) Tunnel(now time.Duration, pkt []byte, out *Out) { e.tunnel(now, pkt, 0, out) }

// tunnel does so for one that came out of depth other tunnels.
func (e *Engine) tunnel(now time.Duration, pkt []byte, depth int, out *Out) {
	h, err := ip.Parse(pkt)
	if err != nil {
		e.drops[malformed].Add(1)
		return
	}
	if !h.Is4() && e.optimizing() && (h.Proto == ip.DstOpts || h.Proto == ip.Routing || h.Proto == ip.HopByHop) && e.optimized(now, pkt[:h.Len], out) {
		e.deliver(out)
		return
	}
	u, err := ip.FindUpper(pkt[:h.Len], &h)
	if u.Fragment {
		pkt, err = e.gather(now, 0, pkt)
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
	body, o := pkt[u.Off:h.Len], Outer{Local: netip.AddrPortFrom(h.Dst, 0), Remote: netip.AddrPortFrom(h.Src, 0), TOS: h.TOS, Proto: u.Proto}
	switch {
	case u.Proto == ip.IPv4 || u.Proto == ip.IPv6 || u.Proto == ip.GRE || u.Proto == ip.ESP && e.cfg.Security != nil:
		e.takeOff(now, o, body, depth, out)
	case u.Proto == ip.UDP && e.datagram(&o, body):
		e.takeOff(now, o, body[ip.UDPLen:binary.BigEndian.Uint16(body[4:])], depth, out)
	case u.Proto == ip.ICMPv6 && !h.Is4() && ip.PseudoChecksum(h.Src, h.Dst, ip.ICMPv6, body) == 0,
		u.Proto == ip.ICMPv4 && h.Is4() && ip.Checksum(body) == 0:
		e.TunnelError(now, h.Is4(), body, out)
	default:
		e.drops[malformed].Add(1)
	}
}

// datagram does so for a port that this router has.
func (e *Engine) datagram(o *Outer, b []byte) bool {
	return datagram(o, b) && (o.Local.Port() == dataplane.PortUDP || e.cfg.Security != nil)
}

// datagram puts the ports of a UDP datagram to PortUDP or PortESP into o; false if it is none. It may go without a checksum in IPv4 only (RFC 768, RFC
// 8200 8.1).
func datagram(o *Outer, b []byte) bool {
	if len(b) < ip.UDPLen {
		return false
	}
	n := int(binary.BigEndian.Uint16(b[4:]))
	port := binary.BigEndian.Uint16(b[2:])
	if n < ip.UDPLen || n > len(b) || port != dataplane.PortUDP && port != PortESP {
		return false
	}
	src, dst := o.Remote.Addr(), o.Local.Addr()
	if sum := binary.BigEndian.Uint16(b[6:]); sum == 0 && !src.Is4() || sum != 0 && ip.PseudoChecksum(src, dst, ip.UDP, b[:n]) != 0 {
		return false
	}
	o.Remote, o.Local = netip.AddrPortFrom(src, binary.BigEndian.Uint16(b)), netip.AddrPortFrom(dst, port)
	if port == PortESP {
		o.Proto = ip.ESP
	}
	return true
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
// that is a key with Up of a session in that tunnel, at others to one with Down. Signalling needs neither. In UDP the first four
// bits say what it is (RFC 5555 4.1), and at most one octet is a keepalive. pkt may be changed.
func (e *Engine) Decapsulate(now time.Duration, o Outer, pkt []byte, out *Out) {
	e.takeOff(now, o, pkt, 0, out)
}

func (e *Engine) takeOff(now time.Duration, o Outer, pkt []byte, depth int, out *Out) {
	if o.Local.Port() != 0 && len(pkt) <= 1 {
		e.keepalives.Add(1)
		return
	}
	if e.again(now, &o, pkt, out) {
		return
	}
	var h ip.Header
	var u ip.Upper
	for {
		if o.Proto == ip.GRE || o.Proto == ip.ESP || o.Proto == ip.UDP && ip.IsTLV(pkt) {
			var ok bool
			if pkt, ok = e.unframe(now, &o, pkt); !ok {
				return
			}
		}
		var err error
		if h, err = ip.Parse(pkt); err != nil || o.Proto != ip.UDP && h.Is4() != (o.Proto == ip.IPv4) {
			e.drops[badInner].Add(1)
			return
		}
		pkt = pkt[:h.Len]
		u, _ = ip.FindUpper(pkt, &h)
		if e.carriers.Load() == 0 || o.within != 0 || !e.tunnelled(&h, &u) {
			break
		}
		inner, goes := e.unnest(now, &o, pkt, &h, &u)
		if !goes {
			break
		}
		if pkt = inner; pkt == nil {
			return
		}
	}
	most := e.cfg.MTU - tuple{o.Local, o.Remote}.head()
	e.ask(now, &o, pkt, &h, &u, most, out)
	if !o.Offload || !ip.CompletePartial(pkt, &h, &u) || len(pkt) <= most || u.Proto != ip.TCP {
		again := e.decapsulate(now, o, pkt, &h, &u, depth, out)
		e.deliver(out)
		if again {
			e.tunnel(now, pkt, depth+1, out)
		}
		return
	}
	// Several segments in one. How long they were is not known any more: cut what the tunnel carries.
	kind, head := uint8(ip.GSOTCP6), u.Off+int(pkt[u.Off+12]>>4)*4
	if h.Is4() {
		kind = ip.GSOTCP4
	}
	s, err := ip.NewSegmenter(pkt, kind, most-head)
	if err != nil {
		e.drops[badInner].Add(1)
		return
	}
	out.fate.asked = false
	for {
		start := len(out.buf)
		b, ok := s.Next(out.buf)
		if !ok {
			return
		}
		out.buf = b
		seg := b[start:]
		if h, err := ip.Parse(seg); err == nil {
			e.decapsulate(now, o, seg, &h, &u, depth, out)
			e.deliver(out)
		}
	}
}

// decapsulate takes an inner packet; again: it is one of a tunnel itself, that ends here too.
func (e *Engine) decapsulate(now time.Duration, o Outer, pkt []byte, h *ip.Header, u *ip.Upper, depth int, out *Out) (again bool) {
	e.mu.RLock()
	defer e.mu.RUnlock()
	var tun *tunnel
	if o.kind == 0 && o.within == 0 {
		tun = e.tables.tunnels[tuple{o.Local, o.Remote}]
	} else {
		tun = e.tables.framed[o.frame()]
	}
	if tun != nil && tun.bridge != nil {
		e.unbridge(now, tun, o, pkt, h, out)
		return false
	}
	local := scoped(pkt, h, u, e.cfg.Role == dataplane.Gateway)
	if !local && e.signal(now, tun, o, pkt, h, out) {
		return false
	}
	switch {
	case tun == nil:
		e.drops[wrongTunnel].Add(1)
		e.tellTunnel(now, wrongTunnel, o, h, e.owner(h), e.cfg.Domain, out)
		return false
	case local:
		e.drops[linkScope].Add(1)
		return false
	case h.Src.Is4In6() || h.Dst.Is4In6():
		e.drops[mapped].Add(1)
		return false
	case e.cfg.Role != dataplane.Anchor:
		e.downlink(now, tun, o, pkt, h, u, out)
		return false
	}
	from, other, dead := e.tables.up(tun.domain, tun, h.Src, now)
	if from == nil {
		switch {
		case dead:
			e.drops[deprecated].Add(1)
		case other != nil:
			e.drops[wrongTunnel].Add(1)
			e.tellTunnel(now, wrongTunnel, o, h, other, tun.domain, out)
		default:
			e.drops[wrongSource].Add(1)
			e.tellTunnel(now, wrongSource, o, h, nil, tun.domain, out)
		}
		return false
	}
	if u.Proto == ip.Mobility && (e.guard(now, homeTestInit, h.Src, tun, &o, pkt, u, out) || e.guard(now, homeTest, h.Dst, nil, nil, pkt, u, out)) {
		return false
	}
	again = e.own(h.Dst) && from.network() && e.enters(u, pkt[min(u.Off, len(pkt)):])
	if e.own(h.Dst) && (u.Proto == ip.IPv4 || u.Proto == ip.IPv6) && !again || again && depth == maxNested {
		// A tunnel to this router in a tunnel to it, from nowhere that one may begin, or too deep.
		e.drops[encapsulationLimit].Add(1)
		return false
	}
	if !e.congestion(pkt, h, o.TOS) {
		return false
	}
	from.s.count.pIn.Add(1)
	from.s.count.oIn.Add(uint64(len(pkt)))
	c := cause{domain: tun.domain}
	if again {
		return true
	}
	if e.own(h.Dst) {
		out.add(dataplane.ToNative, pkt)
		return false
	}
	to, dark := e.tables.down(tun.domain, h.Dst)
	if to == nil && !dark && e.cfg.Forwarded {
		e.settle(from.s, tun, toNative, h.TOS, false, out)
	}
	e.onward(now, to, dark, pkt, h, u, c, out)
	return false
}

// onward forwards a packet of a node that is not for this router: to the binding of another node, without a detour, or by plain
// routing; not one for a node that is known and away. The lock is held.
func (e *Engine) onward(now time.Duration, to *binding, dark bool, pkt []byte, h *ip.Header, u *ip.Upper, c cause, out *Out) {
	switch {
	case to != nil:
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

// owner finds the session that an inner packet from an unknown tuple claims to be of: so that its machine learns of another NAT
// port. Nil if there is none.
func (e *Engine) owner(h *ip.Header) *binding {
	if e.cfg.Role != dataplane.Anchor {
		to, _ := e.tables.down(e.cfg.Domain, h.Dst)
		return to
	}
	_, other, _ := e.tables.up(e.cfg.Domain, nil, h.Src, 0)
	return other
}

// downlink takes a packet from the anchor to a host, or to this node.
func (e *Engine) downlink(now time.Duration, tun *tunnel, o Outer, pkt []byte, h *ip.Header, u *ip.Upper, out *Out) {
	to, known := e.tables.down(tun.domain, h.Dst)
	switch {
	case to == nil && known:
		e.drops[deprecated].Add(1)
		return
	case to == nil: // silently, RFC 5213 6.10.5
		e.drops[unknownHome].Add(1)
		return
	case !to.s.accepts(tun, now) && !(e.cfg.Role == dataplane.Node && e.tables.expected(to, tun, now)):
		e.drops[wrongTunnel].Add(1)
		e.tellTunnel(now, wrongTunnel, o, h, to, tun.domain, out)
		return
	}
	if !e.congestion(pkt, h, o.TOS) {
		return
	}
	if e.cfg.Role == dataplane.Node {
		if !h.Is4() && (e.optimizing() || e.talking != nil) && e.straightened(now, to, pkt, h, u, out) {
			return
		}
		// It has arrived: its hop limit counts no more. What goes on to a mobile network the kernel forwards.
		e.settle(to.s, tun, toNative, h.TOS, false, out)
		out.add(dataplane.ToNative, pkt)
		to.s.count.pIn.Add(1)
		to.s.count.oIn.Add(uint64(len(pkt)))
		return
	}
	if e.toHost(now, to, pkt, h, u, cause{domain: tun.domain}, out) {
		e.settle(to.s, tun, Packet{To: dataplane.ToNative, If: to.at.ifi, MAC: to.at.mac}, h.TOS, true, out)
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
