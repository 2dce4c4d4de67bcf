package optimize

import (
	"io"
	"net/netip"
	"time"

	"kedge/internal/core"
	"kedge/wire"
	"kedge/wire/mobility"
)

// Indexes of entry.tests and entry.rates.
const (
	homeTest = iota
	careTest
)

var testNames = [...]string{"hoti", "coti"}

// test is one half of the return routability procedure (RFC 6275 5.2.5): test inits until one is answered.
type test struct {
	running bool
	spare   bool       // renews a token that is still good: its failure means nothing
	addr    netip.Addr // that is tested
	sent    []sentInit // oldest first
	tries   int
	timeout time.Duration
	next    time.Duration
}

// sentInit is a test init. Every one has a cookie of its own (11.8); the answer to an earlier one is as good, where the round trip
// takes longer than the first retransmission.
type sentInit struct {
	cookie [8]byte
	at     time.Duration
}

// authorize gets what a target needs: tokens, then the acknowledgement of a Binding Update. A deletion needs the home keygen token
// alone (5.2.5).
func (m *Machine) authorize(e *entry, t target) {
	now := m.now.Boot
	home := e.home.fresh(now, m.place.Home)
	care := t.what == remove || e.careFor(now, t.careOf) != nil
	next, ahead := m.ahead(e, t)
	if (t.what == nothing || care) && !(ahead && e.tests[careTest].addr == next) {
		e.tests[careTest] = test{}
	}
	if (t.what == nothing || home) && !e.tests[homeTest].spare {
		e.tests[homeTest] = test{}
	}
	if ahead {
		m.testAhead(e, next)
	}
	if t.what == nothing {
		return
	}
	if home && care {
		m.update(e, t)
		return
	}
	e.interrupt()
	if !home {
		m.test(e, homeTest, m.place.Home)
	}
	if !care && t.what == register { // in parallel, 11.6.1; fail may have ended it
		m.test(e, careTest, t.careOf)
	}
}

// ahead is the care-of address that the home agent is being told of. Its test need not wait for that: a move takes one round trip less,
// and if nothing comes of the address, one message was too many.
func (m *Machine) ahead(e *entry, t target) (netip.Addr, bool) {
	a, now := m.place.Next, m.now.Boot
	return a, t.what == nothing && a.IsValid() && e.bind.ok() && e.bind.careOf != a && e.wanted(now) && now >= e.hold && !e.leave &&
		m.cfg.use(e.peer) != Never && e.careFor(now, a) == nil
}

// testAhead sends one test init; others only go when the home agent has the address.
func (m *Machine) testAhead(e *entry, a netip.Addr) {
	if t := &e.tests[careTest]; t.running && t.addr == a && t.tries > 0 && t.next <= m.now.Boot {
		t.next = never
		return
	}
	if t := &e.tests[careTest]; !t.running || t.addr != a || t.next != never {
		m.test(e, careTest, a)
	}
}

// test sends what is due of a test.
func (m *Machine) test(e *entry, kind int, a netip.Addr) {
	t, now := &e.tests[kind], m.now.Boot
	switch {
	case now < e.hold && !e.silent:
		return
	case !t.running || t.addr != a:
		*t = test{running: true, addr: a, next: now, sent: t.sent[:0]}
	case t.spare: // it counts now; what is on its way may still be answered
		t.spare, t.tries, t.timeout, t.next = false, 0, 0, now
	case t.next == never: // it was sent ahead
		t.tries, t.timeout, t.next = 0, 0, now
	}
	if t.next > now {
		return
	}
	if kind == careTest && t.tries == 1 && now >= t.sent[len(t.sent)-1].at+InitialBindackTimeout && e.bind.ok() && !m.owns(e.bind.careOf) {
		// All that the correspondent sends is lost until it hears of this network: it sends to the home address meanwhile.
		e.silent = true
		return
	}
	if t.tries > MaxFailure {
		m.unanswered(e)
		return
	}
	m.sendTest(e, kind)
}

// unanswered gives up: after MAX_RO_FAILURE retransmissions of a test, or maxUpdates. What the correspondent may have heard all the same
// must not go on for its lifetime: it would send to where perhaps nothing arrives.
func (m *Machine) unanswered(e *entry) {
	if m.target(e).what == remove {
		e.interrupt()
		e.kept, e.tests = true, [2]test{}
		m.past("binding at "+e.peer.String()+" is not deleted", string(wire.NoAnswer), "it runs out")
		return
	}
	m.fail(e, wire.NoAnswer)
	e.silent = m.now.Boot < e.lives && !e.kept
}

// keepFresh renews the home keygen token of a binding in use before it ends, so that a move costs a care-of test only (5.2.7).
func (m *Machine) keepFresh(e *entry, tg target) {
	t, now := &e.tests[homeTest], m.now.Boot
	if m.place.At != Away || m.place.Until <= now || !e.bind.ok() || !e.wanted(now) || e.leave || e.home.ok && now < e.home.at+MaxTokenLifetime-renewBefore {
		if t.spare {
			*t = test{}
		}
		return
	}
	if tg.what != nothing && !e.home.fresh(now, m.place.Home) {
		return // it is under way in earnest
	}
	if !t.running {
		*t = test{running: true, spare: true, addr: m.place.Home, next: now}
	}
	if t.next <= now {
		m.sendTest(e, homeTest)
	}
}

// maxCookies is how many test inits of a test may still be answered.
const maxCookies = MaxFailure + 1

// sendTest sends a test init, as the rates allow.
func (m *Machine) sendTest(e *entry, kind int) {
	t, now := &e.tests[kind], m.now.Boot
	if at := max(e.rates[kind].Free(now), m.tests.Free(now, testLimit)); at > now {
		t.next = at
		return
	}
	e.rates[kind].Spend(now)
	m.tests.Spend(now, testLimit)
	s := sentInit{at: now}
	if _, err := io.ReadFull(m.rand, s.cookie[:]); err != nil {
		t.next = now + InitialBindackTimeout // a cookie that others know would be none
		m.emit(core.Emit{Name: "failed", ID: e.id, Why: "randomness", Fields: map[string]any{"err": err.Error()}})
		return
	}
	if t.timeout = min(2*t.timeout, MaxBindackTimeout); t.timeout == 0 {
		t.timeout = InitialBindackTimeout
	} else {
		m.emit(core.Emit{Name: "retransmit", ID: e.id, Why: string(wire.NoAnswer), Fields: map[string]any{
			"type": testNames[kind], "correspondent": e.peer.String(), "tries": t.tries + 1}})
	}
	t.tries++
	t.next = now + t.timeout
	if len(t.sent) == maxCookies {
		t.sent = append(t.sent[:0], t.sent[1:]...)
	}
	t.sent = append(t.sent, s)
	path := m.homePath(e)
	if kind == careTest {
		path = m.carePath(e, t.addr)
	}
	m.out = append(m.out, core.Send{Path: path, Body: &mobility.TestInit{CareOf: kind == careTest, Cookie: s.cookie}})
}

// homePath is from the home address: through the tunnel, or natively at home (11.6.1).
func (m *Machine) homePath(e *entry) core.Path {
	p := core.Path{Local: addrPort(m.place.Home), Remote: addrPort(e.peer), Auth: core.Auth{Kind: "none"}}
	if m.place.At == AtHome {
		p.If = m.place.If
	} else {
		p.Outer = m.place.Tunnel
	}
	return p
}

// carePath is from a care-of address, directly. It leaves to the correspondent's home address, if it has one (5.2.9).
func (m *Machine) carePath(e *entry, a netip.Addr) core.Path {
	ifi := m.place.If
	if a == m.place.Next {
		ifi = m.place.NextIf
	}
	return core.Path{If: ifi, Local: addrPort(a), Remote: addrPort(e.peer), Auth: core.Auth{Kind: "none"}}
}

func addrPort(a netip.Addr) netip.AddrPort { return netip.AddrPortFrom(a, 0) }

// answered takes a Home Test or Care-of Test, 11.6.2.
func (m *Machine) answered(e *entry, p *core.Path, b *mobility.Test) {
	kind := homeTest
	if b.CareOf {
		kind = careTest
	}
	t := &e.tests[kind]
	if !t.running {
		m.ignored(p, wire.Unsolicited, b.Type().String())
		return
	}
	switch {
	case !b.CareOf && (p.Local.Addr() != t.addr || !m.fromAnchor(p)), b.CareOf && (p.Local.Addr() != t.addr || p.Outer.N != 0):
		m.ignored(p, wire.WrongTunnel, b.Type().String())
		return
	}
	at, ok := t.knows(b.Cookie)
	if !ok {
		m.ignored(p, wire.IdentifierMismatch, b.Type().String()+": cookie")
		return
	}
	got := token{ok: true, value: b.Token, index: b.NonceIndex, addr: t.addr, at: at}
	if *t = (test{}); b.CareOf {
		e.cared(got)
	} else {
		e.home = got
	}
	m.drive(e)
}

// knows finds the test init that a cookie is of.
func (t *test) knows(cookie [8]byte) (time.Duration, bool) {
	for _, s := range t.sent {
		if s.cookie == cookie {
			return s.at, true
		}
	}
	return 0, false
}

// fromAnchor says whether a message to the home address came as it must: through the home agent's tunnel, or natively at home.
func (m *Machine) fromAnchor(p *core.Path) bool {
	switch {
	case m.place.At == AtHome:
		return p.Outer.N == 0
	case p.Auth.Kind == "esp" && p.Auth.Peer == m.place.Name && m.place.Name != "":
		return true // the tunnel is one of ESP (10.4.6)
	}
	return p.Outer.N > 0 && p.Outer.Layer[p.Outer.N-1].Remote.Addr() == m.place.Tunnel.Layer[0].Remote.Addr()
}
