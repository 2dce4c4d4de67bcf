package ipsec

import (
	"encoding/binary"
	"errors"
	"net/netip"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"kedge/internal/core"
	"kedge/internal/spec"
	"kedge/wire"
)

// disk is a Counters whose writes happen when the test says so, and which outlives its users.
type disk struct {
	kept    map[string]Numbers
	waiting []store
	loadErr error
}

func (d *disk) Load(name string) (Numbers, bool, error) {
	n, ok := d.kept[name]
	return n, ok, d.loadErr
}

func (d *disk) Store(name string, n Numbers, done func(error)) {
	d.waiting = append(d.waiting, store{name, n, done})
}

// write does the oldest write, or fails it.
func (d *disk) write(err error) bool {
	if len(d.waiting) == 0 {
		return false
	}
	w := d.waiting[0]
	d.waiting = d.waiting[1:]
	if err == nil {
		d.kept[w.name] = w.n
	}
	w.done(err)
	return true
}

// crash forgets the writes on their way, but for the first few, which reached the disk and were not reported.
func (d *disk) crash(reached int) {
	for _, w := range d.waiting[:min(reached, len(d.waiting))] {
		d.kept[w.name] = w.n
	}
	d.waiting = nil
}

// prompt is a disk that writes at once.
type prompt struct{ *disk }

func (p prompt) Store(name string, n Numbers, done func(error)) {
	p.kept[name] = n
	done(nil)
}

func newDisk() *disk { return &disk{kept: map[string]Numbers{}} }

// boot starts one side. The first reservation of an engine is waited for, so it is prompt.
func boot(tb rapid.TB, d *disk, p Peer) *Engine {
	tb.Helper()
	e, err := New(Config{Peers: []Peer{p}, Rand: rngReader{}}, prompt{d})
	if err != nil {
		tb.Fatal(err)
	}
	e.counters = d
	return e
}

func restartPeers(tb testing.TB) (sender, receiver Peer, out, in Traffic) {
	tb.Helper()
	sa := testSA(tb, Signalling, "null-sha256", 0x1001)
	receiver = Peer{Name: "mn", Homes: []netip.Addr{home1}, Protection: ESP, SAs: []SA{sa}}
	sender = Peer{Name: "ha", Addresses: []netip.Prefix{netip.PrefixFrom(agent, 128)}, Own: []netip.Addr{home1}, Protection: ESP, SAs: []SA{swap(sa)}}
	out, in = toAgent(5)
	return sender, receiver, out, in
}

// TestKillAnywhere kills either side at any point, with writes on their way that reached the disk or not. The sender never uses a
// number twice. The receiver accepts nothing twice but what it accepted after the last write that covers it.
func TestKillAnywhere(t *testing.T) {
	spec.Covers(t, "RFC4303-3.3.3", "RFC4303-5")
	ps, pr, tout, tin := restartPeers(t)
	rapid.Check(t, func(t *rapid.T) {
		ds, dr := newDisk(), newDisk()
		s, r := boot(t, ds, ps), boot(t, dr, pr)
		var now core.Now
		used := map[uint32]bool{}
		accepted := map[uint32]bool{}
		var wire [][]byte
		inName := r.spi[0x1001].name
		covered := func() uint64 { n := dr.kept[inName]; return n.High + n.Slack }
		for range rapid.IntRange(1, 150).Draw(t, "steps") {
			switch rapid.IntRange(0, 9).Draw(t, "what") {
			case 0, 1, 2:
				// Numbers near the end of a block matter: skip ahead as if many packets had been sent.
				o := s.peers["ha"].out[Signalling].Load()
				if skip := rapid.Uint64Range(0, Block).Draw(t, "sent meanwhile"); rapid.Bool().Draw(t, "many") && o.reserved > o.seq {
					for n := range min(skip, o.reserved-o.seq) {
						if used[uint32(o.seq+n+1)] {
							t.Fatalf("%d again", o.seq+n+1)
						}
						used[uint32(o.seq+n+1)] = true
					}
					o.seq += min(skip, o.reserved-o.seq)
				}
				esp, _, _, err := s.Outbound(now, tout, mh(5), nil)
				if err != nil {
					if reasonOf(err) != "sequence-numbers-not-reserved" {
						t.Fatal(err)
					}
					break
				}
				n := binary.BigEndian.Uint32(esp[4:])
				if used[n] {
					t.Fatalf("number %d again", n)
				}
				used[n] = true
				wire = append(wire, esp)
			case 3, 4, 5:
				if len(wire) == 0 {
					break
				}
				esp := wire[rapid.IntRange(max(0, len(wire)-5), len(wire)-1).Draw(t, "packet")]
				n := binary.BigEndian.Uint32(esp[4:])
				if _, _, _, err := r.Inbound(now, tin, esp, nil); err == nil {
					if accepted[n] {
						t.Fatalf("number %d accepted again", n)
					}
					accepted[n] = true
				}
			case 6:
				d := rapid.SampledFrom([]*disk{ds, dr}).Draw(t, "disk")
				var err error
				if rapid.IntRange(0, 5).Draw(t, "fails") == 0 {
					err = errors.New("disk full")
				}
				for range rapid.IntRange(1, 3).Draw(t, "writes") {
					d.write(err)
				}
			case 7:
				now.Boot += time.Duration(rapid.Int64Range(0, int64(3*time.Second)).Draw(t, "later"))
				r.Tick(now)
			case 8:
				ds.crash(rapid.IntRange(0, 2).Draw(t, "reached"))
				s = boot(t, ds, ps)
			case 9:
				dr.crash(rapid.IntRange(0, 2).Draw(t, "reached"))
				for n := range accepted {
					if uint64(n) > covered() {
						delete(accepted, n)
					}
				}
				r = boot(t, dr, pr)
			}
		}
	})
}

// TestPromptStore: where each write is done at once, nothing is ever accepted twice, whenever the receiver is killed; and a peer
// that sends now and then is not locked out by a restart.
func TestPromptStore(t *testing.T) {
	ps, pr, tout, tin := restartPeers(t)
	rapid.Check(t, func(t *rapid.T) {
		dr := newDisk()
		start := func() *Engine { e := boot(t, dr, pr); e.counters = prompt{dr}; return e }
		s, err := New(Config{Peers: []Peer{ps}, Rand: rngReader{}}, &Volatile{})
		if err != nil {
			t.Fatal(err)
		}
		r := start()
		var now core.Now
		var wire [][]byte
		accepted := map[uint32]bool{}
		quiet, margin := true, false
		for range rapid.IntRange(1, 200).Draw(t, "steps") {
			switch rapid.IntRange(0, 5).Draw(t, "what") {
			case 0, 1, 2:
				for range rapid.IntRange(1, 40).Draw(t, "burst") {
					esp, _, _, err := s.Outbound(now, tout, mh(5), nil)
					if err != nil {
						t.Fatal(err)
					}
					wire = append(wire, esp)
					if _, _, _, err := r.Inbound(now, tin, esp, nil); err == nil {
						accepted[binary.BigEndian.Uint32(esp[4:])] = true
						margin = false
					} else if quiet && !margin {
						t.Fatalf("after silence: %v", err)
					}
					quiet = false
				}
			case 3:
				for _, esp := range wire[max(0, len(wire)-100):] {
					n := binary.BigEndian.Uint32(esp[4:])
					if _, _, _, err := r.Inbound(now, tin, esp, nil); err == nil && accepted[n] {
						t.Fatalf("number %d accepted again", n)
					} else if err == nil {
						accepted[n] = true
					}
				}
			case 4:
				seconds := rapid.IntRange(1, 4).Draw(t, "seconds")
				for range seconds {
					now.Boot += time.Second
					r.Tick(now)
				}
				quiet = quiet || seconds >= 3
			case 5:
				r, margin = start(), margin || !quiet // the next packets of a busy peer may be refused, those of a quiet one not
			}
			if i := r.spi[0x1001]; i.win.top > dr.kept[i.name].High+dr.kept[i.name].Slack {
				t.Fatalf("a kill here would forget %d", i.win.top)
			}
		}
	})
}

// TestSlack shows what the margin is at several rates.
func TestSlack(t *testing.T) {
	ps, pr, tout, tin := restartPeers(t)
	s, d := mustNew(t, &Volatile{}, ps), newDisk()
	r := boot(t, d, pr)
	r.counters = prompt{d}
	i := r.spi[0x1001]
	var now core.Now
	send := func(n int, every time.Duration) {
		for range n {
			now.Boot += every
			esp, _, _, err := s.Outbound(now, tout, mh(5), nil)
			if err == nil {
				_, _, _, err = r.Inbound(now, tin, esp, nil)
			}
			if err != nil {
				t.Fatal(err)
			}
		}
	}
	now.Boot = time.Hour
	send(5, 10*time.Second)
	if n := d.kept[i.name]; n != (Numbers{High: 5}) {
		t.Errorf("one packet in 10 s: %v, want them exactly", n)
	}
	// A node that moves from network to network sends up to three a second: a restart must not refuse its next ones.
	for range 20 {
		send(3, 10*time.Millisecond)
		if i := r.spi[0x1001]; d.kept[i.name] != (Numbers{High: i.win.top}) {
			t.Fatalf("three packets in 30 ms: %v, want %d exactly", d.kept[i.name], i.win.top)
		}
		now.Boot += time.Second
	}
	r.Tick(now)
	send(1940, time.Millisecond)
	if n := d.kept[i.name]; n.Slack < 100 || n.Slack > 4000 || n.High+n.Slack < 2005 {
		t.Errorf("1,000 packets a second: %v", n)
	}
	for range 3 {
		now.Boot += time.Second
		r.Tick(now)
	}
	if n := d.kept[i.name]; n != (Numbers{High: 2005}) {
		t.Errorf("after silence: %v, want it exactly", n)
	}
}

func TestReservation(t *testing.T) {
	ps, _, tout, _ := restartPeers(t)
	d := newDisk()
	e := boot(t, d, ps)
	o := e.peers["ha"].out[Signalling].Load()
	var now core.Now
	send := func() wire.Reason {
		now.Boot += time.Millisecond
		_, _, _, err := e.Outbound(now, tout, mh(5), nil)
		return reasonOf(err)
	}
	if d.kept[o.name] != (Numbers{High: Block}) {
		t.Fatalf("reserved at the start: %v", d.kept)
	}
	o.seq = Block/2 - 1
	if r := send(); r != "" || len(d.waiting) != 0 {
		t.Fatalf("%q, %d waiting before half of the block", r, len(d.waiting))
	}
	if r := send(); r != "" || len(d.waiting) != 1 || d.waiting[0].n.High != Block/2+Block {
		t.Fatalf("%q, %v: want the next block in the background", r, d.waiting)
	}
	o.seq = Block - 1
	if r := send(); r != "" {
		t.Fatal(r)
	}
	if r := send(); r != wire.SequenceUnreserved || len(d.waiting) != 1 {
		t.Fatalf("%q behind the reservation", r)
	}
	d.write(errors.New("disk full"))
	if r := send(); r != wire.SequenceUnreserved || len(d.waiting) != 0 {
		t.Fatalf("%q, %d waiting right after a failure", r, len(d.waiting))
	}
	if s := e.Status()[0].SAs[1]; s.Direction != "out" || !strings.Contains(strings.Join(s.Notes, " "), "disk full") {
		t.Errorf("%v", s)
	}
	now.Boot += 2 * time.Second
	if r := send(); r != wire.SequenceUnreserved || len(d.waiting) != 1 {
		t.Fatalf("%q, %d waiting: want another try", r, len(d.waiting))
	}
	d.write(nil)
	if r := send(); r != "" || o.seq != Block+1 {
		t.Fatalf("%q, number %d", r, o.seq)
	}
	if n := e.Drops()[wire.SequenceUnreserved]; n != 3 {
		t.Errorf("%d counted", n)
	}
}

func TestExhaustion(t *testing.T) {
	spec.Covers(t, "RFC4303-3.3.3")
	ps, pr, tout, tin := restartPeers(t)
	var warned []Audit
	e, err := New(Config{Peers: []Peer{ps}, Audit: func(a Audit) { warned = append(warned, a) }}, &Volatile{})
	if err != nil {
		t.Fatal(err)
	}
	r := mustNew(t, &Volatile{}, pr)
	o := e.peers["ha"].out[Signalling].Load()
	send := func() ([]byte, wire.Reason) {
		esp, _, _, err := e.Outbound(at(0), tout, mh(5), nil)
		return esp, reasonOf(err)
	}
	jump := func(to uint64) { o.seq, o.reserved = to, to+1 }
	jump(1<<32/10*9 - 10)
	for range 20 {
		send()
	}
	if len(warned) != 1 || !strings.Contains(warned[0].Warning, "90 %") || warned[0].SPI != 0x1001 {
		t.Fatalf("%v", warned)
	}
	if s := e.Status()[0].SAs[1]; !strings.Contains(strings.Join(s.Notes, " "), "90 %") {
		t.Error(s)
	}
	jump(1<<32 - 3)
	for range 2 {
		esp, reason := send()
		if reason != "" {
			t.Fatal(reason)
		}
		if _, _, _, err := r.Inbound(at(0), tin, esp, nil); err != nil {
			t.Fatal(err)
		}
	}
	for range 3 {
		if esp, reason := send(); reason != wire.SequenceExhausted || len(esp) > 0 {
			t.Fatalf("behind the last number: %q", reason)
		}
	}
	if s := e.Status()[0].SAs[1]; !strings.Contains(strings.Join(s.Notes, " "), "exhausted") || s.Sequence != 1<<32-1 {
		t.Error(s)
	}
	// A restart does not help, nor does it keep the rest from starting.
	again, err := New(Config{Peers: []Peer{ps}}, e.counters)
	if err != nil {
		t.Fatal(err)
	}
	if _, _, _, err := again.Outbound(at(0), tout, mh(5), nil); reasonOf(err) != wire.SequenceExhausted {
		t.Error(err)
	}
}

// TestESN: extended sequence numbers go on where others end, and the receiver follows.
func TestESN(t *testing.T) {
	spec.Covers(t, "RFC4303-2.2.1")
	for _, suite := range []Suite{"aes256-gcm", "aes128-sha256"} {
		sa := testSA(t, Signalling, suite, 0x1001)
		sa.Negotiated, sa.ESN = true, true
		ha := mustNew(t, nil, Peer{Name: "mn", Homes: []netip.Addr{home1}, Protection: ESP, SAs: []SA{sa}})
		mn := mustNew(t, nil, Peer{Name: "ha", Addresses: []netip.Prefix{netip.PrefixFrom(agent, 128)}, Own: []netip.Addr{home1}, Protection: ESP, SAs: []SA{swap(sa)}})
		o, in := mn.peers["ha"].out[Signalling].Load(), ha.spi[0x1001]
		o.seq, in.win.top = 1<<32-3, 1<<32-3
		tm, th := toAgent(5)
		var late []byte
		for i := range 6 {
			esp, _, _, err := mn.Outbound(at(0), tm, mh(5), nil)
			if err != nil {
				t.Fatal(err)
			}
			if i == 0 {
				late = esp
				continue
			}
			if _, _, _, err := ha.Inbound(at(0), th, esp, nil); err != nil {
				t.Fatalf("%s: packet %d: %v", suite, i, err)
			}
		}
		if _, _, _, err := ha.Inbound(at(0), th, late, nil); err != nil {
			t.Errorf("%s: from the last cycle, late: %v", suite, err)
		}
		if _, _, _, err := ha.Inbound(at(0), th, late, nil); reasonOf(err) != wire.Replayed {
			t.Errorf("%s: twice: %v", suite, err)
		}
		if in.win.top != 1<<32+3 {
			t.Errorf("%s: top %#x", suite, in.win.top)
		}
	}
}

// TestPeerLostItsStore: what it sends is refused, and status says what it looks like.
func TestPeerLostItsStore(t *testing.T) {
	ps, pr, tout, tin := restartPeers(t)
	r := mustNew(t, &Volatile{}, pr)
	notes := func() string { return strings.Join(r.Status()[0].SAs[0].Notes, " ") }
	s := mustNew(t, &Volatile{}, ps)
	send := func() error {
		esp, _, _, err := s.Outbound(at(0), tout, mh(5), nil)
		if err != nil {
			t.Fatal(err)
		}
		_, _, _, err = r.Inbound(at(0), tin, esp, nil)
		return err
	}
	for range 10 {
		if err := send(); err != nil {
			t.Fatal(err)
		}
	}
	if notes() != "" {
		t.Fatal(notes())
	}
	s = mustNew(t, &Volatile{}, ps)
	for range 5 {
		if err := send(); reasonOf(err) != wire.Replayed {
			t.Fatal(err)
		}
	}
	if !strings.Contains(notes(), "lost its store") {
		t.Errorf("%q", notes())
	}
	if own := strings.Join(s.Status()[0].SAs[1].Notes, " "); !strings.Contains(own, "began at 1") {
		t.Errorf("on its own side: %q", own)
	}
	for range 6 {
		_ = send()
	}
	if notes() != "" {
		t.Errorf("once it is past what was used: %q", notes())
	}
}

// TestClose: a clean stop skips no number and refuses none.
func TestClose(t *testing.T) {
	ps, pr, tout, tin := restartPeers(t)
	cs, cr := &Volatile{}, &Volatile{}
	for round := range 5 {
		s, r := mustNew(t, cs, ps), mustNew(t, cr, pr)
		for i := range 10 {
			esp, _, _, err := s.Outbound(at(0), tout, mh(5), nil)
			if err != nil || binary.BigEndian.Uint32(esp[4:]) != uint32(10*round+i+1) {
				t.Fatal(round, i, err)
			}
			if _, _, _, err := r.Inbound(at(0), tin, esp, nil); err != nil {
				t.Fatal(round, i, err)
			}
		}
		if err := errors.Join(s.Close(), r.Close()); err != nil {
			t.Fatal(err)
		}
		if _, _, _, err := s.Outbound(at(0), tout, mh(5), nil); reasonOf(err) != wire.SequenceUnreserved {
			t.Fatalf("after Close: %v", err)
		}
	}
}

func TestBrokenStoreAtStart(t *testing.T) {
	ps, _, _, _ := restartPeers(t)
	d := newDisk()
	d.loadErr = errors.New("torn page")
	if _, err := New(Config{Peers: []Peer{ps}}, d); err == nil || !strings.Contains(err.Error(), "torn page") {
		t.Error(err)
	}
	if _, err := New(Config{Peers: []Peer{ps}}, failing{newDisk()}); err == nil || !strings.Contains(err.Error(), "cannot be reserved") {
		t.Error(err)
	}
}

type failing struct{ *disk }

func (failing) Store(_ string, _ Numbers, done func(error)) { done(errors.New("read-only")) }

// TestNewKeysNewCounters: the counter goes with the keys, not with names.
func TestNewKeysNewCounters(t *testing.T) {
	ps, _, tout, _ := restartPeers(t)
	c := &Volatile{}
	first := func(p Peer) uint32 {
		esp, _, _, err := mustNew(t, c, p).Outbound(at(0), tout, mh(5), nil)
		if err != nil {
			t.Fatal(err)
		}
		return binary.BigEndian.Uint32(esp[4:])
	}
	if n := first(ps); n != 1 {
		t.Fatal(n)
	}
	renamed := ps
	renamed.Name = "anchor"
	if n := first(renamed); n != Block+1 {
		t.Errorf("renamed: %d", n)
	}
	rekeyed := ps
	sa := ps.SAs[0]
	sa.Keys.Out = testHalf(t, sa.Keys.Suite, 99)
	rekeyed.SAs = []SA{sa}
	if n := first(rekeyed); n != 1 {
		t.Errorf("new keys: %d", n)
	}
	if n := first(ps); n != 2*Block+1 {
		t.Errorf("the old keys again: %d", n)
	}
	for name := range c.m {
		if strings.Contains(name, sa.Keys.In.Integrity.Hex()[:8]) {
			t.Errorf("%s shows the key", name)
		}
	}
}

// TestDoubtfulAfterRestart: what a restart refuses because nobody wrote down whether it came is told as that, and is no sign of a peer
// that lost its store; what was seen for sure is a replay.
func TestDoubtfulAfterRestart(t *testing.T) {
	ps, pr, tout, tin := restartPeers(t)
	s, d := mustNew(t, &Volatile{}, ps), newDisk()
	r := boot(t, d, pr)
	d.kept[r.spi[0x1001].name] = Numbers{High: 5, Slack: 20}
	var told []Audit
	r, err := New(Config{Peers: []Peer{pr}, Rand: rngReader{}, Audit: func(a Audit) { told = append(told, a) }}, prompt{d})
	if err != nil {
		t.Fatal(err)
	}
	now := core.Now{Boot: time.Hour}
	const first = 3 // that are lost on the way
	for n := 1; n <= 26; n++ {
		now.Boot += time.Second
		esp, _, _, err := s.Outbound(now, tout, mh(5), nil)
		if err != nil {
			t.Fatal(err)
		}
		if n <= first {
			continue
		}
		_, _, _, err = r.Inbound(now, tin, esp, nil)
		switch {
		case n == 26 && err != nil:
			t.Errorf("number %d: %v", n, err)
		case n < 26 && (reasonOf(err) != wire.Replayed || len(told) != n-first):
			t.Fatalf("number %d: %v, told %d", n, err, len(told))
		case n < 26 && told[n-first-1].Restart != (n > 5):
			t.Errorf("number %d was told as %+v", n, told[n-first-1])
		}
		if n == 25 {
			for _, sa := range r.Status()[0].SAs {
				if sa.Direction == "in" && (sa.Replayed != 22 || len(sa.Notes) > 0) {
					t.Errorf("status %+v", sa)
				}
			}
		}
	}
	if r.Drops()[wire.Replayed] != 22 {
		t.Errorf("drops %v", r.Drops())
	}
}
