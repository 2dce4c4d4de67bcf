package movement

import (
	"net/netip"
	"slices"
	"time"

	"kedge/internal/access"
	"kedge/internal/core"
	"kedge/wire/ether"
	"kedge/wire/nd"
)

// announcements is MAX_NEIGHBOR_ADVERTISEMENT (RFC 4861 10): how often the neighbours are told, RetransTimer apart
// (RFC 6275 11.5.5); ARP announcements go with them.
const announcements = 3

// homeState is what the node does with its home addresses on the home link.
type homeState struct {
	l       *link // nil: nothing
	addrs   []netip.Prefix
	claimed bool
	routes  bool // the default routes of HomeTable are ours
	left    int  // announcements to come
	next    time.Duration
	latest  time.Duration // when the first one goes, whether the kernel has said yet that it has the addresses or not
}

// kernelTakes is how long the kernel may take to receive packets for an address that it was given. Neighbours that know too
// early would send into the void.
const kernelTakes = 100 * time.Millisecond

// SetHome changes what New was told of the home network: all home addresses, and the home subnet prefix. Links are judged anew.
func (m *Machine) SetHome(home []netip.Addr, prefix netip.Prefix) {
	m.cfg.Home, m.cfg.HomePrefix6 = slices.Clone(home), prefix
	for _, ifi := range m.order {
		m.judgeHome(m.links[ifi])
	}
	m.refresh()
}

// judgeHome looks whether a link is the home link: the home subnet prefix is on-link there (RFC 6275 11.5.2).
func (m *Machine) judgeHome(l *link) {
	home := m.cfg.HomePrefix6
	is := home.IsValid() && slices.ContainsFunc(l.prefixes, func(p *prefix) bool {
		return p.onLink && m.now.Boot < p.linkUntil && m.isHomePrefix(p.p)
	})
	if is == l.home6 {
		return
	}
	l.home6 = is
	from, to := "away", "home"
	if !is {
		from, to = to, from
	}
	m.changed = true
	m.emit(core.Emit{Name: "home-link", From: from, To: to, Why: home.String(), Fields: map[string]any{"if": l.name}})
}

// isHomePrefix says whether an advertised prefix is the home subnet prefix, or the part of it that has a home address.
func (m *Machine) isHomePrefix(p netip.Prefix) bool {
	home := m.cfg.HomePrefix6.Masked()
	if p == home {
		return true
	}
	return p.Bits() > home.Bits() && home.Contains(p.Addr()) && slices.ContainsFunc(m.cfg.Home, p.Contains)
}

// linkIsHome says whether the link is the home link of either family.
func (m *Machine) linkIsHome(l *link) bool {
	return l.home6 && !m.doubtful(l) || slices.ContainsFunc(l.addrs, func(x *addr) bool { return m.isHome4(l, x) })
}

// doubtful: the carrier was away, and of the routers that advertise the home subnet prefix none has answered since, while another
// router has, or all of them were asked in vain. The link may be one of another network by now.
func (m *Machine) doubtful(l *link) bool {
	isHome := func(r *router) bool {
		return slices.ContainsFunc(l.prefixes, func(p *prefix) bool { return m.isHomePrefix(p.p) && p.advertisedBy(r) })
	}
	gone, waiting, other := false, false, false
	for _, r := range l.routers {
		switch home := isHome(r); {
		case home && r.state == dead:
			gone = gone || r.heard < l.upSince // else it died at home, and the link is still what it was
		case home && r.state == unsure:
			waiting = true
		case home:
			return false
		case r.is4():
			// The home router may be that of IPv4 as well: it answers by another protocol, with the same address.
			same := slices.ContainsFunc(l.routers, func(x *router) bool { return isHome(x) && x.mac == r.mac })
			other = other || r.state == reachable && r.heard >= l.upSince && !same
		case r.offered():
			other = true
		}
	}
	return other || gone && !waiting
}

// isHome4 says whether an address shows that its link is the IPv4 home link.
func (m *Machine) isHome4(l *link, x *addr) bool {
	home := m.cfg.HomePrefix4
	if !home.IsValid() || !x.a.Is4() || !home.Contains(x.a) || x.state != usable {
		return false
	}
	if m.cfg.HomeRouter4.IsValid() && (x.router == nil || x.router.addr != m.cfg.HomeRouter4) {
		return false
	}
	if m.cfg.HomeMAC4 != (core.MAC{}) {
		return x.router != nil && x.router.mac == m.cfg.HomeMAC4
	}
	return !home.Addr().IsPrivate()
}

// ExpectHome prepares for coming home on a link, when the parent sends its deregistration: Neighbor Solicitations for addrs
// are answered from now on, by unicast (RFC 6275 11.5.5), because the kernel does not hold the addresses there yet.
func (m *Machine) ExpectHome(now core.Now, ifi int, addrs []netip.Prefix, out []core.Effect) []core.Effect {
	m.begin(now, out)
	if l := m.links[ifi]; l != nil && l.pat != nil && !(m.home.claimed && m.home.l == l) {
		m.home = homeState{l: l, addrs: slices.Clone(addrs), next: never}
	}
	return m.end()
}

// ClaimHome takes the home addresses to the home link, after the home agent has acknowledged: it sets them there without
// duplicate address detection, sets the default routes of Config.HomeTable by the link's routers, and tells the neighbours
// three times, by unsolicited Neighbor Advertisements that override, and by ARP announcements. addrs are the home addresses
// with the lengths of their home networks.
func (m *Machine) ClaimHome(now core.Now, ifi int, addrs []netip.Prefix, out []core.Effect) []core.Effect {
	m.begin(now, out)
	if l := m.links[ifi]; l != nil && l.pat != nil {
		m.home = homeState{l: l, addrs: slices.Clone(addrs), claimed: true, routes: true, left: announcements, next: now.Boot, latest: now.Boot + kernelTakes}
	}
	return m.end()
}

// ReleaseHome undoes ExpectHome and ClaimHome. The default routes of Config.HomeTable stay: the parent sets its own in their
// place, before or after.
func (m *Machine) ReleaseHome(now core.Now, out []core.Effect) []core.Effect {
	m.begin(now, out)
	m.leftHome(m.home.l)
	return m.end()
}

// leftHome ends everything on the home link, if l is the one.
func (m *Machine) leftHome(l *link) {
	if l == nil || m.home.l != l {
		return
	}
	m.host.disown(m.cfg.HomeTable)
	m.home = homeState{next: never}
}

// serveHome tells the neighbours, as soon as the kernel holds the addresses.
func (m *Machine) serveHome() {
	h := &m.home
	if h.l == nil || !h.claimed || h.left == 0 {
		return
	}
	ready := !slices.ContainsFunc(h.addrs, func(p netip.Prefix) bool { x, ok := h.l.holds(p.Addr()); return !ok || x.tentative })
	if h.left == announcements && ready {
		h.next = m.now.Boot
	}
	switch {
	case m.now.Boot < h.next:
		return
	case !h.l.carrier:
		h.next = m.now.Boot + retransTimer
		return
	case h.left == announcements && !ready && m.now.Boot < h.latest:
		h.next = h.latest
		return
	}
	for _, p := range h.addrs {
		m.announce(h.l, p.Addr())
	}
	if ll, optimistic, ok := h.l.linkLocal(); ok && !optimistic {
		m.announce(h.l, ll) // each of its addresses by the current prefixes, its link-local address included
	}
	if h.left--; h.left > 0 {
		h.next = m.now.Boot + retransTimer
	} else {
		h.next = never
	}
}

// announce tells all nodes of the link that an address is ours (RFC 6275 11.5.5; RFC 5227 3).
func (m *Machine) announce(l *link, a netip.Addr) {
	if !l.hasFrames() {
		return
	}
	if a.Is4() {
		m.transmit(l, &access.Frame{Dst: ether.Broadcast, Body: &ether.ARP{Op: ether.ARPRequest, SenderHW: l.mac, SenderIP: a, TargetIP: a}})
		return
	}
	m.transmit(l, &access.Frame{Dst: multicastMAC(nd.AllNodes), SrcIP: a, DstIP: nd.AllNodes, Body: &nd.NeighborAdvertisement{
		Override: true, Target: a, Options: nd.Options{nd.TargetLinkLayer(l.mac)}}})
}

// homeSolicited answers for a home address between deregistration and its acknowledgement: always to the link-layer address
// of who asks, also to one without an address (RFC 6275 11.5.5). Afterwards the kernel answers.
func (m *Machine) homeSolicited(l *link, f *access.Frame, ns *nd.NeighborSolicitation) {
	h := &m.home
	if h.l != l || h.claimed || !slices.ContainsFunc(h.addrs, func(p netip.Prefix) bool { return p.Addr() == ns.Target }) {
		return
	}
	from, _, ok := l.linkLocal()
	if !ok {
		from = ns.Target
	}
	na := &nd.NeighborAdvertisement{Solicited: true, Override: true, Target: ns.Target, Options: nd.Options{nd.TargetLinkLayer(l.mac)}}
	dst := f.SrcIP
	if dst.IsUnspecified() {
		dst, na.Solicited = nd.AllNodes, false
	}
	m.transmit(l, &access.Frame{Dst: f.Src, SrcIP: from, DstIP: dst, Body: na})
}
