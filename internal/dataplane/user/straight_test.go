package user

import (
	"bufio"
	"bytes"
	"encoding/binary"
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

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"kedge/internal/core"
	"kedge/internal/dataplane/conformance"
	"kedge/internal/nftmatch"
	"kedge/wire"
	"kedge/wire/ip"
)

// direct is node - router - correspondent, with ordinary kernels: what goes between a home address and the correspondent's address goes
// straight.
type direct struct {
	path
	router     netns.NsHandle
	node, peer *Plane
}

func newDirect(t *testing.T) *direct {
	d := &direct{path: path{t: t, host: newNS(t), cn: newNS(t)}, router: newNS(t)}
	for _, n := range []netns.NsHandle{d.host, d.router, d.cn} {
		d.sysctl(n, "ipv6/conf/default/accept_dad=0", "ipv6/icmp/ratelimit=0")
		d.up(n, "lo", nil)
	}
	d.sysctl(d.router, "ipv6/conf/all/forwarding=1")
	d.veth(d.host, "lan0", d.router, "lan0", 1500)
	d.veth(d.router, "net0", d.cn, "eth0", 1500)
	d.up(d.router, "lan0", []string{"2001:db8:e::1/64"})
	d.up(d.router, "net0", []string{"2001:db8:c::1/64"})
	d.up(d.host, "lan0", []string{coa6.String() + "/64"}, "::/0 via 2001:db8:e::1")
	d.up(d.cn, "eth0", []string{conformance.CN6.String() + "/64"}, "::/0 via 2001:db8:c::1")
	d.must(d.host, func() (err error) {
		d.node, err = New(Config{Role: Node, Device: "mn0", DeviceMTU: 1500})
		return err
	})
	t.Cleanup(func() { must(t, d.node.Close()) })
	d.must(d.cn, func() (err error) {
		d.peer, err = New(Config{Role: Anchor, Local: []netip.Addr{conformance.CN6}})
		return err
	})
	t.Cleanup(func() { must(t, d.peer.Close()) })
	d.gateway, d.anchor = d.node, d.peer // for the list of drops
	d.up(d.host, "mn0", []string{home6.String() + "/128"})
	d.up(d.cn, DefaultDevice, nil, home6.String()+"/128")
	d.must(d.host, func() error {
		l, err := netlink.LinkByName("mn0")
		if err != nil {
			return err
		}
		rule := netlink.NewRule()
		rule.Src, rule.Table, rule.Priority, rule.Family = cidr(home6.String()+"/128"), 100, 1000, unix.AF_INET6
		return errors.Join(netlink.RuleAdd(rule), netlink.RouteReplace(&netlink.Route{LinkIndex: l.Attrs().Index, Dst: cidr("::/0"), Table: 100}))
	})
	d.reach(d.host, "["+conformance.CN6.String()+"]", d.cn)
	return d
}

func straightOps(local, remote netip.Addr, key core.Match) []core.Op {
	c := core.Chain{RO: 1, Layer: [2]core.Layer{{Local: netip.AddrPortFrom(local, 0), Remote: netip.AddrPortFrom(remote, 0)}}}
	return []core.Op{core.SetSession{ID: 9, Chain: c}, core.SetKey{ID: 9, Match: key, Up: true, Down: true}}
}

func (d *direct) ops() (node, peer []core.Op) {
	home, cn := netip.PrefixFrom(home6, 128), netip.PrefixFrom(conformance.CN6, 128)
	return straightOps(coa6, conformance.CN6, core.Match{Src: home, Dst: cn}), straightOps(conformance.CN6, coa6, core.Match{Src: cn, Dst: home})
}

// begin gives both planes the session. They are told from another namespace than their own.
func (d *direct) begin() {
	d.t.Helper()
	node, peer := d.ops()
	must(d.t, d.node.Update(node))
	must(d.t, d.peer.Update(peer))
}

// tables are the nftables of a namespace.
func (d *direct) tables(n netns.NsHandle) (out string) {
	d.t.Helper()
	d.must(n, func() error {
		b, err := exec.Command("nft", "list", "ruleset").CombinedOutput()
		out = string(b)
		return err
	})
	return out
}

// packetSockets counts those of all IPv6 packets in a namespace.
func (d *direct) packetSockets(n netns.NsHandle) (count int) {
	d.t.Helper()
	d.must(n, func() error {
		b, err := os.ReadFile("/proc/thread-self/net/packet")
		for _, line := range strings.Split(string(b), "\n") {
			if f := strings.Fields(line); len(f) > 3 && f[3] == "86dd" {
				count++
			}
		}
		return err
	})
	return count
}

// record records what passes the router until stop, which gives the file.
func (d *direct) record() (stop func() string) {
	d.t.Helper()
	cmd := exec.Command("tcpdump", "-i", "net0", "-s", "200", "-U", "--immediate-mode", "-w", "-", "ip6")
	said, err := cmd.StderrPipe()
	must(d.t, err)
	data, err := cmd.StdoutPipe()
	must(d.t, err)
	d.must(d.router, cmd.Start)
	for lines := bufio.NewScanner(said); lines.Scan() && !strings.Contains(lines.Text(), "listening on"); {
	}
	const end = "the end of the capture"
	seen := make(chan []byte, 1)
	go func() {
		var all []byte
		b := make([]byte, 1<<16)
		for {
			n, err := data.Read(b)
			all = append(all, b[:n]...)
			if err != nil || bytes.Contains(all[max(0, len(all)-n-len(end)):], []byte(end)) {
				seen <- all
				return
			}
		}
	}()
	return func() string {
		d.t.Helper()
		d.from(message(netip.MustParseAddr("2001:db8:c::1"), conformance.CN6, 59, []byte(end))) // no next header: nobody answers
		file := filepath.Join(d.t.TempDir(), "net0.pcap")
		must(d.t, os.WriteFile(file, <-seen, 0o600))
		must(d.t, cmd.Process.Kill())
		_ = cmd.Wait() // killed
		return file
	}
}

func (d *direct) tshark(file, filter string) (lines []string) {
	d.t.Helper()
	out, err := exec.Command("tshark", "-n", "-r", file, "-o", "tcp.desegment_tcp_streams:FALSE", "-Y", filter).Output()
	if err != nil {
		d.t.Fatalf("tshark: %v (Debian package tshark)", err)
	}
	for _, l := range strings.Split(string(out), "\n") {
		if l != "" {
			lines = append(lines, l)
		}
	}
	return lines
}

// TestStraightPath: applications of both ends use the home address, whole packets go between the care-of address and the
// correspondent with it in a header, and neither kernel answers anything. The sockets and rules for it come and go with the session.
func TestStraightPath(t *testing.T) {
	d := newDirect(t)
	if s := d.tables(d.host) + d.tables(d.cn); s != "" || d.packetSockets(d.host)+d.packetSockets(d.cn) != 0 {
		t.Fatalf("without a session: %s", s)
	}
	d.begin()
	stop := d.record()
	d.source = home6
	d.transfer(d.host, conformance.CN6, d.cn, 16<<20)
	d.source = netip.Addr{}
	d.transfer(d.cn, home6, d.host, 16<<20)
	d.reach(d.cn, "["+home6.String()+"]", d.host)
	d.echo(1400)
	file := stop()
	for what, filter := range map[string]string{
		"TCP up":   fmt.Sprintf("ipv6.src == %v && ipv6.dst == %v && ipv6.dstopts && ipv6.opt.type == 0xc9 && ipv6.opt.mipv6.home_address == %v && tcp", coa6, conformance.CN6, home6),
		"UDP up":   fmt.Sprintf("ipv6.src == %v && ipv6.opt.mipv6.home_address == %v && udp", coa6, home6),
		"TCP down": fmt.Sprintf("ipv6.src == %v && ipv6.routing.type == 2 && ipv6.routing.segleft == 1 && ipv6.routing.mipv6.home_address == %v && tcp", conformance.CN6, home6),
		"UDP down": fmt.Sprintf("ipv6.routing.mipv6.home_address == %v && udp", home6),
	} {
		if n := len(d.tshark(file, filter)); n == 0 {
			t.Errorf("%s: nothing in %d packets", what, len(d.tshark(file, "ipv6")))
		}
	}
	for what, filter := range map[string]string{
		"an answer of a kernel": "icmpv6.type in {1..4}", "malformed": "_ws.malformed", "with neither header": "(tcp || udp) && !ipv6.dstopts && !ipv6.routing",
	} {
		if l := d.tshark(file, filter); len(l) != 0 {
			t.Errorf("%s: %d, as %s", what, len(l), l[0])
		}
	}
	for _, p := range []*Plane{d.node, d.peer} {
		for _, r := range []wire.Reason{wire.BadInner, wire.Malformed, wire.WrongTunnel, wire.SendFailed} {
			if p.Dropped(r) != 0 {
				t.Errorf("drops: %s", d.drops())
			}
		}
	}
	must(t, d.peer.Update([]core.Op{core.Drop{ID: 9}}))
	if s := d.tables(d.cn); s != "" || d.packetSockets(d.cn) != 0 {
		t.Errorf("after the last session: %s", s)
	}
	if s := d.tables(d.host); !strings.Contains(s, "kedge-ro-mn0") || d.packetSockets(d.host) != 1 {
		t.Errorf("with a session: %s", s)
	}
	must(t, d.node.Close())
	if s := d.tables(d.host); s != "" || d.packetSockets(d.host) != 0 {
		t.Errorf("after Close: %s", s)
	}
	node, _ := d.ops()
	if err := d.node.Update(node); !errors.Is(err, net.ErrClosed) {
		t.Errorf("a session after Close: %v", err)
	}
}

// echo exchanges datagrams of n octets from the home address.
func (d *direct) echo(n int) {
	d.t.Helper()
	var server net.PacketConn
	d.must(d.cn, func() (err error) {
		server, err = net.ListenPacket("udp", "["+conformance.CN6.String()+"]:77")
		return err
	})
	defer server.Close()
	go func() {
		b := make([]byte, n+1)
		for {
			k, a, err := server.ReadFrom(b)
			if err != nil {
				return
			}
			_, _ = server.WriteTo(b[:k], a)
		}
	}()
	d.must(d.host, func() error {
		c, err := net.DialUDP("udp", net.UDPAddrFromAddrPort(netip.AddrPortFrom(home6, 0)), net.UDPAddrFromAddrPort(netip.AddrPortFrom(conformance.CN6, 77)))
		if err != nil {
			return err
		}
		defer c.Close()
		must(d.t, c.SetDeadline(time.Now().Add(5*time.Second)))
		out, in := bytes.Repeat([]byte("kedge"), n/5), make([]byte, n+1)
		for range 100 {
			if _, err := c.Write(out); err != nil {
				return err
			}
			if k, err := c.Read(in); err != nil || !bytes.Equal(in[:k], out) {
				return fmt.Errorf("%d octets came back: %w; %s", k, err, d.drops())
			}
		}
		return nil
	})
}

// from sends whole packets from the router, which may forge what it likes.
func (d *direct) from(b ...[]byte) {
	d.t.Helper()
	d.must(d.router, func() error {
		fd, err := openOut(unix.AF_INET6)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		for _, p := range b {
			if err := unix.Sendto(fd, p, 0, &unix.SockaddrInet6{Addr: [16]byte(p[24:40])}); err != nil {
				return err
			}
		}
		return nil
	})
}

// wrapped is a datagram to port 9 behind a header of route optimization.
func wrapped(src, dst netip.Addr, next byte, ext []byte) []byte {
	udp, err := ip.AppendUDP(nil, netip.AddrPortFrom(src, 9), netip.AddrPortFrom(dst, 9), []byte("forged"))
	if err != nil {
		panic(err)
	}
	return message(src, dst, next, slices.Concat(ext, udp))
}

// TestStraightForged: what no session has is dropped and counted, and no kernel answers it. Signalling and the packets of others are left alone.
func TestStraightForged(t *testing.T) {
	d := newDirect(t)
	d.begin()
	stop := d.record()
	stranger := netip.MustParseAddr("2001:db8:c::66")
	bad := func(change func(b []byte)) []byte {
		b := wrapped(conformance.CN6, coa6, ip.Routing, ip.AppendRouting2(nil, ip.UDP, home6))
		change(b)
		return b
	}
	short := wrapped(coa6, conformance.CN6, ip.DstOpts, ip.AppendHomeAddress(nil, ip.UDP, home6))
	short[47] = 8 // of a home address
	for _, c := range []struct {
		name   string
		p      *Plane
		b      []byte
		reason wire.Reason
	}{
		{"a home address that no session has", d.peer, wrapped(coa6, conformance.CN6, ip.DstOpts, ip.AppendHomeAddress(nil, ip.UDP, home6.Next())), wire.WrongTunnel},
		{"from another care-of address", d.peer, wrapped(coa6.Next(), conformance.CN6, ip.DstOpts, ip.AppendHomeAddress(nil, ip.UDP, home6)), wire.WrongTunnel},
		{"a short option", d.peer, short, wire.BadInner},
		{"a home address of another node", d.node, wrapped(conformance.CN6, coa6, ip.Routing, ip.AppendRouting2(nil, ip.UDP, home6.Next())), wire.WrongTunnel},
		{"from a stranger", d.node, wrapped(stranger, coa6, ip.Routing, ip.AppendRouting2(nil, ip.UDP, home6)), wire.WrongTunnel},
		{"no segments left", d.node, bad(func(b []byte) { b[43] = 0 }), wire.BadInner},
		{"two segments left", d.node, bad(func(b []byte) { b[43] = 2 }), wire.BadInner},
		{"a longer routing header", d.node, bad(func(b []byte) { b[41] = 1 }), wire.BadInner},
		{"a home address that nobody has", d.node, bad(func(b []byte) { copy(b[48:64], net.IPv6loopback) }), wire.BadInner},
	} {
		was := c.p.Dropped(c.reason)
		d.from(c.b)
		for end := time.Now().Add(5 * time.Second); c.p.Dropped(c.reason) == was; <-time.After(time.Millisecond) {
			if time.Now().After(end) {
				t.Fatalf("%s: not counted as %s; %s", c.name, c.reason, d.drops())
			}
		}
		if n := c.p.Dropped(c.reason) - was; n != 1 {
			t.Errorf("%s: counted %d times", c.name, n)
		}
	}
	drops := func() (n [3]uint64) {
		for i, r := range []wire.Reason{wire.WrongTunnel, wire.BadInner, wire.Malformed} {
			n[i] = d.peer.Dropped(r)
		}
		return n
	}
	was := drops()
	// A message, and ESP with and without an SPI of data.
	binding := slices.Concat(ip.AppendHomeAddress(nil, ip.Mobility, home6), []byte{59, 1, 5, 0, 0, 0, 0, 1, 0xc0, 0, 0, 9, 1, 2, 0, 0})
	secured := slices.Concat(ip.AppendHomeAddress(nil, ip.ESP, home6), binary.BigEndian.AppendUint32(nil, 0x1001), make([]byte, 16))
	d.from(message(coa6, conformance.CN6, ip.DstOpts, binding), message(coa6, conformance.CN6, ip.DstOpts, secured))
	data := slices.Clone(secured)
	data[24] = 0x80
	in := make([]core.Counter, 1)
	d.from(message(coa6, conformance.CN6, ip.DstOpts, data))
	for end := time.Now().Add(5 * time.Second); in[0].PacketsIn != 1; <-time.After(time.Millisecond) {
		must(t, d.peer.Counters([]core.ID{9}, in))
		if time.Now().After(end) {
			t.Fatalf("ESP of data: %+v; %s", in[0], d.drops())
		}
	}
	if now := drops(); now != was {
		t.Errorf("signalling is not the plane's: %d, were %d", now, was)
	}
	d.reach(d.host, "["+conformance.CN6.String()+"]", d.cn) // what was sent before has been recorded
	file := stop()
	// The two of signalling are refused by the kernel, as without the plane: no port of signalling is open. ESP of data has come as far
	// as the kernel of the correspondent, which knows none, and says so to the home address.
	for filter, want := range map[string]int{"icmpv6.code == 2 && !ipv6.routing": 2, "icmpv6.code == 1 && ipv6.routing.type == 2": 1, "icmpv6": 3} {
		if l := d.tshark(file, "icmpv6.type in {1..4} && "+filter); len(l) != want {
			t.Errorf("%s: %d errors, want %d: %q", filter, len(l), want, l)
		}
	}
}

// TestStraightRules: rules that somebody flushes come back; what a killed process left goes.
func TestStraightRules(t *testing.T) {
	d := newDirect(t)
	d.begin()
	flush := func(n netns.NsHandle) {
		d.must(n, func() error { return exec.Command("nft", "flush", "ruleset").Run() })
	}
	flush(d.cn)
	for end := time.Now().Add(5 * time.Second); strings.Count(d.tables(d.cn), "0xc9")+strings.Count(d.tables(d.cn), " drop") == 0; <-time.After(10 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("the rules did not come back")
		}
	}
	must(t, d.peer.Close())
	d.must(d.cn, func() error {
		if out, err := exec.Command("nft", "add table ip6 kedge-ro-"+DefaultDevice).CombinedOutput(); err != nil {
			return fmt.Errorf("%w: %s", err, out)
		}
		p, err := New(Config{Role: Anchor, Local: []netip.Addr{conformance.CN6}})
		if err != nil {
			return err
		}
		return p.Close()
	})
	if s := d.tables(d.cn); s != "" {
		t.Errorf("left: %s", s)
	}
}

// TestStraightRefused: where the kernel has no rules to give, the session is refused, and what came before it is there.
func TestStraightRefused(t *testing.T) {
	d := newDirect(t)
	d.node.direct.rules = func(string, func(*nftmatch.Rules) error) (*nftmatch.Table, error) { return nil, unix.EOPNOTSUPP }
	node, _ := d.ops()
	tunnel := core.SetSession{ID: 1, Chain: layer(coa6, conformance.LMAA, 0, 0)}
	check := func(err error) {
		t.Helper()
		var at *core.OpError
		if !errors.As(err, &at) || at.Index != 1 || !errors.Is(err, wire.ForwardingFailed) || !errors.Is(err, unix.EOPNOTSUPP) || !strings.Contains(err.Error(), "session 9: route optimization") {
			t.Errorf("%v", err)
		}
	}
	check(d.node.Update(append([]core.Op{tunnel}, node...)))
	if n := len(d.node.Ops()); n != 1 {
		t.Errorf("%d ops", n)
	}
	check(d.node.Sync(slices.Values(append([]core.Op{tunnel}, node...))))
	if n := len(d.node.Ops()); n != 1 || d.packetSockets(d.host) != 0 {
		t.Errorf("%d ops, or a socket", n)
	}
	d.node.direct.rules = nftmatch.Open
	must(t, d.node.Sync(slices.Values(append([]core.Op{tunnel}, node...))))
	if d.packetSockets(d.host) != 1 {
		t.Error("no socket")
	}
	must(t, d.node.Sync(slices.Values([]core.Op{tunnel})))
	if s := d.tables(d.host); s != "" || d.packetSockets(d.host) != 0 {
		t.Errorf("without a session: %s", s)
	}
}
