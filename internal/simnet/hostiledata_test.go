package simnet

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"testing"
	"time"

	"kedge/internal/ipsec"
	"kedge/wire/ip"
)

// icmp is an ICMP or ICMPv6 error from src to dst about a packet, of which as much is quoted as fits.
func icmp(src, dst netip.Addr, typ, code uint8, info uint32, about []byte) []byte {
	b := append([]byte{typ, code, 0, 0}, binary.BigEndian.AppendUint32(nil, info)...)
	b = append(b, about[:min(len(about), 500)]...)
	proto, sum := uint8(ip.ICMPv4), uint16(0)
	if src.Is4() {
		sum = ip.Checksum(b)
	} else {
		proto, sum = ip.ICMPv6, ip.PseudoChecksum(src, dst, ip.ICMPv6, b)
	}
	binary.BigEndian.PutUint16(b[2:], sum)
	return outer(src, dst, proto, b)
}

// errors6, errors4: type, code, and what the third word says: MTUs from none to the smallest that is believed, pointers.
var (
	errors6 = [][3]uint32{{2, 0, 0}, {2, 0, 68}, {2, 0, 1279}, {2, 0, 1280}, {1, 0, 0}, {1, 1, 0}, {1, 3, 0}, {1, 4, 0}, {3, 0, 0}, {4, 0, 0}, {4, 1, 6}, {4, 1, 40}, {4, 2, 48}, {99, 0, 0}}
	errors4 = [][3]uint32{{3, 4, 0}, {3, 4, 68}, {3, 4, 575}, {3, 4, 576}, {3, 0, 0}, {3, 1, 0}, {3, 2, 0}, {3, 3, 0}, {3, 13, 0}, {11, 0, 0}, {12, 0, 20 << 24}, {4, 0, 0}, {5, 0, 0xc0000242}}
)

// TestForgedErrors: ICMP errors about packets of the tunnel, from who has seen them and from who guesses, to both ends.
func TestForgedErrors(t *testing.T) {
	for _, at := range []string{"six", "four", "nat"} {
		t.Run(at, func(t *testing.T) {
			a := attack(t, roamOptions{seed: 9, protection: ipsec.ESP}, at)
			agent, node, list, stranger := ha6, a.mn.addressOf(), errors6, bad6
			if node.Is4() {
				agent, list, stranger = ha4, errors4, bad4
			}
			a.unharmed(t, "capturing", 500*ms, false, func() {})
			public := node // as the home agent sees it
			if v := a.mn.Iface("wl0").On(); v.nat != nil {
				public = v.NAT
			}
			tunnelled := func(_ []byte, h *ip.Header) bool { return h.Dst == agent || h.Dst == public }
			all := func(to netip.Addr, about []byte) (out [][]byte) {
				for _, e := range list {
					out = append(out, icmp(stranger, to, uint8(e[0]), uint8(e[1]), e[2], about))
				}
				return out
			}
			down := a.captured(agent, tunnelled)
			guess := outer(agent, public, ip.IPv6, outer(netip.MustParseAddr("2001:db8:c::1"), nobody, ip.UDP, make([]byte, 600)))
			short := down[:28]
			if !node.Is4() {
				short = down[:48]
			}
			// A message that was not sent is no news, whatever it quotes.
			a.withstand(t, []hostile{
				{name: "to the home agent, of who guesses", pkts: func(*mallory) [][]byte { return all(agent, guess) }, want: []string{"ha engine unsolicited"}},
				{name: "to the home agent, with the outer header only", pkts: func(*mallory) [][]byte { return all(agent, short) }, want: []string{"ha engine tunnel-error"}},
				{name: "to the home agent, about another's packet", pkts: func(*mallory) [][]byte {
					return all(agent, outer(agent, stranger, ip.UDP, make([]byte, 60)))
				}, want: []string{"ha engine unsolicited"}},
				{name: "to the home agent, about what it sent", pkts: func(*mallory) [][]byte { return all(agent, down) }, want: []string{"ha engine tunnel-error"}},
			})
			up := a.mnSent(node)
			on := a.mn.Iface("wl0").On()
			whisper := func(pkts [][]byte) func(*mallory) [][]byte {
				return func(*mallory) [][]byte {
					for n, b := range pkts {
						a.After(time.Duration(50*n)*ms, func() { on.whisper(bytes.Clone(b)) })
					}
					return nil
				}
			}
			a.withstand(t, []hostile{
				{name: "to the node, of who guesses", pkts: whisper(all(node, outer(node, agent, ip.IPv6, outer(nobody, ha6, ip.UDP, make([]byte, 600))))), want: []string{"mn engine unsolicited"}},
				{name: "to the node, about what it sent", pkts: whisper(all(node, up)), want: []string{"mn engine tunnel-error"}},
			})
		})
	}
}

// mnSent is a packet of data that the node sent into its tunnel, as it left the node.
func (a *mallory) mnSent(from netip.Addr) (b []byte) {
	remove := a.mn.Iface("wl0").On().Fault(func(p *Packet) Verdict {
		if p.Src == from {
			b = bytes.Clone(p.B)
		}
		return Verdict{}
	})
	defer remove()
	a.cn.Ping(mn6, 9999)
	a.Run(100 * ms)
	if b == nil {
		a.t.Fatal("the node sent nothing")
	}
	return b
}

// TestGarbage: what is no packet, or one of nobody, in every framing that a home agent listens to.
func TestGarbage(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 1))
	noise := func(n int) []byte {
		b := make([]byte, n)
		for i := range b {
			b[i] = byte(rng.Uint32())
		}
		return b
	}
	rows := func(name, want string, pkts ...[]byte) hostile {
		return hostile{name: name, want: []string{want}, pkts: func(*mallory) [][]byte { return pkts }}
	}
	port := netip.AddrPortFrom
	from6 := func(src netip.Addr) []byte {
		return outer(src, netip.MustParseAddr("2001:db8:c::1"), ip.UDP, make([]byte, 40))
	}
	from4 := func(src netip.Addr) []byte { return outer(src, cn4, ip.UDP, make([]byte, 40)) }
	var short, sizes [][]byte
	for n := 2; n < 60; n++ {
		short = append(short, udp4191(bad4, noise(n)))
	}
	for _, n := range []int{100, 500, 1400, 9000, 65507} {
		sizes = append(sizes, udp4191(bad4, noise(n)))
	}
	noSum := udp4191(bad4, noise(40))
	wrongSum := patch(noSum, ip.IPv4Len+6, noSum[ip.IPv4Len+6]^0xff)
	longer := patch(noSum, ip.IPv4Len+4, 0xff, 0xff)
	nested := outer(mn6, ha6, ip.IPv6, outer(mn6, ha6, ip.IPv6, from6(mn6)))
	all := []hostile{
		rows("UDP 4191, a few octets", "ha engine bad-inner-header", short...),
		rows("UDP 4191, many octets", "ha engine bad-inner-header", sizes...),
		rows("keepalives of no octet", "ha engine keepalives", udp4191(bad4, nil)),
		rows("keepalives of one octet", "ha engine keepalives", udp4191(bad4, []byte{0xff}), udp4191(bad4, []byte{0x60}), udp4191(bad4, []byte{0x45})),
		rows("UDP from port 0", "ha engine bad-inner-header", inUDP(port(bad4, 0), port(ha4, 4191), noise(40))),
		rows("UDP to another port", "ha engine malformed", inUDP(port(bad4, 4191), port(ha4, 434), noise(40)), inUDP(port(bad4, 4191), port(ha4, 4190), noise(40))),
		rows("UDP with a wrong checksum", "ha engine malformed", wrongSum),
		rows("UDP with a length beyond the packet", "ha engine malformed", longer),
		rows("data in UDP of a stranger", "ha engine wrong-tunnel", udp4191(bad4, from6(mn6)), udp4191(bad4, from4(mn4))),
		rows("data in protocol 41 of a stranger", "ha engine wrong-tunnel", outer(bad4, ha4, ip.IPv6, from6(mn6)), outer(bad6, ha6, ip.IPv6, from6(mn6))),
		rows("data in protocol 4 of a stranger", "ha engine wrong-tunnel", outer(bad4, ha4, ip.IPv4, from4(mn4)), outer(bad6, ha6, ip.IPv4, from4(mn4))),
		rows("protocol 4 around IPv6", "ha engine bad-inner-header", outer(bad4, ha4, ip.IPv4, from6(mn6))),
		rows("protocol 41 around IPv4", "ha engine bad-inner-header", outer(bad4, ha4, ip.IPv6, from4(mn4))),
		rows("41 in 41 of a stranger", "ha engine wrong-tunnel", outer(bad4, ha4, ip.IPv6, nested), outer(bad6, ha6, ip.IPv6, nested)),
		rows("41 in UDP of a stranger", "ha engine wrong-tunnel", udp4191(bad4, nested)),
		rows("65,535 octets in protocol 41", "ha engine wrong-tunnel", outer(bad6, ha6, ip.IPv6, outer(mn6, cn6, ip.UDP, make([]byte, 65535-40)))),
		rows("65,535 octets of noise in protocol 41", "ha engine bad-inner-header", outer(bad6, ha6, ip.IPv6, make([]byte, 65535))),
		rows("65,535 octets of Mobility Header", "ha machine bad-length", outer(bad6, ha6, ip.Mobility, append([]byte{59, 255, 5}, make([]byte, 65535-3)...))),
		rows("65,535 octets of ESP", "ha codec bad-length", outer(bad6, ha6, ip.ESP, append([]byte{0, 0, 0x10, 1, 0, 0, 0xff, 0xff}, make([]byte, 65535-8)...))),
		rows("65,535 octets in UDP", "ha engine wrong-tunnel", udp4191(bad4, outer(mn4, cn4, ip.UDP, make([]byte, 65507-20)))),
	}
	for _, at := range []string{"six", "four", "nat"} {
		t.Run(at, func(t *testing.T) {
			a := attack(t, roamOptions{seed: 10, protection: ipsec.ESP}, at)
			a.withstand(t, all)
			a.withstand(t, a.fromItsTunnel())
		})
	}
}

// fromItsTunnel is what comes with the node's own outer source, which anybody may write: inner sources that are not the node's,
// and tunnels in the tunnel.
func (a *mallory) fromItsTunnel() (all []hostile) {
	wrap := func(inner []byte) []byte {
		src := a.bindings(a.ha)[0]
		switch {
		case src.Framing == "udp":
			return inUDP(netip.AddrPortFrom(src.CareOf, src.Port), netip.AddrPortFrom(ha4, 4191), inner)
		case src.CareOf.Is4() && inner[0]>>4 == 4:
			return outer(src.CareOf, ha4, ip.IPv4, inner)
		case src.CareOf.Is4():
			return outer(src.CareOf, ha4, ip.IPv6, inner)
		case inner[0]>>4 == 4:
			return outer(src.CareOf, ha6, ip.IPv4, inner)
		}
		return outer(src.CareOf, ha6, ip.IPv6, inner)
	}
	add := func(name, want string, inner ...[]byte) {
		all = append(all, hostile{name: "node's tunnel: " + name, want: []string{want}, pkts: func(*mallory) (out [][]byte) {
			for _, b := range inner {
				out = append(out, wrap(b))
			}
			return out
		}})
	}
	data := make([]byte, 40)
	add("another's IPv6 source", "ha engine wrong-source", outer(rogue6, cn6, ip.UDP, data), outer(nobody, cn6, ip.UDP, data), outer(ha6, cn6, ip.UDP, data), outer(cn6, mn6, ip.UDP, data))
	add("another's IPv4 source", "ha engine wrong-source", outer(rogue4, cn4, ip.UDP, data), outer(cn4, mn4, ip.UDP, data), outer(ha4, cn4, ip.UDP, data))
	add("41 in 41", "ha engine tunnel-encapsulation-limit", outer(mn6, ha6, ip.IPv6, outer(mn6, cn6, ip.UDP, data)), outer(mn6, ha6, ip.IPv4, outer(mn4, cn4, ip.UDP, data)))
	add("41 in 4", "ha engine tunnel-encapsulation-limit", outer(mn4, ha4, ip.IPv6, outer(mn6, cn6, ip.UDP, data)))
	add("link scope", "ha engine link-scope", outer(netip.MustParseAddr("fe80::5"), cn6, ip.UDP, data), outer(mn6, netip.MustParseAddr("fe80::5"), ip.UDP, data))
	add("mapped addresses", "ha engine ipv4-mapped-address", outer(mapped(mn4), cn6, ip.UDP, data), outer(mn6, mapped(cn4), ip.UDP, data))
	add("no hops left", "ha engine hop-limit-exceeded", patch(outer(mn6, cn6, ip.UDP, data), 7, 1))
	clear := "ha codec binding-update-in-tunnel" // RFC 5555 4.1 wants UDP
	if a.bindings(a.ha)[0].Framing == "udp" {
		clear = "ha codec unprotected"
	}
	add("Binding Update in the clear", clear, bare(ip.Signal{Src: mn6, Dst: ha6}, update(60000)))
	add("noise", "ha engine bad-inner-header", append([]byte{0x60}, make([]byte, 20)...), append([]byte{0x45}, make([]byte, 10)...))
	return all
}

// TestFragments: pieces of which nothing comes, that overlap, and too many of them.
func TestFragments(t *testing.T) {
	frag6 := func(id uint32, off int, more bool, proto uint8, body []byte) []byte {
		h := []byte{proto, 0, byte(off >> 8), byte(off)}
		if more {
			h[3] |= 1
		}
		return outer(bad6, ha6, ip.Fragment, append(binary.BigEndian.AppendUint32(h, id), body...))
	}
	a := attack(t, roamOptions{seed: 11, protection: ipsec.ESP}, "six")
	bu := bare(ip.Signal{Src: bad6, Dst: ha6, SrcHome: mn6}, update(60000))[ip.IPv6Len:]
	a.withstand(t, []hostile{
		{name: "a Binding Update in pieces", pkts: func(*mallory) [][]byte {
			return [][]byte{frag6(1, 0, true, ip.DstOpts, bu[:24]), frag6(1, 24, false, ip.DstOpts, bu[24:])}
		}, want: []string{"ha engine malformed"}},
		{name: "overlapping", pkts: func(*mallory) [][]byte {
			return [][]byte{frag6(2, 0, true, ip.UDP, make([]byte, 64)), frag6(2, 32, true, ip.UDP, bytes.Repeat([]byte{1}, 64))}
		}, want: []string{"ha engine overlapping-fragment"}},
		{name: "not a multiple of eight", pkts: func(*mallory) [][]byte { return [][]byte{frag6(3, 0, true, ip.UDP, make([]byte, 61))} }, want: []string{"ha engine malformed"}},
		{name: "beyond 65,535", pkts: func(*mallory) [][]byte { return [][]byte{frag6(4, 0xfff8, false, ip.UDP, make([]byte, 64))} }, want: []string{"ha engine malformed"}},
		{name: "an empty one", pkts: func(*mallory) [][]byte { return [][]byte{frag6(5, 0, true, ip.UDP, nil)} }, want: []string{"ha engine malformed"}},
		{name: "firsts without end", once: true, pkts: func(*mallory) (out [][]byte) {
			for n := range 3000 {
				a.After(time.Duration(n)*ms/5, func() { a.send(frag6(uint32(100+n), 0, true, ip.IPv6, make([]byte, 1200))) })
			}
			return nil
		}, want: []string{"ha engine reassembly-limit"}},
	})
	before := a.counters()
	a.Run(70 * sec)
	a.send(frag6(9, 0, true, ip.UDP, make([]byte, 64)))
	a.Run(100 * ms)
	if moved := fmt.Sprint(a.moved(before)); moved != "[ha engine reassembly-timeout]" {
		t.Errorf("after a minute moved %s", moved)
	}
}
