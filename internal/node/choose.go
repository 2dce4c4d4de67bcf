package node

import (
	"cmp"
	"slices"
	"time"

	"kedge/internal/core"
	"kedge/internal/node/movement"
)

// candidates are the care-of addresses that could be registered, best first: those whose router answers, those that are not
// known to fail, the link that is asked for, the rank of the link, IPv6 before IPv4 (RFC 5555 4.4.1), and else as package
// movement orders them.
func (m *Machine) candidates() []movement.CareOf {
	var cs []movement.CareOf
	m.no4 = false
	for _, c := range m.move.CareOfs() {
		switch {
		case c.Home, m.inNetwork(c.Addr):
		case !m.ha.reachable(c.Addr):
			m.no4 = m.no4 || c.Addr.Is4() && m.ha.v6.IsValid()
		default:
			cs = append(cs, c)
		}
	}
	slices.SortStableFunc(cs, func(a, b movement.CareOf) int { return slices.Compare(m.rank(&a), m.rank(&b)) })
	return cs
}

// rank orders care-of addresses; less is better.
func (m *Machine) rank(c *movement.CareOf) []int {
	one := func(b bool) int {
		if b {
			return 1
		}
		return 0
	}
	return []int{one(c.Suspect), one(m.avoids(c)), one(m.preferred != "" && c.Link != m.preferred), one(c.Deprecated), c.Prefer, one(c.Addr.Is4())}
}

// gone says whether the home link is likely to have been left, though it is not known for sure: its router is silent, and
// another one answers. Who is at home for long stays so until it is known, unless that happened on the link itself.
func (m *Machine) gone(at *movement.CareOf, cs []movement.CareOf) bool {
	return at.Suspect && slices.ContainsFunc(cs, func(c movement.CareOf) bool { return !c.Suspect && (m.state != home || c.If == at.If) })
}

// avoids says whether a care-of address failed of late.
func (m *Machine) avoids(c *movement.CareOf) bool {
	_, yes := m.nets.avoided(c, m.now.Wall)
	return yes
}

// evaluate looks at where the node is and does what follows. It is called when care-of addresses changed, and when what was
// known of them did.
func (m *Machine) evaluate(why string) {
	switch m.state {
	case starting, stopping, stopped:
		return
	}
	cs := m.candidates()
	if at, ok := m.move.AtHome(); ok && !m.gone(&at, cs) {
		m.comeHome(at, why)
		return
	}
	m.leaveHome()
	m.without()
	moved := m.moved(cs)
	if moved {
		m.nets.hearing()
		cs = m.candidates() // what was avoided may not be any more
	}
	if len(cs) == 0 {
		m.detach(why)
		return
	}
	cur := slices.IndexFunc(cs, func(c movement.CareOf) bool { return m.bound() && keyOf(&c) == keyOf(&m.bind.careOf) })
	switch {
	case cur >= 0:
		if m.bind.careOf.MTU != cs[cur].MTU && m.path.search != (search{}) {
			m.path.search = search{next: m.now.Boot}
		}
		m.bind.careOf = cs[cur]
		m.forward()
		if m.state == active && elsewhere(&m.bind.at, &cs[cur]) {
			m.requested("the address is in another network") // echoes say whether the tunnel still works
		}
	case m.bound():
		m.path = path{dead: true} // nothing can be sent from there
	}
	switch {
	case m.barred:
		m.setState(refused, why)
		return
	case m.state == refused && !moved && m.retryAt != never: // not yet
	case m.state == detached || m.state == returning || m.state == home:
		if cur >= 0 { // else the tunnel begins where the node is not: what it does not carry says nothing of that network
			m.path.resume(m)
		}
		m.seek(cs, why)
	case cur < 0 || m.path.dead:
		if moved || !m.racing() || m.race.narrow || m.race.refresh {
			m.seek(cs, why)
		}
	default:
		m.improve(cs[:cur], moved, why)
	}
	m.recheck(cs, cur)
}

// moved says whether the set of care-of addresses, those whose routers answer, is another one than before. What is new in it
// is worth another try.
func (m *Machine) moved(cs []movement.CareOf) bool {
	keys := make([]key, 0, len(cs))
	for i := range cs {
		k := keyOf(&cs[i])
		if cs[i].Suspect {
			continue
		}
		if keys = append(keys, k); !slices.Contains(m.seen, k) {
			m.nets.back(&cs[i])
		}
	}
	slices.SortFunc(keys, func(a, b key) int { return cmp.Or(cmp.Compare(a.ifi, b.ifi), a.addr.Compare(b.addr)) })
	if slices.Equal(keys, m.seen) {
		return false
	}
	m.seen = keys
	return true
}

// seek registers whatever answers first: no tunnel works.
func (m *Machine) seek(cs []movement.CareOf, why string) {
	if m.bound() {
		m.setState(updating, why)
	} else {
		m.setState(registering, why)
	}
	if m.parting == nil { // else when that is over
		m.startRace(cs, register, false, false)
	}
}

// improve looks whether a better care-of address answers, while the bound one works.
func (m *Machine) improve(better []movement.CareOf, moved bool, why string) {
	better = slices.DeleteFunc(slices.Clone(better), func(c movement.CareOf) bool {
		return m.avoids(&c) || c.Suspect
	})
	switch {
	case len(better) == 0:
		switch {
		case m.racing() && m.race.refresh: // goes on
		case m.state == refused:
			m.requested(why)
		case !m.race.narrow && m.keepBound(): // what was begun without a tunnel: that there is one is no answer
		default:
			m.endRace()
			m.confirm(why)
		}
	case moved || !m.racing() || !m.race.narrow:
		m.setState(updating, why)
		m.startRace(better, register, true, false)
	}
}

// keepBound makes a refresh of a race whose Binding Update for the bound care-of address is not answered yet: the home agent
// may not have heard it, and of a binding that an earlier run left nobody knows yet when to refresh it.
func (m *Machine) keepBound() bool {
	i := slices.IndexFunc(m.race.attempts, func(a attempt) bool { return a.tries > 0 && keyOf(&a.careOf) == keyOf(&m.bind.careOf) })
	if i < 0 {
		return false
	}
	m.race = race{attempts: []attempt{m.race.attempts[i]}, begun: m.race.begun, refresh: true}
	return true
}

// recheck sets the time at which a care-of address that is avoided would be better than the bound one.
func (m *Machine) recheck(cs []movement.CareOf, cur int) {
	m.recheckAt = never
	if cur < 0 {
		return
	}
	for i := range cs {
		if until, avoid := m.nets.avoided(&cs[i], m.now.Wall); avoid && i != cur {
			m.recheckAt = min(m.recheckAt, m.now.Boot+max(until.Sub(m.now.Wall), time.Second))
		}
	}
}

// detach: there is no network. The tunnel stays as it is, for the time when the address comes back.
func (m *Machine) detach(why string) {
	if m.no4 && m.noted != "ipv4-only" {
		m.noted = "ipv4-only"
		m.emit(core.Emit{Name: "warning", Why: "ipv4-only", Fields: map[string]any{"peer": m.ha.name,
			"err": "there is IPv4 only, and the IPv4 address of the home agent is not configured"}})
	}
	m.endRace()
	m.path.stop()
	m.setState(detached, why)
}
