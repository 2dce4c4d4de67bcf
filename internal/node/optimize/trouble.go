package optimize

import (
	"net/netip"
	"slices"
	"time"

	"kedge/internal/core"
	"kedge/wire"
	"kedge/wire/mobility"
)

// Takes says whether a message is the machine's: one of return routability, or of a correspondent that there is an entry for.
func (m *Machine) Takes(ev *core.Message) bool {
	switch ev.Body.(type) {
	case *mobility.Test:
		return true
	case *mobility.BindingAck, *mobility.BindingError, *mobility.BindingRefreshRequest:
		return m.find(ev.Path.Remote.Addr()) != nil
	}
	return false
}

// message takes a message of a correspondent.
func (m *Machine) message(ev *core.Message) {
	p := &ev.Path
	e := m.find(p.Remote.Addr())
	if e == nil {
		m.ignored(p, wire.Unsolicited, "")
		return
	}
	switch b := ev.Body.(type) {
	case *mobility.Test:
		m.answered(e, p, b)
	case *mobility.BindingAck:
		m.acknowledged(e, p, b, ev.Raw)
	case *mobility.BindingError:
		m.bindingError(e, p, b)
	case *mobility.BindingRefreshRequest:
		m.refreshRequest(e, p)
	}
}

// minRefresh is the least time between registrations that Binding Refresh Requests and Binding Errors cause: nothing protects those.
const minRefresh = 5 * time.Second

// refreshRequest takes a Binding Refresh Request, 11.7.4: of who has a binding, and for as long as it is of use.
func (m *Machine) refreshRequest(e *entry, p *core.Path) {
	now := m.now.Boot
	switch {
	case !e.bind.ok() || p.Local.Addr() != m.place.Home && p.Own != m.place.Home:
		m.ignored(p, wire.Unsolicited, "Binding Refresh Request")
	case !e.wanted(now):
		m.ignored(p, wire.NotForUs, "Binding Refresh Request: no traffic")
	case now < e.bind.expires-e.bind.lifetime+minRefresh:
		m.ignored(p, wire.RateLimit, "Binding Refresh Request")
	default:
		e.bind.refreshAt = min(e.bind.refreshAt, now)
		m.drive(e)
	}
}

// bindingError takes a Binding Error, 11.3.6. Nothing protects it: it costs new tests, and what the correspondent may hold in spite
// of it is let in.
func (m *Machine) bindingError(e *entry, p *core.Path, be *mobility.BindingError) {
	now := m.now.Boot
	at := p.Local.Addr()
	ours := at == e.bind.careOf || e.upd.running && at == e.upd.target.careOf || e.tests[careTest].running && at == e.tests[careTest].addr || at == m.place.Home
	switch {
	case !ours:
		m.ignored(p, wire.WrongTunnel, "Binding Error")
	case !be.Home.IsUnspecified() && be.Home != m.place.Home:
		m.ignored(p, wire.UnknownHome, "Binding Error")
	case be.Status == mobility.UnknownBinding && e.bind.ok() && be.Home == m.place.Home:
		// Its binding is gone, and if it was restarted its nonces with it.
		if now >= e.errorAt+time.Minute {
			e.errors = 0
		}
		e.errorAt = now
		e.bind, e.upd, e.home, e.care, e.verify = binding{}, update{}, token{}, nil, false
		if e.errors++; e.errors > 1 {
			m.fail(e, wire.UnknownHome)
			e.hold = now + min(minRefresh<<min(e.errors-2, 10), holdMax)
		} else {
			m.count(wire.UnknownHome)
			m.past("correspondent "+e.peer.String()+" has no binding any more", string(wire.UnknownHome), "Binding Error")
		}
		m.drive(e)
	case be.Status == mobility.UnrecognizedMHType && e.waits():
		m.fail(e, wire.UnsupportedMessage)
		m.drive(e)
	default:
		m.ignored(p, wire.Unsolicited, "Binding Error")
	}
}

// waits says whether an answer of the correspondent is expected.
func (e *entry) waits() bool {
	return e.upd.running || e.tests[homeTest].running || e.tests[careTest].running
}

// Wants says whether a report is the machine's.
func (m *Machine) Wants(ev *core.Reported) bool {
	switch ev.Reason {
	case core.ReportCorrespondent:
		return true
	case core.ReportUnreachable, string(wire.TunnelError):
		return m.reportedOf(ev) != nil
	}
	return false
}

// reportedOf is the entry that a report is about.
func (m *Machine) reportedOf(ev *core.Reported) *entry {
	if !ev.Inner.Dst.IsValid() || !ev.Inner.Dst.IsSingleIP() {
		return nil
	}
	return m.find(ev.Inner.Dst.Addr())
}

// reported takes what the data plane saw.
func (m *Machine) reported(ev *core.Reported) {
	e := m.reportedOf(ev)
	switch {
	case ev.Reason == core.ReportCorrespondent && e != nil && ev.ID == e.id && e.told.up:
		m.doubt(e, true, "it sends to the home address") // and so may have lost its binding
	case ev.Reason == core.ReportCorrespondent:
		m.traffic(e, &ev.Inner)
	case e != nil && e.told.up && ev.Reason == core.ReportUnreachable:
		m.doubt(e, true, "a router says that it is unreachable")
	case e != nil && e.told.up && ev.Reason == string(wire.TunnelError):
		m.unknown(e)
	}
}

// unknown: a correspondent says that it does not know the option, though who answers tests must (11.3.5). Its host is up, and who
// answered the tests is not: it starts again soon, or does not. The binding is tried anew after seconds first, then ever less often.
func (m *Machine) unknown(e *entry) {
	now := m.now.Boot
	if e.bind.ok() && now >= e.bind.expires-e.bind.lifetime+time.Minute {
		e.strange = 0 // it knew it for a while
	}
	m.fail(e, wire.TunnelError)
	e.hold = now + min(minRefresh<<min(e.strange, 10), holdMax)
	e.strange++
	m.drive(e)
}

// traffic: data between the home address and another one goes through the home agent.
func (m *Machine) traffic(e *entry, pair *core.Match) {
	if !pair.Dst.IsValid() || !pair.Dst.IsSingleIP() || pair.Src != single(m.place.Home) {
		return
	}
	now, a := m.now.Boot, pair.Dst.Addr()
	if e != nil {
		e.used, e.leave = now, false
		m.drive(e)
		return
	}
	p := &m.place
	if p.At != Away || !p.CareOf.IsValid() || p.Until <= now || m.cfg.use(a) == Never || !m.reachable(a) {
		return
	}
	if !m.room() {
		m.count(wire.SessionLimit)
		return
	}
	if !m.entries.Take(now, entryLimit) {
		m.count(wire.RateLimit)
		return
	}
	m.drive(m.add(a))
}

// room makes room for one more entry, at the cost of the one that was of no use for the longest time: one without a binding at once,
// one with a binding that carries nothing after it is deleted.
func (m *Machine) room() bool {
	if len(m.list) < m.cfg.Limit {
		return true
	}
	now := m.now.Boot
	var free, idle *entry
	for _, e := range m.list {
		switch {
		case e.always || e.theirs.IsValid():
		case now >= e.lives && (free == nil || e.used < free.used):
			free = e
		case now < e.lives && !e.leave && !e.wanted(now) && (idle == nil || e.used < idle.used):
			idle = e
		}
	}
	// Of entries that are being tried, one that had its time goes.
	if free != nil && (now < free.hold || now >= free.used+5*time.Second) {
		m.remove(free, string(wire.SessionLimit))
		return true
	}
	if idle != nil {
		idle.leave = true
		m.drive(idle)
	}
	return len(m.list) < m.cfg.Limit
}

// watch asks for the counters of sessions when it is time.
func (m *Machine) watch() {
	now := m.now.Boot
	if m.watchAt == 0 || m.watchAt > now {
		return
	}
	m.watchAt, m.asked = 0, nil
	for _, e := range m.list {
		if e.told.exists {
			m.asked = append(m.asked, e.id)
		}
	}
	if len(m.asked) > 0 {
		m.watchAt = now + watchEvery
		m.out = append(m.out, core.Ask{Ref: refCount, Body: core.CountSessions(slices.Clone(m.asked))})
	}
}

// maxGap is the longest time between looks at a path that stays silent: that may be as it should.
const maxGap = 160 * time.Second

// counted takes the counters. A back end that has none leaves all entries in use.
func (m *Machine) counted(ev *core.Answer) {
	counters, _ := ev.Body.([]core.Counter)
	for i, id := range m.asked {
		j := slices.IndexFunc(m.list, func(e *entry) bool { return e.id == id })
		if j < 0 {
			continue
		}
		e := m.list[j]
		if ev.Err != nil || i >= len(counters) {
			e.used = m.now.Boot
			continue
		}
		m.carried(e, counters[i])
	}
	m.asked = nil
}

// carried compares counters with the last ones.
func (m *Machine) carried(e *entry, c core.Counter) {
	now := m.now.Boot
	was, known := e.counter, e.known
	e.counter, e.known = c, true
	if !known {
		was = core.Counter{}
	}
	if c == was {
		return
	}
	e.used = now
	switch {
	case c.PacketsIn != was.PacketsIn:
		e.gap = doubtEvery
	case e.told.up:
		m.doubt(e, false, "nothing comes back")
	}
	m.drive(e)
}

// doubt tests the direct path by a Binding Update. Signs can be forged, so no more follows from one than that data goes through the home
// agent for a round trip, where it is astray else; and ever less often while nothing comes of it.
func (m *Machine) doubt(e *entry, astray bool, why string) {
	now := m.now.Boot
	e.used = now
	if !e.doubtful(now, astray) || e.verify || !e.bind.ok() || e.bind.expires-e.bind.lifetime > now-InitialBindackTimeout {
		return
	}
	e.verify, e.astray = true, astray
	if astray {
		e.strayAt, e.strays = now, min(e.strays+1, maxStrays)
	} else {
		e.verifyAt, e.gap = now+e.gap, min(2*e.gap, maxGap)
	}
	m.past("path to "+e.peer.String()+" is tested", "", why)
	m.drive(e)
}

const (
	maxStrays   = 4                // signs that the correspondent does not use the direct path count after 1, 2, 4, 8 s then
	strayMemory = 30 * time.Second // without one
)

// doubtful says whether a sign is taken. One packet that went astray must not keep the next sign, which may be in earnest, from
// counting; many signs without consequence may be forged.
func (e *entry) doubtful(now time.Duration, astray bool) bool {
	switch {
	case !astray:
		return now >= e.verifyAt
	case now >= e.strayAt+strayMemory:
		e.strays = 0
	}
	return e.strays == 0 || now >= e.strayAt+time.Second<<(e.strays-1)
}

// again repeats at once what was not answered: the correspondent has just moved, so it did not hear it, and hears it now.
func (e *entry) again(now time.Duration) {
	for i := range e.tests {
		if t := &e.tests[i]; t.running && t.tries <= MaxFailure {
			t.next = now
		}
	}
	if e.upd.running && e.upd.tries <= MaxFailure {
		e.upd.next = now
	}
}

// Mobile tells that a correspondent is mobile itself, and has registered careOf with this node; invalid ends it. Packets to it carry
// a type 2 routing header then, through the tunnel to the own home agent where they do not go directly. How many there may be is
// the business of who registers them.
func (m *Machine) Mobile(now core.Now, peer, careOf netip.Addr, out []core.Effect) []core.Effect {
	m.begin(now, out)
	e := m.find(peer)
	if e == nil && careOf.IsValid() {
		e = m.add(peer)
		e.used -= Idle // whether it is told where this node is, traffic says
	}
	if e != nil {
		if careOf.IsValid() && careOf != e.theirs {
			e.again(now.Boot)
		}
		e.theirs = careOf
		m.drive(e)
	}
	return m.end()
}
