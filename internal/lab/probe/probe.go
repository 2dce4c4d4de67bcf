// Package probe is traffic that measures: pings, a TCP connection and a stream of UDP packets between two network
// namespaces, each counting exactly what was sent, lost, doubled and how long the longest silence was.
//
// Sockets are opened inside the namespaces; goroutines use them from outside. Stop waits a moment for what is still on its
// way, so that Lost is final afterwards.
package probe

import (
	"net/netip"
	"slices"
	"sync"
	"time"

	"kedge/internal/system/netns"
)

// InFlight is how long a packet may take before it counts as lost.
const InFlight = time.Second

// aliveFor is how long ago the last progress of a living probe is at most.
const aliveFor = 1500 * time.Millisecond

// Spec says what to send.
type Spec struct {
	Kind     string // ping, tcp, udp, download, bulk
	From, To *netns.NS
	Src, Dst netip.Addr // Src invalid: the kernel chooses
	Every    time.Duration
	Size     int
}

// Stats are what a probe has seen.
type Stats struct {
	Sent, Received, Lost, Duplicates, Resets int
	Octets                                   int64   // TCP: echoed back, downloaded, or arrived of a bulk
	Rate                                     float64 // of a bulk, Mbit/s
	Gap                                      time.Duration
	RTT50, RTT99                             time.Duration
	Alive                                    bool
}

// Probe is running traffic.
type Probe struct {
	Spec  Spec
	stats func(now time.Time) Stats
	stop  func()
	once  sync.Once
}

// Start starts traffic. It fails if a socket cannot be opened, or a TCP connection not be made within five seconds.
func Start(s Spec) (*Probe, error) {
	switch s.Kind {
	case "ping":
		return startPing(s)
	case "tcp", "download":
		return startTCP(s)
	case "bulk":
		return startBulk(s)
	}
	return startUDP(s)
}

// Stats are the counters now.
func (p *Probe) Stats() Stats { return p.stats(time.Now()) }

// Stop ends the traffic; it returns when all that will arrive has arrived.
func (p *Probe) Stop() { p.once.Do(p.stop) }

// series counts numbered packets. It is safe for several goroutines.
type series struct {
	mu      sync.Mutex
	sent    []time.Time
	got     []uint8
	rtts    []time.Duration
	dups    int
	recv    int
	last    time.Time // of the newest arrival, or the start
	gap     time.Duration
	stopped bool
}

func (s *series) send(now time.Time) uint32 {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.last.IsZero() {
		s.last = now
	}
	s.sent = append(s.sent, now)
	s.got = append(s.got, 0)
	return uint32(len(s.sent) - 1)
}

func (s *series) arrive(seq uint32, now time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if int(seq) >= len(s.sent) {
		return
	}
	if s.got[seq] > 0 {
		s.dups++
		return
	}
	s.got[seq] = 1
	s.recv++
	s.rtts = append(s.rtts, now.Sub(s.sent[seq]))
	s.gap = max(s.gap, now.Sub(s.last))
	s.last = now
}

// end: what was sent after the newest arrival is lost, and so is that time.
func (s *series) end() {
	s.mu.Lock()
	s.stopped = true
	if n := len(s.sent); n > s.recv {
		s.gap = max(s.gap, s.sent[n-1].Sub(s.last))
	}
	s.mu.Unlock()
}

func (s *series) stats(now time.Time) Stats {
	s.mu.Lock()
	defer s.mu.Unlock()
	st := Stats{Sent: len(s.sent), Received: s.recv, Duplicates: s.dups, Gap: s.gap}
	for i, g := range s.got {
		if g == 0 && (s.stopped || now.Sub(s.sent[i]) > InFlight) {
			st.Lost++
		}
	}
	if !s.stopped && !s.last.IsZero() {
		st.Gap = max(st.Gap, now.Sub(s.last))
		st.Alive = s.recv > 0 && now.Sub(s.last) < aliveFor
	}
	st.RTT50, st.RTT99 = Quantile(s.rtts, 0.5), Quantile(s.rtts, 0.99)
	return st
}

// Quantile of durations, 0 of none. It does not change ds.
func Quantile(ds []time.Duration, q float64) time.Duration {
	if len(ds) == 0 {
		return 0
	}
	s := slices.Clone(ds)
	slices.Sort(s)
	return s[min(len(s)-1, int(q*float64(len(s))))]
}
