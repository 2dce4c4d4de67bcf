package node

// minIPv6 is the least MTU of a link that carries IPv6 (RFC 8200 5). The tunnel's device never has less: Linux would take
// IPv6 off it. Longer packets than the path carries are then fragmented outside (RFC 2473 7.1).
const minIPv6 = 1280

const defaultMTU = 1500

// outerMTU is what the path to the home agent carries, outer headers included, as far as is known.
func (m *Machine) outerMTU() int {
	mtu := m.bind.careOf.MTU
	if mtu <= 0 {
		mtu = defaultMTU
	}
	return max(mtu, minIPv6)
}

// innerMTU is what fits into the tunnel, the size that IPv4 destinations are sent.
func (m *Machine) innerMTU() int { return m.outerMTU() - m.bind.framing.overhead() }

// deviceMTU is the tunnel device's.
func (m *Machine) deviceMTU() int { return max(m.innerMTU(), minIPv6) }
