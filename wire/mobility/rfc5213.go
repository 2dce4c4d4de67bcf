package mobility

import (
	"encoding/binary"
	"iter"
	"net/netip"
)

// HomeNetworkPrefix is a prefix of the mobile node's home link, RFC 5213 8.3; ::/0 (ALL_ZERO) asks for allocation. Bits
// behind the prefix length stay as they came.
type HomeNetworkPrefix struct{ Prefix netip.Prefix }

func (HomeNetworkPrefix) OptionType() OptionType { return OptHomeNetworkPrefix }

func (v HomeNetworkPrefix) appendTLV(b []byte) []byte {
	return appendPrefix(append(b, byte(OptHomeNetworkPrefix), 18), v.Prefix)
}

func decodeHomeNetworkPrefix(o Option) HomeNetworkPrefix { return HomeNetworkPrefix{prefix(o.Data)} }

// HomeNetworkPrefix reads the first such option.
func (o Options) HomeNetworkPrefix() (HomeNetworkPrefix, bool) {
	return read(o, OptHomeNetworkPrefix, decodeHomeNetworkPrefix)
}

// HomeNetworkPrefixes gives the prefixes of all such options: a session may have several.
func (o Options) HomeNetworkPrefixes() iter.Seq[netip.Prefix] {
	return o.prefixes(OptHomeNetworkPrefix)
}

// Handoff Indicator values, RFC 5213 8.4.
const (
	HandoffNewInterface   uint8 = 1 // attachment over a new interface
	HandoffInterfaces     uint8 = 2 // handoff between two different interfaces of the mobile node
	HandoffGateways       uint8 = 3 // handoff between mobile access gateways for the same interface
	HandoffUnknown        uint8 = 4
	HandoffReRegistration uint8 = 5 // not changed
)

// HandoffIndicator says how the mobile node came to the gateway, RFC 5213 8.4.
type HandoffIndicator struct{ Value uint8 }

func (HandoffIndicator) OptionType() OptionType { return OptHandoffIndicator }

func (v HandoffIndicator) appendTLV(b []byte) []byte {
	return append(b, byte(OptHandoffIndicator), 2, 0, v.Value)
}

func decodeHandoffIndicator(o Option) HandoffIndicator { return HandoffIndicator{o.Data[1]} }

// HandoffIndicator reads the first such option.
func (o Options) HandoffIndicator() (HandoffIndicator, bool) {
	return read(o, OptHandoffIndicator, decodeHandoffIndicator)
}

// Access Technology Type values, RFC 5213 8.5.
const (
	AccessVirtual  uint8 = 1
	AccessPPP      uint8 = 2
	AccessEthernet uint8 = 3
	AccessWLAN     uint8 = 4
	AccessWiMAX    uint8 = 5
)

// AccessTechnology is the kind of link on which the mobile node is, RFC 5213 8.5.
type AccessTechnology struct{ Value uint8 }

func (AccessTechnology) OptionType() OptionType { return OptAccessTechnology }

func (v AccessTechnology) appendTLV(b []byte) []byte {
	return append(b, byte(OptAccessTechnology), 2, 0, v.Value)
}

func decodeAccessTechnology(o Option) AccessTechnology { return AccessTechnology{o.Data[1]} }

// AccessTechnology reads the first such option.
func (o Options) AccessTechnology() (AccessTechnology, bool) {
	return read(o, OptAccessTechnology, decodeAccessTechnology)
}

// LinkLayerID is the Mobile Node Link-layer Identifier, such as a MAC address, RFC 5213 8.6. Read, ID aliases the message.
type LinkLayerID struct{ ID []byte }

func (LinkLayerID) OptionType() OptionType { return OptLinkLayerID }

func (v LinkLayerID) appendTLV(b []byte) []byte {
	return append(append(b, byte(OptLinkLayerID), byte(2+len(v.ID)), 0, 0), v.ID...)
}

func decodeLinkLayerID(o Option) LinkLayerID { return LinkLayerID{o.Data[2:]} }

// LinkLayerID reads the first such option.
func (o Options) LinkLayerID() (LinkLayerID, bool) {
	return read(o, OptLinkLayerID, decodeLinkLayerID)
}

// LinkLocalAddress is the gateway's link-local address on the link to the mobile node; :: asks the anchor for one,
// RFC 5213 8.7.
type LinkLocalAddress struct{ Addr netip.Addr }

func (LinkLocalAddress) OptionType() OptionType { return OptLinkLocalAddress }

func (v LinkLocalAddress) appendTLV(b []byte) []byte {
	return appendIPv6(append(b, byte(OptLinkLocalAddress), 16), v.Addr)
}

func decodeLinkLocalAddress(o Option) LinkLocalAddress { return LinkLocalAddress{ipv6(o.Data)} }

// LinkLocalAddress reads the first such option.
func (o Options) LinkLocalAddress() (LinkLocalAddress, bool) {
	return read(o, OptLinkLocalAddress, decodeLinkLocalAddress)
}

func (Timestamp) OptionType() OptionType { return OptTimestamp }

func (v Timestamp) appendTLV(b []byte) []byte { return appendTLV64(b, OptTimestamp, v.Value) }

func decodeTimestamp(o Option) Timestamp { return Timestamp{binary.BigEndian.Uint64(o.Data)} }

// Timestamp reads the first such option.
func (o Options) Timestamp() (Timestamp, bool) { return read(o, OptTimestamp, decodeTimestamp) }
