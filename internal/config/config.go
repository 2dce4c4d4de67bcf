// Package config turns a YAML file into a validated Config, and says of every mistake where it is and what would be right.
//
// Three steps: the YAML parser gives a tree with positions; the tree is decoded into raw structs whose tags hold each
// key's meaning, default and range (raw.go, the only place where a key is described: docs/config.md is made from it);
// the raw structs are checked against each other and become a Config of plain types. All errors of a file are reported
// together. YAML anchors, aliases, tags and several documents are refused: one file means one thing.
//
// Keys of later versions (peer, ike, mip4, ...) are known and refused as such, never ignored.
package config

import (
	"log/slog"
	"net/netip"
	"path"
	"slices"
	"time"

	"kedge/internal/core"
)

// Config is one validated file. Anchor, Gateway, Node or Peer is set, or several.
type Config struct {
	File      string
	Name      string // log key "self", metric label, id of the virtual anchor
	API       API
	Log       Log
	Events    Events
	Store     Store
	Dataplane Dataplane
	Peers     []Peer
	Anchor    *Anchor
	Gateway   *Gateway
	Node      *Node
	Peer      *Correspondent

	at  map[string]position // where each value was written, for checks across files
	src *source
}

// API is the control socket and, if valid, the address of a metrics listener.
type API struct {
	Socket  string
	Metrics netip.AddrPort
}

// Log says how the daemon logs to standard error.
type Log struct {
	Level  slog.Level
	JSON   bool
	Redact bool // identifiers shortened
}

// Events is the JSONL event stream. File "" writes none; Keep is how many recent events the API can replay.
type Events struct {
	File string
	Keep int
}

// Store kinds.
const (
	StoreMem  = "mem"
	StoreBolt = "bolt"
)

// Store is where sessions survive a restart.
type Store struct {
	Kind string // StoreMem, StoreBolt
	Path string // bolt
}

// Back ends, and ways to attach programs.
const (
	PlaneAuto = "auto"
	PlaneEBPF = "ebpf"
	PlaneUser = "user"

	AttachTCX    = "tcx"
	AttachClsact = "clsact"
)

// Dataplane is the forwarding back end.
type Dataplane struct {
	Kind           string        // PlaneAuto, PlaneEBPF or PlaneUser
	Core           []string      // patterns as in path.Match
	Device         string        // TUN on an anchor or a node
	UplinkGrace    time.Duration // how long the previous gateway's packets are still let in; 0 = strictly RFC 6275 10.4.5
	MTU            int           // of the path between gateway or node and anchor, outside; 0 = discovered
	Sessions       int           // that the kernel's tables hold; 0 = as the role needs
	ThroughStack   Switch        // netfilter sees what an anchor forwards
	ReceiveOffload bool          // segments that leave tunnels are put together
	Hold           time.Duration // how long the kernel forwards on without the process
	Attach         string        // AttachTCX, AttachClsact; "" = whichever there is
}

// Switch is on, off, or left to the daemon.
type Switch uint8

const (
	Auto Switch = iota
	On
	Off
)

// IsCore says that an interface is one of dataplane.core; false if there is none.
func (d *Dataplane) IsCore(name string) bool {
	return slices.ContainsFunc(d.Core, func(pattern string) bool { ok, _ := path.Match(pattern, name); return ok })
}

// PeerOf gives the peer with the longest prefix that holds the address.
func (c *Config) PeerOf(a netip.Addr) (Peer, bool) {
	var best Peer
	bits := -1
	for _, p := range c.Peers {
		for _, x := range p.Addresses {
			if x.Contains(a) && x.Bits() > bits {
				best, bits = p, x.Bits()
			}
		}
	}
	return best, bits >= 0
}

// Families of a host.
type Families struct{ V4, V6 bool }

// Dialects of the IPv4 options.
const (
	DialectAuto    = "auto"
	DialectRFC5844 = "rfc5844"
	DialectDraft02 = "draft-pmip6-v4-02"
)

// Heartbeat of RFC 5847.
type Heartbeat struct {
	Off        bool
	Interval   time.Duration
	Timeout    time.Duration // to the next request when an answer is missing; 0 = Interval
	MaxMissing int
}

// Anchor is a local mobility anchor (RFC 5213 5, RFC 5844 3.1).
type Anchor struct {
	Addresses          []netip.Addr // LMAA; at least one of IPv6
	HomeLink           string       // interface where home addresses are answered for by proxy ND and ARP; "" = routed only
	Discovery          *Discovery   // nil: off
	DADTransmits       int          // on the home link; 0 = none
	RetransTimer       time.Duration
	Pools              []Pool
	PMIP6              PMIP6   // without gateways: not offered
	DSMIP6             *DSMIP6 // nil: not offered
	Subscribers        Subscribers
	PrefixesPerSession int // of hosts that are not in the list
	Limits             AnchorLimits
	Timers             AnchorTimers
	Heartbeat          Heartbeat
}

// Pool is a range that home prefixes or IPv4 home addresses come from.
type Pool struct {
	Name     string
	Domain   core.Domain
	Prefix   netip.Prefix
	Delegate int            // IPv6: length of a home network prefix
	Router   netip.Addr     // IPv4: default router of the home network
	Reserve  []netip.Prefix // never handed out dynamically; holds Router
	Lease    time.Duration  // IPv4: bounds the bindings of mobile nodes; 0 = it does not
}

// PMIP6 is the Proxy Mobile IPv6 service.
type PMIP6 struct {
	Gateways []string // names of peers
	Dialects []string // accepted ones
	Families Families // that the home network routes; a request for another one is refused (RFC 5844 3.1.2.2)
	Revoke   bool     // tell a gateway that its host is elsewhere (RFC 5846)
	// MobileNodeTimestamps is MobileNodeGeneratedTimestampInUse (RFC 5213 9.3): the validity window is not checked.
	MobileNodeTimestamps bool
	// LinkLocal is the router's address on access links, for gateways that ask for one.
	LinkLocal netip.Addr
}

// Subscribers says who may register.
type Subscribers struct {
	Accept bool     // hosts that are not in the list are served
	Common Families // what those get
	List   []Subscriber
}

// Subscriber is one policy profile.
type Subscriber struct {
	ID       string
	Domain   core.Domain
	Families Families
	NoPMIP6  bool           // not authorized for network-based mobility (RFC 5213 5.3.1)
	V4       netip.Addr     // static home address; invalid = from a pool
	V4Pools  []string       // pools of home addresses: each simultaneous interface draws from another one; empty = any
	HNP      []netip.Prefix // static home network prefixes; empty = from a pool
	HNPPools []string       // pools of home network prefixes; empty = any
	Prefixes int            // home network prefixes that a session gets
	Gateways []string       // peers where the host may be; empty = every gateway of the service
	HoA      netip.Prefix   // IPv6 home address of a mobile node with the length of its home prefix; invalid = no mobile node
	Peer     string         // the peer that may register HoA
	Networks []netip.Prefix // mobile network prefixes that the node may register
}

// AnchorLimits bound what strangers can make an anchor hold.
type AnchorLimits struct {
	Sessions           int
	SessionsPerGateway int
	RequestsPerPeer    int // a second
	PendingPerPeer     int
}

// AnchorTimers of RFC 5213 9.1 and RFC 5846 11.
type AnchorTimers struct {
	LifetimeMax                time.Duration
	MinDelayBeforeBCEDelete    time.Duration
	MaxDelayBeforeNewBCEAssign time.Duration
	TimestampWindow            time.Duration
	// RFC 5846 11.
	BRIMaxRetries    int
	InitMinDelayBRIs time.Duration
	MaxBrackTimeout  time.Duration
}

// Gateway is a mobile access gateway (RFC 5213 6, RFC 5844 3.2).
type Gateway struct {
	Address               netip.Addr // Proxy-CoA, IPv6
	Anchors               []AnchorRef
	Access                []Access
	LocalRouting          bool
	FirstHandoffIndicator uint8 // of an attachment without context: 4 (RFC 5213 6.9.1.1) or 1
	IPv4OnDHCP            bool  // ask for an IPv4 home address when the host asks by DHCP, not at attachment
	SequenceOrdering      bool  // no Timestamp option: TimestampBasedApproachInUse = 0
	Revoke                bool  // obey an anchor that revokes a session (RFC 5846)
	Heartbeat             Heartbeat
	Limits                GatewayLimits
	Timers                GatewayTimers
}

// AnchorRef is an anchor that a gateway registers with.
type AnchorRef struct {
	Name    string // of the peer
	Address netip.Addr
	Dialect string
}

// Access is one access link.
type Access struct {
	Interface      string
	LinkLocal      netip.Addr
	MAC            core.MAC
	Technology     uint8 // Access Technology Type, RFC 5213 8.5
	AttachOn       []string
	DetachOn       []string
	Identity       Identity
	Families       Families
	Hosts          []Host
	DNS            []netip.Addr
	Search         []string
	MTU            int // 0 = what fits the tunnel
	DHCP4          DHCP4
	RAInterval     time.Duration
	RouterLifetime time.Duration
}

// Identity says how a MAC address becomes an MN-Identifier.
type Identity struct {
	TableOnly bool // hosts that are not in the table are unknown
	Realm     string
	Table     map[core.MAC]string
}

// Host is the policy profile of one host on a gateway.
type Host struct {
	ID       string
	Anchor   string // name of an AnchorRef; "" = the first
	Families Families
	V4       netip.Prefix // static home address with the length of its network; invalid = ask for one
	HNP      []netip.Prefix
}

// DHCP4 is the DHCPv4 server of an access link.
type DHCP4 struct {
	Off     bool
	OwnID   bool       // server identifier is this gateway's own address (document 001)
	Address netip.Addr // own or fixed identifier; invalid with fixed = the home network's default router
	Lease   time.Duration
	Options map[uint8][]byte
	Hold    time.Duration
}

// GatewayLimits bound what hosts can make a gateway hold.
type GatewayLimits struct {
	Hosts          int
	HostsPerAccess int
	Pending        int     // registrations without an answer
	NewHosts       float64 // a second, of one link
	Triggers       float64 // registrations a second that one host can cause
}

// GatewayTimers of registrations and reachability.
type GatewayTimers struct {
	Lifetime        time.Duration
	RefreshAt       float64 // part of the lifetime after which a binding is refreshed
	RetransmitFirst time.Duration
	RetransmitMax   time.Duration
	LinkGrace       time.Duration // a link may be down so long before its hosts are detached
	RetryFirst      time.Duration // after a refusal
	RetryMax        time.Duration
	IdleHold        time.Duration // how long a host without a session is remembered
	Reregister      time.Duration // over which the hosts of a restarted anchor are spread
	NUDReachable    time.Duration // silence after which a host is probed
	NUDRetransmit   time.Duration
	NUDProbes       int
}
