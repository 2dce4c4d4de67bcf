package lab

import (
	"net/netip"
	"slices"
)

// destination is a prefix and who is nearest to it.
type destination struct {
	prefix netip.Prefix
	at     []*node
}

// buildPaths gives every node that is on other links than LANs a route to each prefix of the network, as an ordinary
// routing protocol would: by the next hop of a shortest path through routers. Networks behind a NAT are nobody's
// destination.
func (r *Run) buildPaths() error {
	var all []destination
	for i := range r.sc.Links {
		l := &r.sc.Links[i]
		for _, p := range l.Prefix {
			d := destination{prefix: p.Masked()}
			for _, n := range r.nodes {
				if n.on(l.Name) {
					d.at = append(d.at, n)
				}
			}
			all = append(all, d)
		}
	}
	for _, n := range r.nodes {
		if s := n.spec.Serve; s != nil {
			for _, p := range []netip.Prefix{s.V6, s.V4} {
				at := n
				if n.mobile() { // wherever it is, its home agent knows
					at = r.homeAgentOf()
				}
				if p.IsValid() && !(s.NAT && p.Addr().Is4()) {
					all = append(all, destination{p, []*node{at}})
				}
			}
		}
		for _, p := range r.pools[n.name] {
			all = append(all, destination{p, []*node{n}})
		}
	}
	for _, n := range r.nodes {
		if len(n.spec.On) == 0 || n.mobile() {
			continue
		}
		for _, d := range all {
			if slices.Contains(d.at, n) {
				continue
			}
			if via := r.nextHopTo(n, d); via.IsValid() {
				if err := n.ns.Route(d.prefix, via, ""); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

func (n *node) on(link string) bool {
	for _, p := range n.spec.On {
		if p.Link == link {
			return true
		}
	}
	return false
}

// forwards says whether a node is a router for others.
func (r *Run) forwards(n *node) bool {
	return n.spec.Serve != nil && !n.mobile() || n.spec.Forward || r.anchors[n.name]
}

// nextHopTo searches breadth first from a node; the answer is the address of the first router on the way.
func (r *Run) nextHopTo(from *node, d destination) netip.Addr {
	type place struct {
		n     *node
		first netip.Addr
	}
	seen := map[*node]bool{from: true}
	queue := []place{{n: from}}
	for len(queue) > 0 {
		x := queue[0]
		queue = queue[1:]
		if !x.n.addrOf(d.prefix.Addr().Is4()).IsValid() {
			continue
		}
		for _, y := range r.nodes {
			if seen[y] || !r.forwards(y) {
				continue
			}
			via, ok := r.onSameLink(x.n, y, d.prefix.Addr().Is4())
			if !ok {
				continue
			}
			seen[y] = true
			first := x.first
			if x.n == from {
				first = via
			}
			if slices.Contains(d.at, y) {
				return first
			}
			queue = append(queue, place{y, first})
		}
	}
	return netip.Addr{}
}
