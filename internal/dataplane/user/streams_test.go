package user

import (
	"testing"

	"kedge/internal/dataplane/conformance/kernel"
)

// TestStreams sends what real applications send. It needs root and ethtool.
func TestStreams(t *testing.T) { kernel.Streams(t, openPlane) }

// TestChainedStreams sends it in tunnels of more headers, and in ESP.
func TestChainedStreams(t *testing.T) { kernel.ChainedStreams(t, openPlane) }

// openPlane opens one with one queue unless it is told otherwise: the suite sends one packet, takes what came of it, and sends the next,
// as one flow would.
func openPlane(c kernel.Config) (kernel.Plane, error) {
	return New(Config{
		Role: c.Role, Local: c.Local, Access: c.Access, LocalRouting: c.LocalRouting, EncapsulationLimit: c.EncapsulationLimit, Home: c.Home,
		Anchors: c.Anchors, ProbeID: c.ProbeID, Unreachable: c.Unreachable, Now: c.Now, Queues: max(c.Queues, 1), Security: c.Security,
	})
}
