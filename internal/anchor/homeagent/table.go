package homeagent

import (
	"cmp"
	"errors"
	"iter"
	"net/netip"
	"time"

	"kedge/internal/binding"
	"kedge/internal/core"
	"kedge/internal/due"
)

// ErrOwned: a home key belongs to another registration.
var ErrOwned = errors.New("homeagent: home address is another registration's")

type key struct {
	domain core.Domain
	prefix netip.Prefix
}

// Table is the registrations of a home agent.
type Table struct {
	// Remind is how long before the end of a lifetime the node is asked to renew it; 0 = never.
	Remind time.Duration

	byID   map[core.ID]*Registration
	byHome map[key]*Registration
	queue  due.Queue[*Registration]
	count  [4]int // by state
	// lengths counts the home keys of many addresses.
	lengths map[length]int
}

// NewTable makes an empty one.
func NewTable(remind time.Duration) *Table {
	return &Table{
		Remind: remind, byID: make(map[core.ID]*Registration), byHome: make(map[key]*Registration), lengths: make(map[length]int),
		queue: due.New(
			func(a, b *Registration) bool { return cmp.Or(cmp.Compare(a.due, b.due), cmp.Compare(a.ID, b.ID)) < 0 },
			func(h *Registration) *int { return &h.place }),
	}
}

// Len counts the registrations, Count those in a state.
func (t *Table) Len() int                  { return len(t.byID) }
func (t *Table) Count(s binding.State) int { return t.count[s] }

// ByID finds a registration by its session id; nil: there is none.
func (t *Table) ByID(id core.ID) *Registration { return t.byID[id] }

// ByHome finds the registration that has exactly this home address or prefix; nil: there is none.
func (t *Table) ByHome(d core.Domain, k netip.Prefix) *Registration { return t.byHome[key{d, k}] }

// All lists the registrations in no order.
func (t *Table) All() iter.Seq[*Registration] {
	return func(yield func(*Registration) bool) {
		for _, h := range t.byID {
			if !yield(h) {
				return
			}
		}
	}
}

// Put makes to the registration of its id, new or replaced as a whole, and gives what is in the table from now on. On
// ErrOwned nothing changes.
func (t *Table) Put(to Registration) (*Registration, error) {
	if t.owned(&to) {
		return nil, ErrOwned
	}
	h := t.byID[to.ID]
	if h == nil {
		h = new(Registration) // not &to: a refresh, which replaces, shall not pay for it
		*h = to
		t.enter(h)
		return h, nil
	}
	t.count[h.State]--
	t.unindex(h)
	place := h.place
	*h = to
	h.place = place
	t.index(h)
	return h, nil
}

// Restore is Put for a registration of an id that is not there yet, without a copy: the table owns h from now on.
func (t *Table) Restore(h *Registration) error {
	if t.owned(h) {
		return ErrOwned
	}
	t.enter(h)
	return nil
}

// owned says whether a home key is another registration's.
func (t *Table) owned(h *Registration) bool {
	for _, k := range h.Keys() {
		if o := t.byHome[key{h.Domain, k}]; o != nil && o.ID != h.ID {
			return true
		}
	}
	return false
}

func (t *Table) enter(h *Registration) {
	h.place = -1
	t.byID[h.ID] = h
	t.index(h)
}

func (t *Table) index(h *Registration) {
	t.count[h.State]++
	for _, k := range h.Keys() {
		t.byHome[key{h.Domain, k}] = h
		t.countLength(k, 1)
	}
	h.reminders = 0
	t.schedule(h)
}

func (t *Table) unindex(h *Registration) {
	for _, k := range h.Keys() {
		delete(t.byHome, key{h.Domain, k})
		t.countLength(k, -1)
	}
}

// Remove takes a registration out.
func (t *Table) Remove(h *Registration) {
	t.unindex(h)
	delete(t.byID, h.ID)
	t.count[h.State]--
	t.queue.Remove(h)
}

// reminders is how many Binding Refresh Requests a lifetime ends with at most.
const reminders = 3

// schedule finds when something is next due: the end, or a reminder, each in half of the time that is left.
func (t *Table) schedule(h *Registration) {
	h.due = h.Expires
	whole := time.Duration(h.Lifetime) * 4 * time.Second
	if h.State == binding.Active && t.Remind > 0 && whole > 2*t.Remind && h.reminders < reminders {
		h.due = h.Expires - t.Remind>>h.reminders
	}
	t.queue.Set(h)
}

// Next is the earliest time at which Due has something.
func (t *Table) Next() (time.Duration, bool) {
	h, ok := t.queue.Min()
	if !ok {
		return 0, false
	}
	return h.due, true
}

// Due gives the registration that is due; over: its lifetime, or its wait, has ended. Else the node is to be reminded.
func (t *Table) Due(now core.Now) (h *Registration, over bool) {
	h, ok := t.queue.Min()
	if !ok || h.due > now.Boot {
		return nil, false
	}
	if h.Expires <= now.Boot {
		return h, true
	}
	h.reminders++
	t.schedule(h)
	return h, false
}
