package ebpf

import (
	"testing"

	"kedge/internal/dataplane/conformance/kernel"
	"kedge/internal/dataplane/user"
)

// TestStreams sends what real applications send. It needs root and ethtool.
func TestStreams(t *testing.T) { kernel.Streams(t, streams(false)) }

func TestStreamsClsact(t *testing.T) { kernel.Streams(t, streams(true)) }

// TestChainedStreams sends it in tunnels of more headers, and in ESP: with GRE the fast way, else beside the programs.
func TestChainedStreams(t *testing.T) { kernel.ChainedStreams(t, streams(false)) }

func streams(clsact bool) func(kernel.Config) (kernel.Plane, error) {
	return func(c kernel.Config) (kernel.Plane, error) {
		return New(Config{load: loaded.take, Sessions: 64, Clsact: clsact, Core: []string{"core*", "net*"}, Config: user.Config{Role: c.Role, Local: c.Local, Access: c.Access, Now: c.Now, Queues: c.Queues, Security: c.Security}})
	}
}
