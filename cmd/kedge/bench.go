package main

import (
	"os"
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
	Pairs int           `default:"15" help:"Rounds; each measures everything once."`
	Time  time.Duration `default:"250ms" help:"Of one sample."`
	Only  string        `placeholder:"PATTERN" help:"Regular expression: only the ways of Kedge that match, user/v6 or ebpf/udp4."`
	Cells string        `placeholder:"PATTERN" help:"Regular expression: measure only what matches, tcp6 or udp64."`
}

// Run measures.
func (c *benchDataplaneCmd) Run(e *env) error {
	return bench.Run(e.ctx, bench.Options{Pairs: c.Pairs, Time: c.Time, Only: c.Only, Cells: c.Cells, Log: e.stderr}, e.stdout)
}

// benchPeerCmd is one end of a tunnel under measurement: started by the other command.
type benchPeerCmd struct{}

// Run serves the parent.
func (c *benchPeerCmd) Run(*env) error { return peer.Run(os.Stdin, os.Stdout) }
