package simnet

import (
	"net/netip"
	"slices"
	"time"

	"kedge/internal/access"
	"kedge/internal/core"
	"kedge/wire/ether"
	"kedge/wire/ip"
	"kedge/wire/nd"
)

// VisitedConfig is an access network that mobile nodes may visit.
type VisitedConfig struct {
	Name string
	Core *Link // that its router is attached to
	// Prefix6 and Prefix4 are what the router advertises and leases; invalid = not this family. The router has the first
	// address of Prefix4.
	Prefix6, Prefix4 netip.Prefix
	// NAT is the public address that Prefix4 hides behind; unset = Prefix4 is public. NATTimeout ends its mappings.
	NAT        netip.Addr
	NATTimeout time.Duration
	Lease      time.Duration // how long a node's DHCP client needs for its address
	Cond       Conditions    // of the access link
}

// Visited is one such network: a router that advertises, answers and forwards, a DHCP server, perhaps a NAT.
type Visited struct {
	VisitedConfig
	s        *Sim
	mac      core.MAC
	here     []*Iface
	nat      *nat
	has6     bool
	has4     bool
	faults   []*fault
	lastHost uint32
}

// raDelay is the longest delay of an answer to a Router Solicitation (RFC 4861 10, MAX_RA_DELAY_TIME).
const raDelay = 500 * time.Millisecond

// raEvery is the time between unsolicited advertisements.
const raEvery = 60 * time.Second

// Visited adds a network to the world.
func (s *Sim) Visited(cfg VisitedConfig) *Visited {
	v := &Visited{VisitedConfig: cfg, s: s, has6: cfg.Prefix6.IsValid(), has4: cfg.Prefix4.IsValid(), lastHost: 9}
	v.mac = core.MAC{2, 0xee, byte(len(s.visited) >> 8), byte(len(s.visited)), 0, 1}
	if v.Cond.Latency == 0 {
		v.Cond.Latency = airLatency
	}
	s.visited = append(s.visited, v)
	if v.has6 {
		cfg.Core.Route(cfg.Prefix6, v.down)
	}
	switch {
	case v.has4 && cfg.NAT.IsValid():
		v.nat = newNAT(s, cfg.NAT, cfg.NATTimeout)
		cfg.Core.Route(netip.PrefixFrom(cfg.NAT, 32), v.down)
	case v.has4:
		cfg.Core.Route(cfg.Prefix4, v.down)
	}
	s.After(raEvery, v.advertiseAgain)
	return v
}

// Fault adds a router on the access link; the function it gives takes it away again.
func (v *Visited) Fault(r Router) (remove func()) {
	f := &fault{r}
	v.faults = append(v.faults, f)
	return func() { v.faults = slices.DeleteFunc(v.faults, func(o *fault) bool { return o == f }) }
}

// SetIPv6 makes the family appear, or go: told by advertisements with lifetime 0, or without a word.
func (v *Visited) SetIPv6(on, told bool) {
	if !v.Prefix6.IsValid() || v.has6 == on {
		return
	}
	v.has6 = on
	v.s.trace("%s: IPv6 %v", v.Name, on)
	if on || told {
		for _, i := range slices.Clone(v.here) {
			v.advertise(i, on)
		}
	}
}

// SetIPv4 makes the family appear, or go; nodes' DHCP clients notice when their lease is over.
func (v *Visited) SetIPv4(on bool) {
	if !v.Prefix4.IsValid() || v.has4 == on {
		return
	}
	v.has4 = on
	v.s.trace("%s: IPv4 %v", v.Name, on)
	for _, i := range slices.Clone(v.here) {
		i.dhcp()
	}
}

// Rebind makes the NAT forget its mappings; new ones have other ports.
func (v *Visited) Rebind() {
	if v.nat != nil {
		v.nat.rebind()
		v.s.trace("%s: NAT forgets", v.Name)
	}
}

// linkLocal is the router's address on the access link.
func (v *Visited) linkLocal() netip.Addr {
	return netip.AddrFrom16([16]byte{0xfe, 0x80, 8: v.mac[0] ^ 2, 9: v.mac[1], 10: v.mac[2], 11: 0xff, 12: 0xfe, 13: v.mac[3], 14: v.mac[4], 15: v.mac[5]})
}

// Gateway is the router's IPv4 address.
func (v *Visited) Gateway() netip.Addr { return v.Prefix4.Masked().Addr().Next() }

// lease gives an address that nobody else here has had.
func (v *Visited) lease() netip.Prefix {
	a := v.Prefix4.Masked().Addr().As4()
	v.lastHost++
	a[3] += byte(v.lastHost % 240)
	return netip.PrefixFrom(netip.AddrFrom4(a), v.Prefix4.Bits())
}

// frame takes a frame of a node: what the router answers.
func (v *Visited) frame(i *Iface, b []byte) {
	f, err := access.Decode(b)
	if err != nil || f == nil {
		return
	}
	switch m := f.Body.(type) {
	case *nd.RouterSolicitation:
		if v.has6 {
			v.s.After(time.Duration(v.s.rng.Int64N(int64(raDelay/10))), func() { v.advertise(i, v.has6) })
		}
	case *nd.NeighborSolicitation:
		if m.Target != v.linkLocal() || !v.has6 || f.SrcIP.IsUnspecified() {
			return
		}
		v.reply(i, &access.Frame{Dst: f.Src, Src: v.mac, SrcIP: m.Target, DstIP: f.SrcIP, Body: &nd.NeighborAdvertisement{
			Router: true, Solicited: true, Override: true, Target: m.Target, Options: nd.Options{nd.TargetLinkLayer(v.mac)},
		}})
	case *ether.ARP:
		if m.Op != ether.ARPRequest || m.TargetIP != v.Gateway() || !v.has4 {
			return
		}
		v.reply(i, &access.Frame{Dst: f.Src, Src: v.mac, Body: &ether.ARP{
			Op: ether.ARPReply, SenderHW: v.mac, SenderIP: m.TargetIP, TargetHW: m.SenderHW, TargetIP: m.SenderIP,
		}})
	}
}

func (v *Visited) advertiseAgain() {
	if v.has6 {
		for _, i := range slices.Clone(v.here) {
			v.advertise(i, true)
		}
	}
	v.s.After(raEvery, v.advertiseAgain)
}

// advertise sends a Router Advertisement to one node.
func (v *Visited) advertise(i *Iface, on bool) {
	const hour = 3600
	p := &nd.PrefixInformation{Prefix: v.Prefix6, OnLink: true, Autonomous: true}
	ra := &nd.RouterAdvertisement{CurHopLimit: 64, Options: nd.Options{nd.SourceLinkLayer(v.mac), p}}
	if on {
		ra.RouterLifetime, p.Valid, p.Preferred = hour/2, 2*hour, hour
	}
	v.reply(i, &access.Frame{Dst: core.MAC{0x33, 0x33, 0, 0, 0, 1}, Src: v.mac, SrcIP: v.linkLocal(), DstIP: nd.AllNodes, Body: ra})
}

func (v *Visited) reply(i *Iface, f *access.Frame) {
	b, err := f.Append(nil)
	if err != nil {
		panic("simnet: " + err.Error())
	}
	p := &Packet{Kind: Frame, From: v.Name, To: i.m.Name, B: b}
	v.s.admit(p, v.Name)
	v.s.travel(p, v.Cond, v.faults, func(b []byte) {
		if i.on == v && i.up() {
			i.m.heard(i, b)
		}
	})
}

// up takes a packet from a node and forwards it.
func (v *Visited) up(i *Iface, b []byte) {
	h, err := ip.Parse(b)
	if err != nil {
		v.s.trace("%s: a packet of %s has no IP header: %v", v.Name, i.m.Name, err)
		return
	}
	p := &Packet{Kind: Tunnel, From: i.m.Name, To: v.Name, Src: h.Src, Dst: h.Dst, B: b}
	v.s.admit(p, v.Name)
	v.s.travel(p, v.Cond, v.faults, func(b []byte) {
		if h.Is4() && !v.has4 || !h.Is4() && !v.has6 {
			return
		}
		if v.nat != nil && h.Is4() {
			if b = v.nat.out(b); b == nil {
				v.s.trace("%s: NAT drops protocol %d", v.Name, h.Proto)
				return
			}
			h, _ = ip.Parse(b)
		}
		v.Core.carry(&Packet{Kind: Tunnel, From: v.Name, Src: h.Src, Dst: h.Dst, B: b})
	})
}

// down takes a packet from the core.
func (v *Visited) down(p *Packet) {
	b := p.B
	if v.nat != nil && p.Dst == v.NAT {
		if b = v.nat.in(b); b == nil {
			v.s.trace("%s: NAT has no mapping for %s", v.Name, p.What())
			return
		}
	}
	h, err := ip.Parse(b)
	if err != nil || h.Is4() && !v.has4 || !h.Is4() && !v.has6 {
		return
	}
	for _, i := range v.here {
		if !i.has(h.Dst) {
			continue
		}
		q := &Packet{Kind: Tunnel, From: v.Name, To: i.m.Name, Src: h.Src, Dst: h.Dst, B: b}
		v.s.admit(q, v.Name)
		v.s.travel(q, v.Cond, v.faults, func(b []byte) {
			if i.on == v && i.up() && i.has(h.Dst) {
				i.m.receive(Tunnel, h.Src, h.Dst, b)
			}
		})
		return
	}
	v.s.trace("%s: nobody has %s", v.Name, h.Dst)
}
