package node

import (
	"errors"
	"fmt"
	"net/netip"
	stdpath "path"
	"slices"
	"time"

	"kedge/internal/node/optimize"
	"kedge/internal/peer"
	"kedge/internal/rate"
	"kedge/wire/mobility"
)

// Protocol constants and defaults. The RFC's name is given where it has one.
const (
	InitialBindackTimeout         = time.Second             // INITIAL_BINDACK_TIMEOUT, RFC 6275 12
	InitialBindackTimeoutFirstReg = 1500 * time.Millisecond // InitialBindackTimeoutFirstReg, RFC 6275 13: time for DAD
	MaxBindackTimeout             = 32 * time.Second        // MAX_BINDACK_TIMEOUT, RFC 6275 12: the cap of the back-off
	MaxUpdateRate                 = rate.MaxUpdateRate      // MAX_UPDATE_RATE, RFC 6275 12: Binding Updates a second
	Port                          = 4191                    // UDP, RFC 5555 9

	DefaultDeadPath       = 3 * time.Second
	DefaultNATRefresh     = 110 * time.Second // NATKATIMEOUT, RFC 5555 6
	DefaultFamilyFallback = 300 * time.Millisecond
	DefaultLifetime       = 10 * time.Minute
	DefaultRefreshAt      = 0.8
	DefaultGrace          = 5 * time.Second
	DefaultDevice         = "kedge0"
	DefaultTable          = 10700
	DefaultProbeID        = 0x6b65
)

// Dialect is the form of signalling over IPv4.
type Dialect string

const (
	RFC5555 Dialect = "rfc5555"          // UDP 4191, home address as inner source, option 32
	Soliman Dialect = "draft-soliman-00" // protocol 41, IPv4-mapped care-of address as inner source, Home Address option
)

// Unreachable says what becomes of traffic while there is no binding.
type Unreachable string

const (
	Block Unreachable = "block" // it goes into the tunnel device and nowhere else
	Pass  Unreachable = "pass"  // new connections go out directly, from the visited network's address
)

// DNS says where questions to name servers go.
type DNS string

const (
	DNSTunnel DNS = "tunnel" // as other traffic: a server on the link directly, others through the tunnel
	DNSDirect DNS = "direct" // from the care-of address, whatever their destination
)

// Families of care-of addresses.
type Families struct{ V4, V6 bool }

// IPv4 says whether the node has an IPv4 home address.
type IPv4 uint8

const (
	IPv4None    IPv4 = iota
	IPv4Static       // Home.V4
	IPv4Dynamic      // the home agent gives one (RFC 5555 2.5)
)

// Config of a node. Zero values mean the defaults above, except where said otherwise.
type Config struct {
	Name   string // log key "self"
	Anchor Anchor
	Home   Home
	ID     string // network access identifier, option 8 (RFC 4283); "" = not sent
	Links  []Link

	Device  string         // TUN interface, which the data plane makes; "" = kedge0
	Table   int            // routing table of the home addresses; those of care-of addresses begin 100 after it; 0 = 10700
	Exclude []netip.Prefix // destinations that never go through the tunnel
	DNS     DNS            // "" = tunnel
	// Unreachable: "" = block.
	Unreachable Unreachable
	// ForceUDP sets the F flag in every Binding Update over IPv4 (RFC 5555 3.1.3).
	ForceUDP bool
	// RetryIPv4 sends the IPv4 Home Address option again to a home agent that did not answer it (document 004, 3.3: MAY);
	// without it the option stays out (2.2.1: SHOULD NOT).
	RetryIPv4 bool
	// NoOptimistic: the kernel has no optimistic addresses (CONFIG_IPV6_OPTIMISTIC_DAD); see package movement.
	NoOptimistic bool
	// ProbeID is the identifier of the echoes through the tunnel; the data plane hands replies with it over.
	ProbeID uint16
	// Restart numbers the run when nothing was ever stored, so that session ids never repeat.
	Restart uint32

	Timers Timers

	Peer     *peer.Config    // set: the node is a correspondent of others too, by its home address (RFC 6275 9)
	Optimize optimize.Config // route optimization with IPv6 correspondents; its zero value: none
}

// Anchor is the home agent.
type Anchor struct {
	Name       string     // also the name in security.peers: Auth.Peer of what comes from it
	V6         netip.Addr // needed
	V4         netip.Addr // invalid: the node cannot work in IPv4 networks
	Dialect    Dialect    // "" = rfc5555
	ShortOctet bool       // draft-soliman-00: option length 4 (octets), not the literal 1
	Protection string     // shown in status: "none", "esp", "rfc4285"
	Guarded    bool       // return routability goes in ESP in tunnel mode, which IPv4 does not carry

	// Discover finds home agents by Dynamic Home Agent Address Discovery (RFC 6275 11.4.1), Host by the name servers of visited
	// networks (RFC 5555 2.1). With either V6 may be missing.
	Discover bool
	Host     string
	// Peers are the security peers that home agents may be, that of Name among them; nobody else is taken for one. Empty: whoever is
	// found is Name.
	Peers []Peer
}

// Peer is a party that signalling is protected with.
type Peer struct {
	Name       string
	Protection string // as Anchor.Protection
	Guarded    bool   // as Anchor.Guarded
	Addresses  []netip.Prefix
}

// Home is what the node keeps while it moves.
type Home struct {
	V6 netip.Prefix // IPv6 home address with the length of the home prefix
	// Prefixes are those that the home network may be renumbered to: the node takes home addresses on them, and on no others.
	Prefixes []netip.Prefix
	IPv4     IPv4
	V4       netip.Prefix // IPv4 home address with the length of its network, if static; 32 = unknown
	// Networks are the mobile network prefixes behind the node, of both families (RFC 3963); Implicit: Binding Updates name none of IPv6.
	Networks []netip.Prefix
	Implicit bool
	// Interfaces lead to them: what comes from there with another source is not forwarded.
	Interfaces []string
}

// allows says whether the node may have a home address on a prefix.
func (h *Home) allows(p netip.Prefix) bool {
	return p == h.V6.Masked() || slices.Contains(h.Prefixes, p)
}

// Link says which interfaces the node may use; the first that matches counts.
type Link struct {
	Match    string   // pattern of names, as in path.Match
	Prefer   int      // less is better
	Families Families // none = both
}

// Timers of registrations and paths.
type Timers struct {
	Lifetime        time.Duration // asked for; a multiple of 4 s
	RefreshAt       float64       // part of the lifetime after which a binding is refreshed
	DeadPath        time.Duration // a path that carries nothing is noticed within
	FamilyFallback  time.Duration // without answer over one care-of address the next is tried too
	NATRefresh      time.Duration // between keepalives behind a NAT, unless the home agent says
	RetransmitNew   time.Duration // first retransmission without a binding
	RetransmitFirst time.Duration // first retransmission with a binding
	RetransmitMax   time.Duration // cap of the back-off
	Grace           time.Duration // how long the old tunnel is still accepted after a move
}

// set replaces a zero value.
func set[T comparable](p *T, def T) {
	var zero T
	if *p == zero {
		*p = def
	}
}

// maxLifetime is 16 bits of 4 s; all ones mean infinity in RFC 3775 and nothing in RFC 6275.
const maxLifetime = 0xfffe * mobility.LifetimeUnit

// validate fills defaults in and says what cannot be.
func (c *Config) validate() error {
	set(&c.Anchor.Dialect, RFC5555)
	set(&c.Device, DefaultDevice)
	set(&c.Table, DefaultTable)
	set(&c.DNS, DNSTunnel)
	set(&c.Unreachable, Block)
	set(&c.ProbeID, DefaultProbeID)
	if err := c.addresses(); err != nil {
		return err
	}
	switch {
	case c.Anchor.Dialect != RFC5555 && c.Anchor.Dialect != Soliman:
		return fmt.Errorf("anchor: dialect %q: want %s or %s", c.Anchor.Dialect, RFC5555, Soliman)
	case c.DNS != DNSTunnel && c.DNS != DNSDirect:
		return fmt.Errorf("dns %q: want %s or %s", c.DNS, DNSTunnel, DNSDirect)
	case c.Unreachable != Block && c.Unreachable != Pass:
		return fmt.Errorf("unreachable %q: want %s or %s", c.Unreachable, Block, Pass)
	case len(c.ID) > 254:
		return errors.New("id: want at most 254 octets (RFC 4283 3)")
	case len(c.Device) > 15:
		return fmt.Errorf("device %q: an interface name has at most 15 octets", c.Device)
	case len(c.Links) == 0:
		return errors.New("no link: want at least one pattern of interface names")
	}
	for _, l := range c.Links {
		if _, err := stdpath.Match(l.Match, ""); err != nil || l.Match == "" {
			return fmt.Errorf("link %q is no pattern of names", l.Match)
		}
	}
	if err := c.Optimize.Validate(); err != nil {
		return fmt.Errorf("route optimization: %w", err)
	}
	return c.Timers.validate()
}

func (c *Config) addresses() error {
	a, h := &c.Anchor, &c.Home
	if found := a.Discover || a.Host != ""; (a.V6.IsValid() || !found) && (!a.V6.Is6() || a.V6.Is4In6() || !a.V6.IsGlobalUnicast()) {
		return fmt.Errorf("anchor: address %v: want the global IPv6 address of the home agent", a.V6)
	}
	if a.V4.IsValid() && (!a.V4.Is4() || !a.V4.IsGlobalUnicast()) {
		return fmt.Errorf("anchor: address %v: want a unicast IPv4 address", a.V4)
	}
	if v6 := h.V6.Addr(); !v6.Is6() || v6.Is4In6() || !v6.IsGlobalUnicast() || v6 == a.V6 {
		return fmt.Errorf("home: v6 %v: want a global IPv6 address with the length of its prefix, as in 2001:db8:2000::5/64", h.V6)
	}
	switch v4 := h.V4.Addr(); {
	case h.IPv4 == IPv4Static && (!v4.Is4() || !v4.IsGlobalUnicast()):
		return fmt.Errorf("home: v4 %v: want a unicast IPv4 address", h.V4)
	case h.IPv4 != IPv4Static && h.V4.IsValid():
		return fmt.Errorf("home: v4 %v is given, but not used: say that it is static", h.V4)
	case h.IPv4 == IPv4Static && v4 == a.V4:
		return fmt.Errorf("home: v4 %v is the home agent's", v4)
	}
	for _, n := range c.Exclude {
		if !n.IsValid() || n != n.Masked() {
			return fmt.Errorf("%v is no prefix, or has bits set behind its length", n)
		}
	}
	return c.checkNetworks()
}

func (t *Timers) validate() error {
	set(&t.Lifetime, DefaultLifetime)
	set(&t.RefreshAt, DefaultRefreshAt)
	set(&t.DeadPath, DefaultDeadPath)
	set(&t.FamilyFallback, DefaultFamilyFallback)
	set(&t.NATRefresh, DefaultNATRefresh)
	set(&t.RetransmitFirst, InitialBindackTimeout)
	set(&t.RetransmitMax, MaxBindackTimeout)
	set(&t.RetransmitNew, min(InitialBindackTimeoutFirstReg, t.RetransmitMax))
	set(&t.Grace, DefaultGrace)
	switch {
	case t.Lifetime < mobility.LifetimeUnit || t.Lifetime > maxLifetime || t.Lifetime%mobility.LifetimeUnit != 0:
		return fmt.Errorf("lifetime %v: want a multiple of %v up to %v", t.Lifetime, mobility.LifetimeUnit, maxLifetime)
	case t.RefreshAt < 0.1 || t.RefreshAt > 0.95:
		return fmt.Errorf("refresh-at %v: want 0.1 to 0.95", t.RefreshAt)
	case t.DeadPath < 100*time.Millisecond:
		return fmt.Errorf("dead-path %v: want at least 100ms", t.DeadPath)
	case t.FamilyFallback <= 0 || t.NATRefresh <= 0 || t.Grace < 0:
		return errors.New("family-fallback, nat-refresh and grace: want durations above zero")
	case t.RetransmitFirst <= 0 || t.RetransmitNew <= 0 || t.RetransmitMax < t.RetransmitFirst || t.RetransmitMax < t.RetransmitNew:
		return fmt.Errorf("retransmit: want first (%v, %v) above zero and at most max (%v)", t.RetransmitFirst, t.RetransmitNew, t.RetransmitMax)
	}
	return nil
}
