package ebpf

import (
	"os"
	"testing"

	"kedge/internal/core"
	"kedge/internal/dataplane/conformance"
	"kedge/internal/dataplane/conformance/kernel"
	"kedge/internal/dataplane/user"
)

// TestConformance runs the suite against real interfaces, by tcx and by clsact in turn; with KEDGE_LONG set, all by both. It needs
// root. The harness' own sessions go the slow way: behind their packets nothing is left of those before.
func TestConformance(t *testing.T) {
	if os.Getenv("KEDGE_LONG") != "" {
		t.Run("tcx", func(t *testing.T) { conformance.Run(t, factory(false)) })
		t.Run("clsact", func(t *testing.T) { conformance.Run(t, factory(true)) })
		return
	}
	each, n := [2]conformance.Factory{factory(false), factory(true)}, 0
	conformance.Run(t, func(t *testing.T, o conformance.Options) conformance.Router {
		n++
		return each[n%2](t, o)
	})
}

func factory(clsact bool) conformance.Factory {
	return kernel.Factory(func(c kernel.Config) (kernel.Plane, error) {
		p, err := New(Config{
			load: loaded.take, Sessions: 64, Clsact: clsact, fakeClock: true, slow: func(id core.ID) bool { return id >= kernel.Markers },
			Config: user.Config{
				Role: c.Role, Local: c.Local, Access: c.Access, LocalRouting: c.LocalRouting, EncapsulationLimit: c.EncapsulationLimit, Home: c.Home,
				Anchors: c.Anchors, ProbeID: c.ProbeID, Unreachable: c.Unreachable, Now: c.Now, Queues: 1, Security: c.Security,
			},
		})
		return ticking{p}, err
	})
}

type ticking struct{ *Plane }

func (p ticking) Ticked() { p.tick() }
