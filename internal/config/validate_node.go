package config

import (
	"fmt"
	"net/netip"
	"path"
	"slices"
	"time"
)

func (v *validator) node(c *Config, r *rawNode) *Node {
	n := &Node{ID: v.identifier(&r.ID), PassUnreachable: r.Unreachable.v == "pass", DNSDirect: r.DNS.v == "direct", ForceUDP: r.UDP.v == "always",
		RetryV4: r.RetryV4.v, Table: r.Table.v}
	v.nodeAnchor(n, &r.Anchor)
	v.home(n, &r.Home)
	v.links(c, n, &r.Links)
	v.nodeNetworks(c, n, &r.Home)
	for i := range r.Exclude.items {
		l := &r.Exclude.items[i]
		switch x := l.v; {
		case !x.IsValid():
		case x.Bits() == 0:
			v.fail(l, x.String()+" excludes everything", "write prefixes that the tunnel shall not carry, as in [192.168.0.0/16]")
		case slices.Contains(n.Exclude, x):
			v.fail(l, x.String()+" stands twice", "keep one")
		default:
			n.Exclude = append(n.Exclude, x)
		}
	}
	v.optimization(n, r.Optimize)
	v.nodeTimers(n, &r.Timers)
	return n
}

func (v *validator) nodeAnchor(n *Node, r *rawNodeAnchor) {
	n.Anchor = NodeAnchor{Name: r.Name.v, Dialect: r.Dialect.v, OctetLengths: r.OptionLength.v == "octets"}
	peer, known := v.known(&r.Name)
	for i := range r.Addresses.items {
		l := &r.Addresses.items[i]
		if !v.global(l) {
			continue
		}
		if known && len(peer.Addresses) > 0 && !slices.ContainsFunc(peer.Addresses, func(x netip.Prefix) bool { return x.Contains(l.v) }) {
			v.fail(l, fmt.Sprintf("%s is no address of peer %q", l.v, peer.Name), "add it to the peer's addresses, or leave those out: "+prefixes(peer.Addresses))
			continue
		}
		at := &n.Anchor.IPv6
		if l.v.Is4() {
			at = &n.Anchor.IPv4
		}
		if at.IsValid() {
			v.fail(l, "is a second address of its family", "keep one of IPv6 and one of IPv4")
			continue
		}
		*at = l.v
	}
	v.found(n, r, peer, known)
	if found := n.Anchor.Discover || n.Anchor.Host != ""; found && n.Anchor.IPv6.IsValid() == (len(r.Addresses.items) > 0) {
		return
	}
	if !r.Addresses.set {
		if !r.set || v.faulty(r.path) {
			return
		}
		v.fail(r, "says nothing of where the home agent is", `write its addresses, as in ["2001:db8:a::1", 198.51.100.1], discover: true, or host: with its name`)
		return
	}
	empty(v, &r.Addresses, "is empty", `write the home agent's addresses, as in ["2001:db8:a::1", 198.51.100.1]`)
	switch {
	case len(r.Addresses.items) == 0 || v.faulty(r.Addresses.path):
	case !n.Anchor.IPv6.IsValid():
		v.fail(&r.Addresses, "has no IPv6 address", "add the home agent's: messages are of IPv6 also where IPv4 carries them (RFC 5555 3)")
	case !n.Anchor.IPv4.IsValid():
		v.warn(&r.Addresses, NoIPv4, "there is no IPv4 address of the home agent: the node is cut off in IPv4-only networks")
	}
}

func (v *validator) home(n *Node, r *rawHome) {
	if x, ok := v.homeAddress(&r.V6); ok {
		n.Home.V6 = x
		if x.Addr() == n.Anchor.IPv6 {
			v.fail(&r.V6, x.Addr().String()+" is the home agent's address", "write the node's own")
		}
	}
	v.renumbered(n, r)
	switch l := &r.V4; l.v {
	case "", "none":
	case "dynamic":
		n.Home.Dynamic4 = true
	default:
		x, err := netip.ParsePrefix(l.v)
		if a, aerr := netip.ParseAddr(l.v); aerr == nil {
			x, err = netip.PrefixFrom(a, a.BitLen()), nil
		}
		switch {
		case err != nil || !x.Addr().Is4():
			v.fail(l, fmt.Sprintf("%q is no IPv4 address", l.v), "write one as in 10.20.0.5/16, dynamic or none")
		case x.Addr().IsMulticast() || x.Addr().IsLoopback() || x.Addr().IsUnspecified() || x.Addr().IsLinkLocalUnicast() || x.Bits() == 0 ||
			x.Bits() < 31 && (x.Addr() == x.Masked().Addr() || x.Addr() == broadcast(x.Masked())):
			v.fail(l, l.v+" cannot be a home address", "write the address of a host, as in 10.20.0.5/16")
		case x.Addr() == n.Anchor.IPv4:
			v.fail(l, x.Addr().String()+" is the home agent's address", "write the node's own")
		default:
			n.Home.V4 = x
		}
	}
}

func (v *validator) links(c *Config, n *Node, r *list[rawLink]) {
	seen := map[string]int{}
	for i := range r.items {
		q := &r.items[i]
		l := Link{Match: q.Match.v, Prefer: q.Prefer.v, Families: v.families(&q.Families)}
		_, err := path.Match(l.Match, "")
		switch line, dup := seen[l.Match]; {
		case l.Match == "":
		case err != nil || !ifForm.MatchString(l.Match):
			v.fail(&q.Match, fmt.Sprintf("%q is no interface name or pattern", l.Match), `write one in quotes as in "wl*"`)
		case dup:
			v.fail(&q.Match, fmt.Sprintf("%q is there twice", l.Match), fmt.Sprintf("keep one; the first is on line %d", line))
		default:
			if hit, _ := path.Match(l.Match, c.Dataplane.Device); hit && l.Match == c.Dataplane.Device {
				v.fail(&q.Match, fmt.Sprintf("%q is the tunnel's own device", l.Match), "write a link of this machine")
			}
		}
		seen[l.Match] = q.Match.pos.Line
		n.Links = append(n.Links, l)
	}
	empty(v, r, "is empty: the node would have no way out", `write the links that it may use, as in [ { match: "wl*" } ]`)
}

// minDeadPath: three echoes must fit into the time (one may be lost), and a path of half a second must not look dead.
const minDeadPath = time.Second

func (v *validator) nodeTimers(n *Node, t *rawNodeTimers) {
	n.Timers = NodeTimers{Lifetime: v.lifetime(&t.Lifetime), RefreshAt: t.RefreshAt.v, DeadPath: t.DeadPath.v, FamilyFallback: t.FamilyFallback.v,
		NATRefresh: t.NATRefresh.v, FirstTimeout: t.FirstTimeout.v, RetransmitFirst: t.Retransmit.First.v, RetransmitMax: t.Retransmit.Max.v}
	if f, m := &t.Retransmit.First, &t.Retransmit.Max; m.v != 0 && f.v > m.v {
		v.fail(pick(m.set, m, f), fmt.Sprintf("max %s is shorter than first %s", short(m.v), short(f.v)), "write a max of at least first")
	}
	if f := &t.Retransmit.First; f.set && f.v != 0 && f.v < initialBindack {
		v.warn(f, BeyondRFC, "INITIAL_BINDACK_TIMEOUT is %s (RFC 6275 12)", short(initialBindack))
	}
	if d := &t.DeadPath; d.v != 0 && d.v < minDeadPath {
		v.warn(d, ShortTimer, "paths with round trips above %s will look dead", short(d.v/3))
	}
}
