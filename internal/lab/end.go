package lab

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"kedge/internal/core"
)

// endings checks what must hold when all steps are over, while everything still runs.
func (r *Run) endings(ctx context.Context) error {
	r.stopProbes(r.order)
	r.hosts = r.hostResults()
	if r.opt.Live != nil {
		r.opt.Live.Close() // the last picture is that of the network at work
	}
	for i := range r.sc.End.Conds {
		c := &r.sc.End.Conds[i]
		if ok, why := r.holds(ctx, c); !ok {
			return fmt.Errorf("%s:%d: expect-at-end: %s", r.sc.File, c.Line, why)
		}
	}
	for _, n := range r.nodes {
		if err := r.healthy(n); err != nil {
			return err
		}
	}
	if r.sc.End.Leaks {
		return r.leaks(ctx)
	}
	return nil
}

// healthy reports a daemon that ended although nobody wanted it to, and clients that did.
func (r *Run) healthy(n *node) error {
	switch {
	case n.daemon != nil && n.daemon.proc != nil && !n.daemon.running() && !n.daemon.killed:
		return fmt.Errorf("%s ended: %v\n%s", n.name, n.daemon.proc.err, tail(n.daemon.log, 12))
	case n.host != nil:
		return n.host.check()
	case n.router != nil:
		return n.router.check()
	}
	return nil
}

// leaksWithin is how long sessions may take to go after every host was detached: MinDelayBeforeBCEDelete and a lifetime.
const leaksWithin = 15 * time.Second

// leaks takes every host away and waits until neither gateways nor anchors know any session.
func (r *Run) leaks(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), leaksWithin+endWithin+5*time.Second) // not part of the budget
	defer cancel()
	r.say("all hosts leave")
	for _, n := range r.nodes {
		if n.mobile() && n.daemon.running() && !n.daemon.stopped {
			n.daemon.killed = true
			if err := n.daemon.end(ctx); err != nil {
				return err
			}
		}
	}
	for _, n := range r.nodes {
		if n.host != nil && n.host.on {
			if err := n.host.powerOff(); err != nil {
				return err
			}
		}
	}
	for _, g := range r.nodes {
		if g.daemon == nil || r.anchors[g.name] || r.correspondents[g.name] || g.mobile() || !g.daemon.running() {
			continue
		}
		if err := r.detachAll(ctx, g); err != nil {
			return err
		}
	}
	var left []string
	err := poll(ctx, leaksWithin, func() bool {
		left = nil
		for _, n := range r.nodes {
			if n.daemon == nil || !n.daemon.running() {
				continue
			}
			bs, err := n.daemon.bindings(ctx)
			if err != nil {
				left = append(left, n.name+": "+err.Error())
			}
			for _, b := range bs {
				left = append(left, fmt.Sprintf("%s: %s %s", n.name, b.ID, b.State))
			}
		}
		if len(left) > 0 {
			_ = r.pause(ctx, 100*time.Millisecond)
		}
		return len(left) == 0
	})
	if err != nil {
		return fmt.Errorf("leak: sessions are left %v after the last host went: %s", leaksWithin, strings.Join(left, "; "))
	}
	return nil
}

// detachAll tells a gateway that each host it knows is gone.
func (r *Run) detachAll(ctx context.Context, g *node) error {
	bs, err := g.daemon.bindings(ctx)
	if err != nil {
		return err
	}
	for _, b := range bs {
		mac, err := core.ParseMAC(b.LinkLayer)
		if err != nil {
			return fmt.Errorf("%s: binding of %s has link-layer id %q", g.name, b.ID, b.LinkLayer)
		}
		if err := g.daemon.client.Detach(ctx, core.Detach{If: b.Interface, MAC: mac}); err != nil {
			r.say("%s: detach %s: %v", g.name, b.ID, err) // it may be gone already; what counts is that none is left
		}
	}
	return nil
}

// shutdown ends traffic, hosts and daemons. It fails if a daemon does not end well, or leaves its device behind.
func (r *Run) shutdown() error {
	var errs []error
	r.stopProbes(r.order)
	for _, n := range r.nodes {
		if n.host != nil {
			n.host.close()
		}
		if n.router != nil {
			n.router.close()
		}
	}
	for _, p := range r.others {
		p.kill()
	}
	for _, s := range r.webs {
		errs = append(errs, s.Close())
	}
	// Gateways first: an anchor that is gone would make them complain.
	for _, anchors := range []bool{false, true} {
		for _, n := range r.nodes {
			d := n.daemon
			if d == nil || r.anchors[n.name] != anchors {
				continue
			}
			if d.running() {
				d.killed = true
				if err := d.proc.interrupt(10 * time.Second); err != nil {
					errs = append(errs, fmt.Errorf("%s: end: %w\n%s", n.name, err, tail(d.log, 12)))
				}
			}
			if d.client != nil {
				d.client.Close()
			}
			if err := crashed(d.log); err != nil {
				errs = append(errs, fmt.Errorf("%s: %w", n.name, err))
			}
			if l, err := n.ns.Link("kedge0"); err == nil {
				errs = append(errs, fmt.Errorf("leak: %s left its device %s behind", n.name, l.Attrs().Name))
			}
		}
	}
	return errors.Join(errs...)
}

// crashed looks for the traces of a crash in a log.
func crashed(log string) error {
	b, err := os.ReadFile(log)
	if err != nil {
		return nil // it never started
	}
	for line := range strings.Lines(string(b)) {
		for _, bad := range []string{"panic: ", "fatal error: ", "WARNING: DATA RACE"} {
			if strings.HasPrefix(line, bad) {
				return fmt.Errorf("crashed: %s (see %s)", strings.TrimSpace(line), log)
			}
		}
	}
	return nil
}

// artifacts closes the captures and writes what a run leaves for people.
func (r *Run) artifacts() error {
	var errs []error
	for _, l := range r.links {
		if l.user != nil {
			errs = append(errs, l.user.Close())
		}
	}
	for _, c := range r.captures {
		errs = append(errs, c.close())
	}
	errs = append(errs, r.writeKeys())
	if len(r.captures) > 0 {
		errs = append(errs, merge(filepath.Join(r.dir, "all.pcapng"), r.captures))
	}
	r.recMu.Lock()
	defer r.recMu.Unlock()
	if r.diagram != nil {
		errs = append(errs,
			os.WriteFile(filepath.Join(r.dir, "ladder.txt"), []byte(r.diagram.Text()), 0o644),
			os.WriteFile(filepath.Join(r.dir, "ladder.svg"), []byte(r.diagram.SVG()), 0o644))
	}
	errs = append(errs, r.joinEvents())
	return errors.Join(errs...)
}

// joinEvents makes one events.jsonl of all daemons' events, in order of the daemons; each line names its own.
func (r *Run) joinEvents() error {
	var all []byte
	for _, n := range r.nodes {
		if n.daemon == nil {
			continue
		}
		b, err := os.ReadFile(filepath.Join(r.dir, n.name+".events.jsonl"))
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
		all = append(all, b...)
	}
	lines := strings.SplitAfter(string(all), "\n")
	// Lines begin with the boot time, the same clock for all: a stable order of the whole network.
	slices.SortStableFunc(lines, func(a, b string) int { return int(bootTime(a) - bootTime(b)) })
	return os.WriteFile(filepath.Join(r.dir, "events.jsonl"), []byte(strings.Join(lines, "")), 0o644)
}

func bootTime(line string) (t int64) {
	_, rest, ok := strings.Cut(line, `"t_boot_ns":`)
	if !ok {
		return 0
	}
	_, _ = fmt.Sscanf(rest, "%d", &t)
	return t
}

// teardown removes everything of the run from the machine. It is safe to call at any time, also after a failed build.
func (r *Run) teardown() error {
	var errs []error
	for _, n := range r.nodes {
		if n.host != nil {
			n.host.close()
		}
		if n.router != nil {
			n.router.close()
		}
		if n.daemon != nil && n.daemon.running() {
			n.daemon.proc.signal(9)
		}
		errs = append(errs, n.ns.Close())
	}
	if r.wiring != nil {
		errs = append(errs, r.wiring.Close())
	}
	return errors.Join(append(errs, r.claim.release())...)
}
