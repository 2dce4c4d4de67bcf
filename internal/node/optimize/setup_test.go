package optimize

import (
	"fmt"
	"net/netip"
	"slices"
	"testing"
	"time"

	"kedge/internal/core"
	"kedge/wire"
	"kedge/wire/mobility"
)

// TestSetUp: both tests at once, then the Binding Update; data is direct two round trips after there was traffic.
func TestSetUp(t *testing.T) {
	r := newRig(t, traffic())
	r.away(coa1)
	r.run(sec)
	r.wantMessages() // no traffic, nothing
	r.report(cn)
	r.run(homeRTT - ms)
	r.wantMessages("1s Home Test Init", "1s Care-of Test Init")
	if r.sessionOf(cn) != nil {
		t.Error("a session before the Binding Update")
	}
	r.run(ms)
	r.wantMessages("1s Home Test Init", "1s Care-of Test Init", "1.1s Binding Update")
	// The correspondent may send directly as soon as it has heard; the node does not before it is told that it has.
	if !r.letsIn(cn, coa1) || r.directTo(cn).IsValid() {
		t.Errorf("session %+v", r.sessionOf(cn))
	}
	if s := r.state(cn); s != "moving" {
		t.Errorf("state %s", s)
	}
	r.run(rtt - ms)
	r.wantDirect(cn, netip.Addr{})
	r.run(ms)
	r.wantDirect(cn, coa1)
	if got, want := r.elapsed(), sec+homeRTT+rtt; got != want {
		t.Errorf("direct after %v, want %v", got, want)
	}
	if s := r.state(cn); s != "direct" || r.boundAt(cn) != coa1 {
		t.Errorf("state %s, the correspondent has %v", s, r.boundAt(cn))
	}
	var phase []any
	for _, e := range r.emits {
		if e.Name == "handover" {
			phase = append(phase, e.Fields.(map[string]any)["phase"], e.Fields.(map[string]any)["took_ms"])
		}
	}
	if !slices.Equal(phase, []any{"optimization", 140.0}) {
		t.Errorf("events of handover %v", phase)
	}
}

// TestForms: addresses, headers and contents of the messages (RFC 6275 6.1.3, 6.1.4, 11.7.2).
func TestForms(t *testing.T) {
	r := established(t, traffic())
	none := core.Auth{Kind: "none"}
	hoti, coti, bu := r.sent[0], r.sent[1], r.sent[2]
	away := tunnel
	if want := (core.Path{Local: addrPort(hoa), Remote: addrPort(cn), Outer: away, Auth: none}); hoti.path != want {
		t.Errorf("Home Test Init by %+v, want %+v", hoti.path, want)
	}
	if want := (core.Path{If: 2, Local: addrPort(coa1), Remote: addrPort(cn), Auth: none}); coti.path != want {
		t.Errorf("Care-of Test Init by %+v, want %+v", coti.path, want)
	}
	if want := (core.Path{If: 2, Local: addrPort(coa1), Remote: addrPort(cn), Own: hoa, Auth: none}); bu.path != want {
		t.Errorf("Binding Update by %+v, want %+v", bu.path, want)
	}
	h, c := hoti.body.(*mobility.TestInit), coti.body.(*mobility.TestInit)
	if h.CareOf || !c.CareOf || h.Cookie == c.Cookie || h.Cookie == [8]byte{} {
		t.Errorf("test inits %+v, %+v", h, c)
	}
	msg := r.parse(bu.raw, hoa, cn)
	b := msg.Body.(*mobility.BindingUpdate)
	if b.Flags != mobility.BUAck || b.Lifetime != 105 {
		t.Errorf("Binding Update %+v", b)
	}
	if _, ok := b.Options.NonceIndices(); !ok || !b.Options.Has(mobility.OptBindingAuthorization) || b.Options.Has(mobility.OptAlternateCareOf) {
		t.Errorf("options %+v", slices.Collect(b.Options.Values()))
	}
	match := core.Match{Src: single(hoa), Dst: single(cn)}
	chain := core.Chain{RO: 1, Layer: [2]core.Layer{{Local: addrPort(coa1), Remote: addrPort(cn)}}}
	id := r.m.list[0].id
	want := []core.Op{
		core.SetSession{ID: id, Chain: chain, Grace: MaxBindingLifetime},
		core.SetKey{Match: match, ID: id, Down: true},
		core.SetKey{Match: match, ID: id, Up: true, Down: true},
	}
	if !slices.Equal(r.ops, want) {
		t.Errorf("operations\n%+v, want\n%+v", r.ops, want)
	}
}

// TestLifetime: no longer than the registration at the home agent lives, and what the correspondent grants counts from the sending.
func TestLifetime(t *testing.T) {
	r := newRig(t, traffic())
	p := Place{At: Away, Home: hoa, Anchor: ha, CareOf: coa1, If: 2, Tunnel: tunnel, Own: []netip.Addr{coa1}, Until: r.now.Boot + 101*sec}
	r.at(p)
	r.report(cn)
	r.run(homeRTT + rtt)
	e := r.m.find(cn)
	if e.bind.lifetime != 100*sec || e.bind.expires != begin+homeRTT+100*sec {
		t.Errorf("lifetime %v, until %v", e.bind.lifetime, e.bind.expires-begin)
	}
	// So little is left that it is not worth it; more is, as soon as there is.
	r = newRig(t, traffic())
	p.Until = r.now.Boot + 7*sec
	r.at(p)
	r.report(cn)
	r.run(sec)
	r.wantMessages()
	p.Until = r.now.Boot + time.Hour
	r.at(p)
	r.wantMessages("1s Home Test Init", "1s Care-of Test Init")
}

// TestLoss: each message lost once costs its retransmission timer, and no more.
func TestLoss(t *testing.T) {
	for _, c := range []struct {
		dir  string
		typ  mobility.Type
		when time.Duration
	}{
		{"out", mobility.TypeHomeTestInit, sec + homeRTT + rtt},
		{"in", mobility.TypeHomeTest, sec + homeRTT + rtt},
		{"out", mobility.TypeCareOfTestInit, sec + rtt + rtt},
		{"in", mobility.TypeCareOfTest, sec + rtt + rtt},
		{"out", mobility.TypeBindingUpdate, homeRTT + sec + rtt},
		{"in", mobility.TypeBindingAck, homeRTT + sec + rtt},
	} {
		t.Run(fmt.Sprint(c.typ), func(t *testing.T) {
			r := newRig(t, traffic())
			lost := false
			r.drop = func(dir string, b mobility.Message) bool {
				hit := dir == c.dir && isType(b, c.typ) && !lost
				lost = lost || hit
				return hit
			}
			r.away(coa1)
			r.report(cn)
			r.run(c.when - 1)
			r.wantDirect(cn, netip.Addr{})
			r.run(1)
			r.wantDirect(cn, coa1)
			if !lost {
				t.Fatal("nothing was lost")
			}
			if len(r.sent) != 4 {
				t.Errorf("sent %v", r.messages())
			}
			if c.typ == mobility.TypeBindingAck && r.sent[2].body.(*mobility.Authorized).Message.(*mobility.BindingUpdate).Sequence+1 !=
				r.sent[3].body.(*mobility.Authorized).Message.(*mobility.BindingUpdate).Sequence {
				t.Error("a repeated Binding Update has no number of its own (11.8)")
			}
			seen := map[[8]byte]bool{}
			for _, s := range r.sent {
				if ti, ok := s.body.(*mobility.TestInit); ok {
					if seen[ti.Cookie] {
						t.Error("a repeated test init has the same cookie (11.8)")
					}
					seen[ti.Cookie] = true
				}
			}
		})
	}
}

// TestNoAnswer: after MAX_RO_FAILURE retransmissions with doubled timeouts the correspondent is left alone, for longer each time.
func TestNoAnswer(t *testing.T) {
	for _, c := range []struct {
		name string
		typ  mobility.Type
		want []string
		held time.Duration // when it is given up
		try  time.Duration // how long one try takes
	}{
		{"home test", mobility.TypeHomeTest, []string{"0s Home Test Init", "0s Care-of Test Init", "1s Home Test Init", "3s Home Test Init", "7s Home Test Init"}, 15 * sec, 15 * sec},
		{"care-of test", mobility.TypeCareOfTest, []string{"0s Home Test Init", "0s Care-of Test Init", "1s Care-of Test Init", "3s Care-of Test Init", "7s Care-of Test Init"}, 15 * sec, 15 * sec},
		{"acknowledgement", mobility.TypeBindingAck, []string{"0s Home Test Init", "0s Care-of Test Init", "100ms Binding Update", "1.1s Binding Update",
			// It may have heard them, and may answer nothing of what is said through the home agent either.
			"3.1s Binding Update", "4.1s Binding Update", "6.1s Binding Update", "10.1s Binding Update"}, 3*sec + homeRTT, 3 * sec},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := newRig(t, traffic())
			r.drop = func(dir string, b mobility.Message) bool { return dir == "in" && isType(b, c.typ) }
			r.away(coa1)
			for range 15 {
				r.report(cn)
				r.run(sec)
			}
			r.run(15*sec + homeRTT - r.elapsed())
			r.wantMessages(c.want...)
			if s := r.state(cn); s != "held" {
				t.Errorf("state %s", s)
			}
			r.wantDirect(cn, netip.Addr{})
			if c.typ == mobility.TypeBindingAck && (!r.letsIn(cn, coa1) || r.boundAt(cn).IsValid()) {
				t.Errorf("what the correspondent may send is not let in, or it goes on sending to %v", r.boundAt(cn))
			}
			if r.reason(wire.NoAnswer) != 1 {
				t.Errorf("counters %v", r.m.Counters())
			}
			// Traffic brings it up again after the wait, of 30 s and then of 60 s.
			r.forget()
			talk := func(d time.Duration) {
				for end := r.now.Boot + d; r.now.Boot < end; {
					r.report(cn)
					r.run(min(sec, end-r.now.Boot))
				}
			}
			talk(c.held + holdFirst - ms - r.elapsed())
			r.wantMessages()
			talk(ms)
			if len(r.sent) == 0 {
				t.Fatal("not tried again")
			}
			r.run(16 * sec)
			r.forget()
			talk(c.held + holdFirst + c.try + 2*holdFirst - ms - r.elapsed())
			if s := r.state(cn); s != "held" || len(r.sent) != 0 {
				t.Errorf("state %s, sent %v", s, r.messages())
			}
			r.drop = nil
			talk(3 * sec)
			r.wantDirect(cn, coa1)
			if r.m.find(cn).fails != 0 {
				t.Error("failures are not forgotten")
			}
		})
	}
}

// TestLateAnswer: where a round trip takes longer than the first timeout, the answer to the first test init counts.
func TestLateAnswer(t *testing.T) {
	r := newRig(t, traffic())
	r.late = func(dir string, b mobility.Message) time.Duration {
		if dir == "in" {
			return 1500 * ms
		}
		return 0
	}
	r.away(coa1)
	r.report(cn)
	r.run(1500*ms + homeRTT)
	if n := len(r.sent); n != 5 || !isType(r.sent[4].body, mobility.TypeBindingUpdate) {
		t.Fatalf("sent %v", r.messages())
	}
	r.run(1500*ms + rtt)
	r.wantDirect(cn, coa1)
	// The answers to what was repeated come too late to change anything.
	r.run(10 * sec)
	r.wantDirect(cn, coa1)
	if r.reason(wire.Unsolicited) == 0 {
		t.Error("late answers are not counted")
	}
}
