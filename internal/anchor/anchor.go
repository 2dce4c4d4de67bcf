// Package anchor is the anchor's machine: the local mobility anchor of Proxy Mobile IPv6 with IPv4 home addresses, and the
// home agent of Dual Stack Mobile IPv6.
//
// Supported: RFC 5213 section 5 and 9.1, RFC 5844 section 3.1, RFC 4283, RFC 5846 for handovers, RFC 5847, RFC 6543, RFC
// 6275 9.2, 9.3.3 and 9.5.1 as far as they apply to proxy registrations, and section 3.3 of
// draft-ietf-netlmm-pmip6-ipv4-support-02. Both dialects of IPv4 options are read and answered in kind.
//
// For nodes that register by themselves: RFC 6275 10.1 to 10.4.1 and RFC 5555 as package homeagent says. Host and proxy
// registrations of a subscriber never overwrite each other (RFC 6612 4.2): packets to an address that both have go to the
// node, as long as it is registered.
//
// What is left out: transport of proxy registrations over IPv4 and NAT, GRE keys and the TLV header.
//
// The protocols' rules are in sub-packages lma and homeagent; the binding cache is package binding; addresses come from
// package pool; who may have what is package subscriber. This package joins them and owns what changes: sessions and
// their state, requests that wait, gateways, and what is not yet durable. One goroutine uses a Machine.
package anchor

import (
	"errors"
	"io"
	"slices"
	"time"

	"github.com/gaissmai/bart"

	"kedge/internal/anchor/lma"
	"kedge/internal/anchor/revocation"
	"kedge/internal/binding"
	"kedge/internal/core"
	"kedge/internal/heartbeat"
	"kedge/internal/pool"
	"kedge/internal/subscriber"
	"kedge/wire"
)

// Dialect is a format of the IPv4 options.
type Dialect = lma.Dialect

const (
	RFC5844 = lma.RFC5844 // options 36, 37, 38, 39
	Draft02 = lma.Draft02 // options 29, 30 of draft-ietf-netlmm-pmip6-ipv4-support-02
)

// Machine is the anchor, a core.Machine.
type Machine struct {
	cfg      Config
	rand     io.Reader
	dialects lma.Dialects

	subs  *subscriber.Directory
	pools *pool.Set
	cache *binding.Cache
	count [4]int // sessions by state

	hosts        hosts
	domains      []core.Domain   // where subscribers are, in order
	routers      bool            // some have mobile networks
	homeNetworks bart.Lite       // around the home addresses of profiles
	shared       map[homeKey]int // IPv4 home addresses that several registrations of one subscriber have: how many beside one

	peers    *peers
	gateways gateways
	watch    *heartbeat.Monitor // nil until restored

	discovery discovery

	waiting waiting
	flights flights
	store   storeState

	revocations *revocation.Initiator

	refused map[wire.Reason]uint64
	past    history
	since   time.Time
	notes   []string
	view    view

	// Of the Handle that runs.
	now core.Now
	out []core.Effect
}

// New makes an anchor. rand chooses heartbeat sequence numbers and jitter. The error names what is wrong with cfg.
func New(cfg Config, rand io.Reader) (*Machine, error) {
	cfg, err := cfg.withDefaults()
	if err != nil {
		return nil, err
	}
	if rand == nil {
		return nil, errors.New("anchor: no source of randomness")
	}
	m := &Machine{
		cfg: cfg, rand: rand, dialects: lma.DialectSet(cfg.PMIP6.Dialects...),
		cache: binding.New(), refused: make(map[wire.Reason]uint64),
		hosts: newHosts(&cfg), shared: make(map[homeKey]int), waiting: newWaiting(), flights: newFlights(), gateways: newGateways(), revocations: revocation.New(cfg.Revocation, rand),
	}
	if m.subs, err = subscriber.New(cfg.Subscribers); err != nil {
		return nil, err
	}
	if m.pools, err = pool.NewSet(cfg.Pools); err != nil {
		return nil, err
	}
	if m.peers, err = newPeers(cfg); err != nil {
		return nil, err
	}
	m.newDiscovery()
	m.reserveOwn()
	if err := m.reserveStatic(); err != nil {
		return nil, err
	}
	return m, nil
}

// Handle is core.Machine's.
func (m *Machine) Handle(now core.Now, ev core.Event, out []core.Effect) []core.Effect {
	m.now, m.out = now, out
	switch ev := ev.(type) {
	case core.Restored:
		m.restored(ev)
	case core.Message:
		m.message(&ev)
	case core.Tick:
		m.tick()
	case core.Done:
		m.done(ev)
	case core.Reported:
		m.reported(ev)
	case core.Command:
		m.command(ev)
	}
	out, m.out = m.out, nil
	return out
}

// Deadline is core.Machine's: the next end of a lifetime or of a wait, and the next heartbeat.
func (m *Machine) Deadline() (at time.Duration, ok bool) {
	earlier := func(d time.Duration, set bool) {
		if set && (!ok || d < at) {
			at, ok = d, true
		}
	}
	_, next, any := m.cache.Next()
	earlier(next, any)
	earlier(m.waiting.next())
	earlier(m.hosts.table.Next())
	if m.hosts.link != nil {
		earlier(m.hosts.link.Deadline())
	}
	m.discoveryDeadline(earlier)
	earlier(m.store.heldUntil, m.store.held)
	earlier(m.flights.retryAt, m.flights.waits())
	earlier(m.revocations.Deadline())
	if m.watch != nil {
		earlier(m.watch.Deadline())
	}
	return at, ok
}

// maxDue is how many deadlines one Tick takes: the rest come with the next one, which is due at once, so that requests
// are served in between.
const maxDue = 1024

// tick does what is due.
func (m *Machine) tick() {
	for range maxDue {
		i, at, ok := m.cache.Next()
		if !ok || at > m.now.Boot {
			break
		}
		m.due(i)
	}
	for w := m.waiting.due(m.now); w != nil; w = m.waiting.due(m.now) {
		m.resume(w, "max-delay-over")
	}
	if m.store.held && m.store.heldUntil <= m.now.Boot {
		m.store.held = false
		m.emit(core.Emit{Name: "store", From: "held", To: "ready", Why: "lifetime-max-over"})
	}
	m.tickLink()
	m.tickDiscovery()
	m.dueHosts()
	m.endAgain()
	m.revokeAgain()
	m.beat()
}

func (m *Machine) emit(e core.Emit)     { m.out = append(m.out, e) }
func (m *Machine) effect(e core.Effect) { m.out = append(m.out, e) }

// drop counts and reports a message that gets no answer.
func (m *Machine) drop(r wire.Reason, f Fields) {
	m.refused[r]++
	f.Reason = string(r)
	m.emit(core.Emit{Name: "message-ignored", Why: string(r), Fields: f})
}

// note is a warning of the status, each once.
func (m *Machine) note(s string) {
	const most = 64 // a warning that is always new must not fill the memory
	if len(m.notes) < most && !slices.Contains(m.notes, s) {
		m.notes = append(m.notes, s)
	}
}
