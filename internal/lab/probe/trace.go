package probe

import (
	"errors"
	"fmt"
	"net/netip"
	"time"

	"golang.org/x/sys/unix"

	"kedge/internal/system/netns"
)

// traceWait is how long a hop may take to answer.
const traceWait = 500 * time.Millisecond

// tracePort is where traceroute sends to: nobody listens there, so that the target answers with Port Unreachable.
const tracePort = 33434

// Trace finds the hops to dst as traceroute does: UDP packets with hop limit 1, 2, and so on; each answer is an ICMP error
// whose sender is the hop. A hop that says nothing is the zero Addr. It ends at dst or after most hops.
func Trace(ns *netns.NS, dst netip.Addr, most int) (hops []netip.Addr, err error) {
	err = ns.Do(func() error {
		for n := 1; n <= most; n++ {
			from, err := hop(dst, n)
			if err != nil {
				return fmt.Errorf("trace to %s, hop %d: %w", dst, n, err)
			}
			hops = append(hops, from)
			if from == dst {
				return nil
			}
		}
		return nil
	})
	return hops, err
}

func hop(dst netip.Addr, n int) (netip.Addr, error) {
	family, level, recvErr, limit, at := unix.AF_INET6, unix.IPPROTO_IPV6, unix.IPV6_RECVERR, unix.IPV6_UNICAST_HOPS, 8
	var to unix.Sockaddr = &unix.SockaddrInet6{Port: tracePort, Addr: dst.As16()}
	if dst.Is4() {
		family, level, recvErr, limit, at = unix.AF_INET, unix.IPPROTO_IP, unix.IP_RECVERR, unix.IP_TTL, 4
		to = &unix.SockaddrInet4{Port: tracePort, Addr: dst.As4()}
	}
	fd, err := unix.Socket(family, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return netip.Addr{}, err
	}
	defer unix.Close(fd)
	if err := errors.Join(unix.SetsockoptInt(fd, level, recvErr, 1), unix.SetsockoptInt(fd, level, limit, n)); err != nil {
		return netip.Addr{}, err
	}
	if err := unix.Sendto(fd, make([]byte, 32), 0, to); err != nil {
		return netip.Addr{}, err
	}
	for end := time.Now().Add(traceWait); ; {
		left := time.Until(end)
		if left <= 0 {
			return netip.Addr{}, nil
		}
		if _, err := unix.Poll([]unix.PollFd{{Fd: int32(fd)}}, int(left.Milliseconds())+1); err != nil && !errors.Is(err, unix.EINTR) {
			return netip.Addr{}, err
		}
		oob := make([]byte, 512)
		_, got, _, _, err := unix.Recvmsg(fd, make([]byte, 256), oob, unix.MSG_ERRQUEUE|unix.MSG_DONTWAIT)
		if errors.Is(err, unix.EAGAIN) || errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return netip.Addr{}, err
		}
		msgs, err := unix.ParseSocketControlMessage(oob[:got])
		if err != nil {
			return netip.Addr{}, err
		}
		for _, m := range msgs {
			// A sock_extended_err of 16 octets, then the sockaddr of who sent the error.
			if end := 16 + at + dst.BitLen()/8; int(m.Header.Level) == level && int(m.Header.Type) == recvErr && len(m.Data) >= end {
				from, _ := netip.AddrFromSlice(m.Data[16+at : end])
				return from, nil
			}
		}
	}
}
