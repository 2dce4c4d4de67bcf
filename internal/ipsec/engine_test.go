package ipsec

import (
	"bytes"
	"errors"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"kedge/internal/core"
	"kedge/internal/ipsec/rfc4285"
	"kedge/internal/spec"
	"kedge/wire"
	"kedge/wire/ip"
)

var (
	agent  = netip.MustParseAddr("2001:db8:1::1")
	home1  = netip.MustParseAddr("2001:db8:1::100")
	home2  = netip.MustParseAddr("2001:db8:1::200")
	careOf = netip.MustParseAddr("2001:db8:2::5")
	other  = netip.MustParseAddr("2001:db8:4::5")
	cn     = netip.MustParseAddr("2001:db8:5::2")
	mapped = netip.MustParseAddr("::ffff:192.0.2.7")
)

func at(d time.Duration) core.Now { return core.Now{Boot: d, Wall: time.Unix(1_700_000_000, 0).Add(d)} }

func testSA(tb testing.TB, use Use, suite Suite, spi uint32) SA {
	tb.Helper()
	return SA{Use: use, SPIIn: spi, SPIOut: spi + 1, Keys: Keys{Suite: suite, In: testHalf(tb, suite, byte(spi)), Out: testHalf(tb, suite, byte(spi+1))}}
}

func swap(sa SA) SA {
	sa.SPIIn, sa.SPIOut, sa.Keys = sa.SPIOut, sa.SPIIn, sa.Keys.Swapped()
	return sa
}

func mustNew(tb testing.TB, c Counters, peers ...Peer) *Engine {
	tb.Helper()
	e, err := New(Config{Peers: peers}, c)
	if err != nil {
		tb.Fatal(err)
	}
	return e
}

// pair is a home agent with two hosts, and the first of them.
func pair(tb testing.TB, suite Suite) (ha, mn *Engine) {
	tb.Helper()
	sas := []SA{testSA(tb, Signalling, suite, 0x1001), testSA(tb, PrefixDiscovery, suite, 0x1003)}
	if suite.confidential() {
		sas = append(sas, testSA(tb, ReturnRoutability, suite, 0x1005), testSA(tb, Payload, suite, 0x1007))
	}
	var theirs []SA
	for _, s := range sas {
		theirs = append(theirs, swap(s))
	}
	ha = mustNew(tb, &Volatile{},
		Peer{Name: "mn1", Homes: []netip.Addr{home1}, Own: []netip.Addr{agent}, Protection: ESP, SAs: sas},
		Peer{Name: "mn2", Homes: []netip.Addr{home2}, Protection: ESP, SAs: []SA{testSA(tb, Signalling, suite, 0x2001)}})
	mn = mustNew(tb, &Volatile{}, Peer{Name: "ha1", Addresses: []netip.Prefix{netip.PrefixFrom(agent, 128)}, Own: []netip.Addr{home1}, Protection: ESP, SAs: theirs})
	return ha, mn
}

// header8 is a Mobility Header of 8 octets more than its minimum.
func mh(typ uint8) []byte { return []byte{59, 1, typ, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10} }

// toAgent is Traffic of a Binding Update as the node and as its home agent see it.
func toAgent(typ uint8) (node, ha Traffic) {
	return Traffic{Local: careOf, LocalHome: home1, Remote: agent, Proto: ProtoMH, Type: typ},
		Traffic{Local: agent, Remote: careOf, RemoteHome: home1}
}

func reasonOf(err error) wire.Reason {
	var w *wire.Error
	if errors.As(err, &w) {
		return w.Reason
	}
	return ""
}

func TestBindingUpdateAndAcknowledgement(t *testing.T) {
	spec.Covers(t, "RFC4877-6.1", "RFC4877-4.2", "RFC4301-5.2")
	for _, suite := range []Suite{"aes128-sha256", "null-sha512", "aes256-sha1"} {
		ha, mn := pair(t, suite)
		for round := range 3 {
			tm, th := toAgent(5)
			esp, next, auth, err := mn.Outbound(at(0), tm, mh(5), nil)
			if err != nil || next != ProtoESP || auth != (core.Auth{Kind: KindESP, SPI: 0x1001, Peer: "ha1"}) {
				t.Fatal(next, auth, err)
			}
			got, proto, auth, err := ha.Inbound(at(0), th, esp, nil)
			if err != nil || proto != ProtoMH || !bytes.Equal(got, mh(5)) || auth != (core.Auth{Kind: KindESP, SPI: 0x1001, Peer: "mn1"}) {
				t.Fatal(got, proto, auth, err)
			}
			th.Proto, th.Type = proto, 5
			if again, err := ha.Check(at(0), th, auth); err != nil || again != auth {
				t.Fatal(again, err)
			}
			back := Traffic{Local: agent, Remote: careOf, RemoteHome: home1, Proto: ProtoMH, Type: 6}
			if esp, _, _, err = ha.Outbound(at(0), back, mh(6), nil); err != nil {
				t.Fatal(err)
			}
			if got, _, auth, err = mn.Inbound(at(0), Traffic{Local: careOf, LocalHome: home1, Remote: agent}, esp, nil); err != nil || !bytes.Equal(got, mh(6)) || auth.Peer != "ha1" {
				t.Fatal(round, got, auth, err)
			}
		}
	}
}

// TestCareOfDoesNotMatter: one association by the IPv6 home address serves any care-of address, also a mapped IPv4 one and none
// at all, as in UDP.
func TestCareOfDoesNotMatter(t *testing.T) {
	spec.Covers(t, "S004-4-02", "RFC5555-5")
	ha, mn := pair(t, "aes128-sha256")
	for _, tm := range []Traffic{
		{Local: careOf, LocalHome: home1, Remote: agent},
		{Local: other, LocalHome: home1, Remote: agent},
		{Local: mapped, LocalHome: home1, Remote: agent}, // draft-soliman-00, protocol 41
		{Local: home1, Remote: agent},                    // RFC 5555, UDP; and at home
	} {
		tm.Proto, tm.Type = ProtoMH, 5
		esp, next, _, err := mn.Outbound(at(0), tm, mh(5), nil)
		if err != nil || next != ProtoESP {
			t.Fatal(tm, next, err)
		}
		th := Traffic{Local: tm.Remote, Remote: tm.Local, RemoteHome: tm.LocalHome}
		if _, _, auth, err := ha.Inbound(at(0), th, esp, nil); err != nil || auth.SPI != 0x1001 {
			t.Errorf("%v: %v %v", tm, auth, err)
		}
	}
}

func TestRefused(t *testing.T) {
	spec.Covers(t, "S004-3.3-12", "RFC4877-4.2", "RFC4303-3.4")
	seal := func(mn *Engine, typ uint8) []byte {
		tm, _ := toAgent(typ)
		esp, _, _, err := mn.Outbound(at(0), tm, mh(typ), nil)
		if err != nil {
			t.Fatal(err)
		}
		return esp
	}
	_, good := toAgent(5)
	foreign, noHome := good, good
	foreign.RemoteHome, noHome.RemoteHome = home2, netip.Addr{}
	for _, c := range []struct {
		name    string
		traffic Traffic
		change  func(esp []byte) []byte
		want    wire.Reason
	}{
		{"right ESP for another home address", foreign, nil, wire.WrongAssociation},
		{"right ESP without Home Address option", noHome, nil, wire.WrongAssociation},
		{"wrong ICV", good, func(b []byte) []byte { b[len(b)-1] ^= 1; return b }, wire.BadICV},
		{"changed payload", good, func(b []byte) []byte { b[30] ^= 1; return b }, wire.BadICV},
		{"changed sequence number", good, func(b []byte) []byte { b[7]++; return b }, wire.BadICV},
		{"another's SPI", good, func(b []byte) []byte { copy(b, []byte{0, 0, 0x20, 1}); return b }, wire.BadICV},
		{"unknown SPI", good, func(b []byte) []byte { b[0] = 9; return b }, wire.UnknownSPI},
		{"sequence number 0", good, func(b []byte) []byte { copy(b[4:], []byte{0, 0, 0, 0}); return b }, wire.Replayed},
		{"SPI 0", good, func(b []byte) []byte { return make([]byte, 8) }, wire.UnknownSPI},
		{"empty", good, func(b []byte) []byte { return nil }, wire.Truncated},
		{"header only", good, func(b []byte) []byte { return b[:8] }, wire.Truncated},
		{"one block short", good, func(b []byte) []byte { return b[:len(b)-16] }, wire.BadICV},
		{"one octet short", good, func(b []byte) []byte { return b[:len(b)-1] }, wire.BadLength},
		{"one octet long", good, func(b []byte) []byte { return append(b, 0) }, wire.BadLength},
	} {
		t.Run(c.name, func(t *testing.T) {
			ha, mn := pair(t, "aes128-sha256")
			esp := seal(mn, 5)
			if c.change != nil {
				esp = c.change(bytes.Clone(esp))
			}
			before := []byte("before")
			out, _, auth, err := ha.Inbound(at(0), c.traffic, esp, before)
			if reasonOf(err) != c.want || !errors.Is(err, c.want) || auth != (core.Auth{}) || string(out) != "before" {
				t.Fatalf("%q %v %v, want %s", out, auth, err, c.want)
			}
			if d := cmp.Diff(map[wire.Reason]uint64{c.want: 1}, ha.Drops()); d != "" {
				t.Error(d)
			}
		})
	}
	t.Run("replayed", func(t *testing.T) {
		ha, mn := pair(t, "aes128-sha256")
		first, second := seal(mn, 5), seal(mn, 5)
		for i, c := range []struct {
			esp  []byte
			want wire.Reason
		}{{second, ""}, {first, ""}, {first, wire.Replayed}, {second, wire.Replayed}} {
			if _, _, _, err := ha.Inbound(at(0), good, c.esp, nil); reasonOf(err) != c.want {
				t.Errorf("packet %d: %v, want %q", i, err, c.want)
			}
		}
		if n := ha.Drops()[wire.Replayed]; n != 2 {
			t.Errorf("%d counted", n)
		}
	})
	t.Run("a forged number does not move the window", func(t *testing.T) {
		ha, mn := pair(t, "aes128-sha256")
		esp := seal(mn, 5)
		forged := bytes.Clone(esp)
		copy(forged[4:], []byte{0xff, 0xff, 0xff, 0xff})
		if _, _, _, err := ha.Inbound(at(0), good, forged, nil); reasonOf(err) != wire.BadICV {
			t.Fatal(err)
		}
		if _, _, _, err := ha.Inbound(at(0), good, esp, nil); err != nil {
			t.Error(err)
		}
	})
	t.Run("our own packet sent back", func(t *testing.T) {
		_, mn := pair(t, "aes128-sha256")
		if _, _, _, err := mn.Inbound(at(0), Traffic{Local: careOf, LocalHome: home1, Remote: agent}, seal(mn, 5), nil); reasonOf(err) != wire.UnknownSPI {
			t.Error(err)
		}
	})
	t.Run("another use's association", func(t *testing.T) { // a Binding Update in the association of prefix discovery
		ha, mn := pair(t, "aes128-sha256")
		p := mn.peers["ha1"]
		esp, _, _, err := mn.seal(at(0), &Traffic{}, p, PrefixDiscovery, ProtoMH, mh(5), nil)
		if err != nil {
			t.Fatal(err)
		}
		if _, _, _, err := ha.Inbound(at(0), good, esp, nil); reasonOf(err) != wire.WrongAssociation {
			t.Error(err)
		}
	})
}

func TestDummyAndTFC(t *testing.T) {
	spec.Covers(t, "RFC4303-2.6", "RFC4303-2.7")
	ha, mn := pair(t, "aes128-sha256")
	_, th := toAgent(5)
	p := mn.peers["ha1"]
	dummy, _, _, _ := mn.seal(at(0), &Traffic{}, p, Signalling, protoNone, []byte("anything"), nil)
	if _, _, _, err := ha.Inbound(at(0), th, dummy, nil); reasonOf(err) != wire.DummyPacket {
		t.Error(err)
	}
	padded, _, _, _ := mn.seal(at(0), &Traffic{}, p, Signalling, ProtoMH, append(mh(5), make([]byte, 300)...), nil)
	if got, _, _, err := ha.Inbound(at(0), th, padded, nil); err != nil || !bytes.Equal(got, mh(5)) {
		t.Error(got, err)
	}
	short, _, _, _ := mn.seal(at(0), &Traffic{}, p, Signalling, ProtoMH, []byte{59, 0}, nil)
	if _, _, _, err := ha.Inbound(at(0), th, short, nil); reasonOf(err) != wire.Truncated {
		t.Error(err)
	}
}

func TestPolicy(t *testing.T) {
	spec.Covers(t, "RFC4877-5", "RFC4877-6.1", "RFC4877-6.2", "RFC4877-6.3")
	ha, mn := pair(t, "aes128-sha256")
	gateway := netip.MustParseAddr("2001:db8:a::11")
	key := rfc4285.Association{SPI: 700, Key: make([]byte, 16)}
	lma := mustNew(t, &Volatile{},
		Peer{Name: "mag1", Addresses: []netip.Prefix{netip.PrefixFrom(gateway, 128)}, Protection: ESP, SAs: []SA{testSA(t, Signalling, "aes128-sha256", 0x101)}},
		Peer{Name: "mag4", Addresses: []netip.Prefix{netip.MustParsePrefix("198.51.100.11/32")}, Protection: ESP, SAs: []SA{testSA(t, Signalling, "aes128-sha256", 0x111)}},
		Peer{Name: "lab", Addresses: []netip.Prefix{netip.MustParsePrefix("2001:db8:a::/48")}, Protection: None},
		Peer{Name: "auth", Homes: []netip.Addr{home2}, Protection: RFC4285, Mobility: key})
	v4 := netip.MustParseAddr("198.51.100.11")
	for _, e := range []*Engine{ha, mn} {
		for _, name := range []string{"mn1", "ha1"} {
			if e.peers[name] != nil {
				l, r := agent, careOf
				if e == mn {
					l, r = careOf, agent
				}
				if err := e.UpdateEndpoint(name, home1, l, r); err != nil {
					t.Fatal(err)
				}
			}
		}
	}
	sig := Verdict{Protect, "mn1", Signalling}
	for _, c := range []struct {
		name string
		e    *Engine
		t    Traffic
		want Verdict
	}{
		{"ha: BU", ha, Traffic{Local: agent, Remote: careOf, RemoteHome: home1, Proto: 135, Type: 5}, sig},
		{"ha: BRR", ha, Traffic{Local: agent, Remote: home1, Proto: 135, Type: 0}, sig},
		{"ha: revocation", ha, Traffic{Local: agent, Remote: home1, Proto: 135, Type: 16}, sig},
		{"ha: unknown type", ha, Traffic{Local: agent, Remote: home1, Proto: 135, Type: 99}, sig},
		{"ha: MPS", ha, Traffic{Local: agent, Remote: home1, Proto: 58, Type: 146}, Verdict{Protect, "mn1", PrefixDiscovery}},
		{"ha: MPA of a peer without an association for it", ha, Traffic{Local: agent, Remote: home2, Proto: 58, Type: 147}, Verdict{Protect, "mn2", Signalling}},
		{"ha: HoTI", ha, Traffic{Local: cn, Remote: home1, Proto: 135, Type: 1}, Verdict{Protect, "mn1", ReturnRoutability}},
		{"ha: HoT", ha, Traffic{Local: cn, Remote: home1, Proto: 135, Type: 3, Out: true}, Verdict{Protect, "mn1", ReturnRoutability}},
		{"ha: HoTI of another for the host, its correspondent", ha, Traffic{Local: cn, Remote: home1, Proto: 135, Type: 1, Out: true}, Verdict{Protect, "mn1", Payload}},
		{"ha: HoT of the host, a correspondent", ha, Traffic{Local: cn, Remote: home1, Proto: 135, Type: 3}, Verdict{Protect, "mn1", Payload}},
		{"ha: HoT for a peer without tunnel", ha, Traffic{Local: cn, Remote: home2, Proto: 135, Type: 3, Out: true}, Verdict{Bypass, "mn2", 0}},
		{"ha: payload", ha, Traffic{Local: cn, Remote: home1, Proto: 6}, Verdict{Protect, "mn1", Payload}},
		{"ha: DHAAD", ha, Traffic{Local: agent, Remote: careOf, Proto: 58, Type: 144}, Verdict{}},
		{"ha: stranger", ha, Traffic{Local: agent, Remote: careOf, Proto: 135, Type: 5}, Verdict{}},
		{"ha: stranger's home", ha, Traffic{Local: agent, Remote: careOf, RemoteHome: other, Proto: 135, Type: 5}, Verdict{}},
		{"mn: BU", mn, Traffic{Local: careOf, LocalHome: home1, Remote: agent, Proto: 135, Type: 5}, Verdict{Protect, "ha1", Signalling}},
		{"mn: BA to the care-of address", mn, Traffic{Local: careOf, Remote: agent, Proto: 135, Type: 6}, Verdict{Discard, "ha1", 0}},
		{"mn: Binding Error to the care-of address", mn, Traffic{Local: careOf, Remote: agent, Proto: 135, Type: 7}, Verdict{}},
		{"mn: CoTI", mn, Traffic{Local: careOf, Remote: cn, Proto: 135, Type: 2}, Verdict{}},
		{"mn: HoTI", mn, Traffic{Local: home1, Remote: cn, Proto: 135, Type: 1, Out: true}, Verdict{Protect, "ha1", ReturnRoutability}},
		{"mn: HoT", mn, Traffic{Local: home1, Remote: cn, Proto: 135, Type: 3}, Verdict{Protect, "ha1", ReturnRoutability}},
		{"mn: HoTI of another", mn, Traffic{Local: home1, Remote: cn, Proto: 135, Type: 1}, Verdict{Protect, "ha1", Payload}},
		{"mn: HoT for another", mn, Traffic{Local: home1, Remote: cn, Proto: 135, Type: 3, Out: true}, Verdict{Protect, "ha1", Payload}},
		{"mn: MPA to the care-of address", mn, Traffic{Local: careOf, Remote: agent, Proto: 58, Type: 147}, Verdict{Discard, "ha1", 0}},
		{"mn: BU to a correspondent node", mn, Traffic{Local: careOf, LocalHome: other, Remote: cn, Proto: 135, Type: 5}, Verdict{}},
		{"mn: MPS", mn, Traffic{Local: careOf, LocalHome: home1, Remote: agent, Proto: 58, Type: 146}, Verdict{Protect, "ha1", PrefixDiscovery}},
		{"mn: ping", mn, Traffic{Local: careOf, Remote: agent, Proto: 58, Type: 128}, Verdict{}},
		{"lma: PBU", lma, Traffic{Local: agent, Remote: gateway, Proto: 135, Type: 5}, Verdict{Protect, "mag1", Signalling}},
		{"lma: heartbeat", lma, Traffic{Local: agent, Remote: gateway, Proto: 135, Type: 13}, Verdict{Protect, "mag1", Signalling}},
		{"lma: Binding Error", lma, Traffic{Local: agent, Remote: gateway, Proto: 135, Type: 7}, Verdict{Protect, "mag1", Signalling}},
		{"lma: HoTI", lma, Traffic{Local: agent, Remote: gateway, Proto: 135, Type: 1}, Verdict{Protect, "mag1", Signalling}},
		{"lma: ping", lma, Traffic{Local: agent, Remote: gateway, Proto: 58, Type: 128}, Verdict{Bypass, "mag1", 0}},
		{"lma: PBU over IPv4", lma, Traffic{Local: netip.MustParseAddr("198.51.100.1"), Remote: v4, Proto: 135, Type: 5}, Verdict{Protect, "mag4", Signalling}},
		{"lma: another of the laboratory", lma, Traffic{Local: agent, Remote: netip.MustParseAddr("2001:db8:a::12"), Proto: 135, Type: 5}, Verdict{Bypass, "lab", 0}},
		{"lma: unknown", lma, Traffic{Local: agent, Remote: cn, Proto: 135, Type: 5}, Verdict{}},
		{"rfc4285: BU", lma, Traffic{Local: agent, Remote: careOf, RemoteHome: home2, Proto: 135, Type: 5}, Verdict{Sign, "auth", 0}},
		{"rfc4285: BRR", lma, Traffic{Local: agent, Remote: careOf, RemoteHome: home2, Proto: 135, Type: 0}, Verdict{Bypass, "auth", 0}},
	} {
		if d := cmp.Diff(c.want, c.e.Policy(c.t)); d != "" {
			t.Errorf("%s: %s", c.name, d)
		}
	}
}

func TestCheckClear(t *testing.T) {
	spec.Covers(t, "S004-3.3-12")
	ha, mn := pair(t, "aes128-sha256")
	lab := mustNew(t, nil, Peer{Name: "lab", Addresses: []netip.Prefix{netip.MustParsePrefix("2001:db8:2::/64")}, Protection: None})
	none := core.Auth{Kind: KindNone}
	for _, c := range []struct {
		name string
		e    *Engine
		t    Traffic
		want core.Auth
		err  wire.Reason
	}{
		{"clear BU for a protected home", ha, Traffic{Local: agent, Remote: careOf, RemoteHome: home1, Proto: 135, Type: 5}, core.Auth{}, wire.Unprotected},
		{"clear BU from a protected home", ha, Traffic{Local: agent, Remote: home1, Proto: 135, Type: 5}, core.Auth{}, wire.Unprotected},
		{"clear MPS", ha, Traffic{Local: agent, Remote: home1, Proto: 58, Type: 146}, core.Auth{}, wire.Unprotected},
		{"clear HoTI while there is no tunnel", ha, Traffic{Local: cn, Remote: home1, Proto: 135, Type: 1}, none, ""},
		{"stranger", ha, Traffic{Local: agent, Remote: cn, Proto: 135, Type: 5}, none, ""},
		{"clear BA to the home address", mn, Traffic{Local: careOf, LocalHome: home1, Remote: agent, Proto: 135, Type: 6}, core.Auth{}, wire.Unprotected},
		{"clear BA to the care-of address", mn, Traffic{Local: careOf, Remote: agent, Proto: 135, Type: 6}, core.Auth{}, wire.Unprotected},
		{"protection none", lab, Traffic{Local: agent, Remote: careOf, Proto: 135, Type: 5}, core.Auth{Kind: KindNone, Peer: "lab"}, ""},
		{"no peer's", lab, Traffic{Local: agent, Remote: cn, Proto: 135, Type: 5}, none, ""},
	} {
		got, err := c.e.Check(at(0), c.t, none)
		if got != c.want || reasonOf(err) != c.err {
			t.Errorf("%s: %v %v", c.name, got, err)
		}
	}
	if n := ha.Drops()[wire.Unprotected]; n != 3 {
		t.Errorf("%d counted", n)
	}
	// What Inbound said of one message does not do for another.
	esp := core.Auth{Kind: KindESP, SPI: 0x1001, Peer: "mn1"}
	for _, bad := range []Traffic{
		{Local: agent, Remote: careOf, RemoteHome: home2, Proto: 135, Type: 5},
		{Local: agent, Remote: careOf, Proto: 135, Type: 5},
		{Local: agent, Remote: home1, Proto: 58, Type: 146},
	} {
		if _, err := ha.Check(at(0), bad, esp); reasonOf(err) != wire.WrongAssociation {
			t.Errorf("%v: %v", bad, err)
		}
	}
	good := Traffic{Local: agent, Remote: careOf, RemoteHome: home1, Proto: 135, Type: 5}
	for _, bad := range []core.Auth{{Kind: KindESP, SPI: 0x1001, Peer: "mn2"}, {Kind: KindESP, SPI: 0x2001, Peer: "mn2"}, {Kind: KindESP, SPI: 5, Peer: "mn1"}, {Kind: KindRFC4285, SPI: 5, Peer: "mn1"}} {
		if _, err := ha.Check(at(0), good, bad); reasonOf(err) != wire.WrongAssociation {
			t.Errorf("%v: %v", bad, err)
		}
	}
}

func TestRFC4285Policy(t *testing.T) {
	e := mustNew(t, nil,
		Peer{Name: "one", Homes: []netip.Addr{home1}, Protection: RFC4285, Mobility: rfc4285.Association{SPI: 700, Key: make([]byte, 16)}},
		Peer{Name: "two", Homes: []netip.Addr{home2}, Protection: RFC4285, Mobility: rfc4285.Association{SPI: 701, Key: make([]byte, 16)}})
	bu := Traffic{Local: agent, Remote: careOf, RemoteHome: home1, Proto: 135, Type: 5}
	if out, next, auth, err := e.Outbound(at(0), bu, mh(5), nil); err != nil || next != 135 || !bytes.Equal(out, mh(5)) || auth != (core.Auth{Kind: KindRFC4285, SPI: 700, Peer: "one"}) {
		t.Fatal(out, next, auth, err)
	}
	unknown := bu
	unknown.RemoteHome = netip.IPv6Unspecified()
	for _, c := range []struct {
		t    Traffic
		auth core.Auth
		want wire.Reason
	}{
		{bu, core.Auth{Kind: KindRFC4285, SPI: 700, Peer: "one"}, ""},
		{bu, core.Auth{Kind: KindRFC4285, SPI: 701, Peer: "two"}, wire.WrongAssociation},
		{bu, core.Auth{Kind: KindRFC4285, SPI: 701, Peer: "one"}, wire.WrongAssociation},
		{bu, core.Auth{Kind: KindNone}, wire.Unprotected},
		{unknown, core.Auth{Kind: KindRFC4285, SPI: 700, Peer: "one"}, wire.WrongAssociation},
	} {
		if got, err := e.Check(at(0), c.t, c.auth); reasonOf(err) != c.want || err == nil && got != c.auth {
			t.Errorf("%v %v: %v", c.t, c.auth, err)
		}
	}
	if _, name, ok := e.Mobility(701); !ok || name != "two" {
		t.Error(name, ok)
	}
	if _, _, ok := e.Mobility(5); ok {
		t.Error("an association that is not there")
	}
}

// TestTunnel: Home Test Init in tunnel mode, before and after the node moved.
func TestTunnel(t *testing.T) {
	spec.Covers(t, "RFC4877-6.2", "RFC4877-4.3", "RFC4303-2.7")
	ha, mn := pair(t, "aes128-sha256")
	inner, err := (&ip.Header{Src: home1, Dst: cn, Proto: ProtoMH, TTL: 64, TOS: 0x2a}).Append(nil, 16)
	if err != nil {
		t.Fatal(err)
	}
	inner = append(inner, mh(1)...)
	out, err := InnerTraffic(inner, true)
	if d := cmp.Diff(Traffic{Local: home1, Remote: cn, Proto: ProtoMH, Type: 1, Out: true}, out, cmp.Comparer(func(a, b netip.Addr) bool { return a == b })); d != "" || err != nil {
		t.Fatal(d, err)
	}
	// No tunnel yet: in the clear, as at home.
	if got, auth, err := mn.Tunnel(at(0), out, inner, nil); err != nil || auth.Kind != KindNone || !bytes.Equal(got, inner) {
		t.Fatal(got, auth, err)
	}
	send := func(from netip.Addr) (ip.Header, []byte) {
		t.Helper()
		if err := mn.UpdateEndpoint("ha1", home1, from, agent); err != nil {
			t.Fatal(err)
		}
		b, auth, err := mn.Tunnel(at(0), out, inner, []byte("link"))
		if err != nil || auth != (core.Auth{Kind: KindESP, SPI: 0x1005, Peer: "ha1"}) || string(b[:4]) != "link" {
			t.Fatal(auth, err)
		}
		h, err := ip.Parse(b[4:])
		if err != nil || h.Src != from || h.Dst != agent || h.Proto != ProtoESP || h.Len != len(b)-4 || h.TOS != 0x2a {
			t.Fatal(h, err)
		}
		return h, b[4+h.HdrLen:]
	}
	receive := func(h ip.Header, esp []byte) ([]byte, error) {
		got, proto, auth, err := ha.Inbound(at(0), Traffic{Local: h.Dst, Remote: h.Src}, esp, nil)
		if err == nil {
			if proto != ProtoIPv6 {
				t.Error(proto)
			}
			in, err := InnerTraffic(got, false)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := ha.Check(at(0), in, auth); err != nil {
				t.Error(err)
			}
			if _, err := ha.Check(at(0), in, core.Auth{Kind: KindNone}); reasonOf(err) != wire.Unprotected {
				t.Errorf("the same in the clear: %v", err)
			}
		}
		return got, err
	}
	h, esp := send(careOf)
	if _, err := receive(h, esp); reasonOf(err) != wire.WrongTunnel {
		t.Errorf("before a binding: %v", err)
	}
	if err := ha.UpdateEndpoint("mn1", home1, agent, careOf); err != nil {
		t.Fatal(err)
	}
	h, esp = send(careOf)
	if got, err := receive(h, esp); err != nil || !bytes.Equal(got, inner) {
		t.Errorf("%x %v", got, err)
	}
	h, esp = send(other)
	if _, err := receive(h, esp); reasonOf(err) != wire.WrongTunnel {
		t.Errorf("from a care-of address that is not bound: %v", err)
	}
	if err := ha.UpdateEndpoint("mn1", home1, agent, other); err != nil {
		t.Fatal(err)
	}
	h, esp = send(other)
	if got, err := receive(h, esp); err != nil || !bytes.Equal(got, inner) {
		t.Errorf("after the update: %x %v", got, err)
	}
	// And back, padded for traffic flow confidentiality.
	hot, _ := (&ip.Header{Src: cn, Dst: home1, Proto: ProtoMH, TTL: 64}).Append(nil, 16)
	hot = append(hot, mh(3)...)
	th, _ := InnerTraffic(hot, true)
	b, _, err := ha.Tunnel(at(0), th, append(bytes.Clone(hot), make([]byte, 99)...), nil)
	if err != nil {
		t.Fatal(err)
	}
	h, _ = ip.Parse(b)
	got, _, _, err := mn.Inbound(at(0), Traffic{Local: h.Dst, Remote: h.Src}, b[h.HdrLen:], nil)
	if err != nil || h.Dst != other || !bytes.Equal(got, hot) {
		t.Errorf("%v %x %v", h, got, err)
	}
	// Home again: the policies sleep, the associations stay.
	if err := ha.UpdateEndpoint("mn1", home1, netip.Addr{}, netip.Addr{}); err != nil {
		t.Fatal(err)
	}
	if v := ha.Policy(th); v.Action != Bypass {
		t.Error(v)
	}
	if err := ha.UpdateEndpoint("nobody", home1, agent, other); err == nil {
		t.Error("no such peer")
	}
	if err := ha.UpdateEndpoint("mn1", home1, agent, netip.MustParseAddr("192.0.2.1")); err == nil {
		t.Error("two families")
	}
	if err := ha.UpdateEndpoint("mn1", home2, agent, other); err == nil {
		t.Error("another's home address")
	}
}

// TestTunnelInnerSource: an association for one home address does not carry another's packets.
func TestTunnelInnerSource(t *testing.T) {
	ha, mn := pair(t, "aes128-sha256")
	if err := errors.Join(ha.UpdateEndpoint("mn1", home1, agent, careOf), mn.UpdateEndpoint("ha1", home1, careOf, agent)); err != nil {
		t.Fatal(err)
	}
	p := mn.peers["ha1"]
	packet := func(src netip.Addr, typ uint8) []byte {
		b, _ := (&ip.Header{Src: src, Dst: cn, Proto: ProtoMH, TTL: 64}).Append(nil, 16)
		return append(b, mh(typ)...)
	}
	for _, c := range []struct {
		name  string
		use   Use
		next  uint8
		inner []byte
		want  wire.Reason
	}{
		{"right", ReturnRoutability, ProtoIPv6, packet(home1, 1), ""},
		{"another home address", ReturnRoutability, ProtoIPv6, packet(home2, 1), wire.WrongAssociation},
		{"care-of address", ReturnRoutability, ProtoIPv6, packet(careOf, 1), wire.WrongAssociation},
		{"another type", ReturnRoutability, ProtoIPv6, packet(home1, 5), wire.WrongAssociation},
		{"payload", Payload, ProtoIPv6, packet(home1, 5), ""},
		{"home test by payload's association", Payload, ProtoIPv6, packet(home1, 1), wire.WrongAssociation},
		{"no packet", ReturnRoutability, ProtoIPv6, mh(1), wire.BadInner},
		{"cut packet", ReturnRoutability, ProtoIPv6, packet(home1, 1)[:50], wire.BadInner},
		{"transport mode", ReturnRoutability, ProtoMH, mh(1), wire.BadInner},
		{"IPv4 as IPv6", ReturnRoutability, ProtoIPv6, []byte{0x45, 0, 0, 20, 0, 0, 0, 0, 64, 17, 0, 0, 192, 0, 2, 1, 192, 0, 2, 2}, wire.BadInner},
		{"tunnel in transport mode's association", Signalling, ProtoIPv6, packet(home1, 1), wire.WrongAssociation},
	} {
		esp, _, _, err := mn.seal(at(0), &Traffic{}, p, c.use, c.next, c.inner, nil)
		if err != nil {
			t.Fatal(err)
		}
		if _, _, _, err := ha.Inbound(at(0), Traffic{Local: agent, Remote: careOf}, esp, nil); reasonOf(err) != c.want {
			t.Errorf("%s: %v, want %q", c.name, err, c.want)
		}
	}
}

func TestConfigErrors(t *testing.T) {
	spec.Covers(t, "RFC4106-2")
	one := []netip.Prefix{netip.PrefixFrom(agent, 128)}
	sa := func(s Suite, spi uint32) []SA { return []SA{testSA(t, Signalling, s, spi)} }
	with := func(s SA, f func(*SA)) []SA { f(&s); return []SA{s} }
	base := testSA(t, Signalling, "aes128-sha256", 0x300)
	for _, c := range []struct {
		name, want string
		peers      []Peer
	}{
		{"GCM", "RFC 4106 2", []Peer{{Name: "a", Addresses: one, Protection: ESP, SAs: sa("aes128-gcm", 0x300)}}},
		{"no protection", "write esp, rfc4285 or none", []Peer{{Name: "a", Addresses: one}}},
		{"unknown protection", "write esp, rfc4285 or none", []Peer{{Name: "a", Addresses: one, Protection: "ah"}}},
		{"no name", "without a name", []Peer{{Addresses: one, Protection: None}}},
		{"twice", "twice", []Peer{{Name: "a", Addresses: one, Protection: None}, {Name: "a", Homes: []netip.Addr{home1}, Protection: None}}},
		{"one address of two", "both have address", []Peer{{Name: "a", Addresses: one, Protection: None}, {Name: "b", Addresses: one, Protection: None}}},
		{"one home of two", "both speak for home", []Peer{{Name: "a", Homes: []netip.Addr{home1}, Protection: None}, {Name: "b", Homes: []netip.Addr{home1}, Protection: None}}},
		{"one own home with two agents", "are both home agent", []Peer{{Name: "a", Addresses: one, Own: []netip.Addr{home1}, Protection: None}, {Name: "b", Addresses: one, Own: []netip.Addr{home1}, Protection: None}}},
		{"a prefix", "whole addresses", []Peer{{Name: "a", Addresses: []netip.Prefix{netip.MustParsePrefix("2001:db8::/32")}, Protection: ESP, SAs: sa("aes128-sha256", 0x300)}}},
		{"no association", "needs a security association", []Peer{{Name: "a", Addresses: one, Protection: ESP}}},
		{"an association with none", "protection \"none\"", []Peer{{Name: "a", Addresses: one, Protection: None, SAs: sa("aes128-sha256", 0x300)}}},
		{"nobody", "neither an address", []Peer{{Name: "a", Protection: None}}},
		{"reserved SPI", "reserved", []Peer{{Name: "a", Addresses: one, Protection: ESP, SAs: sa("aes128-sha256", 255)}}},
		{"SPI of data", "those from 0x80000000 on are for data", []Peer{{Name: "a", Addresses: one, Protection: ESP, SAs: sa("aes128-sha256", 0x80000000)}}},
		{"one SPI of two", "also that of peer a", []Peer{{Name: "a", Addresses: one, Protection: ESP, SAs: sa("aes128-sha256", 0x300)}, {Name: "b", Homes: []netip.Addr{home1}, Protection: ESP, SAs: sa("aes128-sha256", 0x300)}}},
		{"ESN", "key exchange", []Peer{{Name: "a", Addresses: one, Protection: ESP, SAs: with(base, func(s *SA) { s.ESN = true })}}},
		{"short key", "integrity key of 32 octets, not 5", []Peer{{Name: "a", Addresses: one, Protection: ESP, SAs: with(base, func(s *SA) { s.Keys.In.Integrity = s.Keys.In.Integrity[:5] })}}},
		{"both directions the same", "own packets", []Peer{{Name: "a", Addresses: one, Protection: ESP, SAs: with(base, func(s *SA) { s.SPIOut, s.Keys.Out = s.SPIIn, s.Keys.In })}}},
		{"tunnel of a gateway", "needs a home address", []Peer{{Name: "a", Addresses: one, Protection: ESP, SAs: append(sa("aes128-sha256", 0x300), testSA(t, Payload, "aes128-sha256", 0x400))}}},
		{"return routability in the clear", "needs encryption", []Peer{{Name: "a", Homes: []netip.Addr{home1}, Protection: ESP, SAs: append(sa("aes128-sha256", 0x300), testSA(t, ReturnRoutability, "null-sha256", 0x400))}}},
		{"no such use", "unknown use", []Peer{{Name: "a", Homes: []netip.Addr{home1}, Protection: ESP, SAs: append(sa("aes128-sha256", 0x300), testSA(t, 9, "null-sha256", 0x400))}}},
		{"RFC 4285 key", "want 16", []Peer{{Name: "a", Homes: []netip.Addr{home1}, Protection: RFC4285, Mobility: rfc4285.Association{SPI: 300, Key: make([]byte, 5)}}}},
		{"RFC 4285 SPI of two", "also that of peer", []Peer{
			{Name: "a", Homes: []netip.Addr{home1}, Protection: RFC4285, Mobility: rfc4285.Association{SPI: 300, Key: make([]byte, 16)}},
			{Name: "b", Homes: []netip.Addr{home2}, Protection: RFC4285, Mobility: rfc4285.Association{SPI: 300, Key: make([]byte, 16)}}}},
	} {
		if _, err := New(Config{Peers: c.peers}, &Volatile{}); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %s", c.name, err, c.want)
		}
	}
	if _, err := New(Config{Peers: []Peer{{Name: "a", Addresses: one, Protection: ESP, SAs: sa("aes128-sha256", 0x300)}}}, nil); err == nil || !strings.Contains(err.Error(), "store") {
		t.Errorf("static keys without a store: %v", err)
	}
	negotiated := testSA(t, Signalling, "aes256-gcm", 0x300)
	negotiated.Negotiated, negotiated.ESN = true, true
	if _, err := New(Config{Peers: []Peer{{Name: "a", Addresses: one, Protection: ESP, SAs: []SA{negotiated}}}}, nil); err != nil {
		t.Errorf("GCM of a key exchange: %v", err)
	}
}

func TestTwoHomeAddressesWithOneAgent(t *testing.T) {
	one := []netip.Prefix{netip.PrefixFrom(agent, 128)}
	mn := mustNew(t, &Volatile{},
		Peer{Name: "work", Addresses: one, Own: []netip.Addr{home1}, Protection: ESP, SAs: []SA{testSA(t, Signalling, "aes128-sha256", 0x300)}},
		Peer{Name: "play", Addresses: one, Own: []netip.Addr{home2}, Protection: ESP, SAs: []SA{testSA(t, Signalling, "aes128-sha256", 0x400)}})
	for home, name := range map[netip.Addr]string{home1: "work", home2: "play"} {
		if v := mn.Policy(Traffic{Local: careOf, LocalHome: home, Remote: agent, Proto: 135, Type: 5}); v.Peer != name || v.Action != Protect {
			t.Errorf("%s: %v", home, v)
		}
	}
}

func TestAudit(t *testing.T) {
	spec.Covers(t, "RFC4303-4")
	var mu sync.Mutex
	var got []Audit
	e, err := New(Config{
		Peers: []Peer{{Name: "mn1", Homes: []netip.Addr{home1}, Protection: ESP, SAs: []SA{testSA(t, Signalling, "aes128-sha256", 0x1001)}}},
		Audit: func(a Audit) { mu.Lock(); got = append(got, a); mu.Unlock() },
	}, &Volatile{})
	if err != nil {
		t.Fatal(err)
	}
	_, th := toAgent(5)
	for range 100 {
		_, _, _, _ = e.Inbound(at(time.Hour), th, []byte{0, 0, 0x10, 1, 0, 0, 0, 7, 1, 2, 3}, nil)
	}
	if len(got) != AuditRate || got[0].Peer != "mn1" || got[0].SPI != 0x1001 || got[0].Sequence != 7 || got[0].Remote != careOf || got[0].Reason != wire.Truncated {
		t.Fatal(len(got), got[0])
	}
	_, _, _, _ = e.Inbound(at(time.Hour+time.Second), th, []byte{0, 0, 0x10, 9, 0, 0, 0, 7, 1, 2, 3}, nil)
	if a := got[len(got)-1]; a.Suppressed != 90 || a.Reason != wire.UnknownSPI || a.Peer != "" {
		t.Error(a)
	}
	if d := cmp.Diff(map[wire.Reason]uint64{wire.Truncated: 100, wire.UnknownSPI: 1}, e.Drops()); d != "" {
		t.Error(d)
	}
}
