package anchor

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"net/netip"
	"time"

	"kedge/internal/binding"
	"kedge/internal/core"
	"kedge/internal/heartbeat"
	"kedge/wire"
	"kedge/wire/mobility"
)

// storeState is what the anchor knows of itself across restarts.
type storeState struct {
	known   bool   // a meta record was there
	restart uint32 // restart counter, RFC 5847 3.2
	next    uint64 // next session id
	end     uint64 // ids below this are spoken for by the meta record

	stale [][]byte // keys of records to delete when all are read

	held      bool // the store was lost: nothing dynamic
	heldUntil time.Duration
	heldWall  time.Time
}

func (s *storeState) newID() core.ID {
	s.next++
	return core.ID(s.next - 1)
}

// Session ids are never used again, not even when the store is lost: they start at the seconds of the wall clock, shifted
// so that an anchor would have to create 2^20 sessions a second to outrun it, and at the end of the block that the meta
// record reserves. Below 2^53 they are exact in JSON.
const (
	idShift = 20
	idBlock = 1 << 32
)

// sequenceMargin is added to stored sequence numbers at a restart: refreshes are written up to a second late, and a
// repeated request of that second must not be accepted again. Who is ahead of it by less learns so by status 135.
const sequenceMargin = 16

// restored takes a record of the store; the last event starts the anchor.
func (m *Machine) restored(ev core.Restored) {
	if ev.Last {
		m.start()
		return
	}
	key := string(ev.Key)
	var err error
	switch {
	case key == metaKey:
		err = m.store.decode(ev.Val)
	case len(key) == len(sessionPrefix)+8 && key[:len(sessionPrefix)] == sessionPrefix:
		err = m.restoreSession(core.ID(binary.BigEndian.Uint64(ev.Key[len(sessionPrefix):])), ev.Val)
	case len(key) == len(hostPrefix)+8 && key[:len(hostPrefix)] == hostPrefix:
		err = m.readHost(core.ID(binary.BigEndian.Uint64(ev.Key[len(hostPrefix):])), ev.Val)
	default:
		err = fmt.Errorf("unknown key %q", key)
	}
	if err != nil {
		m.badRecord(ev.Key, err)
	}
}

// badRecord tells of a record that cannot be brought back.
func (m *Machine) badRecord(key []byte, err error) {
	m.refused[wire.StoreFailed]++
	m.note(fmt.Sprintf("store: record %x: %v", key, err))
	m.emit(core.Emit{Name: "failed", Why: string(wire.StoreFailed), Fields: Fields{Detail: fmt.Sprintf("record %x", key), Err: err.Error()}})
}

// meta record: version, restart counter, end of the reserved ids, end of the time without dynamic allocation.
func (s *storeState) encode() []byte {
	b := binary.BigEndian.AppendUint32([]byte{recordVersion}, s.restart)
	b = binary.BigEndian.AppendUint64(b, s.end)
	held := int64(0)
	if s.held {
		held = s.heldWall.UnixNano()
	}
	return binary.BigEndian.AppendUint64(b, uint64(held))
}

func (s *storeState) decode(b []byte) error {
	if len(b) != 21 || b[0] != recordVersion {
		return errRecord
	}
	s.known, s.restart, s.end = true, binary.BigEndian.Uint32(b[1:]), binary.BigEndian.Uint64(b[5:])
	if held := int64(binary.BigEndian.Uint64(b[13:])); held != 0 {
		s.held, s.heldWall = true, time.Unix(0, held)
	}
	return nil
}

// remember lets the pools know who had addresses before the anchor was away for so long that his session ended.
func (m *Machine) remember(d core.Domain, node string, keys []netip.Prefix) {
	for _, k := range keys {
		if p := m.pools.Around(d, k.Addr()); p != nil {
			p.Remember(k, node)
		}
	}
}

var errNoPool = errors.New("in no pool any more")

// restoreSession brings one session back, with its forwarding. It gets its whole lifetime again: how much was left is not
// known for sure, because refreshes are written behind. One whose lifetime is over twice is gone.
func (m *Machine) restoreSession(id core.ID, val []byte) error {
	rec, err := decode(val)
	if err != nil {
		return err
	}
	m.store.next = max(m.store.next, uint64(id)+1)
	if rec.state == binding.Active && rec.expires.Add(lifetime(rec.entry.Lifetime)).Before(m.now.Wall) {
		m.store.stale = append(m.store.stale, sessionKey(id))
		m.remember(rec.entry.Domain, rec.node, rec.homes.Keys())
		return nil
	}
	rec.entry.ID = id
	if _, twice := m.cache.ByID(id); twice {
		return fmt.Errorf("session %d is there twice", id)
	}
	keys := rec.homes.Keys()
	for n, k := range keys {
		p := m.pools.Around(rec.entry.Domain, k.Addr())
		err := errNoPool
		if p != nil {
			err = m.takeUnit(rec.entry.Domain, p, k, rec.node)
		}
		if err != nil {
			m.giveBack(rec.entry.Domain, rec.node, keys[:n], false)
			m.store.stale = append(m.store.stale, sessionKey(id))
			return fmt.Errorf("session %d of %s ends: %s: %w", id, rec.node, k, err)
		}
	}
	i := m.cache.Add(rec.entry, rec.node, rec.linkLayer)
	e := m.cache.At(i)
	if err := m.cache.SetHomes(i, rec.homes); err != nil { // a static address that two records claim
		m.cache.Remove(i)
		m.store.stale = append(m.store.stale, sessionKey(id))
		return fmt.Errorf("session %d of %s ends: %w", id, rec.node, err)
	}
	m.restoreEntry(e, rec)
	m.advance(i)
	e.Expires = m.now.Boot + m.cfg.Timers.MinDelayBeforeBCEDelete
	if rec.state == binding.Active {
		e.Expires = m.now.Boot + lifetime(e.Lifetime)
		m.serve(e, rec.gateway, addr(e.Anchor))
	}
	m.cache.Schedule(i)
	if !edges[binding.None][rec.state] {
		panic("anchor: decode lets an impossible state through")
	}
	e.State = rec.state // quietly: a restart tells how many, not each
	m.count[rec.state]++
	m.effect(core.Forward{Ops: m.forwarding(i, 0)})
	m.defend(e.Domain, keys, false)
	return nil
}

// restoreEntry copies what a record says into an entry.
func (m *Machine) restoreEntry(e *binding.Entry, rec record) {
	from := &rec.entry
	e.Timestamp, e.Sequence, e.Lifetime = from.Timestamp, from.Sequence, from.Lifetime
	e.CareOf, e.Anchor, e.LinkLocal, e.Router4 = from.CareOf, from.Anchor, from.LinkLocal, from.Router4
	e.Dialect, e.ATT, e.Handoff = from.Dialect, from.ATT, from.Handoff
}

// advance moves the ordering state past what may have been accepted and not written: refreshes of the last second. A
// gateway whose clock lags is refused as long as it lags. Timestamps of a mobile node's clock are written at once.
func (m *Machine) advance(i binding.Index) {
	e := m.cache.At(i)
	switch {
	case e.Timestamp == 0:
		e.Sequence += sequenceMargin
	case !m.cfg.PMIP6.MobileNodeTimestamps:
		e.Timestamp = max(m.accepted(i), mobility.TimestampOf(m.now.Wall).Value)
	}
}

// start makes the anchor serve: all records are in. An empty store is a lost one unless it is told to be a first start.
func (m *Machine) start() {
	s := &m.store
	m.since = m.now.Wall
	m.restoreHosts()
	lost := !s.known && m.cache.Len()+m.hosts.table.Len() == 0 && !m.cfg.FirstStart
	from := "restored"
	switch {
	case lost:
		from = "lost"
		s.held, s.heldUntil = true, m.now.Boot+m.cfg.Timers.LifetimeMax
		s.heldWall = m.now.Wall.Add(m.cfg.Timers.LifetimeMax)
	case !s.known:
		from = "new"
	case s.held:
		s.heldUntil = m.now.Boot + min(max(s.heldWall.Sub(m.now.Wall), 0), m.cfg.Timers.LifetimeMax)
	}
	if !s.known { // grows as long as the clock does, which is what a counter that was lost can do
		s.restart = uint32(m.now.Wall.Unix())
	}
	s.next = max(s.next, s.end, uint64(max(m.now.Wall.Unix(), 0))<<idShift)
	s.next = min(s.next, math.MaxUint64-idBlock)
	s.end = s.next + idBlock
	m.effect(core.Persist{Key: []byte(metaKey), Val: s.encode()})
	for _, key := range s.stale {
		m.effect(core.Persist{Key: key})
	}
	s.stale = nil
	m.routes()
	m.startDiscovery()
	to := "ready"
	if s.held {
		to = "held"
	}
	m.emit(core.Emit{Name: "store", From: from, To: to, Why: from, Fields: Fields{Detail: fmt.Sprintf("%d sessions, restart counter %d", m.cache.Len()+m.hosts.table.Len(), s.restart)}})
	m.watch = heartbeat.New(m.cfg.Heartbeat.Config, s.restart, m.rand)
	if !m.cfg.Heartbeat.Off {
		for _, g := range m.gateways.list {
			if g.sessions > 0 {
				m.watch.Add(m.now, g.addr)
			}
		}
	}
	if lost {
		m.announce()
	}
	for _, p := range m.peers.list {
		if p.Protection == "none" {
			m.note("peer " + p.Name + " is unprotected: whoever has its address can move its hosts")
		}
	}
}
