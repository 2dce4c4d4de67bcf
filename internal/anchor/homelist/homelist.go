// Package homelist is the home agent's side of discovery on one home link: which home agents are there (List), which prefixes
// (Prefixes), what the anchor says of itself in Router Advertisements (Machine), what it answers to nodes that ask from afar
// for home agents (Machine.Discover), when it tells its nodes of changed prefixes (Deliveries), and how it sends them to other
// home agents (Switch).
//
// Supported: RFC 6275 7.1-7.5, 8.4, 10.5, 10.6, RFC 4861 6.2 as far as a home agent advertises, RFC 3963 7, RFC 5142 5. What is
// left out: several advertisements where one would be too long (there is a limit of prefixes instead), DHCPv6.
//
// All are sub-machines of package anchor: no I/O, no clock. What others on the link or anywhere can make them hold is in
// limits.go. One goroutine uses them.
package homelist

import (
	"encoding/binary"
	"io"
	"math"
	"net/netip"
	"time"

	"kedge/internal/access"
	"kedge/internal/core"
	"kedge/wire/nd"
)

// Forever is a lifetime that does not end (RFC 4861 4.6.2).
const Forever = time.Duration(math.MaxInt64)

// Config is what the anchor says and does. Zero durations mean the defaults named beside them.
type Config struct {
	// Addresses are the home agent's own, global and of IPv6, the best first: where nodes register.
	Addresses  []netip.Addr
	Preference uint16
	Lifetime   time.Duration // as home agent, up to 65,535 s; RouterLifetime, or 30 min where that is 0
	Mobile     bool          // it serves mobile routers (RFC 3963 7.3)

	// MAC and LinkLocal are those of the interface on the home link; LinkLocal is unset where there is none.
	MAC       core.MAC
	LinkLocal netip.Addr
	Prefixes  []Prefix // of the home link
	// Managed, Other: DHCPv6 serves the home link (RFC 4861 4.2, RFC 6275 6.8).
	Managed, Other bool

	Advertise      bool          // Router Advertisements on the home link
	MaxInterval    time.Duration // MaxRtrAdvInterval, 10 min; 70 ms or more
	MinInterval    time.Duration // MinRtrAdvInterval, a third of that; 30 ms or more
	MinDelay       time.Duration // MinDelayBetweenRAs, 3 s or MinInterval where that is less
	RouterLifetime time.Duration // AdvDefaultLifetime, 3 MaxInterval; negative = no default router

	Requests int // Home Agent Address Discovery Requests that are answered in a second; 100
}

// Prefix is a prefix of the home link that the anchor knows by itself. A Valid or Preferred that is 0 is just that.
type Prefix struct {
	Prefix             netip.Prefix
	OnLink, Autonomous bool
	Valid, Preferred   time.Duration
	// Explicit: the config says so, whatever routers say. Else what is heard counts, unless the anchor itself advertises it.
	Explicit bool
}

// Defaults of lifetimes (RFC 4861 6.2.1).
const (
	DefaultValid     = 30 * 24 * time.Hour
	DefaultPreferred = 7 * 24 * time.Hour
)

// News is something that changed. Agents: new, changed, expired, left (it says so itself), refused (the list is full). Prefixes:
// prefix-new, prefix-changed, prefix-gone, prefix-limit.
type News struct {
	Kind       string
	Agent      netip.Addr // link-local address
	Addresses  []netip.Addr
	Preference uint16
	Prefix     netip.Prefix
}

// Machine is the home agents list, the prefixes and the advertisements of one home link.
type Machine struct {
	cfg      Config
	rand     io.Reader
	list     list
	prefixes prefixes
	adv      advertiser
	requests window
	frames   []*access.Frame
	retired  bool
}

// New makes one. rand orders answers and spreads advertisements.
func New(cfg Config, rand io.Reader) *Machine {
	set := func(d *time.Duration, def time.Duration) {
		if *d == 0 {
			*d = def
		}
	}
	set(&cfg.MaxInterval, 10*time.Minute)
	set(&cfg.MinInterval, max(cfg.MaxInterval/3, leastMinInterval))
	set(&cfg.MinDelay, min(3*time.Second, cfg.MinInterval))
	set(&cfg.RouterLifetime, min(max(3*cfg.MaxInterval, time.Second), maxRouterLifetime)) // RFC 6275 7.5: at least one second
	cfg.RouterLifetime = max(cfg.RouterLifetime, 0)
	if cfg.Lifetime == 0 {
		if cfg.Lifetime = cfg.RouterLifetime; cfg.Lifetime == 0 {
			cfg.Lifetime = 30 * time.Minute
		}
	}
	if cfg.Requests == 0 {
		cfg.Requests = 100
	}
	m := &Machine{cfg: cfg, rand: rand, list: newList(cfg.Addresses), requests: window{limit: cfg.Requests}}
	m.prefixes = newPrefixes(cfg.Prefixes, cfg.Advertise)
	return m
}

// Start sends the first advertisement.
func (m *Machine) Start(now core.Now) { m.start(now) }

// Frame takes a frame of the home link. Its body was held to the rules of RFC 4861 6.1 when it was read.
func (m *Machine) Frame(now core.Now, f *access.Frame) []News {
	if f.Src == m.cfg.MAC {
		return nil
	}
	switch b := f.Body.(type) {
	case *nd.RouterSolicitation:
		m.solicited(now)
	case *nd.RouterAdvertisement:
		return m.heard(now, f.SrcIP, b)
	}
	return nil
}

// heard is RFC 6275 10.5.1 and 10.6.1 for a valid Router Advertisement.
func (m *Machine) heard(now core.Now, from netip.Addr, ra *nd.RouterAdvertisement) []News {
	if from == m.cfg.LinkLocal { // our own, or somebody who says that he is us
		return nil
	}
	news := m.list.heard(now, from, ra)
	// Prefixes are those of home agents only: what they do not advertise no node can be served with.
	if m.list.agents[from] == nil {
		return append(news, m.prefixes.forget(now, from)...)
	}
	return append(news, m.prefixes.heard(now, from, ra)...)
}

// Tick does what is due.
func (m *Machine) Tick(now core.Now) (news []News) {
	for _, n := range m.list.expire(now) {
		news = append(append(news, n), m.prefixes.forget(now, n.Agent)...)
	}
	news = append(news, m.prefixes.expire(now)...)
	m.advertiseDue(now)
	return news
}

// Deadline is when Tick wants to be called.
func (m *Machine) Deadline() (at time.Duration, ok bool) {
	for _, d := range []func() (time.Duration, bool){m.list.next, m.prefixes.next, m.adv.next} {
		if t, any := d(); any && (!ok || t < at) {
			at, ok = t, true
		}
	}
	return at, ok
}

// Frames gives the frames to send and forgets them.
func (m *Machine) Frames() []*access.Frame {
	f := m.frames
	m.frames = nil
	return f
}

// Retire makes the anchor no home agent to find, or one again: nodes that it sends to others must not come back.
func (m *Machine) Retire(now core.Now, yes bool) {
	if m.retired == yes {
		return
	}
	m.retired = yes
	m.soon(now)
}

// Agents lists the other home agents of the link, the best first.
func (m *Machine) Agents() []Agent { return m.list.sorted() }

// uniform gives a duration from 0 up to d, without d.
func uniform(rand io.Reader, d time.Duration) time.Duration {
	if d <= 0 {
		return 0
	}
	return time.Duration(number(rand) % uint64(d))
}

// number is a random number. Without randomness things happen at once and in a known order, which is no harm.
func number(rand io.Reader) uint64 {
	var b [8]byte
	if _, err := io.ReadFull(rand, b[:]); err != nil {
		return 0
	}
	return binary.BigEndian.Uint64(b[:]) >> 1
}

// shuffle puts a list in random order.
func shuffle[T any](rand io.Reader, list []T) {
	for i := len(list) - 1; i > 0; i-- {
		j := int(number(rand) % uint64(i+1))
		list[i], list[j] = list[j], list[i]
	}
}

// until is the boot time when a lifetime ends.
func until(now core.Now, d time.Duration) time.Duration {
	if d >= Forever-now.Boot {
		return Forever
	}
	return now.Boot + d
}

// wireSeconds is a lifetime as options have it (RFC 4861 4.6.2).
func wireSeconds(d time.Duration) uint32 {
	if d == Forever {
		return nd.Infinity
	}
	return uint32(min(int64(max(d, 0)/time.Second), int64(nd.Infinity)-1))
}

// span is the reverse.
func span(s uint32) time.Duration {
	if s == nd.Infinity {
		return Forever
	}
	return time.Duration(s) * time.Second
}
