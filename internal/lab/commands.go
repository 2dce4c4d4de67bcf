package lab

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"text/tabwriter"
	"time"
)

// Console is where a command writes. ErrFailed after a run means: the results are printed, and not all are good.
type Console struct {
	Out, Err io.Writer
	JSON     bool
}

// ErrFailed is the error of a run with scenarios that failed; what failed is printed already.
var ErrFailed = errors.New("scenarios failed")

func (c Console) json(v any) error {
	enc := json.NewEncoder(c.Out)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", "  ")
	return enc.Encode(v)
}

// RunCommand is `kedge lab run`; the tags are those of kong.
type RunCommand struct {
	Scenario  []string `arg:"" help:"Names from \"kedge lab list\", or files. \"all\" runs all that are not long."`
	Live      bool     `help:"Show a live screen: hosts, where each is, addresses, traffic, handover phases."`
	Out       string   `default:"lab-out" help:"Folder for captures, ladders, events and logs; a sub-folder for each scenario."`
	Parallel  int      `short:"j" default:"1" help:"How many scenarios run at the same time."`
	Dataplane string   `xor:"plane" help:"Data plane back end of all daemons, instead of what the scenarios say."`
	Matrix    bool     `xor:"plane" help:"Run scenarios that say \"matrix: true\" with each data plane back end that this machine can run."`
	Seed      uint64   `help:"Seed of the links' impairments, to repeat a run. Default: random."`
	Quiet     bool     `short:"q" help:"Print results only."`
}

// Do runs the scenarios.
func (c *RunCommand) Do(ctx context.Context, con Console) error {
	type job struct {
		Job
		files func(string) ([]byte, error)
	}
	var jobs []job
	var backends []string
	if c.Matrix {
		var why []string
		if backends, why = Usable(Backends); !con.JSON {
			fmt.Fprintln(con.Out, matrixText(backends, why))
		}
		if len(backends) == 0 {
			return errors.New("this machine can run no data plane back end")
		}
	}
	for _, name := range c.Scenario {
		names := []string{name}
		if name == "all" {
			all, err := All()
			if err != nil {
				return err
			}
			names = nil
			for _, s := range all {
				if !s.Long {
					names = append(names, s.Name)
				}
			}
		}
		for _, n := range names {
			sc, files, err := Find(n)
			if err != nil {
				return err
			}
			for _, j := range Matrix(sc, backends) {
				if c.Dataplane != "" {
					j.Dataplane = c.Dataplane
				}
				jobs = append(jobs, job{j, files})
			}
		}
	}
	results := make([]Result, len(jobs))
	errs := make([]error, len(jobs))
	slots := make(chan struct{}, max(1, c.Parallel))
	var wg sync.WaitGroup
	var printing sync.Mutex
	for i, j := range jobs {
		slots <- struct{}{}
		if ctx.Err() != nil {
			break
		}
		wg.Go(func() {
			defer func() { <-slots }()
			opt := Options{Out: filepath.Join(c.Out, j.Scenario.Name), Files: j.files, Dataplane: j.Dataplane, Seed: c.Seed}
			if c.Matrix {
				opt.Out = j.Out(c.Out)
			}
			if self, err := os.Executable(); err == nil {
				if peer := filepath.Join(filepath.Dir(self), "wgpeer"); fileExists(peer) {
					opt.WireGuard = peer
				}
			}
			if !c.Quiet && !con.JSON && c.Parallel <= 1 {
				opt.Log = con.Err
			}
			if f, ok := con.Out.(*os.File); ok && c.Live && !con.JSON {
				opt.Live = NewLive(f)
				opt.Log = opt.Live
			}
			results[i], errs[i] = Scenario(ctx, j.Scenario, opt)
			if opt.Live != nil {
				opt.Live.Close()
			}
			if !con.JSON && errs[i] == nil {
				printing.Lock()
				defer printing.Unlock()
				fmt.Fprintln(con.Out)
				results[i].Print(con.Out)
			}
		})
	}
	wg.Wait()
	if err := errors.Join(append(errs, ctx.Err())...); err != nil {
		return err
	}
	if con.JSON {
		if err := con.json(results); err != nil {
			return err
		}
	}
	failed := slices.DeleteFunc(slices.Clone(results), func(r Result) bool { return r.OK })
	if len(results) > 1 && !con.JSON {
		fmt.Fprintf(con.Out, "\n%d of %d scenarios passed\n", len(results)-len(failed), len(results))
		for _, f := range failed {
			fmt.Fprintf(con.Out, "  failed: %s\n", f.Scenario)
		}
	}
	if len(failed) > 0 {
		return ErrFailed
	}
	return nil
}

// ListCommand is `kedge lab list`.
type ListCommand struct{}

// Do lists the scenarios that are built in, and the networks that are up.
func (c *ListCommand) Do(_ context.Context, con Console) error {
	all, err := All()
	if err != nil {
		return err
	}
	alive, _, err := runs()
	if err != nil {
		return err
	}
	if con.JSON {
		type entry struct {
			Name    string   `json:"name"`
			About   string   `json:"about"`
			Figure  string   `json:"figure,omitempty"`
			Covers  []string `json:"covers"`
			Seconds float64  `json:"budget_seconds"`
			Long    bool     `json:"long,omitempty"`
		}
		out := struct {
			Scenarios []entry   `json:"scenarios"`
			Up        []Running `json:"up"`
		}{Up: alive}
		for _, s := range all {
			out.Scenarios = append(out.Scenarios, entry{s.Name, s.About, s.Figure, s.Covers, s.Budget.Seconds(), s.Long})
		}
		return con.json(out)
	}
	tw := tabwriter.NewWriter(con.Out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(tw, "NAME\tBUDGET\tWHAT\tCOVERS")
	for _, s := range all {
		covers := strings.Join(s.Covers, " ")
		if len(s.Covers) > 4 {
			covers = fmt.Sprintf("%s and %d more", strings.Join(s.Covers[:3], " "), len(s.Covers)-3)
		}
		fmt.Fprintf(tw, "%s\t%v\t%s\t%s\n", s.Name, s.Budget, s.About, covers)
	}
	for _, r := range alive {
		fmt.Fprintf(tw, "\n%s: %s\tpid %d\tnamespaces %s%s-*\t\n", r.Kind, r.Scenario, r.PID, nsPrefix, r.ID)
	}
	return tw.Flush()
}

// UpCommand is `kedge lab up`.
type UpCommand struct {
	Scenario  string `arg:"" help:"Name from \"kedge lab list\", or a file. Its steps are not run."`
	Out       string `default:"lab-out" help:"Folder for captures, events and logs."`
	Dataplane string `help:"Data plane back end of all daemons."`
}

// Do builds the network and keeps it until ctx ends or `kedge lab down`.
func (c *UpCommand) Do(ctx context.Context, con Console) error {
	sc, files, err := Find(c.Scenario)
	if err != nil {
		return err
	}
	r, err := newRun(sc, Options{Out: filepath.Join(c.Out, sc.Name), Files: files, Dataplane: c.Dataplane, Log: con.Err})
	if err != nil {
		return err
	}
	if _, err := Sweep(); err != nil {
		return err
	}
	if err := clearDir(r.dir); err != nil {
		return err
	}
	if r.claim, err = newClaim(kindUp, sc.Name); err != nil {
		return err
	}
	r.start = time.Now()
	err = r.up(ctx)
	if err == nil {
		fmt.Fprintf(con.Out, "up: %s. End it with ctrl-C or \"kedge lab down %s\".\n", sc.Name, sc.Name)
		for _, n := range r.nodes {
			line := "ip netns exec " + n.ns.Name + " bash"
			if n.daemon != nil {
				line += "     kedge status --socket " + n.daemon.socket
			}
			fmt.Fprintf(con.Out, "  %-10s %s\n", n.name, line)
		}
		<-ctx.Done()
		fmt.Fprintln(con.Out, "going down")
	}
	return errors.Join(err, r.shutdown(), r.artifacts(), r.teardown())
}

// DownCommand is `kedge lab down`.
type DownCommand struct {
	Scenario string `arg:"" optional:"" help:"Only networks of this scenario."`
}

// Do ends networks that `up` keeps, and removes what dead labs left behind.
func (c *DownCommand) Do(ctx context.Context, con Console) error {
	alive, _, err := runs()
	if err != nil {
		return err
	}
	name := strings.TrimSuffix(filepath.Base(c.Scenario), ".yaml")
	var ended []Running
	for _, r := range alive {
		if r.Kind != kindUp || c.Scenario != "" && r.Scenario != name || r.PID == os.Getpid() || r.PID <= 1 {
			continue
		}
		if err := syscall.Kill(r.PID, syscall.SIGTERM); err != nil && !errors.Is(err, syscall.ESRCH) {
			return fmt.Errorf("end pid %d: %w", r.PID, err)
		}
		ended = append(ended, r)
	}
	for _, r := range ended {
		err := poll(ctx, 30*time.Second, func() bool {
			now, _, err := runs()
			return err == nil && !slices.ContainsFunc(now, func(x Running) bool { return x.ID == r.ID })
		})
		if err != nil {
			return fmt.Errorf("lab of pid %d does not end: %w", r.PID, err)
		}
	}
	swept, err := Sweep()
	if con.JSON {
		return errors.Join(err, con.json(map[string]any{"ended": ended, "swept": swept}))
	}
	for _, r := range ended {
		fmt.Fprintf(con.Out, "ended %s (pid %d)\n", r.Scenario, r.PID)
	}
	for _, id := range swept {
		fmt.Fprintf(con.Out, "swept what lab %s left\n", id)
	}
	if len(ended)+len(swept) == 0 {
		fmt.Fprintln(con.Out, "nothing was up")
	}
	return err
}

func fileExists(name string) bool {
	_, err := os.Stat(name)
	return err == nil
}
