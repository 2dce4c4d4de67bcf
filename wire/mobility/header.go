package mobility

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"

	"kedge/wire"
)

// The Mobility Header, RFC 6275 6.1.1.
const (
	protocolMH   = 135 // next header value of the pseudo header
	protocolNone = 59  // Payload Proto: nothing follows
	minLength    = 8
	maxLength    = 256 * 8 // Header Len is one octet in units of eight
)

// Parse reads one Mobility Header that fills b. src and dst go into the pseudo header: the packet's addresses, or the home
// addresses of a Home Address option and a type 2 routing header where there are some.
//
// The message aliases b. An error is always a *wire.Error: without answer for a bad length or checksum, with
// ParameterProblem for a bad Payload Proto or a Header Len below the type's minimum, and with Status 2 (for a Binding Error)
// for a type that is not known (wire.UnknownType). That one is returned as *Raw besides the error, as is a Binding Revocation
// whose B.R. Type is unassigned, which has no answer (wire.BadValue).
func Parse(b []byte, src, dst netip.Addr) (Message, error) {
	if err := checkHeader(b, src, dst); err != nil {
		return nil, err
	}
	t := Type(b[2])
	head := minimum(t)
	if head == 0 {
		return &Raw{MHType: t, Data: b[6:]}, &wire.Error{Msg: t.String(), Field: "MH Type", Off: 2, RFC: "RFC 6275 9.2",
			Reason: wire.UnknownType, Status: UnrecognizedMHType}
	}
	if b[0] != protocolNone {
		return nil, &wire.Error{Msg: t.String(), Field: "Payload Proto", RFC: "RFC 6275 9.2", Reason: wire.BadPayloadProto, ParameterProblem: true}
	}
	if len(b) < head {
		return nil, &wire.Error{Msg: t.String(), Field: "Header Len", Off: 1, RFC: "RFC 6275 9.2", Reason: wire.BadLength, ParameterProblem: true}
	}
	if t == TypeHomeAgentSwitch {
		if head += 16 * int(b[6]); len(b) < head {
			return nil, &wire.Error{Msg: t.String(), Field: "Header Len", Off: 1, RFC: "RFC 5142 4", Reason: wire.BadLength, ParameterProblem: true}
		}
	}
	o := Options(b[head:len(b):len(b)])
	if len(o) == 0 {
		o = nil
	}
	if err := o.check(head); err != nil {
		err.Msg = t.String()
		return nil, err
	}
	switch t {
	case TypeBindingRefreshRequest:
		return parseBindingRefreshRequest(b, o), nil
	case TypeHomeTestInit, TypeCareOfTestInit:
		return parseTestInit(b, o), nil
	case TypeHomeTest, TypeCareOfTest:
		return parseTest(b, o), nil
	case TypeBindingUpdate:
		return parseBindingUpdate(b, o), nil
	case TypeBindingAck:
		return parseBindingAck(b, o), nil
	case TypeBindingError:
		return parseBindingError(b, o), nil
	case TypeHomeAgentSwitch:
		return parseHomeAgentSwitch(b, o), nil
	case TypeHeartbeat:
		return parseHeartbeat(b, o), nil
	default: // minimum knows the types above and this one only
		m, err := parseRevocation(b, o)
		if err != nil {
			err.Msg = t.String()
			return &Raw{MHType: t, Data: b[6:]}, err
		}
		return m, nil
	}
}

// minimum is where the options of a message start at the earliest, 0 for a type that is not known.
func minimum(t Type) int {
	switch t {
	case TypeBindingRefreshRequest:
		return (*BindingRefreshRequest)(nil).fixed()
	case TypeHomeTestInit, TypeCareOfTestInit:
		return (*TestInit)(nil).fixed()
	case TypeHomeTest, TypeCareOfTest:
		return (*Test)(nil).fixed()
	case TypeBindingUpdate:
		return (*BindingUpdate)(nil).fixed()
	case TypeBindingAck:
		return (*BindingAck)(nil).fixed()
	case TypeBindingError:
		return (*BindingError)(nil).fixed()
	case TypeHomeAgentSwitch:
		return (*HomeAgentSwitch)(nil).fixed()
	case TypeHeartbeat:
		return (*Heartbeat)(nil).fixed()
	case TypeBindingRevocation:
		return (*Revocation)(nil).fixed()
	}
	return 0
}

// checkHeader holds what is wrong silently: no answer goes out before length and checksum are right (RFC 6275 9.2).
//
// Octets after the header are refused, not ignored: nothing may follow Payload Proto 59, and whoever counts wrongly has
// cut his own last option.
func checkHeader(b []byte, src, dst netip.Addr) error {
	fail := func(field string, off int, r wire.Reason, cause error) error {
		return &wire.Error{Msg: "Mobility Header", Field: field, Off: off, RFC: "RFC 6275 6.1.1", Reason: r, Err: cause}
	}
	if len(b) < minLength {
		return fail("header", len(b), wire.Truncated, nil)
	}
	switch n := (int(b[1]) + 1) * 8; {
	case n > len(b):
		return fail("Header Len", 1, wire.Truncated, fmt.Errorf("header of %d octets in %d", n, len(b)))
	case n < len(b):
		return fail("Header Len", 1, wire.BadLength, fmt.Errorf("header of %d octets in %d", n, len(b)))
	}
	if sum(b, src, dst) != 0xffff {
		return fail("Checksum", 4, wire.BadChecksum, nil)
	}
	return nil
}

// Causes of errors of Append.
var (
	errNoMessage  = errors.New("no message")
	errNoWireForm = errors.New("an option's value has no wire form, or all together take more than one header holds")
	errUneven     = errors.New("raw data does not end on eight octets")
)

// Append writes the message after b: header, body, options, padding up to eight octets, and the checksum with src and dst
// as in Parse. It allocates only when b has no room. On an error b is returned as it was: options that cannot be written
// (see Options.Add), more than 64, or options that Parse would refuse.
func Append(b []byte, m Message, src, dst netip.Addr) ([]byte, error) {
	if m == nil {
		return b, &wire.Error{Msg: "Mobility Header", RFC: "RFC 6275 6.1.1", Reason: wire.BadValue, Err: errNoMessage}
	}
	if proven, ok := m.(*Authorized); ok {
		return proven.append(b, src, dst)
	}
	start, o := len(b), m.GetOptions()
	if m.fixed()+len(o) > maxLength {
		return b, &wire.Error{Msg: m.Type().String(), Field: "options", Off: m.fixed(), RFC: "RFC 6275 6.1.1", Reason: wire.TooLong, Err: errNoWireForm}
	}
	if raw, ok := m.(*Raw); ok && raw.fixed()%8 != 0 {
		return b, &wire.Error{Msg: m.Type().String(), Field: "data", Off: 6, RFC: "RFC 6275 6.1.1", Reason: wire.BadLength, Err: errUneven}
	}
	pad := -(m.fixed() + len(o)) & 7
	if err := o.checkTail(m.fixed(), pad); err != nil {
		err.Msg = m.Type().String()
		return b, err
	}
	b = append(b, protocolNone, 0, byte(m.Type()), 0, 0, 0)
	b = m.appendBody(b)
	b = append(b, o...)
	b = appendPad(b, pad)
	h := b[start:]
	h[1] = byte(len(h)/8 - 1)
	binary.BigEndian.PutUint16(h[4:], ^sum(h, src, dst))
	return b, nil
}

// SetChecksum computes the checksum of a whole Mobility Header anew, after an authenticator was filled in. src and dst are as in
// Parse.
func SetChecksum(h []byte, src, dst netip.Addr) error {
	if len(h) < minLength || len(h) != (int(h[1])+1)*8 {
		return &wire.Error{Msg: "Mobility Header", Field: "Header Len", Off: 1, RFC: "RFC 6275 6.1.1", Reason: wire.BadLength}
	}
	h[4], h[5] = 0, 0
	binary.BigEndian.PutUint16(h[4:], ^sum(h, src, dst))
	return nil
}

// sum is the one's complement sum over the pseudo header of RFC 2460 8.1 and the header.
func sum(h []byte, src, dst netip.Addr) uint16 {
	s, d := src.As16(), dst.As16()
	n := add16(add16(uint64(len(h))+protocolMH, s[:]), d[:])
	n = add16(n, h)
	for n > 0xffff {
		n = n>>16 + n&0xffff
	}
	return uint16(n)
}

// add16 adds 32-bit words of addresses and headers, whose octets are a multiple of eight: folded to 16 bits they give the
// sum of the 16-bit words.
func add16(n uint64, b []byte) uint64 {
	for ; len(b) >= 4; b = b[4:] {
		n += uint64(binary.BigEndian.Uint32(b))
	}
	return n
}
