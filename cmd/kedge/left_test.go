package main

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"kedge/internal/dataplane/pins"
	"kedge/internal/system/netns"
)

// abandoned are the places in a namespace that forward without a process.
func abandoned(t *testing.T, ns *netns.NS) string {
	t.Helper()
	var names []string
	netns.Must(t, ns.Do(func() error {
		all, err := pins.Abandoned()
		for _, d := range all {
			names = append(names, d.Name)
		}
		return err
	}))
	return strings.Join(names, " ")
}

// busy has the port of the data plane until f has run.
func busy(t *testing.T, ns *netns.NS, addr string, f func()) {
	t.Helper()
	var other net.PacketConn
	netns.Must(t, ns.Do(func() (err error) { other, err = net.ListenPacket("udp", "["+addr+"]:4191"); return err }))
	defer other.Close()
	f()
}

// otherAnchor is one beside lonelyAnchor, with another address and device.
func otherAnchor(plane string) string {
	s := strings.ReplaceAll(fmt.Sprintf(lonelyAnchor, plane), "2001:db8:a::1\"", "2001:db8:a::2\"")
	return strings.ReplaceAll(s, "2001:db8:1000::/36", "2001:db8:9000::/36")
}

// TestRenamed: what a daemon left under another name ends when the next one starts, whatever its back end; by tcx and by clsact.
func TestRenamed(t *testing.T) {
	ns := lonely(t)
	n := 0
	for _, attach := range []string{"tcx", "clsact"} {
		for _, next := range []string{"{ kind: ebpf, core: [core0], attach: " + attach + ", sessions: 16 }", "user"} {
			n++
			p := daemonIn(t, ns, t.TempDir(), fmt.Sprintf("old%d", n), fmt.Sprintf(lonelyAnchor, "{ kind: ebpf, core: [core0], attach: "+attach+", sessions: 16 }"))
			p.plane()
			p.Kill()
			if got := abandoned(t, ns); got != fmt.Sprintf("old%d_anchor", n) {
				t.Errorf("left: %q", got)
			}
			q := daemonIn(t, ns, t.TempDir(), fmt.Sprintf("new%d", n), fmt.Sprintf(lonelyAnchor, next))
			want := 1
			if next == "user" {
				want = 0
			}
			if d := q.plane(); attached(t, ns, "core0") != want || abandoned(t, ns) != "" {
				t.Errorf("%s, then %s: %d programs on core0, left %q, %+v", attach, next, attached(t, ns, "core0"), abandoned(t, ns), d)
			}
			netns.Must(t, q.Stop(t.Context()))
			netns.Must(t, q.Wait())
		}
	}
}

// TestOtherAnchor: two anchors with core links in common, by each way of attaching, leave each other alone: when one starts, fails to
// start, ends, or comes while the other is down. Then its status names what forwards, and "kedge stop" ends it.
func TestOtherAnchor(t *testing.T) {
	for _, attach := range []string{"tcx", "clsact"} {
		t.Run(attach, func(t *testing.T) {
			ns := lonely(t)
			_, err := ns.Run(t.Context(), "ip", "addr", "add", "2001:db8:a::2/64", "dev", "core0", "nodad")
			netns.Must(t, err)
			first := fmt.Sprintf(lonelyAnchor, "{ kind: ebpf, core: [core0], attach: "+attach+", sessions: 16 }")
			second := func(device string) string {
				return otherAnchor("{ kind: ebpf, core: [core0], attach: " + attach + ", sessions: 16, device: " + device + " }")
			}
			dir := t.TempDir()
			p := daemonIn(t, ns, dir, "lma1", first)
			p.plane()
			var q *process
			busy(t, ns, "2001:db8:a::2", func() {
				q = daemonIn(t, ns, t.TempDir(), "lma2", second("kedge1"))
				if err := q.Wait(); err == nil || attached(t, ns, "core0") != 1 {
					t.Errorf("%v, %d programs on core0", err, attached(t, ns, "core0"))
				}
			})
			qdir := t.TempDir()
			q = daemonIn(t, ns, qdir, "lma2", second("kedge1"))
			q.plane()
			if n := attached(t, ns, "core0"); n != 2 {
				t.Errorf("%d programs on core0", n)
			}
			netns.Must(t, q.Stop(t.Context()))
			netns.Must(t, q.Wait())
			if n := attached(t, ns, "core0"); n != 1 {
				t.Errorf("after the second one's end %d programs on core0", n)
			}
			p.Kill()
			q = daemonIn(t, ns, qdir, "lma2", second("kedge1"))
			if d := q.plane(); len(d.Notes) == 0 || !strings.Contains(strings.Join(d.Notes, "; "), "programs of lma1_anchor, which no process has, forward") {
				t.Errorf("%q", d.Notes)
			}
			if n := attached(t, ns, "core0"); n != 2 {
				t.Errorf("beside one that is down %d programs on core0", n)
			}
			var out, errs bytes.Buffer
			c := exec.Command(os.Args[0], "stop", "-s", filepath.Join(dir, "lma1.sock"))
			c.Env, c.Stdout, c.Stderr = append(os.Environ(), "KEDGE_TEST_DAEMON=1"), &out, &errs
			netns.Must(t, ns.Do(c.Start))
			if err := c.Wait(); err != nil || !strings.Contains(out.String(), "no daemon runs; what an earlier one left forwarding in the kernel was ended: lma1_anchor") {
				t.Errorf("kedge stop: %v, %s%s", err, &out, &errs)
			}
			if n := attached(t, ns, "core0"); n != 1 || abandoned(t, ns) != "" {
				t.Errorf("after kedge stop %d programs on core0, left %q", n, abandoned(t, ns))
			}
			if out, err := ns.Run(t.Context(), "ip", "link", "show", "kedge0"); err == nil {
				t.Errorf("after kedge stop there is %s", out)
			}
			if d := q.plane(); strings.Contains(strings.Join(d.Notes, "; "), "lma1_anchor") {
				t.Errorf("%q", d.Notes)
			}
			again := exec.Command(os.Args[0], "stop", "--name", "lma1")
			again.Env = c.Env
			var what []byte
			netns.Must(t, ns.Do(func() error { what, _ = again.CombinedOutput(); return nil }))
			if again.ProcessState.ExitCode() != exitFailed || !strings.Contains(string(what), "no daemon lma1 has left anything") {
				t.Errorf("a second time: %s", what)
			}
			netns.Must(t, q.Stop(t.Context()))
			if err := q.Wait(); err != nil || !strings.Contains(q.Log(), "runs no more forward in this network namespace\" name=lma1_anchor") {
				t.Errorf("%v: %s", err, q.Log())
			}
		})
	}
}

// TestFailedStart: a start that fails leaves what an earlier process has forwarding, whatever it was to forward by.
func TestFailedStart(t *testing.T) {
	ns, dir := lonely(t), t.TempDir()
	p := daemonIn(t, ns, dir, "lma1", fmt.Sprintf(lonelyAnchor, "{ kind: ebpf, core: [core0], sessions: 16 }"))
	p.plane()
	netns.Must(t, p.End(syscall.SIGTERM))
	for _, plane := range []string{"{ kind: ebpf, core: [core0], sessions: 16 }", "{ kind: auto, core: [core0], sessions: 16 }", "user"} {
		busy(t, ns, "2001:db8:a::1", func() {
			q := daemonIn(t, ns, dir, "lma1", fmt.Sprintf(lonelyAnchor, plane))
			if err := q.Wait(); err == nil || attached(t, ns, "core0") != 1 || abandoned(t, ns) != "lma1_anchor" {
				t.Errorf("%s: %v, %d programs on core0, left %q: %s", plane, err, attached(t, ns, "core0"), abandoned(t, ns), q.Log())
			}
		})
	}
	q := daemonIn(t, ns, dir, "lma1", fmt.Sprintf(lonelyAnchor, "{ kind: ebpf, core: [core0], sessions: 16 }"))
	if d := q.plane(); !d.Adopted || attached(t, ns, "core0") != 1 {
		t.Errorf("%+v", d)
	}
}

// TestLacksPerfmon: without CAP_PERFMON both the choice and the error name it, and not what the verifier writes.
func TestLacksPerfmon(t *testing.T) {
	ns := lonely(t)
	for plane, want := range map[string]string{"auto": "neither CAP_PERFMON nor CAP_SYS_ADMIN", "ebpf": "CAP_NET_ADMIN, CAP_NET_RAW, CAP_BPF and CAP_PERFMON"} {
		p := daemonIn(t, ns, t.TempDir(), "lma1", fmt.Sprintf(lonelyAnchor, plane), "setpriv", "--bounding-set=-all,+net_admin,+net_raw,+bpf")
		said := ""
		if plane == "auto" {
			said = p.plane().Why
			netns.Must(t, p.Stop(t.Context()))
			netns.Must(t, p.Wait())
		} else if err := p.Wait(); errors.As(err, new(*exec.ExitError)) {
			said = p.Log()
		}
		if !strings.Contains(said, want) || strings.Contains(said, "load program") {
			t.Errorf("%s: %s", plane, said)
		}
	}
}

// TestPlaceNames: a place says whose it is, and what to do about it.
func TestPlaceNames(t *testing.T) {
	if got := endThem("lma1_anchor"); got != `start lma1 again, or end them with "kedge stop --name lma1"` {
		t.Error(got)
	}
	if daemonOf("a_b_gateway") != "a_b" || daemonOf("lma1") != "" {
		t.Error("names of places")
	}
}

// TestRoleRemoved: what a role left forwarding that the config of its daemon no longer has ends at the next start, with its device.
func TestRoleRemoved(t *testing.T) {
	ns := lonely(t)
	p := daemonIn(t, ns, t.TempDir(), "both", fmt.Sprintf(lonelyAnchor, "{ kind: ebpf, core: [core0], sessions: 16 }"))
	p.plane()
	p.Kill()
	_, err := ns.Run(t.Context(), "ip", "link", "add", "acc0", "type", "veth", "peer", "name", "acc0h")
	netns.Must(t, err)
	for _, c := range []string{"link set acc0 up", "link set acc0h up", "addr add 2001:db8:a::11/64 dev core0 nodad"} {
		_, err := ns.Run(t.Context(), "ip", strings.Fields(c)...)
		netns.Must(t, err)
	}
	q := daemonIn(t, ns, t.TempDir(), "both", `dataplane: { kind: ebpf, core: [core0], sessions: 16 }
security: { peers: [ { name: lma1, addresses: ["2001:db8:a::1"], protection: none } ] }
gateway:
  address: "2001:db8:a::11"
  anchors: [ { name: lma1, address: "2001:db8:a::1" } ]
  access: [ { interface: acc0, identity: { realm: example.net }, families: [v6] } ]
`)
	q.plane()
	if out, err := ns.Run(t.Context(), "ip", "link", "show", "kedge0"); err == nil || attached(t, ns, "core0") != 1 || abandoned(t, ns) != "" {
		t.Errorf("%d programs on core0, left %q, %s", attached(t, ns, "core0"), abandoned(t, ns), out)
	}
}
