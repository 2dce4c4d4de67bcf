package ether

import (
	"encoding/binary"
	"net/netip"

	"kedge/wire"
)

// ARP operations (RFC 826).
const (
	ARPRequest uint16 = 1
	ARPReply   uint16 = 2
)

// arpLen is the octets of an ARP packet for IPv4 over Ethernet.
const arpLen = 28

// ARP is an ARP packet for IPv4 over Ethernet (RFC 826). Both IP addresses are IPv4, 0.0.0.0 included.
type ARP struct {
	Op       uint16
	SenderHW [6]byte
	SenderIP netip.Addr
	TargetHW [6]byte
	TargetIP netip.Addr
}

// IsProbe says whether it is an ARP Probe: a request whose sender does not use any address yet (RFC 5227 1.1).
func (a *ARP) IsProbe() bool { return a.Op == ARPRequest && a.SenderIP.IsUnspecified() }

// IsAnnouncement says whether it is an ARP Announcement or another gratuitous ARP: sender and target address are equal
// (RFC 5227 1.1; replies are also in use).
func (a *ARP) IsAnnouncement() bool { return a.SenderIP == a.TargetIP && !a.SenderIP.IsUnspecified() }

// ParseARP reads an ARP packet; octets behind it are padding. Errors: truncated, bad-value (not Ethernet and IPv4),
// bad-length, unknown-type (operation).
func ParseARP(b []byte) (*ARP, error) {
	if len(b) < arpLen {
		return nil, arpError("packet", len(b), wire.Truncated)
	}
	if binary.BigEndian.Uint16(b[0:2]) != 1 {
		return nil, arpError("hardware type", 0, wire.BadValue)
	}
	if binary.BigEndian.Uint16(b[2:4]) != TypeIPv4 {
		return nil, arpError("protocol type", 2, wire.BadValue)
	}
	if b[4] != 6 || b[5] != 4 {
		return nil, arpError("address lengths", 4, wire.BadLength)
	}
	a := &ARP{
		Op:       binary.BigEndian.Uint16(b[6:8]),
		SenderHW: [6]byte(b[8:14]),
		SenderIP: netip.AddrFrom4([4]byte(b[14:18])),
		TargetHW: [6]byte(b[18:24]),
		TargetIP: netip.AddrFrom4([4]byte(b[24:28])),
	}
	if a.Op != ARPRequest && a.Op != ARPReply {
		return nil, arpError("operation", 6, wire.UnknownType)
	}
	return a, nil
}

// Append writes the packet without an Ethernet header. It fails with bad-value if an address is not IPv4.
func (a *ARP) Append(b []byte) ([]byte, error) {
	if !a.SenderIP.Is4() {
		return b, arpError("sender protocol address", 14, wire.BadValue)
	}
	if !a.TargetIP.Is4() {
		return b, arpError("target protocol address", 24, wire.BadValue)
	}
	s, t := a.SenderIP.As4(), a.TargetIP.As4()
	b = append(b, 0, 1, 8, 0, 6, 4)
	b = binary.BigEndian.AppendUint16(b, a.Op)
	b = append(append(b, a.SenderHW[:]...), s[:]...)
	return append(append(b, a.TargetHW[:]...), t[:]...), nil
}

func arpError(field string, off int, r wire.Reason) error {
	return &wire.Error{Msg: "ARP", Field: field, Off: off, RFC: "RFC 826", Reason: r}
}
