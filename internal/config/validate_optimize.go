package config

import (
	"fmt"
	"net/netip"
	"slices"
)

// optimization fills in node.route-optimization; without the section no correspondent is told anything.
func (v *validator) optimization(n *Node, r *rawOptimization) {
	if r == nil {
		return
	}
	o := &n.Optimization
	o.Use, o.Limit, o.Lifetime = r.Use.v, r.Limit.v, v.lifetime(&r.Lifetime)
	always := 0
	for i := range r.Correspondents.items {
		q := &r.Correspondents.items[i]
		x, ok := v.correspondents(&q.Prefix)
		if !ok {
			continue
		}
		switch {
		case slices.ContainsFunc(o.Rules, func(o OptimizationRule) bool { return o.Prefix == x }):
			v.fail(&q.Prefix, x.String()+" stands twice", "keep one")
			continue
		case q.Use.v == OptimizeAlways && !x.IsSingleIP():
			v.fail(&q.Use, "always is for single addresses", fmt.Sprintf("write the addresses of %s that are meant, or traffic", x))
			continue
		case q.Use.v == OptimizeAlways && (x.Addr() == n.Anchor.IPv6 || x.Addr() == n.Home.V6.Addr()):
			v.fail(&q.Prefix, x.Addr().String()+" is no correspondent", "write an address of another host; the home agent is none")
			continue
		case q.Use.v == OptimizeAlways:
			always++
		}
		o.Rules = append(o.Rules, OptimizationRule{x, q.Use.v})
	}
	empty(v, &r.Correspondents, "is empty", "leave it out: use holds for all then")
	if l := &r.Limit; l.v != 0 && always > l.v {
		v.fail(pick(l.set, l, l), fmt.Sprintf("%d correspondents are always told", always), fmt.Sprintf("write at least %d", always))
	}
	if o.Use == OptimizeNever && !slices.ContainsFunc(o.Rules, func(o OptimizationRule) bool { return o.Use != OptimizeNever }) && !v.faulty(r.path) {
		v.warn(r, UnusedSetting, "no correspondent is ever told: leave the section out, or write use: traffic")
	}
}

// correspondents reads an IPv6 prefix, or a single address.
func (v *validator) correspondents(l *leaf[string]) (netip.Prefix, bool) {
	if l.v == "" {
		return netip.Prefix{}, false
	}
	x, err := netip.ParsePrefix(l.v)
	if a, aerr := netip.ParseAddr(l.v); aerr == nil && a.Zone() == "" {
		x, err = netip.PrefixFrom(a, a.BitLen()), nil
	}
	switch a := x.Addr(); {
	case err != nil:
		v.fail(l, fmt.Sprintf("%q is no prefix and no address", l.v), `write one as in "2001:db8:d::/64" or "2001:db8:d::99"`)
	case !a.Is6() || a.Is4In6():
		v.fail(l, l.v+" is not of IPv6", "leave it out: packets of IPv4 always go by the home agent (RFC 5555 2.4)")
	case x != x.Masked():
		v.fail(l, l.v+" has bits behind its length", "write "+x.Masked().String())
	case x.IsSingleIP() && (!a.IsGlobalUnicast() || a.IsLoopback()):
		v.fail(l, l.v+" is no global address", "write one of a correspondent: with those on the link packets go directly anyway")
	default:
		return x, true
	}
	return netip.Prefix{}, false
}
