package optimize

import (
	"fmt"
	"io"
	"net/netip"
	"slices"
	"testing"
	"time"

	"kedge/internal/core"
	"kedge/wire"
	"kedge/wire/mobility"
)

var stranger = netip.MustParseAddr("2001:db8:bad::1")

// begun is a rig whose tests are under way, with the cookies of both.
func begun(t testing.TB) (r *rig, home, care [8]byte) {
	t.Helper()
	r = newRig(t, traffic())
	r.drop = func(string, mobility.Message) bool { return true }
	r.away(coa1)
	r.report(cn)
	return r, r.sent[0].body.(*mobility.TestInit).Cookie, r.sent[1].body.(*mobility.TestInit).Cookie
}

// inject gives the node a message by a path, as it is on the wire.
func (r *rig) inject(p core.Path, b mobility.Message) {
	r.t.Helper()
	dst := p.Local.Addr()
	if p.Own.IsValid() {
		dst = p.Own
	}
	raw, err := mobility.Append(nil, b, p.Remote.Addr(), dst)
	if err != nil {
		r.t.Fatal(err)
	}
	r.deliver(p, raw, p.Remote.Addr(), dst)
}

// TestForgedTests: what is no answer to a test of ours is counted and ignored (11.6.2).
func TestForgedTests(t *testing.T) {
	_, home, care := begun(t)
	inTunnel := core.Path{Local: addrPort(hoa), Remote: addrPort(cn), Outer: tunnel}
	native := core.Path{Local: addrPort(hoa), Remote: addrPort(cn)}
	toCare := core.Path{If: 2, Local: addrPort(coa1), Remote: addrPort(cn)}
	with := func(p core.Path, f func(*core.Path)) core.Path { f(&p); return p }
	bad := [8]byte{1, 2, 3, 4, 5, 6, 7, 8}
	for _, c := range []struct {
		name string
		path core.Path
		body mobility.Test
		want wire.Reason
	}{
		{"home test with another cookie", inTunnel, mobility.Test{Cookie: bad}, wire.IdentifierMismatch},
		{"home test with the cookie of the care-of test", inTunnel, mobility.Test{Cookie: care}, wire.IdentifierMismatch},
		{"home test that came directly", native, mobility.Test{Cookie: home}, wire.WrongTunnel},
		{"home test to the care-of address", toCare, mobility.Test{Cookie: home}, wire.WrongTunnel},
		{"home test in the tunnel of a stranger", with(inTunnel, func(p *core.Path) { p.Outer.Layer[0].Remote = addrPort(stranger) }), mobility.Test{Cookie: home}, wire.WrongTunnel},
		{"home test of a stranger", with(inTunnel, func(p *core.Path) { p.Remote = addrPort(stranger) }), mobility.Test{Cookie: home}, wire.Unsolicited},
		{"care-of test with another cookie", toCare, mobility.Test{CareOf: true, Cookie: bad}, wire.IdentifierMismatch},
		{"care-of test by the tunnel", with(toCare, func(p *core.Path) { p.Outer = tunnel }), mobility.Test{CareOf: true, Cookie: care}, wire.WrongTunnel},
		{"care-of test to another address", with(toCare, func(p *core.Path) { p.Local = addrPort(coa2) }), mobility.Test{CareOf: true, Cookie: care}, wire.WrongTunnel},
		{"care-of test to the home address", with(inTunnel, func(p *core.Path) {}), mobility.Test{CareOf: true, Cookie: care}, wire.WrongTunnel},
		{"care-of test of a stranger", with(toCare, func(p *core.Path) { p.Remote = addrPort(stranger) }), mobility.Test{CareOf: true, Cookie: care}, wire.Unsolicited},
	} {
		t.Run(c.name, func(t *testing.T) {
			r, _, _ := begun(t)
			n := len(r.sent)
			r.inject(c.path, &c.body)
			if r.reason(c.want) != 1 || len(r.m.Counters()) != 1 {
				t.Errorf("counters %v, want %s", r.m.Counters(), c.want)
			}
			if e := r.m.find(cn); e.home.ok || len(e.care) != 0 || len(r.sent) != n {
				t.Error("it was taken")
			}
		})
	}
	// The same, right; and once more: no test is under way then.
	r, home, care := begun(t)
	r.inject(toCare, &mobility.Test{CareOf: true, Cookie: care})
	r.inject(inTunnel, &mobility.Test{Cookie: home})
	if len(r.sent) != 3 || !isType(r.sent[2].body, mobility.TypeBindingUpdate) {
		t.Fatalf("sent %v", r.messages())
	}
	r.inject(inTunnel, &mobility.Test{Cookie: home, Token: bad})
	if r.m.find(cn).home.value == bad || r.reason(wire.Unsolicited) != 1 {
		t.Errorf("a second answer was taken: %v", r.m.Counters())
	}
	// By ESP in tunnel mode (10.4.6).
	r, home, _ = begun(t)
	r.inject(core.Path{Local: addrPort(hoa), Remote: addrPort(cn), Auth: core.Auth{Kind: "esp", Peer: "ha1"}}, &mobility.Test{Cookie: home})
	if !r.m.find(cn).home.ok {
		t.Error("a home test in tunnel-mode ESP is not taken")
	}
}

// TestForgedAcks: acknowledgements that are not proven, not asked for, or come to the wrong address (11.7.3).
func TestForgedAcks(t *testing.T) {
	toCare := core.Path{If: 2, Local: addrPort(coa1), Remote: addrPort(cn), Own: hoa}
	for _, c := range []struct {
		name string
		path core.Path
		make func(seq uint16, key []byte) mobility.Message
		want wire.Reason
	}{
		{"without proof", toCare, func(seq uint16, _ []byte) mobility.Message {
			return &mobility.BindingAck{Sequence: seq, Lifetime: 100}
		}, wire.AuthFailed},
		{"with another key", toCare, func(seq uint16, _ []byte) mobility.Message {
			return proven(&mobility.BindingAck{Sequence: seq, Lifetime: 100}, make([]byte, 20), coa1)
		}, wire.AuthFailed},
		{"about another care-of address", toCare, func(seq uint16, key []byte) mobility.Message {
			return proven(&mobility.BindingAck{Sequence: seq, Lifetime: 100}, key, coa2)
		}, wire.AuthFailed},
		{"refusal without proof", toCare, func(seq uint16, _ []byte) mobility.Message {
			return &mobility.BindingAck{Status: mobility.AdministrativelyProhibited, Sequence: seq}
		}, wire.AuthFailed},
		{"of another number", toCare, func(seq uint16, key []byte) mobility.Message {
			return proven(&mobility.BindingAck{Sequence: seq + 1, Lifetime: 100}, key, coa1)
		}, wire.SequenceMismatch},
		{"expired nonces of another number", toCare, func(seq uint16, _ []byte) mobility.Message {
			return &mobility.BindingAck{Status: mobility.ExpiredNonces, Sequence: seq + 1}
		}, wire.Unsolicited},
		{"another number is wanted, without proof", toCare, func(seq uint16, _ []byte) mobility.Message {
			return &mobility.BindingAck{Status: mobility.SequenceOutOfWindow, Sequence: seq + 1000}
		}, wire.AuthFailed},
		{"to the home address", core.Path{Local: addrPort(hoa), Remote: addrPort(cn), Outer: tunnel}, func(seq uint16, key []byte) mobility.Message {
			return proven(&mobility.BindingAck{Sequence: seq, Lifetime: 100}, key, coa1)
		}, wire.WrongTunnel},
		{"without a routing header", core.Path{If: 2, Local: addrPort(coa1), Remote: addrPort(cn)}, func(seq uint16, key []byte) mobility.Message {
			return proven(&mobility.BindingAck{Sequence: seq, Lifetime: 100}, key, coa1)
		}, wire.WrongTunnel},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := unanswered(t)
			e := r.m.find(cn)
			s := e.upd.sent[0]
			seq, n := e.seq, len(r.sent)
			r.inject(c.path, c.make(s.seq, s.key))
			if got := r.reason(c.want); got != 1 {
				t.Errorf("counters %v, want %s", r.m.Counters(), c.want)
			}
			if e.bind.ok() || e.seq != seq || len(r.sent) != n || !e.upd.running || e.hold > 0 {
				t.Errorf("it was taken: %v", r.messages())
			}
		})
	}
	// Nothing is outstanding.
	r, _, _ := begun(t)
	r.inject(toCare, &mobility.BindingAck{Sequence: 1, Lifetime: 100})
	if r.reason(wire.Unsolicited) != 1 {
		t.Errorf("counters %v", r.m.Counters())
	}
	// A copy of one that was taken.
	r = established(t, traffic())
	last := r.heard[len(r.heard)-1]
	before := r.m.find(cn).bind
	r.run(sec)
	r.deliver(last.path, last.raw, cn, hoa)
	if r.m.find(cn).bind != before || r.reason(wire.SequenceOld) != 1 {
		t.Errorf("a replayed acknowledgement was taken: %v", r.m.Counters())
	}
}

func proven(ba *mobility.BindingAck, key []byte, careOf netip.Addr) mobility.Message {
	return &mobility.Authorized{Message: ba, Key: key, CareOf: careOf, Peer: cn}
}

// TestNonces: a correspondent that has new keys says so by statuses 136 to 138; then there are new tests, a few times.
func TestNonces(t *testing.T) {
	r := newRig(t, traffic())
	r.away(coa1)
	r.report(cn)
	r.run(homeRTT) // the Binding Update is on its way
	r.correspondent(cn)
	r.run(2*rtt + homeRTT)
	if got := r.messages(); len(got) != 6 || r.sent[3].at != homeRTT+rtt || !isType(r.sent[5].body, mobility.TypeBindingUpdate) {
		t.Errorf("sent %v", got)
	}
	r.wantDirect(cn, coa1)
	if r.m.counts["expired-nonce"] != 1 {
		t.Errorf("counters %v", r.m.Counters())
	}

	for status, tests := range map[mobility.Status][]mobility.Type{
		mobility.ExpiredHomeNonce:   {mobility.TypeHomeTestInit},
		mobility.ExpiredCareOfNonce: {mobility.TypeCareOfTestInit},
		mobility.ExpiredNonces:      {mobility.TypeHomeTestInit, mobility.TypeCareOfTestInit},
	} {
		r := unanswered(t)
		r.forget()
		refuse := func() {
			e := r.m.find(cn)
			r.inject(core.Path{If: 2, Local: addrPort(coa1), Remote: addrPort(cn), Own: hoa}, &mobility.BindingAck{Status: status, Sequence: e.upd.sent[len(e.upd.sent)-1].seq})
		}
		refuse()
		var got []mobility.Type
		for _, s := range r.sent {
			got = append(got, s.body.Type())
		}
		if !slices.Equal(got, tests) {
			t.Errorf("%v: sent %v", status, got)
		}
		for range maxRepeats {
			r.run(sec)
			refuse()
		}
		if s := r.state(cn); s != "held" {
			t.Errorf("%v for ever: state %s", status, s)
		}
	}
}

// TestSequence: status 135, proven, says which number the correspondent has.
func TestSequence(t *testing.T) {
	r := established(t, traffic())
	e := r.m.find(cn)
	has := e.seq
	e.seq -= 100 // as after a restart that lost it
	r.away(coa2)
	r.run(rtt + rtt + rtt)
	r.wantDirect(cn, coa2)
	if e.seq != has+1 || r.reason(wire.SequenceOld) != 1 {
		t.Errorf("number %d, it has %d", e.seq, has)
	}
	// One that asks for ever greater ones is left alone.
	r.drop = func(dir string, b mobility.Message) bool { return isType(b, mobility.TypeBindingAck) }
	r.away(coa1)
	for i := range uint16(maxRepeats + 1) {
		r.run(sec + rtt)
		if !e.upd.running {
			t.Fatalf("%d: nothing under way: %s", i, r.state(cn))
		}
		s := e.upd.sent[len(e.upd.sent)-1]
		r.inject(core.Path{If: 2, Local: addrPort(coa1), Remote: addrPort(cn), Own: hoa},
			proven(&mobility.BindingAck{Status: mobility.SequenceOutOfWindow, Sequence: s.seq + 100}, s.key, coa1))
	}
	if s := r.state(cn); s != "held" {
		t.Errorf("state %s", s)
	}
}

// TestRefusals: proven statuses have data go through the home agent for a while; what the correspondent has before lives on there.
func TestRefusals(t *testing.T) {
	for status, want := range map[mobility.Status]struct {
		reason wire.Reason
		hold   time.Duration
		moves  bool // another network ends the wait
	}{
		mobility.ReasonUnspecified:          {wire.RefusedByAnchor, holdLong, false},
		mobility.AdministrativelyProhibited: {wire.ServiceDisabled, holdLong, false},
		mobility.InsufficientResources:      {wire.SessionLimit, holdFirst, false},
		mobility.TypeChangeDisallowed:       {wire.TypeChange, holdLong, false},
		mobility.InvalidCareOf:              {wire.BadCareOf, holdFirst, true},
	} {
		t.Run(fmt.Sprint(status), func(t *testing.T) {
			r := unanswered(t)
			e := r.m.find(cn)
			s := e.upd.sent[0]
			r.inject(core.Path{If: 2, Local: addrPort(coa1), Remote: addrPort(cn), Own: hoa}, proven(&mobility.BindingAck{Status: status, Sequence: s.seq}, s.key, coa1))
			if e.why != want.reason || e.hold != r.now.Boot+want.hold || r.state(cn) != "held" {
				t.Errorf("%s for %v", e.why, e.hold-r.now.Boot)
			}
			r.wantDirect(cn, netip.Addr{})
			r.forget()
			r.away(coa2)
			if (len(r.sent) > 0) != want.moves {
				t.Errorf("after a move: %v", r.messages())
			}
		})
	}
}

// TestBindingError: a correspondent without a binding, restarted perhaps, is told at once; data goes through the home agent until
// then. Who sends such errors again and again gets less and less for it.
func TestBindingError(t *testing.T) {
	r := established(t, traffic())
	r.run(20 * sec)
	r.correspondent(cn)
	r.forget()
	be := func(home netip.Addr, status uint8) {
		r.inject(core.Path{If: 2, Local: addrPort(coa1), Remote: addrPort(cn)}, &mobility.BindingError{Status: status, Home: home})
	}
	be(stranger, mobility.UnknownBinding)
	be(hoa, mobility.UnrecognizedMHType) // no answer is waited for
	be(hoa, 77)
	r.inject(core.Path{If: 2, Local: addrPort(coa2), Remote: addrPort(cn)}, &mobility.BindingError{Status: mobility.UnknownBinding, Home: hoa})
	r.wantDirect(cn, coa1)
	r.wantMessages()
	be(hoa, mobility.UnknownBinding)
	r.wantDirect(cn, netip.Addr{})
	if len(r.sent) != 2 {
		t.Fatalf("sent %v: nonces are others now", r.messages())
	}
	if !r.letsIn(cn, coa1) {
		t.Error("a forged error keeps out what the correspondent sends")
	}
	r.run(homeRTT + rtt)
	r.wantDirect(cn, coa1)

	r.forget()
	for range 600 {
		be(hoa, mobility.UnknownBinding)
		r.run(100 * ms)
	}
	if n := len(r.sent); n > 3*8 {
		t.Errorf("%d messages for errors in a minute: %v", n, r.messages())
	}
	r.run(5 * time.Minute)
	r.wantDirect(cn, coa1)

	// A stranger's is nobody's.
	msg := core.Message{Path: core.Path{Local: addrPort(coa1), Remote: addrPort(stranger)}, Body: &mobility.BindingError{Status: 1, Home: hoa}}
	if r.m.Takes(&msg) {
		t.Error("a Binding Error of a stranger is taken")
	}
}

// TestUnsupported: who does not know the messages or the option is not asked again for long (11.3.5, 11.3.6).
func TestUnsupported(t *testing.T) {
	r, _, _ := begun(t)
	r.inject(core.Path{If: 2, Local: addrPort(coa1), Remote: addrPort(cn)}, &mobility.BindingError{Status: mobility.UnrecognizedMHType, Home: netip.IPv6Unspecified()})
	if e := r.m.find(cn); e.hold != r.now.Boot+holdLong || e.why != wire.UnsupportedMessage {
		t.Errorf("%s for %v", e.why, e.hold-r.now.Boot)
	}
	r = established(t, traffic())
	ev := core.Reported{Reason: string(wire.TunnelError), Inner: core.Match{Src: single(hoa), Dst: single(cn)}}
	if !r.m.Wants(&ev) {
		t.Fatal("not taken")
	}
	r.handle(ev)
	r.wantDirect(cn, netip.Addr{})
	if e := r.m.find(cn); e.hold != r.now.Boot+minRefresh || !r.letsIn(cn, coa1) {
		t.Errorf("%s for %v", e.why, e.hold-r.now.Boot)
	}
	// It answered tests, so it may be starting again; if it goes on, it is left alone longer and longer.
	var waits []time.Duration
	for range 12 {
		last := r.now.Boot
		for r.directTo(cn) != coa1 && r.elapsed() < 10*time.Hour {
			r.report(cn)
			r.run(sec)
		}
		waits = append(waits, (r.now.Boot - last).Truncate(sec))
		r.handle(ev)
	}
	if !slices.IsSorted(waits) || waits[0] > minRefresh+sec || waits[len(waits)-1] < holdMax {
		t.Errorf("tried after %v", waits)
	}
	ev.Inner.Dst = single(stranger)
	if r.m.Wants(&ev) {
		t.Error("the report is about a stranger")
	}
}

// TestRefreshRequest: a correspondent may ask for a renewal (11.7.4), not too often, and not for what carries nothing.
func TestRefreshRequest(t *testing.T) {
	brr := func(r *rig) {
		r.inject(core.Path{Local: addrPort(hoa), Remote: addrPort(cn), Outer: tunnel}, &mobility.BindingRefreshRequest{})
	}
	r := established(t, traffic())
	r.forget()
	brr(r)
	r.run(sec)
	r.wantMessages()
	r.run(10 * sec)
	brr(r)
	r.run(rtt)
	if len(r.sent) != 1 || !isType(r.sent[0].body, mobility.TypeBindingUpdate) { // the tokens are good
		t.Errorf("sent %v", r.messages())
	}
	r.wantDirect(cn, coa1)
	r.count = fixed(0)
	r.run(100 * sec)
	r.forget()
	brr(r)
	r.run(sec)
	r.wantMessages()
}

// TestTestSilentPath: data leaves and nothing comes back, and no error says why.
func TestTestSilentPath(t *testing.T) {
	r := established(t, traffic())
	in := uint64(0)
	r.count = func(core.ID) core.Counter { return core.Counter{PacketsIn: in, PacketsOut: uint64(r.elapsed() / ms)} }
	r.drop = func(string, mobility.Message) bool { return true } // the direct path is dead
	r.run(watchEvery)
	r.run(watchEvery)
	r.run(sec)
	r.wantDirect(cn, netip.Addr{})
	if r.elapsed() > 12*sec || !r.letsIn(cn, coa1) {
		t.Errorf("noticed after %v", r.elapsed())
	}
	r.run(20 * sec)
	if s := r.state(cn); s != "held" {
		t.Errorf("state %s", s)
	}

	// The way through the home agent works: what the correspondent sends takes it as soon as the direct one counts as dead.
	r = established(t, traffic())
	r.count = func(core.ID) core.Counter { return core.Counter{PacketsOut: uint64(r.elapsed() / ms)} }
	r.drop = func(dir string, b mobility.Message) bool {
		return dir == "out" && isType(b, mobility.TypeBindingUpdate) && r.sent[len(r.sent)-1].path.Own.IsValid()
	}
	at := r.elapsed()
	for ; r.boundAt(cn).IsValid() && r.elapsed() < 30*sec; r.run(10 * ms) {
	}
	if d := r.elapsed() - at; d > 2*watchEvery+3*sec+homeRTT || r.boundAt(cn).IsValid() {
		t.Errorf("the correspondent sends directly until %v", d)
	}
	r.run(sec)
	if s := r.state(cn); s != "held" {
		t.Errorf("state %s", s)
	}

	// One way only, and as it should be: seldom looked at, and never given up.
	r = established(t, traffic())
	r.count = func(core.ID) core.Counter { return core.Counter{PacketsOut: uint64(r.elapsed() / ms)} }
	r.forget()
	for range 600 {
		r.run(sec)
		r.wantDirect(cn, coa1)
	}
	n := 0
	for _, s := range r.sent {
		if isType(s.body, mobility.TypeBindingUpdate) {
			n++
		}
	}
	if n < 2 || n > 12 {
		t.Errorf("%d Binding Updates in ten minutes", n)
	}
}

// TestLostBinding: the correspondent sends through the home agent though it has a binding: it may have lost it.
func TestLostBinding(t *testing.T) {
	for _, reason := range []string{core.ReportCorrespondent, core.ReportUnreachable} {
		r := established(t, traffic())
		r.run(10 * sec)
		r.correspondent(cn)
		r.forget()
		r.handle(core.Reported{Reason: reason, ID: r.m.find(cn).id, Inner: core.Match{Src: single(hoa), Dst: single(cn)}})
		r.wantDirect(cn, netip.Addr{}) // until it is known, the way that works in any case
		r.run(2*rtt + homeRTT)
		r.wantDirect(cn, coa1)
		if r.boundAt(cn) != coa1 {
			t.Errorf("%s: no binding; sent %v", reason, r.messages())
		}
	}
}

// TestStrays: who forges signs that the correspondent does not use the direct path gets a Binding Update, and data that takes the other
// way for a round trip, every 8 s. One sign does not hide the next.
func TestStrays(t *testing.T) {
	r := established(t, traffic())
	r.run(10 * sec)
	sign := func() bool {
		r.forget()
		r.handle(core.Reported{Reason: core.ReportCorrespondent, ID: r.m.find(cn).id, Inner: core.Match{Src: single(hoa), Dst: single(cn)}})
		return len(r.sent) == 1
	}
	if !sign() {
		t.Fatal("the first is not taken")
	}
	r.run(sec + rtt)
	if !sign() {
		t.Fatal("the second is not taken")
	}
	n := 0
	for range 600 {
		r.run(100 * ms)
		if sign() {
			n++
		}
	}
	if n < 5 || n > 10 {
		t.Errorf("%d in a minute", n)
	}
	r.run(sec)
	r.wantDirect(cn, coa1)
	r.run(strayMemory)
	if !sign() {
		t.Error("long ago is not forgotten")
	}
}

// TestNoRandomness: without it there is no cookie, and nothing is sent that could be answered by anybody.
func TestNoRandomness(t *testing.T) {
	r := newRig(t, traffic())
	r.m.rand = &short{}
	r.away(coa1)
	r.report(cn)
	r.run(sec + ms)
	r.wantMessages()
	r.m.rand = r.rng
	r.run(2 * sec)
	r.wantDirect(cn, coa1)
}

type short struct{}

func (*short) Read([]byte) (int, error) { return 0, io.ErrUnexpectedEOF }
