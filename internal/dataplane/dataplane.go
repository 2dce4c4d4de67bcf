// Package dataplane holds the words that the forwarding back ends share. The contract itself is core.Dataplane; package mem is
// the rules as a pure engine, package user the I/O of a process around it, package conformance the suite that every back end
// must pass.
//
// A router has a native side and a tunnel side. An anchor's native side is plain routing; a gateway's are its access links,
// where hosts are known by link and MAC address; a node's is a device on which its applications use its home addresses. The
// tunnel side is the network that carries the outer packets.
package dataplane

import (
	"net/netip"

	"kedge/internal/core"
)

// Role says which native side a router has.
type Role uint8

const (
	Anchor  Role = iota // LMA: keys match destinations on the native side
	Gateway             // MAG: keys match sources on access links
	Node                // mobile node: keys match sources of its own packets
)

// PortUDP is the port of packets in UDP (RFC 5555 6): the only one that a router sends from and receives at. A peer behind a
// NAT is seen with another one.
const PortUDP = 4191

// Link is an access link of a gateway.
type Link struct {
	Name      string
	If        int        // interface index; 0 = looked up by Name
	MAC       core.MAC   // router's MAC: only frames to it are forwarded, and frames to hosts come from it
	LinkLocal netip.Addr // router's address: source of ICMPv6 errors to hosts
	MTU       int        // octets of the largest IP packet on the link; 0 = what the interface has at the time, or 1500
}

// To says where a packet leaves.
type To uint8

const (
	ToTunnel To = iota // an outer packet, complete: the core routes it
	ToNative           // anchor: a packet to forward by plain routing; gateway: a packet for MAC on link If
	ToSelf             // a packet of this router's own, an ICMP error: plain routing takes it as locally made
	ToSignal           // an IPv6 packet of signalling that came in an outer packet: the machine's, with the chain it came in
)

func (t To) String() string { return [...]string{"tunnel", "native", "self", "signal"}[t] }
