package ipsec

import (
	"fmt"
	"net/netip"

	"kedge/internal/core"
	"kedge/wire"
	"kedge/wire/ip"
)

// UpdateEndpoint moves the tunnel of a peer for a home address, the peer's or ours: the addresses of the outer header of what Tunnel
// sends and of what Inbound accepts in tunnel mode (RFC 4877 4.3). Call it for an accepted Binding Update that an association of this
// peer protected, and for nothing else. Static keys always move (the K bit of RFC 6275 6.1.7 is about key exchanges). An invalid
// remote ends the tunnel: its policies are inactive until there is one again, as at home (4.2), and its associations stay. A home
// address of ours that the policy does not know is from then on one that the peer, a home agent, serves (RFC 3776 4.2: new entries
// for a new home address).
func (e *Engine) UpdateEndpoint(peer string, home, local, remote netip.Addr) error {
	p := e.peers[peer]
	if p == nil {
		return fmt.Errorf("no peer %q", peer)
	}
	if len(p.homes) > 0 && !p.homes[home] || len(p.Own) == 0 && len(p.homes) == 0 {
		return fmt.Errorf("peer %s: %s is no home address of its", peer, home)
	}
	end := e.serves(p, home)
	switch {
	case !remote.IsValid():
		end.Store(nil)
	case local.Is4() != remote.Is4() || !local.IsValid():
		return fmt.Errorf("peer %s: a tunnel cannot go from %s to %s", peer, local, remote)
	default:
		end.Store(&Endpoint{local, remote})
	}
	return nil
}

// Tunnel applies the policy to a whole inner packet whose selectors are t, and appends the result to into, which must not share
// memory with packet. Where the policy wants it in a tunnel, that is a whole packet with the outer addresses of the tunnel's
// endpoints, ESP as its payload, and auth says by which association; else it is the packet as it was, and auth is none. t must
// be InnerTraffic of the packet.
func (e *Engine) Tunnel(now core.Now, t Traffic, packet, into []byte) (out []byte, auth core.Auth, err error) {
	t.Out = true
	p, action, use := e.decide(&t)
	if action != Protect || !use.Tunnel() {
		if action == Bypass {
			return append(into, packet...), bypassAuth(p), nil
		}
		e.refuse(now, &t, p, 0, 0, wire.WrongAssociation)
		return into, core.Auth{}, &wire.Error{Msg: "outbound policy", RFC: "RFC 4877 6", Reason: wire.WrongAssociation}
	}
	end, _ := e.at(p, &t)
	if end == nil { // it ended since decide
		return append(into, packet...), bypassAuth(nil), nil
	}
	h, err := ip.Parse(packet)
	if err != nil {
		return into, core.Auth{}, err
	}
	// The outer header comes first and says how long the rest is, so it is written again when that is known.
	outer := ip.Header{TOS: ip.Encapsulate(h.TOS), Proto: ProtoESP, TTL: 64, Src: end.Local, Dst: end.Remote, DF: true}
	start := len(into)
	b, err := outer.Append(into, 0)
	if err != nil {
		return into, core.Auth{}, err
	}
	next := ProtoIPv6
	if h.Is4() {
		next = protoIPv4
	}
	head := len(b)
	b, _, auth, err = e.seal(now, &t, p, use, next, packet, b)
	if err != nil {
		return into, core.Auth{}, err
	}
	if _, err = outer.Append(b[:start], len(b)-head); err != nil {
		return into, core.Auth{}, err
	}
	return b, auth, nil
}

const protoIPv4 uint8 = 4

// InnerTraffic gives the selectors of a whole packet, as seen by who sends it (out) or gets it. Type is that of a message right
// behind the IP header.
func InnerTraffic(packet []byte, out bool) (Traffic, error) {
	h, err := ip.Parse(packet)
	if err != nil {
		return Traffic{}, err
	}
	t := Traffic{Local: h.Dst, Remote: h.Src, Out: out}
	if out {
		t.Local, t.Remote = h.Src, h.Dst
	}
	if _, ok := describe(&t, h.Proto, packet[h.HdrLen:h.Len]); !ok {
		return Traffic{}, &wire.Error{Msg: "inner packet", RFC: "RFC 4301 5.2", Reason: wire.Truncated}
	}
	return t, nil
}

// tunnelled checks what came through a tunnel: from the endpoint it must come from, and a whole packet inside. It gives the
// inner selectors and where the packet ends; what follows is padding for traffic flow confidentiality.
func (i *inbound) tunnelled(outer *Traffic, next uint8, packet []byte, inner *Traffic) (n int, reason wire.Reason) {
	h, err := ip.Parse(packet)
	if err != nil || h.Is4() != (next == protoIPv4) || next != protoIPv4 && next != ProtoIPv6 {
		return 0, wire.BadInner
	}
	if *inner, err = InnerTraffic(packet[:h.Len], false); err != nil {
		return 0, wire.BadInner
	}
	// Of a home address that is none of the peer's, the policy says that the association is wrong.
	if end, known := i.peer.engine.at(i.peer, inner); known && (end == nil || outer.Remote != end.Remote) {
		return 0, wire.WrongTunnel
	}
	return h.Len, ""
}
