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
	"kedge/wire/mobility"
)

// Answers that nobody asked for, or that are wrong, change nothing: they are counted, and the update is repeated on time.
func TestImplausibleAnswers(t *testing.T) {
	other := netip.MustParsePrefix("2001:db8:2000::/64")
	for _, tc := range []struct {
		name    string
		profile Profile
		from    netip.Addr
		r       reply
		want    wire.Reason
	}{
		{name: "not from an anchor", from: netip.MustParseAddr("2001:db8:a::66"), want: wire.UnknownPeer},
		{name: "from another anchor", from: lmaa2, want: wire.Unsolicited},
		{name: "without P", r: reply{noP: true}, want: wire.NotProxy},
		{name: "without identifier", r: reply{noID: true}, want: wire.MissingMNID},
		{name: "other identifier", r: reply{id: "somebody@example.net"}, want: wire.Unsolicited},
		{name: "other sequence number", r: reply{seq: 1}, want: wire.SequenceMismatch},
		{name: "other timestamp", r: reply{stamp: 12345}, want: wire.TimestampMismatch},
		{name: "lifetime 0", r: reply{lifetime: -1}, want: wire.BadValue},
		{name: "multicast prefix", r: reply{hnp: []netip.Prefix{netip.MustParsePrefix("ff02::/64")}}, want: wire.BadValue},
		{name: "prefix between 64 and an address", r: reply{hnp: []netip.Prefix{netip.MustParsePrefix("2001:db8::/96")}}, want: wire.BadValue},
		{name: "prefix not asked for", profile: Profile{ID: idA, Prefixes: []netip.Prefix{hnp}}, r: reply{hnp: []netip.Prefix{hnp, other}}, want: wire.PrefixNotAsked},
		{name: "IPv6 not asked for", profile: Profile{ID: idA, Families: access.V4}, r: reply{hnp: []netip.Prefix{other}}, want: wire.PrefixNotAsked},
		{name: "IPv4 address not asked for", profile: Profile{ID: idA, IPv4: hoa}, r: reply{v4: netip.MustParsePrefix("10.20.0.11/16")}, want: wire.PrefixNotAsked},
		{name: "multicast IPv4 address", r: reply{v4: netip.MustParsePrefix("224.0.0.1/16")}, want: wire.BadValue},
		{name: "IPv4 address without length", r: reply{v4: netip.MustParsePrefix("10.20.0.10/0")}, want: wire.BadValue},
		{name: "no address at all", r: reply{no4: true, no6: true}, want: wire.NoAddressInAnswer},
	} {
		t.Run(tc.name, func(t *testing.T) {
			cfg := testConfig()
			cfg.Anchors = append(cfg.Anchors, Anchor{Name: "lma2", Address: lmaa2})
			if tc.profile.ID != "" {
				cfg.Profiles = []Profile{tc.profile}
			}
			b := newBench(t, cfg)
			b.mld(3, macA)
			u := b.pbu()
			from := lmaa
			if tc.from.IsValid() {
				from = tc.from
			}
			frames := len(b.frames)
			b.receive(from, tc.r.ack(u))
			b.state(macA, registering)
			b.counted(tc.want, 1)
			if len(b.ops) != 0 || len(b.frames) != frames {
				t.Errorf("something was enabled: %v", b.ops)
			}
			if e := b.emitted("message-ignored"); len(e) != 1 || e[0].Why != string(tc.want) {
				t.Errorf("told %+v", e)
			}
			b.until(sec)
			b.answer(b.pbu(), reply{})
			b.state(macA, active)
		})
	}
}

// The anchor echoes what it was sent. If it does not, it answers for somebody else: no update follows until an
// administrator acts.
func TestWrongEcho(t *testing.T) {
	for name, r := range map[string]reply{
		"handoff indicator": {hi: 3}, "access technology": {att: 5}, "link-layer identifier": {ll: []byte{1, 2, 3, 4, 5, 6}},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t, testConfig())
			b.mld(3, macA)
			b.answer(b.pbu(), r)
			b.state(macA, refused)
			b.counted(wire.IdentifierMismatch, 2) // ignored, refused
			for range 20 {
				b.until(b.now.Boot + 20*sec)
				b.mld(3, macA)
			}
			b.none()
			b.do(core.Command{Ref: 1, Body: core.Attach{If: "acc0", MAC: macA}})
			b.answer(b.pbu(), reply{})
			b.state(macA, active)
			// A wrong echo of a refresh lets the binding run out.
			b.until(b.now.Boot + 18*sec)
			b.answer(b.pbu(), r)
			b.state(macA, active)
			b.until(b.now.Boot + 21*sec)
			b.none()
			b.until(b.now.Boot + 5*sec)
			b.none()
			if len(b.keys()) != 0 {
				t.Errorf("still forwarded: %v", b.keys())
			}
		})
	}
}

// An answer that says nothing about any address is ignored as often as it comes; nothing is routed; updates go on.
func TestNoAddresses(t *testing.T) {
	spec.Covers(t, "S001-3.2.2-12", "S001-3.2.2-13")
	for _, d := range []Dialect{RFC5844, Draft02} {
		cfg := testConfig()
		cfg.Anchors[0].Dialect = d
		b := newBench(t, cfg)
		b.mld(3, macA)
		for i, at := range []time.Duration{0, 1 * sec, 3 * sec, 7 * sec} {
			b.until(at)
			b.answer(b.pbu(), reply{no4: true, no6: true})
			b.state(macA, registering)
			b.counted(wire.NoAddressInAnswer, uint64(i+1))
		}
		if len(b.ops) != 0 || len(b.ras(0)) != 0 {
			t.Errorf("enabled: %v", b.ops)
		}
	}
}

// IPv4 refused in its own option: IPv6 works, IPv4 does not, and is asked for again later.
func TestIPv4RefusedAlone(t *testing.T) {
	spec.Covers(t, "S001-3.2.2-15", "S001-3.2.2-16")
	for _, d := range []Dialect{RFC5844, Draft02} {
		for _, st := range []mobility.AddressStatus{128, 129, 130, 131, 132} {
			cfg := testConfig()
			cfg.Anchors[0].Dialect = d
			b := newBench(t, cfg)
			b.dhcp(3, macA, dhcpv4.MessageTypeDiscover)
			b.answer(b.pbu(), reply{v4status: st})
			b.state(macA, active)
			if k := b.keys(); len(k) != 1 || k[hnp].ID == 0 {
				t.Errorf("status %d: keys %v", st, k)
			}
			if ras := b.ras(0); len(ras) == 0 || ras[0][hnp] == 0 {
				t.Errorf("status %d: not advertised", st)
			}
			b.dhcp(3, macA, dhcpv4.MessageTypeDiscover)
			b.until(4 * sec)
			b.none()
			if len(b.dhcps(0)) != 0 {
				t.Errorf("status %d: DHCP was answered", st)
			}
			b.until(5 * sec) // the first retry
			u := b.pbu()
			if u.v4() != anyIPv4 || !slices.Equal(u.hnps(), []netip.Prefix{hnp}) || u.handoff() != mobility.HandoffReRegistration {
				t.Errorf("status %d: retry %v", st, u)
			}
			b.answer(u, reply{})
			if len(b.keys()) != 2 {
				t.Errorf("status %d: keys %v", st, b.keys())
			}
		}
	}
}

// The same for an IPv4-only host: it gets nothing.
func TestIPv4OnlyRefusedInOption(t *testing.T) {
	spec.Covers(t, "S001-3.2.2-15")
	cfg := testConfig()
	cfg.Profiles = []Profile{{ID: idA, Families: access.V4}}
	for _, st := range []mobility.AddressStatus{128, 129, 132} {
		b := newBench(t, cfg)
		b.dhcp(3, macA, dhcpv4.MessageTypeDiscover)
		b.answer(b.pbu(), reply{v4status: st})
		b.state(macA, refused)
		b.until(4 * sec)
		b.none()
		if len(b.ops) != 0 || len(b.dhcps(0)) != 0 {
			t.Errorf("status %d enabled something", st)
		}
	}
}

// Statuses that end a registration: nothing works, nothing is advertised, DHCPOFFER is never sent, and it is tried again
// after 5, 10, 20 s.
func TestRefusals(t *testing.T) {
	spec.Covers(t, "S001-3.1-24")
	for st, want := range map[mobility.Status]wire.Reason{
		mobility.ReasonUnspecified: wire.RefusedByAnchor, mobility.AdministrativelyProhibited: wire.NotAuthorized,
		mobility.InsufficientResources: wire.PoolExhausted, mobility.NotLMAForThisMobileNode: wire.UnknownSubscriber,
		mobility.MAGNotAuthorized: wire.NotAuthorized, mobility.NotAuthorizedForHNP: wire.PrefixNotAuthorized,
		mobility.TimestampMismatch: wire.TimestampMismatch, mobility.MissingHNPOption: wire.MissingPrefix,
		mobility.BCEPrefixSetMismatch: wire.PrefixMismatch, mobility.MissingMNIdentifierOption: wire.MissingMNID,
		mobility.MissingHandoffIndicator: wire.MissingHandoff, mobility.MissingAccessTechType: wire.MissingATT,
		mobility.MultipleIPv4HoANotSupported: wire.MultipleIPv4, mobility.SequenceOutOfWindow: wire.SequenceOld,
		mobility.Status(250): wire.RefusedByAnchor,
	} {
		t.Run(st.String(), func(t *testing.T) {
			b := newBench(t, testConfig())
			b.dhcp(3, macA, dhcpv4.MessageTypeDiscover)
			no := reply{status: st, no4: true, no6: true, noID: st == mobility.MissingMNIdentifierOption, stamp: mobility.TimestampOf(wall.Add(-time.Hour)).Value}
			b.answer(b.pbu(), no)
			b.state(macA, refused)
			b.counted(want, 1)
			if e := b.emitted("refused"); len(e) != 1 || e[0].Why != string(want) {
				t.Errorf("told %+v", e)
			}
			at := time.Duration(0)
			for _, d := range []time.Duration{5 * sec, 10 * sec, 20 * sec} {
				at += d
				b.until(at - 1)
				b.dhcp(3, macA, dhcpv4.MessageTypeDiscover) // does not make it any sooner
				b.none()
				b.until(at)
				u := b.pbu()
				if u.handoff() != mobility.HandoffUnknown {
					t.Errorf("retry %v", u)
				}
				b.answer(u, no)
				b.state(macA, refused)
			}
			if len(b.ops) != 0 || len(b.ras(0)) != 0 || len(b.dhcps(0)) != 0 {
				t.Error("something was enabled")
			}
			x, err := b.m.explain(idA)
			if err != nil || !slices.ContainsFunc(x.History, func(p core.Past) bool { return p.Reason == string(want) }) {
				t.Errorf("explanation %+v %v", x, err)
			}
			b.until(at + 40*sec)
			b.answer(b.pbu(), reply{})
			b.state(macA, active)
		})
	}
}

// Refusal of a refresh ends what was there (RFC 5213 6.9.1.2 (11)).
func TestRefreshRefused(t *testing.T) {
	b := newBench(t, testConfig())
	b.bind(3, macA)
	b.until(18 * sec)
	n := len(b.frames)
	b.answer(b.pbu(), reply{status: mobility.MAGNotAuthorized})
	b.state(macA, refused)
	if len(b.keys()) != 0 {
		t.Errorf("still forwarded: %v", b.keys())
	}
	if ras := b.ras(n); len(ras) == 0 || ras[0][hnp] != 0 {
		t.Errorf("not withdrawn: %v", ras)
	}
}

// Refusals of one thing, after which the gateway asks for something else at once.
func TestAskDifferently(t *testing.T) {
	both := access.V4 | access.V6
	for _, tc := range []struct {
		name    string
		profile Profile
		refusal reply
		v6, v4  netip.Prefix // of the next update; invalid = no option
		barred  access.Families
	}{
		{"155 for a known prefix", Profile{ID: idA, Families: both, Prefixes: []netip.Prefix{hnp}}, reply{status: 155}, zero6, anyIPv4, 0},
		{"159 for a known prefix", Profile{ID: idA, Families: both, Prefixes: []netip.Prefix{hnp}}, reply{status: 159}, zero6, anyIPv4, 0},
		{"171 for a known address", Profile{ID: idA, Families: both, IPv4: hoa}, reply{status: 171, v4status: 129}, zero6, anyIPv4, 0},
		{"171 for a known address, IPv4 only", Profile{ID: idA, Families: access.V4, IPv4: hoa}, reply{status: 171}, netip.Prefix{}, anyIPv4, 0},
		{"171 for any address", Profile{ID: idA, Families: both}, reply{status: 171, v4status: 129}, zero6, netip.Prefix{}, 0},
		{"170", Profile{ID: idA, Families: both}, reply{status: 170, v4status: 129}, zero6, netip.Prefix{}, access.V4},
		{"172", Profile{ID: idA, Families: both}, reply{status: 172}, netip.Prefix{}, anyIPv4, access.V6},
		{"129 because of IPv4, as document 001 has it", Profile{ID: idA, Families: both}, reply{status: 129, v4status: 129}, zero6, netip.Prefix{}, 0},
		{"130 because of IPv4", Profile{ID: idA, Families: both}, reply{status: 130, v4status: 132}, zero6, netip.Prefix{}, 0},
		{"128 with an incorrect address", Profile{ID: idA, Families: both, IPv4: hoa}, reply{status: 128, v4status: 130}, zero6, anyIPv4, 0},
	} {
		t.Run(tc.name, func(t *testing.T) {
			cfg := testConfig()
			cfg.Profiles = []Profile{tc.profile}
			b := newBench(t, cfg)
			b.mld(3, macA)
			b.answer(b.pbu(), tc.refusal)
			u := b.pbu()
			var v6 netip.Prefix
			if len(u.hnps()) > 0 {
				v6 = u.hnps()[0]
			}
			if v6 != tc.v6 || u.v4() != tc.v4 {
				t.Fatalf("asks %v", u)
			}
			b.answer(u, reply{})
			b.state(macA, active)
			if tc.barred == 0 {
				return
			}
			// Not asked for again, however long it lasts, until an administrator acts.
			for range 40 {
				b.until(b.now.Boot + 10*sec)
				b.mld(3, macA)
				for _, u := range b.pbus() {
					if tc.barred == access.V4 && u.v4().IsValid() || tc.barred == access.V6 && len(u.hnps()) > 0 {
						t.Fatalf("asked again: %v", u)
					}
					b.answer(u, reply{})
				}
			}
			b.do(core.Command{Ref: 1, Body: core.Attach{If: "acc0", MAC: macA}})
			if u := b.pbu(); !u.v4().IsValid() || len(u.hnps()) == 0 {
				t.Errorf("after the administrator's act: %v", u)
			}
		})
	}
}

// 152: no update for the host until an administrator acts, also if it leaves and comes back.
func TestNotEnabled(t *testing.T) {
	b := newBench(t, testConfig())
	b.mld(3, macA)
	b.answer(b.pbu(), reply{status: mobility.ProxyRegNotEnabled})
	b.state(macA, refused)
	b.do(core.Command{Ref: 1, Body: core.Detach{If: "acc0", MAC: macA}})
	b.state(macA, gone)
	for range 20 {
		b.until(b.now.Boot + time.Minute)
		b.mld(3, macA)
		b.dhcp(4, macA, dhcpv4.MessageTypeDiscover)
	}
	b.none()
	b.do(core.Command{Ref: 2, Body: core.Attach{If: "acc0", MAC: macA}})
	b.answer(b.pbu(), reply{})
	b.state(macA, active)
}

// 157: the presence is asserted again at once with a newer timestamp, then at the pace of retransmissions; two gateways
// that both believe to have the host do not race.
func TestTimestampTooOld(t *testing.T) {
	b := newBench(t, testConfig())
	b.mld(3, macA)
	first := b.pbu()
	b.clock(50 * ms)
	old := reply{status: mobility.TimestampLowerThanPrevious, stamp: mobility.TimestampOf(wall.Add(300 * ms)).Value}
	b.answer(first, old)
	again := b.pbu()
	a, _ := first.Options.Timestamp()
	if ts, _ := again.Options.Timestamp(); ts.Value <= a.Value || again.Sequence == first.Sequence {
		t.Errorf("repeated with the same order: %v", again)
	}
	b.answer(again, old)
	b.none()
	b.until(1050 * ms)
	b.answer(b.pbu(), reply{})
	b.state(macA, active)
	b.counted(wire.TimestampOld, 2)
	if e := b.emitted("clock"); len(e) != 2 || e[0].Fields.(map[string]any)["offset_ms"].(float64) < 240 {
		t.Errorf("clock offset told: %+v", e)
	}
}

// 156: the offset is noted for people, the clock is left alone, and the next try waits.
func TestTimestampMismatch(t *testing.T) {
	b := newBench(t, testConfig())
	b.mld(3, macA)
	b.answer(b.pbu(), reply{status: mobility.TimestampMismatch, stamp: mobility.TimestampOf(wall.Add(-10 * sec)).Value})
	b.state(macA, refused)
	s := b.m.status()
	if len(s.Notes) != 2 || s.Peers[0].Name != "lma1" || s.Counters["timestamp-mismatch"] != 1 {
		t.Errorf("status %+v", s)
	}
	b.now.Wall = b.now.Wall.Add(-10 * sec) // an administrator sets the clock
	b.until(5 * sec)
	u := b.pbu()
	if ts, _ := u.Options.Timestamp(); !ts.Time().Equal(wall.Add(-5 * sec)) {
		t.Errorf("timestamp %v does not follow the clock", ts.Time())
	}
	b.answer(u, reply{})
	b.state(macA, active)
}

// Without timestamps a new gateway learns the sequence number from status 135.
func TestSequenceOrdering(t *testing.T) {
	cfg := testConfig()
	cfg.SequenceOrdering = true
	b := newBench(t, cfg)
	b.mld(3, macA)
	u := b.pbu()
	b.answer(u, reply{status: mobility.SequenceOutOfWindow, seq: 499})
	again := b.pbu()
	if again.Sequence != u.Sequence+500 {
		t.Errorf("sequence %d, want one more than the anchor's %d", again.Sequence, u.Sequence+499)
	}
	b.answer(again, reply{})
	b.state(macA, active)
}

// Two updates within 1/65536 s are still in order; a clock that was set back is followed.
func TestTimestampOrder(t *testing.T) {
	e := &entry{}
	a := e.stampOf(wall)
	if c := e.stampOf(wall); c != a+1 {
		t.Errorf("same time: %d after %d", c, a)
	}
	if c := e.stampOf(wall.Add(-time.Hour)); c != mobility.TimestampOf(wall.Add(-time.Hour)).Value {
		t.Errorf("clock set back: %d", c)
	}
}
