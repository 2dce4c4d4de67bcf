package simnet

import (
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/bpf"

	"kedge/internal/access"
	"kedge/internal/core"
	"kedge/internal/dataplane"
	"kedge/internal/system"
	"kedge/wire/mobility"
	"kedge/wire/nd"
)

// actor is a machine that a test scripts.
type actor struct {
	handle func(now core.Now, ev core.Event) []core.Effect
	next   time.Duration
	log    []string
}

func (a *actor) Handle(now core.Now, ev core.Event, out []core.Effect) []core.Effect {
	a.log = append(a.log, fmt.Sprintf("%T", ev))
	if a.handle != nil {
		out = append(out, a.handle(now, ev)...)
	}
	return out
}
func (a *actor) Deadline() (time.Duration, bool) { return a.next, a.next != 0 }

// pairOf joins two actors by a link: a sends heartbeats to b.
func pairOf(t *testing.T, seed uint64, c Conditions, commit time.Duration) (s *Sim, l *Link, a, b *Node, ma, mb *actor) {
	t.Helper()
	s = New(seed)
	s.Trace = &Trace{}
	l = s.Link("core", c)
	ma, mb = &actor{}, &actor{}
	node := func(name string, m *actor, addr string) *Node {
		n := s.Node(NodeConfig{Name: name, Role: dataplane.Anchor, New: func(io.Reader) (core.Machine, error) { return m, nil }, CommitTime: commit,
			Attach: []Attachment{{l, []netip.Addr{netip.MustParseAddr(addr)}}}})
		if err := n.Start(); err != nil {
			t.Fatal(err)
		}
		return n
	}
	return s, l, node("a", ma, "2001:db8::a"), node("b", mb, "2001:db8::b"), ma, mb
}

func beat(seq int) core.Send {
	return core.Send{Path: core.Path{
		Local: netip.MustParseAddrPort("[2001:db8::a]:0"), Remote: netip.MustParseAddrPort("[2001:db8::b]:0"),
	}, Body: &mobility.Heartbeat{Sequence: uint32(seq)}}
}

// arrivals records the heartbeats that come to a machine.
func (m *actor) arrivals(s *Sim) *[]string {
	var got []string
	m.handle = func(_ core.Now, ev core.Event) []core.Effect {
		if msg, ok := ev.(core.Message); ok {
			if msg.Err != nil {
				got = append(got, fmt.Sprintf("%v damaged", s.Elapsed()))
			} else {
				got = append(got, fmt.Sprintf("%v %d", s.Elapsed(), msg.Body.(*mobility.Heartbeat).Sequence))
			}
		}
		return nil
	}
	return &got
}

// send has a machine send n heartbeats, a second apart.
func send(s *Sim, n *Node, m *actor, count int) {
	m.handle = func(_ core.Now, ev core.Event) []core.Effect {
		if told, ok := ev.(core.Told); ok {
			return []core.Effect{beat(told.Body.(int))}
		}
		return nil
	}
	for i := range count {
		s.After(time.Duration(i)*time.Second, func() { n.Do(core.Told{Body: i + 1}) })
	}
}

func TestFaults(t *testing.T) {
	for _, c := range []struct {
		name string
		add  func(l *Link)
		want string
	}{
		{"none", func(l *Link) {}, "10ms 1, 1.01s 2, 2.01s 3"},
		{"lose the second", func(l *Link) { l.Fault(Nth(2, Signalling, Lose)) }, "10ms 1, 2.01s 3"},
		{"lose the first two", func(l *Link) { l.Fault(First(2, Any, Lose)) }, "2.01s 3"},
		{"double", func(l *Link) { l.Fault(Nth(1, From("a"), Twice(100*ms))) }, "10ms 1, 110ms 1, 1.01s 2, 2.01s 3"},
		{"late, and so overtaken", func(l *Link) { l.Fault(Nth(1, To("b"), Late(1500*ms))) }, "1.01s 2, 1.51s 1, 2.01s 3"},
		{"two delays add up", func(l *Link) { l.Fault(Late(5 * ms)); l.Fault(Late(5 * ms)) }, "20ms 1, 1.02s 2, 2.02s 3"},
		{"damage", func(l *Link) { l.Fault(Nth(2, Any, Flip(-1))) }, "10ms 1, 1.01s damaged, 2.01s 3"},
		{"other direction", func(l *Link) { l.Fault(If(From("b"), Lose)) }, "10ms 1, 1.01s 2, 2.01s 3"},
		{"all of nothing", func(l *Link) { l.Fault(If(All(From("a"), To("nobody")), Lose)) }, "10ms 1, 1.01s 2, 2.01s 3"},
		{"taken away again", func(l *Link) { l.Fault(Lose)() }, "10ms 1, 1.01s 2, 2.01s 3"},
		{"partition", func(l *Link) { l.Partition("b", "a", true); l.s.After(500*ms, func() { l.Partition("a", "b", false) }) }, "1.01s 2, 2.01s 3"},
		{"down", func(l *Link) { l.SetDown(true); l.s.After(1500*ms, func() { l.SetDown(false) }) }, "2.01s 3"},
	} {
		t.Run(c.name, func(t *testing.T) {
			s, l, a, _, ma, mb := pairOf(t, 1, Conditions{Latency: 10 * ms}, 0)
			c.add(l)
			got := mb.arrivals(s)
			send(s, a, ma, 3)
			s.Run(10 * sec)
			if strings.Join(*got, ", ") != c.want {
				t.Errorf("arrived %s, want %s", strings.Join(*got, ", "), c.want)
			}
		})
	}
}

func TestConditions(t *testing.T) {
	run := func(c Conditions) (n int, order bool, last time.Duration) {
		s, _, a, _, ma, mb := pairOf(t, 7, c, 0)
		got := mb.arrivals(s)
		send(s, a, ma, 2000)
		s.Run(3000 * sec)
		seqs := make([]int, len(*got))
		for i, g := range *got {
			var at string
			fmt.Sscanf(g, "%s %d", &at, &seqs[i])
			d, _ := time.ParseDuration(at)
			late := d - time.Duration(seqs[i]-1)*sec
			last = max(last, late)
			if late < c.Latency {
				t.Errorf("%s: sooner than the latency", g)
			}
		}
		return len(seqs), slices.IsSorted(seqs), last
	}
	if n, order, last := run(Conditions{Latency: 10 * ms, Jitter: 20 * ms}); n != 2000 || !order || last >= 30*ms || last < 29*ms {
		t.Errorf("jitter: %d, in order %v, at most %v late", n, order, last)
	}
	if n, _, _ := run(Conditions{Loss: 0.25}); n < 1400 || n > 1600 {
		t.Errorf("a quarter lost: %d of 2000 arrived", n)
	}
	if n, _, _ := run(Conditions{Duplicate: 0.25}); n < 2400 || n > 2600 {
		t.Errorf("a quarter doubled: %d of 2000 arrived", n)
	}
	if n, order, last := run(Conditions{Latency: 10 * ms, Reorder: 0.1, ReorderBy: 1500 * ms}); n != 2000 || order || last != 1510*ms {
		t.Errorf("reordering: %d, in order %v, at most %v late", n, order, last)
	}
	if n, _, last := run(Conditions{Latency: 10 * ms, Reorder: 1}); n != 2000 || last != 30*ms {
		t.Errorf("reordering by default: %d, at most %v late", n, last)
	}
}

func TestQueue(t *testing.T) {
	s := New(1)
	var got []string
	note := func(what string) func() {
		return func() { got = append(got, fmt.Sprintf("%s at %v", what, s.Elapsed())) }
	}
	s.After(2*sec, note("late"))
	s.After(sec, note("first of two"))
	s.After(sec, func() { note("second of two")(); s.After(0, note("at once")); s.At(0, note("in the past")) })
	stopped := s.After(sec, note("stopped"))
	stopped.Stop(s)
	stopped.Stop(s)
	(*Timer)(nil).Stop(s)
	s.Run(500 * ms)
	if len(got) != 0 || s.Elapsed() != 500*ms {
		t.Errorf("after half a second: %v", got)
	}
	if !s.RunUntil(10*sec, func() bool { return len(got) == 4 }) || s.Elapsed() != sec {
		t.Errorf("the condition held at %v: %v", s.Elapsed(), got)
	}
	if s.RunUntil(3*sec, func() bool { return false }) || s.Elapsed() != 4*sec {
		t.Errorf("a condition that never holds: %v", s.Elapsed())
	}
	want := []string{"first of two at 1s", "second of two at 1s", "at once at 1s", "in the past at 1s", "late at 2s"}
	if !slices.Equal(got, want) {
		t.Errorf("happened %q, want %q", got, want)
	}
	defer func() {
		if recover() == nil {
			t.Error("a machine that asks for ticks without end is not noticed")
		}
	}()
	var again func()
	again = func() { s.After(0, again) }
	again()
	s.Run(sec)
}

// TestEffectsLikeTheLoop: records before forwarding before messages, a round at a time; results come back as events; a
// failure stops its own group only.
func TestEffectsLikeTheLoop(t *testing.T) {
	s, _, a, _, ma, mb := pairOf(t, 1, Conditions{Latency: ms}, 50*ms)
	got := mb.arrivals(s)
	var done []string
	put := func(k string) core.Persist { return core.Persist{Key: []byte(k), Val: []byte("v")} }
	ma.handle = func(_ core.Now, ev core.Event) []core.Effect {
		switch ev := ev.(type) {
		case core.Told:
			n := ev.Body.(int)
			send := beat(n)
			send.Ref = core.Ref(n)
			if n == 3 {
				return []core.Effect{send} // needs no record
			}
			return []core.Effect{send, put(fmt.Sprint("k", n))}
		case core.Done:
			done = append(done, fmt.Sprintf("%v %d %v", s.Elapsed(), ev.Ref, ev.Err))
		}
		return nil
	}
	broken := errors.New("disk full")
	a.Store.Fail = func(batch []core.Persist) (bool, error) {
		if s.Elapsed() > sec {
			return false, broken
		}
		return true, nil
	}
	a.Do(core.Told{Body: 1})
	s.After(10*ms, func() { a.Do(core.Told{Body: 2}) }) // joins the first's round
	s.After(60*ms, func() { a.Do(core.Told{Body: 4}) })
	s.After(2*sec, func() { a.Do(core.Told{Body: 5}) })
	s.After(2*sec, func() { a.Do(core.Told{Body: 3}) })
	s.Run(5 * sec)
	if want := "51ms 1, 51ms 2, 111ms 4, 2.051s 3"; strings.Join(*got, ", ") != want {
		t.Errorf("arrived %v, want %s", *got, want)
	}
	want := []string{"50ms 1 <nil>", "50ms 2 <nil>", "110ms 4 <nil>", "2.05s 5 store: disk full", "2.05s 3 <nil>"}
	if !slices.Equal(done, want) {
		t.Errorf("results %q, want %q", done, want)
	}
}

// TestKillAndStop: kill -9 loses what was not applied and what was written behind; a stop in good order loses nothing.
func TestKillAndStop(t *testing.T) {
	for _, kill := range []bool{true, false} {
		s, _, a, _, ma, mb := pairOf(t, 1, Conditions{Latency: ms}, 50*ms)
		got := mb.arrivals(s)
		var restored []string
		ma.handle = func(_ core.Now, ev core.Event) []core.Effect {
			switch ev := ev.(type) {
			case core.Told:
				n := ev.Body.(int)
				return []core.Effect{core.Persist{Key: fmt.Append(nil, "k", n), Val: []byte("v"), Lazy: n == 2}, beat(n)}
			case core.Restored:
				if !ev.Last {
					restored = append(restored, string(ev.Key))
				}
			}
			return nil
		}
		a.Do(core.Told{Body: 1})
		s.Run(100 * ms)
		a.Do(core.Told{Body: 2})
		s.Run(100 * ms)
		a.Do(core.Told{Body: 3})
		if kill {
			a.Kill()
		} else if err := a.Stop(); err != nil {
			t.Fatal(err)
		}
		a.Do(core.Told{Body: 9}) // nobody hears it
		if _, err := a.Command(core.GetStatus{}); err == nil || a.Up() {
			t.Error("a node that does not run answers")
		}
		s.Run(sec)
		if err := a.Start(); err != nil {
			t.Fatal(err)
		}
		if err := a.Start(); err == nil {
			t.Error("it was started twice")
		}
		want, arrived := "k1 k2 k3", "51ms 1, 151ms 2, 201ms 3"
		if kill {
			want, arrived = "k1", "51ms 1, 151ms 2"
		}
		if strings.Join(restored, " ") != want || strings.Join(*got, ", ") != arrived {
			t.Errorf("kill %v: restored %v, want %s; arrived %v, want %s", kill, restored, want, *got, arrived)
		}
		a.Kill()
		a.LoseStore()
		restored = nil
		if err := a.Start(); err != nil || len(restored) != 0 {
			t.Errorf("after the loss of the store: %v, %v", restored, err)
		}
	}
}

// TestLazyFlush: what was written behind is in the store a second later, also when it fails for a while.
func TestLazyFlush(t *testing.T) {
	s, _, a, _, ma, _ := pairOf(t, 1, Conditions{}, 0)
	ma.handle = func(_ core.Now, ev core.Event) []core.Effect {
		if _, ok := ev.(core.Told); ok {
			return []core.Effect{core.Persist{Key: []byte("k"), Val: []byte("v"), Lazy: true}}
		}
		return nil
	}
	stored := func() (n int) {
		for range a.Store.Load(t.Context(), "a") {
			n++
		}
		return n
	}
	a.Store.Fail = func([]core.Persist) (bool, error) {
		if s.Elapsed() < 2500*ms {
			return false, errors.New("busy")
		}
		return true, nil
	}
	a.Do(core.Told{})
	s.Run(2900 * ms)
	if stored() != 0 {
		t.Error("written before its time")
	}
	s.Run(200 * ms)
	if stored() != 1 {
		t.Error("not written after the store works again")
	}
}

func TestTicksAtTheDeadline(t *testing.T) {
	s, _, a, _, ma, _ := pairOf(t, 1, Conditions{}, 0)
	var ticks []time.Duration
	ma.handle = func(now core.Now, ev core.Event) []core.Effect {
		if _, ok := ev.(core.Tick); ok {
			ticks = append(ticks, s.Elapsed())
			ma.next = now.Boot + 300*ms
			if len(ticks) == 3 {
				ma.next = 0
			}
		}
		return nil
	}
	ma.next = s.Now().Boot + sec
	a.Do(core.Told{})
	ma.next = s.Now().Boot + 500*ms // changed its mind
	a.Do(core.Told{})
	s.Run(10 * sec)
	if want := []time.Duration{500 * ms, 800 * ms, 1100 * ms}; !slices.Equal(ticks, want) {
		t.Errorf("ticks at %v, want %v", ticks, want)
	}
}

// TestSignalsIsTheSocketFilter: what reaches a signalling port here is what reaches it in the daemon.
func TestSignalsIsTheSocketFilter(t *testing.T) {
	raw, err := system.AccessFilter()
	if err != nil {
		t.Fatal(err)
	}
	prog, _ := bpf.Disassemble(raw)
	prog[0] = bpf.LoadConstant{Dst: bpf.RegA, Val: 0} // the VLAN extension, which the bpf package's machine does not have
	vm, err := bpf.NewVM(prog)
	if err != nil {
		t.Fatal(err)
	}
	rng := rand.New(rand.NewPCG(1, 2))
	pass := 0
	for range 200_000 {
		f := make([]byte, rng.IntN(120))
		for i := range f {
			f[i] = byte(rng.IntN(256))
		}
		if len(f) >= 14 { // near the frames that matter
			copy(f[12:], [][]byte{{8, 6}, {8, 0}, {0x86, 0xdd}, {0x81, 0}, {0x88, 0xcc}}[rng.IntN(5)])
		}
		if len(f) > 56 && rng.IntN(4) > 0 {
			f[14] = f[14]&0x0f | 0x40
			f[20], f[21] = []byte{58, 0, 44, 17}[rng.IntN(4)], 0
			f[23] = []byte{1, 17, 6}[rng.IntN(3)]
			f[54], f[55] = []byte{58, 143, 133, 128, 6}[rng.IntN(5)], byte(rng.IntN(4))
			for i := 56; i < len(f); i++ {
				f[i] = []byte{131, 132, 143, 0, 67, 8}[rng.IntN(6)]
			}
		}
		n, err := vm.Run(f)
		if err != nil {
			t.Fatal(err)
		}
		if got := Signals(f); got != (n > 0) {
			t.Fatalf("frame %x: %v here, %v in the kernel", f, got, n > 0)
		}
		if n > 0 {
			pass++
		}
	}
	if pass < 10_000 {
		t.Errorf("only %d frames pass: the test shows little", pass)
	}
}

// TestTooBigForTheCore: a link's MTU is told to the tunnel's entry, which then cuts what it sends.
func TestTooBigForTheCore(t *testing.T) {
	d := newDomain(t, options{noHearts: true})
	h := d.host(10)
	h.Move(d.airs[0])
	d.Run(5 * sec)
	d.core.Cond.MTU = 1280
	big := func(seq uint16) {
		h.send(bigEcho(h, seq, 1280))
		d.Run(sec)
	}
	before := d.cn.Requests
	big(1)
	if d.cn.Requests != before {
		t.Error("a packet larger than the MTU went through")
	}
	big(2)
	big(3)
	if d.cn.Requests < before+2 {
		t.Errorf("%d large packets arrived after the MTU was told, want 2", d.cn.Requests-before)
	}
}

// bigEcho is an echo request whose IPv6 packet has size octets.
func bigEcho(h *Host, seq uint16, size int) *access.Frame {
	return &access.Frame{Dst: h.router(), SrcIP: h.Addr6(), DstIP: cn6, Body: &nd.Echo{ID: 1, Seq: seq, Data: make([]byte, size-48)}}
}
