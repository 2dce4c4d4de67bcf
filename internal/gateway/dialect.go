package gateway

import (
	"net/netip"

	"kedge/internal/access"
	"kedge/wire/mobility"
)

// fallbackTries is how many transmissions go unanswered before the other dialect is tried.
const fallbackTries = 3

// fallBack changes an anchor's dialect after a sign that it does not speak the one that was used. False: it is configured,
// or proven, or was changed meanwhile.
func (m *Machine) fallBack(a *anchor, used Dialect, why string) bool {
	if a.Dialect != Auto || a.proven || a.dialect != used {
		return false
	}
	a.dialect = RFC5844
	if used == RFC5844 {
		a.dialect = Draft02
	}
	m.counts["dialect-changes"]++
	m.emitPeer(a, "dialect "+string(used), "dialect "+string(a.dialect), why)
	return true
}

// ipv4Answer is what an answer says about IPv4, in whichever dialect.
type ipv4Answer struct {
	present bool
	status  mobility.AddressStatus
	addr    netip.Prefix
	router  netip.Addr
}

// ipv4In reads the IPv4 options of an answer in the request's dialect: 37 and 38, or 30.
func ipv4In(o mobility.Options, d Dialect) (a ipv4Answer) {
	if d == Draft02 {
		if v, ok := o.IPv4AddressAck(); ok {
			a = ipv4Answer{present: true, status: v.Status, addr: prefix4(v.Addr, v.PrefixLen)}
		}
		return a
	}
	if v, ok := o.IPv4HomeAddressReply(); ok {
		a = ipv4Answer{present: true, status: v.Status, addr: prefix4(v.Addr, v.PrefixLen)}
	}
	if v, ok := o.IPv4DefaultRouter(); ok {
		a.router = v.Addr
	}
	return a
}

func prefix4(a netip.Addr, bits uint8) netip.Prefix {
	if !a.Is4() || bits > 32 {
		return netip.Prefix{}
	}
	return netip.PrefixFrom(a, int(bits))
}

// routerOf chooses the default router of a home network whose anchor names none (document 001): the first host address
// that is not the host's. Any works, because the link answers ARP for all of them.
func routerOf(home netip.Prefix) netip.Addr {
	r := home.Masked().Addr().Next()
	if home.Bits() >= 31 {
		r = home.Masked().Addr()
	}
	if r == home.Addr() {
		r = r.Next()
	}
	return r
}

// families lists the words of a set.
func familyNames(f access.Families) []string {
	var s []string
	if f&access.V4 != 0 {
		s = append(s, "v4")
	}
	if f&access.V6 != 0 {
		s = append(s, "v6")
	}
	return s
}
