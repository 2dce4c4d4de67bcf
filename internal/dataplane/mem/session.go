package mem

import (
	"errors"
	"fmt"
	"time"

	"kedge/internal/core"
	"kedge/internal/dataplane"
)

func (e *Engine) setSession(op core.SetSession, now time.Duration) error {
	if op.ID == 0 {
		return errors.New("session id 0 is no session")
	}
	if err := e.carries(op.Chain); err != nil {
		return err
	}
	access := hostKey{op.If, op.MAC}
	if e.cfg.Role != dataplane.Gateway && op.Mode != core.Bridged {
		access = hostKey{}
	} else if err := e.accessFault(&op, access); err != nil {
		return err
	}
	s, far := e.tables.sessions[op.ID], op.Chain.Layer[0].Remote.Addr()
	if s != nil && s.domain != op.Domain {
		return fmt.Errorf("session %d is in routing domain %d and cannot move to %d", op.ID, s.domain, op.Domain)
	}
	if s != nil && (s.optimized() != (op.Chain.RO != 0) || s.mode != op.Mode) && (len(s.bindings) != 0 || s.mode != op.Mode) {
		return fmt.Errorf("session %d cannot become another kind: drop it first", op.ID)
	}
	if s != nil && op.Chain.RO != 0 {
		for _, b := range s.bindings {
			if err := e.wayFault(&op.Chain, b.pair); err != nil {
				return fmt.Errorf("session %d: %w", op.ID, err)
			}
		}
	} else if s != nil {
		if b := e.tables.holding(s, far); b != nil {
			return fmt.Errorf("session %d: its home prefix %v holds its own tunnel's exit point %v", op.ID, b.prefix, far)
		}
	}
	w, err := e.waysOf(&op, s)
	if err != nil {
		return err
	}
	if s == nil {
		s = &session{id: op.ID, domain: op.Domain, access: access}
		if op.Mode == core.Bridged {
			e.bridges++
		}
		e.tables.sessions[op.ID] = s
	}
	e.enter(s, &w, now+op.Grace)
	e.straighten(s, &op.Chain, now+op.Grace)
	s.chain, s.grace, s.mode, s.stack = op.Chain, op.Grace, op.Mode, nil
	if c := tunnelled(op.Chain); special(&op.Chain) {
		s.stack = e.stackOf(&c, s.exit.path)
	}
	if s.stack != nil && !s.optimized() {
		answer := op.Chain
		s.tun.answer = &answer
	}
	if s.mode == core.Bridged {
		e.bridge(s, access)
	} else {
		s.tun.bridge = nil // of one that has moved on
	}
	if s.access != access {
		s.access = access
		for _, b := range s.bindings {
			e.place(b)
		}
	}
	e.mirrorSession(s)
	return nil
}

// accessFault says why a session cannot have its place on the native side: a host on an access link, or in bridged mode any place
// that is its own.
func (e *Engine) accessFault(op *core.SetSession, at hostKey) error {
	_, ok := e.links[op.If]
	switch {
	case op.Mode > core.Bridged:
		return fmt.Errorf("session %d: mode %d is unknown", op.ID, op.Mode)
	case op.Mode == core.Bridged && e.cfg.Role == dataplane.Node:
		return fmt.Errorf("session %d: a node has no link to bridge", op.ID)
	case op.Mode == core.Bridged && op.Chain.RO != 0:
		return fmt.Errorf("session %d: route optimization does not bridge", op.ID)
	case e.cfg.Role == dataplane.Anchor:
		if op.If <= 0 || op.MAC != (core.MAC{}) {
			return fmt.Errorf("session %d: a bridged session of an anchor has an inner link of its own, which has no MAC", op.ID)
		}
	case op.Mode == core.Routed && at == (hostKey{}):
		return nil // its keys say
	case !ok || op.MAC == (core.MAC{}):
		return fmt.Errorf("session %d: interface %d and MAC %v name no host on an access link", op.ID, op.If, op.MAC)
	}
	if h := e.tables.hosts[at]; h != nil && (h.bridge != nil && h.bridge.id != op.ID || h.bridge == nil && op.Mode == core.Bridged) {
		return fmt.Errorf("session %d: what is at interface %d, MAC %v is another session's", op.ID, op.If, op.MAC)
	}
	return nil
}

// ways are what one session holds: how its packets come, and how they leave.
type ways struct {
	tun, twin, exit *tunnel
	around          [2]*carrier
}

// waysOf holds the tunnels of a session as it is going to be. On an error nothing is held.
func (e *Engine) waysOf(op *core.SetSession, s *session) (w ways, err error) {
	var within [2]uint32
	if op.Chain.N == 2 {
		in, out := e.frames(&op.Chain.Layer[1], within)
		w.around = [2]*carrier{e.carry(in), e.carry(out)}
		within = [2]uint32{w.around[0].serial, w.around[1].serial}
	}
	in, out := e.frames(outermost(&op.Chain), within)
	if op.Chain.N == 2 {
		in, out = e.frames(&op.Chain.Layer[0], within)
	}
	if op.Chain.N == 0 {
		in.kind, out.kind = in.kind|without, out.kind|without
	}
	w.tun, w.exit = e.hold(in, op.Domain, w.around[0]), e.hold(out, op.Domain, w.around[1])
	if !special(&op.Chain) {
		w.twin = e.hold(frame{tuple: twinOf(&op.Chain.Layer[0])}, op.Domain, nil)
	}
	switch b := w.bridged(); {
	case w.tun == nil || w.exit == nil:
		d := op.Domain
		for _, f := range []*frame{&in, &out} {
			if t := e.tables.find(f); t != nil && t.domain != d {
				d = t.domain
			}
		}
		err = fmt.Errorf("session %d: the tunnel to %v carries routing domain %d: without another GRE key it cannot carry domain %d as well", op.ID, in.remote, d, op.Domain)
	case b != nil && b != s && b.tun == w.tun, op.Mode == core.Bridged && w.tun.shared(&w, s):
		err = fmt.Errorf("session %d: the tunnel from %v is another session's: a bridged one has its own, by address or GRE key", op.ID, in.remote)
	}
	if err != nil {
		e.leave(&w)
		return ways{}, err
	}
	return w, nil
}

// shared reports whether a session beside s, which may be new and is about to have w, uses t.
func (t *tunnel) shared(w *ways, s *session) bool {
	used := []*tunnel{w.tun, w.twin, w.exit}
	if s != nil {
		used = append(used, s.tun, s.twin, s.exit, s.prev[0], s.prev[1], s.prevExit)
	}
	n := 0
	for _, u := range used {
		if u == t {
			n++
		}
	}
	return t.refs > n && (t.bridge == nil || t.bridge.tun == t)
}

func (w *ways) bridged() *session {
	if w.tun == nil {
		return nil
	}
	return w.tun.bridge
}

// enter makes ways those of s; what it had before is let in until then.
func (e *Engine) enter(s *session, w *ways, until time.Duration) {
	old := ways{s.tun, s.twin, s.exit, s.around}
	if s.tun == w.tun && s.exit == w.exit {
		// The same tunnel, perhaps with another port for the other framing.
		e.leave(&old)
	} else {
		w.exit.senders++
		if s.tun != nil {
			s.exit.senders--
			if t := s.prev[0]; t != nil && t.bridge == s && t != w.tun {
				t.bridge = nil
			}
			e.leave(&ways{s.prev[0], s.prev[1], s.prevExit, s.prevAround})
			s.prev, s.prevExit, s.prevAround, s.until = [2]*tunnel{s.tun, s.twin}, s.exit, s.around, until
		}
	}
	s.tun, s.twin, s.exit, s.around = w.tun, w.twin, w.exit, w.around
}

// leave gives up one use of each.
func (e *Engine) leave(w *ways) {
	for _, t := range []*tunnel{w.tun, w.twin, w.exit} {
		e.release(t)
	}
	for _, c := range w.around {
		e.uncarry(c)
	}
}

// hold takes one use of a tunnel, which the first one makes. nil: the frame is none, or carries another routing domain.
func (e *Engine) hold(f frame, d core.Domain, c *carrier) *tunnel {
	if !f.remote.IsValid() {
		return nil
	}
	if f.plain() {
		f.kind = 0
	}
	t := e.tables.find(&f)
	if t == nil {
		t = &tunnel{frame: f, domain: d}
		if c != nil {
			t.path = c.path
			t.path.refs++
		} else {
			t.path = e.along(f.tuple)
			e.peer(&f, true)
		}
		if f.plain() {
			e.tables.tunnels[f.tuple] = t
		} else {
			e.tables.framed[f] = t
		}
	}
	if t.domain != d {
		return nil
	}
	t.refs++
	return t
}

// release gives up one use of a tunnel; the last one removes it (RFC 5213 5.6.1).
func (e *Engine) release(t *tunnel) {
	if t == nil {
		return
	}
	if t.refs--; t.refs != 0 {
		return
	}
	if t.plain() {
		delete(e.tables.tunnels, t.tuple)
	} else {
		delete(e.tables.framed, t.frame)
	}
	if t.within == 0 {
		e.peer(&t.frame, false)
	}
	e.part(t.path)
}

// carry takes one use of an outer layer of two.
func (e *Engine) carry(f frame) *carrier {
	c := e.tables.carriers[f]
	if c == nil {
		e.serial++
		c = &carrier{frame: f, path: e.along(f.tuple), serial: e.serial}
		e.tables.carriers[f] = c
		e.carriers.Store(int32(len(e.tables.carriers)))
		e.peer(&f, true)
	}
	c.refs++
	return c
}

func (e *Engine) uncarry(c *carrier) {
	if c == nil {
		return
	}
	if c.refs--; c.refs == 0 {
		delete(e.tables.carriers, c.frame)
		e.carriers.Store(int32(len(e.tables.carriers)))
		e.peer(&c.frame, false)
		e.part(c.path)
	}
}

// peer tells the mirror of ends that packets are taken from.
func (e *Engine) peer(f *frame, known bool) {
	if e.cfg.Mirror != nil && f.kind&leaving == 0 {
		e.cfg.Mirror.Peer(f.local, f.remote, f.kind&inGRE != 0, known)
	}
}

// along takes one use of a path, part gives it up.
func (e *Engine) along(t tuple) *path {
	p := e.tables.paths[t]
	if p == nil {
		p = &path{ends: t, secret: e.hash(t)}
		e.tables.paths[t] = p
	}
	p.refs++
	return p
}

func (e *Engine) part(p *path) {
	if p.refs--; p.refs == 0 {
		delete(e.tables.paths, p.ends)
		e.parted.Add(1)
		if e.cfg.Mirror != nil && p.slot != 0 {
			e.cfg.Mirror.DropTunnel(p.slot)
		}
	}
}

// Parted counts the ends that are forgotten because no session uses them any more: what SetPathMTU said of them is, too.
func (e *Engine) Parted() uint64 { return e.parted.Load() }
