package movement

import (
	"fmt"
	"net/netip"
	"slices"
	"time"

	"kedge/internal/access"
	"kedge/internal/core"
	"kedge/internal/rate"
	"kedge/wire"
	"kedge/wire/nd"
)

// Times of forming addresses.
const (
	afterDuplicates = time.Minute      // until a prefix is tried again whose identifiers were all duplicates
	mostDuplicates  = 16 * time.Minute // that doubles up to this
	// formRate is how many addresses a second are formed on one link, formBurst how many at once: routers that advertise
	// ever new prefixes shall not keep the kernel busy.
	formRate, formBurst = 1, MaxAddresses
)

var formLimit = rate.PerSecond(formRate, formBurst)

// state of an address.
type state uint8

const (
	planned    state = iota // the kernel has not confirmed it yet
	tentative               // RFC 4862 5.4: not to be used yet
	optimistic              // RFC 4429: used, while duplicate address detection runs
	usable
	duplicate // every identifier is in use by somebody else; waits
)

var stateNames = [...]string{"planned", "tentative", "optimistic", "usable", "duplicate"}

func (s state) String() string { return stateNames[s] }

// addr is an address of a link that is, or may become, a care-of address.
type addr struct {
	l      *link
	a      netip.Addr
	p      netip.Prefix // of its network
	formed bool         // by us; else found: the host's own configuration set it
	from   *prefix      // that was advertised; nil: its router is of the host's configuration
	router *router      // nil: none is there, or the link needs none
	direct bool         // a default route without a next hop leads to the link

	state   state
	flags   string        // that the kernel sets it with, if we formed it
	dad     uint8         // DAD_Counter of RFC 7217 5
	dadEnds time.Duration // of our own duplicate address detection
	tries   int           // rounds of identifiers that were all duplicates
	retryAt time.Duration
	table   int
	way     bool          // the host has its table, its rule, and the address if we formed it
	since   time.Duration // offered; never = it is not
}

// formed finds an address that we formed.
func (l *link) formed(a netip.Addr) *addr {
	for _, x := range l.addrs {
		if x.formed && x.a == a {
			return x
		}
	}
	return nil
}

// setState is the only way an address's state changes.
func (m *Machine) setState(x *addr, to state, why string) {
	if x.state == to {
		return
	}
	from := x.state
	x.state = to
	m.emit(core.Emit{Name: "address", From: from.String(), To: to.String(), Why: why, Fields: map[string]any{"if": x.l.name, "coa": x.a.String()}})
}

// addAddr takes in an address with a routing table of its own; it fails when the tables are used up.
func (m *Machine) addAddr(x *addr) bool {
	at := slices.Index(m.tables[:], false)
	if at < 0 {
		return false
	}
	m.tables[at] = true
	x.table, x.since, x.dadEnds, x.retryAt = m.cfg.Table+at, never, never, never
	x.l.addrs = append(x.l.addrs, x)
	return true
}

// dropAddr forgets one; what the kernel holds of it goes with the next comparison.
func (m *Machine) dropAddr(l *link, x *addr, why string) {
	l.addrs = slices.DeleteFunc(l.addrs, func(o *addr) bool { return o == x })
	m.tables[x.table-m.cfg.Table] = false
	m.freed = m.freed || !x.formed // another link may have the same address
	m.emit(core.Emit{Name: "address", From: x.state.String(), To: "gone", Why: why, Fields: map[string]any{"if": l.name, "coa": x.a.String()}})
}

// form makes the address of an autonomous prefix (RFC 4862 5.5.3 d), at once and without delay (RFC 6275 11.5.3).
func (m *Machine) form(l *link, p *prefix) {
	n := 0
	for _, x := range l.addrs {
		if x.from == p && x.formed {
			return
		}
		if x.a.Is6() {
			n++
		}
	}
	if n >= MaxAddresses {
		m.counts[string(wire.PrefixLimit)]++
		return
	}
	if !l.forming.Take(m.now.Boot, formLimit) {
		m.counts[string(wire.RateLimit)]++
		return // the next advertisement of the prefix tries again
	}
	x := &addr{l: l, p: p.p, formed: true, from: p}
	if !m.addAddr(x) {
		m.counts[string(wire.PrefixLimit)]++
		return
	}
	m.identify(l, x)
	m.emit(core.Emit{Name: "address", To: planned.String(), Why: "prefix advertised", Fields: map[string]any{"if": l.name, "coa": x.a.String()}})
	m.found(l) // one of the kernel's own in this prefix is not needed any more
}

// identify gives an address its identifier, and looks whether the kernel holds it already: after a restart.
func (m *Machine) identify(l *link, x *addr) {
	x.a = stable(m.secret, x.p, l.mac, x.dad)
	for slices.Contains(m.cfg.Home, x.a) { // we are at home, and it is the home address that must not be used (RFC 6275 11.5.5)
		x.dad++
		x.a = stable(m.secret, x.p, l.mac, x.dad)
	}
	x.state, x.dadEnds, x.since = planned, never, never
	h, there := l.holds(x.a)
	x.flags = m.flags(x, there && !h.tentative)
	if there {
		m.kernelSays(x, h)
	}
}

// kernelSays takes what the kernel has of an address that we formed.
func (m *Machine) kernelSays(x *addr, h held) {
	switch {
	case h.failed || h.tentative && (x.state == optimistic || x.state == usable):
		m.isDuplicate(x)
	case h.tentative:
		m.setState(x, tentative, "the kernel tests it")
	case m.cfg.NoOptimistic && x.state == planned:
		m.setState(x, optimistic, "tested by us")
		m.testDuplicate(x)
	case h.optimistic:
		m.setState(x, optimistic, "the kernel tests it")
	case !m.cfg.NoOptimistic:
		m.setState(x, usable, "no duplicate")
	}
}

// testDuplicate asks whether somebody has our address (RFC 4862 5.4.2); DupAddrDetectTransmits is 1. The kernel has joined
// the solicited-node group when it took the address.
func (m *Machine) testDuplicate(x *addr) {
	dst := nd.SolicitedNode(x.a)
	m.transmit(x.l, &access.Frame{Dst: multicastMAC(dst), SrcIP: netip.IPv6Unspecified(), DstIP: dst,
		Body: &nd.NeighborSolicitation{Target: x.a}})
	x.dadEnds = m.now.Boot + x.l.retrans
}

// objected takes the sign of another node with our address (RFC 4862 5.4.3, 5.4.4). When the kernel tests it, the kernel
// judges and tells.
func (m *Machine) objected(l *link, x *addr, f *access.Frame) {
	if m.cfg.NoOptimistic && x.state == optimistic {
		m.isDuplicate(x)
		return
	}
	if x.state == usable {
		m.ignored(l, f, wire.DuplicateAddress, "somebody claims "+x.a.String())
	}
}

// isDuplicate takes the next identifier (RFC 7217 6), or gives the prefix up for a while.
func (m *Machine) isDuplicate(x *addr) {
	m.counts[string(wire.DuplicateAddress)]++
	bad := x.a
	if x.dad >= idgenRetries {
		m.setState(x, duplicate, string(wire.DuplicateAddress))
		x.since, x.dadEnds = never, never
		x.retryAt = m.now.Boot + min(afterDuplicates<<min(x.tries, 10), mostDuplicates)
		x.tries++
		m.emit(core.Emit{Name: "refused", Why: string(wire.DuplicateAddress), Fields: map[string]any{
			"if": x.l.name, "coa": bad.String(), "err": fmt.Sprintf("%d identifiers in %s belong to other nodes", idgenRetries+1, x.p)}})
		return
	}
	x.dad++
	m.identify(x.l, x)
	m.emit(core.Emit{Name: "refused", Why: string(wire.DuplicateAddress), Fields: map[string]any{
		"if": x.l.name, "coa": bad.String(), "next": x.a.String()}})
}

// reform starts with the first identifier again.
func (m *Machine) reform(l *link, x *addr) {
	x.dad, x.retryAt = 0, never
	m.identify(l, x)
}

// serveAddrs ends tests, tries again, and chooses routers.
func (m *Machine) serveAddrs(l *link) {
	for _, x := range l.addrs {
		if x.state == optimistic && m.now.Boot >= x.dadEnds {
			x.dadEnds = never
			m.setState(x, usable, "no duplicate")
		}
		if x.state == duplicate && m.now.Boot >= x.retryAt {
			m.reform(l, x)
		}
		m.choose(x)
	}
}

// note sets since when addresses are offered.
func (m *Machine) note() {
	for _, ifi := range m.order {
		for _, x := range m.links[ifi].addrs {
			if !m.offers(x) {
				x.since = never
			} else if x.since == never {
				x.since = m.now.Boot
			}
		}
	}
}

// choose gives an address its router: one that advertises its prefix (RFC 6275 11.5.4), the one it has as long as none is
// preferred to it (RFC 4191 3.2), else the one known longest.
func (m *Machine) choose(x *addr) {
	if x.from == nil {
		return
	}
	best := x.router
	if best != nil && !x.from.advertisedBy(best) {
		best = nil
	}
	for _, v := range x.from.by {
		if best == nil || better(v.r, best) {
			best = v.r
		}
	}
	x.router = best
}

// better says whether a router is to be taken instead of another.
func better(r, than *router) bool {
	if r.offered() != than.offered() {
		return r.offered()
	}
	return r.pref > than.pref
}

// offers says whether an address can be used now.
func (m *Machine) offers(x *addr) bool {
	if !x.l.carrier || m.closed || !x.way || x.state != optimistic && x.state != usable {
		return false
	}
	if x.from != nil && m.now.Boot >= x.from.valid {
		return false
	}
	if x.router != nil {
		return x.router.offered()
	}
	return x.direct
}
