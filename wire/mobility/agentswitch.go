package mobility

import "net/netip"

// HomeAgentSwitch is type 12, RFC 5142 4: the home agent asks the mobile node to leave it. Addresses are other home agents in
// the order to try them, at most 127; without one the node discovers its next. A Binding Refresh Advice option says how long
// the binding will be kept. Options start behind the addresses, on eight octets: AddAt(8).
type HomeAgentSwitch struct {
	Addresses []netip.Addr
	Options   Options
}

// switchHead is the part before the addresses.
const switchHead = 8

func (*HomeAgentSwitch) Type() Type            { return TypeHomeAgentSwitch }
func (m *HomeAgentSwitch) GetOptions() Options { return m.Options }

func (m *HomeAgentSwitch) fixed() int {
	if m == nil {
		return switchHead
	}
	return switchHead + 16*len(m.Addresses)
}

// parseHomeAgentSwitch reads a header that holds all the addresses it counts.
func parseHomeAgentSwitch(h []byte, o Options) *HomeAgentSwitch {
	m := &HomeAgentSwitch{Options: o}
	for at := switchHead; len(m.Addresses) < int(h[6]); at += 16 {
		m.Addresses = append(m.Addresses, ipv6(h[at:at+16]))
	}
	return m
}

func (m *HomeAgentSwitch) appendBody(b []byte) []byte {
	b = append(b, byte(len(m.Addresses)), 0)
	for _, a := range m.Addresses {
		b = appendIPv6(b, a)
	}
	return b
}
