package peer

import (
	"container/list"
	"net/netip"
	"time"

	"kedge/internal/core"
	"kedge/internal/due"
)

// key of the cache: each own address has bindings of its own (RFC 6275 9.1).
type key struct{ own, home netip.Addr }

// entry is a binding, or what must be remembered of one that ended until its nonces are too old to be used again (RFC 6275 5.2.8,
// 9.5.3): its sequence number and the newest nonce that its home keygen token came from.
type entry struct {
	key    key
	id     core.ID
	careOf netip.Addr // invalid: it ended
	link   int        // that its last Binding Update came by

	seq      uint16
	newest   uint64        // generation
	least    uint64        // generation: what an older home nonce proved was before seq began anew
	guarded  time.Duration // until when a home nonce of it is accepted
	since    time.Time
	lifetime time.Duration
	expires  time.Duration

	stage uint8
	used  uint64 // packets to the mobile node, when last looked
	busy  bool   // there were more than the time before
	looks bool   // an answer is on its way
	at    time.Duration
	place int // in the queue
	turn  *list.Element

	trouble trouble
}

func (e *entry) live() bool { return e.careOf.IsValid() }

func (e *entry) binding() Binding {
	return Binding{ID: e.id, Home: e.key.home, Own: e.key.own, CareOf: e.careOf}
}

// cache is the Binding Cache, RFC 6275 9.1.
type cache struct {
	byKey  map[key]*entry
	byID   map[core.ID]*entry
	due    due.Queue[*entry]
	recent *list.List // bindings, the one that was renewed longest ago first
	last   core.ID
}

func newCache() cache {
	return cache{
		byKey: make(map[key]*entry), byID: make(map[core.ID]*entry), recent: list.New(),
		due: due.New(func(a, b *entry) bool { return a.at < b.at || a.at == b.at && a.id < b.id }, func(e *entry) *int { return &e.place }),
	}
}

func (c *cache) add(k key) *entry {
	c.last++
	e := &entry{key: k, id: c.last, place: -1}
	c.byKey[k], c.byID[e.id] = e, e
	return e
}

// revive gives an entry that ended a new life: a session's number is never used again.
func (c *cache) revive(e *entry) {
	delete(c.byID, e.id)
	c.due.Remove(e)
	c.last++
	e.id, e.used, e.busy, e.looks = c.last, 0, false, false
	c.byID[e.id] = e
}

// renewed puts a binding at the end of those that may have to go.
func (c *cache) renewed(e *entry) {
	if e.turn == nil {
		e.turn = c.recent.PushBack(e)
		return
	}
	c.recent.MoveToBack(e.turn)
}

// ended takes a binding out of those that may have to go.
func (c *cache) ended(e *entry) {
	if e.turn != nil {
		c.recent.Remove(e.turn)
		e.turn = nil
	}
}

func (c *cache) remove(e *entry) {
	c.ended(e)
	c.due.Remove(e)
	delete(c.byKey, e.key)
	delete(c.byID, e.id)
}

// candidates is how many bindings are looked at for one that may go.
const candidates = 8

// room makes place for one more entry, RFC 6275 9.6: of the bindings that were renewed longest ago, the first that was not seen to
// carry packets goes. One whose nonces are still accepted stays: what has to be remembered of it needs the place. false: the
// new one is refused.
func (m *Machine) room() bool {
	if len(m.cache.byKey) < m.cfg.Limits.Bindings {
		return true
	}
	n := 0
	for x := m.cache.recent.Front(); x != nil && n < candidates; x, n = x.Next(), n+1 {
		if e := x.Value.(*entry); e.guarded <= m.now.Boot && !e.busy {
			m.unbind(e, "replaced")
			return true
		}
	}
	return false
}
