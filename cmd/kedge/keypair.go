package main

import (
	"crypto/subtle"
	"fmt"

	"kedge/internal/config"
	"kedge/internal/ipsec"
)

// keyPairs compares the key files of configs whose associations are each other's ends, where both files are here: other keys
// are silence on the wire, and a line in the log of whoever receives.
func keyPairs(cfgs []*config.Config) []config.Warning {
	var out []config.Warning
	for _, a := range cfgs {
		for _, n := range cfgs {
			if a.Anchor == nil || n == a || n.Node == nil && n.Gateway == nil {
				continue
			}
			for _, theirs := range a.Peers {
				for i, ours := range n.Peers {
					if !ends(theirs, ours) || fit(theirs, ours) {
						continue
					}
					at := n.Wrong(fmt.Sprintf("security.peers[%d].%s.key-file", i, ours.Protection), "", "")
					out = append(out, config.Warning{File: at.File, Line: at.Line, Key: at.Key, Kind: config.NotAuthorized,
						Text: fmt.Sprintf("the keys are not the other half of those that %s has for %s; make a pair with \"kedge keys %s\", and take the second file to the other side",
							a.File, theirs.Name, theirs.Name)})
				}
			}
		}
	}
	return out
}

// ends says whether two items of security.peers are two ends by their indexes.
func ends(a, b config.Peer) bool {
	switch {
	case a.Protection != b.Protection:
		return false
	case a.Protection == config.ProtectionESP:
		return a.ESP.SPIIn == b.ESP.SPIOut && a.ESP.SPIOut == b.ESP.SPIIn && a.ESP.Suite == b.ESP.Suite
	}
	return a.Protection == config.ProtectionRFC4285 && a.RFC4285.SPI == b.RFC4285.SPI
}

// fit says whether their keys are the same. A file that cannot be read is no reason to complain: each is on its own machine.
func fit(a, b config.Peer) bool {
	load := func(p config.Peer) (ipsec.Keys, error) {
		if p.Protection == config.ProtectionESP {
			return loadKeys(p.ESP.KeyFile, ipsec.Suite(p.ESP.Suite))
		}
		return loadKeys(p.RFC4285.KeyFile, ipsec.SuiteRFC4285)
	}
	x, err := load(a)
	if err != nil {
		return true
	}
	y, err := load(b)
	if err != nil {
		return true
	}
	same := func(k, l []byte) bool { return subtle.ConstantTimeCompare(k, l) == 1 }
	return same(x.In.Encryption, y.Out.Encryption) && same(x.In.Integrity, y.Out.Integrity) &&
		same(x.Out.Encryption, y.In.Encryption) && same(x.Out.Integrity, y.In.Integrity) && same(x.Shared, y.Shared)
}
