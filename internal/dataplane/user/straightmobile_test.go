package user

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"kedge/internal/core"
	"kedge/internal/dataplane/conformance"
	"kedge/wire"
	"kedge/wire/ip"
)

// Two mobile nodes, each with the other's care-of address or not: node A at coa6, node B at the correspondent's place, and the home
// agent of both where the router is.
var (
	homeB = conformance.H26
	careB = conformance.CN6
	agent = conformance.LMAA
)

type mobiles struct {
	*direct
	ha *Plane
}

// newMobiles is node A - router and home agent - node B, with ordinary kernels.
func newMobiles(t *testing.T) *mobiles {
	d := &mobiles{direct: &direct{path: path{t: t, host: newNS(t), cn: newNS(t)}, router: newNS(t)}}
	for _, n := range []netns.NsHandle{d.host, d.router, d.cn} {
		d.sysctl(n, "ipv6/conf/default/accept_dad=0", "ipv6/icmp/ratelimit=0")
		d.up(n, "lo", nil)
	}
	d.sysctl(d.router, "ipv6/conf/all/forwarding=1")
	d.veth(d.host, "lan0", d.router, "lan0", 1500)
	d.veth(d.router, "net0", d.cn, "eth0", 1500)
	d.up(d.router, "lo", []string{agent.String() + "/128"})
	d.up(d.router, "lan0", []string{"2001:db8:e::1/64"})
	d.up(d.router, "net0", []string{"2001:db8:c::1/64"})
	d.up(d.host, "lan0", []string{coa6.String() + "/64"}, "::/0 via 2001:db8:e::1")
	d.up(d.cn, "eth0", []string{careB.String() + "/64"}, "::/0 via 2001:db8:c::1")
	d.must(d.router, func() (err error) {
		d.ha, err = New(Config{Role: Anchor, Local: []netip.Addr{agent}})
		return err
	})
	t.Cleanup(func() { must(t, d.ha.Close()) })
	d.up(d.router, DefaultDevice, nil, conformance.Pool6.String())
	for _, n := range []struct {
		ns         netns.NsHandle
		into       **Plane
		id         core.ID
		home, care netip.Addr
	}{{d.host, &d.node, 1, home6, coa6}, {d.cn, &d.peer, 2, homeB, careB}} {
		d.must(n.ns, func() (err error) {
			*n.into, err = New(Config{Role: Node, Device: "mn0", DeviceMTU: 1400, Home: []netip.Addr{n.home}, Anchors: []netip.Addr{agent}, Correspondent: true})
			return err
		})
		t.Cleanup(func() { must(t, (*n.into).Close()) })
		key := netip.PrefixFrom(n.home, 128)
		must(t, (*n.into).Update([]core.Op{core.SetSession{ID: n.id, Chain: layer(n.care, agent, 0, 0)}, core.SetKey{ID: n.id, Match: core.Match{Src: key}, Up: true, Down: true}}))
		must(t, d.ha.Update([]core.Op{core.SetSession{ID: n.id, Chain: layer(agent, n.care, 0, 0)}, core.SetKey{ID: n.id, Match: core.Match{Dst: key}, Up: true, Down: true}}))
		d.up(n.ns, "mn0", []string{n.home.String() + "/128"})
		d.must(n.ns, func() error {
			l, err := netlink.LinkByName("mn0")
			if err != nil {
				return err
			}
			rule := netlink.NewRule()
			rule.Src, rule.Table, rule.Priority, rule.Family = cidr(n.home.String()+"/128"), 100, 1000, unix.AF_INET6
			return errors.Join(netlink.RuleAdd(rule), netlink.RouteReplace(&netlink.Route{LinkIndex: l.Attrs().Index, Dst: cidr("::/0"), Table: 100}))
		})
	}
	d.gateway, d.anchor = d.node, d.peer
	return d
}

// meet gives each node the session that it has of the other: registered says that the other has its care-of address.
func (d *mobiles) meet(a, b bool) {
	d.t.Helper()
	one := func(p *Plane, own, care, other, otherCare netip.Addr, registered, knows bool) {
		c := core.Chain{RO: 1, Layer: [2]core.Layer{{Local: netip.AddrPortFrom(care, 0), Remote: netip.AddrPortFrom(other, 0)}}}
		if knows {
			c.Layer[0].Remote = netip.AddrPortFrom(otherCare, 0)
		}
		if !registered {
			c.N, c.Layer[0].Local, c.Layer[1] = 1, netip.AddrPortFrom(own, 0), core.Layer{Local: netip.AddrPortFrom(care, 0), Remote: netip.AddrPortFrom(agent, 0)}
		}
		m := core.Match{Src: netip.PrefixFrom(own, 128), Dst: netip.PrefixFrom(other, 128)}
		must(d.t, p.Update([]core.Op{core.SetSession{ID: 9, Chain: c}, core.SetKey{ID: 9, Match: m, Up: true, Down: true}}))
	}
	one(d.node, home6, coa6, homeB, careB, a, b)
	one(d.peer, homeB, careB, home6, coa6, b, a)
}

// streams sends TCP with super packets, and datagrams, both ways between the home addresses.
func (d *mobiles) streams() {
	d.t.Helper()
	d.source = home6
	d.transfer(d.host, homeB, d.cn, 4<<20)
	d.source = homeB
	d.transfer(d.cn, home6, d.host, 4<<20)
	d.source = netip.Addr{}
}

// TestStraightMobile: two mobile nodes whose applications see home addresses only. Their packets have both headers while each has the
// other's care-of address; while one of them has not registered, it sends the routing header through its tunnel, and gets the option in
// it. It goes from one to the other while streams run, and no kernel answers anything.
func TestStraightMobile(t *testing.T) {
	d := newMobiles(t)
	const both, option, routing = "ipv6.routing.type == 2 && ipv6.opt.type == 0xc9", "ipv6.opt.type == 0xc9 && !ipv6.routing", "ipv6.routing.type == 2 && !(ipv6.opt.type == 0xc9)"
	ends := func(headers string, src, dst netip.Addr) string {
		return fmt.Sprintf("%s && tcp && ipv6.src == %v && ipv6.dst == %v", headers, src, dst)
	}
	for _, c := range []struct {
		name string
		a, b bool
		want []string
	}{
		{"both are registered", true, true, []string{ends(both, coa6, careB), ends(both, careB, coa6)}},
		{"A is not", false, true, []string{ends(routing, home6, careB), ends(option, careB, home6)}},
		{"B is not", true, false, []string{ends(option, coa6, homeB), ends(routing, homeB, coa6)}},
	} {
		d.meet(c.a, c.b)
		stop := d.record()
		d.streams()
		file := stop()
		for _, filter := range c.want {
			if len(d.tshark(file, filter)) < 100 {
				t.Errorf("%s: %d of %s; %s", c.name, len(d.tshark(file, filter)), filter, d.drops())
			}
		}
		for what, filter := range map[string]string{
			"an answer of a kernel": "icmpv6.type in {1,3,4}", "malformed": "_ws.malformed", "with neither header": "tcp && !(ipv6.opt.type == 0xc9) && !ipv6.routing",
		} {
			if l := d.tshark(file, filter); len(l) != 0 {
				t.Errorf("%s: %s: %d, as %s", c.name, what, len(l), l[0])
			}
		}
		in := make([]core.Counter, 1)
		for _, p := range []*Plane{d.node, d.peer} {
			must(t, p.Counters([]core.ID{9}, in))
			if in[0].PacketsIn < 200 || in[0].PacketsOut < 200 {
				t.Errorf("%s: %+v", c.name, in[0])
			}
			for _, r := range []wire.Reason{wire.BadInner, wire.Malformed, wire.WrongTunnel, wire.SendFailed} {
				if p.Dropped(r) != 0 {
					t.Errorf("%s: %s", c.name, d.drops())
				}
			}
		}
	}
}

// TestCorrespondentFromTheStart: a host that is a correspondent takes Home Address options before anybody has a binding: it reports them
// and its kernel does not answer; it opens no socket of a tunnel, and leaves other addresses of the host alone.
func TestCorrespondentFromTheStart(t *testing.T) {
	d := newDirect(t)
	must(t, d.peer.Close())
	said := make(chan core.Reported, 100)
	d.must(d.cn, func() (err error) {
		d.peer, err = New(Config{Role: Anchor, Local: []netip.Addr{conformance.CN6}, Correspondent: true, Straight: true})
		return err
	})
	d.peer.Reports(func(r core.Reported) { said <- r })
	d.anchor = d.peer
	other := netip.MustParseAddr("2001:db8:c::d")
	d.up2(d.cn, "eth0", other.String()+"/64")
	d.must(d.cn, func() error {
		b, err := os.ReadFile("/proc/thread-self/net/raw6")
		for _, protocol := range []string{":0004 ", ":0029 ", ":002F "} {
			if strings.Contains(string(b), protocol) || len(d.peer.udp) != 0 {
				t.Errorf("sockets of tunnels: %s", b)
			}
		}
		return err
	})
	stop := d.record()
	option := func(dst netip.Addr) []byte {
		return wrapped(coa6, dst, 60, append([]byte{17, 2, 1, 2, 0, 0, 0xc9, 16}, home6.AsSlice()...))
	}
	d.from(option(conformance.CN6), option(other))
	r := <-said // what is never said hangs here
	want := core.Reported{
		Reason: string(wire.WrongTunnel), HomeAddress: true,
		Outer: core.Layer{Local: netip.AddrPortFrom(conformance.CN6, 0), Remote: netip.AddrPortFrom(coa6, 0)},
		Inner: core.Match{Src: netip.PrefixFrom(home6, 128), Dst: netip.PrefixFrom(conformance.CN6, 128)},
	}
	if r != want {
		t.Errorf("%+v, want %+v", r, want)
	}
	file := stop()
	if l := d.tshark(file, "icmpv6.type == 4"); len(l) != 1 || len(d.tshark(file, "icmpv6.type == 4 && icmpv6.code == 2 && ipv6.src == "+other.String())) != 1 {
		t.Errorf("the kernel knows no such option at its other address, and says so: %q", l)
	}
	if s := d.tables(d.cn); s == "" || d.packetSockets(d.cn) != 1 {
		t.Errorf("without a session: %s", s)
	}
}

// TestCorrespondentSecured: ESP of a correspondent's applications comes with any SPI; none of it is signalling there.
func TestCorrespondentSecured(t *testing.T) {
	d := newDirect(t)
	must(t, d.peer.Close())
	d.must(d.cn, func() (err error) {
		d.peer, err = New(Config{Role: Anchor, Local: []netip.Addr{conformance.CN6}, Correspondent: true, Straight: true})
		return err
	})
	d.anchor = d.peer
	d.begin()
	stop := d.record()
	in := make([]core.Counter, 1)
	for i, spi := range []uint32{0x1001, 0xc0001001} {
		esp := slices.Concat(ip.AppendHomeAddress(nil, ip.ESP, home6), binary.BigEndian.AppendUint32(nil, spi), make([]byte, 16))
		d.from(message(coa6, conformance.CN6, ip.DstOpts, esp))
		for end := time.Now().Add(5 * time.Second); in[0].PacketsIn != uint64(i+1); <-time.After(time.Millisecond) {
			must(t, d.peer.Counters([]core.ID{9}, in))
			if time.Now().After(end) {
				t.Fatalf("SPI %#x: %+v; %s", spi, in[0], d.drops())
			}
		}
	}
	d.reach(d.host, "["+conformance.CN6.String()+"]", d.cn) // what was sent before has been recorded
	if l := d.tshark(stop(), "icmpv6.type == 4 && icmpv6.code == 2"); len(l) != 0 {
		t.Errorf("the kernel does not know the option: %q", l)
	}
}
