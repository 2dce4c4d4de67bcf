package config

import (
	"fmt"
	"slices"
)

func (v *validator) correspondent(c *Config, r *rawCorrespondent, f *rawFile) *Correspondent {
	p := &Correspondent{Table: r.Table.v, LifetimeMax: r.LifetimeMax.v, Bindings: r.Limits.Bindings.v, Requests: int(r.Limits.Requests.v)}
	if f.Anchor != nil || f.Gateway != nil {
		v.fail(r, "a correspondent is a host, and an anchor or gateway is a router", "write it in a file of its own, for another machine; it may stand alone or beside node")
	}
	for i := range r.Addresses.items {
		l := &r.Addresses.items[i]
		switch {
		case !v.global(l):
		case slices.Contains(p.Addresses, l.v):
			v.fail(l, l.v.String()+" stands twice", "keep one")
		case f.Node != nil && c.Node != nil && c.Node.Home.V6.IsValid() && l.v != c.Node.Home.V6.Addr():
			v.fail(l, fmt.Sprintf("%s is not the home address of this mobile node", l.v), "leave addresses out: a mobile node is a correspondent by its home address, wherever it is")
		default:
			p.Addresses = append(p.Addresses, l.v)
		}
	}
	empty(v, &r.Addresses, "is empty", "leave it out to take every IPv6 address of this host")
	for i := range r.Accept.items {
		l := &r.Accept.items[i]
		switch {
		case !l.v.IsValid():
		case !l.v.Addr().Is6():
			v.fail(l, l.v.String()+" is no IPv6 prefix", `only IPv6 home addresses are bound (RFC 6275 9): write one as in "2001:db8:2000::/48", or leave it out`)
		case slices.Contains(p.Accept, l.v):
			v.fail(l, l.v.String()+" stands twice", "keep one")
		default:
			p.Accept = append(p.Accept, l.v)
		}
	}
	empty(v, &r.Accept, "is empty", `write "::/0", or leave it out, to take all; leave peer out to take none`)
	if r.Table.set && f.Node != nil {
		v.warn(&r.Table, UnusedSetting, "a mobile node leads packets to home addresses by its own tables")
	}
	if f.Dataplane.Kind.v == PlaneEBPF && f.Node == nil {
		v.fail(&f.Dataplane.Kind, "a correspondent forwards in its process: the kernel's fast path is for tunnels", "write kind: user, or leave it out")
	}
	return p
}
