package node

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"time"

	"kedge/internal/core"
	"kedge/internal/node/movement"
	"kedge/wire"
)

// historyDepth is how many decisions are remembered.
const historyDepth = 64

// past notes one decision.
func (m *Machine) past(what, reason, detail string) {
	if len(m.history) >= historyDepth {
		m.history = slices.Delete(m.history, 0, 1)
	}
	m.history = append(m.history, core.Past{When: m.now.Wall, What: what, Reason: reason, Detail: detail})
}

// command answers the API.
func (m *Machine) command(ev *core.Command) {
	var body any
	var err error
	switch c := ev.Body.(type) {
	case core.GetStatus:
		body = m.status()
	case core.GetBindings:
		body = append(m.bindings(c.Filter), m.correspondents(c.Filter)...)
	case core.Explain:
		body, err = m.explain(c.ID)
	case core.Roam:
		err = m.roam(c.Link)
	case core.Stop:
		m.stop(ev.Ref)
		return
	default:
		err = fmt.Errorf("a node does not know the command %T", c)
	}
	m.out = append(m.out, core.Reply{Ref: ev.Ref, Body: body, Err: err})
}

// roam prefers a link, and ends every wait.
func (m *Machine) roam(link string) error {
	if link != "" && !slices.ContainsFunc(m.move.CareOfs(), func(c movement.CareOf) bool { return c.Link == link }) {
		return fmt.Errorf("%w: %s has no care-of address", wire.InterfaceUnsupported, link)
	}
	m.preferred, m.seen, m.tries, m.resyncs, m.unverified, m.deaf, m.refusesUDP = link, nil, 0, 0, 0, 0, false
	m.nets.forget()
	m.retryAt, m.barred = never, false
	asRouter := m.router.refused != ""
	m.routerAgain()
	m.evaluate("roam")
	if asRouter {
		m.requested("as a router again")
	}
	return nil
}

func (m *Machine) status() core.Status {
	s := core.Status{Role: "node", Since: m.since, Sessions: map[string]int{m.state.String(): 1}, Counters: maps.Clone(m.counts)}
	for r, n := range m.move.Counters() { // frames of links, by the same reasons
		s.Counters[r] += n
	}
	a := &m.ha
	s.Peers = []core.PeerStatus{{Name: a.name, Address: a.v6, Alive: m.bound() && !m.path.dead, Protection: a.protection, Sessions: len(m.bindings(""))}}
	if m.path.heard > 0 {
		s.Peers[0].LastHeard = m.wall(m.path.heard)
	}
	m.optimizedStatus(&s)
	note := func(format string, args ...any) { s.Notes = append(s.Notes, fmt.Sprintf(format, args...)) }
	m.discoveryNotes(note)
	if !a.protected() {
		note("signalling with %s is not protected", a.name)
	}
	if m.no4 {
		note("IPv4 networks cannot be used: the IPv4 address of %s is not configured", a.name)
	}
	if m.why4 != "" {
		note("no IPv4 home address: %s", m.why4)
	}
	if m.router.refused != "" {
		note("mobile networks are not served, the node is a host: %s", m.router.refused)
	}
	for _, s := range m.unserved {
		note("mobile network is not served: %s", s)
	}
	if m.state == refused {
		note("%s refuses: %s", a.name, m.reason)
	}
	if d := m.now.Wall.Sub(m.stateSince); m.state == registering && d >= silentAfter {
		note("no answer from %s for %v: firewalls on the way (UDP port 4191, protocols 50 and 135), or keys that do not belong together: its log and status say what it refuses",
			a.name, d.Round(time.Second))
	}
	if m.silent() {
		note("%s does not answer echoes through the tunnel: a dead path is noticed by Binding Updates only, every %v", a.name, updateProbe)
	}
	if m.passing() {
		note("%s cannot be reached: new connections go out directly", a.name)
	}
	for i, c := range m.move.CareOfs() {
		if i == maxListed {
			break
		}
		what := "care-of address"
		if c.Home {
			what = "home link, address"
		}
		note("%s %v on %s (%s)", what, c.Addr, c.Link, c.Network)
	}
	return s
}

// silentAfter is how long the home agent may be silent until a status says what that may be: some Binding Updates were repeated.
const silentAfter = 4 * time.Second

// maxListed is how many care-of addresses a status shows.
const maxListed = 16

// bindings is the Binding Update List (RFC 6275 11.1): an entry for the IPv6 home address since a Binding Update was sent for
// it, and one for the IPv4 home address, in IPv4-mapped form, when the home agent bound it (document 004, 3.3).
func (m *Machine) bindings(filter string) []core.Binding {
	bs := []core.Binding{}
	add := func(b core.Binding, home netip.Addr) {
		b.Home = []netip.Prefix{host(home)}
		if home == m.hoa() {
			b.Home = append(b.Home, m.behind...) // Prefix Information, RFC 3963 5.1
		}
		if filter == "" || strings.Contains(b.ID, filter) || strings.Contains(home.String(), filter) {
			bs = append(bs, b)
		}
	}
	b := core.Binding{
		ID: m.identity(), Session: m.session.id, State: m.state.String(), Kind: "host", Families: []string{"v6"}, Prefixes: []netip.Prefix{m.home6.Masked()},
		Anchor: m.ha.v6, Gateway: m.cfg.Name, Dialect: string(m.cfg.Anchor.Dialect), Since: m.stateSince, Sequence: m.seq,
		Protection: m.ha.protection,
	}
	if m.bound() {
		e := &m.bind
		b.CareOf, b.Interface, b.Framing, b.NAT = e.careOf.Addr, e.careOf.Link, "ip", e.nat
		if e.framing == inUDP {
			b.Framing = "udp"
		}
		b.Lifetime, b.Expires, b.Sequence = e.lifetime, m.wall(e.expires), e.seq
	} else if m.racing() {
		c := &m.race.attempts[0].careOf
		b.CareOf, b.Interface = c.Addr, c.Link
	} else {
		return bs
	}
	add(b, m.hoa())
	if m.bound() && m.bind.ipv4.IsValid() {
		b.Families, b.IPv4, b.Prefixes = []string{"v4"}, m.bind.ipv4, nil
		add(b, mapped(m.bind.ipv4.Addr()))
	}
	return bs
}

// identity names the node in bindings: its network access identifier, else its home address.
func (m *Machine) identity() string {
	if m.cfg.ID != "" {
		return m.cfg.ID
	}
	return m.hoa().String()
}

func (m *Machine) explain(id string) (core.Explanation, error) {
	x := core.Explanation{ID: m.identity(), Profile: "config", Bindings: append(m.bindings(""), m.correspondents("")...), History: slices.Clone(m.history)}
	if id != "" && id != x.ID && id != m.hoa().String() && id != m.home4().String() {
		return x, fmt.Errorf("%w: this node is %s", wire.UnknownHost, x.ID)
	}
	return x, nil
}
