package simnet

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"kedge/internal/core"
	"kedge/internal/ipsec"
	"kedge/internal/node"
	"kedge/internal/signal"
	"kedge/wire"
	"kedge/wire/ip"
	"kedge/wire/mobility"
)

// Addresses of who attacks: networks of his own behind the core.
var (
	bad6 = netip.MustParseAddr("2001:db8:bad::66")
	bad4 = netip.MustParseAddr("192.0.2.66")

	badNets = []netip.Prefix{netip.MustParsePrefix("2001:db8:bad::/48"), netip.MustParsePrefix("192.0.2.0/24")}
)

// mallory attacks a running binding. Off the path he sends what he likes, with any source; on it he has seen every packet of the
// core. He has the keys of a subscriber of his own, mn2.
type mallory struct {
	*roam
	keys  *signal.Codec // of mn2
	seq   uint16        // of mn2's Binding Updates
	seen  [][]byte      // packets on the core, oldest first, the first and the newest thousands
	sent  int           // octets to the home agent
	got   int           // octets from it to him, and to those whose addresses he forges
	pings uint16

	bindingsOnly bool // state is bindings and forwarding, not what is set on hosts
}

// seenMax is how many packets of the core are remembered.
const seenMax = 4000

// attack makes a world whose node is bound in a network, and who attacks it.
func attack(t testing.TB, o roamOptions, at string) *mallory {
	t.Helper()
	change := o.node
	o.node = func(c *node.Config) {
		c.Timers.Lifetime = time.Hour // no refresh within a test
		if change != nil {
			change(c)
		}
	}
	a := &mallory{roam: newRoam(t, o)}
	for _, p := range badNets {
		a.core.Route(p, func(*Packet) {})
	}
	a.Tap = a.tap
	if a.opt.protection != "" {
		var err error
		if a.keys, err = a.codecOf("mn2"); err != nil {
			t.Fatal(err)
		}
	}
	a.mn.Iface("wl0").Attach(a.nets[at])
	a.bound(5 * sec)
	a.Run(5 * sec) // what the tunnel carries has been found out
	return a
}

func (a *mallory) tap(p *Packet) {
	if p.Link != "core" {
		return
	}
	switch {
	case p.From == "mallory":
		if p.To == "ha1" {
			a.sent += len(p.B)
		}
		return
	case p.From == "ha1" && !a.ofNode(p.Dst):
		a.got += len(p.B)
	}
	if len(a.seen) == seenMax {
		a.seen = slices.Delete(a.seen, seenMax/2, seenMax/2+1)
	}
	a.seen = append(a.seen, bytes.Clone(p.B))
}

// ofNode says whether an address leads to the node.
func (a *mallory) ofNode(dst netip.Addr) bool {
	for _, i := range a.mn.ifaces {
		if i.has(dst) || i.on != nil && i.on.nat != nil && i.on.NAT == dst {
			return true
		}
	}
	return false
}

// send sends whole packets, each with the source that it names.
func (a *mallory) send(pkts ...[]byte) {
	for _, b := range pkts {
		p := &Packet{Kind: Tunnel, From: "mallory", B: bytes.Clone(b)}
		if len(b) >= ip.IPv6Len && b[0]>>4 == 6 {
			p.Src, p.Dst = netip.AddrFrom16([16]byte(b[8:])), netip.AddrFrom16([16]byte(b[24:]))
		} else {
			p.Src, p.Dst = netip.AddrFrom4([4]byte(b[12:])), netip.AddrFrom4([4]byte(b[16:]))
		}
		a.core.carry(p)
	}
}

// captured is the newest packet on the core from one node to another that says yes.
func (a *mallory) captured(src netip.Addr, yes func(b []byte, h *ip.Header) bool) []byte {
	for _, b := range slices.Backward(a.seen) {
		if h, err := ip.Parse(b); err == nil && h.Src == src && yes(b, &h) {
			return bytes.Clone(b)
		}
	}
	a.t.Fatalf("nothing from %s was seen", src)
	return nil
}

// counters of both nodes, by node, part and reason.
func (a *mallory) counters() map[string]uint64 {
	all := map[string]uint64{}
	for _, n := range []*Node{a.ha, a.mn} {
		add := func(part string, r wire.Reason, v uint64) {
			if v > 0 {
				all[fmt.Sprintf("%s %s %s", n.Name[:2], part, r)] = v
			}
		}
		n.codec.(*signal.Codec).Drops(func(r wire.Reason, v uint64) { add("codec", r, v) })
		n.Engine.Drops(func(r wire.Reason, v uint64) { add("engine", r, v) })
		add("engine", "keepalives", n.Engine.Keepalives())
		st, err := n.Command(core.GetStatus{})
		if err != nil {
			a.t.Fatal(err)
		}
		for r, v := range st.(core.Status).Counters {
			add("machine", wire.Reason(r), v)
		}
	}
	return all
}

// moved lists the counters that grew since before.
func (a *mallory) moved(before map[string]uint64) (names []string) {
	for k, v := range a.counters() {
		if v > before[k] {
			names = append(names, k)
		}
	}
	slices.Sort(names)
	return names
}

func (a *mallory) bindings(n *Node) []core.Binding {
	all, err := n.Command(core.GetBindings{})
	if err != nil {
		a.t.Fatal(err)
	}
	return slices.DeleteFunc(all.([]core.Binding), func(b core.Binding) bool { return strings.HasPrefix(b.ID, "mn2") })
}

// state is all that a packet could change: bindings, forwarding, pools, records, what was set on the hosts. With mine, what
// belongs to mallory's own subscription is left out.
func (a *mallory) state(mine bool) string {
	var s []string
	for _, n := range []*Node{a.ha, a.mn} {
		ids := map[core.ID]bool{}
		for _, b := range a.bindings(n) {
			ids[b.Session] = true
			s = append(s, fmt.Sprintf("%s %+v", n.Name, b))
		}
		for _, op := range n.Engine.Ops() {
			switch o := op.(type) {
			case core.SetSession:
				if mine && !ids[o.ID] {
					continue
				}
			case core.SetKey:
				if mine && !ids[o.ID] {
					continue
				}
			}
			s = append(s, fmt.Sprintf("%s %T%+v", n.Name, op, op))
		}
		if a.bindingsOnly {
			continue
		}
		for k, op := range n.hostState {
			s = append(s, fmt.Sprintf("%s %+v %+v", n.Name, k, op))
		}
		if mine {
			continue
		}
		st, _ := n.Command(core.GetStatus{})
		s = append(s, fmt.Sprintf("%s %v %v", n.Name, st.(core.Status).Sessions, st.(core.Status).Pools))
		s = append(s, fmt.Sprintf("%s %d records, %d tunnels", n.Name, len(a.records(n)), len(n.Engine.Tunnels())))
	}
	slices.Sort(s)
	return strings.Join(s, "\n")
}

func (a *mallory) records(n *Node) (keys []string) {
	for p, err := range n.Store.Load(a.t.Context(), n.Name) {
		if err != nil {
			a.t.Fatal(err)
		}
		keys = append(keys, string(p.Key))
	}
	return keys
}

// unharmed lets d pass with a ping of each home address every 50 ms, all of which must come back, and nothing may change.
func (a *mallory) unharmed(t *testing.T, what string, d time.Duration, mine bool, then func()) {
	t.Helper()
	before := a.state(mine)
	end, sent := a.Elapsed()+d, 0
	a.cn.Replies = a.cn.Replies[:0]
	a.After(0, then)
	for a.Elapsed() < end {
		a.pings++
		a.cn.Ping(mn4, a.pings)
		a.cn.Ping(mn6, a.pings)
		sent += 2
		a.Run(50 * ms)
	}
	a.Run(100 * ms)
	if n := len(a.cn.Replies); n != sent {
		t.Errorf("%s: %d of %d pings came back", what, n, sent)
	}
	if after := a.state(mine); after != before {
		t.Errorf("%s: the state was\n%s\nand is\n%s", what, before, after)
	}
}

// outer puts an IP header around what follows it.
func outer(src, dst netip.Addr, proto uint8, body []byte) []byte {
	b, err := (&ip.Header{Src: src, Dst: dst, Proto: proto, TTL: 64}).Append(nil, len(body))
	if err != nil {
		panic(err)
	}
	return append(b, body...)
}

// inUDP puts IP and UDP headers around.
func inUDP(src, dst netip.AddrPort, body []byte) []byte {
	b, err := (&ip.Header{Src: src.Addr(), Dst: dst.Addr(), Proto: ip.UDP, TTL: 64}).Append(nil, ip.UDPLen+len(body))
	if err == nil {
		b, err = ip.AppendUDP(b, src, dst, body)
	}
	if err != nil {
		panic(err)
	}
	return b
}

// udp4191 comes from an address to the home agent's port.
func udp4191(src netip.Addr, inner []byte) []byte {
	return inUDP(netip.AddrPortFrom(src, 4191), netip.AddrPortFrom(ha4, 4191), inner)
}

// bare is a whole packet with a message in the clear, its checksum right.
func bare(s ip.Signal, m mobility.Message) []byte {
	src, dst := s.Ends()
	mh, err := mobility.Append(nil, m, src, dst)
	if err != nil {
		panic(err)
	}
	return bareOctets(s, mh)
}

// bareOctets is the same with octets instead of a message.
func bareOctets(s ip.Signal, mh []byte) []byte {
	if s.Proto == 0 {
		s.Proto = ip.Mobility
	}
	b, err := ip.AppendSignal(nil, &s, 64, len(mh))
	if err != nil {
		panic(err)
	}
	return append(b, mh...)
}

// update is a Binding Update as the node would send it.
func update(seq uint16, vs ...mobility.Value) *mobility.BindingUpdate {
	return &mobility.BindingUpdate{Sequence: seq, Flags: mobility.BUAck | mobility.BUHome, Lifetime: 150, Options: mobility.Options{}.Add(vs...)}
}

// own is a whole packet of mn2: well protected. home stands in the headers in place of its home address, if valid.
func (a *mallory) own(p core.Path, m mobility.Message) []byte {
	src, dst := p.Local.Addr(), p.Remote.Addr()
	if p.Own.IsValid() {
		src = p.Own
	}
	mh, err := mobility.Append(nil, m, src, dst)
	if err != nil {
		panic(err)
	}
	pkt := core.Packet{Src: p.Local, Dst: p.Remote, SrcHome: p.Own, Outer: p.Outer, Auth: core.Auth{Kind: string(a.opt.protection), Peer: "ha1"}, B: mh}
	b, err := a.keys.Out(a.Now(), &pkt, nil)
	if err != nil {
		panic(err)
	}
	return b
}

// natively is mn2's Binding Update over IPv6 from a care-of address.
func (a *mallory) natively(from netip.Addr, vs ...mobility.Value) []byte {
	a.seq++
	return a.own(core.Path{Local: netip.AddrPortFrom(from, 0), Remote: netip.AddrPortFrom(ha6, 0), Own: rogue6}, update(a.seq, vs...))
}

// overUDP is mn2's Binding Update in UDP, RFC 5555 4.2.
func (a *mallory) overUDP(from netip.Addr, vs ...mobility.Value) []byte {
	a.seq++
	chain := core.Chain{N: 1, Layer: [2]core.Layer{{Local: netip.AddrPortFrom(from, 4191), Remote: netip.AddrPortFrom(ha4, 4191)}}}
	return udp4191(from, a.own(core.Path{Local: netip.AddrPortFrom(rogue6, 0), Remote: netip.AddrPortFrom(ha6, 0), Outer: chain}, update(a.seq, vs...)))
}

// over41 is mn2's Binding Update in protocol 41 with an IPv4-mapped source, draft-soliman-v4v6-mipv6 2.2.2; the outer source may
// be another.
func (a *mallory) over41(careOf, from netip.Addr, vs ...mobility.Value) []byte {
	a.seq++
	chain := core.Chain{N: 1, Layer: [2]core.Layer{{Local: netip.AddrPortFrom(careOf, 0), Remote: netip.AddrPortFrom(ha4, 0)}}}
	path := core.Path{Local: netip.AddrPortFrom(mapped(careOf), 0), Remote: netip.AddrPortFrom(ha6, 0), Own: rogue6, Outer: chain}
	return outer(from, ha4, ip.IPv6, a.own(path, update(a.seq, vs...)))
}

func mapped(a netip.Addr) netip.Addr { return netip.AddrFrom16(a.As16()) }

// patch changes octets of a packet.
func patch(b []byte, at int, with ...byte) []byte {
	b = bytes.Clone(b)
	copy(b[at:], with)
	return b
}

// mhSum puts the checksum of the Mobility Header at off right again.
func mhSum(b []byte, off int, src, dst netip.Addr) []byte {
	b = bytes.Clone(b)
	binary.BigEndian.PutUint16(b[off+4:], 0)
	binary.BigEndian.PutUint16(b[off+4:], ip.PseudoChecksum(src, dst, ip.Mobility, b[off:]))
	return b
}

// hostile is one kind of bad input.
type hostile struct {
	name string
	// pkts makes the packets; each is sent ten times, as floods are.
	pkts  func(a *mallory) [][]byte
	want  []string // counters that must move
	mine  bool     // by mn2, with its keys
	binds bool     // mn2's own IPv6 home address is bound by it
	once  bool     // sent only once
}

// withstand sends each kind of bad input at the running binding.
func (a *mallory) withstand(t *testing.T, all []hostile) {
	t.Helper()
	for _, h := range all {
		before := a.counters()
		a.sent, a.got = 0, 0
		a.unharmed(t, h.name, 1200*ms, h.mine, func() {
			for i, b := range h.pkts(a) {
				times := 10
				if h.once {
					times = 1
				}
				for n := range times {
					a.After(time.Duration(7*i+20*n)*ms, func() { a.send(b) })
				}
			}
		})
		moved := a.moved(before)
		for _, w := range h.want {
			if !slices.Contains(moved, w) {
				t.Errorf("%s: %q did not move, but %q", h.name, w, moved)
			}
		}
		if len(h.want) == 0 {
			t.Errorf("%s: moved %q", h.name, moved)
		}
		if !h.mine && a.got > a.sent {
			t.Errorf("%s: %d octets sent, %d came back", h.name, a.sent, a.got)
		}
		if h.mine {
			if bound := a.boundRogue(); bound != h.binds {
				t.Errorf("%s: mn2 is bound: %v", h.name, bound)
			}
			a.leave()
		}
	}
}

// boundRogue says whether the home agent forwards to mn2, and never a foreign address.
func (a *mallory) boundRogue() (bound bool) {
	for _, op := range a.ha.Engine.Ops() {
		if k, ok := op.(core.SetKey); ok && (k.Match.Dst.Contains(rogue6) || k.Match.Dst.Contains(rogue4)) && k.Down {
			bound = true
		}
	}
	return bound
}

// leave ends mn2's own registration, if there is one.
func (a *mallory) leave() {
	a.seq += 100
	bu := update(a.seq)
	bu.Lifetime = 0
	a.send(a.own(core.Path{Local: netip.AddrPortFrom(bad6, 0), Remote: netip.AddrPortFrom(ha6, 0), Own: rogue6}, bu))
	a.Run(15 * sec) // what is deprecated is forgotten
}

var secured = []ipsec.Protection{ipsec.ESP, ipsec.RFC4285}
