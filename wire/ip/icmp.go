package ip

import (
	"encoding/binary"
	"net/netip"

	"kedge/wire"
)

// Problem is what an ICMP error tells, in the words of both families.
type Problem uint8

const (
	NoRoute       Problem = iota // ICMPv6 1/0, ICMP 3/0
	Prohibited                   // ICMPv6 1/1 (RFC 4443 3.1), ICMP 3/13 (RFC 1812 5.2.7.1)
	Unreachable                  // ICMPv6 1/3 address unreachable, ICMP 3/1 host unreachable
	TooBig                       // ICMPv6 2/0 (RFC 4443 3.2), ICMP 3/4 (RFC 1191 4); info is the MTU in octets
	TimeExceeded                 // ICMPv6 3/0, ICMP 11/0
	ParameterFail                // ICMPv6 4/0, ICMP 12/0; info is the octet that the pointer names
	UnknownHeader                // ICMPv6 4/1, ICMP 12/0; info as before
	UnknownOption                // ICMPv6 4/2, ICMP 12/0; info as before
)

var (
	codes6 = [...][2]uint8{{1, 0}, {1, 1}, {1, 3}, {2, 0}, {3, 0}, {4, 0}, {4, 1}, {4, 2}}
	codes4 = [...][2]uint8{{3, 0}, {3, 13}, {3, 1}, {3, 4}, {11, 0}, {12, 0}, {12, 0}, {12, 0}}
)

const (
	// error4Len: RFC 1812 4.3.2.3, as much of the packet as fits without exceeding 576 octets. No extension objects are
	// appended, so the length attribute of RFC 4884 stays 0.
	error4Len = 576
	error6Len = MinMTU6 // RFC 4443 2.4 (c)
	icmpLen   = 8
	// RFC 1812 4.3.2.5: an ICMP error SHOULD have precedence 6 (internetwork control).
	errorTOS4 = 0xc0
	// ErrorTTL is the hop limit and TTL of the errors built here.
	ErrorTTL = 64
)

var (
	errNoAnswer = &wire.Error{Msg: "ICMP error", Field: "invoking packet", Reason: wire.NotUnicast, RFC: "RFC 4443 2.4"}
	errNoSource = &wire.Error{Msg: "ICMP error", Field: "source", Reason: wire.BadSource, RFC: "RFC 4443 2.2"}
)

// MayAnswer reports whether an ICMP error about pkt may be sent: never about an ICMP error or redirect, a packet to a multicast
// or broadcast address (but for Packet Too Big in IPv6), one whose source names no single node, a fragment that is not the
// first, or one whose upper layer cannot be found (RFC 4443 2.4 (e), RFC 1122 3.2.2). pkt may be cut short.
func MayAnswer(pkt []byte, p Problem) bool {
	h, err := ParseQuoted(pkt)
	if err != nil {
		return false
	}
	if !single(h.Src) || (!single(h.Dst) && (p != TooBig || h.Is4())) {
		return false
	}
	u, err := FindUpper(pkt, &h)
	if err != nil || u.Fragment && u.FragOff != 0 {
		return false
	}
	return !isError(pkt, &h, &u)
}

// isError: is it an ICMP error or redirect, or too short to know that it is not?
func isError(pkt []byte, h *Header, u *Upper) bool {
	switch {
	case h.Is4() && u.Proto == ICMPv4:
		if u.Off >= len(pkt) {
			return true
		}
		switch pkt[u.Off] {
		case 3, 4, 5, 11, 12:
			return true
		}
	case !h.Is4() && u.Proto == ICMPv6:
		return u.Off >= len(pkt) || pkt[u.Off] < 128 || pkt[u.Off] == 137
	}
	return false
}

// single reports whether a names one node: no unspecified, loopback, multicast, broadcast or reserved address.
func single(a netip.Addr) bool {
	if a.IsUnspecified() || a.IsLoopback() || a.IsMulticast() {
		return false
	}
	return !a.Is4() || a.As4()[0] < 240 && a.As4()[0] != 0
}

// AppendError appends an ICMP or ICMPv6 error about pkt, from src to the source of pkt, with as much of pkt as the RFCs allow.
// It refuses what MayAnswer refuses. src must be of pkt's family.
func AppendError(b []byte, src netip.Addr, p Problem, info uint32, pkt []byte) ([]byte, error) {
	if !MayAnswer(pkt, p) {
		return b, errNoAnswer
	}
	q, err := ParseQuoted(pkt)
	if err != nil {
		return b, err
	}
	if src.Is4() != q.Is4() {
		return b, errNoSource
	}
	pkt = pkt[:min(len(pkt), q.Len)]
	h := Header{Src: src, Dst: q.Src, TTL: ErrorTTL}
	var code [2]uint8
	if q.Is4() {
		pkt = pkt[:min(len(pkt), error4Len-IPv4Len-icmpLen)]
		h.Proto, h.TOS, code = ICMPv4, errorTOS4, codes4[p]
		if p >= ParameterFail {
			info <<= 24
		}
	} else {
		pkt = pkt[:min(len(pkt), error6Len-IPv6Len-icmpLen)]
		h.Proto, code = ICMPv6, codes6[p]
	}
	b, err = h.Append(b, icmpLen+len(pkt))
	if err != nil {
		return b, err
	}
	start := len(b)
	b = append(b, code[0], code[1], 0, 0)
	b = binary.BigEndian.AppendUint32(b, info)
	b = append(b, pkt...)
	sum := Checksum(b[start:])
	if !q.Is4() {
		sum = PseudoChecksum(h.Src, h.Dst, ICMPv6, b[start:])
	}
	binary.BigEndian.PutUint16(b[start+2:], sum)
	return b, nil
}
