package peer

import (
	"encoding/binary"
	"net/netip"
	"time"
)

// bucket lets rate things a second pass, in bursts of as many. The zero bucket is full.
type bucket struct {
	full time.Duration // boot time at which it is full again
}

func (b *bucket) take(now time.Duration, rate int) bool {
	each := time.Second / time.Duration(max(rate, 1))
	full := max(b.full, now)
	if full+each-now > time.Second {
		return false
	}
	b.full = full + each
	return true
}

// slots of a limiter: the sources of a flood share them with few others, and cost no memory.
const slots = 1024

// limiter has one bucket for all, and one for the networks (/64) that fall into a slot, with a tenth of the rate.
type limiter struct {
	rate int
	seed [8]byte
	all  bucket
	of   *[slots]bucket
}

func newLimiter(rate int, seed [8]byte) limiter {
	return limiter{rate: rate, seed: seed, of: new([slots]bucket)}
}

// take lets a message of a source pass. What its network's bucket refuses takes nothing from the others.
func (l *limiter) take(now time.Duration, src netip.Addr) bool {
	a := src.As16()
	// Multiply and mix over a random seed: who does not know it cannot aim at another's slot.
	h := binary.BigEndian.Uint64(l.seed[:]) ^ binary.BigEndian.Uint64(a[:8])
	h ^= h >> 32
	h *= 0xd6e8feb86659fd93
	h ^= h >> 32
	h *= 0xd6e8feb86659fd93
	h ^= h >> 32
	own := &l.of[h%slots]
	kept := *own
	if !own.take(now, max(l.rate/10, 1)) {
		return false
	}
	if !l.all.take(now, l.rate) {
		*own = kept
		return false
	}
	return true
}
