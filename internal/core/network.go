package core

import (
	"net/netip"
	"slices"
)

// nowhere are addresses that are of one link, one host, a group or nobody: no router forwards them (RFC 4291 2.4 to 2.7, RFC 6890 2.2).
var nowhere = []netip.Prefix{
	netip.MustParsePrefix("::/127"), netip.MustParsePrefix("::ffff:0:0/96"), netip.MustParsePrefix("fe80::/10"), netip.MustParsePrefix("ff00::/8"),
	netip.MustParsePrefix("0.0.0.0/8"), netip.MustParsePrefix("127.0.0.0/8"), netip.MustParsePrefix("169.254.0.0/16"), netip.MustParsePrefix("224.0.0.0/3"),
}

// IsNetwork says whether a prefix can be a mobile network's (RFC 3963): no bits behind its length, no default route, and no addresses in it
// that no router forwards.
func IsNetwork(p netip.Prefix) bool {
	return p.IsValid() && p == p.Masked() && p.Bits() > 0 && !slices.ContainsFunc(nowhere, p.Overlaps)
}
