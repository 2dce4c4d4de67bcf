// Package binding is the binding cache as pure data: mobility sessions, their home keys, and how they are found. It knows
// no protocol, no clock and no lock; one goroutine uses it.
//
// It is made for a million sessions in one process: entries live in pages of a slab and hold no pointers, text lives in
// an arena of its own, indices have 32 bits, map keys are arrays. The garbage collector has next to nothing to look at.
//
// An entry is what RFC 6275 9.1, RFC 5213 5.1 and RFC 5844 3.1.1 ask for.
package binding

import (
	"errors"
	"hash/maphash"
	"iter"
	"net/netip"
	"time"

	"kedge/internal/core"
)

// Index finds an entry while it exists; indices are used again. 0 is none.
type Index uint32

// State of an entry:
//
//	          new            deregistered
//	None ----------> Active --------------> Deprecated
//	  ^                | ^        back          | |
//	  |   expired      | +----------------------+ |
//	  +----------------+                          |
//	  +-------------------------------------------+ waited
type State uint8

const (
	None       State = iota
	Pending          // a request that waits; not in the cache
	Active           // forwards
	Deprecated       // deregistered, waits for MinDelayBeforeBCEDelete: drops silently (RFC 5213 5.3.5)
)

func (s State) String() string {
	switch s {
	case None:
		return "none"
	case Pending:
		return "pending"
	case Active:
		return "active"
	case Deprecated:
		return "deprecated"
	}
	return "invalid"
}

// MaxPrefixes limits the home network prefixes of one session.
const MaxPrefixes = 8

// ErrOwned: a home key belongs to another session.
var ErrOwned = errors.New("binding: home address or prefix is another session's")

// Entry is one mobility session. Home keys, identifier and link-layer identifier are set by the cache's methods, the
// rest by the owner of the cache.
type Entry struct {
	ID        core.ID
	Expires   time.Duration // boot time: end of the lifetime, or of the wait of a deprecated entry
	Since     int64         // wall time of the creation, ns since 1970
	Timestamp uint64        // of the last accepted request, RFC 5213 8.8; 0 = ordered by sequence number
	CareOf    [16]byte      // Proxy-CoA
	Anchor    [16]byte      // LMAA that the request came to: the tunnel's near end
	LinkLocal [16]byte      // of the gateway on the access link; zero = nobody asked
	Domain    core.Domain
	Gateway   uint32 // owner's number of the registering gateway
	Sequence  uint16
	Lifetime  uint16 // granted, in units of 4 s
	State     State
	Dialect   uint8
	ATT       uint8 // access technology type
	Handoff   uint8 // last handoff indicator
	Proxy     bool
	Router4   [4]byte

	v4        [4]byte
	v4bits    uint8 // length of the IPv4 home network; 0 with v4 zero = no address
	prefixes  uint8
	prefix    prefix6 // the first; others are in Cache.more
	node      text
	linkLayer text
	next      Index  // of the same mobile node
	timer     uint32 // place in the heap + 1
	used      bool
}

type prefix6 struct {
	addr [16]byte
	bits uint8
}

func (p prefix6) prefix() netip.Prefix {
	return netip.PrefixFrom(netip.AddrFrom16(p.addr), int(p.bits))
}

// home is a home key: {domain, prefix}. IPv4 is kept apart by its mapped form and a length above 96.
type home struct {
	addr   [16]byte
	domain core.Domain
	bits   uint8
}

func homeOf(d core.Domain, p netip.Prefix) home {
	bits := p.Bits()
	if p.Addr().Is4() {
		bits += 96
	}
	return home{p.Addr().As16(), d, uint8(bits)}
}

const pageSize = 1024

// Cache is a binding cache.
type Cache struct {
	pages []*[pageSize]Entry
	free  []Index
	n     int

	byHome map[home]Index
	byID   map[core.ID]Index
	byNode map[uint64]Index // by hash of the identifier: heads of lists that may mix colliding ones
	more   map[Index][]prefix6
	seed   maphash.Seed
	texts  arena
	timers timers
}

// New makes an empty cache.
func New() *Cache {
	return &Cache{
		byHome: make(map[home]Index),
		byID:   make(map[core.ID]Index),
		byNode: make(map[uint64]Index),
		more:   make(map[Index][]prefix6),
		seed:   maphash.MakeSeed(),
	}
}

// Len counts the sessions.
func (c *Cache) Len() int { return c.n }

// At gives the entry; the pointer is good until Remove.
func (c *Cache) At(i Index) *Entry { return &c.pages[(i-1)/pageSize][(i-1)%pageSize] }

// Add puts a session in. Its ID must be new.
func (c *Cache) Add(e Entry, node string, linkLayer []byte) Index {
	var i Index
	if n := len(c.free); n > 0 {
		i, c.free = c.free[n-1], c.free[:n-1]
	} else {
		if c.n%pageSize == 0 {
			c.pages = append(c.pages, new([pageSize]Entry))
		}
		i = Index(c.n + 1)
	}
	c.n++
	e.used, e.timer, e.prefixes, e.v4bits, e.v4 = true, 0, 0, 0, [4]byte{}
	e.node, e.linkLayer = c.texts.put(node), c.texts.put(string(linkLayer))
	h := maphash.String(c.seed, node)
	e.next = c.byNode[h]
	c.byNode[h] = i
	c.byID[e.ID] = i
	*c.At(i) = e
	return i
}

// Remove takes a session out, with its home keys and timer.
func (c *Cache) Remove(i Index) {
	e := c.At(i)
	c.dropHomes(i, e)
	c.Unschedule(i)
	h := maphash.Bytes(c.seed, c.texts.get(e.node))
	if c.byNode[h] == i {
		if e.next == 0 {
			delete(c.byNode, h)
		} else {
			c.byNode[h] = e.next
		}
	} else {
		for j := c.byNode[h]; j != 0; j = c.At(j).next {
			if c.At(j).next == i {
				c.At(j).next = e.next
				break
			}
		}
	}
	delete(c.byID, e.ID)
	c.texts.drop(e.node)
	c.texts.drop(e.linkLayer)
	*e = Entry{}
	c.free = append(c.free, i)
	c.n--
}

// Node is the mobile node's identifier.
func (c *Cache) Node(i Index) string { return string(c.texts.get(c.At(i).node)) }

// IsNode compares the identifier without a copy.
func (c *Cache) IsNode(i Index, node string) bool { return string(c.texts.get(c.At(i).node)) == node }

// LinkLayer is the link-layer identifier; it must not be changed and is good until SetLinkLayer or Remove.
func (c *Cache) LinkLayer(i Index) []byte { return c.texts.get(c.At(i).linkLayer) }

// SetLinkLayer replaces the link-layer identifier.
func (c *Cache) SetLinkLayer(i Index, id []byte) {
	e := c.At(i)
	if string(c.texts.get(e.linkLayer)) == string(id) {
		return
	}
	c.texts.drop(e.linkLayer)
	e.linkLayer = c.texts.put(string(id))
}

// ByID finds a session by its id.
func (c *Cache) ByID(id core.ID) (Index, bool) {
	i, ok := c.byID[id]
	return i, ok
}

// ByHome finds the session that has exactly this home address or prefix.
func (c *Cache) ByHome(d core.Domain, p netip.Prefix) (Index, bool) {
	i, ok := c.byHome[homeOf(d, p)]
	return i, ok
}

// ByNode lists the sessions of a mobile node, newest first. The cache must not change meanwhile.
func (c *Cache) ByNode(node string) iter.Seq[Index] {
	return func(yield func(Index) bool) {
		for i := c.byNode[maphash.String(c.seed, node)]; i != 0; i = c.At(i).next {
			if c.IsNode(i, node) && !yield(i) {
				return
			}
		}
	}
}

// All lists all sessions by index. The cache must not change meanwhile.
func (c *Cache) All() iter.Seq[Index] {
	return func(yield func(Index) bool) {
		for p := range c.pages {
			for j := range c.pages[p] {
				if c.pages[p][j].used && !yield(Index(p*pageSize+j+1)) {
					return
				}
			}
		}
	}
}
