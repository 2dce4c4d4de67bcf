package movement

import (
	"net/netip"
	"slices"
	"testing"
	"time"

	"kedge/internal/core"
	"kedge/internal/spec"
	"kedge/wire/ether"
	"kedge/wire/nd"
)

func net4(n int, gateway string) *network4test {
	w := newNet(n)
	w.routers[0].ra, w.routers[0].v4 = nil, netip.MustParseAddr(gateway)
	return w
}

// TestIPv4: an address with its default route is offered at once, and its network has a name when the gateway has answered.
func TestIPv4(t *testing.T) {
	r := newRig(t, Config{})
	r.add(2, "eth0", false)
	r.carrier(2, net4(1, "192.0.2.1"))
	r.dhcp(2, "192.0.2.7/24", "192.0.2.1")
	r.want("eth0 192.0.2.0/24")
	if c := r.m.CareOfs()[0]; c.Network != "" || c.Router.String() != "192.0.2.1" || c.Addr.String() != "192.0.2.7" {
		t.Errorf("%+v", c)
	}
	r.wantWay(r.m.CareOfs()[0])
	r.m.Changed()
	r.run(2 * wireDelay)
	if c := r.m.CareOfs()[0]; c.Network != "192.0.2.0/24 02:00:00:00:01:01" || !r.m.Changed() {
		t.Errorf("%+v", c)
	}
	r.undhcp(2, "192.0.2.7/24", "192.0.2.1")
	r.want("")
	r.effects(r.m.Close(r.clock(), nil))
	r.clean()
}

// TestIPv4Choice: which addresses are care-of addresses, with which gateway.
func TestIPv4Choice(t *testing.T) {
	type set struct{ addr, via string }
	for _, c := range []struct {
		name string
		set  []set
		want string
	}{
		{"link-local", []set{{"169.254.7.7/16", "169.254.0.1"}}, ""},
		{"this host alone", []set{{"127.0.0.5/8", "127.0.0.1"}}, ""},
		{"reserved", []set{{"240.0.0.5/8", "240.0.0.1"}}, ""},
		{"a home address", []set{{"203.0.113.5/24", "203.0.113.1"}}, ""},
		{"private", []set{{"10.1.2.3/8", "10.0.0.1"}}, "eth0 10.0.0.0/8"},
		{"gateway outside", []set{{"192.0.2.7/32", "198.51.100.1"}}, "eth0 192.0.2.7/32"},
		{"on-link default route", []set{{"192.0.2.7/24", ""}}, "eth0 192.0.2.0/24"},
		{"link-local beside a good one", []set{{"169.254.7.7/16", ""}, {"192.0.2.7/24", "192.0.2.1"}}, "eth0 192.0.2.0/24"},
		{"the second address is the gateway's network's", []set{{"198.51.100.7/24", ""}, {"192.0.2.7/24", "192.0.2.1"}}, "eth0 192.0.2.0/24, eth0 198.51.100.0/24"},
		{"two networks, each with a gateway", []set{{"192.0.2.7/24", "192.0.2.1"}, {"198.51.100.7/24", "198.51.100.1"}}, "eth0 192.0.2.0/24, eth0 198.51.100.0/24"},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := newRig(t, Config{Home: []netip.Addr{netip.MustParseAddr("203.0.113.5")}})
			r.add(2, "eth0", false)
			r.carrier(2, net4(1, "192.0.2.1"))
			for _, s := range c.set {
				r.dhcp(2, s.addr, s.via)
			}
			r.want(c.want)
			for _, x := range r.m.CareOfs() {
				r.wantWay(x)
			}
			toGateway := 0
			for _, op := range r.kernel.routes {
				if op.Prefix.String() == "198.51.100.1/32" {
					toGateway++
				}
			}
			if toGateway != boolRank(c.name == "gateway outside") {
				t.Errorf("routes %v", r.kernel.routes)
			}
		})
	}
}

// TestIPv4NoRoute: without a default route there is no care-of address; when it comes there is.
func TestIPv4NoRoute(t *testing.T) {
	r := newRig(t, Config{})
	r.add(2, "eth0", false)
	r.carrier(2, net4(1, "192.0.2.1"))
	l := r.kernel.links[2]
	x := &kaddr{p: netip.MustParsePrefix("192.0.2.7/24")}
	l.addrs[x.p.Addr()] = x
	r.kernel.show(l, x)
	r.run(0)
	r.want("")
	// Of another table, or unreachable: not one.
	for _, op := range []core.HostOp{{Table: 7}, {Table: mainTable, Value: "unreachable"}, {Table: mainTable, Prefix: netip.MustParsePrefix("10.0.0.0/8")}} {
		op.Kind, op.If = "route", 2
		if !op.Prefix.IsValid() {
			op.Prefix = netip.MustParsePrefix("0.0.0.0/0")
		}
		r.handle(core.HostChanged{Op: op, Up: true})
	}
	r.want("")
	r.handle(core.HostChanged{Op: defaultRoute(l.op, x.p.Addr(), "192.0.2.1"), Up: true})
	r.run(0)
	r.want("eth0 192.0.2.0/24")
}

// TestIPv4Flap: the carrier was away. The gateway is asked by unicast, so that only the same one answers (RFC 4436 2.1.1);
// then the old address is used at once.
func TestIPv4Flap(t *testing.T) {
	spec.Covers(t, "RFC4436-2.1.1")
	r := newRig(t, Config{})
	n := net4(1, "192.0.2.1")
	r.add(2, "eth0", false)
	r.carrier(2, n)
	r.dhcp(2, "192.0.2.7/24", "192.0.2.1")
	r.run(3 * time.Second)
	r.carrier(2, nil)
	r.want("")
	r.run(5 * time.Millisecond)
	r.sent = nil
	r.carrier(2, n)
	r.want("")
	r.run(2 * wireDelay)
	r.want("eth0 192.0.2.0/24")
	f := r.sent[slices.IndexFunc(r.sent, func(s sentFrame) bool { return s.f.Kind() == "arp" })].f
	a := f.Body.(*ether.ARP)
	if f.Dst != n.routers[0].mac || a.TargetHW != [6]byte(n.routers[0].mac) || a.SenderIP.String() != "192.0.2.7" || a.TargetIP.String() != "192.0.2.1" {
		t.Errorf("asked by %+v %+v", f, a)
	}
}

// TestIPv4Elsewhere: the next network has a gateway with the same address, as half of all do. Its answer does not confirm the
// old address; what the DHCP client sets there does.
func TestIPv4Elsewhere(t *testing.T) {
	r := newRig(t, Config{})
	r.add(2, "eth0", false)
	r.carrier(2, net4(1, "192.168.1.1"))
	r.dhcp(2, "192.168.1.7/24", "192.168.1.1")
	r.run(3 * time.Second)
	was := r.m.CareOfs()[0].Network
	r.carrier(2, nil)
	r.carrier(2, net4(2, "192.168.1.1"))
	r.run(fastProbes*askAgain - 1)
	r.want("")
	// The client gets another lease.
	r.undhcp(2, "192.168.1.7/24", "192.168.1.1")
	r.dhcp(2, "192.168.1.9/24", "192.168.1.1")
	r.want("eth0 192.168.1.0/24")
	r.run(2 * wireDelay)
	if c := r.m.CareOfs()[0]; c.Network == was || c.Addr.String() != "192.168.1.9" {
		t.Errorf("%+v", c)
	}
}

// TestIPv4Stubborn: a client that does not look at the carrier keeps its address in another network. When the old gateway is
// given up, the one that is there is taken: the host uses that address for everything, and to have no network at all is worse.
func TestIPv4Stubborn(t *testing.T) {
	r := newRig(t, Config{})
	r.add(2, "eth0", false)
	r.carrier(2, net4(1, "192.168.1.1"))
	r.dhcp(2, "192.168.1.7/24", "192.168.1.1")
	r.run(3 * time.Second)
	was := r.m.CareOfs()[0].Network
	r.carrier(2, nil)
	r.carrier(2, net4(2, "192.168.1.1"))
	r.run(fastProbes * askAgain)
	r.want("")
	r.run(2 * time.Second)
	r.want("eth0 192.168.1.0/24")
	if c := r.m.CareOfs()[0]; c.Network == was {
		t.Errorf("%+v has the old network's name", c)
	}
}

// TestSameAddressTwice: two NATs gave the same address. One is offered; when it goes, the other one is.
func TestSameAddressTwice(t *testing.T) {
	r := newRig(t, Config{})
	r.check = r.invariants
	r.add(2, "eth0", false)
	r.add(3, "eth1", false)
	for _, ifi := range []int{2, 3} {
		r.carrier(ifi, net4(ifi, "192.168.1.1"))
		r.dhcp(ifi, "192.168.1.7/24", "192.168.1.1")
	}
	r.want("eth0 192.168.1.0/24")
	r.undhcp(2, "192.168.1.7/24", "192.168.1.1")
	r.run(0)
	r.want("eth1 192.168.1.0/24")
	r.wantWay(r.m.CareOfs()[0])
	// And without carrier nobody keeps it.
	r.dhcp(2, "192.168.1.7/24", "192.168.1.1")
	r.want("eth1 192.168.1.0/24")
	r.carrier(3, nil)
	r.run(0)
	r.want("eth0 192.168.1.0/24")
	r.wantWay(r.m.CareOfs()[0])
}

// TestIPv4Secondary: of two addresses, the gateway's network decides, not their order.
func TestIPv4Secondary(t *testing.T) {
	r := newRig(t, Config{})
	r.add(2, "eth0", false)
	r.carrier(2, net4(1, "192.0.2.1"))
	l := r.kernel.links[2]
	for _, p := range []string{"198.51.100.7/24", "192.0.2.7/24", "192.0.2.8/24"} {
		x := &kaddr{p: netip.MustParsePrefix(p)}
		l.addrs[x.p.Addr()] = x
		r.kernel.show(l, x)
	}
	r.kernel.tell(core.HostChanged{Op: defaultRoute(l.op, netip.MustParseAddr("192.0.2.7"), "192.0.2.1"), Up: true})
	r.run(0)
	r.want("eth0 192.0.2.0/24")
	if c := r.m.CareOfs()[0]; c.Addr.String() != "192.0.2.7" {
		t.Errorf("%+v", c)
	}
}

// TestManyStatic: a host with more addresses of its own than are offered.
func TestManyStatic(t *testing.T) {
	r := newRig(t, Config{})
	r.check = r.invariants
	r.add(4, "wwan0", false)
	r.carrier(4, newNet(1))
	for i := range 20 {
		r.dhcp(4, netip.PrefixFrom(netip.MustParseAddr("2001:db8:c::1").Next(), 64).Addr().String()[:12]+string(rune('a'+i%6))+string(rune('0'+i/6))+"/64", "")
		r.dhcp(4, netip.AddrFrom4([4]byte{10, 0, byte(i), 1}).String()+"/24", netip.AddrFrom4([4]byte{10, 0, byte(i), 2}).String())
	}
	v6, v4 := 0, 0
	for _, c := range r.m.CareOfs() {
		if c.Addr.Is4() {
			v4++
		} else {
			v6++
		}
	}
	if v6 != MaxAddresses || v4 != MaxIPv4 {
		t.Errorf("%d IPv6, %d IPv4: %s", v6, v4, r.list())
	}
}

// TestPointToPoint: a modem's link has no frames and no router; what its driver configures is used as it is, of both
// families, and nothing is sent or set on the link.
func TestPointToPoint(t *testing.T) {
	r := newRig(t, Config{})
	r.add(4, "wwan0", false)
	r.carrier(4, net4(1, "192.0.2.1"))
	r.dhcp(4, "10.64.3.2/30", "")
	r.dhcp(4, "2001:db8:c:d::2/64", "")
	r.want("wwan0 2001:db8:c:d::/64, wwan0 10.64.3.0/30")
	for _, c := range r.m.CareOfs() {
		r.wantWay(c)
		if c.Router.IsValid() || c.Network != "wwan0" {
			t.Errorf("%+v", c)
		}
	}
	r.run(time.Minute)
	r.carrier(4, nil)
	r.want("")
	r.carrier(4, net4(1, "192.0.2.1"))
	r.want("wwan0 2001:db8:c:d::/64, wwan0 10.64.3.0/30")
	if len(r.sent) > 0 || len(r.kernel.sysctl) > 0 {
		t.Errorf("sent %v, set %v", r.sent, r.kernel.sysctl)
	}
}

// TestStaticIPv6: an address and a default route by hand, in a network without advertisements, count when nobody answered two
// solicitations; an on-link prefix without autoconfiguration (DHCPv6) makes the host's own address one at once.
func TestStaticIPv6(t *testing.T) {
	r := newRig(t, Config{})
	n := newNet(1)
	n.routers[0].ra = nil
	r.add(2, "eth0", false)
	r.carrier(2, n)
	r.dhcp(2, "2001:db8:c::2/64", "fe80::1")
	r.run(100 * time.Millisecond)
	r.want("")
	r.run(time.Second)
	r.want("eth0 2001:db8:c::/64")
	r.wantWay(r.m.CareOfs()[0])

	r = newRig(t, Config{})
	n = newNet(1, "2001:db8:c::/64")
	n.routers[0].ra.Options[1].(*nd.PrefixInformation).Autonomous = false
	r.add(2, "eth0", false)
	x := &kaddr{p: netip.MustParsePrefix("2001:db8:c::7/128")}
	l := r.kernel.links[2]
	l.addrs[x.p.Addr()] = x
	r.kernel.show(l, x)
	r.run(0)
	r.want("")
	r.carrier(2, n)
	r.run(3 * wireDelay)
	r.want("eth0 2001:db8:c::/64")
	r.kernel.lose(l, x.p.Addr())
	r.run(0)
	r.want("")
	l.addrs[x.p.Addr()] = x
	r.kernel.show(l, x)
	r.run(0)
	r.want("eth0 2001:db8:c::/64")
	r.wantWay(r.m.CareOfs()[0])
	r.kernel.lose(l, x.p.Addr())
	r.run(0)
	r.want("")
}

// TestLeftover: before Kedge, the kernel made an address from the same advertisements. Ours takes its place.
func TestLeftover(t *testing.T) {
	r := newRig(t, Config{})
	r.add(2, "eth0", false)
	r.carrier(2, newNet(1, netA))
	r.dhcp(2, "2001:db8:a::ff:fe00:2/64", "fe80::1")
	r.run(3 * time.Second)
	r.want("eth0 2001:db8:a::/64")
	if a := r.m.CareOfs()[0].Addr; a.String() == "2001:db8:a::ff:fe00:2" {
		t.Errorf("%s is the kernel's", a)
	}
}
