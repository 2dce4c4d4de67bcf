package mem

import (
	"sync/atomic"
	"time"
)

// limiter is many token buckets in a table of fixed size, so that no stranger grows anything. A bucket is one number: until when
// its budget is spent (the generic cell rate algorithm), in milliseconds, and 16 bits of the hash that it belongs to. A hash finds
// its bucket in a set of a few; if all of its set are busy with others, it gets nothing.
type limiter struct {
	every time.Duration // of the budgets for all
	all   [64]atomic.Int64
	sets  [limiterSets][limiterWays]atomic.Uint64
}

const (
	limiterSets = 1024
	limiterWays = 4
)

// init sets the budget for all: n a second, and a second's worth at once.
func (l *limiter) init(n int) { l.every = time.Second / time.Duration(n) }

// take asks for one of n a second (and n at once) of hash, and one of the common budget of group. Who has a bucket already spends
// from it first, so that one that floods leaves the common budget alone; a new one needs the common budget to get a bucket, so
// that many that flood from one group leave the buckets of others alone.
func (l *limiter) take(now time.Duration, group int, hash uint64, n int) bool {
	every, paid := time.Second/time.Duration(n), false
	set, tag := &l.sets[hash%limiterSets], hash>>48
	for {
		var slot *atomic.Uint64
		var old uint64
		for i := range set {
			v := set[i].Load()
			if v != 0 && v&0xffff == tag {
				slot, old = &set[i], v
				break
			}
			if slot == nil && until(v) <= now {
				slot, old = &set[i], v
			}
		}
		if slot == nil {
			return false
		}
		fresh := old == 0 || old&0xffff != tag
		if fresh && !paid {
			if paid = l.common(now, group); !paid {
				return false
			}
		}
		next := max(until(old), now) + every
		if next-now > time.Second {
			return false
		}
		if slot.CompareAndSwap(old, uint64(next/time.Millisecond)<<16|tag) {
			return paid || l.common(now, group)
		}
	}
}

func until(v uint64) time.Duration { return time.Duration(v>>16) * time.Millisecond }

func (l *limiter) common(now time.Duration, group int) bool {
	slot := &l.all[uint(group)%uint(len(l.all))]
	for {
		old := slot.Load()
		next := max(time.Duration(old), now) + l.every
		if next-now > time.Second {
			return false
		}
		if slot.CompareAndSwap(old, int64(next)) {
			return true
		}
	}
}
