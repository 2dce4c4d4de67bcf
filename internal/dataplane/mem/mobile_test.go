package mem

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"net/netip"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"kedge/internal/core"
	"kedge/internal/dataplane"
	"kedge/wire"
	"kedge/wire/ip"
)

// mobile is one of two nodes that are each other's correspondents.
type mobile struct {
	*Engine
	home, care, agent netip.Addr
	// registered: the other one has this one's care-of address, and this one knows that. knows: this one has the other's.
	registered, knows bool
	said              []core.Reported
}

var (
	homeB  = netip.MustParseAddr("2001:db8:1000:2::b")
	careB  = netip.MustParseAddr("2001:db8:b::12")
	agentB = netip.MustParseAddr("2001:db8:b::1")
)

func newMobile(t testing.TB, home, care, agent netip.Addr, cfg Config) *mobile {
	t.Helper()
	cfg.Role, cfg.Home, cfg.Anchors, cfg.Now = dataplane.Node, []netip.Addr{home}, []netip.Addr{agent}, func() time.Duration { return time.Hour }
	e, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	m := &mobile{Engine: e, home: home, care: care, agent: agent}
	e.Reports(func(r core.Reported) { m.said = append(m.said, r) })
	must(t, e.Update([]core.Op{core.SetSession{ID: 1, Chain: chainTo(care, agent)}, core.SetKey{ID: 1, Match: core.Match{Src: whole(home)}, Up: true, Down: true}}))
	return m
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// meet gives m the session that it has of the other in its present state.
func (m *mobile) meet(other *mobile) error {
	if !m.registered && !m.knows {
		return m.Update([]core.Op{core.Drop{ID: 2}})
	}
	c := core.Chain{RO: 1, Layer: [2]core.Layer{{Local: plain(m.care), Remote: plain(other.home)}}}
	if m.knows {
		c.Layer[0].Remote = plain(other.care)
	}
	if !m.registered {
		c.N, c.Layer[0].Local, c.Layer[1] = 1, plain(m.home), core.Layer{Local: plain(m.care), Remote: plain(m.agent)}
	}
	return m.Update([]core.Op{core.SetSession{ID: 2, Chain: c}, core.SetKey{ID: 2, Match: core.Match{Src: whole(m.home), Dst: whole(other.home)}, Up: true, Down: true}})
}

// send carries a packet of m's to the other: natively or in tunnels, as home agents would, and gives what arrives and what was on the way
// between the two networks.
func (m *mobile) send(t testing.TB, other *mobile, pkt []byte) (got [][]byte, between []byte) {
	t.Helper()
	for _, b := range carried(t, m.Engine, pkt) {
		if b[6] == ip.IPv6 && netip.AddrFrom16([16]byte(b[24:40])) == m.agent {
			b = b[40:]
		}
		between = b
		if netip.AddrFrom16([16]byte(b[24:40])) == other.home {
			b = around(t, other.agent, other.care, b)
		}
		got = append(got, taken(t, other.Engine, [][]byte{b})...)
	}
	return got, between
}

// TestBothMobile: whatever each of two mobile nodes knows of the other, what one sends arrives as it was, if the other has the
// care-of address that is used; it goes no longer way than that, and nothing is on the way that the rules do not want.
func TestBothMobile(x *testing.T) {
	rapid.Check(x, func(t *rapid.T) {
		a, b := newMobile(x, home6, coa, lmaa, Config{Correspondent: true}), newMobile(x, homeB, careB, agentB, Config{Correspondent: true})
		for range rapid.IntRange(1, 12).Draw(t, "steps") {
			from, to := a, b
			if rapid.Bool().Draw(t, "b") {
				from, to = b, a
			}
			from.registered, from.knows = rapid.Bool().Draw(t, "registered"), rapid.Bool().Draw(t, "knows")
			must(x, from.meet(to))
			from, to = to, from
			pkt := packet(x, from.home, to.home, 64, rapid.IntRange(0, 1200).Draw(t, "octets"))
			drops := to.Dropped(wire.WrongTunnel)
			got, way := from.send(x, to, pkt)
			src, dst := from.home, to.home
			if from.registered {
				src = from.care
			}
			if from.knows {
				dst = to.care
			}
			if s, d := netip.AddrFrom16([16]byte(way[8:24])), netip.AddrFrom16([16]byte(way[24:40])); s != src || d != dst {
				t.Fatalf("from %v to %v, want %v to %v", s, d, src, dst)
			}
			// A care-of address that the other has no binding for is refused; so is a routing header of somebody with whom there is
			// nothing agreed at all.
			if from.registered && !to.knows || from.knows && !to.registered && !to.knows {
				if len(got) != 0 || to.Dropped(wire.WrongTunnel) != drops+1 {
					t.Fatalf("%d packets came, %d were dropped", len(got), to.Dropped(wire.WrongTunnel)-drops)
				}
				continue
			}
			if len(got) != 1 || !bytes.Equal(got[0], pkt) {
				t.Fatalf("sender %v/%v, receiver %v/%v: got %x, want %x", from.registered, from.knows, to.registered, to.knows, got, pkt)
			}
		}
		a.registered, a.knows, b.registered, b.knows = false, false, false, false
		must(x, a.meet(b))
		must(x, b.meet(a))
		for _, m := range []*mobile{a, b} {
			must(x, m.Update([]core.Op{core.Drop{ID: 1}}))
			if len(m.tables.straight)+len(m.tables.owns)+len(m.tables.pairs)+len(m.tables.paths) != 0 || m.Optimized() != 0 {
				t.Fatalf("left over: %v, %v", m.tables.straight, m.tables.owns)
			}
		}
	})
}

// bothMobile makes two that know of each other.
func bothMobile(t testing.TB, cfg Config) (a, b *mobile) {
	a, b = newMobile(t, home6, coa, lmaa, cfg), newMobile(t, homeB, careB, agentB, cfg)
	a.registered, a.knows, b.registered, b.knows = true, true, true, true
	must(t, a.meet(b))
	must(t, b.meet(a))
	return a, b
}

// TestBothMobileOnWire: the routing header before the option (RFC 6275 6.3), octet by octet.
func TestBothMobileOnWire(t *testing.T) {
	a, b := bothMobile(t, Config{})
	pkt := packet(t, home6, homeB, 64, 20)
	got, way := a.send(t, b, pkt)
	want := slices.Concat([]byte{0x60, 0, 0, 0, 0, byte(len(pkt) - 40 + 48), 43, 64}, coa.AsSlice(), careB.AsSlice(),
		[]byte{60, 2, 2, 1, 0, 0, 0, 0}, homeB.AsSlice(), []byte{17, 2, 1, 2, 0, 0, 0xc9, 16}, home6.AsSlice(), pkt[40:])
	if !bytes.Equal(way, want) {
		t.Errorf("sent %x,\nwant %x", way, want)
	}
	if len(got) != 1 || !bytes.Equal(got[0], pkt) {
		t.Errorf("got %x", got)
	}
}

// TestMovedWithin: the care-of addresses before a move are taken for Grace, of either end, and no longer.
func TestMovedWithin(t *testing.T) {
	now := time.Hour
	a, b := bothMobile(t, Config{})
	b.cfg.Now = func() time.Duration { return now }
	old := carried(t, a.Engine, packet(t, home6, homeB, 64, 10))[0]
	next := netip.MustParseAddr("2001:db8:e::9")
	c := core.Chain{RO: 1, Layer: [2]core.Layer{{Local: plain(next), Remote: plain(coa2)}}}
	must(t, b.Update([]core.Op{core.SetSession{ID: 2, Chain: c, Grace: time.Second}}))
	for _, at := range []time.Duration{0, time.Second - 1, time.Second} {
		var out Out
		b.Tunnel(now+at, bytes.Clone(old), &out)
		if (len(out.Packets) == 1) != (at < time.Second) {
			t.Errorf("after %v: %d packets", at, len(out.Packets))
		}
	}
}

// TestMobileRefused: what no two addresses can have between them.
func TestMobileRefused(t *testing.T) {
	a, _ := bothMobile(t, Config{})
	ro := func(n uint8, local, remote netip.Addr, tunnel ...core.Layer) core.Chain {
		c := core.Chain{N: n, RO: 1, Layer: [2]core.Layer{{Local: plain(local), Remote: plain(remote)}}}
		copy(c.Layer[1:], tunnel)
		return c
	}
	own := core.Layer{Local: plain(coa), Remote: plain(lmaa)}
	key := core.SetKey{ID: 3, Match: core.Match{Src: whole(home6), Dst: whole(homeB)}, Up: true, Down: true}
	for name, ops := range map[string][]core.Op{
		"neither end is away":       {core.SetSession{ID: 3, Chain: ro(0, home6, homeB)}, key},
		"neither, in a tunnel":      {core.SetSession{ID: 3, Chain: ro(1, home6, homeB, own)}, key},
		"from a care-of address":    {core.SetSession{ID: 3, Chain: ro(1, coa, careB, own)}, key},
		"two tunnels":               {core.SetSession{ID: 3, Chain: ro(2, home6, careB, own)}},
		"no tunnel":                 {core.SetSession{ID: 3, Chain: ro(1, home6, careB)}},
		"a tunnel without one":      {core.SetSession{ID: 3, Chain: ro(0, coa, careB, own)}},
		"with itself":               {core.SetSession{ID: 3, Chain: ro(0, coa, careB)}, core.SetKey{ID: 3, Match: core.Match{Src: whole(home6), Dst: whole(home6)}}},
		"both at home, by movement": {core.SetSession{ID: 2, Chain: ro(0, home6, homeB)}},
	} {
		if err := a.Update(ops); err == nil {
			t.Errorf("%s: accepted", name)
		}
		must(t, a.Update([]core.Op{core.Drop{ID: 3}}))
	}
	if got := carried(t, a.Engine, packet(t, home6, homeB, 64, 10)); len(got) != 1 || got[0][6] != ip.Routing {
		t.Errorf("afterwards: %x", got)
	}
}

// TestCorrespondentsReported: whom a home address exchanges packets with in the tunnel, once a second each and in each direction; not home
// agents, not of mobile networks, not errors, and nobody when it is off.
func TestCorrespondentsReported(t *testing.T) {
	m := newMobile(t, home6, coa, lmaa, Config{Correspondents: true})
	must(t, m.Update([]core.Op{core.SetKey{ID: 1, Match: core.Match{Src: netip.MustParsePrefix("2001:db8:4000::/48")}, Up: true, Down: true}}))
	up := func(at time.Duration, src, dst netip.Addr) {
		var out Out
		m.Native(at, Native{B: packet(t, src, dst, 64, 10)}, &out)
	}
	down := func(at time.Duration, out *Out, src, dst netip.Addr) {
		out.Reset()
		m.Tunnel(at, around(t, lmaa, coa, packet(t, src, dst, 64, 10)), out)
	}
	said := func(what string, want int) {
		t.Helper()
		if len(m.said) != want {
			t.Errorf("%s: %+v, want %d", what, m.said, want)
		}
		for _, r := range m.said {
			if r.Reason != core.ReportCorrespondent || r.Inner != (core.Match{Src: whole(home6), Dst: whole(cn6)}) || r.ID != 0 {
				t.Errorf("%s: %+v", what, r)
			}
		}
		m.said = nil
	}
	at := time.Hour
	up(at, home6, cn6)
	up(at+999*time.Millisecond, home6, cn6)
	said("out", 1)
	up(at+time.Second, home6, cn6)
	said("out, a second later", 1)
	var out Out
	at += 10 * time.Second
	for i := range 30 { // one flow, which is remembered
		down(at+time.Duration(i)*100*time.Millisecond, &out, cn6, home6)
	}
	said("in, for 2.9 s", 3)
	at += 10 * time.Second
	up(at, home6, lmaa)
	up(at, netip.MustParseAddr("2001:db8:4000::9"), cn6)
	m.Tunnel(at, around(t, lmaa, coa, slices.Concat(packet(t, cn6, home6, 64, 0)[:6], []byte{ip.ICMPv6, 64}, cn6.AsSlice(), home6.AsSlice(), make([]byte, 8))), &out)
	said("others", 0)
	must(t, m.Update([]core.Op{
		core.SetSession{ID: 2, Chain: core.Chain{RO: 1, Layer: [2]core.Layer{{Local: plain(coa), Remote: plain(cn6)}}}},
		core.SetKey{ID: 2, Match: core.Match{Src: whole(home6), Dst: whole(cn6)}, Down: true},
	}))
	up(at, home6, cn6)
	down(at, &out, cn6, home6)
	said("being optimized", 0)
	must(t, m.Update([]core.Op{core.SetKey{ID: 2, Match: core.Match{Src: whole(home6), Dst: whole(cn6)}, Up: true, Down: true}}))
	up(at, home6, cn6)
	said("optimized", 0)
	down(at, &out, cn6, home6)
	if len(m.said) != 1 || m.said[0].ID != 2 {
		t.Errorf("the correspondent sends home: %+v", m.said)
	}
	off := newMobile(t, home6, coa, lmaa, Config{})
	off.Tunnel(at, around(t, lmaa, coa, packet(t, cn6, home6, 64, 10)), &out)
	off.Native(at, Native{B: packet(t, home6, cn6, 64, 10)}, &out)
	off.Talk(at, home6, cn6, true)
	if len(off.said) != 0 {
		t.Errorf("off: %+v", off.said)
	}
}

// TestCorrespondentsFlood: strangers make talksPerSecond reports at most, and do not hide whom the node sends to.
func TestCorrespondentsFlood(t *testing.T) {
	m := newMobile(t, home6, coa, lmaa, Config{Correspondents: true})
	var out Out
	for i := range 5000 {
		a := cn6.As16()
		binary.BigEndian.PutUint32(a[12:], uint32(i+1000))
		out.Reset()
		m.Tunnel(time.Hour, around(t, lmaa, coa, packet(t, netip.AddrFrom16(a), home6, 64, 10)), &out)
	}
	if len(m.said) == 0 || len(m.said) > talksPerSecond {
		t.Errorf("%d reports, want at most %d", len(m.said), talksPerSecond)
	}
	m.said = nil
	m.Native(time.Hour, Native{B: packet(t, home6, cn6, 64, 10)}, &out)
	if len(m.said) != 1 {
		t.Errorf("of the node's own: %+v", m.said)
	}
}

// TestCorrespondentUnbound: a Home Address option that nobody has bound is dropped at a correspondent, natively and in a node's tunnel, and
// reported with all that a Binding Error needs (RFC 6275 9.3.1, 9.3.3); without Correspondent a node leaves it to its kernel.
func TestCorrespondentUnbound(t *testing.T) {
	option := func(dst netip.Addr, home netip.Addr) []byte {
		b := packet(t, careB, dst, 64, 10)
		a := home.As16()
		b = slices.Concat(b[:40], []byte{17, 2, 1, 2, 0, 0, 0xc9, 16}, a[:], b[40:])
		b[6], b[5] = ip.DstOpts, byte(len(b)-40)
		return b
	}
	var said []core.Reported
	host, err := New(Config{Local: []netip.Addr{cn6}, Correspondent: true})
	must(t, err)
	host.Reports(func(r core.Reported) { said = append(said, r) })
	node := newMobile(t, home6, coa, lmaa, Config{Correspondent: true})
	for _, c := range []struct {
		name      string
		e         *Engine
		own, home netip.Addr
		inside    bool
		drop      wire.Reason
	}{
		{"at a host", host, cn6, homeB, false, wire.WrongTunnel},
		{"in a node's tunnel", node.Engine, home6, homeB, true, wire.WrongTunnel},
		{"at a node at home", node.Engine, home6, homeB, false, wire.WrongTunnel},
		{"no unicast home address", host, cn6, netip.MustParseAddr("ff0e::1"), false, wire.BadInner},
	} {
		said, node.said = nil, nil
		b := option(c.own, c.home)
		if c.inside {
			b = around(t, lmaa, coa, b)
		}
		var out Out
		c.e.Tunnel(time.Hour, b, &out)
		c.e.reports = limiter{}
		c.e.reports.init(reportsPerLink)
		got := append(said, node.said...)
		want := core.Reported{
			Reason: string(wire.WrongTunnel), HomeAddress: true, Outer: core.Layer{Local: plain(c.own), Remote: plain(careB)},
			Inner: core.Match{Src: whole(c.home), Dst: whole(c.own)},
		}
		if len(out.Packets) != 0 || c.e.Dropped(c.drop) == 0 || len(got) != 1 || got[0] != want {
			t.Errorf("%s: %+v, reported %+v,\nwant %+v", c.name, out.Packets, got, want)
		}
	}
	plainNode := newMobile(t, home6, coa, lmaa, Config{})
	var out Out
	b := option(home6, homeB)
	plainNode.Tunnel(time.Hour, around(t, lmaa, coa, b), &out)
	if len(out.Packets) != 1 || !bytes.Equal(out.Packets[0].B, b) {
		t.Errorf("a node that is none: %+v", out.Packets)
	}
}

// TestOptionProblems: what has to be answered when it is not understood is, to where it came from and the way it came, and so often
// only (RFC 8200 4.2, 4.4, RFC 4443 2.4 f).
func TestOptionProblems(t *testing.T) {
	a, b := bothMobile(t, Config{})
	good := carried(t, a.Engine, packet(t, home6, homeB, 64, 10))[0]
	insert := func(kind byte, ext ...byte) []byte { // behind the headers of route optimization
		p := slices.Concat(good[:88], ext, good[88:])
		p[64], p[88] = kind, good[64]
		p[5] = byte(len(p) - 40)
		return p
	}
	for _, c := range []struct {
		name       string
		pkt        []byte
		code       int // -1: nothing is answered
		at         uint32
		wantReason wire.Reason
	}{
		{"an option to be told of", insert(ip.DstOpts, 0, 0, 0x80, 4, 0, 0, 0, 0), 2, 90, wire.BadInner},
		{"one to be told of but for groups", insert(ip.DstOpts, 0, 0, 0xc8, 4, 0, 0, 0, 0), 2, 90, wire.BadInner},
		{"one to be dropped for", insert(ip.DstOpts, 0, 0, 0x40, 4, 0, 0, 0, 0), -1, 0, wire.BadInner},
		{"a routing header of another type", insert(ip.Routing, 0, 0, 0, 1, 0, 0, 0, 0), 0, 90, wire.BadInner},
	} {
		for _, inside := range []bool{false, true} {
			pkt, at, want := bytes.Clone(c.pkt), c.at, careB
			if inside { // as from somebody who knows no care-of address
				pkt = slices.Concat(c.pkt[:40], c.pkt[64:])
				pkt[5], pkt[6], at, want = pkt[5]-24, ip.DstOpts, at-24, homeB
				copy(pkt[24:], homeB.AsSlice())
				pkt = around(t, agentB, careB, pkt)
			}
			b.errors = limiter{}
			b.errors.init(errorsPerSecond)
			var out Out
			was := b.Dropped(c.wantReason)
			b.Tunnel(time.Hour, pkt, &out)
			if b.Dropped(c.wantReason) != was+1 || (len(out.Packets) == 1) != (c.code >= 0) {
				t.Errorf("%s, inside %v: %d drops, %+v", c.name, inside, b.Dropped(c.wantReason)-was, out.Packets)
				continue
			}
			if c.code < 0 {
				continue
			}
			got := out.Packets[0].B
			if inside {
				if out.Packets[0].To != dataplane.ToTunnel || netip.AddrFrom16([16]byte(got[24:40])) != agentB {
					t.Errorf("%s: %v, %x", c.name, out.Packets[0].To, got)
				}
				got = got[40:]
			}
			if netip.AddrFrom16([16]byte(got[8:24])) != want || netip.AddrFrom16([16]byte(got[24:40])) != coa || got[40] != 4 || int(got[41]) != c.code || binary.BigEndian.Uint32(got[44:]) != at {
				t.Errorf("%s, inside %v: %x", c.name, inside, got[:48])
			}
		}
	}
	sent := 0
	for range 100 {
		var out Out
		b.Tunnel(2*time.Hour, insert(ip.DstOpts, 0, 0, 0x80, 4, 0, 0, 0, 0), &out)
		sent += len(out.Packets)
	}
	if sent != errorsPerSource {
		t.Errorf("100 packets were answered %d times, want %d", sent, errorsPerSource)
	}
}

// TestOptionBehindFragment: the option stands before the Fragment header, or the packet is dropped: in an atomic fragment, and in the
// first of several (RFC 6275 6.3).
func TestOptionBehindFragment(t *testing.T) {
	mn, cn := newOptimized(t, Config{})
	good := carried(t, mn, packet(t, home6, cn6, 64, 400))[0]
	f, err := ip.NewFragmenter(bytes.Clone(good), 300, 7)
	must(t, err)
	var parts [][]byte
	for b, ok := f.Next(nil); ok; b, ok = f.Next(nil) {
		if b[6] != ip.Fragment {
			// The fragmenter knows where such headers belong: put them behind its own.
			t.Fatalf("%x", b[:48])
		}
		parts = append(parts, b)
	}
	atomic := slices.Concat(good[:40], []byte{ip.DstOpts, 0, 0, 0, 0, 0, 0, 9}, good[40:])
	binary.BigEndian.PutUint16(atomic[4:], uint16(len(atomic)-40))
	atomic[6] = ip.Fragment
	parts = append(parts, atomic)
	if got := taken(t, cn, parts); len(got) != 0 {
		t.Errorf("%x", got)
	}
	if n := cn.Dropped(wire.BadInner) + cn.Dropped(wire.Malformed); n != 2 {
		t.Errorf("%d drops, want one of the fragments together and one of the other", n)
	}
}

// TestBeyondTheTunnel: what the way from the home agent to the other's care-of address carries is learned from the errors that come in the
// tunnel; then the packets are fragmented before they get their headers.
func TestBeyondTheTunnel(t *testing.T) {
	a, b := bothMobile(t, Config{})
	a.registered = false
	must(t, a.meet(b))
	pkt := packet(t, home6, homeB, 64, 1280-48)
	sent := carried(t, a.Engine, pkt)
	if len(sent) != 1 || len(sent[0]) != 1280+24+40 {
		t.Fatalf("%d packets of %d octets", len(sent), len(sent[0]))
	}
	big := packet(t, home6, homeB, 64, 1380-48)
	inner := carried(t, a.Engine, big)[0][40:]
	tell := func(mtu uint32, about []byte) []Packet {
		var out Out
		msg := slices.Concat([]byte{2, 0, 0, 0}, binary.BigEndian.AppendUint32(nil, mtu), about[:min(len(about), 1000)])
		router := netip.MustParseAddr("2001:db8:9::9")
		binary.BigEndian.PutUint16(msg[2:], ip.PseudoChecksum(router, home6, ip.ICMPv6, msg))
		h := ip.Header{Src: router, Dst: home6, Proto: ip.ICMPv6, TTL: 64}
		p, err := h.Append(nil, len(msg))
		must(t, err)
		a.Tunnel(time.Hour, around(t, lmaa, coa, append(p, msg...)), &out)
		return out.Packets
	}
	for _, c := range []struct{ mtu, told uint32 }{{1350, 1326}, {1280, 1280}} {
		got := tell(c.mtu, inner)
		if len(got) != 1 || got[0].To != dataplane.ToNative || got[0].B[40] != 2 || binary.BigEndian.Uint32(got[0].B[44:]) != c.told || !bytes.Equal(got[0].B[48:148], big[:100]) {
			t.Fatalf("%d: %+v", c.mtu, got)
		}
	}
	sent = carried(t, a.Engine, pkt)
	if len(sent) != 2 || len(sent[0]) > 1280+40 || sent[0][40+6] != ip.Routing || sent[0][80] != ip.Fragment {
		t.Fatalf("%d packets: %x", len(sent), sent[0][:120])
	}
	var inners [][]byte
	for _, s := range sent {
		inners = append(inners, s[40:])
	}
	if got := assembled(t, taken(t, b.Engine, inners)); !bytes.Equal(got, pkt) {
		t.Errorf("got %x", got)
	}
	if got := tell(1000, inner); len(got) != 0 || len(carried(t, a.Engine, pkt)) != 2 {
		t.Errorf("below the least MTU: %+v", got)
	}
}

// TestRefusedByTheOther: who does not know the option or the routing header says so to the machine; who does not know what is behind them,
// to the application.
func TestRefusedByTheOther(t *testing.T) {
	a, _ := bothMobile(t, Config{})
	pkt := packet(t, home6, homeB, 64, 100)
	sent := carried(t, a.Engine, pkt)[0]
	for i, c := range []struct {
		code byte
		at   uint32
		told int // the pointer that the application is told, -1: the machine
	}{
		{2, 70, -1}, {0, 42, -1}, {2, 66, -1}, {0, 7, 7}, {1, 64, 6}, {1, 40, 6}, {0, 100, 52},
	} {
		a.said, a.reports = nil, limiter{}
		a.reports.init(reportsPerLink)
		var out Out
		a.TunnelError(time.Duration(i+1)*time.Hour, false, append([]byte{4, c.code, 0, 0, 0, 0, 0, byte(c.at)}, sent...), &out)
		if c.told < 0 {
			if len(out.Packets) != 0 && c.code != 0 || len(a.said) != 1 || a.said[0].Reason != string(wire.TunnelError) || a.said[0].ID != 2 || a.said[0].Inner.Dst != whole(homeB) {
				t.Errorf("code %d at %d: %+v, %+v", c.code, c.at, out.Packets, a.said)
			}
			continue
		}
		if len(out.Packets) != 1 || len(a.said) != 0 || out.Packets[0].B[40] != 4 || out.Packets[0].B[41] != c.code || int(binary.BigEndian.Uint32(out.Packets[0].B[44:])) != c.told {
			t.Errorf("code %d at %d: %+v, %+v", c.code, c.at, out.Packets, a.said)
		}
	}
	a.said = nil
	var out Out
	a.TunnelError(100*time.Hour, false, append([]byte{1, 3, 0, 0, 0, 0, 0, 0}, sent...), &out)
	if len(out.Packets) != 1 || len(a.said) != 1 || a.said[0].Reason != core.ReportUnreachable || a.said[0].ID != 2 || a.said[0].Outer.Remote.Addr() != careB {
		t.Errorf("unreachable: %+v, %+v", out.Packets, a.said)
	}
}

func TestNoAllocationMobile(t *testing.T) {
	for _, tunnel := range []bool{false, true} {
		t.Run(fmt.Sprint("tunnel ", tunnel), func(t *testing.T) {
			a, b := bothMobile(t, Config{Correspondents: true})
			a.registered = !tunnel
			must(t, a.meet(b))
			pkt := packet(t, home6, homeB, 64, 1000)
			var out, back Out
			buf, again := make([]byte, 0, 4000), make([]byte, 0, 4000)
			if n := testing.AllocsPerRun(100, func() {
				out.Reset()
				back.Reset()
				a.Native(time.Hour, Native{B: append(buf, pkt...)}, &out)
				p := out.Packets[0].B
				if tunnel {
					p = p[40:]
				}
				b.Tunnel(time.Hour, append(again, p...), &back)
			}); n != 0 || len(back.Packets) != 1 {
				t.Errorf("%v allocations, %d packets", n, len(back.Packets))
			}
		})
	}
}

// TestSignallingIsNoData: a Mobility Header behind a Home Address option or a type 2 routing header is let by, bound or not: no session
// counts it, and nobody hears of it (RFC 6275 9.3.1).
func TestSignallingIsNoData(t *testing.T) {
	mn, cn := newOptimized(t, Config{Correspondent: true})
	for name, c := range map[string]struct {
		e    *Engine
		data []byte
		home int // where the home address is
	}{
		"option":         {cn, carried(t, mn, packet(t, home6, cn6, 64, 10))[0], 48},
		"routing header": {mn, carried(t, cn, packet(t, cn6, home6, 64, 10))[0], 48},
	} {
		for _, bound := range []bool{true, false} {
			b := bytes.Clone(c.data)
			b[40] = ip.Mobility
			if !bound {
				b[c.home+15] ^= 0x55
			}
			var said []core.Reported
			c.e.Reports(func(r core.Reported) { said = append(said, r) })
			was, count := c.e.Dropped(wire.WrongTunnel)+c.e.Dropped(wire.BadInner), make([]core.Counter, 1)
			before := make([]core.Counter, 1)
			must(t, c.e.Counters([]core.ID{2}, before))
			var out Out
			c.e.Tunnel(time.Hour, b, &out)
			must(t, c.e.Counters([]core.ID{2}, count))
			if now := c.e.Dropped(wire.WrongTunnel) + c.e.Dropped(wire.BadInner); now != was || len(said) != 0 || count[0] != before[0] {
				t.Errorf("%s, bound %v: %d drops, %+v, %+v", name, bound, now-was, said, count[0])
			}
		}
	}
}
