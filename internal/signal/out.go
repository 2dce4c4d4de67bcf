package signal

import (
	"fmt"
	"slices"

	"kedge/internal/core"
	"kedge/internal/ipsec"
	"kedge/wire"
	"kedge/wire/ip"
)

// Out gives the whole IPv6 packet, appended to into, that carries what an "mh" port was given: the headers of RFC 6275 and RFC 4877
// in their order, and the protection that p.Auth asks for and the policy demands. Whoever sends it puts p.Outer around it: Out empties
// that where ESP in tunnel mode has taken the place of the tunnel.
//
// It fails, and counts, for what In would refuse: the machine has made a mistake, and nobody would understand the packet.
func (c *Codec) Out(now core.Now, p *core.Packet, into []byte) ([]byte, error) {
	out, err := c.out(now, p, into)
	if err != nil {
		return into, c.drop(fmt.Errorf("signalling from %s to %s: %w", p.Src.Addr(), p.Dst.Addr(), err))
	}
	return out, nil
}

func (c *Codec) out(now core.Now, p *core.Packet, into []byte) ([]byte, error) {
	how, err := framingOf(p.Outer)
	if err != nil {
		return into, err
	}
	s := ip.Signal{Src: p.Src.Addr(), Dst: p.Dst.Addr(), SrcHome: p.SrcHome, DstHome: p.DstHome, Proto: p.Proto}
	if s.Proto == 0 {
		s.Proto = ip.Mobility
	}
	switch l := &p.Outer.Layer[0]; {
	case len(p.B) == 0 || !s.Src.Is6() || !s.Dst.Is6():
		return into, wire.BadValue
	case how == inUDP && (s.SrcHome.IsValid() && s.SrcHome != s.Src || s.DstHome.IsValid()):
		return into, wire.HomeInUDP
	case how == inUDP && (s.Src.Is4In6() || s.Dst.Is4In6()):
		return into, wire.MappedInUDP
	case s.Src.Is4In6() && (how != inIP || s.Src.Unmap() != l.Local.Addr()), s.Dst.Is4In6() && (how != inIP || s.Dst.Unmap() != l.Remote.Addr()):
		return into, wire.MappedMismatch
	case s.Src.Is4In6() && !s.SrcHome.IsValid(), s.Dst.Is4In6() && !s.DstHome.IsValid():
		return into, wire.MissingHome
	}
	s.Src, s.Dst = s.Src.WithZone(""), s.Dst.WithZone("")
	return c.protect(now, p, &s, into)
}

// protect appends the headers and the message, protected as the policy has it.
func (c *Codec) protect(now core.Now, p *core.Packet, s *ip.Signal, into []byte) ([]byte, error) {
	at, auth := len(into), core.Auth{Kind: ipsec.KindNone}
	// The headers say how long the rest is, so they are written when that is known.
	head := at + ip.IPv6Len
	if s.SrcHome.IsValid() {
		head += ip.HomeAddressLen
	}
	if s.DstHome.IsValid() {
		head += ip.Routing2Len
	}
	b := slices.Grow(into, head-at+len(p.B))[:head]
	if c.cfg.IPsec == nil {
		b = append(b, p.B...)
	} else {
		t := ipsec.Traffic{Local: s.Src, Remote: s.Dst, LocalHome: s.SrcHome, RemoteHome: s.DstHome, Proto: s.Proto, Type: p.B[0]}
		if s.Proto == ip.Mobility {
			t.Type = uint8(mobilityType(p.B))
		}
		if t.Out = true; c.inTunnel(&t) {
			return c.outTunnel(now, p, s, b[:at])
		}
		if p.Outer.N > 0 && c.guarded(&t) {
			return into, wire.Unprotected
		}
		var err error
		if b, s.Proto, auth, err = c.cfg.IPsec.Outbound(now, t, p.B, b); err != nil {
			return into, counted{err}
		}
	}
	// A machine that answers who vouched for himself must not do so in the clear.
	if want := p.Auth.Kind; want != auth.Kind && (want == ipsec.KindESP || want == ipsec.KindRFC4285) {
		return into, wire.Unprotected
	}
	if auth.Kind == ipsec.KindRFC4285 {
		var err error
		if b, err = c.sign(auth.SPI, s, b, head); err != nil {
			return into, err
		}
	}
	if _, err := ip.AppendSignal(b[:at], s, hopLimit, len(b)-head); err != nil {
		return into, err
	}
	return b, nil
}
