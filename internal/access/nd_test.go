package access

import (
	"net/netip"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/insomniacslk/dhcp/dhcpv4"

	"kedge/internal/core"
	"kedge/wire"
	"kedge/wire/ether"
	"kedge/wire/nd"
)

// The router's link-local address is answered for, with or without a grant: after a move it must seem never to have gone.
func TestNeighborSolicitationForRouter(t *testing.T) {
	r := newRig(t, config())
	check := func(src netip.Addr, dst netip.Addr, solicited bool) {
		t.Helper()
		f := r.in(ns(macA, src, routerLL)).only()
		want := &nd.NeighborAdvertisement{
			Router: true, Solicited: solicited, Override: true, Target: routerLL, Options: nd.Options{nd.TargetLinkLayer(routerMAC)},
		}
		if d := cmp.Diff(want, f.Body, cmpopts.EquateComparable(netip.Addr{})); d != "" || f.Dst != macA || f.DstIP != dst || f.SrcIP != routerLL {
			t.Errorf("%s from %v to %v %v", d, f.SrcIP, f.DstIP, f.Dst)
		}
	}
	check(llA, llA, true)
	r.grant(macA, dualStack())
	check(llA, llA, true)
	check(addr("2001:db8:1000::a"), addr("2001:db8:1000::a"), true)
	check(none6, nd.AllNodes, false) // a host that wants the router's address is told that it is taken
	// Unreachability detection is unicast.
	f := ns(macA, llA, routerLL)
	f.Dst, f.DstIP = routerMAC, routerLL
	r.in(f).did("Attached", "na")
}

// Nothing else is answered: not the host's own addresses under Duplicate Address Detection, nor others in its prefix.
func TestNeighborSolicitationForOthers(t *testing.T) {
	r := newRig(t, config())
	r.grant(macA, dualStack())
	r.grant(macB, Grant{Prefixes: []netip.Prefix{prefixB}, Valid: time.Minute})
	for _, c := range []struct {
		name        string
		src, target netip.Addr
		addr        netip.Addr
	}{
		{"own link-local", none6, llA, llA},
		{"own global", none6, addr("2001:db8:1000::a"), addr("2001:db8:1000::a")},
		{"other address of the own prefix", llA, addr("2001:db8:1000::b"), llA},
		{"address of another host's prefix", llA, addr("2001:db8:1000:1::b"), llA},
		{"other link-local", llA, addr("fe80::b"), llA},
	} {
		res := r.in(ns(macA, c.src, c.target)).did("Attached")
		if a := res.attached(); a != (Attached{MAC: macA, By: "ns", Addr: c.addr, Arriving: c.src == none6}) {
			t.Errorf("%s: %+v", c.name, a)
		}
	}
}

func report(m *nd.MLDReport) *Frame {
	f := mld(macA, llA)
	if m.Version == 1 {
		m.Records = []nd.MLDRecord{{}}
	}
	for i := range m.Records {
		m.Records[i].Group = nd.SolicitedNode(llA)
	}
	f.Body = m
	return f
}

func solicited(f *Frame) *Frame {
	f.Body.(*nd.NeighborAdvertisement).Solicited = true
	f.DstIP = routerLL
	return f
}

func TestPresence(t *testing.T) {
	r := newRig(t, config())
	for _, c := range []struct {
		f    *Frame
		want Attached
	}{
		{mld(macA, none6), Attached{MAC: macA, By: "mld", Arriving: true}},
		{mld(macA, llA), Attached{MAC: macA, By: "mld", Addr: llA, Arriving: true}},
		{report(&nd.MLDReport{Version: 2, Records: []nd.MLDRecord{{Type: nd.ModeIsExclude}}}), Attached{MAC: macA, By: "mld", Addr: llA, Answer: true}},
		{report(&nd.MLDReport{Version: 2, Records: []nd.MLDRecord{{Type: nd.ModeIsExclude}, {Type: nd.AllowNewSources}}}),
			Attached{MAC: macA, By: "mld", Addr: llA, Arriving: true}},
		{report(&nd.MLDReport{Version: 1}), Attached{MAC: macA, By: "mld", Addr: llA, Arriving: true}},
		{report(&nd.MLDReport{Version: 1, Done: true}), Attached{MAC: macA, By: "mld", Addr: llA}},
		{na(macA, llA), Attached{MAC: macA, By: "na", Addr: llA, Arriving: true}},
		{solicited(na(macA, llA)), Attached{MAC: macA, By: "na", Addr: llA, Answer: true}},
		{rs(macA, none6), Attached{MAC: macA, By: "rs", Wants: V6, Arriving: true}},
		{arp(macA, none4, homeA.Addr()), Attached{MAC: macA, By: "arp", Arriving: true}},
		{arp(macA, homeA.Addr(), homeA.Addr()), Attached{MAC: macA, By: "arp", Addr: homeA.Addr(), Arriving: true}},
		{arp(macA, homeA.Addr(), router4), Attached{MAC: macA, By: "arp", Addr: homeA.Addr()}},
		{&Frame{Dst: routerMAC, Src: macA, Body: &ether.ARP{Op: ether.ARPReply, SenderHW: macA, SenderIP: homeA.Addr(), TargetHW: routerMAC, TargetIP: router4}},
			Attached{MAC: macA, By: "arp", Addr: homeA.Addr(), Answer: true}},
	} {
		if a := r.in(c.f).did("Attached").attached(); a != c.want {
			t.Errorf("%+v, want %+v", a, c.want)
		}
	}
	// A data frame shows the host and leaves nothing behind.
	out := r.result(r.l.Handle(r.now, &Frame{Dst: routerMAC, Src: macB, SrcIP: homeB.Addr()}, nil))
	if a := out.did("Attached").attached(); a != (Attached{MAC: macB, By: "data", Addr: homeB.Addr()}) {
		t.Errorf("%+v", a)
	}
	if _, ok := r.l.hosts[macB]; ok {
		t.Error("data made state")
	}
	r.result(r.l.Handle(r.now, nil, nil)).did()
}

// The link-local address is learned from whatever carries it.
func TestLearnsFromMLD(t *testing.T) {
	r := newRig(t, config())
	r.in(mld(macA, llA))
	if f := r.grant(macA, dualStack()).did("ra", "arp").frames[0]; f.DstIP != llA {
		t.Errorf("to %v", f.DstIP)
	}
}

func TestImpersonation(t *testing.T) {
	llRouter := nd.Options{nd.SourceLinkLayer(routerMAC)}
	group := core.MAC{0x33, 0x33, 0, 0, 0, 1}
	body := func(b any) *Frame { return &Frame{Dst: group, Src: macA, SrcIP: llA, DstIP: nd.AllNodes, Body: b} }
	from := func(f *Frame, src netip.Addr) *Frame { f.SrcIP = src; return f }
	mac := func(f *Frame, m core.MAC) *Frame { f.Src = m; return f }
	reply := arp(macA, router4, homeA.Addr())
	reply.Body.(*ether.ARP).Op = ether.ARPReply
	thief := arp(macA, homeA.Addr(), addr("10.20.0.9"))
	thief.Body.(*ether.ARP).SenderHW = routerMAC
	foreign := arp(macA, homeA.Addr(), addr("10.20.0.9"))
	foreign.Body.(*ether.ARP).SenderHW = macB
	for _, c := range []struct {
		name string
		f    *Frame
		want wire.Reason
	}{
		{"its Router Advertisement", body(&nd.RouterAdvertisement{RouterLifetime: 1800}), wire.RouterImpersonate},
		{"its Redirect", body(&nd.Redirect{Target: llA, Destination: addr("2001:db8::1")}), wire.RouterImpersonate},
		{"its MLD query", body(&nd.MLDQuery{Version: 2, Group: none6}), wire.RouterImpersonate},
		{"NA for the router's address", body(&nd.NeighborAdvertisement{Target: routerLL}), wire.RouterImpersonate},
		{"NA with the router's MAC", body(&nd.NeighborAdvertisement{Target: llA, Options: nd.Options{nd.TargetLinkLayer(routerMAC)}}), wire.RouterImpersonate},
		{"NS with the router's MAC", body(&nd.NeighborSolicitation{Target: llA, Options: llRouter}), wire.RouterImpersonate},
		{"RS with the router's MAC", body(&nd.RouterSolicitation{Options: llRouter}), wire.RouterImpersonate},
		{"RS from the router's address", from(rs(macA, llA), routerLL), wire.RouterImpersonate},
		{"echo from the router's address", from(echo6(macA, llA), routerLL), wire.RouterImpersonate},
		{"frame from the router's MAC", mac(mld(macA, llA), routerMAC), wire.RouterImpersonate},
		{"frame from a group address", mac(mld(macA, llA), group), wire.WrongMAC},
		{"frame from nowhere", mac(mld(macA, llA), core.MAC{}), wire.WrongMAC},
		{"ARP reply for the router's address", reply, wire.RouterImpersonate},
		{"ARP announcement of the router's address", arp(macA, router4, router4), wire.RouterImpersonate},
		{"ARP with the router's MAC", thief, wire.RouterImpersonate},
		{"ARP with another's MAC", foreign, wire.WrongMAC},
		{"DHCP server", &Frame{Dst: macB, Src: macA, SrcIP: homeA.Addr(), DstIP: homeB.Addr(), Body: offerOf(macB)}, wire.RouterImpersonate},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := newRig(t, config())
			r.grant(macA, dualStack())
			r.in(c.f).silent().refused(c.want)
		})
	}
}

func TestNeighborAdvertisementForForeignAddress(t *testing.T) {
	r := newRig(t, config())
	f := na(macA, addr("2001:db8:ffff::1"))
	r.in(f).did("Attached") // nothing is known of the host yet
	r.grant(macA, dualStack())
	r.in(f).did("Attached", "Refused").refused(wire.WrongAddress)
	r.in(na(macA, addr("2001:db8:1000::a"))).did("Attached")
}

// A frame to another station's address is seen, not answered.
func TestNotForUs(t *testing.T) {
	r := newRig(t, config())
	r.grant(macA, dualStack())
	for _, f := range []*Frame{
		ns(macA, llA, routerLL), rs(macA, llA), arp(macA, homeA.Addr(), router4), discover(macA), echo6(macA, llA), echo4(macA, homeA.Addr()),
	} {
		f.Dst = core.MAC{2, 0, 0, 0, 0, 0x77}
		r.in(f).did("Attached")
	}
}

func echo6(mac core.MAC, src netip.Addr) *Frame {
	return &Frame{Dst: routerMAC, Src: mac, SrcIP: src, DstIP: routerLL, Body: &nd.Echo{ID: 1, Seq: 2, Data: []byte("abc")}}
}

func echo4(mac core.MAC, src netip.Addr) *Frame {
	return &Frame{Dst: routerMAC, Src: mac, SrcIP: src, DstIP: router4, Body: &Echo4{Rest: []byte{0, 1, 0, 2, 'a', 'b', 'c'}}}
}

func TestEcho(t *testing.T) {
	r := newRig(t, config())
	r.grant(macA, dualStack())
	f := r.in(echo6(macA, llA)).only()
	if d := cmp.Diff(&nd.Echo{Reply: true, ID: 1, Seq: 2, Data: []byte("abc")}, f.Body); d != "" || f.SrcIP != routerLL || f.DstIP != llA {
		t.Error(d, f.SrcIP, f.DstIP)
	}
	f = r.in(echo4(macA, homeA.Addr())).only()
	if d := cmp.Diff(&Echo4{Reply: true, Rest: []byte{0, 1, 0, 2, 'a', 'b', 'c'}}, f.Body); d != "" || f.SrcIP != router4 || f.DstIP != homeA.Addr() {
		t.Error(d, f.SrcIP, f.DstIP)
	}
	r.in(echo6(macA, addr("2001:db8:ffff::1"))).silent().refused(wire.WrongSource)
	r.in(echo4(macA, addr("10.20.0.99"))).silent().refused(wire.WrongSource)
	// An answer, and a ping of somebody else, are none of ours.
	other := echo6(macA, llA)
	other.DstIP = addr("fe80::77")
	r.in(other).did("Attached")
	answer := echo4(macA, homeA.Addr())
	answer.Body.(*Echo4).Reply = true
	r.in(answer).did("Attached")
}

func TestProbe(t *testing.T) {
	probe := func(r *rig, mac core.MAC) result { return r.result(r.l.Probe(r.now, mac, nil)) }
	r := newRig(t, config())
	if f := probe(r, macA).did("mld-query").only(); f.DstIP != nd.AllNodes || f.Dst != macA {
		t.Errorf("to %v %v", f.DstIP, f.Dst)
	}
	r.grant(macA, Grant{IPv4: homeA, Router4: router4, Valid: time.Minute})
	f := probe(r, macA).did("arp").only()
	want := &ether.ARP{Op: ether.ARPRequest, SenderHW: routerMAC, SenderIP: router4, TargetIP: homeA.Addr()}
	if d := cmp.Diff(want, f.Body, cmpopts.EquateComparable(netip.Addr{})); d != "" || f.Dst != macA {
		t.Error(d, f.Dst)
	}
	r.grant(macA, dualStack())
	probe(r, macA).did("arp", "mld-query")
	r.in(mld(macA, llA))
	res := probe(r, macA).did("arp", "ns")
	wantNS := &nd.NeighborSolicitation{Target: llA, Options: nd.Options{nd.SourceLinkLayer(routerMAC)}}
	if d := cmp.Diff(wantNS, res.frames[1].Body, cmpopts.EquateComparable(netip.Addr{})); d != "" || res.frames[1].DstIP != llA {
		t.Error(d)
	}
	// The answers are presence.
	answer := na(macA, llA)
	answer.Dst, answer.DstIP = routerMAC, routerLL
	answer.Body.(*nd.NeighborAdvertisement).Solicited = true
	if a := r.in(answer).did("Attached").attached(); a.By != "na" {
		t.Errorf("%+v", a)
	}
	reply := arp(macA, homeA.Addr(), router4)
	reply.Dst, reply.Body.(*ether.ARP).Op = routerMAC, ether.ARPReply
	if a := r.in(reply).did("Attached").attached(); a.By != "arp" {
		t.Errorf("%+v", a)
	}
}

// A client that begins is told from one that goes on.
func TestClientStarts(t *testing.T) {
	r := newRig(t, config())
	r.grant(macA, dualStack())
	for want, fs := range map[bool][]*Frame{
		true:  {discover(macA), initReboot(macA, homeA.Addr())},
		false: {selecting(macA, router4, homeA.Addr()), renewing(macA, router4, homeA.Addr()), rebinding(macA, homeA.Addr())},
	} {
		for _, f := range fs {
			m := f.Body.(*dhcpv4.DHCPv4)
			for _, a := range r.l.Handle(r.now, f, nil) {
				if at, ok := a.(Attached); ok && at.Arriving != want {
					t.Errorf("arriving %v: %s", at.Arriving, m.Summary())
				}
			}
		}
	}
}

// Ask finds words for any address of a host that the link knows nothing of.
func TestAsk(t *testing.T) {
	r := newRig(t, config())
	f := r.result(r.l.Ask(macA, addr("2001:db8:1000::a"), router4, nil)).only()
	if q, ok := f.Body.(*nd.NeighborSolicitation); !ok || q.Target != addr("2001:db8:1000::a") || f.Dst != macA || f.SrcIP != routerLL || f.DstIP != q.Target {
		t.Errorf("%+v", f)
	}
	f = r.result(r.l.Ask(macA, homeA.Addr(), router4, nil)).only()
	if q, ok := f.Body.(*ether.ARP); !ok || q.Op != ether.ARPRequest || q.IsProbe() || q.TargetIP != homeA.Addr() || q.SenderIP != router4 || q.SenderHW != routerMAC || f.Dst != macA {
		t.Errorf("%+v", f)
	}
	for _, c := range []struct {
		mac   core.MAC
		a, r4 netip.Addr
	}{
		{macA, netip.Addr{}, router4}, {macA, none6, router4}, {macA, none4, router4}, {macA, routerLL, router4}, {macA, router4, router4},
		{macA, homeA.Addr(), netip.Addr{}}, {macA, nd.AllNodes, router4}, {routerMAC, llA, router4}, {broadcast, llA, router4},
	} {
		r.result(r.l.Ask(c.mac, c.a, c.r4, nil)).did()
	}
	if granted, strangers := r.l.Hosts(); granted+strangers != 0 {
		t.Error("asking made state")
	}
}
