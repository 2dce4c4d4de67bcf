package main

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"time"

	"kedge/internal/api"
	"kedge/internal/config"
)

// stopWait is how long a daemon may take to end: a mobile node deregisters first, and its messages may be lost.
const stopWait = 30 * time.Second

type stopCmd struct {
	daemon
	Name string `help:"Name of a daemon that runs no more, to end what it left forwarding in the kernel."`
}

// Run ends a daemon, or what is left of one that is no more.
func (c *stopCmd) Run(e *env) error {
	if c.Name != "" {
		return c.end(e, c.Name, fmt.Errorf("no daemon %s has left anything that forwards in the kernel of this network namespace", c.Name))
	}
	cl, err := c.client()
	if err != nil {
		if errors.As(err, new(usageError)) {
			return err
		}
		return c.end(e, "", err)
	}
	defer cl.Close()
	ctx, cancel := context.WithTimeout(e.ctx, stopWait)
	defer cancel()
	switch err := cl.Stop(ctx); {
	case errors.Is(err, api.ErrNoDaemon):
		name := strings.TrimSuffix(filepath.Base(c.Socket), ".sock")
		if c.Socket == "" && c.Config != "" {
			cfg, _, cerr := config.Load(c.Config)
			if cerr != nil {
				return err
			}
			name = cfg.Name
		} else if c.Socket == "" {
			name = ""
		}
		return c.end(e, name, err)
	case err != nil:
		return err
	}
	if err := cl.Ended(ctx); err != nil {
		return err
	}
	if e.json {
		return e.print(map[string]bool{"stopped": true})
	}
	_, err = fmt.Fprintln(e.stdout, "stopped")
	return err
}

// end ends what a daemon left that does not answer, as none says.
func (c *stopCmd) end(e *env, name string, none error) error {
	ended, err := endLeft(name)
	if err != nil {
		return fmt.Errorf("%w; %w", none, err)
	}
	if len(ended) == 0 {
		return none
	}
	if e.json {
		return e.print(map[string]any{"stopped": false, "ended": ended})
	}
	_, err = fmt.Fprintf(e.stdout, "no daemon runs; what an earlier one left forwarding in the kernel was ended: %s\n", strings.Join(ended, ", "))
	return err
}

type roamCmd struct {
	Link string `arg:"" optional:"" help:"Interface to prefer. Default: as configured."`
	daemon
}

// Run tells a mobile node which link to prefer.
func (c *roamCmd) Run(e *env) error {
	return c.ask(e, func(ctx context.Context, cl *api.Client) error { return cl.Roam(ctx, c.Link) })
}
