package ipsec

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"

	"kedge/internal/core"
)

// Mobility Header and ICMPv6 types that policies tell apart.
const (
	typeHomeTestInit   = 1
	typeCareOfTest     = 4
	typeHomeTest       = 3
	typeBindingUpdate  = 5
	typeBindingAck     = 6
	typeBindingError   = 7
	typeRevocation     = 16
	typePrefixSolicit  = 146 // RFC 6275 6.7
	typePrefixAdvertis = 147
)

// Action is what a policy does with a packet.
type Action uint8

// The actions.
const (
	Bypass  Action = iota // goes and comes in the clear
	Protect               // ESP
	Sign                  // an RFC 4285 authenticator
	Discard
)

// Verdict is what the policy says of a packet.
type Verdict struct {
	Action Action
	Peer   string // "" = no peer's
	Use    Use    // of Protect; Use.Tunnel says which mode
}

// peer is a Peer in use.
type peer struct {
	Peer
	engine *Engine
	homes  map[netip.Addr]bool
	own    map[netip.Addr]bool
	out    [uses]atomic.Pointer[outbound]
	ends   map[netip.Addr]*atomic.Pointer[Endpoint] // of the tunnel of each home address, theirs or ours; nil = none now
}

// Endpoint is the two ends of a tunnel.
type Endpoint struct{ Local, Remote netip.Addr }

// policies is the policy database. After New only home addresses of ours are added.
type policies struct {
	mu       sync.RWMutex // guards byOwn, and own and ends of the peers in it
	byHome   map[netip.Addr]*peer
	byOwn    map[netip.Addr][]*peer // nodes: traffic of a home address with anybody, and who may be its home agent
	byAddr   map[netip.Addr][]*peer
	prefixes []prefixPeer // longest first
}

type prefixPeer struct {
	prefix netip.Prefix
	peer   *peer
}

func (d *policies) add(p *peer) error {
	for _, h := range p.Homes {
		if other := d.byHome[h]; other != nil {
			return fmt.Errorf("peers %s and %s both speak for home address %s", other.Name, p.Name, h)
		}
		d.byHome[h] = p
	}
	if len(p.Homes) > 0 {
		return nil // their care-of addresses are anywhere
	}
	for _, o := range p.Own {
		d.byOwn[o] = append(d.byOwn[o], p)
	}
	for _, a := range p.Addresses {
		if !a.IsSingleIP() {
			d.prefixes = append(d.prefixes, prefixPeer{a.Masked(), p})
			continue
		}
		for _, other := range d.byAddr[a.Addr()] {
			if len(other.Own) == 0 || len(p.Own) == 0 {
				return fmt.Errorf("peers %s and %s both have address %s", other.Name, p.Name, a.Addr())
			}
			for _, o := range p.Own {
				if slices.Contains(other.Own, o) {
					return fmt.Errorf("peers %s and %s are both home agent of our home address %s, at %s", other.Name, p.Name, o, a.Addr())
				}
			}
		}
		d.byAddr[a.Addr()] = append(d.byAddr[a.Addr()], p)
	}
	slices.SortStableFunc(d.prefixes, func(a, b prefixPeer) int { return cmp.Compare(b.prefix.Bits(), a.prefix.Bits()) })
	return nil
}

// serves adds a home address of ours to those that a home agent may serve.
func (d *policies) serves(p *peer, home netip.Addr) *atomic.Pointer[Endpoint] {
	d.mu.Lock()
	defer d.mu.Unlock()
	if p.ends[home] == nil {
		p.own[home], p.ends[home] = true, new(atomic.Pointer[Endpoint])
		d.byOwn[home] = append(d.byOwn[home], p)
	}
	return p.ends[home]
}

// agent is the home agent of a home address of ours: the one to which there is a tunnel, or the first that may be it.
func (d *policies) agent(home netip.Addr) *peer {
	all := d.byOwn[home]
	for _, p := range all {
		if p.ends[home].Load() != nil {
			return p
		}
	}
	if len(all) == 0 {
		return nil
	}
	return all[0]
}

// at is where the tunnel of a peer's packet goes; known is false if it is of no home address that the peer has or serves.
func (d *policies) at(p *peer, t *Traffic) (end *Endpoint, known bool) {
	d.mu.RLock()
	defer d.mu.RUnlock()
	e := p.end(t)
	if e == nil {
		return nil, false
	}
	return e.Load(), true
}

// decide looks a packet up. p is nil where no policy is about it.
func (d *policies) decide(t *Traffic) (p *peer, a Action, u Use) {
	d.mu.RLock()
	defer d.mu.RUnlock()
	local, remote := t.local(), t.remote()
	if p = d.byHome[remote]; p != nil {
		a, u = p.decide(t, len(p.own) == 0 || p.own[local])
		return p, a, u
	}
	var stray *peer
	for _, p := range d.byAddr[remote] {
		if len(p.own) == 0 || p.own[local] {
			a, u = p.decide(t, true)
			return p, a, u
		}
		if p.strict() {
			stray = p
		}
	}
	for _, x := range d.prefixes { // home agents whose address is not known beforehand
		if len(x.peer.own) == 0 || !x.prefix.Contains(remote) {
			continue
		}
		if x.peer.own[local] {
			a, u = x.peer.decide(t, true)
			return x.peer, a, u
		}
		if stray == nil && x.peer.strict() {
			stray = x.peer
		}
	}
	if stray != nil {
		// A home agent's packet for another address of ours than the home address. Only what no association could protect
		// (RFC 4877 6 names the message types that one does) is let through, or a forged acknowledgement would not have to
		// name the home address.
		mh := t.Proto == ProtoMH && (t.Type < typeHomeTestInit || t.Type > typeCareOfTest) && t.Type != typeBindingError
		if mh || t.prefixes() {
			return stray, Discard, Signalling
		}
		return nil, Bypass, 0
	}
	if p = d.agent(local); p != nil {
		a, u = p.decide(t, false)
		return p, a, u
	}
	for _, x := range d.prefixes {
		if len(x.peer.own) == 0 && x.prefix.Contains(remote) {
			a, u = x.peer.decide(t, true)
			return x.peer, a, u
		}
	}
	return nil, Bypass, 0
}

// strict says that the peer's signalling is protected somehow.
func (p *peer) strict() bool { return p.Protection != None }

// mobile says that the peer is a host of ours or our home agent, not a gateway or an anchor.
func (p *peer) mobile() bool { return len(p.homes) > 0 || len(p.own) > 0 }

// decide is the policy of one peer. direct: the packet is between the home address and the home agent, or between gateway and
// anchor; else between the home address and a correspondent node.
func (p *peer) decide(t *Traffic, direct bool) (Action, Use) {
	mh := t.Proto == ProtoMH
	switch {
	case p.Protection == RFC4285:
		if mh && direct && (t.Type == typeBindingUpdate || t.Type == typeBindingAck || t.Type == typeRevocation) {
			return Sign, 0
		}
		return Bypass, 0
	case p.Protection != ESP:
		return Bypass, 0
	case !p.mobile():
		if mh {
			return Protect, Signalling
		}
		return Bypass, 0
	case mh && p.tests(t):
		return p.tunnel(ReturnRoutability, t)
	case mh && direct && (t.Type < typeHomeTestInit || t.Type > typeCareOfTest):
		return Protect, Signalling
	case direct && t.prefixes():
		if p.out[PrefixDiscovery].Load() != nil {
			return Protect, PrefixDiscovery
		}
		return Protect, Signalling
	}
	return p.tunnel(Payload, t)
}

// prefixes says that it is a message of Mobile Prefix Discovery.
func (t *Traffic) prefixes() bool {
	return t.Proto == ProtoICMPv6 && (t.Type == typePrefixSolicit || t.Type == typePrefixAdvertis)
}

// tests says that it is a Home Test Init of the host's own or the answer to one: local_mh_type and remote_mh_type of RFC 4877 6.2.
func (p *peer) tests(t *Traffic) bool {
	if t.Out == (len(p.homes) == 0) {
		return t.Type == typeHomeTestInit
	}
	return t.Type == typeHomeTest
}

// end is the tunnel of the home address that a packet is of; nil if it is of none.
func (p *peer) end(t *Traffic) *atomic.Pointer[Endpoint] {
	if len(p.homes) > 0 {
		return p.ends[t.remote()]
	}
	return p.ends[t.local()]
}

// tunnel is the policy for what goes through the tunnel: inactive while there is none, as at home (RFC 4877 4.2).
func (p *peer) tunnel(u Use, t *Traffic) (Action, Use) {
	if u == ReturnRoutability && p.out[u].Load() == nil {
		u = Payload
	}
	if end := p.end(t); p.out[u].Load() == nil || end == nil || end.Load() == nil {
		return Bypass, 0
	}
	return Protect, u
}

// Guards says whether there is an association for the return routability of a home address, theirs or ours: what comes to it or from
// it in its tunnel must then have come by that, whether the tunnel's ends are known here or not.
func (e *Engine) Guards(home netip.Addr) bool {
	e.policies.mu.RLock()
	defer e.policies.mu.RUnlock()
	p := e.byHome[home]
	if p == nil {
		p = e.agent(home)
	}
	return p != nil && p.out[ReturnRoutability].Load() != nil
}

// bypassAuth is who vouches for what the policy lets through in the clear.
func bypassAuth(p *peer) core.Auth {
	a := core.Auth{Kind: KindNone}
	if p != nil && p.Protection == None {
		a.Peer = p.Name
	}
	return a
}
