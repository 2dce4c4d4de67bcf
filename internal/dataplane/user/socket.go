package user

import (
	"errors"
	"net/netip"
	"os"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"kedge/internal/dataplane/mem"
)

// batchSize is how many packets one system call takes or sends.
const batchSize = 64

// bufferSize holds any packet with its link-layer and virtio-net headers.
const bufferSize = 65535 + 64

// mmsghdr of sendmmsg(2) and recvmmsg(2).
type mmsghdr struct {
	hdr unix.Msghdr
	n   uint32
	_   [4]byte
}

// socket is a receiving socket with room for a batch.
type socket struct {
	f     *os.File
	fd    int  // closed when nobody sends from it any more; only of those that send
	gro   bool // several datagrams may come as one
	conn  syscall.RawConn
	hdrs  [batchSize]mmsghdr
	iovs  [batchSize]unix.Iovec
	names [batchSize]unix.RawSockaddrInet6 // or RawSockaddrInet4, RawSockaddrLinklayer, which are smaller
	ctrls [batchSize][96]byte
	bufs  []byte
}

func newSocket(fd int, name string) (*socket, error) {
	s := &socket{fd: -1, f: os.NewFile(uintptr(fd), name), bufs: make([]byte, batchSize*bufferSize)}
	conn, err := s.f.SyscallConn()
	if err != nil {
		s.f.Close()
		return nil, err
	}
	s.conn = conn
	for i := range s.hdrs {
		s.iovs[i].Base = &s.bufs[i*bufferSize]
		s.iovs[i].SetLen(bufferSize)
		h := &s.hdrs[i].hdr
		h.Iov, h.Iovlen = &s.iovs[i], 1
		h.Name, h.Control = (*byte)(unsafe.Pointer(&s.names[i])), &s.ctrls[i][0]
	}
	return s, nil
}

func (s *socket) Close() { s.f.Close() }

// recv calls each for every packet of a batch and done after it, until the socket is closed. Errors of single packets, and of a
// link that is down for a while, are counted by fail.
func (s *socket) recv(each func(i int, pkt []byte), done func(), fail func()) {
	for {
		bad := false
		err := s.conn.Read(func(fd uintptr) bool {
			for i := range s.hdrs {
				s.hdrs[i].hdr.Namelen = uint32(unsafe.Sizeof(s.names[i]))
				s.hdrs[i].hdr.SetControllen(len(s.ctrls[i]))
			}
			n, _, errno := unix.Syscall6(unix.SYS_RECVMMSG, fd, uintptr(unsafe.Pointer(&s.hdrs[0])), batchSize, unix.MSG_DONTWAIT, 0, 0)
			switch {
			case errno == unix.EAGAIN:
				return false
			case errno == unix.EINTR:
				return true
			case errno != 0:
				bad = true
				return true
			}
			for i := range int(n) {
				each(i, s.bufs[i*bufferSize:i*bufferSize+int(s.hdrs[i].n)])
			}
			done()
			return true
		})
		if err != nil {
			return // closed
		}
		if bad {
			fail()
			time.Sleep(time.Millisecond) // an error that stays must not spin
		}
	}
}

// truncated reports whether the i-th packet did not fit.
func (s *socket) truncated(i int) bool { return s.hdrs[i].hdr.Flags&unix.MSG_TRUNC != 0 }

// from is the source of the i-th packet; the port of a raw socket's is meaningless.
func (s *socket) from(i int) netip.AddrPort {
	n := &s.names[i]
	port := n.Port<<8 | n.Port>>8 // network order
	if n.Family == unix.AF_INET {
		return netip.AddrPortFrom(netip.AddrFrom4((*unix.RawSockaddrInet4)(unsafe.Pointer(n)).Addr), port)
	}
	return netip.AddrPortFrom(netip.AddrFrom16(n.Addr), port)
}

// control finds what the kernel says of the i-th packet beside its bytes: destination and traffic class.
func (s *socket) control(i int) (local netip.Addr, tclass uint8) {
	b := s.ctrls[i][:min(int(s.hdrs[i].hdr.Controllen), len(s.ctrls[i]))]
	for len(b) >= unix.SizeofCmsghdr {
		h := (*unix.Cmsghdr)(unsafe.Pointer(&b[0]))
		n := int(h.Len)
		if n < unix.SizeofCmsghdr || n > len(b) {
			return
		}
		data := b[unix.CmsgLen(0):n]
		switch {
		case h.Level == unix.IPPROTO_IPV6 && h.Type == unix.IPV6_PKTINFO && len(data) >= 16:
			local = netip.AddrFrom16([16]byte(data[:16]))
		case h.Level == unix.IPPROTO_IPV6 && h.Type == unix.IPV6_TCLASS && len(data) >= 4:
			tclass = data[0]
		case h.Level == unix.IPPROTO_IP && h.Type == unix.IP_PKTINFO && len(data) >= unix.SizeofInet4Pktinfo:
			local = netip.AddrFrom4((*unix.Inet4Pktinfo)(unsafe.Pointer(&data[0])).Addr) // of the header
		case h.Level == unix.IPPROTO_IP && h.Type == unix.IP_TOS && len(data) >= 1:
			tclass = data[0]
		}
		b = b[min(unix.CmsgSpace(n-unix.CmsgLen(0)), len(b)):]
	}
	return
}

// sizes is the length of all datagrams but the last of which the i-th is made, 0 if it is one.
func (s *socket) sizes(i int) int {
	b := s.ctrls[i][:min(int(s.hdrs[i].hdr.Controllen), len(s.ctrls[i]))]
	for len(b) >= unix.SizeofCmsghdr {
		h := (*unix.Cmsghdr)(unsafe.Pointer(&b[0]))
		n := int(h.Len)
		if n < unix.SizeofCmsghdr || n > len(b) {
			return 0
		}
		if h.Level == unix.IPPROTO_UDP && h.Type == unix.UDP_GRO && n >= unix.CmsgLen(4) {
			return int(*(*int32)(unsafe.Pointer(&b[unix.CmsgLen(0)])))
		}
		b = b[min(unix.CmsgSpace(n-unix.CmsgLen(0)), len(b)):]
	}
	return 0
}

// sendBatch is what one goroutine sends with.
type sendBatch struct {
	gro      coalescer
	segments segmentBatch
	hdrs     [batchSize]mmsghdr
	iovs     [batchSize][2]unix.Iovec
	six      [batchSize]unix.RawSockaddrInet6
	four     [batchSize]unix.RawSockaddrInet4
	link     [batchSize]unix.RawSockaddrLinklayer
	starts   [batchSize + 1]int   // of the buffers of each message
	ctrls    [batchSize][5]uint64 // a control message with an IPv6 address fits
}

// outer6 fills in whole IPv6 packets, each to its own destination; with source by the route of its source address, which must be
// this host's.
func (b *sendBatch) outer6(run []mem.Packet, source bool) int {
	for i := range run {
		b.six[i] = unix.RawSockaddrInet6{Family: unix.AF_INET6, Addr: [16]byte(run[i].B[24:40])}
		b.set(i, unsafe.Pointer(&b.six[i]), unsafe.Sizeof(b.six[i]), &run[i])
		if source {
			info := unix.Inet6Pktinfo{Addr: [16]byte(run[i].B[8:24])}
			b.control(i, unix.IPPROTO_IPV6, unix.IPV6_PKTINFO, unsafe.Pointer(&info), unix.SizeofInet6Pktinfo)
		}
	}
	return len(run)
}

// outer4 does the same with IPv4 packets.
func (b *sendBatch) outer4(run []mem.Packet, source bool) int {
	for i := range run {
		b.four[i] = unix.RawSockaddrInet4{Family: unix.AF_INET, Addr: [4]byte(run[i].B[16:20])}
		b.set(i, unsafe.Pointer(&b.four[i]), unsafe.Sizeof(b.four[i]), &run[i])
		if source {
			info := unix.Inet4Pktinfo{Spec_dst: [4]byte(run[i].B[12:16])}
			b.control(i, unix.IPPROTO_IP, unix.IP_PKTINFO, unsafe.Pointer(&info), unix.SizeofInet4Pktinfo)
		}
	}
	return len(run)
}

// control adds a control message of n octets to message i.
func (b *sendBatch) control(i int, level, kind int32, data unsafe.Pointer, n int) {
	c := unsafe.Pointer(&b.ctrls[i])
	h := (*unix.Cmsghdr)(c)
	h.Level, h.Type = level, kind
	h.SetLen(unix.CmsgLen(n))
	copy(unsafe.Slice((*byte)(unsafe.Add(c, unix.CmsgLen(0))), n), unsafe.Slice((*byte)(data), n))
	b.hdrs[i].hdr.Control = (*byte)(c)
	b.hdrs[i].hdr.SetControllen(unix.CmsgSpace(n))
}

func (b *sendBatch) set(i int, name unsafe.Pointer, size uintptr, p *mem.Packet) {
	h := &b.hdrs[i].hdr
	h.Name, h.Namelen = (*byte)(name), uint32(size)
	h.Iov = &b.iovs[i][0]
	h.SetIovlen(parts(b.iovs[i][:], p.B, p.Tail))
	h.Control = nil
	h.SetControllen(0)
}

// parts puts the parts of a packet into iovs, and says how many there are.
func parts(iovs []unix.Iovec, head, tail []byte) int {
	iovs[0].Base = &head[0]
	iovs[0].SetLen(len(head))
	if len(tail) == 0 {
		return 1
	}
	iovs[1].Base = &tail[0]
	iovs[1].SetLen(len(tail))
	return 2
}

// send sends messages at to n and returns how many went. With an error the message behind them is the one that failed.
func (b *sendBatch) send(fd, at, n int) (int, error) {
	sent, _, errno := unix.Syscall6(unix.SYS_SENDMMSG, uintptr(fd), uintptr(unsafe.Pointer(&b.hdrs[at])), uintptr(n-at), 0, 0, 0)
	if errno != 0 {
		return 0, errno
	}
	if int(sent) == 0 {
		return 0, errors.New("sendmmsg sent nothing")
	}
	return int(sent), nil
}

// writev writes one packet into a queue of a TUN device.
func writev(fd int, iovs []unix.Iovec) error {
	for {
		_, _, errno := unix.Syscall(unix.SYS_WRITEV, uintptr(fd), uintptr(unsafe.Pointer(&iovs[0])), uintptr(len(iovs)))
		if errno == 0 {
			return nil
		}
		if errno != unix.EINTR {
			return errno
		}
	}
}
