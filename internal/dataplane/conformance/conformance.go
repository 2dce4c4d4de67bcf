// Package conformance is the suite that every data plane back end must pass: the same packets in and out, whatever carries them.
// The expected bytes are written out or built by the plain code of this package, never by the code under test.
//
// A back end brings a Factory that makes routers and puts packets into their two sides. Run runs every case against it.
// Requirements: document 001, 3.2.2, 3.3.2, 3.3.3; RFC 5213 5.6, 6.10; RFC 2473; RFC 6040; RFC 5722.
package conformance

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"time"

	"kedge/internal/core"
	"kedge/internal/dataplane"
	"kedge/wire"
	"kedge/wire/ip"
)

// Side of a router.
type Side uint8

const (
	Native Side = iota // an anchor's correspondent nodes, a gateway's hosts, a node's applications
	Tunnel             // the core network
	Signal             // what the router's machine gets; only out
)

func (s Side) String() string { return [...]string{"native", "tunnel", "signal"}[s] }

// Packet is one packet on a link beside the router, from its IP header on. Link and MAC name the host on a gateway's native side.
type Packet struct {
	Side Side
	Link int // 1 or 2
	MAC  core.MAC
	// Other says that a frame into a gateway goes to this MAC and not to the router's.
	Other core.MAC
	B     []byte
	VNet  ip.VNet    // of a sender with offloads; offsets from the IP header
	Outer core.Chain // of a Signal packet
	// pieces are the lengths of the fragments that a packet in ESP came in, if there were several.
	pieces string
}

// Options of a router.
type Options struct {
	Role               dataplane.Role
	LocalRouting       bool
	EncapsulationLimit uint8
	Home, Anchors      []netip.Addr
	ProbeID            uint16
	Unreachable        bool
	IPv4               bool // a gateway has an IPv4 address to tunnel from, too: CoA4
	Secured            bool // the router has the security associations of Security
	Optimized          bool // sessions of route optimization: on an anchor, LMAA is a correspondent, beside CN6
}

// Router is one router under test with what surrounds it. Its addresses, links and routes are those of this package; the path
// MTU is 1500 and so the tunnel MTU 1460.
type Router interface {
	core.Dataplane
	If(link int) int // interface index of access link 1 or 2
	Send(Packet)
	Drain() []Packet         // all that left since the last call, in order for each side
	Advance(d time.Duration) // the router's clock
	Dropped(wire.Reason) uint64
	Keepalives() uint64
	Signal(core.Packet) error // puts signalling into its Outer
}

// Factory makes a router; it registers its own cleanup. It fails the test where it cannot.
type Factory func(t *testing.T, o Options) Router

// The world around the routers.
var (
	LMAA   = netip.MustParseAddr("2001:db8:a::1") // the anchor
	LMAA4  = netip.MustParseAddr("198.51.100.1")
	CoA4   = netip.MustParseAddr("198.51.100.11")  // a node's care-of address
	NAT4   = netip.MustParseAddr("198.51.100.77")  // a NAT, seen from the core
	CoA1   = netip.MustParseAddr("2001:db8:a::11") // gateways
	CoA2   = netip.MustParseAddr("2001:db8:a::12")
	Alien  = netip.MustParseAddr("2001:db8:a::66") // a stranger in the core
	Alien4 = netip.MustParseAddr("198.51.100.66")
	Core   = netip.MustParsePrefix("2001:db8:a::/64")
	CN6    = netip.MustParseAddr("2001:db8:c::c") // a correspondent node
	CN4    = netip.MustParseAddr("203.0.113.9")

	Pool6  = netip.MustParsePrefix("2001:db8:1000::/36") // home prefixes, routed to the anchor's data plane
	Pool4  = netip.MustParsePrefix("10.20.0.0/16")
	HNP1   = netip.MustParsePrefix("2001:db8:1000:1::/64") // host 1
	H16    = netip.MustParseAddr("2001:db8:1000:1::a")
	H14    = netip.MustParseAddr("10.20.0.10")
	HNP2   = netip.MustParsePrefix("2001:db8:1000:2::/64") // host 2, at another gateway
	H26    = netip.MustParseAddr("2001:db8:1000:2::b")
	H24    = netip.MustParseAddr("10.20.0.11") // of the same /24
	HNP3   = netip.MustParsePrefix("2001:db8:1000:3::/64")
	H36    = netip.MustParseAddr("2001:db8:1000:3::c")
	H34    = netip.MustParseAddr("10.20.0.12")
	Nobody = netip.MustParseAddr("2001:db8:1000:99::1")
	Nemo4  = netip.MustParseAddr("10.20.0.99")

	RouterMAC  = core.MAC{0x02, 0, 0x5e, 0, 0, 1}
	LinkLocal  = netip.MustParseAddr("fe80::1")
	Host1      = core.MAC{2, 0, 0, 0, 0, 0x0a}
	Host2      = core.MAC{2, 0, 0, 0, 0, 0x0b}
	Stranger   = core.MAC{2, 0, 0, 0, 0, 0x66}
	tunnelMTU  = 1460
	sessionOne = core.ID(1)
	sessionTwo = core.ID(2)
	grace      = 500 * time.Millisecond
)

// Run runs the suite.
func Run(t *testing.T, f Factory) {
	Written(t, f)
	run(t, f, matrixCases)
	run(t, f, floodCases)
}

// Written runs the cases that are written one by one: what routers send in them is without fault.
func Written(t *testing.T, f Factory) { run(t, f, cases) }

func run(t *testing.T, f Factory, cases []testCase) {
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			b := &bench{T: t}
			b.r = f(t, c.o)
			b.r.Reports(func(r core.Reported) {
				b.mu.Lock()
				defer b.mu.Unlock()
				b.reported = append(b.reported, r)
			})
			if !c.empty {
				b.setup(c.o.Role)
			}
			c.f(b)
		})
	}
}

type testCase struct {
	name  string
	o     Options
	empty bool // without the sessions of setup
	f     func(*bench)
}

var cases = slices.Concat(anchorCases, anchorErrorCases, gatewayCases, stateCases, framedCases, framedErrorCases, tupleCases, signalCases, nodeCases)

// bench is one router in one case.
type bench struct {
	*testing.T
	r        Router
	unsummed bool       // UDP over IPv4 may go without a checksum now
	mu       sync.Mutex // guards reported
	reported []core.Reported
	secured  bool            // its packets are in ESP
	used     map[uint32]bool // sequence numbers of it
}

// reports takes what was reported since the last look.
func (b *bench) reports() []core.Reported {
	b.mu.Lock()
	defer b.mu.Unlock()
	got := b.reported
	b.reported = nil
	return got
}

// silent wants no report since the last look.
func (b *bench) silent() {
	b.Helper()
	if got := b.reports(); len(got) != 0 {
		b.Errorf("reports %+v", got)
	}
}

func chain(local, remote netip.Addr) core.Chain {
	return core.Chain{N: 1, Layer: [2]core.Layer{{Local: netip.AddrPortFrom(local, 0), Remote: netip.AddrPortFrom(remote, 0)}}}
}

func host(a netip.Addr) netip.Prefix { return netip.PrefixFrom(a, a.BitLen()) }

// setup gives an anchor host 1 at gateway 1 and host 2 at gateway 2, a gateway host 1 on link 1 and host 2 on link 2, and a node
// the addresses of host 1 and a mobile network.
func (b *bench) setup(r dataplane.Role) {
	switch r {
	case dataplane.Node:
		b.update(
			core.SetSession{ID: sessionOne, Chain: chain(CoA1, LMAA), Grace: grace},
			core.SetKey{ID: sessionOne, Match: core.Match{Src: host(H16)}, Up: true, Down: true},
			core.SetKey{ID: sessionOne, Match: core.Match{Src: host(H14)}, Up: true, Down: true},
			core.SetKey{ID: sessionOne, Match: core.Match{Src: HNP3}, Up: true, Down: true},
		)
		return
	case dataplane.Anchor:
		b.update(
			core.SetSession{ID: sessionOne, Chain: chain(LMAA, CoA1), Grace: grace},
			core.SetKey{ID: sessionOne, Match: core.Match{Dst: HNP1}, Up: true, Down: true},
			core.SetKey{ID: sessionOne, Match: core.Match{Dst: host(H14)}, Up: true, Down: true},
			core.SetSession{ID: sessionTwo, Chain: chain(LMAA, CoA2), Grace: grace},
			core.SetKey{ID: sessionTwo, Match: core.Match{Dst: HNP2}, Up: true, Down: true},
			core.SetKey{ID: sessionTwo, Match: core.Match{Dst: host(H24)}, Up: true, Down: true},
		)
		return
	}
	one, two := b.r.If(1), b.r.If(2)
	b.update(
		core.SetSession{ID: sessionOne, Chain: chain(CoA1, LMAA), If: one, MAC: Host1, Grace: grace},
		core.SetKey{ID: sessionOne, Match: core.Match{Src: HNP1, If: one, MAC: Host1}, Up: true, Down: true},
		core.SetKey{ID: sessionOne, Match: core.Match{Src: host(H14), If: one, MAC: Host1}, Up: true, Down: true},
		core.SetSession{ID: sessionTwo, Chain: chain(CoA1, LMAA), If: two, MAC: Host2, Grace: grace},
		core.SetKey{ID: sessionTwo, Match: core.Match{Src: HNP2, If: two, MAC: Host2}, Up: true, Down: true},
		core.SetKey{ID: sessionTwo, Match: core.Match{Src: host(H24), If: two, MAC: Host2}, Up: true, Down: true},
	)
}

func (b *bench) update(ops ...core.Op) {
	b.Helper()
	if err := b.r.Update(ops); err != nil {
		b.Fatal(err)
	}
}

// Where packets go in.
func fromCN(pkt []byte) Packet   { return Packet{Side: Native, B: pkt} }
func fromCore(pkt []byte) Packet { return Packet{Side: Tunnel, B: pkt} }
func from1(pkt []byte) Packet    { return Packet{Side: Native, Link: 1, MAC: Host1, B: pkt} }

// want is one packet that must come out: exact bytes, or an ICMP error.
type want struct {
	Packet
	icmp *icmpWant
}

type icmpWant struct {
	outer     []byte // the tunnel header that must be around it, as a packet; nil = none
	dst       netip.Addr
	typ, code uint8
	info      uint32
	about     []byte
}

func toCN(pkt []byte) want   { return want{Packet: Packet{Side: Native, B: pkt}} }
func toCore(pkt []byte) want { return want{Packet: Packet{Side: Tunnel, B: pkt}} }
func to1(pkt []byte) want    { return want{Packet: Packet{Side: Native, Link: 1, MAC: Host1, B: pkt}} }
func to2(pkt []byte) want    { return want{Packet: Packet{Side: Native, Link: 2, MAC: Host2, B: pkt}} }

// pass puts one packet in and wants exactly these out.
func (b *bench) pass(name string, in Packet, wants ...want) {
	b.Helper()
	in.B = bytes.Clone(in.B)
	b.r.Send(in)
	b.check(name, b.r.Drain(), wants...)
}

func (b *bench) check(name string, got []Packet, wants ...want) {
	b.Helper()
	if len(got) != len(wants) {
		b.Errorf("%s: %d packets came out, want %d:%s", name, len(got), len(wants), dump(got))
		return
	}
	// Order is kept on each side; between sides there is none.
	slices.SortStableFunc(got, func(x, y Packet) int { return int(x.Side) - int(y.Side) })
	slices.SortStableFunc(wants, func(x, y want) int { return int(x.Side) - int(y.Side) })
	var id []byte
	for i, g := range got {
		w := wants[i]
		if g.Side != w.Side || g.Link != w.Link || g.MAC != w.MAC || g.Outer != w.Outer {
			b.Errorf("%s: packet %d came out on %v, link %d, to %v, in %+v, want %v, link %d, to %v, in %+v", name, i, g.Side, g.Link, g.MAC, g.Outer, w.Side, w.Link, w.MAC, w.Outer)
			continue
		}
		if w.icmp != nil {
			if err := w.icmp.check(g.B); err != nil {
				b.Errorf("%s: packet %d: %v:%s", name, i, err, dump(got[i:i+1]))
			}
			continue
		}
		gb := bytes.Clone(g.B)
		if len(gb) > 48 && gb[0]>>4 == 6 && gb[6] == 44 && w.Side == Tunnel && bytes.Equal(w.B[44:48], anyID) {
			// The Identification is the router's choice, but one for all fragments of a packet.
			if binary.BigEndian.Uint16(gb[42:])&0xfff8 == 0 {
				id = bytes.Clone(gb[44:48])
			}
			if bytes.Equal(gb[44:48], id) {
				copy(gb[44:], anyID)
			}
		}
		if w.Side == Tunnel && gb[0]>>4 == 4 {
			if err := masked(gb, &id); err != nil {
				b.Errorf("%s: packet %d: %v", name, i, err)
			}
			if b.unsummed && gb[9] == 17 && len(w.B) == len(gb) && bytes.Equal(gb[26:28], []byte{0, 0}) {
				copy(gb[26:28], w.B[26:28]) // RFC 768: its sender made none
			}
		}
		if !bytes.Equal(gb, w.B) {
			b.Errorf("%s: packet %d differs at octet %d:\n got %s\nwant %s", name, i, differ(gb, w.B), short(gb), short(w.B))
		}
	}
}

// masked takes the Identification out of an outer IPv4 header, and so the checksum: they are the router's choice, but one for
// all fragments of a packet, and never 0, which the kernel would replace; what no router may fragment has any (RFC 6864 4.1).
func masked(b []byte, id *[]byte) error {
	if plainSum(b[:20]) != 0 {
		return fmt.Errorf("outer IPv4 header checksum")
	}
	if bytes.Equal(b[4:6], []byte{0, 0}) && b[6]&0x40 == 0 {
		return fmt.Errorf("outer Identification 0")
	}
	if v := binary.BigEndian.Uint16(b[6:]); v&0x1fff != 0 && !bytes.Equal(b[4:6], *id) {
		return fmt.Errorf("a fragment has Identification %x, the first one %x", b[4:6], *id)
	}
	*id = bytes.Clone(b[4:6])
	copy(b[4:], []byte{0, 0})
	copy(b[10:], []byte{0, 0})
	return nil
}

// dropped does f and wants n more packets dropped for r.
func (b *bench) dropped(r wire.Reason, n uint64, f func()) {
	b.Helper()
	before := b.r.Dropped(r)
	f()
	if got := b.r.Dropped(r) - before; got != n {
		b.Errorf("%d packets were dropped for %s, want %d", got, r, n)
	}
}

// report wants exactly one report of the reason since the last look, and returns it.
func (b *bench) report(r wire.Reason) core.Reported {
	b.Helper()
	got := b.reports()
	if len(got) != 1 || got[0].Reason != string(r) {
		b.Errorf("reports %+v, want one of %s", got, r)
		return core.Reported{}
	}
	return got[0]
}

// around checks the outer headers of an error that goes into a tunnel, and gives their length.
func (w *icmpWant) around(b []byte) (int, error) {
	if w.outer[0]>>4 == 4 {
		n := 20
		if w.outer[9] == 17 {
			n += 8
		}
		if len(b) < n || !bytes.Equal(b[12:20], w.outer[12:20]) || b[9] != w.outer[9] || b[8] != 64 || n == 28 && !bytes.Equal(b[20:24], w.outer[20:24]) {
			return 0, fmt.Errorf("not in the tunnel it should be in")
		}
		if int(binary.BigEndian.Uint16(b[2:])) != len(b) || b[6]&0x40 != 0 {
			return 0, fmt.Errorf("outer length of %d octets in %d, or Don't Fragment", binary.BigEndian.Uint16(b[2:]), len(b))
		}
		return n, nil
	}
	if len(b) < 40 || !bytes.Equal(b[8:40], w.outer[8:40]) || b[6] != w.outer[6] || b[7] != 64 {
		return 0, fmt.Errorf("not in the tunnel it should be in")
	}
	if int(binary.BigEndian.Uint16(b[4:])) != len(b)-40 {
		return 0, fmt.Errorf("outer payload length of %d octets in %d", binary.BigEndian.Uint16(b[4:]), len(b))
	}
	return 40, nil
}

func (w *icmpWant) check(b []byte) error {
	if w.outer != nil {
		n, err := w.around(b)
		if err != nil {
			return err
		}
		b = b[n:]
	}
	four := w.dst.Is4()
	hdr, proto, most := 40, byte(58), 1280
	if four {
		hdr, proto, most = 20, 1, 576
	}
	if len(b) < hdr+8 || len(b) > most {
		return fmt.Errorf("ICMP error of %d octets", len(b))
	}
	src, dst, p := addresses(b)
	if dst != w.dst || p != proto {
		return fmt.Errorf("to %v, protocol %d, want %v, %d", dst, p, w.dst, proto)
	}
	if !slices.Contains([]netip.Addr{LMAA, LMAA4, CoA1, CoA4, LinkLocal, netip.AddrFrom4([4]byte{192, 0, 0, 8})}, src) {
		return fmt.Errorf("from %v, which is no address of the router", src)
	}
	if four && plainSum(b[:20]) != 0 {
		return fmt.Errorf("IPv4 header checksum")
	}
	body := b[hdr:]
	if sum := map[bool]uint16{true: plainSum(body), false: pseudoSum(src, dst, 58, body)}[four]; sum != 0 {
		return fmt.Errorf("ICMP checksum leaves %04x", sum)
	}
	if body[0] != w.typ || body[1] != w.code || binary.BigEndian.Uint32(body[4:]) != w.info {
		return fmt.Errorf("type %d code %d info %d, want %d, %d, %d", body[0], body[1], binary.BigEndian.Uint32(body[4:]), w.typ, w.code, w.info)
	}
	return quotes(body[8:], w.about)
}

// quotes checks the quotation: a prefix of the packet, long enough, but for hop limit and IPv4 header checksum, which routers
// may have changed before they noticed the problem.
func quotes(got, pkt []byte) error {
	four := pkt[0]>>4 == 4
	least := min(len(pkt), 1280-48)
	if four {
		least = min(len(pkt), 28)
	}
	if len(got) < least || len(got) > len(pkt) {
		return fmt.Errorf("quotes %d octets of %d", len(got), len(pkt))
	}
	got, pkt = bytes.Clone(got), bytes.Clone(pkt[:len(got)])
	for _, q := range [][]byte{got, pkt} {
		if four {
			q[8], q[10], q[11] = 0, 0, 0
		} else {
			q[7] = 0
		}
	}
	if !bytes.Equal(got, pkt) {
		return fmt.Errorf("the quotation differs at octet %d", differ(got, pkt))
	}
	return nil
}

func differ(a, b []byte) int {
	for i := range min(len(a), len(b)) {
		if a[i] != b[i] {
			return i
		}
	}
	return min(len(a), len(b))
}

func short(b []byte) string {
	if len(b) > 140 {
		return fmt.Sprintf("%x... (%d octets)", b[:140], len(b))
	}
	return fmt.Sprintf("%x (%d octets)", b, len(b))
}

func dump(all []Packet) (s string) {
	for i, p := range all {
		if i == 4 {
			return s + fmt.Sprintf("\n  and %d more", len(all)-i)
		}
		s += fmt.Sprintf("\n  %v link %d %v: %s", p.Side, p.Link, p.MAC, short(p.B))
	}
	return s
}
