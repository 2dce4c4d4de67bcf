package anchor

import (
	"fmt"
	"net/netip"
	"runtime"
	"strings"
	"testing"
	"time"

	"kedge/internal/core"
	"kedge/internal/pool"
	"kedge/internal/subscriber"
	"kedge/wire/mobility"
)

// benchHosts is a home agent with n registered nodes, dual-stack; update makes a Binding Update of node i and takes it from
// octets to octets. It says how many octets the answer has.
func benchHosts(t testing.TB, n int) (m *Machine, now core.Now, update func(i int, seq uint16, coa netip.Addr) int) {
	t.Helper()
	cfg := Config{
		Addresses: []netip.Addr{lmaa}, FirstStart: true, Heartbeat: Heartbeat{Off: true}, DSMIP6: DSMIP6{On: true},
		Pools: []pool.Config{{Name: "v6", Prefix: pfx("2001:db8:1000::/36")}, {Name: "v4", Prefix: pfx("10.0.0.0/8")}},
		Peers: []Peer{{Name: "nodes", Protection: "esp"}}, Limits: Limits{RequestsPerPeer: 1 << 30, Sessions: 1 << 30},
	}
	home := func(i int) netip.Addr {
		return netip.AddrFrom16([16]byte{0x20, 1, 0xd, 0xb8, 0x10, 12: byte(i >> 24), 13: byte(i >> 16), 14: byte(i >> 8), 15: byte(i)})
	}
	for i := range n {
		cfg.Subscribers.List = append(cfg.Subscribers.List, subscriber.Profile{ID: fmt.Sprintf("node%07d@example.net", i), HoA: netip.PrefixFrom(home(i+1), 64), Peer: "nodes"})
	}
	m, err := New(cfg, strings.NewReader(""))
	if err != nil {
		t.Fatal(err)
	}
	now = core.Now{Boot: time.Hour, Wall: day}
	m.Handle(now, core.Restored{Last: true}, nil)
	var out []core.Effect
	var in, answer []byte
	var options mobility.Options
	return m, now, func(i int, seq uint16, coa netip.Addr) int {
		h := home(i + 1)
		options = options[:0].Add(mobility.AlternateCareOf{Addr: coa}, dynamic29)
		in, err = mobility.Append(in[:0], &mobility.BindingUpdate{Sequence: seq, Flags: mobility.BUAck | mobility.BUHome, Lifetime: 75, Options: options}, h, lmaa)
		if err != nil {
			t.Fatal(err)
		}
		msg, err := mobility.Parse(in, h, lmaa)
		if err != nil {
			t.Fatal(err)
		}
		p := core.Path{Local: netip.AddrPortFrom(lmaa, 0), Remote: netip.AddrPortFrom(coa, 0), Home: h, Auth: core.Auth{Kind: "esp", Peer: "nodes"}}
		out = m.Handle(now, core.Message{Path: p, Body: msg}, out[:0])
		done := false
		for _, e := range out {
			if s, ok := e.(core.Send); ok {
				ack := s.Body.(*mobility.BindingAck)
				if done = ack.Status == 0; !done {
					t.Fatalf("status %d", ack.Status)
				}
				if answer, err = mobility.Append(answer[:0], ack, lmaa, h); err != nil {
					t.Fatal(err)
				}
				if s.Ref != 0 {
					m.Handle(now, core.Done{Ref: s.Ref}, nil)
				}
			}
		}
		if !done {
			t.Fatalf("no answer: %v", out)
		}
		return len(answer)
	}
}

// BenchmarkBU is one Binding Update from octets to octets on one core: nine refreshes to a move.
func BenchmarkBU(b *testing.B) {
	for _, n := range []int{1_000, 100_000} {
		b.Run(fmt.Sprintf("nodes=%d", n), func(b *testing.B) {
			var before, after runtime.MemStats
			_, _, update := benchHosts(b, n)
			runtime.GC()
			runtime.ReadMemStats(&before)
			seq := make([]uint16, n)
			at := make([]byte, n)
			for i := range n {
				update(i, 0, coa1)
			}
			runtime.GC()
			runtime.ReadMemStats(&after)
			b.ReportAllocs()
			b.ResetTimer()
			for k := range b.N {
				i := k * 7919 * 101 % n
				seq[i]++
				if k%10 == 0 {
					at[i]++
				}
				update(i, seq[i], netip.AddrFrom16([16]byte{0x20, 1, 0xd, 0xb8, 0, 0xf, 15: 1 + at[i]}))
			}
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "BU/s")
			b.ReportMetric(float64(after.HeapAlloc-before.HeapAlloc)/float64(n), "B/registration")
		})
	}
}

// TestHostAllocations holds the budget of a refresh, the most frequent message: the request, its record, the answer and its
// options.
func TestHostAllocations(t *testing.T) {
	_, _, update := benchHosts(t, 1)
	seq := uint16(0)
	update(0, seq, coa1)
	got := testing.AllocsPerRun(200, func() {
		seq++
		update(0, seq, coa1)
	})
	if got > 16 {
		t.Errorf("%v allocations for a refresh, want 16 at most", got)
	}
}

// heapOf gives the live octets of the heap.
func heapOf() uint64 {
	var s runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&s)
	return s.HeapAlloc
}

// TestHostMemory holds the promise of at most 1 KiB a dual-stack registration at a size that a test can afford.
func TestHostMemory(t *testing.T) {
	const n = 50_000
	m, _, update := benchHosts(t, n)
	before := heapOf()
	for i := range n {
		update(i, 1, coa1)
	}
	per := (heapOf() - before) / n
	t.Logf("%d B a registration", per)
	if per > 1024 {
		t.Errorf("%d B a registration, want at most 1024", per)
	}
	runtime.KeepAlive(m)
}

// BenchmarkHostMemory is what a million nodes cost: their registrations, and their profiles in the config.
func BenchmarkHostMemory(b *testing.B) {
	for range b.N {
		const n = 1_000_000
		empty := heapOf()
		m, _, update := benchHosts(b, n)
		before := heapOf()
		for i := range n {
			update(i, 1, coa1)
		}
		b.ReportMetric(float64(before-empty)/n, "B/profile")
		b.ReportMetric(float64(heapOf()-before)/n, "B/registration")
		runtime.KeepAlive(m)
	}
}

// BenchmarkHostRestore brings a million registrations back from their records: the machine's part of a restart. The heap it
// takes on the way is told too.
func BenchmarkHostRestore(b *testing.B) {
	const n = 1_000_000
	m, now, update := benchHosts(b, n)
	for i := range n {
		update(i, 1, coa1)
	}
	records := make([]core.Restored, 0, n)
	for h := range m.hosts.table.All() {
		records = append(records, core.Restored{Key: hostKey(h.ID), Val: h.Encode(now)})
	}
	cfg := m.cfg
	m = nil
	for b.Loop() {
		b.StopTimer()
		fresh, err := New(cfg, strings.NewReader(""))
		if err != nil {
			b.Fatal(err)
		}
		before := heapOf()
		b.StartTimer()
		for _, r := range records {
			fresh.Handle(now, r, nil)
		}
		out := fresh.Handle(now, core.Restored{Last: true}, nil)
		b.StopTimer()
		if fresh.hosts.table.Len() != n || len(out) < n {
			b.Fatalf("%d registrations", fresh.hosts.table.Len())
		}
		var s runtime.MemStats
		runtime.ReadMemStats(&s)
		b.ReportMetric(float64(s.HeapAlloc-before)/n, "B/registration-at-the-end")
		b.StartTimer()
	}
}

// BenchmarkHostTold is how long questions of users hold up the machine at a hundred thousand registrations.
func BenchmarkHostTold(b *testing.B) {
	const n = 100_000
	m, now, update := benchHosts(b, n)
	for i := range n {
		update(i, 1, coa1)
	}
	for name, body := range map[string]any{
		"bindings": core.GetBindings{}, "one": core.GetBindings{Filter: "node0012345@"}, "address": core.GetBindings{Filter: "10.1.0.9"},
		"status": core.GetStatus{}, "explain": core.Explain{ID: "node0012345@example.net"}, "explain-v4": core.Explain{ID: "10.1.0.9"},
	} {
		b.Run(name, func(b *testing.B) {
			for b.Loop() {
				m.Handle(now, core.Command{Ref: 1, Body: body}, nil)
			}
		})
	}
}
