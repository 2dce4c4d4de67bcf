package peer

import (
	"cmp"
	"net/netip"
	"slices"
	"time"

	"kedge/internal/core"
	"kedge/wire/mobility"
)

// Stages of an entry. At half of its lifetime a binding is looked at, and again at three quarters: if it carried packets to the mobile
// node in between, the node is asked to renew it (RFC 6275 9.5.5), three times at most.
const (
	looking uint8 = iota
	lookingAgain
	askingAgain
	askingLast
	ending
)

// refreshRetry is the least time between Binding Refresh Requests; it doubles.
const refreshRetry = 2 * time.Second

// schedule begins a lifetime.
func (m *Machine) schedule(e *entry) {
	e.stage, e.at = looking, e.expires-e.lifetime/2
	m.cache.due.Set(e)
}

// advance does what is due for an entry.
func (m *Machine) advance(e *entry) {
	if !e.live() {
		m.cache.remove(e)
		return
	}
	if e.expires <= m.now.Boot {
		m.unbind(e, "expired")
		return
	}
	switch e.stage {
	case looking:
		e.stage, e.at = lookingAgain, e.expires-e.lifetime/4
		m.look(e)
	case lookingAgain:
		e.stage, e.at = ending, e.expires
		m.look(e) // the answer goes on
	case askingAgain:
		e.stage, e.at = askingLast, e.at+2*refreshRetry
		m.ask(e)
	default:
		if e.stage == askingLast {
			m.ask(e)
		}
		e.stage, e.at = ending, e.expires
	}
	e.at = min(max(e.at, m.now.Boot+1), e.expires)
	m.cache.due.Set(e)
}

// look asks how many packets a binding has carried.
func (m *Machine) look(e *entry) {
	switch {
	case m.cfg.Used != nil:
		m.looked(e, m.cfg.Used(e.binding()))
	case m.cfg.Forward == nil:
		e.looks = true
		m.askCounters(e)
	}
}

func (m *Machine) askCounters(e *entry) {
	m.out = append(m.out, core.Ask{Ref: core.Ref(e.id), Body: core.CountSessions{e.id}})
}

// answer takes the data plane's. One that comes too late for its look counts for the next.
func (m *Machine) answer(ev *core.Answer) {
	e := m.cache.byID[core.ID(ev.Ref)]
	counters, ok := ev.Body.([]core.Counter)
	if ev.Err != nil || !ok || len(counters) != 1 || e == nil || !e.live() {
		return
	}
	if e.looks {
		e.looks = false
		m.looked(e, counters[0].PacketsOut)
	}
	m.heard(e, counters[0].PacketsIn)
}

// looked hears how many packets a binding has carried to the mobile node so far.
func (m *Machine) looked(e *entry, packets uint64) {
	e.busy, e.used = packets > e.used, packets
	if e.busy && e.stage == ending && e.at == e.expires {
		m.ask(e)
		e.stage, e.at = askingAgain, min(m.now.Boot+refreshRetry, e.expires)
		m.cache.due.Set(e)
	}
}

// ask sends a Binding Refresh Request: always to the home address (RFC 6275 9.5.5).
func (m *Machine) ask(e *entry) {
	m.emit(core.Emit{Name: "refresh-request", ID: e.id, Why: "lifetime-ends", Fields: m.fields(e)})
	m.out = append(m.out, core.Send{
		Path: core.Path{If: e.link, Local: netip.AddrPortFrom(e.key.own, 0), Remote: netip.AddrPortFrom(e.key.home, 0)},
		Body: &mobility.BindingRefreshRequest{},
	})
}

// unbind ends a binding. What proved it is remembered as long as it could be used again.
func (m *Machine) unbind(e *entry, why string) {
	before := e.careOf
	f := m.fields(e)
	e.careOf = netip.Addr{}
	m.cache.ended(e)
	m.forward(e, before)
	m.emit(core.Emit{Name: "session", ID: e.id, From: "active", To: "gone", Why: why, Fields: f})
	m.past.add(core.Past{When: m.now.Wall, What: why, Detail: "care-of address " + before.String()}, e.key.home)
	m.remember(e)
}

// remember keeps what is left of a binding until its nonces are too old.
func (m *Machine) remember(e *entry) {
	if e.guarded <= m.now.Boot {
		m.cache.remove(e)
		return
	}
	e.at = e.guarded
	m.cache.due.Set(e)
}

// Only ends the bindings for other own addresses than one, which an embedding machine has no more: what mobile nodes know of them is
// wrong, and they learn so by a Binding Error.
func (m *Machine) Only(now core.Now, own netip.Addr, out []core.Effect) []core.Effect {
	m.now, m.out = now, out
	m.addressGone(func(a netip.Addr) bool { return a != own })
	out, m.out = m.out, nil
	return out
}

// hostChanged hears of own addresses that are gone. The host would send what has no source address yet to the home address from
// another one, for which there is no binding: such packets are to go by the home agent.
func (m *Machine) hostChanged(ev *core.HostChanged) {
	if m.cfg.Forward == nil && ev.Gone && ev.Op.Kind == "address" {
		m.addressGone(func(a netip.Addr) bool { return a == ev.Op.Prefix.Addr() })
	}
}

func (m *Machine) addressGone(is func(own netip.Addr) bool) {
	var gone []*entry
	for k, e := range m.cache.byKey {
		if e.live() && is(k.own) {
			gone = append(gone, e)
		}
	}
	slices.SortFunc(gone, func(a, b *entry) int { return cmp.Compare(a.id, b.id) })
	for _, e := range gone {
		m.unbind(e, "address-gone")
	}
}
