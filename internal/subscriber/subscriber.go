// Package subscriber says who may have which addresses and services: the policy profiles of RFC 5213 (section 6.2 names
// the store) and RFC 5844. They come from the config; a subscriber is found by the NAI of his Mobile Node Identifier
// option (RFC 4283 3.1).
//
// What is left out: profiles from RADIUS (RFC 6572).
package subscriber

import (
	"fmt"
	"net/netip"
	"slices"

	"kedge/internal/core"
)

// Families is a set of address families.
type Families uint8

const (
	V4 Families = 1 << iota
	V6
)

// Services is a set of mobility services; 0 in a profile means all.
type Services uint8

const (
	PMIP6  Services = 1 << iota // network-based mobility, RFC 5213
	DSMIP6                      // host-based mobility, RFC 5555
)

// Profile is what one subscriber may have.
type Profile struct {
	ID       string // NAI; for Config.Default empty
	Domain   core.Domain
	Families Families // 0 = both
	Services Services // 0 = all
	// V4 is his static IPv4 home address; unset = from V4Pools.
	V4 netip.Addr
	// V4Pools are the pools of his IPv4 home addresses, in order: each simultaneous interface draws from another one.
	// Empty = all IPv4 pools of the domain.
	V4Pools []string
	// HNP are his static home network prefixes, all for one session; none = HNPCount from HNPPools.
	HNP []netip.Prefix
	// HNPPools are the pools of his home network prefixes; empty = all IPv6 pools of the domain.
	HNPPools []string
	// HNPCount is how many dynamic prefixes a session gets; 0 = 1.
	HNPCount int
	// Gateways are the peers that may register him; empty = all of the service.
	Gateways []string

	// HoA is his IPv6 home address with the length of its home prefix, for host-based mobility (RFC 6275 10.3.1); unset =
	// he cannot register by himself. His IPv4 home address is V4, else from V4Pools, as for proxy registrations; none where
	// Families lacks V4.
	HoA netip.Prefix
	// Networks are the mobile network prefixes behind him, of both families (RFC 3963; IPv4: RFC 5555 3.1.1, flag P).
	Networks []netip.Prefix
	// Peer is the entry of the config's security.peers that may speak for HoA.
	Peer string
}

// Has says whether the subscriber may use the family.
func (p *Profile) Has(f Families) bool { return p.Families == 0 || p.Families&f != 0 }

// May says whether the subscriber may use the service.
func (p *Profile) May(s Services) bool { return p.Services == 0 || p.Services&s != 0 }

// Via says whether the peer of that name may register the subscriber.
func (p *Profile) Via(gateway string) bool {
	return len(p.Gateways) == 0 || slices.Contains(p.Gateways, gateway)
}

// Prefixes is how many dynamic home network prefixes a session gets.
func (p *Profile) Prefixes() int { return max(p.HNPCount, 1) }

// Config is the list of subscribers.
type Config struct {
	// Accept serves unknown subscribers by Default. False refuses them, which is the rule unless written.
	Accept  bool
	Default Profile
	List    []Profile
}

// Directory finds profiles. It is read only after New.
type Directory struct {
	accept   bool
	fallback Profile
	byID     map[string]*Profile
	byHome   map[netip.Addr]*Profile
	v4       map[v4]bool
}

// v4 is a static IPv4 home address.
type v4 struct {
	domain core.Domain
	addr   netip.Addr
}

// maxID is the octets of the longest NAI (RFC 4282 2.2), which a Mobile Node Identifier option has room for.
const maxID = 253

// New checks the list: no subscriber twice, no address of two subscribers.
func New(cfg Config) (*Directory, error) {
	d := &Directory{accept: cfg.Accept, fallback: cfg.Default, byID: make(map[string]*Profile, len(cfg.List)), byHome: make(map[netip.Addr]*Profile), v4: make(map[v4]bool)}
	if c := &cfg.Default; c.V4.IsValid() || len(c.HNP) > 0 || c.HoA.IsValid() || len(c.Networks) > 0 {
		return nil, fmt.Errorf("subscribers: the default profile cannot have static addresses: they would be everybody's")
	}
	type key struct {
		domain core.Domain
		prefix netip.Prefix
	}
	owner := make(map[key]string)
	claim := func(p *Profile, prefix netip.Prefix) error {
		k := key{p.Domain, prefix}
		if other, taken := owner[k]; taken {
			return fmt.Errorf("subscriber %q: %s is already given to %q", p.ID, prefix, other)
		}
		owner[k] = p.ID
		return nil
	}
	for _, p := range cfg.List {
		if p.ID == "" {
			return nil, fmt.Errorf("subscribers: one has no id")
		}
		if len(p.ID) > maxID {
			return nil, fmt.Errorf("subscriber %.20q...: an id has %d octets at most", p.ID, maxID)
		}
		if d.byID[p.ID] != nil {
			return nil, fmt.Errorf("subscriber %q is listed twice", p.ID)
		}
		if p.V4.IsValid() {
			if !p.V4.Is4() {
				return nil, fmt.Errorf("subscriber %q: v4 %s is no IPv4 address", p.ID, p.V4)
			}
			if err := claim(&p, netip.PrefixFrom(p.V4, 32)); err != nil {
				return nil, err
			}
		}
		for _, h := range p.HNP {
			if !h.IsValid() || !h.Addr().Is6() || h != h.Masked() {
				return nil, fmt.Errorf("subscriber %q: %s is no IPv6 prefix", p.ID, h)
			}
			if err := claim(&p, h); err != nil {
				return nil, err
			}
		}
		if err := p.checkHost(); err != nil {
			return nil, fmt.Errorf("subscriber %q: %w", p.ID, err)
		}
		if p.V4.IsValid() {
			d.v4[v4{p.Domain, p.V4}] = true
		}
		own := p
		d.byID[p.ID] = &own
		if p.HoA.IsValid() {
			if other := d.byHome[p.HoA.Addr()]; other != nil {
				return nil, fmt.Errorf("subscriber %q: %s is already given to %q", p.ID, p.HoA.Addr(), other.ID)
			}
			d.byHome[p.HoA.Addr()] = &own
		}
	}
	if err := overlaps(cfg.List); err != nil {
		return nil, err
	}
	return d, nil
}

// Find gives the profile of an identifier; listed is false when it is the default one, ok false when he is refused.
// The profile must not be changed.
func (d *Directory) Find(id string) (p *Profile, listed, ok bool) {
	if p = d.byID[id]; p != nil {
		return p, true, true
	}
	if d.accept {
		return &d.fallback, false, true
	}
	return nil, false, false
}

// Home gives the profile whose IPv6 home address a is. A Binding Update names no routing domain, so home addresses are
// different in all of them.
func (d *Directory) Home(a netip.Addr) (*Profile, bool) {
	p := d.byHome[a]
	return p, p != nil
}

// IsHome says whether a is a home address of somebody in the domain, bound or not.
func (d *Directory) IsHome(domain core.Domain, a netip.Addr) bool {
	p := d.byHome[a]
	return p != nil && p.Domain == domain || d.v4[v4{domain, a}]
}

// All calls visit with every listed profile, in no order.
func (d *Directory) All(visit func(*Profile)) {
	for _, p := range d.byID {
		visit(p)
	}
}
