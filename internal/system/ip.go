package system

import (
	"cmp"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"strconv"
	"sync"
	"sync/atomic"
	"unsafe"

	"golang.org/x/sys/unix"

	"kedge/internal/core"
	wireip "kedge/wire/ip"
)

const (
	// maxSignal is the buffer for one message without its IPv6 header: the longest Mobility Header (2,048 octets, RFC 6275 6.1.1)
	// with ESP around it, and more, so that what is longer is seen to be longer.
	maxSignal = 4096
	// sendMTU is what larger packets are cut to: signalling must not wait until a path MTU is known (RFC 8200 5).
	sendMTU = wireip.MinMTU6
)

// IPPort is the "ip" port: whole IPv6 packets of signalling to this host's addresses, see Host.Open. Mobility Headers, ESP and the
// ICMPv6 messages of Options.ICMPv6 without extension headers come by raw sockets, reassembled by the kernel, whose headers are put
// back as far as the kernel tells them. A wrong checksum of those messages it drops itself. Packets with a Home Address option or a type 2 routing header, which the kernel would refuse with an ICMPv6 error, are
// taken below it (see tap).
//
// On Write, B is the whole packet. Its source must be an address of this host; If chooses the link only for link-local and
// multicast destinations, or always with Options.SendByIf.
type IPPort struct {
	local *localSet
	ep    *descriptor
	mh    *descriptor
	esp   *descriptor
	icmp  *descriptor // nil without Options.ICMPv6
	out   *descriptor
	tap   *tap
	fds   struct{ mh, esp, icmp int } // as epoll names them
	byIf  bool

	rx     *ring
	events [1]unix.EpollEvent // one socket at a time: the kernel takes turns then, and who floods one leaves the others alone
	tx     struct {
		sync.Mutex
		*ring
		bound int // link that the socket is bound to
	}
	foreign, truncated atomic.Uint64
	problem            *problems
}

func (h *Host) openIP() (p *IPPort, err error) {
	p = &IPPort{byIf: h.opt.SendByIf, rx: newRing(maxSignal)}
	p.tx.ring = newRing(0)
	defer func() {
		if err != nil {
			p.Close()
			p = nil
		}
	}()
	if p.problem, err = openProblems(); err != nil {
		return p, err
	}
	for _, s := range []struct {
		proto int
		to    **descriptor
		name  string
	}{{protoMH, &p.mh, "mh"}, {wireip.ESP, &p.esp, "esp"}, {unix.IPPROTO_RAW, &p.out, "ip"}} {
		fd, err := rawSocket(s.proto)
		if err != nil {
			return p, err
		}
		*s.to = newDescriptor(fd, s.name)
	}
	if err = p.out.control(func(fd int) { err = deaf(fd) }); err != nil {
		return p, err
	}
	if len(h.opt.ICMPv6) > 0 {
		fd, err := icmpSocket(h.opt.ICMPv6)
		if err != nil {
			return p, err
		}
		p.icmp = newDescriptor(fd, "icmp6")
	}
	if p.local, err = h.openLocalSet(); err != nil {
		return p, err
	}
	if p.tap, err = h.openTap(p.local); err != nil {
		return p, err
	}
	if p.ep, err = newEpoll(); err != nil {
		return p, err
	}
	var tapped int
	for _, s := range []struct {
		d  *descriptor
		fd *int
	}{{p.mh, &p.fds.mh}, {p.esp, &p.fds.esp}, {p.tap.d, &tapped}, {p.icmp, &p.fds.icmp}} {
		if s.d == nil {
			continue
		}
		if cerr := s.d.control(func(fd int) {
			*s.fd = fd
			receiveBuffer(fd, 4<<20)
			err = watchInput(p.ep, fd)
		}); cerr != nil || err != nil {
			return p, errors.Join(cerr, err)
		}
	}
	return p, nil
}

// deaf makes a socket that only sends receive nothing.
func deaf(fd int) error {
	nothing := unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K}
	return unix.SetsockoptSockFprog(fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &unix.SockFprog{Len: 1, Filter: &nothing})
}

// newEpoll makes an epoll descriptor. It is readable when a member is, so the Go runtime can wait on it like on a socket.
func newEpoll() (*descriptor, error) {
	fd, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return nil, err
	}
	if err := unix.SetNonblock(fd, true); err != nil {
		unix.Close(fd)
		return nil, err
	}
	return newDescriptor(fd, "epoll"), nil
}

// watchInput adds a file to an epoll descriptor.
func watchInput(ep *descriptor, fd int) (err error) {
	cerr := ep.control(func(e int) {
		err = unix.EpollCtl(e, unix.EPOLL_CTL_ADD, fd, &unix.EpollEvent{Events: unix.EPOLLIN, Fd: int32(fd)})
	})
	return errors.Join(cerr, err)
}

// poll drains what is readable until there is something to give or nothing to read. Who waits for the epoll descriptor is told of
// new packets only: those that were there and gave nothing must not leave others behind.
func poll(ep int, events []unix.EpollEvent, drain func(fd, n int) int) (n int, err error) {
	for n == 0 {
		k, err := unix.EpollWait(ep, events, 0)
		if err == unix.EINTR {
			continue
		}
		if err != nil || k == 0 {
			return n, err
		}
		for _, ev := range events[:k] {
			n += drain(int(ev.Fd), n)
		}
	}
	return n, nil
}

// Read waits for packets. One reader at a time.
func (p *IPPort) Read(into []core.Packet) (n int, err error) {
	if len(into) == 0 {
		return 0, nil
	}
	var werr error
	err = p.ep.wait(false, func(ep int) bool {
		n, werr = poll(ep, p.events[:], func(fd, n int) int { return p.drain(fd, into[n:]) })
		return n > 0 || werr != nil
	})
	err = cmp.Or(err, werr)
	if n > 0 {
		return n, nil
	}
	return 0, wrapPort("ip", err)
}

// drain reads what one socket has. An error is an ICMPv6 error about something that was sent, or a link that went down: read and
// gone.
func (p *IPPort) drain(fd int, into []core.Packet) (n int) {
	if len(into) == 0 {
		return 0
	}
	var from *descriptor
	var proto uint8
	switch fd {
	case p.fds.mh:
		from, proto = p.mh, protoMH
	case p.fds.esp:
		from, proto = p.esp, wireip.ESP
	case p.fds.icmp:
		from, proto = p.icmp, wireip.ICMPv6
	default:
		return p.tap.drain(into)
	}
	var got int
	var err error
	// Within control the number is still that file's, also while somebody closes the port.
	if cerr := from.control(func(fd int) { got, err = p.rx.recv(fd, len(into)) }); cerr != nil || err != nil {
		return 0
	}
	for i := range got {
		if p.take(proto, i, &into[n]) {
			n++
		}
	}
	return n
}

// take makes a packet of message i of a raw socket, if it is for us.
func (p *IPPort) take(proto uint8, i int, out *core.Packet) bool {
	m := &p.rx.msgs[i]
	h := wireip.Header{Src: netip.AddrFrom16((*unix.RawSockaddrInet6)(unsafe.Pointer(&p.rx.name[i])).Addr), Proto: proto}
	ifi := 0
	p.rx.control(i, func(level, kind int32, data []byte) {
		switch {
		case level != unix.IPPROTO_IPV6:
		case kind == unix.IPV6_PKTINFO && len(data) >= unix.SizeofInet6Pktinfo:
			info := (*unix.Inet6Pktinfo)(unsafe.Pointer(&data[0]))
			h.Dst, ifi = netip.AddrFrom16(info.Addr), int(info.Ifindex)
		case kind == unix.IPV6_HOPLIMIT && len(data) >= 4:
			h.TTL = uint8(native32(data))
		}
	})
	if !h.Dst.IsValid() || !p.local.wants(h.Dst) {
		p.foreign.Add(1)
		return false
	}
	// A Mobility Header that is cut is longer than any may be, and its parser says so; of ESP nothing could be verified.
	if m.hdr.Flags&unix.MSG_TRUNC != 0 && proto != protoMH {
		p.truncated.Add(1)
		return false
	}
	b, err := h.Append(out.B[:0], int(m.n))
	if err != nil {
		return false // the kernel gives no payload that long
	}
	b = append(b, p.rx.bufs[i][:m.n]...)
	*out = core.Packet{If: ifi, Src: netip.AddrPortFrom(h.Src, 0), Dst: netip.AddrPortFrom(h.Dst, 0), B: b}
	return true
}

// Write sends every packet that can be sent. It gives how many left and joins the errors of the others, each with its
// addresses.
func (p *IPPort) Write(pkts []core.Packet) (sent int, err error) {
	p.tx.Lock()
	defer p.tx.Unlock()
	var errs []error
	for i := range pkts {
		h, err := wireip.Parse(pkts[i].B)
		if err == nil && (h.Is4() || pkts[i].Outer.N != 0) {
			err = errors.ErrUnsupported
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("ip: a packet of %d octets, in %d tunnels: %w", len(pkts[i].B), pkts[i].Outer.N, err))
			continue
		}
		if err := p.send(&pkts[i], &h); err != nil {
			if errors.Is(err, net.ErrClosed) {
				return sent, err
			}
			errs = append(errs, err)
			continue
		}
		sent++
	}
	return sent, errors.Join(errs...)
}

// send writes one packet, in fragments if it needs.
func (p *IPPort) send(pkt *core.Packet, h *wireip.Header) error {
	ifi := pkt.If
	if h.Dst.IsLinkLocalUnicast() || h.Dst.IsMulticast() {
		if z := pkt.Dst.Addr().Zone(); z != "" && ifi == 0 {
			ifi, _ = strconv.Atoi(z)
		}
	} else if !p.byIf {
		ifi = 0 // the routing table decides: the link that a request came by may not be the way back
	}
	b := pkt.B[:h.Len]
	if len(b) <= sendMTU {
		return p.put(b, h, ifi)
	}
	f, err := wireip.NewFragmenter(b, sendMTU, rand.Uint32())
	if err != nil {
		return fmt.Errorf("ip: %s to %s: %w", h.Src, h.Dst, err)
	}
	for part, ok := f.Next(nil); ok; part, ok = f.Next(part[:0]) {
		if err := p.put(part, h, ifi); err != nil {
			return err
		}
	}
	return nil
}

// put writes one packet or fragment. The kernel takes the header as it is; source and link are told beside it, for its policy rules.
func (p *IPPort) put(b []byte, h *wireip.Header, ifi int) error {
	r := p.tx.ring
	to := (*unix.RawSockaddrInet6)(unsafe.Pointer(&r.name[0]))
	*to = unix.RawSockaddrInet6{Family: unix.AF_INET6, Addr: h.Dst.As16()}
	if h.Dst.IsLinkLocalUnicast() || h.Dst.IsMulticast() {
		to.Scope_id = uint32(ifi)
	}
	m := &r.msgs[0].hdr
	m.Namelen = unix.SizeofSockaddrInet6
	c := (*unix.Cmsghdr)(unsafe.Pointer(&r.ctrl[0][0]))
	c.Level, c.Type = unix.IPPROTO_IPV6, unix.IPV6_PKTINFO
	c.SetLen(unix.CmsgLen(unix.SizeofInet6Pktinfo))
	*(*unix.Inet6Pktinfo)(unsafe.Pointer(&r.ctrl[0][unix.CmsgLen(0)])) = unix.Inet6Pktinfo{Addr: h.Src.As16(), Ifindex: uint32(ifi)}
	m.SetControllen(unix.CmsgSpace(unix.SizeofInet6Pktinfo))
	r.point(0, b)
	var serr error
	err := p.out.wait(true, func(fd int) bool {
		// Beside a source the link in the control message is only a wish.
		if p.byIf && p.tx.bound != ifi {
			if serr = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_BINDTOIFINDEX, ifi); serr != nil {
				return true
			}
			p.tx.bound = ifi
		}
		_, serr = r.send(fd, 0, 1)
		return serr != unix.EAGAIN
	})
	if err != nil {
		return wrapPort("ip", err)
	}
	if serr != nil {
		return sendError("ip", h.Src, h.Dst, serr)
	}
	return nil
}

// Refuse tells the sender of a packet that its octet off is a Parameter Problem, as MHPort.Refuse does. B is the whole packet.
func (p *IPPort) Refuse(pkt *core.Packet, off int) error {
	h, err := wireip.ParseQuoted(pkt.B)
	if err != nil || h.Is4() {
		return nil // nobody to tell
	}
	return p.problem.tell(now().Boot, h.Src, h.Dst, pkt.If, pkt.B, off)
}

// SetLocal replaces the addresses of Options.Local: packets to others are not taken. None: every address of the host.
func (p *IPPort) SetLocal(local ...netip.Addr) error {
	p.local.set(local)
	return p.tap.table.Put(p.tap.rules(local))
}

// Stats of the port so far.
func (p *IPPort) Stats() PortStats {
	s := PortStats{Foreign: p.foreign.Load() + p.tap.foreign.Load(), Truncated: p.truncated.Load() + p.tap.truncated.Load(),
		Fragments: p.tap.refused.Load(), RateLimited: p.problem.limited.Load()}
	for _, d := range []*descriptor{p.mh, p.esp, p.icmp, p.tap.d} {
		if d == nil {
			continue
		}
		_ = d.control(func(fd int) { s.Overrun += drops(fd) })
	}
	return s
}

// Close ends Read and Write with net.ErrClosed. The kernel refuses again what was taken from it.
func (p *IPPort) Close() error {
	var errs []error
	if p.tap != nil {
		errs = append(errs, p.tap.Close())
	}
	for _, d := range []*descriptor{p.ep, p.mh, p.esp, p.icmp, p.out} {
		errs = append(errs, d.Close())
	}
	if p.local != nil {
		errs = append(errs, p.local.Close())
	}
	if p.problem != nil {
		errs = append(errs, p.problem.d.Close())
	}
	return errors.Join(errs...)
}
