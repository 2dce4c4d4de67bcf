package system

import (
	"errors"
	"fmt"
	"net/netip"
	"sync"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"kedge/internal/core"
)

// An anycast address is owned by a socket that has joined it (IPV6_JOIN_ANYCAST): the kernel then takes packets to it, and answers
// Neighbor Solicitations after a random delay and without the Override flag (RFC 4861 7.2.7). It does no duplicate address detection,
// so that several home agents of one link have it at the same time. The memberships end with the process; nothing is left to sweep.
//
// What the kernel forgets is the route to itself when the link goes down, though the membership stays: Keep joins anew then.

// anycasts are the addresses that a host has joined.
type anycasts struct {
	mu     sync.RWMutex
	joined map[netip.Addr]*membership
}

type membership struct {
	op  core.HostOp
	ifi int
	fd  int
}

// has says whether packets to an anycast address are this host's.
func (s *anycasts) has(a netip.Addr) bool {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.joined[a] != nil
}

// joinAnycast carries out an operation of kind anycast.
func (h *Host) joinAnycast(op core.HostOp) error {
	if err := single(op.Prefix); err != nil {
		return err
	}
	a := op.Prefix.Addr()
	if !a.Is6() || a.Is4In6() {
		return fmt.Errorf("%s is no IPv6 address", a)
	}
	s := &h.anycast
	s.mu.Lock()
	defer s.mu.Unlock()
	have := s.joined[a]
	if op.Del {
		if have != nil {
			unix.Close(have.fd)
			delete(s.joined, a)
		}
		return nil
	}
	ifi, err := h.index(op)
	if err != nil {
		return err
	}
	if have != nil && have.ifi == ifi {
		return nil
	}
	fd := -1
	if err := h.inside(func() (err error) { fd, err = joined(a, ifi); return err }); err != nil {
		return err
	}
	if have != nil {
		unix.Close(have.fd)
	}
	if s.joined == nil {
		s.joined = make(map[netip.Addr]*membership)
	}
	s.joined[a] = &membership{op, ifi, fd}
	return nil
}

// joined opens a socket that has joined an anycast address on a link, and does nothing else.
func joined(a netip.Addr, ifi int) (int, error) {
	fd, err := unix.Socket(unix.AF_INET6, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return -1, err
	}
	mreq := &unix.IPv6Mreq{Multiaddr: a.As16(), Interface: uint32(ifi)}
	if err := unix.SetsockoptIPv6Mreq(fd, unix.IPPROTO_IPV6, unix.IPV6_JOIN_ANYCAST, mreq); err != nil {
		unix.Close(fd)
		if errors.Is(err, unix.EADDRNOTAVAIL) {
			err = &hinted{err, "an anycast address must be of a prefix of the link, or the host a router (net.ipv6.conf.all.forwarding=1)"}
		}
		return -1, fmt.Errorf("joining anycast address %s: %w", a, err)
	}
	return fd, nil
}

// rejoin joins the addresses anew whose link was down or is another one, and says how many. h.mu is held.
func (h *Host) rejoin() (n int, failed error) {
	s := &h.anycast
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.joined) == 0 {
		return 0, nil
	}
	routes, err := h.nl.RouteListFiltered(netlink.FAMILY_V6, &netlink.Route{Table: unix.RT_TABLE_LOCAL, Type: unix.RTN_ANYCAST},
		netlink.RT_FILTER_TABLE|netlink.RT_FILTER_TYPE)
	if err != nil && !errors.Is(err, netlink.ErrDumpInterrupted) {
		return 0, err
	}
	there := make(map[netip.Addr]int)
	for _, r := range routes {
		if r.Dst != nil {
			if a, ok := netip.AddrFromSlice(r.Dst.IP); ok {
				there[a] = r.LinkIndex
			}
		}
	}
	for a, m := range s.joined {
		op := m.op
		ifi, err := h.index(op)
		if err != nil || ifi == m.ifi && there[a] == ifi {
			continue // the link is away, or all is well
		}
		if l, err := h.nl.LinkByIndex(ifi); err != nil || l.Attrs().RawFlags&unix.IFF_UP == 0 {
			continue
		}
		unix.Close(m.fd) // first: a second membership would add no route
		fd := -1
		if err := h.inside(func() (err error) { fd, err = joined(a, ifi); return err }); err != nil {
			m.ifi, m.fd, failed = 0, -1, err // the next look tries again
			continue
		}
		m.ifi, m.fd = ifi, fd
		n++
	}
	return n, failed
}

// leaveAnycast gives all of them back.
func (h *Host) leaveAnycast() {
	h.anycast.mu.Lock()
	defer h.anycast.mu.Unlock()
	for a, m := range h.anycast.joined {
		if m.fd >= 0 {
			unix.Close(m.fd)
		}
		delete(h.anycast.joined, a)
	}
}
