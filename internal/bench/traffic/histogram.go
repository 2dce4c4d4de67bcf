package traffic

import "math/bits"

// Histogram counts latencies in buckets of 1/16 of a power of two, nanoseconds. One goroutine adds; read when it has finished.
type Histogram struct {
	counts [64 * 16]uint64
	n      uint64
}

// Add counts one.
func (h *Histogram) Add(ns int64) {
	h.counts[slot(uint64(max(ns, 0)))]++
	h.n++
}

// N is how many were counted.
func (h *Histogram) N() uint64 { return h.n }

func slot(v uint64) int {
	if v < 32 {
		return int(v)
	}
	shift := bits.Len64(v) - 5 // leaves the highest bit and four below
	return shift*16 + int(v>>shift)
}

// upper is the highest value of a slot.
func upper(s int) uint64 {
	if s < 32 {
		return uint64(s)
	}
	shift := s/16 - 1
	return uint64(s%16+17)<<shift - 1
}

// Quantile is the upper end of the bucket that holds the q-th part, nanoseconds; 0 of none.
func (h *Histogram) Quantile(q float64) int64 {
	if h.n == 0 {
		return 0
	}
	want := uint64(q * float64(h.n-1))
	var sum uint64
	for i, c := range h.counts {
		if sum += c; sum > want {
			return int64(upper(i))
		}
	}
	return 0 // not reached: the counts sum to n
}
