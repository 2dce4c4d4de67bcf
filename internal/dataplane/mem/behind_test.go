package mem

import (
	"bytes"
	"net/netip"
	"slices"
	"testing"
	"time"

	"kedge/internal/core"
	"kedge/internal/dataplane"
	"kedge/wire"
	"kedge/wire/ip"
)

// depthHome, depthNet and depthCoA are of mobile router n, which is behind the one before: the first is outside.
func depthHome(n int) netip.Addr {
	return netip.AddrFrom16([16]byte{0x20, 1, 0xd, 0xb8, 0x20, 0, 15: byte(n + 1)})
}
func depthNet(n int) netip.Prefix {
	return netip.PrefixFrom(netip.AddrFrom16([16]byte{0x20, 1, 0xd, 0xb8, 0x30, byte(n)}), 48)
}
func depthCoA(n int) netip.Addr {
	if n == 0 {
		return coa2
	}
	return depthNet(n - 1).Addr().Next()
}

// newNested is an anchor with routers behind each other.
func newNested(t testing.TB, depth int) *Engine {
	t.Helper()
	e := newEngine(t, dataplane.Anchor, Config{})
	var ops []core.Op
	for n := range depth {
		id := core.ID(10 + n)
		ops = append(ops, core.SetSession{ID: id, Chain: chainTo(lmaa, depthCoA(n))},
			core.SetKey{ID: id, Match: core.Match{Dst: whole(depthHome(n))}, Up: true, Down: true},
			core.SetKey{ID: id, Match: core.Match{Dst: depthNet(n)}, Up: true, Down: true})
	}
	if err := e.Update(ops); err != nil {
		t.Fatal(err)
	}
	return e
}

// nested puts the tunnels of the routers around a packet of the last one.
func nested(t testing.TB, depth int, pkt []byte) []byte {
	for n := depth - 1; n >= 0; n-- {
		pkt = around(t, depthCoA(n), lmaa, pkt)
	}
	return pkt
}

// TestBehind: what comes in tunnels of one anchor within each other comes out of all of them, up to the limit of RFC 2473 6.6; what goes
// there enters all of them, each time by way of routing.
func TestBehind(t *testing.T) {
	const most = 4 // beside the first
	for depth := 1; depth <= most+2; depth++ {
		e := newNested(t, depth)
		var out Out
		inner := packet(t, depthHome(depth-1), cn6, 64, 100)
		e.Tunnel(time.Hour, nested(t, depth, inner), &out)
		if depth > most+1 {
			if len(out.Packets) != 0 || e.Dropped(wire.EncapsulateDeep) != 1 {
				t.Errorf("%d tunnels: %d packets came out", depth, len(out.Packets))
			}
			continue
		}
		want := bytes.Clone(inner)
		ip.DecrementTTL(want)
		if len(out.Packets) != 1 || out.Packets[0].To != dataplane.ToNative || !bytes.Equal(out.Packets[0].B, want) {
			t.Errorf("%d tunnels: %+v came out", depth, out.Packets)
		}
		counters := make([]core.Counter, depth)
		ids := make([]core.ID, depth)
		for n := range ids {
			ids[n] = core.ID(10 + n)
		}
		if err := e.Counters(ids, counters); err != nil || slices.ContainsFunc(counters, func(c core.Counter) bool { return c.PacketsIn != 1 }) {
			t.Errorf("%d tunnels: %v counted %+v", depth, err, counters)
		}
		// Downwards routing brings each outer packet back, until one is for somebody outside.
		down := packet(t, cn6, depthHome(depth-1), 64, 100)
		for n := depth - 1; n >= 0; n-- {
			out.Reset()
			e.Native(time.Hour, Native{B: bytes.Clone(down)}, &out)
			if len(out.Packets) != 1 || out.Packets[0].To != dataplane.ToTunnel {
				t.Fatalf("%d tunnels: %+v came out", depth, out.Packets)
			}
			down = bytes.Clone(out.Packets[0].B)
			if dst := netip.AddrFrom16([16]byte(down[24:40])); dst != depthCoA(n) {
				t.Fatalf("%d tunnels: tunnel %d leads to %v, want %v", depth, n, dst, depthCoA(n))
			}
		}
	}
}

// TestBehindFragments: the outer packets of a node behind a router may come in fragments.
func TestBehindFragments(t *testing.T) {
	e := newNested(t, 2)
	inner := packet(t, depthHome(1), cn6, 64, 1300)
	f, err := ip.NewFragmenter(around(t, depthCoA(1), lmaa, inner), 1280, 7)
	if err != nil {
		t.Fatal(err)
	}
	var out Out
	pieces := 0
	for b, ok := f.Next(nil); ok; b, ok = f.Next(nil) {
		pieces++
		e.Tunnel(time.Hour, nested(t, 1, b), &out)
	}
	want := bytes.Clone(inner)
	ip.DecrementTTL(want)
	if pieces != 2 || len(out.Packets) != 1 || !bytes.Equal(out.Packets[0].B, want) {
		t.Errorf("of %d fragments came %d packets", pieces, len(out.Packets))
	}
}

// TestBehindSignalling: a message of a node behind a router is one that came natively: its answer follows the router. That of the
// router itself came in its tunnel.
func TestBehindSignalling(t *testing.T) {
	e := newNested(t, 2)
	for src, want := range map[netip.Addr]core.Chain{depthCoA(1): {}, depthHome(0): chainTo(lmaa, coa2)} {
		var out Out
		e.Tunnel(time.Hour, around(t, coa2, lmaa, mobility(t, src, lmaa)), &out)
		if len(out.Packets) != 1 || out.Packets[0].To != dataplane.ToSignal || out.Packets[0].Outer != want {
			t.Errorf("from %v: %+v, want in %+v", src, out.Packets, want)
		}
	}
	// Two routers deep.
	var out Out
	e = newNested(t, 3)
	e.Tunnel(time.Hour, nested(t, 2, mobility(t, depthCoA(2), lmaa)), &out)
	if len(out.Packets) != 1 || out.Packets[0].To != dataplane.ToSignal || out.Packets[0].Outer.N != 0 {
		t.Errorf("%+v", out.Packets)
	}
}

// TestBehindForged: each tunnel must be of a session, and come from where that is.
func TestBehindForged(t *testing.T) {
	inner := packet(t, depthHome(1), cn6, 64, 100)
	for name, c := range map[string]struct {
		pkt  []byte
		want wire.Reason
	}{
		"a source of nobody, inside":           {nested(t, 2, packet(t, cn6, cn6, 64, 10)), wire.WrongSource},
		"a source of the outer router, inside": {nested(t, 2, packet(t, depthHome(0), cn6, 64, 10)), wire.WrongTunnel},
		"a tunnel of nobody, inside":           {around(t, coa2, lmaa, around(t, depthNet(0).Addr().Next().Next(), lmaa, inner)), wire.WrongTunnel},
		"another's network":                    {around(t, coa2, lmaa, around(t, depthCoA(2), lmaa, inner)), wire.WrongTunnel},
		"the inner tunnel, from outside":       {around(t, coa, lmaa, around(t, depthCoA(1), lmaa, inner)), wire.WrongTunnel},
		"a tunnel from the home address":       {around(t, coa2, lmaa, around(t, depthHome(0), lmaa, inner)), wire.EncapsulateDeep},
		"a host's link":                        {around(t, coa, lmaa, around(t, home6, lmaa, inner)), wire.EncapsulateDeep},
	} {
		e := newNested(t, 2)
		var out Out
		e.Tunnel(time.Hour, c.pkt, &out)
		if len(out.Packets) != 0 || e.Dropped(c.want) != 1 {
			t.Errorf("%s: %+v came out", name, out.Packets)
			e.Drops(func(r wire.Reason, n uint64) {
				if n != 0 {
					t.Logf("%d for %s", n, r)
				}
			})
		}
	}
}

// TestBehindAllocations: no tunnel more costs memory.
func TestBehindAllocations(t *testing.T) {
	e := newNested(t, 3)
	pkt := nested(t, 3, packet(t, depthHome(2), cn6, 64, 100))
	work := make([]byte, len(pkt))
	var out Out
	if n := testing.AllocsPerRun(100, func() {
		out.Reset()
		copy(work, pkt)
		e.Tunnel(time.Hour, work, &out)
	}); n != 0 || len(out.Packets) != 1 {
		t.Errorf("%v allocations, %d packets", n, len(out.Packets))
	}
}

// TestCircle: two anchors, each with a router that is behind the other's, of which none sees the whole. What goes to a host behind them
// goes round until its hops are spent, in fragments or not, and is gone then (RFC 2473 4.1.3; RFC 2003 has nothing against it).
func TestCircle(t *testing.T) {
	ends := [2]netip.Addr{lmaa, netip.MustParseAddr("2001:db8:b::1")}
	ends4 := [2]netip.Addr{lmaa4, netip.MustParseAddr("192.0.2.201")}
	const hops = 64
	for name, c := range map[string]struct {
		ends  [2]netip.Addr
		nets  [2]netip.Prefix
		port  uint16
		sizes []int
	}{
		"IPv6":        {ends, [2]netip.Prefix{depthNet(0), depthNet(1)}, 0, []int{8, 1000, 1232}},
		"IPv4":        {ends4, [2]netip.Prefix{netip.MustParsePrefix("10.30.0.0/24"), netip.MustParsePrefix("10.31.0.0/24")}, 0, []int{8, 1000, 1472}},
		"IPv4 in UDP": {ends4, [2]netip.Prefix{netip.MustParsePrefix("10.30.0.0/24"), netip.MustParsePrefix("10.31.0.0/24")}, 4191, []int{8, 1000, 1472}},
	} {
		t.Run(name, func(t *testing.T) {
			var anchors [2]*Engine
			for n := range anchors {
				e, err := New(Config{Role: dataplane.Anchor, Local: []netip.Addr{ends[n], ends4[n]}})
				if err != nil {
					t.Fatal(err)
				}
				defer e.Close()
				careOf := c.nets[1-n].Addr().Next()
				ch := chainTo(c.ends[n], careOf)
				if c.port != 0 {
					ch.Layer[0].Local, ch.Layer[0].Remote = netip.AddrPortFrom(c.ends[n], c.port), netip.AddrPortFrom(careOf, c.port)
				}
				if err := e.Update([]core.Op{core.SetSession{ID: 1, Chain: ch}, core.SetKey{ID: 1, Match: core.Match{Dst: c.nets[n]}, Up: true, Down: true}}); err != nil {
					t.Fatal(err)
				}
				anchors[n] = e
			}
			src := cn6
			if c.nets[0].Addr().Is4() {
				src = cn4
			}
			for _, size := range c.sizes {
				at, rounds, all := 0, 0, [][]byte{packet(t, src, c.nets[0].Addr().Next().Next(), hops, size)}
				for ; len(all) > 0; rounds++ {
					var next [][]byte
					for _, pkt := range all {
						var out Out
						anchors[at].Native(time.Hour, Native{B: pkt}, &out)
						for _, p := range out.Packets {
							if h, err := ip.Parse(p.B); err == nil && p.To == dataplane.ToTunnel && c.nets[1-at].Contains(h.Dst) {
								next = append(next, bytes.Clone(p.B))
							}
						}
					}
					if all, at = next, 1-at; rounds > 2*hops || len(all) > 4*hops {
						t.Fatalf("%d octets: %d packets in round %d", size, len(all), rounds)
					}
				}
				t.Logf("%d octets: %d rounds", size, rounds)
			}
		})
	}
}
