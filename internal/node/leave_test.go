package node

import (
	"net/netip"
	"slices"
	"testing"
	"time"

	"kedge/internal/core"
	"kedge/internal/node/optimize"
	"kedge/internal/spec"
	"kedge/wire/mobility"
)

// TestNamedAndOptimized: the answer of name servers is the node's also where route optimization is on.
func TestNamedAndOptimized(t *testing.T) {
	spec.Covers(t, "RFC5555-2.1")
	r, n := discovering(t, func(c *Config) {
		c.Anchor.Discover, c.Anchor.Host = false, "ha.example.net"
		c.Optimize = optimize.Config{Use: optimize.Traffic}
	})
	r.show(n)
	r.handle(core.Answer{Ref: r.asked[0].Ref, Body: []netip.Addr{haA}})
	r.run(sec)
	r.wantState(active)
}

// TestNamesOfAFormerNetwork: what was asked in a network that was left may fail there after the question in the new one has begun.
func TestNamesOfAFormerNetwork(t *testing.T) {
	r, n := discovering(t, func(c *Config) { c.Anchor.Discover, c.Anchor.Host = false, "ha.example.net" })
	r.show(n)
	r.run(5 * sec)
	r.show(r.net(2, "2001:db8:c2::9"))
	r.run(sec)
	if len(r.asked) != 2 || r.asked[0].Ref == r.asked[1].Ref {
		t.Fatalf("asked %+v", r.asked)
	}
	r.handle(core.Answer{Ref: r.asked[0].Ref, Err: core.ErrTooLarge})
	r.handle(core.Answer{Ref: r.asked[1].Ref, Body: []netip.Addr{haA}})
	if r.m.ha.v6 != haA {
		t.Errorf("with %v: %s", r.m.ha.v6, r.story())
	}
}

// TestOwnAddressesAreNoHomeAgents: an answer lists what the node itself has, and what nobody registers with.
func TestOwnAddressesAreNoHomeAgents(t *testing.T) {
	spec.Covers(t, "RFC6275-11.4.1")
	r, n := discovering(t, func(c *Config) { c.Anchor.Peers, c.Anchor.Protection = nil, "none" })
	r.more[haB].auth = core.Auth{}
	r.replying(n.care.Addr, hoa6, netip.MustParseAddr("ff02::1"), netip.MustParseAddr("fe80::1"), netip.IPv6Loopback(), netip.IPv6Unspecified(), haB, haB)
	r.show(n)
	r.run(sec)
	if list := r.m.agents.List(); len(list) != 1 || list[0].V6 != haB {
		t.Errorf("%v", list)
	}
	r.wantState(active)
}

// TestRefusedWhileBound: a home agent that refuses to go on defends the home address while its binding lives. It is told to stop, else
// the next one finds the address taken.
func TestRefusedWhileBound(t *testing.T) {
	spec.Covers(t, "RFC5142-5.3", "RFC6275-11.4.1")
	r, n := served(t, nil)
	r.more[haB].judge = func(_ *mobility.BindingUpdate, ba *mobility.BindingAck) {
		if r.more[haA].bound() {
			ba.Status = mobility.DADFailed
		}
	}
	r.more[haA].judge = func(bu *mobility.BindingUpdate, ba *mobility.BindingAck) {
		if bu.Lifetime > 0 {
			ba.Status = mobility.AdministrativelyProhibited
		}
	}
	r.show(n, r.net(2, "2001:db8:c2::9"))
	r.command(core.Roam{})
	if !r.until(time.Hour, func() bool { return r.m.ha.v6 == haB }) {
		t.Fatalf("stays: %s", r.story())
	}
	r.run(3 * sec)
	if r.wantState(active); r.more[haA].bound() || !r.more[haB].bound() {
		t.Errorf("the first: %v, the second: %v: %s", r.more[haA].bound(), r.more[haB].bound(), r.story())
	}
}

// TestRestartAfterSwitch: a node of whose home agents the config names one was sent to the other, and is started again. The one that
// has its binding goes on; when none is left, the config counts.
func TestRestartAfterSwitch(t *testing.T) {
	r, n := served(t, func(c *Config) { c.Anchor.Discover, c.Anchor.V6 = false, haA })
	r.ask(n, haA, espA, haB)
	r.run(sec)
	if r.wantState(active); r.m.ha.v6 != haB {
		t.Fatalf("with %v", r.m.ha.v6)
	}
	chain, cfg, record := r.m.session.chain, r.m.cfg, slices.Clone(r.store)
	r.forget()
	r.boot(cfg)
	if r.m.ha.v6 != haB || len(r.ops) == 0 || r.ops[0].(core.SetSession).Chain != chain {
		t.Fatalf("with %v, %+v", r.m.ha.v6, r.ops)
	}
	r.show(n)
	r.run(sec)
	if to, _ := r.bus(); r.m.ha.v6 != haB || len(to) != 1 || to[0] != haB {
		t.Errorf("with %v, registered with %v", r.m.ha.v6, to)
	}
	changed := cfg
	changed.Anchor.V6 = netip.MustParseAddr("2001:db8:2000::c")
	r.boot(changed)
	if r.m.ha.v6 != changed.Anchor.V6 {
		t.Errorf("with %v, the config has another one", r.m.ha.v6)
	}
	r.store = record
	r.run(24 * time.Hour)
	r.boot(cfg)
	if r.m.ha.v6 != haA {
		t.Errorf("with %v a day later", r.m.ha.v6)
	}
}

// TestHomeWhileParting: the node comes home while it waits for the answer of the home agent that it leaves, which still defends the home
// address. That one is told from there.
func TestHomeWhileParting(t *testing.T) {
	spec.Covers(t, "RFC5142-6.1")
	r, n := served(t, nil)
	r.more[haA].mute = true
	r.ask(n, haA, espA, haB)
	r.forget()
	at := r.net(4, "2001:db8:2000::99")
	at.care.Home, at.care.Router = true, netip.MustParseAddr("fe80::1")
	r.show(at)
	r.run(200 * ms)
	var told bool
	us, _ := r.updates()
	for _, u := range us {
		told = told || u.Path.Remote.Addr() == haA && u.Path.Local.Addr() == hoa6 && u.Body.(*mobility.BindingUpdate).Lifetime == 0
	}
	if !told {
		t.Errorf("%+v: %s", us, r.story())
	}
}
