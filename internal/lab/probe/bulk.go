package probe

import (
	"sync"
	"time"
)

// startBulk sends from From to To as fast as one TCP connection can.
func startBulk(s Spec) (*Probe, error) {
	c, peer, err := connect(s)
	if err != nil {
		return nil, err
	}
	b := &bulk{began: time.Now()}
	var wg sync.WaitGroup
	wg.Go(func() {
		buf := make([]byte, 256<<10)
		for {
			if _, err := c.Write(buf); err != nil {
				return // closed by stop
			}
		}
	})
	wg.Go(func() {
		buf := make([]byte, 256<<10)
		for {
			n, err := peer.Read(buf)
			b.arrive(n, time.Now())
			if err != nil {
				return
			}
		}
	})
	return &Probe{Spec: s, stats: b.stats, stop: func() {
		b.end()
		c.Close()
		peer.Close()
		wg.Wait()
	}}, nil
}

// bulk counts what has arrived of a connection.
type bulk struct {
	mu          sync.Mutex
	began, last time.Time
	octets      int64
	ended       bool
}

func (b *bulk) arrive(n int, now time.Time) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if n > 0 && !b.ended {
		b.octets += int64(n)
		b.last = now
	}
}

func (b *bulk) end() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.ended, b.last = true, time.Now()
}

func (b *bulk) stats(now time.Time) Stats {
	b.mu.Lock()
	defer b.mu.Unlock()
	st := Stats{Octets: b.octets, Alive: !b.ended && b.octets > 0 && now.Sub(b.last) < aliveFor}
	if b.ended {
		now = b.last
	}
	if d := now.Sub(b.began); d > 0 {
		st.Rate = float64(b.octets) * 8 / 1e6 / d.Seconds()
	}
	return st
}
