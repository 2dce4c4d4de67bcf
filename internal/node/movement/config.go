package movement

import (
	"errors"
	"fmt"
	"net/netip"
	"path"
	"time"

	"kedge/internal/rate"
)

// Pattern manages the links whose names it matches; the first that matches a name counts.
type Pattern struct {
	Match  string // as in path.Match: "wl*"
	Prefer int    // rank; less is better
	V4, V6 bool   // families of care-of addresses; neither set = both
}

// Config of a Machine.
type Config struct {
	Links []Pattern // at least one

	// Home are the node's home addresses of both families: never care-of addresses, whatever link they show up on.
	Home []netip.Addr
	// HomePrefix6 is the home subnet prefix: a link whose router advertises it as on-link is the home link
	// (RFC 6275 11.5.2). Invalid = unknown.
	HomePrefix6 netip.Prefix
	// HomePrefix4 is the IPv4 home network. A link with an address in it is the home link if its gateway is HomeRouter4
	// (when set) and the gateway's MAC is HomeMAC4 (when set). A private network (RFC 1918) may exist anywhere: it counts
	// only with HomeMAC4, or while HomePrefix6 is advertised on the same link.
	HomePrefix4 netip.Prefix
	HomeRouter4 netip.Addr
	HomeMAC4    [6]byte

	// Secret makes interface identifiers stable over restarts and useless to trackers (RFC 7217 5): at least 16 octets.
	// Empty: one is drawn from rand, and identifiers last as long as the Machine.
	Secret []byte
	// Table is the first of MaxTables routing tables, one for each care-of address; 0 = DefaultTable.
	Table int
	// HomeTable is where ClaimHome puts the default routes of the home link; 0 = it sets none.
	HomeTable int
	// NoOptimistic: the kernel has no optimistic addresses (CONFIG_IPV6_OPTIMISTIC_DAD). Addresses are then set without
	// duplicate address detection of the kernel, and the machine does it (RFC 4862 5.4).
	NoOptimistic bool
	// Router: the node forwards for mobile networks. On the links that it registers from it is a host all the same: no Router flag in
	// Neighbor Advertisements, no group of all routers (RFC 3963 5.6, 5.7).
	Router bool
	// Verify is how long a router goes without a sign of life before it is asked; 0 = DefaultVerify. Confirm counts as a
	// sign, so that a node whose tunnel answers never asks.
	Verify time.Duration
}

// Limits. Strangers on a link can make a node's tables grow up to these, and no further.
const (
	MaxLinks     = 16  // managed at a time
	MaxRouters   = 16  // a link
	MaxPrefixes  = 32  // a link
	MaxAddresses = 8   // IPv6 care-of addresses a link, formed or found
	MaxIPv4      = 8   // IPv4 addresses a link that are looked at
	MaxTables    = 256 // routing tables, from Config.Table on

	// MaxRAs is how many Router Advertisements of one link are read in a second, with a burst of twice that.
	MaxRAs = 50
)

var raLimit = rate.PerSecond(MaxRAs, 2*MaxRAs)

// Defaults of Config.
const (
	DefaultTable  = 10800
	DefaultVerify = 10 * time.Second
)

// ErrConfig is wrapped by every error of New that is the config's fault.
var ErrConfig = errors.New("movement")

func (c *Config) check() error {
	fail := func(format string, a ...any) error {
		return fmt.Errorf("%w: %s", ErrConfig, fmt.Sprintf(format, a...))
	}
	if len(c.Links) == 0 {
		return fail("no link pattern given")
	}
	for i, p := range c.Links {
		if _, err := path.Match(p.Match, "x"); err != nil || p.Match == "" {
			return fail("link pattern %q is malformed", p.Match)
		}
		if !p.V4 && !p.V6 {
			c.Links[i].V4, c.Links[i].V6 = true, true
		}
	}
	if p := c.HomePrefix6; p.IsValid() && (!p.Addr().Is6() || p.Addr().Is4In6() || p.Bits() == 0) {
		return fail("%s is no IPv6 home prefix", p)
	}
	if p := c.HomePrefix4; p.IsValid() && (!p.Addr().Is4() || p.Bits() == 0) {
		return fail("%s is no IPv4 home network", p)
	}
	if len(c.Secret) > 0 && len(c.Secret) < 16 {
		return fail("the secret has %d octets, want at least 16", len(c.Secret))
	}
	if c.Table == 0 {
		c.Table = DefaultTable
	}
	if c.Table < 256 || c.HomeTable < 0 || c.HomeTable >= c.Table && c.HomeTable < c.Table+MaxTables {
		return fail("tables %d to %d must not be the kernel's (below 256) nor hold table %d", c.Table, c.Table+MaxTables-1, c.HomeTable)
	}
	if c.Verify == 0 {
		c.Verify = DefaultVerify
	}
	if c.Verify < time.Second {
		return fail("verify %s is less than a second", c.Verify)
	}
	return nil
}
