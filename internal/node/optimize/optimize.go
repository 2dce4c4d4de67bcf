package optimize

import (
	"errors"
	"fmt"
	"io"
	"net/netip"
	"slices"
	"time"

	"kedge/internal/core"
	"kedge/internal/rate"
	"kedge/wire"
	"kedge/wire/ip"
)

// Protocol constants, RFC 6275 12.
const (
	InitialBindackTimeout = time.Second        // INITIAL_BINDACK_TIMEOUT: first retransmission
	MaxBindackTimeout     = 32 * time.Second   // MAX_BINDACK_TIMEOUT: cap of the back-off
	MaxTokenLifetime      = 210 * time.Second  // MAX_TOKEN_LIFETIME
	MaxBindingLifetime    = 420 * time.Second  // MAX_RR_BINDING_LIFETIME
	MaxFailure            = 3                  // MAX_RO_FAILURE: retransmissions
	MaxUpdateRate         = rate.MaxUpdateRate // MAX_UPDATE_RATE: messages of a type a second to one correspondent
)

// Limits and times of this package.
const (
	DefaultLimit = 64   // entries
	MaxLimit     = 1024 // entries

	Idle       = 60 * time.Second // without traffic, an entry is not renewed
	watchEvery = 2 * time.Second  // between looks at the counters of sessions
	doubtEvery = 5 * time.Second  // between tests of a path for which there is a sign; doubled while nothing comes of them
	// renewBefore is how long before its end a home keygen token is renewed: four messages fit in.
	renewBefore = 20 * time.Second
	grace       = 5 * time.Second // packets on their way after a binding was deleted

	testsPerSecond, testsBurst     = 64, 128 // Home and Care-of Test Inits to all correspondents
	entriesPerSecond, entriesBurst = 4, 16   // new entries that traffic asks for
)

var (
	testLimit  = rate.PerSecond(testsPerSecond, testsBurst)
	entryLimit = rate.PerSecond(entriesPerSecond, entriesBurst)
)

// Use says when a correspondent is told where the node is.
type Use uint8

const (
	Never   Use = iota
	Traffic     // while there is traffic with it
	Always      // as soon as the node is away, and whether there is traffic or not: single addresses
)

// Rule is the use of correspondents in a prefix.
type Rule struct {
	Prefix netip.Prefix
	Use    Use
}

// Config of route optimization. The zero value is without: Never.
type Config struct {
	Use            Use
	Correspondents []Rule // the longest prefix counts
	Limit          int    // entries; 0 = DefaultLimit
	// Lifetime to ask for, a multiple of 4 s; 0 = MaxBindingLifetime.
	Lifetime time.Duration
}

// Off says whether no correspondent is ever told.
func (c *Config) Off() bool {
	return c.Use == Never && !slices.ContainsFunc(c.Correspondents, func(r Rule) bool { return r.Use != Never })
}

// Validate fills defaults in and says what cannot be.
func (c *Config) Validate() error {
	if c.Limit == 0 {
		c.Limit = DefaultLimit
	}
	if c.Lifetime == 0 {
		c.Lifetime = MaxBindingLifetime
	}
	always := 0
	for _, r := range c.Correspondents {
		switch p := r.Prefix; {
		case !p.IsValid() || !p.Addr().Is6() || p.Addr().Is4In6() || p != p.Masked():
			return fmt.Errorf("correspondent %v: want an IPv6 prefix without bits behind its length", p)
		case r.Use == Always && !p.IsSingleIP():
			return fmt.Errorf("correspondent %v: who is always told is named by a single address", p)
		case r.Use == Always && !ip.Routable(p.Addr()):
			return fmt.Errorf("correspondent %v: want a global unicast address", p)
		case r.Use == Always:
			always++
		case r.Use > Always:
			return fmt.Errorf("correspondent %v: use %d is unknown", p, r.Use)
		}
	}
	switch {
	case c.Use > Traffic:
		return errors.New("use: who is always told is named by a single address")
	case c.Limit < 1 || c.Limit > MaxLimit:
		return fmt.Errorf("limit %d: want 1 to %d", c.Limit, MaxLimit)
	case always > c.Limit:
		return fmt.Errorf("limit %d: %d correspondents are always told", c.Limit, always)
	case c.Lifetime < 4*time.Second || c.Lifetime > MaxBindingLifetime || c.Lifetime%(4*time.Second) != 0:
		return fmt.Errorf("lifetime %v: want a multiple of 4s up to %v", c.Lifetime, MaxBindingLifetime)
	}
	return nil
}

// use is what the config says of a correspondent.
func (c *Config) use(a netip.Addr) Use {
	best, use := -1, c.Use
	for _, r := range c.Correspondents {
		if r.Prefix.Contains(a) && r.Prefix.Bits() > best {
			best, use = r.Prefix.Bits(), r.Use
		}
	}
	return use
}

// Where a node is.
type Where uint8

const (
	Nowhere Where = iota // without a registration at the home agent
	Away
	AtHome
)

// Place is where the node is, as its parent knows it. Times are boot time.
type Place struct {
	At     Where
	Home   netip.Addr // IPv6 home address
	Anchor netip.Addr // IPv6 address of the home agent
	Name   string     // of the home agent: Auth.Peer of what it protects
	// CareOf is the IPv6 address to be reached at directly; invalid in an IPv4-only network. If is its link, or the home link.
	CareOf netip.Addr
	If     int
	Tunnel core.Chain    // to the home agent, while Away
	Until  time.Duration // end of the registration at the home agent, or of CareOf, whichever comes first
	Own    []netip.Addr  // IPv6 care-of addresses that packets can leave from
	// Next is the care-of address that the home agent is being told of, on link NextIf; invalid = none.
	Next   netip.Addr
	NextIf int
}

func (p *Place) equal(q *Place) bool {
	return p.At == q.At && p.Home == q.Home && p.Anchor == q.Anchor && p.Name == q.Name && p.CareOf == q.CareOf && p.If == q.If &&
		p.Tunnel == q.Tunnel && p.Until == q.Until && p.Next == q.Next && p.NextIf == q.NextIf && slices.Equal(p.Own, q.Own)
}

// Hooks is what the parent does for the machine. Past may be nil.
type Hooks struct {
	Session func() core.ID                    // a session id that was never used
	Past    func(what, reason, detail string) // the history of decisions
}

// Machine is the sub-machine.
type Machine struct {
	cfg     Config
	rand    io.Reader
	hooks   Hooks
	place   Place
	list    []*entry
	serial  core.Ref
	tests   rate.Bucket
	entries rate.Bucket
	watchAt time.Duration // of the next look at the counters; 0 = none
	asked   []core.ID     // whose counters are on their way
	counts  map[string]uint64
	stored  []byte // the record, as last written

	// of the call that runs
	now core.Now
	out []core.Effect
}

// New makes the sub-machine. rand gives cookies and first sequence numbers. An error is the config's.
func New(cfg Config, rand io.Reader, hooks Hooks) (*Machine, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	return &Machine{
		cfg: cfg, rand: rand, hooks: hooks, counts: map[string]uint64{},
	}, nil
}

// Effects with a Ref of ours come back to Handle.
const refBase core.Ref = 1 << 62

const refCount = refBase

// Ours says whether a Done or Answer with this Ref belongs to the machine.
func Ours(r core.Ref) bool { return r >= refBase && r < refBase<<1 }

// begin and end frame every call from outside.
func (m *Machine) begin(now core.Now, out []core.Effect) { m.now, m.out = now, out }

func (m *Machine) end() []core.Effect {
	m.record()
	out := m.out
	m.out = nil
	return out
}

// Locate tells where the node is; the parent calls it after everything that may have changed that.
func (m *Machine) Locate(now core.Now, p Place, out []core.Effect) []core.Effect {
	if p.equal(&m.place) {
		return out
	}
	m.begin(now, out)
	before := m.place
	m.place = p
	if before.Home.IsValid() && before.Home != p.Home {
		m.clear("another home address") // what correspondents hold was about the old one
	}
	for _, e := range m.list {
		if before.CareOf != p.CareOf && p.CareOf.IsValid() {
			e.another() // what went without answer there may be answered here
		}
	}
	if p.At == Away && p.CareOf.IsValid() {
		for _, r := range m.cfg.Correspondents {
			if a := r.Prefix.Addr(); r.Use == Always && m.find(a) == nil && m.reachable(a) {
				m.add(a).always = true
			}
		}
	}
	m.all()
	return m.end()
}

// Handle takes a Message of a correspondent, a Reported, and those Done and Answer whose Ref is one of ours; Tick serves what is due.
func (m *Machine) Handle(now core.Now, ev core.Event, out []core.Effect) []core.Effect {
	m.begin(now, out)
	switch ev := ev.(type) {
	case core.Message:
		m.message(&ev)
	case core.Reported:
		m.reported(&ev)
	case core.Done:
		m.done(&ev)
	case core.Answer:
		m.counted(&ev)
	case core.Tick:
		m.watch()
		m.all()
	}
	return m.end()
}

// Deadline is when Handle wants a Tick.
func (m *Machine) Deadline() (time.Duration, bool) {
	at := never
	for _, e := range m.list {
		at = min(at, e.deadline(m))
	}
	if m.watchAt > 0 {
		at = min(at, m.watchAt)
	}
	return at, at != never
}

const never = time.Duration(1<<63 - 1)

// all brings every entry forward, and removes those that are over.
func (m *Machine) all() {
	for _, e := range slices.Clone(m.list) {
		m.drive(e)
	}
}

// Farewell deletes what correspondents hold, as the node ends: by one Binding Update each, for nobody waits for answers. Where it is
// lost, or there is no good home keygen token, a binding ends by its lifetime. Stop comes next.
func (m *Machine) Farewell(now core.Now, out []core.Effect) []core.Effect {
	m.begin(now, out)
	for _, e := range m.list {
		if now.Boot < e.lives && !e.kept && m.place.At != Nowhere && e.home.fresh(now.Boot, m.place.Home) {
			m.sendFarewell(e)
		}
	}
	return m.end()
}

// Stop ends route optimization at once, as the node ends: the sessions go, what correspondents hold ends by its lifetime.
func (m *Machine) Stop(now core.Now, out []core.Effect) []core.Effect {
	m.begin(now, out)
	m.clear("stop")
	m.place, m.watchAt, m.asked = Place{}, 0, nil
	return m.end()
}

func (m *Machine) clear(why string) {
	for _, e := range slices.Clone(m.list) {
		m.remove(e, why)
	}
}

func (m *Machine) find(a netip.Addr) *entry {
	for _, e := range m.list {
		if e.peer == a {
			return e
		}
	}
	return nil
}

// reachable says whether an address can be a correspondent's: global, and neither the node's nor the home agent's (RFC 6275
// 11.3.1: never with link-local peers).
func (m *Machine) reachable(a netip.Addr) bool {
	return a.Is6() && ip.Routable(a) && a != m.place.Home && a != m.place.Anchor && !slices.Contains(m.place.Own, a)
}

// done takes the data plane's answer.
func (m *Machine) done(ev *core.Done) {
	i := slices.IndexFunc(m.list, func(e *entry) bool { return refBase+e.serial == ev.Ref })
	if i < 0 || ev.Err == nil {
		return
	}
	e := m.list[i]
	e.told = told{} // nobody knows what it took: the session goes, and comes anew after the wait
	m.out = append(m.out, core.Forward{Ops: []core.Op{core.Drop{ID: e.id}}})
	e.id = m.hooks.Session()
	m.counts["failed-forwarding"]++
	m.emit(core.Emit{Name: "failed", ID: e.id, Why: "forwarding", Fields: map[string]any{"correspondent": e.peer.String(), "err": ev.Err.Error()}})
	m.fail(e, wire.ForwardingFailed)
	m.drive(e)
}

func (m *Machine) emit(e core.Emit) { m.out = append(m.out, e) }

func (m *Machine) past(what, reason, detail string) {
	if m.hooks.Past != nil {
		m.hooks.Past(what, reason, detail)
	}
}

func (m *Machine) count(r wire.Reason) { m.counts[string(r)]++ }

// ignored counts a message that changes nothing.
func (m *Machine) ignored(p *core.Path, r wire.Reason, detail string) {
	m.count(r)
	f := map[string]any{"peer": p.Remote.Addr().String(), "layer": "signalling"}
	if detail != "" {
		f["err"] = detail
	}
	m.emit(core.Emit{Name: "message-ignored", Why: string(r), Fields: f})
}
