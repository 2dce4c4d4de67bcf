package simnet

import (
	"errors"
	"net/netip"
	"slices"
	"time"

	"kedge/internal/core"
	"kedge/internal/ipsec"
	"kedge/internal/loop"
	"kedge/wire"
	"kedge/wire/ip"
)

// Iface is a link of a mobile node: what its kernel knows of it.
type Iface struct {
	If   int
	Name string
	MAC  core.MAC

	m     *Node
	on    *Visited
	addrs []netip.Prefix
	gen   int // changes with the carrier
}

// up: with carrier.
func (i *Iface) up() bool { return i.on != nil }

// On is the network that the link is attached to, nil = none.
func (i *Iface) On() *Visited { return i.on }

func (i *Iface) has(a netip.Addr) bool {
	return slices.ContainsFunc(i.addrs, func(p netip.Prefix) bool { return p.Addr() == a })
}

// Iface finds a link of a mobile node by its name.
func (n *Node) Iface(name string) *Iface {
	for _, i := range n.ifaces {
		if i.Name == name {
			return i
		}
	}
	panic("simnet: " + n.Name + " has no link " + name)
}

// Attach plugs the link into a network; nil unplugs it. The node's kernel keeps its addresses, its DHCP client asks anew.
func (i *Iface) Attach(v *Visited) {
	if i.on != nil {
		i.on.here = slices.DeleteFunc(i.on.here, func(o *Iface) bool { return o == i })
		i.on = nil
		i.gen++
		i.m.s.trace("%s: %s loses carrier", i.m.Name, i.Name)
		i.tellLink()
	}
	if v == nil {
		return
	}
	i.on = v
	v.here = append(v.here, i)
	i.gen++
	i.m.s.trace("%s: %s is on %s", i.m.Name, i.Name, v.Name)
	i.tellLink()
	i.dhcp()
}

func (i *Iface) tellLink() {
	i.m.Do(core.HostChanged{Op: core.HostOp{Kind: "link", If: i.If, Name: i.Name, MAC: i.MAC, MTU: 1500, Value: "up"}, Up: i.up()})
}

// dhcp is a DHCP client that begins: it gives up what it has, and takes what the network leases.
func (i *Iface) dhcp() {
	for _, p := range slices.Clone(i.addrs) {
		if p.Addr().Is4() {
			i.route4(p, true)
			i.address(p, "", true)
		}
	}
	v, gen := i.on, i.gen
	if v == nil || !v.has4 {
		return
	}
	i.m.s.After(v.Lease, func() {
		if i.gen != gen || i.on != v || !v.has4 || slices.ContainsFunc(i.addrs, func(p netip.Prefix) bool { return p.Addr().Is4() }) {
			return
		}
		p := v.lease()
		i.address(p, "", false)
		i.route4(p, false)
	})
}

// route4 tells of the default route that comes with a lease.
func (i *Iface) route4(p netip.Prefix, gone bool) {
	via := p.Masked().Addr().Next()
	i.m.Do(core.HostChanged{Gone: gone, Op: core.HostOp{
		Kind: "route", If: i.If, Name: i.Name, Prefix: netip.PrefixFrom(netip.IPv4Unspecified(), 0), Via: via, Table: 254,
	}})
}

// address adds or removes an address and tells of it.
func (i *Iface) address(p netip.Prefix, value string, gone bool) {
	had := slices.Contains(i.addrs, p)
	if had == !gone {
		return
	}
	if gone {
		i.addrs = slices.DeleteFunc(i.addrs, func(o netip.Prefix) bool { return o == p })
	} else {
		i.addrs = append(i.addrs, p)
	}
	i.m.s.trace("%s: %s address %s gone %v", i.m.Name, i.Name, p, gone)
	i.m.Do(core.HostChanged{Gone: gone, Op: core.HostOp{Kind: "address", If: i.If, Name: i.Name, Prefix: p, Value: value}})
}

// Freeze stops a node for d, as a suspend does: packets are lost, what the kernel tells waits.
func (n *Node) Freeze(d time.Duration) {
	if !n.Up() || n.frozen {
		return
	}
	n.frozen = true
	n.s.trace("%s is frozen for %s", n.Name, d)
	n.after(n.life, d, func() {
		held := n.held
		n.held, n.frozen = nil, false
		n.s.trace("%s goes on", n.Name)
		for _, ev := range held {
			n.step(ev)
		}
	})
}

// hostOp is what the kernel of a mobile node does with an operation.
func (n *Node) hostOp(op core.HostOp) {
	if op.Kind != "address" {
		return
	}
	for _, i := range n.ifaces {
		if i.If == op.If || i.Name == op.Name && op.Name != "" {
			n.later(n.life, func() { i.address(op.Prefix, op.Value, op.Del) })
		}
	}
}

// heard takes a frame from a network: the kernel and the machine both see it.
func (n *Node) heard(i *Iface, b []byte) {
	if n.Up() && !n.frozen {
		n.step(loop.Decode("links", &core.Packet{If: i.If, B: slices.Clone(b)}))
	}
}

// depart sends a whole packet: of a mobile node by the link that has its source address.
func (n *Node) depart(b []byte) {
	h, err := ip.Parse(b)
	if err != nil {
		panic("simnet: " + n.Name + " sends what is no IP packet: " + err.Error())
	}
	if n.ifaces == nil {
		n.carry(&Packet{Kind: Tunnel, From: n.Name, Src: h.Src, Dst: h.Dst, B: b})
		return
	}
	for _, i := range n.ifaces {
		if i.up() && i.has(h.Src) {
			i.on.up(i, b)
			return
		}
	}
	n.s.trace("%s: no link has %s", n.Name, h.Src)
}

// bootHost tells a node that starts what its kernel has.
func (n *Node) bootHost() {
	for _, i := range n.ifaces {
		i.tellLink()
		for _, p := range i.addrs {
			n.Do(core.HostChanged{Op: core.HostOp{Kind: "address", If: i.If, Name: i.Name, Prefix: p}})
			if p.Addr().Is4() {
				i.route4(p, false)
			}
		}
	}
}

// signals says whether a native IPv6 packet is signalling: what port "ip" of package system takes.
func signals(b []byte) bool {
	h, err := ip.Parse(b)
	if err != nil {
		return false
	}
	u, err := ip.FindUpper(b, &h)
	if err != nil || u.Fragment {
		return false
	}
	return u.Proto == protoMH || u.Proto == protoESP || u.Proto == ip.ICMPv6 && u.Off < len(b) && b[u.Off] >= 144 && b[u.Off] <= 147
}

// protect sends what the data plane left to signalling, to put ESP around it.
func (n *Node) protect(b []byte) {
	out, err := n.codec.Protect(n.Now(), b, nil)
	if err != nil {
		n.s.trace("%s: codec: %v", n.Name, err)
		return
	}
	n.depart(out)
}

const (
	protoESP = 50
	protoMH  = 135
)

// signal gives the machine a packet of signalling, if the codec lets it pass; what is refused is answered where its RFC wants
// that. signal.Port limits how many such answers there are, here is none: whoever counts octets sees the worst.
func (n *Node) signal(b []byte, outer core.Chain) {
	var p core.Packet
	if err := n.codec.In(n.Now(), b, outer, &p); err != nil {
		n.s.trace("%s: codec: %v", n.Name, err)
		var bad *wire.Error
		if errors.As(err, &bad) && bad.ParameterProblem && outer.N == 0 && bad.Status == 0 {
			n.problem(b, bad.Off)
		} else if a, ok := n.codec.Answer(b, outer, err); ok {
			n.encode(&a)
		}
		return
	}
	if p.Proto == ip.IPv6 { // for somebody else
		n.out.Reset()
		n.Engine.Inject(n.s.boot, p.Outer, p.B, &n.out)
		n.forward()
		return
	}
	ev := loop.Decode("mh", &p)
	var bad *wire.Error
	if m, ok := ev.(core.Message); ok && errors.As(m.Err, &bad) && bad.ParameterProblem && outer.N == 0 && p.Auth.Kind != ipsec.KindESP && p.Proto == 0 {
		s := ip.Signal{Src: p.Src.Addr(), Dst: p.Dst.Addr(), SrcHome: p.SrcHome, DstHome: p.DstHome, Proto: ip.Mobility}
		if whole, err := ip.AppendSignal(nil, &s, 0, len(p.B)); err == nil {
			n.problem(append(whole, p.B...), len(whole)+bad.Off)
		}
	}
	n.step(ev)
}

// problemEvery is how often package system answers one sender with a Parameter Problem.
const problemEvery = time.Second

// problem is the Parameter Problem that the host sends about octet off of a native packet (RFC 4443 3.4).
func (n *Node) problem(pkt []byte, off int) {
	h, err := ip.ParseQuoted(pkt)
	if last, told := n.told[h.Src]; err != nil || told && n.s.boot-last < problemEvery {
		return
	}
	b, err := ip.AppendError(nil, h.Dst, ip.ParameterFail, uint32(off), pkt)
	if err != nil {
		return
	}
	if n.told == nil {
		n.told = make(map[netip.Addr]time.Duration)
	}
	n.told[h.Src] = n.s.boot
	n.depart(b)
}

// encode sends a message as the packet that it travels in.
func (n *Node) encode(p *core.Packet) {
	b, err := n.codec.Out(n.Now(), p, nil)
	if err != nil {
		n.s.trace("%s: codec: %v", n.Name, err)
		return
	}
	if p.Outer.N == 0 {
		n.depart(b)
		return
	}
	n.out.Reset()
	if err := n.Engine.Encapsulate(n.s.boot, p.Outer, b, &n.out); err != nil {
		n.s.trace("%s: encapsulate: %v", n.Name, err)
		return
	}
	n.forward()
}
