package main

import (
	"context"
	"log/slog"
	"net/netip"
	"slices"
	"sync/atomic"
	"time"

	"kedge/internal/config"
	"kedge/internal/core"
	"kedge/internal/dataplane/user"
	"kedge/internal/loop"
	"kedge/internal/observe"
	"kedge/internal/system"
	"kedge/wire"
)

// role is one role of the daemon with what it stands on.
type role struct {
	machine core.Machine
	host    *system.Host
	data    *forwarding
	ports   []loop.Port
	local   []netip.Addr // that signalling comes from
	loop    *loop.Loop
	set     []core.HostOp // settings that the data plane asked for
	guard   *guard        // whose drops are counted as this role's
	device  string        // of a node: it outlives the process, unless the node was stopped
	stopped atomic.Bool   // by a command
	// advertises: it says on a home link that it is there, and in the end that it goes.
	advertises bool
	// tells: of a correspondent, which says to mobile nodes that their bindings end with it.
	tells bool
	ended atomic.Bool // for good: nothing is to forward on
	tidy  func()      // takes back what the machine has set on the host, where the next run has no use for it; may be nil
}

// opener makes a role of a config. firstStart: there is no earlier store.
type opener func(ctx context.Context, cfg *config.Config, firstStart bool) (*role, error)

func (r *role) close() {
	goesOn := r.data != nil && r.data.close(r.ended.Load())
	if r.device != "" && r.stopped.Load() {
		_ = user.RemoveDevice(r.device) // it is no device of ours if this fails, or gone
	}
	if r.host != nil {
		for i := len(r.set) - 1; i >= 0 && !goesOn; i-- { // programs that go on need the settings; the next run puts them back
			op := r.set[i]
			op.Del = true
			_ = r.host.Apply([]core.HostOp{op}) // what cannot be put back now is in the journal
		}
		r.host.Close()
	}
	if r.tidy != nil {
		r.tidy()
	}
}

// Command asks the machine. A node that has ended its registration does not leave its device behind.
func (r *role) Command(ctx context.Context, body any) (any, error) {
	out, err := r.loop.Command(ctx, body)
	if _, ok := body.(core.Stop); ok {
		r.stopped.Store(true)
	}
	return out, err
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
	src := observe.Source{
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
			r.data.Drops(func(reason wire.Reason, n uint64) { drops[string(reason)] += n })
			return drops
		},
		Refused: r.guard.drops,
	}
	if name == "node" { // it has two bindings at most
		src.Bindings = func() ([]core.Binding, bool) {
			ctx, cancel := context.WithTimeout(context.Background(), time.Second)
			defer cancel()
			body, err := r.loop.Command(ctx, core.GetBindings{})
			list, ok := body.([]core.Binding)
			return list, ok && err == nil
		}
	}
	return src
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
