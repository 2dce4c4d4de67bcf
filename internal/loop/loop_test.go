package loop

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"iter"
	"net"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"kedge/internal/core"
	"kedge/wire/ip"
	"kedge/wire/mobility"
)

// echo is a machine that answers each heartbeat, ticks every second, and answers commands.
type echo struct {
	ticks int
	next  time.Duration
	times []time.Duration
	heard []error
}

func (m *echo) Handle(now core.Now, ev core.Event, out []core.Effect) []core.Effect {
	switch ev := ev.(type) {
	case core.Restored:
		if ev.Last {
			m.next = now.Boot + time.Second
		}
	case core.Message:
		m.heard = append(m.heard, ev.Err)
		if hb, ok := ev.Body.(*mobility.Heartbeat); ok && ev.Err == nil {
			out = append(out,
				core.Persist{Key: []byte("heard"), Val: fmt.Append(nil, hb.Sequence)},
				core.Send{Path: core.Path{Local: ev.Path.Local, Remote: ev.Path.Remote}, Body: &mobility.Heartbeat{Response: true, Sequence: hb.Sequence}})
		}
	case core.Tick:
		m.ticks++
		m.times = append(m.times, now.Boot)
		m.next = now.Boot + time.Second
	case core.Command:
		out = append(out, core.Reply{Ref: ev.Ref, Body: m.ticks})
	}
	return out
}
func (m *echo) Deadline() (time.Duration, bool) { return m.next, m.next != 0 }

// twin is both ends of a port in memory.
type twin struct {
	in, out chan core.Packet
	closed  chan struct{}
}

func (p *twin) Read(into []core.Packet) (int, error) {
	select {
	case into[0] = <-p.in:
		return 1, nil
	case <-p.closed:
		return 0, net.ErrClosed
	}
}
func (p *twin) Write(pkts []core.Packet) (int, error) {
	for _, k := range pkts {
		p.out <- k
	}
	return len(pkts), nil
}
func (p *twin) Close() error {
	select {
	case <-p.closed:
	default:
		close(p.closed)
	}
	return nil
}

type twinHost struct {
	port  *twin
	begin time.Time
}

func (h *twinHost) Now() core.Now {
	return core.Now{Boot: time.Since(h.begin), Wall: time.Now()}
}
func (h *twinHost) Apply([]core.HostOp) error { return nil }
func (h *twinHost) Watch(ctx context.Context, f func(core.HostChanged)) error {
	f(core.HostChanged{Synced: true})
	<-ctx.Done()
	return nil
}
func (h *twinHost) Open(string, ...string) (core.Port, error) { return h.port, nil }

func start(t *testing.T) (*echo, *twin, *Loop, func()) {
	m := &echo{}
	p := &twin{in: make(chan core.Packet, 8), out: make(chan core.Packet, 8), closed: make(chan struct{})}
	l := New(Config{Name: "test", Machine: m, Host: &twinHost{port: p, begin: time.Now()}, Ports: []Port{{Kind: "mh"}}})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- l.Run(ctx) }()
	<-l.Ready()
	return m, p, l, func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("the loop ended with %v", err)
		}
	}
}

var (
	gw = netip.MustParseAddrPort("[2001:db8:a::11]:0")
	an = netip.MustParseAddrPort("[2001:db8:a::1]:0")
)

func TestTicksAtTheDeadline(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m, _, l, stop := start(t)
		time.Sleep(3500 * time.Millisecond)
		synctest.Wait()
		n, err := l.Command(t.Context(), core.GetStatus{})
		if err != nil || n != 3 {
			t.Errorf("after 3.5 s the machine says %v, %v; want 3 ticks", n, err)
		}
		stop()
		for i, at := range m.times {
			if want := time.Duration(i+1) * time.Second; at != want {
				t.Errorf("tick %d at %v, want %v", i, at, want)
			}
		}
	})
}

func TestAnswersMessages(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m, p, _, stop := start(t)
		b, err := mobility.Append(nil, &mobility.Heartbeat{Sequence: 9}, gw.Addr(), an.Addr())
		if err != nil {
			t.Fatal(err)
		}
		bad := append([]byte(nil), b...)
		bad[4] ^= 0xff
		p.in <- core.Packet{Src: gw, Dst: an, B: bad}
		p.in <- core.Packet{Src: gw, Dst: an, B: b}
		answer := <-p.out
		if answer.Src != an || answer.Dst != gw {
			t.Errorf("the answer went from %v to %v", answer.Src, answer.Dst)
		}
		got, err := mobility.Parse(answer.B, an.Addr(), gw.Addr())
		if hb, ok := got.(*mobility.Heartbeat); err != nil || !ok || hb.Sequence != 9 || !hb.Response {
			t.Errorf("the answer is %+v, %v", got, err)
		}
		stop()
		if len(m.heard) != 2 || m.heard[0] == nil || m.heard[1] != nil {
			t.Errorf("the machine heard %v, want a decode error and a message", m.heard)
		}
	})
}

// TestKeeperIsHeard: what the host puts back is told as an event; that it cannot go on ends the loop.
func TestKeeperIsHeard(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		broken := errors.New("no netlink any more")
		h := keeping{twinHost: &twinHost{begin: time.Now(), port: &twin{in: make(chan core.Packet), closed: make(chan struct{})}}, broken: make(chan error, 1)}
		var o hearing
		l := New(Config{Name: "test", Machine: &echo{}, Host: h, Ports: []Port{{Kind: "mh"}}, Observer: &o})
		ended := make(chan error)
		go func() { ended <- l.Run(t.Context()) }()
		synctest.Wait()
		if n := o.n.Load(); n != 1 {
			t.Errorf("%d events were told, want 1", n)
		}
		h.broken <- broken
		if err := <-ended; !errors.Is(err, broken) {
			t.Errorf("ended with %v, want %v", err, broken)
		}
	})
}

type keeping struct {
	*twinHost
	broken chan error
}

func (h keeping) Keep(ctx context.Context, tell func(core.Emit)) error {
	tell(core.Emit{Name: "restored"})
	select {
	case err := <-h.broken:
		return err
	case <-ctx.Done():
		return nil
	}
}

// hearing counts events.
type hearing struct {
	nobody
	n atomic.Int32
}

func (o *hearing) Emit(core.Now, core.Shard, core.Emit) { o.n.Add(1) }

// TestPortFailure: a port that breaks ends the loop with its error.
func TestPortFailure(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		broken := errors.New("the link is gone for good")
		h := &twinHost{begin: time.Now(), port: &twin{in: make(chan core.Packet), closed: make(chan struct{})}}
		l := New(Config{Name: "test", Machine: &echo{}, Host: breaking{h, broken}, Ports: []Port{{Kind: "mh"}}})
		if err := l.Run(t.Context()); !errors.Is(err, broken) {
			t.Errorf("ended with %v, want %v", err, broken)
		}
	})
}

type breaking struct {
	*twinHost
	err error
}

func (h breaking) Open(string, ...string) (core.Port, error) { return breakingPort(h), nil }

type breakingPort breaking

func (p breakingPort) Read([]core.Packet) (int, error)  { return 0, p.err }
func (p breakingPort) Write([]core.Packet) (int, error) { return 0, nil }
func (p breakingPort) Close() error                     { return nil }

func TestCommandGivesUp(t *testing.T) {
	l := New(Config{Name: "test", Machine: &echo{}}) // does not run
	ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
	defer cancel()
	if _, err := l.Command(ctx, core.GetStatus{}); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a command to a loop that does not run gave %v", err)
	}
}

// slowStore commits when it is let.
type slowStore struct {
	journalStore
	let     chan struct{}
	commits int
}

func (s *slowStore) Load(context.Context, string) iter.Seq2[core.Persist, error] {
	return func(func(core.Persist, error) bool) {}
}
func (s *slowStore) Commit(_ context.Context, _ uint64, batch []core.Persist) (uint64, error) {
	<-s.let
	s.commits++
	return 1, nil
}
func (s *slowStore) Own(context.Context, string) (core.Lease, error) { return noLease{}, nil }

type noLease struct{}

func (noLease) Token() uint64         { return 1 }
func (noLease) Lost() <-chan struct{} { return nil }
func (noLease) Release() error        { return nil }

// storm is a port with as many heartbeats as one likes; it counts what leaves.
type storm struct {
	b             []byte
	left          atomic.Int64 // still to be read
	read, written atomic.Int64
	closed        chan struct{}
	once          sync.Once
	early         atomic.Bool // something was written after Close
}

func (p *storm) Read(into []core.Packet) (int, error) {
	n := min(int(p.left.Load()), len(into))
	if n == 0 {
		<-p.closed
		return 0, net.ErrClosed
	}
	for i := range n {
		into[i] = core.Packet{Src: gw, Dst: an, B: append(into[i].B[:0], p.b...)}
	}
	p.left.Add(-int64(n))
	p.read.Add(int64(n))
	return n, nil
}
func (p *storm) Write(pkts []core.Packet) (int, error) {
	select {
	case <-p.closed:
		p.early.Store(true)
		return 0, net.ErrClosed
	default:
	}
	p.written.Add(int64(len(pkts)))
	return len(pkts), nil
}
func (p *storm) Close() error {
	p.once.Do(func() { close(p.closed) })
	return nil
}

type stormHost struct {
	*twinHost
	p *storm
}

func (h stormHost) Open(string, ...string) (core.Port, error) { return h.p, nil }

// TestStoreThatHangs: while the disk does not answer, timers and commands go on, what is held is bounded, and nothing of it is
// lost: when the daemon is told to end meanwhile, it still writes and answers all that it had decided.
func TestStoreThatHangs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, err := mobility.Append(nil, &mobility.Heartbeat{Sequence: 9}, gw.Addr(), an.Addr())
		if err != nil {
			t.Fatal(err)
		}
		p := &storm{b: b, closed: make(chan struct{})}
		const flood = 4 * maxGathering
		p.left.Store(flood)
		st := &slowStore{journalStore: journalStore{&journal{}}, let: make(chan struct{})}
		m := &echo{}
		l := New(Config{Name: "test", Machine: m, Host: stormHost{&twinHost{begin: time.Now()}, p}, Ports: []Port{{Kind: "mh"}}, Store: st})
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- l.Run(ctx) }()
		<-l.Ready()
		time.Sleep(2 * time.Second)
		synctest.Wait()
		if n, err := l.Command(t.Context(), core.GetStatus{}); err != nil || n != 2 {
			t.Errorf("after 2 s the machine says %v, %v; want 2 ticks", n, err)
		}
		held := p.read.Load()
		// What the round under way, the one that waits and the gathered one may hold, and the channel of packets. How the
		// messages are spread over the rounds is chance.
		if most := int64(3*(maxGathering+MaxEvents+readBatch) + (cap(l.packets)+4)*readBatch); held > most || held < maxGathering {
			t.Errorf("%d messages were taken while nothing could be written, want at most %d", held, most)
		}
		if p.written.Load() != 0 {
			t.Errorf("%d answers left before their records were written", p.written.Load())
		}
		cancel() // SIGTERM
		synctest.Wait()
		close(st.let)
		if err := <-done; err != nil {
			t.Errorf("ended with %v", err)
		}
		if got, want := p.written.Load(), int64(len(m.heard)); got != want || p.early.Load() {
			t.Errorf("%d answers of %d left, after the port was closed %v", got, want, p.early.Load())
		}
	})
}

// TestStoreThatIsSlow: 10,000 messages within a commit of two seconds are all answered, by few commits.
func TestStoreThatIsSlow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, err := mobility.Append(nil, &mobility.Heartbeat{Sequence: 9}, gw.Addr(), an.Addr())
		if err != nil {
			t.Fatal(err)
		}
		p := &storm{b: b, closed: make(chan struct{})}
		p.left.Store(10_000)
		st := &slowStore{journalStore: journalStore{&journal{}}, let: make(chan struct{})}
		l := New(Config{Name: "test", Machine: &echo{}, Host: stormHost{&twinHost{begin: time.Now()}, p}, Ports: []Port{{Kind: "mh"}}, Store: st})
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- l.Run(ctx) }()
		for p.written.Load() < 10_000 {
			time.Sleep(2 * time.Second)
			st.let <- struct{}{}
			synctest.Wait()
			if time.Since(l.cfg.Host.(stormHost).begin) > time.Minute {
				t.Fatalf("%d answers after a minute", p.written.Load())
			}
		}
		cancel()
		if err := <-done; err != nil {
			t.Fatal(err)
		}
		if st.commits > 10 {
			t.Errorf("%d commits, want the messages that wait to share one", st.commits)
		}
	})
}

// refusing is a port that can tell senders what was wrong.
type refusing struct {
	*twin
	told chan int
}

func (p refusing) Refuse(_ *core.Packet, off int) error {
	p.told <- off
	return nil
}

type refusingHost struct {
	*twinHost
	told chan int
}

func (h refusingHost) Open(string, ...string) (core.Port, error) {
	return refusing{h.port, h.told}, nil
}

// TestParameterProblems: the port is asked to answer for a bad Payload Proto and a bad Header Len (RFC 6275 9.2), and for
// nothing else; the machine hears of all.
func TestParameterProblems(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := &echo{}
		h := refusingHost{&twinHost{begin: time.Now(), port: &twin{in: make(chan core.Packet, 8), out: make(chan core.Packet, 8), closed: make(chan struct{})}}, make(chan int, 8)}
		l := New(Config{Name: "test", Machine: m, Host: h, Ports: []Port{{Kind: "mh"}}})
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- l.Run(ctx) }()
		<-l.Ready()
		change := func(f func(b []byte) []byte, sum bool) {
			b, err := mobility.Append(nil, &mobility.BindingUpdate{Sequence: 1}, gw.Addr(), an.Addr())
			if err != nil {
				t.Fatal(err)
			}
			b = f(b)
			b[1] = uint8(len(b)/8 - 1)
			if sum {
				b[4], b[5] = 0, 0
				binary.BigEndian.PutUint16(b[4:], ip.PseudoChecksum(gw.Addr(), an.Addr(), 135, b))
			}
			h.port.in <- core.Packet{Src: gw, Dst: an, B: b}
		}
		change(func(b []byte) []byte { b[0] = 6; return b }, true)
		change(func(b []byte) []byte { return b[:8] }, true)
		change(func(b []byte) []byte { b[0] = 6; return b }, false) // the checksum is looked at first
		change(func(b []byte) []byte { b[2] = 200; return b }, true)
		change(func(b []byte) []byte { return b }, true)
		synctest.Wait()
		cancel()
		if err := <-done; err != nil {
			t.Fatal(err)
		}
		close(h.told)
		var told []int
		for off := range h.told {
			told = append(told, off)
		}
		if !slices.Equal(told, []int{0, 1}) || len(m.heard) != 5 {
			t.Errorf("told %v of %d messages, want the octets 0 and 1 of 5", told, len(m.heard))
		}
	})
}
