package ip

import (
	"encoding/binary"
	"math/bits"
	"net/netip"
)

// sum adds b as 16-bit words to acc without folding; an odd last octet counts as the high one. The words are added as the machine
// has them, eight octets at once, and their sum is swapped (RFC 1071 2 (B)); carries come back in, so that nothing overflows.
func sum(acc uint64, b []byte) uint64 {
	var n, c uint64
	le := binary.LittleEndian
	for len(b) >= 64 {
		n, c = bits.Add64(n, le.Uint64(b), 0)
		n, c = bits.Add64(n, le.Uint64(b[8:]), c)
		n, c = bits.Add64(n, le.Uint64(b[16:]), c)
		n, c = bits.Add64(n, le.Uint64(b[24:]), c)
		n, c = bits.Add64(n, le.Uint64(b[32:]), c)
		n, c = bits.Add64(n, le.Uint64(b[40:]), c)
		n, c = bits.Add64(n, le.Uint64(b[48:]), c)
		n, c = bits.Add64(n, le.Uint64(b[56:]), c)
		n, c = bits.Add64(n, 0, c)
		n += c
		b = b[64:]
	}
	for len(b) >= 8 {
		n, c = bits.Add64(n, le.Uint64(b), 0)
		n += c
		b = b[8:]
	}
	if len(b) != 0 {
		var last [8]byte
		copy(last[:], b)
		n, c = bits.Add64(n, le.Uint64(last[:]), 0)
		n += c
	}
	acc, c = bits.Add64(acc, uint64(bits.ReverseBytes16(fold(n))), 0)
	return acc + c
}

func fold(acc uint64) uint16 {
	acc = acc>>32 + acc&0xffffffff
	acc = acc>>32 + acc&0xffffffff
	acc = acc>>16 + acc&0xffff
	acc = acc>>16 + acc&0xffff
	return uint16(acc>>16 + acc&0xffff)
}

// Checksum is the Internet checksum of b (RFC 1071): what goes into the field, or 0 for data that includes a right one.
func Checksum(b []byte) uint16 { return ^fold(sum(0, b)) }

// PseudoChecksum is the checksum of an upper-layer packet with its pseudo header (RFC 793 3.1, RFC 8200 8.1): what goes into
// the field, or 0 for data that includes a right one.
func PseudoChecksum(src, dst netip.Addr, proto uint8, upper []byte) uint16 {
	return ^fold(sum(pseudo(src, dst, proto, len(upper)), upper))
}

func pseudo(src, dst netip.Addr, proto uint8, n int) uint64 {
	acc := uint64(proto) + uint64(n)
	if src.Is4() {
		s, d := src.As4(), dst.As4()
		return acc + uint64(binary.BigEndian.Uint32(s[:])) + uint64(binary.BigEndian.Uint32(d[:]))
	}
	s, d := src.As16(), dst.As16()
	return sum(sum(acc, s[:]), d[:])
}

// UpdateChecksum is checksum after one 16-bit word that it covers changed (RFC 1624, eqn. 3).
func UpdateChecksum(checksum, from, to uint16) uint16 {
	return ^fold(uint64(^checksum) + uint64(^from) + uint64(to))
}

// SetTOS writes Type of Service or Traffic Class into the packet and keeps the IPv4 checksum right. pkt has a whole header.
func SetTOS(pkt []byte, tos uint8) {
	if pkt[0]>>4 == 6 {
		pkt[0] = 0x60 | tos>>4
		pkt[1] = tos<<4 | pkt[1]&15
		return
	}
	from := binary.BigEndian.Uint16(pkt)
	pkt[1] = tos
	set4(pkt, from, binary.BigEndian.Uint16(pkt))
}

// DecrementTTL lowers TTL or hop limit by one, which the caller saw to be above 0.
func DecrementTTL(pkt []byte) {
	if pkt[0]>>4 == 6 {
		pkt[7]--
		return
	}
	from := binary.BigEndian.Uint16(pkt[8:])
	pkt[8]--
	set4(pkt, from, binary.BigEndian.Uint16(pkt[8:]))
}

func set4(pkt []byte, from, to uint16) {
	binary.BigEndian.PutUint16(pkt[10:], UpdateChecksum(binary.BigEndian.Uint16(pkt[10:]), from, to))
}
