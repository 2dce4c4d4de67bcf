// Package revocation is the initiator's side of binding revocation at a local mobility anchor, RFC 5846 6 and 8.1: after a
// handover it tells the gateway that the host has left, so that this gateway does not hold on to a session that another
// one has. It is a sub-machine of the anchor: no I/O, no clock, no lock.
//
// A revocation never changes or delays the session: that is with its new gateway already. It ends with the
// acknowledgement, with the last retransmission, or when the host comes back to the gateway that is being told. None
// survives a restart of the anchor; whoever was not told then finds out by itself, as with anchors that never tell.
//
// Beside what RFC 5846 5.1 lists, an indication carries the Timestamp option (RFC 5213 8.8) of the registration that is
// revoked. A host may be back at a gateway, and registered there again, before the indication arrives: the gateway sees
// by the Timestamp that not its newest registration is meant. Others skip the option (RFC 5846 5.1).
//
// Left out: revocation of many sessions at once (G flag), and host-based bindings.
package revocation

import (
	"cmp"
	"encoding/binary"
	"io"
	"net/netip"
	"time"

	"kedge/internal/core"
	"kedge/internal/due"
	"kedge/wire"
	"kedge/wire/mobility"
)

// Defaults of RFC 5846 11.
const (
	MaxRetries = 1               // BRIMaxRetriesNumber
	MinDelay   = time.Second     // InitMINDelayBRIs
	MaxTimeout = 2 * time.Second // MAX_BRACK_TIMEOUT

	// LeastDelay is the shortest InitMINDelayBRIs that may be configured.
	LeastDelay = 500 * time.Millisecond
)

// Limits of what gateways can make an anchor hold.
const (
	// MaxOutstanding is how many indications wait for an answer. A quarter of the sequence numbers: a free one is near.
	MaxOutstanding = 16384
	// MaxGateways is how many gateways are remembered that do not answer.
	MaxGateways = 65536
)

// How long gateways are left alone. RFC 5846 6.2 has them answer what they do not know with a Binding Error; both times
// end early when the gateway restarts, and neither is for ever, because not every restart is noticed.
const (
	SilentAfter    = 3                // indications in a row without an answer
	SilentFor      = 5 * time.Minute  // then this long
	UnsupportedFor = 60 * time.Minute // after a Binding Error, or a status that refuses every indication alike
)

// Config holds the variables of RFC 5846 11; zero means the default.
type Config struct {
	Retries    int // retransmissions; negative = none
	MinDelay   time.Duration
	MaxTimeout time.Duration
}

// Registration is what is revoked: a session as its former gateway knows it.
type Registration struct {
	ID       core.ID
	Node     string
	Gateway  netip.Addr // where it signals from
	Anchor   netip.Addr // where it signals to
	CareOf   netip.Addr
	ESP      bool // signalling is protected by keys for Gateway, not for CareOf (RFC 5846 8.1)
	Prefixes []netip.Prefix
	V4       netip.Prefix // invalid = none
	Draft02  bool         // the gateway knows option 29, not 36
	// LinkLayer identifies the interface; empty = not known.
	LinkLayer []byte
	Timestamp uint64 // of the last accepted request; 0 = ordered by sequence number
}

// Outgoing is an indication to be sent.
type Outgoing struct {
	ID            core.ID
	Node          string
	Local, Remote netip.Addr
	Message       *mobility.Revocation
	Again         bool // a retransmission
}

// End says how a revocation ended.
type End struct {
	ID      core.ID
	Node    string
	Gateway netip.Addr
	Seq     uint16
	// Answered: Status is the acknowledgement's (RFC 5846 5.2). Else nothing came.
	Answered bool
	Status   uint8
}

// Initiator holds the revocations of one anchor.
type Initiator struct {
	cfg   Config
	seq   uint16
	bySeq map[uint16]*pending
	byKey map[key]*pending
	due   due.Queue[*pending]
	quiet map[netip.Addr]quiet
}

// key: a session is revoked at a gateway once at a time.
type key struct {
	id      core.ID
	gateway netip.Addr
}

// pending is one indication without an answer.
type pending struct {
	key
	out     Outgoing
	tries   int           // retransmissions so far
	timeout time.Duration // of the transmission that is out
	next    time.Duration
	index   int // in due
}

// quiet remembers a gateway that does not answer.
type quiet struct {
	missed int           // in a row
	until  time.Duration // not asked before
}

// New makes an Initiator. rand gives the first sequence number.
func New(cfg Config, rand io.Reader) *Initiator {
	if cfg.Retries == 0 {
		cfg.Retries = MaxRetries
	}
	cfg.Retries = max(cfg.Retries, 0)
	if cfg.MinDelay <= 0 {
		cfg.MinDelay = MinDelay
	}
	if cfg.MaxTimeout <= 0 {
		cfg.MaxTimeout = MaxTimeout
	}
	cfg.MaxTimeout = max(cfg.MaxTimeout, cfg.MinDelay)
	var b [2]byte
	_, _ = io.ReadFull(rand, b[:]) // without randomness numbers begin at 0, and work
	return &Initiator{
		cfg: cfg, seq: binary.BigEndian.Uint16(b[:]), bySeq: make(map[uint16]*pending), byKey: make(map[key]*pending),
		quiet: make(map[netip.Addr]quiet), due: due.New(earlier, func(p *pending) *int { return &p.index }),
	}
}

// Revoke makes the first indication for a registration, RFC 5846 6.1.1 and 8.1. The reason, if any, is why none is sent:
// too many wait (wire.PendingLimit), or the gateway does not take part (wire.UnsupportedMessage, wire.NoAnswer).
func (r *Initiator) Revoke(now core.Now, reg Registration, trigger uint8) (Outgoing, wire.Reason) {
	if q, ok := r.quiet[reg.Gateway]; ok && now.Boot < q.until {
		if q.missed == 0 {
			return Outgoing{}, wire.UnsupportedMessage
		}
		return Outgoing{}, wire.NoAnswer
	}
	k := key{reg.ID, reg.Gateway}
	if old := r.byKey[k]; old != nil {
		r.end(old)
	}
	if len(r.bySeq) >= MaxOutstanding {
		return Outgoing{}, wire.PendingLimit
	}
	m := indication(reg, trigger)
	for r.seq++; r.bySeq[r.seq] != nil; r.seq++ {
	}
	m.Sequence = r.seq
	p := &pending{key: k, timeout: r.cfg.MinDelay, next: now.Boot + r.cfg.MinDelay, index: -1,
		out: Outgoing{ID: reg.ID, Node: reg.Node, Local: reg.Anchor, Remote: reg.CareOf, Message: m}}
	if reg.ESP {
		p.out.Remote = reg.Gateway
	}
	r.bySeq[m.Sequence], r.byKey[k] = p, p
	r.due.Set(p)
	first := p.out
	p.out.Again = true
	return first, ""
}

// indication builds the message, RFC 5846 5.1. A session without a prefix is its IPv4 home address: V flag.
func indication(reg Registration, trigger uint8) *mobility.Revocation {
	m := &mobility.Revocation{Code: trigger, Proxy: true}
	o := mobility.Options(nil).Add(mobility.MobileNodeID{Subtype: mobility.SubtypeNAI, ID: reg.Node})
	for _, p := range reg.Prefixes {
		o = o.Add(mobility.HomeNetworkPrefix{Prefix: p})
	}
	if len(reg.Prefixes) == 0 && reg.V4.IsValid() {
		m.IPv4Only = true
		if reg.Draft02 {
			o = o.Add(mobility.IPv4HomeAddress{PrefixLen: uint8(reg.V4.Bits()), Addr: reg.V4.Addr()})
		} else {
			o = o.Add(mobility.IPv4HomeAddressRequest{PrefixLen: uint8(reg.V4.Bits()), Addr: reg.V4.Addr()})
		}
	}
	if reg.ESP && reg.CareOf != reg.Gateway {
		o = o.Add(mobility.AlternateCareOf{Addr: reg.CareOf})
	}
	if reg.Timestamp != 0 {
		o = o.Add(mobility.Timestamp{Value: reg.Timestamp})
	}
	if len(reg.LinkLayer) > 0 {
		o = o.Add(mobility.LinkLayerID{ID: reg.LinkLayer})
	}
	m.Options = o
	return m
}

// Settled says that a gateway knows about a session, by its own request: if it is being told or asked, that ends.
func (r *Initiator) Settled(id core.ID, gateway netip.Addr) {
	if p := r.byKey[key{id, gateway}]; p != nil {
		r.end(p)
	}
}

// Acknowledged takes an acknowledgement, RFC 5846 6.2.2. The reason, if any, is why it is none of ours; nothing changes
// then.
func (r *Initiator) Acknowledged(now core.Now, from netip.Addr, m *mobility.Revocation) (End, wire.Reason) {
	p := r.bySeq[m.Sequence]
	switch {
	case !m.Ack:
		return End{}, wire.UnsupportedMessage
	case p == nil:
		return End{}, wire.SequenceMismatch
	case from != p.out.Remote && from != p.gateway:
		return End{}, wire.UnknownPeer
	case !m.Proxy || m.Global || m.IPv4Only != p.out.Message.IPv4Only:
		return End{}, wire.BadValue
	}
	if id, ok := m.Options.MobileNodeID(); ok && id.ID != p.out.Node {
		return End{}, wire.IdentifierMismatch
	}
	r.end(p)
	delete(r.quiet, p.gateway)
	switch m.Code {
	case mobility.RevocationTriggerNotSupported, mobility.RevocationFunctionNotSupported, mobility.RevocationProxyNotSupported:
		r.hush(now, p.gateway)
	}
	return End{ID: p.id, Node: p.out.Node, Gateway: p.gateway, Seq: m.Sequence, Answered: true, Status: m.Code}, ""
}

// Unsupported takes a Binding Error with status 2 (unrecognized MH type, RFC 5846 6.2). If an indication is out to its
// sender, that one does not understand revocation, and all to it end; true then. An acknowledgement that still comes
// finds nothing.
func (r *Initiator) Unsupported(now core.Now, from netip.Addr) bool {
	var gateway netip.Addr
	for _, p := range r.due.Items() {
		if p.out.Remote == from || p.gateway == from {
			gateway = p.gateway
			break
		}
	}
	if !gateway.IsValid() {
		return false
	}
	r.hush(now, gateway)
	return true
}

// hush leaves a gateway alone that does not take part.
func (r *Initiator) hush(now core.Now, gateway netip.Addr) {
	r.abandon(gateway)
	r.remember(gateway, quiet{until: now.Boot + UnsupportedFor})
}

// Restarted says that a gateway began anew: it has no sessions to be told of, and may be another program.
func (r *Initiator) Restarted(gateway netip.Addr) {
	r.abandon(gateway)
	delete(r.quiet, gateway)
}

func (r *Initiator) abandon(gateway netip.Addr) {
	for _, p := range r.due.Items() {
		if p.gateway == gateway {
			r.end(p)
		}
	}
}

func (r *Initiator) remember(gateway netip.Addr, q quiet) {
	if _, known := r.quiet[gateway]; known || len(r.quiet) < MaxGateways {
		r.quiet[gateway] = q
	}
}

// Tick gives the indications that are sent again (RFC 5846 6.3) and those that nobody answered.
func (r *Initiator) Tick(now core.Now) (send []Outgoing, ends []End) {
	for p, ok := r.due.Min(); ok && p.next <= now.Boot; p, ok = r.due.Min() {
		if p.tries < r.cfg.Retries {
			p.tries++
			p.timeout = min(2*p.timeout, r.cfg.MaxTimeout)
			p.next = now.Boot + p.timeout
			r.due.Set(p)
			send = append(send, p.out)
			continue
		}
		r.end(p)
		ends = append(ends, End{ID: p.id, Node: p.out.Node, Gateway: p.gateway, Seq: p.out.Message.Sequence})
		q := r.quiet[p.gateway]
		if q.missed++; q.missed >= SilentAfter {
			// The one after SilentFor is one chance more, not three.
			q.until = now.Boot + SilentFor
		}
		r.remember(p.gateway, q)
		if now.Boot < q.until {
			r.abandon(p.gateway)
		}
	}
	return send, ends
}

// Deadline is when Tick has something to do.
func (r *Initiator) Deadline() (time.Duration, bool) {
	p, ok := r.due.Min()
	if !ok {
		return 0, false
	}
	return p.next, true
}

// Outstanding counts the indications without an answer.
func (r *Initiator) Outstanding() int { return len(r.bySeq) }

func (r *Initiator) end(p *pending) {
	r.due.Remove(p)
	delete(r.bySeq, p.out.Message.Sequence)
	delete(r.byKey, p.key)
}

// earlier orders by the next transmission, equal times by sequence number, so that runs can be repeated.
func earlier(a, b *pending) bool {
	if c := cmp.Compare(a.next, b.next); c != 0 {
		return c < 0
	}
	return a.out.Message.Sequence < b.out.Message.Sequence
}
