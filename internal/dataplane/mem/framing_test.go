package mem

import (
	"bytes"
	"encoding/binary"
	"net/netip"
	"slices"
	"testing"
	"time"

	"kedge/internal/core"
	"kedge/internal/dataplane"
	"kedge/wire"
	"kedge/wire/ip"
)

var (
	lmaa4 = netip.MustParseAddr("198.51.100.1")
	coa4  = netip.MustParseAddr("192.0.2.11")
)

// framings of one peer, as the anchor has them. The last is what a node behind a NAT is seen with.
var testFramings = []struct {
	name          string
	local, remote netip.AddrPort
}{
	{"IPv6", plain(lmaa), plain(coa)}, {"IPv4", plain(lmaa4), plain(coa4)},
	{"UDP over IPv6", netip.AddrPortFrom(lmaa, dataplane.PortUDP), netip.AddrPortFrom(coa, 40001)},
	{"UDP over IPv4", netip.AddrPortFrom(lmaa4, dataplane.PortUDP), netip.AddrPortFrom(coa4, 40001)},
}

func chainOf(local, remote netip.AddrPort) core.Chain {
	return core.Chain{N: 1, Layer: [2]core.Layer{{Local: local, Remote: remote}}}
}

// newFramed makes an anchor or node with one session in a framing; a node's is the other end of it.
func newFramed(t testing.TB, role dataplane.Role, local, remote netip.AddrPort, cfg Config) *Engine {
	t.Helper()
	cfg.Role, cfg.Now, cfg.ProbeID = role, func() time.Duration { return time.Hour }, 7
	ops := []core.Op{core.SetSession{ID: 1, Chain: chainOf(local, remote)}}
	if role == dataplane.Node {
		if local.Port() != 0 {
			local = netip.AddrPortFrom(local.Addr(), dataplane.PortUDP)
			remote = netip.AddrPortFrom(remote.Addr(), dataplane.PortUDP)
		}
		ops = []core.Op{core.SetSession{ID: 1, Chain: chainOf(remote, local)}}
		cfg.Home, cfg.Unreachable = []netip.Addr{home6}, true
	} else {
		cfg.Local = []netip.Addr{lmaa, lmaa4}
	}
	for _, a := range []netip.Addr{home6, home4} {
		m := core.Match{Dst: whole(a)}
		if role == dataplane.Node {
			m = core.Match{Src: whole(a)}
		}
		ops = append(ops, core.SetKey{ID: 1, Match: m, Up: true, Down: true})
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

// framed is an outer packet from remote to local around an inner one.
func framed(t testing.TB, local, remote netip.AddrPort, inner []byte) []byte {
	t.Helper()
	if local.Port() == 0 {
		return around(t, remote.Addr(), local.Addr(), inner)
	}
	u, err := ip.AppendUDP(nil, remote, local, inner)
	if err != nil {
		t.Fatal(err)
	}
	h := ip.Header{Src: remote.Addr(), Dst: local.Addr(), Proto: ip.UDP, TTL: 64}
	b, err := h.Append(nil, len(u))
	if err != nil {
		t.Fatal(err)
	}
	return append(b, u...)
}

// mobility is an IPv6 packet with a Mobility Header.
func mobility(t testing.TB, src, dst netip.Addr) []byte {
	t.Helper()
	h := ip.Header{Src: src, Dst: dst, Proto: ip.Mobility, TTL: 64}
	b, err := h.Append(nil, 16)
	if err != nil {
		t.Fatal(err)
	}
	return append(b, 59, 1, 5, 0, 0, 0, 0, 1, 0xc0, 0, 0, 9, 1, 2, 0, 0)
}

// TestNoAllocationFramed: no framing costs memory, on neither side, whether packets pass or not.
func TestNoAllocationFramed(t *testing.T) {
	for _, f := range testFramings {
		a, n := newFramed(t, dataplane.Anchor, f.local, f.remote, Config{}), newFramed(t, dataplane.Node, f.local, f.remote, Config{})
		for _, e := range []*Engine{a, n} {
			e.Reports(func(core.Reported) {})
		}
		fromNode, nodeLocal, nodeRemote := f.remote, f.remote, f.local
		if f.local.Port() != 0 {
			nodeLocal = netip.AddrPortFrom(f.remote.Addr(), dataplane.PortUDP)
		}
		strange := netip.AddrPortFrom(f.remote.Addr().Next(), f.remote.Port())
		var sent Out
		now := time.Hour
		a.Native(now, Native{B: packet(t, cn6, home6, 64, 1300)}, &sent)
		icmp := append([]byte{1, 3, 0, 0, 0, 0, 0, 0}, sent.Packets[0].B[:200]...)
		if f.local.Addr().Is4() {
			icmp[0], icmp[1] = 3, 1
		}
		var out Out
		big := make([]byte, 0, 70000)
		for name, c := range map[string]struct {
			pkt []byte
			f   func(b []byte)
			n   int // packets out, -1 = depends on rates
		}{
			"down IPv6":         {packet(t, cn6, home6, 64, 1000), func(b []byte) { a.Native(now, Native{B: b}, &out) }, 1},
			"down IPv4":         {packet(t, cn4, home4, 64, 1000), func(b []byte) { a.Native(now, Native{B: b}, &out) }, 1},
			"down, fragmented":  {packet(t, cn4, home4, 64, 1472), func(b []byte) { a.Native(now, Native{B: b}, &out) }, 2},
			"down, too big":     {packet(t, cn6, home6, 64, 1452), func(b []byte) { a.Native(now, Native{B: b}, &out) }, -1},
			"up":                {framed(t, f.local, fromNode, packet(t, home6, cn6, 64, 1000)), func(b []byte) { a.Tunnel(now, b, &out) }, 1},
			"up, other port":    {framed(t, f.local, strange, packet(t, home6, cn6, 64, 1000)), func(b []byte) { a.Tunnel(now, b, &out) }, 0},
			"signalling":        {framed(t, f.local, fromNode, mobility(t, home6, lmaa)), func(b []byte) { a.Tunnel(now, b, &out) }, 1},
			"strange signal":    {framed(t, f.local, strange, mobility(t, home6, lmaa)), func(b []byte) { a.Tunnel(now, b, &out) }, -1},
			"garbage":           {framed(t, f.local, fromNode, bytes.Repeat([]byte{0x60}, 100)), func(b []byte) { a.Tunnel(now, b, &out) }, 0},
			"error in the core": {icmp, func(b []byte) { a.TunnelError(now, f.local.Addr().Is4(), b, &out) }, -1},
			"node, up":          {packet(t, home4, cn4, 64, 1000), func(b []byte) { n.Native(now, Native{B: b}, &out) }, 1},
			"node, down":        {framed(t, nodeLocal, nodeRemote, packet(t, cn6, home6, 64, 1000)), func(b []byte) { n.Tunnel(now, b, &out) }, 1},
			"node, no session":  {packet(t, cn4, cn4, 64, 1000), func(b []byte) { n.Native(now, Native{B: b}, &out) }, -1},
			"node, too big":     {packet(t, home6, cn6, 64, 1452), func(b []byte) { n.Native(now, Native{B: b}, &out) }, -1},
			"node, signalling":  {framed(t, nodeLocal, nodeRemote, mobility(t, lmaa, home6)), func(b []byte) { n.Tunnel(now, b, &out) }, 1},
		} {
			allocs := testing.AllocsPerRun(200, func() {
				out.Reset()
				c.f(append(big, c.pkt...))
				now += time.Millisecond
			})
			if allocs != 0 {
				t.Errorf("%s, %s: %v allocations", f.name, name, allocs)
			}
			if c.n >= 0 && len(out.Packets) != c.n {
				t.Errorf("%s, %s: %d packets came out, want %d", f.name, name, len(out.Packets), c.n)
			}
		}
	}
}

// TestMarks: the Identification of a packet that may not be fragmented is its tunnel's secret; those of others differ.
func TestMarks(t *testing.T) {
	f := testFramings[1]
	e := newFramed(t, dataplane.Anchor, f.local, f.remote, Config{})
	id := func(e *Engine, n int) uint16 {
		var out Out
		e.Native(time.Hour, Native{B: packet(t, cn6, home6, 64, n)}, &out)
		h, err := ip.Parse(out.Packets[0].B)
		if err != nil || !h.DF || h.ID == 0 {
			t.Fatalf("%+v, %v", h, err)
		}
		return h.ID
	}
	seen := map[uint16]int{}
	for n := range 1000 {
		seen[id(e, n)]++
	}
	if len(seen) < 950 {
		t.Errorf("1000 lengths have %d Identifications", len(seen))
	}
	if nonZero(0) != 1 || nonZero(1<<16) != 1 || nonZero(7) != 7 {
		t.Error("the kernel replaces an Identification of 0")
	}
	same := 0
	other := newFramed(t, dataplane.Anchor, f.local, f.remote, Config{})
	for n := range 100 {
		one, again := id(e, n), id(e, n)
		if one != again {
			t.Error("the mark of one length changes")
		}
		if one == id(other, n) {
			same++
		}
	}
	if same > 3 {
		t.Errorf("%d of 100 marks are the same after a restart: they are no secret", same)
	}
}

// TestIdentifications4: packets that may be fragmented on the way have different ones (RFC 6864 4.3).
func TestIdentifications4(t *testing.T) {
	f := testFramings[3]
	e := newFramed(t, dataplane.Anchor, f.local, f.remote, Config{})
	seen := map[uint16]bool{}
	for range 1000 {
		var out Out
		e.Native(time.Hour, Native{B: packet(t, cn4, home4, 64, 1472)}, &out)
		one, two := binary.BigEndian.Uint16(out.Packets[0].B[4:]), binary.BigEndian.Uint16(out.Packets[1].B[4:])
		if len(out.Packets) != 2 || one != two || seen[one] {
			t.Fatalf("%d packets, Identifications %x and %x", len(out.Packets), one, two)
		}
		seen[one] = true
	}
}

// TestUDPHeaders: what is no datagram to our port is malformed.
func TestUDPHeaders(t *testing.T) {
	for _, f := range testFramings[2:] {
		e := newFramed(t, dataplane.Anchor, f.local, f.remote, Config{})
		good := framed(t, f.local, f.remote, packet(t, home6, cn6, 64, 100))
		at := ip.IPv6Len
		if f.local.Addr().Is4() {
			at = ip.IPv4Len
		}
		edit := func(off int, v uint16) []byte {
			b := bytes.Clone(good)
			binary.BigEndian.PutUint16(b[at+off:], v)
			return b
		}
		for name, b := range map[string][]byte{
			"another port": edit(2, 4192), "length below 8": edit(4, 7), "length beyond the packet": edit(4, uint16(len(good)-at+1)), "checksum": edit(6, 0x1234),
		} {
			before := e.Dropped(wire.Malformed)
			var out Out
			e.Tunnel(time.Hour, b, &out)
			if len(out.Packets) != 0 || e.Dropped(wire.Malformed) != before+1 {
				t.Errorf("%s, %s: %+v", f.name, name, out.Packets)
			}
		}
		var out Out
		e.Tunnel(time.Hour, edit(6, 0), &out)
		if got := len(out.Packets) == 1; got != f.local.Addr().Is4() {
			t.Errorf("%s: without a checksum: %v", f.name, got)
		}
	}
}

// TestOtherDomain: plain packets of an address are one routing domain's; a node of another one behind the same NAT has its port.
func TestOtherDomain(t *testing.T) {
	f := testFramings[3]
	e := newFramed(t, dataplane.Anchor, f.local, f.remote, Config{})
	two := netip.AddrPortFrom(f.remote.Addr(), 40002)
	if err := e.Update([]core.Op{
		core.SetSession{ID: 2, Domain: 7, Chain: chainOf(f.local, two)},
		core.SetKey{ID: 2, Match: core.Match{Domain: 7, Dst: whole(home6)}, Up: true, Down: true},
	}); err != nil {
		t.Fatal(err)
	}
	if err := e.Update([]core.Op{core.SetSession{ID: 3, Domain: 7, Chain: chainTo(lmaa4, coa4)}}); err == nil {
		t.Error("one plain tunnel for two domains was accepted")
	}
	count := func(id core.ID) uint64 {
		c := make([]core.Counter, 1)
		if err := e.Counters([]core.ID{id}, c); err != nil {
			t.Fatal(err)
		}
		return c[0].PacketsIn
	}
	var out Out
	pkt := packet(t, home6, cn6, 64, 10)
	e.Tunnel(time.Hour, framed(t, f.local, two, pkt), &out)
	e.Tunnel(time.Hour, framed(t, plain(lmaa4), plain(coa4), pkt), &out)
	if count(1) != 1 || count(2) != 1 {
		t.Errorf("counted %d and %d, want one each", count(1), count(2))
	}
	// The one gone, its plain tunnel is free for the other's domain.
	if err := e.Update([]core.Op{core.Drop{ID: 1}, core.SetSession{ID: 3, Domain: 7, Chain: chainTo(lmaa4, coa4)}}); err != nil {
		t.Error(err)
	}
	if err := e.Update([]core.Op{core.Drop{ID: 2}, core.Drop{ID: 3}}); err != nil {
		t.Fatal(err)
	}
	e.mustBeEmpty(t)
}

// TestWhoMoved: a report about another tuple names the registration that may send, where several have the address.
func TestWhoMoved(t *testing.T) {
	f := testFramings[3]
	e := newFramed(t, dataplane.Anchor, f.local, f.remote, Config{})
	if err := e.Update([]core.Op{
		core.SetKey{ID: 1, Match: core.Match{Dst: whole(home6)}},
		core.SetSession{ID: 2, Chain: chainTo(lmaa, coa)},
		core.SetKey{ID: 2, Match: core.Match{Dst: whole(home6)}, Up: true, Down: true},
	}); err != nil {
		t.Fatal(err)
	}
	var got core.Reported
	e.Reports(func(r core.Reported) { got = r })
	var out Out
	e.Tunnel(time.Hour, framed(t, f.local, netip.AddrPortFrom(coa4, 40009), packet(t, home6, cn6, 64, 10)), &out)
	if got.ID != 2 || got.Reason != string(wire.WrongTunnel) {
		t.Errorf("%+v, want wrong-tunnel of session 2", got)
	}
}

func TestGatewayRefusesUDP(t *testing.T) {
	e := newEngine(t, dataplane.Gateway, Config{})
	c := chainOf(netip.AddrPortFrom(coa, dataplane.PortUDP), netip.AddrPortFrom(lmaa, dataplane.PortUDP))
	if err := e.Update([]core.Op{core.SetSession{ID: 1, Chain: c, If: 1, MAC: hostA}}); err == nil {
		t.Error("accepted, though no gateway listens for it")
	}
}

// TestTunnelsListed: those that are sent into, once each, with their ports.
func TestTunnelsListed(t *testing.T) {
	f := testFramings[3]
	e := newFramed(t, dataplane.Anchor, f.local, f.remote, Config{})
	if got := e.Tunnels(); !slices.Equal(got, [][2]netip.AddrPort{{f.local, f.remote}}) {
		t.Errorf("%v", got)
	}
	if err := e.Update([]core.Op{core.SetSession{ID: 1, Chain: chainTo(lmaa, coa), Grace: time.Hour}}); err != nil {
		t.Fatal(err)
	}
	if got := e.Tunnels(); !slices.Equal(got, [][2]netip.AddrPort{{plain(lmaa), plain(coa)}}) {
		t.Errorf("after a move: %v", got)
	}
	if err := e.Update([]core.Op{core.SetSession{ID: 1, Chain: chainOf(f.local, f.remote)}}); err != nil {
		t.Fatal(err)
	}
	e.SetPathMTU(f.local, f.remote, 1300)
	e.SetPathMTU(plain(lmaa4), plain(coa4), 1000)
	var out Out
	e.Native(time.Hour, Native{B: packet(t, cn4, home4, 64, 1300-56)}, &out)
	e.Native(time.Hour, Native{B: packet(t, cn4, home4, 64, 1300-55)}, &out)
	if len(out.Packets) != 3 {
		t.Errorf("%d packets, want one whole and two fragments", len(out.Packets))
	}
	e.SetPathMTU(f.local, f.remote, 100)
	out.Reset()
	e.Native(time.Hour, Native{B: packet(t, cn4, home4, 64, 576-56)}, &out)
	if len(out.Packets) != 1 {
		t.Errorf("%d packets of 576 octets: less is believed of an IPv4 path", len(out.Packets))
	}
}

// TestSignallingFloods: strangers from everywhere get through no more often than the limit for all, and cost no memory; a known
// tuple is not hurt.
func TestSignallingFloods(t *testing.T) {
	f := testFramings[3]
	e := newFramed(t, dataplane.Anchor, f.local, f.remote, Config{})
	pkt := framed(t, f.local, f.remote, mobility(t, home6, lmaa))
	var out Out
	got := 0
	for i := range 100000 {
		out.Reset()
		o := Outer{Local: f.local, Remote: netip.AddrPortFrom(netip.AddrFrom4([4]byte{100, byte(i >> 16), byte(i >> 8), byte(i)}), uint16(i)|1), Proto: ip.UDP}
		e.Decapsulate(time.Hour, o, pkt[28:], &out)
		got += len(out.Packets)
	}
	if got > signalsPerSecond || got < signalsPerSecond/2 {
		t.Errorf("%d of 100000 got through in a second, want at most %d", got, signalsPerSecond)
	}
	if n := e.Dropped(wire.RateLimit); n != uint64(100000-got) {
		t.Errorf("%d were counted, want %d", n, 100000-got)
	}
	out.Reset()
	e.Tunnel(time.Hour, pkt, &out)
	if len(out.Packets) != 1 {
		t.Error("the flood silenced a session's node")
	}
}

// TestSignallingWithoutWayBack: what nobody could be answered about never reaches the machine.
func TestSignallingWithoutWayBack(t *testing.T) {
	f := testFramings[3]
	e := newFramed(t, dataplane.Anchor, f.local, f.remote, Config{})
	for name, o := range map[string]Outer{
		"port 0":                {Local: f.local, Remote: netip.AddrPortFrom(coa4, 0), Proto: ip.UDP},
		"from broadcast":        {Local: f.local, Remote: netip.MustParseAddrPort("255.255.255.255:4191"), Proto: ip.UDP},
		"to an unknown address": {Local: netip.MustParseAddrPort("198.51.100.2:4191"), Remote: f.remote, Proto: ip.UDP},
		"from loopback":         {Local: f.local, Remote: netip.MustParseAddrPort("127.0.0.1:4191"), Proto: ip.UDP},
	} {
		before := e.Dropped(wire.WrongTunnel)
		var out Out
		e.Decapsulate(time.Hour, o, mobility(t, home6, lmaa), &out)
		if len(out.Packets) != 0 || e.Dropped(wire.WrongTunnel) != before+1 {
			t.Errorf("%s: %+v", name, out.Packets)
		}
	}
}

// TestReassemblyIsBounded4: fragments of strangers over IPv4 cost no more than the limit.
func TestReassemblyIsBounded4(t *testing.T) {
	f := testFramings[3]
	e := newFramed(t, dataplane.Anchor, f.local, f.remote, Config{Reassembly: ip.Limits{Packets: 4, Timeout: time.Second}})
	fr, err := ip.NewFragmenter(framed(t, f.local, f.remote, packet(t, home6, cn6, 64, 1000)), 600, 0)
	if err != nil {
		t.Fatal(err)
	}
	first, _ := fr.Next(nil)
	var out Out
	for id := range uint16(1000) {
		binary.BigEndian.PutUint16(first[4:], id)
		first[10], first[11] = 0, 0
		binary.BigEndian.PutUint16(first[10:], ip.Checksum(first[:20]))
		e.Tunnel(time.Hour, first, &out)
	}
	if n, _ := e.reassembly.r.Held(); n != 4 {
		t.Errorf("%d packets in reassembly, want 4", n)
	}
	e.Tunnel(time.Hour+time.Second, first, &out)
	if got := e.Dropped(wire.ReassemblyTimeout); got != 4 || len(out.Packets) != 0 {
		t.Errorf("%d timed out, want 4; %d came out", got, len(out.Packets))
	}
}

func BenchmarkFramings(b *testing.B) {
	for _, f := range testFramings {
		e := newFramed(b, dataplane.Anchor, f.local, f.remote, Config{})
		for name, c := range map[string]struct {
			pkt []byte
			f   func(b []byte, out *Out)
		}{
			"down": {packet(b, cn6, home6, 64, 1000), func(b []byte, out *Out) { e.Native(time.Hour, Native{B: b}, out) }},
			"up":   {framed(b, f.local, f.remote, packet(b, home6, cn6, 64, 1000)), func(b []byte, out *Out) { e.Tunnel(time.Hour, b, out) }},
		} {
			b.Run(f.name+"/"+name, func(b *testing.B) {
				buf, out := make([]byte, len(c.pkt)), new(Out)
				b.ReportAllocs()
				for b.Loop() {
					copy(buf, c.pkt)
					out.Reset()
					c.f(buf, out)
				}
			})
		}
	}
}
