package access

import (
	"net/netip"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"github.com/insomniacslk/dhcp/iana"

	"kedge/internal/core"
	"kedge/wire"
)

// The DHCPv4 server of the link (RFC 2131, RFC 5844 3.4.1, document 001 3.1 and 3.2.2). It owns no address: what it gives
// is the IPv4 home address of the grant, and a message that comes before the grant waits for it.

// handleDHCP takes a DHCP message of a host. The gateway must hand over every one, whatever its IP destination: a lease
// renewed with the gateway that the host has left is unicast to an address that is not here.
func (l *HomeLink) handleDHCP(now core.Now, h *host, f *Frame, m *dhcpv4.DHCPv4, mine bool, out []Action) []Action {
	switch {
	case m.OpCode != dhcpv4.OpcodeBootRequest:
		return refuse(out, h.mac, wire.RouterImpersonate, "DHCP reply from a host")
	case m.HWType != iana.HWTypeEthernet || len(m.ClientHWAddr) != 6 || core.MAC(m.ClientHWAddr) != h.mac:
		return refuse(out, h.mac, wire.WrongMAC, "chaddr is not the frame's source")
	case addr4(m.GatewayIPAddr).IsValid():
		return refuse(out, h.mac, wire.NotForUs, "giaddr: relayed from elsewhere")
	case l.cfg.DHCP.Off:
		return append(out, Attached{MAC: h.mac, By: "dhcp", Addr: addr4(m.ClientIPAddr), Arriving: starts(m)})
	}
	switch m.MessageType() {
	case dhcpv4.MessageTypeRelease:
		return l.handleRelease(h, m, out)
	case dhcpv4.MessageTypeDecline:
		return l.handleDecline(now, h, m, out)
	case dhcpv4.MessageTypeDiscover, dhcpv4.MessageTypeRequest, dhcpv4.MessageTypeInform:
	default:
		return refuse(out, h.mac, wire.UnknownType, "DHCP "+m.MessageType().String())
	}
	r := readRequest(f, m)
	seen := Attached{MAC: h.mac, By: "dhcp", Addr: addr4(m.ClientIPAddr), Hint: r.addr, Wants: V4, Arriving: starts(m)}
	if other := l.owners[r.addr]; other != nil && other != h {
		seen.Hint = netip.Addr{}
	}
	out = append(out, seen)
	if !mine {
		return out
	}
	return l.answerDHCP(now, h, f, m, true, out)
}

// starts says whether a client begins: DHCPDISCOVER, or a DHCPREQUEST in INIT-REBOOT (RFC 2131 4.3.2), which carries
// neither a server identifier nor its address in ciaddr.
func starts(m *dhcpv4.DHCPv4) bool {
	switch m.MessageType() {
	case dhcpv4.MessageTypeDiscover:
		return true
	case dhcpv4.MessageTypeRequest:
		return !addr4(m.ClientIPAddr).IsValid() && m.Options.Get(dhcpv4.OptionServerIdentifier) == nil
	}
	return false
}

// request is what a DHCPDISCOVER, DHCPREQUEST or DHCPINFORM asks, by Table 4 of RFC 2131 4.3.6.
type request struct {
	addr      netip.Addr // the address it asks for or has
	server    netip.Addr // option 54
	unicast   netip.Addr // IP destination that is no broadcast
	configure bool       // the host uses addr already: RENEWING or REBINDING
}

func readRequest(f *Frame, m *dhcpv4.DHCPv4) request {
	r := request{
		addr:   addr4(m.ClientIPAddr),
		server: addr4(m.Options[uint8(dhcpv4.OptionServerIdentifier)]),
	}
	r.configure = r.addr.IsValid() && m.MessageType() == dhcpv4.MessageTypeRequest && !r.server.IsValid()
	if !r.addr.IsValid() {
		r.addr = addr4(m.Options[uint8(dhcpv4.OptionRequestedIPAddress)])
	}
	if f.DstIP != netip.AddrFrom4([4]byte{255, 255, 255, 255}) {
		r.unicast = f.DstIP
	}
	return r
}

// answerDHCP answers now, or holds the message until the grant. fresh is false for a message that was held.
func (l *HomeLink) answerDHCP(now core.Now, h *host, f *Frame, m *dhcpv4.DHCPv4, fresh bool, out []Action) []Action {
	r, kind := readRequest(f, m), m.MessageType()
	if kind == dhcpv4.MessageTypeRequest {
		if l.foreign(h, r) {
			// Silence, no DHCPNAK: the host goes on to REBINDING and asks everybody (document 001 3.2.2).
			return refuse(out, h.mac, wire.ForeignServer, "DHCPREQUEST for another server")
		}
		if !r.addr.IsValid() {
			return refuse(out, h.mac, wire.BadValue, "DHCPREQUEST without an address")
		}
	}
	if s := specified(f.SrcIP); s.IsValid() && kind != dhcpv4.MessageTypeDiscover && s != r.addr {
		return refuse(out, h.mac, wire.WrongSource, "DHCP from another address than it is about")
	}
	lease, ok := h.lease(now)
	if !ok {
		held := *f
		h.held = &held
		h.at[timerHold] = now.Boot + l.cfg.DHCP.HoldTime
		return out
	}
	id := l.serverID(h)
	if !id.IsValid() {
		return refuse(out, h.mac, wire.NoAddressInAnswer, "no default router and no server identifier: DHCP cannot answer")
	}
	switch {
	case kind == dhcpv4.MessageTypeDiscover:
		return l.reply(h, m, dhcpv4.MessageTypeOffer, id, lease, out)
	case r.addr == lease.Addr():
		if fresh && r.configure {
			out = append(out, Renewed{MAC: h.mac})
		}
		return l.reply(h, m, dhcpv4.MessageTypeAck, id, lease, out)
	}
	out = refuse(out, h.mac, l.claim(h, r.addr), "DHCP "+kind.String())
	if kind == dhcpv4.MessageTypeInform {
		return out
	}
	return l.nak(h, m, id, "not your address", out)
}

// answerHeldDHCP answers what waited for the grant. A grant without IPv4 leaves it waiting.
func (l *HomeLink) answerHeldDHCP(now core.Now, h *host, out []Action) []Action {
	if h.held == nil {
		return out
	}
	if _, ok := h.lease(now); !ok {
		return out
	}
	f := h.held
	h.held, h.at[timerHold] = nil, never
	return l.answerDHCP(now, h, f, f.Body.(*dhcpv4.DHCPv4), false, out)
}

// denyDHCP drops the held message. A DHCPDISCOVER gets nothing, as RFC 5844 3.4.3 has it; a DHCPREQUEST is refused
// (RFC 5844 3.4.1) if the registration was, and if we know who we are for this host. When no anchor answered, silence lets
// the host keep its lease.
func (l *HomeLink) denyDHCP(now core.Now, h *host, reason string, out []Action) []Action {
	f := h.held
	if f == nil {
		return out
	}
	h.held, h.at[timerHold] = nil, never
	m := f.Body.(*dhcpv4.DHCPv4)
	id := l.serverID(h)
	if m.MessageType() != dhcpv4.MessageTypeRequest || reason == string(wire.NoAnswer) || !id.IsValid() ||
		l.foreign(h, readRequest(f, m)) {
		return out
	}
	return l.nak(h, m, id, reason, out)
}

func (l *HomeLink) handleRelease(h *host, m *dhcpv4.DHCPv4, out []Action) []Action {
	a := addr4(m.ClientIPAddr)
	switch {
	case !h.has4():
		return refuse(out, h.mac, wire.NotAttached, "DHCPRELEASE without a lease")
	case a != h.grant.IPv4.Addr():
		return refuse(out, h.mac, l.claim(h, a), "DHCPRELEASE")
	case h.released:
		return out
	}
	h.released, h.held, h.at[timerHold] = true, nil, never
	return append(out, Released{MAC: h.mac})
}

func (l *HomeLink) handleDecline(now core.Now, h *host, m *dhcpv4.DHCPv4, out []Action) []Action {
	a := addr4(m.Options[uint8(dhcpv4.OptionRequestedIPAddress)])
	switch {
	case !h.has4():
		return refuse(out, h.mac, wire.NotAttached, "DHCPDECLINE without a lease")
	case l.foreign(h, readRequest(&Frame{DstIP: netip.AddrFrom4([4]byte{255, 255, 255, 255})}, m)):
		return refuse(out, h.mac, wire.ForeignServer, "DHCPDECLINE for another server")
	case a != h.grant.IPv4.Addr():
		return refuse(out, h.mac, l.claim(h, a), "DHCPDECLINE")
	}
	h.declined, h.declinedTo = a, now.Boot+declineTime
	return append(out, Declined{MAC: h.mac, Addr: a})
}

// claim tells an address of another host from one that is only wrong.
func (l *HomeLink) claim(h *host, a netip.Addr) wire.Reason {
	if other := l.owners[a]; other != nil && other != h {
		return wire.AddressClaimed
	}
	return wire.WrongAddress
}

// foreign says whether a DHCPREQUEST is for another server: by option 54, and by its IP destination if it is unicast.
// While our identifier is not known (the default router comes with the grant), nothing is.
func (l *HomeLink) foreign(h *host, r request) bool {
	id := l.serverID(h)
	if !id.IsValid() {
		return false
	}
	return r.server.IsValid() && r.server != id || r.unicast.IsValid() && r.unicast != id
}

// serverID is the server identifier towards a host: with OwnID this gateway's own address, otherwise one that is the same
// on every gateway, so that any of them can answer a renewal (RFC 5844 3.4). Invalid = not known yet.
func (l *HomeLink) serverID(h *host) netip.Addr {
	switch {
	case l.cfg.DHCP.OwnID:
		return l.cfg.DHCP.Own
	case l.cfg.DHCP.Fixed.IsValid():
		return l.cfg.DHCP.Fixed
	}
	return h.router4
}
