package ipsec

import (
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"

	"kedge/internal/core"
	"kedge/internal/ipsec/rfc4285"
	"kedge/wire"
)

var errNewKeys = errors.New("all sequence numbers of these keys are used: make new keys for both sides")

// Engine is a policy database and the security associations it names. Its methods may be called from several goroutines; those of
// one association wait for each other.
type Engine struct {
	policies
	peers    map[string]*peer
	order    []*peer // as configured, for status
	mobility map[uint32]*peer
	counters Counters
	rand     io.Reader
	tally    tally

	mu  sync.RWMutex
	spi map[uint32]*inbound
}

// New checks the configuration, loads the sequence numbers and reserves the first ones; it waits for that. counters may be nil
// if no association has static keys.
func New(cfg Config, counters Counters) (*Engine, error) {
	e := &Engine{
		policies: policies{byHome: map[netip.Addr]*peer{}, byOwn: map[netip.Addr][]*peer{}, byAddr: map[netip.Addr][]*peer{}},
		peers:    map[string]*peer{}, mobility: map[uint32]*peer{}, spi: map[uint32]*inbound{},
		counters: counters, rand: cfg.Rand,
	}
	e.tally.audit = cfg.Audit
	if e.rand == nil {
		e.rand = rand.Reader
	}
	var wait []*outbound
	for _, c := range cfg.Peers {
		p, err := e.newPeer(c)
		if err == nil {
			err = e.policies.add(p)
		}
		if err != nil {
			return nil, err
		}
		for _, sa := range p.SAs {
			o, err := e.install(p, sa)
			if err != nil {
				return nil, fmt.Errorf("peer %s: %s: %w", p.Name, sa.Use, err)
			}
			if o.durable {
				wait = append(wait, o)
			}
		}
	}
	return e, reserve(wait, counters)
}

func (e *Engine) newPeer(c Peer) (*peer, error) {
	fail := func(format string, a ...any) (*peer, error) {
		return nil, fmt.Errorf("peer %q: %w", c.Name, fmt.Errorf(format, a...))
	}
	p := &peer{Peer: c, engine: e, homes: map[netip.Addr]bool{}, own: map[netip.Addr]bool{}, ends: map[netip.Addr]*atomic.Pointer[Endpoint]{}}
	p.Addresses, p.Homes, p.Own, p.SAs = slices.Clone(c.Addresses), slices.Clone(c.Homes), slices.Clone(c.Own), slices.Clone(c.SAs)
	for _, a := range c.Homes {
		p.homes[a] = true
	}
	for _, a := range c.Own {
		p.own[a] = true
	}
	mine := c.Homes
	if len(mine) == 0 {
		mine = c.Own
	}
	for _, a := range mine {
		p.ends[a] = new(atomic.Pointer[Endpoint])
	}
	switch {
	case c.Name == "":
		return fail("without a name")
	case e.peers[c.Name] != nil:
		return fail("twice")
	case c.Protection == ESP:
		if !slices.ContainsFunc(c.SAs, func(s SA) bool { return s.Use == Signalling }) {
			return fail("protection esp needs a security association for signalling")
		}
		for _, a := range c.Addresses {
			if !p.mobile() && !a.IsSingleIP() {
				return fail("protection esp needs whole addresses, not %s: senders cannot share sequence numbers (RFC 4303 3.4.3)", a)
			}
		}
	case len(c.SAs) > 0:
		return fail("security associations, but protection %q", c.Protection)
	case c.Protection == RFC4285:
		if err := c.Mobility.Check(); err != nil {
			return fail("%w", err)
		}
		if other := e.mobility[c.Mobility.SPI]; other != nil {
			return fail("mobility SPI %d is also that of peer %s", c.Mobility.SPI, other.Name)
		}
		e.mobility[c.Mobility.SPI] = p
	case c.Protection == None:
	default:
		return fail("protection %q: write esp, rfc4285 or none", c.Protection)
	}
	if len(c.Addresses)+len(c.Homes) == 0 {
		return fail("neither an address nor a home address")
	}
	e.peers[c.Name] = p
	e.order = append(e.order, p)
	return p, nil
}

// install adds one pair of associations.
func (e *Engine) install(p *peer, sa SA) (*outbound, error) {
	switch {
	case sa.Use >= uses:
		return nil, fmt.Errorf("unknown use %d", sa.Use)
	case sa.Use.Tunnel() && !p.mobile():
		return nil, errors.New("a tunnel needs a home address")
	case sa.Use == ReturnRoutability && !sa.Keys.Suite.confidential():
		return nil, fmt.Errorf("suite %s: return routability needs encryption (RFC 4877 4.3)", sa.Keys.Suite)
	case sa.SPIIn&DataSPI != 0:
		return nil, fmt.Errorf("inbound SPI %#x: those from %#x on are for data", sa.SPIIn, DataSPI)
	}
	in, out, err := newPair(sa, e.counters)
	if err != nil {
		return nil, err
	}
	in.peer, in.use, out.peer, out.use = p, sa.Use, p, sa.Use
	var err1, err2 error
	in.t, err1 = newTransform(sa.Keys.Suite, sa.Keys.In, sa.ESN)
	out.t, err2 = newTransform(sa.Keys.Suite, sa.Keys.Out, sa.ESN)
	if err := errors.Join(err1, err2); err != nil {
		return nil, err
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if other := e.spi[sa.SPIIn]; other != nil {
		return nil, fmt.Errorf("inbound SPI %#x is also that of peer %s", sa.SPIIn, other.peer.Name)
	}
	e.spi[sa.SPIIn] = in
	p.out[sa.Use].Store(out)
	return out, nil
}

// Policy says what happens to a packet that Outbound or Tunnel would be given, and what Check demands of one that came.
func (e *Engine) Policy(t Traffic) Verdict {
	p, a, u := e.decide(&t)
	v := Verdict{Action: a, Use: u}
	if p != nil {
		v.Peer = p.Name
	}
	return v
}

// Outbound applies the policy to an upper-layer message of t.Proto and appends the result to into, which must not share memory
// with payload: the message itself with its own protocol (bypass, auth none; sign, auth rfc4285 by whose association the caller
// signs the message) or ESP with protocol 50. An error is a *wire.Error.
//
// What the policy wants in a tunnel goes through Tunnel; here it is an error.
func (e *Engine) Outbound(now core.Now, t Traffic, payload, into []byte) (out []byte, next uint8, auth core.Auth, err error) {
	t.Out = true
	p, action, use := e.decide(&t)
	switch action {
	case Bypass:
		return append(into, payload...), t.Proto, bypassAuth(p), nil
	case Sign:
		return append(into, payload...), t.Proto, core.Auth{Kind: KindRFC4285, SPI: p.Mobility.SPI, Peer: p.Name}, nil
	}
	if action == Discard || use.Tunnel() {
		err = &wire.Error{Msg: "outbound policy", RFC: "RFC 4877 6", Reason: wire.WrongAssociation}
		e.refuse(now, &t, p, 0, 0, wire.WrongAssociation)
		return into, 0, core.Auth{}, err
	}
	return e.seal(now, &t, p, use, t.Proto, payload, into)
}

// seal protects with the association of a use.
func (e *Engine) seal(now core.Now, t *Traffic, p *peer, use Use, next uint8, payload, into []byte) ([]byte, uint8, core.Auth, error) {
	o := p.out[use].Load()
	if o == nil {
		e.refuse(now, t, p, 0, 0, wire.WrongAssociation)
		return into, 0, core.Auth{}, &wire.Error{Msg: "outbound policy", RFC: "RFC 4301 5.1", Reason: wire.WrongAssociation}
	}
	out, seq, s, near, err := o.seal(now, into, next, payload, e.rand)
	if s != nil {
		e.counters.Store(s.name, s.n, s.done)
	}
	if near {
		e.tally.warn(Audit{Now: now, Peer: p.Name, SPI: o.spi, Sequence: seq, Local: t.Local, Remote: t.Remote,
			Warning: "90 % of the sequence numbers are used: make new keys"})
	}
	if err != nil {
		var w *wire.Error
		if errors.As(err, &w) {
			e.refuse(now, t, p, o.spi, seq, w.Reason)
		}
		return into, 0, core.Auth{}, err
	}
	return out, ProtoESP, core.Auth{Kind: KindESP, SPI: o.spi, Peer: p.Name}, nil
}

// Inbound takes an ESP packet that came with the addresses of t (Proto and Type are found in it) and appends what it protected
// to into, which must not share memory with esp: the upper-layer message with its protocol, or in tunnel mode the inner packet
// with protocol 41 or 4. The association that it came by is the one that the policy demands for exactly this traffic, or it is
// refused: right ESP for another home address is wire.WrongAssociation. An error is a *wire.Error, and counted.
//
// Then look at the message with Check, and at the inner packet of a tunnel with InnerTraffic and Check.
func (e *Engine) Inbound(now core.Now, t Traffic, esp, into []byte) (payload []byte, proto uint8, auth core.Auth, err error) {
	fail := func(p *peer, spi uint32, seq uint64, r wire.Reason, rfc string) ([]byte, uint8, core.Auth, error) {
		e.refuse(now, &t, p, spi, seq, r)
		return into, 0, core.Auth{}, &wire.Error{Msg: "ESP", RFC: rfc, Reason: r}
	}
	if len(esp) < header {
		return fail(nil, 0, 0, wire.Truncated, "RFC 4303 2")
	}
	spi, low := binary.BigEndian.Uint32(esp), binary.BigEndian.Uint32(esp[4:])
	e.mu.RLock()
	sa := e.spi[spi]
	e.mu.RUnlock()
	if sa == nil {
		return fail(nil, spi, uint64(low), wire.UnknownSPI, "RFC 4303 3.4.2")
	}
	out, next, seq, s, reason := sa.open(now, into, esp, low)
	if s != nil {
		e.counters.Store(s.name, s.n, s.done)
	}
	if reason == "" && next == protoNone {
		reason = wire.DummyPacket // RFC 4303 2.6
	}
	if reason == wire.Replayed && sa.doubtful(seq) {
		e.tally.count(Audit{Now: now, Reason: reason, Peer: sa.peer.Name, SPI: spi, Sequence: seq, Local: t.Local, Remote: t.Remote, Restart: true})
		return into, 0, core.Auth{}, &wire.Error{Msg: "ESP", RFC: "RFC 4303 3.4.3", Reason: reason}
	}
	if reason != "" {
		return fail(sa.peer, spi, seq, reason, "RFC 4303 3.4")
	}
	plain := out[len(into):]
	t.Out = false
	inner := t
	if sa.use.Tunnel() {
		n, reason := sa.tunnelled(&t, next, plain, &inner)
		if reason != "" {
			return fail(sa.peer, spi, seq, reason, "RFC 4301 5.2")
		}
		plain = plain[:n]
	} else {
		n, ok := describe(&inner, next, plain)
		if !ok {
			return fail(sa.peer, spi, seq, wire.Truncated, "RFC 4303 2.4")
		}
		plain = plain[:n]
	}
	if p, action, use := e.decide(&inner); action != Protect || p != sa.peer || use != sa.use {
		return fail(sa.peer, spi, seq, wire.WrongAssociation, "RFC 4301 5.2")
	}
	return out[:len(into)+len(plain)], next, core.Auth{Kind: KindESP, SPI: spi, Peer: sa.peer.Name}, nil
}

// describe fills the selectors of an upper-layer message, and says where it ends: what follows a Mobility Header is padding for
// traffic flow confidentiality (RFC 4303 2.7).
func describe(t *Traffic, proto uint8, b []byte) (n int, ok bool) {
	t.Proto, t.Type = proto, 0
	switch proto {
	case ProtoMH:
		if len(b) < 3 {
			return 0, false
		}
		t.Type = b[2]
		return min(len(b), (int(b[1])+1)*8), true
	case ProtoICMPv6:
		if len(b) < 1 {
			return 0, false
		}
		t.Type = b[0]
	}
	return len(b), true
}

// Check says whether a message came as the policy demands, and who vouches for it: what Inbound found; what the caller found by
// verifying an RFC 4285 authenticator with Mobility; or core.Auth{Kind: KindNone} for a message in the clear, to which the name
// of the peer is added if its protection is none. Clear traffic that the policy protects is wire.Unprotected, traffic that
// another association protected wire.WrongAssociation; both are counted, and the error is a *wire.Error.
func (e *Engine) Check(now core.Now, t Traffic, auth core.Auth) (core.Auth, error) {
	fail := func(p *peer, r wire.Reason) (core.Auth, error) {
		e.refuse(now, &t, p, auth.SPI, 0, r)
		return core.Auth{}, &wire.Error{Msg: "inbound policy", RFC: "RFC 4301 5.2", Reason: r}
	}
	t.Out = false
	p, action, use := e.decide(&t)
	switch auth.Kind {
	case KindESP:
		e.mu.RLock()
		sa := e.spi[auth.SPI]
		e.mu.RUnlock()
		if sa == nil || sa.peer.Name != auth.Peer || action != Protect || sa.peer != p || sa.use != use {
			return fail(p, wire.WrongAssociation)
		}
		return auth, nil
	case KindRFC4285:
		m := e.mobility[auth.SPI]
		if m == nil || m != p || m.Name != auth.Peer || action != Sign {
			return fail(p, wire.WrongAssociation)
		}
		return auth, nil
	}
	switch action {
	case Bypass:
		return bypassAuth(p), nil
	case Discard, Protect, Sign:
	}
	return fail(p, wire.Unprotected)
}

// Mobility finds an RFC 4285 association by the SPI in a message's option.
func (e *Engine) Mobility(spi uint32) (a rfc4285.Association, peer string, ok bool) {
	p := e.mobility[spi]
	if p == nil {
		return a, "", false
	}
	return p.Peer.Mobility, p.Name, true
}

// Tick stores what is to be stored lazily. Call it about once a second.
func (e *Engine) Tick(now core.Now) {
	e.mu.RLock()
	all := make([]*inbound, 0, len(e.spi))
	for _, i := range e.spi {
		all = append(all, i)
	}
	e.mu.RUnlock()
	for _, i := range all {
		i.mu.Lock()
		s := i.save(now, true)
		i.mu.Unlock()
		if s != nil {
			e.counters.Store(s.name, s.n, s.done)
		}
	}
}
