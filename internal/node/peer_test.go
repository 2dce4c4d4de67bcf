package node

import (
	"net/netip"
	"testing"

	"kedge/internal/core"
	"kedge/internal/node/optimize"
	"kedge/internal/peer"
	"kedge/wire/mobility"
	"kedge/wire/nd"
)

var (
	otherHome = netip.MustParseAddr("2001:db8:4000::9")
	otherCare = netip.MustParseAddr("2001:db8:f9::9")
)

// fromOther gives the node a message of another mobile node by a path, and gives what it answers.
func (r *rig) fromOther(p core.Path, b mobility.Message) (mobility.Message, core.Path) {
	r.t.Helper()
	src, dst := p.Remote.Addr(), p.Local.Addr()
	if p.Home.IsValid() {
		src = p.Home
	}
	if p.Own.IsValid() {
		dst = p.Own
	}
	raw, err := mobility.Append(nil, b, src, dst)
	if err != nil {
		r.t.Fatal(err)
	}
	body, err := mobility.Parse(raw, src, dst)
	n := len(r.sent)
	r.handle(core.Message{Path: p, Body: body, Err: err, Raw: raw})
	if len(r.sent) != n+1 {
		return nil, core.Path{}
	}
	return r.sent[n].Body.(mobility.Message), r.sent[n].Path
}

// TestCorrespondentAway: a mobile node that is a correspondent as well answers tests by the way they came, binds, and sends through its
// tunnel to where the other one is.
func TestCorrespondentAway(t *testing.T) {
	r := newRig(t, func(c *Config) { c.Peer, c.Optimize = &peer.Config{}, optimize.Config{} })
	v6 := r.net(1, "2001:db8:1::7")
	r.show(v6)
	r.run(20 * ms)
	r.wantState(active)
	tunnel := r.m.session.chain
	r.bindOther(7)
	want := core.Chain{N: 1, RO: 1, Layer: [2]core.Layer{{Local: addrPort(hoa6), Remote: addrPort(otherCare)}, tunnel.Layer[0]}}
	var got core.Chain
	for _, op := range r.ops {
		if s, ok := op.(core.SetSession); ok {
			got = s.Chain
		}
	}
	if got != want || r.m.CareOf(otherHome) != otherCare {
		t.Errorf("session %+v, want %+v", got, want)
	}
	if bs := r.list(); len(bs) != 3 || bs[2].CareOf != otherCare { // two home addresses of the node itself
		t.Errorf("bindings %+v", bs)
	}
	// Data of one that has no binding is answered by a Binding Error, through the tunnel as well.
	stranger := netip.MustParseAddr("2001:db8:bad::1")
	n := len(r.sent)
	r.handle(core.Reported{Reason: "wrong-tunnel", HomeAddress: true, Outer: core.Layer{Local: addrPort(hoa6), Remote: addrPort(stranger)},
		Inner: core.Match{Src: host(stranger.Next()), Dst: host(hoa6)}})
	if len(r.sent) != n+1 || r.sent[n].Path.Outer.N != 1 || r.sent[n].Path.Remote != addrPort(stranger) {
		t.Errorf("sent %+v", r.sent[n:])
	}
	// A Binding Update for another address is not the correspondent's.
	if b, _ := r.fromOther(core.Path{Local: addrPort(v6.care.Addr), Remote: addrPort(otherCare)}, &mobility.TestInit{}); b != nil {
		t.Errorf("a test of a care-of address is answered: %+v", b)
	}
}

// bindOther has another mobile node register with this one, by its tunnel, for the home address that it has now.
func (r *rig) bindOther(seq uint16) {
	r.t.Helper()
	tunnel, own := r.m.session.chain, r.m.hoa()
	home := core.Path{Local: addrPort(own), Remote: addrPort(otherHome), Outer: tunnel}
	care := core.Path{Local: addrPort(own), Remote: addrPort(otherCare), Outer: tunnel}
	hot, by := r.fromOther(home, &mobility.TestInit{Cookie: [8]byte{1}})
	if hot == nil || by.Outer != tunnel || by.Local != home.Local || by.Remote != home.Remote {
		r.t.Fatalf("Home Test %+v by %+v", hot, by)
	}
	cot, _ := r.fromOther(care, &mobility.TestInit{CareOf: true, Cookie: [8]byte{2}})
	h, c := hot.(*mobility.Test), cot.(*mobility.Test)
	update := care
	update.Home = otherHome
	r.ops = nil
	ack, by := r.fromOther(update, &mobility.Authorized{
		Message: &mobility.BindingUpdate{Sequence: seq, Flags: mobility.BUAck, Lifetime: 100}, Nonces: &mobility.NonceIndices{Home: h.NonceIndex, CareOf: c.NonceIndex},
		Key: mobility.BindingKey(h.Token, c.Token), CareOf: otherCare, Peer: own})
	if ack == nil || by.Home != otherHome || by.Outer != tunnel {
		r.t.Fatalf("acknowledgement %+v by %+v", ack, by)
	}
}

// TestCorrespondentRenumbered: bindings for a home address that the node no longer prefers end with it, so that those that are made for
// the next one, and again for the first, have sessions.
func TestCorrespondentRenumbered(t *testing.T) {
	r, n, h := renumbering(t, func(c *Config) { c.Peer, c.Optimize = &peer.Config{}, optimize.Config{} })
	keyed := func() (own netip.Addr) {
		for _, op := range r.ops {
			if k, ok := op.(core.SetKey); ok && k.Match.Dst == host(otherHome) {
				own = k.Match.Src.Addr()
			}
		}
		return own
	}
	r.bindOther(7)
	if keyed() != hoa6 {
		t.Fatalf("%+v", r.ops)
	}
	h.options = nd.Options{info(oldPrefix, 0, 100), info(newPrefix, 1000, 4000)}
	h.tell(n)
	r.run(60 * ms)
	if r.m.hoa() != newHoA || r.m.CareOf(otherHome).IsValid() {
		t.Fatalf("%v, %v", r.m.hoa(), r.m.CareOf(otherHome))
	}
	if bs := r.m.mobiles(""); len(bs) != 0 {
		t.Errorf("left: %+v", bs)
	}
	r.bindOther(7)
	if keyed() != newHoA {
		t.Errorf("%+v", r.ops)
	}
	// The end of a binding for the old one takes nothing from that for the new one, and the way back begins anew.
	h.options = nd.Options{info(oldPrefix, 1000, 4000), info(newPrefix, 0, 100)}
	r.run(5 * sec)
	h.tell(n)
	r.run(60 * ms)
	if r.m.hoa() != hoa6 || r.m.CareOf(otherHome).IsValid() {
		t.Fatalf("%v, %v", r.m.hoa(), r.m.CareOf(otherHome))
	}
	r.bindOther(8)
	if keyed() != hoa6 {
		t.Errorf("%+v", r.ops)
	}
}
