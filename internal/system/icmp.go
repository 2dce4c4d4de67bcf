package system

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// icmpSocket opens a raw socket that receives some types of ICMPv6 and sends nothing. Unlike for other protocols, the kernel computes
// the checksum itself and cannot be told not to (RFC 3542 3.1), so none is wrong here.
func icmpSocket(types []uint8) (int, error) {
	fd, err := unix.Socket(unix.AF_INET6, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.IPPROTO_ICMPV6)
	if err != nil {
		return -1, &hinted{fmt.Errorf("raw socket for ICMPv6: %w", err), "run with CAP_NET_RAW"}
	}
	var pass unix.ICMPv6Filter
	for i := range pass.Data {
		pass.Data[i] = ^uint32(0)
	}
	for _, t := range types {
		pass.Data[t/32] &^= 1 << (t % 32)
	}
	err = unix.SetsockoptICMPv6Filter(fd, unix.SOL_ICMPV6, unix.ICMPV6_FILTER, &pass)
	for _, o := range []int{unix.IPV6_RECVPKTINFO, unix.IPV6_RECVHOPLIMIT} {
		if err == nil {
			err = unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, o, 1)
		}
	}
	if err != nil {
		unix.Close(fd)
		return -1, fmt.Errorf("raw socket for ICMPv6: %w", err)
	}
	return fd, nil
}
