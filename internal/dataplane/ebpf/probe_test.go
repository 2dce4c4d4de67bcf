package ebpf

import (
	"errors"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"bytes"

	"golang.org/x/sys/unix"

	"kedge/internal/dataplane"
	"kedge/internal/dataplane/conformance"
	"kedge/internal/dataplane/user"
)

// TestUnsupported: a kernel without BPF is told by name and version, and nothing is left behind.
func TestUnsupported(t *testing.T) {
	w := newWorld(t, "r")
	cause := unix.ENOSYS
	w.in("r", func() error {
		_, err := New(Config{Config: user.Config{Role: dataplane.Anchor, Local: []netip.Addr{conformance.LMAA}},
			Probe: Probe{Kernel: func() string { return "4.4.0-test" }, Programs: func() error { return cause }}})
		var u *Unsupported
		if !errors.As(err, &u) || !errors.Is(err, cause) || u.Kernel != "4.4.0-test" || !strings.Contains(err.Error(), "4.4.0-test") || !strings.Contains(err.Error(), "BPF") {
			t.Errorf("got %v", err)
		}
		if out, _ := command("ip", "link", "show", user.DefaultDevice); !strings.Contains(out, "does not exist") {
			t.Errorf("the device is there: %s", out)
		}
		return nil
	})
}

// TestProbe asks the kernel that runs, and one of each kind.
func TestProbe(t *testing.T) {
	if a := (Probe{}).Ask(); a.Lacking != nil || a.Attach == "" || a.Kernel == "" {
		t.Errorf("this kernel: %+v", a)
	}
	no := func() error { return unix.EINVAL }
	yes := func() error { return nil }
	a := Probe{Kernel: func() string { return "6.1" }, Programs: yes, TCX: no, Cross: no}.Ask()
	if a != (Ability{Kernel: "6.1", Attach: "clsact"}) {
		t.Errorf("an older kernel: %+v", a)
	}
	if a := (Probe{Programs: no}).Ask(); a.Attach != "" || !errors.Is(a.Lacking, unix.EINVAL) {
		t.Errorf("one without: %+v", a)
	}
}

// TestOlderKernel: without tcx by clsact, and what changes its family when it leaves a tunnel goes the slow way.
func TestOlderKernel(t *testing.T) {
	no := func() error { return unix.EINVAL }
	p := newPath(t, false, func(c *Config) { c.Probe = Probe{TCX: no, Cross: no} })
	if s := p.anchor.Status(); s.Attach != "clsact" || s.Cross {
		t.Errorf("status %+v", s)
	}
	p.fast("IPv6", "host", conformance.CN6, "cn")
	before, _ := slow(p.anchor, 1)
	p.flow("host", conformance.CN4, "cn", 100e6)
	if after, _ := slow(p.anchor, 1); after == before {
		t.Error("IPv4 out of IPv6 did not go the slow way")
	}
}

// TestObject: the committed object is what clang makes of the sources.
func TestObject(t *testing.T) {
	out, err := exec.Command("clang", "--version").Output()
	if err != nil || !bytes.Contains(out, []byte("version 14.")) {
		t.Fatalf("clang 14, with which the object was made, is needed (make setup): %v, %s", err, out)
	}
	made := filepath.Join(t.TempDir(), "kedge.o")
	if out, err := exec.Command("bpf/generate.sh", made).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	b, err := os.ReadFile(made)
	must(t, err)
	if !bytes.Equal(b, object) {
		t.Error("bpf/kedge.o is not what its sources say: run bpf/generate.sh and commit it")
	}
}
