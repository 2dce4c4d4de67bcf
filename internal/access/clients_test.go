package access

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"github.com/mdlayher/packet"
	"golang.org/x/sys/unix"

	"kedge/internal/core"
	"kedge/internal/spec"
	"kedge/internal/system/netns"
)

// air is an access network with real hosts: a bridge that all of them share, and links that take turns in serving it, as
// gateways would. What it grants is fixed.
type air struct {
	t      *testing.T
	hub    *netns.NS
	conn   *packet.Conn
	grants map[core.MAC]Grant
	delay  time.Duration // of the registration

	mu      sync.Mutex
	links   []*HomeLink
	at      map[core.MAC]int // which link serves the host
	pending map[core.MAC]bool
	seen    map[string]int // "MAC what" by count
	wake    chan struct{}
	due     chan core.MAC
	start   time.Time
}

// newAir makes the network. It serves until the test ends.
func newAir(t *testing.T, grants map[core.MAC]Grant, links ...LinkConfig) *air {
	t.Helper()
	a := &air{
		t: t, hub: netns.Test(t, "air"), grants: grants, delay: 50 * time.Millisecond, at: map[core.MAC]int{}, pending: map[core.MAC]bool{},
		seen: map[string]int{}, wake: make(chan struct{}, 1), due: make(chan core.MAC, 16), start: time.Now(),
	}
	for _, cfg := range links {
		a.links = append(a.links, NewHomeLink(cfg, middle{}))
	}
	netns.Must(t, a.hub.Sysctl("net.ipv6.conf.all.disable_ipv6", "1"))
	netns.Must(t, a.hub.Sysctl("net.ipv6.conf.default.disable_ipv6", "1"))
	netns.TestVeth(t, netns.End{NS: a.hub, Name: "acc0"}, netns.End{NS: a.hub, Name: "port0"})
	netns.Must(t, a.hub.Bridge("br0", "port0"))
	netns.Must(t, a.hub.Do(func() error {
		ifi, err := net.InterfaceByName("acc0")
		if err != nil {
			return err
		}
		if a.conn, err = packet.Listen(ifi, packet.Raw, unix.ETH_P_ALL, nil); err != nil {
			return err
		}
		return a.conn.SetPromiscuous(true)
	}))
	ctx, stop := context.WithCancel(context.Background())
	var done sync.WaitGroup
	frames := make(chan []byte, 64)
	done.Go(func() {
		b := make([]byte, 9000)
		for {
			n, _, err := a.conn.ReadFrom(b)
			if err != nil {
				return
			}
			select {
			case frames <- bytes.Clone(b[:n]):
			case <-ctx.Done():
				return
			}
		}
	})
	done.Go(func() { a.serve(ctx, frames) })
	t.Cleanup(func() {
		stop()
		a.conn.Close()
		done.Wait()
	})
	return a
}

func (a *air) now() core.Now {
	return core.Now{Boot: time.Hour + time.Since(a.start), Wall: time.Now()}
}

func (a *air) serve(ctx context.Context, frames <-chan []byte) {
	for {
		wait := time.Hour
		a.mu.Lock()
		for _, l := range a.links {
			if at, ok := l.Deadline(); ok {
				wait = min(wait, max(0, at-a.now().Boot))
			}
		}
		a.mu.Unlock()
		timer := time.NewTimer(wait)
		select {
		case <-ctx.Done():
			timer.Stop()
			return
		case b := <-frames:
			f, err := Decode(b)
			if f == nil || f.Src == routerMAC {
				break
			}
			a.mu.Lock()
			if err != nil {
				a.seen[fmt.Sprintf("%v error %v", f.Src, err)]++
			}
			if m, ok := f.Body.(*dhcpv4.DHCPv4); ok && m.MessageType() == dhcpv4.MessageTypeRequest &&
				f.DstIP == all4 && addr4(m.ClientIPAddr) == f.SrcIP && m.Options[54] == nil {
				a.seen[fmt.Sprintf("%v rebinding", f.Src)]++
			}
			l := a.links[a.at[f.Src]]
			a.carryOut(l.Handle(a.now(), f, nil))
			a.mu.Unlock()
		case mac := <-a.due:
			a.mu.Lock()
			a.pending[mac] = false
			a.carryOut(a.links[a.at[mac]].Grant(a.now(), mac, a.grants[mac], nil))
			a.mu.Unlock()
		case <-a.wake:
		case <-timer.C:
			a.mu.Lock()
			for _, l := range a.links {
				a.carryOut(l.Tick(a.now(), nil))
			}
			a.mu.Unlock()
		}
		timer.Stop()
	}
}

// carryOut registers a host that shows itself, after the delay that an anchor would need, and writes frames.
func (a *air) carryOut(out []Action) {
	for _, x := range out {
		switch x := x.(type) {
		case Transmit:
			b, err := x.Frame.Append(nil)
			if err != nil {
				a.t.Errorf("%+v: %v", x.Frame, err)
				continue
			}
			f := x.Frame.(*Frame)
			a.seen[fmt.Sprintf("%v sent %s", f.Dst, f.Kind())]++
			if _, err := a.conn.WriteTo(b, &packet.Addr{HardwareAddr: b[:6]}); err != nil {
				a.t.Errorf("send: %v", err)
			}
		case Attached:
			a.seen[fmt.Sprintf("%v %s", x.MAC, x.By)]++
			h := a.links[a.at[x.MAC]].hosts[x.MAC]
			if _, ok := a.grants[x.MAC]; ok && !a.pending[x.MAC] && (h == nil || h.stranger != nil) {
				a.pending[x.MAC] = true
				time.AfterFunc(a.delay, func() { a.due <- x.MAC })
			}
		case Renewed:
			a.seen[fmt.Sprintf("%v renewed", x.MAC)]++
		case Released:
			a.seen[fmt.Sprintf("%v released", x.MAC)]++
		case Refused:
			a.seen[fmt.Sprintf("%v refused %s", x.MAC, x.Reason)]++
		}
	}
}

// move lets another link serve the host, which knows nothing of it; the registration there is done.
func (a *air) move(mac core.MAC, to int) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.links[a.at[mac]].Forget(a.now(), mac, nil)
	a.at[mac] = to
	a.carryOut(a.links[to].Grant(a.now(), mac, a.grants[mac], nil))
	a.nudge()
}

// change grants the host something else.
func (a *air) change(mac core.MAC, g Grant) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.grants[mac] = g
	a.carryOut(a.links[a.at[mac]].Grant(a.now(), mac, g, nil))
	a.nudge()
}

func (a *air) nudge() {
	select {
	case a.wake <- struct{}{}:
	default:
	}
}

func (a *air) count(what string, args ...any) int {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.seen[fmt.Sprintf(what, args...)]
}

func (a *air) log() string {
	a.mu.Lock()
	defer a.mu.Unlock()
	var lines []string
	for k, n := range a.seen {
		lines = append(lines, fmt.Sprintf("%4d %s", n, k))
	}
	slices.Sort(lines)
	return strings.Join(lines, "\n")
}

// host is a real host's namespace with its interface h0 on the bridge.
type realHost struct {
	t    *testing.T
	ns   *netns.NS
	a    *air
	dir  string
	name string
}

func (a *air) host(name string, mac core.MAC, v6 bool) *realHost {
	a.t.Helper()
	h := &realHost{t: a.t, ns: netns.Test(a.t, name), a: a, dir: a.t.TempDir(), name: name}
	if !v6 {
		netns.Must(a.t, h.ns.Sysctl("net.ipv6.conf.default.disable_ipv6", "1"))
	}
	netns.TestVeth(a.t, netns.End{NS: h.ns, Name: "h0", MAC: mac}, netns.End{NS: a.hub, Name: "p" + name})
	netns.Must(a.t, a.hub.Attach("p"+name, "br0"))
	// The client scripts of this test do what the distribution's do, without touching this machine's files.
	script := `#!/bin/sh
echo "reason=$reason$1 ip=$new_ip_address$ip mask=$new_subnet_mask$subnet server=$new_dhcp_server_identifier$serverid mtu=$new_interface_mtu$mtu dns=$new_domain_name_servers$dns domain=$new_domain_name$domain router=$new_routers$router" >> ` + h.dir + `/events
case "$reason$1" in
BOUND|RENEW|REBIND|REBOOT|bound|renew)
	ip addr replace "$new_ip_address$ip/$new_subnet_mask$subnet" dev h0
	ip route replace default via "$new_routers$router" ;;
PREINIT|deconfig) ip link set h0 up ;;
esac
`
	netns.Must(a.t, os.WriteFile(filepath.Join(h.dir, "script"), []byte(script), 0o755))
	return h
}

// start runs a client until the test ends; it gets its own files and mounts.
func (h *realHost) start(shell string) {
	h.t.Helper()
	cmd := exec.Command("unshare", "-m", "--propagation", "private", "sh", "-c", shell)
	out, err := os.Create(filepath.Join(h.dir, "output"))
	netns.Must(h.t, err)
	cmd.Stdout, cmd.Stderr, cmd.Dir = out, out, h.dir
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	netns.Must(h.t, h.ns.Start(cmd))
	h.t.Cleanup(func() {
		syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
		cmd.Wait()
		out.Close()
		if h.t.Failed() {
			b, _ := os.ReadFile(out.Name())
			h.t.Logf("%s said:\n%s\nevents:\n%s", h.name, b, h.events())
		}
	})
}

func (h *realHost) events() string {
	b, _ := os.ReadFile(filepath.Join(h.dir, "events"))
	return string(b)
}

func (h *realHost) run(args ...string) string {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	out, err := h.ns.Run(ctx, args[0], args[1:]...)
	if err != nil {
		return out + err.Error()
	}
	return out
}

// wait polls until ok.
func (h *realHost) wait(what string, within time.Duration, ok func() bool) {
	h.t.Helper()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	end := time.After(within)
	for !ok() {
		select {
		case <-tick.C:
		case <-end:
			h.t.Fatalf("%s: no %s within %v\n%s\n%s\nlink:\n%s", h.name, what, within, h.run("ip", "addr", "show", "h0"), h.run("ip", "-6", "route"), h.a.log())
		}
	}
}

// has4 waits for the address and the route to its subnet, which some clients set in a second step.
func (h *realHost) has4(p netip.Prefix) func() bool {
	return func() bool {
		return strings.Contains(h.run("ip", "-4", "addr", "show", "h0"), "inet "+p.String()) &&
			strings.Contains(h.run("ip", "-4", "route"), p.Masked().String())
	}
}

// has6 waits for a usable address of the prefix and a default route by the router.
func (h *realHost) has6(p netip.Prefix) func() bool {
	return func() bool {
		list, err := h.ns.Addrs("h0")
		return err == nil && slices.ContainsFunc(list, func(x netip.Prefix) bool { return p.Contains(x.Addr()) }) &&
			!strings.Contains(h.run("ip", "-6", "addr", "show", "h0"), "tentative") &&
			strings.Contains(h.run("ip", "-6", "route"), "default via "+routerLL.String())
	}
}

// reaches pings the router and looks into the neighbour cache.
func (h *realHost) reaches(router string) {
	h.t.Helper()
	target := router
	if strings.HasPrefix(router, "fe80") {
		target += "%h0"
	}
	if out := h.run("ping", "-c", "1", "-W", "2", target); !strings.Contains(out, " 1 received") && !strings.Contains(out, "1 packets received") {
		h.t.Errorf("%s does not reach %s: %s", h.name, router, out)
	}
	h.resolves(router)
}

// resolves wants the router's MAC for an address.
func (h *realHost) resolves(ip string) {
	h.t.Helper()
	h.wait("router's MAC for "+ip, 3*time.Second, func() bool {
		return strings.Contains(h.run("ip", "neigh", "show", ip, "dev", "h0"), "lladdr "+routerMAC.String())
	})
}

func macN(n byte) core.MAC { return core.MAC{2, 0, 0, 0, 1, n} }

func grantN(n byte) Grant {
	return Grant{
		Prefixes: []netip.Prefix{netip.PrefixFrom(netip.AddrFrom16([16]byte{0x20, 1, 0xd, 0xb8, 0x10, 0, 0, n}), 64)},
		IPv4:     netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 20, 0, n}), 24), Router4: router4, Valid: 10 * time.Minute,
	}
}

// The retransmissions are fast, so that one falls between T2 and the end of a short lease.
const dhclient = `touch leases && echo "initial-interval 1; backoff-cutoff 1;" > conf &&
	exec dhclient -4 -d -v -sf "$PWD/script" -lf "$PWD/leases" -pf "$PWD/pid" -cf "$PWD/conf" h0`

// Real clients take what a link sends, all on one bridge, each with its own address and prefix.
func TestRealClients(t *testing.T) {
	grants := map[core.MAC]Grant{}
	for n := byte(11); n <= 14; n++ {
		grants[macN(n)] = grantN(n)
	}
	a := newAir(t, grants, config())

	kernel := a.host("slaac", macN(11), true)
	isc := a.host("isc", macN(12), false)
	busybox := a.host("busybox", macN(13), false)
	roy := a.host("dhcpcd", macN(14), true)
	isc.start(dhclient)
	busybox.start(`exec udhcpc -f -B -i h0 -t 10 -T 1 -s "$PWD/script" -O mtu`)
	roy.start(`mkdir -p /run/dhcpcd && mount -t tmpfs none /run && mount -t tmpfs none /var/lib/dhcpcd && mkdir -p /run/dhcpcd &&
		exec dhcpcd -B -d -f /dev/null -c "$PWD/script" h0`)

	for _, x := range []struct {
		h *realHost
		n byte
	}{{isc, 12}, {busybox, 13}, {roy, 14}} {
		home := grantN(x.n).IPv4
		x.h.wait("address "+home.String(), 30*time.Second, x.h.has4(home))
		x.h.reaches(router4.String())
		// Another host of the subnet is behind the router too.
		x.h.run("ping", "-c", "1", "-W", "1", "10.20.0.200")
		x.h.resolves("10.20.0.200")
	}
	kernel.wait("address by SLAAC", 15*time.Second, kernel.has6(grantN(11).Prefixes[0]))
	roy.wait("address by SLAAC", 15*time.Second, roy.has6(grantN(14).Prefixes[0]))
	kernel.reaches(routerLL.String())
	roy.reaches(routerLL.String())

	for h, n := range map[*realHost]byte{isc: 12, busybox: 13} {
		want := fmt.Sprintf("ip=10.20.0.%d mask=255.255.255.0 server=10.20.0.1 mtu=1460 dns=10.20.0.53 domain=example.net router=10.20.0.1", n)
		if got := h.events(); !strings.Contains(got, want) {
			t.Errorf("%s was told %s, want %s", h.name, got, want)
		}
	}
	if mtu := kernel.run("cat", "/proc/sys/net/ipv6/conf/h0/mtu"); strings.TrimSpace(mtu) != "1460" {
		t.Errorf("the kernel's IPv6 MTU is %s", mtu)
	}
	// Nobody heard another host's advertisement (RFC 6085): one prefix each.
	if list, _ := kernel.ns.Addrs("h0"); len(list) != 2 {
		t.Errorf("the kernel has %v, want a link-local address and one of its prefix", list)
	}

	// The router asks whether they are still there, and each answers.
	for n := byte(11); n <= 14; n++ {
		mac := macN(n)
		before := a.count("%v na", mac) + a.count("%v arp", mac)
		a.mu.Lock()
		a.carryOut(a.links[0].Probe(a.now(), mac, nil))
		a.mu.Unlock()
		kernel.wait(fmt.Sprintf("answer of %v to the probe", mac), 3*time.Second, func() bool {
			return a.count("%v na", mac)+a.count("%v arp", mac) > before
		})
	}

	// Everything is taken back: no default route, and the address only for what goes on already.
	a.change(macN(11), Grant{})
	kernel.wait("withdrawal", 5*time.Second, func() bool {
		return !strings.Contains(kernel.run("ip", "-6", "route"), "default") && strings.Contains(kernel.run("ip", "-6", "addr", "show", "h0"), "deprecated")
	})
	a.mu.Lock()
	defer a.mu.Unlock()
	for what, n := range a.seen {
		if strings.Contains(what, "refused") || strings.Contains(what, "error") {
			t.Errorf("%d times %s", n, what)
		}
	}
}

// Document 001 with real time: a host moves without noticing, is not answered for the server that it left, goes to
// REBINDING after T2, and finds its new server.
func TestRealClientRebinds(t *testing.T) {
	spec.Covers(t, "S001-3.2.2-56")
	one, two := config(), config()
	one.DHCP = DHCPConfig{OwnID: true, Own: addr("10.20.0.2"), Lease: 12 * time.Second}
	two.DHCP = DHCPConfig{OwnID: true, Own: addr("10.20.0.3"), Lease: 12 * time.Second}
	mac := macN(15)
	a := newAir(t, map[core.MAC]Grant{mac: grantN(15)}, one, two)
	h := a.host("rebinds", mac, false)
	h.start(dhclient)
	server := func(ip string) func() bool {
		return func() bool { return strings.Contains(h.events(), "ip=10.20.0.15 mask=255.255.255.0 server="+ip) }
	}
	h.wait("lease of the first gateway", 20*time.Second, server("10.20.0.2"))
	a.move(mac, 1)
	h.wait("request for the server that it left", 10*time.Second, func() bool { return a.count("%v refused foreign-server", mac) > 0 })
	h.wait("lease of the second gateway", 10*time.Second, server("10.20.0.3"))
	if a.count("%v rebinding", mac) == 0 {
		t.Error("no broadcast request without server identifier came")
	}
	if a.count("%v renewed", mac) == 0 {
		t.Error("the renewal was not reported")
	}
	if !h.has4(grantN(15).IPv4)() || strings.Contains(h.events(), "EXPIRE") || strings.Contains(h.events(), "FAIL") {
		t.Errorf("the address was lost: %s", h.events())
	}
}
