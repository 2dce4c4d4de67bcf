package movement

import (
	"net/netip"
	"time"
)

// ValidUntil is when the valid lifetime of a care-of address ends, as far as Router Advertisements tell it, boot time: a binding
// should not outlive it (RFC 6275 11.7.1). Of others it is later than any time.
func (m *Machine) ValidUntil(ifi int, a netip.Addr) time.Duration {
	if l := m.links[ifi]; l != nil {
		for _, x := range l.addrs {
			if x.a == a && x.from != nil {
				return x.from.valid
			}
		}
	}
	return never
}
