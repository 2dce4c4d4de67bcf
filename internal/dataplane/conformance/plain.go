package conformance

import (
	"encoding/binary"
	"net/netip"
)

// Plain builders: straight from the pictures in the RFCs, one octet after the other, and nothing of the code under test.

var anyID = []byte{0xde, 0xad, 0xbe, 0xef} // stands for the Identification that the router chose

func plainSum(b []byte) uint16 { return ^folded(added16(b)) }

// added16 are the sixteen-bit words of b, added. Nothing here is shared, and the race detector would look at each octet.
//
//go:norace
func added16(b []byte) (s uint64) {
	for i, x := range b {
		s += uint64(x) << (8 * (1 - i&1))
	}
	return s
}

// folded is a sum in ones' complement.
func folded(s uint64) uint16 {
	for s > 0xffff {
		s = s>>16 + s&0xffff
	}
	return uint16(s)
}

func pseudoSum(src, dst netip.Addr, proto byte, body []byte) uint16 {
	b := append(src.AsSlice(), dst.AsSlice()...)
	b = binary.BigEndian.AppendUint32(b, uint32(len(body)))
	b = append(b, 0, 0, 0, proto)
	return ^folded(added16(b) + added16(body))
}

// hdr says what a packet's header is; zero fields are as below.
type hdr struct {
	hop  int // 0 = 64
	tos  byte
	flow uint32
	id   uint16
	df   bool
	mf   bool
	off  int
}

func v6(src, dst netip.Addr, next byte, h hdr, body []byte) []byte {
	if h.hop == 0 {
		h.hop = 64
	}
	b := []byte{0x60 | h.tos>>4, h.tos<<4 | byte(h.flow>>16), byte(h.flow >> 8), byte(h.flow), byte(len(body) >> 8), byte(len(body)), next, byte(h.hop)}
	b = append(b, src.AsSlice()...)
	b = append(b, dst.AsSlice()...)
	return append(b, body...)
}

func v4(src, dst netip.Addr, proto byte, h hdr, body []byte) []byte {
	if h.hop == 0 {
		h.hop = 64
	}
	n, flags := 20+len(body), h.off/8
	if h.df {
		flags |= 0x4000
	}
	if h.mf {
		flags |= 0x2000
	}
	b := []byte{0x45, h.tos, byte(n >> 8), byte(n), byte(h.id >> 8), byte(h.id), byte(flags >> 8), byte(flags), byte(h.hop), proto, 0, 0}
	b = append(b, src.AsSlice()...)
	b = append(b, dst.AsSlice()...)
	binary.BigEndian.PutUint16(b[10:], plainSum(b))
	return append(b, body...)
}

// packet is a packet of either family.
func packet(src, dst netip.Addr, proto byte, h hdr, body []byte) []byte {
	if src.Is4() {
		return v4(src, dst, proto, h, body)
	}
	return v6(src, dst, proto, h, body)
}

//go:norace
func filling(n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(i*31 + i>>8)
	}
	return b
}

func udp(src, dst netip.Addr, n int) []byte { return udpPorts(src, dst, 40000, 50000, n) }

func udpPorts(src, dst netip.Addr, sport, dport uint16, n int) []byte {
	b := []byte{byte(sport >> 8), byte(sport), byte(dport >> 8), byte(dport), byte((8 + n) >> 8), byte(8 + n), 0, 0}
	b = append(b, filling(n)...)
	binary.BigEndian.PutUint16(b[6:], pseudoSum(src, dst, 17, b))
	return b
}

func tcp(src, dst netip.Addr, seq uint32, flags byte, payload []byte) []byte {
	b := []byte{0x9c, 0x40, 0x1f, 0x90}
	b = binary.BigEndian.AppendUint32(b, seq)
	b = append(b, 0, 0, 0, 1, 0x50, flags, 0x10, 0, 0, 0, 0, 0)
	b = append(b, payload...)
	binary.BigEndian.PutUint16(b[16:], pseudoSum(src, dst, 6, b))
	return b
}

// udpPacket is a UDP packet of size octets in all.
func udpPacket(src, dst netip.Addr, h hdr, size int) []byte {
	return packet(src, dst, 17, h, udp(src, dst, size-headerLen(src)-8))
}

func headerLen(a netip.Addr) int {
	if a.Is4() {
		return 20
	}
	return 40
}

// tcpPacket is a TCP packet of size octets in all.
func tcpPacket(src, dst netip.Addr, h hdr, size int) []byte {
	return packet(src, dst, 6, h, tcp(src, dst, 1000, 0x18, filling(size-headerLen(src)-20)))
}

// wrap is figure 6 of document 001 and figure 10 of RFC 5213: an IPv6 header before the packet, next header 4 or 41, traffic
// class copied, hop limit 64.
func wrap(src, dst netip.Addr, inner []byte) []byte {
	next, tos := byte(41), inner[0]<<4|inner[1]>>4
	if inner[0]>>4 == 4 {
		next, tos = 4, inner[1]
	}
	return v6(src, dst, next, hopsLeft(hdr{tos: tos}, inner), inner)
}

// hopsLeft says how many hops the outer packet of inner has, if h does not: the tunnel is one hop of a packet, but what is of a tunnel itself,
// or a later fragment that may be, has no more in this one than are left to it. It might come round (RFC 2473 4.1.3).
func hopsLeft(h hdr, inner []byte) hdr {
	if h.hop != 0 || len(inner) < 20 || inner[0]>>4 == 6 && len(inner) < 40 {
		return h
	}
	next, at, hop, later := inner[6], 40, int(inner[7]), false
	if inner[0]>>4 == 4 {
		next, at, hop, later = inner[9], int(inner[0]&15)*4, int(inner[8]), inner[6]&0x1f|inner[7] != 0
	}
	for ; next == 0 || next == 43 || next == 44 || next == 60; at += 8 {
		if at+8 > len(inner) {
			return h
		}
		here := at
		if next == 44 {
			later = inner[at+2]|inner[at+3]&0xf8 != 0
		} else {
			at += int(inner[at+1]) * 8
		}
		next = inner[here]
	}
	switch next {
	case 4, 41, 47, 50:
	case 17:
		if !later {
			if at+4 > len(inner) {
				return h
			}
			src, dst := binary.BigEndian.Uint16(inner[at:]), binary.BigEndian.Uint16(inner[at+2:])
			if src != 4191 && src != 4500 && dst != 4191 && dst != 4500 {
				return h
			}
		}
	default:
		return h
	}
	h.hop = min(hop, 64)
	return h
}

// cut fragments an outer packet the way RFC 8200 4.5 draws it: IPv6 header, Fragment header, data in steps of 8 octets.
func cut(pkt []byte, mtu int) (out [][]byte) {
	step := (mtu - 48) / 8 * 8
	body := pkt[40:]
	for off := 0; off < len(body); off += step {
		end, more := min(off+step, len(body)), byte(1)
		if end == len(body) {
			more = 0
		}
		f := append([]byte{}, pkt[:40]...)
		f[4], f[5], f[6] = byte((8+end-off)>>8), byte(8+end-off), 44
		f = append(f, pkt[6], 0, byte(off>>8), byte(off)|more)
		f = append(f, anyID...)
		out = append(out, append(f, body[off:end]...))
	}
	return out
}

func addresses(b []byte) (src, dst netip.Addr, proto byte) {
	if b[0]>>4 == 4 {
		return netip.AddrFrom4([4]byte(b[12:16])), netip.AddrFrom4([4]byte(b[16:20])), b[9]
	}
	return netip.AddrFrom16([16]byte(b[8:24])), netip.AddrFrom16([16]byte(b[24:40])), b[6]
}

// icmp6 is an ICMPv6 message with its checksum.
func icmp6(src, dst netip.Addr, typ, code byte, info uint32, rest []byte) []byte {
	b := []byte{typ, code, 0, 0}
	b = binary.BigEndian.AppendUint32(b, info)
	b = append(b, rest...)
	binary.BigEndian.PutUint16(b[2:], pseudoSum(src, dst, 58, b))
	return b
}

func icmp4(typ, code byte, info uint32, rest []byte) []byte {
	b := []byte{typ, code, 0, 0}
	b = binary.BigEndian.AppendUint32(b, info)
	b = append(b, rest...)
	binary.BigEndian.PutUint16(b[2:], plainSum(b))
	return b
}
