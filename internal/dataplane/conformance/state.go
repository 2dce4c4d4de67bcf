package conformance

import (
	"errors"
	"iter"
	"net/netip"
	"slices"
	"strings"

	"kedge/internal/core"
	"kedge/internal/spec"
	"kedge/wire"
)

var stateCases = []testCase{
	{name: "state/refused", o: anchor, f: func(b *bench) {
		layer := func(f func(*core.Chain)) core.Op {
			c := chain(LMAA, CoA1)
			f(&c)
			return core.SetSession{ID: 9, Chain: c}
		}
		port := netip.AddrPortFrom
		for says, op := range map[string]core.Op{
			"native delivery":           layer(func(c *core.Chain) { c.N = 0 }),
			"3 layers":                  layer(func(c *core.Chain) { c.N = 3 }),
			"route optimization is":     layer(func(c *core.Chain) { c.RO = 1 }),
			"UDP port 4192":             layer(func(c *core.Chain) { c.Layer[0].Local, c.Layer[0].Remote = port(LMAA, 4192), port(CoA1, 4191) }),
			"remote port is missing":    layer(func(c *core.Chain) { c.Layer[0].Local = port(LMAA, 4191) }),
			"TLV":                       layer(func(c *core.Chain) { c.Layer[0].TLV = 1 }),
			"GRE":                       layer(func(c *core.Chain) { c.Layer[0].KeyUp = 1 }),
			"ESP":                       layer(func(c *core.Chain) { c.Layer[0].SA = 1 }),
			"two address families":      layer(func(c *core.Chain) { c.Layer[0].Local = port(LMAA4, 0) }),
			"path MTU 575":              core.SetSession{ID: 9, Chain: core.Chain{N: 1, MTU: 575, Layer: chain(LMAA4, NAT4).Layer}},
			"no address of this router": layer(func(c *core.Chain) { c.Layer[0].Local = netip.AddrPortFrom(CoA2, 0) }),
			"no unicast address":        layer(func(c *core.Chain) { c.Layer[0].Remote = netip.AddrPort{} }),
			"this router itself":        layer(func(c *core.Chain) { c.Layer[0].Remote = netip.AddrPortFrom(LMAA, 0) }),
			"path MTU 1279":             layer(func(c *core.Chain) { c.MTU = 1279 }),
			"bridged":                   core.SetSession{ID: 9, Chain: chain(LMAA, CoA1), Mode: core.Bridged},
			"session id 0":              core.SetSession{Chain: chain(LMAA, CoA1)},
			"routing domain 0":          core.SetSession{ID: 9, Domain: 7, Chain: chain(LMAA, CoA1)},
			"cannot move":               core.SetSession{ID: 1, Domain: 7, Chain: chain(LMAA, Alien)},
			"is unknown":                core.SetKey{ID: 77, Match: core.Match{Dst: HNP3}, Up: true},
			"names no prefix":           core.SetKey{ID: 1, Match: core.Match{Src: netip.Prefix{}}},
			"source and destination":    core.SetKey{ID: 1, Match: core.Match{Dst: HNP3, Src: HNP1}},
			"no home prefix":            core.SetKey{ID: 1, Match: core.Match{Dst: netip.MustParsePrefix("ff00::/8")}},
			"is no prefix":              core.SetKey{ID: 1, Match: core.Match{Dst: netip.PrefixFrom(H16, 64)}},
			"own tunnel":                core.SetKey{ID: 1, Match: core.Match{Dst: Core}},
			"in routing domain 5":       core.SetKey{ID: 1, Match: core.Match{Domain: 5, Dst: HNP3}},
		} {
			// What is before the refused op is applied, what is behind it is not.
			err := b.r.Update([]core.Op{
				core.SetKey{ID: sessionOne, Match: core.Match{Dst: HNP1}, Up: true, Down: true},
				op,
				core.Drop{ID: sessionOne},
			})
			var at *core.OpError
			if !errors.As(err, &at) || at.Index != 1 || !strings.Contains(err.Error(), says) {
				b.Errorf("%+v: %v, want index 1 and %q", op, err, says)
			}
		}
		b.pass("the session still is there", fromCN(udpPacket(CN6, H16, hdr{}, 100)), toCore(wrap(LMAA, CoA1, udpPacket(CN6, H16, hdr{hop: 63}, 100))))
		b.update(core.Drop{ID: 4711}, core.Drop{Match: core.Match{Dst: HNP3}})
	}},
	{name: "state/keys", o: anchor, f: func(b *bench) {
		spec.Covers(b, "S001-3.3.2-17")
		b.update(
			core.Drop{Match: core.Match{Dst: host(H14)}},
			core.SetKey{ID: sessionTwo, Match: core.Match{Dst: netip.MustParsePrefix("10.20.0.0/24")}, Up: true, Down: true},
			core.SetKey{ID: sessionTwo, Match: core.Match{Dst: host(H16)}, Up: true, Down: true},
		)
		b.pass("the shorter key takes over", fromCN(udpPacket(CN4, H14, hdr{}, 100)), toCore(wrap(LMAA, CoA2, udpPacket(CN4, H14, hdr{hop: 63}, 100))))
		b.pass("the longer key wins", fromCN(udpPacket(CN6, H16, hdr{}, 100)), toCore(wrap(LMAA, CoA2, udpPacket(CN6, H16, hdr{hop: 63}, 100))))
		b.pass("beside it", fromCN(udpPacket(CN6, HNP1.Addr().Next(), hdr{}, 100)), toCore(wrap(LMAA, CoA1, udpPacket(CN6, HNP1.Addr().Next(), hdr{hop: 63}, 100))))
		b.update(core.SetKey{ID: sessionTwo, Match: core.Match{Dst: HNP1}, Up: true, Down: true})
		b.pass("the newer key of one prefix takes it over", fromCN(udpPacket(CN6, HNP1.Addr().Next(), hdr{}, 100)), toCore(wrap(LMAA, CoA2, udpPacket(CN6, HNP1.Addr().Next(), hdr{hop: 63}, 100))))
		in := udpPacket(CN4, H24, hdr{}, 100)
		b.update(core.Drop{ID: sessionTwo})
		b.dropped(wire.Deprecated, 1, func() {
			b.pass("and does not give it back", fromCN(udpPacket(CN6, HNP1.Addr().Next(), hdr{}, 100)))
		})
		b.pass("a session goes with its keys", fromCN(in), told(CN4, 3, 1, 0, in))
	}},
	{name: "state/shared tunnel", o: anchor, f: func(b *bench) { // two hosts at one gateway; it goes with the last of them
		spec.Covers(b, "S001-3.3.2-16")
		b.update(
			core.SetSession{ID: 3, Chain: chain(LMAA, CoA1)},
			core.SetKey{ID: 3, Match: core.Match{Dst: host(H34)}, Up: true, Down: true},
		)
		three, threeOut := udpPacket(H34, CN4, hdr{}, 100), udpPacket(H34, CN4, hdr{hop: 63}, 100)
		b.pass("one", fromCore(wrap(CoA1, LMAA, udpPacket(H14, CN4, hdr{}, 100))), toCN(udpPacket(H14, CN4, hdr{hop: 63}, 100)))
		b.pass("the other", fromCore(wrap(CoA1, LMAA, three)), toCN(threeOut))
		b.update(core.Drop{ID: sessionOne})
		b.pass("the other still", fromCore(wrap(CoA1, LMAA, three)), toCN(threeOut))
		b.dropped(wire.WrongSource, 1, func() { b.pass("the one no more", fromCore(wrap(CoA1, LMAA, udpPacket(H14, CN4, hdr{}, 100)))) })
		b.update(core.Drop{ID: 3})
		b.dropped(wire.WrongTunnel, 1, func() { b.pass("the tunnel is gone", fromCore(wrap(CoA1, LMAA, three))) })
		b.dropped(wire.Unsolicited, 1, func() {
			b.pass("nor are errors about it believed", tunnelError(LMAA, 1, 3, 0, wrap(LMAA, CoA1, udpPacket(CN4, H34, hdr{}, 100))))
		})
	}},
	{name: "state/counters", o: anchor, f: func(b *bench) {
		b.pass("down", fromCN(udpPacket(CN6, H16, hdr{}, 100)), toCore(wrap(LMAA, CoA1, udpPacket(CN6, H16, hdr{hop: 63}, 100))))
		b.pass("up", fromCore(wrap(CoA1, LMAA, udpPacket(H14, CN4, hdr{}, 200))), toCN(udpPacket(H14, CN4, hdr{hop: 63}, 200)))
		b.pass("across", fromCore(wrap(CoA1, LMAA, udpPacket(H14, H24, hdr{}, 300))), toCore(wrap(LMAA, CoA2, udpPacket(H14, H24, hdr{hop: 63}, 300))))
		b.pass("forged", fromCore(wrap(CoA1, LMAA, udpPacket(Nemo4, CN4, hdr{}, 200))))
		b.counters(core.Counter{PacketsIn: 2, OctetsIn: 500, PacketsOut: 1, OctetsOut: 100}, core.Counter{PacketsOut: 1, OctetsOut: 300})
		if err := b.r.Counters([]core.ID{1, 2}, make([]core.Counter, 1)); err == nil {
			b.Error("two counters into the room of one")
		}
	}},
	{name: "state/sync", o: anchor, f: func(b *bench) {
		b.pass("before", fromCN(udpPacket(CN6, H16, hdr{}, 100)), toCore(wrap(LMAA, CoA1, udpPacket(CN6, H16, hdr{hop: 63}, 100))))
		all := []core.Op{
			core.SetSession{ID: sessionOne, Chain: chain(LMAA, CoA1), Grace: grace}, // the same, but for a key that is gone
			core.SetKey{ID: sessionOne, Match: core.Match{Dst: HNP1}, Up: true, Down: true},
			core.SetSession{ID: 3, Chain: chain(LMAA, CoA2)}, // new; session 2 is gone
			core.SetKey{ID: 3, Match: core.Match{Dst: host(H34)}, Up: true, Down: true},
		}
		for range 2 {
			if err := b.r.Sync(slices.Values(all)); err != nil {
				b.Fatal(err)
			}
			b.pass("kept", fromCore(wrap(CoA1, LMAA, udpPacket(H16, CN6, hdr{}, 100))), toCN(udpPacket(H16, CN6, hdr{hop: 63}, 100)))
			b.pass("new", fromCN(udpPacket(CN4, H34, hdr{}, 100)), toCore(wrap(LMAA, CoA2, udpPacket(CN4, H34, hdr{hop: 63}, 100))))
			for _, gone := range []netip.Addr{H14, H24} {
				in := udpPacket(CN4, gone, hdr{}, 100)
				b.pass("gone", fromCN(in), told(CN4, 3, 1, 0, in))
			}
		}
		b.counters(core.Counter{PacketsIn: 2, OctetsIn: 200, PacketsOut: 1, OctetsOut: 100}, core.Counter{})
		broken := append(slices.Clone(all[2:]), core.SetKey{ID: 99, Match: core.Match{Dst: HNP3}})
		var at *core.OpError
		if err := b.r.Sync(slices.Values(broken)); !errors.As(err, &at) || at.Index != 2 {
			b.Errorf("broken: %v, want index 2", err)
		}
		b.pass("a broken one removes nothing", fromCore(wrap(CoA1, LMAA, udpPacket(H16, CN6, hdr{}, 100))), toCN(udpPacket(H16, CN6, hdr{hop: 63}, 100)))
		if err := b.r.Sync(iter.Seq[core.Op](func(func(core.Op) bool) {})); err != nil {
			b.Fatal(err)
		}
		b.pass("empty", fromCore(wrap(CoA1, LMAA, udpPacket(H16, CN6, hdr{}, 100))))
	}},
}

// counters wants those of sessions one and two.
func (b *bench) counters(one, two core.Counter) {
	b.Helper()
	got := make([]core.Counter, 2)
	if err := b.r.Counters([]core.ID{sessionOne, sessionTwo}, got); err != nil {
		b.Fatal(err)
	}
	if got[0] != one || got[1] != two {
		b.Errorf("counters %+v, want %+v and %+v", got, one, two)
	}
}
