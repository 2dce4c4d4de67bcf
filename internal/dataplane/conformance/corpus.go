package conformance

import (
	"encoding/binary"
	"net/netip"
	"path/filepath"
	"slices"
	"testing"

	"kedge/internal/core"
	"kedge/internal/dataplane"
	"kedge/internal/testpcap"
)

// Vectors are captures of what other implementations sent, at the top of the repository.
var Vectors = []string{"umip-ro-all.pcap", "umip-esp-all.pcap", "mip4-proxymip4.pcap", "strongswan-libipsec.pcap", "access-clients.pcap", "pmip-oai-all.pcap"}

// Corpus is what fuzzing begins with, and what every back end is shown as it is: packets of every encapsulation of a role, right and wrong
// in ways that somebody thought of. native are those for the side of hosts, tunnel those with outer headers.
// top is where the repository is, seen from the test's folder.
func Corpus(tb testing.TB, r dataplane.Role, top string) (native, tunnel [][]byte) {
	var inner [][]byte
	s := &sheet{}
	for _, fam := range families {
		src, dst := fam.one, fam.cn
		if r == dataplane.Anchor {
			src, dst = dst, src
		}
		for _, k := range []kind{kindUDP, kindTCP, kindEcho, kindUnsummed, kindSCTP, kindOther, kindESP, kindGRE, kindIPIP} {
			for _, n := range []int{0, 1, 2, 77} {
				s.serial++
				native = append(native, s.of(k, src, dst, hdr{}, headerLen(src)+k.least+n))
				inner = append(inner, s.of(k, dst, src, hdr{}, headerLen(src)+k.least+n))
			}
		}
		native = append(native, wrong(s.of(kindUDP, src, dst, hdr{}, 120))...)
		native = append(native, wrong(s.of(kindTCP, src, dst, hdr{}, 120))...)
		inner = append(inner, wrong(s.of(kindUDP, dst, src, hdr{}, 120))...)
		inner = append(inner, wrong(s.of(kindEcho, dst, src, hdr{}, 120))...)
		if src.Is6() {
			native = append(native, behind(s, src, dst)...)
			inner = append(inner, behind(s, dst, src)...)
		} else {
			native = append(native, optioned(s.of(kindUDP, src, dst, hdr{}, 100))...)
			inner = append(inner, optioned(s.of(kindTCP, dst, src, hdr{}, 100))...)
		}
	}
	for _, file := range Vectors {
		for i, f := range testpcap.Read(tb, filepath.Join(top, "testdata/vectors", file)) {
			if i < 60 && len(f) > 54 && len(f) < 1400 && (f[12] == 0x86 && f[13] == 0xdd || f[12] == 8 && f[13] == 0) {
				// As they are, and as if they were to us.
				inner, native, tunnel = append(inner, f[14:]), append(native, f[14:]), append(tunnel, readdressed(f[14:], r))
			}
		}
	}
	up := r == dataplane.Anchor
	for i, e := range encapsOf(r) {
		for j, in := range inner {
			if len(in) >= 2 && (j%len(encapsOf(r)) == i || j < 100) {
				tunnel = append(tunnel, e.wrap(in, hdr{id: 3}, true, up))
			}
		}
		good := e.wrap(s.of(kindUDP, inEnd(r, families[0]), inSource(r, families[0]), hdr{}, 100), hdr{id: 4}, true, up)
		tunnel = append(tunnel, wrong(good)...)
		for n := range good {
			tunnel = append(tunnel, good[:n])
		}
		// Packets in packets in packets.
		in := s.of(kindUDP, inEnd(r, families[0]), inSource(r, families[0]), hdr{}, 100)
		for range 6 {
			in = e.wrap(in, hdr{id: 5}, true, up)
			tunnel = append(tunnel, in)
		}
		// Every first octet of what is behind the outer header and its port: flags of GRE, types of TLV, versions.
		at := headerLen(e.outermost().Local.Addr())
		if e.outermost().Local.Port() != 0 {
			at += 8
		}
		for v := range 256 {
			p := slices.Clone(good)
			p[at] = byte(v)
			tunnel = append(tunnel, p, resummed(p, e.outermost()))
		}
	}
	return native, tunnel
}

// readdressed is a packet to the router.
func readdressed(p []byte, r dataplane.Role) []byte {
	p = slices.Clone(p)
	e := encapsOf(r)
	for i := range e {
		if l := e[i].outermost(); l.Local.Addr().Is4() == (p[0]>>4 == 4) {
			if p[0]>>4 == 4 {
				copy(p[16:], l.Local.Addr().AsSlice())
				return mended(p, true)
			}
			copy(p[24:], l.Local.Addr().AsSlice())
			return p
		}
	}
	return p
}

func inSource(r dataplane.Role, f family) netip.Addr {
	if r == dataplane.Anchor {
		return f.cn
	}
	return f.one
}

func inEnd(r dataplane.Role, f family) netip.Addr {
	if r == dataplane.Anchor {
		return f.one
	}
	return f.cn
}

// resummed is an outer UDP datagram with the checksum that its new content asks for.
func resummed(p []byte, l core.Layer) []byte {
	p = slices.Clone(p)
	at := headerLen(l.Local.Addr())
	if l.Local.Port() == 0 {
		return p
	}
	src, dst, _ := addresses(p)
	copy(p[at+6:], []byte{0, 0})
	binary.BigEndian.PutUint16(p[at+6:], pseudoSum(src, dst, 17, p[at:]))
	return p
}

// wrong are packets whose lengths are not what they say, that are cut, or padded, or of another version.
func wrong(p []byte) (out [][]byte) {
	at, head := 4, 40
	if p[0]>>4 == 4 {
		at, head = 2, 20
	}
	n := int(binary.BigEndian.Uint16(p[at:]))
	edit := func(at int, v ...byte) []byte {
		q := slices.Clone(p)
		copy(q[at:], v)
		return mended(q, true)
	}
	for _, d := range []int{0, 1, 7, 8, 19, 20, 27, 28, 39, 40, 47, 48, n - 8, n - 1, n + 1, n + 8, 1280, 65535} {
		if d >= 0 {
			out = append(out, edit(at, byte(d>>8), byte(d)))
		}
	}
	for _, d := range []int{-1, 1, 8} { // of the upper layer, where it has one
		v := int(binary.BigEndian.Uint16(p[head+4:])) + d
		out = append(out, edit(head+4, byte(v>>8), byte(v)))
	}
	for v := range byte(16) {
		out = append(out, edit(0, v<<4|p[0]&15), edit(0, p[0]&0xf0|v))
	}
	for _, v := range []byte{0, 1, 2, 255} {
		if head == 20 {
			out = append(out, edit(8, v))
		} else {
			out = append(out, edit(7, v))
		}
	}
	for _, n := range []int{0, 1, 2, 3, 17} {
		out = append(out, append(slices.Clone(p), make([]byte, n)...), p[:len(p)-n-1])
	}
	for _, n := range []int{1, 2, 8, 9, 16, 19, 20, 21, 24, 28, 39, 40, 41, 44, 48} {
		if n < len(p) {
			out = append(out, slices.Clone(p[:n]))
		}
	}
	for proto := range 256 {
		if head == 20 {
			out = append(out, edit(9, byte(proto)))
		} else {
			out = append(out, edit(6, byte(proto)))
		}
	}
	return append(out, slices.Clone(p[:head]))
}

// behind are packets behind extension headers, good ones and ones of wrong lengths.
func behind(s *sheet, src, dst netip.Addr) (out [][]byte) {
	for _, k := range []kind{kindUDP, kindEcho} {
		proto, body := k.make(s, src, dst, 60)
		for _, x := range extensions(proto) {
			p := v6(src, dst, x.first, hdr{}, slices.Concat(x.b, body))
			out = append(out, p, p[:40+len(x.b)], p[:41])
			for _, n := range []byte{1, 3, 7, 8, 255} {
				q := slices.Clone(p)
				q[41] = n
				out = append(out, q)
			}
			q := slices.Clone(p)
			q[40] = x.first // as often as it likes
			out = append(out, q)
		}
		for typ := range byte(6) { // routing headers of all types, with segments left or not
			for left := range byte(3) {
				out = append(out, v6(src, dst, 43, hdr{}, slices.Concat([]byte{proto, 2, typ, left, 0, 0, 0, 0}, src.AsSlice(), body)))
			}
		}
		out = append(out, v6(src, dst, 60, hdr{}, slices.Concat(homeOption(src, proto), body)))
		long := slices.Concat(body)
		next := proto
		for range 12 { // more headers than anybody walks
			long, next = append([]byte{next, 0, 1, 4, 0, 0, 0, 0}, long...), 60
			out = append(out, v6(src, dst, next, hdr{}, long))
		}
		for _, f := range [][2]byte{{0, 0}, {0, 1}, {0, 8}, {0, 9}, {0xff, 0xf8}, {0xff, 0xf9}, {0, 6}} {
			out = append(out, v6(src, dst, 44, hdr{}, append([]byte{proto, 0, f[0], f[1], 0, 0, 0, 1}, body...)))
		}
	}
	return out
}

// optioned are IPv4 packets with options, good and bad ones.
func optioned(p []byte) (out [][]byte) {
	for _, options := range [][]byte{
		{1, 1, 1, 1}, {0, 0, 0, 0}, {7, 7, 4, 0, 0, 0, 0, 0}, {68, 8, 5, 0, 0, 0, 0, 0}, {131, 7, 4, 1, 2, 3, 4, 0}, {137, 7, 4, 1, 2, 3, 4, 0}, {148, 4, 0, 0},
		{7, 0, 0, 0}, {7, 1, 0, 0}, {7, 255, 0, 0}, {1, 1, 1, 7}, append([]byte{222, 40}, make([]byte, 38)...),
	} {
		q := slices.Concat(p[:20], options, p[20:])
		q[0] = 0x45 + byte(len(options)/4)
		binary.BigEndian.PutUint16(q[2:], uint16(len(q)))
		out = append(out, mended(q, true), q)
	}
	for off := range 4 {
		for flags := range 8 {
			q := slices.Clone(p)
			binary.BigEndian.PutUint16(q[6:], uint16(flags<<13|off*0x7ff))
			out = append(out, mended(q, true))
		}
	}
	return out
}
