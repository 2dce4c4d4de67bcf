package ebpf

import (
	"errors"
	"fmt"
	"os"
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
func openNews() (*os.File, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.NETLINK_ROUTE)
	if err != nil {
		return nil, fmt.Errorf("data plane: changes of routes: %w", err)
	}
	f := os.NewFile(uintptr(fd), "netlink")
	err = unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK})
	for _, g := range waysGroups {
		err = errors.Join(err, unix.SetsockoptInt(fd, unix.SOL_NETLINK, unix.NETLINK_ADD_MEMBERSHIP, g))
	}
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("data plane: changes of routes: %w", err)
	}
	return f, nil
}

// heed lets the programs ask the kernel again for the way to tunnels' ends after each change, until the socket is closed. What is
// lost, because too much came at once, was a change as well; and what is lost otherwise the programs forget after a second.
func (p *Plane) heed(news *os.File) {
	defer p.done.Done()
	b := make([]byte, 64<<10)
	for {
		switch _, err := news.Read(b); {
		case err == nil || errors.Is(err, unix.ENOBUFS):
			atomic.AddUint32(&p.k.control.news, 1)
		case errors.Is(err, os.ErrClosed):
			return
		default: // it does not get better
			select {
			case <-p.stop:
				return
			case <-time.After(look):
			}
		}
	}
}
