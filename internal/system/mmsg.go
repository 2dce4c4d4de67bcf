package system

import (
	"errors"
	"net"
	"os"
	"sync/atomic"
	"unsafe"

	"golang.org/x/sys/unix"

	"kedge/internal/core"
)

// mmsghdr is struct mmsghdr of recvmmsg(2).
type mmsghdr struct {
	hdr unix.Msghdr
	n   uint32
	_   [4]byte
}

const (
	batchMax  = 64
	ctrlSpace = 128
)

// ring is a set of messages for recvmmsg or sendmmsg, used by one goroutine at a time.
type ring struct {
	msgs [batchMax]mmsghdr
	iovs [batchMax]unix.Iovec
	name [batchMax]unix.RawSockaddrAny
	ctrl [batchMax][ctrlSpace]byte
	bufs [batchMax][]byte
}

// newRing makes buffers of size octets each; 0 makes none, for sending.
func newRing(size int) *ring {
	r := new(ring)
	for i := range r.msgs {
		if size > 0 {
			r.bufs[i] = make([]byte, size)
			r.point(i, r.bufs[i])
		}
		r.msgs[i].hdr.Iov = &r.iovs[i]
		r.msgs[i].hdr.SetIovlen(1)
		r.msgs[i].hdr.Name = (*byte)(unsafe.Pointer(&r.name[i]))
		r.msgs[i].hdr.Control = &r.ctrl[i][0]
	}
	return r
}

// point sets the buffer of message i.
func (r *ring) point(i int, b []byte) {
	r.iovs[i].Base = unsafe.SliceData(b)
	r.iovs[i].SetLen(len(b))
}

// recv reads up to n messages without waiting; 0 and EAGAIN when there is none.
func (r *ring) recv(fd, n int) (int, error) {
	n = min(n, batchMax)
	for i := range n {
		h := &r.msgs[i].hdr
		h.Namelen = unix.SizeofSockaddrAny
		h.SetControllen(ctrlSpace)
		h.Flags = 0
	}
	for {
		got, _, e := unix.Syscall6(unix.SYS_RECVMMSG, uintptr(fd), uintptr(unsafe.Pointer(&r.msgs[0])), uintptr(n), unix.MSG_DONTWAIT, 0, 0)
		switch e {
		case 0:
			return int(got), nil
		case unix.EINTR:
		default:
			return 0, e
		}
	}
}

// send writes messages from..to without waiting and gives how many left.
func (r *ring) send(fd, from, to int) (int, error) {
	for {
		sent, _, e := unix.Syscall6(unix.SYS_SENDMMSG, uintptr(fd), uintptr(unsafe.Pointer(&r.msgs[from])), uintptr(to-from), unix.MSG_DONTWAIT, 0, 0)
		switch e {
		case 0:
			return int(sent), nil
		case unix.EINTR:
		default:
			return 0, e
		}
	}
}

// control walks the control messages of message i.
func (r *ring) control(i int, f func(level, kind int32, data []byte)) {
	b := r.ctrl[i][:r.msgs[i].hdr.Controllen]
	for len(b) >= unix.SizeofCmsghdr {
		h := (*unix.Cmsghdr)(unsafe.Pointer(&b[0]))
		end := int(h.Len)
		if end < unix.SizeofCmsghdr || end > len(b) {
			return
		}
		f(h.Level, h.Type, b[unix.CmsgLen(0):end])
		b = b[min((end+7)&^7, len(b)):]
	}
}

// descriptor is a non-blocking file that the Go runtime waits on. What waits ends with net.ErrClosed when it is closed.
type descriptor struct {
	f      *os.File
	closed atomic.Bool
}

func newDescriptor(fd int, name string) *descriptor {
	return &descriptor{f: os.NewFile(uintptr(fd), name)}
}

// Close may be called more than once, and on nil.
func (d *descriptor) Close() error {
	if d == nil || d.closed.Swap(true) {
		return nil
	}
	return d.f.Close()
}

// wait calls try whenever the file may be readable (or writable), until it reports that it is done.
func (d *descriptor) wait(write bool, try func(fd int) (done bool)) error {
	rc, err := d.f.SyscallConn()
	if err == nil {
		fn := func(fd uintptr) bool { return try(int(fd)) }
		if write {
			err = rc.Write(fn)
		} else {
			err = rc.Read(fn)
		}
	}
	return d.closedError(err)
}

// control gives the file without waiting for a reader or writer to be done.
func (d *descriptor) control(fn func(fd int)) error {
	rc, err := d.f.SyscallConn()
	if err == nil {
		err = rc.Control(func(fd uintptr) { fn(int(fd)) })
	}
	return d.closedError(err)
}

// closedError replaces the runtime's own error for a closed file, which has no name.
func (d *descriptor) closedError(err error) error {
	if err != nil && d.closed.Load() {
		return net.ErrClosed
	}
	return err
}

// drops is the kernel's count of packets that did not fit a socket's receive buffer (SO_MEMINFO, SK_MEMINFO_DROPS).
func drops(fd int) uint64 {
	var info [9]uint32
	size := uint32(unsafe.Sizeof(info))
	_, _, e := unix.Syscall6(unix.SYS_GETSOCKOPT, uintptr(fd), unix.SOL_SOCKET, unix.SO_MEMINFO,
		uintptr(unsafe.Pointer(&info)), uintptr(unsafe.Pointer(&size)), 0)
	if e != 0 {
		return 0
	}
	return uint64(info[8])
}

// receiveBuffer asks for room for bursts; the privileged option goes beyond net.core.rmem_max.
func receiveBuffer(fd, octets int) {
	if unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, octets) != nil {
		_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUF, octets)
	}
}

// inBatches writes packets as many at once as a system call takes. It gives how many left and joins the errors of the
// others; a closed port ends it.
func inBatches(pkts []core.Packet, write func([]core.Packet) (int, error)) (sent int, err error) {
	var errs []error
	for len(pkts) > 0 {
		n := min(len(pkts), batchMax)
		k, err := write(pkts[:n])
		sent += k
		if err != nil {
			errs = append(errs, err)
			if errors.Is(err, net.ErrClosed) {
				break
			}
		}
		pkts = pkts[n:]
	}
	return sent, errors.Join(errs...)
}
