package node

import (
	"net/netip"
	"slices"
	"testing"
	"time"

	"kedge/internal/core"
	"kedge/wire/mobility"
)

// homeRig is a node that comes home from an IPv6 network.
func homeRig(t *testing.T) (r *rig, away, at *netw) {
	t.Helper()
	r, away = v6rig(t, nil)
	r.run(sec)
	at = r.net(4, "2001:db8:2000::99")
	at.care.Home, at.care.Router = true, netip.MustParseAddr("fe80::1")
	r.forget()
	return r, away, at
}

func TestReturningHome(t *testing.T) {
	r, _, at := homeRig(t)
	at.delay = 50 * ms
	r.show(at)
	r.wantState(returning)

	// The Binding Update comes from the home address itself, on the home link, after the route for it is there.
	s, bu := r.lastUpdate()
	p := packet(t, s)
	if p.Src != hoa6 || p.Dst != ha6 || p.SrcHome.IsValid() || s.Path.If != 4 || s.Path.Outer.N != 0 || s.Path.Auth.Kind != "esp" {
		t.Errorf("sent as %+v by %+v", p, s.Path)
	}
	if bu.Flags != mobility.BUAck|mobility.BUHome || bu.Lifetime != 0 {
		t.Errorf("flags %v, lifetime %d", bu.Flags, bu.Lifetime)
	}
	wantOptions(t, bu, mobility.AlternateCareOf{Addr: hoa6})
	route := core.HostOp{Kind: "route", Prefix: host(ha6), Table: DefaultTable, Name: "if4", If: 4, Via: at.care.Router}
	if got := r.host[name(&route)]; got != route {
		t.Errorf("route to the home agent: %+v", got)
	}
	// Nothing is claimed yet: no address on the link, and the tunnel stays.
	if want := []string{"expect 4 [2001:db8:2000::5/64 10.20.0.5/16]"}; !slices.Equal(r.links.claims, want) {
		t.Errorf("claims %v", r.links.claims)
	}
	if len(r.ops) != 0 || !r.m.session.up {
		t.Errorf("the tunnel was touched: %v", r.ops)
	}

	r.run(100 * ms)
	r.wantState(home)
	if want := "claim 4 [2001:db8:2000::5/64 10.20.0.5/16]"; len(r.links.claims) != 2 || r.links.claims[1] != want {
		t.Errorf("claims %v", r.links.claims)
	}
	if !slices.Equal(r.ops, []core.Op{core.Drop{ID: 1}}) || r.m.bound() || r.agent.bound() || len(r.list()) != 0 {
		t.Errorf("forwarding %v, bound %v, list %v", r.ops, r.m.bound(), r.list())
	}
	r.forget()
	r.run(time.Hour)
	if len(r.sent) != 0 {
		t.Errorf("at home the node sent %v", r.sent)
	}
}

// TestReturnIsNotAnswered: a binding may be left, so the home address is not used before its end.
func TestReturnIsNotAnswered(t *testing.T) {
	r, _, at := homeRig(t)
	r.agent.down = true
	r.show(at)
	r.run(598 * sec)
	r.wantState(returning)
	if len(r.links.claims) != 1 {
		t.Errorf("claims %v", r.links.claims)
	}
	r.wantTimes(1050*ms, 2050*ms, 4050*ms, 8050*ms, 16050*ms, 32050*ms, 64050*ms, 96050*ms, 128050*ms, 160050*ms, 192050*ms, 224050*ms, 256050*ms, 288050*ms,
		320050*ms, 352050*ms, 384050*ms, 416050*ms, 448050*ms, 480050*ms, 512050*ms, 544050*ms, 576050*ms)
	r.run(40 * sec)
	r.wantState(home)
}

// TestBootAtHome: no binding is known of. The home agent says so, or does not answer three times.
func TestBootAtHome(t *testing.T) {
	for _, down := range []bool{false, true} {
		r := newRig(t, nil)
		at := r.net(4, "2001:db8:2000::99")
		at.care.Home = true
		r.agent.down = down
		r.show(at)
		r.run(20 * ms)
		if !down {
			r.wantState(home) // status 133
			continue
		}
		r.run(15 * sec)
		r.wantState(home)
		r.wantTimes(0, 1500*ms, 4500*ms, 10500*ms)
	}
}

// TestDeregistrationRefused is tried again.
func TestDeregistrationRefused(t *testing.T) {
	r, _, at := homeRig(t)
	r.agent.status = mobility.InsufficientResources
	r.show(at)
	r.run(1500 * ms)
	r.wantState(returning)
	r.agent.status = mobility.Accepted
	r.run(2 * sec)
	r.wantState(home)
}

func TestLeavingHome(t *testing.T) {
	r, away, at := homeRig(t)
	r.show(at)
	r.run(sec)
	r.wantState(home)
	r.forget()
	r.show(away)
	r.wantState(registering)
	if c := r.links.claims; c[len(c)-1] != "release 0 []" {
		t.Errorf("claims %v", c)
	}
	r.run(20 * ms)
	if !r.ok() || r.m.session.id != 2 {
		t.Errorf("not bound, or by the old session: %s", r.story())
	}
	route := core.HostOp{Kind: "route", Prefix: all6, Table: DefaultTable, Name: "kedge0", Src: hoa6, MTU: 1460}
	if got := r.host[name(&route)]; got != route {
		t.Errorf("default route %+v", got)
	}
}

// TestHomeForAMoment: away again before the home agent has answered.
func TestHomeForAMoment(t *testing.T) {
	for _, heard := range []bool{true, false} {
		r, away, at := homeRig(t)
		at.delay = 30 * ms
		at.down = !heard
		r.show(at)
		r.run(40 * ms)
		r.show(away)
		r.run(5 * sec)
		if !r.ok() || r.agent.net != away {
			t.Errorf("deregistration heard %v: not bound: %s", heard, r.story())
		}
	}
}

// TestHomeBesideOthers: the home link counts, whatever else is there.
func TestHomeBesideOthers(t *testing.T) {
	r, away, at := homeRig(t)
	at.care.Prefer = 1000
	r.show(away, at)
	r.run(sec)
	r.wantState(home)
}

// TestSilentHomeRouter: after a flap of the link, home is doubtful while another router answers on it. Another link alone does
// not take a node away from home.
func TestSilentHomeRouter(t *testing.T) {
	r, away, at := homeRig(t)
	r.show(at)
	r.run(sec)
	r.wantState(home)
	at.care.Suspect = true
	r.show(at, away)
	r.wantState(home)
	onLink := r.net(at.care.If, "2001:db8:3::7")
	r.show(at, onLink)
	r.run(50 * ms)
	if !r.ok() || r.agent.net != onLink {
		t.Errorf("not away: %s", r.story())
	}
	at.care.Suspect = false
	r.show(onLink, at)
	r.run(50 * ms)
	r.wantState(home)

	// A link that came back: no deregistration while home is in doubt.
	r.show()
	at.care.Suspect = true
	r.forget()
	r.show(at, away)
	if _, bu := r.lastUpdate(); bu.Lifetime == 0 {
		t.Error("deregistered in doubt")
	}
}

func TestStop(t *testing.T) {
	for _, c := range []struct {
		name    string
		prepare func(*rig, *netw)
		within  time.Duration
		sends   int
	}{
		{"away", func(*rig, *netw) {}, 20 * ms, 1},
		{"away, without answer", func(r *rig, _ *netw) { r.agent.down = true }, 7 * sec, 3},
		{"without a network", func(r *rig, _ *netw) { r.show() }, 0, 0},
		{"at home", func(r *rig, n *netw) {
			n.care.Home = true
			r.show(n)
			r.run(sec)
			r.forget()
		}, 0, 0},
		{"while registering", func(r *rig, n *netw) {
			r.agent.net, n.down = nil, true
			r.run(700 * sec)
			r.forget()
			n.down = false
		}, 20 * ms, 1},
	} {
		t.Run(c.name, func(t *testing.T) {
			r, n := v6rig(t, nil)
			r.run(sec)
			r.forget()
			c.prepare(r, n)
			r.forget()
			r.handle(core.Command{Ref: 5, Body: core.Stop{}})
			r.handle(core.Command{Ref: 6, Body: core.Stop{}})
			r.run(c.within)
			r.wantState(stopped)
			us, _ := r.updates()
			if len(us) != c.sends {
				t.Errorf("%d Binding Updates, want %d", len(us), c.sends)
			}
			for _, s := range us {
				if bu := s.Body.(*mobility.BindingUpdate); bu.Lifetime != 0 || s.Path.Local.Addr() != n.care.Addr {
					t.Errorf("sent %+v by %+v", bu, s.Path)
				}
			}
			if len(r.reply) != 2 {
				t.Errorf("replies %+v", r.reply)
			}
			for _, op := range r.host {
				if op.Kind != "link" {
					t.Errorf("left on the host: %+v", op)
				}
			}
			if c := r.links.claims; c[len(c)-1] != "close 0 []" {
				t.Errorf("claims %v", c)
			}
			r.handle(core.Command{Ref: 7, Body: core.Stop{}})
			if len(r.reply) != 3 {
				t.Error("a stopped node does not answer")
			}
			if _, ok := r.m.Deadline(); ok {
				t.Error("a stopped node has a deadline")
			}
		})
	}
}
