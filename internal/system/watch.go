package system

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"syscall"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"kedge/internal/core"
)

// Watch calls f with every link, address, route and neighbour, then with Synced, then with every change until ctx ends,
// which is no error. f runs in the caller's goroutine and may block: when the kernel's queue overflows meanwhile, the
// watch reads everything again, tells the differences, removals included, and ends them with another Synced.
//
//	link       Op.If, Name, MAC, MTU, Value up or down (as set); Up: set up and with carrier. A loss of carrier is told even if it
//	           was back before the kernel said so
//	address    Op.If, Name, Prefix, Value: the words tentative, optimistic, dadfailed, deprecated as far as they hold; Tentative:
//	           it cannot be used because duplicate address detection runs, or has found a duplicate
//	route      Op.If, Name, Prefix, Via (first hop), Src, Metric, Table, MTU, Value as in Apply, Proto (who set it: 2 the kernel, 9 by
//	           Router Advertisement, 16 DHCP, 3 and 4 people); local and cached routes are left out
//	neighbour  Op.If, Name, Prefix, MAC, Value reachable, stale, failed...; Up: has a usable MAC
func (h *Host) Watch(ctx context.Context, f func(core.HostChanged)) error {
	w := &watch{h: h, f: f, have: make(map[object]core.HostChanged), names: make(map[int]string), downs: make(map[int]uint32)}
	var fd int
	err := h.inside(func() (err error) {
		fd, err = subscribe(h.watchBuffer, unix.RTNLGRP_LINK, unix.RTNLGRP_IPV4_IFADDR, unix.RTNLGRP_IPV6_IFADDR,
			unix.RTNLGRP_IPV4_ROUTE, unix.RTNLGRP_IPV6_ROUTE, unix.RTNLGRP_NEIGH)
		return err
	})
	if err != nil {
		return fmt.Errorf("watching the host: %w", err)
	}
	sock := newDescriptor(fd, "netlink")
	defer sock.Close()
	stop := context.AfterFunc(ctx, func() { sock.Close() })
	defer stop()

	if err := w.resync(ctx); err != nil {
		return err
	}
	buf := make([]byte, nl.RECEIVE_BUFFER_SIZE)
	for {
		n, err := receive(sock, buf)
		switch {
		case ctx.Err() != nil:
			return nil
		case errors.Is(err, unix.ENOBUFS):
			if err := w.resync(ctx); err != nil {
				return err
			}
			continue
		case err != nil:
			return fmt.Errorf("watching the host: %w", err)
		}
		msgs, err := syscall.ParseNetlinkMessage(buf[:n])
		if err != nil { // a datagram longer than the buffer: read again what it said
			if err := w.resync(ctx); err != nil {
				return err
			}
			continue
		}
		for _, m := range msgs {
			w.message(m.Header.Type, m.Data)
			if ctx.Err() != nil {
				return nil
			}
		}
		if w.stale {
			if err := w.reread(ctx, tables[2]); err != nil {
				return err
			}
		}
	}
}

// subscribe opens a routing netlink socket for groups that the Go runtime can wait on.
func subscribe(buffer int, groups ...uint) (int, error) {
	return subscribeTo(unix.NETLINK_ROUTE, buffer, groups...)
}

func subscribeTo(protocol, buffer int, groups ...uint) (int, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, protocol)
	if err != nil {
		return -1, err
	}
	// The privileged option goes beyond net.core.rmem_max.
	if unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, buffer) != nil {
		_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUF, buffer)
	}
	if err := unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		unix.Close(fd)
		return -1, err
	}
	for _, g := range groups {
		if err := unix.SetsockoptInt(fd, unix.SOL_NETLINK, unix.NETLINK_ADD_MEMBERSHIP, int(g)); err != nil {
			unix.Close(fd)
			return -1, err
		}
	}
	return fd, nil
}

// receive waits for one datagram of the kernel.
func receive(sock *descriptor, buf []byte) (n int, err error) {
	var rerr error
	err = sock.wait(false, func(fd int) bool {
		for {
			var from unix.Sockaddr
			n, from, rerr = unix.Recvfrom(fd, buf, 0)
			if rerr == unix.EINTR {
				continue
			}
			if a, ok := from.(*unix.SockaddrNetlink); rerr == nil && ok && a.Pid != nl.PidKernel {
				continue // another process may write to us; only the kernel is believed
			}
			return rerr != unix.EAGAIN
		}
	})
	if err == nil {
		err = rerr
	}
	return n, err
}

// watch is what one Watch knows.
type watch struct {
	h     *Host
	f     func(core.HostChanged)
	have  map[object]core.HostChanged
	seen  map[object]bool // during a dump
	names map[int]string
	downs map[int]uint32 // how often each link has lost its carrier
	flaps bool           // the link that was read last lost it since, though it is up again
	stale bool           // routes went that the kernel does not tell of
}

// table is one that a watch reads.
type table struct {
	kind            string
	request, answer int
}

// tables in the order in which they are told: a route's link and address come before it.
var tables = [4]table{
	{"link", unix.RTM_GETLINK, unix.RTM_NEWLINK}, {"address", unix.RTM_GETADDR, unix.RTM_NEWADDR},
	{"route", unix.RTM_GETROUTE, unix.RTM_NEWROUTE}, {"neighbour", unix.RTM_GETNEIGH, unix.RTM_NEWNEIGH},
}

// resync reads everything and tells the difference to what is known.
func (w *watch) resync(ctx context.Context) error {
	if err := w.reread(ctx, tables[:]...); err != nil {
		return err
	}
	if ctx.Err() == nil {
		w.f(core.HostChanged{Synced: true})
	}
	return nil
}

// reread reads tables and tells what changed and what is gone.
func (w *watch) reread(ctx context.Context, which ...table) error {
	w.seen = make(map[object]bool)
	for _, t := range which {
		if err := w.dump(ctx, t.request, t.answer); err != nil {
			return fmt.Errorf("watching the host: %w", err)
		}
		for o, c := range w.have {
			if o.kind == t.kind && !w.seen[o] && ctx.Err() == nil {
				w.gone(o, c)
			}
		}
	}
	w.seen, w.stale = nil, false
	return nil
}

// dump reads one table. A dump that a change interrupts may miss entries, so it is read again.
func (w *watch) dump(ctx context.Context, request, answer int) error {
	for {
		req := w.h.request(request, unix.NLM_F_DUMP)
		req.AddData(nl.NewIfInfomsg(unix.AF_UNSPEC))
		msgs, err := req.Execute(unix.NETLINK_ROUTE, uint16(answer))
		if err != nil && !errors.Is(err, nl.ErrDumpInterrupted) {
			return err
		}
		for _, m := range msgs {
			if ctx.Err() != nil {
				return nil
			}
			w.message(uint16(answer), m)
		}
		if err == nil {
			return nil
		}
	}
}

// message is one of a dump or one change.
func (w *watch) message(kind uint16, data []byte) {
	var c core.HostChanged
	var ok bool
	switch kind {
	case unix.RTM_NEWLINK, unix.RTM_DELLINK:
		c, ok = w.link(data)
	case unix.RTM_NEWADDR, unix.RTM_DELADDR:
		c, ok = w.addr(data)
	case unix.RTM_NEWROUTE, unix.RTM_DELROUTE:
		c, ok = w.route(data)
	case unix.RTM_NEWNEIGH, unix.RTM_DELNEIGH:
		c, ok = w.neigh(data)
	}
	if !ok {
		return
	}
	o := object{kind: c.Op.Kind, ifi: c.Op.If, prefix: c.Op.Prefix, table: c.Op.Table, metric: c.Op.Metric}
	if c.Op.Kind == "route" {
		o.name = c.Op.Via.String()
	}
	switch kind {
	case unix.RTM_DELLINK, unix.RTM_DELADDR, unix.RTM_DELROUTE, unix.RTM_DELNEIGH:
		if old, known := w.have[o]; known {
			w.gone(o, old)
		}
		return
	}
	if w.seen != nil {
		w.seen[o] = true
	}
	// Netlink repeats itself (statistics, timers); only what differs is news. A carrier that came back before the kernel told
	// that it was lost (it does so once a second at most) may be that of another network.
	old, known := w.have[o]
	if o.kind == "link" && w.flaps && known && old.Up && c.Up {
		lost := old
		lost.Up = false
		w.have[o] = lost
		w.f(lost)
		old = lost
	}
	if known && old == c {
		return
	}
	if o.kind == "link" && !known {
		w.replaced(c)
	}
	if o.kind == "link" && old.Op.Value == "up" && c.Op.Value == "down" {
		w.stale = true // IPv4 routes of a link that is set down go without a word
	}
	w.have[o] = c
	w.f(c)
}

// replaced tells that a link went whose name another has taken since. In a dump the new one comes first, and who knows links by
// their names would else take it for gone.
func (w *watch) replaced(c core.HostChanged) {
	for o, oc := range w.have {
		if o.kind == "link" && o.ifi != c.Op.If && oc.Op.Name == c.Op.Name {
			w.gone(o, oc)
		}
	}
	w.names[c.Op.If] = c.Op.Name
}

// gone tells that something ended, and what ends with it.
func (w *watch) gone(o object, c core.HostChanged) {
	delete(w.have, o)
	c.Gone, c.Up, c.Tentative = true, false, false
	w.f(c)
	if o.kind == "address" && o.prefix.Addr().Is4() {
		w.stale = true // so do IPv4 routes that preferred it
	}
	if o.kind != "link" {
		return
	}
	// The kernel removes routes of a vanished link without telling each.
	for other, oc := range w.have {
		if other.kind != "link" && oc.Op.If == o.ifi {
			w.gone(other, oc)
		}
	}
	delete(w.names, o.ifi)
	delete(w.downs, o.ifi)
}

func (w *watch) link(b []byte) (c core.HostChanged, ok bool) {
	if len(b) < unix.SizeofIfInfomsg {
		return c, false
	}
	msg := nl.DeserializeIfInfomsg(b)
	attrs, err := nl.ParseRouteAttr(b[unix.SizeofIfInfomsg:])
	if err != nil || msg.Family == unix.AF_BRIDGE { // a port that leaves its bridge looks like a link that goes
		return c, false
	}
	c.Op = core.HostOp{Kind: "link", If: int(msg.Index), Value: "down"}
	w.flaps = false
	for _, a := range attrs {
		switch a.Attr.Type {
		case unix.IFLA_IFNAME:
			c.Op.Name = nl.BytesToString(a.Value)
		case unix.IFLA_ADDRESS:
			if len(a.Value) == len(c.Op.MAC) {
				copy(c.Op.MAC[:], a.Value)
			}
		case unix.IFLA_MTU:
			c.Op.MTU = int(native32(a.Value))
		case unix.IFLA_CARRIER_DOWN_COUNT:
			n := native32(a.Value)
			w.flaps = n != w.downs[c.Op.If]
			w.downs[c.Op.If] = n
		}
	}
	if msg.Flags&unix.IFF_UP != 0 {
		c.Op.Value = "up"
		c.Up = msg.Flags&unix.IFF_RUNNING != 0
	}
	w.names[c.Op.If] = c.Op.Name
	return c, true
}

func (w *watch) addr(b []byte) (c core.HostChanged, ok bool) {
	a, ok := parseAddress(b)
	if !ok {
		return c, false
	}
	c.Op = core.HostOp{Kind: "address", If: a.ifi, Name: w.names[a.ifi], Prefix: a.prefix}
	c.Tentative = a.flags&unix.IFA_F_TENTATIVE != 0 && a.flags&unix.IFA_F_OPTIMISTIC == 0 || a.flags&unix.IFA_F_DADFAILED != 0
	c.Up = !c.Tentative
	c.Op.Value = stateWords(a.flags)
	return c, true
}

// stateWords are the flags of an address that change while it is there.
func stateWords(flags uint32) string {
	var words []string
	for _, f := range []struct {
		flag uint32
		word string
	}{{unix.IFA_F_TENTATIVE, "tentative"}, {unix.IFA_F_OPTIMISTIC, "optimistic"}, {unix.IFA_F_DADFAILED, "dadfailed"}, {unix.IFA_F_DEPRECATED, "deprecated"}} {
		if flags&f.flag != 0 {
			words = append(words, f.word)
		}
	}
	return strings.Join(words, " ")
}

func (w *watch) route(b []byte) (c core.HostChanged, ok bool) {
	if len(b) < unix.SizeofRtMsg {
		return c, false
	}
	msg := nl.DeserializeRtMsg(b)
	value := ""
	switch msg.Type {
	case unix.RTN_UNICAST:
	case unix.RTN_UNREACHABLE:
		value = "unreachable"
	case unix.RTN_BLACKHOLE:
		value = "blackhole"
	case unix.RTN_PROHIBIT:
		value = "prohibit"
	default: // local, broadcast, multicast, anycast: follow from addresses
		return c, false
	}
	if msg.Flags&unix.RTM_F_CLONED != 0 || msg.Family != unix.AF_INET && msg.Family != unix.AF_INET6 {
		return c, false
	}
	attrs, err := nl.ParseRouteAttr(b[unix.SizeofRtMsg:])
	if err != nil {
		return c, false
	}
	c.Op = core.HostOp{Kind: "route", Table: int(msg.Table), Value: value, Proto: msg.Protocol}
	dst := netip.IPv6Unspecified()
	if msg.Family == unix.AF_INET {
		dst = netip.IPv4Unspecified()
	}
	for _, a := range attrs {
		switch a.Attr.Type {
		case unix.RTA_DST:
			dst, _ = netip.AddrFromSlice(a.Value)
		case unix.RTA_OIF:
			c.Op.If = int(native32(a.Value))
		case unix.RTA_GATEWAY:
			c.Op.Via, _ = netip.AddrFromSlice(a.Value)
		case unix.RTA_PREFSRC:
			c.Op.Src, _ = netip.AddrFromSlice(a.Value)
		case unix.RTA_PRIORITY:
			c.Op.Metric = int(native32(a.Value))
		case unix.RTA_TABLE:
			c.Op.Table = int(native32(a.Value))
		case unix.RTA_METRICS:
			c.Op.MTU = routeMTU(a.Value)
		case unix.RTA_MULTIPATH:
			c.Op.If, c.Op.Via = firstHop(a.Value)
		}
	}
	c.Op.Prefix = netip.PrefixFrom(dst, int(msg.Dst_len))
	c.Op.Name = w.names[c.Op.If]
	c.Up = true
	return c, c.Op.Prefix.IsValid() && c.Op.Table != unix.RT_TABLE_LOCAL
}

func routeMTU(b []byte) int {
	metrics, err := nl.ParseRouteAttr(b)
	if err != nil {
		return 0
	}
	for _, m := range metrics {
		if m.Attr.Type == unix.RTAX_MTU {
			return int(native32(m.Value))
		}
	}
	return 0
}

// firstHop reads the first struct rtnexthop.
func firstHop(b []byte) (ifi int, via netip.Addr) {
	if len(b) < unix.SizeofRtNexthop {
		return 0, via
	}
	hop := nl.DeserializeRtNexthop(b)
	end := min(int(hop.RtNexthop.Len), len(b))
	if end < unix.SizeofRtNexthop {
		return 0, via
	}
	attrs, err := nl.ParseRouteAttr(b[unix.SizeofRtNexthop:end])
	if err != nil {
		return 0, via
	}
	for _, a := range attrs {
		if a.Attr.Type == unix.RTA_GATEWAY {
			via, _ = netip.AddrFromSlice(a.Value)
		}
	}
	return int(hop.RtNexthop.Ifindex), via
}

// nudNames are the states of a neighbour (RFC 4861 7.3.2, and Linux's own).
var nudNames = map[uint16]string{
	netlink.NUD_INCOMPLETE: "incomplete", netlink.NUD_REACHABLE: "reachable", netlink.NUD_STALE: "stale", netlink.NUD_DELAY: "delay",
	netlink.NUD_PROBE: "probe", netlink.NUD_FAILED: "failed", netlink.NUD_NOARP: "noarp", netlink.NUD_PERMANENT: "permanent",
}

func (w *watch) neigh(b []byte) (c core.HostChanged, ok bool) {
	n, ok := parseNeighbour(b)
	if !ok || n.proxy || n.state == netlink.NUD_NOARP {
		return c, false
	}
	c.Op = core.HostOp{Kind: "neighbour", If: n.ifi, Name: w.names[n.ifi], Prefix: netip.PrefixFrom(n.addr, n.addr.BitLen()), MAC: n.mac, Value: nudNames[n.state]}
	c.Up = n.state&(netlink.NUD_REACHABLE|netlink.NUD_STALE|netlink.NUD_DELAY|netlink.NUD_PROBE|netlink.NUD_PERMANENT) != 0
	return c, true
}
