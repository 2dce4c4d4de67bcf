package user

import (
	"bytes"
	"errors"
	"net"
	"net/netip"
	"os"
	"slices"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"go.uber.org/goleak"

	"kedge/internal/dataplane/conformance"
	"kedge/wire/ip"
)

func TestAccessLinkIsPutBack(t *testing.T) {
	outside, inside := namespaces(t)
	link(t, outside, inside, "acc1")
	lo, err := netlink.LinkByName("lo")
	must(t, err)
	must(t, netlink.LinkSetUp(lo))
	read := func() (all []string) {
		for _, s := range []string{"ipv6/conf/acc1/disable_ipv6", "ipv4/conf/acc1/forwarding", "ipv4/conf/acc1/arp_ignore", "ipv4/conf/acc1/rp_filter"} {
			b, err := os.ReadFile("/proc/sys/net/" + s)
			must(t, err)
			all = append(all, string(bytes.TrimSpace(b)))
		}
		return all
	}
	sysctl(t, "ipv4/conf/acc1/arp_ignore", "2")
	sysctl(t, "ipv4/conf/acc1/forwarding", "1")
	before := read()
	p, err := New(Config{Role: Gateway, Local: []netip.Addr{conformance.CoA1}, Access: []Link{{Name: "acc1", MAC: conformance.RouterMAC}}})
	must(t, err)
	if got := read(); !slices.Equal(got, []string{"1", "0", "8", "1"}) {
		t.Errorf("while it runs: %v", got)
	}
	must(t, p.Close())
	must(t, p.Close()) // once more does nothing
	if got := read(); !slices.Equal(got, before) {
		t.Errorf("after it: %v, want %v", got, before)
	}
	for name, c := range map[string]Config{
		"no such link":       {Role: Gateway, Local: []netip.Addr{conformance.CoA1}, Access: []Link{{Name: "acc9", MAC: conformance.RouterMAC}}},
		"no address":         {Role: Anchor},
		"a name too long":    {Role: Anchor, Local: []netip.Addr{conformance.LMAA}, Device: "a-name-that-is-too-long"},
		"no MAC of a router": {Role: Gateway, Local: []netip.Addr{conformance.CoA1}, Access: []Link{{Name: "acc1"}}},
	} {
		if p, err := New(c); err == nil {
			p.Close()
			t.Errorf("%s: accepted", name)
		}
	}
	if got := read(); !slices.Equal(got, before) {
		t.Errorf("after failures: %v, want %v", got, before)
	}
}

func TestDeviceInUse(t *testing.T) {
	defer goleak.VerifyNone(t)
	namespaces(t)
	one, err := New(Config{Role: Anchor, Local: []netip.Addr{conformance.LMAA}})
	must(t, err)
	if _, err := New(Config{Role: Anchor, Local: []netip.Addr{conformance.LMAA}}); err == nil || !bytes.Contains([]byte(err.Error()), []byte("running already")) {
		t.Errorf("a second one: %v", err)
	}
	l, err := netlink.LinkByName(one.Device())
	must(t, err)
	if l.Attrs().Alias != Tag || l.Attrs().MTU != ip.MaxPacket || l.Attrs().Flags&net.FlagUp == 0 {
		t.Errorf("device %+v", l.Attrs())
	}
	must(t, one.Close())
	select {
	case err := <-one.Failed():
		t.Errorf("Close is told as a failure: %v", err)
	default:
	}
	if _, err := netlink.LinkByName(one.Device()); err == nil {
		t.Error("the device is still there after Close")
	}
	two, err := New(Config{Role: Anchor, Local: []netip.Addr{conformance.LMAA}})
	must(t, err)
	must(t, two.Close())
}

// TestDeviceRemoved: a plane whose device somebody removes says so, for it never carries anything again.
func TestDeviceRemoved(t *testing.T) {
	defer goleak.VerifyNone(t)
	namespaces(t)
	p, err := New(Config{Role: Anchor, Local: []netip.Addr{conformance.LMAA}})
	must(t, err)
	select {
	case err := <-p.Failed():
		t.Fatalf("failed at once: %v", err)
	default:
	}
	l, err := netlink.LinkByName(p.Device())
	must(t, err)
	must(t, netlink.LinkDel(l))
	select {
	case err := <-p.Failed():
		if !bytes.Contains([]byte(err.Error()), []byte("kedge0 was removed")) {
			t.Error(err)
		}
	case <-time.After(5 * time.Second):
		t.Error("nothing was said within 5 s")
	}
	must(t, p.Close())
}

// TestSettingsByTheCaller: with a function for settings the plane changes none by itself.
func TestSettingsByTheCaller(t *testing.T) {
	outside, inside := namespaces(t)
	link(t, outside, inside, "acc1")
	var asked []string
	refuse := errors.New("the journal cannot be written")
	cfg := Config{Role: Gateway, Local: []netip.Addr{conformance.CoA1}, Access: []Link{{Name: "acc1", MAC: conformance.RouterMAC}},
		Sysctl: func(name, value string) error { asked = append(asked, name+"="+value); return nil }}
	p, err := New(cfg)
	must(t, err)
	must(t, p.Close())
	if want := "net/ipv6/conf/acc1/disable_ipv6=1"; !slices.Contains(asked, want) || len(asked) != 4 {
		t.Errorf("asked for %q, want %s and three more", asked, want)
	}
	b, err := os.ReadFile("/proc/sys/net/ipv6/conf/acc1/disable_ipv6")
	must(t, err)
	if string(bytes.TrimSpace(b)) != "0" {
		t.Error("the plane changed the setting by itself")
	}
	cfg.Sysctl = func(string, string) error { return refuse }
	if _, err := New(cfg); !errors.Is(err, refuse) {
		t.Errorf("settings that cannot be made: %v", err)
	}
}

// TestOneDeviceOnePlane: a device is one plane's, however many queues the kernel would give to others, until it closes.
func TestOneDeviceOnePlane(t *testing.T) {
	namespaces(t)
	lo, err := netlink.LinkByName("lo")
	must(t, err)
	must(t, netlink.LinkSetUp(lo))
	c := Config{Role: Anchor, Local: []netip.Addr{conformance.LMAA}, Device: "kedge7"}
	first, err := New(c)
	must(t, err)
	other := c
	other.Local = []netip.Addr{netip.MustParseAddr("2001:db8:a::2")} // its sockets are others
	if second, err := New(other); !errors.Is(err, errInUse) {
		if err == nil {
			second.Close()
		}
		t.Errorf("a second plane: %v", err)
	}
	must(t, first.Close())
	next, err := New(c)
	must(t, err)
	must(t, next.Close())
}
