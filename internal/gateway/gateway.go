package gateway

import (
	"encoding/binary"
	"io"
	"net/netip"
	"slices"
	"time"

	"kedge/internal/access"
	"kedge/internal/core"
	"kedge/internal/heartbeat"
	"kedge/internal/rate"
	"kedge/wire"
	"kedge/wire/mobility"
)

// Machine is the gateway; a core.Machine.
type Machine struct {
	cfg     Config
	rand    io.Reader
	since   time.Time
	links   []*link
	anchors []*anchor
	monitor *heartbeat.Monitor
	restart uint32 // counter of RFC 5847 3.2
	run     uint32 // in session ids: another one at every start
	before  before

	seed     uint32
	profiles map[string]Profile
	hosts    map[core.MAC]*entry
	byID     map[string][]*entry     // sessions of an MN-Identifier
	owners   map[netip.Prefix]*entry // of keys in the data plane
	due      dueQueue
	sessions uint64 // number of the last session
	seq      uint16 // of the last update, with timestamps
	pending  int    // requests without an answer
	states   [gone]int

	known   memory
	absent  absent
	past_   history
	refs    core.Ref
	waiting map[core.Ref]*handover // Forward effects whose result is not there yet
	changed []*entry               // whose records may be out of date
	counts  map[string]uint64
	limits  limits
	strict  bool // panic at an illegal change of state: tests

	// of the Handle that runs
	now core.Now
	out []core.Effect
}

// limits are the rates of Config.Limits.
type limits struct {
	newHosts rate.Limit // of a link
	triggers rate.Limit // of a stranger, and of a host's moves
	caused   rate.Limit // of registrations, by a host
}

// link is one access link.
type link struct {
	Access
	home           *access.HomeLink
	hosts          int
	down           bool
	downAt         time.Duration // since when, if down and its hosts are still there; else never
	newHosts       rate.Bucket
	strangers      [4096]rate.Bucket // by Machine.slot
	victims        []*entry          // of evict, the one silent for longest in front
	looked         time.Duration     // when evict last looked through the table, or never
	attach, detach map[string]bool
}

// New makes a gateway. rand gives sequence numbers and spreads timers.
func New(cfg Config, rand io.Reader) (*Machine, error) {
	if err := cfg.validate(); err != nil {
		return nil, err
	}
	m := &Machine{
		cfg: cfg, rand: rand, restart: cfg.Restart, run: cfg.Restart,
		hosts: map[core.MAC]*entry{}, byID: map[string][]*entry{}, owners: map[netip.Prefix]*entry{}, waiting: map[core.Ref]*handover{}, counts: map[string]uint64{},
		past_: newHistory(),
		limits: limits{
			newHosts: rate.PerSecond(cfg.Limits.NewHosts, 2*cfg.Limits.NewHosts), triggers: rate.PerSecond(cfg.Limits.Triggers, cfg.Limits.Triggers),
			caused: rate.PerSecond(min(cfg.Limits.Triggers, MaxUpdateRate), MaxUpdateRate),
		},
	}
	m.known = newMemory(cfg.Limits.Hosts, m.unlearn)
	m.seed, m.seq = m.random(), uint16(m.random())
	m.profiles = make(map[string]Profile, len(cfg.Profiles))
	for _, p := range cfg.Profiles {
		m.profiles[p.ID] = p
	}
	m.monitor = heartbeat.New(cfg.Heartbeat, m.restart, rand)
	for _, a := range cfg.Anchors {
		m.anchors = append(m.anchors, newAnchor(a))
	}
	for _, a := range cfg.Access {
		l := &link{
			Access: a, home: access.NewHomeLink(a.Link, rand), down: a.Down, downAt: never, looked: never, attach: words(a.AttachOn), detach: words(a.DetachOn),
		}
		m.links = append(m.links, l)
	}
	return m, nil
}

func words(ws []string) map[string]bool {
	set := make(map[string]bool, len(ws))
	for _, w := range ws {
		set[w] = true
	}
	return set
}

// Handle takes one event.
func (m *Machine) Handle(now core.Now, ev core.Event, out []core.Effect) []core.Effect {
	m.now, m.out = now, out
	if m.since.IsZero() {
		m.since = now.Wall
	}
	switch ev := ev.(type) {
	case core.Tick:
		m.tick()
	case core.Message:
		m.message(&ev)
	case core.Reported:
		m.reported(&ev)
	case core.Seen:
		m.seen(&ev)
	case core.HostChanged:
		m.hostChanged(&ev)
	case core.Command:
		m.command(&ev)
	case core.Done:
		m.done(&ev)
	case core.Restored:
		m.restored(&ev)
	}
	m.record()
	out = m.out
	m.out = nil
	return out
}

// Deadline is the earliest of all timers.
func (m *Machine) Deadline() (time.Duration, bool) {
	at := never
	if len(m.due) > 0 {
		at = m.due[0].next
	}
	if d, ok := m.monitor.Deadline(); ok {
		at = min(at, d)
	}
	for _, l := range m.links {
		if d, ok := l.home.Deadline(); ok {
			at = min(at, d)
		}
		if l.downAt != never {
			at = min(at, l.downAt+m.cfg.Timers.LinkGrace)
		}
	}
	return at, at != never
}

func (m *Machine) tick() {
	for _, l := range m.links {
		if l.downAt != never && m.now.Boot >= l.downAt+m.cfg.Timers.LinkGrace {
			m.linkLost(l)
		}
		if d, ok := l.home.Deadline(); ok && d <= m.now.Boot {
			m.carryOut(l, l.home.Tick(m.now, nil))
		}
	}
	for len(m.due) > 0 && m.due[0].next <= m.now.Boot {
		m.expired(m.due[0])
	}
	m.tickAnchors()
}

// expired runs the one timer of an entry that is due first.
func (m *Machine) expired(e *entry) {
	kind := timer(slices.Index(e.at[:], e.next))
	m.disarm(e, kind)
	switch kind {
	case tSend:
		m.unanswered(e)
	case tRefresh:
		m.refresh(e)
	case tExpire:
		m.expire(e)
	case tRetry:
		m.register(e, "retry")
	case tProbe:
		m.probe(e)
	case tIdle:
		m.idled(e)
	case tRevoke:
		m.left(e)
	}
}

// message takes what came from a link or from the core network.
func (m *Machine) message(ev *core.Message) {
	if f, ok := ev.Body.(*access.Frame); ok {
		switch {
		case f != nil:
			m.frame(ev, f)
		case ev.Err != nil:
			m.count(wire.ReasonOf(ev.Err)) // not even an Ethernet header
		}
		return
	}
	from := ev.Path.Remote.Addr()
	a := m.anchorAt(from)
	if ev.Err != nil {
		raw, isRaw := ev.Body.(*mobility.Raw)
		if a != nil && isRaw && raw != nil && wire.ReasonOf(ev.Err) == wire.UnknownType {
			m.unsupported(a, raw)
			return
		}
		m.ignored(from, "", wire.ReasonOf(ev.Err), ev.Err.Error())
		return
	}
	if hb, ok := ev.Body.(*mobility.Heartbeat); ok && !m.cfg.HeartbeatOff {
		m.heartbeat(a, from, hb)
		return
	}
	if a == nil || ev.Path.Local.Addr() != m.cfg.Address {
		m.ignored(from, "", wire.UnknownPeer, "")
		return
	}
	switch b := ev.Body.(type) {
	case *mobility.BindingAck:
		m.answer(a, b)
	case *mobility.BindingError:
		m.bindingError(a, b)
	case *mobility.Revocation:
		if m.cfg.NoRevocation {
			m.unsupported(a, b)
			return
		}
		m.revocation(a, b)
	case mobility.Message:
		m.unsupported(a, b)
	default:
		m.ignored(from, "", wire.UnsupportedMessage, "")
	}
}

// carryOut does what a home link wants.
func (m *Machine) carryOut(l *link, acts []access.Action) {
	for _, a := range acts {
		switch a := a.(type) {
		case access.Transmit:
			m.out = append(m.out, core.Send{Path: core.Path{If: l.Link.If}, Body: a.Frame})
		case access.Attached:
			m.sighted(l, a.MAC, sighting{by: a.By, addr: a.Addr, hint: a.Hint, wants: a.Wants, arriving: a.Arriving, answer: a.Answer})
		case access.Renewed:
			m.renewed(l, a.MAC)
		case access.Released:
			m.released(l, a.MAC, "dhcp release")
		case access.Declined:
			m.count(wire.AddressDeclined)
			m.released(l, a.MAC, "dhcp decline of "+a.Addr.String())
		case access.Refused:
			m.count(wire.Reason(a.Reason))
			m.emit(core.Emit{Name: "message-ignored", Why: a.Reason, Fields: map[string]any{
				"if": l.Link.Name, "mac": a.MAC.String(), "err": a.Detail, "layer": "access"}})
		}
	}
}

func (m *Machine) emit(e core.Emit) { m.out = append(m.out, e) }

func (m *Machine) count(r wire.Reason) { m.counts[string(r)]++ }

// ignored counts a signalling message that changes nothing.
func (m *Machine) ignored(from netip.Addr, mn string, r wire.Reason, detail string) {
	m.count(r)
	f := map[string]any{"peer": from.String(), "layer": "signalling"}
	if mn != "" {
		f["sub"] = mn
		m.past(mn, "message ignored", string(r), detail)
	}
	if detail != "" {
		f["err"] = detail
	}
	m.emit(core.Emit{Name: "message-ignored", Why: string(r), Fields: f})
}

// random gives 32 bits; a source that fails gives zeros, which costs the spread of timers and nothing else.
func (m *Machine) random() uint32 {
	var b [4]byte
	_, _ = io.ReadFull(m.rand, b[:])
	return binary.BigEndian.Uint32(b[:])
}

// spread is a random time in [0, d).
func (m *Machine) spread(d time.Duration) time.Duration {
	return time.Duration(float64(d) * (float64(m.random()) / (1 << 32)))
}
