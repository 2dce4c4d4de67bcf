package gateway

import (
	"net/netip"
	"slices"

	"kedge/internal/access"
	"kedge/internal/core"
	"kedge/wire"
)

// present notes that a host is there.
func (m *Machine) present(e *entry) {
	e.heard, e.probes = m.now.Boot, 0
	if a := e.link.home.LinkLocal(e.mac); a != e.linkLocal && a.IsValid() {
		e.linkLocal = a
		m.touch(e)
	}
	if e.checking {
		e.checking = false
		m.extend(e)
	}
	if e.revoking != nil {
		m.here(e)
	}
}

// probe runs when a host was silent for too long, or before its binding is extended (RFC 5213 6.13). Neighbour
// unreachability detection alone decides: a host that is only idle answers.
func (m *Machine) probe(e *entry) {
	t := &m.cfg.Timers
	if silent := m.now.Boot - e.heard; silent < t.NUDReachable && !e.checking {
		m.arm(e, tProbe, e.heard+t.NUDReachable)
		return
	}
	if e.link.down || e.state == deregistering {
		m.arm(e, tProbe, m.now.Boot+t.NUDReachable)
		return
	}
	if e.probes >= t.NUDProbes {
		m.detach(e, "nud")
		return
	}
	acts := e.link.home.Probe(m.now, e.mac, nil)
	asked := slices.ContainsFunc(acts, func(a access.Action) bool { _, ok := a.(access.Transmit); return ok })
	m.carryOut(e.link, acts)
	if !asked {
		// The host has shown no address that could be asked: its link tells whether it is there.
		m.arm(e, tProbe, m.now.Boot+t.NUDReachable)
		if e.checking {
			e.checking = false
			m.extend(e)
		}
		return
	}
	e.probes++
	m.arm(e, tProbe, m.now.Boot+t.NUDRetransmit)
}

// refresh begins the extension of a binding: first the host must be seen to be there, or this gateway would take the
// binding back from the one where the host went silently (RFC 5213 6.13).
func (m *Machine) refresh(e *entry) {
	if !e.state.bound() || e.req != nil && e.req.partial {
		return // afterPartial comes back to it
	}
	if e.revoking != nil {
		// Whether the host is here is being asked. An extension now would take the session back from where it went.
		m.arm(e, tRefresh, m.now.Boot+RevokeProbe)
		return
	}
	if !e.lost && !e.link.down && e.link.detach["nud"] && m.now.Boot-e.heard >= m.cfg.Timers.NUDRetransmit {
		e.checking, e.probes = true, 0
		m.probe(e)
		return
	}
	m.extend(e)
}

func (m *Machine) extend(e *entry) {
	switch {
	case !e.state.bound():
	case e.link.down:
		m.arm(e, tRefresh, m.now.Boot+m.cfg.Timers.NUDRetransmit)
	default:
		m.register(e, "refresh")
	}
}

// expire ends a binding that could not be extended (RFC 5844 3.2.3.3) and begins anew while the host is there.
func (m *Machine) expire(e *entry) {
	if !e.state.bound() {
		return
	}
	m.count(wire.NoAnswer)
	m.endRequest(e)
	m.withdraw(e)
	m.setState(e, registering, "binding expired")
	e.handoff = m.cfg.FirstHandoff
	if e.differs {
		m.askAnew(e)
		return
	}
	m.register(e, "binding expired")
}

// idled forgets a host that has no session and was silent.
func (m *Machine) idled(e *entry) {
	hold := m.cfg.Timers.IdleHold
	switch {
	case e.state != idle && e.state != refused:
		m.arm(e, tIdle, m.now.Boot+hold)
	case m.now.Boot-e.heard < hold:
		m.arm(e, tIdle, e.heard+hold)
	default:
		m.forget(e, "idle")
	}
}

// forget drops an entry whose host has no session.
func (m *Machine) forget(e *entry, why string) {
	m.unforward(e)
	m.carryOut(e.link, e.link.home.Forget(m.now, e.mac, nil))
	m.drop(e, why)
}

// detach ends the session of a host that left: RFC 5213 6.9.1.4, RFC 5844 3.2.3.3.
func (m *Machine) detach(e *entry, why string) {
	if e.state == deregistering {
		return
	}
	m.past(e.mn, "detached", "", why)
	asked := e.req != nil && e.req.lifetime > 0 || e.state.bound()
	m.disarm(e, tRefresh, tExpire, tRetry, tProbe, tIdle)
	e.checking = false
	families := e.has()
	if e.req != nil {
		families |= e.req.families
	}
	m.endRequest(e)
	if !asked {
		m.forget(e, why)
		return
	}
	m.setState(e, deregistering, why)
	m.request(e, families, 0, false)
}

// finish removes what is left of a host after its deregistration was answered, or was not for INITIAL_BINDACK_TIMEOUT.
func (m *Machine) finish(e *entry, why string) {
	// The host may still be there (an administrator detached it): it must not go on using the prefixes.
	m.carryOut(e.link, e.link.home.Grant(m.now, e.mac, access.Grant{}, nil))
	m.forget(e, why)
}

// renewed: the host renewed its DHCP lease; a PBU follows, whether its address changed or not (document 001, 3.2.2).
func (m *Machine) renewed(l *link, mac core.MAC) {
	e := m.hosts[mac]
	if e == nil || e.link != l {
		m.count(wire.UnknownHost)
		return
	}
	m.present(e)
	if e.state == active {
		m.register(e, "dhcp renewal")
	}
}

// released: the host gave its IPv4 address back. IPv6 stays (RFC 5844 3.4.3).
func (m *Machine) released(l *link, mac core.MAC, why string) {
	e := m.hosts[mac]
	if e == nil || e.link != l || !e.state.bound() || !e.ipv4.IsValid() {
		m.count(wire.NotAttached)
		return
	}
	m.present(e)
	m.past(e.mn, "gave IPv4 back", "", why)
	e.left = true
	e.wants &^= access.V4
	m.endRequest(e)
	only4 := len(e.prefixes) == 0
	m.request(e, access.V4, 0, true)
	e.ipv4, e.router4 = netip.Prefix{}, netip.Addr{}
	m.forward(e)
	m.grant(e)
	if only4 {
		m.disarm(e, tRefresh, tExpire)
		m.setState(e, idle, why)
	}
}

// hostChanged follows the state of access links.
func (m *Machine) hostChanged(ev *core.HostChanged) {
	if ev.Op.Kind != "link" {
		return
	}
	l := m.linkAt(ev.Op.If)
	if l == nil {
		l = m.linkNamed(ev.Op.Name)
	}
	if l == nil {
		return
	}
	down := ev.Gone || !ev.Up
	switch {
	case down == l.down:
	case down:
		l.down = true
		if l.detach["link"] {
			l.downAt = m.now.Boot
		}
	default:
		l.down, l.downAt = false, never
		m.recheck(l)
	}
}

// recheck probes the hosts of a link that came back: some may have gone meanwhile. They are spread over one interval.
func (m *Machine) recheck(l *link) {
	if !l.detach["nud"] {
		return
	}
	for _, e := range m.ordered() {
		if e.link == l && e.state != deregistering {
			e.heard = m.now.Boot - m.cfg.Timers.NUDReachable
			e.probes = 0
			m.arm(e, tProbe, m.now.Boot+m.spread(m.cfg.Timers.NUDRetransmit))
		}
	}
}

// linkLost detaches every host of a link that stayed down.
func (m *Machine) linkLost(l *link) {
	l.downAt = never
	for _, e := range m.ordered() {
		if e.link == l {
			m.detach(e, "link")
		}
	}
}

// ordered lists the entries by age: what is done to all of them can be repeated.
func (m *Machine) ordered() []*entry {
	es := make([]*entry, 0, len(m.hosts))
	for _, e := range m.hosts {
		es = append(es, e)
	}
	slices.SortFunc(es, func(a, b *entry) int {
		if a.id < b.id {
			return -1
		}
		return 1
	})
	return es
}
