package lab

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"time"

	"kedge/internal/lab/ladder"
	"kedge/internal/lab/probe"
	"kedge/internal/lab/scenario"
	"kedge/internal/system/netns"
)

// Options of a run.
type Options struct {
	Binary    string                            // the kedge binary; "" = this program
	Out       string                            // output folder; "" = lab-out/NAME
	Files     func(name string) ([]byte, error) // config templates
	Dataplane string                            // back end for all daemons; "" = as the templates say
	Log       io.Writer                         // what happens, line by line; nil = nowhere
	Live      *Live                             // live screen; nil = none
	WireGuard string                            // the wgpeer program; "" = none: only figures need it
	MHCheck   string                            // tools/mhcheck; "" = the lab's own check only
	Seed      uint64                            // of the links' impairments; 0 = random
}

// Result of a run.
type Result struct {
	Scenario string           `json:"scenario"`
	Plane    string           `json:"dataplane"` // the back end that the run chose; else auto and what that was
	OK       bool             `json:"ok"`
	Failure  string           `json:"failure,omitempty"`
	Covers   []string         `json:"covers,omitempty"`
	Seconds  float64          `json:"seconds"`
	Budget   float64          `json:"budget_seconds"`
	Steps    []StepResult     `json:"steps"`
	Probes   map[string]Stats `json:"probes,omitempty"`
	Hosts    []HostResult     `json:"hosts,omitempty"`
	Handover []Phase          `json:"handover,omitempty"`
	Moves    int              `json:"moves"`
	Table    []Row            `json:"table,omitempty"`
	Out      string           `json:"out"`
	Files    []string         `json:"files"`
	Seed     uint64           `json:"seed"`
}

// HostResult is a host at the end of the steps.
type HostResult struct {
	Name   string   `json:"name"`
	Client string   `json:"client"`
	At     string   `json:"at"`
	Moves  int      `json:"moves"`
	V4     []string `json:"v4,omitempty"`
	V6     []string `json:"v6,omitempty"`
	Kept   bool     `json:"kept"` // it has the addresses that it got first, and no others
}

// StepResult is one step with its time.
type StepResult struct {
	Line    int     `json:"line"`
	What    string  `json:"what"`
	Seconds float64 `json:"seconds"`
}

// Stats of a probe, for people and JSON.
type Stats struct {
	Kind       string  `json:"kind"`
	Sent       int     `json:"sent,omitempty"`
	Received   int     `json:"received,omitempty"`
	Lost       int     `json:"lost"`
	Duplicates int     `json:"duplicates"`
	Resets     int     `json:"resets"`
	Octets     int64   `json:"octets,omitempty"`
	GapMS      float64 `json:"longest_gap_ms"`
	RTT50MS    float64 `json:"rtt_p50_ms,omitempty"`
	Rate       float64 `json:"mbit_s,omitempty"`
}

// Run is one network.
type Run struct {
	sc       *scenario.Scenario
	opt      Options
	plane    string // kind of all daemons' data planes: ebpf, user
	claim    *claim
	dir      string
	seed     uint64
	start    time.Time
	wiring   *netns.NS
	links    map[string]*link
	nodes    []*node
	captures []*capture
	ports    int
	anchors  map[string]bool
	// correspondents are hosts that run nothing but role peer.
	correspondents map[string]bool
	pools          map[string][]netip.Prefix
	keys           map[string]*association // by names of anchor and peer
	sas            ladder.Keys             // under recMu
	steps          []StepResult
	order          []string // of probes
	hosts          []HostResult
	rows           []Row
	others         []*process // beside daemons, routers and clients
	tunnels        int        // of WireGuard, so far
	webs           []*http.Server
	newest         map[string][]byte // frame by link and kind; under recMu
	setups         map[pair]*setup   // under recMu
	family         map[string]string // of a mobile node's last care-of address; under recMu

	recMu     sync.Mutex // what captures and the live screen touch as well
	diagram   *ladder.Diagram
	handovers []*handover
	moving    []*handover
	probes    map[string]*probe.Probe
	frames    int
	last      int64
	saying    string
	drops     map[string][]func()
}

// newRun prepares everything that needs no rights.
func newRun(sc *scenario.Scenario, opt Options) (*Run, error) {
	if os.Geteuid() != 0 {
		return nil, errors.New("kedge lab makes network namespaces: run it as root")
	}
	if opt.Binary == "" {
		self, err := os.Executable()
		if err != nil {
			return nil, err
		}
		opt.Binary = self
	}
	if _, err := planeConfig(opt.Dataplane); err != nil {
		return nil, err
	}
	if opt.Out == "" {
		opt.Out = filepath.Join("lab-out", sc.Name)
	}
	if opt.Log == nil {
		opt.Log = io.Discard
	}
	out, err := filepath.Abs(opt.Out)
	if err != nil {
		return nil, err
	}
	r := &Run{
		sc: sc, opt: opt, dir: out, seed: opt.Seed, links: map[string]*link{}, anchors: map[string]bool{}, correspondents: map[string]bool{},
		pools: map[string][]netip.Prefix{}, probes: map[string]*probe.Probe{}, drops: map[string][]func(){},
		plane: planeKind(opt.Dataplane),
		keys:  map[string]*association{}, sas: ladder.Keys{}, newest: map[string][]byte{}, setups: map[pair]*setup{}, family: map[string]string{},
	}
	if r.seed == 0 {
		r.seed = rand.Uint64N(1 << 32)
	}
	return r, r.readTemplates()
}

// Scenario runs a scenario from start to end, cleans up whatever happens, and says how it went. The error is about the lab
// itself; a scenario that failed is a Result.
func Scenario(ctx context.Context, sc *scenario.Scenario, opt Options) (res Result, err error) {
	r, err := newRun(sc, opt)
	if err != nil {
		return Result{}, err
	}
	if _, err := Sweep(); err != nil {
		return Result{}, err
	}
	if err := clearDir(r.dir); err != nil {
		return Result{}, err
	}
	if r.claim, err = newClaim(kindRun, sc.Name); err != nil {
		return Result{}, err
	}
	r.start = time.Now()
	ctx, cancel := context.WithTimeoutCause(ctx, sc.Budget, fmt.Errorf("the budget of %v is used up", sc.Budget))
	defer cancel()
	fail := r.protected(ctx)
	took := time.Since(r.start)
	for _, f := range []func() error{r.shutdown, r.artifacts, func() error { return r.wire(context.WithoutCancel(ctx)) }, r.teardown} {
		if err := f(); err != nil && fail == nil {
			fail = err
		}
	}
	if left := leftovers(r.claim.id); len(left) > 0 && fail == nil {
		fail = fmt.Errorf("leak: namespaces are left: %v", left)
	}
	return r.result(fail, took), nil
}

// protected runs the scenario; a panic becomes a failure, so that the cleaning up happens.
func (r *Run) protected(ctx context.Context) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("panic: %v\n%s", p, debug.Stack())
		}
	}()
	if err := r.up(ctx); err != nil {
		return err
	}
	if err := r.do(ctx, r.sc.Steps); err != nil {
		return err
	}
	return r.endings(ctx)
}

// up builds the network, starts the daemons and then the hosts.
func (r *Run) up(ctx context.Context) error {
	if err := r.build(); err != nil {
		return err
	}
	for _, n := range r.nodes {
		if n.spec.Kedge != "" {
			if _, err := r.writeConfig(n); err != nil {
				return err
			}
		}
		if n.spec.OnAccess() {
			h, err := r.newHost(n)
			if err != nil {
				return err
			}
			n.host = h
		}
	}
	r.newDiagram()
	for _, n := range r.nodes {
		if n.router != nil {
			if err := n.router.start(); err != nil {
				return err
			}
		}
		if n.spec.Web {
			if err := r.serveWeb(n); err != nil {
				return err
			}
		}
		if n.spec.DNS != nil {
			if err := r.serveNames(n); err != nil {
				return err
			}
		}
	}
	var started []*node
	for _, n := range r.nodes {
		if n.daemon != nil && !n.spec.Down {
			if err := r.startDaemon(n); err != nil {
				return err
			}
			started = append(started, n)
		}
	}
	for _, n := range started {
		if err := n.daemon.ready(ctx); err != nil {
			return err
		}
	}
	r.say("network is up: %d namespaces in %v", len(r.nodes)+1, time.Since(r.start).Round(time.Millisecond))
	if r.opt.Live != nil {
		r.opt.Live.attach(r)
	}
	for _, n := range r.nodes {
		if n.host != nil && !n.spec.Off {
			if err := n.host.powerOn(); err != nil {
				return err
			}
		}
	}
	for _, n := range r.nodes {
		if n.spec.WireGuard != nil {
			if err := r.startWireGuard(ctx, n); err != nil {
				return err
			}
		}
	}
	return nil
}

// newDiagram makes the lanes: hosts, gateways, anchors, others.
func (r *Run) newDiagram() {
	var lanes [4][]ladder.Node
	for _, n := range r.nodes {
		l := ladder.Node{Name: n.name, MACs: n.macs()}
		kind := 3
		switch {
		case r.anchors[n.name]:
			kind = 2
		case n.spec.Kedge != "" && !n.mobile() && !r.correspondents[n.name] || n.router != nil:
			kind = 1
		case n.host != nil:
			kind = 0
			if n.index >= maxLanes {
				continue // a crowd would be too wide
			}
		}
		for _, p := range n.spec.On {
			l.Addrs = append(l.Addrs, p.Addrs...)
			switch x := r.sc.Link(p.Link); {
			case x.LAN && n.router != nil:
				l.LANs = append(l.LANs, p.Link)
			case x.Access && !x.LAN:
				l.Access = append(l.Access, p.Link)
			}
		}
		lanes[kind] = append(lanes[kind], l)
	}
	title := r.sc.Name
	if r.sc.Figure != "" {
		title += " (" + r.sc.Figure + ")"
	}
	r.recMu.Lock()
	r.diagram = ladder.New(title, r.start, slices.Concat(lanes[:]...))
	r.recMu.Unlock()
}

// maxLanes is how many hosts of a crowd have a lane.
const maxLanes = 3

// say writes one line to the log with the time since the start.
func (r *Run) say(format string, args ...any) {
	text := fmt.Sprintf(format, args...)
	r.recMu.Lock()
	r.saying = text
	r.recMu.Unlock()
	fmt.Fprintf(r.opt.Log, "%9.3f s  %s\n", time.Since(r.start).Seconds(), text)
}

// note also puts the line into the ladder.
func (r *Run) note(format string, args ...any) {
	r.recMu.Lock()
	if r.diagram != nil {
		r.diagram.Note(time.Now(), fmt.Sprintf(format, args...))
	}
	r.recMu.Unlock()
	r.say(format, args...)
}

// pause waits; it is for things that last, never for things to have happened.
func (r *Run) pause(ctx context.Context, d time.Duration) error {
	if d <= 0 {
		return nil
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-t.C:
		return nil
	}
}

// clearDir makes an empty output folder; it removes only what a run writes.
func clearDir(dir string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		switch filepath.Ext(e.Name()) {
		case ".pcap", ".pcapng", ".jsonl", ".log", ".yaml", ".txt", ".svg", ".json":
			if err := os.Remove(filepath.Join(dir, e.Name())); err != nil {
				return err
			}
		}
	}
	return nil
}

func (r *Run) result(fail error, took time.Duration) Result {
	res := Result{
		Scenario: r.sc.Name, Plane: cmp.Or(r.opt.Dataplane, "auto ("+r.plane+")"), OK: fail == nil, Seconds: took.Seconds(), Budget: r.sc.Budget.Seconds(), Steps: r.steps,
		Out: r.dir, Seed: r.seed, Handover: r.phaseFigures(), Hosts: r.hosts, Probes: map[string]Stats{}, Moves: len(r.handovers),
		Table: r.rows,
	}
	if fail == nil {
		res.Covers = r.sc.Covers
	} else {
		res.Failure = fail.Error()
	}
	for _, name := range r.order {
		res.Probes[name] = statsOf(r.probes[name])
	}
	entries, _ := os.ReadDir(r.dir)
	for _, e := range entries {
		res.Files = append(res.Files, e.Name())
	}
	return res
}

// hostResults looks at every host while all still run.
func (r *Run) hostResults() (out []HostResult) {
	for _, n := range r.nodes {
		if n.host == nil {
			continue
		}
		// Interfaces that were switched off keep IPv4 addresses that nobody can use.
		on := slices.DeleteFunc(slices.Clone(n.wires), func(w *wire) bool { return !n.carrier(w.ifname) })
		h := HostResult{Name: n.name, Client: n.spec.Host, At: "-", Kept: true}
		if n.mobile() {
			h.Client = "kedge"
		}
		if len(on) > 0 {
			h.At = on[0].link
		}
		for _, w := range on[min(1, len(on)):] {
			h.At += " " + w.link
		}
		for _, m := range r.handovers {
			if m.Host == n.name {
				h.Moves++
			}
		}
		for _, fam := range []string{"v4", "v6"} {
			var texts []string
			var devices []string
			for _, w := range on {
				devices = append(devices, w.ifname)
			}
			if dev := n.homeDevice(); dev != "" {
				devices = []string{dev}
			}
			for _, dev := range devices {
				first := n.host.firstAddr(dev, fam)
				have := n.host.usableAddrs(dev, fam)
				for _, p := range have {
					texts = append(texts, p.Addr().String())
				}
				h.Kept = h.Kept && (!first.IsValid() || len(have) == 1 && have[0].Addr() == first)
			}
			if fam == "v4" {
				h.V4 = texts
			} else {
				h.V6 = texts
			}
		}
		out = append(out, h)
	}
	return out
}

func statsOf(p *probe.Probe) Stats {
	s := p.Stats()
	return Stats{Kind: p.Spec.Kind, Sent: s.Sent, Received: s.Received, Lost: s.Lost, Duplicates: s.Duplicates, Resets: s.Resets,
		Octets: s.Octets, GapMS: ms(s.Gap), RTT50MS: ms(s.RTT50), Rate: s.Rate}
}

// Names lists what a scenario's step does, for people.
func stepName(s *scenario.Step) string {
	switch s.Kind {
	case "wait", "expect":
		var on []string
		for _, c := range s.Check.Conds {
			if c.On != "" {
				on = append(on, c.On)
			} else {
				on = append(on, c.Kind)
			}
		}
		if s.Check.Within > 0 {
			return fmt.Sprintf("%s %s within %v", s.Kind, strings.Join(slices.Compact(on), ", "), s.Check.Within)
		}
		return s.Kind + " " + strings.Join(slices.Compact(on), ", ")
	case "start":
		var on []string
		for _, p := range s.Start {
			on = append(on, fmt.Sprintf("%s %s (%s %s > %s)", p.Kind, p.Name, p.Family, p.From, p.To))
		}
		return "start " + strings.Join(on, ", ")
	case "stop":
		return "stop " + strings.Join(s.Stop, ", ")
	case "move":
		return fmt.Sprintf("move %s to %s (%s)", s.Move.Node, s.Move.To, s.Move.How)
	case "fault":
		return strings.TrimSpace(fmt.Sprintf("%s %s %s %s", s.Fault.Do, s.Fault.Match, s.Fault.Node, s.Fault.Link))
	case "attach", "detach":
		return fmt.Sprintf("%s %s at %s by API", s.Kind, s.Attach.Host, s.Attach.At)
	case "send":
		return fmt.Sprintf("send %d forged frames from %s", s.Send.Count, s.Send.From)
	case "repeat":
		return fmt.Sprintf("repeat %d times", s.Repeat.Times)
	case "row":
		return "row " + s.Row.Name
	case "network":
		return fmt.Sprintf("network of %s: %s", s.Network.At, s.Network.Do)
	}
	return s.Kind + " " + s.Say
}
