package node

import (
	"net/netip"
	"slices"

	"kedge/internal/core"
)

// endpoints tells the security policy of every change of our home addresses and of where their tunnels end: what ESP protects in a
// tunnel follows the binding (RFC 3776 4.3, RFC 4877 4.3). A new home address is known to it before anything is sent for it. At home
// and without a binding there is no tunnel; the associations stay (RFC 3776 4.2).
func (m *Machine) endpoints() {
	var want []core.Endpoint
	if m.ha.protection == protectionESP && m.ha.v6.IsValid() && m.state != starting && m.state != stopped {
		e := core.Endpoint{Peer: m.ha.name, Home: m.hoa()}
		if m.bound() {
			e = m.tunnelled(e)
		}
		want = append(want, e)
		for _, x := range m.also {
			e := core.Endpoint{Peer: m.ha.name, Home: x.home.Addr()}
			if m.serves(x) {
				e = m.tunnelled(e)
			}
			want = append(want, e)
		}
	}
	for _, e := range m.ends { // first, so that a home address has one tunnel at a time
		if !slices.ContainsFunc(want, func(w core.Endpoint) bool { return w.Peer == e.Peer && w.Home == e.Home }) && e.Remote.IsValid() {
			e.Local, e.Remote = netip.Addr{}, netip.Addr{}
			m.out = append(m.out, e)
		}
	}
	again := m.endsAt <= m.now.Boot
	for _, e := range want {
		if again || !slices.Contains(m.ends, e) {
			m.out = append(m.out, e)
		}
	}
	if m.ends = want; again {
		m.endsAt = never
	}
}

// endpointsAgain takes that effects failed: a tunnel that was to move with them did not, and all are told again in a while.
func (m *Machine) endpointsAgain() {
	if m.ha.protection == protectionESP && len(m.ends) > 0 {
		m.endsAt = min(m.endsAt, m.now.Boot+retryAfter)
	}
}

// tunnelled adds the ends of the tunnel of data.
func (m *Machine) tunnelled(e core.Endpoint) core.Endpoint {
	l := m.chain(m.bind.careOf.Addr, m.bind.framing).Layer[0]
	e.Local, e.Remote = l.Local.Addr(), l.Remote.Addr()
	return e
}
