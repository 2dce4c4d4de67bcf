package user

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"kedge/internal/dataplane"
	"kedge/internal/dataplane/mem"
	"kedge/wire"
	"kedge/wire/ip"
)

const (
	receiveBuffer = 8 << 20 // octets a socket queues while its goroutine works
	sendBuffer    = 4 << 20
	// sendWait is how long a full device queue may hold a goroutine up before the packet is dropped.
	sendWait = 100 * time.Millisecond
)

// opts sets integer socket options, each a level, a name and a value.
func opts(fd int, list ...[3]int) error {
	for _, o := range list {
		if err := unix.SetsockoptInt(fd, o[0], o[1], o[2]); err != nil {
			return fmt.Errorf("socket option %d of level %d: %w", o[1], o[0], err)
		}
	}
	return nil
}

// openCore opens the sockets of the tunnel side: of IPv6, and of IPv4 where there is an address of it, or may be.
func (p *Plane) openCore() (err error) {
	if p.out6, err = openOut(unix.AF_INET6); err != nil {
		return err
	}
	if p.out4, err = openOut(unix.AF_INET); err != nil {
		return err
	}
	if p.cfg.Straight {
		return p.openRaw(unix.AF_INET6, ip.ICMPv6, p.readErrors6)
	}
	four := p.cfg.Role == Node || slices.ContainsFunc(p.cfg.Local, netip.Addr.Is4)
	for _, proto := range []int{ip.IPv4, ip.IPv6, ip.GRE} {
		if err := p.openRaw(unix.AF_INET6, proto, func(s *socket) { p.readTunnel6(s, uint8(proto)) }); err != nil {
			return err
		}
		if four {
			if err := p.openRaw(unix.AF_INET, proto, p.readTunnel4); err != nil {
				return err
			}
		}
	}
	if err := p.openRaw(unix.AF_INET6, ip.ICMPv6, p.readErrors6); err != nil {
		return err
	}
	if four {
		if err := p.openRaw(unix.AF_INET, ip.ICMPv4, p.readErrors4); err != nil {
			return err
		}
	}
	switch {
	case p.cfg.Role == Anchor, p.cfg.Role == Gateway && p.cfg.UDP:
		for _, a := range p.cfg.Local {
			if err := p.openUDP(a, dataplane.PortUDP, p.readUDP); err != nil {
				return err
			}
		}
	case p.cfg.Role == Node:
		for _, a := range []netip.Addr{netip.IPv4Unspecified(), netip.IPv6Unspecified()} {
			if err := p.openUDP(a, dataplane.PortUDP, p.readUDP); err != nil {
				return err
			}
		}
	}
	if p.cfg.Security != nil {
		return p.openESP()
	}
	return nil
}

// openOut opens the socket that sends whole packets of a family.
func openOut(family int) (int, error) {
	fd, err := unix.Socket(family, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.IPPROTO_RAW) // which takes whole headers
	if err != nil {
		return -1, fmt.Errorf("data plane: raw socket: %w", err)
	}
	// PROBE: not the kernel's idea of the path MTU counts but the engine's.
	probe := [3]int{unix.IPPROTO_IPV6, unix.IPV6_MTU_DISCOVER, unix.IPV6_PMTUDISC_PROBE}
	if family == unix.AF_INET {
		probe = [3]int{unix.IPPROTO_IP, unix.IP_MTU_DISCOVER, unix.IP_PMTUDISC_PROBE}
	}
	err = opts(fd, [3]int{unix.SOL_SOCKET, unix.SO_SNDBUFFORCE, sendBuffer}, probe)
	if err == nil {
		tv := unix.NsecToTimeval(int64(sendWait))
		err = unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_SNDTIMEO, &tv)
	}
	if err != nil {
		unix.Close(fd)
		return -1, err
	}
	return fd, nil
}

// openRaw opens a receiving raw socket and starts its reader.
func (p *Plane) openRaw(family, proto int, read func(*socket)) error {
	fd, err := unix.Socket(family, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, proto)
	if err != nil {
		return fmt.Errorf("data plane: raw socket for protocol %d: %w", proto, err)
	}
	switch {
	case family == unix.AF_INET6:
		err = opts(fd, [3]int{unix.IPPROTO_IPV6, unix.IPV6_RECVPKTINFO, 1}, [3]int{unix.IPPROTO_IPV6, unix.IPV6_RECVTCLASS, 1})
		if err == nil && proto == ip.ICMPv6 {
			// A set bit blocks: only the errors pass (RFC 3542 3.2).
			f := unix.ICMPv6Filter{Data: [8]uint32{^uint32(0b11110), ^uint32(0), ^uint32(0), ^uint32(0), ^uint32(0), ^uint32(0), ^uint32(0), ^uint32(0)}}
			err = unix.SetsockoptICMPv6Filter(fd, unix.IPPROTO_ICMPV6, unix.ICMPV6_FILTER, &f)
		}
	case proto == ip.ICMPv4:
		// A set bit blocks here as well: unreachable and time exceeded pass.
		const filter, unreachable, exceeded = 1, 1 << 3, 1 << 11
		err = opts(fd, [3]int{unix.SOL_RAW, filter, int(^uint32(unreachable | exceeded))})
	}
	return p.startReader(fd, fmt.Sprintf("raw protocol %d", proto), err, read)
}

// openUDP opens the socket of packets in UDP to an address of this host, or to all of its family.
func (p *Plane) openUDP(a netip.Addr, port uint16, read func(*socket)) error {
	family, to := unix.AF_INET6, unix.Sockaddr(&unix.SockaddrInet6{Addr: a.As16(), Port: int(port)})
	// FREEBIND: duplicate address detection may be under way still.
	options := [][3]int{
		{unix.IPPROTO_IPV6, unix.IPV6_V6ONLY, 1}, {unix.IPPROTO_IPV6, unix.IPV6_FREEBIND, 1},
		{unix.IPPROTO_IPV6, unix.IPV6_RECVPKTINFO, 1}, {unix.IPPROTO_IPV6, unix.IPV6_RECVTCLASS, 1},
	}
	if a.Is4() {
		family, to = unix.AF_INET, &unix.SockaddrInet4{Addr: a.As4(), Port: int(port)}
		options = [][3]int{{unix.IPPROTO_IP, unix.IP_FREEBIND, 1}, {unix.IPPROTO_IP, unix.IP_PKTINFO, 1}, {unix.IPPROTO_IP, unix.IP_RECVTOS, 1}}
	}
	fd, err := unix.Socket(family, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return fmt.Errorf("data plane: UDP socket: %w", err)
	}
	at := netip.AddrPortFrom(a, port)
	if err = opts(fd, options...); err == nil {
		err = unix.Bind(fd, to)
		if errors.Is(err, unix.EADDRINUSE) {
			err = errInUse
		}
		if err != nil {
			err = fmt.Errorf("data plane: UDP %v: %w", at, err)
		}
	}
	if err == nil {
		err = p.offloadUDP(fd, family)
	}
	s, err := p.ready(fd, "UDP "+at.String(), err)
	if err != nil {
		return err
	}
	if s.fd, err = unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 0); err != nil {
		return fmt.Errorf("data plane: UDP %v: %w", at, err)
	}
	s.gro = p.gro
	p.udp[at] = s
	p.goes(func() { read(s) })
	return nil
}

var errFaster = errors.New("another way of forwarding takes packets in UDP before")

// offloadUDP lets a socket take and send several datagrams at once, as the engine would have made them.
func (p *Plane) offloadUDP(fd, family int) error {
	if p.cfg.Mirror != nil && family == unix.AF_INET {
		// The kernel would put together what is for the faster way, and not cut the super packets in UDP that come out of it.
		p.gro = false
		p.learn(CoalesceUDP, errFaster)
	} else {
		p.gro = p.try(CoalesceUDP, func() error { return opts(fd, [3]int{unix.IPPROTO_UDP, unix.UDP_GRO, 1}) })
	}
	p.segment.Store(p.try(SegmentUDP, func() error { return opts(fd, [3]int{unix.IPPROTO_UDP, unix.UDP_SEGMENT, 0}) }))
	if family == unix.AF_INET {
		return opts(fd, [3]int{unix.SOL_SOCKET, unix.SO_SNDBUFFORCE, sendBuffer},
			[3]int{unix.IPPROTO_IP, unix.IP_MTU_DISCOVER, unix.IP_PMTUDISC_PROBE}, [3]int{unix.IPPROTO_IP, unix.IP_TTL, hopLimit})
	}
	return opts(fd, [3]int{unix.SOL_SOCKET, unix.SO_SNDBUFFORCE, sendBuffer},
		[3]int{unix.IPPROTO_IPV6, unix.IPV6_MTU_DISCOVER, unix.IPV6_PMTUDISC_PROBE}, [3]int{unix.IPPROTO_IPV6, unix.IPV6_UNICAST_HOPS, hopLimit},
		[3]int{unix.IPPROTO_IPV6, unix.IPV6_AUTOFLOWLABEL, 0})
}

// ready makes a socket ready for its reader, or closes it if it could not be prepared.
func (p *Plane) ready(fd int, name string, err error) (*socket, error) {
	if err == nil {
		err = opts(fd, [3]int{unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, receiveBuffer})
	}
	if err != nil {
		unix.Close(fd)
		return nil, err
	}
	s, err := newSocket(fd, name)
	if err != nil {
		return nil, err
	}
	p.socks = append(p.socks, s)
	return s, nil
}

// startReader does so, and starts it.
func (p *Plane) startReader(fd int, name string, err error, read func(*socket)) error {
	s, err := p.ready(fd, name, err)
	if err == nil {
		p.goes(func() { read(s) })
	}
	return err
}

// read carries what a socket of the tunnel side gets to its end, batch by batch.
func (p *Plane) read(s *socket, each func(now time.Duration, i int, pkt []byte, out *mem.Out)) {
	out, b := new(mem.Out), p.newSendBatch()
	var cut []byte
	now := p.now()
	s.recv(func(i int, pkt []byte) {
		if i == 0 {
			now = p.now()
		}
		if s.truncated(i) {
			p.Count(wire.Malformed)
			return
		}
		size := 0
		if s.gro {
			size = s.sizes(i)
		}
		if inner, whole := uncut(pkt, size); whole {
			for {
				start, more := len(cut), false
				if cut, more = inner.Next(cut); !more {
					break
				}
				each(now, i, cut[start:len(cut):len(cut)], out)
			}
			size, pkt = 0, nil
		}
		for size > 0 && len(pkt) > size {
			each(now, i, pkt[:size:size], out)
			pkt = pkt[size:]
		}
		if pkt != nil {
			each(now, i, pkt, out)
		}
		if len(out.Packets) >= batchSize {
			_ = p.send(out, b) // counted
			out.Reset()
			cut = cut[:0]
		}
	}, func() {
		_ = p.send(out, b) // counted
		out.Reset()
		cut = cut[:0]
	}, func() { p.Count(wire.Malformed) })
}

// uncut reports whether what came as many datagrams, all but the last of size octets, is one: a super packet of UDP in UDP, which no link
// on the way had to cut. Then size is that of the inner segments.
func uncut(pkt []byte, size int) (ip.Segmenter, bool) {
	if size <= 0 || len(pkt) <= size {
		return ip.Segmenter{}, false
	}
	if h, err := ip.Parse(pkt); err != nil || h.Len != len(pkt) {
		return ip.Segmenter{}, false
	}
	s, err := ip.NewSegmenter(pkt, ip.GSOUDPL4, size)
	return s, err == nil
}

// readTunnel6 takes inner packets of one protocol, or what begins with a GRE header; the kernel has taken the outer headers off.
func (p *Plane) readTunnel6(s *socket, proto uint8) {
	p.read(s, func(now time.Duration, i int, pkt []byte, out *mem.Out) {
		local, tclass := s.control(i)
		o := mem.Outer{Local: netip.AddrPortFrom(local, 0), Remote: netip.AddrPortFrom(s.from(i).Addr(), 0), TOS: tclass, Proto: proto, Offload: true}
		p.Decapsulate(now, o, pkt, out)
	})
}

// readTunnel4 takes outer packets, which an IPv4 socket gives with their headers.
func (p *Plane) readTunnel4(s *socket) {
	p.read(s, func(now time.Duration, _ int, pkt []byte, out *mem.Out) {
		h, err := ip.Parse(pkt)
		if err != nil {
			p.Count(wire.Malformed)
			return
		}
		o := mem.Outer{Local: netip.AddrPortFrom(h.Dst, 0), Remote: netip.AddrPortFrom(h.Src, 0), TOS: h.TOS, Proto: h.Proto, Offload: true}
		p.Decapsulate(now, o, pkt[h.HdrLen:h.Len], out)
	})
}

func (p *Plane) readUDP(s *socket) {
	p.read(s, func(now time.Duration, i int, pkt []byte, out *mem.Out) {
		local, tclass := s.control(i)
		o := mem.Outer{Local: netip.AddrPortFrom(local, dataplane.PortUDP), Remote: s.from(i), TOS: tclass, Proto: ip.UDP, Offload: true}
		p.Decapsulate(now, o, pkt, out)
	})
}

func (p *Plane) readErrors6(s *socket) { // the kernel has verified the checksum
	p.read(s, func(now time.Duration, _ int, pkt []byte, out *mem.Out) { p.TunnelError(now, false, pkt, out) })
}

func (p *Plane) readErrors4(s *socket) {
	p.read(s, func(now time.Duration, _ int, pkt []byte, out *mem.Out) { p.Tunnel(now, pkt, out) })
}
