package mem

import (
	"errors"
	"fmt"
	"iter"
	"net/netip"
	"slices"
	"time"

	"kedge/internal/core"
	"kedge/internal/dataplane"
)

// batch is how many ops are applied before packets get a turn.
const batch = 256

// Update applies ops in order. What this back end cannot carry is refused with a *core.OpError; nothing after it is applied.
// Repeating an op changes nothing. A key is named by its match and session: a SetKey with Down takes the downward direction from
// any other session's key of the same prefix. Drop of what is not there is no error.
func (e *Engine) Update(ops []core.Op) error {
	now := e.cfg.Now()
	for at := 0; at < len(ops); at += batch {
		part := ops[at:min(at+batch, len(ops))]
		e.mu.Lock()
		e.fetch(part)
		for i, op := range part {
			if err := e.apply(op, now); err != nil {
				e.changed()
				e.mu.Unlock()
				return &core.OpError{Index: at + i, Err: err}
			}
		}
		e.changed()
		e.mu.Unlock()
	}
	return nil
}

type keyName struct {
	id    core.ID
	match core.Match
}

// Sync makes the state what all says: equal things stay as they are with their counters and grace, others change, and only then
// what was not named goes. On an error nothing is removed.
func (e *Engine) Sync(all iter.Seq[core.Op]) error {
	sessions, keys := map[core.ID]bool{}, map[keyName]bool{}
	ops := make([]core.Op, 0, batch)
	done := 0
	flush := func() error {
		err := e.Update(ops)
		var at *core.OpError
		if errors.As(err, &at) {
			at.Index += done
		}
		done, ops = done+len(ops), ops[:0]
		return err
	}
	for op := range all {
		switch op := op.(type) {
		case core.SetSession:
			sessions[op.ID] = true
		case core.SetKey:
			keys[keyName{op.ID, op.Match}] = true
		case core.Drop:
			return &core.OpError{Index: done + len(ops), Err: errors.New("Sync names what there is: a Drop has no place in it")}
		}
		if ops = append(ops, op); len(ops) == batch {
			if err := flush(); err != nil {
				return err
			}
		}
	}
	if err := flush(); err != nil {
		return err
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	defer e.changed()
	for id, s := range e.tables.sessions {
		if !sessions[id] {
			e.dropSession(s)
			continue
		}
		for _, b := range slices.Clone(s.bindings) {
			if !keys[keyName{id, b.match}] {
				e.dropBinding(b)
			}
		}
	}
	return nil
}

// Ops calls yield with the ops that would make the state what it is: for tests and for people who ask.
func (e *Engine) Ops() []core.Op {
	e.mu.RLock()
	defer e.mu.RUnlock()
	var out []core.Op
	for _, s := range e.tables.sessions {
		out = append(out, core.SetSession{ID: s.id, Domain: s.domain, Chain: s.chain, Mode: s.mode, If: s.access.ifi, MAC: s.access.mac, Grace: s.grace})
		for _, b := range s.bindings {
			out = append(out, core.SetKey{Match: b.match, ID: s.id, Up: b.up, Down: b.down})
		}
	}
	return out
}

// Counters reads the counters of sessions; an unknown one has zeros.
func (e *Engine) Counters(ids []core.ID, into []core.Counter) error {
	if len(into) < len(ids) {
		return fmt.Errorf("data plane: room for %d counters of %d sessions", len(into), len(ids))
	}
	e.mu.RLock()
	defer e.mu.RUnlock()
	for i, id := range ids {
		into[i] = core.Counter{}
		if s := e.tables.sessions[id]; s != nil {
			into[i] = core.Counter{PacketsIn: s.count.pIn.Load(), OctetsIn: s.count.oIn.Load(), PacketsOut: s.count.pOut.Load(), OctetsOut: s.count.oOut.Load()}
		}
	}
	return nil
}

func (e *Engine) apply(op core.Op, now time.Duration) error {
	switch op := op.(type) {
	case core.SetSession:
		return e.setSession(op, now)
	case core.SetKey:
		return e.setKey(op)
	case core.Drop:
		if op.ID == 0 {
			return e.dropKey(op.Match)
		}
		if s := e.tables.sessions[op.ID]; s != nil {
			e.dropSession(s)
		}
		return nil
	}
	return fmt.Errorf("data plane: %T is no op", op)
}

// field is the prefix of a match that this role looks up.
func (e *Engine) field(m core.Match) (netip.Prefix, error) {
	p, other := m.Dst, m.Src
	if e.cfg.Role != dataplane.Anchor {
		p, other = m.Src, m.Dst
	}
	switch {
	case other.IsValid():
		return p, pairFault(p, other)
	case !p.IsValid():
		return p, errors.New("the key names no prefix: an anchor's key is a destination, a gateway's or node's a source")
	case p != p.Masked() || p.Addr().Is4In6():
		return p, fmt.Errorf("%v is no prefix: want %v", p, p.Masked())
	case p.Bits() == 0 || p.Addr().IsMulticast() || p.Addr().IsLinkLocalUnicast() || p.Addr().IsLoopback():
		return p, fmt.Errorf("%v is no home prefix", p)
	}
	return p, nil
}

func (e *Engine) setKey(op core.SetKey) error {
	p, err := e.field(op.Match)
	if err != nil {
		return err
	}
	s := e.tables.sessions[op.ID]
	if s == nil {
		return fmt.Errorf("key %v: session %d is unknown", p, op.ID)
	}
	if s.domain != op.Match.Domain {
		return fmt.Errorf("key %v is in routing domain %d, its session %d in %d", p, op.Match.Domain, op.ID, s.domain)
	}
	if pair := op.Match.Dst.IsValid() && op.Match.Src.IsValid(); pair != s.optimized() {
		return fmt.Errorf("key %v: route optimization, and nothing else, has keys of source and destination", p)
	}
	if s.mode == core.Bridged && e.cfg.Role == dataplane.Gateway {
		return fmt.Errorf("key %v: session %d is bridged: all that is on its link is its own", p, op.ID)
	}
	if !s.optimized() && p.Contains(s.tun.remote.Addr()) {
		return fmt.Errorf("key %v holds the exit point %v of its own tunnel", p, s.tun.remote.Addr())
	}
	if e.cfg.Role == dataplane.Gateway && s.access == (hostKey{}) {
		if _, ok := e.links[op.Match.If]; !ok || op.Match.MAC == (core.MAC{}) {
			return fmt.Errorf("key %v: neither it nor session %d names a host on an access link", p, op.ID)
		}
	}
	if at := (hostKey{op.Match.If, op.Match.MAC}); e.tables.hosts[at] != nil && e.tables.hosts[at].bridge != nil && s.access == (hostKey{}) {
		return fmt.Errorf("key %v: its host is bridged", p)
	}
	if s.optimized() {
		return e.setPair(s, op)
	}
	b := e.find(s, op.Match)
	if b == nil {
		l := e.tables.lengthsOf(p.Addr())
		if !l.add(p.Bits()) {
			return fmt.Errorf("key %v: keys of %d other lengths are in use, the most there may be", p, maxLengths)
		}
		b = &binding{s: s, match: op.Match, prefix: p}
		k := prefixKey{s.domain, p}
		n := e.tables.keys[k]
		if n == nil {
			n = &entry{}
			e.tables.keys[k] = n
		}
		n.bindings = append(n.bindings, b)
		s.bindings = append(s.bindings, b)
		e.place(b)
	}
	if op.Down {
		for _, other := range e.tables.keys[prefixKey{s.domain, p}].bindings {
			other.down = false
		}
	}
	b.up, b.down = op.Up, op.Down
	e.mirrorKey(s.domain, p)
	return nil
}

func (e *Engine) find(s *session, m core.Match) *binding {
	for _, b := range s.bindings {
		if b.match == m {
			return b
		}
	}
	return nil
}

// place indexes a gateway's binding by the host it is for: the session's, which one SetSession moves with all its keys, or
// the key's own.
func (e *Engine) place(b *binding) {
	at := b.s.access
	if at == (hostKey{}) {
		at = hostKey{b.match.If, b.match.MAC}
	}
	if e.cfg.Role != dataplane.Gateway || at == b.at {
		return
	}
	e.unplace(b)
	h := e.tables.hosts[at]
	if h == nil {
		h = &host{}
		e.tables.hosts[at] = h
	}
	h.bindings = append(h.bindings, b)
	b.at = at
}

func (e *Engine) unplace(b *binding) {
	h := e.tables.hosts[b.at]
	if h == nil {
		return
	}
	if h.bindings = remove(h.bindings, b); len(h.bindings) == 0 && h.bridge == nil {
		delete(e.tables.hosts, b.at)
	}
	b.at = hostKey{}
}

func remove(all []*binding, b *binding) []*binding {
	i := slices.Index(all, b)
	if i < 0 {
		return all
	}
	return slices.Delete(all, i, i+1)
}

func (e *Engine) dropBinding(b *binding) {
	if b.pair != (pairKey{}) {
		e.dropPair(b)
		return
	}
	k := prefixKey{b.s.domain, b.prefix}
	n := e.tables.keys[k]
	if n.bindings = remove(n.bindings, b); len(n.bindings) == 0 {
		delete(e.tables.keys, k)
	}
	e.tables.lengthsOf(b.prefix.Addr()).del(b.prefix.Bits())
	b.s.bindings = remove(b.s.bindings, b)
	e.unplace(b)
	e.mirrorKey(b.s.domain, b.prefix)
}

func (e *Engine) dropKey(m core.Match) error {
	p, err := e.field(m)
	if err != nil {
		return err
	}
	n := e.tables.keys[prefixKey{m.Domain, p}]
	if m.Dst.IsValid() && m.Src.IsValid() {
		n = e.tables.pairs[pairOf(m)]
	}
	if n == nil {
		return nil
	}
	for _, b := range slices.Clone(n.bindings) {
		if b.match == m {
			e.dropBinding(b)
		}
	}
	return nil
}

func (e *Engine) dropSession(s *session) {
	for _, b := range slices.Clone(s.bindings) {
		e.dropBinding(b)
	}
	delete(e.tables.sessions, s.id)
	e.unstraighten(s)
	if e.cfg.Mirror != nil && s.slot != 0 {
		e.cfg.Mirror.DropSession(s.slot)
	}
	if s.mode == core.Bridged {
		e.bridges--
		delete(e.tables.hosts, s.access)
	}
	for _, t := range []*tunnel{s.tun, s.prev[0]} {
		if t != nil && t.bridge == s {
			t.bridge = nil
		}
	}
	s.exit.senders--
	e.leave(&ways{s.tun, s.twin, s.exit, s.around})
	e.leave(&ways{s.prev[0], s.prev[1], s.prevExit, s.prevAround})
}
