// Package loop runs a machine: one goroutine, one select, one timer. It turns packets into events and effects into I/O.
//
// Two goroutines share the work. The machine's drains up to MaxEvents events, hands their effects over as one round and
// goes on; the applier's commits, forwards and sends a round at a time. Rounds are applied in order, so while one waits
// for the disk the next one gathers: that is the group commit, and the machine never waits for it.
package loop

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"time"

	"kedge/internal/access"
	"kedge/internal/core"
	"kedge/wire"
	"kedge/wire/ip"
	"kedge/wire/mobility"
	"kedge/wire/nd"
)

const (
	// MaxEvents is how many events one round takes at most.
	MaxEvents = 256
	// readBatch is how many packets one read of a port takes at most.
	readBatch = 64
	// maxGathering is how many groups may wait for the applier. Behind a disk that does not answer no more packets are read
	// then: those that wait are in the sockets' buffers, which are bounded, and their senders send again.
	maxGathering = 16 << 10
	// maxReports is how many data plane reports may wait; more are dropped, they come again.
	maxReports = 1024
)

// Observer sees what happens, in the loop's goroutine; it must not block. Package observe implements it.
type Observer interface {
	// Emit is called from the goroutine of core.Keeper, too.
	Emit(now core.Now, shard core.Shard, e core.Emit)
	// Message sees every signalling message; dir is in or out. err is a decode error or, on out, a failure to send.
	Message(now core.Now, shard core.Shard, dir string, p core.Path, body any, err error)
	// LoopLag sees how late a Tick was for the machine's deadline.
	LoopLag(shard core.Shard, late time.Duration)
	// StoreCommit sees how long a commit took. It is called from the applier's goroutine.
	StoreCommit(took time.Duration)
}

// nobody observes.
type nobody struct{}

func (nobody) Emit(core.Now, core.Shard, core.Emit)                        {}
func (nobody) Message(core.Now, core.Shard, string, core.Path, any, error) {}
func (nobody) LoopLag(core.Shard, time.Duration)                           {}
func (nobody) StoreCommit(time.Duration)                                   {}

// Port says which port to open.
type Port struct {
	Kind string // mh, access
	Ifs  []string
}

// Config is what a loop runs and on what.
type Config struct {
	Name     string // of the virtual anchor: key of its records in the store
	Shard    core.Shard
	Machine  core.Machine
	Host     core.Host
	Ports    []Port
	Data     core.Dataplane
	Store    core.Store // nil: nothing is durable
	Security Security   // nil: no security association is in tunnel mode
	Answer   Answerer   // of what is not asked of the data plane; nil: nobody answers
	Observer Observer   // nil: nobody looks
}

// Loop runs one machine. Its methods are safe for concurrent use.
type Loop struct {
	cfg   Config
	apply Applier
	ports map[string]core.Port

	events  chan core.Event
	packets chan *batch
	rounds  chan []Group
	results chan []core.Event

	mu      sync.Mutex // protects the two below
	ref     core.Ref
	waiting map[core.Ref]chan core.Reply

	asks  asks
	ready chan struct{}
}

// batch is one read of a port, recycled when the machine has handled it.
type batch struct {
	kind string
	n    int
	pkts [readBatch]core.Packet
}

var batches = sync.Pool{New: func() any { return new(batch) }}

// New makes a loop; Run starts it.
func New(cfg Config) *Loop {
	if cfg.Observer == nil {
		cfg.Observer = nobody{}
	}
	return &Loop{
		cfg:     cfg,
		ports:   make(map[string]core.Port),
		events:  make(chan core.Event, maxReports),
		packets: make(chan *batch, 16),
		rounds:  make(chan []Group, 1),
		results: make(chan []core.Event, 1),
		waiting: make(map[core.Ref]chan core.Reply),
		ready:   make(chan struct{}),
	}
}

// Ready is closed when the machine is restored and its ports are open.
func (l *Loop) Ready() <-chan struct{} { return l.ready }

// String names the task.
func (l *Loop) String() string { return "loop " + l.cfg.Name }

// Command asks the machine and waits for its reply.
func (l *Loop) Command(ctx context.Context, body any) (any, error) {
	answer := make(chan core.Reply, 1)
	l.mu.Lock()
	l.ref++
	ref := l.ref
	l.waiting[ref] = answer
	l.mu.Unlock()
	defer func() {
		l.mu.Lock()
		delete(l.waiting, ref)
		l.mu.Unlock()
	}()
	select {
	case l.events <- core.Command{Ref: ref, Body: body}:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	select {
	case r := <-answer:
		return r.Body, r.Err
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// Run restores the machine, opens its ports and runs until ctx ends, which is no error.
func (l *Loop) Run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer l.asks.begin(ctx)()
	defer cancel()
	l.apply = Applier{Store: l.cfg.Store, Data: l.cfg.Data, Host: l.cfg.Host, Security: l.cfg.Security, Write: l.write, Committed: l.cfg.Observer.StoreCommit}
	if l.cfg.Store != nil {
		lease, err := l.cfg.Store.Own(ctx, l.cfg.Name)
		if err != nil {
			return fmt.Errorf("store: %w", err)
		}
		defer lease.Release()
		l.apply.Token = lease.Token()
	}
	for _, p := range l.cfg.Ports {
		port, err := l.cfg.Host.Open(p.Kind, p.Ifs...)
		if err != nil {
			return fmt.Errorf("port %s: %w", p.Kind, err)
		}
		defer port.Close()
		l.ports[p.Kind] = port
	}
	if l.cfg.Data != nil {
		l.cfg.Data.Reports(func(r core.Reported) { l.offer(r) })
	}
	pending, err := l.apply.Restore(ctx, l.cfg.Name, func(ev core.Event) Group { return l.handle(ev) })
	if err != nil {
		return err
	}

	var wg sync.WaitGroup
	failed := make(chan error, len(l.ports)+2)
	for kind, port := range l.ports {
		wg.Go(func() { l.read(ctx, kind, port, failed) })
	}
	if l.cfg.Host != nil {
		wg.Go(func() {
			err := l.cfg.Host.Watch(ctx, func(c core.HostChanged) {
				select {
				case l.events <- c:
				case <-ctx.Done():
				}
			})
			if err != nil && ctx.Err() == nil {
				failed <- fmt.Errorf("watching the host: %w", err)
			}
		})
	}
	if k, ok := l.cfg.Host.(core.Keeper); ok {
		wg.Go(func() {
			err := k.Keep(ctx, func(e core.Emit) { l.cfg.Observer.Emit(l.cfg.Host.Now(), l.cfg.Shard, e) })
			if err != nil && ctx.Err() == nil {
				failed <- err
			}
		})
	}
	applied := make(chan struct{})
	go func() { defer close(applied); l.applier() }()
	close(l.ready)
	err = l.run(ctx, pending, failed)
	cancel()
	close(l.rounds)
	<-applied // its answers leave by the ports
	for _, p := range l.ports {
		p.Close()
	}
	wg.Wait()
	return err
}

// run is the machine's goroutine.
func (l *Loop) run(ctx context.Context, pending []core.Event, failed <-chan error) error {
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	var gathering []Group
	rounds := l.rounds
	add := func(ev core.Event) {
		if g := l.handle(ev); len(g) > 0 {
			gathering = append(gathering, g)
		}
	}
	for _, ev := range pending {
		add(ev)
	}
	for {
		l.arm(timer)
		out, packets := rounds, l.packets
		if len(gathering) == 0 {
			out = nil // a nil channel is never chosen
		}
		if len(gathering) >= maxGathering {
			packets = nil
		}
		select {
		case <-ctx.Done():
			if len(gathering) > 0 {
				rounds <- gathering // what the machine decided is carried out
			}
			return nil
		case err := <-failed:
			return err
		case out <- gathering:
			gathering = nil
		case ev := <-l.events:
			add(ev)
			for n := 1; n < MaxEvents && len(l.events) > 0; n++ {
				add(<-l.events)
			}
		case b := <-packets:
			for n := 0; ; {
				for i := range b.n {
					m := decode(b.kind, &b.pkts[i])
					if m.Err != nil {
						l.refuse(b.kind, &b.pkts[i], m.Err)
					}
					add(m)
				}
				n += b.n
				batches.Put(b)
				if n >= MaxEvents || len(l.packets) == 0 {
					break
				}
				b = <-l.packets
			}
		case done := <-l.results:
			for _, ev := range done {
				add(ev)
			}
		case <-timer.C:
			if at, ok := l.cfg.Machine.Deadline(); ok {
				l.cfg.Observer.LoopLag(l.cfg.Shard, max(l.cfg.Host.Now().Boot-at, 0))
			}
			add(core.Tick{})
		}
	}
}

// arm sets the timer to the machine's deadline.
func (l *Loop) arm(timer *time.Timer) {
	at, ok := l.cfg.Machine.Deadline()
	if !ok {
		timer.Stop()
		return
	}
	timer.Reset(max(at-l.cfg.Host.Now().Boot, 0))
}

// handle gives the machine one event, serves what needs no I/O, and returns the rest.
func (l *Loop) handle(ev core.Event) Group {
	now := l.cfg.Host.Now()
	if m, ok := ev.(core.Message); ok {
		l.cfg.Observer.Message(now, l.cfg.Shard, "in", m.Path, m.Body, m.Err)
	}
	effects := l.cfg.Machine.Handle(now, ev, nil)
	rest := effects[:0]
	for _, e := range effects {
		switch e := e.(type) {
		case core.Emit:
			l.cfg.Observer.Emit(now, l.cfg.Shard, e)
		case core.Reply:
			l.reply(e)
		case core.Ask:
			if _, counters := e.Body.(core.CountSessions); counters || l.cfg.Answer == nil {
				l.offer(Counted(l.cfg.Data, e))
			} else {
				l.ask(e)
			}
		case core.Tell:
			l.offer(core.Told{From: l.cfg.Shard, Body: e.Body})
		case core.Send:
			l.cfg.Observer.Message(now, l.cfg.Shard, "out", e.Path, e.Body, nil)
			rest = append(rest, e)
		default:
			rest = append(rest, e)
		}
	}
	return rest
}

func (l *Loop) reply(r core.Reply) {
	l.mu.Lock()
	answer := l.waiting[r.Ref]
	delete(l.waiting, r.Ref)
	l.mu.Unlock()
	if answer != nil {
		answer <- r
	}
}

// offer queues an event that may be lost when too many wait.
func (l *Loop) offer(ev core.Event) {
	select {
	case l.events <- ev:
	default:
	}
}

// applier is the goroutine that does the I/O of the rounds.
func (l *Loop) applier() {
	// The effects of a machine that ends are still carried out: an answered request must be durable.
	ctx := context.Background()
	flush := time.NewTicker(flushEvery)
	defer flush.Stop()
	for {
		select {
		case round, ok := <-l.rounds:
			if !ok {
				l.flush(ctx)
				return
			}
			if done := l.apply.Apply(ctx, round); len(done) > 0 {
				l.report(done)
			}
		case <-flush.C:
			l.flush(ctx)
		}
	}
}

func (l *Loop) flush(ctx context.Context) {
	if err := l.apply.Flush(ctx); err != nil {
		l.report([]core.Event{core.Done{Err: fmt.Errorf("store: %w", err)}})
	}
}

// report brings results back. It must not wait for the machine, which may wait for the applier: a full channel makes
// room by merging.
func (l *Loop) report(done []core.Event) {
	for {
		select {
		case l.results <- done:
			return
		default:
		}
		select {
		case older := <-l.results:
			done = append(older, done...)
		default:
		}
	}
}

func (l *Loop) write(kind string, pkts []core.Packet) error {
	p := l.ports[kind]
	if p == nil && kind == "access" {
		p = l.ports["links"] // a node's frames
	}
	if p == nil {
		return fmt.Errorf("no %s port is open", kind)
	}
	_, err := p.Write(pkts)
	return err
}

// read brings a port's packets to the machine.
func (l *Loop) read(ctx context.Context, kind string, port core.Port, failed chan<- error) {
	for {
		b := batches.Get().(*batch)
		b.kind = kind
		n, err := port.Read(b.pkts[:])
		if err != nil {
			if ctx.Err() == nil && !errors.Is(err, net.ErrClosed) {
				failed <- fmt.Errorf("port %s: %w", kind, err)
			}
			return
		}
		b.n = n
		select {
		case l.packets <- b:
		case <-ctx.Done():
			return
		}
	}
}

// Refuser is a port that can tell the sender of a message at which octet it could not be read: ICMPv6 Parameter Problem, code
// 0 (RFC 6275 9.2). It must not block, and limits by itself how often it does so.
type Refuser interface {
	Refuse(p *core.Packet, off int) error
}

// refuse answers a message that its RFC wants answered so.
func (l *Loop) refuse(kind string, p *core.Packet, err error) {
	var bad *wire.Error
	if r, ok := l.ports[kind].(Refuser); ok && errors.As(err, &bad) && bad.ParameterProblem {
		// An answer that cannot be sent is lost, as any may be; the machine counts the message.
		_ = r.Refuse(p, bad.Off)
	}
}

// decode makes an event of a packet. A decode error is an event too.
func decode(kind string, p *core.Packet) core.Message {
	m := core.Message{
		Path: core.Path{If: p.If, Local: p.Dst, Remote: p.Src, Home: p.SrcHome, Own: p.DstHome, Outer: p.Outer, Auth: p.Auth},
		Raw:  p.B,
	}
	switch kind {
	case "mh":
		local, remote := ends(&m.Path)
		if p.Proto == ip.ICMPv6 {
			m.Body, m.Err = decodeICMP(p.B, remote, local)
			break
		}
		msg, err := mobility.Parse(p.B, remote, local)
		if msg != nil {
			m.Body = msg
		}
		m.Err = err
	case "access", "links":
		f, err := access.Decode(p.B)
		if f != nil {
			m.Body = f
		}
		m.Err = err
	default:
		panic("loop: no decoder for port kind " + kind)
	}
	return m
}

// decodeICMP reads an echo, or what RFC 6275 6.5 to 6.8 have to find home agents and prefixes.
func decodeICMP(b []byte, src, dst netip.Addr) (any, error) {
	if len(b) > 0 && b[0] >= nd.TypeHomeAgentAddressDiscoveryRequest && b[0] <= nd.TypeMobilePrefixAdvertisement {
		m, err := nd.Parse(b, nd.Envelope{Src: src, Dst: dst})
		if err != nil {
			return nil, err
		}
		return m, nil
	}
	echo, err := ip.ParseEcho(b, src, dst)
	if err != nil {
		return nil, err
	}
	return echo, nil
}

// Decode is the daemon's way from a packet to an event, for simulations.
func Decode(kind string, p *core.Packet) core.Event { return decode(kind, p) }

// Counted answers an Ask for counters; other questions it refuses.
func Counted(data core.Dataplane, e core.Ask) core.Answer {
	ids, ok := e.Body.(core.CountSessions)
	if !ok || data == nil {
		return core.Answer{Ref: e.Ref, Err: errors.ErrUnsupported}
	}
	into := make([]core.Counter, len(ids))
	if err := data.Counters(ids, into); err != nil {
		return core.Answer{Ref: e.Ref, Err: err}
	}
	return core.Answer{Ref: e.Ref, Body: into}
}
