package ebpf

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"kedge/internal/core"
	"kedge/internal/dataplane"
	"kedge/internal/dataplane/conformance"
)

// counted checks a packet, and what the session's counters say of it: what a program sends on it counts, and nothing else.
func (o *oracle) counted(t testing.TB, pkt []byte, access bool) {
	t.Helper()
	was, before, redirected, corrupt := total(o.p, 1), o.engineCount(), o.seen["redirected"], o.seen["corrupt"]
	o.check(t, pkt, access)
	if o.seen["corrupt"] != corrupt {
		return // the outer checksum is wrong, which the program need not see
	}
	is, after := total(o.p, 1), o.engineCount()
	want := core.Counter{}
	if o.seen["redirected"] != redirected {
		want = less(after, before)
	}
	if less(is, was) != want {
		t.Errorf("%s: the program counted %+v, want %+v", brief(pkt), less(is, was), want)
	}
}

func (o *oracle) engineCount() core.Counter {
	var c [1]core.Counter
	_ = o.e.Counters([]core.ID{1}, c[:])
	return c[0]
}

func less(a, b core.Counter) core.Counter {
	return core.Counter{PacketsIn: a.PacketsIn - b.PacketsIn, OctetsIn: a.OctetsIn - b.OctetsIn, PacketsOut: a.PacketsOut - b.PacketsOut, OctetsOut: a.OctetsOut - b.OctetsOut}
}

// TestCorpus shows the programs the corpus that all back ends are shown, with the session in each encapsulation, and then again with
// octets changed.
func TestCorpus(t *testing.T) {
	for _, role := range []dataplane.Role{dataplane.Anchor, dataplane.Gateway, dataplane.Node} {
		t.Run(fmt.Sprint(role), func(t *testing.T) {
			o := newOracle(t, role)
			native, tunnel := conformance.Corpus(t, role, "../../..")
			rnd := rand.New(rand.NewPCG(7, uint64(role)))
			n := 0
			for _, c := range conformance.Chains(role) {
				set := core.SetSession{ID: 1, Chain: c, Grace: time.Second}
				if role == dataplane.Gateway {
					set.If, set.MAC = o.index[1], hostMAC
				}
				must(t, o.p.Update([]core.Op{set}))
				must(t, o.e.Update([]core.Op{set}))
				for round := range 2 {
					for _, side := range []struct {
						pkts   [][]byte
						access bool
					}{{native, role == dataplane.Gateway}, {tunnel, false}} {
						if role == dataplane.Node && &side.pkts[0] == &native[0] {
							continue // from the device, which has no frames to test with
						}
						for _, b := range side.pkts {
							b = slices.Clone(b)
							for range min(round, len(b)) {
								b[rnd.IntN(min(len(b), 110))] = byte(rnd.Uint32())
							}
							if len(b) > 0 && round > 0 && rnd.IntN(2) == 0 {
								resum(b)
							}
							n++
							o.counted(t, b, side.access)
						}
					}
				}
			}
			t.Logf("%d packets: %v", n, o.seen)
			if o.seen["redirected"] < 100 || o.seen["passed"] < 1000 || o.seen["dropped"] < 100 {
				t.Errorf("too little was tried: %v", o.seen)
			}
		})
	}
}
