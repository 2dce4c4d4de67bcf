package mobility

// Raw is a message of another type, kept as it came.
type Raw struct {
	MHType Type
	Data   []byte // octets after the checksum; two more than a multiple of eight
}

func (m *Raw) Type() Type                 { return m.MHType }
func (*Raw) GetOptions() Options          { return nil }
func (m *Raw) fixed() int                 { return 6 + len(m.Data) }
func (m *Raw) appendBody(b []byte) []byte { return append(b, m.Data...) }
