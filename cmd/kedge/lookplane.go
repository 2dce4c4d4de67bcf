package main

import (
	"fmt"
	"strings"

	"kedge/internal/api"
	"kedge/internal/config"
)

// writePlane shows how a role forwards, and why so.
func writePlane(e *env, d *api.Dataplane) {
	kind := d.Kind
	if d.Attach != "" {
		kind += " by " + d.Attach
	}
	fmt.Fprintf(e.stdout, "  data plane: %s (%s): %s\n", kind, d.Asked, d.Why)
	if d.Kind == config.PlaneEBPF {
		links := "no link"
		if len(d.Links) > 0 {
			links = strings.Join(d.Links, ", ")
		}
		tables := fmt.Sprintf("for %s", count(d.Sessions, "session"))
		if d.Adopted {
			tables += ", taken over from an earlier process"
		}
		fmt.Fprintf(e.stdout, "    programs: %s; tables: %s\n", links, tables)
		if d.StackWhy != "" {
			way := "past netfilter"
			if d.ThroughStack {
				way = "through netfilter"
			}
			fmt.Fprintf(e.stdout, "    what is forwarded goes %s: %s\n", way, d.StackWhy)
		}
	}
	if len(d.Offloads) > 0 {
		fmt.Fprintf(e.stdout, "    offloads of this process: %s\n", strings.Join(d.Offloads, ", "))
	}
	for _, n := range append([]string{d.PinsWhy, d.Failing}, d.Notes...) {
		if n != "" {
			fmt.Fprintf(e.stdout, "    note: %s\n", n)
		}
	}
}

// carried is what a session took out of its tunnel, or put into it.
func carried(t *api.Traffic, out bool) string {
	switch {
	case t == nil:
		return ""
	case out:
		return octets(t.OctetsOut)
	}
	return octets(t.OctetsIn)
}

// octets writes a number of them with three digits or so.
func octets(n uint64) string {
	if n < 1000 {
		return fmt.Sprintf("%d B", n)
	}
	x, units := float64(n)/1000, []string{"kB", "MB", "GB", "TB", "PB", "EB"}
	for x >= 999.5 && len(units) > 1 {
		x, units = x/1000, units[1:]
	}
	return fmt.Sprintf("%.3g %s", x, units[0])
}
