package ipsec

import (
	"fmt"
	"net/netip"
	"sync"
	"testing"

	"kedge/internal/core"
)

func TestNoAllocations(t *testing.T) {
	for _, suite := range []Suite{"aes128-sha256", "aes256-sha512", "null-sha1", "aes128-gcm"} {
		ha, mn := negotiatedPair(t, suite)
		tm, th := toAgent(5)
		esp, into := make([]byte, 0, 2048), make([]byte, 0, 2048)
		payload := mh(5)
		n := testing.AllocsPerRun(500, func() {
			var err error
			if esp, _, _, err = mn.Outbound(at(0), tm, payload, esp[:0]); err != nil {
				t.Fatal(err)
			}
			var auth core.Auth
			if _, _, auth, err = ha.Inbound(at(0), th, esp, into[:0]); err != nil {
				t.Fatal(err)
			}
			checked := th
			checked.Proto, checked.Type = ProtoMH, 5
			if _, err = ha.Check(at(0), checked, auth); err != nil {
				t.Fatal(err)
			}
		})
		if n != 0 {
			t.Errorf("%s: %v allocations a packet out and in", suite, n)
		}
	}
}

// negotiatedPair has keys as of a key exchange, which allow GCM.
func negotiatedPair(tb testing.TB, suite Suite) (ha, mn *Engine) {
	sa := testSA(tb, Signalling, suite, 0x1001)
	sa.Negotiated = true
	ha = mustNew(tb, nil, Peer{Name: "mn1", Homes: []netip.Addr{home1}, Protection: ESP, SAs: []SA{sa}})
	mn = mustNew(tb, nil, Peer{Name: "ha1", Addresses: []netip.Prefix{netip.PrefixFrom(agent, 128)}, Own: []netip.Addr{home1}, Protection: ESP, SAs: []SA{swap(sa)}})
	return ha, mn
}

// TestConcurrentUse is for the race detector: all methods at once, and every packet accepted exactly once.
func TestConcurrentUse(t *testing.T) {
	ha, mn := pair(t, "aes128-sha256")
	tm, th := toAgent(5)
	var packets [][]byte
	for range 400 {
		esp, _, _, err := mn.Outbound(at(0), tm, mh(5), nil)
		if err != nil {
			t.Fatal(err)
		}
		packets = append(packets, esp)
	}
	var mu sync.Mutex
	accepted := map[string]int{}
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			var out []byte
			for i, p := range packets {
				var err error
				if out, _, _, err = ha.Inbound(at(0), th, p, out[:0]); err == nil {
					mu.Lock()
					accepted[string(p[4:8])]++
					mu.Unlock()
				}
				if _, _, _, err := mn.Outbound(at(0), tm, mh(5), nil); err != nil {
					t.Error(err)
				}
				if i%50 == 0 {
					_ = ha.UpdateEndpoint("mn1", home1, agent, careOf)
					ha.Tick(at(0))
					ha.Status()
					ha.Drops()
					_, _ = ha.Check(at(0), tm, core.Auth{Kind: KindNone})
				}
			}
		})
	}
	wg.Wait()
	if len(accepted) != len(packets) {
		t.Errorf("%d of %d accepted", len(accepted), len(packets))
	}
	for n, times := range accepted {
		if times != 1 {
			t.Errorf("%x accepted %d times", n, times)
		}
	}
	if err := mn.Close(); err != nil {
		t.Error(err)
	}
}

func BenchmarkESP(b *testing.B) {
	for _, suite := range []Suite{"aes128-gcm", "aes256-gcm", "aes128-sha256", "aes256-sha512", "null-sha256"} {
		for _, size := range []int{64, 1400} {
			ha, mn := negotiatedPair(b, suite)
			tm, th := toAgent(5)
			payload := make([]byte, size)
			copy(payload, []byte{59, byte(size/8 - 1), 5})
			esp, out := make([]byte, 0, 2048), make([]byte, 0, 2048)
			report := func(b *testing.B) {
				b.ReportMetric(float64(b.N)*float64(size)*8/b.Elapsed().Seconds()/1e9, "Gbit/s")
			}
			b.Run(fmt.Sprintf("%s/%d/out", suite, size), func(b *testing.B) {
				for b.Loop() {
					var err error
					if esp, _, _, err = mn.Outbound(core.Now{}, tm, payload, esp[:0]); err != nil {
						b.Fatal(err)
					}
				}
				report(b)
			})
			b.Run(fmt.Sprintf("%s/%d/in", suite, size), func(b *testing.B) {
				in := ha.spi[0x1001]
				for b.Loop() {
					in.win = window{} // the same packet again
					var err error
					if out, _, _, err = ha.Inbound(core.Now{}, th, esp, out[:0]); err != nil {
						b.Fatal(err)
					}
				}
				report(b)
			})
		}
	}
}
