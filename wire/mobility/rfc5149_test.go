package mobility

import (
	"testing"

	"kedge/wire"
)

func TestRFC5149Options(t *testing.T) {
	checkAdded(t, added{[]Value{ServiceSelection{"voip"}}, "14 04 766f6970"})
	o := Options(nil).Add(ServiceSelection{"ims"})
	if v, ok := o.ServiceSelection(); !ok || v.Identifier != "ims" {
		t.Error(v, ok)
	}
	if b, ok := o.ServiceSelectionBytes(); !ok || string(b) != "ims" {
		t.Error(b, ok)
	}
	checkRefused(t, []refused{badOption(t, "0", "14 00", "Service Selection", "RFC 5149 3", wire.BadOptionLength)})
}
