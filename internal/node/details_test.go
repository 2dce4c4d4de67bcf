package node

import (
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"kedge/internal/core"
	"kedge/internal/node/movement"
	"kedge/wire"
	"kedge/wire/ip"
	"kedge/wire/mobility"
)

// TestVerifiedPlainPathDies: where plain framing was carried before, silence means a dead path, not a filter.
func TestVerifiedPlainPathDies(t *testing.T) {
	r := newRig(t, nil)
	n := r.net(1, "192.0.2.7")
	r.show(n)
	r.run(5 * sec)
	n.down = true
	r.forget()
	r.run(10 * sec)
	for _, e := range r.emits {
		if e.Name == "path" && e.To == "udp" {
			t.Error("taken for filtered")
		}
	}
	if us, _ := r.updates(); len(us) == 0 || us[0].Body.(*mobility.BindingUpdate).Flags&mobility.BUForceUDP != 0 {
		t.Errorf("%d Binding Updates, the first with the F flag", len(us))
	}
	if !slices.ContainsFunc(r.emits, func(e core.Emit) bool { return e.Name == "path" && e.To == "dead" }) {
		t.Error("nothing was told")
	}
}

// TestPathComesBackByItself: the home agent refuses to be told anything, but still has the binding. When echoes come back, the tunnel
// is used again.
func TestPathComesBackByItself(t *testing.T) {
	r, n := v6rig(t, nil)
	r.run(5 * sec)
	r.agent.status = mobility.AdministrativelyProhibited
	n.down = true
	if !r.until(5*sec, func() bool { return r.m.path.dead }) {
		t.Fatal("not noticed")
	}
	n.down = false
	r.run(40 * sec)
	if r.m.path.dead || !r.m.bound() {
		t.Errorf("dead %v, bound %v: %s", r.m.path.dead, r.m.bound(), r.story())
	}
	if !slices.ContainsFunc(r.emits, func(e core.Emit) bool { return e.Name == "path" && e.To == "alive" }) {
		t.Error("nothing was told")
	}
}

// TestUnansweredProbesAreBounded however long nothing comes back.
func TestUnansweredProbesAreBounded(t *testing.T) {
	r, n := v6rig(t, nil)
	r.agent.status = mobility.AdministrativelyProhibited
	n.noTunnel = true
	r.run(200 * sec)
	if got := len(r.m.path.probes); got > maxProbes || got == 0 {
		t.Errorf("%d echoes are remembered", got)
	}
}

// TestSuspendAsksTheTunnel at once, beside the home agent.
func TestSuspendAsksTheTunnel(t *testing.T) {
	r, _ := v6rig(t, nil)
	r.run(10 * sec)
	r.forget()
	r.advance(r.now.Boot + 60*sec)
	r.handle(core.Tick{})
	r.run(ms)
	if got := r.echoes(); len(got) == 0 || got[0] > 70*sec+60*ms {
		t.Errorf("echoes at %v", got)
	}
	if !strings.Contains(r.story(), "resumed") {
		t.Errorf("history %s", r.story())
	}
}

// TestAddressComesBack: the tunnel is asked at once, whether the home agent answers or not.
func TestAddressComesBack(t *testing.T) {
	r, n := v6rig(t, nil)
	r.run(5 * sec)
	r.show()
	r.run(sec)
	r.agent.mute = true
	r.forget()
	r.show(n)
	r.run(ms)
	if got := r.echoes(); len(got) != 1 || got[0] != r.elapsed()-ms {
		t.Errorf("echoes at %v", got)
	}
}

// TestNothingLeavesWithoutNetwork: what was under way ends with the last care-of address.
func TestNothingLeavesWithoutNetwork(t *testing.T) {
	r := newRig(t, nil)
	n := r.net(1, "2001:db8:1::7")
	n.down = true
	r.show(n)
	r.run(sec)
	r.forget()
	r.show()
	r.run(time.Minute)
	if len(r.sent) != 0 {
		t.Errorf("sent %+v", r.sent)
	}
	r.wantState(detached)
}

// TestNetworkIsHeardAgain: what failed in a network is tried at once when the node comes there again, unless the other family worked.
func TestNetworkIsHeardAgain(t *testing.T) {
	r := newRig(t, nil)
	bad, good := r.net(1, "2001:db8:1::7"), r.net(2, "192.0.2.7")
	bad.down = true
	r.show(bad, good)
	r.run(2 * sec)
	if !r.m.avoids(&bad.care) || r.agent.net != good {
		t.Fatalf("nothing was learned: %s", r.story())
	}
	r.show(good)
	r.run(sec)
	bad.down = false
	r.show(bad, good)
	r.run(25 * ms)
	if r.agent.net != bad || !r.ok() {
		t.Errorf("bound to %v", r.m.bind.careOf.Addr)
	}
}

// TestRoamForgetsFailures: somebody who knows says that it is time to try again.
func TestRoamForgetsFailures(t *testing.T) {
	r := newRig(t, nil)
	bad, good := r.net(1, "2001:db8:1::7"), r.net(1, "192.0.2.7")
	bad.down = true
	r.show(bad, good)
	r.run(2 * sec)
	bad.down = false
	if _, err := r.command(core.Roam{}); err != nil {
		t.Fatal(err)
	}
	r.run(25 * ms)
	if r.agent.net != bad || !r.ok() {
		t.Errorf("bound to %v", r.m.bind.careOf.Addr)
	}
}

// TestWorksForgetsFailures: the wait after a failure begins anew once the network worked.
func TestWorksForgetsFailures(t *testing.T) {
	r := newRig(t, nil)
	v6, v4 := r.net(1, "2001:db8:1::7"), r.net(1, "192.0.2.7")
	v6.down = true
	r.show(v6, v4)
	r.run(100 * sec)
	v6.down = false
	r.run(100 * sec)
	if n := r.m.nets.find(&v6.care); r.agent.net != v6 || n.fails != 0 || r.m.avoids(&v6.care) {
		t.Errorf("bound to %v, failed %d times", r.m.bind.careOf.Addr, n.fails)
	}
}

// TestDuplicateAddressAtRefresh: status 134 ends the binding, and nothing is sent with the home address any more.
func TestDuplicateAddressAtRefresh(t *testing.T) {
	r, _ := v6rig(t, nil)
	r.run(100 * sec)
	r.agent.status = mobility.DADFailed
	r.run(400 * sec)
	r.wantState(refused)
	if r.m.bound() || r.m.session.up || len(r.list()) != 0 {
		t.Errorf("bound %v, forwarding %v", r.m.bound(), r.m.session.up)
	}
	r.forget()
	r.run(time.Hour)
	if len(r.sent) != 0 {
		t.Errorf("sent %v", r.sent)
	}
}

// TestRepeatedAcknowledgements: copies are counted and change nothing, also those of earlier registrations.
func TestRepeatedAcknowledgements(t *testing.T) {
	r, n := v6rig(t, nil)
	first := r.m.seq
	r.run(481 * sec)
	bind := r.m.bind
	if bind.seq == first {
		t.Fatal("not refreshed")
	}
	for _, seq := range []uint16{bind.seq, first, bind.seq - 1} {
		r.handle(core.Message{Path: answerPath(n), Body: &mobility.BindingAck{Sequence: seq, Status: 130, Lifetime: 1}})
	}
	if r.m.bind != bind || r.m.state != active || r.m.counts[string(wire.SequenceOld)]+r.m.counts[string(wire.Unsolicited)] != 3 {
		t.Errorf("%+v, counted %v", r.m.bind, r.m.counts)
	}
	// While the next one is under way, a copy is old, and not of the future.
	r.agent.down = true
	r.run(481 * sec)
	r.handle(core.Message{Path: answerPath(n), Body: &mobility.BindingAck{Sequence: bind.seq, Lifetime: 150}})
	if r.m.counts[string(wire.SequenceMismatch)] != 0 {
		t.Errorf("counted %v", r.m.counts)
	}
}

// TestLateAnswerOfTheOtherFamily: after a fallback the acknowledgement of the older Binding Update comes last, or never.
func TestLateAnswerOfTheOtherFamily(t *testing.T) {
	r := newRig(t, nil)
	v6, v4 := r.net(1, "2001:db8:1::7"), r.net(1, "192.0.2.7")
	v6.delay = 400 * ms
	r.show(v6, v4)
	r.run(350 * ms)
	if !r.ok() || r.m.bind.careOf.Addr != v4.care.Addr {
		t.Fatalf("bound to %v", r.m.bind.careOf.Addr)
	}
	bind := r.m.bind
	r.handle(core.Message{Path: answerPath(v6), Body: &mobility.BindingAck{Sequence: bind.seq - 1, Lifetime: 150}})
	if r.m.bind != bind || r.m.counts[string(wire.SequenceOld)]+r.m.counts[string(wire.Unsolicited)] != 1 {
		t.Errorf("bound to %v, counted %v", r.m.bind.careOf.Addr, r.m.counts)
	}
}

// TestNATComesAndGoes: each refresh says something else of NATs. Data follows each time, and nothing is sent for it but an echo.
func TestNATComesAndGoes(t *testing.T) {
	r := newRig(t, func(c *Config) { c.Timers.Lifetime = 40 * sec })
	nat := false
	r.agent.option = func(bu *mobility.BindingUpdate, ba *mobility.BindingAck) {
		nat = !nat
		o := mobility.NATDetection{Refresh: noKeepalive}
		if r.agent.framing = inIPv4; nat {
			o, r.agent.framing = mobility.NATDetection{F: true, Refresh: 30}, inUDP
		}
		ba.Options = ba.Options.Add(o)
	}
	r.show(r.net(1, "192.0.2.7"))
	r.run(sec)
	for range 20 {
		r.run(32*sec + 20*ms)
		if want := r.agent.framing; r.m.bind.framing != want || r.m.path.dead || r.m.state != active || r.m.bind.keepalive > 0 != (want == inUDP) {
			t.Fatalf("framing %v, want %v: %s", r.m.bind.framing, want, r.story())
		}
	}
	if us, _ := r.updates(); len(us) != 21 {
		t.Errorf("%d Binding Updates", len(us))
	}
}

// TestStopDuringMove: the registration ends where it is known to be, though a better link was just being tried.
func TestStopDuringMove(t *testing.T) {
	r := newRig(t, nil)
	a, b := r.net(1, "2001:db8:1::7"), r.net(2, "2001:db8:2::7")
	a.care.Prefer, b.care.Prefer, b.down = 20, 10, true
	r.show(a)
	r.run(sec)
	r.show(b, a)
	r.run(10 * ms)
	r.forget()
	r.handle(core.Command{Ref: 5, Body: core.Stop{}})
	us, _ := r.updates()
	if len(us) != 1 || us[0].Path.Local.Addr() != a.care.Addr {
		t.Fatalf("sent %+v", us)
	}
	r.run(20 * ms)
	r.wantState(stopped)
}

// TestStopUnanswered: the tunnel ends all the same.
func TestStopUnanswered(t *testing.T) {
	r, _ := v6rig(t, nil)
	r.agent.down = true
	r.forget()
	r.handle(core.Command{Ref: 5, Body: core.Stop{}})
	r.run(10 * sec)
	r.wantState(stopped)
	if !slices.Contains(r.ops, core.Op(core.Drop{ID: 1})) || r.m.session.up {
		t.Errorf("forwarding %+v", r.ops)
	}
	for _, body := range []any{&mobility.BindingAck{Sequence: r.m.seq}, &mobility.BindingAck{Sequence: r.m.seq, Status: 135}, &mobility.BindingRefreshRequest{}} {
		r.forget()
		r.handle(core.Message{Path: answerPath(r.nets[0]), Body: body})
		if len(r.emits)+len(r.sent)+len(r.ops) != 0 {
			t.Errorf("%T after the end: %v %v %v", body, r.emits, r.sent, r.ops)
		}
	}
}

// TestHomeLinkKeepsSaying that it is there: that does not begin the deregistration again. Its router may be another one.
func TestHomeLinkKeepsSaying(t *testing.T) {
	r, _, at := homeRig(t)
	r.agent.down = true
	r.show(at)
	for range 60 {
		r.run(100 * ms)
		r.show(at)
	}
	r.wantTimes(1050*ms, 2050*ms, 4050*ms)
	if len(r.links.claims) != 1 {
		t.Errorf("claims %v", r.links.claims)
	}
	at.care.Router = netip.MustParseAddr("fe80::2")
	r.show(at)
	route := core.HostOp{Kind: "route", Prefix: host(ha6), Table: DefaultTable, Name: "if4", If: 4, Via: at.care.Router}
	if got := r.host[name(&route)]; got != route {
		t.Errorf("route to the home agent: %+v", got)
	}
}

// TestOtherHomeLink: the home subnet is found by another link.
func TestOtherHomeLink(t *testing.T) {
	r, _, at := homeRig(t)
	r.show(at)
	r.run(sec)
	other := r.net(5, "2001:db8:2000::77")
	other.care.Home = true
	r.show(other)
	r.run(sec)
	r.wantState(home)
	var what []string
	for _, c := range r.links.claims {
		what = append(what, strings.Join(strings.Fields(c)[:2], " "))
	}
	if want := []string{"expect 4", "claim 4", "release 0", "expect 5", "claim 5"}; !slices.Equal(what, want) {
		t.Errorf("claims %v, want %v", what, want)
	}
}

// TestRouteBeforeDeregistration: the Binding Update leaves by the route that is told before it.
func TestRouteBeforeDeregistration(t *testing.T) {
	r, _, at := homeRig(t)
	r.links.list, r.links.changed = []movement.CareOf{at.care}, true
	route, update := -1, -1
	for i, e := range r.m.Handle(r.now, core.HostChanged{}, nil) {
		switch e := e.(type) {
		case core.Change:
			if op := e.Ops[0]; op.Kind == "route" && op.Prefix == host(ha6) {
				route = i
			}
		case core.Send:
			if _, ok := e.Body.(*mobility.BindingUpdate); ok {
				update = i
			}
		}
	}
	if route < 0 || update < route {
		t.Errorf("route at %d, Binding Update at %d", route, update)
	}
}

// TestDirectTableIsTheBoundOne: what bypasses the tunnel takes the care-of address that is bound, of several of the family.
func TestDirectTableIsTheBoundOne(t *testing.T) {
	r := newRig(t, nil)
	a, b := r.net(1, "192.0.2.7"), r.net(2, "203.0.113.7")
	r.show(a, b)
	r.run(sec)
	if _, err := r.command(core.Roam{Link: "if2"}); err != nil {
		t.Fatal(err)
	}
	r.run(sec)
	if r.agent.net != b {
		t.Fatal("not moved")
	}
	if got, want := r.m.directTable(true), b.care.Table; got != want {
		t.Errorf("table %d, want %d", got, want)
	}
}

// TestDynamicAddressLength: the acknowledgement says how long the home network's prefix is.
func TestDynamicAddressLength(t *testing.T) {
	r := newRig(t, dynamic)
	r.agent.lease = netip.MustParseAddr("10.20.7.7")
	r.show(r.net(1, "2001:db8:1::7"))
	r.run(sec)
	if want := netip.MustParsePrefix("10.20.7.7/16"); r.m.bind.ipv4 != want {
		t.Errorf("bound %v, want %v", r.m.bind.ipv4, want)
	}
}

// TestNotes: the status says in words what is wrong, and nothing else.
func TestNotes(t *testing.T) {
	notes := func(r *rig) string {
		s, err := r.command(core.GetStatus{})
		if err != nil {
			t.Fatal(err)
		}
		return strings.Join(s.(core.Status).Notes, "\n")
	}
	r := newRig(t, func(c *Config) { c.Unreachable = Pass })
	n := r.net(1, "2001:db8:1::7")
	r.show(n)
	r.run(sec)
	if got := notes(r); got != "care-of address 2001:db8:1::7 on if1 (net1)" {
		t.Errorf("notes %q", got)
	}
	n.down = true
	r.run(20 * sec)
	if got := notes(r); !strings.Contains(got, "ha1 cannot be reached: new connections go out directly") {
		t.Errorf("notes %q", got)
	}
	r = newRig(t, nil)
	r.agent.status = mobility.AdministrativelyProhibited
	r.show(r.net(1, "2001:db8:1::7"))
	r.run(sec)
	if got := notes(r); !strings.Contains(got, "ha1 refuses: ") {
		t.Errorf("notes %q", got)
	}
}

// TestForgedRepliesOfTheRightForm: who sends through the tunnel knows the identifier, the number and the size, but not the token.
func TestForgedRepliesOfTheRightForm(t *testing.T) {
	r, n := v6rig(t, nil)
	r.run(sec)
	n.down = true
	for range 60 {
		r.run(50 * ms)
		for _, pr := range slices.Clone(r.m.path.probes) {
			data := make([]byte, pr.size)
			data[0], data[1] = byte(pr.seq>>8), byte(pr.seq)
			r.handle(core.Message{Path: core.Path{Local: addrPort(hoa6), Remote: addrPort(ha6), Outer: r.m.session.chain},
				Body: &ip.Echo{Reply: true, ID: DefaultProbeID, Seq: pr.seq, Data: data}})
		}
	}
	if !r.m.path.dead {
		t.Error("a dead path was kept alive")
	}
}

// TestLifetimeOfTheCareOfAddress: a binding should not outlive its care-of address (RFC 6275 11.7.1).
func TestLifetimeOfTheCareOfAddress(t *testing.T) {
	for _, c := range []struct {
		left time.Duration
		want uint16 // units of 4 s
	}{{time.Hour, 150}, {600 * sec, 150}, {100 * sec, 25}, {99 * sec, 24}, {3 * sec, 1}, {-sec, 1}} {
		r := newRig(t, nil)
		r.links.valid = begin + c.left
		r.show(r.net(1, "2001:db8:1::7"))
		if _, bu := r.lastUpdate(); bu.Lifetime != c.want {
			t.Errorf("%v left: lifetime %d, want %d", c.left, bu.Lifetime, c.want)
		}
		// Advertised anew, it is asked for in full with the refresh.
		r.links.valid = 0
		r.run(600 * sec)
		if _, bu := r.lastUpdate(); bu.Lifetime != 150 || !r.ok() {
			t.Errorf("%v left: later lifetime %d", c.left, bu.Lifetime)
		}
	}
}
