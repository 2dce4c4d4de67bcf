package lab

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"syscall"
	"time"

	"kedge/internal/core"
	"kedge/internal/lab/probe"
	"kedge/internal/lab/scenario"
)

// do carries out steps in order; the error names the line of the step that failed.
func (r *Run) do(ctx context.Context, steps []scenario.Step) error {
	for i := range steps {
		s := &steps[i]
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if s.Only != "" && s.Only != r.plane {
			continue
		}
		begin := time.Now()
		err := r.step(ctx, s)
		took := time.Since(begin)
		if len(r.steps) < maxStepResults {
			r.steps = append(r.steps, StepResult{Line: s.Line, What: stepName(s), Seconds: took.Seconds()})
		}
		if err != nil {
			if ctx.Err() != nil {
				err = fmt.Errorf("%w (%v)", context.Cause(ctx), err)
			}
			return fmt.Errorf("%s:%d: %s: %w", r.sc.File, s.Line, stepName(s), err)
		}
		if s.Kind == "wait" || s.Kind == "expect" {
			r.say("%s: ok after %v", stepName(s), took.Round(time.Millisecond))
		}
	}
	return nil
}

// maxStepResults bounds the list of steps in a result: repetitions can be many.
const maxStepResults = 2000

func (r *Run) step(ctx context.Context, s *scenario.Step) error {
	switch s.Kind {
	case "wait", "expect":
		return r.check(ctx, s.Check)
	case "say":
		r.note("%s", s.Say)
		return nil
	case "start":
		for i := range s.Start {
			if err := r.startProbe(&s.Start[i]); err != nil {
				return err
			}
		}
		return nil
	case "stop":
		r.stopProbes(s.Stop)
		for _, name := range s.Stop {
			st := statsOf(r.probes[name])
			r.say("%s: sent %d, lost %d, doubled %d, longest gap %.0f ms, resets %d", name, st.Sent, st.Lost, st.Duplicates, st.GapMS, st.Resets)
		}
		return nil
	case "move":
		return r.move(ctx, s.Move)
	case "fault":
		return r.faultStep(ctx, s.Fault)
	case "attach", "detach":
		return r.attach(ctx, s.Attach, s.Kind == "detach")
	case "send":
		return r.send(s.Send)
	case "network":
		return r.network(s.Network)
	case "row":
		return r.row(s.Row)
	case "repeat":
		for range s.Repeat.Times {
			if err := r.do(ctx, s.Repeat.Steps); err != nil {
				return err
			}
		}
		return nil
	}
	return fmt.Errorf("unknown step %q", s.Kind)
}

// stopProbes stops several at once: each waits a moment for stragglers.
func (r *Run) stopProbes(names []string) {
	var wg sync.WaitGroup
	for _, name := range names {
		wg.Go(r.probes[name].Stop)
	}
	wg.Wait()
	if slices.ContainsFunc(names, func(n string) bool { return r.probes[n].Spec.Kind == "bulk" }) {
		r.hush(false)
	}
}

// check waits for conditions, or asks once.
func (r *Run) check(ctx context.Context, c *scenario.Check) error {
	every := 20 * time.Millisecond
	for _, x := range c.Conds {
		if x.Kind == "capture" {
			every = 500 * time.Millisecond // each look costs a tshark
		}
	}
	end := time.Now().Add(c.Within)
	for {
		why := ""
		for i := range c.Conds {
			ok, found := r.holds(ctx, &c.Conds[i])
			if !ok {
				why = found
				break
			}
		}
		if why == "" {
			return nil
		}
		if c.Within == 0 || time.Now().After(end) {
			return errors.New(why)
		}
		if err := r.pause(ctx, every); err != nil {
			return errors.New(why)
		}
	}
}

func (r *Run) startProbe(p *scenario.Probe) error {
	from := r.node(p.From)
	if from == nil {
		return fmt.Errorf("%s is a crowd: probes start at one node", p.From)
	}
	s := probe.Spec{Kind: p.Kind, From: from.ns, Every: p.Every, Size: p.Size, Src: r.addrNow(from, p.Family)}
	to := r.node(p.To)
	if to != nil {
		s.To, s.Dst = to.ns, r.addrNow(to, p.Family)
		if p.Iface != "" && to.host != nil {
			s.Dst = netip.Addr{}
			if have := to.host.usableAddrs(p.Iface, p.Family); len(have) > 0 {
				s.Dst = have[0].Addr()
			}
		}
	} else {
		a, err := r.address(p.To)
		if err != nil {
			return err
		}
		s.Dst = a
	}
	if !s.Dst.IsValid() || !s.Src.IsValid() {
		return fmt.Errorf("probe %s: %s or %s has no %s address now", p.Name, p.From, p.To, p.Family)
	}
	if to == nil && p.Kind != "ping" {
		return fmt.Errorf("probe %s: %s has no node that could receive", p.Name, p.To)
	}
	if p.Any {
		s.Src = netip.Addr{}
	}
	r.watchSetup(s.Src, s.Dst)
	if p.Kind == "bulk" {
		r.hush(true)
	}
	started, err := probe.Start(s)
	if err != nil {
		return fmt.Errorf("probe %s: %w", p.Name, err)
	}
	r.recMu.Lock()
	r.probes[p.Name] = started
	r.recMu.Unlock()
	r.order = append(r.order, p.Name)
	r.say("%s %s: %s > %s", p.Kind, p.Name, s.Src, s.Dst)
	return nil
}

func (r *Run) faultStep(ctx context.Context, f *scenario.Fault) error {
	l := r.links[f.Link]
	switch f.Do {
	case "drop":
		n := f.Count
		if n == 0 {
			n = -1
		}
		r.note("%s loses %s", f.Link, f.Match)
		stop := l.user.Drop(n, func(b []byte) bool {
			r.recMu.Lock()
			defer r.recMu.Unlock()
			d, ok := r.sas.Decode(f.Link, time.Time{}, b)
			return f.Match == "all" || ok && d.Is(f.Match)
		})
		r.drops[f.Link] = append(r.drops[f.Link], stop)
		return nil
	case "pass":
		for _, stop := range r.drops[f.Link] {
			stop()
		}
		r.drops[f.Link] = nil
		r.note("%s loses nothing any more", f.Link)
		return nil
	}
	for _, n := range r.instances(f.Node) {
		if err := r.faultNode(ctx, n, f); err != nil {
			return err
		}
	}
	return nil
}

func (r *Run) faultNode(ctx context.Context, n *node, f *scenario.Fault) error {
	switch f.Do {
	case "off", "on":
		return r.power(n, f.Iface, f.Do == "on")
	case "renew":
		return n.host.signalClient(syscall.SIGUSR1)
	case "release":
		return n.host.signalClient(syscall.SIGUSR2)
	case "partition", "heal":
		r.note("%s: %s on %s", f.Do, n.name, f.Link)
		return r.partition(n, r.links[f.Link], f.Do == "partition")
	case "unplug", "plug":
		r.note("%s: %s on %s", f.Do, n.name, f.Link)
		return r.unplug(n, f.Link, f.Do == "unplug")
	}
	if f.Do == "flush" {
		r.note("%s: somebody flushes %s", n.name, f.Match)
		return r.flush(ctx, n, f.Match)
	}
	if f.Do == "suspend" {
		r.note("%s: suspended for %v", n.name, f.For)
		return r.suspend(ctx, n, f.For)
	}
	r.note("%s: %s", n.name, f.Do)
	return r.fault(ctx, n.daemon, f.Do)
}

// suspend stops a daemon and the clients beside it for a while, as a machine does that sleeps.
func (r *Run) suspend(ctx context.Context, n *node, d time.Duration) error {
	all := []*process{n.daemon.proc}
	if n.host != nil {
		for _, p := range n.host.clients {
			all = append(all, p)
		}
	}
	n.daemon.stopped = true
	for _, p := range all {
		p.signal(syscall.SIGSTOP)
	}
	// What the kernel forwards by itself sleeps as well: its links carry nothing, though they are up.
	err := r.cut(n, true)
	if err == nil {
		err = r.pause(ctx, d)
	}
	err = errors.Join(err, r.cut(n, false))
	for _, p := range all {
		p.signal(syscall.SIGCONT)
	}
	n.daemon.stopped = false
	r.note("%s: awake", n.name)
	return err
}

// cut keeps all frames from and to a node where it is now, or lets them pass again.
func (r *Run) cut(n *node, cut bool) error {
	var errs []error
	for _, w := range n.wires {
		l := r.links[w.link]
		switch {
		case l == nil:
		case l.user != nil:
			l.user.Cut(l.port[n.name], cut)
		case cut:
			errs = append(errs, r.wiring.Detach(w.port))
		default:
			errs = append(errs, r.wiring.Attach(w.port, l.bridge))
		}
	}
	return errors.Join(errs...)
}

// power switches a host, or one of its interfaces.
func (r *Run) power(n *node, ifname string, on bool) error {
	what, state := n.name, "off"
	if on {
		state = "on"
	}
	if ifname != "" {
		what += " " + ifname
	}
	r.note("%s is switched %s", what, state)
	switch {
	case ifname == "" && on:
		return n.host.powerOn()
	case ifname == "":
		return n.host.powerOff()
	}
	for _, w := range n.wires {
		if w.ifname == ifname && on {
			return n.host.raise(w)
		} else if w.ifname == ifname {
			return n.host.lower(w)
		}
	}
	return fmt.Errorf("%s has no interface %s now", n.name, ifname)
}

// unplug takes the carrier of a node's port on a link away, or gives it back.
func (r *Run) unplug(n *node, link string, off bool) error {
	if r.links[link].user != nil {
		return fmt.Errorf("%s is switched by the lab: only ports of other links can be unplugged", link)
	}
	for i, p := range n.spec.On {
		switch {
		case p.Link == link && off:
			return r.wiring.Down(n.wires[i].port)
		case p.Link == link:
			return r.wiring.Up(n.wires[i].port)
		}
	}
	return nil
}

// partition cuts a node from a link; it keeps its carrier.
func (r *Run) partition(n *node, l *link, cut bool) error {
	if l.user != nil {
		l.user.Cut(l.port[n.name], cut)
		return nil
	}
	for i, p := range n.spec.On {
		if p.Link != l.spec.Name {
			continue
		}
		if cut {
			return r.wiring.Detach(n.wires[i].port)
		}
		return r.wiring.Attach(n.wires[i].port, l.bridge)
	}
	return nil
}

// attach tells a gateway of a host by its API. The call counts as the trigger of a running handover.
func (r *Run) attach(ctx context.Context, a *scenario.Attach, gone bool) error {
	gw := r.node(a.At)
	for _, n := range r.instances(a.Host) {
		ifname := ""
		w := n.wires[0]
		for _, p := range gw.spec.On {
			for _, x := range n.wires {
				if p.Link == x.link {
					ifname, w = p.Iface, x
				}
			}
		}
		if ifname == "" && gone {
			for _, p := range gw.spec.On {
				if r.sc.Link(p.Link).Access {
					ifname = p.Iface
				}
			}
		}
		if ifname == "" {
			return fmt.Errorf("%s is on no access link of %s", n.name, gw.name)
		}
		if gone {
			r.note("API: %s leaves %s", n.name, gw.name)
			if err := gw.daemon.client.Detach(ctx, core.Detach{If: ifname, MAC: w.mac}); err != nil {
				return err
			}
			continue
		}
		c := core.Attach{If: ifname, MAC: w.mac, ID: a.ID}
		if a.Previous != "" {
			c.Previous = r.node(a.Previous).addrOf(false).String()
		}
		r.note("API: %s is at %s", n.name, gw.name)
		r.recMu.Lock()
		for _, h := range r.moving {
			if h.Host == n.name && h.Trigger.IsZero() {
				h.Trigger = time.Now()
			}
		}
		r.recMu.Unlock()
		if err := gw.daemon.client.Attach(ctx, c); err != nil {
			return err
		}
	}
	return nil
}
