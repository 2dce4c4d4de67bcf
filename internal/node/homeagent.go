package node

import "net/netip"

// protectionESP is Anchor.Protection where ESP protects.
const protectionESP = "esp"

// homeAgent is the home agent in use. Which one that is changes while the node runs, where it is discovered.
type homeAgent struct {
	v6, v4     netip.Addr // invalid: not known
	name       string     // of the security peer
	protection string
	guarded    bool   // Anchor.Guarded
	by         string // how it was found
}

// reachable says whether an address's family has a home agent's address. Messages are of IPv6 also where IPv4 carries them.
func (a *homeAgent) reachable(from netip.Addr) bool {
	return a.v6.IsValid() && (from.Is6() || a.v4.IsValid())
}

// protected says whether signalling with it is.
func (a *homeAgent) protected() bool { return a.protection != "" && a.protection != "none" }
