package node

import (
	"net/netip"
	"slices"
	"testing"

	"kedge/internal/core"
	"kedge/internal/spec"
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
