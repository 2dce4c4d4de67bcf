package user

import (
	"bytes"
	"encoding/binary"
	"errors"
	"net/netip"
	"unsafe"

	"golang.org/x/sys/unix"

	"kedge/internal/dataplane/mem"
	"kedge/wire"
	"kedge/wire/ip"
)

// hopLimit of outer packets that the kernel makes: the engine's. One with another hop limit goes as the engine made it.
const hopLimit = 64

// toTunnel sends outer packets: of those in UDP, each run of one tunnel and one length by one system call and as one packet of
// the kernel's, which is cut as late as possible (UDP_SEGMENT). The others go as they are; so do all if that is refused.
func (p *Plane) toTunnel(b *sendBatch, run []mem.Packet) (first error) {
	source := p.cfg.Role == Node // whose route depends on its source
	note := func(err error) {
		if first == nil {
			first = err
		}
	}
	whole := 0 // those before it have left
	for i := 0; i < len(run); {
		n := 1
		if p.segment.Load() {
			n = segments(run[i:])
		}
		if n == 1 {
			i++
			continue
		}
		s := p.sender(run[i].B)
		if s == nil {
			i += n
			continue
		}
		if whole < i {
			note(p.toCore(b, run[whole:i], source))
			whole = i
		}
		err := b.sendSegments(s, run[i:i+n])
		i += n
		switch {
		case err == nil:
			whole = i
		case errors.Is(err, unix.EAGAIN):
			for range n {
				p.Count(wire.SendFailed)
			}
			note(err)
			whole = i
		case refused(err):
			p.segment.Store(false)
			p.learn(SegmentUDP, err)
		} // else each by itself, and whatever is wrong with it is told so
	}
	if whole < len(run) {
		note(p.toCore(b, run[whole:], source))
	}
	return first
}

// sender is the socket that has a datagram's source.
func (p *Plane) sender(b []byte) *socket {
	src, _ := ends(b)
	off := ip.IPv6Len
	if is4(b) {
		off = ip.IPv4Len
	}
	port := binary.BigEndian.Uint16(b[off:])
	if s := p.udp[netip.AddrPortFrom(src, port)]; s != nil {
		return s
	}
	any := netip.IPv6Unspecified()
	if is4(b) {
		any = netip.IPv4Unspecified()
	}
	return p.udp[netip.AddrPortFrom(any, port)]
}

// segments is how many packets at the start of a run the kernel makes the same of, if it gets their payload and the first
// one's addresses: whole datagrams of one tunnel, alike in all but what it counts up or computes.
func segments(run []mem.Packet) int {
	a := run[0].B
	off := ip.IPv6Len
	switch {
	case len(a) < ip.IPv6Len+ip.UDPLen: // a shorter IPv4 one is not worth it
		return 1
	case is4(a):
		off = ip.IPv4Len
		const whole = 0x4000 // Don't Fragment, no fragment
		if a[0] != 0x45 || a[9] != ip.UDP || a[8] != hopLimit || binary.BigEndian.Uint16(a[6:]) != whole {
			return 1
		}
	default:
		if a[6] != ip.UDP || a[7] != hopLimit || a[1]&15 != 0 || a[2] != 0 || a[3] != 0 {
			return 1
		}
	}
	n, size, total := 1, run[0].Len(), run[0].Len()-off
	for n < len(run) && n < maxSegments {
		b, this := run[n].B, run[n].Len()
		total += this - off - ip.UDPLen
		if this > size || this <= off+ip.UDPLen || total > maxDatagram || !alike(a, b, off) || upper(b) != ip.UDP || !bytes.Equal(tupleOf(a, off), tupleOf(b, off)) {
			break
		}
		n++
		if this < size { // only the last may be shorter
			break
		}
	}
	return n
}

// tupleOf are addresses and ports.
func tupleOf(b []byte, off int) []byte {
	if off == ip.IPv4Len {
		return b[12 : off+4]
	}
	return b[8 : off+4]
}

// sendSegments sends a run that segments found.
func (b *sendBatch) sendSegments(s *socket, run []mem.Packet) error {
	a := run[0].B
	m := &b.segments
	h := &m.hdr
	var off int
	m.at = 0
	if is4(a) {
		off = ip.IPv4Len
		b.four[0] = unix.RawSockaddrInet4{Family: unix.AF_INET, Port: *(*uint16)(unsafe.Pointer(&a[off+2])), Addr: [4]byte(a[16:20])}
		h.Name, h.Namelen = (*byte)(unsafe.Pointer(&b.four[0])), unix.SizeofSockaddrInet4
		info := unix.Inet4Pktinfo{Spec_dst: [4]byte(a[12:16])}
		m.control(unix.IPPROTO_IP, unix.IP_PKTINFO, unsafe.Pointer(&info), unix.SizeofInet4Pktinfo)
		tos := int32(a[1])
		m.control(unix.IPPROTO_IP, unix.IP_TOS, unsafe.Pointer(&tos), 4)
	} else {
		off = ip.IPv6Len
		b.six[0] = unix.RawSockaddrInet6{Family: unix.AF_INET6, Port: *(*uint16)(unsafe.Pointer(&a[off+2])), Addr: [16]byte(a[24:40])}
		h.Name, h.Namelen = (*byte)(unsafe.Pointer(&b.six[0])), unix.SizeofSockaddrInet6
		info := unix.Inet6Pktinfo{Addr: [16]byte(a[8:24])}
		m.control(unix.IPPROTO_IPV6, unix.IPV6_PKTINFO, unsafe.Pointer(&info), unix.SizeofInet6Pktinfo)
		tclass := int32(a[0]<<4 | a[1]>>4)
		m.control(unix.IPPROTO_IPV6, unix.IPV6_TCLASS, unsafe.Pointer(&tclass), 4)
	}
	off += ip.UDPLen
	size := uint16(run[0].Len() - off)
	m.control(unix.IPPROTO_UDP, unix.UDP_SEGMENT, unsafe.Pointer(&size), 2)
	n := 0
	for i := range run {
		n += parts(m.iovs[n:], run[i].B[off:], run[i].Tail)
	}
	h.Iov = &m.iovs[0]
	h.SetIovlen(n)
	h.Control = (*byte)(unsafe.Pointer(&m.ctrl))
	h.SetControllen(m.at)
	for tries := 0; ; tries++ {
		_, _, errno := unix.Syscall(unix.SYS_SENDMSG, uintptr(s.fd), uintptr(unsafe.Pointer(h)), unix.MSG_DONTWAIT)
		switch {
		case errno == 0:
			return nil
		case errno == unix.EINTR:
		case errno == unix.EAGAIN && tries == 0:
			m.poll[0] = unix.PollFd{Fd: int32(s.fd), Events: unix.POLLOUT}
			_, _ = unix.Poll(m.poll[:], int(sendWait.Milliseconds()))
		default:
			return errno
		}
	}
}

// segmentBatch is room for one sendmsg(2) with UDP_SEGMENT.
type segmentBatch struct {
	hdr  unix.Msghdr
	iovs [2 * maxSegments]unix.Iovec
	ctrl [12]uint64
	at   int // octets of ctrl in use
	poll [1]unix.PollFd
}

func (m *segmentBatch) control(level, kind int32, data unsafe.Pointer, n int) {
	c := unsafe.Add(unsafe.Pointer(&m.ctrl), m.at)
	h := (*unix.Cmsghdr)(c)
	h.Level, h.Type = level, kind
	h.SetLen(unix.CmsgLen(n))
	copy(unsafe.Slice((*byte)(unsafe.Add(c, unix.CmsgLen(0))), n), unsafe.Slice((*byte)(data), n))
	m.at += unix.CmsgSpace(n)
}
