package gateway

import (
	"bytes"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"kedge/internal/access"
	"kedge/internal/core"
	"kedge/wire"
	"kedge/wire/mobility"
)

// answer judges a Proxy Binding Acknowledgement: RFC 5213 6.9.1.2, RFC 5844 3.2.3.2, document 001 3.2.2. What does not
// answer a request of now, or answers it wrongly, changes nothing.
func (m *Machine) answer(a *anchor, b *mobility.BindingAck) {
	if b.Flags&mobility.BAProxy == 0 {
		m.ignored(a.Address, "", wire.NotProxy, "")
		return
	}
	e, tx := m.asker(a, b)
	if e == nil {
		return
	}
	r := e.req
	if why, detail := m.implausible(e, r, tx, b); why != "" {
		m.ignored(a.Address, e.mn, why, detail)
		switch why {
		case wire.IdentifierMismatch:
			m.quarantine(e)
		case wire.PrefixNotAsked:
			e.differs = true
		}
		return
	}
	m.past(e.mn, fmt.Sprintf("PBA seq %d", b.Sequence), "", b.Status.String())
	switch {
	case b.Status >= 128:
		m.rejected(e, r, b)
	case r.lifetime == 0 && !r.partial:
		m.finish(e, "deregistered")
	case r.partial:
		m.endRequest(e)
		m.afterPartial(e)
	default:
		m.accepted(e, r, tx, b)
	}
}

// asker finds the entry whose request an acknowledgement answers: by identifier and sequence number (RFC 5213 6.9.1.2).
// An anchor that missed the identifier (status 160) sends none; then the number alone must do.
func (m *Machine) asker(a *anchor, b *mobility.BindingAck) (*entry, transmission) {
	id, ok := b.Options.MobileNodeID()
	candidates := m.byID[id.ID]
	if !ok || id.ID == "" {
		if b.Status != mobility.MissingMNIdentifierOption {
			m.ignored(a.Address, "", wire.MissingMNID, "")
			return nil, transmission{}
		}
		candidates = m.ordered()
	}
	asked := false
	var other *entry // its number fits, but the rest does not: the answer may be for another session of the host
	var otherTx transmission
	for _, e := range candidates {
		if e.req == nil || e.anchor != a {
			continue
		}
		asked = true
		if tx, ok := e.req.match(b.Sequence); ok {
			if why, _ := m.implausible(e, e.req, tx, b); why == "" {
				return e, tx
			}
			if other == nil {
				other, otherTx = e, tx
			}
		}
		if b.Status == mobility.SequenceOutOfWindow && m.cfg.SequenceOrdering && len(candidates) == 1 {
			return e, e.req.sent[(e.req.n-1)%len(e.req.sent)] // carries the anchor's number, RFC 6275 6.1.8
		}
	}
	if other != nil {
		return other, otherTx
	}
	mn := id.ID
	if len(m.byID[mn]) == 0 {
		mn = "" // no history for identifiers that strangers invent
	}
	if asked {
		m.ignored(a.Address, mn, wire.SequenceMismatch, fmt.Sprintf("seq %d", b.Sequence))
	} else {
		m.ignored(a.Address, mn, wire.Unsolicited, fmt.Sprintf("seq %d", b.Sequence))
	}
	return nil, transmission{}
}

// implausible says why an acknowledgement with the right number cannot be meant for the request.
func (m *Machine) implausible(e *entry, r *request, tx transmission, b *mobility.BindingAck) (wire.Reason, string) {
	o := b.Options
	if v, ok := o.HandoffIndicator(); ok && v.Value != r.handoff {
		return wire.IdentifierMismatch, fmt.Sprintf("handoff indicator %d, sent %d", v.Value, r.handoff)
	}
	if v, ok := o.AccessTechnology(); ok && v.Value != r.att {
		return wire.IdentifierMismatch, fmt.Sprintf("access technology %d, sent %d", v.Value, r.att)
	}
	if v, ok := o.LinkLayerID(); ok && !bytes.Equal(v.ID, e.mac[:]) {
		return wire.IdentifierMismatch, fmt.Sprintf("link-layer identifier %x", v.ID)
	}
	if b.Status >= 128 {
		return "", "" // its Timestamp is the anchor's clock, its addresses are copies
	}
	if v, ok := o.Timestamp(); ok && v.Value != tx.stamp {
		return wire.TimestampMismatch, "not the one that was sent"
	}
	if r.lifetime == 0 {
		return "", ""
	}
	if b.Lifetime == 0 {
		return wire.BadValue, "lifetime 0"
	}
	for p := range o.HomeNetworkPrefixes() {
		switch {
		case r.families&access.V6 == 0 || len(r.prefixes) > 0 && !slices.Contains(r.prefixes, p):
			return wire.PrefixNotAsked, p.String()
		case !usablePrefix(p):
			return wire.BadValue, "home network prefix " + p.String()
		}
	}
	v4 := ipv4In(o, r.dialect)
	if v4.present && v4.status < 128 {
		switch {
		case r.families&access.V4 == 0:
			return wire.PrefixNotAsked, v4.addr.String()
		case !usableIPv4(v4.addr):
			return wire.BadValue, "IPv4 home address " + v4.addr.String()
		case !asked4(r.ipv4, v4.addr.Addr()):
			return wire.PrefixNotAsked, v4.addr.String()
		}
	}
	return "", ""
}

// asked4 tells whether an address answers what the IPv4 option proposed: any, one of a network, or just that one.
func asked4(proposed netip.Prefix, got netip.Addr) bool {
	network := proposed.Bits() < 32 && proposed == proposed.Masked()
	return proposed.Addr().IsUnspecified() || proposed.Addr() == got || network && proposed.Contains(got)
}

// quarantine stops a session whose anchor answers for somebody else: no update until an administrator acts (RFC 5213
// 6.9.1.2). A binding that exists runs out.
func (m *Machine) quarantine(e *entry) {
	r := e.req
	m.endRequest(e)
	switch {
	case r.partial:
		m.afterPartial(e)
		return
	case r.lifetime == 0:
		m.finish(e, "answer with wrong identifiers")
		return
	}
	m.disarm(e, tRefresh, tRetry)
	for i := range e.denied {
		e.denied[i].until = never
	}
	if e.state.bound() {
		m.setState(e, active, "no extension: answer with wrong identifiers")
		return
	}
	m.refuse(e, r.families, wire.IdentifierMismatch)
}

// accepted takes a positive answer to a registration.
func (m *Machine) accepted(e *entry, r *request, tx transmission, b *mobility.BindingAck) {
	prefixes := slices.Collect(b.Options.HomeNetworkPrefixes())
	v4 := ipv4In(b.Options, r.dialect)
	home := v4.addr
	if !v4.present || v4.status >= 128 {
		home = netip.Prefix{}
	}
	silent := r.families&access.V4 != 0 && !v4.present // no word about IPv4 although it was asked for
	if len(prefixes) == 0 && !v4.present {
		// Neither option with an address: the answer does not count, and nothing may be routed.
		m.ignored(e.anchor.Address, e.mn, wire.NoAddressInAnswer, "")
		if silent && m.otherDialect(e, r) {
			m.redial(e)
		}
		return
	}
	if v4.present {
		e.anchor.proven = e.anchor.Dialect == Auto
	}
	if len(prefixes) == 0 && !home.IsValid() {
		m.rejected(e, r, b) // refused in its own option
		return
	}
	if o := m.claimed(e, prefixes, home); o != nil {
		m.giveBack(e, r, prefixes, home, o)
		return
	}
	again := silent && m.otherDialect(e, r)
	m.endRequest(e)
	e.reassert, e.differs, e.confirmed, e.accepted = false, false, m.now.Boot, tx.stamp
	m.known.learn(m, e.mn, home)
	m.install(e, r, tx, b, grant{prefixes: prefixes, home: home, router: v4.router, again: again})
	if again {
		m.register(e, "IPv4 in the other dialect")
	}
}

// claimed finds a session of another anchor that has one of these addresses. An anchor rules over its own sessions, and may
// move an address from one to another; what another anchor's hosts have, it cannot give away.
func (m *Machine) claimed(e *entry, prefixes []netip.Prefix, home netip.Prefix) *entry {
	if home.IsValid() {
		prefixes = append(slices.Clone(prefixes), netip.PrefixFrom(home.Addr(), 32))
	}
	for _, k := range prefixes {
		if o := m.owners[k]; o != nil && o.anchor != e.anchor {
			return o
		}
	}
	return nil
}

// giveBack refuses what an anchor gave, because a host of another anchor has it.
func (m *Machine) giveBack(e *entry, r *request, prefixes []netip.Prefix, home netip.Prefix, o *entry) {
	m.past(e.mn, "gave addresses back", string(wire.AddressClaimed), "they are of a session with "+o.anchor.Name)
	m.endRequest(e)
	e.prefixes, e.ipv4 = prefixes, home
	m.request(e, r.families, 0, true)
	m.refuse(e, r.families, wire.AddressClaimed)
}

// otherDialect tries the other dialect for an anchor that ignores the IPv4 option, once for a host.
func (m *Machine) otherDialect(e *entry, r *request) bool {
	if e.tried == nil {
		e.tried = map[Dialect]bool{}
	}
	e.tried[r.dialect] = true
	if e.tried[RFC5844] && e.tried[Draft02] {
		return false
	}
	return m.fallBack(e.anchor, r.dialect, "no IPv4 option in the answer") || e.anchor.dialect != r.dialect
}

// rejected takes a negative answer: RFC 5213 6.9.1.2 (7)-(11), RFC 5844 3.2.3.2.
func (m *Machine) rejected(e *entry, r *request, b *mobility.BindingAck) {
	if r.lifetime == 0 {
		m.endRequest(e)
		if r.partial {
			m.afterPartial(e)
		} else {
			m.finish(e, "deregistration refused: "+b.Status.String())
		}
		return
	}
	reason := refusalOf(b.Status)
	v4 := ipv4In(b.Options, r.dialect)
	switch b.Status {
	case mobility.TimestampLowerThanPrevious:
		m.tooOld(e, r, b)
		return
	case mobility.SequenceOutOfWindow:
		if m.cfg.SequenceOrdering {
			e.seq = b.Sequence
			m.tooOld(e, r, b)
			return
		}
	case mobility.TimestampMismatch:
		m.clockOff(e.anchor, b)
		if m.outOfTime(e, r, b) {
			return
		}
	case mobility.ProxyRegNotEnabled:
		m.known.bar(e.mn, access.V4|access.V6)
	case mobility.NotAuthorizedForHNP, mobility.BCEPrefixSetMismatch:
		if len(r.prefixes) > 0 {
			m.askAny(e, access.V6, reason)
			return
		}
	case mobility.NotAuthorizedForIPv4HoA:
		if !r.ipv4.Addr().IsUnspecified() && r.families&access.V4 != 0 {
			m.askAny(e, access.V4, reason)
			return
		}
		m.refuseFamily(e, r, access.V4, reason)
		return
	case mobility.NotAuthorizedForIPv4Mobility:
		m.known.bar(e.mn, access.V4)
		m.refuseFamily(e, r, access.V4, reason)
		return
	case mobility.NotAuthorizedForIPv6Mobility:
		m.known.bar(e.mn, access.V6)
		m.refuseFamily(e, r, access.V6, reason)
		return
	case mobility.MissingHNPOption:
		if r.families == access.V4 && m.otherDialect(e, r) {
			m.redial(e)
			return
		}
	case mobility.Accepted, mobility.AdministrativelyProhibited, mobility.InsufficientResources, mobility.ReasonUnspecified:
		if v4.present && v4.status >= 128 && r.families&access.V4 != 0 {
			// Only the IPv4 part is refused (document 001): the rest may do without.
			reason = refusal4(v4.status, reason)
			if !r.ipv4.Addr().IsUnspecified() && (v4.status == mobility.AddressIncorrect || v4.status == mobility.AddressInvalid) {
				m.askAny(e, access.V4, reason)
				return
			}
			m.refuseFamily(e, r, access.V4, reason)
			return
		}
	}
	m.endRequest(e)
	m.refuse(e, r.families, reason)
}

// tooOld answers 157 (or 135): the presence of the host is asserted again, at once for the first time, then with the pace
// of retransmissions, so that two gateways with the same host do not race.
func (m *Machine) tooOld(e *entry, r *request, b *mobility.BindingAck) {
	m.count(refusalOf(b.Status))
	if b.Status == mobility.TimestampLowerThanPrevious {
		m.clockOff(e.anchor, b)
	}
	if b.Status == mobility.TimestampLowerThanPrevious && e.state.bound() && !e.reassert {
		// A binding that was in order is so no more: another gateway has the session. If the host shows that it is here,
		// this one takes it back (RFC 5213 6.9.1.2 (8)); else it leaves it alone.
		m.endRequest(e)
		m.setState(e, active, "another gateway has the session")
		e.reassert, e.checking, e.probes = true, true, 0
		m.probe(e)
		return
	}
	if r.acted {
		return // the retransmission timer runs
	}
	r.acted = true
	m.transmit(e, refusalOf(b.Status))
}

// outOfTime answers 156. Where the anchor's clock agrees with ours, not the clock was wrong but the message late: it is
// sent again. Else (RFC 5213 6.9.1.2 (9)) people must set the clock; a binding that exists lives on at the anchor, so it
// is not given up before its end. False: there is none, and the registration is refused.
func (m *Machine) outOfTime(e *entry, r *request, b *mobility.BindingAck) bool {
	_, told := b.Options.Timestamp()
	if told && e.anchor.offset.Abs() <= TimestampValidityWindow {
		m.count(refusalOf(b.Status))
		if !r.acted { // else the retransmission timer runs
			r.acted = true
			m.transmit(e, refusalOf(b.Status))
		}
		return true
	}
	if !e.state.bound() {
		return false
	}
	m.count(refusalOf(b.Status))
	m.endRequest(e)
	m.setState(e, active, string(refusalOf(b.Status)))
	m.arm(e, tRefresh, m.now.Boot+m.cfg.Timers.RetryFirst)
	return true
}

// proposed says that a request asked for a certain IPv4 home address.
func proposed(r *request) bool { return r.families&access.V4 != 0 && !r.ipv4.Addr().IsUnspecified() }

// askAny repeats a registration without the addresses that the anchor does not allow.
func (m *Machine) askAny(e *entry, f access.Families, reason wire.Reason) {
	m.count(reason)
	m.past(e.mn, "asks for any address instead", string(reason), "")
	e.noHint[family(f)] = true
	if f == access.V4 {
		e.ipv4 = netip.Prefix{}
	} else {
		e.prefixes = nil
	}
	m.endRequest(e)
	m.shrink(e, "its address is not allowed any more")
	m.register(e, "ask for any address")
}

// askAnew follows an anchor that does not give what is asked for by name: home networks may have been renumbered (RFC 5213
// 6.12). One answer does not end a binding, since it may be late or forged; but without a binding any address will do.
func (m *Machine) askAnew(e *entry) {
	m.past(e.mn, "asks for any address instead", string(wire.PrefixNotAsked), "")
	e.differs, e.noHint = false, [2]bool{true, true}
	e.prefixes, e.ipv4, e.router4 = nil, netip.Prefix{}, netip.Addr{}
	m.endRequest(e)
	m.register(e, "ask for any address")
}

// shrink makes a binding work with what is left of it; with nothing left it is none.
func (m *Machine) shrink(e *entry, why string) {
	switch {
	case !e.state.bound():
	case len(e.keys()) == 0:
		m.withdraw(e)
		m.setState(e, registering, why)
	default:
		m.forward(e)
		m.grant(e)
	}
}

// refuseFamily takes one family away and registers what remains.
func (m *Machine) refuseFamily(e *entry, r *request, f access.Families, reason wire.Reason) {
	m.endRequest(e)
	rest := r.families &^ f
	if rest == 0 {
		m.refuse(e, r.families, reason)
		return
	}
	m.deny(e, f, reason)
	if f == access.V4 {
		e.ipv4, e.router4 = netip.Prefix{}, netip.Addr{}
	} else {
		e.prefixes = nil
	}
	m.shrink(e, string(reason))
	m.register(e, "without the refused family")
}

// deny notes that a family is refused, and until when.
func (m *Machine) deny(e *entry, f access.Families, reason wire.Reason) {
	m.count(reason)
	for _, x := range [...]access.Families{access.V4, access.V6} {
		if f&x == 0 {
			continue
		}
		d := &e.denied[family(x)]
		if d.until != never {
			d.until = m.now.Boot + backOff(m.cfg.Timers.RetryFirst, m.cfg.Timers.RetryMax, d.tries)
		}
		d.tries++
	}
	e.reason = reason
	m.past(e.mn, "refused", string(reason), fmt.Sprint(familyNames(f)))
	m.emit(core.Emit{Name: "refused", ID: e.id, Why: string(reason), Fields: m.fields(e)})
	m.carryOut(e.link, e.link.home.Deny(m.now, e.mac, f, string(reason), nil))
}

// refuse ends a registration: no session, nothing forwarded, nothing advertised. It is tried again later unless only an
// administrator can help.
func (m *Machine) refuse(e *entry, f access.Families, reason wire.Reason) {
	if e.state.bound() {
		m.withdraw(e)
	}
	// The next try asks for any address: what the host had may be gone, and its session, if there is one, has the rest.
	e.prefixes, e.ipv4, e.router4 = nil, netip.Prefix{}, netip.Addr{}
	m.setState(e, refused, string(reason))
	m.deny(e, f, reason)
	m.retryLater(e)
}

func backOff(first, most time.Duration, tries int) time.Duration {
	d := first
	for range tries {
		if d >= most/2 {
			return most
		}
		d *= 2
	}
	return min(d, most)
}

// refusalOf gives the reason of a status.
func refusalOf(s mobility.Status) wire.Reason {
	switch s {
	case mobility.NotLMAForThisMobileNode:
		return wire.UnknownSubscriber
	case mobility.InsufficientResources:
		return wire.PoolExhausted
	case mobility.SequenceOutOfWindow:
		return wire.SequenceOld
	case mobility.ProxyRegNotEnabled:
		return wire.ServiceDisabled
	case mobility.AdministrativelyProhibited, mobility.MAGNotAuthorized:
		return wire.NotAuthorized
	case mobility.NotAuthorizedForHNP:
		return wire.PrefixNotAuthorized
	case mobility.TimestampMismatch:
		return wire.TimestampMismatch
	case mobility.TimestampLowerThanPrevious:
		return wire.TimestampOld
	case mobility.MissingHNPOption:
		return wire.MissingPrefix
	case mobility.BCEPrefixSetMismatch:
		return wire.PrefixMismatch
	case mobility.MissingMNIdentifierOption:
		return wire.MissingMNID
	case mobility.MissingHandoffIndicator:
		return wire.MissingHandoff
	case mobility.MissingAccessTechType:
		return wire.MissingATT
	case mobility.NotAuthorizedForIPv4Mobility:
		return wire.IPv4Disabled
	case mobility.NotAuthorizedForIPv4HoA:
		return wire.IPv4NotAuthorized
	case mobility.NotAuthorizedForIPv6Mobility:
		return wire.IPv6Disabled
	case mobility.MultipleIPv4HoANotSupported:
		return wire.MultipleIPv4
	}
	return wire.RefusedByAnchor
}

// refusal4 gives the reason of the status in an IPv4 option; otherwise where it says nothing.
func refusal4(s mobility.AddressStatus, otherwise wire.Reason) wire.Reason {
	switch s {
	case mobility.AddressProhibited:
		return wire.IPv4Disabled
	case mobility.AddressIncorrect, mobility.AddressInvalid:
		return wire.IPv4NotAuthorized
	case mobility.DynamicAddressNotAvailable:
		return wire.NoDynamic
	}
	return otherwise
}
