package ebpf

import (
	"net/netip"
	"sync/atomic"

	"github.com/cilium/ebpf"

	"kedge/internal/core"
)

// Pair lets the engine have what goes between two addresses. A pair that finds no room makes it all of IPv6.
func (m *mirror) Pair(d core.Domain, own, other netip.Addr, known bool) {
	if d != m.domain {
		return
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	p, one := pair{addrOf(own), addrOf(other)}, uint8(1)
	delete(m.oldPairs, p)
	if held, was := m.pairs[p]; was && !held {
		m.homeless--
	}
	if known {
		held := m.is.pairs.Update(&p, &one, ebpf.UpdateAny) == nil
		if m.pairs[p] = held; !held {
			m.homeless++
		}
	} else {
		delete(m.pairs, p)
		_ = m.is.pairs.Delete(&p)
	}
	m.tellPairs()
}

func (m *mirror) tellPairs() {
	v := uint32(noPairs)
	switch {
	case m.homeless > 0:
		v = anyPair
	case len(m.pairs)+len(m.oldPairs) > 0:
		v = somePairs
	}
	atomic.StoreUint32(&m.is.control.pairs, v)
}

// adoptPairs keeps those of a former process until its sessions are known again.
func (m *mirror) adoptPairs() {
	m.oldPairs = map[pair]bool{}
	var p pair
	for all := m.is.pairs.Iterate(); all.Next(&p, new(uint8)); {
		m.oldPairs[p] = true
	}
}

func (m *mirror) sweepPairs() {
	for p := range m.oldPairs {
		_ = m.is.pairs.Delete(&p)
	}
	m.oldPairs = nil
	m.tellPairs()
}
