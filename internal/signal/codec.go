package signal

import (
	"errors"
	"maps"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"

	"kedge/internal/ipsec"
	"kedge/wire"
)

// Config of a Codec. The zero value protects nothing and knows no home address: that of Proxy Mobile IPv6 without security.
type Config struct {
	// IPsec holds the policy database and the security associations; nil: nothing is protected, and nothing needs to be.
	IPsec *ipsec.Engine
	// Homes are the home addresses of a node: only to them a type 2 routing header may lead (RFC 6275 11.3.3). Without any,
	// every packet with one is dropped. SetHomes changes them.
	Homes []netip.Addr
	// Local are the daemon's own addresses at which it is a home agent or a correspondent node: what comes to them in ESP in tunnel mode
	// is a message, and all else that does is forwarded.
	Local []netip.Addr
	// Mapped lets in the dialect of draft-soliman-v4v6-mipv6: protocol 41 in IPv4 with an IPv4-mapped care-of address.
	Mapped bool
}

// hopLimit of the packets that are built.
const hopLimit = 64

// Codec turns packets of signalling into what "mh" ports carry, and back.
type Codec struct {
	cfg   Config
	homes atomic.Pointer[[]netip.Addr]

	mu    sync.Mutex // guards drops
	drops map[wire.Reason]uint64
}

// NewCodec makes one.
func NewCodec(cfg Config) *Codec {
	c := &Codec{cfg: cfg, drops: make(map[wire.Reason]uint64)}
	c.SetHomes(cfg.Homes...)
	return c
}

// SetHomes replaces the home addresses that type 2 routing headers may lead to.
func (c *Codec) SetHomes(homes ...netip.Addr) {
	homes = slices.Clone(homes)
	c.homes.Store(&homes)
}

// Drops calls f with every reason for which packets were dropped and how many were, in no order. What the policy database and the
// security associations refused is among them.
func (c *Codec) Drops(f func(reason wire.Reason, n uint64)) {
	c.mu.Lock()
	drops := maps.Clone(c.drops)
	c.mu.Unlock()
	if c.cfg.IPsec != nil {
		for r, n := range c.cfg.IPsec.Drops() {
			drops[r] += n
		}
	}
	for r, n := range drops {
		f(r, n)
	}
}

// counted is an error of the ipsec engine, which has counted it.
type counted struct{ error }

func (e counted) Unwrap() error { return e.error }

// drop counts an error, once, and gives it back. What has no reason is malformed.
func (c *Codec) drop(err error) error {
	if _, done := errors.AsType[counted](err); done {
		return err
	}
	reason := wire.ReasonOf(err)
	c.mu.Lock()
	c.drops[reason]++
	c.mu.Unlock()
	return err
}
