package mem

import (
	"time"

	"kedge/internal/core"
	"kedge/internal/dataplane"
	"kedge/wire/ip"
)

// Native is one packet from the native side, starting with its IP header. If and MAC say where it comes from on a gateway. VNet
// is what the sender left to its device, with offsets that count from the IP header: a checksum to complete, a super packet to
// cut. B may be changed.
type Native struct {
	If   int
	MAC  core.MAC
	B    []byte
	VNet ip.VNet
}

// Native takes one packet from the native side.
func (e *Engine) Native(now time.Duration, in Native, out *Out) {
	if in.VNet.Type == ip.GSONone {
		if in.VNet.NeedsChecksum && ip.CompleteChecksum(in.B, in.VNet.CsumStart, in.VNet.CsumOffset) != nil {
			e.drops[malformed].Add(1)
			return
		}
		e.native(now, in, out)
		e.deliver(out)
		return
	}
	s, err := ip.NewSegmenter(in.B, in.VNet.Type, in.VNet.Size)
	if err != nil {
		e.drops[badInner].Add(1)
		return
	}
	out.super, out.whole = s, out.Split
	for {
		// A segment may leave by reference, so each needs a place of its own.
		start := len(out.buf)
		b, ok := out.super.Next(out.buf)
		if !ok {
			break
		}
		out.buf, in.B = b, b[start:]
		e.native(now, in, out)
		e.deliver(out)
	}
	out.whole = false
}

func (e *Engine) native(now time.Duration, in Native, out *Out) {
	h, err := ip.Parse(in.B)
	if err != nil {
		e.drops[malformed].Add(1)
		return
	}
	in.B = in.B[:h.Len]
	// A header chain that cannot be walked is the destination's business: what was found so far decides.
	u, _ := ip.FindUpper(in.B, &h)
	e.mu.RLock()
	defer e.mu.RUnlock()
	if e.bridges != 0 {
		if s := e.bridged(&in); s != nil {
			e.forwardBridged(now, s, in.B, &h, &u, out)
			return
		}
	}
	if h.Src.Is4In6() || h.Dst.Is4In6() {
		e.drops[mapped].Add(1)
		return
	}
	if e.cfg.Role == dataplane.Gateway {
		e.fromHost(now, in, &h, &u, out)
		return
	}
	if scoped(in.B, &h, &u, false) {
		e.drops[linkScope].Add(1)
		return
	}
	if e.cfg.Role == dataplane.Node {
		e.fromNode(now, in, &h, &u, out)
		return
	}
	if u.Proto == ip.Mobility && e.guard(now, homeTest, h.Dst, nil, nil, in.B, &u, out) {
		return
	}
	to, known := e.tables.down(e.cfg.Domain, h.Dst)
	if len(e.tables.pairs) != 0 {
		if b := e.tables.pair(dataplane.Anchor, pairKey{e.cfg.Domain, h.Src, h.Dst}); b != nil {
			to = b
		}
	}
	if to == nil {
		if known {
			e.drops[deprecated].Add(1) // silently, RFC 5213 5.3.5
			return
		}
		e.drops[unknownHome].Add(1)
		e.tellInner(now, unknownHome, in, &h, out)
		e.sendError(now, ip.Unreachable, 0, in.B, &h, cause{domain: e.cfg.Domain}, out)
		return
	}
	e.forward(now, to.s, in.B, &h, &u, cause{domain: e.cfg.Domain}, !e.cfg.Forwarded, out)
}

// fromNode takes a packet of a node's own, or one that its kernel forwards for a mobile network: from a key of a session. Either
// way nothing is to be taken from its hop limit any more.
func (e *Engine) fromNode(now time.Duration, in Native, h *ip.Header, u *ip.Upper, out *Out) {
	c := cause{domain: e.cfg.Domain}
	from, known := e.tables.source(e.cfg.Domain, h.Src)
	if len(e.tables.pairs) != 0 {
		if b := e.tables.pair(dataplane.Node, pairKey{e.cfg.Domain, h.Src, h.Dst}); b != nil {
			from = b
		}
	}
	switch {
	case from != nil:
		if e.talking != nil && !h.Is4() && !from.s.optimized() {
			e.talks(now, from, h.Src, h.Dst, talkOut, out)
		}
		e.forward(now, from.s, in.B, h, u, c, false, out)
	case known:
		e.drops[deprecated].Add(1)
	default:
		e.drops[unknownHome].Add(1)
		e.tellInner(now, unknownHome, in, h, out)
		if e.cfg.Unreachable {
			e.sendError(now, ip.Unreachable, 0, in.B, h, c, out)
		}
	}
}

// fromHost takes a packet of a host on an access link: only from a binding's own source, from its own MAC on its own link.
func (e *Engine) fromHost(now time.Duration, in Native, h *ip.Header, u *ip.Upper, out *Out) {
	who := e.tables.hosts[hostKey{in.If, in.MAC}]
	if scoped(in.B, h, u, true) {
		e.drops[linkScope].Add(1)
		if who == nil && !signalling(in.B, h, u) {
			e.tellHost(now, unknownHost, in, h, out)
		}
		return
	}
	if who == nil {
		e.drops[unknownHost].Add(1)
		e.tellHost(now, unknownHost, in, h, out)
		return
	}
	from := who.source(h.Src)
	switch {
	case from == nil || from.down && !from.up:
		e.drops[wrongSource].Add(1)
		e.tellHost(now, wrongSource, in, h, out)
		return
	case !from.up:
		e.drops[deprecated].Add(1)
		return
	}
	c := cause{domain: from.s.domain, host: hostKey{in.If, in.MAC}}
	if e.cfg.LocalRouting {
		if to, _ := e.tables.down(from.s.domain, h.Dst); to != nil {
			e.toHost(now, to, in.B, h, u, c, out)
			return
		}
	}
	e.forward(now, from.s, in.B, h, u, c, true, out)
}

// Sighted takes a frame on an access link that is not for the router, a multicast one: an unknown MAC is reported. In bridged mode it
// goes into the tunnel as all frames do.
func (e *Engine) Sighted(now time.Duration, in Native, out *Out) {
	h, err := ip.Parse(in.B)
	if err != nil {
		return
	}
	in.B = in.B[:h.Len]
	u, _ := ip.FindUpper(in.B, &h)
	e.mu.RLock()
	if s := e.bridged(&in); s != nil {
		defer e.mu.RUnlock()
		if in.VNet.Type != ip.GSONone || in.VNet.NeedsChecksum && ip.CompleteChecksum(in.B, in.VNet.CsumStart, in.VNet.CsumOffset) != nil {
			e.drops[malformed].Add(1)
			return
		}
		e.forwardBridged(now, s, in.B, &h, &u, out)
		return
	}
	who := e.tables.hosts[hostKey{in.If, in.MAC}]
	e.mu.RUnlock()
	if who == nil && !signalling(in.B[:h.Len], &h, &u) {
		e.tellHost(now, unknownHost, in, &h, out)
		e.deliver(out)
	}
}

// toHost delivers a packet on an access link: one more hop.
func (e *Engine) toHost(now time.Duration, to *binding, pkt []byte, h *ip.Header, u *ip.Upper, c cause, out *Out) bool {
	if h.TTL <= 1 {
		e.drops[hopLimit].Add(1)
		e.sendError(now, ip.TimeExceeded, 0, pkt, h, c, out)
		return false
	}
	if mtu := e.links[to.at.ifi].mtu(); len(pkt) > mtu {
		if !h.Is4() || h.DF {
			e.drops[tooBig].Add(1)
			e.sendError(now, ip.TooBig, uint32(mtu), pkt, h, c, out)
			return false
		}
		ip.DecrementTTL(pkt)
		return e.fragment(pkt, mtu, 0, Packet{To: dataplane.ToNative, If: to.at.ifi, MAC: to.at.mac}, out)
	}
	ip.DecrementTTL(pkt)
	out.Packets = append(out.Packets, Packet{To: dataplane.ToNative, If: to.at.ifi, MAC: to.at.mac, B: pkt})
	return true
}
