package ip

import (
	"encoding/binary"

	"kedge/wire"
)

// GRE is the protocol number of Generic Routing Encapsulation (RFC 2784 4, RFC 7676 2).
const GRE = 47

const (
	greLen      = 4 // octets of a GRE header without optional fields
	greChecksum = 1 << 15
	greKey      = 1 << 13
	greSequence = 1 << 12
	// greRefused: a receiver discards what has routing, a strict source route or recursion control (RFC 2784 2.3, bits 1, 4 and 5),
	// or another version (2.3.1). Bits 6 to 12 it ignores.
	greRefused = 1<<14 | 1<<11 | 1<<10 | 7

	etherIPv4 = 0x0800
	etherIPv6 = 0x86dd
)

// GREHeader is a GRE header as it was received.
type GREHeader struct {
	Proto uint8  // of the payload: IPv4 or IPv6
	Keyed bool   // with a Key (RFC 2890 2.1), which may be 0
	Key   uint32 // else 0
	Len   int    // octets of the header: 4 to 16
}

var (
	errGREShort = &wire.Error{Msg: "GRE header", Reason: wire.Truncated, RFC: "RFC 2784 2.1"}
	errGREFlags = &wire.Error{Msg: "GRE header", Field: "Reserved0, Ver", Reason: wire.BadValue, RFC: "RFC 2784 2.3"}
	errGREType  = &wire.Error{Msg: "GRE header", Field: "Protocol Type", Off: 2, Reason: wire.UnknownType, RFC: "RFC 2784 2.4"}
	errGRESum   = &wire.Error{Msg: "GRE header", Field: "Checksum", Off: 4, Reason: wire.BadChecksum, RFC: "RFC 2784 2.5"}
)

// ParseGRE reads the GRE header that b, a whole GRE packet with its payload, begins with. A Checksum is verified, a Sequence
// Number passed over (RFC 2890 2.2: order is wanted by none of the payloads here). Errors are static *wire.Error.
func ParseGRE(b []byte) (GREHeader, error) {
	g, err := ParseQuotedGRE(b)
	if err == nil && b[0]&0x80 != 0 && Checksum(b) != 0 {
		return GREHeader{}, errGRESum
	}
	return g, err
}

// ParseQuotedGRE reads a GRE header whose payload may be cut short, as in the quotation of an ICMP error.
func ParseQuotedGRE(b []byte) (GREHeader, error) {
	if len(b) < greLen {
		return GREHeader{}, errGREShort
	}
	flags := binary.BigEndian.Uint16(b)
	if flags&greRefused != 0 {
		return GREHeader{}, errGREFlags
	}
	g := GREHeader{Proto: IPv4, Len: greLen}
	switch binary.BigEndian.Uint16(b[2:]) {
	case etherIPv4:
	case etherIPv6:
		g.Proto = IPv6
	default:
		return GREHeader{}, errGREType
	}
	if flags&greChecksum != 0 {
		g.Len += 4
	}
	if flags&greKey != 0 {
		if len(b) < g.Len+4 {
			return GREHeader{}, errGREShort
		}
		g.Keyed, g.Key = true, binary.BigEndian.Uint32(b[g.Len:])
		g.Len += 4
	}
	if flags&greSequence != 0 {
		g.Len += 4
	}
	if len(b) < g.Len {
		return GREHeader{}, errGREShort
	}
	return g, nil
}

// GRELen is how many octets AppendGRE appends.
func GRELen(key uint32) int {
	if key != 0 {
		return greLen + 4
	}
	return greLen
}

// AppendGRE appends the GRE header before a payload of proto, IPv4 or IPv6, with a Key if key is not 0.
func AppendGRE(b []byte, proto uint8, key uint32) []byte {
	flags, kind := uint16(0), uint16(etherIPv4)
	if proto == IPv6 {
		kind = etherIPv6
	}
	if key != 0 {
		flags = greKey
	}
	b = binary.BigEndian.AppendUint16(b, flags)
	b = binary.BigEndian.AppendUint16(b, kind)
	if key != 0 {
		b = binary.BigEndian.AppendUint32(b, key)
	}
	return b
}
