package anchor

import (
	"net/netip"
	"time"

	"kedge/internal/binding"
	"kedge/internal/core"
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
	on := e.State == binding.Active // else known and dropped silently, 5.3.5
	for _, k := range keys {
		ops = append(ops, core.SetKey{Match: core.Match{Domain: e.Domain, Dst: k}, ID: e.ID, Up: on, Down: on})
	}
	return ops
}

func dropKeys(d core.Domain, keys []netip.Prefix) []core.Op {
	var ops []core.Op
	for _, k := range keys {
		ops = append(ops, core.Drop{Match: core.Match{Domain: d, Dst: k}})
	}
	return ops
}

// routes makes the home prefixes reachable: the host routes them to the anchor's device (RFC 5213 5.6.2, RFC 5844 3.1.3),
// and routing daemons find them there.
func (m *Machine) routes() {
	var ops []core.HostOp
	for _, p := range m.pools.All() {
		if p.Domain() == 0 { // other domains have no table of the host
			ops = append(ops, core.HostOp{Kind: "route", Prefix: p.Range(), Name: m.cfg.Device})
		}
	}
	if len(ops) > 0 {
		m.effect(core.Change{Ops: ops, Ref: routesRef})
	}
}

// defend answers for home addresses on the home link, by proxy ARP and ND. A prefix of many addresses cannot be
// defended: neighbours need a route to it (RFC 5213 5.2).
func (m *Machine) defend(d core.Domain, keys []netip.Prefix, stop bool) {
	if m.cfg.HomeLink == "" || d != 0 {
		return
	}
	var ops []core.HostOp
	for _, k := range keys {
		if k.IsSingleIP() {
			ops = append(ops, core.HostOp{Kind: "proxy", Del: stop, Prefix: k, Name: m.cfg.HomeLink})
		}
	}
	if len(ops) > 0 {
		m.effect(core.Change{Ops: ops})
	}
}
