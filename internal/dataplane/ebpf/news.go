package ebpf

import (
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// waysGroups are the changes after which a packet may leave another way than the one before.
var waysGroups = []int{
	unix.RTNLGRP_LINK, unix.RTNLGRP_NEIGH, unix.RTNLGRP_IPV4_IFADDR, unix.RTNLGRP_IPV6_IFADDR, unix.RTNLGRP_IPV4_ROUTE, unix.RTNLGRP_IPV6_ROUTE,
	unix.RTNLGRP_IPV4_RULE, unix.RTNLGRP_IPV6_RULE, unix.RTNLGRP_NEXTHOP,
}

// openNews opens a socket of the calling thread's namespace that the kernel tells of such changes.
func openNews() (int, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_ROUTE)
	if err != nil {
		return -1, fmt.Errorf("data plane: changes of routes: %w", err)
	}
	err = unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK})
	for _, g := range waysGroups {
		err = errors.Join(err, unix.SetsockoptInt(fd, unix.SOL_NETLINK, unix.NETLINK_ADD_MEMBERSHIP, g))
	}
	// So that the reader sees in time that it is to end.
	tv := unix.NsecToTimeval(int64(look / 4))
	if err = errors.Join(err, unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &tv)); err != nil {
		unix.Close(fd)
		return -1, fmt.Errorf("data plane: changes of routes: %w", err)
	}
	return fd, nil
}

// heed lets the programs ask the kernel again for the way to tunnels' ends after each change. What is lost, because too much came at
// once, was a change as well; and what is lost otherwise the programs forget after a second.
func (p *Plane) heed(fd int) {
	defer p.done.Done()
	defer unix.Close(fd)
	b := make([]byte, 64<<10)
	for {
		_, _, err := unix.Recvfrom(fd, b, 0)
		select {
		case <-p.stop:
			return
		default:
		}
		switch {
		case err == nil || errors.Is(err, unix.ENOBUFS):
			atomic.AddUint32(&p.k.control.news, 1)
		case !errors.Is(err, unix.EAGAIN) && !errors.Is(err, unix.EINTR):
			time.Sleep(look) // it does not get better
		}
	}
}
