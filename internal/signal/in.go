package signal

import (
	"net/netip"

	"kedge/internal/core"
	"kedge/internal/ipsec"
	"kedge/wire"
	"kedge/wire/ip"
	"kedge/wire/mobility"
	"kedge/wire/nd"
)

// In takes one whole IPv6 packet that came in outer (N=0: natively; a Layer with ports: in UDP, RFC 5555; without: in protocol 41)
// and leaves in into what an "mh" port gives: If and MAC are kept, B is filled anew and does not alias pkt. Of ESP in tunnel mode, Outer
// is the tunnel's two ends; with Proto ip.IPv6, B is then a whole packet for somebody else, for the data plane to forward.
//
// An error means that the packet is dropped and counted: a *wire.Error or a wire.Reason. pkt may be overwritten.
func (c *Codec) In(now core.Now, pkt []byte, outer core.Chain, into *core.Packet) error {
	s, err := ip.ParseSignal(pkt)
	if err == nil {
		err = c.in(now, pkt[:s.Len], &s, outer, into)
	}
	if err != nil {
		return c.drop(err)
	}
	return nil
}

func (c *Codec) in(now core.Now, pkt []byte, s *ip.Signal, outer core.Chain, into *core.Packet) error {
	how, err := framingOf(outer)
	if err != nil {
		return err
	}
	if err := c.envelope(s, how, &outer.Layer[0]); err != nil {
		return err
	}
	*into = core.Packet{
		If: into.If, MAC: into.MAC, B: into.B[:0], Outer: outer, SrcHome: s.SrcHome, DstHome: s.DstHome,
		Src: netip.AddrPortFrom(s.Src, 0), Dst: netip.AddrPortFrom(s.Dst, 0),
	}
	t := ipsec.Traffic{Local: s.Dst, Remote: s.Src, LocalHome: s.DstHome, RemoteHome: s.SrcHome}
	proto, auth := s.Proto, core.Auth{Kind: ipsec.KindNone}
	if proto == ip.ESP {
		if c.cfg.IPsec == nil {
			return wire.UnknownSPI
		}
		if into.B, proto, auth, err = c.cfg.IPsec.Inbound(now, t, pkt[s.Off:], into.B); err != nil {
			return counted{err}
		}
		if proto == ip.IPv6 {
			if how != native {
				return wire.TunnelInTunnel
			}
			return c.tunnelled(now, s, auth, into)
		}
	} else {
		into.B = append(into.B, pkt[s.Off:]...)
	}
	switch {
	case proto == ip.Mobility:
		// A Binding Update in protocol 41 belongs to the older dialect, whose care-of address is IPv4-mapped: RFC 5555 4.1 wants UDP. A node
		// that is a correspondent as well gets others' by its tunnel.
		if how == inIP && !s.Src.Is4In6() && !c.isHome(s.Dst) && mobilityType(into.B) == mobility.TypeBindingUpdate {
			return wire.UpdateInTunnel
		}
		t.Type = uint8(mobilityType(into.B))
	case proto == ip.ICMPv6 && len(into.B) > 0 && (how != native || discovery(into.B[0])):
		into.Proto, t.Type = proto, into.B[0]
	default:
		return wire.NotSignalling
	}
	t.Proto = proto
	if into.Auth, err = c.vouch(now, s, t, auth, into.B); err == nil && how != native && c.guarded(&t) {
		return wire.Unprotected
	}
	return err
}

// discovery says whether an ICMPv6 type is of home agent address discovery or prefix discovery (RFC 6275 6.5 to 6.8).
func discovery(t uint8) bool {
	return nd.TypeHomeAgentAddressDiscoveryRequest <= t && t <= nd.TypeMobilePrefixAdvertisement
}

// mobilityType is the MH Type of a message, which may be cut short; its parser says so later.
func mobilityType(b []byte) mobility.Type {
	if len(b) < 3 {
		return ^mobility.Type(0)
	}
	return mobility.Type(b[2])
}

// framing is what lies around an IPv6 packet of signalling.
type framing uint8

const (
	native framing = iota
	inUDP          // RFC 5555 4.1
	inIP           // protocol 41: draft-soliman-v4v6-mipv6 2.2.2, and a node's probes of its tunnel
)

// framingOf fails for chains that signalling does not come in.
func framingOf(outer core.Chain) (framing, error) {
	switch l := &outer.Layer[0]; {
	case outer.N == 0:
		return native, nil
	case outer.N > 1 || !l.Remote.Addr().IsValid() || !l.Local.Addr().IsValid():
		return native, wire.NotSignalling
	case l.Remote.Port() != 0 || l.Local.Port() != 0:
		return inUDP, nil
	}
	return inIP, nil
}

// envelope holds the addresses of a packet's headers against what lies around it.
func (c *Codec) envelope(s *ip.Signal, how framing, l *core.Layer) error {
	if s.Fragment {
		return errFragment
	}
	if !sender(s.Src) || s.Dst.IsMulticast() || s.Dst.IsUnspecified() {
		return wire.NotUnicast
	}
	if how != native && s.Proto == ip.IPv6 {
		return wire.TunnelInTunnel
	}
	if err := c.mapped(s, how, l); err != nil {
		return err
	}
	if s.DstHome.IsValid() && !c.isHome(s.DstHome) {
		return wire.NotOurHome
	}
	// In UDP the inner addresses are the home address and the home agent's: nothing is left to say (RFC 5555 4.1, 4.2), but a Mobile
	// Prefix Solicitation says it all the same (2.2).
	if how == inUDP && (s.SrcHome.IsValid() && s.SrcHome != s.Src || s.DstHome.IsValid()) {
		return wire.HomeInUDP
	}
	return nil
}

var errFragment = &wire.Error{Msg: "signalling", Field: "Fragment header", Reason: wire.BadValue, RFC: "RFC 8200 4.5"}

// mapped lets IPv4-mapped addresses through only where draft-soliman-v4v6-mipv6 2.2.2 has them: around them is protocol 41 in IPv4,
// they say the same address as that header, and beside them is the header with the home address.
func (c *Codec) mapped(s *ip.Signal, how framing, l *core.Layer) error {
	if !s.Src.Is4In6() && !s.Dst.Is4In6() {
		return nil
	}
	switch {
	case how == inUDP:
		return wire.MappedInUDP
	case how == native:
		return wire.MappedMismatch
	case s.Src.Is4In6() && s.Src.Unmap() != l.Remote.Addr(), s.Dst.Is4In6() && s.Dst.Unmap() != l.Local.Addr():
		return wire.MappedMismatch
	case !c.cfg.Mapped:
		return wire.DialectDisabled
	case s.Src.Is4In6() && !s.SrcHome.IsValid(), s.Dst.Is4In6() && !s.DstHome.IsValid():
		return wire.MissingHome
	}
	return nil
}

// sender reports whether a can be the source of signalling.
func sender(a netip.Addr) bool {
	return !a.IsUnspecified() && !a.IsLoopback() && !a.IsMulticast()
}

func (c *Codec) isHome(a netip.Addr) bool {
	for _, h := range *c.homes.Load() {
		if h == a {
			return true
		}
	}
	return false
}
