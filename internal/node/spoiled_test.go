package node

import (
	"slices"
	"testing"
	"time"

	"kedge/internal/core"
	"kedge/internal/spec"
	"kedge/wire"
	"kedge/wire/mobility"
)

// TestAuthenticationFails: status 146 ends a registration when three Binding Updates in a row got it (RFC 4285 5.3).
func TestAuthenticationFails(t *testing.T) {
	spec.Covers(t, "RFC4285-5.3")
	r := newRig(t, nil)
	r.agent.status = mobility.MIPv6AuthFail
	r.show(r.net(1, "2001:db8:1::7"))
	r.run(30 * sec)
	r.wantTimes(0, 1500*ms, 4500*ms)
	r.wantState(refused)
	if r.m.counts[string(wire.AuthFailed)] != 2 || r.m.counts[string(wire.NotAuthorized)] != 1 || r.m.bound() {
		t.Errorf("counted %v", r.m.counts)
	}
	r.agent.status = mobility.Accepted
	r.run(10 * sec)
	if !r.ok() {
		t.Errorf("not bound when the key was mended: %v %s", r.m.state, r.story())
	}
}

// TestSpoiledCopy: status 146 answers a copy that was spoiled on the way and overtook ours, however often; the answer to ours counts.
func TestSpoiledCopy(t *testing.T) {
	r := newRig(t, nil)
	n := r.net(1, "2001:db8:1::7")
	for round := range 5 {
		r.forget()
		r.show(n)
		for range 4 {
			r.handle(core.Message{Path: answerPath(n), Body: &mobility.BindingAck{Sequence: r.m.seq, Status: mobility.MIPv6AuthFail}})
		}
		r.run(50 * ms)
		if !r.ok() || r.m.unverified != 0 {
			t.Fatalf("round %d: not bound: %v %s", round, r.m.state, r.story())
		}
		r.show()
		r.run(time.Minute)
		n.care.Since = r.now.Boot
		n.care.Addr = n.care.Addr.Next()
	}
	if r.m.counts[string(wire.AuthFailed)] != 5*4 || r.m.counts[string(wire.NotAuthorized)] != 0 {
		t.Errorf("counted %v", r.m.counts)
	}
}

// TestSpoiledLate: copies of Binding Updates that were lost, all sent before the first of them was refused, prove nothing.
func TestSpoiledLate(t *testing.T) {
	r := newRig(t, nil)
	n := r.net(1, "2001:db8:1::7")
	n.down = true
	r.show(n)
	r.run(100 * sec)
	n.down = false
	for _, s := range slices.Clone(r.m.sent) {
		r.handle(core.Message{Path: answerPath(n), Body: &mobility.BindingAck{Sequence: s.seq, Status: mobility.MIPv6AuthFail}})
	}
	r.wantState(registering)
	if n := len(r.m.sent); n < 5 {
		t.Errorf("%d Binding Updates are outstanding", n)
	}
	r.run(32 * sec)
	if !r.ok() {
		t.Errorf("not bound: %v %s", r.m.state, r.story())
	}
}
