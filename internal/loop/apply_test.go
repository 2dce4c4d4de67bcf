package loop

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"net/netip"
	"slices"
	"testing"

	"kedge/internal/core"
	"kedge/wire/mobility"
)

// journal records the order in which an applier touches its surroundings.
type journal struct {
	lines      []string
	failCommit error
	failOp     int // index of the operation that fails in an update, from 1; 0 = none
}

func (j *journal) note(format string, args ...any) {
	j.lines = append(j.lines, fmt.Sprintf(format, args...))
}

type journalStore struct{ *journal }

func (s journalStore) Load(context.Context, string) iter.Seq2[core.Persist, error] {
	return func(yield func(core.Persist, error) bool) {
		yield(core.Persist{Key: []byte("k"), Val: []byte("v")}, nil)
	}
}
func (s journalStore) Commit(_ context.Context, token uint64, batch []core.Persist) (uint64, error) {
	for _, p := range batch {
		s.note("commit %s=%s", p.Key, p.Val)
	}
	return 1, s.failCommit
}
func (s journalStore) Watch(context.Context, string, uint64) iter.Seq2[core.Persist, error] {
	return nil
}
func (s journalStore) Own(context.Context, string) (core.Lease, error) { return nil, nil }
func (s journalStore) Close() error                                    { return nil }

type journalData struct{ *journal }

func (d journalData) Update(ops []core.Op) error {
	for i, op := range ops {
		if id := op.(core.SetSession).ID; d.failOp == int(id) {
			return &core.OpError{Index: i, Err: errors.New("no room")}
		} else {
			d.note("forward %d", id)
		}
	}
	return nil
}
func (d journalData) Sync(all iter.Seq[core.Op]) error {
	for op := range all {
		d.note("sync %d", op.(core.SetSession).ID)
	}
	return nil
}
func (d journalData) Counters([]core.ID, []core.Counter) error { return nil }
func (d journalData) Reports(func(core.Reported))              {}
func (d journalData) Close() error                             { return nil }

// frame is an access frame that writes its own text.
type frame string

func (f frame) Append(b []byte) ([]byte, error) { return append(b, f...), nil }

func applier(j *journal) *Applier {
	return &Applier{Store: journalStore{j}, Data: journalData{j}, Write: func(kind string, pkts []core.Packet) error {
		for _, p := range pkts {
			j.note("send %s", p.B)
		}
		return nil
	}}
}

func persist(k, v string) core.Persist { return core.Persist{Key: []byte(k), Val: []byte(v)} }
func forward(id core.ID, ref core.Ref) core.Forward {
	return core.Forward{Ops: []core.Op{core.SetSession{ID: id}}, Ref: ref}
}

func TestApplyOrder(t *testing.T) {
	j := &journal{}
	done := applier(j).Apply(t.Context(), []Group{
		{core.Send{Body: frame("a")}, persist("a", "1"), forward(1, 0)},
		{persist("b", "1"), forward(2, 7), core.Send{Body: frame("b"), Ref: 8}},
	})
	want := []string{"commit a=1", "commit b=1", "forward 1", "forward 2", "send a", "send b"}
	if !slices.Equal(j.lines, want) {
		t.Errorf("order %q, want %q: nothing leaves before it is durable and forwarded", j.lines, want)
	}
	if !slices.Equal(done, []core.Event{core.Done{Ref: 7}, core.Done{Ref: 8}}) {
		t.Errorf("results %v", done)
	}
}

func TestApplyFailedCommit(t *testing.T) {
	j := &journal{failCommit: errors.New("disk full")}
	done := applier(j).Apply(t.Context(), []Group{
		{persist("a", "1"), forward(1, 5), core.Send{Body: frame("a"), Ref: 6}},
		{core.Send{Body: frame("refused"), Ref: 9}}, // needs no store
	})
	if want := []string{"commit a=1", "send refused"}; !slices.Equal(j.lines, want) {
		t.Errorf("did %q, want %q", j.lines, want)
	}
	for i, ref := range []core.Ref{5, 6} {
		if d := done[i].(core.Done); d.Ref != ref || !errors.Is(d.Err, j.failCommit) {
			t.Errorf("result %d is %v, want ref %d with the store's error", i, d, ref)
		}
	}
	if d := done[2].(core.Done); d.Ref != 9 || d.Err != nil {
		t.Errorf("the group without records got %v", d)
	}
}

func TestApplyFailedForward(t *testing.T) {
	j := &journal{failOp: 2}
	done := applier(j).Apply(t.Context(), []Group{
		{forward(1, 0), core.Send{Body: frame("one")}},
		{forward(2, 4), forward(22, 0), core.Send{Body: frame("two"), Ref: 5}},
		{forward(3, 0), core.Send{Body: frame("three")}},
	})
	if want := []string{"forward 1", "forward 3", "send one", "send three"}; !slices.Equal(j.lines, want) {
		t.Errorf("did %q, want %q: only the failed group stops", j.lines, want)
	}
	for i, ref := range []core.Ref{4, 5} {
		if d := done[i].(core.Done); d.Ref != ref || d.Err == nil {
			t.Errorf("result %d is %v, want ref %d with an error", i, d, ref)
		}
	}
}

func TestLazyRecords(t *testing.T) {
	j := &journal{}
	a := applier(j)
	lazy := func(k, v string) core.Persist {
		return core.Persist{Key: []byte(k), Val: []byte(v), Lazy: true}
	}
	a.Apply(t.Context(), []Group{{lazy("a", "1"), core.Send{Body: frame("refreshed")}}})
	a.Apply(t.Context(), []Group{{lazy("a", "2")}, {lazy("b", "1")}, {persist("b", "2")}})
	if err := a.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	want := []string{"send refreshed", "commit b=2", "commit a=2"}
	if !slices.Equal(j.lines, want) {
		t.Errorf("did %q, want %q: no message waits for a refresh, the newest wins, a strict record overtakes", j.lines, want)
	}
	if err := a.Flush(t.Context()); err != nil || len(j.lines) != 3 {
		t.Errorf("a second flush wrote again: %q, %v", j.lines, err)
	}
}

func TestRestoreSyncsForwarding(t *testing.T) {
	j := &journal{}
	a := applier(j)
	_, err := a.Restore(t.Context(), "lma1", func(ev core.Event) Group {
		r := ev.(core.Restored)
		if !r.Last {
			return Group{forward(7, 0)}
		}
		return Group{forward(8, 0), persist("restart", "2")}
	})
	if err != nil {
		t.Fatal(err)
	}
	if want := []string{"commit restart=2", "sync 7", "sync 8"}; !slices.Equal(j.lines, want) {
		t.Errorf("did %q, want %q", j.lines, want)
	}
	a.Apply(t.Context(), []Group{{forward(9, 0)}})
	if j.lines[len(j.lines)-1] != "forward 9" {
		t.Errorf("after the restart forwarding goes on by updates: %q", j.lines)
	}
}

// TestFailedCommitKeepsWhatWaited: a refresh that was acknowledged is not lost because a later change could not be written.
func TestFailedCommitKeepsWhatWaited(t *testing.T) {
	j := &journal{failCommit: errors.New("disk full")}
	a := applier(j)
	lazy := func(k, v string) core.Persist {
		return core.Persist{Key: []byte(k), Val: []byte(v), Lazy: true}
	}
	a.Apply(t.Context(), []Group{{lazy("a", "refreshed")}, {lazy("b", "old")}})
	a.Apply(t.Context(), []Group{{persist("a", "moved")}, {persist("b", "moved")}, {lazy("b", "new")}})
	j.lines, j.failCommit = nil, nil
	if err := a.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	slices.Sort(j.lines)
	if want := []string{"commit a=refreshed", "commit b=new"}; !slices.Equal(j.lines, want) {
		t.Errorf("wrote %q, want %q", j.lines, want)
	}
}

// TestFailureIsAlwaysTold: a group without any reference fails aloud.
func TestFailureIsAlwaysTold(t *testing.T) {
	full := errors.New("disk full")
	for name, c := range map[string]struct {
		j *journal
		g Group
	}{
		"records alone":            {&journal{failCommit: full}, Group{persist("a", "1")}},
		"records and forwarding":   {&journal{failCommit: full}, Group{persist("a", "1"), forward(1, 0)}},
		"forwarding alone":         {&journal{failOp: 1}, Group{forward(1, 0)}},
		"with a reference":         {&journal{failCommit: full}, Group{persist("a", "1"), forward(1, 5)}},
		"a message, no references": {&journal{failCommit: full}, Group{persist("a", "1"), core.Send{Body: frame("a")}}},
	} {
		done := applier(c.j).Apply(t.Context(), []Group{c.g})
		if len(done) != 1 || done[0].(core.Done).Err == nil {
			t.Errorf("%s: told %v, want one error", name, done)
		}
	}
}

// TestPromptRecords: a prompt record is written as soon as its round is carried out, with all that waits; no message waits for
// it, and a store that fails is told and tried again.
func TestPromptRecords(t *testing.T) {
	j := &journal{}
	a := applier(j)
	behind := func(k, v string, prompt bool) core.Persist {
		return core.Persist{Key: []byte(k), Val: []byte(v), Lazy: true, Prompt: prompt}
	}
	a.Apply(t.Context(), []Group{{behind("a", "1", false)}})
	a.Apply(t.Context(), []Group{{behind("a", "2", true), forward(1, 0), core.Send{Body: frame("answer")}}})
	if want := []string{"forward 1", "send answer", "commit a=2"}; !slices.Equal(j.lines, want) {
		t.Errorf("did %q, want %q", j.lines, want)
	}
	j.failCommit = errors.New("disk full")
	done := a.Apply(t.Context(), []Group{{behind("b", "1", true), core.Send{Body: frame("sent"), Ref: 3}}})
	if len(done) != 2 || done[0] != (core.Done{Ref: 3}) || !errors.Is(done[1].(core.Done).Err, j.failCommit) {
		t.Errorf("results %v", done)
	}
	j.lines, j.failCommit = nil, nil
	a.Apply(t.Context(), []Group{{core.Send{Body: frame("other")}}})
	if err := a.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	if want := []string{"send other", "commit b=1"}; !slices.Equal(j.lines, want) {
		t.Errorf("did %q, want %q", j.lines, want)
	}
}

// journalSecurity notes what becomes of tunnels.
type journalSecurity struct{ *journal }

func (s journalSecurity) UpdateEndpoint(peer string, home, local, remote netip.Addr) error {
	s.note("tunnel %s %v", peer, remote)
	if peer == "stranger" {
		return errors.New("no peer")
	}
	return nil
}

// TestTunnelsOfWhatFailed: a group that failed moves no tunnel, but it ends one: its machine takes the rest up again, and nobody has the
// tunnel meanwhile.
func TestTunnelsOfWhatFailed(t *testing.T) {
	home, at := netip.MustParseAddr("2001:db8::5"), netip.MustParseAddr("2001:db8:c::7")
	for _, c := range []struct {
		name string
		e    core.Endpoint
		op   int // that fails
		want []string
		fail bool
	}{
		{"moved", core.Endpoint{Peer: "mn1", Home: home, Local: at, Remote: at}, 0, []string{"forward 1", "tunnel mn1 2001:db8:c::7", "send"}, false},
		{"moved, forwarding fails", core.Endpoint{Peer: "mn1", Home: home, Local: at, Remote: at}, 1, nil, true},
		{"ended, forwarding fails", core.Endpoint{Peer: "mn1", Home: home}, 1, []string{"tunnel mn1 invalid IP"}, true},
		{"not known", core.Endpoint{Peer: "stranger", Home: home, Local: at, Remote: at}, 0, []string{"forward 1", "tunnel stranger 2001:db8:c::7"}, true},
	} {
		j := &journal{failOp: c.op}
		a := Applier{Data: journalData{j}, Security: journalSecurity{j}, Write: func(string, []core.Packet) error { j.note("send"); return nil }}
		send := core.Send{Path: core.Path{Local: netip.AddrPortFrom(home, 0), Remote: netip.AddrPortFrom(at, 0)}, Body: &mobility.BindingRefreshRequest{}}
		done := a.Apply(context.Background(), []Group{{send, core.Forward{Ops: []core.Op{core.SetSession{ID: 1}}}, c.e}})
		done = slices.DeleteFunc(done, func(ev core.Event) bool { return ev.(core.Done).Err == nil })
		if !slices.Equal(j.lines, c.want) {
			t.Errorf("%s: %q, want %q", c.name, j.lines, c.want)
		}
		if failed := len(done) > 0; failed != c.fail {
			t.Errorf("%s: %v", c.name, done)
		}
	}
}
