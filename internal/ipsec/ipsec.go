// Package ipsec protects signalling: a policy database with selectors bound to home addresses, security associations, ESP in
// transport and tunnel mode, and replay windows (RFC 4301, 4303, 3776, 4877). It exchanges no keys and does no I/O.
package ipsec

import (
	"net/netip"
)

// Traffic is what selectors match: the innermost IPv6 packet as the policy sees it. Home addresses, where the packet has a Home
// Address option or type 2 routing header, stand for the addresses that change (RFC 3776 4.3, RFC 4877 5).
type Traffic struct {
	Local, Remote         netip.Addr
	LocalHome, RemoteHome netip.Addr // invalid = none
	Proto                 uint8      // 135 or 58
	Type                  uint8      // Mobility Header type or ICMPv6 type
}
