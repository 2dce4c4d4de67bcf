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

// A node that is renumbered has more than one home address for a while: a new one that is not registered yet, or old ones that live
// on. Each has a binding of its own at the home agent (RFC 6275 11.1), which follows that of the preferred one: it is registered from
// the care-of address that was acknowledged there, and uses the same tunnel. So there is one race, and one session of the data plane.

// also is such a home address.
type also struct {
	home   netip.Prefix
	agent  netip.Addr      // home agent that has the binding
	careOf movement.CareOf // that it was acknowledged from
	seq    uint16
	sentAt time.Duration
	// lifetime and expires of what was acknowledged; expires 0 = nothing was.
	lifetime, expires time.Duration
	next              time.Duration // of the next Binding Update
	timeout           time.Duration // 0 = none is outstanding
	out               sent          // the last one, while it is outstanding
	tries             int
}

func (x *also) bound(now time.Duration) bool { return x.expires > now }

func (m *Machine) alsoOf(a netip.Addr) *also {
	for _, x := range m.also {
		if x.home.Addr() == a {
			return x
		}
	}
	return nil
}

// serves says whether the binding is where the tunnel is.
func (m *Machine) serves(x *also) bool {
	return m.bound() && x.bound(m.now.Boot) && x.agent == m.ha.v6 && keyOf(&x.careOf) == keyOf(&m.bind.careOf)
}

// alsoAt is when the next of them has something to send; never while the preferred one is not registered.
func (m *Machine) alsoAt() time.Duration {
	at := never
	if m.state != active || m.path.dead {
		return at
	}
	for _, x := range m.also {
		switch {
		case x.timeout > 0:
			at = min(at, x.next)
		case !m.serves(x):
			at = min(at, max(x.next, m.rate.Free(m.now.Boot)))
			if x.expires > 0 { // it was, elsewhere
				at = min(at, m.rate.Free(m.now.Boot))
			}
		default:
			at = min(at, x.next)
		}
	}
	return at
}

// alsoDue sends the Binding Updates of other home addresses.
func (m *Machine) alsoDue() {
	if m.state != active || m.path.dead {
		return
	}
	for _, x := range slices.Clone(m.also) {
		now := m.now.Boot
		moved := x.timeout == 0 && x.expires > 0 && !m.serves(x)
		if x.next > now && !moved {
			continue
		}
		if free := m.rate.Free(now); free > now {
			x.next = max(x.next, free)
			continue
		}
		c := m.bind.careOf
		life := m.lifetimeOf(&c, x.home.Addr())
		if life == 0 {
			x.next, x.expires = never, 0
			continue
		}
		m.rate.Spend(now)
		m.seq++
		if x.timeout == 0 {
			x.tries, x.timeout = 0, m.cfg.Timers.RetransmitNew
		} else {
			x.timeout = min(2*x.timeout, m.cfg.Timers.RetransmitMax)
		}
		x.tries++
		x.next = now + x.timeout
		x.out = sent{seq: m.seq, at: now, careOf: c, home: x.home.Addr(), lifetime: life}
		bu := m.update(&x.out)
		m.out = append(m.out, core.Send{Path: m.signallingOf(x.home.Addr(), &c), Body: bu})
		m.persist()
	}
}

// alsoAcked takes an acknowledgement for such a home address.
func (m *Machine) alsoAcked(x *also, p *core.Path, ba *mobility.BindingAck) {
	careOf, _ := m.cameFor(p)
	switch {
	case ba.Status == mobility.SequenceOutOfWindow && x.timeout > 0:
		if !mobility.Newer(m.seq, ba.Sequence) {
			m.seq = ba.Sequence
		}
		if x.tries++; x.tries <= maxResyncs {
			x.next = m.now.Boot
		}
		m.count(wire.SequenceOld)
		return
	case x.timeout == 0 || ba.Sequence != x.out.seq:
		m.ignored(p, wire.SequenceMismatch, "")
		return
	case careOf != x.out.careOf.Addr:
		m.ignored(p, wire.WrongTunnel, careOf.String())
		return
	}
	m.answered()
	s := x.out
	x.timeout = 0
	if !ba.Status.Accepted() || ba.Lifetime == 0 {
		m.alsoRefused(x, ba)
		return
	}
	life := min(time.Duration(ba.Lifetime)*mobility.LifetimeUnit, s.lifetime)
	x.agent, x.careOf, x.seq, x.sentAt, x.lifetime, x.expires = m.ha.v6, s.careOf, s.seq, s.at, life, s.at+life
	x.next = max(s.at+time.Duration(float64(life)*m.cfg.Timers.RefreshAt), m.now.Boot+minRefresh)
	if s.asked && m.bound() {
		m.take4(&s, ba)
	}
	m.past(fmt.Sprintf("home address %v bound to %v, seq %d", x.home.Addr(), s.careOf.Addr, s.seq), "", "")
	m.renumber()
	m.persist()
}

// alsoRefused: a new home address that the home agent does not want is given up, and an old one when it ends there.
func (m *Machine) alsoRefused(x *also, ba *mobility.BindingAck) {
	r, ok := refusals[ba.Status]
	if !ok {
		r.reason = wire.RefusedByAnchor
	}
	m.count(r.reason)
	m.past(fmt.Sprintf("home address %v refused %d", x.home.Addr(), uint8(ba.Status)), string(r.reason), ba.Status.String())
	m.emit(core.Emit{Name: "refused", ID: m.session.id, Why: string(r.reason), Fields: map[string]any{
		"peer": m.ha.name, "status": uint8(ba.Status), "hoa": x.home.Addr().String()}})
	if h, ok := m.prefixes.Find(x.home.Addr()); ok && h.Preferred > m.now.Boot {
		m.prefixes.Refused(x.home.Addr())
		m.also = slices.DeleteFunc(m.also, func(o *also) bool { return o == x })
	} else {
		x.expires, x.next = 0, m.now.Boot+lastingFirst<<min(x.tries, 4)
	}
	m.forward()
	m.configure()
}

// lifetimeOf is what to ask for: no more than is left of the care-of address (RFC 6275 11.7.1), nor of the home prefix (11.4.2). 0 = it
// is not worth asking.
func (m *Machine) lifetimeOf(c *movement.CareOf, home netip.Addr) time.Duration {
	left := max((m.move.ValidUntil(c.If, c.Addr) - m.now.Boot).Truncate(mobility.LifetimeUnit), mobility.LifetimeUnit)
	if h, ok := m.prefixes.Find(home); ok {
		left = min(left, max(h.Valid-m.now.Boot, 0).Truncate(mobility.LifetimeUnit))
	}
	return min(m.cfg.Timers.Lifetime, left)
}

// bidFarewell ends the bindings of other home addresses than the preferred one, whose own end waits for an answer and comes behind.
func (m *Machine) bidFarewell() {
	if !m.bound() {
		return
	}
	for _, x := range m.also {
		if !m.serves(x) {
			continue
		}
		m.seq++
		s := sent{seq: m.seq, at: m.now.Boot, careOf: x.careOf, kind: farewell, home: x.home.Addr()}
		m.out = append(m.out, core.Send{Path: m.signallingOf(s.home, &s.careOf), Body: m.update(&s)})
	}
}
