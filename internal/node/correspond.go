package node

import (
	"slices"

	"kedge/internal/core"
	"kedge/internal/node/optimize"
)

// What the node does with the sub-machine of route optimization: it tells it where the node is, hands over what is its own, and shows
// its entries beside the home registration. Without route optimization there is none.

// newOptimizer makes it.
func (m *Machine) newOptimizer() (err error) {
	if m.cfg.Optimize.Off() && m.cfg.Peer == nil {
		return nil
	}
	m.opt, err = optimize.New(m.cfg.Optimize, m.rand, optimize.Hooks{
		Session: func() core.ID {
			m.sessions++
			return core.ID(m.restart)<<32 | core.ID(m.sessions)
		},
		Past: m.past,
	})
	if err == nil {
		err = m.newPeer()
	}
	return err
}

// optimizes gives the sub-machine an event, if there is one that takes it.
func (m *Machine) optimizes(ev core.Event) bool {
	if m.opt == nil || m.state == starting || m.state == stopped {
		return false
	}
	var ours bool
	switch ev := ev.(type) {
	case core.Message:
		ours = m.opt.Takes(&ev)
	case core.Reported:
		ours = m.opt.Wants(&ev)
	case core.Done:
		ours = optimize.Ours(ev.Ref)
	case core.Answer:
		ours = optimize.Ours(ev.Ref)
	case core.Tick:
		at, ok := m.opt.Deadline()
		ours = ok && at <= m.now.Boot
	}
	if ours {
		m.out = m.opt.Handle(m.now, ev, m.out)
	}
	return ours
}

// locate tells it where the node is.
func (m *Machine) locate() {
	if m.opt == nil || m.state == starting || m.state == stopped {
		return
	}
	if m.peer != nil && m.peerAt != m.hoa() {
		m.peerAt = m.hoa()
		m.out = m.peer.Only(m.now, m.peerAt, m.out)
	}
	m.out = m.opt.Locate(m.now, m.place(), m.out)
}

// place is where the node is: away while the home agent forwards to it by a tunnel that works, as far as is known.
func (m *Machine) place() optimize.Place {
	p := optimize.Place{Home: m.hoa(), Anchor: m.ha.v6, Name: m.ha.name}
	for _, c := range m.move.CareOfs() {
		if !c.Home && c.Addr.Is6() && !c.Suspect && !slices.Contains(p.Own, c.Addr) {
			p.Own = append(p.Own, c.Addr)
		}
	}
	for i := range m.race.attempts {
		a := &m.race.attempts[i]
		if c := &a.careOf; a.kind == register && a.tries > 0 && !m.race.refresh && c.Addr.Is6() && keyOf(c) != keyOf(&m.bind.careOf) {
			p.Next, p.NextIf = c.Addr, c.If
			break
		}
	}
	switch {
	case m.state == home:
		p.At, p.If = optimize.AtHome, m.homeIf
	case m.bound() && !m.path.dead && (m.state == active || m.state == updating):
		p.At, p.Until, p.Tunnel = optimize.Away, m.bind.expires, m.session.chain
		p.Tunnel.MTU = 0
		if c := &m.bind.careOf; c.Addr.Is6() {
			p.CareOf, p.If = c.Addr, c.If
		} else if !m.ha.guarded {
			// The home agent is reached by IPv4, which says nothing of the way to correspondents (RFC 5555 2.4). Where the home address is
			// tested in ESP it does: there is none in IPv4, and tests that nobody answers would only begin again and again.
			for _, c := range m.candidates() {
				if c.Addr.Is6() && !c.Suspect && !m.avoids(&c) {
					p.CareOf, p.If = c.Addr, c.If
					break
				}
			}
		}
		if p.CareOf.IsValid() {
			p.Until = min(p.Until, m.move.ValidUntil(p.If, p.CareOf))
		}
	}
	return p
}

// correspondents are the entries of the Binding Update List about them.
func (m *Machine) correspondents(filter string) []core.Binding {
	if m.opt == nil {
		return nil
	}
	return append(m.opt.Bindings(m.now, m.identity(), filter), m.mobiles(filter)...)
}

// optimizedStatus adds what there is to say of correspondents.
func (m *Machine) optimizedStatus(s *core.Status) {
	if m.opt == nil {
		return
	}
	for state, n := range m.opt.States() {
		s.Sessions["correspondent-"+state] += n
	}
	m.peerStatus(s)
	for r, n := range m.opt.Counters() {
		s.Counters[r] += n
	}
}
