package ip

import (
	"encoding/binary"

	"kedge/wire"
)

// Layouts of the TLV header between UDP and what it carries (core.Layer.TLV).
const (
	TLVNone = 0
	// TLV5845 is that of RFC 5845 7.2: Type 0 and Res., 4 bits each, Next Header, Length of the payload in 16 bits.
	TLV5845 = 1
	// TLV2007 is that of the drafts that became RFC 5555: Type 1 IPv4, 2 IPv6, 3 IPsec, 4 GRE; Length in 8 bits; 16 bits of 0. A
	// length of more than 255 octets does not fit: its low 8 bits are written.
	TLV2007 = 2
	TLVLen  = 4 // octets of either
)

var tlvTypes = [...]uint8{1: IPv4, 2: IPv6, 3: ESP, 4: GRE}

var (
	errTLVShort = &wire.Error{Msg: "TLV header", Reason: wire.Truncated, RFC: "RFC 5845 7.2"}
	errTLVType  = &wire.Error{Msg: "TLV header", Field: "Type, Next Header", Reason: wire.UnknownType, RFC: "RFC 5845 7.2"}
	errTLVLen   = &wire.Error{Msg: "TLV header", Field: "Length", Off: 2, Reason: wire.BadLength, RFC: "RFC 5845 7.1"}
)

// IsTLV reports whether the payload of a UDP datagram begins with a TLV header, not with an IP header, by the first octet.
func IsTLV(b []byte) bool { return len(b) > 0 && int(b[0]) < len(tlvTypes) }

// ParseTLV reads the TLV header that the payload of a UDP datagram begins with, in either layout, and returns which it was and the
// protocol of what follows: IPv4, IPv6, GRE or ESP. A length that differs from what is there is an error (RFC 5845 7.1), as is
// another protocol. Errors are static *wire.Error.
//
// Octets 1 to 4 are the Types of the older layout, so that a Res. field that is not 0, which RFC 5845 has ignored, is not.
func ParseTLV(b []byte) (layout, proto uint8, err error) {
	layout, proto, err = ParseQuotedTLV(b)
	if err != nil {
		return 0, 0, err
	}
	n := len(b) - TLVLen
	if layout == TLV5845 && int(binary.BigEndian.Uint16(b[2:])) != n || layout == TLV2007 && b[1] != uint8(n) {
		return 0, 0, errTLVLen
	}
	return layout, proto, nil
}

// ParseQuotedTLV reads a TLV header whose payload may be cut short, as in the quotation of an ICMP error.
func ParseQuotedTLV(b []byte) (layout, proto uint8, err error) {
	if len(b) < TLVLen {
		return 0, 0, errTLVShort
	}
	if b[0] != 0 {
		if int(b[0]) >= len(tlvTypes) {
			return 0, 0, errTLVType
		}
		return TLV2007, tlvTypes[b[0]], nil
	}
	switch b[1] {
	case IPv4, IPv6, GRE, ESP:
		return TLV5845, b[1], nil
	}
	return 0, 0, errTLVType
}

// AppendTLV appends a TLV header in a layout before n octets of proto: IPv4, IPv6, GRE or ESP.
func AppendTLV(b []byte, layout, proto uint8, n int) []byte {
	if layout == TLV5845 {
		return binary.BigEndian.AppendUint16(append(b, 0, proto), uint16(n))
	}
	t := uint8(0)
	for i, p := range tlvTypes {
		if p == proto {
			t = uint8(i)
		}
	}
	return append(b, t, uint8(n), 0, 0)
}
