package mem

import (
	"net/netip"
	"testing"
	"time"

	"pgregory.net/rapid"

	"kedge/internal/core"
	"kedge/internal/dataplane"
)

// reflection is a mirror that holds what it is told, and little of it: its slots run out.
type reflection struct {
	t        *rapid.T
	next     uint32
	room     int
	sessions map[uint32]MirrorSession
	tunnels  map[uint32][2]netip.AddrPort
	keys     map[prefixKey]MirrorKey
	peers    map[tuple]bool
	pairs    map[pairKey]bool
	mtus     map[uint32]int
}

func (r *reflection) slot(used int) uint32 {
	if used >= r.room {
		return 0
	}
	r.next++
	return r.next
}

func (r *reflection) Peer(local, remote netip.AddrPort, gre, known bool) {
	t := tuple{local, remote}
	if r.peers[t] == known {
		r.t.Errorf("tuple %v is told twice to be known: %v", t, known)
	}
	r.peers[t] = known
}

func (r *reflection) Tunnel(local, remote netip.AddrPort, _ uint64) uint32 {
	s := r.slot(len(r.tunnels))
	if s != 0 {
		r.tunnels[s] = [2]netip.AddrPort{local, remote}
	}
	return s
}

func (r *reflection) PathMTU(slot uint32, route, _ int, _ time.Duration) { r.mtus[slot] = route }

func (r *reflection) DropTunnel(slot uint32) { delete(r.tunnels, slot) }

func (r *reflection) Session(s MirrorSession) uint32 {
	if s.Slot == 0 {
		if s.Slot = r.slot(len(r.sessions)); s.Slot == 0 {
			return 0
		}
	}
	r.sessions[s.Slot] = s
	return s.Slot
}

func (r *reflection) DropSession(slot uint32) { delete(r.sessions, slot) }

func (r *reflection) Key(d core.Domain, p netip.Prefix, k MirrorKey) {
	if r.keys[prefixKey{d, p}] = k; k.Gone {
		delete(r.keys, prefixKey{d, p})
	}
}

func (r *reflection) Pair(d core.Domain, own, other netip.Addr, known bool) {
	k := pairKey{d, own, other}
	if r.pairs[k] == known {
		r.t.Errorf("pair %v is told twice to be known: %v", k, known)
	}
	r.pairs[k] = known
}

// TestMirror: after any ops a mirror leads to the sessions that the engine forwards by, or says that it does not know.
func TestMirror(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		r := &reflection{
			t: t, room: rapid.IntRange(1, 6).Draw(t, "room"), sessions: map[uint32]MirrorSession{}, tunnels: map[uint32][2]netip.AddrPort{},
			keys: map[prefixKey]MirrorKey{}, peers: map[tuple]bool{}, pairs: map[pairKey]bool{}, mtus: map[uint32]int{},
		}
		local := netip.MustParseAddr("198.51.100.1")
		e, err := New(Config{Local: []netip.Addr{netip.MustParseAddr("2001:db8::1"), local}, Role: dataplane.Anchor, Mirror: r})
		if err != nil {
			t.Fatal(err)
		}
		for range rapid.IntRange(1, 40).Draw(t, "ops") {
			id := core.ID(rapid.IntRange(1, 4).Draw(t, "id"))
			var op core.Op
			switch rapid.IntRange(0, 4).Draw(t, "kind") {
			case 0, 1:
				l := core.Layer{Local: netip.AddrPortFrom(local, 0), Remote: netip.AddrPortFrom(netip.AddrFrom4([4]byte{192, 0, 2, byte(rapid.IntRange(1, 3).Draw(t, "remote"))}), 0)}
				if rapid.Bool().Draw(t, "udp") {
					l.Local, l.Remote = netip.AddrPortFrom(local, 4191), netip.AddrPortFrom(l.Remote.Addr(), 5000)
				}
				op = core.SetSession{ID: id, Chain: core.Chain{N: 1, Layer: [2]core.Layer{l}}, Grace: time.Hour}
			case 2, 3:
				op = core.SetKey{ID: id, Match: core.Match{Dst: home(t)}, Up: rapid.Bool().Draw(t, "up"), Down: rapid.Bool().Draw(t, "down")}
			default:
				op = core.Drop{ID: id}
			}
			_ = e.Update([]core.Op{op}) // a key of an unknown session is refused
			r.compare(e)
		}
	})
}

func home(t *rapid.T) netip.Prefix {
	return netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 0, 0, byte(rapid.IntRange(1, 3).Draw(t, "home"))}), 32)
}

func (r *reflection) compare(e *Engine) {
	r.t.Helper()
	if len(r.keys) != len(e.tables.keys) {
		r.t.Fatalf("%d keys, the engine has %d", len(r.keys), len(e.tables.keys))
	}
	for tup, known := range r.peers {
		if known != (e.tables.tunnels[tup] != nil) {
			r.t.Fatalf("tuple %v: known %v", tup, known)
		}
	}
	for slot, ends := range r.tunnels {
		if t := e.tables.tunnels[tuple{ends[0], ends[1]}]; t == nil || t.slot != slot || r.mtus[slot] != 1500 {
			r.t.Fatalf("tunnel %v in slot %d with MTU %d is not the engine's", ends, slot, r.mtus[slot])
		}
	}
	for k, m := range r.keys {
		up, ups, missing := core.ID(0), 0, false
		for _, b := range e.tables.keys[k].bindings {
			missing = missing || b.s.slot == 0
			if b.up {
				up = b.s.id
				ups++
			}
		}
		if m.Missing != missing || m.Many != (ups > 1) || m.Silent != (ups == 0) {
			r.t.Fatalf("key %v: %+v, with %d that may send, missing %v", k, m, ups, missing)
		}
		if b := e.tables.keys[k].downward(); !missing && (b == nil) != (m.Down == 0) || !missing && b != nil && r.sessions[m.Down].ID != b.s.id {
			r.t.Fatalf("key %v is delivered by %+v", k, r.sessions[m.Down])
		}
		if ups == 1 && !missing && r.sessions[m.Up].ID != up {
			r.t.Fatalf("from key %v sends %+v, want %d", k, r.sessions[m.Up], up)
		}
	}
	held := 0
	for id, s := range e.tables.sessions {
		if s.slot == 0 {
			continue
		}
		held++
		m := r.sessions[s.slot]
		// What was refused once is not asked for again before the session's next change.
		if m.ID != id || m.Tunnel != 0 && m.Tunnel != s.tun.slot || m.Previous != 0 && (s.prev[0] == nil || m.Previous != s.prev[0].slot) {
			r.t.Fatalf("session %d is held as %+v", id, m)
		}
		if ends, ok := r.tunnels[m.Tunnel]; ok != (m.Tunnel != 0) || ok && ends != [2]netip.AddrPort{s.tun.local, s.tun.remote} {
			r.t.Fatalf("session %d is held in tunnel %v", id, ends)
		}
	}
	if held != len(r.sessions) {
		r.t.Fatalf("%d sessions are held, %d of them are the engine's", len(r.sessions), held)
	}
}
