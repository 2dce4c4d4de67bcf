package simnet

import (
	"bytes"
	"net/netip"
	"testing"

	"kedge/internal/core"
	"kedge/internal/ipsec"
	"kedge/internal/spec"
	"kedge/wire/ip"
	"kedge/wire/mobility"
)

// TestWrongESP: forged, of another, repeated, cut.
func TestWrongESP(t *testing.T) {
	spec.Covers(t, "S004-3.3-12")
	esp := func(spi uint32, n int) []byte {
		b := bytes.Repeat([]byte{0xa5}, n)
		return append([]byte{byte(spi >> 24), byte(spi >> 16), byte(spi >> 8), byte(spi), 0, 0, 0x70, 0}, b...)
	}
	native := func(home netip.Addr, body []byte) []byte {
		return bareOctets(ip.Signal{Src: bad6, Dst: ha6, SrcHome: home, Proto: ip.ESP}, body)
	}
	// as changes the home address that a packet of mn2's names.
	as := func(b []byte, home netip.Addr) []byte {
		from, to := rogue6.As16(), home.As16()
		return bytes.ReplaceAll(b, from[:], to[:])
	}
	alt := mobility.AlternateCareOf{Addr: bad6}
	all := []hostile{
		{name: "forged", pkts: func(*mallory) [][]byte { return [][]byte{native(mn6, esp(0x1001, 80))} }, want: []string{"ha codec bad-icv"}},
		{name: "of no association", pkts: func(*mallory) [][]byte { return [][]byte{native(mn6, esp(0x9999, 80))} }, want: []string{"ha codec unknown-spi"}},
		{name: "of the other direction", pkts: func(*mallory) [][]byte { return [][]byte{native(mn6, esp(0x1002, 80))} }, want: []string{"ha codec unknown-spi"}},
		{name: "cut", pkts: func(*mallory) [][]byte { return [][]byte{native(mn6, esp(0x1001, 0)[:6])} }, want: []string{"ha codec truncated"}},
		{name: "too short for an ICV", pkts: func(*mallory) [][]byte { return [][]byte{native(mn6, esp(0x1001, 8))} }, want: []string{"ha codec truncated"}},
		{name: "forged, in UDP", pkts: func(*mallory) [][]byte {
			return [][]byte{udp4191(bad4, bareOctets(ip.Signal{Src: mn6, Dst: ha6, Proto: ip.ESP}, esp(0x1001, 80)))}
		}, want: []string{"ha codec bad-icv"}},
		{name: "right for another home address", pkts: func(a *mallory) [][]byte {
			return [][]byte{as(a.natively(bad6, alt), mn6)}
		}, want: []string{"ha codec wrong-security-association"}, once: true},
		{name: "right for another home address, in UDP", pkts: func(a *mallory) [][]byte {
			b := a.overUDP(bad4, mobility.IPv4CareOf{Addr: bad4})
			return [][]byte{udp4191(bad4, as(b[ip.IPv4Len+ip.UDPLen:], mn6))}
		}, want: []string{"ha codec wrong-security-association"}, once: true},
		{name: "right for another home address, mapped in protocol 41", pkts: func(a *mallory) [][]byte {
			return [][]byte{as(a.over41(bad4, bad4), mn6)}
		}, want: []string{"ha codec wrong-security-association"}, once: true},
		{name: "right for nobody's home address", pkts: func(a *mallory) [][]byte {
			return [][]byte{as(a.natively(bad6, alt), nobody)}
		}, want: []string{"ha codec wrong-security-association"}, once: true},
		{name: "right for another's, who then says the same", pkts: func(a *mallory) [][]byte { // the number is not used up
			b := a.natively(bad6, alt)
			return [][]byte{as(b, mn6), as(b, mn6)}
		}, want: []string{"ha codec wrong-security-association", "ha codec replayed"}, once: true},
	}
	a := attack(t, roamOptions{seed: 3, protection: ipsec.ESP}, "six")
	a.withstand(t, all)
}

// repeated is the newest packet of the node to the home agent that carries ESP or a Mobility Header.
func (a *mallory) repeated() []byte {
	for at := len(a.seen) - 1; at >= 0; at-- {
		b := a.seen[at]
		h, err := ip.Parse(b)
		if err != nil || h.Dst != ha6 && h.Dst != ha4 {
			continue
		}
		inner := b
		if h.Proto == ip.UDP {
			inner = b[h.HdrLen+ip.UDPLen:]
		} else if h.Proto == ip.IPv6 {
			inner = b[h.HdrLen:]
		}
		if s, err := ip.ParseSignal(inner); err == nil && (s.Proto == ip.ESP || s.Proto == ip.Mobility) {
			return b
		}
	}
	a.t.Fatal("no Binding Update was seen")
	return nil
}

// TestReplays: a Binding Update that was seen is sent again, by the same way and by others.
func TestReplays(t *testing.T) {
	// With RFC 4285 the authenticator is right and the number old; natively the care-of address it covers is the source.
	same := map[ipsec.Protection]string{ipsec.ESP: "ha codec replayed", ipsec.RFC4285: "ha machine sequence-out-of-window"}
	elsewhere := map[ipsec.Protection]string{ipsec.ESP: "ha codec replayed", ipsec.RFC4285: "ha codec authentication-failed"}
	for _, p := range secured {
		for _, at := range []string{"six", "four", "nat"} {
			t.Run(string(p)+" "+at, func(t *testing.T) {
				a := attack(t, roamOptions{seed: 4, protection: p}, at)
				a.withstand(t, []hostile{{name: "repeated", pkts: func(a *mallory) [][]byte { return [][]byte{a.repeated()} }, want: []string{same[p]}}})
				other := hostile{name: "repeated from another address", want: []string{same[p]}, pkts: func(a *mallory) [][]byte {
					b := a.repeated()
					return [][]byte{udp4191(bad4, b[ip.IPv4Len+ip.UDPLen:])}
				}}
				if at == "six" {
					other.want = []string{elsewhere[p]}
					other.pkts = func(a *mallory) [][]byte {
						src := bad6.As16()
						return [][]byte{patch(a.repeated(), 8, src[:]...)}
					}
				}
				a.withstand(t, []hostile{other})
			})
		}
	}
}

// TestOtherSubscriber: one who has keys and a home address of his own says what he may not.
func TestOtherSubscriber(t *testing.T) {
	spec.Covers(t, "S004-2.2-05")
	addr := netip.MustParseAddr
	alt := func(s string) mobility.AlternateCareOf { return mobility.AlternateCareOf{Addr: addr(s)} }
	v4 := func(s string) mobility.IPv4CareOf { return mobility.IPv4CareOf{Addr: addr(s)} }
	native := func(name, want string, from netip.Addr, vs ...mobility.Value) hostile {
		return hostile{name: name, mine: true, once: true, want: []string{want}, pkts: func(a *mallory) [][]byte { return [][]byte{a.natively(from, vs...)} }}
	}
	udp := func(name, want string, from netip.Addr, vs ...mobility.Value) hostile {
		return hostile{name: name, mine: true, once: true, want: []string{want}, pkts: func(a *mallory) [][]byte { return [][]byte{a.overUDP(from, vs...)} }}
	}
	in41 := func(name, want string, careOf, from netip.Addr, vs ...mobility.Value) hostile {
		return hostile{name: name, mine: true, once: true, want: []string{want}, pkts: func(a *mallory) [][]byte { return [][]byte{a.over41(careOf, from, vs...)} }}
	}
	binds := func(h hostile) hostile { h.binds = true; return h } // the IPv6 home address, which is his
	home := func(s string, bits uint8) mobility.IPv4HomeAddress {
		return mobility.IPv4HomeAddress{PrefixLen: bits, Addr: addr(s)}
	}
	all := []hostile{
		binds(native("another's IPv4 home address", "ha machine ipv4-address-not-authorized", bad6, alt(bad6.String()), home("10.30.0.5", 32))),
		binds(udp("another's IPv4 home address, in UDP", "ha machine ipv4-address-not-authorized", bad4, v4(bad4.String()), home("10.30.0.5", 32))),
		binds(native("a network with another's IPv4 home address", "ha machine mobile-network-not-authorized", bad6, alt(bad6.String()), home("10.30.0.0", 24))),
		binds(native("IPv4 home address multicast", "ha machine not-unicast", bad6, alt(bad6.String()), home("224.0.0.5", 32))),
		binds(native("IPv4 home address loopback", "ha machine not-unicast", bad6, alt(bad6.String()), home("127.0.0.1", 32))),
		binds(native("IPv4 home address with length 0", "ha machine prefix-length-zero", bad6, alt(bad6.String()), home("10.30.0.6", 0))),
		native("care-of address multicast", "ha machine bad-care-of-address", bad6, alt("ff0e::1")),
		native("care-of address loopback", "ha machine bad-care-of-address", bad6, alt("::1")),
		native("care-of address unspecified", "ha machine bad-care-of-address", bad6, alt("::")),
		native("care-of address of the link", "ha machine bad-care-of-address", bad6, alt("fe80::1")),
		native("care-of address mapped, natively", "ha machine bad-care-of-address", bad6, alt("::ffff:192.0.2.66")),
		native("care-of address of the home agent", "ha machine care-of-is-the-anchor", bad6, alt(ha6.String())),
		native("care-of address his own home address", "ha machine nothing-to-deregister", bad6, alt(rogue6.String())),
		native("care-of address another's home address", "ha machine care-of-is-a-home-address", bad6, alt(mn6.String())),
		native("from another's home address", "ha machine care-of-is-a-home-address", mn6, alt(mn6.String())),
		udp("IPv4 care-of address multicast", "ha machine bad-care-of-address", bad4, v4("224.0.0.1")),
		udp("IPv4 care-of address loopback", "ha machine bad-care-of-address", bad4, v4("127.0.0.1")),
		udp("IPv4 care-of address unspecified", "ha machine bad-care-of-address", bad4, v4("0.0.0.0")),
		udp("IPv4 care-of address broadcast", "ha machine bad-care-of-address", bad4, v4("255.255.255.255")),
		udp("no IPv4 care-of address", "ha machine missing-ipv4-care-of-option", bad4),
		udp("two care-of addresses", "ha machine care-of-address-mismatch", bad4, v4(bad4.String()), alt("2001:db8:bad::67")),
		udp("from the home agent's IPv4 address", "ha machine care-of-is-the-anchor", ha4, v4(ha4.String())),
		udp("from his own IPv4 home address", "ha machine care-of-is-a-home-address", rogue4, v4(rogue4.String())),
		udp("from another's IPv4 home address", "ha machine care-of-is-a-home-address", mn4, v4(mn4.String())),
		udp("from loopback", "ha engine wrong-tunnel", addr("127.0.0.1"), v4("127.0.0.1")),
		udp("from multicast", "ha engine wrong-tunnel", addr("224.0.0.9"), v4("224.0.0.9")),
		udp("from broadcast", "ha engine wrong-tunnel", addr("255.255.255.255"), v4("255.255.255.255")),
		udp("from 0.0.0.0", "ha engine wrong-tunnel", addr("0.0.0.0"), v4("0.0.0.0")),
		in41("mapped address that is not the outer source", "ha engine ipv4-mapped-address", bad4, addr("192.0.2.67")),
		in41("mapped address behind a NAT", "ha engine ipv4-mapped-address", addr("192.168.1.10"), bad4, mobility.AlternateCareOf{Addr: mapped(addr("192.168.1.10"))}),
		in41("mapped address and another care-of address", "ha machine care-of-address-mismatch", bad4, bad4, mobility.AlternateCareOf{Addr: mapped(addr("192.0.2.67"))}),
		in41("mapped private address", "ha machine bad-care-of-address", addr("192.168.1.10"), addr("192.168.1.10")),
		in41("mapped IPv4 home address of another", "ha machine bad-care-of-address", mn4, mn4),
		in41("mapped IPv4 home address of his own", "ha machine bad-care-of-address", rogue4, rogue4),
		in41("mapped address of the home agent", "ha machine care-of-is-the-anchor", ha4, ha4),
		{name: "mapped address in UDP", mine: true, once: true, want: []string{"ha engine ipv4-mapped-address"}, pkts: func(a *mallory) [][]byte {
			return [][]byte{udp4191(bad4, a.over41(bad4, bad4)[ip.IPv4Len:])}
		}},
		{name: "mapped address natively", mine: true, once: true, want: []string{"ha codec mapped-address-mismatch"}, pkts: func(a *mallory) [][]byte {
			return [][]byte{a.over41(bad4, bad4)[ip.IPv4Len:]}
		}},
		{name: "no home address beside a mapped one", mine: true, want: []string{"ha codec missing-home-address"}, pkts: func(*mallory) [][]byte {
			return [][]byte{outer(bad4, ha4, ip.IPv6, bare(ip.Signal{Src: mapped(bad4), Dst: ha6}, update(9)))}
		}},
		{name: "home address option in UDP", mine: true, once: true, want: []string{"ha codec home-address-in-udp"}, pkts: func(a *mallory) [][]byte {
			return [][]byte{udp4191(bad4, a.natively(bad6, alt(bad6.String())))}
		}},
		{name: "not a home registration", mine: true, once: true, want: []string{"ha machine not-a-home-registration"}, pkts: func(a *mallory) [][]byte {
			a.seq++
			bu := update(a.seq, alt(bad6.String()))
			bu.Flags &^= mobility.BUHome
			return [][]byte{a.own(core.Path{Local: netip.AddrPortFrom(bad6, 0), Remote: netip.AddrPortFrom(ha6, 0), Own: rogue6}, bu)}
		}},
	}
	for _, p := range secured {
		t.Run(string(p), func(t *testing.T) {
			a := attack(t, roamOptions{seed: 5, protection: p}, "four")
			a.withstand(t, all)
		})
	}
}
