// Package simnet is whole networks in memory, in virtual time: anchors and gateways as their real machines, behind the
// daemon's own applier and decoder, with the data plane's engine and a store, joined by core links with faults and by
// access links with hosts.
//
// One Sim is one event queue and one goroutine. Time jumps from event to event; what is due at the same time runs in the
// order in which it was put in. Every random choice comes from the seed, so a run repeats exactly, and a failing seed is
// the whole report of a fault.
//
//	s := simnet.New(1)
//	core := s.Link("core", simnet.Conditions{Latency: 5 * time.Millisecond})
//	lma := s.Node(simnet.NodeConfig{Name: "lma1", New: ..., Attach: []simnet.Attachment{{Link: core, Addrs: ...}}})
//	air := s.Air("air1")
//	mag := s.Node(simnet.NodeConfig{Name: "mag1", ..., Access: []simnet.Access{{Air: air, Name: "acc0", If: 3, MAC: ...}}})
//	h := s.Host(simnet.HostConfig{Name: "h1", MAC: mac})
//	core.Fault(simnet.Nth(1, simnet.MH(mobility.TypeBindingAck), simnet.Lose))   // the first PBA is lost
//	h.Move(air)
//	s.Run(10 * time.Second)
//
// Faults are Routers, small functions that see every packet and say what becomes of it. Trace holds what happened.
package simnet

import (
	"container/heap"
	"fmt"
	"math/rand/v2"
	"strings"
	"time"

	"kedge/internal/core"
)

// Sim is one simulated world. It belongs to one goroutine.
type Sim struct {
	seed  uint64
	rng   *rand.Rand
	boot  time.Duration
	queue queue
	order uint64
	serie int // packets so far

	links []*Link
	airs  []*Air
	nodes []*Node
	hosts []*Host

	visited []*Visited

	// Tap, if set, sees every packet once, before its faults.
	Tap func(p *Packet)
	// Trace, if set, keeps a line for each packet and each emitted event.
	Trace *Trace
}

// start is an arbitrary moment: boot time of every node and the wall clock then.
const start = time.Hour

var wallStart = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

// New makes an empty world.
func New(seed uint64) *Sim {
	return &Sim{seed: seed, rng: rand.New(rand.NewPCG(seed, 0x6b656467)), boot: start}
}

// Now is the true time, which nodes may see with an offset.
func (s *Sim) Now() core.Now { return core.Now{Boot: s.boot, Wall: wallStart.Add(s.boot - start)} }

// Elapsed is the time since New.
func (s *Sim) Elapsed() time.Duration { return s.boot - start }

// Rand is the world's randomness, for tests that choose what to do next.
func (s *Sim) Rand() *rand.Rand { return s.rng }

// entropy is a stream of its own for one node's life, so that one node's use of it does not change another's.
func (s *Sim) entropy(name string, life int) *rand.ChaCha8 {
	var key [32]byte
	copy(key[:], fmt.Sprintf("%x/%d/%s", s.seed, life, name))
	return rand.NewChaCha8(key)
}

// Timer is something that will happen.
type Timer struct {
	at    time.Duration
	order uint64
	f     func()
	index int // in the queue, -1 = not there
}

// Stop takes it back; after it has happened nothing.
func (t *Timer) Stop(s *Sim) {
	if t != nil && t.index >= 0 {
		heap.Remove(&s.queue, t.index)
	}
}

// At makes f happen at a boot time, now if that has passed.
func (s *Sim) At(boot time.Duration, f func()) *Timer {
	s.order++
	t := &Timer{at: max(boot, s.boot), order: s.order, f: f}
	heap.Push(&s.queue, t)
	return t
}

// After makes f happen d from now.
func (s *Sim) After(d time.Duration, f func()) *Timer { return s.At(s.boot+d, f) }

// maxPerInstant is how much may happen at one moment: more is a machine that asks for ticks without end.
const maxPerInstant = 1_000_000

// Run lets d pass.
func (s *Sim) Run(d time.Duration) {
	s.RunUntil(d, func() bool { return false })
}

// RunUntil lets time pass until cond holds, looked at after everything that happens, for at most d. It reports whether
// cond held; then time stands at the moment when it came true.
func (s *Sim) RunUntil(d time.Duration, cond func() bool) bool {
	end := s.boot + d
	if cond() {
		return true
	}
	for same := 0; len(s.queue) > 0 && s.queue[0].at <= end; {
		t := heap.Pop(&s.queue).(*Timer)
		if t.at > s.boot {
			s.boot, same = t.at, 0
		}
		if same++; same > maxPerInstant {
			panic(fmt.Sprintf("simnet: seed %d: time stands still at %v", s.seed, s.Elapsed()))
		}
		t.f()
		if cond() {
			return true
		}
	}
	s.boot = end
	return false
}

// queue is a heap by time, then by order.
type queue []*Timer

func (q queue) Len() int { return len(q) }
func (q queue) Less(i, j int) bool {
	return q[i].at < q[j].at || q[i].at == q[j].at && q[i].order < q[j].order
}
func (q queue) Swap(i, j int) {
	q[i], q[j] = q[j], q[i]
	q[i].index, q[j].index = i, j
}
func (q *queue) Push(x any) {
	t := x.(*Timer)
	t.index = len(*q)
	*q = append(*q, t)
}
func (q *queue) Pop() any {
	old := *q
	t := old[len(old)-1]
	t.index = -1
	*q = old[:len(old)-1]
	return t
}

// Trace keeps lines of what happened, the newest Max of them.
type Trace struct {
	Max   int // 0 = all
	Lines []string
}

func (s *Sim) trace(format string, args ...any) {
	if s.Trace == nil {
		return
	}
	t := s.Trace
	t.Lines = append(t.Lines, fmt.Sprintf("%12.6f  ", s.Elapsed().Seconds())+fmt.Sprintf(format, args...))
	if t.Max > 0 && len(t.Lines) > 2*t.Max {
		t.Lines = append(t.Lines[:0], t.Lines[len(t.Lines)-t.Max:]...)
	}
}

// String is all lines.
func (t *Trace) String() string { return strings.Join(t.Lines, "\n") }
