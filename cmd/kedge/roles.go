package main

import (
	"cmp"
	"fmt"
	"net"
	"time"

	"kedge/internal/access"
	"kedge/internal/anchor"
	"kedge/internal/anchor/revocation"
	"kedge/internal/config"
	"kedge/internal/gateway"
	"kedge/internal/heartbeat"
	"kedge/internal/pool"
	"kedge/internal/subscriber"
)

// anchorConfig says in the anchor's words what the file says. port is the interface of its home link, for mobile nodes.
func anchorConfig(cfg *config.Config, port anchor.HomePort, firstStart bool) anchor.Config {
	a := cfg.Anchor
	out := anchor.Config{
		Addresses: a.Addresses,
		Device:    cfg.Dataplane.Device,
		HomeLink:  a.HomeLink,
		PMIP6: anchor.PMIP6{
			Off:      len(a.PMIP6.Gateways) == 0,
			Gateways: a.PMIP6.Gateways,
			Dialects: dialects(a.PMIP6.Dialects),
			NoIPv4:   !a.PMIP6.Families.V4, NoIPv6: !a.PMIP6.Families.V6,
			MobileNodeTimestamps: a.PMIP6.MobileNodeTimestamps,
			NoRevocation:         !a.PMIP6.Revoke,
		},
		Subscribers: subscriber.Config{
			Accept: a.Subscribers.Accept,
			Default: subscriber.Profile{
				Families: families[subscriber.Families](a.Subscribers.Common),
				HNPCount: a.PrefixesPerSession,
			},
		},
		Limits: anchor.Limits{
			Sessions:           a.Limits.Sessions,
			SessionsPerGateway: a.Limits.SessionsPerGateway,
			PendingPerPeer:     a.Limits.PendingPerPeer,
			RequestsPerPeer:    a.Limits.RequestsPerPeer,
		},
		Timers: anchor.Timers{
			LifetimeMax:                a.Timers.LifetimeMax,
			MinDelayBeforeBCEDelete:    a.Timers.MinDelayBeforeBCEDelete,
			MaxDelayBeforeNewBCEAssign: orNever(a.Timers.MaxDelayBeforeNewBCEAssign),
			TimestampWindow:            a.Timers.TimestampWindow,
			UplinkGrace:                orNever(cfg.Dataplane.UplinkGrace),
		},
		Revocation: revocation.Config{
			Retries: cmp.Or(a.Timers.BRIMaxRetries, -1), MinDelay: a.Timers.InitMinDelayBRIs, MaxTimeout: a.Timers.MaxBrackTimeout,
		},
		Heartbeat:  anchor.Heartbeat{Off: a.Heartbeat.Off, Config: heartbeatConfig(a.Heartbeat)},
		LinkLocal:  a.PMIP6.LinkLocal,
		FirstStart: firstStart,
	}
	for _, p := range a.Pools {
		out.Pools = append(out.Pools, pool.Config{
			Name: p.Name, Domain: p.Domain, Prefix: p.Prefix, Delegate: p.Delegate, Router: p.Router, Reserve: p.Reserve, Lease: p.Lease,
		})
	}
	for _, p := range cfg.Peers {
		out.Peers = append(out.Peers, anchor.Peer{Name: p.Name, Addresses: p.Addresses, Protection: p.Protection})
	}
	for _, s := range a.Subscribers.List {
		profile := subscriber.Profile{
			ID: s.ID, Domain: s.Domain, Families: families[subscriber.Families](s.Families),
			V4: s.V4, V4Pools: s.V4Pools, HNP: s.HNP, HNPPools: s.HNPPools, HNPCount: s.Prefixes, Gateways: s.Gateways,
			HoA: s.HoA, Peer: s.Peer, Networks: s.Networks,
		}
		if s.NoPMIP6 {
			profile.Services = subscriber.DSMIP6
		}
		out.Subscribers.List = append(out.Subscribers.List, profile)
	}
	if a.DSMIP6 != nil {
		out.DSMIP6, out.Discovery = homeAgentConfig(a.DSMIP6), discoveryConfig(a.Discovery)
		out.HomePort, out.HomePort.DADTransmits, out.HomePort.RetransTimer = port, orNone(a.DADTransmits), a.RetransTimer
	}
	return out
}

// orNever says 0 in the words of a machine, for which 0 means the default.
func orNever(d time.Duration) time.Duration {
	if d == 0 {
		return -1
	}
	return d
}

// orNone does so for a number.
func orNone(n int) int {
	if n == 0 {
		return -1
	}
	return n
}

func dialects(names []string) (out []anchor.Dialect) {
	for _, n := range names {
		switch n {
		case config.DialectRFC5844:
			out = append(out, anchor.RFC5844)
		case config.DialectDraft02:
			out = append(out, anchor.Draft02)
		}
	}
	return out
}

func heartbeatConfig(h config.Heartbeat) heartbeat.Config {
	return heartbeat.Config{Interval: h.Interval, Timeout: h.Timeout, MaxMissing: h.MaxMissing}
}

// families says a set of families in the words of a package: V4 is bit 0 and V6 bit 1 in all of them.
func families[F ~uint8](f config.Families) F {
	var out F
	if f.V4 {
		out |= 1
	}
	if f.V6 {
		out |= 2
	}
	return out
}

// gatewayConfig says in the gateway's words what the file says. coreMTU is the path's to the anchors, in octets.
func gatewayConfig(cfg *config.Config, coreMTU int, restart uint32) (gateway.Config, error) {
	g := cfg.Gateway
	out := gateway.Config{
		Name:             cfg.Name,
		Address:          g.Address,
		FirstHandoff:     g.FirstHandoffIndicator,
		IPv4OnDHCP:       g.IPv4OnDHCP,
		SequenceOrdering: g.SequenceOrdering,
		NoRevocation:     !g.Revoke,
		HeartbeatOff:     g.Heartbeat.Off,
		Heartbeat:        heartbeatConfig(g.Heartbeat),
		Restart:          restart,
		Timers: gateway.Timers{
			Lifetime: g.Timers.Lifetime, RefreshAt: g.Timers.RefreshAt,
			RetransmitFirst: g.Timers.RetransmitFirst, RetransmitMax: g.Timers.RetransmitMax,
			LinkGrace: g.Timers.LinkGrace, RetryFirst: g.Timers.RetryFirst, RetryMax: g.Timers.RetryMax,
			IdleHold: g.Timers.IdleHold, Reregister: g.Timers.Reregister,
			NUDReachable: g.Timers.NUDReachable, NUDRetransmit: g.Timers.NUDRetransmit, NUDProbes: g.Timers.NUDProbes,
		},
		Limits: gateway.Limits{
			Hosts: g.Limits.Hosts, HostsPerAccess: g.Limits.HostsPerAccess, Pending: g.Limits.Pending,
			NewHosts: g.Limits.NewHosts, Triggers: g.Limits.Triggers,
		},
	}
	for _, a := range g.Anchors {
		ref := gateway.Anchor{Name: a.Name, Address: a.Address, Dialect: gateway.Dialect(a.Dialect)}
		if p, ok := cfg.PeerOf(a.Address); ok {
			ref.Protection = p.Protection
		}
		out.Anchors = append(out.Anchors, ref)
	}
	for _, a := range g.Access {
		link, err := net.InterfaceByName(a.Interface)
		if err != nil {
			return out, fmt.Errorf("access link %s: %w; `ip link` lists what there is", a.Interface, err)
		}
		mtu := a.MTU
		if mtu == 0 {
			mtu = max(min(link.MTU, coreMTU-tunnelOverhead), minIPv6MTU)
		}
		out.Access = append(out.Access, gateway.Access{
			Link: access.LinkConfig{
				Name: a.Interface, If: link.Index, LinkLocal: a.LinkLocal, MAC: a.MAC, MTU: uint32(mtu), DNS: a.DNS, Search: a.Search,
				RAInterval: a.RAInterval, RouterLifetime: a.RouterLifetime,
				DHCP: dhcpConfig(a.DHCP4),
			},
			Technology: a.Technology,
			AttachOn:   a.AttachOn,
			DetachOn:   a.DetachOn,
			Families:   families[access.Families](a.Families),
			Identity:   gateway.Identity{Table: a.Identity.Table, Realm: a.Identity.Realm, TableOnly: a.Identity.TableOnly},
		})
		for _, h := range a.Hosts {
			out.Profiles = append(out.Profiles, gateway.Profile{
				ID: h.ID, Anchor: h.Anchor, Families: families[access.Families](h.Families), IPv4: h.V4, Prefixes: h.HNP,
			})
		}
	}
	return out, nil
}

func dhcpConfig(d config.DHCP4) access.DHCPConfig {
	out := access.DHCPConfig{Off: d.Off, OwnID: d.OwnID, Lease: d.Lease, Extra: d.Options, HoldTime: d.Hold}
	if d.OwnID {
		out.Own = d.Address
	} else {
		out.Fixed = d.Address
	}
	return out
}

const (
	tunnelOverhead = 40   // one IPv6 header, RFC 2473
	minIPv6MTU     = 1280 // RFC 8200 5
)
