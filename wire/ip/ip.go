// Package ip reads and builds the headers below signalling and around user packets: IPv4 (RFC 791), IPv6 with its extension
// headers (RFC 8200), UDP (RFC 768), ICMP errors (RFC 792, 1191, 4443, 4884), the Internet checksum (RFC 1071, 1624),
// fragmentation and bounded reassembly (RFC 791, 5722, 8200), ECN in tunnels (RFC 6040), and the segmentation of the super
// packets that hosts with offloads hand over (virtio-net header).
//
// Nothing here allocates on the way of a good packet, except the Reassembler. Errors are static values, so refusing a
// stranger's packet costs nothing either. All functions are pure but the Reassembler, which one goroutine owns.
package ip

import (
	"encoding/binary"
	"net/netip"

	"kedge/wire"
)

// Protocol and next header numbers.
const (
	HopByHop  = 0
	ICMPv4    = 1
	IPv4      = 4 // IPv4 in IP
	TCP       = 6
	UDP       = 17
	IPv6      = 41 // IPv6 in IP
	Routing   = 43
	Fragment  = 44
	ESP       = 50
	AH        = 51
	ICMPv6    = 58
	None      = 59
	DstOpts   = 60
	Mobility  = 135
	HIP       = 139
	Shim6     = 140
	IPv4Len   = 20   // octets of an IPv4 header without options
	IPv6Len   = 40   // octets of the IPv6 header
	UDPLen    = 8    // octets of a UDP header
	MinMTU6   = 1280 // RFC 8200 5
	MaxPacket = 65535
)

// Limits of a walk over extension headers (RFC 8200 4.1 names each at most once, Destination Options twice).
const maxExtensions = 10

// Header is the header of one IPv4 or IPv6 packet.
type Header struct {
	Src, Dst netip.Addr
	Len      int    // octets of the whole packet as the header says
	HdrLen   int    // octets of this header: 40, or 20 to 60
	Off      int    // IPv4 fragment offset in octets
	ID       uint16 // IPv4 Identification
	Flow     uint32 // IPv6 flow label
	Proto    uint8  // IPv4 Protocol, IPv6 Next Header
	TOS      uint8  // IPv4 Type of Service, IPv6 Traffic Class: DSCP and ECN
	TTL      uint8  // IPv4 Time to Live, IPv6 Hop Limit
	DF, MF   bool   // IPv4 flags
}

// Is4 reports whether the packet is IPv4.
func (h *Header) Is4() bool { return h.Src.Is4() }

var (
	errEmpty    = &wire.Error{Msg: "IP packet", Field: "Version", Reason: wire.Truncated, RFC: "RFC 791 3.1"}
	errVersion  = &wire.Error{Msg: "IP packet", Field: "Version", Reason: wire.UnknownType, RFC: "RFC 791 3.1"}
	err4Short   = &wire.Error{Msg: "IPv4 header", Reason: wire.Truncated, RFC: "RFC 791 3.1"}
	err4IHL     = &wire.Error{Msg: "IPv4 header", Field: "IHL", Reason: wire.BadLength, RFC: "RFC 791 3.1"}
	err4Len     = &wire.Error{Msg: "IPv4 header", Field: "Total Length", Off: 2, Reason: wire.BadLength, RFC: "RFC 791 3.1"}
	err4Cut     = &wire.Error{Msg: "IPv4 header", Field: "Total Length", Off: 2, Reason: wire.Truncated, RFC: "RFC 791 3.1"}
	err4Sum     = &wire.Error{Msg: "IPv4 header", Field: "Header Checksum", Off: 10, Reason: wire.BadChecksum, RFC: "RFC 791 3.1"}
	err6Short   = &wire.Error{Msg: "IPv6 header", Reason: wire.Truncated, RFC: "RFC 8200 3"}
	err6Cut     = &wire.Error{Msg: "IPv6 header", Field: "Payload Length", Off: 4, Reason: wire.Truncated, RFC: "RFC 8200 3"}
	err6Jumbo   = &wire.Error{Msg: "IPv6 header", Field: "Payload Length", Off: 4, Reason: wire.BadLength, RFC: "RFC 2675 3"}
	errTooLong  = &wire.Error{Msg: "IP packet", Field: "length", Reason: wire.TooLong, RFC: "RFC 8200 3"}
	errFamilies = &wire.Error{Msg: "IP packet", Field: "addresses", Reason: wire.BadValue, RFC: "RFC 791 3.1"}
)

// Parse reads the header of either family. It checks version, lengths and the IPv4 header checksum; b may be longer than the
// packet (link padding): cut it to Len. A jumbogram, whose header says that it is empty, is refused. Errors are *wire.Error.
func Parse(b []byte) (Header, error) {
	h, err := ParseQuoted(b)
	switch {
	case err != nil:
		return Header{}, err
	case len(b) < h.Len && h.Is4():
		return Header{}, err4Cut
	case len(b) < h.Len:
		return Header{}, err6Cut
	case h.Is4() && Checksum(b[:h.HdrLen]) != 0:
		return Header{}, err4Sum
	case h.Proto == HopByHop && h.Len == IPv6Len && !h.Is4():
		return Header{}, err6Jumbo
	}
	return h, nil
}

// ParseQuoted reads a header whose packet may be cut short, as in the quotation of an ICMP error. The IPv4 checksum is not
// checked: routers on the way may have quoted a header already changed.
func ParseQuoted(b []byte) (Header, error) {
	if len(b) == 0 {
		return Header{}, errEmpty
	}
	switch b[0] >> 4 {
	case 4:
		return parse4(b)
	case 6:
		if len(b) < IPv6Len {
			return Header{}, err6Short
		}
		w := binary.BigEndian.Uint32(b)
		return Header{
			Src: netip.AddrFrom16([16]byte(b[8:24])), Dst: netip.AddrFrom16([16]byte(b[24:40])),
			Len: IPv6Len + int(binary.BigEndian.Uint16(b[4:])), HdrLen: IPv6Len,
			Flow: w & 0xfffff, Proto: b[6], TOS: uint8(w >> 20), TTL: b[7],
		}, nil
	}
	return Header{}, errVersion
}

func parse4(b []byte) (Header, error) {
	if len(b) < IPv4Len {
		return Header{}, err4Short
	}
	ihl, total := int(b[0]&15)*4, int(binary.BigEndian.Uint16(b[2:]))
	switch {
	case ihl < IPv4Len:
		return Header{}, err4IHL
	case total < ihl:
		return Header{}, err4Len
	case len(b) < ihl:
		return Header{}, err4Short
	}
	frag := binary.BigEndian.Uint16(b[6:])
	return Header{
		Src: netip.AddrFrom4([4]byte(b[12:16])), Dst: netip.AddrFrom4([4]byte(b[16:20])),
		Len: total, HdrLen: ihl, Off: int(frag&0x1fff) * 8, ID: binary.BigEndian.Uint16(b[4:]),
		Proto: b[9], TOS: b[1], TTL: b[8], DF: frag&0x4000 != 0, MF: frag&0x2000 != 0,
	}, nil
}

// Append appends the header for payload octets of payload; Len and HdrLen of h are ignored, the IPv4 checksum is computed. An
// IPv4 TTL or hop limit of 0 is written as it is. The error is *wire.Error: too long, or addresses of two families.
func (h *Header) Append(b []byte, payload int) ([]byte, error) {
	if h.Src.Is4() != h.Dst.Is4() || !h.Src.IsValid() || !h.Dst.IsValid() {
		return b, errFamilies
	}
	if h.Is4() {
		if payload < 0 || payload > MaxPacket-IPv4Len {
			return b, errTooLong
		}
		frag := uint16(h.Off / 8)
		if h.DF {
			frag |= 0x4000
		}
		if h.MF {
			frag |= 0x2000
		}
		start := len(b)
		b = append(b, 0x45, h.TOS)
		b = binary.BigEndian.AppendUint16(b, uint16(IPv4Len+payload))
		b = binary.BigEndian.AppendUint16(b, h.ID)
		b = binary.BigEndian.AppendUint16(b, frag)
		b = append(b, h.TTL, h.Proto, 0, 0)
		s, d := h.Src.As4(), h.Dst.As4()
		b = append(append(b, s[:]...), d[:]...)
		binary.BigEndian.PutUint16(b[start+10:], Checksum(b[start:]))
		return b, nil
	}
	if payload < 0 || payload > MaxPacket {
		return b, errTooLong
	}
	b = binary.BigEndian.AppendUint32(b, 6<<28|uint32(h.TOS)<<20|h.Flow&0xfffff)
	b = binary.BigEndian.AppendUint16(b, uint16(payload))
	b = append(b, h.Proto, h.TTL)
	s, d := h.Src.As16(), h.Dst.As16()
	return append(append(b, s[:]...), d[:]...), nil
}

// AppendUDP appends a UDP header with its checksum, and the payload (RFC 768, RFC 8200 8.1). Only the datagram: append the IP
// header first, with UDPLen+len(payload) octets of payload.
func AppendUDP(b []byte, src, dst netip.AddrPort, payload []byte) ([]byte, error) {
	b, err := AppendUDPHead(b, src, dst, len(payload), fold(sum(0, payload)))
	if err == nil {
		b = append(b, payload...)
	}
	return b, err
}

// AppendUDPHead appends the header alone, of a datagram with n octets of payload whose Internet sum is known.
func AppendUDPHead(b []byte, src, dst netip.AddrPort, n int, payload uint16) ([]byte, error) {
	if n += UDPLen; n > MaxPacket {
		return b, errTooLong
	}
	acc := pseudo(src.Addr(), dst.Addr(), UDP, n) + uint64(src.Port()) + uint64(dst.Port()) + uint64(n) + uint64(payload)
	sum := ^fold(acc)
	if sum == 0 { // 0 says "no checksum"
		sum = 0xffff
	}
	b = binary.BigEndian.AppendUint16(b, src.Port())
	b = binary.BigEndian.AppendUint16(b, dst.Port())
	b = binary.BigEndian.AppendUint16(b, uint16(n))
	return binary.BigEndian.AppendUint16(b, sum), nil
}
