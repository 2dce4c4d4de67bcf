package simnet

import (
	"fmt"
	"os"
	"strconv"
	"testing"
	"time"

	"kedge/internal/ipsec"
)

// backOff is the longest time that a node waits between two tries: MAX_BINDACK_TIMEOUT, RFC 6275 12.
const backOff = 32 * sec

// TestNeverStuck: after any twenty disturbances that end in a usable network, both home addresses are reachable again within
// the time in which a dead path is noticed, two round trips, and the cap of the back-off.
func TestNeverStuck(t *testing.T) {
	seeds := 300
	if os.Getenv("KEDGE_LONG") != "" {
		seeds = 10_000
	}
	first := 1
	if s := os.Getenv("KEDGE_SEED"); s != "" {
		n, err := strconv.Atoi(s)
		if err != nil {
			t.Fatal(err)
		}
		first, seeds = n, 1
	}
	var worst, sum time.Duration
	for seed := first; seed < first+seeds; seed++ {
		took := stuck(t, uint64(seed), seeds == 1)
		if t.Failed() {
			return
		}
		sum += took
		worst = max(worst, took)
	}
	t.Logf("%d seeds: reachable again after %v on the average, %v at worst", seeds, (sum / time.Duration(seeds)).Round(ms), worst.Round(ms))
}

// protections of signalling, in turn.
var protections = []ipsec.Protection{"", ipsec.ESP, ipsec.RFC4285}

// stuck does twenty random things to a roaming node, ends in a usable network, and gives the time until it is reachable.
func stuck(t *testing.T, seed uint64, verbose bool) time.Duration {
	r := newRoam(t, roamOptions{seed: seed, quiet: true, protection: protections[seed%3]})
	if verbose {
		r.Trace.Max = 0 // all of it
	}
	defer func() {
		if t.Failed() || verbose {
			t.Logf("seed %d:\n%s", seed, r.Trace)
		}
	}()
	rng := r.Rand()
	pick := func() *Visited { return r.nets[r.names[rng.IntN(len(r.names))]] }
	r.mn.Iface("wl0").Attach(pick())
	for range 20 {
		r.disturb(pick)
		// Most follow each other closely, which is where state machines stumble.
		gap := time.Duration(rng.Int64N(int64(2 * sec)))
		if rng.IntN(3) == 0 {
			gap *= 20
		}
		r.Run(gap)
	}
	r.settle(pick)
	return r.bound(3*sec + 2*wanted + backOff)
}

// disturb does one random thing.
func (r *roam) disturb(pick func() *Visited) {
	rng := r.Rand()
	i := r.mn.Iface([]string{"wl0", "wl0", "wwan0"}[rng.IntN(3)])
	switch rng.IntN(12) {
	case 0, 1, 2:
		i.Attach(pick())
	case 3:
		i.Attach(nil)
	case 4:
		pick().SetIPv6(rng.IntN(2) == 0, rng.IntN(2) == 0)
	case 5:
		pick().SetIPv4(rng.IntN(2) == 0)
	case 6:
		pick().Rebind()
	case 7:
		r.mn.Freeze(time.Duration(rng.Int64N(int64(60 * sec))))
	case 8:
		if r.ha.Up() {
			r.ha.Kill()
		} else {
			r.start(r.ha)
		}
	case 9:
		r.core.Cond.Loss = []float64{0, 0.05, 0.3, 1}[rng.IntN(4)]
	case 10:
		r.core.Cond.Jitter, r.core.Cond.Duplicate = time.Duration(rng.Int64N(int64(50*ms))), 0.1*rng.Float64()
	case 11:
		if rng.IntN(3) > 0 || !r.mn.Up() { // or it would seldom live long enough to get into trouble
			return
		}
		r.mn.Kill()
		r.After(time.Duration(rng.Int64N(int64(10*sec))), func() {
			if !r.mn.Up() {
				r.start(r.mn)
			}
		})
	}
}

func (r *roam) start(n *Node) {
	if err := n.Start(); err != nil {
		r.t.Fatal(err)
	}
}

// settle ends all disturbances: the first link is on a network with at least one family, the second may be anywhere.
func (r *roam) settle(pick func() *Visited) {
	rng := r.Rand()
	r.core.Cond = Conditions{Latency: roamLatency}
	for _, n := range []*Node{r.ha, r.mn} {
		if !n.Up() {
			r.start(n)
		}
	}
	i := r.mn.Iface("wl0")
	if i.On() == nil || rng.IntN(2) == 0 {
		i.Attach(pick())
	}
	v := i.On()
	switch {
	case v.has4 || v.has6:
	case v.Prefix6.IsValid():
		v.SetIPv6(true, true)
	default:
		v.SetIPv4(true)
	}
	r.RunUntil(60*sec, func() bool { return !r.mn.frozen })
	r.trace("%s", fmt.Sprintf("settled: wl0 on %s (IPv6 %v, IPv4 %v)", v.Name, v.has6, v.has4))
}
