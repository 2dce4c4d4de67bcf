package simnet

import (
	"fmt"
	"io"
	"net/netip"
	"testing"
	"time"

	"kedge/internal/anchor"
	"kedge/internal/core"
	"kedge/internal/dataplane"
	"kedge/internal/ipsec"
	"kedge/internal/node"
	"kedge/internal/pool"
	"kedge/internal/subscriber"
	"kedge/wire/ip"
)

var (
	ha6 = netip.MustParseAddr("2001:db8:a::1")
	ha4 = netip.MustParseAddr("198.51.100.1")
	mn6 = netip.MustParseAddr("2001:db8:2000::5")
	mn4 = netip.MustParseAddr("10.30.0.5")
)

const (
	roamLatency = 9 * ms // of the core; with the access link, the round trip takes 20 ms
	wanted      = 20 * ms
)

// roam is a home agent, a correspondent, networks of every kind, and a mobile node with two links.
type roam struct {
	*Sim
	t      testing.TB
	core   *Link
	ha, mn *Node
	cn     *Correspondent
	nets   map[string]*Visited
	names  []string // of nets, in order
	heard4 int      // echo requests of the correspondent that reached the node
	heard6 int
	opt    roamOptions

	numbers map[string]*ipsec.Volatile // sequence numbers of each node, which outlive its restarts
}

type roamOptions struct {
	seed   uint64
	cond   Conditions
	node   func(*node.Config)
	anchor func(*anchor.Config)
	quiet  bool
	// protection of signalling: ipsec.ESP with static keys, ipsec.RFC4285; unset = none.
	protection ipsec.Protection
}

func newRoam(t testing.TB, o roamOptions) *roam {
	t.Helper()
	r := &roam{Sim: New(o.seed), t: t, nets: map[string]*Visited{}, opt: o, numbers: map[string]*ipsec.Volatile{}}
	r.Trace = &Trace{Max: 600}
	cond := o.cond
	if cond.Latency == 0 {
		cond.Latency = roamLatency
	}
	r.core = r.Link("core", cond)
	r.ha = r.Node(NodeConfig{
		Name: "ha1", Role: dataplane.Anchor, Attach: []Attachment{{r.core, []netip.Addr{ha6, ha4}}},
		New:   func(rand io.Reader) (core.Machine, error) { return anchor.New(r.anchorConfig(), rand) },
		Codec: func() (Codec, error) { return r.codecOf("ha1") },
	})
	r.cn = r.Correspondent(r.ha, cn4, cn6, Conditions{Latency: ms})
	toCN := r.ha.Native
	r.ha.Native = func(pkt []byte) { // the home agent's kernel answers pings of its own address
		if b := pong(pkt, ha6); b != nil {
			r.ha.FromNative(b)
			return
		}
		toCN(pkt)
	}
	r.mn = r.Node(NodeConfig{
		Name: "mn1", Role: dataplane.Node, Home: []netip.Addr{mn6, mn4}, ProbeID: node.DefaultProbeID,
		New:    func(rand io.Reader) (core.Machine, error) { return node.New(r.nodeConfig(), rand) },
		Codec:  func() (Codec, error) { return r.codecOf("mn1") },
		Ifaces: []Iface{{If: 2, Name: "wl0", MAC: core.MAC{2, 0, 0, 0, 1, 1}}, {If: 3, Name: "wwan0", MAC: core.MAC{2, 0, 0, 0, 1, 2}}},
	})
	r.mn.Native = func(pkt []byte) {
		b := pong(pkt, mn6)
		if b != nil {
			r.heard6++
		} else if b = pong(pkt, mn4); b != nil {
			r.heard4++
		}
		if b != nil {
			r.mn.FromNative(b)
		}
	}
	pub4 := func(n int) netip.Prefix { return netip.MustParsePrefix(fmt.Sprintf("203.0.%d.0/24", 112+n)) }
	v6 := func(n int) netip.Prefix { return netip.MustParsePrefix(fmt.Sprintf("2001:db8:f%d::/64", n)) }
	lan := netip.MustParsePrefix("192.168.1.0/24")
	nat := func(n int) netip.Addr { return netip.MustParseAddr(fmt.Sprintf("198.51.100.%d", 200+n)) }
	for _, c := range []VisitedConfig{
		{Name: "six", Prefix6: v6(1)},
		{Name: "six2", Prefix6: v6(2)},
		{Name: "four", Prefix4: pub4(1)},
		{Name: "nat", Prefix4: lan, NAT: nat(1)},
		{Name: "nat2", Prefix4: lan, NAT: nat(2), NATTimeout: 30 * sec},
		{Name: "dual", Prefix6: v6(3), Prefix4: lan, NAT: nat(3)},
	} {
		c.Core, c.Lease, c.Cond = r.core, 50*ms, Conditions{Latency: ms}
		r.nets[c.Name] = r.Visited(c)
		r.names = append(r.names, c.Name)
	}
	for _, n := range []*Node{r.ha, r.mn} {
		if err := n.Start(); err != nil {
			t.Fatal(err)
		}
	}
	if !o.quiet {
		t.Cleanup(func() {
			if t.Failed() {
				t.Logf("seed %d; the end of what happened:\n%s", o.seed, r.Trace)
			}
		})
	}
	return r
}

// pong answers an ICMP or ICMPv6 echo request to own; nil for every other packet.
func pong(pkt []byte, own netip.Addr) []byte {
	h, err := ip.Parse(pkt)
	if err != nil || h.Dst != own {
		return nil
	}
	u, err := ip.FindUpper(pkt, &h)
	if err != nil || len(pkt) < u.Off+8 {
		return nil
	}
	msg := append([]byte(nil), pkt[u.Off:h.Len]...)
	switch {
	case u.Proto == ip.ICMPv6 && msg[0] == 128:
		msg[0], msg[2], msg[3] = 129, 0, 0
	case u.Proto == ip.ICMPv4 && msg[0] == 8:
		msg[0], msg[2], msg[3] = 0, 0, 0
	default:
		return nil
	}
	sum := ip.Checksum(msg)
	if u.Proto == ip.ICMPv6 {
		sum = ip.PseudoChecksum(h.Dst, h.Src, ip.ICMPv6, msg)
	}
	msg[2], msg[3] = byte(sum>>8), byte(sum)
	o := ip.Header{Src: h.Dst, Dst: h.Src, Proto: u.Proto, TTL: 64}
	b, err := o.Append(nil, len(msg))
	if err != nil {
		return nil
	}
	return append(b, msg...)
}

func (r *roam) anchorConfig() anchor.Config {
	c := anchor.Config{
		Addresses: []netip.Addr{ha6, ha4}, FirstStart: r.ha == nil || r.ha.life <= 1,
		Pools: []pool.Config{
			{Name: "home", Prefix: netip.MustParsePrefix("2001:db8:2000::/48")},
			{Name: "v4", Prefix: netip.MustParsePrefix("10.30.0.0/16")},
		},
		DSMIP6: anchor.DSMIP6{On: true, Dialects: []anchor.DSMIPDialect{anchor.RFC5555, anchor.Soliman00}},
		Peers:  []anchor.Peer{{Name: "mn1", Protection: r.protection()}, {Name: "mn2", Protection: r.protection()}},
		Subscribers: subscriber.Config{List: []subscriber.Profile{
			{ID: "mn1@example.net", HoA: netip.PrefixFrom(mn6, 64), V4: mn4, Peer: "mn1"},
			{ID: "mn2@example.net", HoA: netip.PrefixFrom(rogue6, 64), V4: rogue4, Peer: "mn2"},
		}},
	}
	if r.opt.anchor != nil {
		r.opt.anchor(&c)
	}
	return c
}

func (r *roam) nodeConfig() node.Config {
	c := node.Config{
		Name:   "mn1",
		Anchor: node.Anchor{Name: "ha1", V6: ha6, V4: ha4, Protection: r.protection()},
		Home:   node.Home{V6: netip.PrefixFrom(mn6, 64), IPv4: node.IPv4Static, V4: netip.PrefixFrom(mn4, 16)},
		Links:  []node.Link{{Match: "wl*", Prefer: 10}, {Match: "wwan*", Prefer: 20}},
	}
	if r.opt.node != nil {
		r.opt.node(&c)
	}
	return c
}

// bound waits until the correspondent reaches both home addresses; it gives the time that took.
func (r *roam) bound(within time.Duration) time.Duration {
	r.t.Helper()
	from := r.Elapsed()
	end := from + within
	for seq := uint16(1); r.Elapsed() <= end; seq++ {
		was4, was6 := r.heard4, r.heard6
		r.cn.Ping(mn4, seq)
		r.cn.Ping(mn6, seq)
		r.RunUntil(100*ms, func() bool { return r.heard4 > was4 && r.heard6 > was6 })
		if r.heard4 > was4 && r.heard6 > was6 {
			return r.Elapsed() - from
		}
	}
	r.t.Fatalf("seed %d: at %v the home addresses were not reachable for %v", r.opt.seed, r.Elapsed(), within)
	return 0
}

// TestRoamEveryNetwork: a node goes through networks of every kind with both home addresses, however its signalling is protected.
func TestRoamEveryNetwork(t *testing.T) {
	for _, p := range []ipsec.Protection{"", ipsec.ESP, ipsec.RFC4285} {
		t.Run("protection="+string(p), func(t *testing.T) {
			r := newRoam(t, roamOptions{seed: 1, protection: p})
			wl := r.mn.Iface("wl0")
			for _, name := range []string{"six", "four", "nat", "nat2", "dual", "six2", "nat", "six"} {
				wl.Attach(nil)
				r.Run(sec)
				wl.Attach(r.nets[name])
				t.Logf("%s: reachable after %v", name, r.bound(5*sec))
			}
		})
	}
}
