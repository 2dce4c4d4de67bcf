package ebpf

import (
	"net/netip"
	"testing"
	"time"

	"kedge/internal/core"
	"kedge/internal/dataplane/conformance"
)

const (
	streamEvery = 2 * time.Millisecond
	streamFor   = 300 * time.Millisecond
)

// TestSlowSessions: sessions that the programs do not carry go the other way, every packet of them and in both directions, while one
// beside them stays fast; and they become fast when their chain changes.
func TestSlowSessions(t *testing.T) {
	layer := func(local, remote netip.Addr) core.Layer {
		return core.Layer{Local: ap(local, 0), Remote: ap(remote, 0)}
	}
	tlv := tunnelOf(coaGateway4, conformance.LMAA4, 4191)
	tlv.Layer[0].TLV = 1
	inner := layer(conformance.CoA1, conformance.LMAA)
	inner.GRE, inner.KeyUp, inner.KeyDown = true, 1, 2
	for _, c := range []struct {
		name string
		end  core.Chain
	}{
		{"TLV", tlv},
		{"two layers", core.Chain{N: 2, Layer: [2]core.Layer{layer(conformance.CoA1, conformance.LMAA), layer(coaGateway4, conformance.LMAA4)}}},
		{"GRE in a tunnel", core.Chain{N: 2, Layer: [2]core.Layer{inner, layer(coaGateway4, conformance.LMAA4)}}},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := newNode(t, c.end)
			up, down := p.stream("host", conformance.CN6, "cn", streamEvery), p.stream("cn", netip.MustParseAddr(host4), "host", streamEvery)
			wait(streamFor)
			for name, s := range map[string]*stream{"up": up.end(), "down": down.end()} {
				if s.lost+s.twice != 0 || s.sent < 50 {
					t.Errorf("%s: of %d packets %d were lost, %d came twice; %s", name, s.sent, s.lost, s.twice, p.drops())
				}
			}
			for name, pl := range map[string]*Plane{"node": p.gateway, "anchor": p.anchor} {
				in, out := slow(pl, 1)
				if sum := total(pl, 1); in+out == 0 || sum.PacketsIn+sum.PacketsOut != in+out {
					t.Errorf("%s: %d packets, but %+v in all", name, in+out, sum)
				}
			}
			end := tunnelOf(conformance.CoA1, conformance.LMAA, 0)
			p.in("host", func() error { return p.gateway.Update([]core.Op{core.SetSession{ID: 1, Chain: end}}) })
			p.in("lma", func() error {
				return p.anchor.Update([]core.Op{core.SetSession{ID: 1, Chain: tunnelOf(conformance.LMAA, conformance.CoA1, 0)}})
			})
			p.reach("host", conformance.CN6, "cn")
			p.fast("simple again", "host", conformance.CN6, "cn")
		})
	}
}
