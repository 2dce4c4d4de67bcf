package node

import (
	"time"

	"kedge/internal/node/movement"
)

// What is learned of a network is remembered by its name, so that a node that comes back does not learn it again. The wall
// clock counts, because memory survives restarts.

const (
	maxNetworks = 64 // remembered, the one used longest ago goes first

	// A care-of address that did not answer, while another did, is not tried again for avoidFirst; doubled each time.
	avoidFirst = 5 * time.Second
	avoidMax   = 30 * time.Minute
	// blockedFor is how long plain protocols 4 and 41 are not tried again in a network that did not carry them.
	blockedFor = time.Hour
	// maxRTT is the longest round trip time that is believed: beyond, the machine slept or an answer lay in a queue.
	maxRTT = 2 * time.Second
)

// network is what is known of one family of a network.
type network struct {
	name  string // see nameOf
	rtt   time.Duration
	fails int       // in a row
	other bool      // the other family of the network answered
	deaf  int       // registrations in a row whose tunnel never answered an echo; not stored
	avoid time.Time // until then it is not preferred
	plain verdict   // IPv4: of protocols 4 and 41
	until time.Time // of a verdict that they are blocked
}

// verdict on plain protocols 4 and 41.
type verdict uint8

const (
	unknown verdict = iota
	carried
	blocked
)

// memory of networks, the one used last at the end.
type memory struct {
	list []*network
	rtt_ time.Duration // last measured anywhere
}

// nameOf names a family of a network. One without a name is known by its address alone.
func nameOf(c *movement.CareOf) string {
	n := c.Network
	if n == "" {
		n = c.Link + " " + c.Addr.String()
	}
	if c.Addr.Is4() {
		return n + " v4"
	}
	return n + " v6"
}

func (m *memory) find(c *movement.CareOf) *network {
	name := nameOf(c)
	for _, n := range m.list {
		if n.name == name {
			return n
		}
	}
	return nil
}

// of finds or makes the entry of a care-of address's network, and moves it to the end.
func (m *memory) of(c *movement.CareOf) *network {
	name := nameOf(c)
	for i, n := range m.list {
		if n.name == name {
			m.list = append(append(m.list[:i], m.list[i+1:]...), n)
			return n
		}
	}
	if len(m.list) >= maxNetworks {
		m.list = append(m.list[:0], m.list[1:]...)
	}
	n := &network{name: name}
	m.list = append(m.list, n)
	return n
}

// rtt is the round trip time to the home agent: of that network, else the last one; 0 = never measured.
func (m *memory) rtt(c *movement.CareOf) time.Duration {
	if n := m.find(c); n != nil && n.rtt > 0 {
		return n.rtt
	}
	return m.rtt_
}

// works notes that packets went through the tunnel and back.
func (m *memory) works(c *movement.CareOf) {
	n := m.of(c)
	n.fails, n.deaf, n.avoid = 0, 0, time.Time{}
}

// measured smooths round trip times as TCP does (RFC 6298 2.3).
func (m *memory) measured(c *movement.CareOf, rtt time.Duration) {
	if rtt > maxRTT {
		return
	}
	n := m.of(c)
	rtt = max(rtt, time.Microsecond)
	if n.rtt == 0 {
		n.rtt = rtt
	} else {
		n.rtt += (rtt - n.rtt) / 8
	}
	m.rtt_ = n.rtt
}

// fail notes that a care-of address did not answer although another one did.
func (m *memory) fail(c, winner *movement.CareOf, now time.Time) {
	n := m.of(c)
	n.other = winner.Network != "" && winner.Network == c.Network
	d := min(avoidFirst<<min(n.fails, 10), avoidMax)
	n.fails++
	n.avoid = now.Add(d)
}

// back notes that the network of a care-of address can be heard again. That says nothing of a family that does not work there.
func (m *memory) back(c *movement.CareOf) {
	if n := m.find(c); n != nil && !n.other {
		n.fails, n.avoid = 0, time.Time{}
	}
}

// avoided says until when a care-of address comes after all others.
func (m *memory) avoided(c *movement.CareOf, now time.Time) (until time.Time, yes bool) {
	n := m.find(c)
	if n == nil || !n.avoid.After(now) || n.avoid.After(now.Add(avoidMax)) { // else the clock was set back
		return time.Time{}, false
	}
	return n.avoid, true
}

// blocked says whether plain protocols 4 and 41 are known not to work.
func (m *memory) blocked(c *movement.CareOf, now time.Time) bool {
	n := m.find(c)
	return n != nil && n.plain == blocked && n.until.After(now) && !n.until.After(now.Add(blockedFor)) // nor was the clock set back
}

// judge notes whether plain protocols 4 and 41 work.
func (m *memory) judge(c *movement.CareOf, v verdict, now time.Time) {
	n := m.of(c)
	n.plain, n.until = v, now.Add(blockedFor)
}

func (m *memory) plain(c *movement.CareOf) verdict {
	if n := m.find(c); n != nil {
		return n.plain
	}
	return unknown
}

// hearing gives every network another chance to be heard at once.
func (m *memory) hearing() {
	for _, n := range m.list {
		n.deaf = 0
	}
}

// forget ends all avoidance: somebody who knows says that it is time to try again.
func (m *memory) forget() {
	for _, n := range m.list {
		n.fails, n.deaf, n.avoid = 0, 0, time.Time{}
	}
}
