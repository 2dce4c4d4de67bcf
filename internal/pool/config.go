package pool

import (
	"fmt"
	"net/netip"
	"time"

	"kedge/internal/core"
)

// Config is one pool. An IPv6 pool hands out prefixes of length Delegate, an IPv4 pool single addresses of its home
// network Prefix.
type Config struct {
	Name   string
	Domain core.Domain
	Prefix netip.Prefix
	// Delegate is the length of each home network prefix of an IPv6 pool; 0 = 64. Must be 0 for IPv4.
	Delegate int
	// Router is the default router of an IPv4 home network (RFC 5844 3.1.1); never handed out. Unset = the first host.
	Router netip.Addr
	// Reserve is never handed out.
	Reserve []netip.Prefix
	// Lease bounds the lifetime of registrations that an address of this IPv4 pool was allocated for (RFC 5555 2.5); 0 =
	// it does not.
	Lease time.Duration
}

// check fills in defaults and says what is wrong.
func (c Config) check() (Config, error) {
	bad := func(format string, args ...any) (Config, error) {
		return c, fmt.Errorf("pool %q: %s", c.Name, fmt.Sprintf(format, args...))
	}
	if c.Name == "" {
		return bad("has no name")
	}
	if !c.Prefix.IsValid() {
		return bad("has no prefix")
	}
	if c.Prefix != c.Prefix.Masked() {
		return bad("%s has bits set after its length; write %s", c.Prefix, c.Prefix.Masked())
	}
	if !c.Prefix.Addr().IsGlobalUnicast() {
		return bad("%s is not unicast", c.Prefix)
	}
	for _, r := range c.Reserve {
		if !r.IsValid() || !c.Prefix.Overlaps(r) || r.Bits() < c.Prefix.Bits() {
			return bad("reserve %s is not inside %s", r, c.Prefix)
		}
	}
	if c.Lease != 0 && c.Lease < 4*time.Second {
		return bad("lease %s is shorter than 4s, the unit of lifetimes", c.Lease)
	}
	if c.Prefix.Addr().Is4() {
		if c.Delegate != 0 {
			return bad("delegate is for IPv6 pools; an IPv4 pool hands out addresses")
		}
		c.Delegate = 32
		if !c.Router.IsValid() {
			c.Router = c.Prefix.Addr()
			if c.Prefix.Bits() < 31 {
				c.Router = c.Router.Next()
			}
		}
		if !c.Prefix.Contains(c.Router) {
			return bad("router %s is not inside %s", c.Router, c.Prefix)
		}
		return c, nil
	}
	if c.Delegate == 0 {
		c.Delegate = 64
	}
	if c.Router.IsValid() {
		return bad("router is for IPv4 pools")
	}
	if c.Lease != 0 {
		return bad("lease is for IPv4 pools")
	}
	if c.Delegate < c.Prefix.Bits() || c.Delegate > 128 {
		return bad("delegate %d is not between the pool's length %d and 128", c.Delegate, c.Prefix.Bits())
	}
	if c.Delegate-c.Prefix.Bits() > maxUnitBits {
		return bad("%s has more than 2^%d prefixes of length %d; write a longer prefix", c.Prefix, maxUnitBits, c.Delegate)
	}
	for _, r := range c.Reserve {
		if c.Delegate-r.Bits() > maxReserveBits {
			return bad("reserve %s is more than 2^%d prefixes; make the pool smaller instead", r, maxReserveBits)
		}
	}
	return c, nil
}

// maxUnitBits keeps numbers of units, and sums of two, in 64 bits.
const maxUnitBits = 62

// maxReserveBits limits what the bitmap holds for ranges that are never handed out (32 MiB).
const maxReserveBits = 28
