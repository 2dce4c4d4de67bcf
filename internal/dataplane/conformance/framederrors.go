package conformance

import (
	"bytes"
	"net/netip"
	"slices"
	"time"

	"kedge/internal/core"
	"kedge/wire"
)

// coreError is an ICMP or ICMPv6 error of a router in the core about an outer packet, with as much of it as n says.
func (v view) coreError(typ6, code6, typ4, code4 byte, info uint32, about []byte, n int) Packet {
	about = about[:min(len(about), n)]
	local := v.f.local.Addr()
	if v.f.is4() {
		return fromCore(v4(Alien4, local, 1, hdr{id: 9}, icmp4(typ4, code4, info, about)))
	}
	return fromCore(v6(Alien, local, 58, hdr{}, icmp6(Alien, local, typ6, code6, info, about)))
}

// tooBigInCore is "packet too big", or "fragmentation needed and Don't Fragment set".
func (v view) tooBigInCore(mtu int, about []byte, n int) Packet {
	return v.coreError(2, 0, 3, 4, uint32(mtu), about, n)
}

func (v view) unreachableInCore(about []byte, n int) Packet {
	return v.coreError(1, 3, 3, 1, 0, about, n)
}

const whole = 1232

// sent is what the router really emits for a packet of host 1: with its Identification.
func (v view) sent(fam family, size int) []byte {
	v.Helper()
	src, dst := v.ends(fam)
	v.r.Send(v.native(udpPacket(src, dst, hdr{df: true}, size)))
	got := v.r.Drain()
	if len(got) != 1 || got[0].Side != Tunnel {
		v.Fatalf("%s of %d octets: %s", fam.name, size, dump(got))
	}
	return got[0].B
}

// fits wants a packet of n octets of the family to enter the tunnel whole, and n+1 to be answered.
func (v view) fits(name string, fam family, n int) {
	v.Helper()
	src, dst := v.ends(fam)
	v.pass(name+": fits", v.native(udpPacket(src, dst, hdr{df: true}, n)), toCore(v.f.wrapDF(udpPacket(src, dst, hdr{df: true, hop: v.hop(64)}, n))))
	big := udpPacket(src, dst, hdr{df: true}, n+1)
	v.pass(name+": too big", v.native(big), v.tooBig(n, big))
	v.r.Advance(time.Second) // for the next error
}

var framedErrorCases = slices.Concat(
	inEach("path MTU", func(v view) {
		head := v.f.head()
		for _, fam := range families {
			src, _ := v.ends(fam)
			outer := v.sent(fam, 1400)
			inner := udpPacket(src, v.down(fam), hdr{df: true}, 1400)
			quoted := inner[:min(len(inner), whole-head)]
			v.pass(fam.name+": too big is relayed", v.tooBigInCore(1400, outer, whole), v.tooBig(1400-head, quoted))
			v.r.Advance(time.Second)
			v.fits(fam.name, fam, 1400-head)
			v.pass(fam.name+": and again, smaller", v.tooBigInCore(1340, v.sent(fam, 1400-head), whole), v.tooBig(1340-head, udpPacket(src, v.down(fam), hdr{df: true}, 1400-head)[:min(1400-head, whole-head)]))
			v.r.Advance(time.Second)
			v.fits(fam.name+" again", fam, 1340-head)
			v.r.Advance(10*time.Minute + time.Second)
			v.fits(fam.name+", forgotten after ten minutes", fam, pathMTU-head)
		}
	}),
	inEach("small path MTU", func(v view) { // less than 1,280 is left for inner packets
		const least = 1281
		src, dst := v.ends(families[0])
		outer := v.sent(families[0], 1400)
		v.pass("too big is relayed", v.tooBigInCore(least, outer, whole), v.tooBig(1280, udpPacket(src, dst, hdr{}, 1400)[:whole-v.f.head()]))
		v.r.Advance(time.Second)
		six := udpPacket(src, dst, hdr{}, 1281)
		v.pass("IPv6 of 1,281 octets", v.native(six), v.tooBig(1280, six))
		v.fragmentedIn("1,280 octets", families[0], 1280, least)
		v.fragmentedIn("as much as does not fit", families[0], least-v.f.head()+1, least)
		// Fragmented by nobody, but by every router that must: RFC 4213 3.2.2.
		v.pass("IPv6 that fits", v.native(udpPacket(src, dst, hdr{}, 600)), toCore(v.f.compared(v.f.wrap(udpPacket(src, dst, hdr{hop: v.hop(64)}, 600), hdr{}))))
		v.fits("IPv4 with DF", families[1], least-v.f.head())
		v.fragmentedIn("IPv4 without DF", families[1], least-v.f.head()+1, least)
		v.update(core.SetSession{ID: sessionOne, Chain: core.Chain{N: 1, MTU: 1380, Layer: v.f.chain().Layer}})
		v.r.Advance(10*time.Minute + time.Second)
		// A static MTU: no Don't Fragment for IPv6 (RFC 4213 3.2.1).
		n := max(1380-v.f.head(), 1280)
		v.pass("MTU of the chain", v.native(udpPacket(src, dst, hdr{}, n)), toCore(v.f.compared(v.f.wrap(udpPacket(src, dst, hdr{hop: v.hop(64)}, n), hdr{}))))
		big := udpPacket(src, dst, hdr{}, n+1)
		v.pass("MTU of the chain, too big", v.native(big), v.tooBig(n, big))
	}),
	inEach("errors in the core", func(v view) { // "address unreachable" or "host unreachable" to the source, whatever the families are
		for _, fam := range families {
			src, dst := v.ends(fam)
			typ, code := byte(1), byte(3)
			if src.Is4() {
				typ, code = 3, 1
			}
			outer, inner := v.sent(fam, 500), udpPacket(src, dst, hdr{df: true}, 500)
			v.pass(fam.name+" unreachable", v.unreachableInCore(outer, whole), v.told(src, typ, code, 0, inner))
			v.pass(fam.name+" hop limit", v.coreError(3, 0, 11, 0, 0, outer, whole), v.told(src, typ, code, 0, inner))
			v.pass(fam.name+" prohibited", v.coreError(1, 1, 3, 13, 0, outer, whole), v.told(src, typ, code, 0, inner))
			v.pass(fam.name+" cut within the inner header", v.unreachableInCore(outer, v.f.head()+12))
			v.pass(fam.name+" cut behind the outer one", v.unreachableInCore(outer, v.f.head()))
			v.pass(fam.name+" parameter problem", v.coreError(4, 0, 12, 0, 6, outer, whole))
			v.r.Advance(time.Second)
		}
	}),
	inEach("forged errors", func(v view) {
		head := v.f.head()
		src, dst := v.ends(families[0])
		inner := udpPacket(src, dst, hdr{hop: v.hop(64)}, 1400)
		df := func(p []byte) []byte { return v.f.wrap(p, hdr{df: true, id: 4711}) }
		still := func(why string) {
			v.Helper()
			n := pathMTU - head
			v.pass("after "+why, v.native(udpPacket(src, dst, hdr{}, n)), toCore(v.f.wrapDF(udpPacket(src, dst, hdr{hop: v.hop(64)}, n))))
		}
		v.pass("not smaller than the packet", v.tooBigInCore(1400+head, df(inner), whole))
		still("one that is not smaller than the packet")
		other := v.f
		other.remote = ap(map[bool]netip.Addr{true: Alien4, false: Alien}[v.f.is4()], v.f.remote.Port())
		ports := v.f
		ports.remote = ap(v.f.remote.Addr(), 40999)
		forged := map[string][]byte{
			"unknown tunnel": other.wrap(inner, hdr{df: true}),
			"to nobody":      df(udpPacket(v.other(src), v.other(dst), hdr{}, 1400)),
			"inner shorter":  df(append(udpPacket(src, dst, hdr{}, 100), filling(1300)...)),
			"inner longer":   df(bytes.Clone(inner[:1390])),
		}
		if v.f.udp() {
			forged["another port"] = ports.wrap(inner, hdr{df: true})
		}
		if v.f.is4() { // it is taken, but nothing was ever sent in it
			forged["the other framing"] = v.f.other().wrap(inner, hdr{df: true})
		}
		for name, about := range forged {
			v.dropped(wire.Unsolicited, 1, func() { v.pass(name, v.tooBigInCore(1300, about, whole)) })
			still(name)
			v.dropped(wire.Unsolicited, 1, func() { v.pass(name+", unreachable", v.unreachableInCore(about, whole)) })
		}
		v.pass("another protocol", v.tooBigInCore(1300, packet(v.f.local.Addr(), v.f.remote.Addr(), 135, hdr{df: true}, filling(1400)), whole))
		still("another protocol")
		v.pass("a guess, too short to know", v.tooBigInCore(1300, df(inner), head+8))
		still("a guess, too short to know")
		later := v.f.cutOuter(v.f.wrap(udpPacket(src, dst, hdr{}, 2800), hdr{}), 1500)[1]
		v.pass("a later fragment", v.tooBigInCore(1300, later, whole))
		still("a later fragment")
		if v.f.is4() {
			v.pass("Don't Fragment was not set", v.tooBigInCore(1300, v.f.wrap(inner, hdr{id: 5}), whole))
			still("one about what may be fragmented")
			broken := v.tooBigInCore(1300, df(inner), whole)
			broken.B[22] ^= 1
			v.dropped(wire.Malformed, 1, func() { v.pass("checksum", broken) })
			still("one with a wrong checksum")
			return
		}
		v.pass("below 1,280", v.tooBigInCore(1279, df(inner), whole))
		still("one below 1,280")
	}),
	inEach("IPv4 errors that say little", func(v view) {
		if !v.f.is4() {
			return // IPv6 quotes what fits
		}
		src, dst := v.ends(families[0])
		// Eight octets behind the header: the Identification is the router's secret mark.
		v.pass("eight octets", v.tooBigInCore(1400, v.sent(families[0], 1450), 28))
		v.fits("eight octets", families[0], 1400-v.f.head())
		v.r.Advance(time.Hour)
		// A router from before RFC 1191 does not say its MTU: the next plateau.
		outer := v.sent(families[0], pathMTU-v.f.head())
		v.pass("no MTU", v.tooBigInCore(0, outer, whole), v.tooBig(1492-v.f.head(), udpPacket(src, dst, hdr{}, pathMTU-v.f.head())[:whole-v.f.head()]))
		v.fits("no MTU", families[0], 1492-v.f.head())
		v.r.Advance(time.Hour)
		// Nobody cuts packets into dozens: 576 octets is what every host takes.
		v.pass("MTU 68", v.tooBigInCore(68, v.sent(families[1], 1400), 28))
		v.fits("MTU 68", families[1], 576-v.f.head())
		v.fragmentedIn("IPv6 of 1,280 octets", families[0], 1280, 576)
	}),
)
