package mem

import (
	"encoding/binary"
	"errors"
	"hash/maphash"
	"net/netip"
	"time"

	"kedge/internal/core"
	"kedge/internal/dataplane"
	"kedge/wire"
	"kedge/wire/ip"
)

// optimizing reports whether headers of route optimization mean anything here.
func (e *Engine) optimizing() bool { return e.pairs.Load() != 0 || e.cfg.Correspondent }

// Optimizing reports whether a packet, of which ip.ParseSignal read sig and perhaps failed, has a type 2 routing header, or else a Home
// Address option: also one that is wrong, and could not be read beyond.
func Optimizing(pkt []byte, sig *ip.Signal, err error) (routing, option bool) {
	routing, option = sig.DstHome.IsValid(), sig.SrcHome.IsValid()
	if err != nil && sig.Off < len(pkt) {
		ext := pkt[sig.Off:]
		routing = routing || sig.Proto == ip.Routing && len(ext) > 2 && ext[2] == ip.RoutingType2
		option = option || sig.Proto == ip.DstOpts && len(ext) > 6 && (ext[2] == ip.OptHomeAddress || ext[6] == ip.OptHomeAddress)
	}
	return routing, option && !routing
}

// optimized takes a packet that came with extension headers and without a tunnel, if it has one of route optimization around data.
func (e *Engine) optimized(now time.Duration, pkt []byte, out *Out) bool {
	sig, err := ip.ParseSignal(pkt)
	routing, option := Optimizing(pkt, &sig, err)
	if !routing && !option || err == nil && sig.Signalling(pkt) || e.cfg.Role == dataplane.Gateway {
		return false
	}
	e.mu.RLock()
	defer e.mu.RUnlock()
	d := e.cfg.Domain
	if t := e.tables.framed[frame{tuple: tuple{netip.AddrPortFrom(sig.Dst, 0), netip.AddrPortFrom(sig.Src, 0)}, kind: without}]; t != nil {
		d = t.domain
	}
	if pkt, mine := e.admit(now, &sig, err, nil, d, pkt, out); mine != nil {
		mine.s.got(pkt)
		out.add(dataplane.ToNative, pkt)
	}
	return true
}

// optimizedInside takes such a packet out of a node's tunnel, which is one that it may come in. The lock is held.
func (e *Engine) optimizedInside(now time.Duration, to *binding, pkt []byte, out *Out) bool {
	sig, err := ip.ParseSignal(pkt)
	if routing, option := Optimizing(pkt, &sig, err); !routing && !option || err == nil && sig.Signalling(pkt) {
		return false
	}
	if pkt, mine := e.admit(now, &sig, err, to.s, to.s.domain, pkt, out); mine != nil {
		mine.s.got(pkt)
		out.add(dataplane.ToNative, pkt)
	}
	return true
}

// got counts a packet that came for the session.
func (s *session) got(pkt []byte) {
	s.count.pIn.Add(1)
	s.count.oIn.Add(uint64(len(pkt)))
}

// admit gives the packet that applications are to see, and the key that lets it in; nil if it was dropped. tunnel is the session that
// it came in a tunnel of. The lock is held.
func (e *Engine) admit(now time.Duration, sig *ip.Signal, bad error, tunnel *session, d core.Domain, pkt []byte, out *Out) ([]byte, *binding) {
	other, own := sig.Ends()
	ends, o := ip.Header{Src: other, Dst: own}, Outer{Local: netip.AddrPortFrom(sig.Dst, 0), Remote: netip.AddrPortFrom(sig.Src, 0)}
	if bad != nil {
		e.drops[badInner].Add(1)
		e.problem(now, bad, sig, tunnel, pkt, out)
		if sig.SrcHome.IsValid() && !ip.Routable(sig.SrcHome) { // RFC 6275 9.3.1: as if nobody had bound it
			e.tellStraight(now, o, &ends, sig.SrcHome.IsValid(), nil, d, out)
		}
		return nil, nil
	}
	if sig.DstHome.IsValid() && (e.cfg.Role != dataplane.Node || tunnel != nil) {
		e.drops[badInner].Add(1) // it leads to no other address of this node (RFC 6275 6.4)
		return nil, nil
	}
	var mine, moved *binding
	if n := e.tables.pairs[pairKey{d, own, other}]; n != nil {
		for _, b := range n.bindings {
			if !b.s.admits(sig, now) {
				moved = b
			} else if mine == nil || b.takes(e.cfg.Role) {
				mine = b
			}
		}
	}
	switch {
	case mine == nil:
		// Nobody has the home address there (RFC 6275 9.3.1: the machine sends a Binding Error), or it is elsewhere.
		e.drops[wrongTunnel].Add(1)
		e.tellStraight(now, o, &ends, sig.SrcHome.IsValid(), moved, d, out)
		return nil, nil
	case !mine.takes(e.cfg.Role):
		e.drops[deprecated].Add(1)
		return nil, nil
	}
	if pkt = restore(pkt, sig.SrcHome, sig.DstHome); pkt == nil {
		e.drops[badInner].Add(1)
		return nil, nil
	}
	return pkt, mine
}

// admits reports whether the care-of addresses of a packet are those of the session's way, or were.
func (s *session) admits(sig *ip.Signal, now time.Duration) bool {
	before := now < s.beforeUntil
	return (!sig.SrcHome.IsValid() || sig.Src == s.way.remote || before && sig.Src == s.before.remote) &&
		(!sig.DstHome.IsValid() || sig.Dst == s.way.at || before && sig.Dst == s.before.at)
}

// problem answers a header that has to be answered when it is not understood (RFC 8200 4.2, 4.4): to where the packet came from, the
// way it came. Nothing is remembered but how many were sent.
func (e *Engine) problem(now time.Duration, bad error, sig *ip.Signal, tunnel *session, pkt []byte, out *Out) {
	var w *wire.Error
	if !errors.As(bad, &w) || !w.ParameterProblem {
		return
	}
	p := ip.ParameterFail
	if w.Status != 0 {
		p = ip.UnknownOption
	}
	if !ip.MayAnswer(pkt, p) {
		return
	}
	if !e.errors.take(now, 0, maphash.Comparable(e.seed, sig.Src.As16()), errorsPerSource) {
		e.drops[rateLimit].Add(1)
		return
	}
	start := len(out.buf)
	b, err := ip.AppendError(out.buf, sig.Dst, p, uint32(w.Off), pkt)
	if err != nil {
		return
	}
	out.buf = b
	if tunnel == nil {
		out.add(dataplane.ToSelf, b[start:])
		return
	}
	h, err := ip.Parse(b[start:])
	if err != nil {
		return
	}
	u, _ := ip.FindUpper(b[start:], &h)
	e.forward(now, tunnel, b[start:], &h, &u, cause{domain: tunnel.domain}, false, out)
}

// restore takes headers of route optimization off in place and puts home addresses where applications expect them: that of a Home
// Address option as source, that of a type 2 routing header as destination; no address says that there is none. pkt may be cut
// short, as in a quotation. nil: there is no such header.
func restore(pkt []byte, src, dst netip.Addr) []byte {
	for at, named := ip.IPv6Len, 6; src.IsValid() || dst.IsValid(); {
		next := pkt[named]
		if next != ip.HopByHop && next != ip.Routing && next != ip.DstOpts || at+8 > len(pkt) || at+8+int(pkt[at+1])*8 > len(pkt) {
			return nil
		}
		ext, all := pkt[at:at+8+int(pkt[at+1])*8], false
		switch {
		case next == ip.Routing && dst.IsValid() && ext[2] == ip.RoutingType2:
			copyAddr(pkt[24:], dst)
			dst, all = netip.Addr{}, true
		case next == ip.DstOpts && src.IsValid():
			i := homeOption(ext)
			if i == 0 {
				break
			}
			copyAddr(pkt[8:], src)
			src = netip.Addr{}
			if all = i == homeAlone && len(ext) == optimizedLen; !all {
				clear(ext[i : i+18])
				ext[i], ext[i+1] = 1, 16 // PadN
			}
		}
		if !all {
			named, at = at, at+len(ext)
			continue
		}
		pkt[named] = ext[0]
		copy(pkt[len(ext):], pkt[:at])
		n := binary.BigEndian.Uint16(pkt[4:]) - uint16(len(ext))
		pkt = pkt[len(ext):]
		binary.BigEndian.PutUint16(pkt[4:], n)
	}
	return pkt
}

const homeAlone = 6 // where the option stands in a header of its own

// homeOption is where a Home Address option stands in a Destination Options header, 0 = nowhere.
func homeOption(ext []byte) int {
	for i := 2; i+1 < len(ext); {
		switch {
		case ext[i] == 0: // Pad1
			i++
		case ext[i] == ip.OptHomeAddress && ext[i+1] == 16 && i+18 <= len(ext):
			return i
		default:
			i += 2 + int(ext[i+1])
		}
	}
	return 0
}

// straightened looks at an IPv6 packet that came out of a node's tunnel for whom its key is: whether it is one of route optimization, or
// an error about one, that has been dealt with. The lock is held.
func (e *Engine) straightened(now time.Duration, to *binding, pkt []byte, h *ip.Header, u *ip.Upper, out *Out) bool {
	if e.optimizing() {
		if u.Off != h.HdrLen && e.optimizedInside(now, to, pkt, out) {
			return true
		}
		if u.Proto == ip.ICMPv6 && !u.Fragment && u.Off+8 <= h.Len && pkt[u.Off] < 128 &&
			ip.PseudoChecksum(h.Src, h.Dst, ip.ICMPv6, pkt[u.Off:h.Len]) == 0 && e.optimizedError(now, to.s.domain, pkt[u.Off:], out) {
			return true
		}
	}
	if e.talking != nil && (u.Proto != ip.ICMPv6 || u.Off < h.Len && pkt[u.Off] >= 128) {
		e.talks(now, to, h.Dst, h.Src, talkIn, out)
	}
	return false
}
