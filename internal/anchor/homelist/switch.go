package homelist

import (
	"net/netip"
	"time"

	"kedge/internal/core"
	"kedge/internal/due"
)

// Switch is mobile nodes that are being sent to other home agents (RFC 5142 5): each is told, again until it has gone, and no
// more of them begin in a second than Rate.
type Switch struct {
	Rate int // 1 is MAX-HA-SWITCH-TRANSMIT-RATE

	byHome map[netip.Addr]*leaving
	queue  due.Queue[*leaving]
	free   time.Duration // when the next one may begin
}

// leaving is one node.
type leaving struct {
	home  netip.Addr
	at    time.Duration
	place int
	sends int
	wait  time.Duration
	deaf  bool // it does not know the message
}

// NewSwitch makes one that nobody is in.
func NewSwitch() *Switch {
	return &Switch{Rate: 1, byHome: make(map[netip.Addr]*leaving), queue: due.New(
		func(a, b *leaving) bool { return a.at < b.at || a.at == b.at && a.home.Less(b.home) },
		func(l *leaving) *int { return &l.place })}
}

// Add lets a node be told, in its turn. One that is in already begins anew.
func (s *Switch) Add(now core.Now, home netip.Addr) {
	l := s.byHome[home]
	if l == nil {
		l = &leaving{home: home, place: -1}
		s.byHome[home] = l
	}
	l.sends, l.wait, l.deaf = 0, InitialSwitchTimeout, false
	s.free = max(s.free, now.Boot)
	l.at = s.free
	s.free += time.Second / time.Duration(max(s.Rate, 1))
	s.queue.Set(l)
}

// Gone says that a node has deregistered, or its registration is over; false: it was not in.
func (s *Switch) Gone(home netip.Addr) bool {
	l := s.byHome[home]
	if l == nil {
		return false
	}
	s.queue.Remove(l)
	delete(s.byHome, home)
	return true
}

// Deaf says that a node does not know the message: it is not sent again (RFC 5142 5.3). False: it was not in.
func (s *Switch) Deaf(home netip.Addr) bool {
	l := s.byHome[home]
	if l == nil || l.sends == 0 {
		return false
	}
	l.deaf = true
	s.queue.Remove(l)
	return true
}

// Has says whether a node is being sent away and was told so.
func (s *Switch) Has(home netip.Addr) bool {
	l := s.byHome[home]
	return l != nil && l.sends > 0
}

// Stop forgets all of them.
func (s *Switch) Stop() {
	clear(s.byHome)
	for _, l := range s.queue.Items() {
		s.queue.Remove(l)
	}
	s.free = 0
}

// Counts says how many nodes are in, how many of them were told, and how many of those do not understand it.
func (s *Switch) Counts() (all, told, deaf int) {
	for _, l := range s.byHome {
		all++
		if l.sends > 0 {
			told++
		}
		if l.deaf {
			deaf++
		}
	}
	return all, told, deaf
}

// Due gives the home address of a node to tell now, and how often it was told before.
func (s *Switch) Due(now core.Now) (home netip.Addr, sends int, ok bool) {
	l, any := s.queue.Min()
	if !any || l.at > now.Boot {
		return netip.Addr{}, 0, false
	}
	sends = l.sends
	l.sends++
	l.at = now.Boot + l.wait
	l.wait = min(2*l.wait, MaxSwitchTimeout) // it goes on at the slowest rate (RFC 5142 5.2)
	s.queue.Set(l)
	return l.home, sends, true
}

// Deadline is when Due wants to be called.
func (s *Switch) Deadline() (time.Duration, bool) {
	l, ok := s.queue.Min()
	if !ok {
		return 0, false
	}
	return l.at, true
}
