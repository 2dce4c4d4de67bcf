package lma

import (
	"net/netip"
	"slices"
	"testing"

	"kedge/internal/spec"
	"kedge/wire/mobility"
)

// opts lists the option types of an answer in order.
func opts(a *mobility.BindingAck) (out []mobility.OptionType) {
	for o := range a.Options.All() {
		out = append(out, o.Type)
	}
	return out
}

// TestAnswerOptions is RFC 5213 5.3.6 with RFC 5844 3.1.2.6, and figure 5 of the draft: which option is in an answer.
func TestAnswerOptions(t *testing.T) {
	spec.Covers(t, "S001-3.3.2-23", "S001-3.3.2-24", "S001-3.3.2-25", "S001-3.3.2-26", "S001-3.3.2-27", "S001-3.3.2-30")
	const id, hnp, hi, att, ll, lla, ts = mobility.OptMobileNodeID, mobility.OptHomeNetworkPrefix, mobility.OptHandoffIndicator,
		mobility.OptAccessTechnology, mobility.OptLinkLayerID, mobility.OptLinkLocalAddress, mobility.OptTimestamp
	node := mobility.MobileNodeID{Subtype: 1, ID: "h@x"}
	prefix := mobility.HomeNetworkPrefix{Prefix: p1}
	all := []mobility.Value{node, prefix, mobility.HandoffIndicator{Value: 4}, mobility.AccessTechnology{Value: 3}}
	v36, v29 := mobility.IPv4HomeAddressRequest{Addr: hoa, PrefixLen: 32}, mobility.IPv4HomeAddress{Addr: hoa, PrefixLen: 32}
	given := Answer{Lifetime: 5, Prefixes: []netip.Prefix{p1, p2}, V4: netip.PrefixFrom(hoa, 24), Router: netip.MustParseAddr("10.20.0.1")}
	refusal := &Refusal{Status: 130}
	for _, row := range []struct {
		name    string
		request []mobility.Value
		refused bool
		want    []mobility.OptionType
	}{
		{"IPv6", all, false, []mobility.OptionType{id, hnp, hnp, hi, att}},
		{"IPv6 refused", all, true, []mobility.OptionType{id, hnp, hi, att}},
		{"timestamp, interface, link-local", append(slices.Clone(all), mobility.Timestamp{Value: 1}, mobility.LinkLayerID{ID: llA}, mobility.LinkLocalAddress{Addr: netip.IPv6Unspecified()}),
			false, []mobility.OptionType{id, hnp, hnp, hi, att, ts, ll, lla}},
		{"both, RFC 5844", append(slices.Clone(all), v36), false, []mobility.OptionType{id, hnp, hnp, hi, att, 37, 38, 39}},
		{"both, RFC 5844, refused", append(slices.Clone(all), v36), true, []mobility.OptionType{id, hnp, hi, att, 37}},
		{"IPv4, RFC 5844", []mobility.Value{node, mobility.HandoffIndicator{}, mobility.AccessTechnology{}, v36}, false, []mobility.OptionType{id, hi, att, 37, 38, 39}},
		{"IPv4, RFC 5844, refused", []mobility.Value{node, v36}, true, []mobility.OptionType{id, hi, att, 37}},
		{"both, draft", append(slices.Clone(all), v29), false, []mobility.OptionType{id, hnp, hnp, hi, att, 30}},
		{"IPv4, draft: figure 5", []mobility.Value{node, mobility.AccessTechnology{Value: 3}, v29}, false, []mobility.OptionType{id, att, 30}},
		{"IPv4, draft, refused", []mobility.Value{node, mobility.AccessTechnology{Value: 3}, v29}, true, []mobility.OptionType{id, att, 30}},
		{"nothing of IPv6 is there", append(slices.Clone(all), mobility.Timestamp{}), false, []mobility.OptionType{id, hnp, hi, att, ts}},
		{"nothing", nil, true, []mobility.OptionType{id, hnp, hi, att}},
	} {
		bu := &mobility.BindingUpdate{Sequence: 0x1234, Flags: mobility.BUProxy | mobility.BUAck, Lifetime: 10, Options: mobility.Options(nil).Add(row.request...)}
		r := Read(bu, coa1, DialectSet())
		answer := given
		if row.name == "nothing of IPv6 is there" {
			answer.Prefixes = nil // RFC 5844 3.1.2.6: at least one address option
		}
		ack := r.Accept(answer)
		if row.refused {
			ack = r.Refuse(refusal, netip.Prefix{}, true)
		}
		if got := opts(ack); !slices.Equal(got, row.want) {
			t.Errorf("%s: options %v, want %v", row.name, got, row.want)
		}
		if ack.Flags != mobility.BAProxy || ack.Sequence != 0x1234 {
			t.Errorf("%s: flags %v sequence %x", row.name, ack.Flags, ack.Sequence)
		}
		for o := range bu.Options.All() { // what is copied, is copied whole
			for a := range ack.Options.All() {
				switch a.Type {
				case id, hi, att, ll, ts:
					if a.Type == o.Type && !slices.Equal(a.Data, o.Data) {
						t.Errorf("%s: option %d is %x, was %x", row.name, a.Type, a.Data, o.Data)
					}
				}
			}
		}
	}
}

// TestAnswerOctets builds figure 5 of the draft octet by octet.
func TestAnswerOctets(t *testing.T) {
	spec.Covers(t, "S001-3.3.2-28")
	bu := &mobility.BindingUpdate{Sequence: 7, Flags: mobility.BUProxy | mobility.BUAck, Lifetime: 10, Options: mobility.Options(nil).Add(
		mobility.MobileNodeID{Subtype: 1, ID: "h@x"}, mobility.AccessTechnology{Value: 3}, mobility.IPv4HomeAddress{Addr: netip.IPv4Unspecified()})}
	r := Read(bu, coa1, DialectSet())
	ack := r.Accept(Answer{Lifetime: 5, V4: netip.MustParsePrefix("10.20.0.8/16")})
	b, err := mobility.Append(nil, ack, netip.MustParseAddr("2001:db8:a::1"), coa1)
	if err != nil {
		t.Fatal(err)
	}
	b[4], b[5] = 0, 0 // checksum
	want := []byte{
		59, 3, 6, 0, 0, 0, // Mobility Header, 32 octets, Binding Acknowledgement
		0, 0x20, 0, 7, 0, 5, // accepted, P, sequence, lifetime
		8, 4, 1, 'h', '@', 'x', // Mobile Node Identifier
		24, 2, 0, 3, // Access Technology Type
		1, 0, // padding to 4n
		30, 6, 0, 16 << 2, 10, 20, 0, 8, // IPv4 Address Acknowledgement: status, prefix length, address
	}
	if !slices.Equal(b, want) {
		t.Errorf("got  %x\nwant %x", b, want)
	}
}

// TestRefusalOfMany: the fullest request gets an answer that can be built.
func TestRefusalOfMany(t *testing.T) {
	o := mobility.Options(nil).Add(mobility.MobileNodeID{Subtype: 1, ID: string(make([]byte, 254))}, mobility.LinkLayerID{ID: make([]byte, 253)},
		mobility.LinkLocalAddress{Addr: coa1}, mobility.Timestamp{Value: 1}, mobility.IPv4HomeAddressRequest{Addr: hoa})
	for range 59 {
		o = o.Add(mobility.HomeNetworkPrefix{Prefix: p1})
	}
	bu := &mobility.BindingUpdate{Options: o}
	if _, err := mobility.Append(nil, bu, coa1, coa2); err != nil {
		t.Fatalf("the request itself: %v", err)
	}
	r := Read(bu, coa1, DialectSet())
	ack := r.Refuse(&Refusal{Status: 155}, netip.Prefix{}, true)
	if _, err := mobility.Append(nil, ack, coa2, coa1); err != nil {
		t.Fatal(err)
	}
	if n := ack.Options.Count(mobility.OptHomeNetworkPrefix); n != maxCopied {
		t.Errorf("%d prefixes", n)
	}
}
