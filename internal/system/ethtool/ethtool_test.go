//go:build linux

package ethtool_test

import (
	"maps"
	"testing"

	"kedge/internal/system/ethtool"
	"kedge/internal/system/netns"
)

// TestSet: what is asked for is on or off afterwards, and back, and nothing else of the link changes.
func TestSet(t *testing.T) {
	ns, err := netns.Anonymous()
	if err != nil {
		t.Fatalf("run this test as root: %v", err)
	}
	defer ns.Close()
	netns.Must(t, netns.Veth(netns.End{NS: ns, Name: "a"}, netns.End{NS: ns, Name: "b"}))
	netns.Must(t, ns.Do(func() error {
		before, err := ethtool.Active("a")
		netns.Must(t, err)
		for _, on := range []bool{false, true} {
			netns.Must(t, ethtool.Set("a", on, ethtool.TCPSegmentation...))
			netns.Must(t, ethtool.Set("a", !on, ethtool.ReceiveAggregation, "no such feature"))
			now, err := ethtool.Active("a")
			netns.Must(t, err)
			want := maps.Clone(before)
			for _, f := range ethtool.TCPSegmentation {
				want[f] = on
			}
			want[ethtool.ReceiveAggregation] = !on
			if !maps.Equal(now, want) {
				t.Errorf("set %v: features %v, want %v", on, now, want)
			}
		}
		return nil
	}))
	netns.Must(t, ns.Do(func() error {
		if ethtool.Set("nothing", true, ethtool.ReceiveAggregation) == nil {
			t.Error("a link that is not there was switched")
		}
		if _, err := ethtool.Active("nothing"); err == nil {
			t.Error("a link that is not there has features")
		}
		return nil
	}))
}
