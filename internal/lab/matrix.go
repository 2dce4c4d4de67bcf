package lab

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"kedge/internal/dataplane/ebpf"
	"kedge/internal/lab/scenario"
)

// Backend is a data plane back end, or one way to attach it.
type Backend struct {
	Name   string
	config dict         // of the section dataplane
	usable func() error // why this machine cannot run it
}

// Backends are all that scenarios with "matrix: true" run with.
var Backends = []Backend{
	{Name: "ebpf", config: dict{"kind": "ebpf", "attach": "tcx"}, usable: func() error { return ableTo("tcx") }},
	{Name: "clsact", config: dict{"kind": "ebpf", "attach": "clsact"}, usable: func() error { return ableTo("clsact") }},
	{Name: "user", config: dict{"kind": "user"}, usable: func() error { _, err := os.Stat("/dev/net/tun"); return err }},
}

// ableTo says why this kernel cannot forward with programs that are attached in a way. Those that can by tcx can by clsact.
func ableTo(attach string) error {
	able := askKernel()
	if able.Lacking == nil && attach == "tcx" && able.Attach != attach {
		return fmt.Errorf("kernel %s has no tcx", able.Kernel)
	}
	return able.Lacking
}

var askKernel = sync.OnceValue(func() ebpf.Ability { return ebpf.Probe{}.Ask() })

// planeConfig is the section dataplane for a back end; nil for none.
func planeConfig(name string) (dict, error) {
	if name == "" {
		return nil, nil
	}
	var names []string
	for _, b := range Backends {
		if b.Name == name {
			return b.config, nil
		}
		names = append(names, b.Name)
	}
	return nil, fmt.Errorf("there is no data plane back end %q: there are %s", name, strings.Join(names, ", "))
}

// planeKind is what the daemons of a run forward with: ebpf or user. Templates say auto.
func planeKind(name string) string {
	cfg, _ := planeConfig(name) // newRun has refused what is unknown
	if kind, ok := cfg["kind"].(string); ok {
		return kind
	}
	if ableTo("clsact") == nil {
		return "ebpf"
	}
	return "user"
}

// planeHolds compares what a daemon says of its data plane.
func (r *Run) planeHolds(ctx context.Context, c *scenario.Cond) (bool, string) {
	n := r.node(c.Want["on"].Text)
	if n.daemon == nil || !n.daemon.running() {
		return false, n.name + " does not run"
	}
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	st, err := n.daemon.client.Status(ctx)
	if err != nil {
		return false, err.Error()
	}
	for _, p := range st.Dataplane {
		for key, got := range map[string]any{"kind": p.Kind, "adopted": p.Adopted, "partial": p.Partial, "why": p.Why} {
			w, asked := c.Want[key]
			switch got := got.(type) {
			case string:
				if asked && !strings.Contains(got, w.Text) {
					return false, fmt.Sprintf("%s: %s is %q", n.name, key, got)
				}
			case bool:
				if asked && got != w.Bool {
					return false, fmt.Sprintf("%s: %s is %v", n.name, key, got)
				}
			}
		}
	}
	return len(st.Dataplane) > 0, n.name + " says nothing of its data plane"
}

// Usable splits back ends into those that this machine can run, and why it cannot run the others.
func Usable(all []Backend) (names []string, why []string) {
	for _, b := range all {
		if err := b.usable(); err != nil {
			why = append(why, fmt.Sprintf("%s (%v)", b.Name, err))
			continue
		}
		names = append(names, b.Name)
	}
	return names, why
}

// Job is one run of a scenario. Dataplane "" = as its templates say.
type Job struct {
	Scenario  *scenario.Scenario
	Dataplane string
}

// Name tells runs of one scenario apart: dual-stack, or dual-stack-user.
func (j Job) Name() string {
	if j.Dataplane == "" {
		return j.Scenario.Name
	}
	return j.Scenario.Name + "-" + j.Dataplane
}

// Out is its folder below another one.
func (j Job) Out(base string) string { return filepath.Join(base, j.Name()) }

// Matrix gives the runs of a scenario: one for each back end if it says "matrix: true", else one.
func Matrix(s *scenario.Scenario, backends []string) []Job {
	if !s.Matrix || len(backends) == 0 {
		return []Job{{Scenario: s}}
	}
	var jobs []Job
	for _, b := range backends {
		jobs = append(jobs, Job{s, b})
	}
	return jobs
}

// matrixText says for people which back ends there are.
func matrixText(names, why []string) string {
	text := "data plane back ends: " + strings.Join(names, ", ")
	if len(names) == 0 {
		text += "none"
	}
	if len(why) > 0 {
		text += "; not here: " + strings.Join(why, ", ")
	}
	return text
}
