package uml

import (
	"bufio"
	"context"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"kedge/internal/core"
	"kedge/internal/dataplane/user"
	"kedge/internal/system/netns"
)

// The addresses of all judgements: a home agent and a care-of address on the wire, a correspondent behind the home agent, and home addresses.
var (
	lmaa6, lmaa4 = netip.MustParseAddr("2001:db8:a::1"), netip.MustParseAddr("198.51.100.1")
	coa6, coa4   = netip.MustParseAddr("2001:db8:a::11"), netip.MustParseAddr("198.51.100.11")
	cn6, cn4     = netip.MustParseAddr("2001:db8:c::c"), netip.MustParseAddr("203.0.113.9")
	hoa6, hoa4   = netip.MustParseAddr("2001:db8:1000:1::a"), netip.MustParseAddr("10.20.0.10")
)

const (
	wireMTU = 1500
	port    = "5201"
)

// site is a guest and the namespaces of the Kedge side, the first of which has a link eth0 on the guest's wire.
type site struct {
	*testing.T
	g    *Guest
	edge *netns.NS
	port string // of edge on the guest's bridge
}

func newSite(t *testing.T, modules ...string) *site { return newSiteOf(t, 1, modules...) }

// newSiteOf is one whose guest has several interfaces.
func newSiteOf(t *testing.T, links int, modules ...string) *site {
	t.Helper()
	s := &site{T: t, edge: newSpace(t)}
	dir := t.TempDir()
	var err error
	s.g, err = Boot(t.Context(), Config{Programs: programs, Dir: dir, Links: links})
	netns.Must(t, err)
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("console of the guest: %s", s.g.Console())
		}
		netns.Must(t, s.g.Close())
	})
	netns.Must(t, s.g.Load(t.Context(), append([]string{"ipv6"}, modules...)...))
	netns.Must(t, s.g.Sysctl(t.Context(), "net/ipv6/conf/all/accept_dad=0", "net/ipv6/conf/default/accept_dad=0", "net/ipv6/icmp/ratelimit=0", "net/ipv4/icmp_ratemask=0",
		"net/ipv4/conf/all/rp_filter=0", "net/ipv4/conf/default/rp_filter=0"))
	s.ip("link set lo up", "link set vec0 up")
	s.port, err = s.g.Connect(0, s.edge, "eth0", wireMTU)
	netns.Must(t, err)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	netns.Must(t, s.edge.WaitUp(ctx, "eth0"))
	return s
}

// patience is for whatever a test waits for.
const patience = 60 * time.Second

// newSpace is a network namespace of an ordinary router.
func newSpace(t *testing.T) *netns.NS {
	t.Helper()
	n, err := netns.Anonymous()
	if err != nil {
		t.Fatalf("%v: run this test as root", err)
	}
	t.Cleanup(func() { netns.Must(t, n.Close()) })
	for _, k := range []string{"ipv6.conf.all.accept_dad", "ipv6.conf.default.accept_dad", "ipv6.icmp.ratelimit", "ipv4.icmp_ratemask", "ipv4.conf.all.rp_filter", "ipv4.conf.default.rp_filter"} {
		netns.Must(t, n.Sysctl("net."+k, "0"))
	}
	return n
}

// ip runs lines of ip(8) in the guest.
func (s *site) ip(lines ...string) {
	s.Helper()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(s.Context()), patience)
	defer cancel()
	netns.Must(s, s.g.IP(ctx, lines...))
}

// at runs lines of ip(8) in a namespace.
func (s *site) at(n *netns.NS, lines ...string) {
	s.Helper()
	netns.Must(s, n.IP(s.Context(), lines...))
}

// plane opens a data plane in a namespace.
func (s *site) plane(n *netns.NS, c user.Config) (p *user.Plane) {
	s.Helper()
	netns.Must(s, n.Do(func() (err error) { p, err = user.New(c); return err }))
	s.Cleanup(func() { netns.Must(s, p.Close()) })
	return p
}

// side is where small programs run: in the guest, or in a namespace.
type side struct {
	name string
	ns   *netns.NS // nil: the guest
}

var guestSide = side{name: "guest"}

// tool runs one of command guest's programs to its end.
func (s *site) tool(at side, args ...string) (string, error) {
	s.Helper()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(s.Context()), patience)
	defer cancel()
	if at.ns == nil {
		return s.g.Run(ctx, append([]string{"guest"}, args...)...)
	}
	c := exec.CommandContext(ctx, programs.Guest, args...)
	var out strings.Builder
	c.Stdout, c.Stderr = &out, &out
	err := at.ns.Start(c)
	if err == nil {
		err = c.Wait()
	}
	if err != nil {
		err = fmt.Errorf("%s: %w: %s", at.name, err, &out)
	}
	return out.String(), err
}

// serve starts one of its programs and waits until it says that it is ready.
func (s *site) serve(at side, args ...string) {
	s.Helper()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(s.Context()), patience)
	defer cancel()
	if at.ns == nil {
		c := s.g.Start(append([]string{"guest"}, args...)...)
		s.Cleanup(c.Stop)
		if l, err := c.Line(ctx); err != nil || l != "ready" {
			s.Fatalf("%v: %q, %v", args, l, err)
		}
		return
	}
	c := exec.Command(programs.Guest, args...)
	var errs strings.Builder
	c.Stderr = &errs
	r, w, err := os.Pipe()
	netns.Must(s, err)
	c.Stdout = w
	err = at.ns.StartChild(c)
	w.Close()
	netns.Must(s, err)
	s.Cleanup(func() {
		_ = c.Process.Kill()
		_ = c.Wait()
		r.Close()
	})
	netns.Must(s, r.SetReadDeadline(time.Now().Add(patience)))
	if l, err := bufio.NewReader(r).ReadString('\n'); err != nil || l != "ready\n" {
		s.Fatalf("%s %v: %q, %v: %s", at.name, args, l, err, &errs)
	}
}

// nft sets rules of nftables in a namespace.
func (s *site) nft(n *netns.NS, rules string) {
	s.Helper()
	_, err := n.Run(s.Context(), "nft", rules)
	netns.Must(s, err)
}

// talk has two sides exchange datagrams of all lengths and an octet stream, whose far end is an address of the other side.
func (s *site) talk(from side, to netip.Addr, octets int, lengths ...string) {
	s.Helper()
	s.talkFrom(from, netip.IPv6Unspecified(), to, octets, lengths...)
}

// talkFrom does so from an address.
func (s *site) talkFrom(from side, own, to netip.Addr, octets int, lengths ...string) {
	s.Helper()
	if _, err := s.tool(from, append([]string{"udp", "@" + own.String(), to.String(), port, "0", "0"}, lengths...)...); err != nil {
		s.Errorf("datagrams to %v: %v", to, err)
		return
	}
	out, err := s.tool(from, "stream", "@"+own.String(), to.String(), port, fmt.Sprint(octets))
	if err != nil {
		s.Errorf("TCP to %v: %v", to, err)
		return
	}
	s.Logf("TCP from %s to %v: %s", from.name, to, strings.TrimSpace(out))
}

func ap(a netip.Addr) netip.AddrPort { return netip.AddrPortFrom(a, 0) }

func single(a netip.Addr) netip.Prefix { return netip.PrefixFrom(a, a.BitLen()) }

// chain is one of layers, innermost first.
func chain(layers ...core.Layer) (c core.Chain) {
	c.N = uint8(copy(c.Layer[:], layers))
	return c
}
