package main

import (
	"context"
	"fmt"
	"maps"
	"net/netip"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"kedge/internal/api"
	"kedge/internal/config"
	"kedge/internal/core"
)

// daemon says which daemon a command speaks with.
type daemon struct {
	Socket string `short:"s" env:"KEDGE_SOCKET" help:"Socket of the daemon. Default: the only one in /run/kedge."`
	Config string `short:"c" env:"KEDGE_CONFIG" help:"Config file of the daemon, to take the socket from."`
}

// socketDir is where daemons have their sockets by default.
const socketDir = "/run/kedge"

// client finds the daemon's socket.
func (d *daemon) client() (*api.Client, error) {
	switch {
	case d.Socket != "":
		return api.NewClient(d.Socket), nil
	case d.Config != "":
		cfg, _, err := config.Load(d.Config)
		if err != nil {
			return nil, usageError{err}
		}
		return api.NewClient(cfg.API.Socket), nil
	}
	found, err := filepath.Glob(filepath.Join(socketDir, "*.sock"))
	if err != nil {
		return nil, err
	}
	switch len(found) {
	case 0:
		return nil, fmt.Errorf("no daemon: there is no socket in %s: start one with \"kedge run CONFIG\", or name its socket with --socket", socketDir)
	case 1:
		return api.NewClient(found[0]), nil
	}
	return nil, usageError{fmt.Errorf("several daemons run here: say which with --socket %s", strings.Join(found, " | "))}
}

// askTimeout is for one answer.
const askTimeout = 10 * time.Second

func (d *daemon) ask(e *env, f func(context.Context, *api.Client) error) error {
	c, err := d.client()
	if err != nil {
		return err
	}
	defer c.Close()
	ctx, cancel := context.WithTimeout(e.ctx, askTimeout)
	defer cancel()
	return f(ctx, c)
}

type statusCmd struct {
	daemon
}

// Run shows the status.
func (c *statusCmd) Run(e *env) error {
	return c.ask(e, func(ctx context.Context, cl *api.Client) error {
		st, err := cl.Status(ctx)
		if err != nil {
			return err
		}
		if e.json {
			return e.print(st)
		}
		return writeStatus(e, st, time.Now())
	})
}

func writeStatus(e *env, st *api.Status, now time.Time) error {
	fmt.Fprintf(e.stdout, "%s  kedge %s  up %s", st.Self, st.Version, since(st.Started, now))
	if st.Config != "" {
		fmt.Fprintf(e.stdout, "  config %s", st.Config)
	}
	fmt.Fprintln(e.stdout)
	for _, r := range st.Roles {
		fmt.Fprintf(e.stdout, "\n%s\n", r.Role)
		var sessions []string
		for _, s := range slices.Sorted(maps.Keys(r.Sessions)) {
			sessions = append(sessions, fmt.Sprintf("%d %s", r.Sessions[s], s))
		}
		if len(sessions) == 0 {
			sessions = []string{"none"}
		}
		fmt.Fprintf(e.stdout, "  sessions: %s\n", strings.Join(sessions, ", "))
		for _, d := range st.Dataplane {
			if d.Role == r.Role {
				writePlane(e, &d)
			}
		}
		if len(r.Peers) > 0 {
			t := newTable("PEER", "ADDRESS", "ALIVE", "HEARD", "SESSIONS", "RESTARTS", "PROTECTION")
			for _, p := range r.Peers {
				// Heartbeats begin with the first session; until then nobody knows.
				alive, heard := "unknown", "never"
				if !p.LastHeard.IsZero() {
					alive, heard = "no", since(p.LastHeard, now)+" ago"
				}
				if p.Alive {
					alive = "yes"
				}
				t.add(p.Name, addr(p.Address), alive, heard, strconv.Itoa(p.Sessions), strconv.FormatUint(uint64(p.Restarts), 10), p.Protection)
			}
			fmt.Fprintln(e.stdout)
			if err := t.write(e.stdout, "  "); err != nil {
				return err
			}
		}
		if len(r.Pools) > 0 {
			t := newTable("POOL", "RANGE", "USED", "FREE")
			for _, p := range r.Pools {
				t.add(p.Name, p.Range.String(), strconv.FormatUint(p.Used, 10), strconv.FormatUint(p.Free, 10))
			}
			fmt.Fprintln(e.stdout)
			if err := t.write(e.stdout, "  "); err != nil {
				return err
			}
		}
		if len(r.Counters) > 0 {
			t := newTable("COUNTER", "VALUE")
			for _, k := range slices.Sorted(maps.Keys(r.Counters)) {
				t.add(k, strconv.FormatUint(r.Counters[k], 10))
			}
			fmt.Fprintln(e.stdout)
			if err := t.write(e.stdout, "  "); err != nil {
				return err
			}
		}
		if err := writeHome(e.stdout, &r); err != nil {
			return err
		}
		for _, n := range r.Notes {
			fmt.Fprintf(e.stdout, "\n  note: %s\n", n)
		}
	}
	if err := writeAssociations(e, st.Security); err != nil {
		return err
	}
	for i, w := range st.Warnings {
		if i == 0 {
			fmt.Fprintln(e.stdout)
		}
		fmt.Fprintf(e.stdout, "warning: %s: %s: %s (%s)\n", w.Where, w.Key, w.Text, w.Kind)
	}
	return nil
}

// writeAssociations shows what protects signalling, a line a direction.
func writeAssociations(e *env, list []api.Association) error {
	if len(list) == 0 {
		return nil
	}
	fmt.Fprint(e.stdout, "\nprotection of signalling\n")
	t := newTable("PEER", "FOR", "DIRECTION", "SPI", "SUITE", "SEQUENCE", "PACKETS", "REPLAYED", "BAD ICV")
	some := func(n uint64) string {
		if n == 0 {
			return ""
		}
		return strconv.FormatUint(n, 10)
	}
	for _, a := range list {
		if a.Direction == "" { // no association: authenticated by options, or not at all
			t.add(a.Peer, a.Protects, "", "", a.Suite, "", "", "", "")
			continue
		}
		t.add(a.Peer, a.Protects, a.Direction, fmt.Sprintf("%#x", a.SPI), a.Suite, strconv.FormatUint(a.Sequence, 10),
			strconv.FormatUint(a.Packets, 10), some(a.Replayed), some(a.BadICV))
	}
	if err := t.write(e.stdout, "  "); err != nil {
		return err
	}
	for _, a := range list {
		if a.Direction == "out" { // both directions have the same ends
			for _, u := range a.Tunnels {
				fmt.Fprintf(e.stdout, "\n  tunnel: %s for %s from %s to %s, %s\n", a.Protects, u.Home, u.Local, u.Remote, a.Peer)
			}
		}
		for _, n := range a.Notes {
			fmt.Fprintf(e.stdout, "\n  note: %s, %s: %s\n", a.Peer, a.Direction, n)
		}
	}
	return nil
}

func addr(a netip.Addr) string {
	if !a.IsValid() {
		return ""
	}
	return a.String()
}

type bindingsCmd struct {
	Filter string `arg:"" optional:"" help:"Part of an identifier, address or prefix. Default: all."`
	Limit  int    `short:"n" default:"0" help:"Show at most so many. Default: 10000."`
	daemon
}

// Run lists bindings.
func (c *bindingsCmd) Run(e *env) error {
	if c.Limit < 0 {
		return usageError{fmt.Errorf("--limit %d: write a number above 0", c.Limit)}
	}
	return c.ask(e, func(ctx context.Context, cl *api.Client) error {
		list, err := cl.Bindings(ctx, c.Filter, c.Limit)
		if err != nil {
			return err
		}
		if e.json {
			return e.print(list)
		}
		if len(list.Bindings) == 0 {
			fmt.Fprintln(e.stdout, "no bindings")
			return nil
		}
		if err := writeBindings(e, list.Bindings, time.Now(), ""); err != nil {
			return err
		}
		if n := list.Total - len(list.Bindings); n > 0 {
			fmt.Fprintf(e.stdout, "%d more: narrow the filter, or raise --limit\n", n)
		}
		return nil
	})
}

func writeBindings(e *env, list []api.Binding, now time.Time, indent string) error {
	t := newTable("ID", "STATE", "IPV4", "PREFIXES", "HOME", "GATEWAY", "CARE-OF", "ANCHOR", "LINK", "EXPIRES", "SINCE", "IN", "OUT", "DIALECT", "PROTECTION")
	for _, b := range list {
		v4 := ""
		if b.IPv4.IsValid() {
			v4 = b.IPv4.String()
		}
		at := b.Gateway
		if at == "" {
			at = addr(b.ProxyCoA)
		}
		expires := ""
		if !b.Expires.IsZero() {
			expires = ago(b.Expires.Sub(now))
		}
		prefixes, home, careOf := b.Prefixes, []netip.Prefix(nil), ""
		if b.Kind == "host" { // it registered by itself: what counts is its addresses, and how packets reach it
			prefixes, home, at, v4, careOf = nil, b.Home, "", "", reached(&b.Binding)
		}
		t.add(b.ID, b.State, v4, joined(prefixes), joined(home), at, careOf, addr(b.Anchor), link(b.Binding), expires, since(b.Since, now),
			carried(b.Traffic, false), carried(b.Traffic, true), b.Dialect, b.Protection)
	}
	return t.write(e.stdout, indent)
}

// reached says where a mobile node is, and what packets to it are in.
func reached(b *core.Binding) string {
	if !b.CareOf.IsValid() {
		return ""
	}
	out := b.CareOf.String()
	if b.Framing == "udp" {
		out = "udp " + out
		if b.Port != 0 {
			out = "udp " + netip.AddrPortFrom(b.CareOf, b.Port).String()
		}
	}
	if b.NAT {
		out += " behind NAT"
	}
	return out
}

// joined writes prefixes, single addresses without their length; an IPv4-mapped one is what it maps.
func joined(list []netip.Prefix) string {
	var out []string
	for _, p := range list {
		switch {
		case p.IsSingleIP():
			out = append(out, p.Addr().Unmap().String())
		default:
			out = append(out, p.String())
		}
	}
	return strings.Join(out, ",")
}

// link is the interface, and the host's address on it.
func link(b core.Binding) string {
	if b.Interface == "" {
		return b.LinkLayer
	}
	return strings.TrimSpace(b.Interface + " " + b.LinkLayer)
}

type explainCmd struct {
	ID string `arg:"" help:"MN-Identifier of the host."`
	daemon
}

// Run explains a host.
func (c *explainCmd) Run(e *env) error {
	return c.ask(e, func(ctx context.Context, cl *api.Client) error {
		list, err := cl.Explain(ctx, c.ID)
		if err != nil {
			return err
		}
		if e.json {
			return e.print(list)
		}
		now := time.Now()
		for i, x := range list {
			if i > 0 {
				fmt.Fprintln(e.stdout)
			}
			fmt.Fprintf(e.stdout, "%s at the %s\n", printable(x.ID), x.Role)
			if x.Profile != "" {
				fmt.Fprintf(e.stdout, "  profile: %s\n", x.Profile)
			}
			if len(x.Bindings) == 0 {
				fmt.Fprintln(e.stdout, "  no binding")
			} else {
				var own []api.Binding
				for i, b := range x.Bindings {
					own = append(own, api.Binding{Role: x.Role, Binding: b})
					if i < len(x.Traffic) {
						own[i].Traffic = x.Traffic[i]
					}
				}
				fmt.Fprintln(e.stdout)
				if err := writeBindings(e, own, now, "  "); err != nil {
					return err
				}
			}
			if len(x.History) == 0 {
				continue
			}
			t := newTable("TIME", "WHAT", "REASON", "DETAIL")
			for _, p := range x.History {
				t.add(p.When.Local().Format("15:04:05.000"), p.What, p.Reason, p.Detail)
			}
			fmt.Fprintln(e.stdout)
			if err := t.write(e.stdout, "  "); err != nil {
				return err
			}
		}
		return nil
	})
}

type attachCmd struct {
	Interface string `arg:"" help:"Access interface of the gateway."`
	MAC       string `arg:"" help:"MAC address of the host."`
	ID        string `help:"Its MN-Identifier, if the gateway shall not find it out."`
	Previous  string `help:"Address of the gateway that it came from."`
	daemon
}

// Run reports a host.
func (c *attachCmd) Run(e *env) error {
	mac, err := core.ParseMAC(c.MAC)
	if err != nil {
		return usageError{err}
	}
	return c.ask(e, func(ctx context.Context, cl *api.Client) error {
		return cl.Attach(ctx, core.Attach{If: c.Interface, MAC: mac, ID: c.ID, Previous: c.Previous})
	})
}

type detachCmd struct {
	Interface string `arg:"" help:"Access interface of the gateway."`
	MAC       string `arg:"" help:"MAC address of the host."`
	daemon
}

// Run reports that a host left.
func (c *detachCmd) Run(e *env) error {
	mac, err := core.ParseMAC(c.MAC)
	if err != nil {
		return usageError{err}
	}
	return c.ask(e, func(ctx context.Context, cl *api.Client) error {
		return cl.Detach(ctx, core.Detach{If: c.Interface, MAC: mac})
	})
}
