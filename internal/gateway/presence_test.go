package gateway

import (
	"net"
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

// Everything that a host may send attaches it, and only what the link's configuration names.
func TestTriggers(t *testing.T) {
	spec.Covers(t, "S001-3.2.2-02")
	ll := linkLocalOf(macA)
	triggers := map[string]func(*bench){
		"rs": func(b *bench) { b.rs(3, macA) },
		"ns": func(b *bench) {
			b.frame(3, macA, netip.IPv6Unspecified(), netip.MustParseAddr("ff02::1:ff00:a"), &nd.NeighborSolicitation{Target: ll})
		},
		"na": func(b *bench) {
			b.frame(3, macA, ll, netip.MustParseAddr("ff02::1"), &nd.NeighborAdvertisement{Target: ll})
		},
		"arp":  func(b *bench) { b.arp(3, macA, hoa.Addr()) },
		"dhcp": func(b *bench) { b.dhcp(3, macA, dhcpv4.MessageTypeDiscover) },
		"mld":  func(b *bench) { b.mld(3, macA) },
		"data": func(b *bench) { b.data(3, macA, netip.MustParseAddr("2001:db8:1000::5")) },
		"fdb":  func(b *bench) { b.do(core.Seen{If: 3, MAC: macA, By: "fdb"}) },
		"link": func(b *bench) { b.do(core.Seen{If: 3, MAC: macA, By: "link"}) },
		"api":  func(b *bench) { b.do(core.Command{Body: core.Attach{If: "acc0", MAC: macA}}) },
	}
	for by, trigger := range triggers {
		for _, on := range [][]string{nil, {by}, {}} {
			cfg := testConfig()
			cfg.Access[0].AttachOn = on
			b := newBench(t, cfg)
			trigger(b)
			want := 1
			if on != nil && len(on) == 0 {
				want = 0
			}
			if us := b.pbus(); len(us) != want {
				t.Errorf("%s with attach-on %q: %d updates, want %d", by, on, len(us), want)
			}
			trigger(b)
			b.none() // one registration, however often it shows itself
		}
	}
	// A frame that cannot be read is a sign of life all the same.
	b := newBench(t, testConfig())
	b.do(core.Message{Path: core.Path{If: 3}, Body: &access.Frame{Src: macA}, Err: &wire.Error{Reason: wire.Truncated}})
	b.counted(wire.Truncated, 1)
	b.pbu()
	b.do(core.Message{Path: core.Path{If: 3}, Body: (*access.Frame)(nil), Err: &wire.Error{Reason: wire.Truncated}})
	b.do(core.Message{Path: core.Path{If: 99}, Body: &access.Frame{Src: macB, Body: &ether.ARP{}}})
	b.counted(wire.InterfaceUnsupported, 1)
}

func TestNoHosts(t *testing.T) {
	b := newBench(t, testConfig())
	for _, mac := range []core.MAC{{}, {1, 0, 0x5e, 0, 0, 1}, {0xff, 0xff, 0xff, 0xff, 0xff, 0xff}, FixedMAC} {
		b.data(3, mac, netip.MustParseAddr("10.20.0.9"))
		b.do(core.Seen{If: 3, MAC: mac, By: "fdb"})
		b.do(core.Command{Body: core.Attach{If: "acc0", MAC: mac}})
	}
	b.none()
	if len(b.m.hosts) != 0 {
		t.Errorf("hosts %v", b.m.hosts)
	}
}

// Identity: by the table, else by MAC and realm, else none and no update.
func TestIdentity(t *testing.T) {
	spec.Covers(t, "S001-3.2.2-02")
	cfg := testConfig()
	cfg.Access[0].Identity.Table = map[core.MAC]string{macB: "bob@example.org"}
	b := newBench(t, cfg)
	for mac, want := range map[core.MAC]string{macA: idA, macB: "bob@example.org"} {
		b.mld(3, mac)
		u := b.pbu()
		if id, _ := u.Options.MobileNodeID(); id.ID != want {
			t.Errorf("%v is %q, want %q", mac, id.ID, want)
		}
	}
	cfg.Access[0].Identity.TableOnly = true
	b = newBench(t, cfg)
	for range 3 {
		b.mld(3, macA)
	}
	b.none()
	b.counted(wire.UnknownHost, 3)
	if len(b.m.hosts) != 0 {
		t.Error("an unknown host is remembered")
	}
	b.do(core.Command{Ref: 1, Body: core.Attach{If: "acc0", MAC: macA, ID: "alice@example.org"}})
	if id, _ := b.pbu().Options.MobileNodeID(); id.ID != "alice@example.org" {
		t.Errorf("identity by API: %q", id.ID)
	}
}

// Handoff indicators: the table of the configuration and of RFC 5213 6.9.1.1.
func TestHandoffIndicators(t *testing.T) {
	cfg := testConfig()
	cfg.FirstHandoff = mobility.HandoffNewInterface
	b := newBench(t, cfg)
	b.mld(3, macA)
	if u := b.pbu(); u.handoff() != 1 {
		t.Errorf("first attachment, configured 1: %v", u)
	}
	b.do(core.Command{Body: core.Detach{If: "acc0", MAC: macA}})
	if u := b.pbu(); u.Lifetime != 0 || u.handoff() != mobility.HandoffUnknown {
		t.Errorf("deregistration: %v", u)
	}

	// Context from the old gateway, by API.
	b = newBench(t, testConfig())
	b.do(core.Command{Ref: 1, Body: core.Attach{If: "acc0", MAC: macA, Previous: "2001:db8:a::12"}})
	u := b.pbu()
	if u.handoff() != mobility.HandoffGateways {
		t.Errorf("with context: %v", u)
	}
	b.answer(u, reply{})
	b.until(18 * sec)
	if u := b.pbu(); u.handoff() != mobility.HandoffReRegistration {
		t.Errorf("refresh: %v", u)
	}

	// A second interface of a host whose first one stays is certainly new: a session of its own.
	cfg = testConfig()
	cfg.Access[0].Identity.Table = map[core.MAC]string{macA: "alice@example.org", macB: "alice@example.org"}
	cfg.Access[1].Identity.Table = cfg.Access[0].Identity.Table
	b = newBench(t, cfg)
	b.bind(3, macA)
	b.mld(4, macB)
	u = b.pbu()
	if u.handoff() != mobility.HandoffNewInterface || u.hnps()[0] != zero6 {
		t.Errorf("second interface: %v", u)
	}
	second := netip.MustParsePrefix("2001:db8:1001::/64")
	b.answer(u, reply{hnp: []netip.Prefix{second}, v4: netip.MustParsePrefix("10.21.0.10/16")})
	if len(b.m.byID["alice@example.org"]) != 2 || len(b.keys()) != 4 {
		t.Errorf("sessions %d, keys %v", len(b.m.byID["alice@example.org"]), b.keys())
	}
	// One ends, the other stays.
	b.do(core.Command{Body: core.Detach{If: "acc0", MAC: macA}})
	b.answer(b.pbu(), reply{})
	b.state(macA, gone)
	b.state(macB, active)
	if k := b.keys(); len(k) != 2 || k[second].Match.MAC != macB {
		t.Errorf("keys %v", k)
	}
}

// The link of one interface goes down, another interface of the host comes up: the session goes along, with everything it
// has (handoff indicator 2).
func TestInterfaceHandoff(t *testing.T) {
	spec.Covers(t, "S001-3-08")
	for _, d := range []Dialect{RFC5844, Draft02} {
		cfg := testConfig()
		cfg.Anchors[0].Dialect = d
		cfg.Access[0].Identity.Table = map[core.MAC]string{macA: "alice@example.org", macB: "alice@example.org"}
		cfg.Access[1].Identity.Table = cfg.Access[0].Identity.Table
		b := newBench(t, cfg)
		e := b.bind(3, macA)
		b.do(core.HostChanged{Op: core.HostOp{Kind: "link", Name: "acc0"}, Up: false})
		b.clock(200 * ms)
		b.mld(4, macB)
		u := b.pbu()
		att, _ := u.Options.AccessTechnology()
		ll, _ := u.Options.LinkLayerID()
		if u.handoff() != mobility.HandoffInterfaces || u.hnps()[0] != hnp || u.v4() != hoa || att.Value != mobility.AccessWLAN ||
			!slices.Equal(ll.ID, macB[:]) {
			t.Errorf("update %v att %d", u, att.Value)
		}
		b.answer(u, reply{})
		b.state(macA, gone)
		b.state(macB, active)
		if k := b.keys(); len(k) != 2 || k[hnp].Match.MAC != macB || k[hnp].Match.If != 4 || k[hnp].ID != e.id {
			t.Errorf("keys %v", k)
		}
		n := len(b.frames)
		b.dhcp(4, macB, dhcpv4.MessageTypeDiscover)
		if ds := b.dhcps(n); len(ds) != 1 || !ds[0].YourIPAddr.Equal(net.IP(hoa.Addr().AsSlice())) {
			t.Errorf("DHCP on the new interface: %v", ds)
		}
		b.until(5 * sec)
		b.none() // the old link's loss ends nothing
		if u, ok := b.session(e.id); !ok || u.If != 4 {
			t.Errorf("session %+v", u)
		}
	}
}

// A host moves between links also where it may cause less than one registration a second.
func TestMoveAtSlowRate(t *testing.T) {
	cfg := testConfig()
	cfg.Limits.Triggers = 0.1
	b := newBench(t, cfg)
	e := b.bind(3, macA)
	b.clock(sec)
	for _, at := range []int{4, 3} { // the second one is too soon
		b.mld(at, macA)
		if e.link.Link.If != 4 {
			t.Errorf("after a sign at link %d: at link %d", at, e.link.Link.If)
		}
	}
}

// A host that shows itself on another link of the gateway keeps its session; the anchor is told only what changed.
func TestMoveBetweenLinks(t *testing.T) {
	cfg := testConfig()
	cfg.Access = append(cfg.Access, cfg.Access[0])
	cfg.Access[2].Link.Name, cfg.Access[2].Link.If = "acc2", 5
	b := newBench(t, cfg)
	e := b.bind(3, macA)
	b.clock(sec)
	b.mld(5, macA) // the same technology: the anchor knows everything already
	b.none()
	if k := b.keys(); len(k) != 2 || k[hnp].Match.If != 5 || k[hnp].ID != e.id {
		t.Errorf("keys %v", k)
	}
	if len(b.frameIf) == 0 || b.frameIf[len(b.frameIf)-1] != 5 {
		t.Errorf("no advertisement on the new link: %v", b.frameIf)
	}
	b.data(4, macA, hoa.Addr()) // another technology
	u := b.pbu()
	if att, _ := u.Options.AccessTechnology(); u.handoff() != mobility.HandoffInterfaces || att.Value != mobility.AccessWLAN || u.v4() != hoa {
		t.Errorf("update %v", u)
	}
	if k := b.keys(); len(k) != 2 || k[hnp].Match.If != 4 {
		t.Errorf("packets wait for the anchor: %v", k)
	}
	b.answer(u, reply{})
	b.state(macA, active)
	// The link it left goes down: nothing to do with it.
	b.do(core.HostChanged{Op: core.HostOp{Kind: "link", If: 3}})
	b.until(10 * sec)
	b.state(macA, active)
}

func nudConfig() Config {
	cfg := testConfig()
	cfg.Access[0].DetachOn = []string{"nud", "api"}
	cfg.Timers.NUDReachable = 5 * sec
	cfg.Timers.NUDProbes = 2
	return cfg
}

// probes counts the frames that ask the host since frame n.
func (b *bench) probes(n int) (asked int) {
	for _, f := range b.frames[n:] {
		switch f.Body.(type) {
		case *nd.NeighborSolicitation, *nd.MLDQuery:
			asked++
		case *ether.ARP:
			asked++
		}
	}
	return asked
}

// A silent host is probed; one that is only idle answers and stays.
func TestUnreachable(t *testing.T) {
	b := newBench(t, nudConfig())
	b.bind(3, macA)
	n := len(b.frames)
	b.until(5*sec - 1)
	if b.probes(n) != 0 {
		t.Error("probed too early")
	}
	b.until(5 * sec)
	if b.probes(n) == 0 {
		t.Fatal("not probed")
	}
	b.clock(5500 * ms)
	b.arp(3, macA, hoa.Addr())
	b.until(10499 * ms)
	b.none()
	b.state(macA, active)
	// Silent from now on: probes at 10.5 and 11.5 s, gone at 12.5 s.
	b.until(12499 * ms)
	b.state(macA, active)
	b.until(12500 * ms)
	b.state(macA, deregistering)
	if u := b.pbu(); u.Lifetime != 0 || u.v4() != hoa {
		t.Errorf("update %v", u)
	}
}

// Before a refresh the host must be seen: a gateway that its host left silently would take the binding back.
func TestNoRefreshForAbsentHost(t *testing.T) {
	cfg := nudConfig()
	cfg.Timers.NUDReachable = time.Hour
	for _, there := range []bool{true, false} {
		b := newBench(t, cfg)
		b.bind(3, macA)
		n := len(b.frames)
		b.until(18 * sec)
		b.none()
		if b.probes(n) == 0 {
			t.Fatal("no probe before the refresh")
		}
		if there {
			b.clock(18300 * ms)
			b.mld(3, macA)
			if u := b.pbu(); u.handoff() != mobility.HandoffReRegistration {
				t.Errorf("update %v", u)
			}
			continue
		}
		b.until(20 * sec)
		if u := b.pbu(); u.Lifetime != 0 {
			t.Errorf("an absent host was refreshed: %v", u)
		}
	}
}

// Without NUD in detach-on silence means nothing: a host is bound for as long as its link is up.
func TestIdleHostStays(t *testing.T) {
	b := newBench(t, testConfig())
	b.bind(3, macA)
	for b.now.Boot < time.Hour {
		b.until(b.now.Boot + sec)
		for _, u := range b.pbus() {
			b.answer(u, reply{})
		}
	}
	b.state(macA, active)
}

// A link that comes back within the grace loses nobody; no update leaves while it is down.
func TestLinkFlap(t *testing.T) {
	cfg := testConfig()
	cfg.Timers.LinkGrace = 3 * sec
	b := newBench(t, cfg)
	b.mld(3, macA)
	b.pbu()
	link := func(up bool) {
		b.do(core.HostChanged{Op: core.HostOp{Kind: "link", If: 3, Name: "acc0"}, Up: up})
	}
	link(false)
	b.until(2500 * ms)
	b.none()
	link(true)
	b.until(4 * sec)
	b.answer(b.pbu(), reply{})
	b.state(macA, active)
	b.do(core.HostChanged{Op: core.HostOp{Kind: "link", If: 77}, Gone: true})
	b.do(core.HostChanged{Op: core.HostOp{Kind: "address", If: 3}, Gone: true})
	link(false)
	link(false)
	b.until(6900 * ms)
	b.state(macA, active)
	b.until(7 * sec)
	b.state(macA, deregistering)
}

// Link up with NUD: the hosts that were there are asked whether they still are.
func TestLinkUpRechecks(t *testing.T) {
	cfg := nudConfig()
	cfg.Access[0].DetachOn = []string{"nud", "link"}
	b := newBench(t, cfg)
	b.bind(3, macA)
	b.clock(sec)
	b.do(core.HostChanged{Op: core.HostOp{Kind: "link", If: 3}, Up: false})
	b.clock(1500 * ms)
	n := len(b.frames)
	b.do(core.HostChanged{Op: core.HostOp{Kind: "link", If: 3}, Up: true})
	b.until(1500 * ms)
	if b.probes(n) == 0 {
		t.Error("not probed")
	}
	b.until(3500 * ms)
	b.state(macA, deregistering)
}

// Figure 2 of document 001: DISCOVER, update at once and nothing before its answer, then OFFER, REQUEST, ACK.
func TestDHCPServer(t *testing.T) {
	spec.Covers(t, "S001-3.1-17", "S001-3.1-20", "S001-3.1-22", "S001-3.2.2-39", "S001-3.2.2-43", "S001-3.2.2-44", "S001-3.1-02")
	for _, d := range []Dialect{RFC5844, Draft02} {
		cfg := testConfig()
		cfg.Anchors[0].Dialect = d
		cfg.IPv4OnDHCP = true
		b := newBench(t, cfg)
		b.mld(3, macA)
		u := b.pbu()
		if u.v4().IsValid() {
			t.Fatalf("IPv4 before the host asked: %v", u)
		}
		b.answer(u, reply{})
		b.clock(700 * ms)
		b.dhcp(3, macA, dhcpv4.MessageTypeDiscover)
		u = b.pbu()
		if u.at != 700*ms || u.v4() != anyIPv4 || u.handoff() != mobility.HandoffReRegistration || u.hnps()[0] != hnp {
			t.Errorf("update %v at %v", u, u.at)
		}
		if len(b.dhcps(0)) != 0 {
			t.Fatal("an OFFER before the answer")
		}
		b.clock(720 * ms)
		b.answer(u, reply{})
		ds := b.dhcps(0)
		if len(ds) != 1 || ds[0].MessageType() != dhcpv4.MessageTypeOffer || !ds[0].YourIPAddr.Equal(net.IP(hoa.Addr().AsSlice())) {
			t.Fatalf("DHCP %v", ds)
		}
		if ones, _ := ds[0].SubnetMask().Size(); ones != hoa.Bits() {
			t.Errorf("subnet mask %v, want the length of the answer", ds[0].SubnetMask())
		}
		b.dhcp(3, macA, dhcpv4.MessageTypeRequest, dhcpv4.WithOption(dhcpv4.OptRequestedIPAddress(ds[0].YourIPAddr)),
			dhcpv4.WithOption(dhcpv4.OptServerIdentifier(ds[0].ServerIdentifier())))
		ds = b.dhcps(0)
		if len(ds) != 2 || ds[1].MessageType() != dhcpv4.MessageTypeAck || !ds[1].YourIPAddr.Equal(net.IP(hoa.Addr().AsSlice())) {
			t.Fatalf("DHCP %v", ds)
		}
		b.none()
	}
}

// A DISCOVER while the update for IPv6 is still out does not wait for its answer, which then does not count.
func TestDiscoverWhileRegistering(t *testing.T) {
	cfg := testConfig()
	cfg.IPv4OnDHCP = true
	b := newBench(t, cfg)
	b.mld(3, macA)
	first := b.pbu()
	b.dhcp(3, macA, dhcpv4.MessageTypeDiscover)
	second := b.pbu()
	if second.v4() != anyIPv4 || second.hnps()[0] != zero6 {
		t.Fatalf("second update %v", second)
	}
	b.answer(first, reply{})
	b.counted(wire.SequenceMismatch, 1)
	b.answer(second, reply{})
	if len(b.keys()) != 2 {
		t.Errorf("keys %v", b.keys())
	}
}

// With `ipv4-on: dhcp` hosts that do not use DHCP are not forgotten: ARP, an IPv4 packet and a known address count too.
func TestIPv4WithoutDHCP(t *testing.T) {
	spec.Covers(t, "S001-3.1-03", "S001-3.2.2-42")
	for name, trigger := range map[string]func(*bench){
		"arp":             func(b *bench) { b.arp(3, macA, hoa.Addr()) },
		"arp probe":       func(b *bench) { b.arp(3, macA, netip.IPv4Unspecified()) },
		"data":            func(b *bench) { b.data(3, macA, hoa.Addr()) },
		"static address":  func(b *bench) { b.mld(3, macB) },
		"learned address": func(b *bench) { b.m.known.set(idA, hoa); b.mld(3, macA) },
	} {
		cfg := testConfig()
		cfg.IPv4OnDHCP = true
		cfg.Profiles = []Profile{{ID: idB, IPv4: hoa}}
		b := newBench(t, cfg)
		trigger(b)
		u := b.pbu()
		if !u.v4().IsValid() {
			t.Errorf("%s: no IPv4: %v", name, u)
		}
		b.answer(u, reply{})
		if _, ok := b.keys()[netip.PrefixFrom(hoa.Addr(), 32)]; !ok || len(b.dhcps(0)) != 0 {
			t.Errorf("%s: forwarding has %v", name, b.keys())
		}
	}
}

// The address that a host asks for by INIT-REBOOT is proposed; if the anchor does not allow it, any will do.
func TestRequestedAddress(t *testing.T) {
	b := newBench(t, testConfig())
	foreign := netip.MustParseAddr("192.168.7.7")
	b.dhcp(3, macA, dhcpv4.MessageTypeRequest, dhcpv4.WithOption(dhcpv4.OptRequestedIPAddress(net.IP(foreign.AsSlice()))))
	u := b.pbu()
	if u.v4() != netip.PrefixFrom(foreign, 32) {
		t.Fatalf("update %v", u)
	}
	b.answer(u, reply{status: mobility.NotAuthorizedForIPv4HoA, v4status: mobility.AddressProhibited})
	u = b.pbu()
	if u.v4() != anyIPv4 {
		t.Fatalf("update %v", u)
	}
	b.answer(u, reply{})
	if ds := b.dhcps(0); len(ds) != 1 || ds[0].MessageType() != dhcpv4.MessageTypeNak {
		t.Errorf("DHCP %v, want a NAK for the wrong address", ds)
	}
}

// Each renewal makes an update, although nothing changed; the lease and the binding live by their own timers.
func TestRenewal(t *testing.T) {
	spec.Covers(t, "S001-3.2.2-50", "S001-3.2.2-52")
	b := newBench(t, testConfig())
	b.dhcp(3, macA, dhcpv4.MessageTypeDiscover)
	b.answer(b.pbu(), reply{})
	b.clock(7 * sec)
	n := len(b.frames)
	b.dhcp(3, macA, dhcpv4.MessageTypeRequest, dhcpv4.WithClientIP(net.IP(hoa.Addr().AsSlice())))
	if ds := b.dhcps(n); len(ds) != 1 || ds[0].MessageType() != dhcpv4.MessageTypeAck {
		t.Errorf("the renewal waits for the anchor: %v", ds)
	}
	u := b.pbu()
	if u.handoff() != mobility.HandoffReRegistration || u.v4() != hoa || u.hnps()[0] != hnp {
		t.Errorf("update %v", u)
	}
	b.answer(u, reply{})
	n = len(b.frames)
	b.until(25 * sec) // 18 s after the renewal the binding is refreshed, without DHCP
	b.answer(b.pbu(), reply{})
	if ds := b.dhcps(n); len(ds) != 0 {
		t.Errorf("DHCP %v", ds)
	}
}

// DHCPRELEASE gives back IPv4 alone; DHCP brings it back.
func TestRelease(t *testing.T) {
	for _, d := range []Dialect{RFC5844, Draft02} {
		cfg := testConfig()
		cfg.Anchors[0].Dialect = d
		b := newBench(t, cfg)
		b.bind(3, macA)
		b.dhcp(3, macA, dhcpv4.MessageTypeRelease, dhcpv4.WithClientIP(net.IP(hoa.Addr().AsSlice())))
		u := b.pbu()
		if u.Lifetime != 0 || len(u.hnps()) != 0 || u.v4() != hoa {
			t.Errorf("update %v, want lifetime 0 and IPv4 alone", u)
		}
		if k := b.keys(); len(k) != 1 || k[hnp].ID == 0 {
			t.Errorf("keys %v", k)
		}
		b.answer(u, reply{})
		b.state(macA, active)
		b.mld(3, macA)
		b.arp(3, macA, hoa.Addr())
		b.none()
		b.until(18 * sec)
		if u := b.pbu(); u.v4().IsValid() {
			t.Errorf("refresh asks for IPv4 again: %v", u)
		} else {
			b.answer(u, reply{})
		}
		b.dhcp(3, macA, dhcpv4.MessageTypeDiscover)
		u = b.pbu()
		want := anyIPv4
		if d == Draft02 {
			want = hoa // from the profile, as document 001 has it
		}
		if u.v4() != want || u.Lifetime == 0 {
			t.Errorf("update %v", u)
		}
		b.answer(u, reply{})
		if len(b.keys()) != 2 {
			t.Errorf("keys %v", b.keys())
		}
	}
}

func TestReleaseIPv4Only(t *testing.T) {
	cfg := testConfig()
	cfg.Profiles = []Profile{{ID: idA, Families: access.V4}}
	b := newBench(t, cfg)
	b.bind(3, macA)
	b.dhcp(3, macA, dhcpv4.MessageTypeRelease, dhcpv4.WithClientIP(net.IP(hoa.Addr().AsSlice())))
	u := b.pbu()
	if u.Lifetime != 0 || u.v4() != hoa {
		t.Errorf("update %v", u)
	}
	b.state(macA, idle)
	b.until(60 * sec) // unanswered: it is not repeated
	b.none()
	if len(b.keys()) != 0 || b.m.pending != 0 {
		t.Errorf("keys %v pending %d", b.keys(), b.m.pending)
	}
	b.dhcp(3, macA, dhcpv4.MessageTypeDiscover)
	b.answer(b.pbu(), reply{})
	b.state(macA, active)
}

// A host that asks for a family it may not have gets nothing, and no update follows.
func TestFamilyNotAllowed(t *testing.T) {
	spec.Covers(t, "S001-3-07")
	cfg := testConfig()
	cfg.Access[0].Families = access.V6
	b := newBench(t, cfg)
	b.bind(3, macA)
	b.dhcp(3, macA, dhcpv4.MessageTypeDiscover)
	b.dhcp(3, macA, dhcpv4.MessageTypeRequest, dhcpv4.WithOption(dhcpv4.OptRequestedIPAddress(net.IP{10, 20, 0, 10})))
	b.none()
	b.counted(wire.FamilyDisabled, 2)
	if ds := b.dhcps(0); len(ds) != 0 {
		t.Errorf("DHCP was answered: %v", ds)
	}
}
