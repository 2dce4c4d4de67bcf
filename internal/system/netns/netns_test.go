//go:build linux

package netns

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"kedge/internal/core"
)

func inode(t *testing.T) uint64 {
	t.Helper()
	var st unix.Stat_t
	if err := unix.Stat(fmt.Sprintf("/proc/self/task/%d/ns/net", unix.Gettid()), &st); err != nil {
		t.Fatal(err)
	}
	return st.Ino
}

func TestDoRunsInsideAndComesBack(t *testing.T) {
	a, b := Test(t, "a"), Test(t, "b")
	home := inode(t)
	var ia, ib uint64
	Must(t, a.Do(func() error {
		ia = inode(t)
		return b.Do(func() error { ib = inode(t); return nil }) // nested
	}))
	if ia == ib || ia == home || ib == home {
		t.Fatalf("inodes home %d, a %d, b %d: want three different ones", home, ia, ib)
	}
	// However many threads ran inside, no goroutine finds itself there afterwards.
	var wg sync.WaitGroup
	for range 64 {
		wg.Go(func() {
			if err := a.Do(func() error { return nil }); err != nil {
				t.Error(err)
			}
			if got := inode(t); got != home {
				t.Errorf("after Do a goroutine is in %d, want %d", got, home)
			}
		})
	}
	wg.Wait()
}

func TestDoPassesErrorAndPanic(t *testing.T) {
	n := Test(t, "n")
	want := errors.New("inside")
	if err := n.Do(func() error { return want }); err != want {
		t.Fatalf("Do = %v, want %v", err, want)
	}
	defer func() {
		if r := recover(); r != "boom" {
			t.Fatalf("recovered %v, want boom", r)
		}
	}()
	_ = n.Do(func() error { panic("boom") })
}

func TestNewTwiceAndLeftOverFile(t *testing.T) {
	n := Test(t, "n")
	if _, err := New(n.Name); !errors.Is(err, os.ErrExist) {
		t.Fatalf("second New = %v, want ErrExist", err)
	}
	names, err := List()
	if err != nil || !slices.Contains(names, n.Name) {
		t.Fatalf("List = %v, %v; want %s in it", names, err, n.Name)
	}
	// A crash between file and mount leaves a file that is no mount.
	left := n.Name + "x"
	Must(t, os.WriteFile(dir+"/"+left, nil, 0o444))
	Must(t, Delete(left))
	if names, _ := List(); slices.Contains(names, left) {
		t.Fatalf("%s is still there", left)
	}
	Must(t, Delete(left)) // again: no error
	for _, bad := range []string{"", "a/b", "..", ".hidden"} {
		if _, err := New(bad); err == nil {
			t.Fatalf("New(%q) succeeded", bad)
		}
	}
}

func TestClosed(t *testing.T) {
	n, err := New(fmt.Sprintf("kt%d-closed", os.Getpid()))
	Must(t, err)
	Must(t, n.Delete())
	if err := n.Do(func() error { return nil }); err == nil {
		t.Fatal("Do on a deleted namespace succeeded")
	}
	Must(t, n.Close())
}

func TestVethBridgeCommand(t *testing.T) {
	h, sw, r := Test(t, "h"), Test(t, "sw"), Test(t, "r")
	mac := core.MAC{2, 0, 0, 0, 0, 0x0a}
	TestVeth(t, End{NS: h, Name: "eth0", MAC: mac, Addrs: []netip.Prefix{netip.MustParsePrefix("192.0.2.1/24"), netip.MustParsePrefix("2001:db8::1/64")}}, End{NS: sw, Name: "p1"})
	TestVeth(t, End{NS: r, Name: "eth0", MTU: 1400, Addrs: []netip.Prefix{netip.MustParsePrefix("192.0.2.2/24"), netip.MustParsePrefix("2001:db8::2/64")}}, End{NS: sw, Name: "p2"})
	Must(t, sw.Bridge("br", "p1", "p2"))

	ctx := t.Context()
	for _, dst := range []string{"192.0.2.2", "2001:db8::2"} {
		if _, err := h.Run(ctx, "ping", "-c1", "-W5", dst); err != nil {
			t.Fatal(err)
		}
	}
	l, err := h.Link("eth0")
	Must(t, err)
	if got := l.Attrs().HardwareAddr.String(); got != mac.String() {
		t.Errorf("MAC = %s, want %s", got, mac)
	}
	l, err = r.Link("eth0")
	Must(t, err)
	if got := l.Attrs().MTU; got != 1400 {
		t.Errorf("MTU = %d, want 1400", got)
	}
	addrs, err := h.Addrs("eth0")
	Must(t, err)
	if !slices.Contains(addrs, netip.MustParsePrefix("2001:db8::1/64")) {
		t.Errorf("addresses = %v", addrs)
	}

	// A port that leaves the bridge is cut off, silently; the host keeps its carrier.
	Must(t, sw.Detach("p1"))
	if _, err := h.Run(ctx, "ping", "-c1", "-W1", "192.0.2.2"); err == nil {
		t.Error("ping through a detached port succeeded")
	}
	Must(t, h.WaitUp(ctx, "eth0"))
	Must(t, sw.Attach("p1", "br"))
	if _, err := h.Run(ctx, "ping", "-c1", "-W5", "192.0.2.2"); err != nil {
		t.Error(err)
	}
}

func TestCommandErrorNamesEverything(t *testing.T) {
	n := Test(t, "n")
	_, err := n.Run(t.Context(), "ip", "link", "show", "nosuch")
	if err == nil || !strings.Contains(err.Error(), n.Name) || !strings.Contains(err.Error(), "nosuch") {
		t.Fatalf("error = %v", err)
	}
	var exit *exec.ExitError
	if !errors.As(err, &exit) {
		t.Fatalf("error %T hides the exit status", err)
	}
	if err := n.Up("nosuch"); err == nil || !strings.Contains(err.Error(), n.Name) || !strings.Contains(err.Error(), "nosuch") {
		t.Fatalf("error = %v", err)
	}
	Must(t, n.DeleteLink("nosuch"))
}

func TestSysctlOfTheNamespaceOnly(t *testing.T) {
	a, b := Test(t, "a"), Test(t, "b")
	const key = "net.ipv4.ip_forward"
	before, err := b.GetSysctl(key)
	Must(t, err)
	flipped := map[string]string{"0": "1", "1": "0"}[before]
	Must(t, a.Sysctl(key, flipped))
	va, err := a.GetSysctl(key)
	Must(t, err)
	vb, err := b.GetSysctl(key)
	Must(t, err)
	if va != flipped || vb != before {
		t.Fatalf("a=%s b=%s, want %s and %s", va, vb, flipped, before)
	}
	if err := a.Sysctl("net.ipv4.no_such_thing", "1"); err == nil {
		t.Fatal("unknown sysctl accepted")
	}
}

func TestSocketStaysInside(t *testing.T) {
	n := Test(t, "n")
	var l net.Listener
	Must(t, n.Do(func() (err error) { l, err = net.Listen("tcp", "127.0.0.1:0"); return }))
	defer l.Close()
	if c, err := net.Dial("tcp", l.Addr().String()); err == nil {
		c.Close()
		t.Fatal("reached a listener of another namespace from here")
	}
	Must(t, n.Do(func() error {
		c, err := net.Dial("tcp", l.Addr().String())
		if err == nil {
			c.Close()
		}
		return err
	}))
}

func TestMoveRenameRoute(t *testing.T) {
	a, b := Test(t, "a"), Test(t, "b")
	Must(t, Veth(End{NS: a, Name: "v0"}, End{NS: a, Name: "v1"}))
	Must(t, a.Move("v1", b))
	Must(t, b.Rename("v1", "eth0"))
	Must(t, b.SetMAC("eth0", core.MAC{2, 0, 0, 0, 0, 9}))
	Must(t, b.SetMTU("eth0", 1280))
	Must(t, b.Up("eth0"))
	Must(t, b.AddAddr("eth0", netip.MustParsePrefix("192.0.2.1/24")))
	Must(t, b.Route(netip.MustParsePrefix("198.51.100.0/24"), netip.MustParseAddr("192.0.2.2"), ""))
	out, err := b.Run(context.Background(), "ip", "route", "get", "198.51.100.7")
	if err != nil || !strings.Contains(out, "via 192.0.2.2 dev eth0") {
		t.Fatalf("%s, %v", out, err)
	}
	if dev, err := b.RouteTo(netip.MustParseAddr("198.51.100.7")); err != nil || dev != "eth0" {
		t.Errorf("route to it: %q, %v", dev, err)
	}
	if dev, err := b.RouteTo(netip.MustParseAddr("203.0.113.7")); err == nil {
		t.Errorf("a route to nowhere: %q", dev)
	}
	if b.Index("eth0") == 0 || a.Index("v1") != 0 {
		t.Error("index of the moved link is wrong")
	}
	Must(t, b.DelAddr("eth0", netip.MustParsePrefix("192.0.2.1/24")))
	Must(t, b.DeleteLink("eth0"))
	if a.Index("v0") != 0 {
		t.Error("the other end outlived its pair")
	}
}
