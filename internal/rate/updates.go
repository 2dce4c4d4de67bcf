package rate

import "time"

// MaxUpdateRate is MAX_UPDATE_RATE, RFC 6275 12.
const MaxUpdateRate = 3

// Updates holds MAX_UPDATE_RATE for messages of one type to one correspondent (RFC 6275 11.8): no more in any second, where a Bucket
// with this rate and burst lets nearly twice as many through in the first one. The zero Updates has seen none.
type Updates struct {
	last [MaxUpdateRate]time.Duration // times of the last messages, oldest first
	used int
}

// Free is when the next message may go: now or later.
func (u *Updates) Free(now time.Duration) time.Duration {
	if u.used < MaxUpdateRate {
		return now
	}
	return max(now, u.last[0]+time.Second)
}

// Latest is when the last message went; an hour before boot if none did.
func (u *Updates) Latest() time.Duration {
	if u.used == 0 {
		return -time.Hour
	}
	return u.last[u.used-1]
}

// Spend counts a message that goes now, whether it may or not.
func (u *Updates) Spend(now time.Duration) {
	if u.used < MaxUpdateRate {
		u.last[u.used] = now
		u.used++
		return
	}
	copy(u.last[:], u.last[1:])
	u.last[MaxUpdateRate-1] = now
}
