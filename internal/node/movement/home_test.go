package movement

import (
	"net/netip"
	"slices"
	"testing"
	"time"

	"kedge/internal/access"
	"kedge/internal/core"
	"kedge/internal/spec"
	"kedge/wire/ether"
	"kedge/wire/nd"
)

var (
	homeConfig = Config{
		Home:        []netip.Addr{netip.MustParseAddr("2001:db8:1::5"), netip.MustParseAddr("203.0.113.5")},
		HomePrefix6: netip.MustParsePrefix("2001:db8:1::/64"), HomePrefix4: netip.MustParsePrefix("203.0.113.0/24"), HomeTable: 900,
	}
	homeAddrs = []netip.Prefix{netip.MustParsePrefix("2001:db8:1::5/64"), netip.MustParsePrefix("203.0.113.5/24")}
)

// TestHomeDetection: the home subnet prefix is on-link (RFC 6275 11.5.2), or it is not.
func TestHomeDetection(t *testing.T) {
	spec.Covers(t, "RFC6275-11.5.2")
	for _, c := range []struct {
		name, p string
		l, a    bool
		home    bool
		list    string
	}{
		{"home", "2001:db8:1::/64", true, true, true, "eth0 2001:db8:1::/64 home"},
		{"off link", "2001:db8:1::/64", false, true, false, "eth0 2001:db8:1::/64"},
		{"no autoconfiguration", "2001:db8:1::/64", true, false, true, ""},
		{"another", "2001:db8:2::/64", true, true, false, "eth0 2001:db8:2::/64"},
		{"a part with the home address", "2001:db8:1::/80", true, false, true, ""},
		{"a part without", "2001:db8:1:0:1::/80", true, false, false, ""},
		{"all", "2000::/3", true, false, false, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := newRig(t, homeConfig)
			n := newNet(1)
			n.routers[0].ra.Options = append(n.routers[0].ra.Options, &nd.PrefixInformation{Prefix: netip.MustParsePrefix(c.p), OnLink: c.l, Autonomous: c.a, Valid: 100, Preferred: 50})
			r.add(2, "eth0", false)
			r.carrier(2, n)
			r.run(3 * time.Second)
			r.want(c.list)
			at, is := r.m.AtHome()
			if is != c.home {
				t.Fatalf("at home: %v, want %v", is, c.home)
			}
			if is && (at.If != 2 || at.Router.String() != "fe80::1" || !at.Home) {
				t.Errorf("%+v", at)
			}
			n.routers[0].ra = nil
			r.run(100 * time.Second)
			if _, is := r.m.AtHome(); is {
				t.Error("at home after the prefix's lifetime")
			}
		})
	}
}

// TestHomeOnLinkLifetime: the address of a prefix that is announced to end lives on for two hours (RFC 4862 5.5.3 e), the
// prefix is on-link as long as it was said (RFC 4861 6.3.4).
func TestHomeOnLinkLifetime(t *testing.T) {
	r := newRig(t, homeConfig)
	n := newNet(1, "2001:db8:1::/64")
	r.add(2, "eth0", false)
	r.carrier(2, n)
	r.run(3 * time.Second)
	n.advertise(r, setPrefix(pi("2001:db8:1::/64", 5, 0)))
	n.routers[0].ra = nil
	r.run(5*time.Second - 1)
	r.want("eth0 2001:db8:1::/64 deprecated home")
	r.run(1)
	r.want("eth0 2001:db8:1::/64 deprecated")
	if _, is := r.m.AtHome(); is {
		t.Error("at home")
	}
	if got := r.emitted("home-link"); !slices.Equal(got, []string{"away>home", "home>away"}) {
		t.Errorf("told %v", got)
	}
}

// TestHomeIPv4: an address in the home network shows the home link, if the gateway is the one that was told; a private
// network may be anywhere, so there the gateway's MAC decides.
func TestHomeIPv4(t *testing.T) {
	pub, priv := netip.MustParsePrefix("203.0.113.0/24"), netip.MustParsePrefix("192.168.1.0/24")
	for _, c := range []struct {
		name   string
		home   netip.Prefix
		router string
		mac    core.MAC
		want   bool
	}{
		{"public", pub, "", core.MAC{}, true},
		{"public, right router", pub, "203.0.113.1", core.MAC{}, true},
		{"public, wrong router", pub, "203.0.113.2", core.MAC{}, false},
		{"public, wrong MAC", pub, "", core.MAC{2, 9}, false},
		{"private", priv, "192.168.1.1", core.MAC{}, false},
		{"private, right MAC", priv, "", core.MAC{2, 0, 0, 0, 1, 1}, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			cfg := Config{HomePrefix4: c.home, HomeMAC4: c.mac}
			if c.router != "" {
				cfg.HomeRouter4 = netip.MustParseAddr(c.router)
			}
			r := newRig(t, cfg)
			gw := c.home.Addr().Next()
			r.add(2, "eth0", false)
			r.carrier(2, net4(1, gw.String()))
			r.dhcp(2, netip.PrefixFrom(gw.Next(), 24).String(), gw.String())
			r.run(time.Second)
			if _, is := r.m.AtHome(); is != c.want {
				t.Errorf("at home: %v, want %v: %+v", is, c.want, r.m.CareOfs())
			}
		})
	}
}

// athome is a rig on its home link, with an IPv4 gateway.
func athome(t *testing.T) (*rig, *network4test) {
	t.Helper()
	r := newRig(t, homeConfig)
	n := newNet(1, "2001:db8:1::/64")
	n.routers[0].v4 = netip.MustParseAddr("203.0.113.1")
	r.add(2, "eth0", false)
	r.carrier(2, n)
	r.dhcp(2, "203.0.113.77/24", "203.0.113.1")
	r.run(3 * time.Second)
	return r, n
}

// TestNoHomeAddressBefore: before deregistration the home address is not used on the home link and not tested (RFC 6275
// 11.5.5), even if the stable identifier were that of the home address.
func TestNoHomeAddressBefore(t *testing.T) {
	spec.Covers(t, "RFC6275-11.5.5")
	cfg := homeConfig
	cfg.Secret = []byte("0123456789abcdef")
	p := netip.MustParsePrefix("2001:db8:1::/64")
	cfg.Home = append(slices.Clone(cfg.Home), stable(cfg.Secret, p, core.MAC{2, 0, 0, 0, 0, 2}, 0))
	r := newRig(t, cfg)
	n := newNet(1, p.String())
	r.add(2, "eth0", false)
	r.carrier(2, n)
	r.run(3 * time.Second)
	r.want("eth0 2001:db8:1::/64 home")
	for _, home := range cfg.Home {
		if _, there := r.kernel.links[2].addrs[home]; there {
			t.Errorf("%s is on the home link", home)
		}
		for _, s := range r.sent {
			if ns, ok := s.f.Body.(*nd.NeighborSolicitation); ok && ns.Target == home || s.f.SrcIP == home {
				t.Errorf("sent %+v", s.f)
			}
		}
	}
}

// TestClaimHome: after the acknowledgement the home addresses are on the home link without a test, and the neighbours are
// told: for each home address, and the link-local one, three times, S clear, O set, with the target link-layer address
// (RFC 6275 11.5.5); IPv4 by ARP announcements.
func TestClaimHome(t *testing.T) {
	spec.Covers(t, "RFC6275-11.5.5")
	r, _ := athome(t)
	r.sent = nil
	since := r.now - start
	r.effects(r.m.ClaimHome(r.clock(), 2, homeAddrs, nil))
	for _, p := range homeAddrs {
		x := r.kernel.links[2].addrs[p.Addr()]
		if x == nil || x.value != "" || x.p != p {
			t.Errorf("%s: %+v", p, x)
		}
	}
	table := map[string]bool{}
	for _, op := range r.kernel.routes {
		if op.Table == 900 {
			table[op.Prefix.String()+" via "+op.Via.String()+" from "+op.Src.String()] = true
		}
	}
	for _, want := range []string{"::/0 via fe80::1 from 2001:db8:1::5", "0.0.0.0/0 via 203.0.113.1 from 203.0.113.5",
		"2001:db8:1::/64 via invalid IP from invalid IP", "203.0.113.0/24 via invalid IP from invalid IP"} {
		if !table[want] || len(table) != 4 {
			t.Errorf("home table %v lacks %q", table, want)
		}
	}
	if got := r.emitted("home-link"); !slices.Equal(got, []string{"away>home"}) {
		t.Errorf("told %v", got)
	}
	r.run(10 * time.Second)
	want := []time.Duration{since, since, since + time.Second, since + time.Second, since + 2*time.Second, since + 2*time.Second}
	if got := r.frames("na"); !slices.Equal(got, want) {
		t.Errorf("advertised at %v, want %v", got, want)
	}
	targets := map[netip.Addr]int{}
	arps := 0
	for _, s := range r.sent {
		switch b := s.f.Body.(type) {
		case *nd.NeighborAdvertisement:
			ll, has := b.Options.TargetLL()
			if b.Solicited || !b.Override || b.Router || !has || core.MAC(ll) != r.kernel.links[2].op.MAC || s.f.DstIP != nd.AllNodes || s.f.SrcIP != b.Target {
				t.Errorf("advertised %+v %+v", s.f, b)
			}
			targets[b.Target]++
		case *ether.ARP:
			if b.IsAnnouncement() {
				if arps++; b.SenderIP.String() != "203.0.113.5" || s.f.Dst != ether.Broadcast || core.MAC(b.SenderHW) != r.kernel.links[2].op.MAC {
					t.Errorf("announced %+v %+v", s.f, b)
				}
			}
		}
	}
	if len(targets) != 2 || targets[homeAddrs[0].Addr()] != 3 || targets[netip.MustParseAddr("fe80::a2")] != 3 || arps != 3 {
		t.Errorf("targets %v, %d ARP announcements", targets, arps)
	}
	r.want("eth0 2001:db8:1::/64 home, eth0 203.0.113.0/24 home")

	r.effects(r.m.ReleaseHome(r.clock(), nil))
	r.run(0)
	for _, p := range homeAddrs {
		if r.kernel.links[2].addrs[p.Addr()] != nil {
			t.Errorf("%s is still there", p)
		}
	}
	for k, op := range r.kernel.routes {
		if op.Table == 900 {
			if op.Prefix.Bits() > 0 {
				t.Errorf("left: %+v", op)
			}
			delete(r.kernel.routes, k)
		}
	}
	r.effects(r.m.Close(r.clock(), nil))
	r.run(0)
	r.clean()
}

// TestExpectHome: between the deregistration and its acknowledgement, solicitations for the home address are answered to the
// sender's link-layer address (RFC 6275 11.5.5), those without a source address too; and only then.
func TestExpectHome(t *testing.T) {
	spec.Covers(t, "RFC6275-11.5.5")
	r, n := athome(t)
	home, asker := homeAddrs[0].Addr(), core.MAC{2, 0, 0, 0, 5, 5}
	ask := func(src string, target netip.Addr) []sentFrame {
		r.sent = nil
		n.send(r, 2, &access.Frame{Dst: multicastMAC(nd.SolicitedNode(target)), Src: asker, SrcIP: netip.MustParseAddr(src), DstIP: nd.SolicitedNode(target),
			Body: &nd.NeighborSolicitation{Target: target}})
		r.run(wireDelay)
		return r.sent
	}
	if got := ask("fe80::99", home); len(got) > 0 {
		t.Fatalf("answered before: %v", got)
	}
	r.effects(r.m.ExpectHome(r.clock(), 2, homeAddrs, nil))
	for _, src := range []string{"fe80::99", "::"} {
		got := ask(src, home)
		if len(got) != 1 {
			t.Fatalf("from %s: sent %v", src, got)
		}
		na, ok := got[0].f.Body.(*nd.NeighborAdvertisement)
		ll, _ := na.Options.TargetLL()
		if !ok || got[0].f.Dst != asker || na.Target != home || core.MAC(ll) != r.kernel.links[2].op.MAC || na.Solicited != (src != "::") {
			t.Errorf("from %s: %+v %+v", src, got[0].f, na)
		}
		if want := map[string]string{"fe80::99": "fe80::99", "::": "ff02::1"}[src]; got[0].f.DstIP.String() != want {
			t.Errorf("from %s: to %s", src, got[0].f.DstIP)
		}
	}
	if got := ask("fe80::99", netip.MustParseAddr("2001:db8:1::6")); len(got) > 0 {
		t.Errorf("answered for another: %v", got)
	}
	if _, there := r.kernel.links[2].addrs[home]; there {
		t.Error("the kernel has the home address before the acknowledgement")
	}
	r.effects(r.m.ClaimHome(r.clock(), 2, homeAddrs, nil))
	r.run(5 * time.Second)
	if got := ask("fe80::99", home); len(got) > 0 {
		t.Errorf("answered beside the kernel: %v", got)
	}
	// A second Expect does not undo the claim; Release ends both.
	r.effects(r.m.ExpectHome(r.clock(), 2, homeAddrs, nil))
	if _, there := r.kernel.links[2].addrs[home]; !there {
		t.Error("expecting took the claim back")
	}
	r.effects(r.m.ReleaseHome(r.clock(), nil))
	if got := ask("fe80::99", home); len(got) > 0 {
		t.Errorf("answered after: %v", got)
	}
}

// TestEffectsBefore: what the parent has gathered stays in front.
func TestEffectsBefore(t *testing.T) {
	r, _ := athome(t)
	first := core.Emit{Name: "first"}
	a := r.m.CareOfs()[0].Addr
	for name, f := range map[string]func(out []core.Effect) []core.Effect{
		"handle":  func(out []core.Effect) []core.Effect { return r.m.Handle(r.clock(), core.Tick{}, out) },
		"suspect": func(out []core.Effect) []core.Effect { return r.m.Suspect(r.clock(), a, out) },
		"expect":  func(out []core.Effect) []core.Effect { return r.m.ExpectHome(r.clock(), 2, homeAddrs, out) },
		"claim":   func(out []core.Effect) []core.Effect { return r.m.ClaimHome(r.clock(), 2, homeAddrs, out) },
		"release": func(out []core.Effect) []core.Effect { return r.m.ReleaseHome(r.clock(), out) },
		"close":   func(out []core.Effect) []core.Effect { return r.m.Close(r.clock(), out) },
	} {
		if out := f([]core.Effect{first}); len(out) == 0 || out[0] != core.Effect(first) {
			t.Errorf("%s: %v", name, out)
		}
	}
}

// TestHomeLinkGoes: the link vanishes while the home addresses are on it.
func TestHomeLinkGoes(t *testing.T) {
	r, _ := athome(t)
	r.effects(r.m.ClaimHome(r.clock(), 2, homeAddrs, nil))
	r.remove(2)
	r.run(10 * time.Second)
	if _, is := r.m.AtHome(); is || len(r.m.CareOfs()) > 0 {
		t.Errorf("at home on a link that is gone: %q", r.list())
	}
	r.clean()
}
