package lab

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"syscall"
	"time"

	"kedge/internal/api"
	"kedge/internal/core"
)

// daemon is one `kedge run` in a namespace.
type daemon struct {
	n                          *node
	config, socket, store, log string
	proc                       *process
	client                     *api.Client
	stopped                    bool // by SIGSTOP
	killed                     bool // its end was wanted
}

// readyWithin is how long a daemon may take until it answers.
const readyWithin = 10 * time.Second

// startDaemon starts the process; ready waits until it answers.
func (r *Run) startDaemon(n *node) error {
	d := n.daemon
	p, err := start(n.ns, n.name, d.log, r.opt.Binary, "run", d.config)
	if err != nil {
		return err
	}
	d.proc, d.killed, d.stopped = p, false, false
	if d.client == nil {
		d.client = api.NewClient(d.socket)
	}
	return nil
}

func (d *daemon) ready(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, readyWithin)
	defer cancel()
	t := time.NewTicker(10 * time.Millisecond)
	defer t.Stop()
	for {
		err := d.client.Health(ctx)
		if err == nil {
			return nil
		}
		select {
		case <-d.proc.done:
			return fmt.Errorf("%s ended at its start: %v\n%s", d.n.name, d.proc.err, tail(d.log, 12))
		case <-ctx.Done():
			return fmt.Errorf("%s does not answer: %w\n%s", d.n.name, err, tail(d.log, 12))
		case <-t.C:
		}
	}
}

func (d *daemon) running() bool { return d.proc != nil && d.proc.running() }

// fault does to a daemon what a scenario says.
func (r *Run) fault(ctx context.Context, d *daemon, do string) error {
	if do != "start" && !d.running() {
		return fmt.Errorf("%s does not run", d.n.name)
	}
	switch do {
	case "kill":
		d.killed = true
		d.proc.kill()
		return nil
	case "quit":
		d.killed = true
		return d.proc.stop(5 * time.Second)
	case "end":
		d.killed = true
		return d.end(ctx)
	case "switch":
		return d.switchAway(ctx)
	case "stop":
		d.stopped = true
		d.proc.signal(syscall.SIGSTOP)
		return nil
	case "cont":
		d.stopped = false
		d.proc.signal(syscall.SIGCONT)
		return nil
	case "restart":
		d.killed = true
		if err := d.proc.stop(5 * time.Second); err != nil {
			return err
		}
	case "lost-store":
		d.killed = true
		d.proc.kill()
		if err := os.Remove(d.store); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
	case "start":
		if d.running() {
			return fmt.Errorf("%s runs already", d.n.name)
		}
	}
	if err := r.startDaemon(d.n); err != nil {
		return err
	}
	return d.ready(ctx)
}

// end does as a user does who runs "kedge stop": a mobile node deregisters and takes back what it has set.
func (d *daemon) end(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, endWithin)
	defer cancel()
	if err := d.client.Stop(ctx); err != nil {
		return fmt.Errorf("stop %s: %w", d.n.name, err)
	}
	select {
	case <-d.proc.done:
		return d.proc.err
	case <-ctx.Done():
		return fmt.Errorf("%s said that it has stopped, and runs on", d.n.name)
	}
}

// switchAway does as an operator does who runs "kedge switch": all nodes are sent to other home agents.
func (d *daemon) switchAway(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	if _, err := d.client.Switch(ctx, core.Switch{Rate: 100}); err != nil {
		return fmt.Errorf("switch %s: %w", d.n.name, err)
	}
	return nil
}

// endWithin is how long a daemon may take to end: a deregistration may need repetitions.
const endWithin = 20 * time.Second

// bindings of a daemon; none if it does not run.
func (d *daemon) bindings(ctx context.Context) ([]api.Binding, error) {
	if !d.running() || d.stopped {
		return nil, nil
	}
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	b, err := d.client.Bindings(ctx, "", 0)
	if err != nil {
		return nil, err
	}
	return b.Bindings, nil
}

func (d *daemon) status(ctx context.Context) (core.Status, error) {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	s, err := d.client.Status(ctx)
	if err != nil {
		return core.Status{}, err
	}
	if len(s.Roles) == 0 {
		return core.Status{}, fmt.Errorf("%s has no role", d.n.name)
	}
	return s.Roles[0], nil
}

// metric sums the samples of a name whose labels are these.
func (d *daemon) metric(ctx context.Context, name string, labels map[string]string) (float64, error) {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	text, err := d.client.Metrics(ctx)
	if err != nil {
		return 0, err
	}
	return sumMetric(text, name, labels)
}

// sumMetric reads the Prometheus text format as far as counters and gauges need it.
func sumMetric(text, name string, labels map[string]string) (float64, error) {
	sum := 0.0
	for line := range strings.Lines(text) {
		rest, ok := strings.CutPrefix(strings.TrimSpace(line), name)
		if !ok || rest == "" || rest[0] != '{' && rest[0] != ' ' {
			continue
		}
		end := 0
		if rest[0] == '{' {
			end = strings.LastIndexByte(rest, '}') + 1
		}
		match := true
		for k, v := range labels {
			want := k + "=" + strconv.Quote(v)
			if !strings.Contains(rest[:end], "{"+want) && !strings.Contains(rest[:end], ","+want) {
				match = false
			}
		}
		if !match {
			continue
		}
		f := strings.Fields(rest[end:])
		if len(f) == 0 {
			return 0, fmt.Errorf("metric line %q has no value", line)
		}
		v, err := strconv.ParseFloat(f[0], 64)
		if err != nil {
			return 0, fmt.Errorf("metric line %q: %w", line, err)
		}
		sum += v
	}
	return sum, nil
}
