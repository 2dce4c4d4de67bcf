package movement

import (
	"cmp"
	"net/netip"
	"slices"
	"time"
)

// settle is how long a better link has to hold out before it displaces the one that is in use: a link that flaps must not
// make the node register twice a flap. While no other is there, it is used at once.
const settle = time.Second

// serve does what is due on all links.
func (m *Machine) serve() {
	for _, ifi := range m.order {
		l := m.links[ifi]
		m.serveSolicitation(l)
		m.serveRouters(l)
		m.servePrefixes(l)
	}
	if m.freed {
		m.freed = false
		for _, ifi := range m.order {
			m.found(m.links[ifi])
		}
	}
	for _, ifi := range m.order {
		m.serveAddrs(m.links[ifi])
	}
	m.serveHome()
}

// deadline is the earliest time at which serve has something to do, or the list changes by itself.
func (m *Machine) deadline() time.Duration {
	if m.closed {
		return never
	}
	at := min(m.home.next, m.host.retryAt, m.settled)
	for _, ifi := range m.order {
		l := m.links[ifi]
		at = min(at, l.sol.next)
		for _, r := range l.routers {
			at = min(at, r.expires, m.due(r))
			if l.carrier {
				at = min(at, r.next)
			}
		}
		for _, p := range l.prefixes {
			at = min(at, p.valid)
			if p.onLink {
				at = min(at, p.linkUntil)
			}
			if p.preferred > m.now.Boot {
				at = min(at, p.preferred)
			}
		}
		for _, x := range l.addrs {
			at = min(at, x.dadEnds, x.retryAt)
		}
	}
	if at == never && len(m.order) > 0 {
		at = m.now.Boot + DefaultVerify // or a sleep would go unnoticed
	}
	return at
}

// compile lists what is offered.
func (m *Machine) compile() []CareOf {
	var list []CareOf
	for _, ifi := range m.order {
		for _, x := range m.links[ifi].addrs {
			if x.since != never && m.offers(x) {
				list = append(list, m.careOf(x))
			}
		}
	}
	slices.SortFunc(list, m.compare)
	return m.stick(list)
}

// compare is the order of CareOfs, but for the link that is in use.
func (m *Machine) compare(a, b CareOf) int {
	return cmp.Or(
		boolRank(a.Deprecated)-boolRank(b.Deprecated),
		cmp.Compare(a.Prefer, b.Prefer),
		boolRank(a.Addr.Is4())-boolRank(b.Addr.Is4()),
		cmp.Compare(m.preferenceOf(b), m.preferenceOf(a)),
		boolRank(a.Optimistic)-boolRank(b.Optimistic),
		cmp.Compare(a.Since, b.Since),
		cmp.Compare(a.If, b.If),
		a.Addr.Compare(b.Addr),
	)
}

func boolRank(b bool) int {
	if b {
		return 1
	}
	return 0
}

// preferenceOf is that of the address's router (RFC 4191).
func (m *Machine) preferenceOf(c CareOf) int8 {
	if l := m.links[c.If]; l != nil && c.Router.IsValid() {
		if r := l.findRouter(c.Router); r != nil {
			return r.pref
		}
	}
	return 0
}

// stick keeps the link that was first at the head of the list until a better one has held out for settle.
func (m *Machine) stick(list []CareOf) []CareOf {
	m.settled = never
	if len(list) == 0 || len(m.list) == 0 || list[0].If == m.list[0].If {
		return list
	}
	was := m.list[0].If
	at := slices.IndexFunc(list, func(c CareOf) bool { return c.If == was })
	if at < 0 || list[at].Deprecated || list[at].Suspect {
		return list
	}
	holds := list[0].Since
	for _, c := range list {
		if c.If == list[0].If {
			holds = min(holds, c.Since)
		}
	}
	if holds+settle <= m.now.Boot {
		return list
	}
	m.settled = holds + settle
	slices.SortStableFunc(list, func(a, b CareOf) int { return boolRank(a.If != was) - boolRank(b.If != was) })
	return list
}

// careOf describes an address.
func (m *Machine) careOf(x *addr) CareOf {
	l := x.l
	c := CareOf{
		If: l.ifi, Link: l.name, Addr: x.a, Prefix: x.p, MTU: l.mtu, Prefer: l.pat.Prefer, Home: m.linkIsHome(l),
		Optimistic: x.state == optimistic, Table: x.table, Since: x.since, Network: network(x),
	}
	if x.a.Is6() {
		c.MTU = l.effectiveMTU()
	}
	if x.router != nil {
		// Nobody is suspect before the first question has had its time: most are answered within a round trip on the link.
		c.Router, c.Suspect = x.router.addr, x.router.state == asked && x.router.sent > 1
	}
	if x.from != nil && x.formed {
		c.Deprecated = m.now.Boot >= x.from.preferred
	}
	return c
}

// network names the network of an address: its prefix and the MAC address of its router, which together are as good as
// unique; the link alone where there are no frames, because a carrier gives every attachment another address.
func network(x *addr) string {
	if !x.l.hasFrames() {
		return x.l.name
	}
	if x.router == nil {
		return x.p.Masked().String()
	}
	if x.router.mac == [6]byte{} {
		return ""
	}
	return x.p.Masked().String() + " " + x.router.mac.String()
}

// CareOfs are what could be used now, best first: IPv4 and IPv6 in one list. The order: not deprecated, rank of the link in
// the config, IPv6 before IPv4, preference of the router (RFC 4191), usable before optimistic, the one offered longer. An
// equal address never displaces an older one, and another link does not displace the first until it has been there for a
// second, unless the first is deprecated or Suspect. Addresses of the home link have Home and stand in their place. The
// caller must not change the list.
func (m *Machine) CareOfs() []CareOf { return m.list }

// AtHome gives the address of the home link that packets of the node itself can use before and after deregistration, and
// whether there is a home link. Addr is invalid if the home link has no address for us but the home address; If, Link,
// Router and MTU are there all the same.
func (m *Machine) AtHome() (CareOf, bool) {
	for _, c := range m.list {
		if c.Home && c.Addr.Is6() {
			return c, true
		}
	}
	for _, ifi := range m.order {
		l := m.links[ifi]
		if !l.carrier || !l.home6 || m.doubtful(l) || m.closed {
			continue
		}
		for _, r := range l.routers {
			if r.advertised && r.offered() {
				return CareOf{If: l.ifi, Link: l.name, Prefix: m.cfg.HomePrefix6, Router: r.addr, MTU: l.effectiveMTU(), Prefer: l.pat.Prefer, Home: true}, true
			}
		}
	}
	for _, c := range m.list {
		if c.Home {
			return c, true
		}
	}
	return CareOf{}, false
}

// LinkStatus is what is known of a managed link, for people.
type LinkStatus struct {
	Name      string       `json:"name"`
	Up        bool         `json:"up"`
	Routers   []RouterInfo `json:"routers,omitempty"`
	Prefixes  int          `json:"prefixes"`
	Addresses []Address    `json:"addresses,omitempty"`
	Home      bool         `json:"home,omitempty"`
	Since     time.Duration
}

// RouterInfo is one router of a link.
type RouterInfo struct {
	Addr  netip.Addr `json:"address"`
	MAC   string     `json:"mac"`
	State string     `json:"state"`
}

// Address is one address of a link, offered or not.
type Address struct {
	Addr    netip.Addr `json:"address"`
	State   string     `json:"state"`
	Offered bool       `json:"offered"`
}

// Links tells of all managed links, by index.
func (m *Machine) Links() []LinkStatus {
	var out []LinkStatus
	for _, ifi := range m.order {
		l := m.links[ifi]
		s := LinkStatus{Name: l.name, Up: l.carrier, Prefixes: len(l.prefixes), Home: m.linkIsHome(l), Since: l.upSince}
		for _, r := range l.routers {
			s.Routers = append(s.Routers, RouterInfo{Addr: r.addr, MAC: r.mac.String(), State: r.state.String()})
		}
		for _, x := range l.addrs {
			s.Addresses = append(s.Addresses, Address{Addr: x.a, State: x.state.String(), Offered: x.since != never})
		}
		out = append(out, s)
	}
	return out
}
