package gateway

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"time"

	"kedge/internal/core"
	"kedge/wire"
)

// command answers the API.
func (m *Machine) command(ev *core.Command) {
	var body any
	var err error
	switch c := ev.Body.(type) {
	case core.GetStatus:
		body = m.status()
	case core.GetBindings:
		body = m.bindings(c.Filter)
	case core.Explain:
		body, err = m.explain(c.ID)
	case core.Attach:
		err = m.commandAttach(&c)
	case core.Detach:
		err = m.commandDetach(&c)
	default:
		err = fmt.Errorf("a gateway does not know the command %T", c)
	}
	m.out = append(m.out, core.Reply{Ref: ev.Ref, Body: body, Err: err})
}

// commandAttach is the only way to know of an idle host that roamed without a sign of life. It is also the administrative
// act that ends a lasting refusal.
func (m *Machine) commandAttach(c *core.Attach) error {
	l := m.linkNamed(c.If)
	if l == nil {
		return fmt.Errorf("%w: %q", wire.InterfaceUnsupported, c.If)
	}
	if !l.attach["api"] {
		return fmt.Errorf("%w: attach-on of %s does not have api", wire.NotAuthorized, c.If)
	}
	s := sighting{by: "api", id: c.ID, arriving: true}
	if c.Previous != "" {
		prev, err := netip.ParseAddr(c.Previous)
		if err != nil {
			return fmt.Errorf("previous gateway: %w", err)
		}
		s.previous = prev
	}
	if len(c.ID) > maxIdentifier {
		return fmt.Errorf("%w: an identifier has at most %d octets", wire.TooLong, maxIdentifier)
	}
	if e := m.hosts[c.MAC]; e != nil {
		if c.ID != "" && c.ID != e.mn {
			m.detach(e, "api: now "+c.ID)
			if m.hosts[c.MAC] != nil {
				m.finish(e, "api: now "+c.ID) // another subscriber: do not wait for the anchor
			}
		} else {
			m.pardon(e)
		}
	} else if c.ID != "" {
		m.known.pardon(c.ID)
	}
	m.sighted(l, c.MAC, s)
	if m.hosts[c.MAC] == nil {
		return fmt.Errorf("%w: %v is not accepted on %s", wire.NotAuthorized, c.MAC, c.If)
	}
	return nil
}

// pardon ends all refusals of a host.
func (m *Machine) pardon(e *entry) {
	m.known.pardon(e.mn)
	e.denied, e.noHint, e.left, e.tried = [2]denial{}, [2]bool{}, false, nil
	if e.state == refused {
		m.setState(e, idle, "api")
	}
}

func (m *Machine) commandDetach(c *core.Detach) error {
	l := m.linkNamed(c.If)
	if l == nil {
		return fmt.Errorf("%w: %q", wire.InterfaceUnsupported, c.If)
	}
	if !l.detach["api"] {
		return fmt.Errorf("%w: detach-on of %s does not have api", wire.NotAuthorized, c.If)
	}
	e := m.hosts[c.MAC]
	if e == nil || e.link != l {
		return fmt.Errorf("%w: %v on %s", wire.UnknownHost, c.MAC, c.If)
	}
	m.detach(e, "api")
	return nil
}

func (m *Machine) status() core.Status {
	s := core.Status{Role: "gateway", Since: m.since, Sessions: map[string]int{}, Counters: maps.Clone(m.counts)}
	for i, n := range m.states {
		if n > 0 {
			s.Sessions[state(i).String()] = n
		}
	}
	for _, a := range m.anchors {
		alive, restarts, last := m.monitor.Status(a.Address)
		s.Peers = append(s.Peers, core.PeerStatus{Name: a.Name, Address: a.Address, Alive: alive, Restarts: restarts,
			LastHeard: last, Sessions: a.sessions, Protection: a.Protection})
		if a.Protection == "none" {
			s.Notes = append(s.Notes, fmt.Sprintf("signalling with %s is not protected", a.Name))
		}
		if a.relay {
			s.Notes = append(s.Notes, fmt.Sprintf("%s wants DHCP relayed (option 39, RFC 5844 3.3.4), which is not supported: this gateway "+
				"answers DHCP itself, with the addresses that it registers", a.Name))
		}
		if !a.offsetAt.IsZero() {
			s.Notes = append(s.Notes, fmt.Sprintf("the clock of %s differed by %v at %s: synchronize both to one source",
				a.Name, a.offset.Round(time.Millisecond), a.offsetAt.Format(time.RFC3339)))
		}
	}
	for _, l := range m.links {
		if l.down {
			s.Notes = append(s.Notes, fmt.Sprintf("access link %s is down", l.Link.Name))
		}
	}
	return s
}

func (m *Machine) bindings(filter string) []core.Binding {
	bs := []core.Binding{}
	for _, e := range m.ordered() {
		b := m.binding(e)
		if filter == "" || strings.Contains(b.ID, filter) || b.IPv4.IsValid() && strings.Contains(b.IPv4.String(), filter) ||
			slices.ContainsFunc(b.Prefixes, func(p netip.Prefix) bool { return strings.Contains(p.String(), filter) }) {
			bs = append(bs, b)
		}
	}
	return bs
}

func (m *Machine) binding(e *entry) core.Binding {
	b := core.Binding{
		ID: e.mn, Session: e.id, State: e.state.String(), Families: familyNames(e.wants), ProxyCoA: m.cfg.Address, Gateway: m.cfg.Name,
		Anchor: e.anchor.Address, Dialect: string(e.anchor.dialect), ATT: e.link.Technology, LinkLayer: e.mac.String(),
		Interface: e.link.Link.Name, Since: e.since, Sequence: e.seq, Protection: e.anchor.Protection,
	}
	if e.state.bound() {
		b.Families, b.Dialect = familyNames(e.has()), string(e.dialect)
		b.Prefixes, b.IPv4, b.Router4 = slices.Clone(e.prefixes), e.ipv4, e.router4
		b.Lifetime = e.lifetime
		b.Expires = m.now.Wall.Add(e.expires - m.now.Boot)
	}
	return b
}

func (m *Machine) explain(id string) (core.Explanation, error) {
	x := core.Explanation{ID: id, Bindings: []core.Binding{}, History: m.past_.of(id)}
	for _, e := range m.byID[id] {
		x.Bindings = append(x.Bindings, m.binding(e))
	}
	if len(x.Bindings) == 0 && len(x.History) == 0 {
		return x, fmt.Errorf("%w: nothing is known of %q", wire.UnknownHost, id)
	}
	x.Profile = "access link"
	if _, ok := m.profiles[id]; ok {
		x.Profile = "profile " + id
	}
	if b := m.known.barred(id); b != 0 {
		x.Profile += fmt.Sprintf("; barred by the anchor until attached by api: %s", strings.Join(familyNames(b), ", "))
	}
	return x, nil
}

// Limits of the history: newest decisions of an identifier, and identifiers.
const (
	historyDepth = 24
	historyIDs   = 4096
)

// history keeps the newest decisions about identifiers; the identifiers heard of first go first.
type history struct {
	byID  map[string][]core.Past
	order []string
}

func newHistory() history { return history{byID: map[string][]core.Past{}} }

func (h *history) of(id string) []core.Past { return slices.Clone(h.byID[id]) }

// past notes one decision.
func (m *Machine) past(mn, what, reason, detail string) {
	h := &m.past_
	ps, ok := h.byID[mn]
	if !ok {
		if len(h.order) >= historyIDs {
			delete(h.byID, h.order[0])
			h.order = h.order[1:]
		}
		h.order = append(h.order, mn)
	}
	if len(ps) >= historyDepth {
		ps = append(ps[:0], ps[1:]...)
	}
	h.byID[mn] = append(ps, core.Past{When: m.now.Wall, What: what, Reason: reason, Detail: detail})
}
