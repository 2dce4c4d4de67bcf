package nd

import (
	"encoding/binary"
	"net/netip"

	"kedge/wire"
	"kedge/wire/ip"
)

// HomeAgentsInMinimumMTU is how many addresses a Home Agent Address Discovery Reply may hold so that its packet fits the
// least MTU of IPv6 (RFC 6275 10.5.1).
const HomeAgentsInMinimumMTU = (1280 - ip.IPv6Len - 8) / 16

// homeAgentsAnycast is the interface identifier of the Mobile IPv6 Home-Agents anycast address, 0x7e under the format of
// identifiers with a universal/local bit (RFC 2526 2, 3).
var homeAgentsAnycast = [8]byte{0xfd, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xfe}

// HomeAgentsAnycast is the Mobile IPv6 Home-Agents anycast address of a home subnet: its prefix with the identifier of EUI-64
// format where there are at least 64 bits for it, else the last 128 addresses' 0x7e (RFC 2526 2). It is no address for a
// prefix that is not IPv6's or leaves fewer than seven bits.
func HomeAgentsAnycast(p netip.Prefix) netip.Addr {
	if !p.IsValid() || !p.Addr().Is6() || p.Addr().Is4In6() || p.Bits() > 121 {
		return netip.Addr{}
	}
	a := p.Masked().Addr().As16()
	if p.Bits() <= 64 {
		copy(a[8:], homeAgentsAnycast[:])
		return netip.AddrFrom16(a)
	}
	for bit := p.Bits(); bit < 121; bit++ {
		a[bit/8] |= 0x80 >> (bit % 8)
	}
	a[15] |= 0x7e
	return netip.AddrFrom16(a)
}

// HomeAgentAddressDiscoveryRequest asks the home agents of a subnet for their addresses (RFC 6275 6.5). Mobile is the Mobile
// Router Support flag: those that serve mobile routers (RFC 3963 7.1).
type HomeAgentAddressDiscoveryRequest struct {
	ID     uint16
	Mobile bool
}

func (*HomeAgentAddressDiscoveryRequest) icmp() uint8 { return TypeHomeAgentAddressDiscoveryRequest }

func (m *HomeAgentAddressDiscoveryRequest) append(b []byte) ([]byte, error) {
	return appendDiscovery(b, m.ID, m.Mobile), nil
}

func (m *HomeAgentAddressDiscoveryRequest) parse(b []byte, _ Envelope) error {
	if len(b) < 4 {
		return fault(m.icmp(), "message", 4+len(b), "RFC 6275 6.5", wire.Truncated)
	}
	m.ID, m.Mobile = parseDiscovery(b)
	return nil
}

// HomeAgentAddressDiscoveryReply lists home agents, the best first (RFC 6275 6.6). Mobile says that they serve mobile routers
// (RFC 3963 7.2). Parse does not judge the addresses.
type HomeAgentAddressDiscoveryReply struct {
	ID        uint16
	Mobile    bool
	Addresses []netip.Addr
}

func (*HomeAgentAddressDiscoveryReply) icmp() uint8 { return TypeHomeAgentAddressDiscoveryReply }

func (m *HomeAgentAddressDiscoveryReply) append(b []byte) ([]byte, error) {
	b = appendDiscovery(b, m.ID, m.Mobile)
	for _, a := range m.Addresses {
		var err error
		if b, err = appendAddr(b, m.icmp(), "home agent address", a); err != nil {
			return b, err
		}
	}
	return b, nil
}

func (m *HomeAgentAddressDiscoveryReply) parse(b []byte, _ Envelope) error {
	if len(b) < 4 {
		return fault(m.icmp(), "message", 4+len(b), "RFC 6275 6.6", wire.Truncated)
	}
	m.ID, m.Mobile = parseDiscovery(b)
	if n := len(b) - 4; n%16 != 0 {
		return fault(m.icmp(), "home agent addresses", 8+n-n%16, "RFC 6275 6.6", wire.BadLength)
	}
	for at := 4; at < len(b); at += 16 {
		a := netip.AddrFrom16([16]byte(b[at : at+16]))
		if a.Is4In6() { // no home agent's, and not to be written again
			return fault(m.icmp(), "home agent addresses", 4+at, "RFC 4291 2.5.5", wire.BadValue)
		}
		m.Addresses = append(m.Addresses, a)
	}
	return nil
}

// mobileFlag is the first bit of the word behind the identifier, and of that in the Home Agent Information option.
const mobileFlag = 0x80

func appendDiscovery(b []byte, id uint16, mobile bool) []byte {
	b = binary.BigEndian.AppendUint16(b, id)
	if mobile {
		return append(b, mobileFlag, 0)
	}
	return append(b, 0, 0)
}

func parseDiscovery(b []byte) (id uint16, mobile bool) {
	return binary.BigEndian.Uint16(b), b[2]&mobileFlag != 0
}

// MobilePrefixSolicitation asks the home agent for the prefixes of the home link (RFC 6275 6.7). Its checksum is that of the
// home address as source. Options are ignored, whatever they are.
type MobilePrefixSolicitation struct {
	ID      uint16
	Options Options
}

func (*MobilePrefixSolicitation) icmp() uint8 { return TypeMobilePrefixSolicitation }

func (m *MobilePrefixSolicitation) append(b []byte) ([]byte, error) {
	return m.Options.append(append(binary.BigEndian.AppendUint16(b, m.ID), 0, 0))
}

func (m *MobilePrefixSolicitation) parse(b []byte, _ Envelope) (err error) {
	if len(b) < 4 {
		return fault(m.icmp(), "message", 4+len(b), "RFC 6275 6.7", wire.Truncated)
	}
	m.ID = binary.BigEndian.Uint16(b)
	m.Options, err = parseOptions(m.icmp(), b[4:], 8)
	return err
}

// MobilePrefixAdvertisement tells a mobile node the prefixes of its home link (RFC 6275 6.8), as Prefix Information options.
// Its checksum is that of the home address as destination.
type MobilePrefixAdvertisement struct {
	ID             uint16
	Managed, Other bool
	Options        Options
}

func (*MobilePrefixAdvertisement) icmp() uint8 { return TypeMobilePrefixAdvertisement }

func (m *MobilePrefixAdvertisement) append(b []byte) ([]byte, error) {
	var flags byte
	if m.Managed {
		flags |= 0x80
	}
	if m.Other {
		flags |= 0x40
	}
	return m.Options.append(append(binary.BigEndian.AppendUint16(b, m.ID), flags, 0))
}

func (m *MobilePrefixAdvertisement) parse(b []byte, _ Envelope) (err error) {
	if len(b) < 4 {
		return fault(m.icmp(), "message", 4+len(b), "RFC 6275 6.8", wire.Truncated)
	}
	m.ID, m.Managed, m.Other = binary.BigEndian.Uint16(b), b[2]&0x80 != 0, b[2]&0x40 != 0
	m.Options, err = parseOptions(m.icmp(), b[4:], 8)
	return err
}

type (
	// AdvertisementInterval is the longest time between unsolicited advertisements in milliseconds (RFC 6275 7.3).
	AdvertisementInterval uint32
	// HomeAgentInformation is RFC 6275 7.4 with the Mobile Router Support flag of RFC 3963 7.3. A higher Preference is
	// better, and 0 is that of a home agent that does not send the option. Lifetime is in seconds; 0 must not be sent.
	HomeAgentInformation struct {
		Mobile               bool
		Preference, Lifetime uint16
	}
)

func (o AdvertisementInterval) append(b []byte) ([]byte, error) {
	return binary.BigEndian.AppendUint32(append(b, optInterval, 1, 0, 0), uint32(o)), nil
}

func (o HomeAgentInformation) append(b []byte) ([]byte, error) {
	b = append(b, optHomeAgent, 1, 0, 0)
	if o.Mobile {
		b[len(b)-2] = mobileFlag
	}
	b = binary.BigEndian.AppendUint16(b, o.Preference)
	return binary.BigEndian.AppendUint16(b, o.Lifetime), nil
}

// HomeAgent gives the first Home Agent Information option.
func (o Options) HomeAgent() (HomeAgentInformation, bool) {
	for _, x := range o {
		if h, ok := x.(HomeAgentInformation); ok {
			return h, true
		}
	}
	return HomeAgentInformation{}, false
}
