package optimize

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"kedge/internal/core"
	"kedge/internal/peer"
	"kedge/wire"
	"kedge/wire/mobility"
)

// A rig is the sub-machine in virtual time, with real correspondents (package peer) and ways to them that take time and lose what the
// test wants. Messages travel as octets.

const (
	ms  = time.Millisecond
	sec = time.Second

	direct  = 20 * ms // one way, to a correspondent
	through = 50 * ms // one way, by the home agent
	rtt     = 2 * direct
	homeRTT = 2 * through
	begin   = 1000 * time.Second // boot time at which rigs start
)

var (
	hoa    = netip.MustParseAddr("2001:db8:2000::5")
	ha     = netip.MustParseAddr("2001:db8:a::1")
	coa1   = netip.MustParseAddr("2001:db8:f1::7")
	coa2   = netip.MustParseAddr("2001:db8:f2::7")
	cn     = netip.MustParseAddr("2001:db8:d::99")
	cn2    = netip.MustParseAddr("2001:db8:d::98")
	tunnel = core.Chain{N: 1, Layer: [2]core.Layer{{Local: addrPort(coa1), Remote: addrPort(ha)}}}
	start  = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
)

type rig struct {
	t     testing.TB
	m     *Machine
	now   core.Now
	peers map[netip.Addr]*peer.Machine
	place Place
	queue []timed
	order int
	ids   core.ID
	rng   *rand.ChaCha8

	// drop says whether a message is lost on its way; nil loses none.
	drop func(dir string, b mobility.Message) bool
	// late is how much longer a message takes.
	late func(dir string, b mobility.Message) time.Duration

	sent   []sentMsg // of the node
	heard  []sentMsg // of correspondents, as they arrived
	ops    []core.Op
	emits  []core.Emit
	past   []string
	store  []byte
	failed func([]core.Op) error
	count  func(core.ID) core.Counter
	data   map[core.ID]*session
}

type sentMsg struct {
	at   time.Duration // since the rig's start
	path core.Path
	body mobility.Message
	raw  []byte
}

func (s sentMsg) String() string { return fmt.Sprint(s.at, " ", s.body.Type()) }

// session is what the data plane was told.
type session struct {
	chain    core.Chain
	prev     core.Chain
	until    time.Duration // of prev
	up, down bool
	match    core.Match
}

type timed struct {
	at    time.Duration
	order int
	f     func()
}

func newRig(t testing.TB, cfg Config) *rig {
	t.Helper()
	r := &rig{t: t, now: core.Now{Boot: begin, Wall: start}, peers: map[netip.Addr]*peer.Machine{}, rng: rand.NewChaCha8([32]byte{9}), data: map[core.ID]*session{}}
	r.boot(cfg)
	r.correspondent(cn)
	r.correspondent(cn2)
	return r
}

func traffic() Config { return Config{Use: Traffic} }

// boot starts a machine, with what an earlier one stored.
func (r *rig) boot(cfg Config) {
	r.t.Helper()
	r.ids += 1 << 32
	m, err := New(cfg, r.rng, Hooks{
		Session: func() core.ID { r.ids++; return r.ids },
		Past: func(what, reason, detail string) {
			r.past = append(r.past, fmt.Sprint(r.elapsed(), " ", what, " ", reason, " ", detail))
		},
	})
	if err != nil {
		r.t.Fatal(err)
	}
	r.m, r.place, r.data = m, Place{}, map[core.ID]*session{}
	if r.store != nil {
		if err := m.Restore(r.now, hoa, r.store); err != nil {
			r.t.Fatal(err)
		}
	}
	r.effects(m.Start(r.now, nil))
}

// correspondent starts one, or restarts it.
func (r *rig) correspondent(a netip.Addr) {
	r.t.Helper()
	p, err := peer.New(peer.Config{Addresses: []netip.Addr{a}, Forward: func(peer.Binding) []core.Effect { return nil }}, r.rng)
	if err != nil {
		r.t.Fatal(err)
	}
	r.peers[a] = p
}

func (r *rig) elapsed() time.Duration { return r.now.Boot - begin }

// away puts the node into a network, registered there.
func (r *rig) away(a netip.Addr, also ...netip.Addr) {
	r.t.Helper()
	p := Place{At: Away, Home: hoa, Anchor: ha, Name: "ha1", CareOf: a, If: 2, Tunnel: tunnel, Until: r.now.Boot + 100*time.Hour, Own: append(also, a)}
	p.Tunnel.Layer[0].Local = addrPort(a)
	r.at(p)
}

func (r *rig) at(p Place) {
	r.t.Helper()
	r.place = p
	r.effects(r.m.Locate(r.now, p, nil))
}

func (r *rig) handle(ev core.Event) {
	r.t.Helper()
	r.effects(r.m.Handle(r.now, ev, nil))
}

// report is the data plane's word that there is traffic through the home agent.
func (r *rig) report(a netip.Addr) {
	r.t.Helper()
	ev := core.Reported{Reason: core.ReportCorrespondent, Inner: core.Match{Src: single(hoa), Dst: single(a)}}
	if !r.m.Wants(&ev) {
		r.t.Fatal("the report is not taken")
	}
	r.handle(ev)
}

func (r *rig) effects(out []core.Effect) {
	r.t.Helper()
	for _, e := range out {
		switch e := e.(type) {
		case core.Send:
			r.leave(e)
		case core.Forward:
			r.ops = append(r.ops, e.Ops...)
			var err error
			if r.failed != nil {
				err = r.failed(e.Ops)
			}
			if err == nil {
				r.forward(e.Ops)
			}
			if e.Ref != 0 {
				r.after(0, func() { r.handle(core.Done{Ref: e.Ref, Err: err}) })
			}
		case core.Emit:
			r.emits = append(r.emits, e)
		case core.Persist:
			if string(e.Key) != Key || !e.Lazy {
				r.t.Fatalf("record %q", e.Key)
			}
			r.store = e.Val
		case core.Ask:
			ids := e.Body.(core.CountSessions)
			a := core.Answer{Ref: e.Ref, Err: fmt.Errorf("no counters")}
			if r.count != nil {
				into := make([]core.Counter, len(ids))
				for i, id := range ids {
					into[i] = r.count(id)
				}
				a = core.Answer{Ref: e.Ref, Body: into}
			}
			r.after(0, func() { r.handle(a) })
		default:
			r.t.Fatalf("effect %T", e)
		}
	}
	if d, ok := r.m.Deadline(); ok && d < r.now.Boot {
		r.t.Fatalf("%v: deadline %v has passed", r.elapsed(), d-begin)
	}
}

// forward does what a data plane does.
func (r *rig) forward(ops []core.Op) {
	r.t.Helper()
	for _, op := range ops {
		switch op := op.(type) {
		case core.SetSession:
			s := r.data[op.ID]
			if s == nil {
				s = &session{}
				r.data[op.ID] = s
			} else if s.chain != op.Chain {
				s.prev, s.until = s.chain, r.now.Boot+op.Grace
			}
			if op.Chain.RO != 1 {
				r.t.Fatalf("chain %+v", op.Chain)
			}
			s.chain = op.Chain
		case core.SetKey:
			s := r.data[op.ID]
			if s == nil {
				r.t.Fatalf("a key of session %d, which is not there", op.ID)
			}
			s.up, s.down, s.match = op.Up, op.Down, op.Match
		case core.Drop:
			delete(r.data, op.ID)
		}
	}
}

// sessionOf is the data plane's session with a correspondent.
func (r *rig) sessionOf(a netip.Addr) *session {
	for _, s := range r.data {
		if s.match.Dst.Addr() == a {
			return s
		}
	}
	return nil
}

// directTo is the care-of address that data to a correspondent leaves from directly; invalid: it goes through the home agent.
func (r *rig) directTo(a netip.Addr) netip.Addr {
	if s := r.sessionOf(a); s != nil && s.up {
		return s.chain.Layer[0].Local.Addr()
	}
	return netip.Addr{}
}

// letsIn says whether data with a type 2 routing header is taken at a care-of address.
func (r *rig) letsIn(a, careOf netip.Addr) bool {
	s := r.sessionOf(a)
	return s != nil && s.down && (s.chain.Layer[0].Local.Addr() == careOf || r.now.Boot < s.until && s.prev.Layer[0].Local.Addr() == careOf)
}

// leave carries a message of the node to its correspondent.
func (r *rig) leave(e core.Send) {
	r.t.Helper()
	body, ok := e.Body.(mobility.Message)
	if !ok {
		r.t.Fatalf("body %T", e.Body)
	}
	p := e.Path
	src, dst := p.Local.Addr(), p.Remote.Addr()
	if p.Own.IsValid() {
		src = p.Own
	}
	raw, err := mobility.Append(nil, body, src, dst)
	if err != nil {
		r.t.Fatal(err)
	}
	r.sent = append(r.sent, sentMsg{r.elapsed(), p, body, raw})
	if r.drop != nil && r.drop("out", body) {
		return
	}
	delay, there := direct, slices.Contains(r.place.Own, p.Local.Addr())
	if p.Local.Addr() == hoa {
		delay, there = through, p.Outer.N == 1 || r.place.At == AtHome
		if r.place.At == AtHome {
			delay = direct
		}
	}
	if !there {
		return
	}
	if r.late != nil {
		delay += r.late("out", body)
	}
	r.after(delay, func() {
		if m := r.peers[dst]; m != nil {
			msg := r.parse(raw, src, dst)
			msg.Path = core.Path{Local: p.Remote, Remote: p.Local, Home: p.Own}
			r.answers(dst, m.Handle(r.now, msg, nil))
		}
	})
}

func (r *rig) parse(raw []byte, src, dst netip.Addr) core.Message {
	r.t.Helper()
	raw = slices.Clone(raw)
	body, err := mobility.Parse(raw, src, dst)
	return core.Message{Body: body, Err: err, Raw: raw}
}

// answers carries what a correspondent sends to the node.
func (r *rig) answers(from netip.Addr, out []core.Effect) {
	for _, e := range out {
		s, ok := e.(core.Send)
		if !ok {
			continue
		}
		r.toNode(s.Path, s.Body.(mobility.Message))
	}
}

// toNode carries a message to the node. path is the sender's.
func (r *rig) toNode(p core.Path, body mobility.Message) {
	r.t.Helper()
	src, dst := p.Local.Addr(), p.Remote.Addr()
	final := dst
	if p.Home.IsValid() {
		final = p.Home
	}
	raw, err := mobility.Append(nil, body, src, final)
	if err != nil {
		r.t.Fatal(err)
	}
	if r.drop != nil && r.drop("in", body) {
		return
	}
	delay := direct
	if dst == hoa && r.place.At != AtHome {
		delay = through
	}
	if r.late != nil {
		delay += r.late("in", body)
	}
	r.after(delay, func() {
		in := core.Path{If: 2, Local: p.Remote, Remote: p.Local, Own: p.Home}
		switch {
		case dst == hoa && r.place.At == Away:
			in.Outer = r.place.Tunnel
		case dst == hoa && r.place.At == AtHome:
		case !slices.Contains(r.place.Own, dst):
			return
		}
		r.deliver(in, raw, src, final)
	})
}

// deliver gives the node a message.
func (r *rig) deliver(in core.Path, raw []byte, src, dst netip.Addr) {
	r.t.Helper()
	msg := r.parse(raw, src, dst)
	msg.Path = in
	if msg.Err != nil {
		r.t.Fatal(msg.Err)
	}
	r.heard = append(r.heard, sentMsg{r.elapsed(), in, msg.Body.(mobility.Message), raw})
	if r.m.Takes(&msg) {
		r.handle(msg)
	}
}

func (r *rig) after(d time.Duration, f func()) {
	r.order++
	r.queue = append(r.queue, timed{r.now.Boot + d, r.order, f})
}

// run lets time pass; correspondents have their ticks.
func (r *rig) run(d time.Duration) {
	r.t.Helper()
	end := r.now.Boot + d
	for steps := 0; ; steps++ {
		if steps > 200_000 {
			r.t.Fatalf("%v: the machine does not come to rest", r.elapsed())
		}
		slices.SortFunc(r.queue, func(a, b timed) int {
			if a.at != b.at {
				return int(a.at - b.at)
			}
			return a.order - b.order
		})
		next, what := end, func() {}
		found := false
		if len(r.queue) > 0 && r.queue[0].at <= next {
			next, found = r.queue[0].at, true
			what = func() { f := r.queue[0].f; r.queue = r.queue[1:]; f() }
		}
		if d, ok := r.m.Deadline(); ok && (d < next || d == next && !found) {
			next, found, what = d, true, func() { r.handle(core.Tick{}) }
		}
		for a, p := range r.peers {
			if d, ok := p.Deadline(); ok && (d < next || d == next && !found) {
				next, found, what = max(d, r.now.Boot), true, func() { r.answers(a, p.Handle(r.now, core.Tick{}, nil)) }
			}
		}
		if d := next - r.now.Boot; d > 0 {
			r.now.Boot, r.now.Wall = next, r.now.Wall.Add(d)
		}
		if !found {
			return
		}
		what()
	}
}

// messages are those of the node, as "at type".
func (r *rig) messages() (s []string) {
	for _, m := range r.sent {
		s = append(s, m.String())
	}
	return s
}

func (r *rig) wantMessages(want ...string) {
	r.t.Helper()
	if got := r.messages(); !slices.Equal(got, want) {
		r.t.Errorf("sent\n  %s\nwant\n  %s", strings.Join(got, "\n  "), strings.Join(want, "\n  "))
	}
}

func (r *rig) forget() { r.sent, r.heard, r.ops, r.emits = nil, nil, nil, nil }

func (r *rig) wantDirect(a, careOf netip.Addr) {
	r.t.Helper()
	if got := r.directTo(a); got != careOf {
		r.t.Errorf("%v: data to %v leaves from %v, want %v; %s", r.elapsed(), a, got, careOf, strings.Join(r.past, "\n  "))
	}
}

// boundAt is what a correspondent has.
func (r *rig) boundAt(a netip.Addr) netip.Addr {
	c, _ := r.peers[a].CareOf(a, hoa)
	return c
}

func (r *rig) state(a netip.Addr) string {
	if e := r.m.find(a); e != nil {
		return e.state.String()
	}
	return ""
}

// unanswered is a rig with a Binding Update on its way to cn, which does not hear of acknowledgements.
func unanswered(t testing.TB) *rig {
	t.Helper()
	r := newRig(t, traffic())
	r.drop = func(_ string, b mobility.Message) bool { return isType(b, mobility.TypeBindingAck) }
	r.away(coa1)
	r.report(cn)
	r.run(homeRTT + ms)
	return r
}

// established is a rig with a binding at cn.
func established(t testing.TB, cfg Config) *rig {
	t.Helper()
	r := newRig(t, cfg)
	r.count = func(core.ID) core.Counter { // data flows both ways
		n := uint64(r.elapsed() / sec)
		return core.Counter{PacketsIn: n, PacketsOut: n}
	}
	r.away(coa1)
	r.report(cn)
	r.run(homeRTT + rtt)
	r.wantDirect(cn, coa1)
	if r.boundAt(cn) != coa1 {
		t.Fatal("no binding")
	}
	return r
}

func isType(b mobility.Message, t mobility.Type) bool { return b.Type() == t }

// reasons counts what was ignored or refused.
func (r *rig) reason(w wire.Reason) uint64 { return r.m.counts[string(w)] }

// fixed are counters that do not change.
func fixed(n uint64) func(core.ID) core.Counter {
	return func(core.ID) core.Counter { return core.Counter{PacketsIn: n, PacketsOut: n} }
}
