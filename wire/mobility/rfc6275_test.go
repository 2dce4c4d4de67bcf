package mobility

import (
	"net/netip"
	"testing"

	"kedge/wire"
)

func TestRFC6275Options(t *testing.T) {
	addr := netip.MustParseAddr("2001:db8::1")
	checkAdded(t,
		added{[]Value{BindingRefreshAdvice{0x0102}}, "02 02 0102"},
		added{[]Value{RawOption{200, []byte{7}}, BindingRefreshAdvice{1}}, "c8 01 07 00 02 02 0001"},
		added{[]Value{AlternateCareOf{addr}}, "01 00 03 10 20010db8000000000000000000000001"},
		added{[]Value{NonceIndices{1, 0xfffe}}, "04 04 0001 fffe"},
		added{[]Value{NonceIndices{1, 2}, BindingAuthorization{[]byte{1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12}}},
			"04 04 0001 0002 05 0c 01 02 03 04 05 06 07 08 09 0a 0b 0c"},
	)
	o := Options(nil).Add(BindingRefreshAdvice{5}, AlternateCareOf{addr}, NonceIndices{3, 4}, BindingAuthorization{[]byte{9, 8}})
	if v, ok := o.BindingRefreshAdvice(); !ok || v.Interval != 5 {
		t.Error(v, ok)
	}
	if v, ok := o.AlternateCareOf(); !ok || v.Addr != addr {
		t.Error(v, ok)
	}
	if v, ok := o.NonceIndices(); !ok || v != (NonceIndices{3, 4}) {
		t.Error(v, ok)
	}
	if v, ok := o.BindingAuthorization(); !ok || string(v.Authenticator) != "\x09\x08" {
		t.Error(v, ok)
	}
}

func TestRFC6275OptionsRefused(t *testing.T) {
	checkRefused(t, []refused{
		badOption(t, "refresh advice of 0", "02 00", "Binding Refresh Advice", "RFC 6275 6.2.4", wire.BadOptionLength),
		badOption(t, "refresh advice of 3", "02 03 000000", "Binding Refresh Advice", "RFC 6275 6.2.4", wire.BadOptionLength),
		badOption(t, "care-of of 15", "03 0f 000000000000000000000000000000", "Alternate Care-of Address", "RFC 6275 6.2.5", wire.BadOptionLength),
		badOption(t, "nonces of 2", "04 02 0001", "Nonce Indices", "RFC 6275 6.2.6", wire.BadOptionLength),
		badOption(t, "no authenticator", "05 00", "Binding Authorization Data", "RFC 6275 6.2.7", wire.BadOptionLength),
		badOption(t, "authenticator not last", "05 02 0102 17 02 0001", "Binding Authorization Data", "RFC 6275 6.2.7", wire.BadValue),
		badOption(t, "authenticator with padding", "05 04 01020304 01 04 00000000", "Binding Authorization Data", "RFC 6275 6.2.7", wire.BadValue),
	})
}

// TestAuthenticatorIsLast holds Append to what RFC 6275 6.2 demands of a sender.
func TestAuthenticatorIsLast(t *testing.T) {
	for name, o := range map[string]Options{
		"not last":         Options(nil).Add(BindingAuthorization{make([]byte, 12)}, HandoffIndicator{1}),
		"trailing padding": Options(nil).Add(BindingAuthorization{make([]byte, 10)}),
		"padding by both":  Options(nil).Add(BindingAuthorization{make([]byte, 8)}, RawOption{1, []byte{0, 0}}),
	} {
		b, err := Append(nil, &BindingUpdate{Options: o}, magAddr, lmaAddr)
		if e, ok := err.(*wire.Error); !ok || e.Reason != wire.BadValue || e.RFC != "RFC 6275 6.2.7" || b != nil {
			t.Errorf("%s: %x, %v", name, b, err)
		}
	}
}
