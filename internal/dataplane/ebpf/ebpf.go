// Package ebpf is the data plane in the kernel: programs on interfaces carry the plain packets of known sessions, and a user.Plane
// beside them everything else. Both have the same state at any time, so that every packet may go either way: what a program does
// not understand, it leaves alone, and the packet reaches the plane's sockets and device as if there were no program. Correctness
// never depends on the fast path.
//
// Fast are protocols 4 and 41 in IPv6 and in IPv4, UDP 4191 in IPv4 (RFC 5213, 5844, 5555), and GRE with and without keys in both
// (RFC 2784, 2890, 5845), with TCP super packets and UDP_SEGMENT. Slow are sessions of other chains (two layers, TLV, ESP, route
// optimization) and an anchor's in bridged mode. Slow are also signalling (always), packets that are too big for the tunnel, fragments, IP options and extension headers, ESP,
// what an ICMP error has to be sent about, UDP over IPv6, packets to a neighbour whose address the kernel has yet to find, and the first packets of
// strangers: so many that the plane reports them, the others are dropped and counted in the kernel.
//
// A packet on the fast path passes no netfilter rule, no connection tracking and no reverse path filter of this host. On an anchor
// with Config.ThroughStack, or while Config.Netfilter names rules, inner packets pass all of it in both directions: the kernel
// forwards them between its links and the plane's device, where the programs take them up. Packets from mobile node to mobile node
// never do, on either way of forwarding, nor do outer packets. Packets of UDP framing that the kernel is to cut into segments
// have no UDP checksum. What two registrations share (a shadow) is sent upward the slow way.
//
// The way to a tunnel's other end is remembered, on each processor, until netlink tells of any change of routes, neighbours, links,
// addresses or rules, and for a second at most, so that nothing lasts when the process that listens is gone.
//
// What leaves a tunnel in single segments of TCP goes by a pair of veth, the joiner, which makes super packets of them again (join.go).
//
// Two layers could be fast. A prototype put two IPv6 headers before TCP packets by one adjust_room of 80 octets with ENCAP_L3_IPV6. Super
// packets of 64 KB went through, and with segmentation forced behind the program (tso and gso off at the tunnel's link) each segment had
// the right length in both outer headers (1,540 and 1,500 around 1,460 octets of IPv4's 1,500), for inner IPv4 and IPv6, both ways. On a
// busy machine of two processors, over veth, it carried 4.2 and 3.3 Gbit/s (IPv6, IPv4), where plain routing carried 5.6 and 2.6;
// with forced segmentation 1.1 and 0.9, where plain routing carried 3.9 and 4.4. It was not made to verify lengths on arrival, nor does
// a session record hold a second tunnel; so the engine carries them.
//
// The programs are attached by tcx, before Linux 6.6 by clsact. Tables and tcx links can be pinned: then programs go on when the
// process ends, and the next one adopts them. They stop by themselves Config.Hold after the process did.
//
// Sources are in bpf, compiled by bpf/generate.sh; kedge.o is committed.
package ebpf

import (
	"errors"
	"fmt"
	"iter"
	"math/rand/v2"
	"net"
	"os"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cilium/ebpf/ringbuf"
	"github.com/cilium/ebpf/rlimit"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"kedge/internal/core"
	"kedge/internal/dataplane/user"
	"kedge/wire"
)

// Config of a plane: that of the plane beside it, and what follows.
type Config struct {
	user.Config
	// Name tells the classifiers of this plane from those of others in the network namespace.
	Name string
	// Core are the names of the links over which tunnels' other ends are reached, as patterns of path.Match; on an anchor also
	// those over which packets to home addresses come. None = all with Ethernet that are not access links.
	Core []string
	// Sessions is how many the programs can hold, 0 = DefaultSessions. Others are carried by the plane beside them.
	Sessions int
	Keys     int // home prefixes and addresses, 0 = twice as many
	Pairs    int // of addresses between which there is route optimization, 0 = DefaultPairs; with more, the programs leave all IPv6 to the engine
	// Pin is a directory of its own in a BPF file system, "/sys/fs/bpf/kedge/lma1". "" = nothing outlives the process.
	Pin  string
	Hold time.Duration // how long the programs go on without a process, 0 = DefaultHold
	// ThroughStack lets the kernel forward what leaves and enters the tunnels of an anchor, between its links and the plane's device:
	// for hosts with rules of netfilter about it. Netfilter names such rules, and as long as there are some, or it fails, it is as if
	// ThroughStack were set; it is asked at the start, when nftables changes, and twice a minute. nil = never.
	ThroughStack bool
	Netfilter    func() (rules []string, err error)
	Clsact       bool // even where there is tcx
	NoJoin       bool // segments that leave tunnels go on as they came
	Probe        Probe

	// For tests: the programs take the time from Now, sessions that they do not hold, and what else loads the programs.
	fakeClock bool
	slow      func(core.ID) bool
	load      func(*Config) (*collection, error)
}

const (
	DefaultSessions = 1 << 16
	DefaultPairs    = 1 << 14
	DefaultHold     = 10 * time.Minute
	// look is how often the programs are told that the process lives, and interfaces are looked at though nothing was said. What nobody
	// looks after for three times as long, the programs do not use.
	look = time.Second
)

// Plane is the running data plane.
type Plane struct {
	*user.Plane
	cfg     Config
	k       *collection
	m       *mirror
	nl      *netlink.Handle
	news    *os.File // a socket
	talks   *ringbuf.Reader
	ns      netns.NsHandle
	tcx     bool
	ability Ability

	attaching sync.Mutex // guards hooks, joiner
	hooks     map[place]*hook
	joiner    joiner

	updating sync.Mutex // orders Update, Sync and Close
	stop     chan struct{}
	done     sync.WaitGroup
	once     sync.Once
	closed   error
	undo     []func()
	failing  atomic.Pointer[string]
	stack    stack
	ending   bool // by End
}

var _ core.Dataplane = (*Plane)(nil)

// New loads and attaches the programs and starts the plane beside them. An *Unsupported says that this kernel has no fast path:
// package user works there. On an error everything is closed again.
func New(cfg Config) (_ *Plane, err error) {
	cfg.Probe = cfg.Probe.withDefaults()
	if cfg.Sessions == 0 {
		cfg.Sessions = DefaultSessions
	}
	if cfg.Keys == 0 {
		cfg.Keys = 2*cfg.Sessions + 64
	}
	if cfg.Pairs == 0 {
		cfg.Pairs = DefaultPairs
	}
	if cfg.Hold == 0 {
		cfg.Hold = DefaultHold
	}
	if cfg.Device == "" {
		cfg.Device = user.DefaultDevice
	}
	if cfg.Now == nil {
		cfg.Now = func() time.Duration { return clockOf(unix.CLOCK_BOOTTIME) }
	}
	if cfg.load == nil {
		cfg.load = load
	}
	p := &Plane{cfg: cfg, hooks: map[place]*hook{}, joiner: joinerOf(cfg.Role, cfg.Name), stop: make(chan struct{}), ns: -1}
	if p.ability = cfg.Probe.Ask(); p.ability.Lacking != nil {
		return nil, p.ability.Lacking
	}
	p.tcx = p.ability.Attach == "tcx" && !cfg.Clsact
	defer func() {
		if err != nil {
			p.shut()
		}
	}()
	if err := p.resolveAccess(); err != nil {
		return nil, err
	}
	_ = rlimit.RemoveMemlock() // kernels before 5.11 count tables against it; the others refuse nothing
	if p.k, err = p.cfg.load(&p.cfg); err != nil {
		return nil, err
	}
	p.start()
	p.ask()
	p.cfg.Mirror, p.cfg.AfterIngress = p.m, true
	if p.Plane, err = user.New(p.cfg.Config); err != nil {
		return nil, err
	}
	if p.ns, err = netns.Get(); err != nil {
		return nil, err
	}
	if p.nl, err = netlink.NewHandle(unix.NETLINK_ROUTE); err != nil {
		return nil, err
	}
	// Routes are looked up as for packets that come from here, and no others come from the loopback device.
	for _, s := range []string{"net/ipv4/conf/lo/forwarding", "net/ipv6/conf/lo/forwarding"} {
		if err := p.set(s, "1"); err != nil {
			return nil, err
		}
	}
	if cfg.NoJoin {
		atomic.StoreUint32(&p.k.control.join, 0)
		if err := p.joiner.remove(p.nl); err != nil {
			return nil, err
		}
	}
	if err := p.reconcile(); err != nil {
		return nil, err
	}
	p.forget()
	news := make(chan netlink.LinkUpdate, 64)
	// In the namespace of the calling thread: to name it would need CAP_SYS_ADMIN.
	if err := netlink.LinkSubscribeWithOptions(news, p.stop, netlink.LinkSubscribeOptions{ErrorCallback: func(error) {}}); err != nil {
		return nil, fmt.Errorf("data plane: interfaces: %w", err)
	}
	if p.news, err = openNews(); err != nil {
		return nil, err
	}
	if cfg.Correspondents && cfg.Role == user.Node {
		if err := p.listen(); err != nil {
			return nil, err
		}
	}
	p.done.Add(2)
	go p.heed(p.news)
	go p.follow(news)
	return p, nil
}

// resolveAccess completes access links, whose index is their name to the engine.
func (p *Plane) resolveAccess() error {
	access := make([]user.Link, len(p.cfg.Access))
	for i, l := range p.cfg.Access {
		var found *net.Interface
		var err error
		if l.If == 0 {
			found, err = net.InterfaceByName(l.Name)
		} else {
			found, err = net.InterfaceByIndex(l.If)
		}
		if err != nil {
			return fmt.Errorf("data plane: access link %s (index %d): %w", l.Name, l.If, err)
		}
		l.If, l.Name = found.Index, found.Name
		access[i] = l
	}
	p.cfg.Access = access
	return nil
}

// start fills the tables in before anything is attached; those of a former process stay but for what is new in each.
func (p *Plane) start() {
	c := p.k.control
	p.m = newMirror(&p.cfg, p.k)
	if !p.k.adopted {
		c.seed = rand.Uint64()
	}
	clear(p.k.peers)
	var h host
	var bridged uint32
	var hs []host
	for all := p.k.hosts.Iterate(); all.Next(&h, &bridged); {
		if bridged == 0 { // of the others, keys tell
			hs = append(hs, h)
		}
	}
	for _, h := range hs {
		_ = p.k.hosts.Delete(&h)
	}
	atomic.StoreUint32(&c.partial, 0)
	for _, a := range p.cfg.Local {
		p.m.local(a, 1)
	}
	p.tick()
}

// tick tells the programs that the process lives, and the time where it is not the kernel's.
func (p *Plane) tick() {
	p.m.begin() // the two clocks drift apart while the host sleeps
	now := p.cfg.Now()
	if p.cfg.fakeClock {
		atomic.StoreUint64(&p.k.control.fakeNow, uint64(now))
	}
	atomic.StoreUint64(&p.k.control.aliveUntil, uint64(p.m.mono()+p.cfg.Hold))
	atomic.StoreUint64(&p.k.control.joinUntil, uint64(p.m.mono()+3*look))
}

// follow keeps the programs on the interfaces.
func (p *Plane) follow(news <-chan netlink.LinkUpdate) {
	defer p.done.Done()
	runtime.LockOSThread() // never unlocked: the thread ends with the goroutine, and its namespace with it
	if here, err := netns.Get(); err == nil {
		if !here.Equal(p.ns) {
			_ = netns.Set(p.ns) // else reconcile fails, and says so
		}
		here.Close()
	}
	t := time.NewTicker(look)
	defer t.Stop()
	for {
		select {
		case <-p.stop:
			return
		case _, ok := <-news:
			if !ok {
				news = nil // what is lost is found by looking
			}
		case <-t.C:
			p.tick()
			p.ask()
		}
		if err := p.reconcile(); err != nil {
			s := err.Error()
			p.failing.Store(&s)
		} else {
			p.failing.Store(nil)
		}
	}
}

// set changes a setting of the host, which Close puts back unless the programs go on.
func (p *Plane) set(name, value string) error {
	if p.cfg.Sysctl != nil {
		return p.cfg.Sysctl(name, value)
	}
	f, err := os.OpenFile("/proc/sys/"+name, os.O_RDWR, 0)
	if err != nil {
		return fmt.Errorf("data plane: %s: %w", name, err)
	}
	b := make([]byte, 64)
	n, _ := f.ReadAt(b, 0)
	old := strings.TrimSpace(string(b[:n]))
	if old == value {
		return f.Close()
	}
	if _, err := f.WriteAt([]byte(value), 0); err != nil {
		f.Close()
		return fmt.Errorf("data plane: %s = %s: %w", name, value, err)
	}
	p.undo = append(p.undo, func() {
		if p.cfg.Pin == "" || p.ending {
			_, _ = f.WriteAt([]byte(old), 0)
		}
		f.Close()
	})
	return nil
}

// Update applies ops to both ways of forwarding. When it returns, packets on either go by them.
func (p *Plane) Update(ops []core.Op) error {
	p.updating.Lock()
	defer p.updating.Unlock()
	p.m.begin()
	err := p.Plane.Update(ops)
	p.m.flush(p.Engine)
	return err
}

// Sync makes the state what all says. What a former process left and all does not name goes.
func (p *Plane) Sync(all iter.Seq[core.Op]) error {
	p.updating.Lock()
	defer p.updating.Unlock()
	p.m.begin()
	err := p.Plane.Sync(all)
	p.m.flush(p.Engine)
	if err == nil {
		err = p.m.sweep(p.Engine)
	}
	return err
}

// Counters reads the counters of sessions: both ways together.
func (p *Plane) Counters(ids []core.ID, into []core.Counter) error {
	if err := p.Plane.Counters(ids, into); err != nil {
		return err
	}
	slots := make([]uint32, len(ids))
	p.MirrorSlots(ids, slots)
	for i, s := range slots {
		if s != 0 {
			c := &p.k.counters[s]
			into[i].PacketsIn += atomic.LoadUint64(&c.packetsIn)
			into[i].OctetsIn += atomic.LoadUint64(&c.octetsIn)
			into[i].PacketsOut += atomic.LoadUint64(&c.packetsOut)
			into[i].OctetsOut += atomic.LoadUint64(&c.octetsOut)
		}
	}
	return nil
}

// Drops calls f with every reason and how many packets were dropped for it so far, on both ways.
func (p *Plane) Drops(f func(r wire.Reason, n uint64)) {
	p.Plane.Drops(func(r wire.Reason, n uint64) { f(r, n+p.dropped(r)) })
}

// Dropped is the count of one reason.
func (p *Plane) Dropped(r wire.Reason) uint64 { return p.Plane.Dropped(r) + p.dropped(r) }

func (p *Plane) dropped(r wire.Reason) (sum uint64) {
	for i := range reasons {
		if reasons[i] != r {
			continue
		}
		var each []uint64
		at := uint32(i)
		if p.k.drops.Lookup(&at, &each) == nil {
			for _, n := range each {
				sum += n
			}
		}
	}
	return sum
}

// Status says how a plane does.
type Status struct {
	Ability
	Attach  string   // how its programs are attached: tcx or clsact
	Links   []string // that have programs, "eth0 core"
	Partial bool     // there are sessions that the programs do not hold
	Adopted bool     // tables of a former process
	// ThroughStack says that what an anchor forwards goes through the kernel and its rules, StackWhy what it is that decides.
	ThroughStack bool
	StackWhy     string
	LastFail     string // of attaching, "" = all are
	// Joins says that segments of TCP which leave tunnels one by one are put together, JoinsNot why not.
	Joins    bool
	JoinsNot error
}

// Status tells.
func (p *Plane) Status() Status {
	s := Status{Ability: p.ability, Attach: "clsact", Adopted: p.k.adopted, Partial: atomic.LoadUint32(&p.k.control.partial) != 0}
	if p.tcx {
		s.Attach = "tcx"
	}
	if f := p.failing.Load(); f != nil {
		s.LastFail = *f
	}
	s.ThroughStack = atomic.LoadUint32(&p.k.control.through) != 0
	if w := p.stack.why.Load(); w != nil {
		s.StackWhy = *w
	}
	p.attaching.Lock()
	defer p.attaching.Unlock()
	s.Joins, s.JoinsNot = atomic.LoadUint32(&p.k.control.join) != 0, p.joiner.lacking
	for _, h := range p.hooks {
		s.Links = append(s.Links, h.name+" "+h.prog)
	}
	return s
}

// Close ends the plane. With Config.Pin the programs go on.
func (p *Plane) Close() error {
	p.once.Do(func() {
		p.updating.Lock()
		defer p.updating.Unlock()
		p.closed = p.shut()
	})
	return p.closed
}

func (p *Plane) shut() (err error) {
	close(p.stop)
	if p.news != nil {
		p.news.Close()
	}
	if p.talks != nil {
		p.talks.Close()
	}
	p.done.Wait()
	p.attaching.Lock()
	ends := p.cfg.Pin == "" || p.ending
	if p.k != nil && ends {
		atomic.StoreUint32(&p.k.control.join, 0)
	}
	for at, h := range p.hooks {
		switch {
		case ends:
			p.detach(at, h)
		case h.tcx != nil:
			h.tcx.Close() // the pin holds it
		}
	}
	if p.nl != nil && ends {
		err = p.joiner.remove(p.nl)
	}
	p.attaching.Unlock()
	if p.Plane != nil {
		err = errors.Join(err, p.Plane.Close())
	}
	for i := len(p.undo) - 1; i >= 0; i-- {
		p.undo[i]()
	}
	if p.nl != nil {
		p.nl.Close()
	}
	if p.ns >= 0 {
		p.ns.Close()
	}
	if p.k != nil {
		p.k.close()
	}
	if p.ending && p.cfg.Pin != "" {
		err = errors.Join(err, Remove(p.cfg.Pin))
	}
	return err
}

func clockOf(id int32) time.Duration {
	var ts unix.Timespec
	if err := unix.ClockGettime(id, &ts); err != nil {
		panic("data plane: clock: " + err.Error()) // every Linux has it
	}
	return time.Duration(ts.Nano())
}
