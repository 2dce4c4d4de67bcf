// Package mobility reads and writes Mobility Headers: messages of RFC 6275, 5142 (home agent switch), 5847 (heartbeat) and 5846 (revocation), and
// their options. Bytes to values and back, nothing else.
//
// Options stay in wire form (type Options): parsing allocates only the message, unknown options and padding survive a
// round trip, and typed values are read by one method each. Options alias the parsed buffer; Clone what must live longer.
//
// Supported: RFC 6275 6.1-6.2, RFC 3963, RFC 4283, RFC 4285, RFC 5094, RFC 5142, RFC 5149, RFC 5213 8, RFC 5555 3, RFC 5844 3,
// RFC 5845, RFC 5846, RFC 5847. All other messages and options are kept raw. Left out on purpose: the checksum of zero that
// RFC 5844 4 uses inside UDP, and authenticators other than those of return routability, which are checked by who holds the keys.
//
// Reserved fields and unknown flags are ignored when read and zero when written, so they are all that a round trip loses.
package mobility

import (
	"fmt"
	"time"
)

// Type is the MH Type field, RFC 6275 6.1.1.
type Type uint8

const (
	TypeBindingRefreshRequest Type = 0
	TypeHomeTestInit          Type = 1
	TypeCareOfTestInit        Type = 2
	TypeHomeTest              Type = 3
	TypeCareOfTest            Type = 4
	TypeBindingUpdate         Type = 5
	TypeBindingAck            Type = 6
	TypeBindingError          Type = 7
	TypeHomeAgentSwitch       Type = 12 // RFC 5142
	TypeHeartbeat             Type = 13 // RFC 5847
	TypeBindingRevocation     Type = 16 // RFC 5846
)

// String is the message's name in its RFC, "MH type 99" for one that this package keeps raw.
func (t Type) String() string {
	switch t {
	case TypeBindingRefreshRequest:
		return "Binding Refresh Request"
	case TypeHomeTestInit:
		return "Home Test Init"
	case TypeCareOfTestInit:
		return "Care-of Test Init"
	case TypeHomeTest:
		return "Home Test"
	case TypeCareOfTest:
		return "Care-of Test"
	case TypeBindingUpdate:
		return "Binding Update"
	case TypeBindingAck:
		return "Binding Acknowledgement"
	case TypeBindingError:
		return "Binding Error"
	case TypeHomeAgentSwitch:
		return "Home Agent Switch"
	case TypeHeartbeat:
		return "Heartbeat"
	case TypeBindingRevocation:
		return "Binding Revocation"
	}
	return fmt.Sprintf("MH type %d", uint8(t))
}

// Message is one Mobility Header message: a pointer to one of the message types of this package.
type Message interface {
	Type() Type
	// GetOptions gives the options in wire form.
	GetOptions() Options
	// fixed is the octet of the Mobility Header where the options start.
	fixed() int
	// appendBody writes the octets from after the checksum up to the options.
	appendBody(b []byte) []byte
}

// LifetimeUnit is the unit of the Lifetime fields, RFC 6275 6.1.7.
const LifetimeUnit = 4 * time.Second
