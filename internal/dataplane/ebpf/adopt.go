package ebpf

import (
	"errors"
	"fmt"
	"time"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"kedge/internal/core"
	"kedge/internal/dataplane/mem"
)

// newMirror makes the mirror of tables: empty ones, or those of a former process, whose sessions and tunnels keep their slots if
// they are named again.
func newMirror(cfg *Config, k *collection) *mirror {
	m := &mirror{
		role: cfg.Role, domain: cfg.Domain, slow: cfg.slow, now: cfg.Now, is: k.maps, sessions: newSlots(uint32(len(k.sessions)), restSession),
		tunnels: newSlots(uint32(len(k.tunnels)), restTunnel),
		links:   map[int]uint16{}, foreign: map[core.ID]bool{}, hosts: map[host]int{}, locals: map[addr]int{},
		pairs: map[pair]bool{}, bridges: map[tunnelName]uint32{}, ways: map[uint32][2]tunnelName{},
	}
	m.mono = m.now
	if !cfg.fakeClock { // the programs have the monotonic clock only
		m.mono = func() time.Duration { return clockOf(unix.CLOCK_MONOTONIC) }
	}
	m.begin()
	for i, l := range cfg.Access {
		if i+1 < maxLinks {
			m.links[l.If] = uint16(i + 1)
		}
	}
	if !k.adopted {
		return m
	}
	m.old, m.oldTun = map[uint64]uint32{}, map[tunnelName]uint32{}
	var used, usedTun []uint32
	for i := range k.sessions {
		if s := &k.sessions[i]; s.id != 0 {
			used = append(used, uint32(i))
			m.old[s.id] = uint32(i)
		}
	}
	for i := range k.tunnels {
		if t := &k.tunnels[i]; t.remote != (addr{}) {
			usedTun = append(usedTun, uint32(i))
			m.oldTun[t.name()] = uint32(i)
		}
	}
	m.adoptBridges()
	m.adoptPairs()
	m.sessions.adopt(used)
	m.tunnels.adopt(usedTun)
	m.kept[0] = append(m.kept[0], k.control.six[:min(k.control.n6, maxLengths)]...)
	m.kept[1] = append(m.kept[1], k.control.four[:min(k.control.n4, maxLengths)]...)
	return m
}

// sweep removes what a former process left and nobody named again.
func (m *mirror) sweep(e *mem.Engine) error {
	m.mu.Lock()
	adopted := m.old != nil
	m.mu.Unlock()
	if !adopted {
		return nil
	}
	var k key
	var w where
	var gone []change
	all := m.is.keys.Iterate()
	for all.Next(&k, &w) {
		if !e.HasKey(core.Domain(k.Domain), k.prefix()) {
			gone = append(gone, change{k: k, gone: true})
		}
	}
	if err := all.Err(); err != nil && !errors.Is(err, ebpf.ErrIterationAborted) {
		return fmt.Errorf("data plane: keys of a former process: %w", err)
	}
	defer m.flush(e)
	m.mu.Lock()
	defer m.mu.Unlock()
	m.remove(gone)
	var a addr
	var left []addr
	for all := m.is.locals.Iterate(); all.Next(&a, new(uint8)); {
		if m.locals[a] == 0 {
			left = append(left, a)
		}
	}
	for _, a := range left {
		_ = m.is.locals.Delete(&a)
	}
	m.sweepBridges()
	m.sweepPairs()
	for _, slot := range m.old {
		m.is.sessions[slot] = session{}
		m.sessions.give(slot, m.at)
	}
	for _, slot := range m.oldTun {
		m.tunnels.give(slot, m.at)
	}
	m.old, m.oldTun, m.kept = nil, nil, [2][]length{}
	m.tellGRE()
	m.tellBridged()
	return nil
}
