package anchor

import (
	"kedge/internal/anchor/homeagent"
	"kedge/internal/binding"
	"kedge/internal/core"
)

// hostEndpoint moves the tunnel that protects a node's return routability to where its registration is, or ends it with that. Only a
// Binding Update that ESP protected may do so (RFC 3776 4.3, RFC 4877 4.3).
func (m *Machine) hostEndpoint(h *homeagent.Registration) {
	p, ok := m.subs.Home(h.Home)
	if !ok || h.Auth.Kind != "esp" {
		return
	}
	e := core.Endpoint{Peer: p.Peer, Home: h.Home}
	if h.State == binding.Active {
		l := h.Chain().Layer[0]
		e.Local, e.Remote = l.Local.Addr(), l.Remote.Addr()
	}
	m.effect(e)
}
