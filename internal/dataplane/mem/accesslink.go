package mem

import (
	"sync/atomic"

	"kedge/internal/dataplane"
)

// accessLink is an access link, and what may change of it.
type accessLink struct {
	dataplane.Link
	now atomic.Int64 // MTU
}

// mtu is how many octets the largest IP packet on the link has; 0 of no link.
func (l *accessLink) mtu() int {
	if l == nil {
		return 0
	}
	return int(l.now.Load())
}

// LinkMTU is how many octets the largest IP packet on an access link has, 0 = there is no such link.
func (e *Engine) LinkMTU(ifi int) int { return e.links[ifi].mtu() }

// SetLinkMTU says how many octets the largest IP packet on an access link has from now on. It says nothing of others, or below 1.
func (e *Engine) SetLinkMTU(ifi, octets int) {
	l := e.links[ifi]
	if l == nil || octets < 1 || l.mtu() == octets {
		return
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	l.now.Store(int64(octets))
	e.changed()
}
