package simnet

import (
	"slices"
	"time"

	"kedge/internal/core"
)

// Air is an access link: one gateway's port and the hosts that are on it. It behaves as a switch that knows where every
// MAC is: unicast goes to its owner, groups to all others.
type Air struct {
	s      *Sim
	Name   string
	Cond   Conditions
	node   *Node
	port   Access
	hosts  []*Host
	faults []*fault
}

// airLatency is that of an access link unless its Cond says otherwise.
const airLatency = 100 * time.Microsecond

// Air makes an access link; a gateway takes it by its NodeConfig.
func (s *Sim) Air(name string) *Air {
	a := &Air{s: s, Name: name, Cond: Conditions{Latency: airLatency}}
	s.airs = append(s.airs, a)
	return a
}

// Fault adds a router; the function it gives takes it away again.
func (a *Air) Fault(r Router) (remove func()) {
	f := &fault{r}
	a.faults = append(a.faults, f)
	return func() { a.faults = slices.DeleteFunc(a.faults, func(o *fault) bool { return o == f }) }
}

// Carrier takes the gateway's carrier of the link away or gives it back.
func (a *Air) Carrier(up bool) {
	if a.node != nil {
		a.node.hostChanged(core.HostChanged{Op: core.HostOp{Kind: "link", If: a.port.If, Name: a.port.Name, Value: "up"}, Up: up})
	}
}

// fromHost carries a frame from a host.
func (a *Air) fromHost(h *Host, b []byte) {
	a.carry(h.Name, b, func(mac core.MAC, group bool, f []byte) {
		if a.node != nil && (group || mac == a.port.MAC) {
			a.node.frame(a.port.If, f)
		}
		for _, o := range slices.Clone(a.hosts) {
			if o != h && (group || mac == o.MAC) {
				o.frame(a, f)
			}
		}
	})
}

// fromNode carries a frame from the gateway.
func (a *Air) fromNode(b []byte) {
	a.carry(a.node.Name, b, func(mac core.MAC, group bool, f []byte) {
		for _, o := range slices.Clone(a.hosts) {
			if group || mac == o.MAC {
				o.frame(a, f)
			}
		}
	})
}

func (a *Air) carry(from string, b []byte, deliver func(mac core.MAC, group bool, f []byte)) {
	p := &Packet{Kind: Frame, From: from, B: slices.Clone(b)}
	a.s.admit(p, a.Name)
	a.s.travel(p, a.Cond, a.faults, func(f []byte) {
		if len(f) >= 14 {
			deliver(core.MAC(f[:6]), f[0]&1 != 0, f)
		}
	})
}
