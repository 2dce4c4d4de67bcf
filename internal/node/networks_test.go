package node

import (
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"kedge/internal/core"
	"kedge/wire"
	"kedge/wire/mobility"
)

var (
	bus6  = netip.MustParsePrefix("2001:db8:3000::/56")
	bus6b = netip.MustParsePrefix("2001:db8:3100::/64")
	bus4  = netip.MustParsePrefix("10.30.0.0/24")
)

// busRig is a mobile router whose home agent forwards what it is asked to.
func busRig(t *testing.T, change ...func(*Config)) *rig {
	t.Helper()
	r := newRig(t, func(c *Config) {
		c.Home.Networks, c.Home.Interfaces = []netip.Prefix{bus6, bus4, bus6b}, []string{"lan0"}
		c.Links = []Link{{Match: "if*"}}
		for _, f := range change {
			f(c)
		}
	})
	r.agent.option = r.agent.router
	return r
}

// router answers as RFC 3963 6.6 and RFC 5555 3.2.1 want it.
func (g *agent) router(bu *mobility.BindingUpdate, ba *mobility.BindingAck) {
	if bu.Flags&mobility.BURouter != 0 {
		ba.Flags |= mobility.BARouter
	}
	for o := range bu.Options.IPv4HomeAddresses() {
		ba.Options = ba.Options.Add(mobility.IPv4AddressAck{Addr: o.Addr, PrefixLen: o.PrefixLen})
	}
}

func (r *rig) matched() []netip.Prefix { return r.m.session.keys }

// wantHost says that the node is bound as a host, and why not as a router.
func (r *rig) wantOnlyHost(why string) {
	r.t.Helper()
	if _, bu := r.lastUpdate(); !r.ok() || bu.Flags&mobility.BURouter != 0 || len(r.m.behind) != 0 || slices.Contains(r.matched(), bus6) {
		r.t.Errorf("%v: last update %+v, keys %v, state %v%s", r.elapsed(), bu, r.matched(), r.m.state, r.story())
	}
	st, err := r.command(core.GetStatus{})
	if err != nil || !slices.ContainsFunc(st.(core.Status).Notes, func(n string) bool {
		return strings.Contains(n, "mobile networks are not served") && strings.Contains(n, why)
	}) {
		r.t.Errorf("%v: notes %q, want one with %q", err, st.(core.Status).Notes, why)
	}
}

// TestRouterUpdate: the R flag, and prefixes as the mode says; of IPv4 in both modes. A deregistration names none.
func TestRouterUpdate(t *testing.T) {
	for _, implicit := range []bool{false, true} {
		r := busRig(t, func(c *Config) { c.Home.Implicit = implicit })
		n := r.net(1, "2001:db8:1::5")
		r.show(n)
		if !r.until(time.Second, r.ok) {
			t.Fatal("not bound", r.story())
		}
		if r.elapsed() != 20*time.Millisecond {
			t.Errorf("bound after %v, want one round trip", r.elapsed())
		}
		_, bu := r.lastUpdate()
		var six, want []netip.Prefix
		if six = slices.Collect(bu.Options.MobileNetworkPrefixes()); !implicit {
			want = []netip.Prefix{bus6, bus6b}
		}
		if bu.Flags&mobility.BURouter == 0 || !slices.Equal(six, want) {
			t.Errorf("implicit %v: flags %v, prefixes %v", implicit, bu.Flags, six)
		}
		var four []mobility.IPv4HomeAddress
		for o := range bu.Options.IPv4HomeAddresses() {
			four = append(four, o)
		}
		if len(four) != 2 || !four[0].P && !four[1].P {
			t.Errorf("IPv4: %+v", four)
		}
		for _, k := range []netip.Prefix{host(hoa6), host(hoa4), bus6, bus6b, bus4} {
			if !slices.Contains(r.matched(), k) {
				t.Errorf("keys %v without %v", r.matched(), k)
			}
		}
		if b := r.list()[0]; !slices.Equal(b.Home, []netip.Prefix{host(hoa6), bus6, bus4, bus6b}) {
			t.Errorf("binding update list %v", b.Home)
		}
		// A refresh says all of it again (RFC 3963 5.2).
		us, _ := r.updates()
		r.run(9 * time.Minute)
		if again, _ := r.updates(); len(again) <= len(us) {
			t.Error("no refresh")
		}
		if _, bu := r.lastUpdate(); bu.Flags&mobility.BURouter == 0 || len(slices.Collect(bu.Options.MobileNetworkPrefixes())) != len(want) {
			t.Errorf("refresh: %+v", bu)
		}
		// At home.
		n.care.Home = true
		r.show(n)
		if !r.until(time.Second, func() bool { return r.m.state == home }) {
			t.Fatal("not at home", r.story())
		}
		if _, bu := r.lastUpdate(); bu.Lifetime != 0 || bu.Options.Has(mobility.OptMobileNetworkPrefix) || bu.Options.Has(mobility.OptIPv4HomeAddress) {
			t.Errorf("deregistration: %+v (RFC 3963 5.8)", bu)
		}
		if len(r.matched()) != 0 || len(r.m.behind) != 0 {
			t.Errorf("keys %v", r.matched())
		}
	}
}

// TestRouterRefused: where the home agent does not serve the networks, the node is a host one round trip later, says why, and asks
// again as a router when there is no binding any more.
func TestRouterRefused(t *testing.T) {
	for status, reason := range map[mobility.Status]wire.Reason{
		mobility.MobileRouterNotPermitted: wire.MobileRouterRefused,
		mobility.InvalidPrefix:            wire.BadPrefixLength,
		mobility.NotAuthorizedForPrefix:   wire.NetworkRefused,
		mobility.ForwardingSetupFailed:    wire.ForwardingFailed,
	} {
		r := busRig(t)
		r.agent.judge = func(bu *mobility.BindingUpdate, ba *mobility.BindingAck) {
			if bu.Flags&mobility.BURouter != 0 {
				ba.Status = status
			}
		}
		n := r.net(1, "2001:db8:1::5")
		r.show(n)
		if !r.until(time.Second, r.ok) {
			t.Fatalf("%v: not bound%s", status, r.story())
		}
		r.wantTimes(0, 20*time.Millisecond)
		if r.elapsed() != 40*time.Millisecond {
			t.Errorf("%v: bound after %v", status, r.elapsed())
		}
		r.wantOnlyHost(status.String())
		if r.m.counts[string(reason)] == 0 {
			t.Errorf("%v is not counted as %s: %v", status, reason, r.m.counts)
		}
		// It stays so in other networks.
		before, _ := r.updates()
		two := r.net(2, "2001:db8:2::5")
		r.show(two)
		r.until(time.Second, r.ok)
		r.wantOnlyHost(status.String())
		us, _ := r.updates()
		for _, u := range us[len(before):] {
			if u.Body.(*mobility.BindingUpdate).Flags&mobility.BURouter != 0 {
				t.Errorf("%v: asks as a router again", status)
			}
		}
		// A person has mended it. The home agent has a host's registration, and refuses another type of it.
		r.agent.judge = typed(r)
		if _, err := r.command(core.Roam{}); err != nil {
			t.Fatal(err)
		}
		if !r.until(10*time.Second, func() bool { return r.ok() && len(r.m.behind) == 3 }) {
			t.Fatalf("%v: no router%s", status, r.story())
		}
	}
}

// typed makes the home agent keep the type of a registration, RFC 3963 6.2.
func typed(r *rig) func(bu *mobility.BindingUpdate, ba *mobility.BindingAck) {
	was := mobility.BUFlags(0)
	return func(bu *mobility.BindingUpdate, ba *mobility.BindingAck) {
		is := bu.Flags & mobility.BURouter
		switch {
		case bu.Lifetime == 0:
		case r.agent.bound() && is != was:
			ba.Status = mobility.TypeChangeDisallowed
		default:
			was = is
		}
	}
}

// TestRouterUnknown: a home agent of RFC 6275 alone accepts, without the R flag.
func TestRouterUnknown(t *testing.T) {
	r := busRig(t)
	r.agent.option = func(bu *mobility.BindingUpdate, ba *mobility.BindingAck) {}
	r.show(r.net(1, "2001:db8:1::5"))
	if !r.until(time.Second, r.ok) {
		t.Fatal("not bound", r.story())
	}
	if len(r.m.behind) != 0 || slices.Contains(r.matched(), bus6) {
		t.Errorf("keys %v", r.matched())
	}
	r.run(10 * time.Minute)
	r.wantOnlyHost("no R flag")
}

// TestRouterIPv4Refused: an IPv4 network that is not given is not served, and the others are.
func TestRouterIPv4Refused(t *testing.T) {
	for _, silent := range []bool{false, true} {
		r := busRig(t)
		r.agent.option = func(bu *mobility.BindingUpdate, ba *mobility.BindingAck) {
			ba.Flags |= mobility.BARouter
			ba.Options = ba.Options.Add(mobility.IPv4AddressAck{Addr: hoa4, PrefixLen: 32})
			if !silent {
				ba.Options = ba.Options.Add(mobility.IPv4AddressAck{Status: mobility.AddressPrefixAllocNotAllowed, Addr: bus4.Addr()})
			}
		}
		r.show(r.net(1, "2001:db8:1::5"))
		if !r.until(time.Second, r.ok) {
			t.Fatal("not bound", r.story())
		}
		if !slices.Equal(r.m.behind, []netip.Prefix{bus6, bus6b}) || slices.Contains(r.matched(), bus4) || !r.m.bind.ipv4.IsValid() {
			t.Errorf("behind %v, keys %v", r.m.behind, r.matched())
		}
		st, _ := r.command(core.GetStatus{})
		if !slices.ContainsFunc(st.(core.Status).Notes, func(n string) bool { return strings.Contains(n, bus4.String()) }) {
			t.Errorf("%q", st.(core.Status).Notes)
		}
	}
}

// TestRouterRestart: the tunnel of an earlier run goes on, with its networks; not if it was one of another type.
func TestRouterRestart(t *testing.T) {
	r := busRig(t)
	r.agent.judge = typed(r)
	n := r.net(1, "2001:db8:1::5")
	r.show(n)
	if !r.until(time.Second, r.ok) {
		t.Fatal("not bound", r.story())
	}
	cfg := r.m.cfg
	r.run(time.Second)
	r.ops = nil
	r.boot(cfg)
	for _, k := range []netip.Prefix{bus6, bus4, bus6b} {
		if !slices.Contains(r.matched(), k) {
			t.Errorf("keys %v without %v", r.matched(), k)
		}
	}
	r.show(n)
	if !r.until(time.Second, r.ok) {
		t.Fatal("not bound again", r.story())
	}
	cfg.Home.Networks, cfg.Home.Interfaces = nil, nil
	r.boot(cfg)
	if r.m.bound() {
		t.Error("a router's binding is a host's")
	}
	r.show(n)
	if !r.until(5*time.Second, r.ok) {
		t.Fatal("not bound as a host", r.story())
	}
	if slices.Contains(r.matched(), bus6) {
		t.Errorf("keys %v", r.matched())
	}
}

// TestRouterHost: routes and rules for what comes from the networks, in every state; no state lets it out.
func TestRouterHost(t *testing.T) {
	r := busRig(t, func(c *Config) { c.Unreachable = Pass })
	has := func(when string, ops ...core.HostOp) {
		t.Helper()
		for _, op := range ops {
			if got, ok := r.host[name(&op)]; !ok || got.Via != op.Via {
				t.Errorf("%s: %s is not there", when, name(&op))
			}
		}
	}
	always := []core.HostOp{
		{Kind: "sysctl", Name: "net/ipv6/conf/all/forwarding", Value: "1"},
		{Kind: "sysctl", Name: "net/ipv4/ip_forward", Value: "1"},
		{Kind: "rule", Prefix: bus6, Table: mainTable, Value: "to suppress 0 priority 10680"},
		{Kind: "rule", Prefix: bus6, Table: DefaultTable, Value: "to priority 10681"},
		{Kind: "rule", Prefix: bus6, Table: DefaultTable, Value: "priority 10682"},
		{Kind: "rule", Prefix: bus6, Table: DefaultTable + 1, Value: "priority 10683"},
		{Kind: "rule", Prefix: bus4, Table: DefaultTable, Value: "priority 10682"},
		{Kind: "rule", Prefix: all6, Name: "lan0", Table: DefaultTable + 1, Value: "priority 10683"},
		{Kind: "rule", Prefix: all4, Name: "lan0", Table: DefaultTable + 1, Value: "priority 10683"},
		{Kind: "route", Prefix: bus6, Table: DefaultTable},
		{Kind: "route", Prefix: bus4, Table: DefaultTable},
		{Kind: "route", Prefix: all6, Table: DefaultTable + 1},
		{Kind: "route", Prefix: all4, Table: DefaultTable + 1},
	}
	away := core.HostOp{Kind: "route", Prefix: all6, Table: DefaultTable, Name: DefaultDevice}
	has("detached", append(always, away)...)
	r.agent.down = true
	n := r.net(1, "2001:db8:1::5")
	r.show(n)
	r.run(10 * time.Second)
	if !r.m.passing() {
		t.Fatal("the node's own traffic does not pass")
	}
	has("without a home agent", append(always, away)...)
	r.agent.down = false
	if !r.until(time.Minute, r.ok) {
		t.Fatal("not bound", r.story())
	}
	has("bound", append(always, away)...)
	n.care.Home = true
	r.show(n)
	r.until(time.Second, func() bool { return r.m.state == home })
	has("at home", always...)
	if _, ok := r.host[name(&away)]; ok {
		t.Error("at home: the tunnel is the default still")
	}
	r.command(core.Stop{})
	r.run(time.Minute)
	if len(r.host) > 1 { // the device is the data plane's
		t.Errorf("left: %v", r.host)
	}
}

// TestRouterForwards: the host forwards only while all is there that keeps the networks' packets in: from after it came, until before it goes.
func TestRouterForwards(t *testing.T) {
	r, seen := busRig(t), 0
	r.fail = func(core.HostOp) error {
		for _, sysctl := range []string{"net/ipv6/conf/all/forwarding", "net/ipv4/ip_forward"} {
			if _, on := r.host[name(&core.HostOp{Kind: "sysctl", Name: sysctl})]; !on {
				continue
			}
			seen++
			for _, op := range []core.HostOp{
				{Kind: "rule", Prefix: bus6, Table: DefaultTable, Value: "priority 10682"},
				{Kind: "rule", Prefix: bus6, Table: DefaultTable + 1, Value: "priority 10683"},
				{Kind: "rule", Prefix: bus4, Table: DefaultTable, Value: "priority 10682"},
				{Kind: "rule", Prefix: bus4, Table: DefaultTable + 1, Value: "priority 10683"},
				{Kind: "rule", Prefix: all6, Name: "lan0", Table: DefaultTable + 1, Value: "priority 10683"},
				{Kind: "route", Prefix: all6, Table: DefaultTable + 1},
				{Kind: "route", Prefix: all4, Table: DefaultTable + 1},
			} {
				if _, ok := r.host[name(&op)]; !ok {
					t.Errorf("%s is on without %s", sysctl, name(&op))
				}
			}
		}
		return nil
	}
	r.show(r.net(1, "2001:db8:1::5"))
	if !r.until(time.Minute, r.ok) {
		t.Fatal("not bound", r.story())
	}
	r.handle(core.Command{Ref: 77, Body: core.Stop{}})
	r.run(time.Minute)
	if seen == 0 || len(r.host) > 1 {
		t.Errorf("seen %d times, left %v", seen, r.host)
	}
	var order []string
	r.m.networkRoutes(func(op core.HostOp) { order = append(order, op.Kind) })
	if n := slices.Index(order, "sysctl"); n < 0 || slices.Contains(order[n:], "rule") || slices.Contains(order[n:], "route") {
		t.Errorf("order %v", order)
	}
}

// TestRouterOwnNetwork: an address of the own mobile network is no care-of address: the tunnel would lead into itself.
func TestRouterOwnNetwork(t *testing.T) {
	r := busRig(t)
	r.show(r.net(1, "2001:db8:3000::77"), r.net(2, "10.30.0.7"))
	r.run(10 * time.Second)
	r.wantState(detached)
	if us, _ := r.updates(); len(us) != 0 {
		t.Errorf("sent %v", us)
	}
}

// TestRouterConfig: what the config of a mobile router cannot be.
func TestRouterConfig(t *testing.T) {
	p := func(list ...string) (out []netip.Prefix) {
		for _, s := range list {
			out = append(out, netip.MustParsePrefix(s))
		}
		return out
	}
	for want, change := range map[string]func(*Config){
		"without networks":     func(c *Config) { c.Home.Interfaces = []string{"lan0"} },
		"is no mobile":         func(c *Config) { c.Home.Networks = p("2001:db8:3000::1/56") },
		"::/0 is no":           func(c *Config) { c.Home.Networks = p("::/0") },
		"8000::/1 is no":       func(c *Config) { c.Home.Networks = p("8000::/1") },
		"128.0.0.0/1 is no":    func(c *Config) { c.Home.Networks = p("128.0.0.0/1") },
		"fe80::/64 is no":      func(c *Config) { c.Home.Networks = p("fe80::/64") },
		"holds the home addr":  func(c *Config) { c.Home.Networks = p("2001:db8:2000::/48") },
		"holds the home agent": func(c *Config) { c.Home.Networks = p("2001:db8:a::/48") },
		"overlaps":             func(c *Config) { c.Home.Networks = p("2001:db8:3000::/56", "2001:db8:3000:1::/64") },
		"no IPv4 prefixes":     func(c *Config) { c.Home.Networks, c.Anchor.Dialect = p("10.30.0.0/24"), Soliman },
		"one of the links":     func(c *Config) { c.Home.Networks, c.Home.Interfaces = p("2001:db8:3000::/56"), []string{"eth0"} },
		"cannot be an inter":   func(c *Config) { c.Home.Networks, c.Home.Interfaces = p("2001:db8:3000::/56"), []string{DefaultDevice} },
		"different lengths": func(c *Config) {
			c.Home.Networks = p("2001:db8:3000::/49", "2001:db8:3001::/50", "2001:db8:3002::/51", "2001:db8:3003::/52", "2001:db8:3004::/53",
				"2001:db8:3005::/54", "2001:db8:3006::/55", "2001:db8:3007::/56")
		},
		"at most 16": func(c *Config) { c.Home.Networks = make([]netip.Prefix, 17) },
	} {
		cfg := baseConfig()
		change(&cfg)
		if _, err := New(cfg, strings.NewReader(strings.Repeat("x", 100))); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %q", err, want)
		}
	}
}
