package config

import (
	"net/netip"
	"time"
)

// Discovery is how mobile nodes find home agents and the prefixes of their home link (RFC 6275 7, 10.5, 10.6).
type Discovery struct {
	Preference           uint16
	Lifetime             time.Duration // as home agent
	Advertise            bool          // on the home link
	Interval             time.Duration
	MinInterval          time.Duration // 0 = by Interval
	MinDelay             time.Duration // 0 = by MinInterval
	RouterLifetime       time.Duration // 0 = by Interval
	NoRouter             bool          // hosts take it as no default router
	Managed, Other       bool
	Prefixes             []HomePrefix
	Requests             int  // answered in a second
	NoPrefixes           bool // nodes are not told of prefixes
	MinPrefix, MaxPrefix time.Duration
}

// HomePrefix is a prefix of the home link.
type HomePrefix struct {
	Prefix             netip.Prefix
	Valid, Preferred   time.Duration
	OnLink, Autonomous bool
}
