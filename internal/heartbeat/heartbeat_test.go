package heartbeat

import (
	"bytes"
	"net/netip"
	"testing"
	"time"

	"pgregory.net/rapid"

	"kedge/internal/core"
	"kedge/internal/spec"
	"kedge/wire/mobility"
)

var (
	lma1 = netip.MustParseAddr("2001:db8:a::1")
	lma2 = netip.MustParseAddr("2001:db8:a::2")
	wall = time.Date(2024, 5, 1, 12, 0, 0, 0, time.UTC)
)

// zeros makes every random number 0: first requests leave at once and sequences start at 1.
type zeros struct{}

func (zeros) Read(b []byte) (int, error) { clear(b); return len(b), nil }

func at(d time.Duration) core.Now { return core.Now{Boot: d, Wall: wall.Add(d)} }

func answer(seq, restarts uint32) *mobility.Heartbeat {
	return &mobility.Heartbeat{Response: true, Sequence: seq, Options: mobility.Options(nil).Add(mobility.RestartCounter{Value: restarts})}
}

func kinds(ns []News) []Kind {
	var ks []Kind
	for _, n := range ns {
		ks = append(ks, n.Kind)
	}
	return ks
}

// One request an interval; each with the next number; a peer that never answers is dead when more than the allowed number
// of answers are missing: with 3 allowed, at the fifth request.
func TestMissing(t *testing.T) {
	spec.Covers(t, "RFC5847-3.1")
	for _, tc := range []struct {
		name  string
		cfg   Config
		every time.Duration
		dead  time.Duration
	}{
		{"defaults of the RFC", Config{}, 60 * time.Second, 240 * time.Second},
		{"one allowed", Config{Interval: 30 * time.Second, MaxMissing: 1}, 30 * time.Second, 60 * time.Second},
		{"quicker after a silence", Config{Interval: 30 * time.Second, Timeout: 2 * time.Second}, 2 * time.Second, 8 * time.Second},
		{"timeout beyond the interval", Config{Interval: 30 * time.Second, Timeout: time.Hour}, 30 * time.Second, 120 * time.Second},
	} {
		t.Run(tc.name, func(t *testing.T) {
			m := New(tc.cfg, 7, zeros{})
			m.Add(at(0), lma1)
			var dead time.Duration
			for i := range 12 {
				want := time.Duration(i) * tc.every
				when, ok := m.Deadline()
				if !ok || when != want {
					t.Fatalf("request %d due at %v %v, want %v", i, when, ok, want)
				}
				out, news := m.Tick(at(when))
				if len(out) != 1 || out[0].Peer != lma1 || out[0].Message.Response || out[0].Message.Sequence != uint32(i+1) {
					t.Fatalf("request %d: %+v", i, out)
				}
				if len(news) > 0 {
					if dead != 0 || news[0].Kind != Dead {
						t.Fatalf("at %v: %+v", when, news)
					}
					dead = when
				}
			}
			if dead != tc.dead {
				t.Errorf("dead at %v, want %v", dead, tc.dead)
			}
		})
	}
}

func TestAnswers(t *testing.T) {
	spec.Covers(t, "RFC5847-3.1", "RFC5847-3.2")
	m := New(Config{Interval: 30 * time.Second, Timeout: 2 * time.Second, MaxMissing: 1}, 7, zeros{})
	m.Add(at(0), lma1)
	if out, _ := m.Tick(at(0)); len(out) != 1 {
		t.Fatal("no first request")
	}
	step := func(name string, when time.Duration, from netip.Addr, hb *mobility.Heartbeat, want ...Kind) {
		t.Helper()
		reply, news := m.Handle(at(when), from, hb)
		if reply != nil {
			t.Errorf("%s: a response was answered", name)
		}
		if got := kinds(news); len(got) != len(want) || len(got) > 0 && got[0] != want[0] {
			t.Errorf("%s: news %v, want %v", name, got, want)
		}
	}
	step("wrong number", 1*time.Second, lma1, answer(2, 99))
	step("unknown peer", 1*time.Second, lma2, answer(1, 99))
	if alive, c, last := m.Status(lma1); alive || c != 0 || !last.IsZero() {
		t.Errorf("forged responses changed the status: %v %v %v", alive, c, last)
	}
	step("the answer", 1*time.Second, lma1, answer(1, 5), Alive)
	step("the answer again", 1*time.Second, lma1, answer(1, 6))
	if m.Ignored() != 3 {
		t.Errorf("ignored %d, want 3", m.Ignored())
	}
	if alive, c, last := m.Status(lma1); !alive || c != 5 || !last.Equal(wall.Add(time.Second)) {
		t.Errorf("status %v %v %v", alive, c, last)
	}
	// The interval counts from request to request, not from the answer.
	if when, _ := m.Deadline(); when != 30*time.Second {
		t.Errorf("next request at %v, want 30s", when)
	}
	m.Tick(at(30 * time.Second))
	step("same counter", 30*time.Second, lma1, answer(2, 5))
	m.Tick(at(60 * time.Second))
	step("counter changed", 60*time.Second, lma1, answer(3, 6), Restarted)

	// Two missing (one allowed): dead. An answer brings it back, together with its new counter.
	m.Tick(at(90 * time.Second))
	m.Tick(at(92 * time.Second))
	if _, news := m.Tick(at(94 * time.Second)); len(news) != 1 || news[0].Kind != Dead {
		t.Fatalf("news %v, want dead", news)
	}
	if alive, _, _ := m.Status(lma1); alive {
		t.Error("dead peer is alive")
	}
	_, news := m.Handle(at(95*time.Second), lma1, answer(6, 8))
	if len(news) != 2 || news[0].Kind != Alive || news[1] != (News{Peer: lma1, Kind: Restarted, Old: 6, New: 8}) {
		t.Errorf("news %+v", news)
	}
}

func TestMissingIsReset(t *testing.T) {
	m := New(Config{Interval: 30 * time.Second, MaxMissing: 1}, 7, zeros{})
	m.Add(at(0), lma1)
	for i := range 20 { // every second answer is lost: never two in a row
		_, news := m.Tick(at(time.Duration(i) * 30 * time.Second))
		for _, n := range news {
			t.Fatalf("news %v at %d", n.Kind, i)
		}
		if i%2 == 0 {
			m.Handle(at(time.Duration(i)*30*time.Second+time.Second), lma1, answer(uint32(i+1), 1))
		}
	}
}

func TestUnsolicited(t *testing.T) {
	spec.Covers(t, "RFC5847-3.2")
	m := New(Config{Interval: 30 * time.Second}, 7, zeros{})
	m.Add(at(0), lma1)
	m.Tick(at(0))
	m.Handle(at(time.Second), lma1, answer(1, 5))
	other := New(Config{}, 6, zeros{})
	ann := other.Announcement()
	if !ann.Unsolicited || !ann.Response {
		t.Fatalf("announcement %+v lacks U or R", ann)
	}
	reply, news := m.Handle(at(2*time.Second), lma1, ann)
	if reply != nil || len(news) != 1 || news[0] != (News{Peer: lma1, Kind: Restarted, Old: 5, New: 6}) {
		t.Errorf("reply %v, news %+v", reply, news)
	}
	if when, _ := m.Deadline(); when != 30*time.Second {
		t.Errorf("the announcement moved the next request to %v", when)
	}
	if _, news = m.Handle(at(2*time.Second), lma1, ann); len(news) != 0 {
		t.Errorf("repeated announcement: %+v", news)
	}
}

// Requests are answered with their number and our counter, also from peers without a session.
func TestReply(t *testing.T) {
	spec.Covers(t, "RFC5847-3", "RFC5847-3.2")
	m := New(Config{}, 41, zeros{})
	reply, news := m.Handle(at(0), lma2, &mobility.Heartbeat{Sequence: 0xfffffffe})
	if reply == nil || len(news) != 0 || !reply.Response || reply.Unsolicited || reply.Sequence != 0xfffffffe {
		t.Fatalf("reply %+v, news %v", reply, news)
	}
	if c, ok := reply.Options.RestartCounter(); !ok || c.Value != 41 {
		t.Errorf("restart counter %v %v, want 41", c.Value, ok)
	}
	if _, ok := m.Deadline(); ok {
		t.Error("a stranger's request made us watch it")
	}
}

// Binding Error 2 in answer to a request: never a request again, also after a session ended and another began.
func TestUnsupported(t *testing.T) {
	spec.Covers(t, "RFC5847-3")
	m := New(Config{Interval: 30 * time.Second}, 1, zeros{})
	if m.Unsupported(lma1) {
		t.Error("an unknown peer cannot be unsupported")
	}
	m.Add(at(0), lma1)
	if m.Unsupported(lma1) {
		t.Error("no request is out: the error is about something else")
	}
	m.Tick(at(0))
	if !m.Unsupported(lma1) {
		t.Fatal("not accepted")
	}
	if _, ok := m.Deadline(); ok {
		t.Error("still a request due")
	}
	m.Remove(lma1)
	if m.Add(at(time.Minute), lma1) {
		t.Error("watched again")
	}
	if out, _ := m.Tick(at(time.Hour)); len(out) != 0 {
		t.Errorf("asked again: %+v", out)
	}
	if alive, _, _ := m.Status(lma1); !alive {
		t.Error("a peer that answers with an error counts as dead")
	}
}

func TestRemoveAndSpread(t *testing.T) {
	spec.Covers(t, "RFC5847-3")
	m := New(Config{Interval: 100 * time.Second}, 1, bytes.NewReader([]byte{
		0, 0, 0, 1, 0x80, 0, 0, 0, // lma1: sequence, half of a tenth of the interval
		0, 0, 0, 9, 0x40, 0, 0, 0,
	}))
	m.Add(at(0), lma1)
	m.Add(at(0), lma2)
	m.Add(at(time.Second), lma2) // again: no change
	if when, _ := m.Deadline(); when != 2500*time.Millisecond {
		t.Errorf("first of lma2 at %v, want 2.5s", when)
	}
	m.Remove(lma2)
	m.Remove(lma2)
	if when, _ := m.Deadline(); when != 5*time.Second {
		t.Errorf("first of lma1 at %v, want 5s", when)
	}
	m.Remove(lma1)
	if _, ok := m.Deadline(); ok {
		t.Error("nobody is watched, but something is due")
	}
}

// Whatever happens, deadlines never lie in the past after a tick, at most one request a peer and timeout leaves, and a
// peer is told dead and alive in turns.
func TestRandom(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		m := New(Config{Interval: 30 * time.Second, Timeout: 3 * time.Second, MaxMissing: 2}, 1, zeros{})
		peers := []netip.Addr{lma1, lma2, netip.MustParseAddr("2001:db8:a::3")}
		now := time.Duration(0)
		state := map[netip.Addr]Kind{}
		sent := map[netip.Addr]uint32{}
		note := func(ns []News) {
			for _, n := range ns {
				if n.Kind == Restarted {
					if n.Old == n.New {
						t.Fatalf("restart without a change: %+v", n)
					}
					continue
				}
				if state[n.Peer] == n.Kind {
					t.Fatalf("%v told twice of %v", n.Kind, n.Peer)
				}
				state[n.Peer] = n.Kind
			}
		}
		for range rapid.IntRange(1, 60).Draw(t, "n") {
			p := rapid.SampledFrom(peers).Draw(t, "peer")
			switch rapid.IntRange(0, 5).Draw(t, "what") {
			case 0:
				m.Add(at(now), p)
			case 1:
				m.Remove(p)
				delete(state, p)
			case 2:
				_, ns := m.Handle(at(now), p, answer(sent[p]+rapid.Uint32Range(0, 1).Draw(t, "off"), rapid.Uint32Range(0, 2).Draw(t, "c")))
				note(ns)
			case 3:
				_, ns := m.Handle(at(now), p, &mobility.Heartbeat{Response: true, Unsolicited: true, Options: answer(0, 3).Options})
				note(ns)
			default:
				if when, ok := m.Deadline(); ok {
					now = max(now, when)
				}
				out, ns := m.Tick(at(now))
				note(ns)
				seen := map[netip.Addr]bool{}
				for _, o := range out {
					if seen[o.Peer] {
						t.Fatalf("two requests to %v at once", o.Peer)
					}
					seen[o.Peer], sent[o.Peer] = true, o.Message.Sequence
				}
				if when, ok := m.Deadline(); ok && when <= now {
					t.Fatalf("deadline %v not after %v", when, now)
				}
			}
		}
	})
}
