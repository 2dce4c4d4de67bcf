package user

import (
	"fmt"
	"sync/atomic"

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
	index atomic.Int32 // its present index, 0 = it is not there
	socks []*linkSocket
	undo  undo
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
	out, b := new(mem.Out), newSendBatch()
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
	}, func() {
		_ = p.send(out, b) // counted
		out.Reset()
	}, func() { p.Count(wire.Malformed) })
}
