package gateway

import (
	"cmp"
	"container/heap"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"kedge/internal/access"
	"kedge/internal/core"
	"kedge/internal/rate"
	"kedge/wire"
	"kedge/wire/mobility"
)

// state of an entry; the drawing is in the package's comment.
type state uint8

const (
	idle          state = iota // known, nothing registered and nothing asked for
	registering                // no binding; a request is out or waits for its turn
	active                     // bound
	refreshing                 // bound; a request is out
	refused                    // no binding; waits for the retry timer or for an administrator
	deregistering              // the host left; a request with lifetime 0 is out
	gone                       // not in the list any more
)

var stateNames = [...]string{"idle", "registering", "active", "refreshing", "refused", "deregistering", "gone"}

func (s state) String() string { return stateNames[s] }

// bound tells whether the anchor accepted a registration and it is in use.
func (s state) bound() bool { return s == active || s == refreshing }

// edges are the legal changes of state.
var edges = map[state][]state{
	idle:          {registering, gone},
	registering:   {active, refused, idle, deregistering, gone},
	active:        {refreshing, registering, refused, idle, deregistering, gone}, // gone: revoked by the anchor
	refreshing:    {active, registering, refused, idle, deregistering, gone},
	refused:       {registering, idle, deregistering, gone},
	deregistering: {gone, registering, idle},
}

// timer kinds of an entry.
type timer uint8

const (
	tSend    timer = iota // retransmission, or the end of waiting for the answer to a deregistration
	tRefresh              // the binding should be extended
	tExpire               // the binding ends
	tRetry                // a refused or postponed registration may be tried again
	tProbe                // silence for too long
	tIdle                 // forget a host without a session
	tRevoke               // the host did not show itself: its session is revoked
	timers
)

const never = time.Duration(1<<63 - 1)

// entry is one Binding Update List entry: the session of one interface of one host (RFC 5213 6.1, RFC 5844 3.2.1).
type entry struct {
	id      core.ID
	mn      string // MN-Identifier
	named   bool   // by the API, whatever the link's identities say
	mac     core.MAC
	link    *link
	anchor  *anchor
	profile Profile
	state   state
	since   time.Time // of the state
	trigger time.Duration
	by      string // what attached it
	handoff uint8  // Handoff Indicator of the next registration that is no refresh

	wants   access.Families  // what the host asked for and its profile allows
	denied  [2]denial        // by family
	noHint  [2]bool          // the anchor refused the address or prefixes we proposed: ask for any
	differs bool             // the anchor answered with addresses that were not asked for
	tried   map[Dialect]bool // dialects in which the anchor did not answer about IPv4
	hint    netip.Addr       // IPv4 address the host asked for by DHCP
	left    bool             // DHCPRELEASE: no IPv4 until DHCP asks again
	reason  wire.Reason      // of the last refusal

	prefixes  []netip.Prefix
	ipv4      netip.Prefix
	router4   netip.Addr
	dialect   Dialect
	lifetime  time.Duration
	refreshAt time.Duration
	expires   time.Duration
	forwarded []netip.Prefix // keys in the data plane
	lost      bool           // the anchor restarted: it may not know the session

	seq      uint16
	stamp    uint64 // last Timestamp sent
	req      *request
	tries    int // refusals in a row
	updates  rate.Updates
	caused   rate.Bucket // registrations, by the host
	moves    rate.Bucket
	heard    time.Duration
	probes   int  // unanswered
	checking bool // the probe decides about a refresh
	reassert bool // another gateway may have the session: the next request is no refresh

	confirmed time.Duration        // when the last registration was accepted, or the host attached
	accepted  uint64               // Timestamp of that registration
	arrived   time.Duration        // when the host last showed what hosts show at an arrival
	revoking  *mobility.Revocation // waits for a sign of the host

	linkLocal netip.Addr // of the host, for the next run
	stored    []byte     // its record, nil = none
	changed   bool       // in Machine.changed

	at    [timers]time.Duration
	next  time.Duration
	index int // in Machine.due
}

// denial remembers that a family was refused to a host.
type denial struct {
	until time.Duration // never = until an administrator acts
	tries int
}

func family(f access.Families) int {
	if f == access.V4 {
		return 0
	}
	return 1
}

// has gives the families that the entry is bound with.
func (e *entry) has() (f access.Families) {
	if !e.state.bound() {
		return 0
	}
	if e.ipv4.IsValid() {
		f |= access.V4
	}
	if len(e.prefixes) > 0 {
		f |= access.V6
	}
	return f
}

// newEntry puts a host into the list.
func (m *Machine) newEntry(l *link, mac core.MAC, mn string) *entry {
	m.sessions++
	e := &entry{
		id: core.ID(m.run)<<32 | core.ID(m.sessions), mn: mn, mac: mac, link: l, since: m.now.Wall, handoff: m.cfg.FirstHandoff,
		seq: uint16(m.random()), index: -1, next: never, heard: m.now.Boot, confirmed: m.now.Boot,
	}
	for i := range e.at {
		e.at[i] = never
	}
	m.profileOf(e)
	m.hosts[mac] = e
	m.byID[mn] = append(m.byID[mn], e)
	l.hosts++
	m.states[idle]++
	if l.detach["nud"] {
		m.arm(e, tProbe, m.now.Boot+m.cfg.Timers.NUDReachable)
	}
	m.arm(e, tIdle, m.now.Boot+m.cfg.Timers.IdleHold)
	return e
}

// drop takes an entry out of every table.
func (m *Machine) drop(e *entry, why string) {
	m.endRequest(e)
	m.setState(e, gone, why)
	m.arm(e, timers, 0)
	delete(m.hosts, e.mac)
	if rest := slices.DeleteFunc(m.byID[e.mn], func(x *entry) bool { return x == e }); len(rest) > 0 {
		m.byID[e.mn] = rest
	} else {
		delete(m.byID, e.mn)
	}
	e.link.hosts--
}

// setState is the only way an entry changes its state.
func (m *Machine) setState(e *entry, to state, why string) {
	from := e.state
	if from == to {
		return
	}
	if !slices.Contains(edges[from], to) {
		if m.strict {
			panic(fmt.Sprintf("session %d of %s: %v -> %v: %s", e.id, e.mn, from, to, why))
		}
		m.counts["illegal-transition"]++
	}
	m.states[from]--
	if to != gone {
		m.states[to]++
	}
	if from.bound() != to.bound() {
		m.serve(e.anchor, to.bound())
	}
	e.state, e.since = to, m.now.Wall
	m.touch(e)
	m.emit(core.Emit{Name: "session", ID: e.id, From: from.String(), To: to.String(), Why: why, Fields: m.fields(e)})
	m.past(e.mn, from.String()+" -> "+to.String(), "", why)
}

// arm sets one timer of an entry, or clears it with never; kind timers clears all.
func (m *Machine) arm(e *entry, kind timer, at time.Duration) {
	if kind == timers {
		for i := range e.at {
			e.at[i] = never
		}
	} else {
		e.at[kind] = at
	}
	e.next = slices.Min(e.at[:])
	switch {
	case e.next == never && e.index >= 0:
		heap.Remove(&m.due, e.index)
	case e.next == never:
	case e.index < 0:
		heap.Push(&m.due, e)
	default:
		heap.Fix(&m.due, e.index)
	}
}

func (m *Machine) disarm(e *entry, kinds ...timer) {
	for _, k := range kinds {
		m.arm(e, k, never)
	}
}

// dueQueue orders entries by their next timer, then by age, so that runs can be repeated.
type dueQueue []*entry

func (q dueQueue) Len() int { return len(q) }
func (q dueQueue) Less(i, j int) bool {
	if c := cmp.Compare(q[i].next, q[j].next); c != 0 {
		return c < 0
	}
	return q[i].id < q[j].id
}
func (q dueQueue) Swap(i, j int) {
	q[i], q[j] = q[j], q[i]
	q[i].index, q[j].index = i, j
}
func (q *dueQueue) Push(x any) {
	e := x.(*entry)
	e.index = len(*q)
	*q = append(*q, e)
}
func (q *dueQueue) Pop() any {
	old := *q
	e := old[len(old)-1]
	old[len(old)-1] = nil
	*q = old[:len(old)-1]
	e.index = -1
	return e
}
