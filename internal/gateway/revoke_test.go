package gateway

import (
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"

	"kedge/internal/access"
	"kedge/internal/core"
	"kedge/internal/spec"
	"kedge/wire"
	"kedge/wire/ether"
	"kedge/wire/mobility"
	"kedge/wire/nd"
)

// bri is a Binding Revocation Indication; zero values name the session of bind.
type bri struct {
	trigger   uint8 // 0 = handover, same access type
	seq       uint16
	noP, v, g bool
	id        string
	noID      bool
	hnp       []netip.Prefix // nil = hnp; empty = none
	more      []mobility.Value
	stamp     uint64 // 0 = none
	ll        []byte
}

func (r bri) message() *mobility.Revocation {
	set(&r.trigger, mobility.TriggerHandoverSameType)
	set(&r.seq, 500)
	set(&r.id, idA)
	m := &mobility.Revocation{Code: r.trigger, Sequence: r.seq, Proxy: !r.noP, IPv4Only: r.v, Global: r.g}
	if !r.noID {
		m.Options = m.Options.Add(mobility.MobileNodeID{Subtype: 1, ID: r.id})
	}
	if r.hnp == nil && !r.v {
		r.hnp = []netip.Prefix{hnp}
	}
	for _, p := range r.hnp {
		m.Options = m.Options.Add(mobility.HomeNetworkPrefix{Prefix: p})
	}
	m.Options = m.Options.Add(r.more...)
	if r.stamp != 0 {
		m.Options = m.Options.Add(mobility.Timestamp{Value: r.stamp})
	}
	if r.ll != nil {
		m.Options = m.Options.Add(mobility.LinkLayerID{ID: r.ll})
	}
	return m
}

// bras takes the acknowledgements since message n.
func (b *bench) bras(n int) (all []*mobility.Revocation) {
	for _, s := range b.out[n:] {
		if r, ok := s.body.(*mobility.Revocation); ok && r.Ack {
			if s.to != lmaa || s.from != coa {
				b.t.Errorf("acknowledged from %v to %v", s.from, s.to)
			}
			all = append(all, r)
		}
	}
	return all
}

// revoke delivers an indication and wants one acknowledgement with a status.
func (b *bench) revoke(r bri, status uint8) *mobility.Revocation {
	b.t.Helper()
	n := len(b.out)
	b.receive(lmaa, r.message())
	as := b.bras(n)
	if len(as) != 1 || as[0].Code != status {
		b.t.Fatalf("acknowledged %+v, want status %d", as, status)
	}
	return as[0]
}

func stampOf(u update) uint64 { v, _ := u.Options.Timestamp(); return v.Value }

// bindStamped is bind, with the Timestamp of the registration.
func (b *bench) bindStamped(mac core.MAC) uint64 {
	b.t.Helper()
	b.mld(3, mac)
	u := b.pbu()
	b.answer(u, reply{})
	b.state(mac, active)
	return stampOf(u)
}

// TestRevokedAfterHandover: the session is gone at once, nothing is said to the anchor but the acknowledgement and nothing
// to the host that is elsewhere; its next sign is an ordinary attachment.
func TestRevokedAfterHandover(t *testing.T) {
	spec.Covers(t, "RFC5846-9.1", "RFC5846-6.1.2", "RFC5846-5.2")
	for _, trigger := range []uint8{mobility.TriggerHandoverSameType, mobility.TriggerHandoverOtherType, mobility.TriggerOutOfSync} {
		b := newBench(t, testConfig())
		stamp := b.bindStamped(macA)
		b.until(10 * sec)
		ras, frames := len(b.ras(0)), len(b.frames)
		a := b.revoke(bri{trigger: trigger, seq: 77, stamp: stamp, ll: macA[:]}, mobility.RevocationSuccess)
		id, ok := a.Options.MobileNodeID()
		if a.Sequence != 77 || !a.Proxy || a.IPv4Only || a.Global || !ok || id.ID != idA {
			t.Errorf("acknowledged %+v", a)
		}
		b.none()
		b.state(macA, gone)
		if len(b.keys()) != 0 {
			t.Errorf("still forwarded: %v", b.keys())
		}
		// The drop comes before the acknowledgement.
		drop, ack := slices.Index(b.order, "core.Forward"), len(b.order)
		for i, k := range b.order {
			if k == "core.Forward" {
				drop = i
			}
			if k == "core.Send" {
				ack = i
			}
		}
		if drop > ack {
			t.Error("acknowledged before it was done")
		}
		for _, f := range b.frames[frames:] { // one question, and no word about addresses
			if _, q := f.Body.(*nd.NeighborSolicitation); !q {
				if _, q := f.Body.(*ether.ARP); !q {
					t.Errorf("told the host %s", f.Kind())
				}
			}
		}
		b.until(14 * sec)
		if len(b.ras(0)) != ras {
			t.Error("advertisements go on, or withdraw")
		}
		b.none()
		b.data(3, macA, hoa.Addr())
		u := b.pbu()
		if u.Lifetime == 0 || u.handoff() != mobility.HandoffUnknown {
			t.Errorf("attached with %v", u)
		}
		b.answer(u, reply{})
		b.state(macA, active)
		if len(b.keys()) != 2 {
			t.Errorf("forwarded: %v", b.keys())
		}
	}
}

// TestRevokedButBack: an indication about an older registration than the newest changes nothing, however late it is.
func TestRevokedButBack(t *testing.T) {
	spec.Covers(t, "RFC5846-9.1")
	t.Run("accepted since", func(t *testing.T) {
		b := newBench(t, testConfig())
		old := b.bindStamped(macA)
		b.until(18 * sec)
		newer := b.pbu() // the refresh
		b.revoke(bri{stamp: old}, mobility.RevocationNodeAttached)
		b.state(macA, refreshing)
		b.answer(newer, reply{})
		for range 2 {
			b.revoke(bri{stamp: old}, mobility.RevocationNodeAttached)
			b.state(macA, active)
		}
		if len(b.keys()) != 2 {
			t.Errorf("forwarded: %v", b.keys())
		}
		b.counted(wire.RegisteredSince, 3)
		b.revoke(bri{stamp: stampOf(newer)}, mobility.RevocationSuccess)
		b.state(macA, gone)
	})
	t.Run("asked again since", func(t *testing.T) {
		b := newBench(t, testConfig())
		old := b.bindStamped(macA)
		b.revoke(bri{stamp: old}, mobility.RevocationSuccess)
		b.until(ms)
		b.mld(3, macA)
		u := b.pbu()
		b.revoke(bri{stamp: old, seq: 501}, mobility.RevocationNodeAttached)
		b.revoke(bri{stamp: old, seq: 501, ll: macA[:]}, mobility.RevocationNodeAttached)
		b.state(macA, registering)
		b.answer(u, reply{})
		b.state(macA, active)
		b.revoke(bri{stamp: old, seq: 501}, mobility.RevocationNodeAttached)
		b.state(macA, active)
	})
	t.Run("the same, whose acceptance was lost", func(t *testing.T) {
		b := newBench(t, testConfig())
		b.mld(3, macA)
		u := b.pbu()
		b.revoke(bri{stamp: stampOf(u)}, mobility.RevocationSuccess)
		b.state(macA, gone)
		b.until(10 * sec)
		b.none() // no retransmission takes the session back
		b.answer(u, reply{})
		b.counted(wire.Unsolicited, 1)
		b.state(macA, gone)
	})
	t.Run("a refresh whose acceptance was lost", func(t *testing.T) {
		b := newBench(t, testConfig())
		b.bindStamped(macA)
		b.until(18 * sec)
		u := b.pbu()
		b.revoke(bri{stamp: stampOf(u)}, mobility.RevocationSuccess)
		b.state(macA, gone)
		b.answer(u, reply{})
		b.state(macA, gone)
	})
}

// TestForgedRevocations: whatever is not an anchor's word about a session of its own changes nothing.
func TestForgedRevocations(t *testing.T) {
	spec.Covers(t, "RFC5846-6.2.1", "RFC5846-6.2")
	two := testConfig()
	two.Anchors = append(two.Anchors, Anchor{Name: "lma2", Address: lmaa2, Dialect: RFC5844})
	b := newBench(t, two)
	stamp := b.bindStamped(macA)
	b.until(10 * sec)
	good := bri{stamp: stamp}
	unchanged := func(name string) {
		t.Helper()
		b.state(macA, active)
		b.none()
		if len(b.keys()) != 2 {
			t.Fatalf("%s: forwarded %v", name, b.keys())
		}
	}
	n := len(b.out)
	b.receive(netip.MustParseAddr("2001:db8:bad::1"), good.message())
	b.counted(wire.UnknownPeer, 1)
	b.do(core.Message{Path: core.Path{Local: netip.AddrPortFrom(lmaa2, 0), Remote: netip.AddrPortFrom(lmaa, 0)}, Body: good.message()})
	b.counted(wire.UnknownPeer, 2)
	ack := good.message()
	ack.Ack = true
	b.receive(lmaa, ack)
	b.counted(wire.Unsolicited, 1)
	if len(b.out) != n {
		t.Errorf("strangers are answered: %+v", b.out[n:])
	}
	unchanged("strangers")
	b.receive(lmaa2, good.message()) // an anchor, but not of this session
	if last, _ := b.out[len(b.out)-1].body.(*mobility.Revocation); last == nil || last.Code != mobility.RevocationNoBinding {
		t.Errorf("another anchor is answered %+v", last)
	}
	unchanged("another anchor")
	for name, c := range map[string]struct {
		r      bri
		status uint8
		reason wire.Reason
	}{
		"another host":            {bri{id: idB}, mobility.RevocationNoBinding, wire.UnknownHost},
		"no identifier":           {bri{noID: true}, mobility.RevocationNoBinding, wire.MissingMNID},
		"another prefix":          {bri{hnp: []netip.Prefix{netip.MustParsePrefix("2001:db8:1000:7::/64")}}, mobility.RevocationNoBinding, wire.UnknownHost},
		"a longer prefix":         {bri{hnp: []netip.Prefix{netip.MustParsePrefix("2001:db8:1000::/65")}}, mobility.RevocationNoBinding, wire.UnknownHost},
		"another interface":       {bri{ll: macB[:]}, mobility.RevocationNoBinding, wire.UnknownHost},
		"another address":         {bri{v: true, more: []mobility.Value{mobility.IPv4HomeAddressRequest{PrefixLen: 16, Addr: rtr4}}}, mobility.RevocationNoBinding, wire.UnknownHost},
		"V without an address":    {bri{v: true}, mobility.RevocationIPv4HomeRequired, wire.BadValue},
		"no P":                    {bri{noP: true}, mobility.RevocationNoBinding, wire.NotProxy},
		"all of a peer":           {bri{g: true, trigger: mobility.TriggerPeerPolicy, noID: true, hnp: []netip.Prefix{}}, mobility.RevocationFunctionNotSupported, wire.UnsupportedMessage},
		"G for one host":          {bri{g: true}, mobility.RevocationFunctionNotSupported, wire.UnsupportedMessage},
		"a trigger for G":         {bri{trigger: mobility.TriggerLocalPolicy}, mobility.RevocationFunctionNotSupported, wire.BadValue},
		"an unassigned trigger":   {bri{trigger: 8}, mobility.RevocationTriggerNotSupported, wire.BadValue},
		"a trigger for tests":     {bri{trigger: 250}, mobility.RevocationTriggerNotSupported, wire.BadValue},
		"replayed, too old":       {bri{stamp: stamp - 1}, mobility.RevocationNodeAttached, wire.RegisteredSince},
		"replayed, of a year ago": {bri{stamp: mobility.TimestampOf(wall.AddDate(-1, 0, 0)).Value}, mobility.RevocationNodeAttached, wire.RegisteredSince},
	} {
		set(&c.r.stamp, stamp)
		before := b.m.counts[string(c.reason)]
		a := b.revoke(c.r, c.status)
		if a.Proxy == c.r.noP || a.IPv4Only != c.r.v || a.Global != c.r.g {
			t.Errorf("%s: flags %+v", name, a)
		}
		b.counted(c.reason, before+1)
		unchanged(name)
	}
	b.revoke(good, mobility.RevocationSuccess)
	b.revoke(good, mobility.RevocationNoBinding) // the copy
	b.none()
}

// TestRevokedByForeignAnchor: without the Timestamp the host is asked before it is believed to have left.
func TestRevokedByForeignAnchor(t *testing.T) {
	spec.Covers(t, "RFC5846-9.1")
	setup := func(t *testing.T) *bench {
		b := newBench(t, testConfig())
		b.bind(3, macA)
		b.until(10 * sec)
		return b
	}
	t.Run("it left", func(t *testing.T) {
		b := setup(t)
		n, f := len(b.out), len(b.frames)
		b.receive(lmaa, bri{seq: 9}.message())
		b.receive(lmaa, bri{seq: 9}.message()) // doubled
		if len(b.frames)-f != 2 || len(b.bras(n)) != 0 {
			t.Fatalf("%d questions, want the ARP Request and the Neighbor Solicitation once; %+v", len(b.frames)-f, b.bras(n))
		}
		b.until(10*sec + RevokeProbe - 1)
		b.state(macA, active)
		b.until(10*sec + RevokeProbe)
		as := b.bras(n)
		if len(as) != 1 || as[0].Code != mobility.RevocationSuccess || as[0].Sequence != 9 {
			t.Fatalf("%+v", as)
		}
		b.state(macA, gone)
		b.none()
	})
	t.Run("its link is down", func(t *testing.T) {
		b := setup(t)
		b.do(core.HostChanged{Op: core.HostOp{Kind: "link", If: 3}})
		b.revoke(bri{}, mobility.RevocationSuccess)
		b.state(macA, gone)
	})
	t.Run("only supposed", func(t *testing.T) { // with a Timestamp too
		for _, here := range []bool{true, false} {
			b := newBench(t, testConfig())
			stamp := b.bindStamped(macA)
			b.until(10 * sec)
			n := len(b.out)
			b.receive(lmaa, bri{trigger: mobility.TriggerHandoverUnknown, stamp: stamp}.message())
			if len(b.bras(n)) != 0 {
				t.Fatal("believed at once")
			}
			want := mobility.RevocationSuccess
			if here {
				b.answers(macA)
				want = mobility.RevocationNodeAttached
			}
			b.until(b.now.Boot + RevokeProbe)
			if as := b.bras(n); len(as) != 1 || as[0].Code != want {
				t.Errorf("here %v: %+v", here, as)
			}
		}
	})
	t.Run("its extension is due meanwhile", func(t *testing.T) {
		for _, here := range []bool{true, false} {
			b := newBench(t, testConfig())
			stamp := b.bindStamped(macA)
			b.until(b.m.hosts[macA].refreshAt - 100*ms)
			n := len(b.out)
			b.receive(lmaa, bri{trigger: mobility.TriggerHandoverUnknown, stamp: stamp}.message())
			b.until(b.now.Boot + 200*ms)
			if len(b.out) != n {
				t.Fatalf("here %v: sent %v while the host is asked", here, b.out[n:])
			}
			want := mobility.RevocationSuccess
			if here {
				b.answers(macA)
				b.answer(b.pbu(), reply{})
				want = mobility.RevocationNodeAttached
			}
			b.until(b.now.Boot + 200*ms)
			if as := b.bras(n); len(as) != 1 || as[0].Code != want {
				t.Errorf("here %v: %+v", here, as)
			}
			b.until(b.now.Boot + 3*sec)
			b.none()
		}
	})
	t.Run("it is here", func(t *testing.T) {
		b := setup(t)
		n := len(b.out)
		b.receive(lmaa, bri{seq: 9}.message())
		b.until(b.now.Boot + 3*ms)
		b.arp(3, macA, hoa.Addr())
		as := b.bras(n)
		if len(as) != 1 || as[0].Code != mobility.RevocationNodeAttached || as[0].Sequence != 9 {
			t.Fatalf("%+v", as)
		}
		b.counted(wire.StillAttached, 1)
		u := b.pbu() // the anchor may have the session elsewhere
		if u.handoff() != mobility.HandoffUnknown || u.Lifetime == 0 {
			t.Errorf("asserted with %v", u)
		}
		b.receive(lmaa, bri{seq: 10}.message()) // a request is out
		if as = b.bras(n); len(as) != 2 || as[1].Code != mobility.RevocationNodeAttached {
			t.Fatalf("%+v", as)
		}
		b.answer(u, reply{})
		b.until(b.now.Boot + sec)
		b.state(macA, active)
		if len(b.bras(n)) != 2 {
			t.Error("answered twice")
		}
	})
	t.Run("it arrived since", func(t *testing.T) {
		b := newBench(t, testConfig())
		b.bind(3, macA)
		b.until(sec)
		b.mld(3, macA) // so soon that nothing is registered
		b.none()
		b.revoke(bri{}, mobility.RevocationNodeAttached)
		b.counted(wire.StillAttached, 1)
		b.state(macA, active)
	})
	t.Run("it is registered again while it is asked", func(t *testing.T) {
		b := setup(t)
		n := len(b.out)
		b.receive(lmaa, bri{seq: 9}.message())
		b.m.now = b.now
		b.m.register(b.m.hosts[macA], "test")
		b.m.out = nil
		b.until(10*sec + RevokeProbe)
		if as := b.bras(n); len(as) != 1 || as[0].Code != mobility.RevocationNodeAttached {
			t.Fatalf("%+v", as)
		}
		b.state(macA, refreshing)
	})
	t.Run("ended by somebody", func(t *testing.T) { // no question: the session is over wherever the host is
		b := setup(t)
		b.revoke(bri{trigger: mobility.TriggerUserTermination}, mobility.RevocationSuccess)
		b.state(macA, gone)
	})
	t.Run("our requests have no Timestamp", func(t *testing.T) {
		cfg := testConfig()
		cfg.SequenceOrdering = true
		b := newBench(t, cfg)
		b.bind(3, macA)
		b.until(10 * sec)
		n := len(b.out)
		b.receive(lmaa, bri{stamp: 1}.message())
		b.arp(3, macA, hoa.Addr())
		if as := b.bras(n); len(as) != 1 || as[0].Code != mobility.RevocationNodeAttached {
			t.Fatalf("%+v", as)
		}
	})
}

// TestRevokedByAdministrator: the host is told that its addresses are gone.
func TestRevokedByAdministrator(t *testing.T) {
	spec.Covers(t, "RFC5846-9.1")
	for _, trigger := range []uint8{mobility.TriggerAdministrative, mobility.TriggerUserTermination, mobility.TriggerNetworkTermination} {
		b := newBench(t, testConfig())
		stamp := b.bindStamped(macA)
		b.until(10 * sec)
		n := len(b.frames)
		b.revoke(bri{trigger: trigger, stamp: stamp, more: []mobility.Value{mobility.IPv4HomeAddressRequest{Addr: rtr4}}}, mobility.RevocationSuccess) // without V the option means nothing
		b.state(macA, gone)
		b.none()
		if ras := b.ras(n); len(ras) != 1 || ras[0][hnp] != 0 {
			t.Errorf("advertised %v, want the prefix with lifetime 0", ras)
		}
		b.mld(3, macA)
		if u := b.pbu(); u.Lifetime == 0 {
			t.Errorf("%v", u)
		}
	}
}

// TestRevokedStates: an indication finds the session in whatever state it is.
func TestRevokedStates(t *testing.T) {
	spec.Covers(t, "RFC5846-9.1")
	t.Run("deregistering", func(t *testing.T) {
		b := newBench(t, testConfig())
		stamp := b.bindStamped(macA)
		b.do(core.Command{Ref: 1, Body: core.Detach{If: "acc0", MAC: macA}})
		u := b.pbu()
		b.revoke(bri{stamp: stamp}, mobility.RevocationSuccess)
		b.state(macA, gone)
		b.answer(u, reply{})
		b.until(5 * sec)
		b.none()
	})
	t.Run("idle", func(t *testing.T) {
		b := newBench(t, testConfig())
		b.mld(3, macA)
		b.answer(b.pbu(), reply{status: mobility.AdministrativelyProhibited, no4: true, no6: true})
		b.state(macA, refused)
		b.revoke(bri{}, mobility.RevocationNoBinding)
		b.state(macA, refused)
	})
	t.Run("one of two interfaces", func(t *testing.T) {
		cfg := testConfig()
		for i := range cfg.Access {
			cfg.Access[i].Identity.Table = map[core.MAC]string{macA: idA, macB: idA}
		}
		b := newBench(t, cfg)
		first := b.bindStamped(macA)
		other, home := netip.MustParsePrefix("2001:db8:1000:5::/64"), netip.MustParsePrefix("10.20.0.50/16")
		b.mld(4, macB)
		b.answer(b.pbu(), reply{hnp: []netip.Prefix{other}, v4: home})
		b.until(10 * sec)
		b.revoke(bri{stamp: first, ll: macA[:]}, mobility.RevocationSuccess)
		b.state(macA, gone)
		b.state(macB, active)
		b.revoke(bri{stamp: first, hnp: []netip.Prefix{hnp}}, mobility.RevocationNoBinding)
		b.state(macB, active)
		// By the identifier alone: all of the host. By a prefix too that is gone already: partial success.
		e := b.m.hosts[macB]
		b.revoke(bri{stamp: e.accepted, hnp: []netip.Prefix{hnp, other}}, mobility.RevocationPartial)
		b.state(macB, gone)
	})
	t.Run("all interfaces", func(t *testing.T) {
		cfg := testConfig()
		for i := range cfg.Access {
			cfg.Access[i].Identity.Table = map[core.MAC]string{macA: idA, macB: idA}
		}
		b := newBench(t, cfg)
		stamp := b.bindStamped(macA)
		b.until(5 * sec)
		b.mld(4, macB)
		b.answer(b.pbu(), reply{hnp: []netip.Prefix{netip.MustParsePrefix("2001:db8:1000:5::/64")}, v4: netip.MustParsePrefix("10.20.0.50/16")})
		b.revoke(bri{stamp: stamp, hnp: []netip.Prefix{}}, mobility.RevocationPartial) // the second was registered later
		b.state(macA, gone)
		b.state(macB, active)
		b.revoke(bri{stamp: b.m.hosts[macB].accepted, hnp: []netip.Prefix{}}, mobility.RevocationSuccess)
		b.state(macB, gone)
	})
	t.Run("switched off", func(t *testing.T) {
		cfg := testConfig()
		cfg.NoRevocation = true
		b := newBench(t, cfg)
		stamp := b.bindStamped(macA)
		n := len(b.out)
		b.receive(lmaa, bri{stamp: stamp}.message())
		if be, ok := b.out[n].body.(*mobility.BindingError); !ok || be.Status != mobility.UnrecognizedMHType {
			t.Errorf("answered %+v", b.out[n].body)
		}
		b.state(macA, active)
	})
}

// TestRevokedIPv4: V takes the IPv4 home address and leaves IPv6; of a session with nothing else it takes all.
func TestRevokedIPv4(t *testing.T) {
	spec.Covers(t, "RFC5846-9.1")
	for name, option := range map[string]mobility.Value{
		"rfc5844":           mobility.IPv4HomeAddressRequest{PrefixLen: 16, Addr: hoa.Addr()},
		"draft-pmip6-v4-02": mobility.IPv4HomeAddress{PrefixLen: 16, Addr: hoa.Addr()},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t, testConfig())
			stamp := b.bindStamped(macA)
			b.until(18 * sec)
			u := b.pbu() // a refresh of both is out
			a := b.revoke(bri{trigger: mobility.TriggerUserTermination, v: true, stamp: stampOf(u), more: []mobility.Value{option}}, mobility.RevocationSuccess)
			if !a.IPv4Only || stamp == stampOf(u) {
				t.Errorf("%+v", a)
			}
			if keys := b.keys(); len(keys) != 1 || keys[hnp].Match.Src != hnp {
				t.Errorf("forwarded: %v", keys)
			}
			u = b.pbu() // the refresh anew, without IPv4
			if u.v4().IsValid() || len(u.hnps()) != 1 {
				t.Errorf("refreshed with %v", u)
			}
			b.answer(u, reply{})
			b.state(macA, active)
			b.arp(3, macA, hoa.Addr())
			b.none()
			b.dhcp(3, macA, dhcpv4.MessageTypeDiscover) // it asks for IPv4 again
			if u := b.pbu(); !u.v4().IsValid() {
				t.Errorf("asked with %v", u)
			}
		})
	}
	cfg := testConfig()
	cfg.Access[0].Families = access.V4
	b := newBench(t, cfg)
	stamp := b.bindStamped(macA)
	b.until(10 * sec)
	b.revoke(bri{v: true, stamp: stamp, more: []mobility.Value{mobility.IPv4HomeAddressRequest{PrefixLen: 16, Addr: hoa.Addr()}}}, mobility.RevocationSuccess)
	b.state(macA, gone)
	if len(b.keys()) != 0 {
		t.Errorf("forwarded: %v", b.keys())
	}
}

// TestRevokedAndAsked: after a revocation the host is asked once to show itself, should it have come back unseen; not when
// it attached so lately that two gateways that hear it would never agree.
func TestRevokedAndAsked(t *testing.T) {
	for _, c := range []struct {
		after time.Duration
		asked bool
	}{{ReturnAfter, false}, {ReturnAfter + 1, true}} {
		b := newBench(t, testConfig())
		stamp := b.bindStamped(macA)
		b.until(c.after)
		n := len(b.frames)
		b.revoke(bri{stamp: stamp}, mobility.RevocationSuccess)
		if asked := len(b.frames) > n; asked != c.asked {
			t.Errorf("after %v: asked %v", c.after, asked)
		}
		if !c.asked {
			continue
		}
		b.until(b.now.Boot + ms)
		b.answers(macA)
		if u := b.pbu(); u.Lifetime == 0 || u.handoff() != mobility.HandoffUnknown {
			t.Errorf("%v", u)
		}
	}
}

// answers is a host's ARP Reply to the router.
func (b *bench) answers(mac core.MAC) {
	b.t.Helper()
	b.frame(3, mac, hoa.Addr(), rtr4, &ether.ARP{Op: ether.ARPReply, SenderHW: mac, SenderIP: hoa.Addr(), TargetHW: FixedMAC, TargetIP: rtr4})
}

// TestLateFrames: frames from before the host left do not bring its session back. It is asked; its answer, or what hosts
// send when they arrive, does.
func TestLateFrames(t *testing.T) {
	setup := func() *bench {
		b := newBench(t, testConfig())
		b.until(time.Minute)
		stamp := b.bindStamped(macA)
		b.until(b.now.Boot + sec)
		b.revoke(bri{stamp: stamp}, mobility.RevocationSuccess)
		return b
	}
	ghosts := map[string]func(b *bench){
		"data4": func(b *bench) { b.data(3, macA, hoa.Addr()) },
		"data6": func(b *bench) { b.data(3, macA, hnp.Addr().Next()) },
		"arp":   func(b *bench) { b.arp(3, macA, hoa.Addr()) },
		"na": func(b *bench) {
			b.frame(3, macA, linkLocalOf(macA), FixedLinkLocal, &nd.NeighborAdvertisement{Solicited: true, Target: linkLocalOf(macA)})
		},
	}
	for name, ghost := range ghosts {
		t.Run(name, func(t *testing.T) {
			b := setup()
			n := len(b.frames)
			ghost(b)
			b.none()
			if len(b.frames) != n+1 || b.frames[n].Dst != macA {
				t.Fatalf("asked by %d frames", len(b.frames)-n)
			}
			b.counted(wire.StaleSign, 1)
			b.until(b.now.Boot + ms)
			if name == "arp" { // a second late one is no answer
				ghost(b)
				b.none()
			}
			b.answers(macA)
			b.answer(b.pbu(), reply{})
			b.state(macA, active)
		})
		t.Run(name+" for long", func(t *testing.T) {
			b := setup()
			b.until(b.now.Boot + ReturnAfter + 1)
			ghost(b)
			b.answer(b.pbu(), reply{})
			b.state(macA, active)
		})
	}
	for name, sign := range map[string]func(b *bench){
		"mld":                     func(b *bench) { b.mld(3, macA) },
		"rs":                      func(b *bench) { b.rs(3, macA) },
		"dhcp":                    func(b *bench) { b.dhcp(3, macA, dhcpv4.MessageTypeDiscover) },
		"another link":            func(b *bench) { b.data(4, macA, hoa.Addr()) },
		"api":                     func(b *bench) { b.do(core.Command{Ref: 1, Body: core.Attach{If: "acc0", MAC: macA}}) },
		"no address to ask about": func(b *bench) { b.do(core.Seen{If: 3, MAC: macA, By: "fdb"}) },
	} {
		t.Run(name, func(t *testing.T) {
			b := setup()
			sign(b)
			b.answer(b.pbu(), reply{})
			b.state(macA, active)
		})
	}
}

// TestAbsentLimit: what is remembered of hosts that went is bounded in time and number.
func TestAbsentLimit(t *testing.T) {
	var s absent
	mac := func(i int) core.MAC { return core.MAC{2, 0, 0, byte(i >> 16), byte(i >> 8), byte(i)} }
	for i := range maxAway + 100 {
		s.leave(mac(i), away{at: sec})
	}
	if len(s.hosts) != maxAway || len(s.order) != maxAway || s.hosts[mac(99)] != nil || s.hosts[mac(100)] == nil {
		t.Errorf("%d and %d", len(s.hosts), len(s.order))
	}
	s.leave(mac(200), away{at: 2 * sec}) // again
	if n := len(s.order); n != len(s.hosts) || s.order[n-1] != mac(200) {
		t.Errorf("%d and %d", len(s.hosts), n)
	}
	delete(s.hosts, mac(300)) // came back
	s.leave(mac(1), away{at: sec + ReturnAfter + 1})
	if len(s.hosts) != 2 || len(s.order) != 2 {
		t.Errorf("%d and %d are left of the old", len(s.hosts), len(s.order))
	}
}

// TestReturnedSigns: each sign of an arrival, 3 s after the registration and later, has the host registered at once and
// once; others do not.
func TestReturnedSigns(t *testing.T) {
	strong := map[string]func(b *bench){
		"mld": func(b *bench) { b.mld(3, macA) },
		"rs":  func(b *bench) { b.rs(3, macA) },
		"dad": func(b *bench) {
			b.frame(3, macA, netip.IPv6Unspecified(), nd.AllNodes, &nd.NeighborSolicitation{Target: linkLocalOf(macA)})
		},
		"na": func(b *bench) {
			b.frame(3, macA, linkLocalOf(macA), nd.AllNodes, &nd.NeighborAdvertisement{Target: linkLocalOf(macA)})
		},
		"arp announcement": func(b *bench) {
			b.frame(3, macA, hoa.Addr(), hoa.Addr(), &ether.ARP{Op: ether.ARPRequest, SenderHW: macA, SenderIP: hoa.Addr(), TargetIP: hoa.Addr()})
		},
		"arp probe": func(b *bench) {
			b.frame(3, macA, netip.IPv4Unspecified(), hoa.Addr(), &ether.ARP{Op: ether.ARPRequest, SenderHW: macA, SenderIP: netip.IPv4Unspecified(), TargetIP: hoa.Addr()})
		},
		"discover": func(b *bench) { b.dhcp(3, macA, dhcpv4.MessageTypeDiscover) },
		"init-reboot": func(b *bench) {
			b.dhcp(3, macA, dhcpv4.MessageTypeRequest, dhcpv4.WithOption(dhcpv4.OptRequestedIPAddress(hoa.Addr().AsSlice())))
		},
		"api": func(b *bench) { b.do(core.Command{Ref: 1, Body: core.Attach{If: "acc0", MAC: macA}}) },
	}
	weak := map[string]func(b *bench){
		"arp request": func(b *bench) { b.arp(3, macA, hoa.Addr()) },
		"arp reply":   func(b *bench) { b.answers(macA) },
		"data":        func(b *bench) { b.data(3, macA, hoa.Addr()) },
		"ns": func(b *bench) {
			b.frame(3, macA, linkLocalOf(macA), FixedLinkLocal, &nd.NeighborSolicitation{Target: FixedLinkLocal})
		},
		"mld answer": func(b *bench) {
			b.frame(3, macA, linkLocalOf(macA), nd.AllNodes, &nd.MLDReport{Version: 2, Records: []nd.MLDRecord{{Type: nd.ModeIsExclude, Group: nd.SolicitedNode(linkLocalOf(macA))}}})
		},
	}
	for name, sign := range strong {
		t.Run(name, func(t *testing.T) {
			b := newBench(t, testConfig())
			b.bind(3, macA)
			b.until(ReturnAfter)
			sign(b)
			b.none()
			b.until(ReturnAfter + 1)
			sign(b)
			u := b.pbu()
			if u.at != ReturnAfter+1 || u.handoff() != mobility.HandoffUnknown {
				t.Errorf("at %v: %v", u.at, u)
			}
			sign(b)
			b.none()
			b.answer(u, reply{})
			b.until(2*ReturnAfter + 1)
			sign(b)
			b.none() // 3 s from the last
			b.until(10 * sec)
			sign(b)
			b.answer(b.pbu(), reply{})
		})
	}
	for name, sign := range weak {
		t.Run(name, func(t *testing.T) {
			b := newBench(t, testConfig())
			b.bind(3, macA)
			b.until(10 * sec)
			sign(b)
			b.none()
		})
	}
}
