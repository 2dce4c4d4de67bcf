package main

import (
	"context"
	"crypto/rand"
	"errors"
	"net"
	"net/netip"
	"slices"
	"time"

	"kedge/internal/config"
	"kedge/internal/dataplane"
	"kedge/internal/dataplane/user"
	"kedge/internal/loop"
	"kedge/internal/peer"
	"kedge/internal/system"
	"kedge/wire/ip"
)

// peerConfig says in the correspondent's words what the file says.
func peerConfig(cfg *config.Config) peer.Config {
	p := cfg.Peer
	return peer.Config{
		Addresses: p.Addresses, Accept: p.Accept, Limits: peer.Limits{Bindings: p.Bindings, Requests: p.Requests},
		LifetimeMax: p.LifetimeMax, Grace: orNever(cfg.Dataplane.UplinkGrace), Device: cfg.Dataplane.Device, Table: p.Table,
	}
}

// peerTag tells a correspondent's settings from those of other roles.
const peerTag = 3

// openPeer makes a correspondent, which is a host: it routes for nobody, so no setting of the host changes.
func openPeer(ctx context.Context, cfg *config.Config, _ bool) (*role, error) {
	pc := peerConfig(cfg)
	if len(pc.Addresses) == 0 {
		var err error
		if pc.Addresses, err = waitGlobals(ctx); err != nil {
			return nil, err
		}
	}
	m, err := peer.New(pc, rand.Reader)
	if err != nil {
		return nil, err
	}
	r := &role{machine: m, ports: []loop.Port{{Kind: "mh"}}, local: cfg.Peer.Addresses, tells: true}
	local := pc.Addresses
	// What answers goes out where the question came in: routes to a bound home address lead to the data plane, and a Home Test must not
	// go there (RFC 6275 9.4.3).
	o := system.Options{Local: local, SendByIf: true}
	if r.host, err = openHost(cfg, o, peerTag); err != nil {
		return nil, err
	}
	// Bindings end with the process, and so do the rules and routes that served them, however it ends.
	r.tidy = func() {
		if h, err := openHost(cfg, o, peerTag); err == nil {
			_, _ = h.Sweep() // what cannot be removed now is in the journal
			h.Close()
		}
	}
	// The kernel's fast path is for tunnels: packets of route optimization are this process's in any case.
	here := *cfg
	here.Dataplane.Kind = config.PlaneUser
	r.data, err = openPlane(&here, "peer", user.Config{
		Role: dataplane.Anchor, Device: cfg.Dataplane.Device, Local: local, MTU: cfg.Dataplane.MTU, Correspondent: true, Straight: true, Sysctl: r.sysctl,
	})
	if err != nil {
		r.close()
		return nil, err
	}
	r.data.said.Why = "route optimization is this process's"
	return r, nil
}

// waitGlobals waits for a first address that mobile nodes can reach: at boot a router may not have said its prefix yet. Those that
// come later are a correspondent's after the next start.
func waitGlobals(ctx context.Context) ([]netip.Addr, error) {
	ctx, cancel := context.WithTimeout(ctx, homePortWait)
	defer cancel()
	t := time.NewTicker(50 * time.Millisecond)
	defer t.Stop()
	for {
		if found := globals(); len(found) > 0 {
			return found, nil
		}
		select {
		case <-t.C:
		case <-ctx.Done():
			return nil, errors.New("this host has no IPv6 address that mobile nodes can reach; `ip -6 address` lists what there is: give it one, or write peer.addresses")
		}
	}
}

// globals are the IPv6 addresses of this host that mobile nodes can reach.
func globals() (found []netip.Addr) {
	links, err := net.Interfaces()
	if err != nil {
		return nil
	}
	for _, l := range links {
		addrs, _ := l.Addrs()
		for _, a := range addrs {
			if p, err := netip.ParsePrefix(a.String()); err == nil && ip.Routable(p.Addr()) && !slices.Contains(found, p.Addr()) {
				found = append(found, p.Addr())
			}
		}
	}
	return found
}
