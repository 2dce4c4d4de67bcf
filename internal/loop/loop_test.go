package loop

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"testing"
	"testing/synctest"
	"time"

	"kedge/internal/core"
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
