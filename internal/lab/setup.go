package lab

import (
	"fmt"
	"net/netip"
	"time"

	"kedge/internal/lab/ladder"
	"kedge/internal/lab/probe"
)

// pair are the ends of data, the lesser address first.
type pair [2]netip.Addr

func pairOf(a, b netip.Addr) pair {
	if b.Less(a) {
		a, b = b, a
	}
	return pair{a, b}
}

// setup is how route optimization came about between two addresses.
type setup struct {
	tunnelled, direct time.Time // the first packet
}

// watchSetup begins to look, as traffic between two addresses begins.
func (r *Run) watchSetup(a, b netip.Addr) {
	r.recMu.Lock()
	defer r.recMu.Unlock()
	r.setups[pairOf(a, b)] = &setup{}
}

// seeSetup takes a frame. recMu is held.
func (r *Run) seeSetup(f *ladder.Frame) {
	if f.Kind != "DATA" {
		return
	}
	s := r.setups[pairOf(f.InnerSrc, f.InnerDst)]
	switch {
	case s == nil:
	case f.Tunnel && s.tunnelled.IsZero():
		s.tunnelled = f.At
	case f.Straight && s.direct.IsZero():
		s.direct = f.At
	}
}

// setupOf is how long it took, from the first packet in the tunnel to the first direct one.
func (r *Run) setupOf(p *probe.Probe) (time.Duration, error) {
	r.recMu.Lock()
	defer r.recMu.Unlock()
	s := r.setups[pairOf(p.Spec.Src, p.Spec.Dst)]
	if s == nil || s.tunnelled.IsZero() || s.direct.Before(s.tunnelled) {
		return 0, fmt.Errorf("%s > %s was not set up since its traffic began", p.Spec.Src, p.Spec.Dst)
	}
	return s.direct.Sub(s.tunnelled), nil
}
