package gateway

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"kedge/internal/access"
	"kedge/internal/core"
	"kedge/internal/heartbeat"
	"kedge/internal/rate"
	"kedge/wire/mobility"
)

// Protocol constants and defaults. The RFC's name is given where it has one.
const (
	InitialBindackTimeout = time.Second      // INITIAL_BINDACK_TIMEOUT, RFC 6275 12
	MaxBindackTimeout     = 32 * time.Second // MAX_BINDACK_TIMEOUT, RFC 6275 12
	// ReturnAfter is how long after a registration a sign of an arrival means that the host has been away. A stack that
	// starts sends several of them within less.
	ReturnAfter = 3 * time.Second
	// TimestampValidityWindow is RFC 5213 9.1's, of an anchor that keeps to the default.
	TimestampValidityWindow = 300 * time.Millisecond
	MaxUpdateRate           = rate.MaxUpdateRate // MAX_UPDATE_RATE: updates a second for one session, RFC 6275 12

	DefaultLifetime      = 5 * time.Minute
	DefaultRefreshAt     = 0.5
	DefaultLinkGrace     = time.Second
	DefaultNUDReachable  = 30 * time.Second // REACHABLE_TIME, RFC 4861 10
	DefaultNUDRetransmit = time.Second      // RETRANS_TIMER, RFC 4861 10
	DefaultNUDProbes     = 3                // MAX_UNICAST_SOLICIT, RFC 4861 10
	DefaultRetryFirst    = 5 * time.Second
	DefaultRetryMax      = 5 * time.Minute
	DefaultIdleHold      = 10 * time.Minute
	DefaultReregister    = time.Second

	DefaultHosts          = 100_000
	DefaultHostsPerAccess = 10_000
	DefaultPending        = 5_000
	DefaultNewHostRate    = 500 // a second, of one access link
	DefaultTriggerRate    = 5   // a second, of one host
)

// Dialect of the IPv4 options of an anchor.
type Dialect string

const (
	// Auto begins with RFC 5844 and falls back to document 001: after three tries without an answer, status 158, or an
	// acceptance without option 37 although 36 was sent. What the anchor once answered in is kept until it restarts.
	Auto    Dialect = "auto"
	RFC5844 Dialect = "rfc5844"           // options 36, 37, 38, 39
	Draft02 Dialect = "draft-pmip6-v4-02" // options 29, 30
)

// Addresses of every gateway on every access link, RFC 6543 3 and 4.
var (
	FixedLinkLocal = netip.MustParseAddr("fe80::200:5eff:fe00:5213")
	FixedMAC       = core.MAC{0, 0, 0x5e, 0, 0x52, 0x13}
)

// What attaches and detaches a host: words of Access.AttachOn and DetachOn.
var (
	attachWords = []string{"rs", "ns", "na", "arp", "dhcp", "mld", "data", "fdb", "link", "api"}
	detachWords = []string{"link", "nud", "api"}
)

// Config of a gateway. Zero values mean the defaults above, except where said otherwise.
type Config struct {
	Name    string
	Address netip.Addr // Proxy-CoA, IPv6: source of signalling and outer source of data
	Anchors []Anchor   // a host whose profile names none has the first
	Access  []Access
	// Profiles of hosts; a host that has none gets its link's Families and addresses from the anchor.
	Profiles []Profile

	// FirstHandoff is the Handoff Indicator of an attachment without context: 4 (unknown; default) or 1 (new interface).
	FirstHandoff uint8
	// IPv4OnDHCP asks for an IPv4 home address when the host asks for one (DHCP, ARP, an IPv4 packet, or an address that
	// is known), not at any attachment: `ipv4-on: dhcp`.
	IPv4OnDHCP bool
	// SequenceOrdering leaves the Timestamp option out: TimestampBasedApproachInUse = 0 (RFC 5213 9.3).
	SequenceOrdering bool
	// NoRevocation answers revocations as a message that is not understood (RFC 5846 6.2).
	NoRevocation bool

	HeartbeatOff bool
	Heartbeat    heartbeat.Config
	// Restart is the restart counter when nothing was ever stored; else it is the stored one, or that plus 1 if sessions
	// were lost (RFC 5847 3.2). It must be more than that of any earlier run whose store is lost: session ids begin with it.
	Restart uint32

	Timers Timers
	Limits Limits
}

// Anchor is a local mobility anchor.
type Anchor struct {
	Name       string
	Address    netip.Addr // LMAA
	Dialect    Dialect    // "" = Auto
	Protection string     // shown in status: "none", "esp"
}

// Access is one access link.
type Access struct {
	// Link is what the home link emulation needs. Router addresses that are not set are those of RFC 6543.
	Link       access.LinkConfig
	Technology uint8           // Access Technology Type, RFC 5213 8.5; 0 = Ethernet (3)
	AttachOn   []string        // nil = all
	DetachOn   []string        // nil = all
	Families   access.Families // of hosts without a profile; 0 = both
	Identity   Identity
	Down       bool // the link is known to be down at the start
}

// Identity says how a MAC address becomes an MN-Identifier: by the table, else as 02-00-00-00-00-0a@realm.
type Identity struct {
	Table     map[core.MAC]string
	Realm     string
	TableOnly bool // a host that is not in the table is unknown: no PBU
}

// Profile is the policy profile of one host, RFC 5213 6.2, RFC 5844 3.2.2.
type Profile struct {
	ID       string
	Anchor   string // name; "" = the first
	Families access.Families
	IPv4     netip.Prefix   // static home address with the length of its network; a network address with a length < 32 asks for any host of it
	Prefixes []netip.Prefix // static home network prefixes
}

// Timers of registrations and reachability.
type Timers struct {
	Lifetime        time.Duration // asked for; a multiple of 4 s
	RefreshAt       float64       // part of the lifetime after which a binding is refreshed, 0.1 .. 0.9
	RetransmitFirst time.Duration
	RetransmitMax   time.Duration
	LinkGrace       time.Duration // a link may be down so long before its hosts are detached
	NUDReachable    time.Duration // silence after which a host is probed
	NUDRetransmit   time.Duration
	NUDProbes       int
	RetryFirst      time.Duration // after a refusal; doubled at each
	RetryMax        time.Duration
	IdleHold        time.Duration // how long a host without a session is remembered
	Reregister      time.Duration // over which the hosts of a restarted anchor are spread; grows with their number
}

// Limits bound what strangers can make a gateway hold and do.
type Limits struct {
	Hosts          int     // of all links
	HostsPerAccess int     // of one link
	Pending        int     // registrations without an answer
	NewHosts       float64 // a second, of one link; bursts of twice as many
	Triggers       float64 // registrations a second that one host can cause
}

// set replaces a zero value.
func set[T comparable](p *T, def T) {
	var zero T
	if *p == zero {
		*p = def
	}
}

// validate fills defaults in and says what cannot be.
func (c *Config) validate() error {
	if !c.Address.Is6() || c.Address.Is4In6() || !c.Address.IsGlobalUnicast() {
		return fmt.Errorf("address %v: want the global IPv6 address of the gateway (RFC 5213 6.9.1.5)", c.Address)
	}
	if len(c.Anchors) == 0 {
		return errors.New("no anchor: want at least one")
	}
	c.Anchors = slices.Clone(c.Anchors)
	names := map[string]bool{"": true}
	for i := range c.Anchors {
		a := &c.Anchors[i]
		set(&a.Dialect, Auto)
		if !a.Address.Is6() || a.Address.Is4In6() || !a.Address.IsGlobalUnicast() {
			return fmt.Errorf("anchor %q: address %v: want a global IPv6 address", a.Name, a.Address)
		}
		if a.Dialect != Auto && a.Dialect != RFC5844 && a.Dialect != Draft02 {
			return fmt.Errorf("anchor %q: dialect %q: want %s, %s or %s", a.Name, a.Dialect, Auto, RFC5844, Draft02)
		}
		for _, b := range c.Anchors[:i] {
			if b.Address == a.Address || b.Name == a.Name {
				return fmt.Errorf("anchors %q and %q: names and addresses must differ", b.Name, a.Name)
			}
		}
		names[a.Name] = true
	}
	for _, p := range c.Profiles {
		switch {
		case p.ID == "" || len(p.ID) > maxIdentifier:
			return fmt.Errorf("profile %q: want an MN-Identifier of 1 to %d octets", p.ID, maxIdentifier)
		case !names[p.Anchor]:
			return fmt.Errorf("profile %q: anchor %q is not one of the gateway's", p.ID, p.Anchor)
		case p.IPv4.IsValid() && !p.IPv4.Addr().Is4():
			return fmt.Errorf("profile %q: %v is no IPv4 address", p.ID, p.IPv4)
		}
		for _, x := range p.Prefixes {
			if !usablePrefix(x) {
				return fmt.Errorf("profile %q: %v is no home network prefix", p.ID, x)
			}
		}
	}
	if err := c.validateAccess(); err != nil {
		return err
	}
	set(&c.FirstHandoff, mobility.HandoffUnknown)
	if c.FirstHandoff != mobility.HandoffUnknown && c.FirstHandoff != mobility.HandoffNewInterface {
		return fmt.Errorf("first handoff indicator %d: want 4 or 1 (RFC 5213 6.9.1.1)", c.FirstHandoff)
	}
	set(&c.Restart, 1)
	c.Limits.defaults()
	if c.Limits.HostsPerAccess > access.MaxHosts {
		return fmt.Errorf("%d hosts on one access link: want at most %d", c.Limits.HostsPerAccess, access.MaxHosts)
	}
	return c.Timers.validate()
}

func (c *Config) validateAccess() error {
	c.Access = slices.Clone(c.Access)
	for i := range c.Access {
		a := &c.Access[i]
		if a.Link.Name == "" {
			return errors.New("an access link without a name")
		}
		for _, b := range c.Access[:i] {
			if b.Link.Name == a.Link.Name || b.Link.If == a.Link.If {
				return fmt.Errorf("access links %q and %q: names and indices must differ", b.Link.Name, a.Link.Name)
			}
		}
		set(&a.Link.LinkLocal, FixedLinkLocal)
		set(&a.Link.MAC, FixedMAC)
		if !a.Link.LinkLocal.IsLinkLocalUnicast() || !a.Link.LinkLocal.Is6() {
			return fmt.Errorf("access link %q: router address %v: want a link-local IPv6 address", a.Link.Name, a.Link.LinkLocal)
		}
		if a.AttachOn == nil {
			a.AttachOn = attachWords
		}
		if a.DetachOn == nil {
			a.DetachOn = detachWords
		}
		for _, w := range a.AttachOn {
			if !slices.Contains(attachWords, w) {
				return fmt.Errorf("access link %q: attach-on %q: want some of %v", a.Link.Name, w, attachWords)
			}
		}
		for _, w := range a.DetachOn {
			if !slices.Contains(detachWords, w) {
				return fmt.Errorf("access link %q: detach-on %q: want some of %v", a.Link.Name, w, detachWords)
			}
		}
		if !a.Identity.TableOnly && a.Identity.Realm == "" {
			return fmt.Errorf("access link %q: identities need a realm, or a table only", a.Link.Name)
		}
		if len(a.Identity.Realm)+len("02-00-00-00-00-0a@") > maxIdentifier {
			return fmt.Errorf("access link %q: the realm is too long", a.Link.Name)
		}
		for _, id := range a.Identity.Table {
			if id == "" || len(id) > maxIdentifier {
				return fmt.Errorf("access link %q: identity %q: want 1 to %d octets", a.Link.Name, id, maxIdentifier)
			}
		}
		set(&a.Technology, mobility.AccessEthernet)
		set(&a.Families, access.V4|access.V6)
	}
	return nil
}

func (l *Limits) defaults() {
	set(&l.Hosts, DefaultHosts)
	set(&l.HostsPerAccess, DefaultHostsPerAccess)
	set(&l.Pending, DefaultPending)
	set(&l.NewHosts, DefaultNewHostRate)
	set(&l.Triggers, DefaultTriggerRate)
}

func (t *Timers) validate() error {
	set(&t.Lifetime, DefaultLifetime)
	set(&t.RefreshAt, DefaultRefreshAt)
	set(&t.RetransmitFirst, InitialBindackTimeout)
	set(&t.RetransmitMax, MaxBindackTimeout)
	set(&t.LinkGrace, DefaultLinkGrace)
	set(&t.NUDReachable, DefaultNUDReachable)
	set(&t.NUDRetransmit, DefaultNUDRetransmit)
	set(&t.NUDProbes, DefaultNUDProbes)
	set(&t.RetryFirst, DefaultRetryFirst)
	set(&t.RetryMax, DefaultRetryMax)
	set(&t.IdleHold, DefaultIdleHold)
	set(&t.Reregister, DefaultReregister)
	for _, x := range []struct {
		name string
		d    time.Duration
	}{
		{"retransmit first", t.RetransmitFirst}, {"retransmit max", t.RetransmitMax}, {"link grace", t.LinkGrace},
		{"nud reachable", t.NUDReachable}, {"nud retransmit", t.NUDRetransmit}, {"retry first", t.RetryFirst},
		{"retry max", t.RetryMax}, {"idle hold", t.IdleHold}, {"reregister", t.Reregister},
	} {
		if x.d < time.Millisecond {
			return fmt.Errorf("%s %v: want at least 1 ms", x.name, x.d)
		}
	}
	switch {
	case t.Lifetime < mobility.LifetimeUnit || t.Lifetime > 0xffff*mobility.LifetimeUnit || t.Lifetime%mobility.LifetimeUnit != 0:
		return fmt.Errorf("lifetime %v: want a multiple of 4 s up to 72h49m (RFC 6275 6.1.7)", t.Lifetime)
	case t.RefreshAt < 0.1 || t.RefreshAt > 0.9:
		return fmt.Errorf("refresh at %v: want a part of the lifetime from 0.1 to 0.9", t.RefreshAt)
	case t.RetransmitMax < t.RetransmitFirst || t.RetryMax < t.RetryFirst:
		return errors.New("a first interval is longer than its maximum")
	case t.NUDProbes < 1:
		return fmt.Errorf("%d nud probes: want at least 1", t.NUDProbes)
	}
	return nil
}

// maxIdentifier is what fits the Mobile Node Identifier option (RFC 4283 3): one octet of the length is the subtype.
const maxIdentifier = 254

// usablePrefix tells whether p can be a home network prefix: a masked global unicast prefix of 1 to 64 bits, or the one
// address of a host that has it by its own configuration.
func usablePrefix(p netip.Prefix) bool {
	return p.IsValid() && p.Addr().Is6() && !p.Addr().Is4In6() && p.Bits() >= 1 && (p.Bits() <= 64 || p.IsSingleIP()) && p == p.Masked() &&
		p.Addr().IsGlobalUnicast()
}

// usableIPv4 tells whether p can be a home address with the length of its home network.
func usableIPv4(p netip.Prefix) bool {
	return p.IsValid() && p.Addr().Is4() && p.Bits() >= 1 && p.Addr().IsGlobalUnicast() && !p.Addr().IsLoopback()
}
