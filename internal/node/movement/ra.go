package movement

import (
	"fmt"
	"net/netip"
	"slices"
	"time"

	"kedge/internal/access"
	"kedge/internal/core"
	"kedge/wire"
	"kedge/wire/ether"
	"kedge/wire/nd"
)

// twoHours is how far an unauthenticated advertisement may shorten a valid lifetime (RFC 4862 5.5.3 e).
const twoHours = 2 * time.Hour

// minHopLimit is the least hop limit that is believed: a lower one would cut the node off from all but its neighbours.
const minHopLimit = 32

// minMTU is the least link MTU of IPv6 (RFC 8200 5).
const minMTU = 1280

var linkLocal = netip.MustParsePrefix("fe80::/10")

// prefix is what the routers of a link advertise as on-link or for address autoconfiguration (RFC 4861 4.6.2).
type prefix struct {
	p         netip.Prefix
	onLink    bool
	linkUntil time.Duration // on-link lifetime (RFC 4861 6.3.4)
	auto      bool
	valid     time.Duration // ends (RFC 4862 5.5.3), boot time
	preferred time.Duration
	by        []via
}

// via is one router that advertises a prefix.
type via struct {
	r      *router
	missed int // advertisements of r since, that had prefixes but not this one
}

func (p *prefix) advertisedBy(r *router) bool {
	return slices.ContainsFunc(p.by, func(v via) bool { return v.r == r })
}

// ends adds a lifetime in seconds to now.
func ends(now time.Duration, seconds uint32) time.Duration {
	if seconds == nd.Infinity {
		return never
	}
	return now + time.Duration(seconds)*time.Second
}

// advertisement processes a Router Advertisement that package nd found valid (RFC 4861 6.1.2, 6.3.4). It says false for one
// that is thrown away.
func (m *Machine) advertisement(l *link, f *access.Frame, ra *nd.RouterAdvertisement) bool {
	mac, sll := ra.Options.SourceLL()
	if !sll {
		mac = f.Src
	}
	if ether.IsGroup(mac) || mac == (core.MAC{}) || mac == l.mac {
		m.ignored(l, f, wire.BadSource, "link-layer address "+core.MAC(mac).String())
		return false
	}
	r := l.findRouter(f.SrcIP)
	// Routers that are in use have an allowance of their own, so that a storm does not drown them.
	bucket := &l.strange
	if r != nil && r.proven && r.mac == mac {
		bucket = &l.known
	}
	if !bucket.Take(m.now.Boot, raLimit) {
		m.ignored(l, f, wire.RateLimit, fmt.Sprintf("more than %d Router Advertisements a second", MaxRAs))
		return false
	}
	if ra.RouterLifetime == 0 {
		// Without a default router its prefixes are of no use to us (RFC 6275 11.5.4).
		if r != nil && r.advertised {
			m.dropRouter(r, "router lifetime 0")
		}
		return true
	}
	if r == nil {
		if r = m.newRouter(l, f, mac); r == nil {
			return false
		}
	}
	r.advertised, r.sll = true, sll
	m.heardRouter(l, f, r, mac, ra)
	l.solicited()
	m.linkParameters(l, f, ra)
	m.prefixOptions(l, f, r, ra)
	m.bury(l)
	return true
}

// newRouter makes room for a router and takes it in. The others are asked whether they are still there: hearing a new one may
// mean that the node has moved, or not (RFC 6275 11.5.1).
func (m *Machine) newRouter(l *link, f *access.Frame, mac core.MAC) *router {
	n := 0
	var weakest *router
	for _, r := range l.routers {
		if !r.advertised {
			continue
		}
		n++
		// One that never answered may be a forgery; the one heard of first of those has had the longest time to answer.
		if !r.proven && r.state != fresh && (weakest == nil || r.seen < weakest.seen) {
			weakest = r
		}
	}
	if n >= MaxRouters {
		if weakest == nil {
			m.ignored(l, f, wire.RouterLimit, fmt.Sprintf("%d routers", n))
			return nil
		}
		m.dropRouter(weakest, "makes room for another router")
	}
	for _, r := range l.routers {
		if r.advertised && (!r.proven || m.now.Boot-r.heard > askAgain) {
			m.doubt(r, "another router advertises", fastProbes)
		}
	}
	return m.learned(l, f.SrcIP, mac)
}

// heardRouter notes what an advertisement says about its router.
func (m *Machine) heardRouter(l *link, f *access.Frame, r *router, mac core.MAC, ra *nd.RouterAdvertisement) {
	for _, o := range ra.Options {
		if p, ok := o.(*nd.PrefixInformation); ok && p.RouterAddr && p.Prefix.Addr().IsGlobalUnicast() {
			if r.alias.IsValid() && r.alias != p.Prefix.Addr() && !advertises(ra, r.alias) {
				// Another router with the same link-local address (RFC 6275 11.5.1): nothing of the old one holds.
				m.withdraw(l, r, "another router has its link-local address")
				r.proven = false
			}
			r.alias = p.Prefix.Addr()
			break
		}
	}
	r.expires, r.lastRA = ends(m.now.Boot, uint32(ra.RouterLifetime)), m.now.Boot
	r.pref = preference(ra.Preference)
	if i := advertInterval(ra.Options); i > 0 {
		r.interval = max(i, time.Second)
	}
	if t := time.Duration(ra.RetransTimer) * time.Millisecond; t >= askAgain {
		l.retrans = min(t, maxRetrans)
	}
	switch {
	case mac != r.mac:
		m.macChanged(r, mac)
		if r.state == unsure || r.state == dead {
			m.setReach(r, fresh, "advertises")
			m.probe(r, l.retrans, slowProbes)
		}
	case r.state == unsure:
		// The same router, on the link as it is now: its prefixes hold (RFC 6059 5.4). That it hears us is being asked.
		m.setReach(r, fresh, "advertises")
	case r.state == dead && f.DstIP != nd.AllNodes:
		m.alive(r, "answers a solicitation") // sent to us alone, so that it heard us
	case r.state == dead:
		r.every, r.next = retransTimer, m.now.Boot // it can be heard; does it hear us?
	}
}

// advertises says whether a prefix option with the R flag has this router address.
func advertises(ra *nd.RouterAdvertisement, a netip.Addr) bool {
	return slices.ContainsFunc(ra.Options, func(o nd.Option) bool {
		p, ok := o.(*nd.PrefixInformation)
		return ok && p.RouterAddr && p.Prefix.Addr() == a
	})
}

// preference reads the two bits of RFC 4191 2.2; the reserved value is medium.
func preference(bits uint8) int8 {
	switch bits {
	case 1:
		return 1
	case 3:
		return -1
	}
	return 0
}

// linkParameters takes MTU and hop limit (RFC 4861 6.3.4). What is unspecified leaves things as they are.
func (m *Machine) linkParameters(l *link, f *access.Frame, ra *nd.RouterAdvertisement) {
	if ra.CurHopLimit >= minHopLimit {
		l.hopLimit = ra.CurHopLimit
	} else if ra.CurHopLimit > 0 {
		m.ignored(l, f, wire.BadHopLimit, fmt.Sprintf("advertised hop limit %d", ra.CurHopLimit))
	}
	for _, o := range ra.Options {
		mtu, ok := o.(nd.MTU)
		if !ok {
			continue
		}
		if mtu < minMTU || l.mtu > 0 && int64(mtu) > int64(l.mtu) {
			m.ignored(l, f, wire.BadValue, fmt.Sprintf("advertised MTU %d of a link with %d", mtu, l.mtu))
			continue
		}
		l.raMTU = int(mtu)
	}
}

// prefixOptions takes the Prefix Information options of an advertisement. Refused ones are told once for each reason.
func (m *Machine) prefixOptions(l *link, f *access.Frame, r *router, ra *nd.RouterAdvertisement) {
	had := make(map[netip.Prefix]bool)
	refused := make(map[wire.Reason]int)
	for _, o := range ra.Options {
		pi, ok := o.(*nd.PrefixInformation)
		if !ok {
			continue
		}
		had[pi.Prefix.Masked()] = true
		if reason := m.prefixOption(l, r, pi); reason != "" {
			refused[reason]++
		}
	}
	for _, reason := range []wire.Reason{wire.BadValue, wire.BadPrefixLength, wire.PrefixLimit} {
		if n := refused[reason]; n > 0 {
			m.counts[string(reason)] += uint64(n - 1)
			m.ignored(l, f, reason, fmt.Sprintf("%d prefixes", n))
		}
	}
	m.missing(l, r, had)
	m.judgeHome(l)
}

// prefixOption takes one option. It gives the reason why it is not taken, or "".
func (m *Machine) prefixOption(l *link, r *router, pi *nd.PrefixInformation) wire.Reason {
	key := pi.Prefix.Masked()
	a := key.Addr()
	switch {
	case !pi.OnLink && !pi.Autonomous:
		return "" // says nothing (RFC 4861 6.3.4)
	case linkLocal.Contains(a) || a.IsMulticast() || a.IsUnspecified() || a.IsLoopback() || a.Is4In6():
		return wire.BadValue // RFC 4862 5.5.3 b
	case pi.Preferred > pi.Valid:
		return wire.BadValue // RFC 4862 5.5.3 c
	}
	p := l.findPrefix(key)
	if p == nil {
		if pi.Valid == 0 {
			return "" // RFC 4862 5.5.3 d
		}
		if p = m.newPrefix(l, key); p == nil {
			return wire.PrefixLimit
		}
		p.auto = pi.Autonomous
		p.valid, p.preferred = ends(m.now.Boot, pi.Valid), ends(m.now.Boot, pi.Preferred)
	} else if pi.Autonomous {
		m.lifetimes(p, pi)
	}
	if at := slices.IndexFunc(p.by, func(v via) bool { return v.r == r }); at >= 0 {
		p.by[at].missed = 0
	} else {
		p.by = append(p.by, via{r: r})
	}
	if pi.OnLink { // the L flag cancels what it said before; without it nothing is said (RFC 4861 6.3.4)
		p.onLink, p.linkUntil = pi.Valid > 0, ends(m.now.Boot, pi.Valid)
	}
	if !p.auto {
		if p.valid = p.linkUntil; !p.onLink {
			m.dropPrefix(l, p, "prefix lifetime 0")
		}
		m.found(l)
		return ""
	}
	if key.Bits() != 64 { // RFC 4862 5.5.3 d: with the 64 bits of an interface identifier it is no address
		return wire.BadPrefixLength
	}
	m.form(l, p)
	return ""
}

// lifetimes takes new ones for a known prefix (RFC 4862 5.5.3 e).
func (m *Machine) lifetimes(p *prefix, pi *nd.PrefixInformation) {
	valid, now := ends(m.now.Boot, pi.Valid), m.now.Boot
	if !p.auto {
		p.auto, p.valid = true, valid
	}
	switch {
	case valid == never || valid-now > twoHours || valid > p.valid:
		p.valid = valid
	case p.valid-now <= twoHours:
	default:
		p.valid = now + twoHours
	}
	p.preferred = min(ends(now, pi.Preferred), p.valid)
}

func (l *link) findPrefix(key netip.Prefix) *prefix {
	for _, p := range l.prefixes {
		if p.p == key {
			return p
		}
	}
	return nil
}

// newPrefix makes room for a prefix. One gives way that only routers advertise which never answered: a storm of forged
// advertisements must not keep the true one out.
func (m *Machine) newPrefix(l *link, key netip.Prefix) *prefix {
	if len(l.prefixes) >= MaxPrefixes {
		at := slices.IndexFunc(l.prefixes, func(p *prefix) bool {
			return !slices.ContainsFunc(p.by, func(v via) bool { return v.r.proven || v.r.state == fresh })
		})
		if at < 0 {
			return nil
		}
		m.dropPrefix(l, l.prefixes[at], "makes room for another prefix")
	}
	p := &prefix{p: key}
	l.prefixes = append(l.prefixes, p)
	return p
}

// dropPrefix forgets a prefix and the address formed with it.
func (m *Machine) dropPrefix(l *link, p *prefix, why string) {
	l.prefixes = slices.DeleteFunc(l.prefixes, func(o *prefix) bool { return o == p })
	for _, x := range slices.Clone(l.addrs) {
		if x.from == p {
			m.dropAddr(l, x, why)
		}
	}
	m.judgeHome(l)
}

// withdraw takes a router's word for all its prefixes back.
func (m *Machine) withdraw(l *link, r *router, why string) {
	for _, p := range slices.Clone(l.prefixes) {
		p.by = slices.DeleteFunc(p.by, func(v via) bool { return v.r == r })
		if len(p.by) == 0 {
			m.dropPrefix(l, p, why)
		}
	}
}

// missing looks for prefixes that a router advertised and now leaves out. That alone means nothing (RFC 4861 6.3.4: hosts
// accept the union; a long list may come in parts), but routers of several networks may share a link-local and a MAC
// address, and then this is how moving between them looks. So the router is solicited, and what it leaves out twice in a
// row, while it advertises others, it does not have.
func (m *Machine) missing(l *link, r *router, had map[netip.Prefix]bool) {
	if len(had) == 0 || len(had) > MaxPrefixes/2 {
		return
	}
	for _, p := range slices.Clone(l.prefixes) {
		at := slices.IndexFunc(p.by, func(v via) bool { return v.r == r })
		if at < 0 || had[p.p] {
			continue
		}
		if p.by[at].missed++; p.by[at].missed < 2 {
			m.solicit(l)
			continue
		}
		if p.by = slices.Delete(p.by, at, at+1); len(p.by) == 0 {
			m.dropPrefix(l, p, "its router advertises others")
		}
	}
}

// servePrefixes ends what has run out.
func (m *Machine) servePrefixes(l *link) {
	for _, p := range slices.Clone(l.prefixes) {
		if p.onLink && m.now.Boot >= p.linkUntil {
			p.onLink = false
			m.judgeHome(l)
		}
		if m.now.Boot >= p.valid {
			m.dropPrefix(l, p, "valid lifetime over")
		}
	}
}
