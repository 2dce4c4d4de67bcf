package discovery

import (
	"io"
	"net/netip"
	"slices"
	"time"

	"kedge/wire"
	"kedge/wire/nd"
)

// Constants of RFC 6275 12 and RFC 4862, and what they leave open.
const (
	InitialSolicit = 3 * time.Second // INITIAL_SOLICIT_TIMER
	solicitTries   = 5
	// twoHours: an unprotected advertisement does not make a valid lifetime shorter than that (RFC 4862 5.5.3 e).
	twoHours = 2 * time.Hour
	// MaxHomes is how many home addresses a node has at a time: the preferred one, and those that live on for what uses them.
	MaxHomes = 4
	// maxPrefixes is how many prefixes of one advertisement are looked at.
	maxPrefixes = 32
	// leastAsk is the least time between solicitations that nobody of the home network asked for.
	leastAsk = InitialSolicit
)

// Forever is a lifetime that does not end.
const Forever = never

// Home is a home address.
type Home struct {
	Prefix    netip.Prefix  // the address with the length of its prefix
	Preferred time.Duration // boot time; past it no new connection uses the address
	Valid     time.Duration // boot time; past it nothing does
}

// Addr is the home address.
func (h *Home) Addr() netip.Addr { return h.Prefix.Addr() }

// Prefixes is what is known of the home addresses of a node. Use NewPrefixes.
type Prefixes struct {
	rand  io.Reader
	allow func(netip.Prefix) bool
	other []netip.Prefix // of the last advertisement, that are not allowed
	ends  time.Duration  // when a lifetime ends next; never = none
	homes []Home         // as they were made; the newest last
	asked asked
	askAt time.Duration // when a lifetime has run down so far that it is time to ask; never = not
}

// asked is a solicitation under way.
type asked struct {
	id      uint16
	open    bool // nothing was answered yet
	again   bool // it is repeated
	tries   int
	timeout time.Duration
	next    time.Duration
	last    time.Duration
}

// NewPrefixes begins with the home address of the config, of whose prefix nothing is known yet. allow says on what prefixes home
// addresses may be made.
func NewPrefixes(home netip.Prefix, allow func(netip.Prefix) bool, rand io.Reader) *Prefixes {
	return &Prefixes{rand: rand, allow: allow, ends: never, homes: []Home{{Prefix: home, Preferred: Forever, Valid: Forever}}, askAt: never, asked: asked{next: never, last: -time.Hour}}
}

// Homes are the home addresses, the oldest first.
func (p *Prefixes) Homes() []Home { return slices.Clone(p.homes) }

// Find gives what is known of a home address.
func (p *Prefixes) Find(a netip.Addr) (Home, bool) {
	if i := p.at(a); i >= 0 {
		return p.homes[i], true
	}
	return Home{}, false
}

func (p *Prefixes) at(a netip.Addr) int {
	return slices.IndexFunc(p.homes, func(h Home) bool { return h.Prefix.Addr() == a })
}

// Best is the home address for new connections: the newest that is preferred, else the one that is valid longest. ok is false
// when none is valid.
func (p *Prefixes) Best(now time.Duration) (best Home, ok bool) {
	for _, h := range slices.Backward(p.homes) {
		switch {
		case h.Valid <= now:
		case h.Preferred > now:
			return h, true
		case !ok || h.Valid > best.Valid:
			best, ok = h, true
		}
	}
	return best, ok
}

// Adopt takes over what an earlier run knew.
func (p *Prefixes) Adopt(now time.Duration, homes []Home) {
	p.homes = slices.Clone(homes[max(0, len(homes)-MaxHomes):])
	p.schedule(now)
}

// Expire forgets the home addresses that are not valid any more, and gives them.
func (p *Prefixes) Expire(now time.Duration) (gone []Home) {
	p.homes = slices.DeleteFunc(p.homes, func(h Home) bool {
		if h.Valid <= now {
			gone = append(gone, h)
		}
		return h.Valid <= now
	})
	return gone
}

// Ask makes a solicitation due: the home agent said that there is something to know.
func (p *Prefixes) Ask(now time.Duration) {
	q := &p.asked
	if q.again || q.next != never {
		return // one is on its way
	}
	q.next, q.tries, q.timeout = max(now, q.last+leastAsk), 0, 0
}

// Due says what should be sent now, and its identifier. able: there is a home agent, and it is served by it.
func (p *Prefixes) Due(now time.Duration, able bool) (id uint16, ok bool) {
	q := &p.asked
	if !able {
		return 0, false
	}
	if p.askAt <= now {
		p.askAt = never
		p.Ask(now)
	}
	if q.next > now {
		return 0, false
	}
	if q.tries >= solicitTries {
		q.again, q.next = false, never
		p.schedule(now)
		return 0, false
	}
	if q.tries == 0 {
		var b [2]byte
		if _, err := io.ReadFull(p.rand, b[:]); err == nil { // a random value: RFC 6275 11.4.2
			q.id = uint16(b[0])<<8 | uint16(b[1])
		} else {
			q.id++
		}
		q.timeout, q.open, q.again = InitialSolicit, true, true
	} else {
		q.timeout *= 2
	}
	q.tries++
	q.last, q.next = now, now+q.timeout
	return q.id, true
}

// Deadline is when something is due, or a lifetime ends.
func (p *Prefixes) Deadline(able bool) time.Duration {
	at := never
	if able {
		at = min(p.askAt, p.asked.next)
	}
	return min(at, p.ends)
}

// Changed says whether a lifetime has ended since the last time it said so.
func (p *Prefixes) Changed(now time.Duration) bool {
	ended := p.ends <= now
	p.next(now)
	return ended
}

// next finds the lifetime that ends next.
func (p *Prefixes) next(now time.Duration) {
	p.ends = never
	for i := range p.homes {
		if h := &p.homes[i]; h.Preferred > now {
			p.ends = min(p.ends, h.Preferred)
		}
		p.ends = min(p.ends, p.homes[i].Valid)
	}
}

// Unwanted are prefixes of the last advertisement that could be used, but are not allowed.
func (p *Prefixes) Unwanted() []netip.Prefix { return p.other }

// Reset forgets what was asked: another home agent serves now.
func (p *Prefixes) Reset(now time.Duration) {
	p.asked = asked{next: never, last: p.asked.last}
	p.schedule(now)
}

// Advertised takes a Mobile Prefix Advertisement that came from the home agent as it must (RFC 6275 11.4.3). protected: it is
// known to be the home agent's. A reason says why it changed nothing: wire.Unsolicited makes a solicitation due.
func (p *Prefixes) Advertised(now time.Duration, a *nd.MobilePrefixAdvertisement, protected bool) wire.Reason {
	q := &p.asked
	if !q.open || a.ID != q.id {
		p.Ask(now)
		return wire.Unsolicited
	}
	q.open, q.again, q.next = false, false, never
	p.other = p.other[:0]
	n := 0
	listed := map[netip.Prefix]bool{}
	var fresh *nd.PrefixInformation
	for o := range a.Options.Prefixes() {
		if n++; n > maxPrefixes {
			break
		}
		at := o.Prefix.Masked()
		if o.Preferred > o.Valid && !listed[at] { // says nothing of the prefix, not even that it is gone
			listed[at] = true
			continue
		}
		if at.Addr().IsLinkLocalUnicast() || at.Addr().IsMulticast() || at.Bits() == 0 || listed[at] {
			continue // RFC 4862 5.5.3 b
		}
		known := slices.IndexFunc(p.homes, func(h Home) bool { return h.Prefix.Masked() == at })
		switch {
		case known >= 0:
			listed[at] = true
			p.lives(&p.homes[known], now, o, protected)
		case o.Autonomous && o.Preferred > 0 && !p.allow(at):
			p.other = append(p.other, at)
		case o.Autonomous && o.Preferred > 0 && fresh == nil && at.Bits() == p.homes[len(p.homes)-1].Prefix.Bits():
			listed[at] = true
			fresh = o
		}
	}
	for i := range p.homes { // the list is whole (RFC 6275 10.6.2): who is not in it any more has left
		if h := &p.homes[i]; !listed[h.Prefix.Masked()] {
			h.Preferred, h.Valid = min(h.Preferred, now), min(h.Valid, now+twoHours)
		}
	}
	if best, ok := p.Best(now); fresh != nil && (!ok || best.Preferred <= now) {
		p.form(now, fresh)
	}
	p.schedule(now)
	return ""
}

// lives takes the lifetimes of a prefix.
func (p *Prefixes) lives(h *Home, now time.Duration, o *nd.PrefixInformation, protected bool) {
	valid := until(now, o.Valid)
	if !protected && valid < now+twoHours && valid < h.Valid { // RFC 4862 5.5.3 e
		valid = min(h.Valid, now+twoHours)
	}
	h.Valid, h.Preferred = valid, min(until(now, o.Preferred), valid)
}

// form makes a home address of a prefix, with the interface identifier that the node has (RFC 6275 10.6: as at home).
func (p *Prefixes) form(now time.Duration, o *nd.PrefixInformation) {
	id := p.homes[len(p.homes)-1].Prefix.Addr().As16()
	a := o.Prefix.Masked().Addr().As16()
	for i, bits := 0, o.Prefix.Bits(); i < 16; i++ {
		keep := byte(0xff)
		if n := bits - 8*i; n >= 8 {
			keep = 0
		} else if n > 0 {
			keep >>= n
		}
		a[i] |= id[i] & keep
	}
	h := Home{Prefix: netip.PrefixFrom(netip.AddrFrom16(a), o.Prefix.Bits()), Preferred: until(now, o.Preferred), Valid: until(now, o.Valid)}
	if len(p.homes) == MaxHomes { // the one that ends first
		i := 0
		for k := range p.homes {
			if p.homes[k].Valid < p.homes[i].Valid {
				i = k
			}
		}
		p.homes = slices.Delete(p.homes, i, i+1)
	}
	p.homes = append(p.homes, h)
}

// Refused takes a home address away that the home agent does not want.
func (p *Prefixes) Refused(a netip.Addr) {
	p.homes = slices.DeleteFunc(p.homes, func(h Home) bool { return h.Prefix.Addr() == a })
}

// until is the boot time at which a lifetime in seconds ends.
func until(now time.Duration, seconds uint32) time.Duration {
	if seconds == 1<<32-1 {
		return Forever
	}
	return now + time.Duration(seconds)*time.Second
}

// schedule says when to ask next: when the preferred lifetime of the best home address has run down to a tenth or two of what it is
// now, at random, so that the nodes of a home network do not all ask at once; then the valid one.
func (p *Prefixes) schedule(now time.Duration) {
	p.askAt = never
	p.next(now)
	h, ok := p.Best(now)
	if !ok {
		return
	}
	end := h.Preferred
	if end <= now {
		end = h.Valid
	}
	if end == Forever {
		return
	}
	left := end - now
	var b [1]byte
	_, _ = io.ReadFull(p.rand, b[:]) // zeros cost the spread and nothing else
	// Divided first: lifetimes go up to 136 years, and twice that is more than a Duration holds.
	p.askAt = max(now+left/10*8+left/2560*time.Duration(b[0]), p.asked.last+leastAsk)
}
