package lab

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"kedge/internal/lab/scenario"
	"kedge/internal/spec"
)

// atOnce is how many scenarios run at the same time: they wait more than they compute.
const atOnce = 4

// build makes the binary that the scenarios run, with KEDGE_LONG with the race detector and with what figures compare to.
func build(t *testing.T) (bin, wgpeer string) {
	t.Helper()
	dir := t.TempDir()
	bin = filepath.Join(dir, "kedge")
	args := [][]string{{"build", "-o", bin, "../../cmd/kedge"}}
	if os.Getenv("KEDGE_LONG") != "" {
		wgpeer = filepath.Join(dir, "wgpeer")
		args = [][]string{{"build", "-race", "-o", bin, "../../cmd/kedge"}, {"build", "-o", wgpeer, "./wgpeer"}}
	}
	for _, a := range args {
		if out, err := exec.Command("go", a...).CombinedOutput(); err != nil {
			t.Fatalf("build: %v\n%s", err, out)
		}
	}
	return bin, wgpeer
}

// TestScenarios runs every scenario against the real binary, four at a time. What a scenario covers is claimed when it
// passes. Captures, ladders and logs are left in lab-out.
func TestScenarios(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Fatal("whole networks need root: make scenarios")
	}
	all, err := All()
	if err != nil {
		t.Fatal(err)
	}
	bin, wgpeer := build(t)
	out := os.Getenv("KEDGE_LAB_OUT")
	if out == "" {
		out = "../../lab-out"
	}
	backends, why := Usable(Backends)
	t.Log(matrixText(backends, why))
	if len(why) > 0 {
		t.Fatal("the back ends of the matrix are what is tested here")
	}
	type outcome struct {
		res  Result
		err  error
		log  bytes.Buffer
		done chan struct{}
	}
	var jobs []Job
	outcomes := map[Job]*outcome{}
	for _, s := range all {
		if s.Long && os.Getenv("KEDGE_LONG") == "" {
			continue
		}
		if os.Getenv("KEDGE_LONG") != "" && !s.Long { // figures are taken with what users get
			s.Matrix = true
		}
		for _, j := range Matrix(s, backends) {
			jobs = append(jobs, j)
			outcomes[j] = &outcome{done: make(chan struct{})}
		}
	}
	slots := make(chan struct{}, atOnce)
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	defer func() { cancel(); wg.Wait() }() // also when a subtest ends the test early: nothing may be left behind
	wg.Go(func() {
		for _, j := range jobs {
			slots <- struct{}{}
			wg.Go(func() {
				o := outcomes[j]
				defer func() { <-slots; close(o.done) }()
				o.res, o.err = Scenario(ctx, j.Scenario, Options{Binary: bin, WireGuard: wgpeer, Out: j.Out(out), Files: templates(""), Dataplane: j.Dataplane, Log: &o.log, MHCheck: "../../tools/mhcheck"})
			})
		}
	})
	// A failure is told with all that led to it; what it was stands at the very end again, where a reader looks first.
	var failed []string
	defer func() {
		for _, f := range failed {
			t.Log("failed: " + f)
		}
	}()
	for _, j := range jobs {
		t.Run(j.Name(), func(t *testing.T) {
			o := outcomes[j]
			<-o.done
			if o.err != nil {
				failed = append(failed, j.Name()+": "+o.err.Error())
				t.Fatal(o.err)
			}
			var text bytes.Buffer
			o.res.Print(&text)
			if !o.res.OK {
				failed = append(failed, j.Name()+": "+o.res.Failure)
				t.Fatalf("ladder:\n%s\nwhat happened:\n%s\n%s", head(filepath.Join(o.res.Out, "ladder.txt"), 60), o.log.String(), text.String())
			}
			t.Log("\n" + text.String())
			if look := judges[j.Scenario.Name]; look != nil {
				look(t, o.res.Out)
			}
			if !t.Failed() && len(j.Scenario.Covers) > 0 {
				spec.Covers(t, j.Scenario.Covers...)
			}
		})
	}
}

func head(file string, lines int) string {
	b, err := os.ReadFile(file)
	if err != nil {
		return err.Error()
	}
	all := bytes.SplitAfter(b, []byte("\n"))
	if len(all) > lines {
		all = append(all[:lines:lines], []byte(fmt.Sprintf("... %d more lines\n", len(all)-lines)))
	}
	return string(bytes.Join(all, nil))
}

// TestMatrix: a scenario that asks for it runs once with each back end that the machine has, others once.
func TestMatrix(t *testing.T) {
	backends := []Backend{
		{Name: "fast", usable: func() error { return nil }},
		{Name: "none", usable: func() error { return errors.New("this kernel has no such thing") }},
		{Name: "user", usable: func() error { return nil }},
	}
	names, why := Usable(backends)
	if got := matrixText(names, why); got != "data plane back ends: fast, user; not here: none (this kernel has no such thing)" {
		t.Error(got)
	}
	for _, tt := range []struct {
		matrix bool
		names  []string
		want   string
	}{{true, names, "a-fast a-user"}, {true, nil, "a"}, {false, names, "a"}} {
		var got []string
		for _, j := range Matrix(&scenario.Scenario{Name: "a", Matrix: tt.matrix}, tt.names) {
			got = append(got, j.Name())
		}
		if strings.Join(got, " ") != tt.want {
			t.Errorf("matrix %v with %v: %v, want %s", tt.matrix, tt.names, got, tt.want)
		}
	}
}

// TestMatrixCommand: the command says what it runs with, and every daemon runs with that.
func TestMatrixCommand(t *testing.T) {
	file := filepath.Join(t.TempDir(), "tiny.yaml")
	text := strings.Replace(fmt.Sprintf(tiny, "mtu: 1500", ""), "budget:", "matrix: true\nbudget:", 1)
	if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	dir := t.TempDir()
	c := RunCommand{Scenario: []string{file}, Out: dir, Matrix: true, Quiet: true, Parallel: 1}
	if err := c.Do(t.Context(), Console{Out: &out, Err: &out}); err != nil {
		t.Fatal(err, out.String())
	}
	for _, want := range []string{
		"data plane back ends: ebpf, clsact, user\n", "tiny with data plane ebpf in", "tiny with data plane clsact in", "tiny with data plane user in",
		filepath.Join(dir, "tiny-ebpf"), filepath.Join(dir, "tiny-user"), "3 of 3 scenarios passed",
	} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("no %q in %s", want, out.String())
		}
	}
}

// TestUnknownPlane: a back end that there is not is refused before anything is built.
func TestUnknownPlane(t *testing.T) {
	_, err := Scenario(t.Context(), tinyScenario(t, "mtu: 1500", ""), Options{Binary: "/bin/false", Out: t.TempDir(), Files: templates(""), Dataplane: "xdp"})
	if err == nil || !strings.Contains(err.Error(), `"xdp": there are ebpf, clsact, user`) {
		t.Errorf("%v", err)
	}
}

// TestOnly: a step for one data plane is left out with others.
func TestOnly(t *testing.T) {
	s := tinyScenario(t, "mtu: 1500", `
  - fault: { node: a, link: lan, do: partition }
    only: ebpf
  - wait: { a: { reaches: b }, within: 2s }
    only: user
  - wait: { a: { reaches: b }, within: 200ms }
`)
	for plane, ok := range map[string]bool{"user": true, "ebpf": false, "clsact": false} {
		res, err := Scenario(t.Context(), s, Options{Binary: "/bin/false", Out: t.TempDir(), Files: templates(""), Dataplane: plane})
		if err != nil || res.OK != ok || !ok && !strings.Contains(res.Failure, "tiny.yaml:16") {
			t.Errorf("%s: %v %v %s", plane, err, res.OK, res.Failure)
		}
	}
}

// TestScenarioFiles holds that all files parse, and bear the names of their scenarios.
func TestScenarioFiles(t *testing.T) {
	all, err := All()
	if err != nil {
		t.Fatal(err)
	}
	if len(all) < 20 {
		t.Errorf("only %d scenarios were found", len(all))
	}
	for _, s := range all {
		if s.About == "" || s.End.TsharkErrors == nil || !s.End.Leaks {
			t.Errorf("%s: every scenario says what it is about, and lets tshark and the search for leaks judge it", s.Name)
		}
	}
}

// tiny is a network without daemons.
const tiny = `
version: 1
scenario: tiny
budget: 20s
links: { lan: { prefix: ["192.0.2.0/24", "2001:db8::/64"], %s } }
nodes:
  a: { host: static, on: { lan: [192.0.2.1, "2001:db8::1"] } }
  b: { host: static, on: { lan: [192.0.2.2, "2001:db8::2"] } }
steps:
  - wait: { a: { reaches: b }, within: 5s }
%s
expect-at-end: { wire: { tshark-errors: 0 }, leaks: none }
`

func tinyScenario(t *testing.T, link, steps string) *scenario.Scenario {
	t.Helper()
	s, err := scenario.Parse("tiny.yaml", fmt.Appendf(nil, tiny, link, steps))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func runTiny(t *testing.T, s *scenario.Scenario) Result {
	t.Helper()
	res, err := Scenario(t.Context(), s, Options{Binary: "/bin/false", Out: t.TempDir(), Files: templates("")})
	if err != nil {
		t.Fatal(err)
	}
	return res
}

// TestDropPartitionAndProbes: faults of links do what they say, and probes see exactly that.
func TestDropPartitionAndProbes(t *testing.T) {
	res := runTiny(t, tinyScenario(t, "delay: 1ms", `
  - start: { ping: { name: p, from: a, to: b, every: 5ms }, udp: { name: u, from: a, to: b.v6, every: 5ms } }
  - wait: { p: { received: ">= 10" }, u: { received: ">= 10" }, within: 3s }
  - fault: { link: lan, do: drop, match: ipv6, count: 7 }
  - wait: { u: { lost: 7 }, within: 3s }
  - fault: { node: b, link: lan, do: partition }
  - wait: { p: { lost: ">= 10" }, within: 5s }
  - fault: { node: b, link: lan, do: heal }
  - wait: { p: { alive: true }, within: 3s }
  - stop: [p, u]
  - expect: { p: { lost: ">= 10", duplicates: 0, rtt-p50: ">= 2ms" }, capture: { link: lan, filter: "icmp.type == 0", count: ">= 10" } }
`))
	if !res.OK {
		t.Fatal(res.Failure)
	}
}

// TestFailureIsNamed: a condition that does not hold fails the scenario with line and what was found.
func TestFailureIsNamed(t *testing.T) {
	for _, tt := range []struct{ steps, want string }{
		{`  - wait: { a: { reaches: 192.0.2.77 }, within: 100ms }`, "no single node"},
		{`  - expect: { capture: { link: lan, filter: "tcp.port == 7" } }`, `0 frames of lan match "tcp.port == 7"`},
		{`  - expect: { capture: { link: lan, filter: "no such filter" } }`, "tshark"},
		{`  - expect: { ladder: { order: [PBU] } }`, `no "PBU"`},
	} {
		res := runTiny(t, tinyScenario(t, "mtu: 1500", tt.steps))
		if res.OK || !bytes.Contains([]byte(res.Failure), []byte(tt.want)) || !bytes.Contains([]byte(res.Failure), []byte("tiny.yaml:11")) {
			t.Errorf("%s\nfailed with %q, want line 11 and %q", tt.steps, res.Failure, tt.want)
		}
	}
}

// TestBudget: a scenario that takes too long fails and is cleaned up.
func TestBudget(t *testing.T) {
	s := tinyScenario(t, "mtu: 1500", `  - wait: { metric: { name: none, is: 7 }, within: 60s }`)
	s.Budget = 1e9
	res := runTiny(t, s)
	if res.OK || !bytes.Contains([]byte(res.Failure), []byte("budget")) {
		t.Errorf("failure %q", res.Failure)
	}
}

// TestDaemonThatCannotStart: its log is in the failure, and nothing stays.
func TestDaemonThatCannotStart(t *testing.T) {
	s, err := scenario.Load("../../lab/scenarios/ipv6-only.yaml")
	if err != nil {
		t.Fatal(err)
	}
	res, err := Scenario(t.Context(), s, Options{Binary: "/bin/false", Out: t.TempDir(), Files: templates("")})
	if err != nil {
		t.Fatal(err)
	}
	if res.OK || !bytes.Contains([]byte(res.Failure), []byte("ended at its start")) {
		t.Errorf("failure %q", res.Failure)
	}
}

// hops is a network with a router that is none of ours.
const hops = `
version: 1
scenario: hops
budget: 20s
links:
  one: { prefix: ["192.0.2.0/24", "2001:db8:1::/64"] }
  two: { prefix: ["203.0.113.0/24", "2001:db8:2::/64"] }
nodes:
  a: { host: static, on: { one: [192.0.2.1, "2001:db8:1::1"] }, routes: { 203.0.113.0/24: 192.0.2.5, "2001:db8:2::/64": "2001:db8:1::5" } }
  r: { host: static, %s on: { one: [192.0.2.5, "2001:db8:1::5"], two: [203.0.113.5, "2001:db8:2::5"] } }
  b: { host: static, on: { two: [203.0.113.2, "2001:db8:2::2"] }, routes: { 0.0.0.0/0: 203.0.113.5, "::/0": "2001:db8:2::5" } }
steps:
  - wait: { route: { on: a, to: b.v4, dev: one0 }, r: { reaches: b }, within: 5s }
%s
expect-at-end: { wire: { tshark-errors: 0 }, leaks: none }
`

// TestTraceRoutesAndPlugs: a trace names who answers at each hop, in both families, and a plug that is pulled ends it.
func TestTraceRoutesAndPlugs(t *testing.T) {
	for _, tt := range []struct{ router, steps, want string }{
		{"forward: true,", `  - wait: { a: [ { trace: b.v4, hops: [r, b] }, { trace: b.v6, hops: [r, b] } ], within: 5s }
  - fault: { node: r, link: two, do: unplug }
  - expect: { a: { trace: b.v4, hops: [r, "*"] } }
  - fault: { node: r, link: two, do: plug }
  - wait: { a: { trace: b.v4, hops: [r, b] }, within: 5s }`, ""},
		{"forward: true,", `  - expect: { a: { trace: b.v4, hops: [b] } }`, "reaches b.v4 by r (want b), want b"},
		{"forward: true,", `  - expect: { a: { trace: b.v4, hops: [r, b, "*"] } }`, "reaches b.v4 by r, b, want r, b, *"},
		{"forward: true,", `  - expect: { route: { on: r, to: b.v4, dev: one0 } }`, "r routes 203.0.113.2 to two0, want one0"},
		{"", `  - expect: { a: { trace: b.v4, hops: ["*", "*"] } }
  - expect: { a: { trace: b.v4, hops: [r, b] } }`, "hops.yaml:15"},
	} {
		t.Run("", func(t *testing.T) {
			t.Parallel()
			s, err := scenario.Parse("hops.yaml", fmt.Appendf(nil, hops, tt.router, tt.steps))
			if err != nil {
				t.Fatal(err)
			}
			if res := runTiny(t, s); res.OK != (tt.want == "") || !strings.Contains(res.Failure, tt.want) {
				t.Errorf("%s\nfailed with %q, want %q", tt.steps, res.Failure, tt.want)
			}
		})
	}
}
