package ip

import (
	"bytes"
	"errors"
	"net/netip"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"kedge/internal/testpcap"
	"kedge/wire"
)

var (
	hoa6 = netip.MustParseAddr("2001:db8:ff::5")
	own6 = netip.MustParseAddr("2001:db8:fe::7")
)

// signal builds a packet from a6 to b6.
func signal(t testing.TB, s Signal, payload []byte) []byte {
	t.Helper()
	s.Src, s.Dst = a6, b6
	b, err := AppendSignal(nil, &s, 64, len(payload))
	if err != nil {
		t.Fatal(err)
	}
	return append(b, payload...)
}

// TestSignalBytes: the formats of RFC 6275 6.3 and 6.4.1, in the order of RFC 4877 3.
func TestSignalBytes(t *testing.T) {
	const rh2 = "%s 02 02 01 00000000 20010db800ff00000000000000000005"
	const hao = "%s 02 0102 0000 c910 20010db800fe00000000000000000007"
	head := func(next, n string) string {
		return "60000000 " + n + next + "40 20010db8000a00000000000000000001 20010db8000a00000000000000000011 "
	}
	put := func(f, next string) string { return strings.Replace(f, "%s", next, 1) }
	for _, c := range []struct {
		name string
		s    Signal
		want string
	}{
		{"plain", Signal{Proto: Mobility}, head("87", "0004") + "01020304"},
		{"routing header", Signal{Proto: ESP, DstHome: hoa6}, head("2b", "001c") + put(rh2, "32") + "01020304"},
		{"Home Address option", Signal{Proto: ESP, SrcHome: own6}, head("3c", "001c") + put(hao, "32") + "01020304"},
		{"both", Signal{Proto: Mobility, SrcHome: own6, DstHome: hoa6}, head("2b", "0034") + put(rh2, "3c") + put(hao, "87") + "01020304"},
	} {
		got := signal(t, c.s, []byte{1, 2, 3, 4})
		if want := unhex(t, c.want); !bytes.Equal(got, want) {
			t.Errorf("%s:\n got %x\nwant %x", c.name, got, want)
		}
		if at := bytes.Index(got, []byte{OptHomeAddress, 16}); c.s.SrcHome.IsValid() && (at-IPv6Len)%8 != 6 {
			t.Errorf("%s: the option is at octet %d, want 8n+6", c.name, at)
		}
		want := c.s
		want.Src, want.Dst, want.Len, want.Off = a6, b6, len(got), len(got)-4
		back, err := ParseSignal(append(got, 0xff, 0xff)) // link padding
		if err != nil || back != want {
			t.Errorf("%s: parsed %+v, %v", c.name, back, err)
		}
		src, dst := back.Ends()
		if (src == own6) != c.s.SrcHome.IsValid() || (dst == hoa6) != c.s.DstHome.IsValid() {
			t.Errorf("%s: ends %s, %s", c.name, src, dst)
		}
	}
}

// ext is an extension header without its first octet.
func ext(kind uint8, rest ...byte) []byte { return append([]byte{kind}, rest...) }

// chained puts extension headers, each beginning with its own number, before octets of a protocol.
func chained(t testing.TB, final uint8, payload []byte, hdrs ...[]byte) []byte {
	first, body := final, []byte(nil)
	for i := len(hdrs) - 1; i >= 0; i-- {
		body = append(append([]byte{first}, hdrs[i][1:]...), body...)
		first = hdrs[i][0]
	}
	body = append(body, payload...)
	return packet(t, Header{Src: a6, Dst: b6, Proto: first, TTL: 64}, body)
}

func routing(n, typ, left byte, home netip.Addr) []byte {
	a := home.As16()
	b := append(ext(Routing, n, typ, left, 0, 0, 0, 0), a[:]...)
	return append(b, make([]byte, max(0, 8*(int(n)-2)))...)[:8+8*int(n)]
}

func options(o ...byte) []byte {
	b := append(ext(DstOpts, 0), o...)
	for len(b)%8 != 0 {
		b = append(b, 0)
	}
	b[1] = byte(len(b)/8 - 1)
	return b
}

func homeOption(home netip.Addr) []byte {
	a := home.As16()
	return append([]byte{1, 2, 0, 0, OptHomeAddress, 16}, a[:]...)
}

func TestParseSignalAccepts(t *testing.T) {
	mh := []byte{59, 0, 5, 0, 0, 0, 0, 0}
	a := own6.As16()
	for _, c := range []struct {
		name string
		pkt  []byte
		want Signal
	}{
		{"Home Address option not aligned", chained(t, ESP, mh, options(append([]byte{OptHomeAddress, 16}, a[:]...)...)), Signal{SrcHome: own6, Proto: ESP}},
		{"behind another option", chained(t, Mobility, mh, options(append([]byte{4, 1, 3, 0}, append([]byte{OptHomeAddress, 16}, a[:]...)...)...)), Signal{SrcHome: own6, Proto: Mobility}},
		{"unknown option to be skipped", chained(t, Mobility, mh, options(0x1e, 2, 9, 9)), Signal{Proto: Mobility}},
		{"hop-by-hop", chained(t, Mobility, mh, ext(HopByHop, 0, 5, 2, 0, 0, 1, 0), routing(2, 2, 1, hoa6)), Signal{DstHome: hoa6, Proto: Mobility}},
		{"other routing header with nothing left, then type 2", chained(t, Mobility, mh, routing(2, 4, 0, hoa6), routing(2, 2, 1, hoa6)), Signal{DstHome: hoa6, Proto: Mobility}},
		{"atomic fragment", chained(t, Mobility, mh, options(homeOption(own6)...), ext(Fragment, 0, 0, 0, 1, 2, 3, 4)), Signal{SrcHome: own6, Proto: Mobility}},
		{"fragment", chained(t, Mobility, mh, options(homeOption(own6)...), ext(Fragment, 0, 0, 1, 1, 2, 3, 4)), Signal{SrcHome: own6, Proto: Mobility, Fragment: true}},
		{"later fragment", chained(t, DstOpts, mh, ext(Fragment, 0, 0, 8, 1, 2, 3, 4)), Signal{Proto: DstOpts, Fragment: true}},
		{"Home Address option and other upper layers", chained(t, TCP, mh, options(homeOption(own6)...)), Signal{SrcHome: own6, Proto: TCP}},
	} {
		c.want.Src, c.want.Dst, c.want.Len, c.want.Off = a6, b6, len(c.pkt), len(c.pkt)-len(mh)
		if got, err := ParseSignal(c.pkt); err != nil || got != c.want {
			t.Errorf("%s: %v\n%s", c.name, err, cmp.Diff(c.want, got, cmp.Comparer(func(a, b netip.Addr) bool { return a == b })))
		}
	}
}

func TestParseSignalRefuses(t *testing.T) {
	mh := []byte{59, 0, 5, 0, 0, 0, 0, 0}
	good := signal(t, Signal{Proto: Mobility, SrcHome: own6, DstHome: hoa6}, mh)
	to := func(p []byte, dst netip.Addr) []byte {
		d := dst.As16()
		copy(p[24:], d[:])
		return p
	}
	many := make([][]byte, 11)
	for i := range many {
		many[i] = options()
	}
	addr := netip.MustParseAddr
	for _, c := range []struct {
		name   string
		pkt    []byte
		want   wire.Reason
		answer string // pointer of a Parameter Problem with its code, or status of a Binding Error
	}{
		{"nothing", nil, wire.Truncated, ""},
		{"IPv4", packet(t, Header{Src: a4, Dst: b4, Proto: IPv6, TTL: 3}, good), wire.BadValue, ""},
		{"cut", good[:len(good)-1], wire.Truncated, ""},
		{"cut in an extension header", chained(t, Mobility, nil, options())[:44], wire.Truncated, ""},
		{"extension header longer than the packet", chained(t, Mobility, mh, ext(DstOpts, 9, 1, 4, 0, 0, 0, 0)), wire.Truncated, ""},
		{"too many extension headers", chained(t, Mobility, mh, many...), wire.TooManyOptions, ""},
		{"hop-by-hop not first", chained(t, Mobility, mh, options(), ext(HopByHop, 0, 1, 4, 0, 0, 0, 0)), wire.BadValue, ""},
		{"option longer than its header", chained(t, Mobility, mh, ext(DstOpts, 0, 1, 5, 0, 0, 0, 0)), wire.BadOptionLength, ""},
		{"option without length", chained(t, Mobility, mh, ext(DstOpts, 0, 1, 3, 0, 0, 0, 0x1e)), wire.BadOptionLength, ""},
		{"Home Address option of 15", chained(t, Mobility, mh, options(append([]byte{1, 2, 0, 0, OptHomeAddress, 15}, make([]byte, 15)...)...)), wire.BadOptionLength, ""},
		{"two Home Address options", chained(t, Mobility, mh, options(homeOption(own6)...), options(homeOption(hoa6)...)), wire.DuplicateOption, ""},
		{"Home Address option before the routing header", chained(t, Mobility, mh, options(homeOption(own6)...), routing(2, 2, 1, hoa6)), wire.BadValue, ""},
		{"multicast home address", chained(t, Mobility, mh, options(homeOption(addr("ff02::1"))...)), wire.NotUnicast, "status 1"},
		{"home address ::", chained(t, Mobility, mh, options(homeOption(addr("::"))...)), wire.NotUnicast, "status 1"},
		{"home address ::1", chained(t, Mobility, mh, options(homeOption(addr("::1"))...)), wire.NotUnicast, "status 1"},
		{"link-local home address", chained(t, Mobility, mh, options(homeOption(addr("fe80::1"))...)), wire.NotUnicast, "status 1"},
		{"mapped home address", chained(t, Mobility, mh, options(homeOption(addr("::ffff:192.0.2.1"))...)), wire.NotUnicast, "status 1"},
		{"routing header too short", chained(t, Mobility, mh, routing(1, 2, 1, hoa6)), wire.BadLength, ""},
		{"routing header of two addresses", chained(t, Mobility, mh, routing(4, 2, 1, hoa6)), wire.BadLength, ""},
		{"no segments left", chained(t, Mobility, mh, routing(2, 2, 0, hoa6)), wire.BadValue, ""},
		{"two segments left", chained(t, Mobility, mh, routing(2, 2, 2, hoa6)), wire.BadValue, ""},
		{"two routing headers", chained(t, Mobility, mh, routing(2, 2, 1, hoa6), routing(2, 2, 1, own6)), wire.DuplicateOption, ""},
		{"routed to multicast", chained(t, Mobility, mh, routing(2, 2, 1, addr("ff02::1"))), wire.NotUnicast, ""},
		{"routed to ::", chained(t, Mobility, mh, routing(2, 2, 1, addr("::"))), wire.NotUnicast, ""},
		{"routed to the link", chained(t, Mobility, mh, routing(2, 2, 1, addr("fe80::1"))), wire.NotUnicast, ""},
		{"routed to a mapped address", chained(t, Mobility, mh, routing(2, 2, 1, addr("::ffff:192.0.2.1"))), wire.NotUnicast, ""},
		{"routing header of another type", chained(t, Mobility, mh, options(), routing(2, 0, 1, hoa6)), wire.UnknownType, "code 0 at 50"},
		{"option that forbids to go on", chained(t, Mobility, mh, options(1, 0, 0x40, 0)), wire.UnknownType, ""},
		{"option that wants an answer", chained(t, Mobility, mh, options(1, 0, 0x80, 0)), wire.UnknownType, "code 2 at 44"},
		{"option that wants an answer to unicast", chained(t, Mobility, mh, options(0xc7, 0)), wire.UnknownType, "code 2 at 42"},
		{"the same to multicast", to(chained(t, Mobility, mh, options(0xc7, 0)), addr("ff02::1")), wire.UnknownType, ""},
		{"hop-by-hop option that forbids to go on", chained(t, Mobility, mh, ext(HopByHop, 0, 0xc7, 4, 0, 0, 0, 0)), wire.UnknownType, ""},
		{"Home Address option among hop-by-hop", chained(t, Mobility, mh, append(ext(HopByHop, 2), homeOption(own6)...)), wire.UnknownType, ""},
	} {
		_, err := ParseSignal(c.pkt)
		var bad *wire.Error
		if !errors.Is(err, c.want) || !errors.As(err, &bad) {
			t.Errorf("%s: %v, want %v", c.name, err, c.want)
			continue
		}
		answer := ""
		switch {
		case bad.ParameterProblem:
			answer = "code " + string('0'+rune(bad.Status)) + " at " + string('0'+rune(bad.Off/10)) + string('0'+rune(bad.Off%10))
		case bad.Status != 0:
			answer = "status " + string('0'+rune(bad.Status))
		}
		if answer != c.answer {
			t.Errorf("%s: answer %q, want %q", c.name, answer, c.answer)
		}
	}
}

func TestAppendSignalRefuses(t *testing.T) {
	for name, s := range map[string]Signal{
		"IPv4":                   {Src: a4, Dst: b4},
		"no addresses":           {},
		"link-local home":        {Src: a6, Dst: b6, SrcHome: netip.MustParseAddr("fe80::1")},
		"routed to multicast":    {Src: a6, Dst: b6, DstHome: netip.MustParseAddr("ff02::1")},
		"mapped home address":    {Src: a6, Dst: b6, DstHome: netip.MustParseAddr("::ffff:192.0.2.1")},
		"IPv4 as a home address": {Src: a6, Dst: b6, SrcHome: a4},
	} {
		if b, err := AppendSignal([]byte{1}, &s, 64, 8); err == nil || len(b) != 1 {
			t.Errorf("%s: %x, %v", name, b, err)
		}
	}
	s := Signal{Src: a6, Dst: b6, SrcHome: own6, DstHome: hoa6, Proto: Mobility}
	if _, err := AppendSignal(nil, &s, 64, MaxPacket-HomeAddressLen-Routing2Len+1); !errors.Is(err, wire.TooLong) {
		t.Errorf("a packet too long: %v", err)
	}
	b, err := AppendSignal(nil, &s, 64, MaxPacket-HomeAddressLen-Routing2Len)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := ParseSignal(append(b, make([]byte, MaxPacket-HomeAddressLen-Routing2Len)...)); err != nil || got.Off != len(b) {
		t.Errorf("the longest packet: %+v, %v", got, err)
	}
}

// TestSignalOfUMIP: the packets of another implementation, with both headers; ours are the same octets.
func TestSignalOfUMIP(t *testing.T) {
	for _, name := range []string{"umip-noipsec-brh.pcap", "umip-ro-all.pcap", "umip-esp-all.pcap"} {
		homes, routed := 0, 0
		for i, f := range testpcap.Read(t, filepath.Join("../../testdata/vectors", name)) {
			if len(f) < 54 || f[12] != 0x86 || f[13] != 0xdd {
				continue
			}
			s, err := ParseSignal(f[14:])
			if err != nil {
				t.Errorf("%s, frame %d: %v", name, i+1, err)
				continue
			}
			if !s.SrcHome.IsValid() && !s.DstHome.IsValid() {
				continue
			}
			if s.SrcHome.IsValid() {
				homes++
			}
			if s.DstHome.IsValid() {
				routed++
			}
			pkt := f[14 : 14+s.Len]
			again, err := AppendSignal(nil, &s, pkt[7], s.Len-s.Off)
			// Traffic Class and Flow Label are the sender's choice, and so are the octets of its padding.
			if err != nil || !bytes.Equal(again[4:40], pkt[4:40]) || len(again) != s.Off {
				t.Errorf("%s, frame %d: %v\n ours %x\n UMIP %x", name, i+1, err, again, pkt[:s.Off])
			}
		}
		if homes < 2 || routed < 2 {
			t.Errorf("%s: %d Home Address options, %d routing headers", name, homes, routed)
		}
	}
}

func TestSignalRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		any6 := rapid.Custom(func(t *rapid.T) netip.Addr {
			b := [16]byte(rapid.SliceOfN(rapid.Byte(), 16, 16).Draw(t, "octets"))
			b[0] = 0x20
			return netip.AddrFrom16(b)
		})
		s := Signal{Src: any6.Draw(t, "src"), Dst: any6.Draw(t, "dst"), Proto: rapid.SampledFrom([]uint8{Mobility, ESP, ICMPv6}).Draw(t, "proto")}
		if rapid.Bool().Draw(t, "home") {
			s.SrcHome = any6.Draw(t, "HAO")
		}
		if rapid.Bool().Draw(t, "routed") {
			s.DstHome = any6.Draw(t, "RH2")
		}
		n := rapid.IntRange(0, 3000).Draw(t, "octets")
		b, err := AppendSignal(nil, &s, 64, n)
		if err != nil {
			t.Fatal(err)
		}
		s.Off, s.Len = len(b), len(b)+n
		if got, err := ParseSignal(append(b, make([]byte, n)...)); err != nil || got != s {
			t.Fatalf("%+v became %+v, %v", s, got, err)
		}
	})
}

func TestSignalAllocatesNothing(t *testing.T) {
	pkt := signal(t, Signal{Proto: Mobility, SrcHome: own6, DstHome: hoa6}, make([]byte, 32))
	bad := chained(t, Mobility, make([]byte, 8), routing(2, 2, 2, hoa6))
	buf := make([]byte, 0, 256)
	s, err := ParseSignal(pkt)
	if err != nil {
		t.Fatal(err)
	}
	if n := testing.AllocsPerRun(100, func() {
		_, _ = ParseSignal(pkt)
		_, _ = ParseSignal(bad)
		_, _ = AppendSignal(buf, &s, 64, 32)
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

// FuzzParseSignal: no panic; what is accepted lies inside the packet, and what the headers say can be built again.
func FuzzParseSignal(f *testing.F) {
	mh := []byte{59, 0, 5, 0, 0, 0, 0, 0}
	for _, s := range []Signal{{Proto: Mobility}, {Proto: ESP, SrcHome: own6}, {Proto: Mobility, DstHome: hoa6}, {Proto: ESP, SrcHome: own6, DstHome: hoa6}} {
		f.Add(signal(f, s, mh))
	}
	f.Add(chained(f, Mobility, mh, options(homeOption(own6)...), ext(Fragment, 0, 0, 1, 1, 2, 3, 4)))
	f.Add(chained(f, Mobility, mh, routing(2, 4, 0, hoa6), routing(2, 2, 1, hoa6), options(0x1e, 2, 9, 9)))
	for _, name := range []string{"umip-noipsec-brh.pcap", "umip-esp-all.pcap"} {
		for _, frame := range testpcap.Read(f, filepath.Join("../../testdata/vectors", name)) {
			if len(frame) > 14 {
				f.Add(frame[14:])
			}
		}
	}
	f.Fuzz(func(t *testing.T, pkt []byte) {
		s, err := ParseSignal(pkt)
		if err != nil {
			var bad *wire.Error
			if !errors.As(err, &bad) || bad.Reason == "" || bad.ParameterProblem && bad.Off >= len(pkt) {
				t.Fatalf("%#v", err)
			}
			return
		}
		if s.Off < IPv6Len || s.Off > s.Len || s.Len > len(pkt) {
			t.Fatalf("%+v of %d octets", s, len(pkt))
		}
		for _, a := range []netip.Addr{s.SrcHome, s.DstHome} {
			if a.IsValid() && !Routable(a) {
				t.Fatalf("%+v", s)
			}
		}
		if s.Fragment || s.Len-s.Off > MaxPacket-HomeAddressLen-Routing2Len {
			return
		}
		b, err := AppendSignal(nil, &s, 1, s.Len-s.Off)
		if err != nil {
			t.Fatal(err)
		}
		want := s
		want.Off, want.Len = len(b), len(b)+s.Len-s.Off
		// An upper layer that is an extension header by its number was not one here.
		if got, err := ParseSignal(append(b, pkt[s.Off:s.Len]...)); err != nil || got != want {
			t.Fatalf("%+v became %+v, %v", want, got, err)
		}
	})
}
