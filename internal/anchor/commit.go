package anchor

import (
	"fmt"
	"net/netip"
	"slices"
	"time"

	"kedge/internal/anchor/homeagent"
	"kedge/internal/binding"
	"kedge/internal/core"
	"kedge/wire"
	"kedge/wire/mobility"
)

// A change of a session is answered only when it is durable and forwarded. Until the loop says so it is in flight: should
// it fail, the session goes back to what it was, and the gateway, which got no answer, asks again.

// flight is the changes of one session that are under way.
type flight struct {
	base  []byte // record of the last state that is known to be durable; nil = there was none
	steps []step
}

// step is one change. Its Forward has the reference ref, its Send ref+1.
type step struct {
	ref    core.Ref
	record []byte
}

type flights struct {
	byID  map[core.ID]*flight
	byRef map[core.Ref]core.ID
	last  core.Ref

	endings map[core.Ref]ending
	again   []ending // could not be stored; tried again at retryAt
	repairs map[core.Ref]repair
	broken  []repair // could not be put in order; tried again at retryAt
	retryAt time.Duration
}

// repair makes store and data plane say again what the cache says of a session, after a change that failed half-way.
type repair struct {
	id    core.ID
	extra []netip.Prefix // keys that the change had added
}

// ending is a session that is deleted; its addresses are given back when the store has forgotten it.
type ending struct {
	id     core.ID
	domain core.Domain
	node   string
	keys   []netip.Prefix
	rest   bool
	host   bool // of a host registration
}

// retryEnding is the time between two tries to delete a record, or to put one in order.
const retryEnding = time.Second

// routesRef is the reference of the routes at the start; those of steps are larger.
const routesRef core.Ref = 1

func newFlights() flights {
	return flights{byID: make(map[core.ID]*flight), byRef: make(map[core.Ref]core.ID), last: routesRef + 1, endings: make(map[core.Ref]ending), repairs: make(map[core.Ref]repair)}
}

// open says whether a change of the session is under way.
func (f *flights) open(id core.ID) bool { return f.byID[id] != nil }

// unsettled says whether the store may hold something else than the last state that was answered: a change is under way, or
// what one that failed left behind is not in order again.
func (f *flights) unsettled(id core.ID) bool {
	if f.open(id) || slices.ContainsFunc(f.broken, func(r repair) bool { return r.id == id }) {
		return true
	}
	for _, r := range f.repairs {
		if r.id == id {
			return true
		}
	}
	return false
}

// former lists the home keys, by keys of a record, that the data plane may still know from changes of a session that are under
// way: a later one must take them out again, should the one fail that did.
func (f *flights) former(id core.ID, now []netip.Prefix, keys func(record []byte) []netip.Prefix) (gone []netip.Prefix) {
	fl := f.byID[id]
	if fl == nil {
		return nil
	}
	add := func(record []byte) {
		if record != nil {
			gone = append(gone, without(keys(record), slices.Concat(now, gone))...)
		}
	}
	add(fl.base)
	for _, s := range fl.steps {
		add(s.record)
	}
	return gone
}

// begin registers a change. before is the record that it replaces.
func (f *flights) begin(id core.ID, before, after []byte) core.Ref {
	fl := f.byID[id]
	if fl == nil {
		fl = &flight{base: before}
		f.byID[id] = fl
	}
	ref := f.last
	f.last += 2
	fl.steps = append(fl.steps, step{ref, after})
	f.byRef[ref], f.byRef[ref+1] = id, id
	return ref
}

// landed takes the result of the step that ref belongs to. undo says that the session must go back to the record back,
// nil = to nothing.
func (f *flights) landed(ref core.Ref, ok bool) (id core.ID, back []byte, undo bool) {
	id, known := f.byRef[ref]
	delete(f.byRef, ref)
	if !known || ok && ref%2 == 0 { // forwarding is in place, the answer is still to leave
		return 0, nil, false
	}
	ref &^= 1
	delete(f.byRef, ref)
	delete(f.byRef, ref+1)
	fl := f.byID[id]
	if fl == nil {
		return 0, nil, false
	}
	n := slices.IndexFunc(fl.steps, func(s step) bool { return s.ref == ref })
	if n < 0 { // a later change, which carries everything, was confirmed first
		return 0, nil, false
	}
	newest := n == len(fl.steps)-1
	if ok {
		fl.base, fl.steps = fl.steps[n].record, fl.steps[n+1:]
	} else {
		fl.steps = append(fl.steps[:n], fl.steps[n+1:]...)
		if newest { // else a later change stands, which carries everything
			undo, back = true, fl.base
			if n > 0 {
				back = fl.steps[n-1].record
			}
		}
	}
	if len(fl.steps) == 0 {
		delete(f.byID, id)
	}
	return id, back, undo
}

// commit makes a changed session durable and forwarded, and answers then. before is the record of the state that the
// change replaces, nil for a new session.
func (m *Machine) commit(i binding.Index, before []byte, ops []core.Op, r *registration, answer *mobility.BindingAck) {
	id := m.cache.At(i).ID
	record := m.encode(i)
	if m.flights.open(id) { // an earlier change may fail: say all of it again
		d := m.cache.At(i).Domain
		former := m.flights.former(id, m.cache.Homes(i).Keys(), recordKeys)
		former = slices.DeleteFunc(former, func(k netip.Prefix) bool { _, taken := m.cache.ByHome(d, k); return taken })
		ops = append(m.forwarding(i, m.cfg.Timers.UplinkGrace), m.dropKeys(d, former)...)
	}
	ref := m.flights.begin(id, before, record)
	m.effect(core.Persist{Key: sessionKey(id), Val: record})
	m.effect(core.Forward{Ops: ops, Ref: ref})
	m.effect(core.Send{Path: r.path, Body: answer, Ref: ref + 1})
}

// recordKeys gives the home keys of an own record.
func recordKeys(b []byte) []netip.Prefix {
	rec, err := decode(b)
	if err != nil {
		panic(fmt.Sprintf("anchor: own record does not decode: %v", err))
	}
	return rec.homes.Keys()
}

// done takes the result of an effect.
func (m *Machine) done(ev core.Done) {
	if ev.Ref <= routesRef {
		if ev.Err != nil {
			m.note(ev.Err.Error())
			m.emit(core.Emit{Name: "failed", Why: "effect", Fields: Fields{Err: ev.Err.Error()}})
		}
		return
	}
	if m.ended(ev) || m.repaired(ev) {
		return
	}
	refused := m.answered(ev)
	id, back, undo := m.flights.landed(ev.Ref, ev.Err == nil)
	if refused != nil {
		defer m.refuseHost(refused, &homeagent.Refusal{Status: refused.unforwardable(), Reason: wire.ForwardingFailed, Detail: ev.Err.Error()})
	}
	if !undo {
		return
	}
	reason := wire.StoreFailed
	if ev.Ref%2 == 0 {
		reason = wire.ForwardingFailed
	}
	if refused == nil { // else its refusal counts
		m.refused[reason]++
	}
	m.emit(core.Emit{Name: "failed", ID: id, Why: string(reason), Fields: Fields{Err: ev.Err.Error()}})
	if i, ok := m.cache.ByID(id); ok {
		m.undo(i, back)
	} else if h := m.hosts.table.ByID(id); h != nil {
		m.undoHost(h, back)
	}
}

// end deletes a session's record and forwarding.
func (m *Machine) end(e ending) {
	ref := m.flights.last
	m.flights.last += 2
	m.flights.endings[ref] = e
	key, ops := sessionKey(e.id), []core.Op{core.Drop{ID: e.id}}
	if e.host {
		key = hostKey(e.id)
		ops = m.appendProxies(ops, e.domain, e.keys)
	}
	m.effect(core.Persist{Key: key})
	m.effect(core.Forward{Ops: ops, Ref: ref})
}

// ended takes the result of end, if it is one.
func (m *Machine) ended(ev core.Done) bool {
	e, ok := m.flights.endings[ev.Ref]
	if !ok {
		return false
	}
	delete(m.flights.endings, ev.Ref)
	switch {
	case ev.Err == nil && e.host:
		m.releaseHost(e.domain, e.node, e.keys, e.rest)
		return true
	case ev.Err == nil:
		m.giveBack(e.domain, e.node, e.keys, e.rest)
		return true
	}
	m.refused[wire.StoreFailed]++
	m.emit(core.Emit{Name: "failed", ID: e.id, Why: string(wire.StoreFailed), Fields: Fields{Sub: e.node, Err: ev.Err.Error()}})
	m.flights.later(m.now)
	m.flights.again = append(m.flights.again, e)
	return true
}

// later sets the time of the next try, unless one is set.
func (f *flights) later(now core.Now) {
	if !f.waits() {
		f.retryAt = now.Boot + retryEnding
	}
}

// waits says whether something is to be tried again.
func (f *flights) waits() bool { return len(f.again)+len(f.broken) > 0 }

// endAgain tries once more to delete what could not be deleted, and to put in order what could not be.
func (m *Machine) endAgain() {
	if !m.flights.waits() || m.flights.retryAt > m.now.Boot {
		return
	}
	again, broken := m.flights.again, m.flights.broken
	m.flights.again, m.flights.broken = nil, nil
	for _, e := range again {
		m.end(e)
	}
	for _, r := range broken {
		if i, ok := m.cache.ByID(r.id); ok { // else end took it out
			m.repair(i, r.extra)
		} else if h := m.hosts.table.ByID(r.id); h != nil {
			m.repairHost(h, r.extra)
		}
	}
}

// repair writes and forwards a session as it is now.
func (m *Machine) repair(i binding.Index, extra []netip.Prefix) {
	e := m.cache.At(i)
	var gone []netip.Prefix
	for _, k := range extra {
		if _, taken := m.cache.ByHome(e.Domain, k); !taken { // by somebody else, since
			gone = append(gone, k)
		}
	}
	ref := m.flights.last
	m.flights.last += 2
	m.flights.repairs[ref] = repair{e.ID, gone}
	m.effect(core.Persist{Key: sessionKey(e.ID), Val: m.encode(i)})
	m.effect(core.Forward{Ops: append(m.forwarding(i, 0), m.dropKeys(e.Domain, gone)...), Ref: ref})
}

// repaired takes the result of repair, if it is one.
func (m *Machine) repaired(ev core.Done) bool {
	r, ok := m.flights.repairs[ev.Ref]
	if !ok {
		return false
	}
	delete(m.flights.repairs, ev.Ref)
	if ev.Err != nil {
		m.emit(core.Emit{Name: "failed", ID: r.id, Why: "effect", Fields: Fields{Err: ev.Err.Error()}})
		m.flights.later(m.now)
		if i := slices.IndexFunc(m.flights.broken, func(o repair) bool { return o.id == r.id }); i >= 0 {
			m.flights.broken[i].extra = append(m.flights.broken[i].extra, r.extra...)
		} else {
			m.flights.broken = append(m.flights.broken, r)
		}
	}
	return true
}

// undo brings a session back to a record. The answer never left, so what it took is free at once.
func (m *Machine) undo(i binding.Index, back []byte) {
	if back == nil {
		m.remove(i, "undone", false)
		return
	}
	rec, err := decode(back)
	if err != nil {
		panic(fmt.Sprintf("anchor: own record does not decode: %v", err))
	}
	e, node := m.cache.At(i), m.cache.Node(i)
	now, was := m.cache.Homes(i).Keys(), rec.homes.Keys()
	extra := without(now, was)
	m.giveBack(e.Domain, node, extra, false)
	homes := rec.homes
	var lost []netip.Prefix               // somebody else has them by now
	for _, k := range without(was, now) { // rests, for this mobile node
		if p := m.pools.Around(e.Domain, k.Addr()); p == nil || m.takeUnit(e.Domain, p, k, node) != nil {
			homes = homes.Without(k)
			lost = append(lost, k)
		}
	}
	if err := m.cache.SetHomes(i, homes); err != nil {
		m.remove(i, "undone", true)
		return
	}
	m.cache.SetLinkLayer(i, rec.linkLayer)
	m.restoreEntry(e, rec)
	e.Expires = m.now.Boot + max(rec.expires.Sub(m.now.Wall), 0)
	m.cache.Schedule(i)
	if rec.state == binding.Active {
		m.serve(e, rec.gateway, addr(e.Anchor))
	} else {
		m.serve(e, netip.Addr{}, netip.Addr{})
	}
	m.setState(i, rec.state, "undone", addr(rec.entry.CareOf), "")
	m.repair(i, append(lost, extra...))
	m.defend(e.Domain, extra, true)
	m.defend(e.Domain, without(was, now), false)
}
