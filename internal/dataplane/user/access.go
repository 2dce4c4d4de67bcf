package user

import (
	"errors"
	"fmt"
	"sync/atomic"
	"unsafe"

	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"

	"kedge/internal/core"
	"kedge/internal/dataplane/mem"
	"kedge/wire"
	"kedge/wire/ip"
)

const etherLen = 14

// onlyIP passes untagged IPv4 and IPv6 frames. The kernel takes VLAN tags out of frames, so one from another VLAN looks like ours
// but for this flag.
var onlyIP = []bpf.Instruction{
	bpf.LoadExtension{Num: bpf.ExtVLANTagPresent},
	bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: 0, SkipTrue: 4},
	bpf.LoadAbsolute{Off: 12, Size: 2},
	bpf.JumpIf{Cond: bpf.JumpEqual, Val: unix.ETH_P_IP, SkipTrue: 1},
	bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: unix.ETH_P_IPV6, SkipTrue: 1},
	bpf.RetConstant{Val: 1 << 18},
	bpf.RetConstant{Val: 0},
}

func htons(v uint16) uint16 { return v<<8 | v>>8 }

// openAccess opens a packet socket on each access link, and one to send on all.
func (p *Plane) openAccess(links []Link) (err error) {
	p.frames, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("data plane: packet socket: %w", err)
	}
	if err := opts(p.frames, [3]int{unix.SOL_SOCKET, unix.SO_SNDBUFFORCE, sendBuffer}); err != nil {
		return err
	}
	tv := unix.NsecToTimeval(int64(sendWait))
	if err := unix.SetsockoptTimeval(p.frames, unix.SOL_SOCKET, unix.SO_SNDTIMEO, &tv); err != nil {
		return err
	}
	p.vnet = p.try(FrameSuper, func() error { return opts(p.frames, [3]int{unix.SOL_PACKET, unix.PACKET_VNET_HDR, 1}) })
	if p.watch, err = openLinkWatch(); err != nil {
		return err
	}
	for _, l := range links {
		if err := p.openLink(p.links[l.If]); err != nil {
			return fmt.Errorf("data plane: access link %s: %w", l.Name, err)
		}
	}
	p.goes(p.followLinks)
	return nil
}

// accessLink is a link, by its name, and the socket on it.
type accessLink struct {
	Link
	follows bool         // its MTU is the interface's
	index   atomic.Int32 // its present index, 0 = it is not there
	socks   []*linkSocket
	undo    undo
}

// linkSocket is a packet socket on a link. One of all protocols gets a packet before the programs on the link's ingress see it, one
// of a single protocol what they let pass.
type linkSocket struct {
	*socket
	proto uint16
}

func (p *Plane) openLink(l *accessLink) error {
	protos := []uint16{unix.ETH_P_ALL}
	if p.cfg.AfterIngress {
		protos = []uint16{unix.ETH_P_IP, unix.ETH_P_IPV6}
	}
	for _, proto := range protos {
		if err := p.openLinkSocket(l, proto); err != nil {
			return err
		}
	}
	if err := p.takeLink(l, l.If); err != nil {
		return err
	}
	for _, s := range l.socks {
		p.goes(func() { p.readAccess(s.socket, l) })
	}
	return nil
}

func (p *Plane) openLinkSocket(l *accessLink, proto uint16) error {
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return err
	}
	if err := prepareSocket(fd); err != nil {
		unix.Close(fd)
		return err
	}
	s, err := newSocket(fd, l.Name)
	if err != nil {
		return err
	}
	p.socks, l.socks = append(p.socks, s), append(l.socks, &linkSocket{s, proto})
	return nil
}

// takeLink puts a link's socket on the interface that has its name now.
func (p *Plane) takeLink(l *accessLink, index int) error {
	for _, s := range [][2]string{
		{"ipv6/conf/" + l.Name + "/disable_ipv6", "1"}, {"ipv4/conf/" + l.Name + "/forwarding", "0"},
		{"ipv4/conf/" + l.Name + "/arp_ignore", "8"}, {"ipv4/conf/" + l.Name + "/rp_filter", "1"},
	} {
		if err := p.swapSysctl(&l.undo, s[0], s[1]); err != nil {
			return err
		}
	}
	for _, s := range l.socks {
		var err error
		if cerr := s.conn.Control(func(fd uintptr) { err = bindLink(int(fd), l.Link, index, s.proto) }); cerr != nil {
			return cerr
		}
		if err != nil {
			return err
		}
	}
	l.index.Store(int32(index))
	return nil
}

// prepareSocket sets what does not depend on an interface.
func prepareSocket(fd int) error {
	raw, err := bpf.Assemble(onlyIP)
	if err != nil {
		return err
	}
	code := make([]unix.SockFilter, len(raw))
	for i, r := range raw {
		code[i] = unix.SockFilter{Code: r.Op, Jt: r.Jt, Jf: r.Jf, K: r.K}
	}
	if err := unix.SetsockoptSockFprog(fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &unix.SockFprog{Len: uint16(len(code)), Filter: &code[0]}); err != nil {
		return fmt.Errorf("filter: %w", err)
	}
	return opts(fd,
		[3]int{unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, receiveBuffer},
		[3]int{unix.SOL_PACKET, unix.PACKET_VNET_HDR, 1},
		[3]int{unix.SOL_PACKET, unix.PACKET_IGNORE_OUTGOING, 1})
}

// bindLink makes the socket one of an interface. The memberships on a former one went with it.
func bindLink(fd int, l Link, index int, proto uint16) error {
	if err := unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: htons(proto), Ifindex: index}); err != nil {
		return fmt.Errorf("bind: %w", err)
	}
	// The interface takes frames to the router's MAC, whatever its own is, and all multicast: a host may first be seen by it.
	for _, m := range []unix.PacketMreq{
		{Ifindex: int32(index), Type: unix.PACKET_MR_UNICAST, Alen: 6, Address: [8]uint8{l.MAC[0], l.MAC[1], l.MAC[2], l.MAC[3], l.MAC[4], l.MAC[5]}},
		{Ifindex: int32(index), Type: unix.PACKET_MR_ALLMULTI},
	} {
		if err := unix.SetsockoptPacketMreq(fd, unix.SOL_PACKET, unix.PACKET_ADD_MEMBERSHIP, &m); err != nil {
			return fmt.Errorf("membership: %w", err)
		}
	}
	return nil
}

// readAccess takes the frames of one access link.
func (p *Plane) readAccess(s *socket, l *accessLink) {
	out, b := &mem.Out{Split: true}, p.newSendBatch()
	now := p.now()
	s.recv(func(i int, raw []byte) {
		if i == 0 {
			now = p.now()
		}
		if l.index.Load() == 0 { // the interface has another name now, or is about to go
			p.Count(wire.UnknownHost)
			return
		}
		if s.truncated(i) || len(raw) < ip.VNetLen+etherLen {
			p.Count(wire.Malformed)
			return
		}
		v, err := ip.ParseVNet(raw)
		if err != nil {
			p.Count(wire.Malformed)
			return
		}
		frame := raw[ip.VNetLen:]
		in := mem.Native{If: l.If, MAC: core.MAC(frame[6:12]), B: frame[etherLen:], VNet: v}
		in.VNet.CsumStart -= etherLen
		switch {
		case in.MAC[0]&1 != 0 || in.MAC == l.MAC: // no host has such an address
			p.Count(wire.WrongMAC)
		case core.MAC(frame[:6]) == l.MAC:
			p.Native(now, in, out)
		case frame[0]&1 != 0:
			p.Sighted(now, in, out)
		}
		if len(out.Packets) >= batchSize {
			_ = p.send(out, b) // counted
			out.Reset()
		}
	}, func() {
		_ = p.send(out, b) // counted
		out.Reset()
	}, func() { p.Count(wire.Malformed) })
}

// toHosts sends frames on access links, from the router's MAC.
func (p *Plane) toHosts(b *sendBatch, run []mem.Packet) (first error) {
	c := &b.gro
	for at := 0; at < len(run); {
		c.fill(run[at:min(at+batchSize, len(run))])
		r := run[at:]
		at += len(c.next)
		c.iovs = c.iovs[:0]
		for i := range c.supers {
			s := &c.supers[i]
			o := &r[s.first]
			l := p.links[o.If]
			var link [etherLen]byte
			copy(link[0:], o.MAC[:])
			copy(link[6:], l.MAC[:])
			link[12], link[13] = 0x86, 0xdd
			if is4(o.B) {
				link[12], link[13] = 0x08, 0x00
			}
			b.link[i] = unix.RawSockaddrLinklayer{
				Family: unix.AF_PACKET, Ifindex: l.index.Load(), Halen: uint8(len(core.MAC{})),
				Protocol: uint16(link[12]) | uint16(link[13])<<8, // network order
			}
			copy(b.link[i].Addr[:], o.MAC[:])
			b.starts[i] = len(c.iovs)
			c.message(s, r, link[:])
			if !p.vnet {
				c.iovs[b.starts[i]].Base = &s.head[ip.VNetLen]
				c.iovs[b.starts[i]].SetLen(etherLen)
			}
		}
		n := len(c.supers)
		b.starts[n] = len(c.iovs)
		for i := range n {
			h := &b.hdrs[i].hdr
			h.Name, h.Namelen = (*byte)(unsafe.Pointer(&b.link[i])), unix.SizeofSockaddrLinklayer
			h.Iov = &c.iovs[b.starts[i]]
			h.SetIovlen(b.starts[i+1] - b.starts[i])
			h.Control = nil
			h.SetControllen(0)
		}
		for i := 0; i < n; {
			sent, err := b.send(p.frames, i, n)
			if i += sent; err == nil || errors.Is(err, unix.EINTR) {
				continue
			}
			switch s := &c.supers[i]; {
			case s.n > 1 && errors.Is(err, unix.EINVAL):
				p.refuse(c, s.kind, err)
				err = p.toHostsSingly(b, s, i, r)
			case errors.Is(err, unix.EAGAIN):
				// A device stood still for sendWait. The others must not wait as long for each packet of a batch.
				for ; i < n; i++ {
					p.countFailed(c.supers[i].n, err)
				}
			default:
				p.countFailed(s.n, err)
			}
			if first == nil {
				first = err
			}
			i++
		}
	}
	return first
}

// toHostsSingly sends the packets of the i-th message one by one.
func (p *Plane) toHostsSingly(b *sendBatch, s *super, i int, run []mem.Packet) (first error) {
	var iovs [2]unix.Iovec
	h := &b.hdrs[i].hdr
	h.Iov = &iovs[0]
	h.SetIovlen(2)
	ip.VNet{}.Put(s.head[:], 0)
	iovs[0].Base = &s.head[0]
	iovs[0].SetLen(ip.VNetLen + etherLen)
	for j, n := s.first, s.n; n > 0; j, n = b.gro.next[j], n-1 {
		iovs[1].Base = &run[j].B[0]
		iovs[1].SetLen(len(run[j].B))
		if _, err := b.send(p.frames, i, i+1); err != nil {
			p.countFailed(1, err)
			if first == nil {
				first = err
			}
		}
	}
	return first
}

// countFailed counts packets that did not leave.
func (p *Plane) countFailed(n int, err error) {
	r := wire.SendFailed
	if errors.Is(err, unix.EMSGSIZE) {
		r = wire.TooBig
	}
	for range n {
		p.Count(r)
	}
}
