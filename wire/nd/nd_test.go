package nd

import (
	"bytes"
	"encoding/binary"
	"errors"
	"net/netip"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"kedge/internal/testpcap"
	"kedge/wire"
	"kedge/wire/ip"
)

var (
	router  = netip.MustParseAddr("fe80::1")
	host    = netip.MustParseAddr("fe80::a")
	home    = netip.MustParseAddr("2001:db8:1000::a")
	careOf  = netip.MustParseAddr("2001:db8:f::7")
	agent   = netip.MustParseAddr("2001:db8:1000::99")
	anycast = netip.MustParseAddr("2001:db8:1000:0:fdff:ffff:ffff:fffe")
	none    = netip.IPv6Unspecified()
	group   = netip.MustParseAddr("ff02::1:ff00:a")
	mac     = SourceLinkLayer{2, 0, 0, 0, 0, 0xa}
	compare = cmp.Options{cmpopts.EquateComparable(netip.Addr{}, netip.Prefix{}), cmpopts.EquateEmpty()}
)

// samples are one of each message, as they may be sent.
var samples = []struct {
	name     string
	m        Message
	src, dst netip.Addr
}{
	{"rs", &RouterSolicitation{Options: Options{mac}}, host, AllRouters},
	{"rs without source", &RouterSolicitation{}, none, AllRouters},
	{"ra", &RouterAdvertisement{
		CurHopLimit: 64, Managed: true, Other: true, Preference: 1, RouterLifetime: 1800, ReachableTime: 30000, RetransTimer: 1000,
		Options: Options{
			SourceLinkLayer{2, 0, 0x5e, 0, 0, 1}, MTU(1460),
			&PrefixInformation{Prefix: netip.MustParsePrefix("2001:db8:1000::/64"), OnLink: true, Autonomous: true, Valid: 300, Preferred: Infinity},
			&PrefixInformation{Prefix: netip.MustParsePrefix("2001:db8:1000::1/64"), RouterAddr: true},
			&RDNSS{Lifetime: 300, Servers: []netip.Addr{netip.MustParseAddr("2001:db8::53"), netip.MustParseAddr("2001:db8::54")}},
			&DNSSL{Lifetime: 300, Domains: []string{"example.net", "a.b.example.org"}},
			&RawOption{Type: OptRouteInfo, Data: []byte{48, 0, 0, 0, 0, 60, 0x20, 1, 0xd, 0xb8, 0, 0, 0, 0}},
		},
	}, router, host},
	{"ns", &NeighborSolicitation{Target: router, Options: Options{mac}}, host, SolicitedNode(router)},
	{"ns dad", &NeighborSolicitation{Target: host, Options: Options{&RawOption{Type: 14, Data: make([]byte, 6)}}}, none, SolicitedNode(host)},
	{"na", &NeighborAdvertisement{Router: true, Solicited: true, Override: true, Target: router, Options: Options{TargetLinkLayer(mac)}}, router, host},
	{"na unsolicited", &NeighborAdvertisement{Override: true, Target: home}, home, AllNodes},
	{"redirect", &Redirect{Target: host, Destination: home}, router, host},
	{"echo request", &Echo{ID: 7, Seq: 9, Data: []byte("ping")}, host, router},
	{"echo reply", &Echo{Reply: true, ID: 7, Seq: 9}, router, host},
	{"mldv1 report", &MLDReport{Version: 1, Records: []MLDRecord{{Group: group}}}, host, group},
	{"mldv1 done", &MLDReport{Version: 1, Done: true, Records: []MLDRecord{{Group: group}}}, host, AllRouters},
	{"mldv2 report", &MLDReport{Version: 2, Records: []MLDRecord{
		{Type: ChangeToExcludeMode, Group: group}, {Type: AllowNewSources, Group: netip.MustParseAddr("ff0e::1"), Sources: []netip.Addr{home, router}},
	}}, none, AllMLDv2},
	{"ra of a home agent", &RouterAdvertisement{
		CurHopLimit: 64, HomeAgent: true, RouterLifetime: 1800,
		Options: Options{
			SourceLinkLayer{2, 0, 0x5e, 0, 0, 1}, AdvertisementInterval(70), HomeAgentInformation{Mobile: true, Preference: 0x1234, Lifetime: 65535},
			&PrefixInformation{Prefix: netip.MustParsePrefix("2001:db8:1000::99/64"), OnLink: true, Autonomous: true, RouterAddr: true, Valid: 300, Preferred: 200},
		},
	}, router, AllNodes},
	{"dhaad request", &HomeAgentAddressDiscoveryRequest{ID: 0xabcd}, careOf, anycast},
	{"dhaad request of a mobile router", &HomeAgentAddressDiscoveryRequest{ID: 1, Mobile: true}, careOf, anycast},
	{"dhaad reply", &HomeAgentAddressDiscoveryReply{ID: 0xabcd, Addresses: []netip.Addr{agent, home}}, agent, careOf},
	{"dhaad reply to a mobile router", &HomeAgentAddressDiscoveryReply{ID: 1, Mobile: true, Addresses: []netip.Addr{agent}}, agent, careOf},
	{"dhaad reply of nobody", &HomeAgentAddressDiscoveryReply{ID: 2}, agent, careOf},
	{"mps", &MobilePrefixSolicitation{ID: 0xbeef}, home, agent},
	{"mps with an option", &MobilePrefixSolicitation{ID: 3, Options: Options{&RawOption{Type: 3, Data: make([]byte, 6)}}}, home, agent},
	{"mpa", &MobilePrefixAdvertisement{ID: 0xbeef, Managed: true, Options: Options{
		&PrefixInformation{Prefix: netip.MustParsePrefix("2001:db8:1000::99/64"), OnLink: true, Autonomous: true, RouterAddr: true, Valid: 300, Preferred: 0},
		&RawOption{Type: 8, Data: make([]byte, 6)},
	}}, agent, home},
	{"mpa without prefix", &MobilePrefixAdvertisement{Other: true}, agent, home},
	{"mldv1 query", &MLDQuery{Version: 1, MaxDelay: 10000, Group: none}, router, AllNodes},
	{"mldv2 query", &MLDQuery{Version: 2, MaxDelay: 500, Group: group, Suppress: true, Robustness: 2, Interval: 125}, router, group},
}

func envelope(m Message, src, dst netip.Addr) Envelope {
	e := Envelope{Src: src, Dst: dst, HopLimit: HopLimit}
	switch m.(type) {
	case *MLDReport, *MLDQuery:
		e.HopLimit, e.RouterAlert = MLDHopLimit, true
	case *HomeAgentAddressDiscoveryRequest, *HomeAgentAddressDiscoveryReply, *MobilePrefixSolicitation, *MobilePrefixAdvertisement:
		e.HopLimit = 57 // they come from afar
	}
	return e
}

func TestRoundTrip(t *testing.T) {
	for _, s := range samples {
		t.Run(s.name, func(t *testing.T) {
			b, err := Append([]byte("before"), s.m, s.src, s.dst)
			if err != nil {
				t.Fatal(err)
			}
			b = b[len("before"):]
			got, err := Parse(b, envelope(s.m, s.src, s.dst))
			if err != nil {
				t.Fatal(err)
			}
			if d := cmp.Diff(s.m, got, compare); d != "" {
				t.Error(d)
			}
			if Name(b[0]) == "" {
				t.Errorf("type %d has no name", b[0])
			}
		})
	}
}

// Every message must be refused when any octet behind a place where it could end is missing, and never panic.
func TestTruncated(t *testing.T) {
	for _, s := range samples {
		b, err := Append(nil, s.m, s.src, s.dst)
		if err != nil {
			t.Fatal(err)
		}
		for n := range b {
			cut := seal(bytes.Clone(b[:n]), s.src, s.dst)
			m, err := Parse(cut, envelope(s.m, s.src, s.dst))
			var e *wire.Error
			if err != nil && !errors.As(err, &e) {
				t.Errorf("%s cut to %d: %v is no wire.Error", s.name, n, err)
			}
			if err == nil && cmp.Equal(m, s.m, compare) && !dataOnly(s.m) {
				t.Errorf("%s cut to %d is still the whole message", s.name, n)
			}
		}
	}
}

func dataOnly(m Message) bool { _, ok := m.(*Echo); return ok }

// seal sets the checksum right, so that only what a test changed is wrong.
func seal(b []byte, src, dst netip.Addr) []byte {
	if len(b) >= 4 {
		b[2], b[3] = 0, 0
		sum := ip.PseudoChecksum(src, dst, ip.ICMPv6, b)
		b[2], b[3] = byte(sum>>8), byte(sum)
	}
	return b
}

func TestRefused(t *testing.T) {
	raw := func(octets ...byte) []byte { return octets }
	with := func(head []byte, tail ...byte) []byte { return append(bytes.Clone(head), tail...) }
	addr := func(a netip.Addr) []byte { return a.AsSlice() }
	rs := raw(133, 0, 0, 0, 0, 0, 0, 0)
	ns := with(raw(135, 0, 0, 0, 0, 0, 0, 0), addr(router)...)
	na := with(raw(136, 0, 0, 0, 0x40, 0, 0, 0), addr(router)...)
	ra := make([]byte, 16)
	ra[0] = 134
	report := with(raw(143, 0, 0, 0, 0, 0, 0, 1, 4, 0, 0, 0), addr(group)...)
	v1 := with(raw(131, 0, 0, 0, 0, 0, 0, 0), addr(group)...)
	redirect := with(with(raw(137, 0, 0, 0, 0, 0, 0, 0), addr(host)...), addr(home)...)
	many := bytes.Clone(rs)
	for range MaxOptions + 1 {
		many = append(many, 200, 1, 0, 0, 0, 0, 0, 0)
	}
	ok := Envelope{Src: host, Dst: AllRouters, HopLimit: 255}
	far := Envelope{Src: careOf, Dst: anycast, HopLimit: 9}
	mld := Envelope{Src: host, Dst: AllMLDv2, HopLimit: 1, RouterAlert: true}

	for _, c := range []struct {
		name string
		b    []byte
		e    Envelope
		want wire.Reason
		off  int
	}{
		{"empty", nil, ok, wire.Truncated, 0},
		{"three octets", rs[:3], ok, wire.Truncated, 3},
		{"unknown type", raw(250, 0, 0, 0, 0, 0, 0, 0), ok, wire.UnknownType, 0},
		{"hop limit", rs, Envelope{Src: host, Dst: AllRouters, HopLimit: 254}, wire.BadHopLimit, 0},
		{"code", raw(133, 1, 0, 0, 0, 0, 0, 0), ok, wire.BadValue, 1},
		{"multicast source", rs, Envelope{Src: group, Dst: AllRouters, HopLimit: 255}, wire.BadSource, 0},
		{"option length 0", with(rs, 1, 0, 0, 0, 0, 0, 0, 0), ok, wire.BadOptionLength, 9},
		{"second option length 0", with(rs, 200, 1, 0, 0, 0, 0, 0, 0, 200, 0, 0, 0, 0, 0, 0, 0), ok, wire.BadOptionLength, 17},
		{"option beyond the end", with(rs, 1, 2, 0, 0, 0, 0, 0, 0), ok, wire.Truncated, 9},
		{"option of one octet", with(rs, 1), ok, wire.Truncated, 8},
		{"too many options", many, ok, wire.TooManyOptions, 8 + 8*MaxOptions},
		{"long source address", with(rs, with(raw(1, 2), make([]byte, 14)...)...), ok, wire.BadOptionLength, 8},
		{"long target address", with(na, with(raw(2, 2), make([]byte, 14)...)...), Envelope{Src: host, Dst: router, HopLimit: 255}, wire.BadOptionLength, 24},
		{"source address from nowhere", with(rs, 1, 1, 2, 0, 0, 0, 0, 1), Envelope{Src: none, Dst: AllRouters, HopLimit: 255}, wire.BadValue, 0},
		{"ra from a global address", ra, Envelope{Src: home, Dst: AllNodes, HopLimit: 255}, wire.BadSource, 0},
		{"short prefix option", with(ra, 3, 1, 64, 0, 0, 0, 0, 0), ok, wire.BadOptionLength, 16},
		{"prefix length 129", with(ra, with(raw(3, 4, 129), make([]byte, 29)...)...), ok, wire.BadPrefixLength, 18},
		{"long mtu option", with(ra, with(raw(5, 2), make([]byte, 14)...)...), ok, wire.BadOptionLength, 16},
		{"rdnss without server", with(ra, 25, 1, 0, 0, 0, 0, 0, 0), ok, wire.BadOptionLength, 16},
		{"rdnss with half a server", with(ra, with(raw(25, 4), make([]byte, 30)...)...), ok, wire.BadOptionLength, 16},
		{"dnssl without name", with(ra, 31, 1, 0, 0, 0, 0, 0, 0), ok, wire.BadOptionLength, 16},
		{"dnssl all padding", with(ra, with(raw(31, 2), make([]byte, 14)...)...), ok, wire.BadValue, 24},
		{"dnssl label beyond the end", with(ra, 31, 2, 0, 0, 0, 0, 0, 1, 9, 'a', 0, 0, 0, 0, 0, 0), ok, wire.BadValue, 24},
		{"dnssl compressed", with(ra, 31, 2, 0, 0, 0, 0, 0, 1, 0xc0, 1, 0, 0, 0, 0, 0, 0), ok, wire.BadValue, 24},
		{"dnssl long label", with(ra, slices.Concat([]byte{31, 10, 0, 0, 0, 0, 0, 1, 64}, bytes.Repeat([]byte{'a'}, 64), make([]byte, 7))...), ok, wire.BadValue, 24},
		{"dnssl name after padding", with(ra, 31, 2, 0, 0, 0, 0, 0, 1, 1, 'a', 0, 0, 1, 'b', 0, 1), ok, wire.BadValue, 24},
		{"ns for a group", with(raw(135, 0, 0, 0, 0, 0, 0, 0), addr(group)...), ok, wire.BadValue, 8},
		{"dad to a host", ns, Envelope{Src: none, Dst: router, HopLimit: 255}, wire.BadDestination, 0},
		{"dad with source address", with(ns, 1, 1, 2, 0, 0, 0, 0, 1), Envelope{Src: none, Dst: group, HopLimit: 255}, wire.BadValue, 0},
		{"na for a group", with(raw(136, 0, 0, 0, 0, 0, 0, 0), addr(group)...), ok, wire.BadValue, 8},
		{"solicited na to all", na, Envelope{Src: host, Dst: AllNodes, HopLimit: 255}, wire.BadValue, 4},
		{"redirect from a global address", redirect, Envelope{Src: home, Dst: host, HopLimit: 255}, wire.BadSource, 0},
		{"redirect of a group", with(with(raw(137, 0, 0, 0, 0, 0, 0, 0), addr(host)...), addr(group)...), ok, wire.BadValue, 24},
		{"redirect to a global address", with(with(raw(137, 0, 0, 0, 0, 0, 0, 0), addr(home)...), addr(router)...), ok, wire.BadValue, 8},
		{"mld hop limit", report, Envelope{Src: host, Dst: AllMLDv2, HopLimit: 255, RouterAlert: true}, wire.BadHopLimit, 0},
		{"mld without router alert", report, Envelope{Src: host, Dst: AllMLDv2, HopLimit: 1}, wire.BadValue, 0},
		{"mld from a global address", report, Envelope{Src: home, Dst: AllMLDv2, HopLimit: 1, RouterAlert: true}, wire.BadSource, 0},
		{"mldv1 for a host", with(v1[:8], addr(home)...), mld, wire.BadValue, 8},
		{"mldv2 for a host", with(report[:12], addr(home)...), mld, wire.BadValue, 12},
		{"mldv2 record missing", report[:20], mld, wire.Truncated, 8},
		{"mldv2 auxiliary data missing", with(raw(143, 0, 0, 0, 0, 0, 0, 1, 4, 1, 0, 0), addr(group)...), mld, wire.Truncated, 8},
		{"mldv2 sources missing", with(raw(143, 0, 0, 0, 0, 0, 0, 1, 4, 0, 0, 1), addr(group)...), mld, wire.Truncated, 8},
		{"mldv2 too many records", raw(143, 0, 0, 0, 0, 0, 0xff, 0xff), mld, wire.TooManyOptions, 6},
		{"mldv2 too many sources", with(raw(143, 0, 0, 0, 0, 0, 0, 1, 4, 0, 0xff, 0xff), addr(group)...), mld, wire.TooManyOptions, 10},
		{"query of neither version", make([]byte, 26), mld, wire.BadLength, 26},
		{"long advertisement interval", with(ra, with(raw(7, 2), make([]byte, 14)...)...), ok, wire.BadOptionLength, 16},
		{"long home agent information", with(ra, with(raw(8, 2), make([]byte, 14)...)...), ok, wire.BadOptionLength, 16},
		{"dhaad request cut", raw(144, 0, 0, 0, 0, 1, 0), far, wire.Truncated, 7},
		{"dhaad request with a code", raw(144, 1, 0, 0, 0, 1, 0, 0), far, wire.BadValue, 1},
		{"dhaad request from nowhere", raw(144, 0, 0, 0, 0, 1, 0, 0), Envelope{Src: none, Dst: anycast, HopLimit: 9}, wire.BadSource, 0},
		{"dhaad request from a group", raw(144, 0, 0, 0, 0, 1, 0, 0), Envelope{Src: group, Dst: anycast, HopLimit: 9}, wire.BadSource, 0},
		{"dhaad reply cut", raw(145, 0, 0, 0, 0), far, wire.Truncated, 5},
		{"dhaad reply with half an address", with(raw(145, 0, 0, 0, 0, 1, 0, 0), make([]byte, 24)...), far, wire.BadLength, 24},
		{"dhaad reply with a mapped address", with(raw(145, 0, 0, 0, 0, 1, 0, 0), addr(netip.MustParseAddr("::ffff:10.0.0.1"))...), far, wire.BadValue, 8},
		{"mps cut", raw(146, 0, 0, 0, 0, 1, 0), far, wire.Truncated, 7},
		{"mps with an option of length 0", raw(146, 0, 0, 0, 0, 1, 0, 0, 9, 0, 0, 0, 0, 0, 0, 0), far, wire.BadOptionLength, 9},
		{"mpa cut", raw(147, 0, 0, 0, 0, 1), far, wire.Truncated, 6},
		{"mpa with a short prefix", raw(147, 0, 0, 0, 0, 1, 0, 0, 3, 1, 64, 0, 0, 0, 0, 0), far, wire.BadOptionLength, 8},
		{"mpa with a prefix of 129", with(raw(147, 0, 0, 0, 0, 1, 0, 0), with(raw(3, 4, 129), make([]byte, 29)...)...), far, wire.BadPrefixLength, 10},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := bytes.Clone(c.b)
			if c.name == "query of neither version" {
				b[0] = TypeMLDQuery
			}
			_, err := Parse(seal(b, c.e.Src, c.e.Dst), c.e)
			var e *wire.Error
			if !errors.As(err, &e) || e.Reason != c.want || e.Off != c.off {
				t.Errorf("got %v, want %s at octet %d", err, c.want, c.off)
			}
		})
	}
}

// Options that a message has no use for are kept as they are, however wrong they are (RFC 4861 6.1.1, 7.1.1, 7.1.2).
func TestOptionsOfOtherMessages(t *testing.T) {
	prefix, mtu, source, target := []byte{3, 1, 200, 0, 0, 0, 0, 0}, []byte{5, 1, 0, 0, 0, 0, 5, 0xdc}, []byte{1, 1, 2, 0, 0, 0, 0, 1}, []byte{2, 1, 2, 0, 0, 0, 0, 1}
	long := append([]byte{1, 2}, make([]byte, 14)...)
	ns := append([]byte{135, 0, 0, 0, 0, 0, 0, 0}, router.AsSlice()...)
	na := append([]byte{136, 0, 0, 0, 0, 0, 0, 0}, router.AsSlice()...)
	for _, c := range []struct {
		name    string
		message []byte
		options [][]byte
		own     Option
	}{
		{"rs", []byte{133, 0, 0, 0, 0, 0, 0, 0}, [][]byte{prefix, mtu, target, source}, SourceLinkLayer{2, 0, 0, 0, 0, 1}},
		{"ns", ns, [][]byte{prefix, mtu, target, source}, SourceLinkLayer{2, 0, 0, 0, 0, 1}},
		{"na", na, [][]byte{prefix, mtu, long, target}, TargetLinkLayer{2, 0, 0, 0, 0, 1}},
	} {
		b := append(bytes.Clone(c.message), bytes.Join(c.options, nil)...)
		binary.BigEndian.PutUint16(b[2:], checksum(b, host, router))
		m, err := Parse(b, Envelope{Src: host, Dst: router, HopLimit: HopLimit})
		if err != nil {
			t.Errorf("%s: %v", c.name, err)
			continue
		}
		var got Options
		switch m := m.(type) {
		case *RouterSolicitation:
			got = m.Options
		case *NeighborSolicitation:
			got = m.Options
		case *NeighborAdvertisement:
			got = m.Options
		}
		for i, o := range got {
			_, raw := o.(*RawOption)
			if last := i == len(got)-1; last && o != c.own || !last && !raw {
				t.Errorf("%s: option %d is %#v", c.name, i, o)
			}
		}
		if back, err := Append(nil, m, host, router); err != nil || !bytes.Equal(back, b) {
			t.Errorf("%s: written back as %x, %v", c.name, back, err)
		}
	}
}

func TestBadChecksum(t *testing.T) {
	b, err := Append(nil, &RouterSolicitation{}, host, AllRouters)
	if err != nil {
		t.Fatal(err)
	}
	// The checksum covers the addresses too.
	for _, e := range []Envelope{{Src: host, Dst: AllNodes, HopLimit: 255}, {Src: router, Dst: AllRouters, HopLimit: 255}} {
		if _, err := Parse(b, e); !errors.Is(err, wire.BadChecksum) {
			t.Errorf("%v: %v", e, err)
		}
	}
	for i := range b {
		bad := bytes.Clone(b)
		bad[i] ^= 0x10
		if i == 0 {
			continue // another type
		}
		if _, err := Parse(bad, Envelope{Src: host, Dst: AllRouters, HopLimit: 255}); !errors.Is(err, wire.BadChecksum) {
			t.Errorf("octet %d changed: %v", i, err)
		}
	}
}

func TestAppendRefuses(t *testing.T) {
	v4 := netip.MustParseAddr("10.0.0.1")
	opt := func(o Option) Message { return &RouterAdvertisement{Options: Options{o}} }
	for _, c := range []struct {
		name string
		m    Message
		want wire.Reason
	}{
		{"ipv4 target", &NeighborSolicitation{Target: v4}, wire.BadValue},
		{"no target", &NeighborAdvertisement{}, wire.BadValue},
		{"redirect without target", &Redirect{}, wire.BadValue},
		{"redirect without destination", &Redirect{Target: host}, wire.BadValue},
		{"ipv4 prefix", opt(&PrefixInformation{Prefix: netip.MustParsePrefix("10.0.0.0/8")}), wire.BadValue},
		{"no prefix", opt(&PrefixInformation{}), wire.BadValue},
		{"no server", opt(&RDNSS{}), wire.BadLength},
		{"too many servers", opt(&RDNSS{Servers: make([]netip.Addr, 128)}), wire.BadLength},
		{"no domain", opt(&DNSSL{}), wire.BadLength},
		{"empty label", opt(&DNSSL{Domains: []string{"a..b"}}), wire.BadValue},
		{"empty name", opt(&DNSSL{Domains: []string{"."}}), wire.BadValue},
		{"raw option of odd size", opt(&RawOption{Type: 9, Data: []byte{1}}), wire.BadOptionLength},
		{"mldv1 with two groups", &MLDReport{Version: 1, Records: make([]MLDRecord, 2)}, wire.BadLength},
		{"mldv2 with too many", &MLDReport{Version: 2, Records: make([]MLDRecord, 257)}, wire.TooManyOptions},
		{"mldv2 with too many sources", &MLDReport{Version: 2, Records: []MLDRecord{{Group: group, Sources: make([]netip.Addr, 1025)}}}, wire.TooManyOptions},
		{"mldv2 without group", &MLDReport{Version: 2, Records: []MLDRecord{{}}}, wire.BadValue},
	} {
		b, err := Append([]byte{1, 2}, c.m, host, router)
		if !errors.Is(err, c.want) || !bytes.Equal(b, []byte{1, 2}) {
			t.Errorf("%s: %x, %v, want %s", c.name, b, err, c.want)
		}
	}
}

func TestSolicitedNode(t *testing.T) {
	if got := SolicitedNode(netip.MustParseAddr("2001:db8::a1b2:c3d4")); got != netip.MustParseAddr("ff02::1:ffb2:c3d4") {
		t.Error(got)
	}
}

func TestRouterAlert(t *testing.T) {
	h := ip.Header{Src: host, Dst: AllMLDv2, Proto: ip.HopByHop, TTL: 1}
	pkt := func(next uint8, ext ...byte) []byte {
		h.Proto = next
		b, err := h.Append(nil, len(ext))
		if err != nil {
			t.Fatal(err)
		}
		return append(b, ext...)
	}
	for _, c := range []struct {
		name string
		pkt  []byte
		want bool
	}{
		{"ours", pkt(ip.HopByHop, AppendRouterAlert(nil, ip.ICMPv6)...), true},
		{"padding first", pkt(ip.HopByHop, 58, 0, 0, 0, 5, 2, 0, 0), true},
		{"padn first", pkt(ip.HopByHop, 58, 1, 1, 6, 0, 0, 0, 0, 0, 0, 5, 2, 0, 0, 0, 0), true},
		{"rsvp", pkt(ip.HopByHop, 58, 0, 5, 2, 0, 1, 1, 0), false},
		{"only padding", pkt(ip.HopByHop, 58, 0, 1, 4, 0, 0, 0, 0), false},
		{"destination options", pkt(ip.DstOpts, AppendRouterAlert(nil, ip.ICMPv6)...), false},
		{"cut", pkt(ip.HopByHop, 58, 0, 5, 2), false},
		{"longer than the packet", pkt(ip.HopByHop, 58, 9, 5, 2, 0, 0, 1, 0), false},
		{"option beyond the end", pkt(ip.HopByHop, 58, 0, 1, 9, 5, 2, 0, 0), false},
		{"no header", pkt(ip.ICMPv6), false},
	} {
		if got := HasRouterAlert(c.pkt); got != c.want {
			t.Errorf("%s: %v", c.name, got)
		}
	}
}

// vectors are the ICMPv6 messages of real hosts and routers.
func vectors(tb testing.TB) (list []struct {
	b []byte
	e Envelope
}) {
	for _, f := range testpcap.Read(tb, "../../testdata/vectors/access-clients.pcap") {
		h, err := ip.Parse(f[14:])
		if err != nil || h.Is4() {
			continue
		}
		pkt := f[14 : 14+h.Len]
		u, err := ip.FindUpper(pkt, &h)
		if err != nil || u.Proto != ip.ICMPv6 {
			continue
		}
		list = append(list, struct {
			b []byte
			e Envelope
		}{pkt[u.Off:], Envelope{Src: h.Src, Dst: h.Dst, HopLimit: h.TTL, RouterAlert: HasRouterAlert(pkt)}})
	}
	return list
}

// What the kernel, radvd and dhcpcd sent is read, and written back octet by octet.
func TestVectors(t *testing.T) {
	seen := map[string]int{}
	for i, v := range vectors(t) {
		m, err := Parse(v.b, v.e)
		if err != nil {
			t.Errorf("message %d: %v", i, err)
			continue
		}
		seen[Name(v.b[0])]++
		again, err := Append(nil, m, v.e.Src, v.e.Dst)
		if err != nil || !bytes.Equal(again, v.b) {
			t.Errorf("message %d, %s:\n%x became\n%x, %v", i, Name(v.b[0]), v.b, again, err)
		}
	}
	for _, name := range []string{
		"Router Solicitation", "Router Advertisement", "Neighbor Solicitation", "Neighbor Advertisement", "Version 2 Multicast Listener Report",
	} {
		if seen[name] == 0 {
			t.Errorf("the capture holds no %s: %v", name, seen)
		}
	}
}

func FuzzParse(f *testing.F) {
	for _, s := range samples {
		b, err := Append(nil, s.m, s.src, s.dst)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b, slices.Contains([]netip.Addr{none}, s.src), s.dst.IsMulticast())
	}
	for _, v := range vectors(f) {
		f.Add(v.b, v.e.Src == none, v.e.Dst.IsMulticast())
	}
	f.Fuzz(func(t *testing.T, b []byte, fromNowhere, toGroup bool) {
		e := Envelope{Src: host, Dst: router, HopLimit: HopLimit, RouterAlert: true}
		if fromNowhere {
			e.Src = none
		}
		if toGroup {
			e.Dst = group
		}
		if len(b) > 0 && Name(b[0]) != "" && b[0] >= TypeMLDQuery && (b[0] <= TypeMLDDone || b[0] == TypeMLDv2Report) {
			e.HopLimit = MLDHopLimit
		}
		m, err := Parse(seal(bytes.Clone(b), e.Src, e.Dst), e)
		if err != nil {
			var w *wire.Error
			if !errors.As(err, &w) || w.Reason == "" {
				t.Fatalf("%v is no wire.Error with a reason", err)
			}
			return
		}
		again, err := Append(nil, m, e.Src, e.Dst)
		if err != nil {
			t.Fatalf("%+v cannot be written: %v", m, err)
		}
		got, err := Parse(again, e)
		if err != nil {
			t.Fatalf("%x: %v", again, err)
		}
		if d := cmp.Diff(m, got, compare); d != "" {
			t.Fatal(d)
		}
	})
}
