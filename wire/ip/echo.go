package ip

import (
	"encoding/binary"
	"net/netip"

	"kedge/wire"
)

// Echo is an ICMPv6 Echo Request or, with Reply, an Echo Reply (RFC 4443 4): how a mobile node asks whether its tunnel works.
type Echo struct {
	Reply   bool
	ID, Seq uint16
	Data    []byte // parsed: aliases the message
}

const (
	echoRequest6 = 128
	echoReply6   = 129
)

var errEcho = wire.Error{Msg: "ICMPv6", RFC: "RFC 4443 4"}

// Append writes the ICMPv6 message with its checksum.
func (e *Echo) Append(b []byte, src, dst netip.Addr) []byte {
	at, typ := len(b), uint8(echoRequest6)
	if e.Reply {
		typ = echoReply6
	}
	b = binary.BigEndian.AppendUint16(append(b, typ, 0, 0, 0), e.ID)
	b = append(binary.BigEndian.AppendUint16(b, e.Seq), e.Data...)
	binary.BigEndian.PutUint16(b[at+2:], PseudoChecksum(src, dst, ICMPv6, b[at:]))
	return b
}

// ParseEcho reads an ICMPv6 message that is an echo. It fails with a *wire.Error for every other one.
func ParseEcho(b []byte, src, dst netip.Addr) (*Echo, error) {
	fail := func(field string, off int, r wire.Reason) (*Echo, error) {
		err := errEcho
		err.Field, err.Off, err.Reason = field, off, r
		return nil, &err
	}
	switch {
	case len(b) < 8:
		return fail("message", len(b), wire.Truncated)
	case b[0] != echoRequest6 && b[0] != echoReply6:
		return fail("type", 0, wire.UnknownType)
	case b[1] != 0:
		return fail("code", 1, wire.BadValue)
	case PseudoChecksum(src, dst, ICMPv6, b) != 0:
		return fail("checksum", 2, wire.BadChecksum)
	}
	return &Echo{
		Reply: b[0] == echoReply6, ID: binary.BigEndian.Uint16(b[4:]), Seq: binary.BigEndian.Uint16(b[6:]), Data: b[8:],
	}, nil
}
