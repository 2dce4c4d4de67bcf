package homelist

import (
	"cmp"
	"net/netip"
	"slices"
	"time"

	"kedge/internal/core"
	"kedge/wire/nd"
)

// Agent is an entry of the Home Agents List, RFC 6275 10.1.
type Agent struct {
	LinkLocal  netip.Addr
	Preference uint16
	Mobile     bool // it serves mobile routers
	Expires    time.Duration
	Addresses  []Address
}

// Address is a global address of a home agent; it lives as long as the prefix that told it (RFC 6275 7.2).
type Address struct {
	Addr  netip.Addr
	Until time.Duration // boot time; Forever
}

// list is the other home agents of a link. It is small: what is due is looked for.
type list struct {
	own    []netip.Addr
	agents map[netip.Addr]*Agent
}

func newList(own []netip.Addr) list {
	return list{own: own, agents: make(map[netip.Addr]*Agent)}
}

// heard is RFC 6275 10.5.1.
func (l *list) heard(now core.Now, from netip.Addr, ra *nd.RouterAdvertisement) []News {
	a := l.agents[from]
	info, has := ra.Options.HomeAgent()
	if !has {
		info = nd.HomeAgentInformation{Lifetime: ra.RouterLifetime}
	}
	switch {
	case !ra.HomeAgent || info.Lifetime == 0:
		if a == nil {
			return nil
		}
		delete(l.agents, from)
		return []News{a.news("left")}
	case a == nil && len(l.agents) >= MaxAgents:
		return []News{{Kind: "refused", Agent: from}}
	}
	kind := ""
	if a == nil {
		kind = "new"
		a = &Agent{LinkLocal: from}
		l.agents[from] = a
	} else if a.Preference != info.Preference || a.Mobile != info.Mobile {
		kind = "changed"
	}
	a.Preference, a.Mobile = info.Preference, info.Mobile
	a.Expires = now.Boot + time.Duration(info.Lifetime)*time.Second
	for p := range ra.Options.Prefixes() {
		if p.RouterAddr && l.learn(now, a, p) && kind == "" {
			kind = "changed"
		}
	}
	if kind == "" {
		return nil
	}
	return []News{a.news(kind)}
}

// learn takes over a global address; false: nothing is new.
func (l *list) learn(now core.Now, a *Agent, p *nd.PrefixInformation) bool {
	addr := p.Prefix.Addr()
	at := slices.IndexFunc(a.Addresses, func(x Address) bool { return x.Addr == addr })
	switch {
	case p.Valid == 0 && at >= 0:
		a.Addresses = slices.Delete(a.Addresses, at, at+1)
		return true
	case at >= 0:
		a.Addresses[at].Until = until(now, span(p.Valid))
		return false
	case p.Valid == 0 || !global(addr) || slices.Contains(l.own, addr) || len(a.Addresses) >= MaxAddresses:
		return false
	}
	a.Addresses = append(a.Addresses, Address{addr, until(now, span(p.Valid))})
	return true
}

// global says whether nodes anywhere could register with an address.
func global(a netip.Addr) bool {
	return a.Is6() && !a.Is4In6() && a.IsGlobalUnicast() && a.Zone() == ""
}

func (a *Agent) news(kind string) News {
	n := News{Kind: kind, Agent: a.LinkLocal, Preference: a.Preference}
	for _, x := range a.Addresses {
		n.Addresses = append(n.Addresses, x.Addr)
	}
	return n
}

// expire takes out what has ended.
func (l *list) expire(now core.Now) (gone []News) {
	for _, a := range l.sorted() {
		a := l.agents[a.LinkLocal]
		if a.Expires <= now.Boot {
			delete(l.agents, a.LinkLocal)
			gone = append(gone, a.news("expired"))
			continue
		}
		a.Addresses = slices.DeleteFunc(a.Addresses, func(x Address) bool { return x.Until <= now.Boot })
	}
	return gone
}

func (l *list) next() (at time.Duration, ok bool) {
	for _, a := range l.agents {
		if !ok || a.Expires < at {
			at, ok = a.Expires, true
		}
		for _, x := range a.Addresses {
			if x.Until < at {
				at = x.Until
			}
		}
	}
	return at, ok
}

// sorted lists the entries by decreasing preference, and by address where that is equal.
func (l *list) sorted() []Agent {
	out := make([]Agent, 0, len(l.agents))
	for _, a := range l.agents {
		c := *a
		c.Addresses = slices.Clone(a.Addresses)
		out = append(out, c)
	}
	slices.SortFunc(out, func(a, b Agent) int {
		return cmp.Or(cmp.Compare(b.Preference, a.Preference), a.LinkLocal.Compare(b.LinkLocal))
	})
	return out
}
