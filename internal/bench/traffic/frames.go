package traffic

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"unsafe"

	"golang.org/x/sys/unix"

	"kedge/internal/core"
	"kedge/internal/system/netns"
	"kedge/wire/ip"
)

// Sender is where packets are sent: a link, and the router on it. They are sent as frames. A socket of UDP would look for the route
// of each packet and build its headers, on the same processors as what is measured, and take longer for that than a fast tunnel.
type Sender struct {
	NS     *netns.NS
	Link   string
	Source netip.Addr // IPv6
	Router core.MAC
}

const (
	etherLen = 14
	headLen  = etherLen + ip.IPv6Len + ip.UDPLen
	// firstPort of the flows.
	firstPort = 40000
)

// open gives a socket that sends frames on the link, past its queue, and what all of them begin with.
func (s *Sender) open() (fd int, ether [etherLen]byte, err error) {
	link, err := s.NS.Link(s.Link)
	if err != nil {
		return -1, ether, err
	}
	copy(ether[:], s.Router[:])
	copy(ether[6:], link.Attrs().HardwareAddr)
	binary.BigEndian.PutUint16(ether[12:], unix.ETH_P_IPV6)
	err = s.NS.Do(func() error {
		fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0) // which receives nothing
		if err != nil {
			return err
		}
		return errors.Join(unix.SetsockoptInt(fd, unix.SOL_PACKET, unix.PACKET_QDISC_BYPASS, 1),
			unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_SNDBUFFORCE, buffer),
			unix.Bind(fd, &unix.SockaddrLinklayer{Ifindex: link.Attrs().Index}))
	})
	if err != nil {
		return fd, ether, fmt.Errorf("sender of packets: %w", err)
	}
	return fd, ether, nil
}

// frames are a batch that one system call sends.
type frames struct {
	source netip.Addr
	size   int // octets of one
	data   []byte
	msgs   []mmsghdr
}

// newFrames prepares a batch: packets with size octets of payload from source to a port.
func newFrames(ether [etherLen]byte, source netip.Addr, port uint16, size int) *frames {
	f := &frames{source: source, size: headLen + size}
	f.msgs, f.data = messages(f.size)
	src := source.As16()
	for i := range batch {
		b := f.at(i)
		copy(b, ether[:])
		b = b[etherLen:]
		b[0], b[6], b[7] = 6<<4, ip.UDP, 64
		binary.BigEndian.PutUint16(b[4:], uint16(ip.UDPLen+size))
		copy(b[8:], src[:])
		b = b[ip.IPv6Len:]
		binary.BigEndian.PutUint16(b[2:], port)
		binary.BigEndian.PutUint16(b[4:], uint16(ip.UDPLen+size))
	}
	return f
}

func (f *frames) at(i int) []byte { return f.data[i*f.size : (i+1)*f.size] }

// payload of packet i; set comes after it was written.
func (f *frames) payload(i int) []byte { return f.at(i)[headLen:] }

// set gives packet i its destination, its flow and its checksum.
func (f *frames) set(i int, to netip.Addr, flow int) {
	b := f.at(i)[etherLen:]
	dst := to.As16()
	copy(b[24:], dst[:])
	b = b[ip.IPv6Len:]
	binary.BigEndian.PutUint16(b, uint16(firstPort+flow))
	b[6], b[7] = 0, 0
	sum := ip.PseudoChecksum(f.source, to, ip.UDP, b)
	if sum == 0 {
		sum = 0xffff // 0 would mean that there is none (RFC 8200 8.1)
	}
	binary.BigEndian.PutUint16(b[6:], sum)
}

// send sends the first n packets, and says how many went.
func (f *frames) send(fd, n int) (int, error) {
	sent, _, errno := unix.Syscall6(unix.SYS_SENDMMSG, uintptr(fd), uintptr(unsafe.Pointer(&f.msgs[0])), uintptr(n), 0, 0, 0)
	switch errno {
	case 0:
		return int(sent), nil
	case unix.EINTR, unix.ENOBUFS, unix.EAGAIN:
		return 0, nil
	}
	return 0, fmt.Errorf("send packets: %w", errno)
}
