package homeagent

import (
	"net/netip"
	"time"

	"kedge/internal/access"
	"kedge/internal/core"
	"kedge/internal/due"
	"kedge/wire/ether"
	"kedge/wire/nd"
)

// maxAdvertisements is MAX_NEIGHBOR_ADVERTISEMENT, RFC 4861 10: how often an address that is taken over is announced. ARP
// Announcements go out in the same rounds (RFC 5227 2.3).
const maxAdvertisements = 3

// defendInterval is the least time between two announcements of one address that somebody else claims (RFC 5227 2.4).
const defendInterval = 10 * time.Second

// LinkConfig is a home link with frames.
type LinkConfig struct {
	MAC          core.MAC
	LinkLocal    netip.Addr    // source of Neighbor Advertisements
	Transmits    int           // DupAddrDetectTransmits, RFC 4862 5.1; 0 or less: no detection
	RetransTimer time.Duration // RFC 4861 10
}

// Link is what a home agent does on a real home link by frames of its own: duplicate address detection before it serves a
// node (RFC 6275 10.3.1), and announcing the addresses that it takes over (10.4.1). Answering for them is the kernel's work,
// by proxy entries.
type Link struct {
	cfg       LinkConfig
	addresses map[netip.Addr]*address
	queue     due.Queue[*address]
	frames    []*access.Frame
}

// address is one on the link that is tested or announced.
type address struct {
	a        netip.Addr
	probing  bool
	router   bool
	doubtful bool // of an earlier run: whoever claims it now knows better
	rest     int  // rounds to come
	at       time.Duration
	place    int
	defended time.Duration // boot time of the last announcement against somebody else
}

// NewLink makes one.
func NewLink(cfg LinkConfig) *Link {
	return &Link{cfg: cfg, addresses: make(map[netip.Addr]*address), queue: due.New(
		func(a, b *address) bool { return a.at < b.at || a.at == b.at && a.a.Less(b.a) },
		func(a *address) *int { return &a.place })}
}

// Frames gives the frames to send and forgets them.
func (l *Link) Frames() []*access.Frame {
	f := l.frames
	l.frames = nil
	return f
}

// Deadline is when Tick wants to be called.
func (l *Link) Deadline() (time.Duration, bool) {
	a, ok := l.queue.Min()
	if !ok {
		return 0, false
	}
	return a.at, true
}

// Probe starts duplicate address detection of an IPv6 address, RFC 4862 5.4.2; false: none is done, it counts as unique. One
// that runs goes on.
func (l *Link) Probe(now core.Now, a netip.Addr) bool {
	if l.cfg.Transmits <= 0 {
		return false
	}
	if old := l.addresses[a]; old != nil {
		if old.probing {
			return true
		}
		l.Yield(a)
	}
	p := &address{a: a, probing: true, rest: l.cfg.Transmits, at: now.Boot, place: -1}
	l.addresses[a] = p
	l.round(now, p)
	return true
}

// Defend announces an address, and again in rounds of RetransTimer. router: its node is a mobile router, of which advertisements
// say so (RFC 3963 6.2).
func (l *Link) Defend(now core.Now, a netip.Addr, router bool) {
	if d := l.addresses[a]; d != nil && !d.probing {
		return
	}
	l.Yield(a)
	d := &address{a: a, router: router, rest: maxAdvertisements, place: -1}
	l.addresses[a] = d
	l.round(now, d)
}

// Doubt makes a defended address one that is given up when somebody else claims it, or one that is not: after a restart its node may
// have come home meanwhile, or have gone to another home agent.
func (l *Link) Doubt(a netip.Addr, yes bool) {
	if d := l.addresses[a]; d != nil && !d.probing {
		d.doubtful = yes
	}
}

// Yield stops whatever is done for an address.
func (l *Link) Yield(a netip.Addr) {
	if d := l.addresses[a]; d != nil {
		l.queue.Remove(d)
		delete(l.addresses, a)
	}
}

// round sends what is to be sent now, and waits for the next one.
func (l *Link) round(now core.Now, d *address) {
	d.rest--
	if d.probing {
		l.solicit(d.a)
	} else {
		l.announce(d)
	}
	if d.rest == 0 && !d.probing {
		l.queue.Remove(d)
		return
	}
	d.at = now.Boot + l.cfg.RetransTimer
	l.queue.Set(d)
}

// Tick does what is due. It gives the addresses whose detection ended without a conflict.
func (l *Link) Tick(now core.Now) (unique []netip.Addr) {
	for d, ok := l.queue.Min(); ok && d.at <= now.Boot; d, ok = l.queue.Min() {
		if d.probing && d.rest == 0 {
			l.Yield(d.a)
			unique = append(unique, d.a)
			continue
		}
		l.round(now, d)
	}
	return unique
}

// Conflict says that somebody else on the link has an address, or claims it.
type Conflict struct {
	Addr    netip.Addr
	MAC     core.MAC
	Probing bool // it was being tested: the test is over; else it is defended
	Over    bool // it was defended, and is not any more
}

// Handle takes a frame of the link. ok is false when it is no conflict.
func (l *Link) Handle(now core.Now, f *access.Frame) (c Conflict, ok bool) {
	if f.Src == l.cfg.MAC {
		return c, false
	}
	var a netip.Addr
	switch b := f.Body.(type) {
	case *nd.NeighborSolicitation:
		if !f.SrcIP.IsUnspecified() { // address resolution, not another test (RFC 4862 5.4.3)
			return c, false
		}
		a = b.Target
	case *nd.NeighborAdvertisement:
		a = b.Target
	case *ether.ARP:
		a = b.SenderIP
	}
	d := l.addresses[a]
	if d == nil {
		return c, false
	}
	c = Conflict{Addr: a, MAC: f.Src, Probing: d.probing}
	if d.probing {
		l.Yield(a)
		return c, true
	}
	if _, probe := f.Body.(*nd.NeighborSolicitation); probe {
		return c, false // the proxy entry answers it
	}
	if d.doubtful {
		l.Yield(a)
		c.Over = true
		return c, true
	}
	if d.defended != 0 && now.Boot-d.defended < defendInterval {
		return c, false
	}
	d.defended = now.Boot
	l.announce(d)
	return c, true
}

// solicit sends one probe: from ::, to the solicited-node group (RFC 4862 5.4.2).
func (l *Link) solicit(a netip.Addr) {
	to := nd.SolicitedNode(a)
	l.frames = append(l.frames, &access.Frame{
		Dst: group(to), Src: l.cfg.MAC, SrcIP: netip.IPv6Unspecified(), DstIP: to, Body: &nd.NeighborSolicitation{Target: a},
	})
}

// announce takes an address over in the neighbours' caches: RFC 6275 10.4.1, RFC 5227 1.1.
func (l *Link) announce(d *address) {
	a := d.a
	if a.Is4() {
		l.frames = append(l.frames, &access.Frame{Dst: ether.Broadcast, Src: l.cfg.MAC, SrcIP: a, DstIP: a,
			Body: &ether.ARP{Op: ether.ARPRequest, SenderHW: l.cfg.MAC, SenderIP: a, TargetIP: a}})
		return
	}
	to := netip.IPv6LinkLocalAllNodes()
	l.frames = append(l.frames, &access.Frame{Dst: group(to), Src: l.cfg.MAC, SrcIP: l.cfg.LinkLocal, DstIP: to,
		Body: &nd.NeighborAdvertisement{Router: d.router, Override: true, Target: a, Options: nd.Options{nd.TargetLinkLayer(l.cfg.MAC)}}})
}

// group is the MAC address of an IPv6 multicast address, RFC 2464 7.
func group(a netip.Addr) core.MAC {
	b := a.As16()
	return core.MAC{0x33, 0x33, b[12], b[13], b[14], b[15]}
}
