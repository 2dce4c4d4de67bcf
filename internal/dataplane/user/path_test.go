package user

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"kedge/internal/core"
	"kedge/internal/dataplane/conformance"
	"kedge/internal/spec"
	"kedge/internal/system/ethtool"
	"kedge/wire"
)

// path is host - gateway - anchor - correspondent node, each in a namespace with an ordinary kernel.
type path struct {
	t                         *testing.T
	host, host2, mag, lma, cn netns.NsHandle
	gateway, anchor           *Plane
	source                    netip.Addr // of connections, if not the kernel's choice
}

// in runs f on a thread in namespace n.
func (p *path) in(n netns.NsHandle, f func() error) error {
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine, so no other one meets its namespace
		if err := netns.Set(n); err != nil {
			done <- err
			return
		}
		done <- f()
	}()
	return <-done
}

func (p *path) must(n netns.NsHandle, f func() error) {
	p.t.Helper()
	must(p.t, p.in(n, f))
}

func cidr(s string) *net.IPNet {
	ip, n, err := net.ParseCIDR(s)
	if err != nil {
		panic(err)
	}
	n.IP = ip
	return n
}

func newNS(t *testing.T) (n netns.NsHandle) {
	t.Helper()
	done := make(chan error)
	go func() {
		runtime.LockOSThread()
		var err error
		n, err = netns.New()
		done <- err
	}()
	if err := <-done; err != nil {
		t.Fatalf("network namespaces are needed, and root: %v", err)
	}
	t.Cleanup(func() { n.Close() })
	return n
}

// veth joins two namespaces.
func (p *path) veth(a netns.NsHandle, aName string, b netns.NsHandle, bName string, mtu int) {
	p.t.Helper()
	p.must(a, func() error {
		return netlink.LinkAdd(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: aName, MTU: mtu}, PeerName: bName, PeerMTU: uint32(mtu), PeerNamespace: netlink.NsFd(b)})
	})
}

// up configures an interface: addresses, then routes "prefix via gateway" or "prefix".
func (p *path) up(n netns.NsHandle, name string, addrs []string, routes ...string) {
	p.t.Helper()
	p.must(n, func() error {
		l, err := netlink.LinkByName(name)
		if err != nil {
			return err
		}
		if err := netlink.LinkSetUp(l); err != nil {
			return err
		}
		for _, a := range addrs {
			if err := netlink.AddrAdd(l, &netlink.Addr{IPNet: cidr(a), Flags: unix.IFA_F_NODAD}); err != nil {
				return fmt.Errorf("%s on %s: %w", a, name, err)
			}
		}
		for _, r := range routes {
			dst, via, _ := strings.Cut(r, " via ")
			route := &netlink.Route{LinkIndex: l.Attrs().Index, Dst: cidr(dst), Gw: net.ParseIP(via), Flags: int(netlink.FLAG_ONLINK)}
			if via == "" {
				route.Flags, route.Scope = 0, netlink.SCOPE_LINK
			}
			if err := netlink.RouteAdd(route); err != nil {
				return fmt.Errorf("route %s on %s: %w", r, name, err)
			}
		}
		return nil
	})
}

func (p *path) sysctl(n netns.NsHandle, list ...string) {
	p.t.Helper()
	p.must(n, func() error {
		for _, s := range list {
			name, value, _ := strings.Cut(s, "=")
			if err := setSysctl(name, value); err != nil {
				return err
			}
		}
		return nil
	})
}

// newPath builds it with a core of the given MTU. Two hosts are at the gateway.
func newPath(t *testing.T, coreMTU int) *path {
	p := &path{t: t, host: newNS(t), host2: newNS(t), mag: newNS(t), lma: newNS(t), cn: newNS(t)}
	for _, n := range []netns.NsHandle{p.host, p.host2, p.mag, p.lma, p.cn} {
		p.sysctl(n, "ipv4/conf/all/rp_filter=0", "ipv4/conf/default/rp_filter=0", "ipv6/conf/default/accept_dad=0")
		p.up(n, "lo", nil)
	}
	p.sysctl(p.lma, "ipv4/ip_forward=1", "ipv6/conf/all/forwarding=1", "ipv4/icmp_ratemask=0", "ipv6/icmp/ratelimit=0")
	p.sysctl(p.mag, "ipv4/ip_forward=1", "ipv6/conf/all/forwarding=1")
	p.veth(p.host, "eth0", p.mag, "acc1", 1500)
	p.veth(p.host2, "eth0", p.mag, "acc2", 1500)
	p.veth(p.mag, "core0", p.lma, "core0", coreMTU)
	p.veth(p.lma, "net0", p.cn, "eth0", 1500)
	p.up(p.mag, "acc1", nil)
	p.up(p.mag, "acc2", nil)
	p.up(p.host, "eth0", []string{"2001:db8:1000:1::a/64", "10.20.0.10/24"}, "::/0 via fe80::1", "0.0.0.0/0 via 10.20.0.1")
	p.up(p.host2, "eth0", []string{"2001:db8:1000:2::b/64", "10.20.0.11/32"}, "::/0 via fe80::1", "0.0.0.0/0 via 10.20.0.1")
	p.up(p.mag, "core0", []string{"2001:db8:a::11/64"}, "2001:db8:c::/64 via 2001:db8:a::1")
	p.up(p.lma, "core0", []string{"2001:db8:a::1/64", "198.51.100.1/32"})
	p.up(p.lma, "net0", []string{"2001:db8:c::1/64", "203.0.113.1/24"})
	p.up(p.cn, "eth0", []string{"2001:db8:c::c/64", "203.0.113.9/24"}, "::/0 via 2001:db8:c::1", "0.0.0.0/0 via 203.0.113.1")

	links := []Link{{Name: "acc1", MAC: conformance.RouterMAC, LinkLocal: conformance.LinkLocal}, {Name: "acc2", MAC: conformance.RouterMAC, LinkLocal: conformance.LinkLocal}}
	p.must(p.mag, func() (err error) {
		p.gateway, err = New(Config{Role: Gateway, Local: []netip.Addr{conformance.CoA1}, Access: links})
		return err
	})
	t.Cleanup(func() { must(t, p.gateway.Close()) })
	p.must(p.lma, func() (err error) {
		p.anchor, err = New(Config{Role: Anchor, Local: []netip.Addr{conformance.LMAA, conformance.LMAA4}})
		return err
	})
	t.Cleanup(func() { must(t, p.anchor.Close()) })
	p.up(p.lma, DefaultDevice, nil, "2001:db8:1000::/36", "10.20.0.0/16")

	ch := func(a, b netip.Addr) core.Chain {
		return core.Chain{N: 1, Layer: [2]core.Layer{{Local: netip.AddrPortFrom(a, 0), Remote: netip.AddrPortFrom(b, 0)}}}
	}
	for i, h := range []struct {
		ns   netns.NsHandle
		acc  string
		keys []netip.Prefix
	}{
		{p.host, "acc1", []netip.Prefix{conformance.HNP1, netip.MustParsePrefix("10.20.0.10/32")}},
		{p.host2, "acc2", []netip.Prefix{conformance.HNP2, netip.MustParsePrefix("10.20.0.11/32")}},
	} {
		id := core.ID(i + 1)
		var mac core.MAC
		var acc int
		p.must(h.ns, func() error {
			l, err := netlink.LinkByName("eth0")
			if err != nil {
				return err
			}
			mac = core.MAC(l.Attrs().HardwareAddr)
			for _, router := range []string{"fe80::1", "10.20.0.1", "10.20.0.11"} { // the last by proxy ARP of the access link
				if err := netlink.NeighSet(&netlink.Neigh{LinkIndex: l.Attrs().Index, IP: net.ParseIP(router), HardwareAddr: net.HardwareAddr(conformance.RouterMAC[:]), State: netlink.NUD_PERMANENT}); err != nil {
					return err
				}
			}
			return nil
		})
		p.must(p.mag, func() error {
			l, err := netlink.LinkByName(h.acc)
			acc = l.Attrs().Index
			return err
		})
		g := []core.Op{core.SetSession{ID: id, Chain: ch(conformance.CoA1, conformance.LMAA), If: acc, MAC: mac}}
		a := []core.Op{core.SetSession{ID: id, Chain: ch(conformance.LMAA, conformance.CoA1)}}
		for _, k := range h.keys {
			g = append(g, core.SetKey{ID: id, Match: core.Match{Src: k, If: acc, MAC: mac}, Up: true, Down: true})
			a = append(a, core.SetKey{ID: id, Match: core.Match{Dst: k}, Up: true, Down: true})
		}
		p.must(p.mag, func() error { return p.gateway.Update(g) })
		p.must(p.lma, func() error { return p.anchor.Update(a) })
	}
	p.reach(p.host, "[2001:db8:c::c]", p.cn)
	p.reach(p.host2, "[2001:db8:c::c]", p.cn)
	return p
}

// reach exchanges UDP datagrams until one came back: for a moment after a link came up the kernel drops what is sent on it.
func (p *path) reach(from netns.NsHandle, to string, at netns.NsHandle) {
	p.t.Helper()
	var server net.PacketConn
	p.must(at, func() (err error) {
		server, err = net.ListenPacket("udp", to+":7")
		return err
	})
	defer server.Close()
	go func() {
		b := make([]byte, 100)
		for {
			n, a, err := server.ReadFrom(b)
			if err != nil {
				return
			}
			_, _ = server.WriteTo(b[:n], a)
		}
	}()
	p.must(from, func() error {
		c, err := net.Dial("udp", to+":7")
		if err != nil {
			return err
		}
		defer c.Close()
		b := make([]byte, 100)
		for range 100 {
			_, _ = c.Write([]byte("hello"))
			must(p.t, c.SetReadDeadline(time.Now().Add(100*time.Millisecond)))
			if _, err = c.Read(b); err == nil {
				return nil
			}
		}
		return fmt.Errorf("%s does not answer: %w; %s", to, err, p.drops())
	})
}

func (p *path) drops() (s string) {
	for name, e := range map[string]*Plane{"gateway": p.gateway, "anchor": p.anchor} {
		e.Drops(func(r wire.Reason, n uint64) {
			if n > 0 {
				s += fmt.Sprintf("%s %s %d; ", name, r, n)
			}
		})
	}
	return s
}

// transfer sends n octets over TCP and compares their hash at the other end.
func (p *path) transfer(from netns.NsHandle, to netip.Addr, at netns.NsHandle, n int64) {
	p.t.Helper()
	var l net.Listener
	p.must(at, func() (err error) {
		l, err = net.Listen("tcp", netip.AddrPortFrom(to, 8080).String())
		return err
	})
	defer l.Close()
	got := make(chan []byte, 1)
	go func() {
		c, err := l.Accept()
		if err != nil {
			got <- nil
			return
		}
		defer c.Close()
		_ = c.SetDeadline(time.Now().Add(20 * time.Second))
		h := sha256.New()
		_, _ = io.Copy(h, c)
		got <- h.Sum(nil)
	}()
	sum := sha256.New()
	start := time.Now()
	p.must(from, func() error {
		d := net.Dialer{Timeout: 5 * time.Second}
		if p.source.IsValid() {
			d.LocalAddr = net.TCPAddrFromAddrPort(netip.AddrPortFrom(p.source, 0))
		}
		c, err := d.Dial("tcp", netip.AddrPortFrom(to, 8080).String())
		if err != nil {
			return fmt.Errorf("%w; %s", err, p.drops())
		}
		defer c.Close()
		_ = c.SetDeadline(time.Now().Add(20 * time.Second))
		block := bytes.Repeat([]byte("0123456789abcdef"), 4096)
		for left := n; left > 0; left -= int64(len(block)) {
			if _, err := c.Write(block); err != nil {
				return fmt.Errorf("%w; %s", err, p.drops())
			}
			sum.Write(block)
		}
		return nil
	})
	if !bytes.Equal(<-got, sum.Sum(nil)) {
		p.t.Errorf("to %v: what arrived differs from what was sent; %s", to, p.drops())
	}
	p.t.Logf("to %v: %.2f Gbit/s", to, float64(n)*8/time.Since(start).Seconds()/1e9)
}

// TestPath sends what real hosts with offloads send: 64 KB packets with partial checksums, both ways, both families, to a
// correspondent node and to each other.
func TestPath(t *testing.T) {
	spec.Covers(t, "S001-3.2.2-19", "S001-3.3.2-15", "S001-3.3.3-03", "S001-3.3.3-06")
	p := newPath(t, 1500)
	for _, c := range []struct {
		name string
		from netns.NsHandle
		to   netip.Addr
		at   netns.NsHandle
	}{
		{"host to correspondent node, IPv6", p.host, conformance.CN6, p.cn},
		{"host to correspondent node, IPv4", p.host, conformance.CN4, p.cn},
		{"correspondent node to host, IPv6", p.cn, conformance.H16, p.host},
		{"correspondent node to host, IPv4", p.cn, conformance.H14, p.host},
		{"host to host, IPv6", p.host, conformance.H26, p.host2},
		{"host to host of one /24, IPv4", p.host, conformance.H24, p.host2},
	} {
		t.Run(c.name, func(t *testing.T) {
			q := *p
			q.t = t
			q.transfer(c.from, c.to, c.at, 32<<20)
		})
	}
}

// TestPathSmallCore: over a core of 1,280 octets nothing changes but the speed. Path MTU discovery of real hosts works by the
// errors of the planes, and outer fragments carry what IPv6 hosts may always send.
func TestPathSmallCore(t *testing.T) {
	p := newPath(t, 1280)
	for _, to := range []netip.Addr{conformance.CN6, conformance.CN4} {
		p.transfer(p.host, to, p.cn, 4<<20)
	}
	for _, to := range []netip.Addr{conformance.H16, conformance.H14} {
		p.transfer(p.cn, to, p.host, 4<<20)
	}
	for r, want := range map[wire.Reason]bool{wire.TooBig: true, wire.SendFailed: false} {
		if got := p.gateway.Dropped(r) > 0; got != want {
			t.Errorf("gateway: drops for %s: %v, want %v; %s", r, got, want, p.drops())
		}
	}
}

// TestPathMTUChanges: the core shrinks while traffic flows; what no longer fits is noticed when it cannot be sent.
func TestPathMTUChanges(t *testing.T) {
	p := newPath(t, 1500)
	p.transfer(p.host, conformance.CN6, p.cn, 1<<20)
	for _, n := range []netns.NsHandle{p.mag, p.lma} {
		p.must(n, func() error {
			l, err := netlink.LinkByName("core0")
			if err != nil {
				return err
			}
			return netlink.LinkSetMTU(l, 1280)
		})
	}
	p.transfer(p.host, conformance.CN4, p.cn, 1<<20)
	p.transfer(p.cn, conformance.H16, p.host, 1<<20)
}

// TestLinkFlaps: a host's carrier that goes and comes, and an access link that is switched off and on, leave the sockets working.
func TestLinkFlaps(t *testing.T) {
	p := newPath(t, 1500)
	flap := func(n netns.NsHandle, name string) {
		p.must(n, func() error {
			l, err := netlink.LinkByName(name)
			if err != nil {
				return err
			}
			return errors.Join(netlink.LinkSetDown(l), netlink.LinkSetUp(l))
		})
	}
	flap(p.mag, "acc1")
	p.reach(p.host, "203.0.113.9", p.cn)
	flap(p.host, "eth0")
	p.must(p.host, func() error { // what the host's own start-up would do again
		l, err := netlink.LinkByName("eth0")
		if err != nil {
			return err
		}
		i := l.Attrs().Index
		mac := net.HardwareAddr(conformance.RouterMAC[:])
		return errors.Join(
			netlink.RouteReplace(&netlink.Route{LinkIndex: i, Dst: cidr("0.0.0.0/0"), Gw: net.ParseIP("10.20.0.1")}),
			netlink.NeighSet(&netlink.Neigh{LinkIndex: i, IP: net.ParseIP("10.20.0.1"), HardwareAddr: mac, State: netlink.NUD_PERMANENT}))
	})
	p.reach(p.host, "203.0.113.9", p.cn)
	for _, n := range []netns.NsHandle{p.lma, p.mag} {
		flap(n, "core0")
	}
	p.up2(p.mag, "core0", "2001:db8:a::11/64")
	p.up2(p.lma, "core0", "2001:db8:a::1/64")
	p.reach(p.host2, "203.0.113.9", p.cn)
}

// TestAccessLinkReturns: an access link that is removed and made again, with another index, carries its hosts' packets again; so
// does one that had another name for a while, and meanwhile nothing of it is let in.
func TestAccessLinkReturns(t *testing.T) {
	p := newPath(t, 1500)
	index := func() (i int) {
		p.must(p.mag, func() error {
			l, err := netlink.LinkByName("acc1")
			if err == nil {
				i = l.Attrs().Index
			}
			return err
		})
		return i
	}
	var mac net.HardwareAddr
	p.must(p.host, func() error {
		l, err := netlink.LinkByName("eth0")
		if err == nil {
			mac = l.Attrs().HardwareAddr
		}
		return err
	})
	old := index()
	// remake removes the link and makes it again, with an index of the kernel's choice if it is 0.
	remake := func(want int) {
		p.must(p.mag, func() error {
			l, err := netlink.LinkByName("acc1")
			if err != nil {
				return err
			}
			return errors.Join(netlink.LinkDel(l), netlink.LinkAdd(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "acc1", Index: want}, PeerName: "eth0",
				PeerHardwareAddr: mac, PeerNamespace: netlink.NsFd(p.host)}))
		})
		p.up(p.mag, "acc1", nil)
		p.up(p.host, "eth0", []string{"2001:db8:1000:1::a/64", "10.20.0.10/24"}, "::/0 via fe80::1", "0.0.0.0/0 via 10.20.0.1")
		p.must(p.host, func() error {
			l, err := netlink.LinkByName("eth0")
			if err != nil {
				return err
			}
			for _, router := range []string{"fe80::1", "10.20.0.1"} {
				if err := netlink.NeighSet(&netlink.Neigh{LinkIndex: l.Attrs().Index, IP: net.ParseIP(router), HardwareAddr: net.HardwareAddr(conformance.RouterMAC[:]), State: netlink.NUD_PERMANENT}); err != nil {
					return err
				}
			}
			return nil
		})
		p.reach(p.host, "203.0.113.9", p.cn)
		p.reach(p.host, "[2001:db8:c::c]", p.cn)
		p.reach(p.host2, "203.0.113.9", p.cn) // the other one goes on
		p.must(p.mag, func() error {
			b, err := os.ReadFile("/proc/sys/net/ipv6/conf/acc1/disable_ipv6")
			if err == nil && strings.TrimSpace(string(b)) != "1" {
				err = fmt.Errorf("the new link still has IPv6: %s", b)
			}
			return err
		})
	}
	remake(0)
	if index() == old {
		t.Fatal("the link has its old index: the test shows nothing")
	}
	remake(index())

	rename := func(from, to string) {
		p.must(p.mag, func() error {
			l, err := netlink.LinkByName(from)
			if err != nil {
				return err
			}
			return netlink.LinkSetName(l, to)
		})
	}
	rename("acc1", "away")
	var l *accessLink
	for _, l = range p.gateway.links {
		if l.Name == "acc1" {
			break
		}
	}
	for end := time.Now().Add(5 * time.Second); l.index.Load() != 0; <-time.After(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("the plane did not notice in 5 s that the link has another name")
		}
	}
	counted := func() (in uint64) {
		c := make([]core.Counter, 1)
		must(t, p.gateway.Counters([]core.ID{1}, c))
		return c[0].PacketsOut
	}
	before, drops := counted(), p.gateway.Dropped(wire.UnknownHost)
	for end := time.Now().Add(5 * time.Second); p.gateway.Dropped(wire.UnknownHost) == drops; <-time.After(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("no frame of the link with another name was counted in 5 s")
		}
		p.must(p.host, func() error {
			c, err := net.Dial("udp", "203.0.113.9:9")
			if err != nil {
				return err
			}
			defer c.Close()
			_, err = c.Write([]byte("to nowhere"))
			return err
		})
	}
	if n := counted() - before; n != 0 {
		t.Errorf("%d packets of a link with another name were let in", n)
	}
	rename("away", "acc1")
	p.reach(p.host, "203.0.113.9", p.cn)
}

// up2 gives an interface an address back that the kernel took away with the link.
func (p *path) up2(n netns.NsHandle, name, addr string) {
	p.t.Helper()
	p.must(n, func() error {
		l, err := netlink.LinkByName(name)
		if err != nil {
			return err
		}
		return netlink.AddrReplace(l, &netlink.Addr{IPNet: cidr(addr), Flags: unix.IFA_F_NODAD})
	})
}

// TestLastHop: to a correspondent node the anchor is the hop before the host's network (S001-3.3.3-02).
func TestLastHop(t *testing.T) {
	spec.Covers(t, "S001-3.3.3-02")
	p := newPath(t, 1500)
	for to, hops := range map[netip.Addr]map[int]netip.Addr{
		conformance.H16: {
			1: netip.MustParseAddr("2001:db8:c::1"), // the anchor, as the correspondent node's router
			2: conformance.CoA1,                     // the gateway: one hop behind, however long the tunnel is
			3: conformance.H16,                      // the host: port unreachable
		},
		// The gateway has no IPv4 address to answer from.
		conformance.H14: {1: netip.MustParseAddr("203.0.113.1"), 3: conformance.H14},
	} {
		for n, want := range hops {
			if got, err := p.hop(n, to); err != nil || got != want {
				t.Errorf("hop %d to %v is %v, %v, want %v; %s", n, to, got, err, want, p.drops())
			}
		}
	}
}

// hop sends a packet with hop limit n from the correspondent node and returns who answers with an error.
func (p *path) hop(n int, to netip.Addr) (from netip.Addr, err error) {
	return from, p.in(p.cn, func() error {
		family, level, recvErr, hops, at := unix.AF_INET6, unix.IPPROTO_IPV6, unix.IPV6_RECVERR, unix.IPV6_UNICAST_HOPS, 8
		var addr unix.Sockaddr = &unix.SockaddrInet6{Port: 33434, Addr: to.As16()}
		if to.Is4() {
			family, level, recvErr, hops, at = unix.AF_INET, unix.IPPROTO_IP, unix.IP_RECVERR, unix.IP_TTL, 4
			addr = &unix.SockaddrInet4{Port: 33434, Addr: to.As4()}
		}
		fd, err := unix.Socket(family, unix.SOCK_DGRAM, 0)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		if err := opts(fd, [3]int{level, recvErr, 1}, [3]int{level, hops, n}); err != nil {
			return err
		}
		if err := unix.Sendto(fd, []byte("probe"), 0, addr); err != nil {
			return err
		}
		if _, err := unix.Poll([]unix.PollFd{{Fd: int32(fd)}}, 3000); err != nil && !errors.Is(err, syscall.EINTR) {
			return err
		}
		oob := make([]byte, 512)
		_, got, _, _, err := unix.Recvmsg(fd, make([]byte, 100), oob, unix.MSG_ERRQUEUE)
		if err != nil {
			return err
		}
		msgs, err := unix.ParseSocketControlMessage(oob[:got])
		if err != nil {
			return err
		}
		for _, m := range msgs {
			if int(m.Header.Level) == level && int(m.Header.Type) == recvErr {
				// A sock_extended_err of 16 octets, then the offender's address.
				from, _ = netip.AddrFromSlice(m.Data[16+at : 16+at+to.BitLen()/8])
			}
		}
		return nil
	})
}

// receiveOffload switches receive offload on for the interface and lets it wait for more, so that veth puts segments together as a
// network card does. The thread must end with its namespaces.
func receiveOffload(name string) error {
	// veth puts together only what comes from an end that could not have sent it in one piece.
	err := errors.Join(ethtool.Set(name, false, ethtool.TCPSegmentation...), ethtool.Set(name, true, ethtool.ReceiveAggregation))
	if err != nil {
		return err
	}
	// The timer is in sysfs only, which shows the network namespace that it was mounted in.
	if err := unix.Unshare(unix.CLONE_NEWNS | unix.CLONE_FS); err != nil {
		return err
	}
	if err := unix.Mount("none", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return err
	}
	if err := unix.Mount("sysfs", "/sys", "sysfs", 0, ""); err != nil {
		return err
	}
	return os.WriteFile("/sys/class/net/"+name+"/gro_flush_timeout", []byte("500000"), 0)
}

// TestPathReceiveOffload: the kernel hands several outer packets over as one, with an inner checksum that is not finished.
func TestPathReceiveOffload(t *testing.T) {
	p := newPath(t, 1500)
	p.must(p.mag, func() error { return receiveOffload("core0") })
	p.must(p.lma, func() error { return receiveOffload("core0") })
	p.reach(p.host, "[2001:db8:c::c]", p.cn)
	for _, c := range []struct {
		from netns.NsHandle
		to   netip.Addr
		at   netns.NsHandle
		tap  netns.NsHandle // where the tunnel ends
	}{{p.host, conformance.CN6, p.cn, p.lma}, {p.host, conformance.CN4, p.cn, p.lma}, {p.cn, conformance.H16, p.host, p.mag}, {p.cn, conformance.H14, p.host, p.mag}} {
		fd := -1
		p.must(c.tap, func() (err error) {
			l, err := netlink.LinkByName("core0")
			if err != nil {
				return err
			}
			if fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_NONBLOCK, 0); err != nil {
				return err
			}
			return errors.Join(opts(fd, [3]int{unix.SOL_PACKET, unix.PACKET_IGNORE_OUTGOING, 1}),
				unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: htons(unix.ETH_P_ALL), Ifindex: l.Attrs().Index}))
		})
		p.transfer(c.from, c.to, c.at, 4<<20)
		longest, buf := 0, make([]byte, bufferSize)
		for {
			n, _, err := unix.Recvfrom(fd, buf, 0)
			if err != nil {
				break
			}
			longest = max(longest, n)
		}
		unix.Close(fd)
		if longest <= 1514 {
			t.Errorf("to %v: the longest frame had %d octets: the offload did nothing, so this test shows nothing", c.to, longest)
		}
		t.Logf("longest frame %d octets", longest)
	}
}
