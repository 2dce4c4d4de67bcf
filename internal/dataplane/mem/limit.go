package mem

import (
	"sync/atomic"
	"time"
)

// limiter is many token buckets in a table of fixed size: strangers that share a slot share its budget, and none grows
// anything. Each bucket is one number, the time until which its budget is spent (the generic cell rate algorithm).
type limiter struct {
	every time.Duration // of the budgets for all
	burst time.Duration
	all   [64]atomic.Int64
	slots [limiterSlots]atomic.Int64
}

// init sets the budget of all: n a second, and a second's worth at once.
func (l *limiter) init(n int) {
	l.every = time.Second / time.Duration(n)
	l.burst = time.Second
}

// take asks for one of n a second (and n at once) of hash, and one of the common budget of group.
func (l *limiter) take(now time.Duration, group int, hash uint64, n int) bool {
	every := time.Second / time.Duration(n)
	// The own budget first: one that floods must not spend what is meant for all.
	return spend(&l.slots[hash%limiterSlots], now, every, time.Second) && spend(&l.all[uint(group)%uint(len(l.all))], now, l.every, l.burst)
}

func spend(slot *atomic.Int64, now, every, burst time.Duration) bool {
	for {
		old := slot.Load()
		next := max(time.Duration(old), now) + every
		if next-now > burst {
			return false
		}
		if slot.CompareAndSwap(old, int64(next)) {
			return true
		}
	}
}
