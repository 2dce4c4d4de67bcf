package anchor

import (
	"bytes"
	"fmt"
	"net/netip"
	"slices"

	"kedge/internal/anchor/lma"
	"kedge/internal/binding"
	"kedge/internal/core"
	"kedge/wire"
	"kedge/wire/mobility"
)

// create is a new mobility session: RFC 5213 5.3.2, RFC 5844 3.1.2.2.
func (m *Machine) create(r *registration) {
	if f := m.room(r); f != nil {
		m.refuse(r, f)
		return
	}
	p, refusal := m.arrange(r, binding.Homes{}, false)
	if refusal == nil && p.homes.Empty() {
		refusal = p.v4 // the draft's IPv6 part is there, or arrange had refused
	}
	if refusal != nil {
		m.refuse(r, refusal)
		return
	}
	e := binding.Entry{ID: m.store.newID(), Since: m.now.Wall.UnixNano(), Domain: r.domain, Proxy: true}
	i := m.cache.Add(e, r.Node, r.Interface())
	if err := m.cache.SetHomes(i, p.homes); err != nil {
		m.cache.Remove(i)
		m.putBack(r, p.taken)
		m.refuse(r, &lma.Refusal{Status: mobility.ReasonUnspecified, Reason: wire.PrefixNotAuthorized, Detail: err.Error()})
		return
	}
	m.fill(i, r, &p)
	m.setState(i, binding.Active, "new", netip.Addr{}, r.rule)
	m.defend(r.domain, p.homes.Keys(), false)
	m.commit(i, nil, m.forwarding(i, 0), r, m.answer(r, m.cache.At(i), p.homes, p.v4))
}

// room refuses what would exceed a limit.
func (m *Machine) room(r *registration) *lma.Refusal {
	from := r.path.Remote.Addr()
	f := &lma.Refusal{Status: mobility.InsufficientResources}
	interfaces := 0
	for range m.cache.ByNode(r.Node) {
		interfaces++
	}
	switch {
	case interfaces >= maxInterfaces:
		f.Reason, f.Detail = wire.SessionLimit, fmt.Sprintf("the mobile node has %d sessions", interfaces)
	case m.cache.Len()+m.hosts.table.Len() >= m.cfg.Limits.Sessions:
		f.Reason = wire.SessionLimit
	case m.gateways.sessions(from) >= m.cfg.Limits.SessionsPerGateway, m.gateways.full(from):
		f.Reason = wire.PeerSessionLimit
	default:
		return nil
	}
	return f
}

// update is a request for an existing session: RFC 5213 5.3.1 (13), 5.3.3, 5.3.4.
func (m *Machine) update(r *registration) {
	if r.Lifetime == 0 {
		m.deregister(r)
		return
	}
	i := r.session
	e, have := m.cache.At(i), m.cache.Homes(i)
	former := addr(e.CareOf)
	handoff := former != r.CareOf
	if handoff && m.gateways.full(r.path.Remote.Addr()) {
		m.refuse(r, &lma.Refusal{Status: mobility.InsufficientResources, Reason: wire.PeerSessionLimit})
		return
	}
	p, refusal := m.arrange(r, have, handoff)
	if refusal != nil {
		m.refuse(r, refusal)
		return
	}
	var why string
	switch {
	case e.State == binding.Deprecated:
		why = "returned"
	case handoff:
		why = "handoff"
	case !p.homes.Equal(have), addr(e.Anchor) != r.path.Local.Addr(), e.ATT != r.ATT, !bytes.Equal(m.cache.LinkLayer(i), r.Interface()):
		why = "changed"
	default:
		m.refresh(r, &p)
		return
	}
	before, left := m.encode(i), m.departing(i, r)
	if err := m.cache.SetHomes(i, p.homes); err != nil {
		m.putBack(r, p.taken)
		m.refuse(r, &lma.Refusal{Status: mobility.ReasonUnspecified, Reason: wire.PrefixNotAuthorized, Detail: err.Error()})
		return
	}
	if !p.router.IsValid() && p.homes.V4.IsValid() {
		p.router = netip.AddrFrom4(e.Router4) // kept with the address
	}
	m.cache.SetLinkLayer(i, r.Interface())
	m.fill(i, r, &p)
	gone := without(have.Keys(), p.homes.Keys())
	m.giveBack(e.Domain, r.Node, gone, true)
	m.setState(i, binding.Active, why, former, r.rule)
	m.defend(e.Domain, gone, true)
	m.defend(e.Domain, without(p.homes.Keys(), have.Keys()), false)
	ops := append(m.forwarding(i, m.cfg.Timers.UplinkGrace), m.dropKeys(e.Domain, gone)...)
	m.commit(i, before, ops, r, m.answer(r, e, p.homes, p.v4))
	m.depart(left, r)
}

// refresh extends the lifetime and nothing else: it is written behind and waits for nothing, unless an earlier change of
// the session is not durable yet.
func (m *Machine) refresh(r *registration, p *plan) {
	i := r.session
	e := m.cache.At(i)
	p.router = netip.AddrFrom4(e.Router4)
	open := m.flights.open(e.ID)
	var before []byte
	if open {
		before = m.encode(i)
	}
	m.fill(i, r, p)
	ack := m.answer(r, e, p.homes, p.v4)
	if open {
		m.commit(i, before, m.forwarding(i, 0), r, ack)
		return
	}
	m.effect(core.Persist{Key: sessionKey(e.ID), Val: m.encode(i), Lazy: !m.cfg.PMIP6.MobileNodeTimestamps})
	m.effect(core.Send{Path: r.path, Body: ack})
}

// fill writes the accepted values into the entry, RFC 5213 5.1, and starts its lifetime.
func (m *Machine) fill(i binding.Index, r *registration, p *plan) {
	e := m.cache.At(i)
	e.CareOf, e.Anchor = r.CareOf.As16(), r.path.Local.Addr().As16()
	m.order(i, r)
	e.Lifetime = m.granted(r.Lifetime)
	e.Expires = m.now.Boot + lifetime(e.Lifetime)
	e.ATT, e.Handoff = r.ATT, r.Asked()
	if r.Dialect != lma.NoDialect {
		e.Dialect = uint8(r.Dialect)
	}
	switch {
	case r.HasLinkLocal && !r.LinkLocal.IsUnspecified():
		e.LinkLocal = r.LinkLocal.As16()
	case r.HasLinkLocal && addr(e.LinkLocal).IsUnspecified():
		e.LinkLocal = m.cfg.LinkLocal.As16()
	}
	e.Router4 = [4]byte{}
	if p.router.IsValid() {
		e.Router4 = p.router.As4()
	}
	m.serve(e, r.path.Remote.Addr(), r.path.Local.Addr())
	m.cache.Schedule(i)
}

// order remembers what orders the next request.
func (m *Machine) order(i binding.Index, r *registration) {
	e := m.cache.At(i)
	e.Sequence = r.Sequence
	if r.HasTimestamp {
		e.Timestamp = max(m.accepted(i), r.Timestamp)
	} else {
		e.Timestamp = 0 // RFC 5213 5.1: ALL_ZERO in the sequence number based scheme
	}
}

// serve makes a gateway the one that counts the session, and watches it; the zero address is nobody.
func (m *Machine) serve(e *binding.Entry, gw, local netip.Addr) {
	m.revocations.Settled(e.ID, gw)
	if e.Gateway != 0 {
		if g := m.gateways.at(e.Gateway); g.addr == gw {
			g.local = local
			return
		}
		if former, last := m.gateways.leave(e.Gateway); last && m.watch != nil {
			m.watch.Remove(former)
		}
		e.Gateway = 0
	}
	if !gw.IsValid() {
		return
	}
	n, first := m.gateways.enter(gw, local, m.peerName(gw))
	e.Gateway = n
	if first && m.watch != nil && !m.cfg.Heartbeat.Off {
		m.watch.Add(m.now, gw)
	}
}

// deregister is RFC 5213 5.3.5 and RFC 5844 3.1.2.5: of the session, or of one of its families.
func (m *Machine) deregister(r *registration) {
	i := r.session
	e, have := m.cache.At(i), m.cache.Homes(i)
	if addr(e.CareOf) != r.CareOf {
		m.refuse(r, &lma.Refusal{Reason: wire.NotServingGateway, Silent: true, Detail: addr(e.CareOf).String() + " serves the session"})
		return
	}
	rest := have
	if r.HasV4() {
		rest.V4 = netip.Prefix{}
	}
	if r.HNPOptions > 0 {
		rest.Prefixes = nil
	}
	before := m.encode(i)
	id := e.ID
	m.order(i, r)
	ack := func() *mobility.BindingAck {
		a := m.answer(r, e, have, nil)
		a.Lifetime = 0
		return a
	}
	switch {
	case e.State == binding.Deprecated, rest.Equal(have): // repeated: the wait goes on from the first
		if m.flights.open(id) {
			m.commit(i, before, m.forwarding(i, 0), r, ack())
			return
		}
		m.effect(core.Persist{Key: sessionKey(id), Val: m.encode(i), Lazy: true})
		m.effect(core.Send{Path: r.path, Body: ack()})
		return
	case !rest.Empty():
		gone := without(have.Keys(), rest.Keys())
		answer := ack()               // still tells what is deregistered
		_ = m.cache.SetHomes(i, rest) // a subset of its own keys cannot be another's
		if !rest.V4.IsValid() {
			e.Router4 = [4]byte{}
		}
		m.giveBack(e.Domain, r.Node, gone, true)
		m.setState(i, binding.Active, "partly-deregistered", netip.Addr{}, r.rule)
		m.defend(e.Domain, gone, true)
		m.commit(i, before, m.dropKeys(e.Domain, gone), r, answer)
		return
	}
	m.revocations.Settled(id, r.path.Remote.Addr())
	m.serve(e, netip.Addr{}, netip.Addr{})
	e.Expires = m.now.Boot + m.cfg.Timers.MinDelayBeforeBCEDelete
	m.cache.Schedule(i)
	m.setState(i, binding.Deprecated, "deregistered", netip.Addr{}, r.rule)
	m.commit(i, before, m.forwarding(i, 0), r, ack())
	m.released(id)
}

// due ends a lifetime or the wait of a deprecated session.
func (m *Machine) due(i binding.Index) {
	if m.cache.At(i).State == binding.Deprecated {
		m.remove(i, "delay-over", false)
		return
	}
	m.remove(i, "expired", true)
}

// remove deletes a session everywhere. rest: its addresses were in use until now. They are free when the end is durable,
// or a restart could find them with two owners.
func (m *Machine) remove(i binding.Index, why string, rest bool) {
	e := m.cache.At(i)
	end := ending{id: e.ID, domain: e.Domain, node: m.cache.Node(i), keys: m.cache.Homes(i).Keys(), rest: rest}
	m.setState(i, binding.None, why, netip.Addr{}, "")
	m.serve(e, netip.Addr{}, netip.Addr{})
	m.cache.Remove(i)
	m.end(end)
	m.defend(end.domain, end.keys, true)
	m.released(end.id)
}

// without lists what of a is not in b.
func without(a, b []netip.Prefix) (out []netip.Prefix) {
	for _, k := range a {
		if !slices.Contains(b, k) {
			out = append(out, k)
		}
	}
	return out
}
