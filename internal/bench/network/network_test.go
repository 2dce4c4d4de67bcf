package network

import (
	"context"
	"os"
	"strings"
	"testing"
	"time"

	"kedge/internal/bench/way"
	"kedge/internal/system/ethtool"
)

func build(t *testing.T, w way.Way) *Network {
	t.Helper()
	n, err := New(w)
	if err != nil {
		t.Fatalf("%v: run this test as root", err)
	}
	t.Cleanup(n.Close)
	if err := n.Finish(w); err != nil {
		t.Fatal(err)
	}
	return n
}

// TestNetworks: every chain without processes is there, with routes for the host only where they belong; the names of namespaces
// and the links of the machine are what they were.
func TestNetworks(t *testing.T) {
	names := func() (s string) {
		dev, _ := os.ReadFile("/proc/net/dev")
		for line := range strings.Lines(string(dev)) {
			name, _, _ := strings.Cut(line, ":")
			s += name
		}
		return s
	}
	before := names()
	for _, c := range []struct {
		w way.Way
		// Which links the gateway reaches the correspondent by, and the anchor the host; "" = not at all.
		up, down string
	}{
		{way.Way{Kind: way.Plain}, CoreLink, CoreLink},
		{way.Way{Kind: way.VXLAN}, vxlan, vxlan},
	} {
		t.Run(c.w.Name(), func(t *testing.T) {
			n := build(t, c.w)
			six, four := way.HomeOf(77)
			for _, to := range []struct {
				what, link string
				got        func() (string, error)
			}{
				{"gateway to CN, IPv6", c.up, func() (string, error) { return n.Gateway.RouteTo(way.CN6) }},
				{"gateway to CN, IPv4", c.up, func() (string, error) { return n.Gateway.RouteTo(way.CN4) }},
				{"anchor to home, IPv6", c.down, func() (string, error) { return n.Anchor.RouteTo(six) }},
				{"anchor to home, IPv4", c.down, func() (string, error) { return n.Anchor.RouteTo(four) }},
				{"host has its home address", "lo", func() (string, error) { return n.Host.RouteTo(six) }},
			} {
				if got, err := to.got(); err != nil || got != to.link {
					t.Errorf("%s: %q, %v; want %q", to.what, got, err, to.link)
				}
			}
		})
	}
	if now := names(); now != before {
		t.Errorf("links of the machine: %q, before %q", now, before)
	}
}

// TestNoPlainRoute: in the chain of a tunnel no kernel knows a way to the host past the tunnel.
func TestNoPlainRoute(t *testing.T) {
	w := way.Way{Kind: way.User, Encap: "v6", Second: true}
	n, err := New(w)
	if err != nil {
		t.Fatalf("%v: run this test as root", err)
	}
	t.Cleanup(n.Close)
	six, four := way.HomeOf(1)
	for what, f := range map[string]func() (string, error){
		"anchor to home, IPv6": func() (string, error) { return n.Anchor.RouteTo(six) },
		"anchor to home, IPv4": func() (string, error) { return n.Anchor.RouteTo(four) },
		"gateway to CN, IPv6":  func() (string, error) { return n.Gateway.RouteTo(way.CN6) },
		"gateway to CN, IPv4":  func() (string, error) { return n.Gateway.RouteTo(way.CN4) },
		"second to CN, IPv6":   func() (string, error) { return n.Second.RouteTo(way.CN6) },
	} {
		if link, err := f(); err == nil {
			t.Errorf("%s: there is a route by %s", what, link)
		}
	}
	if link, err := n.Second.RouteTo(way.Anchor6); err != nil || link != CoreLink {
		t.Errorf("second gateway to the anchor: %q, %v", link, err)
	}
}

// TestSegment: what cuts super packets is switched at both ends of the tunnel, and back.
func TestSegment(t *testing.T) {
	n := build(t, way.Way{Kind: way.Plain})
	on := func() (all map[string]bool) {
		err := n.Gateway.Do(func() (err error) {
			all, err = ethtool.Active(CoreLink)
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		return all
	}
	for _, cut := range []bool{false, true, false} {
		if err := n.Segment(cut); err != nil {
			t.Fatal(err)
		}
		all := on()
		for _, f := range []string{"tx-tcp-segmentation", "tx-tcp6-segmentation", "tx-generic-segmentation", "tx-udp-segmentation"} {
			if all[f] == cut {
				t.Errorf("cut %v: %s is %v", cut, f, all[f])
			}
		}
	}
}

// TestTapSilence: a tap that sees nothing of the traffic says so.
func TestTapSilence(t *testing.T) {
	n := build(t, way.Way{Kind: way.Plain})
	tap, err := n.Watch(way.Way{Kind: way.Plain})
	if err != nil {
		t.Fatal(err)
	}
	defer tap.Close()
	ctx, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
	defer cancel()
	if err := tap.Verify(ctx); err == nil {
		t.Error("nothing was sent, and is taken for traffic")
	}
}
