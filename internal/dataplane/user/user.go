// Package user is the data plane in user space: plain sockets around the engine of package mem, which makes every decision.
//
// Tunnel side, of each address family: one raw socket each for protocols 4 and 41 (the kernel reassembles outer fragments), one
// for the ICMP errors about outer packets, UDP sockets on port 4191, and one raw socket that sends whole outer packets, those in
// UDP too: so the engine decides on Don't Fragment, Identification, traffic class and fragments, and the kernel never fragments
// what should be answered with Packet Too Big. Native side of an anchor: a TUN device that the home prefixes are routed to. Its
// MTU is the largest there is, so that the kernel hands everything over and the engine alone decides what is too big (RFC 2473
// 7). Native side of a gateway: a packet socket on each access link. Native side of a node: a TUN device that has its home
// addresses; with Persist it outlives the process, so that applications keep addresses and sockets, and the next process adopts it.
//
// A node's care-of addresses come and go: its sockets are bound to none, and each outer packet leaves by the route of its source
// address (IP_PKTINFO), so that rules by source choose the link.
//
// Data of route optimization comes without a tunnel, with headers that the kernel refuses: a packet socket takes it and rules of
// nftables keep it from the kernel, both only while there is such a session (straight.go). A kernel without nf_tables has none.
//
// The kernel must not forward or answer on access links as well: New takes IPv6 off them (disable_ipv6), silences ARP
// (arp_ignore 8) and switches IPv4 forwarding off there; Close puts that back. The links must have no address, and be up. A link
// that goes and returns under its name, with the same index or another, is taken again; its Link.If stays what it was at first.
//
// One goroutine reads each socket, and each queue of the device, of which there is one for each core; it carries its packets to the
// end, so packets of a flow stay in order. Needs CAP_NET_ADMIN and CAP_NET_RAW. ECMP of the core sees flow label 0 (RFC 2473 6.5).
//
// Offloads change how many packets a system call moves, never what becomes of one: the engine sees each as it is on the wire.
// Super packets of the device and of access links are cut by the engine; what it makes in UDP leaves by runs (gso.go), what comes
// out of tunnels is put together by flows (gro.go). Protocols 4, 41 and 47 have no such way out of a process: each packet is a
// message of sendmmsg(2). What the kernel refuses is left off; Status says so.
package user

import (
	"errors"
	"fmt"
	"iter"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"kedge/internal/core"
	"kedge/internal/dataplane"
	"kedge/internal/dataplane/mem"
	"kedge/wire"
)

// Role and Link are those of package dataplane.
type (
	Role = dataplane.Role
	Link = dataplane.Link
)

const (
	Anchor  = dataplane.Anchor
	Gateway = dataplane.Gateway
	Node    = dataplane.Node
)

// DefaultDevice is the name of the TUN device of an anchor or node.
const DefaultDevice = "kedge0"

// Config of a plane.
type Config struct {
	Role         Role
	Device       string       // name of the TUN device of an anchor or node, "" = DefaultDevice
	Domain       core.Domain  // of the native side of an anchor or node
	Local        []netip.Addr // tunnel entry points, and sources of ICMP errors; already on the host. None for a node
	Access       []Link       // a gateway's access links
	LocalRouting bool         // RFC 5213 6.10.3
	// MTU of the path to every remote, octets; 0 = that of the route to each, looked up again every minute.
	MTU                int
	EncapsulationLimit uint8 // RFC 2473 4.1.1; 0 = none
	// DeviceMTU of a TUN device that is made, octets; 0 = the largest on an anchor, 1,280 on a node. An adopted one keeps its own.
	DeviceMTU int
	// Persist leaves the device there when the plane closes or the process dies; RemoveDevice ends it.
	Persist     bool
	Home        []netip.Addr // of a node, as what follows: mem.Config
	Anchors     []netip.Addr
	ProbeID     uint16
	Unreachable bool
	// Correspondents and Correspondent as in mem.Config: a node reports whom it exchanges packets with; a host, or a node at its home
	// addresses, is a correspondent of mobile nodes, and takes Home Address options from the start.
	Correspondents, Correspondent bool
	// Straight says that there is route optimization and nothing else: a correspondent that has no tunnels, and takes none from others
	// on this host. Its role is Anchor.
	Straight bool
	Now      func() time.Duration // nil = CLOCK_BOOTTIME
	// Sysctl sets settings of the host ("net/ipv4/conf/all/send_redirects") instead of the plane. Its maker puts them back then,
	// also after a crash. nil: Close puts them back.
	Sysctl func(name, value string) error
	// Mirror is told all that the engine knows. AfterIngress leaves the packets of access links to what is attached to their ingress
	// first, and reads what that lets pass: for a faster way of forwarding beside this one.
	Mirror       mem.Mirror
	AfterIngress bool
	// Security seals and opens ESP around data. With it, protocol 50 with SPIs of data and UDP port 4500 are the plane's.
	Security mem.Security
	UDP      bool // of a gateway: it carries packets in UDP as well, as the others do
	// Queues of the TUN device; 0 = one for each core.
	Queues int
	// Lacks stands for a kernel that refuses an offload with an error. nil: only the kernel is asked.
	Lacks func(Offload) error
}

// Plane is the running data plane.
type Plane struct {
	*mem.Engine
	cfg Config
	now func() time.Duration

	queues  []*tunQueue // of the device of an anchor or node
	vnet    bool        // packets of the device have virtio-net headers
	uses    uses
	udp     map[netip.AddrPort]*socket // those that send in UDP as well
	gro     bool                       // they get several at once
	segment atomic.Bool                // outer packets in UDP leave many at once
	out6    int                        // whole IPv6 packets
	out4    int                        // whole IPv4 packets
	frames  int                        // frames to hosts
	links   map[int]*accessLink
	watch   *linkWatch // gateway
	signals *signalPort
	direct  *straight
	socks   []*socket
	routes  *routes
	undo    undo // of what is not an access link's
	failed  chan error

	work    []func() // what runs once everything is open
	done    sync.WaitGroup
	once    sync.Once
	closing atomic.Bool
}

var _ core.Dataplane = (*Plane)(nil)

// New opens the sockets and starts forwarding what Update will name. On an error everything is closed again.
func New(cfg Config) (_ *Plane, err error) {
	if cfg.Device == "" {
		cfg.Device = DefaultDevice
	}
	if cfg.Now == nil {
		cfg.Now = bootTime
	}
	p := &Plane{cfg: cfg, now: cfg.Now, out6: -1, out4: -1, frames: -1, links: map[int]*accessLink{}, udp: map[netip.AddrPort]*socket{}, failed: make(chan error, 1)}
	p.signals = newSignalPort(p)
	access, err := findLinks(cfg.Access)
	if err != nil {
		return nil, err
	}
	for i, l := range access {
		p.links[l.If] = &accessLink{Link: l, follows: cfg.Access[i].MTU == 0}
	}
	p.Engine, err = mem.New(mem.Config{
		Role: cfg.Role, Domain: cfg.Domain, Local: cfg.Local, Access: access, LocalRouting: cfg.LocalRouting, MTU: cfg.MTU,
		EncapsulationLimit: cfg.EncapsulationLimit, Home: cfg.Home, Anchors: cfg.Anchors, ProbeID: cfg.ProbeID, Unreachable: cfg.Unreachable,
		Forwarded: true, Now: cfg.Now, Mirror: cfg.Mirror, Security: cfg.Security, UDP: cfg.UDP, Correspondents: cfg.Correspondents,
		Correspondent: cfg.Correspondent,
	})
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			p.Close()
		}
	}()
	if err := p.openCore(); err != nil {
		return nil, err
	}
	if p.direct, err = newStraight(p); err != nil {
		return nil, err
	}
	if cfg.Role == Gateway {
		err = p.openAccess(access)
	} else {
		err = p.openTUN()
	}
	if err != nil {
		return nil, err
	}
	if err := p.direct.begin(); err != nil {
		return nil, err
	}
	if cfg.MTU == 0 {
		if p.routes, err = openRoutes(p.Engine); err != nil {
			return nil, err
		}
		p.goes(p.routes.run)
	}
	p.start()
	return p, nil
}

// newSendBatch is what a goroutine sends with; its coalescer puts together what the kernel takes so.
func (p *Plane) newSendBatch() *sendBatch {
	b := new(sendBatch)
	b.gro.tcp, b.gro.udp = p.on(TUNSuper) || p.on(FrameSuper), p.on(TUNDatagrams) || p.on(FrameSuper)
	return b
}

// goes has f run when everything is open: a packet that comes earlier waits in its socket, and so meets all offloads that there are.
func (p *Plane) goes(f func()) { p.work = append(p.work, f) }

func (p *Plane) start() {
	for _, f := range p.work {
		p.done.Go(f)
	}
}

// findLinks completes access links from the host: index by name, MTU of the interface.
func findLinks(in []Link) ([]Link, error) {
	out := make([]Link, 0, len(in))
	for _, l := range in {
		var i *net.Interface
		var err error
		if l.If == 0 {
			i, err = net.InterfaceByName(l.Name)
		} else {
			i, err = net.InterfaceByIndex(l.If)
		}
		if err != nil {
			return nil, fmt.Errorf("data plane: access link %s (index %d): %w", l.Name, l.If, err)
		}
		l.If, l.Name = i.Index, i.Name
		if l.MTU == 0 {
			l.MTU = i.MTU
		}
		out = append(out, l)
	}
	return out, nil
}

// Update applies ops, and looks up the path MTU to remotes that are new.
func (p *Plane) Update(ops []core.Op) error {
	err := p.direct.update(ops)
	p.routes.look(ops)
	return err
}

// Sync makes the state what all says.
func (p *Plane) Sync(all iter.Seq[core.Op]) error {
	err := p.direct.sync(all)
	p.routes.lookAgain()
	return err
}

// Close stops forwarding, waits for the goroutines, and puts back what New changed. The TUN device goes with it, unless it
// persists.
func (p *Plane) Close() error {
	p.once.Do(func() {
		p.closing.Store(true)
		p.signals.Close()
		p.direct.close()
		for _, s := range p.socks {
			s.Close()
		}
		for _, q := range p.queues {
			q.f.Close()
		}
		p.routes.close()
		p.watch.stop()
		p.done.Wait()
		p.watch.close()
		for _, fd := range []int{p.out6, p.out4, p.frames} {
			if fd >= 0 {
				unix.Close(fd)
			}
		}
		for _, q := range p.queues {
			unix.Close(q.out)
		}
		for _, s := range p.udp {
			if s.fd >= 0 {
				unix.Close(s.fd)
			}
		}
		for _, l := range p.links {
			l.undo.run()
		}
		p.undo.run()
	})
	return nil
}

// Failed gives the error that ended the plane's work, if there ever is one: its device was removed. Only a new plane helps.
func (p *Plane) Failed() <-chan error { return p.failed }

func (p *Plane) fail(err error) {
	select {
	case p.failed <- err:
	default: // one is enough
	}
}

// Device is the interface name of the TUN of an anchor or node.
func (p *Plane) Device() string { return p.cfg.Device }

func bootTime() time.Duration {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &ts); err != nil {
		panic("data plane: CLOCK_BOOTTIME: " + err.Error()) // every Linux has it
	}
	return time.Duration(ts.Nano())
}

// send carries out what the engine decided, for a batch of packets. It returns the first error of those that did not leave; all
// are counted.
func (p *Plane) send(out *mem.Out, b *sendBatch) (err error) {
	note := func(e error) {
		if err == nil {
			err = e
		}
	}
	for i := 0; i < len(out.Packets); {
		// Runs of one destination leave together.
		n := 1
		for i+n < len(out.Packets) && out.Packets[i+n].To == out.Packets[i].To && is4(out.Packets[i+n].B) == is4(out.Packets[i].B) {
			n++
		}
		run := out.Packets[i : i+n]
		i += n
		switch to := run[0].To; {
		case to == dataplane.ToTunnel:
			note(p.toTunnel(b, run))
		case to == dataplane.ToSelf: // what is of an anchor's own may come from an address that it does not have
			note(p.toCore(b, run, false))
		case to == dataplane.ToSignal:
			for j := range run {
				p.signals.take(&run[j])
			}
		case len(p.queues) != 0:
			note(p.toTUN(b, run))
		default:
			note(p.toHosts(b, run))
		}
	}
	return err
}

// toCore sends whole packets by the routes of their destinations, or with source, which must be this host's, by that of it.
func (p *Plane) toCore(b *sendBatch, run []mem.Packet, source bool) (first error) {
	for len(run) != 0 {
		now := run[:min(len(run), batchSize)]
		run = run[len(now):]
		fd, n := p.out6, 0
		if is4(now[0].B) {
			fd, n = p.out4, b.outer4(now, source)
		} else {
			n = b.outer6(now, source)
		}
		if err := p.flush(b, fd, n); first == nil {
			first = err
		}
	}
	return first
}

func is4(pkt []byte) bool { return pkt[0]>>4 == 4 }

func (p *Plane) flush(b *sendBatch, fd, n int) (first error) {
	for at := 0; at < n; {
		sent, err := b.send(fd, at, n)
		at += sent
		if err == nil {
			continue
		}
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if first == nil {
			first = err
		}
		switch {
		case errors.Is(err, unix.EMSGSIZE):
			// The route carries less than was thought: look again; the source hears of it with its next packet.
			p.routes.lookAgain()
			p.Count(wire.TooBig)
		case errors.Is(err, unix.EAGAIN):
			// A device stood still for sendWait. The others must not wait as long for each packet of a batch.
			for ; at < n; at++ {
				p.Count(wire.SendFailed)
			}
		default:
			p.Count(wire.SendFailed)
		}
		at++
	}
	return first
}
