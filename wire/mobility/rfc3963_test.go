package mobility

import (
	"net/netip"
	"slices"
	"testing"

	"kedge/wire"
)

func TestRFC3963Options(t *testing.T) {
	p, q := netip.MustParsePrefix("2001:db8:2::/48"), netip.MustParsePrefix("2001:db8:3::/128")
	checkAdded(t, added{[]Value{MobileNetworkPrefix{p}, MobileNetworkPrefix{q}},
		"06 12 00 30 20010db8000200000000000000000000 01 02 0000 06 12 00 80 20010db8000300000000000000000000"})
	o := Options(nil).Add(HomeNetworkPrefix{q}, MobileNetworkPrefix{p}, MobileNetworkPrefix{q})
	if got := slices.Collect(o.MobileNetworkPrefixes()); !slices.Equal(got, []netip.Prefix{p, q}) {
		t.Error(got)
	}
	if v, ok := o.MobileNetworkPrefix(); !ok || v.Prefix != p {
		t.Error(v, ok)
	}
	checkRefused(t, []refused{
		badOption(t, "17", "06 11 0000000000000000000000000000000000", "Mobile Network Prefix", "RFC 3963 4.3", wire.BadOptionLength),
		badOption(t, "/129", "06 12 00 81 20010db8000200000000000000000000", "Mobile Network Prefix", "RFC 3963 4.3", wire.BadPrefixLength),
	})
}
