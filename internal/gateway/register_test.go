package gateway

import (
	"errors"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"

	"kedge/internal/access"
	"kedge/internal/core"
	"kedge/internal/spec"
	"kedge/wire"
	"kedge/wire/mobility"
)

var zero6 = netip.PrefixFrom(netip.IPv6Unspecified(), 0)

// The first update of a dual-stack host, option by option.
func TestFirstUpdate(t *testing.T) {
	spec.Covers(t, "S001-3.2.2-01", "S001-3.2.2-02", "S001-3.2.2-03", "S001-3.2.2-05", "S001-3.2.2-09", "S001-3.2.2-10", "S001-3.2.2-29", "S001-3.2.2-30",
		"S001-3.2.2-32", "S001-3.2.2-33", "S001-3.2.2-36", "S001-3.2.2-38", "S001-3.1-12")
	for _, d := range []Dialect{RFC5844, Draft02, Auto} {
		t.Run(string(d), func(t *testing.T) {
			cfg := testConfig()
			cfg.Anchors[0].Dialect = d
			b := newBench(t, cfg)
			b.mld(3, macA)
			u := b.pbu()
			if u.from != coa || u.to != lmaa {
				t.Errorf("from %v to %v, want the Proxy-CoA to the LMAA", u.from, u.to)
			}
			if u.Flags != mobility.BUAck|mobility.BUProxy || u.Lifetime != 10 {
				t.Errorf("flags %04x lifetime %d, want P and A, and 40 s in units of 4 s", uint16(u.Flags), u.Lifetime)
			}
			o := u.Options
			if id, ok := o.MobileNodeID(); !ok || id.Subtype != 1 || id.ID != idA || o.Count(mobility.OptMobileNodeID) != 1 {
				t.Errorf("identifier %+v", id)
			}
			if !slices.Equal(u.hnps(), []netip.Prefix{zero6}) {
				t.Errorf("home network prefixes %v, want ALL_ZERO once", u.hnps())
			}
			if u.handoff() != mobility.HandoffUnknown {
				t.Errorf("handoff indicator %d, want 4", u.handoff())
			}
			if a, ok := o.AccessTechnology(); !ok || a.Value != mobility.AccessEthernet {
				t.Errorf("access technology %+v", a)
			}
			if ll, ok := o.LinkLayerID(); !ok || !slices.Equal(ll.ID, macA[:]) {
				t.Errorf("link-layer identifier %+v", ll)
			}
			if ts, ok := o.Timestamp(); !ok || !ts.Time().Equal(wall) {
				t.Errorf("timestamp %v, want %v", ts.Time(), wall)
			}
			if o.Has(mobility.OptLinkLocalAddress) {
				t.Error("Link-local Address option although the router's address is fixed")
			}
			want, other := mobility.OptIPv4HomeAddressRequest, mobility.OptIPv4HomeAddress
			if d == Draft02 {
				want, other = other, want
			}
			if o.Count(want) != 1 || o.Has(other) || u.v4() != anyIPv4 {
				t.Errorf("IPv4 option %v, want %v once with 0.0.0.0/0", u.v4(), want)
			}
			b.until(900 * ms)
			b.none()
		})
	}
}

func TestDraftOptionNumbers(t *testing.T) {
	spec.Covers(t, "S001-3.2.2-04", "S001-3.2.2-35", "S001-3.1-07")
	cfg := testConfig()
	cfg.Anchors[0].Dialect = Draft02
	cfg.Profiles = []Profile{{ID: idA, Families: access.V4, IPv4: hoa}}
	b := newBench(t, cfg)
	b.mld(3, macA)
	u := b.pbu()
	for o := range u.Options.All() {
		if o.Type == mobility.OptIPv4HomeAddress && !slices.Equal(o.Data, []byte{16 << 2, 0, 10, 20, 0, 10}) {
			t.Errorf("option 29 is %x: want length 6, prefix length 16, reserved 0, 10.20.0.10", o.Data)
		}
	}
	if u.Options.Count(mobility.OptIPv4HomeAddress) != 1 || u.Flags&mobility.BUProxy == 0 {
		t.Error("want option 29 once, in a proxy update")
	}
	for _, s := range b.out {
		if _, ok := s.body.(*mobility.BindingUpdate); !ok {
			t.Errorf("%T was sent", s.body)
		}
	}
}

// Policies: what the profile does not allow is neither asked for nor enabled.
func TestFamilies(t *testing.T) {
	spec.Covers(t, "S001-3-06", "S001-3-07", "S001-3.2.2-03")
	for _, tc := range []struct {
		name   string
		f      access.Families
		v6, v4 bool
	}{{"both", access.V4 | access.V6, true, true}, {"v4 only", access.V4, false, true}, {"v6 only", access.V6, true, false}} {
		t.Run(tc.name, func(t *testing.T) {
			for _, perHost := range []bool{false, true} {
				cfg := testConfig()
				if perHost {
					cfg.Profiles = []Profile{{ID: idA, Families: tc.f}}
				} else {
					cfg.Access[0].Families = tc.f
				}
				b := newBench(t, cfg)
				b.rs(3, macA)
				u := b.pbu()
				if u.Options.Has(mobility.OptHomeNetworkPrefix) != tc.v6 || u.v4().IsValid() != tc.v4 {
					t.Fatalf("per host %v: update %v", perHost, u)
				}
				b.answer(u, reply{})
				b.rs(3, macA)
				b.dhcp(3, macA, dhcpv4.MessageTypeDiscover)
				b.until(5 * sec)
				b.none()
				if got := len(b.ras(0)) > 0 && b.ras(0)[0][hnp] > 0; got != tc.v6 {
					t.Errorf("prefix advertised %v, want %v", got, tc.v6)
				}
				if got := len(b.dhcps(0)) > 0; got != tc.v4 {
					t.Errorf("DHCP answered %v, want %v", got, tc.v4)
				}
				_, k6 := b.keys()[hnp]
				_, k4 := b.keys()[netip.PrefixFrom(hoa.Addr(), 32)]
				if k6 != tc.v6 || k4 != tc.v4 {
					t.Errorf("forwarded v6 %v v4 %v", k6, k4)
				}
			}
		})
	}
}

// What is accepted works: entry, tunnel, keys in both directions, advertisement; forwarding is set before the host hears.
func TestAccepted(t *testing.T) {
	spec.Covers(t, "S001-3-02", "S001-3.2.1-01", "S001-3.2.2-14", "S001-3.2.2-17", "S001-3.2.2-18")
	for _, d := range []Dialect{RFC5844, Draft02} {
		cfg := testConfig()
		cfg.Anchors[0].Dialect = d
		b := newBench(t, cfg)
		b.rs(3, macA)
		b.clock(20 * ms)
		b.order = nil
		b.answer(b.pbu(), reply{lifetime: 20 * sec})
		b.state(macA, active)
		bs := b.m.bindings("")
		if len(bs) != 1 {
			t.Fatalf("%d bindings", len(bs))
		}
		// Asked with 0.0.0.0/0; the length in the answer counts.
		if g := bs[0]; g.ID != idA || g.IPv4 != hoa || !slices.Equal(g.Prefixes, []netip.Prefix{hnp}) || g.Lifetime != 20*sec ||
			g.Router4 != rtr4 || g.Dialect != string(d) || !slices.Equal(g.Families, []string{"v4", "v6"}) ||
			!g.Expires.Equal(wall.Add(20*sec)) { // from the sending of the update
			t.Errorf("binding %+v", g)
		}
		s, ok := b.session(bs[0].Session)
		if !ok || s.Chain.N != 1 || s.Chain.Layer[0].Local.Addr() != coa || s.Chain.Layer[0].Remote.Addr() != lmaa || s.If != 3 || s.MAC != macA {
			t.Errorf("session %+v", s)
		}
		keys := b.keys()
		for _, p := range []netip.Prefix{hnp, netip.MustParsePrefix("10.20.0.10/32")} {
			k, ok := keys[p]
			if !ok || !k.Up || !k.Down || k.Match.If != 3 || k.Match.MAC != macA || k.ID != bs[0].Session {
				t.Errorf("key %v: %+v", p, k)
			}
		}
		if len(keys) != 2 {
			t.Errorf("%d keys", len(keys))
		}
		f, a := slices.Index(b.order, "core.Forward"), slices.Index(b.order, "core.Send")
		if f < 0 || a < 0 || f > a {
			t.Errorf("order %v: want forwarding before the advertisement", b.order)
		}
		if ras := b.ras(0); len(ras) == 0 || ras[0][hnp] == 0 {
			t.Errorf("advertisements %v", ras)
		}
		// Nothing else is let in or forwarded: another source is only counted.
		b.data(3, macA, netip.MustParseAddr("10.20.0.99"))
		b.none()
		if len(b.keys()) != 2 {
			t.Errorf("a packet from another source changed forwarding: %v", b.keys())
		}
	}
}

// Retransmissions: 1, 2, 4 ... 32 s apart, each with a greater sequence number and the time of its sending.
func TestRetransmission(t *testing.T) {
	spec.Covers(t, "S001-3.2.2-31")
	for _, stamps := range []bool{true, false} {
		cfg := testConfig()
		cfg.SequenceOrdering = !stamps
		b := newBench(t, cfg)
		b.mld(3, macA)
		first := b.pbu()
		at, gap, last := time.Duration(0), sec, first
		for range 8 {
			at += gap
			b.until(at - 1)
			b.none()
			b.until(at)
			u := b.pbu()
			if u.Sequence != last.Sequence+1 {
				t.Errorf("sequence %d after %d", u.Sequence, last.Sequence)
			}
			ts, ok := u.Options.Timestamp()
			if ok != stamps || ok && !ts.Time().Equal(wall.Add(at)) {
				t.Errorf("timestamp %v %v, want %v", ts.Time(), ok, wall.Add(at))
			}
			if u.handoff() != first.handoff() || !slices.Equal(u.hnps(), first.hnps()) || u.v4() != first.v4() {
				t.Errorf("the repetition asks for something else: %v", u)
			}
			last, gap = u, min(2*gap, 32*sec)
		}
		b.answer(last, reply{})
		b.state(macA, active)
		b.until(at + 5*sec)
		b.none()
	}
}

// A round trip longer than the first interval must not starve a registration: the answer to a repeated copy counts too,
// but no more than once, and not that to an earlier request.
func TestLateAnswers(t *testing.T) {
	b := newBench(t, testConfig())
	b.mld(3, macA)
	first := b.pbu()
	b.until(1200 * ms)
	second := b.pbu()
	b.answer(first, reply{})
	b.state(macA, active)
	if got := b.m.hosts[macA].expires; got != 40*sec {
		t.Errorf("expires at %v: the time runs from the copy that was answered", got)
	}
	b.answer(second, reply{})
	b.counted(wire.Unsolicited, 1)
	b.until(18 * sec)
	refresh := b.pbu()
	b.answer(first, reply{})
	b.counted(wire.SequenceMismatch, 1)
	b.state(macA, refreshing)
	b.answer(refresh, reply{})
	b.state(macA, active)
}

// Refresh: at 0.45 of the lifetime without jitter, with every registered value and handoff indicator 5; expiry when
// nobody answers.
func TestRefreshAndExpiry(t *testing.T) {
	spec.Covers(t, "S001-3.2.2-22", "S001-3.2.2-23", "S001-3.2.2-24")
	for _, d := range []Dialect{RFC5844, Draft02} {
		cfg := testConfig()
		cfg.Anchors[0].Dialect = d
		b := newBench(t, cfg)
		e := b.bind(3, macA)
		b.until(18*sec - 1)
		b.none()
		b.until(18 * sec)
		u := b.pbu()
		if u.handoff() != mobility.HandoffReRegistration || u.Lifetime != 10 || !slices.Equal(u.hnps(), []netip.Prefix{hnp}) || u.v4() != hoa {
			t.Errorf("refresh %v", u)
		}
		ops := len(b.ops)
		b.answer(u, reply{})
		if len(b.ops) != ops {
			t.Errorf("an unchanged refresh touched forwarding: %v", b.ops[ops:])
		}
		// The next refresh at 36 s is answered by nobody: 36, 37, 39, 43, 51 s, and at 58 s the binding ends.
		b.until(58*sec - 1)
		if us := b.pbus(); len(us) != 5 || us[4].at != 51*sec {
			t.Errorf("updates %v", us)
		}
		b.state(macA, refreshing)
		if len(b.keys()) != 2 {
			t.Error("forwarding ended before the binding")
		}
		n := len(b.frames)
		b.until(58 * sec)
		b.state(macA, registering)
		if len(b.keys()) != 0 {
			t.Errorf("keys %v after the binding's end", b.keys())
		}
		if ras := b.ras(n); len(ras) == 0 || ras[0][hnp] != 0 {
			t.Errorf("the prefix was not withdrawn: %v", ras)
		}
		u = b.pbu() // begins anew, with what it had as a proposal
		if u.handoff() != mobility.HandoffUnknown || !slices.Equal(u.hnps(), []netip.Prefix{hnp}) || u.v4() != hoa {
			t.Errorf("after expiry %v", u)
		}
		b.answer(u, reply{})
		b.state(macA, active)
		if len(b.keys()) != 2 || e.expires != 98*sec {
			t.Errorf("keys %v, expires %v", b.keys(), e.expires)
		}
	}
}

// Jitter only ever makes a refresh earlier, by up to a tenth.
func TestRefreshJitter(t *testing.T) {
	b := newBenchRand(t, testConfig(), ones{})
	b.mld(3, macA)
	b.answer(b.pbu(), reply{})
	at := b.m.hosts[macA].refreshAt
	if at < 19*sec || at > 20*sec {
		t.Errorf("latest refresh at %v, want just below 20 s, half of the lifetime", at)
	}
}

type ones struct{}

func (ones) Read(b []byte) (int, error) {
	for i := range b {
		b[i] = 0xff
	}
	return len(b), nil
}

func TestIPv4OnlyRefresh(t *testing.T) {
	spec.Covers(t, "S001-3.2.2-24")
	cfg := testConfig()
	cfg.Profiles = []Profile{{ID: idA, Families: access.V4}}
	b := newBench(t, cfg)
	b.bind(3, macA)
	b.until(18 * sec)
	if u := b.pbu(); u.Options.Has(mobility.OptHomeNetworkPrefix) || u.v4() != hoa {
		t.Errorf("refresh of an IPv4-only session: %v", u)
	}
}

// Deregistration: lifetime 0 with both registered values and handoff indicator 4; the entry goes with the answer, or
// after INITIAL_BINDACK_TIMEOUT without one.
func TestDeregistration(t *testing.T) {
	spec.Covers(t, "S001-3.2.2-25", "S001-3.2.2-26", "S001-3.2.2-27")
	for _, d := range []Dialect{RFC5844, Draft02} {
		for _, answered := range []bool{true, false} {
			cfg := testConfig()
			cfg.Anchors[0].Dialect = d
			b := newBench(t, cfg)
			b.bind(3, macA)
			b.clock(5 * sec)
			b.do(core.HostChanged{Op: core.HostOp{Kind: "link", If: 3}, Up: false})
			b.none()
			b.until(6*sec - 1)
			b.none()
			b.until(6 * sec)
			u := b.pbu()
			if u.Lifetime != 0 || u.handoff() != mobility.HandoffUnknown || !slices.Equal(u.hnps(), []netip.Prefix{hnp}) || u.v4() != hoa {
				t.Errorf("deregistration %v", u)
			}
			if len(b.keys()) != 2 {
				t.Error("forwarding ended before the anchor could know")
			}
			if answered {
				b.answer(u, reply{})
				b.state(macA, gone)
			}
			b.until(7*sec - 1)
			b.until(7 * sec)
			b.state(macA, gone)
			if len(b.keys()) != 0 || len(b.m.byID) != 0 || b.m.pending != 0 {
				t.Errorf("left behind: keys %v, ids %v, pending %d", b.keys(), b.m.byID, b.m.pending)
			}
			b.until(time.Hour)
			b.none()
		}
	}
}

// A host that leaves before the first answer may be bound at the anchor all the same.
func TestDetachWhileRegistering(t *testing.T) {
	b := newBench(t, testConfig())
	b.mld(3, macA)
	first := b.pbu()
	b.do(core.Command{Ref: 1, Body: core.Detach{If: "acc0", MAC: macA}})
	u := b.pbu()
	if u.Lifetime != 0 || !slices.Equal(u.hnps(), []netip.Prefix{zero6}) || u.v4() != anyIPv4 {
		t.Errorf("deregistration %v", u)
	}
	b.answer(first, reply{})
	b.counted(wire.SequenceMismatch, 1)
	b.state(macA, deregistering)
	if len(b.keys()) != 0 {
		t.Error("an answer that came too late was forwarded")
	}
	b.answer(u, reply{})
	b.state(macA, gone)
}

func TestReturnsWhileDeregistering(t *testing.T) {
	b := newBench(t, testConfig())
	b.bind(3, macA)
	b.do(core.Command{Ref: 1, Body: core.Detach{If: "acc0", MAC: macA}})
	dereg := b.pbu()
	b.clock(300 * ms)
	b.mld(3, macA)
	u := b.pbu()
	if u.Lifetime == 0 || u.handoff() != mobility.HandoffUnknown || !slices.Equal(u.hnps(), []netip.Prefix{hnp}) || u.v4() != hoa {
		t.Errorf("update %v", u)
	}
	old, _ := dereg.Options.Timestamp()
	if ts, _ := u.Options.Timestamp(); ts.Value <= old.Value {
		t.Error("the anchor could take them in the wrong order")
	}
	b.answer(dereg, reply{})
	b.state(macA, registering)
	b.answer(u, reply{})
	b.state(macA, active)
	if len(b.keys()) != 2 {
		t.Errorf("keys %v", b.keys())
	}
}

// A forwarding error leaves nothing half done: the host is denied, the anchor told, and it is tried again.
func TestForwardingFails(t *testing.T) {
	b := newBench(t, testConfig())
	b.failForward = errors.New("no room")
	b.mld(3, macA)
	b.answer(b.pbu(), reply{})
	b.state(macA, refused)
	u := b.pbu()
	if u.Lifetime != 0 || u.v4() != hoa {
		t.Errorf("the anchor goes on sending: %v", u)
	}
	b.counted(wire.ForwardingFailed, 1)
	b.failForward = nil
	b.until(5 * sec)
	b.answer(b.pbu(), reply{})
	b.state(macA, active)
	if len(b.keys()) != 2 {
		t.Errorf("keys %v", b.keys())
	}
}
