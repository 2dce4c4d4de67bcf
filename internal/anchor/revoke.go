package anchor

import (
	"fmt"
	"net/netip"
	"slices"

	"kedge/internal/anchor/lma"
	"kedge/internal/anchor/revocation"
	"kedge/internal/binding"
	"kedge/internal/core"
	"kedge/wire"
	"kedge/wire/mobility"
)

// Binding revocation, RFC 5846: the gateway that a host left by a handover is told so (3.4.1), and one that it may have
// left is asked (8.1). The rules are package revocation's.

// departure is a registration that a handover ends.
type departure struct {
	revocation.Registration
	att uint8
}

// departing takes down what the former gateway knows of a session, before a handover changes it. nil: nobody has to be
// told.
func (m *Machine) departing(i binding.Index, r *registration) *departure {
	d := m.served(i)
	// The same gateway by another care-of address learns all from the answer.
	if d == nil || d.CareOf == r.CareOf || d.Gateway == r.path.Remote.Addr() {
		return nil
	}
	return d
}

// served is what the gateway of a session knows of it; nil: no gateway can be told.
func (m *Machine) served(i binding.Index) *departure {
	e := m.cache.At(i)
	if m.cfg.PMIP6.NoRevocation || e.State != binding.Active || e.Gateway == 0 {
		return nil
	}
	g, h := m.gateways.at(e.Gateway), m.cache.Homes(i)
	d := &departure{att: e.ATT, Registration: revocation.Registration{
		ID: e.ID, Node: m.cache.Node(i), Gateway: g.addr, Anchor: g.local, CareOf: addr(e.CareOf),
		Prefixes: h.Prefixes, V4: h.V4, Draft02: Dialect(e.Dialect) == lma.Draft02,
		LinkLayer: slices.Clone(m.cache.LinkLayer(i)), Timestamp: e.Timestamp,
	}}
	if p := m.peers.find(g.addr); p != nil {
		d.ESP = p.Protection == "esp"
	}
	return d
}

// depart tells the former gateway. It comes behind the handover's own effects: when those fail, the indication does not
// leave.
func (m *Machine) depart(d *departure, r *registration) {
	if d == nil {
		return
	}
	trigger := mobility.TriggerHandoverSameType
	switch {
	case d.att == 0 || r.ATT == 0:
		trigger = mobility.TriggerHandoverUnknown
	case d.att != r.ATT:
		trigger = mobility.TriggerHandoverOtherType
	}
	m.indicateTo(d, trigger, "handoff")
}

// inquire asks the gateway of a session that a request waits for whether the host has left it.
func (m *Machine) inquire(r *registration) {
	if d := m.departing(r.session, r); d != nil {
		m.indicateTo(d, mobility.TriggerHandoverUnknown, "waits")
	}
}

// inquired takes the answer. Where the host has left, the session is as if it had been deregistered; where it has not,
// what waits is another interface of the host. Otherwise the wait goes on.
func (m *Machine) inquired(e revocation.End) {
	i, ok := m.cache.ByID(e.ID)
	if !ok || len(m.waiting.bySes[e.ID]) == 0 || m.flights.open(e.ID) {
		return
	}
	s := m.cache.At(i)
	if s.State != binding.Active || s.Gateway == 0 || m.gateways.at(s.Gateway).addr != e.Gateway {
		return
	}
	switch e.Status {
	case mobility.RevocationSuccess, mobility.RevocationPartial, mobility.RevocationNoBinding:
		m.deprecate(i)
		m.released(e.ID)
	case mobility.RevocationNodeAttached:
		for qs := m.waiting.bySes[e.ID]; len(qs) > 0; qs = m.waiting.bySes[e.ID] {
			m.resume(qs[0], string(wire.StillAttached))
		}
	}
}

// deprecate treats a session as if its gateway had deregistered it (RFC 5213 5.3.5).
func (m *Machine) deprecate(i binding.Index) {
	e := m.cache.At(i)
	m.serve(e, netip.Addr{}, netip.Addr{})
	e.Expires = m.now.Boot + m.cfg.Timers.MinDelayBeforeBCEDelete
	m.cache.Schedule(i)
	m.setState(i, binding.Deprecated, "revoked", netip.Addr{}, "")
	m.effect(core.Persist{Key: sessionKey(e.ID), Val: m.encode(i)})
	m.effect(core.Forward{Ops: m.forwarding(i, 0)})
}

// commandRevoke ends the sessions of an identifier, or the one that has an address or prefix, and tells their gateways
// (RFC 5846 8.1). It bars nobody: a host whose profile is still there may register again.
func (m *Machine) commandRevoke(id string) (out core.Revoked, err error) {
	var ends []binding.Index
	host := m.hostOf(id)
	if i, ok := m.byAddress(id); ok {
		ends = append(ends, i)
	} else if h := m.hostByAddress(id); h != nil {
		host = h
	} else {
		ends = slices.Collect(m.cache.ByNode(id))
	}
	busy := false
	if host != nil && host.State == binding.Active {
		if busy = m.revokeHost(host); !busy {
			out.Sessions++
		}
	}
	for _, i := range ends {
		e := m.cache.At(i)
		if e.State != binding.Active {
			continue
		}
		if m.flights.open(e.ID) {
			busy = true
			continue
		}
		d := m.served(i)
		m.deprecate(i)
		out.Sessions++
		if d != nil && m.indicateTo(d, mobility.TriggerAdministrative, "command") {
			out.Told++
		}
		m.released(e.ID)
	}
	switch {
	case out.Sessions > 0:
	case busy:
		err = fmt.Errorf("a change of the session of %q is under way: try again", id)
	default:
		err = fmt.Errorf("%w: %q has no session here", wire.UnknownHost, id)
	}
	return out, err
}

// indicateTo sends the first indication; false: none can be sent.
func (m *Machine) indicateTo(d *departure, trigger uint8, why string) bool {
	o, reason := m.revocations.Revoke(m.now, d.Registration, trigger)
	if reason != "" {
		m.refused[reason]++
		m.revoked(d.ID, "not-sent", string(reason), Fields{Sub: d.Node, ProxyCoA: d.Gateway})
		return false
	}
	m.indicate(o)
	m.revoked(d.ID, "sent", why, Fields{Sub: d.Node, ProxyCoA: d.Gateway, Seq: o.Message.Sequence})
	return true
}

func (m *Machine) indicate(o revocation.Outgoing) {
	m.effect(core.Send{Path: core.Path{Local: netip.AddrPortFrom(o.Local, 0), Remote: netip.AddrPortFrom(o.Remote, 0)}, Body: o.Message})
}

// revoked tells how a revocation goes on: to is sent, not-sent, done, refused or unanswered.
func (m *Machine) revoked(id core.ID, to, why string, f Fields) {
	f.Peer = m.peerName(f.ProxyCoA)
	m.emit(core.Emit{Name: "revocation", ID: id, To: to, Why: why, Fields: f})
}

// revokeAgain sends again what was not acknowledged, and tells what never was.
func (m *Machine) revokeAgain() {
	send, ends := m.revocations.Tick(m.now)
	for _, o := range send {
		m.indicate(o)
		m.emit(core.Emit{Name: "retransmit", ID: o.ID, Why: string(wire.NoAnswer), Fields: map[string]any{
			"type": "bri", "sub": o.Node, "peer": m.peerName(o.Remote), "seq": o.Message.Sequence}})
	}
	for _, e := range ends {
		m.refused[wire.NoAnswer]++
		m.revoked(e.ID, "unanswered", string(wire.NoAnswer), Fields{Sub: e.Node, ProxyCoA: e.Gateway, Seq: e.Seq})
	}
}

// revocation takes what RFC 5846 defines. Gateways may not revoke here: they deregister, one by one (RFC 5213 6.9.1.4).
func (m *Machine) revocation(p *peer, path core.Path, b *mobility.Revocation, about Fields) {
	about.Seq = b.Sequence
	if !b.Ack {
		about.Status = mobility.RevocationFunctionNotSupported
		if b.Global {
			about.Status = mobility.RevocationGlobalNotAuthorized
		}
		m.drop(wire.NotAuthorized, about)
		if p.gateway {
			m.effect(core.Send{Path: path, Body: &mobility.Revocation{
				Ack: true, Code: about.Status, Sequence: b.Sequence, Proxy: b.Proxy, IPv4Only: b.IPv4Only, Global: b.Global}})
		}
		return
	}
	end, reason := m.revocations.Acknowledged(m.now, path.Remote.Addr(), b)
	if reason != "" {
		m.drop(reason, about)
		return
	}
	to, why := "done", "acknowledged"
	switch {
	case end.Status == mobility.RevocationNoBinding: // it did not need to be told, or this is the answer to a copy
		why = string(wire.UnknownHost)
	case end.Status >= 128:
		// The session is where it is: a gateway that has the host after all says so by a request.
		to, why = "refused", revocationReason(end.Status)
	}
	about.Sub, about.Status = end.Node, end.Status
	m.revoked(end.ID, to, why, about)
	m.inquired(end)
}

// revocationReason names a status of RFC 5846 5.2.
func revocationReason(status uint8) string {
	switch status {
	case mobility.RevocationNodeAttached:
		return string(wire.StillAttached)
	case mobility.RevocationTriggerNotSupported, mobility.RevocationFunctionNotSupported, mobility.RevocationProxyNotSupported:
		return string(wire.UnsupportedMessage)
	}
	return string(wire.RefusedByGateway)
}

// unsupported takes a Binding Error of status 2: of the two message types that not every gateway knows, one is out. A
// gateway that never answered a heartbeat means that one first.
func (m *Machine) unsupported(from netip.Addr, about Fields) bool {
	if m.watch == nil {
		return false
	}
	what, alive := "", false
	if alive, _, _ = m.watch.Status(from); !alive && m.watch.Unsupported(from) {
		what = "no-heartbeat"
	} else if m.revocations.Unsupported(m.now, from) {
		what = "no-revocation"
	} else if m.watch.Unsupported(from) {
		what = "no-heartbeat"
	}
	if what != "" {
		m.emit(core.Emit{Name: "peer", From: "unknown", To: what, Why: "binding-error", Fields: about})
	}
	return what != ""
}
