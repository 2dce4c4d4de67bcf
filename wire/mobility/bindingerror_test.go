package mobility

import (
	"net/netip"
	"testing"
)

func TestBindingError(t *testing.T) {
	checkWritten(t, []written{
		{"unknown binding", &BindingError{Status: UnknownBinding, Home: netip.MustParseAddr("2001:db8:1::100")},
			"3b 02 07 00 0000 01 00 20010db8000100000000000000000100"},
		{"unrecognized type", &BindingError{Status: UnrecognizedMHType, Home: netip.IPv6Unspecified()},
			"3b 02 07 00 0000 02 00 00000000000000000000000000000000"},
	})
}
