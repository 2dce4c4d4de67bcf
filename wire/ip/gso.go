package ip

import (
	"encoding/binary"

	"kedge/wire"
)

// VNet is the virtio-net header that Linux puts before packets of AF_PACKET sockets with PACKET_VNET_HDR and of TUN devices with
// IFF_VNET_HDR: what offloads the sender left to the device. Offsets count from the start of what follows.
type VNet struct {
	NeedsChecksum         bool
	Type                  uint8 // GSONone, GSOTCP4, ...
	Size                  int   // payload octets of each segment
	CsumStart, CsumOffset int
}

// VNetLen is the header's length in octets.
const VNetLen = 10

// GSO types (linux/virtio_net.h).
const (
	GSONone  = 0
	GSOTCP4  = 1
	GSOUDP   = 3 // the old UFO: fragments, refused
	GSOTCP6  = 4
	GSOUDPL4 = 5 // UDP_SEGMENT: datagrams
	gsoECN   = 0x80
)

var (
	errVNet     = &wire.Error{Msg: "virtio-net header", Reason: wire.Truncated}
	errPartial  = &wire.Error{Msg: "virtio-net header", Field: "csum_start", Off: 6, Reason: wire.BadLength}
	errGSOType  = &wire.Error{Msg: "virtio-net header", Field: "gso_type", Off: 1, Reason: wire.UnknownType}
	errGSOSize  = &wire.Error{Msg: "virtio-net header", Field: "gso_size", Off: 4, Reason: wire.BadLength}
	errGSOInner = &wire.Error{Msg: "super packet", Field: "upper layer", Reason: wire.BadInner}
)

// ParseVNet reads the header; its numbers are little-endian, as all machines that Kedge is built for have it.
func ParseVNet(b []byte) (VNet, error) {
	if len(b) < VNetLen {
		return VNet{}, errVNet
	}
	le := binary.LittleEndian
	return VNet{
		NeedsChecksum: b[0]&1 != 0, Type: b[1] &^ gsoECN, Size: int(le.Uint16(b[4:])),
		CsumStart: int(le.Uint16(b[6:])), CsumOffset: int(le.Uint16(b[8:])),
	}, nil
}

// CompleteChecksum finishes a checksum that the sender left to the device: the field holds the sum of the pseudo header.
func CompleteChecksum(pkt []byte, start, offset int) error {
	at := start + offset
	if start < 0 || offset < 0 || start > len(pkt) || at+2 > len(pkt) {
		return errPartial
	}
	sum := Checksum(pkt[start:])
	if sum == 0 && offset == 6 { // UDP: 0 says "no checksum"
		sum = 0xffff
	}
	binary.BigEndian.PutUint16(pkt[at:], sum)
	return nil
}

// Partial reports whether the TCP or UDP checksum field of an IP packet holds just the pseudo header's sum.
func Partial(pkt []byte, h *Header, u *Upper) bool {
	at := partial(h, u)
	return at != 0 && binary.BigEndian.Uint16(pkt[u.Off+at:]) == fold(pseudo(h.Src, h.Dst, u.Proto, h.Len-u.Off))
}

// partial is where the upper-layer header has a checksum that may be partial, 0 = nowhere.
func partial(h *Header, u *Upper) int {
	switch {
	case u.Fragment:
	case u.Proto == TCP && u.Off+20 <= h.Len:
		return 16
	case u.Proto == UDP && u.Off+UDPLen <= h.Len:
		return 6
	}
	return 0
}

// CompletePartial completes such a checksum, and reports whether it did. A packet that is right comes out the same: if the pseudo
// header's sum happens to be the checksum, it is also the result.
func CompletePartial(pkt []byte, h *Header, u *Upper) bool {
	return Partial(pkt, h, u) && CompleteChecksum(pkt[:h.Len], u.Off, partial(h, u)) == nil
}

// Segmenter cuts a TCP or UDP super packet into the packets that a device would have sent, one at each Next, with right lengths,
// sequence numbers, flags, Identifications and checksums.
type Segmenter struct {
	pkt      []byte
	h        Header
	u        Upper
	hdr      int // octets of all headers
	size, at int
	n        uint16
	pseudo   uint64 // sum of the pseudo header, but for the length
}

// NewSegmenter prepares segments of at most size octets of payload. kind is a GSO type that must fit the packet. pkt starts with
// its IP header and must not change until Next is through.
func NewSegmenter(pkt []byte, kind uint8, size int) (Segmenter, error) {
	h, err := Parse(pkt)
	if err != nil {
		return Segmenter{}, err
	}
	u, err := FindUpper(pkt, &h)
	if err != nil {
		return Segmenter{}, err
	}
	s := Segmenter{pkt: pkt[:h.Len], h: h, u: u, size: size}
	switch {
	case size <= 0:
		return s, errGSOSize
	case u.Fragment:
		return s, errGSOInner
	case kind == GSOTCP4 && h.Is4() && u.Proto == TCP, kind == GSOTCP6 && !h.Is4() && u.Proto == TCP:
		if u.Off+20 > h.Len {
			return s, errGSOInner
		}
		n := int(pkt[u.Off+12]>>4) * 4
		if n < 20 || u.Off+n > h.Len {
			return s, errGSOInner
		}
		s.hdr = u.Off + n
	case kind == GSOUDPL4 && u.Proto == UDP:
		if u.Off+UDPLen > h.Len {
			return s, errGSOInner
		}
		s.hdr = u.Off + UDPLen
	default:
		return s, errGSOType
	}
	s.at, s.pseudo = s.hdr, pseudo(h.Src, h.Dst, u.Proto, 0)
	return s, nil
}

// Next appends the next segment to b; false when there is none. A packet without payload is one segment.
func (s *Segmenter) Next(b []byte) ([]byte, bool) {
	b, payload, ok := s.Head(b)
	return append(b, payload...), ok
}

// Head does so with the headers alone. The payload that follows them is a part of the super packet.
func (s *Segmenter) Head(b []byte) (head, payload []byte, ok bool) {
	if s.n != 0 && s.at >= len(s.pkt) {
		return b, nil, false
	}
	end := min(s.at+s.size, len(s.pkt))
	start := len(b)
	b, payload = append(b, s.pkt[:s.hdr]...), s.pkt[s.at:end]
	seg := b[start:]
	up, n := seg[s.u.Off:], s.hdr-s.u.Off+len(payload)
	field := 16
	if s.u.Proto == UDP {
		field = 6
		binary.BigEndian.PutUint16(up[4:], uint16(n))
	} else {
		binary.BigEndian.PutUint32(up[4:], binary.BigEndian.Uint32(up[4:])+uint32(s.at-s.hdr))
		if end < len(s.pkt) {
			up[13] &^= 0x09 // FIN and PSH belong to the last one
		}
		if s.n != 0 {
			up[13] &^= 0x80 // CWR to the first
		}
	}
	if s.h.Is4() {
		binary.BigEndian.PutUint16(seg[2:], uint16(s.hdr+len(payload)))
		binary.BigEndian.PutUint16(seg[4:], s.h.ID+s.n)
		seg[10], seg[11] = 0, 0
		binary.BigEndian.PutUint16(seg[10:], Checksum(seg[:s.h.HdrLen]))
	} else {
		binary.BigEndian.PutUint16(seg[4:], uint16(s.hdr-IPv6Len+len(payload)))
	}
	up[field], up[field+1] = 0, 0
	// Headers have an even length, so the payload's sum is as it would be behind them.
	sum := ^fold(sum(sum(s.pseudo+uint64(n), up), payload))
	if sum == 0 && field == 6 {
		sum = 0xffff
	}
	binary.BigEndian.PutUint16(up[field:], sum)
	s.at, s.n = end, s.n+1
	return b, payload, true
}

// Sum is the sum of a whole segment, of which only the headers are given, with other numbers in the IP header perhaps: what its
// own checksum covers is known to add up.
func (s *Segmenter) Sum(head []byte, length int) uint16 {
	return fold(sum(uint64(^fold(s.pseudo+uint64(length-s.u.Off))), head[:s.u.Off]))
}
