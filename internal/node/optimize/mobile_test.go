package optimize

import (
	"net/netip"
	"slices"
	"testing"

	"kedge/internal/core"
	"kedge/wire/mobility"
)

var (
	theirs  = netip.MustParseAddr("2001:db8:f9::9")
	theirs2 = netip.MustParseAddr("2001:db8:fa::9")
)

// told is the chain that data to a correspondent takes.
func (r *rig) chainTo(a netip.Addr) core.Chain {
	r.t.Helper()
	s := r.sessionOf(a)
	if s == nil || !s.up || !s.down {
		r.t.Errorf("session %+v", s)
		return core.Chain{}
	}
	return s.chain
}

func between(local, remote netip.Addr) core.Chain {
	return core.Chain{RO: 1, Layer: [2]core.Layer{{Local: addrPort(local), Remote: addrPort(remote)}}}
}

// TestBothMoved: what the correspondent did not hear because it was moving as well is repeated as soon as it has registered here.
func TestBothMoved(t *testing.T) {
	r := established(t, traffic())
	r.effects(r.m.Mobile(r.now, cn, theirs, nil))
	r.run(sec)
	away := true
	r.drop = func(string, mobility.Message) bool { return away }
	r.away(coa2)
	r.run(200 * ms)
	away = false
	begun := r.now.Boot
	r.effects(r.m.Mobile(r.now, cn, theirs2, nil))
	r.run(2*rtt + ms)
	if r.directTo(cn) != coa2 {
		t.Errorf("%v after it had moved, it has %v; sent %v", r.now.Boot-begun, r.boundAt(cn), r.messages())
	}
	// A renewal of theirs repeats nothing.
	r.forget()
	r.effects(r.m.Mobile(r.now, cn, theirs2, nil))
	r.run(sec / 2)
	r.wantMessages()
}

// TestBothMobile: the correspondent's binding here and the own one there make one session between two addresses.
func TestBothMobile(t *testing.T) {
	r := newRig(t, traffic())
	r.away(coa1)
	inside := core.Chain{N: 1, RO: 1, Layer: [2]core.Layer{{Local: addrPort(hoa), Remote: addrPort(theirs)}, tunnel.Layer[0]}}
	r.effects(r.m.Mobile(r.now, cn, theirs, nil))
	if got := r.chainTo(cn); got != inside {
		t.Errorf("%+v, want %+v", got, inside)
	}
	if rows := r.m.Bindings(r.now, "n1", ""); len(rows) != 0 || len(r.sent) != 0 {
		t.Errorf("rows %+v, sent %v", rows, r.messages())
	}
	// Traffic has the own end registered as well, at its home address (5.2.9); data never stops.
	r.count = func(core.ID) core.Counter {
		n := uint64(r.elapsed() / sec)
		return core.Counter{PacketsIn: n, PacketsOut: n}
	}
	r.run(2 * watchEvery)
	if got := r.chainTo(cn); got != between(coa1, theirs) {
		t.Errorf("%+v; sent %v", got, r.messages())
	}
	for _, s := range r.sent {
		if s.path.Remote != addrPort(cn) {
			t.Errorf("%v to %v", s, s.path.Remote)
		}
	}
	// It moves.
	r.effects(r.m.Mobile(r.now, cn, theirs2, nil))
	if got := r.chainTo(cn); got != between(coa1, theirs2) {
		t.Errorf("%+v", got)
	}
	// This end moves: through the tunnel until it has the new address.
	r.away(coa2)
	inside = core.Chain{N: 1, RO: 1, Layer: [2]core.Layer{{Local: addrPort(hoa), Remote: addrPort(theirs2)}, r.place.Tunnel.Layer[0]}}
	if got := r.chainTo(cn); got != inside {
		t.Errorf("%+v, want %+v", got, inside)
	}
	r.ops = nil
	r.run(rtt) // the Binding Update leaves: the new address is let in
	if !slices.ContainsFunc(r.ops, func(op core.Op) bool { s, ok := op.(core.SetSession); return ok && s.Chain == between(coa2, theirs2) }) || r.chainTo(cn) != inside {
		t.Errorf("%+v", r.ops)
	}
	r.run(rtt)
	if got := r.chainTo(cn); got != between(coa2, theirs2) {
		t.Errorf("%+v", got)
	}
	// It goes home.
	r.effects(r.m.Mobile(r.now, cn, netip.Addr{}, nil))
	if got := r.chainTo(cn); got != between(coa2, cn) {
		t.Errorf("%+v", got)
	}
	// And away again, while this end is home.
	r.effects(r.m.Mobile(r.now, cn, theirs, nil))
	r.at(Place{At: AtHome, Home: hoa, Anchor: ha, If: 3})
	r.run(sec)
	if got := r.chainTo(cn); got != between(hoa, theirs) || r.boundAt(cn).IsValid() {
		t.Errorf("%+v", got)
	}
	r.effects(r.m.Mobile(r.now, cn, netip.Addr{}, nil))
	r.run(2 * grace)
	if len(r.data) != 0 || len(r.m.list) != 0 {
		t.Errorf("sessions %v, entries %v", r.data, r.m.States())
	}
}

// TestMobileNever: without route optimization of its own a node still sends to where its correspondents are.
func TestMobileNever(t *testing.T) {
	r := newRig(t, Config{})
	r.away(coa1)
	r.effects(r.m.Mobile(r.now, cn, theirs, nil))
	r.count = func(core.ID) core.Counter {
		n := uint64(r.elapsed() / sec)
		return core.Counter{PacketsIn: n, PacketsOut: n}
	}
	r.run(20 * sec)
	if got := r.chainTo(cn); got.N != 1 || len(r.sent) != 0 {
		t.Errorf("%+v, sent %v", got, r.messages())
	}
	r.effects(r.m.Mobile(r.now, cn, netip.Addr{}, nil))
	r.run(2 * sec)
	if len(r.data) != 0 {
		t.Errorf("sessions %v", r.data)
	}
}

// TestMobileRestart: the correspondent goes on with the address that it had when the process ended.
func TestMobileRestart(t *testing.T) {
	r := established(t, traffic())
	r.drop = func(string, mobility.Message) bool { return true }
	r.boot(traffic())
	r.effects(r.m.Mobile(r.now, cn, theirs, nil))
	r.away(coa1)
	if got := r.chainTo(cn); got != between(coa1, theirs) {
		t.Errorf("%+v", got)
	}
}
