package node

import (
	"net/netip"

	"kedge/internal/core"
	"kedge/internal/node/movement"
)

// framing is how data travels between a care-of address and the home agent.
type framing uint8

const (
	inIPv6 framing = iota // protocols 4 and 41 over IPv6 (RFC 2473)
	inIPv4                // protocols 4 and 41 over IPv4, without a NAT between
	inUDP                 // UDP 4191 over IPv4
)

var framingNames = [...]string{"ipv6", "ipv4", "udp"}

func (f framing) String() string { return framingNames[f] }

// overhead is what the outer headers add, in octets.
func (f framing) overhead() int {
	return [...]int{40, 20, 28}[f]
}

// chain is the tunnel from a care-of address.
func (m *Machine) chain(local netip.Addr, f framing) core.Chain {
	c := core.Chain{N: 1}
	port := uint16(0)
	if f == inUDP {
		port = Port
	}
	remote := m.ha.v6
	if f != inIPv6 {
		remote = m.ha.v4
	}
	c.Layer[0] = core.Layer{Local: netip.AddrPortFrom(local, port), Remote: netip.AddrPortFrom(remote, port)}
	return c
}

// auth is what protects signalling with the home agent.
func (m *Machine) auth() core.Auth {
	return core.Auth{Kind: m.ha.protection, Peer: m.ha.name}
}

// signalling is the way of a Binding Update from a care-of address:
//
//	IPv6             IPv6(care-of -> home agent) | Home Address option                       RFC 6275 11.7.1
//	IPv4, rfc5555    IPv4 | UDP 4191 | IPv6(home address -> home agent)                      RFC 5555 4.4.2
//	IPv4, soliman    IPv4 protocol 41 | IPv6(::ffff:care-of -> home agent) | Home Address option   document 004, 2.2.2
func (m *Machine) signalling(c *movement.CareOf) core.Path { return m.signallingOf(m.hoa(), c) }

// signallingOf is that for one of several home addresses.
func (m *Machine) signallingOf(home netip.Addr, c *movement.CareOf) core.Path {
	p := core.Path{Remote: addrPort(m.ha.v6), Own: home, Auth: m.auth()}
	switch {
	case c.Addr.Is6():
		p.If, p.Local = c.If, addrPort(c.Addr)
	case m.cfg.Anchor.Dialect == Soliman:
		p.Local, p.Outer = addrPort(netip.AddrFrom16(c.Addr.As16())), m.chain(c.Addr, inIPv4)
	default:
		p.Local, p.Own, p.Outer = addrPort(home), netip.Addr{}, m.chain(c.Addr, inUDP)
	}
	return p
}

// fromHome is the way of the deregistration on the home link: from the home address itself (RFC 6275 11.5.5).
func (m *Machine) fromHome(ifi int) core.Path {
	return core.Path{If: ifi, Local: addrPort(m.hoa()), Remote: addrPort(m.ha.v6), Auth: m.auth()}
}

// cameFor says which care-of address of ours a message was sent to, and to which home address; the address is our home
// address for what came natively without a type 2 routing header.
func (m *Machine) cameFor(p *core.Path) (careOf, home netip.Addr) {
	home = p.Local.Addr()
	if p.Own.IsValid() {
		home = p.Own
	}
	careOf = p.Local.Addr()
	if p.Outer.N > 0 {
		careOf = p.Outer.Layer[0].Local.Addr()
	}
	return careOf, home
}

// hoa is the IPv6 home address.
func (m *Machine) hoa() netip.Addr { return m.home6.Addr() }

func addrPort(a netip.Addr) netip.AddrPort { return netip.AddrPortFrom(a, 0) }

func host(a netip.Addr) netip.Prefix { return netip.PrefixFrom(a, a.BitLen()) }

// mapped is the IPv4-mapped form in which the Binding Update List keeps IPv4 home addresses (document 004, 3.3).
func mapped(a netip.Addr) netip.Addr { return netip.AddrFrom16(a.As16()) }
