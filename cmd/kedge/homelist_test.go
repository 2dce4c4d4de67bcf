package main

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"kedge/internal/core"
	"kedge/internal/lab/daemontest"
	"kedge/internal/spec"
	"kedge/internal/system/netns"
	"kedge/wire/nd"
)

// homeLAN is a home link with two anchors, and a router of another make that leads to a host elsewhere.
type homeLAN struct {
	t           *testing.T
	dir         string
	ha          [2]*netns.NS
	router, far *netns.NS
}

var (
	lanAgents = []netip.Addr{netip.MustParseAddr("2001:db8:1::1"), netip.MustParseAddr("2001:db8:1::2")}
	farHost   = netip.MustParseAddr("2001:db8:f::7")
)

func newHomeLAN(t *testing.T) *homeLAN {
	l := &homeLAN{t: t, dir: t.TempDir()}
	lan := netns.Test(t, "lan")
	l.router, l.far = netns.Test(t, "router"), netns.Test(t, "far")
	pfx := netip.MustParsePrefix
	join := func(ns *netns.NS, port, addr string) {
		netns.TestVeth(t, netns.End{NS: ns, Name: "lan0", Addrs: []netip.Prefix{pfx(addr)}}, netns.End{NS: lan, Name: port})
	}
	for i := range l.ha {
		l.ha[i] = netns.Test(t, fmt.Sprintf("ha%d", i+1))
		join(l.ha[i], fmt.Sprintf("p%d", i+1), lanAgents[i].String()+"/64")
		netns.Must(t, l.ha[i].Route(pfx("::/0"), netip.MustParseAddr("2001:db8:1::5"), "lan0"))
	}
	join(l.router, "p5", "2001:db8:1::5/64")
	netns.Must(t, lan.Bridge("br0", "p1", "p2", "p5"))
	netns.TestVeth(t, netns.End{NS: l.router, Name: "out0", Addrs: []netip.Prefix{pfx("2001:db8:f::1/64")}},
		netns.End{NS: l.far, Name: "out0", Addrs: []netip.Prefix{netip.PrefixFrom(farHost, 64)}})
	netns.Must(t, l.router.Sysctl("net.ipv6.conf.all.forwarding", "1"))
	netns.Must(t, l.far.Route(pfx("::/0"), netip.MustParseAddr("2001:db8:f::1"), "out0"))
	return l
}

// anchor starts the home agent of a place, with a preference.
func (l *homeLAN) anchor(i, preference int) *process {
	return daemonIn(l.t, l.ha[i], l.dir, fmt.Sprintf("ha%d", i+1), fmt.Sprintf(`
dataplane: user
anchor:
  addresses: ["%s"]
  home-link: { interface: lan0 }
  discovery: { advertise: true, interval: 1s, min-interval: 500ms, lifetime: 3s, router-lifetime: 0s, preference: %d }
  pools: [ { name: home, prefix: "2001:db8:9::/48" } ]
  services: { dsmip6: {} }
`, lanAgents[i], preference))
}

// listed waits until an anchor lists just these other home agents, the best first.
func (l *homeLAN) listed(p *process, want ...netip.Addr) {
	l.t.Helper()
	daemontest.Until(l.t, 15*time.Second, func() error {
		st, err := p.Status(l.t.Context())
		if err != nil {
			return err
		}
		var got []netip.Addr
		var all []core.HomeAgentStatus
		for _, r := range st.Roles {
			for _, a := range r.HomeAgents {
				got = append(got, a.Addresses...)
			}
			all = append(all, r.HomeAgents...)
		}
		if !slices.Equal(got, want) {
			return fmt.Errorf("listed are %+v, want %v", all, want)
		}
		return nil
	})
}

// ask sends a request for home agents from the host elsewhere and gives the answer and where it came from.
func (l *homeLAN) ask(to netip.Addr, id uint16) (reply *nd.HomeAgentAddressDiscoveryReply, from netip.Addr, err error) {
	err = l.far.Do(func() error {
		c, err := net.ListenIP("ip6:ipv6-icmp", nil)
		if err != nil {
			return err
		}
		defer c.Close()
		b, err := nd.Append(nil, &nd.HomeAgentAddressDiscoveryRequest{ID: id}, farHost, to)
		if err != nil {
			return err
		}
		if _, err := c.WriteTo(b, &net.IPAddr{IP: to.AsSlice()}); err != nil {
			return err
		}
		if err := c.SetReadDeadline(time.Now().Add(3 * time.Second)); err != nil {
			return err
		}
		buf := make([]byte, 2048)
		for {
			n, src, err := c.ReadFromIP(buf)
			if err != nil {
				return err
			}
			if buf[0] != nd.TypeHomeAgentAddressDiscoveryReply {
				continue
			}
			from, _ = netip.AddrFromSlice(src.IP)
			m, err := nd.Parse(slices.Clone(buf[:n]), nd.Envelope{Src: from, Dst: farHost})
			if err != nil {
				return err
			}
			reply = m.(*nd.HomeAgentAddressDiscoveryReply)
			return nil
		}
	})
	return reply, from, err
}

// answered waits until the anycast address answers with just these home agents, in this order.
func (l *homeLAN) answered(want ...netip.Addr) {
	l.t.Helper()
	id := uint16(0)
	daemontest.Until(l.t, 15*time.Second, func() error {
		id++
		reply, from, err := l.ask(nd.HomeAgentsAnycast(netip.MustParsePrefix("2001:db8:1::/64")), id)
		if err != nil {
			return err
		}
		if !slices.Contains(lanAgents, from) || reply.ID != id || !slices.Equal(reply.Addresses, want) {
			return fmt.Errorf("%+v from %v, want %v", reply, from, want)
		}
		return nil
	})
}

// TestHomeAgentsFindEachOther: two anchors of one link list each other by their advertisements, a request to the anycast address is
// answered by one of them with both in order, one that dies disappears; radvd's home agent is listed too.
func TestHomeAgentsFindEachOther(t *testing.T) {
	spec.Covers(t, "RFC6275-10.5", "RFC6275-8.4", "RFC6275-7.1")
	l := newHomeLAN(t)
	first, second := l.anchor(0, 5), l.anchor(1, 9)
	l.listed(first, lanAgents[1])
	l.listed(second, lanAgents[0])
	l.answered(lanAgents[1], lanAgents[0])
	if reply, from, err := l.ask(lanAgents[0], 4711); err != nil || from != lanAgents[0] || reply.ID != 4711 {
		t.Errorf("asked by its own address: %+v from %v, %v", reply, from, err)
	}
	for _, ns := range l.ha { // no host fights for the address with duplicate address detection
		if out := output(t, ns, "ip", "-6", "addr", "show", "dev", "lan0"); strings.Contains(out, "dadfailed") {
			t.Error(out)
		}
	}
	radvd(t, l.router, l.dir)
	router := netip.MustParseAddr("2001:db8:1::5")
	l.listed(first, router, lanAgents[1])
	l.answered(router, lanAgents[1], lanAgents[0])
	second.Kill()
	l.listed(first, router)
	l.answered(router, lanAgents[0])
}

// radvd advertises a home agent of preference 20 on lan0, until the test ends.
func radvd(t *testing.T, ns *netns.NS, dir string) {
	t.Helper()
	conf := filepath.Join(dir, "radvd.conf")
	netns.Must(t, os.WriteFile(conf, []byte(`interface lan0 {
	AdvSendAdvert on; MinRtrAdvInterval 3; MaxRtrAdvInterval 4; AdvIntervalOpt on;
	AdvHomeAgentFlag on; AdvHomeAgentInfo on; HomeAgentLifetime 1000; HomeAgentPreference 20;
	prefix 2001:db8:1::5/64 { AdvOnLink on; AdvAutonomous on; AdvRouterAddr on; };
};
`), 0o600))
	ctx, cancel := context.WithCancel(context.Background())
	cmd := exec.CommandContext(ctx, "radvd", "-n", "-m", "stderr", "-C", conf, "-p", filepath.Join(dir, "radvd.pid"))
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
	var log strings.Builder
	cmd.Stderr = &log
	netns.Must(t, ns.Do(cmd.Start))
	t.Cleanup(func() {
		cancel()
		_ = cmd.Wait()
		if t.Failed() {
			t.Logf("radvd: %s", log.String())
		}
	})
}

// TestHomeAgentOfRoutedHome: without a home link the home agent owns the anycast address of the home subnets all the same, on its own
// device, and answers for itself.
func TestHomeAgentOfRoutedHome(t *testing.T) {
	l := newHomeLAN(t)
	for _, plane := range []string{"user", "auto"} {
		name := "ha-" + plane
		p := daemonIn(t, l.ha[0], l.dir, name, fmt.Sprintf(`
dataplane: %s
security: { peers: [ { name: laptop, protection: none, addresses: ["2001:db8:f::/64"] } ] }
anchor:
  addresses: ["%s"]
  discovery: {}
  pools: [ { name: home, prefix: "2001:db8:9::/48" } ]
  services: { dsmip6: {} }
  subscribers: { list: [ { id: laptop@example.net, hoa: "2001:db8:9:1::5/64", peer: laptop } ] }
`, plane, lanAgents[0]))
		if plane == "user" {
			netns.Must(t, l.router.Route(netip.MustParsePrefix("2001:db8:9::/48"), lanAgents[0], "lan0"))
		}
		daemontest.Until(t, 15*time.Second, func() error {
			reply, from, err := l.ask(nd.HomeAgentsAnycast(netip.MustParsePrefix("2001:db8:9:1::/64")), 5)
			if err == nil && (from != lanAgents[0] || !slices.Equal(reply.Addresses, lanAgents[:1])) {
				err = fmt.Errorf("%+v from %v", reply, from)
			}
			return err
		})
		if err := p.End(syscall.SIGINT); err != nil { // programs in the kernel end with it
			t.Error(err)
		}
	}
}
