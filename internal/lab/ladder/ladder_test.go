package ladder

import (
	"bufio"
	"encoding/xml"
	"errors"
	"io"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/gopacket/gopacket/pcapgo"

	"kedge/internal/core"
	"kedge/wire/mobility"
)

// frames reads a capture of other people's implementations.
func frames(t testing.TB, file string) (out [][]byte) {
	t.Helper()
	f, err := os.Open(filepath.Join("../../../testdata/vectors", file))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	r, err := pcapgo.NewReader(bufio.NewReader(f))
	if err != nil {
		t.Fatal(err)
	}
	for {
		b, _, err := r.ReadPacketData()
		if errors.Is(err, io.EOF) {
			return out
		}
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, b)
	}
}

// TestDecodeClients counts what stock clients sent in a capture, by kind.
func TestDecodeClients(t *testing.T) {
	kinds, shorts := map[string]int{}, map[string]int{}
	for _, b := range frames(t, "access-clients.pcap") {
		if f, ok := Decode("air", time.Time{}, b); ok {
			kinds[f.Kind]++
			shorts[f.Short]++
			if f.Label == "" || f.Short == "" {
				t.Errorf("a frame without name: %+v", f)
			}
		}
	}
	for _, k := range []string{"DHCP", "ARP", "RS", "NS", "MLD"} {
		if kinds[k] == 0 {
			t.Errorf("no %s among %v", k, kinds)
		}
	}
	for _, s := range []string{"DHCP Discover", "DHCP Request", "MLD Report", "Router Solicitation"} {
		if shorts[s] == 0 {
			t.Errorf("no %q among %v", s, shorts)
		}
	}
}

func eth(dst, src core.MAC, typ uint16, p []byte) []byte {
	b := append(append([]byte{}, dst[:]...), src[:]...)
	return append(append(b, byte(typ>>8), byte(typ)), p...)
}

func ip6(src, dst netip.Addr, next byte, p []byte) []byte {
	b := []byte{0x60, 0, 0, 0, byte(len(p) >> 8), byte(len(p)), next, 64}
	b = append(b, src.AsSlice()...)
	b = append(b, dst.AsSlice()...)
	return append(b, p...)
}

func mh(t testing.TB, src, dst netip.Addr, m mobility.Message) []byte {
	t.Helper()
	b, err := mobility.Append(nil, m, src, dst)
	if err != nil {
		t.Fatal(err)
	}
	return ip6(src, dst, 135, b)
}

var (
	lma  = netip.MustParseAddr("2001:db8:a::1")
	mag  = netip.MustParseAddr("2001:db8:a::11")
	hmac = core.MAC{2, 0, 0, 0, 0, 1}
	gmac = core.MAC{0, 0, 0x5e, 0, 0x52, 0x13}
	t0   = time.Unix(1000, 0)
)

func at(ms int) time.Time { return t0.Add(time.Duration(ms) * time.Millisecond) }

func pbu(t testing.TB, life uint16) []byte {
	m := &mobility.BindingUpdate{Sequence: 7, Flags: mobility.BUAck | mobility.BUProxy, Lifetime: life}
	m.Options = m.Options.Add(mobility.MobileNodeID{Subtype: 1, ID: "a@example.net"}, mobility.HandoffIndicator{Value: 4},
		mobility.LinkLayerID{ID: hmac[:]}, mobility.IPv4HomeAddressRequest{Addr: netip.IPv4Unspecified()})
	return eth(core.MAC{2, 0xc}, core.MAC{2, 0xa}, 0x86dd, mh(t, mag, lma, m))
}

func pba(t testing.TB, status mobility.Status) []byte {
	m := &mobility.BindingAck{Sequence: 7, Status: status, Flags: mobility.BAProxy, Lifetime: 2}
	m.Options = m.Options.Add(mobility.MobileNodeID{Subtype: 1, ID: "a@example.net"},
		mobility.IPv4HomeAddressReply{PrefixLen: 24, Addr: netip.MustParseAddr("10.20.0.5")})
	return eth(core.MAC{2, 0xa}, core.MAC{2, 0xc}, 0x86dd, mh(t, lma, mag, m))
}

func TestDecodeSignalling(t *testing.T) {
	inner := []byte{0x45, 0, 0, 20, 0, 0, 0, 0, 64, 17, 0, 0, 198, 51, 100, 99, 10, 20, 0, 5}
	for _, tt := range []struct {
		name  string
		frame []byte
		kind  string
		label string
	}{
		{"pbu", pbu(t, 2), "PBU", "PBU seq 7, lifetime 8s, 0.0.0.0, HI 4"},
		{"dereg", pbu(t, 0), "PBU", "PBU (dereg) seq 7, lifetime 0s, 0.0.0.0, HI 4"},
		{"pba", pba(t, 0), "PBA", "PBA seq 7, lifetime 8s, 10.20.0.5/24"},
		{"refused", pba(t, mobility.InsufficientResources), "PBA", "PBA seq 7 refused: 130 Insufficient resources"},
		{"tunnel", eth(core.MAC{}, core.MAC{2}, 0x86dd, ip6(lma, mag, 4, inner)), "DATA", "IPv4-in-IPv6 data 198.51.100.99 > 10.20.0.5"},
	} {
		f, ok := Decode("core", t0, tt.frame)
		if !ok || f.Kind != tt.kind || !strings.EqualFold(f.Label, tt.label) {
			t.Errorf("%s: %v %q %q, want %q", tt.name, ok, f.Kind, f.Label, tt.label)
		}
	}
	f, _ := Decode("core", t0, pbu(t, 2))
	if f.ID != "a@example.net" || f.Host != hmac || !f.Is("pbu") || !f.Is("mh") || f.Is("pba") || f.Is("ipv6") {
		t.Errorf("PBU: %+v", f)
	}
}

func diagram() *Diagram {
	return New("figure 2", t0, []Node{
		{Name: "h1", MACs: []core.MAC{hmac}},
		{Name: "mag1", Addrs: []netip.Addr{mag}, Access: []string{"air1"}},
		{Name: "lma1", Addrs: []netip.Addr{lma}},
	})
}

func add(t *testing.T, d *Diagram, link string, ms int, b []byte) {
	t.Helper()
	f, ok := Decode(link, at(ms), b)
	if !ok {
		t.Fatalf("frame at %d ms was not read", ms)
	}
	d.Add(f)
}

// TestText draws a registration and wants it character by character.
func TestText(t *testing.T) {
	d := diagram()
	mld := ip6(netip.MustParseAddr("fe80::1"), netip.MustParseAddr("ff02::16"), 58, append([]byte{143, 0, 0, 0, 0, 0, 0, 0}, make([]byte, 20)...))
	user := ip6(netip.MustParseAddr("2001:db8:a::99"), netip.MustParseAddr("2001:db8:1000::1"), 17, make([]byte, 16))
	add(t, d, "air1", 1, eth(core.MAC{0x33, 0x33}, hmac, 0x86dd, mld))
	add(t, d, "core", 3, pba(t, 0)) // links are not read in order
	add(t, d, "core", 2, pbu(t, 2))
	d.Note(at(4), "the lab moves it")
	for i := range 3 {
		add(t, d, "core", 5+i, eth(core.MAC{}, core.MAC{2}, 0x86dd, ip6(lma, mag, 41, user)))
	}
	add(t, d, "air1", 9, eth(hmac, gmac, 0x86dd, user))
	add(t, d, "air1", 10, eth(gmac, core.MAC{2, 9}, 0x86dd, user)) // a host without a lane
	want := `figure 2

           h1          mag1         lma1
   0.0010 s |----------->|            |    1. MLD Report
   0.0020 s |            |----------->|    2. PBU seq 7, lifetime 8s, 0.0.0.0, HI 4
   0.0030 s |            |<-----------|    3. PBA seq 7, lifetime 8s, 10.20.0.5/24
   0.0040 s |            |            |  --- the lab moves it
   0.0050 s |            |<===========|    4. IPv6-in-IPv6 data (3 packets from here)
   0.0090 s |<...........|            |    5. IPv6 data 2001:db8:a::99 > 2001:db8:1000::1
`
	if got := d.Text(); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
	if missing, took := d.Order([]string{"MLD Report", "PBU", "PBA"}, nil); missing != "" || took != 2*time.Millisecond {
		t.Errorf("order: missing %q, took %v", missing, took)
	}
	if missing, _ := d.Order([]string{"PBA", "PBU"}, nil); missing != "PBU" {
		t.Errorf("wrong order: missing %q, want PBU", missing)
	}
}

func TestSVGIsXML(t *testing.T) {
	d := diagram()
	d.Title = `<&"figure">`
	add(t, d, "core", 2, pbu(t, 2))
	d.Note(at(4), "a <note>")
	dec := xml.NewDecoder(strings.NewReader(d.SVG()))
	lines := 0
	for {
		tok, err := dec.Token()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		if s, ok := tok.(xml.StartElement); ok && s.Name.Local == "line" {
			lines++
		}
	}
	if lines != 4 {
		t.Errorf("%d lines, want three lanes and one message", lines)
	}
}

// TestRevocationLabels: revocations say what they revoke, and how they ended.
func TestRevocationLabels(t *testing.T) {
	o := mobility.Options(nil).Add(mobility.MobileNodeID{Subtype: 1, ID: "h1@example.net"}, mobility.HomeNetworkPrefix{Prefix: netip.MustParsePrefix("2001:db8:1000::/64")})
	for want, m := range map[string]mobility.Message{
		"BRI seq 5, trigger 2, 2001:db8:1000::/64": &mobility.Revocation{Code: 2, Sequence: 5, Proxy: true, Options: o},
		"BRA seq 5":                  &mobility.Revocation{Ack: true, Sequence: 5, Proxy: true},
		"BRA seq 5 refused: 132":     &mobility.Revocation{Ack: true, Code: 132, Sequence: 5, Proxy: true},
		"Binding Error 1 10.20.0.10": &mobility.BindingError{Status: 1, Home: netip.MustParseAddr("::ffff:10.20.0.10")},
	} {
		d := diagram()
		add(t, d, "core", 1, eth(core.MAC{}, core.MAC{2}, 0x86dd, mh(t, mag, lma, m)))
		if text := d.Text(); !strings.Contains(text, want+"\n") {
			t.Errorf("want %q in\n%s", want, text)
		}
	}
}

// TestLongDiagram is thinned out: heartbeats and neighbour discovery go first, registrations last.
func TestLongDiagram(t *testing.T) {
	d := diagram()
	hb := eth(core.MAC{}, core.MAC{2}, 0x86dd, mh(t, mag, lma, &mobility.Heartbeat{Sequence: 1}))
	for i := range 2 * maxLines {
		add(t, d, "core", i, hb)
	}
	add(t, d, "core", 1, pbu(t, 2))
	text := d.Text()
	if !strings.Contains(text, "PBU") || strings.Contains(text, "Heartbeat") || !strings.Contains(text, "800 further lines") {
		t.Errorf("the long diagram:\n%s", text)
	}
}

// FuzzDecode: no frame panics.
func FuzzDecode(f *testing.F) {
	for _, file := range []string{"access-clients.pcap", "umip-ro-all.pcap", "pmip-oai-all.pcap"} {
		for i, b := range frames(f, file) {
			if i < 40 {
				f.Add(b)
			}
		}
	}
	f.Add(pbu(f, 2))
	f.Add(pba(f, 130))
	f.Fuzz(func(t *testing.T, b []byte) {
		fr, ok := Decode("core", t0, b)
		if ok && (fr.Kind == "" || fr.Label == "") {
			t.Fatalf("a frame without kind: %+v", fr)
		}
		d := diagram()
		if ok {
			d.Add(fr)
			fr.Link = "air1"
			d.Add(fr)
		}
		_ = d.Text()
		_ = d.SVG()
	})
}
