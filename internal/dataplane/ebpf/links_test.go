package ebpf

import (
	"errors"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"kedge/internal/core"
	"kedge/internal/dataplane"
	"kedge/internal/dataplane/conformance"
)

// until polls a condition.
func until(t testing.TB, what string, f func() bool) {
	t.Helper()
	for end := time.Now().Add(5 * time.Second); !f(); wait(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("not within 5 s: %s", what)
		}
	}
}

func (p *chain) has(pl *Plane, hook string) func() bool {
	return func() bool { return slices.Contains(pl.Status().Links, hook) }
}

// TestInterfaces: the programs follow links that go down, up, away, get another name, and come back, in each way of attaching.
func TestInterfaces(t *testing.T) {
	for _, clsact := range []bool{false, true} {
		name := map[bool]string{false: "tcx", true: "clsact"}[clsact]
		t.Run(name, func(t *testing.T) {
			p := newPath(t, false, func(c *Config) { c.Clsact = clsact })
			if got := p.gateway.Status(); got.Attach != name {
				t.Errorf("attached by %s", got.Attach)
			}
			p.fast("before", "host", conformance.CN6, "cn")

			p.sh("mag", "ip link set acc1 down", "ip link set core0 down")
			p.sh("mag", "ip link set core0 up", "ip link set acc1 up", "ip addr replace 2001:db8:a::11/64 dev core0 nodad")
			p.reach("host", conformance.CN6, "cn")
			p.fast("down and up", "host", conformance.CN6, "cn")

			p.sh("mag", "ip link set core0 name core7")
			until(t, "the new name", p.has(p.gateway, "core7 core"))
			p.fast("renamed", "host", conformance.CN6, "cn")
			p.sh("mag", "ip link set core7 name other")
			until(t, "no program on a link that is not meant", func() bool {
				return !slices.ContainsFunc(p.gateway.Status().Links, func(l string) bool { return strings.HasPrefix(l, "other") })
			})
			p.sh("mag", "ip link set other name core0")
			until(t, "the old name", p.has(p.gateway, "core0 core"))

			// The access link goes, and a new one comes with its name: another index, and another MAC of the host.
			p.sh("mag", "ip link del acc1")
			until(t, "the access link gone", func() bool { return !p.has(p.gateway, "acc1 access")() })
			p.veth("host", "eth0", "mag", "acc1", 1500)
			p.sh("host", "ip addr add 2001:db8:1000:1::a/64 dev eth0 nodad", "ip addr add 10.20.0.10/24 dev eth0", "ip route add ::/0 via fe80::1 dev eth0",
				"ip route add 0.0.0.0/0 via 10.20.0.1 dev eth0", "ip neigh replace fe80::1 lladdr "+conformance.RouterMAC.String()+" dev eth0 nud permanent",
				"ip neigh replace 10.20.0.1 lladdr "+conformance.RouterMAC.String()+" dev eth0 nud permanent")
			until(t, "the access link back", p.has(p.gateway, "acc1 access"))
			mac, _ := p.mac("host", "eth0")
			must(t, p.gateway.Update([]core.Op{core.SetSession{ID: 1, Chain: tunnelOf(conformance.CoA1, conformance.LMAA, 0), If: p.gateway.cfg.Access[0].If, MAC: mac}}))
			p.reach("host", conformance.CN6, "cn")
			p.fast("access link anew, up", "host", conformance.CN6, "cn")
			p.fast("access link anew, down", "cn", netip.MustParseAddr(host6), "host")

			p.sh("lma", "ip link del core0")
			until(t, "the core link gone", func() bool { return !p.has(p.anchor, "core0 core")() })
			p.veth("mag", "core0", "lma", "core0", 1600)
			p.sh("mag", "ip addr add 2001:db8:a::11/64 dev core0 nodad")
			p.sh("lma", "ip addr add 2001:db8:a::1/64 dev core0 nodad")
			until(t, "the core link back", p.has(p.anchor, "core0 core"))
			until(t, "the core link back at the gateway", p.has(p.gateway, "core0 core"))
			p.reach("host", conformance.CN6, "cn")
			p.fast("core link anew", "host", conformance.CN6, "cn")
			if s := p.anchor.Status(); s.LastFail != "" || s.Partial {
				t.Errorf("status %+v", s)
			}
		})
	}
}

// TestDetachedByOthers: programs that somebody else takes off an interface come back, in each way of attaching.
func TestDetachedByOthers(t *testing.T) {
	p := newPath(t, false, func(c *Config) { c.Clsact = c.Role == dataplane.Gateway })
	p.fast("before", "host", conformance.CN6, "cn")
	on := func(link string, pl *Plane) func() bool {
		return func() (yes bool) {
			p.in(map[*Plane]string{p.gateway: "mag", p.anchor: "lma"}[pl], func() error {
				n, err := Attached(link)
				yes = n == 1
				return err
			})
			return yes
		}
	}
	must(t, detachTCX(p.anchor, "core0 core"))
	p.sh("mag", "tc qdisc del dev acc1 clsact", "tc filter del dev core0 ingress")
	if on("acc1", p.gateway)() || on("core0", p.gateway)() || on("core0", p.anchor)() {
		t.Fatal("nothing was taken off")
	}
	until(t, "the access link's program", on("acc1", p.gateway))
	until(t, "the gateway's core link's program", on("core0", p.gateway))
	until(t, "the anchor's core link's program", on("core0", p.anchor))
	p.fast("up", "host", conformance.CN6, "cn")
	p.fast("down", "cn", netip.MustParseAddr(host6), "host")
}

// detachTCX ends a link in the kernel, as "bpftool link detach" does, and leaves the plane its file.
func detachTCX(p *Plane, hook string) error {
	p.attaching.Lock()
	defer p.attaching.Unlock()
	for _, h := range p.hooks {
		if h.name+" "+h.prog == hook {
			return h.tcx.Detach()
		}
	}
	return unix.ENOENT
}

// TestDetached: nothing is left on interfaces when a plane has closed.
func TestDetached(t *testing.T) {
	p := newPath(t, false, func(c *Config) { c.Clsact = c.Role == dataplane.Gateway })
	must(t, p.gateway.Close())
	must(t, p.anchor.Close())
	for _, s := range []string{"mag", "lma"} {
		p.in(s, func() error {
			out, err := command("bpftool", "net", "show")
			if err != nil {
				return err
			}
			if strings.Contains(out, "core0") || strings.Contains(out, "acc1") {
				t.Errorf("%s: %s", s, out)
			}
			out, err = command("tc", "qdisc", "show")
			if err == nil && strings.Contains(out, "clsact") {
				t.Errorf("%s: %s", s, out)
			}
			return err
		})
	}
}

// TestInterruptedList: a list of interfaces that others' changes went through is made again, and never taken for all there is.
func TestInterruptedList(t *testing.T) {
	lo, calls := &netlink.Device{LinkAttrs: netlink.LinkAttrs{Name: "lo"}}, 0
	all, err := interfaces(func() ([]netlink.Link, error) {
		if calls++; calls < 3 {
			return nil, netlink.ErrDumpInterrupted
		}
		return []netlink.Link{lo}, nil
	})
	if err != nil || calls != 3 || len(all) != 1 {
		t.Errorf("%d calls: %v, %v", calls, all, err)
	}
	for _, fault := range []error{netlink.ErrDumpInterrupted, unix.EPERM} {
		if all, err = interfaces(func() ([]netlink.Link, error) { return []netlink.Link{lo}, fault }); !errors.Is(err, fault) || all != nil {
			t.Errorf("%v: %v, %v", fault, all, err)
		}
	}
}
