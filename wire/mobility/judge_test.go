package mobility

import (
	"encoding/hex"
	"fmt"
	"net/netip"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"kedge/internal/spec"
	"kedge/internal/testpcap"
)

// allValues are all typed options, each layout of each once. None has a value that is easy to mistake for another's.
func allValues() []Value {
	v6, v4 := netip.MustParseAddr, netip.MustParseAddr
	return []Value{
		MobileNodeID{SubtypeNAI, "020000000001@example.com"},
		ServiceSelection{"ims"},
		HomeNetworkPrefix{netip.MustParsePrefix("2001:db8:100:1::/64")},
		HomeNetworkPrefix{netip.MustParsePrefix("::/0")},
		HandoffIndicator{HandoffGateways},
		AccessTechnology{AccessEthernet},
		LinkLayerID{[]byte{2, 0, 0, 0, 0, 1}},
		LinkLocalAddress{v6("fe80::2:1")},
		Timestamp{uint64(1_700_000_000)<<16 | 0x8000},
		IPv4HomeAddress{24, false, v4("10.1.0.7"), 0},
		IPv4HomeAddress{32, true, v4("0.0.0.0"), 0},
		IPv4AddressAck{AddressAccepted, 22, v4("10.1.0.8"), 0},
		IPv4AddressAck{DynamicAddressNotAvailable, 0, v4("0.0.0.0"), 0},
		NATDetection{true, 110},
		IPv4CareOf{v4("192.0.2.1")},
		GREKey{Key: 0x01020304},
		GREKey{NoKey: true},
		IPv4HomeAddressRequest{0, v4("0.0.0.0")},
		IPv4HomeAddressReply{AddressAccepted, 23, v4("10.1.0.9")},
		IPv4DefaultRouter{v4("10.1.0.1")},
		IPv4DHCPSupportMode{true},
		MobileNetworkPrefix{netip.MustParsePrefix("2001:db8:200::/56")},
		VendorSpecific{32473, 9, []byte{0xde, 0xad}},
		BindingRefreshAdvice{77},
		AlternateCareOf{v6("2001:db8:f::2")},
		NonceIndices{0x0102, 0x0304},
		RestartCounter{41},
		MessageID{uint64(3_900_000_000) << 32},
		Authentication{SubtypeMNHA, 0x11223344, []byte{1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12}},
		BindingAuthorization{[]byte{0xa1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 0xac}},
	}
}

const oddNAI = "Mobile Node Identifier (with option length = 1 byte; should be >= 2)"

// example is a message and what tshark must say about it, without its options.
type example struct {
	m      Message
	fields [][2]string
}

// examples are all messages, each with every option that fits: the two dialects of proxy registration first.
func examples() []example {
	v4, hnp := netip.MustParseAddr, netip.MustParsePrefix("2001:db8:100:1::/64")
	proxy := []Value{MobileNodeID{SubtypeNAI, "020000000001@example.com"}, HomeNetworkPrefix{hnp}, HandoffIndicator{HandoffUnknown},
		AccessTechnology{AccessEthernet}, LinkLayerID{[]byte{2, 0, 0, 0, 0, 1}}, LinkLocalAddress{netip.MustParseAddr("fe80::2:1")},
		TimestampOf(time.Unix(1_700_000_000, 250_000_000))}
	with := func(base int, vs ...Value) Options { return Options(nil).AddAt(base, vs...) }
	cookie, token := [8]byte{1, 2, 3, 4, 5, 6, 7, 8}, [8]byte{0xf1, 2, 3, 4, 5, 6, 7, 0xf8}
	heartbeat := func(u, r, seq string) [][2]string {
		return [][2]string{{"mip6.hb.u_flag", u}, {"mip6.hb.r_flag", r}, {"mip6.hb.seqnr", seq}}
	}
	all := allValues()
	return []example{
		{&BindingUpdate{0x1234, BUAck | BUProxy, 900, with(12, append(proxy, IPv4HomeAddress{24, false, v4("10.1.0.7"), 0})...)}, update("4660", "AP", "900")},
		{&BindingAck{Accepted, BAProxy, 0x1234, 900, with(12, append(proxy, IPv4AddressAck{AddressAccepted, 24, v4("10.1.0.7"), 0})...)}, ack("0", "P", "4660", "900")},
		{&BindingUpdate{2, BUAck | BUProxy, 0xffff, with(12, append(proxy, IPv4HomeAddressRequest{0, v4("0.0.0.0")})...)}, update("2", "AP", "65535")},
		{&BindingAck{Accepted, BAProxy, 2, 1, with(12, append(proxy, IPv4HomeAddressReply{AddressAccepted, 24, v4("10.1.0.7")},
			IPv4DefaultRouter{v4("10.1.0.1")}, IPv4DHCPSupportMode{true})...)}, ack("0", "P", "2", "1")},
		// The zero-length identifier that RFC 5213 5.3.6 wants is the one thing that tshark finds odd.
		{&BindingAck{MissingMNIdentifierOption, BAProxy, 3, 0, with(12, MobileNodeID{Subtype: SubtypeNAI})}, append(ack("160", "P", "3", "0"),
			[2]string{"mip6.opt.len.invalid", "1"}, [2]string{"_ws.expert", "Expert Info (Warning/Protocol): " + oddNAI}, [2]string{"_ws.expert.message", oddNAI})},
		{&BindingUpdate{Sequence: 5, Flags: BUAck, Lifetime: 1}, update("5", "A", "1")},
		{&BindingUpdate{6, BUKnownFlags, 7, with(12, all...)}, update("6", "AHLKMRPFTB", "7")},
		{&BindingAck{MultipleIPv4HoANotSupported, BAKnownFlags, 6, 7, with(12, all...)}, ack("173", "KRPTB", "6", "7")},
		{&Heartbeat{Sequence: 0x89abcdef}, heartbeat("0", "0", "2309737967")},
		{&Heartbeat{false, true, 9, with(12, RestartCounter{41})}, heartbeat("0", "1", "9")},
		{&Heartbeat{true, true, 0, with(12, RestartCounter{0xffffffff})}, heartbeat("1", "1", "0")},
		{&Revocation{false, TriggerOutOfSync, 77, true, true, false, with(12, MobileNodeID{SubtypeNAI, "a@b"}, IPv4HomeAddressRequest{24, v4("10.1.0.7")})},
			[][2]string{{"mip6.bri_br.type", "1"}, {"mip6.bri_r.trigger", "7"}, {"mip6.bri_seqnr", "77"}, {"mip6.bri_ip", "1"}, {"mip6.bri_iv", "1"},
				{"mip6.bri_ig", "0"}, {"mip6.bri_res", "0x0000"}}},
		{&Revocation{true, RevocationNoBinding, 77, true, false, true, with(12, MobileNodeID{SubtypeNAI, "a@b"}, HomeNetworkPrefix{hnp})},
			[][2]string{{"mip6.bri_br.type", "2"}, {"mip6.bri_status", "128"}, {"mip6.bri_seqnr", "77"}, {"mip6.bri_ap", "1"}, {"mip6.bri_av", "0"},
				{"mip6.bri_ag", "1"}, {"mip6.bri_res", "0x0000"}}},
		{&BindingRefreshRequest{}, [][2]string{{"mip6.binding_refresh_request", "0000"}}},
		{&BindingRefreshRequest{with(8, all...)}, [][2]string{{"mip6.binding_refresh_request", "0000"}}},
		{&TestInit{false, cookie, with(16, all...)}, [][2]string{{"mip6.hoti.cookie", "0x0102030405060708"}}},
		{&TestInit{true, cookie, nil}, [][2]string{{"mip6.coti.cookie", "0x0102030405060708"}}},
		{&Test{false, 513, cookie, token, with(24, all...)}, [][2]string{{"mip6.hot.nindex", "513"}, {"mip6.hot.cookie", "0x0102030405060708"}, {"mip6.hot.token", "0xf1020304050607f8"}}},
		{&Test{true, 514, cookie, token, nil}, [][2]string{{"mip6.cot.nindex", "514"}, {"mip6.cot.cookie", "0x0102030405060708"}, {"mip6.hot.token", "0xf1020304050607f8"}}},
		{&BindingError{UnrecognizedMHType, netip.MustParseAddr("2001:db8:1::100"), with(24, all...)}, [][2]string{{"mip6.be.status", "2"}, {"mip6.be.haddr", "2001:db8:1::100"}}},
	}
}

func update(seq, flags, lifetime string) [][2]string {
	f := [][2]string{{"mip6.bu.seqnr", seq}, {"mip6.bu.lifetime", lifetime}}
	return append(f, flagFields(flags, "AHLKMRPFTB", "mip6.bu.", "mip6.nemo.bu.")...)
}

func ack(status, flags, seq, lifetime string) [][2]string {
	f := [][2]string{{"mip6.ba.status", status}, {"mip6.ba.seqnr", seq}, {"mip6.ba.lifetime", lifetime}}
	return append(f, flagFields(flags, "KRPTB", "mip6.ba.", "mip6.nemo.ba.")...)
}

// flagFields are tshark's names of flags: those of mobile routers lie elsewhere.
func flagFields(set, known, prefix, routers string) (f [][2]string) {
	for _, l := range known {
		p, value := prefix, "0"
		if l == 'R' {
			p = routers
		}
		if strings.ContainsRune(set, l) {
			value = "1"
		}
		f = append(f, [2]string{p + strings.ToLower(string(l)) + "_flag", value})
	}
	return f
}

// valueFields is what tshark must say about an option.
func valueFields(v Value) [][2]string {
	num := func(n any) string { return fmt.Sprint(n) }
	bit := func(b bool) string { return strconv.Itoa(int(b2u(b))) }
	switch v := v.(type) {
	case MobileNodeID:
		return [][2]string{{"mip6.mnid.subtype", num(v.Subtype)}, {"mip6.mnid.identifier", v.ID}}
	case ServiceSelection:
		return [][2]string{{"mip6.ss.identifier", v.Identifier}}
	case HomeNetworkPrefix:
		return [][2]string{{"mip6.nemo.mnp.pfl", num(v.Prefix.Bits())}, {"mip6.nemo.mnp.mnp", v.Prefix.Addr().String()}}
	case MobileNetworkPrefix:
		return [][2]string{{"mip6.nemo.mnp.pfl", num(v.Prefix.Bits())}, {"mip6.nemo.mnp.mnp", v.Prefix.Addr().String()}}
	case HandoffIndicator:
		return [][2]string{{"mip6.hi.reserved", "0"}, {"mip6.hi", num(v.Value)}}
	case AccessTechnology:
		return [][2]string{{"mip6.att.reserved", "0"}, {"mip6.att", num(v.Value)}}
	case LinkLayerID:
		return [][2]string{{"mip6.mnlli.reserved", "0"}, {"mip6.mnlli.lli", hex.EncodeToString(v.ID)}}
	case LinkLocalAddress:
		return [][2]string{{"mip6.lila_lla", v.Addr.String()}}
	case Timestamp:
		return [][2]string{{"mip6.timestamp_tmp", v.Time().Format(tsharkTime)}}
	case RestartCounter:
		return [][2]string{{"mip6.rc", num(v.Value)}}
	case IPv4HomeAddress:
		return [][2]string{{"mip6.ipv4ha.preflen", num(v.PrefixLen)}, {"mip6.ipv4ha.p_flag", bit(v.P)}, {"mip6.ipv4ha.ha", v.Addr.String()}}
	case IPv4AddressAck:
		return [][2]string{{"mip6.ipv4aa.sts", num(uint8(v.Status))}, {"mip6.ipv4ha.preflen", num(v.PrefixLen)}, {"mip6.ipv4ha.ha", v.Addr.String()}}
	case NATDetection:
		return [][2]string{{"mip6.natd.f_flag", bit(v.F)}, {"mip6.natd.reserved", "0"}, {"mip6.natd.refresh_t", num(v.Refresh)}}
	case IPv4CareOf:
		return [][2]string{{"mip6.ipv4coa.reserved", "0"}, {"mip6.ipv4coa.addr", v.Addr.String()}}
	case GREKey:
		if v.NoKey {
			return [][2]string{{"mip6.ipv4dra.reserved", "0"}} // tshark has one name for the reserved fields of options 33 and 38
		}
		return [][2]string{{"mip6.ipv4dra.reserved", "0"}, {"mip6.gre_key", num(v.Key)}}
	case IPv4HomeAddressRequest:
		return [][2]string{{"mip6.ipv4ha.preflen", num(v.PrefixLen)}, {"mip6.ipv4ha.reserved", "0x00"}, {"mip6.ipv4ha.ha", v.Addr.String()}}
	case IPv4HomeAddressReply:
		return [][2]string{{"mip6.ipv4aa.sts", num(uint8(v.Status))}, {"mip6.ipv4ha.preflen", num(v.PrefixLen)}, {"mip6.ipv4ha.ha", v.Addr.String()}}
	case IPv4DefaultRouter:
		return [][2]string{{"mip6.ipv4dra.reserved", "0"}, {"mip6.ipv4dra.dra", v.Addr.String()}}
	case IPv4DHCPSupportMode:
		return [][2]string{{"mip6.ipv4dsm.reserved", "0"}, {"mip6.ipv4dsm.s_flag", bit(v.Server)}}
	case VendorSpecific:
		return [][2]string{{"mip6.vsm.vendorId", num(v.Vendor)}, {"mip6.vsm.subtype", num(v.Subtype)}}
	case BindingRefreshAdvice:
		return [][2]string{{"mip6.bra.interval", num(v.Interval)}}
	case AlternateCareOf:
		return [][2]string{{"mip6.acoa.acoa", v.Addr.String()}}
	case NonceIndices:
		return [][2]string{{"mip6.ni.hni", num(v.Home)}, {"mip6.ni.cni", num(v.CareOf)}}
	case BindingAuthorization:
		return [][2]string{{"mip6.bad.auth", hex.EncodeToString(v.Authenticator)}}
	case MessageID: // tshark counts NTP's seconds from 1970
		return [][2]string{{"mip6.mseg_id.timestamp", time.Unix(int64(v.Timestamp>>32), 0).UTC().Format(tsharkTime)}}
	case Authentication: // tshark leaves out the last two octets
		return [][2]string{{"mip6.auth.subtype", num(v.Subtype)}, {"mip6.auth.mobility_spi", num(v.SPI)},
			{"mip6.auth.auth_data", hex.EncodeToString(v.Authenticator[:len(v.Authenticator)-2])}}
	}
	panic(fmt.Sprintf("no tshark fields for %T", v))
}

const tsharkTime = "Jan _2, 2006 15:04:05.000000000 MST"

// TestTshark lets an independent program read what we build: every field equal, none that we did not mean, and no mark.
func TestTshark(t *testing.T) {
	spec.Covers(t, "S001-3.2.2-38")
	file := filepath.Join(t.TempDir(), "built.pcap")
	all := examples()
	var frames [][]byte
	for _, e := range all {
		b, err := Append(nil, e.m, magAddr, lmaAddr)
		if err != nil {
			t.Fatalf("%v: %v", e.m.Type(), err)
		}
		if len(b)%8 != 0 {
			t.Errorf("%v has %d octets", e.m.Type(), len(b))
		}
		frames = append(frames, testpcap.Frame(magAddr, lmaAddr, b))
	}
	testpcap.Write(t, file, frames)
	got := tshark(t, file)
	if len(got) != len(all) {
		t.Fatalf("tshark read %d packets of %d", len(got), len(all))
	}
	for i, e := range all {
		header := [][2]string{{"mip6.proto", "59"}, {"mip6.hlen", num(len(frames[i][54:])/8 - 1)}, {"mip6.mhtype", num(int(e.m.Type()))}, {"mip6.reserved", "0x00"}}
		want := fields(header, e.fields, e.m)
		if d := cmp.Diff(want, got[i]); d != "" {
			t.Errorf("packet %d, %v (-built +read by tshark):\n%s", i+1, e.m.Type(), d)
		}
	}
	mhcheck(t, file, len(all))
}

// TestTsharkReadsUMIP holds what we read in another implementation's packets against what tshark reads there.
func TestTsharkReadsUMIP(t *testing.T) {
	for _, name := range []string{"umip-noipsec-brh.pcap", "umip-nemo-brh.pcap", "umip-ro-all.pcap"} {
		headers, got := testpcap.MobilityHeaders(t, vectors+name), tshark(t, vectors+name)
		if len(headers) != len(got) {
			t.Fatalf("%s: tshark read %d packets, want %d", name, len(got), len(headers))
		}
		for i, mh := range headers {
			m, err := Parse(mh.Bytes, mh.Src, mh.Dst)
			if err != nil {
				t.Fatal(err)
			}
			want := fields([][2]string{{"mip6.proto", "59"}, {"mip6.hlen", num(len(mh.Bytes)/8 - 1)}, {"mip6.mhtype", num(int(m.Type()))}, {"mip6.reserved", "0x00"}}, headFields(m), m)
			if d := cmp.Diff(want, got[i]); d != "" {
				t.Errorf("%s, frame %d, %v (-Parse +tshark):\n%s", name, mh.Frame, m.Type(), d)
			}
		}
	}
}

// headFields is what tshark must say about the fixed part of a message that UMIP sends.
func headFields(m Message) [][2]string {
	octets := func(b [8]byte) string { return "0x" + hex.EncodeToString(b[:]) }
	switch m := m.(type) {
	case *BindingUpdate:
		return update(num(int(m.Sequence)), m.Flags.String(), num(int(m.Lifetime)))
	case *BindingAck:
		return ack(num(int(m.Status)), m.Flags.String(), num(int(m.Sequence)), num(int(m.Lifetime)))
	case *TestInit:
		return [][2]string{{map[bool]string{false: "mip6.hoti.cookie", true: "mip6.coti.cookie"}[m.CareOf], octets(m.Cookie)}}
	case *Test: // tshark has one name for both tokens
		p := map[bool]string{false: "mip6.hot.", true: "mip6.cot."}[m.CareOf]
		return [][2]string{{p + "nindex", num(int(m.NonceIndex))}, {p + "cookie", octets(m.Cookie)}, {"mip6.hot.token", octets(m.Token)}}
	}
	panic(fmt.Sprintf("no tshark fields for %T", m))
}

// fields joins what is said about header, fixed part and options, several values of one name by commas.
func fields(header, head [][2]string, m Message) map[string]string {
	all := append(header, head...)
	for v := range m.GetOptions().Values() {
		all = append(all, valueFields(v)...)
	}
	want := map[string]string{}
	for _, f := range all {
		if old, ok := want[f[0]]; ok {
			f[1] = old + "," + f[1]
		}
		if f[1] != "" { // tshark prints nothing for an empty identifier
			want[f[0]] = f[1]
		}
	}
	return want
}

func num(n int) string { return strconv.Itoa(n) }

// tshark reads each Mobility Header of a capture: all fields it has for them, and its marks.
func tshark(t *testing.T, file string) []map[string]string {
	t.Helper()
	list, err := exec.Command("tshark", "-G", "fields").Output()
	if err != nil {
		t.Fatalf("tshark: %v (Debian package tshark)", err)
	}
	// The checksum is mhcheck's, and padding says nothing; marks of a whole protocol have no value of their own.
	names := []string{"_ws.malformed", "_ws.expert", "_ws.expert.message"}
	for line := range strings.Lines(string(list)) {
		if f := strings.Split(line, "\t"); f[0] == "F" && strings.HasPrefix(f[2], "mip6.") && !slices.Contains([]string{"mip6.csum", "mip6.padn", "mip6.mobility_opt.len"}, f[2]) {
			names = append(names, f[2])
		}
	}
	args := []string{"-n", "-r", file, "-Y", "mipv6", "-T", "fields", "-E", "separator=/t", "-E", "occurrence=a", "-E", "aggregator=,"}
	for _, n := range names {
		args = append(args, "-e", n)
	}
	cmd := exec.Command("tshark", args...)
	cmd.Env = append(cmd.Environ(), "TZ=UTC", "LC_ALL=C")
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("tshark: %v", err)
	}
	var packets []map[string]string
	for line := range strings.Lines(string(out)) {
		p := map[string]string{}
		for i, v := range strings.Split(strings.TrimSuffix(line, "\n"), "\t") {
			if v != "" {
				p[names[i]] = v
			}
		}
		packets = append(packets, p)
	}
	return packets
}

// mhcheck lets the checksum and length check of tools say "good" to so many headers.
func mhcheck(t *testing.T, file string, want int) {
	t.Helper()
	out, err := exec.Command("python3", "../../tools/mhcheck", file).CombinedOutput()
	if err != nil {
		t.Fatalf("mhcheck: %v\n%s", err, out)
	}
	good := 0
	for _, m := range regexp.MustCompile(`'type\d+ ([^']*)': (\d+)`).FindAllStringSubmatch(string(out), -1) {
		n, _ := strconv.Atoi(m[2])
		if m[1] != "good" {
			t.Errorf("mhcheck: %s", m[0])
			continue
		}
		good += n
	}
	if good != want {
		t.Errorf("mhcheck found %d good headers, want %d:\n%s", good, want, out)
	}
}
