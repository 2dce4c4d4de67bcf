package lma

import (
	"math"
	"net/netip"
	"slices"
	"testing"
	"time"

	"kedge/internal/spec"
	"kedge/wire"
	"kedge/wire/mobility"
)

var noon = time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC)

// TestInOrder is RFC 5213 5.5 at its edges.
func TestInOrder(t *testing.T) {
	const unit = time.Second / 65536
	at := func(d time.Duration) uint64 { return mobility.TimestampOf(noon.Add(d)).Value }
	window := Clock{Wall: noon, Window: 300 * time.Millisecond}
	free := Clock{Wall: noon, Window: 300 * time.Millisecond, Free: true}
	for _, row := range []struct {
		name  string
		ts    uint64 // 0 = no option
		seq   uint16
		last  Last
		clock Clock
		want  mobility.Status
	}{
		{"on time", at(0), 0, Last{}, window, 0},
		{"at the window's end", at(300 * time.Millisecond), 0, Last{}, window, 0},
		{"at the window's begin", at(-300 * time.Millisecond), 0, Last{}, window, 0},
		{"just ahead of it", at(300*time.Millisecond + 2*unit + 1), 0, Last{}, window, 156},
		{"just behind it", at(-300*time.Millisecond - 2*unit - 1), 0, Last{}, window, 156},
		{"far future", math.MaxUint64, 0, Last{}, window, 156},
		{"1970", 1, 0, Last{}, window, 156},
		{"newer than the last by one", at(0), 0, Last{Timestamp: at(0) - 1}, window, 0},
		{"equal to the last", at(0), 0, Last{Timestamp: at(0)}, window, 157},
		{"older than the last by one", at(0) - 1, 0, Last{Timestamp: at(0)}, window, 157},
		{"older than the last and outside the window: 5.5 (8) comes before (9)", at(-time.Hour), 0, Last{Timestamp: at(0)}, window, 157},
		{"the sequence number is ignored with a timestamp", at(0), 5, Last{Timestamp: at(-unit - 1), Known: true, Sequence: 5}, window, 0},
		{"a clock of the mobile node", 5, 0, Last{}, free, 0},
		{"that grows", 6, 0, Last{Timestamp: 5}, free, 0},
		{"that stands", 5, 0, Last{Timestamp: 5}, free, 157},
		{"no option, no session", 0, 0, Last{}, window, 0},
		{"next number", 0, 6, Last{Known: true, Sequence: 5}, window, 0},
		{"same number", 0, 5, Last{Known: true, Sequence: 5}, window, 135},
		{"previous number", 0, 4, Last{Known: true, Sequence: 5}, window, 135},
		{"32767 ahead", 0, 5 + 32767, Last{Known: true, Sequence: 5}, window, 0},
		{"32768 ahead is behind", 0, 5 + 32768, Last{Known: true, Sequence: 5}, window, 135},
		{"around zero", 0, 0, Last{Known: true, Sequence: 65535}, window, 0},
		{"back around zero", 0, 65535, Last{Known: true, Sequence: 0}, window, 135},
		{"a timestamp before does not order numbers", 0, 6, Last{Timestamp: at(0), Known: true, Sequence: 5}, window, 0},
	} {
		r := &Request{Sequence: row.seq, Timestamp: row.ts, HasTimestamp: row.ts != 0}
		f := InOrder(r, row.last, row.clock)
		got := mobility.Status(0)
		if f != nil {
			got = f.Status
		}
		if got != row.want {
			t.Errorf("%s: status %d, want %d (%v)", row.name, got, row.want, f)
			continue
		}
		if f == nil {
			continue
		}
		if f.Detail == "" || f.Error() == "" {
			t.Errorf("%s: says nothing", row.name)
		}
		switch got {
		case 135:
			if f.Seq != row.last.Sequence {
				t.Errorf("%s: answers sequence %d", row.name, f.Seq)
			}
		default:
			if f.Time != at(0) {
				t.Errorf("%s: answers time %x, want the anchor's", row.name, f.Time)
			}
		}
	}
}

// TestV4Codes is the error map of both dialects.
func TestV4Codes(t *testing.T) {
	spec.Covers(t, "S001-3.3.2-33")
	type code struct {
		status  mobility.Status
		address mobility.AddressStatus
	}
	for _, row := range []struct {
		problem        V4Problem
		dynamic        bool
		rfc5844, draft code
	}{
		{V4Service, true, code{170, 129}, code{129, 129}},
		{V4Prohibited, false, code{171, 129}, code{129, 129}},
		{V4Foreign, false, code{171, 129}, code{129, 130}},
		{V4Invalid, false, code{171, 129}, code{129, 131}},
		{V4Exhausted, true, code{130, 128}, code{130, 132}},
		{V4Exhausted, false, code{130, 128}, code{130, 128}},
	} {
		for d, want := range map[Dialect]code{RFC5844: row.rfc5844, Draft02: row.draft} {
			r := &Request{Dialect: d, V4Options: 1, V4: netip.IPv4Unspecified()}
			if !row.dynamic {
				r.V4, r.V4Bits = hoa, 32
			}
			f := RefuseV4(r, row.problem, "why")
			if got := (code{f.Status, f.Address}); got != want || f.Reason == "" || f.Detail != "why" {
				t.Errorf("%s problem %d: %+v (%v), want %+v", d, row.problem, got, f, want)
			}
		}
	}
}

// TestRead takes everything out of a message, once with each option and once with none.
func TestRead(t *testing.T) {
	bu := &mobility.BindingUpdate{Sequence: 9, Lifetime: 5, Flags: mobility.BUProxy}
	r := Read(bu, coa1, DialectSet())
	if r.HasNode || r.HasHI || r.HasATT || r.HasLinkLayer || r.HasTimestamp || r.HasLinkLocal || r.HasV4() || r.HNPOptions != 0 || r.CareOf != coa1 || r.Sequence != 9 || r.Lifetime != 5 {
		t.Errorf("of nothing: %+v", r)
	}
	nine := []mobility.Value{}
	for i := range byte(9) {
		nine = append(nine, mobility.HomeNetworkPrefix{Prefix: netip.PrefixFrom(netip.AddrFrom16([16]byte{0x20, i, 8: 1}), 64)})
	}
	bu.Options = bu.Options.Add(
		mobility.MobileNodeID{Subtype: 1, ID: "h@x"}, mobility.AlternateCareOf{Addr: coa2}, mobility.HomeNetworkPrefix{Prefix: netip.PrefixFrom(netip.IPv6Unspecified(), 0)},
		mobility.HandoffIndicator{Value: 3}, mobility.AccessTechnology{Value: 4}, mobility.LinkLayerID{ID: llA}, mobility.Timestamp{Value: 77},
		mobility.LinkLocalAddress{Addr: netip.IPv6Unspecified()}, mobility.IPv4HomeAddress{Addr: hoa, PrefixLen: 24}).Add(nine...)
	r = Read(bu, coa1, DialectSet())
	if !r.HasNode || r.Node != "h@x" || r.Subtype != 1 || r.CareOf != coa2 || r.Source != coa1 || r.HNPOptions != 10 || r.NonZero != 8 || !r.TooMany ||
		r.HI != 3 || r.ATT != 4 || !slices.Equal(r.Interface(), llA) || r.Timestamp != 77 || !r.HasLinkLocal || r.Dialect != Draft02 || r.V4 != hoa || r.V4Bits != 24 {
		t.Errorf("%+v", r)
	}
	if r.Prefixes[0] != netip.MustParsePrefix("2000::/64") {
		t.Errorf("host bits stay: %v", r.Prefixes[0])
	}
	bu.Options = bu.Options.Add(mobility.IPv4HomeAddressRequest{Addr: hoa})
	if r = Read(bu, coa1, DialectSet()); r.Dialect != RFC5844 || r.V4Options != 1 {
		t.Errorf("both dialects: %+v", r)
	}
	if r = Read(bu, coa1, DialectSet(Draft02)); r.Dialect != Draft02 {
		t.Errorf("draft alone allowed: %v", r.Dialect)
	}
}

// TestV4Form tells an address, ALL_ZERO and a network apart (notes B17).
func TestV4Form(t *testing.T) {
	for _, row := range []struct {
		addr string
		bits uint8
		key  bool
		net  string // "" = none
	}{
		{"0.0.0.0", 0, false, "0.0.0.0/0"}, {"0.0.0.0", 24, false, "0.0.0.0/0"}, {"0.0.0.0", 32, false, "0.0.0.0/0"},
		{"10.20.0.8", 32, true, ""}, {"10.20.0.8", 0, true, ""}, {"10.20.0.8", 24, true, ""}, {"10.20.0.0", 24, false, "10.20.0.0/24"},
		{"10.20.0.8", 29, false, "10.20.0.8/29"}, {"10.20.0.8", 31, true, ""}, {"10.20.0.0", 32, true, ""},
	} {
		r := &Request{Dialect: RFC5844, V4Options: 1, V4: netip.MustParseAddr(row.addr), V4Bits: row.bits}
		_, key := r.V4Key()
		net, dynamic := r.V4Network()
		if key != row.key || dynamic != (row.net != "") || dynamic && net.String() != row.net {
			t.Errorf("%s/%d: key %v network %v %v", row.addr, row.bits, key, net, dynamic)
		}
	}
	if _, key := (&Request{}).V4Key(); key {
		t.Error("a key without an option")
	}
}

// TestComplete and TestEntitled have their statuses in the anchor's table; here is what passes.
func TestComplete(t *testing.T) {
	for _, row := range []struct {
		r    Request
		want mobility.Status
	}{
		{Request{HNPOptions: 1, HasHI: true, HasATT: true}, 0},
		{Request{Dialect: RFC5844, V4Options: 1, HasHI: true, HasATT: true}, 0},
		{Request{Dialect: Draft02, V4Options: 1, HasATT: true}, 0},
		{Request{Dialect: Draft02, V4Options: 1, HNPOptions: 1, HasATT: true}, 0},
		{Request{HNPOptions: 1, HasATT: true}, 161},
		{Request{Dialect: RFC5844, V4Options: 1, HasATT: true}, 161},
		{Request{Dialect: Draft02, V4Options: 1}, 162},
		{Request{HasHI: true, HasATT: true}, 158},
	} {
		f := Complete(&row.r)
		if (f == nil) != (row.want == 0) || f != nil && f.Status != row.want {
			t.Errorf("%+v: %v, want %d", row.r, f, row.want)
		}
	}
}

func TestRefusalIsReadable(t *testing.T) {
	f := &Refusal{Status: 156, Reason: wire.TimestampMismatch, Detail: "1s behind"}
	if got := f.Error(); got != "refused 156: timestamp-mismatch (1s behind)" {
		t.Error(got)
	}
	f = &Refusal{Silent: true, Reason: wire.NothingToDeregister}
	if got := f.Error(); got != "ignored: nothing-to-deregister" {
		t.Error(got)
	}
}
