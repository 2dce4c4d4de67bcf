package gateway

import (
	"errors"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"

	"kedge/internal/access"
	"kedge/internal/core"
	"kedge/wire"
	"kedge/wire/mobility"
)

// twoInterfaces is a host with two MACs on two links.
func twoInterfaces() Config {
	cfg := testConfig()
	cfg.Access[0].Identity.Table = map[core.MAC]string{macA: "alice@example.org", macB: "alice@example.org"}
	cfg.Access[1].Identity.Table = cfg.Access[0].Identity.Table
	return cfg
}

// The anchor gives a session to another interface of the host: the old one loses it here and now, and nobody deregisters
// it, for it lives on.
func TestAnchorMovesSession(t *testing.T) {
	b := newBench(t, twoInterfaces())
	first := b.bind(3, macA)
	b.mld(4, macB)
	n := len(b.frames)
	b.answer(b.pbu(), reply{}) // the same prefix and address
	b.none()
	b.state(macA, idle)
	b.state(macB, active)
	for k, v := range b.keys() {
		if v.Match.MAC != macB || v.Match.If != 4 || v.ID == first.id {
			t.Errorf("key %v: %+v", k, v)
		}
	}
	if len(b.keys()) != 2 {
		t.Errorf("keys %v", b.keys())
	}
	if ras := b.ras(n); len(ras) == 0 || ras[0][hnp] != 0 {
		t.Errorf("not withdrawn on the old interface: %v", ras)
	}
	// The old interface shows itself: it is there, so it gets a session of its own.
	b.clock(sec)
	b.mld(3, macA)
	if u := b.pbu(); u.handoff() != mobility.HandoffNewInterface || u.hnps()[0] != zero6 || u.v4() != anyIPv4 {
		t.Errorf("update %v", u)
	}
	b.state(macB, active)
}

// Only a part of a session moves: the rest is registered again as it is.
func TestAnchorMovesPart(t *testing.T) {
	b := newBench(t, twoInterfaces())
	b.bind(3, macA)
	b.mld(4, macB)
	b.answer(b.pbu(), reply{no6: true, lifetime: 20 * sec})
	var of [2]int
	for _, k := range b.keys() {
		of[k.Match.If-3]++
	}
	if of != [2]int{1, 1} {
		t.Errorf("keys %v", b.keys())
	}
	if u := b.pbu(); u.handoff() != mobility.HandoffReRegistration || u.hnps()[0] != hnp {
		t.Errorf("update %v", u)
	}
	b.state(macA, refreshing)
}

// A deregistration that lost a part meanwhile ends the rest.
func TestLosesWhileLeaving(t *testing.T) {
	b := newBench(t, twoInterfaces())
	b.bind(3, macA)
	b.do(core.Command{Body: core.Detach{If: "acc0", MAC: macA}})
	b.pbu()
	b.mld(4, macB)
	b.answer(b.pbu(), reply{no6: true})
	b.until(2 * sec)
	b.state(macA, gone)
	if k := b.keys(); len(k) != 1 || k[netip.MustParsePrefix("10.20.0.10/32")].Match.MAC != macB {
		t.Errorf("keys %v", k)
	}
}

// IPv4 was given back while a refresh was due or out: the refresh follows the answer.
func TestRefreshAfterRelease(t *testing.T) {
	release := dhcpv4.WithClientIP(net.IP(hoa.Addr().AsSlice()))
	for _, tc := range []struct {
		at        time.Duration
		answered  bool
		refreshes time.Duration
	}{
		{17500 * ms, false, 18500 * ms}, // due while the release is out: after INITIAL_BINDACK_TIMEOUT
		{18200 * ms, true, 18200 * ms},  // out already: again, without IPv4
		{18200 * ms, false, 19200 * ms},
		{5 * sec, true, 18 * sec},
	} {
		b := newBench(t, testConfig())
		b.bind(3, macA)
		b.until(tc.at)
		b.pbus()
		b.dhcp(3, macA, dhcpv4.MessageTypeRelease, release)
		u := b.pbu()
		if u.Lifetime != 0 || u.handoff() != mobility.HandoffUnknown {
			t.Errorf("%v: %v", tc.at, u)
		}
		if tc.answered {
			b.answer(u, reply{})
		}
		b.until(tc.refreshes)
		us := b.pbus()
		if len(us) != 1 || us[0].at != tc.refreshes || us[0].v4().IsValid() || us[0].Lifetime == 0 {
			t.Errorf("released at %v: refreshed by %v", tc.at, us)
			continue
		}
		b.answer(us[0], reply{})
		b.state(macA, active)
	}
}

// A release that the anchor refuses, or answers with wrong identifiers, changes nothing about IPv6.
func TestReleaseRefused(t *testing.T) {
	for _, r := range []reply{{status: mobility.ReasonUnspecified}, {att: 5}} {
		b := newBench(t, testConfig())
		b.bind(3, macA)
		b.dhcp(3, macA, dhcpv4.MessageTypeRelease, dhcpv4.WithClientIP(net.IP(hoa.Addr().AsSlice())))
		b.answer(b.pbu(), r)
		b.state(macA, active)
		b.until(18 * sec)
		b.answer(b.pbu(), reply{})
		b.state(macA, active)
		if len(b.keys()) != 1 {
			t.Errorf("keys %v", b.keys())
		}
	}
}

func TestDeregistrationRefused(t *testing.T) {
	for _, r := range []reply{{status: mobility.MAGNotAuthorized}, {hi: 1}} {
		b := newBench(t, testConfig())
		b.bind(3, macA)
		b.do(core.Command{Body: core.Detach{If: "acc0", MAC: macA}})
		b.answer(b.pbu(), r)
		b.state(macA, gone)
		if len(b.keys()) != 0 {
			t.Errorf("keys %v", b.keys())
		}
	}
}

// News from other watchers of the link.
func TestSeenGone(t *testing.T) {
	b := newBench(t, testConfig())
	b.bind(3, macA)
	for _, ev := range []core.Seen{
		{If: 3, MAC: macA, By: "nud", Gone: true}, // not in detach-on
		{If: 4, MAC: macA, By: "link", Gone: true},
		{If: 3, MAC: macB, By: "link", Gone: true},
		{If: 77, MAC: macA, By: "link", Gone: true},
	} {
		b.do(ev)
		b.state(macA, active)
	}
	b.counted(wire.InterfaceUnsupported, 1)
	b.do(core.Seen{If: 3, MAC: macA, By: "link", Gone: true})
	b.state(macA, deregistering)
}

// Reports of the data plane that are about no host on a link change nothing.
func TestReports(t *testing.T) {
	b := newBench(t, testConfig())
	for _, r := range []core.Reported{
		{Reason: string(wire.WrongTunnel), Inner: core.Match{If: 3, MAC: macA}},
		{Reason: string(wire.UnknownHost), Inner: core.Match{If: 77, MAC: macA}},
		{Reason: string(wire.UnknownHost), Inner: core.Match{If: 3}},
	} {
		b.do(r)
	}
	b.none()
	// A forged source on the link where the host is: it stays as it is.
	e := b.bind(3, macA)
	b.do(core.Reported{Reason: string(wire.WrongSource), Inner: core.Match{If: 3, MAC: macA, Src: netip.MustParsePrefix("10.9.9.9/32")}})
	b.none()
	if s := b.m.status(); s.Counters["reported-wrong-source"] != 1 || e.state != active {
		t.Errorf("status %+v", s)
	}
}

// A silent host on a link whose state is the only thing to go by: it is refreshed, and not while the link is down.
func TestRefreshWhileLinkIsDown(t *testing.T) {
	cfg := testConfig()
	cfg.Access[0].DetachOn = []string{"api"}
	b := newBench(t, cfg)
	b.bind(3, macA)
	b.do(core.HostChanged{Op: core.HostOp{Kind: "link", If: 3}, Up: false})
	b.until(30 * sec)
	b.none()
	b.do(core.HostChanged{Op: core.HostOp{Kind: "link", If: 3}, Up: true})
	b.until(31 * sec)
	b.answer(b.pbu(), reply{})
	b.state(macA, active)
}

// Failures that nobody waits for, and commands about nothing.
func TestStrayResults(t *testing.T) {
	b := newBench(t, testConfig())
	b.do(core.Done{Err: errors.New("network is down")})
	b.do(core.Done{Ref: 99})
	b.counted(wire.SendFailed, 1)
	b.do(core.Told{Body: "nothing"})
	b.do(core.Message{Path: core.Path{Remote: netip.AddrPortFrom(lmaa, 0), Local: netip.AddrPortFrom(coa, 0)}})
	b.counted(wire.UnsupportedMessage, 1)
	b.do(core.Message{Path: core.Path{Remote: netip.AddrPortFrom(lmaa, 0)}, Err: errors.New("strange")})
	b.counted(wire.Malformed, 1)
	b.do(core.Message{Path: core.Path{Remote: netip.AddrPortFrom(lmaa, 0)}, Err: wire.TooLong})
	b.counted(wire.TooLong, 1)
}

// The host's profile chooses its anchor; an answer of the other one does not count.
func TestProfileAnchor(t *testing.T) {
	cfg := testConfig()
	cfg.Anchors = append(cfg.Anchors, Anchor{Name: "lma2", Address: lmaa2, Dialect: Draft02})
	cfg.Profiles = []Profile{{ID: idA, Anchor: "lma2"}}
	b := newBench(t, cfg)
	b.mld(3, macA)
	u := b.pbu()
	if u.to != lmaa2 || !u.Options.Has(mobility.OptIPv4HomeAddress) {
		t.Errorf("to %v: %v", u.to, u)
	}
	b.receive(lmaa, reply{}.ack(u))
	b.state(macA, registering)
	b.answer(u, reply{})
	b.state(macA, active)
	if x, err := b.m.explain(idA); err != nil || x.Profile != "profile "+idA || x.Bindings[0].Anchor != lmaa2 {
		t.Errorf("explanation %+v %v", x, err)
	}
	if s, ok := b.session(x0(b)); !ok || s.Chain.Layer[0].Remote.Addr() != lmaa2 {
		t.Errorf("session %+v", s)
	}
}

func x0(b *bench) core.ID { return b.m.hosts[macA].id }

func TestRouterOf(t *testing.T) {
	for home, want := range map[string]string{
		"10.20.0.10/16": "10.20.0.1", "10.20.0.1/16": "10.20.0.2", "192.0.2.6/31": "192.0.2.7", "192.0.2.7/31": "192.0.2.6", "192.0.2.9/32": "192.0.2.10",
	} {
		if got := routerOf(netip.MustParsePrefix(home)); got != netip.MustParseAddr(want) {
			t.Errorf("%s: router %v, want %s", home, got, want)
		}
	}
}

// A refusal ends what is proposed: the next try asks for any address.
func TestRetryAsksForAny(t *testing.T) {
	b := newBench(t, testConfig())
	b.bind(3, macA)
	b.until(18 * sec)
	b.answer(b.pbu(), reply{status: mobility.InsufficientResources, no4: true})
	b.until(23 * sec)
	if u := b.pbu(); u.hnps()[0] != zero6 || u.v4() != anyIPv4 {
		t.Errorf("retry %v", u)
	}
}

func TestBackOff(t *testing.T) {
	for tries, want := range []time.Duration{5 * sec, 10 * sec, 20 * sec, 40 * sec, 60 * sec, 60 * sec} {
		if got := backOff(5*sec, time.Minute, tries); got != want {
			t.Errorf("after %d refusals %v, want %v", tries, got, want)
		}
	}
	if got := backOff(sec, time.Minute, 1000); got != time.Minute {
		t.Errorf("after 1000 refusals %v", got)
	}
}

func TestIllegalTransition(t *testing.T) {
	b := newBench(t, testConfig())
	e := b.bind(3, macA)
	b.m.setState(e, refused, "test")
	b.m.setState(e, idle, "test")
	defer func() {
		if recover() == nil {
			t.Error("an illegal transition passed")
		}
		b.m.strict = false
		b.m.setState(e, active, "test")
		if b.m.counts["illegal-transition"] != 1 {
			t.Error("not counted")
		}
	}()
	b.m.setState(e, active, "test")
}

// What a released IPv4-only host may do: nothing registers IPv4 again but DHCP.
func TestFamiliesAfterRelease(t *testing.T) {
	cfg := testConfig()
	cfg.Profiles = []Profile{{ID: idA, Families: access.V4}}
	b := newBench(t, cfg)
	b.bind(3, macA)
	b.dhcp(3, macA, dhcpv4.MessageTypeRelease, dhcpv4.WithClientIP(net.IP(hoa.Addr().AsSlice())))
	b.pbu()
	b.mld(3, macA)
	b.arp(3, macA, hoa.Addr())
	b.until(5 * sec)
	b.none()
}
