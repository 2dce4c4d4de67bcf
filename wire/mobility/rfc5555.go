package mobility

import (
	"encoding/binary"
	"iter"
	"net/netip"
)

// shortLength is the Length octet that draft-soliman-v4v6-mipv6-00 prints for options 29 and 30; see DataLength.
const shortLength = 1

// IPv4HomeAddress is option 29, RFC 5555 3.1.1; 0.0.0.0 asks for an address, with P for a prefix.
//
// Short is 0 for RFC 5555, else the literal Length octet of draft-soliman-v4v6-mipv6-00, 1 or 4: six octets in all, without
// prefix length and P. Put such an option last, so that a peer that reads on inside it loses no other.
type IPv4HomeAddress struct {
	PrefixLen uint8 // 0..32
	P         bool
	Addr      netip.Addr
	Short     uint8
}

func (IPv4HomeAddress) OptionType() OptionType { return OptIPv4HomeAddress }

func (v IPv4HomeAddress) appendTLV(b []byte) []byte {
	switch v.Short {
	case 0:
		return appendIPv4(append(b, byte(OptIPv4HomeAddress), 6, sixBits(v.PrefixLen)|b2u(v.P)<<1, 0), v.Addr)
	case shortLength, 4:
		return appendIPv4(append(b, byte(OptIPv4HomeAddress), v.Short), v.Addr)
	}
	return append(b, noWireForm[:]...)
}

func decodeIPv4HomeAddress(o Option) IPv4HomeAddress {
	if len(o.Data) == 4 {
		return IPv4HomeAddress{Addr: ipv4(o.Data), Short: o.Length}
	}
	return IPv4HomeAddress{PrefixLen: o.Data[0] >> 2, P: o.Data[0]&2 != 0, Addr: ipv4(o.Data[2:])}
}

// IPv4HomeAddress reads the first such option.
func (o Options) IPv4HomeAddress() (IPv4HomeAddress, bool) {
	return read(o, OptIPv4HomeAddress, decodeIPv4HomeAddress)
}

// IPv4HomeAddresses gives all such options in order.
func (o Options) IPv4HomeAddresses() iter.Seq[IPv4HomeAddress] {
	return every(o, OptIPv4HomeAddress, decodeIPv4HomeAddress)
}

// IPv4AddressAck is option 30, RFC 5555 3.2.1. PrefixLen is only there with a status below 128: it is written as zero and
// ignored otherwise. Short is 0 for RFC 5555, or 1 for that literal Length octet: same eight octets, no prefix length.
type IPv4AddressAck struct {
	Status    AddressStatus
	PrefixLen uint8 // 0..32
	Addr      netip.Addr
	Short     uint8
}

func (IPv4AddressAck) OptionType() OptionType { return OptIPv4AddressAck }

func (v IPv4AddressAck) appendTLV(b []byte) []byte {
	var length, prefix uint8
	switch {
	case v.Short == shortLength:
		length = shortLength
	case v.Short != 0:
		return append(b, noWireForm[:]...)
	case v.Status.Success():
		length, prefix = 6, sixBits(v.PrefixLen)
	default:
		length = 6
	}
	return appendIPv4(append(b, byte(OptIPv4AddressAck), length, byte(v.Status), prefix), v.Addr)
}

func decodeIPv4AddressAck(o Option) IPv4AddressAck {
	v := IPv4AddressAck{Status: AddressStatus(o.Data[0]), Addr: ipv4(o.Data[2:])}
	switch {
	case o.Length == shortLength:
		v.Short = shortLength
	case v.Status.Success():
		v.PrefixLen = o.Data[1] >> 2
	}
	return v
}

// IPv4AddressAck reads the first such option.
func (o Options) IPv4AddressAck() (IPv4AddressAck, bool) {
	return read(o, OptIPv4AddressAck, decodeIPv4AddressAck)
}

// IPv4AddressAcks gives all such options in order.
func (o Options) IPv4AddressAcks() iter.Seq[IPv4AddressAck] {
	return every(o, OptIPv4AddressAck, decodeIPv4AddressAck)
}

// NATDetection is option 31, RFC 5555 3.2.2.
type NATDetection struct {
	F       bool   // UDP encapsulation is required
	Refresh uint32 // seconds; 0 = default, all ones = no keepalive
}

func (NATDetection) OptionType() OptionType { return OptNATDetection }

func (v NATDetection) appendTLV(b []byte) []byte {
	return binary.BigEndian.AppendUint32(append(b, byte(OptNATDetection), 6, b2u(v.F)<<7, 0), v.Refresh)
}

func decodeNATDetection(o Option) NATDetection {
	return NATDetection{F: o.Data[0]&0x80 != 0, Refresh: binary.BigEndian.Uint32(o.Data[2:])}
}

// NATDetection reads the first such option.
func (o Options) NATDetection() (NATDetection, bool) {
	return read(o, OptNATDetection, decodeNATDetection)
}

// IPv4CareOf is option 32, RFC 5555 3.1.2.
type IPv4CareOf struct{ Addr netip.Addr }

func (IPv4CareOf) OptionType() OptionType { return OptIPv4CareOf }

func (v IPv4CareOf) appendTLV(b []byte) []byte {
	return appendIPv4(append(b, byte(OptIPv4CareOf), 6, 0, 0), v.Addr)
}

func decodeIPv4CareOf(o Option) IPv4CareOf { return IPv4CareOf{ipv4(o.Data[2:])} }

// IPv4CareOf reads the first such option.
func (o Options) IPv4CareOf() (IPv4CareOf, bool) { return read(o, OptIPv4CareOf, decodeIPv4CareOf) }

// sixBits puts an IPv4 prefix length into the upper six bits of its octet. One above 32 becomes 63, which Append refuses.
func sixBits(length uint8) byte {
	if length > 32 {
		length = 63
	}
	return length << 2
}
