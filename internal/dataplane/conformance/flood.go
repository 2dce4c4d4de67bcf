package conformance

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"os"
	"runtime"
	"time"

	"kedge/internal/core"
	"kedge/internal/dataplane"
	"kedge/wire"
)

// flooding is how many packets a flood has.
var flooding = func() int {
	if os.Getenv("KEDGE_LONG") != "" {
		return 100000
	}
	return 1000
}()

// stranger is the i-th of many addresses of a family.
func stranger(like netip.Addr, i int) netip.Addr {
	i = int(uint32(i) * 2654435761 >> 8)
	if like.Is4() {
		return netip.AddrFrom4([4]byte{198, 18 | byte(i>>16&1), byte(i >> 8), byte(i)})
	}
	a := netip.MustParseAddr("2001:db8:f::").As16()
	binary.BigEndian.PutUint32(a[12:], uint32(i))
	return netip.AddrFrom16(a)
}

// floodCases: whatever strangers send is counted by its reason, a few of it is reported, nothing grows, and who is known gets through.
var floodCases = func() (out []testCase) {
	for _, o := range []Options{anchor, both(gateway), node} {
		for _, e := range encapsOf(o.Role) {
			role := [...]string{"anchor", "gateway", "node"}[o.Role]
			out = append(out, testCase{name: "flood/" + role + " in " + e.name, o: o, f: func(b *bench) {
				s := site{b, e, o.Role}
				s.begin(0)
				s.floods()
			}})
		}
	}
	return append(out, strangeHeaders()...)
}()

// strangeHeaders are floods of GRE keys and of ESP that no session has: of peers that are known, which anybody may claim to be.
func strangeHeaders() (out []testCase) {
	for _, o := range []Options{anchor, both(gateway), node} {
		role := [...]string{"anchor", "gateway", "node"}[o.Role]
		for _, e := range append(chainedOf(o.Role)[:4], securedOf(o.Role)...) {
			o := o
			o.Secured = e.secured()
			out = append(out, testCase{name: "flood/" + role + " in " + e.name, o: o, f: func(b *bench) {
				b.secured = o.Secured
				s := site{b, e, o.Role}
				s.begin(0)
				if o.Secured {
					s.floodESP()
				} else {
					s.floodGRE()
				}
			}})
		}
	}
	return out
}

func (s site) floodGRE() {
	src, dst := s.ends(families[0])
	back := udpPacket(dst, src, hdr{}, 100)
	s.flood("unknown keys", true, func(i int) Packet {
		e := s.e
		l := &e.chain.Layer[0]
		l.KeyUp = 0x10000 + uint32(i)*2654435761>>4
		l.KeyDown = l.KeyUp
		return fromCore(e.wrap(back, hdr{id: 9}, true, !s.up()))
	}, strange...)
	s.flood("broken GRE headers", false, func(i int) Packet {
		b := s.e.wrap(back, hdr{id: 9}, true, !s.up())
		b[headerLen(s.e.outermost().Local.Addr())+1] |= 1 + byte(i%7) // a version that there is not
		return fromCore(b)
	}, wire.BadGRE)
}

func (s site) floodESP() {
	src, dst := s.ends(families[0])
	back := udpPacket(dst, src, hdr{}, 100)
	// What of a good packet a stranger changes, behind the outer headers.
	changed := func(change func(esp []byte, i int)) func(int) Packet {
		return func(i int) Packet {
			b := s.e.wrap(back, hdr{id: 9}, true, !s.up())
			at := outerESP(b)
			change(b[at:], i)
			if a, z, proto := addresses(b); proto == 17 && a.Is6() {
				copy(b[at-2:], []byte{0, 0})
				binary.BigEndian.PutUint16(b[at-2:], pseudoSum(a, z, 17, b[at-8:]))
			}
			return fromCore(b)
		}
	}
	s.flood("unknown SPIs", false, changed(func(esp []byte, i int) {
		binary.BigEndian.PutUint32(esp, 0xc0000000|uint32(i)*2654435761>>2)
	}), wire.UnknownSPI)
	s.flood("forged ESP", false, changed(func(esp []byte, i int) { esp[16+i%(len(esp)-16)] ^= 0x40 }), wire.BadICV)
	s.flood("forged sequence numbers", false, changed(func(esp []byte, i int) { binary.BigEndian.PutUint32(esp[4:], 1<<30+uint32(i)*64) }), wire.BadICV)
	s.flood("ESP cut short", false, func(i int) Packet {
		b := s.e.wrap(back, hdr{id: 9}, true, !s.up())
		at := outerESP(b)
		l := s.e.outermost()
		esp := b[at : at+8+i%26]
		proto := byte(50)
		if l.ESPPort != 0 {
			proto, esp = 17, datagram(ap(l.Remote.Addr(), portESP), ap(l.Local.Addr(), portESP), esp)
		}
		return fromCore(packet(l.Remote.Addr(), l.Local.Addr(), proto, hdr{id: 9}, esp))
	}, wire.Truncated, wire.Malformed)
	one := s.e.wrap(back, hdr{id: 9}, true, !s.up())
	s.r.Send(fromCore(one))
	if got := s.r.Drain(); len(got) != 1 {
		s.Errorf("a good packet: %s", dump(got))
	}
	s.flood("a packet again and again", false, func(int) Packet { return fromCore(one) }, wire.Replayed)
	// Good ones of an association that no session has between these two.
	s.flood("another association", true, func(int) Packet {
		e := s.e
		e.chain.Layer[0].SA = MarkerHandle
		return fromCore(e.wrap(back, hdr{id: 9}, true, !s.up()))
	}, strange...)
}

// flood pours packets into the router and wants all of them counted for one of some reasons. reports: it tells of some.
func (s site) flood(name string, reports bool, make func(i int) Packet, reasons ...wire.Reason) {
	s.Helper()
	s.r.Advance(time.Minute)
	s.r.Drain()
	s.reports()
	sum := func() (n uint64) {
		for _, r := range reasons {
			n += s.r.Dropped(r)
		}
		return n
	}
	before, was, heap := sum(), s.counted(), heapNow()
	for i := range flooding {
		s.r.Send(make(i))
		if i%500 == 499 { // no more than the queues between hold
			s.r.Drain()
		}
	}
	s.r.Drain()
	if n := sum() - before; len(reasons) > 0 && n != uint64(flooding) {
		s.Errorf("%s: %d of %d were counted for %v", name, n, flooding, reasons)
	}
	if is := s.counted(); is != was {
		s.Errorf("%s: the session counted %+v after %+v", name, is, was)
	}
	// A hundred at once, and two a second for how long it took, on a clock of the test: that is a hundred.
	if n := len(s.reports()); n > 100 || reports && n == 0 {
		s.Errorf("%s: %d reports", name, n)
	}
	if grown := heapNow() - heap; grown > 2<<20 {
		s.Errorf("%s: %d octets more are held", name, grown)
	}
	s.r.Advance(time.Minute)
	sh := &sheet{site: s, path: pathMTU}
	for _, fam := range families {
		src, dst := s.ends(fam)
		sh.in(name+": known traffic", func(hop int) []byte { return sh.of(kindUDP, src, dst, hdr{hop: hop}, 200) })
		sh.outOf(name+": known traffic", hdr{}, func(hop int) []byte { return sh.of(kindUDP, dst, src, hdr{hop: hop}, 200) })
	}
	s.burst(sh.all)
}

func heapNow() int {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int(m.HeapAlloc)
}

func (s site) floods() {
	for _, fam := range families {
		src, dst := s.ends(fam)
		back := udpPacket(dst, src, hdr{}, 100)
		nobody := func(i int) netip.Addr {
			i = int(uint32(i) * 2654435761 >> 8)
			if src.Is4() {
				return netip.AddrFrom4([4]byte{10, 20, 128 | byte(i>>8)&63, byte(i)})
			}
			a := netip.MustParseAddr("2001:db8:10ff::").As16()
			binary.BigEndian.PutUint32(a[12:], uint32(i))
			return netip.AddrFrom16(a)
		}
		up := s.role == dataplane.Anchor
		inner := func(i int) []byte { // of the tunnel: from nobody, or to nobody
			if up {
				return udpPacket(nobody(i), src, hdr{}, 100)
			}
			return udpPacket(dst, nobody(i), hdr{}, 100)
		}
		native := map[dataplane.Role]func(i int) Packet{
			dataplane.Anchor: func(i int) Packet { return s.native(udpPacket(src, nobody(i), hdr{}, 100)) },
			dataplane.Gateway: func(i int) Packet {
				p := s.native(udpPacket(src, dst, hdr{}, 100))
				p.MAC = core.MAC{2, 0x66, byte(i >> 24), byte(i >> 16), byte(i >> 8), byte(i)}
				return p
			},
			dataplane.Node: func(i int) Packet { return s.native(udpPacket(nobody(i), dst, hdr{}, 100)) },
		}[s.role]
		why := wire.UnknownHome
		if s.role == dataplane.Gateway {
			why = wire.UnknownHost
		}
		s.flood(fam.name+": unknown homes", true, native, why)
		s.flood(fam.name+": unknown homes in the tunnel", up, func(i int) Packet { return s.arrives(inner(i), hdr{}) }, strange...)
		for name, in := range map[string]func(int) []byte{"a known home": func(int) []byte { return back }, "unknown homes": inner} {
			s.flood(fmt.Sprintf("%s: %s from unknown peers", fam.name, name), true, func(i int) Packet {
				e := s.e
				l := &e.chain.Layer[e.chain.N-1]
				l.Remote = ap(stranger(l.Remote.Addr(), i), l.Remote.Port())
				return fromCore(e.wrap(in(i), hdr{id: 9}, true, up))
			}, strange...)
		}
		if s.e.outermost().Local.Port() != 0 {
			s.flood(fam.name+": from other ports", true, func(i int) Packet {
				e := s.e
				l := &e.chain.Layer[e.chain.N-1]
				l.Remote = ap(l.Remote.Addr(), uint16(10000+i%20000))
				return fromCore(e.wrap(back, hdr{id: 9}, true, up))
			}, strange...)
		}
	}
	v := view{s.bench, framing{"", s.e.outermost().Local, s.e.outermost().Remote}, s.role}
	src, dst := s.ends(families[0])
	s.flood("errors about tunnels that are not there", false, func(i int) Packet {
		e := s.e
		l := &e.chain.Layer[e.chain.N-1]
		l.Remote = ap(stranger(l.Remote.Addr(), i), l.Remote.Port())
		return v.unreachableInCore(e.wrap(udpPacket(src, dst, hdr{}, 200), hdr{df: true, id: 7}, false, s.up()), whole)
	}, wire.Unsolicited)
	// First fragments, of which nothing else comes. The kernel may count them, or the router.
	s.flood("fragments", false, func(i int) Packet {
		e := s.e
		l := &e.chain.Layer[e.chain.N-1]
		l.Remote = ap(stranger(l.Remote.Addr(), i), l.Remote.Port())
		f := framing{"", l.Local, l.Remote}
		p := f.cutOuter(e.wrap(udpPacket(dst, src, hdr{}, 1000), hdr{id: uint16(i)}, true, !s.up()), 600)[0]
		if !s.e.is4() {
			binary.BigEndian.PutUint32(p[44:], uint32(i))
		}
		return fromCore(p)
	})
}
