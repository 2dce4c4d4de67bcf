package mobility

import (
	"net/netip"
	"testing"
)

var (
	magAddr = netip.MustParseAddr("2001:db8:f::1")
	lmaAddr = netip.MustParseAddr("2001:db8:a::1")
)

func TestAllocations(t *testing.T) {
	pba := &BindingAck{Flags: BAProxy, Sequence: 7, Lifetime: 900, Options: proxyOptions()}
	wire, err := Append(nil, pba, lmaAddr, magAddr)
	if err != nil {
		t.Fatal(err)
	}
	buf, opts := make([]byte, 0, 512), make(Options, 0, 512)
	for name, c := range map[string]struct {
		want float64
		f    func()
	}{
		"append": {0, func() { buf, _ = Append(buf[:0], pba, lmaAddr, magAddr) }},
		"parse":  {1, func() { Parse(wire, lmaAddr, magAddr) }},
		"add": {0, func() {
			opts = opts[:0].Add(MobileNodeID{1, "mn@example.com"}, HandoffIndicator{4}, HomeNetworkPrefix{netip.MustParsePrefix("2001:db8::/64")},
				LinkLayerID{[]byte{2, 0, 0, 0, 0, 1}}, IPv4AddressAck{0, 24, netip.AddrFrom4([4]byte{10, 0, 0, 1}), 0}, Timestamp{5})
		}},
	} {
		if got := testing.AllocsPerRun(200, c.f); got != c.want {
			t.Errorf("%s: %v allocations, want %v", name, got, c.want)
		}
	}
}

func proxyOptions() Options {
	return Options(nil).Add(MobileNodeID{1, "mn@example.com"}, HomeNetworkPrefix{netip.MustParsePrefix("2001:db8::/64")},
		HandoffIndicator{4}, AccessTechnology{3}, LinkLayerID{[]byte{2, 0, 0, 0, 0, 1}}, Timestamp{5},
		IPv4HomeAddressReply{0, 24, netip.AddrFrom4([4]byte{10, 0, 0, 1})})
}
