package ipsec

// The replay window, RFC 4303 3.4.3 with the blocks of RFC 6479: sliding moves no bits, it only clears words.
const (
	windowWords = 64
	// Window is how far behind the highest number a packet may come and still be accepted.
	Window = (windowWords - 1) * 64
)

// window remembers which sequence numbers were seen. Checking and marking are apart, because a number counts as seen only
// after the ICV was good.
type window struct {
	top  uint64 // the highest seen
	ring [windowWords]uint64
}

// restore forgets everything and refuses all numbers up to top.
func (w *window) restore(top uint64) {
	w.top = top
	for i := range w.ring {
		w.ring[i] = ^uint64(0)
	}
	// The rest of top's word lies ahead of it.
	if used := top%64 + 1; used < 64 {
		w.ring[top/64%windowWords] = 1<<used - 1
	}
}

// fresh says whether the number may be accepted. 0 is never sent.
func (w *window) fresh(n uint64) bool {
	switch {
	case n == 0:
		return false
	case n > w.top:
		return true
	case w.top-n >= Window:
		return false
	}
	return w.ring[n/64%windowWords]>>(n%64)&1 == 0
}

// mark remembers a fresh number.
func (w *window) mark(n uint64) {
	if n > w.top {
		word := w.top / 64
		for i := range min(n/64-word, windowWords) {
			w.ring[(word+1+i)%windowWords] = 0
		}
		w.top = n
	}
	w.ring[n/64%windowWords] |= 1 << (n % 64)
}

// extend guesses the high half of an extended sequence number from its low half, RFC 4303 A2.2. ok is false for a number that
// would lie before the first.
func (w *window) extend(low uint32) (n uint64, ok bool) {
	high, top := w.top>>32, uint32(w.top)
	edge := top - (Window - 1) // modulo 2^32
	switch {
	case top >= Window-1 && low < edge: // the low half has wrapped since the top
		high++
	case top < Window-1 && low >= edge: // the window reaches into the last cycle
		if high == 0 {
			return 0, false
		}
		high--
	}
	return high<<32 | uint64(low), true
}
