package config

import (
	"fmt"
	"net/netip"
	"slices"

	"kedge/internal/core"
)

// anchorFamilies: an IPv6 address is needed in any case, an IPv4 one where nodes come through IPv4 networks.
func (v *validator) anchorFamilies(a *Anchor, r *rawAnchor) {
	v4, v6 := (*leaf[netip.Addr])(nil), false
	for i := range r.Addresses.items {
		l := &r.Addresses.items[i]
		switch {
		case l.v.Is6():
			v6 = true
		case l.v.Is4() && v4 != nil:
			v.fail(l, "is a second IPv4 address", "keep one: nodes and NATs must see answers come from where they sent to")
		case l.v.Is4():
			v4 = l
		}
	}
	if len(a.Addresses) > 0 && !v6 && !v.faulty(r.Addresses.path) {
		v.fail(&r.Addresses, "has no IPv6 address", `add one as in "2001:db8:a::1": messages are of IPv6 also where IPv4 carries them (RFC 5555 3)`)
	}
	switch dsmip6 := r.Services.DSMIP6 != nil; {
	case v4 != nil && !dsmip6 && !v.blamed(r.Services.path, "dsmip6"):
		v.fail(v4, fmt.Sprintf("%q is IPv4, and that is for services.dsmip6", v4.v), "IPv4 transport between gateway and anchor is not in this version: write an IPv6 address, or add dsmip6: {}")
	case v4 == nil && dsmip6 && len(a.Addresses) > 0:
		v.warn(&r.Addresses, NoIPv4, "there is no IPv4 address: mobile nodes are cut off in IPv4-only networks")
	}
}

func (v *validator) dsmip6(a *Anchor, r *rawDSMIP6) *DSMIP6 {
	d := &DSMIP6{Dialects: words(&r.Dialects), Families: v.families(&r.Families), RefuseUDP: r.ForceUDP.v == "refuse", ForceUDP: r.ForceUDP.v == "always",
		NATRefresh: r.NATRefresh.v, RefreshAdvice: r.RefreshAdvice.v, RefreshRequest: r.RefreshAsk.v,
		RequireMessageID: r.MessageID.v == "require", MessageIDWindow: r.MessageWindow.v,
		AcceptPrivateCareOf: r.PrivateCareOf.v == "accept"}
	v.unique("dialect", r.Dialects.items)
	empty(v, &r.Dialects, "is empty", "write rfc5555, draft-soliman-00 or both")
	if d.Families == (Families{V4: true}) {
		v.fail(&r.Families, "has no v6", "add it: a mobile node is known by its IPv6 home address (RFC 5555 2)")
	}
	for i := range r.Addresses.items {
		l := &r.Addresses.items[i]
		switch {
		case !l.v.IsValid() || v.faulty("anchor.addresses"):
		case !slices.Contains(a.Addresses, l.v):
			v.fail(l, l.v.String()+" is none of anchor.addresses", "write one of those, or leave the key out for all")
		case slices.Contains(d.Addresses, l.v):
			v.fail(l, l.v.String()+" stands twice", "keep one")
		default:
			d.Addresses = append(d.Addresses, l.v)
		}
	}
	empty(v, &r.Addresses, "is empty", "leave the key out for all of anchor.addresses")
	return d
}

// mobile reads what makes a subscriber a mobile node.
func (v *validator) mobile(a *Anchor, sub *Subscriber, q *rawSubscriber, claim func(located, netip.Prefix)) {
	if !q.HoA.set {
		if len(q.Networks.items) > 0 && !v.blamed(q.path, "hoa") {
			v.fail(&q.Networks, "is for mobile nodes, and this host has no hoa", "add hoa: with its home address, or leave networks out")
		}
		if q.Peer.set && !v.blamed(q.path, "hoa") {
			v.fail(&q.Peer, "is for mobile nodes, and this host has no hoa", "add hoa: with its home address, or leave peer out")
		}
		return
	}
	if a.DSMIP6 == nil && !v.faulty("anchor.services") {
		v.fail(&q.HoA, "is for mobile nodes, and services has no dsmip6", "add dsmip6: {} to anchor.services")
	}
	if !q.Peer.set && !v.blamed(q.path, "peer") {
		v.fail(&q.HoA, "may be registered by nobody", "add peer: with a name of security.peers")
	}
	if p, ok := v.known(&q.Peer); ok {
		sub.Peer = p.Name
	}
	x, ok := v.homeAddress(&q.HoA)
	if !ok || sub.Families == (Families{}) {
		return
	}
	pool, found := poolOf(a, sub.Domain, netip.PrefixFrom(x.Addr(), 128))
	switch {
	case !sub.Families.V6:
		v.fail(&q.HoA, "is an IPv6 address, but families has no v6", "add v6 to families: a mobile node is known by its IPv6 home address (RFC 5555 2)")
	case !found && v.faulty("anchor.pools"):
	case !found:
		v.fail(&q.HoA, fmt.Sprintf("%s is outside every IPv6 pool of domain %d", x.Addr(), sub.Domain), "write an address of a pool"+ranges(a, sub.Domain, false))
	case x.Bits() < pool.Prefix.Bits() && pool.Delegate < 128: // single addresses may be a part of their link's network
		v.fail(&q.HoA, fmt.Sprintf("the home prefix %s is larger than pool %q, %s", x.Masked(), pool.Name, pool.Prefix), fmt.Sprintf("write a length of %d or more", pool.Prefix.Bits()))
	default:
		claim(&q.HoA, netip.PrefixFrom(x.Addr(), 128))
		sub.HoA = x
		v.subscriberNetworks(a, sub, q)
	}
}

// homesApart refuses a home address inside the static home network prefix of another host: whoever registers last would get
// the other one's packets.
func (v *validator) homesApart(list []Subscriber, raw []rawSubscriber) {
	type network struct {
		domain core.Domain
		prefix netip.Prefix
	}
	owner, lengths := map[network]string{}, map[int]bool{}
	for _, s := range list {
		for _, x := range s.HNP {
			owner[network{s.Domain, x}], lengths[x.Bits()] = s.ID, true
		}
	}
	for i, s := range list {
		for bits := range lengths {
			x := netip.PrefixFrom(s.HoA.Addr(), bits).Masked()
			if who, ok := owner[network{s.Domain, x}]; ok && s.HoA.IsValid() && who != s.ID {
				v.fail(&raw[i].HoA, fmt.Sprintf("%s lies in %s of %q", s.HoA.Addr(), x, who), "give each host its own")
			}
		}
	}
}

// homeAddress reads an IPv6 address with the length of its network.
func (v *validator) homeAddress(l *leaf[string]) (netip.Prefix, bool) {
	if l.v == "" {
		return netip.Prefix{}, false
	}
	x, err := netip.ParsePrefix(l.v)
	switch {
	case err != nil || x.Addr().Is4() || x.Addr().Is4In6():
		v.fail(l, fmt.Sprintf("%q is no IPv6 address with the length of its home prefix", l.v), `write one in quotes as in "2001:db8:2000::5/64"`)
	case x.Addr().IsMulticast() || x.Addr().IsUnspecified() || x.Addr().IsLoopback() || x.Addr().IsLinkLocalUnicast() || x.Bits() == 0:
		v.fail(l, x.Addr().String()+" cannot be a home address", `write a global unicast address as in "2001:db8:2000::5/64"`)
	case x.Bits() < 128 && x.Addr() == x.Masked().Addr():
		v.fail(l, fmt.Sprintf("%s is the anycast address of the routers of %s (RFC 4291 2.6.1)", x.Addr(), x), "write the address of a host")
	default:
		return x, true
	}
	return x, false
}
