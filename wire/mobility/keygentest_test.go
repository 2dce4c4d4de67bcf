package mobility

import "testing"

func TestTest(t *testing.T) {
	cookie, token := [8]byte{1, 2, 3, 4, 5, 6, 7, 8}, [8]byte{9, 10, 11, 12, 13, 14, 15, 16}
	checkWritten(t, []written{
		{"home", &Test{NonceIndex: 0x0506, Cookie: cookie, Token: token}, "3b 02 03 00 0000 0506 0102030405060708 090a0b0c0d0e0f10"},
		{"care-of", &Test{CareOf: true, NonceIndex: 0xffff, Cookie: cookie, Token: token}, "3b 02 04 00 0000 ffff 0102030405060708 090a0b0c0d0e0f10"},
	})
}
