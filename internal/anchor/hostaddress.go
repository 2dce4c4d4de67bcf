package anchor

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"kedge/internal/anchor/homeagent"
	"kedge/internal/binding"
	"kedge/internal/core"
	"kedge/internal/pool"
	"kedge/internal/subscriber"
	"kedge/wire"
	"kedge/wire/mobility"
)

// hostPlan is the IPv4 home addresses that a registration shall have, the answers to what asked for them, and what was taken
// from pools for it.
type hostPlan struct {
	v4    []homeagent.V4Home
	acks  []mobility.IPv4AddressAck
	taken []netip.Prefix
	lease time.Duration // the shortest of those that bind; 0 = none does
}

// arrangeHost decides the IPv4 home address options of a request one by one, RFC 5555 4.5. What fails is told in its own
// acknowledgement and leaves the rest alone.
func (m *Machine) arrangeHost(r *hostRequest) (p hostPlan) {
	var have []homeagent.V4Home
	if r.have != nil {
		have = r.have.V4
	}
	for _, ask := range r.V4 {
		got, f := m.arrangeHostV4(r, &p, have, ask)
		if f != nil {
			m.refused[f.Reason]++
			m.emit(core.Emit{Name: "refused", Why: string(f.Reason), Fields: Fields{
				Sub: r.profile.ID, Peer: r.peer.Name, HoA: r.Home, Seq: r.Sequence, Status: uint8(f.Status), Reason: string(f.Reason), Detail: "IPv4 home address: " + f.Detail}})
			m.past.add(past{when: m.now.Wall, sub: r.profile.ID, what: "ipv4", status: uint8(f.Status), reason: f.Reason, host: true, seq: r.Sequence, detail: f.Detail})
		} else if !slices.ContainsFunc(p.v4, func(v homeagent.V4Home) bool { return v.Prefix == got.Prefix }) {
			p.v4 = append(p.v4, got)
		}
		p.acks = append(p.acks, homeagent.V4Ack(ask, got.Prefix, f))
	}
	for _, v := range p.v4 {
		if !v.Dynamic {
			continue
		}
		if from := m.pools.Around(r.profile.Domain, v.Prefix.Addr()); from != nil && from.Lease() > 0 && (p.lease == 0 || from.Lease() < p.lease) {
			p.lease = from.Lease()
		}
	}
	return p
}

func (m *Machine) arrangeHostV4(r *hostRequest, p *hostPlan, have []homeagent.V4Home, ask mobility.IPv4HomeAddress) (homeagent.V4Home, *homeagent.V4Refusal) {
	none := homeagent.V4Home{}
	if m.cfg.DSMIP6.NoIPv4 || !r.profile.Has(subscriber.V4) {
		return none, homeagent.RefuseV4(mobility.AddressProhibited, wire.IPv4Disabled, "no IPv4 service")
	}
	want, prefix, f := homeagent.V4Ask(ask)
	if f != nil {
		return none, f
	}
	// Flag P "must be ignored for binding refreshes": what is bound is meant, whatever it is.
	if n := slices.IndexFunc(have, func(v homeagent.V4Home) bool { return v.Prefix == prefix }); n >= 0 && want == homeagent.ThisNetwork && prefix.IsSingleIP() {
		want = homeagent.ThisAddress
	}
	if len(p.v4) >= homeagent.MaxV4 {
		return none, homeagent.RefuseV4(mobility.AddressReasonUnspecified, wire.TooManyOptions, "more than %d", homeagent.MaxV4)
	}
	switch want {
	case homeagent.ThisNetwork:
		if slices.Contains(r.profile.Networks, prefix) {
			return homeagent.V4Home{Prefix: prefix}, nil
		}
		return none, homeagent.RefuseV4(mobility.AddressPrefixAllocNotAllowed, wire.NetworkRefused, "%s is not the subscriber's", prefix)
	case homeagent.AnyNetwork:
		return m.anyNetwork(r, p, prefix.Bits())
	case homeagent.AnyAddress:
		return m.anyAddress(r, p, have)
	}
	return m.thisAddress(r, p, have, prefix)
}

// anyNetwork gives a mobile network prefix of the profile that the request has none of yet: of the length that was asked for,
// else of another one, which the answer tells (RFC 5555 3.2.1). There are no pools of prefixes.
func (m *Machine) anyNetwork(r *hostRequest, p *hostPlan, bits int) (got homeagent.V4Home, f *homeagent.V4Refusal) {
	for _, n := range r.profile.Networks {
		if !n.Addr().Is4() || slices.Contains(p.v4, homeagent.V4Home{Prefix: n}) {
			continue
		}
		if n.Bits() == bits {
			return homeagent.V4Home{Prefix: n}, nil
		}
		if !got.Prefix.IsValid() {
			got.Prefix = n
		}
	}
	if !got.Prefix.IsValid() {
		return got, homeagent.RefuseV4(mobility.AddressPrefixAllocNotAllowed, wire.NetworkRefused, "no prefix of length %d for the subscriber", bits)
	}
	return got, nil
}

// thisAddress binds an address that the request names: it must be the subscriber's.
func (m *Machine) thisAddress(r *hostRequest, p *hostPlan, have []homeagent.V4Home, k netip.Prefix) (homeagent.V4Home, *homeagent.V4Refusal) {
	if n := slices.IndexFunc(have, func(v homeagent.V4Home) bool { return v.Prefix == k }); n >= 0 {
		return have[n], nil
	}
	if slices.Contains(p.taken, k) {
		return p.v4[slices.IndexFunc(p.v4, func(v homeagent.V4Home) bool { return v.Prefix == k })], nil
	}
	around := m.pools.Around(r.profile.Domain, k.Addr())
	if around == nil {
		return homeagent.V4Home{}, homeagent.RefuseV4(mobility.AddressIncorrect, wire.IPv4NotAuthorized, "%s is not of this anchor", k.Addr())
	}
	if !around.IsHost(k.Addr()) {
		return homeagent.V4Home{}, homeagent.RefuseV4(mobility.AddressInvalid, wire.NotUnicast, "%s is the network or broadcast address of %s", k.Addr(), around.Range())
	}
	got := homeagent.V4Home{Prefix: k, Dynamic: k.Addr() != r.profile.V4}
	if err := m.takeHost(r, p, around, k); err != nil {
		return homeagent.V4Home{}, homeagent.RefuseV4(mobility.AddressIncorrect, wire.IPv4NotAuthorized, "%s is not the subscriber's: %s", k.Addr(), whyNot(err))
	}
	return got, nil
}

// whyNot says for people why an address cannot be had by its name.
func whyNot(err error) string {
	switch {
	case errors.Is(err, pool.ErrTaken):
		return "another has it, or has just given it back"
	case errors.Is(err, pool.ErrReserved):
		return "it is kept for another, or for nobody"
	case errors.Is(err, pool.ErrFree):
		return "it is free, but was not his; who asks for any address gets one"
	}
	return err.Error()
}

// takeHost takes an address that is the subscriber's already: static, shared with his proxy registration, or nobody's since
// he had it.
func (m *Machine) takeHost(r *hostRequest, p *hostPlan, from *pool.Pool, k netip.Prefix) error {
	if err := from.Reclaim(m.now, k, r.profile.ID); err != nil {
		if !m.proxyHas(r.profile.Domain, k, r.profile.ID) && !m.stillEnds(r.profile.Domain, k, r.profile.ID, true) {
			return err
		}
		m.share(r.profile.Domain, k)
	}
	p.taken = append(p.taken, k)
	return nil
}

// anyAddress gives the address that the registration has, the static one, the one of the subscriber's proxy registration,
// or a free one.
func (m *Machine) anyAddress(r *hostRequest, p *hostPlan, have []homeagent.V4Home) (homeagent.V4Home, *homeagent.V4Refusal) {
	fresh := func(k netip.Prefix) bool {
		return k.Bits() == 32 && !slices.ContainsFunc(p.v4, func(v homeagent.V4Home) bool { return v.Prefix == k })
	}
	for _, v := range have {
		if fresh(v.Prefix) {
			return v, nil
		}
	}
	domain := r.profile.Domain
	if a := r.profile.V4; a.IsValid() && fresh(netip.PrefixFrom(a, 32)) {
		if k := netip.PrefixFrom(a, 32); m.takeHost(r, p, m.pools.Around(domain, a), k) == nil {
			return homeagent.V4Home{Prefix: k}, nil
		}
	}
	for i := range m.cache.ByNode(r.profile.ID) {
		e := m.cache.At(i)
		v4, ok := e.V4()
		if !ok || e.Domain != domain || e.State != binding.Active {
			continue
		}
		if k := netip.PrefixFrom(v4.Addr(), 32); fresh(k) && m.hosts.table.ByHome(domain, k) == nil {
			m.share(domain, k)
			p.taken = append(p.taken, k)
			return homeagent.V4Home{Prefix: k, Dynamic: true}, nil
		}
	}
	if n := dynamic(p.v4); n >= maxDynamic {
		return homeagent.V4Home{}, homeagent.RefuseV4(mobility.DynamicAddressNotAvailable, wire.PoolExhausted, "the registration has %d dynamic addresses", n)
	}
	if f := m.held(); f != nil {
		return homeagent.V4Home{}, homeagent.RefuseV4(mobility.DynamicAddressNotAvailable, f.Reason, "%s", f.Detail)
	}
	why := "no pool"
	var got netip.Prefix
	m.pools.Choose(domain, r.profile.V4Pools, true, func(from *pool.Pool) bool {
		if !m.dynamicV4(r.profile, from) {
			return true
		}
		var err error
		if got, err = from.Allocate(m.now, from.Range(), r.profile.ID); err != nil {
			why = fmt.Sprintf("pool %s is exhausted", from.Name())
		}
		return err != nil
	})
	if !got.IsValid() {
		return homeagent.V4Home{}, homeagent.RefuseV4(mobility.DynamicAddressNotAvailable, wire.PoolExhausted, "%s", why)
	}
	p.taken = append(p.taken, got)
	return homeagent.V4Home{Prefix: got, Dynamic: true}, nil
}

// maxDynamic limits the addresses that one registration takes out of pools.
const maxDynamic = 4

func dynamic(list []homeagent.V4Home) (n int) {
	for _, v := range list {
		if v.Dynamic {
			n++
		}
	}
	return n
}

// A host and a proxy registration of one subscriber may have the same IPv4 home address, and so may one that ends and the one
// that follows it. Its pool sees one owner until all have let go of it.

type homeKey struct {
	domain core.Domain
	prefix netip.Prefix
}

// share notes that one more registration has the address now.
func (m *Machine) share(d core.Domain, k netip.Prefix) { m.shared[homeKey{d, k}]++ }

// release gives an address back to its pool, unless another registration still has it. rest: nobody else gets it for as long
// as a deregistered session waits.
func (m *Machine) release(d core.Domain, node string, k netip.Prefix, rest bool) {
	if at := (homeKey{d, k}); m.shared[at] > 0 {
		if m.shared[at]--; m.shared[at] == 0 {
			delete(m.shared, at)
		}
		return
	}
	p := m.pools.Around(d, k.Addr())
	switch {
	case p == nil:
	case rest:
		p.Release(m.now, k, node, m.cfg.Timers.MinDelayBeforeBCEDelete)
	default:
		p.Release(m.now, k, node, 0)
	}
}

// stillEnds says whether a registration of the subscriber that is over has an address until the store has forgotten it.
// either: a host or a proxy registration; else a host registration only, because records of two proxy registrations with one
// address cannot both come back.
func (m *Machine) stillEnds(d core.Domain, k netip.Prefix, node string, either bool) bool {
	has := func(e ending) bool {
		return e.domain == d && e.node == node && (either || e.host) && slices.Contains(e.keys, k)
	}
	for _, e := range m.flights.endings {
		if has(e) {
			return true
		}
	}
	return slices.ContainsFunc(m.flights.again, has)
}

// proxyHas says whether a proxy registration of the subscriber has the address, hostHas the same of his host registration.
func (m *Machine) proxyHas(d core.Domain, k netip.Prefix, node string) bool {
	i, ok := m.cache.ByHome(d, k)
	return ok && m.cache.IsNode(i, node)
}

func (m *Machine) hostHas(d core.Domain, k netip.Prefix, node string) bool {
	h := m.hosts.table.ByHome(d, k)
	return h != nil && h.Node == node
}

// releaseHost gives back what a registration had: mobile networks come from no pool.
func (m *Machine) releaseHost(d core.Domain, node string, keys []netip.Prefix, rest bool) {
	for _, k := range keys {
		if k.Addr().Is4() && k.Bits() == 32 && !m.isNetwork(node, k) {
			m.release(d, node, k, rest)
		}
	}
}

// isNetwork says whether a key is a mobile network prefix of the subscriber.
func (m *Machine) isNetwork(node string, k netip.Prefix) bool {
	p, _, ok := m.subs.Find(node)
	return ok && slices.Contains(p.Networks, k)
}
