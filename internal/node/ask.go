package node

import (
	"bytes"
	"net/netip"
	"slices"
	"time"

	"kedge/internal/core"
	"kedge/wire/ip"
)

// Where neither a working tunnel nor an acknowledgement is, a node cannot know which of the two was lost, the Binding Update or
// its answer; and with every loss the back-off of RFC 6275 11.8 doubles the silence. So each Binding Update of a race without a
// tunnel is followed by a few echoes through the tunnel that it asks for. An echo is no Mobility Header and moves nothing. If one
// comes back, the home agent has the binding and is reached in both directions: that is an answer, only not the one that says for
// how long. Its back-off begins anew then, a bounded number of times: a home agent that is heard and does not acknowledge has its
// reasons.
const (
	maxAsks  = 4 // echoes after one Binding Update
	maxHeard = 5 // back-offs of one attempt that begin anew
)

// shared4 is the address space between customers and the NAT of their provider (RFC 6598 7).
var shared4 = netip.MustParsePrefix("100.64.0.0/10")

// ask is an echo whose answer says that a care-of address is bound.
type ask struct {
	probe
	by key
}

// askEvery is the time between a Binding Update and its first echo, and between those.
func (m *Machine) askEvery() time.Duration { return m.cfg.Timers.RetransmitFirst / 2 }

// asks says whether an attempt's Binding Updates are followed by echoes.
func (m *Machine) asks(a *attempt) bool {
	return a.kind == register && !m.race.narrow && !m.race.refresh && !m.silent() && a.heard < maxHeard
}

// askDue sends the echoes whose time has come.
func (m *Machine) askDue() {
	for i := range m.race.attempts {
		a := &m.race.attempts[i]
		if a.ask == 0 || a.ask > m.now.Boot {
			continue
		}
		a.asked++
		if a.ask = m.now.Boot + m.askEvery(); a.asked == maxAsks {
			a.ask = 0
		}
		if len(m.race.asks) == maxAttempts*maxAsks {
			m.race.asks = slices.Delete(m.race.asks, 0, 1)
		}
		m.race.asks = append(m.race.asks, ask{m.send(m.chain(a.careOf.Addr, m.likely(a)), len(probe{}.token)), keyOf(&a.careOf)})
	}
}

// likely is the framing that the home agent will choose, as far as it can be told before it has. A wrong one costs its echoes.
func (m *Machine) likely(a *attempt) framing {
	c := a.careOf.Addr
	switch {
	case c.Is6():
		return inIPv6
	case m.cfg.Anchor.Dialect != Soliman && (m.force(&a.careOf) || c.IsPrivate() || shared4.Contains(c)):
		return inUDP
	}
	return inIPv4
}

// answeredAsk takes the answer of such an echo; it says whether it was one.
func (m *Machine) answeredAsk(from *core.Path, e *ip.Echo) bool {
	i := slices.IndexFunc(m.race.asks, func(k ask) bool { return e.Seq == k.seq && bytes.Equal(e.Data, k.token[:]) })
	if i < 0 {
		return false
	}
	k := m.race.asks[i]
	m.race.asks = slices.Delete(m.race.asks, i, i+1)
	j := slices.IndexFunc(m.race.attempts, func(a attempt) bool { return keyOf(&a.careOf) == k.by })
	if careOf, _ := m.cameFor(from); j < 0 || careOf != k.by.addr {
		return false // what was asked about is given up, or it came another way
	}
	a := &m.race.attempts[j]
	m.deaf, m.echoes = 0, true
	m.echoAnswered()
	m.nets.measured(&a.careOf, m.now.Boot-k.at)
	m.nets.works(&a.careOf)
	m.move.Confirm(m.now, a.careOf.Addr)
	if a.heard == maxHeard || a.ask == 0 && a.asked < maxAsks {
		return true // what this Binding Update could do is done
	}
	a.heard++
	a.ask, a.asked, a.timeout = 0, 0, 0
	a.next = min(a.next, max(m.now.Boot, a.last+m.cfg.Timers.RetransmitFirst))
	return true
}
