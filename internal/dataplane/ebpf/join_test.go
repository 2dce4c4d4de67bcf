package ebpf

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"kedge/internal/core"
	"kedge/internal/dataplane"
	"kedge/internal/dataplane/conformance"
	"kedge/internal/system/ethtool"
	"kedge/wire/ip"
)

// cut lets links send segments only, as those of most tunnels' paths do.
func (p *chain) cut(links ...string) {
	p.Helper()
	for _, l := range links {
		space, name, _ := strings.Cut(l, " ")
		p.in(space, func() error { return ethtool.Set(name, false, ethtool.Segmentation...) })
	}
}

// sent is how many frames an interface has sent.
func (w *world) sent(space, name string) (n uint64) {
	w.Helper()
	w.in(space, func() error {
		l, err := netlink.LinkByName(name)
		if err == nil {
			n = l.Attrs().Statistics.TxPackets
		}
		return err
	})
	return n
}

// outOfOrder is how many segments the TCP of a host has queued because one before them was missing.
func (w *world) outOfOrder(space string) (n uint64) {
	w.Helper()
	w.in(space, func() error {
		b, err := os.ReadFile("/proc/thread-self/net/netstat")
		if err != nil {
			return err
		}
		var names []string
		for line := range strings.Lines(string(b)) {
			f := strings.Fields(line)
			if at := slices.Index(names, "TCPOFOQueue"); f[0] == "TcpExt:" && at > 0 {
				_, err = fmt.Sscan(f[at], &n)
				return err
			}
			names = f
		}
		return fmt.Errorf("TCPOFOQueue: %q", b)
	})
	return n
}

// TestJoin: what leaves a tunnel in segments goes on in super packets, in each role, framing and way of attaching, and none passes another;
// what leaves it whole goes past the joiner.
func TestJoin(t *testing.T) {
	udp := func(c *Config) { c.UDP = true }
	gateway := func(over4 bool, end core.Chain, change func(*Config)) func(*testing.T) *chain {
		return func(t *testing.T) *chain {
			p := newPath(t, over4, change)
			back := end
			back.Layer[0].Local, back.Layer[0].Remote = end.Layer[0].Remote, end.Layer[0].Local
			p.rebind(end, back)
			return p
		}
	}
	node := func(end core.Chain, change ...func(*Config)) func(*testing.T) *chain {
		return func(t *testing.T) *chain { return newNode(t, end, change...) }
	}
	in6, inUDP := tunnelOf(conformance.CoA1, conformance.LMAA, 0), tunnelOf(coaGateway4, conformance.LMAA4, dataplane.PortUDP)
	for _, c := range []struct {
		name string
		open func(*testing.T) *chain
		node bool
	}{
		{"gateway, IPv6", gateway(false, in6, nil), false},
		{"gateway, UDP", gateway(true, inUDP, udp), false},
		{"gateway, GRE with keys", gateway(false, inGREOf(in6, 7, 8), nil), false},
		{"gateway, UDP, clsact", gateway(true, inUDP, func(c *Config) { c.UDP, c.Clsact = true, true }), false},
		{"gateway, UDP, anchor through the stack", gateway(true, inUDP, func(c *Config) { c.UDP, c.ThroughStack = true, true }), false},
		{"node, IPv6", node(in6), true},
		{"node, UDP", node(inUDP), true},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := c.open(t)
			far, home := "mag core0", "mag"
			if c.node {
				far, home = "host wlan0", "host"
			}
			for _, whole := range []bool{true, false} {
				if !whole {
					p.cut(far, "lma core0")
					wait(1100 * time.Millisecond) // what came last was whole
				}
				for _, f := range flows {
					pl, at := p.anchor, "lma"
					if f.at == "host" {
						pl, at = p.gateway, home
					}
					if s := pl.Status(); !s.Joins || s.JoinsNot != nil {
						t.Fatalf("%s: there is no joiner: %v", at, s.JoinsNot)
					}
					near, far := p.sent(at, pl.joiner.near), p.sent(at, pl.joiner.far)
					behind := []string{"lma", "net0"} // where frames are counted that were put together
					if f.at == "host" && !c.node {
						behind = []string{"mag", "acc1"}
					}
					out := p.sent(behind[0], behind[1])
					before, queued := total(pl, 1).PacketsIn, p.outOfOrder(f.at)
					p.fast(f.name, f.from, f.to, f.at)
					all := total(pl, 1).PacketsIn - before
					near, out, queued = p.sent(at, pl.joiner.near)-near, p.sent(behind[0], behind[1])-out, p.outOfOrder(f.at)-queued
					t.Logf("whole %v: %d of %d segments by the joiner; %d frames out; %d out of order", whole, near, all, out, queued)
					switch {
					case p.sent(at, pl.joiner.far) != far:
						t.Errorf("something was sent back by the joiner")
					case whole && near > all/50:
						t.Errorf("%s: of %d segments in super packets %d went by the joiner", f.name, all, near)
					case !whole && near < all-all/20:
						t.Errorf("%s: of %d segments %d went by the joiner", f.name, all, near)
					case !whole && (f.at == "cn" || !c.node) && out > all/2:
						t.Errorf("%s: of %d segments became %d frames", f.name, all, out)
					case queued > all/100:
						t.Errorf("%s: of %d segments %d arrived before one that was sent before them", f.name, all, queued)
					}
				}
			}
		})
	}
}

// TestJoinStreams: segments of many streams in one tunnel, by turns, are put together, each stream's in its order. The kernel's hash of
// them is one, as it is behind a network card.
func TestJoinStreams(t *testing.T) {
	const streams, each, size, bursts = 16, 4, 500, 40
	p := newPath(t, true, func(c *Config) { c.UDP = true })
	p.rebind(tunnelOf(coaGateway4, conformance.LMAA4, dataplane.PortUDP), tunnelOf(conformance.LMAA4, coaGateway4, dataplane.PortUDP))
	must(t, p.anchor.Close()) // its port is needed
	p.cut("lma core0")
	p.in("lma", func() error { return ethtool.Set("core0", false, ethtool.Checksums...) })
	var out, in int
	p.in("lma", func() (err error) {
		if out, err = unix.Socket(unix.AF_INET, unix.SOCK_DGRAM, 0); err != nil {
			return err
		}
		return errors.Join(unix.SetsockoptInt(out, unix.SOL_UDP, unix.UDP_SEGMENT, ip.IPv4Len+20+size),
			unix.Bind(out, &unix.SockaddrInet4{Port: dataplane.PortUDP, Addr: conformance.LMAA4.As4()}),
			unix.Connect(out, &unix.SockaddrInet4{Port: dataplane.PortUDP, Addr: coaGateway4.As4()}))
	})
	defer unix.Close(out)
	_, index := p.mac("host", "eth0")
	p.in("host", func() (err error) {
		ipv4 := uint16(unix.ETH_P_IP>>8 | unix.ETH_P_IP<<8&0xff00)
		if in, err = unix.Socket(unix.AF_PACKET, unix.SOCK_DGRAM, int(ipv4)); err != nil {
			return err
		}
		return errors.Join(unix.SetsockoptInt(in, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 8<<20),
			unix.Bind(in, &unix.SockaddrLinklayer{Protocol: ipv4, Ifindex: index}))
	})
	defer unix.Close(in)
	host := netip.MustParseAddr(host4)
	segment := func(stream, n int) []byte {
		h := ip.Header{Src: conformance.CN4, Dst: host, Proto: ip.TCP, TTL: 64, DF: true, ID: uint16(n)}
		b, err := h.Append(nil, 20+size)
		must(t, err)
		tcp := make([]byte, 20+size)
		binary.BigEndian.PutUint16(tcp, 443)
		binary.BigEndian.PutUint16(tcp[2:], uint16(10000+stream))
		binary.BigEndian.PutUint32(tcp[4:], uint32(n*size))
		tcp[12], tcp[13] = 5<<4, 0x10
		binary.BigEndian.PutUint16(tcp[16:], ip.PseudoChecksum(h.Src, h.Dst, ip.TCP, tcp))
		return append(b, tcp...)
	}
	wait(1100 * time.Millisecond)
	next := map[uint16]uint32{}
	frames, segments := 0, 0
	b := make([]byte, 1<<17)
	for burst := range bursts {
		var all []byte
		for i := range each {
			for s := range streams {
				all = append(all, segment(s, burst*each+i)...)
			}
		}
		if _, err := unix.Write(out, all); err != nil {
			t.Fatal(err)
		}
		for segments < (burst+1)*each*streams {
			if n, _ := unix.Poll([]unix.PollFd{{Fd: int32(in), Events: unix.POLLIN}}, 1000); n == 0 {
				t.Fatalf("burst %d: %d of %d segments; %s", burst, segments, (burst+1)*each*streams, p.drops())
			}
			n, _, err := unix.Recvfrom(in, b, 0)
			must(t, err)
			if n < 40 || b[9] != ip.TCP || binary.BigEndian.Uint16(b[20:]) != 443 {
				continue
			}
			stream, seq := binary.BigEndian.Uint16(b[22:]), binary.BigEndian.Uint32(b[24:])
			if seq != next[stream] {
				t.Fatalf("stream %d: octet %d, want %d", stream, seq, next[stream])
			}
			next[stream] += uint32(n - 40)
			frames, segments = frames+1, segments+(n-40)/size
		}
	}
	if t.Logf("%d segments in %d frames", segments, frames); frames > segments/2 {
		t.Errorf("%d segments of %d streams became %d frames", segments, streams, frames)
	}
}

// TestJoinerComesBack: a joiner that is taken down or away is there again, and until then all goes on without it.
func TestJoinerComesBack(t *testing.T) {
	p := newPath(t, true, func(c *Config) { c.UDP = true })
	p.rebind(tunnelOf(coaGateway4, conformance.LMAA4, dataplane.PortUDP), tunnelOf(conformance.LMAA4, coaGateway4, dataplane.PortUDP))
	p.cut("mag core0", "lma core0")
	joins := func() bool { return p.gateway.Status().Joins }
	near, far := p.gateway.joiner.near, p.gateway.joiner.far
	down := func(what string) {
		p.Helper()
		before := p.sent("mag", near)
		p.fast(what, "cn", netip.MustParseAddr(host4), "host")
		if p.sent("mag", near) == before {
			t.Errorf("%s: nothing goes by the joiner", what)
		}
	}
	wait(1100 * time.Millisecond)
	down("before")
	for _, c := range []string{"ip link set " + near + " down", "ip link set " + far + " down", "ip link del " + far, "ip link set " + far + " name other"} {
		p.sh("mag", c)
		until(t, c, func() (there bool) { // a look each second is the least; most often the kernel tells
			p.in("mag", func() error {
				all, err := interfaces(netlink.LinkList)
				near, far := p.gateway.joiner.find(all)
				there = near != nil && up(near) && up(far)
				return err
			})
			return there && joins()
		})
		until(t, c+": its program", p.has(p.gateway, far+" joined"))
		down(c)
	}
	p.in("mag", func() error {
		all, err := interfaces(netlink.LinkList)
		for _, l := range all {
			if l.Attrs().Name == "other" {
				t.Error("half of the former joiner is left")
			}
		}
		return err
	})
}

// TestJoinerGoes: a joiner outlives a process as its programs do, the next one adopts it, and it ends with them; also by name, and when
// none is wanted any more.
func TestJoinerGoes(t *testing.T) {
	fs := bpffs(t)
	pin := filepath.Join(fs, "p")
	var cfg Config
	p := newPath(t, false, func(c *Config) {
		if c.Role == dataplane.Gateway {
			c.Pin, c.Name = pin, "mag1"
			cfg = *c
		}
	})
	index := func() (i int) {
		p.in("mag", func() error {
			if l, err := netlink.LinkByName(p.gateway.joiner.near); err == nil {
				i = l.Attrs().Index
			}
			return nil
		})
		return i
	}
	again := func(change func(*Config)) {
		c := cfg
		change(&c)
		p.in("mag", func() (err error) {
			p.gateway, err = New(c)
			return err
		})
		t.Cleanup(func() { must(t, p.gateway.Close()) })
	}
	first := index()
	must(t, p.gateway.Close())
	if first == 0 || index() != first {
		t.Fatalf("joiner %d, after the process %d", first, index())
	}
	again(func(*Config) {})
	if !p.gateway.Status().Joins || index() != first {
		t.Errorf("joiner %d, of the next process %d", first, index())
	}
	must(t, p.gateway.Close())
	again(func(c *Config) { c.NoJoin = true })
	if p.gateway.Status().Joins || index() != 0 {
		t.Error("there is a joiner, and none is wanted")
	}
	must(t, p.gateway.Close())
	again(func(*Config) {})
	if !p.gateway.Status().Joins || index() == 0 {
		t.Error("there is no joiner again")
	}
	must(t, p.gateway.Close())
	p.in("mag", func() error { return Unjoin("mag2") })
	if index() == 0 {
		t.Error("another one's joiner was removed")
	}
	p.in("mag", func() error { return Unjoin("mag1") })
	if index() != 0 {
		t.Error("the joiner was not removed by name")
	}
	again(func(*Config) {})
	must(t, p.gateway.End())
	if index() != 0 {
		t.Error("the joiner is left when all has ended")
	}
	// Somebody else has an interface of that name.
	for _, name := range []string{p.gateway.joiner.near, p.gateway.joiner.far} {
		p.sh("mag", "ip link add "+name+" type bridge")
		again(func(*Config) {})
		if s := p.gateway.Status(); s.Joins || s.JoinsNot == nil || slices.ContainsFunc(s.Links, func(l string) bool { return strings.HasPrefix(l, name) }) {
			t.Errorf("a joiner in place of %s: %v, %v", name, s.JoinsNot, s.Links)
		}
		p.bind(false)
		p.fast("without a joiner", "cn", netip.MustParseAddr(host6), "host")
		must(t, p.gateway.End())
		again(func(c *Config) { c.NoJoin = true })
		must(t, p.gateway.End())
		p.sh("mag", "ip link del "+name) // it is there
	}
}

// TestJoinerUnfinished: a pair that a process left before it was as it must be, or that somebody changed, is made anew.
func TestJoinerUnfinished(t *testing.T) {
	var cfg Config
	p := newPath(t, false, func(c *Config) {
		if c.Role == dataplane.Gateway {
			cfg = *c
		}
	})
	must(t, p.gateway.Close())
	j := p.gateway.joiner
	p.sh("mag", "ip link add "+j.near+" type veth peer name "+j.far, "ip link set "+j.near+" up", "ip link set "+j.far+" up")
	p.in("mag", func() (err error) {
		p.gateway, err = New(cfg)
		return err
	})
	t.Cleanup(func() { must(t, p.gateway.Close()) })
	p.in("mag", func() error {
		all, err := interfaces(netlink.LinkList)
		near, far := j.find(all)
		if near == nil || !right(near, far) || near.Attrs().Alias == "" {
			t.Errorf("joiner: %v, %v", near, far)
		}
		return err
	})
	if s := p.gateway.Status(); !s.Joins {
		t.Errorf("there is no joiner: %v", s.JoinsNot)
	}
}

// TestJoinerLost: nobody looks after a joiner while a process is away, so soon nothing is sent by it.
func TestJoinerLost(t *testing.T) {
	fs := bpffs(t)
	p := newPath(t, false, func(c *Config) {
		if c.Role == dataplane.Gateway {
			c.Pin = filepath.Join(fs, "p")
		}
	})
	must(t, p.gateway.Close())
	p.sh("mag", "ip link del "+p.gateway.joiner.near)
	wait(3*look + 100*time.Millisecond)
	if got := p.flow("cn", netip.MustParseAddr(host6), "host", 300*time.Millisecond); got < 1e8 {
		t.Errorf("%.0f bit/s without the joiner", got)
	}
}
