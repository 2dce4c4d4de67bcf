// Package ipsec protects signalling and data with ESP (RFC 4301, 4303, 4868, 4106, 4304). For signalling, an Engine has a policy
// database with selectors bound to home addresses, security associations in transport and tunnel mode, and replay windows (RFC
// 3776, 4877); for data there is Data, below. The package exchanges no keys, opens no socket, reads no clock and starts no
// goroutine; an Engine has a lock and may be used from several goroutines.
//
// Whom a packet belongs to is decided by its addresses as selectors see them: a Home Address option stands for the source, a
// type 2 routing header for the destination (RFC 4877 4.2). A Peer is one of three things:
//
//   - with Homes: a host whose home agent we are. All of protocol 135 between its home addresses and us is protected, but the
//     messages of return routability, which are for correspondent nodes and go in the tunnel (RFC 4877 6).
//   - with Own and no Homes: our home agent. The same, seen from the node.
//   - with neither: a gateway or an anchor. All of protocol 135 between the two is protected (RFC 5213 4).
//
// Who is no peer's has no policy: what he sends comes in and goes out in the clear, and nobody vouches for it (core.Auth "none"
// without Peer). Machines refuse such a request by themselves, and answer it where their RFC says so.
//
// # Sequence numbers with static keys
//
// RFC 4303 allows replay protection with static keys only if the sender's counter outlives a restart. Outbound numbers are
// therefore reserved in durable blocks before they are used (Counters); a restart skips the rest of a block. Inbound, the
// highest number is stored soon after it was seen, with the slack that the rate of the last second makes wise, and a restart
// accepts nothing up to their sum. What was accepted in the milliseconds before a crash and not yet written can be replayed
// after it: its effects were not acknowledged either.
//
// A peer that lost its store begins again at 1 and is refused as replayed until it passes what it sent before. Status says so
// (SAStatus.Notes); new keys on both sides are the remedy. New keys have new counters by themselves.
//
// # Data
//
// Data is the associations that packets of sessions go through, in tunnel mode. It has no policy: sessions name an association by
// its handle (core.Layer.SA), and the data plane looks whether what came by one came where it is used. Many queues seal and open at once by one
// association; a lock is held only to take a number, and to look at the window before and after. AES-GCM is for keys of an
// exchange only (RFC 4106 2): its nonces are the sequence numbers, which such keys never had before, with or without ESN (RFC 4304).
// SPIs of data begin with the bit DataSPI, those of signalling do not, so neither's sockets see the other's packets.
package ipsec

import (
	"io"
	"net/netip"

	"kedge/internal/core"
	"kedge/internal/ipsec/rfc4285"
	"kedge/wire"
)

// Numbers of the protocols that policies name.
const (
	ProtoICMPv6 uint8 = 58
	ProtoMH     uint8 = 135
	ProtoESP    uint8 = 50
	ProtoIPv6   uint8 = 41

	protoNone uint8 = 59 // dummy packets, RFC 4303 2.6
)

// Traffic is what selectors match: the innermost IPv6 packet as the policy sees it. Home addresses, where the packet has a Home
// Address option or type 2 routing header, stand for the addresses that change (RFC 3776 4.3, RFC 4877 5).
type Traffic struct {
	Local, Remote         netip.Addr
	LocalHome, RemoteHome netip.Addr // invalid = none
	Proto                 uint8      // 135 or 58; 0 on Inbound, where it is not known yet
	Type                  uint8      // Mobility Header type or ICMPv6 type
	// Out: we send it. The methods that know the direction set it.
	Out bool
}

func (t *Traffic) local() netip.Addr {
	if t.LocalHome.IsValid() {
		return t.LocalHome
	}
	return t.Local
}

func (t *Traffic) remote() netip.Addr {
	if t.RemoteHome.IsValid() {
		return t.RemoteHome
	}
	return t.Remote
}

// Kinds of core.Auth.
const (
	KindESP     = "esp"
	KindRFC4285 = "rfc4285"
	KindNone    = "none"
)

// Protection is how a peer's signalling is protected.
type Protection string

// The protections. None must be written out: the zero value is an error.
const (
	ESP     Protection = KindESP
	RFC4285 Protection = KindRFC4285
	None    Protection = KindNone
)

// Config of an Engine. Everything is copied.
type Config struct {
	Peers []Peer
	// Rand gives initialization vectors of AES-CBC; nil = crypto/rand.
	Rand io.Reader
	// Audit is told of each auditable event (RFC 4303 4) and of warnings, at most AuditRate a second. It is called without
	// a lock held, from whatever goroutine; nil = nobody.
	Audit func(Audit)
}

// Audit is an event that RFC 4303 section 4 wants logged, or a warning about a security association.
type Audit struct {
	Now           core.Now
	Reason        wire.Reason // why a packet was refused; "" = a warning
	Warning       string
	Peer          string // "" = unknown
	SPI           uint32
	Sequence      uint64
	Local, Remote netip.Addr
	Suppressed    uint64 // events not told since the last one
	// Restart, with wire.Replayed: the number may never have been seen. It is refused because before a restart so many came that not
	// all were written down.
	Restart bool
}

// Peer is whom a policy is about.
type Peer struct {
	Name string
	// Addresses of the peer. With ESP and neither Homes nor Own they must be whole addresses: two senders cannot share a
	// sequence number space.
	Addresses []netip.Prefix
	// Homes are the home addresses that the peer, a host, may speak for; nobody else may.
	Homes []netip.Addr
	// Own are our home addresses, if the peer is our home agent. With Homes, they are the addresses we are the home agent at;
	// without any, whatever the host sends to is taken to be us, and its messages to correspondent nodes cannot be told apart.
	Own        []netip.Addr
	Protection Protection
	// SAs are the security associations, if Protection is ESP: one for Signalling, at most one for each other use.
	SAs []SA
	// Mobility is the association, if Protection is RFC4285. Its SPI is the engine's key to find it: unique among peers.
	Mobility rfc4285.Association
}

// Use says what a security association protects, RFC 4877 6.
type Use uint8

const (
	// Signalling: protocol 135 in transport mode; and Mobile Prefix Discovery if it has no association of its own.
	Signalling Use = iota
	// PrefixDiscovery: ICMPv6 types 146 and 147 in transport mode, RFC 4877 6.3.
	PrefixDiscovery
	// ReturnRoutability: Home Test Init from a home address and Home Test to it, in tunnel mode, RFC 4877 6.2. Those of others, who ask
	// the host as their correspondent node, are not among them.
	ReturnRoutability
	// Payload: whatever the other uses do not take, between home address and anybody, in tunnel mode, RFC 4877 6.4.
	Payload

	uses = 4
)

var useNames = [uses]string{"signalling", "prefix-discovery", "return-routability", "payload"}

// String is the name in status.
func (u Use) String() string {
	if int(u) < len(useNames) {
		return useNames[u]
	}
	return "unknown"
}

// Tunnel says whether the use takes tunnel mode.
func (u Use) Tunnel() bool { return u == ReturnRoutability || u == Payload }

// SA is a pair of security associations, one a direction, with one suite.
type SA struct {
	Use           Use
	SPIIn, SPIOut uint32 // 256 and above (RFC 4303 2.1)
	Keys          Keys
	// Negotiated: the keys are from a key exchange and were never used before, so counters begin at 0 and are not stored.
	// Only then may the suite be AES-GCM (RFC 4106 2) or the sequence numbers extended.
	Negotiated bool
	ESN        bool // extended sequence numbers, RFC 4303 2.2.1
}
