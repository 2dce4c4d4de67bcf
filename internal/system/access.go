package system

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"time"

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

// AccessPort is the "access" port: whole Ethernet frames of the access links' signalling, see AccessFilter. If is the link
// in both directions. Frames that this host sends are not received. A link that vanishes and returns, under the same name
// with the same index or another, is taken up again by itself; writing to it fails meanwhile. A Packet's If stays what the
// link's index was when the port was opened, so that whoever knows the link by it knows it still.
//
// It is the "links" port as well, which only listens: the kernel keeps its own signalling on these links. They are those
// Ethernet links whose names match a pattern at the time, at most MaxLinks; If is the present index, and frames are those of
// LinkFilter.
type AccessPort struct {
	h        *Host
	kind     string   // access, links
	patterns []string // of names; links port only
	nl       *netlink.Handle
	watch    *descriptor // netlink socket on link changes
	ep       *descriptor // epoll over the links' sockets
	out      *descriptor // packet socket that only sends
	done     chan struct{}

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
	id   int // its first index: what a Packet's If says
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
	p = newAccessPort(h, "access")
	for _, name := range ifs {
		if slices.ContainsFunc(p.links, func(l *accessLink) bool { return l.name == name }) {
			return nil, fmt.Errorf("interface %s is given twice", name)
		}
		p.links = append(p.links, &accessLink{name: name, fd: -1})
	}
	return p.open()
}

func newAccessPort(h *Host, kind string) *AccessPort {
	return &AccessPort{h: h, kind: kind, done: make(chan struct{}), rx: newRing(sizeofVnetHdr + maxFrame), txr: newRing(0)}
}

// open takes the links up that are there.
func (p *AccessPort) open() (_ *AccessPort, err error) {
	err = p.h.inside(func() error {
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
		p.out = newDescriptor(fd, p.kind)
		return nil
	})
	if err == nil {
		p.ep, err = newEpoll()
	}
	if err == nil {
		p.reconcile()
		for _, l := range p.links {
			if l.err != nil && p.patterns == nil {
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
	retry = p.match()
	for _, l := range p.links {
		ifi := 0
		var err error
		if p.patterns != nil {
			ifi = l.id
		} else if link, lerr := p.nl.LinkByName(l.name); lerr == nil {
			ifi = link.Attrs().Index
		} else {
			err = lerr
		}
		p.mu.RLock()
		same := l.ifi == ifi && ifi != 0 && bound(l.fd) == ifi
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

// bound is the index of a packet socket's interface: none when that went, though another may have its index by now.
func bound(fd int) int {
	if a, err := unix.Getsockname(fd); err == nil {
		if sll, ok := a.(*unix.SockaddrLinklayer); ok {
			return sll.Ifindex
		}
	}
	return 0
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
	if !p.h.opt.KeepAccess && p.patterns == nil {
		var err error
		if undo, err = p.h.PrepareAccess(l.name); err != nil {
			return err
		}
	}
	fd := -1
	err := p.h.inside(func() (err error) { fd, err = packetSocket(ifi, p.kind); return err })
	if err == nil {
		err = watchInput(p.ep, fd)
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
	if l.id == 0 {
		l.id = ifi
	}
	p.mu.Unlock()
	return nil
}

// packetSocket opens a socket on one link that receives what the filter of its kind of port passes.
func packetSocket(ifi int, kind string) (fd int, err error) {
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
	choose := AccessFilter
	if kind == "links" {
		choose = LinkFilter
	}
	filter, err := choose()
	if err == nil {
		err = attach(fd, filter)
	}
	if err != nil {
		return fd, err
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
	if kind == "links" {
		// A node coming home hears solicitations for its home address, whose group the kernel has not joined on that link yet.
		if err = unix.SetsockoptPacketMreq(fd, unix.SOL_PACKET, unix.PACKET_ADD_MEMBERSHIP, &unix.PacketMreq{Ifindex: int32(ifi), Type: unix.PACKET_MR_ALLMULTI}); err != nil {
			return fd, fmt.Errorf("all multicast groups: %w", err)
		}
		return fd, nil
	}
	// Hosts write to the router's MAC, which is not the link's own.
	if err = unix.SetsockoptPacketMreq(fd, unix.SOL_PACKET, unix.PACKET_ADD_MEMBERSHIP, &unix.PacketMreq{Ifindex: int32(ifi), Type: unix.PACKET_MR_PROMISC}); err != nil {
		return fd, fmt.Errorf("promiscuous mode: %w", err)
	}
	return fd, nil
}

func htons(v uint16) uint16 { return v<<8 | v>>8 }

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

// Open opens a port:
//
//	mh      Mobility Headers to the addresses of Options.Local
//	ip      the whole IPv6 packets of signalling to these addresses, or to all of the host: Mobility Headers and ESP (RFC 6275,
//	        RFC 4303), with or without Home Address option and type 2 routing header, reassembled
//	access  signalling of the links ifs, which it prepares first
//	links   Neighbor Discovery and ARP of the Ethernet links whose names match the patterns ifs (path.Match); the kernel's own goes on
func (h *Host) Open(kind string, ifs ...string) (core.Port, error) {
	switch kind {
	case "mh":
		var p *MHPort
		err := h.inside(func() (err error) { p, err = openMH(h.opt.Local); return err })
		if err != nil {
			return nil, explain(core.HostOp{Kind: "mh port"}, err)
		}
		return p, nil
	case "ip":
		var p *IPPort
		err := h.inside(func() (err error) { p, err = h.openIP(); return err })
		if err != nil {
			return nil, explain(core.HostOp{Kind: "ip port"}, err)
		}
		return p, nil
	case "access", "links":
		open := h.openAccess
		if kind == "links" {
			open = h.openLinks
		}
		p, err := open(ifs)
		if err != nil {
			if _, told := errors.AsType[*HostError](err); !told {
				err = explain(core.HostOp{Kind: kind + " port"}, err)
			}
			return nil, err
		}
		return p, nil
	}
	return nil, fmt.Errorf("port kind %q is none of mh, ip, access, links", kind)
}
