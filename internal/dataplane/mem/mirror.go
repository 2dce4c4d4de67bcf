package mem

import (
	"net/netip"
	"slices"
	"time"

	"kedge/internal/core"
	"kedge/internal/dataplane"
)

// Mirror holds what an engine knows for another way of forwarding, one that is faster and knows less. Its methods are called with
// the engine's lock held, in the order of the changes; PathMTU with the lock held for reading, by many at once. Slots are the
// mirror's own names for what it holds, 0 = nothing: it may refuse anything, for the engine forwards all by itself.
type Mirror interface {
	// Peer says that sessions begin or end to take packets from a tuple, directly or in the other framing.
	// gre: only in GRE, with which keys sessions say.
	Peer(local, remote netip.AddrPort, gre, known bool)
	Tunnel(local, remote netip.AddrPort, secret uint64) (slot uint32)
	// PathMTU says what the route carries, octets, 0 = unknown; and what ICMP errors said, for until then.
	PathMTU(tunnel uint32, route, learned int, until time.Duration)
	DropTunnel(slot uint32)
	Session(s MirrorSession) (slot uint32)
	DropSession(slot uint32)
	Key(d core.Domain, p netip.Prefix, k MirrorKey)
	// Pair says that packets from one of this router's addresses to another are the engine's, whatever keys say, because there is
	// route optimization between them; or no more.
	Pair(d core.Domain, own, other netip.Addr, known bool)
}

// MirrorSession is one session as it is from now on.
type MirrorSession struct {
	Slot               uint32 // what the mirror called it before, 0 = it is new
	ID                 core.ID
	Domain             core.Domain
	Tunnel, Previous   uint32 // slots
	Twin, PreviousTwin uint16 // port from which UDP over IPv4 is taken beside plain, 0 = none
	Until              time.Duration
	MTU                uint16
	If                 int
	MAC                core.MAC
	// Slow: the chain or mode is one that only the engine carries, and nothing else here says it. A mirror gives such a session no
	// slot unless it is in bridged mode; one that it had before was dropped by then.
	Slow bool
	// Bridged: the mode. All that comes from the host If, MAC (on an anchor: from the link If) goes into the tunnel, and all that comes
	// out of the tunnel goes there, untouched; there are no keys.
	Bridged bool
	// GRE: the packets of the one layer have a GRE header (RFC 2784), with a key (RFC 2890) where it is not 0: KeyOut in what is
	// sent, KeyIn in what is taken. Over IPv4 there is then no twin.
	GRE           bool
	KeyIn, KeyOut uint32
	// PreviousGRE and PreviousKeyIn are the same of what is taken from Previous.
	PreviousGRE   bool
	PreviousKeyIn uint32
}

// MirrorKey says which sessions a key leads to. Many: who may send from it is not said with one. Missing: one of its sessions has no
// slot. Silent: nobody may send from it, and Up is a session that has it.
type MirrorKey struct {
	Gone, Many, Missing, Silent bool
	Down, Up                    uint32 // slots, 0 = none
}

// simple: one layer, plain or of GRE, which mirrors may know.
func (t *tunnel) simple() bool {
	return t.within == 0 && t.kind&^(inGRE|keyed) == 0 && t.kind&without == 0
}

func (e *Engine) mirrorTunnel(t *tunnel) uint32 {
	if t == nil || !t.simple() {
		return 0
	}
	if t.slot == 0 {
		if t.slot = e.cfg.Mirror.Tunnel(t.local, t.remote, t.secret); t.slot != 0 {
			e.mirrorMTU(t.path)
		}
	}
	return t.slot
}

// mirrorMTU tells the path MTU of a tunnel.
func (e *Engine) mirrorMTU(t *path) {
	if e.cfg.Mirror == nil || t.slot == 0 {
		return
	}
	route, learned := int(t.base.Load()), t.learned.Load()
	if route == 0 {
		route = e.cfg.MTU
	}
	e.cfg.Mirror.PathMTU(t.slot, route, int(learned&0xffff), time.Duration(learned>>16)*time.Second)
}

func (e *Engine) mirrorSession(s *session) {
	if e.cfg.Mirror == nil {
		return
	}
	if s.optimized() { // which Pair says
		if s.slot != 0 {
			e.cfg.Mirror.DropSession(s.slot)
			s.slot = 0
		}
		return
	}
	twin := func(t, other *tunnel) uint16 {
		if t == nil || t.udp() || other == nil {
			return 0
		}
		return other.remote.Port()
	}
	m := MirrorSession{
		Slot: s.slot, ID: s.id, Domain: s.domain, Tunnel: e.mirrorTunnel(s.tun), Previous: e.mirrorTunnel(s.prev[0]),
		Twin: twin(s.tun, s.twin), PreviousTwin: twin(s.prev[0], s.prev[1]), Until: s.until, MTU: s.chain.MTU,
		If: s.access.ifi, MAC: s.access.mac,
	}
	if m.GRE = s.tun.kind&inGRE != 0; m.GRE {
		m.KeyIn, m.KeyOut = s.tun.key, s.exit.key
	}
	if p := s.prev[0]; p != nil && p.kind&inGRE != 0 {
		m.PreviousGRE, m.PreviousKeyIn = true, p.key
	}
	m.Bridged, m.Slow = s.mode == core.Bridged, !s.tun.simple()
	if m.Slow && !m.Bridged && m.Slot != 0 {
		e.cfg.Mirror.DropSession(m.Slot)
		m.Slot = 0
	}
	slot := e.cfg.Mirror.Session(m)
	if slot == s.slot {
		return
	}
	s.slot = slot
	for _, b := range s.bindings {
		e.mirrorKey(b.s.domain, b.prefix)
	}
}

// mirrorKey tells who a key leads to now.
func (e *Engine) mirrorKey(d core.Domain, p netip.Prefix) {
	if e.cfg.Mirror == nil {
		return
	}
	k := MirrorKey{Gone: true}
	if n := e.tables.keys[prefixKey{d, p}]; n != nil {
		k.Gone, k.Silent = false, true
		for _, b := range n.bindings {
			if b.down {
				k.Down = b.s.slot
			}
			if b.up {
				k.Many = k.Many || !k.Silent
				k.Up, k.Silent = b.s.slot, false
			} else if k.Silent {
				k.Up = b.s.slot
			}
			if e.cfg.Role == dataplane.Gateway && (len(n.bindings) > 1 || b.s.access == (hostKey{})) {
				k.Many = true
			}
			k.Missing = k.Missing || b.s.slot == 0
		}
	}
	e.cfg.Mirror.Key(d, p, k)
}

// PrefixLengths are those in use of a family, longest first.
func (e *Engine) PrefixLengths(is4 bool) []uint8 {
	e.mu.RLock()
	defer e.mu.RUnlock()
	l := &e.tables.lengths6
	if is4 {
		l = &e.tables.lengths4
	}
	return slices.Clone(l.bits[:l.n])
}

// MirrorSlots reads what the mirror calls sessions, 0 = unknown, for as many as both have room.
func (e *Engine) MirrorSlots(ids []core.ID, into []uint32) {
	e.mu.RLock()
	defer e.mu.RUnlock()
	for i := range min(len(ids), len(into)) {
		into[i] = 0
		if s := e.tables.sessions[ids[i]]; s != nil {
			into[i] = s.slot
		}
	}
}

// HasKey reports whether there is a key of exactly this prefix.
func (e *Engine) HasKey(d core.Domain, p netip.Prefix) bool {
	e.mu.RLock()
	defer e.mu.RUnlock()
	return e.tables.keys[prefixKey{d, p}] != nil
}
