package config

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"kedge/internal/core"
)

// RFC 5847 5: HEARTBEAT_INTERVAL SHOULD NOT be less or more.
const (
	minHeartbeat = 30 * time.Second
	maxHeartbeat = 3600 * time.Second
)

// lifetimeUnit is the unit of the Lifetime field, RFC 6275 6.1.7.
const lifetimeUnit = 4 * time.Second

// maxReserveBits limits what a pool keeps in memory for prefixes that are never handed out.
const maxReserveBits = 28

// maxPoolBits limits how many prefixes a pool can hand out.
const maxPoolBits = 62

// short writes a duration without zero parts: 1h, not 1h0m0s.
func short(d time.Duration) string {
	s := d.String()
	if strings.HasSuffix(s, "m0s") {
		s = strings.TrimSuffix(s, "0s")
	}
	if strings.HasSuffix(s, "h0m") {
		s = strings.TrimSuffix(s, "0m")
	}
	return s
}

func (v *validator) anchor(c *Config, r *rawAnchor) *Anchor {
	a := &Anchor{PrefixesPerSession: r.PrefixesPerSession.v}
	seen := map[netip.Addr]bool{}
	for i := range r.Addresses.items {
		l := &r.Addresses.items[i]
		if !v.global(l) {
			continue
		}
		if seen[l.v] {
			v.fail(l, l.v.String()+" stands twice", "keep one")
		}
		seen[l.v] = true
		a.Addresses = append(a.Addresses, l.v)
	}
	empty(v, &r.Addresses, "is empty", `write the anchor's IPv6 address, as in ["2001:db8:a::1"]`)
	v.anchorFamilies(a, r)
	if h := &r.HomeLink.Interface; h.v != "none" {
		a.HomeLink = v.iface(h)
	}
	a.DADTransmits, a.RetransTimer = r.HomeLink.DAD.v, r.HomeLink.Retrans.v
	v.noHosts = r.Services.PMIP6 == nil && r.Services.DSMIP6 != nil
	pools := v.pools(a, &r.Pools)
	for i, p := range a.Pools {
		if a.HomeLink != "" && p.Domain == 0 && p.Prefix.IsValid() && p.Prefix.Addr().Is6() && p.Delegate < 128 {
			v.warn(&r.Pools.items[i].Prefix, NeedsRoute, "proxy ND on %s answers for single addresses, not for home network prefixes of /%d (RFC 5213 5.6.2): neighbours there need a route to %s by this anchor", a.HomeLink, p.Delegate, p.Prefix)
		}
	}
	if p := r.Services.PMIP6; p != nil {
		a.PMIP6 = v.pmip6(p)
	}
	if d := r.Services.DSMIP6; d != nil {
		a.DSMIP6 = v.dsmip6(a, d)
	}
	if s := &r.Services; s.set && s.PMIP6 == nil && s.DSMIP6 == nil && !v.blamed(s.path, "pmip6") && !v.blamed(s.path, "dsmip6") {
		v.fail(s, "offers nothing", "add pmip6: { gateways: [ ... ] } or dsmip6: {}")
	}
	if d := r.Discovery; d != nil {
		a.Discovery = v.discovery(a, d)
	}
	v.subscribers(a, &r.Subscribers, pools)
	l := &r.Limits
	a.Limits = AnchorLimits{Sessions: l.Sessions.v, SessionsPerGateway: l.SessionsPerGateway.v,
		RequestsPerPeer: int(l.RequestsPerPeer.v), PendingPerPeer: l.PendingPerPeer.v}
	if l.SessionsPerGateway.set && l.Sessions.v > 0 && l.SessionsPerGateway.v > l.Sessions.v {
		v.fail(&l.SessionsPerGateway, fmt.Sprintf("%d is more than the %d sessions in all", l.SessionsPerGateway.v, l.Sessions.v), "write less, or raise limits.sessions")
	}
	a.Limits.SessionsPerGateway = min(a.Limits.SessionsPerGateway, max(a.Limits.Sessions, 1))
	t := &r.Timers
	a.Timers = AnchorTimers{LifetimeMax: v.lifetime(&t.LifetimeMax), MinDelayBeforeBCEDelete: t.MinDelay.v,
		MaxDelayBeforeNewBCEAssign: t.MaxDelay.v, TimestampWindow: t.Window.v,
		BRIMaxRetries: t.BRIRetries.v, InitMinDelayBRIs: t.BRIDelay.v, MaxBrackTimeout: t.BRITimeout.v}
	if f, m := &t.BRIDelay, &t.BRITimeout; m.v != 0 && f.v > m.v {
		v.fail(pick(m.set, m, f), fmt.Sprintf("max-brack-timeout %s is shorter than init-min-delay-bris %s", short(m.v), short(f.v)), "write at least as much")
	}
	a.Heartbeat = v.heartbeat(&r.Heartbeat)
	return a
}

// lifetime must be a multiple of the unit on the wire.
func (v *validator) lifetime(l *leaf[time.Duration]) time.Duration {
	if over := l.v % lifetimeUnit; over != 0 && l.set {
		v.fail(l, fmt.Sprintf("%s is no multiple of 4s, the unit of the Lifetime field (RFC 6275 6.1.7)", short(l.v)), "write "+short(l.v-over+lifetimeUnit))
	}
	return l.v
}

func (v *validator) pools(a *Anchor, r *list[rawPool]) map[string]Pool {
	byName := map[string]Pool{}
	for i := range r.items {
		p := &r.items[i]
		pool := Pool{Name: v.name(&p.Name), Domain: p.Domain.v, Prefix: p.Prefix.v}
		if _, dup := byName[pool.Name]; dup && pool.Name != "" {
			v.fail(&p.Name, fmt.Sprintf("pool %q is there twice", pool.Name), "give each pool a name of its own")
		}
		if pool.Prefix.IsValid() {
			v.poolRange(&pool, p)
			for j, o := range a.Pools {
				if o.Domain == pool.Domain && o.Prefix.IsValid() && o.Prefix.Overlaps(pool.Prefix) {
					v.fail(&p.Prefix, fmt.Sprintf("%s overlaps with %s of pool %q on line %d", pool.Prefix, o.Prefix, o.Name, r.items[j].Prefix.pos.Line),
						"two pools must not hold the same address: shrink one, or put it in another domain")
					break
				}
			}
		}
		a.Pools = append(a.Pools, pool)
		if pool.Name != "" {
			byName[pool.Name] = pool
		}
	}
	empty(v, r, "is empty", "write the ranges that hosts get addresses from, as in [ { name: v4, prefix: 10.20.0.0/16 } ]")
	return byName
}

// poolRange checks what depends on the pool's prefix.
func (v *validator) poolRange(pool *Pool, p *rawPool) {
	x := pool.Prefix
	if x.Addr().IsMulticast() || x.Addr().IsLoopback() || x.Addr().IsLinkLocalUnicast() || x.Bits() == 0 {
		v.fail(&p.Prefix, x.String()+" cannot be given to hosts", `write a unicast range as in 10.20.0.0/16 or "2001:db8:1000::/36"`)
		return
	}
	if x.Addr().Is4() {
		if p.Delegate.set {
			v.fail(&p.Delegate, "is for IPv6 pools", "leave it out: a session gets one IPv4 address")
		}
		pool.Lease = p.Lease.v
		v.router(pool, p)
	} else {
		pool.Delegate = p.Delegate.v
		if p.Lease.set {
			v.fail(&p.Lease, "is for IPv4 pools", "leave it out: bindings of IPv6 last as long as timers.lifetime-max")
		}
		if p.Router.set {
			v.fail(&p.Router, "is for IPv4 pools", "leave it out: IPv6 hosts learn the gateway's link-local address")
		}
		switch {
		case pool.Delegate > 64 && pool.Delegate < 128:
			v.fail(&p.Delegate, fmt.Sprintf("hosts form no addresses in a /%d", pool.Delegate), "write 64 for prefixes, 128 for single addresses")
		case pool.Delegate != 0 && x.Bits() > pool.Delegate:
			v.fail(&p.Prefix, fmt.Sprintf("%s is too long to delegate /%d from it", x, pool.Delegate), fmt.Sprintf("write a prefix of at most %d bits", pool.Delegate))
		case pool.Delegate != 0 && pool.Delegate-x.Bits() > maxPoolBits:
			v.fail(&p.Prefix, fmt.Sprintf("%s has more than 2^%d prefixes of length %d", x, maxPoolBits, pool.Delegate), fmt.Sprintf("write a prefix of at least %d bits", pool.Delegate-maxPoolBits))
		case pool.Delegate != 0 && pool.Delegate != 64 && !v.noHosts:
			v.warn(&p.Delegate, BeyondRFC, "hosts form addresses by SLAAC only in a /64 (RFC 4862 5.5.3)")
		}
	}
	for i := range p.Reserve.items {
		l := &p.Reserve.items[i]
		res, err := netip.ParsePrefix(l.v)
		if err != nil {
			if addr, aerr := netip.ParseAddr(l.v); aerr == nil && addr.Zone() == "" {
				res, err = netip.PrefixFrom(addr, addr.BitLen()), nil
			}
		}
		switch {
		case l.v == "":
		case err != nil:
			v.fail(l, fmt.Sprintf("%q is no address or prefix", l.v), fmt.Sprintf("write addresses or prefixes inside %s", x))
		case res != res.Masked():
			v.fail(l, l.v+" has host bits set", "write "+res.Masked().String())
		case res.Addr().Is4() != x.Addr().Is4() || res.Bits() < x.Bits() || !x.Contains(res.Addr()):
			v.fail(l, fmt.Sprintf("%s is outside the pool %s", l.v, x), "write addresses or prefixes inside it")
		case pool.Delegate-res.Bits() > maxReserveBits:
			v.fail(l, fmt.Sprintf("%s is more than 2^%d prefixes", l.v, maxReserveBits), "make the pool smaller instead")
		default:
			pool.Reserve = append(pool.Reserve, res)
		}
	}
}

// router fills in and reserves the default router of an IPv4 home network (RFC 5844 3.3.3).
func (v *validator) router(pool *Pool, p *rawPool) {
	x := pool.Prefix
	if x.Bits() > 30 {
		v.fail(&p.Prefix, fmt.Sprintf("%s has no room for a router and hosts", x), "write a prefix of at most 30 bits")
		return
	}
	pool.Router = p.Router.v
	if !p.Router.set {
		pool.Router = x.Addr().Next()
	}
	if !pool.Router.IsValid() {
		return
	}
	switch {
	case !x.Contains(pool.Router):
		v.fail(&p.Router, fmt.Sprintf("%s is outside the pool %s", pool.Router, x), "write an address inside it, as in "+x.Addr().Next().String())
		return
	case pool.Router == x.Addr() || pool.Router == broadcast(x):
		v.fail(&p.Router, fmt.Sprintf("%s is the network's or broadcast address of %s", pool.Router, x), "write an address of a host, as in "+x.Addr().Next().String())
		return
	}
	pool.Reserve = append(pool.Reserve, netip.PrefixFrom(pool.Router, 32))
}

// broadcast is the last address of an IPv4 prefix.
func broadcast(x netip.Prefix) netip.Addr {
	b := x.Addr().As4()
	for i := x.Bits(); i < 32; i++ {
		b[i/8] |= 0x80 >> (i % 8)
	}
	return netip.AddrFrom4(b)
}

func (v *validator) pmip6(r *rawPMIP6) PMIP6 {
	var p PMIP6
	for i := range r.Gateways.items {
		if peer, ok := v.known(&r.Gateways.items[i]); ok {
			v.speaks(&r.Gateways.items[i], peer)
			p.Gateways = append(p.Gateways, peer.Name)
		}
	}
	v.unique("gateway", r.Gateways.items)
	empty(v, &r.Gateways, "is empty", "write the names of the peers that may register hosts")
	v.unique("dialect", r.Dialects.items)
	for _, d := range r.Dialects.items {
		p.Dialects = append(p.Dialects, d.v)
	}
	empty(v, &r.Dialects, "is empty", "write rfc5844, draft-pmip6-v4-02 or both")
	p.Families = v.families(&r.Families)
	p.MobileNodeTimestamps, p.Revoke, p.LinkLocal = r.Stamps.v, r.Revoke.v, r.Local.v
	v.linkLocal(&r.Local)
	return p
}

func (v *validator) subscribers(a *Anchor, r *rawSubscribers, pools map[string]Pool) {
	s := &a.Subscribers
	s.Accept = r.Default.v == "accept"
	s.Common = v.families(&r.Families)
	switch {
	case s.Accept:
		v.warn(&r.Default, OpenDomain, "hosts that are not in the list are served")
	case len(r.List.items) == 0:
		v.warn(r, NoHost, "the list is empty and unknown hosts are refused: nobody is served")
	}
	type static struct {
		domain core.Domain
		prefix netip.Prefix
	}
	ids, homes := map[string]int{}, map[static]string{}
	for i := range r.List.items {
		q := &r.List.items[i]
		sub := Subscriber{ID: v.identifier(&q.ID), Domain: q.Domain.v, Families: v.families(&q.Families), NoPMIP6: !q.PMIP6.v, Prefixes: a.PrefixesPerSession}
		if q.Prefixes.set {
			sub.Prefixes = q.Prefixes.v
		}
		if line, dup := ids[sub.ID]; dup && sub.ID != "" {
			v.fail(&q.ID, fmt.Sprintf("subscriber %q is there twice", sub.ID), fmt.Sprintf("keep one; the first is on line %d", line))
		}
		ids[sub.ID] = q.ID.pos.Line
		if q.HoA.set && !q.PMIP6.set && a.PMIP6.Gateways == nil {
			sub.NoPMIP6 = true
		}
		for j := range q.Pools.items {
			v.poolName(&q.Pools.items[j], &sub, pools)
		}
		v.unique("pool", q.Pools.items)
		claim := func(l located, x netip.Prefix) {
			if who, dup := homes[static{sub.Domain, x}]; dup {
				v.fail(l, fmt.Sprintf("%s belongs to %q already", bare(x), who), "give each host its own")
				return
			}
			homes[static{sub.Domain, x}] = sub.ID
		}
		v.staticV4(a, &sub, q, claim)
		v.staticHNP(a, &sub, q, claim)
		v.mobile(a, &sub, q, claim)
		for j := range q.Gateways.items {
			l := &q.Gateways.items[j]
			p, ok := v.known(l)
			if !ok {
				continue
			}
			if v.faulty("anchor.services") {
				continue
			}
			if !slices.Contains(a.PMIP6.Gateways, p.Name) {
				v.fail(l, fmt.Sprintf("peer %q is no gateway of services.pmip6", p.Name), "add it there, or leave it out here")
				continue
			}
			sub.Gateways = append(sub.Gateways, p.Name)
		}
		v.unique("gateway", q.Gateways.items)
		s.List = append(s.List, sub)
	}
	v.homesApart(s.List, r.List.items)
	v.networksApart(a, r.List.items)
}

func (v *validator) poolName(l *leaf[string], sub *Subscriber, pools map[string]Pool) {
	p, ok := pools[l.v]
	switch {
	case l.v == "" || sub.Families == (Families{}):
	case !ok && len(pools) == 0:
	case !ok:
		names := make([]string, 0, len(pools))
		for n := range pools {
			names = append(names, n)
		}
		slices.Sort(names)
		want := "write " + join(first(names, 5), "or")
		if near, ok := nearest(l.v, names); ok {
			want = fmt.Sprintf("did you mean %q?", near)
		}
		v.fail(l, fmt.Sprintf("no pool is called %q", l.v), want)
	case p.Domain != sub.Domain:
		v.fail(l, fmt.Sprintf("pool %q is of domain %d, the host of domain %d", l.v, p.Domain, sub.Domain), "write a pool of the host's domain")
	case p.Prefix.IsValid() && !(p.Prefix.Addr().Is4() && sub.Families.V4 || p.Prefix.Addr().Is6() && sub.Families.V6):
		v.fail(l, fmt.Sprintf("pool %q is of a family that the host does not have", l.v), "add the family to families, or leave the pool out")
	case p.Prefix.Addr().Is4():
		sub.V4Pools = append(sub.V4Pools, p.Name)
	default:
		sub.HNPPools = append(sub.HNPPools, p.Name)
	}
}

// bare writes a single address without its length.
func bare(x netip.Prefix) string {
	if x.IsSingleIP() {
		return x.Addr().String()
	}
	return x.String()
}

// fromPool says that the list is the single word pool.
func fromPool(l *list[leaf[string]]) bool { return len(l.items) == 1 && l.items[0].v == "pool" }

func (v *validator) staticV4(a *Anchor, sub *Subscriber, q *rawSubscriber, claim func(located, netip.Prefix)) {
	l := &q.V4
	if l.v == "none" {
		if q.Families.set && sub.Families.V4 {
			v.fail(l, "is none, but families has v4", "leave v4 out of families, or write an address or pool")
		}
		sub.Families.V4 = false
		return
	}
	if l.v == "" || l.v == "pool" || sub.Families == (Families{}) {
		return
	}
	addr, err := netip.ParseAddr(l.v)
	if err != nil || !addr.Is4() {
		v.fail(l, fmt.Sprintf("%q is no IPv4 address", l.v), "write one as in 10.20.0.10, pool or none")
		return
	}
	pool, ok := poolOf(a, sub.Domain, netip.PrefixFrom(addr, 32))
	switch {
	case !sub.Families.V4:
		v.fail(l, "is an IPv4 address, but families has no v4", "add v4 to families, or leave the address out")
	case !ok && v.faulty("anchor.pools"):
	case !ok:
		v.fail(l, fmt.Sprintf("%s is outside every IPv4 pool of domain %d", addr, sub.Domain), "write an address of a pool"+ranges(a, sub.Domain, true))
	case addr == pool.Router:
		v.fail(l, fmt.Sprintf("%s is the router of pool %q", addr, pool.Name), "write another address")
	case addr == pool.Prefix.Addr() || addr == broadcast(pool.Prefix):
		v.fail(l, fmt.Sprintf("%s is the network's or broadcast address of %s", addr, pool.Prefix), "write an address of a host")
	default:
		claim(l, netip.PrefixFrom(addr, 32))
		sub.V4 = addr
	}
}

func (v *validator) staticHNP(a *Anchor, sub *Subscriber, q *rawSubscriber, claim func(located, netip.Prefix)) {
	if fromPool(&q.HNP) || sub.Families == (Families{}) {
		return
	}
	for i := range q.HNP.items {
		l := &q.HNP.items[i]
		if l.v == "" {
			continue
		}
		x, err := netip.ParsePrefix(l.v)
		if err != nil || x.Addr().Is4() {
			v.fail(l, fmt.Sprintf("%q is no IPv6 prefix", l.v), `write one in quotes as in "2001:db8:1000:1::/64", or pool`)
			continue
		}
		pool, ok := poolOf(a, sub.Domain, x)
		switch {
		case x != x.Masked():
			v.fail(l, l.v+" has host bits set", "write "+x.Masked().String())
		case !sub.Families.V6:
			v.fail(l, "is an IPv6 prefix, but families has no v6", "add v6 to families, or leave the prefix out")
		case !ok && v.faulty("anchor.pools"):
		case !ok:
			v.fail(l, fmt.Sprintf("%s is outside every IPv6 pool of domain %d", x, sub.Domain), "write a prefix of a pool"+ranges(a, sub.Domain, false))
		case pool.Delegate != 0 && x.Bits() != pool.Delegate:
			v.fail(l, fmt.Sprintf("%s has another length than the /%d that pool %q delegates", x, pool.Delegate, pool.Name), fmt.Sprintf("write a /%d", pool.Delegate))
		default:
			claim(l, x)
			sub.HNP = append(sub.HNP, x)
		}
	}
}

// poolOf gives the pool of a domain that holds all of x.
func poolOf(a *Anchor, domain core.Domain, x netip.Prefix) (Pool, bool) {
	for _, p := range a.Pools {
		if p.Domain == domain && p.Prefix.IsValid() && p.Prefix.Bits() <= x.Bits() && p.Prefix.Contains(x.Addr()) {
			return p, true
		}
	}
	return Pool{}, false
}

// ranges lists the pools that a static address may be from.
func ranges(a *Anchor, domain core.Domain, v4 bool) string {
	var out []string
	for _, p := range a.Pools {
		if p.Domain == domain && p.Prefix.IsValid() && p.Prefix.Addr().Is4() == v4 {
			out = append(out, p.Prefix.String())
		}
	}
	if len(out) == 0 {
		return ", and add one"
	}
	return ": " + join(first(out, 5), "or")
}
