package signal

import (
	"bytes"
	"net/netip"
	"testing"

	"kedge/internal/core"
	"kedge/internal/ipsec"
	"kedge/wire"
	"kedge/wire/ip"
	"kedge/wire/nd"
)

// FuzzIn: whatever comes, in whatever it comes: no panic, an error is counted once, and nothing is accepted that the policy protects
// without somebody who vouches for it.
func FuzzIn(f *testing.F) {
	chains := []core.Chain{{}, tunnel(netip.AddrPortFrom(haV4, 4191), netip.AddrPortFrom(coa4, 4191)), tunnel(port(haV4), port(coa4)), tunnel(port(haV6), port(coa6))}
	for _, protection := range []ipsec.Protection{ipsec.None, ipsec.ESP, ipsec.RFC4285} {
		_, mn, _ := pair(f, protection)
		f.Add(mustOut(f, mn, packet(f, byIPv6, update(coa6))), uint8(0))
		f.Add(mustOut(f, mn, packet(f, byUDP, update(hoa))), uint8(1))
		f.Add(mustOut(f, mn, packet(f, by41, update(mapped))), uint8(2))
		f.Add(mustOut(f, mn, encode(f, mpsIPv6, mps)), uint8(0))
		f.Add(mustOut(f, mn, encode(f, mpsIPv4, mps)), uint8(2))
	}
	f.Add(raw(f, ip.Signal{Src: haV6, Dst: hoa, Proto: ip.ICMPv6}, (&ip.Echo{Reply: true}).Append(nil, haV6, hoa)), uint8(1))
	for _, name := range []string{"umip-esp-all.pcap", "umip-ro-all.pcap"} {
		for _, pkt := range signalling(f, name) {
			f.Add(pkt, uint8(0))
		}
	}
	codecs := make(map[ipsec.Protection]*Codec)
	for _, protection := range []ipsec.Protection{ipsec.None, ipsec.ESP, ipsec.RFC4285} {
		codecs[protection], _, _ = pair(f, protection)
	}
	f.Fuzz(func(t *testing.T, pkt []byte, how uint8) {
		chain := chains[int(how)%len(chains)]
		for protection, c := range codecs {
			before := total(c)
			p := bytes.Clone(pkt)
			var came core.Packet
			err := c.In(now(), p, chain, &came)
			if after := total(c); err == nil && after != before || err != nil && after != before+1 {
				t.Fatalf("%s: %v: counted %d", protection, err, after-before)
			}
			if err != nil {
				if a, ok := c.Answer(pkt, chain, err); ok {
					if out, err := c.Out(now(), &a, nil); err == nil && len(out) > len(pkt) {
						t.Fatalf("%d octets are answered with %d", len(pkt), len(out))
					}
				}
				continue
			}
			remote := came.Src.Addr()
			if came.SrcHome.IsValid() {
				remote = came.SrcHome
			}
			protected := came.Proto == 0 && (remote == hoa || remote == otherHoA) && (protection == ipsec.ESP || protection == ipsec.RFC4285 && authenticated(came.B))
			if came.Proto == ip.ICMPv6 && came.B[0] == nd.TypeMobilePrefixSolicitation && (remote == hoa || remote == otherHoA) && protection == ipsec.ESP && came.Auth.Kind != ipsec.KindESP {
				t.Fatalf("accepted %+v", came)
			}
			// Home Test Init and its like go to correspondent nodes in a tunnel, which there is none of here.
			if typ := mobilityType(came.B); protected && came.Auth.Kind != string(protection) && (typ < 1 || typ > 4) {
				t.Fatalf("%s: accepted %+v", protection, came)
			}
		}
	})
}

func total(c *Codec) (n uint64) {
	c.Drops(func(_ wire.Reason, k uint64) { n += k })
	return n
}

// TestNoAllocations: messages that nobody protects cost nothing, and neither does what is dropped.
func TestNoAllocations(t *testing.T) {
	c := NewCodec(Config{Mapped: true})
	p := packet(t, byIPv6, update(coa6))
	pkt := mustOut(t, c, p)
	bad := raw(t, ip.Signal{Src: mapped, Dst: haV6, SrcHome: hoa, Proto: ip.Mobility}, p.B)
	into, out := core.Packet{B: make([]byte, 0, 512)}, make([]byte, 0, 512)
	n := now()
	if a := testing.AllocsPerRun(200, func() {
		if err := c.In(n, pkt, core.Chain{}, &into); err != nil {
			t.Fatal(err)
		}
		if _, err := c.Out(n, &p, out); err != nil {
			t.Fatal(err)
		}
	}); a != 0 {
		t.Errorf("%v allocations", a)
	}
	if a := testing.AllocsPerRun(200, func() { _ = c.In(n, bad, core.Chain{}, &into) }); a != 0 {
		t.Errorf("%v allocations for what is dropped", a)
	}
}
