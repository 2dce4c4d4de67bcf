package node

import (
	"slices"
	"testing"
	"time"

	"kedge/internal/core"
	"kedge/wire/ip"
)

// away makes a node that is bound by IPv6 and then finds itself behind a NAT.
func away(t *testing.T, change func(*Config)) (*rig, *netw) {
	r := newRig(t, change)
	office, cafe := r.net(1, "2001:db8:1::7"), r.net(1, "192.168.1.7")
	cafe.nat = 1
	r.show(office)
	r.run(5 * sec)
	if !r.ok() {
		t.Fatalf("not bound: %s", r.story())
	}
	r.show()
	r.run(995 * ms)
	r.forget()
	return r, cafe
}

// TestLostAnswersAreAskedFor: a home agent that took a Binding Update answers echoes, so its acknowledgements that are lost do not
// double the back-off. One that never acknowledges is given its rest all the same.
func TestLostAnswersAreAskedFor(t *testing.T) {
	r, cafe := away(t, nil)
	start := r.elapsed()
	r.agent.mute = true
	r.show(cafe)
	r.run(60 * sec)
	_, at := r.updates()
	for i := range at {
		at[i] -= start
	}
	want := []time.Duration{0, sec, 2 * sec, 3 * sec, 4 * sec, 5 * sec, 6 * sec, 8 * sec, 12 * sec, 20 * sec, 36 * sec}
	if !slices.Equal(at, want) {
		t.Errorf("Binding Updates at %v, want %v", at, want)
	}
	if n := len(r.echoes()); n != maxHeard {
		t.Errorf("%d echoes were sent, want %d: one for each that was answered", n, maxHeard)
	}
	for i, s := range r.sent {
		if _, ok := s.Body.(*ip.Echo); ok && s.Path.Outer.Layer[0].Local.Port() != Port {
			t.Errorf("echo %d from behind a NAT goes by %v", i, s.Path.Outer)
		}
	}
	r.agent.mute = false
	if !r.until(32*sec, r.ok) {
		t.Errorf("not bound: %s", r.story())
	}
	if len(r.m.race.asks) != 0 {
		t.Error("echoes of a race that is over are remembered")
	}
}

// TestSilenceIsNotFilled: without answers the back-off stays that of RFC 6275 11.8, and echoes are few.
func TestSilenceIsNotFilled(t *testing.T) {
	r, cafe := away(t, nil)
	start := r.elapsed()
	cafe.down = true
	r.show(cafe)
	r.run(70 * sec)
	_, at := r.updates()
	for i := range at {
		at[i] -= start
	}
	if want := []time.Duration{0, sec, 3 * sec, 7 * sec, 15 * sec, 31 * sec, 63 * sec}; !slices.Equal(at, want) {
		t.Errorf("Binding Updates at %v, want %v", at, want)
	}
	// One after the first, before the second; three in the two seconds after that; four after each other.
	if n := len(r.echoes()); n != 1+3+4*5 {
		t.Errorf("%d echoes were sent", n)
	}
	// Nothing was sent from the network that was left, and it is not blamed.
	if slices.ContainsFunc(r.sent, func(s core.Send) bool { return s.Path.Outer.N > 0 && s.Path.Outer.Layer[0].Local.Addr().Is6() }) {
		t.Error("packets were sent from an address that is gone")
	}
	if office := r.nets[0].care; r.m.avoids(&office) || r.m.nets.of(&office).deaf != 0 {
		t.Error("the network that was left is taken for one that does not work")
	}
	if r.m.lostAt == never || !r.m.path.dead {
		t.Error("the node believes that it has service")
	}
}

// TestAskedOnly: an answer counts by its token and by the way that it came.
func TestAskedOnly(t *testing.T) {
	r, cafe := away(t, nil)
	cafe.noDown = true
	r.show(cafe)
	r.run(600 * ms)
	var e *ip.Echo
	var path core.Path
	for _, s := range r.sent {
		if b, ok := s.Body.(*ip.Echo); ok {
			e, path = b, s.Path
		}
	}
	if e == nil {
		t.Fatal("no echo was sent")
	}
	answer := func(change func(*ip.Echo, *core.Path)) {
		b, p := *e, path
		b.Reply, b.Data = true, slices.Clone(e.Data)
		change(&b, &p)
		r.handle(core.Message{Path: p, Body: &b})
	}
	answer(func(e *ip.Echo, _ *core.Path) { e.Data[7]++ })
	answer(func(e *ip.Echo, _ *core.Path) { e.Data = e.Data[:4] })
	answer(func(e *ip.Echo, _ *core.Path) { e.Reply = false })
	answer(func(e *ip.Echo, _ *core.Path) { e.ID++ })
	answer(func(_ *ip.Echo, p *core.Path) { p.Remote = addrPort(hoa4) })
	answer(func(_ *ip.Echo, p *core.Path) { p.Outer = core.Chain{} })
	if h := r.m.race.attempts[0].heard; h != 0 {
		t.Fatalf("%d forged answers were believed", h)
	}
	answer(func(*ip.Echo, *core.Path) {})
	answer(func(*ip.Echo, *core.Path) {}) // once
	if h := r.m.race.attempts[0].heard; h != 0 {
		t.Fatalf("an echo that was answered some other way is believed later")
	}
}

// TestMovesUnderLoss: every fifth packet is lost each way, as in a full cafe. Hardly a move takes longer than the first three
// Binding Updates; with the back-off alone one in twenty would take seven seconds and more.
func TestMovesUnderLoss(t *testing.T) {
	const moves = 400
	slow, worst := 0, time.Duration(0)
	r := newRig(t, nil)
	office, cafe := r.net(1, "2001:db8:1::7"), r.net(1, "192.168.1.7")
	office.loss, cafe.loss, cafe.nat = 0.2, 0.2, 1
	for i := range moves {
		r.show([]*netw{office, cafe}[i%2])
		from := r.elapsed()
		if !r.until(150*sec, r.ok) {
			t.Fatalf("move %d: not bound: %s", i, r.story())
		}
		if d := r.elapsed() - from; d >= 7*sec {
			slow++
			worst = max(worst, d)
		}
		r.run(sec)
		r.show()
		r.run(100 * ms)
	}
	if slow > moves/50 {
		t.Errorf("%d of %d moves took seven seconds and more, the worst %v", slow, moves, worst)
	}
}
