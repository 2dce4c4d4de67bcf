package main

import (
	"context"
	"fmt"

	"kedge/internal/api"
)

type revokeCmd struct {
	ID string `arg:"" help:"MN-Identifier, home address or home network prefix."`
	daemon
}

// Run ends sessions.
func (c *revokeCmd) Run(e *env) error {
	return c.ask(e, func(ctx context.Context, cl *api.Client) error {
		out, err := cl.Revoke(ctx, c.ID)
		if err != nil {
			return err
		}
		if e.json {
			return e.print(out)
		}
		_, err = fmt.Fprintf(e.stdout, "%d %s ended, %d of the gateways told\n", out.Sessions, plural(out.Sessions, "session"), out.Told)
		return err
	})
}

func plural(n int, noun string) string {
	if n == 1 {
		return noun
	}
	return noun + "s"
}
