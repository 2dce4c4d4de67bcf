package anchor

import (
	"net/netip"
	"testing"
	"time"

	"kedge/internal/spec"
	"kedge/wire/mobility"
)

// at stamps a request with the time it is sent at, so that it can arrive later.
func (r *rig) at(p pbu) pbu {
	r.pass(time.Millisecond)
	ts := mobility.TimestampOf(r.now.Wall)
	p.ts = &ts
	r.seq++
	p.seq = r.seq
	return p
}

// TestDeregisterWhileWaiting: a host takes another interface away whose request still waits. Nothing is deregistered, for
// that interface has nothing; the one that is served stays (RFC 5213 5.4.1.2 (4), (5)).
func TestDeregisterWhileWaiting(t *testing.T) {
	for name, to := range map[string]netip.Addr{"same gateway": mag1, "another gateway": mag2} {
		for _, draft := range []bool{false, true} {
			r := start(t)
			first := r.ok(attach(mag1, h1, mac1))
			p := attach(to, h1, mac2)
			if draft {
				p.v4, p.without = draft29("0.0.0.0", 0), []mobility.OptionType{mobility.OptHandoffIndicator}
			}
			r.silent(p)
			p.lifetime = 0
			r.silent(p)
			if n := len(r.m.waiting.byKey); n != 0 {
				t.Errorf("%s: %d requests wait", name, n)
			}
			r.pass(2 * time.Second)
			if b := r.one(h1); b.State != "active" || r.delivered(v4of(t, first)) != mag1 {
				t.Errorf("%s: the other interface is %s", name, b.State)
			}
			r.leakless()
		}
	}
}

// TestWaitingOutOfOrder: of two gateways whose requests wait, the one gets the session that sent the later one, in
// whatever order they arrive and whether or not the former gateway deregisters.
func TestWaitingOutOfOrder(t *testing.T) {
	for _, deregisters := range []bool{true, false} {
		for _, swapped := range []bool{true, false} {
			r := start(t)
			first := r.ok(attach(mag1, h1, mac1))
			early := r.at(attach(mag2, h1, mac2))
			late := r.at(attach(mag1, h1, mac2)) // the host comes back to the first, over the other interface
			if swapped {
				r.silent(late)
				r.silent(early)
			} else {
				r.silent(early)
				r.silent(late)
			}
			if deregisters {
				d := attach(mag1, h1, mac1)
				d.lifetime = 0
				r.pass(time.Millisecond)
				r.handle(r.message(d))
			}
			r.pass(2 * time.Second)
			var got []netip.Addr
			for _, b := range r.bindings(h1) {
				if b.LinkLayer == "02:00:00:00:00:0b" {
					got = append(got, b.ProxyCoA)
				}
				if deregisters && b.IPv4.Addr() != v4of(t, first) {
					t.Error("the addresses changed")
				}
			}
			if len(got) != 1 || got[0] != mag1 {
				t.Errorf("deregisters %v, swapped %v: the interface is at %v, want %v", deregisters, swapped, got, mag1)
			}
			r.leakless()
		}
	}
}

// TestWaitingOvertaken: while a request waits, the host moves on, and the next gateway knows which session it is. The one
// that waited is old then and takes nothing back.
func TestWaitingOvertaken(t *testing.T) {
	for _, stamped := range []bool{true, false} {
		r := start(t)
		first := attach(mag1, h1, mac1)
		first.noTS = !stamped
		a := r.ok(first)
		p := attach(mag2, h1, mac2)
		p.noTS = !stamped
		n := len(r.sent)
		r.silent(p)
		moved := attach(mag1, h1, mac2)
		moved.hi, moved.hnp, moved.noTS = mobility.HandoffInterfaces, prefixes(a), !stamped
		r.ok(moved)
		r.pass(2 * time.Second)
		want := mobility.TimestampLowerThanPrevious
		if !stamped {
			want = mobility.SequenceOutOfWindow
		}
		if got := r.answerTo(n, mag2); got == nil || got.Status != want {
			t.Errorf("stamped %v: the request that waited got %+v, want status %d", stamped, got, want)
		}
		if b := r.one(h1); b.ProxyCoA != mag1 || r.delivered(v4of(t, a)) != mag1 {
			t.Errorf("stamped %v: the session is at %v", stamped, b.ProxyCoA)
		}
		r.leakless()
	}
}

// TestWaitingCopies: copies and earlier requests of the gateway that waits change nothing and are not answered; what is
// answered in the end is the newest.
func TestWaitingCopies(t *testing.T) {
	r := start(t)
	r.ok(attach(mag1, h1, mac1))
	early := r.at(attach(mag2, h1, mac2))
	gone := r.at(attach(mag2, h1, mac2))
	gone.lifetime = 0
	newest := r.at(attach(mag2, h1, mac2))
	n := len(r.sent)
	for _, p := range []pbu{newest, newest, early, gone} {
		r.silent(p)
	}
	r.pass(2 * time.Second)
	if a := r.answerTo(n, mag2); a == nil || a.Status != 0 || a.Sequence != newest.seq {
		t.Errorf("answer %+v, want one to sequence %d", a, newest.seq)
	}
	r.leakless()
}

// TestRepeatedAfterAnswer: a copy of an accepted request moves nothing and the answer to it says so (RFC 5213 5.5 (8)).
func TestRepeatedAfterAnswer(t *testing.T) {
	spec.Covers(t, "RFC5213-5.5")
	r := start(t)
	p := r.at(attach(mag1, h1, mac1))
	r.ok(p)
	q := r.at(attach(mag2, h1, mac1))
	r.ok(q)
	d := r.at(attach(mag2, h1, mac1))
	d.lifetime = 0
	r.ok(d)
	for _, old := range []pbu{p, q, d} {
		r.is(old, mobility.TimestampLowerThanPrevious)
	}
	if b := r.one(h1); b.State != "deprecated" {
		t.Errorf("the session is %s", b.State)
	}
	r.leakless()
}
