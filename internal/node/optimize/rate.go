package optimize

import "time"

// rate holds MAX_UPDATE_RATE for one type of message to one correspondent: the times of the last ones, oldest first.
type rate struct {
	last [MaxUpdateRate]time.Duration
	used int
}

// free is when the next one may go.
func (r *rate) free(now time.Duration) time.Duration {
	if r.used < MaxUpdateRate {
		return now
	}
	return max(now, r.last[0]+time.Second)
}

func (r *rate) take(now time.Duration) {
	if r.used < MaxUpdateRate {
		r.last[r.used] = now
		r.used++
		return
	}
	copy(r.last[:], r.last[1:])
	r.last[MaxUpdateRate-1] = now
}

// pace lets burst things happen at once, and then one each time every has passed.
type pace struct {
	every time.Duration
	burst int
	full  time.Duration // when nothing of the burst is used any more
}

// free is when the next one may happen.
func (p *pace) free(now time.Duration) time.Duration {
	return max(now, p.full-time.Duration(p.burst-1)*p.every)
}

func (p *pace) take(now time.Duration) { p.full = max(p.full, now) + p.every }
