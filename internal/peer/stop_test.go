package peer

import (
	"net/netip"
	"testing"

	"kedge/internal/core"
	"kedge/wire/mobility"
)

func replies(out []core.Effect) (refs []core.Ref) {
	for _, e := range out {
		if m, ok := e.(core.Reply); ok {
			refs = append(refs, m.Ref)
		}
	}
	return refs
}

// TestStop: mobile nodes are told that their bindings are over, what they have sent until they hear it is taken, and what this host
// sends goes by the home agents at once.
func TestStop(t *testing.T) {
	r := start(t)
	r.ack(r.tested(hoa, coa))
	r.ack(r.tested(farHome, coa2))
	out := r.handle(core.Command{Ref: 5, Body: core.Stop{}})
	told := map[netip.Addr]netip.Addr{}
	for _, s := range sends(out) {
		be := s.Body.(*mobility.BindingError)
		if be.Status != mobility.UnknownBinding || s.Path.Local != ap(self) || s.Path.If != 7 || s.Path.Home.IsValid() {
			t.Errorf("%+v by %+v", be, s.Path)
		}
		told[s.Path.Remote.Addr()] = be.Home
	}
	if len(told) != 2 || told[coa] != hoa || told[coa2] != farHome {
		t.Errorf("told %v", told)
	}
	gone := 0
	for _, e := range out {
		if c, ok := e.(core.Change); ok {
			for _, op := range c.Ops {
				if op.Kind == "route" && op.Del {
					gone++
				}
			}
		}
	}
	if gone != 2 || len(ops(out)) != 0 || len(replies(out)) != 0 {
		t.Errorf("%d routes are gone, the data plane is told %v, replies %v", gone, ops(out), replies(out))
	}

	// Nothing is begun any more, and a second command waits with the first.
	r.silent(direct(coa), &mobility.TestInit{CareOf: true}, "service-disabled")
	if out := r.handle(core.Command{Ref: 6, Body: core.Stop{}}); len(out) != 0 {
		t.Errorf("said again: %+v", out)
	}
	if out := r.pass(farewell - 1); len(out) != 0 {
		t.Errorf("before its time: %+v", out)
	}
	if refs := replies(r.pass(1)); len(refs) != 2 || refs[0] != 5 || refs[1] != 6 {
		t.Errorf("answered %v", refs)
	}
	if at, ok := r.m.Deadline(); ok {
		t.Errorf("a deadline at %v", at)
	}
	if refs := replies(r.handle(core.Command{Ref: 7, Body: core.Stop{}})); len(refs) != 1 {
		t.Error("a later command is not answered at once")
	}

	// Nobody is bound: nobody is waited for.
	if refs := replies(start(t).handle(core.Command{Ref: 1, Body: core.Stop{}})); len(refs) != 1 {
		t.Error("an idle correspondent takes its time")
	}
}
