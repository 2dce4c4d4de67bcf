// Package nd reads and writes the ICMPv6 messages of an access link: Neighbor Discovery (RFC 4861) with the options of
// RFC 4861, RFC 6275 7 and RFC 8106, Multicast Listener Discovery (RFC 2710, RFC 3810) and Echo (RFC 4443); and those with
// which a mobile node asks for its home agents and their prefixes from afar (RFC 6275 6.5-6.8, RFC 3963 7). Options without
// a type here (route information of RFC 4191, nonces) are kept raw and written back unchanged.
//
// Parse holds the message to the validity rules of RFC 4861 6.1, 7.1 and 8.1 and of RFC 3810 6.2: checksum, hop limit,
// code, lengths, addresses. A message that it returns may be acted upon; one of RFC 6275 comes from anywhere, and who may
// send it is the receiver's question.
package nd

import (
	"encoding/binary"
	"net/netip"

	"kedge/wire"
	"kedge/wire/ip"
)

// ICMPv6 types.
const (
	TypeEchoRequest           uint8 = 128
	TypeEchoReply             uint8 = 129
	TypeMLDQuery              uint8 = 130
	TypeMLDv1Report           uint8 = 131
	TypeMLDDone               uint8 = 132
	TypeRouterSolicitation    uint8 = 133
	TypeRouterAdvertisement   uint8 = 134
	TypeNeighborSolicitation  uint8 = 135
	TypeNeighborAdvertisement uint8 = 136
	TypeRedirect              uint8 = 137
	TypeMLDv2Report           uint8 = 143

	TypeHomeAgentAddressDiscoveryRequest uint8 = 144
	TypeHomeAgentAddressDiscoveryReply   uint8 = 145
	TypeMobilePrefixSolicitation         uint8 = 146
	TypeMobilePrefixAdvertisement        uint8 = 147
)

// HopLimit is what every Neighbor Discovery message must have on arrival, so that it cannot come from another link
// (RFC 4861 4.1 ff.). MLDHopLimit is that of Multicast Listener Discovery (RFC 3810 5).
const (
	HopLimit    uint8 = 255
	MLDHopLimit uint8 = 1
)

// Addresses of RFC 4291 2.7.1 and RFC 3810 5.2.14.
var (
	AllNodes      = netip.MustParseAddr("ff02::1")
	AllRouters    = netip.MustParseAddr("ff02::2")
	AllMLDv2      = netip.MustParseAddr("ff02::16")
	solicitedNode = netip.MustParsePrefix("ff02::1:ff00:0/104")
)

// SolicitedNode is the solicited-node multicast address of a (RFC 4291 2.7.1).
func SolicitedNode(a netip.Addr) netip.Addr {
	s, b := solicitedNode.Addr().As16(), a.As16()
	copy(s[13:], b[13:])
	return netip.AddrFrom16(s)
}

// Envelope is what the IPv6 headers around a message say.
type Envelope struct {
	Src, Dst    netip.Addr
	HopLimit    uint8
	RouterAlert bool // hop-by-hop options with Router Alert for MLD (RFC 2711)
}

// Message is one of the message types of this package.
type Message interface {
	// icmp is the ICMPv6 type.
	icmp() uint8
	// append writes what follows the checksum.
	append(b []byte) ([]byte, error)
	// parse reads what follows the checksum.
	parse(b []byte, e Envelope) error
}

// Name is the message's name in the RFC, "" for a type that this package does not know.
func Name(icmpType uint8) string {
	switch icmpType {
	case TypeEchoRequest:
		return "Echo Request"
	case TypeEchoReply:
		return "Echo Reply"
	case TypeMLDQuery:
		return "Multicast Listener Query"
	case TypeMLDv1Report:
		return "Multicast Listener Report"
	case TypeMLDDone:
		return "Multicast Listener Done"
	case TypeMLDv2Report:
		return "Version 2 Multicast Listener Report"
	case TypeRouterSolicitation:
		return "Router Solicitation"
	case TypeRouterAdvertisement:
		return "Router Advertisement"
	case TypeNeighborSolicitation:
		return "Neighbor Solicitation"
	case TypeNeighborAdvertisement:
		return "Neighbor Advertisement"
	case TypeRedirect:
		return "Redirect"
	case TypeHomeAgentAddressDiscoveryRequest:
		return "Home Agent Address Discovery Request"
	case TypeHomeAgentAddressDiscoveryReply:
		return "Home Agent Address Discovery Reply"
	case TypeMobilePrefixSolicitation:
		return "Mobile Prefix Solicitation"
	case TypeMobilePrefixAdvertisement:
		return "Mobile Prefix Advertisement"
	}
	return ""
}

func blank(icmpType uint8) Message {
	switch icmpType {
	case TypeEchoRequest, TypeEchoReply:
		return &Echo{Reply: icmpType == TypeEchoReply}
	case TypeMLDQuery:
		return &MLDQuery{}
	case TypeMLDv1Report:
		return &MLDReport{Version: 1}
	case TypeMLDDone:
		return &MLDReport{Version: 1, Done: true}
	case TypeMLDv2Report:
		return &MLDReport{Version: 2}
	case TypeRouterSolicitation:
		return &RouterSolicitation{}
	case TypeRouterAdvertisement:
		return &RouterAdvertisement{}
	case TypeNeighborSolicitation:
		return &NeighborSolicitation{}
	case TypeNeighborAdvertisement:
		return &NeighborAdvertisement{}
	case TypeRedirect:
		return &Redirect{}
	case TypeHomeAgentAddressDiscoveryRequest:
		return &HomeAgentAddressDiscoveryRequest{}
	case TypeHomeAgentAddressDiscoveryReply:
		return &HomeAgentAddressDiscoveryReply{}
	case TypeMobilePrefixSolicitation:
		return &MobilePrefixSolicitation{}
	case TypeMobilePrefixAdvertisement:
		return &MobilePrefixAdvertisement{}
	}
	return nil
}

// Parse reads one ICMPv6 message that fills b. Errors are *wire.Error: truncated, bad-checksum, unknown-type (not of this
// package; check it first), bad-hop-limit, bad-value, bad-source, bad-destination, bad-option-length, too-many-options.
// Byte slices in the message alias b.
func Parse(b []byte, e Envelope) (Message, error) {
	if len(b) < 4 {
		return nil, fault(0, "header", len(b), "RFC 4443 2.1", wire.Truncated)
	}
	t := b[0]
	m := blank(t)
	if m == nil {
		return nil, fault(t, "type", 0, "RFC 4443 2.4", wire.UnknownType)
	}
	if checksum(b, e.Src, e.Dst) != 0 {
		return nil, fault(t, "checksum", 2, "RFC 4443 2.3", wire.BadChecksum)
	}
	switch m.(type) {
	case *Echo:
	case *HomeAgentAddressDiscoveryRequest, *HomeAgentAddressDiscoveryReply, *MobilePrefixSolicitation, *MobilePrefixAdvertisement:
		if b[1] != 0 {
			return nil, fault(t, "code", 1, "RFC 6275 6.5", wire.BadValue)
		}
		// An answer has to go somewhere (RFC 6275 6.5).
		if e.Src.IsUnspecified() {
			return nil, fault(t, "source", 0, "RFC 6275 6.5", wire.BadSource)
		}
	case *MLDQuery, *MLDReport:
		if e.HopLimit != MLDHopLimit {
			return nil, fault(t, "hop limit", 0, "RFC 3810 6.2", wire.BadHopLimit)
		}
		if !e.RouterAlert {
			return nil, fault(t, "Router Alert option", 0, "RFC 3810 6.2", wire.BadValue)
		}
		// A report without a source is sent before the link-local address is usable (RFC 3810 5.2.13).
		if !e.Src.IsLinkLocalUnicast() && !e.Src.IsUnspecified() {
			return nil, fault(t, "source", 0, "RFC 3810 6.2", wire.BadSource)
		}
	default:
		if e.HopLimit != HopLimit {
			return nil, fault(t, "hop limit", 0, "RFC 4861 6.1", wire.BadHopLimit)
		}
		if b[1] != 0 {
			return nil, fault(t, "code", 1, "RFC 4861 6.1", wire.BadValue)
		}
	}
	if e.Src.IsMulticast() {
		return nil, fault(t, "source", 0, "RFC 4291 2.7", wire.BadSource)
	}
	if err := m.parse(b[4:], e); err != nil {
		return nil, err
	}
	return m, nil
}

// Append writes the ICMPv6 message with the checksum of its future IPv6 header. It fails with a *wire.Error if a field
// cannot be written.
func Append(b []byte, m Message, src, dst netip.Addr) ([]byte, error) {
	at := len(b)
	b = append(b, m.icmp(), 0, 0, 0)
	b, err := m.append(b)
	if err != nil {
		return b[:at], err
	}
	binary.BigEndian.PutUint16(b[at+2:], checksum(b[at:], src, dst))
	return b, nil
}

// checksum is the value for the checksum field while that field is zero, and zero for a message with a right one.
func checksum(b []byte, src, dst netip.Addr) uint16 {
	return ip.PseudoChecksum(src, dst, ip.ICMPv6, b)
}

func fault(t uint8, field string, off int, rfc string, r wire.Reason) error {
	name := Name(t)
	if name == "" {
		name = "ICMPv6"
	}
	return &wire.Error{Msg: name, Field: field, Off: off, RFC: rfc, Reason: r}
}

// AppendRouterAlert writes a Hop-by-Hop Options header that holds Router Alert with value 0, MLD (RFC 2711 2.1).
func AppendRouterAlert(b []byte, next uint8) []byte {
	return append(b, next, 0, optRouterAlert, 2, 0, 0, padN, 0)
}

// Hop-by-hop options (RFC 8200 4.2, RFC 2711 2.1).
const (
	pad1           = 0
	padN           = 1
	optRouterAlert = 5
)

// HasRouterAlert says whether the IPv6 packet pkt begins with a Hop-by-Hop Options header that holds Router Alert with
// value 0, MLD (RFC 2711 2.1).
func HasRouterAlert(pkt []byte) bool {
	if len(pkt) < ip.IPv6Len+8 || pkt[6] != ip.HopByHop {
		return false
	}
	o := pkt[ip.IPv6Len:]
	if n := 8 + 8*int(o[1]); n <= len(o) {
		o = o[2:n]
	} else {
		return false
	}
	for len(o) > 0 {
		if o[0] == pad1 {
			o = o[1:]
			continue
		}
		if len(o) < 2 || len(o) < 2+int(o[1]) {
			return false
		}
		if o[0] == optRouterAlert && o[1] == 2 && o[2] == 0 && o[3] == 0 {
			return true
		}
		o = o[2+int(o[1]):]
	}
	return false
}
