package config

import (
	"fmt"
	"net/netip"
)

// maxLinkPrefixes is how many prefixes one advertisement takes.
const maxLinkPrefixes = 24

// discovery checks the section; a has its home link and services.
func (v *validator) discovery(a *Anchor, r *rawDiscovery) *Discovery {
	d := &Discovery{Preference: uint16(r.Preference.v), Lifetime: r.Lifetime.v, Advertise: r.Advertise.v,
		Interval: r.Interval.v, MinInterval: r.MinInterval.v, MinDelay: r.MinDelay.v, RouterLifetime: r.RouterLifetime.v,
		NoRouter: r.RouterLifetime.set && r.RouterLifetime.v == 0, Managed: r.Managed.v, Other: r.Other.v,
		Requests: int(r.Requests.v), NoPrefixes: !r.Announce.v, MinPrefix: r.MinPrefix.v, MaxPrefix: r.MaxPrefix.v}
	if a.DSMIP6 == nil && !v.blamed("anchor.services", "dsmip6") {
		v.fail(r, "is for mobile nodes, and there is no services.dsmip6", "add services: { dsmip6: {} }, or take discovery out")
	}
	if d.Advertise && a.HomeLink == "" && !v.faulty("anchor.home-link.interface") {
		v.fail(&r.Advertise, "needs a home link", "name it, as in home-link: { interface: eth1 }")
	}
	if r.MinInterval.set && d.MinInterval > d.Interval*3/4 {
		v.fail(&r.MinInterval, fmt.Sprintf("%s is more than three quarters of interval %s (RFC 4861 6.2.1)", short(d.MinInterval), short(d.Interval)), "write less")
	}
	if r.RouterLifetime.set && !d.NoRouter && d.RouterLifetime < d.Interval {
		v.fail(&r.RouterLifetime, fmt.Sprintf("%s is shorter than interval %s: hosts would lose the router between two advertisements (RFC 4861 6.2.1)", short(d.RouterLifetime), short(d.Interval)), "write 0s, or as much at least")
	}
	if d.Lifetime < d.Interval && d.Advertise {
		v.fail(pick(r.Lifetime.set, &r.Lifetime, &r.Interval), fmt.Sprintf("lifetime %s is shorter than interval %s: others would forget this home agent between two advertisements", short(d.Lifetime), short(d.Interval)), "raise lifetime, or shorten interval")
	}
	if d.MinPrefix > d.MaxPrefix {
		v.fail(pick(r.MaxPrefix.set, &r.MaxPrefix, &r.MinPrefix), fmt.Sprintf("prefix-max-interval %s is shorter than prefix-min-interval %s", short(d.MaxPrefix), short(d.MinPrefix)), "write at least as much")
	}
	if len(r.Prefixes.items) > maxLinkPrefixes {
		v.fail(&r.Prefixes, fmt.Sprintf("has %d prefixes", len(r.Prefixes.items)), fmt.Sprintf("keep %d: that is what one advertisement takes", maxLinkPrefixes))
	}
	seen := map[netip.Prefix]bool{}
	for i := range r.Prefixes.items {
		p := &r.Prefixes.items[i]
		if !p.Prefix.v.IsValid() {
			continue
		}
		switch {
		case seen[p.Prefix.v]:
			v.fail(&p.Prefix, p.Prefix.v.String()+" stands twice", "keep one")
		case p.Prefix.v.Addr().IsLinkLocalUnicast() || p.Prefix.v.Addr().IsMulticast():
			v.fail(&p.Prefix, p.Prefix.v.String()+" has no home addresses", "write a global prefix")
		}
		seen[p.Prefix.v] = true
		h := HomePrefix{Prefix: p.Prefix.v, Valid: p.Valid.v, Preferred: p.Preferred.v, OnLink: p.OnLink.v, Autonomous: p.Autonomous.v}
		if !p.Preferred.set {
			h.Preferred = min(h.Preferred, h.Valid)
		}
		if h.Preferred > h.Valid {
			v.fail(&p.Preferred, fmt.Sprintf("preferred %s is longer than valid %s", short(h.Preferred), short(h.Valid)), "write less: hosts ignore such a prefix (RFC 4862 5.5.3 c)")
		}
		d.Prefixes = append(d.Prefixes, h)
	}
	return d
}
