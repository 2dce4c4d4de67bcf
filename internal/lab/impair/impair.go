// Package impair is a network link in user space: it switches Ethernet frames between interfaces and gives them delay,
// jitter, loss, reordering, duplication, a rate and an MTU, as the kernel's netem would where it exists.
//
// Frames are taken with virtio-net headers (package tap), so segmentation offload passes through. Every port has a
// goroutine that reads; one goroutine delivers, by a queue ordered by due time. Impairments apply once on the way from
// one port to another: two interfaces joined by a link with 10 ms delay see a round trip of 20 ms.
package impair

import (
	"container/heap"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"kedge/internal/lab/tap"
)

// Settings of a link; the zero value passes everything at once.
type Settings struct {
	Delay     time.Duration // one way
	Jitter    time.Duration // uniform in [-Jitter, +Jitter]; keeps the order of frames of a port
	Loss      float64       // probability 0..1
	Duplicate float64       // probability that a frame arrives twice
	Reorder   float64       // probability that a frame is held back so that later ones overtake it
	Rate      uint64        // bit/s a sending port, 0 = no limit
	MTU       int           // larger packets vanish, 0 = no limit
}

// maxQueue limits the frames that wait in a link: beyond it new ones are lost, as in a router's buffer.
const maxQueue = 100_000

// maxBacklog is how long a frame may wait for the rate.
const maxBacklog = 200 * time.Millisecond

// holdBack is how much later than its due time a reordered frame arrives, at least.
const holdBack = 5 * time.Millisecond

// Counters of a link.
type Counters struct{ Frames, Lost, Duplicated, Reordered, TooBig, Overflow, Matched uint64 }

// Link switches frames between its ports.
type Link struct {
	set   Settings
	tap   func(port int, at time.Time, frame []byte)
	wake  chan struct{}
	done  chan struct{}
	wg    sync.WaitGroup
	count struct {
		frames, lost, dup, reorder, big, overflow, matched atomic.Uint64
	}

	mu     sync.Mutex
	rnd    *rand.Rand
	ports  []*port
	learnt map[[6]byte]int
	queue  queue
	seq    uint64
	rules  []*rule
	cut    map[int]bool
}

type port struct {
	sock *tap.Socket
	free time.Time // when the rate lets the next frame go
	last time.Time // due time of the newest frame in order
}

type rule struct {
	match func(frame []byte) bool
	left  int // negative: for ever
}

// New makes a link without ports. Tap, if not nil, sees every frame as it enters the link, without the virtio-net header;
// it must not keep the slice. Equal seeds with equal traffic lose the same frames.
func New(set Settings, seed uint64, tap func(port int, at time.Time, frame []byte)) *Link {
	l := &Link{
		set: set, tap: tap, wake: make(chan struct{}, 1), done: make(chan struct{}),
		rnd: rand.New(rand.NewPCG(seed, 0x6b65646765)), learnt: map[[6]byte]int{}, cut: map[int]bool{},
	}
	l.wg.Go(l.deliver)
	return l
}

// Add opens an interface of the calling thread's namespace as a port and gives its number.
func (l *Link) Add(ifname string) (int, error) {
	s, err := tap.Open(ifname, tap.Options{VNet: true, Promisc: true})
	if err != nil {
		return 0, err
	}
	l.mu.Lock()
	n := len(l.ports)
	l.ports = append(l.ports, &port{sock: s})
	l.mu.Unlock()
	l.wg.Go(func() { l.read(n, s) })
	return n, nil
}

// Drop makes the link lose the next n frames that match, or all of them if n < 0, until the returned function is called.
// Match sees frames without the virtio-net header and must not keep them.
func (l *Link) Drop(n int, match func(frame []byte) bool) (stop func()) {
	r := &rule{match: match, left: n}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.rules = append(l.rules, r)
	return func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		r.left = 0
	}
}

// Cut parts a port from the link without taking its carrier, or joins it again.
func (l *Link) Cut(port int, off bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.cut[port] = off
}

// Set changes the settings for frames from now on.
func (l *Link) Set(s Settings) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.set = s
}

// Counters of the frames so far.
func (l *Link) Counters() Counters {
	c := &l.count
	return Counters{c.frames.Load(), c.lost.Load(), c.dup.Load(), c.reorder.Load(), c.big.Load(), c.overflow.Load(), c.matched.Load()}
}

// Close ends all goroutines; frames in flight are lost.
func (l *Link) Close() error {
	var errs []error
	l.mu.Lock()
	select {
	case <-l.done:
		l.mu.Unlock()
		return nil
	default:
	}
	close(l.done)
	for _, p := range l.ports {
		errs = append(errs, p.sock.Close())
	}
	l.mu.Unlock()
	l.wg.Wait()
	return errors.Join(errs...)
}

func (l *Link) read(n int, s *tap.Socket) {
	buf := make([]byte, tap.MaxFrame)
	for {
		k, at, err := s.Read(buf)
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil || k < tap.VNetLen+14 {
			continue
		}
		l.enter(n, at, buf[:k])
	}
}

// enter takes one frame with its virtio-net header and queues its copies.
func (l *Link) enter(from int, at time.Time, b []byte) {
	frame := b[tap.VNetLen:]
	l.count.frames.Add(1)
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.cut[from] {
		l.count.lost.Add(1)
		return
	}
	if l.tap != nil {
		l.tap(from, at, frame)
	}
	if src := [6]byte(frame[6:12]); src[0]&1 == 0 {
		l.learnt[src] = from
	}
	for _, r := range l.rules {
		if r.left != 0 && r.match(frame) {
			if r.left > 0 {
				r.left--
			}
			l.count.matched.Add(1)
			return
		}
	}
	if l.set.MTU > 0 && wireSize(b) > l.set.MTU {
		l.count.big.Add(1)
		return
	}
	if l.set.Loss > 0 && l.rnd.Float64() < l.set.Loss {
		l.count.lost.Add(1)
		return
	}
	p := l.ports[from]
	due := at
	if l.set.Rate > 0 {
		// A frame occupies the wire after those before it.
		if p.free.After(due) {
			due = p.free
		}
		if due.Sub(at) > maxBacklog {
			l.count.overflow.Add(1)
			return
		}
		due = due.Add(time.Duration(uint64(len(frame)) * 8 * uint64(time.Second) / l.set.Rate))
		p.free = due
	}
	due = due.Add(l.set.Delay)
	if l.set.Jitter > 0 {
		due = due.Add(time.Duration((l.rnd.Float64()*2 - 1) * float64(l.set.Jitter)))
	}
	if l.set.Reorder > 0 && l.rnd.Float64() < l.set.Reorder {
		l.count.reorder.Add(1)
		due = due.Add(max(holdBack, l.set.Delay/2)) // and p.last stays, so that the next ones overtake
	} else {
		if due.Before(p.last) {
			due = p.last
		}
		p.last = due
	}
	copies := 1
	if l.set.Duplicate > 0 && l.rnd.Float64() < l.set.Duplicate {
		l.count.dup.Add(1)
		copies = 2
	}
	if len(l.queue)+copies > maxQueue {
		l.count.overflow.Add(1)
		return
	}
	kept := append([]byte(nil), b...)
	for range copies {
		l.seq++
		heap.Push(&l.queue, item{due: due, seq: l.seq, from: from, b: kept})
	}
	if l.queue[0].seq == l.seq || copies == 2 {
		select {
		case l.wake <- struct{}{}:
		default:
		}
	}
}

// wireSize is the size of the IP packets that the frame becomes on a wire: a segmentation-offload frame is cut first.
func wireSize(b []byte) int {
	const gsoNone = 0
	hdrLen, gso := int(b[2])|int(b[3])<<8, int(b[4])|int(b[5])<<8
	if b[1] != gsoNone && gso > 0 {
		return hdrLen + gso - 14
	}
	return len(b) - tap.VNetLen - 14
}

// deliver writes frames when they are due.
func (l *Link) deliver() {
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for {
		l.mu.Lock()
		now := time.Now()
		wait := time.Hour
		for len(l.queue) > 0 {
			it := l.queue[0]
			if d := it.due.Sub(now); d > 0 {
				wait = d
				break
			}
			heap.Pop(&l.queue)
			l.write(it)
		}
		l.mu.Unlock()
		timer.Reset(wait)
		select {
		case <-l.done:
			return
		case <-l.wake:
		case <-timer.C:
		}
	}
}

func (l *Link) write(it item) {
	frame := it.b[tap.VNetLen:]
	dst := [6]byte(frame[:6])
	if to, ok := l.learnt[dst]; ok && dst[0]&1 == 0 {
		if to != it.from && !l.cut[to] {
			_ = l.ports[to].sock.Write(it.b) // a wire does not report losses
		}
		return
	}
	for n, p := range l.ports {
		if n != it.from && !l.cut[n] {
			_ = p.sock.Write(it.b)
		}
	}
}

type item struct {
	due  time.Time
	seq  uint64
	from int
	b    []byte
}

type queue []item

func (q queue) Len() int      { return len(q) }
func (q queue) Swap(i, j int) { q[i], q[j] = q[j], q[i] }
func (q queue) Less(i, j int) bool {
	if q[i].due.Equal(q[j].due) {
		return q[i].seq < q[j].seq
	}
	return q[i].due.Before(q[j].due)
}
func (q *queue) Push(x any) { *q = append(*q, x.(item)) }
func (q *queue) Pop() any {
	old := *q
	n := len(old) - 1
	it := old[n]
	old[n] = item{}
	*q = old[:n]
	return it
}

// String describes the settings for people: "delay 5ms, loss 1%".
func (s Settings) String() string {
	var out string
	add := func(format string, args ...any) {
		if out != "" {
			out += ", "
		}
		out += fmt.Sprintf(format, args...)
	}
	if s.Delay > 0 {
		add("delay %v", s.Delay)
	}
	if s.Jitter > 0 {
		add("jitter %v", s.Jitter)
	}
	for _, p := range []struct {
		name string
		v    float64
	}{{"loss", s.Loss}, {"duplicate", s.Duplicate}, {"reorder", s.Reorder}} {
		if p.v > 0 {
			add("%s %g%%", p.name, p.v*100)
		}
	}
	if s.Rate > 0 {
		add("rate %d bit/s", s.Rate)
	}
	if s.MTU > 0 {
		add("mtu %d", s.MTU)
	}
	return out
}
