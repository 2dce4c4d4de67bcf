package config

import (
	"fmt"
	"net/netip"
	"regexp"
	"slices"
)

// domainForm is a host name with a domain (RFC 1123 2.1).
var domainForm = regexp.MustCompile(`^([A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?\.)+[A-Za-z]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?\.?$`)

// found reads how a node finds its home agents, beside the addresses that are written.
func (v *validator) found(n *Node, r *rawNodeAnchor, peer Peer, known bool) {
	a := &n.Anchor
	a.Discover, a.Host = r.Discover.v, r.Host.v
	switch {
	case a.Host == "":
	case len(a.Host) > 253 || !domainForm.MatchString(a.Host):
		v.fail(&r.Host, fmt.Sprintf("%q is no host name", a.Host), "write one with its domain, as in ha.example.net; an address belongs into addresses")
		a.Host = ""
	case a.Discover:
		v.fail(&r.Host, "and discover: true are two ways to find the home agent", "keep one")
	case len(r.Addresses.items) > 0:
		v.fail(&r.Addresses, "and host both say where the home agent is", "keep one: the name servers give the addresses of "+a.Host)
	}
	for i := range r.Others.items {
		l := &r.Others.items[i]
		p, ok := v.known(l)
		switch {
		case !ok:
		case l.v == a.Name || slices.Contains(a.Others, l.v):
			v.fail(l, fmt.Sprintf("%q stands twice", l.v), "name each home agent once")
		case len(sixes(p.Addresses)) == 0:
			v.fail(l, fmt.Sprintf("peer %q has no IPv6 address", l.v), "write its addresses in security.peers: they say which home agent has these keys")
		default:
			v.whole(l, p)
			a.Others = append(a.Others, l.v)
		}
	}
	if !known || !a.Discover && a.Host == "" {
		return
	}
	if len(sixes(peer.Addresses)) == 0 && peer.Protection != ProtectionNone {
		v.fail(&r.Name, fmt.Sprintf("peer %q has no IPv6 address", peer.Name), "write the addresses of the home agent in security.peers: nobody else is taken for it, whoever answers")
	}
	v.whole(&r.Name, peer)
}

// whole refuses prefixes of home agents whose messages are authenticated: which one speaks must be known.
func (v *validator) whole(l *leaf[string], p Peer) {
	for _, x := range p.Addresses {
		if p.Protection != ProtectionNone && !x.IsSingleIP() {
			v.fail(l, fmt.Sprintf("peer %q has the prefix %s", p.Name, x), "write whole addresses, and one peer with keys of its own for each home agent")
		}
	}
}

// sixes are the prefixes of IPv6.
func sixes(in []netip.Prefix) []netip.Prefix {
	return slices.DeleteFunc(slices.Clone(in), func(p netip.Prefix) bool { return p.Addr().Is4() })
}

// anycastBits is what the anycast address of home agents leaves of a prefix (RFC 2526 2).
const anycastBits = 121

// renumbered reads the prefixes that home addresses may be on.
func (v *validator) renumbered(n *Node, r *rawHome) {
	home := n.Home.V6
	if n.Anchor.Discover && home.IsValid() && home.Bits() > anycastBits {
		v.fail(&r.V6, fmt.Sprintf("%s leaves no room for the anycast address of home agents (RFC 2526)", home), fmt.Sprintf("write the length of the home prefix, at most %d", anycastBits))
	}
	for i := range r.Prefixes.items {
		l := &r.Prefixes.items[i]
		switch x := l.v; {
		case !x.IsValid():
		case !x.Addr().Is6() || x.Addr().IsMulticast() || x.Addr().IsLinkLocalUnicast():
			v.fail(l, x.String()+" is no prefix of home addresses", `write one of IPv6 as in "2001:db8:2001::/64"`)
		case x != x.Masked():
			v.fail(l, x.String()+" has host bits set", "write "+x.Masked().String())
		case home.IsValid() && x.Bits() != home.Bits():
			v.fail(l, fmt.Sprintf("%s is not as long as the home prefix %s", x, home.Masked()), "write one of that length: the interface identifier stays")
		case home.IsValid() && x == home.Masked() || slices.Contains(n.Home.Prefixes, x):
			v.fail(l, x.String()+" stands twice", "name each prefix once; that of v6 needs no mention")
		case len(n.Home.Prefixes) == maxHomePrefixes:
			v.fail(l, fmt.Sprintf("is one of more than %d", maxHomePrefixes), "name those that the home network will have")
		default:
			n.Home.Prefixes = append(n.Home.Prefixes, x)
		}
	}
	empty(v, &r.Prefixes, "is empty", `write prefixes as in ["2001:db8:2001::/64"], or leave the key out`)
}

// maxHomePrefixes is more than any renumbering needs.
const maxHomePrefixes = 8
