package movement

import (
	"net/netip"
	"testing"
	"time"

	"kedge/internal/access"
	"kedge/internal/core"
	"kedge/wire/ether"
	"kedge/wire/nd"
)

// FuzzFrames gives a machine frames from a link, whatever they are, with some time between them. The first octet of each
// says how much, the second how long the frame is.
func FuzzFrames(f *testing.F) {
	n := newNet(1, netA, netB)
	rt := n.routers[0]
	seed := func(frames ...*access.Frame) {
		var b []byte
		for _, fr := range frames {
			x, err := fr.Append(nil)
			if err != nil {
				f.Fatal(err)
			}
			b = append(append(b, 3, byte(len(x))), x...)
		}
		f.Add(b)
	}
	own := core.MAC{2, 0, 0, 0, 0, 2}
	ra := &access.Frame{Dst: multicastMAC(nd.AllNodes), Src: rt.mac, SrcIP: rt.ll, DstIP: nd.AllNodes, Body: rt.ra}
	gone := *rt.ra
	gone.RouterLifetime = 0
	na := &access.Frame{Dst: own, Src: rt.mac, SrcIP: rt.ll, DstIP: netip.MustParseAddr("fe80::a2"),
		Body: &nd.NeighborAdvertisement{Router: true, Solicited: true, Override: true, Target: rt.ll, Options: nd.Options{nd.TargetLinkLayer(rt.mac)}}}
	arp := &access.Frame{Dst: own, Src: rt.mac, Body: &ether.ARP{Op: ether.ARPReply, SenderHW: rt.mac, SenderIP: netip.MustParseAddr("192.0.2.1"), TargetHW: own, TargetIP: netip.MustParseAddr("192.0.2.7")}}
	ns := &access.Frame{Dst: own, Src: rt.mac, SrcIP: rt.ll, DstIP: nd.SolicitedNode(homeAddrs[0].Addr()), Body: &nd.NeighborSolicitation{Target: homeAddrs[0].Addr()}}
	seed(ra, na, ra)
	seed(ra, na, &access.Frame{Dst: ra.Dst, Src: rt.mac, SrcIP: rt.ll, DstIP: nd.AllNodes, Body: &gone}, ra)
	seed(arp, ns, arp)
	f.Fuzz(func(t *testing.T, b []byte) {
		r := newRig(t, homeConfig)
		r.check = r.invariants
		r.add(2, "eth0", false)
		r.carrier(2, net4(7, "192.0.2.99"))
		r.dhcp(2, "192.0.2.7/24", "192.0.2.1")
		r.effects(r.m.ExpectHome(r.clock(), 2, homeAddrs, nil))
		for len(b) > 2 {
			wait, size := time.Duration(b[0])*10*time.Millisecond, min(int(b[1]), len(b)-2)
			fr, err := access.Decode(b[2 : 2+size])
			var body any
			if fr != nil {
				body = fr
			}
			r.handle(core.Message{Path: core.Path{If: 2}, Body: body, Err: err})
			r.run(wait)
			b = b[2+size:]
		}
		r.effects(r.m.ReleaseHome(r.clock(), nil))
		r.effects(r.m.Close(r.clock(), nil))
		r.run(time.Second)
		r.clean()
	})
}
