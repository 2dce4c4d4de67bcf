package kernel

import (
	"fmt"
	"net"
	"net/netip"
	"testing"

	"kedge/internal/core"
	"kedge/internal/dataplane"
	"kedge/internal/dataplane/conformance"
)

// path is host - gateway - anchor - correspondent node, or node - anchor - correspondent node.
type path struct {
	*world
	end string // namespace of the tunnel's end that is not the anchor's
	top string
	// most is the longest inner packet that a core of plain Ethernet takes in one piece, octets.
	most int
}

// coreMTU leaves room for the outer headers around what hosts send.
const coreMTU, hostMTU = 1660, 1500

// newPath joins real hosts by planes that open makes, with a tunnel as e says.
func newPath(t testing.TB, role dataplane.Role, e conformance.Encap, queues int, open func(Config) (Plane, error)) *path {
	t.Helper()
	p := &path{end: "mag", top: "lma", most: 1500 - e.Head}
	if role == dataplane.Node {
		p.end = "host"
	}
	p.world = newWorld(t, "host", "mag", "lma", "cn")
	p.veth(p.end, "core0", p.top, "core0", coreMTU)
	p.veth(p.top, "net0", "cn", "eth0", hostMTU)
	p.ip("cn", "addr add 2001:db8:c::c/64 dev eth0 nodad", "addr add 203.0.113.9/24 dev eth0", "route add ::/0 via 2001:db8:c::1", "route add 0.0.0.0/0 via 203.0.113.1")
	p.ip(p.top, "addr add 2001:db8:a::1/64 dev core0 nodad", "addr add 198.51.100.1/24 dev core0", "addr add 2001:db8:c::1/64 dev net0 nodad", "addr add 203.0.113.1/24 dev net0")
	p.ip(p.end, "addr add 2001:db8:a::11/64 dev core0 nodad", "addr add 198.51.100.11/24 dev core0")
	p.sysctl(p.top, "ipv4/ip_forward=1", "ipv6/conf/all/forwarding=1")
	var host net.Interface
	if role == dataplane.Gateway {
		p.veth("host", "eth0", "mag", "acc1", hostMTU)
		p.sysctl("mag", "ipv4/ip_forward=1", "ipv6/conf/all/forwarding=1")
		router := conformance.RouterMAC.String()
		p.ip("host", "addr add "+conformance.H16.String()+"/64 dev eth0 nodad", "addr add "+conformance.H14.String()+"/16 dev eth0",
			"route add ::/0 via fe80::1 dev eth0", "route add 0.0.0.0/0 via 10.20.0.1 dev eth0",
			"neigh replace fe80::1 lladdr "+router+" dev eth0 nud permanent", "neigh replace 10.20.0.1 lladdr "+router+" dev eth0 nud permanent")
		p.in("host", func() error {
			i, err := net.InterfaceByName("eth0")
			if err == nil {
				host = *i
			}
			return err
		})
	}
	below, above := p.config(role), Config{Options: conformance.Options{Role: dataplane.Anchor}, Local: []netip.Addr{conformance.LMAA, conformance.LMAA4}, Queues: queues}
	below.Queues = queues
	if e.End.Layer[0].SA != 0 {
		below.Security, above.Security = conformance.Security(t, false), conformance.Security(t, true)
	}
	end, top := p.open(p.end, open, below), p.open(p.top, open, above)
	p.ip(p.top, "route add "+conformance.Pool6.String()+" dev "+top.Device(), "route add "+conformance.Pool4.String()+" dev "+top.Device())
	set := core.SetSession{ID: 1, Chain: e.End}
	if role == dataplane.Node {
		d := end.Device()
		p.ip("host", fmt.Sprintf("link set %s mtu %d", d, hostMTU), "addr add "+prefix(conformance.H16)+" dev "+d+" nodad", "addr add "+prefix(conformance.H14)+" dev "+d,
			"route add 2001:db8:c::/64 dev "+d+" src "+conformance.H16.String(), "route add 203.0.113.0/24 dev "+d+" src "+conformance.H14.String())
	} else {
		p.in("mag", func() error {
			i, err := net.InterfaceByName("acc1")
			if err == nil {
				set.If, set.MAC = i.Index, core.MAC(host.HardwareAddr)
			}
			return err
		})
	}
	down, up := []core.Op{set}, []core.Op{core.SetSession{ID: 1, Chain: e.Top}}
	for _, a := range []netip.Addr{conformance.H16, conformance.H14} {
		k := netip.PrefixFrom(a, a.BitLen())
		down = append(down, core.SetKey{ID: 1, Match: core.Match{Src: k, If: set.If, MAC: set.MAC}, Up: true, Down: true})
		up = append(up, core.SetKey{ID: 1, Match: core.Match{Dst: k}, Up: true, Down: true})
	}
	p.in(p.end, func() error { return end.Update(down) })
	p.in(p.top, func() error { return top.Update(up) })
	return p
}

func (p *path) config(role dataplane.Role) Config {
	c := Config{Options: conformance.Options{Role: role}}
	if role == dataplane.Gateway {
		c.Local = []netip.Addr{conformance.CoA1, conformance.CoA4}
		c.Access = []dataplane.Link{{Name: "acc1", MAC: conformance.RouterMAC, LinkLocal: conformance.LinkLocal}}
	}
	return c
}

// open makes a plane in a namespace.
func (p *path) open(space string, open func(Config) (Plane, error), c Config) (pl Plane) {
	p.Helper()
	p.in(space, func() (err error) {
		pl, err = open(c)
		return err
	})
	p.Cleanup(func() { must(p, pl.Close()) })
	return pl
}

// flow is a direction and a family.
type flow struct {
	name, from, at string
	to             netip.Addr
}

var flows = []flow{
	{"up, IPv6", "host", "cn", conformance.CN6}, {"down, IPv6", "cn", "host", conformance.H16},
	{"up, IPv4", "host", "cn", conformance.CN4}, {"down, IPv4", "cn", "host", conformance.H14},
}

// Streams sends what real applications send through a back end, in every plain encapsulation: TCP, and UDP with UDP_SEGMENT to receivers with and
// without UDP_GRO. First with super packets on all links; then with the tunnel's link cutting them before it sends, and its MTU that of a plain Ethernet.
func Streams(t *testing.T, open func(Config) (Plane, error)) {
	streams(t, conformance.Encaps, 16<<20, open)
}

// ShortStreams does so with less, for variants of one back end.
func ShortStreams(t *testing.T, open func(Config) (Plane, error)) {
	streams(t, conformance.Encaps, 2<<20, open)
}

// ChainedStreams does so in those of more headers than one, and in ESP, by planes of one queue and of several in turn.
func ChainedStreams(t *testing.T, open func(Config) (Plane, error)) {
	streams(t, conformance.ChainedEncaps, 2<<20, open)
}

func streams(t *testing.T, encaps func(dataplane.Role) []conformance.Encap, size int, open func(Config) (Plane, error)) {
	for _, role := range []dataplane.Role{dataplane.Gateway, dataplane.Node} {
		for i, e := range encaps(role) {
			t.Run([...]string{"anchor", "gateway", "node"}[role]+" in "+e.Name, func(t *testing.T) {
				p := newPath(t, role, e, 1+i%2*2, open)
				for _, f := range flows {
					p.reach(f)
				}
				for _, cut := range []bool{false, true} {
					if cut {
						for _, space := range []string{p.end, p.top} {
							p.run(space, "ethtool", "-K", "core0", "gso", "off", "tso", "off", "tx-udp-segmentation", "off", "tx-udp_tnl-segmentation", "off")
							p.ip(space, "link set core0 mtu 1500")
						}
					}
					for _, f := range flows {
						name := fmt.Sprintf("%s, cut %v", f.name, cut)
						n := size
						if cut { // in packets, not in super packets
							n /= 4
						}
						p.stream(name, f, n)
						for _, gro := range []bool{false, true} {
							p.segments(fmt.Sprintf("%s, GRO %v", name, gro), f, gro)
						}
					}
				}
			})
		}
	}
}
