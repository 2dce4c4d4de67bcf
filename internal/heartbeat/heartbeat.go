// Package heartbeat watches the peers of an anchor or a gateway: RFC 5847, failure detection (3.1) and restart detection
// (3.2). A Monitor is a sub-machine: its parent hands it heartbeats and ticks, and sends what it returns. It has no I/O,
// no clock and no lock; one goroutine uses it.
//
// Add a peer while there is at least one session with it and Remove it after the last one: requests SHOULD NOT be sent
// otherwise (RFC 5847 3). Requests are answered whoever asks, also without a session, as the RFC demands.
//
// The transport over IPv4 (RFC 5847 4) is the parent's matter.
package heartbeat

import (
	"cmp"
	"encoding/binary"
	"io"
	"net/netip"
	"time"

	"kedge/internal/core"
	"kedge/internal/due"
	"kedge/wire/mobility"
)

// RFC 5847 5.
const (
	DefaultInterval   = 60 * time.Second // HEARTBEAT_INTERVAL; SHOULD be between 30 and 3600 s
	DefaultMaxMissing = 3                // MISSING_HEARTBEATS_ALLOWED
)

// MaxPeers limits the peers of one Monitor, those included that were removed but do not understand heartbeats.
const MaxPeers = 65536

// Config of a Monitor. Zero values mean the RFC's defaults.
type Config struct {
	// Interval between two requests to a peer.
	Interval time.Duration
	// Timeout is the time from an unanswered request to the next one, to notice a dead peer sooner than after
	// (MaxMissing+1) intervals. 0, or more than Interval, is Interval: plain RFC 5847.
	Timeout time.Duration
	// MaxMissing is how many answers in a row may be missing; one more and the peer is dead.
	MaxMissing int
}

// Kind of News.
type Kind uint8

const (
	Alive     Kind = iota + 1 // first answer ever, or the first after Dead
	Dead                      // more than MaxMissing answers are missing
	Restarted                 // the restart counter changed: the peer lost its sessions
)

func (k Kind) String() string {
	switch k {
	case Alive:
		return "alive"
	case Dead:
		return "dead"
	case Restarted:
		return "restarted"
	}
	return "unknown"
}

// News is what a parent must know about a peer. Old and New are the peer's restart counters, for Restarted.
type News struct {
	Peer     netip.Addr
	Kind     Kind
	Old, New uint32
}

// Outgoing is a request to be sent.
type Outgoing struct {
	Peer    netip.Addr
	Message *mobility.Heartbeat
}

// Monitor is the heartbeat state of one node towards all its peers.
type Monitor struct {
	cfg     Config
	restart uint32
	rand    io.Reader
	peers   map[netip.Addr]*peer
	due     due.Queue[*peer]
	ignored uint64
}

// peer is one watched node. Waiting: a request is out and unanswered; its number is sequence.
type peer struct {
	addr        netip.Addr
	sequence    uint32
	waiting     bool
	missing     int // MISSING_HEARTBEAT
	alive       bool
	dead        bool // told
	unsupported bool // answered with Binding Error 2: never ask again
	known       bool // restarts is valid
	restarts    uint32
	last        time.Time
	next        time.Duration
	index       int // in due, -1 = not there
}

// New makes a Monitor that reports restart as its own restart counter. rand spreads the first requests and chooses
// sequence numbers.
func New(cfg Config, restart uint32, rand io.Reader) *Monitor {
	if cfg.Interval <= 0 {
		cfg.Interval = DefaultInterval
	}
	if cfg.Timeout <= 0 || cfg.Timeout > cfg.Interval {
		cfg.Timeout = cfg.Interval
	}
	if cfg.MaxMissing <= 0 {
		cfg.MaxMissing = DefaultMaxMissing
	}
	return &Monitor{cfg: cfg, restart: restart, rand: rand, peers: make(map[netip.Addr]*peer), due: due.New(earlier, func(p *peer) *int { return &p.index })}
}

// Add watches a peer; nothing happens when it is watched already. The first request leaves within a tenth of the
// interval: soon, because a restart can be noticed only against a counter that is known, and spread, because many peers
// are added at once after a restart. False: MaxPeers are there, or the peer does not understand heartbeats.
func (m *Monitor) Add(now core.Now, addr netip.Addr) bool {
	if p := m.peers[addr]; p != nil {
		return !p.unsupported
	}
	if len(m.peers) >= MaxPeers {
		return false
	}
	p := &peer{addr: addr, sequence: m.random(), index: -1}
	p.next = now.Boot + time.Duration(float64(m.cfg.Interval/10)*float64(m.random())/(1<<32))
	m.peers[addr] = p
	m.due.Set(p)
	return true
}

// Remove ends watching a peer. That it does not understand heartbeats is remembered.
func (m *Monitor) Remove(addr netip.Addr) {
	p := m.peers[addr]
	if p == nil || p.unsupported {
		return
	}
	m.unschedule(p)
	delete(m.peers, addr)
}

// Handle takes a heartbeat that came from a peer. The reply, if any, goes back to it.
//
// A response that does not answer the last request changes nothing: it is old, repeated or forged.
func (m *Monitor) Handle(now core.Now, from netip.Addr, hb *mobility.Heartbeat) (reply *mobility.Heartbeat, news []News) {
	p := m.peers[from]
	if !hb.Response {
		if p != nil {
			p.last = now.Wall
		}
		return &mobility.Heartbeat{Response: true, Sequence: hb.Sequence, Options: m.counter()}, nil
	}
	if p == nil || p.unsupported || !hb.Unsolicited && (!p.waiting || hb.Sequence != p.sequence) {
		m.ignored++
		return nil, nil
	}
	p.last = now.Wall
	if !hb.Unsolicited {
		p.waiting, p.missing = false, 0
		// next was set to the request's time plus Timeout; answered, the whole interval counts from the request.
		m.schedule(p, p.next-m.cfg.Timeout+m.cfg.Interval)
		if !p.alive {
			p.alive, p.dead = true, false
			news = append(news, News{Peer: from, Kind: Alive})
		}
	}
	if c, ok := hb.Options.RestartCounter(); ok {
		if p.known && c.Value != p.restarts {
			news = append(news, News{Peer: from, Kind: Restarted, Old: p.restarts, New: c.Value})
		}
		p.known, p.restarts = true, c.Value
	}
	return nil, news
}

// Unsupported takes a Binding Error with status 2 (unrecognized MH type) from a peer. If a request is out, the peer does
// not understand heartbeats and is never asked again (RFC 5847 3); true then.
func (m *Monitor) Unsupported(addr netip.Addr) bool {
	p := m.peers[addr]
	if p == nil || !p.waiting {
		return false
	}
	m.unschedule(p)
	// It answered, so it is there: only its sessions are not watched.
	p.unsupported, p.waiting, p.missing, p.alive, p.dead = true, false, 0, true, false
	return true
}

// Announcement is the unsolicited response that a node which lost its sessions sends to all former peers, RFC 5847 3.2.
func (m *Monitor) Announcement() *mobility.Heartbeat {
	return &mobility.Heartbeat{Response: true, Unsolicited: true, Options: m.counter()}
}

// Tick sends the requests that are due and says who is dead by now.
func (m *Monitor) Tick(now core.Now) (send []Outgoing, news []News) {
	for p, ok := m.due.Min(); ok && p.next <= now.Boot; p, ok = m.due.Min() {
		if p.waiting {
			p.missing++
			if p.missing > m.cfg.MaxMissing && !p.dead {
				p.dead, p.alive = true, false
				news = append(news, News{Peer: p.addr, Kind: Dead})
			}
		}
		p.sequence++
		p.waiting = true
		send = append(send, Outgoing{Peer: p.addr, Message: &mobility.Heartbeat{Sequence: p.sequence}})
		m.schedule(p, now.Boot+m.cfg.Timeout)
	}
	return send, news
}

// Deadline is when Tick has something to do.
func (m *Monitor) Deadline() (time.Duration, bool) {
	p, ok := m.due.Min()
	if !ok {
		return 0, false
	}
	return p.next, true
}

// Status of a peer: whether it answered lately, its restart counter (0 until known), and when anything came from it.
func (m *Monitor) Status(addr netip.Addr) (alive bool, restarts uint32, last time.Time) {
	if p := m.peers[addr]; p != nil {
		return p.alive, p.restarts, p.last
	}
	return false, 0, time.Time{}
}

// Ignored counts responses that answered nothing.
func (m *Monitor) Ignored() uint64 { return m.ignored }

func (m *Monitor) counter() mobility.Options {
	return mobility.Options(nil).Add(mobility.RestartCounter{Value: m.restart})
}

func (m *Monitor) schedule(p *peer, at time.Duration) {
	p.next = at
	m.due.Set(p)
}

func (m *Monitor) unschedule(p *peer) { m.due.Remove(p) }

// earlier orders peers by their next request; equal times by address, so that runs can be repeated.
func earlier(a, b *peer) bool {
	if c := cmp.Compare(a.next, b.next); c != 0 {
		return c < 0
	}
	return a.addr.Less(b.addr)
}

// random gives 32 bits. A source that fails gives zeros: times are then not spread, and nothing else suffers.
func (m *Monitor) random() uint32 {
	var b [4]byte
	_, _ = io.ReadFull(m.rand, b[:])
	return binary.BigEndian.Uint32(b[:])
}
