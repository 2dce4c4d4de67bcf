package mobility

import (
	"errors"
	"net/netip"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"kedge/internal/testpcap"
	"kedge/wire"
)

// captured are the Mobility Headers of other implementations.
func captured(tb testing.TB) (found []testpcap.MobilityHeader) {
	for _, f := range []string{"umip-noipsec-brh", "umip-nemo-brh", "umip-ro-all", "umip-esp-all", "pmip-oai-all"} {
		found = append(found, testpcap.MobilityHeaders(tb, vectors+f+".pcap")...)
	}
	return found
}

// FuzzParse: parse, append and parse again give the same; whatever the octets, no panic and only errors of package wire.
func FuzzParse(f *testing.F) {
	for _, e := range examples() {
		b, err := Append(nil, e.m, magAddr, lmaAddr)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	for _, n := range []int{0, 2} { // tshark does not judge those among the examples
		m := &HomeAgentSwitch{Addresses: []netip.Addr{magAddr, lmaAddr}[:n], Options: Options(nil).AddAt(8, BindingRefreshAdvice{75})}
		b, err := Append(nil, m, magAddr, lmaAddr)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	for _, mh := range captured(f) {
		f.Add(mh.Bytes)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		parseOnce(t, slices.Clone(b))
		if len(b) >= 8 && len(b) <= maxLength && len(b)%8 == 0 { // random octets seldom have the right sum
			parseOnce(t, seal(slices.Clone(b)))
		}
	})
}

func parseOnce(t *testing.T, b []byte) {
	m, err := Parse(b, magAddr, lmaAddr)
	var e *wire.Error
	if err != nil && (!errors.As(err, &e) || e.Reason == "" || e.Msg == "" || e.RFC == "" || e.Off > len(b)) {
		t.Fatalf("error %#v says too little", err)
	}
	if m == nil {
		if err == nil {
			t.Fatal("neither message nor error")
		}
		return
	}
	again, err2 := Append(nil, m, magAddr, lmaAddr)
	if err2 != nil {
		t.Fatalf("%v cannot be written again: %v", m.Type(), err2)
	}
	if len(again) != len(b) {
		t.Fatalf("%v: %d octets read, %d written", m.Type(), len(b), len(again))
	}
	back, err3 := Parse(again, magAddr, lmaAddr)
	if (err == nil) != (err3 == nil) {
		t.Fatalf("%v: read once: %v, again: %v", m.Type(), err, err3)
	}
	if d := cmp.Diff(m, back, equal); d != "" {
		t.Fatalf("(-read once +again):\n%s", d)
	}
	if _, raw := m.(*Raw); !raw {
		checkReaders(t, m.GetOptions(), m.fixed())
	}
}

// FuzzOptions: whatever the octets, walking ends, and values that are read can be added again to read the same.
func FuzzOptions(f *testing.F) {
	f.Add([]byte(Options(nil).Add(allValues()...)))
	for _, v := range allValues() {
		f.Add([]byte(Options(nil).Add(v)))
	}
	for _, mh := range captured(f) {
		if len(mh.Bytes) > 12 {
			f.Add(mh.Bytes[12:])
		}
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) <= maxLength { // no header holds more
			checkReaders(t, Options(b), baseUpdate)
		}
	})
}

func checkReaders(t *testing.T, o Options, base int) {
	values := slices.Collect(o.Values())
	count := 0
	for range o.All() {
		count++
	}
	if count != len(values) {
		t.Fatalf("%d options, %d values", count, len(values))
	}
	if o.check(base) != nil {
		return
	}
	again := Options(nil).AddAt(base, values...)
	if d := cmp.Diff(values, slices.Collect(again.Values()), equal); d != "" {
		t.Fatalf("(-read +added again):\n%s", d)
	}
	// Readers find the first of a type, and agree with Values.
	for i, v := range values {
		if slices.IndexFunc(values, func(w Value) bool { return w.OptionType() == v.OptionType() }) != i {
			continue
		}
		var got Value
		var ok bool
		switch v.(type) {
		case MobileNodeID:
			got, ok = o.MobileNodeID()
		case HomeNetworkPrefix:
			got, ok = o.HomeNetworkPrefix()
		case IPv4HomeAddress:
			got, ok = o.IPv4HomeAddress()
		case IPv4AddressAck:
			got, ok = o.IPv4AddressAck()
		case IPv4HomeAddressReply:
			got, ok = o.IPv4HomeAddressReply()
		case GREKey:
			got, ok = o.GREKey()
		case LinkLayerID:
			got, ok = o.LinkLayerID()
		case Timestamp:
			got, ok = o.Timestamp()
		default:
			continue
		}
		if d := cmp.Diff(v, got, equal); !ok || d != "" {
			t.Fatalf("reader of %v (-Values +reader):\n%s", v.OptionType(), d)
		}
	}
}

// TestSeedsReadTwice holds that the checksum of captured packets covers the addresses of their pseudo header, so that the
// seeds are what other programs meant.
func TestSeedsReadTwice(t *testing.T) {
	for _, mh := range captured(t) {
		_, err := Parse(mh.Bytes, mh.Src, mh.Dst)
		_, swapped := Parse(mh.Bytes, netip.IPv6Unspecified(), mh.Dst)
		if err == nil && !errors.Is(swapped, wire.BadChecksum) {
			t.Errorf("frame %d: %v with another source", mh.Frame, swapped)
		}
	}
}
