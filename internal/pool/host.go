package pool

import (
	"fmt"
	"net/netip"
	"time"

	"kedge/internal/core"
)

// Lease bounds the lifetime of what this pool allocates; 0 = it does not.
func (p *Pool) Lease() time.Duration { return p.cfg.Lease }

// Settle keeps the unit around a home address from being handed out: the home network of nodes that register by
// themselves, which may share it. A unit that is reserved for the owner anyway stays so. ErrOutside; ErrReserved when the
// unit is another's.
func (p *Pool) Settle(a netip.Addr, owner string) error {
	if !p.cfg.Prefix.Contains(a) {
		return ErrOutside
	}
	u := p.index(a)
	if s, ok := p.reserved[u]; ok && s.owner != owner && s.owner != "" {
		return ErrReserved
	} else if ok {
		return nil
	}
	if p.taken.set(u) {
		p.fixed++
		p.reserved[u] = static{}
	}
	return nil
}

// Exclude takes all units of a range out for good: a mobile network prefix that lies in the pool.
func (p *Pool) Exclude(r netip.Prefix) error {
	if p.cfg.Delegate-r.Bits() > maxReserveBits {
		return fmt.Errorf("%s is more than 2^%d units of pool %q; make the pool smaller instead", r, maxReserveBits, p.cfg.Name)
	}
	if !p.cfg.Prefix.Overlaps(r) || r.Bits() < p.cfg.Prefix.Bits() {
		return ErrOutside
	}
	p.exclude(r)
	return nil
}

// Reclaim is Take for a unit that is the owner's already: reserved for him, or his until he gave it back and nobody's since.
// ErrReserved, ErrTaken, ErrOutside; ErrFree for one that nobody has, and he had not.
func (p *Pool) Reclaim(now core.Now, unit netip.Prefix, owner string) error {
	p.expire(now)
	u, err := p.find(unit)
	if err != nil {
		return err
	}
	if _, ok := p.reserved[u]; ok {
		return p.Take(now, unit, owner)
	}
	if r, ok := p.resting[u]; ok && r.owner == owner && !r.used {
		return p.Take(now, unit, owner)
	}
	if f, ok := p.former.units[u]; ok && f.owner == owner {
		return p.Take(now, unit, owner)
	} else if ok || !p.taken.has(u) {
		return ErrFree
	}
	return ErrTaken
}
