package access

import (
	"io"
	"time"

	"kedge/internal/core"
)

// HomeLink emulates the home link of every host on one access link. It is a sub-machine: its gateway calls it in its own
// goroutine and carries out the Actions that it appends.
type HomeLink struct {
	cfg  LinkConfig
	rand io.Reader
}

// NewHomeLink makes a link without hosts. rand spreads the periodic Router Advertisements.
func NewHomeLink(cfg LinkConfig, rand io.Reader) *HomeLink { return &HomeLink{cfg: cfg, rand: rand} }

// Handle takes one frame that arrived on the link.
func (l *HomeLink) Handle(now core.Now, f *Frame, out []Action) []Action { return out }

// Grant says what a host may use, after a Proxy Binding Acknowledgement.
func (l *HomeLink) Grant(now core.Now, mac core.MAC, g Grant, out []Action) []Action { return out }

// Deny says that the registration of the families f was refused.
func (l *HomeLink) Deny(now core.Now, mac core.MAC, f Families, reason string, out []Action) []Action {
	return out
}

// Forget drops all state of a host that left. It sends nothing.
func (l *HomeLink) Forget(now core.Now, mac core.MAC, out []Action) []Action { return out }

// Probe sends a unicast Neighbor Solicitation and ARP Request towards the host.
func (l *HomeLink) Probe(now core.Now, mac core.MAC, out []Action) []Action { return out }

// Tick does what is due at now.
func (l *HomeLink) Tick(now core.Now, out []Action) []Action { return out }

// Deadline is the earliest wish for a Tick, in boot time.
func (l *HomeLink) Deadline() (time.Duration, bool) { return 0, false }
