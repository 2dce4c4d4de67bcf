package mem

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"kedge/internal/core"
	"kedge/internal/dataplane"
	"kedge/wire/ip"
)

// Route optimization (RFC 6275): instead of a tunnel, packets between a mobile node and its correspondent carry home addresses in
// extension headers. That of the sender is in a Home Address option (6.3, 11.3.1), that of the receiver in a type 2 routing header
// (6.4, 9.3.2). Kernels need not know either: applications send and get packets between a pair of addresses, this end's own and the
// other's, which the key of a session has. Layer[0] of its chain has those on the wire. Whichever differs from its address of the
// pair is a care-of address, and then there is the header for it: both, when both ends are mobile and know of each other.
//
// A node that the other end knows no care-of address of sends through its tunnel (N=1): the headers are then inside, and it is
// the home address that they leave from.
//
// What is let in. A pair has a key with Up (at a node, Down). A Home Address option says the pair's other address, and the packet comes
// from the care-of address that its session has for that, or had before it moved, for Grace (9.3.1). A type 2 routing header says
// the pair's own address, and the packet comes to the care-of address that the session has for that, likewise (11.3.3); or it comes in
// a tunnel that plain packets to the own address may come in, for the other end may know of no care-of address. All other
// packets with such a header are dropped and counted; Mobility Headers are not data, and pass by.
//
// Fragments are taken one by one: both headers stand before the Fragment header of each, and nowhere else (6.3, RFC 8200 4.1).

const optimizedLen = ip.HomeAddressLen // octets of either header

func (s *session) optimized() bool { return s.chain.RO != 0 }

// straight is the way of packets of route optimization.
type straight struct {
	local, remote netip.Addr // as they leave
	at            netip.Addr // where they arrive without a tunnel; not valid = nowhere
}

func straightOf(c *core.Chain) straight {
	if c.RO == 0 {
		return straight{}
	}
	w := straight{local: c.Layer[0].Local.Addr(), remote: c.Layer[0].Remote.Addr()}
	if w.at = w.local; c.N == 1 {
		w.at = netip.Addr{}
		if care := c.Layer[1].Local.Addr(); ip.Routable(care) {
			w.at = care
		}
	}
	return w
}

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
	case c.N > 1 || c.N == 1 && e.cfg.Role != dataplane.Node:
		return fmt.Errorf("route optimization is not carried by %d tunnels: by one at most, that of a node to its home agent", c.N)
	case rest != core.Layer{} || c.N == 0 && c.Layer[1] != core.Layer{} || l.Local.Port() != 0 || l.Remote.Port() != 0:
		return errors.New("route optimization has addresses and nothing else")
	case !ip.Routable(local) || e.cfg.Role == dataplane.Anchor && !e.own(local):
		return fmt.Errorf("route optimization from %v: no address of this node", local)
	case !ip.Routable(remote) || local == remote || e.own(remote):
		return fmt.Errorf("route optimization to %v: no address of another node", remote)
	}
	least := ip.MinMTU6
	if c.N == 1 {
		if err := e.layerFault(&c.Layer[1]); err != nil {
			return err
		}
		if c.Layer[1].Remote.Addr().Is4() {
			least = minMTU4
		}
	}
	if c.MTU != 0 && int(c.MTU) < least {
		return fmt.Errorf("path MTU %d is below %d, the least of its family", c.MTU, least)
	}
	return nil
}

// pairFault says what is wrong with a key of route optimization, or nil.
func pairFault(a, b netip.Prefix) error {
	for _, p := range []netip.Prefix{a, b} {
		if !p.IsValid() || !p.IsSingleIP() || !ip.Routable(p.Addr()) {
			return fmt.Errorf("%v: a key of source and destination, route optimization, has one IPv6 address for each", p)
		}
	}
	return nil
}

func pairOf(m core.Match) pairKey { return pairKey{m.Domain, m.Src.Addr(), m.Dst.Addr()} }

// wayFault says why a chain cannot be the way between two addresses, or nil.
func (e *Engine) wayFault(c *core.Chain, k pairKey) error {
	local, remote := c.Layer[0].Local.Addr(), c.Layer[0].Remote.Addr()
	switch {
	case k.own == k.other || e.own(k.other):
		return fmt.Errorf("key %v to %v: its correspondent is this node", k.own, k.other)
	case local == k.own && remote == k.other:
		return fmt.Errorf("key %v to %v: its session's way is between the same two addresses, so neither end is away from home", k.own, k.other)
	case local != k.own && (c.N == 1 || e.cfg.Role == dataplane.Anchor):
		return fmt.Errorf("key %v to %v: its session's packets leave from %v", k.own, k.other, local)
	}
	return nil
}

// sends and takes are the directions of a key of route optimization: Up is away from the mobile node, which an anchor's peer is.
func (b *binding) sends(r dataplane.Role) bool {
	return r == dataplane.Anchor && b.down || r != dataplane.Anchor && b.up
}
func (b *binding) takes(r dataplane.Role) bool {
	return r == dataplane.Anchor && b.up || r != dataplane.Anchor && b.down
}

func (e *Engine) setPair(s *session, op core.SetKey) error {
	k := pairOf(op.Match)
	if err := e.wayFault(&s.chain, k); err != nil {
		return err
	}
	b := e.find(s, op.Match)
	if b == nil {
		p, _ := e.field(op.Match)
		b = &binding{s: s, match: op.Match, prefix: p, pair: k}
		n := e.tables.pairs[k]
		if n == nil {
			n = &entry{}
			e.tables.pairs[k] = n
			e.paired(k, 1)
		}
		n.bindings, s.bindings = append(n.bindings, b), append(s.bindings, b)
	}
	if op.Down {
		for _, other := range e.tables.pairs[k].bindings {
			other.down = false
		}
	}
	b.up, b.down = op.Up, op.Down
	return nil
}

func (e *Engine) dropPair(b *binding) {
	n := e.tables.pairs[b.pair]
	if n.bindings = remove(n.bindings, b); len(n.bindings) == 0 {
		delete(e.tables.pairs, b.pair)
		e.paired(b.pair, -1)
	}
	b.s.bindings = remove(b.s.bindings, b)
}

// paired notes that there is route optimization between two addresses now, or no more: only the engine knows where those packets go.
func (e *Engine) paired(k pairKey, n int) {
	e.pairs.Store(int32(len(e.tables.pairs)))
	if e.tables.owns[k.own] += n; e.tables.owns[k.own] == 0 {
		delete(e.tables.owns, k.own)
	}
	if e.cfg.Mirror != nil {
		e.cfg.Mirror.Pair(k.domain, k.own, k.other, n > 0)
	}
}

// pair finds the key that a packet between two addresses leaves by: of those that may, that of the newest session.
func (t *tables) pair(r dataplane.Role, k pairKey) (best *binding) {
	n := t.pairs[k]
	if n == nil {
		return nil
	}
	for _, b := range n.bindings {
		if b.sends(r) && (best == nil || b.s.id > best.s.id) {
			best = b
		}
	}
	return best
}

// straighten gives a session the way that its chain says; the one before is taken until then. The lock is held.
func (e *Engine) straighten(s *session, c *core.Chain, until time.Duration) {
	if c.RO == 0 && !s.optimized() {
		return
	}
	w := straightOf(c)
	if w == s.way {
		return
	}
	e.ends(s.before.at, -1)
	s.before, s.way, s.beforeUntil = s.way, w, until
	e.ends(w.at, 1)
	if s.beyond = nil; c.N == 1 && c.RO != 0 {
		s.beyond = &path{ends: tuple{netip.AddrPortFrom(w.local, 0), netip.AddrPortFrom(w.remote, 0)}}
	}
}

// unstraighten ends that. The lock is held.
func (e *Engine) unstraighten(s *session) {
	e.ends(s.before.at, -1)
	e.ends(s.way.at, -1)
	s.way, s.before = straight{}, straight{}
}

// ends counts the ways that end at an address.
func (e *Engine) ends(at netip.Addr, n int) {
	if !at.IsValid() {
		return
	}
	e.straights.Add(int32(n))
	if e.tables.straight[at] += n; e.tables.straight[at] == 0 {
		delete(e.tables.straight, at)
	}
}

// Optimized is how many ways there are on which packets of route optimization are taken without a tunnel. I/O needs sockets for these
// only while there are any.
func (e *Engine) Optimized() int { return int(e.straights.Load()) }

// OptimizedAt reports whether packets with a type 2 routing header, or at an anchor with a Home Address option, are taken at an address:
// a session has it, or had before it moved.
func (e *Engine) OptimizedAt(local netip.Addr) bool {
	e.mu.RLock()
	defer e.mu.RUnlock()
	return e.tables.straight[local] != 0
}

// HomeAddressAt reports whether packets with a Home Address option, and without a type 2 routing header, are this router's at an address.
func (e *Engine) HomeAddressAt(local netip.Addr) bool {
	if e.cfg.Correspondent && (e.own(local) || slices.Contains(e.cfg.Home, local)) {
		return true
	}
	e.mu.RLock()
	defer e.mu.RUnlock()
	return e.tables.owns[local] != 0
}

// HomeAddresses are the addresses for which HomeAddressAt holds.
func (e *Engine) HomeAddresses() (all []netip.Addr) {
	if e.cfg.Correspondent {
		for _, a := range slices.Concat(e.cfg.Local, e.cfg.Home) {
			if a.Is6() {
				all = append(all, a)
			}
		}
	}
	e.mu.RLock()
	for a := range e.tables.owns {
		all = append(all, a)
	}
	e.mu.RUnlock()
	slices.SortFunc(all, netip.Addr.Compare)
	return slices.Compact(all)
}
