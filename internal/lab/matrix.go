package lab

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"kedge/internal/lab/scenario"
)

// Backend is a data plane back end by the name that dataplane.kind has for it.
type Backend struct {
	Name   string
	usable func() error // why this machine cannot run it
}

// Backends are all that scenarios with "matrix: true" run with.
var Backends = []Backend{
	{Name: "user", usable: func() error { _, err := os.Stat("/dev/net/tun"); return err }},
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
