package gateway

import (
	"fmt"
	"net/netip"
	"slices"
	"time"

	"kedge/internal/access"
	"kedge/internal/core"
	"kedge/wire"
	"kedge/wire/mobility"
)

// Binding revocation, RFC 5846 9.1: an anchor says that a session is not ours any more. After a handover the host is with
// another gateway, so nothing is said to it; when somebody ended its session, it hears so.
//
// The danger is an indication that is late: the host is back, and what the anchor means is over. Our own anchors say in a
// Timestamp option which registration they mean; with others the host is asked. It is also asked for an anchor that only
// supposes a handover.

// RevokeProbe is how long a host has to answer before an indication without Timestamp is believed: less than
// InitMINDelayBRIs can be (RFC 5846 11), so that the acknowledgement comes before the repetition.
const RevokeProbe = 400 * time.Millisecond

// handedOver says that a trigger means that the session goes on elsewhere (RFC 5846 5.1).
func handedOver(trigger uint8) bool {
	switch trigger {
	case mobility.TriggerHandoverSameType, mobility.TriggerHandoverOtherType, mobility.TriggerHandoverUnknown, mobility.TriggerOutOfSync:
		return true
	}
	return false
}

// revocation takes a Binding Revocation Indication.
func (m *Machine) revocation(a *anchor, b *mobility.Revocation) {
	if b.Ack {
		m.ignored(a.Address, "", wire.Unsolicited, "binding revocation acknowledgement")
		return
	}
	es, status, reason := m.revoked(a, b)
	if reason != "" {
		m.refuseRevocation(a, b, nil, status, reason)
		return
	}
	if len(es) == 1 && m.ask(es[0], b) {
		return
	}
	var kept []*entry
	for _, e := range es {
		if why := m.stays(e, b); why != "" {
			kept, reason = append(kept, e), why
		}
	}
	if len(kept) == len(es) {
		m.refuseRevocation(a, b, kept[0], mobility.RevocationNodeAttached, reason)
		return
	}
	for _, e := range es {
		if !slices.Contains(kept, e) {
			m.revoke(e, b, true)
		}
	}
	if len(kept) > 0 {
		status = mobility.RevocationPartial
	}
	m.acknowledge(a, b, status)
}

// revoked finds the sessions that an indication names. With a reason there is none, and status says so.
func (m *Machine) revoked(a *anchor, b *mobility.Revocation) (es []*entry, status uint8, reason wire.Reason) {
	id, named := b.Options.MobileNodeID()
	home, v4 := revokedIPv4(b.Options)
	switch {
	case b.Global: // of many sessions at once: not served
		return nil, mobility.RevocationFunctionNotSupported, wire.UnsupportedMessage
	case !b.Proxy: // a binding that a host made itself is none of ours
		return nil, mobility.RevocationNoBinding, wire.NotProxy
	case b.Code >= 128 && b.Code < 250: // for G only
		return nil, mobility.RevocationFunctionNotSupported, wire.BadValue
	case b.Code > mobility.TriggerOutOfSync:
		return nil, mobility.RevocationTriggerNotSupported, wire.BadValue
	case !named || id.Subtype != mobility.SubtypeNAI || id.ID == "":
		return nil, mobility.RevocationNoBinding, wire.MissingMNID
	case b.IPv4Only && !v4:
		return nil, mobility.RevocationIPv4HomeRequired, wire.BadValue
	}
	prefixes := slices.Collect(b.Options.HomeNetworkPrefixes())
	ll, hasLL := b.Options.LinkLayerID()
	for _, e := range m.byID[id.ID] {
		open := e.req != nil && e.req.lifetime > 0
		switch {
		case e.anchor != a || hasLL && string(ll.ID) != string(e.mac[:]):
		case !e.state.bound() && e.state != deregistering:
			// Its acceptance may be lost; what it got is not known here.
			if open && (hasLL || len(m.byID[id.ID]) == 1) {
				es = append(es, e)
			}
		case b.IPv4Only && e.ipv4.Addr() != home:
		case !b.IPv4Only && len(prefixes) > 0 && !sharesPrefix(e, prefixes):
		default:
			es = append(es, e)
		}
	}
	if len(es) == 0 {
		return nil, mobility.RevocationNoBinding, wire.UnknownHost
	}
	for _, p := range prefixes {
		if !b.IPv4Only && !slices.ContainsFunc(es, func(e *entry) bool { return !e.state.bound() || slices.Contains(e.prefixes, p) }) {
			status = mobility.RevocationPartial // released already
		}
	}
	return es, status, ""
}

// revokedIPv4 is the home address that an indication for IPv4 names, in either dialect.
func revokedIPv4(o mobility.Options) (netip.Addr, bool) {
	if v, ok := o.IPv4HomeAddressRequest(); ok {
		return v.Addr, true
	}
	v, ok := o.IPv4HomeAddress()
	return v.Addr, ok
}

// meant is the Timestamp of the registration that is revoked, if our requests and the indication have one.
func (m *Machine) meant(b *mobility.Revocation) (uint64, bool) {
	v, ok := b.Options.Timestamp()
	return v.Value, ok && !m.cfg.SequenceOrdering
}

// stays says why a session is not ended by an indication: it was registered again since, or the host has arrived since it
// was registered. Empty: it ends.
func (m *Machine) stays(e *entry, b *mobility.Revocation) wire.Reason {
	open := e.req != nil && e.req.lifetime > 0
	if stamp, ok := m.meant(b); ok {
		if e.state.bound() && e.accepted > stamp || open && e.stamp > stamp {
			return wire.RegisteredSince
		}
		return ""
	}
	switch {
	case !handedOver(b.Code):
	case open:
		return wire.RegisteredSince
	case e.state.bound() && e.arrived > e.confirmed:
		return wire.StillAttached
	}
	return ""
}

// ask makes sure that the host has left before it is believed (RFC 5846 9.1): when the anchor does not know itself and
// waits for the answer, and when it does not say which registration it means. False: there is no need.
func (m *Machine) ask(e *entry, b *mobility.Revocation) bool {
	_, told := m.meant(b)
	if told && b.Code != mobility.TriggerHandoverUnknown || !handedOver(b.Code) || !e.state.bound() || e.link.down || m.stays(e, b) != "" {
		return false
	}
	if e.revoking != nil && e.revoking.Sequence == b.Sequence {
		return true // a repetition: the host is being asked
	}
	if !m.probeOnce(e) {
		return false
	}
	own := *b
	own.Options = b.Options.Clone()
	e.revoking = &own
	m.arm(e, tRevoke, m.now.Boot+RevokeProbe)
	return true
}

// probeOnce asks a host for a sign of life; false: there is no way to.
func (m *Machine) probeOnce(e *entry) bool {
	acts := e.link.home.Probe(m.now, e.mac, nil)
	m.carryOut(e.link, acts)
	return slices.ContainsFunc(acts, func(a access.Action) bool { _, ok := a.(access.Transmit); return ok })
}

// here ends the question of ask: the host answered. The anchor may have its session elsewhere already, so it is registered.
func (m *Machine) here(e *entry) {
	b := e.revoking
	e.revoking = nil
	m.disarm(e, tRevoke)
	m.refuseRevocation(e.anchor, b, e, mobility.RevocationNodeAttached, wire.StillAttached)
	if e.state == active {
		e.trigger, e.by, e.reassert = m.now.Boot, "revocation", true
		m.register(e, "revoked, but here")
	}
}

// left ends it: no answer.
func (m *Machine) left(e *entry) {
	b := e.revoking
	e.revoking = nil
	a := e.anchor
	if why := m.stays(e, b); why != "" {
		m.refuseRevocation(a, b, e, mobility.RevocationNodeAttached, why)
		return
	}
	m.revoke(e, b, false)
	m.acknowledge(a, b, mobility.RevocationSuccess)
}

// revoke ends a session without a word to the anchor. After a handover there is none to the host either: its addresses are
// as good as before, where it is now. probe: should it be here after all, it is asked to show itself, and attaches anew;
// but not when it attached so lately that two gateways that hear the same host would take it from each other for ever.
func (m *Machine) revoke(e *entry, b *mobility.Revocation, probe bool) {
	why := fmt.Sprintf("revoked by the anchor, trigger %d", b.Code)
	m.counts["revocations"]++
	m.endRequest(e)
	switch {
	case b.IPv4Only && len(e.prefixes) > 0 && e.state.bound():
		m.past(e.mn, "lost IPv4", "", why)
		e.left = true
		e.wants &^= access.V4
		e.ipv4, e.router4 = netip.Prefix{}, netip.Addr{}
		m.forward(e)
		m.grant(e)
		m.afterPartial(e)
	case !handedOver(b.Code):
		m.finish(e, why)
	default:
		m.unforward(e)
		asked := probe && e.state.bound() && m.now.Boot-e.confirmed > ReturnAfter && m.probeOnce(e)
		m.absent.leave(e.mac, away{at: m.now.Boot, link: e.link, router: e.router4, asked: asked})
		m.forget(e, why)
	}
}

// refuseRevocation rejects an indication; e may be nil.
func (m *Machine) refuseRevocation(a *anchor, b *mobility.Revocation, e *entry, status uint8, reason wire.Reason) {
	m.count(reason)
	f := map[string]any{"peer": a.Name, "seq": b.Sequence, "status": status, "reason": string(reason)}
	var id core.ID
	if e != nil {
		id, f["sub"] = e.id, e.mn
		m.past(e.mn, "revocation refused", string(reason), "")
	}
	m.emit(core.Emit{Name: "revocation", ID: id, To: "refused", Why: string(reason), Fields: f})
	m.acknowledge(a, b, status)
}

// acknowledge answers an indication, RFC 5846 6.1.2.
func (m *Machine) acknowledge(a *anchor, b *mobility.Revocation, status uint8) {
	ack := &mobility.Revocation{Ack: true, Code: status, Sequence: b.Sequence, Proxy: b.Proxy, IPv4Only: b.IPv4Only, Global: b.Global}
	if id, ok := b.Options.MobileNodeID(); ok && b.Proxy {
		ack.Options = ack.Options.Add(id)
	}
	m.out = append(m.out, core.Send{Path: m.path(a), Body: ack})
}
