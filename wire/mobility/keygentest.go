package mobility

import "encoding/binary"

// Test is a Home Test (3) or Care-of Test (4), RFC 6275 6.1.5, 6.1.6.
type Test struct {
	CareOf     bool
	NonceIndex uint16
	Cookie     [8]byte
	Token      [8]byte // keygen token: a secret, never logged
	Options    Options
}

func (m *Test) Type() Type          { return TypeHomeTest + Type(b2u(m.CareOf)) }
func (m *Test) GetOptions() Options { return m.Options }
func (*Test) fixed() int            { return 24 }

func parseTest(h []byte, o Options) *Test {
	return &Test{
		CareOf:     Type(h[2]) == TypeCareOfTest,
		NonceIndex: binary.BigEndian.Uint16(h[6:]),
		Cookie:     [8]byte(h[8:]),
		Token:      [8]byte(h[16:]),
		Options:    o,
	}
}

func (m *Test) appendBody(b []byte) []byte {
	b = binary.BigEndian.AppendUint16(b, m.NonceIndex)
	b = append(b, m.Cookie[:]...)
	return append(b, m.Token[:]...)
}
