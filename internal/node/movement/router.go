package movement

import (
	"fmt"
	"net/netip"
	"slices"
	"time"

	"kedge/internal/core"
	"kedge/wire/nd"
)

// Times of asking routers for a sign of life.
const (
	retransTimer = time.Second            // RETRANS_TIMER, RFC 4861 10; what a router advertises replaces it
	askAgain     = 250 * time.Millisecond // after carrier came back, and after sleep: REACHABILITY_TIMEOUT of RFC 4436 is 200 ms
	maxRetrans   = 4 * time.Second        // no advertisement makes us wait longer
	deadAgain    = 30 * time.Second       // how seldom a dead router is asked, at last

	slowProbes = 3 // MAX_UNICAST_SOLICIT, RFC 4861 10: every RetransTimer
	fastProbes = 4 // every askAgain
)

// reach says how sure it is that a router is there, in both directions.
type reach uint8

const (
	fresh     reach = iota // it advertised, or the host's configuration names it; it has not answered yet
	reachable              // it answered, or answers came through it
	asked                  // there is doubt; it is asked, and used meanwhile
	unsure                 // the carrier was away: it is asked, and not used until it answers
	dead                   // it did not answer
)

var reachNames = [...]string{"fresh", "reachable", "asked", "unsure", "dead"}

func (r reach) String() string { return reachNames[r] }

// edges are the changes of state that there are.
//
//	fresh, reachable -> asked -> reachable | dead      doubt, and what becomes of it
//	any -> unsure -> fresh | reachable | dead          carrier; an advertisement makes it fresh again
//	dead -> fresh | reachable                          it answers again, or is another one with the same address
var edges = map[[2]reach]bool{
	{fresh, reachable}: true, {fresh, asked}: true, {reachable, asked}: true, {asked, reachable}: true, {fresh, dead}: true, {asked, dead}: true,
	{fresh, unsure}: true, {reachable, unsure}: true, {asked, unsure}: true, {dead, unsure}: true,
	{unsure, fresh}: true, {unsure, reachable}: true, {unsure, dead}: true,
	{dead, fresh}: true, {dead, reachable}: true, {reachable, fresh}: true, {asked, fresh}: true,
}

// router is a default router of one link: an IPv6 router that advertises or that a static route names, or the gateway of an
// IPv4 default route.
type router struct {
	l     *link
	addr  netip.Addr
	mac   core.MAC
	pref  int8       // RFC 4191: 1 high, 0 medium, -1 low
	alias netip.Addr // global address by the R flag (RFC 6275 7.2): tells routers with equal link-local addresses apart

	advertised bool          // by RA; else by a route
	expires    time.Duration // router lifetime
	sll        bool          // its RAs have a Source Link-Layer Address option, so the kernel knows its MAC
	interval   time.Duration // Advertisement Interval option (RFC 6275 7.3), 0 = none
	lastRA     time.Duration
	seen       time.Duration // first heard of

	state   reach
	proven  bool          // it has answered once
	heard   time.Duration // last proof that it is there, in both directions
	sent    int           // probes since the doubt began
	every   time.Duration
	enough  int           // probes without an answer that make it dead
	next    time.Duration // probe
	barrier time.Duration // when asking began: only what was heard since counts
}

// offered says whether packets may go by the router.
func (r *router) offered() bool { return r.state != unsure && r.state != dead }

// is4 says whether it is a gateway of IPv4, asked by ARP.
func (r *router) is4() bool { return r.addr.Is4() }

// setReach is the only way a router's state changes.
func (m *Machine) setReach(r *router, to reach, why string) {
	from := r.state
	if from == to {
		return
	}
	if !edges[[2]reach{from, to}] {
		panic(fmt.Sprintf("movement: a router goes from %s to %s", from, to))
	}
	r.state = to
	m.emit(core.Emit{Name: "router", From: from.String(), To: to.String(), Why: why, Fields: map[string]any{
		"if": r.l.name, "router": r.addr.String(), "mac": r.mac.String()}})
}

// probe plans questions: the first at once.
func (m *Machine) probe(r *router, every time.Duration, enough int) {
	r.sent, r.every, r.enough, r.next, r.barrier = 0, every, enough, m.now.Boot, m.now.Boot
}

// doubt asks a router whether it is still there. Who is being asked already is not asked anew, or a storm of reasons would
// put the verdict off for ever; a shorter way to the verdict counts.
func (m *Machine) doubt(r *router, why string, probes int) {
	every := r.l.retrans
	if probes == fastProbes {
		every = askAgain
	}
	switch r.state {
	case reachable:
	case fresh, asked:
		if r.next != never && r.every <= every {
			return
		}
	case unsure, dead:
		r.next = min(r.next, m.now.Boot)
		return
	}
	if !r.l.hasFrames() {
		return
	}
	m.setReach(r, asked, why)
	m.probe(r, every, probes)
}

// recheck asks after carrier came back. On a link without frames there is nobody to ask: what its configuration says holds.
func (m *Machine) recheck(r *router) {
	if !r.l.hasFrames() {
		return
	}
	if r.state != unsure {
		m.setReach(r, unsure, "carrier came back")
	}
	m.probe(r, askAgain, fastProbes)
}

// learned starts to know a router, and asks it once, so that it is known that both directions work.
func (m *Machine) learned(l *link, a netip.Addr, mac core.MAC) *router {
	r := &router{l: l, addr: a, mac: mac, seen: m.now.Boot, heard: m.now.Boot, expires: never, next: never}
	if l.hasFrames() {
		m.probe(r, l.retrans, slowProbes)
	}
	l.routers = append(l.routers, r)
	m.emit(core.Emit{Name: "router", To: fresh.String(), Fields: map[string]any{"if": l.name, "router": a.String(), "mac": mac.String()}})
	return r
}

// alive notes that a router answered, or that an answer came through it.
func (m *Machine) alive(r *router, why string) {
	r.heard, r.proven, r.next = m.now.Boot, true, never
	m.setReach(r, reachable, why)
}

// findRouter looks one up by its address.
func (l *link) findRouter(a netip.Addr) *router {
	for _, r := range l.routers {
		if r.addr == a {
			return r
		}
	}
	return nil
}

// dropRouter forgets a router, and the prefixes that only it advertised.
func (m *Machine) dropRouter(r *router, why string) {
	l := r.l
	l.routers = slices.DeleteFunc(l.routers, func(o *router) bool { return o == r })
	for _, x := range l.addrs {
		if x.router == r {
			x.router = nil
		}
	}
	for _, p := range slices.Clone(l.prefixes) {
		p.by = slices.DeleteFunc(p.by, func(v via) bool { return v.r == r })
		if len(p.by) == 0 {
			m.dropPrefix(l, p, why)
		}
	}
	m.emit(core.Emit{Name: "router", From: r.state.String(), To: "gone", Why: why, Fields: map[string]any{"if": l.name, "router": r.addr.String()}})
	if r.advertised && !l.hasRouter6() {
		m.solicit(l)
	}
}

// hasRouter6 says whether an advertised router is there.
func (l *link) hasRouter6() bool {
	return slices.ContainsFunc(l.routers, func(r *router) bool { return r.advertised && r.offered() })
}

// serveRouters asks who is to be asked, and judges who does not answer.
func (m *Machine) serveRouters(l *link) {
	for _, r := range slices.Clone(l.routers) {
		if m.now.Boot >= r.expires {
			m.dropRouter(r, "router lifetime over")
			continue
		}
		if !l.carrier {
			continue
		}
		if m.due(r) <= m.now.Boot {
			why := "no sign of life"
			if r.interval > 0 && r.lastRA+missed(r.interval) <= m.now.Boot {
				why = "advertisement missed"
				r.lastRA = m.now.Boot // the next one that is missed asks again
			}
			m.doubt(r, why, slowProbes)
		}
		if r.next <= m.now.Boot {
			m.ask(r)
		}
	}
}

// missed is when an advertisement that should have come within i has been lost (RFC 6275 11.5.1): one may be late, two not.
func missed(i time.Duration) time.Duration { return 2*i + i/2 }

// due is when a router that nobody doubts is to be asked.
func (m *Machine) due(r *router) time.Duration {
	if !r.l.hasFrames() || !r.l.carrier || r.state != reachable && r.state != fresh || r.next != never {
		return never
	}
	at := r.heard + m.cfg.Verify
	if r.interval > 0 {
		at = min(at, r.lastRA+missed(r.interval))
	}
	return at
}

// ask sends the next question, or gives the verdict.
func (m *Machine) ask(r *router) {
	if r.state != dead && r.sent >= r.enough {
		r.next = never
		m.died(r)
		return
	}
	if !m.sendProbe(r) {
		r.next = m.now.Boot + askAgain // no address to ask from yet; nothing is concluded from that
		return
	}
	r.sent++
	r.next = m.now.Boot + r.every
	if r.state == dead {
		r.every = min(2*r.every, deadAgain)
		r.next = m.now.Boot + m.jitter(r.every)
	}
}

// died is the verdict. If another router of the family is there, the node has moved or at least will not come back by this
// one: its prefixes are given up (RFC 6275 11.5.4). If none is, they are kept in case that it comes back, and not offered.
func (m *Machine) died(r *router) {
	m.setReach(r, dead, fmt.Sprintf("%d questions without an answer", r.sent))
	r.sent, r.every = 0, retransTimer
	r.next = m.now.Boot + m.jitter(r.every)
	if r.is4() {
		return
	}
	m.solicit(r.l)
	m.bury(r.l)
}

// bury forgets dead advertised routers once another one is there.
func (m *Machine) bury(l *link) {
	if !l.hasRouter6() {
		return
	}
	for _, r := range slices.Clone(l.routers) {
		if r.advertised && r.state == dead {
			m.dropRouter(r, "unreachable, and another router is there")
		}
	}
}

// advertInterval reads the Advertisement Interval option (RFC 6275 7.3).
func advertInterval(o nd.Options) time.Duration {
	for _, x := range o {
		if ms, ok := x.(nd.AdvertisementInterval); ok {
			return time.Duration(ms) * time.Millisecond
		}
	}
	return 0
}
