package mobility

import "testing"

func TestBindingRefreshRequest(t *testing.T) {
	checkWritten(t, []written{
		{"no options", &BindingRefreshRequest{}, "3b 00 00 00 0000 0000"},
		{"option", &BindingRefreshRequest{Options(nil).AddAt(8, VendorSpecific{1, 2, nil})}, "3b 02 00 00 0000 0000 0100 13 05 00000001 02 01 05 0000000000"},
	})
}
