package anchor

import (
	"fmt"
	"net/netip"

	"kedge/internal/core"
	"kedge/internal/heartbeat"
	"kedge/wire"
	"kedge/wire/mobility"
)

// message takes one Mobility Header message. Who is no configured peer gets nothing but a Binding Error, and that at a
// rate for all of them together.
func (m *Machine) message(ev *core.Message) {
	if m.overheard(ev) {
		return
	}
	if m.discover(ev) {
		return
	}
	src := ev.Path.Remote.Addr()
	if b, ok := ev.Body.(*mobility.BindingError); ok && ev.Err == nil && m.deafToSwitch(&ev.Path, b) {
		return
	}
	if bu, ok := ev.Body.(*mobility.BindingUpdate); ok && ev.Err == nil && bu.Flags&mobility.BUProxy == 0 && m.cfg.DSMIP6.On {
		m.hostUpdate(ev.Path, bu)
		return
	}
	p := m.peers.find(src)
	about := Fields{ProxyCoA: src}
	if p != nil {
		about.Peer = p.Name
	}
	if !m.peers.take(m.now, p) {
		m.refused[wire.RateLimit]++ // no event: that is the point
		return
	}
	if ev.Err != nil {
		m.malformed(ev, about, p != nil)
		return
	}
	if _, raw := ev.Body.(*mobility.Raw); raw {
		m.unrecognized(ev, about, p != nil)
		return
	}
	if p == nil {
		m.drop(wire.UnknownPeer, about)
		return
	}
	if !m.isLocal(ev.Path.Local.Addr()) {
		m.drop(wire.BadDestination, about)
		return
	}
	switch b := ev.Body.(type) {
	case *mobility.BindingUpdate:
		if b.Flags&mobility.BUProxy == 0 {
			m.drop(wire.NotProxy, about)
			return
		}
		m.proxyUpdate(p, ev.Path, b)
	case *mobility.Heartbeat:
		m.heartbeat(ev.Path, b)
	case *mobility.BindingError:
		if b.Status == mobility.UnrecognizedMHType && m.unsupported(src, about) {
			return
		}
		m.drop(wire.Unsolicited, about)
	case *mobility.Revocation:
		if m.cfg.PMIP6.NoRevocation {
			m.unrecognized(ev, about, true) // a type that is not known, RFC 6275 9.2
			return
		}
		m.revocation(p, ev.Path, b, about)
	default:
		m.drop(wire.UnsupportedMessage, about)
	}
}

func (m *Machine) isLocal(a netip.Addr) bool {
	for _, l := range m.cfg.Addresses {
		if l == a {
			return true
		}
	}
	return false
}

// malformed counts a decode error. Only a type that is not known is answered (RFC 6275 9.2).
func (m *Machine) malformed(ev *core.Message, about Fields, known bool) {
	reason := wire.ReasonOf(ev.Err)
	if reason == wire.UnknownType {
		m.unrecognized(ev, about, known)
		return
	}
	about.Err = ev.Err.Error()
	m.drop(reason, about)
}

// unrecognized answers a message type that is not known, RFC 6275 9.2.
func (m *Machine) unrecognized(ev *core.Message, about Fields, known bool) {
	m.drop(wire.UnknownType, about)
	m.bindingError(ev, known)
}

// heartbeat hands a heartbeat to the monitor, RFC 5847 3.
func (m *Machine) heartbeat(path core.Path, hb *mobility.Heartbeat) {
	if m.watch == nil {
		return
	}
	reply, news := m.watch.Handle(m.now, path.Remote.Addr(), hb)
	if reply != nil {
		m.effect(core.Send{Path: path, Body: reply})
	}
	m.news(news)
}

// beat sends heartbeat requests that are due.
func (m *Machine) beat() {
	if m.watch == nil {
		return
	}
	send, news := m.watch.Tick(m.now)
	for _, o := range send {
		local := m.cfg.Addresses[0]
		if n := m.gateways.byAddr[o.Peer]; n != 0 {
			local = m.gateways.at(n).local
		}
		m.effect(core.Send{Path: core.Path{Local: netip.AddrPortFrom(local, 0), Remote: netip.AddrPortFrom(o.Peer, 0)}, Body: o.Message})
	}
	m.news(news)
}

// news tells about gateways. A gateway that restarted or died keeps its sessions here until their lifetime ends: its
// hosts are registered again by it or by another one, with the same addresses, and what RFC 5847 3 calls marking invalid
// would take the addresses from hosts that stay silent.
func (m *Machine) news(news []heartbeat.News) {
	for _, n := range news {
		f := Fields{ProxyCoA: n.Peer}
		if p := m.peers.find(n.Peer); p != nil {
			f.Peer = p.Name
		}
		from := "alive"
		switch n.Kind {
		case heartbeat.Alive:
			from = "unknown"
		case heartbeat.Restarted:
			f.Detail = fmt.Sprintf("restart counter %d -> %d", n.Old, n.New)
			m.revocations.Restarted(n.Peer)
		}
		m.emit(core.Emit{Name: "peer", From: from, To: n.Kind.String(), Why: "heartbeat", Fields: f})
	}
}

// announce tells all peers with one known address that the sessions are lost, RFC 5847 3.2: they register again at once.
func (m *Machine) announce() {
	local := m.cfg.Addresses[0]
	for _, a := range m.cfg.Addresses {
		if a.Is6() {
			local = a
			break
		}
	}
	for _, p := range m.peers.list {
		for _, a := range p.Addresses {
			if p.gateway && a.IsSingleIP() && a.Addr().Is6() == local.Is6() {
				m.effect(core.Send{Path: core.Path{Local: netip.AddrPortFrom(local, 0), Remote: netip.AddrPortFrom(a.Addr(), 0)}, Body: m.watch.Announcement()})
			}
		}
	}
}

// reported counts what the data plane dropped. A gateway that tunnels for a host that another one serves is told so by a
// Binding Error: the host may have come back to it without a sign. The data plane limits how often.
func (m *Machine) reported(ev core.Reported) {
	m.refused[wire.Reason(ev.Reason)]++
	f := Fields{Reason: ev.Reason, ProxyCoA: ev.Outer.Remote.Addr()}
	if i, ok := m.cache.ByID(ev.ID); ok {
		f.Sub = m.cache.Node(i)
	}
	if ev.Inner.Src.IsValid() {
		f.HoA = ev.Inner.Src.Addr()
	} else if ev.Inner.Dst.IsValid() {
		f.HoA = ev.Inner.Dst.Addr()
	}
	m.reportedHost(&ev, &f)
	m.emit(core.Emit{Name: "dropped", ID: ev.ID, Why: ev.Reason, Fields: f})
	if p := m.peers.find(f.ProxyCoA); ev.Reason == string(wire.WrongTunnel) && p != nil && p.gateway && f.HoA.IsValid() {
		// RFC 6275 6.1.9 has status 1 for a home address that comes from where it is not bound; RFC 5213 has no word for it.
		m.effect(core.Send{
			Path: core.Path{Local: ev.Outer.Local, Remote: ev.Outer.Remote},
			Body: &mobility.BindingError{Status: mobility.UnknownBinding, Home: netip.AddrFrom16(f.HoA.As16())},
		})
	}
}
