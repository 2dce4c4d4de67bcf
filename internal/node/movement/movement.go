// Package movement watches the links of a mobile node: which care-of addresses it could use, and whether it is at home
// (RFC 6275 11.5.1, 11.5.3, 11.5.5).
package movement

import (
	"net/netip"
	"time"
)

// CareOf is an address that the node could be reached at, on one of its links.
type CareOf struct {
	If      int
	Link    string     // name of the interface
	Addr    netip.Addr // IPv6 or IPv4; usable, or optimistic (RFC 4429)
	Prefix  netip.Prefix
	Router  netip.Addr // next hop; invalid on a link without one
	MTU     int        // of the link or as advertised, octets
	Prefer  int        // rank of the link in the config; less is better
	Home    bool       // the link is the home link: Addr is no care-of address, the node is at home there
	Since   time.Duration
	Network string // names the network, not the attachment: what was learned of it holds when the node comes back
}
