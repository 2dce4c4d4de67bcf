package bench

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"kedge/internal/bench/way"
)

// TestRun measures a little of everything that makes processes, and looks at what is reported. Figures of a test mean nothing.
func TestRun(t *testing.T) {
	r, err := Run(t.Context(), Options{
		Pairs: 3, Time: 30 * time.Millisecond, Only: `^(user|ebpf)/v6`, Cells: `^(tcp6|tcp4-cut|udp64|p50|udp64-many|updates|lost)$`, Sessions: []int{300}, Seed: 1,
	}, io.Discard)
	if err != nil {
		t.Fatalf("%v: run this test as root", err)
	}
	for _, w := range []way.Way{
		{Kind: way.Plain}, {Kind: way.VXLAN}, {Kind: way.WireGuard}, {Kind: way.User, Encap: "v6"}, {Kind: way.EBPF, Encap: "v6"},
	} {
		for _, c := range []string{colTCP6, colTCP4 + "-cut", colUDP64} {
			if s := r.series(c, w.Name()); s == nil || len(s.Values) != 3 {
				t.Errorf("%s of %s: %+v", c, w.Name(), s)
			}
		}
	}
	// A busy machine may fail a sample; a way of which all fail does not work.
	for _, s := range r.Series {
		if s.Median.N == 0 && s.Column != "cycles" {
			t.Errorf("%s of %s was never measured; notes: %q", s.Column, s.Way, r.Notes)
		}
	}
	for _, w := range []string{"ebpf/v6*300", "user/v6*300"} {
		if s := r.series(colUpdates, w); s == nil || s.Median.Median <= 0 {
			t.Errorf("updates of %s: %+v", w, s)
		}
	}
	if s := r.series(colUDP64, "ebpf/v6"); s != nil && s.Median.N > 0 && s.Slow > 0.01 {
		t.Errorf("%.2f of the packets left the fast path", s.Slow)
	}
	if len(r.Memory) != 1 || r.Memory[0].Octets == 0 {
		t.Errorf("memory %+v", r.Memory)
	}
	var text bytes.Buffer
	if err := r.WriteText(&text); err != nil || !strings.Contains(text.String(), "wireguard-go") || !strings.Contains(text.String(), r.Machine.Kernel) {
		t.Errorf("%v\n%s", err, text.String())
	}
	dir := t.TempDir()
	if err := r.WritePictures(filepath.Join(dir, "pictures")); err != nil {
		t.Error(err)
	}
	if err := r.WriteMarkdown(filepath.Join(dir, "d.md"), filepath.Join(dir, "pictures")); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(filepath.Join(dir, "pictures", "tcp6-plain.svg")); err != nil {
		t.Error(err)
	}
	if _, err := json.Marshal(r); err != nil {
		t.Errorf("JSON: %v", err)
	}
}

// TestGivenUp: ctrl-C leaves no process. Namespaces without a name go with the last one.
func TestGivenUp(t *testing.T) {
	before := children(t)
	ctx, stop := context.WithCancel(t.Context())
	_, err := Run(ctx, Options{Pairs: 1000, Time: 50 * time.Millisecond, Only: `^user/v6$`, Cells: `^tcp6$`, Seed: 1}, writer(func(s string) {
		if strings.Contains(s, "round") {
			stop()
		}
	}))
	if !errors.Is(err, context.Canceled) {
		t.Errorf("%v, want to be told that it was given up", err)
	}
	if after := children(t); after > before {
		t.Errorf("%d processes are left, before %d", after, before)
	}
}

type writer func(string)

func (w writer) Write(b []byte) (int, error) { w(string(b)); return len(b), nil }

// children counts the processes that this one has.
func children(t *testing.T) (n int) {
	t.Helper()
	files, err := filepath.Glob("/proc/self/task/*/children")
	if err != nil || len(files) == 0 {
		t.Fatalf("children: %d files, %v", len(files), err)
	}
	for _, f := range files {
		b, _ := os.ReadFile(f)
		n += len(strings.Fields(string(b)))
	}
	return n
}

func TestPlan(t *testing.T) {
	names := func(o Options) string {
		p, err := o.plan()
		if err != nil {
			t.Fatal(err)
		}
		s := ""
		for _, w := range p.ways {
			s += w.Name() + " "
		}
		return strings.TrimSpace(s)
	}
	for _, c := range []struct {
		o    Options
		want string
	}{
		{Options{Only: "^user/v4$", Cells: "tcp6"}, "plain vxlan wireguard-go user/v4"},
		{Options{Only: "v6", Cells: "many", Sessions: []int{7}}, "plain*7 user/v6*7 ebpf/v6*7"},
		{Options{Cells: "lost"}, "user/v6+handover ebpf/v6+handover"},
		{Options{Cells: "p50", Only: "esp6|two6"}, "plain vxlan wireguard-go user/two6 user/esp6 ebpf/two6"},
		{Options{Cells: "nothing"}, ""},
	} {
		if got := names(c.o); got != c.want {
			t.Errorf("%+v: %s, want %s", c.o, got, c.want)
		}
	}
	for _, o := range []Options{{Only: "("}, {Cells: "("}} {
		if _, err := Run(t.Context(), o, io.Discard); err == nil {
			t.Errorf("%+v is a pattern", o)
		}
	}
	if _, err := Run(t.Context(), Options{Cells: "nothing"}, io.Discard); err == nil {
		t.Error("nothing was measured, and nobody says so")
	}
	all, err := Defaults.plan()
	if err != nil || len(all.ways) != 3+8+6+5+6+2 {
		t.Errorf("%d ways, %v", len(all.ways), err)
	}
}
