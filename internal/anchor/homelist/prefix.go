package homelist

import (
	"cmp"
	"maps"
	"net/netip"
	"slices"
	"time"

	"kedge/internal/core"
	"kedge/wire/nd"
)

// prefixes are those of the home link: what the anchor has by itself, and what the home agents there advertise (RFC 6275
// 10.6.1).
type prefixes struct {
	known map[netip.Prefix]*known
	flags map[netip.Addr][2]bool // M and O by router
}

// known is one prefix.
type known struct {
	own     *Prefix // nil: only heard of
	sole    bool    // own is all that counts
	counts  bool    // own counts beside what is heard
	sources map[netip.Addr]told
	now     told // of all together
}

// told is what one advertises of a prefix.
type told struct {
	onLink, autonomous         bool
	valid, preferred           time.Duration // as told; Forever
	validUntil, preferredUntil time.Duration // boot time; Forever
}

func newPrefixes(own []Prefix, advertise bool) prefixes {
	p := prefixes{known: make(map[netip.Prefix]*known), flags: make(map[netip.Addr][2]bool)}
	for _, o := range own {
		k := &known{own: &o, sole: o.Explicit, counts: advertise, sources: make(map[netip.Addr]told)}
		p.known[o.Prefix] = k
		k.now = k.merged(core.Now{})
	}
	return p
}

// heard takes the prefixes of a home agent's advertisement. Options that RFC 4861 6.3.4 and RFC 4862 5.5.3 say to ignore are.
func (p *prefixes) heard(now core.Now, from netip.Addr, ra *nd.RouterAdvertisement) (news []News) {
	p.flags[from] = [2]bool{ra.Managed, ra.Other}
	for o := range ra.Options.Prefixes() {
		prefix := o.Prefix.Masked()
		if !o.OnLink && !o.Autonomous { // it tells the router's address and nothing of the link
			continue
		}
		if prefix.Addr().IsLinkLocalUnicast() || !prefix.Addr().IsGlobalUnicast() || prefix.Bits() == 0 || o.Preferred > o.Valid {
			continue
		}
		k := p.known[prefix]
		switch {
		case k == nil && o.Valid == 0:
			continue
		case k == nil && len(p.known) >= MaxPrefixes:
			news = append(news, News{Kind: "prefix-limit", Agent: from, Prefix: prefix})
			continue
		case k == nil:
			k = &known{sources: make(map[netip.Addr]told)}
			p.known[prefix] = k
		}
		if _, ok := k.sources[from]; !ok && len(k.sources) >= MaxSources {
			continue
		}
		k.sources[from] = k.tell(now, o)
		news = append(news, p.settle(now, prefix, from)...)
	}
	return news
}

// tell reads an option. Nobody authenticates it: it cannot make a prefix that is known invalid at once (RFC 4862 5.5.3 e).
func (k *known) tell(now core.Now, o *nd.PrefixInformation) told {
	t := told{onLink: o.OnLink, autonomous: o.Autonomous, valid: span(o.Valid), preferred: span(o.Preferred)}
	t.validUntil, t.preferredUntil = until(now, t.valid), until(now, t.preferred)
	if left := k.merged(now).validUntil; t.valid <= twoHours && t.validUntil < left {
		t.validUntil = min(left, until(now, twoHours))
	}
	return t
}

// merged is what counts of a prefix: the config, or the longest lifetimes that anybody tells, as hosts on the link have it.
func (k *known) merged(now core.Now) told {
	own := told{}
	if k.own != nil {
		own = told{k.own.OnLink, k.own.Autonomous, k.own.Valid, k.own.Preferred, until(now, k.own.Valid), until(now, k.own.Preferred)}
	}
	if k.own != nil && (k.sole || len(k.sources) == 0) {
		return own
	}
	var out told
	add := func(t told) {
		out.onLink, out.autonomous = out.onLink || t.onLink, out.autonomous || t.autonomous
		if t.validUntil >= out.validUntil {
			out.valid, out.validUntil = t.valid, t.validUntil
		}
		if t.preferredUntil >= out.preferredUntil {
			out.preferred, out.preferredUntil = t.preferred, t.preferredUntil
		}
	}
	for _, t := range k.sources {
		add(t)
	}
	if k.own != nil && k.counts {
		add(own)
	}
	return out
}

// differs says whether a prefix is told otherwise than before, for any reason but that time goes by (RFC 6275 10.6.2).
func (t told) differs(o told) bool {
	apart := func(a, b time.Duration) bool {
		return a != b && (a == Forever || b == Forever || (a-b).Abs() > sameDeadline)
	}
	return t.onLink != o.onLink || t.autonomous != o.autonomous ||
		t.valid != o.valid && apart(t.validUntil, o.validUntil) ||
		t.preferred != o.preferred && apart(t.preferredUntil, o.preferredUntil)
}

// settle finds what counts of a prefix after something was told or forgotten.
func (p *prefixes) settle(now core.Now, prefix netip.Prefix, from netip.Addr) []News {
	k := p.known[prefix]
	was, is := k.now, k.merged(now)
	k.now = is
	switch {
	case k.own == nil && is.validUntil <= now.Boot:
		delete(p.known, prefix)
		return []News{{Kind: "prefix-gone", Prefix: prefix, Agent: from}}
	case was == told{}:
		return []News{{Kind: "prefix-new", Prefix: prefix, Agent: from}}
	case is.differs(was):
		return []News{{Kind: "prefix-changed", Prefix: prefix, Agent: from}}
	}
	return nil
}

// forget drops what a router has told: it is no home agent any more.
func (p *prefixes) forget(now core.Now, from netip.Addr) (news []News) {
	delete(p.flags, from)
	for _, prefix := range slices.SortedFunc(maps.Keys(p.known), comparePrefix) {
		k := p.known[prefix]
		if t, ok := k.sources[from]; ok {
			if k.own == nil && len(k.sources) == 1 && t.validUntil > now.Boot {
				continue // a prefix outlives the router that told it, until its own lifetime ends
			}
			delete(k.sources, from)
			news = append(news, p.settle(now, prefix, from)...)
		}
	}
	return news
}

// expire drops what has ended.
func (p *prefixes) expire(now core.Now) (news []News) {
	for _, prefix := range slices.SortedFunc(maps.Keys(p.known), comparePrefix) {
		k, dropped := p.known[prefix], netip.Addr{}
		for from, t := range k.sources {
			if t.validUntil <= now.Boot {
				delete(k.sources, from)
				dropped = from
			}
		}
		if dropped.IsValid() {
			news = append(news, p.settle(now, prefix, dropped)...)
		}
	}
	return news
}

func (p *prefixes) next() (at time.Duration, ok bool) {
	for _, k := range p.known {
		for _, t := range k.sources {
			if t.validUntil != Forever && (!ok || t.validUntil < at) {
				at, ok = t.validUntil, true
			}
		}
	}
	return at, ok
}

func comparePrefix(a, b netip.Prefix) int {
	return cmp.Or(a.Addr().Compare(b.Addr()), cmp.Compare(a.Bits(), b.Bits()))
}

// find gives the longest known prefix around an address.
func (p *prefixes) find(a netip.Addr) (best netip.Prefix, k *known) {
	for prefix, x := range p.known {
		if prefix.Contains(a) && (k == nil || prefix.Bits() > best.Bits()) {
			best, k = prefix, x
		}
	}
	return best, k
}

// left is what remains of a lifetime: of one's own it is always all of it, others' end at a time.
func (k *known) left(now core.Now) (valid, preferred time.Duration) {
	t := k.merged(now)
	remain := func(end time.Duration) time.Duration {
		if end == Forever {
			return Forever
		}
		return max(end-now.Boot, 0)
	}
	return remain(t.validUntil), remain(t.preferredUntil)
}

// Lifetimes is what remains of the prefix of a home address; ok is false where nothing is known of it, so that nothing bounds
// a binding (RFC 6275 10.3.1).
func (m *Machine) Lifetimes(now core.Now, home netip.Addr) (valid, preferred time.Duration, ok bool) {
	_, k := m.prefixes.find(home)
	if k == nil {
		return 0, 0, false
	}
	valid, preferred = k.left(now)
	return valid, preferred, true
}

// Advertisement is what a mobile node is told of the home link (RFC 6275 6.8, 10.6): the prefix of its home address first,
// known or not, and the others as far as one packet takes them. home is its home address with the length of its prefix.
func (m *Machine) Advertisement(now core.Now, home netip.Prefix, id uint16) *nd.MobilePrefixAdvertisement {
	a := &nd.MobilePrefixAdvertisement{ID: id, Managed: m.cfg.Managed, Other: m.cfg.Other}
	for _, f := range m.prefixes.flags {
		a.Managed, a.Other = a.Managed || f[0], a.Other || f[1]
	}
	first, k := m.prefixes.find(home.Addr())
	if k == nil {
		a.Options = append(a.Options, m.option(home.Masked(), told{onLink: true, autonomous: true}, DefaultValid, DefaultPreferred))
	}
	order := slices.SortedFunc(maps.Keys(m.prefixes.known), func(x, y netip.Prefix) int {
		switch {
		case x == first && y != first:
			return -1
		case y == first && x != first:
			return 1
		}
		return comparePrefix(x, y)
	})
	for _, prefix := range order[:min(len(order), MaxAdvertised-len(a.Options))] {
		k := m.prefixes.known[prefix]
		valid, preferred := k.left(now)
		a.Options = append(a.Options, m.option(prefix, k.merged(now), valid, preferred))
	}
	return a
}

// option is a prefix for mobile nodes, with the home agent's address in it where it has one (RFC 6275 6.8, 7.2).
func (m *Machine) option(prefix netip.Prefix, t told, valid, preferred time.Duration) *nd.PrefixInformation {
	o := &nd.PrefixInformation{Prefix: prefix, OnLink: t.onLink, Autonomous: t.autonomous, Valid: wireSeconds(valid), Preferred: wireSeconds(preferred)}
	for _, own := range m.cfg.Addresses {
		if prefix.Contains(own) {
			o.Prefix, o.RouterAddr = netip.PrefixFrom(own, prefix.Bits()), true
			break
		}
	}
	return o
}
