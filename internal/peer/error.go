package peer

import (
	"net/netip"

	"kedge/internal/core"
	"kedge/wire"
	"kedge/wire/ip"
	"kedge/wire/mobility"
)

const (
	// bindingErrorRate is how many Binding Errors leave in a second (RFC 6275 9.3.3, RFC 4443 2.4 f).
	bindingErrorRate = 100
	bindingErrorSize = 24 // octets
)

// reported answers data with a Home Address option that is not bound to its source: RFC 6275 9.3.1, 9.3.3. Nothing else is.
func (m *Machine) reported(ev *core.Reported) {
	m.count(wire.Reason(ev.Reason))
	if ev.Reason == core.ReportUnreachable || ev.Reason == string(wire.TunnelError) {
		m.unreachable(ev)
		return
	}
	p := core.Path{Local: ev.Outer.Local, Remote: ev.Outer.Remote}
	home := ev.Inner.Src
	if ev.Reason != string(wire.WrongTunnel) || !ev.HomeAddress || !home.IsValid() || !home.IsSingleIP() || !home.Addr().Is6() || !m.isOwn(p.Local.Addr()) {
		return
	}
	m.bindingError(&p, mobility.UnknownBinding, home.Addr())
}

// unrecognized answers a message type that is not known, RFC 6275 9.2, with no more octets than it had.
func (m *Machine) unrecognized(ev *core.Message) {
	if !m.isOwn(ev.Path.Local.Addr()) || len(ev.Raw) < bindingErrorSize {
		return
	}
	p := answering(&ev.Path)
	home := netip.IPv6Unspecified()
	if p.Home.IsValid() {
		home, p.Home = p.Home, netip.Addr{}
	}
	m.bindingError(&p, mobility.UnrecognizedMHType, home)
}

// bindingError sends one to the source that was on the wire, without a routing header.
func (m *Machine) bindingError(p *core.Path, status uint8, home netip.Addr) {
	to := p.Remote.Addr()
	if !ip.Routable(to) || !m.errors.take(m.now.Boot, to) {
		return
	}
	m.emit(core.Emit{Name: "binding-error", Why: [...]string{1: string(wire.UnknownHome), 2: string(wire.UnknownType)}[status], Fields: Fields{
		HoA: home, CareOf: to, Own: p.Local.Addr(), Status: status,
	}})
	m.out = append(m.out, core.Send{Path: *p, Body: &mobility.BindingError{Status: status, Home: home}})
}
