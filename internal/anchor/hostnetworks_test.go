package anchor

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"kedge/internal/anchor/homeagent"
	"kedge/internal/binding"
	"kedge/internal/core"
	"kedge/internal/subscriber"
	"kedge/wire"
	"kedge/wire/mobility"
	"kedge/wire/nd"
)

var (
	net4  = pfx("2001:db8:99::/48") // of mn4
	in4   = ip("2001:db8:99:5::1")
	hoa7  = ip("2001:db8:1000:14::10")
	net7  = pfx("2001:db8:77::/56")
	net7b = pfx("2001:db8:78::1/128")
	in7   = ip("2001:db8:77::9")
	mn7   = "mn7@example.net"
)

func mnp(list ...netip.Prefix) (out []mobility.Value) {
	for _, n := range list {
		out = append(out, mobility.MobileNetworkPrefix{Prefix: n})
	}
	return out
}

// router is a registration of a mobile router: in explicit mode, of what is listed, else in implicit mode.
func router(home, coa netip.Addr, list ...netip.Prefix) bu {
	b := native(home, coa).with(flag(mobility.BURouter))
	b.more = append(b.more, mnp(list...)...)
	return b
}

// routers is a home agent with two mobile routers, mn4 and mn7.
func routers(t testing.TB, change ...func(*Config)) *rig {
	t.Helper()
	return startHosts(t, append([]func(*Config){func(c *Config) {
		c.Peers = append(c.Peers, Peer{Name: "mn7", Protection: "esp"})
		c.Subscribers.List = append(c.Subscribers.List, subscriber.Profile{ID: mn7, HoA: netip.PrefixFrom(hoa7, 64), Peer: "mn7",
			Networks: []netip.Prefix{net7, net7b, pfx("10.77.0.0/24")}})
	}}, change...)...)
}

func by7(b bu) bu {
	b.auth = core.Auth{Kind: "esp", SPI: 0x107, Peer: "mn7"}
	return b
}

// TestRouterModes: in implicit mode all IPv6 prefixes of the profile are forwarded, in explicit mode those of the request, which
// replace each other; the answer has the R flag.
func TestRouterModes(t *testing.T) {
	r := routers(t)
	yes := func(a *mobility.BindingAck) {
		t.Helper()
		if a.Flags&mobility.BARouter == 0 {
			t.Errorf("answer %+v without the R flag", a)
		}
	}
	yes(r.status(by7(router(hoa7, coa1)), mobility.Accepted))
	for _, a := range []netip.Addr{hoa7, in7, net7b.Addr()} {
		r.reaches(a, layer6(coa1))
	}
	r.unreached(ip("10.77.0.1")) // of IPv4 the router asks by its own option
	if b := r.one(mn7); !slices.Equal(b.Home, []netip.Prefix{netip.PrefixFrom(hoa7, 128), net7, net7b}) {
		t.Errorf("bindings tell %v", b.Home)
	}
	// The two modes mix: what matters is what the last request said.
	yes(r.status(by7(router(hoa7, coa1, net7)), mobility.Accepted))
	r.reaches(in7, layer6(coa1))
	r.unreached(net7b.Addr())
	writes := len(r.emits)
	yes(r.status(by7(router(hoa7, coa1, net7, net7)), mobility.Accepted)) // a refresh
	for _, e := range r.emits[writes:] {
		t.Errorf("a refresh makes %s %s", e.Name, e.Why)
	}
	yes(r.status(by7(router(hoa7, coa2, net7b)), mobility.Accepted))
	r.unreached(in7)
	r.reaches(net7b.Addr(), layer6(coa2))
	b := by7(router(hoa7, coa2))
	b.v4 = []mobility.Value{opt29p("10.77.0.0", 24)}
	a := r.status(b, mobility.Accepted)
	if list := acks(a); len(list) != 1 || list[0].Status != 0 || list[0].PrefixLen != 24 {
		t.Errorf("IPv4 prefix: %+v", list)
	}
	r.reaches(ip("10.77.0.200"), layer6(coa2))
	r.reaches(in7, layer6(coa2))
	// Who is found by an address behind the router.
	for _, s := range []string{in7.String(), "10.77.0.9", net7.String(), hoa7.String()} {
		if h := r.m.hostByAddress(s); h == nil || h.Node != mn7 {
			t.Errorf("%s is found with %+v", s, h)
		}
	}
	r.leakless()
	r.unreached(in7)
}

// TestRouterEnds: deregistration, with or without its prefixes and flag, and the end of the lifetime take the networks too.
func TestRouterEnds(t *testing.T) {
	plain := func(b *bu) {}
	for name, change := range map[string]func(*bu){
		"at home":                   plain,
		"with prefixes":             func(b *bu) { b.flags |= mobility.BURouter; b.more = append(b.more, mnp(net7, net4)...) },
		"with a forbidden prefix":   func(b *bu) { b.flags |= mobility.BURouter; b.more = append(b.more, mnp(pfx("::/0"))...) },
		"with the flag":             func(b *bu) { b.flags |= mobility.BURouter },
		"away, lifetime 0":          func(b *bu) { *b = by7(router(hoa7, coa2, net7)); b.lifetime = 0 },
		"care-of is home, 3963 6.2": func(b *bu) { b.lifetime = 75; b.flags |= mobility.BURouter },
	} {
		r := routers(t)
		r.status(by7(router(hoa7, coa1)), mobility.Accepted)
		b := by7(atHome(hoa7))
		change(&b)
		a := r.status(b, mobility.Accepted)
		if a.Lifetime != 0 || (a.Flags&mobility.BARouter != 0) != (b.flags&mobility.BURouter != 0) {
			t.Errorf("%s: %+v", name, a)
		}
		for _, a := range []netip.Addr{hoa7, in7, net7b.Addr()} {
			r.unreached(a)
		}
		r.leakless()
	}
	r := routers(t)
	a := r.status(by7(router(hoa7, coa1)), mobility.Accepted)
	r.pass(time.Duration(a.Lifetime)*4*time.Second - time.Nanosecond)
	r.reaches(in7, layer6(coa1))
	r.pass(time.Nanosecond)
	r.unreached(in7)
	r.leakless()
}

// TestRouterStatuses: 139 to 143 and what provokes them. None leaves a prefix forwarded or moves a binding.
func TestRouterStatuses(t *testing.T) {
	none := func(c *Config) {
		for i := range c.Subscribers.List {
			c.Subscribers.List[i].Networks = nil
		}
	}
	bad := func(bits byte, a string) func(*rig) bu {
		return func(*rig) bu {
			b := router(hoa4, coa1)
			b.more = append(b.more, mobility.MobileNetworkPrefix{Prefix: netip.PrefixFrom(ip(a), int(bits))})
			return b
		}
	}
	failing := func(r *rig) { r.failOnce = true }
	for _, c := range []struct {
		name   string
		change func(*Config)
		first  func(*rig)
		bu     func(*rig) bu
		want   mobility.Status
		reason wire.Reason
		r      bool // in the answer
	}{
		{"139 a binding of a host", nil, func(r *rig) { r.status(native(hoa4, coa2), 0) }, func(*rig) bu { return router(hoa4, coa1) }, mobility.TypeChangeDisallowed, wire.TypeChange, false},
		{"139 a binding of a router", nil, func(r *rig) { r.status(router(hoa4, coa2), 0) }, func(*rig) bu { return native(hoa4, coa1) }, mobility.TypeChangeDisallowed, wire.TypeChange, false},
		{"140 nobody has networks", none, nil, func(*rig) bu { return router(hoa4, coa1) }, mobility.MobileRouterNotPermitted, wire.MobileRouterRefused, false},
		{"140 without H", nil, nil, func(*rig) bu { return router(hoa4, coa1).with(noFlag(mobility.BUHome)) }, mobility.MobileRouterNotPermitted, wire.MobileRouterRefused, false},
		{"140 without H and A", nil, nil, func(*rig) bu { return router(hoa4, coa1).with(noFlag(mobility.BUHome | mobility.BUAck)) }, mobility.MobileRouterNotPermitted, wire.MobileRouterRefused, false},
		{"141 length 0", nil, nil, bad(0, "::"), mobility.InvalidPrefix, wire.BadPrefixLength, true},
		{"141 multicast", nil, nil, bad(16, "ff02::"), mobility.InvalidPrefix, wire.BadPrefixLength, true},
		{"141 link-local", nil, nil, bad(64, "fe80::"), mobility.InvalidPrefix, wire.BadPrefixLength, true},
		{"141 link-local and groups in it", nil, nil, bad(1, "8000::"), mobility.InvalidPrefix, wire.BadPrefixLength, true},
		{"141 mapped", nil, nil, bad(104, "::ffff:10.0.0.0"), mobility.InvalidPrefix, wire.BadPrefixLength, true},
		{"141 one of two", nil, nil, func(*rig) bu {
			b := router(hoa4, coa1, net4)
			b.more = append(b.more, mobility.MobileNetworkPrefix{Prefix: pfx("::/0")})
			return b
		}, mobility.InvalidPrefix, wire.BadPrefixLength, true},
		{"141 cannot be forwarded", nil, failing, func(*rig) bu { return router(hoa4, coa1, net4) }, mobility.InvalidPrefix, wire.ForwardingFailed, true},
		{"142 another's", nil, nil, func(*rig) bu { return router(hoa4, coa1, net7) }, mobility.NotAuthorizedForPrefix, wire.NetworkRefused, true},
		{"142 another's, bound", nil, func(r *rig) { r.status(by7(router(hoa7, coa2)), 0) }, func(*rig) bu { return router(hoa4, coa1, net7) }, mobility.NotAuthorizedForPrefix, wire.NetworkRefused, true},
		{"142 nobody's", nil, nil, func(*rig) bu { return router(hoa4, coa1, pfx("2001:db8:abcd::/64")) }, mobility.NotAuthorizedForPrefix, wire.NetworkRefused, true},
		{"142 a part of the own one", nil, nil, func(*rig) bu { return router(hoa4, coa1, pfx("2001:db8:99:1::/64")) }, mobility.NotAuthorizedForPrefix, wire.NetworkRefused, true},
		{"142 around the own one", nil, nil, func(*rig) bu { return router(hoa4, coa1, pfx("2001:db8::/32")) }, mobility.NotAuthorizedForPrefix, wire.NetworkRefused, true},
		{"142 another's home address", nil, nil, func(*rig) bu { return router(hoa4, coa1, netip.PrefixFrom(hoa1, 128)) }, mobility.NotAuthorizedForPrefix, wire.NetworkRefused, true},
		{"142 one of two", nil, nil, func(*rig) bu { return router(hoa4, coa1, net4, net7) }, mobility.NotAuthorizedForPrefix, wire.NetworkRefused, true},
		{"142 explicit of who has none", nil, nil, func(*rig) bu { return router(hoa1, coa1, net4) }, mobility.NotAuthorizedForPrefix, wire.NetworkRefused, true},
		{"143 implicit of who has none", nil, nil, func(*rig) bu { return router(hoa1, coa1) }, mobility.ForwardingSetupFailed, wire.NetworkRefused, true},
		{"143 cannot be forwarded", nil, failing, func(*rig) bu { return router(hoa4, coa1) }, mobility.ForwardingSetupFailed, wire.ForwardingFailed, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := routers(t, c.change)
			if c.first != nil {
				c.first(r)
			}
			b := c.bu(r)
			keys, refused := len(r.keys), r.m.refused[c.reason]
			was, bound := r.chain(b.home)
			a := r.status(b, c.want)
			if r.m.refused[c.reason] != refused+1 || len(r.keys) != keys || a.Lifetime != 0 || (a.Flags&mobility.BARouter != 0) != c.r {
				t.Errorf("refusals %v, keys %v, answer %+v", r.m.refused, r.keys, a)
			}
			if is, ok := r.chain(b.home); ok != bound || is != was {
				t.Errorf("the binding is %+v (%v), was %+v (%v)", is, ok, was, bound)
			}
			r.leakless()
		})
	}
}

// TestRouterWithoutFlag: prefixes without the R flag are not forwarded (RFC 3963 4.1), whatever they are.
func TestRouterWithoutFlag(t *testing.T) {
	r := routers(t)
	b := native(hoa4, coa1)
	b.more = append(b.more, mnp(net4, net7)...)
	if a := r.status(b, mobility.Accepted); a.Flags != 0 {
		t.Errorf("flags %v", a.Flags)
	}
	r.unreached(in4)
	r.unreached(in7)
}

// TestRouterRestart: networks outlive the process, unless the config takes one away.
func TestRouterRestart(t *testing.T) {
	r := routers(t)
	r.status(by7(router(hoa7, coa1)), mobility.Accepted)
	r.status(router(hoa4, coa2, net4), mobility.Accepted)
	r.restart()
	r.reaches(in7, layer6(coa1))
	r.reaches(net7b.Addr(), layer6(coa1))
	r.reaches(in4, layer6(coa2))
	if b := r.one(mn7); !slices.Contains(b.Home, net7) {
		t.Errorf("%+v", b)
	}
	// The type of the registration is remembered as well.
	r.seq += sequenceMargin
	r.status(by7(native(hoa7, coa1)), mobility.TypeChangeDisallowed)
	for i := range r.cfg.Subscribers.List {
		if p := &r.cfg.Subscribers.List[i]; p.ID == mn7 {
			p.Networks = []netip.Prefix{net7b}
		}
	}
	r.restart()
	if len(r.bindings(mn7)) != 0 {
		t.Errorf("%+v", r.one(mn7))
	}
	r.unreached(in7)
	r.unreached(hoa7)
	r.reaches(in4, layer6(coa2))
	r.leakless()
}

// TestRouterLost: a registration whose forwarding or storing fails leaves the former networks as they were.
func TestRouterLost(t *testing.T) {
	for _, held := range []bool{false, true} {
		for _, store := range []bool{false, true} {
			r := routers(t)
			r.status(by7(router(hoa7, coa1, net7)), mobility.Accepted)
			r.hold = held
			if store {
				r.failStore = true
			} else {
				r.failOnce = true
			}
			r.bu(by7(router(hoa7, coa2, net7b)))
			r.failStore = false
			r.flush()
			r.pass(time.Second)
			r.reaches(in7, layer6(coa1))
			r.unreached(net7b.Addr())
			if b := r.one(mn7); !slices.Contains(b.Home, net7) || slices.Contains(b.Home, net7b) || b.CareOf != coa1 {
				t.Errorf("held %v, store %v: %+v", held, store, b)
			}
			r.leakless()
		}
	}
}

// TestRouterLoops: care-of addresses behind each other are bound as long as they end outside, and not deeper than tunnels may be
// nested.
func TestRouterLoops(t *testing.T) {
	r := routers(t)
	// The second behind the first, and a node behind that.
	r.status(router(hoa4, coa1), mobility.Accepted)
	r.status(by7(router(hoa7, in4)), mobility.Accepted)
	r.status(native(hoa1, in7), mobility.Accepted)
	r.reaches(hoa1, layer6(in7))
	r.reaches(in7, layer6(in4))
	r.reaches(in4, layer6(coa1))
	// The first behind the second, then: a loop.
	n := r.m.refused[wire.TunnelLoop]
	r.status(router(hoa4, in7), mobility.InvalidCareOf)
	if r.m.refused[wire.TunnelLoop] != n+1 {
		t.Errorf("%v", r.m.refused)
	}
	r.reaches(in4, layer6(coa1))
	// Behind itself.
	r.status(router(hoa4, in4), mobility.InvalidCareOf)
	// Over IPv4 it is no other.
	b := by7(router(hoa7, in4))
	b.v4 = []mobility.Value{opt29p("10.77.0.0", 24)}
	r.status(b, mobility.Accepted)
	nat := udp(hoa4, ip("10.77.0.8"), netip.MustParseAddrPort("10.77.0.8:4191")).with(flag(mobility.BURouter))
	r.status(nat, mobility.InvalidCareOf)
	// When the second has left the network of the first, the first may come behind the second.
	r.status(by7(router(hoa7, coa2)), mobility.Accepted)
	r.status(router(hoa4, in7), mobility.Accepted)
	r.status(by7(router(hoa7, in4)), mobility.InvalidCareOf)
	r.leakless()
}

// TestRouterLoopUnbound: a care-of address in the network of a router that is not away leads nowhere yet. When that one then moves behind
// it, the circle is seen all the same: in what the profile lets it register, in either mode and family.
func TestRouterLoopUnbound(t *testing.T) {
	v4 := func(b bu) bu {
		b.v4 = []mobility.Value{opt29p("10.77.0.0", 24)}
		return b
	}
	for name, c := range map[string]struct {
		first  bu
		second bu
	}{
		"implicit": {router(hoa4, in7), by7(router(hoa7, in4))},
		"explicit": {router(hoa4, in7, net4), by7(router(hoa7, in4, net7))},
		"IPv4":     {udp(hoa4, ip("10.77.0.8"), netip.MustParseAddrPort("10.77.0.8:4191")).with(flag(mobility.BURouter)), v4(by7(router(hoa7, in4)))},
	} {
		t.Run(name, func(t *testing.T) {
			r := routers(t)
			r.status(c.first, mobility.Accepted)
			r.status(c.second, mobility.InvalidCareOf)
			if r.m.refused[wire.TunnelLoop] != 1 {
				t.Errorf("%v", r.m.refused)
			}
			if name != "explicit" {
				return
			}
			// A prefix that it does not name now it may name later, while the other is still there.
			r.status(by7(router(hoa7, in4, net7b)), mobility.InvalidCareOf)
			r.leakless()
		})
	}
}

// TestRouterRepeats: a prefix that is named as often as a message has room is one prefix, and comes back as one after a restart. An
// option that is none concerns a router only.
func TestRouterRepeats(t *testing.T) {
	r := routers(t)
	b := router(hoa4, coa1, net4)
	for range 60 {
		b.more = append(b.more, mobility.MobileNetworkPrefix{Prefix: net4})
	}
	r.status(b, mobility.Accepted)
	h := r.m.hosts.table.ByHome(0, netip.PrefixFrom(hoa4, 128))
	if len(h.Networks) != 1 {
		t.Errorf("%d networks", len(h.Networks))
	}
	if back, _, err := homeagent.Decode(h.ID, h.Encode(r.now)); err != nil || !slices.Equal(back.Networks, h.Networks) {
		t.Errorf("%v: %v", err, back.Networks)
	}
	odd := native(hoa1, coa2)
	odd.more = append(odd.more, mobility.MobileNetworkPrefix{Prefix: pfx("::/0")})
	r.status(odd, mobility.Accepted)
	r.leakless()
}

// TestRouterMore: a refresh that names one prefix more is no mere refresh: that one is forwarded too.
func TestRouterMore(t *testing.T) {
	r := routers(t)
	r.status(by7(router(hoa7, coa2, net7)), mobility.Accepted)
	r.unreached(net7b.Addr())
	r.status(by7(router(hoa7, coa2, net7, net7b)), mobility.Accepted)
	r.reaches(net7b.Addr(), layer6(coa2))
	r.reaches(in7, layer6(coa2))
	r.leakless()
}

// TestRouterDepth: behind MaxNested routers a node may be, behind one more not.
func TestRouterDepth(t *testing.T) {
	const chain = homeagent.MaxNested + 2
	home := func(i int) netip.Addr { return ip(fmt.Sprintf("2001:db8:1000:20::%x", 0x10+i)) }
	network := func(i int) netip.Prefix { return pfx(fmt.Sprintf("2001:db8:6%d::/48", i)) }
	r := startHosts(t, func(c *Config) {
		for i := range chain {
			n := fmt.Sprintf("d%d", i)
			c.Peers = append(c.Peers, Peer{Name: n, Protection: "esp"})
			c.Subscribers.List = append(c.Subscribers.List, subscriber.Profile{ID: n + "@example.net", HoA: netip.PrefixFrom(home(i), 64), Peer: n, Networks: []netip.Prefix{network(i)}})
		}
	})
	for i := range chain {
		coa := coa1
		if i > 0 {
			coa = network(i - 1).Addr().Next()
		}
		want := mobility.Accepted
		if i > homeagent.MaxNested {
			want = mobility.InvalidCareOf
		}
		b := router(home(i), coa)
		b.auth = core.Auth{Kind: "esp", SPI: 0x101, Peer: fmt.Sprintf("d%d", i)}
		r.status(b, want)
	}
	if r.m.refused[wire.EncapsulateDeep] != 1 {
		t.Errorf("%v", r.m.refused)
	}
	r.leakless()
}

// TestRouterRoutes: without a home link the networks are routed to the data plane; on a home link, to where the router is when it is
// at home, and to the data plane while it is away (RFC 3963 6.5).
func TestRouterRoutes(t *testing.T) {
	route := func(r *rig, n netip.Prefix) (op core.HostOp) {
		for _, o := range r.host {
			if o.Kind == "route" && o.Prefix == n {
				op = o
			}
		}
		return op
	}
	r := routers(t)
	if op := route(r, net7); op.Name != "kedge0" || op.Via.IsValid() {
		t.Errorf("%+v", op)
	}
	hoa := ip("2001:db8:1000:10::77") // on the link
	r = routers(t, homeLink, func(c *Config) {
		p := &c.Subscribers.List[len(c.Subscribers.List)-1]
		p.HoA = netip.PrefixFrom(hoa, 64)
		p.V4 = ip("10.20.0.77")
	})
	net77 := pfx("10.77.0.0/24")
	home6 := core.HostOp{Kind: "route", Prefix: net7, Name: "home0", Via: hoa}
	home4 := core.HostOp{Kind: "route", Prefix: net77, Name: "home0", Via: ip("10.20.0.77")}
	away6, away4 := core.HostOp{Kind: "route", Prefix: net7, Name: "kedge0"}, core.HostOp{Kind: "route", Prefix: net77, Name: "kedge0"}
	want := func(when string, six, four core.HostOp) {
		t.Helper()
		if a, b := route(r, net7), route(r, net77); a != six || b != four {
			t.Errorf("%s: %+v and %+v", when, a, b)
		}
	}
	want("at the start", home6, home4)
	register := func(coa netip.Addr) {
		t.Helper()
		b := by7(router(hoa, coa))
		b.v4 = []mobility.Value{opt29p("10.77.0.0", 24)}
		n := len(r.sent)
		r.handle(r.hostMessage(b))
		r.pass(2 * time.Second)
		solicited := false
		for _, f := range r.frames() {
			if a, ok := f.Body.(*nd.NeighborAdvertisement); ok {
				solicited = true
				if !a.Router {
					t.Errorf("%+v does not say that it is a router (RFC 3963 6.2)", a)
				}
			}
		}
		a := r.hostAnswer(min(n, len(r.sent)-1), b.path())
		if a == nil || a.Status != 0 || !solicited && coa == coa1 {
			t.Fatalf("%+v", a)
		}
	}
	register(coa1)
	want("away", away6, away4)
	if !slices.ContainsFunc(r.host, func(o core.HostOp) bool {
		return o.Kind == "proxy" && o.Prefix.Addr() == hoa && o.Value == "router"
	}) {
		t.Errorf("%v: no proxy entry of a router", r.host)
	}
	for _, o := range r.host {
		if o.Kind == "proxy" && (o.Prefix.Overlaps(net7) || o.Prefix.Overlaps(net7b)) {
			t.Errorf("%+v: a mobile network is not on the link", o)
		}
	}
	changes := len(r.host)
	register(coa2)
	if len(r.host) != changes {
		t.Errorf("a move changes %v", r.host[changes:])
	}
	r.restart()
	want("away, after a restart", away6, away4)
	r.seq += sequenceMargin
	back := by7(atHome(hoa)).with(flag(mobility.BURouter))
	if a := r.bu(back); a == nil || a.Status != 0 {
		t.Fatalf("%+v", a)
	}
	want("back", home6, home4)
	r.frames()
	r.sent = nil
	register(coa1)
	want("away again", away6, away4)
	r.pass(24 * time.Hour)
	want("expired", home6, home4)
	if r.m.hosts.table.Count(binding.Active) != 0 {
		t.Error("still there")
	}
}

// TestRouterConfig: what no profile may have.
func TestRouterConfig(t *testing.T) {
	for want, n := range map[string][]netip.Prefix{
		"address of the anchor itself": {pfx("2001:db8:a::/48")},
		"lies in":                      {pfx("2001:db8:99:1::/64")},
		"home address of its own":      {pfx("2001:db8:1000:14::/64")},
		"holds all of pool":            {pfx("10.40.0.0/16")},
		"no mobile network prefix":     {pfx("fe80::/64")},
	} {
		cfg := routers(t).cfg
		cfg.Subscribers.List = slices.Clone(cfg.Subscribers.List)
		cfg.Subscribers.List[len(cfg.Subscribers.List)-1].Networks = n
		if _, err := New(cfg, zeroReader{}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v: %v, want %q", n, err, want)
		}
	}
	cfg := routers(t).cfg
	cfg.Subscribers.List = slices.Clone(cfg.Subscribers.List)
	var many []netip.Prefix
	for i := range homeagent.MaxNetworks + 1 {
		many = append(many, pfx(fmt.Sprintf("2001:db8:77:%x::/64", i)))
	}
	cfg.Subscribers.List[len(cfg.Subscribers.List)-1].Networks = many
	if _, err := New(cfg, zeroReader{}); err == nil || !strings.Contains(err.Error(), "at most") {
		t.Errorf("%v", err)
	}
}
