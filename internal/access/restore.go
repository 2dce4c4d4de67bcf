package access

import (
	"net/netip"

	"kedge/internal/core"
)

// Restore is the Grant of an earlier run of the gateway, for a host that has it already: nothing is sent. DHCP renewals
// are answered from it, and periodic advertisements go on within one interval. linkLocal is what LinkLocal said; invalid
// if it is not known.
func (l *HomeLink) Restore(now core.Now, mac core.MAC, g Grant, linkLocal netip.Addr, out []Action) []Action {
	h := l.host(now, mac)
	out = l.apply(now, h, g, out)
	h.learn(linkLocal)
	h.first = 0
	l.schedule(now, h)
	l.settle(h)
	return out
}

// LinkLocal is the link-local address under which a host was seen; invalid if none was.
func (l *HomeLink) LinkLocal(mac core.MAC) netip.Addr {
	if h := l.hosts[mac]; h != nil {
		return h.linkLocal
	}
	return netip.Addr{}
}
