package simnet

import (
	"encoding/binary"
	"net/netip"
	"slices"
	"time"

	"kedge/internal/access"
	"kedge/internal/core"
	"kedge/wire/ether"
	"kedge/wire/ip"
	"kedge/wire/nd"
)

// HostConfig is a host with an ordinary stack that knows nothing of mobility.
type HostConfig struct {
	Name     string
	MAC      core.MAC
	No4, No6 bool
	// Quiet hosts say nothing after a carrier flap but MLD, as udhcpc and the kernel's SLAAC do. Others also send a Router
	// Solicitation, and check their lease (INIT-REBOOT), as dhcpcd does.
	Quiet bool
}

// Host is one host: SLAAC (RFC 4862, without duplicate address detection, for its addresses are its own by the prefix),
// ND, ARP, a DHCPv4 client (RFC 2131), ping.
type Host struct {
	HostConfig
	Addrs6 []Address6
	Addr4  netip.Prefix // invalid without a lease
	Lease  Lease

	// Replies are the echo replies that came, in order.
	Replies []Reply
	// Requests counts echo requests that came for this host.
	Requests int
	// Events are changes of addresses, in order.
	Events []string

	s    *Sim
	air  *Air
	boot bool // was on a link before
	gen  int  // changes with the carrier: older timers mean nothing
	dhcp dhcpClient
}

// Address6 is one address by a prefix.
type Address6 struct {
	Prefix netip.Prefix
	Addr   netip.Addr
	Until  time.Duration // boot time
}

// Reply is one echo reply.
type Reply struct {
	From netip.Addr
	Seq  uint16
	At   time.Duration // since the beginning
}

// Host adds a host; it is on no link yet.
func (s *Sim) Host(cfg HostConfig) *Host {
	h := &Host{HostConfig: cfg, s: s}
	s.hosts = append(s.hosts, h)
	return h
}

// Hosts of the world, in the order in which they were made.
func (s *Sim) Hosts() []*Host { return s.hosts }

// LinkLocal is made of the MAC (RFC 4291 2.5.1).
func (h *Host) LinkLocal() netip.Addr { return h.addressOf(netip.MustParsePrefix("fe80::/64")) }

func (h *Host) addressOf(p netip.Prefix) netip.Addr {
	b := p.Addr().As16()
	copy(b[8:], []byte{h.MAC[0] ^ 2, h.MAC[1], h.MAC[2], 0xff, 0xfe, h.MAC[3], h.MAC[4], h.MAC[5]})
	return netip.AddrFrom16(b)
}

// On is the access link, nil if the host is on none.
func (h *Host) On() *Air { return h.air }

// Move takes the host to a link with a loss of carrier; nil takes it away.
func (h *Host) Move(to *Air) {
	h.leave()
	if to == nil {
		h.gen++
		h.s.trace("%s leaves", h.Name)
		return
	}
	h.join(to)
	h.s.trace("%s moves to %s", h.Name, to.Name)
	h.carrier()
}

// Slide takes the host to a link without its noticing.
func (h *Host) Slide(to *Air) {
	h.leave()
	h.join(to)
	h.s.trace("%s slides to %s", h.Name, to.Name)
}

func (h *Host) leave() {
	if h.air != nil {
		h.air.hosts = slices.DeleteFunc(h.air.hosts, func(o *Host) bool { return o == h })
	}
	h.air = nil
}

func (h *Host) join(a *Air) {
	h.air = a
	a.hosts = append(a.hosts, h)
}

// after makes f happen unless the carrier changes before.
func (h *Host) after(d time.Duration, f func()) {
	gen := h.gen
	h.s.After(d, func() {
		if h.gen == gen {
			f()
		}
	})
}

// carrier is what the stack does when the link comes up.
func (h *Host) carrier() {
	h.gen++
	first := !h.boot
	h.boot = true
	if !h.No6 {
		h.send(&access.Frame{Dst: core.MAC{0x33, 0x33, 0, 0, 0, 0x16}, SrcIP: h.LinkLocal(), DstIP: nd.AllMLDv2, Body: &nd.MLDReport{
			Version: 2, Records: []nd.MLDRecord{{Type: nd.ChangeToExcludeMode, Group: nd.SolicitedNode(h.LinkLocal())}},
		}})
	}
	if h.Quiet && !first {
		if h.dhcp.state != bound { // an exchange that the flap cut short goes on
			h.dhcp.again(h)
		}
		h.dhcp.rearm(h)
		return
	}
	if !h.No6 {
		h.solicit(3)
	}
	if !h.No4 {
		h.dhcp.carrier(h)
	}
}

// solicit sends up to n Router Solicitations (RFC 4861 6.3.7), until an advertisement comes.
func (h *Host) solicit(n int) {
	if n == 0 {
		return
	}
	h.send(&access.Frame{Dst: core.MAC{0x33, 0x33, 0, 0, 0, 2}, SrcIP: h.LinkLocal(), DstIP: nd.AllRouters,
		Body: &nd.RouterSolicitation{Options: nd.Options{nd.SourceLinkLayer(h.MAC)}}})
	h.after(4*time.Second, func() {
		if len(h.valid6()) == 0 {
			h.solicit(n - 1)
		}
	})
}

// valid6 drops the addresses whose lifetime is over.
func (h *Host) valid6() []Address6 {
	h.Addrs6 = slices.DeleteFunc(h.Addrs6, func(a Address6) bool {
		if a.Until <= h.s.boot {
			h.event("expired " + a.Addr.String())
			return true
		}
		return false
	})
	return h.Addrs6
}

// Addr6 is the first valid address, or the zero Addr.
func (h *Host) Addr6() netip.Addr {
	if a := h.valid6(); len(a) > 0 {
		return a[0].Addr
	}
	return netip.Addr{}
}

func (h *Host) event(what string) {
	h.Events = append(h.Events, what)
	h.s.trace("%s: %s", h.Name, what)
}

func (h *Host) send(f *access.Frame) {
	if h.air == nil {
		return
	}
	f.Src = h.MAC
	b, err := f.Append(nil)
	if err != nil {
		panic(err) // built by ourselves
	}
	h.air.fromHost(h, b)
}

// Ping sends an echo request to an address of either family by the router.
func (h *Host) Ping(to netip.Addr, seq uint16) {
	src := h.Addr6()
	if to.Is4() {
		src = h.Addr4.Addr()
	}
	if !src.IsValid() || h.air == nil {
		return
	}
	h.PingFrom(src, to, seq)
}

// PingFrom uses any source address, also a forged one.
func (h *Host) PingFrom(src, to netip.Addr, seq uint16) {
	h.send(&access.Frame{Dst: h.router(), SrcIP: src, DstIP: to, Body: echo(src, seq, false)})
}

// router is the router's MAC, the same on all links.
func (h *Host) router() core.MAC {
	if h.air == nil {
		return core.MAC{}
	}
	return h.air.port.MAC
}

func echo(src netip.Addr, seq uint16, reply bool) any {
	if src.Is4() {
		return &access.Echo4{Reply: reply, Rest: binary.BigEndian.AppendUint16([]byte{0, 1}, seq)}
	}
	return &nd.Echo{Reply: reply, ID: 1, Seq: seq}
}

// frame takes a frame from the link.
func (h *Host) frame(a *Air, b []byte) {
	if a != h.air {
		return
	}
	f, err := access.Decode(b)
	if err != nil {
		return
	}
	switch m := f.Body.(type) {
	case *nd.RouterAdvertisement:
		if !h.No6 {
			h.advertised(m)
		}
	case *nd.NeighborSolicitation:
		if !h.No6 && (m.Target == h.LinkLocal() || h.has6(m.Target)) {
			h.send(&access.Frame{Dst: f.Src, SrcIP: m.Target, DstIP: f.SrcIP, Body: &nd.NeighborAdvertisement{
				Solicited: true, Override: true, Target: m.Target, Options: nd.Options{nd.TargetLinkLayer(h.MAC)}}})
		}
	case *ether.ARP:
		if h.Addr4.IsValid() && m.Op == ether.ARPRequest && m.TargetIP == h.Addr4.Addr() {
			h.send(&access.Frame{Dst: f.Src, Body: &ether.ARP{
				Op: ether.ARPReply, SenderHW: h.MAC, SenderIP: m.TargetIP, TargetHW: m.SenderHW, TargetIP: m.SenderIP}})
		}
	case *nd.Echo:
		if h.has6(f.DstIP) {
			h.echoed(f, m.Seq, m.Reply)
		}
	case *access.Echo4:
		if h.Addr4.IsValid() && f.DstIP == h.Addr4.Addr() && len(m.Rest) >= 4 {
			h.echoed(f, binary.BigEndian.Uint16(m.Rest[2:]), m.Reply)
		}
	default:
		h.dhcp.frame(h, f)
	}
}

func (h *Host) has6(a netip.Addr) bool {
	return slices.ContainsFunc(h.valid6(), func(x Address6) bool { return x.Addr == a })
}

func (h *Host) echoed(f *access.Frame, seq uint16, reply bool) {
	if reply {
		h.Replies = append(h.Replies, Reply{From: f.SrcIP, Seq: seq, At: h.s.Elapsed()})
		return
	}
	h.Requests++
	h.send(&access.Frame{Dst: h.router(), SrcIP: f.DstIP, DstIP: f.SrcIP, Body: echo(f.DstIP, seq, true)})
}

// advertised takes the prefixes of an advertisement (RFC 4862 5.5.3).
func (h *Host) advertised(m *nd.RouterAdvertisement) {
	for _, o := range m.Options {
		p, ok := o.(*nd.PrefixInformation)
		if !ok || !p.Autonomous || p.Prefix.Bits() != 64 {
			continue
		}
		prefix, until := p.Prefix.Masked(), h.s.boot+time.Duration(p.Valid)*time.Second
		i := slices.IndexFunc(h.valid6(), func(a Address6) bool { return a.Prefix == prefix })
		switch {
		case i >= 0 && p.Valid == 0:
			h.event("lost " + h.Addrs6[i].Addr.String())
			h.Addrs6 = slices.Delete(h.Addrs6, i, i+1)
		case i >= 0:
			h.Addrs6[i].Until = until
		case p.Valid > 0:
			a := Address6{Prefix: prefix, Addr: h.addressOf(prefix), Until: until}
			h.Addrs6 = append(h.Addrs6, a)
			h.event("has " + a.Addr.String())
		}
	}
}

// Correspondent is a node on an anchor's native side that answers pings, and sends them.
type Correspondent struct {
	Addr4, Addr6 netip.Addr
	Replies      []Reply
	Requests     int

	s    *Sim
	node *Node
	cond Conditions
}

// Correspondent joins one to an anchor; it takes its native side.
func (s *Sim) Correspondent(n *Node, a4, a6 netip.Addr, c Conditions) *Correspondent {
	x := &Correspondent{Addr4: a4, Addr6: a6, s: s, node: n, cond: c}
	n.Native = func(b []byte) { s.After(c.Latency, func() { x.packet(b) }) }
	return x
}

// Ping sends an echo request.
func (x *Correspondent) Ping(to netip.Addr, seq uint16) {
	if to.IsValid() {
		x.send(to, seq, false)
	}
}

func (x *Correspondent) send(to netip.Addr, seq uint16, reply bool) {
	src := x.Addr6
	if to.Is4() {
		src = x.Addr4
	}
	b, err := (&access.Frame{SrcIP: src, DstIP: to, Body: echo(src, seq, reply)}).Append(nil)
	if err != nil {
		panic(err)
	}
	x.s.After(x.cond.Latency, func() { x.node.FromNative(b[14:]) })
}

func (x *Correspondent) packet(b []byte) {
	hdr, err := ip.Parse(b)
	if err != nil || hdr.Dst != x.Addr4 && hdr.Dst != x.Addr6 {
		return
	}
	typ := [2]byte{0x08, 0x00}
	if !hdr.Is4() {
		typ = [2]byte{0x86, 0xdd}
	}
	f, err := access.Decode(slices.Concat(make([]byte, 12), typ[:], b))
	if err != nil {
		return
	}
	var seq uint16
	var reply bool
	switch m := f.Body.(type) {
	case *nd.Echo:
		seq, reply = m.Seq, m.Reply
	case *access.Echo4:
		if len(m.Rest) < 4 {
			return
		}
		seq, reply = binary.BigEndian.Uint16(m.Rest[2:]), m.Reply
	default:
		return
	}
	if reply {
		x.Replies = append(x.Replies, Reply{From: hdr.Src, Seq: seq, At: x.s.Elapsed()})
		return
	}
	x.Requests++
	x.send(hdr.Src, seq, true)
}
