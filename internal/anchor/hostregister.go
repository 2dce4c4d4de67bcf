package anchor

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"kedge/internal/anchor/homeagent"
	"kedge/internal/binding"
	"kedge/internal/core"
	"kedge/internal/pool"
	"kedge/internal/subscriber"
	"kedge/wire"
	"kedge/wire/mobility"
)

// reserveHost checks what a profile says for host registrations, and keeps its addresses from others.
func (m *Machine) reserveHost(p *subscriber.Profile) error {
	if !p.HoA.IsValid() {
		return nil
	}
	if m.peers.byName[p.Peer] == nil {
		return fmt.Errorf("there is no peer %q", p.Peer)
	}
	if m.isLocal(p.HoA.Addr()) {
		return fmt.Errorf("hoa %s is an address of the anchor itself", p.HoA.Addr())
	}
	onLink := m.cfg.HomeLink != "" && p.Domain == 0
	switch around := m.pools.Around(p.Domain, p.HoA.Addr()); {
	case around == nil && !onLink:
		return fmt.Errorf("hoa %s is in no pool of its domain: nothing routes it here", p.HoA.Addr())
	case around != nil:
		if err := around.Settle(p.HoA.Addr(), p.ID); err != nil {
			return fmt.Errorf("hoa %s of pool %q: %w", p.HoA.Addr(), around.Name(), err)
		}
	}
	if n, known := slices.BinarySearch(m.domains, p.Domain); !known {
		m.domains = slices.Insert(m.domains, n, p.Domain)
	}
	m.homeNetworks.Insert(p.HoA.Masked())
	if err := m.reserveNetworks(p); err != nil {
		return err
	}
	for _, n := range p.Networks {
		for _, o := range m.pools.All() {
			if o.Domain() != p.Domain || !o.Range().Overlaps(n) {
				continue
			}
			if err := o.Exclude(n); errors.Is(err, pool.ErrOutside) {
				return fmt.Errorf("mobile network prefix %s holds all of pool %q (%s)", n, o.Name(), o.Range())
			} else if err != nil {
				return err
			}
		}
	}
	return nil
}

// registerHost makes or replaces a registration as a whole: RFC 6275 10.3.1, RFC 5555 4.5.
func (m *Machine) registerHost(r *hostRequest) {
	next := homeagent.Registration{Node: r.profile.ID, Domain: r.profile.Domain, Home: r.Home, Since: m.now.Wall.UnixNano()}
	if r.have != nil {
		next = *r.have
	} else {
		next.ID = m.store.newID()
	}
	p := m.arrangeHost(r)
	next.V4 = p.v4
	next.Router, next.Networks = r.Router(), r.networksOf()
	next.Follow(&r.Request)
	next.State = binding.Active
	next.UDP = r.Framing == homeagent.UDP && (r.NAT || m.cfg.DSMIP6.ForceUDP || r.Flags&mobility.BUForceUDP != 0)
	next.Both = r.Flags&mobility.BULinkLocal != 0
	next.Lifetime = m.granted(r.Lifetime)
	if p.lease > 0 { // RFC 5555 2.5
		next.Lifetime = min(next.Lifetime, uint16(min(p.lease.Seconds()/4, 65535)))
	}
	next.Lifetime = m.bound(r, next.Lifetime)
	next.Expires = m.now.Boot + lifetime(next.Lifetime)
	ack := r.Accept(homeagent.Answer{
		Lifetime: next.Lifetime, Acks: p.acks, UDP: next.UDP, NATRefresh: m.cfg.DSMIP6.NATRefresh,
		Advice: uint16(min(m.cfg.DSMIP6.RefreshAdvice.Seconds()/4, 65535)),
	})
	if r.have != nil && same(r.have, &next) {
		m.refreshHost(r, next, ack)
		return
	}
	var before []byte
	var gone []netip.Prefix
	var former homeagent.Registration
	why := "new"
	if r.have != nil {
		former = *r.have
		before, gone = r.have.Encode(m.now), without(r.have.Keys(), next.Keys())
		why = reason(&former, &next)
	}
	h, err := m.hosts.table.Put(next)
	if err != nil { // an address that the pools gave to two
		m.releaseHost(next.Domain, next.Node, p.taken, false)
		m.refuseHost(r, &homeagent.Refusal{Status: mobility.ReasonUnspecified, Reason: wire.IPv4NotAuthorized, Detail: err.Error()})
		return
	}
	m.releaseHost(h.Domain, h.Node, gone, true)
	m.setHostState(h, former.State, why, former.CareOf)
	if former.State == binding.Active {
		m.defendHost(h, without(m.keysOnLink(&former), m.keysOnLink(h)), true)
		m.defendHost(h, without(m.keysOnLink(h), m.keysOnLink(&former)), false)
	} else {
		m.defendHost(h, m.keysOnLink(h), false)
	}
	m.doubt(h, false)
	m.commitHost(h, before, gone, r, ack)
}

// same says whether two registrations are forwarded and defended alike, so that the second is a refresh of the first. A
// longer lifetime than the stored one is none: a restart would cut it.
func same(a, b *homeagent.Registration) bool {
	return a.State == binding.Active && a.Lifetime >= b.Lifetime && a.Router == b.Router && len(without(a.Networks, b.Networks)) == 0 && len(without(b.Networks, a.Networks)) == 0 && a.Both == b.Both && a.NAT == b.NAT && a.Chain() == b.Chain() && a.Framing == b.Framing &&
		len(a.V4) == len(b.V4) && !slices.ContainsFunc(a.V4, func(v homeagent.V4Home) bool { return !b.Has(v.Prefix) })
}

// reason names a change of a registration.
func reason(from, to *homeagent.Registration) string {
	switch {
	case from.State == binding.Deprecated:
		return "returned"
	case from.CareOf != to.CareOf, from.Port != to.Port, from.Framing != to.Framing:
		return "handoff"
	}
	return "changed"
}

// refreshHost extends the lifetime and nothing else: it is written behind and waits for nothing, unless an earlier change is
// not durable yet.
func (m *Machine) refreshHost(r *hostRequest, next homeagent.Registration, ack *mobility.BindingAck) {
	var before []byte
	m.discoveryBound(r.have)
	m.doubt(r.have, false)
	open := m.flights.unsettled(next.ID)
	if open {
		before = r.have.Encode(m.now)
	}
	h, err := m.hosts.table.Put(next)
	if err != nil {
		panic("anchor: a refresh has the keys of another registration")
	}
	if open {
		m.commitHost(h, before, nil, r, ack)
		return
	}
	m.effect(core.Persist{Key: hostKey(h.ID), Val: h.Encode(m.now), Lazy: true})
	m.effect(core.Send{Path: r.Path, Body: ack})
}

// deregisterHost is RFC 6275 10.3.2: all of it ends, and its ordering state is kept for a while, so that a Binding Update
// that was late does not bring it back.
func (m *Machine) deregisterHost(r *hostRequest) {
	m.forgetDetection(r)
	h := r.have
	before, was := h.Encode(m.now), h.State
	acks := make([]mobility.IPv4AddressAck, 0, len(r.V4))
	for _, ask := range r.V4 { // what is asked for is over, which needs no more than a copy
		acks = append(acks, homeagent.V4Ack(ask, netip.PrefixFrom(ask.Addr, int(ask.PrefixLen)), nil))
	}
	ack := r.Accept(homeagent.Answer{Acks: acks, UDP: r.NAT, NATRefresh: m.cfg.DSMIP6.NATRefresh})
	next := *h
	next.Order(&r.Request)
	next.State = binding.Deprecated
	if was == binding.Active {
		next.Expires = m.now.Boot + m.cfg.Timers.MinDelayBeforeBCEDelete
	}
	h, err := m.hosts.table.Put(next)
	if err != nil {
		panic("anchor: a deregistration has the keys of another registration")
	}
	if was == binding.Deprecated { // repeated: the wait goes on from the first
		if m.flights.unsettled(h.ID) {
			m.commitHost(h, before, nil, r, ack)
			return
		}
		m.effect(core.Persist{Key: hostKey(h.ID), Val: h.Encode(m.now), Lazy: true})
		m.effect(core.Send{Path: r.Path, Body: ack})
		return
	}
	m.endHostService(h, was, "deregistered")
	m.commitHost(h, before, nil, r, ack)
}

// endHostService stops serving a registration that is Deprecated from now on.
func (m *Machine) endHostService(h *homeagent.Registration, was binding.State, why string) {
	m.setHostState(h, was, why, netip.Addr{})
	m.defendHost(h, m.keysOnLink(h), true)
}

// dueHosts does what is due for registrations.
func (m *Machine) dueHosts() {
	for range maxDue {
		h, over := m.hosts.table.Due(m.now)
		switch {
		case h == nil:
			return
		case !over:
			m.effect(core.Send{Path: h.Path(), Body: &mobility.BindingRefreshRequest{}})
			m.emit(core.Emit{Name: "refresh-request", ID: h.ID, Why: "lifetime-ends", Fields: m.aboutHost(h)})
		case h.State == binding.Deprecated:
			m.removeHost(h, "delay-over", false)
		default:
			m.removeHost(h, "expired", true)
		}
	}
}

// removeHost deletes a registration everywhere. rest: its addresses were in use until now.
func (m *Machine) removeHost(h *homeagent.Registration, why string, rest bool) {
	was := h.State
	e := ending{id: h.ID, domain: h.Domain, node: h.Node, keys: h.Keys(), rest: rest, host: true}
	on := m.keysOnLink(h)
	m.hosts.table.Remove(h)
	h.State = binding.None
	m.setHostState(h, was, why, netip.Addr{})
	if was == binding.Active { // else it ended with that
		m.hostEndpoint(h)
	}
	if was == binding.Active {
		m.defendHost(h, on, true)
	}
	m.end(e)
}

// hostKey is the store's key of a registration.
func hostKey(id core.ID) []byte { return recordKey(hostPrefix, id) }

// commitHost makes a changed registration durable and forwarded, and answers then, the way the request came. before is the
// record of the state that the change replaces, nil for a new one; gone are home keys that it has no more.
func (m *Machine) commitHost(h *homeagent.Registration, before []byte, gone []netip.Prefix, r *hostRequest, answer *mobility.BindingAck) {
	record := h.Encode(m.now)
	for _, k := range m.flights.former(h.ID, slices.Concat(h.Keys(), gone), hostRecordKeys) {
		if m.hosts.table.ByHome(h.Domain, k) == nil {
			gone = append(gone, k)
		}
	}
	ref := m.flights.begin(h.ID, before, record)
	m.hosts.asked[ref] = r
	m.effect(core.Persist{Key: hostKey(h.ID), Val: record})
	m.effect(core.Forward{Ops: m.hostOps(h, m.cfg.Timers.UplinkGrace, gone), Ref: ref})
	m.hostEndpoint(h)
	m.effect(core.Send{Path: r.Path, Body: answer, Ref: ref + 1})
}

// hostRecordKeys gives the home keys of an own record.
func hostRecordKeys(b []byte) []netip.Prefix {
	h, _, err := homeagent.Decode(0, b)
	if err != nil {
		panic(fmt.Sprintf("anchor: own record does not decode: %v", err))
	}
	return h.Keys()
}

// answered takes the request off that a change was made for. What the data plane refused it would refuse again: its node is
// told, so that it does not ask on. Where the store failed it shall ask on.
func (m *Machine) answered(ev core.Done) (refused *hostRequest) {
	r := m.hosts.asked[ev.Ref&^1]
	if ev.Err == nil && ev.Ref%2 == 0 { // the answer is still to leave
		return nil
	}
	delete(m.hosts.asked, ev.Ref&^1)
	var op *core.OpError
	if r != nil && errors.As(ev.Err, &op) {
		return r
	}
	return nil
}

// hostOps forward a registration as it is. The subscriber's proxy registration of the same address is delivered to when this
// one is not (RFC 6612 4.2).
func (m *Machine) hostOps(h *homeagent.Registration, grace time.Duration, gone []netip.Prefix) []core.Op {
	ops := h.Ops(grace, !m.onHomeLink(h.Domain))
	for _, k := range gone {
		ops = append(ops, core.Drop{Match: core.Match{Domain: h.Domain, Dst: k}})
	}
	return m.appendProxies(m.appendProxies(ops, h.Domain, h.Keys()), h.Domain, gone)
}

// appendProxies says how the proxy registrations are forwarded that have some of the keys: all of it, because the change that
// made one may be under way, and fail.
func (m *Machine) appendProxies(ops []core.Op, d core.Domain, keys []netip.Prefix) []core.Op {
	for _, k := range keys {
		if i, ok := m.cache.ByHome(d, k); ok {
			ops = append(ops, m.forwarding(i, m.cfg.Timers.UplinkGrace)...)
		}
	}
	return ops
}

// undoHost brings a registration back to a record. The answer never left, so what it took is free at once.
func (m *Machine) undoHost(h *homeagent.Registration, back []byte) {
	if back == nil {
		m.removeHost(h, "undone", false)
		return
	}
	to, expires, err := homeagent.Decode(h.ID, back)
	if err != nil {
		panic(fmt.Sprintf("anchor: own record does not decode: %v", err))
	}
	was, now := *h, h.Keys()
	extra := without(now, to.Keys())
	m.releaseHost(h.Domain, h.Node, extra, false)
	for _, k := range without(to.Keys(), now) { // rests, for this mobile node
		if !m.takeAgain(&to, k) {
			to.V4 = withoutV4(to.V4, k)
			extra = append(extra, k)
		}
	}
	to.Expires = m.now.Boot + max(expires.Sub(m.now.Wall), 0)
	h, err = m.hosts.table.Put(to)
	if err != nil {
		m.removeHost(m.hosts.table.ByID(to.ID), "undone", true)
		return
	}
	m.setHostState(h, was.State, "undone", was.CareOf)
	m.repairHost(h, extra)
	if was.State == binding.Active {
		m.defendHost(h, m.keysOnLink(&was), true)
	}
	if h.State != binding.Active {
		return
	}
	// A request that came since and waits for the detection of duplicates need not: there is a binding.
	if q := m.hosts.detect.byHome[h.Home]; q != nil {
		m.unique(q)
	}
	m.defendHost(h, m.keysOnLink(h), false)
}

// takeAgain takes an address that a registration had before.
func (m *Machine) takeAgain(h *homeagent.Registration, k netip.Prefix) bool {
	if k.Addr().Is6() || m.isNetwork(h.Node, k) {
		return true
	}
	p := m.pools.Around(h.Domain, k.Addr())
	switch {
	case p == nil:
		return false
	case p.Take(m.now, k, h.Node) == nil:
		return true
	case m.proxyHas(h.Domain, k, h.Node) || m.stillEnds(h.Domain, k, h.Node, true):
		m.share(h.Domain, k)
		return true
	}
	return false
}

func withoutV4(list []homeagent.V4Home, k netip.Prefix) (out []homeagent.V4Home) {
	for _, v := range list {
		if v.Prefix != k {
			out = append(out, v)
		}
	}
	return out
}

// repairHost writes and forwards a registration as it is now.
func (m *Machine) repairHost(h *homeagent.Registration, extra []netip.Prefix) {
	var gone []netip.Prefix
	for _, k := range extra {
		if m.hosts.table.ByHome(h.Domain, k) == nil {
			gone = append(gone, k)
		}
	}
	ref := m.flights.last
	m.flights.last += 2
	m.flights.repairs[ref] = repair{h.ID, gone}
	m.effect(core.Persist{Key: hostKey(h.ID), Val: h.Encode(m.now)})
	m.effect(core.Forward{Ops: m.hostOps(h, 0, gone), Ref: ref})
	m.hostEndpoint(h)
}
