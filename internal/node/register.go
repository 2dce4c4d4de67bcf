package node

import (
	"net/netip"
	"slices"
	"time"

	"kedge/internal/core"
	"kedge/internal/node/movement"
	"kedge/wire"
	"kedge/wire/mobility"
)

// Several care-of addresses may be tried at a time, each with its own back-off (RFC 6275 11.8): a race. Every Binding Update
// has the next sequence number, whatever its care-of address, and the home agent takes each that is greater than the last.
// So it holds what the greatest number that reached it said, and of those sent after an acknowledged one nobody knows
// whether they did. Two rules make both ends agree:
//
//  1. The tunnel follows the newest acknowledged number; an acknowledgement of an older one changes nothing.
//  2. A registration is settled when no Binding Update for another care-of address was sent after it. One that is
//     acknowledged but not settled is confirmed: sent again with the next number. Nothing else is sent meanwhile, and what
//     is acknowledged for other care-of addresses has been overtaken.

// Limits of a race.
const (
	maxAttempts = 8  // care-of addresses at a time; more take turns
	maxSent     = 32 // Binding Updates whose acknowledgement is still taken
	// maxTries is after how many Binding Updates a race for a better care-of address is given up, while the old one works.
	maxTries = 3
)

// kind is what a Binding Update is for.
type kind uint8

const (
	register   kind = iota
	deregister      // on the home link
	farewell        // away, because the node is told to stop
)

// sent is a Binding Update without an acknowledgement.
type sent struct {
	seq      uint16
	at       time.Duration
	careOf   movement.CareOf
	kind     kind
	home     netip.Addr // invalid: the preferred one
	force    bool       // with the F flag
	router   bool       // with the R flag
	asked    bool       // with an IPv4 Home Address option
	ipv4     netip.Addr // what the option said
	stamp    uint64     // timestamp of the message-id option; 0 = without one
	lifetime time.Duration
}

// attempt is one care-of address of a race.
type attempt struct {
	careOf  movement.CareOf
	kind    kind
	next    time.Duration // of the next Binding Update; never = given up
	timeout time.Duration // until then from the last one; 0 = none sent
	tries   int
	first   time.Duration // when the first one was sent
	last    time.Duration // when the last one was sent
	ask     time.Duration // of the next echo that asks whether the home agent took it; 0 = none
	asked   int           // echoes since the last one
	heard   int           // times that one was answered, and the back-off began anew
}

// race is what is being tried; without attempts there is none.
type race struct {
	attempts []attempt
	waiting  []movement.CareOf // for a place among attempts
	asks     []ask             // echoes without an answer, newest last
	begun    time.Duration
	narrow   bool // a tunnel works, this looks for a better one
	refresh  bool // of the care-of address that is bound: refresh, confirmation
}

// key tells care-of addresses apart.
type key struct {
	ifi  int
	addr netip.Addr
}

func keyOf(c *movement.CareOf) key { return key{c.If, c.Addr} }

// elsewhere says whether an address is in another network now, or was lost in between: many networks give out the same private
// addresses. Of one that an earlier run registered nothing is known.
func elsewhere(was, is *movement.CareOf) bool {
	return was.Network != "" && is.Network != "" && was.Network != is.Network || was.Since > 0 && was.Since != is.Since
}

// never is later than any deadline.
const never = time.Duration(1<<63 - 1)

// startRace tries care-of addresses, the first at once, each other when those before it have had their time to be answered.
func (m *Machine) startRace(cs []movement.CareOf, k kind, narrow, refresh bool) {
	m.race = race{begun: m.now.Boot, narrow: narrow, refresh: refresh}
	at := m.now.Boot
	if len(cs) > maxAttempts {
		m.race.waiting = slices.Clone(cs[maxAttempts:])
		cs = cs[:maxAttempts]
	}
	for i, c := range cs {
		if i > 0 && m.avoids(&c) && !m.avoids(&cs[i-1]) {
			at = max(at, m.now.Boot+m.cfg.Timers.RetransmitFirst) // the others may be slow, this one is not expected to work
		}
		a := attempt{careOf: c, kind: k, next: at}
		if hold := m.reluctance(&c); hold > 0 && !narrow && !refresh {
			a.next = max(at, m.now.Boot+hold)
		} else {
			at += m.patience(&c)
		}
		m.race.attempts = append(m.race.attempts, a)
	}
	m.sendDue()
}

// reluctance holds a care-of address back whose last registrations were acknowledged, but nothing came through their
// tunnels: another one will hardly help.
func (m *Machine) reluctance(c *movement.CareOf) time.Duration {
	n := m.nets.find(c)
	if n == nil || n.deaf < 2 {
		return 0
	}
	return min(m.cfg.Timers.RetransmitFirst<<min(n.deaf-2, 10), m.cfg.Timers.RetransmitMax)
}

// patience is how long a care-of address is alone in a race: two round trips if known, else Timers.FamilyFallback. A lower
// bound keeps jitter from bringing the other family into play.
func (m *Machine) patience(c *movement.CareOf) time.Duration {
	if rtt := m.nets.rtt(c); rtt > 0 {
		return max(2*rtt, minPatience)
	}
	return m.cfg.Timers.FamilyFallback
}

const minPatience = 100 * time.Millisecond

func (m *Machine) endRace() { m.race = race{} }

func (m *Machine) racing() bool { return len(m.race.attempts) > 0 }

// hasten makes what is under way try again at once, with a fresh back-off.
func (m *Machine) hasten() {
	at := m.now.Boot
	for i := range m.race.attempts {
		a := &m.race.attempts[i]
		a.next, a.timeout, a.tries = at, 0, 0
		at += m.patience(&a.careOf)
	}
}

// sendDue sends the Binding Updates whose time has come, as the rate allows.
func (m *Machine) sendDue() {
	if len(m.session.expected) > 0 && !m.racing() && (m.settled() || m.state != updating) {
		m.out = append(m.out, core.Forward{Ops: m.unexpect(nil)})
	}
	for i := range m.race.attempts {
		a := &m.race.attempts[i]
		if a.next > m.now.Boot {
			continue
		}
		if m.race.narrow && a.tries >= maxTries {
			a.next = never
			continue
		}
		if w := m.race.waiting; a.tries >= maxTries && len(w) > 0 {
			m.race.waiting = append(w[1:], a.careOf)
			*a = attempt{careOf: w[0], kind: a.kind, next: m.now.Boot}
		}
		if free := max(m.rate.Free(m.now.Boot), m.turn(i)); free > m.now.Boot {
			a.next = free
			continue
		}
		m.transmit(a)
	}
	if m.race.refresh && m.silent() && !m.path.dead && m.race.attempts[0].tries > maxTries {
		m.path.dead = true // of a home agent that answers no echoes, these are the only sign
		m.evaluate("dead path")
		return
	}
	if m.racing() && m.race.narrow && !slices.ContainsFunc(m.race.attempts, func(a attempt) bool { return a.next != never }) {
		m.giveUp()
	}
}

// turn is when an attempt may begin: the one before it has had its time, even if the rate held that one up.
func (m *Machine) turn(i int) time.Duration {
	if i == 0 || m.race.attempts[i].tries > 0 {
		return 0
	}
	before := &m.race.attempts[i-1]
	switch {
	case before.tries > 0:
		return before.first + m.patience(&before.careOf)
	case before.next > m.now.Boot+time.Second: // held back for longer than any rate does
		return 0
	}
	return max(before.next, m.now.Boot) + m.patience(&before.careOf)
}

// transmit sends one Binding Update and sets the time of the next.
func (m *Machine) transmit(a *attempt) {
	m.rate.Spend(m.now.Boot)
	m.seq++
	t := &m.cfg.Timers
	switch {
	case a.timeout > 0:
		a.timeout = min(2*a.timeout, t.RetransmitMax)
		m.emit(core.Emit{Name: "retransmit", ID: m.session.id, Why: string(wire.NoAnswer), Fields: map[string]any{
			"type": "bu", "peer": m.ha.name, "coa": a.careOf.Addr.String(), "seq": m.seq, "tries": a.tries + 1}})
	case m.bound():
		a.timeout = t.RetransmitFirst
	default:
		a.timeout = t.RetransmitNew
	}
	if a.tries++; a.tries == 1 {
		a.first = m.now.Boot
	}
	a.last, a.next = m.now.Boot, m.now.Boot+a.timeout
	if a.ask, a.asked = 0, 0; m.asks(a) {
		a.ask = m.now.Boot + m.askEvery()
	}
	s := sent{seq: m.seq, at: m.now.Boot, careOf: a.careOf, kind: a.kind, lifetime: m.lifetime(&a.careOf)}
	if a.kind != register {
		s.lifetime = 0
	} else {
		m.livesUntil = max(m.livesUntil, m.now.Boot+s.lifetime)
		m.unanswered()
	}
	if p := &m.path; m.race.narrow && p.next > 0 && !p.waiting {
		// Should the home agent hear this and its answer be lost, the tunnel ends: see soon.
		p.next = min(p.next, m.now.Boot+m.patience(&a.careOf))
	}
	bu := m.update(&s)
	path := m.signalling(&s.careOf)
	if a.kind == deregister {
		path = m.fromHome(s.careOf.If)
	}
	if len(m.sent) == maxSent {
		m.sent = slices.Delete(m.sent, 0, 1)
	}
	m.sent = append(m.sent, s)
	m.expect(&s)
	m.out = append(m.out, core.Send{Path: path, Body: bu})
	m.persist()
}

// lifetime is what to ask for, for the preferred home address.
func (m *Machine) lifetime(c *movement.CareOf) time.Duration {
	return max(m.lifetimeOf(c, m.hoa()), mobility.LifetimeUnit)
}

// update builds the Binding Update that s describes, and completes s.
func (m *Machine) update(s *sent) *mobility.BindingUpdate {
	bu := &mobility.BindingUpdate{
		Sequence: s.seq, Flags: mobility.BUAck | mobility.BUHome, Lifetime: uint16(s.lifetime / mobility.LifetimeUnit),
	}
	if m.cfg.ID != "" {
		bu.Options = bu.Options.Add(mobility.MobileNodeID{Subtype: mobility.SubtypeNAI, ID: m.cfg.ID})
	}
	c := s.careOf.Addr
	switch {
	case s.kind == deregister: // the care-of address of a node at home is its home address
		home := m.hoa()
		if s.home.IsValid() {
			home = s.home
		}
		bu.Options = bu.Options.Add(mobility.AlternateCareOf{Addr: home})
	case c.Is6():
		bu.Options = bu.Options.Add(mobility.AlternateCareOf{Addr: c})
	case m.cfg.Anchor.Dialect == Soliman:
		bu.Options = bu.Options.Add(mobility.AlternateCareOf{Addr: mapped(c)})
	default:
		bu.Options = bu.Options.Add(mobility.IPv4CareOf{Addr: c})
		if s.force = m.force(&s.careOf); s.force {
			bu.Flags |= mobility.BUForceUDP
		}
	}
	m.routerUpdate(s, bu)
	m.stamp(s, bu)
	if s.kind == register && m.wants4() && m.carries4(s.home) {
		s.asked, s.ipv4 = true, m.ask4()
		bu.Options = bu.Options.Add(m.homeOption(s.ipv4))
	}
	return bu
}

// homeOption is the IPv4 Home Address option. That of draft-soliman-00 must be the last: its length is not what others read.
func (m *Machine) homeOption(a netip.Addr) mobility.IPv4HomeAddress {
	o := mobility.IPv4HomeAddress{PrefixLen: 32, Addr: a}
	if m.cfg.Anchor.Dialect == Soliman {
		o = mobility.IPv4HomeAddress{Addr: a, Short: 1}
		if m.cfg.Anchor.ShortOctet {
			o.Short = 4
		}
	}
	return o
}

// carries4 says whether the IPv4 home address goes with an IPv6 one: with that of the config as long as there is it, then with the
// preferred one.
func (m *Machine) carries4(home netip.Addr) bool {
	if !home.IsValid() {
		home = m.hoa()
	}
	if _, ok := m.prefixes.Find(m.cfg.Home.V6.Addr()); ok {
		return home == m.cfg.Home.V6.Addr()
	}
	return home == m.hoa()
}

// wants4 says whether the IPv4 Home Address option goes into Binding Updates. An anchor that did not answer it does not know
// it (document 004, 2.2.1), and is not asked again unless configured (3.3).
func (m *Machine) wants4() bool {
	return m.cfg.Home.IPv4 != IPv4None && (m.without4 != m.ha.v6 || m.cfg.RetryIPv4)
}

// ask4 is what the option says: the static address, the one that was given, or 0.0.0.0.
func (m *Machine) ask4() netip.Addr {
	if a := m.home4(); a.IsValid() {
		return a
	}
	return netip.IPv4Unspecified()
}

// force says whether a registration from an IPv4 care-of address asks for UDP in any case.
func (m *Machine) force(c *movement.CareOf) bool {
	return !m.refusesUDP && (m.cfg.ForceUDP || m.nets.blocked(c, m.now.Wall))
}

// giveUp ends a race for better care-of addresses: the tunnel that works stays. The home agent may have heard more than was
// answered, so it is told again.
func (m *Machine) giveUp() {
	if m.state == stopping {
		m.finish("no answer")
		return
	}
	for i := range m.race.attempts {
		m.nets.fail(&m.race.attempts[i].careOf, &m.bind.careOf, m.now.Wall)
	}
	m.past("no answer from better care-of addresses", string(wire.NoAnswer), "")
	m.endRace()
	m.confirm("no answer")
}

// confirm sends the bound care-of address again if a later Binding Update named another one, and is content otherwise.
func (m *Machine) confirm(why string) {
	if m.settled() {
		m.setState(active, why)
		return
	}
	m.setState(updating, why)
	m.startRace([]movement.CareOf{m.bind.careOf}, register, false, true)
}

// settled says whether the home agent can only hold what is bound.
func (m *Machine) settled() bool {
	return !slices.ContainsFunc(m.sent, func(s sent) bool {
		return mobility.Newer(s.seq, m.bind.seq) && keyOf(&s.careOf) != keyOf(&m.bind.careOf)
	})
}
