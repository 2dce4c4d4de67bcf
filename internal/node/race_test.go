package node

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"kedge/internal/core"
)

// TestFamilyFallback: IPv4 begins 300 ms after IPv6, with the next number; the outcome is remembered for the network, and
// IPv6 is tried again with a back-off.
func TestFamilyFallback(t *testing.T) {
	r := newRig(t, nil)
	v6, v4 := r.net(1, "2001:db8:1::7"), r.net(1, "192.0.2.7")
	v6.down, v4.nat = true, 1
	r.show(v6, v4)
	r.run(350 * ms)
	r.wantTimes(0, 300*ms)
	us, _ := r.updates()
	if us[0].Path.Outer.N != 0 || us[1].Path.Outer.N != 1 {
		t.Error("want IPv6 before IPv4")
	}
	if !r.ok() || r.m.bind.framing != inUDP {
		t.Fatalf("not bound over IPv4: %s", r.story())
	}

	// Away and back: IPv4 at once, nothing over IPv6.
	r.show()
	r.run(2 * sec)
	r.forget()
	r.show(v6, v4)
	r.run(50 * ms)
	r.wantTimes(2350 * ms)
	if !r.ok() {
		t.Error("not bound again")
	}

	// IPv6 is asked again 5 s after it failed, three times, while data goes on over IPv4; then after 10 s, after 20 s...
	r.forget()
	r.run(60 * sec)
	r.wantTimes(5320*ms, 6320*ms, 8320*ms, 12320*ms, // the last one confirms IPv4: the home agent may have heard of IPv6
		22320*ms, 23320*ms, 25320*ms, 29320*ms, 49320*ms, 50320*ms, 52320*ms, 56320*ms)
	for _, e := range r.emits {
		if e.Name == "handover" || e.Name == "path" {
			t.Errorf("data did not go on: %+v", e)
		}
	}
	// When it works again, the node goes there, and stays.
	v6.down = false
	r.run(150 * sec)
	if !r.ok() || r.m.bind.careOf.Addr != v6.care.Addr {
		t.Errorf("bound to %v", r.m.bind.careOf.Addr)
	}
}

// TestSlowIPv6: whatever the delays of the families, the node and the home agent end with the same view, and with IPv6.
func TestRaceEndsInAgreement(t *testing.T) {
	for _, d6 := range []int{5, 100, 149, 150, 151, 160, 200, 300, 320, 480, 700} {
		for _, d4 := range []int{1, 10, 20, 150, 155, 300, 700} {
			t.Run(fmt.Sprintf("%d %d", d6, d4), func(t *testing.T) {
				r := newRig(t, nil)
				v6, v4 := r.net(1, "2001:db8:1::7"), r.net(1, "192.0.2.7")
				v6.delay, v4.delay = time.Duration(d6)*ms, time.Duration(d4)*ms
				r.show(v4, v6)
				r.run(5 * sec)
				if !r.ok() || !r.m.settled() || r.m.racing() {
					t.Fatalf("no agreement: %v, home agent %v; %s", r.m.bind, r.agent.net, r.story())
				}
				r.run(60 * sec)
				if !r.ok() || r.m.bind.careOf.Addr != v6.care.Addr {
					t.Errorf("bound to %v: %s", r.m.bind.careOf.Addr, r.story())
				}
			})
		}
	}
}

// TestLostAnswer: a home agent that took a Binding Update whose answer is lost is told again where the node is.
func TestLostAnswer(t *testing.T) {
	r := newRig(t, func(c *Config) { c.Links = []Link{{Match: "*"}} })
	good := r.net(1, "192.0.2.7")
	r.show(good)
	r.run(sec)
	deaf := r.net(2, "2001:db8:2::7")
	deaf.noDown = true
	r.show(good, deaf)
	r.run(500 * ms)
	if r.agent.net != deaf {
		t.Fatal("the home agent did not take the Binding Update that it hears")
	}
	if !r.until(10*sec, r.ok) || r.m.bind.careOf.Addr != good.care.Addr {
		t.Errorf("not in agreement: %s", r.story())
	}
}

// TestMakeBeforeBreak: with two links the tunnel changes when the home agent has acknowledged, and the old one is let in for
// a while. The new one is let in before: the home agent uses it as soon as it has accepted it.
func TestMakeBeforeBreak(t *testing.T) {
	r := newRig(t, nil)
	a, b := r.net(1, "2001:db8:1::7"), r.net(2, "192.0.2.7")
	a.care.Prefer, b.care.Prefer, b.nat = 20, 10, 1
	r.show(a)
	r.run(sec)
	r.forget()
	r.show(a, b)
	r.wantState(updating)
	r.run(19 * ms)
	expects := []core.Op{
		core.SetSession{ID: 2, Chain: r.m.chain(b.care.Addr, inIPv4)},
		core.SetKey{ID: 2, Match: core.Match{Src: host(hoa6)}}, core.SetKey{ID: 2, Match: core.Match{Src: host(hoa4)}},
	}
	if !slices.Equal(r.ops, expects) || !r.m.session.up || r.m.bind.careOf.Addr != a.care.Addr {
		t.Fatalf("before the acknowledgement: %+v, want %+v", r.ops, expects)
	}
	r.forget()
	r.run(ms)
	r.wantState(active)
	want := []core.Op{core.SetSession{ID: 1, Chain: r.m.session.chain, Grace: 5 * sec}, core.Drop{ID: 2}}
	if !slices.Equal(r.ops, want) || !r.ok() || r.m.bind.framing != inUDP {
		t.Errorf("forwarding %+v, want %+v", r.ops, want)
	}

	// The better link goes: the other one is registered at once.
	r.forget()
	r.show(a)
	r.run(20 * ms)
	r.wantTimes(1020 * ms)
	if !r.ok() {
		t.Error("not bound by the other link")
	}
}

// TestBetterLinkThatDoesNotWork is left alone for a while, and nothing is lost by it.
func TestBetterLinkThatDoesNotWork(t *testing.T) {
	r := newRig(t, nil)
	a, b := r.net(1, "2001:db8:1::7"), r.net(2, "2001:db8:2::7")
	a.care.Prefer, b.care.Prefer, b.down = 20, 10, true
	r.show(a)
	r.run(sec)
	r.forget()
	r.show(a, b)
	r.run(11 * sec)
	r.wantTimes(sec, 2*sec, 4*sec, 8*sec) // three, and one that confirms
	for _, op := range r.ops {
		if s, ok := op.(core.SetSession); ok && s.ID == 1 {
			t.Errorf("the tunnel moved: %+v", s)
		}
	}
	if n := len(r.ops); n == 0 || r.ops[n-1] != core.Op(core.Drop{ID: 2}) || len(r.m.session.expected) != 0 || !r.ok() {
		t.Errorf("forwarding %+v, %s", r.ops, r.story())
	}
	b.down = false
	r.run(10 * sec)
	if !r.ok() || r.m.bind.careOf.Addr != b.care.Addr {
		t.Errorf("bound to %v", r.m.bind.careOf.Addr)
	}
}

// TestRoam: a person can prefer a link, and can end that.
func TestRoam(t *testing.T) {
	r := newRig(t, nil)
	a, b := r.net(1, "2001:db8:1::7"), r.net(2, "192.0.2.7")
	r.show(a, b)
	r.run(sec)
	if _, err := r.command(core.Roam{Link: "if2"}); err != nil {
		t.Fatal(err)
	}
	r.run(50 * ms)
	if !r.ok() || r.m.bind.careOf.Addr != b.care.Addr {
		t.Errorf("bound to %v", r.m.bind.careOf.Addr)
	}
	if _, err := r.command(core.Roam{Link: "if9"}); err == nil {
		t.Error("a link without care-of address was accepted")
	}
	if _, err := r.command(core.Roam{}); err != nil {
		t.Fatal(err)
	}
	r.run(50 * ms)
	if !r.ok() || r.m.bind.careOf.Addr != a.care.Addr {
		t.Errorf("bound to %v", r.m.bind.careOf.Addr)
	}
}
