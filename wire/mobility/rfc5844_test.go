package mobility

import (
	"net/netip"
	"testing"

	"kedge/wire"
)

func TestRFC5844Options(t *testing.T) {
	zero := netip.IPv4Unspecified()
	checkAdded(t,
		added{[]Value{IPv4HomeAddressRequest{0, zero}}, "24 06 00 00 00000000"},
		added{[]Value{RawOption{210, []byte{}}, IPv4HomeAddressRequest{24, v4}}, "d2 00 01 00 24 06 60 00 0a010203"},
		added{[]Value{IPv4HomeAddressReply{AddressAccepted, 24, v4}}, "25 06 00 60 0a010203"},
		// A failure copies the prefix length of the request, unlike option 30.
		added{[]Value{IPv4HomeAddressReply{AddressProhibited, 24, v4}}, "25 06 81 60 0a010203"},
		added{[]Value{IPv4DefaultRouter{v4}}, "26 06 00 00 0a010203"},
		added{[]Value{RawOption{210, []byte{1}}, IPv4DHCPSupportMode{true}, IPv4DHCPSupportMode{}}, "d2 01 01 27 02 00 01 27 02 00 00"},
	)
	o := Options(nil).Add(IPv4HomeAddressRequest{8, v4}, IPv4HomeAddressReply{130, 9, v4}, IPv4DefaultRouter{v4}, IPv4DHCPSupportMode{true})
	if v, ok := o.IPv4HomeAddressRequest(); !ok || v != (IPv4HomeAddressRequest{8, v4}) {
		t.Error(v, ok)
	}
	if v, ok := o.IPv4HomeAddressReply(); !ok || v != (IPv4HomeAddressReply{AddressIncorrect, 9, v4}) {
		t.Error(v, ok)
	}
	if v, ok := o.IPv4DefaultRouter(); !ok || v.Addr != v4 {
		t.Error(v, ok)
	}
	if v, ok := o.IPv4DHCPSupportMode(); !ok || !v.Server {
		t.Error(v, ok)
	}
}

func TestRFC5844OptionsRefused(t *testing.T) {
	checkRefused(t, []refused{
		badOption(t, "request of 4", "24 04 00000000", "IPv4 Home Address Request", "RFC 5844 3.3.1", wire.BadOptionLength),
		badOption(t, "request /63", "24 06 fc 00 0a010203", "IPv4 Home Address Request", "RFC 5844 3.3.1", wire.BadPrefixLength),
		badOption(t, "reply of 1", "25 01 00", "IPv4 Home Address Reply", "RFC 5844 3.3.2", wire.BadOptionLength),
		badOption(t, "reply /33", "25 06 00 84 0a010203", "IPv4 Home Address Reply", "RFC 5844 3.3.2", wire.BadPrefixLength),
		badOption(t, "router of 8", "26 08 0000000000000000", "IPv4 Default-Router Address", "RFC 5844 3.3.3", wire.BadOptionLength),
		badOption(t, "mode of 1", "27 01 00", "IPv4 DHCP Support Mode", "RFC 5844 3.3.4", wire.BadOptionLength),
	})
}
