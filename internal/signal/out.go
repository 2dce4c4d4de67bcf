package signal

import (
	"fmt"

	"kedge/internal/core"
	"kedge/wire"
	"kedge/wire/ip"
)

// Out gives the whole IPv6 packet, appended to into, that carries what an "mh" port was given: the headers of RFC 6275 and RFC 4877
// in their order, and the protection that p.Auth asks for and the policy demands. Whoever sends it puts p.Outer around it.
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
	case how == inUDP && (s.SrcHome.IsValid() || s.DstHome.IsValid()):
		return into, wire.HomeInUDP
	case how == inUDP && (s.Src.Is4In6() || s.Dst.Is4In6()):
		return into, wire.MappedInUDP
	case s.Src.Is4In6() && (how != inIP || s.Src.Unmap() != l.Local.Addr()), s.Dst.Is4In6() && (how != inIP || s.Dst.Unmap() != l.Remote.Addr()):
		return into, wire.MappedMismatch
	case s.Src.Is4In6() && !s.SrcHome.IsValid(), s.Dst.Is4In6() && !s.DstHome.IsValid():
		return into, wire.MissingHome
	}
	s.Src, s.Dst = s.Src.WithZone(""), s.Dst.WithZone("")
	at := len(into)
	b, err := ip.AppendSignal(into, &s, hopLimit, len(p.B))
	if err != nil {
		return into[:at], err
	}
	return append(b, p.B...), nil
}
