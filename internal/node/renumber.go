package node

import (
	"fmt"
	"net/netip"
	"slices"
	"time"

	"kedge/internal/core"
	"kedge/internal/node/discovery"
	"kedge/wire"
	"kedge/wire/mobility"
	"kedge/wire/nd"
)

// Mobile Prefix Discovery, RFC 6275 11.4.2 and 11.4.3. A home network that is renumbered tells its nodes so; when the prefix of the
// home address is deprecated, the node has another one on the prefix that takes its place, registers it, and prefers it from then on.
// The old one stays, deprecated, and registered, for what uses it, until it is not valid any more. See also.go.

// solicits says whether a Mobile Prefix Solicitation can be sent: there is a binding to send it under, and in IPv4 an association
// that protects it (document 004, 2.1).
func (m *Machine) solicits() bool {
	return m.bound() && !m.path.dead && (m.state == active || m.state == updating) && (m.bind.careOf.Addr.Is6() || m.ha.protected())
}

// solicitDue sends the Mobile Prefix Solicitation whose time has come.
func (m *Machine) solicitDue() {
	id, ok := m.prefixes.Due(m.now.Boot, m.solicits())
	if !ok {
		return
	}
	p := m.signalling(&m.bind.careOf)
	if c := m.bind.careOf.Addr; c.Is4() && m.cfg.Anchor.Dialect == RFC5555 {
		// In IPv4 the home address is the source as well as in the option (RFC 5555 2.2).
		p.Own, p.Outer = m.hoa(), m.chain(c, m.bind.framing)
	}
	m.emit(core.Emit{Name: "discovery", ID: m.session.id, Why: "mps", Fields: map[string]any{"role": "node", "peer": m.ha.name, "hoa": m.hoa().String()}})
	m.out = append(m.out, core.Send{Path: p, Body: &nd.MobilePrefixSolicitation{ID: id}})
}

// advertised takes a Mobile Prefix Advertisement of the home agent.
func (m *Machine) advertised(p *core.Path, a *nd.MobilePrefixAdvertisement) {
	_, to := m.cameFor(p)
	_, ours := m.prefixes.Find(to)
	switch {
	case !m.vouched(p):
		m.countQuietly(p, wire.NotAuthorized, "mobile prefix advertisement")
		return
	case !ours || !p.Own.IsValid() && p.Outer.N == 0: // without the type 2 routing header it is for somebody at home
		m.countQuietly(p, wire.UnknownHome, "mobile prefix advertisement")
		return
	case !m.bound():
		m.countQuietly(p, wire.Unsolicited, "mobile prefix advertisement")
		return
	}
	if r := m.prefixes.Advertised(m.now.Boot, a, m.ha.protected()); r != "" {
		m.countQuietly(p, r, "mobile prefix advertisement")
		return
	}
	m.answered()
	if h, ok := m.prefixes.Find(m.hoa()); ok {
		m.past("home prefix "+m.home6.Masked().String(), "", fmt.Sprintf("preferred %v, valid %v", lasts(h.Preferred, m.now.Boot), lasts(h.Valid, m.now.Boot)))
	}
	if best, ok := m.prefixes.Best(m.now.Boot); !ok || best.Preferred <= m.now.Boot {
		for _, x := range m.prefixes.Unwanted() {
			m.unwanted(x)
		}
	}
	m.renumber()
	m.persist()
}

// unwanted tells once of a prefix that would be used if the config had it.
func (m *Machine) unwanted(p netip.Prefix) {
	if m.offered == p {
		return
	}
	m.offered = p
	m.emit(core.Emit{Name: "warning", Why: string(wire.PrefixNotAuthorized), Fields: map[string]any{"peer": m.ha.name, "prefix": p.String(),
		"err": "the home network has a prefix that node.home.prefixes does not name"}})
}

// lasts is what is left of a lifetime, for people.
func lasts(until, now time.Duration) string {
	if until == discovery.Forever {
		return "for ever"
	}
	return max(until-now, 0).Round(time.Second).String()
}

// renumberDue serves lifetimes and what waits of Mobile Prefix Discovery.
func (m *Machine) renumberDue() {
	if m.prefixes.Changed(m.now.Boot) {
		m.renumber()
		m.persist()
	}
	m.solicitDue()
	m.alsoDue()
}

// renumber makes the registrations fit the home addresses that there are.
func (m *Machine) renumber() {
	now := m.now.Boot
	m.prefixes.Expire(now)
	cur, valid := m.prefixes.Find(m.hoa())
	best, any := m.prefixes.Best(now)
	m.also = slices.DeleteFunc(m.also, func(x *also) bool {
		_, ok := m.prefixes.Find(x.home.Addr())
		if !ok {
			m.past("home address "+x.home.Addr().String()+" is not valid any more", "", "")
		}
		return !ok
	})
	for _, h := range m.prefixes.Homes() {
		if h.Addr() != m.hoa() && m.alsoOf(h.Addr()) == nil {
			m.also = append(m.also, &also{home: h.Prefix, next: now})
		}
	}
	switch x := m.alsoOf(best.Addr()); {
	case !any:
		m.homeless()
		return
	case valid && (best.Addr() == m.hoa() || cur.Preferred > now):
	case x == nil:
	case x.bound(now) && x.agent == m.ha.v6:
		m.prefer(x)
	case !valid: // nothing is left to keep
		m.prefer(x)
		m.unbind()
		m.seen = nil
		m.evaluate("home address not valid any more")
	}
	m.forward()
	m.configure()
}

// homeless: no home address is valid any more, and none has taken its place. What the config says is tried again when somebody asks.
func (m *Machine) homeless() {
	if m.barred && m.state == refused {
		return
	}
	m.unbind()
	m.also = nil
	m.refusal(wire.PrefixNotAuthorized, mobility.Accepted, "the home prefix is not valid any more, and no other one is known")
	switch m.state {
	case registering, active, updating, refused, detached:
		m.wait(refusedForever, wire.PrefixNotAuthorized)
	}
}

// prefer makes another home address the one of new connections. Its binding takes the place of the other's, which goes on beside it.
func (m *Machine) prefer(x *also) {
	was, b := m.home6, m.bind
	m.also = slices.DeleteFunc(m.also, func(o *also) bool { return o == x })
	m.home6 = x.home
	if _, ok := m.prefixes.Find(was.Addr()); ok {
		old := &also{home: was, agent: m.ha.v6, next: m.now.Boot}
		if m.bound() {
			old.careOf, old.expires, old.next = b.careOf, b.expires, b.refreshAt
		}
		m.also = append(m.also, old)
	}
	if x.bound(m.now.Boot) && m.bound() && keyOf(&x.careOf) == keyOf(&b.careOf) {
		m.bind.seq, m.bind.sentAt, m.bind.lifetime, m.bind.expires, m.bind.refreshAt = x.seq, x.sentAt, x.lifetime, x.expires, x.next
		m.acked = x.seq
		m.sent = m.sent[:0]
	}
	m.move.SetHome(m.homeAddrs(), m.home6.Masked())
	m.emit(core.Emit{Name: "home-address", ID: m.session.id, From: was.Addr().String(), To: m.hoa().String(), Why: "renumbered", Fields: m.fields()})
	m.past("home address "+m.hoa().String(), "", "instead of "+was.Addr().String())
	if m.path.next > 0 {
		m.path.probes, m.path.waiting, m.path.lost = nil, false, 0 // answers would come to the old address
	}
}

// homeAddrs are all addresses that are never care-of addresses.
func (m *Machine) homeAddrs() []netip.Addr {
	out := []netip.Addr{m.hoa()}
	for _, x := range m.also {
		out = append(out, x.home.Addr())
	}
	if m.cfg.Home.IPv4 == IPv4Static {
		// Its network shows no home link: without IPv6 nobody comes home (RFC 5555 4.4.4).
		out = append(out, m.cfg.Home.V4.Addr())
	}
	return out
}
