package loop

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"time"

	"kedge/internal/core"
	"kedge/wire/ip"
	"kedge/wire/mobility"
	"kedge/wire/nd"
)

// Group is what one Handle wants, in order.
type Group []core.Effect

// Applier turns effects into I/O. Apply is synchronous and single-threaded: the daemon calls it from a goroutine of its
// own, a simulation directly.
type Applier struct {
	Store core.Store // nil: nothing is durable
	Token uint64     // of the lease that fences commits
	Data  core.Dataplane
	Host  core.Host
	// Write sends packets on the port of a kind: "mh" or "access".
	Write func(kind string, pkts []core.Packet) error

	// Security moves the tunnels of security associations; nil: there are none.
	Security Security

	// Committed is told how long a commit took; may be nil.
	Committed func(took time.Duration)

	lazy   map[string][]byte // newest written-behind records, by key
	prompt bool              // some of them are not to wait for the next flush
	syncing
}

// Security is what core.Endpoint is for; ipsec.Engine implements it. It must not block.
type Security interface {
	UpdateEndpoint(peer string, home, local, remote netip.Addr) error
}

// syncing collects the forwarding of a restart, so that the data plane can adopt what it already has.
type syncing struct {
	on  bool
	ops []core.Op
}

// Apply carries out the groups of one round: one commit, then forwarding and host changes, then the messages, then the
// prompt records. It returns the results that were asked for. A message whose group failed before it stays unsent.
func (a *Applier) Apply(ctx context.Context, round []Group) []core.Event {
	var done []core.Event
	failed := make([]error, len(round))
	a.commit(ctx, round, failed)
	done = a.forward(round, failed, done)
	done = a.change(round, failed, done)
	a.secure(round, failed)
	done = a.send(round, failed, done)
	for i, g := range round {
		if failed[i] != nil && !tells(g) {
			done = append(done, core.Done{Err: failed[i]})
		}
	}
	if a.prompt {
		if err := a.Flush(ctx); err != nil {
			done = append(done, core.Done{Err: fmt.Errorf("store: %w", err)}) // the next flush tries again
		}
		a.prompt = false
	}
	return done
}

// tells reports whether a group has an effect whose result says that the group failed.
func tells(g Group) bool {
	for _, e := range g {
		switch e := e.(type) {
		case core.Send, core.Change:
			return true
		case core.Forward:
			if e.Ref != 0 {
				return true
			}
		}
	}
	return false
}

// commit writes the strict records of the round at once. A strict record overtakes an older written-behind one of its key; if
// it cannot be written, that one still counts.
func (a *Applier) commit(ctx context.Context, round []Group, failed []error) {
	var batch []core.Persist
	overtaken := make(map[string][]byte)
	for _, g := range round {
		for _, e := range g {
			p, ok := e.(core.Persist)
			switch {
			case !ok || a.Store == nil:
			case p.Lazy:
				if a.lazy == nil {
					a.lazy = make(map[string][]byte)
				}
				a.lazy[string(p.Key)] = p.Val
				a.prompt = a.prompt || p.Prompt
			default:
				if older, ok := a.lazy[string(p.Key)]; ok {
					overtaken[string(p.Key)] = older
					delete(a.lazy, string(p.Key))
				}
				batch = append(batch, p)
			}
		}
	}
	if len(batch) == 0 {
		return
	}
	if err := a.write(ctx, batch); err != nil {
		for k, v := range overtaken {
			if _, newer := a.lazy[k]; !newer {
				a.lazy[k] = v
			}
		}
		for i, g := range round {
			for _, e := range g {
				if p, ok := e.(core.Persist); ok && !p.Lazy {
					failed[i] = fmt.Errorf("store: %w", err)
				}
			}
		}
	}
}

func (a *Applier) write(ctx context.Context, batch []core.Persist) error {
	begin := time.Now()
	_, err := a.Store.Commit(ctx, a.Token, batch)
	if a.Committed != nil {
		a.Committed(time.Since(begin))
	}
	return err
}

// Flush writes the records that no message waits for. The daemon calls it once a second and at its end.
func (a *Applier) Flush(ctx context.Context) error {
	if a.Store == nil || len(a.lazy) == 0 {
		return nil
	}
	batch := make([]core.Persist, 0, len(a.lazy))
	for k, v := range a.lazy {
		batch = append(batch, core.Persist{Key: []byte(k), Val: v, Lazy: true})
	}
	if err := a.write(ctx, batch); err != nil {
		return err // kept for the next try
	}
	clear(a.lazy)
	return nil
}

// forward applies the operations of all groups in one update; the group whose operation failed stops there, the others go on.
func (a *Applier) forward(round []Group, failed []error, done []core.Event) []core.Event {
	var ops []core.Op
	var owner []int
	for i, g := range round {
		if failed[i] != nil {
			continue
		}
		for _, e := range g {
			if f, ok := e.(core.Forward); ok {
				ops = append(ops, f.Ops...)
				for range f.Ops {
					owner = append(owner, i)
				}
			}
		}
	}
	if a.syncing.on {
		a.syncing.ops = append(a.syncing.ops, ops...)
	} else {
		for len(ops) > 0 && a.Data != nil {
			err := a.Data.Update(ops)
			if err == nil {
				break
			}
			at := 0
			var oe *core.OpError
			if errors.As(err, &oe) && oe.Index < len(ops) {
				at = oe.Index
			}
			bad := owner[at]
			failed[bad] = fmt.Errorf("forwarding: %w", err)
			for at < len(ops) && owner[at] == bad {
				at++
			}
			ops, owner = ops[at:], owner[at:]
		}
	}
	for i, g := range round {
		for _, e := range g {
			if f, ok := e.(core.Forward); ok && f.Ref != 0 {
				done = append(done, core.Done{Ref: f.Ref, Err: failed[i]})
			}
		}
	}
	return done
}

func (a *Applier) change(round []Group, failed []error, done []core.Event) []core.Event {
	for i, g := range round {
		for _, e := range g {
			c, ok := e.(core.Change)
			if !ok {
				continue
			}
			err := failed[i]
			if err == nil && a.Host != nil {
				err = a.Host.Apply(c.Ops)
			}
			if c.Ref != 0 || err != nil {
				done = append(done, core.Done{Ref: c.Ref, Err: err})
			}
		}
	}
	return done
}

// secure moves tunnels, of the groups that did not fail, and ends those of all: whoever the machine took a tunnel from has none, also
// while the rest of that is tried again. One that cannot be moved would leave what is sent behind it in the clear or unread, so the
// group fails.
func (a *Applier) secure(round []Group, failed []error) {
	for i, g := range round {
		for _, e := range g {
			if p, ok := e.(core.Endpoint); ok && a.Security != nil && (failed[i] == nil || !p.Remote.IsValid()) {
				if err := a.Security.UpdateEndpoint(p.Peer, p.Home, p.Local, p.Remote); err != nil && failed[i] == nil {
					failed[i] = fmt.Errorf("security: %w", err)
				}
			}
		}
	}
}

// send builds and writes the messages of the groups that did not fail.
func (a *Applier) send(round []Group, failed []error, done []core.Event) []core.Event {
	var pkts [2][]core.Packet // by port kind
	for i, g := range round {
		for _, e := range g {
			s, ok := e.(core.Send)
			if !ok {
				continue
			}
			err := failed[i]
			if err == nil {
				var p core.Packet
				var port int
				if p, port, err = encode(s); err == nil {
					pkts[port] = append(pkts[port], p)
				}
			}
			if s.Ref != 0 || err != nil {
				done = append(done, core.Done{Ref: s.Ref, Err: err})
			}
		}
	}
	for port, batch := range pkts {
		if len(batch) == 0 {
			continue
		}
		if err := a.Write(portKinds[port], batch); err != nil {
			done = append(done, core.Done{Err: err})
		}
	}
	return done
}

// portKinds are the kinds of ports that a message can leave by; encode gives the index.
var portKinds = [2]string{"mh", "access"}

// ends are the addresses of a checksum's pseudo header: home addresses count, where the packet has them (RFC 6275 6.1.1).
func ends(p *core.Path) (local, remote netip.Addr) {
	local, remote = p.Local.Addr(), p.Remote.Addr()
	if p.Own.IsValid() {
		local = p.Own
	}
	if p.Home.IsValid() {
		remote = p.Home
	}
	return local, remote
}

func outgoing(p *core.Path, proto uint8, b []byte) core.Packet {
	return core.Packet{If: p.If, Src: p.Local, Dst: p.Remote, SrcHome: p.Own, DstHome: p.Home, Proto: proto, Outer: p.Outer, Auth: p.Auth, B: b}
}

// encode writes a message's bytes.
func encode(s core.Send) (core.Packet, int, error) {
	switch m := s.Body.(type) {
	case mobility.Message:
		src, dst := ends(&s.Path)
		b, err := mobility.Append(make([]byte, 0, 256), m, src, dst)
		return outgoing(&s.Path, 0, b), 0, err
	case *ip.Echo:
		src, dst := ends(&s.Path)
		return outgoing(&s.Path, ip.ICMPv6, m.Append(make([]byte, 0, 64), src, dst)), 0, nil
	case nd.Message:
		src, dst := ends(&s.Path)
		b, err := nd.Append(make([]byte, 0, 256), m, src, dst)
		return outgoing(&s.Path, ip.ICMPv6, b), 0, err
	case core.Appender:
		b, err := m.Append(make([]byte, 0, 512))
		return core.Packet{If: s.Path.If, B: b}, 1, err
	}
	return core.Packet{}, 0, fmt.Errorf("no builder for a message of type %T", s.Body)
}

// Restore gives the machine its records before anything else happens, lets the data plane adopt the forwarding that comes
// out of them, and returns the results. Handle must be the machine's, with the effects as one group.
func (a *Applier) Restore(ctx context.Context, anchor string, handle func(core.Event) Group) ([]core.Event, error) {
	a.syncing = syncing{on: true}
	var done []core.Event
	if a.Store != nil {
		for p, err := range a.Store.Load(ctx, anchor) {
			if err != nil {
				return nil, fmt.Errorf("store: %w", err)
			}
			if g := handle(core.Restored{Key: p.Key, Val: p.Val}); len(g) > 0 {
				done = append(done, a.Apply(ctx, []Group{g})...)
			}
		}
	}
	if g := handle(core.Restored{Last: true}); len(g) > 0 {
		done = append(done, a.Apply(ctx, []Group{g})...)
	}
	ops := a.syncing.ops
	a.syncing = syncing{}
	if a.Data == nil {
		return done, nil
	}
	return done, a.Data.Sync(func(yield func(core.Op) bool) {
		for _, op := range ops {
			if !yield(op) {
				return
			}
		}
	})
}

// flushEvery is how long a written-behind record may wait.
const flushEvery = time.Second
