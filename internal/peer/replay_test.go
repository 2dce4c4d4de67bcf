package peer

import (
	"testing"
	"time"

	"kedge/internal/core"
	"kedge/internal/spec"
	"kedge/wire/mobility"
)

// TestReplay: no Binding Update that was taken is taken again, while its nonces are good and after, whatever became of its binding
// (RFC 6275 5.2.8, 9.5.3).
func TestReplay(t *testing.T) {
	for name, end := range map[string]func(r *rig, n *mobile){
		"deregistered": func(r *rig, n *mobile) {
			d := *n
			d.seq, d.lifetime = n.seq+1, 0
			r.is(&d, mobility.Accepted)
		},
		"expired": func(r *rig, n *mobile) { r.pass(120 * time.Second) },
		"without forwarding": func(r *rig, n *mobile) {
			r.handle(core.Done{Ref: 1, Err: mobilityError{}})
		},
	} {
		t.Run(name, func(t *testing.T) {
			r := start(t)
			n := r.tested(hoa, coa)
			first := n.update()
			r.receive(n.path(), first)
			end(r, n)
			for range 300 {
				r.receive(n.path(), first)
				if len(ops(r.last)) > 0 {
					t.Fatalf("taken again: %+v", r.last)
				}
				r.pass(time.Second)
			}
			if len(r.m.cache.byKey) != 0 {
				t.Errorf("%d entries are remembered for ever", len(r.m.cache.byKey))
			}
		})
	}
	spec.Covers(t, "RFC6275-5.2.8")
}

// TestReplayOfDeregistration: an old deletion does not end a newer binding.
func TestReplayOfDeregistration(t *testing.T) {
	r := start(t)
	n := r.tested(hoa, coa)
	r.is(n, mobility.Accepted)
	d := *n
	d.seq, d.lifetime = 8, 0
	deletion := d.update()
	r.receive(d.path(), deletion)
	n.seq = 9 // the same tokens, further on
	r.is(n, mobility.Accepted)
	r.receive(d.path(), deletion)
	if _, ok := r.m.CareOf(self, hoa); !ok {
		t.Error("a replayed deletion ended the binding")
	}
}

// TestNumbersAfterTheEnd: whoever has a home keygen token of a newer nonce may begin with any number, because there is no binding; with
// an older one he goes on.
func TestNumbersAfterTheEnd(t *testing.T) {
	r := start(t)
	n := r.tested(hoa, coa)
	n.seq = 1000
	r.is(n, mobility.Accepted)
	d := *n
	d.seq, d.lifetime = 1001, 0
	r.is(&d, mobility.Accepted)
	n.seq = 5
	r.is(n, mobility.SequenceOutOfWindow)
	r.pass(31 * time.Second)
	again := r.tested(hoa, coa)
	again.seq = 5
	r.is(again, mobility.Accepted)
	// What is left of the first must not come back by the second's numbers, whoever of both ended.
	old := *n
	old.seq, old.careOf, old.c = 1000, coa2, r.test(coa2, true)
	r.is(&old, mobility.SequenceOutOfWindow)
	old.seq, old.lifetime = 1002, 0
	r.is(&old, mobility.SequenceOutOfWindow)
	if c, _ := r.m.CareOf(self, hoa); c != coa {
		t.Error("bound to", c)
	}
	end := *again
	end.seq, end.lifetime = 6, 0
	r.is(&end, mobility.Accepted)
	old.seq, old.lifetime = 1000, 30
	r.is(&old, mobility.SequenceOutOfWindow)
	again.seq = 7
	r.is(again, mobility.Accepted)
}

// TestDeletionOfNothing: a deletion of what has ended may begin with any number as well, and what was before it stays over.
func TestDeletionOfNothing(t *testing.T) {
	r := start(t)
	n := r.tested(hoa, coa)
	n.seq, n.lifetime = 1000, 2
	r.is(n, mobility.Accepted)
	r.pass(31 * time.Second)
	d := r.tested(hoa, coa)
	d.seq, d.lifetime = 5, 0
	r.is(d, mobility.Accepted)
	n.seq = 1001
	r.is(n, mobility.SequenceOutOfWindow)
	if _, ok := r.m.CareOf(self, hoa); ok {
		t.Error("bound again")
	}
}
