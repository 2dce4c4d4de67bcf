package core

import (
	"iter"
	"net/netip"
	"time"
)

// Layer is one set of outer headers: IP, optional UDP, TLV, GRE, ESP. Comparable, so usable as a key.
type Layer struct {
	// Remote as observed. Local's port 0 = no UDP; Remote's then is the one that data is taken from in UDP as well, 0 = 4191.
	Local, Remote netip.AddrPort
	TLV           uint8 // 0 none, 1 RFC 5845, 2 the 2007 layout; in UDP only
	GRE           bool  // RFC 2784; in UDP behind a TLV header only
	// KeyUp is in packets towards the anchor, KeyDown in those from it (RFC 5845 3); 0 = no key that way.
	KeyUp, KeyDown uint32
	SA             uint32 // security association handle, 0 = no ESP
	ESPPort        uint16 // observed port of ESP in UDP (4500), 0 = none
}

// Chain encapsulates in order, [0] innermost. The inner packet's version says protocol 4 or 41; with ports the packet lies
// in UDP without anything between (RFC 5555 3). N=0 sends natively. RO 1: route optimization (RFC 6275), between the addresses of
// Layer[0] on the wire: a Home Address option if Local is not the packet's own source, a type 2 routing header if Remote is not
// its own destination. N=0 then sends natively; at a node, N=1 through the tunnel Layer[1], from the home address. MTU 0 = follow
// the path MTU to the outermost remote.
type Chain struct {
	N, RO uint8
	MTU   uint16
	Layer [2]Layer
}

// Match selects inner packets. Anchor and peer match Dst, gateway and node Src, route optimization both, Src this end's own; If
// and MAC on access links.
type Match struct {
	Domain   Domain
	Dst, Src netip.Prefix
	If       int
	MAC      MAC
}

// Mode of a session.
type Mode uint8

const (
	Routed Mode = iota // hop limit - 1, link scope never tunnelled
	// Bridged: everything passes untouched (access node of document 002) between the tunnel and the host at If and MAC; on an anchor,
	// a link If of the session's own. It has no keys but, on an anchor, those that lead into it from elsewhere.
	Bridged
)

// Op is one of SetSession, SetKey, Drop. One SetSession moves every key of the session; packets that arrive in its chain
// reversed are let in if their inner source is one of its keys with Up; the chain it replaces stays let in for Grace.
type (
	Op         interface{ op() }
	SetSession struct {
		ID     ID
		Domain Domain
		Chain  Chain
		Mode   Mode
		If     int // access link and MAC of the host, on a gateway; inner link of a bridged session, on an anchor
		MAC    MAC
		Grace  time.Duration
	}
	// SetKey ties inner packets to a session. Down: packets to the key are delivered by the session; Up: packets from
	// it are let in. Neither: the key is known and its packets are dropped silently (RFC 5213 5.3.5). On a node,
	// while another session delivers the key, one with neither expects its packets: they are let in, by a care-of address
	// that the home agent is being told of.
	SetKey struct {
		Match    Match
		ID       ID
		Up, Down bool // shadow: Up only
	}
	// Drop with ID != 0 removes the session and its keys; else the one key.
	Drop struct {
		ID    ID
		Match Match
	}
)

func (SetSession) op() {}
func (SetKey) op()     {}
func (Drop) op()       {}

// Counter of one session. In: from the tunnel; Out: into the tunnel.
type Counter struct{ PacketsIn, OctetsIn, PacketsOut, OctetsOut uint64 }

// Reasons of Reported that are not those of a drop.
const (
	// ReportCorrespondent: Inner.Src, a home address of this node, and Inner.Dst exchange packets through the tunnel, in either
	// direction, and no key of route optimization names both. With an ID it is that of one that does: the correspondent has
	// a binding and yet sends to the home address.
	ReportCorrespondent = "correspondent"
	// ReportUnreachable: a router said so (ICMPv6 type 1) of a packet of route optimization, session ID (RFC 6275 9.3.4).
	ReportUnreachable = "unreachable"
)

// OpError names the op that failed; nothing after Index was applied.
type OpError struct {
	Index int
	Err   error
}

func (e *OpError) Error() string { return e.Err.Error() }
func (e *OpError) Unwrap() error { return e.Err }

// Dataplane. Update applies in order, each op in one step (no packet sees half); on *OpError nothing after Index is applied.
type Dataplane interface {
	Update(ops []Op) error
	// Sync after a restart: adopt what is equal, change what differs, delete the rest; loses no packet.
	Sync(all iter.Seq[Op]) error
	Counters(ids []ID, into []Counter) error
	// Reports sets the receiver of reports; call it once, before packets flow.
	Reports(func(Reported))
	Close() error
}
