package optimize

import (
	"net/netip"
	"testing"
	"time"

	"kedge/wire/mobility"
)

// TestMove: with a home keygen token at hand a move costs a care-of test and the registration. The old address is gone: data goes
// through the home agent until the correspondent has the new one, and what it sends is let in before.
func TestMove(t *testing.T) {
	r := established(t, traffic())
	r.run(10 * sec)
	r.forget()
	at := r.elapsed()
	r.away(coa2)
	r.wantDirect(cn, netip.Addr{})
	r.run(rtt)
	if len(r.sent) != 2 || !isType(r.sent[0].body, mobility.TypeCareOfTestInit) || !isType(r.sent[1].body, mobility.TypeBindingUpdate) || r.sent[0].path.Local != addrPort(coa2) {
		t.Fatalf("sent %v", r.messages())
	}
	r.wantDirect(cn, netip.Addr{})
	if !r.letsIn(cn, coa2) || !r.letsIn(cn, coa1) {
		t.Errorf("session %+v", r.sessionOf(cn))
	}
	r.run(rtt)
	r.wantDirect(cn, coa2)
	if got := r.elapsed() - at; got != 2*rtt {
		t.Errorf("direct again after %v", got)
	}
	if r.boundAt(cn) != coa2 || r.state(cn) != "direct" {
		t.Errorf("the correspondent has %v, state %s", r.boundAt(cn), r.state(cn))
	}
}

// TestMoveAhead: the care-of test of an address goes while the home agent is being told of it, once, and the move costs the registration
// alone.
func TestMoveAhead(t *testing.T) {
	r := established(t, traffic())
	r.run(10 * sec)
	r.forget()
	p := r.place
	p.Next, p.NextIf, p.Own = coa2, 3, []netip.Addr{coa1, coa2}
	r.at(p)
	r.wantDirect(cn, coa1)
	r.run(rtt)
	if len(r.sent) != 1 || !isType(r.sent[0].body, mobility.TypeCareOfTestInit) || r.sent[0].path.Local != addrPort(coa2) || r.sent[0].path.If != 3 {
		t.Fatalf("sent %v", r.messages())
	}
	at := r.elapsed()
	r.away(coa2)
	r.run(rtt)
	r.wantDirect(cn, coa2)
	if got := r.elapsed() - at; got != rtt || len(r.sent) != 2 {
		t.Errorf("direct again after %v, sent %v", got, r.messages())
	}
}

// TestMoveAheadUnanswered: a test that was lost is not repeated before it is needed, and then at once; a network that the node does not
// go to costs one message.
func TestMoveAheadUnanswered(t *testing.T) {
	r := established(t, traffic())
	r.forget()
	r.drop = func(string, mobility.Message) bool { return true }
	p := r.place
	p.Next, p.NextIf, p.Own = coa2, 3, []netip.Addr{coa1, coa2}
	r.at(p)
	r.run(20 * sec)
	if len(r.sent) != 1 || !isType(r.sent[0].body, mobility.TypeCareOfTestInit) {
		t.Errorf("sent %v", r.messages())
	}
	if e := r.m.find(cn); e.hold != 0 || r.directTo(cn) != coa1 {
		t.Errorf("%s for %v", e.why, e.hold)
	}
	r.drop = nil
	r.away(coa2)
	r.run(2 * rtt)
	r.wantDirect(cn, coa2)
	// And one that comes to nothing.
	r.forget()
	p = r.place
	p.Next, p.NextIf = coa1, 2
	r.m.find(cn).forgetCare(coa1)
	r.drop = func(string, mobility.Message) bool { return true }
	r.at(p)
	p.Next, p.NextIf = netip.Addr{}, 0
	r.at(p)
	r.run(20 * sec)
	if len(r.sent) != 1 {
		t.Errorf("sent %v", r.messages())
	}
}

// TestMoveAwayFromWorking: while the old care-of address works, data goes on from there until the Binding Update leaves; from then on
// nobody knows which the correspondent has.
func TestMoveAwayFromWorking(t *testing.T) {
	r := established(t, traffic())
	r.away(coa2, coa1)
	r.run(rtt - ms)
	r.wantDirect(cn, coa1)
	r.run(ms) // the Care-of Test has come, the Binding Update left
	r.wantDirect(cn, netip.Addr{})
	if !r.letsIn(cn, coa1) || !r.letsIn(cn, coa2) {
		t.Errorf("session %+v", r.sessionOf(cn))
	}
	r.run(rtt)
	r.wantDirect(cn, coa2)
}

// TestMoveToSilence: from the new network there is no direct way. The correspondent learns through the home agent, after a second, that the
// old one is over, and is tried again later.
func TestMoveToSilence(t *testing.T) {
	r := established(t, traffic())
	r.drop = func(dir string, b mobility.Message) bool {
		return dir == "out" && r.sent[len(r.sent)-1].path.Local.Addr() == coa2
	}
	r.run(sec)
	r.forget()
	r.away(coa2)
	r.run(sec + through)
	if a := r.boundAt(cn); a.IsValid() {
		t.Errorf("the correspondent sends to %v, sent %v", a, r.messages())
	}
	for range 20 {
		r.report(cn)
		r.run(sec)
	}
	if s := r.state(cn); s != "held" {
		t.Errorf("state %s", s)
	}
	r.drop = nil
	for range 40 {
		r.report(cn)
		r.run(sec)
	}
	r.wantDirect(cn, coa2)
}

// TestMoveWithoutToken: the home keygen token is too old, so both tests are made.
func TestMoveWithoutToken(t *testing.T) {
	r := established(t, traffic())
	r.drop = func(dir string, b mobility.Message) bool { return dir == "out" && isType(b, mobility.TypeHomeTestInit) }
	r.run(MaxTokenLifetime)
	r.drop = nil
	r.wantDirect(cn, coa1) // a renewal that fails means nothing
	r.forget()
	r.away(coa2)
	r.run(homeRTT + rtt)
	r.wantDirect(cn, coa2)
	if len(r.sent) != 3 || !isType(r.sent[0].body, mobility.TypeHomeTestInit) || !isType(r.sent[1].body, mobility.TypeCareOfTestInit) {
		t.Errorf("sent %v", r.messages())
	}
}

// TestMoveBack: a care-of keygen token is as good when the node comes back; it then costs nothing but the registration (5.2.7).
func TestMoveBack(t *testing.T) {
	r := established(t, traffic())
	r.away(coa2)
	r.run(rtt - ms) // the test is not answered yet
	r.away(coa1)
	r.run(sec)
	r.wantDirect(cn, coa1)
	if r.boundAt(cn) != coa1 {
		t.Errorf("the correspondent has %v, sent %v", r.boundAt(cn), r.messages())
	}
	// It moves while the Binding Update for the first place is on its way: the answer to that changes nothing.
	r.away(coa2)
	r.run(rtt + ms)
	r.away(coa1)
	r.wantDirect(cn, netip.Addr{})
	r.run(rtt - 2*ms)
	r.wantDirect(cn, netip.Addr{})
	r.run(sec)
	r.wantDirect(cn, coa1)
	if r.boundAt(cn) != coa1 {
		t.Errorf("the correspondent has %v %v %+v", r.boundAt(cn), r.messages(), r.m.find(cn))
	}
}

// TestMoveDuringTests: what was tested at the old place is of no use at the new one; the home test goes on.
func TestMoveDuringTests(t *testing.T) {
	r := newRig(t, traffic())
	r.away(coa1)
	r.report(cn)
	r.run(rtt + ms) // the Care-of Test for coa1 has come
	r.away(coa2)
	r.run(homeRTT - ms - rtt + rtt)
	r.wantMessages("0s Home Test Init", "0s Care-of Test Init", "41ms Care-of Test Init", "100ms Binding Update")
	r.run(sec)
	r.wantDirect(cn, coa2)
	if r.boundAt(cn) != coa2 {
		t.Errorf("the correspondent has %v %v %+v", r.boundAt(cn), r.messages(), r.m.find(cn))
	}
}

// TestMoveDuringUpdate: the acknowledgement for the old care-of address comes after the node has left it, by a network that it still
// hears; data does not leave for it.
func TestMoveDuringUpdate(t *testing.T) {
	r := newRig(t, traffic())
	r.away(coa1)
	r.report(cn)
	r.run(homeRTT + ms) // the Binding Update for coa1 has left
	r.away(coa2, coa1)
	r.run(rtt)
	r.wantDirect(cn, netip.Addr{})
	r.run(sec)
	r.wantDirect(cn, coa2)
	if r.boundAt(cn) != coa2 {
		t.Errorf("the correspondent has %v %v %+v", r.boundAt(cn), r.messages(), r.m.find(cn))
	}
}

// TestRefresh: the home keygen token is renewed before it ends, the binding before it does, and without a gap.
func TestRefresh(t *testing.T) {
	r := established(t, traffic())
	r.forget()
	r.run(MaxTokenLifetime - renewBefore - r.elapsed())
	r.wantMessages("3m10s Home Test Init")
	r.forget()
	refresh := homeRTT + MaxBindingLifetime*7/10
	r.run(refresh - r.elapsed())
	r.wantMessages("4m54.1s Care-of Test Init") // the care-of keygen token is too old
	r.run(rtt)
	r.wantMessages("4m54.1s Care-of Test Init", "4m54.14s Binding Update")
	r.wantDirect(cn, coa1)
	r.run(rtt)
	if got := r.m.find(cn).bind.expires - begin; got != refresh+rtt+MaxBindingLifetime {
		t.Errorf("bound until %v", got)
	}
	// For hours.
	r.forget()
	for range 100 {
		r.run(time.Minute)
		r.wantDirect(cn, coa1)
		if r.boundAt(cn) != coa1 {
			t.Fatalf("%v: no binding", r.elapsed())
		}
	}
}

// TestIdle: without traffic nothing is renewed, and the entry ends with the binding. What comes late is let in.
func TestIdle(t *testing.T) {
	r := established(t, traffic())
	r.count = fixed(0)
	r.forget()
	r.run(homeRTT + MaxBindingLifetime - ms - r.elapsed())
	r.wantMessages() // not even the token
	r.wantDirect(cn, coa1)
	r.run(ms)
	r.wantDirect(cn, netip.Addr{})
	if !r.letsIn(cn, coa1) {
		t.Error("the binding may live a little longer there")
	}
	r.run(slack + grace + ms)
	if r.m.find(cn) != nil || len(r.data) != 0 {
		t.Errorf("entry %v, sessions %v", r.state(cn), r.data)
	}
	r.run(watchEvery)
	if d, ok := r.m.Deadline(); ok {
		t.Errorf("a deadline in %v with nothing to do", d-r.now.Boot)
	}
}

// TestIdleAgain: an entry that is about to end is renewed when there is traffic again.
func TestIdleAgain(t *testing.T) {
	r := established(t, traffic())
	busy := r.count
	r.count = fixed(0)
	r.run(350 * sec)
	r.forget()
	r.count = busy
	r.run(watchEvery + homeRTT + rtt)
	r.wantDirect(cn, coa1)
	if e := r.m.find(cn); e.bind.expires < r.now.Boot+400*sec {
		t.Errorf("not renewed: until %v; sent %v", e.bind.expires-begin, r.messages())
	}
}

// TestAlways: single addresses are told at once, and without traffic.
func TestAlways(t *testing.T) {
	cfg := Config{Correspondents: []Rule{{single(cn), Always}}}
	r := newRig(t, cfg)
	r.count = fixed(0)
	r.report(cn2) // whose use is never
	r.away(coa1)
	r.report(cn2)
	r.run(homeRTT + rtt)
	r.wantDirect(cn, coa1)
	for range 30 {
		r.run(time.Minute)
		r.wantDirect(cn, coa1)
	}
	if len(r.m.list) != 1 {
		t.Errorf("%d entries", len(r.m.list))
	}
}

// TestUse: the longest prefix says whether a correspondent is told; never is kept by all.
func TestUse(t *testing.T) {
	r := newRig(t, Config{Use: Traffic, Correspondents: []Rule{{netip.MustParsePrefix("2001:db8:d::/64"), Never}, {single(cn), Traffic}}})
	r.away(coa1)
	r.report(cn)
	r.report(cn2)
	for _, a := range []netip.Addr{ha, hoa, coa1, netip.MustParseAddr("fe80::1"), netip.MustParseAddr("ff02::1"), netip.MustParseAddr("::1")} {
		r.report(a)
	}
	if len(r.m.list) != 1 || r.m.find(cn) == nil {
		t.Errorf("entries %v", r.m.States())
	}
}

// TestHome: on the home link a binding is deleted, by the home keygen token alone (11.5.5, 5.2.5).
func TestHome(t *testing.T) {
	r := established(t, traffic())
	r.run(sec)
	r.forget()
	at := r.elapsed()
	r.at(Place{At: AtHome, Home: hoa, Anchor: ha, Name: "ha1", If: 3})
	r.wantDirect(cn, netip.Addr{})
	if len(r.sent) != 1 {
		t.Fatalf("sent %v", r.messages())
	}
	bu := r.sent[0]
	if p := bu.path; p.Local != addrPort(hoa) || p.Own.IsValid() || p.Outer.N != 0 || p.If != 3 || p.Remote != addrPort(cn) {
		t.Errorf("by %+v", p)
	}
	if b := r.parse(bu.raw, hoa, cn).Body.(*mobility.BindingUpdate); b.Lifetime != 0 || b.Flags != mobility.BUAck {
		t.Errorf("%+v", b)
	}
	r.run(rtt)
	if r.boundAt(cn).IsValid() {
		t.Errorf("the correspondent has %v %v %+v", r.boundAt(cn), r.messages(), r.m.find(cn))
	}
	if r.elapsed()-at != rtt || r.m.find(cn) == nil || !r.letsIn(cn, coa1) {
		t.Error("what is on its way is not let in any more")
	}
	r.run(grace)
	if r.m.find(cn) != nil || len(r.data) != 0 {
		t.Errorf("state %s, sessions %v", r.state(cn), r.data)
	}
}

// TestHomeWithoutToken: the Home Test Init leaves natively; the deletion is tried MAX_RO_FAILURE times more, then the binding runs out.
func TestHomeWithoutToken(t *testing.T) {
	r := established(t, traffic())
	r.m.find(cn).home = token{}
	r.forget()
	r.at(Place{At: AtHome, Home: hoa, Anchor: ha, If: 3})
	r.run(rtt)
	if len(r.sent) != 2 || !isType(r.sent[0].body, mobility.TypeHomeTestInit) || r.sent[0].path.Outer.N != 0 || r.sent[0].path.If != 3 {
		t.Fatalf("sent %v by %+v", r.messages(), r.sent[0].path)
	}
	r.run(rtt)
	if r.boundAt(cn).IsValid() {
		t.Error("still bound")
	}

	r = established(t, traffic())
	r.drop = func(dir string, b mobility.Message) bool { return true }
	r.forget()
	r.at(Place{At: AtHome, Home: hoa, Anchor: ha, If: 3})
	r.run(20 * sec)
	if len(r.sent) != 4 || r.state(cn) != "leaving" || !r.letsIn(cn, coa1) {
		t.Errorf("sent %v, state %s", r.messages(), r.state(cn))
	}
	r.run(MaxBindingLifetime + grace)
	if r.m.find(cn) != nil {
		t.Error("the entry outlives the binding")
	}
}

// TestIPv4Only: without an IPv6 care-of address there is no route optimization, and no test (RFC 5555 2.4). What the correspondent has
// is deleted from the home address, through the tunnel: else it would go on sending to where nobody is.
func TestIPv4Only(t *testing.T) {
	r := established(t, traffic())
	r.run(sec)
	r.forget()
	p := Place{At: Away, Home: hoa, Anchor: ha, Name: "ha1", Until: r.now.Boot + time.Hour, Tunnel: tunnel}
	p.Tunnel.Layer[0].Local, p.Tunnel.Layer[0].Remote = netip.MustParseAddrPort("192.0.2.7:4191"), netip.MustParseAddrPort("198.51.100.1:4191")
	r.at(p)
	r.wantDirect(cn, netip.Addr{})
	if len(r.sent) != 1 || !isType(r.sent[0].body, mobility.TypeBindingUpdate) || r.sent[0].path.Outer != p.Tunnel || r.sent[0].path.Own.IsValid() {
		t.Fatalf("sent %v", r.messages())
	}
	r.run(homeRTT)
	if r.boundAt(cn).IsValid() {
		t.Error("still bound")
	}
	r.run(grace)
	r.report(cn)
	r.run(10 * sec)
	if len(r.sent) != 1 || len(r.m.list) != 0 {
		t.Errorf("sent %v, %d entries", r.messages(), len(r.m.list))
	}
	// Nothing was ever begun there.
	r = newRig(t, Config{Use: Traffic, Correspondents: []Rule{{single(cn2), Always}}})
	r.at(p)
	r.report(cn)
	r.run(10 * sec)
	r.wantMessages()
}

// TestNowhere: without a registration at the home agent nothing is begun; data goes on directly for as long as the care-of address is
// there.
func TestNowhere(t *testing.T) {
	r := established(t, traffic())
	r.forget()
	r.at(Place{Home: hoa, Anchor: ha, Own: []netip.Addr{coa1}})
	r.run(10 * sec)
	r.wantDirect(cn, coa1)
	r.wantMessages()
	r.at(Place{Home: hoa, Anchor: ha})
	r.wantDirect(cn, netip.Addr{})
	r.away(coa1)
	r.wantDirect(cn, coa1)
	r.wantMessages()
}

// TestAnotherHome: what correspondents hold is about the old home address.
func TestAnotherHome(t *testing.T) {
	r := established(t, traffic())
	p := r.place
	p.Home = netip.MustParseAddr("2001:db8:2001::5")
	r.at(p)
	if len(r.m.list) != 0 || len(r.data) != 0 {
		t.Errorf("%d entries, sessions %v", len(r.m.list), r.data)
	}
}
