package main

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sync/errgroup"

	"kedge/internal/api"
	"kedge/internal/config"
	"kedge/internal/core"
	"kedge/internal/loop"
	"kedge/internal/observe"
	"kedge/internal/store/bolt"
	"kedge/internal/store/mem"
	"kedge/internal/system"
)

// runDaemon runs the roles of a config until ctx ends, or somebody asks for its end by the control socket.
func runDaemon(ctx context.Context, cfg *config.Config, warnings []config.Warning) error {
	started := time.Now()
	signalled := ctx
	ctx, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	early := context.AfterFunc(signalled, stop)
	log := logger(cfg.Log)
	for _, w := range warnings {
		log.Warn("config", "where", fmt.Sprintf("%s:%d", w.File, w.Line), "key", w.Key, "kind", w.Kind, "text", w.Text)
	}
	var stream io.Writer
	if cfg.Events.File != "" {
		f, err := os.OpenFile(cfg.Events.File, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o640)
		if err != nil {
			return fmt.Errorf("events: %w", err)
		}
		defer f.Close()
		stream = f
	}
	hub := observe.New(observe.Options{Self: cfg.Name, Log: log, Events: stream, Keep: cfg.Events.Keep, Redact: cfg.Log.Redact})
	defer hub.Close()

	var roles []*role
	server := api.Config{
		Socket: cfg.API.Socket, Metrics: cfg.API.Metrics, Self: cfg.Name, Version: version, File: cfg.File, Started: started,
		Hub: hub, Gatherer: hub.Gatherer(), Stop: func() { endAll(roles); stop() },
	}
	for _, w := range warnings {
		server.Warnings = append(server.Warnings, api.Warning{Where: fmt.Sprintf("%s:%d", w.File, w.Line), Key: w.Key, Kind: string(w.Kind), Text: w.Text})
	}
	// First of all: the socket keeps a second daemon of this file from touching the network.
	control := api.New(server)
	if err := control.Listen(); err != nil {
		return err
	}
	defer control.Close()

	st, firstStart, err := openStore(cfg.Store, log)
	if err != nil {
		return err
	}
	defer st.Close()

	guard, err := openGuard(ctx, cfg, st, log)
	if err != nil {
		return err
	}
	defer guard.close(log)
	control.Secure(guard.associations)

	if cfg.Dataplane.Kind != config.PlaneUser {
		sweepPins(log)
	}
	running := false
	defer func() {
		for _, r := range roles {
			if !running && r.data.fresh() { // a start that failed leaves nothing, but what a former process had forwards on
				r.ended.Store(true)
			}
			r.close()
		}
	}()
	control.Forward(func() (out []api.Dataplane) {
		for _, r := range roles {
			out = append(out, r.data.status())
		}
		return out
	})
	for name, open := range map[string]opener{"anchor": openAnchor, "gateway": openGateway, "node": openNode, "peer": openPeer} {
		if name == "anchor" && cfg.Anchor == nil || name == "gateway" && cfg.Gateway == nil || name == "node" && cfg.Node == nil ||
			name == "peer" && (cfg.Peer == nil || cfg.Node != nil) { // a node holds its correspondent itself
			continue
		}
		r, err := open(ctx, cfg, firstStart)
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		roles = append(roles, r)
		sayPlane(log, r.data.status())
		for _, a := range r.local { // it may come later, as with DHCP or a link that is slow to come up: signalling works from then on
			if f := system.CheckAddress(a.String()); f.Severity != system.Fine {
				log.Warn("own address", "address", a, "found", f.Detail, "do", f.Do)
			}
		}
		r.loop = loop.New(loop.Config{
			Name: cfg.Name + "/" + name, Machine: r.machine, Host: guard.host(r.host, r.data.Signal), Ports: r.ports, Data: r.data, Security: guard.security(), Store: st, Answer: answer, Observer: hub.Role(name),
		})
		if len(roles) == 1 {
			r.guard = guard // what it refused is counted once
		}
		guard.leave(r.data)
		hub.AddSource(r.source(name))
		control.AddRole(api.Role{Name: name, Commander: r, Counters: r.data.Counters})
	}

	for _, r := range roles {
		if err := r.data.takeOver(); err != nil {
			return err
		}
	}
	roles[0].data.left = endPredecessors(cfg, roles, log)
	running = true
	g, ctx := errgroup.WithContext(ctx)
	if early() { // from here on a signal finds machines that can end in order
		g.Go(func() error {
			select {
			case <-signalled.Done():
				farewell(signalled, roles, log)
				stop()
			case <-ctx.Done():
			}
			return nil
		})
	}
	g.Go(func() error { return control.Run(ctx) })
	g.Go(func() error { return guard.run(ctx, roles[0].host.Now) })
	for _, r := range roles {
		g.Go(func() error { return r.loop.Run(ctx) })
		g.Go(func() error { return r.settle(ctx, log) })
		g.Go(func() error {
			select {
			case err := <-r.data.Failed():
				return err
			case <-ctx.Done():
				return nil
			}
		})
	}
	g.Go(func() error {
		for _, r := range roles {
			select {
			case <-r.loop.Ready():
			case <-ctx.Done():
				return nil
			}
		}
		return markStore(cfg.Store)
	})
	return g.Wait()
}

// mark is the file beside a store that says that the store was in use.
func mark(cfg config.Store) string { return cfg.Path + ".mark" }

// markStore leaves the mark. It comes when the roles have written their first records: a start that fails before it, or is
// killed, is none, and the next one is the first again.
func markStore(cfg config.Store) error {
	if cfg.Kind == config.StoreMem {
		return nil
	}
	if _, err := os.Stat(mark(cfg)); err == nil {
		return nil
	}
	text := "Kedge: " + filepath.Base(cfg.Path) + " was here. If it is missing at a start it was lost, and hosts may still hold addresses.\n"
	if err := os.WriteFile(mark(cfg), []byte(text), 0o640); err != nil {
		return fmt.Errorf("store: %w", err)
	}
	return nil
}

// openStore opens what is durable. A file that is gone although its mark is there was lost: firstStart is false then.
func openStore(cfg config.Store, log *slog.Logger) (st core.Store, firstStart bool, err error) {
	if cfg.Kind == config.StoreMem {
		return mem.New(), true, nil
	}
	if err := os.MkdirAll(filepath.Dir(cfg.Path), 0o750); err != nil {
		return nil, false, fmt.Errorf("store: %w", err)
	}
	_, err = os.Stat(mark(cfg))
	marked := err == nil
	b, lost, err := bolt.Recover(cfg.Path, time.Now())
	if err != nil {
		return nil, false, fmt.Errorf("store: %w", err)
	}
	if lost != nil {
		log.Error("the store was damaged and is lost", "path", cfg.Path, "moved", lost.Moved, "err", lost.Err)
	}
	if lost != nil { // also for a start that follows on this one and finds an empty file
		if err := markStore(cfg); err != nil {
			b.Close()
			return nil, false, err
		}
	}
	if marked && b.Fresh() || lost != nil {
		log.Warn("the store is lost: nothing dynamic is handed out for one maximum lifetime", "path", cfg.Path)
	}
	return b, !marked && lost == nil, nil
}

func logger(cfg config.Log) *slog.Logger {
	opts := &slog.HandlerOptions{Level: cfg.Level}
	if cfg.JSON {
		return slog.New(slog.NewJSONHandler(os.Stderr, opts))
	}
	return slog.New(slog.NewTextHandler(os.Stderr, opts))
}
