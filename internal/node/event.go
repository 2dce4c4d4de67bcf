package node

import (
	"net/netip"

	"kedge/internal/core"
	"kedge/wire"
	"kedge/wire/mobility"
)

// Names of events: "session" (a change of state), "handover" (packets take another way), "path" (dead, alive, udp),
// "retransmit", "refused", "resync", "resumed", "message-ignored" (Why: a wire.Reason), "warning", "failed" (an effect).

func (m *Machine) count(r wire.Reason) { m.counts[string(r)]++ }

// ignored counts a message that changes nothing.
func (m *Machine) ignored(p *core.Path, r wire.Reason, detail string) {
	m.count(r)
	f := map[string]any{"peer": p.Remote.Addr().String(), "layer": "signalling"}
	if detail != "" {
		f["err"] = detail
	}
	m.emit(core.Emit{Name: "message-ignored", Why: string(r), Fields: f})
}

// failed tells of an effect that was not carried out.
func (m *Machine) failed(what string, err error) {
	m.counts["failed-"+what]++
	m.emit(core.Emit{Name: "failed", ID: m.session.id, Why: what, Fields: map[string]any{"err": err.Error()}})
}

// refreshRequest takes a Binding Refresh Request, RFC 6275 11.7.4: only of who has a binding of ours.
func (m *Machine) refreshRequest(p *core.Path) {
	if !m.bound() || !m.vouched(p) {
		m.ignored(p, wire.Unsolicited, "Binding Refresh Request")
		return
	}
	// However fast they come: the answer to the last Binding Update may be on its way, or have been a refusal.
	least := minRefresh
	if m.state == refused {
		least = refusedFirst
	}
	switch at := m.rate.Latest() + least; {
	case at <= m.now.Boot:
		m.requested("binding refresh request")
	case m.state == active:
		m.bind.refreshAt = min(m.bind.refreshAt, at)
	default:
		m.ignored(p, wire.RateLimit, "Binding Refresh Request")
	}
}

// minBindingError is the least time between Binding Updates that Binding Errors cause. Nothing protects those messages.
const minBindingError = 5 * minRefresh

// bindingError takes a Binding Error, RFC 6275 11.3.6.
func (m *Machine) bindingError(p *core.Path, be *mobility.BindingError) {
	switch {
	case !m.bound() && len(m.sent) == 0: // no entry for the source
		m.ignored(p, wire.Unsolicited, "Binding Error")
	case !be.Home.IsUnspecified() && be.Home != m.hoa():
		m.ignored(p, wire.UnknownHome, "Binding Error")
	case be.Status == mobility.UnknownBinding && m.state != refused && m.now.Boot >= m.rate.Latest()+minBindingError:
		m.count(wire.UnknownHome)
		m.requested("binding error")
	case be.Status == mobility.UnrecognizedMHType:
		m.ignored(p, wire.UnsupportedMessage, "Binding Error 2")
	default:
		m.ignored(p, wire.RateLimit, "Binding Error")
	}
}

// unrecognized answers a message of a type that is not known (RFC 6275 9.2), only to the home agent and once a second.
func (m *Machine) unrecognized(p *core.Path) {
	if p.Remote.Addr() != m.ha.v6 || m.now.Boot < m.told+minRefresh {
		return
	}
	m.told = m.now.Boot
	back := *p
	back.Auth = core.Auth{Kind: "none"}
	home := netip.IPv6Unspecified()
	if p.Home.IsValid() { // of the message's Home Address option, which a home agent does not send (RFC 6275 9.3.3)
		home = p.Home
	}
	m.out = append(m.out, core.Send{Path: back, Body: &mobility.BindingError{Status: mobility.UnrecognizedMHType, Home: home}})
}
