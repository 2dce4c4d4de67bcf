package observe

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/insomniacslk/dhcp/dhcpv4"

	"kedge/internal/access"
	"kedge/internal/core"
	"kedge/wire"
	"kedge/wire/ip"
	"kedge/wire/mobility"
	"kedge/wire/nd"
)

// Types of messages, as metric labels and in records: mobility messages first, then frames of access links.
const (
	typePBU = iota
	typePBA
	typeBU
	typeBA
	typeHeartbeat
	typeRevocation
	typeRevocationAck
	typeBindingError
	typeRefreshRequest
	typeHoTI
	typeCoTI
	typeHoT
	typeCoT
	typeSwitch
	typeOtherMH
	typeEcho
	typeEchoReply
	typeDiscovery
	typeDiscoveryReply
	typePrefixes
	typePrefixesReply
	typeRS
	typeRA
	typeNS
	typeNA
	typeARP
	typeDHCP
	typeMLD
	typeOtherFrame
	typeUnreadable
	numTypes
)

var typeNames = [numTypes]string{"pbu", "pba", "bu", "ba", "heartbeat", "bri", "bra", "be", "brr", "hoti", "coti", "hot", "cot", "has", "mh", "echo", "echo-reply",
	"dhaad-request", "dhaad-reply", "mps", "mpa",
	"rs", "ra", "ns", "na", "arp", "dhcp", "mld", "frame", "unreadable"}

// classify gives the type of a message and the status of an answer (-1 for others). It allocates nothing.
func classify(body any) (typ int, status int) {
	switch m := body.(type) {
	case *mobility.BindingUpdate:
		if m.Flags&mobility.BUProxy != 0 {
			return typePBU, -1
		}
		return typeBU, -1
	case *mobility.BindingAck:
		if m.Flags&mobility.BAProxy != 0 {
			return typePBA, int(m.Status)
		}
		return typeBA, int(m.Status)
	case *mobility.Heartbeat:
		return typeHeartbeat, -1
	case *mobility.Revocation:
		if m.Ack {
			return typeRevocationAck, int(m.Code)
		}
		return typeRevocation, -1
	case *mobility.BindingError:
		return typeBindingError, int(m.Status)
	case *mobility.BindingRefreshRequest:
		return typeRefreshRequest, -1
	case *mobility.TestInit:
		if m.CareOf {
			return typeCoTI, -1
		}
		return typeHoTI, -1
	case *mobility.Test:
		if m.CareOf {
			return typeCoT, -1
		}
		return typeHoT, -1
	case *mobility.Authorized:
		return classify(m.Message)
	case *mobility.HomeAgentSwitch:
		return typeSwitch, -1
	case mobility.Message:
		return typeOtherMH, -1
	case *nd.HomeAgentAddressDiscoveryRequest:
		return typeDiscovery, -1
	case *nd.HomeAgentAddressDiscoveryReply:
		return typeDiscoveryReply, -1
	case *nd.MobilePrefixSolicitation:
		return typePrefixes, -1
	case *nd.MobilePrefixAdvertisement:
		return typePrefixesReply, -1
	case *ip.Echo:
		if m == nil {
			return typeUnreadable, -1
		}
		if m.Reply {
			return typeEchoReply, -1
		}
		return typeEcho, -1
	case *access.Frame:
		if m == nil {
			return typeUnreadable, -1
		}
		return frameType(m.Kind()), -1
	case nil:
		return typeUnreadable, -1
	}
	return typeOtherFrame, -1
}

func frameType(kind string) int {
	switch kind {
	case "rs":
		return typeRS
	case "ra":
		return typeRA
	case "ns":
		return typeNS
	case "na":
		return typeNA
	case "arp":
		return typeARP
	case "dhcp":
		return typeDHCP
	case "mld":
		return typeMLD
	}
	return typeOtherFrame
}

// describe copies what a person wants to know of a message: enough for a ladder diagram without the packet.
func describe(dir string, p core.Path, body any, err error) (name string, f map[string]any) {
	if m, ok := body.(*mobility.Authorized); ok {
		body = m.Message // the key around it is nobody's to see
	}
	typ, status := classify(body)
	f = map[string]any{"dir": dir, "type": typeNames[typ]}
	if a := p.Local.Addr(); a.IsValid() {
		f["local"] = a.String()
	}
	if a := p.Remote.Addr(); a.IsValid() {
		f["remote"] = a.String()
	}
	if p.If != 0 {
		f["if_index"] = p.If
	}
	if p.Home.IsValid() {
		f["home"] = p.Home.String()
	}
	if p.Own.IsValid() {
		f["own"] = p.Own.String()
	}
	if p.Outer.N > 0 {
		l := &p.Outer.Layer[0]
		f["encap"], f["outer_remote"] = "ip", l.Remote.Addr().String()
		if l.Remote.Port() != 0 {
			f["encap"], f["outer_remote"] = "udp", l.Remote.String()
		}
	}
	if p.Auth.Kind != "" {
		f["auth"] = p.Auth.Kind
	}
	if status >= 0 {
		f["status"] = status
	}
	if err != nil {
		f["err"] = err.Error()
		if we := (*wire.Error)(nil); errors.As(err, &we) {
			f["drop"] = string(we.Reason)
		}
	}
	switch m := body.(type) {
	case *mobility.BindingUpdate:
		f["seq"], f["lifetime_s"], f["flags"] = m.Sequence, int(m.Lifetime)*4, m.Flags.String()
	case *mobility.BindingAck:
		f["seq"], f["lifetime_s"] = m.Sequence, int(m.Lifetime)*4
		f["status_name"] = m.Status.String()
	case *mobility.Heartbeat:
		f["seq"], f["response"] = m.Sequence, m.Response
		if c, ok := m.Options.RestartCounter(); ok {
			f["restart_counter"] = c.Value
		}
	case *mobility.Revocation:
		f["seq"] = m.Sequence
	case *mobility.Test:
		f["nonce_index"] = m.NonceIndex // its keygen token is a secret
	case *mobility.BindingError:
		if m.Home.IsValid() {
			f["unknown_home"] = m.Home.String()
		}
	case *mobility.HomeAgentSwitch:
		f["home_agents"] = joined(m.Addresses)
	case *nd.HomeAgentAddressDiscoveryRequest:
		f["id"], f["mobile_router"] = m.ID, m.Mobile
	case *nd.HomeAgentAddressDiscoveryReply:
		f["id"], f["mobile_router"], f["home_agents"] = m.ID, m.Mobile, joined(m.Addresses)
	case *nd.MobilePrefixSolicitation:
		f["id"] = m.ID
	case *nd.MobilePrefixAdvertisement:
		var prefixes []string
		for p := range m.Options.Prefixes() {
			prefixes = append(prefixes, fmt.Sprintf("%s %d/%d", p.Prefix, p.Preferred, p.Valid))
		}
		f["id"], f["prefixes"] = m.ID, strings.Join(prefixes, ", ")
	case *access.Frame:
		if m != nil {
			describeFrame(m, f)
		}
	}
	if m, ok := body.(mobility.Message); ok {
		describeOptions(m.GetOptions(), f, typ == typeBU || typ == typeBA)
	}
	return strings.ToUpper(typeNames[typ]), f
}

// joined writes addresses one after the other.
func joined(list []netip.Addr) string {
	var s []string
	for _, a := range list {
		s = append(s, a.String())
	}
	return strings.Join(s, " ")
}

// describeOptions: host says that the message is of a mobile node, not of a gateway: the same numbers have other names there.
func describeOptions(o mobility.Options, f map[string]any, host bool) {
	v4 := "draft-pmip6-v4-02"
	if host {
		v4 = "rfc5555"
	}
	if id, ok := o.MobileNodeID(); ok {
		f["sub"] = id.ID
	}
	if h, ok := o.HandoffIndicator(); ok {
		f["handoff"] = h.Value
	}
	if a, ok := o.AccessTechnology(); ok {
		f["att"] = a.Value
	}
	if hnp := slices.Collect(o.HomeNetworkPrefixes()); len(hnp) > 0 {
		var s []string
		for _, p := range hnp {
			s = append(s, p.String())
		}
		f["hnp"] = strings.Join(s, " ")
	}
	hoa := func(dialect string, a netip.Addr, bits uint8) {
		f["dialect"], f["hoa"] = dialect, a.String()+"/"+strconv.Itoa(int(bits))
	}
	if v, ok := o.IPv4HomeAddress(); ok {
		hoa(v4, v.Addr, v.PrefixLen)
	}
	if v, ok := o.IPv4AddressAck(); ok {
		hoa(v4, v.Addr, v.PrefixLen)
		f["hoa_status"] = uint8(v.Status)
	}
	if v, ok := o.IPv4HomeAddressRequest(); ok {
		hoa("rfc5844", v.Addr, v.PrefixLen)
	}
	if v, ok := o.IPv4HomeAddressReply(); ok {
		hoa("rfc5844", v.Addr, v.PrefixLen)
		f["hoa_status"] = uint8(v.Status)
	}
	if c, ok := o.AlternateCareOf(); ok {
		f["coa"] = c.Addr.String()
	}
	if c, ok := o.IPv4CareOf(); ok {
		f["coa"] = c.Addr.String()
	}
	if n, ok := o.NATDetection(); ok {
		f["force_udp"], f["nat_refresh_s"] = n.F, n.Refresh
	}
	if t, ok := o.Timestamp(); ok {
		f["timestamp"] = t.Time().UTC()
	}
	if n, ok := o.NonceIndices(); ok {
		f["home_nonce"], f["care_of_nonce"] = n.Home, n.CareOf
	}
}

func describeFrame(m *access.Frame, f map[string]any) {
	f["src_mac"], f["dst_mac"] = m.Src.String(), m.Dst.String()
	if m.SrcIP.IsValid() {
		f["src"] = m.SrcIP.String()
	}
	if m.DstIP.IsValid() {
		f["dst"] = m.DstIP.String()
	}
	if d, ok := m.Body.(*dhcpv4.DHCPv4); ok {
		f["detail"] = d.MessageType().String()
		f["xid"] = d.TransactionID.String()
		if !d.YourIPAddr.IsUnspecified() {
			f["hoa"] = d.YourIPAddr.String()
		}
	}
}
