package conformance

import (
	"net/netip"
	"slices"
	"time"

	"kedge/internal/core"
	"kedge/internal/dataplane"
	"kedge/wire"
)

// unreachable wants the ICMP error about a packet back on a node's device.
func unreachable(about []byte) want {
	src, _, _ := addresses(about)
	if src.Is4() {
		return told(src, 3, 1, 0, about)
	}
	return told(src, 1, 3, 0, about)
}

var nodeCases = []testCase{
	{name: "node/hop limit", o: node, f: func(b *bench) { // a host's own packets, and those it is the end of
		f := framingsOf(dataplane.Node)[1]
		b.update(core.SetSession{ID: sessionOne, Chain: f.chain()})
		for _, fam := range families {
			b.pass(fam.name+" up", Packet{Side: Native, B: udpPacket(fam.one, fam.cn, hdr{hop: 1}, 100)}, toCore(f.wrapDF(udpPacket(fam.one, fam.cn, hdr{hop: 1}, 100))))
			b.pass(fam.name+" down", fromCore(f.back().wrap(udpPacket(fam.cn, fam.one, hdr{hop: 1}, 100), hdr{})), toCN(udpPacket(fam.cn, fam.one, hdr{hop: 1}, 100)))
		}
	}},
	{name: "node/mobile network", o: node, f: func(b *bench) {
		f := framingsOf(dataplane.Node)[2]
		b.update(core.SetSession{ID: sessionOne, Chain: f.chain()})
		b.pass("up", Packet{Side: Native, B: udpPacket(H36, CN6, hdr{}, 100)}, toCore(f.wrapDF(udpPacket(H36, CN6, hdr{}, 100))))
		b.pass("down", fromCore(f.back().wrap(udpPacket(CN6, H36, hdr{}, 100), hdr{})), toCN(udpPacket(CN6, H36, hdr{}, 100)))
	}},
	{name: "node/expected care-of address", o: node, f: func(b *bench) { // its home agent may use it before the node has heard so
		f, g := framingsOf(dataplane.Node)[1], framingsOf(dataplane.Node)[3]
		b.update(core.SetSession{ID: sessionOne, Chain: f.chain()})
		down := udpPacket(CN6, H16, hdr{}, 100)
		b.dropped(wire.WrongTunnel, 1, func() { b.pass("not expected", fromCore(g.back().wrap(down, hdr{}))) })
		b.r.Advance(time.Second)
		b.reports()
		key := core.Match{Src: netip.PrefixFrom(H16, 128)}
		b.update(core.SetSession{ID: 77, Chain: g.chain()}, core.SetKey{ID: 77, Match: key})
		b.pass("expected", fromCore(g.back().wrap(down, hdr{})), toCN(down))
		up := udpPacket(H16, CN6, hdr{}, 100)
		b.pass("still sent by the other", Packet{Side: Native, B: up}, toCore(f.wrapDF(up)))
		b.pass("which still takes", fromCore(f.back().wrap(down, hdr{})), toCN(down))
		b.update(core.SetSession{ID: sessionOne, Chain: g.chain()}, core.Drop{ID: 77})
		b.pass("moved", fromCore(g.back().wrap(down, hdr{})), toCN(down))
		b.pass("and sent there", Packet{Side: Native, B: up}, toCore(g.wrapDF(up)))
	}},
	{name: "node/home agent", o: node, f: func(b *bench) { // its address is a destination as any: the probe and whatever else
		f := framingsOf(dataplane.Node)[1]
		b.update(core.SetSession{ID: sessionOne, Chain: f.chain()})
		echo := v6(H16, LMAA, 58, hdr{}, icmp6(H16, LMAA, 128, 0, uint32(probeID)<<16|1, filling(20)))
		b.pass("probe", Packet{Side: Native, B: echo}, toCore(f.wrapDF(echo)))
		reply := func(id uint16, typ byte) []byte {
			return v6(LMAA, H16, 58, hdr{}, icmp6(LMAA, H16, typ, 0, uint32(id)<<16|1, filling(20)))
		}
		b.pass("its reply", fromCore(f.back().wrap(reply(probeID, 129), hdr{})), toMachine(f, reply(probeID, 129)))
		b.pass("the reply to another's", fromCore(f.back().wrap(reply(probeID+1, 129), hdr{})), toCN(reply(probeID+1, 129)))
		b.pass("a request", fromCore(f.back().wrap(reply(probeID, 128), hdr{})), toCN(reply(probeID, 128)))
		// Before there is a session: to the addresses of the configuration.
		b.update(core.Drop{ID: sessionOne})
		pkt := v6(LMAA, H26, 135, hdr{}, mh)
		b.pass("signalling before the first session", fromCore(f.back().wrap(pkt, hdr{})), toMachine(f, pkt))
		b.dropped(wire.WrongTunnel, 1, func() { b.pass("to another address", fromCore(f.back().wrap(v6(LMAA, H16, 135, hdr{}, mh), hdr{}))) })
	}},
	{name: "node/ESP of applications", o: node, f: func(b *bench) {
		f := framingsOf(dataplane.Node)[0]
		theirs := v6(CN6, H16, 50, hdr{}, esp)
		b.pass("from a correspondent node", fromCore(f.back().wrap(theirs, hdr{})), toCN(theirs))
		ours := v6(LMAA, H16, 50, hdr{}, esp)
		b.pass("from the home agent", fromCore(f.back().wrap(ours, hdr{})), toMachine(f, ours))
	}},
	{name: "node/no session", o: node, f: func(b *bench) {
		b.update(core.Drop{ID: sessionOne})
		for _, fam := range families {
			for _, src := range []netip.Addr{fam.one, fam.two} {
				in := udpPacket(src, fam.cn, hdr{}, 100)
				b.dropped(wire.UnknownHome, 1, func() { b.pass(fam.name, Packet{Side: Native, B: in}, unreachable(in)) })
			}
		}
		b.r.Advance(time.Second)
		b.reports()
		got := 0
		for range 40 {
			b.r.Send(Packet{Side: Native, B: udpPacket(H16, CN6, hdr{}, 100)})
			got += len(b.r.Drain())
		}
		if got != 10 {
			b.Errorf("40 packets were answered by %d errors, want 10", got)
		}
		if r := b.report(wire.UnknownHome); r.Inner.Src != host(H16) {
			b.Errorf("report %+v", r)
		}
		f := framingsOf(dataplane.Node)[1]
		b.dropped(wire.WrongTunnel, 1, func() { b.pass("down", fromCore(f.back().wrap(udpPacket(CN6, H16, hdr{}, 100), hdr{}))) })
	}},
	{name: "node/no session, silent", o: Options{Role: dataplane.Node}, f: func(b *bench) {
		b.update(core.Drop{ID: sessionOne})
		for _, fam := range families {
			b.dropped(wire.UnknownHome, 1, func() { b.pass(fam.name, Packet{Side: Native, B: udpPacket(fam.one, fam.cn, hdr{}, 100)}) })
		}
		reply := v6(LMAA, H16, 58, hdr{}, icmp6(LMAA, H16, 129, 0, 0, filling(20)))
		f := framingsOf(dataplane.Node)[0]
		b.setup(dataplane.Node)
		b.pass("probes are off", fromCore(f.back().wrap(reply, hdr{})), toCN(reply))
		b.pass("whoever sends ESP", fromCore(f.back().wrap(v6(CN6, H16, 50, hdr{}, esp), hdr{})), toMachine(f, v6(CN6, H16, 50, hdr{}, esp)))
	}},
	{name: "node/forged", o: node, f: func(b *bench) {
		for _, f := range framingsOf(dataplane.Node) {
			b.update(core.SetSession{ID: sessionOne, Chain: f.chain()})
			other := f
			other.remote = ap(map[bool]netip.Addr{true: Alien4, false: Alien}[f.is4()], f.remote.Port())
			for _, fam := range families {
				nobody := map[bool]netip.Addr{true: Nemo4, false: Nobody}[fam.cn.Is4()]
				b.dropped(wire.UnknownHome, 1, func() { b.pass("to nobody", fromCore(f.back().wrap(udpPacket(fam.cn, nobody, hdr{}, 100), hdr{}))) })
				b.dropped(wire.WrongTunnel, 1, func() {
					b.pass("not from the home agent", fromCore(other.back().wrap(udpPacket(fam.cn, fam.one, hdr{}, 100), hdr{})))
				})
			}
			for name, in := range scopedPackets(CN6, CN4) {
				b.dropped(wire.LinkScope, 1, func() { b.pass(f.name+": "+name, fromCore(f.back().wrap(in, hdr{}))) })
			}
		}
	}},
	{name: "node/link scope", o: node, f: func(b *bench) {
		for name, in := range scopedPackets(H16, H14) {
			if name == "to all nodes" || name == "to a wider group" {
				continue // the kernel's own, which its device gets all the time, are not counted
			}
			b.dropped(wire.LinkScope, 1, func() { b.pass(name, Packet{Side: Native, B: in}) })
		}
		b.dropped(wire.UnknownHome, 1, func() {
			in := udpPacket(CoA1, CN6, hdr{}, 100) // an application bound to the care-of address
			b.pass("from a care-of address", Packet{Side: Native, B: in}, unreachable(in))
		})
	}},
	{name: "node/deprecated", o: node, f: func(b *bench) {
		f := framingsOf(dataplane.Node)[0]
		b.update(core.SetKey{ID: sessionOne, Match: core.Match{Src: host(H16)}}, core.SetKey{ID: sessionOne, Match: core.Match{Src: host(H14)}})
		for _, fam := range families {
			b.dropped(wire.Deprecated, 1, func() { b.pass("up", Packet{Side: Native, B: udpPacket(fam.one, fam.cn, hdr{}, 100)}) })
			b.dropped(wire.Deprecated, 1, func() { b.pass("down", fromCore(f.back().wrap(udpPacket(fam.cn, fam.one, hdr{}, 100), hdr{}))) })
		}
		b.silent()
	}},
	{name: "node/two sessions", o: node, f: func(b *bench) { // another one takes the home address over, and the longest key wins
		f := framingsOf(dataplane.Node)[0]
		two := framing{"", ap(CoA4, port), ap(NAT4, port)}
		b.update(core.SetSession{ID: sessionTwo, Chain: two.chain()}, core.SetKey{ID: sessionTwo, Match: core.Match{Src: host(H36)}, Up: true, Down: true})
		b.pass("longest key", Packet{Side: Native, B: udpPacket(H36, CN6, hdr{}, 100)}, toCore(two.wrapDF(udpPacket(H36, CN6, hdr{}, 100))))
		b.update(core.SetKey{ID: sessionTwo, Match: core.Match{Src: host(H16)}, Up: true, Down: true})
		b.pass("which is delivered to", Packet{Side: Native, B: udpPacket(H16, CN6, hdr{}, 100)}, toCore(two.wrapDF(udpPacket(H16, CN6, hdr{}, 100))))
		b.dropped(wire.WrongTunnel, 1, func() { b.pass("down the other", fromCore(f.back().wrap(udpPacket(CN6, H16, hdr{}, 100), hdr{}))) })
		b.update(core.Drop{ID: sessionTwo}, core.SetKey{ID: sessionOne, Match: core.Match{Src: host(H16)}, Up: true, Down: true})
		b.pass("back", Packet{Side: Native, B: udpPacket(H16, CN6, hdr{}, 100)}, toCore(f.wrapDF(udpPacket(H16, CN6, hdr{}, 100))))
	}},
	{name: "node/super packets", o: node, f: func(b *bench) {
		for _, f := range framingsOf(dataplane.Node) {
			b.update(core.SetSession{ID: sessionOne, Chain: f.chain()})
			for _, fam := range families {
				b.superPacketHop(fam.one, fam.cn, Packet{Side: Native}, 64, func(seg []byte) []byte { return f.wrapDF(seg) })
			}
		}
	}},
	{name: "node/refused", o: node, f: func(b *bench) {
		for name, op := range map[string]core.Op{
			"a destination": core.SetKey{ID: sessionOne, Match: core.Match{Dst: host(H26)}, Up: true},
			"no care-of":    core.SetSession{ID: sessionOne, Chain: framing{"", ap(netip.IPv4Unspecified(), 0), ap(LMAA4, 0)}.chain()},
			"loopback":      core.SetSession{ID: sessionOne, Chain: framing{"", ap(netip.MustParseAddr("127.0.0.1"), 0), ap(LMAA4, 0)}.chain()},
			"mapped":        core.SetSession{ID: sessionOne, Chain: framing{"", ap(mapped(CoA4), 0), ap(LMAA, 0)}.chain()},
			"to broadcast":  core.SetSession{ID: sessionOne, Chain: framing{"", ap(CoA4, 0), ap(netip.MustParseAddr("255.255.255.255"), 0)}.chain()},
			"to itself":     core.SetSession{ID: sessionOne, Chain: framing{"", ap(CoA4, 0), ap(CoA4, 0)}.chain()},
			"to home":       core.SetSession{ID: sessionOne, Chain: framing{"", ap(CoA4, 0), ap(H14, 0)}.chain()},
			"no port":       core.SetSession{ID: sessionOne, Chain: framing{"", ap(CoA4, port), ap(LMAA4, 0)}.chain()},
		} {
			if err := b.r.Update([]core.Op{op}); err == nil {
				b.Errorf("%s: accepted", name)
			}
		}
		f := framingsOf(dataplane.Node)[0]
		b.pass("as before", Packet{Side: Native, B: udpPacket(H16, CN6, hdr{}, 100)}, toCore(f.wrapDF(udpPacket(H16, CN6, hdr{}, 100))))
	}},
	{name: "node/counters and sync", o: node, f: func(b *bench) {
		f := framingsOf(dataplane.Node)[2]
		all := []core.Op{
			core.SetSession{ID: sessionOne, Chain: f.chain(), Grace: grace},
			core.SetKey{ID: sessionOne, Match: core.Match{Src: host(H16)}, Up: true, Down: true},
		}
		for range 2 {
			if err := b.r.Sync(slices.Values(all)); err != nil {
				b.Fatal(err)
			}
			b.pass("up", Packet{Side: Native, B: udpPacket(H16, CN6, hdr{}, 100)}, toCore(f.wrapDF(udpPacket(H16, CN6, hdr{}, 100))))
			b.pass("down", fromCore(f.back().wrap(udpPacket(CN6, H16, hdr{}, 200), hdr{})), toCN(udpPacket(CN6, H16, hdr{}, 200)))
			gone := udpPacket(H14, CN4, hdr{}, 100)
			b.pass("a key that is gone", Packet{Side: Native, B: gone}, unreachable(gone))
		}
		b.counters(core.Counter{PacketsIn: 2, OctetsIn: 400, PacketsOut: 2, OctetsOut: 200}, core.Counter{})
	}},
}
