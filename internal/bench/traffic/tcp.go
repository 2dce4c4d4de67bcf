package traffic

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"kedge/internal/system/netns"
)

// block is how much one system call of a stream carries, octets.
const block = 256 << 10

// WarmUp is how long streams run before anything counts: they leave slow start.
const WarmUp = 60 * time.Millisecond

// congestion control of the streams, which every kernel has and allows: it sends what the receiver's window and losses allow. Those that
// estimate a bandwidth (bbr) measure their own estimates in a chain without delay, and two samples of one way differ by half.
const congestion = "reno"

// TCP is a sample of streams.
type TCP struct {
	From, At *netns.NS
	To       netip.AddrPort
	Streams  int
	Time     time.Duration // measured, after the warm-up
}

// Measure runs the streams and gives the octets of data that arrived in how many seconds.
func (t TCP) Measure(ctx context.Context) (octets uint64, seconds float64, err error) {
	var listener int
	if err := t.At.Do(func() (err error) { listener, err = t.listen(); return err }); err != nil {
		return 0, 0, err
	}
	defer unix.Close(listener)
	var got atomic.Uint64
	var done sync.WaitGroup
	var fds []int
	defer func() {
		for _, fd := range fds {
			_ = unix.Shutdown(fd, unix.SHUT_RDWR)
		}
		done.Wait()
		for _, fd := range fds {
			_ = unix.Close(fd)
		}
	}()
	for range t.Streams {
		var fd int
		if err := t.From.Do(func() (err error) { fd, err = t.connect(); return err }); err != nil {
			return 0, 0, err
		}
		fds = append(fds, fd)
		end, err := accept(listener)
		if err != nil {
			return 0, 0, fmt.Errorf("TCP to %v: accept: %w", t.To, err)
		}
		fds = append(fds, end)
		done.Add(2)
		go send(fd, &done)
		go sink(end, &got, &done)
	}
	if err := pause(ctx, WarmUp); err != nil {
		return 0, 0, err
	}
	start, before := time.Now(), got.Load()
	if err := pause(ctx, t.Time); err != nil {
		return 0, 0, err
	}
	octets, seconds = got.Load()-before, time.Since(start).Seconds()
	if octets == 0 {
		return 0, 0, fmt.Errorf("TCP to %v: nothing arrived in %v", t.To, t.Time)
	}
	return octets, seconds, nil
}

func pause(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(d):
		return nil
	}
}

func (t TCP) listen() (int, error) {
	fd, err := socket(t.To.Addr().Is6(), unix.SOCK_STREAM)
	if err != nil {
		return -1, err
	}
	any := netip.AddrPortFrom(netip.IPv4Unspecified(), t.To.Port())
	if t.To.Addr().Is6() {
		any = netip.AddrPortFrom(netip.IPv6Unspecified(), t.To.Port())
	}
	err = errors.Join(unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1), timeouts(fd, 5*time.Second))
	if err == nil {
		err = unix.Bind(fd, sockaddr(any))
	}
	if err == nil {
		err = unix.Listen(fd, t.Streams)
	}
	if err != nil {
		unix.Close(fd)
		return -1, fmt.Errorf("TCP: listen at %v: %w", any, err)
	}
	return fd, nil
}

func (t TCP) connect() (int, error) {
	fd, err := socket(t.To.Addr().Is6(), unix.SOCK_STREAM)
	if err != nil {
		return -1, err
	}
	if err = errors.Join(timeouts(fd, 5*time.Second), unix.SetsockoptString(fd, unix.IPPROTO_TCP, unix.TCP_CONGESTION, congestion)); err == nil {
		err = unix.Connect(fd, sockaddr(t.To))
	}
	if err == unix.EINTR { // it goes on nevertheless
		_, err = unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLOUT}}, 5000)
	}
	if err != nil {
		unix.Close(fd)
		return -1, fmt.Errorf("TCP to %v: connect: %w", t.To, err)
	}
	return fd, nil
}

func accept(listener int) (int, error) {
	for {
		fd, _, err := unix.Accept4(listener, unix.SOCK_CLOEXEC)
		if err != unix.EINTR {
			return fd, err
		}
	}
}

func send(fd int, done *sync.WaitGroup) {
	defer done.Done()
	thread(true)
	b := make([]byte, block)
	for {
		if _, err := unix.Write(fd, b); err != nil && err != unix.EINTR && err != unix.EAGAIN {
			return
		}
	}
}

func sink(fd int, got *atomic.Uint64, done *sync.WaitGroup) {
	defer done.Done()
	thread(false)
	b := make([]byte, block)
	for {
		n, err := unix.Read(fd, b)
		switch {
		case err == unix.EINTR || err == unix.EAGAIN:
		case err != nil || n == 0:
			return
		default:
			got.Add(uint64(n))
		}
	}
}
