package ebpf

import (
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"

	"kedge/internal/core"
	"kedge/internal/dataplane"
	"kedge/internal/dataplane/conformance"
	"kedge/internal/system/ethtool"
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
					out := p.sent("lma", "net0")
					before, queued := total(pl, 1).PacketsIn, p.outOfOrder(f.at)
					p.fast(f.name, f.from, f.to, f.at)
					all := total(pl, 1).PacketsIn - before
					near, out, queued = p.sent(at, pl.joiner.near)-near, p.sent("lma", "net0")-out, p.outOfOrder(f.at)-queued
					t.Logf("whole %v: %d of %d segments by the joiner; %d frames out; %d out of order", whole, near, all, out, queued)
					switch {
					case p.sent(at, pl.joiner.far) != far:
						t.Errorf("something was sent back by the joiner")
					case whole && near > all/50:
						t.Errorf("%s: of %d segments in super packets %d went by the joiner", f.name, all, near)
					case !whole && near < all-all/20:
						t.Errorf("%s: of %d segments %d went by the joiner", f.name, all, near)
					case !whole && f.at == "cn" && out > all/2:
						t.Errorf("%s: of %d segments became %d frames", f.name, all, out)
					case queued > all/100:
						t.Errorf("%s: of %d segments %d arrived before one that was sent before them", f.name, all, queued)
					}
				}
			}
		})
	}
}

// TestJoinerComesBack: a joiner that is taken down or away is there again, and until then all goes on without it; without a joiner the
// config asks for none; others' interfaces of its name are left alone.
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
				all, err := netlink.LinkList()
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
		all, err := netlink.LinkList()
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
	p.sh("mag", "ip link add "+p.gateway.joiner.near+" type bridge")
	again(func(*Config) {})
	if s := p.gateway.Status(); s.Joins || s.JoinsNot == nil {
		t.Errorf("a joiner in place of another interface: %v", s.JoinsNot)
	}
	p.bind(false)
	p.fast("without a joiner", "cn", netip.MustParseAddr(host6), "host")
	must(t, p.gateway.End())
	if index() == 0 {
		t.Error("somebody else's interface was removed")
	}
}
