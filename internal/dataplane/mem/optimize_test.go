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
)

// newOptimized makes a mobile node, which has a tunnel to its anchor as well, and a correspondent.
func newOptimized(t testing.TB, cfg Config) (mn, cn *Engine) {
	t.Helper()
	cfg.Now = func() time.Duration { return time.Hour }
	cfg.Role = dataplane.Node
	mn, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	cfg.Role, cfg.Local, cfg.Forwarded = dataplane.Anchor, []netip.Addr{cn6}, true
	if cn, err = New(cfg); err != nil {
		t.Fatal(err)
	}
	direct := func(local, remote netip.Addr) core.Chain {
		return core.Chain{RO: 1, Layer: [2]core.Layer{{Local: plain(local), Remote: plain(remote)}}}
	}
	if err := mn.Update([]core.Op{
		core.SetSession{ID: 1, Chain: chainTo(coa, lmaa)}, core.SetKey{ID: 1, Match: core.Match{Src: whole(home6)}, Up: true, Down: true},
		core.SetSession{ID: 2, Chain: direct(coa, cn6)}, core.SetKey{ID: 2, Match: core.Match{Src: whole(home6), Dst: whole(cn6)}, Up: true, Down: true},
	}); err != nil {
		t.Fatal(err)
	}
	if err := cn.Update([]core.Op{
		core.SetSession{ID: 2, Chain: direct(cn6, coa)}, core.SetKey{ID: 2, Match: core.Match{Dst: whole(home6), Src: whole(cn6)}, Up: true, Down: true},
	}); err != nil {
		t.Fatal(err)
	}
	return mn, cn
}

// TestRouteOptimization: packets go straight with the home address in a header, and arrive as they were sent; others take the
// tunnel as before.
func TestRouteOptimization(t *testing.T) {
	mn, cn := newOptimized(t, Config{})
	up, down := packet(t, home6, cn6, 64, 100), packet(t, cn6, home6, 64, 100)
	outer := carried(t, mn, up)
	want := append(bytes.Clone(up[:40]), "\x11\x02\x01\x02\x00\x00\xc9\x10"...)
	home, care := home6.As16(), coa.As16()
	want = append(append(want, home[:]...), up[40:]...)
	copy(want[8:], care[:])
	want[5], want[6] = byte(len(want)-40), ip.DstOpts
	if len(outer) != 1 || !bytes.Equal(outer[0], want) {
		t.Fatalf("up %x,\nwant %x", outer, want)
	}
	if got := taken(t, cn, outer); len(got) != 1 || !bytes.Equal(got[0], up) {
		t.Errorf("up: %x", got)
	}
	outer = carried(t, cn, down)
	want = append(bytes.Clone(down[:40]), "\x11\x02\x02\x01\x00\x00\x00\x00"...)
	want = append(append(want, home[:]...), down[40:]...)
	copy(want[24:], care[:])
	want[5], want[6] = byte(len(want)-40), ip.Routing
	if len(outer) != 1 || !bytes.Equal(outer[0], want) {
		t.Fatalf("down %x,\nwant %x", outer, want)
	}
	if got := taken(t, mn, outer); len(got) != 1 || !bytes.Equal(got[0], down) {
		t.Errorf("down: %x", got)
	}
	if b := carried(t, mn, packet(t, home6, lmaa.Next(), 64, 10)); len(b) != 1 || b[0][6] != ip.IPv6 {
		t.Errorf("to others: %x", b)
	}
	count := make([]core.Counter, 2)
	if err := mn.Counters([]core.ID{1, 2}, count); err != nil || count[0].PacketsOut != 1 || count[1].PacketsOut != 1 || count[1].PacketsIn != 1 {
		t.Errorf("%+v, %v", count, err)
	}
	// Dropped, everything takes the tunnel.
	if err := mn.Update([]core.Op{core.Drop{Match: core.Match{Src: whole(home6), Dst: whole(cn6)}}}); err != nil {
		t.Fatal(err)
	}
	if b := carried(t, mn, up); len(b) != 1 || b[0][6] != ip.IPv6 {
		t.Errorf("without the key: %x", b)
	}
	for _, e := range []*Engine{mn, cn} {
		if err := e.Update([]core.Op{core.Drop{ID: 1}, core.Drop{ID: 2}}); err != nil {
			t.Fatal(err)
		}
		e.mustBeEmpty(t)
	}
}

// TestRouteOptimizationSizes: what fits goes whole; what is too long is told to the sender, or fragmented if it may not be.
func TestRouteOptimizationSizes(t *testing.T) {
	mn, cn := newOptimized(t, Config{MTU: 1280})
	for n, fragments := range map[int]int{1280 - 24 - 48: 1, 1280 - 23 - 48: 2, 1280 - 48: 2} {
		for from, to := range map[*Engine]*Engine{mn: cn, cn: mn} {
			pkt := packet(t, home6, cn6, 64, n)
			if from == cn {
				pkt = packet(t, cn6, home6, 64, n)
			}
			sent := carried(t, from, pkt)
			if len(sent) != fragments {
				t.Errorf("%d octets: %d packets", len(pkt), len(sent))
			}
			for _, b := range sent {
				if len(b) > 1280 {
					t.Errorf("a fragment of %d octets", len(b))
				}
			}
			if got := assembled(t, taken(t, to, sent)); !bytes.Equal(got, pkt) {
				t.Errorf("%d octets: %x", len(pkt), got)
			}
		}
	}
	var out Out
	mn.Native(time.Hour, Native{B: packet(t, home6, cn6, 64, 1280-47)}, &out)
	if len(out.Packets) != 1 || out.Packets[0].To != dataplane.ToNative || out.Packets[0].B[40] != 2 || binary.BigEndian.Uint32(out.Packets[0].B[44:]) != 1280 {
		t.Errorf("too long: %+v", out.Packets)
	}
}

// assembled is what a kernel makes of what it gets: fragments are taken one by one.
func assembled(t testing.TB, parts [][]byte) []byte {
	t.Helper()
	if len(parts) == 1 && parts[0][6] != ip.Fragment {
		return parts[0]
	}
	r := ip.NewReassembler(ip.Limits{})
	for _, b := range parts {
		whole, err := r.Add(time.Hour, b)
		if err != nil {
			t.Fatal(err)
		}
		if whole != nil {
			return whole
		}
	}
	return nil
}

// TestRouteOptimizationChecked: neither end takes a header from where the home address is not, or for another one (RFC 6275 9.3.1,
// 11.3.3).
func TestRouteOptimizationChecked(t *testing.T) {
	mn, cn := newOptimized(t, Config{})
	up, down := carried(t, mn, packet(t, home6, cn6, 64, 10))[0], carried(t, cn, packet(t, cn6, home6, 64, 10))[0]
	stranger := netip.MustParseAddr("2001:db8:bad::1").As16()
	edit := func(b []byte, at int, v ...byte) []byte { b = bytes.Clone(b); copy(b[at:], v); return b }
	for name, c := range map[string]struct {
		up   bool
		pkt  []byte
		want wire.Reason
	}{
		"another care-of address":    {true, edit(up, 8, stranger[:]...), wire.WrongTunnel},
		"another home address":       {true, edit(up, 48, stranger[:]...), wire.WrongTunnel},
		"no unicast home address":    {true, edit(up, 48, 0xff, 2), wire.BadInner},
		"another correspondent":      {false, edit(down, 8, stranger[:]...), wire.WrongTunnel},
		"another node's address":     {false, edit(down, 48, stranger[:]...), wire.WrongTunnel},
		"two segments left":          {false, edit(down, 43, 2), wire.BadInner},
		"a mapped home address":      {true, edit(up, 48, append(make([]byte, 10), 0xff, 0xff)...), wire.BadInner},
		"another care-of of its own": {false, edit(down, 24, stranger[:]...), wire.WrongTunnel},
	} {
		e := mn
		if c.up {
			e = cn
		}
		var got core.Reported
		e.Reports(func(r core.Reported) { got = r })
		before := e.Dropped(c.want)
		var out Out
		e.Tunnel(time.Hour, bytes.Clone(c.pkt), &out)
		if len(out.Packets) != 0 || e.Dropped(c.want) != before+1 {
			t.Errorf("%s: %+v, %d drops for %s", name, out.Packets, e.Dropped(c.want)-before, c.want)
		}
		if name == "another care-of address" && (got.Reason != string(wire.WrongTunnel) || got.ID != 2 || got.Inner.Src != whole(home6) || got.Outer.Remote.Addr() != netip.AddrFrom16(stranger)) {
			t.Errorf("%s: reported %+v", name, got)
		}
	}
}

// TestRouteOptimizationErrors: who sent the packet hears of an error about it as if there were no header.
func TestRouteOptimizationErrors(t *testing.T) {
	mn, cn := newOptimized(t, Config{})
	for from, pkt := range map[*Engine][]byte{mn: packet(t, home6, cn6, 64, 1400), cn: packet(t, cn6, home6, 64, 1400)} {
		sent := carried(t, from, pkt)[0]
		for _, c := range []struct {
			msg  []byte
			want []byte
		}{
			{[]byte{1, 0, 0, 0, 0, 0, 0, 0}, []byte{1, 0, 0, 0, 0, 0, 0, 0}},
			{[]byte{3, 0, 0, 0, 0, 0, 0, 0}, []byte{3, 0, 0, 0, 0, 0, 0, 0}},
			{[]byte{2, 0, 0, 0, 0, 0, 5, 0x78}, []byte{2, 0, 0, 0, 0, 0, 5, 0x60}},
		} {
			var out Out
			var said []core.Reported
			from.Reports(func(r core.Reported) { said = append(said, r) })
			from.TunnelError(time.Hour, false, append(bytes.Clone(c.msg), sent[:1000]...), &out)
			wire := netip.AddrFrom16([16]byte(sent[24:40]))
			if unreachable := c.msg[0] == 1; (len(said) == 1) != unreachable || unreachable &&
				(said[0].Reason != core.ReportUnreachable || said[0].ID != 2 || said[0].Outer.Remote.Addr() != wire || said[0].HomeAddress) {
				t.Errorf("%x: reported %+v", c.msg, said)
			}
			if len(out.Packets) != 1 {
				t.Fatalf("%x: %+v", c.msg, out.Packets)
			}
			b := out.Packets[0].B
			b[42], b[43] = 0, 0
			if !bytes.Equal(b[40:48], c.want) || !bytes.Equal(b[48:], pkt[:len(b)-48]) || !bytes.Equal(b[24:40], pkt[8:24]) {
				t.Errorf("%x became %x", c.msg, b[:100])
			}
		}
	}
}

func TestRouteOptimizationRefused(t *testing.T) {
	mn, cn := newOptimized(t, Config{})
	ro := func(local, remote netip.Addr) core.Chain {
		return core.Chain{RO: 1, Layer: [2]core.Layer{{Local: plain(local), Remote: plain(remote)}}}
	}
	for name, op := range map[string]core.Op{
		"another family":           core.SetSession{ID: 3, Chain: ro(coa4, lmaa4)},
		"no address of the node":   core.SetSession{ID: 3, Chain: ro(coa2, coa)},
		"a key of a network":       core.SetKey{ID: 2, Match: core.Match{Dst: netip.PrefixFrom(home6, 64).Masked(), Src: whole(cn6)}, Down: true},
		"of another correspondent": core.SetKey{ID: 2, Match: core.Match{Dst: whole(home6), Src: whole(lmaa)}, Down: true},
		"a key of a tunnel":        core.SetKey{ID: 2, Match: core.Match{Dst: whole(home6)}, Down: true},
	} {
		if err := cn.Update([]core.Op{op}); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
	if err := mn.Update([]core.Op{core.SetKey{ID: 1, Match: core.Match{Src: whole(home6), Dst: whole(cn6)}, Up: true}}); err == nil {
		t.Error("a tunnel took a key of route optimization")
	}
	g := newEngine(t, dataplane.Gateway, Config{})
	if err := g.Update([]core.Op{core.SetSession{ID: 3, Chain: ro(coa, cn6)}}); err == nil {
		t.Error("a gateway took it")
	}
}

func TestNoAllocationOptimized(t *testing.T) {
	mn, cn := newOptimized(t, Config{})
	up := packet(t, home6, cn6, 64, 1000)
	var out, back Out
	buf, again := make([]byte, 0, 4000), make([]byte, 0, 4000)
	if n := testing.AllocsPerRun(100, func() {
		out.Reset()
		back.Reset()
		mn.Native(time.Hour, Native{B: append(buf, up...)}, &out)
		cn.Tunnel(time.Hour, append(again, out.Packets[0].B...), &back)
	}); n != 0 || len(back.Packets) != 1 {
		t.Errorf("%v allocations, %d packets", n, len(back.Packets))
	}
}

func FuzzOptimized(f *testing.F) {
	mn, cn := newOptimized(f, Config{})
	f.Add(carried(f, mn, packet(f, home6, cn6, 64, 10))[0])
	f.Add(carried(f, cn, packet(f, cn6, home6, 64, 10))[0])
	f.Add(packet(f, home6, cn6, 64, 1250))
	f.Add(append([]byte{2, 0, 0, 0, 0, 0, 5, 0}, carried(f, mn, packet(f, home6, cn6, 64, 1300))[0]...))
	a, b := bothMobile(f, Config{})
	f.Add(carried(f, a.Engine, packet(f, home6, homeB, 64, 10))[0])
	f.Add(append([]byte{4, 2, 0, 0, 0, 0, 0, 70}, carried(f, a.Engine, packet(f, home6, homeB, 64, 10))[0]...))
	b.knows = false
	must(f, b.meet(a))
	f.Add(around(f, lmaa, coa, carried(f, b.Engine, packet(f, homeB, home6, 64, 10))[0]))
	f.Fuzz(func(t *testing.T, pkt []byte) {
		mn, cn := newOptimized(t, Config{MTU: 1280})
		a, _ := bothMobile(t, Config{MTU: 1280, Correspondents: true, Correspondent: true})
		inside, _ := bothMobile(t, Config{})
		inside.registered = false
		must(t, inside.meet(&mobile{home: homeB, care: careB}))
		for _, e := range []*Engine{mn, cn, a.Engine, inside.Engine} {
			var out Out
			e.Tunnel(time.Hour, bytes.Clone(pkt), &out)
			e.Native(time.Hour, Native{B: bytes.Clone(pkt)}, &out)
			if len(pkt) > 8 {
				e.TunnelError(time.Hour, false, bytes.Clone(pkt), &out)
			}
			for _, p := range out.Packets {
				if p.To == dataplane.ToSignal {
					continue
				}
				if h, err := ip.Parse(p.B); err != nil || h.Len != len(p.B) {
					t.Fatalf("%v: %x: %v", p.To, p.B, err)
				}
			}
		}
	})
}
