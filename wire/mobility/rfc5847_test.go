package mobility

import (
	"testing"

	"kedge/wire"
)

func TestRFC5847Options(t *testing.T) {
	checkAdded(t,
		added{[]Value{RestartCounter{0x01020304}}, "01 00 1c 04 01020304"},
		added{[]Value{RawOption{210, []byte{1}}, RestartCounter{1}}, "d2 01 01 01 01 00 1c 04 00000001"},
	)
	if v, ok := Options(nil).Add(RestartCounter{9}).RestartCounter(); !ok || v.Value != 9 {
		t.Error(v, ok)
	}
	checkRefused(t, []refused{badOption(t, "2", "1c 02 0000", "Restart Counter", "RFC 5847 3.4", wire.BadOptionLength)})
}
