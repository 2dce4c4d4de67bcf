package peer

import (
	"fmt"
	"io"
	"net/netip"
	"time"

	"kedge/internal/core"
	"kedge/wire"
	"kedge/wire/ip"
	"kedge/wire/mobility"
)

// Machine is a correspondent, a core.Machine.
type Machine struct {
	cfg   Config
	rand  io.Reader
	since time.Time

	nonces nonces
	cache  cache
	routes routes
	tests  limiter // of Home and Care-of Test Init
	bus    limiter // of Binding Updates
	errors limiter // of Binding Errors
	counts map[string]uint64
	past   history

	stopping *stopping // nil: it runs

	// Of the Handle that runs.
	now core.Now
	out []core.Effect
}

// New makes a correspondent. rand makes node keys and nonces: it must be good (RFC 6275 5.2.2).
func New(cfg Config, rand io.Reader) (*Machine, error) {
	cfg, err := cfg.withDefaults()
	if err != nil {
		return nil, err
	}
	if rand == nil {
		return nil, errNoRandomness
	}
	m := &Machine{cfg: cfg, rand: rand, counts: make(map[string]uint64), cache: newCache(), routes: newRoutes(&cfg)}
	var seed [8]byte
	if err := m.nonces.begin(rand, seed[:]); err != nil {
		return nil, err
	}
	m.tests, m.bus = newLimiter(cfg.Limits.Requests, seed), newLimiter(cfg.Limits.Requests, seed)
	m.errors = newLimiter(bindingErrorRate, seed)
	return m, nil
}

// Handle is core.Machine's. An embedding machine hands over the messages that Takes names, Reported, Done of effects of this
// machine, Tick and Command as it likes.
func (m *Machine) Handle(now core.Now, ev core.Event, out []core.Effect) []core.Effect {
	m.now, m.out = now, out
	if m.since.IsZero() {
		m.since = now.Wall
	}
	if m.stopping != nil {
		m.ending(ev)
		out, m.out = m.out, nil
		return out
	}
	switch ev := ev.(type) {
	case core.Message:
		m.message(&ev)
	case core.Tick:
		m.tick()
	case core.Reported:
		m.reported(&ev)
	case core.Done:
		m.done(&ev)
	case core.Answer:
		m.answer(&ev)
	case core.HostChanged:
		m.hostChanged(&ev)
	case core.Command:
		m.command(&ev)
	}
	out, m.out = m.out, nil
	return out
}

// Deadline is core.Machine's: the next end or request of a binding, and the end of the oldest nonce.
func (m *Machine) Deadline() (at time.Duration, ok bool) {
	if m.stopping != nil {
		return m.stopping.at, len(m.stopping.refs) > 0
	}
	at, ok = m.nonces.deadline()
	if e, any := m.cache.due.Min(); any && (!ok || e.at < at) {
		at, ok = e.at, true
	}
	return at, ok
}

// Takes says whether a message is a correspondent's: an embedding machine keeps the others. Binding Updates of a home agent's
// clients (H flag) and of gateways are among them: they are refused.
func Takes(body any) bool {
	switch body.(type) {
	case *mobility.TestInit, *mobility.BindingUpdate:
		return true
	}
	return false
}

// CareOf is the care-of address that a home address is bound to for an own address.
func (m *Machine) CareOf(own, home netip.Addr) (netip.Addr, bool) {
	if e := m.cache.byKey[key{own, home}]; e != nil && e.live() {
		return e.careOf, true
	}
	return netip.Addr{}, false
}

// Bindings calls f with every binding, in no order.
func (m *Machine) Bindings(f func(Binding)) {
	for _, e := range m.cache.byKey {
		if e.live() {
			f(e.binding())
		}
	}
}

// maxDue is how much one Tick takes: the rest comes with the next one, which is due at once, so that requests are served in between.
const maxDue = 1024

func (m *Machine) tick() {
	m.nonces.expire(m.now.Boot)
	for range maxDue {
		e, ok := m.cache.due.Min()
		if !ok || e.at > m.now.Boot {
			return
		}
		m.advance(e)
	}
}

// message takes what was sent to this node. Nobody is known: every stranger has a rate.
func (m *Machine) message(ev *core.Message) {
	src := ev.Path.Remote.Addr()
	if ev.Err != nil {
		m.malformed(ev)
		return
	}
	limit := &m.tests
	if _, ok := ev.Body.(*mobility.BindingUpdate); ok {
		limit = &m.bus
	}
	if !limit.take(m.now.Boot, src) {
		m.count(wire.RateLimit) // no event: that is the point
		return
	}
	switch {
	case !m.isOwn(own(&ev.Path)):
		m.ignored(&ev.Path, wire.BadDestination, "")
		return
	case !ip.Routable(src):
		// Neither a test nor an acknowledgement can be sent there (RFC 6275 9.5.4).
		m.ignored(&ev.Path, wire.BadSource, "")
		return
	}
	switch b := ev.Body.(type) {
	case *mobility.TestInit:
		m.testInit(&ev.Path, b)
	case *mobility.BindingUpdate:
		m.update(ev, b)
	default:
		m.ignored(&ev.Path, wire.UnsupportedMessage, fmt.Sprintf("%T", ev.Body))
	}
}

// own is the address that a binding is for: this node's home address where it is mobile itself.
func own(p *core.Path) netip.Addr {
	if p.Own.IsValid() {
		return p.Own
	}
	return p.Local.Addr()
}

func (m *Machine) isOwn(a netip.Addr) bool {
	if !ip.Routable(a) || a.Zone() != "" {
		return false
	}
	for _, o := range m.cfg.Addresses {
		if o == a {
			return true
		}
	}
	return len(m.cfg.Addresses) == 0
}

// malformed counts a decode error. Only a type that is not known is answered by a message (RFC 6275 9.2); ICMPv6 errors are the
// loop's.
func (m *Machine) malformed(ev *core.Message) {
	reason := wire.ReasonOf(ev.Err)
	if !m.tests.take(m.now.Boot, ev.Path.Remote.Addr()) {
		m.count(wire.RateLimit)
		return
	}
	m.ignored(&ev.Path, reason, ev.Err.Error())
	if reason == wire.UnknownType {
		m.unrecognized(ev)
	}
}

// done hears of effects that were not carried out. A binding without forwarding is none: packets go by the home agent.
func (m *Machine) done(ev *core.Done) {
	if ev.Err == nil {
		return
	}
	m.counts["failed-effect"]++
	f := Fields{Err: ev.Err.Error()}
	e := m.cache.byID[core.ID(ev.Ref)]
	if e == nil || !e.live() {
		m.emit(core.Emit{Name: "failed", Why: "effect", Fields: f})
		return
	}
	m.emit(core.Emit{Name: "failed", ID: e.id, Why: string(wire.ForwardingFailed), Fields: f})
	m.unbind(e, string(wire.ForwardingFailed))
}
