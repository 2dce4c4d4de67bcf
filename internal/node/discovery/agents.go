package discovery

import (
	"io"
	"net/netip"
	"slices"
	"time"
)

// Constants of RFC 6275 12, and what it leaves open.
const (
	InitialTimeout = 3 * time.Second // INITIAL_DHAAD_TIMEOUT
	Retries        = 4               // DHAAD_RETRIES

	// MaxAgents is how many home agents are remembered. The first ones of a longer list count: they are the best.
	MaxAgents = 16

	// A search that found nothing, or nobody who serves, is begun again after pauseFirst, doubled each time up to pauseMax.
	pauseFirst = 10 * time.Second
	pauseMax   = 10 * time.Minute

	// refreshNames is how long addresses of a name are used without another look, as a usual time to live is.
	refreshNames = time.Hour
	// avoidFor is how long a home agent that did not serve comes after all others: who answers for it may not know yet.
	avoidFor = 2 * time.Minute
	// namesTimeout ends the wait for an answer that never comes.
	namesTimeout = 30 * time.Second
)

// never is a time that does not come.
const never = time.Duration(1<<63 - 1)

// Agent is a home agent.
type Agent struct {
	V6 netip.Addr
	V4 netip.Addr // invalid = not known
}

// Means says how home agents are found.
type Means uint8

// The means.
const (
	Config Means = iota // as written; a home agent may still name others when it wants to be left
	DHAAD               // Dynamic Home Agent Address Discovery
	DNS
)

var meansNames = [...]string{"config", "dhaad", "dns"}

func (h Means) String() string { return meansNames[h] }

// AgentsConfig of Agents.
type AgentsConfig struct {
	Means Means
	// Known are home agents to begin with; the first counts.
	Known []Agent
	// Usable says whether a home agent may be used at all: nil = every global unicast address.
	Usable func(netip.Addr) bool
}

// candidate is a home agent of the list.
type candidate struct {
	Agent
	by    string        // how it was found
	avoid time.Duration // until then others come first: it did not serve
}

// Agents is the list of home agents. Use NewAgents.
type Agents struct {
	cfg  AgentsConfig
	rand io.Reader

	list   []candidate
	cur    int  // index in list; -1 = none
	serves bool // the current one has accepted a registration

	find      search
	fruitless int // searches in a row after which no registration was accepted
}

// search is what is being asked. A DHAAD request is repeated as it is, so the identifier is that of the whole search.
type search struct {
	on      bool
	id      uint16
	sent    int           // requests; of names: questions without an answer
	timeout time.Duration // of the last one
	next    time.Duration // of the next one, or of the next search; never = none
	last    time.Duration // when the last one was sent
	from    netip.Addr    // where that was
}

// NewAgents makes the list. rand gives identifiers.
func NewAgents(cfg AgentsConfig, rand io.Reader) *Agents {
	a := &Agents{cfg: cfg, rand: rand, cur: -1, find: search{next: never, last: -time.Hour}}
	for _, k := range cfg.Known {
		if len(a.list) < MaxAgents && a.fits(k.V6) {
			a.list = append(a.list, candidate{Agent: k, by: Config.String()})
		}
	}
	a.first(0)
	return a
}

// translated are IPv6 addresses that stand for IPv4 ones (RFC 6052 2.1). A name server of an IPv6-only network makes them up for a host
// that has none of IPv6; behind them is a translator, and no home agent.
var translated = netip.MustParsePrefix("64:ff9b::/96")

// fits says whether an address can be a home agent's.
func (a *Agents) fits(addr netip.Addr) bool {
	if !addr.Is6() || addr.Is4In6() || !addr.IsGlobalUnicast() || addr.Zone() != "" || translated.Contains(addr) {
		return false
	}
	return a.cfg.Usable == nil || a.cfg.Usable(addr)
}

// Current is the home agent to register with; ok is false while none is known. by says how it was found.
func (a *Agents) Current() (_ Agent, by string, ok bool) {
	if a.cur < 0 {
		return Agent{}, "", false
	}
	c := &a.list[a.cur]
	return c.Agent, c.by, true
}

// List are the home agents that are known, in the order in which they are tried.
func (a *Agents) List() []Agent {
	out := make([]Agent, len(a.list))
	for i := range a.list {
		out[i] = a.list[i].Agent
	}
	return out
}

// first makes the first that did not fail of late the current one; without one, that stays. It says whether there is any.
func (a *Agents) first(now time.Duration) bool {
	a.serves = false
	i := slices.IndexFunc(a.list, func(c candidate) bool { return c.avoid <= now })
	if i >= 0 {
		a.cur = i
	}
	return i >= 0
}

// at is where a home agent is in the list; -1 = nowhere.
func at(list []candidate, addr netip.Addr) int {
	return slices.IndexFunc(list, func(c candidate) bool { return c.V6 == addr })
}

// Seek begins a search if none is on, and there is a means. It may begin later: searches have a rate.
func (a *Agents) Seek(now time.Duration) {
	f := &a.find
	if a.cfg.Means == Config || f.on {
		return
	}
	at := now
	if a.fruitless > 0 {
		at = max(now, f.last+min(pauseFirst<<min(a.fruitless-1, 10), pauseMax))
	}
	id, timeout := f.id, time.Duration(0)
	var b [2]byte
	if _, err := io.ReadFull(a.rand, b[:]); err == nil {
		id = uint16(b[0])<<8 | uint16(b[1])
	}
	*f = search{on: true, id: id, timeout: timeout, next: at, last: f.last}
}

// Searching says whether a search is on.
func (a *Agents) Searching() bool { return a.find.on }

// Request is what should be sent.
type Request struct {
	Names bool   // ask the name servers, else the home agents anycast address
	ID    uint16 // of the DHAAD request
	Try   int    // 1 is the first
}

// Due says what should be sent now. from is the address that it would be sent from, invalid if there is none: a DHAAD request needs an
// IPv6 care-of address (document 004, 2.1: none in a network without).
func (a *Agents) Due(now time.Duration, from netip.Addr) (Request, bool) {
	f := &a.find
	if f.next > now {
		return Request{}, false
	}
	if !f.on { // time to look again
		a.Seek(now)
		if f.next > now {
			return Request{}, false
		}
	}
	if !from.IsValid() { // Moved brings it back
		f.next, f.from = never, from
		return Request{}, false
	}
	names := a.cfg.Means == DNS
	switch {
	case names:
		f.timeout = namesTimeout
	case f.sent > Retries:
		a.fruitless++
		*f = search{id: f.id, last: f.last, next: now + min(pauseFirst<<min(a.fruitless-1, 10), pauseMax)}
		a.again()
		return Request{}, false
	case f.sent == 0:
		f.timeout = InitialTimeout
	default:
		f.timeout *= 2
	}
	f.sent++
	f.last, f.next, f.from = now, now+f.timeout, from
	return Request{Names: names, ID: f.id, Try: f.sent}, true
}

// Moved tells what address would be asked from now on. From another one than that of the last request a new search begins, whose
// first request still waits for InitialTimeout after that.
func (a *Agents) Moved(now time.Duration, from netip.Addr) {
	f := &a.find
	waits := !f.on && f.next != never && !a.serves // for another search
	if !from.IsValid() || from == f.from || !waits && (!f.on || f.sent == 0 && f.next != never) {
		return
	}
	f.on = false
	a.Seek(now)
	f.next = max(now, f.last+InitialTimeout)
}

// Replied takes a DHAAD reply. It says whether it answers the request, and has a home agent that can be used.
func (a *Agents) Replied(now time.Duration, id uint16, addrs []netip.Addr) bool {
	f := &a.find
	if !f.on || f.sent == 0 || id != f.id || a.cfg.Means != DHAAD {
		return false
	}
	var found []Agent
	for _, addr := range addrs {
		found = append(found, Agent{V6: addr})
		if len(found) == 4*MaxAgents { // whoever lists more than a packet holds
			break
		}
	}
	return a.found(now, found, DHAAD.String())
}

// Resolved takes the answer of name servers: addresses of both families, of one host. It says whether there is one that can be used.
func (a *Agents) Resolved(now time.Duration, addrs []netip.Addr, err error) bool {
	if a.cfg.Means != DNS || !a.find.on || a.find.sent == 0 {
		return false
	}
	var found []Agent
	var v4 []netip.Addr
	for _, addr := range addrs {
		switch addr = addr.Unmap(); {
		case addr.Is4() && addr.IsGlobalUnicast():
			v4 = append(v4, addr)
		case addr.Is6() && len(found) < 4*MaxAgents:
			found = append(found, Agent{V6: addr})
		}
	}
	slices.SortFunc(v4, netip.Addr.Compare) // name servers turn the order; what one host has belongs together
	slices.SortFunc(found, func(x, y Agent) int { return x.V6.Compare(y.V6) })
	for i := range found {
		if len(v4) > 0 {
			found[i].V4 = v4[min(i, len(v4)-1)]
		}
	}
	if err == nil && a.found(now, found, DNS.String()) {
		a.find.next = now + refreshNames
		return true
	}
	a.fruitless++
	a.find = search{id: a.find.id, last: now, next: now + min(pauseFirst<<min(a.fruitless-1, 10), pauseMax)}
	return false
}

// found takes a new list. A home agent that serves stays, and those of the config stay behind what was found.
func (a *Agents) found(now time.Duration, agents []Agent, by string) bool {
	var list []candidate
	for _, g := range agents {
		if len(list) == MaxAgents || !a.fits(g.V6) || at(list, g.V6) >= 0 {
			continue
		}
		c := candidate{Agent: g, by: by}
		if i := at(a.list, g.V6); i >= 0 {
			// What works is not changed by an answer that nothing protects, and that may be another one each time.
			if c.avoid = a.list[i].avoid; !g.V4.IsValid() || i == a.cur && a.serves && a.list[i].V4.IsValid() {
				c.V4 = a.list[i].V4
			}
		}
		list = append(list, c)
	}
	if len(list) == 0 {
		return false
	}
	a.find = search{id: a.find.id, last: a.find.last, next: never}
	a.fruitless++ // until one of them accepts
	keep := netip.Addr{}
	if a.cur >= 0 && a.serves {
		keep = a.list[a.cur].V6
	}
	for _, c := range a.list {
		if (c.by == Config.String() || c.V6 == keep) && at(list, c.V6) < 0 {
			list = append(list, c) // one more than MaxAgents at most, and those of the config
		}
	}
	a.list = list
	if keep.IsValid() {
		a.cur = at(list, keep)
		return true
	}
	if a.cur = -1; !a.first(now) { // who failed longest ago, or was not asked to be left
		a.cur = slices.IndexFunc(list, func(c candidate) bool {
			return !slices.ContainsFunc(list, func(o candidate) bool { return o.avoid < c.avoid })
		})
		list[a.cur].avoid = 0
	}
	return true
}

// Failed tells that the current home agent refuses, or does not answer. It says whether another one takes its place; if none does,
// a search begins, and the current one goes on being asked meanwhile.
func (a *Agents) Failed(now time.Duration) (other bool) {
	if a.cur < 0 {
		a.Seek(now)
		return false
	}
	was := a.cur
	a.list[was].avoid = now + avoidFor
	if a.first(now) {
		return true
	}
	if a.cfg.Means == Config {
		a.again()
		return a.cur != was
	}
	a.Seek(now)
	return false
}

// again begins another round behind the current one: everybody may have come back.
func (a *Agents) again() {
	for i := range a.list {
		a.list[i].avoid = 0
	}
	if len(a.list) > 0 {
		a.cur = (a.cur + 1) % len(a.list)
	}
}

// Alone says whether there is no other home agent to turn to, and no way to find one.
func (a *Agents) Alone() bool { return len(a.list) <= 1 && a.cfg.Means == Config }

// Accepted tells that the current home agent has accepted a registration.
func (a *Agents) Accepted(time.Duration) {
	if a.cur < 0 {
		return
	}
	a.serves, a.fruitless = true, 0
	for i := range a.list {
		a.list[i].avoid = 0
	}
	if a.find.on && a.cfg.Means == DHAAD {
		a.find = search{id: a.find.id, last: a.find.last, next: never}
	}
}

// Switch takes the list of a Home Agent Switch message (RFC 5142 6): those with the home prefix first, else in its order. The
// current one comes last. It says whether there is another one; if not, a search begins.
func (a *Agents) Switch(now time.Duration, addrs []netip.Addr, home netip.Prefix) bool {
	var list []candidate
	for _, same := range []bool{true, false} {
		for _, addr := range addrs {
			if home.Contains(addr) == same && len(list) < MaxAgents && a.fits(addr) && at(list, addr) < 0 {
				list = append(list, candidate{Agent: Agent{V6: addr}, by: "switch"})
			}
		}
	}
	named := len(list) > 0
	was := netip.Addr{}
	if a.cur >= 0 {
		was = a.list[a.cur].V6
	}
	for _, c := range a.list {
		i := at(list, c.V6)
		switch {
		case i >= 0:
			list[i].V4 = c.V4
		case len(list) < MaxAgents || c.V6 == was:
			if !named { // only discovery says who serves (RFC 5142 6.1)
				c.avoid = now + avoidFor
			}
			list = append(list, c)
		}
	}
	a.list = list
	if a.cur = at(list, was); a.cur >= 0 {
		list[a.cur].avoid = now + 2*avoidFor
	}
	if a.first(now) {
		return true
	}
	if a.cfg.Means == Config {
		a.again()
		return a.cur >= 0 && a.list[a.cur].V6 != was
	}
	a.fruitless = 0
	a.Seek(now)
	return false
}

// Adopt begins with what an earlier run knew; the first of the list is the one that it used.
func (a *Agents) Adopt(list []Agent, by string) {
	var out []candidate
	for _, g := range list {
		if len(out) < MaxAgents && a.fits(g.V6) && !slices.ContainsFunc(out, func(c candidate) bool { return c.V6 == g.V6 }) {
			if g.V4.IsValid() && (!g.V4.Is4() || !g.V4.IsGlobalUnicast()) {
				g.V4 = netip.Addr{}
			}
			out = append(out, candidate{Agent: g, by: by})
		}
	}
	for _, c := range a.list {
		i := slices.IndexFunc(out, func(o candidate) bool { return o.V6 == c.V6 })
		switch {
		case i >= 0: // what the config says of it counts
			out[i] = c
		case len(out) < MaxAgents:
			out = append(out, c)
		}
	}
	a.list, a.cur = out, -1
	a.first(0)
}

// Deadline is when Due wants to be called; never = not at all.
func (a *Agents) Deadline() time.Duration { return a.find.next }
