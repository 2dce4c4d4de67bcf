package binding

import (
	"net/netip"
	"slices"
)

// Homes is the set of home keys of a session: prefixes, and an IPv4 home address with the length of its home network.
type Homes struct {
	Prefixes []netip.Prefix
	V4       netip.Prefix // not masked; invalid = none
}

// Empty says that nothing is there.
func (h Homes) Empty() bool { return len(h.Prefixes) == 0 && !h.V4.IsValid() }

// Equal compares; the order of prefixes counts.
func (h Homes) Equal(o Homes) bool { return h.V4 == o.V4 && slices.Equal(h.Prefixes, o.Prefixes) }

// Keys lists the home keys as they are found and forwarded: prefixes, and the IPv4 address as a /32.
func (h Homes) Keys() []netip.Prefix {
	keys := slices.Clone(h.Prefixes)
	if h.V4.IsValid() {
		keys = append(keys, netip.PrefixFrom(h.V4.Addr(), 32))
	}
	return keys
}

// SetHomes replaces all home keys of a session at once; on ErrOwned nothing changes. At most MaxPrefixes prefixes.
func (c *Cache) SetHomes(i Index, h Homes) error {
	e := c.At(i)
	keys := h.Keys()
	for n, k := range keys {
		if j, ok := c.byHome[homeOf(e.Domain, k)]; ok && j != i || slices.Contains(keys[:n], k) {
			return ErrOwned
		}
	}
	if len(h.Prefixes) > MaxPrefixes {
		return ErrOwned
	}
	c.dropHomes(i, e)
	for n, p := range h.Prefixes {
		v := prefix6{p.Addr().As16(), uint8(p.Bits())}
		if n == 0 {
			e.prefix = v
		} else {
			c.more[i] = append(c.more[i], v)
		}
	}
	e.prefixes = uint8(len(h.Prefixes))
	if h.V4.IsValid() {
		e.v4, e.v4bits = h.V4.Addr().As4(), uint8(h.V4.Bits())+1
	}
	for _, k := range keys {
		c.byHome[homeOf(e.Domain, k)] = i
	}
	return nil
}

// Homes gives the home keys.
func (c *Cache) Homes(i Index) Homes {
	e := c.At(i)
	var h Homes
	if e.prefixes > 0 {
		h.Prefixes = c.AppendPrefixes(make([]netip.Prefix, 0, e.prefixes), i)
	}
	h.V4, _ = e.V4()
	return h
}

// AppendPrefixes appends the home network prefixes.
func (c *Cache) AppendPrefixes(to []netip.Prefix, i Index) []netip.Prefix {
	e := c.At(i)
	if e.prefixes == 0 {
		return to
	}
	to = append(to, e.prefix.prefix())
	if e.prefixes > 1 {
		for _, p := range c.more[i] {
			to = append(to, p.prefix())
		}
	}
	return to
}

// PrefixCount counts the home network prefixes.
func (e *Entry) PrefixCount() int { return int(e.prefixes) }

// V4 is the IPv4 home address with the length of its home network.
func (e *Entry) V4() (netip.Prefix, bool) {
	if e.v4bits == 0 {
		return netip.Prefix{}, false
	}
	return netip.PrefixFrom(netip.AddrFrom4(e.v4), int(e.v4bits)-1), true
}

func (c *Cache) dropHomes(i Index, e *Entry) {
	for _, k := range c.Homes(i).Keys() {
		delete(c.byHome, homeOf(e.Domain, k))
	}
	delete(c.more, i)
	e.prefixes, e.prefix, e.v4, e.v4bits = 0, prefix6{}, [4]byte{}, 0
}

// Without is h less one key.
func (h Homes) Without(k netip.Prefix) Homes {
	out := Homes{V4: h.V4}
	for _, p := range h.Prefixes {
		if p != k {
			out.Prefixes = append(out.Prefixes, p)
		}
	}
	if h.V4.IsValid() && k == netip.PrefixFrom(h.V4.Addr(), 32) {
		out.V4 = netip.Prefix{}
	}
	return out
}
