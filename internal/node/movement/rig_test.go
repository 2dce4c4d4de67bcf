package movement

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"sort"
	"strings"
	"time"

	"kedge/internal/access"
	"kedge/internal/core"
	"kedge/wire/ether"
	"kedge/wire/nd"
)

// rig runs a machine in virtual time over a kernel and networks that are models. Frames take wireDelay each way, and are
// built and read as on a wire.
type rig struct {
	t    fataler
	m    *Machine
	now  time.Duration
	seq  int
	jobs []job

	nets   map[int]*network4test // what each interface is plugged into
	kernel kernel
	sent   []sentFrame
	emits  []core.Emit
	refuse func(core.HostOp) error
	told   []core.HostOp // all operations
	check  func()
}

// fataler is the part of testing.TB that a rig needs; rapid's tests have it too.
type fataler interface {
	Helper()
	Fatalf(format string, a ...any)
	Fatal(a ...any)
}

type job struct {
	at  time.Duration
	seq int
	f   func()
}

type sentFrame struct {
	at  time.Duration
	ifi int
	f   *access.Frame
}

const wireDelay = time.Millisecond

// start is when a rig's clock begins.
const start = time.Hour

func newRig(t fataler, cfg Config) *rig {
	t.Helper()
	if cfg.Links == nil {
		cfg.Links = []Pattern{{Match: "eth*", Prefer: 10}, {Match: "wwan*", Prefer: 20}}
	}
	if cfg.Secret == nil {
		cfg.Secret = []byte("0123456789abcdef")
	}
	m, err := New(cfg, zeroRand{})
	if err != nil {
		t.Fatal(err)
	}
	r := &rig{t: t, m: m, now: start, nets: make(map[int]*network4test)}
	r.kernel = kernel{r: r, links: make(map[int]*klink), routes: make(map[opKey]core.HostOp), rules: make(map[opKey]core.HostOp), sysctl: make(map[string]string)}
	return r
}

// zeroRand makes all jitter the least there is: 0.9 of the time.
type zeroRand struct{}

func (zeroRand) Read(b []byte) (int, error) { clear(b); return len(b), nil }

// seeded is a source for random tests.
func seeded(seed uint64) *rand.ChaCha8 {
	var b [32]byte
	b[0], b[1] = byte(seed), byte(seed>>8)
	return rand.NewChaCha8(b)
}

func (r *rig) clock() core.Now {
	return core.Now{Boot: r.now, Wall: time.Unix(1_700_000_000, 0).Add(r.now)}
}

func (r *rig) after(d time.Duration, f func()) {
	r.seq++
	r.jobs = append(r.jobs, job{at: r.now + d, seq: r.seq, f: f})
}

// handle gives the machine an event and carries out what it wants.
func (r *rig) handle(ev core.Event) { r.effects(r.m.Handle(r.clock(), ev, nil)) }

func (r *rig) effects(out []core.Effect) {
	for _, e := range out {
		switch e := e.(type) {
		case core.Send:
			f := r.rebuild(e.Body.(*access.Frame))
			r.sent = append(r.sent, sentFrame{at: r.now, ifi: e.Path.If, f: f})
			if n := r.nets[e.Path.If]; n != nil {
				r.after(wireDelay, func() { n.receive(r, e.Path.If, f) })
			}
		case core.Change:
			r.told = append(r.told, e.Ops...)
			err := r.kernel.apply(e.Ops)
			if !Ours(e.Ref) {
				r.t.Fatalf("a change without a Ref of ours: %d", e.Ref)
			}
			r.after(0, func() { r.handle(core.Done{Ref: e.Ref, Err: err}) })
		case core.Emit:
			r.emits = append(r.emits, e)
		default:
			r.t.Fatalf("effect %T", e)
		}
	}
	if r.check != nil {
		r.check()
	}
}

// rebuild sends a frame through its wire format.
func (r *rig) rebuild(f *access.Frame) *access.Frame {
	b, err := f.Append(nil)
	if err != nil {
		r.t.Fatalf("%+v: %v", f, err)
	}
	g, err := access.Decode(b)
	if err != nil {
		r.t.Fatalf("%+v: %v", f, err)
	}
	return g
}

// run lets d go by.
func (r *rig) run(d time.Duration) {
	r.t.Helper()
	end := r.now + d
	for range 1_000_000 {
		at, tick := never, false
		if w, ok := r.m.Deadline(); ok {
			at, tick = max(w, r.now), true
		}
		sort.Slice(r.jobs, func(i, j int) bool {
			return r.jobs[i].at < r.jobs[j].at || r.jobs[i].at == r.jobs[j].at && r.jobs[i].seq < r.jobs[j].seq
		})
		if len(r.jobs) > 0 && r.jobs[0].at <= at {
			if r.jobs[0].at > end {
				break
			}
			j := r.jobs[0]
			r.jobs = r.jobs[1:]
			r.now = max(r.now, j.at)
			j.f()
			continue
		}
		if !tick || at > end {
			break
		}
		if at == r.now && r.stuck() {
			r.t.Fatalf("the machine wants a tick at %s for ever", r.now-start)
		}
		r.now = at
		r.handle(core.Tick{})
	}
	r.now = end
}

// stuck notices a deadline that serving does not move.
func (r *rig) stuck() bool {
	for range 100 {
		r.handle(core.Tick{})
		if w, ok := r.m.Deadline(); !ok || w > r.now {
			return false
		}
	}
	return true
}

// sleep lets time go by without the machine, as a suspended host does.
func (r *rig) sleep(d time.Duration) { r.now += d }

// list is the care-of addresses as words: "eth0 2001:db8:1::... optimistic".
func (r *rig) list() string {
	var out []string
	for _, c := range r.m.CareOfs() {
		s := fmt.Sprintf("%s %s", c.Link, c.Prefix.Masked())
		for _, w := range []struct {
			is   bool
			name string
		}{{c.Optimistic, "optimistic"}, {c.Deprecated, "deprecated"}, {c.Suspect, "suspect"}, {c.Home, "home"}} {
			if w.is {
				s += " " + w.name
			}
		}
		out = append(out, s)
	}
	return strings.Join(out, ", ")
}

func (r *rig) want(list string) {
	r.t.Helper()
	if got := r.list(); got != list {
		r.t.Fatalf("at %s: care-of addresses %q, want %q", r.now-start, got, list)
	}
}

// frames are the frames of a kind that were sent since mark, as times since start.
func (r *rig) frames(kind string) (at []time.Duration) {
	for _, s := range r.sent {
		if s.f.Kind() == kind {
			at = append(at, s.at-start)
		}
	}
	return at
}

// lastFrame is the newest frame of a kind that was sent.
func (r *rig) lastFrame(kind string) *access.Frame {
	r.t.Helper()
	for _, s := range slices.Backward(r.sent) {
		if s.f.Kind() == kind {
			return s.f
		}
	}
	r.t.Fatalf("no %s was sent", kind)
	return nil
}

// kernel is a model of what Linux does with addresses, routes and rules.
type kernel struct {
	r      *rig
	links  map[int]*klink
	routes map[opKey]core.HostOp
	rules  map[opKey]core.HostOp
	sysctl map[string]string
	taken  func(netip.Addr) bool // duplicate address detection finds it
}

type klink struct {
	op    core.HostOp
	up    bool
	addrs map[netip.Addr]*kaddr
}

type kaddr struct {
	p     netip.Prefix
	value string
	flags string // that it was set with
	ours  bool
	gen   int
}

func (k *kernel) tell(c core.HostChanged) { k.r.after(0, func() { k.r.handle(c) }) }

func (k *kernel) apply(ops []core.HostOp) error {
	for i, op := range ops {
		if err := k.one(op); err != nil {
			return &core.OpError{Index: i, Err: err}
		}
	}
	return nil
}

func (k *kernel) one(op core.HostOp) error {
	if k.r.refuse != nil {
		if err := k.r.refuse(op); err != nil {
			return err
		}
	}
	l := k.links[op.If]
	if op.Kind != "rule" && op.Kind != "sysctl" && (l == nil || op.Name != "") { // a name would miss after a renaming
		if op.Del {
			return nil
		}
		return fmt.Errorf("no link %d %q", op.If, op.Name)
	}
	switch op.Kind {
	case "sysctl":
		if op.Del {
			delete(k.sysctl, op.Name)
		} else {
			k.sysctl[op.Name] = op.Value
		}
	case "rule":
		if op.Del {
			delete(k.rules, keyOf(op))
		} else {
			k.rules[keyOf(op)] = op
		}
	case "route":
		if op.Del {
			delete(k.routes, keyOf(op))
			return nil
		}
		if l.op.Value == "down" {
			return fmt.Errorf("link is down")
		}
		if op.Via.Is4() && !k.reaches(op) {
			return fmt.Errorf("%s is out of reach", op.Via)
		}
		k.routes[keyOf(op)] = op
	case "address":
		k.address(l, op)
	default:
		return fmt.Errorf("kind %q", op.Kind)
	}
	return nil
}

// reaches says whether the next hop of a route is on-link by another one of its table.
func (k *kernel) reaches(op core.HostOp) bool {
	for _, o := range k.routes {
		if o.Table == op.Table && !o.Via.IsValid() && o.If == op.If && o.Prefix.Contains(op.Via) {
			return true
		}
	}
	return op.Table == 900 // the test's HomeTable: the main table reaches it
}

func (k *kernel) address(l *klink, op core.HostOp) {
	a := op.Prefix.Addr()
	have := l.addrs[a]
	if op.Del {
		if have != nil && have.ours {
			k.lose(l, a)
		}
		return
	}
	if have != nil {
		return
	}
	x := &kaddr{p: op.Prefix, flags: op.Value, ours: true}
	l.addrs[a] = x
	k.begin(l, x, op.Value)
}

// begin starts duplicate address detection as the flags say.
func (k *kernel) begin(l *klink, x *kaddr, value string) {
	x.gen++
	gen := x.gen
	switch {
	case strings.Contains(value, "nodad") || x.p.Addr().Is4():
		x.value = ""
		k.show(l, x)
		return
	case strings.Contains(value, "optimistic"):
		x.value = "optimistic"
	default:
		x.value = "tentative"
	}
	k.show(l, x)
	k.r.after(time.Second, func() {
		if k.links[l.op.If] != l || l.addrs[x.p.Addr()] != x || x.gen != gen {
			return
		}
		x.value = ""
		if k.taken != nil && k.taken(x.p.Addr()) {
			x.value = "dadfailed tentative"
		}
		k.show(l, x)
	})
}

func (k *kernel) show(l *klink, x *kaddr) {
	t := strings.Contains(x.value, "tentative")
	k.tell(core.HostChanged{Op: core.HostOp{Kind: "address", If: l.op.If, Name: l.op.Name, Prefix: x.p, Value: x.value}, Tentative: t, Up: !t})
}

func (k *kernel) lose(l *klink, a netip.Addr) {
	x := l.addrs[a]
	delete(l.addrs, a)
	k.tell(core.HostChanged{Op: core.HostOp{Kind: "address", If: l.op.If, Name: l.op.Name, Prefix: x.p}, Gone: true})
}

// add makes an interface; MAC 02:00:00:00:00:<ifi>.
func (r *rig) add(ifi int, name string, carrier bool) {
	op := core.HostOp{Kind: "link", If: ifi, Name: name, MTU: 1500, Value: "up"}
	if !strings.HasPrefix(name, "wwan") {
		op.MAC = core.MAC{2, 0, 0, 0, 0, byte(ifi)}
	}
	l := &klink{op: op, up: carrier, addrs: make(map[netip.Addr]*kaddr)}
	r.kernel.links[ifi] = l
	if op.MAC != (core.MAC{}) {
		ll := &kaddr{p: netip.MustParsePrefix(fmt.Sprintf("fe80::%x/64", 0xa0+ifi))}
		l.addrs[ll.p.Addr()] = ll
		r.handle(core.HostChanged{Op: op, Up: carrier})
		r.handle(core.HostChanged{Op: core.HostOp{Kind: "address", If: ifi, Name: name, Prefix: ll.p}, Up: true})
		return
	}
	r.handle(core.HostChanged{Op: op, Up: carrier})
}

// carrier plugs an interface into a network, or out with nil.
func (r *rig) carrier(ifi int, n *network4test) {
	r.nets[ifi] = n
	l := r.kernel.links[ifi]
	up := n != nil
	if l.up == up {
		return
	}
	l.up = up
	r.handle(core.HostChanged{Op: l.op, Up: up})
}

// roam moves an interface without any change of carrier.
func (r *rig) roam(ifi int, n *network4test) { r.nets[ifi] = n }

// setDown sets a link down: IPv6 addresses and routes go, without a word about the IPv4 ones.
func (r *rig) setDown(ifi int) {
	l := r.kernel.links[ifi]
	l.op.Value, l.up = "down", false
	r.handle(core.HostChanged{Op: l.op})
	for a := range l.addrs {
		if a.Is6() && !a.IsLinkLocalUnicast() {
			r.kernel.lose(l, a)
		}
	}
	for key, op := range r.kernel.routes {
		if op.If == ifi {
			delete(r.kernel.routes, key)
		}
	}
}

func (r *rig) setUp(ifi int) {
	l := r.kernel.links[ifi]
	l.op.Value, l.up = "up", r.nets[ifi] != nil
	r.handle(core.HostChanged{Op: l.op, Up: l.up})
}

// remove takes an interface away.
func (r *rig) remove(ifi int) {
	l := r.kernel.links[ifi]
	delete(r.kernel.links, ifi)
	for key, op := range r.kernel.routes {
		if op.If == ifi {
			delete(r.kernel.routes, key)
		}
	}
	for key := range r.kernel.sysctl {
		if strings.HasPrefix(key, "net/ipv6/conf/"+l.op.Name+"/") {
			delete(r.kernel.sysctl, key)
		}
	}
	r.handle(core.HostChanged{Op: l.op, Gone: true})
	for _, x := range l.addrs {
		r.kernel.tell(core.HostChanged{Op: core.HostOp{Kind: "address", If: ifi, Name: l.op.Name, Prefix: x.p}, Gone: true})
	}
}

// dhcp does what a DHCP client does: an address, and a default route with a gateway, if any.
func (r *rig) dhcp(ifi int, p, via string) {
	l := r.kernel.links[ifi]
	x := &kaddr{p: netip.MustParsePrefix(p)}
	l.addrs[x.p.Addr()] = x
	r.kernel.show(l, x)
	r.kernel.tell(core.HostChanged{Op: defaultRoute(l.op, x.p.Addr(), via), Up: true})
	r.run(0)
}

func defaultRoute(l core.HostOp, a netip.Addr, via string) core.HostOp {
	op := core.HostOp{Kind: "route", If: l.If, Name: l.Name, Table: mainTable, Prefix: netip.MustParsePrefix("0.0.0.0/0")}
	if a.Is6() {
		op.Prefix = netip.MustParsePrefix("::/0")
	}
	if via != "" {
		op.Via = netip.MustParseAddr(via)
	}
	return op
}

// undhcp takes both away again.
func (r *rig) undhcp(ifi int, p, via string) {
	l := r.kernel.links[ifi]
	a := netip.MustParsePrefix(p).Addr()
	r.kernel.tell(core.HostChanged{Op: defaultRoute(l.op, a, via), Gone: true})
	r.kernel.lose(l, a)
	r.run(0)
}

// clean fails if anything that the machine set is still there.
func (r *rig) clean() {
	r.t.Helper()
	k := &r.kernel
	if len(k.routes) > 0 || len(k.rules) > 0 || len(k.sysctl) > 0 {
		r.t.Fatalf("left behind: routes %v, rules %v, sysctls %v", k.routes, k.rules, k.sysctl)
	}
	for _, l := range k.links {
		for a, x := range l.addrs {
			if x.ours {
				r.t.Fatalf("left behind: %s on %s", a, l.op.Name)
			}
		}
	}
}

// network4test is a network with routers.
type network4test struct {
	routers []*testRouter
	others  []netip.Addr // hosts that defend these addresses
	lose    func() bool
}

type testRouter struct {
	ll       netip.Addr
	mac      core.MAC
	v4       netip.Addr
	ra       *nd.RouterAdvertisement // nil: says nothing
	silent   bool
	deaf     bool // hears nothing, but advertises
	unicast  bool // answers solicitations by unicast
	noRouter bool // answers without the Router flag
}

// pi is a Prefix Information option for lab: on-link, autonomous, lifetimes in seconds.
func pi(p string, valid, preferred uint32) *nd.PrefixInformation {
	return &nd.PrefixInformation{Prefix: netip.MustParsePrefix(p), OnLink: true, Autonomous: true, Valid: valid, Preferred: preferred}
}

// newNet is a network with one router fe80::<n> that advertises prefixes for an hour.
func newNet(n int, prefixes ...string) *network4test {
	rt := &testRouter{ll: netip.MustParseAddr(fmt.Sprintf("fe80::%x", n)), mac: core.MAC{2, 0, 0, 0, 1, byte(n)}}
	rt.ra = &nd.RouterAdvertisement{CurHopLimit: 64, RouterLifetime: 1800, Options: nd.Options{nd.SourceLinkLayer(rt.mac)}}
	for _, p := range prefixes {
		rt.ra.Options = append(rt.ra.Options, pi(p, 7200, 3600))
	}
	return &network4test{routers: []*testRouter{rt}}
}

// receive is a frame of the node that arrives in the network.
func (n *network4test) receive(r *rig, ifi int, f *access.Frame) {
	if r.nets[ifi] != n || n.lose != nil && n.lose() {
		return
	}
	for _, rt := range n.routers {
		rt.receive(r, n, ifi, f)
	}
	if ns, ok := f.Body.(*nd.NeighborSolicitation); ok && f.SrcIP.IsUnspecified() && slices.Contains(n.others, ns.Target) {
		mac := core.MAC{2, 0, 0, 0, 2, 1}
		n.send(r, ifi, &access.Frame{Dst: multicastMAC(nd.AllNodes), Src: mac, SrcIP: ns.Target, DstIP: nd.AllNodes,
			Body: &nd.NeighborAdvertisement{Override: true, Target: ns.Target, Options: nd.Options{nd.TargetLinkLayer(mac)}}})
	}
}

func (rt *testRouter) receive(r *rig, n *network4test, ifi int, f *access.Frame) {
	if rt.silent || rt.deaf || f.Dst != rt.mac && !ether.IsGroup(f.Dst) {
		return
	}
	switch b := f.Body.(type) {
	case *nd.RouterSolicitation:
		if rt.ra != nil {
			rt.advertise(r, n, ifi, f)
		}
	case *nd.NeighborSolicitation:
		if b.Target == rt.ll && !f.SrcIP.IsUnspecified() {
			n.send(r, ifi, &access.Frame{Dst: f.Src, Src: rt.mac, SrcIP: rt.ll, DstIP: f.SrcIP,
				Body: &nd.NeighborAdvertisement{Router: !rt.noRouter, Solicited: true, Override: true, Target: rt.ll, Options: nd.Options{nd.TargetLinkLayer(rt.mac)}}})
		}
	case *ether.ARP:
		if b.Op == ether.ARPRequest && b.TargetIP == rt.v4 {
			n.send(r, ifi, &access.Frame{Dst: f.Src, Src: rt.mac,
				Body: &ether.ARP{Op: ether.ARPReply, SenderHW: rt.mac, SenderIP: rt.v4, TargetHW: b.SenderHW, TargetIP: b.SenderIP}})
		}
	}
}

// advertise sends a router's advertisement, to all or to who asked.
func (rt *testRouter) advertise(r *rig, n *network4test, ifi int, to *access.Frame) {
	f := &access.Frame{Dst: multicastMAC(nd.AllNodes), Src: rt.mac, SrcIP: rt.ll, DstIP: nd.AllNodes, Body: rt.ra}
	if to != nil && rt.unicast && !to.SrcIP.IsUnspecified() {
		f.Dst, f.DstIP = to.Src, to.SrcIP
	}
	n.send(r, ifi, f)
}

// send brings a frame to the node.
func (n *network4test) send(r *rig, ifi int, f *access.Frame) {
	if n.lose != nil && n.lose() {
		return
	}
	f = r.rebuild(f)
	r.after(wireDelay, func() {
		if r.nets[ifi] == n && r.kernel.links[ifi] != nil {
			r.handle(core.Message{Path: core.Path{If: ifi}, Body: f})
		}
	})
}

// emitted are the events of a name, as "from>to".
func (r *rig) emitted(name string) (out []string) {
	for _, e := range r.emits {
		if e.Name == name {
			out = append(out, e.From+">"+e.To)
		}
	}
	return out
}
