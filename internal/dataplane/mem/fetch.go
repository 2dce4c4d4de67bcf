package mem

import "kedge/internal/core"

// Fetcher is a Mirror that reads the records of slots ahead of their change. What it returns has no meaning.
type Fetcher interface {
	Fetch(slots []uint32) uint64
}

// fetch reads what applying ops, at most batch of them, is going to need of sessions that there are. With a million sessions each
// record is in no cache, and a change waits for half a dozen of them one after the other; read in rounds, where no read waits for
// another, they come at the same time, which makes batches more than twice as fast. The lock is held.
func (e *Engine) fetch(ops []core.Op) {
	if len(ops) < fetchAtLeast {
		return
	}
	var sessions [batch]*session
	var slots [batch]uint32
	n := 0
	for _, op := range ops {
		if op, ok := op.(core.SetSession); ok {
			if s := e.tables.sessions[op.ID]; s != nil {
				sessions[n] = s
				n++
			}
		}
	}
	sum := e.fetched
	for i, s := range sessions[:n] {
		slots[i] = s.slot
		if s.stack != nil {
			sum++
		}
		sum += uint64(s.chain.Layer[0].ESPPort) + uint64(s.chain.Layer[1].ESPPort) // all its cache lines that a move needs
	}
	if f, ok := e.cfg.Mirror.(Fetcher); ok {
		sum += f.Fetch(slots[:n])
	}
	e.fetched = sum // or the compiler would see that nobody needs it
}

// fetchAtLeast is how many ops are worth it.
const fetchAtLeast = 8
