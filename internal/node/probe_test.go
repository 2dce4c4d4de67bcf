package node

import (
	"slices"
	"testing"
	"time"

	"kedge/internal/core"
	"kedge/wire"
	"kedge/wire/ip"
	"kedge/wire/mobility"
)

// echoes are the times of the small echoes so far.
func (r *rig) echoes() (at []time.Duration) {
	for i, s := range r.sent {
		if e, ok := s.Body.(*ip.Echo); ok && len(e.Data) == 8 {
			at = append(at, r.times[i])
		}
	}
	return at
}

func TestEchoesThroughTheTunnel(t *testing.T) {
	r, _ := v6rig(t, nil)
	r.run(3 * sec)
	if want := []time.Duration{20 * ms, 1060 * ms, 2080 * ms}; !slices.Equal(r.echoes(), want) {
		t.Errorf("echoes at %v, want %v", r.echoes(), want)
	}
	s := r.sent[1]
	e := s.Body.(*ip.Echo)
	if s.Path.Local.Addr() != hoa6 || s.Path.Remote.Addr() != ha6 || s.Path.Outer != r.m.session.chain || e.Reply || e.ID != DefaultProbeID || len(e.Data) != 8 {
		t.Errorf("echo %+v by %+v", e, s.Path)
	}
}

// TestDeadPath: a path that carries nothing is noticed within Timers.DeadPath after its last answer, at any phase.
func TestDeadPath(t *testing.T) {
	for _, delay := range []time.Duration{ms, 10 * ms, 100 * ms, 240 * ms} {
		for phase := time.Duration(0); phase < 1100*ms; phase += 50 * ms {
			r := newRig(t, nil)
			n := r.net(1, "2001:db8:1::7")
			n.delay = delay
			r.show(n)
			r.run(5*sec + phase)
			n.down = true
			cut := r.now.Boot
			if !r.until(3*sec, func() bool { return r.m.path.dead }) {
				t.Fatalf("delay %v, phase %v: not noticed in 3 s", delay, phase)
			}
			r.wantState(updating)
			if r.links.suspect == nil {
				t.Error("the link was not asked")
			}
			n.down = false
			if took := r.now.Boot - cut; took > 3*sec || !r.until(32*sec, r.ok) {
				t.Fatalf("noticed after %v; bound %v", took, r.ok())
			}
		}
	}
}

// TestNATRebinding: the NAT forgot the way. One Binding Update over the same care-of address mends it.
func TestNATRebinding(t *testing.T) {
	r := newRig(t, nil)
	n := r.net(1, "192.0.2.7")
	n.nat = 1
	r.show(n)
	r.run(10 * sec)
	r.forget()
	n.nat = 2
	cut := r.now.Boot
	if !r.until(3*sec+40*ms, r.ok) {
		t.Fatalf("not bound again: %s", r.story())
	}
	t.Logf("out of service for %v", r.now.Boot-cut)
	if us, _ := r.updates(); len(us) != 1 {
		t.Errorf("%d Binding Updates", len(us))
	}
}

// TestLossyPath: a fifth of the packets lost each way is no dead path for long, and causes no storm.
func TestLossyPath(t *testing.T) {
	r := newRig(t, nil)
	n := r.net(1, "2001:db8:1::7")
	n.loss = 0.2
	r.show(n)
	r.run(10 * time.Minute)
	out := time.Duration(0)
	for range 6000 {
		r.run(100 * ms)
		if !r.ok() && !(r.agent.bound() && r.m.session.up) {
			out += 100 * ms
		}
	}
	if us, _ := r.updates(); out > 0 || len(us) > 150 {
		t.Errorf("in 20 minutes: %v without tunnel, %d Binding Updates", out, len(us))
	}
}

// TestKeepalive: echoes are frequent enough for a NAT that forgets fast.
func TestKeepalive(t *testing.T) {
	r := newRig(t, nil)
	n := r.net(1, "192.0.2.7")
	r.agent.option = func(_ *mobility.BindingUpdate, ba *mobility.BindingAck) {
		ba.Options = ba.Options.Add(mobility.NATDetection{F: true, Refresh: 2})
	}
	cfg := r.m.cfg
	cfg.Timers.DeadPath = time.Minute
	r.boot(cfg)
	r.show(n)
	r.run(time.Minute)
	at := r.times // large echoes keep a mapping as well
	for i := 1; i < len(at); i++ {
		if at[i]-at[i-1] > 2*sec+40*ms {
			t.Fatalf("echoes at %v", at)
		}
	}
	if len(at) < 28 {
		t.Errorf("%d echoes", len(at))
	}
}

// TestForgedEchoes: answers that nobody asked for are counted and change nothing.
func TestForgedEchoes(t *testing.T) {
	r, n := v6rig(t, nil)
	r.run(sec)
	n.down = true
	r.run(200 * ms)
	pr := r.m.path.probes[len(r.m.path.probes)-1]
	good := core.Message{Path: r.sent[len(r.sent)-1].Path, Body: &ip.Echo{Reply: true, ID: DefaultProbeID, Seq: pr.seq, Data: pr.token[:]}}
	before := r.m.counts[string(wire.Unsolicited)]
	forge := func(f func(*core.Message, *ip.Echo)) {
		m, e := good, *good.Body.(*ip.Echo)
		f(&m, &e)
		m.Body = &e
		r.handle(m)
	}
	forge(func(_ *core.Message, e *ip.Echo) { e.Data = make([]byte, 8) })
	forge(func(_ *core.Message, e *ip.Echo) { e.Data = nil })
	forge(func(_ *core.Message, e *ip.Echo) { e.Seq++ })
	forge(func(_ *core.Message, e *ip.Echo) { e.ID++ })
	forge(func(_ *core.Message, e *ip.Echo) { e.Reply = false })
	forge(func(m *core.Message, _ *ip.Echo) { m.Path.Remote = addrPort(hoa6) })
	forge(func(m *core.Message, _ *ip.Echo) { m.Path.Local = addrPort(ha6) })
	if got := r.m.counts[string(wire.Unsolicited)] - before; got != 7 || !r.m.path.waiting {
		t.Errorf("%d of 7 counted, waiting %v", got, r.m.path.waiting)
	}
	forge(func(*core.Message, *ip.Echo) {})
	if r.m.path.waiting {
		t.Error("the true answer was not taken")
	}
	forge(func(*core.Message, *ip.Echo) {})
	if got := r.m.counts[string(wire.Unsolicited)] - before; got != 8 {
		t.Error("the same answer was taken twice")
	}
}

// TestReportsOnlyAsk: what the data plane reports may come from forged packets. It causes at most an echo a second.
func TestReportsOnlyAsk(t *testing.T) {
	r, _ := v6rig(t, nil)
	r.run(sec)
	r.forget()
	bind := r.m.bind
	for range 1000 {
		r.handle(core.Reported{ID: 1, Reason: string(wire.TunnelError)})
		r.run(10 * ms)
	}
	if us, _ := r.updates(); len(us) != 0 || r.m.bind != bind || len(r.echoes()) > 21 {
		t.Errorf("1,000 reports in 10 s caused %d Binding Updates, %d echoes", len(us), len(r.echoes()))
	}
	if r.m.counts[string(wire.TunnelError)] != 1000 {
		t.Errorf("counted %v", r.m.counts)
	}
}

// TestHomeAgentWithoutEchoes: where the home agent never answers an echo, Binding Updates are the probes.
func TestHomeAgentWithoutEchoes(t *testing.T) {
	r := newRig(t, nil)
	r.agent.noEcho = true
	n := r.net(1, "2001:db8:1::7")
	r.show(n)
	r.run(time.Minute)
	if !r.ok() || !r.m.silent() {
		t.Fatalf("state %v: %s", r.m.state, r.story())
	}
	r.forget()
	r.run(150 * sec)
	if us, _ := r.updates(); len(us) < 9 || len(us) > 11 || !r.ok() {
		t.Errorf("%d Binding Updates in 150 s", len(us))
	}
	// They notice a dead path, too.
	other := r.net(2, "192.0.2.7")
	r.show(n, other)
	n.down = true
	if !r.until(updateProbe+10*sec, func() bool { return r.ok() && r.agent.net == other }) {
		t.Errorf("not moved: %s", r.story())
	}
}

// TestBlockedTunnel: where Binding Updates pass but no tunnel, the other family is taken, and IPv6 is not tried for ever longer.
func TestBlockedTunnel(t *testing.T) {
	r := newRig(t, nil)
	v6, v4 := r.net(1, "2001:db8:1::7"), r.net(1, "192.0.2.7")
	v6.noTunnel = true
	r.show(v6, v4)
	if !r.until(3*sec, func() bool { return r.ok() && r.agent.net == v4 && r.m.path.answered }) {
		t.Fatalf("not over IPv4: %s", r.story())
	}
	r.forget()
	r.run(time.Hour)
	out := 0
	for _, e := range r.emits {
		if e.Name == "path" && e.To == "dead" {
			out++
		}
	}
	if out > 10 { // after 5, 10, 20 s ... 30 minutes
		t.Errorf("IPv6 was tried %d times in an hour", out)
	}
}

// TestFilteredAndRefused: plain framing does not pass and UDP is refused. There is no way, so the node tries ever more seldom,
// and is there when one opens.
func TestFilteredAndRefused(t *testing.T) {
	r := newRig(t, nil)
	r.agent.noForce = true
	n := r.net(1, "192.0.2.7")
	r.show(n)
	r.run(10 * sec)
	n.noPlain = true
	r.run(10 * time.Minute)
	if us, _ := r.updates(); len(us) > 60 || !r.m.path.dead {
		t.Errorf("%d Binding Updates in ten minutes, path %+v", len(us), r.m.path)
	}
	n.noPlain = false
	if !r.until(35*sec, r.ok) {
		t.Errorf("not bound: %s", r.story())
	}
}

// TestSuspend: after a time without a clock everything is asked anew, at once.
func TestSuspend(t *testing.T) {
	r := newRig(t, nil)
	n := r.net(1, "192.0.2.7")
	n.nat = 1
	r.show(n)
	r.run(10 * sec)
	r.forget()
	r.advance(r.now.Boot + 60*sec)
	n.nat = 2
	r.handle(core.Tick{})
	r.wantTimes(70 * sec)
	r.run(25 * ms)
	if !r.ok() {
		t.Errorf("not bound 25 ms after the suspend: %s", r.story())
	}
	if !slices.ContainsFunc(r.emits, func(e core.Emit) bool { return e.Name == "resumed" }) {
		t.Error("nothing was told")
	}
}
