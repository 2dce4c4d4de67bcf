package mem

import (
	"bytes"
	"encoding/binary"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"kedge/internal/core"
	"kedge/internal/dataplane"
	"kedge/wire"
	"kedge/wire/ip"
)

var (
	lmaa      = netip.MustParseAddr("2001:db8:a::1")
	coa       = netip.MustParseAddr("2001:db8:a::11")
	coa2      = netip.MustParseAddr("2001:db8:a::12")
	cn6       = netip.MustParseAddr("2001:db8:c::c")
	cn4       = netip.MustParseAddr("203.0.113.9")
	home6     = netip.MustParseAddr("2001:db8:1000:1::a")
	home4     = netip.MustParseAddr("10.20.0.10")
	hostA     = core.MAC{2, 0, 0, 0, 0, 10}
	routerMAC = core.MAC{2, 0, 0x5e, 0, 0, 1}
)

func chainTo(local, remote netip.Addr) core.Chain {
	return core.Chain{N: 1, Layer: [2]core.Layer{{Local: netip.AddrPortFrom(local, 0), Remote: netip.AddrPortFrom(remote, 0)}}}
}

// plain is an outer address without a port.
func plain(a netip.Addr) netip.AddrPort { return netip.AddrPortFrom(a, 0) }

func whole(a netip.Addr) netip.Prefix { return netip.PrefixFrom(a, a.BitLen()) }

func packet(t testing.TB, src, dst netip.Addr, ttl uint8, n int) []byte {
	t.Helper()
	u, err := ip.AppendUDP(nil, netip.AddrPortFrom(src, 1000), netip.AddrPortFrom(dst, 2000), make([]byte, n))
	if err != nil {
		t.Fatal(err)
	}
	h := ip.Header{Src: src, Dst: dst, Proto: ip.UDP, TTL: ttl}
	b, err := h.Append(nil, len(u))
	if err != nil {
		t.Fatal(err)
	}
	return append(b, u...)
}

func around(t testing.TB, src, dst netip.Addr, inner []byte) []byte {
	t.Helper()
	h := ip.Header{Src: src, Dst: dst, Proto: ip.IPv6, TTL: 64}
	if inner[0]>>4 == 4 {
		h.Proto = ip.IPv4
	}
	b, err := h.Append(nil, len(inner))
	if err != nil {
		t.Fatal(err)
	}
	return append(b, inner...)
}

// newPair makes an anchor or gateway with one host that has both families.
func newEngine(t testing.TB, role dataplane.Role, cfg Config) *Engine {
	t.Helper()
	cfg.Role, cfg.Now = role, func() time.Duration { return time.Hour }
	ops := []core.Op{
		core.SetSession{ID: 1, Chain: chainTo(lmaa, coa)},
		core.SetKey{ID: 1, Match: core.Match{Dst: netip.PrefixFrom(home6, 64).Masked()}, Up: true, Down: true},
		core.SetKey{ID: 1, Match: core.Match{Dst: whole(home4)}, Up: true, Down: true},
	}
	cfg.Local = []netip.Addr{lmaa}
	if role == dataplane.Gateway {
		cfg.Local = []netip.Addr{coa}
		cfg.Access = append(cfg.Access, dataplane.Link{If: 1, MAC: routerMAC, LinkLocal: netip.MustParseAddr("fe80::1"), MTU: 1400})
		ops = []core.Op{
			core.SetSession{ID: 1, Chain: chainTo(coa, lmaa), If: 1, MAC: hostA},
			core.SetKey{ID: 1, Match: core.Match{Src: netip.PrefixFrom(home6, 64).Masked(), If: 1, MAC: hostA}, Up: true, Down: true},
			core.SetKey{ID: 1, Match: core.Match{Src: whole(home4), If: 1, MAC: hostA}, Up: true, Down: true},
		}
	}
	e, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	if err := e.Update(ops); err != nil {
		t.Fatal(err)
	}
	return e
}

func TestNewRefuses(t *testing.T) {
	link := dataplane.Link{Name: "acc0", If: 1, MAC: routerMAC}
	for name, cfg := range map[string]Config{
		"no address":        {},
		"only IPv4":         {Local: []netip.Addr{cn4}},
		"multicast":         {Local: []netip.Addr{lmaa, netip.MustParseAddr("ff02::1")}},
		"a zone":            {Local: []netip.Addr{netip.MustParseAddr("fe80::1%eth0")}},
		"MTU below 1,280":   {Local: []netip.Addr{lmaa}, MTU: 1279},
		"MTU above 65,535":  {Local: []netip.Addr{lmaa}, MTU: 65536},
		"a link twice":      {Local: []netip.Addr{lmaa}, Access: []dataplane.Link{link, link}},
		"a link without If": {Local: []netip.Addr{lmaa}, Access: []dataplane.Link{{MAC: routerMAC}}},
		"no router MAC":     {Local: []netip.Addr{lmaa}, Access: []dataplane.Link{{If: 1}}},
	} {
		if _, err := New(cfg); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

// TestNoAllocation: good packets, refused ones and answered ones cost no memory.
func TestNoAllocation(t *testing.T) {
	a, g := newEngine(t, dataplane.Anchor, Config{}), newEngine(t, dataplane.Gateway, Config{})
	for _, e := range []*Engine{a, g} {
		e.Reports(func(core.Reported) {})
	}
	now := time.Hour
	var out Out
	big := make([]byte, 0, 70000)
	for name, c := range map[string]struct {
		pkt []byte
		f   func(b []byte)
		n   int // packets out, -1 = depends on rates
	}{
		"down IPv6":        {packet(t, cn6, home6, 64, 1000), func(b []byte) { a.Native(now, Native{B: b}, &out) }, 1},
		"down IPv4":        {packet(t, cn4, home4, 64, 1000), func(b []byte) { a.Native(now, Native{B: b}, &out) }, 1},
		"down, fragmented": {packet(t, cn4, home4, 64, 1460), func(b []byte) { a.Native(now, Native{B: b}, &out) }, 2},
		"down, too big":    {packet(t, cn6, home6, 64, 1460), func(b []byte) { a.Native(now, Native{B: b}, &out) }, -1},
		"to nobody":        {packet(t, cn6, cn6, 64, 100), func(b []byte) { a.Native(now, Native{B: b}, &out) }, -1},
		"up IPv6": {packet(t, home6, cn6, 64, 1000), func(b []byte) {
			a.Decapsulate(now, Outer{Local: plain(lmaa), Remote: plain(coa), Proto: ip.IPv6}, b, &out)
		}, 1},
		"up IPv4": {packet(t, home4, cn4, 64, 1000), func(b []byte) {
			a.Decapsulate(now, Outer{Local: plain(lmaa), Remote: plain(coa), Proto: ip.IPv4}, b, &out)
		}, 1},
		"across": {packet(t, home4, home4, 64, 1000), func(b []byte) {
			a.Decapsulate(now, Outer{Local: plain(lmaa), Remote: plain(coa), Proto: ip.IPv4}, b, &out)
		}, 1},
		"forged": {packet(t, cn4, cn4, 64, 1000), func(b []byte) {
			a.Decapsulate(now, Outer{Local: plain(lmaa), Remote: plain(coa), Proto: ip.IPv4}, b, &out)
		}, 0},
		"whole outer":  {around(t, coa, lmaa, packet(t, home6, cn6, 64, 1000)), func(b []byte) { a.Tunnel(now, b, &out) }, 1},
		"host up":      {packet(t, home6, cn6, 64, 1000), func(b []byte) { g.Native(now, Native{If: 1, MAC: hostA, B: b}, &out) }, 1},
		"host forged":  {packet(t, cn6, cn6, 64, 1000), func(b []byte) { g.Native(now, Native{If: 1, MAC: hostA, B: b}, &out) }, 0},
		"unknown host": {packet(t, cn6, cn6, 64, 1000), func(b []byte) { g.Native(now, Native{If: 1, MAC: routerMAC, B: b}, &out) }, 0},
		"host down": {packet(t, cn4, home4, 64, 1000), func(b []byte) {
			g.Decapsulate(now, Outer{Local: plain(coa), Remote: plain(lmaa), Proto: ip.IPv4}, b, &out)
		}, 1},
		"malformed": {[]byte{0x45, 1, 2}, func(b []byte) { g.Native(now, Native{If: 1, MAC: hostA, B: b}, &out) }, 0},
	} {
		n := testing.AllocsPerRun(200, func() {
			out.Reset()
			c.f(append(big, c.pkt...))
			now += time.Millisecond
		})
		if n != 0 {
			t.Errorf("%s: %v allocations", name, n)
		}
		if c.n >= 0 && len(out.Packets) != c.n {
			t.Errorf("%s: %d packets came out, want %d", name, len(out.Packets), c.n)
		}
	}
}

// TestUpdatesWhileForwarding: packets see a session before or after each update and never in between; a Sync loses none.
func TestUpdatesWhileForwarding(t *testing.T) {
	e := newEngine(t, dataplane.Anchor, Config{})
	var stop atomic.Bool
	var wg sync.WaitGroup
	for _, pkt := range [][]byte{packet(t, cn6, home6, 64, 100), packet(t, cn4, home4, 64, 100)} {
		wg.Add(1)
		go func() {
			defer wg.Done()
			var out Out
			for n := 0; !stop.Load() || n < 1000; n++ {
				out.Reset()
				e.Native(time.Hour, Native{B: append([]byte(nil), pkt...)}, &out)
				if len(out.Packets) != 1 || out.Packets[0].To != dataplane.ToTunnel {
					t.Errorf("a packet was lost: %+v", out.Packets)
					return
				}
				if dst := netip.AddrFrom16([16]byte(out.Packets[0].B[24:40])); dst != coa && dst != coa2 {
					t.Errorf("a packet went to %v", dst)
					return
				}
			}
		}()
	}
	for i := range 2000 {
		to := []netip.Addr{coa, coa2}[i%2]
		all := []core.Op{
			core.SetSession{ID: 1, Chain: chainTo(lmaa, to), Grace: time.Second},
			core.SetKey{ID: 1, Match: core.Match{Dst: netip.PrefixFrom(home6, 64).Masked()}, Up: true, Down: true},
			core.SetKey{ID: 1, Match: core.Match{Dst: whole(home4)}, Up: true, Down: true},
		}
		if i%10 == 0 {
			if err := e.Sync(slices.Values(all)); err != nil {
				t.Fatal(err)
			}
			continue
		}
		other := netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 21, 0, byte(i)}), 32)
		if err := e.Update(append(all, core.SetSession{ID: 2, Chain: chainTo(lmaa, to)}, core.SetKey{ID: 2, Match: core.Match{Dst: other}, Down: true}, core.Drop{ID: 2})); err != nil {
			t.Fatal(err)
		}
	}
	stop.Store(true)
	wg.Wait()
	if n := len(e.tables.tunnels); n != 2 {
		t.Errorf("%d tunnels are left, want the current and the previous one", n)
	}
	if err := e.Update([]core.Op{core.Drop{ID: 1}}); err != nil {
		t.Fatal(err)
	}
	e.mustBeEmpty(t)
}

func (e *Engine) mustBeEmpty(t testing.TB) {
	t.Helper()
	if ts := &e.tables; len(ts.sessions)+len(ts.tunnels)+len(ts.framed)+len(ts.carriers)+len(ts.paths)+len(ts.keys)+len(ts.pairs)+len(ts.hosts)+ts.lengths4.n+ts.lengths6.n != 0 {
		t.Errorf("left over: %d sessions, %d+%d tunnels, %d carriers, %d paths, %d keys, %d hosts, %d+%d lengths", len(ts.sessions), len(ts.tunnels), len(ts.framed), len(ts.carriers), len(ts.paths), len(ts.keys)+len(ts.pairs), len(ts.hosts), ts.lengths4.n, ts.lengths6.n)
	}
}

func TestLengthsLimit(t *testing.T) {
	e := newEngine(t, dataplane.Anchor, Config{})
	for bits := 24; bits < 24+maxLengths-1; bits++ { // /32 is in use
		p, _ := netip.MustParseAddr("10.99.0.0").Prefix(bits)
		if err := e.Update([]core.Op{core.SetKey{ID: 1, Match: core.Match{Dst: p}, Down: true}}); err != nil {
			t.Fatal(err)
		}
	}
	one := core.SetKey{ID: 1, Match: core.Match{Dst: netip.MustParsePrefix("10.0.0.0/20")}, Down: true}
	if err := e.Update([]core.Op{one}); err == nil {
		t.Error("a ninth length was accepted")
	}
	if err := e.Update([]core.Op{core.Drop{Match: core.Match{Dst: netip.MustParsePrefix("10.99.0.0/25")}}, one}); err != nil {
		t.Errorf("after another length was given up: %v", err)
	}
	if err := e.Sync(func(func(core.Op) bool) {}); err != nil {
		t.Fatal(err)
	}
	e.mustBeEmpty(t)
}

// TestDomains: equal addresses in two routing domains are two hosts.
func TestDomains(t *testing.T) {
	e := newEngine(t, dataplane.Gateway, Config{Access: []dataplane.Link{{If: 2, MAC: routerMAC}}})
	hostB := core.MAC{2, 0, 0, 0, 0, 11}
	if err := e.Update([]core.Op{core.SetSession{ID: 2, Domain: 7, Chain: chainTo(coa, lmaa), If: 2, MAC: hostB}}); err == nil {
		t.Error("one tunnel for two domains was accepted, though nothing tells their packets apart")
	}
	if err := e.Update([]core.Op{
		core.SetSession{ID: 2, Domain: 7, Chain: chainTo(coa, coa2), If: 2, MAC: hostB},
		core.SetKey{ID: 2, Match: core.Match{Domain: 7, Src: whole(home4), If: 2, MAC: hostB}, Up: true, Down: true},
	}); err != nil {
		t.Fatal(err)
	}
	var out Out
	for _, c := range []struct {
		ifi    int
		mac    core.MAC
		remote netip.Addr
	}{{1, hostA, lmaa}, {2, hostB, coa2}} {
		out.Reset()
		e.Native(time.Hour, Native{If: c.ifi, MAC: c.mac, B: packet(t, home4, cn4, 64, 10)}, &out)
		if len(out.Packets) != 1 || netip.AddrFrom16([16]byte(out.Packets[0].B[24:40])) != c.remote {
			t.Errorf("up from link %d: %+v, want to %v", c.ifi, out.Packets, c.remote)
		}
		out.Reset()
		e.Decapsulate(time.Hour, Outer{Local: plain(coa), Remote: plain(c.remote), Proto: ip.IPv4}, packet(t, cn4, home4, 64, 10), &out)
		if len(out.Packets) != 1 || out.Packets[0].If != c.ifi || out.Packets[0].MAC != c.mac {
			t.Errorf("down from %v: %+v, want to link %d", c.remote, out.Packets, c.ifi)
		}
	}
}

// TestAccessLinkMTU: what does not fit an access link is answered or fragmented there.
func TestAccessLinkMTU(t *testing.T) {
	e := newEngine(t, dataplane.Gateway, Config{})
	var out Out
	e.Decapsulate(time.Hour, Outer{Local: plain(coa), Remote: plain(lmaa), Proto: ip.IPv4}, packet(t, cn4, home4, 64, 1401-28), &out)
	if len(out.Packets) != 2 || out.Packets[0].To != dataplane.ToNative || len(out.Packets[0].B) > 1400 {
		t.Errorf("IPv4 without DF: %+v", out.Packets)
	}
	out.Reset()
	whole := packet(t, cn4, home4, 64, 1401-28)
	from := binary.BigEndian.Uint16(whole[6:])
	whole[6] |= 0x40
	binary.BigEndian.PutUint16(whole[10:], ip.UpdateChecksum(binary.BigEndian.Uint16(whole[10:]), from, from|0x4000))
	e.Decapsulate(time.Hour, Outer{Local: plain(coa), Remote: plain(lmaa), Proto: ip.IPv4}, whole, &out)
	if len(out.Packets) != 1 || out.Packets[0].To != dataplane.ToSelf || out.Packets[0].B[20] != 3 || out.Packets[0].B[21] != 4 || binary.BigEndian.Uint16(out.Packets[0].B[26:]) != 1400 {
		t.Errorf("IPv4 with DF: %+v, want Fragmentation Needed with 1400", out.Packets)
	}
	out.Reset()
	e.Decapsulate(time.Hour, Outer{Local: plain(coa), Remote: plain(lmaa), Proto: ip.IPv6}, packet(t, cn6, home6, 64, 1401-48), &out)
	if len(out.Packets) != 1 || out.Packets[0].To != dataplane.ToSelf || out.Packets[0].B[40] != 2 || binary.BigEndian.Uint32(out.Packets[0].B[44:]) != 1400 {
		t.Errorf("IPv6: %+v, want Packet Too Big with 1400", out.Packets)
	}
	if e.Dropped(wire.TooBig) != 2 {
		t.Errorf("%d dropped as too big", e.Dropped(wire.TooBig))
	}
}

// TestErrorSources: errors come from an address that the receiver can understand, also where the router has none of its family.
func TestErrorSources(t *testing.T) {
	e := newEngine(t, dataplane.Gateway, Config{})
	var out Out
	e.Native(time.Hour, Native{If: 1, MAC: hostA, B: packet(t, home6, cn6, 1, 10)}, &out)
	e.Native(time.Hour, Native{If: 1, MAC: hostA, B: packet(t, home4, cn4, 1, 10)}, &out)
	e.Decapsulate(time.Hour, Outer{Local: plain(coa), Remote: plain(lmaa), Proto: ip.IPv6}, packet(t, cn6, home6, 1, 10), &out)
	var got []netip.Addr
	for _, p := range out.Packets {
		h, err := ip.Parse(p.B)
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, h.Src)
	}
	if want := []netip.Addr{netip.MustParseAddr("fe80::1"), netip.MustParseAddr("192.0.0.8"), coa}; !slices.Equal(got, want) {
		t.Errorf("sources %v, want %v", got, want)
	}
}

// TestFloods: a million strangers cost what one costs.
func TestFloods(t *testing.T) {
	e := newEngine(t, dataplane.Gateway, Config{})
	reports := 0
	e.Reports(func(core.Reported) { reports++ })
	var out Out
	pkt := packet(t, home6, cn6, 64, 10)
	buf := make([]byte, len(pkt))
	for i := range 200000 {
		out.Reset()
		copy(buf, pkt)
		e.Native(time.Hour, Native{If: 1, MAC: core.MAC{4, 0, 0, byte(i >> 16), byte(i >> 8), byte(i)}, B: buf}, &out)
	}
	if reports > reportsPerLink || reports < reportsPerLink/2 {
		t.Errorf("%d reports in a second, want at most %d", reports, reportsPerLink)
	}
	if e.Dropped(wire.UnknownHost) != 200000 {
		t.Errorf("%d drops", e.Dropped(wire.UnknownHost))
	}
	// Another link has a budget of its own.
	reports = 0
	e.Native(time.Hour, Native{If: 2, MAC: hostA, B: pkt}, &out)
	if reports != 1 {
		t.Error("a flood on one link silenced another")
	}
	a := newEngine(t, dataplane.Anchor, Config{})
	answers := 0
	for i := range 100000 {
		out.Reset()
		src := netip.AddrFrom4([4]byte{100, byte(i >> 16), byte(i >> 8), byte(i)})
		a.Native(time.Hour, Native{B: packet(t, src, netip.MustParseAddr("10.20.9.9"), 64, 0)}, &out)
		answers += len(out.Packets)
	}
	if answers > errorsPerSecond || answers < errorsPerSecond/2 {
		t.Errorf("%d ICMP errors in a second, want at most %d", answers, errorsPerSecond)
	}
}

func TestReassemblyIsBounded(t *testing.T) {
	e := newEngine(t, dataplane.Anchor, Config{Reassembly: ip.Limits{Packets: 4, Timeout: time.Second}})
	var out Out
	f, err := ip.NewFragmenter(around(t, coa, lmaa, packet(t, home6, cn6, 64, 1000)), 600, 1)
	if err != nil {
		t.Fatal(err)
	}
	first, _ := f.Next(nil)
	for id := range uint32(1000) {
		binary.BigEndian.PutUint32(first[44:], id)
		e.Tunnel(time.Hour, first, &out)
	}
	if n, _ := e.reassembly.r.Held(); n > 4 {
		t.Errorf("%d packets in reassembly", n)
	}
	if got := e.Dropped(wire.ReassemblyLimit); got != 996 {
		t.Errorf("%d given up, want 996", got)
	}
	e.Tunnel(time.Hour+time.Second, first, &out)
	if got := e.Dropped(wire.ReassemblyTimeout); got != 4 {
		t.Errorf("%d timed out, want 4", got)
	}
}

// TestDropsNamed: every counter has a reason's name of its own.
func TestDropsNamed(t *testing.T) {
	e := newEngine(t, dataplane.Anchor, Config{})
	seen := map[wire.Reason]bool{}
	e.Drops(func(r wire.Reason, _ uint64) {
		if r == "" || seen[r] {
			t.Errorf("reason %q", r)
		}
		seen[r] = true
		e.Count(r)
		if e.Dropped(r) != 1 {
			t.Errorf("%s was not counted", r)
		}
	})
}

func TestOps(t *testing.T) {
	e := newEngine(t, dataplane.Gateway, Config{})
	other := newEngine(t, dataplane.Gateway, Config{})
	if err := other.Sync(slices.Values([]core.Op{})); err != nil {
		t.Fatal(err)
	}
	if err := other.Sync(slices.Values(e.Ops())); err != nil {
		t.Fatal(err)
	}
	if len(e.Ops()) != 3 || !slices.Equal(e.Ops(), other.Ops()) {
		t.Errorf("%+v\n%+v", e.Ops(), other.Ops())
	}
}

func BenchmarkForward(b *testing.B) {
	for _, n := range []int{1000, 1000000} {
		b.Run(map[int]string{1000: "1k", 1000000: "1M"}[n], func(b *testing.B) {
			e := newEngine(b, dataplane.Anchor, Config{})
			var ops []core.Op
			addr := func(i int) netip.Addr { return netip.AddrFrom4([4]byte{11, byte(i >> 16), byte(i >> 8), byte(i)}) }
			for i := range n {
				ops = append(ops[:0], core.SetSession{ID: core.ID(i + 10), Chain: chainTo(lmaa, coa)}, core.SetKey{ID: core.ID(i + 10), Match: core.Match{Dst: whole(addr(i))}, Up: true, Down: true})
				if err := e.Update(ops); err != nil {
					b.Fatal(err)
				}
			}
			pkt := packet(b, cn4, addr(0), 64, 100)
			buf := make([]byte, len(pkt))
			var out Out
			b.ReportAllocs()
			for i := 0; b.Loop(); i++ {
				copy(buf, pkt)
				buf[10], buf[11] = 0, 0
				a := addr((i * 7919) % n).As4()
				copy(buf[16:], a[:])
				binary.BigEndian.PutUint16(buf[10:], ip.Checksum(buf[:20]))
				out.Reset()
				e.Native(time.Hour, Native{B: buf}, &out)
			}
		})
	}
}

// TestBrokenChainsPass: extension headers are the destination's business. A router that cannot walk them forwards the packet, and
// answers no error about it, because it cannot see that it is none itself.
func TestBrokenChainsPass(t *testing.T) {
	e := newEngine(t, dataplane.Anchor, Config{})
	for name, c := range map[string]struct {
		next uint8
		body []byte
	}{
		"a chain that never ends": {ip.DstOpts, []byte{60, 200, 1, 4, 0, 0, 0, 0}},
		"eleven headers":          {ip.DstOpts, bytes.Repeat([]byte{60, 0, 1, 4, 0, 0, 0, 0}, 11)},
		"a fragment of nothing":   {ip.Fragment, []byte{17, 0, 0xff, 0xf9, 1, 2, 3, 4}},
		"hop-by-hop, late":        {ip.DstOpts, []byte{0, 0, 1, 4, 0, 0, 0, 0, 17, 0, 1, 4, 0, 0, 0, 0}},
	} {
		for hops, want := range map[uint8]int{64: 1, 1: 0} {
			for dir, h := range map[string]ip.Header{"up": {Src: home6, Dst: cn6}, "down": {Src: cn6, Dst: home6}} {
				h.Proto, h.TTL = c.next, hops
				pkt, err := h.Append(nil, len(c.body))
				if err != nil {
					t.Fatal(err)
				}
				var out Out
				if dir == "up" {
					e.Decapsulate(time.Hour, Outer{Local: plain(lmaa), Remote: plain(coa), Proto: ip.IPv6}, append(pkt, c.body...), &out)
				} else {
					e.Native(time.Hour, Native{B: append(pkt, c.body...)}, &out)
				}
				if len(out.Packets) != want || want == 1 && !bytes.HasSuffix(out.Packets[0].B, c.body) {
					t.Errorf("%s, %s, hop limit %d: %d packets, want %d", name, dir, hops, len(out.Packets), want)
				}
			}
		}
	}
}

// TestFragmentsOfAFragment: no node makes them (RFC 8200 4.5), and none is put together.
func TestFragmentsOfAFragment(t *testing.T) {
	e := newEngine(t, dataplane.Anchor, Config{})
	// What is cut in two begins with the Fragment header of a later fragment; the fragmenter would not do it.
	in := packet(t, home6, cn6, 64, 1000)
	h := ip.Header{Src: coa, Dst: lmaa, Proto: ip.None, TTL: 64}
	body := append([]byte{ip.IPv6, 0, 0, 8, 0, 0, 0, 7}, in...)
	pkt, err := h.Append(nil, len(body))
	if err != nil {
		t.Fatal(err)
	}
	f, err := ip.NewFragmenter(append(pkt, body...), 700, 1)
	if err != nil {
		t.Fatal(err)
	}
	var out Out
	for {
		b, ok := f.Next(nil)
		if !ok {
			break
		}
		b[ip.IPv6Len] = ip.Fragment
		e.Tunnel(time.Hour, b, &out)
	}
	if len(out.Packets) != 0 || e.Dropped(wire.Malformed) != 1 {
		t.Errorf("%d packets came out, %d dropped as malformed; want 0 and 1", len(out.Packets), e.Dropped(wire.Malformed))
	}
}

// TestOwnAddress: a packet from a host to the router itself has arrived, so its hop limit counts no more.
func TestOwnAddress(t *testing.T) {
	e := newEngine(t, dataplane.Anchor, Config{})
	var out Out
	in := packet(t, home6, lmaa, 1, 10)
	e.Decapsulate(time.Hour, Outer{Local: plain(lmaa), Remote: plain(coa), Proto: ip.IPv6}, bytes.Clone(in), &out)
	if len(out.Packets) != 1 || out.Packets[0].To != dataplane.ToNative || !bytes.Equal(out.Packets[0].B, in) {
		t.Errorf("came out: %+v, want the packet as it was", out.Packets)
	}
}

// TestTunnelIntoItself: a packet whose addresses are those of the tunnel does not enter it (RFC 2473 4.1.2).
func TestTunnelIntoItself(t *testing.T) {
	e := newEngine(t, dataplane.Gateway, Config{})
	if err := e.Update([]core.Op{core.SetKey{ID: 1, Match: core.Match{Src: whole(coa), If: 1, MAC: hostA}, Up: true, Down: true}}); err != nil {
		t.Fatal(err)
	}
	var out Out
	e.Native(time.Hour, Native{If: 1, MAC: hostA, B: packet(t, coa, lmaa, 64, 10)}, &out)
	if len(out.Packets) != 0 || e.Dropped(wire.TunnelLoop) != 1 {
		t.Errorf("%+v came out, %d dropped as a loop", out.Packets, e.Dropped(wire.TunnelLoop))
	}
	e.Native(time.Hour, Native{If: 1, MAC: hostA, B: packet(t, coa, cn6, 64, 10)}, &out)
	if len(out.Packets) != 1 {
		t.Errorf("to others: %+v", out.Packets)
	}
}

// TestFragmentIdentification: no two packets that are fragmented outside share an Identification.
func TestFragmentIdentification(t *testing.T) {
	e := newEngine(t, dataplane.Anchor, Config{})
	seen := map[uint32]bool{}
	for range 100 {
		var out Out
		e.Native(time.Hour, Native{B: packet(t, cn4, home4, 64, 1460)}, &out)
		if len(out.Packets) != 2 {
			t.Fatalf("%d packets, want two fragments", len(out.Packets))
		}
		one, two := binary.BigEndian.Uint32(out.Packets[0].B[44:]), binary.BigEndian.Uint32(out.Packets[1].B[44:])
		if one != two || seen[one] {
			t.Fatalf("identifications %x and %x, seen before: %v", one, two, seen[one])
		}
		seen[one] = true
	}
}
