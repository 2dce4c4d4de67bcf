package mobility

import (
	"bytes"
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"kedge/wire"
)

// list makes a Binding Update of raw options; its Header Len covers whole units, the rest is padding.
func list(t *testing.T, o Options) ([]byte, error) {
	t.Helper()
	b := append(unhex(t, "3b 00 05 00 0000 0001 8000 0001"), o...)
	b = seal(appendPad(b, -len(b)&7))
	_, err := Parse(b, magAddr, lmaAddr)
	return b, err
}

func TestOptionBeyondHeader(t *testing.T) {
	for name, c := range map[string]struct {
		hex, field string
		off        int
	}{
		"one octet short":       {"16 12 00 40 20010db80001000200000000000000", "Home Network Prefix option", 12},
		"length 255":            {"08 ff 01 61", "Mobile Node Identifier option", 12},
		"unknown option":        {"c8 03 00 00", "option 200", 12},
		"PadN":                  {"17 02 00 01 01 07 00 00 00 00 00 00", "PadN option", 16},
		"type without length":   {"17 02 00 01 00 00 00 16", "Home Network Prefix option", 19},
		"PadN without length":   {"00 00 00 01", "PadN option", 15},
		"option inside padding": {"01 0b 16 12 00 40", "PadN option", 12},
	} {
		t.Run(name, func(t *testing.T) {
			o := unhex(t, c.hex)
			b := seal(append(unhex(t, "3b 00 05 00 0000 0001 8000 0001"), append(o, make([]byte, -(12+len(o))&7)...)...))
			if name == "one octet short" { // the header ends inside the option
				b = seal(append(unhex(t, "3b 00 05 00 0000 0001 8000 0001"), o[:12]...))
			}
			_, err := Parse(b, magAddr, lmaAddr)
			var e *wire.Error
			if !errors.As(err, &e) || e.Reason != wire.BadOptionLength || e.Off != c.off || e.Field != c.field {
				t.Errorf("%v", err)
			}
		})
	}
}

// TestZeroLengthOptions takes unknown options and PadN without data, and refuses each known type that needs some.
func TestZeroLengthOptions(t *testing.T) {
	for typ := range 256 {
		_, err := list(t, Options{byte(typ), 0})
		known := forms[typ].name != "" && typ > int(OptPadN)
		if known != errors.Is(err, wire.BadOptionLength) || !known && err != nil {
			t.Errorf("%v: %v", OptionType(typ), err)
		}
	}
}

// TestNestedPadding reads options between, after and inside padding of all kinds: what lies in PadN is no option.
func TestNestedPadding(t *testing.T) {
	o := Options(unhex(t, "00 00 00 01 00 01 01 ff 17 02 00 03 01 06 01 04 17 02 00 09 00 01 03 00 01 00 18 02 00 04 00 00 00"))
	if _, err := list(t, o); err != nil {
		t.Fatal(err)
	}
	want := []Value{HandoffIndicator{3}, AccessTechnology{4}}
	if d := cmp.Diff(want, slices.Collect(o.Values())); d != "" {
		t.Errorf("(-want +got):\n%s", d)
	}
	if o.Count(OptHandoffIndicator) != 1 || o.Has(OptPadN) || o.Has(OptPad1) {
		t.Error("padding counts as an option")
	}
}

func TestOptionLimit(t *testing.T) {
	for n, ok := range map[int]bool{0: true, 1: true, 64: true, 65: false, 1000: false} {
		o := Options(bytes.Repeat([]byte{200, 0}, n))
		_, err := list(t, o)
		var e *wire.Error
		if ok != (err == nil) || !ok && (!errors.As(err, &e) || e.Reason != wire.TooManyOptions || e.Off != 12+64*2) {
			t.Errorf("%d options: %v", n, err)
		}
		if _, err := Append(nil, &BindingUpdate{Options: o}, magAddr, lmaAddr); ok != (err == nil) {
			t.Errorf("%d options to write: %v", n, err)
		}
	}
	// Padding does not count: the header's length bounds it.
	if _, err := list(t, make(Options, 2036)); err != nil {
		t.Errorf("2,036 octets of Pad1: %v", err)
	}
}

// TestUnknownOptions keeps them as they came, in their place.
func TestUnknownOptions(t *testing.T) {
	b, err := list(t, Options(unhex(t, "c8 03 010203 17 02 00 01 fe 00 07 01 09 c8 01 04")))
	if err != nil {
		t.Fatal(err)
	}
	m, _ := Parse(b, magAddr, lmaAddr)
	want := []Value{RawOption{200, []byte{1, 2, 3}}, HandoffIndicator{1}, RawOption{254, nil}, RawOption{7, []byte{9}}, RawOption{200, []byte{4}}}
	if d := cmp.Diff(want, values(m), equal); d != "" {
		t.Errorf("(-want +got):\n%s", d)
	}
	if again, err := Append(nil, m, magAddr, lmaAddr); err != nil || !bytes.Equal(again, b) {
		t.Errorf("%x, %v; want %x", again, err, b)
	}
}

// TestUncheckedOptions reads lists that no Parse has seen: readers skip what has no value and stop where the octets end.
func TestUncheckedOptions(t *testing.T) {
	o := Options(unhex(t, "17 01 09 17 02 00 03 16 12 00 ff 00000000000000000000000000000000 08 09 01 61"))
	if v, ok := o.HandoffIndicator(); !ok || v.Value != 3 {
		t.Error(v, ok)
	}
	if v, ok := o.HomeNetworkPrefix(); ok {
		t.Error(v)
	}
	if v, ok := o.MobileNodeID(); ok {
		t.Error(v)
	}
	if _, id, ok := o.MobileNodeIDBytes(); ok {
		t.Error(id)
	}
	for p := range o.HomeNetworkPrefixes() {
		t.Error(p)
	}
	want := []Value{RawOption{OptHandoffIndicator, []byte{9}}, HandoffIndicator{3}, RawOption{OptHomeNetworkPrefix, o[9:27]}}
	if d := cmp.Diff(want, slices.Collect(o.Values()), equal); d != "" {
		t.Errorf("(-want +got):\n%s", d)
	}
}

// TestAlignment puts every option behind each number of octets, in areas that start at 8, 12, 16 and 24, and holds its
// place against the alignment that the RFCs print.
func TestAlignment(t *testing.T) {
	type place struct{ n, y int }
	rfc := map[OptionType]place{
		OptBindingRefreshAdvice: {2, 0}, OptAlternateCareOf: {8, 6}, OptNonceIndices: {2, 0}, OptBindingAuthorization: {8, 2},
		OptMobileNetworkPrefix: {8, 4}, OptMobileNodeID: {1, 0}, OptAuthentication: {4, 1}, OptMessageID: {8, 2}, OptVendorSpecific: {4, 2},
		OptServiceSelection: {1, 0}, OptHomeNetworkPrefix: {8, 4}, OptHandoffIndicator: {1, 0}, OptAccessTechnology: {1, 0},
		OptLinkLayerID: {2, 0}, OptLinkLocalAddress: {8, 6}, OptTimestamp: {8, 2}, OptRestartCounter: {4, 2}, OptIPv4HomeAddress: {4, 0},
		OptIPv4AddressAck: {4, 0}, OptNATDetection: {4, 0}, OptIPv4CareOf: {4, 0}, OptGREKey: {4, 0}, OptIPv4HomeAddressRequest: {4, 0},
		OptIPv4HomeAddressReply: {4, 0}, OptIPv4DefaultRouter: {4, 0}, OptIPv4DHCPSupportMode: {1, 0},
	}
	for _, v := range allValues() {
		want, ok := rfc[v.OptionType()]
		if !ok {
			t.Errorf("no alignment of %v is known here", v.OptionType())
		}
		for _, base := range []int{8, 12, 16, 24} {
			for before := range 9 {
				// Two octets of an unknown option and more of its data, in odd and even lengths.
				o := Options(nil).AddAt(base, RawOption{200, make([]byte, before)})
				start := len(o)
				o = o.AddAt(base, v)
				at, pads := start, 0
				for i := start; i < len(o); {
					opt, end, ok := o.next(i)
					if !ok {
						t.Fatalf("%v after %d octets from %d: %x", v.OptionType(), before, base, []byte(o))
					}
					if opt.Type == v.OptionType() {
						at = i
					} else if pads++; pads > 1 || opt.Type > OptPadN || end-i >= want.n {
						t.Errorf("%v after %d octets from %d has more padding than it needs: %x", v.OptionType(), before, base, []byte(o))
					}
					i = end
				}
				if (base+at)%want.n != want.y {
					t.Errorf("%v after %d octets from %d stands at %d, want %dn+%d", v.OptionType(), before, base, base+at, want.n, want.y)
				}
			}
		}
	}
}

// TestAddAfterParse goes on with a message that came in, whose padding stays.
func TestAddAfterParse(t *testing.T) {
	b, err := list(t, Options(unhex(t, "17 02 00 01 08 02 01 61")))
	if err != nil {
		t.Fatal(err)
	}
	m, err := Parse(b, magAddr, lmaAddr)
	if err != nil {
		t.Fatal(err)
	}
	o := m.GetOptions().Add(Timestamp{1})
	if want := unhex(t, "17 02 00 01 08 02 01 61 01 02 00 00 01 00 1b 08 0000000000000001"); !bytes.Equal(o, want) {
		t.Errorf("%x, want %x", []byte(o), want)
	}
}

func TestNames(t *testing.T) {
	for got, want := range map[string]string{
		TypeBindingUpdate.String():     "Binding Update",
		Type(200).String():             "MH type 200",
		OptTimestamp.String():          "Timestamp",
		OptionType(200).String():       "option 200",
		ProxyRegNotEnabled.String():    "PROXY_REG_NOT_ENABLED",
		BCEPrefixSetMismatch.String():  "BCE_PBU_PREFIX_SET_DO_NOT_MATCH",
		SequenceOutOfWindow.String():   "Sequence number out of window",
		Status(200).String():           "status 200",
		AddressIncorrect.String():      "Incorrect IPv4 home address",
		AddressStatus(200).String():    "status 200",
		AddressAccepted.String():       "Success",
		TypeBindingRevocation.String(): "Binding Revocation",
	} {
		if got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
	if !Status(127).Accepted() || ReasonUnspecified.Accepted() || !AddressStatus(127).Success() || AddressReasonUnspecified.Success() {
		t.Error("below 128 is accepted, from 128 on refused")
	}
	for _, m := range []Type{0, 1, 2, 3, 4, 5, 6, 7, 13, 16} {
		if strings.HasPrefix(m.String(), "MH type") {
			t.Errorf("type %d has no name", m)
		}
	}
	for v := range Options(nil).Add(allValues()...).Values() {
		if strings.HasPrefix(v.OptionType().String(), "option ") {
			t.Errorf("option %d has no name", v.OptionType())
		}
	}
}
