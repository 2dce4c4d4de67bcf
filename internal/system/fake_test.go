package system

import (
	"context"
	"errors"
	"net"
	"slices"
	"testing"
	"time"

	"kedge/internal/core"
)

func TestFakeApply(t *testing.T) {
	f := NewFake(core.Now{Boot: time.Hour})
	full := errors.New("no room")
	f.Script = func(op core.HostOp) error {
		if op.Name == "full" {
			return full
		}
		return nil
	}
	r := core.HostOp{Kind: "route", Prefix: pfx("10.20.0.0/16"), Name: "kedge0"}
	moved := r
	moved.Name = "kedge1"
	err := f.Apply([]core.HostOp{r, moved, {Kind: "route", Prefix: pfx("10.30.0.0/16"), Name: "full"}, {Kind: "address"}})
	var oe *core.OpError
	if !errors.As(err, &oe) || oe.Index != 2 || !errors.Is(err, full) {
		t.Errorf("error %v", err)
	}
	if f.Holds(r) || !f.Holds(moved) || f.Count("route") != 1 || len(f.Applied()) != 2 {
		t.Errorf("applied %v", f.Applied())
	}
	moved.Del = true
	must(t, f.Apply([]core.HostOp{moved, moved}))
	if f.Count("route") != 0 {
		t.Error("the route is still there")
	}
	if err := f.Apply([]core.HostOp{{Kind: "teapot"}}); err == nil {
		t.Error("an unknown kind was applied")
	}
	f.Advance(time.Second)
	f.StepWall(time.Hour)
	if now := f.Now(); now.Boot != time.Hour+time.Second || !now.Wall.Equal(time.Time{}.Add(time.Hour+time.Second)) {
		t.Errorf("now %v", now)
	}
}

func TestFakeWatchAndPort(t *testing.T) {
	f := NewFake(core.Now{})
	up := core.HostChanged{Op: core.HostOp{Kind: "link", Name: "acc0", If: 3}, Up: true}
	f.Tell(up)
	ctx, cancel := context.WithCancel(t.Context())
	got := make(chan core.HostChanged, 10)
	ended := make(chan error)
	go func() { ended <- f.Watch(ctx, func(c core.HostChanged) { got <- c }) }()
	down := up
	down.Up = false
	for i, want := range []core.HostChanged{up, {Synced: true}, down} {
		if i == 2 {
			f.Tell(down)
		}
		if c := <-got; c != want {
			t.Errorf("change %d is %+v, want %+v", i, c, want)
		}
	}
	cancel()
	if err := <-ended; err != nil {
		t.Errorf("Watch = %v", err)
	}

	p, err := f.Open("mh")
	must(t, err)
	b := []byte("in")
	f.Port("mh").Inject(core.Packet{B: b})
	b[0] = 'X'
	into := make([]core.Packet, 2)
	if n, err := p.Read(into); n != 1 || err != nil || string(into[0].B) != "in" {
		t.Errorf("Read = %d, %v, %q", n, err, into[0].B)
	}
	f.Port("mh").Script = func(k core.Packet) error {
		if string(k.B) == "stuck" {
			return errors.New("stuck")
		}
		return nil
	}
	if n, err := p.Write([]core.Packet{{B: []byte("one")}, {B: []byte("stuck")}, {B: []byte("two")}}); n != 2 || err == nil {
		t.Errorf("Write = %d, %v", n, err)
	}
	var out []string
	for _, k := range f.Port("mh").Sent() {
		out = append(out, string(k.B))
	}
	if !slices.Equal(out, []string{"one", "two"}) {
		t.Errorf("sent %q", out)
	}
	done := make(chan error)
	go func() { _, err := p.Read(into); done <- err }()
	must(t, p.Close())
	if err := <-done; !errors.Is(err, net.ErrClosed) {
		t.Errorf("Read = %v", err)
	}
	if _, err := p.Write(nil); !errors.Is(err, net.ErrClosed) {
		t.Errorf("Write = %v", err)
	}
	if again, _ := f.Open("mh"); again == p {
		t.Error("a closed port was opened again")
	}
	f.OpenError = func(kind string, _ []string) error { return errors.New(kind) }
	if _, err := f.Open("access", "acc0"); err == nil {
		t.Error("OpenError was not asked")
	}
}
