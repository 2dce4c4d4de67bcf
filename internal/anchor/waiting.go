package anchor

import (
	"net/netip"
	"time"

	"kedge/internal/anchor/lma"
	"kedge/internal/binding"
	"kedge/internal/core"
	"kedge/wire"
	"kedge/wire/mobility"
)

// Requests of unknown handoff state wait for the former gateway's deregistration, MaxDelayBeforeNewBCEAssign at most (RFC
// 5213 5.4.1.2 (4), 5.4.1.3 (3)). That gateway is asked meanwhile whether the host has left (RFC 5846 8.1).

// request is one that waits.
type request struct {
	registration
	id    core.ID
	key   requestKey
	of    core.ID // session that must be deregistered
	until time.Duration
	gone  bool
}

// requestKey: a newer request of the same gateway for the same interface replaces an older one.
type requestKey struct {
	node      string
	from      netip.Addr
	linkLayer string
}

// waiting are all requests that wait, in the order of their deadlines: they all wait equally long.
type waiting struct {
	queue []*request
	byKey map[requestKey]*request
	bySes map[core.ID][]*request
}

func newWaiting() waiting {
	return waiting{byKey: make(map[requestKey]*request), bySes: make(map[core.ID][]*request)}
}

func (r *registration) waitKey() requestKey {
	return requestKey{r.Node, r.path.Remote.Addr(), string(r.LinkLayer)}
}

// next is the first deadline.
func (w *waiting) next() (time.Duration, bool) {
	w.trim()
	if len(w.queue) == 0 {
		return 0, false
	}
	return w.queue[0].until, true
}

// due gives a request that waited long enough, or nil.
func (w *waiting) due(now core.Now) *request {
	if at, ok := w.next(); ok && at <= now.Boot {
		return w.queue[0]
	}
	return nil
}

func (w *waiting) trim() {
	for len(w.queue) > 0 && w.queue[0].gone {
		w.queue[0] = nil
		w.queue = w.queue[1:]
	}
}

func (w *waiting) add(q *request) {
	w.queue = append(w.queue, q)
	w.byKey[q.key] = q
	w.bySes[q.of] = append(w.bySes[q.of], q)
	q.peer.waiting++
}

func (w *waiting) drop(q *request) {
	q.gone = true
	q.peer.waiting--
	delete(w.byKey, q.key)
	rest := w.bySes[q.of][:0]
	for _, o := range w.bySes[q.of] {
		if o != q {
			rest = append(rest, o)
		}
	}
	if len(rest) == 0 {
		delete(w.bySes, q.of)
	} else {
		w.bySes[q.of] = rest
	}
	w.trim()
}

// await holds a request back. Sent again meanwhile, as it will be, it replaces the older one but not its deadline.
func (m *Machine) await(r *registration, bu *mobility.BindingUpdate) {
	own := *bu
	own.Options = bu.Options.Clone()
	keep := *r
	keep.Request = lma.Read(&own, r.path.Remote.Addr(), m.dialects) // aliases its own copy
	of := m.cache.At(r.session).ID
	key := keep.waitKey()
	if q := m.waiting.byKey[key]; q != nil && q.of == of {
		if late := q.before(r); late != nil {
			m.refuse(r, late)
			return
		}
		q.registration = keep
		return
	}
	m.forget(r)
	if r.peer.waiting >= m.cfg.Limits.PendingPerPeer {
		m.refuse(r, &lma.Refusal{Status: mobility.InsufficientResources, Reason: wire.PendingLimit})
		return
	}
	q := &request{registration: keep, id: m.store.newID(), key: key, of: of, until: m.now.Boot + m.cfg.Timers.MaxDelayBeforeNewBCEAssign}
	m.waiting.add(q)
	m.transition(q.id, binding.None, binding.Pending, "waits", q.fields())
	if len(m.waiting.bySes[of]) == 1 {
		m.inquire(r)
	}
}

func (q *request) fields() Fields {
	return Fields{Sub: q.Node, Peer: q.peer.Name, ProxyCoA: q.CareOf, Seq: q.Sequence, Dialect: q.Dialect.String(), ATT: q.ATT, Handoff: q.HI, Rule: q.rule}
}

// forget drops a request that waits because a newer one of the same gateway and interface came.
func (m *Machine) forget(r *registration) {
	if len(m.waiting.byKey) == 0 {
		return
	}
	if q := m.waiting.byKey[r.waitKey()]; q != nil && q.before(r) == nil {
		m.waiting.drop(q)
		m.transition(q.id, binding.Pending, binding.None, "replaced", q.fields())
	}
}

// before is nil when the request that waits is older than another one of its gateway; else the other one is late, or a
// copy, and gets no answer: it would be taken for that of the one that waits.
func (q *request) before(r *registration) *lma.Refusal {
	f := lma.InOrder(&r.Request, lma.Last{Timestamp: q.Timestamp, Known: true, Sequence: q.Sequence}, lma.Clock{Free: true})
	if f != nil {
		f.Silent = true
	}
	return f
}

// released lets the requests go on that wait for a session: it is deregistered or gone. The newest comes first, so that
// of two gateways the one gets the session that has the host.
func (m *Machine) released(id core.ID) {
	for qs := m.waiting.bySes[id]; len(qs) > 0; qs = m.waiting.bySes[id] {
		newest := qs[0]
		for _, q := range qs {
			if q.Timestamp >= newest.Timestamp {
				newest = q
			}
		}
		m.resume(newest, "deregistered")
	}
}

// resume decides a request that waited. Its order was checked when it came; what came since, such as the deregistration
// it waited for, does not make it old.
func (m *Machine) resume(q *request, why string) {
	m.waiting.drop(q)
	m.transition(q.id, binding.Pending, binding.None, why, q.fields())
	r := &q.registration
	m.look(r)
	d := lma.Exists(&r.Request, m.view.key(), m.view.node, false)
	if f := m.overtaken(r, d); f != nil {
		r.rule, r.session = d.Rule, binding.Index(d.Ref)
		m.refuse(r, f)
		return
	}
	m.decide(r, d)
}

// overtaken refuses a request that waited when a newer one of another gateway has the session by now.
func (m *Machine) overtaken(r *registration, d lma.Decision) *lma.Refusal {
	if d.Verdict != lma.Update {
		return nil
	}
	i := binding.Index(d.Ref)
	e := m.cache.At(i)
	if e.State != binding.Active || addr(e.CareOf) == r.CareOf {
		return nil
	}
	c := m.time()
	c.Free = true // how late it is says nothing: it waited
	return lma.InOrder(&r.Request, lma.Last{Timestamp: m.accepted(i), Known: true, Sequence: e.Sequence}, c)
}
