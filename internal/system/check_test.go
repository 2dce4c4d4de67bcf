package system

import (
	"encoding/json"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"testing"

	"kedge/internal/core"
	"kedge/internal/system/netns"
)

func TestMain(m *testing.M) {
	if os.Getenv("KEDGE_TEST_CHECK") != "" { // a child without privileges
		_ = json.NewEncoder(os.Stdout).Encode(Checks(Needs{Anchor: true, Gateway: true}))
		os.Exit(0)
	}
	os.Exit(m.Run())
}

func find(t *testing.T, all []Finding, name string) Finding {
	t.Helper()
	for _, f := range all {
		if f.Name == name {
			return f
		}
	}
	t.Fatalf("no finding %q in %+v", name, all)
	return Finding{}
}

// TestMobileChecks: what a mobile node and a home agent need beside the rest.
func TestMobileChecks(t *testing.T) {
	a := netns.Test(t, "a")
	must(t, a.Sysctl("net.ipv4.conf.all.rp_filter", "1"))
	must(t, a.Sysctl("net.ipv6.conf.all.disable_ipv6", "1"))
	check := func(n Needs) (all []Finding) {
		must(t, a.Do(func() error { all = Checks(n); return nil }))
		return all
	}
	all := check(Needs{Node: true})
	for name, want := range map[string]Severity{"TUN": Fine, "nftables": Fine, "UDP port 4191": Fine, "net.ipv4.conf.all.rp_filter": Advice, "net.ipv6.conf.all.disable_ipv6": Advice} {
		if f := find(t, all, name); f.Severity != want || want != Fine && f.Do == "" {
			t.Errorf("%+v", f)
		}
	}
	find(t, all, "optimistic addresses")
	must(t, a.Do(func() error {
		c, err := net.ListenPacket("udp4", ":4191")
		if err == nil {
			t.Cleanup(func() { c.Close() })
		}
		return err
	}))
	all = check(Needs{Anchor: true, HomeAgent: true})
	if f := find(t, all, "UDP port 4191"); f.Severity != Advice || f.Detail != "is in use" {
		t.Errorf("%+v", f)
	}
	for _, f := range check(Needs{Anchor: true}) {
		if f.Name == "nftables" || f.Name == "UDP port 4191" {
			t.Errorf("an anchor of gateways is asked for %s", f.Name)
		}
	}
	find(t, check(Needs{Gateway: true, Guarded: true}), "nftables")
}

func TestChecks(t *testing.T) {
	a := netns.Test(t, "a")
	netns.TestVeth(t,
		netns.End{NS: a, Name: "good"}, netns.End{NS: a, Name: "other"})
	netns.TestVeth(t,
		netns.End{NS: a, Name: "numbered", Addrs: []netip.Prefix{pfx("192.0.2.1/24"), pfx("2001:db8::1/64")}}, netns.End{NS: a, Name: "port"})
	must(t, a.Bridge("br0", "port"))
	must(t, a.Sysctl("net.ipv4.ip_forward", "1"))
	must(t, a.Sysctl("net.ipv6.conf.all.forwarding", "0"))
	var all []Finding
	must(t, a.Do(func() error {
		all = Checks(Needs{Anchor: true, Gateway: true, Access: []string{"good", "numbered", "port", "lo", "nosuch"}, Addresses: []string{"2001:db8::1", "2001:db8::2"}})
		return nil
	}))
	for name, want := range map[string]struct {
		s  Severity
		do string
	}{
		"kernel": {Fine, ""}, "CAP_NET_ADMIN": {Fine, ""}, "CAP_NET_RAW": {Fine, ""}, "raw socket 135": {Fine, ""}, "TUN": {Fine, ""}, "packet socket": {Fine, ""},
		"net.ipv4.ip_forward":          {Fine, ""},
		"net.ipv6.conf.all.forwarding": {Advice, "kedge run sets it to 1"},
		"access link good":             {Fine, ""},
		"access link numbered":         {Fatal, "remove it"},
		"access link port":             {Advice, "name br0 instead"},
		"access link nosuch":           {Fatal, "correct its name"},
		"address 2001:db8::1":          {Fine, ""},
		"address 2001:db8::2":          {Fatal, "ip addr add 2001:db8::2/128"},
	} {
		f := find(t, all, name)
		if f.Severity != want.s || !strings.Contains(f.Do, want.do) || f.Detail == "" || f.Severity != Fine && f.Do == "" {
			t.Errorf("%s: %+v, want %s, %q", name, f, want.s, want.do)
		}
	}
	// A check leaves no device behind.
	if links := ip(t, a, "-o", "link"); strings.Contains(links, "kedgecheck") {
		t.Errorf("left over: %s", links)
	}
}

func TestChecksWithoutPrivilege(t *testing.T) {
	exe := t.TempDir() + "/check"
	b, err := os.ReadFile(os.Args[0])
	must(t, err)
	must(t, os.WriteFile(exe, b, 0o755))
	must(t, os.Chmod(t.TempDir(), 0o755))
	cmd := exec.Command("setpriv", "--bounding-set=-all", "--inh-caps=-all", "--", exe)
	cmd.Env = append(os.Environ(), "KEDGE_TEST_CHECK=1")
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	var all []struct{ Name, Severity, Detail, Do string }
	must(t, json.Unmarshal(out, &all))
	for _, name := range []string{"CAP_NET_ADMIN", "CAP_NET_RAW", "raw socket 135", "packet socket", "TUN"} {
		found := false
		for _, f := range all {
			if f.Name == name {
				found = true
				if f.Severity != "fatal" || f.Do == "" {
					t.Errorf("without privilege %s is %+v", name, f)
				}
			}
		}
		if !found {
			t.Errorf("no finding %s", name)
		}
	}
}

func TestKernelVersion(t *testing.T) {
	for _, c := range []struct {
		release      string
		major, minor int
		ok           bool
	}{
		{"6.18.44-fc-v657", 6, 18, true}, {"5.4", 5, 4, true}, {"4.19.0-amd64", 4, 19, true}, {"6.1+debian", 6, 1, true}, {"", 0, 0, false}, {"six", 0, 0, false},
	} {
		if major, minor, ok := kernelVersion(c.release); ok != c.ok || ok && (major != c.major || minor != c.minor) {
			t.Errorf("%q: %d.%d %v", c.release, major, minor, ok)
		}
	}
}

func TestErrorText(t *testing.T) {
	err := &core.OpError{Index: 0, Err: explain(core.HostOp{Kind: "route", Prefix: pfx("10.0.0.0/8"), Name: "d0"}, fmt.Errorf("x: %w", os.ErrPermission))}
	if want := "set route 10.0.0.0/8 dev d0: x: permission denied: run with CAP_NET_ADMIN (as root, or AmbientCapabilities=CAP_NET_ADMIN CAP_NET_RAW in the unit)"; err.Error() != want {
		t.Errorf("error reads %q", err)
	}
}
