package main

import (
	"errors"

	"kedge/internal/lab"
)

// labCmd builds whole networks on this machine.
type labCmd struct {
	Run  labRunCmd  `cmd:"" help:"Run scenarios, and say which passed."`
	List labListCmd `cmd:"" help:"List the scenarios."`
	Up   labUpCmd   `cmd:"" help:"Build the network of a scenario and keep it."`
	Down labDownCmd `cmd:"" help:"End networks that are up, and remove what crashed ones left."`
}

type (
	labRunCmd  struct{ lab.RunCommand }
	labListCmd struct{ lab.ListCommand }
	labUpCmd   struct{ lab.UpCommand }
	labDownCmd struct{ lab.DownCommand }
)

func (e *env) console() lab.Console { return lab.Console{Out: e.stdout, Err: e.stderr, JSON: e.json} }

// Run runs scenarios; failed ones are printed by the lab.
func (c *labRunCmd) Run(e *env) error {
	err := c.Do(e.ctx, e.console())
	if errors.Is(err, lab.ErrFailed) {
		return errShown(exitFailed)
	}
	return err
}

// Run lists scenarios.
func (c *labListCmd) Run(e *env) error { return c.Do(e.ctx, e.console()) }

// Run keeps a network up.
func (c *labUpCmd) Run(e *env) error { return c.Do(e.ctx, e.console()) }

// Run takes networks down.
func (c *labDownCmd) Run(e *env) error { return c.Do(e.ctx, e.console()) }
