// Package mobility reads and writes Mobility Headers: messages of RFC 6275, 5847 (heartbeat) and 5846 (revocation), and
// their options. Bytes to values and back, nothing else.
//
// Options stay in wire form (type Options): parsing allocates only the message, unknown options and padding survive a
// round trip, and typed values are read by one method each. Options alias the parsed buffer; Clone what must live longer.
//
// Supported: RFC 6275 6.1-6.2, RFC 3963, RFC 4283, RFC 4285, RFC 5094, RFC 5149, RFC 5213 8, RFC 5555 3, RFC 5844 3,
// RFC 5845, RFC 5846, RFC 5847. All other messages and options are kept raw.
package mobility

import (
	"net/netip"
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
	TypeHeartbeat             Type = 13 // RFC 5847
	TypeBindingRevocation     Type = 16 // RFC 5846
)

// Message is one Mobility Header message: a pointer to one of the message types of this package.
type Message interface {
	Type() Type
	// GetOptions gives the options in wire form.
	GetOptions() Options
	appendBody(b []byte) ([]byte, error)
}

// BUFlags are the flags of a Binding Update, in the 16-bit word after the sequence number.
type BUFlags uint16

const (
	BUAck        BUFlags = 0x8000 // A, RFC 6275 6.1.7
	BUHome       BUFlags = 0x4000 // H, RFC 6275
	BULinkLocal  BUFlags = 0x2000 // L, RFC 6275
	BUKeyMgmt    BUFlags = 0x1000 // K, RFC 6275
	BUMAP        BUFlags = 0x0800 // M, RFC 5380
	BURouter     BUFlags = 0x0400 // R, RFC 3963
	BUProxy      BUFlags = 0x0200 // P, RFC 5213
	BUForceUDP   BUFlags = 0x0100 // F, RFC 5555
	BUTLV        BUFlags = 0x0080 // T, RFC 5845
	BUBulk       BUFlags = 0x0040 // B, RFC 6602
	BUKnownFlags         = BUAck | BUHome | BULinkLocal | BUKeyMgmt | BUMAP | BURouter | BUProxy | BUForceUDP | BUTLV | BUBulk
)

// BAFlags are the flags of a Binding Acknowledgement, in the octet after Status.
type BAFlags uint8

const (
	BAKeyMgmt BAFlags = 0x80 // K, RFC 6275 6.1.8
	BARouter  BAFlags = 0x40 // R, RFC 3963
	BAProxy   BAFlags = 0x20 // P, RFC 5213
	BATLV     BAFlags = 0x10 // T, RFC 5845
	BABulk    BAFlags = 0x08 // B, RFC 6602
)

// LifetimeUnit is the unit of the Lifetime fields, RFC 6275 6.1.7.
const LifetimeUnit = 4 * time.Second

// BindingUpdate is type 5, RFC 6275 6.1.7; with BUProxy a Proxy Binding Update, RFC 5213 8.1.
type BindingUpdate struct {
	Sequence uint16
	Flags    BUFlags
	Lifetime uint16 // in units of 4 s
	Options  Options
}

// BindingAck is type 6, RFC 6275 6.1.8; with BAProxy a Proxy Binding Acknowledgement, RFC 5213 8.2.
type BindingAck struct {
	Status   Status
	Flags    BAFlags
	Sequence uint16
	Lifetime uint16 // in units of 4 s
	Options  Options
}

// Heartbeat is type 13, RFC 5847 3.1. Response is the R flag, UnsolicitedResponse the U flag.
type Heartbeat struct {
	Unsolicited bool // U
	Response    bool // R
	Sequence    uint32
	Options     Options
}

// BindingRefreshRequest is type 0, RFC 6275 6.1.2.
type BindingRefreshRequest struct{ Options Options }

// TestInit is a Home Test Init (1) or Care-of Test Init (2), RFC 6275 6.1.3, 6.1.4.
type TestInit struct {
	CareOf  bool
	Cookie  [8]byte
	Options Options
}

// Test is a Home Test (3) or Care-of Test (4), RFC 6275 6.1.5, 6.1.6.
type Test struct {
	CareOf     bool
	NonceIndex uint16
	Cookie     [8]byte
	Token      [8]byte
	Options    Options
}

// BindingError is type 7, RFC 6275 6.1.9. Status 1: unknown binding for Home Address option; 2: unrecognized MH type.
type BindingError struct {
	Status  uint8
	Home    netip.Addr
	Options Options
}

// Revocation is a Binding Revocation Indication or, with Ack, its Acknowledgement: type 16, RFC 5846 5.
type Revocation struct {
	Ack      bool  // B.R. Type 2 instead of 1
	Code     uint8 // revocation trigger (indication) or status (acknowledgement)
	Sequence uint16
	Proxy    bool // P
	IPv4Only bool // V
	Global   bool // G
	Options  Options
}

// Raw is a message of another type, kept as it came.
type Raw struct {
	MHType Type
	Data   []byte // octets after the checksum
}

// Options is a list of mobility options in wire form, padding included.
type Options []byte

func (*BindingUpdate) Type() Type         { return TypeBindingUpdate }
func (*BindingAck) Type() Type            { return TypeBindingAck }
func (*Heartbeat) Type() Type             { return TypeHeartbeat }
func (*BindingRefreshRequest) Type() Type { return TypeBindingRefreshRequest }
func (*BindingError) Type() Type          { return TypeBindingError }
func (*Revocation) Type() Type            { return TypeBindingRevocation }
func (m *Raw) Type() Type                 { return m.MHType }
func (m *TestInit) Type() Type            { return TypeHomeTestInit + Type(b2u(m.CareOf)) }
func (m *Test) Type() Type                { return TypeHomeTest + Type(b2u(m.CareOf)) }

func b2u(b bool) uint8 {
	if b {
		return 1
	}
	return 0
}
