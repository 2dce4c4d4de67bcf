// Package mem is the data plane as a pure engine: packets in, packets out, no I/O. It is the only place that knows the
// forwarding rules; the simulator runs it, tests take it as oracle, and the user back end asks it for every decision.
//
// RFC 5213 5.6 and 6.10 (forwarding, local routing), RFC 5844 3.3.3, RFC 6275 10.4 and 11.3, RFC 5555 4.1 and 4.4 (UDP), RFC
// 2473, 2003 and 4213 (tunnels, MTU, errors), RFC 6040 and 2983 (ECN, DSCP). Framings of a layer: IPv4 and IPv6, each in IPv4, in
// IPv6, and in UDP over either; in GRE with and without keys (RFC 2784, 2890, 7676); in UDP behind a TLV header, GRE and ESP too
// (RFC 5845 7); in ESP, also in UDP (RFC 4303 tunnel mode, RFC 3948), which a Security seals. A chain has one or two layers; the
// outer packet of the outermost alone is ever fragmented. Beside tunnels: route optimization (optimize.go), and bridged mode
// (bridge.go). Other chains are refused by Update. Multicast is not forwarded in routed mode (RFC 6224 is out of scope).
//
// Which outer packets a session takes. A tunnel is a pair of addresses and, in UDP, of ports. A session takes what comes in its
// chain reversed and, over IPv4, what comes between the same two addresses in the other framing: plain if the chain says UDP; in
// UDP, from the chain's remote port or else 4191, if it says plain (Local.Port 0). The chain that a SetSession replaced is taken
// in the same way for Grace. Everything else is dropped, counted as wrong-tunnel and reported with the outer tuple as seen; only
// Update ever moves a session. What a session sends is always framed as its chain says.
//
// Signalling that comes in an outer packet and is for this router leaves as ToSignal whether a session knows the tuple or not.
//
// One goroutine updates and many forward at once: a read-write lock guards the tables, so an op is seen whole or not at all.
// Forwarding allocates nothing once an Out has grown, and what strangers send grows nothing: the limiters have a fixed size.
package mem

import (
	"errors"
	"fmt"
	"hash/maphash"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"kedge/internal/core"
	"kedge/internal/dataplane"
	"kedge/wire"
	"kedge/wire/ip"
)

// Config of an engine. The zero value is an anchor's.
type Config struct {
	Role   dataplane.Role
	Domain core.Domain  // of the anchor's native side
	Local  []netip.Addr // addresses of this router: tunnel entry points, and sources of its ICMP errors
	Access []dataplane.Link
	// LocalRouting lets a gateway carry packets between its own hosts without the anchor (RFC 5213 6.10.3,
	// EnableMAGLocalRouting).
	LocalRouting bool
	// UDP says that a gateway's I/O takes datagrams to PortUDP; anchors and nodes always do.
	UDP      bool
	MTU      int   // path MTU to a remote of which nothing else is known, octets; 0 = 1500
	HopLimit uint8 // of outer packets (RFC 2473 6.3); 0 = 64
	// EncapsulationLimit is put into a Tunnel Encapsulation Limit option of every outer packet (RFC 2473 4.1.1; 4 is
	// recommended); 0 = no option unless the inner packet has one.
	// It exists in IPv6 only: IPv4 outer packets carry none.
	EncapsulationLimit uint8
	// Home is what a node takes signalling for before there is a session: its home addresses as configured.
	Home []netip.Addr
	// Anchors are the addresses from which a node takes ESP for signalling; other ESP is its applications'. None = from all.
	Anchors []netip.Addr
	// ProbeID is the identifier of a node's own echo requests through the tunnel: replies that carry it leave as ToSignal. 0 = none.
	ProbeID uint16
	// Unreachable makes a node answer packets from its home addresses that no session carries with "address unreachable". Else
	// they are dropped silently. Both are counted as unknown-home.
	Unreachable bool
	// Forwarded says that the kernel forwards between the anchor's links and the engine, and so decrements hop limits
	// there, and answers those that expire.
	Forwarded  bool
	Now        func() time.Duration // clock of Update, the same as of the packets; nil = since New
	Reassembly ip.Limits            // of outer fragments given to Tunnel
	Mirror     Mirror               // is told all that changes; nil = nobody
	// Correspondents makes a node report whom its home addresses exchange packets with through the tunnel (core.ReportCorrespondent).
	Correspondents bool
	// Correspondent says that this router's addresses, at a node its home addresses, are a correspondent's to mobile nodes: Home
	// Address options are its business, also while nobody has a binding (RFC 6275 9.3.1).
	Correspondent bool
	Security      Security // of ESP around data; nil = chains with a security association are refused
}

// Limits of what strangers can make an engine do. Each table has a fixed size.
const (
	maxLengths = 8 // different prefix lengths in use, of each family

	errorsPerSource = 10   // ICMP errors a second to one address, and as many at once
	errorsPerSecond = 1000 // ICMP errors a second to all
	reportsPerMAC   = 1    // reports a second of one reason and MAC or remote
	reportsPerLink  = 100  // reports a second of one access link, or of the tunnel side

	// mtuLifetime: a path MTU learned from an ICMP error is forgotten after ten minutes (RFC 8201 4, RFC 1191 6.3).
	mtuLifetime = 10 * time.Minute

	// Signalling in tuples of no session: packets a second from one address, and as many at once, and from all. Many nodes may
	// share one address behind a NAT, and all of them come anew when an anchor lost its sessions.
	signalsPerSource = 100
	signalsPerSecond = 5000

	// minMTU4 is the least path MTU that is believed of an IPv4 path, octets: what every host must take (RFC 791 3.2). The 68 of
	// RFC 1191 3 would let one forged error cut each packet into dozens.
	minMTU4 = 576
)

// noIPv4 is the source of ICMP errors of a router without an IPv4 address: the dummy address of RFC 7600 4.8.
var noIPv4 = netip.AddrFrom4([4]byte{192, 0, 0, 8})

// noIPv6 is the source of ICMPv6 errors that a node tells itself: the router on the other side of its device.
var noIPv6 = netip.MustParseAddr("fe80::1")

// Engine is one router's data plane. It is a core.Dataplane. All methods may be called concurrently; an Out belongs to one
// caller.
type Engine struct {
	cfg          Config
	links        map[int]*accessLink
	icmp4, icmp6 netip.Addr

	mu      sync.RWMutex // guards tables
	tables  tables
	version atomic.Uint64 // of tables, of which forwarding remembers something; written with mu held

	drops  [nReasons]atomic.Uint64
	report atomic.Pointer[func(core.Reported)]
	guards atomic.Pointer[func(netip.Addr) bool]
	fragID atomic.Uint32

	serial   uint32        // of the newest carrier; mu guards it
	bridges  int           // sessions in bridged mode; mu guards it
	fetched  uint64        // no meaning; mu guards it
	parted   atomic.Uint64 // paths that ended
	carriers atomic.Int32  // how many there are
	pairs    atomic.Int32  // keys of route optimization

	straights  atomic.Int32 // ways that packets of it come by
	seed       maphash.Seed
	errors     limiter // ICMP errors, by destination
	reports    limiter
	signals    limiter  // signalling in unknown tuples, by source
	talking    *limiter // reports of correspondents; nil = there are none
	keepalives atomic.Uint64

	reassembly struct {
		sync.Mutex
		r *ip.Reassembler
	}
}

// New makes an engine. It fails without a valid IPv6 address to tunnel from, but on a node, whose addresses come and go, and with
// addresses or links that contradict.
func New(cfg Config) (*Engine, error) {
	e := &Engine{cfg: cfg, links: map[int]*accessLink{}, icmp4: noIPv4, seed: maphash.MakeSeed()}
	for _, a := range slices.Backward(cfg.Local) {
		switch {
		case !a.IsValid() || a.IsUnspecified() || a.IsMulticast() || a.Is4In6() || a.Zone() != "":
			return nil, fmt.Errorf("data plane: %v is no address that this router can have", a)
		case a.Is4():
			e.icmp4 = a
		default:
			e.icmp6 = a
		}
	}
	if cfg.Role == dataplane.Node {
		e.icmp4, e.icmp6 = noIPv4, noIPv6
	}
	if !e.icmp6.IsValid() {
		return nil, errors.New("data plane: no IPv6 address to tunnel from")
	}
	if e.cfg.MTU == 0 {
		e.cfg.MTU = 1500
	}
	if e.cfg.MTU < ip.MinMTU6 || e.cfg.MTU > ip.MaxPacket {
		return nil, fmt.Errorf("data plane: MTU %d is not between %d and %d", cfg.MTU, ip.MinMTU6, ip.MaxPacket)
	}
	if e.cfg.HopLimit == 0 {
		e.cfg.HopLimit = 64
	}
	for _, l := range cfg.Access {
		if _, twice := e.links[l.If]; twice || l.If <= 0 || l.MAC == (core.MAC{}) {
			return nil, fmt.Errorf("data plane: access link %q needs an interface of its own and the router's MAC", l.Name)
		}
		if l.MTU == 0 {
			l.MTU = 1500
		}
		e.links[l.If] = &accessLink{Link: l}
		e.links[l.If].now.Store(int64(l.MTU))
	}
	if cfg.Now == nil {
		start := time.Now()
		e.cfg.Now = func() time.Duration { return time.Since(start) }
	}
	e.tables = newTables()
	e.reassembly.r = ip.NewReassembler(cfg.Reassembly)
	e.fragID.Store(uint32(maphash.Comparable(e.seed, 0)))
	e.errors.init(errorsPerSecond)
	e.reports.init(reportsPerLink)
	e.signals.init(signalsPerSecond)
	if cfg.Correspondents && cfg.Role == dataplane.Node {
		e.talking = new(limiter)
		e.talking.init(talksPerSecond)
	}
	return e, nil
}

// Packet is one packet that leaves. B is valid until the Out is reset, or its input reused.
type Packet struct {
	To  dataplane.To
	If  int      // ToNative of a gateway
	MAC core.MAC // and the host there
	// Outer is the chain that a ToSignal packet came in, as an answer needs it: Local is this router's side.
	Outer core.Chain
	B     []byte
	Tail  []byte // what follows B: a part of the input. Only of an Out that splits
}

// Len is how many octets the packet has.
func (p *Packet) Len() int { return len(p.B) + len(p.Tail) }

// Out collects what leaves. Reset it before each input; it is reused, so that nothing is allocated.
type Out struct {
	Packets []Packet
	// Split lets packets leave in two parts, so that what a super packet carries is not copied.
	Split   bool
	super   ip.Segmenter // what remains of it
	whole   bool         // what becomes of its first segment is decided for all
	fate    fate
	buf     []byte
	news    core.Reported
	hasNews bool
}

// Reset empties it.
func (o *Out) Reset() { o.Packets, o.buf = o.Packets[:0], o.buf[:0] }

func (o *Out) add(to dataplane.To, b []byte) { o.Packets = append(o.Packets, Packet{To: to, B: b}) }

// Reports sets the receiver of reports. It is called by the goroutines that forward, without a lock held.
func (e *Engine) Reports(f func(core.Reported)) { e.report.Store(&f) }

// deliver hands the report over that forwarding left in out.
func (e *Engine) deliver(out *Out) {
	if !out.hasNews {
		return
	}
	out.hasNews = false
	if f := e.report.Load(); f != nil && *f != nil {
		(*f)(out.news)
	}
}

// Drops calls f with every reason and how many packets were dropped for it so far.
func (e *Engine) Drops(f func(r wire.Reason, n uint64)) {
	for i := range e.drops {
		f(reasons[i], e.drops[i].Load())
	}
}

// Dropped is the count of one reason; reasons of other layers have none.
func (e *Engine) Dropped(r wire.Reason) uint64 {
	for i := range reasons {
		if reasons[i] == r {
			return e.drops[i].Load()
		}
	}
	return 0
}

// Count adds a drop that I/O around the engine made.
func (e *Engine) Count(r wire.Reason) {
	for i := range reasons {
		if reasons[i] == r {
			e.drops[i].Add(1)
		}
	}
}

// Keepalives is how many datagrams of at most one octet were taken: they hold a NAT's mapping and say nothing (RFC 3948 2.3 has
// the one octet, RFC 5555 4.3 leaves the form open).
func (e *Engine) Keepalives() uint64 { return e.keepalives.Load() }

// Close ends nothing: an engine holds no resource.
func (e *Engine) Close() error { return nil }

var _ core.Dataplane = (*Engine)(nil)
