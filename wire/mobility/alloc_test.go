package mobility

import (
	"net/netip"
	"testing"
)

func proxyOptions() Options {
	return Options(nil).Add(MobileNodeID{SubtypeNAI, "mn@example.com"}, HomeNetworkPrefix{netip.MustParsePrefix("2001:db8::/64")},
		HandoffIndicator{HandoffUnknown}, AccessTechnology{AccessEthernet}, LinkLayerID{[]byte{2, 0, 0, 0, 0, 1}}, Timestamp{5},
		IPv4HomeAddressReply{0, 24, netip.AddrFrom4([4]byte{10, 0, 0, 1})})
}

// TestMessageAllocations: none to append any message, one (the message) to parse it.
func TestMessageAllocations(t *testing.T) {
	for _, e := range examples() {
		b, err := Append(nil, e.m, magAddr, lmaAddr)
		if err != nil {
			t.Fatal(err)
		}
		buf := make([]byte, 0, maxLength)
		if n := testing.AllocsPerRun(100, func() { buf, _ = Append(buf[:0], e.m, magAddr, lmaAddr) }); n != 0 {
			t.Errorf("append %v: %v allocations", e.m.Type(), n)
		}
		if n := testing.AllocsPerRun(100, func() { sink, _ = Parse(b, magAddr, lmaAddr) }); n != 1 {
			t.Errorf("parse %v: %v allocations, want the message's", e.m.Type(), n)
		}
	}
}

var sink Message

func TestOptionAllocations(t *testing.T) {
	all := Options(nil).Add(allValues()...)
	opts := make(Options, 0, 512)
	prefix, v4 := netip.MustParsePrefix("2001:db8::/64"), netip.AddrFrom4([4]byte{10, 0, 0, 1})
	mac := []byte{2, 0, 0, 0, 0, 1}
	known := map[string]int{"020000000001@example.com": 1}
	for name, f := range map[string]func(){
		"add": func() {
			opts = opts[:0].Add(MobileNodeID{SubtypeNAI, "mn@example.com"}, HandoffIndicator{4}, AccessTechnology{3}, HomeNetworkPrefix{prefix},
				LinkLayerID{mac}, IPv4AddressAck{0, 24, v4, 0}, IPv4HomeAddressReply{0, 24, v4}, IPv4DefaultRouter{v4}, Timestamp{5}, RestartCounter{6},
				IPv4DHCPSupportMode{true}, RawOption{200, mac})
		},
		"all": func() {
			for o := range all.All() {
				_ = o.Type
			}
		},
		"count": func() { _ = all.Count(OptHomeNetworkPrefix) },
		"prefixes": func() {
			for p := range all.HomeNetworkPrefixes() {
				_ = p.Bits()
			}
		},
		"readers": func() {
			all.BindingRefreshAdvice()
			all.AlternateCareOf()
			all.NonceIndices()
			all.BindingAuthorization()
			all.MobileNetworkPrefix()
			all.Authentication()
			all.MessageID()
			all.VendorSpecific()
			all.ServiceSelectionBytes()
			all.HomeNetworkPrefix()
			all.HandoffIndicator()
			all.AccessTechnology()
			all.LinkLayerID()
			all.LinkLocalAddress()
			all.Timestamp()
			all.RestartCounter()
			all.IPv4HomeAddress()
			all.IPv4AddressAck()
			all.NATDetection()
			all.IPv4CareOf()
			all.GREKey()
			all.IPv4HomeAddressRequest()
			all.IPv4HomeAddressReply()
			all.IPv4DefaultRouter()
			all.IPv4DHCPSupportMode()
		},
		"lookup by identifier": func() {
			if _, id, _ := all.MobileNodeIDBytes(); known[string(id)] != 1 {
				t.Errorf("identifier %q", id)
			}
		},
	} {
		if n := testing.AllocsPerRun(100, f); n != 0 {
			t.Errorf("%s: %v allocations", name, n)
		}
	}
}

func BenchmarkParse(b *testing.B) {
	raw, err := Append(nil, &BindingUpdate{Sequence: 1, Flags: BUAck | BUProxy, Lifetime: 900, Options: proxyOptions()}, magAddr, lmaAddr)
	if err != nil {
		b.Fatal(err)
	}
	b.SetBytes(int64(len(raw)))
	for b.Loop() {
		sink, _ = Parse(raw, magAddr, lmaAddr)
	}
}

func BenchmarkAppend(b *testing.B) {
	m := &BindingAck{Flags: BAProxy, Sequence: 1, Lifetime: 900, Options: proxyOptions()}
	buf := make([]byte, 0, 256)
	for b.Loop() {
		buf, _ = Append(buf[:0], m, magAddr, lmaAddr)
	}
	b.SetBytes(int64(len(buf)))
}
