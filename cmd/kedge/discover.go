package main

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"kedge/internal/config"
	"kedge/internal/core"
	"kedge/internal/node"
	"kedge/internal/system"
)

// answer serves what machines ask of the world.
func answer(ctx context.Context, body any) (any, error) {
	switch q := body.(type) {
	case core.Resolve:
		return system.Resolve(ctx, q)
	}
	return nil, fmt.Errorf("%T: %w", body, errors.ErrUnsupported)
}

// homeAgentPeers are the names of the peers that may be home agents of a node.
func homeAgentPeers(n *config.Node) []string {
	return append([]string{n.Anchor.Name}, n.Anchor.Others...)
}

// homeAddresses are all home addresses that a node may come to have: one on each prefix, with the same interface identifier.
func homeAddresses(n *config.Node) []netip.Addr {
	out := []netip.Addr{n.Home.V6.Addr()}
	id := out[0].As16()
	for _, p := range n.Home.Prefixes {
		a := p.Addr().As16()
		for i := range a {
			keep := byte(0xff)
			if bits := p.Bits() - 8*i; bits >= 8 {
				keep = 0
			} else if bits > 0 {
				keep >>= bits
			}
			a[i] |= id[i] & keep
		}
		out = append(out, netip.AddrFrom16(a))
	}
	return out
}

// homeAgents are the addresses that home agents of a node may have; none = that cannot be said beforehand.
func homeAgents(cfg *config.Config) (out []netip.Addr) {
	n := cfg.Node
	if n.Anchor.IPv6.IsValid() {
		out = append(out, n.Anchor.IPv6)
	}
	finds := n.Anchor.Discover || n.Anchor.Host != ""
	for _, p := range nodePeers(cfg) {
		for _, x := range p.Addresses {
			if !x.IsSingleIP() {
				return nil
			}
			if !slices.Contains(out, x.Addr()) {
				out = append(out, x.Addr())
			}
		}
		if finds && len(p.Addresses) == 0 {
			return nil
		}
	}
	return out
}

// nodePeers are the peers that home agents of a node may be. With a fixed one there is nothing to choose.
func nodePeers(cfg *config.Config) (out []node.Peer) {
	a := &cfg.Node.Anchor
	if !a.Discover && a.Host == "" && len(a.Others) == 0 {
		return nil
	}
	for _, name := range homeAgentPeers(cfg.Node) {
		i := slices.IndexFunc(cfg.Peers, func(p config.Peer) bool { return p.Name == name })
		if i < 0 {
			continue
		}
		p := node.Peer{Name: name, Protection: cfg.Peers[i].Protection, Guarded: cfg.Peers[i].ESP.ReturnRoutability != nil}
		for _, x := range cfg.Peers[i].Addresses {
			if x.Addr().Is6() {
				p.Addresses = append(p.Addresses, x)
			}
		}
		if name == a.Name && a.IPv6.IsValid() && len(p.Addresses) == 0 {
			p.Addresses = []netip.Prefix{netip.PrefixFrom(a.IPv6, a.IPv6.BitLen())}
		}
		if len(p.Addresses) > 0 || len(a.Others) > 0 {
			out = append(out, p)
		}
	}
	return out
}
