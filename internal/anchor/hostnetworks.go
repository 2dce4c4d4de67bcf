package anchor

import (
	"fmt"
	"net/netip"
	"slices"

	"kedge/internal/anchor/homeagent"
	"kedge/internal/binding"
	"kedge/internal/core"
	"kedge/internal/subscriber"
	"kedge/wire"
	"kedge/wire/mobility"
)

// Mobile networks, RFC 3963 6. The profiles are the prefix table (6.1.2): a router registers prefixes of its own profile, each as
// it stands there, and no two profiles have overlapping ones.

// examineRouter is RFC 3963 6.2 for a request that is otherwise in order, and refuses a care-of address that lies where packets to it
// would come back from.
func (m *Machine) examineRouter(r *hostRequest) *homeagent.Refusal {
	deny := func(s mobility.Status, reason wire.Reason, format string, args ...any) *homeagent.Refusal {
		return &homeagent.Refusal{Status: s, Reason: reason, Detail: fmt.Sprintf(format, args...)}
	}
	switch {
	case r.Router() && !m.routers:
		return deny(mobility.MobileRouterNotPermitted, wire.MobileRouterRefused, "no subscriber has mobile networks")
	case r.have != nil && r.have.State == binding.Active && r.have.Router != r.Router():
		return deny(mobility.TypeChangeDisallowed, wire.TypeChange, "the binding is one of a mobile %s", map[bool]string{true: "router", false: "node"}[r.have.Router])
	case r.Router() && r.BadNetwork:
		return deny(mobility.InvalidPrefix, wire.BadPrefixLength, "a Mobile Network Prefix option holds no prefix")
	case r.Router() && !r.Explicit && len(r.profile.Networks) == 0:
		return deny(mobility.ForwardingSetupFailed, wire.NetworkRefused, "the subscriber has no mobile network")
	}
	for _, n := range r.Networks {
		if r.Router() && !slices.Contains(r.profile.Networks, n) {
			return deny(mobility.NotAuthorizedForPrefix, wire.NetworkRefused, "%s is not the subscriber's", n)
		}
	}
	var own []netip.Prefix
	if r.Router() && r.profile.Domain == 0 {
		own = r.profile.Networks
	}
	switch depth, loop := m.hosts.table.Nesting(r.Home, r.CareOf, own); {
	case loop:
		return deny(mobility.InvalidCareOf, wire.TunnelLoop, "%s lies in the mobile network of a router that is behind this one", r.CareOf)
	case depth > homeagent.MaxNested:
		return deny(mobility.InvalidCareOf, wire.EncapsulateDeep, "%s is behind more than %d mobile routers", r.CareOf, homeagent.MaxNested)
	}
	return nil
}

func is6(n netip.Prefix) bool { return n.Addr().Is6() }

// networksOf are the IPv6 mobile network prefixes that a request registers: those that it names, in implicit mode all of the
// profile's (RFC 3963 5.2, 6.2).
func (r *hostRequest) networksOf() []netip.Prefix {
	switch {
	case !r.Router():
		return nil
	case r.Explicit:
		return r.Networks
	}
	var all []netip.Prefix
	for _, n := range r.profile.Networks {
		if is6(n) {
			all = append(all, n)
		}
	}
	return all
}

// unforwardable is the status of a request whose forwarding the data plane refuses, RFC 3963 6.2.
func (r *hostRequest) unforwardable() mobility.Status {
	switch {
	case !r.Router():
		return mobility.ReasonUnspecified
	case r.Explicit:
		return mobility.InvalidPrefix
	}
	return mobility.ForwardingSetupFailed
}

// reserveNetworks checks mobile networks against what the anchor has itself, and keeps them out of pools.
func (m *Machine) reserveNetworks(p *subscriber.Profile) error {
	six := 0
	for _, n := range p.Networks {
		if is6(n) {
			six++
		}
		for _, a := range m.cfg.Addresses {
			if n.Contains(a) {
				return fmt.Errorf("mobile network prefix %s holds %s, an address of the anchor itself", n, a)
			}
		}
	}
	if six > homeagent.MaxNetworks {
		return fmt.Errorf("%d mobile network prefixes of IPv6: %d at most", six, homeagent.MaxNetworks)
	}
	m.routers = m.routers || len(p.Networks) > 0
	return nil
}

// networkRoute is the route to a mobile network whose router is away, or is not: into the data plane, or on a home link to where
// the router is when it is at home (RFC 3963 3 and 6.5). ok is false when there is no such place: then the data plane answers.
func (m *Machine) networkRoute(n netip.Prefix, p *subscriber.Profile, away bool) (op core.HostOp) {
	op = core.HostOp{Kind: "route", Prefix: n, Name: m.cfg.Device}
	via := p.HoA.Addr()
	if n.Addr().Is4() {
		via = p.V4
	}
	if !away && m.onHomeLink(p.Domain) && via.IsValid() && m.onLink(netip.PrefixFrom(via, via.BitLen())) {
		op.Name, op.Via = m.cfg.HomeLink, via
	}
	return op
}

// leadNetworks turns the routes to mobile networks of a registration into the tunnel, or back to the home link. Elsewhere than on a
// home link they always lead into the data plane.
func (m *Machine) leadNetworks(h *homeagent.Registration, keys []netip.Prefix, stop bool) {
	p, ok := m.subs.Home(h.Home)
	if !ok || !m.onHomeLink(h.Domain) {
		return
	}
	var ops []core.HostOp
	for _, k := range keys {
		if slices.Contains(p.Networks, k) && m.networkRoute(k, p, !stop) != m.networkRoute(k, p, stop) {
			ops = append(ops, m.networkRoute(k, p, !stop))
		}
	}
	if len(ops) > 0 {
		m.effect(core.Change{Ops: ops})
	}
}
