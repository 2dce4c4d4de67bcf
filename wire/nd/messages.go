package nd

import (
	"encoding/binary"
	"net/netip"

	"kedge/wire"
)

// RouterSolicitation asks routers to advertise at once (RFC 4861 4.1).
type RouterSolicitation struct{ Options Options }

func (*RouterSolicitation) icmp() uint8 { return TypeRouterSolicitation }

func (m *RouterSolicitation) append(b []byte) ([]byte, error) {
	return m.Options.append(append(b, 0, 0, 0, 0))
}

func (m *RouterSolicitation) parse(b []byte, e Envelope) (err error) {
	if len(b) < 4 {
		return fault(m.icmp(), "message", 4+len(b), "RFC 4861 6.1.1", wire.Truncated)
	}
	if m.Options, err = parseOptions(m.icmp(), b[4:], 8); err != nil {
		return err
	}
	return noSourceLL(m.icmp(), m.Options, e, "RFC 4861 6.1.1")
}

// RouterAdvertisement is RFC 4861 4.2. RouterLifetime is in seconds, ReachableTime and RetransTimer in milliseconds.
// Preference is the two-bit default router preference of RFC 4191 2.2 (0 medium). HomeAgent is the H flag of RFC 6275 7.1.
type RouterAdvertisement struct {
	CurHopLimit                 uint8
	Managed, Other, HomeAgent   bool
	Preference                  uint8
	RouterLifetime              uint16
	ReachableTime, RetransTimer uint32
	Options                     Options
}

func (*RouterAdvertisement) icmp() uint8 { return TypeRouterAdvertisement }

func (m *RouterAdvertisement) append(b []byte) ([]byte, error) {
	flags := m.Preference & 3 << 3
	if m.Managed {
		flags |= 0x80
	}
	if m.Other {
		flags |= 0x40
	}
	if m.HomeAgent {
		flags |= 0x20
	}
	b = append(b, m.CurHopLimit, flags)
	b = binary.BigEndian.AppendUint16(b, m.RouterLifetime)
	b = binary.BigEndian.AppendUint32(b, m.ReachableTime)
	b = binary.BigEndian.AppendUint32(b, m.RetransTimer)
	return m.Options.append(b)
}

func (m *RouterAdvertisement) parse(b []byte, e Envelope) (err error) {
	if len(b) < 12 {
		return fault(m.icmp(), "message", 4+len(b), "RFC 4861 6.1.2", wire.Truncated)
	}
	if !e.Src.IsLinkLocalUnicast() {
		return fault(m.icmp(), "source", 0, "RFC 4861 6.1.2", wire.BadSource)
	}
	m.CurHopLimit, m.Managed, m.Other, m.HomeAgent, m.Preference = b[0], b[1]&0x80 != 0, b[1]&0x40 != 0, b[1]&0x20 != 0, b[1]>>3&3
	m.RouterLifetime = binary.BigEndian.Uint16(b[2:4])
	m.ReachableTime, m.RetransTimer = binary.BigEndian.Uint32(b[4:8]), binary.BigEndian.Uint32(b[8:12])
	m.Options, err = parseOptions(m.icmp(), b[12:], 16)
	return err
}

// NeighborSolicitation is RFC 4861 4.3. A source of :: makes it a probe of Duplicate Address Detection (RFC 4862 5.4).
type NeighborSolicitation struct {
	Target  netip.Addr
	Options Options
}

func (*NeighborSolicitation) icmp() uint8 { return TypeNeighborSolicitation }

func (m *NeighborSolicitation) append(b []byte) ([]byte, error) {
	b, err := appendAddr(append(b, 0, 0, 0, 0), m.icmp(), "target", m.Target)
	if err != nil {
		return b, err
	}
	return m.Options.append(b)
}

func (m *NeighborSolicitation) parse(b []byte, e Envelope) (err error) {
	if len(b) < 20 {
		return fault(m.icmp(), "message", 4+len(b), "RFC 4861 7.1.1", wire.Truncated)
	}
	m.Target = netip.AddrFrom16([16]byte(b[4:20]))
	if m.Target.IsMulticast() {
		return fault(m.icmp(), "target", 8, "RFC 4861 7.1.1", wire.BadValue)
	}
	if e.Src.IsUnspecified() && !solicitedNode.Contains(e.Dst) {
		return fault(m.icmp(), "destination", 0, "RFC 4861 7.1.1", wire.BadDestination)
	}
	if m.Options, err = parseOptions(m.icmp(), b[20:], 24); err != nil {
		return err
	}
	return noSourceLL(m.icmp(), m.Options, e, "RFC 4861 7.1.1")
}

// NeighborAdvertisement is RFC 4861 4.4.
type NeighborAdvertisement struct {
	Router, Solicited, Override bool
	Target                      netip.Addr
	Options                     Options
}

func (*NeighborAdvertisement) icmp() uint8 { return TypeNeighborAdvertisement }

func (m *NeighborAdvertisement) append(b []byte) ([]byte, error) {
	var flags byte
	if m.Router {
		flags |= 0x80
	}
	if m.Solicited {
		flags |= 0x40
	}
	if m.Override {
		flags |= 0x20
	}
	b, err := appendAddr(append(b, flags, 0, 0, 0), m.icmp(), "target", m.Target)
	if err != nil {
		return b, err
	}
	return m.Options.append(b)
}

func (m *NeighborAdvertisement) parse(b []byte, e Envelope) (err error) {
	if len(b) < 20 {
		return fault(m.icmp(), "message", 4+len(b), "RFC 4861 7.1.2", wire.Truncated)
	}
	m.Router, m.Solicited, m.Override = b[0]&0x80 != 0, b[0]&0x40 != 0, b[0]&0x20 != 0
	m.Target = netip.AddrFrom16([16]byte(b[4:20]))
	if m.Target.IsMulticast() {
		return fault(m.icmp(), "target", 8, "RFC 4861 7.1.2", wire.BadValue)
	}
	if e.Dst.IsMulticast() && m.Solicited {
		return fault(m.icmp(), "solicited flag", 4, "RFC 4861 7.1.2", wire.BadValue)
	}
	m.Options, err = parseOptions(m.icmp(), b[20:], 24)
	return err
}

// Redirect is RFC 4861 4.5. Only routers send it.
type Redirect struct {
	Target, Destination netip.Addr
	Options             Options
}

func (*Redirect) icmp() uint8 { return TypeRedirect }

func (m *Redirect) append(b []byte) ([]byte, error) {
	b, err := appendAddr(append(b, 0, 0, 0, 0), m.icmp(), "target", m.Target)
	if err != nil {
		return b, err
	}
	if b, err = appendAddr(b, m.icmp(), "destination", m.Destination); err != nil {
		return b, err
	}
	return m.Options.append(b)
}

func (m *Redirect) parse(b []byte, e Envelope) (err error) {
	if len(b) < 36 {
		return fault(m.icmp(), "message", 4+len(b), "RFC 4861 8.1", wire.Truncated)
	}
	if !e.Src.IsLinkLocalUnicast() {
		return fault(m.icmp(), "source", 0, "RFC 4861 8.1", wire.BadSource)
	}
	m.Target, m.Destination = netip.AddrFrom16([16]byte(b[4:20])), netip.AddrFrom16([16]byte(b[20:36]))
	if m.Destination.IsMulticast() {
		return fault(m.icmp(), "destination", 24, "RFC 4861 8.1", wire.BadValue)
	}
	if !m.Target.IsLinkLocalUnicast() && m.Target != m.Destination {
		return fault(m.icmp(), "target", 8, "RFC 4861 8.1", wire.BadValue)
	}
	m.Options, err = parseOptions(m.icmp(), b[36:], 40)
	return err
}

// Echo is an Echo Request or Reply (RFC 4443 4.1, 4.2).
type Echo struct {
	Reply   bool
	ID, Seq uint16
	Data    []byte
}

func (m *Echo) icmp() uint8 {
	if m.Reply {
		return TypeEchoReply
	}
	return TypeEchoRequest
}

func (m *Echo) append(b []byte) ([]byte, error) {
	b = binary.BigEndian.AppendUint16(b, m.ID)
	return append(binary.BigEndian.AppendUint16(b, m.Seq), m.Data...), nil
}

func (m *Echo) parse(b []byte, _ Envelope) error {
	if len(b) < 4 {
		return fault(m.icmp(), "message", 4+len(b), "RFC 4443 4.1", wire.Truncated)
	}
	m.ID, m.Seq = binary.BigEndian.Uint16(b[0:2]), binary.BigEndian.Uint16(b[2:4])
	if len(b) > 4 {
		m.Data = b[4:]
	}
	return nil
}

// noSourceLL refuses a Source Link-Layer Address option from a sender without an address.
func noSourceLL(t uint8, o Options, e Envelope, rfc string) error {
	if _, ok := o.SourceLL(); ok && e.Src.IsUnspecified() {
		return fault(t, "Source Link-Layer Address option", 0, rfc, wire.BadValue)
	}
	return nil
}

func appendAddr(b []byte, t uint8, field string, a netip.Addr) ([]byte, error) {
	if !a.Is6() || a.Is4In6() {
		return b, fault(t, field, len(b), "RFC 4861 4", wire.BadValue)
	}
	x := a.As16()
	return append(b, x[:]...), nil
}
