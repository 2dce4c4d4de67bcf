package anchor

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"kedge/internal/anchor/lma"
	"kedge/internal/binding"
	"kedge/internal/core"
	"kedge/internal/pool"
	"kedge/internal/subscriber"
	"kedge/wire"
	"kedge/wire/mobility"
)

// plan is the home addresses that a session shall have, and what was taken from pools for it.
type plan struct {
	homes  binding.Homes
	router netip.Addr
	// v4 is why the IPv4 part is refused while the rest is accepted (draft only).
	v4    *lma.Refusal
	taken []netip.Prefix
}

// reserveOwn keeps the anchor's own addresses, and the home networks around them, from being handed out.
func (m *Machine) reserveOwn() {
	for _, a := range m.cfg.Addresses {
		switch p := m.pools.Around(0, a); {
		case p == nil:
		case a.Is4():
			_ = p.Exclude(netip.PrefixFrom(a, 32)) // it lies inside
		default:
			_ = p.Settle(a, "")
		}
	}
}

// reserveStatic takes the static addresses of the profiles out of the pools. They must lie in one: only there are they
// routed to the anchor and have a default router.
func (m *Machine) reserveStatic() (err error) {
	m.subs.All(func(p *subscriber.Profile) {
		static := slices.Clone(p.HNP)
		if p.V4.IsValid() {
			static = append(static, netip.PrefixFrom(p.V4, 32))
		}
		for _, s := range static {
			around := m.pools.Around(p.Domain, s.Addr())
			if around == nil {
				err = fmt.Errorf("anchor: subscriber %q: %s is in no pool of its domain", p.ID, s)
				return
			}
			if e := around.Reserve(s, p.ID); e != nil {
				err = fmt.Errorf("anchor: subscriber %q: %s of pool %q (%s, in units of /%d): %w", p.ID, s, around.Name(), around.Range(), around.Delegate(), e)
				return
			}
		}
		for _, n := range slices.Concat(p.V4Pools, p.HNPPools) {
			if m.pools.ByName(n) == nil {
				err = fmt.Errorf("anchor: subscriber %q: there is no pool %q", p.ID, n)
				return
			}
		}
		if e := m.reserveHost(p); e != nil {
			err = fmt.Errorf("anchor: subscriber %q: %w", p.ID, e)
			return
		}
		if len(p.HNP) > binding.MaxPrefixes || p.HNPCount > binding.MaxPrefixes {
			err = fmt.Errorf("anchor: subscriber %q: a session has %d home network prefixes at most", p.ID, binding.MaxPrefixes)
		}
	})
	return err
}

// arrange decides the home addresses of a request: RFC 5213 5.3.2 (1) to (3), RFC 5844 3.1.2.2 to 3.1.2.4. have is what
// the session has, handoff that it moved to another gateway: then a family that is not asked for is released. On a
// refusal nothing is taken.
func (m *Machine) arrange(r *registration, have binding.Homes, handoff bool) (p plan, refusal *lma.Refusal) {
	switch {
	case r.HNPOptions == 0:
		if !handoff {
			p.homes.Prefixes = have.Prefixes
		}
	case len(have.Prefixes) > 0:
		p.homes.Prefixes = have.Prefixes
	case r.NonZero > 0:
		if refusal = m.takePrefixes(r, &p); refusal == nil && r.AllZero {
			refusal = m.allocatePrefixes(r, &p) // RFC 5213 5.3.2 (1): one ALL_ZERO option is enough
		}
	default:
		refusal = m.allocatePrefixes(r, &p)
	}
	if refusal == nil {
		refusal = m.arrangeV4(r, &p, have.V4, handoff)
	}
	if refusal != nil {
		m.putBack(r, p.taken)
		return plan{}, refusal
	}
	return p, nil
}

func (m *Machine) putBack(r *registration, taken []netip.Prefix) {
	m.giveBack(r.domain, r.Node, taken, false)
}

// take gets one unit for the registration and remembers it.
func (m *Machine) take(r *registration, p *plan, from *pool.Pool, unit netip.Prefix) error {
	if _, used := m.cache.ByHome(r.domain, unit); used {
		return pool.ErrTaken
	}
	if err := m.takeUnit(r.domain, from, unit, r.Node); err != nil {
		return err
	}
	p.taken = append(p.taken, unit)
	return nil
}

// takeUnit takes a unit for a proxy registration, which shares it when the host registration of the subscriber has it.
func (m *Machine) takeUnit(d core.Domain, from *pool.Pool, unit netip.Prefix, node string) error {
	err := from.Take(m.now, unit, node)
	if err != nil && (m.hostHas(d, unit, node) || m.stillEnds(d, unit, node, false)) {
		m.share(d, unit)
		return nil
	}
	return err
}

// takePrefixes takes the prefixes that the request names: static ones of the subscriber, or free ones of his pools.
func (m *Machine) takePrefixes(r *registration, p *plan) *lma.Refusal {
	deny := func(format string, args ...any) *lma.Refusal {
		return &lma.Refusal{Status: mobility.NotAuthorizedForHNP, Reason: wire.PrefixNotAuthorized, Detail: fmt.Sprintf(format, args...)}
	}
	if r.TooMany {
		return deny("more than %d prefixes", binding.MaxPrefixes)
	}
	for _, want := range r.Prefixes[:r.NonZero] {
		around := m.pools.Around(r.domain, want.Addr())
		switch {
		case around == nil:
			return deny("%s is not of this anchor", want)
		case !slices.Contains(r.profile.HNP, want) && !m.dynamicV6(r, around):
			return deny("%s is not the subscriber's", want)
		}
		if err := m.take(r, p, around, want); err != nil {
			return deny("%s: %v", want, err)
		}
		p.homes.Prefixes = append(p.homes.Prefixes, want)
	}
	return nil
}

// dynamicV6 says whether the subscriber may have prefixes of the pool that are not his own. Static prefixes are all he
// has, unless pools are named beside them.
func (m *Machine) dynamicV6(r *registration, p *pool.Pool) bool {
	names := r.profile.HNPPools
	return !p.Is4() && (len(names) == 0 && len(r.profile.HNP) == 0 || slices.Contains(names, p.Name()))
}

func (m *Machine) dynamicV4(s *subscriber.Profile, p *pool.Pool) bool {
	return p.Is4() && (len(s.V4Pools) == 0 && !s.V4.IsValid() || slices.Contains(s.V4Pools, p.Name()))
}

// allocatePrefixes gives the subscriber's static prefixes, or free ones when another session of his has them. Those that
// the request names are there already and count.
func (m *Machine) allocatePrefixes(r *registration, p *plan) *lma.Refusal {
	named := len(p.taken)
	static := without(r.profile.HNP, p.homes.Prefixes)
	for _, s := range static {
		if err := m.take(r, p, m.pools.Around(r.domain, s.Addr()), s); err != nil {
			m.putBack(r, p.taken[named:])
			p.taken, static = p.taken[:named], nil
			break
		}
	}
	count := len(static)
	if count == 0 {
		count = max(r.profile.Prefixes()-named, 1)
	}
	if named+count > binding.MaxPrefixes {
		return &lma.Refusal{Status: mobility.InsufficientResources, Reason: wire.PoolExhausted,
			Detail: fmt.Sprintf("a session has %d home network prefixes at most", binding.MaxPrefixes)}
	}
	if len(static) > 0 {
		p.homes.Prefixes = append(p.homes.Prefixes, static...)
		return nil
	}
	if f := m.held(); f != nil {
		return f
	}
	for range count {
		var got netip.Prefix
		m.pools.Choose(r.domain, r.profile.HNPPools, false, func(from *pool.Pool) bool {
			if m.dynamicV6(r, from) {
				got, _ = from.Allocate(m.now, from.Range(), r.Node)
			}
			return !got.IsValid()
		})
		if !got.IsValid() {
			return &lma.Refusal{Status: mobility.InsufficientResources, Reason: wire.PoolExhausted, Detail: "no home network prefix is left"}
		}
		p.taken = append(p.taken, got)
		p.homes.Prefixes = append(p.homes.Prefixes, got)
	}
	return nil
}

// held refuses dynamic allocation while former sessions of a lost store may still be alive.
func (m *Machine) held() *lma.Refusal {
	if !m.store.held || m.store.heldUntil <= m.now.Boot {
		return nil
	}
	return &lma.Refusal{Status: mobility.InsufficientResources, Reason: wire.StoreLost,
		Detail: fmt.Sprintf("the store was lost: nothing dynamic for another %s", (m.store.heldUntil - m.now.Boot).Round(1e9))}
}

// arrangeV4 decides the IPv4 home address.
func (m *Machine) arrangeV4(r *registration, p *plan, have netip.Prefix, handoff bool) *lma.Refusal {
	if !r.HasV4() {
		if have.IsValid() && !handoff {
			p.homes.V4 = have
		}
		return nil
	}
	f := m.chooseV4(r, p, have)
	if f != nil && r.Partial() && f.Status != mobility.InsufficientResources {
		p.v4 = f
		return nil
	}
	return f
}

func (m *Machine) chooseV4(r *registration, p *plan, have netip.Prefix) *lma.Refusal {
	if !m.entitled(r).V4 {
		return lma.RefuseV4(&r.Request, lma.V4Service, "no IPv4 service")
	}
	network, dynamic := r.V4Network()
	want, _ := r.V4Key()
	switch {
	case have.IsValid() && (dynamic && network.Contains(have.Addr()) || want == have.Addr()):
		p.homes.V4 = have
		return nil
	case dynamic:
		return m.allocateV4(r, p, network)
	}
	return m.takeV4(r, p, want)
}

// takeV4 takes the address that the request names.
func (m *Machine) takeV4(r *registration, p *plan, want netip.Addr) *lma.Refusal {
	if want.IsMulticast() || want.IsLoopback() || want == netip.AddrFrom4([4]byte{255, 255, 255, 255}) {
		return lma.RefuseV4(&r.Request, lma.V4Invalid, "%s is no unicast address", want)
	}
	around := m.pools.Around(r.domain, want)
	if around == nil {
		return lma.RefuseV4(&r.Request, lma.V4Foreign, "%s is not of this anchor", want)
	}
	switch {
	case !around.IsHost(want):
		return lma.RefuseV4(&r.Request, lma.V4Invalid, "%s is the network or broadcast address of %s", want, around.Range())
	case want != r.profile.V4 && !m.dynamicV4(r.profile, around):
		return lma.RefuseV4(&r.Request, lma.V4Prohibited, "%s is not the subscriber's", want)
	case m.otherInterfaceIn(r, around):
		return lma.RefuseV4(&r.Request, lma.V4Prohibited, "another interface is in %s", around.Range())
	}
	if err := m.take(r, p, around, netip.PrefixFrom(want, 32)); err != nil {
		return lma.RefuseV4(&r.Request, lma.V4Foreign, "%s: %v", want, err)
	}
	p.setV4(want, around)
	return nil
}

// allocateV4 gives the subscriber's static address, or a free one. Each interface of a mobile node is in another home
// network (document 001, section 3; notes B20).
func (m *Machine) allocateV4(r *registration, p *plan, network netip.Prefix) *lma.Refusal {
	if s := r.profile.V4; s.IsValid() && network.Contains(s) {
		around := m.pools.Around(r.domain, s)
		if !m.otherInterfaceIn(r, around) && m.take(r, p, around, netip.PrefixFrom(s, 32)) == nil {
			p.setV4(s, around)
			return nil
		}
	}
	if a, from := m.hostV4(r, network); from != nil && m.take(r, p, from, netip.PrefixFrom(a, 32)) == nil {
		p.setV4(a, from)
		return nil
	}
	if f := m.held(); f != nil {
		v4 := lma.RefuseV4(&r.Request, lma.V4Exhausted, "%s", f.Detail)
		v4.Reason = f.Reason
		return v4
	}
	why := "no pool"
	m.pools.Choose(r.domain, r.profile.V4Pools, true, func(from *pool.Pool) bool {
		if !m.dynamicV4(r.profile, from) {
			return true
		}
		if m.otherInterfaceIn(r, from) {
			why = fmt.Sprintf("another interface is in %s", from.Range())
			return true
		}
		got, err := from.Allocate(m.now, network, r.Node)
		if err != nil {
			if !errors.Is(err, pool.ErrOutside) {
				why = fmt.Sprintf("pool %s is exhausted", from.Name())
			}
			return true
		}
		p.taken = append(p.taken, got)
		p.setV4(got.Addr(), from)
		return false
	})
	if p.homes.V4.IsValid() {
		return nil
	}
	return lma.RefuseV4(&r.Request, lma.V4Exhausted, "no IPv4 home address is left: %s", why)
}

// hostV4 finds the IPv4 home address that the subscriber's host registration has: away or at home, it is his.
func (m *Machine) hostV4(r *registration, network netip.Prefix) (netip.Addr, *pool.Pool) {
	h := m.hosts.table.ByHome(r.domain, netip.PrefixFrom(r.profile.HoA.Addr(), 128))
	if !r.profile.HoA.IsValid() || h == nil {
		return netip.Addr{}, nil
	}
	for _, v := range h.V4 {
		from := m.pools.Around(r.domain, v.Prefix.Addr())
		if v.Prefix.IsSingleIP() && from != nil && network.Contains(v.Prefix.Addr()) && m.dynamicV4(r.profile, from) && !m.otherInterfaceIn(r, from) {
			return v.Prefix.Addr(), from
		}
	}
	return netip.Addr{}, nil
}

func (p *plan) setV4(a netip.Addr, from *pool.Pool) {
	p.homes.V4, p.router = netip.PrefixFrom(a, from.Range().Bits()), from.Router()
}

// otherInterfaceIn says whether another session of the mobile node has its IPv4 address in the pool's home network.
func (m *Machine) otherInterfaceIn(r *registration, p *pool.Pool) bool {
	for i := range m.cache.ByNode(r.Node) {
		e := m.cache.At(i)
		if v4, ok := e.V4(); ok && i != r.session && e.Domain == p.Domain() && p.Range().Contains(v4.Addr()) {
			return true
		}
	}
	return false
}

// giveBack returns home keys of a session to their pools, to rest as long as a deregistered session would.
func (m *Machine) giveBack(d core.Domain, node string, keys []netip.Prefix, rest bool) {
	for _, k := range keys {
		m.release(d, node, k, rest)
	}
}
