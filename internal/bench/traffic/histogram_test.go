package traffic

import (
	"math"
	"math/rand/v2"
	"slices"
	"testing"
)

// TestSlots: slots follow each other, each value is in its own, and none is wider than a sixteenth of its values.
func TestSlots(t *testing.T) {
	last := -1
	for v := uint64(0); v < 1<<20; v = v + 1 + v/1000 {
		s := slot(v)
		if s < last {
			t.Fatalf("%d is in slot %d, after %d", v, s, last)
		}
		last = s
		if up := upper(s); up < v || float64(up-v) > float64(v)/16 {
			t.Fatalf("%d is in slot %d, which ends at %d", v, s, up)
		}
		if s > 0 && upper(s-1) >= v {
			t.Fatalf("%d is in slot %d, but that before ends at %d", v, s, upper(s-1))
		}
	}
	if s := slot(math.MaxUint64); s >= len(Histogram{}.counts) {
		t.Fatalf("slot %d of %d", s, len(Histogram{}.counts))
	}
}

func TestHistogramQuantiles(t *testing.T) {
	var h Histogram
	if h.Quantile(0.5) != 0 || h.N() != 0 {
		t.Error("an empty histogram has a median")
	}
	r := rand.New(rand.NewPCG(3, 4))
	var all []int64
	for range 10000 {
		v := int64(math.Exp(r.NormFloat64()) * 1e4)
		all = append(all, v)
		h.Add(v)
	}
	h.Add(-5) // a clock that was set counts as no time
	all = append(all, 0)
	slices.Sort(all)
	for _, q := range []float64{0, 0.5, 0.99, 1} {
		want := all[int(q*float64(len(all)-1))]
		if got := h.Quantile(q); got < want || float64(got) > float64(want)*1.0626+1 {
			t.Errorf("quantile %v is %d, want %d", q, got, want)
		}
	}
}
