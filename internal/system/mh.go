package system

import (
	"errors"
	"fmt"
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

// protoMH is the Mobility Header's next header value (RFC 6275 6.1.1).
const protoMH = 135

// maxMH is the buffer for one Mobility Header. Its length field allows 2,048 octets (RFC 6275 6.1.1); what is longer is
// given to the parser with more than that, so that it is refused there with a reason.
const maxMH = 2048 + 64

// MHPort is the "mh" port: Mobility Header messages over IPv6. A Packet's B is the header without the IPv6 one, Src and Dst
// are the addresses (ports 0), If the link that it came by. On Write, Src chooses the source address and If, if not 0, the
// link; both must be this host's.
type MHPort struct {
	d     *descriptor
	local map[netip.Addr]bool

	rx *ring
	tx struct {
		sync.Mutex
		*ring
	}
	foreign atomic.Uint64
	problem *problems
}

// rawSocket opens a raw IPv6 socket for a protocol that tells the destination address of what it gives. The kernel verifies the
// Mobility Header's checksum by itself and drops what fails, unseen; that is switched off (IPV6_CHECKSUM -1), so that a wrong
// checksum is our parser's to refuse and to count, and the checksum that our builder wrote is what leaves.
func rawSocket(proto int) (int, error) {
	fd, err := unix.Socket(unix.AF_INET6, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, proto)
	if err != nil {
		return -1, &hinted{fmt.Errorf("raw socket for protocol %d: %w", proto, err), "run with CAP_NET_RAW"}
	}
	for _, o := range []struct {
		name string
		opt  int
		val  int
	}{{"IPV6_CHECKSUM", unix.IPV6_CHECKSUM, -1}, {"IPV6_RECVPKTINFO", unix.IPV6_RECVPKTINFO, 1}, {"IPV6_RECVHOPLIMIT", unix.IPV6_RECVHOPLIMIT, 1}} {
		if err := unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, o.opt, o.val); err != nil {
			unix.Close(fd)
			return -1, fmt.Errorf("%s: %w", o.name, err)
		}
	}
	if proto == wireip.ESP {
		filter, err := espFilter()
		if err == nil {
			err = attach(fd, filter)
		}
		if err != nil {
			unix.Close(fd)
			return -1, fmt.Errorf("filter of protocol %d: %w", proto, err)
		}
	}
	if v, err := unix.GetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_CHECKSUM); err != nil || v >= 0 {
		unix.Close(fd)
		return -1, fmt.Errorf("IPV6_CHECKSUM is %d after setting it to -1 (%v): the kernel would hide bad checksums", v, err)
	}
	return fd, nil
}

// openMH opens the port.
func openMH(local []netip.Addr) (*MHPort, error) {
	if len(local) == 0 {
		return nil, &hinted{errors.New("no local address given"), "an mh port needs the addresses of the anchor or gateway"}
	}
	fd, err := rawSocket(protoMH)
	if err != nil {
		return nil, err
	}
	receiveBuffer(fd, 4<<20)
	problem, err := openProblems()
	if err != nil {
		unix.Close(fd)
		return nil, err
	}
	p := &MHPort{d: newDescriptor(fd, "mh"), local: make(map[netip.Addr]bool), rx: newRing(maxMH), problem: problem}
	p.tx.ring = newRing(0)
	for _, a := range local {
		p.local[a.WithZone("")] = true
	}
	return p, nil
}

// Read waits for messages to the port's addresses. One reader at a time.
func (p *MHPort) Read(into []core.Packet) (n int, err error) {
	if len(into) == 0 {
		return 0, nil
	}
	err = p.d.wait(false, func(fd int) bool {
		for n == 0 {
			got, rerr := p.rx.recv(fd, len(into))
			if rerr == unix.EAGAIN {
				return false
			}
			if rerr != nil { // an ICMPv6 error about something we sent is queued as an error of the socket: not news here
				if transient(rerr) {
					continue
				}
				err = rerr
				return true
			}
			for i := range got {
				if p.take(i, &into[n]) {
					n++
				}
			}
		}
		return true
	})
	if n > 0 {
		return n, nil
	}
	return 0, wrapPort("mh", err)
}

// take copies message i out, if it is for us.
func (p *MHPort) take(i int, out *core.Packet) bool {
	m := &p.rx.msgs[i]
	from := (*unix.RawSockaddrInet6)(unsafe.Pointer(&p.rx.name[i]))
	src := netip.AddrFrom16(from.Addr)
	var dst netip.Addr
	ifi := 0
	p.rx.control(i, func(level, kind int32, data []byte) {
		if level == unix.IPPROTO_IPV6 && kind == unix.IPV6_PKTINFO && len(data) >= unix.SizeofInet6Pktinfo {
			info := (*unix.Inet6Pktinfo)(unsafe.Pointer(&data[0]))
			dst, ifi = netip.AddrFrom16(info.Addr), int(info.Ifindex)
		}
	})
	if !p.local[dst] {
		p.foreign.Add(1)
		return false
	}
	b := append(out.B[:0], p.rx.bufs[i][:m.n]...)
	*out = core.Packet{If: ifi, Src: netip.AddrPortFrom(src, 0), Dst: netip.AddrPortFrom(dst, 0), B: b}
	return true
}

// transient errors of a socket concern one packet, not the socket.
func transient(err error) bool {
	switch err {
	case unix.ENETUNREACH, unix.EHOSTUNREACH, unix.ECONNREFUSED, unix.EPROTO, unix.EMSGSIZE, unix.EACCES, unix.ENETDOWN, unix.ENOBUFS,
		unix.EHOSTDOWN, unix.EOPNOTSUPP, unix.ENOPROTOOPT, unix.ENONET:
		return true
	}
	return false
}

// Write sends every packet that can be sent. It gives how many left and joins the errors of the others, each with its
// addresses.
func (p *MHPort) Write(pkts []core.Packet) (sent int, err error) {
	p.tx.Lock()
	defer p.tx.Unlock()
	return inBatches(pkts, p.writeBatch)
}

func (p *MHPort) writeBatch(pkts []core.Packet) (sent int, err error) {
	var errs []error
	var which [batchMax]int // message in the ring -> packet
	n := 0
	for i := range pkts {
		if err := p.put(n, &pkts[i]); err != nil {
			errs = append(errs, err)
			continue
		}
		which[n] = i
		n++
	}
	at := 0
	err = p.d.wait(true, func(fd int) bool {
		for at < n {
			k, serr := p.tx.send(fd, at, n)
			at, sent = at+k, sent+k
			if serr == unix.EAGAIN {
				return false
			}
			if serr != nil { // of the message at the front; the others go on
				errs = append(errs, sendError("mh", pkts[which[at]].Src.Addr(), pkts[which[at]].Dst.Addr(), serr))
				at++
			}
		}
		return true
	})
	if err != nil {
		errs = append(errs, wrapPort("mh", err))
	}
	return sent, errors.Join(errs...)
}

// sendError names a packet that did not leave.
func sendError(port string, src, dst netip.Addr, err error) error {
	hint := ""
	switch err {
	case unix.EINVAL, unix.EADDRNOTAVAIL:
		hint = ": " + src.String() + " must be an address of this host"
	case unix.ENETUNREACH:
		hint = ": there is no route to it"
	case unix.EPERM:
		hint = ": a packet filter of this host refuses it"
	}
	return fmt.Errorf("%s: %s to %s: %w%s", port, src, dst, err, hint)
}

// put fills message i of the ring.
func (p *MHPort) put(i int, pkt *core.Packet) error {
	src, dst := pkt.Src.Addr(), pkt.Dst.Addr()
	if pkt.Outer.N != 0 {
		return fmt.Errorf("mh: to %s: %w: signalling in a tunnel", dst, errors.ErrUnsupported)
	}
	if !dst.Is6() || dst.Is4In6() || !src.Is6() || src.Is4In6() || len(pkt.B) == 0 {
		return fmt.Errorf("mh: %s to %s, %d octets: want IPv6 addresses and a message", src, dst, len(pkt.B))
	}
	r := p.tx.ring
	to := (*unix.RawSockaddrInet6)(unsafe.Pointer(&r.name[i]))
	*to = unix.RawSockaddrInet6{Family: unix.AF_INET6, Addr: dst.As16()}
	ifi := pkt.If
	if dst.IsLinkLocalUnicast() || dst.IsMulticast() {
		if z := dst.Zone(); z != "" && ifi == 0 {
			ifi, _ = strconv.Atoi(z)
		}
		to.Scope_id = uint32(ifi)
	} else {
		ifi = 0 // the routing table decides: the link that a request came by may not be the way back
	}
	h := &r.msgs[i].hdr
	h.Namelen = unix.SizeofSockaddrInet6
	c := (*unix.Cmsghdr)(unsafe.Pointer(&r.ctrl[i][0]))
	c.Level, c.Type = unix.IPPROTO_IPV6, unix.IPV6_PKTINFO
	c.SetLen(unix.CmsgLen(unix.SizeofInet6Pktinfo))
	info := (*unix.Inet6Pktinfo)(unsafe.Pointer(&r.ctrl[i][unix.CmsgLen(0)]))
	*info = unix.Inet6Pktinfo{Addr: src.As16(), Ifindex: uint32(ifi)}
	h.SetControllen(unix.CmsgSpace(unix.SizeofInet6Pktinfo))
	r.point(i, pkt.B)
	return nil
}

// Close ends Read and Write with net.ErrClosed.
func (p *MHPort) Close() error {
	return errors.Join(p.d.Close(), p.problem.d.Close())
}

// Refuse tells the sender of a message that its octet off is a Parameter Problem (RFC 6275 9.2, RFC 4443 3.4), unless RFC 4443
// 2.4 forbids that or too many were sent: RateLimited counts those. It does not block.
func (p *MHPort) Refuse(pkt *core.Packet, off int) error { return p.problem.send(now().Boot, pkt, off) }

// PortStats counts what a port did not deliver.
type PortStats struct {
	Overrun     uint64 // dropped by the kernel because nobody read, or ICMPv6 with a wrong checksum
	Foreign     uint64 // left out: not to an address of the port
	Truncated   uint64 // left out: longer than the buffer
	Fragments   uint64 // left out: fragments that no packet could come of
	RateLimited uint64 // Parameter Problems not sent
}

// Stats of the port so far.
func (p *MHPort) Stats() PortStats {
	s := PortStats{Foreign: p.foreign.Load(), RateLimited: p.problem.limited.Load()}
	_ = p.d.control(func(fd int) { s.Overrun = drops(fd) })
	return s
}

func wrapPort(kind string, err error) error {
	if err == nil || errors.Is(err, net.ErrClosed) {
		return err
	}
	return fmt.Errorf("%s port: %w", kind, err)
}

// unspecified is a local address for a port that is only tried out.
var unspecified = []netip.Addr{netip.IPv6Unspecified()}
