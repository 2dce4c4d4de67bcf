package movement

import (
	"net/netip"

	"kedge/internal/access"
	"kedge/internal/core"
	"kedge/wire/ether"
	"kedge/wire/nd"
)

// multicastMAC is the Ethernet address of an IPv6 group (RFC 2464 7).
func multicastMAC(a netip.Addr) core.MAC {
	b := a.As16()
	return core.MAC{0x33, 0x33, b[12], b[13], b[14], b[15]}
}

// transmit sends a frame on a link.
func (m *Machine) transmit(l *link, f *access.Frame) {
	f.Src = l.mac
	m.out = append(m.out, core.Send{Path: core.Path{If: l.ifi}, Body: f})
}

// sendProbe asks a router whether it is there: a Neighbor Solicitation or an ARP request, to its MAC address while that is
// known and believed (RFC 6275 11.5.1, RFC 4436 2.1.1), so that only this very router answers; to all when it has been
// given up, or half of the questions are lost. It says false if there is no address to ask from.
func (m *Machine) sendProbe(r *router) bool {
	toAll := r.mac == core.MAC{} || r.state == dead || r.state == asked && r.sent >= 2
	if r.is4() {
		return m.sendARP(r, toAll)
	}
	from, optimistic, ok := r.l.linkLocal()
	if !ok {
		return false
	}
	ns := &nd.NeighborSolicitation{Target: r.addr}
	if !optimistic { // RFC 4429 3.2: an optimistic source says no link-layer address
		ns.Options = nd.Options{nd.SourceLinkLayer(r.l.mac)}
	} else if toAll && r.mac != (core.MAC{}) {
		toAll = false
	}
	f := &access.Frame{Dst: r.mac, SrcIP: from, DstIP: r.addr, Body: ns}
	if toAll {
		f.DstIP = nd.SolicitedNode(r.addr)
		f.Dst = multicastMAC(f.DstIP)
	}
	m.transmit(r.l, f)
	return true
}

func (m *Machine) sendARP(r *router, toAll bool) bool {
	var from netip.Addr
	for _, h := range r.l.held {
		if h.p.Addr().Is4() && (!from.IsValid() || h.p.Contains(r.addr)) && usable4(h.p.Addr()) {
			from = h.p.Addr()
		}
	}
	if !from.IsValid() {
		return false
	}
	arp := &ether.ARP{Op: ether.ARPRequest, SenderHW: r.l.mac, SenderIP: from, TargetIP: r.addr}
	f := &access.Frame{Dst: ether.Broadcast, Body: arp}
	if !toAll {
		f.Dst, arp.TargetHW = r.mac, r.mac
	}
	m.transmit(r.l, f)
	return true
}

// frame takes what came in on a managed link. It says false for what is of no concern.
func (m *Machine) frame(l *link, f *access.Frame) bool {
	if f.Src == l.mac { // looped back by a bridge or an access point (RFC 4862 Appendix A)
		return false
	}
	switch b := f.Body.(type) {
	case *nd.RouterAdvertisement:
		return l.wants6() && m.advertisement(l, f, b)
	case *nd.NeighborAdvertisement:
		if l.formed(b.Target) == nil && l.findRouter(b.Target) == nil {
			return false
		}
		m.neighborAdvertised(l, f, b)
	case *nd.NeighborSolicitation:
		if l.formed(b.Target) == nil && m.home.l != l {
			return false
		}
		m.neighborSolicited(l, f, b)
	case *ether.ARP:
		if b.Op != ether.ARPReply || l.findRouter(b.SenderIP) == nil {
			return false
		}
		m.arp(l, f, b)
	default:
		return false
	}
	return true
}

// neighborAdvertised takes an answer to a question to a router, or the objection to an address of ours.
func (m *Machine) neighborAdvertised(l *link, f *access.Frame, na *nd.NeighborAdvertisement) {
	if x := l.formed(na.Target); x != nil {
		m.objected(l, x, f)
		return
	}
	r := l.findRouter(na.Target)
	if r == nil || r.is4() {
		return
	}
	mac, has := na.Options.TargetLL()
	if !has {
		mac = f.Src // to a unicast question the option may be left out (RFC 4861 7.2.4)
	}
	if !na.Solicited {
		// It says nothing about the way from here to there (RFC 4861 7.2.5).
		if mac != r.mac && na.Override && r.offered() {
			m.macChanged(r, mac)
		}
		return
	}
	if !na.Router && r.advertised { // it stopped to be a router (RFC 4861 7.2.5)
		m.dropRouter(r, "it is no router any more")
		return
	}
	m.answered(r, mac)
}

// answered takes a proof that the way to a router and back works.
func (m *Machine) answered(r *router, mac core.MAC) {
	if mac == r.mac || r.mac == (core.MAC{}) {
		r.mac = mac
		m.alive(r, "it answers")
		m.bury(r.l)
		return
	}
	if r.state == unsure {
		// Somebody else with its address: another network, where addresses of the old one are not ours.
		return
	}
	m.macChanged(r, mac)
	m.alive(r, "it answers with another MAC address")
}

// macChanged takes another MAC address of a router: a backup took over, or somebody wants to be it. It has to answer there.
func (m *Machine) macChanged(r *router, mac core.MAC) {
	r.mac, r.proven = mac, false
	if r.state != fresh && r.state != dead {
		m.setReach(r, fresh, "another MAC address")
	}
	if r.state == fresh {
		m.probe(r, r.l.retrans, slowProbes)
	}
}

// neighborSolicited takes the question for an address: somebody else tests ours (RFC 4862 5.4.3), or wants to reach our home
// address.
func (m *Machine) neighborSolicited(l *link, f *access.Frame, ns *nd.NeighborSolicitation) {
	if x := l.formed(ns.Target); x != nil && f.SrcIP.IsUnspecified() {
		m.objected(l, x, f)
		return
	}
	m.homeSolicited(l, f, ns)
}

// arp takes an answer of an IPv4 gateway.
func (m *Machine) arp(l *link, f *access.Frame, a *ether.ARP) {
	r := l.findRouter(a.SenderIP)
	if r == nil || a.TargetHW != l.mac || f.Dst != l.mac {
		return
	}
	m.answered(r, a.SenderHW)
}
