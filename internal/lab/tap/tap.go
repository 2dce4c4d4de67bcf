// Package tap reads and writes whole Ethernet frames of an interface by a packet socket (packet(7)), with the kernel's
// time stamps and, where asked, with virtio-net headers so that segmentation offload survives the way through user space.
//
// A Socket stays in the network namespace that it was opened in. Read and Write may be called from different goroutines;
// Close makes a blocked Read return.
package tap

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"os"
	"sync"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// VNetLen is the length of the virtio-net header in front of frames of a Socket with VNet.
const VNetLen = 10

// MaxFrame is the room for the largest frame: a 64 KB segmentation-offload packet with its headers.
const MaxFrame = 65536 + 256

// Socket is a packet socket on one interface.
type Socket struct {
	file *os.File // registered with the runtime's poller
	raw  syscall.RawConn
	once sync.Once
	oob  []byte
}

// Options of Open.
type Options struct {
	VNet     bool // frames carry a virtio-net header of VNetLen octets
	Outgoing bool // also see what the host itself sends: for a capture on a bridge port, not for a link
	Promisc  bool
}

// Open opens a socket on an interface of the calling thread's namespace.
func Open(ifname string, o Options) (*Socket, error) {
	ifi, err := net.InterfaceByName(ifname)
	if err != nil {
		return nil, fmt.Errorf("packet socket on %s: %w", ifname, err)
	}
	fail := func(what string, err error) (*Socket, error) {
		return nil, fmt.Errorf("packet socket on %s: %s: %w", ifname, what, err)
	}
	// Protocol 0 until everything is set, so that no frame of another interface slips in.
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return fail("socket", err)
	}
	set := func(level, opt, v int) {
		if err == nil {
			err = unix.SetsockoptInt(fd, level, opt, v)
		}
	}
	set(unix.SOL_SOCKET, unix.SO_TIMESTAMPNS, 1)
	if o.VNet {
		set(unix.SOL_PACKET, unix.PACKET_VNET_HDR, 1)
	}
	if !o.Outgoing {
		set(unix.SOL_PACKET, unix.PACKET_IGNORE_OUTGOING, 1)
	}
	if err == nil && unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 8<<20) != nil {
		set(unix.SOL_SOCKET, unix.SO_RCVBUF, 8<<20)
	}
	if err == nil && o.Promisc {
		err = unix.SetsockoptPacketMreq(fd, unix.SOL_PACKET, unix.PACKET_ADD_MEMBERSHIP,
			&unix.PacketMreq{Ifindex: int32(ifi.Index), Type: unix.PACKET_MR_PROMISC})
	}
	if err == nil {
		err = unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: htons(unix.ETH_P_ALL), Ifindex: ifi.Index})
	}
	if err != nil {
		unix.Close(fd)
		return fail("set up", err)
	}
	f := os.NewFile(uintptr(fd), "packet:"+ifname)
	rc, err := f.SyscallConn()
	if err != nil {
		f.Close()
		return fail("poll", err)
	}
	return &Socket{file: f, raw: rc, oob: make([]byte, unix.CmsgSpace(int(unsafe.Sizeof(unix.Timespec{}))))}, nil
}

func htons(v uint16) uint16 {
	var b [2]byte
	binary.BigEndian.PutUint16(b[:], v)
	return binary.NativeEndian.Uint16(b[:])
}

// Read blocks for a frame and gives its length and the time at which the kernel took it. Not for several goroutines.
func (s *Socket) Read(b []byte) (n int, at time.Time, err error) {
	var oobn int
	rerr := s.raw.Read(func(fd uintptr) bool {
		for {
			n, oobn, _, _, err = unix.Recvmsg(int(fd), b, s.oob, 0)
			switch err {
			case unix.EINTR, unix.ENETDOWN: // ENETDOWN is said once when the interface goes down, it may come back
				continue
			case unix.EAGAIN:
				return false
			}
			return true
		}
	})
	if rerr != nil {
		return 0, at, net.ErrClosed
	}
	if err != nil {
		return 0, at, err
	}
	return n, stamp(s.oob[:oobn]), nil
}

// stamp finds the kernel's time in a control message.
func stamp(oob []byte) time.Time {
	msgs, err := unix.ParseSocketControlMessage(oob)
	if err == nil {
		for _, m := range msgs {
			if m.Header.Level == unix.SOL_SOCKET && m.Header.Type == unix.SO_TIMESTAMPNS && len(m.Data) >= 16 {
				return time.Unix(int64(binary.NativeEndian.Uint64(m.Data)), int64(binary.NativeEndian.Uint64(m.Data[8:])))
			}
		}
	}
	return time.Now()
}

// Write sends a frame. A full device queue or an interface that is down loses the frame, as a wire would.
func (s *Socket) Write(b []byte) error {
	var err error
	// By the poller, so that a descriptor closed meanwhile (and used for something else) is not written to.
	if werr := s.raw.Write(func(fd uintptr) bool { _, err = unix.Write(int(fd), b); return true }); werr != nil {
		return net.ErrClosed
	}
	switch {
	case err == nil, errors.Is(err, unix.ENOBUFS), errors.Is(err, unix.EAGAIN), errors.Is(err, unix.ENETDOWN), errors.Is(err, unix.ENXIO):
		return nil
	}
	return err
}

// Dropped is how many frames the kernel threw away because the reader was too slow, since the last call.
func (s *Socket) Dropped() uint32 {
	var drops uint32
	_ = s.raw.Control(func(fd uintptr) { // closed: none
		if st, err := unix.GetsockoptTpacketStats(int(fd), unix.SOL_PACKET, unix.PACKET_STATISTICS); err == nil {
			drops = st.Drops
		}
	})
	return drops
}

// Close ends a blocked Read.
func (s *Socket) Close() error {
	var err error
	s.once.Do(func() { err = s.file.Close() })
	return err
}
