package ebpf

import (
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netns"

	"kedge/internal/core"
	"kedge/internal/dataplane"
	"kedge/internal/dataplane/conformance"
	"kedge/internal/dataplane/user"
	"kedge/wire"
)

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// world is network namespaces of one test. They have no names, so that none outlives a process that is killed.
type world struct {
	testing.TB
	spaces map[string]netns.NsHandle
}

func newWorld(t testing.TB, spaces ...string) *world {
	w := &world{t, map[string]netns.NsHandle{}}
	for _, s := range spaces {
		made := make(chan error)
		go func() {
			runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
			ns, err := netns.New()
			w.spaces[s] = ns
			made <- err
		}()
		if err := <-made; err != nil {
			t.Fatalf("network namespaces are needed, and root: %v", err)
		}
		t.Cleanup(func() { ns := w.spaces[s]; ns.Close() })
		w.sh(s, "ip link set lo up", "sysctl -qw net.ipv4.conf.all.rp_filter=0", "sysctl -qw net.ipv4.conf.default.rp_filter=0",
			"sysctl -qw net.ipv6.conf.default.accept_dad=0", "sysctl -qw net.ipv6.conf.all.accept_dad=0")
	}
	return w
}

func batched(line string) bool {
	return strings.HasPrefix(line, "ip ") && !strings.HasPrefix(line, "ip -")
}

// sh runs commands in a namespace: lines of ip one after the other by one process.
func (w *world) sh(space string, lines ...string) {
	w.Helper()
	w.in(space, func() error {
		for at := 0; at < len(lines); {
			n := 1
			c := exec.Command("ip", "-batch", "-")
			if args := strings.Fields(lines[at]); batched(lines[at]) {
				for at+n < len(lines) && batched(lines[at+n]) {
					n++
				}
				c.Stdin = strings.NewReader(strings.ReplaceAll("\n"+strings.Join(lines[at:at+n], "\n")+"\n", "\nip ", "\n"))
			} else {
				c = exec.Command(args[0], args[1:]...)
			}
			if out, err := c.CombinedOutput(); err != nil {
				return fmt.Errorf("%s: %w: %s", strings.Join(lines[at:at+n], "; "), err, out)
			}
			at += n
		}
		return nil
	})
}

// veth joins two namespaces.
func (w *world) veth(a, an, b, bn string, mtu int) {
	w.Helper()
	// The peer goes where another thread is: its namespace by number of a file of this process.
	w.sh(a, fmt.Sprintf("ip link add %s mtu %d type veth peer name %s mtu %d netns /proc/%d/fd/%d", an, mtu, bn, mtu, os.Getpid(), w.spaces[b]), "ip link set "+an+" up")
	w.sh(b, "ip link set "+bn+" up")
}

// in runs f on a thread in a namespace.
func (w *world) in(space string, f func() error) {
	w.Helper()
	if err := w.try(space, f); err != nil {
		w.Fatalf("%s: %v", space, err)
	}
}

func (w *world) try(space string, f func() error) error {
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
		err := netns.Set(w.spaces[space])
		if err == nil {
			err = f()
		}
		done <- err
	}()
	return <-done
}

// mac reads an interface's.
func (w *world) mac(space, name string) (m core.MAC, index int) {
	w.Helper()
	w.in(space, func() error {
		i, err := net.InterfaceByName(name)
		if err == nil {
			m, index = core.MAC(i.HardwareAddr), i.Index
		}
		return err
	})
	return m, index
}

// flow sends over TCP for a while and gives what arrived, bits a second.
func (w *world) flow(from string, to netip.Addr, at string, d time.Duration) float64 {
	w.Helper()
	var l net.Listener
	w.in(at, func() (err error) {
		l, err = net.Listen("tcp", netip.AddrPortFrom(to, 5201).String())
		return err
	})
	defer l.Close()
	got := make(chan int64, 1)
	go func() {
		c, err := l.Accept()
		if err != nil {
			got <- 0
			return
		}
		defer c.Close()
		buf, n := make([]byte, 1<<20), int64(0)
		for {
			r, err := c.Read(buf)
			n += int64(r)
			if err != nil {
				got <- n
				return
			}
		}
	}()
	start := time.Now()
	w.in(from, func() error {
		c, err := (&net.Dialer{Timeout: 5 * time.Second}).Dial("tcp", netip.AddrPortFrom(to, 5201).String())
		if err != nil {
			return err
		}
		defer c.Close()
		must(w, c.SetDeadline(start.Add(d+5*time.Second)))
		block := make([]byte, 1<<20)
		for time.Since(start) < d {
			if _, err := c.Write(block); err != nil {
				return err
			}
		}
		return nil
	})
	return float64(<-got*8) / time.Since(start).Seconds()
}

// reach exchanges UDP datagrams until one came back: for a moment after a link came up the kernel drops what is sent on it.
func (w *world) reach(from string, to netip.Addr, at string) {
	w.Helper()
	var server net.PacketConn
	w.in(at, func() (err error) {
		server, err = net.ListenPacket("udp", netip.AddrPortFrom(to, 7).String())
		return err
	})
	defer server.Close()
	go func() {
		b := make([]byte, 2000)
		for {
			n, a, err := server.ReadFrom(b)
			if err != nil {
				return
			}
			_, _ = server.WriteTo(b[:n], a)
		}
	}()
	w.in(from, func() error {
		c, err := net.Dial("udp", netip.AddrPortFrom(to, 7).String())
		if err != nil {
			return err
		}
		defer c.Close()
		b := make([]byte, 2000)
		for range 50 {
			_, _ = c.Write([]byte("hello"))
			must(w, c.SetReadDeadline(time.Now().Add(100*time.Millisecond)))
			if _, err = c.Read(b); err == nil {
				return nil
			}
		}
		return fmt.Errorf("%v does not answer: %w", to, err)
	})
}

func ap(a netip.Addr, p uint16) netip.AddrPort { return netip.AddrPortFrom(a, p) }

func tunnelOf(local, remote netip.Addr, port uint16) core.Chain {
	return core.Chain{N: 1, Layer: [2]core.Layer{{Local: ap(local, port), Remote: ap(remote, port)}}}
}

// inGREOf puts a GRE header into a tunnel of one layer, with keys that are not 0.
func inGREOf(c core.Chain, up, down uint32) core.Chain {
	c.Layer[0].GRE, c.Layer[0].KeyUp, c.Layer[0].KeyDown = true, up, down
	return c
}

// chain is host - gateway - anchor - correspondent node.
type chain struct {
	*world
	gateway, anchor *Plane
}

func (p *chain) drops() (s string) {
	for name, e := range map[string]*Plane{"gateway": p.gateway, "anchor": p.anchor} {
		if e != nil {
			e.Drops(func(r wire.Reason, n uint64) {
				if n > 0 {
					s += fmt.Sprintf("%s %s %d; ", name, r, n)
				}
			})
		}
	}
	return s
}

var coaGateway4 = netip.MustParseAddr("198.51.100.11")

const (
	host6 = "2001:db8:1000:1::a"
	host4 = "10.20.0.10"
)

// newPlain builds the path without planes: with plain routes instead of the tunnel if plain is set.
func newPlain(t testing.TB, plain bool) *world {
	w := newWorld(t, "host", "mag", "lma", "cn")
	for _, s := range []string{"mag", "lma"} {
		w.sh(s, "sysctl -qw net.ipv4.ip_forward=1", "sysctl -qw net.ipv6.conf.all.forwarding=1", "sysctl -qw net.ipv4.icmp_ratemask=0", "sysctl -qw net.ipv6.icmp.ratelimit=0")
	}
	w.veth("host", "eth0", "mag", "acc1", 1500)
	w.veth("mag", "core0", "lma", "core0", 1600)
	w.veth("lma", "net0", "cn", "eth0", 1500)
	w.sh("host", "ip addr add 2001:db8:1000:1::a/64 dev eth0 nodad", "ip addr add 10.20.0.10/24 dev eth0",
		"ip route add ::/0 via fe80::1 dev eth0", "ip route add 0.0.0.0/0 via 10.20.0.1 dev eth0")
	w.sh("mag", "ip addr add 2001:db8:a::11/64 dev core0 nodad", "ip addr add 198.51.100.11/24 dev core0")
	w.sh("lma", "ip addr add 2001:db8:a::1/64 dev core0 nodad", "ip addr add 198.51.100.1/24 dev core0",
		"ip addr add 2001:db8:c::1/64 dev net0 nodad", "ip addr add 203.0.113.1/24 dev net0")
	w.sh("cn", "ip addr add 2001:db8:c::c/64 dev eth0 nodad", "ip addr add 203.0.113.9/24 dev eth0",
		"ip route add ::/0 via 2001:db8:c::1", "ip route add 0.0.0.0/0 via 203.0.113.1")
	if plain {
		w.sh("mag", "ip addr add fe80::1/64 dev acc1 nodad", "ip addr add 10.20.0.1/24 dev acc1", "ip route add 2001:db8:1000:1::/64 dev acc1",
			"ip route add 2001:db8:c::/64 via 2001:db8:a::1", "ip route add 203.0.113.0/24 via 198.51.100.1")
		w.sh("lma", "ip route add 2001:db8:1000:1::/64 via 2001:db8:a::11", "ip route add 10.20.0.0/24 via 198.51.100.11")
		w.reach("host", conformance.CN6, "cn")
		w.reach("host", conformance.CN4, "cn")
	} else {
		for _, r := range []string{"fe80::1", "10.20.0.1"} {
			w.sh("host", "ip neigh replace "+r+" lladdr "+conformance.RouterMAC.String()+" dev eth0 nud permanent")
		}
	}
	return w
}

// newPath runs planes on it, with a tunnel over the given family.
func newPath(t testing.TB, over4 bool, change func(*Config)) *chain {
	p := &chain{world: newPlain(t, false)}
	open := func(space string, c Config) (pl *Plane) {
		c.Sessions, c.load = 1024, loaded.take
		if change != nil {
			change(&c)
		}
		p.in(space, func() (err error) {
			pl, err = New(c)
			return err
		})
		t.Cleanup(func() { must(t, pl.Close()) })
		return pl
	}
	p.gateway = open("mag", Config{Core: []string{"core*"}, Config: user.Config{Role: dataplane.Gateway,
		Local:  []netip.Addr{conformance.CoA1, coaGateway4},
		Access: []dataplane.Link{{Name: "acc1", MAC: conformance.RouterMAC, LinkLocal: conformance.LinkLocal}}}})
	p.anchor = open("lma", Config{Config: user.Config{Role: dataplane.Anchor, Local: []netip.Addr{conformance.LMAA, conformance.LMAA4}}})
	p.sh("lma", "ip route add 2001:db8:1000::/36 dev kedge0", "ip route add 10.20.0.0/16 dev kedge0")
	p.bind(over4)
	p.reach("host", conformance.CN6, "cn")
	p.reach("host", conformance.CN4, "cn")
	return p
}

// bind makes the host's session on both.
func (p *chain) bind(over4 bool) {
	p.Helper()
	coa, lmaa := conformance.CoA1, conformance.LMAA
	if over4 {
		coa, lmaa = coaGateway4, conformance.LMAA4
	}
	p.rebind(tunnelOf(coa, lmaa, 0), tunnelOf(lmaa, coa, 0))
}

// rebind makes it, or moves it, with the chain of each.
func (p *chain) rebind(gateway, anchor core.Chain) {
	p.Helper()
	mac, _ := p.mac("host", "eth0")
	_, acc := p.mac("mag", "acc1")
	g := []core.Op{core.SetSession{ID: 1, Chain: gateway, If: acc, MAC: mac}}
	a := []core.Op{core.SetSession{ID: 1, Chain: anchor}}
	for _, k := range []netip.Prefix{conformance.HNP1, netip.MustParsePrefix("10.20.0.10/32")} {
		g = append(g, core.SetKey{ID: 1, Match: core.Match{Src: k, If: acc, MAC: mac}, Up: true, Down: true})
		a = append(a, core.SetKey{ID: 1, Match: core.Match{Dst: k}, Up: true, Down: true})
	}
	p.in("mag", func() error { return p.gateway.Update(g) })
	p.in("lma", func() error { return p.anchor.Update(a) })
}

// newNode is node - anchor - correspondent node, the node's tunnel as end says.
func newNode(t testing.TB, end core.Chain, change ...func(*Config)) *chain {
	w := newWorld(t, "host", "lma", "cn")
	w.sh("lma", "sysctl -qw net.ipv4.ip_forward=1", "sysctl -qw net.ipv6.conf.all.forwarding=1")
	w.veth("host", "wlan0", "lma", "core0", 1600)
	w.veth("lma", "net0", "cn", "eth0", 1500)
	w.sh("host", "ip addr add 2001:db8:a::11/64 dev wlan0 nodad", "ip addr add 198.51.100.11/24 dev wlan0")
	w.sh("lma", "ip addr add 2001:db8:a::1/64 dev core0 nodad", "ip addr add 198.51.100.1/24 dev core0",
		"ip addr add 2001:db8:c::1/64 dev net0 nodad", "ip addr add 203.0.113.1/24 dev net0")
	w.sh("cn", "ip addr add 2001:db8:c::c/64 dev eth0 nodad", "ip addr add 203.0.113.9/24 dev eth0",
		"ip route add ::/0 via 2001:db8:c::1", "ip route add 0.0.0.0/0 via 203.0.113.1")
	p := &chain{world: w}
	home6, home4 := netip.MustParseAddr(host6), netip.MustParseAddr(host4)
	p.in("host", func() (err error) {
		c := Config{load: loaded.take, Sessions: 16, Core: []string{"wlan*"}, Config: user.Config{Role: dataplane.Node, Home: []netip.Addr{home6}, DeviceMTU: 1500}}
		for _, f := range change {
			f(&c)
		}
		p.gateway, err = New(c)
		return err
	})
	t.Cleanup(func() { must(t, p.gateway.Close()) })
	p.in("lma", func() (err error) {
		p.anchor, err = New(Config{load: loaded.take, Sessions: 1024, Config: user.Config{Role: dataplane.Anchor, Local: []netip.Addr{conformance.LMAA, conformance.LMAA4}}})
		return err
	})
	t.Cleanup(func() { must(t, p.anchor.Close()) })
	w.sh("host", "ip addr add "+host6+"/128 dev kedge0 nodad", "ip addr add "+host4+"/32 dev kedge0",
		"ip route add 2001:db8:c::/64 dev kedge0 src "+host6, "ip route add 203.0.113.0/24 dev kedge0 src "+host4)
	w.sh("lma", "ip route add 2001:db8:1000::/36 dev kedge0", "ip route add 10.20.0.0/16 dev kedge0")
	back := end
	for i := range back.Layer {
		l := &back.Layer[i]
		l.Local, l.Remote = l.Remote, l.Local
	}
	g, a := []core.Op{core.SetSession{ID: 1, Chain: end}}, []core.Op{core.SetSession{ID: 1, Chain: back}}
	for _, h := range []netip.Addr{home6, home4} {
		k := netip.PrefixFrom(h, h.BitLen())
		g = append(g, core.SetKey{ID: 1, Match: core.Match{Src: k}, Up: true, Down: true})
		a = append(a, core.SetKey{ID: 1, Match: core.Match{Dst: k}, Up: true, Down: true})
	}
	p.in("host", func() error { return p.gateway.Update(g) })
	p.in("lma", func() error { return p.anchor.Update(a) })
	p.reach("host", conformance.CN6, "cn")
	p.reach("host", conformance.CN4, "cn")
	return p
}

// slow is how many packets of a session went the slow way, in and out.
func slow(pl *Plane, id core.ID) (in, out uint64) {
	var c [1]core.Counter
	_ = pl.Plane.Counters([]core.ID{id}, c[:])
	return c[0].PacketsIn, c[0].PacketsOut
}

func total(pl *Plane, id core.ID) core.Counter {
	var c [1]core.Counter
	_ = pl.Counters([]core.ID{id}, c[:])
	return c[0]
}

// command runs a program in the namespace of the calling thread.
func command(args ...string) (string, error) {
	out, err := exec.Command(args[0], args[1:]...).CombinedOutput()
	return string(out), err
}
