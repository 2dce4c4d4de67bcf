package gateway

import (
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/insomniacslk/dhcp/dhcpv4"

	"kedge/internal/access"
	"kedge/internal/core"
	"kedge/wire"
	"kedge/wire/mobility"
	"kedge/wire/nd"
)

// An anchor that gives other addresses than those that are asked for by name: a binding is left alone, for the answer may
// be forged; when it has run out, any address will do. A first registration asks for any with its next transmission.
func TestAnchorRenumbers(t *testing.T) {
	other6 := []netip.Prefix{netip.MustParsePrefix("2001:db8:2000::/64")}
	other4 := netip.MustParsePrefix("10.99.0.10/16")
	for name, r := range map[string]reply{"prefix": {hnp: other6}, "IPv4": {v4: other4}, "both": {hnp: other6, v4: other4}} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t, testConfig())
			e := b.bind(3, macA)
			end := e.expires
			for b.now.Boot < end-sec {
				b.until(b.now.Boot + sec)
				for _, u := range b.pbus() {
					b.answer(u, r)
				}
			}
			if b.state(macA, refreshing); e.prefixes[0] != hnp || e.ipv4 != hoa {
				t.Fatalf("the binding has %v %v", e.prefixes, e.ipv4)
			}
			b.until(end)
			us := b.pbus()
			u := us[len(us)-1]
			if u.hnps()[0].Bits() != 0 || u.v4() != anyIPv4 || u.handoff() != mobility.HandoffUnknown {
				t.Fatalf("asks for %v", u)
			}
			b.answer(u, r)
			b.state(macA, active)
		})
	}
	cfg := testConfig()
	cfg.Profiles = []Profile{{ID: idA, Prefixes: []netip.Prefix{hnp}, IPv4: hoa}}
	b := newBench(t, cfg)
	b.mld(3, macA)
	b.answer(b.pbu(), reply{hnp: other6, v4: other4})
	b.none()
	b.until(b.now.Boot + InitialBindackTimeout)
	u := b.pbu()
	if u.hnps()[0].Bits() != 0 || u.v4() != anyIPv4 {
		t.Fatalf("asks for %v", u)
	}
	b.answer(u, reply{hnp: other6, v4: other4})
	b.state(macA, active)
}

// What an anchor gives to its host while a host of another anchor has it is given back; the other host notices nothing.
func TestAnchorsGiveTheSame(t *testing.T) {
	for name, r := range map[string]reply{
		"prefix": {v4: netip.MustParsePrefix("10.20.0.99/16")},
		"IPv4":   {hnp: []netip.Prefix{netip.MustParsePrefix("2001:db8:2000::/64")}},
	} {
		t.Run(name, func(t *testing.T) {
			cfg := testConfig()
			cfg.Anchors = append(cfg.Anchors, Anchor{Name: "lma2", Address: lmaa2, Dialect: RFC5844})
			cfg.Profiles = []Profile{{ID: idB, Anchor: "lma2"}}
			b := newBench(t, cfg)
			a := b.bind(3, macA)
			before := b.keys()
			b.mld(3, macB)
			b.answer(b.pbu(), r)
			b.state(macA, active)
			b.state(macB, refused)
			b.counted(wire.AddressClaimed, 1)
			if !slices.Equal(a.prefixes, []netip.Prefix{hnp}) || a.ipv4 != hoa {
				t.Errorf("the first host has %v %v", a.prefixes, a.ipv4)
			}
			if after := b.keys(); len(after) != len(before) || after[hnp] != before[hnp] {
				t.Errorf("forwarding has %v", after)
			}
			u := b.pbu()
			if u.to != lmaa2 || u.Lifetime != 0 || len(u.hnps()) != 1 || !u.v4().IsValid() {
				t.Fatalf("not given back: %v", u)
			}
			b.answer(u, reply{})
			b.until(b.now.Boot + DefaultRetryFirst)
			if u := b.pbu(); u.Lifetime == 0 || u.to != lmaa2 {
				t.Errorf("not tried again: %v", u)
			}
		})
	}
}

// Proxy registration barred in the answer to one session of a host ends the request of the other: neither a sign of life
// nor a retransmission may ask again.
func TestBarredWhileAsking(t *testing.T) {
	cfg := testConfig()
	cfg.Access[0].Identity.Table = map[core.MAC]string{macA: "alice", macB: "alice"}
	barred := reply{status: mobility.ProxyRegNotEnabled}
	b := newBench(t, cfg)
	b.mld(3, macA)
	b.pbu()
	b.mld(3, macB)
	b.answer(b.pbu(), barred)
	b.until(10 * sec)
	b.none()
	b.state(macA, idle)

	// A request that waits for its turn, while one for less is out, is not made either.
	late := cfg
	late.IPv4OnDHCP = true
	b = newBench(t, late)
	b.mld(3, macA)
	b.mld(4, macA)
	b.mld(3, macA)
	b.arp(3, macA, hoa.Addr())
	b.pbus()
	b.mld(3, macB)
	b.answer(b.pbu(), barred)
	b.until(1100 * ms) // MAX_UPDATE_RATE
	b.none()
	b.state(macA, idle)
	b.do(core.Command{Body: core.Detach{If: "acc0", MAC: macA}})
	b.none()
	b.state(macA, gone)

	// A binding that is being extended lives to its end, without another word.
	b = newBench(t, cfg)
	b.bind(3, macA)
	b.until(18 * sec)
	b.pbu()
	b.mld(3, macB)
	b.answer(b.pbu(), barred)
	b.until(39 * sec)
	b.none()
	b.state(macA, active)
	b.until(41 * sec)
	b.none()
	b.state(macA, idle)
}

// A host that takes and gives back its address for ever causes as many updates as any other.
func TestReleaseRate(t *testing.T) {
	client := dhcpv4.WithClientIP(net.IP(hoa.Addr().AsSlice()))
	decline := []dhcpv4.Modifier{dhcpv4.WithOption(dhcpv4.OptRequestedIPAddress(net.IP(hoa.Addr().AsSlice()))),
		dhcpv4.WithOption(dhcpv4.OptServerIdentifier(net.IP(rtr4.AsSlice())))}
	for name, give := range map[string]func(*bench){
		"release": func(b *bench) { b.dhcp(3, macA, dhcpv4.MessageTypeRelease, client) },
		"decline": func(b *bench) { b.dhcp(3, macA, dhcpv4.MessageTypeDecline, decline...) },
	} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t, testConfig())
			b.bind(3, macA)
			start, n := b.now.Boot, 0
			for b.now.Boot < start+100*sec {
				give(b)
				b.until(b.now.Boot + 50*ms)
				b.dhcp(3, macA, dhcpv4.MessageTypeDiscover)
				b.until(b.now.Boot + 50*ms)
				for us := b.pbus(); len(us) > 0; us = b.pbus() {
					n += len(us)
					for _, u := range us {
						b.answer(u, reply{})
					}
				}
			}
			if most := MaxUpdateRate*100 + 2*MaxUpdateRate; n > most || n < 100 {
				t.Errorf("%d updates in 100 s, want at most %d", n, most)
			}
		})
	}
}

// Hosts that change their MAC addresses do not fill the store: what memory forgets is deleted there as well.
func TestStoreIsBounded(t *testing.T) {
	cfg := testConfig()
	cfg.Limits = Limits{Hosts: 20, HostsPerAccess: 20, NewHosts: 1000}
	b := newBench(t, cfg)
	for i := range 100 {
		mac := strangerMAC(i)
		b.mld(3, mac)
		b.answer(b.pbu(), reply{v4: netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 20, 1, byte(i)}), 16)})
		b.do(core.Command{Body: core.Detach{If: "acc0", MAC: mac}})
		b.answer(b.pbu(), reply{})
	}
	stored := map[string]bool{}
	for _, p := range b.persisted {
		if stored[string(p.Key)] = true; p.Val == nil {
			delete(stored, string(p.Key))
		}
	}
	delete(stored, restartKey)
	if len(stored) != 20 || len(b.m.known.hosts) != 20 {
		t.Errorf("%d records, %d in memory", len(stored), len(b.m.known.hosts))
	}
	for mn := range b.m.known.hosts {
		if !stored[learnedPrefix+mn] {
			t.Errorf("%s is in memory only", mn)
		}
	}
}

// A full table is looked through once a second, however many newcomers there are, and room is made for as many as the
// hosts that were silent allow.
func TestEviction(t *testing.T) {
	cfg := testConfig()
	cfg.Limits = Limits{HostsPerAccess: 100, NewHosts: 100_000, Pending: 1}
	cfg.Access[0].Families = access.V6
	b := newBench(t, cfg)
	full := func(from int) {
		for i := range 100 {
			b.do(core.Seen{If: 3, MAC: strangerMAC(from + i), By: "fdb"})
		}
	}
	full(0)
	for _, u := range b.pbus() {
		b.answer(u, reply{status: mobility.ProxyRegNotEnabled})
	}
	l := b.m.links[0]
	full(1000)
	looked := l.looked
	b.clock(looked + 999*ms)
	full(2000)
	if l.looked != looked {
		t.Error("looked through twice in a second")
	}
	for _, e := range b.m.hosts { // all are refused and were silent for long enough, but the first 10
		e.heard = 0
		if e.state == registering {
			b.m.endRequest(e)
			b.m.setState(e, idle, "test")
		}
	}
	b.clock(DefaultNUDReachable + sec)
	for i := range 10 {
		b.m.hosts[strangerMAC(i)].heard = b.now.Boot
	}
	full(3000)
	if n := len(b.m.hosts); n != 100 || l.looked != b.now.Boot {
		t.Errorf("%d hosts, looked at %v", n, l.looked)
	}
	for i := range 100 {
		if (b.m.hosts[strangerMAC(i)] != nil) != (i < 10) || (b.m.hosts[strangerMAC(3000+i)] != nil) != (i < 90) {
			t.Errorf("host %d: kept %v, newcomer %v", i, b.m.hosts[strangerMAC(i)] != nil, b.m.hosts[strangerMAC(3000+i)] != nil)
		}
	}
}

// RFC 5844 3.3.4: an anchor that wants a DHCP relay gets none, and everybody hears of it: in the log once, in the counters
// and in the status as long as it lasts. The host has its address all the same.
func TestAnchorWantsDHCPRelay(t *testing.T) {
	notes := func(b *bench) (n int) {
		for _, x := range b.m.status().Notes {
			if strings.Contains(x, "option 39") && strings.Contains(x, "lma1") {
				n++
			}
		}
		return n
	}
	peers := func(b *bench) (n int) {
		for _, e := range b.emitted("peer") {
			if e.To == "dhcp relay" && strings.Contains(e.Why, "not supported") {
				n++
			}
		}
		return n
	}
	b := newBench(t, testConfig())
	b.bind(3, macA)
	if notes(b) != 0 || peers(b) != 0 {
		t.Error("a note for an anchor that wants a server")
	}
	for _, explicit := range []bool{false, true} {
		b = newBench(t, testConfig())
		b.dhcp(3, macA, dhcpv4.MessageTypeDiscover)
		ack := reply{relay: true}.ack(b.pbu())
		if explicit {
			ack.Options = ack.Options.Add(mobility.IPv4DHCPSupportMode{})
		}
		b.receive(lmaa, ack)
		if notes(b) != 1 || peers(b) != 1 || b.m.counts["dhcp-relay-unsupported"] != 1 {
			t.Errorf("explicit %v: %d notes, %d events, counters %v", explicit, notes(b), peers(b), b.m.counts)
		}
		if ds := b.dhcps(0); len(ds) != 1 || ds[0].MessageType() != dhcpv4.MessageTypeOffer {
			t.Errorf("explicit %v: DHCP %v", explicit, ds)
		}
		b.until(18 * sec)
		b.answer(b.pbu(), reply{relay: true})
		if peers(b) != 1 {
			t.Error("said again at the refresh")
		}
		b.until(36 * sec)
		b.answer(b.pbu(), reply{})
		if notes(b) != 0 {
			t.Error("the note stays")
		}
	}
	// Document 001 has no such option; a link without DHCP has no such question.
	cfg := testConfig()
	cfg.Anchors[0].Dialect = Draft02
	b = newBench(t, cfg)
	b.bind(3, macA)
	off := testConfig()
	off.Access[0].Link.DHCP.Off = true
	b2 := newBench(t, off)
	b2.mld(3, macA)
	b2.answer(b2.pbu(), reply{relay: true})
	if notes(b)+notes(b2) != 0 {
		t.Error("a note without a reason")
	}
}

// A frame that has not even an Ethernet header is counted.
func TestNoFrame(t *testing.T) {
	b := newBench(t, testConfig())
	var none *access.Frame
	b.do(core.Message{Path: core.Path{If: 3}, Body: none, Err: &wire.Error{Msg: "Ethernet frame", Reason: wire.Truncated}})
	b.counted(wire.Truncated, 1)
}

// More hosts than a home link serves cannot be promised.
func TestHostsPerAccessLimit(t *testing.T) {
	cfg := testConfig()
	cfg.Limits.HostsPerAccess = access.MaxHosts + 1
	if _, err := New(cfg, zeros{}); err == nil {
		t.Error("accepted")
	}
	cfg.Limits.HostsPerAccess = access.MaxHosts
	if _, err := New(cfg, zeros{}); err != nil {
		t.Error(err)
	}
}

// Two sessions of one host count from the same number: an answer goes to the session that it echoes, and is no reason to
// stop the other one (RFC 5213 6.9.1.2 (5) and (6)). With timestamps no two updates have the same number.
func TestEqualSequenceNumbers(t *testing.T) {
	for _, ordering := range []bool{true, false} {
		cfg := testConfig()
		cfg.SequenceOrdering = ordering
		cfg.Access[0].Identity.Table = map[core.MAC]string{macA: "alice", macB: "alice"}
		b := newBench(t, cfg)
		b.mld(3, macA)
		first := b.pbu()
		b.mld(3, macB)
		second := b.pbu()
		if (first.Sequence == second.Sequence) != ordering {
			t.Fatalf("sequence ordering %v: %d and %d", ordering, first.Sequence, second.Sequence)
		}
		b.answer(second, reply{})
		b.state(macA, registering)
		b.state(macB, active)
		b.answer(first, reply{hnp: []netip.Prefix{netip.MustParsePrefix("2001:db8:2000::/64")}, v4: netip.MustParsePrefix("10.20.0.11/16")})
		b.state(macA, active)
		b.state(macB, active)
	}
}

// A host that comes from another home network by INIT-REBOOT, and has no session here, is told so where the gateway has a
// server identifier of its own (RFC 5844 3.4.1): by DHCPNAK when the anchor refuses, by silence when no anchor answers.
func TestInitRebootRefused(t *testing.T) {
	for name, answered := range map[string]bool{"refused": true, "unanswered": false} {
		cfg := testConfig()
		cfg.Access[0].Link.DHCP.Fixed = netip.MustParseAddr("10.255.255.1")
		b := newBench(t, cfg)
		b.dhcp(3, macA, dhcpv4.MessageTypeRequest, dhcpv4.WithOption(dhcpv4.OptRequestedIPAddress(net.IPv4(192, 168, 7, 7))))
		if u := b.pbu(); answered {
			b.answer(u, reply{status: mobility.InsufficientResources})
		}
		b.until(30 * sec)
		ds := b.dhcps(0)
		if len(ds) > 0 != answered || answered && (len(ds) != 1 || ds[0].MessageType() != dhcpv4.MessageTypeNak) {
			t.Errorf("%s: DHCP %v", name, ds)
		}
	}
}

// The router has the addresses that RFC 6543 3 and 4 fix, for every host, in what it says and in the headers around it.
func TestFixedRouterAddresses(t *testing.T) {
	b := newBench(t, testConfig())
	b.bind(3, macA)
	b.dhcp(3, macA, dhcpv4.MessageTypeDiscover)
	if len(b.frames) < 3 {
		t.Fatalf("%d frames", len(b.frames))
	}
	for _, f := range b.frames {
		if f.Src != (core.MAC{0x00, 0x00, 0x5e, 0x00, 0x52, 0x13}) {
			t.Errorf("%s from %v", f.Kind(), f.Src)
		}
		if ra, ok := f.Body.(*nd.RouterAdvertisement); ok {
			if ll, _ := ra.Options.SourceLL(); core.MAC(ll) != f.Src || f.SrcIP != netip.MustParseAddr("fe80::200:5eff:fe00:5213") {
				t.Errorf("advertised %v by %v", ll, f.SrcIP)
			}
		}
	}
	// Being fixed, they are none of the anchor's business (RFC 5213 6.9.1.1 (9)), and an anchor cannot change them.
	for _, s := range b.out {
		if u, ok := s.body.(*mobility.BindingUpdate); ok {
			if _, has := u.Options.LinkLocalAddress(); has {
				t.Errorf("a Link-local Address option in %v", u)
			}
		}
	}
}

// The hosts of all links together have a limit of their own.
func TestHostsOfAllLinks(t *testing.T) {
	cfg := testConfig()
	cfg.Limits = Limits{Hosts: 15, HostsPerAccess: 10}
	b := newBench(t, cfg)
	for i := range 20 {
		b.do(core.Seen{If: 3 + i%2, MAC: strangerMAC(i), By: "fdb"})
	}
	if len(b.m.hosts) != 15 || b.m.links[0].hosts != 8 || b.m.links[1].hosts != 7 {
		t.Errorf("%d hosts: %d and %d", len(b.m.hosts), b.m.links[0].hosts, b.m.links[1].hosts)
	}
	b.counted(wire.HostLimit, 5)
}

// When a host moves to another link, its former place loses its keys in the same update that gives them to the new one:
// who sends from the old link with its addresses afterwards is nobody.
func TestMoveLeavesNoKeys(t *testing.T) {
	b := newBench(t, testConfig())
	e := b.bind(3, macA)
	n := len(b.ops)
	b.mld(4, macA)
	at := map[core.Match]bool{}
	for _, op := range b.ops[:n] {
		if k, ok := op.(core.SetKey); ok {
			at[k.Match] = true
		}
	}
	for _, op := range b.ops[n:] {
		switch op := op.(type) {
		case core.SetKey:
			at[op.Match] = true
		case core.Drop:
			delete(at, op.Match)
		}
	}
	for m := range at {
		if m.If != 4 {
			t.Errorf("%v stays on interface %d", m.Src, m.If)
		}
	}
	if len(at) != len(e.keys()) {
		t.Errorf("keys %v", at)
	}
}
