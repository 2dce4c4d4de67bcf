// Package pool hands out home addresses and home network prefixes and never one of them twice.
//
// A pool is a range of units: /64 prefixes of a /36 (2^28 units), or the addresses of an IPv4 home network. Which are
// taken is a bitmap in pages that exist only where something is taken, so that a large pool costs what is used of it.
// Dynamic allocation goes on from where it stopped last: an address that was given back rests as long as the pool allows, and
// is remembered for who had it.
//
// Pools are not stored: what is taken follows from the sessions and the profiles. A pool is one goroutine's.
package pool

import (
	"errors"
	"net/netip"
	"time"

	"kedge/internal/core"
)

// Why a unit is not handed out.
var (
	ErrExhausted = errors.New("pool: nothing is left")
	ErrTaken     = errors.New("pool: taken")
	ErrReserved  = errors.New("pool: reserved")
	ErrOutside   = errors.New("pool: not inside")
	ErrFree      = errors.New("pool: free, and not his")
)

// Pool is one range of home addresses or prefixes.
type Pool struct {
	cfg   Config
	units uint64 // how many; a power of two
	taken bitmap

	cursor   uint64 // where the next dynamic allocation looks first
	reserved map[uint64]static
	fixed    uint64 // how many units Allocate never gives: reserved, router, network and broadcast address
	static   uint64 // how many reserved ones are in use

	resting map[uint64]rest
	queue   []due // of resting, by time
	head    int   // queue[:head] is done

	former formers
}

// rest is a quarantine: only the former owner gets the unit before until. While he has it, it is used: given back at
// once, because his request was refused after all, it rests on.
type rest struct {
	owner string
	until time.Duration
	used  bool
}

// static is a unit kept for one owner.
type static struct {
	owner string
	used  bool
}

// due is a look at a resting unit. The unit may have been taken, or taken and released, since.
type due struct {
	unit uint64
	at   time.Duration
}

// New makes a pool. Network, broadcast and router address of an IPv4 pool are never handed out.
func New(cfg Config) (*Pool, error) {
	cfg, err := cfg.check()
	if err != nil {
		return nil, err
	}
	p := &Pool{cfg: cfg, taken: newBitmap(), reserved: make(map[uint64]static), resting: make(map[uint64]rest), former: newFormers()}
	p.units = 1 << (cfg.Delegate - cfg.Prefix.Bits())
	for _, r := range cfg.Reserve {
		p.exclude(r)
	}
	if cfg.Prefix.Addr().Is4() {
		p.exclude(netip.PrefixFrom(cfg.Router, 32))
		if cfg.Prefix.Bits() < 31 {
			p.fix(0)
			p.fix(p.units - 1)
		}
	}
	return p, nil
}

// exclude takes all units of a range out for good.
func (p *Pool) exclude(r netip.Prefix) {
	first := p.index(r.Addr())
	n := uint64(1)
	if bits := p.cfg.Delegate - r.Bits(); bits > 0 {
		n = min(1<<min(bits, 63), p.units-first)
	}
	for u := range p.former.units {
		if u-first < n && p.retake(u) {
			p.taken.clear(u)
		}
	}
	p.fixed += p.taken.setRange(first, first+n)
}

func (p *Pool) fix(u uint64) {
	if p.taken.set(u) {
		p.fixed++
	}
}

// Name is the pool's.
func (p *Pool) Name() string { return p.cfg.Name }

// Domain is the routing domain of the pool's addresses.
func (p *Pool) Domain() core.Domain { return p.cfg.Domain }

// Range is all of the pool: the home network of an IPv4 pool.
func (p *Pool) Range() netip.Prefix { return p.cfg.Prefix }

// Router is the default router of an IPv4 pool.
func (p *Pool) Router() netip.Addr { return p.cfg.Router }

// Is4 says which family the pool is of.
func (p *Pool) Is4() bool { return p.cfg.Prefix.Addr().Is4() }

// Unit is what the pool would hand out for an address: the prefix of length Delegate around it.
func (p *Pool) Unit(a netip.Addr) (netip.Prefix, bool) {
	if !p.cfg.Prefix.Contains(a) {
		return netip.Prefix{}, false
	}
	u, _ := a.Prefix(p.cfg.Delegate)
	return u, true
}

// Reserve keeps a unit for one owner, who gets it by Take; Allocate never gives it.
func (p *Pool) Reserve(unit netip.Prefix, owner string) error {
	u, err := p.find(unit)
	if err != nil {
		return err
	}
	if !p.taken.set(u) {
		return ErrTaken
	}
	p.reserved[u] = static{owner: owner}
	p.fixed++
	return nil
}

// Take takes one unit: a static address, a hint, or a restored session's. ErrReserved, ErrTaken, ErrOutside.
func (p *Pool) Take(now core.Now, unit netip.Prefix, owner string) error {
	p.expire(now)
	u, err := p.find(unit)
	if err != nil {
		return err
	}
	if s, ok := p.reserved[u]; ok {
		switch {
		case s.owner != owner:
			return ErrReserved
		case s.used:
			return ErrTaken
		}
		p.reserved[u] = static{owner, true}
		p.static++
		return nil
	}
	if r, ok := p.resting[u]; ok {
		if r.owner != owner || r.used {
			return ErrTaken
		}
		r.used = true
		p.resting[u] = r
		return nil
	}
	if !p.taken.set(u) && !p.retake(u) {
		return ErrTaken
	}
	return nil
}

// Allocate takes a unit inside a range, which may be all of the pool: the one that owner had last, the next one that nobody is
// remembered for, or the one that has been free for longest. ErrExhausted, ErrOutside.
func (p *Pool) Allocate(now core.Now, inside netip.Prefix, owner string) (netip.Prefix, error) {
	p.expire(now)
	if !p.cfg.Prefix.Overlaps(inside) || inside.Addr().Is4() != p.Is4() {
		return netip.Prefix{}, ErrOutside
	}
	if u, ok := p.formerly(owner, inside); ok {
		return p.unit(u), nil
	}
	if inside.Bits() <= p.cfg.Prefix.Bits() {
		u, ok := p.taken.nextFree(p.cursor, p.units)
		if !ok {
			if u, ok = p.taken.nextFree(0, p.cursor); !ok {
				return p.longest(p.cfg.Prefix)
			}
		}
		p.taken.set(u)
		p.cursor = u + 1
		if p.cursor >= p.units {
			p.cursor = 0
		}
		return p.unit(u), nil
	}
	first := p.index(inside.Masked().Addr())
	n := uint64(1)
	if bits := p.cfg.Delegate - inside.Bits(); bits > 0 {
		n = 1 << min(bits, 63)
	}
	u, ok := p.taken.nextFree(first, min(first+n, p.units))
	if !ok {
		return p.longest(inside)
	}
	p.taken.set(u)
	return p.unit(u), nil
}

// longest takes the unit that has been free for longest, when there are no others.
func (p *Pool) longest(inside netip.Prefix) (netip.Prefix, error) {
	u, ok := p.oldest(inside)
	if !ok {
		return netip.Prefix{}, ErrExhausted
	}
	return p.unit(u), nil
}

// Release gives a unit back. It rests for the given time, during which only its former owner gets it. The time must be the
// same in all calls, or 0: then the unit is free at once.
func (p *Pool) Release(now core.Now, unit netip.Prefix, owner string, quarantine time.Duration) {
	p.expire(now)
	u, err := p.find(unit)
	if err != nil || !p.taken.has(u) {
		return
	}
	if _, free := p.former.units[u]; free {
		return
	}
	if s, ok := p.reserved[u]; ok { // nobody else can get it, so it need not rest
		if s.used {
			p.reserved[u] = static{owner: s.owner}
			p.static--
		}
		return
	}
	r, rests := p.resting[u]
	switch {
	case rests && !r.used:
		return
	case rests && quarantine <= 0:
		r.used = false
		p.resting[u] = r
		return
	case quarantine <= 0:
		p.freed(u, owner)
		return
	}
	p.resting[u] = rest{owner: owner, until: now.Boot + quarantine}
	p.queue = append(p.queue, due{u, now.Boot + quarantine})
}

// Used counts the units that a session has or that rest; Free those that Allocate can give.
func (p *Pool) Used(now core.Now) (used, free uint64) {
	p.expire(now)
	held := uint64(len(p.former.units))
	return p.taken.n - p.fixed + p.static - held, p.units - p.taken.n + held
}

// expire frees the units whose quarantine is over.
func (p *Pool) expire(now core.Now) {
	for p.head < len(p.queue) && p.queue[p.head].at <= now.Boot {
		u := p.queue[p.head].unit
		p.head++
		if r, ok := p.resting[u]; ok && r.until <= now.Boot {
			delete(p.resting, u)
			if !r.used {
				p.freed(u, r.owner)
			}
		}
	}
	if p.head == len(p.queue) || p.head > 1024 && p.head > len(p.queue)/2 {
		p.queue = append(p.queue[:0], p.queue[p.head:]...)
		p.head = 0
	}
}

// find gives the number of a unit, which must have the length the pool hands out.
func (p *Pool) find(unit netip.Prefix) (uint64, error) {
	if unit.Bits() != p.cfg.Delegate || !p.cfg.Prefix.Contains(unit.Addr()) {
		return 0, ErrOutside
	}
	return p.index(unit.Addr()), nil
}

// index is the number of the unit around an address of the pool.
func (p *Pool) index(a netip.Addr) uint64 {
	bits := p.cfg.Delegate
	if a.Is4() {
		bits += 96
	}
	b := a.As16()
	return shiftRight(b, 128-bits) & (p.units - 1)
}

// unit is the reverse of index.
func (p *Pool) unit(u uint64) netip.Prefix {
	base := p.cfg.Prefix.Addr()
	bits := p.cfg.Delegate
	if base.Is4() {
		bits += 96
	}
	b := base.As16()
	orShifted(&b, u, 128-bits)
	a := netip.AddrFrom16(b)
	if base.Is4() {
		a = a.Unmap()
	}
	return netip.PrefixFrom(a, p.cfg.Delegate)
}

// shiftRight gives the lowest 64 bits of a 128-bit number moved right by n.
func shiftRight(b [16]byte, n int) uint64 {
	hi, lo := be64(b[:8]), be64(b[8:])
	switch {
	case n >= 64:
		return hi >> (n - 64)
	case n == 0:
		return lo
	}
	return hi<<(64-n) | lo>>n
}

// orShifted sets the bits of v, moved left by n, in a 128-bit number.
func orShifted(b *[16]byte, v uint64, n int) {
	hi, lo := be64(b[:8]), be64(b[8:])
	if n >= 64 {
		hi |= v << (n - 64)
	} else {
		lo |= v << n
		if n > 0 {
			hi |= v >> (64 - n)
		}
	}
	putBE64(b[:8], hi)
	putBE64(b[8:], lo)
}

// Delegate is the length of the units that the pool hands out: 32 for IPv4.
func (p *Pool) Delegate() int { return p.cfg.Delegate }

// IsHost says whether an address of an IPv4 pool is neither its network nor its broadcast address.
func (p *Pool) IsHost(a netip.Addr) bool {
	if p.cfg.Prefix.Bits() >= 31 {
		return true
	}
	u := p.index(a)
	return u != 0 && u != p.units-1
}
