package anchor

import (
	"testing"
	"time"
)

// TestFailedUndoIsRepaired: forwarding fails in the middle of a handoff, and again when the session goes back to what it
// was. A second later, and every second until it works, what the cache says is written and forwarded again.
func TestFailedUndoIsRepaired(t *testing.T) {
	for _, leaves := range []bool{false, true} {
		r := start(t)
		first := r.ok(attach(mag1, h1, mac1))
		hoa := v4of(t, first)
		r.failForward, r.failStore = true, true
		r.silent(attach(mag2, h1, mac1))
		r.silent(attach(mag2, h1, mac1))
		b := r.one(h1)
		if b.ProxyCoA != mag1 {
			t.Fatalf("the session is at %v", b.ProxyCoA)
		}
		// The data plane has done the first half.
		s := r.tuns[b.Session]
		s.Chain.Layer[0].Remote = path(lmaa, mag2).Remote
		r.tuns[b.Session] = s
		r.pass(3500 * time.Millisecond)
		if got := r.delivered(hoa); got != mag2 {
			t.Fatalf("delivered to %v: the test shows nothing", got)
		}
		r.failForward, r.failStore = false, false
		if leaves { // what is gone needs no repair
			p := attach(mag1, h1, mac1)
			p.lifetime, p.hnp = 0, prefixes(first)
			r.ok(p)
			r.leakless()
			continue
		}
		r.pass(500 * time.Millisecond)
		if got := r.delivered(hoa); got != mag1 {
			t.Errorf("still delivered to %v", got)
		}
		if n := len(r.m.flights.broken) + len(r.m.flights.repairs); n != 0 {
			t.Errorf("%d repairs are left", n)
		}
		n := len(r.emits)
		r.pass(10 * time.Second)
		for _, e := range r.emits[n:] {
			if e.Name == "failed" {
				t.Errorf("repaired again: %+v", e)
			}
		}
		r.leakless()
	}
}
