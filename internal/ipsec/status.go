package ipsec

import (
	"cmp"
	"maps"
	"net/netip"
	"slices"
	"sync"
	"time"

	"kedge/internal/core"
	"kedge/wire"
)

// AuditRate is how many auditable events a second are told; strangers cause them at any rate. The rest is counted.
const AuditRate = 10

// tally counts what was refused and tells of it.
type tally struct {
	audit func(Audit)

	mu         sync.Mutex
	drops      map[wire.Reason]uint64
	second     time.Duration // when the current one began
	told       int           // in it
	suppressed uint64
}

// refuse counts a refused packet and tells of it.
func (e *Engine) refuse(now core.Now, t *Traffic, p *peer, spi uint32, seq uint64, r wire.Reason) {
	a := Audit{Now: now, Reason: r, SPI: spi, Sequence: seq, Local: t.Local, Remote: t.Remote}
	if p != nil {
		a.Peer = p.Name
	}
	e.tally.count(a)
}

func (y *tally) count(a Audit) {
	y.mu.Lock()
	if y.drops == nil {
		y.drops = make(map[wire.Reason]uint64)
	}
	y.drops[a.Reason]++
	if a.Now.Boot-y.second >= time.Second || a.Now.Boot < y.second {
		y.second, y.told = a.Now.Boot, 0
	}
	tell := y.audit != nil && y.told < AuditRate
	if tell {
		y.told++
		a.Suppressed, y.suppressed = y.suppressed, 0
	} else {
		y.suppressed++
	}
	y.mu.Unlock()
	if tell {
		y.audit(a)
	}
}

// warn tells always: warnings come once.
func (y *tally) warn(a Audit) {
	if y.audit != nil {
		y.audit(a)
	}
}

// Drops counts what was refused since New, by reason.
func (e *Engine) Drops() map[wire.Reason]uint64 {
	e.tally.mu.Lock()
	defer e.tally.mu.Unlock()
	return maps.Clone(e.tally.drops)
}

// PeerStatus is a peer as users see it. It holds no key material.
type PeerStatus struct {
	Name       string     `json:"name"`
	Protection Protection `json:"protection"`
	Tunnels    []Tunnel   `json:"tunnels,omitempty"`
	SAs        []SAStatus `json:"associations,omitempty"`
}

// Tunnel is what tunnel mode has for a home address at the moment.
type Tunnel struct {
	Home   netip.Addr `json:"home"`
	Local  netip.Addr `json:"local"`
	Remote netip.Addr `json:"remote"`
}

// SAStatus is one direction of a security association.
type SAStatus struct {
	Use       string   `json:"use"`
	Direction string   `json:"direction"` // in, out
	SPI       uint32   `json:"spi"`
	Suite     Suite    `json:"suite"`
	Sequence  uint64   `json:"sequence"` // the last sent, or the highest received
	Stored    uint64   `json:"stored"`   // up to which a restart goes on or refuses; 0 with negotiated keys
	Packets   uint64   `json:"packets"`
	Octets    uint64   `json:"octets"`
	Replayed  uint64   `json:"replayed,omitempty"`
	BadICV    uint64   `json:"bad_icv,omitempty"`
	Notes     []string `json:"notes,omitempty"`
}

// restartedPeer is how many refused packets in a row, each newer than the one before, look like a peer that lost its counter.
const restartedPeer = 3

// Status lists the peers in the order of the configuration.
func (e *Engine) Status() []PeerStatus {
	ins := map[*peer][]*inbound{}
	e.mu.RLock()
	for _, i := range e.spi {
		ins[i.peer] = append(ins[i.peer], i)
	}
	e.mu.RUnlock()
	all := make([]PeerStatus, 0, len(e.order))
	for _, p := range e.order {
		s := PeerStatus{Name: p.Name, Protection: p.Protection}
		e.policies.mu.RLock()
		for home, at := range p.ends {
			if end := at.Load(); end != nil {
				s.Tunnels = append(s.Tunnels, Tunnel{home, end.Local, end.Remote})
			}
		}
		e.policies.mu.RUnlock()
		slices.SortFunc(s.Tunnels, func(a, b Tunnel) int { return a.Home.Compare(b.Home) })
		slices.SortFunc(ins[p], func(a, b *inbound) int { return cmp.Or(cmp.Compare(a.use, b.use), cmp.Compare(a.spi, b.spi)) })
		for _, i := range ins[p] {
			s.SAs = append(s.SAs, i.status())
		}
		for u := range p.out {
			if o := p.out[u].Load(); o != nil {
				s.SAs = append(s.SAs, o.status())
			}
		}
		all = append(all, s)
	}
	return all
}

func (i *inbound) status() SAStatus {
	i.mu.Lock()
	defer i.mu.Unlock()
	s := SAStatus{Use: i.use.String(), Direction: "in", SPI: i.spi, Suite: i.suite, Sequence: i.win.top,
		Stored: i.stored.High + i.stored.Slack, Packets: i.packets, Octets: i.octets, Replayed: i.old, BadICV: i.badICV}
	if i.rising >= restartedPeer {
		s.Notes = append(s.Notes, "the peer may have lost its store: it sends sequence numbers that were used before. Make new keys for both sides")
	}
	if i.failed != nil {
		s.Notes = append(s.Notes, "replay state is not stored: "+i.failed.Error())
	}
	return s
}

func (o *outbound) status() SAStatus {
	o.mu.Lock()
	defer o.mu.Unlock()
	s := SAStatus{Use: o.use.String(), Direction: "out", SPI: o.spi, Suite: o.suite, Sequence: o.seq, Packets: o.packets, Octets: o.octets}
	if o.durable {
		s.Stored = o.reserved
		if !o.found {
			s.Notes = append(s.Notes, "began at 1: the store knew no number of these keys. If they are not new, the peer refuses what we send: make new keys for both sides")
		}
	}
	switch {
	case o.seq == o.limit:
		s.Notes = append(s.Notes, "sequence numbers are exhausted, nothing is sent: make new keys for both sides")
	case o.seq > o.limit/10*9:
		s.Notes = append(s.Notes, "90 % of the sequence numbers are used: make new keys for both sides")
	}
	if o.failed != nil {
		s.Notes = append(s.Notes, "sequence numbers are not reserved: "+o.failed.Error())
	}
	return s
}

// Close stores exactly what was used, so that the next run skips nothing, and waits for it. Nothing can be sent afterwards.
// What is received between Close and the end of the program can be replayed: close the sockets first.
func (e *Engine) Close() error {
	var numbers []*store
	e.mu.RLock()
	for _, i := range e.spi {
		numbers = append(numbers, i.last())
	}
	e.mu.RUnlock()
	for _, p := range e.order {
		for u := range p.out {
			if o := p.out[u].Load(); o != nil {
				numbers = append(numbers, o.last())
			}
		}
	}
	return storeAll(e.counters, numbers)
}
