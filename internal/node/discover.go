package node

import (
	"fmt"
	"net/netip"
	"slices"
	"time"

	"kedge/internal/core"
	"kedge/internal/node/discovery"
	"kedge/internal/node/movement"
	"kedge/wire"
	"kedge/wire/mobility"
	"kedge/wire/nd"
)

// Which home agent the node registers with, RFC 6275 11.4.1. One that serves is kept (a MUST while its registration lives). One that
// refuses for reasons of its own, or does not answer agentTries Binding Updates within agentPatience, is left for the next.
const (
	agentTries    = 3
	agentPatience = 10 * time.Second
	// echoPatience is what one gets whose tunnel answers echoes: its daemon may be away for a moment, and what forwards is not.
	echoPatience = time.Minute
)

// refResolve ties the answer of name servers to the question, of which it is the first. Numbers of movement and of route optimization
// begin far above, those of changes end below.
const refResolve core.Ref = 1 << 61

// silence is what the home agent has not answered.
type silence struct {
	since time.Duration // of the first unanswered Binding Update
	tries int
	echo  bool // the tunnel has answered since
}

// discovers says whether the node finds its home agents by itself.
func (c *Config) discovers() discovery.Means {
	switch {
	case c.Anchor.Host != "":
		return discovery.DNS
	case c.Anchor.Discover:
		return discovery.DHAAD
	}
	return discovery.Config
}

// newAgents makes the list of home agents that the config knows.
func (m *Machine) newAgents() {
	a := &m.cfg.Anchor
	c := discovery.AgentsConfig{Means: m.cfg.discovers(), Usable: func(addr netip.Addr) bool {
		if _, ok := a.peer(addr); !ok {
			return false
		}
		_, home := m.prefixes.Find(addr)
		return !home && (m.move == nil || !slices.Contains(m.addresses(), addr))
	}}
	if a.V6.IsValid() {
		c.Known = append(c.Known, discovery.Agent{V6: a.V6, V4: a.V4})
	}
	m.agents = discovery.NewAgents(c, m.rand)
	m.take()
}

// peer is the security peer that a home agent is. Without a list, all are the one of the config.
func (a *Anchor) peer(addr netip.Addr) (Peer, bool) {
	for _, p := range a.Peers {
		if slices.ContainsFunc(p.Addresses, func(x netip.Prefix) bool { return x.Contains(addr) }) {
			return p, true
		}
	}
	known := a.V6 == addr || len(a.Peers) == 0
	return Peer{Name: a.Name, Protection: a.Protection, Guarded: a.Guarded}, known
}

// take makes the current one of the list the home agent in use; it says whether that is another one than before.
func (m *Machine) take() bool {
	g, by, ok := m.agents.Current()
	if !ok {
		return false
	}
	other := g.V6 != m.ha.v6
	p, _ := m.cfg.Anchor.peer(g.V6)
	m.ha = homeAgent{v6: g.V6, v4: g.V4, name: p.Name, protection: p.Protection, guarded: p.Guarded, by: by}
	return other
}

// follow goes over to the current home agent of the list, if it is another one: nothing that was learned of the former holds.
func (m *Machine) follow(why string) bool {
	was := m.ha
	if !m.take() {
		return false
	}
	m.emit(core.Emit{Name: "home-agent", ID: m.session.id, From: text(was.v6), To: text(m.ha.v6), Why: why, Fields: map[string]any{
		"role": "node", "peer": m.ha.name, "by": m.ha.by, "hoa": m.hoa().String()}})
	m.past("home agent "+text(m.ha.v6), "", why+", by "+m.ha.by)
	m.endRace()
	m.sent = m.sent[:0]
	m.tries, m.resyncs, m.unverified, m.deaf, m.echoes, m.refusesUDP = 0, 0, 0, 0, false, false
	m.stamps, m.silence = stamps{}, silence{}
	m.retryAt, m.barred, m.seen = never, false, nil
	if m.bound() {
		m.unbind()
	}
	m.prefixes.Reset(m.now.Boot)
	switch m.state {
	case active, updating, refused:
		m.setState(registering, why)
	}
	m.persist()
	m.configure()
	return true
}

// text is an address, or nothing for one that is not known.
func text(a netip.Addr) string {
	if !a.IsValid() {
		return ""
	}
	return a.String()
}

// without looks for a home agent where none is known, while the node is away.
func (m *Machine) without() {
	if !m.ha.v6.IsValid() {
		m.agents.Seek(m.now.Boot)
		m.discover()
	}
}

// unanswered notes a Binding Update that asks for a binding.
func (m *Machine) unanswered() {
	if m.silence.tries++; m.silence.tries == 1 {
		m.silence.since = m.now.Boot
	}
}

// answered: the home agent is there.
func (m *Machine) answered() { m.silence = silence{} }

// echoAnswered: what forwards there is there, too.
func (m *Machine) echoAnswered() { m.silence.echo = m.silence.tries > 0 }

// silentAt is when the home agent is given up; never = there is no reason to, or no other.
func (m *Machine) silentAt() time.Duration {
	if m.silence.tries < agentTries || m.agents.Alone() || m.agents.Searching() {
		return never
	}
	switch m.state {
	case registering, updating:
		if m.silence.echo {
			return m.silence.since + echoPatience
		}
		return m.silence.since + agentPatience
	}
	return never
}

// gaveUp leaves a home agent that does not serve, for the next one of the list; without one, discovery begins. wait is the least time
// until that one is asked.
func (m *Machine) gaveUp(why string, wait time.Duration) bool {
	if m.agents.Alone() {
		return false
	}
	m.silence = silence{}
	old, at, bound, homes := m.ha, m.bind.careOf, m.bound(), m.boundHomes()
	if !m.agents.Failed(m.now.Boot) || !m.follow(why) {
		return false
	}
	if wait > 0 && bound { // it answers, and defends the home address against the next one until it is told not to
		m.parting = &parting{agent: old, careOf: at, homes: homes, next: m.now.Boot}
	}
	if wait > 0 {
		m.setState(refused, why)
		m.retryAt = m.now.Boot + wait
		return true
	}
	m.evaluate(why)
	return true
}

// elsewhereServed says whether another home agent may accept what this one refuses.
func elsewhereServed(s mobility.Status) bool {
	switch s {
	case mobility.ReasonUnspecified, mobility.AdministrativelyProhibited, mobility.InsufficientResources, mobility.HomeRegistrationNotSupported,
		mobility.NotHomeSubnet, mobility.NotHomeAgent, mobility.DADFailed:
		return true
	}
	return false
}

// discover sends what is due of discovery.
func (m *Machine) discover() {
	now := m.now.Boot
	if m.state == home || m.state == returning || m.state == stopping {
		return
	}
	if m.silentAt() <= now {
		m.gaveUp("no answer", 0)
	}
	if m.agents.Deadline() > now {
		return
	}
	rq, ok := m.agents.Due(now, m.asksFrom())
	switch {
	case !ok:
		if m.follow("another round") {
			m.evaluate("another round")
		}
	case rq.Names:
		m.resolving = max(m.resolving+1, refResolve)
		m.out = append(m.out, core.Ask{Ref: m.resolving, Body: core.Resolve{Host: m.cfg.Anchor.Host, From: m.addresses()}})
	default:
		at, _ := m.asks6()
		m.emit(core.Emit{Name: "discovery", Why: "dhaad", Fields: map[string]any{"role": "node", "coa": at.Addr.String(), "try": rq.Try}})
		m.out = append(m.out, core.Send{
			Path: core.Path{If: at.If, Local: addrPort(at.Addr), Remote: addrPort(nd.HomeAgentsAnycast(m.home6)), Auth: core.Auth{Kind: "none"}},
			Body: &nd.HomeAgentAddressDiscoveryRequest{ID: rq.ID, Mobile: m.routes()},
		})
	}
}

// asks6 is the best IPv6 care-of address to ask from.
func (m *Machine) asks6() (movement.CareOf, bool) {
	var cs []movement.CareOf
	for _, c := range m.move.CareOfs() {
		if !c.Home && c.Addr.Is6() {
			cs = append(cs, c)
		}
	}
	if len(cs) == 0 {
		return movement.CareOf{}, false
	}
	return slices.MinFunc(cs, func(a, b movement.CareOf) int { return slices.Compare(m.rank(&a), m.rank(&b)) }), true
}

// asksFrom is an address that discovery can ask from; invalid if there is none.
func (m *Machine) asksFrom() netip.Addr {
	if all := m.addresses(); m.cfg.Anchor.Host != "" && len(all) > 0 {
		return all[0]
	}
	at, _ := m.asks6()
	return at.Addr
}

// addresses are those that the node has in the visited networks.
func (m *Machine) addresses() (out []netip.Addr) {
	for _, c := range m.move.CareOfs() {
		if !c.Home {
			out = append(out, c.Addr)
		}
	}
	return out
}

// replied takes a Home Agent Address Discovery Reply. Nothing protects it; its identifier must be that of the request.
func (m *Machine) replied(p *core.Path, r *nd.HomeAgentAddressDiscoveryReply) {
	here := p.Outer.N == 0 && !p.Own.IsValid() && slices.Contains(m.addresses(), p.Local.Addr())
	if !here || !m.agents.Replied(m.now.Boot, r.ID, r.Addresses) {
		m.countQuietly(p, wire.Unsolicited, fmt.Sprintf("home agent discovery reply with %d addresses", len(r.Addresses)))
		return
	}
	m.found(fmt.Sprintf("answered by %v", p.Remote.Addr()))
}

// resolved takes the answer of name servers to the last question. That of an earlier one, from a network that was left, says nothing.
func (m *Machine) resolved(ev *core.Answer) {
	if ev.Ref != m.resolving || !m.agents.Searching() {
		return
	}
	addrs, _ := ev.Body.([]netip.Addr)
	if !m.agents.Resolved(m.now.Boot, addrs, ev.Err) {
		why := "no address that can be a home agent's"
		if ev.Err != nil {
			why = ev.Err.Error()
		}
		m.count(wire.NoAddressInAnswer)
		if m.unnamed != why {
			m.emit(core.Emit{Name: "warning", Why: string(wire.NoAddressInAnswer), Fields: map[string]any{"peer": m.cfg.Anchor.Host, "err": why}})
		}
		m.unnamed = why
		return
	}
	m.unnamed = ""
	m.found("resolved")
}

// found takes up a new list.
func (m *Machine) found(why string) {
	m.past(fmt.Sprintf("%d home agents", len(m.agents.List())), "", why)
	m.silence = silence{}
	if m.follow("discovered") {
		m.evaluate("a home agent is known")
		return
	}
	m.persist()
	if m.racing() && !m.race.narrow {
		m.hasten()
		m.sendDue()
	}
}

// countQuietly counts a message that changes nothing, and tells of one a second: anybody can send these.
func (m *Machine) countQuietly(p *core.Path, r wire.Reason, detail string) {
	if m.quiet > m.now.Boot {
		m.count(r)
		return
	}
	m.quiet = m.now.Boot + time.Second
	m.ignored(p, r, detail)
}

// discoveryNotes are what a status says of home agents and home addresses.
func (m *Machine) discoveryNotes(note func(format string, args ...any)) {
	now := m.now.Boot
	if m.cfg.discovers() != discovery.Config || len(m.agents.List()) > 1 {
		how := map[discovery.Means]string{discovery.DHAAD: "home agent address discovery", discovery.DNS: m.cfg.Anchor.Host, discovery.Config: "the config"}[m.cfg.discovers()]
		switch {
		case !m.ha.v6.IsValid():
			note("no home agent is known yet: asking by %s", how)
		default:
			note("home agent %v of %s, found by %s, of %d known", m.ha.v6, m.ha.name, m.ha.by, len(m.agents.List()))
		}
		if !m.ha.v6.IsValid() && m.cfg.discovers() == discovery.DHAAD && !m.asksFrom().IsValid() {
			note("home agents are not discovered from IPv4 networks (RFC 5555 2.1)")
		}
		if m.unnamed != "" {
			note("%s: %s", m.cfg.Anchor.Host, m.unnamed)
		}
	}
	for _, h := range m.prefixes.Homes() {
		what := "home address"
		if h.Addr() != m.hoa() {
			what = "other home address"
		}
		if h.Preferred != discovery.Forever || h.Valid != discovery.Forever || h.Addr() != m.hoa() {
			note("%s %v: preferred %s, valid %s", what, h.Addr(), lasts(h.Preferred, now), lasts(h.Valid, now))
		}
	}
	if m.offered.IsValid() {
		note("the home network has the prefix %v, which node.home.prefixes does not name", m.offered)
	}
}
