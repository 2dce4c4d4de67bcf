package ladder

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"kedge/internal/core"
	"kedge/wire/ip"
	"kedge/wire/mobility"
)

var (
	nodeHoA = netip.MustParseAddr("2001:db8:2000::5")
	nodeCoA = netip.MustParseAddr("2001:db8:51::77")
	v4CoA   = netip.MustParseAddr("192.168.1.50")
	v4HA    = netip.MustParseAddr("198.51.100.1")
)

// signal is an IPv6 packet with a message between the ends that its headers say.
func signal(t testing.TB, s ip.Signal, m mobility.Message, sa *SA) []byte {
	t.Helper()
	src, dst := s.Ends()
	b, err := mobility.Append(nil, m, src, dst)
	if err != nil {
		t.Fatal(err)
	}
	if s.Proto = 135; sa != nil {
		s.Proto, b = 50, seal(t, *sa, b)
	}
	pkt, err := ip.AppendSignal(nil, &s, 64, len(b))
	if err != nil {
		t.Fatal(err)
	}
	return append(pkt, b...)
}

// seal makes ESP with SPI 0x1000 around a Mobility Header.
func seal(t testing.TB, sa SA, b []byte) []byte { return sealed(t, sa, 135, b) }

// sealed does so with anything.
func sealed(t testing.TB, sa SA, next uint8, b []byte) []byte {
	c, err := aes.NewCipher(sa.Encryption)
	if err != nil {
		t.Fatal(err)
	}
	pad := (16 - (len(b)+2)%16) % 16
	for i := range pad {
		b = append(b, byte(i+1))
	}
	b = append(b, byte(pad), next)
	iv := bytes.Repeat([]byte{7}, 16)
	cipher.NewCBCEncrypter(c, iv).CryptBlocks(b, b)
	out := append([]byte{0, 0, 0x10, 0, 0, 0, 0, 1}, append(iv, b...)...)
	mac := hmac.New(sha256.New, sa.Integrity)
	mac.Write(out)
	return append(out, mac.Sum(nil)[:16]...)
}

func ip4(t testing.TB, src, dst netip.Addr, proto uint8, p []byte) []byte {
	t.Helper()
	h := ip.Header{Src: src, Dst: dst, Proto: proto, TTL: 64}
	b, err := h.Append(nil, len(p))
	if err != nil {
		t.Fatal(err)
	}
	return append(b, p...)
}

func udp4191(t testing.TB, src, dst netip.AddrPort, p []byte) []byte {
	t.Helper()
	u, err := ip.AppendUDP(nil, src, dst, p)
	if err != nil {
		t.Fatal(err)
	}
	return ip4(t, src.Addr(), dst.Addr(), 17, u)
}

var testSA = SA{Encryption: bytes.Repeat([]byte{1}, 16), Integrity: bytes.Repeat([]byte{2}, 32), Hash: "sha256"}

// TestDecodeMobileNode reads signalling and data of mobile nodes in every framing.
func TestDecodeMobileNode(t *testing.T) {
	bu := &mobility.BindingUpdate{Sequence: 9, Flags: mobility.BUAck | mobility.BUHome | mobility.BUForceUDP, Lifetime: 15}
	bu.Options = bu.Options.Add(mobility.IPv4HomeAddress{PrefixLen: 24, Addr: netip.MustParseAddr("10.20.0.5")}, mobility.IPv4CareOf{Addr: v4CoA})
	ba := &mobility.BindingAck{Sequence: 9, Lifetime: 15}
	ba.Options = ba.Options.Add(mobility.IPv4AddressAck{PrefixLen: 24, Addr: netip.MustParseAddr("10.20.0.5")}, mobility.NATDetection{F: true, Refresh: 110})
	no := &mobility.BindingAck{Sequence: 9, Status: mobility.InsufficientResources}
	gone := &mobility.BindingUpdate{Sequence: 10, Flags: mobility.BUAck | mobility.BUHome}
	native := ip.Signal{Src: nodeCoA, Dst: lma, SrcHome: nodeHoA}
	back := ip.Signal{Src: lma, Dst: nodeCoA, DstHome: nodeHoA}
	inUDP := ip.Signal{Src: nodeHoA, Dst: lma}
	mapped := ip.Signal{Src: netip.AddrFrom16(v4CoA.As16()), Dst: lma, SrcHome: nodeHoA}
	echo := (&ip.Echo{ID: probeID, Seq: 1}).Append(nil, nodeHoA, lma)
	out, in := netip.AddrPortFrom(v4CoA, 4191), netip.AddrPortFrom(v4HA, 4191)
	from4 := func(p []byte) []byte { return eth(core.MAC{2}, hostMAC, 0x0800, p) }
	from6 := func(p []byte) []byte { return eth(core.MAC{2}, hostMAC, 0x86dd, p) }
	keys := Keys{0x1000: testSA}
	wrong := Keys{0x1000: {Encryption: testSA.Encryption, Integrity: bytes.Repeat([]byte{3}, 32), Hash: "sha256"}}
	for _, tt := range []struct {
		name  string
		keys  Keys
		frame []byte
		short string
		label string
	}{
		{"native", nil, from6(signal(t, native, bu, nil)), "BU", "BU seq 9, lifetime 1m0s, 10.20.0.5, at 192.168.1.50, F"},
		{"answer", nil, from6(signal(t, back, ba, nil)), "BA", "BA seq 9, lifetime 1m0s, 10.20.0.5/24 NAT"},
		{"refused", nil, from6(signal(t, back, no, nil)), "BA (130)", "BA seq 9 refused: 130 Insufficient resources"},
		{"end", nil, from6(signal(t, native, gone, nil)), "BU (dereg)", "BU (dereg) seq 10, lifetime 0s"},
		{"esp", keys, from6(signal(t, native, gone, &testSA)), "BU (dereg)", "BU (dereg) seq 10, lifetime 0s, in ESP"},
		{"unknown key", nil, from6(signal(t, native, gone, &testSA)), "ESP", "ESP SPI 0x1000"},
		{"wrong key", wrong, from6(signal(t, native, gone, &testSA)), "ESP", "ESP SPI 0x1000"},
		{"udp", keys, from4(udp4191(t, out, in, signal(t, inUDP, gone, &testSA))), "BU (dereg)", "BU (dereg) seq 10, lifetime 0s, in ESP over UDP 4191 > 4191"},
		{"mapped", nil, from4(ip4(t, v4CoA, v4HA, 41, signal(t, mapped, gone, nil))), "BU (dereg)", "BU (dereg) seq 10, lifetime 0s, over IPv4"},
		{"keepalive", nil, from4(udp4191(t, out, in, nil)), "keepalive", "keepalive in UDP"},
		{"echo", nil, from4(udp4191(t, out, in, ip6(nodeHoA, lma, 58, echo))), "Tunnel Echo", "Tunnel Echo"},
		{"echo 41", nil, from4(ip4(t, v4CoA, v4HA, 41, ip6(nodeHoA, lma, 58, echo))), "Tunnel Echo", "Tunnel Echo"},
		{"data", nil, from4(udp4191(t, out, in, ip6(nodeHoA, nodeCoA, 59, nil))), "IPv6-in-UDP data", "IPv6-in-UDP data 2001:db8:2000::5 > 2001:db8:51::77"},
		{"data 41", nil, from4(ip4(t, v4CoA, v4HA, 41, ip6(nodeHoA, nodeCoA, 59, nil))), "IPv6-in-IPv4 data", "IPv6-in-IPv4 data 2001:db8:2000::5 > 2001:db8:51::77"},
	} {
		f, ok := tt.keys.Decode("cafe", t0, tt.frame)
		if !ok || f.Short != tt.short || f.Label != tt.label {
			t.Errorf("%s: %v %q %q, want %q %q", tt.name, ok, f.Short, f.Label, tt.short, tt.label)
		}
		if protected := strings.Contains(tt.label, "in ESP"); f.ESP != protected {
			t.Errorf("%s: protected is %v", tt.name, f.ESP)
		}
	}
}

// TestDecodeOthersESP reads what another implementation sent, with its keys (umip-esp-keys.txt).
func TestDecodeOthersESP(t *testing.T) {
	keys := Keys{}
	integrity, err := hex.DecodeString("6d6970366d6970366d6970366d6970366d697036")
	if err != nil {
		t.Fatal(err)
	}
	encryption, err := hex.DecodeString("6d6970366d6970366d6970366d697036")
	if err != nil {
		t.Fatal(err)
	}
	for spi := uint32(0x1001); spi <= 0x1006; spi++ {
		keys[spi] = SA{Encryption: encryption, Integrity: integrity, Hash: "sha1"}
	}
	got := map[string]int{}
	for _, b := range frames(t, "umip-esp-all.pcap") {
		if f, ok := keys.Decode("net", t0, b); ok && f.ESP {
			got[f.Short]++
		}
	}
	if want := map[string]int{"BU": 2, "BA": 2, "MPS": 2, "MPA": 2, "Home Test Init": 2}; !maps.Equal(got, want) {
		t.Errorf("read %v", got)
	}
}

// TestRouteOptimization: tests of return routability are read in the tunnel that hides them, discovery in ESP and without, and data
// that goes directly is told from other data.
func TestRouteOptimization(t *testing.T) {
	cn := netip.MustParseAddr("2001:db8:d::99")
	keys := Keys{0x1000: testSA}
	esp := func(src, dst netip.Addr, next uint8, b []byte) []byte {
		return eth(core.MAC{}, core.MAC{2}, 0x86dd, ip6(src, dst, 50, sealed(t, testSA, next, b)))
	}
	direct := func(s ip.Signal) []byte {
		s.Proto = 6
		b, err := ip.AppendSignal(nil, &s, 64, 20)
		if err != nil {
			t.Fatal(err)
		}
		return eth(core.MAC{}, core.MAC{2}, 0x86dd, append(b, make([]byte, 20)...))
	}
	hoti := signal(t, ip.Signal{Src: nodeHoA, Dst: cn}, &mobility.TestInit{Cookie: [8]byte{1}}, nil)
	for _, tt := range []struct {
		b           []byte
		short, says string
	}{
		{esp(nodeCoA, lma, 41, hoti), "Home Test Init", "in an ESP tunnel"},
		{esp(nodeCoA, lma, 41, hoti[:50]), "ESP", "tunnel mode"},
		{esp(nodeCoA, lma, 58, []byte{147, 0, 0, 0, 0, 9, 0, 0}), "MPA", "MPA 9, in ESP"},
		{eth(core.MAC{}, core.MAC{2}, 0x86dd, ip6(lma, nodeCoA, 58, append([]byte{145, 0, 0, 0, 0, 9, 0, 0}, make([]byte, 32)...))), "DHAAD Reply", "2 home agents"},
		{direct(ip.Signal{Src: nodeCoA, Dst: cn, SrcHome: nodeHoA}), "IPv6 data direct", nodeHoA.String() + " > " + cn.String()},
		{direct(ip.Signal{Src: cn, Dst: nodeCoA, DstHome: nodeHoA}), "IPv6 data direct", cn.String() + " > " + nodeHoA.String()},
		{direct(ip.Signal{Src: nodeCoA, Dst: cn}), "IPv6 data", nodeCoA.String()},
		{eth(core.MAC{}, core.MAC{2}, 0x86dd, signal(t, ip.Signal{Src: nodeCoA, Dst: cn}, &mobility.TestInit{CareOf: true, Cookie: [8]byte{1}}, nil)), "Care-of Test Init", ""},
		{eth(core.MAC{}, core.MAC{2}, 0x86dd, signal(t, ip.Signal{Src: nodeCoA, Dst: cn, SrcHome: nodeHoA}, &mobility.BindingUpdate{}, nil)), "BU (dereg)", ""},
	} {
		f, ok := keys.Decode("net", t0, tt.b)
		if want := slices.Contains([]string{"IPv6 data direct", "Care-of Test Init", "BU (dereg)"}, tt.short); f.Is("direct") != want {
			t.Errorf("%s is direct: %v", tt.short, !want)
		}
		if !ok || f.Short != tt.short || !strings.Contains(f.Label, tt.says) {
			t.Errorf("read %v %q %q, want %q and %q", ok, f.Short, f.Label, tt.short, tt.says)
		}
	}
}

// TestLANLanes: on a LAN a message goes to the lane that has its address, what is for the router goes to that, and an
// advertisement to all goes to who asked for it.
func TestLANLanes(t *testing.T) {
	d := New("lan", t0, []Node{{Name: "n", MACs: []core.MAC{hostMAC}}, {Name: "r", LANs: []string{"cafe"}}, {Name: "ha", Addrs: []netip.Addr{lma}}})
	rs := make([]byte, 8)
	rs[0] = 133
	ra := make([]byte, 16)
	ra[0] = 134
	ll, all := netip.MustParseAddr("fe80::1"), netip.MustParseAddr("ff02::1")
	bu := &mobility.BindingUpdate{Sequence: 1, Flags: mobility.BUAck | mobility.BUHome, Lifetime: 1}
	router, group := core.MAC{2, 9}, core.MAC{0x33, 0x33, 0, 0, 0, 1}
	for i, b := range [][]byte{
		eth(group, router, 0x86dd, ip6(ll, all, 58, ra)), // nobody asked
		eth(group, hostMAC, 0x86dd, ip6(ll, all, 58, rs)),
		eth(group, router, 0x86dd, ip6(ll, all, 58, ra)),
		eth(group, router, 0x86dd, ip6(ll, all, 58, ra)), // again
		eth(router, hostMAC, 0x86dd, signal(t, ip.Signal{Src: nodeCoA, Dst: lma, SrcHome: nodeHoA}, bu, nil)),
	} {
		if f, ok := Decode("cafe", at(i), b); ok {
			d.Add(f)
		} else {
			t.Errorf("frame %d is no line", i)
		}
	}
	// The same update beyond the router: its source is no lane's.
	f, _ := Decode("net", at(9), eth(core.MAC{2, 8}, router, 0x86dd, signal(t, ip.Signal{Src: nodeCoA, Dst: lma, SrcHome: nodeHoA}, bu, nil)))
	d.Add(f)
	var got []string
	for _, l := range d.Lines() {
		got = append(got, d.Nodes[l.From].Name+">"+d.Nodes[l.To].Name+" "+l.Frame.Kind)
	}
	if want := "n>r RS, r>n RA, n>ha BU"; strings.Join(got, ", ") != want {
		t.Errorf("lines %v, want %s", got, want)
	}
}

func TestOpenIsStrict(t *testing.T) {
	good := seal(t, testSA, make([]byte, 24))
	keys := Keys{0x1000: testSA}
	if next, in, ok := keys.open(good); !ok || next != 135 || len(in) != 24 {
		t.Fatalf("%d %x %v", next, in, ok)
	}
	for n := range good {
		if _, _, ok := keys.open(good[:n]); ok {
			t.Errorf("%d octets of %d were taken", n, len(good))
		}
		bad := bytes.Clone(good)
		bad[n] ^= 1
		if _, _, ok := keys.open(bad); ok {
			t.Errorf("octet %d was changed, and the packet taken", n)
		}
	}
}
