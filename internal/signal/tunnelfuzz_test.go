package signal

import (
	"bytes"
	"testing"

	"kedge/internal/core"
	"kedge/internal/ipsec"
	"kedge/wire/ip"
	"kedge/wire/mobility"
)

// FuzzTunnelled: whatever a node of ours, or its home agent, puts into the associations of return routability, at the other end nothing
// comes out of them but a Home Test Init of that node or a Home Test for it.
func FuzzTunnelled(f *testing.F) {
	f.Add(plainly(f, hoa, cnV6, hoti, false))
	f.Add(plainly(f, hoa, haV6, hoti, false))
	f.Add(plainly(f, hoa, cnV6, hoti, true))
	f.Add(plainly(f, otherHoA, cnV6, hoti, false))
	f.Add(plainly(f, cnV6, hoa, homeTest, false))
	f.Add(plainly(f, cnV6, otherHoA, homeTest, false))
	f.Add(plainly(f, hoa, cnV6, homeTest, false))
	f.Add(plainly(f, hoa, haV6, update(coa6), false))
	f.Add(append(plainly(f, hoa, cnV6, hoti, false), 0, 0, 0))
	for _, name := range []string{"umip-ro-all.pcap"} {
		for _, pkt := range signalling(f, name) {
			f.Add(pkt)
		}
	}
	w := newWays(f, true, coa6)
	// In these engines the association is for all traffic, so that they seal what no policy would let in.
	all := func(p ipsec.Peer, own bool) *ipsec.Engine {
		rr := sas(0x1003)
		if own {
			rr = swap(rr)
		}
		rr.Use = ipsec.Payload
		p.SAs = append(p.SAs[:1:1], rr)
		return engine(f, p)
	}
	mn := all(theirs(0x1001, hoa), true)
	ha := all(ipsec.Peer{Name: "mn1", Homes: theirs(0x1001, hoa).Own, Protection: ipsec.ESP, SAs: uses(0x1001)}, false)
	for _, err := range []error{mn.UpdateEndpoint("ha1", hoa, coa6, haV6), ha.UpdateEndpoint("mn1", hoa, haV6, coa6)} {
		if err != nil {
			f.Fatal(err)
		}
	}
	f.Fuzz(func(t *testing.T, inner []byte) {
		for _, c := range []struct {
			by *ipsec.Engine
			to *Codec
			t  ipsec.Traffic
		}{{mn, w.ha, ipsec.Traffic{Local: hoa, Remote: cnV6, Proto: 6}}, {ha, w.mn, ipsec.Traffic{Local: cnV6, Remote: hoa, Proto: 6}}} {
			b, auth, err := c.by.Tunnel(now(), c.t, inner, nil)
			if err != nil {
				continue // no IP packet
			}
			if auth.Kind != ipsec.KindESP {
				t.Fatal(auth)
			}
			before := total(c.to)
			var came core.Packet
			if err := c.to.In(now(), b, core.Chain{}, &came); err != nil {
				if after := total(c.to); after != before+1 {
					t.Fatalf("%v: counted %d", err, after-before)
				}
				continue
			}
			s, err := ip.ParseSignal(inner)
			if err != nil || s.Proto != ip.Mobility || s.Off != ip.IPv6Len || came.Auth.Kind != ipsec.KindESP {
				t.Fatalf("%x was accepted as %+v", inner, came)
			}
			typ := mobilityType(inner[s.Off:s.Len])
			switch {
			case c.to == w.mn && typ == mobility.TypeHomeTest && s.Dst == hoa && came.Proto == 0:
			case c.to == w.ha && typ == mobility.TypeHomeTestInit && s.Src == hoa && came.Proto == ip.IPv6 && bytes.Equal(came.B, inner[:s.Len]) && ip.Routable(s.Dst):
			case c.to == w.ha && typ == mobility.TypeHomeTestInit && s.Src == hoa && came.Proto == 0 && s.Dst == haV6:
			default:
				t.Fatalf("%x was accepted as %+v", inner, came)
			}
		}
	})
}
