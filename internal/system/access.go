package system

import (
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"time"
	"unsafe"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"kedge/internal/core"
)

const (
	// maxFrame is the longest frame an access port delivers: a jumbo frame's worth. Signalling is far shorter.
	maxFrame = 9216
	// sizeofVnetHdr is struct virtio_net_hdr, which the kernel puts before each frame: it says whose checksum is unfinished.
	sizeofVnetHdr   = 10
	vnetNeedsCsum   = 1
	retryAccessLink = time.Second
)

// AccessPort is the "access" port: whole Ethernet frames of the access links' signalling, see accessFilter. If is the link
// in both directions. Frames that this host sends are not received. A link that vanishes and returns, under the same name
// with the same index or another, is taken up again by itself; writing to it fails meanwhile.
type AccessPort struct {
	h     *Host
	nl    *netlink.Handle
	watch *descriptor // netlink socket on link changes
	ep    *descriptor // epoll over the links' sockets
	out   *descriptor // packet socket that only sends
	done  chan struct{}

	mu    sync.RWMutex // held for reading while a link's socket is in use, for writing while one is opened or closed
	links []*accessLink

	rx        *ring
	events    [16]unix.EpollEvent
	tx        sync.Mutex
	txr       *ring
	truncated atomic.Uint64
	lost      atomic.Uint64 // overruns of sockets that are closed by now
}

// accessLink is one interface by its name.
type accessLink struct {
	name string
	ifi  int // 0: not there
	fd   int
	undo func() error
	err  error // why it could not be opened
}

// openAccess opens a port on links that must be there.
func (h *Host) openAccess(ifs []string) (p *AccessPort, err error) {
	if len(ifs) == 0 {
		return nil, &hinted{errors.New("no interface given"), "an access port needs the access links' names"}
	}
	p = &AccessPort{h: h, done: make(chan struct{}), rx: newRing(sizeofVnetHdr + maxFrame), txr: newRing(0)}
	for _, name := range ifs {
		if slices.ContainsFunc(p.links, func(l *accessLink) bool { return l.name == name }) {
			return nil, fmt.Errorf("interface %s is given twice", name)
		}
		p.links = append(p.links, &accessLink{name: name, fd: -1})
	}
	err = h.inside(func() error {
		fd, err := subscribe(1<<20, unix.RTNLGRP_LINK)
		if err != nil {
			return err
		}
		p.watch = newDescriptor(fd, "netlink")
		if p.nl, err = netlink.NewHandle(unix.NETLINK_ROUTE); err != nil {
			return err
		}
		// Protocol 0 receives nothing.
		if fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0); err != nil {
			return &hinted{fmt.Errorf("packet socket: %w", err), "run with CAP_NET_RAW"}
		}
		p.out = newDescriptor(fd, "access")
		return nil
	})
	if err == nil {
		err = p.openEpoll()
	}
	if err == nil {
		p.reconcile()
		for _, l := range p.links {
			if l.err != nil {
				err = errors.Join(err, explain(core.HostOp{Kind: "access link", Name: l.name}, l.err))
			}
		}
	}
	if err != nil {
		close(p.done)
		return nil, errors.Join(err, p.Close())
	}
	go p.follow()
	return p, nil
}

func (p *AccessPort) openEpoll() error {
	fd, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return err
	}
	// An epoll descriptor is readable when a member is, so the Go runtime can wait on it like on a socket.
	if err := unix.SetNonblock(fd, true); err != nil {
		unix.Close(fd)
		return err
	}
	p.ep = newDescriptor(fd, "epoll")
	return nil
}

// follow takes links up and down as they come and go.
func (p *AccessPort) follow() {
	defer close(p.done)
	buf := make([]byte, 64<<10)
	for {
		var again time.Time
		if p.reconcile() {
			again = time.Now().Add(retryAccessLink)
		}
		_ = p.watch.f.SetReadDeadline(again)
		_, err := receive(p.watch, buf)
		if err != nil && !errors.Is(err, os.ErrDeadlineExceeded) && !errors.Is(err, unix.ENOBUFS) {
			return // closed
		}
	}
}

// reconcile makes the sockets match the links that are there. It reports whether one should be tried again.
func (p *AccessPort) reconcile() (retry bool) {
	for _, l := range p.links {
		ifi := 0
		link, err := p.nl.LinkByName(l.name)
		if err == nil {
			ifi = link.Attrs().Index
		}
		p.mu.RLock()
		same := l.ifi == ifi && ifi != 0
		p.mu.RUnlock()
		if same {
			continue
		}
		p.drop(l)
		if ifi == 0 {
			p.mu.Lock()
			l.err = err
			p.mu.Unlock()
			continue
		}
		err = p.take(l, ifi)
		p.mu.Lock()
		l.err = err
		p.mu.Unlock()
		retry = retry || err != nil
	}
	return retry
}

// drop closes a link's socket.
func (p *AccessPort) drop(l *accessLink) {
	p.mu.Lock()
	fd, undo := l.fd, l.undo
	l.ifi, l.fd, l.undo = 0, -1, nil
	if fd >= 0 {
		p.lost.Add(drops(fd))
		unix.Close(fd) // leaves the epoll set with it
	}
	p.mu.Unlock()
	if undo != nil {
		_ = undo() // the link is gone; what is left of it is in the journal
	}
}

// take opens a link's socket.
func (p *AccessPort) take(l *accessLink, ifi int) error {
	var undo func() error
	if !p.h.opt.KeepAccess {
		var err error
		if undo, err = p.h.PrepareAccess(l.name); err != nil {
			return err
		}
	}
	fd := -1
	err := p.h.inside(func() (err error) { fd, err = packetSocket(ifi); return err })
	if err == nil {
		err = p.ep.control(func(ep int) {
			err = unix.EpollCtl(ep, unix.EPOLL_CTL_ADD, fd, &unix.EpollEvent{Events: unix.EPOLLIN, Fd: int32(fd)})
		})
	}
	if err != nil {
		if fd >= 0 {
			unix.Close(fd)
		}
		if undo != nil {
			err = errors.Join(err, undo())
		}
		return err
	}
	p.mu.Lock()
	l.ifi, l.fd, l.undo = ifi, fd, undo
	p.mu.Unlock()
	return nil
}

// packetSocket opens a socket on one link that receives what the filter passes.
func packetSocket(ifi int) (fd int, err error) {
	// Protocol 0 until the filter is in place, so that nothing unfiltered is queued.
	fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return -1, &hinted{fmt.Errorf("packet socket: %w", err), "run with CAP_NET_RAW"}
	}
	defer func() {
		if err != nil {
			unix.Close(fd)
			fd = -1
		}
	}()
	raw, err := accessFilter()
	if err != nil {
		return fd, err
	}
	prog := make([]unix.SockFilter, len(raw))
	for i, r := range raw {
		prog[i] = unix.SockFilter{Code: r.Op, Jt: r.Jt, Jf: r.Jf, K: r.K}
	}
	if err = unix.SetsockoptSockFprog(fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &unix.SockFprog{Len: uint16(len(prog)), Filter: &prog[0]}); err != nil {
		return fd, fmt.Errorf("attach filter: %w", err)
	}
	for _, o := range []struct {
		name string
		opt  int
	}{{"PACKET_VNET_HDR", unix.PACKET_VNET_HDR}, {"PACKET_IGNORE_OUTGOING", unix.PACKET_IGNORE_OUTGOING}} {
		if err = unix.SetsockoptInt(fd, unix.SOL_PACKET, o.opt, 1); err != nil {
			return fd, &hinted{fmt.Errorf("%s: %w", o.name, err), "Linux 4.20 or later is needed"}
		}
	}
	receiveBuffer(fd, 4<<20)
	if err = unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: htons(unix.ETH_P_ALL), Ifindex: ifi}); err != nil {
		return fd, fmt.Errorf("bind: %w", err)
	}
	// Hosts write to the router's MAC, which is not the link's own.
	if err = unix.SetsockoptPacketMreq(fd, unix.SOL_PACKET, unix.PACKET_ADD_MEMBERSHIP, &unix.PacketMreq{Ifindex: int32(ifi), Type: unix.PACKET_MR_PROMISC}); err != nil {
		return fd, fmt.Errorf("promiscuous mode: %w", err)
	}
	return fd, nil
}

func htons(v uint16) uint16 { return v<<8 | v>>8 }

// Read waits for frames of any of the links. One reader at a time.
func (p *AccessPort) Read(into []core.Packet) (n int, err error) {
	if len(into) == 0 {
		return 0, nil
	}
	err = p.ep.wait(false, func(ep int) bool {
		k, werr := unix.EpollWait(ep, p.events[:], 0)
		if werr == unix.EINTR {
			k = 0
		} else if werr != nil {
			err = werr
			return true
		}
		for _, ev := range p.events[:k] {
			n += p.drain(int(ev.Fd), into[n:])
		}
		return n > 0
	})
	if n > 0 {
		return n, nil
	}
	return 0, wrapPort("access", err)
}

// drain reads what one link has.
func (p *AccessPort) drain(fd int, into []core.Packet) (n int) {
	if len(into) == 0 {
		return 0
	}
	p.mu.RLock()
	defer p.mu.RUnlock()
	if !slices.ContainsFunc(p.links, func(l *accessLink) bool { return l.fd == fd }) {
		return 0 // closed since epoll saw it; the number may be another file by now
	}
	got, err := p.rx.recv(fd, len(into))
	if err != nil {
		return 0 // the link went down: the error is read and gone, and follow knows
	}
	for i := range got {
		from := (*unix.RawSockaddrLinklayer)(unsafe.Pointer(&p.rx.name[i]))
		b := p.rx.bufs[i][:p.rx.msgs[i].n]
		switch {
		case p.rx.msgs[i].hdr.Flags&unix.MSG_TRUNC != 0:
			p.truncated.Add(1)
			continue
		case from.Pkttype == unix.PACKET_OUTGOING || len(b) <= sizeofVnetHdr:
			continue
		}
		vnet, frame := b[:sizeofVnetHdr], b[sizeofVnetHdr:]
		if vnet[0]&vnetNeedsCsum != 0 {
			finishChecksum(frame, int(native16(vnet[6:])), int(native16(vnet[8:])))
		}
		out := &into[n]
		*out = core.Packet{If: int(from.Ifindex), B: append(out.B[:0], frame...)}
		copy(out.MAC[:], frame[6:12])
		n++
	}
	return n
}

// finishChecksum does what a network card would have done: a sender on the same machine leaves the sum over the payload
// to it, with the pseudo header's sum in the field.
func finishChecksum(frame []byte, start, offset int) {
	at := start + offset
	if start < 0 || offset < 0 || at+2 > len(frame) {
		return
	}
	var sum uint32
	for i := start; i < len(frame); i += 2 {
		sum += uint32(frame[i]) << 8
		if i+1 < len(frame) {
			sum += uint32(frame[i+1])
		}
	}
	for sum>>16 != 0 {
		sum = sum&0xffff + sum>>16
	}
	c := ^uint16(sum)
	if c == 0 {
		c = 0xffff // UDP's zero means "none" (RFC 768); for others both are zero
	}
	frame[at], frame[at+1] = byte(c>>8), byte(c)
}

// Write sends frames on the links that their If names. It gives how many left and joins the errors of the others.
func (p *AccessPort) Write(pkts []core.Packet) (sent int, err error) {
	p.tx.Lock()
	defer p.tx.Unlock()
	var errs []error
	for len(pkts) > 0 {
		n := min(len(pkts), batchMax)
		k, err := p.writeBatch(pkts[:n])
		sent += k
		if err != nil {
			errs = append(errs, err)
			if errors.Is(err, net.ErrClosed) {
				break
			}
		}
		pkts = pkts[n:]
	}
	return sent, errors.Join(errs...)
}

func (p *AccessPort) writeBatch(pkts []core.Packet) (sent int, err error) {
	var errs []error
	var which [batchMax]int
	n := 0
	for i := range pkts {
		if !p.serves(pkts[i].If) {
			errs = append(errs, fmt.Errorf("access: no access link with index %d is there", pkts[i].If))
			continue
		}
		if len(pkts[i].B) < offNet {
			errs = append(errs, fmt.Errorf("access: a frame of %d octets is no Ethernet frame", len(pkts[i].B)))
			continue
		}
		to := (*unix.RawSockaddrLinklayer)(unsafe.Pointer(&p.txr.name[n]))
		*to = unix.RawSockaddrLinklayer{Family: unix.AF_PACKET, Ifindex: int32(pkts[i].If), Halen: 6}
		copy(to.Addr[:6], pkts[i].B)
		to.Protocol = native16(pkts[i].B[offEtherType:])
		h := &p.txr.msgs[n].hdr
		h.Namelen = unix.SizeofSockaddrLinklayer
		h.SetControllen(0)
		p.txr.point(n, pkts[i].B)
		which[n] = i
		n++
	}
	at := 0
	err = p.out.wait(true, func(fd int) bool {
		for at < n {
			k, serr := p.txr.send(fd, at, n)
			at, sent = at+k, sent+k
			if serr == unix.EAGAIN {
				return false
			}
			if serr != nil {
				errs = append(errs, fmt.Errorf("access: link %d: %w", pkts[which[at]].If, serr))
				at++
			}
		}
		return true
	})
	if err != nil {
		errs = append(errs, wrapPort("access", err))
	}
	return sent, errors.Join(errs...)
}

func (p *AccessPort) serves(ifi int) bool {
	p.mu.RLock()
	defer p.mu.RUnlock()
	return ifi != 0 && slices.ContainsFunc(p.links, func(l *accessLink) bool { return l.ifi == ifi })
}

// AccessLink is the state of one link of an access port.
type AccessLink struct {
	Name string
	If   int   // 0: not there
	Err  error // why it is not open
}

// Links tells how the port's links are.
func (p *AccessPort) Links() []AccessLink {
	p.mu.RLock()
	defer p.mu.RUnlock()
	var out []AccessLink
	for _, l := range p.links {
		out = append(out, AccessLink{Name: l.name, If: l.ifi, Err: l.err})
	}
	return out
}

// Stats of the port so far.
func (p *AccessPort) Stats() PortStats {
	s := PortStats{Truncated: p.truncated.Load(), Overrun: p.lost.Load()}
	p.mu.RLock()
	defer p.mu.RUnlock()
	for _, l := range p.links {
		if l.fd >= 0 {
			s.Overrun += drops(l.fd)
		}
	}
	return s
}

// Close ends Read and Write with net.ErrClosed and gives the links back to the kernel as they were.
func (p *AccessPort) Close() error {
	for _, d := range []*descriptor{p.watch, p.ep, p.out} {
		d.Close()
	}
	<-p.done
	for _, l := range p.links {
		p.drop(l)
	}
	if p.nl != nil {
		p.nl.Close()
	}
	return nil
}

// Open opens a port: "mh" on the addresses of Options.Local, "access" on the links ifs, which it prepares first.
func (h *Host) Open(kind string, ifs ...string) (core.Port, error) {
	switch kind {
	case "mh":
		var p *MHPort
		err := h.inside(func() (err error) { p, err = openMH(h.opt.Local); return err })
		if err != nil {
			return nil, explain(core.HostOp{Kind: "mh port"}, err)
		}
		return p, nil
	case "access":
		p, err := h.openAccess(ifs)
		if err != nil {
			if _, told := errors.AsType[*HostError](err); !told {
				err = explain(core.HostOp{Kind: "access port"}, err)
			}
			return nil, err
		}
		return p, nil
	}
	return nil, fmt.Errorf("port kind %q is none of mh, access", kind)
}
