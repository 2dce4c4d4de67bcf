package config

import "fmt"

// Association is a pair of security associations with static keys, one a direction (RFC 4303).
type Association struct {
	SPIIn, SPIOut uint32
	Suite         string // as in ipsec.Suite
	KeyFile       string // as Load found it: beside the config file unless absolute
}

// associations are what a peer's ESP protects beside signalling.
func (v *validator) associations(peer *Peer, e *rawESP, spis map[uint32]string) {
	if r := e.ReturnRoutability; r != nil {
		peer.ESP.ReturnRoutability = v.association(peer, &r.SPIIn, &r.SPIOut, &r.Suite, &r.KeyFile, spis)
	}
	if r := e.PrefixDiscovery; r != nil {
		peer.ESP.PrefixDiscovery = v.association(peer, &r.SPIIn, &r.SPIOut, &r.Suite, &r.KeyFile, spis)
	}
}

func (v *validator) association(peer *Peer, in, out *leaf[spi], suite, file *leaf[string], spis map[uint32]string) *Association {
	a := &Association{SPIIn: uint32(in.v), SPIOut: uint32(out.v), Suite: suite.v, KeyFile: v.beside(file)}
	v.ownSPI(in, peer.Name, spis)
	// Both would count the same sequence numbers, each from where it is (RFC 4303 3.3.3).
	for _, other := range []string{peer.ESP.KeyFile, keyFile(peer.ESP.ReturnRoutability)} {
		if a.KeyFile != "" && a.KeyFile == other {
			v.fail(file, fmt.Sprintf("%s is the key file of another association already", file.v), fmt.Sprintf("make keys of its own: kedge keys %s --uses all", cmpOr(peer.Name, "NAME")))
		}
	}
	if suite.v == "aes128-sha1" {
		v.warn(suite, WeakSuite, "HMAC-SHA1-96 is for peers that know nothing better (RFC 8221 6)")
	}
	return a
}

func keyFile(a *Association) string {
	if a == nil {
		return ""
	}
	return a.KeyFile
}

// mobilePeers refuses what is for mobile nodes and home agents in others' associations (RFC 4877 6).
func (v *validator) mobilePeers(c *Config, r *rawSecurity) {
	mobile := mobileNames(c)
	for i := range c.Peers {
		e := r.Peers.items[i].ESP
		if e == nil || mobile[c.Peers[i].Name] || v.faulty("node") || v.faulty("anchor") {
			continue
		}
		const want = "name the peer in anchor.subscribers or node.anchor, or leave this out"
		if e.ReturnRoutability != nil {
			v.fail(e.ReturnRoutability, fmt.Sprintf("is for mobile nodes and their home agents, and peer %q is neither", c.Peers[i].Name), want)
		}
		if e.PrefixDiscovery != nil {
			v.fail(e.PrefixDiscovery, fmt.Sprintf("is for mobile nodes and their home agents, and peer %q is neither", c.Peers[i].Name), want)
		}
	}
}

// mobileNames are the peers that are named as a mobile node or as the home agent of one.
func mobileNames(c *Config) map[string]bool {
	named := map[string]bool{}
	if c.Node != nil {
		named[c.Node.Anchor.Name] = true
		for _, n := range c.Node.Anchor.Others {
			named[n] = true
		}
	}
	if c.Anchor != nil {
		for _, s := range c.Anchor.Subscribers.List {
			named[s.Peer] = true
		}
	}
	return named
}
