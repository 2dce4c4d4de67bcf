package node

import (
	"net/netip"
	"slices"
	"time"

	"kedge/internal/core"
	"kedge/internal/node/movement"
	"kedge/wire"
	"kedge/wire/mobility"
)

// A home agent may ask to be left (RFC 5142): it is about to end, or has too much to do. The node deletes its binding there first,
// which is the acknowledgement, and because two home agents of a link cannot defend one home address; then it registers with the next.

// maxPartings is how many Binding Updates with lifetime zero a former home agent is sent. The next one is not kept waiting longer.
const maxPartings = 3

// parting is a binding at a former home agent that is being deleted.
type parting struct {
	agent   homeAgent
	careOf  movement.CareOf
	homes   []netip.Addr // whose bindings are still there
	seqs    []uint16     // of those that this round has told, in the same order
	next    time.Duration
	timeout time.Duration
	tries   int
	home    bool // we are at home, and keep the home agent: these are home addresses beside the preferred one
}

// switched takes a Home Agent Switch message. It is acted upon only if it came in ESP from the home agent, or from another one that
// we have an association with and that names itself alone (RFC 5142 5.1, 6.1).
func (m *Machine) switched(p *core.Path, s *mobility.HomeAgentSwitch) {
	from := p.Remote.Addr()
	peer, known := m.cfg.Anchor.peer(from)
	_, to := m.cameFor(p)
	_, ours := m.prefixes.Find(to)
	current := from == m.ha.v6
	switch {
	case !known || !ours:
		m.countQuietly(p, wire.UnknownPeer, "home agent switch")
		return
	case peer.Protection != protectionESP || p.Auth.Kind != protectionESP || p.Auth.Peer != peer.Name:
		m.countQuietly(p, wire.NotAuthorized, "home agent switch")
		return
	case m.parting != nil && !m.parting.home && m.parting.agent.v6 == from:
		m.hurry() // it repeats itself: it has not heard us
		return
	case !current && !(len(s.Addresses) == 1 && s.Addresses[0] == from):
		m.countQuietly(p, wire.NotAuthorized, "home agent switch of another home agent")
		return
	}
	switch m.state {
	case registering, active, updating, refused:
	default: // without a binding, or at home, there is nothing to leave
		m.countQuietly(p, wire.Unsolicited, "home agent switch")
		return
	}
	m.leave(s)
}

// leave begins to delete what the current home agent has, and goes over to the next one.
func (m *Machine) leave(s *mobility.HomeAgentSwitch) {
	m.past("home agent switch", "", m.ha.v6.String()+" wants to be left")
	old, at, bound := m.ha, m.bind.careOf, m.bound()
	homes := m.boundHomes()
	for _, x := range m.also {
		x.expires, x.timeout, x.next = 0, 0, m.now.Boot
	}
	other := m.agents.Switch(m.now.Boot, s.Addresses, m.home6.Masked())
	if !other {
		m.emit(core.Emit{Name: "warning", ID: m.session.id, Why: string(wire.NoAnswer), Fields: map[string]any{"peer": old.name,
			"err": "the home agent wants to be left, and no other one is known"}})
	}
	if bound {
		m.parting = &parting{agent: old, careOf: at, homes: homes, next: m.now.Boot}
	}
	switch {
	case other:
		m.follow("home agent switch")
	case m.agents.Searching(): // it is not to be used any more
		m.endRace()
		m.unbind()
		m.ha.v6, m.ha.v4 = netip.Addr{}, netip.Addr{}
		m.setState(registering, "home agent switch")
		m.configure()
	default: // it refuses in the end, as it must: until then it is better than none
		m.parting = nil
		return
	}
	m.partDue()
	m.evaluate("home agent switch")
}

// boundHomes are the home addresses that the home agent has bindings of, while it has that of the preferred one.
func (m *Machine) boundHomes() []netip.Addr {
	homes := []netip.Addr{m.hoa()}
	for _, x := range m.also {
		if x.bound(m.now.Boot) && x.agent == m.ha.v6 {
			homes = append(homes, x.home.Addr())
		}
	}
	return homes
}

// hurry repeats the farewell.
func (m *Machine) hurry() {
	if q := m.parting; q.next > m.now.Boot {
		q.next = max(m.now.Boot, m.rate.Free(m.now.Boot))
	}
}

// partDue sends the farewell to a former home agent as the rate allows, or ends the wait for its answer.
func (m *Machine) partDue() {
	q := m.parting
	if q == nil || q.next > m.now.Boot {
		return
	}
	if q.tries == 0 || len(q.seqs) == len(q.homes) {
		if q.tries == maxPartings {
			m.parted("no answer")
			return
		}
		t := &m.cfg.Timers
		if q.tries++; q.tries == 1 {
			q.timeout = t.RetransmitFirst
		} else {
			q.timeout = min(2*q.timeout, t.RetransmitMax)
		}
		q.seqs = q.seqs[:0]
	}
	now := m.ha
	m.ha = q.agent // whose address, keys and dialect the message has
	for _, home := range q.homes[len(q.seqs):] {
		if q.next = m.rate.Free(m.now.Boot); q.next > m.now.Boot {
			break
		}
		m.farewell(home)
	}
	m.ha = now
	if len(q.seqs) == len(q.homes) {
		q.next = m.now.Boot + q.timeout
	}
	m.persist()
}

// farewell deletes the binding of one home address there.
func (m *Machine) farewell(home netip.Addr) {
	q := m.parting
	m.rate.Spend(m.now.Boot)
	m.seq++
	s := sent{seq: m.seq, at: m.now.Boot, careOf: q.careOf, kind: farewell, home: home}
	path := m.signallingOf(home, &q.careOf)
	if q.home {
		s.kind = deregister
		path = m.fromHome(q.careOf.If)
		path.Local = addrPort(home)
	}
	q.seqs = append(q.seqs, s.seq)
	m.out = append(m.out, core.Send{Path: path, Body: m.update(&s)})
}

// partAcked takes the answer of a former home agent, whatever it says: there is no binding any more. It says whether it was one.
func (m *Machine) partAcked(p *core.Path, ba *mobility.BindingAck) bool {
	q := m.parting
	if q == nil || p.Remote.Addr() != q.agent.v6 {
		return false
	}
	if _, home := m.cameFor(p); q.home && !slices.Contains(q.homes, home) {
		return false // of the preferred one
	}
	if q.agent.protected() && (p.Auth.Kind != q.agent.protection || p.Auth.Peer != q.agent.name) {
		m.ignored(p, wire.NotAuthorized, "")
		return true
	}
	_, home := m.cameFor(p)
	i := slices.Index(q.homes, home)
	if ba.Status == mobility.SequenceOutOfWindow && i >= 0 {
		if !mobility.Newer(m.seq, ba.Sequence) {
			m.seq = ba.Sequence
		}
		m.hurry()
		return true
	}
	if i < 0 || i >= len(q.seqs) || q.seqs[i] != ba.Sequence {
		m.ignored(p, wire.SequenceMismatch, "")
		return true
	}
	q.homes, q.seqs = slices.Delete(q.homes, i, i+1), slices.Delete(q.seqs, i, i+1)
	if len(q.homes) == 0 {
		m.parted("acknowledged")
	}
	return true
}

// parted: the former home agent does not defend the home address any more, or cannot be asked.
func (m *Machine) parted(why string) {
	q := m.parting
	m.parting = nil
	if q.home {
		for _, x := range m.also {
			x.expires, x.timeout, x.next = 0, 0, m.now.Boot
		}
		if m.state == home {
			m.out = m.move.ClaimHome(m.now, m.homeIf, m.homePrefixes(), m.out)
		}
		return
	}
	m.past("left "+q.agent.v6.String(), "", why)
	m.livesUntil = 0
	m.seen = nil
	m.evaluate("the former home agent was left")
}

// partAtHome deletes the bindings of other home addresses than the preferred one, when the node comes home. They are used there when
// the home agent does not defend them any more.
func (m *Machine) partAtHome(at movement.CareOf) {
	q := &parting{agent: m.ha, careOf: at, home: true, next: m.now.Boot}
	for _, x := range m.also {
		if x.bound(m.now.Boot) {
			q.homes = append(q.homes, x.home.Addr())
		}
	}
	if len(q.homes) > 0 {
		m.parting = q
	}
}
