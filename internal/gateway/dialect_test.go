package gateway

import (
	"net"
	"net/netip"
	"testing"

	"github.com/insomniacslk/dhcp/dhcpv4"

	"kedge/internal/access"
	"kedge/internal/core"
	"kedge/internal/spec"
	"kedge/wire"
	"kedge/wire/mobility"
)

func autoConfig(f access.Families) Config {
	cfg := testConfig()
	cfg.Anchors[0].Dialect = Auto
	cfg.Profiles = []Profile{{ID: idA, Families: f}, {ID: idB, Families: f}}
	return cfg
}

func draft(u update) bool { return u.Options.Has(mobility.OptIPv4HomeAddress) }

// Three updates without an answer (after 1, 2 and 4 s), then the other dialect, and back.
func TestFallBackOnSilence(t *testing.T) {
	b := newBench(t, autoConfig(access.V4|access.V6))
	b.mld(3, macA)
	b.until(7*sec - 1)
	for _, u := range b.pbus() {
		if draft(u) {
			t.Fatalf("fell back too early: at %v", u.at)
		}
	}
	b.until(7 * sec)
	if u := b.pbu(); !draft(u) || u.Options.Has(mobility.OptIPv4HomeAddressRequest) {
		t.Fatalf("after three tries: %v", u)
	}
	b.until(14 * sec)
	us := b.pbus()
	if u := us[len(us)-1]; u.at != 14*sec || draft(u) {
		t.Errorf("after three more at %v: %v", u.at, u)
	}
	b.answer(us[len(us)-1], reply{})
	b.state(macA, active)
	// Proven: silence does not change it again.
	b.mld(3, macB)
	b.until(50 * sec)
	for _, u := range b.pbus() {
		if draft(u) {
			t.Errorf("a proven dialect was given up at %v", u.at)
		}
	}
}

// 158 for an update with IPv4 only means that option 36 was not understood.
func TestFallBackOn158(t *testing.T) {
	b := newBench(t, autoConfig(access.V4))
	b.mld(3, macA)
	b.answer(b.pbu(), reply{status: mobility.MissingHNPOption, no4: true})
	u := b.pbu()
	if !draft(u) || u.v4() != anyIPv4 {
		t.Fatalf("next update %v", u)
	}
	b.answer(u, reply{})
	b.state(macA, active)
	if g := b.m.bindings("")[0]; g.Dialect != string(Draft02) || g.IPv4 != hoa || g.Router4 != netip.MustParseAddr("10.20.0.1") {
		t.Errorf("binding %+v", g)
	}
	// The next host begins where this one ended.
	b.mld(3, macB)
	if u := b.pbu(); !draft(u) {
		t.Errorf("the anchor's dialect was forgotten: %v", u)
	}
	// A second 158 would be about something else.
	b.answer(update{b.out[len(b.out)-1], b.out[len(b.out)-1].body.(*mobility.BindingUpdate)}, reply{status: mobility.MissingHNPOption, no4: true})
	b.state(macB, refused)
}

// An acceptance with prefixes but no word about IPv4: IPv6 works at once, and IPv4 is asked for in the other dialect.
func TestFallBackOnMissingOption(t *testing.T) {
	b := newBench(t, autoConfig(access.V4|access.V6))
	b.mld(3, macA)
	b.answer(b.pbu(), reply{no4: true})
	if len(b.keys()) != 1 {
		t.Errorf("IPv6 does not work: %v", b.keys())
	}
	u := b.pbu()
	if !draft(u) || u.handoff() != mobility.HandoffReRegistration || u.hnps()[0] != hnp {
		t.Fatalf("next update %v", u)
	}
	b.answer(u, reply{})
	if len(b.keys()) != 2 {
		t.Errorf("keys %v", b.keys())
	}
}

// An anchor without IPv4 in any dialect: both are tried once, then IPv6 alone stays.
func TestNoIPv4InAnyDialect(t *testing.T) {
	b := newBench(t, autoConfig(access.V4|access.V6))
	b.mld(3, macA)
	b.answer(b.pbu(), reply{no4: true})
	b.answer(b.pbu(), reply{no4: true})
	b.state(macA, active)
	b.none()
	b.until(4 * sec)
	b.none()
	if len(b.keys()) != 1 {
		t.Errorf("keys %v", b.keys())
	}
}

// IPv4 only, accepted without any address: ignored, and tried in the other dialect at once.
func TestFallBackOnEmptyAcceptance(t *testing.T) {
	b := newBench(t, autoConfig(access.V4))
	b.mld(3, macA)
	b.answer(b.pbu(), reply{no4: true})
	b.counted(wire.NoAddressInAnswer, 1)
	u := b.pbu()
	if !draft(u) {
		t.Fatalf("next update %v", u)
	}
	b.answer(u, reply{})
	b.state(macA, active)
}

// What an anchor answers about IPv4 in the dialect it was not asked in does not count.
func TestOtherDialectInAnswer(t *testing.T) {
	cfg := testConfig()
	b := newBench(t, cfg)
	b.mld(3, macA)
	b.answer(b.pbu(), reply{dialect: Draft02})
	if len(b.keys()) != 1 {
		t.Errorf("an option 30 answered option 36: %v", b.keys())
	}
}

func TestConfiguredDialectStays(t *testing.T) {
	for _, d := range []Dialect{RFC5844, Draft02} {
		cfg := autoConfig(access.V4)
		cfg.Anchors[0].Dialect = d
		b := newBench(t, cfg)
		b.mld(3, macA)
		b.until(100 * sec)
		for _, u := range b.pbus() {
			if draft(u) != (d == Draft02) {
				t.Errorf("%s: %v", d, u)
			}
		}
	}
}

// The profile's static address goes into the option as it is, with its length, in both dialects and from the first update
// of any gateway that has the profile.
func TestStaticAddress(t *testing.T) {
	spec.Covers(t, "S001-3.1-04", "S001-3.1-05", "S001-3.1-06", "S001-3.2.2-06", "S001-3.2.2-37")
	for _, d := range []Dialect{RFC5844, Draft02} {
		for _, coa2 := range []string{"2001:db8:a::11", "2001:db8:a::12"} {
			cfg := testConfig()
			cfg.Address = netip.MustParseAddr(coa2)
			cfg.Anchors[0].Dialect = d
			cfg.Profiles = []Profile{{ID: idA, IPv4: netip.MustParsePrefix("192.0.2.77/26")}}
			b := newBench(t, cfg)
			b.mld(3, macA)
			if u := b.pbu(); u.v4() != netip.MustParsePrefix("192.0.2.77/26") {
				t.Errorf("%s: %v", d, u)
			}
			b = newBench(t, cfg)
			b.dhcp(3, macA, dhcpv4.MessageTypeDiscover, dhcpv4.WithOption(dhcpv4.OptRequestedIPAddress(net.IPv4(10, 20, 0, 10))))
			if u := b.pbu(); u.v4() != netip.MustParsePrefix("192.0.2.77/26") {
				t.Errorf("%s: what the host asks for counts more than its profile: %v", d, u)
			}
			b.mld(3, macB)
			if u := b.pbu(); u.v4() != anyIPv4 {
				t.Errorf("%s: a host without a profile asks for %v", d, u.v4())
			}
		}
	}
}

// A profile may name only a network: any host of it is right, and nothing else.
func TestNetworkAsProposal(t *testing.T) {
	for addr, ok := range map[string]bool{"10.20.3.4/24": true, "10.20.4.4/24": false} {
		cfg := testConfig()
		cfg.Profiles = []Profile{{ID: idA, Families: access.V4, IPv4: netip.MustParsePrefix("10.20.3.0/24")}}
		b := newBench(t, cfg)
		b.mld(3, macA)
		b.answer(b.pbu(), reply{v4: netip.MustParsePrefix(addr)})
		if got := b.m.hosts[macA].state == active; got != ok {
			t.Errorf("%s accepted: %v, want %v", addr, got, ok)
		}
	}
}

// The address that a host got is recorded in its profile: the next gateway that shares the store asks for it.
func TestLearnedAddress(t *testing.T) {
	spec.Covers(t, "S001-3.2.2-40", "S001-3.2.2-41")
	cfg := testConfig()
	cfg.Anchors[0].Dialect = Draft02
	b := newBench(t, cfg)
	b.bind(3, macA)
	b.do(core.Command{Body: core.Detach{If: "acc0", MAC: macA}})
	b.answer(b.pbu(), reply{})
	cfg.Address = netip.MustParseAddr("2001:db8:a::12")
	next := b.restart(cfg, zeros{}, b.stored(), 0)
	next.mld(3, macA)
	us := next.pbus()
	if len(us) != 1 || us[0].v4() != hoa {
		t.Errorf("first update of the next gateway: %v", us)
	}
}
