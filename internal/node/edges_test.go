package node

import (
	"net/netip"
	"slices"
	"testing"
	"time"

	"kedge/internal/core"
	"kedge/wire"
	"kedge/wire/mobility"
)

// TestRefreshRequestFlood: Binding Refresh Requests cause one Binding Update a second, and do not end the wait after a refusal.
func TestRefreshRequestFlood(t *testing.T) {
	flood := func(r *rig, n *netw, d time.Duration) (updates int) {
		r.forget()
		for range d / (10 * ms) {
			r.handle(core.Message{Path: answerPath(n), Body: &mobility.BindingRefreshRequest{}})
			r.run(10 * ms)
		}
		us, _ := r.updates()
		return len(us)
	}
	r, n := v6rig(t, nil)
	if got := flood(r, n, 20*sec); got < 19 || got > 21 {
		t.Errorf("%d Binding Updates in 20 s", got)
	}
	r.agent.status = mobility.InsufficientResources
	r.run(2 * sec)
	if got := flood(r, n, 20*sec); got > 11 {
		t.Errorf("%d Binding Updates in 20 s to a home agent that refuses", got)
	}
	if r.m.counts[string(wire.RateLimit)] == 0 {
		t.Errorf("counted %v", r.m.counts)
	}
}

// TestBindingErrorAfterRefusal: nobody vouches for a Binding Error, so it does not end the wait after a refusal. One about another
// home address is not for us.
func TestBindingErrorAfterRefusal(t *testing.T) {
	r, n := v6rig(t, nil)
	r.run(10 * sec)
	r.forget()
	be := core.Message{Path: answerPath(n), Body: &mobility.BindingError{Status: mobility.UnknownBinding, Home: netip.MustParseAddr("2001:db8:2000::6")}}
	r.handle(be)
	r.wantState(active)
	r.agent.status = mobility.AdministrativelyProhibited
	be.Body = &mobility.BindingError{Status: mobility.UnknownBinding, Home: hoa6}
	r.handle(be)
	r.run(sec)
	r.wantState(refused)
	r.forget()
	for range 30 {
		r.handle(be)
		r.run(sec)
	}
	r.wantTimes()
	r.wantState(refused)
}

// TestBindingErrorAnswer names the home address of the offending message's Home Address option, which there is none of (RFC 6275 9.3.3).
func TestBindingErrorAnswer(t *testing.T) {
	r, n := v6rig(t, nil)
	r.forget()
	m := core.Message{Path: answerPath(n), Body: &mobility.Raw{}, Err: &wire.Error{Reason: wire.UnknownType}}
	r.handle(m)
	r.run(sec)
	m.Path.Home = netip.MustParseAddr("2001:db8:a::77")
	r.handle(m)
	var homes []netip.Addr
	for _, s := range r.sent {
		if be, ok := s.Body.(*mobility.BindingError); ok {
			homes = append(homes, be.Home)
		}
	}
	if want := []netip.Addr{netip.IPv6Unspecified(), m.Path.Home}; !slices.Equal(homes, want) {
		t.Errorf("Binding Errors name %v, want %v", homes, want)
	}
}

// TestRefreshedForNoTime: a home agent that accepts for no time has no binding any more (RFC 6275 11.7.3), and the tunnel ends.
func TestRefreshedForNoTime(t *testing.T) {
	r, _ := v6rig(t, nil)
	r.agent.option = func(_ *mobility.BindingUpdate, ba *mobility.BindingAck) { ba.Lifetime = 0 }
	r.run(481 * sec)
	r.wantState(refused)
	if r.m.bound() || r.m.session.up || len(r.list()) != 0 {
		t.Errorf("bound %v, forwarding %v", r.m.bound(), r.m.session.up)
	}
}

// TestClockSetBack: a wall clock that is set back by a day does not keep a network from being used for a day.
func TestClockSetBack(t *testing.T) {
	r := newRig(t, nil)
	v6, v4 := r.net(1, "2001:db8:1::7"), r.net(1, "192.0.2.7")
	v6.down, v4.noPlain = true, true
	r.show(v6, v4)
	r.run(3 * sec)
	if !r.m.avoids(&v6.care) || !r.m.nets.blocked(&v4.care, r.now.Wall) {
		t.Fatal("nothing was learned")
	}
	r.now.Wall = r.now.Wall.Add(-24 * time.Hour)
	if r.m.now = r.now; r.m.avoids(&v6.care) || r.m.nets.blocked(&v4.care, r.now.Wall) {
		t.Error("what was learned holds for a day")
	}
	v6.down = false
	r.run(10 * sec)
	if !r.ok() || r.m.bind.careOf.Addr != v6.care.Addr {
		t.Errorf("bound to %v", r.m.bind.careOf.Addr)
	}
}

// TestClockSetForward: lifetimes are of the clock that only goes on.
func TestClockSetForward(t *testing.T) {
	r, _ := v6rig(t, nil)
	r.forget()
	r.now.Wall = r.now.Wall.Add(1000 * time.Hour)
	r.run(400 * sec)
	r.wantTimes()
	if !r.ok() {
		t.Errorf("%s", r.story())
	}
}

// TestUnsettledTunnelStaysOpen: a slow answer over IPv6 comes while the one over IPv4 is on its way. Until IPv6 is confirmed the
// home agent sends over IPv4, and that is let in.
func TestUnsettledTunnelStaysOpen(t *testing.T) {
	r := newRig(t, nil)
	start := r.net(2, "2001:db8:2::7")
	r.show(start)
	r.run(sec)
	v6, v4 := r.net(1, "2001:db8:1::7"), r.net(1, "192.0.2.7")
	v6.delay, v4.delay = 120*ms, 40*ms // one answers after 240 ms; the other begins after 100 ms, and is heard after 140 ms
	r.m.nets.measured(&v6.care, 20*ms)
	r.show(v6, v4)
	r.forget()
	drops := func() (n int) {
		for _, op := range r.ops {
			if d, ok := op.(core.Drop); ok && d.ID != 0 {
				n++
			}
		}
		return n
	}
	v4.noDown = true // only its answer is slow
	r.run(241 * ms)
	if !r.m.bound() || r.m.bind.careOf.Addr != v6.care.Addr || r.m.settled() || r.agent.net != v4 {
		t.Fatalf("bound to %v, settled %v: %s", r.m.bind.careOf.Addr, r.m.settled(), r.story())
	}
	if len(r.m.session.expected) == 0 || drops() > 0 {
		t.Errorf("the tunnel that the home agent uses was closed: %+v", r.ops)
	}
	r.run(sec)
	if !r.ok() || len(r.m.session.expected) != 0 || drops() == 0 {
		t.Errorf("left open: %+v; %s", r.m.session.expected, r.story())
	}
}

// TestNATForgetsFast: a home agent that answers no echoes, and asks for keepalives more often than Binding Updates go, gets them.
func TestNATForgetsFast(t *testing.T) {
	r := newRig(t, nil)
	r.agent.noEcho = true
	r.agent.option = func(_ *mobility.BindingUpdate, ba *mobility.BindingAck) {
		ba.Options = ba.Options.Add(mobility.NATDetection{F: true, Refresh: 4})
	}
	r.show(r.net(1, "192.0.2.7"))
	r.run(2 * time.Minute)
	if !r.m.silent() {
		t.Fatal("not known to be silent")
	}
	r.forget()
	r.run(time.Minute)
	at := r.times
	for i := 1; i < len(at); i++ {
		if at[i]-at[i-1] > 4*sec {
			t.Fatalf("packets at %v", at)
		}
	}
	if us, _ := r.updates(); len(us) > 5 || len(at) < 15 {
		t.Errorf("%d packets, %d Binding Updates in a minute", len(at), len(us))
	}
}

// TestFilteredForLong: where plain framing does not pass, what works is not interrupted to find that out again.
func TestFilteredForLong(t *testing.T) {
	r := newRig(t, nil)
	n := r.net(1, "192.0.2.7")
	n.noPlain = true
	r.show(n)
	r.run(sec)
	r.forget()
	r.run(5 * time.Hour)
	us, _ := r.updates()
	for _, s := range us {
		if s.Body.(*mobility.BindingUpdate).Flags&mobility.BUForceUDP == 0 {
			t.Fatal("a refresh without the F flag")
		}
	}
	if len(us) < 30 || !r.ok() {
		t.Errorf("%d refreshes", len(us))
	}
}

// TestSameAddressElsewhere: another network has the same private address for us. The home agent is told at once, though nothing was seen
// to go, and the move is told of.
func TestSameAddressElsewhere(t *testing.T) {
	r := newRig(t, nil)
	a, b := r.net(1, "192.168.1.10"), r.net(1, "192.168.1.10")
	a.nat, b.nat, b.care.Network, b.care.Since = 1, 2, "another", a.care.Since
	r.show(a)
	r.run(5 * sec)
	r.forget()
	r.nets = []*netw{b}
	r.show(b)
	r.run(25 * ms)
	r.wantTimes(5 * sec)
	if !r.ok() {
		t.Errorf("not bound: %s", r.story())
	}
	if n := len(slices.DeleteFunc(slices.Clone(r.emits), func(e core.Emit) bool { return e.Name != "handover" })); n != 1 {
		t.Errorf("%d moves were told", n)
	}
	// A router's name that is not known for a while is no other network.
	r.forget()
	b.care.Network = ""
	r.show(b)
	b.care.Network = "another"
	r.show(b)
	r.run(sec)
	r.wantTimes()
	// The address was away for a moment.
	r.show()
	r.run(100 * ms)
	b.care.Since = r.now.Boot
	r.show(b)
	r.run(sec)
	if len(r.emits) == 0 || !slices.ContainsFunc(r.emits, func(e core.Emit) bool { return e.Name == "handover" }) || !r.ok() {
		t.Errorf("the way back was not told: %+v", r.emits)
	}
}
