package bench

import (
	"encoding/xml"
	"errors"
	"io"
	"math"
	"strings"
	"testing"

	"kedge/internal/bench/stats"
	"kedge/internal/bench/way"
)

// made is a report of figures that somebody thought of: each way's are the plain ones times a factor, which varies a little.
func made(t *testing.T, factor map[way.Way]float64) *Report {
	t.Helper()
	r := &Report{Machine: Machine{CPU: "a <CPU> & more", Cores: 2, Kernel: "6.6", Memory: 8 << 30}, Pairs: 15, Seed: 1}
	cells := allCells()
	for _, c := range cells {
		r.Columns = append(r.Columns, c.columns...)
	}
	for _, w := range Defaults.allWays() {
		f, ok := factor[w]
		if !ok {
			continue
		}
		r.Ways = append(r.Ways, w)
		for round := range 15 {
			mood := 1 + 0.3*math.Sin(float64(round)) // of the machine, the same for all in a round
			for _, c := range cells {
				if !c.on(w) {
					continue
				}
				var values []float64
				for range c.columns {
					values = append(values, 10*mood*f*(1+0.02*math.Cos(float64(round*7+len(w.Name())))))
				}
				if c.columns[0].Name == colLost {
					values = []float64{3, 3 + f}
				}
				if c.columns[0].Name == colUpdates {
					values = []float64{f * 1e6}
				}
				r.add(w, c, values, 0)
			}
		}
	}
	r.judge()
	return r
}

func TestJudge(t *testing.T) {
	r := made(t, map[way.Way]float64{
		{Kind: way.Plain}: 1, {Kind: way.VXLAN}: 0.9, {Kind: way.WireGuard}: 0.1,
		{Kind: way.EBPF, Encap: "v6"}: 1.2, {Kind: way.EBPF, Encap: "gre6"}: 0.95, {Kind: way.Clsact, Encap: "v6"}: 0.4, {Kind: way.EBPF, Encap: "two6"}: 0.1,
		{Kind: way.User, Encap: "v6"}: 0.5, {Kind: way.User, Encap: "esp6"}: 0.14,
		{Kind: way.Plain, Sessions: 10_000}: 1, {Kind: way.EBPF, Encap: "v6", Sessions: 10_000}: 0.7,
		{Kind: way.EBPF, Encap: "v6", Second: true}: 0, {Kind: way.User, Encap: "v6", Second: true}: 200,
	})
	r.Memory = nil
	for _, c := range []struct {
		target, column, way string
		want                stats.Verdict
	}{
		{fastTCP, "tcp6", "ebpf/v6", stats.Reached},
		{fastTCP, "tcp4-4-cut", "ebpf/v6", stats.Reached},
		{fastTCP, "tcp6", "ebpf/gre6", stats.Undecided},
		{fastTCP, "tcp6", "clsact/v6", stats.Missed},
		{fastTCP, "tcp6", "ebpf/two6", ""}, // not promised
		{fastVXLAN, "tcp6", "ebpf/v6", stats.Reached},
		{fastPackets, "udp64", "ebpf/gre6", stats.Reached},
		{fastMany, colMany, "ebpf/v6*10000", stats.Reached},
		{userTCP, "tcp6", "user/v6", stats.Reached},
		{userTCP, "tcp6", "user/esp6", ""},
		{espTraffic, "tcp6", "user/esp6", stats.Missed},
		{updateRate, colUpdates, "ebpf/v6*10000", stats.Missed},
		{handoverLoss, colHandover, "ebpf/v6+handover", stats.Reached},
		{handoverLoss, colHandover, "user/v6+handover", stats.Missed},
	} {
		got := stats.Verdict("")
		for _, j := range r.Judgements {
			if j.Target == c.target && j.Column == c.column && j.Way == c.way {
				got = j.Verdict
			}
		}
		if got != c.want {
			t.Errorf("%s, %s of %s: %q, want %q", c.target, c.column, c.way, got, c.want)
		}
	}
	// The gate lets pass what is better than half, and nothing else.
	bad := strings.Join(r.Gate(), "\n")
	for what, want := range map[string]bool{
		"clsact/v6": true, "user/v6+handover": true, "ebpf/gre6": false, "ebpf/v6 is": false, "ebpf/v6*10000": false, "user/esp6": false,
	} {
		if strings.Contains(bad, what) != want {
			t.Errorf("gate: %s is in it: %v, want %v:\n%s", what, !want, want, bad)
		}
	}
}

// TestRatiosWithinRounds: what moves all ways of a round alike is not in the intervals.
func TestRatiosWithinRounds(t *testing.T) {
	r := made(t, map[way.Way]float64{{Kind: way.Plain}: 1, {Kind: way.EBPF, Encap: "v6"}: 1.1})
	i, ok := r.ratio(colTCP6, "ebpf/v6", way.Plain)
	if !ok || i.Low < 1.05 || i.High > 1.15 {
		t.Errorf("%+v of 1.1, though plain routing itself moves by a factor of 1.9", i)
	}
	if s := r.series(colTCP6, way.Plain); s.Median.High-s.Median.Low < 1 {
		t.Errorf("plain itself: %+v", s.Median)
	}
}

// TestFailedSamples: a sample that failed spoils its pair and no other, and is told.
func TestFailedSamples(t *testing.T) {
	r := &Report{Ways: []way.Way{{Kind: way.Plain}, {Kind: way.User, Encap: "v6"}}, Seed: 1}
	c := allCells()[0]
	r.Columns = c.columns
	for i := range 5 {
		r.add(r.Ways[0], c, []float64{2}, 0)
		if i == 3 {
			r.add(r.Ways[1], c, nil, 0)
			continue
		}
		r.add(r.Ways[1], c, []float64{1}, 0)
	}
	r.judge()
	if i, ok := r.ratio(colTCP6, "user/v6", way.Plain); !ok || i != (stats.Interval{Median: 0.5, Low: 0.5, High: 0.5, N: 4}) {
		t.Errorf("%+v, %v", i, ok)
	}
	if len(r.Notes) != 1 || !strings.Contains(r.Notes[0], "1 of 5") {
		t.Errorf("notes %q", r.Notes)
	}
	for range 2 * maxNotes {
		r.note("again")
	}
	if len(r.Notes) != maxNotes {
		t.Errorf("%d notes", len(r.Notes))
	}
}

// TestPictures: each picture is XML, and names its ways.
func TestPictures(t *testing.T) {
	r := made(t, map[way.Way]float64{
		{Kind: way.Plain}: 1, {Kind: way.VXLAN}: 0.9, {Kind: way.WireGuard}: 0.1, {Kind: way.EBPF, Encap: "v6"}: 1.2, {Kind: way.User, Encap: "v6"}: 0.5,
		{Kind: way.Plain, Sessions: 10_000}: 1, {Kind: way.EBPF, Encap: "v6", Sessions: 10_000}: 0.7, {Kind: way.EBPF, Encap: "v6", Sessions: 1_000_000}: 0.6,
	})
	all := r.Pictures()
	for name, want := range map[string]string{"tcp6-plain.svg": "ebpf/v6", "tcp6-wireguard-go.svg": "user/v6", "udp64-plain.svg": "wireguard-go", "sessions.svg": "1000000"} {
		if !strings.Contains(all[name], want) {
			t.Errorf("%s does not have %q", name, want)
		}
	}
	for name, s := range all {
		for d := xml.NewDecoder(strings.NewReader(s)); ; {
			if _, err := d.Token(); errors.Is(err, io.EOF) {
				break
			} else if err != nil {
				t.Errorf("%s: %v", name, err)
				break
			}
		}
		if strings.Contains(s, "NaN") || strings.Contains(s, "Inf") {
			t.Errorf("%s has a number that is none", name)
		}
	}
	md := r.Markdown("pictures")
	for name := range all {
		if !strings.Contains(md, "(pictures/"+name+")") {
			t.Errorf("%s is in no document", name)
		}
	}
}

func TestInsert(t *testing.T) {
	const figures = "new\n"
	for _, c := range []struct{ doc, want string }{
		{"", markBegin + "\nnew\n" + markEnd + "\n"},
		{"# Title\n", "# Title\n\n" + markBegin + "\nnew\n" + markEnd + "\n"},
		{"a\n" + markBegin + "\nold\n" + markEnd + "\nb\n", "a\n" + markBegin + "\nnew\n" + markEnd + "\nb\n"},
	} {
		got, err := insert([]byte(c.doc), figures)
		if err != nil || string(got) != c.want {
			t.Errorf("%q: %q, %v", c.doc, got, err)
		}
		again, err := insert(got, figures)
		if err != nil || string(again) != c.want {
			t.Errorf("a second time: %q, %v", again, err)
		}
	}
	for _, doc := range []string{markBegin, markEnd, markEnd + markBegin} {
		if _, err := insert([]byte(doc), figures); err == nil {
			t.Errorf("%q has both marks", doc)
		}
	}
}

func TestNumbers(t *testing.T) {
	for v, want := range map[float64]string{0: "0", 0.0123: "0.012", 0.95: "0.950", 1.234: "1.23", 12.34: "12.3", 123.4: "123", 1.5e6: "1.50 M", -2567: "-2567", 3: "3"} {
		if got := number(v); got != want {
			t.Errorf("%v: %q, want %q", v, got, want)
		}
	}
	if modelOf([]byte("processor\t: 0\nmodel name\t: Some CPU @ 3 GHz\n")) != "Some CPU @ 3 GHz" || modelOf(nil) != "unknown" {
		t.Error("the processor's name")
	}
}
