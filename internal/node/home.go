package node

import (
	"net/netip"
	"slices"

	"kedge/internal/core"
	"kedge/internal/node/movement"
	"kedge/wire"
	"kedge/wire/mobility"
)

// Returning home, RFC 6275 11.5.5. The home address stays on the tunnel's device all the time. On the home link it is used
// and defended when the home agent has acknowledged that it does not do so any more. IPv4 alone cannot bring a node home
// (RFC 5555 4.4.4): a static IPv4 home address comes with the IPv6 one.

// comeHome: the home link is there.
func (m *Machine) comeHome(at movement.CareOf, why string) {
	if (m.state == returning || m.state == home) && m.homeIf == at.If {
		m.homeAt = at
		return
	}
	m.leaveHome()
	m.homeIf, m.homeAt, m.seen = at.If, at, nil
	m.endRace()
	m.setState(returning, why)
	// The route is there before the Binding Update leaves by it: the home address is still that of the tunnel's device.
	m.configure()
	m.out = m.move.ExpectHome(m.now, at.If, m.homePrefixes(), m.out)
	if !m.ha.v6.IsValid() {
		m.claim("no home agent is known")
		return
	}
	m.startRace([]movement.CareOf{at}, deregister, false, false)
	if q := m.parting; q != nil && !q.home { // it defends the home address still, and is told from here now
		q.home, q.careOf, q.tries, q.seqs, q.next = true, at, 0, nil, m.now.Boot
		return
	}
	m.partAtHome(at)
}

// homePrefixes are the addresses that the node has on the home link.
func (m *Machine) homePrefixes() []netip.Prefix {
	ps := []netip.Prefix{m.home6}
	for _, x := range m.also {
		if m.parting == nil || !m.parting.home || !slices.Contains(m.parting.homes, x.home.Addr()) {
			ps = append(ps, x.home)
		}
	}
	if m.cfg.Home.IPv4 == IPv4Static {
		ps = append(ps, m.cfg.Home.V4)
	}
	return ps
}

// withoutAnswer ends the wait for an acknowledgement where the home agent cannot have a binding: nobody defends the address.
func (m *Machine) withoutAnswer() bool {
	if m.state != returning || !m.racing() || m.race.attempts[0].tries <= maxTries || m.now.Boot < m.livesUntil {
		return false
	}
	m.past("nothing to deregister", string(wire.NoAnswer), "no binding can be left")
	m.claim("no binding left")
	return true
}

// deregistered takes the acknowledgement of a Binding Update with lifetime zero.
func (m *Machine) deregistered(s *sent, ba *mobility.BindingAck) {
	if !ba.Status.Accepted() && ba.Status != mobility.NotHomeAgent {
		if m.retypedNot(s, ba) {
			return
		}
		m.refusal(wire.RefusedByAnchor, ba.Status, "deregistration")
		if m.race.attempts = m.race.attempts[:min(len(m.race.attempts), 1)]; m.racing() && m.state != stopping {
			return // tried again with its back-off
		}
	}
	switch {
	case m.retypedDone(s):
	case m.state == returning && s.kind == deregister:
		m.claim("deregistered")
	case m.state == stopping:
		m.finish("deregistered")
	}
}

// claim takes the home addresses to the home link.
func (m *Machine) claim(why string) {
	m.endRace()
	took := m.now.Boot - m.stateAt
	m.sent = m.sent[:0]
	m.livesUntil = 0
	m.unbind()
	m.routerAgain()
	m.out = m.move.ClaimHome(m.now, m.homeIf, m.homePrefixes(), m.out)
	m.setState(home, why)
	m.emit(core.Emit{Name: "handover", Why: "home", Fields: map[string]any{"phase": "registration", "if": m.homeAt.Link, "hoa": m.hoa().String(),
		"took_ms": float64(took) / 1e6}})
	m.configure()
}

// leaveHome: the home link is gone, or another one has taken its place.
func (m *Machine) leaveHome() {
	if m.homeIf == 0 {
		return
	}
	m.homeIf, m.homeAt = 0, movement.CareOf{}
	if m.parting != nil && m.parting.home {
		m.parting = nil
	}
	m.endRace()
	m.seen = nil
	m.path.resume(m)
	m.configure()
	m.out = m.move.ReleaseHome(m.now, m.out)
}

// stop ends everything: the registration first, then what is set on the host.
func (m *Machine) stop(ref core.Ref) {
	m.stopRefs = append(m.stopRefs, ref)
	switch {
	case m.state == stopping:
		return
	case m.state == stopped:
		m.answerStop()
		return
	}
	m.parting = nil
	if m.opt != nil {
		m.out = m.opt.Stop(m.now, m.opt.Farewell(m.now, m.out))
	}
	m.bidFarewell()
	cs := m.candidates()
	away := m.bound() || m.now.Boot < m.livesUntil
	m.endRace()
	switch {
	case m.state == returning:
		m.setState(stopping, "stop")
		m.startRace([]movement.CareOf{m.homeAt}, deregister, true, false)
	case away && len(cs) > 0:
		m.setState(stopping, "stop")
		if i := m.bestFor(cs); i > 0 {
			cs[0], cs[i] = cs[i], cs[0]
		}
		m.startRace(cs, farewell, true, false)
	default:
		m.finish("stop")
	}
}

// bestFor finds the bound care-of address.
func (m *Machine) bestFor(cs []movement.CareOf) int {
	for i := range cs {
		if m.bound() && keyOf(&cs[i]) == keyOf(&m.bind.careOf) {
			return i
		}
	}
	return 0
}

// finish removes what the node has set on the host. Without an answer to the farewell, the binding lives until it expires.
func (m *Machine) finish(why string) {
	m.endRace()
	if m.opt != nil {
		m.out = m.opt.Stop(m.now, m.out)
	}
	m.unbind()
	m.unconfigure()
	m.out = m.move.Close(m.now, m.out)
	m.setState(stopped, why)
	m.persist()
	m.answerStop()
}

func (m *Machine) answerStop() {
	for _, ref := range m.stopRefs {
		m.out = append(m.out, core.Reply{Ref: ref})
	}
	m.stopRefs = nil
}
