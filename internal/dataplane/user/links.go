package user

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// linkWatch tells when interfaces change.
type linkWatch struct {
	nl   *netlink.Handle
	news *os.File // netlink socket on link changes
	ns   *os.File // the namespace of the links
}

// takeAgain is the time between two tries to take a link that is there.
const takeAgain = time.Second

func openLinkWatch() (_ *linkWatch, err error) {
	w := &linkWatch{}
	defer func() {
		if err != nil {
			w.close()
			err = fmt.Errorf("data plane: access links: %w", err)
		}
	}()
	if w.ns, err = os.Open("/proc/thread-self/ns/net"); err != nil {
		return nil, err
	}
	if w.nl, err = netlink.NewHandle(unix.NETLINK_ROUTE); err != nil {
		return nil, err
	}
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.NETLINK_ROUTE)
	if err != nil {
		return nil, err
	}
	w.news = os.NewFile(uintptr(fd), "netlink")
	if err := unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK, Groups: 1 << (unix.RTNLGRP_LINK - 1)}); err != nil {
		return nil, err
	}
	return w, nil
}

// wait returns when interfaces may have changed, or at the deadline if it is not zero; false when the watch is closed. What a
// message says does not matter, so neither does who sent it, or how many were lost.
func (w *linkWatch) wait(deadline time.Time) bool {
	var buf [8192]byte
	_ = w.news.SetReadDeadline(deadline)
	_, err := w.news.Read(buf[:])
	return err == nil || errors.Is(err, os.ErrDeadlineExceeded) || errors.Is(err, unix.ENOBUFS) || errors.Is(err, unix.EINTR)
}

// enter brings the calling goroutine's thread into the namespace of the links, if it is in another one: settings in /proc/sys are
// those of the thread that opens them. A daemon is in it and needs no privilege for this.
func (w *linkWatch) enter() { enter(w.ns) }

func enter(ns *os.File) {
	var here, there unix.Stat_t
	if unix.Stat("/proc/thread-self/ns/net", &here) == nil && unix.Fstat(int(ns.Fd()), &there) == nil && here.Ino == there.Ino && here.Dev == there.Dev {
		return
	}
	runtime.LockOSThread()                          // never unlocked: the thread ends with the goroutine
	_ = unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET) // else the settings are not found, and takeLink fails
}

// stop ends followLinks, and close frees what is left. A nil watch is that of an anchor.
func (w *linkWatch) stop() {
	if w != nil && w.news != nil {
		w.news.Close()
	}
}

func (w *linkWatch) close() {
	if w == nil {
		return
	}
	w.stop()
	if w.nl != nil {
		w.nl.Close()
	}
	if w.ns != nil {
		w.ns.Close()
	}
}

// followLinks keeps the sockets on the interfaces that have the links' names.
func (p *Plane) followLinks() {
	p.watch.enter()
	for {
		var again time.Time
		if p.reconcileLinks() {
			again = time.Now().Add(takeAgain)
		}
		if !p.watch.wait(again) {
			return
		}
	}
}

// reconcileLinks reports whether a link is there that could not be taken.
func (p *Plane) reconcileLinks() (again bool) {
	for _, l := range p.links {
		index := 0
		if i, err := p.watch.nl.LinkByName(l.Name); err == nil {
			index = i.Attrs().Index
			if l.follows { // packets that fit no more are answered, not lost in the interface
				p.SetLinkMTU(l.If, i.Attrs().MTU)
			}
		}
		if int(l.index.Load()) == index && (index == 0 || !l.unbound()) {
			continue
		}
		l.index.Store(0)
		l.undo.run() // of an interface that has only been given another name
		if index != 0 && p.takeLink(l, index) != nil {
			again = true
		}
	}
	return again
}

// unbound reports that the interface of the link's socket went, though another may have its index by now.
func (l *accessLink) unbound() (yes bool) {
	for _, s := range l.socks {
		_ = s.conn.Control(func(fd uintptr) { // fails when the plane closes
			a, err := unix.Getsockname(int(fd))
			sll, ok := a.(*unix.SockaddrLinklayer)
			yes = yes || err == nil && ok && sll.Ifindex != int(l.index.Load())
		})
	}
	return yes
}
