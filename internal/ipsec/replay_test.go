package ipsec

import (
	"testing"

	"pgregory.net/rapid"

	"kedge/internal/spec"
)

// naive is the window as RFC 4303 3.4.3 says it, with a map.
type naive struct {
	top  uint64
	seen map[uint64]bool
}

func (n *naive) fresh(s uint64) bool {
	return s != 0 && (s > n.top || n.top-s < Window && !n.seen[s])
}

func (n *naive) mark(s uint64) { n.seen[s], n.top = true, max(n.top, s) }

func TestWindowAgainstOracle(t *testing.T) {
	spec.Covers(t, "RFC4303-3.4.3")
	rapid.Check(t, func(t *rapid.T) {
		w, n := &window{}, &naive{seen: map[uint64]bool{}}
		if rapid.Bool().Draw(t, "restored") {
			n.top = rapid.Uint64Range(0, 1<<33).Draw(t, "top")
			w.restore(n.top)
			for s := n.top - min(n.top, Window+64); s <= n.top; s++ {
				n.seen[s] = true
			}
		}
		for range rapid.IntRange(1, 400).Draw(t, "packets") {
			var s uint64
			switch rapid.IntRange(0, 5).Draw(t, "kind") {
			case 0, 1:
				s = n.top + rapid.Uint64Range(0, 3).Draw(t, "ahead")
			case 2:
				s = n.top + rapid.Uint64Range(0, 3*Window).Draw(t, "far ahead")
			case 3:
				s = n.top - min(n.top, rapid.Uint64Range(0, 70).Draw(t, "behind"))
			case 4:
				s = n.top - min(n.top, rapid.Uint64Range(Window-70, Window+70).Draw(t, "at the edge"))
			case 5:
				s = rapid.Uint64Range(0, 1<<34).Draw(t, "anywhere")
			}
			if got, want := w.fresh(s), n.fresh(s); got != want {
				t.Fatalf("%d with top %d: fresh %v, want %v", s, n.top, got, want)
			}
			if n.fresh(s) && rapid.IntRange(0, 9).Draw(t, "good icv") > 0 {
				w.mark(s)
				n.mark(s)
			}
		}
	})
}

func TestWindowSize(t *testing.T) {
	if Window < 1024 {
		t.Fatalf("the window has %d numbers", Window)
	}
	var w window
	w.mark(Window + 5)
	for _, c := range []struct {
		n    uint64
		want bool
	}{{0, false}, {5, false}, {6, true}, {Window + 4, true}, {Window + 5, false}, {Window + 6, true}, {1<<64 - 1, true}} {
		if w.fresh(c.n) != c.want {
			t.Errorf("%d: fresh %v", c.n, !c.want)
		}
	}
	w.mark(1<<64 - 1)
	if w.fresh(1<<64-1) || !w.fresh(1<<64-2) || w.fresh(7) {
		t.Error("at the last number there is")
	}
}

func TestWindowRestored(t *testing.T) {
	for _, top := range []uint64{0, 1, 62, 63, 64, 127, 4095, 4096, 1 << 32} {
		var w window
		w.restore(top)
		for n := top - min(top, Window+100); n <= top; n++ {
			if w.fresh(n) {
				t.Fatalf("restored to %d: accepts %d", top, n)
			}
		}
		for n := top + 1; n < top+200; n++ {
			if !w.fresh(n) {
				t.Fatalf("restored to %d: refuses %d", top, n)
			}
			w.mark(n)
			if w.fresh(n) {
				t.Fatalf("restored to %d: %d twice", top, n)
			}
		}
	}
}

// TestExtend: the sender is at most a window behind and half a cycle ahead of what was seen, and the guess is right.
func TestExtend(t *testing.T) {
	spec.Covers(t, "RFC4303-A2.2")
	rapid.Check(t, func(t *rapid.T) {
		w := &window{top: rapid.OneOf(rapid.Uint64Range(0, 1<<40), rapid.Uint64Range(1<<32-2*Window, 1<<32+2*Window)).Draw(t, "top")}
		s := w.top + rapid.Uint64Range(0, 1<<31).Draw(t, "ahead")
		if rapid.Bool().Draw(t, "behind") {
			s = w.top - min(w.top, rapid.Uint64Range(0, Window-1).Draw(t, "by"))
		}
		if got, ok := w.extend(uint32(s)); !ok || got != s {
			t.Fatalf("top %#x, sent %#x: %#x %v", w.top, s, got, ok)
		}
	})
	if n, ok := (&window{top: 5}).extend(1<<32 - 1); ok {
		t.Errorf("before the first number: %d", n)
	}
}
