package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"kedge/internal/api"
	"kedge/internal/config"
	"kedge/internal/core"
	"kedge/internal/dataplane"
	"kedge/internal/dataplane/ebpf"
	"kedge/internal/dataplane/pins"
	"kedge/internal/dataplane/user"
	"kedge/internal/system"
	"kedge/wire"
)

// plane is a data plane of any back end.
type plane interface {
	core.Dataplane
	Drops(f func(reason wire.Reason, n uint64))
	Signal() core.Port
	Failed() <-chan error
}

// forwarding is the data plane of a role, and what there is to say about its choice.
type forwarding struct {
	plane
	fast  *ebpf.Plane // nil: back end user
	slow  *user.Plane // the whole of it, or beside fast
	place *pins.Place // nil: the programs end with the process
	core  []string    // of the config
	stays string      // an anchor's device that outlives the process, as the programs do
	name  string      // of its place
	uses  user.Config
	// former is the place of an earlier process, which this one, of back end user, has until it ends that.
	former *pins.Place
	left   []pins.Dead // that others left to forward in this network namespace
	said   api.Dataplane
}

// kernel asks the kernel that runs. Tests put others in its place.
var kernel ebpf.Probe

// openPlane makes the data plane that the config asks for. With auto, whatever keeps the kernel from forwarding is a reason to forward
// in this process.
func openPlane(cfg *config.Config, role string, uc user.Config) (*forwarding, error) {
	d := &cfg.Dataplane
	name := placeName(cfg.Name, role)
	f := &forwarding{name: name, uses: uc, said: api.Dataplane{Role: role, Asked: d.Kind, Kind: config.PlaneUser}}
	if d.Kind == config.PlaneUser {
		f.said.Why = "dataplane.kind says so"
	} else if uc.Straight {
		f.said.Why = "a correspondent has no tunnels, so there is nothing for programs to carry"
	} else {
		err := f.openFast(cfg, name, uc)
		if err == nil {
			return f, nil
		}
		if held := new(pins.Held); d.Kind == config.PlaneEBPF || errors.As(err, &held) {
			return nil, fmt.Errorf("%w%s", err, instead(err))
		}
		f.said.Why = reason(err)
	}
	var err error
	if f.former, err = pins.Find(name); err != nil {
		return nil, err
	}
	p, err := user.New(uc)
	if err != nil {
		f.leaveFormer()
		return nil, err
	}
	f.plane, f.slow = p, p
	return f, nil
}

// takeOver ends what an earlier process has left in the kernel, which would forward beside this one. A start that may still fail
// leaves it alone.
func (f *forwarding) takeOver() (err error) {
	if f.fast != nil {
		return nil
	}
	if f.former != nil {
		err, f.former = f.former.Remove(), nil
	}
	return errors.Join(err, ebpf.Detach(f.name), ebpf.Unjoin(f.name)) // of one without a place
}

func (f *forwarding) leaveFormer() {
	if f.former != nil {
		_ = f.former.Leave()
		f.former = nil
	}
}

// openFast makes a data plane in the kernel.
func (f *forwarding) openFast(cfg *config.Config, name string, uc user.Config) (err error) {
	d := &cfg.Dataplane
	able := kernel.Ask()
	if able.Lacking != nil {
		return able.Lacking
	}
	if d.Attach == config.AttachTCX && able.Attach != d.Attach {
		return &ebpf.Unsupported{Feature: "tcx (Linux 6.6), which dataplane.attach asks for", Kernel: able.Kernel, Err: errors.ErrUnsupported}
	}
	ec := ebpf.Config{Config: uc, Name: name, Core: d.Core, Sessions: tableSize(cfg), Hold: d.Hold, Clsact: d.Attach == config.AttachClsact, NoJoin: !d.ReceiveOffload, Probe: kernel}
	switch d.ThroughStack {
	case config.Auto:
		ec.Netfilter = system.ForwardRules
	case config.On:
		ec.ThroughStack = true
	}
	noPins := pins.Mount()
	if noPins == nil {
		f.place, err = pins.Take(name)
		if unusable := new(pins.Unusable); errors.As(err, &unusable) {
			noPins = unusable
		} else if err != nil {
			return err
		} else {
			ec.Pin = f.place.Dir()
		}
	}
	// Programs that go on without the process need the device where packets pass netfilter. The others need its routes: what no program
	// takes would go by the default route, plain, to whom it is not meant for.
	if f.place != nil && uc.Role == dataplane.Anchor {
		ec.Persist, f.stays = true, uc.Device
	}
	p, err := ebpf.New(ec)
	if err == nil && p.Status().Attach == config.AttachTCX {
		if err = ebpf.Detach(name); err != nil { // an earlier process attached by clsact, and those would go on
			p.End()
		}
	}
	if err != nil {
		f.leave(f.fresh())
		f.place, f.stays = nil, ""
		if errors.Is(err, unix.EACCES) && !mayCompare() {
			return fmt.Errorf("data plane: %s: %w", noPerfmon, unix.EACCES) // and not what the verifier writes
		}
		return err
	}
	f.plane, f.fast, f.slow, f.core = p, p, p.Plane, d.Core
	st := p.Status()
	f.said.Kind, f.said.Sessions = config.PlaneEBPF, ec.Sessions
	f.said.Why = cmp.Or(map[string]string{config.PlaneEBPF: "dataplane.kind says so"}[d.Kind], "Linux "+st.Kernel+" has what it needs")
	f.said.Pins = ec.Pin
	if noPins != nil {
		f.said.PinsWhy = "forwarding ends with this process: " + reason(noPins)
	}
	return nil
}

// close ends the plane. Unless end is set, what forwards in the kernel goes on for the next process to adopt; goesOn says that it does.
func (f *forwarding) close(end bool) (goesOn bool) {
	if f.fast == nil || f.place == nil || !end {
		_ = f.plane.Close() // nobody can do anything about it any more
	} else {
		_ = f.fast.End()
	}
	f.leave(end)
	return f.place != nil && !end
}

func (f *forwarding) leave(end bool) {
	f.leaveFormer()
	switch {
	case f.place == nil:
	case end:
		if f.stays != "" {
			_ = user.RemoveDevice(f.stays) // it is no device of ours if this fails, or gone
		}
		_ = f.place.Remove() // the next process with this name adopts or removes what this leaves
	default:
		_ = f.place.Leave()
	}
}

// fresh reports whether there is nothing in the kernel but what this process made.
func (f *forwarding) fresh() bool { return f.place == nil || f.place.Fresh }

// sayPlane logs the choice, once.
func sayPlane(log *slog.Logger, d api.Dataplane) {
	level := slog.LevelInfo
	if d.Asked != config.PlaneUser && d.Kind == config.PlaneUser {
		level = slog.LevelWarn
	}
	args := []any{"role", d.Role, "kind", d.Kind, "why", d.Why}
	if d.Kind == config.PlaneEBPF {
		args = append(args, "attach", d.Attach, "adopted", d.Adopted)
		if d.StackWhy != "" {
			args = append(args, "through_stack", d.ThroughStack, "stack_why", d.StackWhy)
		}
	}
	log.Log(context.Background(), level, "data plane", args...)
	if d.PinsWhy != "" {
		log.Warn("data plane", "role", d.Role, "text", d.PinsWhy)
	}
}

// sweepPins removes what data planes of other names left in the kernel, if it forwards no more.
func sweepPins(log *slog.Logger) {
	swept, err := pins.Sweep()
	for _, name := range swept {
		log.Info("left by an earlier run, removed", "kind", "data plane in the kernel", "name", name)
	}
	if err != nil {
		log.Warn("what an earlier run left in the kernel could not be removed", "err", err)
	}
}

// status is what the plane is and how it does.
func (f *forwarding) status() api.Dataplane {
	out := f.said
	for _, o := range f.slow.Status().Offloads {
		if o.On {
			out.Offloads = append(out.Offloads, o.Offload.String())
		} else {
			out.Notes = append(out.Notes, fmt.Sprintf("without %s: %s", o.Offload, o.Why))
		}
	}
	out.Notes = append(out.Notes, leftNotes(f.left)...)
	if f.fast == nil {
		return out
	}
	st := f.fast.Status()
	slices.Sort(st.Links)
	out.Attach, out.Links, out.Partial, out.Adopted, out.Failing = st.Attach, st.Links, st.Partial, st.Adopted, st.LastFail
	out.ThroughStack, out.StackWhy = st.ThroughStack, st.StackWhy
	if st.JoinsNot != nil {
		out.Notes = append(out.Notes, "segments that leave tunnels go on one by one: "+reason(st.JoinsNot))
	}
	for _, pattern := range unmatched(f.core, st.Links) {
		out.Notes = append(out.Notes, fmt.Sprintf("no program is on a core link %s: there is no such interface, or it is a bridge's or bond's, or has no Ethernet; this process forwards what it carries", pattern))
	}
	if !st.Cross {
		out.Notes = append(out.Notes, "IPv4 in IPv6 and IPv6 in IPv4 leave tunnels by this process: the kernel can take off only what it is of the same family before Linux 6.4")
	}
	if st.Partial {
		out.Notes = append(out.Notes, fmt.Sprintf("some sessions are forwarded by this process: the tables hold %d; raise dataplane.sessions", out.Sessions))
	}
	return out
}

// unmatched are the patterns of core links that none with a program has, of links as in ebpf.Status.
func unmatched(core, links []string) (out []string) {
	for _, pattern := range core {
		if !slices.ContainsFunc(links, func(l string) bool {
			name, prog, _ := strings.Cut(l, " ")
			ok, err := path.Match(pattern, name)
			return prog == "core" && ok && err == nil
		}) {
			out = append(out, pattern)
		}
	}
	return out
}

// Sizes of the kernel's tables, where dataplane.sessions says nothing.
const (
	anchorSessions = ebpf.DefaultSessions
	nodeSessions   = 64
)

func tableSize(cfg *config.Config) int {
	switch {
	case cfg.Dataplane.Sessions != 0:
		return cfg.Dataplane.Sessions
	case cfg.Node != nil:
		return nodeSessions
	case cfg.Gateway != nil && cfg.Anchor == nil && cfg.Gateway.Limits.Hosts > 0:
		return min(cfg.Gateway.Limits.Hosts, anchorSessions)
	}
	return anchorSessions
}

// reason is an error of the data plane as the end of a sentence about it.
func reason(err error) string { return strings.TrimPrefix(err.Error(), "data plane: ") }

// instead says what to do about a kernel that is not able.
func instead(err error) string {
	if un := new(ebpf.Unsupported); errors.As(err, &un) {
		return "; write dataplane: auto, or user, to forward in this process"
	}
	return ""
}
