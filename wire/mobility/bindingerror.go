package mobility

import "net/netip"

// Status values of a Binding Error, RFC 6275 6.1.9.
const (
	UnknownBinding     uint8 = 1 // for the Home Address destination option
	UnrecognizedMHType uint8 = 2
)

// BindingError is type 7, RFC 6275 6.1.9.
type BindingError struct {
	Status  uint8
	Home    netip.Addr // the Home Address option's, else ::
	Options Options
}

func (*BindingError) Type() Type            { return TypeBindingError }
func (m *BindingError) GetOptions() Options { return m.Options }
func (*BindingError) fixed() int            { return 24 }

func parseBindingError(h []byte, o Options) *BindingError {
	return &BindingError{Status: h[6], Home: netip.AddrFrom16([16]byte(h[8:])), Options: o}
}

func (m *BindingError) appendBody(b []byte) []byte {
	return appendIPv6(append(b, m.Status, 0), m.Home)
}
