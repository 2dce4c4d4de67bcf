// Package stats judges figures of a machine that is never quiet: two things are measured by turns in one run, each turn gives a
// ratio, and what is said of the two is the median of the ratios and an interval about it. A plain average of two separate runs
// would measure the machine's mood.
package stats

import (
	"math"
	"math/rand/v2"
	"slices"
)

// Resamples is how many times Bootstrap draws. 4,000 put the ends of a 95 % interval within a small part of its width.
const Resamples = 4000

// Interval is an estimate with its 95 % confidence interval. N 0 = there is none, whatever the figures.
type Interval struct {
	Median float64 `json:"median"`
	Low    float64 `json:"low"`
	High   float64 `json:"high"`
	N      int     `json:"n"` // how many values it is made of
}

// Median of the values; NaN of none.
func Median(v []float64) float64 {
	if len(v) == 0 {
		return math.NaN()
	}
	return Quantile(slices.Sorted(slices.Values(v)), 0.5)
}

// Quantile of sorted values, between two of them in proportion; NaN of none.
func Quantile(sorted []float64, q float64) float64 {
	if len(sorted) == 0 {
		return math.NaN()
	}
	at := q * float64(len(sorted)-1)
	i := int(at)
	if i+1 >= len(sorted) {
		return sorted[len(sorted)-1]
	}
	return sorted[i] + (at-float64(i))*(sorted[i+1]-sorted[i])
}

// Bootstrap is the percentile bootstrap of the median (Efron 1979): the interval that holds 95 % of the medians of as many values
// drawn with replacement. The same values and seed give the same interval.
func Bootstrap(v []float64, seed uint64) Interval {
	if len(v) == 0 {
		return Interval{}
	}
	out := Interval{Median: Median(v), N: len(v)}
	r := rand.New(rand.NewPCG(seed, uint64(len(v))))
	medians, draw := make([]float64, Resamples), make([]float64, len(v))
	for i := range medians {
		for j := range draw {
			draw[j] = v[r.IntN(len(v))]
		}
		slices.Sort(draw)
		medians[i] = Quantile(draw, 0.5)
	}
	slices.Sort(medians)
	out.Low, out.High = Quantile(medians, 0.025), Quantile(medians, 0.975)
	return out
}

// Ratios divides turn by turn. Turns in which either failed (not a positive number) are left out.
func Ratios(of, to []float64) []float64 {
	var out []float64
	for i := range min(len(of), len(to)) {
		if of[i] > 0 && to[i] > 0 && !math.IsInf(of[i], 0) && !math.IsInf(to[i], 0) {
			out = append(out, of[i]/to[i])
		}
	}
	return out
}

// Verdict says how an interval stands to a target.
type Verdict string

const (
	Reached   Verdict = "reached"   // the whole interval is on the good side, its end included
	Missed    Verdict = "missed"    // the whole interval is on the bad side
	Undecided Verdict = "undecided" // the target lies within it, or nothing was measured
)

// AtLeast judges where more is better.
func (i Interval) AtLeast(target float64) Verdict {
	switch {
	case i.N == 0:
		return Undecided
	case i.Low >= target:
		return Reached
	case i.High < target:
		return Missed
	}
	return Undecided
}

// AtMost judges where less is better.
func (i Interval) AtMost(target float64) Verdict {
	switch {
	case i.N == 0:
		return Undecided
	case i.High <= target:
		return Reached
	case i.Low > target:
		return Missed
	}
	return Undecided
}
