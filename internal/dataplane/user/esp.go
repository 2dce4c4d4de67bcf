package user

import (
	"fmt"
	"net/netip"
	"slices"
	"time"

	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"

	"kedge/internal/dataplane/mem"
	"kedge/internal/ipsec"
	"kedge/wire"
	"kedge/wire/ip"
)

// openESP opens the sockets of protected data: raw ones for protocol 50, and UDP port 4500 (RFC 3948). The kernel is not asked to
// take the UDP header off (UDP_ENCAP): that hands ESP to its own associations, and has none of ours.
func (p *Plane) openESP() error {
	four := p.cfg.Role == Node || slices.ContainsFunc(p.cfg.Local, netip.Addr.Is4)
	if err := p.openRawESP(unix.AF_INET6, p.readESP6); err != nil {
		return err
	}
	if four {
		if err := p.openRawESP(unix.AF_INET, p.readESP4); err != nil {
			return err
		}
	}
	at := p.cfg.Local
	if p.cfg.Role == Node {
		at = []netip.Addr{netip.IPv4Unspecified(), netip.IPv6Unspecified()}
	}
	for _, a := range at {
		if err := p.openUDP(a, mem.PortESP, p.readUDPESP); err != nil {
			return err
		}
	}
	return nil
}

// dataSPIs passes ESP with an SPI of data only: each raw socket gets a copy of every packet, also of signalling's. An IPv4
// socket's filter sees the IP header, an IPv6 socket's does not.
func dataSPIs(family int) []bpf.Instruction {
	load := []bpf.Instruction{bpf.LoadAbsolute{Off: 0, Size: 4}}
	if family == unix.AF_INET {
		load = []bpf.Instruction{bpf.LoadMemShift{Off: 0}, bpf.LoadIndirect{Off: 0, Size: 4}}
	}
	return append(load,
		bpf.JumpIf{Cond: bpf.JumpBitsSet, Val: ipsec.DataSPI, SkipFalse: 1},
		bpf.RetConstant{Val: 1 << 18},
		bpf.RetConstant{Val: 0})
}

func (p *Plane) openRawESP(family int, read func(*socket)) error {
	fd, err := unix.Socket(family, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, ip.ESP)
	if err != nil {
		return fmt.Errorf("data plane: raw socket for protocol %d: %w", ip.ESP, err)
	}
	if family == unix.AF_INET6 {
		err = opts(fd, [3]int{unix.IPPROTO_IPV6, unix.IPV6_RECVPKTINFO, 1}, [3]int{unix.IPPROTO_IPV6, unix.IPV6_RECVTCLASS, 1})
	}
	if err == nil {
		err = attachFilter(fd, dataSPIs(family))
	}
	return p.startReader(fd, "raw ESP", err, read)
}

func attachFilter(fd int, prog []bpf.Instruction) error {
	raw, err := bpf.Assemble(prog)
	if err != nil {
		return err
	}
	f := make([]unix.SockFilter, len(raw))
	for i, r := range raw {
		f[i] = unix.SockFilter{Code: r.Op, Jt: r.Jt, Jf: r.Jf, K: r.K}
	}
	if err := unix.SetsockoptSockFprog(fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &unix.SockFprog{Len: uint16(len(f)), Filter: &f[0]}); err != nil {
		return fmt.Errorf("socket filter: %w", err)
	}
	return nil
}

func (p *Plane) readESP6(s *socket) {
	p.read(s, func(now time.Duration, i int, pkt []byte, out *mem.Out) {
		local, tclass := s.control(i)
		o := mem.Outer{Local: netip.AddrPortFrom(local, 0), Remote: netip.AddrPortFrom(s.from(i).Addr(), 0), TOS: tclass, Proto: ip.ESP}
		p.Decapsulate(now, o, pkt, out)
	})
}

func (p *Plane) readESP4(s *socket) {
	p.read(s, func(now time.Duration, _ int, pkt []byte, out *mem.Out) {
		h, err := ip.Parse(pkt)
		if err != nil {
			p.Count(wire.Malformed)
			return
		}
		o := mem.Outer{Local: netip.AddrPortFrom(h.Dst, 0), Remote: netip.AddrPortFrom(h.Src, 0), TOS: h.TOS, Proto: ip.ESP}
		p.Decapsulate(now, o, pkt[h.HdrLen:h.Len], out)
	})
}

func (p *Plane) readUDPESP(s *socket) {
	p.read(s, func(now time.Duration, i int, pkt []byte, out *mem.Out) {
		local, tclass := s.control(i)
		o := mem.Outer{Local: netip.AddrPortFrom(local, mem.PortESP), Remote: s.from(i), TOS: tclass, Proto: ip.ESP}
		p.Decapsulate(now, o, pkt, out)
	})
}
