package lab

import (
	"net/netip"
	"strings"
	"testing"
	"time"

	"kedge/internal/lab/ladder"
	"kedge/internal/lab/probe"
)

// TestTables: losses and figures are tables of their own.
func TestTables(t *testing.T) {
	var b strings.Builder
	printTable(&b, []Row{
		{Name: "a move", Cells: []Cell{{System: "kedge", Lost: []int{3, 1, 2}, GapsMS: []float64{30, 10, 20}}}},
		{Name: "home agent far away", Figure: "rtt", Cells: []Cell{{System: "direct", Values: []float64{5, 4, 9}}}},
		{Name: "home agent far away", Figure: "rate", Cells: []Cell{{System: "direct", Values: []float64{100, 90, 120}}}},
	})
	for _, want := range []string{"| a move | 2 (3) | 20 ms (30 ms) | 3 |", "| home agent far away: direct | 5.0 (p99 9.0; 3 times) |", "| home agent far away: direct | 100.0 (90.0 to 120.0; 3 times) |"} {
		if !strings.Contains(b.String(), want) {
			t.Errorf("no %q in\n%s", want, b.String())
		}
	}
}

// TestSetup: route optimization takes from the first packet in the tunnel to the first direct one, whichever way they go, and counts
// for the traffic that was started last.
func TestSetup(t *testing.T) {
	home, other := netip.MustParseAddr("2001:db8:2000::5"), netip.MustParseAddr("2001:db8:d::99")
	r := &Run{setups: map[pair]*setup{}}
	p := &probe.Probe{Spec: probe.Spec{Src: other, Dst: home}}
	t0 := time.Unix(1000, 0)
	frame := func(ms int, src, dst netip.Addr, tunnel bool) {
		r.seeSetup(&ladder.Frame{At: t0.Add(time.Duration(ms) * time.Millisecond), Kind: "DATA", InnerSrc: src, InnerDst: dst, Tunnel: tunnel, Straight: !tunnel})
	}
	frame(0, home, other, true) // before anything was started
	r.watchSetup(home, other)
	if _, err := r.setupOf(p); err == nil {
		t.Error("nothing happened, and that took a time")
	}
	frame(10, home, other, true)
	frame(12, other, home, true)
	frame(35, other, home, false)
	frame(40, home, other, false)
	if d, err := r.setupOf(p); err != nil || d != 25*time.Millisecond {
		t.Errorf("%v, %v", d, err)
	}
	r.watchSetup(home, other)
	frame(50, home, other, false)
	if _, err := r.setupOf(p); err == nil {
		t.Error("it was direct from the start, and that took a time")
	}
}
