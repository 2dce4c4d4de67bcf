package subscriber

import (
	"cmp"
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"kedge/internal/core"
)

// checkHost says what is wrong with what concerns host-based mobility.
func (p *Profile) checkHost() error {
	if !p.HoA.IsValid() {
		if p.Peer != "" || len(p.Networks) > 0 {
			return errors.New("peer and networks are for a node that registers by itself: it needs a hoa")
		}
		return nil
	}
	a := p.HoA.Addr()
	switch {
	case !a.Is6() || a.Is4In6() || !a.IsGlobalUnicast() || a.Zone() != "":
		return fmt.Errorf("hoa %s is no global IPv6 unicast address", a)
	case p.HoA.Bits() == 0:
		return fmt.Errorf("hoa %s needs the length of its home prefix, as in %s/64", a, a)
	case p.Peer == "":
		return fmt.Errorf("hoa %s has no peer that may speak for it", a)
	}
	for _, n := range p.Networks {
		if !core.IsNetwork(n) {
			return fmt.Errorf("%s is no mobile network prefix", n)
		}
		if n.Contains(a) || p.V4.IsValid() && n.Contains(p.V4) {
			return fmt.Errorf("mobile network prefix %s holds a home address of its own router", n)
		}
	}
	return nil
}

// overlaps refuses addresses and prefixes of one subscriber inside those of another.
func overlaps(list []Profile) error {
	type claim struct {
		domain core.Domain
		prefix netip.Prefix
		id     string
	}
	var all []claim
	for i := range list {
		p := &list[i]
		add := func(n netip.Prefix) { all = append(all, claim{p.Domain, n, p.ID}) }
		if p.V4.IsValid() {
			add(netip.PrefixFrom(p.V4, 32))
		}
		if p.HoA.IsValid() {
			add(netip.PrefixFrom(p.HoA.Addr(), 128))
		}
		for _, n := range slices.Concat(p.HNP, p.Networks) {
			add(n)
		}
	}
	// Behind a prefix come all that lie inside it.
	slices.SortFunc(all, func(a, b claim) int {
		return cmp.Or(cmp.Compare(a.domain, b.domain), a.prefix.Addr().Compare(b.prefix.Addr()), cmp.Compare(a.prefix.Bits(), b.prefix.Bits()))
	})
	var around []claim
	for _, c := range all {
		for n := len(around); n > 0 && (around[n-1].domain != c.domain || !around[n-1].prefix.Contains(c.prefix.Addr())); n-- {
			around = around[:n-1]
		}
		for _, o := range around {
			if o.id != c.id {
				return fmt.Errorf("subscriber %q: %s lies in %s of %q", c.id, c.prefix, o.prefix, o.id)
			}
		}
		around = append(around, c)
	}
	return nil
}
