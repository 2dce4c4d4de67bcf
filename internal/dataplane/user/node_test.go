package user

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os/exec"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"kedge/internal/core"
	"kedge/internal/dataplane"
	"kedge/internal/dataplane/conformance"
	"kedge/internal/spec"
	"kedge/wire"
)

// roaming is node - router - home agent - correspondent node, each in a namespace with an ordinary kernel. The node has two links
// to the router, and on the first an address that the router hides behind its own.
type roaming struct {
	path
	router netns.NsHandle
	node   *Plane
	device string
	seen   core.Chain // what the anchor's session has
}

var (
	home6  = conformance.H16
	home4  = conformance.H14
	coa6   = netip.MustParseAddr("2001:db8:e::2")
	coa4   = netip.MustParseAddr("192.0.2.2")
	hidden = netip.MustParseAddr("192.168.7.2") // behind the NAT
	hider  = netip.MustParseAddr("198.51.100.254")
	second = netip.MustParseAddr("192.0.2.130") // on the second link
)

const roamingProbe = 77

func newRoaming(t *testing.T) *roaming {
	r := &roaming{path: path{t: t, host: newNS(t), lma: newNS(t), cn: newNS(t)}, router: newNS(t), device: "mn0"}
	for _, n := range []netns.NsHandle{r.host, r.router, r.lma, r.cn} {
		r.sysctl(n, "ipv4/conf/all/rp_filter=0", "ipv4/conf/default/rp_filter=0", "ipv6/conf/default/accept_dad=0")
		r.up(n, "lo", nil)
	}
	r.sysctl(r.lma, "ipv4/ip_forward=1", "ipv6/conf/all/forwarding=1")
	r.sysctl(r.router, "ipv4/ip_forward=1", "ipv6/conf/all/forwarding=1")
	r.veth(r.host, "lan0", r.router, "lan0", 1500)
	r.veth(r.host, "lan1", r.router, "lan1", 1500)
	r.veth(r.router, "core0", r.lma, "core0", 1500)
	r.veth(r.lma, "net0", r.cn, "eth0", 1500)
	r.up(r.router, "lan0", []string{"2001:db8:e::1/64", "192.0.2.1/25", "192.168.7.1/24"})
	r.up(r.router, "lan1", []string{"192.0.2.129/25"})
	r.sysctl(r.router, "ipv4/conf/lan0/rp_filter=1", "ipv4/conf/lan1/rp_filter=1") // what comes by the wrong link is lost
	r.up(r.host, "lan0", []string{"2001:db8:e::2/64", "192.0.2.2/25", "192.168.7.2/24", "192.168.7.3/24"}, "::/0 via 2001:db8:e::1", "0.0.0.0/0 via 192.0.2.1")
	r.up(r.host, "lan1", []string{"192.0.2.130/25"})
	r.up(r.router, "core0", []string{"2001:db8:a::fe/64", "198.51.100.254/24"})
	r.up(r.lma, "core0", []string{"2001:db8:a::1/64", "198.51.100.1/24"}, "2001:db8:e::/64 via 2001:db8:a::fe", "192.0.2.0/24 via 198.51.100.254")
	r.up(r.lma, "net0", []string{"2001:db8:c::1/64", "203.0.113.1/24"})
	r.up(r.cn, "eth0", []string{"2001:db8:c::c/64", "203.0.113.9/24"}, "::/0 via 2001:db8:c::1", "0.0.0.0/0 via 203.0.113.1")
	r.must(r.router, func() error {
		rules := "table ip nat { chain post { type nat hook postrouting priority 100; ip saddr 192.168.7.0/24 oifname core0 meta l4proto udp masquerade to :50000-50100; " +
			"ip saddr 192.168.7.0/24 oifname core0 masquerade; }; }"
		if out, err := exec.Command("nft", rules).CombinedOutput(); err != nil {
			return fmt.Errorf("nft: %w: %s", err, out)
		}
		return nil
	})
	r.must(r.lma, func() (err error) {
		r.anchor, err = New(Config{Role: Anchor, Local: []netip.Addr{conformance.LMAA, conformance.LMAA4}})
		return err
	})
	t.Cleanup(func() { must(t, r.anchor.Close()) })
	r.up(r.lma, DefaultDevice, nil, "2001:db8:1000::/36", "10.20.0.0/16")
	r.begin()
	t.Cleanup(func() { must(t, r.node.Close()) })
	r.up(r.host, r.device, []string{home6.String() + "/128", home4.String() + "/32"})
	r.must(r.host, func() error {
		l, err := netlink.LinkByName(r.device)
		if err != nil {
			return err
		}
		lan1, err := netlink.LinkByName("lan1")
		if err != nil {
			return err
		}
		for _, o := range []struct {
			from  netip.Addr
			table int
			route netlink.Route
		}{
			{home6, 100, netlink.Route{LinkIndex: l.Attrs().Index, Dst: cidr("::/0")}},
			{home4, 100, netlink.Route{LinkIndex: l.Attrs().Index, Dst: cidr("0.0.0.0/0"), Scope: netlink.SCOPE_LINK}},
			{second, 101, netlink.Route{LinkIndex: lan1.Attrs().Index, Dst: cidr("0.0.0.0/0"), Gw: net.ParseIP("192.0.2.129")}},
		} {
			rule := netlink.NewRule()
			rule.Src, rule.Table, rule.Priority = cidr(netip.PrefixFrom(o.from, o.from.BitLen()).String()), o.table, 1000
			rule.Family = unix.AF_INET6
			if o.from.Is4() {
				rule.Family = unix.AF_INET
			}
			o.route.Table = o.table
			if err := errors.Join(netlink.RuleAdd(rule), netlink.RouteReplace(&o.route)); err != nil {
				return err
			}
		}
		return nil
	})
	r.reach(r.lma, "192.0.2.2", r.host) // the links carry
	r.reach(r.lma, "[2001:db8:e::2]", r.host)
	return r
}

// begin starts the node's plane.
func (r *roaming) begin() {
	r.t.Helper()
	r.must(r.host, func() (err error) {
		r.node, err = New(Config{Role: Node, Device: r.device, Persist: true, Home: []netip.Addr{home6}, Anchors: []netip.Addr{conformance.LMAA}, ProbeID: roamingProbe, Unreachable: true})
		return err
	})
	r.gateway = r.node // for the list of drops
}

func layer(local, remote netip.Addr, localPort, remotePort uint16) core.Chain {
	return core.Chain{N: 1, Layer: [2]core.Layer{{Local: netip.AddrPortFrom(local, localPort), Remote: netip.AddrPortFrom(remote, remotePort)}}}
}

// sessions sets both ends, with a grace for what is on its way, or waits in a socket. Each lets in what the other sends at any moment
// of it: the last packets of a connection may come late.
func (r *roaming) sessions(node, anchor core.Chain) {
	r.t.Helper()
	session := func(c core.Chain) core.Op { return core.SetSession{ID: 1, Chain: c, Grace: time.Minute} }
	if r.seen.N > 0 {
		r.must(r.lma, func() error { return r.anchor.Update([]core.Op{session(anchor), session(r.seen)}) })
	}
	r.seen = anchor
	n, a := []core.Op{session(node)}, []core.Op{session(anchor)}
	for _, h := range []netip.Addr{home6, home4} {
		p := netip.PrefixFrom(h, h.BitLen())
		n = append(n, core.SetKey{ID: 1, Match: core.Match{Src: p}, Up: true, Down: true})
		a = append(a, core.SetKey{ID: 1, Match: core.Match{Dst: p}, Up: true, Down: true})
	}
	r.must(r.host, func() error { return r.node.Update(n) })
	r.must(r.lma, func() error { return r.anchor.Update(a) })
}

// message is an IPv6 packet with a Mobility Header, as far as the data plane looks at it.
func message(src, dst netip.Addr, proto byte, body []byte) []byte {
	b := []byte{0x60, 0, 0, 0, 0, byte(len(body)), proto, 64}
	return append(append(append(b, src.AsSlice()...), dst.AsSlice()...), body...)
}

// register sends a message from the node through a chain, and an answer back through the one that it came in: that is returned.
func (r *roaming) register(chain core.Chain) core.Chain {
	r.t.Helper()
	exchange := func(from, to *Plane, c core.Chain, b []byte) core.Chain {
		if _, err := from.Signal().Write([]core.Packet{{Outer: c, B: b}}); err != nil {
			r.t.Fatal(err)
		}
		got := make(chan core.Packet, 1)
		go func() {
			into := make([]core.Packet, 1)
			if n, err := to.Signal().Read(into); err == nil && n == 1 {
				got <- into[0]
			}
		}()
		select {
		case p := <-got:
			if !bytes.Equal(p.B, b) {
				r.t.Fatalf("%x came, want %x", p.B, b)
			}
			return p.Outer
		case <-time.After(5 * time.Second):
			r.t.Fatalf("nothing came; %s", r.drops())
			return core.Chain{}
		}
	}
	update, answer := []byte{59, 1, 5, 0, 0, 0, 0, 1, 0xc0, 0, 0, 9, 1, 2, 0, 0}, []byte{59, 1, 6, 0, 0, 0, 0, 0, 0, 1, 0, 9, 1, 2, 0, 0}
	seen := exchange(r.node, r.anchor, chain, message(home6, conformance.LMAA, 135, update))
	if back := exchange(r.anchor, r.node, seen, message(conformance.LMAA, home6, 135, answer)); back != chain {
		r.t.Errorf("the answer came in %+v, want %+v", back, chain)
	}
	return seen
}

// carry moves traffic of both families both ways between the node's home addresses and the correspondent node.
func (r *roaming) carry(t *testing.T, n int64) {
	t.Helper()
	q := r.path
	q.t = t
	for _, c := range [][2]netip.Addr{{home6, conformance.CN6}, {home4, conformance.CN4}} {
		q.source = c[0]
		q.transfer(q.host, c[1], q.cn, n)
		q.source = netip.Addr{}
		q.transfer(q.cn, c[0], q.host, n)
	}
}

// TestRoaming: real hosts, real NAT: both home addresses over every framing, and the node goes from one to the next.
func TestRoaming(t *testing.T) {
	spec.Covers(t, "S004-1-01", "S004-3.4-21")
	r := newRoaming(t)
	for _, c := range []struct {
		name  string
		node  core.Chain
		plain bool // the anchor answers a message in UDP by plain packets: there is no NAT
		seen  netip.Addr
	}{
		{"IPv6", layer(coa6, conformance.LMAA, 0, 0), false, coa6},
		{"UDP over IPv6", layer(coa6, conformance.LMAA, 4191, 4191), false, coa6},
		{"IPv4, protocols 4 and 41", layer(coa4, conformance.LMAA4, 0, 0), false, coa4},
		{"UDP over IPv4", layer(coa4, conformance.LMAA4, 4191, 4191), false, coa4},
		{"registered in UDP, carried plain", layer(coa4, conformance.LMAA4, 4191, 4191), true, coa4},
		{"behind a NAT", layer(hidden, conformance.LMAA4, 4191, 4191), false, hider},
		{"by the second link", layer(second, conformance.LMAA4, 0, 0), false, second},
	} {
		t.Run(c.name, func(t *testing.T) {
			seen := r.register(c.node)
			l := seen.Layer[0]
			if l.Remote.Addr() != c.seen || c.name == "behind a NAT" && (l.Remote.Port() < 50000 || l.Remote.Port() > 50100) {
				t.Fatalf("the anchor sees %v", l.Remote)
			}
			here := c.node
			if c.plain {
				here, seen = layer(coa4, conformance.LMAA4, 0, 4191), layer(l.Local.Addr(), l.Remote.Addr(), 0, l.Remote.Port())
			}
			r.sessions(here, seen)
			r.carry(t, 4<<20)
		})
	}
	for name, p := range map[string]*Plane{"node": r.node, "anchor": r.anchor} {
		for _, reason := range []wire.Reason{wire.SendFailed, wire.WrongTunnel, wire.BadInner, wire.Malformed, wire.Unsolicited} {
			if n := p.Dropped(reason); n != 0 {
				t.Errorf("%s: %d drops for %s; %s", name, n, reason, r.drops())
			}
		}
	}
}

// TestRoamingNATChanges: data from another port of the NAT moves nothing; it is dropped and told, until the machine moves the session.
func TestRoamingNATChanges(t *testing.T) {
	r := newRoaming(t)
	var last atomic.Pointer[core.Reported]
	r.anchor.Reports(func(rep core.Reported) {
		if rep.Reason == string(wire.WrongTunnel) {
			last.Store(&rep)
		}
	})
	first := r.register(layer(hidden, conformance.LMAA4, 4191, 4191))
	r.sessions(layer(hidden, conformance.LMAA4, 4191, 4191), first)
	r.carry(t, 1<<16)
	// The same NAT, another mapping: as if it had forgotten the first.
	other := layer(netip.MustParseAddr("192.168.7.3"), conformance.LMAA4, 4191, 4191)
	r.must(r.host, func() error { return r.node.Update([]core.Op{core.SetSession{ID: 1, Chain: other}}) })
	r.must(r.host, func() error {
		c, err := net.DialUDP("udp", net.UDPAddrFromAddrPort(netip.AddrPortFrom(home4, 0)), net.UDPAddrFromAddrPort(netip.AddrPortFrom(conformance.CN4, 9)))
		if err != nil {
			return err
		}
		defer c.Close()
		for end := time.Now().Add(5 * time.Second); last.Load() == nil && time.Now().Before(end); <-time.After(10 * time.Millisecond) {
			if _, err := c.Write([]byte("anybody?")); err != nil && !errors.Is(err, unix.ECONNREFUSED) {
				return err
			}
		}
		return nil
	})
	rep := last.Load()
	if rep == nil || rep.ID != 1 || rep.Outer.Remote == first.Layer[0].Remote || rep.Outer.Remote.Addr() != hider {
		t.Fatalf("report %+v, want session 1 at another port than %v", rep, first.Layer[0].Remote)
	}
	seen := r.register(other)
	if seen.Layer[0] != rep.Outer {
		t.Errorf("registered from %+v, reported was %+v", seen.Layer[0], rep.Outer)
	}
	r.sessions(other, seen)
	r.carry(t, 1<<16)
}

// TestRoamingRestart: a node's daemon goes and comes, and its applications keep addresses, sockets and connections.
func TestRoamingRestart(t *testing.T) {
	r := newRoaming(t)
	node, anchor := layer(coa4, conformance.LMAA4, 0, 0), layer(conformance.LMAA4, coa4, 0, 0)
	r.sessions(node, anchor)
	var server net.Listener
	r.must(r.cn, func() (err error) {
		server, err = net.Listen("tcp", netip.AddrPortFrom(conformance.CN4, 7).String())
		return err
	})
	accepted, done := make(chan net.Conn, 1), make(chan struct{})
	defer func() { <-done }()
	defer func() { // the other end may not be there any more to close it
		server.Close()
		select {
		case c := <-accepted:
			c.Close()
		default:
		}
	}()
	go func() {
		defer close(done)
		c, err := server.Accept()
		if err != nil {
			return
		}
		defer c.Close()
		accepted <- c
		b := make([]byte, 100)
		for {
			n, err := c.Read(b)
			if err != nil {
				return
			}
			_, _ = c.Write(b[:n])
		}
	}()
	var c net.Conn
	r.must(r.host, func() (err error) {
		d := net.Dialer{Timeout: 5 * time.Second, LocalAddr: net.TCPAddrFromAddrPort(netip.AddrPortFrom(home4, 0))}
		c, err = d.Dial("tcp", server.Addr().String())
		return err
	})
	defer c.Close()
	must(t, c.SetDeadline(time.Now().Add(20*time.Second)))
	echo := func(s string) {
		t.Helper()
		if _, err := c.Write([]byte(s)); err != nil {
			t.Fatal(err)
		}
		b := make([]byte, len(s))
		if _, err := c.Read(b); err != nil || string(b) != s {
			t.Fatalf("%q, %v; %s", b, err, r.drops())
		}
	}
	echo("before")
	r.must(r.host, func() error { // what its machine made of it
		l, err := netlink.LinkByName(r.device)
		if err != nil {
			return err
		}
		return netlink.LinkSetMTU(l, 1400)
	})
	must(t, r.node.Close())
	check := func() {
		r.must(r.host, func() error {
			l, err := netlink.LinkByName(r.device)
			if err != nil {
				return err
			}
			addrs, err := netlink.AddrList(l, netlink.FAMILY_ALL)
			if err != nil {
				return err
			}
			var have []string
			for _, a := range addrs {
				have = append(have, a.IP.String())
			}
			if l.Attrs().MTU != 1400 || !slices.Contains(have, home6.String()) || !slices.Contains(have, home4.String()) {
				return fmt.Errorf("MTU %d, addresses %v", l.Attrs().MTU, have)
			}
			return nil
		})
	}
	check()
	r.begin()
	check()
	r.sessions(node, anchor)
	echo("after")

	r.must(r.host, func() error { return RemoveDevice(r.device) })
	select {
	case err := <-r.node.Failed():
		if !strings.Contains(err.Error(), "mn0 was removed") {
			t.Error(err)
		}
	case <-time.After(5 * time.Second):
		t.Error("nothing was said within 5 s about a device that went")
	}
	r.must(r.host, func() error {
		if err := RemoveDevice(r.device); err != nil {
			return fmt.Errorf("a device that is gone: %w", err)
		}
		if err := RemoveDevice("lan0"); err == nil {
			return errors.New("a link that is not Kedge's was removed")
		}
		must(t, r.node.Close())
		if _, err := New(Config{Role: Node, Device: "lan1"}); err == nil || !strings.Contains(err.Error(), "did not make") {
			return fmt.Errorf("a node on another's device: %w", err)
		}
		return nil
	})
}

// TestRoamingUnreachable: an application that uses a home address without a registration hears of it.
func TestRoamingUnreachable(t *testing.T) {
	r := newRoaming(t)
	for _, c := range [][2]netip.Addr{{home6, conformance.CN6}, {home4, conformance.CN4}} {
		r.must(r.host, func() error {
			d := net.Dialer{Timeout: 10 * time.Second, LocalAddr: net.TCPAddrFromAddrPort(netip.AddrPortFrom(c[0], 0))}
			conn, err := d.Dial("tcp", netip.AddrPortFrom(c[1], 9).String())
			if err == nil {
				conn.Close()
			}
			if !errors.Is(err, unix.EHOSTUNREACH) {
				return fmt.Errorf("from %v: %w, want host unreachable; %s", c[0], err, r.drops())
			}
			return nil
		})
	}
	if r.node.Dropped(wire.UnknownHome) < 2 {
		t.Errorf("not counted: %s", r.drops())
	}
}

// TestRoamingSmallPath: a router on the way carries 1,400 octets only. Real applications find out by what the planes tell them.
func TestRoamingSmallPath(t *testing.T) {
	r := newRoaming(t)
	r.must(r.host, func() error {
		l, err := netlink.LinkByName(r.device)
		if err != nil {
			return err
		}
		return netlink.LinkSetMTU(l, 1500) // more than the tunnel carries
	})
	for _, n := range []netns.NsHandle{r.router, r.lma} {
		r.must(n, func() error {
			l, err := netlink.LinkByName("core0")
			if err != nil {
				return err
			}
			return netlink.LinkSetMTU(l, 1400)
		})
	}
	for _, c := range [][2]core.Chain{
		{layer(coa4, conformance.LMAA4, 0, 0), layer(conformance.LMAA4, coa4, 0, 0)},
		{layer(coa4, conformance.LMAA4, dataplane.PortUDP, dataplane.PortUDP), layer(conformance.LMAA4, coa4, dataplane.PortUDP, dataplane.PortUDP)},
		{layer(coa6, conformance.LMAA, 0, 0), layer(conformance.LMAA, coa6, 0, 0)},
	} {
		r.sessions(c[0], c[1])
		r.carry(t, 1<<20)
	}
	if r.node.Dropped(wire.TunnelError) == 0 {
		t.Errorf("no error came from the router: the path is not what it should be; %s", r.drops())
	}
}
