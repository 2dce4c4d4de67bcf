package node

import (
	"net/netip"
	"slices"
	"testing"
	"time"

	"kedge/internal/core"
	"kedge/internal/spec"
	"kedge/wire"
	"kedge/wire/mobility"
)

// v6rig is a node that is bound over IPv6.
func v6rig(t *testing.T, change func(*Config)) (*rig, *netw) {
	t.Helper()
	r := newRig(t, change)
	n := r.net(1, "2001:db8:1::7")
	r.show(n)
	r.run(50 * ms)
	if !r.ok() {
		t.Fatalf("not bound: %s", r.story())
	}
	return r, n
}

// answerPath is the way on which the home agent answers natively.
func answerPath(n *netw) core.Path {
	return core.Path{If: n.care.If, Local: addrPort(n.care.Addr), Remote: addrPort(ha6), Own: hoa6, Auth: core.Auth{Kind: "esp", Peer: "ha1"}}
}

// TestBadAcknowledgements: each changes nothing and is counted with its reason.
func TestBadAcknowledgements(t *testing.T) {
	spec.Covers(t, "S004-3.3-19")
	for _, c := range []struct {
		name   string
		path   func(*core.Path)
		ba     func(*mobility.BindingAck)
		reason wire.Reason
	}{
		{"wrong sequence number", nil, func(b *mobility.BindingAck) { b.Sequence += 5 }, wire.SequenceMismatch},
		{"old sequence number", nil, func(b *mobility.BindingAck) { b.Sequence -= 5 }, wire.SequenceOld},
		{"not protected", func(p *core.Path) { p.Auth = core.Auth{Kind: "none"} }, nil, wire.NotAuthorized},
		{"protected by another's key", func(p *core.Path) { p.Auth.Peer = "ha2" }, nil, wire.NotAuthorized},
		{"of another kind of protection", func(p *core.Path) { p.Auth.Kind = "rfc4285" }, nil, wire.NotAuthorized},
		{"for another home address", func(p *core.Path) { p.Own = netip.MustParseAddr("2001:db8:2000::6") }, nil, wire.UnknownHome},
		{"without a routing header", func(p *core.Path) { p.Own = netip.Addr{} }, nil, wire.UnknownHome},
		{"from a stranger", func(p *core.Path) { p.Remote = addrPort(netip.MustParseAddr("2001:db8:bad::1")) }, nil, wire.UnknownPeer},
		{"to another care-of address", func(p *core.Path) { p.Local = addrPort(netip.MustParseAddr("2001:db8:1::8")) }, nil, wire.WrongTunnel},
		{"by another tunnel", func(p *core.Path) { p.Outer.N, p.Outer.Layer[0].Local = 1, netip.MustParseAddrPort("192.0.2.7:4191") }, nil, wire.WrongTunnel},
		{"proxy flag", nil, func(b *mobility.BindingAck) { b.Flags = mobility.BAProxy }, wire.NotForUs},
		{"135 that was overtaken", nil, func(b *mobility.BindingAck) { b.Status, b.Sequence = 135, b.Sequence-1 }, wire.SequenceOld},
		{"135 without protection", func(p *core.Path) { p.Auth = core.Auth{} }, func(b *mobility.BindingAck) { b.Status, b.Sequence = 135, b.Sequence+9 }, wire.NotAuthorized},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := newRig(t, nil)
			n := r.net(1, "2001:db8:1::7")
			r.agent.down = true
			r.show(n)
			seq := r.m.seq
			p, ba := answerPath(n), &mobility.BindingAck{Sequence: seq, Lifetime: 150}
			if c.path != nil {
				c.path(&p)
			}
			if c.ba != nil {
				c.ba(ba)
			}
			r.forget()
			r.handle(core.Message{Path: p, Body: ba})
			r.wantState(registering)
			if r.m.counts[string(c.reason)] != 1 || len(r.emits) != 1 || r.emits[0].Name != "message-ignored" || r.emits[0].Why != string(c.reason) {
				t.Errorf("counted %v, told %+v; want %s", r.m.counts, r.emits, c.reason)
			}
			if r.m.seq != seq || len(r.sent) != 0 {
				t.Errorf("the sequence number became %d, sent %v", r.m.seq, r.sent)
			}
			r.handle(core.Message{Path: answerPath(n), Body: &mobility.BindingAck{Sequence: seq, Lifetime: 150}})
			r.wantState(active)
		})
	}
}

func TestUnsolicited(t *testing.T) {
	r, n := v6rig(t, nil)
	bind := r.m.bind
	r.forget()
	for i, body := range []any{
		&mobility.BindingAck{Sequence: r.m.seq + 1, Lifetime: 1}, &mobility.BindingAck{Sequence: r.m.seq - 1}, &mobility.BindingAck{Sequence: r.m.seq + 1, Status: 135},
		&mobility.BindingAck{Sequence: r.m.seq}, // once more
		&mobility.BindingUpdate{}, &mobility.Heartbeat{}, nil,
	} {
		r.handle(core.Message{Path: answerPath(n), Body: body})
		if r.m.bind != bind || r.m.state != active || len(r.sent) != 0 {
			t.Fatalf("message %d changed something: %+v, sent %v", i, r.m.bind, r.sent)
		}
	}
	if r.m.counts["unsolicited"] != 3 || r.m.counts["sequence-out-of-window"] != 1 || r.m.counts["unsupported-message"] != 3 {
		t.Errorf("counted %v", r.m.counts)
	}
}

// TestUnreadable: errors of decoding are counted; a type that is not known is answered to the home agent, once a second.
func TestUnreadable(t *testing.T) {
	r, n := v6rig(t, nil)
	r.forget()
	bad := &wire.Error{Msg: "Binding Acknowledgement", Reason: wire.BadChecksum}
	r.handle(core.Message{Path: answerPath(n), Err: bad})
	unknown := core.Message{Path: answerPath(n), Body: &mobility.Raw{}, Err: &wire.Error{Reason: wire.UnknownType}}
	r.handle(unknown)
	r.handle(unknown)
	stranger := unknown
	stranger.Path.Remote = addrPort(netip.MustParseAddr("2001:db8:bad::1"))
	r.handle(stranger)
	if r.m.counts["bad-checksum"] != 1 || r.m.counts["unknown-type"] != 3 {
		t.Errorf("counted %v", r.m.counts)
	}
	if len(r.sent) != 1 {
		t.Fatalf("answers: %+v", r.sent)
	}
	if be, ok := r.sent[0].Body.(*mobility.BindingError); !ok || be.Status != mobility.UnrecognizedMHType || r.sent[0].Path.Remote.Addr() != ha6 {
		t.Errorf("answer %+v", r.sent[0])
	}
}

func TestRefusals(t *testing.T) {
	for _, c := range []struct {
		status mobility.Status
		reason wire.Reason
		retry  []time.Duration // Binding Updates while the refusal lasts
	}{
		{128, wire.RefusedByAnchor, []time.Duration{0, 2020 * ms, 6040 * ms, 14060 * ms, 30080 * ms}},
		{129, wire.ServiceDisabled, []time.Duration{0, 32020 * ms}},
		{130, wire.SessionLimit, []time.Duration{0, 2020 * ms, 6040 * ms, 14060 * ms, 30080 * ms}},
		{131, wire.ServiceDisabled, []time.Duration{0, 32020 * ms}},
		{132, wire.PrefixNotAuthorized, []time.Duration{0, 32020 * ms}},
		{133, wire.UnknownSubscriber, []time.Duration{0, 32020 * ms}},
		{134, wire.AddressClaimed, []time.Duration{0}},                  // RFC 6275 11.7.1: the address must not be tried again
		{139, wire.TypeChange, []time.Duration{0, 20 * ms, 32040 * ms}}, // after the first, the former registration is ended
		{143, wire.RefusedByAnchor, []time.Duration{0, 2020 * ms, 6040 * ms, 14060 * ms, 30080 * ms}},
		{144, wire.TimestampMismatch, []time.Duration{0, 2020 * ms, 6040 * ms, 14060 * ms, 30080 * ms}},
		{174, wire.BadSource, []time.Duration{0, 2020 * ms, 6040 * ms, 14060 * ms, 30080 * ms}},
		{250, wire.RefusedByAnchor, []time.Duration{0, 2020 * ms, 6040 * ms, 14060 * ms, 30080 * ms}},
	} {
		t.Run(c.status.String(), func(t *testing.T) {
			r := newRig(t, nil)
			r.agent.status = c.status
			r.show(r.net(1, "2001:db8:1::7"))
			r.run(40 * sec)
			r.wantTimes(c.retry...)
			r.wantState(refused)
			if got := r.m.counts[string(c.reason)]; got != uint64(len(c.retry)) {
				t.Errorf("counted %v, want %s %d times", r.m.counts, c.reason, len(c.retry))
			}
			i := slices.IndexFunc(r.emits, func(e core.Emit) bool { return e.Name == "refused" })
			if i < 0 || r.emits[i].Why != string(c.reason) {
				t.Errorf("told %+v", r.emits)
			}
			if len(r.ops) != 0 || len(r.list()) != 0 {
				t.Error("a refused node forwards, or has an entry")
			}
			// Whoever mends it says so.
			r.agent.status = mobility.Accepted
			if _, err := r.command(core.Roam{}); err != nil {
				t.Fatal(err)
			}
			r.run(50 * ms)
			if !r.ok() {
				t.Errorf("not bound after roam: %v %s", r.m.state, r.story())
			}
		})
	}
}

// TestBarred: after status 134 no network makes the node try its home address again.
func TestBarred(t *testing.T) {
	r := newRig(t, nil)
	r.agent.status = mobility.DADFailed
	a, b := r.net(1, "2001:db8:1::7"), r.net(2, "192.0.2.7")
	r.show(a)
	r.run(sec)
	r.show(b)
	r.run(sec)
	r.show()
	r.run(time.Hour)
	r.show(a, b)
	r.run(time.Hour)
	r.wantTimes(0)
	r.wantState(refused)
}

// TestRefusedRefresh: the binding lives on while the home agent refuses to renew it.
func TestRefusedRefresh(t *testing.T) {
	r, _ := v6rig(t, nil)
	r.agent.status = mobility.InsufficientResources
	r.run(481 * sec)
	r.wantState(refused)
	if !r.m.bound() || !r.m.session.up || len(r.list()) != 2 {
		t.Error("the binding was given up before its end")
	}
	r.agent.status = mobility.Accepted
	r.run(4 * sec)
	r.wantState(active)
}

// TestInvalidCareOf: status 174 concerns one care-of address, the next is tried at once.
func TestInvalidCareOf(t *testing.T) {
	r := newRig(t, nil)
	a, b := r.net(1, "2001:db8:1::7"), r.net(1, "192.0.2.7")
	a.delay = 50 * ms
	r.agent.status = mobility.InvalidCareOf
	r.show(a, b)
	r.run(60 * ms)
	r.agent.status = mobility.Accepted
	r.run(70 * ms)
	r.wantTimes(0, 100*ms)
	if !r.ok() || r.m.bind.careOf.Addr != b.care.Addr {
		t.Errorf("bound to %v: %s", r.m.bind.careOf.Addr, r.story())
	}
}

// TestResync: status 135 names the number to go on from (RFC 6275 11.7.3), also across the wrap.
func TestResync(t *testing.T) {
	for _, has := range []uint16{0, 1, 17000, 0xfffe, 0xffff} {
		r := newRig(t, nil)
		r.m.seq = has - 100
		r.m.acked = r.m.seq
		r.agent.seq, r.agent.seqKnown = has, true
		r.show(r.net(1, "2001:db8:1::7"))
		r.run(50 * ms)
		if _, bu := r.lastUpdate(); bu.Sequence != has+1 || !r.ok() {
			t.Errorf("home agent has %d: sent %d; %s", has, bu.Sequence, r.story())
		}
		r.wantTimes(0, 20*ms)
	}
}

// TestEndlessResync: a home agent that is never content is not asked three times a second for ever.
func TestEndlessResync(t *testing.T) {
	r := newRig(t, nil)
	n := r.net(1, "2001:db8:1::7")
	r.agent.down = true
	r.show(n)
	for range 100 {
		r.handle(core.Message{Path: answerPath(n), Body: &mobility.BindingAck{Status: 135, Sequence: r.m.seq + 10}})
		r.run(sec)
	}
	if us, _ := r.updates(); len(us) > 20 {
		t.Errorf("%d Binding Updates in 100 s", len(us))
	}
}

func TestAcceptedForNoTime(t *testing.T) {
	r := newRig(t, nil)
	r.agent.option = func(_ *mobility.BindingUpdate, ba *mobility.BindingAck) { ba.Lifetime = 0 }
	r.show(r.net(1, "2001:db8:1::7"))
	r.run(40 * sec)
	r.wantTimes(0, 32020*ms)
	r.wantState(refused)
}

func TestRefreshRequestAndBindingError(t *testing.T) {
	r, n := v6rig(t, nil)
	r.run(10 * sec)
	r.forget()
	brr := core.Message{Path: answerPath(n), Body: &mobility.BindingRefreshRequest{}}
	unprotected := brr
	unprotected.Path.Auth = core.Auth{Kind: "none"}
	r.handle(unprotected)
	r.wantState(active)
	r.handle(brr)
	r.handle(brr)
	r.wantState(updating)
	r.run(50 * ms)
	r.wantTimes(10*sec + 50*ms)
	r.wantState(active)

	// A Binding Error can be forged: it may cause a Binding Update every five seconds, no more.
	be := core.Message{Path: answerPath(n), Body: &mobility.BindingError{Status: mobility.UnknownBinding, Home: hoa6}}
	be.Path.Auth = core.Auth{Kind: "none"}
	r.forget()
	for range 200 {
		r.handle(be)
		r.run(50 * ms)
	}
	if _, at := r.updates(); len(at) != 1 && len(at) != 2 {
		t.Errorf("Binding Errors for 10 s caused Binding Updates at %v", at)
	}
	be.Body = &mobility.BindingError{Status: mobility.UnrecognizedMHType}
	r.handle(be)
	r.wantState(active)

	// Without an entry for the source nothing follows.
	q := newRig(t, nil)
	q.handle(brr)
	q.handle(be)
	q.wantState(detached)
	if q.m.counts["unsolicited"] != 2 {
		t.Errorf("counted %v", q.m.counts)
	}
}
