package movement

import (
	"net/netip"
	"slices"

	"kedge/internal/core"
)

// hostChanged takes news of the host.
func (m *Machine) hostChanged(c *core.HostChanged) {
	switch c.Op.Kind {
	case "link":
		m.linkChanged(c)
	case "address":
		m.addressChanged(c)
	case "route":
		m.routeChanged(c)
	}
}

// addressChanged takes an address that the kernel got, changed or lost.
func (m *Machine) addressChanged(c *core.HostChanged) {
	l := m.links[c.Op.If]
	if l == nil {
		if c.Gone {
			return
		}
		l = m.newLink(c.Op.If) // told before its link: the index is enough
	}
	a := c.Op.Prefix.Addr()
	at := slices.IndexFunc(l.held, func(h held) bool { return h.p.Addr() == a })
	x := l.formed(a)
	if c.Gone {
		if at >= 0 {
			l.held = slices.Delete(l.held, at, at+1)
		}
		if x != nil && x.state != duplicate {
			m.setState(x, planned, "the kernel lost it")
			x.dadEnds = never // the host puts it back (core.Keeper)
		}
		m.found(l)
		m.others(l)
		return
	}
	h := readHeld(c)
	if at >= 0 {
		l.held[at] = h
	} else {
		l.held = append(l.held, h)
	}
	if x != nil {
		m.kernelSays(x, h)
	}
	if l.pat != nil && a.Is6() && a.IsLinkLocalUnicast() && !h.tentative {
		m.canAsk(l)
	}
	m.found(l)
}

// canAsk asks what had to wait for a link-local address.
func (m *Machine) canAsk(l *link) {
	for _, r := range l.routers {
		if r.next != never && r.sent == 0 && !r.is4() {
			r.next = m.now.Boot
		}
	}
}

// routeChanged takes default routes of the main table that others set. Ours the host puts back if they go (core.Keeper).
func (m *Machine) routeChanged(c *core.HostChanged) {
	op := &c.Op
	l := m.links[op.If]
	if l == nil || op.Prefix.Bits() != 0 || op.Value != "" || op.Table != 0 && op.Table != mainTable {
		return
	}
	d := defRoute{v4: op.Prefix.Addr().Is4(), via: op.Via, metric: op.Metric}
	at := slices.IndexFunc(l.defs, func(o defRoute) bool { return o.v4 == d.v4 && o.via == d.via })
	switch {
	case c.Gone && at >= 0:
		l.defs = slices.Delete(l.defs, at, at+1)
	case c.Gone:
	case at >= 0:
		l.defs[at] = d
	case len(l.defs) < 2*MaxIPv4:
		l.defs = append(l.defs, d)
	}
	m.found(l)
}

// mainTable is RT_TABLE_MAIN.
const mainTable = 254

// usable4 says whether an IPv4 address can be a care-of address: not link-local (RFC 3927), not of this host alone.
func usable4(a netip.Addr) bool {
	return a.Is4() && a.IsGlobalUnicast() && a.As4()[0] != 0 && a.As4()[0] < 240
}

// candidate is a found address that should be there.
type candidate struct {
	held
	from *prefix
	via  netip.Addr
	def  bool
}

// found compares the addresses of the host's own configuration with those that are known: what DHCP, an administrator or a
// modem's driver has set, with the default route that came with it.
func (m *Machine) found(l *link) {
	if l.pat == nil {
		return
	}
	var want []candidate
	if l.pat.V4 {
		want = m.candidates4(l, want)
	}
	if l.pat.V6 {
		want = m.candidates6(l, want)
	}
	for _, x := range slices.Clone(l.addrs) {
		if !x.formed && !slices.ContainsFunc(want, func(c candidate) bool { return c.p.Addr() == x.a && c.from == x.from }) {
			m.dropAddr(l, x, "not configured any more")
		}
	}
	for _, c := range want {
		m.take(l, c)
	}
	// Gateways that no default route names any more.
	for _, r := range slices.Clone(l.routers) {
		if !r.advertised && !slices.ContainsFunc(l.defs, func(d defRoute) bool { return d.via == r.addr }) {
			m.dropRouter(r, "no default route names it any more")
		}
	}
}

// take brings one candidate in, or up to date.
func (m *Machine) take(l *link, c candidate) {
	at := slices.IndexFunc(l.addrs, func(x *addr) bool { return !x.formed && x.a == c.p.Addr() })
	var x *addr
	if at >= 0 {
		x = l.addrs[at]
	} else {
		x = &addr{l: l, a: c.p.Addr(), from: c.from, state: planned}
		if !m.addAddr(x) {
			return
		}
	}
	x.p = c.p.Masked()
	switch {
	case c.from != nil:
		x.p = c.from.p
	case c.via.IsValid():
		r := l.findRouter(c.via)
		if r == nil {
			r = m.learned(l, c.via, core.MAC{})
		}
		x.router, x.direct = r, false
	default:
		x.router, x.direct = nil, true
	}
	switch {
	case c.optimistic:
		m.setState(x, optimistic, "the kernel tests it")
	default:
		m.setState(x, usable, "configured by the host")
	}
}

// candidates4 gives each IPv4 default route of the link its address: one in whose network the gateway is, or any; of equals
// the one that has been there longest.
func (m *Machine) candidates4(l *link, want []candidate) []candidate {
	defs := slices.Clone(l.defs)
	slices.SortStableFunc(defs, func(a, b defRoute) int { return a.metric - b.metric })
	for _, d := range defs {
		if !d.v4 || d.via.IsValid() && !d.via.Is4() {
			continue
		}
		best, rank := held{}, 0
		for _, h := range l.held {
			a := h.p.Addr()
			if !usable4(a) || m.isHome(a) || m.elsewhere(l, a) || slices.ContainsFunc(want, func(c candidate) bool { return c.p.Addr() == a }) {
				continue
			}
			r := 1
			if d.via.IsValid() && h.p.Contains(d.via) {
				r = 2
			}
			if r > rank {
				best, rank = h, r
			}
		}
		if rank > 0 && len(want) < MaxIPv4 {
			want = append(want, candidate{held: best, via: d.via, def: true})
		}
	}
	return want
}

// candidates6 gives the IPv6 addresses that the host has by itself: in a prefix that is advertised as on-link but not for
// autoconfiguration (DHCPv6, or by hand); with a static default route, on a link without frames at once, on others when no
// router advertises; never one in a prefix from which we form our own.
func (m *Machine) candidates6(l *link, want []candidate) []candidate {
	n := 0
	for _, x := range l.addrs {
		if x.formed {
			n++
		}
	}
	static := slices.IndexFunc(l.defs, func(d defRoute) bool { return !d.v4 && (!d.via.IsValid() || d.via.Is6()) })
	silent := !l.hasFrames() || l.sol.tries >= silentTries && !l.hasRouter6()
	for _, h := range l.held {
		a := h.p.Addr()
		if n >= MaxAddresses || !a.Is6() || !a.IsGlobalUnicast() || h.tentative || h.failed || m.isHome(a) || m.elsewhere(l, a) || l.formed(a) != nil {
			continue
		}
		var in *prefix
		auto := false
		for _, p := range l.prefixes {
			if p.p.Contains(a) {
				auto = auto || p.auto && p.p.Bits() == 64
				if p.onLink && !p.auto && len(p.by) > 0 {
					in = p
				}
			}
		}
		switch {
		case auto:
			continue
		case in != nil:
			want = append(want, candidate{held: h, from: in})
		case static >= 0 && silent:
			want = append(want, candidate{held: h, via: l.defs[static].via, def: true})
		default:
			continue
		}
		n++
	}
	return want
}

// isHome says whether an address is one of the node's own home addresses.
func (m *Machine) isHome(a netip.Addr) bool { return slices.Contains(m.cfg.Home, a) }

// elsewhere says whether another link has the address already: behind two NATs that happens, and a rule by source cannot
// tell them apart. A link that is down has no claim, and gives the address up.
func (m *Machine) elsewhere(l *link, a netip.Addr) bool {
	for _, ifi := range m.order {
		o := m.links[ifi]
		at := slices.IndexFunc(o.addrs, func(x *addr) bool { return x.a == a })
		switch {
		case o == l || at < 0:
		case o.carrier || !l.carrier:
			return true
		default:
			m.dropAddr(o, o.addrs[at], "another link has it now")
		}
	}
	return false
}

// others looks at the links but l again: what it had may be theirs now.
func (m *Machine) others(l *link) {
	for _, ifi := range m.order {
		if o := m.links[ifi]; o != l && o.carrier {
			m.found(o)
		}
	}
}
