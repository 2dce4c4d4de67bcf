package access

import (
	"net/netip"
	"slices"

	"kedge/internal/core"
	"kedge/wire"
	"kedge/wire/ether"
)

// handleARP is proxy ARP for the home subnet (RFC 5844 3.2.4, RFC 925): to one host the gateway is every other station of
// it, so that packets between hosts of one subnet pass the gateway.
func (l *HomeLink) handleARP(now core.Now, h *host, f *Frame, m *ether.ARP, mine bool, out []Action) []Action {
	switch {
	case m.SenderHW == l.cfg.MAC:
		return refuse(out, h.mac, wire.RouterImpersonate, "ARP with the router's MAC address")
	case m.SenderHW != h.mac:
		return refuse(out, h.mac, wire.WrongMAC, "ARP sender is not the frame's source")
	case l.isRouter4(h, m.SenderIP):
		return refuse(out, h.mac, wire.RouterImpersonate, "ARP from the router's address")
	}
	seen := Attached{MAC: h.mac, By: "arp", Addr: specified(m.SenderIP), Arriving: m.IsProbe() || m.IsAnnouncement()}
	seen.Answer = m.Op == ether.ARPReply && !seen.Arriving
	if other := l.owners[m.SenderIP]; other != nil && other != h {
		seen.Addr = netip.Addr{}
		return refuse(append(out, seen), h.mac, wire.AddressClaimed, "ARP sender address")
	}
	out = append(out, seen)
	if h.has4() && seen.Addr.IsValid() && seen.Addr != h.grant.IPv4.Addr() {
		return refuse(out, h.mac, wire.WrongAddress, "ARP sender address")
	}
	if !mine || m.Op != ether.ARPRequest {
		return out
	}
	router := l.isRouter4(h, m.TargetIP)
	switch {
	case router && m.IsProbe():
		// It wants the router's address as its own: the answer defends it (RFC 5227 2.4).
		out = refuse(out, h.mac, wire.RouterImpersonate, "ARP Probe for the router's address")
	case !router && !h.has4() && !m.IsProbe():
		// Right after a move the host asks for its router before the registration is done, and again only after a second.
		request := *m
		h.arp, h.arpAt = &request, now.Boot
	}
	return l.answerARP(h, m, out)
}

// answerARP replies with the router's MAC for every address of the home subnet but the host's own. An ARP Probe tests an
// address that the host is about to take, and an Announcement says that it has: any answer would be a conflict
// (RFC 5227 2.1.1), unless the address is the router's.
func (l *HomeLink) answerARP(h *host, m *ether.ARP, out []Action) []Action {
	home := h.grant.IPv4
	switch {
	case m.IsAnnouncement():
		return out
	case l.isRouter4(h, m.TargetIP):
	case m.IsProbe() || !home.IsValid() || m.TargetIP == home.Addr() || !home.Contains(m.TargetIP):
		return out
	case home.Bits() < 31 && (m.TargetIP == home.Masked().Addr() || m.TargetIP == broadcast4(home)):
		return out
	}
	return transmit(out, &Frame{
		Dst: h.mac, Src: l.cfg.MAC, SrcIP: m.TargetIP, DstIP: m.SenderIP,
		Body: &ether.ARP{Op: ether.ARPReply, SenderHW: l.cfg.MAC, SenderIP: m.TargetIP, TargetHW: h.mac, TargetIP: m.SenderIP},
	})
}

// answerHeldARP answers the request that came before the grant, if the host may still wait for it.
func (l *HomeLink) answerHeldARP(now core.Now, h *host, out []Action) []Action {
	m := h.arp
	if m == nil || !h.has4() {
		return out
	}
	h.arp = nil
	if now.Boot-h.arpAt > l.cfg.DHCP.HoldTime || m.SenderIP != h.grant.IPv4.Addr() || m.TargetIP == l.router(h, l.serverID(h)) {
		return out // the router's address is announced anyway
	}
	return l.answerARP(h, m, out)
}

// announceRouter tells a host with IPv4 the MAC address of its default router unasked: its request may have been lost while
// the link came up, and it repeats one only after a second (RFC 1122 2.3.2.1). Who never asked ignores it (RFC 826).
func (l *HomeLink) announceRouter(h *host, out []Action) []Action {
	if !h.has4() {
		return out
	}
	me := l.router(h, l.serverID(h))
	if !me.IsValid() || me == h.grant.IPv4.Addr() {
		return out
	}
	return l.answerARP(h, &ether.ARP{Op: ether.ARPRequest, SenderIP: h.grant.IPv4.Addr(), TargetIP: me}, out)
}

// probeARP asks for the host's own address, unicast (RFC 1122 2.3.2.1).
func (l *HomeLink) probeARP(h *host, out []Action) []Action {
	me := l.router(h, l.serverID(h))
	if !me.IsValid() {
		return out
	}
	return transmit(out, &Frame{
		Dst: h.mac, Src: l.cfg.MAC, SrcIP: me, DstIP: h.grant.IPv4.Addr(),
		Body: &ether.ARP{Op: ether.ARPRequest, SenderHW: l.cfg.MAC, SenderIP: me, TargetIP: h.grant.IPv4.Addr()},
	})
}

// handleEcho4 answers a ping of the default router.
func (l *HomeLink) handleEcho4(now core.Now, h *host, f *Frame, m *Echo4, mine bool, out []Action) []Action {
	out = append(out, Attached{MAC: h.mac, By: "data", Addr: specified(f.SrcIP)})
	if !mine {
		return out
	}
	if lease, ok := h.lease(now); !ok || lease.Addr() != f.SrcIP {
		return refuse(out, h.mac, wire.WrongSource, "echo")
	}
	return transmit(out, &Frame{
		Dst: h.mac, Src: l.cfg.MAC, SrcIP: f.DstIP, DstIP: f.SrcIP,
		Body: &Echo4{Reply: true, Rest: slices.Clone(m.Rest)},
	})
}

// isRouter4 says whether a is an IPv4 address that the gateway has towards this host.
func (l *HomeLink) isRouter4(h *host, a netip.Addr) bool {
	if !a.Is4() || a.IsUnspecified() {
		return false
	}
	return h.has4() && a == h.grant.Router4 || !l.cfg.DHCP.Off && a == l.serverID(h)
}

func broadcast4(p netip.Prefix) netip.Addr {
	a := p.Addr().As4()
	for i := p.Bits(); i < 32; i++ {
		a[i/8] |= 0x80 >> (i % 8)
	}
	return netip.AddrFrom4(a)
}
