package ebpf

import (
	"errors"
	"net"
	"net/netip"
	"strings"
	"sync/atomic"
	"testing"

	"kedge/internal/dataplane"
	"kedge/internal/dataplane/conformance"
)

// TestNetfilter: when somebody turns on NAT and a firewall at an anchor, they see its packets, both ways and still on the fast path;
// when they go, packets take the short way again.
func TestNetfilter(t *testing.T) {
	var rules atomic.Pointer[[]string]
	rules.Store(new([]string))
	p := newPath(t, false, func(c *Config) {
		if c.Role == dataplane.Anchor {
			c.Netfilter = func() ([]string, error) { return *rules.Load(), nil }
		}
	})
	if s := p.anchor.Status(); s.ThroughStack || s.StackWhy == "" {
		t.Errorf("without rules: %+v", s)
	}
	seen := func() (source netip.Addr) {
		var l net.PacketConn
		p.in("cn", func() (err error) {
			l, err = net.ListenPacket("udp4", "203.0.113.9:99")
			return err
		})
		defer l.Close()
		p.in("host", func() error {
			c, err := net.Dial("udp4", "203.0.113.9:99")
			if err != nil {
				return err
			}
			defer c.Close()
			_, err = c.Write([]byte("who am I"))
			return err
		})
		_, a, err := l.ReadFrom(make([]byte, 100))
		must(t, err)
		return a.(*net.UDPAddr).AddrPort().Addr().Unmap()
	}
	if got := seen(); got != netip.MustParseAddr(host4) {
		t.Errorf("seen as %v", got)
	}
	rules.Store(&[]string{"nftables nat post"})
	for _, r := range []string{
		"add table ip nat", "add chain ip nat post { type nat hook postrouting priority 100 ; }", "add rule ip nat post oifname net0 masquerade",
		"add table inet f", "add chain inet f onward { type filter hook forward priority 0 ; }",
		"add rule inet f onward iifname kedge0 counter", "add rule inet f onward oifname kedge0 counter",
	} {
		p.sh("lma", "nft "+r)
	}
	until(t, "rules noticed", func() bool { return p.anchor.Status().ThroughStack })
	if s := p.anchor.Status(); !strings.Contains(s.StackWhy, "nftables nat post") {
		t.Errorf("why: %q", s.StackWhy)
	}
	if got := seen(); got != netip.MustParseAddr("203.0.113.1") {
		t.Errorf("behind NAT, seen as %v", got)
	}
	p.fast("up, behind NAT", "host", conformance.CN4, "cn")
	p.fast("up, IPv6", "host", conformance.CN6, "cn")
	p.fast("down, IPv6", "cn", netip.MustParseAddr(host6), "host")
	p.in("lma", func() error {
		out, err := command("nft", "list", "chain", "inet", "f", "onward")
		if strings.Count(out, "counter packets") != 2 || strings.Contains(out, "packets 0 ") {
			t.Errorf("not all directions were seen: %s", out)
		}
		return err
	})
	rules.Store(new([]string))
	p.sh("lma", "nft flush ruleset")
	until(t, "rules gone", func() bool { return !p.anchor.Status().ThroughStack })
	if got := seen(); got != netip.MustParseAddr(host4) {
		t.Errorf("afterwards seen as %v", got)
	}
}

// TestNetfilterUnknown: what cannot be read may be there.
func TestNetfilterUnknown(t *testing.T) {
	p := newPath(t, false, func(c *Config) { c.Netfilter = func() ([]string, error) { return nil, errors.New("no answer") } })
	if s := p.anchor.Status(); !s.ThroughStack || !strings.Contains(s.StackWhy, "no answer") {
		t.Errorf("status %+v", s)
	}
	if s := p.gateway.Status(); s.ThroughStack || s.StackWhy != "" {
		t.Errorf("a gateway: %+v", s)
	}
}
