package user

import (
	"encoding/binary"
	"errors"
	"fmt"
	"iter"
	"net"
	"net/netip"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"time"
	"unsafe"

	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"

	"kedge/internal/core"
	"kedge/internal/dataplane"
	"kedge/internal/dataplane/mem"
	"kedge/internal/ipsec"
	"kedge/internal/nftmatch"
	"kedge/wire"
	"kedge/wire/ip"
)

// straight takes data that comes without a tunnel (RFC 6275): at a correspondent with a Home Address option, at a node with a type 2
// routing header, and with an option as well if the other end is mobile too; at home, with that alone. The kernel refuses both, so a
// packet socket copies them before it looks, and rules (Config.taken) drop them where it would go on. Both are there only while a session
// of route optimization is, or as long as the plane if it is a correspondent's: who knows no binding has to say so (RFC 6275 9.3.1).
//
// Signalling is left alone: Mobility Headers, prefix discovery, and ESP that has no SPI of data and, at a node, comes from an anchor. A
// host that is a correspondent and nothing else has no such ESP: all that comes is its applications'.
type straight struct {
	plane *Plane
	ns    *os.File                                                           // the plane's network namespace
	rules func(string, func(*nftmatch.Rules) error) (*nftmatch.Table, error) // nftmatch.Open

	on     atomic.Bool
	mu     sync.Mutex // guards what follows
	sock   *socket
	table  *nftmatch.Table
	homes  []netip.Addr // that the table knows
	closed bool
}

func newStraight(p *Plane) (*straight, error) {
	ns, err := os.Open("/proc/thread-self/ns/net")
	if err != nil {
		return nil, fmt.Errorf("data plane: %w", err)
	}
	if p.cfg.Role != Gateway {
		_, _ = nftmatch.Sweep(straightName(p.cfg.Device)) // of an earlier process of this device, if it was killed
	}
	return &straight{plane: p, ns: ns, rules: nftmatch.Open}, nil
}

// needed reports whether an op makes a session of route optimization. On a gateway the engine refuses it.
func (s *straight) needed(op core.Op) bool {
	set, ok := op.(core.SetSession)
	return ok && set.Chain.RO != 0 && s.plane.cfg.Role != Gateway
}

// begin opens at once what a correspondent needs.
func (s *straight) begin() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.plane.cfg.Correspondent || s.plane.cfg.Role == Gateway {
		return nil
	}
	if err := s.open(s.plane.goes); err != nil {
		return fmt.Errorf("data plane: correspondent: %w", err)
	}
	return nil
}

// update is the plane's Update. A session of route optimization is refused where its packets could not be taken.
func (s *straight) update(ops []core.Op) error {
	at := slices.IndexFunc(ops, s.needed)
	if at < 0 && !s.on.Load() {
		return s.plane.Engine.Update(ops)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	defer s.settle()
	if at >= 0 {
		if fault := s.open(s.plane.done.Go); fault != nil {
			if err := s.plane.Engine.Update(ops[:at]); err != nil {
				return err
			}
			return &core.OpError{Index: at, Err: refusal(ops[at], fault)}
		}
	}
	return s.plane.Engine.Update(ops)
}

// sync is the plane's Sync.
func (s *straight) sync(all iter.Seq[core.Op]) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	defer s.settle()
	var fault error
	err := s.plane.Engine.Sync(func(yield func(core.Op) bool) {
		for op := range all {
			if s.needed(op) {
				if err := s.open(s.plane.done.Go); err != nil {
					fault = refusal(op, err)
					yield(core.Drop{}) // which Sync refuses, so that nothing is removed
					return
				}
			}
			if !yield(op) {
				return
			}
		}
	})
	var at *core.OpError
	if fault != nil && errors.As(err, &at) {
		at.Err = fault
	}
	return err
}

func refusal(op core.Op, err error) error {
	return fmt.Errorf("session %d: route optimization: %w: %w", op.(core.SetSession).ID, wire.ForwardingFailed, err)
}

// open is called with mu held, as what follows. run is what reads then.
func (s *straight) open(run func(func())) (err error) {
	if s.closed {
		return net.ErrClosed
	}
	if s.on.Load() {
		return nil
	}
	opened := make(chan error)
	go func() {
		enter(s.ns)
		opened <- s.openHere()
	}()
	if err := <-opened; err != nil {
		return err
	}
	s.on.Store(true)
	sock := s.sock
	run(func() { s.read(sock) })
	return nil
}

// openHere puts the rules up first: what comes in between is lost, and not refused.
func (s *straight) openHere() (err error) {
	c := &s.plane.cfg
	s.homes = s.plane.HomeAddresses()
	if s.table, err = s.rules(straightName(c.Device), c.taken(s.homes)); err != nil {
		return fmt.Errorf("%w: %s", err, nftmatch.Lacking)
	}
	if s.sock, err = openStraightSocket(); err != nil {
		return errors.Join(err, s.table.Close())
	}
	return nil
}

// settle closes what no session needs any more.
func (s *straight) settle() {
	if !s.on.Load() {
		return
	}
	if s.plane.Optimized() == 0 && !s.plane.cfg.Correspondent {
		s.shut()
		return
	}
	if s.plane.cfg.Role != Node {
		return // its table has all addresses
	}
	homes := s.plane.HomeAddresses()
	if slices.Equal(s.homes, homes) {
		return
	}
	s.homes = homes
	if err := s.table.Put(s.plane.cfg.taken(homes)); err != nil {
		s.plane.fail(fmt.Errorf("data plane: route optimization: %w", err))
	}
}

func (s *straight) shut() {
	s.on.Store(false)
	s.sock.Close()
	if err := s.table.Close(); err != nil {
		s.plane.fail(fmt.Errorf("data plane: route optimization: %w", err))
	}
	s.sock, s.table = nil, nil
}

func (s *straight) close() {
	if s == nil {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
	if s.on.Load() {
		s.shut()
	}
	s.ns.Close()
}

// openStraightSocket opens a packet socket of all links. It queues nothing that the filter has not seen.
func openStraightSocket() (*socket, error) {
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return nil, fmt.Errorf("packet socket: %w", err)
	}
	err = attachFilter(fd, straightFilter)
	if err == nil {
		err = opts(fd, [3]int{unix.SOL_PACKET, unix.PACKET_VNET_HDR, 1}, [3]int{unix.SOL_PACKET, unix.PACKET_AUXDATA, 1},
			[3]int{unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, receiveBuffer})
	}
	if err == nil {
		err = unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: htons(unix.ETH_P_IPV6)})
	}
	if err != nil {
		unix.Close(fd)
		return nil, err
	}
	return newSocket(fd, "route optimization")
}

// straightFilter lets pass what has Destination Options or a routing header, at once or behind Hop-by-Hop Options, for one destination.
// Offsets count from the IPv6 header, whatever the link has before it.
var straightFilter = []bpf.Instruction{
	bpf.LoadAbsolute{Off: network + 24, Size: 1},
	bpf.JumpIf{Cond: bpf.JumpEqual, Val: 0xff, SkipTrue: 8}, // multicast
	bpf.LoadAbsolute{Off: network + 6, Size: 1},
	bpf.JumpIf{Cond: bpf.JumpEqual, Val: ip.DstOpts, SkipTrue: 5},
	bpf.JumpIf{Cond: bpf.JumpEqual, Val: ip.Routing, SkipTrue: 4},
	bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: ip.HopByHop, SkipTrue: 4},
	bpf.LoadAbsolute{Off: network + ip.IPv6Len, Size: 1},
	bpf.JumpIf{Cond: bpf.JumpEqual, Val: ip.DstOpts, SkipTrue: 1},
	bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: ip.Routing, SkipTrue: 1},
	bpf.RetConstant{Val: 1 << 18},
	bpf.RetConstant{Val: 0},
}

const network = 0xfff00000 // SKF_NET_OFF

// header is how many octets the link has before the i-th packet of a packet socket, as its auxiliary data says; -1 if it doesn't.
func (s *socket) header(i int) int {
	h := (*unix.Cmsghdr)(unsafe.Pointer(&s.ctrls[i]))
	if s.hdrs[i].hdr.Controllen < uint64(unix.CmsgLen(int(unsafe.Sizeof(unix.TpacketAuxdata{})))) || h.Level != unix.SOL_PACKET || h.Type != unix.PACKET_AUXDATA {
		return -1
	}
	return int((*unix.TpacketAuxdata)(unsafe.Pointer(&s.ctrls[i][unix.CmsgLen(0)])).Net)
}

// read gives the engine what it takes. Other packets are the kernel's.
func (s *straight) read(sock *socket) {
	p := s.plane
	p.read(sock, func(now time.Duration, i int, raw []byte, out *mem.Out) {
		if (*unix.RawSockaddrLinklayer)(unsafe.Pointer(&sock.names[i])).Pkttype != unix.PACKET_HOST {
			return
		}
		v, err := ip.ParseVNet(raw)
		link := sock.header(i)
		if err != nil || link < 0 || ip.VNetLen+link > len(raw) {
			p.Count(wire.Malformed)
			return
		}
		v.CsumStart -= link
		pkt := raw[ip.VNetLen+link:]
		if !s.takes(pkt) {
			return
		}
		// What a kernel that knows the headers left to devices, beside which there may have been none.
		if v.NeedsChecksum && v.Type == ip.GSONone && ip.CompleteChecksum(pkt, v.CsumStart, v.CsumOffset) != nil {
			p.Count(wire.Malformed)
			return
		}
		n := len(out.Packets)
		p.Tunnel(now, pkt, out)
		if v.Type != ip.GSONone && len(out.Packets) == n+1 && out.Packets[n].To == dataplane.ToNative {
			p.split(out, v)
		}
	})
}

// split cuts a super packet, which has its home address back by now.
func (p *Plane) split(out *mem.Out, v ip.VNet) {
	super := out.Packets[len(out.Packets)-1]
	out.Packets = out.Packets[:len(out.Packets)-1]
	segments, err := ip.NewSegmenter(super.B, v.Type, v.Size)
	if err != nil {
		p.Count(wire.Malformed)
		return
	}
	for b, ok := segments.Next(nil); ok; b, ok = segments.Next(nil) {
		out.Packets = append(out.Packets, mem.Packet{To: super.To, B: b})
	}
}

// takes reports whether a packet is data of route optimization for this node, whatever the engine will say of it.
func (s *straight) takes(b []byte) bool {
	p := s.plane
	h, err := ip.Parse(b)
	if err != nil || h.Is4() {
		return false
	}
	sig, err := ip.ParseSignal(b[:h.Len])
	routing, option := mem.Optimizing(b[:h.Len], &sig, err)
	switch {
	case routing && p.cfg.Role == Node:
		if !p.OptimizedAt(h.Dst) {
			return false
		}
	case !sig.SrcHome.IsValid() && !option, !p.HomeAddressAt(h.Dst):
		return false
	}
	if err == nil && sig.Signalling(b) {
		return false
	}
	return err != nil || sig.Proto != ip.ESP || !s.signals(b[:h.Len], &sig)
}

// signals reports whether ESP is that of signalling. Of its later fragments nobody can tell: they wait in vain for a first one.
func (s *straight) signals(b []byte, sig *ip.Signal) bool {
	later := sig.Fragment && binary.BigEndian.Uint16(b[sig.Off-6:])&^7 != 0
	if later || sig.Off+4 > len(b) || binary.BigEndian.Uint32(b[sig.Off:])&ipsec.DataSPI != 0 {
		return false
	}
	c := &s.plane.cfg
	return c.Role == Anchor && !c.Straight || c.Role == Node && (len(c.Anchors) == 0 || slices.Contains(c.Anchors, sig.Src))
}
