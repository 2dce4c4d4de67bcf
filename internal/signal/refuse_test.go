package signal

import (
	"bytes"
	"errors"
	"maps"
	"net/netip"
	"testing"

	"kedge/internal/core"
	"kedge/internal/ipsec"
	"kedge/internal/spec"
	"kedge/wire"
	"kedge/wire/ip"
	"kedge/wire/mobility"
)

// raw builds a packet as a stranger would: nothing is checked.
func raw(t testing.TB, s ip.Signal, upper []byte) []byte {
	t.Helper()
	b, err := ip.AppendSignal(nil, &s, 64, len(upper))
	if err != nil {
		t.Fatal(err)
	}
	return append(b, upper...)
}

// mhOf is a Mobility Header between two addresses.
func mhOf(t testing.TB, m mobility.Message, src, dst netip.Addr) []byte {
	t.Helper()
	b, err := mobility.Append(nil, m, src, dst)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// TestInRefuses: what must not come, why it is dropped, and that it is counted once and leaves nothing behind.
func TestInRefuses(t *testing.T) {
	spec.Covers(t, "S004-3.3-08", "RFC6275-9.3.1", "RFC6275-11.3.3")
	bu := mhOf(t, update(coa6), hoa, haV6)
	native, in41, inUDP := core.Chain{}, tunnel(port(haV4), port(coa4)), tunnel(netip.AddrPortFrom(haV4, 4191), netip.AddrPortFrom(coa4, 5000))
	in41v6 := tunnel(port(haV6), port(coa6))
	otherV4 := tunnel(port(haV4), port(netip.MustParseAddr("192.0.2.78")))
	addr := netip.MustParseAddr
	to := func(src, dst netip.Addr) ip.Signal { return ip.Signal{Src: src, Dst: dst, Proto: ip.Mobility} }
	with := func(s ip.Signal, src, dst netip.Addr) ip.Signal { s.SrcHome, s.DstHome = src, dst; return s }
	none := netip.Addr{}
	fragment := func() []byte {
		p := raw(t, ip.Signal{Src: coa6, Dst: haV6, Proto: ip.Fragment}, append([]byte{135, 0, 0, 1, 0, 0, 0, 1}, bu...))
		return p
	}
	inner := raw(t, to(hoa, haV6), bu)
	for _, c := range []struct {
		name  string
		pkt   []byte
		outer core.Chain
		want  wire.Reason
	}{
		{"nothing", nil, native, wire.Truncated},
		{"cut", raw(t, to(coa6, haV6), bu)[:60], native, wire.Truncated},
		{"IPv4", append([]byte{0x45, 0, 0, 20}, make([]byte, 16)...), native, wire.BadChecksum},
		{"fragment", fragment(), native, wire.BadValue},
		{"data", raw(t, ip.Signal{Src: coa6, Dst: haV6, Proto: ip.UDP}, make([]byte, 8)), native, wire.NotSignalling},
		{"data with a home address", raw(t, ip.Signal{Src: coa6, Dst: haV6, SrcHome: hoa, Proto: ip.TCP}, make([]byte, 20)), native, wire.NotSignalling},
		{"AH", raw(t, ip.Signal{Src: coa6, Dst: haV6, SrcHome: hoa, Proto: ip.AH}, make([]byte, 24)), native, wire.NotSignalling},
		{"echo outside of a tunnel", raw(t, ip.Signal{Src: hoa, Dst: haV6, Proto: ip.ICMPv6}, make([]byte, 8)), native, wire.NotSignalling},
		{"nothing behind ICMPv6", raw(t, ip.Signal{Src: hoa, Dst: haV6, Proto: ip.ICMPv6}, nil), in41, wire.NotSignalling},
		{"from ::", raw(t, to(addr("::"), haV6), bu), native, wire.NotUnicast},
		{"from ::1", raw(t, to(addr("::1"), haV6), bu), native, wire.NotUnicast},
		{"from multicast", raw(t, to(addr("ff02::1"), haV6), bu), native, wire.NotUnicast},
		{"to multicast", raw(t, to(coa6, addr("ff02::1")), bu), native, wire.NotUnicast},
		{"routed to somebody else", raw(t, with(to(haV6, coa6), none, otherHoA), mhOf(t, ack, haV6, otherHoA)), native, wire.NotOurHome},
		{"ESP of nobody", raw(t, ip.Signal{Src: coa6, Dst: haV6, SrcHome: hoa, Proto: ip.ESP}, make([]byte, 64)), native, wire.UnknownSPI},
		{"ESP cut", raw(t, ip.Signal{Src: coa6, Dst: haV6, SrcHome: hoa, Proto: ip.ESP}, make([]byte, 7)), native, wire.Truncated},
		{"unprotected", raw(t, with(to(coa6, haV6), hoa, none), bu), native, wire.Unprotected},
		{"unprotected from home", raw(t, to(hoa, haV6), bu), native, wire.Unprotected},
		{"unprotected in UDP", raw(t, to(hoa, haV6), bu), inUDP, wire.Unprotected},

		{"mapped, natively", raw(t, with(to(mapped, haV6), hoa, none), bu), native, wire.MappedMismatch},
		{"to a mapped address, natively", raw(t, to(haV6, mapped), bu), native, wire.MappedMismatch},
		{"mapped, from another outer address", raw(t, with(to(mapped, haV6), hoa, none), bu), otherV4, wire.MappedMismatch},
		{"mapped, in IPv6", raw(t, with(to(mapped, haV6), hoa, none), bu), in41v6, wire.MappedMismatch},
		{"to a mapped address that is not the outer one", raw(t, with(to(haV6, mapped), none, hoa), bu), in41, wire.MappedMismatch},
		{"mapped, in UDP", raw(t, with(to(mapped, haV6), hoa, none), bu), inUDP, wire.MappedInUDP},
		{"mapped, without a home address", raw(t, to(mapped, haV6), bu), in41, wire.MissingHome},
		{"home address in UDP", raw(t, with(to(coa6, haV6), hoa, none), bu), inUDP, wire.HomeInUDP},
		{"Binding Update in protocol 41", raw(t, to(hoa, haV6), bu), in41, wire.UpdateInTunnel},
		{"Binding Update in protocol 41 over IPv6", raw(t, to(hoa, haV6), bu), in41v6, wire.UpdateInTunnel},
		{"Binding Update with a home address in protocol 41", raw(t, with(to(coa6, haV6), hoa, none), bu), in41, wire.UpdateInTunnel},
		{"41 in 41", raw(t, ip.Signal{Src: hoa, Dst: haV6, Proto: ip.IPv6}, inner), in41, wire.TunnelInTunnel},
		{"41 in UDP", raw(t, ip.Signal{Src: hoa, Dst: haV6, Proto: ip.IPv6}, inner), inUDP, wire.TunnelInTunnel},
		{"in two tunnels", raw(t, to(hoa, haV6), bu), core.Chain{N: 2, Layer: [2]core.Layer{in41.Layer[0], in41v6.Layer[0]}}, wire.NotSignalling},
		{"in a tunnel from nowhere", raw(t, to(hoa, haV6), bu), core.Chain{N: 1}, wire.NotSignalling},
	} {
		ha, _, _ := pair(t, ipsec.ESP)
		var into core.Packet
		if err := ha.In(now(), bytes.Clone(c.pkt), c.outer, &into); !errors.Is(err, c.want) {
			t.Errorf("%s: %v, want %v", c.name, err, c.want)
		}
		if got := drops(ha); !maps.Equal(got, map[wire.Reason]uint64{c.want: 1}) {
			t.Errorf("%s: counted %v, want %v once", c.name, got, c.want)
		}
	}
	off := NewCodec(Config{})
	if err := off.In(now(), raw(t, with(to(mapped, haV6), hoa, none), bu), in41, new(core.Packet)); !errors.Is(err, wire.DialectDisabled) {
		t.Errorf("the older dialect where it is off: %v", err)
	}
	if err := off.In(now(), raw(t, ip.Signal{Src: coa6, Dst: haV6, Proto: ip.ESP}, make([]byte, 64)), native, new(core.Packet)); !errors.Is(err, wire.UnknownSPI) {
		t.Errorf("ESP where there are no keys: %v", err)
	}
}

// TestWrongESP: forged, changed, replayed, and right for another home address.
func TestWrongESP(t *testing.T) {
	spec.Covers(t, "S004-3.3-12", "RFC4877-4.2")
	ha, mn, other := pair(t, ipsec.ESP)
	good := mustOut(t, mn, packet(t, byIPv6, update(coa6)))
	for i := 64; i < len(good); i++ { // every octet of ESP counts
		bad := bytes.Clone(good)
		bad[i] ^= 1
		if err := ha.In(now(), bad, core.Chain{}, new(core.Packet)); err == nil {
			t.Fatalf("octet %d changed: accepted", i)
		}
	}
	for n := range good {
		if err := ha.In(now(), bytes.Clone(good[:n]), core.Chain{}, new(core.Packet)); err == nil {
			t.Fatalf("cut to %d octets: accepted", n)
		}
	}
	var came core.Packet
	if err := ha.In(now(), bytes.Clone(good), core.Chain{}, &came); err != nil || came.Auth.Peer != "mn1" {
		t.Fatalf("%+v, %v", came.Auth, err)
	}
	before := drops(ha)
	if err := ha.In(now(), bytes.Clone(good), core.Chain{}, &came); !errors.Is(err, wire.Replayed) {
		t.Errorf("replayed: %v", err)
	}
	// The other node's keys, this node's home address: in the option, in UDP, and at home.
	theirs := packet(t, core.Path{Local: port(coa6), Remote: port(haV6), Own: otherHoA}, update(coa6))
	forged := mustOut(t, other, theirs)
	h := hoa.As16()
	copy(forged[48:64], h[:])
	if err := ha.In(now(), forged, core.Chain{}, &came); !errors.Is(err, wire.WrongAssociation) {
		t.Errorf("right ESP for another home address: %v", err)
	}
	udp := mustOut(t, other, packet(t, core.Path{Local: port(otherHoA), Remote: port(haV6), Outer: byUDP.Outer}, update(hoa)))
	copy(udp[8:24], h[:])
	if err := ha.In(now(), udp, tunnel(netip.AddrPortFrom(haV4, 4191), netip.AddrPortFrom(coa4, 4191)), &came); !errors.Is(err, wire.WrongAssociation) {
		t.Errorf("right ESP for another home address, in UDP: %v", err)
	}
	// In protocol 41 the home address decides as well, not the care-of address, which is the same.
	by := core.Path{Local: port(mapped), Remote: port(haV6), Own: otherHoA, Outer: by41.Outer}
	forged = mustOut(t, other, packet(t, by, update(mapped)))
	copy(forged[48:64], h[:])
	at41 := tunnel(port(haV4), port(coa4))
	if err := ha.In(now(), forged, at41, &came); !errors.Is(err, wire.WrongAssociation) {
		t.Errorf("right ESP for another home address, in protocol 41: %v", err)
	}
	if err := ha.In(now(), mustOut(t, other, packet(t, by, update(mapped))), at41, &came); err != nil || came.Auth.Peer != "mn2" {
		t.Errorf("the other node from the same care-of address: %+v, %v", came.Auth, err)
	}
	clear := raw(t, ip.Signal{Src: mapped, Dst: haV6, SrcHome: hoa, Proto: ip.Mobility}, mhOf(t, update(mapped), hoa, haV6))
	if err := ha.In(now(), clear, at41, &came); !errors.Is(err, wire.Unprotected) {
		t.Errorf("no ESP in protocol 41: %v", err)
	}
	after := drops(ha)
	if after[wire.Replayed] != before[wire.Replayed]+1 || after[wire.WrongAssociation] != before[wire.WrongAssociation]+3 {
		t.Errorf("counted %v, before %v", after, before)
	}
}

// TestWrongMobilityAuthentication: forged, missing, of another association.
func TestWrongMobilityAuthentication(t *testing.T) {
	ha, mn, other := pair(t, ipsec.RFC4285)
	good := mustOut(t, mn, packet(t, byIPv6, update(coa6)))
	var came core.Packet
	try := func(name string, pkt []byte, want wire.Reason) {
		t.Helper()
		before := drops(ha)[want]
		if err := ha.In(now(), pkt, core.Chain{}, &came); !errors.Is(err, want) {
			t.Errorf("%s: %v, want %v", name, err, want)
		} else if drops(ha)[want] != before+1 {
			t.Errorf("%s: not counted", name)
		}
	}
	for name, at := range map[string]int{"care-of address": 23, "home address": 63, "sequence number": 64 + 7, "authenticator": len(good) - 8} {
		bad := bytes.Clone(good)
		bad[at] ^= 1
		try(name, bad, wire.AuthFailed)
	}
	checksum := bytes.Clone(good)
	checksum[64+4] ^= 1 // the parser's business
	if err := ha.In(now(), checksum, core.Chain{}, &came); err != nil {
		t.Errorf("checksum: %v", err)
	}
	try("no option", raw(t, ip.Signal{Src: coa6, Dst: haV6, SrcHome: hoa, Proto: ip.Mobility}, mhOf(t, update(coa6), hoa, haV6)), wire.Unprotected)
	unknown := bytes.Clone(good)
	at := bytes.LastIndex(unknown, []byte{9, 17, 1})
	unknown[at+5] = 0x77 // SPI
	try("unknown association", unknown, wire.Unprotected)
	theirs := mustOut(t, other, packet(t, core.Path{Local: port(coa6), Remote: port(haV6), Own: otherHoA}, update(coa6)))
	h := hoa.As16()
	copy(theirs[48:64], h[:])
	try("another node's", theirs, wire.AuthFailed)
	if err := ha.In(now(), good, core.Chain{}, &came); err != nil || came.Auth != (core.Auth{Kind: "rfc4285", SPI: 0x1001, Peer: "mn1"}) {
		t.Errorf("the good one: %+v, %v", came.Auth, err)
	}
}

// TestOutRefuses: what nobody would understand, or what would go unprotected, does not leave.
func TestOutRefuses(t *testing.T) {
	path := func(local, remote, own, home netip.Addr, outer core.Chain) core.Path {
		return core.Path{Local: port(local), Remote: port(remote), Own: own, Home: home, Outer: outer}
	}
	none := netip.Addr{}
	for name, c := range map[string]struct {
		p    core.Path
		auth core.Auth
		want wire.Reason
	}{
		"mapped, natively":                   {path(mapped, haV6, hoa, none, core.Chain{}), core.Auth{}, wire.MappedMismatch},
		"to a mapped address, natively":      {path(haV6, mapped, none, hoa, core.Chain{}), core.Auth{}, wire.MappedMismatch},
		"mapped, from another outer address": {path(mapped, haV6, hoa, none, tunnel(port(netip.MustParseAddr("192.0.2.1")), port(haV4))), core.Auth{}, wire.MappedMismatch},
		"mapped, in UDP":                     {path(mapped, haV6, none, none, byUDP.Outer), core.Auth{}, wire.MappedInUDP},
		"mapped, without a home address":     {path(mapped, haV6, none, none, by41.Outer), core.Auth{}, wire.MissingHome},
		"to mapped, without a home address":  {path(haV6, mapped, none, none, tunnel(port(haV4), port(coa4))), core.Auth{}, wire.MissingHome},
		"home address in UDP":                {path(coa6, haV6, hoa, none, byUDP.Outer), core.Auth{}, wire.HomeInUDP},
		"two tunnels":                        {path(coa6, haV6, none, none, core.Chain{N: 2}), core.Auth{}, wire.NotSignalling},
		"IPv4":                               {path(coa4, haV4, none, none, core.Chain{}), core.Auth{}, wire.BadValue},
		"home address on the link":           {path(coa6, haV6, netip.MustParseAddr("fe80::1"), none, core.Chain{}), core.Auth{}, wire.NotUnicast},
		"ESP asked for, nobody's policy":     {path(haV6, coa6, none, none, core.Chain{}), core.Auth{Kind: "esp", Peer: "mn1"}, wire.Unprotected},
		"RFC 4285 asked for, ESP's policy":   {path(haV6, coa6, none, hoa, core.Chain{}), core.Auth{Kind: "rfc4285", Peer: "mn1"}, wire.Unprotected},
	} {
		ha, _, _ := pair(t, ipsec.ESP)
		p := core.Packet{Src: c.p.Local, Dst: c.p.Remote, SrcHome: c.p.Own, DstHome: c.p.Home, Outer: c.p.Outer, Auth: c.auth, B: mhOf(t, ack, haV6, hoa)}
		into := []byte("kept")
		if b, err := ha.Out(now(), &p, into); !errors.Is(err, c.want) || string(b) != "kept" {
			t.Errorf("%s: %q, %v, want %v", name, b, err, c.want)
		}
		if got := drops(ha); !maps.Equal(got, map[wire.Reason]uint64{c.want: 1}) {
			t.Errorf("%s: counted %v", name, got)
		}
	}
	ha, _, _ := pair(t, ipsec.RFC4285)
	for name, b := range map[string][]byte{"nothing": nil, "half a header": make([]byte, 4), "a length that is not its own": append([]byte{59, 9, 6}, make([]byte, 13)...)} {
		p := core.Packet{Src: port(haV6), Dst: port(coa6), DstHome: hoa, B: b}
		if len(b) == 4 {
			p.B[2] = 6
		}
		if _, err := ha.Out(now(), &p, nil); err == nil {
			t.Errorf("%s was sent", name)
		}
	}
	long := &mobility.BindingAck{Options: mobility.Options{}}
	for range 8 {
		long.Options = long.Options.Add(mobility.RawOption{Opt: 99, Data: make([]byte, 251)})
	}
	if _, err := ha.Out(now(), &core.Packet{Src: port(haV6), Dst: port(coa6), DstHome: hoa, B: mhOf(t, long, haV6, hoa)}, nil); !errors.Is(err, wire.TooLong) {
		t.Errorf("no room for the option: %v", err)
	}
}

// TestProbes: a node's echo through its tunnel passes, and nothing else of ICMPv6 is anybody's but the machine's.
func TestProbes(t *testing.T) {
	_, mn, _ := pair(t, ipsec.ESP)
	for name, chain := range map[string]core.Chain{"UDP": byUDP.Outer, "41": by41.Outer, "41 in IPv6": tunnel(port(coa6), port(haV6))} {
		request := &ip.Echo{ID: 9, Seq: 1, Data: []byte("kedge")}
		p := core.Packet{Src: port(hoa), Dst: port(haV6), Proto: ip.ICMPv6, Outer: chain, B: request.Append(nil, hoa, haV6)}
		if b := mustOut(t, mn, p); b[6] != ip.ICMPv6 || !bytes.Equal(b[40:], p.B) {
			t.Errorf("%s: it left as %x", name, b)
		}
		reply := &ip.Echo{Reply: true, ID: 9, Seq: 1, Data: []byte("kedge")}
		var came core.Packet
		if err := mn.In(now(), raw(t, ip.Signal{Src: haV6, Dst: hoa, Proto: ip.ICMPv6}, reply.Append(nil, haV6, hoa)), chain, &came); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if got, ok := decoded(t, &came).Body.(*ip.Echo); !ok || !got.Reply || got.ID != 9 {
			t.Errorf("%s: it became %+v", name, got)
		}
	}
}

// TestHomesChange: a node that gets a home address later is reached at it.
func TestHomesChange(t *testing.T) {
	c := NewCodec(Config{})
	pkt := raw(t, ip.Signal{Src: haV6, Dst: coa6, DstHome: hoa, Proto: ip.Mobility}, mhOf(t, ack, haV6, hoa))
	if err := c.In(now(), pkt, core.Chain{}, new(core.Packet)); !errors.Is(err, wire.NotOurHome) {
		t.Error(err)
	}
	c.SetHomes(otherHoA, hoa)
	if err := c.In(now(), pkt, core.Chain{}, new(core.Packet)); err != nil {
		t.Error(err)
	}
}
