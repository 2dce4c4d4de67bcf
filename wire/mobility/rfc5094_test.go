package mobility

import (
	"testing"

	"kedge/wire"
)

func TestRFC5094Options(t *testing.T) {
	checkAdded(t, added{[]Value{VendorSpecific{0x00010203, 4, []byte{5, 6}}}, "01 00 13 07 00010203 04 05 06"})
	if v, ok := Options(nil).Add(VendorSpecific{1, 2, []byte{3}}).VendorSpecific(); !ok || v.Vendor != 1 || v.Subtype != 2 || string(v.Data) != "\x03" {
		t.Error(v, ok)
	}
	checkRefused(t, []refused{badOption(t, "4", "13 04 00000000", "Vendor Specific", "RFC 5094 3", wire.BadOptionLength)})
}
