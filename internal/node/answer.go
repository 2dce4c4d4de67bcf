package node

import (
	"fmt"
	"net/netip"
	"slices"
	"time"

	"kedge/internal/core"
	"kedge/internal/node/movement"
	"kedge/wire"
	"kedge/wire/mobility"
)

// acknowledged takes a Binding Acknowledgement, RFC 6275 11.7.3.
func (m *Machine) acknowledged(p *core.Path, ba *mobility.BindingAck) {
	careOf, home := m.cameFor(p)
	switch {
	case !m.vouched(p):
		m.ignored(p, wire.NotAuthorized, "")
		return
	case ba.Flags&mobility.BAProxy != 0:
		m.ignored(p, wire.NotForUs, "a proxy acknowledgement")
		return
	case home != m.hoa():
		if x := m.alsoOf(home); x != nil {
			m.alsoAcked(x, p, ba)
			return
		}
		m.ignored(p, wire.UnknownHome, home.String())
		return
	case len(m.sent) == 0 && m.acked != ba.Sequence:
		m.ignored(p, wire.Unsolicited, "")
		return
	case ba.Status == mobility.SequenceOutOfWindow:
		m.resync(p, ba)
		return
	}
	i := slices.IndexFunc(m.sent, func(s sent) bool { return s.seq == ba.Sequence })
	switch {
	case i < 0 && !mobility.Newer(ba.Sequence, m.acked):
		m.ignored(p, wire.SequenceOld, "")
		return
	case i < 0:
		m.ignored(p, wire.SequenceMismatch, fmt.Sprintf("%d, the last was %d", ba.Sequence, m.seq))
		return
	}
	s := m.sent[i]
	if want := m.expectedAt(&s); careOf != want {
		m.ignored(p, wire.WrongTunnel, careOf.String()+" instead of "+want.String())
		return
	}
	if s.replayed(ba) {
		m.ignored(p, wire.TimestampMismatch, "")
		return
	}
	if ba.Status == mobility.MIPv6AuthFail && m.spoiled(&s) {
		return
	}
	m.answered()
	m.acked = s.seq
	m.sent = slices.DeleteFunc(m.sent, func(o sent) bool { return !mobility.Newer(o.seq, s.seq) })
	m.nets.measured(&s.careOf, m.now.Boot-s.at)
	m.move.Confirm(m.now, s.careOf.Addr)
	switch {
	case m.stamped(&s, ba):
	case s.kind != register:
		// Refused, too, the home agent has no binding: 133 says just that (RFC 6275 10.3.2).
		m.deregistered(&s, ba)
	case m.state == detached || m.state == returning || m.state == stopping: // not wanted any more
		m.ignored(p, wire.SequenceOld, m.state.String())
	case !ba.Status.Accepted():
		m.refuse(&s, ba)
	case m.race.refresh && keyOf(&s.careOf) != keyOf(&m.bind.careOf):
		m.ignored(p, wire.SequenceOld, "another care-of address is being confirmed")
	case ba.Lifetime == 0:
		m.unbind() // what was bound before ended with that (RFC 6275 11.7.3)
		m.refusedFor(m.cfg.Timers.RetransmitMax, wire.RefusedByAnchor, "accepted for no time")
	default:
		m.accepted(&s, ba)
	}
}

// vouched says whether a message from the home agent is protected as it must be.
func (m *Machine) vouched(p *core.Path) bool {
	if !m.ha.protected() {
		return true
	}
	return p.Auth.Kind == m.ha.protection && p.Auth.Peer == m.ha.name
}

// expectedAt is the address of ours that the acknowledgement of a Binding Update must come to.
func (m *Machine) expectedAt(s *sent) netip.Addr {
	if s.kind == deregister {
		return m.hoa()
	}
	return s.careOf.Addr
}

// accepted makes a binding of an acknowledged Binding Update.
func (m *Machine) accepted(s *sent, ba *mobility.BindingAck) {
	first, before := !m.bound(), m.bind
	lifetime := min(time.Duration(ba.Lifetime)*mobility.LifetimeUnit, s.lifetime)
	m.bind = binding{
		careOf: s.careOf, at: s.careOf, framing: inIPv6, seq: s.seq, sentAt: s.at, lifetime: lifetime, expires: s.at + lifetime, ipv4: before.ipv4,
	}
	stays := !first && keyOf(&before.careOf) == keyOf(&s.careOf) && !elsewhere(&before.at, &s.careOf)
	if stays {
		m.bind.mtu = before.mtu
	}
	m.bind.refreshAt = m.refreshTime(ba)
	if s.careOf.Addr.Is4() {
		m.frame(s, ba)
	}
	again := m.take4(s, ba)
	m.behind = m.takeNetworks(s, ba)
	m.bind.router = s.router && m.routes()
	m.losers(s)
	m.tries, m.resyncs, m.unverified, m.retryAt, m.stamps.wrong = 0, 0, 0, never, 0
	m.agents.Accepted(m.now.Boot)
	if ba.Status == mobility.AcceptedPrefixDiscovery { // RFC 6275 11.7.3
		m.prefixes.Ask(m.now.Boot)
	}
	settled := m.settled()
	why := "acknowledged"
	m.endRace()
	if !stays {
		m.arrived(s, first)
	}
	chain := m.session.chain
	if m.forward(); chain != m.session.chain || m.path.dead || m.path.next == 0 || m.path.lost > 0 {
		m.path.restart(m)
	}
	if settled && !again {
		m.setState(active, why)
	} else {
		m.setState(updating, why)
		m.startRace([]movement.CareOf{m.bind.careOf}, register, false, true)
	}
	m.configure()
	m.persist()
	if settled && !again {
		m.evaluate("acknowledged") // there may be better ones that wait
	}
}

// refreshTime is when to refresh the binding: at a part of its lifetime, or when the home agent advises (RFC 6275 6.2.4).
func (m *Machine) refreshTime(ba *mobility.BindingAck) time.Duration {
	b := &m.bind
	after := time.Duration(float64(b.lifetime) * m.cfg.Timers.RefreshAt)
	if advice, ok := ba.Options.BindingRefreshAdvice(); ok {
		if d := time.Duration(advice.Interval) * mobility.LifetimeUnit; d > 0 && d < b.lifetime {
			after = d
		}
	}
	return max(b.sentAt+after, m.now.Boot+minRefresh)
}

// minRefresh keeps short lifetimes from becoming a flood.
const minRefresh = time.Second

// noKeepalive in the NAT Detection option: no NAT was detected (RFC 5555 3.2.2).
const noKeepalive = ^uint32(0)

// frame reads how data has to travel from an IPv4 care-of address.
func (m *Machine) frame(s *sent, ba *mobility.BindingAck) {
	b := &m.bind
	b.framing = inIPv4
	if m.cfg.Anchor.Dialect == Soliman {
		return
	}
	nat, ok := ba.Options.NATDetection()
	b.nat = ok && nat.Refresh != noKeepalive
	switch {
	case ok && (nat.F || nat.Refresh != noKeepalive):
		b.framing = inUDP
	case s.force: // granted, by a home agent that does not say it again
		b.framing = inUDP
	}
	if s.force && m.nets.plain(&s.careOf) == blocked {
		m.nets.judge(&s.careOf, blocked, m.now.Wall) // while the node stays, what works is not interrupted to find out whether plain framing would
	}
	if b.framing == inUDP && (!ok || nat.Refresh != noKeepalive) {
		b.keepalive = m.cfg.Timers.NATRefresh
		if ok && nat.Refresh > 0 {
			b.keepalive = time.Duration(nat.Refresh) * time.Second
		}
	}
}

// take4 reads what became of the IPv4 home address, RFC 5555 4.4.2. It says whether to ask anew at once.
func (m *Machine) take4(s *sent, ba *mobility.BindingAck) (again bool) {
	b := &m.bind
	if !s.asked {
		if m.carries4(s.home) {
			b.ipv4 = netip.Prefix{}
		}
		return false
	}
	b.ipv4 = netip.Prefix{}
	ack, ok := m.addressAck(ba)
	addr := ack.Addr
	switch {
	case !ok:
		m.without4 = m.ha.v6
		m.problem4(wire.IPv4Disabled, "the home agent does not know the IPv4 Home Address option")
	case !ack.Status.Success():
		m.problem4(reason4(ack.Status), ack.Status.String())
		if s.ipv4.IsUnspecified() || m.cfg.Home.IPv4 == IPv4Static {
			return false // asked again with the next refresh
		}
		m.given4 = netip.Prefix{}
		return ack.Status == mobility.AddressIncorrect // the address of an earlier life: any will do
	case !usable4(addr), m.cfg.Home.IPv4 == IPv4Static && addr != s.ipv4:
		m.problem4(wire.NoAddressInAnswer, addr.String())
	default:
		bits := 32
		if ack.Short == 0 && ack.PrefixLen > 0 {
			bits = int(ack.PrefixLen)
		}
		if m.cfg.Home.IPv4 == IPv4Static {
			bits = m.cfg.Home.V4.Bits()
		}
		b.ipv4 = netip.PrefixFrom(addr, bits)
		m.without4, m.why4 = netip.Addr{}, ""
		if m.cfg.Home.IPv4 == IPv4Dynamic {
			m.given4 = b.ipv4
		}
	}
	return false
}

// usable4 says whether an IPv4 address can be a home address.
func usable4(a netip.Addr) bool {
	return a.IsGlobalUnicast() && a.Is4() && a != netip.AddrFrom4([4]byte{255, 255, 255, 255})
}

func reason4(s mobility.AddressStatus) wire.Reason {
	switch s {
	case mobility.AddressProhibited:
		return wire.IPv4Disabled
	case mobility.AddressIncorrect:
		return wire.IPv4NotAuthorized
	case mobility.AddressInvalid:
		return wire.NotUnicast
	case mobility.DynamicAddressNotAvailable:
		return wire.PoolExhausted
	}
	return wire.RefusedByAnchor
}

// problem4 tells once that there is no IPv4 home address, and why.
func (m *Machine) problem4(r wire.Reason, detail string) {
	m.count(r)
	if m.why4 == string(r)+detail {
		return
	}
	m.why4 = string(r) + detail
	m.past("no IPv4 home address", string(r), detail)
	m.emit(core.Emit{Name: "warning", ID: m.session.id, Why: string(r), Fields: map[string]any{"peer": m.ha.name, "family": "v4", "err": detail}})
}

// losers are the care-of addresses that had their time before the winner and did not answer.
func (m *Machine) losers(s *sent) {
	for i := range m.race.attempts {
		a := &m.race.attempts[i]
		if keyOf(&a.careOf) == keyOf(&s.careOf) {
			return
		}
		if a.tries > 0 && m.now.Boot >= a.first+m.patience(&a.careOf) {
			m.nets.fail(&a.careOf, &s.careOf, m.now.Wall)
		}
	}
}

// arrived: packets take another way from now on.
func (m *Machine) arrived(s *sent, first bool) {
	f := m.fields()
	f["phase"], f["took_ms"] = "registration", float64(m.now.Boot-s.at)/1e6
	if since := s.careOf.Since; since > 0 && since <= m.now.Boot {
		f["usable_ms"] = float64(m.now.Boot-since) / 1e6
	}
	why := "moved"
	if first {
		why = "bound"
	}
	m.emit(core.Emit{Name: "handover", ID: m.session.id, Why: why, Fields: f})
	m.past(fmt.Sprintf("bound to %v on %s, seq %d", s.careOf.Addr, s.careOf.Link, s.seq), "", m.bind.framing.String())
}
