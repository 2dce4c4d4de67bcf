package main

import (
	"context"
	"crypto/rand"
	"fmt"
	"net"
	"net/netip"
	"path/filepath"
	"slices"
	"time"

	"kedge/internal/anchor"
	"kedge/internal/config"
	"kedge/internal/core"
	"kedge/internal/dataplane"
	"kedge/internal/dataplane/user"
	"kedge/internal/gateway"
	"kedge/internal/loop"
	"kedge/internal/node"
	"kedge/internal/system"
	"kedge/wire/nd"
)

func openAnchor(ctx context.Context, cfg *config.Config, firstStart bool) (*role, error) {
	var port anchor.HomePort
	if a := cfg.Anchor; a.DSMIP6 != nil && a.HomeLink != "" {
		var err error
		if port, err = waitHomePort(ctx, a.HomeLink); err != nil {
			return nil, err
		}
	}
	ac := anchorConfig(cfg, port, firstStart)
	m, err := anchor.New(ac, rand.Reader)
	if err != nil {
		return nil, err
	}
	r := &role{machine: m, ports: []loop.Port{{Kind: "mh"}}, local: cfg.Anchor.Addresses,
		advertises: cfg.Anchor.Discovery != nil && cfg.Anchor.Discovery.Advertise}
	byIf := ac.DSMIP6.On && ac.HomePort.If != 0
	if byIf {
		r.ports = append(r.ports, loop.Port{Kind: "links", Ifs: []string{ac.HomeLink}})
	}
	// What came by the home link, from a node that returns, is answered there, whatever routes say of its home address.
	o := system.Options{Local: sixes(r.local), SendByIf: byIf}
	if ac.DSMIP6.On {
		o.ICMPv6 = []uint8{nd.TypeHomeAgentAddressDiscoveryRequest, nd.TypeMobilePrefixSolicitation}
	}
	if r.host, err = openHost(cfg, o, 0); err != nil {
		return nil, err
	}
	// An anchor is a router between the core and its home networks.
	err = r.host.Apply([]core.HostOp{
		{Kind: "sysctl", Name: "net.ipv4.ip_forward", Value: "1"},
		{Kind: "sysctl", Name: "net.ipv6.conf.all.forwarding", Value: "1"},
	})
	if err != nil {
		r.close()
		return nil, err
	}
	r.data, err = openPlane(cfg, "anchor", user.Config{
		Role: dataplane.Anchor, Device: cfg.Dataplane.Device, Local: withIPv4(cfg, cfg.Anchor.Addresses), MTU: cfg.Dataplane.MTU, Sysctl: r.sysctl,
	})
	if err != nil {
		r.close()
		return nil, err
	}
	return r, nil
}

func openGateway(_ context.Context, cfg *config.Config, _ bool) (*role, error) {
	g := cfg.Gateway
	mtu := cfg.Dataplane.MTU
	if mtu == 0 {
		mtu = pathMTU(g.Anchors[0].Address)
	}
	// Where the store has nothing, the wall clock makes a counter that is greater than that of any earlier run (RFC 5847 3.2).
	gc, err := gatewayConfig(cfg, mtu, uint32(time.Now().Unix()))
	if err != nil {
		return nil, err
	}
	m, err := gateway.New(gc, rand.Reader)
	if err != nil {
		return nil, err
	}
	r := &role{machine: m, local: []netip.Addr{g.Address}}
	var names []string
	var links []dataplane.Link
	for _, a := range gc.Access {
		names = append(names, a.Link.Name)
		links = append(links, dataplane.Link{Name: a.Link.Name, If: a.Link.If, MAC: a.Link.MAC, LinkLocal: a.Link.LinkLocal})
	}
	r.ports = []loop.Port{{Kind: "mh"}, {Kind: "access", Ifs: names}}
	if r.host, err = openHost(cfg, system.Options{Local: r.local}, 1); err != nil {
		return nil, err
	}
	r.data, err = openPlane(cfg, "gateway", user.Config{
		Role: dataplane.Gateway, Local: withIPv4(cfg, []netip.Addr{g.Address}), Access: links, LocalRouting: g.LocalRouting, MTU: cfg.Dataplane.MTU,
		Sysctl: r.sysctl,
	})
	if err != nil {
		r.close()
		return nil, err
	}
	return r, nil
}

func openNode(_ context.Context, cfg *config.Config, _ bool) (*role, error) {
	nc := nodeConfig(cfg, uint32(time.Now().Unix()))
	m, err := node.New(nc, rand.Reader)
	if err != nil {
		return nil, err
	}
	r := &role{machine: m, device: cfg.Dataplane.Device}
	var match []string
	for _, l := range nc.Links {
		match = append(match, l.Match)
	}
	r.ports = []loop.Port{{Kind: "mh"}, {Kind: "links", Ifs: match}}
	if r.host, err = openHost(cfg, system.Options{SendByIf: true, ICMPv6: []uint8{nd.TypeHomeAgentAddressDiscoveryReply, nd.TypeMobilePrefixAdvertisement}}, 2); err != nil {
		return nil, err
	}
	home := homeAddresses(cfg.Node)
	if nc.Home.V4.IsValid() {
		home = append(home, nc.Home.V4.Addr())
	}
	r.data, err = openPlane(cfg, "node", user.Config{
		Role: dataplane.Node, Device: cfg.Dataplane.Device, Persist: true, Home: home, Anchors: homeAgents(cfg), ProbeID: nc.ProbeID,
		Unreachable: true, Correspondents: !nc.Optimize.Off(), Correspondent: nc.Peer != nil, MTU: cfg.Dataplane.MTU, Sysctl: r.sysctl,
	})
	if err != nil {
		r.close()
		return nil, err
	}
	return r, nil
}

// openHost gives each role of a process a tag of its own, so that neither sweeps the other's.
func openHost(cfg *config.Config, o system.Options, n uint8) (*system.Host, error) {
	o.Tag = system.Protocol + n
	o.Journal = filepath.Join(filepath.Dir(cfg.API.Socket), fmt.Sprintf("%s.%d.journal", cfg.Name, n))
	return system.NewHost(o)
}

// pathMTU is the MTU of the interface towards an address, in octets; 1500 if there is no route yet.
func pathMTU(to netip.Addr) int {
	const ethernet = 1500
	c, err := net.Dial("udp", netip.AddrPortFrom(to, 9).String()) // sends nothing
	if err != nil {
		return ethernet
	}
	defer c.Close()
	from := c.LocalAddr().(*net.UDPAddr).AddrPort().Addr()
	links, err := net.Interfaces()
	if err != nil {
		return ethernet
	}
	for _, l := range links {
		addrs, _ := l.Addrs()
		for _, a := range addrs {
			if p, err := netip.ParsePrefix(a.String()); err == nil && p.Addr() == from {
				return l.MTU
			}
		}
	}
	return ethernet
}

// withIPv4 adds an IPv4 address of this host, if it has one on a core link: ICMP errors to IPv4 senders come from it.
func withIPv4(cfg *config.Config, local []netip.Addr) []netip.Addr {
	if slices.ContainsFunc(local, netip.Addr.Is4) {
		return local
	}
	links, err := net.Interfaces()
	if err != nil {
		return local
	}
	for _, l := range links {
		if len(cfg.Dataplane.Core) > 0 && !cfg.Dataplane.IsCore(l.Name) {
			continue
		}
		addrs, _ := l.Addrs()
		for _, a := range addrs {
			if p, err := netip.ParsePrefix(a.String()); err == nil && p.Addr().Is4() && p.Addr().IsGlobalUnicast() {
				return append(slices.Clone(local), p.Addr())
			}
		}
	}
	return local
}
