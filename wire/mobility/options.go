package mobility

import "net/netip"

// OptionType is the type of a mobility option.
type OptionType uint8

const (
	OptPad1                   OptionType = 0
	OptPadN                   OptionType = 1
	OptBindingRefreshAdvice   OptionType = 2  // RFC 6275 6.2.4
	OptAlternateCareOf        OptionType = 3  // RFC 6275 6.2.5
	OptNonceIndices           OptionType = 4  // RFC 6275 6.2.6
	OptBindingAuthorization   OptionType = 5  // RFC 6275 6.2.7
	OptMobileNetworkPrefix    OptionType = 6  // RFC 3963 4.3
	OptMobileNodeID           OptionType = 8  // RFC 4283
	OptAuthentication         OptionType = 9  // RFC 4285 5
	OptMessageID              OptionType = 10 // RFC 4285 6: mesg-id, replay protection
	OptVendorSpecific         OptionType = 19 // RFC 5094
	OptServiceSelection       OptionType = 20 // RFC 5149
	OptHomeNetworkPrefix      OptionType = 22 // RFC 5213 8.3
	OptHandoffIndicator       OptionType = 23 // RFC 5213 8.4
	OptAccessTechnology       OptionType = 24 // RFC 5213 8.5
	OptLinkLayerID            OptionType = 25 // RFC 5213 8.6
	OptLinkLocalAddress       OptionType = 26 // RFC 5213 8.7
	OptTimestamp              OptionType = 27 // RFC 5213 8.8
	OptRestartCounter         OptionType = 28 // RFC 5847 3.2
	OptIPv4HomeAddress        OptionType = 29 // RFC 5555 3.1.1
	OptIPv4AddressAck         OptionType = 30 // RFC 5555 3.2.1
	OptNATDetection           OptionType = 31 // RFC 5555 3.2.2
	OptIPv4CareOf             OptionType = 32 // RFC 5555 3.1.2
	OptGREKey                 OptionType = 33 // RFC 5845 6
	OptIPv4HomeAddressRequest OptionType = 36 // RFC 5844 3.3.1
	OptIPv4HomeAddressReply   OptionType = 37 // RFC 5844 3.3.2
	OptIPv4DefaultRouter      OptionType = 38 // RFC 5844 3.3.3
	OptIPv4DHCPSupportMode    OptionType = 39 // RFC 5844 3.3.4
	maxOptions                           = 64 // more in one message is an error: no honest message comes near
)

// Handoff Indicator values, RFC 5213 8.4.
const (
	HandoffNewInterface  uint8 = 1 // attachment over a new interface
	HandoffInterfaces    uint8 = 2 // handoff between two different interfaces of the mobile node
	HandoffGateways      uint8 = 3 // handoff between mobile access gateways for the same interface
	HandoffUnknown       uint8 = 4
	HandoffReRegistation uint8 = 5 // not changed
)

// Access Technology Type values, RFC 5213 8.5.
const (
	AccessVirtual  uint8 = 1
	AccessPPP      uint8 = 2
	AccessEthernet uint8 = 3
	AccessWLAN     uint8 = 4
	AccessWiMAX    uint8 = 5
)

// Value is a typed option that can be added to Options: one of the value types below.
type Value interface {
	// OptionType is the type octet it is written with.
	OptionType() OptionType
	// appendData writes the octets after the length octet.
	appendData(b []byte) []byte
}

// Typed options. Where a type stands for several numbers (IPv4Address and others), the field Opt chooses one.
type (
	BindingRefreshAdvice struct{ Interval uint16 } // units of 4 s
	AlternateCareOf      struct{ Addr netip.Addr }
	NonceIndices         struct{ Home, CareOf uint16 }
	// BindingAuthorization is option 5; MAC aliases the message.
	BindingAuthorization struct{ Authenticator []byte }
	MobileNetworkPrefix  struct{ Prefix netip.Prefix }
	// MobileNodeID: Subtype 1 = NAI (RFC 4283 3.1). A zero-length ID goes with status 160 (RFC 5213 5.3.1).
	MobileNodeID struct {
		Subtype uint8
		ID      string
	}
	Authentication struct {
		Subtype       uint8 // 1 = MN-HA, 2 = MN-AAA
		SPI           uint32
		Authenticator []byte
	}
	MessageID      struct{ Timestamp uint64 } // NTP format
	VendorSpecific struct {
		Vendor  uint32
		Subtype uint8
		Data    []byte
	}
	ServiceSelection  struct{ Identifier string }
	HomeNetworkPrefix struct{ Prefix netip.Prefix } // ::/0 (ALL_ZERO) asks for allocation
	HandoffIndicator  struct{ Value uint8 }
	AccessTechnology  struct{ Value uint8 }
	LinkLayerID       struct{ ID []byte }
	LinkLocalAddress  struct{ Addr netip.Addr } // :: asks the anchor for one
	// Timestamp: 48 bits of seconds since 1970 and 16 bits of 1/65536 s, RFC 5213 8.8. See TimestampOf and Time.
	Timestamp      struct{ Value uint64 }
	RestartCounter struct{ Value uint32 }
	// IPv4HomeAddress is option 29. The P flag asks for a prefix (RFC 5555 3.1.1). Short marks the 6-octet layout of
	// document 004 (Length 1 or 4; no prefix length, no P).
	IPv4HomeAddress struct {
		PrefixLen uint8
		P         bool
		Addr      netip.Addr
		Short     uint8 // 0 = RFC 5555; else the literal Length octet 1 or 4
	}
	// IPv4AddressAck is option 30. Short as in IPv4HomeAddress: literal Length octet 1, same layout.
	IPv4AddressAck struct {
		Status    AddressStatus
		PrefixLen uint8
		Addr      netip.Addr
		Short     uint8
	}
	NATDetection struct {
		F       bool
		Refresh uint32 // seconds; 0 = default, all ones = no keepalive
	}
	IPv4CareOf struct{ Addr netip.Addr }
	GREKey     struct{ Key uint32 }
	// IPv4HomeAddressRequest is option 36; 0.0.0.0 with PrefixLen 0 asks for allocation.
	IPv4HomeAddressRequest struct {
		PrefixLen uint8
		Addr      netip.Addr
	}
	IPv4HomeAddressReply struct { // option 37
		Status    AddressStatus
		PrefixLen uint8
		Addr      netip.Addr
	}
	IPv4DefaultRouter   struct{ Addr netip.Addr }
	IPv4DHCPSupportMode struct{ Server bool } // S flag
	// RawOption is any other option.
	RawOption struct {
		Opt  OptionType
		Data []byte
	}
)
