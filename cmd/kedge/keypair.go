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
					path := fmt.Sprintf("security.peers[%d].%s", i, ours.Protection)
					if ends(theirs, ours) && !fit(theirs, ours) {
						out = append(out, otherHalf(n, path, a.File, theirs.Name))
					}
					for _, x := range associationsOf(&theirs) {
						for _, y := range associationsOf(&ours) {
							if x.use == y.use && x.SPIIn == y.SPIOut && x.SPIOut == y.SPIIn && x.Suite == y.Suite && !halves(x.KeyFile, y.KeyFile, x.Suite) {
								out = append(out, otherHalf(n, path+"."+x.use.String(), a.File, theirs.Name))
							}
						}
					}
				}
			}
		}
	}
	return out
}

func otherHalf(n *config.Config, path, file, name string) config.Warning {
	at := n.Wrong(path+".key-file", "", "")
	return config.Warning{File: at.File, Line: at.Line, Key: at.Key, Kind: config.NotAuthorized,
		Text: fmt.Sprintf("the keys are not the other half of those that %s has for %s; make a pair with \"kedge keys %s\", and take the second file to the other side",
			file, name, name)}
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

// fit says whether their keys are the same.
func fit(a, b config.Peer) bool {
	if a.Protection == config.ProtectionESP {
		return halves(a.ESP.KeyFile, b.ESP.KeyFile, a.ESP.Suite)
	}
	return halves(a.RFC4285.KeyFile, b.RFC4285.KeyFile, string(ipsec.SuiteRFC4285))
}

// halves compares two files. One that cannot be read is no reason to complain: each is on its own machine.
func halves(a, b, suite string) bool {
	x, err := loadKeys(a, ipsec.Suite(suite))
	if err != nil {
		return true
	}
	y, err := loadKeys(b, ipsec.Suite(suite))
	if err != nil {
		return true
	}
	same := func(k, l []byte) bool { return subtle.ConstantTimeCompare(k, l) == 1 }
	return same(x.In.Encryption, y.Out.Encryption) && same(x.In.Integrity, y.Out.Integrity) &&
		same(x.Out.Encryption, y.In.Encryption) && same(x.Out.Integrity, y.In.Integrity) && same(x.Shared, y.Shared)
}
