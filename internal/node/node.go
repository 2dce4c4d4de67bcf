package node

import (
	"errors"
	"io"
	"net/netip"
	"time"

	"kedge/internal/access"
	"kedge/internal/core"
	"kedge/internal/node/discovery"
	"kedge/internal/node/movement"
	"kedge/internal/node/optimize"
	"kedge/internal/peer"
	"kedge/internal/rate"
	"kedge/wire"
	"kedge/wire/ip"
	"kedge/wire/mobility"
	"kedge/wire/nd"
)

// Machine is the mobile node; a core.Machine.
type Machine struct {
	cfg    Config
	rand   io.Reader
	move   watcher
	secret []byte // of interface identifiers
	since  time.Time

	state      state
	stateAt    time.Duration
	stateSince time.Time
	ha         homeAgent
	agents     *discovery.Agents
	prefixes   *discovery.Prefixes
	also       []*also      // other home addresses
	resolving  core.Ref     // of the last question to name servers
	parting    *parting     // nil: no former home agent is being left
	offered    netip.Prefix // of the home network, that the config does not name
	silence    silence
	quiet      time.Duration // until then what anybody can send is counted, and not told
	unnamed    string        // why the name of the home agent is not resolved
	home6      netip.Prefix  // home address with the length of its prefix
	bind       binding
	router     router
	behind     []netip.Prefix // mobile networks, by the home agent, of the binding
	unserved   []string       // IPv4 networks, and why
	session    session
	ends       []core.Endpoint // as the security policy has them
	endsAt     time.Duration   // when they are told again
	path       path
	race       race
	rate       rate.Updates // of Binding Updates
	nets       memory
	host       hostState

	seq          uint16        // of the last Binding Update
	acked        uint16        // of the newest one that was acknowledged
	sent         []sent        // without an acknowledgement, newest last
	stamps       stamps        // of Binding Updates
	tries        int           // refusals in a row
	resyncs      int           // corrections of the sequence number in a row
	unverified   int           // Binding Updates in a row that the home agent could not authenticate (RFC 4285 5.3)
	unverifiedAt time.Duration // when it said so last
	deaf         int           // registrations in a row whose tunnel never answered an echo
	echoes       bool          // the home agent answers them
	retryAt      time.Duration // after a refusal
	barred       bool          // refused for good: only core.Roam ends it
	// recheckAt is when a care-of address that is avoided may be tried again.
	recheckAt  time.Duration
	livesUntil time.Duration // until then the home agent may have a binding
	probeSeq   uint16
	doubted    time.Duration // last sign of a dead path
	told       time.Duration // last answer to a message that is not understood
	reason     wire.Reason   // of the last refusal
	seen       []key         // care-of addresses at the last look
	noted      string        // warning that was given about them
	no4        bool          // there are IPv4 care-of addresses that cannot be used
	preferred  string        // link that core.Roam asked for
	lostAt     time.Duration // since when there is no service; never = there is
	served     bool

	given4     netip.Prefix // dynamic IPv4 home address
	without4   netip.Addr   // home agent that does not know the IPv4 Home Address option
	why4       string       // why there is no IPv4 home address
	refusesUDP bool         // status 144: no F flag

	opt      *optimize.Machine // nil: no correspondent is ever told
	peer     *peer.Machine     // nil: no correspondent of others
	peerAt   netip.Addr        // home address that it has bindings for
	homeIf   int               // home link while the node is there
	homeAt   movement.CareOf
	stopRefs []core.Ref

	restart  uint32
	sessions uint64
	history  []core.Past
	counts   map[string]uint64
	strict   bool // panic at an illegal change of state: tests

	// of the Handle that runs
	now core.Now
	out []core.Effect
}

// watcher is what the node needs of package movement.
type watcher interface {
	core.Machine
	CareOfs() []movement.CareOf
	Changed() bool
	AtHome() (movement.CareOf, bool)
	SetHome(home []netip.Addr, prefix netip.Prefix)
	ValidUntil(ifi int, a netip.Addr) time.Duration
	Confirm(now core.Now, a netip.Addr)
	Suspect(now core.Now, a netip.Addr, out []core.Effect) []core.Effect
	ExpectHome(now core.Now, ifi int, addrs []netip.Prefix, out []core.Effect) []core.Effect
	ClaimHome(now core.Now, ifi int, addrs []netip.Prefix, out []core.Effect) []core.Effect
	ReleaseHome(now core.Now, out []core.Effect) []core.Effect
	Close(now core.Now, out []core.Effect) []core.Effect
	Counters() map[string]uint64
}

// New makes a node. rand gives what is not remembered: the first sequence number, the secret of interface identifiers,
// tokens of echoes. Errors are the config's, or rand's.
func New(cfg Config, rand io.Reader) (*Machine, error) {
	if err := cfg.validate(); err != nil {
		return nil, err
	}
	m := &Machine{
		cfg: cfg, ha: homeAgent{name: cfg.Anchor.Name, protection: cfg.Anchor.Protection, guarded: cfg.Anchor.Guarded}, home6: cfg.Home.V6,
		rand: rand, restart: cfg.Restart, retryAt: never, recheckAt: never, endsAt: never, lostAt: never, doubted: -time.Second, told: -time.Second,
		counts: map[string]uint64{},
		host:   hostState{set: map[string]core.HostOp{}, pending: map[core.Ref]string{}, failed: map[string]bool{}, retryAt: never},
	}
	var b [36]byte
	if _, err := io.ReadFull(rand, b[:]); err != nil {
		return nil, err
	}
	m.seq = uint16(b[0])<<8 | uint16(b[1])
	m.acked, m.probeSeq = m.seq, uint16(b[2])<<8|uint16(b[3])
	m.prefixes = discovery.NewPrefixes(cfg.Home.V6, cfg.Home.allows, rand)
	m.newAgents()
	if err := m.newOptimizer(); err != nil {
		return nil, err
	}
	return m, m.watch(b[4:])
}

// watch makes the sub-machine that watches the links.
func (m *Machine) watch(secret []byte) error {
	c := movement.Config{
		Home: m.homeAddrs(), HomePrefix6: m.home6.Masked(), Secret: secret, Table: m.cfg.Table + 100, HomeTable: m.cfg.Table,
		NoOptimistic: m.cfg.NoOptimistic, Router: len(m.cfg.Home.Networks) > 0,
	}
	for _, l := range m.cfg.Links {
		c.Links = append(c.Links, movement.Pattern{Match: l.Match, Prefer: l.Prefer, V4: l.Families.V4, V6: l.Families.V6})
	}
	move, err := movement.New(c, m.rand)
	if err == nil {
		m.move, m.secret = move, secret
	}
	return err
}

// start begins when the store has told everything. The tunnel of an earlier run goes on.
func (m *Machine) start() {
	m.setState(detached, "started")
	m.forward()
	m.configure()
	m.persist()
	if m.opt != nil {
		m.out = m.opt.Start(m.now, m.out)
	}
}

// Handle takes one event.
func (m *Machine) Handle(now core.Now, ev core.Event, out []core.Effect) []core.Effect {
	late := time.Duration(0)
	if at, ok := m.Deadline(); ok && m.state != starting {
		late = now.Boot - at
	}
	m.now, m.out = now, out
	if m.since.IsZero() {
		m.since = now.Wall
	}
	switch ev := ev.(type) {
	case core.Tick:
		m.out = m.move.Handle(now, ev, m.out)
	case core.Message:
		m.message(&ev)
	case core.HostChanged:
		m.out = m.move.Handle(now, ev, m.out)
	case core.Done:
		m.done(&ev)
	case core.Reported:
		if m.corresponds(ev) || m.optimizes(ev) {
			break
		}
		m.count(wire.Reason(ev.Reason))
		m.doubt()
	case core.Command:
		m.command(&ev)
	case core.Restored:
		m.restored(&ev)
	case core.Answer:
		if !m.optimizes(ev) && m.state != starting && m.state != stopped {
			m.resolved(&ev)
		}
	}
	if late > slept {
		m.resumed(late)
	}
	m.tick()
	if m.move.Changed() {
		if m.state != starting && m.state != stopped {
			m.agents.Moved(m.now.Boot, m.asksFrom())
		}
		m.evaluate("care-of addresses changed")
		m.configure()
	}
	m.locate()
	m.corresponds(core.Tick{})
	m.optimizes(core.Tick{})
	m.endpoints()
	out, m.out = m.out, nil
	return out
}

// slept is how late a timer must be for the node to conclude that the machine, or the process, did not run.
const slept = 2 * time.Second

// deadlines of the machine itself.
func (m *Machine) deadline() time.Duration {
	at := min(m.retryAt, m.recheckAt, m.host.retryAt, m.endsAt)
	switch m.state {
	case home, returning, stopping:
	default:
		at = min(at, m.agents.Deadline(), m.silentAt())
	}
	if m.parting != nil {
		at = min(at, m.parting.next)
	}
	at = min(at, m.alsoAt(), m.prefixes.Deadline(m.solicits()))
	for i := range m.race.attempts {
		at = min(at, m.race.attempts[i].next)
		if ask := m.race.attempts[i].ask; ask > 0 {
			at = min(at, ask)
		}
	}
	if m.bound() {
		at = min(at, m.bind.expires)
	}
	if m.state == active {
		at = min(at, m.bind.refreshAt)
	}
	if m.path.next > 0 {
		at = min(at, m.path.next)
	}
	if m.path.search.next > 0 {
		at = min(at, m.path.search.next)
	}
	if m.session.retry > 0 {
		at = min(at, m.session.retry)
	}
	if m.cfg.Unreachable == Pass && m.lostAt != never && m.served && !m.passing() {
		at = min(at, m.lostAt+m.cfg.Timers.DeadPath)
	}
	return at
}

// Deadline is the earliest of all timers.
func (m *Machine) Deadline() (time.Duration, bool) {
	if m.state == starting || m.state == stopped {
		return 0, false
	}
	at := m.deadline()
	if d, ok := m.move.Deadline(); ok {
		at = min(at, d)
	}
	if m.opt != nil {
		if d, ok := m.opt.Deadline(); ok {
			at = min(at, d)
		}
	}
	if m.peer != nil {
		if d, ok := m.peer.Deadline(); ok {
			at = min(at, d)
		}
	}
	return at, at != never
}

// tick serves the timers that are due.
func (m *Machine) tick() {
	if m.state == starting || m.state == stopped {
		return
	}
	now := m.now.Boot
	if m.bound() && m.bind.expires <= now {
		m.expire()
	}
	if m.state == active && m.bind.refreshAt <= now {
		m.requested("refresh")
	}
	if m.session.retry > 0 && m.session.retry <= now {
		m.forward()
	}
	if m.path.next > 0 && m.path.next <= now {
		m.probeDue()
	}
	if m.path.search.next > 0 && m.path.search.next <= now {
		m.searchDue()
	}
	if m.retryAt <= now {
		m.retryAt = never
		m.evaluate("retry")
	}
	if m.recheckAt <= now {
		m.recheckAt = never
		m.evaluate("a care-of address may work again")
	}
	m.discover()
	m.partDue()
	m.sendDue()
	m.askDue()
	m.renumberDue()
	m.withoutAnswer()
	if m.host.retryAt <= now {
		m.host.retryAt = never
		m.configure()
	} else if m.cfg.Unreachable == Pass && m.passing() {
		m.configure()
	}
}

// message takes what came from a link, or from the home agent.
func (m *Machine) message(ev *core.Message) {
	if _, frame := ev.Body.(*access.Frame); frame || !ev.Path.Remote.IsValid() {
		m.out = m.move.Handle(m.now, *ev, m.out)
		return
	}
	if m.state == starting || m.state == stopped {
		return
	}
	if ev.Err != nil {
		if raw, ok := ev.Body.(*mobility.Raw); ok && raw != nil {
			m.unrecognized(&ev.Path)
		}
		m.ignored(&ev.Path, wire.ReasonOf(ev.Err), ev.Err.Error())
		return
	}
	if e, ok := ev.Body.(*ip.Echo); ok {
		m.echoed(&ev.Path, e)
		return
	}
	switch b := ev.Body.(type) { // of others than the home agent in use
	case *nd.HomeAgentAddressDiscoveryReply:
		m.replied(&ev.Path, b)
		return
	case *mobility.HomeAgentSwitch:
		m.switched(&ev.Path, b)
		return
	case *mobility.BindingAck:
		if m.partAcked(&ev.Path, b) {
			return
		}
	}
	if m.optimizes(*ev) || m.corresponds(*ev) {
		return
	}
	if ev.Path.Remote.Addr() != m.ha.v6 {
		m.ignored(&ev.Path, wire.UnknownPeer, "")
		return
	}
	switch b := ev.Body.(type) {
	case *mobility.BindingAck:
		m.acknowledged(&ev.Path, b)
	case *mobility.BindingRefreshRequest:
		m.refreshRequest(&ev.Path)
	case *mobility.BindingError:
		m.bindingError(&ev.Path, b)
	case *nd.MobilePrefixAdvertisement:
		m.advertised(&ev.Path, b)
	default:
		m.ignored(&ev.Path, wire.UnsupportedMessage, "")
	}
}

// done takes the results of effects.
func (m *Machine) done(ev *core.Done) {
	if ev.Err != nil {
		m.endpointsAgain()
	}
	switch {
	case m.optimizes(*ev):
	case movement.Ours(ev.Ref):
		m.out = m.move.Handle(m.now, *ev, m.out)
	case ev.Ref == refForward:
		m.forwarded(ev.Err)
	case ev.Ref > refChange:
		m.changed(ev.Ref, ev.Err)
	case ev.Err != nil:
		m.unsent(ev.Err)
	}
}

// unsent takes what became of messages that could not be sent, of which err may join several. That an echo which asks what the path
// carries is too large for it is no failure: its answer will not come.
func (m *Machine) unsent(err error) {
	for e := err; e != nil; e = errors.Unwrap(e) {
		if joined, ok := e.(interface{ Unwrap() []error }); ok {
			for _, e := range joined.Unwrap() {
				m.unsent(e)
			}
			return
		}
	}
	if errors.Is(err, core.ErrTooLarge) {
		m.count(wire.TooBig)
		return
	}
	m.failed("effect", err)
}
