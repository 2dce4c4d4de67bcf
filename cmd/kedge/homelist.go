package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"kedge/internal/anchor"
	"kedge/internal/anchor/homelist"
	"kedge/internal/api"
	"kedge/internal/config"
	"kedge/internal/core"
)

// discoveryConfig says in the anchor's words what the file says of anchor.discovery; nil is off.
func discoveryConfig(d *config.Discovery) anchor.Discovery {
	if d == nil {
		return anchor.Discovery{}
	}
	out := anchor.Discovery{On: true, Preference: d.Preference, Lifetime: d.Lifetime, Advertise: d.Advertise,
		MaxInterval: d.Interval, MinInterval: d.MinInterval, MinDelay: d.MinDelay, RouterLifetime: d.RouterLifetime,
		Managed: d.Managed, Other: d.Other, Requests: d.Requests, NoPrefixes: d.NoPrefixes,
		MinPrefixInterval: d.MinPrefix, MaxPrefixInterval: d.MaxPrefix}
	if d.NoRouter {
		out.RouterLifetime = -1
	}
	for _, p := range d.Prefixes {
		out.Prefixes = append(out.Prefixes, homelist.Prefix{Prefix: p.Prefix, Valid: p.Valid, Preferred: p.Preferred,
			OnLink: p.OnLink, Autonomous: p.Autonomous, Explicit: true})
	}
	return out
}

type switchCmd struct {
	Node string        `arg:"" optional:"" help:"Identifier or home address of one node. Default: all, and new ones are refused."`
	To   []string      `help:"IPv6 addresses of the home agents to go to, in this order. Default: those that are heard on the home link; none: nodes look for one."`
	In   time.Duration `help:"Time until the bindings here end. Default: with their lifetime."`
	Rate int           `help:"Nodes that are told in a second." default:"1"`
	Stop bool          `help:"End it: nodes that have not left may stay."`
	Show bool          `help:"Only say how far it is."`
	daemon
}

// Run sends mobile nodes to other home agents (RFC 5142).
func (c *switchCmd) Run(e *env) error {
	s := core.Switch{ID: c.Node, Within: c.In, Rate: c.Rate, Stop: c.Stop, Show: c.Show}
	if c.Stop && c.Show {
		return errors.New("--stop and --show: want one of them")
	}
	for _, t := range c.To {
		for a := range strings.SplitSeq(t, ",") {
			addr, err := netip.ParseAddr(a)
			if err != nil {
				return fmt.Errorf("--to %s: want IPv6 addresses, apart by commas", a)
			}
			s.To = append(s.To, addr)
		}
	}
	return c.ask(e, func(ctx context.Context, cl *api.Client) error {
		out, err := cl.Switch(ctx, s)
		if err != nil {
			return err
		}
		if e.json {
			return e.print(out)
		}
		printSwitched(e.stdout, out)
		return nil
	})
}

func printSwitched(w io.Writer, s *core.Switched) {
	if !s.On {
		fmt.Fprintln(w, "no node is being sent to another home agent")
		return
	}
	fmt.Fprintf(w, "to other home agents: %d %s to go, %d of them told, %d gone\n", s.Nodes, plural(s.Nodes, "node"), s.Told, s.Gone)
	if s.Deaf > 0 {
		fmt.Fprintf(w, "%d of them do not know the message, and stay until their bindings end\n", s.Deaf)
	}
	if s.Unprotected > 0 {
		fmt.Fprintf(w, "%d more %s not told: without ESP anybody could have said it\n", s.Unprotected, map[bool]string{true: "was", false: "were"}[s.Unprotected == 1])
	}
	if s.All {
		fmt.Fprintln(w, "new nodes are refused until `kedge switch --stop`")
	}
}

// writeHome adds to a role's status the other home agents of the home link, and how far nodes are sent to them.
func writeHome(w io.Writer, s *core.Status) error {
	if len(s.HomeAgents) > 0 {
		t := newTable("HOME AGENT", "ADDRESSES", "PREFERENCE", "MOBILE ROUTERS", "EXPIRES")
		for _, a := range s.HomeAgents {
			addrs := make([]string, 0, len(a.Addresses))
			for _, x := range a.Addresses {
				addrs = append(addrs, x.String())
			}
			routers := map[bool]string{true: "yes", false: "no"}[a.MobileRouters]
			t.add(a.LinkLocal.String(), strings.Join(addrs, " "), strconv.Itoa(int(a.Preference)), routers, "in "+a.Left.Round(time.Second).String())
		}
		fmt.Fprintln(w)
		if err := t.write(w, "  "); err != nil {
			return err
		}
	}
	if s.Switching != nil {
		fmt.Fprintln(w)
		printSwitched(w, s.Switching)
	}
	return nil
}
