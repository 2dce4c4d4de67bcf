package ebpf

import (
	"sync/atomic"

	"github.com/cilium/ebpf"
)

// Sessions in bridged mode have no keys: the programs find them by link and MAC of the host, and by what arrives in their tunnel. What
// of them they do not carry they find all the same, and leave it alone.

// arriving is the name of what comes in a tunnel as a session has it.
func (m *mirror) arriving(tun, key uint32) tunnelName {
	switch t := &m.is.tunnels[tun&^inGRE]; {
	case tun == 0:
		return tunnelName{}
	case tun&inGRE != 0:
		return t.inGRE(key)
	default:
		return t.name()
	}
}

// bridge makes all that arrives in a tunnel that of a session in bridged mode, and what arrived in its previous one stays its own
// unless another session took it; or it takes both from any session in bridged mode that has moved on.
func (m *mirror) bridge(slot uint32, r *session, is bool, now, before tunnelName) {
	none := tunnelName{}
	if !is {
		if of, ok := m.bridges[now]; ok && of != slot {
			m.unbridge(now, of)
		}
		now, before = none, none
	}
	for _, n := range m.ways[slot] {
		if n != now && n != before {
			m.unbridge(n, slot)
		}
	}
	if !is {
		delete(m.ways, slot)
		r.counted &^= isBridged
	} else {
		m.ways[slot] = [2]tunnelName{now, before}
		r.counted |= isBridged
	}
	m.tellBridged()
	if is && now != none && m.bridges[now] != slot {
		m.bridges[now] = slot
		if m.is.bridges.Update(&now, &slot, ebpf.UpdateAny) != nil {
			m.refuse() // what arrives there is the engine's business, and with it all that nobody knows
		}
	}
}

// unbridge takes a name from a session, if it is still its own.
func (m *mirror) unbridge(n tunnelName, slot uint32) {
	if of, ok := m.bridges[n]; ok && of == slot {
		delete(m.bridges, n)
		_ = m.is.bridges.Delete(&n)
	}
}

// tellBridged says whether there are sessions in bridged mode; what a former process said holds until its sessions are known again.
func (m *mirror) tellBridged() {
	if len(m.ways) > 0 || m.old == nil {
		atomic.StoreUint32(&m.is.control.bridged, uint32(len(m.ways)))
	}
}

// adoptBridges takes over what a former process left, until Sync says what of it is still so.
func (m *mirror) adoptBridges() {
	var n tunnelName
	var slot uint32
	for all := m.is.bridges.Iterate(); all.Next(&n, &slot); {
		w := m.ways[slot]
		if w[0] == (tunnelName{}) {
			w[0] = n
		} else {
			w[1] = n
		}
		m.bridges[n], m.ways[slot] = slot, w
	}
}

// sweepBridges removes what nobody named again: slots of old, and hosts of none.
func (m *mirror) sweepBridges() {
	for _, slot := range m.old {
		m.bridge(slot, &m.is.sessions[slot], false, tunnelName{}, tunnelName{})
	}
	var h host
	var gone []host
	for all := m.is.hosts.Iterate(); all.Next(&h, new(uint32)); {
		if m.hosts[h] == 0 {
			gone = append(gone, h)
		}
	}
	for _, h := range gone {
		_ = m.is.hosts.Delete(&h)
	}
}
