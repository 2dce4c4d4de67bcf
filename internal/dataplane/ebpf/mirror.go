package ebpf

import (
	"errors"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cilium/ebpf"

	"kedge/internal/core"
	"kedge/internal/dataplane"
	"kedge/internal/dataplane/mem"
)

const (
	// restSession and restTunnel are how long what was freed is not used again. Programs hold what they read for microseconds, but a
	// session that a restart adopted may still let in the tunnel that it had before.
	restSession = time.Second
	restTunnel  = 10 * time.Second
	// keyBatch is how many changes of keys wait at most to be written together.
	keyBatch = 4096
)

// mirror keeps the programs' tables as the engine's. Records of sessions and tunnels are written in place, in an order in which each
// state is a valid one; one store of session.tun is a handover. Keys are written by flush, in the order of their changes.
type mirror struct {
	role   dataplane.Role
	domain core.Domain
	slow   func(core.ID) bool   // sessions that are not held; nil = all are
	now    func() time.Duration // of the engine
	mono   func() time.Duration // of the programs
	is     maps

	mu       sync.Mutex    // guards what follows, and writers of the arrays
	at       time.Duration // the time of the update under way
	ahead    time.Duration // the programs' clock before the engine's
	sessions slots
	tunnels  slots
	changes  []change
	batch    struct {
		keys   []key
		values []where
	}
	dying    []uint32    // sessions that keys may lead to until write
	kept     [2][]length // lengths that a former process had in use, of IPv6 and IPv4, until Sync
	old      map[uint64]uint32
	oldTun   map[tunnelName]uint32
	links    map[int]uint16 // by the index that the engine uses
	foreign  map[core.ID]bool
	hosts    map[host]int // sessions of each
	locals   map[addr]int // tuples of each; the configured addresses have one more
	refused  bool
	bridges  map[tunnelName]uint32    // what arrives for sessions in bridged mode
	ways     map[uint32][2]tunnelName // their names: of the present and the previous tunnel
	pairs    map[pair]bool            // of route optimization; false = the table had no room
	oldPairs map[pair]bool            // that a former process had, until Sync
	homeless int                      // pairs that found no room
	gre      int                      // sessions in GRE, twice those that were in another before
}

type change struct {
	k    key
	w    where
	gone bool
}

var (
	_ mem.Mirror  = (*mirror)(nil)
	_ mem.Fetcher = (*mirror)(nil)
)

// begin notes the time of an update.
func (m *mirror) begin() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.at = m.now()
	m.ahead = m.mono() - m.at
}

// clock is a time of the engine's as the programs have it.
func (m *mirror) clock(t time.Duration) uint64 { return uint64(max(t+m.ahead, 0)) }

func (m *mirror) Peer(local, remote netip.AddrPort, gre, known bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if known {
		m.local(local.Addr(), 1)
	} else {
		m.local(local.Addr(), -1)
	}
	if !gre {
		name := nameOf(local, remote)
		m.peer(&name, known)
	}
}

func (m *mirror) peer(n *tunnelName, known bool) {
	by := uint64(1)
	if !known {
		by = ^by + 1
	}
	atomic.AddUint64(&m.is.peers[n.hash(m.is.control.seed)&uint64(m.is.control.peersMask)], by)
}

// wayOf is a tunnel as a session has it, and the key of GRE that is taken in it.
func wayOf(slot uint32, gre bool, keyIn uint32) (tun, key uint32) {
	if slot == 0 || !gre {
		return slot, 0
	}
	return slot | inGRE, key32(keyIn)
}

// count notes that a session takes GRE between the ends of its tunnel, of its previous one, or of both.
func (m *mirror) count(r *session, which uint8) {
	for _, w := range [...]struct {
		bit      uint8
		tun, key uint32
	}{{wayCounted, uint32(r.way), r.key}, {prevCounted, r.prev, r.prevKey}} {
		if which&w.bit == 0 || r.counted&w.bit != 0 || w.tun&inGRE == 0 {
			continue
		}
		r.counted |= w.bit
		n := m.is.tunnels[w.tun&^inGRE].inGRE(w.key)
		m.peer(&n, true)
		m.gre++
	}
	m.tellGRE()
}

// uncount takes that back, before the record changes.
func (m *mirror) uncount(r *session, which uint8) {
	for _, w := range [...]struct {
		bit      uint8
		tun, key uint32
	}{{wayCounted, uint32(r.way), r.key}, {prevCounted, r.prev, r.prevKey}} {
		if r.counted&which&w.bit == 0 {
			continue
		}
		r.counted &^= w.bit
		n := m.is.tunnels[w.tun&^inGRE].inGRE(w.key)
		m.peer(&n, false)
		m.gre--
	}
	m.tellGRE()
}

// tellGRE says how many sessions use GRE; what a former process said holds until its sessions are known again.
func (m *mirror) tellGRE() {
	if m.gre > 0 || m.old == nil {
		atomic.StoreUint32(&m.is.control.gre, uint32(m.gre))
	}
}

// local counts uses of an address of this router.
func (m *mirror) local(a netip.Addr, n int) {
	k, one := addrOf(a), uint8(1)
	switch m.locals[k] += n; {
	case n > 0 && m.locals[k] == n:
		_ = m.is.locals.Update(&k, &one, ebpf.UpdateAny) // if there are too many, tunnels to the others go the slow way
	case m.locals[k] == 0:
		delete(m.locals, k)
		_ = m.is.locals.Delete(&k)
	}
}

func (m *mirror) Tunnel(local, remote netip.AddrPort, secret uint64) uint32 {
	m.mu.Lock()
	defer m.mu.Unlock()
	name := nameOf(local, remote)
	rec := tunnel{local: name.Local, remote: name.Remote, kind: name.Kind, rport: name.Port}
	if slot := m.oldTun[name]; slot != 0 {
		delete(m.oldTun, name)
		atomic.StoreUint64(&m.is.tunnels[slot].secret, secret)
		return slot
	}
	slot := m.tunnels.take(m.at)
	if slot == 0 {
		m.refuse()
		return 0
	}
	rec.secret, rec.ids = secret, uint32(secret>>32)
	m.is.tunnels[slot] = rec // nobody leads to it yet
	return slot
}

func (m *mirror) PathMTU(slot uint32, route, learned int, until time.Duration) {
	m.mu.Lock()
	defer m.mu.Unlock()
	t := &m.is.tunnels[slot]
	t.learned = 0
	atomic.StoreUint32(&t.learnedUntil, uint32(m.clock(until)/uint64(time.Second)))
	t.learned, t.mtu = uint16(learned), uint16(route)
}

func (m *mirror) DropTunnel(slot uint32) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.tunnels.give(slot, m.at)
}

// Fetch implements mem.Fetcher.
func (m *mirror) Fetch(slots []uint32) (sum uint64) {
	for _, slot := range slots {
		sum += atomic.LoadUint64(&m.is.sessions[slot].way)
	}
	return sum
}

func (m *mirror) Session(s mem.MirrorSession) uint32 {
	m.mu.Lock()
	defer m.mu.Unlock()
	if s.Domain != m.domain {
		m.foreign[s.ID] = true
		m.tellPartial()
		return 0
	}
	if s.Slow {
		atomic.StoreUint32(&m.is.control.nested, 1) // nobody says when the last one ends
	}
	carried := !s.Slow && (m.slow == nil || !m.slow(s.ID))
	if !carried && !s.Bridged { // of those in bridged mode no key says that it is the engine that has them
		return 0
	}
	now := m.at
	slot, adopted := s.Slot, false
	if slot == 0 {
		if slot = m.old[uint64(s.ID)]; slot != 0 {
			adopted = true
			delete(m.old, uint64(s.ID))
			m.is.sessions[slot].counted &= isBridged
		} else if slot = m.sessions.take(now); slot == 0 {
			m.refuse()
			return 0
		} else {
			m.is.counters[slot] = counter{}
			m.is.sessions[slot] = session{id: uint64(s.ID)}
		}
	}
	r := &m.is.sessions[slot]
	tun, key := wayOf(s.Tunnel, s.GRE, s.KeyIn)
	prev, prevKey := wayOf(s.Previous, s.PreviousGRE, s.PreviousKeyIn)
	of := uint32(0)
	if s.Bridged {
		of = slot
	}
	if s.Bridged || len(m.ways) > 0 {
		m.bridge(slot, r, s.Bridged, m.arriving(tun, key), m.arriving(prev, prevKey))
	}
	if s.Bridged && (!carried || m.role != dataplane.Gateway) {
		tun, key, prev, prevKey = 0, 0, 0, 0
	}
	// A session that a restart finds as it was keeps what it lets in besides.
	if !adopted || uint32(r.way) != tun || r.key != key {
		until := uint64(0)
		if s.Until > now {
			until = m.clock(s.Until)
		}
		if r.prev != prev || r.prevKey != prevKey || r.prevTwin != port(s.PreviousTwin) {
			m.uncount(r, prevCounted)
			atomic.StoreUint64(&r.until, 0)
			atomic.StoreUint32(&r.prev, prev)
			r.prevKey, r.prevTwin = prevKey, port(s.PreviousTwin)
			m.count(r, prevCounted)
		}
		atomic.StoreUint64(&r.until, until)
	}
	if uint32(r.way) != tun || r.key != key {
		m.uncount(r, wayCounted)
	}
	// What comes in the way that it leaves is from here on let in as the previous one.
	r.twin, r.mtu = port(s.Twin), s.MTU
	atomic.StoreUint32(&r.key, key)
	if h := (host{m.links[s.If], s.MAC}); adopted || h != (host{r.link, r.mac}) {
		if !adopted {
			m.leave(host{r.link, r.mac}, of)
		}
		m.enter(h, of)
		r.link, r.mac = h.Link, h.MAC
	}
	way := uint64(tun)
	if s.GRE && tun != 0 {
		way |= uint64(key32(s.KeyOut)) << 32
	}
	atomic.StoreUint64(&r.way, way) // the handover
	m.count(r, wayCounted)
	return slot
}

func (m *mirror) DropSession(slot uint32) {
	m.mu.Lock()
	defer m.mu.Unlock()
	r := &m.is.sessions[slot]
	delete(m.foreign, core.ID(r.id))
	m.uncount(r, wayCounted|prevCounted)
	of := uint32(0)
	if r.counted&isBridged != 0 {
		of = slot
		m.bridge(slot, r, false, tunnelName{}, tunnelName{})
	}
	atomic.StoreUint64(&r.way, 0)
	atomic.StoreUint64(&r.until, 0)
	m.leave(host{r.link, r.mac}, of)
	r.id, r.link, r.mac = 0, 0, [6]byte{}
	m.dying = append(m.dying, slot)
}

func (m *mirror) Key(d core.Domain, p netip.Prefix, k mem.MirrorKey) {
	if d != m.domain {
		return
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	c := change{k: keyOf(uint32(d), p), gone: k.Gone}
	c.w = where{Down: k.Down, Up: k.Up, Check: c.k.Addr.check()}
	if k.Many {
		c.w.Flags |= keyMany
	}
	if k.Silent {
		c.w.Flags |= keySilent
	}
	if k.Missing {
		c.w.Flags |= keyAsk
	}
	if m.changes = append(m.changes, c); len(m.changes) >= keyBatch {
		m.write()
	}
}

// enter counts a session of a host in; of is the session in bridged mode that has all of the host, or 0.
func (m *mirror) enter(h host, of uint32) {
	if h.Link == 0 {
		return
	}
	if m.hosts[h]++; (m.hosts[h] == 1 || of != 0) && m.is.hosts.Update(&h, &of, ebpf.UpdateAny) != nil && of != 0 {
		m.refuse() // of the others, drops have another name
	}
}

// leave counts it out.
func (m *mirror) leave(h host, of uint32) {
	if h.Link == 0 {
		return
	}
	routed := uint32(0)
	switch m.hosts[h]--; {
	case m.hosts[h] <= 0:
		delete(m.hosts, h)
		_ = m.is.hosts.Delete(&h)
	case of != 0:
		_ = m.is.hosts.Update(&h, &routed, ebpf.UpdateAny)
	}
}

// refuse notes that there is more than fits.
func (m *mirror) refuse() {
	m.refused = true
	m.tellPartial()
}

func (m *mirror) tellPartial() {
	v := uint32(0)
	if m.refused || len(m.foreign) > 0 {
		v = 1
	}
	atomic.StoreUint32(&m.is.control.partial, v)
}

// flush writes the changes that wait, and the lengths in use.
func (m *mirror) flush(e *mem.Engine) {
	six, four := e.PrefixLengths(false), e.PrefixLengths(true)
	m.mu.Lock()
	defer m.mu.Unlock()
	// A length is there before its keys, and until after them.
	m.lengths(six, four)
	m.write()
}

func (m *mirror) lengths(six, four []uint8) {
	c := m.is.control
	set := func(into *[maxLengths]length, n *uint32, bits []uint8, is4 bool, kept []length) {
		var want []length
		for _, b := range bits {
			want = append(want, lengthOf(b, is4))
		}
		for _, k := range kept {
			at := 0
			for at < len(want) && want[at].bits > k.bits {
				at++
			}
			if (at == len(want) || want[at].bits != k.bits) && len(want) < maxLengths {
				want = append(want[:at], append([]length{k}, want[at:]...)...)
			}
		}
		if int(atomic.LoadUint32(n)) == len(want) && equal(into[:len(want)], want) {
			return
		}
		// From the end: while entries move, one may be there twice, but none is missing.
		for i := len(want) - 1; i >= 0; i-- {
			into[i] = want[i]
		}
		atomic.StoreUint32(n, uint32(len(want)))
	}
	set(&c.six, &c.n6, six, false, m.kept[0])
	set(&c.four, &c.n4, four, true, m.kept[1])
}

func equal(a, b []length) bool {
	for i := range a {
		if a[i].bits != b[i].bits || a[i].mask != b[i].mask {
			return false
		}
	}
	return true
}

// write writes runs of changes of one kind together.
func (m *mirror) write() {
	for at := 0; at < len(m.changes); {
		n := 1
		for at+n < len(m.changes) && m.changes[at+n].gone == m.changes[at].gone {
			n++
		}
		run := m.changes[at : at+n]
		at += n
		if run[0].gone {
			m.remove(run)
		} else {
			m.put(run)
		}
	}
	m.changes = m.changes[:0]
	if len(m.dying) == 0 {
		return
	}
	for _, slot := range m.dying {
		m.sessions.give(slot, m.at)
	}
	m.dying = m.dying[:0]
}

func (m *mirror) put(run []change) {
	keys, values := m.batch.keys[:0], m.batch.values[:0]
	for i := range run {
		keys, values = append(keys, run[i].k), append(values, run[i].w)
	}
	m.batch.keys, m.batch.values = keys, values
	done := 0
	if len(run) > 1 {
		done, _ = m.is.keys.BatchUpdate(keys, values, nil)
	}
	for ; done < len(run); done++ {
		if m.is.keys.Update(&keys[done], &values[done], ebpf.UpdateAny) != nil {
			// Rather none than one that says what was.
			_ = m.is.keys.Delete(&keys[done])
			m.refuse()
		}
	}
}

func (m *mirror) remove(run []change) {
	keys := m.batch.keys[:0]
	for i := range run {
		keys = append(keys, run[i].k)
	}
	m.batch.keys = keys
	done := 0
	if len(run) > 1 {
		done, _ = m.is.keys.BatchDelete(keys, nil)
	}
	for ; done < len(run); done++ {
		if err := m.is.keys.Delete(&keys[done]); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
			m.refuse()
		}
	}
}
