package user

import (
	"fmt"
	"net/netip"
	"sync"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"kedge/internal/core"
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

// openCore opens the sockets of the tunnel side.
func (p *Plane) openCore() (err error) {
	open := func(domain, proto int) (int, error) {
		fd, err := unix.Socket(domain, unix.SOCK_RAW|unix.SOCK_CLOEXEC, proto)
		if err != nil {
			return -1, fmt.Errorf("data plane: raw socket: %w", err)
		}
		if err := opts(fd, [3]int{unix.SOL_SOCKET, unix.SO_SNDBUFFORCE, sendBuffer}); err != nil {
			unix.Close(fd)
			return -1, err
		}
		tv := unix.NsecToTimeval(int64(sendWait))
		if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_SNDTIMEO, &tv); err != nil {
			unix.Close(fd)
			return -1, err
		}
		return fd, nil
	}
	if p.out6, err = open(unix.AF_INET6, unix.IPPROTO_RAW); err != nil {
		return err
	}
	// IPPROTO_RAW takes whole headers. PROBE: not the kernel's idea of the path MTU counts but the engine's.
	if err := opts(p.out6, [3]int{unix.IPPROTO_IPV6, unix.IPV6_MTU_DISCOVER, unix.IPV6_PMTUDISC_PROBE}); err != nil {
		return err
	}
	if p.out4, err = open(unix.AF_INET, unix.IPPROTO_RAW); err != nil {
		return err
	}
	for _, proto := range []int{ip.IPv4, ip.IPv6} {
		s, err := p.openRaw6(proto)
		if err != nil {
			return err
		}
		p.goes(func() { p.readTunnel(s, uint8(proto)) })
	}
	s, err := p.openRaw6(ip.ICMPv6)
	if err != nil {
		return err
	}
	p.goes(func() { p.readErrors(s) })
	return nil
}

func (p *Plane) openRaw6(proto int) (*socket, error) {
	fd, err := unix.Socket(unix.AF_INET6, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, proto)
	if err != nil {
		return nil, fmt.Errorf("data plane: raw socket for protocol %d: %w", proto, err)
	}
	err = opts(fd,
		[3]int{unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, receiveBuffer},
		[3]int{unix.IPPROTO_IPV6, unix.IPV6_RECVPKTINFO, 1},
		[3]int{unix.IPPROTO_IPV6, unix.IPV6_RECVTCLASS, 1})
	if err == nil && proto == ip.ICMPv6 {
		// A set bit blocks: only the errors pass (RFC 3542 3.2).
		f := unix.ICMPv6Filter{Data: [8]uint32{^uint32(0b11110), ^uint32(0), ^uint32(0), ^uint32(0), ^uint32(0), ^uint32(0), ^uint32(0), ^uint32(0)}}
		err = unix.SetsockoptICMPv6Filter(fd, unix.IPPROTO_ICMPV6, unix.ICMPV6_FILTER, &f)
	}
	if err != nil {
		unix.Close(fd)
		return nil, err
	}
	s, err := newSocket(fd, fmt.Sprintf("raw protocol %d", proto))
	if err != nil {
		return nil, err
	}
	p.socks = append(p.socks, s)
	return s, nil
}

// readTunnel takes inner packets of one protocol, whose outer headers the kernel has taken off.
func (p *Plane) readTunnel(s *socket, proto uint8) {
	out, b := new(mem.Out), newSendBatch()
	out.Reset()
	now := p.now()
	s.recv(func(i int, pkt []byte) {
		if i == 0 {
			now = p.now()
		}
		if s.truncated(i) {
			p.Count(wire.Malformed)
			return
		}
		local, tclass := s.control(i)
		p.Decapsulate(now, mem.Outer{Local: local, Remote: s.from(i), TOS: tclass, Proto: proto, Offload: true}, pkt, out)
	}, func() {
		p.send(out, b)
		out.Reset()
	}, func() { p.Count(wire.Malformed) })
}

func (p *Plane) readErrors(s *socket) {
	out, b := new(mem.Out), newSendBatch()
	s.recv(func(i int, pkt []byte) { p.TunnelError(p.now(), pkt, out) }, func() {
		p.send(out, b)
		out.Reset()
	}, func() { p.Count(wire.Malformed) })
}

// routes keeps the engine told what the routes to the remotes carry.
type routes struct {
	engine *mem.Engine
	nl     *netlink.Handle
	again  chan struct{}
	stop   chan struct{}
	once   sync.Once

	mu    sync.Mutex // guards the handle and known
	known map[[2]netip.Addr]bool
}

const lookEvery = time.Minute

func openRoutes(e *mem.Engine) (*routes, error) {
	nl, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return nil, fmt.Errorf("data plane: netlink: %w", err)
	}
	return &routes{engine: e, nl: nl, again: make(chan struct{}, 1), stop: make(chan struct{}), known: map[[2]netip.Addr]bool{}}, nil
}

// look asks for the tunnels of ops that are new. A nil routes is that of a fixed MTU.
func (r *routes) look(ops []core.Op) {
	if r == nil {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, op := range ops {
		if s, ok := op.(core.SetSession); ok && s.Chain.N == 1 {
			t := [2]netip.Addr{s.Chain.Layer[0].Local.Addr(), s.Chain.Layer[0].Remote.Addr()}
			if !r.known[t] {
				r.ask(t)
				r.known[t] = true
			}
		}
	}
}

// ask looks one route up: what its interface carries, and what the route itself says.
func (r *routes) ask(t [2]netip.Addr) {
	if !t[0].Is6() || !t[1].Is6() {
		return
	}
	found, err := r.nl.RouteGet(t[1].AsSlice())
	if err != nil || len(found) == 0 {
		return // no route now: the next look may find one
	}
	mtu := found[0].MTU
	if l, err := r.nl.LinkByIndex(found[0].LinkIndex); err == nil && (mtu == 0 || l.Attrs().MTU < mtu) {
		mtu = l.Attrs().MTU
	}
	r.engine.SetPathMTU(t[0], t[1], min(mtu, ip.MaxPacket))
}

// lookAgain makes run look at all tunnels soon.
func (r *routes) lookAgain() {
	if r == nil {
		return
	}
	select {
	case r.again <- struct{}{}:
	default:
	}
}

func (r *routes) run() {
	tick := time.NewTicker(lookEvery)
	defer tick.Stop()
	for {
		select {
		case <-r.stop:
			return
		case <-tick.C:
		case <-r.again:
		}
		r.mu.Lock()
		clear(r.known)
		for _, t := range r.engine.Tunnels() {
			r.ask(t)
			r.known[t] = true
		}
		r.mu.Unlock()
	}
}

func (r *routes) close() {
	if r != nil {
		r.once.Do(func() { close(r.stop) })
		r.mu.Lock()
		r.nl.Close()
		r.mu.Unlock()
	}
}
