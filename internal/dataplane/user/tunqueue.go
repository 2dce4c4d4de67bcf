package user

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"kedge/internal/dataplane/mem"
	"kedge/wire"
	"kedge/wire/ip"
)

// tunQueue is one queue of the TUN device. The kernel puts the packets of a flow into one of them.
type tunQueue struct {
	f   *os.File // to read, and to be woken
	out int      // the same, to write; closed when nobody does any more
}

func newTUNQueue(fd int, name string) (*tunQueue, error) {
	out, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	return &tunQueue{f: os.NewFile(uintptr(fd), name), out: out}, nil
}

// lookAtTUN is how often an idle device is read from. The kernel wakes the reader of a device that is removed a moment before reading
// from it fails, and not again.
const lookAtTUN = time.Second

// readTUN reads a queue until there is nothing more, or a batch is full, and then sends.
func (p *Plane) readTUN(q *tunQueue) {
	conn, err := q.f.SyscallConn()
	if err != nil {
		return
	}
	out, b := &mem.Out{Split: true}, p.newSendBatch() // what super packets carry leaves from where it was read to
	const one = ip.VNetLen + ip.MaxPacket + 1
	buf := make([]byte, 3*one)
	gone := false
	read := func(fd uintptr) bool {
		out.Reset()
		got, rest := 0, buf
		for now := p.now(); got < batchSize && len(out.Packets) < batchSize && len(rest) >= one; got++ {
			// It never blocks, so the scheduler need not hear of it: with small packets that costs more than it is worth.
			n, _, errno := unix.RawSyscall(unix.SYS_READ, fd, uintptr(unsafe.Pointer(&rest[0])), uintptr(len(rest)))
			if errno == unix.EBADFD {
				gone = true
				break
			}
			if errno != 0 {
				if errno != unix.EAGAIN && errno != unix.EINTR {
					p.Count(wire.Malformed)
				}
				break
			}
			p.fromTUN(now, rest[:n:n], out)
			rest = rest[n:]
		}
		_ = p.send(out, b) // counted
		return got > 0 || gone
	}
	_ = q.f.SetReadDeadline(time.Now().Add(lookAtTUN))
	for {
		err := conn.Read(read)
		switch {
		case errors.Is(err, os.ErrDeadlineExceeded):
			_ = q.f.SetReadDeadline(time.Now().Add(lookAtTUN))
		case err != nil || gone:
			// Closed, or somebody removed it, and its routes with it. The runtime calls the latter "not pollable" if it sees it first.
			if !p.closing.Load() {
				p.fail(fmt.Errorf("data plane: device %s was removed: start again", p.cfg.Device))
			}
			return
		}
	}
}

// fromTUN takes what one read gave.
func (p *Plane) fromTUN(now time.Duration, b []byte, out *mem.Out) {
	in := mem.Native{B: b}
	if p.vnet {
		v, err := ip.ParseVNet(b)
		if err != nil {
			p.Count(wire.Malformed)
			return
		}
		in.VNet, in.B = v, b[ip.VNetLen:]
	}
	if len(in.B) >= ip.IPv6Len && in.B[0]>>4 == 6 && in.B[24] == 0xff {
		return // the kernel's own, MLD: nobody's packet, so not counted as one
	}
	p.Native(now, in, out)
}

// spread is the same for both directions of a flow: the queue that a flow is written to is where the kernel puts its answers.
func spread(b []byte) uint32 {
	var at []byte
	off, proto := ip.IPv6Len, upper(b)
	if is4(b) {
		at, off = b[12:20], ip.IPv4Len
	} else {
		at = b[8:40]
	}
	sum := uint32(proto)
	for len(at) != 0 {
		sum ^= binary.NativeEndian.Uint32(at)
		at = at[4:]
	}
	if (proto == ip.TCP || proto == ip.UDP) && len(b) >= off+4 && (!is4(b) || b[0] == 0x45 && binary.BigEndian.Uint16(b[6:])&0x3fff == 0) {
		sum ^= uint32(binary.NativeEndian.Uint16(b[off:]) ^ binary.NativeEndian.Uint16(b[off+2:]))
	}
	return sum * 0x9e3779b1 >> 16
}

// toTUN writes a run into the device.
func (p *Plane) toTUN(b *sendBatch, run []mem.Packet) (first error) {
	note := func(err error, n int) {
		for range n {
			p.Count(wire.SendFailed)
		}
		if first == nil {
			first = err
		}
	}
	if !p.vnet {
		for i := range run {
			if _, err := unix.Write(p.queueOf(run[i].B), run[i].B); err != nil {
				note(err, 1)
			}
		}
		return first
	}
	c := &b.gro
	c.fill(run)
	for i := range c.supers {
		s := &c.supers[i]
		fd := p.queueOf(run[s.first].B)
		c.iovs = c.iovs[:0]
		c.message(s, run, nil)
		err := writev(fd, c.iovs)
		switch {
		case err == nil:
		case s.n == 1:
			note(err, 1)
		default:
			// The kernel does not know these, though it said so: from now on, and now, one by one.
			p.refuse(c, s.kind, err)
			for j, n := s.first, s.n; n > 0; j, n = c.next[j], n-1 {
				c.iovs = c.iovs[:0]
				c.single(s, run[j].B, nil)
				if err := writev(fd, c.iovs); err != nil {
					note(err, 1)
				}
			}
		}
	}
	return first
}

func (p *Plane) queueOf(b []byte) int {
	if len(p.queues) == 1 {
		return p.queues[0].out
	}
	return p.queues[int(spread(b))%len(p.queues)].out
}
