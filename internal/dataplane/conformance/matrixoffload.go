package conformance

import (
	"encoding/binary"
	"fmt"
	"net/netip"

	"kedge/internal/core"
	"kedge/wire/ip"
)

// offloads: what senders leave to their devices. Checksums, and super packets of TCP and of UDP_SEGMENT, up to 64 KB.
func offloads(s *sheet) {
	for _, fam := range families {
		src, dst := s.ends(fam)
		for _, n := range []int{headerLen(src) + 21, 333, 1280, s.most()} {
			for _, k := range []kind{kindTCP, kindUDP} {
				s.partial(fam, k, src, dst, n)
			}
		}
		for _, size := range []int{1, 536, 1200, s.most() - headerLen(src) - 20} {
			for _, n := range []int{1, size, 2, 3*size + 1, 20*size + 7, 44*size - 1, 65535 - 120} {
				if n > 65535-120 || n > 60*size {
					continue
				}
				s.super(fam, kindTCP, src, dst, size, n)
				if size+headerLen(src)+8 <= s.most() {
					s.super(fam, kindUDP, src, dst, size, n)
				}
			}
		}
	}
}

// left makes the checksum of an upper layer what a host leaves to its device: the pseudo header's sum, not inverted.
func left(src, dst netip.Addr, proto byte, body []byte) (offset int) {
	offset = 16
	if proto == 17 {
		offset = 6
	}
	binary.BigEndian.PutUint16(body[offset:], ^pseudoSumOnly(src, dst, proto, len(body)))
	return offset
}

// partial: only the checksum is left to the device, on both sides.
func (s *sheet) partial(fam family, k kind, src, dst netip.Addr, n int) {
	name := fmt.Sprintf("%s %s of %d octets with a partial checksum", fam.name, k.name, n)
	s.in(name, func(hop int) []byte { return s.of(k, src, dst, hdr{hop: hop, df: true}, n) })
	t := &s.all[len(s.all)-1]
	p := &t.in[0]
	proto, _ := k.make(s, src, dst, n-headerLen(src))
	at := left(src, dst, proto, p.B[headerLen(src):])
	p.VNet = ip.VNet{NeedsChecksum: true, CsumStart: headerLen(src), CsumOffset: at}
	if s.e.udp() || s.e.chain.N != 1 || s.e.secured() {
		return // nobody could leave one to a device behind such headers
	}
	s.outOf(name, hdr{}, func(hop int) []byte { return s.of(k, dst, src, hdr{hop: hop, df: true}, n) })
	p = &s.all[len(s.all)-1].in[0]
	inner := p.B[s.e.head():]
	left(dst, src, proto, inner[headerLen(src):])
	p.VNet = ip.VNet{NeedsChecksum: true, CsumStart: s.e.head() + headerLen(src), CsumOffset: at}
}

// super: a packet with n octets of payload in segments of size.
func (s *sheet) super(fam family, k kind, src, dst netip.Addr, size, n int) {
	s.serial++
	const fin, psh, ack = 1, 8, 16
	head, payload := headerLen(src), s.fill(n)
	p := s.native(nil)
	var proto byte
	segment := func(off, end int) []byte {
		if k.name == "UDP" {
			b := append(s.udp(8), payload[off:end]...)
			binary.BigEndian.PutUint16(b[4:], uint16(len(b)))
			sum := pseudoSum(src, dst, 17, b)
			if sum == 0 {
				sum = 0xffff
			}
			binary.BigEndian.PutUint16(b[6:], sum)
			return b
		}
		flags := byte(ack)
		if end == n {
			flags |= fin | psh
		}
		return s.tcp(src, dst, 7000+uint32(off), flags, payload[off:end])
	}
	body := segment(0, n)
	if proto = 6; k.name == "UDP" {
		proto = 17
	}
	at := left(src, dst, proto, body)
	p.VNet = ip.VNet{NeedsChecksum: true, CsumStart: head, CsumOffset: at}
	if n > size {
		p.VNet.Type, p.VNet.Size = ip.GSOUDPL4, size
		if proto == 6 {
			p.VNet.Type = map[bool]uint8{true: ip.GSOTCP4, false: ip.GSOTCP6}[src.Is4()]
		}
	}
	p.B = packet(src, dst, proto, hdr{df: true, id: 100}, body)
	t := trial{name: fmt.Sprintf("%s %s super packet, %d octets in segments of %d", fam.name, k.name, n, size), in: []Packet{p}, unsummed: true}
	for off, i := 0, 0; off < n; off, i = off+size, i+1 {
		h := hdr{hop: s.hop(64), df: true}
		if src.Is4() {
			h.id = uint16(100 + i)
		}
		seg := packet(src, dst, proto, h, segment(off, min(off+size, n)))
		t.wants = append(t.wants, s.emitted(seg, s.path, s.static)...)
		t.count = added(t.count, core.Counter{PacketsOut: 1, OctetsOut: uint64(len(seg))})
	}
	s.add(t)
}
