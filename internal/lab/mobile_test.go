package lab

import (
	"bytes"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"kedge/internal/core"
	"kedge/internal/ipsec"
	"kedge/internal/lab/ladder"
	"kedge/internal/lab/scenario"
)

// TestNodePhases feeds the frames of a mobile node's move, with others between them.
func TestNodePhases(t *testing.T) {
	mac := core.MAC{2, 0, 0, 0, 0, 5}
	t0 := time.Unix(1000, 0)
	at := func(ms int) time.Time { return t0.Add(time.Duration(ms) * time.Millisecond) }
	last := map[string]string{"n1": "v4"}
	h := &handover{Host: "n1", To: "cafe", Start: t0, LinkUp: at(5), mobile: true, macs: []core.MAC{mac}, last: last}
	h.reached(at(10), "v6")
	for _, f := range []ladder.Frame{
		{At: at(9), Link: "cafe", Dst: mac, Kind: "DATA"},              // under way from the last visit
		{At: at(11), Link: "train", Src: mac, Kind: "BU", Short: "BU"}, // by another link
		{At: at(12), Link: "cafe", Src: mac, Kind: "BU", Short: "BU"},
		{At: at(13), Link: "cafe", Dst: mac, Kind: "BA", Short: "BA (133)"},
		{At: at(14), Link: "cafe", Src: mac, Kind: "BU", Short: "BU"},
		{At: at(15), Link: "cafe", Dst: core.MAC{2}, Kind: "BA", Short: "BA"},
		{At: at(16), Link: "cafe", Dst: mac, Kind: "BA", Short: "BA"},
		{At: at(19), Link: "cafe", Dst: mac, Kind: "DATA"},
		{At: at(29), Link: "cafe", Dst: mac, Kind: "DATA"},
	} {
		h.see(&f)
	}
	for name, want := range map[string]int{"link-up-to-care-of": 5, "care-of-to-bu": 2, "bu-to-ba": 4, "ba-to-downlink": 3, "care-of": 9, "family-change": 9} {
		if d, ok := h.phase(name); !ok || d != time.Duration(want)*time.Millisecond {
			t.Errorf("%s = %v, %v; want %d ms", name, d, ok, want)
		}
	}
	for _, name := range []string{"attach", "same-family", "pbu-to-pba"} {
		if d, ok := h.phase(name); ok {
			t.Errorf("%s = %v: it is none of a node's, or of this move", name, d)
		}
	}
	if h.PBUs != 2 || last["n1"] != "v6" {
		t.Errorf("%d updates, then %s", h.PBUs, last["n1"])
	}
	// An address that is still there from the last visit counts from the router's first word.
	h = &handover{Host: "n1", To: "cafe", Start: t0, LinkUp: at(5), mobile: true, macs: []core.MAC{mac}, last: last}
	for _, f := range []ladder.Frame{{At: at(7), Link: "cafe", Kind: "RA"}, {At: at(8), Link: "cafe", Kind: "RA"}, {At: at(9), Link: "cafe", Src: mac, Kind: "BU", Short: "BU"}} {
		h.see(&f)
	}
	if d, ok := h.phase("care-of-to-bu"); !ok || d != 2*time.Millisecond || h.changed {
		t.Errorf("care-of-to-bu %v %v, changed %v", d, ok, h.changed)
	}
}

// TestTable: medians with the worst, a dash for who took no part.
func TestTable(t *testing.T) {
	rows := []Row{
		{Name: "one", Cells: []Cell{{System: "kedge", Lost: []int{3, 1, 2}, GapsMS: []float64{10, 30, 20}}, {System: "other", Lost: []int{9}, GapsMS: []float64{5000}}}},
		{Name: "two", Cells: []Cell{{System: "kedge", Lost: []int{0}, GapsMS: []float64{1}}}},
	}
	var b bytes.Buffer
	printTable(&b, rows)
	for _, want := range []string{"| one | 2 (3) | 20 ms (30 ms) | 9 (9) | 5000 ms (5000 ms) | 3 |", "| two | 0 (0) | 1 ms (1 ms) | - | - | 1 |"} {
		if !strings.Contains(b.String(), want) {
			t.Errorf("no %q in\n%s", want, b.String())
		}
	}
	b.Reset()
	if printTable(&b, nil); b.Len() > 0 {
		t.Errorf("a table of nothing: %q", b.String())
	}
}

// TestAssociations: both ends have files with each other's keys, the lab and tshark know them, and a pair has one.
func TestAssociations(t *testing.T) {
	dir := t.TempDir()
	r := &Run{claim: &claim{dir: dir}, keys: map[string]*association{}, sas: ladder.Keys{}}
	ha, n1, n2 := &node{name: "ha1"}, &node{name: "n1"}, &node{name: "n2"}
	x, err := r.associate(ha, n1, "esp", "aes128-sha256")
	if err != nil {
		t.Fatal(err)
	}
	if again, err := r.associate(ha, n1, "esp", "aes128-sha256"); err != nil || again != x {
		t.Errorf("a second association %v, %v", again, err)
	}
	here, err := ipsec.LoadKeys(x.fileA)
	if err != nil {
		t.Fatal(err)
	}
	there, err := ipsec.LoadKeys(x.fileB)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(here.In.Encryption, there.Out.Encryption) || !bytes.Equal(here.Out.Integrity, there.In.Integrity) || bytes.Equal(here.In.Integrity, here.Out.Integrity) {
		t.Error("the two files do not fit")
	}
	a, b := x.toA["esp"].(dict), x.toB["esp"].(dict)
	if a["spi-in"] != b["spi-out"] || a["spi-out"] != b["spi-in"] || a["spi-in"] == a["spi-out"] {
		t.Errorf("indexes %v and %v", a, b)
	}
	if sa := r.sas[x.spi]; !bytes.Equal(sa.Encryption, here.Out.Encryption) || sa.Hash != "sha256" {
		t.Errorf("the lab knows %+v", sa)
	}
	if args := strings.Join(r.tsharkESP(), " "); strings.Count(args, "uat:esp_sa:") != 2 || !strings.Contains(args, "HMAC-SHA-256-128") {
		t.Errorf("tshark is told %d associations", strings.Count(args, "uat:esp_sa:"))
	}
	if y, err := r.associate(ha, n2, "rfc4285", ""); err != nil || y.toA["rfc4285"] == nil || y.spi == x.spi || len(r.sas) != 2 {
		t.Errorf("%+v, %v", y, err)
	}
	// Where there is a correspondent, tests of return routability have keys and indexes of their own.
	r.correspondents = map[string]bool{"cn": true}
	n3 := &node{name: "n3", spec: &scenario.Node{Mobile: &scenario.Mobile{}}}
	y, err := r.associate(ha, n3, "esp", "aes128-sha256")
	if err != nil {
		t.Fatal(err)
	}
	a, b = y.toA["esp"].(dict), y.toB["esp"].(dict)
	rrA, rrB := a["return-routability"].(dict), b["return-routability"].(dict)
	if rrA["spi-in"] != rrB["spi-out"] || rrA["spi-in"] == a["spi-in"] || rrA["key-file"] == a["key-file"] || len(r.sas) != 6 {
		t.Errorf("tests of return routability: %v and %v", rrA, rrB)
	}
	files, err := filepath.Glob(filepath.Join(dir, "keys", "*"))
	if err != nil || len(files) != 8 {
		t.Fatalf("%v, %v", files, err)
	}
	for _, f := range files {
		if st, err := os.Stat(f); err != nil || st.Mode().Perm() != 0o600 {
			t.Errorf("%s: %v, %v", f, st.Mode(), err)
		}
	}
}

// TestProtectionOf: mobile nodes are protected unless it is written that they are not; gateways the other way round.
func TestProtectionOf(t *testing.T) {
	m := &scenario.Mobile{V6: netip.MustParsePrefix("2001:db8:2000::5/64")}
	for _, tt := range []struct {
		n           scenario.Node
		kind, suite string
	}{
		{scenario.Node{}, "none", "aes128-sha256"},
		{scenario.Node{Mobile: m}, "esp", "aes128-sha256"},
		{scenario.Node{Mobile: m, Protection: "none"}, "none", "aes128-sha256"},
		{scenario.Node{Protection: "esp", Suite: "aes256-sha512"}, "esp", "aes256-sha512"},
	} {
		if kind, suite := protectionOf(&tt.n); kind != tt.kind || suite != tt.suite {
			t.Errorf("%+v: %s %s, want %s %s", tt.n, kind, suite, tt.kind, tt.suite)
		}
	}
}
