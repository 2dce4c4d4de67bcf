package peer

import (
	"cmp"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"time"

	"kedge/internal/core"
	"kedge/wire"
)

// Fields go with every Emit, under their log keys. Names of events: "session" (From, To: active, gone; Why: new, moved, refreshed,
// deregistered, expired, replaced, forwarding-failed, address-gone, unreachable), "refused" (a Binding Update that was answered with an error; Why: a
// wire.Reason), "message-ignored" (one that got no answer), "binding-error", "refresh-request", "failed" (an effect). No event comes
// of a test: anybody can ask for one.
type Fields struct {
	HoA      netip.Addr `json:"hoa,omitzero"`
	CareOf   netip.Addr `json:"coa,omitzero"`
	Former   netip.Addr `json:"former_coa,omitzero"`
	Own      netip.Addr `json:"own,omitzero"`
	Peer     string     `json:"peer,omitempty"` // source of a message
	Seq      uint16     `json:"seq,omitempty"`
	Lifetime int        `json:"lifetime_s,omitempty"`
	Status   uint8      `json:"status,omitempty"`
	Err      string     `json:"err,omitempty"`
}

func (m *Machine) fields(e *entry) Fields {
	return Fields{HoA: e.key.home, CareOf: e.careOf, Own: e.key.own, Seq: e.seq, Lifetime: int(e.lifetime / time.Second)}
}

func (m *Machine) emit(e core.Emit)    { m.out = append(m.out, e) }
func (m *Machine) count(r wire.Reason) { m.counts[string(r)]++ }

// ignored counts and reports a message that gets no answer.
func (m *Machine) ignored(p *core.Path, r wire.Reason, detail string) {
	m.count(r)
	m.emit(core.Emit{Name: "message-ignored", Why: string(r), Fields: Fields{
		Peer: p.Remote.Addr().String(), HoA: p.Home, Own: p.Local.Addr(), Err: detail,
	}})
}

// changed tells of a binding.
func (m *Machine) changed(e *entry, from, to, why string, before netip.Addr) {
	f := m.fields(e)
	if before.IsValid() && before != e.careOf {
		f.Former = before
	}
	m.emit(core.Emit{Name: "session", ID: e.id, From: from, To: to, Why: why, Fields: f})
	if why != "refreshed" {
		m.past.add(core.Past{When: m.now.Wall, What: why, Detail: "care-of address " + e.careOf.String()}, e.key.home)
	}
}

// historySize is how many decisions are remembered, of all mobile nodes together. Refreshes are none.
const historySize = 1024

type history struct {
	ring []decision
	next int
}

type decision struct {
	core.Past
	home netip.Addr
}

func (h *history) add(p core.Past, home netip.Addr) {
	d := decision{p, home}
	if len(h.ring) < historySize {
		h.ring = append(h.ring, d)
		return
	}
	h.ring[h.next] = d
	h.next = (h.next + 1) % historySize
}

// of gives the decisions about a home address, oldest first.
func (h *history) of(home netip.Addr) (found []core.Past) {
	for i := range h.ring {
		if d := &h.ring[(h.next+i)%len(h.ring)]; d.home == home {
			found = append(found, d.Past)
		}
	}
	return found
}

// command answers the API.
func (m *Machine) command(ev *core.Command) {
	var body any
	var err error
	switch c := ev.Body.(type) {
	case core.GetStatus:
		body = m.Status()
	case core.Stop:
		m.stop(ev.Ref)
		return
	case core.GetBindings:
		body = m.list(c.Filter)
	case core.Explain:
		home, perr := netip.ParseAddr(c.ID)
		if perr != nil {
			err = fmt.Errorf("%q: a correspondent knows mobile nodes by their home addresses", c.ID)
			break
		}
		body = core.Explanation{ID: c.ID, Profile: "return routability", Bindings: m.list(home.String()), History: m.past.of(home)}
	default:
		err = fmt.Errorf("a correspondent does not know the command %T", c)
	}
	m.out = append(m.out, core.Reply{Ref: ev.Ref, Body: body, Err: err})
}

// Status is what the machine is and how it does.
func (m *Machine) Status() core.Status {
	active := m.cache.recent.Len()
	return core.Status{
		Role: "peer", Since: m.since, Counters: maps.Clone(m.counts),
		Sessions: map[string]int{"active": active, "remembered": len(m.cache.byKey) - active},
	}
}

// list is the Binding Cache, by home address.
func (m *Machine) list(filter string) []core.Binding {
	found := []core.Binding{}
	for _, e := range m.cache.byKey {
		if !e.live() || !strings.Contains(e.key.home.String(), filter) && !strings.Contains(e.careOf.String(), filter) {
			continue
		}
		left := e.expires - m.now.Boot
		found = append(found, core.Binding{
			ID: e.key.home.String(), Session: e.id, State: "active", Families: []string{"v6"}, Kind: "host", Home: []netip.Prefix{single(e.key.home)},
			CareOf: e.careOf, Gateway: e.key.own.String(), Dialect: "rfc6275", Lifetime: e.lifetime, Expires: m.now.Wall.Add(left), Since: e.since,
			Sequence: e.seq, Protection: "return-routability", Framing: "ip",
		})
	}
	slices.SortFunc(found, func(a, b core.Binding) int {
		return cmp.Or(a.Home[0].Addr().Compare(b.Home[0].Addr()), cmp.Compare(a.Session, b.Session))
	})
	return found
}
