package peer

import (
	"errors"
	"fmt"
	"net/netip"
	"time"

	"kedge/internal/core"
	"kedge/wire/ip"
	"kedge/wire/mobility"
)

// Config is what a correspondent is. Zero durations and limits mean the defaults named beside them.
type Config struct {
	// Addresses are the own ones that mobile nodes may bind for; empty: whatever address a message comes to. A mobile node
	// gives its home addresses.
	Addresses []netip.Addr
	// Accept are the networks whose home addresses may be bound; empty: all.
	Accept []netip.Prefix
	Limits Limits
	// LifetimeMax of a binding, 7 min, which is the most (MAX_RR_BINDING_LIFETIME).
	LifetimeMax time.Duration
	// Grace is how long packets from the former care-of address stay accepted after a movement; negative = not at all. 500 ms
	Grace time.Duration
	// Device is the data plane's, which routes lead to; "" = kedge0. Table is the first of MaxOwn+2 routing tables that are the
	// machine's own, 0 = 10900.
	Device string
	Table  int
	// Forward makes the sessions of bindings, and what leads packets to them, in place of the machine: it is called during Handle
	// whenever the cache changes, and its effects come before the answer to the mobile node.
	Forward func(Binding) []core.Effect
	// Used says with Forward how many packets a binding has carried to the mobile node so far. nil: nobody knows, so no binding is
	// taken to be in use. Without Forward the machine asks for the counters of its sessions.
	Used func(Binding) uint64
}

// Binding is a change of the cache as others see it. CareOf is invalid when the binding is gone. A movement is told by another CareOf
// of the same ID.
type Binding struct {
	ID        core.ID // the session's, where the machine makes it; never reused
	Home, Own netip.Addr
	CareOf    netip.Addr
}

// Limits of what others can make a correspondent hold or do.
type Limits struct {
	// Bindings, 10,000, with those that ended and whose nonces could still be replayed.
	Bindings int
	// Requests a second, in bursts of as many: of test messages, and as many of Binding Updates; 1,000. One /64 of sources has a
	// tenth of each.
	Requests int
}

// MaxOwn is how many own addresses can have bindings at a time, when the machine routes to the data plane by itself.
const MaxOwn = 64

const (
	defaultTable    = 10900
	defaultBindings = 10_000
	defaultRequests = 1_000
	defaultGrace    = 500 * time.Millisecond

	maxRRBindingLifetime = 420 * time.Second // MAX_RR_BINDING_LIFETIME, RFC 6275 12
	maxNonceLifetime     = 240 * time.Second // MAX_NONCE_LIFETIME
	nonceInterval        = 30 * time.Second  // MAX_NONCE_LIFETIME - MAX_TOKEN_LIFETIME, RFC 6275 5.2.7
)

func (c Config) withDefaults() (Config, error) {
	bad := func(format string, args ...any) (Config, error) { return c, fmt.Errorf("peer: "+format, args...) }
	for _, a := range c.Addresses {
		if !ip.Routable(a) || a.Zone() != "" {
			return bad("%s cannot be a correspondent's address: want a routable IPv6 unicast address", a)
		}
	}
	for _, p := range c.Accept {
		if !p.IsValid() || !p.Addr().Is6() {
			return bad("%s is no IPv6 prefix: only IPv6 home addresses are bound", p)
		}
	}
	if c.Limits.Bindings < 0 || c.Limits.Requests < 0 {
		return bad("a limit is negative")
	}
	def(&c.Limits.Bindings, defaultBindings)
	def(&c.Limits.Requests, defaultRequests)
	def(&c.LifetimeMax, maxRRBindingLifetime)
	def(&c.Grace, defaultGrace)
	def(&c.Table, defaultTable)
	c.Grace = max(c.Grace, 0)
	if c.LifetimeMax < mobility.LifetimeUnit || c.LifetimeMax > maxRRBindingLifetime {
		return bad("lifetime-max %s is not between %s and %s (RFC 6275 5.2.6)", c.LifetimeMax, mobility.LifetimeUnit, maxRRBindingLifetime)
	}
	if c.Device == "" {
		c.Device = "kedge0"
	}
	return c, nil
}

func def[T int | time.Duration](v *T, d T) {
	if *v == 0 {
		*v = d
	}
}

var errNoRandomness = errors.New("peer: no source of randomness")
