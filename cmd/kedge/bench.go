package main

import (
	"fmt"
	"os"
	"strings"
	"time"

	"kedge/internal/bench"
	"kedge/internal/bench/peer"
)

// benchCmd measures.
type benchCmd struct {
	Dataplane benchDataplaneCmd `cmd:"" help:"Compare the data planes with plain routing, VXLAN and wireguard-go on this machine."`
	Peer      benchPeerCmd      `cmd:"" hidden:""`
}

type benchDataplaneCmd struct {
	Pairs    int           `placeholder:"N" help:"Rounds; each measures everything once (15)."`
	Time     time.Duration `placeholder:"DURATION" help:"Of one sample (250ms)."`
	Only     string        `placeholder:"PATTERN" help:"Regular expression: only the ways of Kedge whose names match, user/v6 or ebpf/gre."`
	Cells    string        `placeholder:"PATTERN" help:"Regular expression: only the figures whose names match, tcp6 or udp64."`
	Sessions []int         `placeholder:"N,..." help:"Numbers of sessions beside one (10000,1000000)."`
	Quick    bool          `help:"A few minutes instead of the whole: fewer rounds, shorter samples, not all encapsulations."`
	Gate     bool          `help:"Measure shortly, and fail if something is beyond doubt less than half as good as promised."`
	Pictures string        `type:"path" placeholder:"DIR" help:"Draw charts (SVG) into a directory."`
	Markdown string        `type:"path" placeholder:"FILE" help:"Write tables into a document, in place of those that it has."`
}

// Run measures.
func (c *benchDataplaneCmd) Run(e *env) error {
	o := bench.Defaults
	switch {
	case c.Gate:
		o = bench.Gate
	case c.Quick:
		o = bench.Quick
	}
	if c.Pairs > 0 {
		o.Pairs = c.Pairs
	}
	if c.Time > 0 {
		o.Time = c.Time
	}
	if c.Only != "" {
		o.Only = c.Only
	}
	if c.Sessions != nil {
		o.Sessions = c.Sessions
	}
	if c.Cells != "" {
		o.Cells = c.Cells
	}
	for _, n := range o.Sessions {
		if n < 2 || n > bench.MaxSessions {
			return usageError{fmt.Errorf("--sessions: %d is not between 2 and %d", n, bench.MaxSessions)}
		}
	}
	r, err := bench.Run(e.ctx, o, e.stderr)
	if err != nil {
		return err
	}
	if err := c.write(e, r); err != nil {
		return err
	}
	if bad := r.Gate(); c.Gate && len(bad) > 0 {
		return fmt.Errorf("worse than half of a target:\n%s", strings.Join(bad, "\n"))
	}
	return nil
}

func (c *benchDataplaneCmd) write(e *env, r *bench.Report) error {
	if c.Pictures != "" {
		if err := r.WritePictures(c.Pictures); err != nil {
			return err
		}
	}
	if c.Markdown != "" {
		if err := r.WriteMarkdown(c.Markdown, c.Pictures); err != nil {
			return err
		}
	}
	if e.json {
		return e.print(r)
	}
	return r.WriteText(e.stdout)
}

// benchPeerCmd is one end of a tunnel under measurement: started by the other command.
type benchPeerCmd struct{}

// Run serves the parent.
func (c *benchPeerCmd) Run(*env) error { return peer.Run(os.Stdin, os.Stdout) }
