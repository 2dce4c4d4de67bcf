package main

import (
	"context"
	"crypto/rand"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"

	"kedge/internal/anchor"
	"kedge/internal/api"
	"kedge/internal/config"
	"kedge/internal/core"
	"kedge/internal/dataplane"
	"kedge/internal/dataplane/user"
	"kedge/internal/gateway"
	"kedge/internal/loop"
	"kedge/internal/observe"
	"kedge/internal/store/bolt"
	"kedge/internal/store/mem"
	"kedge/internal/system"
	"kedge/wire"
)

// runDaemon runs the roles of a config until ctx ends.
func runDaemon(ctx context.Context, cfg *config.Config, warnings []config.Warning) error {
	started := time.Now()
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

	server := api.Config{
		Socket: cfg.API.Socket, Metrics: cfg.API.Metrics, Self: cfg.Name, Version: version, File: cfg.File, Started: started,
		Hub: hub, Gatherer: hub.Gatherer(),
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

	var roles []*role
	defer func() {
		for _, r := range roles {
			r.close()
		}
	}()
	for name, open := range map[string]func(*config.Config, bool) (*role, error){"anchor": openAnchor, "gateway": openGateway} {
		if name == "anchor" && cfg.Anchor == nil || name == "gateway" && cfg.Gateway == nil {
			continue
		}
		r, err := open(cfg, firstStart)
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		roles = append(roles, r)
		for _, a := range r.local { // it may come later, as with DHCP or a link that is slow to come up: signalling works from then on
			if f := system.CheckAddress(a.String()); f.Severity != system.Fine {
				log.Warn("own address", "address", a, "found", f.Detail, "do", f.Do)
			}
		}
		r.loop = loop.New(loop.Config{
			Name: cfg.Name + "/" + name, Machine: r.machine, Host: r.host, Ports: r.ports, Data: r.data, Store: st, Observer: hub.Role(name),
		})
		hub.AddSource(r.source(name))
		control.AddRole(api.Role{Name: name, Commander: r.loop})
	}

	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return control.Run(ctx) })
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

// role is one role of the daemon with what it stands on.
type role struct {
	machine core.Machine
	host    *system.Host
	data    *user.Plane
	ports   []loop.Port
	local   []netip.Addr // that signalling comes from
	loop    *loop.Loop
	set     []core.HostOp // settings that the data plane asked for
}

func (r *role) close() {
	if r.data != nil {
		r.data.Close()
	}
	if r.host != nil {
		for i := len(r.set) - 1; i >= 0; i-- {
			op := r.set[i]
			op.Del = true
			_ = r.host.Apply([]core.HostOp{op}) // what cannot be put back now is in the journal
		}
		r.host.Close()
	}
}

// sysctl makes a setting for the data plane that a later run puts back after a crash.
func (r *role) sysctl(name, value string) error {
	op := core.HostOp{Kind: "sysctl", Name: name, Value: value}
	if err := r.host.Apply([]core.HostOp{op}); err != nil {
		return err
	}
	if !slices.Contains(r.set, op) {
		r.set = append(r.set, op)
	}
	return nil
}

// source gives the values that a scrape reads.
func (r *role) source(name string) observe.Source {
	return observe.Source{
		Role: name,
		Status: func() (core.Status, bool) {
			ctx, cancel := context.WithTimeout(context.Background(), time.Second)
			defer cancel()
			body, err := r.loop.Command(ctx, core.GetStatus{})
			s, ok := body.(core.Status)
			return s, ok && err == nil
		},
		Drops: func() map[string]uint64 {
			drops := make(map[string]uint64)
			r.data.Drops(func(reason wire.Reason, n uint64) { drops[string(reason)] = n })
			return drops
		},
	}
}

// settle removes what an earlier run left behind, once this one has applied its state.
func (r *role) settle(ctx context.Context, log *slog.Logger) error {
	select {
	case <-r.loop.Ready():
	case <-ctx.Done():
		return nil
	}
	swept, err := r.host.Sweep()
	for _, op := range swept {
		log.Info("left by an earlier run, removed", "kind", op.Kind, "prefix", op.Prefix, "name", op.Name)
	}
	if err != nil {
		log.Warn("what an earlier run left could not be removed", "err", err)
	}
	return nil
}

func openAnchor(cfg *config.Config, firstStart bool) (*role, error) {
	m, err := anchor.New(anchorConfig(cfg, firstStart), rand.Reader)
	if err != nil {
		return nil, err
	}
	r := &role{machine: m, ports: []loop.Port{{Kind: "mh"}}, local: cfg.Anchor.Addresses}
	if r.host, err = openHost(cfg, r.local, 0); err != nil {
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
	r.data, err = user.New(user.Config{
		Role: dataplane.Anchor, Device: cfg.Dataplane.Device, Local: withIPv4(cfg, cfg.Anchor.Addresses), MTU: cfg.Dataplane.MTU, Sysctl: r.sysctl,
	})
	if err != nil {
		r.close()
		return nil, err
	}
	return r, nil
}

func openGateway(cfg *config.Config, _ bool) (*role, error) {
	g := cfg.Gateway
	mtu := cfg.Dataplane.MTU
	if mtu == 0 {
		mtu = pathMTU(g.Anchors[0].Address)
	}
	// Without a durable store the wall clock makes a counter that grows at each start (RFC 5847 3.2).
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
	if r.host, err = openHost(cfg, r.local, 1); err != nil {
		return nil, err
	}
	r.data, err = user.New(user.Config{
		Role: dataplane.Gateway, Local: withIPv4(cfg, []netip.Addr{g.Address}), Access: links, LocalRouting: g.LocalRouting, MTU: cfg.Dataplane.MTU,
		Sysctl: r.sysctl,
	})
	if err != nil {
		r.close()
		return nil, err
	}
	return r, nil
}

// openHost gives each role of a process a tag of its own, so that neither sweeps the other's.
func openHost(cfg *config.Config, local []netip.Addr, n uint8) (*system.Host, error) {
	return system.NewHost(system.Options{
		Local: local, Tag: system.Protocol + n, Journal: filepath.Join(filepath.Dir(cfg.API.Socket), fmt.Sprintf("%s.%d.journal", cfg.Name, n)),
	})
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
	links, err := net.Interfaces()
	if err != nil {
		return local
	}
	for _, l := range links {
		if len(cfg.Dataplane.Core) > 0 && !slices.Contains(cfg.Dataplane.Core, l.Name) {
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
