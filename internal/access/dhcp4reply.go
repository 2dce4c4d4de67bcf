package access

import (
	"encoding/binary"
	"net/netip"
	"slices"

	"github.com/insomniacslk/dhcp/dhcpv4"

	"kedge/wire/ip"
)

// Octets of a DHCP message that every client takes, with its IP and UDP headers (RFC 2131 2).
const dhcpMinMaxSize = 576

// reply builds DHCPOFFER or DHCPACK (RFC 2131 4.3.1, Table 3).
func (l *HomeLink) reply(h *host, m *dhcpv4.DHCPv4, kind dhcpv4.MessageType, id netip.Addr, lease netip.Prefix, out []Action) []Action {
	inform := m.MessageType() == dhcpv4.MessageTypeInform
	a := h.answer(m, kind, id)
	if !inform {
		a.YourIPAddr = lease.Addr().AsSlice()
		a.Options[uint8(dhcpv4.OptionIPAddressLeaseTime)] = u32(seconds(l.cfg.DHCP.Lease))
		a.Options[uint8(dhcpv4.OptionRenewTimeValue)] = u32(seconds(l.cfg.DHCP.Lease / 2))
		a.Options[uint8(dhcpv4.OptionRebindingTimeValue)] = u32(seconds(l.cfg.DHCP.Lease * 7 / 8))
	}
	if kind == dhcpv4.MessageTypeAck {
		a.ClientIPAddr = fourOctets(m.ClientIPAddr)
	}
	// What RFC 5844 3.4.3 demands is there whether it was asked for or not.
	a.Options[uint8(dhcpv4.OptionSubnetMask)] = u32(^uint32(0) << (32 - lease.Bits()))
	if r := l.router(h, id); r.IsValid() {
		a.Options[uint8(dhcpv4.OptionRouter)] = r.AsSlice()
	}
	if mtu := l.cfg.MTU; mtu >= 68 {
		a.Options[uint8(dhcpv4.OptionInterfaceMTU)] = binary.BigEndian.AppendUint16(nil, uint16(min(mtu, 0xffff)))
	}
	l.addRequested(m, a)

	dst := netip.AddrFrom4([4]byte{255, 255, 255, 255})
	if c := addr4(m.ClientIPAddr); c.IsValid() {
		dst = c
	} else if !m.IsBroadcast() {
		dst = lease.Addr()
	}
	return transmit(out, &Frame{Dst: h.mac, Src: l.cfg.MAC, SrcIP: id, DstIP: dst, Body: a})
}

// nak builds DHCPNAK. It is always broadcast, since the host may have no right address (RFC 2131 4.3.2); on the link layer
// it goes to this host alone, as everything here does.
func (l *HomeLink) nak(h *host, m *dhcpv4.DHCPv4, id netip.Addr, why string, out []Action) []Action {
	a := h.answer(m, dhcpv4.MessageTypeNak, id)
	a.Options[uint8(dhcpv4.OptionMessage)] = []byte(why)
	dst := netip.AddrFrom4([4]byte{255, 255, 255, 255})
	return transmit(out, &Frame{Dst: h.mac, Src: l.cfg.MAC, SrcIP: id, DstIP: dst, Body: a})
}

// answer is what all three have in common. The client identifier goes back as it came (RFC 6842 3, which replaces the rule
// of RFC 2131).
func (h *host) answer(m *dhcpv4.DHCPv4, kind dhcpv4.MessageType, id netip.Addr) *dhcpv4.DHCPv4 {
	zero := []byte{0, 0, 0, 0}
	a := &dhcpv4.DHCPv4{
		OpCode: dhcpv4.OpcodeBootReply, HWType: m.HWType, TransactionID: m.TransactionID, Flags: m.Flags & 0x8000,
		ClientHWAddr: slices.Clone(h.mac[:]), ClientIPAddr: zero, YourIPAddr: zero, ServerIPAddr: zero, GatewayIPAddr: zero,
		Options: dhcpv4.Options{
			uint8(dhcpv4.OptionDHCPMessageType):  {byte(kind)},
			uint8(dhcpv4.OptionServerIdentifier): id.AsSlice(),
		},
	}
	if c, ok := m.Options[uint8(dhcpv4.OptionClientIdentifier)]; ok {
		a.Options[uint8(dhcpv4.OptionClientIdentifier)] = slices.Clone(c)
	}
	return a
}

// router is the default router, or our own address where the anchor named none and the host can reach it.
func (l *HomeLink) router(h *host, id netip.Addr) netip.Addr {
	if r := h.grant.Router4; r.IsValid() || !h.grant.IPv4.Contains(id) {
		return r
	}
	return id
}

// addRequested adds the configured options that the parameter request list names, all of them if there is no list, in its
// order as long as they fit what the client takes (RFC 2131 4.3.1, RFC 2132 9.8 and 9.10).
func (l *HomeLink) addRequested(m, a *dhcpv4.DHCPv4) {
	limit := dhcpMinMaxSize
	if o := m.Options[uint8(dhcpv4.OptionMaximumDHCPMessageSize)]; len(o) == 2 {
		limit = max(limit, int(binary.BigEndian.Uint16(o)))
	}
	limit -= ip.IPv4Len + ip.UDPLen
	have := l.configured()
	list, ok := m.Options[uint8(dhcpv4.OptionParameterRequestList)]
	if !ok {
		for code := range have {
			list = append(list, code)
		}
		slices.Sort(list)
	}
	size := dhcpMinLen + 1
	for _, v := range a.Options {
		size += optionSize(v)
	}
	for _, code := range list {
		v, ok := have[code]
		if _, there := a.Options[code]; !ok || there || size+optionSize(v) > limit {
			continue
		}
		a.Options[code] = v
		size += optionSize(v)
	}
}

// optionSize is the octets of an option on the wire, split as RFC 3396 has it.
func optionSize(v []byte) int { return len(v) + 2*max(1, (len(v)+254)/255) }

// configured is what the operator has set, by option code.
func (l *HomeLink) configured() map[uint8][]byte {
	have := map[uint8][]byte{}
	for code, v := range l.cfg.DHCP.Extra {
		if !reserved(code) {
			have[code] = v
		}
	}
	var dns []byte
	for _, a := range l.cfg.DNS {
		if a.Is4() {
			dns = append(dns, a.AsSlice()...)
		}
	}
	if len(dns) > 0 {
		have[uint8(dhcpv4.OptionDomainNameServer)] = dns
	}
	if len(l.cfg.Search) > 0 {
		have[uint8(dhcpv4.OptionDomainName)] = []byte(l.cfg.Search[0])
	}
	return have
}

// reserved options are the protocol's own or come from the grant: no configuration may set them.
func reserved(code uint8) bool {
	switch code {
	case 0, 1, 3, 26, 82, 255:
		return true
	}
	return 50 <= code && code <= 61
}

func u32(v uint32) []byte { return binary.BigEndian.AppendUint32(nil, v) }

func fourOctets(b []byte) []byte {
	if a := addr4(b); a.IsValid() {
		return a.AsSlice()
	}
	return []byte{0, 0, 0, 0}
}
