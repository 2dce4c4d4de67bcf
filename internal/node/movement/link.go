package movement

import (
	"net/netip"
	"path"
	"slices"
	"time"

	"kedge/internal/core"
	"kedge/internal/rate"
)

// link is an interface of the host.
type link struct {
	ifi     int
	name    string
	mac     core.MAC // zero: not Ethernet, so that no frames go there; PPP, raw IP of a modem
	mtu     int
	admin   bool     // set up
	carrier bool     // and with carrier
	pat     *Pattern // nil: not managed
	upSince time.Duration

	held  []held     // addresses that the kernel holds
	defs  []defRoute // default routes of the main table, set by others
	addrs []*addr    // care-of addresses, offered or not

	routers  []*router
	prefixes []*prefix
	sol      solicitation
	raMTU    int   // MTU option, 0 = none
	hopLimit uint8 // 0 = never advertised
	retrans  time.Duration
	home6    bool        // the home prefix is on-link here
	known    rate.Bucket // Router Advertisements of routers that have answered once
	strange  rate.Bucket // those of others
	forming  rate.Bucket
}

// held is an address as the kernel has it.
type held struct {
	p                             netip.Prefix
	tentative, optimistic, failed bool
}

// defRoute is a default route that somebody else has set.
type defRoute struct {
	v4     bool
	via    netip.Addr // invalid: the link itself
	metric int
}

// hasFrames says whether the link is one that frames can be sent on.
func (l *link) hasFrames() bool { return l.mac != core.MAC{} }

// wants6 says whether IPv6 addresses are formed on the link.
func (l *link) wants6() bool { return l.pat != nil && l.pat.V6 && l.hasFrames() }

// effectiveMTU is the smaller of the link's own and the advertised one.
func (l *link) effectiveMTU() int {
	if l.raMTU != 0 && l.raMTU < l.mtu {
		return l.raMTU
	}
	return l.mtu
}

// linkLocal is a link-local address that packets may leave from now, and whether it is optimistic.
func (l *link) linkLocal() (a netip.Addr, optimistic, ok bool) {
	for _, h := range l.held {
		if h.p.Addr().Is6() && h.p.Addr().IsLinkLocalUnicast() && !h.tentative && !h.failed {
			if !h.optimistic {
				return h.p.Addr(), false, true
			}
			a, optimistic, ok = h.p.Addr(), true, true
		}
	}
	return a, optimistic, ok
}

// holds finds an address of the kernel.
func (l *link) holds(a netip.Addr) (held, bool) {
	for _, h := range l.held {
		if h.p.Addr() == a {
			return h, true
		}
	}
	return held{}, false
}

// match finds the pattern of a name.
func (m *Machine) match(name string) *Pattern {
	for i := range m.cfg.Links {
		if ok, _ := path.Match(m.cfg.Links[i].Match, name); ok { // malformed ones were refused by New
			return &m.cfg.Links[i]
		}
	}
	return nil
}

// linkChanged takes an interface that appears, changes or goes.
func (m *Machine) linkChanged(c *core.HostChanged) {
	op := &c.Op
	l := m.links[op.If]
	if c.Gone {
		if l != nil {
			m.unmanage(l, "the link is gone")
			delete(m.links, op.If)
			m.host.forgetLink(l)
		}
		return
	}
	if l == nil {
		l = m.newLink(op.If)
	}
	l.mtu = op.MTU
	if l.name != op.Name || l.mac != op.MAC {
		m.renamed(l, op.Name, op.MAC)
	}
	admin, carrier := op.Value != "down", c.Up
	if l.admin && !admin {
		// The kernel drops routes and IPv6 addresses of a link that is set down, partly without a word.
		m.host.doubtRoutes(l)
	}
	l.admin = admin
	switch {
	case carrier && !l.carrier:
		l.carrier = true
		m.linkUp(l)
	case !carrier && l.carrier:
		l.carrier = false
		m.linkDown(l)
	}
}

// newLink starts to know an index.
func (m *Machine) newLink(ifi int) *link {
	l := &link{ifi: ifi, retrans: retransTimer}
	l.sol.next = never
	m.links[ifi] = l
	return l
}

// renamed takes another name or MAC address: to the networks it is another host's link, and the config may treat it
// otherwise.
func (m *Machine) renamed(l *link, name string, mac core.MAC) {
	m.unmanage(l, "renamed")
	l.name, l.mac = name, mac
	pat := m.match(name)
	if pat == nil {
		return
	}
	if len(m.order) == MaxLinks {
		m.emit(core.Emit{Name: "warning", Why: "more links match the patterns than are managed", Fields: map[string]any{"if": name, "limit": MaxLinks}})
		return
	}
	l.pat = pat
	at, _ := slices.BinarySearch(m.order, l.ifi)
	m.order = slices.Insert(m.order, at, l.ifi)
	if l.carrier {
		m.linkUp(l)
	}
}

// unmanage gives up all that was learned on a link.
func (m *Machine) unmanage(l *link, why string) {
	if l.pat == nil {
		return
	}
	if l.carrier {
		m.emit(core.Emit{Name: "link", From: "up", To: "down", Why: why, Fields: map[string]any{"if": l.name}})
	}
	for len(l.addrs) > 0 {
		m.dropAddr(l, l.addrs[0], why)
	}
	l.routers, l.prefixes, l.home6, l.raMTU, l.hopLimit = nil, nil, false, 0, 0
	l.sol = solicitation{next: never}
	l.pat = nil
	m.order = slices.DeleteFunc(m.order, func(i int) bool { return i == l.ifi })
	m.others(l)
	m.leftHome(l)
}

// linkUp is the hint that the node may be somewhere else (RFC 6275 11.5.1): what was known of the link has to prove itself
// before it is offered again (RFC 6059 5, RFC 4436 2), and routers are solicited at once. That is not delayed at random
// (RFC 4861 6.3.7): link layers spread their hosts by themselves (RFC 6275 11.5.3).
func (m *Machine) linkUp(l *link) {
	l.upSince = m.now.Boot
	if l.pat == nil {
		return
	}
	m.emit(core.Emit{Name: "link", From: "down", To: "up", Why: "carrier", Fields: map[string]any{"if": l.name, "mtu": l.mtu}})
	for _, r := range l.routers {
		m.recheck(r)
	}
	for _, x := range l.addrs {
		x.tries = 0
		switch {
		case x.state == duplicate: // another network, perhaps
			m.reform(l, x)
		case m.cfg.NoOptimistic && x.formed && x.state == optimistic:
			m.testDuplicate(x)
		}
	}
	m.found(l)
	m.solicit(l)
}

// linkDown keeps what is known, because the carrier may come back to the same network within milliseconds.
func (m *Machine) linkDown(l *link) {
	l.sol = solicitation{next: never, spent: l.sol.spent}
	for _, x := range l.addrs {
		x.dadEnds = never // nobody could have objected
	}
	if l.pat != nil {
		m.emit(core.Emit{Name: "link", From: "up", To: "down", Why: "carrier", Fields: map[string]any{"if": l.name}})
	}
	m.others(l)
}
