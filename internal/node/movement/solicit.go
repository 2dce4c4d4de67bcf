package movement

import (
	"net/netip"
	"time"

	"kedge/internal/access"
	"kedge/internal/rate"
	"kedge/wire/nd"
)

// Times of Router Solicitations. RFC 4861 6.3.7 sends three, 4 s apart; a moving node that lost one packet would be cut off
// for 4 s. So they begin a second apart and are backed off to what RFC 7559 ends with in spirit, and never cease while no
// router is there: it may come at any time.
const (
	solicitFirst = time.Second
	solicitMax   = time.Minute
	// solicitRate is how many a second a link sends at most, whatever flaps; solicitBurst how many of them at once.
	solicitRate, solicitBurst = 2, 3
	// silentTries without an answer let addresses and routes count that the host has without Router Advertisements.
	silentTries = 2
)

var solicitLimit = rate.PerSecond(solicitRate, solicitBurst)

// solicitation is the state of asking for routers.
type solicitation struct {
	next  time.Duration // never = not asking
	every time.Duration
	tries int
	since time.Duration // when this round began
	spent rate.Bucket
}

// solicit asks for routers, at once if it may. A round that goes on begins anew, with the short intervals.
func (m *Machine) solicit(l *link) {
	if !l.wants6() || !l.carrier {
		return
	}
	s := &l.sol
	if s.next != never && s.tries == 0 {
		return // it waits for its turn
	}
	s.next, s.every, s.tries, s.since = m.now.Boot, solicitFirst, 0, m.now.Boot
}

// serveSolicitation sends one if it is due.
func (m *Machine) serveSolicitation(l *link) {
	s := &l.sol
	if s.next > m.now.Boot || !l.carrier {
		return
	}
	if !s.spent.Take(m.now.Boot, solicitLimit) {
		s.next = m.now.Boot + time.Second/solicitRate
		return
	}
	rs := &nd.RouterSolicitation{}
	from, optimistic, ok := l.linkLocal()
	switch {
	case !ok:
		from = netip.IPv6Unspecified()
	case !optimistic:
		rs.Options = nd.Options{nd.SourceLinkLayer(l.mac)}
	}
	m.transmit(l, &access.Frame{Dst: multicastMAC(nd.AllRouters), SrcIP: from, DstIP: nd.AllRouters, Body: rs})
	if s.tries++; s.tries > 1 {
		s.every = min(2*s.every, solicitMax)
	}
	s.next = m.now.Boot + m.jitter(s.every)
	if s.tries == silentTries {
		m.found(l)
	}
}

// solicited ends asking: an advertisement with a router lifetime came (RFC 4861 6.3.7).
func (l *link) solicited() { l.sol.next = never }
