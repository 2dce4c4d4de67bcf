package mem

import (
	"net/netip"
	"slices"
	"sync/atomic"
	"time"

	"kedge/internal/core"
	"kedge/wire/ip"
)

// tables are all forwarding state. Lookups are exact matches on the few prefix lengths in use, longest first.
type tables struct {
	sessions map[core.ID]*session
	tunnels  map[tuple]*tunnel  // of plain frames, which are ways in and out
	framed   map[frame]*tunnel  // of all others: ways in, and ways out
	carriers map[frame]*carrier // outer layers of chains of two
	paths    map[tuple]*path    // of the outermost layers
	keys     map[prefixKey]*entry
	pairs    map[pairKey]*entry // of route optimization
	owns     map[netip.Addr]int // how many pairs have each of this router's addresses
	straight map[netip.Addr]int // how many ways of them end at each
	hosts    map[hostKey]*host
	lengths4 lengths
	lengths6 lengths
}

func newTables() tables {
	return tables{
		sessions: map[core.ID]*session{}, tunnels: map[tuple]*tunnel{}, framed: map[frame]*tunnel{}, carriers: map[frame]*carrier{},
		paths: map[tuple]*path{}, keys: map[prefixKey]*entry{}, pairs: map[pairKey]*entry{}, owns: map[netip.Addr]int{}, straight: map[netip.Addr]int{}, hosts: map[hostKey]*host{},
	}
}

// tunnel is one way in or out of the innermost layer of sessions. A plain frame is both: its packets look the same both ways.
type tunnel struct {
	frame
	*path
	domain core.Domain // a tunnel carries one routing domain
	refs   int         // sessions that use it or still accept from it
	answer *core.Chain // that an answer to what came from here goes in; nil = as it came
	bridge *session    // the one that all its packets are of, in bridged mode; nil = their keys say
}

// path is what is known of the way to the other end of an outermost layer, for all that goes there.
type path struct {
	ends    tuple
	refs    int
	senders int           // sessions that send there
	secret  uint64        // of its Identifications
	base    atomic.Uint32 // MTU of the route to remote, 0 = unknown
	learned atomic.Uint64 // path MTU from ICMP: seconds of expiry << 16 | octets
	slot    uint32        // of the mirror
}

// leastMTU is what a path MTU cannot be below.
func (t *path) leastMTU() int {
	if t.ends.is4() {
		return minMTU4
	}
	return ip.MinMTU6
}

// pathMTU is the size of the largest outer packet to the remote.
func (t *path) pathMTU(now time.Duration, otherwise int) int {
	mtu := otherwise
	if b := int(t.base.Load()); b != 0 {
		mtu = b
	}
	if l := t.learned.Load(); l != 0 && uint64(now/time.Second) < l>>16 {
		mtu = min(mtu, int(l&0xffff))
	}
	return mtu
}

// session begins with what every move reads or writes: of many sessions each cache line is read from memory.
type session struct {
	id     core.ID
	domain core.Domain
	mode   core.Mode
	slot   uint32 // of the mirror
	until  time.Duration
	grace  time.Duration
	tun    *tunnel    // what it is taken from
	twin   *tunnel    // the other framing, accepted as well; nil = none
	exit   *tunnel    // what it is sent into: tun, if that is plain
	prev   [2]*tunnel // what tun and twin were before: still accepted, until
	// around is the outer layer of two, in and out.
	prevExit           *tunnel
	around, prevAround [2]*carrier
	stack              *stack     // how a chain that is not plain is sent; nil = plain
	access             hostKey    // zero on an anchor
	chain              core.Chain // as given: for comparison and Ops
	bindings           []*binding
	count              struct{ pIn, oIn, pOut, oOut atomic.Uint64 }
	// Of route optimization: where its packets go and come, and where they did, until then. beyond is the way behind the tunnel.
	way, before straight
	beforeUntil time.Duration
	beyond      *path
}

// accepts reports whether packets of the session may come out of tunnel t.
func (s *session) accepts(t *tunnel, now time.Duration) bool {
	return t != nil && (s.tun == t || s.twin == t || now < s.until && (s.prev[0] == t || s.prev[1] == t))
}

// sends reports whether packets of the session went into tunnel t, now or a while ago.
func (s *session) sends(t *tunnel, now time.Duration) bool {
	return s.exit == t || s.prevExit == t && now < s.until
}

// binding is one SetKey.
type binding struct {
	s        *session
	match    core.Match
	prefix   netip.Prefix // the field of match that this role looks up
	up, down bool
	at       hostKey // where it is indexed in hosts
	pair     pairKey // of route optimization, else the zero value
}

// prefixKey is an exact match of the table of keys.
type prefixKey struct {
	domain core.Domain
	prefix netip.Prefix
}

// pairKey is the table of keys of route optimization: this end's address, and the other end's.
type pairKey struct {
	domain     core.Domain
	own, other netip.Addr
}

// entry holds the bindings of one prefix: one, or several while registrations of one subscriber shadow each other.
type entry struct{ bindings []*binding }

func (n *entry) downward() *binding {
	for _, b := range n.bindings {
		if b.down {
			return b
		}
	}
	return nil
}

type hostKey struct {
	ifi int
	mac core.MAC
}

// host is one MAC address on an access link.
type host struct {
	bindings []*binding
	bridge   *session // that has all of it, in bridged mode; then there is no binding
}

// source finds the binding of the host that a source address belongs to: its longest key; of equal ones that which may send,
// then that which is delivered to, then that of the newest session.
func (h *host) source(a netip.Addr) (best *binding) {
	for _, b := range h.bindings {
		if b.prefix.Contains(a) && (best == nil || b.rank() > best.rank() || b.rank() == best.rank() && b.s.id > best.s.id) {
			best = b
		}
	}
	return best
}

func (b *binding) rank() int {
	r := b.prefix.Bits() << 2
	if b.up {
		r |= 2
	}
	if b.down {
		r |= 1
	}
	return r
}

// lengths counts the prefix lengths in use of one family, longest first.
type lengths struct {
	n     int
	bits  [maxLengths]uint8
	count [maxLengths]int
}

func (l *lengths) add(bits int) bool {
	i := 0
	for i < l.n && int(l.bits[i]) > bits {
		i++
	}
	if i < l.n && int(l.bits[i]) == bits {
		l.count[i]++
		return true
	}
	if l.n == maxLengths {
		return false
	}
	copy(l.bits[i+1:], l.bits[i:l.n])
	copy(l.count[i+1:], l.count[i:l.n])
	l.bits[i], l.count[i] = uint8(bits), 1
	l.n++
	return true
}

func (l *lengths) del(bits int) {
	i := slices.Index(l.bits[:l.n], uint8(bits))
	if l.count[i]--; l.count[i] > 0 {
		return
	}
	copy(l.bits[i:], l.bits[i+1:l.n])
	copy(l.count[i:], l.count[i+1:l.n])
	l.n--
}

func (t *tables) lengthsOf(a netip.Addr) *lengths {
	if a.Is4() {
		return &t.lengths4
	}
	return &t.lengths6
}

// holding finds a binding of a session that an address is in. It asks the keys, for the bindings of one of many sessions are in no
// cache, while those who move go to few addresses.
func (t *tables) holding(s *session, a netip.Addr) *binding {
	l := t.lengthsOf(a)
	for _, bits := range l.bits[:l.n] {
		p, err := a.Prefix(int(bits))
		if err != nil {
			return nil
		}
		if n := t.keys[prefixKey{s.domain, p}]; n != nil {
			for _, b := range n.bindings {
				if b.s == s {
					return b
				}
			}
		}
	}
	return nil
}

// down finds the session that delivers packets to a. known says that a key covers a although none delivers: its packets are
// dropped silently. A key that delivers nothing is transparent for a shorter one that does.
func (t *tables) down(d core.Domain, a netip.Addr) (to *binding, known bool) {
	l := t.lengthsOf(a)
	for _, bits := range l.bits[:l.n] {
		p, _ := a.Prefix(int(bits))
		if n := t.keys[prefixKey{d, p}]; n != nil {
			if b := n.downward(); b != nil {
				return b, true
			}
			known = true
		}
	}
	return nil, known
}

// expected reports whether another session, one that neither sends nor delivers, takes packets for the key out of tunnel t: a
// node's anchor uses the care-of address that it is being told of before its answer is here (RFC 6275 10.4.2, 11.7.3).
func (t *tables) expected(to *binding, tun *tunnel, now time.Duration) bool {
	n := t.keys[prefixKey{to.s.domain, to.prefix}]
	return n != nil && slices.ContainsFunc(n.bindings, func(b *binding) bool { return !b.up && !b.down && b.s.accepts(tun, now) })
}

// up finds the session that may send from a out of tunnel tun. other: there is a key, but its session, one that it may send in,
// is not in that tunnel. dead: there is one of a session in it, but without Up.
func (t *tables) up(d core.Domain, tun *tunnel, a netip.Addr, now time.Duration) (from, other *binding, dead bool) {
	l := t.lengthsOf(a)
	for _, bits := range l.bits[:l.n] {
		p, _ := a.Prefix(int(bits))
		n := t.keys[prefixKey{d, p}]
		if n == nil {
			continue
		}
		for _, b := range n.bindings {
			if !b.s.accepts(tun, now) {
				if other == nil || b.up && !other.up {
					other = b
				}
				continue
			}
			if b.up {
				return b, nil, false
			}
			dead = true
		}
	}
	return nil, other, dead
}

// source finds the session that a node's own packets from a go into: its longest key with Up; of equal ones that which is
// delivered to, then that of the newest session. known: a key covers a, but none with Up.
func (t *tables) source(d core.Domain, a netip.Addr) (best *binding, known bool) {
	l := t.lengthsOf(a)
	for _, bits := range l.bits[:l.n] {
		p, _ := a.Prefix(int(bits))
		n := t.keys[prefixKey{d, p}]
		if n == nil {
			continue
		}
		known = true
		for _, b := range n.bindings {
			if b.up && (best == nil || b.rank() > best.rank() || b.rank() == best.rank() && b.s.id > best.s.id) {
				best = b
			}
		}
		if best != nil {
			return best, true
		}
	}
	return nil, known
}
