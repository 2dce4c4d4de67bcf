package node

import (
	"errors"
	"net/netip"
	"slices"
	"testing"

	"kedge/internal/core"
	"kedge/internal/spec"
	"kedge/wire/nd"
)

// TestEndpointsFollowTheBinding: the tunnel of the associations is where that of data is, in either family; at home there is none.
func TestEndpointsFollowTheBinding(t *testing.T) {
	spec.Covers(t, "RFC4877-4.3")
	r := newRig(t, nil)
	want := func(when string, local, remote netip.Addr) {
		t.Helper()
		if e := (core.Endpoint{Peer: "ha1", Home: hoa6, Local: local, Remote: remote}); !slices.Equal(r.m.ends, []core.Endpoint{e}) {
			t.Errorf("%s: %v, want %v", when, r.m.ends, e)
		}
	}
	want("before a binding", netip.Addr{}, netip.Addr{}) // the policy knows the home address all the same
	first, second, third := r.net(1, "2001:db8:c::1"), r.net(2, "2001:db8:d::1"), r.net(3, "192.0.2.77")
	r.show(first)
	r.run(1 * sec)
	want("bound", first.care.Addr, ha6)
	r.show(second)
	r.run(5 * sec)
	want("moved", second.care.Addr, ha6)
	r.show(third)
	r.run(5 * sec)
	want("over IPv4", third.care.Addr, ha4)
	link := r.net(4, "2001:db8:2000::99")
	link.care.Home = true
	r.show(link)
	r.run(10 * sec)
	r.wantState(home)
	want("at home", netip.Addr{}, netip.Addr{})
}

// TestEndpointsAreToldOnce: every change is an effect of the event that it came with, and nothing else is; without ESP there is none.
func TestEndpointsAreToldOnce(t *testing.T) {
	for _, protection := range []string{"esp", "rfc4285", "none"} {
		r := newRig(t, func(c *Config) { c.Anchor.Protection = protection })
		var told []core.Endpoint
		r.data = func([]core.Op) error { return nil }
		r.show(r.net(1, "2001:db8:c::1"))
		r.run(1 * sec)
		for range 20 {
			for _, e := range r.m.Handle(r.now, core.Tick{}, nil) {
				if e, ok := e.(core.Endpoint); ok {
					told = append(told, e)
				}
			}
		}
		if len(told) != 0 {
			t.Errorf("%s: %v without a change", protection, told)
		}
		r.m.unbind()
		for _, e := range r.m.Handle(r.now, core.Tick{}, nil) {
			if e, ok := e.(core.Endpoint); ok {
				told = append(told, e)
			}
		}
		if want := map[string]int{"esp": 1}[protection]; len(told) != want || want == 1 && told[0] != (core.Endpoint{Peer: "ha1", Home: hoa6}) {
			t.Errorf("%s: %v when the binding ends", protection, told)
		}
	}
}

// TestEndpointsAreToldAgain: with what moves a tunnel something else may fail, and the tunnel does not move then.
func TestEndpointsAreToldAgain(t *testing.T) {
	r := newRig(t, func(c *Config) { c.Anchor.Protection = "esp" })
	r.data = func([]core.Op) error { return errors.New("no room") }
	var applied core.Endpoint // as loop.Applier has it
	step := func(ev core.Event) {
		var failed bool
		var moved []core.Endpoint
		for _, e := range r.m.Handle(r.now, ev, nil) {
			switch e := e.(type) {
			case core.Forward:
				failed = true
				r.after(0, func() { r.handle(core.Done{Ref: e.Ref, Err: errors.New("no room")}) })
			case core.Endpoint:
				moved = append(moved, e)
			}
		}
		if !failed && len(moved) > 0 {
			applied = moved[len(moved)-1]
		}
	}
	n := r.net(1, "2001:db8:c::1")
	r.show(n)
	r.run(sec)
	r.data = nil
	at, ok := r.m.Deadline()
	for i := 0; ok && i < 10 && applied.Remote != ha6; i++ {
		r.now.Wall, r.now.Boot = r.now.Wall.Add(max(at-r.now.Boot, 0)), max(at, r.now.Boot)
		step(core.Tick{})
		r.run(0)
		at, ok = r.m.Deadline()
	}
	if want := (core.Endpoint{Peer: "ha1", Home: hoa6, Local: n.care.Addr, Remote: ha6}); applied != want {
		t.Errorf("%v, want %v", applied, want)
	}
	if r.m.endsAt != never && r.m.endsAt <= r.now.Boot {
		t.Error("they are told for ever")
	}
}

// TestNoTestsWhereESPCarriesNone: over IPv4 ESP in tunnel mode is not there, so with its keys no correspondent is tried.
func TestNoTestsWhereESPCarriesNone(t *testing.T) {
	for _, guarded := range []bool{false, true} {
		r := newRig(t, func(c *Config) { c.Anchor.Protection, c.Anchor.Guarded = "esp", guarded })
		four, six := r.net(1, "192.0.2.77"), r.net(1, "2001:db8:c::1")
		six.loss, six.noUp = 1, true // the home agent is not reached by it
		r.show(four)
		r.run(5 * sec)
		r.wantState(active)
		r.show(four, six)
		r.run(sec / 2)
		if !r.m.bind.careOf.Addr.Is4() {
			t.Fatalf("bound at %v", r.m.bind.careOf.Addr)
		}
		if p := r.m.place(); p.CareOf.IsValid() == guarded {
			t.Errorf("guarded %v: optimizes from %v", guarded, p.CareOf)
		}
	}
}

// TestEndpointsOfHomeAddresses: of every home address as soon as there is one; with a tunnel when the home agent has its binding, and
// without when the node ends.
func TestEndpointsOfHomeAddresses(t *testing.T) {
	r, n, h := renumbering(t, func(c *Config) { c.Anchor.Protection = "esp" })
	h.options = nd.Options{info(oldPrefix, 0, 100), info(newPrefix, 1000, 4000)}
	h.tell(n)
	of := func(home netip.Addr) (es []core.Endpoint) {
		for _, e := range r.ends {
			if e.Home == home {
				es = append(es, e)
			}
		}
		return es
	}
	r.until(2*sec, func() bool { return len(of(newHoA)) > 1 })
	want := []core.Endpoint{{Peer: "ha1", Home: newHoA}, {Peer: "ha1", Home: newHoA, Local: n.care.Addr, Remote: ha6}}
	if es := of(newHoA); !slices.Equal(es, want) {
		t.Fatalf("%v, want %v", es, want)
	}
	r.handle(core.Command{Ref: 5, Body: core.Stop{}})
	r.run(30 * sec)
	r.wantState(stopped)
	for _, home := range []netip.Addr{hoa6, newHoA} {
		if es := of(home); len(es) == 0 || es[len(es)-1].Remote.IsValid() {
			t.Errorf("stopped: %v", es)
		}
	}
}

// TestEndpointsOfHomeAgents: at another home agent the home address has a tunnel to that, and none to the former, which ends first.
func TestEndpointsOfHomeAgents(t *testing.T) {
	r, n := served(t, nil)
	r.ends = nil
	r.ask(n, haA, espA, haB)
	r.run(10 * sec)
	r.wantState(active)
	var last [2]int
	for i, e := range r.ends {
		switch {
		case e.Peer == "ha1" && !e.Remote.IsValid():
			last[0] = i + 1
		case e.Peer == "ha2" && e.Remote == haB:
			last[1] = i + 1
		case e.Remote.IsValid():
			t.Errorf("%v", e)
		}
	}
	if last[0] == 0 || last[1] <= last[0] {
		t.Errorf("%v", r.ends)
	}
}
