package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"time"

	"kedge/internal/api"
	"kedge/internal/config"
	"kedge/internal/core"
	"kedge/internal/ipsec"
	"kedge/internal/ipsec/durable"
	"kedge/internal/loop"
	"kedge/internal/signal"
	"kedge/wire"
)

// guard is what stands between the sockets and the machines of all roles: the headers of mobile nodes, the policy database, and
// the security associations with their durable counters. nil: nothing of a daemon needs it, and messages go by plain sockets.
type guard struct {
	codec    *signal.Codec
	engine   *ipsec.Engine
	counters *durable.Counters
}

// openGuard reads the key files and takes up the counters where the last run left them.
func openGuard(ctx context.Context, cfg *config.Config, st core.Store, log *slog.Logger) (*guard, error) {
	if !protected(cfg) {
		return nil, nil
	}
	peers, err := securityPeers(cfg)
	if err != nil {
		return nil, err
	}
	g := &guard{}
	if g.counters, err = durable.Open(ctx, st, durable.Owner(cfg.Name)); err != nil {
		return nil, err
	}
	if g.engine, err = ipsec.New(ipsec.Config{Peers: peers, Audit: auditLog(log)}, g.counters); err != nil {
		return nil, errors.Join(fmt.Errorf("security: %w", err), g.counters.Close())
	}
	sc := signal.Config{IPsec: g.engine, Local: localAddresses(cfg)}
	if a := cfg.Anchor; a != nil && a.DSMIP6 != nil {
		for _, d := range a.DSMIP6.Dialects {
			sc.Mapped = sc.Mapped || d == config.DialectSoliman00
		}
	}
	if n := cfg.Node; n != nil {
		sc.Homes = append(sc.Homes, homeAddresses(n)...)
		sc.Mapped = n.Anchor.Dialect == config.DialectSoliman00
	}
	g.codec = signal.NewCodec(sc)
	return g, nil
}

// auditLog writes the events that RFC 4303 4 wants logged. The engine limits their rate.
func auditLog(log *slog.Logger) func(ipsec.Audit) {
	return func(a ipsec.Audit) {
		args := []any{"peer", a.Peer, "spi", fmt.Sprintf("%#x", a.SPI), "seq", a.Sequence, "from", a.Remote, "to", a.Local}
		if a.Suppressed > 0 {
			args = append(args, "suppressed", a.Suppressed)
		}
		if a.Restart {
			log.Info("signalling not taken: it may have come already before the restart", append(args, "reason", string(a.Reason))...)
			return
		}
		if a.Reason != "" {
			log.Warn("signalling refused", append(args, "reason", string(a.Reason))...)
			return
		}
		log.Warn("security association", append(args, "text", a.Warning)...)
	}
}

// host puts the guard before a host's port of signalling.
func (g *guard) host(h core.Host, data func() core.Port) core.Host {
	if g == nil {
		return h
	}
	return signal.NewHost(h, g.codec, data)
}

// security is what bindings move the tunnels of.
func (g *guard) security() loop.Security {
	if g == nil {
		return nil
	}
	return g.codec
}

// leave tells a data plane which messages are left to the guard.
func (g *guard) leave(f *forwarding) {
	if g != nil && f.slow != nil {
		f.slow.Guard(g.codec.Guards)
	}
}

// localAddresses are those at which a daemon is a home agent or a correspondent node.
func localAddresses(cfg *config.Config) (out []netip.Addr) {
	if cfg.Anchor != nil {
		out = sixes(cfg.Anchor.Addresses)
	}
	if cfg.Peer != nil {
		out = append(out, cfg.Peer.Addresses...)
	}
	return out
}

// run stores what is stored lazily, until ctx ends.
func (g *guard) run(ctx context.Context, now func() core.Now) error {
	if g == nil {
		return nil
	}
	t := time.NewTicker(time.Second)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-t.C:
			g.engine.Tick(now())
		}
	}
}

// drops are what the guard refused, by reason.
func (g *guard) drops() map[string]uint64 {
	out := map[string]uint64{}
	if g != nil {
		g.codec.Drops(func(reason wire.Reason, n uint64) { out[string(reason)] += n })
	}
	return out
}

// close stores exactly what was used, so that the next run skips no number. The sockets are closed before.
func (g *guard) close(log *slog.Logger) {
	if g == nil {
		return
	}
	if err := errors.Join(g.engine.Close(), g.counters.Close()); err != nil {
		log.Warn("the sequence numbers of security associations were not stored: the next start skips some", "err", err)
	}
}

// associations are the security associations as the API shows them.
func (g *guard) associations() []api.Association {
	if g == nil {
		return nil
	}
	var out []api.Association
	for _, p := range g.engine.Status() {
		if len(p.SAs) == 0 {
			out = append(out, api.Association{Peer: p.Name, Protects: ipsec.Signalling.String(), Suite: string(p.Protection)})
		}
		for _, sa := range p.SAs {
			out = append(out, api.Association{Peer: p.Name, Protects: sa.Use, Direction: sa.Direction, SPI: sa.SPI, Suite: string(sa.Suite),
				Sequence: sa.Sequence, Packets: sa.Packets, Replayed: sa.Replayed, BadICV: sa.BadICV, Notes: sa.Notes})
			if sa.Use == ipsec.ReturnRoutability.String() {
				last := &out[len(out)-1]
				for _, t := range p.Tunnels {
					last.Tunnels = append(last.Tunnels, api.Tunnel(t))
				}
			}
		}
	}
	return out
}
