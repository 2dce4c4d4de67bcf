package anchor

import (
	"cmp"
	"net/netip"
	"slices"
	"time"

	"kedge/internal/binding"
	"kedge/internal/core"
	"kedge/internal/subscriber"
)

// forwarding gives the operations that make the data plane forward a session as it is now: the tunnel to its Proxy-CoA
// (RFC 5213 5.6.1) and its routes (5.3.2 (6), RFC 5844 3.1.2.2). They may be repeated.
func (m *Machine) forwarding(i binding.Index, grace time.Duration) []core.Op {
	e := m.cache.At(i)
	keys := m.cache.Homes(i).Keys()
	ops := make([]core.Op, 0, 1+len(keys))
	set := core.SetSession{ID: e.ID, Domain: e.Domain, Grace: grace}
	set.Chain.N = 1
	set.Chain.Layer[0] = core.Layer{Local: netip.AddrPortFrom(addr(e.Anchor), 0), Remote: netip.AddrPortFrom(addr(e.CareOf), 0)}
	ops = append(ops, set)
	for _, k := range keys {
		ops = append(ops, m.proxyKey(i, k))
	}
	return ops
}

// proxyKey says what a home key of a session does: it forwards, or is known and dropped silently (RFC 5213 5.3.5). While the
// subscriber's host registration has the same key, that one is delivered to (RFC 6612 4.2.1); uplink is taken from both.
func (m *Machine) proxyKey(i binding.Index, k netip.Prefix) core.SetKey {
	e := m.cache.At(i)
	on := e.State == binding.Active
	h := m.hosts.table.ByHome(e.Domain, k)
	shadow := h != nil && h.State == binding.Active
	return core.SetKey{Match: core.Match{Domain: e.Domain, Dst: k}, ID: e.ID, Up: on, Down: on && !shadow}
}

// dropKeys takes keys of a session out. That takes out those of the host registration too, which are said again.
func (m *Machine) dropKeys(d core.Domain, keys []netip.Prefix) []core.Op {
	var ops []core.Op
	for _, k := range keys {
		ops = append(ops, core.Drop{Match: core.Match{Domain: d, Dst: k}})
		if h := m.hosts.table.ByHome(d, k); h != nil {
			ops = append(ops, h.Ops(m.cfg.Timers.UplinkGrace, !m.onHomeLink(d))...)
		}
	}
	return ops
}

// routes makes the home prefixes reachable: the host routes them to the anchor's device (RFC 5213 5.6.2, RFC 5844 3.1.3),
// and routing daemons find them there.
func (m *Machine) routes() {
	var ops []core.HostOp
	for _, p := range m.pools.All() {
		if p.Domain() == 0 && !m.onLink(p.Range()) { // other domains have no table of the host
			ops = append(ops, core.HostOp{Kind: "route", Prefix: p.Range(), Name: m.cfg.Device})
		}
	}
	pools := len(ops)
	m.subs.All(func(s *subscriber.Profile) {
		for _, n := range s.Networks {
			if s.Domain == 0 && m.cfg.DSMIP6.On {
				ops = append(ops, m.networkRoute(n, s, m.stillServed(s.Domain, n)))
			}
		}
	})
	slices.SortFunc(ops[pools:], func(a, b core.HostOp) int {
		return cmp.Or(a.Prefix.Addr().Compare(b.Prefix.Addr()), cmp.Compare(a.Prefix.Bits(), b.Prefix.Bits()))
	})
	if len(ops) > 0 {
		m.effect(core.Change{Ops: ops, Ref: routesRef})
	}
}

// defend answers for home addresses on the home link, by proxy ARP and ND. A prefix of many addresses cannot be
// defended: neighbours need a route to it (RFC 5213 5.2).
func (m *Machine) defend(d core.Domain, keys []netip.Prefix, stop bool) {
	if !m.onHomeLink(d) {
		return
	}
	var ops []core.HostOp
	for _, k := range keys {
		if !k.IsSingleIP() || stop && m.stillServed(d, k) {
			continue
		}
		// On the link itself, the address of a node that is away must lead to the device: the kernel answers for nothing else.
		if !k.Addr().IsLinkLocalUnicast() && m.onLink(k) {
			ops = append(ops, core.HostOp{Kind: "route", Del: stop, Prefix: k, Name: m.cfg.Device})
		}
		proxy := core.HostOp{Kind: "proxy", Del: stop, Prefix: k, Name: m.cfg.HomeLink}
		h := m.hosts.table.ByHome(d, k)
		router := h != nil && h.Router && k.Addr().Is6()
		if router && !stop {
			proxy.Value = "router"
		}
		ops = append(ops, proxy)
		switch {
		case m.hosts.link == nil:
		case stop:
			m.hosts.link.Yield(k.Addr())
		default:
			m.hosts.link.Defend(m.now, k.Addr(), router)
		}
	}
	if len(ops) > 0 {
		m.effect(core.Change{Ops: ops})
	}
	if m.hosts.link != nil {
		m.transmit()
	}
}

// stillServed says whether a registration, of either kind, forwards to an address.
func (m *Machine) stillServed(d core.Domain, k netip.Prefix) bool {
	if h := m.hosts.table.ByHome(d, k); h != nil && h.State == binding.Active {
		return true
	}
	i, ok := m.cache.ByHome(d, k)
	return ok && m.cache.At(i).State == binding.Active
}

// onLink says whether all of a prefix is on-link on the home link: the kernel has a route to there that no other is to take the
// place of.
func (m *Machine) onLink(p netip.Prefix) bool {
	return slices.ContainsFunc(m.cfg.HomePort.Prefixes, func(o netip.Prefix) bool { return o.Bits() <= p.Bits() && o.Contains(p.Addr()) })
}
