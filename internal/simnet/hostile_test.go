package simnet

import (
	"net/netip"
	"testing"

	"kedge/wire/ip"
	"kedge/wire/mobility"
)

// fromBad are headers from mallory's own address.
func fromBad(home netip.Addr) ip.Signal { return ip.Signal{Src: bad6, Dst: ha6, SrcHome: home} }

// nobody is a home address that nobody has.
var nobody = netip.MustParseAddr("2001:db8:2000::99")

// TestStrangersUpdates: Binding Updates and what looks like them, of who has no keys.
func TestStrangersUpdates(t *testing.T) {
	alt := mobility.AlternateCareOf{Addr: bad6}
	v4 := mobility.IPv4HomeAddress{PrefixLen: 32, Addr: mn4}
	one := func(b []byte) func(*mallory) [][]byte { return func(*mallory) [][]byte { return [][]byte{b} } }
	bu := update(60000, alt, v4)
	end := update(60001)
	end.Lifetime = 0
	stranger := bare(fromBad(nobody), bu)
	const at = ip.IPv6Len + ip.HomeAddressLen // of the Mobility Header
	changed := func(off int, with ...byte) []byte {
		return mhSum(patch(stranger, at+off, with...), at, nobody, ha6)
	}
	clear := []hostile{
		{name: "unprotected, natively", pkts: one(bare(fromBad(mn6), bu)), want: []string{"ha codec unprotected"}},
		{name: "unprotected, from home", pkts: one(bare(ip.Signal{Src: mn6, Dst: ha6}, bu)), want: []string{"ha codec unprotected"}},
		{name: "unprotected deregistration", pkts: one(bare(fromBad(mn6), end)), want: []string{"ha codec unprotected"}},
		{name: "unprotected deregistration, from home", pkts: one(bare(ip.Signal{Src: mn6, Dst: ha6}, end)), want: []string{"ha codec unprotected"}},
		{name: "unprotected, in UDP", pkts: one(udp4191(bad4, bare(ip.Signal{Src: mn6, Dst: ha6}, update(60000, v4, mobility.IPv4CareOf{Addr: bad4})))),
			want: []string{"ha codec unprotected"}},
		{name: "unprotected, mapped in protocol 41", pkts: one(outer(bad4, ha4, ip.IPv6, bare(ip.Signal{Src: mapped(bad4), Dst: ha6, SrcHome: mn6}, bu))),
			want: []string{"ha codec unprotected"}},
		{name: "of nobody", pkts: one(stranger), want: []string{"ha machine unknown-peer"}},
		{name: "of nobody, with an unknown option", pkts: one(bare(fromBad(nobody), update(60000, alt, mobility.RawOption{Opt: 200, Data: make([]byte, 14)}))),
			want: []string{"ha machine unknown-peer"}},
		{name: "bad checksum", pkts: one(patch(stranger, at+4, 0xba, 0xad)), want: []string{"ha machine bad-checksum"}},
		{name: "unknown type", pkts: one(changed(2, 99)), want: []string{"ha machine unknown-type"}},
		{name: "unknown type in UDP", pkts: one(udp4191(bad4, bare(ip.Signal{Src: nobody, Dst: ha6}, &mobility.Raw{MHType: 99, Data: make([]byte, 10)}))),
			want: []string{"ha machine unknown-type"}},
		{name: "short unknown type", pkts: one(bare(fromBad(nobody), &mobility.Raw{MHType: 99, Data: make([]byte, 2)})), want: []string{"ha machine unknown-type"}},
		{name: "option beyond the end", pkts: one(changed(12, 3, 250)), want: []string{"ha codec bad-option-length"}},
		{name: "header length beyond the end", pkts: one(changed(1, 200)), want: []string{"ha machine truncated"}},
		{name: "header length too small", pkts: one(mhSum(bareOctets(fromBad(nobody), []byte{59, 0, 5, 0, 0, 0, 0, 1}), at, nobody, ha6)),
			want: []string{"ha codec truncated"}},
		{name: "payload protocol", pkts: one(changed(0, 6)), want: []string{"ha machine bad-payload-proto"}},
		{name: "cut within the header chain", pkts: one(bareOctets(ip.Signal{Src: bad6, Dst: ha6, Proto: ip.DstOpts}, []byte{135, 2, 1, 4})), want: []string{"ha engine malformed"}},
		{name: "cut within the message", pkts: one(bareOctets(fromBad(nobody), []byte{59, 1, 5})), want: []string{"ha codec truncated"}},
		{name: "nothing in the message", pkts: one(bareOctets(fromBad(nobody), nil)), want: []string{"ha machine truncated"}},
		{name: "routed to the home agent by type 2", pkts: one(bare(ip.Signal{Src: bad6, Dst: ha6, DstHome: mn6}, bu)), want: []string{"ha codec not-our-home-address"}},
		{name: "AH", pkts: one(bareOctets(ip.Signal{Src: bad6, Dst: ha6, SrcHome: mn6, Proto: ip.AH}, make([]byte, 24))), want: []string{"ha engine malformed"}},
		{name: "protocol 41 in IPv6, RFC 5555's form", pkts: one(outer(bad6, ha6, ip.IPv6, bare(ip.Signal{Src: mn6, Dst: ha6}, bu))), want: []string{"ha codec binding-update-in-tunnel"}},
		{name: "protocol 41 in IPv4, RFC 5555's form", pkts: one(outer(bad4, ha4, ip.IPv6, bare(ip.Signal{Src: mn6, Dst: ha6}, bu))), want: []string{"ha codec binding-update-in-tunnel"}},
		{name: "an acknowledgement for the home agent", pkts: one(bare(fromBad(nobody), &mobility.BindingAck{Sequence: 7})), want: []string{"ha machine unknown-peer"}},
		{name: "a refresh request for the home agent", pkts: one(bare(fromBad(nobody), &mobility.BindingRefreshRequest{})), want: []string{"ha machine unknown-peer"}},
		{name: "an error for the home agent", pkts: one(bare(fromBad(nobody), &mobility.BindingError{Status: 1, Home: mn6})), want: []string{"ha machine unknown-peer"}},
		{name: "a proxy registration", pkts: one(bare(ip.Signal{Src: bad6, Dst: ha6}, func() mobility.Message {
			m := update(1, mobility.MobileNodeID{Subtype: mobility.SubtypeNAI, ID: "mn1@example.net"})
			m.Flags |= mobility.BUProxy
			return m
		}())), want: []string{"ha machine unknown-peer"}},
		{name: "a revocation", pkts: one(bare(ip.Signal{Src: bad6, Dst: ha6}, &mobility.Revocation{Sequence: 1})), want: []string{"ha machine unknown-peer"}},
		{name: "from ::", pkts: one(bare(ip.Signal{Src: netip.IPv6Unspecified(), Dst: ha6, SrcHome: mn6}, bu)), want: []string{"ha codec not-unicast"}},
		{name: "from ::1", pkts: one(bare(ip.Signal{Src: netip.IPv6Loopback(), Dst: ha6, SrcHome: mn6}, bu)), want: []string{"ha codec not-unicast"}},
		{name: "from multicast", pkts: one(bare(ip.Signal{Src: netip.MustParseAddr("ff0e::1"), Dst: ha6, SrcHome: mn6}, bu)), want: []string{"ha codec not-unicast"}},
		{name: "from the home agent's own address", pkts: one(bare(ip.Signal{Src: ha6, Dst: ha6, SrcHome: mn6}, bu)), want: []string{"ha codec unprotected"}},
	}
	for name, home := range map[string]string{"unspecified": "::", "loopback": "::1", "multicast": "ff0e::1", "of the link": "fe80::5", "mapped": "::ffff:10.30.0.5"} {
		a := netip.MustParseAddr(home).As16()
		clear = append(clear, hostile{name: "home address " + name, pkts: one(patch(stranger, ip.IPv6Len+8, a[:]...)), want: []string{"ha codec not-unicast"}})
	}
	for _, p := range secured {
		t.Run(string(p), func(t *testing.T) {
			a := attack(t, roamOptions{seed: 2, protection: p}, "six")
			a.withstand(t, clear)
		})
	}
}
