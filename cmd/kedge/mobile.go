package main

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"time"

	"kedge/internal/anchor"
	"kedge/internal/config"
	"kedge/internal/node"
	"kedge/internal/system"
)

// homeAgentConfig says in the home agent's words what the file says.
func homeAgentConfig(d *config.DSMIP6) anchor.DSMIP6 {
	out := anchor.DSMIP6{On: true, HomeAgents: d.Addresses, NoIPv4: !d.Families.V4, NoForcedUDP: d.RefuseUDP, ForceUDP: d.ForceUDP,
		PrivateCareOf: d.AcceptPrivateCareOf, NATRefresh: d.NATRefresh, RefreshAdvice: d.RefreshAdvice, RefreshRequest: d.RefreshRequest,
		RequireMessageID: d.RequireMessageID, MessageIDWindow: d.MessageIDWindow}
	for _, n := range d.Dialects {
		switch n {
		case config.DialectRFC5555:
			out.Dialects = append(out.Dialects, anchor.RFC5555)
		case config.DialectSoliman00:
			out.Dialects = append(out.Dialects, anchor.Soliman00)
		}
	}
	return out
}

// homePortWait is how long a link that comes up may take to have its link-local address: duplicate address detection takes a
// second and more (RFC 4862 5.4).
const homePortWait = 5 * time.Second

// waitHomePort waits for what homePort needs: at boot the link may have just come up.
func waitHomePort(ctx context.Context, name string) (anchor.HomePort, error) {
	ctx, cancel := context.WithTimeout(ctx, homePortWait)
	defer cancel()
	t := time.NewTicker(50 * time.Millisecond)
	defer t.Stop()
	for {
		port, err := homePort(name)
		if err == nil {
			return port, nil
		}
		select {
		case <-t.C:
		case <-ctx.Done():
			return port, err
		}
	}
}

// homePort is what the interface of a home link is, for the frames that defend home addresses there.
func homePort(name string) (anchor.HomePort, error) {
	link, err := net.InterfaceByName(name)
	if err != nil {
		return anchor.HomePort{}, fmt.Errorf("home link %s: %w; `ip link` lists what there is", name, err)
	}
	out := anchor.HomePort{If: link.Index}
	if copy(out.MAC[:], link.HardwareAddr) != len(out.MAC) {
		return out, fmt.Errorf("home link %s has no MAC address: a home link is Ethernet", name)
	}
	addrs, err := link.Addrs()
	if err != nil {
		return out, fmt.Errorf("home link %s: %w", name, err)
	}
	for _, a := range addrs {
		p, err := netip.ParsePrefix(a.String())
		switch {
		case err != nil:
		case p.Addr().Is6() && p.Addr().IsLinkLocalUnicast():
			out.LinkLocal = p.Addr()
		default:
			out.Prefixes = append(out.Prefixes, p.Masked())
		}
	}
	if !out.LinkLocal.IsValid() {
		return out, fmt.Errorf("home link %s has no IPv6 link-local address: set it up, and IPv6 on (net.ipv6.conf.%s.disable_ipv6)", name, name)
	}
	return out, nil
}

// nodeConfig says in the node's words what the file says.
func nodeConfig(cfg *config.Config, restart uint32) node.Config {
	n := cfg.Node
	t := n.Timers
	out := node.Config{
		Name: cfg.Name,
		Anchor: node.Anchor{Name: n.Anchor.Name, V6: n.Anchor.IPv6, V4: n.Anchor.IPv4, Dialect: node.Dialect(n.Anchor.Dialect),
			ShortOctet: n.Anchor.OctetLengths, Discover: n.Anchor.Discover, Host: n.Anchor.Host, Peers: nodePeers(cfg)},
		Home: node.Home{V6: n.Home.V6, V4: n.Home.V4, Prefixes: n.Home.Prefixes,
			Networks: n.Home.Networks, Implicit: n.Home.Implicit, Interfaces: n.Home.Interfaces},
		ID:       n.ID,
		Device:   cfg.Dataplane.Device,
		Exclude:  n.Exclude,
		ForceUDP: n.ForceUDP, RetryIPv4: n.RetryV4, NoOptimistic: system.CheckOptimistic().Severity != system.Fine,
		Table:   n.Table,
		ProbeID: node.DefaultProbeID,
		Restart: restart,
		Timers: node.Timers{Lifetime: t.Lifetime, RefreshAt: t.RefreshAt, DeadPath: t.DeadPath, FamilyFallback: t.FamilyFallback,
			NATRefresh: t.NATRefresh, RetransmitNew: t.FirstTimeout, RetransmitFirst: t.RetransmitFirst, RetransmitMax: t.RetransmitMax, Grace: cfg.Dataplane.UplinkGrace},
	}
	out.Optimize = nodeOptimization(&n.Optimization)
	if cfg.Peer != nil {
		pc := peerConfig(cfg)
		out.Peer = &pc
	}
	for _, p := range cfg.Peers {
		if p.Name == n.Anchor.Name {
			out.Anchor.Protection, out.Anchor.Guarded = p.Protection, p.ESP.ReturnRoutability != nil
		}
	}
	switch {
	case n.Home.V4.IsValid():
		out.Home.IPv4 = node.IPv4Static
	case n.Home.Dynamic4:
		out.Home.IPv4 = node.IPv4Dynamic
	}
	if n.DNSDirect {
		out.DNS = node.DNSDirect
	}
	if n.PassUnreachable {
		out.Unreachable = node.Pass
	}
	for _, l := range n.Links {
		out.Links = append(out.Links, node.Link{Match: l.Match, Prefer: l.Prefer, Families: node.Families(l.Families)})
	}
	return out
}
