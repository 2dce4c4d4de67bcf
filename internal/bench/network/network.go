// Package network builds the chain of network namespaces that a way is measured in: host, gateway, anchor and correspondent, with
// veth between them. The namespaces have no names, so all of it goes with the process, however that ends, and the host's own
// network is never touched.
package network

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"kedge/internal/bench/way"
	"kedge/internal/core"
	"kedge/internal/system/netns"
)

// Names of links.
const (
	HostLink   = "eth0"
	SecondLink = "eth1" // of the host, to the second gateway
	AccessLink = "acc0" // of a gateway
	CoreLink   = "core0"
	CoreSecond = "core1" // of the anchor, to the second gateway
	NetLink    = "net0"
	Device     = "kedge0" // the anchor's, and a node's
	WireGuard  = "wg0"
	vxlan      = "vx0"
)

// MTU of access links and tunnels is that of Ethernet, so that all ways carry the same inner packets. The core's holds the
// headers of any of them.
const (
	MTU     = 1500
	CoreMTU = 1700
)

// Network is one chain.
type Network struct {
	Host, Gateway, Anchor, CN *netns.NS
	Second                    *netns.NS // gateway; nil = there is none
}

func (n *Network) spaces() []**netns.NS {
	return []**netns.NS{&n.Host, &n.Gateway, &n.Anchor, &n.CN, &n.Second}
}

// New builds a chain for a way, but for what the processes of a tunnel make: Finish does that.
func New(w way.Way) (_ *Network, err error) {
	n := &Network{}
	defer func() {
		if err != nil {
			n.Close()
		}
	}()
	for i, s := range n.spaces() {
		if s == &n.Second && !w.Second {
			continue
		}
		if *s, err = netns.Anonymous(); err != nil {
			return nil, err
		}
		settings := []string{"net.ipv4.conf.all.rp_filter=0", "net.ipv4.conf.default.rp_filter=0", "net.ipv6.conf.all.accept_dad=0", "net.ipv6.conf.default.accept_dad=0"}
		if i != 0 && s != &n.CN {
			settings = append(settings, "net.ipv4.ip_forward=1", "net.ipv6.conf.all.forwarding=1")
		}
		for _, c := range settings {
			name, value, _ := strings.Cut(c, "=")
			if err := (*s).Sysctl(name, value); err != nil {
				return nil, err
			}
		}
	}
	if err := n.links(); err != nil {
		return nil, err
	}
	if err := n.ends(); err != nil {
		return nil, err
	}
	if w.Second {
		return n, n.second()
	}
	if w.Kedge() || w.Kind == way.WireGuard {
		return n, nil
	}
	via := [4]netip.Addr{way.Anchor6, way.Anchor4, way.Gateway6, way.Gateway4}
	if w.Kind == way.VXLAN {
		if via, err = n.vxlan(); err != nil {
			return nil, err
		}
	}
	return n, errors.Join(n.plainAccess(),
		n.Gateway.Route(way.Net6, via[0], ""), n.Gateway.Route(way.Net4, via[1], ""),
		n.Anchor.Route(way.Home6, via[2], ""), n.Anchor.Route(way.Home4, via[3], ""))
}

func on(a netip.Addr, bits int) netip.Prefix { return netip.PrefixFrom(a, bits) }

func (n *Network) links() error {
	return errors.Join(
		netns.Veth(netns.End{NS: n.Host, Name: HostLink, MAC: way.HostMAC, MTU: MTU, Addrs: []netip.Prefix{on(way.Host6, 64), on(way.Host4, 24)}},
			netns.End{NS: n.Gateway, Name: AccessLink, MAC: way.RouterMAC, MTU: MTU}),
		netns.Veth(netns.End{NS: n.Gateway, Name: CoreLink, MTU: CoreMTU, Addrs: []netip.Prefix{on(way.Gateway6, 64), on(way.Inner6, 64), on(way.Gateway4, 24)}},
			netns.End{NS: n.Anchor, Name: CoreLink, MTU: CoreMTU, Addrs: []netip.Prefix{on(way.Anchor6, 64), on(way.AnchorIn6, 64), on(way.Anchor4, 24)}}),
		netns.Veth(netns.End{NS: n.Anchor, Name: NetLink, MTU: MTU, Addrs: []netip.Prefix{on(way.Router6, 64), on(way.Router4, 24)}},
			netns.End{NS: n.CN, Name: HostLink, MTU: MTU, Addrs: []netip.Prefix{on(way.CN6, 64), on(way.CN4, 24)}}))
}

// second joins the other gateway to host and anchor, whose tunnel leads to the same addresses of the anchor.
func (n *Network) second() error {
	return errors.Join(
		netns.Veth(netns.End{NS: n.Host, Name: SecondLink, MAC: way.HostMAC, MTU: MTU}, netns.End{NS: n.Second, Name: AccessLink, MAC: way.RouterMAC, MTU: MTU}),
		netns.Veth(netns.End{NS: n.Second, Name: CoreLink, MTU: CoreMTU, Addrs: []netip.Prefix{on(way.Second6, 64), on(way.Second4, 24)}},
			netns.End{NS: n.Anchor, Name: CoreSecond, MTU: CoreMTU, Addrs: []netip.Prefix{on(way.ToSecond6, 64), on(way.ToSecond4, 24)}}),
		n.Second.Route(on(way.Anchor6, 128), way.ToSecond6, ""), n.Second.Route(on(way.Anchor4, 32), way.ToSecond4, ""))
}

// ends gives the host all home addresses, and both ends their routes.
func (n *Network) ends() error {
	six, four := way.HomeOf(1)
	h, err := n.Host.Handle()
	if err != nil {
		return err
	}
	lo, err := n.Host.Link("lo")
	if err != nil {
		return err
	}
	for _, p := range []netip.Prefix{way.Home6, way.Home4} {
		r := &netlink.Route{LinkIndex: lo.Attrs().Index, Type: unix.RTN_LOCAL, Table: unix.RT_TABLE_LOCAL, Scope: netlink.SCOPE_HOST, Dst: ipnet(p)}
		if err := h.RouteReplace(r); err != nil {
			return fmt.Errorf("home addresses %v: %w", p, err)
		}
	}
	return errors.Join(
		n.Host.AddAddr(HostLink, on(six, 128)), n.Host.AddAddr(HostLink, on(four, 32)),
		neighbour(n.Host, HostLink, way.Access6, way.RouterMAC), neighbour(n.Host, HostLink, way.Access4, way.RouterMAC),
		n.Host.Route(way.Net6, way.Access6, HostLink), n.Host.Route(way.Net4, way.Access4, HostLink),
		n.CN.Route(way.Home6, way.Router6, ""), n.CN.Route(way.Home4, way.Router4, ""))
}

// plainAccess lets the gateway's kernel serve the host.
func (n *Network) plainAccess() error {
	return errors.Join(
		n.Gateway.AddAddr(AccessLink, on(way.Access6, 64)), n.Gateway.AddAddr(AccessLink, on(way.Access4, 24)),
		neighbour(n.Gateway, AccessLink, way.Host6, way.HostMAC), neighbour(n.Gateway, AccessLink, way.Host4, way.HostMAC),
		n.Gateway.Route(way.Home6, way.Host6, AccessLink), n.Gateway.Route(way.Home4, way.Host4, AccessLink))
}

// vxlan makes the kernel's tunnel, over IPv4, where it has no checksum to make. It gives the addresses of its ends: the anchor's
// and the gateway's.
func (n *Network) vxlan() (via [4]netip.Addr, err error) {
	via = [4]netip.Addr{netip.MustParseAddr("2001:db8:f::1"), netip.MustParseAddr("198.18.0.1"), netip.MustParseAddr("2001:db8:f::11"), netip.MustParseAddr("198.18.0.11")}
	for _, e := range []struct {
		ns            *netns.NS
		local, remote netip.Addr
		at            [2]netip.Addr
	}{{n.Gateway, way.Gateway4, way.Anchor4, [2]netip.Addr(via[2:])}, {n.Anchor, way.Anchor4, way.Gateway4, [2]netip.Addr(via[:2])}} {
		h, err := e.ns.Handle()
		if err != nil {
			return via, err
		}
		v := &netlink.Vxlan{LinkAttrs: netlink.LinkAttrs{Name: vxlan, MTU: MTU}, VxlanId: 7, SrcAddr: e.local.AsSlice(), Group: e.remote.AsSlice(), Port: 4789}
		if err := h.LinkAdd(v); err != nil {
			return via, fmt.Errorf("vxlan: %w", err)
		}
		if err := errors.Join(e.ns.AddAddr(vxlan, on(e.at[0], 64)), e.ns.AddAddr(vxlan, on(e.at[1], 24)), e.ns.Up(vxlan)); err != nil {
			return via, err
		}
	}
	return via, nil
}

// Finish sets the routes that lead to what processes made.
func (n *Network) Finish(w way.Way) error {
	device := Device
	switch {
	case w.Kind == way.WireGuard:
		device = WireGuard
		if err := errors.Join(n.Gateway.Up(device), n.Anchor.Up(device)); err != nil {
			return err
		}
	case !w.Kedge():
		return nil
	}
	err := errors.Join(n.Anchor.Route(way.Home6, netip.Addr{}, device), n.Anchor.Route(way.Home4, netip.Addr{}, device))
	if w.Kedge() || err != nil {
		return err // the plane serves the access link
	}
	return errors.Join(n.plainAccess(), n.Gateway.Route(way.Net6, netip.Addr{}, device), n.Gateway.Route(way.Net4, netip.Addr{}, device))
}

// neighbour is a permanent one: the ways are compared, not how neighbours are found.
func neighbour(ns *netns.NS, link string, a netip.Addr, mac core.MAC) error {
	h, err := ns.Handle()
	if err != nil {
		return err
	}
	l, err := ns.Link(link)
	if err != nil {
		return err
	}
	err = h.NeighSet(&netlink.Neigh{LinkIndex: l.Attrs().Index, IP: a.AsSlice(), HardwareAddr: mac[:], State: netlink.NUD_PERMANENT})
	if err != nil {
		return fmt.Errorf("neighbour %v: %w", a, err)
	}
	return nil
}

func ipnet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}

// Close lets go of the namespaces. They end when the processes in them have.
func (n *Network) Close() {
	for _, s := range n.spaces() {
		if *s != nil {
			_ = (*s).Close()
		}
	}
}
