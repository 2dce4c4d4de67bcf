package access

import (
	"net/netip"

	"github.com/insomniacslk/dhcp/dhcpv4"

	"kedge/wire"
)

// Offsets of a DHCP message (RFC 2131 2).
const (
	dhcpSname   = 44
	dhcpFile    = 108
	dhcpCookie  = 236
	dhcpMinLen  = 240
	dhcpHdrHlen = 2
)

// maxDHCPOptions is how many different options one message may have.
const maxDHCPOptions = 128

// parseDHCP reads a DHCP message. Options that overflow into 'file' and 'sname' (option 52) are put to the others, as
// RFC 2131 4.1 demands of every receiver.
func parseDHCP(b []byte) (*dhcpv4.DHCPv4, error) {
	if len(b) < dhcpMinLen {
		return nil, dhcpFault("message", len(b), wire.Truncated, nil)
	}
	if b[dhcpHdrHlen] > 16 {
		return nil, dhcpFault("hlen", dhcpHdrHlen, wire.BadLength, nil)
	}
	m, err := dhcpv4.FromBytes(b)
	if err != nil {
		return nil, dhcpFault("options", dhcpMinLen, wire.Malformed, err)
	}
	if o := m.Options[uint8(dhcpv4.OptionOptionOverload)]; len(o) == 1 {
		for _, area := range []struct {
			bit      byte
			from, to int
		}{{1, dhcpFile, dhcpCookie}, {2, dhcpSname, dhcpFile}} {
			if o[0]&area.bit == 0 {
				continue
			}
			if err := m.Options.FromBytes(b[area.from:area.to]); err != nil {
				return nil, dhcpFault("overloaded options", area.from, wire.Malformed, err)
			}
		}
	}
	if len(m.Options) > maxDHCPOptions {
		return nil, dhcpFault("options", dhcpMinLen, wire.TooManyOptions, nil)
	}
	for _, code := range []dhcpv4.OptionCode{dhcpv4.OptionRequestedIPAddress, dhcpv4.OptionServerIdentifier} {
		if o, ok := m.Options[code.Code()]; ok && len(o) != 4 {
			return nil, dhcpFault(code.String(), dhcpMinLen, wire.BadOptionLength, nil)
		}
	}
	if o, ok := m.Options[uint8(dhcpv4.OptionDHCPMessageType)]; ok && len(o) != 1 {
		return nil, dhcpFault("DHCP Message Type", dhcpMinLen, wire.BadOptionLength, nil)
	}
	return m, nil
}

func dhcpFault(field string, off int, r wire.Reason, cause error) error {
	return &wire.Error{Msg: "DHCP", Field: field, Off: off, RFC: "RFC 2131 2", Reason: r, Err: cause}
}

// addr4 reads an address field or option of four octets; the zero Addr if it has another length or is 0.0.0.0.
func addr4(b []byte) netip.Addr {
	if len(b) == 16 { // the library keeps some addresses as IPv4-mapped
		b = b[12:]
	}
	if len(b) != 4 || [4]byte(b) == [4]byte{} {
		return netip.Addr{}
	}
	return netip.AddrFrom4([4]byte(b))
}
