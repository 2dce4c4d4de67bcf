package mobility

import (
	"testing"

	"kedge/wire"
)

func TestRFC4285Options(t *testing.T) {
	checkAdded(t,
		added{[]Value{Authentication{SubtypeMNHA, 0x01020304, []byte{0xaa}}}, "00 09 06 01 01020304 aa"},
		added{[]Value{Authentication{SubtypeMNAAA, 1, nil}}, "00 09 05 02 00000001"},
		added{[]Value{MessageID{0x0102030405060708}}, "01 04 00000000 0a 08 0102030405060708"},
	)
	o := Options(nil).Add(MessageID{7}, Authentication{SubtypeMNHA, 8, []byte{9}})
	if v, ok := o.MessageID(); !ok || v.Timestamp != 7 {
		t.Error(v, ok)
	}
	if v, ok := o.Authentication(); !ok || v.Subtype != SubtypeMNHA || v.SPI != 8 || string(v.Authenticator) != "\x09" {
		t.Error(v, ok)
	}
	checkRefused(t, []refused{
		badOption(t, "authentication of 4", "09 04 00000000", "Mobility Message Authentication", "RFC 4285 5", wire.BadOptionLength),
		badOption(t, "replay protection of 0", "0a 00", "Mobility Message Replay Protection", "RFC 4285 6", wire.BadOptionLength),
	})
}
