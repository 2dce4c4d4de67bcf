package mobility

import (
	"fmt"

	"kedge/wire"
)

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
	OptRestartCounter         OptionType = 28 // RFC 5847 3.4
	OptIPv4HomeAddress        OptionType = 29 // RFC 5555 3.1.1
	OptIPv4AddressAck         OptionType = 30 // RFC 5555 3.2.1
	OptNATDetection           OptionType = 31 // RFC 5555 3.2.2
	OptIPv4CareOf             OptionType = 32 // RFC 5555 3.1.2
	OptGREKey                 OptionType = 33 // RFC 5845 6.1
	OptIPv4HomeAddressRequest OptionType = 36 // RFC 5844 3.3.1
	OptIPv4HomeAddressReply   OptionType = 37 // RFC 5844 3.3.2
	OptIPv4DefaultRouter      OptionType = 38 // RFC 5844 3.3.3
	OptIPv4DHCPSupportMode    OptionType = 39 // RFC 5844 3.3.4
	maxOptions                           = 64 // more in one message is an error: no honest message comes near
)

// form is what the RFC of an option says about its shape. An option without one is of an unknown type.
type form struct {
	name, rfc string
	min, max  uint8 // data octets
	// The type octet stands on an octet that is y more than a multiple of n, counted from the Mobility Header's start.
	n, y int
	// prefix is the octet of the data that holds a prefix length, its shift and greatest value; no limit: no such field.
	prefix prefixField
}

type prefixField struct{ octet, shift, limit uint8 }

var forms = [256]form{
	OptPad1:                   {name: "Pad1", rfc: "RFC 6275 6.2.2"},
	OptPadN:                   {name: "PadN", rfc: "RFC 6275 6.2.3", max: 255},
	OptBindingRefreshAdvice:   {name: "Binding Refresh Advice", rfc: "RFC 6275 6.2.4", min: 2, max: 2, n: 2},
	OptAlternateCareOf:        {name: "Alternate Care-of Address", rfc: "RFC 6275 6.2.5", min: 16, max: 16, n: 8, y: 6},
	OptNonceIndices:           {name: "Nonce Indices", rfc: "RFC 6275 6.2.6", min: 4, max: 4, n: 2},
	OptBindingAuthorization:   {name: "Binding Authorization Data", rfc: "RFC 6275 6.2.7", min: 1, max: 255, n: 8, y: 2},
	OptMobileNetworkPrefix:    {name: "Mobile Network Prefix", rfc: "RFC 3963 4.3", min: 18, max: 18, n: 8, y: 4, prefix: prefixField{1, 0, 128}},
	OptMobileNodeID:           {name: "Mobile Node Identifier", rfc: "RFC 4283 3", min: 1, max: 255},
	OptAuthentication:         {name: "Mobility Message Authentication", rfc: "RFC 4285 5", min: 5, max: 255, n: 4, y: 1},
	OptMessageID:              {name: "Mobility Message Replay Protection", rfc: "RFC 4285 6", min: 8, max: 8, n: 8, y: 2},
	OptVendorSpecific:         {name: "Vendor Specific", rfc: "RFC 5094 3", min: 5, max: 255, n: 4, y: 2},
	OptServiceSelection:       {name: "Service Selection", rfc: "RFC 5149 3", min: 1, max: 255},
	OptHomeNetworkPrefix:      {name: "Home Network Prefix", rfc: "RFC 5213 8.3", min: 18, max: 18, n: 8, y: 4, prefix: prefixField{1, 0, 128}},
	OptHandoffIndicator:       {name: "Handoff Indicator", rfc: "RFC 5213 8.4", min: 2, max: 2},
	OptAccessTechnology:       {name: "Access Technology Type", rfc: "RFC 5213 8.5", min: 2, max: 2},
	OptLinkLayerID:            {name: "Mobile Node Link-layer Identifier", rfc: "RFC 5213 8.6", min: 3, max: 255, n: 2},
	OptLinkLocalAddress:       {name: "Link-local Address", rfc: "RFC 5213 8.7", min: 16, max: 16, n: 8, y: 6},
	OptTimestamp:              {name: "Timestamp", rfc: "RFC 5213 8.8", min: 8, max: 8, n: 8, y: 2},
	OptRestartCounter:         {name: "Restart Counter", rfc: "RFC 5847 3.4", min: 4, max: 4, n: 4, y: 2},
	OptIPv4HomeAddress:        {name: "IPv4 Home Address", rfc: "RFC 5555 3.1.1", min: 6, max: 6, n: 4, prefix: prefixField{0, 2, 32}},
	OptIPv4AddressAck:         {name: "IPv4 Address Acknowledgement", rfc: "RFC 5555 3.2.1", min: 6, max: 6, n: 4, prefix: prefixField{1, 2, 32}},
	OptNATDetection:           {name: "NAT Detection", rfc: "RFC 5555 3.2.2", min: 6, max: 6, n: 4},
	OptIPv4CareOf:             {name: "IPv4 Care-of Address", rfc: "RFC 5555 3.1.2", min: 6, max: 6, n: 4},
	OptGREKey:                 {name: "GRE Key", rfc: "RFC 5845 6.1", min: 2, max: 6, n: 4},
	OptIPv4HomeAddressRequest: {name: "IPv4 Home Address Request", rfc: "RFC 5844 3.3.1", min: 6, max: 6, n: 4, prefix: prefixField{0, 2, 32}},
	OptIPv4HomeAddressReply:   {name: "IPv4 Home Address Reply", rfc: "RFC 5844 3.3.2", min: 6, max: 6, n: 4, prefix: prefixField{1, 2, 32}},
	OptIPv4DefaultRouter:      {name: "IPv4 Default-Router Address", rfc: "RFC 5844 3.3.3", min: 6, max: 6, n: 4},
	OptIPv4DHCPSupportMode:    {name: "IPv4 DHCP Support Mode", rfc: "RFC 5844 3.3.4", min: 2, max: 2},
}

// String is the option's name in its RFC, "option 99" for one that this package keeps raw.
func (t OptionType) String() string {
	if f := &forms[t]; f.name != "" {
		return f.name
	}
	return fmt.Sprintf("option %d", uint8(t))
}

// DataLength is how many octets follow the Length octet. That is its value but for two options that the document
// draft-soliman-v4v6-mipv6-00 counts in units of eight octets, so that "1" stands for four or six octets of data; whoever
// reads on after one octet would take the address for options.
func DataLength(t OptionType, length uint8) int {
	if length == shortLength {
		switch t {
		case OptIPv4HomeAddress:
			return 4
		case OptIPv4AddressAck:
			return 6
		}
	}
	return int(length)
}

// check says why the octets after Length cannot be a value of the option's type, "" if they can.
func (o Option) check() wire.Reason {
	f := &forms[o.Type]
	if f.name == "" {
		return ""
	}
	prefix := f.prefix.limit > 0
	switch o.Type {
	case OptIPv4HomeAddress:
		if len(o.Data) == 4 { // the layout without prefix length
			return ""
		}
	case OptIPv4AddressAck: // the prefix length is only valid in case of success, RFC 5555 3.2.1
		prefix = o.Length != shortLength && len(o.Data) == 6 && o.Data[0] < 128
	case OptGREKey:
		if len(o.Data) != 2 && len(o.Data) != 6 {
			return wire.BadOptionLength
		}
	}
	if len(o.Data) < int(f.min) || len(o.Data) > int(f.max) {
		return wire.BadOptionLength
	}
	if prefix && o.Data[f.prefix.octet]>>f.prefix.shift > f.prefix.limit {
		return wire.BadPrefixLength
	}
	return ""
}

// place is the alignment of a TLV that starts with its type octet: y more than a multiple of n.
func place(tlv []byte) (n, y int) {
	f := &forms[tlv[0]]
	switch OptionType(tlv[0]) {
	case OptIPv4HomeAddress:
		if len(tlv) == 6 { // the address follows Length directly
			return 4, 2
		}
	case OptLinkLayerID: // as its size needs, RFC 5213 8.6
		if id := len(tlv) - 4; id%8 == 0 {
			return 8, 4
		} else if id%4 == 0 {
			return 4, 0
		}
	}
	return max(f.n, 1), f.y
}
