package stats

import (
	"math"
	"math/rand/v2"
	"slices"
	"testing"
)

func TestMedianAndQuantile(t *testing.T) {
	for _, c := range []struct {
		v    []float64
		q    float64
		want float64
	}{
		{[]float64{3}, 0.5, 3},
		{[]float64{1, 2, 3, 4}, 0.5, 2.5},
		{[]float64{1, 2, 3, 4, 5}, 0.5, 3},
		{[]float64{0, 10}, 0.25, 2.5},
		{[]float64{0, 10, 20}, 0.95, 19},
		{[]float64{7, 8}, 1, 8},
		{[]float64{7, 8}, 0, 7},
	} {
		if got := Quantile(c.v, c.q); got != c.want {
			t.Errorf("Quantile(%v, %v) = %v, want %v", c.v, c.q, got, c.want)
		}
	}
	v := []float64{9, 1, 5}
	if got := Median(v); got != 5 || !slices.Equal(v, []float64{9, 1, 5}) {
		t.Errorf("Median = %v, and the values are now %v", got, v)
	}
	if !math.IsNaN(Median(nil)) || !math.IsNaN(Quantile(nil, 0.5)) {
		t.Error("the median of nothing is a number")
	}
}

// exactInterval is the 95 % interval of the median of all n^n draws with replacement of 1..n, n odd: each draw's median is the
// order statistic whose distribution the binomial distribution gives.
func exactInterval(n int) (low, high int) {
	// P(median <= k) = P(at least (n+1)/2 of n draws are <= k).
	upTo := func(k int) (p float64) {
		f := float64(k) / float64(n)
		for j := (n + 1) / 2; j <= n; j++ {
			c := 1.0
			for i := range j {
				c = c * float64(n-i) / float64(i+1)
			}
			p += c * math.Pow(f, float64(j)) * math.Pow(1-f, float64(n-j))
		}
		return p
	}
	for k := 1; k <= n; k++ {
		if low == 0 && upTo(k) > 0.025 {
			low = k
		}
		if high == 0 && upTo(k) >= 0.975 {
			high = k
		}
	}
	return low, high
}

// TestBootstrapExact compares with the intervals that the binomial distribution gives for the values 1 to n.
func TestBootstrapExact(t *testing.T) {
	for _, n := range []int{5, 9, 15, 25, 51} {
		v := make([]float64, n)
		for i := range v {
			v[i] = float64((i*7)%n + 1) // 1..n, not in order
		}
		if n%7 == 0 {
			t.Fatal("7 must not divide n")
		}
		low, high := exactInterval(n)
		got := Bootstrap(v, 1)
		if got.Median != float64(n+1)/2 || got.N != n || math.Abs(got.Low-float64(low)) > 1 || math.Abs(got.High-float64(high)) > 1 {
			t.Errorf("n = %d: %+v, want %d to %d", n, got, low, high)
		}
	}
}

func TestBootstrapSame(t *testing.T) {
	v := []float64{1.1, 0.9, 1.4, 1.0, 1.2, 0.8, 1.3}
	if a, b := Bootstrap(v, 7), Bootstrap(v, 7); a != b {
		t.Errorf("the same values and seed give %+v and %+v", a, b)
	}
	if got := Bootstrap([]float64{2, 2, 2}, 1); got != (Interval{2, 2, 2, 3}) {
		t.Errorf("of equal values: %+v", got)
	}
	if got := Bootstrap(nil, 1); got != (Interval{}) {
		t.Errorf("of nothing: %+v", got)
	}
}

// TestBootstrapCovers: about 95 of 100 intervals hold the median of the distribution that the values come from. The percentile
// bootstrap of a median is known to hold it a little less or more often with few values.
func TestBootstrapCovers(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	const runs = 100
	held := 0
	for i := range runs {
		v := make([]float64, 15)
		for j := range v {
			v[j] = r.NormFloat64() + 3
		}
		if b := Bootstrap(v, uint64(i)); b.Low <= 3 && 3 <= b.High {
			held++
		}
	}
	if share := float64(held) / runs; share < 0.88 {
		t.Errorf("%.3f of the intervals hold the median", share)
	}
}

func TestRatios(t *testing.T) {
	got := Ratios([]float64{2, 0, 3, 8, math.Inf(1), 1}, []float64{1, 5, 0, 4, 1})
	if !slices.Equal(got, []float64{2, 2}) {
		t.Errorf("ratios %v", got)
	}
}

func TestVerdicts(t *testing.T) {
	nothing := Bootstrap(nil, 1)
	for _, c := range []struct {
		i           Interval
		least, most Verdict
	}{
		{Interval{Low: 1, Median: 1.1, High: 1.2, N: 9}, Reached, Undecided},
		{Interval{Low: 0.8, Median: 0.9, High: 1, N: 9}, Undecided, Reached},
		{Interval{Low: 0.8, Median: 0.9, High: 0.99, N: 9}, Missed, Reached},
		{Interval{Low: 1.01, Median: 1.1, High: 1.2, N: 9}, Reached, Missed},
		{Interval{Low: 0.9, Median: 1, High: 1.1, N: 9}, Undecided, Undecided},
		{nothing, Undecided, Undecided},
	} {
		if got := c.i.AtLeast(1); got != c.least {
			t.Errorf("%+v at least 1: %s, want %s", c.i, got, c.least)
		}
		if got := c.i.AtMost(1); got != c.most {
			t.Errorf("%+v at most 1: %s, want %s", c.i, got, c.most)
		}
	}
}
