package simnet

import (
	"encoding/binary"
	"fmt"
	"maps"
	"net/netip"
	"runtime"
	"slices"
	"testing"
	"time"

	"kedge/internal/ipsec"
	"kedge/wire/ip"
	"kedge/wire/mobility"
)

// many gives the nth address of a stranger, of either family.
func many(n int, is4 bool) netip.Addr {
	if is4 {
		return netip.AddrFrom4([4]byte{192, 0, 2, byte(n)})
	}
	b := bad6.As16()
	binary.BigEndian.PutUint32(b[8:], uint32(n))
	return netip.AddrFrom16(b)
}

// floods are what strangers send, each from as many addresses as they like.
var floods = map[string]func(n int) []byte{
	"Binding Updates in the clear": func(n int) []byte {
		from := many(n, false)
		return bare(ip.Signal{Src: from, Dst: ha6, SrcHome: mn6}, update(uint16(n), mobility.AlternateCareOf{Addr: from}))
	},
	"Binding Updates of nobodies": func(n int) []byte {
		from := many(n, false)
		return bare(ip.Signal{Src: from, Dst: ha6, SrcHome: many(n+1, false)}, update(uint16(n), mobility.AlternateCareOf{Addr: from}))
	},
	"Binding Updates in UDP from many ports": func(n int) []byte {
		return inUDP(netip.AddrPortFrom(many(n, true), uint16(n)|1), netip.AddrPortFrom(ha4, 4191),
			bare(ip.Signal{Src: many(n, false), Dst: ha6}, update(uint16(n), mobility.IPv4CareOf{Addr: bad4})))
	},
	"ESP": func(n int) []byte {
		return bareOctets(ip.Signal{Src: many(n, false), Dst: ha6, SrcHome: mn6, Proto: ip.ESP}, append([]byte{0, 0, 0x10, 1, 0, 1, byte(n >> 8), byte(n)}, make([]byte, 80)...))
	},
	"ESP of nobody in UDP": func(n int) []byte {
		return inUDP(netip.AddrPortFrom(many(n, true), 4191), netip.AddrPortFrom(ha4, 4191),
			bareOctets(ip.Signal{Src: many(n, false), Dst: ha6, Proto: ip.ESP}, append(binary.BigEndian.AppendUint32(nil, uint32(n)), make([]byte, 84)...)))
	},
	"unknown types": func(n int) []byte {
		return bare(ip.Signal{Src: many(n, false), Dst: ha6}, &mobility.Raw{MHType: 60, Data: make([]byte, 26)})
	},
	"short unknown types": func(n int) []byte {
		return bare(ip.Signal{Src: many(n, false), Dst: ha6}, &mobility.Raw{MHType: 60, Data: make([]byte, 2)})
	},
	"bad home addresses": func(n int) []byte {
		b := bare(ip.Signal{Src: many(n, false), Dst: ha6, SrcHome: nobody}, update(1))
		return patch(b, ip.IPv6Len+8, 0xff, 0x0e)
	},
	"payload protocols": func(n int) []byte {
		b := bare(ip.Signal{Src: bad6, Dst: ha6}, update(1))
		return mhSum(patch(b, ip.IPv6Len, 17), ip.IPv6Len, bad6, ha6)
	},
	"headers too short": func(n int) []byte {
		return mhSum(bareOctets(ip.Signal{Src: bad6, Dst: ha6}, []byte{59, 0, 7, 0, 0, 0, 1, 0}), ip.IPv6Len, bad6, ha6)
	},
	"unknown destination options": func(n int) []byte {
		return outer(bad6, ha6, ip.DstOpts, append([]byte{ip.Mobility, 0, 0xfe, 4, 0, 0, 0, 0}, make([]byte, 16)...))
	},
	"routing headers": func(n int) []byte {
		return outer(bad6, ha6, ip.Routing, append([]byte{ip.Mobility, 0, 0, 1, 0, 0, 0, 0}, make([]byte, 16)...))
	},
	"data": func(n int) []byte {
		from := many(n, false)
		return outer(from, ha6, ip.IPv6, outer(mn6, cn6, ip.UDP, make([]byte, 12)))
	},
	"data in UDP from many ports": func(n int) []byte {
		return inUDP(netip.AddrPortFrom(many(n, true), uint16(n)|1), netip.AddrPortFrom(ha4, 4191), outer(mn4, cn4, ip.UDP, make([]byte, 12)))
	},
	"keepalives": func(n int) []byte {
		return inUDP(netip.AddrPortFrom(many(n, true), uint16(n)|1), netip.AddrPortFrom(ha4, 4191), nil)
	},
	"UDP of a kind": func(n int) []byte { return udp4191(many(n, true), []byte{byte(n), byte(n >> 8), 3, 4}) },
	"fragments": func(n int) []byte {
		h := append([]byte{ip.IPv6, 0, 0, 1}, binary.BigEndian.AppendUint32(nil, uint32(n))...)
		return outer(many(n, false), ha6, ip.Fragment, append(h, make([]byte, 1000)...))
	},
	"ICMPv6 errors": func(n int) []byte {
		return icmp(many(n, false), ha6, 2, 0, 1280, outer(ha6, many(n+1, false), ip.IPv6, outer(cn6, mn6, ip.UDP, make([]byte, 1300))))
	},
	"proxy registrations": func(n int) []byte {
		m := update(uint16(n), mobility.MobileNodeID{Subtype: mobility.SubtypeNAI, ID: fmt.Sprintf("x%d@example.net", n)})
		m.Flags |= mobility.BUProxy
		return bare(ip.Signal{Src: many(n, false), Dst: ha6}, m)
	},
	"heartbeats": func(n int) []byte {
		return bare(ip.Signal{Src: many(n, false), Dst: ha6}, &mobility.Heartbeat{Sequence: uint32(n)})
	},
}

// TestStrangersLeaveNothing: twenty thousand packets a second of each kind make no state before somebody vouches for one, cost
// no memory, get no more octets than they were, and take nothing from a node that is bound.
func TestStrangersLeaveNothing(t *testing.T) {
	const rate = 20_000
	// What is kept of packets that may still be completed has a limit of its own (ip.DefaultLimits); nothing else may grow.
	const slack, fragments = 512 << 10, 8 << 20
	for _, p := range secured {
		t.Run(string(p), func(t *testing.T) {
			a := attack(t, roamOptions{seed: 12, protection: p}, "six")
			a.Trace = nil
			for _, name := range slices.Sorted(maps.Keys(floods)) {
				packet := floods[name]
				a.seen, a.sent, a.got = nil, 0, 0
				before, octets := a.counters(), heapInUse()
				a.unharmed(t, name, time.Second, false, func() {
					n := 0
					var next func()
					next = func() {
						for range rate / 1000 {
							n++
							a.send(packet(n))
						}
						if n < rate {
							a.After(ms, next)
						}
					}
					next()
				})
				a.seen = nil
				limit := uint64(slack)
				if name == "fragments" {
					limit += fragments
				}
				if grown := heapInUse(); grown > octets+limit {
					t.Errorf("%s: %d octets more are in use", name, grown-octets)
				}
				if a.sent < rate*20 || a.got > a.sent {
					t.Errorf("%s: %d octets sent, %d came back", name, a.sent, a.got)
				}
				if len(a.moved(before)) == 0 {
					t.Errorf("%s: nothing was counted", name)
				}
				t.Logf("%s: %d octets sent, %d came back; moved %q", name, a.sent, a.got, a.moved(before))
			}
		})
	}
}

// heapInUse is how many octets are in use.
func heapInUse() uint64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

// TestFloodFromOneAddress: while one address sends twelve thousand Binding Updates a second, in each framing, a node gets from
// network to network as fast as without.
func TestFloodFromOneAddress(t *testing.T) {
	native := bare(ip.Signal{Src: bad6, Dst: ha6, SrcHome: mn6}, update(1))
	udp := udp4191(bad4, bare(ip.Signal{Src: mn6, Dst: ha6}, update(1, mobility.IPv4CareOf{Addr: bad4})))
	nobodys := bare(ip.Signal{Src: bad6, Dst: ha6, SrcHome: nobody}, update(1))
	roam := func(p ipsec.Protection, flood bool) (took []time.Duration) {
		a := attack(t, roamOptions{seed: 13, protection: p}, "six")
		a.Trace = nil
		var next func()
		next = func() {
			for range 4 {
				a.send(native, udp, nobodys)
			}
			if flood {
				a.After(ms, next)
			}
		}
		if flood {
			next()
		}
		for _, name := range []string{"nat", "six2", "four", "dual", "nat2"} {
			a.mn.Iface("wl0").Attach(a.nets[name])
			took = append(took, a.bound(5*sec))
		}
		flood = false
		return took
	}
	for _, p := range secured {
		if with, without := roam(p, true), roam(p, false); !slices.Equal(with, without) {
			t.Errorf("%s: reachable after %v, and without the flood %v", p, with, without)
		}
	}
}
