// Package ether reads and writes Ethernet II headers (RFC 894, RFC 2464) and ARP for IPv4 over Ethernet (RFC 826,
// RFC 5227). VLAN tags are not followed: a tagged frame has EtherType 0x8100 and its payload is the caller's affair.
package ether

import (
	"encoding/binary"

	"kedge/wire"
)

// HeaderLen is the octets of an Ethernet II header.
const HeaderLen = 14

// EtherTypes that an access link uses.
const (
	TypeIPv4 uint16 = 0x0800
	TypeARP  uint16 = 0x0806
	TypeIPv6 uint16 = 0x86dd
)

// Broadcast is the link-layer broadcast address.
var Broadcast = [6]byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}

// Header is an Ethernet II header.
type Header struct {
	Dst, Src [6]byte
	Type     uint16
}

// ParseHeader reads the header and gives the octets behind it, which alias b. They may end in padding. A value of Type
// below 0x0600 is an IEEE 802.3 length.
func ParseHeader(b []byte) (Header, []byte, error) {
	if len(b) < HeaderLen {
		return Header{}, nil, &wire.Error{Msg: "Ethernet frame", Field: "header", Off: len(b), RFC: "RFC 894", Reason: wire.Truncated}
	}
	return Header{Dst: [6]byte(b[0:6]), Src: [6]byte(b[6:12]), Type: binary.BigEndian.Uint16(b[12:14])}, b[HeaderLen:], nil
}

// Append writes the header.
func (h Header) Append(b []byte) []byte {
	b = append(append(b, h.Dst[:]...), h.Src[:]...)
	return binary.BigEndian.AppendUint16(b, h.Type)
}

// IsGroup says whether a is a multicast or broadcast address.
func IsGroup(a [6]byte) bool { return a[0]&1 != 0 }
