package main

import (
	"context"
	"fmt"
	"time"

	"kedge/internal/api"
)

// stopWait is how long a daemon may take to end: a mobile node deregisters first, and its messages may be lost.
const stopWait = 30 * time.Second

type stopCmd struct {
	daemon
}

// Run ends a daemon.
func (c *stopCmd) Run(e *env) error {
	cl, err := c.client()
	if err != nil {
		return err
	}
	defer cl.Close()
	ctx, cancel := context.WithTimeout(e.ctx, stopWait)
	defer cancel()
	if err := cl.Stop(ctx); err != nil {
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

type roamCmd struct {
	Link string `arg:"" optional:"" help:"Interface to prefer. Default: as configured."`
	daemon
}

// Run tells a mobile node which link to prefer.
func (c *roamCmd) Run(e *env) error {
	return c.ask(e, func(ctx context.Context, cl *api.Client) error { return cl.Roam(ctx, c.Link) })
}
