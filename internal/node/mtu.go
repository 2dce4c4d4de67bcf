package node

import (
	"slices"
	"strconv"
	"time"
)

// minIPv6 is the least MTU of a link that carries IPv6 (RFC 8200 5). The tunnel's device never has less: Linux would take
// IPv6 off it. Longer packets than the path carries are then fragmented outside (RFC 2473 7.1).
const minIPv6 = 1280

const (
	defaultMTU = 1500
	echoHead   = 40 + 8 // IPv6 and ICMPv6 headers of an echo
)

// A path may drop large packets without a word. So when the tunnel works, an echo as large as the link carries goes through
// it, and while only small ones come back, lesser ones (RFC 8899 in short: a table of sizes, three tries each).
const (
	mtuTries = 3                // MAX_PROBES, RFC 8899 5.1.2: of the link's size; of lesser ones one less, they are likely to pass
	mtuRaise = 10 * time.Minute // PMTU_RAISE_TIMER, RFC 8899 5.1.1: then a larger size is tried again
	// mtuConfirm is how often the size in use is asked again, because a path may change without a word, and come to drop what it
	// carried (RFC 8899 4.3). It takes confirmTries without an answer to believe that: a lossy path is no smaller one.
	mtuConfirm   = 20 * time.Second
	confirmTries = 5
)

// mtuSizes are sizes of outer packets that paths are known to have: Ethernet, PPPoE, tunnels in tunnels, the least.
var mtuSizes = []int{1500, 1492, 1460, 1420, 1380, 1340, minIPv6}

// search for the MTU of the path.
type search struct {
	size    int           // being tried: outer octets; 0 = no search
	tries   int           // of it, without an answer
	at      time.Duration // of the last one
	next    time.Duration // 0 = nothing to do
	raise   time.Duration // when a larger size is tried
	confirm bool          // size is the one in use
}

// linkMTU is what the link of the care-of address carries.
func (m *Machine) linkMTU() int {
	mtu := m.bind.careOf.MTU
	if mtu <= 0 {
		mtu = defaultMTU
	}
	return min(max(mtu, minIPv6), 65535)
}

// outerMTU is what the path to the home agent carries, outer headers included, as far as is known.
func (m *Machine) outerMTU() int {
	if m.bind.mtu > 0 {
		return min(m.bind.mtu, m.linkMTU())
	}
	return m.linkMTU()
}

// innerMTU is what fits into the tunnel, the size that IPv4 destinations are sent.
func (m *Machine) innerMTU() int { return m.outerMTU() - m.bind.framing.overhead() }

// deviceMTU is the tunnel device's.
func (m *Machine) deviceMTU() int { return max(m.innerMTU(), minIPv6) }

// searchMTU begins with what the link carries.
func (m *Machine) searchMTU() {
	m.path.search = search{size: m.linkMTU(), next: m.now.Boot}
	m.searchDue()
}

// searchDue sends the next large echo, or concludes.
func (m *Machine) searchDue() {
	s := &m.path.search
	switch {
	case s.size == 0 && m.now.Boot >= s.raise: // time to look for more
		m.searchMTU()
		return
	case s.size == 0:
		s.size, s.tries, s.confirm = m.outerMTU(), 0, true
		m.searchDue()
		return
	case m.path.lost > 0 || m.path.dead: // says nothing about sizes
		s.tries, s.next = 0, m.now.Boot+m.spacing()
		return
	case s.tries < s.limit(m.linkMTU()):
	case m.path.heard <= s.at: // first, does a small one come back?
		s.next = m.now.Boot + m.spacing()
		if !m.path.waiting {
			m.probeDue()
		}
		return
	default:
		s.size, s.tries, s.confirm = below(s.size), 0, false
	}
	inner := s.size - m.bind.framing.overhead()
	if inner <= minIPv6 { // carried in any case, in fragments if need be
		m.foundMTU(s.size)
		return
	}
	s.tries++
	s.at, s.next = m.now.Boot, m.now.Boot+m.spacing()
	m.echo(inner - echoHead)
}

// limit is how often the size is tried.
func (s *search) limit(link int) int {
	switch {
	case s.confirm:
		return confirmTries
	case s.size >= link:
		return mtuTries
	}
	return mtuTries - 1
}

// below is the next lesser size.
func below(size int) int {
	i := slices.IndexFunc(mtuSizes, func(s int) bool { return s < size })
	if i < 0 {
		return minIPv6
	}
	return mtuSizes[i]
}

// foundMTU: outer packets of that size pass.
func (m *Machine) foundMTU(size int) {
	raise := m.path.search.raise
	if raise <= m.now.Boot || size < m.outerMTU() {
		raise = m.now.Boot + mtuRaise
	}
	m.path.search = search{next: m.now.Boot + mtuConfirm, raise: raise}
	if size >= m.linkMTU() {
		size = 0
	}
	if m.bind.mtu == size {
		return
	}
	m.bind.mtu = size
	m.past("path MTU "+strconv.Itoa(m.outerMTU()), "", "")
	m.forward()
	m.configure()
}
