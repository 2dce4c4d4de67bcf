package pool

import (
	"fmt"
	"net/netip"

	"github.com/gaissmai/bart"

	"kedge/internal/core"
)

// Set is all pools of an anchor.
type Set struct {
	list   []*Pool
	byName map[string]*Pool
	around map[core.Domain]*bart.Table[*Pool]
}

// NewSet makes the pools. Two pools of one domain must not overlap: an address would have two owners.
func NewSet(cfgs []Config) (*Set, error) {
	s := &Set{byName: make(map[string]*Pool), around: make(map[core.Domain]*bart.Table[*Pool])}
	for _, c := range cfgs {
		p, err := New(c)
		if err != nil {
			return nil, err
		}
		if s.byName[p.Name()] != nil {
			return nil, fmt.Errorf("pool %q is there twice", p.Name())
		}
		for _, o := range s.list {
			if o.Domain() == p.Domain() && o.Range().Overlaps(p.Range()) {
				return nil, fmt.Errorf("pool %q: %s overlaps %s of pool %q", p.Name(), p.Range(), o.Range(), o.Name())
			}
		}
		s.list = append(s.list, p)
		s.byName[p.Name()] = p
		if s.around[p.Domain()] == nil {
			s.around[p.Domain()] = new(bart.Table[*Pool])
		}
		s.around[p.Domain()].Insert(p.Range(), p)
	}
	return s, nil
}

// All pools, as configured.
func (s *Set) All() []*Pool { return s.list }

// ByName gives nil when there is none.
func (s *Set) ByName(name string) *Pool { return s.byName[name] }

// Around gives the pool that an address of a domain lies in, or nil.
func (s *Set) Around(d core.Domain, a netip.Addr) *Pool {
	t := s.around[d]
	if t == nil || !a.IsValid() {
		return nil
	}
	p, _ := t.Lookup(a)
	return p
}

// Choose gives the named pools of a family, or all of the domain when none is named.
func (s *Set) Choose(d core.Domain, names []string, v4 bool, visit func(*Pool) bool) {
	if len(names) > 0 {
		for _, n := range names {
			if p := s.byName[n]; p != nil && p.Is4() == v4 && p.Domain() == d && !visit(p) {
				return
			}
		}
		return
	}
	for _, p := range s.list {
		if p.Domain() == d && p.Is4() == v4 && !visit(p) {
			return
		}
	}
}
