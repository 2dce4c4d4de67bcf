package main

import (
	"bytes"
	"context"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"kedge/internal/api"
	"kedge/internal/core"
	"kedge/internal/lab/daemontest"
	"kedge/internal/spec"
	"kedge/internal/system/netns"
)

// TestMain makes a daemon of the test's own program, so that tests have real processes that can be killed.
func TestMain(m *testing.M) {
	if os.Getenv("KEDGE_TEST_DAEMON") != "" {
		ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
		defer stop()
		os.Exit(cli(ctx, os.Args[1:], os.Stdout, os.Stderr))
	}
	os.Exit(m.Run())
}

// process is a daemon in a namespace.
type process struct {
	*daemontest.Daemon
	t *testing.T
}

// daemonIn starts one with a config, in a directory where its socket, store and keys are. before is what the program is run by, if anything.
func daemonIn(t *testing.T, ns *netns.NS, dir, name, text string, before ...string) *process {
	t.Helper()
	args := append(before, os.Args[0])
	cmd := exec.Command(args[0], args[1:]...)
	cmd.Env = append(os.Environ(), "KEDGE_TEST_DAEMON=1")
	return &process{daemontest.Start(t, ns, cmd, dir, name, text), t}
}

// association is the first of a direction.
func (p *process) association(direction string) api.Association {
	p.t.Helper()
	return p.Association(func(a api.Association) bool { return a.Direction == direction })
}

// output runs a program in a namespace.
func output(t *testing.T, ns *netns.NS, args ...string) string {
	t.Helper()
	var out []byte
	netns.Must(t, ns.Do(func() (err error) { out, err = exec.Command(args[0], args[1:]...).CombinedOutput(); return err }))
	return string(out)
}

// reaches waits for an answer to a ping.
func reaches(t *testing.T, ns *netns.NS, to string) {
	t.Helper()
	daemontest.Until(t, 5*time.Second, func() error {
		return ns.Do(func() error { return exec.Command("ping", "-n", "-c", "1", "-W", "1", to).Run() })
	})
}

// pairOf makes keys and gives both items of security.peers, with addresses if there are any.
func pairOf(t *testing.T, dir, name, self, nameAddr, selfAddr string) (here, there string) {
	t.Helper()
	pair := keysNamed(t, dir, name, self)
	with := func(item, addr string) string {
		if addr == "" {
			return item
		}
		return strings.Replace(item, ", esp:", `, addresses: ["`+addr+`"], esp:`, 1)
	}
	return with(pair.Here.Peer, nameAddr), with(pair.There.Peer, selfAddr)
}

// laptop4 is the care-of address of both tests with a laptop.
var laptop4 = netip.MustParseAddr("198.51.100.7")

// TestNodeAndHomeAgent: a laptop in an IPv4 network registers both home addresses through ESP, is reached there, survives the
// crash of its home agent and its own, and leaves nothing behind when it is stopped.
func TestNodeAndHomeAgent(t *testing.T) {
	ha, node := netns.Test(t, "ha"), netns.Test(t, "node")
	px := netip.MustParsePrefix
	netns.TestVeth(t,
		netns.End{NS: ha, Name: "core0", Addrs: []netip.Prefix{px("2001:db8:a::1/64"), px("198.51.100.1/24")}},
		netns.End{NS: node, Name: "eth0", Addrs: []netip.Prefix{px("198.51.100.7/24")}})
	output(t, node, "ip", "route", "add", "default", "via", "198.51.100.1")
	before := hostState(t, node)
	dir := t.TempDir()
	here, there := pairOf(t, dir, "laptop", "ha1", "", "")
	haText := `security: { peers: [ ` + here + ` ] }
anchor:
  addresses: ["2001:db8:a::1", 198.51.100.1]
  pools: [ { name: home6, prefix: "2001:db8:2000::/64" }, { name: home4, prefix: 10.20.0.0/16 } ]
  services: { dsmip6: { private-care-of: accept } }
  subscribers: { list: [ { id: laptop@example.net, hoa: "2001:db8:2000::5/64", peer: laptop } ] }
`
	nodeText := `security: { peers: [ ` + there + ` ] }
node:
  anchor: { name: ha1, addresses: ["2001:db8:a::1", 198.51.100.1] }
  home: { v6: "2001:db8:2000::5/64" }
  links: [ { match: "eth*" } ]
  timers: { lifetime: 40s }
`
	agent := daemonIn(t, ha, dir, "ha1", haText)
	laptop := daemonIn(t, node, dir, "laptop", nodeText)
	b := agent.Bound("active", laptop4)
	if b.ID != "laptop@example.net" || b.Kind != "host" || len(b.Home) != 2 {
		t.Errorf("%+v", b)
	}
	laptop.Bound("active", laptop4)
	reaches(t, ha, "2001:db8:2000::5")
	for _, h := range b.Home {
		if h.Addr().Is4() {
			reaches(t, ha, h.Addr().String())
		}
	}
	reaches(t, node, "2001:db8:a::1")
	if a := agent.association("in"); a.Peer != "laptop" || a.Packets == 0 || a.BadICV+a.Replayed != 0 {
		t.Errorf("%+v", a)
	}

	// The home agent dies: bindings and sequence numbers outlive it.
	used := agent.association("out").Sequence
	agent.Kill()
	agent = daemonIn(t, ha, dir, "ha1", haText)
	agent.Bound("active", laptop4)
	reaches(t, ha, "2001:db8:2000::5")

	// The node dies: its device and addresses stay, and the next one goes on.
	laptop.Kill()
	if s := output(t, node, "ip", "addr", "show", "dev", "kedge0"); !strings.Contains(s, "2001:db8:2000::5") {
		t.Errorf("a crash takes the home address away:\n%s", s)
	}
	laptop = daemonIn(t, node, dir, "laptop", nodeText)
	laptop.Bound("active", laptop4)
	reaches(t, ha, "2001:db8:2000::5")
	// What it sends now is answered, with numbers that were never used before.
	daemontest.Until(t, 10*time.Second, func() error {
		if a := agent.association("out"); a.Packets == 0 || a.Sequence <= used {
			return fmt.Errorf("%+v, %d were used before", a, used)
		}
		return nil
	})

	var out bytes.Buffer
	if code := cli(t.Context(), []string{"stop", "-s", filepath.Join(dir, "laptop.sock")}, &out, &out); code != 0 {
		t.Fatalf("stop: %d %s", code, &out)
	}
	if err := laptop.Wait(); err != nil {
		t.Errorf("a stopped node ends with %v", err)
	}
	agent.Bound("deprecated", netip.Addr{})
	if after := hostState(t, node); after != before {
		t.Errorf("left behind: before\n%s\nafter\n%s", before, after)
	}
}

// TestInterruptedNode: who ends a node at a terminal gets the machine back as it was; SIGTERM leaves the addresses to the next start.
func TestInterruptedNode(t *testing.T) {
	ha, node := netns.Test(t, "ha"), netns.Test(t, "node")
	px := netip.MustParsePrefix
	netns.TestVeth(t,
		netns.End{NS: ha, Name: "core0", Addrs: []netip.Prefix{px("2001:db8:a::1/64"), px("198.51.100.1/24")}},
		netns.End{NS: node, Name: "eth0", Addrs: []netip.Prefix{px("198.51.100.7/24")}})
	output(t, node, "ip", "route", "add", "default", "via", "198.51.100.1")
	before := hostState(t, node)
	dir := t.TempDir()
	agent := daemonIn(t, ha, dir, "ha1", `security: { peers: [ { name: laptop, protection: none } ] }
anchor:
  addresses: ["2001:db8:a::1", 198.51.100.1]
  pools: [ { name: home6, prefix: "2001:db8:2000::/64" } ]
  services: { dsmip6: {} }
  subscribers: { list: [ { id: laptop@example.net, v4: none, hoa: "2001:db8:2000::5/64", peer: laptop } ] }
`)
	text := `security: { peers: [ { name: ha1, protection: none } ] }
node:
  anchor: { name: ha1, addresses: ["2001:db8:a::1", 198.51.100.1] }
  home: { v6: "2001:db8:2000::5/64", v4: none }
  links: [ { match: "eth*" } ]
`
	end := func(p *process, by syscall.Signal) {
		t.Helper()
		if err := p.End(by); err != nil {
			t.Errorf("%v: %v", by, err)
		}
	}
	laptop := daemonIn(t, node, dir, "laptop", text)
	agent.Bound("active", laptop4)
	laptop.Bound("active", netip.Addr{})
	end(laptop, syscall.SIGTERM)
	if s := output(t, node, "ip", "addr", "show", "dev", "kedge0"); !strings.Contains(s, "2001:db8:2000::5") {
		t.Errorf("SIGTERM takes the home address away:\n%s", s)
	}
	agent.Bound("active", laptop4)
	laptop = daemonIn(t, node, dir, "laptop", text)
	laptop.Bound("active", netip.Addr{})
	end(laptop, syscall.SIGINT)
	agent.Bound("deprecated", netip.Addr{})
	if after := hostState(t, node); after != before {
		t.Errorf("left behind: before\n%s\nafter\n%s", before, after)
	}
}

// hostState is what a daemon may change on a host.
func hostState(t *testing.T, ns *netns.NS) string {
	t.Helper()
	var b strings.Builder
	for _, c := range [][]string{
		{"ip", "-br", "link"}, {"ip", "-4", "rule"}, {"ip", "-6", "rule"}, {"ip", "-4", "route", "show", "table", "all"}, {"nft", "list", "ruleset"},
		{"sysctl", "net.ipv6.conf.eth0.accept_ra", "net.ipv6.conf.eth0.autoconf", "net.ipv6.conf.eth0.optimistic_dad", "net.ipv6.conf.eth0.use_optimistic"},
	} {
		fmt.Fprintf(&b, "%s:\n%s", strings.Join(c, " "), output(t, ns, c...))
	}
	return b.String()
}

// TestGatewayThroughESP: proxy registrations and heartbeats go through ESP, nothing of them is in the clear, and a
// crash of either end costs no sequence number twice.
func TestGatewayThroughESP(t *testing.T) {
	lma, mag := netns.Test(t, "lma"), netns.Test(t, "mag")
	host := netns.Test(t, "host")
	px := netip.MustParsePrefix
	netns.TestVeth(t,
		netns.End{NS: lma, Name: "core0", Addrs: []netip.Prefix{px("2001:db8:a::1/64")}},
		netns.End{NS: mag, Name: "core0", Addrs: []netip.Prefix{px("2001:db8:a::11/64")}})
	netns.TestVeth(t, netns.End{NS: mag, Name: "acc0"}, netns.End{NS: host, Name: "eth0", MAC: core.MAC{2, 0, 0, 0, 0, 0x0a}})
	dir := t.TempDir()
	here, there := pairOf(t, dir, "mag1", "lma1", "2001:db8:a::11", "2001:db8:a::1")
	lmaText := `security: { peers: [ ` + here + ` ] }
anchor:
  addresses: ["2001:db8:a::1"]
  pools: [ { name: hnp, prefix: "2001:db8:1000::/36" } ]
  services: { pmip6: { gateways: [mag1] } }
  subscribers: { list: [ { id: "02-00-00-00-00-0a@example.net", families: [v6] } ] }
`
	magText := `security: { peers: [ ` + there + ` ] }
gateway:
  address: "2001:db8:a::11"
  anchors: [ { name: lma1, address: "2001:db8:a::1" } ]
  access: [ { interface: acc0, identity: { realm: example.net }, families: [v6] } ]
`
	wire := filepath.Join(dir, "core.pcap")
	capture := exec.Command("tcpdump", "--immediate-mode", "-U", "-i", "core0", "-w", wire, "ip6")
	said, err := os.Create(filepath.Join(dir, "tcpdump.log"))
	netns.Must(t, err)
	defer said.Close()
	capture.Stderr = said
	netns.Must(t, lma.Start(capture))
	daemontest.Until(t, 5*time.Second, func() error {
		b, err := os.ReadFile(said.Name())
		if err == nil && !bytes.Contains(b, []byte("listening")) {
			err = fmt.Errorf("tcpdump says %q", b)
		}
		return err
	})
	anchor := daemonIn(t, lma, dir, "lma1", lmaText)
	gateway := daemonIn(t, mag, dir, "mag1", magText)
	daemontest.Until(t, 10*time.Second, func() error {
		return gateway.Attach(t.Context(), core.Attach{If: "acc0", MAC: core.MAC{2, 0, 0, 0, 0, 0x0a}})
	})
	anchor.Bound("active", netip.Addr{})
	gateway.Bound("active", netip.Addr{})
	first := gateway.association("out")
	if first.Packets == 0 || gateway.association("in").Packets == 0 {
		t.Fatalf("nothing went through ESP: %+v", first)
	}

	gateway.Kill()
	gateway = daemonIn(t, mag, dir, "mag1", magText)
	daemontest.Until(t, 10*time.Second, func() error {
		return gateway.Attach(t.Context(), core.Attach{If: "acc0", MAC: core.MAC{2, 0, 0, 0, 0, 0x0a}})
	})
	gateway.Bound("active", netip.Addr{})
	if a := gateway.association("out"); a.Sequence <= first.Sequence {
		t.Errorf("sequence number %d after %d: used twice", a.Sequence, first.Sequence)
	}
	if a := anchor.association("in"); a.Replayed+a.BadICV != 0 {
		t.Errorf("the anchor refuses the restarted gateway: %+v", a)
	}

	// Another key is nobody's: what comes with it is refused and makes no binding, and neither does what comes in the clear.
	refused := func(reason string, text string) {
		t.Helper()
		gateway.Kill()
		gateway = daemonIn(t, mag, dir, "mag1", text)
		daemontest.Until(t, 10*time.Second, func() error {
			if err := gateway.Attach(t.Context(), core.Attach{If: "acc0", MAC: core.MAC{2, 0, 0, 0, 0, 0x0a}}); err != nil {
				return err
			}
			m, err := anchor.Metrics(t.Context())
			if want := `kedge_drops_total{layer="security",reason="` + reason + `",role="anchor"}`; err == nil && !strings.Contains(m, want) {
				err = fmt.Errorf("nothing is counted as %s", want)
			}
			return err
		})
		if list, err := anchor.Bindings(t.Context(), "", 0); err != nil || list.Total != 0 {
			t.Errorf("%s: %+v %v", reason, list, err)
		}
	}
	anchor.Kill()
	netns.Must(t, os.Remove(filepath.Join(dir, "lma1.db")))
	anchor = daemonIn(t, lma, dir, "lma1", lmaText)
	daemontest.Until(t, 10*time.Second, func() error { return anchor.Health(t.Context()) })
	for _, f := range []string{"here", "there"} {
		netns.Must(t, os.Remove(filepath.Join(dir, "keys/mag1."+f)))
	}
	keysNamed(t, dir, "mag1", "lma1")
	refused("bad-icv", magText)
	refused("unprotected", `security: { peers: [ { name: lma1, addresses: ["2001:db8:a::1"], protection: none } ] }`+magText[strings.IndexByte(magText, '\n'):])
	gateway.Kill()
	anchor.Kill()

	netns.Must(t, capture.Process.Signal(syscall.SIGTERM))
	_ = capture.Wait()
	protocols := output(t, lma, "tshark", "-r", wire, "-Y", "mipv6 || esp", "-T", "fields", "-e", "ipv6.src", "-e", "ipv6.nxt")
	for _, line := range strings.Split(protocols, "\n") {
		// The one in the clear is of the gateway that was told to go without.
		if strings.Contains(line, "135") && !strings.HasPrefix(line, "2001:db8:a::11") {
			t.Errorf("the anchor speaks in the clear: %s", line)
		}
	}
	if !strings.Contains(protocols, "2001:db8:a::11\t50") || !strings.Contains(protocols, "2001:db8:a::1\t50") {
		t.Errorf("no ESP on the wire:\n%s", protocols)
	}
	spec.Covers(t, "S001-3.2.2-11")
}
