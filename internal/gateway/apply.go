package gateway

import (
	"net/netip"
	"slices"
	"time"

	"kedge/internal/access"
	"kedge/internal/core"
	"kedge/wire"
	"kedge/wire/mobility"
)

// handover is a registration whose forwarding is being set up, with the times of its phases in boot time.
type handover struct {
	e       *entry
	id      core.ID
	trigger time.Duration
	pbu     time.Duration
	pba     time.Duration
	by      string
}

// grant is what an answer gives. again: IPv4 is still to be asked for in the other dialect.
type grant struct {
	prefixes []netip.Prefix
	home     netip.Prefix
	router   netip.Addr
	again    bool
}

// install puts an accepted registration to work: forwarding first, then the home link, so that the host never hears of
// addresses that do not work yet.
func (m *Machine) install(e *entry, r *request, tx transmission, b *mobility.BindingAck, got grant) {
	fresh := !e.state.bound() || e.lost || r.handoff != mobility.HandoffReRegistration
	// A family that was asked for and not given: RFC 5844 3.2.3.2.
	missing := r.families
	if len(got.prefixes) > 0 {
		missing &^= access.V6
	}
	if got.home.IsValid() || got.again {
		missing &^= access.V4
	}
	e.prefixes, e.ipv4, e.router4, e.dialect = got.prefixes, got.home, got.router, r.dialect
	if got.home.IsValid() && !got.router.IsValid() {
		e.router4 = routerOf(got.home)
	}
	// The time runs from the sending of the update (RFC 6275 11.7.3), and no anchor gives more than was asked.
	e.lifetime = min(time.Duration(b.Lifetime)*mobility.LifetimeUnit, r.lifetime)
	e.expires = tx.at + e.lifetime
	part := m.cfg.Timers.RefreshAt * float64(e.lifetime)
	e.refreshAt = max(tx.at+time.Duration(0.9*part)+m.spread(time.Duration(0.1*part)), m.now.Boot+10*time.Millisecond)
	e.lost, e.tries = false, 0
	e.handoff = m.cfg.FirstHandoff
	if got.home.IsValid() {
		m.dhcpMode(e, r, b)
	}
	m.setState(e, active, "accepted")
	m.touch(e)
	m.arm(e, tRefresh, e.refreshAt)
	m.arm(e, tExpire, max(e.expires, m.now.Boot+10*time.Millisecond))
	m.disarm(e, tRetry)
	var h *handover
	if fresh {
		h = &handover{e: e, id: e.id, trigger: e.trigger, pbu: tx.at, pba: m.now.Boot, by: e.by}
	}
	m.forwardFor(e, h)
	m.grant(e)
	if given := r.families &^ missing; given != 0 {
		for _, x := range [...]access.Families{access.V4, access.V6} {
			if given&x != 0 {
				e.denied[family(x)] = denial{}
			}
		}
	}
	if missing != 0 {
		v4 := ipv4In(b.Options, r.dialect)
		why := refusal4(v4.status, wire.NoAddressInAnswer)
		if proposed(r) && (v4.status == mobility.AddressIncorrect || v4.status == mobility.AddressInvalid) {
			m.askAny(e, access.V4, why) // the address of former times may be somebody else's by now
			return
		}
		m.deny(e, missing, why)
		m.retryLater(e)
	}
}

// keys are the home keys of a session: IPv4 home address and home network prefixes.
func (e *entry) keys() []netip.Prefix {
	var ks []netip.Prefix
	if e.ipv4.IsValid() {
		ks = append(ks, netip.PrefixFrom(e.ipv4.Addr(), 32))
	}
	return append(ks, e.prefixes...)
}

func (e *entry) match(k netip.Prefix) core.Match {
	return core.Match{Src: k, If: e.link.Link.If, MAC: e.mac}
}

// forward makes the data plane carry exactly the keys of a session.
func (m *Machine) forward(e *entry) { m.forwardFor(e, nil) }

func (m *Machine) forwardFor(e *entry, h *handover) {
	m.touch(e)
	keys := e.keys()
	if len(keys) == 0 {
		m.unforward(e)
		return
	}
	var ops []core.Op
	for _, k := range e.forwarded {
		if !slices.Contains(keys, k) {
			ops = append(ops, core.Drop{Match: e.match(k)})
			delete(m.owners, k)
		}
	}
	for _, k := range keys {
		if o := m.owners[k]; o != nil && o != e {
			m.lose(o, keys)
		}
	}
	for _, k := range keys {
		m.owners[k] = e
	}
	if len(e.forwarded) == 0 {
		ops = append(ops, m.sessionOp(e))
	}
	for _, k := range keys {
		if !slices.Contains(e.forwarded, k) {
			ops = append(ops, core.SetKey{Match: e.match(k), ID: e.id, Up: true, Down: true})
		}
	}
	e.forwarded = keys
	if len(ops) == 0 && h == nil {
		return
	}
	if h == nil {
		h = &handover{e: e, id: e.id}
	}
	m.refs++
	m.waiting[m.refs] = h
	m.out = append(m.out, core.Forward{Ops: ops, Ref: m.refs})
}

// sessionOp is the tunnel of a session and the host at its end.
func (m *Machine) sessionOp(e *entry) core.SetSession {
	return core.SetSession{ID: e.id, If: e.link.Link.If, MAC: e.mac, Chain: core.Chain{N: 1, Layer: [2]core.Layer{{
		Local: netip.AddrPortFrom(m.cfg.Address, 0), Remote: netip.AddrPortFrom(e.anchor.Address, 0)}}}}
}

// unforward takes a session out of the data plane.
func (m *Machine) unforward(e *entry) {
	m.touch(e)
	if len(e.forwarded) > 0 {
		m.out = append(m.out, core.Forward{Ops: []core.Op{core.Drop{ID: e.id}}})
		for _, k := range e.forwarded {
			delete(m.owners, k)
		}
		e.forwarded = nil
	}
}

// lose takes home keys from a session because the anchor has just given them to another one: it moved the session to
// another interface of the host. The old one is not deregistered, or the new one would end with it.
func (m *Machine) lose(e *entry, keys []netip.Prefix) {
	m.past(e.mn, "lost addresses", "", "the anchor gave them to another interface")
	e.prefixes = slices.DeleteFunc(slices.Clone(e.prefixes), func(p netip.Prefix) bool { return slices.Contains(keys, p) })
	if e.ipv4.IsValid() && slices.Contains(keys, netip.PrefixFrom(e.ipv4.Addr(), 32)) {
		e.ipv4, e.router4 = netip.Prefix{}, netip.Addr{}
	}
	if !e.state.bound() {
		m.forward(e) // deregistering
		return
	}
	m.endRequest(e)
	m.shrink(e, "moved to another interface")
	if e.state.bound() {
		m.register(e, "a part moved to another interface")
		return
	}
	m.setState(e, idle, "moved to another interface")
	e.handoff = mobility.HandoffNewInterface
}

// grant tells the home link what the host may use now.
func (m *Machine) grant(e *entry) {
	g := access.Grant{Prefixes: slices.Clone(e.prefixes), IPv4: e.ipv4, Router4: e.router4}
	if len(g.Prefixes) > 0 || g.IPv4.IsValid() {
		g.Valid = e.expires - m.now.Boot
		g.Preferred = g.Valid
	}
	m.carryOut(e.link, e.link.home.Grant(m.now, e.mac, g, nil))
}

// withdraw ends the use of a binding: nothing is forwarded, nothing advertised. The addresses are remembered, to ask for
// them again.
func (m *Machine) withdraw(e *entry) {
	m.unforward(e)
	m.disarm(e, tRefresh, tExpire)
	e.checking = false
	m.carryOut(e.link, e.link.home.Grant(m.now, e.mac, access.Grant{}, nil))
}

// done takes the result of a Forward. A session that cannot be forwarded is given back, so that the anchor sends its
// packets nowhere, and tried again later.
func (m *Machine) done(ev *core.Done) {
	h := m.waiting[ev.Ref]
	delete(m.waiting, ev.Ref)
	if h == nil {
		if ev.Err != nil {
			m.count(wire.SendFailed)
		}
		return
	}
	e := h.e
	switch {
	case ev.Err == nil && h.pba > 0:
		m.counts["registrations"]++
		m.handedOver(h)
	case ev.Err == nil || !e.state.bound():
	default:
		m.past(e.mn, "forwarding failed", string(wire.ForwardingFailed), ev.Err.Error())
		families := e.has()
		m.endRequest(e)
		m.request(e, families, 0, true)
		m.refuse(e, families, wire.ForwardingFailed)
	}
}

// handedOver reports the phases of a finished registration: from the sign of life to the update, to its answer, to
// forwarding; and the total.
func (m *Machine) handedOver(h *handover) {
	for _, p := range [...]struct {
		name string
		took time.Duration
	}{
		{"trigger", h.pbu - h.trigger}, {"pba", h.pba - h.pbu}, {"forwarding", m.now.Boot - h.pba}, {"total", m.now.Boot - h.trigger},
	} {
		m.emit(core.Emit{Name: "handover", ID: h.id, Why: h.by, Fields: map[string]any{
			"sub": h.e.mn, "mac": h.e.mac.String(), "if": h.e.link.Link.Name, "phase": p.name,
			"took_ms": float64(p.took) / float64(time.Millisecond)}})
	}
}

// fields are what log and trace show of a session.
func (m *Machine) fields(e *entry) map[string]any {
	f := map[string]any{"sub": e.mn, "mac": e.mac.String(), "if": e.link.Link.Name, "peer": e.anchor.Name, "proxy_coa": m.cfg.Address.String()}
	if e.ipv4.IsValid() {
		f["hoa"] = e.ipv4.String()
	}
	if len(e.prefixes) > 0 {
		f["hnp"] = e.prefixes[0].String()
	}
	if e.state.bound() {
		f["lifetime_s"] = int(e.lifetime / time.Second)
		f["dialect"] = string(e.dialect)
	}
	if e.seq != 0 {
		f["seq"] = e.seq
	}
	return f
}
