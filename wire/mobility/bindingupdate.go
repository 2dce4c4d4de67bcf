package mobility

import "encoding/binary"

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

// String is the letters of the flags that are set, as the RFCs name them: "AP".
func (f BUFlags) String() string { return letters(uint16(f), "AHLKMRPFTB") }

// BindingUpdate is type 5, RFC 6275 6.1.7; with BUProxy a Proxy Binding Update, RFC 5213 8.1.
type BindingUpdate struct {
	Sequence uint16
	Flags    BUFlags
	Lifetime uint16 // in units of 4 s
	Options  Options
}

func (*BindingUpdate) Type() Type            { return TypeBindingUpdate }
func (m *BindingUpdate) GetOptions() Options { return m.Options }
func (*BindingUpdate) fixed() int            { return 12 }

func parseBindingUpdate(h []byte, o Options) *BindingUpdate {
	return &BindingUpdate{
		Sequence: binary.BigEndian.Uint16(h[6:]),
		Flags:    BUFlags(binary.BigEndian.Uint16(h[8:])) & BUKnownFlags,
		Lifetime: binary.BigEndian.Uint16(h[10:]),
		Options:  o,
	}
}

func (m *BindingUpdate) appendBody(b []byte) []byte {
	b = binary.BigEndian.AppendUint16(b, m.Sequence)
	b = binary.BigEndian.AppendUint16(b, uint16(m.Flags&BUKnownFlags))
	return binary.BigEndian.AppendUint16(b, m.Lifetime)
}

// Newer compares the Sequence # of two Binding Updates, Proxy Binding Updates or their acknowledgements modulo 2^16 (RFC 6275 9.5.1):
// last itself and the 32,768 numbers before it are not newer than last.
func Newer(seq, last uint16) bool { return int16(seq-last) > 0 }

// letters names the set bits of a flag word, the first letter for the highest bit.
func letters(word uint16, names string) string {
	var b [16]byte
	n := 0
	for i := range len(names) {
		if word&(0x8000>>i) != 0 {
			b[n] = names[i]
			n++
		}
	}
	return string(b[:n])
}
