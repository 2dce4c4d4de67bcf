package simnet

import (
	"slices"
	"testing"
)

// TestSameSeedSameRun: a seed is the whole report of a fault, so nothing may depend on anything else.
func TestSameSeedSameRun(t *testing.T) {
	for seed := uint64(1); seed <= 40; seed++ {
		var lines [2][]string
		for i := range lines {
			c := newChaos(t, seed)
			c.Trace.Max = 0
			if err := c.run(); err != nil {
				t.Fatalf("seed %d: %v", seed, err)
			}
			lines[i] = c.Trace.Lines
		}
		if slices.Equal(lines[0], lines[1]) {
			continue
		}
		for i := range lines[0] {
			if i >= len(lines[1]) || lines[0][i] != lines[1][i] {
				t.Fatalf("seed %d: after %d lines one run says\n%s\nand the other\n%s", seed, i, lines[0][i], lines[1][min(i, len(lines[1])-1)])
			}
		}
		t.Fatalf("seed %d: one run is longer", seed)
	}
}
