package gateway

import (
	"net/netip"
	"slices"
	"time"

	"kedge/internal/access"
	"kedge/internal/core"
	"kedge/wire"
)

// A session that is revoked ends within a round trip of the host's arrival elsewhere. Frames that the host sent before it
// left may still be on their way through an access point or a queue here, and must not bring the session back: for a short
// time a host that was revoked is asked whether it is here before anything but a sign of an arrival is believed.

// maxAway limits the hosts that are remembered. They are forgotten after ReturnAfter, so only a gateway that loses this
// many in so little time has more; the oldest go first.
const maxAway = 16384

// away is a host whose session went to another gateway.
type away struct {
	at     time.Duration
	link   *link
	router netip.Addr // default router of its IPv4 home network
	asked  bool
}

// absent are the hosts of which that is remembered, by MAC and in the order of their revocation.
type absent struct {
	hosts map[core.MAC]*away
	order []core.MAC // with those that came back
}

// leave remembers a host.
func (s *absent) leave(mac core.MAC, a away) {
	if s.hosts == nil {
		s.hosts = map[core.MAC]*away{}
	}
	for len(s.order) > 0 {
		first := s.order[0]
		if h := s.hosts[first]; h != nil && a.at-h.at <= ReturnAfter && len(s.order) < maxAway {
			break
		}
		delete(s.hosts, first)
		s.order = s.order[1:]
	}
	if s.hosts[mac] != nil {
		s.order = slices.DeleteFunc(s.order, func(m core.MAC) bool { return m == mac })
	}
	s.hosts[mac] = &a
	s.order = append(s.order, mac)
}

// late says whether a sign of a host that is not in the list may be a frame from before it left. The host is asked then;
// its answer, or the next sign of an arrival, attaches it.
func (m *Machine) late(l *link, mac core.MAC, s sighting) bool {
	a := m.absent.hosts[mac]
	if a == nil {
		return false
	}
	if s.arriving || a.asked && s.answer || a.link != l || m.now.Boot-a.at > ReturnAfter {
		delete(m.absent.hosts, mac)
		return false
	}
	acts := l.home.Ask(mac, s.addr, a.router, nil)
	if !slices.ContainsFunc(acts, func(x access.Action) bool { _, ok := x.(access.Transmit); return ok }) {
		return false
	}
	a.asked = true
	m.count(wire.StaleSign)
	m.carryOut(l, acts)
	return true
}
