package homeagent

import (
	"net/netip"
	"slices"

	"kedge/internal/binding"
	"kedge/internal/core"
	"kedge/wire/mobility"
)

// Mobile routers, RFC 3963: a registration with the R flag has mobile network prefixes beside its home addresses. They are home
// keys like those, so they come and go with it. Which prefixes are whose is the profile's matter: the prefix table of RFC 3963
// 6.1.2.

// MaxNetworks limits the IPv6 mobile network prefixes of one registration, and of one profile.
const MaxNetworks = 32

// MaxNested is how many mobile routers a care-of address may lie behind, one behind the other: the default of the Tunnel
// Encapsulation Limit (RFC 2473 6.6).
const MaxNested = 4

// readNetworks reads the Mobile Network Prefix options, RFC 3963 6.2. One that can be no prefix makes the request invalid as a
// whole, but it has its answer: that is told by BadNetwork.
func (r *Request) readNetworks(o mobility.Options) {
	for opt := range o.All() {
		if opt.Type != mobility.OptMobileNetworkPrefix {
			continue
		}
		r.Explicit = true
		n := netip.Prefix{}
		if len(opt.Data) == 18 {
			n = netip.PrefixFrom(netip.AddrFrom16([16]byte(opt.Data[2:])), int(opt.Data[1]))
		}
		switch n = n.Masked(); {
		case !core.IsNetwork(n) || !n.Addr().Is6():
			r.BadNetwork = true
		case !slices.Contains(r.Networks, n):
			r.Networks = append(r.Networks, n)
		}
	}
}

// Around finds the active registration of domain d that has a mobile network around an address, the longest prefix first; nil:
// there is none.
func (t *Table) Around(d core.Domain, a netip.Addr) *Registration {
	for bits := a.BitLen() - 1; bits > 0; bits-- {
		if t.lengths[length{a.Is4(), bits}] == 0 {
			continue
		}
		k, _ := a.Prefix(bits)
		if h := t.byHome[key{d, k}]; h != nil && h.State == binding.Active {
			return h
		}
	}
	return nil
}

// Nesting follows a care-of address of home through the mobile networks that it lies in: how many there are, and whether they lead
// back to home, or to own, the networks that it may have itself: they are no registration's while it is not bound. Its packets would
// then circle. It counts no further than one more than MaxNested. Tunnels run in domain 0, so the networks of others hold no care-of
// address.
func (t *Table) Nesting(home, careOf netip.Addr, own []netip.Prefix) (depth int, loop bool) {
	for ; depth <= MaxNested; depth++ {
		if slices.ContainsFunc(own, func(n netip.Prefix) bool { return n.Contains(careOf) }) {
			return depth, true
		}
		h := t.Around(0, careOf)
		switch {
		case h == nil:
			return depth, false
		case h.Home == home:
			return depth, true
		}
		careOf = h.CareOf
	}
	return depth, false
}

// length is one of prefixes, of either family.
type length struct {
	is4  bool
	bits int
}

// countLength keeps which lengths are in use, so that Around need not try all.
func (t *Table) countLength(k netip.Prefix, by int) {
	if !k.IsSingleIP() {
		t.lengths[length{k.Addr().Is4(), k.Bits()}] += by
	}
}
