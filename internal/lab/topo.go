package lab

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/vishvananda/netlink"

	"kedge/internal/core"
	"kedge/internal/lab/impair"
	"kedge/internal/lab/scenario"
	"kedge/internal/system/netns"
)

// link is a broadcast domain that exists: a bridge, or a user-space link where frames are impaired or dropped.
type link struct {
	spec   *scenario.Link
	bridge string
	user   *impair.Link
	port   map[string]int // user-space port by node
	cap    *capture
}

// node is a namespace with its wires into the wiring namespace.
type node struct {
	name  string // of this instance
	spec  *scenario.Node
	index int // within a crowd
	ns    *netns.NS
	wires []*wire

	daemon *daemon
	host   *host
	router *router
}

// wire is one interface of a node: its name inside, and the port in the wiring namespace.
type wire struct {
	ifname, port string
	mac          core.MAC
	link         string // where it is now; "" = nowhere
}

// build makes namespaces, links and wires, all down on the hosts' side.
func (r *Run) build() error {
	var err error
	if r.wiring, err = netns.New(r.claim.ns("net")); err != nil {
		return err
	}
	// Bridges and ports are wires, not hosts: without this each would send MLD reports and solicitations of its own.
	for _, k := range []string{"all", "default"} {
		if err := r.wiring.Sysctl("net.ipv6.conf."+k+".disable_ipv6", "1"); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
	}
	for i := range r.sc.Links {
		if err := r.buildLink(&r.sc.Links[i]); err != nil {
			return err
		}
	}
	for i := range r.sc.Nodes {
		spec := &r.sc.Nodes[i]
		for k, name := range spec.Names() {
			n := &node{name: name, spec: spec, index: k}
			if n.ns, err = netns.New(r.claim.ns(name)); err != nil {
				return err
			}
			r.nodes = append(r.nodes, n)
			if err := r.buildNode(n); err != nil {
				return err
			}
		}
	}
	return r.buildRoutes()
}

func (r *Run) buildLink(spec *scenario.Link) error {
	l := &link{spec: spec, bridge: "br-" + spec.Name, port: map[string]int{}}
	r.links[spec.Name] = l
	var err error
	if l.cap, err = newCapture(r.dir, spec.Name, r.see); err != nil {
		return err
	}
	r.captures = append(r.captures, l.cap)
	if spec.User {
		l.user = impair.New(spec.Impair, r.seed, func(_ int, at time.Time, f []byte) { l.cap.frame(at, f) })
		return nil
	}
	if err := r.wiring.Bridge(l.bridge); err != nil {
		return err
	}
	if spec.MTU > 0 {
		if err := r.wiring.SetMTU(l.bridge, spec.MTU); err != nil {
			return err
		}
	}
	return l.cap.listen(r.wiring, l.bridge)
}

func (r *Run) buildNode(n *node) error {
	// A new namespace has the IPv4 settings of this machine, which may be a router.
	if err := n.ns.Sysctl("net.ipv4.ip_forward", "0"); err != nil {
		return err
	}
	if len(n.spec.On) > 0 && !n.mobile() && slices.ContainsFunc(r.sc.Nodes, func(x scenario.Node) bool { return x.Serve != nil }) {
		// The world was there before the run: nobody tests its addresses any more.
		for _, k := range []string{"all", "default"} {
			if err := n.ns.Sysctl("net.ipv6.conf."+k+".accept_dad", "0"); err != nil {
				return err
			}
		}
	}
	for _, p := range n.spec.On {
		l := r.sc.Link(p.Link)
		var addrs []netip.Prefix
		for _, a := range p.Addrs {
			for _, net := range l.Prefix {
				if net.Contains(a) {
					addrs = append(addrs, netip.PrefixFrom(a, net.Bits()))
				}
			}
		}
		if l.Access && !l.LAN {
			// The gateway speaks there for itself; its kernel must not.
			if err := n.ns.Sysctl("net.ipv6.conf.default.disable_ipv6", "1"); err != nil {
				return err
			}
		}
		if err := r.plug(n, p.Iface, core.MAC{}, l, addrs, true); err != nil {
			return err
		}
		if l.Access && !l.LAN {
			if err := n.ns.Sysctl("net.ipv6.conf.default.disable_ipv6", "0"); err != nil {
				return err
			}
		}
	}
	if n.mobile() {
		n.wires = nil // those that the host has, which are what moves
	}
	for k, i := range n.spec.Ifaces {
		if err := r.plug(n, fmt.Sprintf("eth%d", k), n.spec.HostMAC(n.index, k), r.sc.Link(i.Link), nil, false); err != nil {
			return err
		}
	}
	switch {
	case n.mobile() && n.spec.Serve != nil: // forwarding is what its daemon sets
		return r.buildRouter(n)
	case n.mobile(): // a host like any other: what it needs besides, its daemon sets
		return nil
	case n.spec.Serve != nil:
		return errors.Join(r.routerSysctls(n), r.buildRouter(n))
	case n.spec.Kedge != "" || n.spec.Forward:
		return r.routerSysctls(n)
	case n.spec.OnAccess() && !slices.Contains(n.spec.Families, "v6"):
		return n.ns.Sysctl("net.ipv6.conf.all.disable_ipv6", "1")
	}
	return nil
}

// routerSysctls makes the namespace forward, as the operator of an anchor would have the machine do.
func (r *Run) routerSysctls(n *node) error {
	for _, kv := range [][2]string{
		{"net.ipv4.ip_forward", "1"}, {"net.ipv6.conf.all.forwarding", "1"},
		{"net.ipv4.conf.all.rp_filter", "0"}, {"net.ipv4.conf.default.rp_filter", "0"},
	} {
		if err := n.ns.Sysctl(kv[0], kv[1]); err != nil {
			return err
		}
	}
	return nil
}

// plug makes one wire of a node and puts its port on the link. Hosts' interfaces stay down until they are switched on.
func (r *Run) plug(n *node, ifname string, mac core.MAC, l *scenario.Link, addrs []netip.Prefix, up bool) error {
	r.ports++
	w := &wire{ifname: ifname, port: fmt.Sprintf("p%d", r.ports), mac: mac}
	mtu := l.MTU
	err := netns.Veth(netns.End{NS: n.ns, Name: ifname, MAC: mac, MTU: mtu, Addrs: addrs, Down: true},
		netns.End{NS: r.wiring, Name: w.port, MTU: mtu})
	if err != nil {
		return err
	}
	if err := n.ns.Whole(ifname); err != nil {
		return err
	}
	n.wires = append(n.wires, w)
	if err := r.connect(n, w, l.Name); err != nil {
		return err
	}
	if up {
		if err := n.ns.Up(ifname); err != nil {
			return err
		}
		// Going down and up took IPv6 addresses away.
		for _, a := range addrs {
			if err := n.ns.AddAddr(ifname, a); err != nil {
				return err
			}
		}
	}
	return nil
}

// connect puts a port on a link. Ports of hosts on an access link see the gateway only; on a LAN they see each other.
func (r *Run) connect(n *node, w *wire, to string) error {
	l := r.links[to]
	w.link = to
	if l.user != nil {
		return r.wiring.Do(func() error {
			k, err := l.user.Add(w.port)
			l.port[n.name] = k
			return err
		})
	}
	if err := r.wiring.Attach(w.port, l.bridge); err != nil {
		return err
	}
	if !l.spec.Access || l.spec.LAN || n.spec.Kedge != "" {
		return nil
	}
	p, err := r.wiring.Link(w.port)
	if err != nil {
		return err
	}
	h, err := r.wiring.Handle()
	if err != nil {
		return err
	}
	if err := h.LinkSetIsolated(p, true); err != nil {
		return fmt.Errorf("isolate %s: %w", w.port, err)
	}
	return nil
}

// buildRoutes gives the static hosts outside of access links routes to the home prefixes by the anchors, unless they are on
// the link for them; and everybody the routes that the scenario says.
func (r *Run) buildRoutes() error {
	routers := slices.ContainsFunc(r.nodes, func(n *node) bool { return n.router != nil })
	if routers {
		if err := r.buildPaths(); err != nil {
			return err
		}
	}
	for _, n := range r.nodes {
		for to, via := range n.spec.Routes {
			if err := n.ns.Route(to, via, ""); err != nil {
				return err
			}
		}
		if n.spec.Kedge != "" || n.spec.OnAccess() || routers {
			continue
		}
		for _, a := range r.nodes {
			if a.spec.Kedge == "" {
				continue
			}
			for _, pool := range r.pools[a.name] {
				via, ok := r.onSameLink(n, a, pool.Addr().Is4())
				if !ok || r.onLink(n, pool) {
					continue
				}
				if err := n.ns.Route(pool, via, ""); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

// onLink says whether a prefix is a part of the network of a link that the node is on.
func (r *Run) onLink(n *node, p netip.Prefix) bool {
	for _, port := range n.spec.On {
		for _, net := range r.sc.Link(port.Link).Prefix {
			if net.Overlaps(p) && net.Bits() <= p.Bits() {
				return true
			}
		}
	}
	return false
}

// onSameLink finds an address of b on a link that a is on too.
func (r *Run) onSameLink(a, b *node, v4 bool) (netip.Addr, bool) {
	for _, pa := range a.spec.On {
		for _, pb := range b.spec.On {
			if pa.Link != pb.Link {
				continue
			}
			for _, x := range pb.Addrs {
				if x.Is4() == v4 {
					return x, true
				}
			}
		}
	}
	return netip.Addr{}, false
}

// node finds an instance.
func (r *Run) node(name string) *node {
	for _, n := range r.nodes {
		if n.name == name {
			return n
		}
	}
	return nil
}

// instances are the nodes of a scenario's name: one, or a crowd.
func (r *Run) instances(name string) (out []*node) {
	for _, n := range r.nodes {
		if n.spec.Name == name {
			out = append(out, n)
		}
	}
	return out
}

// gatewayOf is the kedge node or the router that serves an access link.
func (r *Run) gatewayOf(access string) *node {
	for _, n := range r.nodes {
		if n.spec.Kedge == "" && n.router == nil {
			continue
		}
		for _, p := range n.spec.On {
			if p.Link == access {
				return n
			}
		}
	}
	return nil
}

// addrOf is an address of a node that is not on access links.
func (n *node) addrOf(v4 bool) netip.Addr {
	for _, p := range n.spec.On {
		for _, a := range p.Addrs {
			if a.Is4() == v4 {
				return a
			}
		}
	}
	return netip.Addr{}
}

// workDir is the node's folder for configs, leases and scripts.
func (r *Run) workDir(n *node) (string, error) {
	d := filepath.Join(r.claim.dir, n.name)
	return d, os.MkdirAll(d, 0o755)
}

// carrier says whether the node sees carrier on an interface.
func (n *node) carrier(ifname string) bool {
	l, err := n.ns.Link(ifname)
	return err == nil && l.Attrs().OperState == netlink.OperUp
}
