package anchor

import (
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"kedge/internal/core"
	"kedge/internal/spec"
	"kedge/wire"
	"kedge/wire/mobility"
	"kedge/wire/nd"
)

func (r *rig) switchTo(c core.Switch) core.Switched {
	r.t.Helper()
	r.handle(core.Command{Ref: 1, Body: c})
	if r.reply.Err != nil {
		r.t.Fatal(r.reply.Err)
	}
	return r.reply.Body.(core.Switched)
}

// TestHomeAgentSwitch: nodes are told in turn, under ESP, where to go, until they have deregistered; who stays is refused a longer
// lifetime (RFC 5142 5).
func TestHomeAgentSwitch(t *testing.T) {
	spec.Covers(t, "RFC5142-5.1", "RFC5142-5.2", "RFC5142-5.3")
	r := startHosts(t, discovering)
	r.status(native(hoa1, coa1), 0)
	r.status(native(hoa2, coa2), 0)
	r.status(native(hoa6, coa1), 0) // unprotected
	r.overhear(other(60000, 9))
	r.sent = nil
	s := r.switchTo(core.Switch{Within: 100 * time.Second})
	if s.Nodes != 2 || s.Told != 1 || s.Unprotected != 1 || !s.All {
		t.Errorf("%+v", s)
	}
	got, paths := bodies[*mobility.HomeAgentSwitch](r)
	if len(got) != 1 {
		t.Fatalf("%d sent", len(got))
	}
	if a, ok := got[0].Options.BindingRefreshAdvice(); !slices.Equal(got[0].Addresses, []netip.Addr{addr2}) || !ok || a.Interval != 25 || paths[0] != native(hoa1, coa1).path() {
		t.Fatalf("%+v by %+v", got, paths)
	}
	if b := r.one(mn1); !b.Expires.Equal(r.now.Wall.Add(100 * time.Second)) {
		t.Errorf("the binding ends at %v", b.Expires)
	}
	r.pass(time.Second)
	if got, paths := bodies[*mobility.HomeAgentSwitch](r); len(got) != 1 || paths[0].Home != hoa2 {
		t.Errorf("%+v by %+v", got, paths)
	}
	// A refresh is refused, a move followed for the time that is left, and who has not been here is refused.
	r.status(native(hoa1, coa1), mobility.AdministrativelyProhibited)
	if a := r.status(native(hoa1, coa2), 0); a.Lifetime != 24 {
		t.Errorf("a move gets %d units", a.Lifetime)
	}
	r.status(native(hoa3, coa1), mobility.AdministrativelyProhibited)
	if r.m.refused[wire.HomeAgentSwitched] != 2 {
		t.Errorf("%v", r.m.refused)
	}
	r.pass(4 * time.Second)
	if got, paths := bodies[*mobility.HomeAgentSwitch](r); len(got) != 1 || paths[0].Remote.Addr() != coa2 || paths[0].Home != hoa1 {
		t.Errorf("again: %+v by %+v", got, paths)
	}
	// While they leave nobody finds back.
	if got := r.request(coa1, nd.HomeAgentsAnycast(homeSubnet), 1); got == nil || !slices.Equal(got.Addresses, []netip.Addr{addr2}) {
		t.Errorf("%+v", got)
	}
	r.status(atHome(hoa1), 0)
	if s := r.switchTo(core.Switch{Show: true}); s.Nodes != 1 || s.Gone != 1 {
		t.Errorf("%+v", s)
	}
	// The other does not know the message.
	r.sent = nil
	r.handle(core.Message{Path: core.Path{Local: netip.AddrPortFrom(lmaa, 0), Remote: netip.AddrPortFrom(coa2, 0)},
		Body: &mobility.BindingError{Status: mobility.UnrecognizedMHType, Home: hoa2}})
	if s := r.switchTo(core.Switch{Show: true}); s.Deaf != 1 {
		t.Errorf("%+v", s)
	}
	r.pass(80 * time.Second)
	if got, _ := bodies[*mobility.HomeAgentSwitch](r); len(got) != 0 || r.one(mn2).State != "active" {
		t.Errorf("%d sent to who does not understand", len(got))
	}
	r.pass(20 * time.Second) // the binding ends when it was said to
	if s := r.switchTo(core.Switch{Show: true}); s.Nodes != 0 || s.Gone != 2 || !s.On {
		t.Errorf("%+v", s)
	}
	if st := r.m.status(); st.Switching == nil || st.Switching.Gone != 2 {
		t.Errorf("%+v", st.Switching)
	}
	r.status(native(hoa1, coa1), mobility.AdministrativelyProhibited)
	r.switchTo(core.Switch{Stop: true})
	r.status(native(hoa1, coa1), 0)
}

// TestSwitchOne: one node goes, to where the command says; others stay and come.
func TestSwitchOne(t *testing.T) {
	r := startHosts(t)
	r.status(native(hoa1, coa1), 0)
	r.status(native(hoa2, coa2), 0)
	r.sent = nil
	to := []netip.Addr{ip("2001:db8:77::1"), ip("2001:db8:77::2")}
	if s := r.switchTo(core.Switch{ID: mn1, To: to}); s.Nodes != 1 || s.All {
		t.Errorf("%+v", s)
	}
	got, _ := bodies[*mobility.HomeAgentSwitch](r)
	if len(got) != 1 || !slices.Equal(got[0].Addresses, to) || got[0].Options != nil {
		t.Fatalf("%+v", got)
	}
	r.status(native(hoa2, coa2), 0)
	r.status(native(hoa3, coa1), 0)
	r.pass(35 * time.Second)
	if got, _ := bodies[*mobility.HomeAgentSwitch](r); len(got) != 3 { // after 5, 15 and 35 s
		t.Errorf("%d times again", len(got))
	}
	for _, c := range []struct {
		c    core.Switch
		want string
	}{
		{core.Switch{ID: "nobody"}, "no node nobody"},
		{core.Switch{To: []netip.Addr{lmaa}}, "another home agent"},
		{core.Switch{To: []netip.Addr{ip("10.0.0.1")}}, "another home agent"},
		{core.Switch{To: []netip.Addr{ip("fe80::1")}}, "another home agent"},
		{core.Switch{To: make([]netip.Addr, 33)}, "at most"},
		{core.Switch{Within: time.Second}, "4s"},
		{core.Switch{Within: -1}, "at most"},
		{core.Switch{Rate: 1001}, "1000"},
	} {
		r.handle(core.Command{Ref: 1, Body: c.c})
		if r.reply.Err == nil || !strings.Contains(r.reply.Err.Error(), c.want) {
			t.Errorf("%+v: %v, want %q", c.c, r.reply.Err, c.want)
		}
	}
	gateways := start(t)
	gateways.handle(core.Command{Ref: 1, Body: core.Switch{}})
	if gateways.reply.Err == nil {
		t.Error("an anchor without mobile nodes sends some away")
	}
}
