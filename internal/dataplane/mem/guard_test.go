package mem

import (
	"bytes"
	"encoding/binary"
	"net/netip"
	"testing"
	"time"

	"kedge/internal/core"
	"kedge/internal/dataplane"
	"kedge/wire"
	"kedge/wire/ip"
	mh "kedge/wire/mobility"
)

// testOf is a message of return routability as a whole packet.
func testOf(t testing.TB, m mh.Message, src, dst netip.Addr) []byte {
	t.Helper()
	body, err := mh.Append(nil, m, src, dst)
	if err != nil {
		t.Fatal(err)
	}
	h := ip.Header{Src: src, Dst: dst, Proto: ip.Mobility, TTL: 64}
	b, err := h.Append(nil, len(body))
	if err != nil {
		t.Fatal(err)
	}
	return append(b, body...)
}

// fragmentOf is a part of a packet's payload behind a Fragment header.
func fragmentOf(t testing.TB, pkt []byte, off, n int, more bool) []byte {
	t.Helper()
	w := uint16(off)
	if more {
		w |= 1
	}
	f := binary.BigEndian.AppendUint16([]byte{pkt[6], 0}, w)
	f = append(append(f, 0, 0, 0, 9), pkt[40+off:40+off+n]...)
	b := append(bytes.Clone(pkt[:40]), f...)
	b[6] = ip.Fragment
	binary.BigEndian.PutUint16(b[4:], uint16(len(f)))
	return b
}

// guarded is an anchor that leaves the tests of home6 to signalling.
func guarded(t testing.TB) *Engine {
	e := newEngine(t, dataplane.Anchor, Config{})
	e.Guard(func(home netip.Addr) bool { return home == home6 })
	return e
}

func initOf(t testing.TB, src, dst netip.Addr) []byte {
	return testOf(t, &mh.TestInit{Cookie: [8]byte{1}}, src, dst)
}

func answerTo(t testing.TB, src, dst netip.Addr) []byte {
	return testOf(t, &mh.Test{Cookie: [8]byte{1}, NonceIndex: 2}, src, dst)
}

// TestGuard: what is left to signalling, from where, and what is data as before.
func TestGuard(t *testing.T) {
	neighbour := netip.MustParseAddr("2001:db8:1000:1::b") // in the same prefix, without keys
	up := func(e *Engine, b []byte, out *Out) { e.Tunnel(time.Hour, around(t, coa, lmaa, b), out) }
	native := func(e *Engine, b []byte, out *Out) { e.Native(time.Hour, Native{B: b}, out) }
	hot := answerTo(t, cn6, home6)
	short := bytes.Clone(hot[:42])
	binary.BigEndian.PutUint16(short[4:], 2)
	for _, c := range []struct {
		name  string
		pkt   []byte
		by    func(*Engine, []byte, *Out)
		want  dataplane.To
		outer int
	}{
		{"HoT natively", hot, native, dataplane.ToSignal, 0},
		{"HoT out of a tunnel", answerTo(t, neighbour, home6), up, dataplane.ToSignal, 0},
		{"HoTI in the tunnel", initOf(t, home6, cn6), up, dataplane.ToSignal, 1},
		{"HoT without keys", answerTo(t, cn6, neighbour), native, dataplane.ToTunnel, 0},
		{"HoTI without keys", initOf(t, neighbour, cn6), up, dataplane.ToNative, 0},
		{"another's HoTI for the node", initOf(t, cn6, home6), native, dataplane.ToTunnel, 0},
		{"the node's HoT for another", answerTo(t, home6, cn6), up, dataplane.ToNative, 0},
		{"first fragment", fragmentOf(t, hot, 0, 16, true), native, dataplane.ToSignal, 0},
		{"a further fragment that looks like one", fragmentOf(t, append(hot[:48:48], hot[40:]...), 8, 16, false), native, dataplane.ToTunnel, 0},
		{"two octets", short, native, dataplane.ToTunnel, 0},
	} {
		e := guarded(t)
		var out Out
		c.by(e, bytes.Clone(c.pkt), &out)
		if len(out.Packets) != 1 || out.Packets[0].To != c.want || c.want == dataplane.ToSignal && int(out.Packets[0].Outer.N) != c.outer {
			t.Errorf("%s: %+v", c.name, out.Packets)
		}
	}
}

// TestGuardIsBounded: by source, by home address whoever sends, and apart from signalling.
func TestGuardIsBounded(t *testing.T) {
	e := guarded(t)
	passed := func(src func(i int) netip.Addr, home netip.Addr) (n int) {
		for i := range 1000 {
			var out Out
			e.Native(time.Hour, Native{B: answerTo(t, src(i), home)}, &out)
			n += len(out.Packets)
		}
		return n
	}
	if n := passed(func(int) netip.Addr { return cn6 }, home6); n < 90 || n > 101 {
		t.Errorf("%d of one source", n)
	}
	e = guarded(t)
	if n := passed(func(i int) netip.Addr {
		return netip.AddrFrom16([16]byte{0x20, 1, 0xd, 0xb8, 14: byte(i >> 8), 15: byte(i)})
	}, home6); n < 190 || n > 201 {
		t.Errorf("%d of many sources for one home address", n)
	}
	if e.Dropped(wire.RateLimit) < 799 {
		t.Errorf("%d counted", e.Dropped(wire.RateLimit))
	}
	e = guarded(t)
	for i := range 6000 { // 60 sources spend all that there is for tests; Binding Updates from elsewhere have a budget of their own
		var out Out
		e.Native(time.Hour, Native{B: answerTo(t, netip.AddrFrom16([16]byte{0x20, 2, 15: byte(i % 60)}), home6)}, &out)
	}
	var out Out
	e.Tunnel(time.Hour, around(t, coa2, lmaa, testOf(t, &mh.BindingUpdate{Flags: mh.BUAck | mh.BUHome}, coa2, lmaa)), &out)
	if len(out.Packets) != 1 || out.Packets[0].To != dataplane.ToSignal {
		t.Errorf("signalling of a stranger: %+v", out.Packets)
	}
}

// TestInject: what came in an association is forwarded as if the tunnel of data had carried it, and nothing that that could not.
func TestInject(t *testing.T) {
	other := netip.MustParseAddr("2001:db8:2000:2::b") // another node's
	mapped4 := netip.MustParseAddr("::ffff:10.20.0.10")
	within := chainTo(lmaa, coa)
	hops := initOf(t, home6, cn6)
	hops[7] = 1
	for _, c := range []struct {
		name  string
		chain core.Chain
		pkt   []byte
		want  dataplane.To
		drop  wire.Reason
	}{
		{"to a correspondent", within, initOf(t, home6, cn6), dataplane.ToNative, ""},
		{"to the home agent", within, initOf(t, home6, lmaa), dataplane.ToNative, ""},
		{"to another node of it", within, initOf(t, home6, other), dataplane.ToTunnel, ""},
		{"of an address that is not the node's", within, initOf(t, cn6, lmaa), 0, wire.WrongSource},
		{"of another node's address", within, initOf(t, other, cn6), 0, wire.WrongSource},
		{"of a tunnel that there is not", chainTo(lmaa, netip.MustParseAddr("2001:db8:c::99")), initOf(t, home6, cn6), 0, wire.WrongTunnel},
		{"to the node's link", within, initOf(t, home6, netip.MustParseAddr("fe80::1")), 0, wire.LinkScope},
		{"to many", within, initOf(t, home6, netip.MustParseAddr("ff02::1")), 0, wire.LinkScope},
		{"to a mapped address", within, initOf(t, home6, mapped4), 0, wire.MappedAddress},
		{"no packet", within, []byte{0x60}, 0, wire.Malformed},
		{"at its last hop", within, hops, dataplane.ToNative, wire.HopLimit}, // the ICMPv6 error
	} {
		e := newEngine(t, dataplane.Anchor, Config{})
		if err := e.Update([]core.Op{core.SetSession{ID: 2, Chain: chainTo(lmaa, coa2)}, core.SetKey{ID: 2, Match: core.Match{Dst: whole(other)}, Up: true, Down: true}}); err != nil {
			t.Fatal(err)
		}
		var out Out
		e.Inject(time.Hour, c.chain, bytes.Clone(c.pkt), &out)
		if c.drop != "" && e.Dropped(c.drop) != 1 {
			t.Errorf("%s: not counted as %s", c.name, c.drop)
		}
		if c.drop != "" && c.drop != wire.HopLimit {
			if len(out.Packets) != 0 {
				t.Errorf("%s: %+v", c.name, out.Packets)
			}
			continue
		}
		if len(out.Packets) != 1 && c.drop == "" || len(out.Packets) > 0 && out.Packets[0].To != c.want && c.drop == "" {
			t.Errorf("%s: %+v", c.name, out.Packets)
		}
		if ttl := map[string]byte{"to a correspondent": 63, "to the home agent": 64}[c.name]; ttl != 0 && out.Packets[0].B[7] != ttl {
			t.Errorf("%s: hop limit %d", c.name, out.Packets[0].B[7])
		}
	}
}

// TestInjectEndsWithTheBinding: when the session is gone, so is the way.
func TestInjectEndsWithTheBinding(t *testing.T) {
	e := newEngine(t, dataplane.Anchor, Config{})
	if err := e.Update([]core.Op{core.Drop{ID: 1}}); err != nil {
		t.Fatal(err)
	}
	var out Out
	e.Inject(time.Hour, chainTo(lmaa, coa), initOf(t, home6, cn6), &out)
	if len(out.Packets) != 0 {
		t.Errorf("%+v", out.Packets)
	}
}
