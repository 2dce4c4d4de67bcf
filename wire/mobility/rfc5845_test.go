package mobility

import (
	"testing"

	"kedge/wire"
)

func TestRFC5845Options(t *testing.T) {
	checkAdded(t,
		added{[]Value{GREKey{Key: 0x01020304}}, "21 06 00 00 01020304"},
		added{[]Value{GREKey{NoKey: true}}, "21 02 00 00"},
	)
	if v, ok := Options(nil).Add(GREKey{Key: 5}).GREKey(); !ok || v != (GREKey{Key: 5}) {
		t.Error(v, ok)
	}
	checkRefused(t, []refused{
		badOption(t, "4", "21 04 00000000", "GRE Key", "RFC 5845 6.1", wire.BadOptionLength),
		badOption(t, "0", "21 00", "GRE Key", "RFC 5845 6.1", wire.BadOptionLength),
		badOption(t, "8", "21 08 0000000000000000", "GRE Key", "RFC 5845 6.1", wire.BadOptionLength),
	})
}
