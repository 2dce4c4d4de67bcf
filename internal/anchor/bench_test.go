package anchor

import (
	"fmt"
	"net"
	"net/netip"
	"runtime"
	"runtime/debug"
	"strings"
	"testing"
	"time"

	"kedge/internal/core"
	"kedge/wire/mobility"
)

// benchAnchor has n dual-stack sessions, spread over 64 gateways. Stores and results are as in a loop: what is wanted is
// confirmed, nothing is kept.
func benchAnchor(t testing.TB, n int) (*Machine, core.Now) {
	t.Helper()
	cfg := testConfig()
	cfg.Pools = cfg.Pools[:1]
	cfg.Pools = append(cfg.Pools, testConfig().Pools[1])
	cfg.Pools[1].Prefix, cfg.Pools[1].Reserve = netip.MustParsePrefix("10.0.0.0/8"), nil
	cfg.Peers = []Peer{{Name: "mags", Addresses: []netip.Prefix{pfx("2001:db8:b::/64")}}}
	cfg.PMIP6.Gateways, cfg.Subscribers.List = nil, nil
	cfg.Limits = Limits{RequestsPerPeer: 1 << 30, SessionsPerGateway: 1 << 30, Sessions: 1 << 30}
	m, err := New(cfg, strings.NewReader(""))
	if err != nil {
		t.Fatal(err)
	}
	now := core.Now{Boot: time.Hour, Wall: day}
	var out []core.Effect
	deliver := func(ev core.Event) {
		out = m.Handle(now, ev, out[:0])
		var refs []core.Ref
		for _, e := range out {
			if r := refOf(e); r != 0 {
				refs = append(refs, r)
			}
		}
		for _, r := range refs {
			out = m.Handle(now, core.Done{Ref: r}, out[:0])
		}
	}
	deliver(core.Restored{Last: true})
	var b []byte
	for i := range n {
		now.Wall, now.Boot = now.Wall.Add(20*time.Microsecond), now.Boot+20*time.Microsecond
		from := benchGateway(i)
		if b, err = mobility.Append(b[:0], benchPBU(i, now), from, lmaa); err != nil {
			t.Fatal(err)
		}
		msg, err := mobility.Parse(b, from, lmaa)
		if err != nil {
			t.Fatal(err)
		}
		deliver(core.Message{Path: path(lmaa, from), Body: msg})
	}
	if m.cache.Len() != n {
		t.Fatalf("%d sessions, want %d", m.cache.Len(), n)
	}
	return m, now
}

func benchGateway(i int) netip.Addr {
	return netip.AddrFrom16([16]byte{0x20, 1, 0xd, 0xb8, 0, 0xb, 15: byte(i % 64)})
}

// benchPBU is what a gateway sends for host i: every mandatory option, both families, link-layer identifier, timestamp.
func benchPBU(i int, now core.Now) *mobility.BindingUpdate {
	return &mobility.BindingUpdate{
		Sequence: uint16(i), Flags: mobility.BUAck | mobility.BUProxy, Lifetime: 900,
		Options: mobility.Options(nil).Add(
			mobility.MobileNodeID{Subtype: mobility.SubtypeNAI, ID: fmt.Sprintf("02-00-%02x-%02x-%02x-%02x@example.net", i>>24, i>>16&255, i>>8&255, i&255)},
			mobility.HomeNetworkPrefix{Prefix: zeroHNP},
			mobility.HandoffIndicator{Value: mobility.HandoffUnknown},
			mobility.AccessTechnology{Value: mobility.AccessEthernet},
			mobility.TimestampOf(now.Wall),
			mobility.LinkLayerID{ID: []byte{2, 0, byte(i >> 24), byte(i >> 16), byte(i >> 8), byte(i)}},
			zeroV4,
		),
	}
}

// BenchmarkPBU is one refresh or handoff from bytes to bytes on one core: parser, machine, builder. A tenth are handoffs.
// Sessions are visited in an order that no cache line likes.
func BenchmarkPBU(b *testing.B) {
	for _, n := range []int{1_000, 1_000_000} {
		b.Run(fmt.Sprintf("sessions=%d", n), func(b *testing.B) {
			m, now := benchAnchor(b, n)
			const batch = 8192
			in := make([][]byte, batch)
			from := make([]netip.Addr, batch)
			var out []core.Effect
			answer := make([]byte, 0, 512)
			next, host := batch, 0
			b.ReportAllocs()
			b.ResetTimer()
			for range b.N {
				if next == batch { // requests are made beforehand
					b.StopTimer()
					for k := range in {
						host = (host + 7919*101) % n
						now.Wall, now.Boot = now.Wall.Add(20*time.Microsecond), now.Boot+20*time.Microsecond
						gw := host
						if k%10 == 0 {
							gw += 1 + host/64%7
						}
						from[k] = benchGateway(gw)
						var err error
						if in[k], err = mobility.Append(in[k][:0], benchPBU(host, now), from[k], lmaa); err != nil {
							b.Fatal(err)
						}
					}
					next = 0
					b.StartTimer()
				}
				msg, err := mobility.Parse(in[next], from[next], lmaa)
				if err != nil {
					b.Fatal(err)
				}
				out = m.Handle(now, core.Message{Path: path(lmaa, from[next]), Body: msg}, out[:0])
				answered := false
				for _, e := range out {
					switch e := e.(type) {
					case core.Send:
						if answer, err = mobility.Append(answer[:0], e.Body.(mobility.Message), e.Path.Local.Addr(), e.Path.Remote.Addr()); err != nil {
							b.Fatal(err)
						}
						if ack, ok := e.Body.(*mobility.BindingAck); ok { // else the former gateway is told (RFC 5846)
							answered = ack.Status == 0
						}
						if e.Ref != 0 {
							m.Handle(now, core.Done{Ref: e.Ref}, nil)
						}
					}
				}
				if !answered {
					b.Fatalf("refused: %v", out)
				}
				next++
			}
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "PBU/s")
		})
	}
}

// BenchmarkUDPEcho is the base line of BenchmarkPBU: a datagram of a PBU's size over the loopback interface and back, one at
// a time, with nothing done to it.
func BenchmarkUDPEcho(b *testing.B) {
	server, err := net.ListenUDP("udp6", &net.UDPAddr{IP: net.IPv6loopback})
	if err != nil {
		b.Fatal(err)
	}
	defer server.Close()
	go func() {
		buf := make([]byte, 2048)
		for {
			n, from, err := server.ReadFromUDPAddrPort(buf)
			if err != nil {
				return
			}
			server.WriteToUDPAddrPort(buf[:n], from)
		}
	}()
	client, err := net.DialUDP("udp6", nil, server.LocalAddr().(*net.UDPAddr))
	if err != nil {
		b.Fatal(err)
	}
	defer client.Close()
	pbu, err := mobility.Append(nil, benchPBU(1, core.Now{Wall: time.Now()}), benchGateway(1), lmaa)
	if err != nil {
		b.Fatal(err)
	}
	buf := make([]byte, 2048)
	for range b.N {
		if _, err := client.Write(pbu); err != nil {
			b.Fatal(err)
		}
		if _, err := client.Read(buf); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "echo/s")
}

// BenchmarkMemory reports the heap of a dual-stack session at a million of them, and what a full garbage collection costs:
// its time, and the pauses it makes.
func BenchmarkMemory(b *testing.B) {
	for range b.N {
		var before, after runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&before)
		const n = 1_000_000
		m, _ := benchAnchor(b, n)
		runtime.GC()
		runtime.ReadMemStats(&after)
		start := time.Now()
		runtime.GC()
		full := time.Since(start)
		var gc debug.GCStats
		debug.ReadGCStats(&gc)
		b.ReportMetric(float64(after.HeapAlloc-before.HeapAlloc)/n, "B/session")
		b.ReportMetric(float64(full.Microseconds())/1000, "ms/full-GC")
		b.ReportMetric(float64(gc.Pause[0].Microseconds()), "µs/pause")
		runtime.KeepAlive(m)
	}
}

// BenchmarkRestore brings a million sessions back from their records: the machine's part of a restart.
func BenchmarkRestore(b *testing.B) {
	const n = 1_000_000
	m, now := benchAnchor(b, n)
	records := make([]core.Restored, 0, n)
	m.now = now
	for i := range m.cache.All() {
		records = append(records, core.Restored{Key: sessionKey(m.cache.At(i).ID), Val: m.encode(i)})
	}
	var out []core.Effect
	for b.Loop() {
		fresh, err := New(m.cfg, strings.NewReader(""))
		if err != nil {
			b.Fatal(err)
		}
		for _, r := range records {
			out = fresh.Handle(now, r, out[:0])
		}
		out = fresh.Handle(now, core.Restored{Last: true}, out[:0])
		if fresh.cache.Len() != n {
			b.Fatalf("%d sessions", fresh.cache.Len())
		}
	}
}

// TestSessionMemory holds the promise of at most 1 KiB a session at a size that a test can afford.
func TestSessionMemory(t *testing.T) {
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	const n = 50_000
	m, _ := benchAnchor(t, n)
	runtime.GC()
	runtime.ReadMemStats(&after)
	per := (after.HeapAlloc - before.HeapAlloc) / n
	t.Logf("%d B a session", per)
	if per > 1024 {
		t.Errorf("%d B a session, want at most 1024", per)
	}
	runtime.KeepAlive(m)
}
