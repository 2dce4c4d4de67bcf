package node

import (
	"testing"
	"time"

	"kedge/internal/core"
	"kedge/internal/ipsec/rfc4285"
	"kedge/wire/mobility"
)

// stampRig is a node whose home agent wants the message-id option of RFC 4285 6, by a clock that is off by that much.
func stampRig(t *testing.T, off time.Duration) (*rig, *netw) {
	r := newRig(t, func(c *Config) { c.Anchor.Protection = protectionRFC4285 })
	r.agent.auth = core.Auth{Kind: protectionRFC4285, Peer: "ha1"}
	var last uint64
	r.agent.judge = func(bu *mobility.BindingUpdate, ba *mobility.BindingAck) {
		id, ok := bu.Options.MessageID()
		if !ok {
			ba.Status = mobility.MIPv6MsgIDRequired
			return
		}
		echo, bad := rfc4285.Judge(id.Timestamp, last, r.now.Wall.Add(off), 0)
		if bad != "" {
			ba.Status = mobility.IDMismatch
		} else if ba.Status.Accepted() {
			last = id.Timestamp
		}
		ba.Options = ba.Options.Add(mobility.MessageID{Timestamp: echo})
	}
	return r, r.net(1, "2001:db8:1::7")
}

// TestTimestamps: asked for by status 145 they are sent, put right by status 144, and right from then on.
func TestTimestamps(t *testing.T) {
	for _, off := range []time.Duration{0, time.Hour, -30 * 24 * time.Hour, -6 * sec} {
		r, n := stampRig(t, off)
		r.show(n)
		r.run(100 * ms)
		want := []time.Duration{0, 20 * ms}
		if off < -7*sec || off > 7*sec {
			want = append(want, 40*ms)
		}
		r.wantTimes(want...)
		if !r.ok() {
			t.Fatalf("off by %v: %s", off, r.story())
		}
		r.forget()
		r.run(time.Hour)
		if us, _ := r.updates(); len(us) != 7 || !r.ok() { // one each 480 s
			t.Errorf("off by %v: %d refreshes", off, len(us))
		}
		// A deregistration has one as well.
		r.handle(core.Command{Ref: 1, Body: core.Stop{}})
		r.run(100 * ms)
		r.wantState(stopped)
		if r.agent.bound() {
			t.Error("the home agent has a binding")
		}
	}
}

// TestTimestampsNeverRight: a home agent that is not content is not asked at once for ever.
func TestTimestampsNeverRight(t *testing.T) {
	r, n := stampRig(t, 0)
	r.agent.judge = func(bu *mobility.BindingUpdate, ba *mobility.BindingAck) {
		ba.Status = mobility.IDMismatch
		if _, ok := bu.Options.MessageID(); !ok {
			ba.Status = mobility.MIPv6MsgIDRequired
		}
	}
	r.show(n)
	r.run(10 * time.Minute)
	if us, _ := r.updates(); len(us) > 30 {
		t.Errorf("%d Binding Updates in 10 minutes", len(us))
	}
	r.wantState(refused)
}

// TestTimestampOrUDP: with a timestamp, status 144 is about UDP only if the timestamp was good.
func TestTimestampOrUDP(t *testing.T) {
	for _, off := range []time.Duration{0, time.Hour} {
		r, _ := stampRig(t, off)
		r.m.cfg.ForceUDP = true
		if off == 0 {
			judge := r.agent.judge
			r.agent.judge = func(bu *mobility.BindingUpdate, ba *mobility.BindingAck) {
				judge(bu, ba)
				if ba.Status.Accepted() && bu.Flags&mobility.BUForceUDP != 0 {
					ba.Status = mobility.IDMismatch
				}
			}
		}
		r.show(r.net(1, "192.0.2.7"))
		r.run(100 * ms)
		if _, bu := r.lastUpdate(); !r.ok() || (bu.Flags&mobility.BUForceUDP == 0) != (off == 0) || r.m.refusesUDP != (off == 0) {
			t.Errorf("off by %v: flags %v; %s", off, bu.Flags, r.story())
		}
	}
}

// TestReplayedAnswer: an answer with the right sequence number, but another timestamp than ours or none, is of an earlier round
// of the numbers.
func TestReplayedAnswer(t *testing.T) {
	r, n := stampRig(t, 0)
	r.show(n)
	r.run(time.Second)
	r.agent.down = true
	r.handle(core.Command{Ref: 1, Body: core.Roam{}})
	r.run(481 * sec)
	p := answerPath(n)
	p.Auth = r.agent.auth
	seq := r.m.seq
	for _, o := range []mobility.Options{nil, mobility.Options{}.Add(mobility.MessageID{Timestamp: 1})} {
		r.handle(core.Message{Path: p, Body: &mobility.BindingAck{Sequence: seq, Lifetime: 150, Options: o}})
		r.wantState(updating)
	}
	if r.m.counts["timestamp-mismatch"] != 2 {
		t.Errorf("counted %v", r.m.counts)
	}
	r.handle(core.Message{Path: p, Body: &mobility.BindingAck{Sequence: seq, Lifetime: 150,
		Options: mobility.Options{}.Add(mobility.MessageID{Timestamp: r.m.sent[len(r.m.sent)-1].stamp})}})
	r.wantState(active)
}
