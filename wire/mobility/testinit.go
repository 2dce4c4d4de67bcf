package mobility

// TestInit is a Home Test Init (1) or Care-of Test Init (2), RFC 6275 6.1.3, 6.1.4.
type TestInit struct {
	CareOf  bool
	Cookie  [8]byte
	Options Options
}

func (m *TestInit) Type() Type          { return TypeHomeTestInit + Type(b2u(m.CareOf)) }
func (m *TestInit) GetOptions() Options { return m.Options }
func (*TestInit) fixed() int            { return 16 }

func parseTestInit(h []byte, o Options) *TestInit {
	return &TestInit{CareOf: Type(h[2]) == TypeCareOfTestInit, Cookie: [8]byte(h[8:]), Options: o}
}

func (m *TestInit) appendBody(b []byte) []byte {
	b = append(b, 0, 0)
	return append(b, m.Cookie[:]...)
}
