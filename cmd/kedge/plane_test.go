package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"kedge/internal/api"
	"kedge/internal/config"
	"kedge/internal/dataplane/ebpf"
	"kedge/internal/dataplane/pins"
	"kedge/internal/lab/daemontest"
	"kedge/internal/system"
	"kedge/internal/system/netns"
)

const lonelyAnchor = `dataplane: %s
security: { peers: [ { name: mag1, addresses: ["2001:db8:a::11"], protection: none } ] }
anchor:
  addresses: ["2001:db8:a::1"]
  pools: [ { name: hnp, prefix: "2001:db8:1000::/36" } ]
  services: { pmip6: { gateways: [mag1] } }
`

// lonely is a namespace with an anchor's address and a core link.
func lonely(t *testing.T) *netns.NS {
	t.Helper()
	ns := netns.Test(t, "plane")
	for _, c := range []string{"link add core0 type veth peer name far0", "link set core0 up", "link set far0 up", "addr add 2001:db8:a::1/64 dev core0 nodad"} {
		_, err := ns.Run(t.Context(), "ip", strings.Fields(c)...)
		netns.Must(t, err)
	}
	space := ""
	netns.Must(t, ns.Do(func() (err error) { space, err = pins.Space(); return err }))
	t.Cleanup(func() { netns.Must(t, pins.Clear(space)) })
	return ns
}

func (p *process) plane() api.Dataplane {
	p.t.Helper()
	var out api.Dataplane
	daemontest.Until(p.t, 10*time.Second, func() error {
		st, err := p.Status(p.t.Context())
		if err != nil {
			return err
		}
		if len(st.Dataplane) != 1 {
			return fmt.Errorf("%d data planes", len(st.Dataplane))
		}
		out = st.Dataplane[0]
		return nil
	})
	return out
}

// attached counts what forwards in the kernel on a link: tcx and classifiers.
func attached(t *testing.T, ns *netns.NS, link string) (n int) {
	t.Helper()
	netns.Must(t, ns.Do(func() (err error) { n, err = ebpf.Attached(link); return err }))
	return n
}

var linked = regexp.MustCompile(`^core0 core, kedge-[0-9a-f]{5}-out joined, kedge0 device$`)

// TestPlaneLives: programs go on when the daemon is killed or told to end by SIGTERM, are taken over by the next, and end with "kedge
// stop" and with a change to another back end; by tcx and by clsact.
func TestPlaneLives(t *testing.T) {
	ns, dir := lonely(t), t.TempDir()
	start := func(plane string) *process { return daemonIn(t, ns, dir, "lma1", fmt.Sprintf(lonelyAnchor, plane)) }
	for _, attach := range []string{"tcx", "clsact"} {
		plane := fmt.Sprintf("{ kind: ebpf, core: [core0], attach: %s, sessions: 16 }", attach)
		p := start(plane)
		d := p.plane()
		if d.Kind != "ebpf" || d.Attach != attach || d.Adopted || d.Sessions != 16 || !linked.MatchString(strings.Join(d.Links, ", ")) ||
			d.Failing != "" || d.PinsWhy != "" || d.Why != "dataplane.kind says so" {
			t.Errorf("%s: %+v", attach, d)
		}
		for _, how := range []syscall.Signal{syscall.SIGKILL, syscall.SIGTERM} {
			_ = p.End(how)
			if out, err := ns.Run(t.Context(), "ip", "-6", "route", "get", "2001:db8:1000:1::a"); err != nil || !strings.Contains(string(out), "dev kedge0") {
				t.Errorf("%s: after %v packets to home addresses go another way: %v, %s", attach, how, err, out)
			}
			if n := attached(t, ns, "core0"); n != 1 {
				t.Errorf("%s: after %v %d programs are on core0", attach, how, n)
			}
			p = start(plane)
			if d := p.plane(); !d.Adopted {
				t.Errorf("%s: after %v: %+v", attach, how, d)
			}
			if n := attached(t, ns, "core0"); n != 1 {
				t.Errorf("%s: after %v and a start %d programs are on core0", attach, how, n)
			}
		}
		netns.Must(t, p.Stop(t.Context()))
		netns.Must(t, p.Wait())
		if n := attached(t, ns, "core0"); n != 0 {
			t.Errorf("%s: after kedge stop %d programs are on core0", attach, n)
		}
		if out, err := ns.Run(t.Context(), "ip", "link"); err != nil || strings.Contains(string(out), "kedge") {
			t.Errorf("%s: after kedge stop there is %s", attach, out)
		}
		p = start(plane)
		if d := p.plane(); d.Adopted {
			t.Errorf("%s: after kedge stop: %+v", attach, d)
		}
		p.Kill()
		p = start("user")
		if d := p.plane(); d.Kind != "user" || d.Asked != "user" || d.Why == "" {
			t.Errorf("%+v", d)
		}
		if n := attached(t, ns, "core0"); n != 0 {
			t.Errorf("%s: beside back end user %d programs are on core0", attach, n)
		}
		if out, err := ns.Run(t.Context(), "ip", "link"); err != nil || strings.Contains(string(out), "kedge-") {
			t.Errorf("%s: beside back end user there is %s", attach, out)
		}
		netns.Must(t, p.End(syscall.SIGTERM))
	}
	// From one way to attach to the other.
	p := start("{ kind: ebpf, core: [core0], attach: clsact }")
	p.plane()
	p.Kill()
	p = start("{ kind: ebpf, core: [core0] }")
	if d := p.plane(); d.Attach != "tcx" || attached(t, ns, "core0") != 1 {
		t.Errorf("%+v, %d programs are on core0", d, attached(t, ns, "core0"))
	}
}

// TestCoreLinkWithoutProgram: status names what dataplane.core says and no program is on: a wrong name, a port of a bridge.
func TestCoreLinkWithoutProgram(t *testing.T) {
	ns := lonely(t)
	p := daemonIn(t, ns, t.TempDir(), "lma1", fmt.Sprintf(lonelyAnchor, `{ kind: ebpf, core: ["core*", cor0], sessions: 16 }`))
	if d := p.plane(); len(d.Notes) != 1 || !strings.Contains(d.Notes[0], "core link cor0:") {
		t.Errorf("%q", d.Notes)
	}
	for _, c := range []string{"link add br0 type bridge", "link set core0 master br0"} {
		_, err := ns.Run(t.Context(), "ip", strings.Fields(c)...)
		netns.Must(t, err)
	}
	daemontest.Until(t, 5*time.Second, func() error {
		if d := p.plane(); len(d.Notes) != 2 || !strings.Contains(d.Notes[0], "core link core*:") {
			return fmt.Errorf("%q", d.Notes)
		}
		return nil
	})
}

// TestSecondDaemon: one of the same name, with another socket, leaves the first alone.
func TestSecondDaemon(t *testing.T) {
	ns, dir := lonely(t), t.TempDir()
	p := daemonIn(t, ns, dir, "lma1", fmt.Sprintf(lonelyAnchor, "ebpf"))
	p.plane()
	q := daemonIn(t, ns, t.TempDir(), "lma1", fmt.Sprintf(lonelyAnchor, "{ device: kedge1 }"))
	if err := q.Wait(); err == nil || !strings.Contains(q.Log(), "another process forwards as lma1_anchor") {
		t.Errorf("%v: %s", err, q.Log())
	}
	if d := p.plane(); d.Kind != "ebpf" || attached(t, ns, "core0") != 1 {
		t.Errorf("%+v", d)
	}
}

// old makes the kernel one without BPF.
func old(t *testing.T) {
	t.Helper()
	was := kernel
	kernel = ebpf.Probe{Kernel: func() string { return "4.4.0-test" }, Programs: func() error { return unix.EINVAL }}
	t.Cleanup(func() { kernel = was })
}

// runAt runs a daemon in this process, in a namespace, until ctx ends.
func runAt(ctx context.Context, t *testing.T, ns *netns.NS, dir, plane string) (*config.Config, <-chan error) {
	t.Helper()
	file := filepath.Join(dir, "lma1.yaml")
	text := fmt.Sprintf("version: 1\nname: lma1\napi: { socket: %s/lma1.sock }\nstore: { kind: mem }\n", dir) + fmt.Sprintf(lonelyAnchor, plane)
	netns.Must(t, os.WriteFile(file, []byte(text), 0o600))
	cfg, warnings, err := config.Load(file)
	netns.Must(t, err)
	ended := make(chan error, 1)
	go func() { ended <- ns.Do(func() error { return runDaemon(ctx, cfg, warnings) }) }()
	return cfg, ended
}

// TestKernelWithoutBPF: auto forwards in the process and says what the kernel lacks, by version; ebpf does not start.
func TestKernelWithoutBPF(t *testing.T) {
	old(t)
	ns := lonely(t)
	ctx, cancel := context.WithCancel(t.Context())
	dir := t.TempDir()
	cfg, ended := runAt(ctx, t, ns, dir, "auto")
	cl := api.NewClient(cfg.API.Socket)
	defer cl.Close()
	p := &process{&daemontest.Daemon{Client: cl}, t}
	d := p.plane()
	if d.Kind != "user" || d.Asked != "auto" || !strings.Contains(d.Why, "kernel 4.4.0-test has no classifier programs (BPF)") {
		t.Errorf("%+v", d)
	}
	code, out, errs := kedge(t, "status", "-s", cfg.API.Socket)
	if code != 0 || !strings.Contains(out, "data plane: user (auto): kernel 4.4.0-test has no classifier programs (BPF)") || !strings.Contains(out, "    offloads of this process: tun-super, ") {
		t.Errorf("%d %s%s", code, out, errs)
	}
	if code, out, _ := kedge(t, "status", "-o", "json", "-s", cfg.API.Socket); code != 0 || !strings.Contains(out, `"asked": "auto"`) {
		t.Errorf("%d %s", code, out)
	}
	cancel()
	netns.Must(t, <-ended)

	_, ended = runAt(t.Context(), t, ns, t.TempDir(), "ebpf")
	err := <-ended
	if un := new(ebpf.Unsupported); !errors.As(err, &un) || un.Kernel != "4.4.0-test" || !strings.Contains(err.Error(), "dataplane: auto") {
		t.Errorf("ebpf: %v", err)
	}
}

// TestCheckPlane: what is missing is fatal for a file that insists, and advice for others.
func TestCheckPlane(t *testing.T) {
	find := func(d config.Dataplane, name string) system.Finding {
		t.Helper()
		for _, f := range planeFindings([]*config.Config{{Dataplane: d}}) {
			if f.Name == name {
				return f
			}
		}
		return system.Finding{}
	}
	auto, user := config.Dataplane{Kind: "auto"}, config.Dataplane{Kind: "user"}
	const name = "data plane in the kernel"
	if f := find(auto, name); f.Severity != system.Fine || !strings.Contains(f.Detail, "by tcx") {
		t.Errorf("%+v", f)
	}
	if f := find(auto, "BPF file system"); f.Severity != system.Fine {
		t.Errorf("%+v", f)
	}
	if f := find(user, name); f.Name != "" {
		t.Errorf("%+v", f)
	}
	if f := find(user, "TUN offloads"); f.Name == "" {
		t.Error("no word of what makes back end user fast")
	}
	was := kernel
	defer func() { kernel = was }()
	kernel = ebpf.Probe{Kernel: func() string { return "6.1" }, TCX: func() error { return unix.EINVAL }, Cross: func() error { return unix.EINVAL }}
	if f := find(auto, name); f.Severity != system.Fine || !strings.Contains(f.Detail, "by clsact: tcx came with Linux 6.6") {
		t.Errorf("%+v", f)
	}
	if f := find(config.Dataplane{Kind: "ebpf", Attach: "tcx"}, name); f.Severity != system.Fatal || f.Do == "" {
		t.Errorf("%+v", f)
	}
	if f := find(auto, "tunnels of the other family"); f.Severity != system.Advice || !strings.Contains(f.Detail, "Linux 6.4") {
		t.Errorf("%+v", f)
	}
	kernel = ebpf.Probe{Kernel: func() string { return "4.4.0-test" }, Programs: func() error { return unix.EPERM }}
	for d, want := range map[string]system.Severity{"auto": system.Advice, "ebpf": system.Fatal} {
		if f := find(config.Dataplane{Kind: d}, name); f.Severity != want || !strings.Contains(f.Detail, "4.4.0-test") || !strings.Contains(f.Do, "CAP_BPF") {
			t.Errorf("%s: %+v", d, f)
		}
	}
}

// TestWritePlane: what a person sees.
func TestWritePlane(t *testing.T) {
	var out bytes.Buffer
	e := &env{stdout: &out}
	writePlane(e, &api.Dataplane{Kind: "ebpf", Asked: "auto", Why: "Linux 6.18 has what it needs", Attach: "tcx", Links: []string{"core0 core", "kedge0 device"},
		Sessions: 65536, Adopted: true, ThroughStack: true, StackWhy: "rules of netfilter: nftables f onward", Failing: "eth7: no such device", Notes: []string{"more sessions"}})
	writePlane(e, &api.Dataplane{Kind: "user", Asked: "user", Why: "dataplane.kind says so", Offloads: []string{"tun-super", "segment-udp"},
		Notes: []string{"without tun-queues: the kernel refuses: invalid argument"}})
	same(t, "data planes", `  data plane: ebpf by tcx (auto): Linux 6.18 has what it needs
    programs: core0 core, kedge0 device; tables: for 65536 sessions, taken over from an earlier process
    what is forwarded goes through netfilter: rules of netfilter: nftables f onward
    note: eth7: no such device
    note: more sessions
  data plane: user (user): dataplane.kind says so
    offloads of this process: tun-super, segment-udp
    note: without tun-queues: the kernel refuses: invalid argument
`, out.String())
	for n, want := range map[uint64]string{0: "0 B", 999: "999 B", 1000: "1 kB", 1234567: "1.23 MB", 999_999: "1 MB", 5e18: "5 EB"} {
		if got := octets(n); got != want {
			t.Errorf("%d: %q, want %q", n, got, want)
		}
	}
}

// TestSayPlane: the choice is logged once, and a fall back is a warning.
func TestSayPlane(t *testing.T) {
	for _, c := range []struct {
		d    api.Dataplane
		want string
	}{
		{api.Dataplane{Role: "anchor", Kind: "user", Asked: "auto", Why: "kernel 4.4 has no BPF"}, `level=WARN msg="data plane" role=anchor kind=user why="kernel 4.4 has no BPF"` + "\n"},
		{api.Dataplane{Role: "node", Kind: "user", Asked: "user", Why: "x"}, `level=INFO msg="data plane" role=node kind=user why=x` + "\n"},
		{api.Dataplane{Role: "node", Kind: "ebpf", Asked: "auto", Why: "x", Attach: "tcx", PinsWhy: "no pins"}, `level=INFO msg="data plane" role=node kind=ebpf why=x attach=tcx adopted=false` + "\n" +
			`level=WARN msg="data plane" role=node text="no pins"` + "\n"},
	} {
		var out bytes.Buffer
		sayPlane(slog.New(slog.NewTextHandler(&out, &slog.HandlerOptions{ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr {
			if a.Key == slog.TimeKey {
				return slog.Attr{}
			}
			return a
		}})), c.d)
		same(t, "log", c.want, out.String())
	}
}

// TestCapabilities: the back ends need what docs/operations.md says, and no more.
func TestCapabilities(t *testing.T) {
	ns := lonely(t)
	for caps, want := range map[string]string{"+net_admin,+net_raw,+bpf,+perfmon": "ebpf", "+net_admin,+net_raw,+bpf": "user", "+net_admin,+net_raw": "user"} {
		p := daemonIn(t, ns, t.TempDir(), "lma1", fmt.Sprintf(lonelyAnchor, "auto"), "setpriv", "--bounding-set=-all,"+caps)
		d := p.plane()
		if d.Kind != want || d.Failing != "" || d.PinsWhy != "" {
			t.Errorf("%s: %+v", caps, d)
		}
		netns.Must(t, p.Stop(t.Context()))
		if err := p.Wait(); err != nil {
			t.Errorf("%s: %v\n%s", caps, err, p.Log())
		}
	}
}
