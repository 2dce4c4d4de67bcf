package pool

import (
	"net/netip"
	"slices"
)

// What is free is still remembered by who had it last: a subscriber that comes back after hours gets his former unit, not one that
// another one's name servers, filters and sessions still know. Others get units that nobody is remembered for, and when there are
// none, the one that has been free for longest.

// Limits of what is remembered of one pool; 65,536 units and their owners' names take some 10 MB.
const (
	maxFormer = 65536
	// fewFormer is how many may keep a page of the bitmap with less than crowd units from being given up: units that are far apart,
	// as hints of requests may be, cost one page of 4 KiB each.
	fewFormer = 1024
	crowd     = 8
)

// former is a free unit with its last owner. Its bit in the map of what is taken stays set, so that the search for a free one passes
// it over.
type former struct {
	owner string
	seq   uint64
}

// formers are all of a pool.
type formers struct {
	units   map[uint64]former
	byOwner map[string]uint64 // his newest
	queue   []aged            // oldest first; entries whose seq is not the unit's are void
	head    int
	seq     uint64
}

type aged struct{ unit, seq uint64 }

func newFormers() formers {
	return formers{units: make(map[uint64]former), byOwner: make(map[string]uint64)}
}

// freed makes a unit free that owner had.
func (p *Pool) freed(u uint64, owner string) {
	f := &p.former
	if owner == "" || len(f.units) >= fewFormer && p.taken.around(u) < crowd {
		p.taken.clear(u)
		return
	}
	if len(f.units) >= maxFormer {
		if old, ok := p.oldest(netip.Prefix{}); ok {
			p.taken.clear(old)
		}
	}
	f.seq++
	f.units[u], f.byOwner[owner] = former{owner, f.seq}, u
	f.queue = append(f.queue, aged{u, f.seq})
	if len(f.queue) > 2*len(f.units)+crowd {
		f.queue = slices.DeleteFunc(f.queue[f.head:], func(a aged) bool { return f.units[a.unit].seq != a.seq })
		f.head = 0
	}
}

// retake says whether a unit was free and remembered. It is taken then.
func (p *Pool) retake(u uint64) bool {
	f := &p.former
	x, ok := f.units[u]
	if !ok {
		return false
	}
	delete(f.units, u)
	if f.byOwner[x.owner] == u {
		delete(f.byOwner, x.owner)
	}
	return true
}

// formerly gives the unit inside a range that owner had last, if it is free.
func (p *Pool) formerly(owner string, inside netip.Prefix) (uint64, bool) {
	u, ok := p.former.byOwner[owner]
	return u, ok && inside.Contains(p.unit(u).Addr()) && p.retake(u)
}

// oldest gives the unit inside a range, or anywhere, that has been free for longest.
func (p *Pool) oldest(inside netip.Prefix) (uint64, bool) {
	f := &p.former
	for i := f.head; i < len(f.queue); i++ {
		a := f.queue[i]
		if f.units[a.unit].seq != a.seq { // seq begins at 1
			if i == f.head {
				f.head++
			}
			continue
		}
		if !inside.IsValid() || inside.Contains(p.unit(a.unit).Addr()) {
			return a.unit, p.retake(a.unit)
		}
	}
	return 0, false
}

// Remember makes owner the last one who had a unit that is free: a session that ended before a restart.
func (p *Pool) Remember(unit netip.Prefix, owner string) {
	if u, err := p.find(unit); err == nil && p.taken.set(u) {
		p.freed(u, owner)
	}
}
