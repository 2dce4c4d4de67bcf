package signal

import (
	"net/netip"
	"testing"

	"kedge/internal/core"
	"kedge/internal/dataplane"
	"kedge/internal/dataplane/user"
	"kedge/internal/ipsec"
	"kedge/internal/loop"
	"kedge/internal/spec"
	"kedge/internal/system"
	"kedge/internal/system/netns"
	"kedge/wire/mobility"
	"kedge/wire/nd"
)

// TestThreeHosts: a node, its home agent and a correspondent over real sockets and devices. With keys no Home Test is on the node's link
// in the clear; the correspondent sees the same packets either way, and no kernel answers any of them.
func TestThreeHosts(t *testing.T) {
	spec.Covers(t, "RFC3776-3.2", "RFC3776-3.3", "RFC4877-6.2", "RFC4877-6.3")
	for _, keys := range []bool{false, true} {
		t.Run(map[bool]string{false: "clear", true: "esp"}[keys], func(t *testing.T) { threeHosts(t, keys) })
	}
}

func threeHosts(t *testing.T, keys bool) {
	px := netip.MustParsePrefix
	must := func(err error) { t.Helper(); netns.Must(t, err) }
	ha, mn, cn := netns.Test(t, "ha"), netns.Test(t, "mn"), netns.Test(t, "cn")
	netns.TestVeth(t, netns.End{NS: ha, Name: "d0", Addrs: []netip.Prefix{px("2001:db8:c::1/64"), px("2001:db8:a::1/128")}},
		netns.End{NS: mn, Name: "d1", Addrs: []netip.Prefix{netip.PrefixFrom(coa6, 64)}})
	netns.TestVeth(t, netns.End{NS: ha, Name: "e0", Addrs: []netip.Prefix{px("2001:db8:d::1/64")}}, netns.End{NS: cn, Name: "e1", Addrs: []netip.Prefix{netip.PrefixFrom(cnV6, 64)}})
	must(ha.Sysctl("net.ipv6.conf.all.forwarding", "1"))
	must(mn.Route(px("2001:db8:a::/64"), netip.MustParseAddr("2001:db8:c::1"), "d1"))
	must(cn.Route(px("2001:db8:2000::/48"), netip.MustParseAddr("2001:db8:d::1"), "e1"))

	w := newWays(t, keys, coa6)
	open := func(ns *netns.NS, c *Codec, plane *user.Plane, o system.Options) core.Port {
		o.NS = ns
		h, err := system.NewHost(o)
		must(err)
		t.Cleanup(func() { h.Close() })
		p, err := NewHost(h, c, func() core.Port {
			if plane == nil {
				return nil
			}
			return plane.Signal()
		}).Open("mh")
		must(err)
		t.Cleanup(func() { p.Close() })
		return p
	}
	plane := func(ns *netns.NS, c user.Config, session core.SetSession, key core.SetKey) (p *user.Plane) {
		must(ns.Do(func() (err error) { p, err = user.New(c); return err }))
		t.Cleanup(func() { p.Close() })
		must(p.Update([]core.Op{session, key}))
		return p
	}
	home := netip.PrefixFrom(hoa, 128)
	haPlane := plane(ha, user.Config{Role: dataplane.Anchor, Device: "kedge0", Local: []netip.Addr{haV6}},
		core.SetSession{ID: 1, Chain: tunnel(port(haV6), port(coa6))}, core.SetKey{ID: 1, Match: core.Match{Dst: home}, Up: true, Down: true})
	haPlane.Guard(w.ha.Guards)
	must(ha.Route(px("2001:db8:2000::/48"), netip.Addr{}, "kedge0"))
	mnPlane := plane(mn, user.Config{Role: dataplane.Node, Device: "mn0", Home: []netip.Addr{hoa}, Anchors: []netip.Addr{haV6}},
		core.SetSession{ID: 1, Chain: inTunnel}, core.SetKey{ID: 1, Match: core.Match{Src: home}, Up: true, Down: true})

	captured := capture(t, ha, "d0")
	atHA := open(ha, w.ha, haPlane, system.Options{Local: []netip.Addr{haV6}, ICMPv6: []uint8{nd.TypeHomeAgentAddressDiscoveryRequest, nd.TypeMobilePrefixSolicitation}})
	atMN := open(mn, w.mn, mnPlane, system.Options{SendByIf: true, ICMPv6: []uint8{nd.TypeHomeAgentAddressDiscoveryReply, nd.TypeMobilePrefixAdvertisement}})
	atCN := open(cn, w.cn, nil, system.Options{})
	send := func(from core.Port, path core.Path, body any) {
		t.Helper()
		if n, err := from.Write([]core.Packet{encode(t, path, body)}); n != 1 || err != nil {
			t.Fatalf("%T: %d sent, %v", body, n, err)
		}
	}
	read := func(at core.Port) core.Message {
		t.Helper()
		p := readOne(t, at)
		m, ok := loop.Decode("mh", &p).(core.Message)
		if !ok || m.Err != nil {
			t.Fatalf("%+v: %v", p, m.Err)
		}
		return m
	}
	for range 3 {
		send(atMN, hotiPath, hoti)
		m := read(atCN)
		if b, ok := m.Body.(*mobility.TestInit); !ok || b.CareOf || m.Path.Remote != port(hoa) || m.Path.Local != port(cnV6) {
			t.Fatalf("the correspondent sees %+v", m)
		}
		send(atCN, core.Path{Local: m.Path.Local, Remote: m.Path.Remote}, homeTest)
		m = read(atMN)
		if b, ok := m.Body.(*mobility.Test); !ok || b.Token != homeTest.Token || m.Path.Outer != inTunnel || m.Path.Local != port(hoa) || (m.Path.Auth.Kind == ipsec.KindESP) != keys {
			t.Fatalf("the node sees %+v", m)
		}
		path := mpsIPv6
		path.If = mn.Index("d1")
		send(atMN, path, mps)
		m = read(atHA)
		if b, ok := m.Body.(*nd.MobilePrefixSolicitation); !ok || b.ID != mps.ID || m.Path.Home != hoa || m.Path.Auth.Peer != "mn1" {
			t.Fatalf("the home agent sees %+v", m)
		}
		send(atHA, m.Path, mpa)
		if m = read(atMN); m.Path.Own != hoa || m.Path.Auth.Peer != "ha1" {
			t.Fatalf("the node sees %+v", m)
		}
		send(atMN, core.Path{If: mn.Index("d1"), Local: port(coa6), Remote: port(haV6)}, &nd.HomeAgentAddressDiscoveryRequest{ID: 7})
		m = read(atHA)
		if b, ok := m.Body.(*nd.HomeAgentAddressDiscoveryRequest); !ok || b.ID != 7 {
			t.Fatalf("the home agent sees %+v", m)
		}
		send(atHA, m.Path, &nd.HomeAgentAddressDiscoveryReply{ID: 7, Addresses: []netip.Addr{haV6}})
		if b, ok := read(atMN).Body.(*nd.HomeAgentAddressDiscoveryReply); !ok || b.ID != 7 {
			t.Fatalf("the node sees %+v", b)
		}
	}
	file := captured(mn, haV6)
	tests := tshark(t, file, "mip6.mhtype == 1 || mip6.mhtype == 3", "frame.number")
	clear := tshark(t, file, "(mip6.mhtype == 1 || mip6.mhtype == 3) && !esp", "frame.number")
	if len(tests) != 6 || (len(clear) == 0) != keys {
		t.Errorf("%d tests on the node's link, %d of them in the clear", len(tests), len(clear))
	}
	clean(t, file)
}
