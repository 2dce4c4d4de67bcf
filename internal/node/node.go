package node

import (
	"io"
	"time"

	"kedge/internal/core"
)

// Machine is the mobile node; a core.Machine.
type Machine struct {
	cfg  Config
	rand io.Reader
}

// New makes a node. rand gives the first sequence number where none is remembered.
func New(cfg Config, rand io.Reader) (*Machine, error) {
	if err := cfg.validate(); err != nil {
		return nil, err
	}
	return &Machine{cfg: cfg, rand: rand}, nil
}

// Handle takes one event.
func (m *Machine) Handle(now core.Now, ev core.Event, out []core.Effect) []core.Effect { return out }

// Deadline is the earliest of all timers.
func (m *Machine) Deadline() (time.Duration, bool) { return 0, false }
