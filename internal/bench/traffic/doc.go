// Package traffic makes traffic between two network namespaces and measures what arrives: TCP streams with large writes, and UDP
// packets in frames, by sendmmsg at a rate that is kept, to random ones of many addresses. Sender and sink are threads of one process,
// each on a CPU of its own, so that what was lost is known at once and the ends take the same CPU time whatever is between them.
package traffic

import (
	"fmt"
	"net/netip"
	"runtime"
	"time"

	"golang.org/x/sys/unix"
)

// thread makes the calling goroutine one of a CPU: first or last of those that this process may use.
func thread(first bool) {
	runtime.LockOSThread() // for good: the thread ends with the goroutine
	var may, one unix.CPUSet
	if unix.SchedGetaffinity(0, &may) != nil {
		return
	}
	at := -1
	for i := range len(may) * 64 {
		if may.IsSet(i) && (at < 0 || !first) {
			at = i
		}
	}
	if at >= 0 {
		one.Set(at)
		_ = unix.SchedSetaffinity(0, &one)
	}
}

// monotonic is CLOCK_MONOTONIC, nanoseconds.
func monotonic() int64 {
	var ts unix.Timespec
	_ = unix.ClockGettime(unix.CLOCK_MONOTONIC, &ts) // cannot fail
	return ts.Nano()
}

// realtime is CLOCK_REALTIME, which the kernel stamps packets with, nanoseconds.
func realtime() int64 { return time.Now().UnixNano() }

// sleepUntil sleeps until a time of monotonic.
func sleepUntil(t int64) {
	ts := unix.NsecToTimespec(t)
	for unix.ClockNanosleep(unix.CLOCK_MONOTONIC, unix.TIMER_ABSTIME, &ts, nil) == unix.EINTR {
	}
}

func sockaddr(a netip.AddrPort) unix.Sockaddr {
	if a.Addr().Is4() {
		return &unix.SockaddrInet4{Port: int(a.Port()), Addr: a.Addr().As4()}
	}
	return &unix.SockaddrInet6{Port: int(a.Port()), Addr: a.Addr().As16()}
}

func socket(six bool, kind int) (int, error) {
	family := unix.AF_INET
	if six {
		family = unix.AF_INET6
	}
	fd, err := unix.Socket(family, kind|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return -1, fmt.Errorf("socket: %w", err)
	}
	return fd, nil
}

func timeouts(fd int, d time.Duration) error {
	tv := unix.NsecToTimeval(int64(d))
	if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &tv); err != nil {
		return err
	}
	return unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_SNDTIMEO, &tv)
}
