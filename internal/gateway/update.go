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

// request is one Proxy Binding Update in flight, with all its transmissions: they ask for the same, so an answer to any
// of the newest ones counts.
type request struct {
	families access.Families
	lifetime time.Duration // 0 = deregistration
	partial  bool          // lifetime 0, but the entry stays
	handoff  uint8
	prefixes []netip.Prefix // proposed; none = any
	ipv4     netip.Prefix   // proposed; 0.0.0.0/0 = any
	dialect  Dialect
	att      uint8

	sent     [4]transmission
	n        int           // transmissions
	interval time.Duration // to the next one
	series   int           // transmissions in this dialect
	acted    bool          // a timestamp refusal was answered at once already
}

// transmission is what identifies one copy of a request in its answer.
type transmission struct {
	seq   uint16
	stamp uint64 // 0 = without Timestamp option
	at    time.Duration
}

// match finds the transmission that an answer's sequence number belongs to.
func (r *request) match(seq uint16) (transmission, bool) {
	for i := range min(r.n, len(r.sent)) {
		if r.sent[i].seq == seq {
			return r.sent[i], true
		}
	}
	return transmission{}, false
}

var anyIPv4 = netip.PrefixFrom(netip.IPv4Unspecified(), 0)

// register asks the anchor for everything that the host wants and may have: an initial registration, or an extension if
// there is a binding.
func (m *Machine) register(e *entry, why string) {
	f := e.wants &^ m.refusedFamilies(e)
	switch {
	case e.state == deregistering:
		return
	case e.link.down:
		// The host cannot be there (RFC 5213 6.9.4).
		m.postpone(e, m.cfg.Timers.NUDRetransmit, why)
		return
	case f == 0 && e.state.bound():
		// The anchor takes everything back but gave no date: the binding ends as it would have.
		return
	case f == 0:
		m.endRequest(e) // of another family set, from before the refusal
		if e.state != refused {
			m.setState(e, idle, "nothing may be asked for")
		}
		m.retryLater(e)
		return
	case e.req == nil && m.pending >= m.cfg.Limits.Pending:
		m.count(wire.PendingLimit)
		m.postpone(e, m.cfg.Timers.RetransmitFirst+m.spread(m.cfg.Timers.RetransmitFirst), why)
		return
	}
	if at := m.free(e); at > m.now.Boot {
		m.counts["postponed"]++
		m.postpone(e, at-m.now.Boot, why)
		return
	}
	m.spend(e)
	m.disarm(e, tRetry, tRefresh)
	m.endRequest(e)
	m.begin(e, why)
	m.request(e, f, m.cfg.Timers.Lifetime, false)
}

// free is when an update of a session may go: no more than MAX_UPDATE_RATE in any second (RFC 6275 11.8), and in the long term no more
// than its host may cause.
func (m *Machine) free(e *entry) time.Duration {
	return max(e.updates.Free(m.now.Boot), e.caused.Free(m.now.Boot, m.limits.caused))
}

func (m *Machine) spend(e *entry) {
	e.updates.Spend(m.now.Boot)
	e.caused.Spend(m.now.Boot, m.limits.caused)
}

// begin changes to the state in which a registration is out.
func (m *Machine) begin(e *entry, why string) {
	if e.state.bound() {
		m.setState(e, refreshing, why)
	} else {
		m.setState(e, registering, why)
	}
}

func (m *Machine) postpone(e *entry, d time.Duration, why string) {
	if !e.state.bound() {
		m.setState(e, registering, why)
	}
	m.arm(e, tRetry, m.now.Boot+d)
}

// retryLater arms the retry timer for the first family whose refusal ends by itself.
func (m *Machine) retryLater(e *entry) {
	at := never
	for _, f := range [...]access.Families{access.V4, access.V6} {
		if e.wants&f&^e.has()&^m.known.barred(e.mn) != 0 && e.denied[family(f)].until > m.now.Boot {
			at = min(at, e.denied[family(f)].until)
		}
	}
	m.arm(e, tRetry, at)
}

// request starts a new exchange; one that was in flight is void.
func (m *Machine) request(e *entry, f access.Families, lifetime time.Duration, partial bool) {
	r := &request{
		families: f, lifetime: lifetime, partial: partial, handoff: e.handoff, dialect: e.anchor.dialect, att: e.link.Technology,
		interval: m.cfg.Timers.RetransmitFirst,
	}
	switch {
	case lifetime == 0:
		m.spend(e)
		r.handoff = mobility.HandoffUnknown // RFC 5213 6.9.1.4
		r.interval = InitialBindackTimeout
	case e.lost, e.reassert:
		r.handoff = mobility.HandoffUnknown // the anchor begins anew, or must take the session from another gateway
	case e.state.bound() && e.handoff != mobility.HandoffInterfaces && e.handoff != mobility.HandoffGateways:
		r.handoff = mobility.HandoffReRegistration // RFC 5213 6.9.1.3
	}
	if f&access.V6 != 0 {
		r.prefixes = e.prefixes
		if len(r.prefixes) == 0 && !e.noHint[family(access.V6)] && !m.elsewhere(e, func(x *entry) bool { return sharesPrefix(x, e.profile.Prefixes) }) {
			r.prefixes = e.profile.Prefixes
		}
		r.prefixes = slices.Clone(r.prefixes)
	}
	if f&access.V4 != 0 {
		r.ipv4 = m.proposeIPv4(e, r.dialect)
	}
	e.req = r
	m.pending++
	m.transmit(e, "")
}

// proposeIPv4 chooses the value of the IPv4 option: the registered address, else the profile's, else the one that the
// host had last time (document 001, 3.2.2), else the one it asks for itself, else none.
//
// The last address is proposed in the dialect of document 001 only, which takes it from a profile that all gateways share.
// Ours may be out of date, and by RFC 5213 5.4.1.1 an address that no session has makes a second session; 0.0.0.0 gets the
// address of the session that exists.
//
// Two interfaces of a host are two sessions with different addresses (document 001, 3): what another session has is not
// proposed.
func (m *Machine) proposeIPv4(e *entry, d Dialect) netip.Prefix {
	if e.ipv4.IsValid() {
		return e.ipv4
	}
	if e.noHint[family(access.V4)] {
		return anyIPv4
	}
	hint := netip.Prefix{}
	if e.hint.IsValid() && e.hint.IsGlobalUnicast() {
		hint = netip.PrefixFrom(e.hint, 32)
	}
	last := netip.Prefix{}
	if d == Draft02 {
		last = m.known.ipv4(e.mn)
	}
	for _, p := range [...]netip.Prefix{e.profile.IPv4, last, hint} {
		if p.IsValid() && !m.elsewhere(e, func(x *entry) bool { return x.ipv4.Addr() == p.Addr() }) {
			return p
		}
	}
	return anyIPv4
}

// elsewhere tells whether another session of the same identifier has something.
func (m *Machine) elsewhere(e *entry, has func(*entry) bool) bool {
	return slices.ContainsFunc(m.byID[e.mn], func(x *entry) bool { return x != e && has(x) })
}

func sharesPrefix(e *entry, ps []netip.Prefix) bool {
	return slices.ContainsFunc(e.prefixes, func(p netip.Prefix) bool { return slices.Contains(ps, p) })
}

// transmit sends one copy of the request in flight, the second and later ones because of why: a new sequence number and the time of now (RFC 5213 6.9.4).
func (m *Machine) transmit(e *entry, why wire.Reason) {
	r := e.req
	e.seq++
	if !m.cfg.SequenceOrdering {
		// With timestamps one counter serves all sessions, so that answers can be told apart (RFC 5213 6.9.1.1 (6)).
		m.seq++
		e.seq = m.seq
	}
	tx := transmission{seq: e.seq, at: m.now.Boot}
	if !m.cfg.SequenceOrdering {
		tx.stamp = e.stampOf(m.now.Wall)
	}
	r.sent[r.n%len(r.sent)] = tx
	r.n++
	r.series++
	m.arm(e, tSend, m.now.Boot+r.interval)
	m.out = append(m.out, core.Send{Path: m.path(e.anchor), Body: m.update(e, r, tx)})
	m.counts["updates"]++
	if r.n > 1 {
		m.counts["retransmits"]++
		m.emit(core.Emit{Name: "retransmit", ID: e.id, Why: string(why), Fields: map[string]any{
			"type": "pbu", "sub": e.mn, "peer": e.anchor.Name, "seq": tx.seq, "count": r.n - 1}})
	}
}

// stampOf gives the Timestamp for a time. Two updates of one session in less than 1/65536 s must still be in order; after
// a step of the clock backwards the clock is right and the memory is not.
func (e *entry) stampOf(t time.Time) uint64 {
	s := mobility.TimestampOf(t).Value
	if s <= e.stamp && e.stamp-s < 1<<16 {
		s = e.stamp + 1
	}
	e.stamp = s
	return s
}

// update builds the message: RFC 5213 6.9.1.5, RFC 5844 3.2.3, document 001 figure 4. There is no Link-local Address
// option: the router's address is fixed on all gateways (RFC 5213 6.9.1.1 (9), RFC 6543).
func (m *Machine) update(e *entry, r *request, tx transmission) *mobility.BindingUpdate {
	o := mobility.Options(nil).Add(mobility.MobileNodeID{Subtype: 1, ID: e.mn})
	if r.families&access.V6 != 0 {
		for _, p := range r.prefixes {
			o = o.Add(mobility.HomeNetworkPrefix{Prefix: p})
		}
		if len(r.prefixes) == 0 {
			o = o.Add(mobility.HomeNetworkPrefix{Prefix: netip.PrefixFrom(netip.IPv6Unspecified(), 0)})
		}
	}
	o = o.Add(mobility.HandoffIndicator{Value: r.handoff}, mobility.AccessTechnology{Value: r.att})
	if tx.stamp != 0 {
		o = o.Add(mobility.Timestamp{Value: tx.stamp})
	}
	o = o.Add(mobility.LinkLayerID{ID: e.mac[:]})
	if r.families&access.V4 != 0 {
		if r.dialect == Draft02 {
			o = o.Add(mobility.IPv4HomeAddress{PrefixLen: uint8(r.ipv4.Bits()), Addr: r.ipv4.Addr()})
		} else {
			o = o.Add(mobility.IPv4HomeAddressRequest{PrefixLen: uint8(r.ipv4.Bits()), Addr: r.ipv4.Addr()})
		}
	}
	return &mobility.BindingUpdate{
		Sequence: tx.seq, Flags: mobility.BUAck | mobility.BUProxy, Lifetime: uint16(r.lifetime / mobility.LifetimeUnit), Options: o,
	}
}

// path leads to an anchor.
func (m *Machine) path(a *anchor) core.Path {
	return core.Path{Local: netip.AddrPortFrom(m.cfg.Address, 0), Remote: netip.AddrPortFrom(a.Address, 0)}
}

// unanswered runs when the time for an answer is over: RFC 5213 6.9.4, RFC 6275 11.8.
func (m *Machine) unanswered(e *entry) {
	r := e.req
	switch {
	case r == nil:
	case r.lifetime == 0 && !r.partial:
		m.count(wire.NoAnswer)
		m.finish(e, "deregistration unanswered")
	case r.partial:
		m.count(wire.NoAnswer)
		m.endRequest(e)
		m.afterPartial(e)
	case e.link.down:
		// Not before the host is there again.
		m.arm(e, tSend, m.now.Boot+r.interval)
	case r.families&m.known.barred(e.mn) != 0:
		// Barred meanwhile, by the answer to another session of the host: not even a repetition may ask (RFC 5213 6.9.1.2 (7)).
		m.endRequest(e)
		if e.state.bound() {
			m.setState(e, active, "no extension: barred by the anchor")
		}
		m.register(e, "without the barred family")
	case e.differs && !e.state.bound():
		m.askAnew(e)
	default:
		r.interval = min(2*r.interval, m.cfg.Timers.RetransmitMax)
		if r.series >= fallbackTries && r.families&access.V4 != 0 && m.fallBack(e.anchor, r.dialect, "no answer") {
			m.redial(e)
			return
		}
		if r.dialect != e.anchor.dialect {
			m.redial(e)
			return
		}
		m.transmit(e, wire.NoAnswer)
	}
}

// redial repeats the request in flight in the anchor's present dialect.
func (m *Machine) redial(e *entry) {
	r := e.req
	r.dialect, r.series, r.n, r.interval = e.anchor.dialect, 0, 0, m.cfg.Timers.RetransmitFirst
	m.transmit(e, wire.DialectDisabled)
}

// endRequest makes the request in flight void.
func (m *Machine) endRequest(e *entry) {
	if e.req != nil {
		e.req = nil
		m.pending--
		m.disarm(e, tSend)
	}
}

// afterPartial goes on after IPv4 was given back.
func (m *Machine) afterPartial(e *entry) {
	switch {
	case e.state == active && m.now.Boot >= e.refreshAt:
		m.refresh(e)
	case e.state == active && e.at[tRefresh] == never:
		m.arm(e, tRefresh, e.refreshAt)
	case e.state == refreshing:
		m.register(e, "refresh")
	}
}
