package simnet

import (
	"fmt"
	"io"
	"net/netip"
	"slices"
	"testing"
	"time"

	"kedge/internal/access"
	"kedge/internal/anchor"
	"kedge/internal/core"
	"kedge/internal/dataplane"
	"kedge/internal/gateway"
	"kedge/internal/heartbeat"
	"kedge/internal/pool"
	"kedge/internal/subscriber"
)

var (
	lmaa = netip.MustParseAddr("2001:db8:a::1")
	cn4  = netip.MustParseAddr("198.51.100.99")
	cn6  = netip.MustParseAddr("2001:db8:c::99")
)

const (
	oneWay = 5 * time.Millisecond // gateway to anchor
	ms     = time.Millisecond
	sec    = time.Second
)

// domain is an anchor, gateways with one access link each, and a correspondent.
type domain struct {
	*Sim
	t    testing.TB
	core *Link
	lma  *Node
	mags []*Node
	airs []*Air
	cn   *Correspondent
	opt  options
}

// options of a domain.
type options struct {
	seed     uint64
	gateways int
	cond     Conditions
	anchor   func(*anchor.Config)
	gateway  func(i int, c *gateway.Config)
	commit   time.Duration // of the anchor
	noHearts bool
	quiet    bool // the test prints the trace itself
}

func newDomain(t testing.TB, o options) *domain {
	t.Helper()
	if o.gateways == 0 {
		o.gateways = 2
	}
	if o.cond == (Conditions{}) {
		o.cond = Conditions{Latency: oneWay}
	}
	d := &domain{Sim: New(o.seed), t: t, opt: o}
	d.Trace = &Trace{Max: 400}
	d.core = d.Link("core", o.cond)
	d.lma = d.Node(NodeConfig{
		Name: "lma1", New: func(rand io.Reader) (core.Machine, error) { return anchor.New(d.anchorConfig(), rand) },
		Role: dataplane.Anchor, Attach: []Attachment{{d.core, []netip.Addr{lmaa}}}, CommitTime: o.commit,
	})
	d.cn = d.Correspondent(d.lma, cn4, cn6, Conditions{Latency: ms})
	for i := range o.gateways {
		air := d.Air(fmt.Sprintf("air%d", i+1))
		d.airs = append(d.airs, air)
		d.mags = append(d.mags, d.Node(NodeConfig{
			Name: fmt.Sprintf("mag%d", i+1), New: func(rand io.Reader) (core.Machine, error) { return gateway.New(d.gatewayConfig(i), rand) },
			Role: dataplane.Gateway, Attach: []Attachment{{d.core, []netip.Addr{magAddr(i)}}},
			Access: []Access{{Air: air, Name: "acc0", If: 3, MAC: gateway.FixedMAC, LinkLocal: gateway.FixedLinkLocal}},
		}))
	}
	for _, n := range d.Nodes() {
		d.start(n)
	}
	if !o.quiet { // who runs many in one test says so: each cleanup would keep its whole network until the end
		t.Cleanup(func() {
			if t.Failed() {
				t.Logf("seed %d; the end of what happened:\n%s", o.seed, d.Trace)
			}
		})
	}
	return d
}

func (d *domain) start(n *Node) {
	d.t.Helper()
	if err := n.Start(); err != nil {
		d.t.Fatal(err)
	}
}

func magAddr(i int) netip.Addr {
	return netip.MustParseAddr(fmt.Sprintf("2001:db8:a::%d", 11+i))
}

func (d *domain) anchorConfig() anchor.Config {
	c := anchor.Config{
		Addresses: []netip.Addr{lmaa}, FirstStart: d.lma == nil || d.lma.life <= 1,
		Pools: []pool.Config{
			{Name: "hnp", Prefix: netip.MustParsePrefix("2001:db8:1000::/36")},
			{Name: "v4", Prefix: netip.MustParsePrefix("10.20.0.0/16")},
		},
		Subscribers: subscriber.Config{Accept: true},
		Heartbeat:   anchor.Heartbeat{Off: d.opt.noHearts, Config: heartbeat.Config{Interval: 20 * sec, Timeout: sec}},
	}
	for i := range d.opt.gateways {
		c.Peers = append(c.Peers, anchor.Peer{Name: fmt.Sprintf("mag%d", i+1), Addresses: []netip.Prefix{netip.PrefixFrom(magAddr(i), 128)}, Protection: "none"})
	}
	if d.opt.anchor != nil {
		d.opt.anchor(&c)
	}
	return c
}

func (d *domain) gatewayConfig(i int) gateway.Config {
	c := gateway.Config{
		Name: fmt.Sprintf("mag%d", i+1), Address: magAddr(i), Anchors: []gateway.Anchor{{Name: "lma1", Address: lmaa, Protection: "none"}},
		Access: []gateway.Access{{
			Link:     access.LinkConfig{Name: "acc0", If: 3, MTU: 1460, DNS: []netip.Addr{netip.MustParseAddr("10.20.0.53")}},
			Identity: gateway.Identity{Realm: "example.net"},
		}},
		HeartbeatOff: d.opt.noHearts, Heartbeat: heartbeat.Config{Interval: 20 * sec, Timeout: sec},
	}
	if d.opt.gateway != nil {
		d.opt.gateway(i, &c)
	}
	return c
}

// host adds a host with a MAC of its number.
func (d *domain) host(n int, change ...func(*HostConfig)) *Host {
	c := HostConfig{Name: fmt.Sprintf("h%d", n), MAC: core.MAC{2, 0, 0, 0, byte(n >> 8), byte(n)}}
	for _, f := range change {
		f(&c)
	}
	return d.Host(c)
}

func idOf(h *Host) string {
	m := h.MAC
	return fmt.Sprintf("%02x-%02x-%02x-%02x-%02x-%02x@example.net", m[0], m[1], m[2], m[3], m[4], m[5])
}

// bindings asks a node; those of one host, or all for nil.
func (d *domain) bindings(n *Node, h *Host) []core.Binding {
	d.t.Helper()
	body, err := n.Command(core.GetBindings{})
	if err != nil {
		d.t.Fatal(err)
	}
	all := body.([]core.Binding)
	if h != nil {
		all = slices.DeleteFunc(all, func(b core.Binding) bool { return b.ID != idOf(h) })
	}
	return all
}

// at wants the host to be bound at a gateway, as the anchor sees it; it gives the binding.
func (d *domain) at(h *Host, i int) core.Binding {
	d.t.Helper()
	bs := d.bindings(d.lma, h)
	if len(bs) != 1 || bs[0].State != "active" || bs[0].ProxyCoA != magAddr(i) {
		d.t.Fatalf("the anchor has %+v of %s, want one active binding at %s", bs, h.Name, magAddr(i))
	}
	return bs[0]
}

// pings sends an echo request each way and family, and wants every reply.
func (d *domain) pings(h *Host) {
	d.t.Helper()
	before, cnBefore := len(h.Replies), len(d.cn.Replies)
	want := 0
	for i, dst := range []netip.Addr{cn4, cn6} {
		src := h.Addr4.Addr()
		if i == 1 {
			src = h.Addr6()
		}
		if i == 0 && h.No4 || i == 1 && h.No6 {
			continue
		}
		if !src.IsValid() {
			d.t.Fatalf("%s has no address to reach %s from", h.Name, dst)
		}
		want++
		h.Ping(dst, 1)
		d.cn.Ping(src, 2)
	}
	d.Run(sec)
	if got, back := len(h.Replies)-before, len(d.cn.Replies)-cnBefore; got != want || back != want {
		d.t.Fatalf("%s: %d and %d of %d pings were answered", h.Name, got, back, want)
	}
}

func TestAttachRoamLeave(t *testing.T) {
	d := newDomain(t, options{gateways: 3})
	h := d.host(10)
	h.Move(d.airs[0])
	if !d.RunUntil(10*sec, func() bool { return h.Addr4.IsValid() && h.Addr6().IsValid() }) {
		t.Fatalf("no addresses in 10 s: %v", h.Events)
	}
	d.at(h, 0)
	d.pings(h)
	a4, a6 := h.Addr4, h.Addr6()
	for round, i := range []int{1, 2, 0, 1} {
		h.Move(d.airs[i])
		d.Run(2 * sec)
		d.at(h, i)
		if h.Addr4 != a4 || h.Addr6() != a6 {
			t.Fatalf("round %d: addresses are %v and %v, were %v and %v", round, h.Addr4, h.Addr6(), a4, a6)
		}
		d.pings(h)
	}
	h.Move(nil)
	d.Run(2 * time.Hour)
	d.empty()
}

// empty wants that nothing of anybody is left anywhere.
func (d *domain) empty() {
	d.t.Helper()
	for _, n := range d.Nodes() {
		if !n.Up() {
			continue
		}
		if bs := d.bindings(n, nil); len(bs) != 0 {
			d.t.Errorf("%s still has %+v", n.Name, bs)
		}
		if ops := n.Engine.Ops(); len(ops) != 0 {
			d.t.Errorf("%s still forwards %+v", n.Name, ops)
		}
		if tunnels := n.Engine.Tunnels(); len(tunnels) != 0 {
			d.t.Errorf("%s still has tunnels %v", n.Name, tunnels)
		}
	}
	for _, p := range d.status(d.lma).Pools {
		if p.Used != 0 {
			d.t.Errorf("pool %s: %d are still used", p.Name, p.Used)
		}
	}
}

func (d *domain) status(n *Node) core.Status {
	d.t.Helper()
	body, err := n.Command(core.GetStatus{})
	if err != nil {
		d.t.Fatal(err)
	}
	return body.(core.Status)
}

// TestSilentReturn: a host that goes to another gateway and comes back, without a sign but its own traffic, before the
// first one misses it.
func TestSilentReturn(t *testing.T) {
	d := newDomain(t, options{})
	h := d.host(10)
	h.Move(d.airs[0])
	d.Run(5 * sec)
	for _, i := range []int{1, 0, 1, 0} {
		h.Slide(d.airs[i])
		h.Ping(cn6, 1) // it knows nothing and goes on
		d.Run(2 * sec)
		d.at(h, i)
		d.pings(h)
	}
}
