package main

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"

	"kedge/internal/config"
	"kedge/internal/ipsec"
	"kedge/internal/ipsec/rfc4285"
)

// securityPeers says in the words of package ipsec whom the file trusts, with the keys of the files that it names. An error of
// a key file is a config.Errors with the line that names the file.
func securityPeers(cfg *config.Config) ([]ipsec.Peer, error) {
	var out []ipsec.Peer
	var wrong config.Errors
	for i, p := range cfg.Peers {
		q := ipsec.Peer{Name: p.Name, Addresses: p.Addresses, Protection: ipsec.Protection(p.Protection)}
		if a := cfg.Anchor; a != nil {
			for _, s := range a.Subscribers.List {
				if s.Peer == p.Name {
					q.Homes = append(q.Homes, s.HoA.Addr())
				}
			}
			if len(q.Homes) > 0 {
				q.Own = sixes(a.Addresses)
			}
		}
		if n := cfg.Node; n != nil && slices.Contains(homeAgentPeers(n), p.Name) {
			q.Own = homeAddresses(n)
			q.Addresses = slices.DeleteFunc(slices.Clone(p.Addresses), func(x netip.Prefix) bool { return x.Addr().Is4() })
			if n.Anchor.Name == p.Name && n.Anchor.IPv6.IsValid() && (len(nodePeers(cfg)) == 0 || len(q.Addresses) == 0) {
				q.Addresses = []netip.Prefix{netip.PrefixFrom(n.Anchor.IPv6, 128)} // messages are of IPv6, whatever carries them
			}
		}
		if len(q.Addresses)+len(q.Homes) == 0 {
			continue // nobody is it, as a warning says
		}
		path := fmt.Sprintf("security.peers[%d].%s", i, p.Protection)
		switch p.Protection {
		case config.ProtectionESP:
			keys, err := loadKeys(p.ESP.KeyFile, ipsec.Suite(p.ESP.Suite))
			if err != nil {
				wrong = append(wrong, wrongKeys(cfg, path, p.Name, err))
				continue
			}
			q.SAs = []ipsec.SA{{Use: ipsec.Signalling, SPIIn: p.ESP.SPIIn, SPIOut: p.ESP.SPIOut, Keys: keys}}
			for _, u := range associationsOf(&p) {
				keys, err := loadKeys(u.KeyFile, ipsec.Suite(u.Suite))
				if err != nil {
					wrong = append(wrong, wrongKeys(cfg, path+"."+u.use.String(), p.Name, err))
					continue
				}
				q.SAs = append(q.SAs, ipsec.SA{Use: u.use, SPIIn: u.SPIIn, SPIOut: u.SPIOut, Keys: keys})
			}
		case config.ProtectionRFC4285:
			keys, err := loadKeys(p.RFC4285.KeyFile, ipsec.SuiteRFC4285)
			if err != nil {
				wrong = append(wrong, wrongKeys(cfg, path, p.Name, err))
				continue
			}
			q.Mobility = rfc4285.Association{SPI: p.RFC4285.SPI, Key: keys.Shared}
		}
		out = append(out, q)
	}
	if len(wrong) > 0 {
		return nil, wrong
	}
	return out, nil
}

// association is one that a peer has beside that of its signalling, and what it is for; its name in the config is that of the use.
type association struct {
	*config.Association
	use ipsec.Use
}

// associationsOf are those of a peer.
func associationsOf(p *config.Peer) (out []association) {
	if a := p.ESP.ReturnRoutability; a != nil {
		out = append(out, association{a, ipsec.ReturnRoutability})
	}
	if a := p.ESP.PrefixDiscovery; a != nil {
		out = append(out, association{a, ipsec.PrefixDiscovery})
	}
	return out
}

// sixes are the IPv6 addresses of a list.
func sixes(in []netip.Addr) []netip.Addr {
	return slices.DeleteFunc(slices.Clone(in), func(a netip.Addr) bool { return a.Is4() })
}

// errSuite is keys of another suite than the file says.
var errSuite = errors.New("the suites differ")

func loadKeys(path string, suite ipsec.Suite) (ipsec.Keys, error) {
	keys, err := ipsec.LoadKeys(path)
	if err == nil && keys.Suite != suite {
		err = fmt.Errorf("key file %s is for %s: %w", path, keys.Suite, errSuite)
	}
	return keys, err
}

// wrongKeys says where the key file is named, what is wrong with it and what to do.
func wrongKeys(cfg *config.Config, path, name string, err error) *config.Error {
	want := fmt.Sprintf("make a pair with \"kedge keys %s\", and take the other half to the other side", name)
	switch {
	case errors.Is(err, os.ErrPermission):
		want = "run as root, or as the owner of the file"
	case errors.Is(err, errSuite):
		return cfg.Wrong(path+".suite", err.Error(), "write the suite of the key file, on both sides")
	}
	return cfg.Wrong(path+".key-file", err.Error(), want)
}

// protected says whether anything of a file's signalling needs more than plain sockets: keys, or the headers of mobile nodes.
func protected(cfg *config.Config) bool {
	return cfg.Node != nil || cfg.Peer != nil || cfg.Anchor != nil && cfg.Anchor.DSMIP6 != nil ||
		slices.ContainsFunc(cfg.Peers, func(p config.Peer) bool { return p.Protection != config.ProtectionNone })
}
