package system

import (
	"context"
	"fmt"
	"net"
	"slices"
	"sync"
	"time"

	"kedge/internal/core"
)

// Fake is a core.Host for tests: no kernel, a clock that the test moves, ports that the test feeds, and a list of what was
// asked for. Its methods may be called from several goroutines. Nothing in it sleeps; it works under testing/synctest.
//
//	h := system.NewFake(core.Now{Boot: time.Hour, Wall: wall})
//	h.Script = func(op core.HostOp) error { ... }     // what Apply answers
//	port := h.Port("mh")                              // the same that Open("mh") gives
//	port.Inject(core.Packet{...}); sent := port.Sent() // in, and out so far
//	h.Tell(core.HostChanged{...})                     // to Watch
type Fake struct {
	// Script, if set, is asked before each operation of Apply; its error fails the operation as the kernel would.
	Script func(op core.HostOp) error
	// OpenError, if set, is asked before each Open.
	OpenError func(kind string, ifs []string) error

	mu      sync.Mutex
	now     core.Now
	done    []core.HostOp
	set     map[object]core.HostOp
	known   []core.HostChanged
	watches []*fakeWatch
	ports   map[string]*FakePort
}

type fakeWatch struct {
	queue []core.HostChanged
	wake  chan struct{}
}

// NewFake makes a host whose clocks stand at now.
func NewFake(now core.Now) *Fake {
	return &Fake{now: now, set: make(map[object]core.HostOp), ports: make(map[string]*FakePort)}
}

// Now implements core.Host.
func (f *Fake) Now() core.Now {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.now
}

// Advance moves both clocks.
func (f *Fake) Advance(d time.Duration) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.now.Boot += d
	f.now.Wall = f.now.Wall.Add(d)
}

// StepWall moves the wall clock alone, as an administrator or NTP does.
func (f *Fake) StepWall(d time.Duration) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.now.Wall = f.now.Wall.Add(d)
}

// Apply implements core.Host: it remembers what is set, and refuses unknown kinds.
func (f *Fake) Apply(ops []core.HostOp) error {
	for i, op := range ops {
		err := error(nil)
		if f.Script != nil {
			err = f.Script(op)
		}
		switch op.Kind {
		case "route", "rule", "address", "link", "neighbour", "proxy", "sysctl", "anycast":
		default:
			err = fmt.Errorf("unknown kind %q", op.Kind)
		}
		if err != nil {
			return &core.OpError{Index: i, Err: explain(op, err)}
		}
		f.mu.Lock()
		f.done = append(f.done, op)
		if key := keyOf(op, op.If); op.Del {
			delete(f.set, key)
		} else {
			f.set[key] = op
		}
		f.mu.Unlock()
	}
	return nil
}

// Applied gives all successful operations so far, in order.
func (f *Fake) Applied() []core.HostOp {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.done)
}

// Holds reports whether something is set as op says and not removed.
func (f *Fake) Holds(op core.HostOp) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	have, ok := f.set[keyOf(op, op.If)]
	return ok && have == op
}

// Count is how many things of a kind are set.
func (f *Fake) Count(kind string) (n int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for o := range f.set {
		if o.kind == kind {
			n++
		}
	}
	return n
}

// Tell is a change of the host: later watches have it in their first dump unless it is Gone, present ones hear of it.
func (f *Fake) Tell(c core.HostChanged) {
	f.mu.Lock()
	defer f.mu.Unlock()
	key := keyOf(c.Op, c.Op.If)
	f.known = slices.DeleteFunc(f.known, func(k core.HostChanged) bool { return keyOf(k.Op, k.Op.If) == key })
	if !c.Gone {
		f.known = append(f.known, c)
	}
	for _, w := range f.watches {
		w.queue = append(w.queue, c)
		select {
		case w.wake <- struct{}{}:
		default:
		}
	}
}

// Watch implements core.Host.
func (f *Fake) Watch(ctx context.Context, fn func(core.HostChanged)) error {
	w := &fakeWatch{wake: make(chan struct{}, 1)}
	f.mu.Lock()
	w.queue = append(slices.Clone(f.known), core.HostChanged{Synced: true})
	f.watches = append(f.watches, w)
	f.mu.Unlock()
	defer func() {
		f.mu.Lock()
		f.watches = slices.DeleteFunc(f.watches, func(o *fakeWatch) bool { return o == w })
		f.mu.Unlock()
	}()
	for {
		f.mu.Lock()
		queue := w.queue
		w.queue = nil
		f.mu.Unlock()
		for _, c := range queue {
			if ctx.Err() != nil {
				return nil
			}
			fn(c)
		}
		if len(queue) > 0 {
			continue
		}
		select {
		case <-w.wake:
		case <-ctx.Done():
			return nil
		}
	}
}

// Open implements core.Host; opening a kind again after its port was closed gives a new one.
func (f *Fake) Open(kind string, ifs ...string) (core.Port, error) {
	if f.OpenError != nil {
		if err := f.OpenError(kind, ifs); err != nil {
			return nil, err
		}
	}
	return f.Port(kind), nil
}

// Port is the port of a kind, for the test's end of it.
func (f *Fake) Port(kind string) *FakePort {
	f.mu.Lock()
	defer f.mu.Unlock()
	p := f.ports[kind]
	if p == nil || p.isClosed() {
		p = &FakePort{wake: make(chan struct{}, 1), closed: make(chan struct{})}
		f.ports[kind] = p
	}
	return p
}

// FakePort is a port whose other end is the test.
type FakePort struct {
	// Script, if set, is asked before each packet that is written; its error keeps the packet from leaving. Set it before use.
	Script func(core.Packet) error

	mu     sync.Mutex
	in     []core.Packet
	out    []core.Packet
	wake   chan struct{}
	once   sync.Once
	closed chan struct{}
}

func (p *FakePort) isClosed() bool {
	select {
	case <-p.closed:
		return true
	default:
		return false
	}
}

// Inject puts packets in; it copies.
func (p *FakePort) Inject(pkts ...core.Packet) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, k := range pkts {
		k.B = slices.Clone(k.B)
		p.in = append(p.in, k)
	}
	select {
	case p.wake <- struct{}{}:
	default:
	}
}

// Sent takes out what was written since the last call.
func (p *FakePort) Sent() []core.Packet {
	p.mu.Lock()
	defer p.mu.Unlock()
	out := p.out
	p.out = nil
	return out
}

// Read implements core.Port.
func (p *FakePort) Read(into []core.Packet) (int, error) {
	for {
		if p.isClosed() {
			return 0, net.ErrClosed
		}
		p.mu.Lock()
		n := min(len(into), len(p.in))
		for i := range n {
			b := append(into[i].B[:0], p.in[i].B...)
			into[i] = p.in[i]
			into[i].B = b
		}
		p.in = p.in[n:]
		p.mu.Unlock()
		if n > 0 || len(into) == 0 {
			return n, nil
		}
		select {
		case <-p.wake:
		case <-p.closed:
		}
	}
}

// Write implements core.Port.
func (p *FakePort) Write(pkts []core.Packet) (sent int, err error) {
	if p.isClosed() {
		return 0, net.ErrClosed
	}
	for _, k := range pkts {
		if p.Script != nil {
			if serr := p.Script(k); serr != nil {
				err = serr
				continue
			}
		}
		k.B = slices.Clone(k.B)
		p.mu.Lock()
		p.out = append(p.out, k)
		p.mu.Unlock()
		sent++
	}
	return sent, err
}

// Close implements core.Port.
func (p *FakePort) Close() error {
	p.once.Do(func() { close(p.closed) })
	return nil
}

var _ core.Host = (*Fake)(nil)
