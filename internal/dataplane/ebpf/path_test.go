package ebpf

import (
	"net/netip"
	"testing"
	"time"

	"kedge/internal/core"
	"kedge/internal/dataplane"
	"kedge/internal/dataplane/conformance"
)

// TestPath sends what real hosts with offloads send, both ways and in both families, and wants it on the fast path.
func TestPath(t *testing.T) {
	for _, c := range []struct {
		name   string
		over4  bool
		change func(*Config)
	}{
		{"over IPv6", false, nil},
		{"over IPv4", true, nil},
		{"over IPv6, through the stack", false, func(c *Config) { c.ThroughStack = true }},
		{"over IPv6, clsact", false, func(c *Config) { c.Clsact = true }},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := newPath(t, c.over4, c.change)
			for _, f := range flows {
				p.fast(f.name, f.from, f.to, f.at)
			}
		})
	}
}

// flows are those between the host, or node, and the correspondent node.
var flows = []struct {
	name, from string
	to         netip.Addr
	at         string
}{
	{"up, IPv6", "host", conformance.CN6, "cn"}, {"up, IPv4", "host", conformance.CN4, "cn"},
	{"down, IPv6", "cn", netip.MustParseAddr(host6), "host"}, {"down, IPv4", "cn", netip.MustParseAddr(host4), "host"},
}

// fast sends a TCP stream and wants its packets on the fast path of both routers.
func (p *chain) fast(name, from string, to netip.Addr, at string) {
	p.Helper()
	var before, after [2][4]uint64
	var was, is [2]core.Counter
	look := func(into *[2][4]uint64, sum *[2]core.Counter) {
		for i, pl := range []*Plane{p.anchor, p.gateway} {
			into[i][0], into[i][1] = slow(pl, 1)
			sum[i] = total(pl, 1)
		}
	}
	look(&before, &was)
	rate := p.flow(from, to, at, 300*time.Millisecond)
	look(&after, &is)
	var slowly, all uint64
	for i := range before {
		slowly += after[i][0] + after[i][1] - before[i][0] - before[i][1]
		all += is[i].PacketsIn + is[i].PacketsOut - was[i].PacketsIn - was[i].PacketsOut
	}
	p.Logf("%s: %.2f Gbit/s, %d packets, %d of them slowly; %s", name, rate/1e9, all, slowly, p.drops())
	if slowly > all/100 || all < 1000 {
		p.Errorf("%s: %d packets of %d went the slow way", name, slowly, all)
	}
}

// TestNode sends from and to a mobile node, in each framing.
func TestNode(t *testing.T) {
	for _, c := range []struct {
		name string
		end  core.Chain
	}{
		{"over IPv6", tunnelOf(conformance.CoA1, conformance.LMAA, 0)},
		{"over IPv4", tunnelOf(coaGateway4, conformance.LMAA4, 0)},
		{"UDP over IPv4", tunnelOf(coaGateway4, conformance.LMAA4, dataplane.PortUDP)},
		{"GRE over IPv6", inGREOf(tunnelOf(conformance.CoA1, conformance.LMAA, 0), 0, 0)},
		{"GRE with keys over IPv6", inGREOf(tunnelOf(conformance.CoA1, conformance.LMAA, 0), 0x01020304, 0xfffffffe)},
		{"GRE with keys over IPv4", inGREOf(tunnelOf(coaGateway4, conformance.LMAA4, 0), 0x01020304, 0xfffffffe)},
		{"GRE with a key upward over IPv4", inGREOf(tunnelOf(coaGateway4, conformance.LMAA4, 0), 7, 0)},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := newNode(t, c.end)
			for _, f := range flows {
				p.fast(f.name, f.from, f.to, f.at)
			}
		})
	}
}
