package anchor

import (
	"fmt"
	"net/netip"
	"slices"
	"time"

	"kedge/internal/anchor/revocation"
	"kedge/internal/heartbeat"
	"kedge/internal/pool"
	"kedge/internal/subscriber"
)

// Config is what an anchor is. Zero durations and limits mean the defaults named beside them.
type Config struct {
	// Addresses are the LMAAs: where gateways send to and tunnels end. At least one of IPv6 (S001-1-06).
	Addresses []netip.Addr
	// Device is the TUN that home prefixes are routed to; "" = kedge0.
	Device string
	// HomeLink is the interface on which home addresses are defended by proxy ND and ARP; "" or "none" = routed only.
	HomeLink    string
	HomePort    HomePort
	Pools       []pool.Config
	Peers       []Peer
	PMIP6       PMIP6
	DSMIP6      DSMIP6
	Discovery   Discovery // of home agents and prefixes, by nodes of DSMIP6
	Subscribers subscriber.Config
	Limits      Limits
	Timers      Timers
	Heartbeat   Heartbeat
	Revocation  revocation.Config // variables of RFC 5846 11
	// LinkLocal is the link-local address of gateways on access links, answered in option 26 to a gateway that asks for
	// one; unset = fe80::200:5eff:fe00:5213 of RFC 6543.
	LinkLocal netip.Addr
	// FirstStart: an empty store is a first start. False: it is a lost store, and nothing dynamic is handed out for one
	// Timers.LifetimeMax, because hosts may still hold addresses of former sessions.
	FirstStart bool
}

// Peer is a node that may send signalling: an entry of the config's security.peers.
type Peer struct {
	Name       string
	Addresses  []netip.Prefix
	Protection string // esp, none: shown in the status
}

// PMIP6 is the service of RFC 5213.
type PMIP6 struct {
	Off      bool      // nobody may register hosts
	Gateways []string  // names of Peers; empty = all
	Dialects []Dialect // that are answered; empty = all
	// NoIPv4, NoIPv6: the family is not routed in the home network (statuses 170, 172).
	NoIPv4, NoIPv6 bool
	// MobileNodeTimestamps is MobileNodeGeneratedTimestampInUse of RFC 5213 9.3: the validity window is not checked.
	MobileNodeTimestamps bool
	// NoRevocation: gateways that hosts have left are not told (RFC 5846).
	NoRevocation bool
}

// Limits of what others can make the anchor hold or do.
type Limits struct {
	Sessions           int // 1,000,000
	SessionsPerGateway int // by the address that a gateway signals from; 100,000
	PendingPerPeer     int // requests that wait for a deregistration; 1,000
	RequestsPerPeer    int // a second, in bursts of as many; 2,000
}

// Timers of RFC 5213 9.1 and the longest lifetime that is granted.
type Timers struct {
	LifetimeMax             time.Duration // 1 h
	MinDelayBeforeBCEDelete time.Duration // 10 s
	// MaxDelayBeforeNewBCEAssign, 1.5 s; negative: a request of unknown handoff state is a new session at once.
	MaxDelayBeforeNewBCEAssign time.Duration
	TimestampWindow            time.Duration // TimestampValidityWindow, 300 ms
	// UplinkGrace is how long the former tunnel of a session stays accepted after a handover; negative = not at all. 500 ms
	UplinkGrace time.Duration
}

// Heartbeat is RFC 5847 towards gateways that have sessions.
type Heartbeat struct {
	Off bool // answers requests, sends none
	heartbeat.Config
}

// maxName is the octets of the longest name of a peer: records of registrations hold it.
const maxName = 255

// maxInterfaces limits the sessions of one mobile node: each of its requests looks at all of them.
const maxInterfaces = 32

// maxLifetime is what the 16-bit Lifetime field can say (RFC 6275 6.1.7).
const maxLifetime = 65535 * 4 * time.Second

// withDefaults fills in what is unset and says what is wrong.
func (c Config) withDefaults() (Config, error) {
	bad := func(format string, args ...any) (Config, error) {
		return c, fmt.Errorf("anchor: "+format, args...)
	}
	if !slices.ContainsFunc(c.Addresses, netip.Addr.Is6) {
		return bad("no IPv6 address: gateways and anchor speak IPv6 whatever carries it")
	}
	for _, a := range c.Addresses {
		if !a.IsValid() || a.IsUnspecified() || a.IsMulticast() || a.Zone() != "" {
			return bad("%s cannot be an anchor address: want a unicast address without zone", a)
		}
	}
	names := make(map[string]bool)
	for _, p := range c.Peers {
		if p.Name == "" || names[p.Name] {
			return bad("peer %q has no name of its own", p.Name)
		}
		names[p.Name] = true
		if len(p.Name) > maxName {
			return bad("the name of peer %.20q... has more than %d octets", p.Name, maxName)
		}
		if len(p.Addresses) == 0 && !c.isNode(p.Name) {
			return bad("peer %q has no address", p.Name)
		}
		for _, a := range p.Addresses {
			if !a.IsValid() {
				return bad("peer %q has an invalid address", p.Name)
			}
		}
	}
	for _, g := range c.PMIP6.Gateways {
		if !names[g] {
			return bad("gateway %q is no peer", g)
		}
	}
	for _, d := range c.PMIP6.Dialects {
		if d != RFC5844 && d != Draft02 {
			return bad("dialect %d is none of the anchor's", d)
		}
	}
	if c.Device == "" {
		c.Device = "kedge0"
	}
	if c.HomeLink == "none" {
		c.HomeLink = ""
	}
	if err := c.checkHosts(); err != nil {
		return bad("%v", err)
	}
	if err := c.checkDiscovery(); err != nil {
		return bad("%v", err)
	}
	if !c.LinkLocal.IsValid() {
		c.LinkLocal = netip.MustParseAddr("fe80::200:5eff:fe00:5213") // RFC 6543 4
	}
	if !c.LinkLocal.IsLinkLocalUnicast() || !c.LinkLocal.Is6() || c.LinkLocal.Zone() != "" {
		return bad("%s is no IPv6 link-local address", c.LinkLocal)
	}
	def(&c.Limits.Sessions, 1_000_000)
	def(&c.Limits.SessionsPerGateway, 100_000)
	def(&c.Limits.PendingPerPeer, 1_000)
	def(&c.Limits.RequestsPerPeer, 2_000)
	def(&c.Timers.LifetimeMax, time.Hour)
	def(&c.Timers.MinDelayBeforeBCEDelete, 10*time.Second)
	def(&c.Timers.MaxDelayBeforeNewBCEAssign, 1500*time.Millisecond)
	def(&c.Timers.TimestampWindow, 300*time.Millisecond)
	def(&c.Timers.UplinkGrace, 500*time.Millisecond)
	c.Timers.MaxDelayBeforeNewBCEAssign = max(c.Timers.MaxDelayBeforeNewBCEAssign, 0)
	c.Timers.UplinkGrace = max(c.Timers.UplinkGrace, 0)
	if c.Limits.Sessions < 0 || c.Limits.SessionsPerGateway < 0 || c.Limits.PendingPerPeer < 0 || c.Limits.RequestsPerPeer < 0 {
		return bad("a limit is negative")
	}
	if c.Timers.LifetimeMax < 4*time.Second || c.Timers.LifetimeMax > maxLifetime {
		return bad("lifetime-max %s is not between 4s and %s", c.Timers.LifetimeMax, maxLifetime)
	}
	if d := c.Revocation.MinDelay; d != 0 && d < revocation.LeastDelay {
		return bad("InitMINDelayBRIs %s is less than %s (RFC 5846 11)", d, revocation.LeastDelay)
	}
	if c.Timers.MinDelayBeforeBCEDelete < 0 || c.Timers.TimestampWindow < 0 {
		return bad("a timer is negative")
	}
	return c, nil
}

func def[T int | time.Duration](v *T, d T) {
	if *v == 0 {
		*v = d
	}
}
