package movement

import (
	"context"
	"crypto/rand"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"kedge/internal/core"
	"kedge/internal/loop"
	"kedge/internal/spec"
	"kedge/internal/system"
	"kedge/internal/system/netns"
)

// real is a machine in a namespace, over the kernel's links and addresses, with the daemon's loop.
type real struct {
	t    *testing.T
	ns   *netns.NS
	l    *loop.Loop
	m    *Machine // in the loop's goroutine only
	host *system.Host
	stop func()
	mu   sync.Mutex
	list []CareOf
	told []string // every head of the list, with its time
	wake chan struct{}
	t0   time.Time
}

// shown is a machine that shows its list.
type shown struct {
	*Machine
	r *real
}

func (s *shown) Handle(now core.Now, ev core.Event, out []core.Effect) []core.Effect {
	if c, ok := ev.(core.Command); ok {
		out = c.Body.(func(core.Now, []core.Effect) []core.Effect)(now, out)
		out = append(out, core.Reply{Ref: c.Ref})
	} else {
		out = s.Machine.Handle(now, ev, out)
	}
	if s.Changed() {
		s.r.mu.Lock()
		s.r.list = s.CareOfs()
		s.r.told = append(s.r.told, fmt.Sprintf("%6.1f ms %+v", float64(time.Since(s.r.t0).Microseconds())/1000, s.r.list))
		s.r.mu.Unlock()
		select {
		case s.r.wake <- struct{}{}:
		default:
		}
	}
	return out
}

// Emit and the others are the loop's observer: what the machine says is shown when the test fails.
func (r *real) Emit(_ core.Now, _ core.Shard, e core.Emit) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.told = append(r.told, fmt.Sprintf("%6.1f ms %s %s>%s %s %v", float64(time.Since(r.t0).Microseconds())/1000, e.Name, e.From, e.To, e.Why, e.Fields))
}
func (r *real) Message(core.Now, core.Shard, string, core.Path, any, error) {}
func (r *real) LoopLag(core.Shard, time.Duration)                           {}
func (r *real) StoreCommit(time.Duration)                                   {}

// startReal runs a machine in ns.
func startReal(t *testing.T, ns *netns.NS, cfg Config) *real {
	t.Helper()
	r := &real{t: t, ns: ns, wake: make(chan struct{}, 1), t0: time.Now()}
	m, err := New(cfg, rand.Reader)
	netns.Must(t, err)
	r.host, err = system.NewHost(system.Options{NS: ns, Journal: filepath.Join(t.TempDir(), "journal")})
	netns.Must(t, err)
	patterns := make([]string, 0, len(cfg.Links))
	for _, l := range cfg.Links {
		patterns = append(patterns, l.Match)
	}
	r.m = m
	r.l = loop.New(loop.Config{Name: "node", Machine: &shown{m, r}, Host: r.host, Ports: []loop.Port{{Kind: "links", Ifs: patterns}}, Observer: r})
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- r.l.Run(ctx) }()
	var once sync.Once
	r.stop = func() {
		once.Do(func() {
			cancel()
			if err := <-ended; err != nil {
				t.Errorf("the loop ended with %v", err)
			}
			netns.Must(t, r.host.Close())
		})
	}
	t.Cleanup(func() {
		r.stop()
		if t.Failed() {
			t.Log(strings.Join(r.told, "\n"))
		}
	})
	<-r.l.Ready()
	return r
}

// do calls the machine in its goroutine.
func (r *real) do(f func(core.Now, []core.Effect) []core.Effect) {
	r.t.Helper()
	if _, err := r.l.Command(context.Background(), f); err != nil {
		r.t.Fatal(err)
	}
}

// wait until the list is as wanted; it gives how long that took.
func (r *real) wait(what string, within time.Duration, ok func([]CareOf) bool) ([]CareOf, time.Duration) {
	r.t.Helper()
	start, end := time.Now(), time.After(within)
	for {
		r.mu.Lock()
		list := r.list
		r.mu.Unlock()
		if ok(list) {
			return list, time.Since(start)
		}
		select {
		case <-r.wake:
		case <-end:
			r.t.Fatalf("%s: not within %s, but %+v", what, within, list)
		}
	}
}

// in says whether an address of a prefix is offered on a link.
func in(link, p string) func([]CareOf) bool {
	return func(list []CareOf) bool { return has(list, link, p) != nil }
}

func has(list []CareOf, link, p string) *CareOf {
	for i, c := range list {
		if c.Link == link && netip.MustParsePrefix(p).Contains(c.Addr) {
			return &list[i]
		}
	}
	return nil
}

// radvd runs the real daemon on a link of ns.
func radvd(t *testing.T, ns *netns.NS, link string, options string) {
	t.Helper()
	dir := t.TempDir()
	conf := filepath.Join(dir, "radvd.conf")
	netns.Must(t, os.WriteFile(conf, fmt.Appendf(nil, `interface %s {
		AdvSendAdvert on; MinRtrAdvInterval 3; MaxRtrAdvInterval 4; AdvIntervalOpt on; MinDelayBetweenRAs 0.03; IgnoreIfMissing on;
		%s
	};`, link, options), 0o600))
	netns.Must(t, ns.Sysctl("net.ipv6.conf.all.forwarding", "1"))
	cmd := exec.Command("radvd", "-n", "-m", "logfile", "-l", filepath.Join(dir, "log"), "-C", conf, "-p", filepath.Join(dir, "pid"))
	netns.Must(t, ns.Start(cmd))
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		if t.Failed() {
			b, _ := os.ReadFile(filepath.Join(dir, "log"))
			t.Logf("radvd on %s: %s", link, b)
		}
	})
}

func prefixOn(p string) string {
	return fmt.Sprintf("prefix %s { AdvOnLink on; AdvAutonomous on; AdvValidLifetime 7200; AdvPreferredLifetime 3600; };", p)
}

// run is a command of iproute2 or the like in ns.
func run(t *testing.T, ns *netns.NS, args ...string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	out, err := ns.Run(ctx, args[0], args[1:]...)
	if err != nil {
		t.Fatalf("%v: %v: %s", args, err, out)
	}
	return out
}

// settings are those of a link that the machine changes.
func settings(t *testing.T, ns *netns.NS, link string) string {
	t.Helper()
	var out []string
	for _, s := range []string{"accept_ra", "autoconf", "optimistic_dad", "use_optimistic", "hop_limit", "addr_gen_mode"} {
		v, err := ns.GetSysctl("net.ipv6.conf." + link + "." + s)
		netns.Must(t, err)
		out = append(out, s+"="+v)
	}
	return strings.Join(out, " ")
}

// TestKernel: two links with real routers. The care-of address is there and carries packets while it is optimistic; a flap
// gives the same one back; another network gives another one; a stop leaves nothing.
func TestKernel(t *testing.T) {
	spec.Covers(t, "RFC6275-11.5.3")
	node, air := netns.Test(t, "node"), netns.Test(t, "air")
	// A switch with two networks, and the node's link on one or the other.
	for i, r := range []string{"ra0", "rb0"} {
		netns.TestVeth(t, netns.End{NS: air, Name: r, MAC: core.MAC{2, 0, 0, 0, 1, byte(i + 1)}}, netns.End{NS: air, Name: r + "p"})
	}
	netns.TestVeth(t, netns.End{NS: node, Name: "eth0", MAC: core.MAC{2, 0, 0, 0, 0, 1}}, netns.End{NS: air, Name: "port0"})
	netns.Must(t, air.Bridge("bra", "ra0p", "port0"))
	netns.Must(t, air.Bridge("brb", "rb0p"))
	netns.Must(t, air.AddAddr("ra0", netip.MustParsePrefix("2001:db8:a::1/64")))
	netns.Must(t, air.AddAddr("rb0", netip.MustParsePrefix("2001:db8:b::1/64")))
	radvd(t, air, "ra0", prefixOn(netA)+" AdvCurHopLimit 70; AdvLinkMTU 1400;")
	radvd(t, air, "rb0", prefixOn(netB)+" AdvCurHopLimit 70;")
	netns.Must(t, node.Sysctl("net.ipv6.conf.eth0.dad_transmits", "4")) // so that it is optimistic for long enough to look at
	before := settings(t, node, "eth0")

	r := startReal(t, node, Config{Links: []Pattern{{Match: "eth*", Prefer: 1}}})
	list, _ := r.wait("first address", 15*time.Second, in("eth0", netA))
	c := has(list, "eth0", netA)
	if c.MTU != 1400 || c.Prefix.String() != netA || !c.Router.IsLinkLocalUnicast() {
		t.Errorf("%+v", c)
	}
	if !c.Optimistic {
		t.Errorf("not optimistic: %+v", c)
	}
	// It carries packets at once, to a place that only its table leads to.
	run(t, node, "ping", "-6", "-c", "1", "-W", "3", "-I", c.Addr.String(), "2001:db8:b::1")
	if got := run(t, node, "ip", "-6", "addr", "show", "dev", "eth0"); !strings.Contains(got, "optimistic") {
		t.Errorf("it was not the optimistic address that carried it: %s", got)
	}
	r.wait("end of the test", 10*time.Second, func(l []CareOf) bool { x := has(l, "eth0", netA); return x != nil && !x.Optimistic })
	run(t, node, "ping", "-6", "-c", "1", "-W", "3", "-I", c.Addr.String(), "2001:db8:b::1")
	if got := settings(t, node, "eth0"); got != "accept_ra=0 autoconf=0 optimistic_dad=1 use_optimistic=1 hop_limit=70 addr_gen_mode=0" {
		t.Errorf("settings %s", got)
	}
	if got := run(t, node, "ip", "-6", "route", "show", "table", "main"); strings.Contains(got, "default") || !strings.Contains(got, "2001:db8:a::/64 dev eth0") {
		t.Errorf("main table: %s", got)
	}

	// A flap: the same address, a round trip after the carrier.
	netns.Must(t, air.Down("port0"))
	r.wait("carrier lost", 5*time.Second, func(l []CareOf) bool { return len(l) == 0 })
	netns.Must(t, air.Up("port0"))
	list, took := r.wait("carrier back", 15*time.Second, in("eth0", netA))
	if x := has(list, "eth0", netA); x.Addr != c.Addr || x.Optimistic {
		t.Errorf("was %+v, is %+v", c, x)
	}
	t.Logf("the same network again after %s", took)
	run(t, node, "ping", "-6", "-c", "1", "-W", "3", "-I", c.Addr.String(), "2001:db8:b::1")

	// Another network, with the carrier away for a moment, and back without a sign.
	netns.Must(t, air.Down("port0"))
	netns.Must(t, air.Attach("port0", "brb"))
	netns.Must(t, air.Up("port0"))
	list, took = r.wait("the other network", 15*time.Second, in("eth0", netB))
	t.Logf("another network after %s", took)
	run(t, node, "ping", "-6", "-c", "1", "-W", "3", "-I", has(list, "eth0", netB).Addr.String(), "2001:db8:a::1")
	r.wait("the old one gone", 10*time.Second, func(l []CareOf) bool { return len(l) == 1 })
	netns.Must(t, air.Attach("port0", "bra"))
	b := has(list, "eth0", netB).Addr
	r.do(func(now core.Now, out []core.Effect) []core.Effect { return r.m.Suspect(now, b, out) })
	list, took = r.wait("back without a sign", 15*time.Second, in("eth0", netA))
	if x := has(list, "eth0", netA); x.Addr != c.Addr {
		t.Errorf("was %s, is %s in the same network", c.Addr, x.Addr)
	}
	t.Logf("a silent move after %s", took)

	// A stop.
	r.do(func(now core.Now, out []core.Effect) []core.Effect { return r.m.Close(now, out) })
	r.wait("nothing", 5*time.Second, func(l []CareOf) bool { return len(l) == 0 })
	r.stop()
	if got := settings(t, node, "eth0"); got != before {
		t.Errorf("settings were %s, are %s", before, got)
	}
	for _, args := range [][]string{{"ip", "-6", "rule"}, {"ip", "-6", "addr"}, {"ip", "-6", "route", "show", "table", "all"}} {
		if got := run(t, node, args...); strings.Contains(got, "108") || strings.Contains(got, "2001:db8") {
			t.Errorf("%v: %s", args, got)
		}
	}
}

// TestKernelDuplicate: another node has the first identifier. The kernel finds out, or the machine itself; the second one is
// used, and the first is not left on the link.
func TestKernelDuplicate(t *testing.T) {
	for name, no := range map[string]bool{"optimistic": false, "own test": true} {
		t.Run(name, func(t *testing.T) {
			node, air := netns.Test(t, "node"), netns.Test(t, "air")
			mac, secret := core.MAC{2, 0, 0, 0, 0, 1}, []byte("0123456789abcdef")
			netns.TestVeth(t, netns.End{NS: node, Name: "eth0", MAC: mac}, netns.End{NS: air, Name: "ra0", MAC: core.MAC{2, 0, 0, 0, 1, 1}})
			first, second := stable(secret, netip.MustParsePrefix(netA), mac, 0), stable(secret, netip.MustParsePrefix(netA), mac, 1)
			netns.Must(t, air.AddAddr("ra0", netip.MustParsePrefix("2001:db8:a::1/64")))
			netns.Must(t, air.AddAddr("ra0", netip.PrefixFrom(first, 64)))
			radvd(t, air, "ra0", prefixOn(netA))
			r := startReal(t, node, Config{Links: []Pattern{{Match: "eth*"}}, Secret: secret, NoOptimistic: no})
			r.wait("second identifier", 15*time.Second, func(l []CareOf) bool {
				c := has(l, "eth0", netA)
				return c != nil && c.Addr == second && !c.Optimistic
			})
			if got := run(t, node, "ip", "-6", "addr", "show", "dev", "eth0"); strings.Contains(got, first.String()) {
				t.Errorf("the duplicate is still there: %s", got)
			}
			run(t, node, "ping", "-6", "-c", "1", "-W", "3", "-I", second.String(), "2001:db8:a::1")
		})
	}
}

// TestKernelHome: the node comes home. Its home address is with the home agent for the neighbours until it claims it; then it
// is with the node, and it works.
func TestKernelHome(t *testing.T) {
	node, air := netns.Test(t, "node"), netns.Test(t, "air")
	netns.TestVeth(t, netns.End{NS: node, Name: "eth0", MAC: core.MAC{2, 0, 0, 0, 0, 1}}, netns.End{NS: air, Name: "ra0", MAC: core.MAC{2, 0, 0, 0, 1, 1}})
	netns.Must(t, air.AddAddr("ra0", netip.MustParsePrefix("2001:db8:1::1/64")))
	netns.Must(t, air.AddAddr("ra0", netip.MustParsePrefix("203.0.113.1/24")))
	radvd(t, air, "ra0", prefixOn("2001:db8:1::/64"))
	cfg := homeConfig
	cfg.Links = []Pattern{{Match: "eth*"}}
	r := startReal(t, node, cfg)
	list, _ := r.wait("home link", 15*time.Second, in("eth0", "2001:db8:1::/64"))
	c := has(list, "eth0", "2001:db8:1::/64")
	if !c.Home || c.Addr == cfg.Home[0] {
		t.Fatalf("%+v", c)
	}
	// What the neighbours believe while the home agent defends.
	run(t, air, "ip", "neigh", "replace", "2001:db8:1::5", "lladdr", "02:00:00:00:09:09", "dev", "ra0", "nud", "reachable")
	run(t, air, "ip", "neigh", "replace", "203.0.113.5", "lladdr", "02:00:00:00:09:09", "dev", "ra0", "nud", "stale")
	run(t, node, "ip", "-6", "rule", "add", "from", "2001:db8:1::5", "lookup", "900", "prio", "9000")
	// Away, the default routes lead into the tunnel.
	netns.TestVeth(t, netns.End{NS: node, Name: "tun0"}, netns.End{NS: air, Name: "tun1"})
	tunnel := []core.HostOp{{Kind: "route", Prefix: netip.MustParsePrefix("::/0"), Table: 900, Name: "tun0"}, {Kind: "route", Prefix: netip.MustParsePrefix("0.0.0.0/0"), Table: 900, Name: "tun0"}}
	netns.Must(t, r.host.Apply(tunnel))
	r.do(func(now core.Now, out []core.Effect) []core.Effect { return r.m.ClaimHome(now, c.If, homeAddrs, out) })
	for _, a := range []string{"2001:db8:1::5", "203.0.113.5"} {
		ok := false
		for end := time.Now().Add(5 * time.Second); time.Now().Before(end) && !ok; {
			ok = strings.Contains(run(t, air, "ip", "neigh", "show", a), "02:00:00:00:00:01")
		}
		if !ok {
			t.Errorf("the neighbours think %s is elsewhere: %s", a, run(t, air, "ip", "neigh", "show", a))
		}
	}
	run(t, air, "ping", "-6", "-c", "1", "-W", "3", "2001:db8:1::5") // the first packet arrives
	run(t, node, "ping", "-6", "-c", "1", "-W", "3", "-I", "2001:db8:1::5", "2001:db8:1::1")
	if got := run(t, node, "ip", "-6", "addr", "show", "dev", "eth0"); !strings.Contains(got, "2001:db8:1::5/64 scope global nodad noprefixroute") {
		t.Errorf("addresses %s", got)
	}
	if got := run(t, node, "ip", "-6", "route", "show", "table", "900"); !strings.Contains(got, "default via fe80::") || !strings.Contains(got, "src 2001:db8:1::5") {
		t.Errorf("home table %s", got)
	}
	// Off again: the parent's routes take their place, and stay.
	netns.Must(t, r.host.Apply(tunnel))
	r.do(func(now core.Now, out []core.Effect) []core.Effect { return r.m.ReleaseHome(now, out) })
	r.do(func(now core.Now, out []core.Effect) []core.Effect { return r.m.Close(now, out) })
	r.wait("nothing", 5*time.Second, func(l []CareOf) bool { return len(l) == 0 })
	r.stop()
	if got := run(t, node, "ip", "-6", "route", "show", "table", "900"); !strings.Contains(got, "default dev tun0") || strings.Contains(got, "eth0") {
		t.Errorf("home table %s", got)
	}
	if got := run(t, node, "ip", "addr", "show", "dev", "eth0"); strings.Contains(got, "2001:db8:1::") || strings.Contains(got, "203.0.113.5") {
		t.Errorf("left: %s", got)
	}
}

// TestKernelIPv4: what a real DHCP client sets is taken, with its gateway, and leaves with the lease.
func TestKernelIPv4(t *testing.T) {
	node, air := netns.Test(t, "node"), netns.Test(t, "air")
	netns.TestVeth(t, netns.End{NS: node, Name: "eth0", MAC: core.MAC{2, 0, 0, 0, 0, 1}}, netns.End{NS: air, Name: "ra0", MAC: core.MAC{2, 0, 0, 0, 1, 1}})
	netns.TestVeth(t, netns.End{NS: air, Name: "x0"}, netns.End{NS: air, Name: "x1"})
	netns.Must(t, air.AddAddr("ra0", netip.MustParsePrefix("192.0.2.1/24")))
	netns.Must(t, air.AddAddr("x0", netip.MustParsePrefix("198.51.100.1/24")))
	r := startReal(t, node, Config{Links: []Pattern{{Match: "eth*"}}})
	spawn(t, air, "dnsmasq", "--no-daemon", "--port=0", "--interface=ra0", "--bind-interfaces", "--conf-file=/dev/null", "--dhcp-range=192.0.2.100,192.0.2.110,1h",
		"--dhcp-leasefile="+filepath.Join(t.TempDir(), "leases"), "--dhcp-authoritative")
	script := filepath.Join(t.TempDir(), "script")
	netns.Must(t, os.WriteFile(script, []byte(`#!/bin/sh
case $1 in
bound|renew) ip addr replace $ip/$mask dev $interface; ip route replace default via $router dev $interface;;
deconfig) ip addr flush dev $interface;;
esac
`), 0o700))
	spawn(t, node, "udhcpc", "-f", "-i", "eth0", "-s", script, "-t", "20", "-T", "1", "-R")
	list, _ := r.wait("lease", 10*time.Second, func(l []CareOf) bool {
		c := has(l, "eth0", "192.0.2.0/24")
		return c != nil && c.Network != ""
	})
	c := has(list, "eth0", "192.0.2.0/24")
	if c.Router.String() != "192.0.2.1" || c.Network != "192.0.2.0/24 02:00:00:00:01:01" {
		t.Errorf("%+v", c)
	}
	// Its packets leave by its table even if the main table leads elsewhere.
	run(t, node, "ip", "route", "replace", "unreachable", "198.51.100.0/24")
	run(t, node, "ping", "-4", "-c", "1", "-W", "3", "-I", c.Addr.String(), "198.51.100.1")
	netns.Must(t, air.Down("ra0"))
	r.wait("no carrier", 5*time.Second, func(l []CareOf) bool { return len(l) == 0 })
	netns.Must(t, air.Up("ra0"))
	_, took := r.wait("carrier back", 10*time.Second, in("eth0", "192.0.2.0/24"))
	t.Logf("the same network again after %s", took)
	run(t, node, "ip", "addr", "flush", "dev", "eth0", "scope", "global")
	r.wait("address gone", 5*time.Second, func(l []CareOf) bool { return len(l) == 0 })
	if got := run(t, node, "ip", "rule"); strings.Contains(got, "192.0.2") {
		t.Errorf("rules %s", got)
	}
}

// spawn runs a program in ns until the test ends.
func spawn(t *testing.T, ns *netns.NS, args ...string) {
	t.Helper()
	cmd := exec.Command(args[0], args[1:]...)
	netns.Must(t, ns.Start(cmd))
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
}

// TestKernelHotplug: a link that did not exist when the machine began.
func TestKernelHotplug(t *testing.T) {
	node, air := netns.Test(t, "node"), netns.Test(t, "air")
	netns.TestVeth(t, netns.End{NS: air, Name: "ra0", MAC: core.MAC{2, 0, 0, 0, 1, 1}}, netns.End{NS: air, Name: "ra0p"})
	netns.Must(t, air.Bridge("bra", "ra0p"))
	netns.Must(t, air.AddAddr("ra0", netip.MustParsePrefix("2001:db8:a::1/64")))
	radvd(t, air, "ra0", prefixOn(netA))
	r := startReal(t, node, Config{Links: []Pattern{{Match: "eth*"}}})
	for i := range 8 {
		netns.Must(t, netns.Veth(netns.End{NS: air, Name: "port0", Down: true}, netns.End{NS: node, Name: "eth0", MAC: core.MAC{2, 0, 0, 0, 0, byte(i)}, Down: true}))
		netns.Must(t, air.Attach("port0", "bra"))
		netns.Must(t, air.Up("port0"))
		netns.Must(t, node.Up("eth0"))
		_, took := r.wait("address", 15*time.Second, in("eth0", netA))
		t.Logf("address after %s", took)
		netns.Must(t, node.DeleteLink("eth0"))
		r.wait("gone", 5*time.Second, func(l []CareOf) bool { return len(l) == 0 })
	}
	if got := run(t, node, "ip", "-6", "rule"); strings.Contains(got, "2001:db8") {
		t.Errorf("rules %s", got)
	}
}
