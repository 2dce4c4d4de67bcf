package node

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"kedge/internal/core"
	"kedge/internal/node/movement"
	"kedge/wire/ip"
	"kedge/wire/mobility"
)

// A rig is a node in virtual time, with networks that pass packets on and a scripted home agent.

var (
	ha6  = netip.MustParseAddr("2001:db8:a::1")
	ha4  = netip.MustParseAddr("198.51.100.1")
	hoa6 = netip.MustParseAddr("2001:db8:2000::5")
	hoa4 = netip.MustParseAddr("10.20.0.5")
	wall = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
)

const begin = 1000 * time.Second // boot time at which rigs start

func baseConfig() Config {
	return Config{
		Name: "n1", Anchor: Anchor{Name: "ha1", V6: ha6, V4: ha4, Protection: "esp"},
		Home:  Home{V6: netip.PrefixFrom(hoa6, 64), IPv4: IPv4Static, V4: netip.PrefixFrom(hoa4, 16)},
		Links: []Link{{Match: "*"}},
	}
}

// links is the test's end of package movement.
type links struct {
	list    []movement.CareOf
	changed bool
	claims  []string
	suspect []netip.Addr
	dropped map[string]uint64
	valid   time.Duration // of all addresses; 0 = for ever
}

func (l *links) Handle(_ core.Now, _ core.Event, out []core.Effect) []core.Effect { return out }
func (l *links) Deadline() (time.Duration, bool)                                  { return 0, false }
func (l *links) CareOfs() []movement.CareOf                                       { return l.list }
func (l *links) ValidUntil(int, netip.Addr) time.Duration {
	if l.valid > 0 {
		return l.valid
	}
	return never
}
func (l *links) SetHome([]netip.Addr, netip.Prefix) {}
func (l *links) Confirm(core.Now, netip.Addr)       {}
func (l *links) Counters() map[string]uint64        { return l.dropped }
func (l *links) Changed() bool {
	c := l.changed
	l.changed = false
	return c
}
func (l *links) AtHome() (movement.CareOf, bool) {
	for _, c := range l.list {
		if c.Home {
			return c, true
		}
	}
	return movement.CareOf{}, false
}
func (l *links) Suspect(_ core.Now, a netip.Addr, out []core.Effect) []core.Effect {
	l.suspect = append(l.suspect, a)
	return out
}
func (l *links) note(what string, ifi int, ps []netip.Prefix, out []core.Effect) []core.Effect {
	l.claims = append(l.claims, fmt.Sprintf("%s %d %v", what, ifi, ps))
	return append(out, core.Emit{Name: what})
}
func (l *links) ExpectHome(_ core.Now, ifi int, ps []netip.Prefix, out []core.Effect) []core.Effect {
	return l.note("expect", ifi, ps, out)
}
func (l *links) ClaimHome(_ core.Now, ifi int, ps []netip.Prefix, out []core.Effect) []core.Effect {
	return l.note("claim", ifi, ps, out)
}
func (l *links) ReleaseHome(_ core.Now, out []core.Effect) []core.Effect {
	return l.note("release", 0, nil, out)
}
func (l *links) Close(_ core.Now, out []core.Effect) []core.Effect {
	return l.note("close", 0, nil, out)
}

// network is one care-of address's way to the home agent.
type netw struct {
	care     movement.CareOf
	down     bool          // no packet passes, and the node does not know
	delay    time.Duration // one way
	loss     float64
	nat      int  // identity of the NAT's mapping; 0 = none
	noPlain  bool // protocols 4 and 41 over IPv4 do not pass
	noTunnel bool // signalling passes, no tunnelled packet does
	noUp     bool // only downwards
	noDown   bool // only upwards
	ownMTU   int  // octets of an outer packet that pass; 0 = all
}

type rig struct {
	t     *testing.T
	m     *Machine
	links *links
	now   core.Now
	rng   *rand.Rand
	nets  []*netw
	agent *agent
	more  map[netip.Addr]*agent // further home agents, by their address
	asked []core.Ask
	queue []timed
	order int

	sent  []core.Send
	times []time.Duration // of sent, since the start
	emits []core.Emit
	ops   []core.Op
	ends  []core.Endpoint // tunnels of associations that moved
	host  map[string]core.HostOp
	store []byte
	reply []core.Reply
	fail  func(core.HostOp) error
	data  func([]core.Op) error
}

type timed struct {
	at    time.Duration
	order int
	f     func()
}

func newRig(t *testing.T, change func(*Config)) *rig {
	t.Helper()
	cfg := baseConfig()
	if change != nil {
		change(&cfg)
	}
	r := &rig{t: t, now: core.Now{Boot: begin, Wall: wall}, rng: rand.New(rand.NewPCG(1, 2)), links: &links{}, host: map[string]core.HostOp{}}
	r.agent = &agent{r: r, mobile: map[netip.Addr]netip.Addr{hoa6: hoa4}}
	r.boot(cfg)
	return r
}

// boot starts a machine, with what an earlier one stored.
func (r *rig) boot(cfg Config) {
	r.t.Helper()
	m, err := New(cfg, rand.NewChaCha8([32]byte{7}))
	if err != nil {
		r.t.Fatal(err)
	}
	m.strict = true
	r.m = m
	if r.store != nil {
		r.handle(core.Restored{Key: []byte(recordKey), Val: r.store})
	}
	m.move = r.links
	r.handle(core.Restored{Last: true})
}

func (r *rig) elapsed() time.Duration { return r.now.Boot - begin }

// handle gives the machine one event, and carries out what it wants.
func (r *rig) handle(ev core.Event) {
	r.t.Helper()
	for _, e := range r.m.Handle(r.now, ev, nil) {
		switch e := e.(type) {
		case core.Send:
			r.sent, r.times = append(r.sent, e), append(r.times, r.elapsed())
			r.carry(e)
		case core.Emit:
			r.emits = append(r.emits, e)
		case core.Endpoint:
			r.ends = append(r.ends, e)
		case core.Forward:
			r.ops = append(r.ops, e.Ops...)
			var err error
			if r.data != nil {
				err = r.data(e.Ops)
			}
			r.after(0, func() { r.handle(core.Done{Ref: e.Ref, Err: err}) })
		case core.Change:
			var err error
			for _, op := range e.Ops {
				if r.fail != nil {
					err = errors.Join(err, r.fail(op))
				}
				n := name(&op)
				if op.Del {
					delete(r.host, n)
				} else if err == nil {
					r.host[n] = op
				}
			}
			r.after(0, func() { r.handle(core.Done{Ref: e.Ref, Err: err}) })
		case core.Persist:
			r.store = e.Val
		case core.Ask:
			r.asked = append(r.asked, e)
		case core.Reply:
			r.reply = append(r.reply, e)
		}
	}
	if d, ok := r.m.Deadline(); ok && d < r.now.Boot && r.m.state != stopped {
		r.t.Fatalf("%v: deadline %v has passed and was not served: %+v", r.elapsed(), d-begin, r.m.race)
	}
}

func (r *rig) after(d time.Duration, f func()) {
	r.order++
	r.queue = append(r.queue, timed{r.now.Boot + d, r.order, f})
}

// run lets time pass.
func (r *rig) run(d time.Duration) {
	r.t.Helper()
	r.until(d, func() bool { return false })
}

// until runs until cond holds; it says whether it did, within d.
func (r *rig) until(d time.Duration, cond func() bool) bool {
	r.t.Helper()
	end := r.now.Boot + d
	for steps := 0; ; steps++ {
		if cond() {
			return true
		}
		if steps > 1_000_000 {
			r.t.Fatalf("%v: the machine does not come to rest", r.elapsed())
		}
		slices.SortFunc(r.queue, func(a, b timed) int {
			if a.at != b.at {
				return int(a.at - b.at)
			}
			return a.order - b.order
		})
		next, tick := end, false
		if d, ok := r.m.Deadline(); ok && d <= next {
			next, tick = d, true
		}
		if len(r.queue) > 0 && r.queue[0].at <= next {
			f := r.queue[0]
			r.queue = r.queue[1:]
			r.advance(f.at)
			f.f()
			continue
		}
		r.advance(next)
		if !tick {
			return cond()
		}
		r.handle(core.Tick{})
	}
}

func (r *rig) advance(to time.Duration) {
	if d := to - r.now.Boot; d > 0 {
		r.now.Boot, r.now.Wall = to, r.now.Wall.Add(d)
	}
}

// net adds a network with a care-of address; the node sees it with show.
func (r *rig) net(ifi int, addr string) *netw {
	a := netip.MustParseAddr(addr)
	n := &netw{delay: 10 * time.Millisecond, care: movement.CareOf{
		If: ifi, Link: fmt.Sprintf("if%d", ifi), Addr: a, Prefix: netip.PrefixFrom(a, a.BitLen()/2), MTU: 1500, Table: 11000 + ifi*10 + a.BitLen()/128,
		Network: fmt.Sprintf("net%d", ifi), Since: r.now.Boot,
	}}
	r.nets = append(r.nets, n)
	return n
}

// show makes exactly these networks visible to the node.
func (r *rig) show(ns ...*netw) {
	r.t.Helper()
	r.links.list = nil
	for _, n := range ns {
		r.links.list = append(r.links.list, n.care)
	}
	r.links.changed = true
	r.handle(core.HostChanged{})
}

func (r *rig) netOf(a netip.Addr) *netw {
	for _, n := range r.nets {
		if n.care.Addr == a && slices.ContainsFunc(r.links.list, func(c movement.CareOf) bool { return c.Addr == a }) {
			return n
		}
	}
	return nil
}

func (r *rig) lost(n *netw) bool { return n.loss > 0 && r.rng.Float64() < n.loss }

// carry takes a packet of the node to the home agent.
func (r *rig) carry(s core.Send) {
	local := s.Path.Local.Addr()
	framing := inIPv6
	if s.Path.Outer.N > 0 {
		l := s.Path.Outer.Layer[0]
		local = l.Local.Addr()
		if local.Is4() {
			if framing = inIPv4; l.Local.Port() != 0 {
				framing = inUDP
			}
		}
	}
	if local == hoa6 { // natively, on the home link
		if c, ok := r.links.AtHome(); ok && c.If == s.Path.If {
			local = c.Addr
		}
	}
	n := r.netOf(local)
	if n == nil || n.down || n.noUp || r.lost(n) || !r.passes(n, s, framing) {
		return
	}
	if n.ownMTU > 0 {
		if e, ok := s.Body.(*ip.Echo); ok && 48+len(e.Data)+framing.overhead() > n.ownMTU {
			return
		}
	}
	seen := seenAt{n.care.Addr, n.nat}
	r.after(n.delay, func() { r.at(s.Path.Remote.Addr()).take(n, seen, framing, s) })
}

// at is the home agent with an address: the usual one unless there are more.
func (r *rig) at(a netip.Addr) *agent {
	if g := r.more[a]; g != nil {
		return g
	}
	return r.agent
}

func (r *rig) passes(n *netw, s core.Send, f framing) bool {
	_, echo := s.Body.(*ip.Echo)
	switch {
	case echo && n.noTunnel:
		return false
	case f == inIPv4 && n.noPlain:
		return false
	case f == inIPv4 && n.nat != 0 && r.m.cfg.Anchor.Dialect == RFC5555:
		return false // a NAT has no ports to go by
	}
	return true
}

// deliver takes a packet of the home agent to the node.
func (r *rig) deliver(n *netw, seen seenAt, f framing, path core.Path, body any) {
	r.after(n.delay, func() {
		if r.netOf(n.care.Addr) != n || n.down || n.noDown || n.nat != seen.nat || r.lost(n) || !r.passes(n, core.Send{Body: body}, f) {
			return
		}
		r.handle(core.Message{Path: path, Body: body})
	})
}

// seenAt is where the home agent sees a node.
type seenAt struct {
	addr netip.Addr
	nat  int
}

// agent is a home agent as the RFCs want it, with what tests need to bend.
type agent struct {
	r        *rig
	mobile   map[netip.Addr]netip.Addr
	down     bool
	net      *netw // of the binding; nil = none
	seen     seenAt
	framing  framing
	expires  time.Duration
	ipv4     netip.Addr
	seq      uint16
	seqKnown bool
	heard    []heard
	noEcho   bool
	lease    netip.Addr // dynamic IPv4 home address
	status   mobility.Status
	option   func(bu *mobility.BindingUpdate, ba *mobility.BindingAck) // instead of the usual options
	mute     bool                                                      // registers, and does not answer
	auth     core.Auth
	other    func(n *netw, seen seenAt, f framing, s core.Send) bool   // takes a message first; says whether it did
	noForce  bool                                                      // the F flag is refused
	judge    func(bu *mobility.BindingUpdate, ba *mobility.BindingAck) // refuses
}

type heard struct {
	at time.Duration
	bu *mobility.BindingUpdate
	by core.Path
}

func (g *agent) bound() bool { return g.net != nil && g.expires > g.r.now.Boot }

func (g *agent) take(n *netw, seen seenAt, f framing, s core.Send) {
	if g.down {
		return
	}
	if g.other != nil && g.other(n, seen, f, s) {
		return
	}
	switch b := s.Body.(type) {
	case *mobility.BindingUpdate:
		g.update(n, seen, f, s.Path, b)
	case *ip.Echo:
		if !g.bound() || g.noEcho || n != g.net || seen != g.seen {
			return
		}
		reply := *b
		reply.Reply = true
		path := s.Path
		path.Outer = g.r.m.chain(g.net.care.Addr, g.framing)
		g.r.deliver(g.net, g.seen, g.framing, path, &reply)
	}
}

func (g *agent) update(n *netw, seen seenAt, f framing, path core.Path, bu *mobility.BindingUpdate) {
	g.heard = append(g.heard, heard{g.r.elapsed(), bu, path})
	ba := &mobility.BindingAck{Sequence: bu.Sequence, Lifetime: bu.Lifetime, Status: g.status}
	if g.noForce && bu.Flags&mobility.BUForceUDP != 0 {
		ba.Status = mobility.IDMismatch
	}
	if g.judge != nil {
		g.judge(bu, ba)
	}
	switch {
	case g.seqKnown && !mobility.Newer(bu.Sequence, g.seq):
		ba.Status, ba.Sequence = mobility.SequenceOutOfWindow, g.seq
	case ba.Status.Accepted() && bu.Lifetime == 0:
		if !g.bound() {
			ba.Status = mobility.NotHomeAgent
		}
		g.net, g.seq, g.seqKnown = nil, bu.Sequence, true
	case ba.Status.Accepted():
		g.net, g.seen, g.seq, g.seqKnown = n, seen, bu.Sequence, true
		g.expires = g.r.now.Boot + time.Duration(bu.Lifetime)*mobility.LifetimeUnit
		g.framing = f
		if g.option != nil {
			g.option(bu, ba)
			break
		}
		g.usual(n, f, bu, ba)
	}
	if g.mute {
		return
	}
	path.Auth = core.Auth{Kind: "esp", Peer: "ha1"}
	if g.auth.Kind != "" {
		path.Auth = g.auth
	}
	g.r.deliver(n, seen, f, path, ba)
}

// usual writes the options of RFC 5555.
func (g *agent) usual(n *netw, f framing, bu *mobility.BindingUpdate, ba *mobility.BindingAck) {
	g.ipv4 = netip.Addr{}
	if o, ok := bu.Options.IPv4HomeAddress(); ok {
		ack := mobility.IPv4AddressAck{Addr: o.Addr, PrefixLen: 16, Short: min(o.Short, 1)}
		switch {
		case o.Addr.IsUnspecified() && g.lease.IsValid():
			ack.Addr = g.lease
		case o.Addr.IsUnspecified():
			ack.Status = mobility.DynamicAddressNotAvailable
		case o.Addr != hoa4 && o.Addr != g.lease:
			ack.Status = mobility.AddressIncorrect
		}
		if ack.Status.Success() {
			g.ipv4 = ack.Addr
		}
		ba.Options = ba.Options.Add(ack)
	}
	if f != inUDP {
		return
	}
	force := bu.Flags&mobility.BUForceUDP != 0
	nat := mobility.NATDetection{F: force, Refresh: noKeepalive}
	if n.nat != 0 {
		nat = mobility.NATDetection{F: true, Refresh: 110}
	}
	ba.Options = ba.Options.Add(nat)
	if n.nat == 0 && !force {
		g.framing = inIPv4
	}
}

// ok says whether node and home agent agree that the node is bound, and the data plane was told the same.
func (r *rig) ok() bool {
	g := r.agent
	return (r.m.state == active || r.m.state == updating && r.m.race.narrow) && !r.m.path.dead && g.bound() && g.net.care.Addr == r.m.bind.careOf.Addr && g.framing == r.m.bind.framing &&
		g.seen == (seenAt{g.net.care.Addr, g.net.nat}) && r.m.session.up && r.m.session.chain.Layer == r.m.chain(g.net.care.Addr, g.framing).Layer
}

func (r *rig) wantState(want state) {
	r.t.Helper()
	if r.m.state != want {
		r.t.Fatalf("%v: state is %v, want %v; history: %v", r.elapsed(), r.m.state, want, r.story())
	}
}

// updates are the Binding Updates so far, as "at seq care-of lifetime".
func (r *rig) updates() (us []core.Send, at []time.Duration) {
	for i, s := range r.sent {
		if _, ok := s.Body.(*mobility.BindingUpdate); ok {
			us, at = append(us, s), append(at, r.times[i])
		}
	}
	return us, at
}

func (r *rig) lastUpdate() (core.Send, *mobility.BindingUpdate) {
	r.t.Helper()
	us, _ := r.updates()
	if len(us) == 0 {
		r.t.Fatal("no Binding Update was sent")
	}
	s := us[len(us)-1]
	return s, s.Body.(*mobility.BindingUpdate)
}

func (r *rig) wantTimes(want ...time.Duration) {
	r.t.Helper()
	if _, at := r.updates(); !slices.Equal(at, want) {
		r.t.Errorf("Binding Updates at %v, want %v", at, want)
	}
}

func (r *rig) story() string {
	var b strings.Builder
	for _, p := range r.m.history {
		fmt.Fprintf(&b, "\n  %v %s %s %s", p.When.Sub(wall), p.What, p.Reason, p.Detail)
	}
	return b.String()
}

func (r *rig) command(body any) (any, error) {
	r.t.Helper()
	r.reply = nil
	r.handle(core.Command{Ref: 99, Body: body})
	if len(r.reply) != 1 || r.reply[0].Ref != 99 {
		r.t.Fatalf("command %T: replies %v", body, r.reply)
	}
	return r.reply[0].Body, r.reply[0].Err
}

func (r *rig) list() []core.Binding {
	r.t.Helper()
	b, err := r.command(core.GetBindings{})
	if err != nil {
		r.t.Fatal(err)
	}
	return b.([]core.Binding)
}

// forget drops what was recorded so far.
func (r *rig) forget() { r.sent, r.times, r.emits, r.ops = nil, nil, nil, nil }
