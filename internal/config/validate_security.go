package config

import (
	"fmt"
	"net/netip"
	"path/filepath"
	"slices"
)

func (v *validator) security(c *Config, r *rawSecurity) {
	v.peers = map[string]Peer{}
	owner := map[netip.Prefix]string{}
	spis := map[uint32]string{}
	for i := range r.Peers.items {
		p := &r.Peers.items[i]
		peer := Peer{Name: v.name(&p.Name)}
		if _, dup := v.peers[peer.Name]; dup && peer.Name != "" {
			v.fail(&p.Name, fmt.Sprintf("peer %q is there twice", peer.Name), "give each peer a name of its own, or one peer several addresses")
		}
		for j := range p.Addresses.items {
			x, ok := v.peerAddress(&p.Addresses.items[j])
			if !ok {
				continue
			}
			if who, dup := owner[x]; dup {
				v.fail(&p.Addresses.items[j], fmt.Sprintf("%s belongs to peer %q already", p.Addresses.items[j].v, who), "an address has one owner")
				continue
			}
			if p.ESP != nil && !x.IsSingleIP() {
				v.fail(&p.Addresses.items[j], fmt.Sprintf("%s holds more than one sender, and two cannot share one key and its sequence numbers (RFC 4303 2.2)", x), "write one peer with a key of its own for each, or rfc4285")
				continue
			}
			owner[x] = peer.Name
			peer.Addresses = append(peer.Addresses, x)
		}
		empty(v, &p.Addresses, "is empty", `write the addresses that the peer speaks from, as in ["2001:db8:a::11"], or leave the key out for a mobile node`)
		v.protection(&peer, p, spis)
		if peer.Name != "" {
			v.peers[peer.Name] = peer
		}
		c.Peers = append(c.Peers, peer)
	}
}

// protection wants exactly one way to protect signalling with a peer, or the word that there is none.
func (v *validator) protection(peer *Peer, p *rawPeer, spis map[uint32]string) {
	ways := 0
	if p.Protection.set {
		ways++
		if peer.Protection = p.Protection.v; peer.Protection == ProtectionNone {
			v.warn(&p.Protection, Unprotected, "signalling with peer %s is neither authenticated nor encrypted", peer.Name)
		}
	}
	if e := p.ESP; e != nil {
		ways++
		peer.Protection = ProtectionESP
		peer.ESP = ESP{SPIIn: uint32(e.SPIIn.v), SPIOut: uint32(e.SPIOut.v), Suite: e.Suite.v, KeyFile: v.beside(&e.KeyFile)}
		v.ownSPI(&e.SPIIn, peer.Name, spis)
		v.associations(peer, e, spis)
		if e.Suite.v == "aes128-sha1" {
			v.warn(&e.Suite, WeakSuite, "HMAC-SHA1-96 is for peers that know nothing better (RFC 8221 6)")
		}
	}
	if a := p.RFC4285; a != nil {
		ways++
		peer.Protection = ProtectionRFC4285
		peer.RFC4285 = RFC4285{SPI: uint32(a.SPI.v), KeyFile: v.beside(&a.KeyFile)}
		v.ownSPI(&a.SPI, peer.Name, spis)
	}
	switch {
	case ways > 1:
		v.fail(p, "is protected in more than one way", "keep one of protection: none, esp and rfc4285")
	case ways == 0 && !v.blamed(p.path, "protection") && !v.blamed(p.path, "esp") && !v.blamed(p.path, "rfc4285") && !v.blamed(p.path, "ike"):
		name := cmpOr(peer.Name, "NAME")
		v.fail(p, "says nothing about protection", fmt.Sprintf("write the esp: section that \"kedge keys %s\" shows, or \"protection: none\" to go without", name))
	}
}

// ownSPI refuses an index of two peers: what comes in is told apart by it alone.
func (v *validator) ownSPI(l *leaf[spi], peer string, spis map[uint32]string) {
	if l.v == 0 {
		return
	}
	if who, dup := spis[uint32(l.v)]; dup {
		v.fail(l, fmt.Sprintf("%#x belongs to peer %q already", uint32(l.v), who), "give each peer an SPI of its own, at both ends")
		return
	}
	spis[uint32(l.v)] = peer
}

// beside finds a file as the config file names it: a relative path begins at the config's directory.
func (v *validator) beside(l *leaf[string]) string {
	if l.v == "" || filepath.IsAbs(l.v) {
		return l.v
	}
	return filepath.Join(filepath.Dir(v.src.file), l.v)
}

// peerAddress reads an address or a prefix.
func (v *validator) peerAddress(l *leaf[string]) (netip.Prefix, bool) {
	x, err := netip.ParsePrefix(l.v)
	if err != nil {
		a, aerr := netip.ParseAddr(l.v)
		if aerr != nil || a.Zone() != "" {
			if l.v != "" {
				v.fail(l, fmt.Sprintf("%q is no address or prefix", l.v), `write "2001:db8:a::11" or "2001:db8:a::/64", in quotes`)
			}
			return x, false
		}
		x = netip.PrefixFrom(a, a.BitLen())
	}
	switch {
	case x.Addr().Is4In6():
		v.fail(l, fmt.Sprintf("%q is IPv4", l.v), "write "+x.Addr().Unmap().String())
	case x != x.Masked():
		v.fail(l, l.v+" has host bits set", "write "+x.Masked().String())
	default:
		return x, true
	}
	return x, false
}

// known resolves the name of a peer.
func (v *validator) known(l *leaf[string]) (Peer, bool) {
	p, ok := v.peers[l.v]
	if ok || l.v == "" {
		return p, ok
	}
	names := make([]string, 0, len(v.peers))
	for n := range v.peers {
		names = append(names, n)
	}
	slices.Sort(names)
	want := "add it to security.peers"
	if near, ok := nearest(l.v, names); ok {
		want = fmt.Sprintf("did you mean %q?", near)
	} else if len(names) > 0 {
		want += ", or write " + join(first(names, 5), "or")
	}
	v.fail(l, fmt.Sprintf("no peer is called %q", l.v), want)
	return p, false
}

// speaks refuses a peer without IPv6 addresses where it is known by them.
func (v *validator) speaks(l *leaf[string], p Peer) {
	six := slices.ContainsFunc(p.Addresses, func(x netip.Prefix) bool { return x.Addr().Is6() })
	switch {
	case six || v.faulty("security.peers"):
	case len(p.Addresses) == 0:
		v.fail(l, fmt.Sprintf("peer %q has no addresses", p.Name), "add them in security.peers: only mobile nodes go without")
	default:
		v.fail(l, fmt.Sprintf("peer %q has IPv4 addresses only", p.Name), "IPv4 transport between gateway and anchor is not in this version: write an IPv6 address")
	}
}

// unusedPeers warns of those that nobody can be: without addresses, and not named where mobile nodes and home agents are.
func (v *validator) unusedPeers(c *Config, r *rawSecurity) {
	named := mobileNames(c)
	for i, p := range c.Peers {
		if len(p.Addresses) == 0 && p.Name != "" && !named[p.Name] {
			v.warn(&r.Peers.items[i].Name, UnusedSetting, "peer %s has no addresses and may register no home address: nobody is it", p.Name)
		}
	}
}
