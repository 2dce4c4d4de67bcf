package mem

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"time"

	"kedge/internal/core"
	"kedge/internal/dataplane"
	"kedge/wire"
	"kedge/wire/ip"
)

// Route optimization (RFC 6275): instead of a tunnel, packets between a mobile node and its correspondent carry the home address
// in an extension header. Towards the correspondent that is a Home Address option (6.3, 11.3.1), towards the node a type 2
// routing header (6.4, 9.3.2). Layer[0] of the chain has the addresses on the wire: at the node its care-of address and the
// correspondent's; at the correspondent, whose role is that of an anchor, its own address and the care-of address. Kernels need
// not know either header: applications send and get packets between the home address and the correspondent's.
//
// A packet is let in only if it has the header, comes between these two addresses, and a key of the session has the home address
// and the correspondent's (9.3.1, 11.3.3). Mobility Headers are not data: they pass by.

const optimizedLen = ip.HomeAddressLen // octets of either header

func (s *session) optimized() bool { return s.chain.RO != 0 }

// optimizes says why this back end cannot carry a chain of route optimization, or nil.
func (e *Engine) optimizes(c *core.Chain) error {
	l := c.Layer[0]
	local, remote := l.Local.Addr(), l.Remote.Addr()
	rest := l
	rest.Local, rest.Remote = netip.AddrPort{}, netip.AddrPort{}
	switch {
	case e.cfg.Role == dataplane.Gateway:
		return errors.New("route optimization is not carried by a gateway")
	case c.RO != 1:
		return fmt.Errorf("route optimization %d is unknown", c.RO)
	case rest != core.Layer{} || c.Layer[1] != core.Layer{} || l.Local.Port() != 0 || l.Remote.Port() != 0:
		return errors.New("route optimization has addresses and nothing else")
	case !ip.Routable(local) || e.cfg.Role == dataplane.Anchor && !e.own(local):
		return fmt.Errorf("route optimization from %v: no address of this node", local)
	case !ip.Routable(remote) || local == remote || e.own(remote):
		return fmt.Errorf("route optimization to %v: no address of another node", remote)
	case c.MTU != 0 && c.MTU < ip.MinMTU6:
		return fmt.Errorf("path MTU %d is below %d, the least of its family", c.MTU, ip.MinMTU6)
	}
	return nil
}

// pairFault says what is wrong with a key of route optimization, or nil.
func pairFault(mobile, peer netip.Prefix) error {
	for _, p := range []netip.Prefix{mobile, peer} {
		if !p.IsValid() || !p.IsSingleIP() || !ip.Routable(p.Addr()) {
			return fmt.Errorf("%v: a key of source and destination, route optimization, has one IPv6 address for each", p)
		}
	}
	return nil
}

// pairOf is the key of a match of route optimization.
func (e *Engine) pairOf(m core.Match) pairKey {
	if e.cfg.Role == dataplane.Anchor {
		return pairKey{m.Domain, m.Dst.Addr(), m.Src.Addr()}
	}
	return pairKey{m.Domain, m.Src.Addr(), m.Dst.Addr()}
}

func (e *Engine) setPair(s *session, op core.SetKey) error {
	k, far := e.pairOf(op.Match), s.tun.remote.Addr()
	if e.cfg.Role == dataplane.Anchor {
		far = s.tun.local.Addr()
	}
	if k.peer != far {
		return fmt.Errorf("key %v to %v: its session's correspondent is %v", k.mobile, k.peer, far)
	}
	b := e.find(s, op.Match)
	if b == nil {
		b = &binding{s: s, match: op.Match, prefix: netip.PrefixFrom(k.mobile, k.mobile.BitLen()), pair: k}
		n := e.tables.pairs[k]
		if n == nil {
			n = &entry{}
			e.tables.pairs[k] = n
		}
		n.bindings, s.bindings = append(n.bindings, b), append(s.bindings, b)
	}
	if op.Down {
		for _, other := range e.tables.pairs[k].bindings {
			other.down = false
		}
	}
	b.up, b.down = op.Up, op.Down
	e.changedPairs(b)
	return nil
}

func (e *Engine) dropPair(b *binding) {
	n := e.tables.pairs[b.pair]
	if n.bindings = remove(n.bindings, b); len(n.bindings) == 0 {
		delete(e.tables.pairs, b.pair)
	}
	b.s.bindings = remove(b.s.bindings, b)
	e.changedPairs(b)
}

// changedPairs: while an address has route optimization, only the engine knows where its packets go.
func (e *Engine) changedPairs(b *binding) {
	e.pairs.Store(int32(len(e.tables.pairs)))
	l := e.tables.lengthsOf(b.pair.mobile)
	for _, bits := range l.bits[:l.n] {
		p, _ := b.pair.mobile.Prefix(int(bits))
		if e.tables.keys[prefixKey{b.pair.domain, p}] != nil {
			e.mirrorKey(b.pair.domain, p)
		}
	}
}

// mobile reports whether an address of p has route optimization.
func (t *tables) mobile(d core.Domain, p netip.Prefix) bool {
	for k := range t.pairs {
		if k.domain == d && p.Contains(k.mobile) {
			return true
		}
	}
	return false
}

// pair finds the key that a packet between two addresses leaves by: of those that may, that of the newest session.
func (t *tables) pair(d core.Domain, mobile, peer netip.Addr, down bool) (best *binding) {
	n := t.pairs[pairKey{d, mobile, peer}]
	if n == nil {
		return nil
	}
	for _, b := range n.bindings {
		if (down && b.down || !down && b.up) && (best == nil || b.s.id > best.s.id) {
			best = b
		}
	}
	return best
}

// forwardOptimized sends a packet straight to the other end, with its header. What would be too long with it, and may not be
// refused, is fragmented first: the header stands before the Fragment header of each (RFC 6275 6.3).
func (e *Engine) forwardOptimized(now time.Duration, s *session, pkt []byte, h *ip.Header, c cause, hop bool, out *Out) {
	mtu := e.pathMTU(s, now)
	if len(pkt) > mtu-optimizedLen && len(pkt) > ip.MinMTU6 {
		e.drops[tooBig].Add(1)
		e.sendError(now, ip.TooBig, tunnelMTU(h, mtu-optimizedLen), pkt, h, c, out)
		return
	}
	if hop {
		ip.DecrementTTL(pkt)
	}
	if len(pkt) <= mtu-optimizedLen {
		if e.detour(s, pkt, out) {
			s.sent(pkt)
		}
		return
	}
	f, err := ip.NewFragmenter(pkt, mtu-optimizedLen, e.identification(s.exit.path))
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
		if out.buf = b; !e.detour(s, b[start:], out) {
			return
		}
	}
}

// detour appends pkt with the header of route optimization, and with its new address.
func (e *Engine) detour(s *session, pkt []byte, out *Out) bool {
	at, named, err := unfragmentable(pkt)
	if err != nil || len(pkt)-ip.IPv6Len+optimizedLen > ip.MaxPacket {
		e.drops[badInner].Add(1)
		return false
	}
	start, next := len(out.buf), pkt[named]
	b := append(out.buf, pkt[:at]...)
	home, kind, where, on := pkt[8:24], uint8(ip.DstOpts), 8, s.exit.local.Addr().As16()
	if e.cfg.Role == dataplane.Anchor {
		home, kind, where, on = pkt[24:40], ip.Routing, 24, s.exit.remote.Addr().As16()
		b = ip.AppendRouting2(b, next, netip.AddrFrom16([16]byte(home)))
	} else {
		b = ip.AppendHomeAddress(b, next, netip.AddrFrom16([16]byte(home)))
	}
	b = append(b, pkt[at:]...)
	out.buf = b
	whole := b[start:]
	whole[named] = kind
	copy(whole[where:], on[:])
	binary.BigEndian.PutUint16(whole[4:], uint16(len(whole)-ip.IPv6Len))
	out.add(dataplane.ToTunnel, whole)
	return true
}

// unfragmentable is where the headers end that every node on the way may look at, and the offset of the octet that names what
// follows: behind Hop-by-Hop Options and routing headers, with the Destination Options that belong to them (RFC 8200 4.1).
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
		n, o = o, o+8+int(pkt[o+1])*8
		if next != ip.DstOpts {
			at, named = o, n
		}
	}
}

// optimized takes a packet with extension headers, if it has one of route optimization around data.
func (e *Engine) optimized(now time.Duration, pkt []byte, out *Out) bool {
	sig, err := ip.ParseSignal(pkt)
	node := e.cfg.Role == dataplane.Node
	if node && !sig.DstHome.IsValid() || !node && !sig.SrcHome.IsValid() || sig.Proto == ip.Mobility || e.cfg.Role == dataplane.Gateway {
		return false
	}
	if err != nil || node && sig.SrcHome.IsValid() || !node && sig.DstHome.IsValid() {
		// Two mobile nodes that both optimize are refused: their machine does not offer it.
		e.drops[badInner].Add(1)
		return true
	}
	e.mu.RLock()
	defer e.mu.RUnlock()
	f := frame{tuple: tuple{netip.AddrPortFrom(sig.Dst, 0), netip.AddrPortFrom(sig.Src, 0)}, kind: without}
	k := pairKey{e.cfg.Domain, sig.DstHome, sig.Src}
	if !node {
		k = pairKey{e.cfg.Domain, sig.SrcHome, sig.Dst}
	}
	tun := e.tables.framed[f]
	if tun != nil {
		k.domain = tun.domain
	}
	var mine, other *binding
	if n := e.tables.pairs[k]; n != nil {
		for _, b := range n.bindings {
			if !b.s.accepts(tun, now) {
				other = b
			} else if node && b.down || !node && b.up || mine == nil {
				mine = b
			}
		}
	}
	ends := ip.Header{Src: k.peer, Dst: k.mobile}
	if !node {
		ends = ip.Header{Src: k.mobile, Dst: k.peer}
	}
	switch {
	case mine == nil:
		// Nobody has the home address there (RFC 6275 9.3.1: the machine sends a Binding Error), or it is elsewhere.
		e.drops[wrongTunnel].Add(1)
		e.tellTunnel(now, wrongTunnel, Outer{Local: f.local, Remote: f.remote}, &ends, other, k.domain, out)
	case node && !mine.down || !node && !mine.up:
		e.drops[deprecated].Add(1)
	default:
		if pkt = restore(pkt, node, k.mobile); pkt == nil {
			e.drops[badInner].Add(1)
			return true
		}
		mine.s.count.pIn.Add(1)
		mine.s.count.oIn.Add(uint64(len(pkt)))
		out.add(dataplane.ToNative, pkt)
	}
	return true
}

// restore takes the header of route optimization off in place and puts the home address where applications expect it: for a node
// the destination, else the source. pkt may be cut short, as in a quotation. nil: there is no such header.
func restore(pkt []byte, node bool, home netip.Addr) []byte {
	want := uint8(ip.DstOpts)
	if node {
		want = ip.Routing
	}
	for at, named := ip.IPv6Len, 6; ; {
		next := pkt[named]
		if next != ip.HopByHop && next != ip.Routing && next != ip.DstOpts || at+8 > len(pkt) || at+8+int(pkt[at+1])*8 > len(pkt) {
			return nil
		}
		ext := pkt[at : at+8+int(pkt[at+1])*8]
		if next != want || node && ext[2] != ip.RoutingType2 || !node && homeOption(ext) == 0 {
			named, at = at, at+len(ext)
			continue
		}
		a := home.As16()
		if i := homeOption(ext); node || i == homeAlone && len(ext) == optimizedLen {
			// Nothing else is in it.
			pkt[named] = ext[0]
			copy(pkt[len(ext):], pkt[:at])
			n := binary.BigEndian.Uint16(pkt[4:]) - uint16(len(ext))
			pkt = pkt[len(ext):]
			binary.BigEndian.PutUint16(pkt[4:], n)
		} else {
			clear(ext[i : i+18])
			ext[i], ext[i+1] = 1, 16 // PadN
		}
		if node {
			copy(pkt[24:40], a[:])
		} else {
			copy(pkt[8:24], a[:])
		}
		return pkt
	}
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

// optimizedError takes an ICMPv6 error about a packet that left with a header of route optimization, and hands it to its source
// as one about what it had sent. Other errors are left alone.
func (e *Engine) optimizedError(now time.Duration, msg []byte, out *Out) bool {
	q, err := ip.ParseQuoted(msg[8:])
	if err != nil || q.Is4() {
		return false
	}
	t := e.tables.framed[frame{tuple: tuple{netip.AddrPortFrom(q.Src, 0), netip.AddrPortFrom(q.Dst, 0)}, kind: without | leaving}]
	if t == nil {
		return false
	}
	// The quotation is edited in a copy.
	start, node := len(out.buf), e.cfg.Role == dataplane.Node
	out.buf = append(out.buf, msg[8:]...)
	quote := out.buf[start:]
	home, ok := quotedHome(quote, node)
	k := pairKey{t.domain, home, q.Dst}
	if !node {
		k.peer = q.Src
	}
	var s *session
	if n := e.tables.pairs[k]; ok && n != nil {
		for _, b := range n.bindings {
			if b.s.sends(t, now) {
				s = b.s
			}
		}
	}
	if s == nil {
		return false
	}
	// What a node put in was an option; restore thinks of what arrives.
	quote = restore(quote, !node, home)
	h, err := ip.ParseQuoted(quote)
	if quote == nil || err != nil {
		return false
	}
	e.drops[tunnelError].Add(1)
	p, value := ip.Unreachable, uint32(0)
	big, mtu := bigger(false, msg, &q)
	switch {
	case big:
		if !e.tooBig(now, t.path, mtu, &q) || h.Len <= ip.MinMTU6 {
			return true
		}
		p, value = ip.TooBig, tunnelMTU(&h, e.pathMTU(s, now)-optimizedLen)
	case msg[0] == 1 && msg[1] == 0:
		p = ip.NoRoute
	case msg[0] == 1 && msg[1] == 1:
		p = ip.Prohibited
	case msg[0] == 1:
	case msg[0] == 3:
		p = ip.TimeExceeded
	case msg[0] == 4:
		// The correspondent does not know the option (RFC 6275 11.3.5): the machine's business.
		e.tellTunnel(now, tunnelError, Outer{Local: t.local, Remote: t.remote}, &h, &binding{s: s}, t.domain, out)
		return true
	default:
		return true
	}
	e.sendError(now, p, value, quote, &h, cause{domain: t.domain}, out)
	return true
}

// quotedHome finds the home address in the header of route optimization of a quoted packet that this node sent.
func quotedHome(b []byte, node bool) (netip.Addr, bool) {
	if len(b) < ip.IPv6Len {
		return netip.Addr{}, false
	}
	for at, named := ip.IPv6Len, 6; ; {
		next := b[named]
		if next != ip.HopByHop && next != ip.Routing && next != ip.DstOpts || at+8 > len(b) || at+8+int(b[at+1])*8 > len(b) {
			return netip.Addr{}, false
		}
		ext := b[at : at+8+int(b[at+1])*8]
		if i := homeOption(ext); node && next == ip.DstOpts && i != 0 {
			return netip.AddrFrom16([16]byte(ext[i+2 : i+18])), true
		}
		if !node && next == ip.Routing && ext[2] == ip.RoutingType2 && len(ext) == ip.Routing2Len {
			return netip.AddrFrom16([16]byte(ext[8:24])), true
		}
		named, at = at, at+len(ext)
	}
}
