package ladder

import (
	"bufio"
	"encoding/xml"
	"errors"
	"io"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
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
	lma     = netip.MustParseAddr("2001:db8:a::1")
	mag     = netip.MustParseAddr("2001:db8:a::11")
	hostMAC = core.MAC{2, 0, 0, 0, 0, 1}
	gmac    = core.MAC{0, 0, 0x5e, 0, 0x52, 0x13}
	t0      = time.Unix(1000, 0)
)

func at(ms int) time.Time { return t0.Add(time.Duration(ms) * time.Millisecond) }

func pbu(t testing.TB, life uint16) []byte {
	m := &mobility.BindingUpdate{Sequence: 7, Flags: mobility.BUAck | mobility.BUProxy, Lifetime: life}
	m.Options = m.Options.Add(mobility.MobileNodeID{Subtype: 1, ID: "a@example.net"}, mobility.HandoffIndicator{Value: 4},
		mobility.LinkLayerID{ID: hostMAC[:]}, mobility.IPv4HomeAddressRequest{Addr: netip.IPv4Unspecified()})
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
	if f.ID != "a@example.net" || f.Host != hostMAC || !f.Is("pbu") || !f.Is("mh") || f.Is("pba") || f.Is("ipv6") {
		t.Errorf("PBU: %+v", f)
	}
}

func diagram() *Diagram {
	return New("figure 2", t0, []Node{
		{Name: "h1", MACs: []core.MAC{hostMAC}},
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
	add(t, d, "air1", 1, eth(core.MAC{0x33, 0x33}, hostMAC, 0x86dd, mld))
	add(t, d, "core", 3, pba(t, 0)) // links are not read in order
	add(t, d, "core", 2, pbu(t, 2))
	d.Note(at(4), "the lab moves it")
	for i := range 3 {
		add(t, d, "core", 5+i, eth(core.MAC{}, core.MAC{2}, 0x86dd, ip6(lma, mag, 41, user)))
	}
	add(t, d, "air1", 9, eth(hostMAC, gmac, 0x86dd, user))
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

// text is one text of a picture, with the space that it may take.
type text struct {
	class, body  string
	x0, x1, base int
}

// picture reads what a viewer would draw.
func picture(t *testing.T, svg string) (width, height int, texts []text, shapes map[string]int) {
	t.Helper()
	dec := xml.NewDecoder(strings.NewReader(svg))
	shapes = map[string]int{}
	num := func(e xml.StartElement, name string) (n int) {
		for _, a := range e.Attr {
			if a.Name.Local == name {
				n, _ = strconv.Atoi(a.Value)
			}
		}
		return n
	}
	attr := func(e xml.StartElement, name string) string {
		for _, a := range e.Attr {
			if a.Name.Local == name {
				return a.Value
			}
		}
		return ""
	}
	var cur *text
	depth := 0
	for {
		tok, err := dec.Token()
		if errors.Is(err, io.EOF) {
			return width, height, texts, shapes
		}
		if err != nil {
			t.Fatal(err)
		}
		switch e := tok.(type) {
		case xml.StartElement:
			switch {
			case e.Name.Local == "svg":
				width, height = num(e, "width"), num(e, "height")
			case e.Name.Local == "text":
				texts = append(texts, text{class: attr(e, "class"), x0: num(e, "x"), base: num(e, "y")})
				cur, depth = &texts[len(texts)-1], 0
				cur.body = attr(e, "text-anchor")
			case cur != nil:
				depth++ // the tooltip
			default:
				shapes[e.Name.Local+" "+attr(e, "class")]++
			}
		case xml.CharData:
			if cur != nil && depth == 0 {
				anchor := cur.body
				cur.body = string(e)
				w := textWidth(cur.body)
				switch anchor {
				case "end":
					cur.x0, cur.x1 = cur.x0-w, cur.x0
				case "middle":
					cur.x0, cur.x1 = cur.x0-w/2, cur.x0+w/2
				default:
					cur.x1 = cur.x0 + w
				}
			}
		case xml.EndElement:
			if e.Name.Local == "text" {
				cur = nil
			} else if cur != nil {
				depth--
			}
		}
	}
}

// TestPicture: well-formed, and no text lies on another one or past the edge, whatever the names and messages are.
func TestPicture(t *testing.T) {
	long := New("a figure <&\"of\"> document 001 with a title that is rather long for so few lanes", t0, []Node{
		{Name: "h1", MACs: []core.MAC{hostMAC}}, {Name: "gateway0123", Addrs: []netip.Addr{mag}, Access: []string{"air1"}}, {Name: "lma1", Addrs: []netip.Addr{lma}}})
	wide := diagram()
	for _, d := range []*Diagram{diagram(), long, wide} {
		for i := range 3 * svgRepeat {
			f, ok := Decode("core", at(i*100), pbu(t, 2))
			if !ok {
				t.Fatal("not read")
			}
			if d == wide {
				f.Label = strings.Repeat("2001:db8:1000::/64 ", 9)
			}
			d.Add(f)
			add(t, d, "air1", i*100+1, eth(hostMAC, gmac, 0x86dd, ip6(netip.MustParseAddr("2001:db8:a::99"), netip.MustParseAddr("2001:db8:1000::1"), 17, make([]byte, 16))))
			add(t, d, "core", i*100+2, pba(t, 0))
			add(t, d, "core", i*100+3, eth(core.MAC{}, core.MAC{2}, 0x86dd, ip6(lma, mag, 41, ip6(lma, mag, 17, make([]byte, 8)))))
		}
		d.Note(at(77), "h1 moves to <air2>")
		w, h, texts, shapes := picture(t, d.SVG())
		if w < 560 || w > 1100 || shapes["line lane"] != 3 || shapes["line mh"] < 100 || shapes["rect pipe"] < 50 || shapes["rect band"] != 1 {
			t.Errorf("%d wide, with %v", w, shapes)
		}
		for i, a := range texts {
			limit := a.x1
			if a.class == "title" {
				limit = a.x0 + (a.x1-a.x0)*3/2
			}
			if a.x0 < 0 || limit > w || a.base < 10 || a.base > h {
				t.Errorf("%q from %d to %d at %d lies past the edge of %d x %d", a.body, a.x0, limit, a.base, w, h)
			}
			for _, b := range texts[i+1:] {
				if a.x0 < b.x1 && b.x0 < a.x1 && a.base-b.base < 12 && b.base-a.base < 12 {
					t.Errorf("%q lies on %q", a.body, b.body)
				}
			}
		}
	}
	if svg := wide.SVG(); !strings.Contains(svg, "…<title>2001:db8:1000::/64 2001") {
		t.Error("what was cut is not in a tooltip")
	}
}

// TestLongDiagram: heartbeats are folded up to the next event; how infrastructure finds its neighbours is left out of what is
// long; neighbour discovery goes before registrations do.
func TestLongDiagram(t *testing.T) {
	d := diagram()
	cn := netip.MustParseAddr("2001:db8:a::12")
	d.Nodes = append(d.Nodes, Node{Name: "mag2", Addrs: []netip.Addr{cn}})
	d.addr[cn] = 3
	na := ip6(lma, cn, 58, append([]byte{136, 0, 0, 0, 0, 0, 0, 0}, make([]byte, 16)...))
	hb := eth(core.MAC{}, core.MAC{2}, 0x86dd, mh(t, mag, lma, &mobility.Heartbeat{Sequence: 1}))
	for i := range 2 * maxLines {
		add(t, d, "core", i, hb)
		if i < 2 {
			add(t, d, "core", i, eth(core.MAC{}, core.MAC{2}, 0x86dd, na))
		}
	}
	d.Note(at(1000), "mag1: kill")
	add(t, d, "core", 1001, hb)
	add(t, d, "core", 1002, pbu(t, 2))
	text := d.Text()
	for _, want := range []string{"Heartbeat (800 from here)", "Heartbeat seq 1\n", "PBU", "Neighbor Advertisement"} {
		if !strings.Contains(text, want) {
			t.Errorf("no %q in\n%s", want, text)
		}
	}
	solicit := ip6(netip.MustParseAddr("fe80::1"), netip.MustParseAddr("fe80::2"), 58, append([]byte{135, 0, 0, 0, 0, 0, 0, 0}, make([]byte, 16)...))
	for i := range maxLines {
		add(t, d, "air1", 2000+i, eth(gmac, hostMAC, 0x86dd, solicit))
	}
	add(t, d, "core", 3000, pba(t, 0))
	text = d.Text()
	if strings.Contains(text, "Neighbor") || !strings.Contains(text, "PBU") || !strings.Contains(text, "PBA") || !strings.Contains(text, "402 further lines") {
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
