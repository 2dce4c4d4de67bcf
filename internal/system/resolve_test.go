package system

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"kedge/internal/core"
	"kedge/internal/spec"
	"kedge/internal/system/netns"
)

// inner is set in the process that asks: it has a network and a resolv.conf of its own.
const inner = "KEDGE_RESOLVE"

// TestResolve: a real dnsmasq is asked, from the address that it shall be asked from, for both families; a name without an address is
// an error, one of a single family is none.
func TestResolve(t *testing.T) {
	if q := os.Getenv(inner); q != "" {
		ask(t, q)
		return
	}
	spec.Covers(t, "RFC5555-2.1")
	ns, err := netns.Anonymous()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = ns.Close() })
	dir := t.TempDir()
	conf, log := filepath.Join(dir, "resolv.conf"), filepath.Join(dir, "queries")
	if err := os.WriteFile(conf, []byte("nameserver 192.0.2.53\nnameserver 2001:db8:53::53\nsearch evil.example\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	for _, args := range [][]string{{"link", "add", "net0", "type", "veth", "peer", "name", "net1"}, {"link", "set", "net0", "up"}, {"link", "set", "net1", "up"}, {"addr", "add", "192.0.2.53/24", "dev", "net0"},
		{"addr", "add", "192.0.2.7/24", "dev", "net0"}, {"addr", "add", "2001:db8:53::53/64", "dev", "net0", "nodad"}, {"addr", "add", "2001:db8:53::7/64", "dev", "net0", "nodad"}} {
		run(t, ns, exec.Command("ip", args...))
	}
	dns := exec.Command("dnsmasq", "-k", "-C", "/dev/null", "--no-resolv", "--no-hosts", "--user=root", "--log-queries", "--log-facility="+log, "--pid-file=",
		"--address=/ha.example.net/198.51.100.1", "--address=/ha.example.net/2001:db8:a::1", "--address=/six.example.net/2001:db8:a::6",
		"--address=/ha.example.net.evil.example/2001:db8:bad::1", "--local=/example.net/", "--local=/evil.example/")
	if err := ns.StartChild(dns); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = dns.Process.Kill(); _ = dns.Wait() })
	child := exec.Command("unshare", "-m", "sh", "-c", `mount --bind "$0" /etc/resolv.conf && exec "$@"`, conf, os.Args[0], "-test.run=^TestResolve$", "-test.v")
	for name, want := range map[string]string{
		"ha.example.net":   "198.51.100.1 2001:db8:a::1",
		"six.example.net.": "2001:db8:a::6",
		"none.example.net": "not found",
	} {
		c := exec.Command(child.Path, child.Args[1:]...)
		c.Env = append(os.Environ(), inner+"="+name)
		if out := run(t, ns, c); !strings.Contains(out, "answer: "+want+"\n") {
			t.Errorf("%s: want %s:\n%s", name, want, out)
		}
	}
	queries, err := os.ReadFile(log)
	if err != nil {
		t.Fatal(err)
	}
	if from := strings.Count(string(queries), "from 192.0.2.7"); from < 4 || strings.Contains(string(queries), "from 192.0.2.53") || strings.Contains(string(queries), "evil.example from") {
		t.Errorf("asked %d times from the care-of address:\n%s", from, queries)
	}
}

// ask is the test's other half. The name server may still be starting.
func ask(t *testing.T, host string) {
	q := core.Resolve{Host: host, From: []netip.Addr{netip.MustParseAddr("2001:db8:53::7"), netip.MustParseAddr("192.0.2.7")}}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	for {
		addrs, err := Resolve(ctx, q)
		var d *net.DNSError
		switch {
		case errors.As(err, &d) && d.IsNotFound:
			fmt.Println("answer: not found")
		case err != nil && ctx.Err() == nil:
			continue
		case err != nil:
			t.Fatal(err)
		default:
			slices.SortFunc(addrs, netip.Addr.Compare)
			fmt.Println("answer: " + strings.Trim(fmt.Sprint(addrs), "[]"))
		}
		return
	}
}

// run runs a command to its end inside a namespace.
func run(t *testing.T, ns *netns.NS, c *exec.Cmd) string {
	t.Helper()
	var out strings.Builder
	c.Stdout, c.Stderr = &out, &out
	if err := ns.StartChild(c); err != nil {
		t.Fatal(err)
	}
	if err := c.Wait(); err != nil {
		t.Fatalf("%v: %v\n%s", c.Args, err, out.String())
	}
	return out.String()
}

// TestResolveFrom: name servers of this machine and of a link are asked as they are.
func TestResolveFrom(t *testing.T) {
	of := []netip.Addr{netip.MustParseAddr("2001:db8:53::7"), netip.MustParseAddr("192.0.2.7")}
	for _, c := range []struct{ network, server, want string }{
		{"udp", "192.0.2.53:53", "192.0.2.7:0"}, {"tcp", "[2001:db8::53]:53", "[2001:db8:53::7]:0"},
		{"udp", "127.0.0.53:53", ""}, {"udp", "[::1]:53", ""}, {"udp", "[fe80::1%eth0]:53", ""}, {"udp", "nonsense", ""},
	} {
		got := ""
		if a := from(c.network, c.server, of); a != nil {
			got = a.String()
			if a.Network() != c.network {
				t.Errorf("%s: %s", c.server, a.Network())
			}
		}
		if got != c.want {
			t.Errorf("%s is asked from %q, want %q", c.server, got, c.want)
		}
	}
	if from("udp", "192.0.2.53:53", of[:1]) != nil {
		t.Error("from another family")
	}
}
