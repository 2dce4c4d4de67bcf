package homeagent

import (
	"net/netip"
	"slices"
	"time"

	"kedge/internal/binding"
	"kedge/internal/core"
)

// Registration is what one node registered: its home addresses with one care-of address. It is replaced as a whole (RFC
// 5555 4.4.2.1); each of its home keys is a binding cache entry in the words of RFC 6275 9.1 and RFC 5555 2.3.
type Registration struct {
	ID     core.ID
	Node   string // identifier of the subscriber
	Domain core.Domain
	Home   netip.Addr // IPv6 home address
	V4     []V4Home
	// Router: it is a mobile router's, RFC 3963 (flag R); Networks are its IPv6 mobile network prefixes.
	Router   bool
	Networks []netip.Prefix
	State    binding.State

	Framing Framing
	Dialect Dialect
	CareOf  netip.Addr
	Port    uint16         // observed, of UDP
	Local   netip.Addr     // home agent address that the request came to
	Outer   netip.AddrPort // and the IPv4 one around it
	UDP     bool           // data goes in UDP: there is a NAT, or it is forced
	NAT     bool
	Both    bool // flag L: the link-local address with the same interface identifier is the node's too
	Auth    core.Auth

	Sequence  uint16
	MessageID uint64 // RFC 4285 6; 0 = none was accepted
	Lifetime  uint16 // granted, units of 4 s
	Expires   time.Duration
	Since     int64 // wall time of the creation, ns since 1970

	reminders int // Binding Refresh Requests sent since the last Binding Update
	due       time.Duration
	place     int // in the queue
}

// V4Home is one IPv4 home address, with 32 bits, or IPv4 mobile network prefix.
type V4Home struct {
	Prefix  netip.Prefix
	Dynamic bool // allocated from a pool
}

// V6 is the key of the IPv6 home address.
func (h *Registration) V6() netip.Prefix { return netip.PrefixFrom(h.Home, 128) }

// Keys lists the home keys, the IPv6 home address first.
func (h *Registration) Keys() []netip.Prefix {
	keys := make([]netip.Prefix, 1, 1+len(h.V4)+len(h.Networks))
	keys[0] = h.V6()
	for _, v := range h.V4 {
		keys = append(keys, v.Prefix)
	}
	return append(keys, h.Networks...)
}

// Has says whether k is a home key.
func (h *Registration) Has(k netip.Prefix) bool {
	if k == h.V6() {
		return true
	}
	for _, v := range h.V4 {
		if v.Prefix == k {
			return true
		}
	}
	return slices.Contains(h.Networks, k)
}

// LinkLocal is the link-local address to defend with flag L (RFC 6275 10.3.1): the interface identifier of the home address
// behind fe80::/64.
func (h *Registration) LinkLocal() netip.Addr { return LinkLocal(h.Home) }

// LinkLocal derives a node's link-local address from its home address.
func LinkLocal(home netip.Addr) netip.Addr {
	a := home.As16()
	copy(a[:8], []byte{0xfe, 0x80, 0, 0, 0, 0, 0, 0})
	return netip.AddrFrom16(a)
}

// port of DSMIPv6, RFC 5555 2.3.2.2.
const port = 4191

// Chain is what data of the node is tunnelled in: protocols 4 and 41, or UDP. A node that may tunnel plainly may send in UDP
// all the same, from the port that its Binding Update came from: the plain chain names that one if it is not the usual one.
func (h *Registration) Chain() core.Chain {
	c := core.Chain{N: 1}
	switch {
	case h.Framing == Native:
		c.Layer[0] = core.Layer{Local: netip.AddrPortFrom(h.Local, 0), Remote: netip.AddrPortFrom(h.CareOf, 0)}
	case h.UDP:
		c.Layer[0] = core.Layer{Local: h.Outer, Remote: netip.AddrPortFrom(h.CareOf, h.Port)}
	default:
		c.Layer[0] = core.Layer{Local: netip.AddrPortFrom(h.Outer.Addr(), 0), Remote: netip.AddrPortFrom(h.CareOf, 0)}
		if h.Framing == UDP && h.Port != port {
			c.Layer[0].Remote = netip.AddrPortFrom(h.CareOf, h.Port)
		}
	}
	return c
}

// Path is how a message of the home agent's own reaches the node: as the answer to its last Binding Update did, by the
// care-of address (RFC 6275 10.4.2).
func (h *Registration) Path() core.Path {
	p := core.Path{Local: netip.AddrPortFrom(h.Local, 0), Auth: h.Auth}
	switch h.Framing {
	case Native:
		p.Remote, p.Home = netip.AddrPortFrom(h.CareOf, 0), h.Home
	case UDP:
		p.Remote, p.Outer.N = netip.AddrPortFrom(h.Home, 0), 1
		p.Outer.Layer[0] = core.Layer{Local: h.Outer, Remote: netip.AddrPortFrom(h.CareOf, h.Port)}
	case Proto41:
		p.Remote, p.Home, p.Outer.N = netip.AddrPortFrom(mapped(h.CareOf), 0), h.Home, 1
		p.Outer.Layer[0] = core.Layer{Local: h.Outer, Remote: netip.AddrPortFrom(h.CareOf, 0)}
	}
	return p
}

// Ops make the data plane forward the registration as it is now. dark: a registration that is over drops its packets
// silently instead of not being known.
func (h *Registration) Ops(grace time.Duration, dark bool) []core.Op {
	on := h.State == binding.Active
	if !on && !dark {
		return []core.Op{core.Drop{ID: h.ID}}
	}
	ops := make([]core.Op, 0, 2+len(h.V4)+len(h.Networks))
	ops = append(ops, core.SetSession{ID: h.ID, Domain: h.Domain, Chain: h.Chain(), Grace: grace})
	for _, k := range h.Keys() {
		ops = append(ops, core.SetKey{Match: core.Match{Domain: h.Domain, Dst: k}, ID: h.ID, Up: on, Down: on})
	}
	return ops
}

// Follow takes over what an accepted request says of where the node is.
func (h *Registration) Follow(r *Request) {
	h.Framing, h.Dialect, h.CareOf, h.Port, h.NAT = r.Framing, r.Dialect, r.CareOf, r.Port, r.NAT
	h.Local, h.Outer = r.Path.Local.Addr(), r.Path.Outer.Layer[0].Local
	h.Auth = r.Path.Auth
	h.Order(r)
}

// Order remembers what orders the next request.
func (h *Registration) Order(r *Request) {
	h.Sequence = r.Sequence
	if r.HasMessageID {
		h.MessageID = r.MessageID
	}
}
