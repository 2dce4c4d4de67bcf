package node

import (
	"net/netip"
	"slices"
	"testing"
	"time"

	"kedge/internal/core"
	"kedge/internal/spec"
	"kedge/wire/mobility"
)

// served is a node with two home agents, registered with the first.
func served(t *testing.T, change func(*Config)) (*rig, *netw) {
	t.Helper()
	r, n := discovering(t, change)
	r.replying(haA, haB)
	r.show(n)
	r.run(sec)
	r.wantState(active)
	r.forget()
	return r, n
}

// ask sends a Home Agent Switch message of a home agent.
func (r *rig) ask(n *netw, from netip.Addr, auth core.Auth, list ...netip.Addr) {
	r.handle(core.Message{Path: core.Path{If: 1, Local: addrPort(n.care.Addr), Remote: addrPort(from), Own: hoa6, Auth: auth},
		Body: &mobility.HomeAgentSwitch{Addresses: list}})
}

var espA = core.Auth{Kind: "esp", Peer: "ha1"}

// TestHomeAgentSwitch: the binding is deleted there, which acknowledges the message; then the next of the list has it.
func TestHomeAgentSwitch(t *testing.T) {
	spec.Covers(t, "RFC5142-6.1", "RFC5142-6.2")
	r, n := served(t, nil)
	begun := r.elapsed()
	r.ask(n, haA, espA, haB)
	us, at := r.updates()
	if len(us) != 1 || us[0].Path.Remote.Addr() != haA || us[0].Path.Auth.Peer != "ha1" || us[0].Body.(*mobility.BindingUpdate).Lifetime != 0 || at[0] != begun {
		t.Fatalf("%+v at %v", us, at)
	}
	r.run(20 * ms)
	us, at = r.updates()
	if len(us) != 2 || us[1].Path.Remote.Addr() != haB || us[1].Path.Auth.Peer != "ha2" || at[1]-begun != 20*ms {
		t.Fatalf("%+v at %v", us, at)
	}
	r.run(20 * ms)
	if r.wantState(active); r.more[haA].bound() || !r.more[haB].bound() || r.session(haB) {
		t.Errorf("bound at %v", r.m.ha.v6)
	}
	r.run(time.Hour)
	if r.m.ha.v6 != haB {
		t.Errorf("with %v", r.m.ha.v6)
	}
}

// session says whether the tunnel goes elsewhere.
func (r *rig) session(to netip.Addr) bool { return r.m.session.chain.Layer[0].Remote.Addr() != to }

// TestHomeAgentSwitchLost: the former home agent does not answer any more: three times, then the next is not kept waiting. That it
// repeats itself makes the next try come at once.
func TestHomeAgentSwitchLost(t *testing.T) {
	r, n := served(t, nil)
	begun := r.elapsed()
	r.more[haA].down = true
	r.ask(n, haA, espA, haB)
	r.run(500 * ms)
	r.ask(n, haA, espA, haB)
	r.run(10 * sec)
	to, at := r.bus()
	if !slices.Equal(to, []netip.Addr{haA, haA, haA, haB}) || at[1]-begun != 500*ms || at[2]-at[1] != 2*sec || at[3]-at[2] != 4*sec {
		t.Errorf("%v at %v", to, at)
	}
	r.wantState(active)
}

// TestHomeAgentSwitchEmpty: without a list home agents are discovered, and the one that wants to be left comes last.
func TestHomeAgentSwitchEmpty(t *testing.T) {
	spec.Covers(t, "RFC5142-4", "RFC5142-6.1")
	r, n := served(t, nil)
	r.ask(n, haA, espA)
	r.run(2 * sec)
	if len(r.queries()) != 1 || r.m.ha.v6 != haB {
		t.Errorf("asked at %v, with %v: %s", r.queries(), r.m.ha.v6, r.story())
	}
	r.run(5 * sec)
	r.wantState(active)
}

// TestHomeAgentSwitchForged: without ESP, by another association, of whom we do not know, or of one that speaks for others.
func TestHomeAgentSwitchForged(t *testing.T) {
	spec.Covers(t, "RFC5142-6.1")
	r, n := served(t, nil)
	for _, c := range []struct {
		from netip.Addr
		auth core.Auth
		list []netip.Addr
	}{
		{haA, core.Auth{Kind: "none"}, []netip.Addr{haB}},
		{haA, core.Auth{Kind: "esp", Peer: "ha2"}, []netip.Addr{haB}},
		{haA, core.Auth{Kind: "rfc4285", Peer: "ha1"}, []netip.Addr{haB}},
		{ha6, espA, []netip.Addr{haB}},
		{haB, core.Auth{Kind: "esp", Peer: "ha2"}, nil},
		{haB, core.Auth{Kind: "esp", Peer: "ha2"}, []netip.Addr{haA}},
		{haB, core.Auth{Kind: "esp", Peer: "ha2"}, []netip.Addr{haB, haA}},
	} {
		r.ask(n, c.from, c.auth, c.list...)
	}
	r.run(sec)
	if us, _ := r.updates(); len(us) > 0 || r.m.ha.v6 != haA {
		t.Errorf("%d Binding Updates, with %v", len(us), r.m.ha.v6)
	}
	// One that takes over for another, and says so itself (RFC 5142 5.1).
	r.ask(n, haB, core.Auth{Kind: "esp", Peer: "ha2"}, haB)
	r.run(sec)
	if r.wantState(active); r.m.ha.v6 != haB {
		t.Errorf("with %v", r.m.ha.v6)
	}
}

// TestHomeAgentSwitchNowhere: no other home agent is known. The one there is goes on being used until it refuses.
func TestHomeAgentSwitchNowhere(t *testing.T) {
	r, n := served(t, func(c *Config) { c.Anchor.Discover, c.Anchor.V6, c.Anchor.Peers = false, haA, nil })
	r.ask(n, haA, espA, haA)
	r.run(sec)
	if r.wantState(active); r.m.ha.v6 != haA {
		t.Errorf("with %v: %s", r.m.ha.v6, r.story())
	}
}

// TestHomeAgentSwitchWithTwoAddresses: every home address leaves.
func TestHomeAgentSwitchWithTwoAddresses(t *testing.T) {
	r, n := served(t, func(c *Config) { c.Home.Prefixes = []netip.Prefix{newPrefix} })
	r.m.also = append(r.m.also, &also{home: netip.PrefixFrom(newHoA, 64), agent: haA, careOf: n.care, expires: r.now.Boot + time.Hour, next: r.now.Boot + time.Hour})
	r.ask(n, haA, espA, haB)
	us, _ := r.updates()
	if len(us) != 2 || us[0].Path.Own != hoa6 || us[1].Path.Own != newHoA {
		t.Errorf("%+v", us)
	}
}

// TestHomeAgentSwitchWithManyAddresses: three Binding Updates in any second to one home agent are the most (RFC 6275 11.8), whose answers come
// meanwhile; and each that is not answered is repeated.
func TestHomeAgentSwitchWithManyAddresses(t *testing.T) {
	spec.Covers(t, "RFC6275-11.8")
	for _, down := range []bool{false, true} {
		r, n := served(t, func(c *Config) { c.Home.Prefixes = []netip.Prefix{newPrefix} })
		want := []netip.Addr{hoa6}
		for range 6 {
			home := newHoA
			for range len(want) {
				home = home.Next()
			}
			want = append(want, home)
			r.m.also = append(r.m.also, &also{home: netip.PrefixFrom(home, 64), agent: haA, careOf: n.care, expires: r.now.Boot + time.Hour, next: r.now.Boot + time.Hour})
		}
		r.more[haA].down = down
		r.ask(n, haA, espA, haB)
		r.run(60 * sec)
		us, at := r.updates()
		told := map[netip.Addr]int{}
		for i, u := range us {
			if i >= 3 && at[i]-at[i-3] < sec {
				t.Errorf("down %v: Binding Updates at %v", down, at[i-3:i+1])
			}
			if u.Path.Remote.Addr() == haA {
				told[u.Path.Own]++
			}
		}
		for _, home := range want {
			if n := told[home]; !down && n != 1 || down && n != maxPartings {
				t.Errorf("down %v: %v was told %d times", down, home, n)
			}
		}
	}
}
