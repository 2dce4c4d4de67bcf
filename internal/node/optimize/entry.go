package optimize

import (
	"encoding/binary"
	"io"
	"net/netip"
	"slices"
	"time"

	"kedge/internal/core"
	"kedge/internal/rate"
	"kedge/wire"
)

// State of an entry, as users see it. It follows from what the entry knows; see Machine.stateOf.
type State uint8

const (
	Testing State = iota // return routability or the first Binding Update is under way; data goes through the home agent
	Direct               // acknowledged: data goes directly
	Moving               // the correspondent is being told of another care-of address; data goes through the home agent
	Held                 // it refused, or did not answer: data goes through the home agent for a while
	Leaving              // its binding is being deleted, or runs out
)

var stateNames = [...]string{"testing", "direct", "moving", "held", "leaving"}

func (s State) String() string { return stateNames[s] }

// entry is what the Binding Update List has about one correspondent (RFC 6275 11.1).
type entry struct {
	peer   netip.Addr
	always bool
	theirs netip.Addr // care-of address of a correspondent that is mobile itself and has registered here; invalid = none
	id     core.ID    // session in the data plane
	serial core.Ref   // of effects
	state  State
	since  time.Time // of state

	home  token
	care  []token // of care-of addresses of late, the newest last
	tests [2]test
	upd   update
	seq   uint16 // of the last Binding Update: never repeated
	bind  binding
	// lives is until when the correspondent may hold a binding, acknowledged or not.
	lives time.Duration
	// may are the care-of addresses that the correspondent may hold: of the last acknowledgement, and of what was sent since.
	may []netip.Addr
	// unsure: a Binding Update was given up that said something else than bind, and may have been heard.
	unsure bool
	told   told
	rates  [3]rate.Updates // by kind of message: tests by their index, Binding Updates

	hold    time.Duration // nothing is tried until then
	why     wire.Reason   // of hold
	fails   int           // in a row
	renews  int           // nonces in a row that were not known any more
	resyncs int           // corrections of the sequence number in a row
	leave   bool          // its place in the table is wanted
	kept    bool          // deleting the binding failed: it runs out
	begun   time.Duration // when the registration that is under way was begun; 0 = none is

	used     time.Duration // last sign of traffic
	counter  core.Counter
	known    bool          // counter is valid
	verify   bool          // find out whether the direct path works
	astray   bool          // of verify: the correspondent does not use it, so data goes through the home agent meanwhile
	silent   bool          // no answer came the direct way: what the correspondent may hold is deleted through the home agent
	verifyAt time.Duration // not before
	gap      time.Duration // between looks at a path that stays silent
	strayAt  time.Duration // when the correspondent was last seen not to use the direct path, or told so
	strays   int           // how often of late
	strange  int           // in a row: it does not know the option, and had a binding
	errors   int           // Binding Errors of late
	errorAt  time.Duration // of the last one
}

const updates = 2 // index of rates for Binding Updates

// token is a keygen token of the correspondent, with what it is about (RFC 6275 5.2.3). A secret: never shown.
type token struct {
	ok    bool
	value [8]byte
	index uint16
	addr  netip.Addr
	at    time.Duration // when it was asked for: the correspondent made it later, so it is not older
}

// fresh says whether the token may still be used for an address.
func (t *token) fresh(now time.Duration, a netip.Addr) bool {
	return t.ok && t.addr == a && now < t.at+MaxTokenLifetime
}

// maxCare is how many care-of addresses have a token: a node that comes back needs no test (5.2.7).
const maxCare = 4

// careFor finds the token of a care-of address that may still be used.
func (e *entry) careFor(now time.Duration, a netip.Addr) *token {
	for i := range e.care {
		if e.care[i].fresh(now, a) {
			return &e.care[i]
		}
	}
	return nil
}

// cared keeps one more.
func (e *entry) cared(t token) {
	e.forgetCare(t.addr)
	if len(e.care) == maxCare {
		e.care = slices.Delete(e.care, 0, 1)
	}
	e.care = append(e.care, t)
}

// forgetCare drops the token of a care-of address.
func (e *entry) forgetCare(a netip.Addr) {
	e.care = slices.DeleteFunc(e.care, func(t token) bool { return t.addr == a })
}

// binding is what the correspondent acknowledged.
type binding struct {
	careOf    netip.Addr // invalid = none
	seq       uint16
	lifetime  time.Duration
	expires   time.Duration
	refreshAt time.Duration
}

func (b *binding) ok() bool { return b.careOf.IsValid() }

// what a target is.
type what uint8

const (
	nothing what = iota
	register
	remove
)

// target is what the correspondent should be told.
type target struct {
	what   what
	careOf netip.Addr // of register
}

// add makes an entry. The table has room.
func (m *Machine) add(a netip.Addr) *entry { return m.enter(a, m.hooks.Session()) }

// enter makes an entry with a session that there may have been before.
func (m *Machine) enter(a netip.Addr, id core.ID) *entry {
	m.serial++
	e := &entry{peer: a, id: id, serial: m.serial, since: m.now.Wall, used: m.now.Boot, errorAt: -time.Hour, strayAt: -time.Hour, gap: doubtEvery}
	// RFC 6275 11.7.2: the sequence number SHOULD start at a random value. What comes without randomness is no secret.
	var b [2]byte
	_, _ = io.ReadFull(m.rand, b[:])
	e.seq = binary.BigEndian.Uint16(b[:])
	m.list = append(m.list, e)
	return e
}

// remove ends an entry and its session.
func (m *Machine) remove(e *entry, why string) {
	m.list = slices.DeleteFunc(m.list, func(o *entry) bool { return o == e })
	if e.told.exists {
		m.out = append(m.out, core.Forward{Ops: []core.Op{core.Drop{ID: e.id}}})
	}
	m.emit(core.Emit{Name: "correspondent", ID: e.id, From: e.state.String(), To: "", Why: why, Fields: m.fields(e)})
	m.past("correspondent "+e.peer.String()+" is over", "", why)
}

// wanted says whether route optimization is worth something: there is traffic, or the config says so.
func (e *entry) wanted(now time.Duration) bool { return e.always || now < e.used+Idle }

// minLifetime is the shortest lifetime that is asked for.
const minLifetime = 8 * time.Second

// target is what the correspondent should be told now.
func (m *Machine) target(e *entry) target {
	p, now := &m.place, m.now.Boot
	switch {
	case p.At == Nowhere || p.At == Away && p.Until <= now:
		return target{}
	case p.At == AtHome || !p.CareOf.IsValid() || e.leave || e.silent:
		if now < e.lives && !e.kept {
			return target{what: remove}
		}
		return target{}
	case now < e.hold || !e.wanted(now) || m.cfg.use(e.peer) == Never || p.Until < now+minLifetime:
		return target{}
	case e.bind.careOf == p.CareOf && now < e.bind.refreshAt && !e.verify && !e.unsure:
		return target{}
	}
	return target{register, p.CareOf}
}

// drive does what the entry needs now. It is called when anything has changed or is due.
func (m *Machine) drive(e *entry) {
	now := m.now.Boot
	if e.bind.ok() && e.bind.expires <= now {
		e.bind = binding{}
	}
	e.silent = e.silent && now < e.lives && !e.kept
	t := m.target(e)
	if e.upd.running && e.upd.target != t {
		e.interrupt()
		t = m.target(e)
	}
	if t.what != nothing && e.begun == 0 {
		e.begun = now
	} else if t.what == nothing {
		e.begun = 0
	}
	if m.authorize(e, t); e.silent && t.what == register { // it has just been found out
		t = m.target(e)
		m.authorize(e, t)
	}
	m.keepFresh(e, t)
	m.route(e)
	m.setState(e)
	if m.over(e) {
		m.remove(e, "no binding is left")
		return
	}
	if e.told.exists && m.watchAt == 0 {
		m.watchAt = now + watchEvery
	}
}

// interrupt ends a Binding Update that is under way; the correspondent may have heard it.
func (e *entry) interrupt() {
	u := &e.upd
	if u.running && u.tries > 0 && (u.target.what == remove || u.target.careOf != e.bind.careOf) {
		e.unsure = true
	}
	u.running = false
}

// over says whether nothing is left of an entry: no binding, no wish for one, and nothing to remember.
func (m *Machine) over(e *entry) bool {
	now := m.now.Boot
	if now < e.lives+grace && e.told.exists || now < e.lives {
		return false
	}
	if e.theirs.IsValid() {
		return false
	}
	if m.place.At == AtHome || e.leave {
		return true
	}
	if m.place.At == Away && !m.place.CareOf.IsValid() {
		return true
	}
	return now >= e.hold && !e.wanted(now)
}

// deadline is when drive has something to do for the entry.
func (e *entry) deadline(m *Machine) time.Duration {
	now, at := m.now.Boot, never
	soon := func(t time.Duration) {
		if t > now {
			at = min(at, t)
		}
	}
	for i := range e.tests {
		if e.tests[i].running {
			at = min(at, e.tests[i].next)
		}
	}
	if e.upd.running {
		at = min(at, e.upd.next)
	}
	if e.bind.ok() {
		soon(e.bind.refreshAt)
		soon(e.bind.expires)
	}
	if e.home.ok && e.bind.ok() {
		soon(e.home.at + MaxTokenLifetime - renewBefore)
	}
	soon(e.hold)
	soon(e.lives)
	if e.told.exists {
		soon(e.lives + grace)
	}
	if !e.always {
		soon(e.used + Idle)
	}
	return at
}

// another network: what was not answered may be answered there.
func (e *entry) another() {
	switch e.why {
	case wire.NoAnswer, wire.BadCareOf, wire.ForwardingFailed:
		e.hold, e.why = 0, ""
	}
	e.kept, e.verify, e.silent = false, false, false
}

// Waits after a failure, doubled each time.
const (
	holdFirst = 30 * time.Second
	holdMax   = 30 * time.Minute
	// holdLong is after what will hardly change: the correspondent does not know route optimization, or does not want us.
	holdLong = 10 * time.Minute
)

// fail gives up for a while: data goes through the home agent (RFC 6275 5.2.9). What the correspondent may hold is not forgotten.
func (m *Machine) fail(e *entry, r wire.Reason) {
	first := holdFirst
	switch r {
	case wire.NoAnswer, wire.SessionLimit, wire.ForwardingFailed, wire.BadCareOf, wire.UnknownHome:
	default:
		first = holdLong
	}
	e.hold, e.why = m.now.Boot+min(first<<min(e.fails, 10), holdMax), r
	e.fails++
	e.bind, e.upd.running, e.verify, e.begun = binding{}, false, false, 0
	e.renews, e.resyncs = 0, 0
	e.tests = [2]test{}
	m.count(r)
	m.past("correspondent "+e.peer.String()+" through the home agent", string(r), "")
	m.emit(core.Emit{Name: "refused", ID: e.id, Why: string(r), Fields: m.fields(e)})
}
