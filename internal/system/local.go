package system

import (
	"errors"
	"net/netip"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// localSet knows which IPv6 addresses packets are taken for: those that were given, or every one that the host has, which it follows.
type localSet struct {
	h     *Host
	watch *descriptor
	done  chan struct{}

	mu    sync.RWMutex
	given map[netip.Addr]bool // nil: all of the host
	host  map[netip.Addr]map[int]bool
}

// openLocalSet starts to follow the host's addresses.
func (h *Host) openLocalSet() (*localSet, error) {
	fd, err := subscribe(1<<20, unix.RTNLGRP_IPV6_IFADDR)
	if err != nil {
		return nil, err
	}
	l := &localSet{h: h, watch: newDescriptor(fd, "netlink"), done: make(chan struct{})}
	l.set(h.opt.Local)
	if err := l.reread(); err != nil {
		l.watch.Close()
		return nil, err
	}
	go l.follow()
	return l, nil
}

// set replaces the given addresses; IPv4 ones are for others.
func (l *localSet) set(local []netip.Addr) {
	given := make(map[netip.Addr]bool)
	for _, a := range local {
		if a.Is6() && !a.Is4In6() {
			given[a.WithZone("")] = true
		}
	}
	if len(local) == 0 {
		given = nil
	}
	l.mu.Lock()
	l.given = given
	l.mu.Unlock()
}

// wants says whether the kernel's packets to a are for us. The kernel delivers to its own addresses only.
func (l *localSet) wants(a netip.Addr) bool {
	l.mu.RLock()
	defer l.mu.RUnlock()
	return l.given == nil || l.given[a] || l.h.anycast.has(a)
}

// has says whether a packet to a, which the kernel has not looked at yet, is for us.
func (l *localSet) has(a netip.Addr) bool {
	l.mu.RLock()
	defer l.mu.RUnlock()
	return (l.given == nil || l.given[a]) && len(l.host[a]) > 0
}

// reread asks for all addresses.
func (l *localSet) reread() error {
	l.h.mu.Lock()
	as, err := l.h.addresses(0)
	l.h.mu.Unlock()
	if err != nil {
		return err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.host = make(map[netip.Addr]map[int]bool)
	for _, a := range as {
		l.change(a, true)
	}
	return nil
}

// change notes one address; l.mu is held.
func (l *localSet) change(a address, there bool) {
	at := a.prefix.Addr()
	if !at.Is6() {
		return
	}
	ifs := l.host[at]
	switch {
	case there && ifs == nil:
		l.host[at] = map[int]bool{a.ifi: true}
	case there:
		ifs[a.ifi] = true
	case len(ifs) > 0:
		if delete(ifs, a.ifi); len(ifs) == 0 {
			delete(l.host, at)
		}
	}
}

// follow hears of addresses until the set is closed.
func (l *localSet) follow() {
	defer close(l.done)
	buf := make([]byte, 64<<10)
	for {
		n, err := receive(l.watch, buf)
		if errors.Is(err, unix.ENOBUFS) {
			_ = l.reread() // what fails now succeeds with the next change
			continue
		}
		if err != nil {
			return
		}
		msgs, err := syscall.ParseNetlinkMessage(buf[:n])
		if err != nil {
			continue
		}
		l.mu.Lock()
		for _, m := range msgs {
			if a, ok := parseAddress(m.Data); ok && (m.Header.Type == unix.RTM_NEWADDR || m.Header.Type == unix.RTM_DELADDR) {
				l.change(a, m.Header.Type == unix.RTM_NEWADDR)
			}
		}
		l.mu.Unlock()
	}
}

// Close may be called more than once.
func (l *localSet) Close() error {
	err := l.watch.Close()
	<-l.done
	return err
}
