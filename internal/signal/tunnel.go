package signal

import (
	"net/netip"
	"slices"

	"kedge/internal/core"
	"kedge/internal/ipsec"
	"kedge/wire"
	"kedge/wire/ip"
	"kedge/wire/mobility"
)

// Return routability in ESP (RFC 6275 5.2.5, 11.6.3; RFC 3776 3.2; RFC 4877 6.2). A Home Test Init and its Home Test go through the
// tunnel between node and home agent, where tunnel mode replaces the tunnel of data:
//
//	IPv6(care-of address -> home agent) | ESP | IPv6(home address -> correspondent) | Home Test Init
//
// At the node a machine sends and gets them with the chain of its tunnel around them, whoever carries them. At the home agent they are
// others' messages: what came in ESP is forwarded, and what the data plane found on its way to a home address is put into ESP.
//
// There is none of it over IPv4: nobody uses route optimization there (RFC 5555 4.1), and a NAT would need ESP in UDP. While a
// binding is of an IPv4 care-of address, the messages are refused both ways.

// tunnelled takes what ESP in tunnel mode protected, a whole packet, out of into.B: a message for this daemon, or with Proto ip.IPv6 a
// packet that is to be forwarded.
func (c *Codec) tunnelled(now core.Now, outer *ip.Signal, auth core.Auth, into *core.Packet) error {
	s, err := ip.ParseSignal(into.B)
	if err != nil {
		return err
	}
	t, err := ipsec.InnerTraffic(into.B[:s.Len], false)
	if err != nil {
		return err
	}
	if into.Auth, err = c.cfg.IPsec.Check(now, t, auth); err != nil {
		return counted{err}
	}
	// Only the associations of return routability are in tunnel mode here, and the policy knows their messages right behind the header.
	if s.Proto != ip.Mobility || s.Off != ip.IPv6Len {
		return wire.NotSignalling
	}
	if !sender(s.Src) || !ip.Routable(s.Dst) {
		return wire.NotUnicast
	}
	into.Src, into.Dst = netip.AddrPortFrom(s.Src, 0), netip.AddrPortFrom(s.Dst, 0)
	into.SrcHome, into.DstHome = netip.Addr{}, netip.Addr{}
	into.Outer = core.Chain{N: 1}
	into.Outer.Layer[0] = core.Layer{Local: netip.AddrPortFrom(outer.Dst, 0), Remote: netip.AddrPortFrom(outer.Src, 0)}
	if c.isHome(s.Dst) || slices.Contains(c.cfg.Local, s.Dst) {
		into.B = into.B[:copy(into.B, into.B[s.Off:s.Len])]
		return nil
	}
	into.B, into.Proto = into.B[:s.Len], ip.IPv6
	return nil
}

// guarded says whether a message in the clear, in a tunnel, is one that must be in ESP whether the policy is active or not: in a tunnel
// nobody is at home. It is a test of a home address of ours or of a node of ours; those that others make of us are not.
func (c *Codec) guarded(t *ipsec.Traffic) bool {
	init := mobility.Type(t.Type) == mobility.TypeHomeTestInit
	if c.cfg.IPsec == nil || t.Proto != ip.Mobility || !init && mobility.Type(t.Type) != mobility.TypeHomeTest {
		return false
	}
	local, remote := t.Local, t.Remote
	if t.LocalHome.IsValid() {
		local = t.LocalHome
	}
	if t.RemoteHome.IsValid() {
		remote = t.RemoteHome
	}
	ours := t.Out == init
	if ours != c.isHome(local) {
		return false
	}
	if ours {
		return c.cfg.IPsec.Guards(local)
	}
	return c.cfg.IPsec.Guards(remote)
}

// ours reports whether a packet that the data plane hands over without a tunnel around it is a message for us: of a node behind a
// mobile router, whose tunnel was taken off. Others are to be protected.
func (c *Codec) ours(pkt []byte) bool {
	if len(pkt) < ip.IPv6Len {
		return false
	}
	return slices.Contains(c.cfg.Local, netip.AddrFrom16([16]byte(pkt[24:40])))
}

// Protect appends to into what carries a whole packet to a home address whose policy wants it in ESP: a Home Test that the data plane
// hands over instead of tunnelling it in the clear. The result is sent natively. An error means that the packet is dropped and counted.
func (c *Codec) Protect(now core.Now, pkt, into []byte) ([]byte, error) {
	b, err := c.tunnel(now, pkt, into)
	if err != nil {
		return into, c.drop(err)
	}
	return b, nil
}

// tunnel puts a whole packet of ours, or of whom we are the home agent for, into ESP. Nothing leaves in the clear.
func (c *Codec) tunnel(now core.Now, pkt, into []byte) ([]byte, error) {
	if c.cfg.IPsec == nil {
		return into, wire.Unprotected
	}
	t, err := ipsec.InnerTraffic(pkt, true)
	if err != nil {
		return into, err
	}
	b, auth, err := c.cfg.IPsec.Tunnel(now, t, pkt, into)
	switch {
	case err != nil:
		return into, counted{err}
	case auth.Kind != ipsec.KindESP:
		return into, wire.Unprotected // there is no binding
	case b[len(into)]>>4 != 6:
		return into, wire.WrongTunnel // of an IPv4 care-of address
	}
	return b, nil
}

// inTunnel says whether the policy wants a message of ours in tunnel mode.
func (c *Codec) inTunnel(t *ipsec.Traffic) bool {
	v := c.cfg.IPsec.Policy(*t)
	return v.Action == ipsec.Protect && v.Use.Tunnel()
}

// outTunnel appends the message of p in ESP in tunnel mode.
func (c *Codec) outTunnel(now core.Now, p *core.Packet, s *ip.Signal, into []byte) ([]byte, error) {
	whole, err := ip.AppendSignal(make([]byte, 0, ip.IPv6Len+len(p.B)), s, hopLimit, len(p.B))
	if err != nil {
		return into, err
	}
	b, err := c.tunnel(now, append(whole, p.B...), into)
	if err != nil {
		return into, err
	}
	p.Outer = core.Chain{}
	return b, nil
}

// Guards says whether return routability of a home address goes in ESP: what the data plane has of it is left to us (see mem.Engine.Guard).
func (c *Codec) Guards(home netip.Addr) bool { return c.cfg.IPsec != nil && c.cfg.IPsec.Guards(home) }

// UpdateEndpoint implements loop.Security.
func (c *Codec) UpdateEndpoint(peer string, home, local, remote netip.Addr) error {
	if c.cfg.IPsec == nil {
		return nil
	}
	return c.cfg.IPsec.UpdateEndpoint(peer, home, local, remote)
}
