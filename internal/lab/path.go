package lab

import (
	"fmt"
	"net/netip"
	"strings"

	"kedge/internal/lab/probe"
	"kedge/internal/lab/scenario"
)

// traceHolds compares the hops to a target with nodes, addresses or "*" for a hop that says nothing.
func (r *Run) traceHolds(from *node, target string, want []string) (bool, string) {
	dst, err := r.address(target)
	if err != nil {
		return false, err.Error()
	}
	got, err := probe.Trace(from.ns, dst, len(want))
	if err != nil {
		return false, err.Error()
	}
	var names []string
	for i, a := range got {
		names = append(names, r.nameOf(a))
		if i < len(want) && !r.isHop(a, want[i]) {
			names[i] += fmt.Sprintf(" (want %s)", want[i])
		}
	}
	text := fmt.Sprintf("reaches %s by %s, want %s", target, strings.Join(names, ", "), strings.Join(want, ", "))
	return len(got) == len(want) && !strings.Contains(text, " (want "), text
}

func (r *Run) isHop(a netip.Addr, want string) bool {
	if !a.IsValid() || want == "*" {
		return !a.IsValid() && want == "*"
	}
	name, _, _ := strings.Cut(want, ".")
	return a.String() == want || r.nameOf(a) == name
}

// nameOf is the node that has an address, or the address.
func (r *Run) nameOf(a netip.Addr) string {
	if !a.IsValid() {
		return "*"
	}
	for _, n := range r.nodes {
		for _, p := range n.spec.On {
			for _, x := range p.Addrs {
				if x == a {
					return n.name
				}
			}
		}
		if n.host == nil {
			continue
		}
		for _, fam := range []string{"v4", "v6"} {
			for _, p := range n.host.usableAddrs("", fam) {
				if p.Addr() == a {
					return n.name
				}
			}
		}
	}
	return a.String()
}

// routeHolds asks a node's kernel by which device packets to a target leave.
func (r *Run) routeHolds(c *scenario.Cond) (bool, string) {
	n, to := r.node(c.Want["on"].Text), c.Want["to"].Text
	if n == nil {
		return false, c.Want["on"].Text + " is a crowd"
	}
	dst, err := r.address(to)
	if err != nil {
		return false, err.Error()
	}
	dev, err := n.ns.RouteTo(dst)
	if err != nil {
		return false, err.Error()
	}
	return dev == c.Want["dev"].Text, fmt.Sprintf("%s routes %s to %s, want %s", n.name, dst, dev, c.Want["dev"].Text)
}
