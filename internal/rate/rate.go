// Package rate holds how often something may happen. It is arithmetic of times: who asks says what time it is (since boot), and
// nothing here grows, waits or locks.
//
// Bucket is for what may come in bursts, where a long-term rate is to hold: answers to strangers, work for one host. Updates is for
// what an RFC limits in any second.
package rate

import "time"

// Limit is what a Bucket holds to.
type Limit struct {
	every  time.Duration // one token comes back
	window time.Duration // all tokens come back
}

// PerSecond lets n things happen a second, and burst of them at once. n is positive; both may be fractions, but a burst of less than
// one, which would let nothing happen ever, counts as one.
func PerSecond(n, burst float64) Limit {
	second := float64(time.Second)
	return Limit{every: time.Duration(second / n), window: time.Duration(max(burst, 1) / n * second)}
}

// Bucket is a token bucket, kept as the generic cell rate algorithm does: the time since boot from which on it is full again. The
// zero Bucket is full.
type Bucket time.Duration

// Free is when the next thing may happen: now or later.
func (b *Bucket) Free(now time.Duration, l Limit) time.Duration {
	return max(now, time.Duration(*b)+l.every-l.window)
}

// Spend counts what happens now, whether it may or not; what follows waits longer then.
func (b *Bucket) Spend(now time.Duration, l Limit) {
	*b = Bucket(max(time.Duration(*b), now) + l.every)
}

// Take counts what is to happen now if it may. What may not costs nothing.
func (b *Bucket) Take(now time.Duration, l Limit) bool {
	if b.Free(now, l) > now {
		return false
	}
	b.Spend(now, l)
	return true
}
