package access

import (
	"net/netip"
	"slices"

	"kedge/internal/core"
	"kedge/wire"
	"kedge/wire/ether"
	"kedge/wire/nd"
)

// handleND takes the host's Neighbor Discovery and MLD messages.
func (l *HomeLink) handleND(now core.Now, h *host, f *Frame, m nd.Message, mine bool, out []Action) []Action {
	if f.SrcIP == l.cfg.LinkLocal {
		return refuse(out, h.mac, wire.RouterImpersonate, "source is the router's link-local address")
	}
	switch m := m.(type) {
	case *nd.RouterAdvertisement:
		return refuse(out, h.mac, wire.RouterImpersonate, "Router Advertisement from a host")
	case *nd.Redirect:
		return refuse(out, h.mac, wire.RouterImpersonate, "Redirect from a host")
	case *nd.MLDQuery:
		return refuse(out, h.mac, wire.RouterImpersonate, "Multicast Listener Query from a host")
	case *nd.MLDReport:
		h.learn(f.SrcIP)
		return append(out, Attached{MAC: h.mac, By: "mld", Addr: specified(f.SrcIP), Arriving: changes(m), Answer: !changes(m) && !m.Done})
	case *nd.RouterSolicitation:
		return l.handleRS(now, h, f, m, mine, out)
	case *nd.NeighborSolicitation:
		return l.handleNS(h, f, m, mine, out)
	case *nd.NeighborAdvertisement:
		return l.handleNA(h, f, m, out)
	}
	return out
}

// handleRS answers at once: on a link of its own there are no other routers to wait for (RFC 4861 6.2.6 has the delay for
// those). Without a grant the answer is the advertisement that follows it.
func (l *HomeLink) handleRS(now core.Now, h *host, f *Frame, m *nd.RouterSolicitation, mine bool, out []Action) []Action {
	if ll, ok := m.Options.SourceLL(); ok && ll == l.cfg.MAC {
		return refuse(out, h.mac, wire.RouterImpersonate, "Router Solicitation with the router's MAC address")
	}
	h.learn(f.SrcIP)
	out = append(out, Attached{MAC: h.mac, By: "rs", Addr: specified(f.SrcIP), Wants: V6, Arriving: true})
	if mine && h.has6() && now.Boot < h.ends {
		return l.advertise(now, h, out)
	}
	return out
}

// handleNS answers for the router's link-local address and for nothing else: everything in the host's prefixes is the host
// itself (RFC 5213 6.8), and its own addresses must pass Duplicate Address Detection.
func (l *HomeLink) handleNS(h *host, f *Frame, m *nd.NeighborSolicitation, mine bool, out []Action) []Action {
	if ll, ok := m.Options.SourceLL(); ok && ll == l.cfg.MAC {
		return refuse(out, h.mac, wire.RouterImpersonate, "Neighbor Solicitation with the router's MAC address")
	}
	h.learn(f.SrcIP)
	dad := f.SrcIP.IsUnspecified()
	seen := Attached{MAC: h.mac, By: "ns", Addr: f.SrcIP, Arriving: dad}
	if dad {
		seen.Addr = m.Target
		if m.Target == l.cfg.LinkLocal {
			// It wants the router's address as its own: the answer below defends it (RFC 4862 5.4.3).
			seen.Addr = netip.Addr{}
			out = refuse(out, h.mac, wire.RouterImpersonate, "Duplicate Address Detection for the router's address")
		}
	}
	out = append(out, seen)
	if !mine || m.Target != l.cfg.LinkLocal {
		return out
	}
	to := f.SrcIP
	if dad {
		to = nd.AllNodes
	}
	return transmit(out, &Frame{
		Dst: h.mac, Src: l.cfg.MAC, SrcIP: l.cfg.LinkLocal, DstIP: to,
		Body: &nd.NeighborAdvertisement{
			Router: true, Solicited: !dad, Override: true, Target: l.cfg.LinkLocal,
			Options: nd.Options{nd.TargetLinkLayer(l.cfg.MAC)},
		},
	})
}

func (l *HomeLink) handleNA(h *host, f *Frame, m *nd.NeighborAdvertisement, out []Action) []Action {
	if ll, ok := m.Options.TargetLL(); m.Target == l.cfg.LinkLocal || ok && ll == l.cfg.MAC {
		return refuse(out, h.mac, wire.RouterImpersonate, "Neighbor Advertisement for the router")
	}
	h.learn(f.SrcIP)
	out = append(out, Attached{MAC: h.mac, By: "na", Addr: specified(f.SrcIP), Arriving: !m.Solicited, Answer: m.Solicited})
	if h.has6() && !l.ours(h, m.Target) {
		return refuse(out, h.mac, wire.WrongAddress, "Neighbor Advertisement for an address out of the host's prefixes")
	}
	return out
}

// ours says whether a is link-local or in one of the host's prefixes.
func (l *HomeLink) ours(h *host, a netip.Addr) bool {
	return a.IsLinkLocalUnicast() ||
		slices.ContainsFunc(h.grant.Prefixes, func(p netip.Prefix) bool { return p.Contains(a) })
}

// handleEcho answers a ping of the router's link-local address.
func (l *HomeLink) handleEcho(h *host, f *Frame, m *nd.Echo, mine bool, out []Action) []Action {
	if f.SrcIP == l.cfg.LinkLocal {
		return refuse(out, h.mac, wire.RouterImpersonate, "source is the router's link-local address")
	}
	out = append(out, Attached{MAC: h.mac, By: "data", Addr: specified(f.SrcIP)})
	if !mine {
		return out
	}
	if f.SrcIP.IsUnspecified() || !l.ours(h, f.SrcIP) {
		return refuse(out, h.mac, wire.WrongSource, "echo")
	}
	h.learn(f.SrcIP)
	return transmit(out, &Frame{
		Dst: h.mac, Src: l.cfg.MAC, SrcIP: l.cfg.LinkLocal, DstIP: f.SrcIP,
		Body: &nd.Echo{Reply: true, ID: m.ID, Seq: m.Seq, Data: slices.Clone(m.Data)},
	})
}

// Probe asks the host whether it is still there (RFC 4861 7.3): a Neighbor Solicitation for its link-local address and an
// ARP Request for its IPv4 home address, unicast; a Multicast Listener Query if neither is known. Each answer comes back
// as Attached, by na, arp or mld.
func (l *HomeLink) Probe(now core.Now, mac core.MAC, out []Action) []Action {
	if ether.IsGroup(mac) || mac == l.cfg.MAC {
		return refuse(out, mac, wire.WrongMAC, "no host has this MAC address")
	}
	h := l.hosts[mac]
	if h == nil {
		return l.query(mac, out)
	}
	_, v4 := h.lease(now)
	if v4 {
		out = l.probeARP(h, out)
	}
	if h.linkLocal.IsValid() {
		return transmit(out, &Frame{
			Dst: mac, Src: l.cfg.MAC, SrcIP: l.cfg.LinkLocal, DstIP: h.linkLocal,
			Body: &nd.NeighborSolicitation{Target: h.linkLocal, Options: nd.Options{nd.SourceLinkLayer(l.cfg.MAC)}},
		})
	}
	if v4 && !h.has6() {
		return out
	}
	return l.query(mac, out)
}

// Ask asks a host that the link may know nothing of whether it has an address, unicast: by a Neighbor Solicitation, or by an
// ARP Request from its default router. Nothing is sent for an address that nobody can be asked about.
func (l *HomeLink) Ask(mac core.MAC, addr, router4 netip.Addr, out []Action) []Action {
	switch {
	case ether.IsGroup(mac) || mac == l.cfg.MAC || !addr.IsValid() || addr.IsUnspecified() || addr.IsMulticast() || addr == l.cfg.LinkLocal:
		return out
	case addr.Is6():
		return transmit(out, &Frame{
			Dst: mac, Src: l.cfg.MAC, SrcIP: l.cfg.LinkLocal, DstIP: addr,
			Body: &nd.NeighborSolicitation{Target: addr, Options: nd.Options{nd.SourceLinkLayer(l.cfg.MAC)}},
		})
	case !router4.IsValid() || addr == router4:
		return out
	}
	return transmit(out, &Frame{
		Dst: mac, Src: l.cfg.MAC, SrcIP: router4, DstIP: addr,
		Body: &ether.ARP{Op: ether.ARPRequest, SenderHW: l.cfg.MAC, SenderIP: router4, TargetIP: addr},
	})
}

// query is a general query to one host: every host with IPv6 must report (RFC 3810 6.2), under its link-local address.
func (l *HomeLink) query(mac core.MAC, out []Action) []Action {
	return transmit(out, &Frame{
		Dst: mac, Src: l.cfg.MAC, SrcIP: l.cfg.LinkLocal, DstIP: nd.AllNodes,
		Body: &nd.MLDQuery{Version: 2, MaxDelay: probeDelay, Group: netip.IPv6Unspecified(), Robustness: 2, Interval: 125},
	})
}

// changes says whether a report tells of changes (RFC 3810 5.2.12), not only how things are when somebody asks: what
// Probe gets is no sign of an arrival. Version 1 does not tell them apart.
func changes(m *nd.MLDReport) bool {
	if m.Version == 1 {
		return !m.Done
	}
	return slices.ContainsFunc(m.Records, func(r nd.MLDRecord) bool { return r.Type != nd.ModeIsInclude && r.Type != nd.ModeIsExclude })
}

// learn remembers the host's link-local address.
func (h *host) learn(src netip.Addr) {
	if src.IsLinkLocalUnicast() {
		h.linkLocal = src
	}
}

// specified is a, or the zero Addr for :: and 0.0.0.0.
func specified(a netip.Addr) netip.Addr {
	if a.IsUnspecified() {
		return netip.Addr{}
	}
	return a
}
