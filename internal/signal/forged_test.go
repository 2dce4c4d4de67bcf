package signal

import (
	"bytes"
	"errors"
	"net/netip"
	"testing"
	"time"

	"kedge/internal/core"
	"kedge/internal/dataplane/mem"
	"kedge/internal/ipsec"
	"kedge/internal/spec"
	"kedge/wire"
	"kedge/wire/ip"
	"kedge/wire/mobility"
	"kedge/wire/nd"
)

// plainly is a message of a path's inner addresses as a whole packet in the clear; pad puts a Destination Options header with padding
// before it.
func plainly(t testing.TB, src, dst netip.Addr, m mobility.Message, pad bool) []byte {
	t.Helper()
	body := mhOf(t, m, src, dst)
	h := ip.Header{Src: src, Dst: dst, Proto: ip.Mobility, TTL: 64}
	if pad {
		h.Proto, body = ip.DstOpts, append([]byte{ip.Mobility, 0, 1, 4, 0, 0, 0, 0}, body...)
	}
	b, err := h.Append(nil, len(body))
	if err != nil {
		t.Fatal(err)
	}
	return append(b, body...)
}

// within puts a packet into the tunnel of data.
func within(t testing.TB, from *mem.Engine, chain core.Chain, pkt []byte) []byte {
	t.Helper()
	var out mem.Out
	if err := from.Encapsulate(time.Hour, chain, pkt, &out); err != nil || len(out.Packets) != 1 {
		t.Fatal(err)
	}
	return bytes.Clone(out.Packets[0].B)
}

// sealed is an inner packet in ESP of whoever has the associations of peer p for the home addresses that p says.
func sealed(t testing.TB, p ipsec.Peer, home, local, remote netip.Addr, inner []byte) []byte {
	t.Helper()
	e := engine(t, p)
	if err := e.UpdateEndpoint(p.Name, home, local, remote); err != nil {
		t.Fatal(err)
	}
	tr, err := ipsec.InnerTraffic(inner, true)
	if err != nil {
		t.Fatal(err)
	}
	b, auth, err := e.Tunnel(now(), tr, inner, nil)
	if err != nil || auth.Kind != ipsec.KindESP {
		t.Fatal(auth, err)
	}
	return b
}

// theirs is a node's side of associations of spi, for a home address.
func theirs(spi uint32, home netip.Addr) ipsec.Peer {
	p := ipsec.Peer{Name: "ha1", Addresses: []netip.Prefix{netip.PrefixFrom(haV6, 128)}, Own: []netip.Addr{home}, Protection: ipsec.ESP}
	for _, sa := range uses(spi) {
		p.SAs = append(p.SAs, swap(sa))
	}
	return p
}

// TestUnprotectedTests: with keys, no Home Test Init leaves the home agent and no Home Test reaches the node that did not come in
// ESP, whatever tunnel it came in, with extension headers and natively too. What others ask the node is not meant.
func TestUnprotectedTests(t *testing.T) {
	spec.Covers(t, "RFC4877-6.2")
	for _, pad := range []bool{false, true} {
		for _, careOf := range []netip.Addr{coa6, coa4} {
			w := newWays(t, true, careOf)
			agent := haV6
			if careOf.Is4() {
				agent = haV4
			}
			up, down := tunnel(port(careOf), port(agent)), tunnel(port(agent), port(careOf))
			a := w.arrive(w.ha, w.net.ha, within(t, w.net.mn, up, plainly(t, hoa, cnV6, hoti, pad)))
			if !errors.Is(a.err, wire.Unprotected) || a.on != nil || drops(w.ha)[wire.Unprotected] != 1 {
				t.Errorf("HoTI from %s, padded %v: %+v, drops %v", careOf, pad, a, drops(w.ha))
			}
			a = w.arrive(w.mn, w.net.mn, within(t, w.net.ha, down, plainly(t, cnV6, hoa, homeTest, pad)))
			if !errors.Is(a.err, wire.Unprotected) || a.msg.Body != nil || drops(w.mn)[wire.Unprotected] != 1 {
				t.Errorf("HoT to %s, padded %v: %+v, drops %v", careOf, pad, a, drops(w.mn))
			}
			a = w.arrive(w.mn, w.net.mn, plainly(t, cnV6, hoa, homeTest, pad))
			if !errors.Is(a.err, wire.Unprotected) || drops(w.mn)[wire.Unprotected] != 2 {
				t.Errorf("HoT natively, padded %v: %+v", pad, a)
			}
			// As a correspondent the node is asked in the clear, and answers so.
			a = w.arrive(w.mn, w.net.mn, within(t, w.net.ha, down, plainly(t, cnV6, hoa, hoti, pad)))
			if m, ok := a.msg.Body.(*mobility.TestInit); !ok || m.CareOf || a.msg.Path.Outer != up {
				t.Fatalf("another's HoTI at %s, padded %v: %+v", careOf, pad, a)
			}
			a = w.arrive(w.ha, w.net.ha, w.send(t, w.mn, w.net.mn, a.msg.Path, homeTest))
			if a.on == nil || headers(t, a.on) != "2001:db8:2000::5>2001:db8:d::99|135" {
				t.Errorf("the node's HoT from %s: %+v", careOf, a)
			}
		}
	}
}

// TestTestsWithoutKeysAreData: without keys the home agent looks at none of it.
func TestTestsWithoutKeysAreData(t *testing.T) {
	w := newWays(t, false, coa6)
	a := w.arrive(w.ha, w.net.ha, within(t, w.net.mn, inTunnel, plainly(t, hoa, cnV6, hoti, false)))
	if a.err != nil || a.on == nil || len(drops(w.ha)) != 0 {
		t.Errorf("%+v %v", a, drops(w.ha))
	}
}

// TestSpoiledTests: what is changed, repeated, from elsewhere or of another home address than the association's.
func TestSpoiledTests(t *testing.T) {
	spec.Covers(t, "RFC3776-3.2", "RFC4877-4.3")
	initOf := func(src netip.Addr) []byte { return plainly(t, src, cnV6, hoti, false) }
	testTo := func(dst netip.Addr) []byte { return plainly(t, cnV6, dst, homeTest, false) }
	up := func(spi uint32, home, careOf netip.Addr, inner []byte) func(*ways) []byte {
		return func(*ways) []byte { return sealed(t, theirs(spi, home), home, careOf, haV6, inner) }
	}
	down := func(spi uint32, home netip.Addr, inner []byte) func(*ways) []byte {
		return func(*ways) []byte {
			p := ipsec.Peer{Name: "x", Homes: []netip.Addr{home}, Protection: ipsec.ESP, SAs: uses(spi)}
			return sealed(t, p, home, haV6, coa6, inner)
		}
	}
	flip := func(f func(*ways) []byte, at int) func(*ways) []byte {
		return func(w *ways) []byte {
			b := f(w)
			b[(at+len(b))%len(b)] ^= 1
			return b
		}
	}
	good, back := up(0x1001, hoa, coa6, initOf(hoa)), down(0x1001, hoa, testTo(hoa))
	for _, c := range []struct {
		name string
		up   bool
		pkt  func(*ways) []byte
		want wire.Reason
	}{
		{"HoTI", true, good, ""},
		{"HoT", false, back, ""},
		{"HoTI, changed", true, flip(good, 60), wire.BadICV},
		{"HoTI, cut", true, func(w *ways) []byte {
			b := good(w)[:60]
			b[5] = 20
			return b
		}, wire.Truncated},
		{"HoTI, another sequence number", true, flip(good, 46), wire.BadICV},
		{"HoTI, unknown association", true, flip(good, 43), wire.UnknownSPI},
		{"HoTI from another care-of address", true, up(0x1001, hoa, netip.MustParseAddr("2001:db8:c::78"), initOf(hoa)), wire.WrongTunnel},
		{"HoTI of another home address", true, up(0x1001, otherHoA, coa6, initOf(otherHoA)), wire.WrongAssociation},
		{"HoTI of no home address", true, up(0x1001, coa6, coa6, initOf(coa6)), wire.WrongAssociation},
		{"HoTI of a node that is not bound", true, up(0x2001, otherHoA, coa6, initOf(otherHoA)), wire.WrongTunnel},
		{"HoTI to many", true, up(0x1001, hoa, coa6, plainly(t, hoa, netip.MustParseAddr("ff0e::1"), hoti, false)), wire.NotUnicast},
		{"HoTI to a link", true, up(0x1001, hoa, coa6, plainly(t, hoa, netip.MustParseAddr("fe80::1"), hoti, false)), wire.NotUnicast},
		{"HoT, changed", false, flip(back, -1), wire.BadICV},
		{"HoT for another home address", false, down(0x1001, otherHoA, testTo(otherHoA)), wire.WrongAssociation},
		{"HoT from elsewhere", false, func(*ways) []byte {
			p := ipsec.Peer{Name: "x", Homes: []netip.Addr{hoa}, Protection: ipsec.ESP, SAs: uses(0x1001)}
			return sealed(t, p, hoa, netip.MustParseAddr("2001:db8:a::2"), coa6, testTo(hoa))
		}, wire.WrongTunnel},
	} {
		w := newWays(t, true, coa6)
		at, plane := w.ha, w.net.ha
		if !c.up {
			at, plane = w.mn, w.net.mn
		}
		pkt := c.pkt(w)
		a := w.arrive(at, plane, pkt)
		if c.want == "" {
			if a.err != nil || (a.on == nil) == c.up {
				t.Errorf("%s: %+v", c.name, a)
			}
			if again := w.arrive(at, plane, pkt); !errors.Is(again.err, wire.Replayed) || again.on != nil || again.msg.Body != nil {
				t.Errorf("%s, repeated: %+v", c.name, again)
			}
			continue
		}
		if !errors.Is(a.err, c.want) || a.on != nil || a.msg.Body != nil || drops(at)[c.want] != 1 {
			t.Errorf("%s: %+v, drops %v, want %s", c.name, a, drops(at), c.want)
		}
	}
}

// TestTunnelFollowsTheBinding: after a movement, only the new care-of address is one; after the binding ended, none is, and no Home
// Test goes anywhere; over IPv4 there is no return routability in ESP, and none in the clear.
func TestTunnelFollowsTheBinding(t *testing.T) {
	spec.Covers(t, "RFC4877-4.3", "RFC3776-3.2")
	w := newWays(t, true, coa6)
	next := netip.MustParseAddr("2001:db8:c::78")
	late := w.send(t, w.mn, w.net.mn, hotiPath, hoti) // on its way while the node moves
	w.bind(t, next)
	if a := w.arrive(w.ha, w.net.ha, late); !errors.Is(a.err, wire.WrongTunnel) {
		t.Errorf("from the old care-of address: %+v", a)
	}
	path := hotiPath
	path.Outer = tunnel(port(next), port(haV6))
	out := w.send(t, w.mn, w.net.mn, path, hoti)
	if got := headers(t, out); got != "2001:db8:c::78>2001:db8:a::1|50" {
		t.Errorf("moved: %s", got)
	}
	if a := w.arrive(w.ha, w.net.ha, out); a.err != nil || a.on == nil {
		t.Errorf("moved: %+v", a)
	}
	hot := plainly(t, cnV6, hoa, homeTest, false)
	a := w.routed(hot)
	if a.err != nil || a.on == nil || headers(t, a.on) != "2001:db8:a::1>2001:db8:c::78|50" {
		t.Errorf("moved: %+v", a)
	}
	if a := w.arrive(w.mn, w.net.mn, a.on); a.msg.Path.Outer != path.Outer {
		t.Errorf("moved: %+v", a)
	}

	w.bind(t, coa4)
	path.Outer = tunnel(port(coa4), port(haV4))
	p := packet(t, path, hoti)
	if b, err := w.mn.Out(now(), &p, nil); !errors.Is(err, wire.WrongTunnel) || len(b) != 0 {
		t.Errorf("HoTI over IPv4: %x, %v", b, err)
	}
	if a := w.routed(hot); !errors.Is(a.err, wire.WrongTunnel) || a.on != nil {
		t.Errorf("HoT over IPv4: %+v", a)
	}

	if err := errors.Join(w.ha.UpdateEndpoint("mn1", hoa, netip.Addr{}, netip.Addr{}), w.mn.UpdateEndpoint("ha1", hoa, netip.Addr{}, netip.Addr{})); err != nil {
		t.Fatal(err)
	}
	if a := w.routed(hot); !errors.Is(a.err, wire.Unprotected) || a.on != nil {
		t.Errorf("HoT without a binding: %+v", a)
	}
	// At home both are the node's own link's.
	if got := headers(t, w.send(t, w.mn, nil, core.Path{If: 3, Local: port(hoa), Remote: port(cnV6)}, hoti)); got != "2001:db8:2000::5>2001:db8:d::99|135" {
		t.Errorf("HoTI at home: %s", got)
	}
	if a := w.arrive(w.mn, nil, hot); a.err != nil || a.msg.Body == nil {
		t.Errorf("HoT at home: %+v", a)
	}
}

// TestUnprotectedPrefixDiscovery: what the policy wants in ESP is dropped in the clear, whichever headers it has and whatever it came in.
func TestUnprotectedPrefixDiscovery(t *testing.T) {
	spec.Covers(t, "RFC3776-3.3", "RFC4877-6.3")
	clear := NewCodec(Config{Homes: []netip.Addr{hoa}})
	for _, keys := range []bool{false, true} {
		for _, c := range []struct {
			name string
			up   bool
			path core.Path
			body nd.Message
		}{
			{"MPS", true, mpsIPv6, mps},
			{"MPS in IPv4", true, mpsIPv4, mps},
			{"MPS in the tunnel of data", true, core.Path{Local: port(hoa), Remote: port(haV6), Outer: inTunnel}, mps},
			{"MPS from home", true, mpsHome, mps},
			{"MPA", false, core.Path{Local: port(haV6), Remote: port(coa6), Home: hoa}, mpa},
			{"MPA without a routing header", false, core.Path{Local: port(haV6), Remote: port(coa6)}, mpa},
			{"MPA to the home address", false, core.Path{Local: port(haV6), Remote: port(hoa)}, mpa},
			{"MPA in IPv4", false, core.Path{Local: port(haV6), Remote: port(hoa), Outer: tunnel(port(haV4), port(coa4))}, mpa},
			{"MPA in the tunnel of data", false, core.Path{Local: port(haV6), Remote: port(hoa), Outer: tunnel(port(haV6), port(coa6))}, mpa},
		} {
			w := newWays(t, keys, coa6)
			from, at, plane := w.net.mn, w.ha, w.net.ha
			if !c.up {
				from, at, plane = w.net.ha, w.mn, w.net.mn
			}
			a := w.arrive(at, plane, w.send(t, clear, from, c.path, c.body))
			if !errors.Is(a.err, wire.Unprotected) || a.msg.Body != nil || drops(at)[wire.Unprotected] != 1 {
				t.Errorf("%s, keys %v: %+v, drops %v", c.name, keys, a, drops(at))
			}
		}
	}
}

// TestPrefixDiscoveryByTheWrongAssociation: right ESP of another use, or of another node, is none.
func TestPrefixDiscoveryByTheWrongAssociation(t *testing.T) {
	w := newWays(t, true, coa6)
	signalling := theirs(0x1001, hoa)
	signalling.SAs = signalling.SAs[:1]
	for _, c := range []struct {
		name string
		peer ipsec.Peer
		home netip.Addr
	}{{"signalling's", signalling, hoa}, {"another node's", theirs(0x2001, hoa), hoa}} {
		mn := NewCodec(Config{IPsec: engine(t, c.peer), Homes: []netip.Addr{c.home}})
		if a := w.arrive(w.ha, w.net.ha, w.send(t, mn, nil, mpsIPv6, mps)); !errors.Is(a.err, wire.WrongAssociation) {
			t.Errorf("%s: %+v", c.name, a)
		}
	}
}

// TestHomeAgentAsCorrespondent: what comes in ESP for an address of its own is a message, and its answer goes by ESP.
func TestHomeAgentAsCorrespondent(t *testing.T) {
	w := newWays(t, true, coa6)
	path := hotiPath
	path.Remote = port(haV6)
	at := w.arrive(w.ha, w.net.ha, w.send(t, w.mn, w.net.mn, path, hoti))
	if m, ok := at.msg.Body.(*mobility.TestInit); !ok || m.Cookie != hoti.Cookie || at.msg.Path.Auth.Peer != "mn1" || at.on != nil {
		t.Fatalf("%+v", at)
	}
	out := w.send(t, w.ha, w.net.ha, at.msg.Path, homeTest)
	if got := headers(t, out); got != "2001:db8:a::1>2001:db8:c::77|50" {
		t.Errorf("%s", got)
	}
	if got := w.arrive(w.mn, w.net.mn, out); got.msg.Path.Remote != port(haV6) || got.msg.Path.Outer != inTunnel {
		t.Errorf("%+v", got)
	}
}

// TestNodeAsCorrespondent: others' Binding Updates come by its tunnel, with or without their home address; a home agent takes none so.
func TestNodeAsCorrespondent(t *testing.T) {
	w := newWays(t, true, coa6)
	other := netip.MustParseAddr("2001:db8:e::1")
	bu := &mobility.BindingUpdate{Sequence: 5, Lifetime: 100, Flags: mobility.BUAck}
	chain := tunnel(port(haV6), port(coa6))
	path := core.Path{Local: port(other), Remote: port(hoa), Own: otherHoA, Outer: chain}
	a := w.arrive(w.mn, w.net.mn, w.send(t, w.cn, w.net.ha, path, bu))
	if a.err != nil || a.msg.Path.Home != otherHoA || a.msg.Path.Remote != port(other) || a.msg.Path.Outer != inTunnel {
		t.Errorf("%+v", a)
	}
	up := core.Path{Local: port(hoa), Remote: port(haV6), Outer: inTunnel}
	if a := w.arrive(w.ha, w.net.ha, w.send(t, w.cn, w.net.mn, up, bu)); !errors.Is(a.err, wire.UpdateInTunnel) {
		t.Errorf("%+v", a)
	}
	// With a route-optimized way to the node: both headers, natively.
	both := core.Path{Local: port(other), Remote: port(coa6), Own: otherHoA, Home: hoa}
	if a := w.arrive(w.mn, nil, w.send(t, w.cn, nil, both, bu)); a.err != nil || a.msg.Path.Own != hoa || a.msg.Path.Home != otherHoA {
		t.Errorf("%+v", a)
	}
}

// TestMobileToMobile: a Home Test Init of one node of the home agent for another, and its answer, which the home agent protects on its
// way to the first although it came out of a tunnel.
func TestMobileToMobile(t *testing.T) {
	w := newWays(t, true, coa6)
	second := netip.MustParseAddr("2001:db8:e::1")
	if err := w.net.ha.Update([]core.Op{
		core.SetSession{ID: 2, Chain: tunnel(port(haV6), port(second))}, core.SetKey{ID: 2, Match: core.Match{Dst: netip.PrefixFrom(otherHoA, 128)}, Up: true, Down: true},
	}); err != nil {
		t.Fatal(err)
	}
	path := hotiPath
	path.Remote = port(otherHoA)
	a := w.arrive(w.ha, w.net.ha, w.send(t, w.mn, w.net.mn, path, hoti))
	if a.err != nil || a.on == nil || headers(t, a.on) != "2001:db8:a::1>2001:db8:e::1|41|2001:db8:2000::5>2001:db8:2000::6|135" {
		t.Fatalf("%+v", a)
	}
	answer := within(t, w.net.mn, tunnel(port(second), port(haV6)), plainly(t, otherHoA, hoa, homeTest, false))
	a = w.arrive(w.ha, w.net.ha, answer)
	if a.err != nil || a.on == nil || headers(t, a.on) != "2001:db8:a::1>2001:db8:c::77|50" {
		t.Fatalf("%+v", a)
	}
}

// TestFloodOfTests: what strangers send to home addresses costs the home agent's associations a bounded part of their numbers.
func TestFloodOfTests(t *testing.T) {
	w := newWays(t, true, coa6)
	sent := 0
	for range 1000 {
		if a := w.routed(plainly(t, cnV6, hoa, homeTest, false)); a.on != nil {
			sent++
		}
	}
	if sent > 101 || sent < 50 || w.net.ha.Dropped(wire.RateLimit) != uint64(1000-sent) {
		t.Errorf("%d protected, %d dropped", sent, w.net.ha.Dropped(wire.RateLimit))
	}
	// Another's come through.
	if a := w.routed(plainly(t, netip.MustParseAddr("2001:db8:d::98"), hoa, homeTest, false)); a.on == nil {
		t.Errorf("%+v", a)
	}
}

// TestTestsNeverLeaveInTheClear: with keys, what should be in ESP does not leave in a tunnel without it, also while the tunnel of ESP
// is not there yet or not any more: the node's Home Test Init, and the Home Test of a home agent that is the correspondent.
func TestTestsNeverLeaveInTheClear(t *testing.T) {
	spec.Covers(t, "RFC4877-6.2")
	for _, keys := range []bool{true, false} {
		w := newWays(t, keys, coa6)
		if err := errors.Join(w.ha.UpdateEndpoint("mn1", hoa, netip.Addr{}, netip.Addr{}), w.mn.UpdateEndpoint("ha1", hoa, netip.Addr{}, netip.Addr{})); err != nil {
			t.Fatal(err)
		}
		down := tunnel(port(haV6), port(coa6))
		for _, c := range []struct {
			name string
			from *Codec
			path core.Path
			body mobility.Message
			free bool // it is another's test
		}{
			{"HoTI", w.mn, hotiPath, hoti, false},
			{"HoT of the home agent", w.ha, core.Path{Local: port(haV6), Remote: port(hoa), Outer: down}, homeTest, false},
			{"HoT of the node, to another", w.mn, core.Path{Local: port(hoa), Remote: port(cnV6), Outer: inTunnel}, homeTest, true},
			{"HoTI at home", w.mn, core.Path{If: 3, Local: port(hoa), Remote: port(cnV6)}, hoti, true},
			{"CoTI in the tunnel", w.mn, hotiPath, &mobility.TestInit{CareOf: true}, true},
		} {
			p := packet(t, c.path, c.body)
			b, err := c.from.Out(now(), &p, nil)
			if refused := errors.Is(err, wire.Unprotected) && len(b) == 0; refused == (c.free || !keys) {
				t.Errorf("%s, keys %v: %d octets, %v", c.name, keys, len(b), err)
			}
		}
	}
}

// TestUnprotectedTestsWithoutATunnel: while the policy has no tunnel of ESP, because the binding ended here and goes on elsewhere, what
// comes in the tunnel of data is not taken in its place; ESP in tunnel mode within the tunnel of data is not read at all.
func TestUnprotectedTestsWithoutATunnel(t *testing.T) {
	spec.Covers(t, "RFC4877-6.2")
	down := tunnel(port(haV6), port(coa6))
	for _, keys := range []bool{true, false} {
		w := newWays(t, keys, coa6)
		if err := errors.Join(w.ha.UpdateEndpoint("mn1", hoa, netip.Addr{}, netip.Addr{}), w.mn.UpdateEndpoint("ha1", hoa, netip.Addr{}, netip.Addr{})); err != nil {
			t.Fatal(err)
		}
		for _, c := range []struct {
			name string
			a    arrival
			free bool
		}{
			{"HoTI for the home agent", w.arrive(w.ha, w.net.ha, within(t, w.net.mn, inTunnel, plainly(t, hoa, haV6, hoti, false))), false},
			{"HoT for the node", w.arrive(w.mn, w.net.mn, within(t, w.net.ha, down, plainly(t, cnV6, hoa, homeTest, false))), false},
			{"another's HoTI for the node", w.arrive(w.mn, w.net.mn, within(t, w.net.ha, down, plainly(t, cnV6, hoa, hoti, false))), true},
		} {
			if refused := errors.Is(c.a.err, wire.Unprotected) && c.a.msg.Body == nil; refused == (c.free || !keys) {
				t.Errorf("%s, keys %v: %+v", c.name, keys, c.a)
			}
		}
	}
	w := newWays(t, true, coa6)
	esp := sealed(t, theirs(0x1001, hoa), hoa, coa6, haV6, plainly(t, hoa, cnV6, hoti, false))
	if err := w.ha.In(now(), esp, tunnel(port(haV6), port(coa6)), new(core.Packet)); !errors.Is(err, wire.TunnelInTunnel) {
		t.Errorf("ESP in a tunnel: %v", err)
	}
}
