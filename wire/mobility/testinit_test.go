package mobility

import "testing"

func TestTestInit(t *testing.T) {
	cookie := [8]byte{1, 2, 3, 4, 5, 6, 7, 8}
	checkWritten(t, []written{
		{"home", &TestInit{Cookie: cookie}, "3b 01 01 00 0000 0000 0102030405060708"},
		{"care-of", &TestInit{CareOf: true, Cookie: cookie}, "3b 01 02 00 0000 0000 0102030405060708"},
	})
}
