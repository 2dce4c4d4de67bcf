package peer

import (
	"time"

	"kedge/internal/core"
)

// A binding whose packets persistently come back as ICMPv6 Destination Unreachable is deleted (RFC 6275 9.3.4): they go by the home
// agent then. So is one whose care-of address has a host by now that knows no type 2 routing header. The data plane reports such
// errors, one a second at most, only of packets that it may have sent. They can be forged by who knows both addresses and the care-of
// address, so that a mobile node that is heard from meanwhile is believed for longer.
const (
	unreachableGap  = 10 * time.Second // without an error for as long, the next one is a first one
	unreachableMute = 5 * time.Second  // from the first one to the end of a binding that nothing comes from
	unreachableMost = 30 * time.Second // to that of any
)

// trouble is what is known of errors about a binding.
type trouble struct {
	began, known, judged bool
	since, last          time.Duration
	heard                uint64 // packets from the mobile node, when last looked
}

// unreachable takes a report of one error.
func (m *Machine) unreachable(ev *core.Reported) {
	e := m.cache.byID[ev.ID]
	if m.cfg.Forward != nil || e == nil || !e.live() || ev.Outer.Remote.Addr() != e.careOf {
		return
	}
	now, t := m.now.Boot, &e.trouble
	switch {
	case !t.began || now-t.last >= unreachableGap:
		*t = trouble{began: true, since: now, last: now}
	case now-t.since >= unreachableMost:
		m.unbind(e, "unreachable")
		return
	default:
		t.last = now
		if t.judged = t.known && now-t.since >= unreachableMute; !t.judged {
			return
		}
	}
	m.askCounters(e)
}

// heard compares how many packets came from the mobile node with those that had come when its trouble began.
func (m *Machine) heard(e *entry, packets uint64) {
	t := &e.trouble
	switch {
	case !t.began:
	case !t.known:
		t.known, t.heard = true, packets
	case t.judged && packets == t.heard:
		m.unbind(e, "unreachable")
	default:
		t.judged = false
	}
}
