package mobility

import (
	"net/netip"
	"slices"
	"testing"

	"kedge/wire"
)

func TestRFC5213Options(t *testing.T) {
	p, q := netip.MustParsePrefix("2001:db8:1:2::/64"), netip.MustParsePrefix("::/0")
	link := netip.MustParseAddr("fe80::1")
	checkAdded(t,
		added{[]Value{HomeNetworkPrefix{p}}, "16 12 00 40 20010db8000100020000000000000000"},
		added{[]Value{HandoffIndicator{5}, HomeNetworkPrefix{q}}, "17 02 00 05 01 02 0000 16 12 00 00 00000000000000000000000000000000"},
		// Bits behind the prefix length are the sender's business.
		added{[]Value{HomeNetworkPrefix{netip.MustParsePrefix("2001:db8::1/64")}}, "16 12 00 40 20010db8000000000000000000000001"},
		added{[]Value{HandoffIndicator{4}, AccessTechnology{3}}, "17 02 00 04 18 02 00 03"},
		// The identifier's size decides: 6 octets need only the Reserved field on an even octet, 8 stand on eight.
		added{[]Value{RawOption{202, []byte{1}}, LinkLayerID{[]byte{2, 0, 0, 0, 0, 1}}}, "ca 01 01 00 19 08 0000 020000000001"},
		added{[]Value{HandoffIndicator{4}, LinkLayerID{[]byte{2, 0, 0, 0xff, 0xfe, 0, 0, 1}}}, "17 02 00 04 01 02 0000 19 0a 0000 020000fffe000001"},
		added{[]Value{RawOption{202, []byte{1}}, LinkLayerID{[]byte{1, 2, 3, 4}}}, "ca 01 01 00 19 06 0000 01020304"},
		added{[]Value{LinkLocalAddress{link}}, "01 00 1a 10 fe800000000000000000000000000001"},
		added{[]Value{Timestamp{0x0102030405060708}}, "01 04 00000000 1b 08 0102030405060708"},
	)
	o := Options(nil).Add(HomeNetworkPrefix{p}, HandoffIndicator{3}, AccessTechnology{4}, HomeNetworkPrefix{q}, LinkLayerID{[]byte{1, 2}},
		LinkLocalAddress{link}, Timestamp{77})
	if got := slices.Collect(o.HomeNetworkPrefixes()); !slices.Equal(got, []netip.Prefix{p, q}) {
		t.Error(got)
	}
	for range o.HomeNetworkPrefixes() {
		break // a loop may end early
	}
	if v, ok := o.HomeNetworkPrefix(); !ok || v.Prefix != p {
		t.Error(v, ok)
	}
	if v, ok := o.HandoffIndicator(); !ok || v.Value != 3 {
		t.Error(v, ok)
	}
	if v, ok := o.AccessTechnology(); !ok || v.Value != 4 {
		t.Error(v, ok)
	}
	if v, ok := o.LinkLayerID(); !ok || string(v.ID) != "\x01\x02" {
		t.Error(v, ok)
	}
	if v, ok := o.LinkLocalAddress(); !ok || v.Addr != link {
		t.Error(v, ok)
	}
	if v, ok := o.Timestamp(); !ok || v.Value != 77 {
		t.Error(v, ok)
	}
}

func TestRFC5213OptionsRefused(t *testing.T) {
	checkRefused(t, []refused{
		badOption(t, "prefix of 16", "16 10 00000000000000000000000000000000", "Home Network Prefix", "RFC 5213 8.3", wire.BadOptionLength),
		badOption(t, "/129", "16 12 00 81 20010db8000100020000000000000000", "Home Network Prefix", "RFC 5213 8.3", wire.BadPrefixLength),
		badOption(t, "handoff of 1", "17 01 01", "Handoff Indicator", "RFC 5213 8.4", wire.BadOptionLength),
		badOption(t, "technology of 3", "18 03 000000", "Access Technology Type", "RFC 5213 8.5", wire.BadOptionLength),
		badOption(t, "no identifier", "19 02 0000", "Mobile Node Link-layer Identifier", "RFC 5213 8.6", wire.BadOptionLength),
		badOption(t, "link-local of 4", "1a 04 00000000", "Link-local Address", "RFC 5213 8.7", wire.BadOptionLength),
		badOption(t, "timestamp of 4", "1b 04 00000000", "Timestamp", "RFC 5213 8.8", wire.BadOptionLength),
	})
}

// TestIPv4PrefixAsHomeNetwork refuses to write an IPv4 prefix where sixteen octets stand.
func TestIPv4PrefixAsHomeNetwork(t *testing.T) {
	for _, v := range []Value{HomeNetworkPrefix{netip.MustParsePrefix("10.0.0.0/8")}, MobileNetworkPrefix{netip.MustParsePrefix("10.0.0.0/8")}} {
		if b, err := Append(nil, &BindingUpdate{Options: Options(nil).Add(v)}, magAddr, lmaAddr); err == nil {
			t.Errorf("%#v: %x", v, b)
		}
	}
}
