package mobility

import "encoding/binary"

// BAFlags are the flags of a Binding Acknowledgement, in the octet after Status.
type BAFlags uint8

const (
	BAKeyMgmt    BAFlags = 0x80 // K, RFC 6275 6.1.8
	BARouter     BAFlags = 0x40 // R, RFC 3963
	BAProxy      BAFlags = 0x20 // P, RFC 5213
	BATLV        BAFlags = 0x10 // T, RFC 5845
	BABulk       BAFlags = 0x08 // B, RFC 6602
	BAKnownFlags         = BAKeyMgmt | BARouter | BAProxy | BATLV | BABulk
)

// String is the letters of the flags that are set, as the RFCs name them: "P".
func (f BAFlags) String() string { return letters(uint16(f)<<8, "KRPTB") }

// BindingAck is type 6, RFC 6275 6.1.8; with BAProxy a Proxy Binding Acknowledgement, RFC 5213 8.2.
type BindingAck struct {
	Status   Status
	Flags    BAFlags
	Sequence uint16
	Lifetime uint16 // in units of 4 s
	Options  Options
}

func (*BindingAck) Type() Type            { return TypeBindingAck }
func (m *BindingAck) GetOptions() Options { return m.Options }
func (*BindingAck) fixed() int            { return 12 }

func parseBindingAck(h []byte, o Options) *BindingAck {
	return &BindingAck{
		Status:   Status(h[6]),
		Flags:    BAFlags(h[7]) & BAKnownFlags,
		Sequence: binary.BigEndian.Uint16(h[8:]),
		Lifetime: binary.BigEndian.Uint16(h[10:]),
		Options:  o,
	}
}

func (m *BindingAck) appendBody(b []byte) []byte {
	b = append(b, byte(m.Status), byte(m.Flags&BAKnownFlags))
	b = binary.BigEndian.AppendUint16(b, m.Sequence)
	return binary.BigEndian.AppendUint16(b, m.Lifetime)
}
