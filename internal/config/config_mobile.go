package config

import (
	"net/netip"
	"time"
)

// Protections of signalling with a peer.
const (
	ProtectionNone    = "none"
	ProtectionESP     = "esp"
	ProtectionRFC4285 = "rfc4285"
)

// Peer is a party that may speak the protocol with us.
type Peer struct {
	Name       string
	Addresses  []netip.Prefix // none: a mobile node, known by its key and home address
	Protection string         // ProtectionNone, ProtectionESP or ProtectionRFC4285
	ESP        ESP            // with ProtectionESP
	RFC4285    RFC4285        // with ProtectionRFC4285
}

// ESP is a pair of security associations with static keys (RFC 4303).
type ESP struct {
	SPIIn, SPIOut uint32
	Suite         string // as in ipsec.Suite
	KeyFile       string // as Load found it: beside the config file unless absolute

	// ReturnRoutability and PrefixDiscovery have associations of their own; nil = return routability goes in the clear in the tunnel,
	// prefix discovery by those of signalling.
	ReturnRoutability, PrefixDiscovery *Association
}

// RFC4285 is a mobility security association of that RFC, with a static key.
type RFC4285 struct {
	SPI     uint32
	KeyFile string
}

// Dialects of signalling over IPv4 between node and home agent.
const (
	DialectRFC5555   = "rfc5555"
	DialectSoliman00 = "draft-soliman-00"
)

// DSMIP6 is the service of a home agent (RFC 6275 10, RFC 5555 4.2).
type DSMIP6 struct {
	Addresses           []netip.Addr // of the home agent; empty = all IPv6 ones of the anchor
	Families            Families     // of home addresses
	Dialects            []string     // accepted ones
	RefuseUDP           bool         // the F flag without a NAT is refused with status 144
	ForceUDP            bool         // every node over IPv4 is told to use UDP
	NATRefresh          time.Duration
	RefreshAdvice       time.Duration // 0 = none
	RefreshRequest      time.Duration // before the end of a binding; 0 = none
	RequireMessageID    bool
	MessageIDWindow     time.Duration
	AcceptPrivateCareOf bool // private care-of addresses without NAT
}

// Node is a mobile node (RFC 6275 11, RFC 5555 4.4).
type Node struct {
	Anchor  NodeAnchor
	Home    Home
	ID      string // network access identifier of requests; "" = none
	Links   []Link
	Exclude []netip.Prefix // never through the tunnel
	// PassUnreachable: what would go through the tunnel passes outside while the home agent cannot be reached.
	PassUnreachable bool
	RetryV4         bool // ask a home agent that did not answer the IPv4 Home Address option again
	Table           int  // first routing table
	DNSDirect       bool // questions to name servers go to those of the visited network
	ForceUDP        bool // F flag always
	Timers          NodeTimers
	Optimization    Optimization
}

// NodeAnchor is the home agent of a node.
type NodeAnchor struct {
	Name         string     // of the peer
	IPv6         netip.Addr // invalid: it is found
	IPv4         netip.Addr // invalid: no way over IPv4
	Discover     bool       // by DHAAD
	Host         string     // by name; "" = not
	Others       []string   // names of peers that home agents may be as well
	Dialect      string
	OctetLengths bool
}

// Home is what a node is known by wherever it is.
type Home struct {
	V6 netip.Prefix // address with the length of the home prefix
	// V4 is the static IPv4 home address with the length of its network, 32 if that is not known; invalid with Dynamic4
	// or without IPv4.
	V4       netip.Prefix
	Dynamic4 bool
	// Networks are the mobile network prefixes of a mobile router, Interfaces lead to them. Implicit: requests do not name those of IPv6.
	Networks   []netip.Prefix
	Implicit   bool
	Interfaces []string
	Prefixes   []netip.Prefix // that the home network may be renumbered to
}

// Link is a rule for the links whose name it matches.
type Link struct {
	Match    string // as in path.Match
	Prefer   int    // rank; less is better
	Families Families
}

// NodeTimers of a node.
type NodeTimers struct {
	Lifetime        time.Duration
	RefreshAt       float64 // part of the lifetime
	DeadPath        time.Duration
	FamilyFallback  time.Duration
	NATRefresh      time.Duration
	FirstTimeout    time.Duration // to the first repetition without a binding
	RetransmitFirst time.Duration
	RetransmitMax   time.Duration
}
