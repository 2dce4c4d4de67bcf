package homelist

import (
	"net/netip"
	"slices"
	"time"

	"kedge/internal/core"
	"kedge/wire"
	"kedge/wire/nd"
)

// Discover answers a Home Agent Address Discovery Request that came from a node at from to one of the anchor's addresses or to
// the anycast address of a home subnet: the reply, and the unicast address that it comes from (RFC 6275 10.5.1). A reason says
// why there is none.
func (m *Machine) Discover(now core.Now, from, to netip.Addr, q *nd.HomeAgentAddressDiscoveryRequest) (*nd.HomeAgentAddressDiscoveryReply, netip.Addr, wire.Reason) {
	if !global(from) {
		return nil, netip.Addr{}, wire.BadSource
	}
	if !m.requests.take(now, from) {
		return nil, netip.Addr{}, wire.RateLimit
	}
	r := &nd.HomeAgentAddressDiscoveryReply{ID: q.ID}
	r.Addresses, r.Mobile = m.Candidates(q.Mobile, false)
	return r, m.source(to), ""
}

// source is the address that a reply comes from: the one that was asked, or the one in the home subnet that was.
func (m *Machine) source(to netip.Addr) netip.Addr {
	for _, a := range m.cfg.Addresses {
		if a == to {
			return a
		}
	}
	for _, a := range m.cfg.Addresses {
		if nd.HomeAgentsAnycast(netip.PrefixFrom(a, 64)) == to {
			return a
		}
	}
	return m.cfg.Addresses[0]
}

// Candidates lists the addresses of home agents, at most as many as a packet of 1,280 octets holds: by decreasing preference,
// agents of equal preference in an order that is another one each time, and so the addresses of one agent (RFC 6275 10.5.1).
// mobile asks for those that serve mobile routers; if there is none, all are listed and serve is false (RFC 3963 7.2). others
// leaves the anchor itself out.
func (m *Machine) Candidates(mobile, others bool) (out []netip.Addr, serve bool) {
	all := m.list.sorted()
	self := Agent{Preference: m.cfg.Preference, Mobile: m.cfg.Mobile}
	for _, a := range m.cfg.Addresses {
		self.Addresses = append(self.Addresses, Address{Addr: a})
	}
	if !others && !(m.retired && len(all) > 0) {
		all = append(all, self)
	}
	if mobile {
		some := slices.DeleteFunc(slices.Clone(all), func(a Agent) bool { return !a.Mobile || len(a.Addresses) == 0 })
		if serve = len(some) > 0; serve {
			all = some
		}
	}
	shuffle(m.rand, all)
	slices.SortStableFunc(all, func(a, b Agent) int { return int(b.Preference) - int(a.Preference) })
	for _, a := range all {
		shuffle(m.rand, a.Addresses)
		for _, x := range a.Addresses {
			if len(out) < nd.HomeAgentsInMinimumMTU && !slices.Contains(out, x.Addr) { // two agents may claim one address
				out = append(out, x.Addr)
			}
		}
	}
	return out, serve
}

// window counts what was let through within a second: limit of it in all, DiscoveriesPerNetwork from one /64. It holds no more
// than it lets through.
type window struct {
	limit int
	begin time.Duration
	count int
	from  map[netip.Prefix]int
}

func (w *window) take(now core.Now, from netip.Addr) bool {
	if w.from == nil || now.Boot-w.begin >= time.Second {
		w.begin, w.count, w.from = now.Boot, 0, make(map[netip.Prefix]int)
	}
	net, err := from.Prefix(64)
	if err != nil || w.count >= w.limit || w.from[net] >= DiscoveriesPerNetwork {
		return false
	}
	w.count++
	w.from[net]++
	return true
}
