package kernel

import (
	"bytes"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"testing"

	"github.com/vishvananda/netns"
)

// world is network namespaces of one test, without names.
type world struct {
	testing.TB
	spaces map[string]netns.NsHandle
}

func newWorld(t testing.TB, names ...string) *world {
	t.Helper()
	w := &world{t, map[string]netns.NsHandle{}}
	for _, name := range names {
		made := make(chan error)
		go func() {
			runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
			ns, err := netns.New()
			w.spaces[name] = ns
			made <- err
		}()
		if err := <-made; err != nil {
			t.Fatalf("network namespaces are needed, and root: %v", err)
		}
		t.Cleanup(func() { ns := w.spaces[name]; ns.Close() })
		w.sysctl(name, "ipv4/conf/all/rp_filter=0", "ipv4/conf/default/rp_filter=0", "ipv6/conf/default/accept_dad=0", "ipv6/conf/all/accept_dad=0",
			"ipv4/icmp_ratemask=0", "ipv6/icmp/ratelimit=0")
		w.ip(name, "link set lo up")
	}
	return w
}

// in runs f on a thread in a namespace.
func (w *world) in(space string, f func() error) {
	w.Helper()
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // never unlocked
		err := netns.Set(w.spaces[space])
		if err == nil {
			err = f()
		}
		done <- err
	}()
	if err := <-done; err != nil {
		w.Fatalf("%s: %v", space, err)
	}
}

// ip runs lines of ip(8) in a namespace.
func (w *world) ip(space string, lines ...string) {
	w.Helper()
	w.in(space, func() error {
		c := exec.Command("ip", "-batch", "-")
		c.Stdin = strings.NewReader(strings.Join(lines, "\n") + "\n")
		if out, err := c.CombinedOutput(); err != nil {
			return fmt.Errorf("ip: %w: %s", err, bytes.TrimSpace(out))
		}
		return nil
	})
}

// run runs a command in a namespace.
func (w *world) run(space string, args ...string) {
	w.Helper()
	w.in(space, func() error {
		if out, err := exec.Command(args[0], args[1:]...).CombinedOutput(); err != nil {
			return fmt.Errorf("%s: %w: %s", strings.Join(args, " "), err, bytes.TrimSpace(out))
		}
		return nil
	})
}

// sysctl sets settings below net, each name=value.
func (w *world) sysctl(space string, settings ...string) {
	w.Helper()
	w.in(space, func() error {
		for _, s := range settings {
			name, value, _ := strings.Cut(s, "=")
			if err := os.WriteFile("/proc/sys/net/"+name, []byte(value), 0); err != nil {
				return err
			}
		}
		return nil
	})
}

// veth joins two namespaces.
func (w *world) veth(a, an, b, bn string, mtu int) {
	w.Helper()
	w.in(a, func() error {
		// The peer goes where another thread is: its namespace by number of a file of this process.
		c := exec.Command("ip", "link", "add", an, "mtu", fmt.Sprint(mtu), "type", "veth", "peer", "name", bn, "netns", fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), w.spaces[b]), "mtu", fmt.Sprint(mtu))
		if out, err := c.CombinedOutput(); err != nil {
			return fmt.Errorf("%v: %w: %s", c.Args, err, out)
		}
		return nil
	})
	w.ip(a, "link set "+an+" up")
	w.ip(b, "link set "+bn+" up")
}

func prefix(a netip.Addr) string { return fmt.Sprintf("%v/%d", a, a.BitLen()) }
