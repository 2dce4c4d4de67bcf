package homelist

import (
	"io"
	"net/netip"
	"time"

	"kedge/internal/core"
	"kedge/internal/due"
)

// DeliveryConfig is the schedule of RFC 6275 10.6.2.
type DeliveryConfig struct {
	Min, Max time.Duration // MinMobPfxAdvInterval, 600 s; MaxMobPfxAdvInterval, 86,400 s
	// Preferred is what remains of the preferred lifetime of a home address's prefix.
	Preferred func(now core.Now, home netip.Addr) time.Duration
}

// Deliveries is when mobile nodes are told of the prefixes of their home link. An entry is a home address: one that is bound, or
// that asked within the last second.
type Deliveries struct {
	cfg    DeliveryConfig
	rand   io.Reader
	byHome map[netip.Addr]*delivery
	queue  due.Queue[*delivery]
}

// delivery is one mobile node. It rests (at = the look after the longest interval), is planned, waits for the acknowledgement
// of what was sent, or owes an answer that came too soon.
type delivery struct {
	home  netip.Addr
	bound bool
	state deliveryState
	at    time.Duration
	place int
	ever  bool
	last  time.Duration // of the last advertisement, if ever
	sends int           // of the unacknowledged one
	owed  *Owed
}

type deliveryState uint8

const (
	resting deliveryState = iota
	planned
	unacknowledged // and sent again in time
	silent         // unacknowledged, and sent as often as allowed
)

// Owed is the answer to a Mobile Prefix Solicitation.
type Owed struct {
	Path core.Path
	ID   uint16
}

// Delivery is an advertisement that is due: an answer, or unsolicited with a nil Answer.
type Delivery struct {
	Home   netip.Addr
	Answer *Owed
	Sends  int // how often this unsolicited one was sent before
}

// NewDeliveries makes an empty schedule.
func NewDeliveries(cfg DeliveryConfig, rand io.Reader) *Deliveries {
	if cfg.Min == 0 {
		cfg.Min = 600 * time.Second
	}
	if cfg.Max == 0 {
		cfg.Max = 86400 * time.Second
	}
	return &Deliveries{cfg: cfg, rand: rand, byHome: make(map[netip.Addr]*delivery), queue: due.New(
		func(a, b *delivery) bool { return a.at < b.at || a.at == b.at && a.home.Less(b.home) },
		func(d *delivery) *int { return &d.place })}
}

// Len counts the entries.
func (s *Deliveries) Len() int { return len(s.byHome) }

func (s *Deliveries) entry(home netip.Addr) *delivery {
	d := s.byHome[home]
	if d == nil {
		d = &delivery{home: home, place: -1}
		s.byHome[home] = d
	}
	return d
}

// Bound says that a home address is registered, or was again. A node that did not acknowledge is told again then.
func (s *Deliveries) Bound(now core.Now, home netip.Addr) {
	d := s.entry(home)
	switch fresh := !d.bound; {
	case d.state == silent:
		d.bound, d.state, d.sends = true, planned, 0
		s.set(d, max(now.Boot, d.last+betweenAdvertisements))
	case fresh:
		d.bound = true
		if d.ever && now.Boot-d.last < s.cfg.Max {
			s.rest(d)
		} else {
			s.plan(now, d)
		}
	}
}

// Unbound says that it is registered no more: nothing that was scheduled is sent.
func (s *Deliveries) Unbound(now core.Now, home netip.Addr) {
	d := s.byHome[home]
	if d == nil {
		return
	}
	d.bound, d.state, d.sends = false, resting, 0
	if d.ever && now.Boot-d.last < betweenAdvertisements { // it may ask at once, and gets no more than anybody
		s.set(d, d.last+betweenAdvertisements)
		return
	}
	s.remove(d)
}

// Changed says that the prefixes changed. What was not acknowledged is out of date, and told anew as often.
func (s *Deliveries) Changed(now core.Now, home netip.Addr) {
	d := s.byHome[home]
	switch {
	case d == nil || !d.bound || d.state == planned: // it will tell what is then
	case d.state == unacknowledged:
		d.sends = 0
	default:
		s.plan(now, d)
	}
}

// Solicited takes a Mobile Prefix Solicitation, which acknowledges whatever was sent. True: answer at once; else it is owed, in
// place of an older one.
func (s *Deliveries) Solicited(now core.Now, home netip.Addr, o Owed) bool {
	d := s.entry(home)
	d.state, d.sends = resting, 0
	if d.ever && now.Boot-d.last < betweenAdvertisements {
		d.owed = &o
		s.set(d, d.last+betweenAdvertisements)
		return false
	}
	s.sent(now, d)
	return true
}

// Due gives an advertisement to send now; false: there is none.
func (s *Deliveries) Due(now core.Now) (Delivery, bool) {
	for {
		d, ok := s.queue.Min()
		if !ok || d.at > now.Boot {
			return Delivery{}, false
		}
		switch {
		case d.owed != nil:
			o := d.owed
			d.owed = nil
			s.sent(now, d)
			return Delivery{Home: d.home, Answer: o}, true
		case !d.bound:
			s.remove(d)
		case d.state == resting, d.state == silent:
			s.plan(now, d)
		case d.sends > PrefixAdvRetries:
			d.state = silent
			s.set(d, d.last+s.cfg.Max)
		default:
			out := Delivery{Home: d.home, Sends: d.sends}
			d.ever, d.last, d.state = true, now.Boot, unacknowledged
			s.set(d, now.Boot+PrefixAdvTimeout<<d.sends)
			d.sends++
			return out, true
		}
	}
}

// Deadline is when Due wants to be called.
func (s *Deliveries) Deadline() (time.Duration, bool) {
	d, ok := s.queue.Min()
	if !ok {
		return 0, false
	}
	return d.at, true
}

// sent notes that a solicited advertisement goes out now.
func (s *Deliveries) sent(now core.Now, d *delivery) {
	d.ever, d.last = true, now.Boot
	if d.bound {
		s.rest(d)
	} else {
		s.set(d, now.Boot+betweenAdvertisements)
	}
}

// rest looks again when nothing was sent for the longest interval.
func (s *Deliveries) rest(d *delivery) {
	d.state = resting
	s.set(d, d.last+s.cfg.Max)
}

// plan is RAND_ADV_DELAY of RFC 6275 10.6.2.
func (s *Deliveries) plan(now core.Now, d *delivery) {
	longest := min(s.cfg.Max, s.cfg.Preferred(now, d.home))
	d.state, d.sends = planned, 0
	s.set(d, now.Boot+s.cfg.Min+uniform(s.rand, (longest-s.cfg.Min).Abs()))
}

func (s *Deliveries) set(d *delivery, at time.Duration) {
	d.at = at
	s.queue.Set(d)
}

func (s *Deliveries) remove(d *delivery) {
	s.queue.Remove(d)
	delete(s.byHome, d.home)
}
