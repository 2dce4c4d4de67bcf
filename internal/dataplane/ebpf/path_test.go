package ebpf

import (
	"net/netip"
	"testing"
	"time"

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
			for _, f := range []struct {
				name, from string
				to         netip.Addr
				at         string
			}{
				{"up, IPv6", "host", conformance.CN6, "cn"}, {"up, IPv4", "host", conformance.CN4, "cn"},
				{"down, IPv6", "cn", netip.MustParseAddr(host6), "host"}, {"down, IPv4", "cn", netip.MustParseAddr(host4), "host"},
			} {
				in0, out0 := slow(p.anchor, 1)
				gin0, gout0 := slow(p.gateway, 1)
				was := total(p.anchor, 1)
				rate := p.flow(f.from, f.to, f.at, 300*time.Millisecond)
				in, out := slow(p.anchor, 1)
				gin, gout := slow(p.gateway, 1)
				now := total(p.anchor, 1)
				t.Logf("%s: %.2f Gbit/s; anchor in %d out %d; slow: anchor %d, %d, gateway %d, %d; %s", f.name, rate/1e9, now.PacketsIn-was.PacketsIn,
					now.PacketsOut-was.PacketsOut, in-in0, out-out0, gin-gin0, gout-gout0, p.drops())
				if n := in - in0 + out - out0 + gin - gin0 + gout - gout0; n > 20 {
					t.Errorf("%s: %d packets went the slow way", f.name, n)
				}
			}
		})
	}
}
