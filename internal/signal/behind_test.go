package signal

import (
	"net/netip"
	"testing"
	"testing/synctest"

	"kedge/internal/core"
	"kedge/internal/ipsec"
	"kedge/wire/mobility"
)

// TestPortBehindRouter: what the data plane hands over without a tunnel is a message if it is for us, of a node behind a mobile router;
// it is verified as one that came natively.
func TestPortBehindRouter(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ha, mn, _ := pair(t, ipsec.ESP)
		ha.cfg.Local = []netip.Addr{haV6}
		p, _, data := ports(t, ha)
		forged := mustOut(t, mn, packet(t, byIPv6, update(coa6)))
		forged[len(forged)-1] ^= 1
		data.Inject(core.Packet{B: forged}, core.Packet{B: []byte("short")}, core.Packet{B: mustOut(t, mn, packet(t, byIPv6, update(coa6)))})
		into := make([]core.Packet, 2)
		n, err := p.Read(into)
		if err != nil || n != 1 {
			t.Fatal(n, err)
		}
		if bu, ok := decoded(t, &into[0]).Body.(*mobility.BindingUpdate); !ok || bu.Sequence != 7 || into[0].Auth.Peer != "mn1" || into[0].Outer.N != 0 || into[0].SrcHome != hoa {
			t.Errorf("%+v", into[0])
		}
	})
}
