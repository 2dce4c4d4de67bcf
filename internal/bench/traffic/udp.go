package traffic

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"kedge/internal/system/netns"
	"kedge/wire/ip"
)

const (
	// batch is the most packets that one system call carries, and flows how many source ports there are.
	batch, flows = 64, 8
	// pace is how long the sender sleeps when it is early: short, so that bursts are small.
	pace = 50 * time.Microsecond
	// look is how often the sink looks.
	look = 100 * time.Microsecond
	// patience is how long after the last packet others may come.
	patience = 25 * time.Millisecond
	// header is what a packet begins with: the number of the probe, and when it was sent.
	header = 16
	// buffer of the sink's socket, octets: what the machine's scheduler does to the sink is not the way's fault.
	buffer = 16 << 20
)

// mmsghdr is struct mmsghdr of recvmmsg(2).
type mmsghdr struct {
	hdr unix.Msghdr
	n   uint32
	_   [4]byte
}

// UDP sends packets of one size from a namespace to random ones of many addresses that another one has.
type UDP struct {
	size   int // of the payload, octets
	to     []netip.Addr
	out    int
	frames *frames
	in     int
	epoch  uint32

	got  atomic.Uint64 // packets of the probe that came
	last atomic.Int64  // when the last one came, nanoseconds
	over atomic.Bool   // the probe
}

// NewUDP opens sockets. The packets have size octets with their IPv6 header, 64 at least; to are the addresses.
func NewUDP(from Sender, at *netns.NS, to []netip.Addr, size int) (_ *UDP, err error) {
	u := &UDP{size: size - ip.IPv6Len - ip.UDPLen, to: to, out: -1, in: -1}
	if u.size < header {
		return nil, fmt.Errorf("packets of %d octets do not hold their marks", size)
	}
	defer func() {
		if err != nil {
			u.Close()
		}
	}()
	var here unix.Sockaddr
	err = at.Do(func() error {
		if u.in, err = socket(true, unix.SOCK_DGRAM); err != nil {
			return err
		}
		if err := errors.Join(unix.SetsockoptInt(u.in, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, buffer),
			unix.Bind(u.in, &unix.SockaddrInet6{})); err != nil {
			return err
		}
		here, err = unix.Getsockname(u.in)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("sink of packets: %w", err)
	}
	var ether [etherLen]byte
	if u.out, ether, err = from.open(); err != nil {
		return nil, err
	}
	u.frames = newFrames(ether, from.Source, uint16(here.(*unix.SockaddrInet6).Port), u.size)
	return u, nil
}

// Close closes the sockets.
func (u *UDP) Close() {
	for _, fd := range []int{u.out, u.in} {
		if fd >= 0 {
			_ = unix.Close(fd)
		}
	}
}

// messages prepares a batch with size octets for each.
func messages(size int) ([]mmsghdr, []byte) {
	m, data, iov := make([]mmsghdr, batch), make([]byte, batch*size), make([]unix.Iovec, batch)
	for i := range m {
		iov[i].Base = &data[i*size]
		iov[i].SetLen(size)
		m[i].hdr.Iov = &iov[i]
		m[i].hdr.SetIovlen(1)
	}
	return m, data
}

// stamped is struct cmsghdr and a struct timespec: the control message of SO_TIMESTAMPNS.
type stamped struct {
	unix.Cmsghdr
	at unix.Timespec
}

// receive counts the packets of the running probe. It looks by and by and never waits in the socket: else each packet would wake
// it, which costs the sender, on a virtual machine many times what forwarding the packet does. When a packet came the kernel says.
func (u *UDP) receive(of uint32, h *Histogram) {
	thread(false)
	m, data := messages(2048)
	stamps := make([]stamped, batch)
	for i := range m {
		m[i].hdr.Control = (*byte)(unsafe.Pointer(&stamps[i]))
	}
	var sum uint64
	for !u.over.Load() {
		for i := range m {
			m[i].hdr.SetControllen(int(unsafe.Sizeof(stamps[i])))
		}
		n, _, errno := unix.Syscall6(unix.SYS_RECVMMSG, uintptr(u.in), uintptr(unsafe.Pointer(&m[0])), batch, unix.MSG_DONTWAIT, 0, 0)
		if errno != 0 {
			sleepUntil(monotonic() + int64(look))
			continue
		}
		for i := range int(n) {
			b := data[i*2048:]
			if m[i].n < header || binary.NativeEndian.Uint32(b) != of {
				continue
			}
			sum++
			if h != nil && stamps[i].Type == unix.SCM_TIMESTAMPNS {
				h.Add(stamps[i].at.Nano() - int64(binary.NativeEndian.Uint64(b[8:])))
			}
		}
		u.got.Store(sum)
		u.last.Store(monotonic())
	}
}

// Probe is what became of packets sent at a rate.
type Probe struct {
	Sent, Received uint64
	Sending        float64 // seconds that sending took
	Seconds        float64 // and until the last one came
}

// Loss is the part of the packets that did not arrive.
func (p Probe) Loss() float64 {
	if p.Sent == 0 {
		return 1
	}
	return 1 - float64(p.Received)/float64(p.Sent)
}

// Rate is how many arrived a second.
func (p Probe) Rate() float64 { return float64(p.Received) / p.Seconds }

// Offered is how many were sent a second.
func (p Probe) Offered() float64 { return float64(p.Sent) / p.Sending }

// Send sends at a rate, packets a second, for a time; at 0 as many as it can. What is on the way when it ends is waited for. The
// latency of each packet goes into h, if that is not nil.
func (u *UDP) Send(ctx context.Context, rate float64, d time.Duration, h *Histogram) (p Probe, err error) {
	u.epoch++
	on := 0
	if h != nil {
		on = 1
	}
	if err := unix.SetsockoptInt(u.in, unix.SOL_SOCKET, unix.SO_TIMESTAMPNS, on); err != nil {
		return p, fmt.Errorf("time stamps: %w", err)
	}
	u.got.Store(0)
	u.over.Store(false)
	var sink sync.WaitGroup
	sink.Go(func() { u.receive(u.epoch, h) })
	defer func() {
		u.over.Store(true)
		sink.Wait()
	}()
	done := make(chan error, 1)
	var start int64
	go func() {
		thread(true)
		start = monotonic() // now, for a busy machine may let the thread wait longer than the sample is
		u.last.Store(start)
		var err error
		p.Sent, err = u.send(ctx, rate, start, start+int64(d))
		done <- err
	}()
	if err := <-done; err != nil {
		return p, err
	}
	end := monotonic()
	for u.got.Load() < p.Sent && monotonic()-max(end, u.last.Load()) < int64(patience) {
		time.Sleep(500 * time.Microsecond)
	}
	p.Received = u.got.Load()
	p.Sending, p.Seconds = float64(end-start)/1e9, float64(max(end, u.last.Load())-start)/1e9
	return p, ctx.Err()
}

func (u *UDP) send(ctx context.Context, rate float64, start, end int64) (sent uint64, err error) {
	_ = unix.Prctl(unix.PR_SET_TIMERSLACK, 1, 0, 0, 0)
	for i := range batch {
		binary.NativeEndian.PutUint32(u.frames.payload(i), u.epoch)
	}
	r := rand.NewPCG(uint64(start), uint64(u.epoch))
	for calls := 0; ; calls++ {
		now := monotonic()
		if now >= end && calls > 0 || calls%1024 == 0 && ctx.Err() != nil {
			return sent, nil
		}
		owed := batch
		if rate > 0 {
			due := uint64(float64(now-start) / 1e9 * rate)
			if due <= sent {
				sleepUntil(min(end, max(now+int64(pace), start+int64(float64(sent+1)/rate*1e9))))
				continue
			}
			owed = int(min(batch, due-sent))
		}
		wall := realtime()
		for i := range owed {
			binary.NativeEndian.PutUint64(u.frames.payload(i)[8:], uint64(wall))
			u.frames.set(i, u.to[r.Uint64()%uint64(len(u.to))], calls%flows)
		}
		n, err := u.frames.send(u.out, owed)
		if err != nil {
			return sent, err
		}
		sent += uint64(n)
	}
}
