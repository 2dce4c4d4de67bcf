package ebpf

import (
	"testing"

	"kedge/internal/core"
	"kedge/internal/dataplane/conformance"
	"kedge/internal/dataplane/conformance/kernel"
	"kedge/internal/dataplane/user"
)

// TestConformance runs the suite against real interfaces. It needs root. The harness' own sessions go the slow way: behind their
// packets nothing is left of those before.
func TestConformance(t *testing.T) { conformance.Run(t, factory(false)) }

func TestConformanceClsact(t *testing.T) { conformance.Run(t, factory(true)) }

func factory(clsact bool) conformance.Factory {
	return kernel.Factory(func(c kernel.Config) (kernel.Plane, error) {
		p, err := New(Config{
			Sessions: 64, Clsact: clsact, fakeClock: true, slow: func(id core.ID) bool { return id >= kernel.Markers },
			Config: user.Config{
				Role: c.Role, Local: c.Local, Access: c.Access, LocalRouting: c.LocalRouting, EncapsulationLimit: c.EncapsulationLimit, Home: c.Home,
				Anchors: c.Anchors, ProbeID: c.ProbeID, Unreachable: c.Unreachable, Now: c.Now,
			},
		})
		return ticking{p}, err
	})
}

type ticking struct{ *Plane }

func (p ticking) Ticked() { p.tick() }
