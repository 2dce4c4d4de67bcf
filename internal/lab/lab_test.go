package lab

import (
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/gopacket/gopacket/pcapgo"

	"kedge/internal/core"
	"kedge/internal/lab/ladder"
)

func TestSumMetric(t *testing.T) {
	const text = `# HELP kedge_drops_total Drops.
# TYPE kedge_drops_total counter
kedge_drops_total{layer="data",reason="wrong-source",role="gateway"} 3
kedge_drops_total{layer="data",reason="wrong-source",role="anchor"} 4
kedge_drops_total{layer="data",reason="hop-limit-exceeded",role="anchor"} 1e+02
kedge_drops_total_other 99
kedge_up 1
`
	for _, tt := range []struct {
		name   string
		labels map[string]string
		want   float64
	}{
		{"kedge_drops_total", nil, 107},
		{"kedge_drops_total", map[string]string{"reason": "wrong-source"}, 7},
		{"kedge_drops_total", map[string]string{"reason": "wrong-source", "role": "anchor"}, 4},
		{"kedge_drops_total", map[string]string{"reason": "wrong"}, 0},
		{"kedge_up", nil, 1},
		{"kedge_none", nil, 0},
	} {
		if got, err := sumMetric(text, tt.name, tt.labels); err != nil || got != tt.want {
			t.Errorf("%s%v = %v, %v; want %v", tt.name, tt.labels, got, err, tt.want)
		}
	}
	if _, err := sumMetric("kedge_up x\n", "kedge_up", nil); err == nil {
		t.Error("a value that is none was taken")
	}
}

func TestMergeDict(t *testing.T) {
	a := dict{"x": 1, "m": dict{"a": 1, "b": 2}, "l": []any{1, 2}, "gone": 1}
	b := dict{"m": dict{"b": 3, "c": 4}, "l": []any{9}, "gone": nil}
	want := dict{"x": 1, "m": dict{"a": 1, "b": 3, "c": 4}, "l": []any{9}}
	if got := mergeDict(a, b); !reflect.DeepEqual(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
	if a["gone"] != 1 || a["m"].(dict)["b"] != 2 {
		t.Error("the input was changed")
	}
}

func TestCaptureAndMerge(t *testing.T) {
	dir := t.TempDir()
	seen := 0
	see := func(string, time.Time, []byte) { seen++ }
	var caps []*capture
	base := time.Unix(1000, 0)
	for i, link := range []string{"core", "air1"} {
		c, err := newCapture(dir, link, see)
		if err != nil {
			t.Fatal(err)
		}
		for k := range 3 {
			c.frame(base.Add(time.Duration(2*k+i)*time.Microsecond), append(make([]byte, 60), byte(2*k+i)))
		}
		if err := c.close(); err != nil {
			t.Fatal(err)
		}
		c.frame(base, make([]byte, 60)) // after the end: seen, not written
		caps = append(caps, c)
	}
	if seen != 8 {
		t.Errorf("%d frames were seen, want 8", seen)
	}
	out := filepath.Join(dir, "all.pcapng")
	if err := merge(out, caps); err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(out)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	r, err := pcapgo.NewNgReader(f, pcapgo.DefaultNgReaderOptions)
	if err != nil {
		t.Fatal(err)
	}
	for k := range 6 {
		data, ci, err := r.ReadPacketData()
		if err != nil {
			t.Fatal(err)
		}
		if int(data[60]) != k || ci.InterfaceIndex != k%2 || !ci.Timestamp.Equal(base.Add(time.Duration(k)*time.Microsecond)) {
			t.Errorf("frame %d: data %d, interface %d, time %v", k, data[60], ci.InterfaceIndex, ci.Timestamp)
		}
	}
	ifc, err := r.Interface(1)
	if err != nil || ifc.Name != "air1" {
		t.Errorf("interface 1 is %q, %v", ifc.Name, err)
	}
}

// TestMHCheck: good captures of other implementations pass, a changed octet does not.
func TestMHCheck(t *testing.T) {
	const good = "../../testdata/vectors/umip-noipsec-brh.pcap"
	if err := mobilityChecksums(good); err != nil {
		t.Errorf("%s: %v", good, err)
	}
	if err := mobilityChecksums("../../testdata/vectors/pmip-oai-all.pcap"); err == nil {
		t.Error("the captures with known bad checksums passed")
	}
	p := append(make([]byte, 40), 59, 1, 13, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0)
	p[0], p[5], p[6] = 0x60, 16, 135
	if err := mhOK(p); err == nil || !strings.Contains(err.Error(), "checksum") {
		t.Errorf("a checksum of 0: %v", err)
	}
	p[41] = 7
	if err := mhOK(p); err == nil || !strings.Contains(err.Error(), "length") {
		t.Errorf("a wrong length: %v", err)
	}
	for n := range p {
		_ = mhOK(p[:n]) // must not panic
	}
}

// TestHandoverPhases feeds the frames of one handover, with those of others between them.
func TestHandoverPhases(t *testing.T) {
	gw := netip.MustParseAddr("2001:db8:a::12")
	mac := core.MAC{2, 0, 0, 0, 0, 1}
	t0 := time.Unix(1000, 0)
	at := func(ms int) time.Time { return t0.Add(time.Duration(ms) * time.Millisecond) }
	h := &handover{Host: "h1", To: "air2", Start: t0, LinkUp: at(5), macs: []core.MAC{mac}, id: "a@x", gateway: gw}
	for _, f := range []ladder.Frame{
		{At: at(-1), Link: "air2", Src: mac, Kind: "MLD"},            // before the move
		{At: at(6), Link: "air1", Src: mac, Kind: "DATA"},            // at the old place
		{At: at(7), Link: "air2", Src: core.MAC{2}, Kind: "MLD"},     // another host
		{At: at(8), Link: "air2", Dst: mac, Kind: "DATA"},            // down before any sign: a packet that was under way
		{At: at(10), Link: "air2", Src: mac, Kind: "MLD"},            // trigger
		{At: at(11), Link: "core", Kind: "PBU", From: gw, ID: "b@x"}, // for another host
		{At: at(12), Link: "core", Kind: "PBU", From: gw, ID: "a@x"}, // PBU
		{At: at(13), Link: "core", Kind: "PBA", To: gw, ID: "a@x", Short: "PBA (130)"},
		{At: at(14), Link: "core", Kind: "PBU", From: gw, ID: "a@x"}, // again
		{At: at(16), Link: "core", Kind: "PBA", To: gw, ID: "a@x", Short: "PBA"},
		{At: at(20), Link: "air2", Dst: mac, Kind: "DATA"}, // first downlink packet
		{At: at(30), Link: "air2", Dst: mac, Kind: "DATA"},
	} {
		h.see(&f)
	}
	for name, want := range map[string]int{"link-up-to-trigger": 5, "trigger-to-pbu": 2, "pbu-to-pba": 4, "pba-to-downlink": 4, "attach": 10} {
		if d, ok := h.phase(name); !ok || d != time.Duration(want)*time.Millisecond {
			t.Errorf("%s = %v, %v; want %d ms", name, d, ok, want)
		}
	}
	if h.PBUs != 2 {
		t.Errorf("%d PBUs, want 2", h.PBUs)
	}
	if left := deleteDone([]*handover{h, {}}); len(left) != 1 {
		t.Errorf("%d handovers still run, want 1", len(left))
	}
}
