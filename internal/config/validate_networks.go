package config

import (
	"fmt"
	"net/netip"
	"path"
	"slices"

	"kedge/internal/core"
)

// Mobile networks (RFC 3963): what lies behind a node, and the home agent's table of whose they are.

// maxNetworks of a node: their options fit into any message.
const maxNetworks = 16

// maxLengths is how many different lengths of prefixes of one family the data plane looks up.
const maxLengths = 8

// networks reads a list of mobile network prefixes.
func (v *validator) networks(r *list[leaf[netip.Prefix]], dialect string) (out []netip.Prefix) {
	for i := range r.items {
		l := &r.items[i]
		switch x := l.v; {
		case !x.IsValid():
		case !core.IsNetwork(x):
			v.fail(l, x.String()+" cannot be a mobile network", `write a global unicast prefix as in "2001:db8:3000::/56"`)
		case x.Addr().Is4() && dialect == DialectSoliman00:
			v.fail(l, x.String()+" is IPv4, and "+DialectSoliman00+" has no IPv4 prefixes", "write dialect: rfc5555, or IPv6 networks only")
		case slices.ContainsFunc(out, x.Overlaps):
			v.fail(l, x.String()+" overlaps another one of the list", "keep the larger one")
		default:
			out = append(out, x)
		}
	}
	empty(v, r, "is empty", "write the prefixes, or leave the key out")
	if len(r.items) > maxNetworks {
		v.fail(&r.items[maxNetworks], fmt.Sprintf("is one of %d networks, and %d is the most", len(r.items), maxNetworks), "write shorter prefixes that hold several")
	}
	return out
}

func (v *validator) nodeNetworks(c *Config, n *Node, r *rawHome) {
	h := &n.Home
	h.Networks, h.Implicit = v.networks(&r.Networks, n.Anchor.Dialect), r.Mode.v == "implicit"
	for i := range r.Networks.items {
		l := &r.Networks.items[i]
		for _, a := range []netip.Addr{h.V6.Addr(), h.V4.Addr(), n.Anchor.IPv6, n.Anchor.IPv4} {
			if a.IsValid() && slices.Contains(h.Networks, l.v) && l.v.Contains(a) {
				v.fail(l, fmt.Sprintf("%s holds %s", l.v, a), "write a prefix without the addresses of the node and its home agent")
				break
			}
		}
	}
	lengths := map[int]bool{32: true, 128 << 8: true}
	for i, x := range h.Networks {
		key := x.Bits()
		if x.Addr().Is6() {
			key <<= 8
		}
		lengths[key] = true
		if tooMany(lengths) {
			v.fail(&r.Networks.items[i], fmt.Sprintf("%s is of one length too many", x), fmt.Sprintf("write networks of at most %d different lengths of a family", maxLengths-1))
			break
		}
	}
	if len(r.Networks.items) == 0 && r.Interfaces.set && !v.faulty(r.Networks.path) {
		v.fail(&r.Interfaces, "is for mobile networks, and there are none", "add networks:, or leave the key out")
	}
	for i := range r.Interfaces.items {
		l := &r.Interfaces.items[i]
		switch {
		case l.v == "":
		case !ifForm.MatchString(l.v) || len(l.v) > 15:
			v.fail(l, fmt.Sprintf("%q is no interface name", l.v), "write one as in lan0")
		case l.v == c.Dataplane.Device:
			v.fail(l, fmt.Sprintf("%q is the tunnel's own device", l.v), "write a link of this machine")
		case slices.Contains(h.Interfaces, l.v):
			v.fail(l, fmt.Sprintf("%q is there twice", l.v), "keep one")
		case slices.ContainsFunc(n.Links, func(k Link) bool { hit, err := path.Match(k.Match, l.v); return hit && err == nil }):
			v.fail(l, fmt.Sprintf("%q is one of node.links too", l.v), "a link leads out or to a mobile network: write a pattern there that does not match it")
		default:
			h.Interfaces = append(h.Interfaces, l.v)
		}
	}
	empty(v, &r.Interfaces, "is empty", "write the names, as in [lan0], or leave the key out")
}

func tooMany(lengths map[int]bool) bool {
	six := 0
	for l := range lengths {
		if l > 128 {
			six++
		}
	}
	return six > maxLengths || len(lengths)-six > maxLengths
}

// subscriberNetworks reads the prefix table of a mobile router (RFC 3963 6.1.2).
func (v *validator) subscriberNetworks(a *Anchor, sub *Subscriber, q *rawSubscriber) {
	list := v.networks(&q.Networks, "")
	for i := range q.Networks.items {
		l := &q.Networks.items[i]
		x := l.v
		holds := func(b netip.Addr) bool { return b.IsValid() && x.Contains(b) }
		switch n := slices.IndexFunc(a.Addresses, holds); {
		case !x.IsValid():
		case n >= 0:
			v.fail(l, fmt.Sprintf("%s holds %s, an address of the anchor", x, a.Addresses[n]), "write a prefix of the mobile network alone")
		case holds(sub.HoA.Addr()) || holds(sub.V4):
			v.fail(l, fmt.Sprintf("%s holds the home address of its own router", x), "take hoa and v4 from another prefix")
		case slices.ContainsFunc(a.Pools, func(p Pool) bool {
			return p.Domain == sub.Domain && p.Prefix.IsValid() && x.Bits() <= p.Prefix.Bits() && x.Contains(p.Prefix.Addr())
		}):
			v.fail(l, fmt.Sprintf("%s holds all of a pool", x), "write a part of the pool, or a prefix outside of it")
		case x.Addr().Is4() && !sub.Families.V4:
			v.fail(l, x.String()+" is IPv4, but families has no v4", "add v4 to families, or leave the prefix out")
		}
	}
	sub.Networks = list
}

// networksApart refuses networks that lie in one another, or hold what another host has: of two who claim an address one would get
// the other's packets.
func (v *validator) networksApart(a *Anchor, raw []rawSubscriber) {
	type claim struct {
		domain core.Domain
		prefix netip.Prefix
		id     string
	}
	var all []claim
	for _, s := range a.Subscribers.List {
		for _, x := range slices.Concat(s.HNP, s.Networks) {
			all = append(all, claim{s.Domain, x, s.ID})
		}
		if s.V4.IsValid() {
			all = append(all, claim{s.Domain, netip.PrefixFrom(s.V4, 32), s.ID})
		}
		if s.HoA.IsValid() {
			all = append(all, claim{s.Domain, netip.PrefixFrom(s.HoA.Addr(), 128), s.ID})
		}
	}
	lengths := map[int]bool{32: true, 128 << 8: true}
	for _, p := range a.Pools {
		if p.Prefix.IsValid() && p.Prefix.Addr().Is6() && p.Delegate > 0 {
			lengths[p.Delegate<<8] = true
		}
	}
	for _, s := range a.Subscribers.List {
		for _, x := range s.HNP {
			lengths[x.Bits()<<8] = true
		}
	}
	for i, s := range a.Subscribers.List {
		for j := range raw[i].Networks.items {
			x := raw[i].Networks.items[j].v
			if !slices.Contains(s.Networks, x) {
				continue
			}
			key := x.Bits()
			if x.Addr().Is6() {
				key <<= 8
			}
			lengths[key] = true
			if tooMany(lengths) {
				v.fail(&raw[i].Networks.items[j], fmt.Sprintf("%s is of one length too many", x), fmt.Sprintf("all prefixes of a family together have at most %d different lengths, single addresses and pools included", maxLengths))
				return
			}
			for _, o := range all {
				if o.id != s.ID && o.domain == s.Domain && o.prefix.Overlaps(x) {
					v.fail(&raw[i].Networks.items[j], fmt.Sprintf("%s overlaps %s of %q", x, bare(o.prefix), o.id), "give each host its own")
					break
				}
			}
		}
	}
}
