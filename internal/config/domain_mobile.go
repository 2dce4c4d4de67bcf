package config

import (
	"fmt"
	"slices"
)

// anchorNode compares a home agent with a mobile node that registers there: what is wrong here is silence on the wire.
func (k *domainCheck) anchorNode(a, n *Config) {
	ref := n.Node.Anchor
	if !slices.Contains(a.Anchor.Addresses, ref.IPv6) {
		return
	}
	if a.Anchor.DSMIP6 == nil {
		k.warn(n, "node.anchor", NotAuthorized, "%s offers no dsmip6", a.Name)
		return
	}
	if ref.IPv4.IsValid() && !slices.Contains(a.Anchor.Addresses, ref.IPv4) {
		k.warn(n, "node.anchor.addresses", NotAuthorized, "%s is no address of %s", ref.IPv4, a.Name)
	}
	if !slices.Contains(a.Anchor.DSMIP6.Dialects, ref.Dialect) {
		k.warn(n, "node.anchor.dialect", NotAuthorized, "%s does not answer the dialect %s", a.Name, ref.Dialect)
	}
	home := n.Node.Home
	i := slices.IndexFunc(a.Anchor.Subscribers.List, func(s Subscriber) bool { return s.HoA.Addr() == home.V6.Addr() })
	if i < 0 {
		k.warn(n, "node.home.v6", NotAuthorized, "%s knows no host with the home address %s", a.Name, home.V6.Addr())
		return
	}
	s := a.Anchor.Subscribers.List[i]
	if s.HoA.Bits() != home.V6.Bits() {
		k.warn(n, "node.home.v6", NotAuthorized, "%s has the home prefix %s for %s", a.Name, s.HoA.Masked(), s.ID)
	}
	switch wants := home.Dynamic4 || home.V4.IsValid(); {
	case wants && !s.Families.V4:
		k.warn(n, "node.home.v4", NotAuthorized, "%s has no IPv4 for %s", a.Name, s.ID)
	case home.V4.IsValid() && s.V4 != home.V4.Addr():
		k.warn(n, "node.home.v4", NotAuthorized, "%s has %s for %s", a.Name, addrOrPool(s), s.ID)
	}
	for _, x := range home.Networks {
		if !slices.Contains(s.Networks, x) {
			k.warn(n, "node.home.networks", NotAuthorized, "%s has no network %s for %s", a.Name, x, s.ID)
		}
	}
	theirs, _ := a.peer(s.Peer)
	ours, _ := n.peer(ref.Name)
	k.keys(a, n, theirs, ours)
}

func addrOrPool(s Subscriber) string {
	if s.V4.IsValid() {
		return s.V4.String()
	}
	return "an address from a pool"
}

// keys compares how two ends protect what they say to each other. theirs is what a has of n, ours what n has of a.
func (k *domainCheck) keys(a, n *Config, theirs, ours Peer) {
	i := slices.IndexFunc(n.Peers, func(p Peer) bool { return p.Name == ours.Name })
	path := fmt.Sprintf("security.peers[%d]", i)
	switch e, f := theirs.ESP, ours.ESP; {
	case theirs.Protection != ours.Protection:
		k.warn(n, path, NotAuthorized, "protection is %s here, and %s in %s for %s", ours.Protection, theirs.Protection, a.File, theirs.Name)
	case ours.Protection == ProtectionRFC4285 && theirs.RFC4285.SPI != ours.RFC4285.SPI:
		k.warn(n, path+".rfc4285.spi", NotAuthorized, "is %#x here, and %#x in %s for %s", ours.RFC4285.SPI, theirs.RFC4285.SPI, a.File, theirs.Name)
	case ours.Protection != ProtectionESP:
	case e.SPIIn != f.SPIOut:
		k.warn(n, path+".esp.spi-out", NotAuthorized, "is %#x here, but spi-in is %#x in %s for %s", f.SPIOut, e.SPIIn, a.File, theirs.Name)
	case e.SPIOut != f.SPIIn:
		k.warn(n, path+".esp.spi-in", NotAuthorized, "is %#x here, but spi-out is %#x in %s for %s", f.SPIIn, e.SPIOut, a.File, theirs.Name)
	case e.Suite != f.Suite:
		k.warn(n, path+".esp.suite", NotAuthorized, "is %s here, and %s in %s for %s", f.Suite, e.Suite, a.File, theirs.Name)
	}
	if theirs.Protection == ProtectionESP && ours.Protection == ProtectionESP {
		e, f := theirs.ESP, ours.ESP
		k.association(n, path+".esp", "return-routability", f.ReturnRoutability, e.ReturnRoutability, a.File, theirs.Name)
		k.association(n, path+".esp", "prefix-discovery", f.PrefixDiscovery, e.PrefixDiscovery, a.File, theirs.Name)
	}
}

// association compares the two ends of what is protected beside signalling.
func (k *domainCheck) association(n *Config, path, use string, ours, theirs *Association, file, name string) {
	switch at := path + "." + use; {
	case ours == nil && theirs == nil:
	case ours == nil:
		k.warn(n, path, NotAuthorized, "has no %s, but %s has it for %s: what comes without that is dropped there", use, file, name)
	case theirs == nil:
		k.warn(n, at, NotAuthorized, "is here, but not in %s for %s: what comes without it is dropped here", file, name)
	case ours.SPIOut != theirs.SPIIn:
		k.warn(n, at+".spi-out", NotAuthorized, "is %#x here, but spi-in is %#x in %s for %s", ours.SPIOut, theirs.SPIIn, file, name)
	case ours.SPIIn != theirs.SPIOut:
		k.warn(n, at+".spi-in", NotAuthorized, "is %#x here, but spi-out is %#x in %s for %s", ours.SPIIn, theirs.SPIOut, file, name)
	case ours.Suite != theirs.Suite:
		k.warn(n, at+".suite", NotAuthorized, "is %s here, and %s in %s for %s", ours.Suite, theirs.Suite, file, name)
	}
}

func (c *Config) peer(name string) (Peer, bool) {
	i := slices.IndexFunc(c.Peers, func(p Peer) bool { return p.Name == name })
	if i < 0 {
		return Peer{}, false
	}
	return c.Peers[i], true
}
