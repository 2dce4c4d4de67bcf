package node

import (
	"net/netip"
	"slices"
	"time"

	"kedge/internal/core"
	"kedge/internal/node/movement"
)

// binding is the home registration that the home agent acknowledged. It is kept until its lifetime ends, whatever happens to
// the network. Of it the Binding Update List is made (RFC 6275 11.1, document 004 3.3): an entry for the IPv6 home address
// and, if the home agent bound it, one for the IPv4 home address.
type binding struct {
	careOf    movement.CareOf
	at        movement.CareOf // as it was when it was registered
	framing   framing
	nat       bool // one was detected
	seq       uint16
	sentAt    time.Duration // when the Binding Update was sent: lifetimes count from then (RFC 6275 11.7.3)
	lifetime  time.Duration
	expires   time.Duration // 0 = there is no binding
	refreshAt time.Duration
	keepalive time.Duration // longest time between packets that a NAT likes; 0 = none needed
	ipv4      netip.Prefix  // bound IPv4 home address; invalid = none
	router    bool          // it is one of a mobile router
	mtu       int           // octets of outer packets, if less than the link's; 0 = the link's
}

// bound says whether there is a binding.
func (m *Machine) bound() bool { return m.bind.expires > 0 }

// session is what the data plane is told.
type session struct {
	id    core.ID
	up    bool
	chain core.Chain
	keys  []netip.Prefix
	retry time.Duration // when to tell it again after a failure; 0 = it knows

	expected []expected
}

// expected is a tunnel that packets are let in from before there is an acknowledgement: the home agent uses a care-of address as
// soon as it has accepted it (RFC 6275 10.4.2), and what it sends then is on its way together with the acknowledgement.
type expected struct {
	id    core.ID
	chain core.Chain
}

// Refs of effects whose result is wanted.
const (
	refForward core.Ref = 1 + iota
	refChange
)

// retryAfter is how long after a failed effect it is tried again.
const retryAfter = time.Second

// forward brings the data plane to what the binding says. The old tunnel is let in for Timers.Grace more.
func (m *Machine) forward() {
	if !m.bound() {
		m.unforward()
		return
	}
	s := &m.session
	keys := []netip.Prefix{host(m.hoa())}
	if m.bind.ipv4.IsValid() {
		keys = append(keys, host(m.bind.ipv4.Addr()))
	}
	for _, x := range m.also {
		if m.serves(x) {
			keys = append(keys, host(x.home.Addr()))
		}
	}
	keys = append(keys, m.behind...)
	chain := m.chain(m.bind.careOf.Addr, m.bind.framing)
	chain.MTU = uint16(m.bind.mtu) // 0: the data plane follows the path MTU that routers tell
	var ops []core.Op
	if !s.up || s.chain != chain || s.retry > 0 {
		if s.id == 0 {
			m.sessions++
			s.id = core.ID(m.restart)<<32 | core.ID(m.sessions)
		}
		ops = append(ops, core.SetSession{ID: s.id, Chain: chain, Grace: m.cfg.Timers.Grace})
	}
	for _, k := range keys {
		if !s.up || s.retry > 0 || !slices.Contains(s.keys, k) {
			ops = append(ops, core.SetKey{Match: core.Match{Src: k}, ID: s.id, Up: true, Down: true})
		}
	}
	for _, k := range s.keys {
		if !slices.Contains(keys, k) {
			ops = append(ops, core.Drop{Match: core.Match{Src: k}})
		}
	}
	s.up, s.chain, s.keys, s.retry = true, chain, keys, 0
	if !m.racing() && m.settled() { // after the session has moved, so that no packet comes between
		ops = m.unexpect(ops)
	}
	if len(ops) > 0 {
		m.out = append(m.out, core.Forward{Ops: ops, Ref: refForward})
	}
}

// expect lets packets in that come by a care-of address which the home agent is being told of, while another one is bound.
func (m *Machine) expect(c *sent) {
	s := &m.session
	if !s.up || c.kind != register || len(s.expected) == maxAttempts {
		return
	}
	f := inIPv6
	switch {
	case c.careOf.Addr.Is4() && c.force:
		f = inUDP
	case c.careOf.Addr.Is4():
		f = inIPv4 // in UDP too: the data plane takes both over IPv4
	}
	chain := m.chain(c.careOf.Addr, f)
	if s.chain.Layer == chain.Layer || slices.ContainsFunc(s.expected, func(e expected) bool { return e.chain == chain }) {
		return
	}
	m.sessions++
	e := expected{id: core.ID(m.restart)<<32 | core.ID(m.sessions), chain: chain}
	ops := []core.Op{core.SetSession{ID: e.id, Chain: chain}}
	for _, k := range s.keys {
		ops = append(ops, core.SetKey{Match: core.Match{Src: k}, ID: e.id})
	}
	s.expected = append(s.expected, e)
	m.out = append(m.out, core.Forward{Ops: ops})
}

// unexpect ends that, when a race is over.
func (m *Machine) unexpect(ops []core.Op) []core.Op {
	for _, e := range m.session.expected {
		ops = append(ops, core.Drop{ID: e.id})
	}
	m.session.expected = nil
	return ops
}

// unforward ends the session.
func (m *Machine) unforward() {
	if m.session.up {
		m.out = append(m.out, core.Forward{Ops: m.unexpect([]core.Op{core.Drop{ID: m.session.id}}), Ref: refForward})
	}
	m.session = session{}
	m.path.stop()
}

// forwarded takes the data plane's answer.
func (m *Machine) forwarded(err error) {
	if err == nil {
		return
	}
	m.failed("forwarding", err)
	if m.session.up {
		m.session.retry = m.now.Boot + retryAfter
	}
}

// unbind ends the binding: it expired, or the home agent has none any more.
func (m *Machine) unbind() {
	m.bind, m.behind = binding{}, nil
	m.unforward()
	m.persist()
}

// expire: the lifetime is over, and with it what the home agent knew.
func (m *Machine) expire() {
	m.unbind()
	m.routerAgain()
	m.past("binding expired", "", "")
	if m.state == active || m.state == updating {
		m.setState(registering, "expired")
		m.seen = nil
		m.evaluate("expired")
	}
	m.configure()
}
