package conformance

import (
	"fmt"
	"net/netip"
	"slices"
	"time"

	"kedge/internal/core"
	"kedge/internal/dataplane"
	"kedge/wire"
)

// Upper layers of signalling: what is in them the data plane does not read.
var (
	mh      = []byte{59, 1, 5, 0, 0, 0, 0, 1, 0xc0, 0, 0, 9, 1, 2, 0, 0}
	esp     = append([]byte{0, 0, 1, 1, 0, 0, 0, 7}, filling(40)...)
	routing = func(a netip.Addr, next byte) []byte { // type 2 (RFC 6275 6.4)
		return append([]byte{next, 2, 2, 1, 0, 0, 0, 0}, a.AsSlice()...)
	}
	homeOption = func(a netip.Addr, next byte) []byte { // Home Address option (RFC 6275 6.3)
		return append([]byte{next, 2, 1, 2, 0, 0, 201, 16}, a.AsSlice()...)
	}
)

func toMachine(f framing, pkt []byte) want {
	return want{Packet: Packet{Side: Signal, Outer: f.chain(), B: pkt}}
}

// home is the address that signalling for the router has: an anchor's own, a node's home address.
func (v view) home() (from, to netip.Addr) {
	if v.role == dataplane.Node {
		return LMAA, H16
	}
	return H16, LMAA
}

var signalCases = slices.Concat(
	inEach("signalling out of the tunnel", func(v view) {
		src, dst := v.home()
		strange := v.f // a tuple that no session knows: a node that has moved, an anchor that has lost its state
		strange.remote = ap(map[bool]netip.Addr{true: Alien4, false: Alien}[v.f.is4()], v.f.remote.Port())
		for _, f := range []framing{v.f, strange} {
			for name, pkt := range map[string][]byte{
				"mobility header":               v6(src, dst, 135, hdr{}, mh),
				"ESP":                           v6(src, dst, 50, hdr{}, esp),
				"behind a home address option":  v6(src, dst, 60, hdr{}, slices.Concat(homeOption(H36, 135), mh)),
				"behind a routing header":       v6(src, dst, 43, hdr{}, slices.Concat(routing(H36, 50), esp)),
				"behind both":                   v6(src, dst, 43, hdr{}, slices.Concat(routing(H36, 60), homeOption(H36, 135), mh)),
				"with the hop limit of an echo": v6(src, dst, 135, hdr{hop: 255}, mh),
			} {
				v.pass(name, fromCore(f.back().wrap(pkt, hdr{})), toMachine(f, pkt))
			}
			// Not signalling: it needs a session as all data does.
			for name, pkt := range map[string][]byte{
				"another routing header": v6(src, dst, 43, hdr{}, append([]byte{135, 2, 0, 0, 0, 0, 0, 0}, append(CN6.AsSlice(), mh...)...)),
				"no message":             v6(src, dst, 135, hdr{}, nil),
				"cut in an option":       v6(src, dst, 60, hdr{}, homeOption(H36, 135)[:8]),
			} {
				if f == strange {
					v.dropped(wire.WrongTunnel, 1, func() { v.pass(name, fromCore(f.back().wrap(pkt, hdr{}))) })
				}
			}
			from, other := v.down(families[0]), CN6
			if v.role == dataplane.Node {
				from, other = CN6, H36 // a host in the mobile network
			}
			for next, body := range map[byte][]byte{135: mh, 50: esp} {
				pkt, out := v6(from, other, next, hdr{}, body), v6(from, other, next, hdr{hop: v.hop(64)}, body)
				if f == strange {
					v.dropped(wire.WrongTunnel, 1, func() { v.pass("of others", fromCore(f.back().wrap(pkt, hdr{}))) })
				} else if v.role == dataplane.Anchor {
					pkt, out = v6(H16, other, next, hdr{}, body), v6(H16, other, next, hdr{hop: 63}, body)
					v.pass("of others", fromCore(f.back().wrap(pkt, hdr{})), toCN(out))
				} else {
					v.pass("of others", fromCore(f.back().wrap(pkt, hdr{})), v.out(out))
				}
			}
		}
	}),
	inEach("signalling with a mapped address", func(v view) { // draft-soliman-v4v6-mipv6-00 3.3, 3.4
		remote, local := v.f.remote.Addr(), v.f.local.Addr()
		if v.role == dataplane.Node {
			pkt := v6(LMAA, mapped(local), 43, hdr{}, slices.Concat(routing(H16, 135), mh))
			if v.f.is4() && !v.f.udp() {
				v.pass("to the care-of address", fromCore(v.f.back().wrap(pkt, hdr{})), toMachine(v.f, pkt))
				pkt = v6(LMAA, mapped(NAT4), 43, hdr{}, slices.Concat(routing(H16, 135), mh))
			}
			v.dropped(wire.MappedAddress, 1, func() { v.pass("to another one, or in another framing", fromCore(v.f.back().wrap(pkt, hdr{}))) })
			return
		}
		pkt := v6(mapped(remote), LMAA, 60, hdr{}, slices.Concat(homeOption(H16, 135), mh))
		if v.f.is4() && !v.f.udp() {
			v.pass("from the care-of address", fromCore(v.f.back().wrap(pkt, hdr{})), toMachine(v.f, pkt))
			pkt = v6(mapped(NAT4), LMAA, 60, hdr{}, slices.Concat(homeOption(H16, 135), mh))
		}
		v.dropped(wire.MappedAddress, 1, func() { v.pass("from another one, or in another framing", fromCore(v.f.back().wrap(pkt, hdr{}))) })
	}),
	inEach("strangers' signalling", func(v view) {
		const most = 100 // a second from one address
		src, dst := v.home()
		pkt := v6(src, dst, 135, hdr{}, mh)
		flood := func(name string, f framing, n, want int) {
			v.Helper()
			got := 0
			before := v.r.Dropped(wire.RateLimit)
			for range n {
				v.r.Send(fromCore(f.back().wrap(pkt, hdr{})))
			}
			got = len(v.r.Drain())
			if got != want || v.r.Dropped(wire.RateLimit)-before != uint64(n-want) {
				v.Errorf("%s: %d of %d reached the machine, %d were dropped, want %d", name, got, n, v.r.Dropped(wire.RateLimit)-before, want)
			}
		}
		strange := v.f
		strange.remote = ap(map[bool]netip.Addr{true: Alien4, false: Alien}[v.f.is4()], v.f.remote.Port())
		flood("a stranger", strange, most+50, most)
		if v.f.udp() {
			strange.remote = ap(strange.remote.Addr(), 60000)
			flood("a stranger from another port", strange, 10, 0)
		}
		flood("a session's node", v.f, most+50, most+50)
		v.r.Advance(time.Second)
		flood("a second later", strange, 5, 5)
		v.silent()
	}),
	inEach("signalling into the tunnel", func(v view) {
		dst, src := v.home()
		strange := v.f
		strange.remote = ap(map[bool]netip.Addr{true: NAT4, false: CoA2}[v.f.is4()], v.f.remote.Port())
		if v.role == dataplane.Node {
			strange.remote = ap(map[bool]netip.Addr{true: Alien4, false: Alien}[v.f.is4()], v.f.remote.Port())
		}
		for _, f := range []framing{v.f, strange} {
			for _, size := range []int{16, 600, 1452 - 40, 1453 - 40, 3000} {
				pkt := v6(src, dst, 50, hdr{tos: 0xc0}, filling(size))
				var wants []want
				// Never Don't Fragment: it must arrive. What exceeds the path is fragmented here.
				if whole := f.wrap(pkt, hdr{}); len(whole) <= pathMTU {
					wants = append(wants, toCore(f.compared(whole)))
				} else {
					for _, p := range f.cutOuter(whole, pathMTU) {
						wants = append(wants, toCore(f.compared(p)))
					}
				}
				if err := v.r.Signal(core.Packet{Outer: f.chain(), B: slices.Clone(pkt)}); err != nil {
					v.Error(err)
				}
				v.check(fmt.Sprintf("%d octets", size), v.r.Drain(), wants...)
			}
		}
		pkt, small := v6(src, dst, 50, hdr{}, filling(1300)), v.f.chain()
		small.MTU = 1300
		var wants []want
		for _, p := range v.f.cutOuter(v.f.wrap(pkt, hdr{}), 1300) {
			wants = append(wants, toCore(v.f.compared(p)))
		}
		if err := v.r.Signal(core.Packet{Outer: small, B: pkt}); err != nil {
			v.Error(err)
		}
		v.check("MTU of the chain", v.r.Drain(), wants...)
		v.covers(dataplane.Anchor, "IPv4", "S004-3.4-23")
		if v.f.is4() && !v.f.udp() && v.role == dataplane.Anchor {
			pkt := v6(LMAA, mapped(v.f.remote.Addr()), 43, hdr{}, slices.Concat(routing(H16, 135), mh))
			if err := v.r.Signal(core.Packet{Outer: v.f.chain(), B: pkt}); err != nil {
				v.Error(err)
			}
			v.check("to a mapped address", v.r.Drain(), toCore(v.f.compared(v.f.wrap(pkt, hdr{}))))
		}
		for name, p := range map[string]core.Packet{
			"natively":  {B: v6(src, dst, 135, hdr{}, mh)},
			"IPv4":      {Outer: v.f.chain(), B: udpPacket(CN4, H14, hdr{}, 100)},
			"truncated": {Outer: v.f.chain(), B: v6(src, dst, 135, hdr{}, mh)[:50]},
			"empty":     {Outer: v.f.chain()},
			"too long":  {Outer: v.f.chain(), B: v6(src, dst, 135, hdr{}, filling(65535))},
			"from a port that is not ours": {Outer: core.Chain{N: 1, Layer: [2]core.Layer{{Local: ap(v.f.local.Addr(), 1000), Remote: ap(v.f.remote.Addr(), port)}}},
				B: v6(src, dst, 135, hdr{}, mh)},
		} {
			if name == "natively" && v.role != dataplane.Node {
				continue // an anchor forwards it
			}
			if err := v.r.Signal(p); err == nil {
				v.Errorf("%s: accepted", name)
			}
			v.check(name, v.r.Drain())
		}
	}),
)
