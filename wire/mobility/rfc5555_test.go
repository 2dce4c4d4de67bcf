package mobility

import (
	"errors"
	"net/netip"
	"slices"
	"testing"

	"kedge/internal/spec"
	"kedge/wire"
)

var v4 = netip.MustParseAddr("10.1.2.3")

func TestIPv4HomeAddress(t *testing.T) {
	spec.Covers(t, "S001-3.2.2-35")
	zero := netip.IPv4Unspecified()
	checkAdded(t,
		added{[]Value{IPv4HomeAddress{PrefixLen: 24, Addr: v4}}, "1d 06 60 00 0a010203"},
		added{[]Value{IPv4HomeAddress{PrefixLen: 32, P: true, Addr: zero}}, "1d 06 82 00 00000000"},
		added{[]Value{IPv4HomeAddress{PrefixLen: 0, Addr: zero}}, "1d 06 00 00 00000000"},
		// aligned to 4n after one, two and three octets
		added{[]Value{RawOption{210, []byte{}}, IPv4HomeAddress{PrefixLen: 1, Addr: v4}}, "d2 00 01 00 1d 06 04 00 0a010203"},
		added{[]Value{RawOption{210, []byte{1}}, IPv4HomeAddress{PrefixLen: 1, Addr: v4}}, "d2 01 01 00 1d 06 04 00 0a010203"},
		added{[]Value{RawOption{210, []byte{1, 1, 1}}, IPv4HomeAddress{PrefixLen: 1, Addr: v4}}, "d2 03 010101 01 01 00 1d 06 04 00 0a010203"},
	)
	// Reserved bits are ignored.
	m, err := Parse(option(t, "1d 06 61 ff 0a010203"), magAddr, lmaAddr)
	if err != nil {
		t.Fatal(err)
	}
	if v, ok := m.GetOptions().IPv4HomeAddress(); !ok || v != (IPv4HomeAddress{PrefixLen: 24, Addr: v4}) {
		t.Error(v, ok)
	}
	checkRefused(t, []refused{
		badOption(t, "/33", "1d 06 84 00 0a010203", "IPv4 Home Address", "RFC 5555 3.1.1", wire.BadPrefixLength),
		badOption(t, "0", "1d 00", "IPv4 Home Address", "RFC 5555 3.1.1", wire.BadOptionLength),
		badOption(t, "5", "1d 05 0000000000", "IPv4 Home Address", "RFC 5555 3.1.1", wire.BadOptionLength),
		badOption(t, "7", "1d 07 00000000000000", "IPv4 Home Address", "RFC 5555 3.1.1", wire.BadOptionLength),
	})
}

func TestIPv4AddressAck(t *testing.T) {
	spec.Covers(t, "S001-3.3.2-28")
	checkAdded(t,
		added{[]Value{IPv4AddressAck{AddressAccepted, 24, v4, 0}}, "1e 06 00 60 0a010203"},
		added{[]Value{IPv4AddressAck{DynamicAddressNotAvailable, 0, netip.IPv4Unspecified(), 0}}, "1e 06 84 00 00000000"},
		added{[]Value{RawOption{210, []byte{1}}, IPv4AddressAck{127, 32, v4, 0}}, "d2 01 01 00 1e 06 7f 80 0a010203"},
	)
	// The prefix length is only there in case of success: not written, ignored, not even checked.
	if got := Options(nil).Add(IPv4AddressAck{AddressProhibited, 24, v4, 0}); !slices.Equal(got, unhex(t, "1e 06 81 00 0a010203")) {
		t.Errorf("%x", []byte(got))
	}
	for in, want := range map[string]IPv4AddressAck{
		"1e 06 81 ff 0a010203": {Status: AddressProhibited, Addr: v4},
		"1e 06 00 63 0a010203": {PrefixLen: 24, Addr: v4}, // reserved bits
	} {
		m, err := Parse(option(t, in), magAddr, lmaAddr)
		if err != nil {
			t.Errorf("%s: %v", in, err)
			continue
		}
		if v, ok := m.GetOptions().IPv4AddressAck(); !ok || v != want {
			t.Errorf("%s: %v, %v", in, v, ok)
		}
	}
	checkRefused(t, []refused{
		badOption(t, "/33", "1e 06 00 84 0a010203", "IPv4 Address Acknowledgement", "RFC 5555 3.2.1", wire.BadPrefixLength),
		badOption(t, "4", "1e 04 00000000", "IPv4 Address Acknowledgement", "RFC 5555 3.2.1", wire.BadOptionLength),
		badOption(t, "0", "1e 00", "IPv4 Address Acknowledgement", "RFC 5555 3.2.1", wire.BadOptionLength),
	})
}

// TestShortLayouts writes and reads the options as draft-soliman-v4v6-mipv6-00 draws them, with the Length of 1 that it
// prints and with the count of octets. The option behind shows that the reader does not lose its place.
func TestShortLayouts(t *testing.T) {
	spec.Covers(t, "S004-3.1.1-01", "S004-3.1.1-02", "S004-3.2.1-01", "S004-3.2.1-03")
	checkAdded(t,
		added{[]Value{IPv4HomeAddress{Addr: v4, Short: 1}, HandoffIndicator{1}}, "01 00 1d 01 0a010203 17 02 00 01"},
		added{[]Value{IPv4HomeAddress{Addr: v4, Short: 4}, HandoffIndicator{1}}, "01 00 1d 04 0a010203 17 02 00 01"},
		added{[]Value{IPv4AddressAck{Status: AddressInvalid, Addr: v4, Short: 1}, HandoffIndicator{1}}, "1e 01 83 00 0a010203 17 02 00 01"},
		added{[]Value{IPv4AddressAck{Addr: v4, Short: 1}}, "1e 01 00 00 0a010203"},
	)
	// In a whole message, last and then padding: PadN, type, Length, address, PadN.
	checkWritten(t, []written{{"update", &BindingUpdate{Sequence: 1, Options: Options(nil).Add(IPv4HomeAddress{Addr: v4, Short: 1})},
		"3b 02 05 00 0000 0001 0000 0000 01 00 1d 01 0a010203 01 02 0000"},
		{"acknowledgement", &BindingAck{Sequence: 1, Options: Options(nil).Add(IPv4AddressAck{Addr: v4, Short: 1})},
			"3b 02 06 00 0000 00 00 0001 0000 1e 01 00 00 0a010203 01 02 0000"}})
	checkRefused(t, []refused{
		badOption(t, "address cut", "1d 01 0a01", "IPv4 Home Address", "RFC 5555 3.1.1", wire.BadOptionLength),
		badOption(t, "acknowledgement cut", "1e 01", "IPv4 Address Acknowledgement", "RFC 5555 3.2.1", wire.BadOptionLength),
	})
}

func TestRFC5555NAT(t *testing.T) {
	checkAdded(t,
		added{[]Value{NATDetection{F: true, Refresh: 0x01020304}}, "1f 06 80 00 01020304"},
		added{[]Value{NATDetection{Refresh: 0xffffffff}}, "1f 06 00 00 ffffffff"},
		added{[]Value{RawOption{210, []byte{1}}, IPv4CareOf{v4}}, "d2 01 01 00 20 06 00 00 0a010203"},
	)
	o := Options(nil).Add(NATDetection{true, 9}, IPv4CareOf{v4})
	if v, ok := o.NATDetection(); !ok || v != (NATDetection{true, 9}) {
		t.Error(v, ok)
	}
	if v, ok := o.IPv4CareOf(); !ok || v.Addr != v4 {
		t.Error(v, ok)
	}
	checkRefused(t, []refused{
		badOption(t, "NAT of 4", "1f 04 00000000", "NAT Detection", "RFC 5555 3.2.2", wire.BadOptionLength),
		badOption(t, "care-of of 4", "20 04 00000000", "IPv4 Care-of Address", "RFC 5555 3.1.2", wire.BadOptionLength),
	})
}

// TestNoWireForm refuses to write what the octets cannot hold; it must not become another valid value.
func TestNoWireForm(t *testing.T) {
	v6 := netip.MustParseAddr("2001:db8::1")
	for _, v := range []Value{
		IPv4HomeAddress{PrefixLen: 24, Addr: v6}, IPv4HomeAddress{PrefixLen: 33, Addr: v4}, IPv4HomeAddress{PrefixLen: 64, Addr: v4}, IPv4HomeAddress{Addr: v4, Short: 6},
		IPv4HomeAddress{Addr: v6, Short: 1}, IPv4AddressAck{PrefixLen: 24, Addr: v6}, IPv4AddressAck{PrefixLen: 88, Addr: v4}, IPv4AddressAck{Addr: v4, Short: 4},
		IPv4CareOf{v6}, IPv4HomeAddressRequest{33, v4}, IPv4HomeAddressRequest{24, v6}, IPv4HomeAddressReply{0, 128, v4}, IPv4HomeAddressReply{0, 24, v6},
		IPv4DefaultRouter{v6}, RawOption{250, make([]byte, 256)}, LinkLayerID{make([]byte, 254)}, LinkLayerID{}, ServiceSelection{},
		VendorSpecific{1, 1, make([]byte, 251)}, BindingAuthorization{},
	} {
		b, err := Append(nil, &BindingUpdate{Options: Options(nil).Add(v)}, magAddr, lmaAddr)
		if e := (*wire.Error)(nil); !errors.As(err, &e) || b != nil {
			t.Errorf("%#v: %x, %v", v, b, err)
		}
	}
	// An IPv4-mapped address and none at all do have a form.
	checkMapped := Options(nil).Add(IPv4CareOf{netip.AddrFrom16(v4.As16())}, IPv4CareOf{})
	if want := unhex(t, "20 06 0000 0a010203 20 06 0000 00000000"); !slices.Equal(checkMapped, want) {
		t.Errorf("%x, want %x", []byte(checkMapped), want)
	}
}
