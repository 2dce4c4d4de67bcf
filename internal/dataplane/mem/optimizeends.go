package mem

import "net/netip"

// Optimized is how many ways there are on which packets of route optimization are taken. I/O needs sockets for these only while
// there are any.
func (e *Engine) Optimized() int { return int(e.straights.Load()) }

// OptimizedAt reports whether packets of route optimization are taken at an address: a session has it, or had before it moved.
func (e *Engine) OptimizedAt(local netip.Addr) bool {
	e.mu.RLock()
	defer e.mu.RUnlock()
	return e.tables.straight[local] != 0
}

// straighten counts the ends of tunnels that are none. The lock is held.
func (e *Engine) straighten(f *frame, n int) {
	if f.kind&without == 0 || f.kind&leaving != 0 {
		return
	}
	e.straights.Add(int32(n))
	local := f.local.Addr()
	if e.tables.straight[local] += n; e.tables.straight[local] == 0 {
		delete(e.tables.straight, local)
	}
}
