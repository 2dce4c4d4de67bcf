package main

import (
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"time"

	"kedge/internal/config"
	"kedge/internal/dataplane/pins"
	"kedge/internal/dataplane/user"
)

// allRoles are those that a daemon may have: what its places in the BPF file system end with.
var allRoles = []string{"anchor", "gateway", "node"}

func placeName(daemon, role string) string { return daemon + "_" + role }

// daemonOf is the daemon of a place, "" = it is none of a role.
func daemonOf(place string) string {
	for _, role := range allRoles {
		if name, ok := strings.CutSuffix(place, "_"+role); ok {
			return name
		}
	}
	return ""
}

// endDead ends the programs that a process left, and its device unless it is one of those that are kept.
func endDead(d *pins.Dead, keep ...string) error {
	device := d.Device()
	if err := pins.Drop(d.Name); err != nil {
		return err
	}
	if device != "" && !slices.Contains(keep, device) {
		_ = user.RemoveDevice(device) // it is no device of ours if this fails, or gone
	}
	return nil
}

// endPredecessors ends what was left to forward by roles that this daemon had, and by daemons whose work this one does now under
// another name. It gives what is left of others.
func endPredecessors(cfg *config.Config, roles []*role, log *slog.Logger) (others []pins.Dead) {
	all, err := pins.Abandoned()
	if err != nil {
		log.Warn("what earlier runs left in the kernel is not to be seen", "err", err)
	}
	var keep []string
	for _, r := range roles {
		if r.data.uses.Role != user.Gateway {
			keep = append(keep, r.data.uses.Device)
		}
	}
	for _, d := range all {
		ours := daemonOf(d.Name) == cfg.Name
		for _, r := range roles {
			ours = ours || d.Meets(&r.data.uses)
		}
		if !ours {
			others = append(others, d)
			log.Warn("programs of a daemon that runs no more forward in this network namespace", "name", d.Name, "for", d.Ends().Round(time.Second), "do", endThem(d.Name))
			continue
		}
		if err := endDead(&d, keep...); err != nil {
			others = append(others, d)
			log.Warn("what an earlier run left in the kernel could not be removed", "name", d.Name, "err", err)
			continue
		}
		log.Info("left by an earlier run, removed", "kind", "data plane in the kernel", "name", d.Name)
	}
	return others
}

func endThem(place string) string {
	return fmt.Sprintf("start %s again, or end them with \"kedge stop --name %s\"", daemonOf(place), daemonOf(place))
}

// leftNotes say which of them still forward.
func leftNotes(all []pins.Dead) (out []string) {
	for _, d := range all {
		if d.Goes() {
			out = append(out, fmt.Sprintf("programs of %s, which no process has, forward in this network namespace for %v: %s", d.Name, d.Ends().Round(time.Second), endThem(d.Name)))
		}
	}
	return out
}

// endLeft ends what a daemon that runs no more left to forward; with name "" the only one that did.
func endLeft(name string) (ended []string, err error) {
	all, err := pins.Abandoned()
	if err != nil {
		return nil, err
	}
	if name == "" {
		for _, d := range all {
			switch of := daemonOf(d.Name); {
			case of == "" || of == name:
			case name == "":
				name = of
			default:
				return nil, usageError{fmt.Errorf("programs of several daemons that run no more forward here: say which with --name %s | %s", name, of)}
			}
		}
	}
	for _, d := range all {
		if daemonOf(d.Name) == name && name != "" {
			if err := endDead(&d); err != nil {
				return ended, err
			}
			ended = append(ended, d.Name)
		}
	}
	return ended, nil
}
