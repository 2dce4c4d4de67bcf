package optimize

import (
	"net/netip"
	"strings"
	"time"

	"kedge/internal/core"
)

// stateOf is the state that follows from what the entry knows.
func (m *Machine) stateOf(e *entry) State {
	now := m.now.Boot
	switch {
	case e.told.up && e.bind.ok() && e.told.chain.N == 0:
		return Direct
	case m.place.At == AtHome || e.leave || m.place.At == Away && !m.place.CareOf.IsValid():
		return Leaving
	case now < e.hold:
		return Held
	case now < e.lives && e.wanted(now):
		return Moving
	case now < e.lives:
		return Leaving
	}
	return Testing
}

func (m *Machine) setState(e *entry) {
	to := m.stateOf(e)
	if from := e.state; from != to {
		e.state, e.since = to, m.now.Wall
		m.emit(core.Emit{Name: "correspondent", ID: e.id, From: from.String(), To: to.String(), Why: string(e.why), Fields: m.fields(e)})
	}
}

// fields of events.
func (m *Machine) fields(e *entry) map[string]any {
	f := map[string]any{"correspondent": e.peer.String(), "hoa": m.place.Home.String()}
	if e.bind.ok() {
		f["coa"], f["seq"], f["lifetime_s"] = e.bind.careOf.String(), e.bind.seq, int(e.bind.lifetime.Seconds())
	}
	return f
}

// Bindings lists the entries whose correspondent or home address contains filter. id names the node.
func (m *Machine) Bindings(now core.Now, id, filter string) (bs []core.Binding) {
	for _, e := range m.list {
		if e.theirs.IsValid() && !e.bind.ok() && now.Boot >= e.lives && !e.waits() {
			continue // the correspondent's registration here is all that there is
		}
		home := single(m.place.Home)
		if filter != "" && !strings.Contains(id, filter) && !strings.Contains(home.String(), filter) && !strings.Contains(e.peer.String(), filter) {
			continue
		}
		b := core.Binding{
			ID: id, Session: e.id, State: e.state.String(), Kind: "host", Families: []string{"v6"}, Home: []netip.Prefix{home}, Anchor: e.peer,
			Dialect: "rfc6275", Since: e.since, Sequence: e.seq, CareOf: m.place.CareOf, Framing: "ip", Protection: "return-routability",
		}
		if e.bind.ok() {
			b.CareOf, b.Lifetime, b.Expires, b.Sequence = e.bind.careOf, e.bind.lifetime, m.wall(now, e.bind.expires), e.bind.seq
		}
		bs = append(bs, b)
	}
	return bs
}

func (m *Machine) wall(now core.Now, boot time.Duration) time.Time {
	return now.Wall.Add(boot - now.Boot).Round(0).UTC()
}

// States counts the entries by state.
func (m *Machine) States() map[string]int {
	n := map[string]int{}
	for _, e := range m.list {
		n[e.state.String()]++
	}
	return n
}

// Counters of what was ignored, refused or failed, by reason.
func (m *Machine) Counters() map[string]uint64 { return m.counts }
