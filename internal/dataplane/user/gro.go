package user

import (
	"bytes"
	"encoding/binary"
	"net/netip"

	"golang.org/x/sys/unix"

	"kedge/internal/dataplane/mem"
	"kedge/wire/ip"
)

const (
	// maxSuper is how long a packet is made at most, octets: with the headers of a tunnel further on it still fits into 65,535.
	maxSuper = ip.MaxPacket - 512
	// maxDatagram is how long one is that the kernel cuts, octets with its header: with those of IPv4 65,535.
	maxDatagram = ip.MaxPacket - ip.IPv4Len
	// maxSegments of one packet: what Linux before 6.9 takes at once (UDP_MAX_SEGMENTS).
	maxSegments = 64
	// maxOpen is how many flows of a batch are watched for more of theirs.
	maxOpen = 8
	maxHead = ip.IPv6Len + 60 // of IP and TCP, octets
)

// super is a packet for the kernel: one as it is, or several of a flow that it handles as one and cuts again where it must.
type super struct {
	first, last int // packets of the run; those between are found by coalescer.next
	n           int
	kind        uint8 // GSO type of its flow
	open        bool  // it may become longer
	checked     bool  // the checksum of the first is known to be right
	off, hdr    int   // of the upper layer, and of its payload
	size, total int   // payload of the first, octets of all
	seq         uint32
	id          uint16 // of the last
	push        bool
	head        [ip.VNetLen + etherLen + maxHead]byte
}

// coalescer finds the packets of a run that the kernel can take as one: TCP segments in sequence, UDP datagrams of one length.
// Packets of a flow keep their order, and each that is put together was whole: its checksum is verified before it is replaced.
type coalescer struct {
	tcp, udp bool // which of them
	supers   []super
	next     []int // of each packet of the run: the one behind it in its super
	open     [maxOpen]int
	opened   int
	iovs     []unix.Iovec
}

// flow is what a packet says about the flow that it is of.
type flow struct {
	kind     uint8
	off, hdr int
	who      []byte // addresses and ports
	ends     int    // octets of who that are addresses
}

// classify tells what is worth a look: whole TCP segments with nothing but data, and UDP datagrams with a checksum. Of others it
// says the addresses.
func (c *coalescer) classify(b []byte) (f flow, ok bool) {
	var proto uint8
	switch {
	case is4(b):
		f.off, proto = ip.IPv4Len, b[9]
		f.who, f.ends = b[12:20], 8
		if b[0] != 0x45 || int(binary.BigEndian.Uint16(b[2:])) != len(b) || binary.BigEndian.Uint16(b[6:])&0x3fff != 0 {
			return f, false
		}
	default:
		f.off, proto = ip.IPv6Len, b[6]
		f.who, f.ends = b[8:40], 32
		if ip.IPv6Len+int(binary.BigEndian.Uint16(b[4:])) != len(b) {
			return f, false
		}
	}
	up := b[f.off:]
	switch proto {
	case ip.TCP:
		const ack, push = 0x10, 0x08
		if !c.tcp || len(up) < 20 || up[13]&^push != ack {
			return f, false
		}
		f.hdr = f.off + int(up[12]>>4)*4
		if f.kind = ip.GSOTCP6; is4(b) {
			f.kind = ip.GSOTCP4
		}
		if f.hdr < f.off+20 {
			return f, false
		}
	case ip.UDP:
		if !c.udp || len(up) < ip.UDPLen || int(binary.BigEndian.Uint16(up[4:])) != len(up) || binary.BigEndian.Uint16(up[6:]) == 0 {
			return f, false
		}
		f.kind, f.hdr = ip.GSOUDPL4, f.off+ip.UDPLen
	default:
		return f, false
	}
	f.who = f.who[:f.ends+4] // ports follow
	return f, f.hdr < len(b)
}

// fill takes a run.
func (c *coalescer) fill(run []mem.Packet) {
	c.supers, c.next, c.opened = c.supers[:0], c.next[:0], 0
	for i := range run {
		c.next = append(c.next, 0)
		c.add(run, i)
	}
}

func (c *coalescer) add(run []mem.Packet, i int) {
	p := &run[i]
	f, ok := c.classify(p.B)
	for j := 0; j < c.opened; j++ {
		s := &c.supers[c.open[j]]
		o := &run[s.first]
		if is4(o.B) != is4(p.B) || o.If != p.If || o.MAC != p.MAC {
			continue
		}
		who := o.B[s.off-f.ends:]
		if !bytes.Equal(who[:f.ends], f.who[:f.ends]) || ok && (s.kind != f.kind || !bytes.Equal(who[:len(f.who)], f.who)) {
			continue
		}
		// What can't be joined, or whose flow can't be told, must not be overtaken.
		joined := ok && c.join(s, run, i, &f)
		if !joined || !s.open {
			s.open = false
			c.shut(j)
			j--
		}
		if joined {
			return
		}
	}
	s := c.grow()
	s.first, s.last, s.n, s.total = i, i, 1, len(p.B)
	if s.open = ok; !ok {
		return
	}
	s.kind, s.off, s.hdr, s.size, s.push, s.checked = f.kind, f.off, f.hdr, len(p.B)-f.hdr, false, false
	up := p.B[f.off:]
	if s.kind == ip.GSOUDPL4 {
		s.seq = 0
	} else {
		s.seq, s.open = binary.BigEndian.Uint32(up[4:])+uint32(s.size), up[13]&8 == 0
	}
	if is4(p.B) {
		s.id = binary.BigEndian.Uint16(p.B[4:])
	}
	if !s.open {
		return
	}
	if c.opened == maxOpen {
		c.supers[c.open[0]].open = false
		c.shut(0)
	}
	c.open[c.opened] = len(c.supers) - 1
	c.opened++
}

func (c *coalescer) grow() *super {
	if len(c.supers) < cap(c.supers) {
		c.supers = c.supers[:len(c.supers)+1]
	} else {
		c.supers = append(c.supers, super{})
	}
	return &c.supers[len(c.supers)-1]
}

func (c *coalescer) shut(j int) {
	copy(c.open[j:], c.open[j+1:c.opened])
	c.opened--
}

// join appends packet i to a super of its flow, if it is what comes next there.
func (c *coalescer) join(s *super, run []mem.Packet, i int, f *flow) bool {
	a, b := run[s.first].B, run[i].B
	size := len(b) - f.hdr
	if f.hdr != s.hdr || size > s.size || s.n == maxSegments || s.total+size > maxSuper || !alike(a, b, s.off) {
		return false
	}
	if is4(b) {
		// What is not to be fragmented may have any Identification (RFC 6864 4.1), and cutting counts it up.
		id, df := binary.BigEndian.Uint16(b[4:]), b[6]&0x40 != 0
		if id != s.id+1 && !(df && id == s.id && id == binary.BigEndian.Uint16(a[4:])) {
			return false
		}
		s.id = id
	}
	push := false
	if s.kind != ip.GSOUDPL4 {
		at, bt := a[s.off:s.hdr], b[s.off:s.hdr]
		if binary.BigEndian.Uint32(bt[4:]) != s.seq || !bytes.Equal(at[8:13], bt[8:13]) || !bytes.Equal(at[14:16], bt[14:16]) || !bytes.Equal(at[18:], bt[18:]) {
			return false
		}
		push = bt[13]&8 != 0
	}
	if !s.checked && !right(a, s.off) || !right(b, s.off) {
		return false
	}
	s.checked = true
	c.next[s.last], s.last = i, i
	s.n, s.total, s.seq, s.push = s.n+1, s.total+size, s.seq+uint32(size), push
	s.open = size == s.size && !push
	return true
}

// alike reports whether the IP headers differ in length, Identification and checksum only.
func alike(a, b []byte, hdr int) bool {
	if hdr == ip.IPv4Len {
		return a[1] == b[1] && bytes.Equal(a[6:10], b[6:10])
	}
	return bytes.Equal(a[:4], b[:4]) && a[7] == b[7]
}

// ends are the addresses of a packet.
func ends(b []byte) (src, dst netip.Addr) {
	if is4(b) {
		return netip.AddrFrom4([4]byte(b[12:16])), netip.AddrFrom4([4]byte(b[16:20]))
	}
	return netip.AddrFrom16([16]byte(b[8:24])), netip.AddrFrom16([16]byte(b[24:40]))
}

func upper(b []byte) uint8 {
	if is4(b) {
		return b[9]
	}
	return b[6]
}

// right verifies a TCP or UDP checksum.
func right(b []byte, off int) bool {
	src, dst := ends(b)
	return ip.PseudoChecksum(src, dst, upper(b), b[off:]) == 0
}

// message appends the buffers of a super to iovs: a virtio-net header, link, and the packet.
func (c *coalescer) message(s *super, run []mem.Packet, link []byte) {
	p := run[s.first].B
	if s.n == 1 {
		c.single(s, p, link)
		return
	}
	at := ip.VNetLen + copy(s.head[ip.VNetLen:], link)
	h := s.head[at : at+s.hdr]
	copy(h, p)
	src, dst := ends(h)
	field := 16
	if s.kind == ip.GSOUDPL4 {
		field = 6
		binary.BigEndian.PutUint16(h[s.off+4:], uint16(s.total-s.off))
	} else if s.push {
		h[s.off+13] |= 8
	}
	binary.BigEndian.PutUint16(h[s.off+field:], ip.PartialChecksum(src, dst, upper(h), s.total-s.off))
	if is4(h) {
		binary.BigEndian.PutUint16(h[2:], uint16(s.total))
		h[10], h[11] = 0, 0
		binary.BigEndian.PutUint16(h[10:], ip.Checksum(h[:ip.IPv4Len]))
	} else {
		binary.BigEndian.PutUint16(h[4:], uint16(s.total-ip.IPv6Len))
	}
	ip.VNet{NeedsChecksum: true, Type: s.kind, Size: s.size, CsumStart: len(link) + s.off, CsumOffset: field}.Put(s.head[:], len(link)+s.hdr)
	c.gather(s.head[:at+s.hdr])
	c.gather(p[s.hdr:])
	for i, n := s.first, 1; n < s.n; n++ {
		i = c.next[i]
		c.gather(run[i].B[s.hdr:])
	}
}

// single appends the buffers of one packet, with the head of s.
func (c *coalescer) single(s *super, b, link []byte) {
	at := ip.VNetLen + copy(s.head[ip.VNetLen:], link)
	ip.VNet{}.Put(s.head[:], 0)
	c.gather(s.head[:at])
	c.gather(b)
}

func (c *coalescer) gather(b []byte) {
	v := unix.Iovec{Base: &b[0]}
	v.SetLen(len(b))
	c.iovs = append(c.iovs, v)
}
