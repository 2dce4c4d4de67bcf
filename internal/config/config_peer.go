package config

import (
	"net/netip"
	"time"
)

// Correspondent is a node that mobile nodes exchange packets with directly (RFC 6275 9). Addresses empty: every own one. Accept empty:
// every home address.
type Correspondent struct {
	Addresses   []netip.Addr
	Accept      []netip.Prefix
	Table       int
	LifetimeMax time.Duration
	Bindings    int
	Requests    int // a second
}
