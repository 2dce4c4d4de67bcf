package access

import (
	"net/netip"

	"github.com/insomniacslk/dhcp/dhcpv4"

	"kedge/internal/core"
	"kedge/wire"
	"kedge/wire/ether"
	"kedge/wire/ip"
	"kedge/wire/nd"
)

// UDP ports of DHCPv4 (RFC 2131 4.1).
const (
	dhcpServerPort = 67
	dhcpClientPort = 68
)

// Frame is one Ethernet frame of an access link, both as read (Decode) and as sent (Append): it is a core.Appender.
//
// Body is *ether.ARP, *nd.RouterSolicitation, *nd.RouterAdvertisement, *nd.NeighborSolicitation,
// *nd.NeighborAdvertisement, *nd.Redirect, *nd.MLDReport, *nd.MLDQuery, *nd.Echo, *Echo4, *dhcpv4.DHCPv4, or nil for
// every other frame (data): its MAC addresses are known, and its IP addresses if it is an IP packet.
type Frame struct {
	Dst, Src     core.MAC
	SrcIP, DstIP netip.Addr // of the IP header, or sender and target of the ARP packet
	Body         any
}

// Echo4 is an ICMP Echo Request or Reply (RFC 792). Rest is identifier, sequence number and data.
type Echo4 struct {
	Reply bool
	Rest  []byte
}

// Kind is a short name of what the frame carries, for logs and traces: rs ra ns na redirect mld mld-query echo arp dhcp,
// or data.
func (f *Frame) Kind() string {
	switch f.Body.(type) {
	case *ether.ARP:
		return "arp"
	case *nd.RouterSolicitation:
		return "rs"
	case *nd.RouterAdvertisement:
		return "ra"
	case *nd.NeighborSolicitation:
		return "ns"
	case *nd.NeighborAdvertisement:
		return "na"
	case *nd.Redirect:
		return "redirect"
	case *nd.MLDReport:
		return "mld"
	case *nd.MLDQuery:
		return "mld-query"
	case *nd.Echo, *Echo4:
		return "echo"
	case *dhcpv4.DHCPv4:
		return "dhcp"
	}
	return "data"
}

// Decode reads a frame. The error is a *wire.Error; the frame beside it is not nil if the Ethernet header could be read,
// so that a host that sends nonsense is still seen. Fragments, VLAN tags and all that is not signalling of an access link
// give a frame without Body and no error. Byte slices in Body alias frame.
func Decode(frame []byte) (*Frame, error) {
	h, payload, err := ether.ParseHeader(frame)
	if err != nil {
		return nil, err
	}
	f := &Frame{Dst: h.Dst, Src: h.Src}
	switch h.Type {
	case ether.TypeARP:
		a, err := ether.ParseARP(payload)
		if err != nil {
			return f, err
		}
		f.SrcIP, f.DstIP, f.Body = a.SenderIP, a.TargetIP, a
	case ether.TypeIPv4, ether.TypeIPv6:
		return f, f.decodeIP(payload, h.Type == ether.TypeIPv4)
	}
	return f, nil
}

func (f *Frame) decodeIP(b []byte, v4 bool) error {
	h, err := ip.Parse(b)
	if err != nil {
		return err
	}
	if h.Is4() != v4 {
		return &wire.Error{Msg: "Ethernet frame", Field: "EtherType", Off: 12, RFC: "RFC 2464 3", Reason: wire.BadValue}
	}
	f.SrcIP, f.DstIP = h.Src, h.Dst
	b = b[:h.Len:h.Len]
	u, err := ip.FindUpper(b, &h)
	if err != nil {
		return err
	}
	if u.Fragment {
		return nil
	}
	upper := b[u.Off:]
	switch {
	case u.Proto == ip.ICMPv6 && !v4:
		return f.decodeICMPv6(upper, &h, &u, b)
	case u.Proto == ip.ICMPv4 && v4:
		return f.decodeICMPv4(upper)
	case u.Proto == ip.UDP && v4:
		return f.decodeUDP(upper)
	}
	return nil
}

func (f *Frame) decodeICMPv6(b []byte, h *ip.Header, u *ip.Upper, pkt []byte) error {
	if len(b) > 0 && nd.Name(b[0]) == "" {
		return nil
	}
	m, err := nd.Parse(b, nd.Envelope{Src: h.Src, Dst: h.Dst, HopLimit: h.TTL, RouterAlert: nd.HasRouterAlert(pkt)})
	if err != nil {
		return err
	}
	if _, echo := m.(*nd.Echo); !echo && u.FragHdr != 0 {
		// RFC 6980 5: Neighbor Discovery never needs fragments, and they hide it from filters.
		return &wire.Error{Msg: nd.Name(b[0]), Field: "Fragment header", Off: u.FragHdr, RFC: "RFC 6980 5", Reason: wire.BadValue}
	}
	f.Body = m
	return nil
}

func (f *Frame) decodeICMPv4(b []byte) error {
	if len(b) < 8 {
		return &wire.Error{Msg: "ICMP", Field: "header", Off: len(b), RFC: "RFC 792", Reason: wire.Truncated}
	}
	if b[0] != 8 && b[0] != 0 {
		return nil
	}
	if ip.Checksum(b) != 0 {
		return &wire.Error{Msg: "ICMP", Field: "checksum", Off: 2, RFC: "RFC 792", Reason: wire.BadChecksum}
	}
	f.Body = &Echo4{Reply: b[0] == 0, Rest: b[4:]}
	return nil
}

func (f *Frame) decodeUDP(b []byte) error {
	if len(b) < ip.UDPLen {
		return &wire.Error{Msg: "UDP", Field: "header", Off: len(b), RFC: "RFC 768", Reason: wire.Truncated}
	}
	port := int(b[2])<<8 | int(b[3])
	if port != dhcpServerPort && port != dhcpClientPort {
		return nil
	}
	n := int(b[4])<<8 | int(b[5])
	if n < ip.UDPLen || n > len(b) {
		return &wire.Error{Msg: "UDP", Field: "length", Off: 4, RFC: "RFC 768", Reason: wire.BadLength}
	}
	b = b[:n]
	if b[6]|b[7] != 0 && ip.PseudoChecksum(f.SrcIP, f.DstIP, ip.UDP, b) != 0 && !f.unfinishedUDP(b) {
		return &wire.Error{Msg: "UDP", Field: "checksum", Off: 6, RFC: "RFC 768", Reason: wire.BadChecksum}
	}
	m, err := parseDHCP(b[ip.UDPLen:])
	if err != nil {
		return err
	}
	f.Body = m
	return nil
}

// unfinishedUDP says whether the checksum is that of the pseudo header alone. A virtual link (veth, virtio) hands over what
// the sender's kernel left to hardware that is not there; a client that renews its lease over a UDP socket sends such.
func (f *Frame) unfinishedUDP(b []byte) bool {
	start := ^ip.PseudoChecksum(f.SrcIP, f.DstIP, ip.UDP, make([]byte, len(b)))
	return start == uint16(b[6])<<8|uint16(b[7])
}

// Append writes the whole Ethernet frame: hop limit 255 for Neighbor Discovery, 1 and Router Alert for MLD, 64 otherwise.
func (f *Frame) Append(b []byte) ([]byte, error) {
	start := len(b)
	out, err := f.appendFrame(b)
	if err != nil {
		return b[:start], err
	}
	return out, nil
}

func (f *Frame) appendFrame(b []byte) ([]byte, error) {
	h := ether.Header{Dst: f.Dst, Src: f.Src}
	switch m := f.Body.(type) {
	case *ether.ARP:
		h.Type = ether.TypeARP
		return m.Append(h.Append(b))
	case nd.Message:
		h.Type = ether.TypeIPv6
		return f.appendICMPv6(h.Append(b), m)
	case *Echo4:
		h.Type = ether.TypeIPv4
		return f.appendEcho4(h.Append(b), m)
	case *dhcpv4.DHCPv4:
		h.Type = ether.TypeIPv4
		return f.appendDHCP(h.Append(b), m)
	}
	return b, &wire.Error{Msg: "Ethernet frame", Field: "body", Reason: wire.UnsupportedMessage}
}

func (f *Frame) appendICMPv6(b []byte, m nd.Message) ([]byte, error) {
	body, err := nd.Append(nil, m, f.SrcIP, f.DstIP)
	if err != nil {
		return b, err
	}
	h := ip.Header{Src: f.SrcIP, Dst: f.DstIP, Proto: ip.ICMPv6, TTL: nd.HopLimit}
	var ext []byte
	switch m.(type) {
	case *nd.MLDReport, *nd.MLDQuery:
		h.Proto, h.TTL, ext = ip.HopByHop, nd.MLDHopLimit, nd.AppendRouterAlert(nil, ip.ICMPv6)
	case *nd.Echo:
		h.TTL = 64
	}
	if b, err = h.Append(b, len(ext)+len(body)); err != nil {
		return b, err
	}
	return append(append(b, ext...), body...), nil
}

func (f *Frame) appendEcho4(b []byte, m *Echo4) ([]byte, error) {
	h := ip.Header{Src: f.SrcIP, Dst: f.DstIP, Proto: ip.ICMPv4, TTL: 64}
	b, err := h.Append(b, 4+len(m.Rest))
	if err != nil {
		return b, err
	}
	at, kind := len(b), byte(8)
	if m.Reply {
		kind = 0
	}
	b = append(append(b, kind, 0, 0, 0), m.Rest...)
	sum := ip.Checksum(b[at:])
	b[at+2], b[at+3] = byte(sum>>8), byte(sum)
	return b, nil
}

func (f *Frame) appendDHCP(b []byte, m *dhcpv4.DHCPv4) ([]byte, error) {
	from, to := uint16(dhcpServerPort), uint16(dhcpClientPort)
	if m.OpCode == dhcpv4.OpcodeBootRequest {
		from, to = to, from
	}
	payload := m.ToBytes()
	h := ip.Header{Src: f.SrcIP, Dst: f.DstIP, Proto: ip.UDP, TTL: 64}
	b, err := h.Append(b, ip.UDPLen+len(payload))
	if err != nil {
		return b, err
	}
	return ip.AppendUDP(b, netip.AddrPortFrom(f.SrcIP, from), netip.AddrPortFrom(f.DstIP, to), payload)
}
