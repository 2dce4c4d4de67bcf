// Package kernel puts a back end among real interfaces for the conformance suite: the router in a network namespace, its neighbours
// played by packet sockets at the other ends of its links. It needs root, and is for tests only.
package kernel

import (
	"bytes"
	"encoding/binary"
	"errors"
	"iter"
	"net"
	"net/netip"
	"os"
	"runtime"
	"sync/atomic"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"kedge/internal/core"
	"kedge/internal/dataplane"
	"kedge/internal/dataplane/conformance"
	"kedge/internal/dataplane/mem"
	"kedge/wire"
	"kedge/wire/ip"
)

// Config of the back end under test.
type Config struct {
	conformance.Options
	Local  []netip.Addr
	Access []dataplane.Link
	Now    func() time.Duration
	// Security is that of package conformance, or nil. Queues of a TUN device; 0 is for the test to choose.
	Security mem.Security
	Queues   int
}

// Plane is a back end. If it has a method Ticked, that is called when Now has moved on.
type Plane interface {
	core.Dataplane
	Device() string
	Dropped(wire.Reason) uint64
	Keepalives() uint64
	Signal() core.Port
	SignalsWaiting() int
}

// Markers is the first of the session ids that the harness uses itself: their packets show that all before them have passed.
const Markers core.ID = 1 << 40

// Factory makes routers of what open opens, for conformance.Run.
func Factory(open func(Config) (Plane, error)) conformance.Factory {
	return func(t *testing.T, o conformance.Options) conformance.Router { return newRouter(t, o, open) }
}

// router is a plane in a namespace of its own.
type router struct {
	Plane
	t        *testing.T
	o        conformance.Options
	clock    atomic.Int64
	native   []*Wire // anchor: one; gateway: links 1 and 2; node: its device
	core     *Wire
	marks    uint32
	got      []conformance.Packet
	icmpSent map[bool]bool // by "is IPv4": since the last Drain
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// Namespaces makes two, and leaves the thread in the router's until the test ends.
func Namespaces(t *testing.T) (outside, inside netns.NsHandle) {
	t.Helper()
	runtime.LockOSThread()
	home, err := netns.Get()
	must(t, err)
	outside, err = netns.New()
	if err != nil {
		t.Fatalf("network namespaces are needed, and root: %v", err)
	}
	inside, err = netns.New()
	must(t, err)
	t.Cleanup(func() {
		must(t, netns.Set(home))
		for _, n := range []netns.NsHandle{home, outside, inside} {
			n.Close()
		}
		runtime.UnlockOSThread()
	})
	return outside, inside
}

func sysctl(t *testing.T, name, value string) {
	t.Helper()
	must(t, os.WriteFile("/proc/sys/net/"+name, []byte(value), 0))
}

func newRouter(t *testing.T, o conformance.Options, open func(Config) (Plane, error)) conformance.Router {
	outside, inside := Namespaces(t)
	r := &router{t: t, o: o, icmpSent: map[bool]bool{}}
	r.clock.Store(int64(time.Hour))
	for _, s := range [][2]string{
		{"ipv4/conf/all/rp_filter", "0"}, {"ipv4/conf/default/rp_filter", "0"}, {"ipv4/ip_forward", "1"}, {"ipv6/conf/all/forwarding", "1"},
		{"ipv4/icmp_ratemask", "0"}, {"ipv6/icmp/ratelimit", "0"},
	} {
		sysctl(t, s[0], s[1])
	}
	lo, err := netlink.LinkByName("lo")
	must(t, err)
	must(t, netlink.LinkSetUp(lo))
	cfg := Config{Options: o, Now: func() time.Duration { return time.Duration(r.clock.Load()) }}
	if o.Secured {
		cfg.Security = conformance.Security(t, o.Role == dataplane.Anchor)
	}
	r.core = Link(t, outside, inside, "core0")
	r.core.neighbour(t, conformance.LMAA.Next(), conformance.CoA2, conformance.Alien, conformance.Alien4, conformance.NAT4, markGW, markGW4)
	var own []netip.Addr
	switch o.Role {
	case dataplane.Node: // its care-of addresses are on the link, and nothing else is
		own = []netip.Addr{conformance.CoA1, conformance.CoA4}
		r.core.neighbour(t, conformance.LMAA, conformance.LMAA4)
		if o.Optimized {
			r.core.neighbour(t, conformance.CN6)
		}
		sysctl(t, "ipv4/ip_forward", "0")
		sysctl(t, "ipv6/conf/all/forwarding", "0")
		for _, p := range []netip.Prefix{conformance.Pool6, conformance.Pool4} { // or the kernel answers for addresses that it has not
			must(t, netlink.RouteReplace(&netlink.Route{Type: unix.RTN_BLACKHOLE, Dst: &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}}))
		}
	case dataplane.Anchor:
		cfg.Local = []netip.Addr{conformance.LMAA, conformance.LMAA4}
		w := linkMTU(t, outside, inside, "eth0", ip.MaxPacket)
		w.neighbour(t, conformance.CN6, conformance.CN4)
		r.native = []*Wire{w}
		r.core.neighbour(t, conformance.CoA1, conformance.CoA4)
		own = cfg.Local
	default:
		cfg.Local = []netip.Addr{conformance.CoA1}
		r.core.neighbour(t, conformance.LMAA, conformance.CN6)
		if o.IPv4 {
			cfg.Local = append(cfg.Local, conformance.CoA4)
			r.core.neighbour(t, conformance.LMAA4)
		}
		for _, via := range []netip.Addr{markGW, markGW4} { // of errors to whoever sent what came out of a tunnel
			must(t, netlink.RouteReplace(&netlink.Route{LinkIndex: r.core.ifi, Gw: via.AsSlice(), Flags: int(netlink.FLAG_ONLINK)}))
		}
		for _, name := range []string{"acc1", "acc2"} {
			w := Link(t, outside, inside, name)
			r.native = append(r.native, w)
			cfg.Access = append(cfg.Access, dataplane.Link{Name: name, MAC: conformance.RouterMAC, LinkLocal: conformance.LinkLocal})
		}
		own = cfg.Local
	}
	for _, a := range own {
		must(t, netlink.AddrReplace(lo, &netlink.Addr{IPNet: &net.IPNet{IP: a.AsSlice(), Mask: net.CIDRMask(a.BitLen(), a.BitLen())}, Flags: unix.IFA_F_NODAD}))
	}
	r.Plane, err = open(cfg)
	must(t, err)
	t.Cleanup(func() { must(t, r.Close()) })
	if o.Role == dataplane.Anchor {
		tun, err := netlink.LinkByName(r.Device())
		must(t, err)
		for _, p := range []netip.Prefix{conformance.Pool6, conformance.Pool4} {
			must(t, netlink.RouteReplace(&netlink.Route{LinkIndex: tun.Attrs().Index, Dst: &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}}))
		}
	}
	if o.Role == dataplane.Node {
		r.native = []*Wire{device(t, r.Device())}
	}
	if r.o.Optimized && r.o.Role == dataplane.Anchor {
		r.correspondent(t)
	}
	must(t, r.Plane.Update(r.markers()))
	r.warm()
	return r
}

func (r *router) Sync(all iter.Seq[core.Op]) error {
	return r.Plane.Sync(func(yield func(core.Op) bool) {
		for op := range all {
			if !yield(op) {
				return
			}
		}
		for _, op := range r.markers() {
			if !yield(op) {
				return
			}
		}
	})
}

func (r *router) If(link int) int { return r.native[link-1].ifi }
func (r *router) Advance(d time.Duration) {
	r.clock.Add(int64(d))
	if p, ok := r.Plane.(interface{ Ticked() }); ok {
		p.Ticked()
	}
}

func (r *router) Send(p conformance.Packet) {
	r.t.Helper()
	switch {
	case p.Side == conformance.Tunnel:
		switch {
		case p.B[0]>>4 == 6 && p.B[6] == ip.ICMPv6:
			r.icmpSent[false] = true
		case p.B[0]>>4 == 4 && p.B[9] == ip.ICMPv4:
			r.icmpSent[true] = true
		}
		r.core.frame(r.t, r.core.peer, r.core.mac, p.B, p.VNet)
	case r.o.Role != dataplane.Gateway:
		r.native[0].frame(r.t, r.native[0].peer, r.native[0].mac, p.B, p.VNet)
	default:
		dst := conformance.RouterMAC
		if p.Other != (core.MAC{}) {
			dst = p.Other
		}
		r.native[p.Link-1].frame(r.t, dst, p.MAC, p.B, p.VNet)
	}
}

// Drain sends a marker on every way into the router and collects until all have come out, twice: the first round shows that the
// router has finished, the second that what it sent has arrived.
func (r *router) Drain() []conformance.Packet {
	r.t.Helper()
	for range 2 {
		if waiting := r.collect(r.markAll(), 5*time.Second); len(waiting) > 0 {
			r.t.Fatalf("markers %v of %d did not come through in 5 s; so far %+v", waiting, r.marks, r.got)
		}
	}
	clear(r.icmpSent)
	got := append(r.got, r.signalled()...)
	r.got = nil
	return got
}

// signalled is what waits at the signalling port. The markers went through the same sockets, so all that came is there.
func (r *router) signalled() (got []conformance.Packet) {
	into := make([]core.Packet, 64)
	for r.SignalsWaiting() > 0 {
		n, err := r.Plane.Signal().Read(into)
		must(r.t, err)
		for i := range into[:n] {
			got = append(got, conformance.Packet{Side: conformance.Signal, Outer: into[i].Outer, B: bytes.Clone(into[i].B)})
		}
	}
	return got
}

func (r *router) Signal(p core.Packet) error {
	n, err := r.Plane.Signal().Write([]core.Packet{p})
	if (err == nil) != (n == 1) {
		r.t.Errorf("%d packets of one were sent: %v", n, err)
	}
	return err
}

// warm waits until the links carry and the addresses are in use: for a moment the kernel drops what is sent on a link that came up,
// and knows no route to an address that it was given.
func (r *router) warm() {
	r.t.Helper()
	for range 100 {
		if len(r.collect(r.markAll(), 100*time.Millisecond)) == 0 {
			r.got = nil
			return
		}
	}
	r.t.Fatal("the links do not carry")
}

// collect takes what comes out until no marker is waited for, or the time is over; it returns those still missing.
func (r *router) collect(waiting map[uint32]bool, patience time.Duration) map[uint32]bool {
	r.t.Helper()
	ends := append([]*Wire{r.core}, r.native...)
	fds := make([]unix.PollFd, len(ends))
	for i, w := range ends {
		fds[i] = unix.PollFd{Fd: int32(w.fd), Events: unix.POLLIN}
	}
	buf := make([]byte, bufferSize)
	for deadline := time.Now().Add(patience); len(waiting) > 0 && time.Now().Before(deadline); {
		if _, err := unix.Poll(fds, 20); err != nil && !errors.Is(err, unix.EINTR) {
			r.t.Fatal(err)
		}
		for i, w := range ends {
			for {
				n, from, err := unix.Recvfrom(w.fd, buf, 0)
				if err != nil {
					break
				}
				if sll, ok := from.(*unix.SockaddrLinklayer); ok && sll.Pkttype == unix.PACKET_OUTGOING {
					continue
				}
				for _, f := range r.finished(w, buf[:n]) {
					r.frameOut(i, w, f, waiting)
				}
			}
		}
	}
	return waiting
}

// finished does to a frame what a back end left to the device: sums, and cuts super packets, in tunnels as well.
func (r *router) finished(w *Wire, b []byte) (out [][]byte) {
	r.t.Helper()
	v, err := ip.ParseVNet(b)
	must(r.t, err)
	f := bytes.Clone(b[ip.VNetLen:])
	if v.Type == ip.GSONone {
		if v.NeedsChecksum {
			must(r.t, ip.CompleteChecksum(f, v.CsumStart, v.CsumOffset))
		}
		return [][]byte{f}
	}
	link := 14
	if w.tun {
		link = 0
	}
	h, err := ip.Parse(f[link:])
	must(r.t, err)
	in := r.innermost(f, link, v.CsumStart)
	s, err := ip.NewSegmenter(f[in:], v.Type, v.Size)
	must(r.t, err)
	for i := 0; ; i++ {
		seg, ok := s.Next(nil)
		if !ok {
			return out
		}
		seg = append(bytes.Clone(f[:in]), seg...)
		if in > link {
			outer(seg[link:], h, i)
		}
		out = append(out, seg)
	}
}

// innermost is where the IP header begins whose upper layer is to be cut: behind as many outer headers as there are before it.
func (r *router) innermost(f []byte, link, upper int) int {
	r.t.Helper()
	for at := link; ; {
		h, err := ip.Parse(f[at:])
		must(r.t, err)
		next := at + h.HdrLen
		if next >= upper {
			return at
		}
		switch h.Proto {
		case ip.UDP:
			next += ip.UDPLen
		case ip.GRE:
			next += 4
			for _, bit := range []byte{0x80, 0x20, 0x10} {
				if f[at+h.HdrLen]&bit != 0 {
					next += 4
				}
			}
		case ip.IPv4, ip.IPv6:
		default:
			r.t.Fatalf("a super packet in protocol %d, of an upper layer at %d: %x", h.Proto, upper, f[:min(len(f), 120)])
		}
		at = next
	}
}

// outer makes the outer headers of a super packet those of its i-th segment.
func outer(b []byte, h ip.Header, i int) {
	if !h.Is4() {
		binary.BigEndian.PutUint16(b[4:], uint16(len(b)-ip.IPv6Len))
		return
	}
	binary.BigEndian.PutUint16(b[2:], uint16(len(b)))
	binary.BigEndian.PutUint16(b[4:], h.ID+uint16(i))
	binary.BigEndian.PutUint16(b[10:], 0)
	binary.BigEndian.PutUint16(b[10:], ip.Checksum(b[:ip.IPv4Len]))
	if h.Proto == ip.UDP {
		binary.BigEndian.PutUint16(b[ip.IPv4Len+4:], uint16(len(b)-ip.IPv4Len))
	}
}

func (r *router) frameOut(i int, w *Wire, f []byte, waiting map[uint32]bool) {
	if w.tun {
		f = append(make([]byte, 14, 14+len(f)), f...)
	}
	// A marker that the kernel could not deliver comes back quoted, "no route": that is none.
	if at := bytes.Index(f, []byte("kedge marker")); at >= 0 && at+16 == len(f) && !(f[20] == ip.ICMPv6 && f[55] == 0) {
		delete(waiting, binary.BigEndian.Uint32(f[at+12:]))
		return
	}
	if len(f) < 14 || f[0]&1 != 0 {
		return // the kernel's own: MLD
	}
	p := conformance.Packet{Side: conformance.Native, B: f[14:]}
	if i == 0 {
		p.Side = conformance.Tunnel
	} else if r.o.Role == dataplane.Gateway {
		p.Link, p.MAC = i, core.MAC(f[:6])
		if src := core.MAC(f[6:12]); src != conformance.RouterMAC {
			r.t.Errorf("a frame to a host comes from %v, want the router's MAC", src)
		}
	}
	r.got = append(r.got, p)
}
