package peer

import (
	"net/netip"
	"time"

	"kedge/internal/core"
	"kedge/wire"
	"kedge/wire/mobility"
)

const (
	// farewell is how long data with a Home Address option is still taken after mobile nodes were told that their bindings are over: what
	// they had sent until then is on its way for a round trip.
	farewell = 500 * time.Millisecond
	// maxFarewells is how many are told, those that renewed last first. Others learn it as after a crash.
	maxFarewells = 1000
)

// stopping is the end of a correspondent, and who waits for it.
type stopping struct {
	refs []core.Ref // commands that are not answered yet
	at   time.Duration
}

// stop ends all bindings so that no packet is lost. RFC 6275 has no message for it: a Binding Error says what the next packet with a
// Home Address option would be told (9.3.3), only that this one is still taken. This host's own packets go by the home agents at once.
// An embedded correspondent's bindings are its parent's to end.
func (m *Machine) stop(ref core.Ref) {
	if m.stopping == nil {
		m.stopping = &stopping{at: m.now.Boot}
		if m.cfg.Forward == nil && m.cache.recent.Len() > 0 {
			m.farewell()
			m.stopping.at += farewell
		}
	}
	m.stopping.refs = append(m.stopping.refs, ref)
	m.stopped()
}

func (m *Machine) farewell() {
	told := 0
	for x := m.cache.recent.Back(); x != nil; x = x.Prev() {
		e := x.Value.(*entry)
		m.out = append(m.out, core.Change{Ops: m.routes.remove(e.key)})
		if told++; told > maxFarewells {
			continue
		}
		m.emit(core.Emit{Name: "binding-error", ID: e.id, Why: "stop", Fields: Fields{HoA: e.key.home, CareOf: e.careOf, Own: e.key.own, Status: mobility.UnknownBinding}})
		m.out = append(m.out, core.Send{
			Path: core.Path{If: e.link, Local: netip.AddrPortFrom(e.key.own, 0), Remote: netip.AddrPortFrom(e.careOf, 0)},
			Body: &mobility.BindingError{Status: mobility.UnknownBinding, Home: e.key.home},
		})
	}
}

// stopped answers who waits for the end, when it has come.
func (m *Machine) stopped() {
	if m.now.Boot < m.stopping.at {
		return
	}
	for _, ref := range m.stopping.refs {
		m.out = append(m.out, core.Reply{Ref: ref})
	}
	m.stopping.refs = nil
}

// ending takes an event on the way to the end: nothing is begun any more.
func (m *Machine) ending(ev core.Event) {
	switch ev := ev.(type) {
	case core.Message:
		m.ignored(&ev.Path, wire.ServiceDisabled, "stopping")
	case core.Tick:
		m.stopped()
	case core.Reported:
		m.reported(&ev)
	case core.Command:
		m.command(&ev)
	}
}
