package mem

import (
	"net/netip"
	"testing"
	"time"

	"kedge/internal/core"
	"kedge/internal/dataplane"
	"kedge/wire/ip"
)

// TestPathProbes: an echo of more than 1,280 octets leaves whole and may not be fragmented, or does not leave.
func TestPathProbes(t *testing.T) {
	home, anchor := netip.MustParseAddr("2001:db8:2000::5"), netip.MustParseAddr("2001:db8:a::1")
	for _, c := range []struct {
		local, remote string
		head          int
	}{
		{"[2001:db8:1::7]:0", "[2001:db8:a::1]:0", 40}, {"192.0.2.7:0", "198.51.100.1:0", 20}, {"192.0.2.7:4191", "198.51.100.1:4191", 28},
	} {
		e, err := New(Config{Role: dataplane.Node, Home: []netip.Addr{home}, MTU: 1500})
		if err != nil {
			t.Fatal(err)
		}
		chain := core.Chain{N: 1, Layer: [2]core.Layer{{Local: netip.MustParseAddrPort(c.local), Remote: netip.MustParseAddrPort(c.remote)}}}
		send := func(octets int) ([]Packet, error) {
			echo := (&ip.Echo{Data: make([]byte, octets-ip.IPv6Len-8)}).Append(nil, home, anchor)
			pkt, err := (&ip.Header{Src: home, Dst: anchor, Proto: ip.ICMPv6, TTL: 64}).Append(nil, len(echo))
			if err != nil {
				t.Fatal(err)
			}
			var out Out
			err = e.Encapsulate(time.Second, chain, append(pkt, echo...), &out)
			return out.Packets, err
		}
		for _, octets := range []int{1280, 1281, 1500 - c.head} {
			ps, err := send(octets)
			if err != nil || len(ps) != 1 {
				t.Fatalf("%s: %d octets: %d packets, %v", c.local, octets, len(ps), err)
			}
			h, err := ip.Parse(ps[0].B)
			if err != nil || h.Is4() && h.DF != (octets > 1280) {
				t.Errorf("%s: %d octets: %+v, %v", c.local, octets, h, err)
			}
		}
		if ps, err := send(1501 - c.head); err == nil || len(ps) != 0 {
			t.Errorf("%s: what exceeds the path MTU left in %d packets, %v", c.local, len(ps), err)
		}
	}
}
