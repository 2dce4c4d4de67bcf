package user

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"net/netip"
	"testing"
	"unsafe"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
	"pgregory.net/rapid"

	"kedge/internal/core"
	"kedge/internal/dataplane"
	"kedge/internal/dataplane/mem"
	"kedge/wire/ip"
)

var flowEnds = [2][2]netip.Addr{
	{netip.MustParseAddr("2001:db8:c::c"), netip.MustParseAddr("2001:db8:1000:1::a")},
	{netip.MustParseAddr("203.0.113.9"), netip.MustParseAddr("10.20.0.10")},
}

// segment is a packet of a flow as a test wants it.
type segment struct {
	four, udp    bool
	port         uint16
	seq, ack     uint32
	flags        uint8 // of TCP; 0 = ACK
	options      int   // octets
	id           uint16
	df           bool
	tos, ttl     uint8
	n            int // payload
	fill         byte
	badSum, noUp bool // wrong checksum; a later fragment
}

func (s segment) packet() []byte {
	ends := flowEnds[0]
	if s.four {
		ends = flowEnds[1]
	}
	proto, up := uint8(ip.TCP), make([]byte, 20+s.options)
	if s.udp {
		proto, up = ip.UDP, make([]byte, ip.UDPLen)
	}
	be := binary.BigEndian
	be.PutUint16(up, 5001)
	be.PutUint16(up[2:], s.port)
	field := 16
	if s.udp {
		field = 6
		be.PutUint16(up[4:], uint16(ip.UDPLen+s.n))
	} else {
		be.PutUint32(up[4:], s.seq)
		be.PutUint32(up[8:], s.ack)
		up[12], up[13] = uint8(5+s.options/4)<<4, max(s.flags, 0x10)
		for i := range s.options {
			up[20+i] = 1
		}
	}
	for i := range s.n {
		up = append(up, s.fill+byte(i))
	}
	be.PutUint16(up[field:], ip.PseudoChecksum(ends[0], ends[1], proto, up))
	if s.badSum {
		up[field] ^= 0x55
	}
	h := ip.Header{Src: ends[0], Dst: ends[1], Proto: proto, TOS: s.tos, TTL: 60 - s.ttl, ID: s.id, DF: s.df}
	if s.noUp {
		h.Off = 8
	}
	b, err := h.Append(nil, len(up))
	if err != nil {
		panic(err)
	}
	return append(b, up...)
}

// join copies the buffers that the kernel would get.
func joined(iovs []unix.Iovec) (b []byte) {
	for _, v := range iovs {
		b = append(b, unsafe.Slice(v.Base, int(v.Len))...)
	}
	return b
}

// cut does to a super packet what the kernel does.
func cut(t interface{ Fatalf(string, ...any) }, msg []byte, link int) (all [][]byte) {
	v, err := ip.ParseVNet(msg)
	if err != nil {
		t.Fatalf("%v", err)
	}
	pkt := msg[ip.VNetLen+link:]
	h, err := ip.Parse(pkt)
	if err != nil || h.Len != len(pkt) {
		t.Fatalf("a packet of %d octets: %v, %d", len(pkt), err, h.Len)
	}
	if v.Type == ip.GSONone {
		return [][]byte{pkt}
	}
	// The field holds the pseudo header's sum: completed, the packet is right.
	one := bytes.Clone(pkt)
	if err := ip.CompleteChecksum(one, v.CsumStart-link, v.CsumOffset); err != nil || !v.NeedsChecksum {
		t.Fatalf("partial checksum: %v", err)
	}
	u, _ := ip.FindUpper(one, &h)
	if u.Off != v.CsumStart-link || ip.PseudoChecksum(h.Src, h.Dst, u.Proto, one[u.Off:]) != 0 {
		t.Fatalf("checksum from %d on is wrong", v.CsumStart)
	}
	head := u.Off + ip.UDPLen
	if u.Proto == ip.TCP {
		head = u.Off + int(one[u.Off+12]>>4)*4
	}
	if got := int(binary.LittleEndian.Uint16(msg[2:])); got != link+head {
		t.Fatalf("hdr_len %d, want %d", got, link+head)
	}
	s, err := ip.NewSegmenter(pkt, v.Type, v.Size)
	if err != nil {
		t.Fatalf("%v", err)
	}
	for {
		b, ok := s.Next(nil)
		if !ok {
			return all
		}
		all = append(all, b)
	}
}

func coalesce(t interface{ Fatalf(string, ...any) }, run []mem.Packet, link int) (all [][][]byte) {
	c := &coalescer{tcp: true, udp: true}
	c.fill(run)
	for i := range c.supers {
		c.iovs = c.iovs[:0]
		c.message(&c.supers[i], run, make([]byte, link))
		all = append(all, cut(t, joined(c.iovs), link))
	}
	return all
}

// TestCoalesce: what becomes one packet, and what never does.
func TestCoalesce(t *testing.T) {
	tcp := func(seq uint32, n int) segment { return segment{seq: seq, n: n} }
	with := func(s segment, f func(*segment)) segment { f(&s); return s }
	dgram := func(n int) segment { return segment{udp: true, n: n} }
	four := func(s segment, id uint16) segment { s.four, s.id, s.df = true, id, true; return s }
	for _, c := range []struct {
		name string
		in   []segment
		want []int // packets in each
	}{
		{"TCP in sequence", []segment{tcp(0, 100), tcp(100, 100), tcp(200, 100)}, []int{3}},
		{"the last is shorter", []segment{tcp(0, 100), tcp(100, 60), tcp(160, 100)}, []int{2, 1}},
		{"the second is longer", []segment{tcp(0, 100), tcp(100, 101)}, []int{1, 1}},
		{"a gap", []segment{tcp(0, 100), tcp(200, 100)}, []int{1, 1}},
		{"repeated", []segment{tcp(0, 100), tcp(0, 100)}, []int{1, 1}},
		{"behind the sequence numbers' end", []segment{tcp(1<<32-100, 100), tcp(0, 100)}, []int{2}},
		{"PSH ends", []segment{tcp(0, 100), with(tcp(100, 100), func(s *segment) { s.flags = 0x18 }), tcp(200, 100)}, []int{2, 1}},
		{"PSH at the start", []segment{with(tcp(0, 100), func(s *segment) { s.flags = 0x18 }), tcp(100, 100)}, []int{1, 1}},
		{"FIN", []segment{tcp(0, 100), with(tcp(100, 100), func(s *segment) { s.flags = 0x11 }), tcp(200, 100)}, []int{1, 1, 1}},
		{"no data", []segment{tcp(0, 100), tcp(100, 0), tcp(100, 100)}, []int{1, 1, 1}},
		{"another ACK number", []segment{tcp(0, 100), with(tcp(100, 100), func(s *segment) { s.ack = 1 })}, []int{1, 1}},
		{"other options", []segment{tcp(0, 100), with(tcp(100, 100), func(s *segment) { s.options = 4 })}, []int{1, 1}},
		{"ECN", []segment{tcp(0, 100), with(tcp(100, 100), func(s *segment) { s.tos = 3 })}, []int{1, 1}},
		{"hop limit", []segment{tcp(0, 100), with(tcp(100, 100), func(s *segment) { s.ttl = 1 })}, []int{1, 1}},
		{"wrong checksum", []segment{tcp(0, 100), with(tcp(100, 100), func(s *segment) { s.badSum = true }), tcp(200, 100)}, []int{1, 1, 1}},
		{"wrong checksum of the first", []segment{with(tcp(0, 100), func(s *segment) { s.badSum = true }), tcp(100, 100), tcp(200, 100)}, []int{1, 2}},
		{"flows side by side", []segment{tcp(0, 100), with(tcp(7, 90), func(s *segment) { s.port = 9 }), tcp(100, 100), with(tcp(97, 90), func(s *segment) { s.port = 9 })}, []int{2, 2}},
		{"IPv4", []segment{four(tcp(0, 100), 5), four(tcp(100, 100), 6)}, []int{2}},
		{"IPv4, a gap in Identification", []segment{four(tcp(0, 100), 5), four(tcp(100, 100), 7)}, []int{1, 1}},
		{"IPv4, one Identification, may be fragmented", []segment{with(four(tcp(0, 100), 5), func(s *segment) { s.df = false }), with(four(tcp(100, 100), 5), func(s *segment) { s.df = false })}, []int{1, 1}},
		{"a fragment between", []segment{four(tcp(0, 100), 5), with(four(dgram(16), 9), func(s *segment) { s.noUp = true }), four(tcp(100, 100), 6)}, []int{1, 1, 1}},
		{"datagrams", []segment{dgram(16), dgram(16), dgram(16)}, []int{3}},
		{"datagrams of 1 octet", []segment{dgram(1), dgram(1)}, []int{2}},
		{"a shorter datagram ends", []segment{dgram(16), dgram(5), dgram(5)}, []int{2, 1}},
		{"empty datagrams", []segment{dgram(0), dgram(0)}, []int{1, 1}},
		{"IPv4 datagrams", []segment{four(dgram(16), 5), four(dgram(16), 6)}, []int{2}},
	} {
		for _, link := range []int{0, etherLen} {
			var run []mem.Packet
			for _, s := range c.in {
				run = append(run, mem.Packet{To: dataplane.ToNative, B: s.packet()})
			}
			got := coalesce(t, run, link)
			var n []int
			flat := map[string]bool{}
			for _, s := range got {
				n = append(n, len(s))
				for _, b := range s {
					flat[string(b)] = true
				}
			}
			if fmt.Sprint(n) != fmt.Sprint(c.want) {
				t.Errorf("%s, link header of %d: %v, want %v", c.name, link, n, c.want)
			}
			for i := range run {
				if !flat[string(run[i].B)] {
					t.Errorf("%s: packet %d did not come out as it was", c.name, i)
				}
			}
		}
	}
}

// TestCoalesceLimits: not more segments than the kernel takes at once, and no longer than a tunnel further on can carry.
func TestCoalesceLimits(t *testing.T) {
	for _, n := range []int{1, 500, 1400} {
		var run []mem.Packet
		for i := range 200 {
			run = append(run, mem.Packet{B: segment{seq: uint32(i * n), n: n}.packet()})
		}
		total := 0
		for _, s := range coalesce(t, run, 0) {
			octets := 60
			for _, b := range s {
				octets += len(b) - 60
			}
			if len(s) > maxSegments || octets > maxSuper {
				t.Errorf("%d segments, %d octets", len(s), octets)
			}
			total += len(s)
		}
		if total != len(run) {
			t.Errorf("%d packets came out of %d", total, len(run))
		}
	}
}

// TestCoalesceAny: whatever is in a batch, each flow's packets leave as they were and in their order.
func TestCoalesceAny(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var run []mem.Packet
		next := map[int]segment{}
		for range rapid.IntRange(1, 120).Draw(t, "packets") {
			k := rapid.IntRange(0, 11).Draw(t, "flow")
			s, ok := next[k]
			if !ok {
				s = segment{four: k&1 != 0, udp: k&2 != 0, port: uint16(k / 4), id: 1, df: k != 1, n: 20}
			}
			cur := s
			switch rapid.IntRange(0, 12).Draw(t, "what") {
			case 0:
				cur.n = rapid.IntRange(0, 40).Draw(t, "length")
			case 1:
				cur.seq += 7
			case 2:
				cur.flags = []uint8{0x18, 0x11, 0x02, 0x14, 0x90}[rapid.IntRange(0, 4).Draw(t, "flags")]
			case 3:
				cur.badSum = true
			case 4:
				cur.tos = 3
			case 5:
				cur.id += 3
			case 6:
				cur.noUp = cur.four
			}
			cur.fill = byte(len(run))
			b := cur.packet()
			run = append(run, mem.Packet{B: b, If: k / 6, MAC: core.MAC{byte(k / 6)}})
			s.seq, s.id = cur.seq+uint32(cur.n), cur.id+1
			next[k] = s
		}
		key := func(b []byte) [3]byte { // family, protocol, port
			off := ip.IPv6Len
			if is4(b) {
				off = ip.IPv4Len
			}
			return [3]byte{b[0] >> 4, upper(b), b[off+3]}
		}
		want, got := map[[3]byte][][]byte{}, map[[3]byte][][]byte{}
		for _, p := range run {
			want[key(p.B)] = append(want[key(p.B)], p.B)
		}
		for _, s := range coalesce(t, run, 0) {
			for _, b := range s {
				got[key(b)] = append(got[key(b)], b)
			}
		}
		if d := cmp.Diff(want, got); d != "" {
			t.Fatal(d)
		}
	})
}

func TestCoalesceAllocatesNothing(t *testing.T) {
	var run []mem.Packet
	for i := range 60 {
		run = append(run, mem.Packet{B: segment{udp: i%3 == 0, port: uint16(i % 3), seq: uint32(i / 3 * 100), n: 100}.packet()})
	}
	c := &coalescer{tcp: true, udp: true}
	work := func() {
		c.fill(run)
		c.iovs = c.iovs[:0]
		for i := range c.supers {
			c.message(&c.supers[i], run, nil)
		}
	}
	work()
	if n := testing.AllocsPerRun(100, work); n != 0 {
		t.Errorf("%v allocations", n)
	}
}
