package peer

import (
	"encoding/binary"
	"net/netip"
	"time"

	"kedge/internal/rate"
)

// slots of a limiter: the sources of a flood share them with few others, and cost no memory.
const slots = 1024

// limiter has one bucket for all, and one for the networks (/64) that fall into a slot, with a tenth of the rate.
type limiter struct {
	limit, tenth rate.Limit
	seed         [8]byte
	all          rate.Bucket
	of           *[slots]rate.Bucket
}

func newLimiter(perSecond int, seed [8]byte) limiter {
	n := float64(max(perSecond, 1))
	tenth := float64(max(perSecond/10, 1))
	return limiter{limit: rate.PerSecond(n, n), tenth: rate.PerSecond(tenth, tenth), seed: seed, of: new([slots]rate.Bucket)}
}

// take lets a message of a source pass. What one of the two buckets refuses takes nothing from the other.
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
	if own.Free(now, l.tenth) > now || !l.all.Take(now, l.limit) {
		return false
	}
	own.Spend(now, l.tenth)
	return true
}
