package simnet

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"kedge/internal/anchor"
	"kedge/internal/core"
	"kedge/internal/ipsec"
	"kedge/internal/spec"
)

// TestPrefixesUnderESP: a home agent tells its node of the prefixes unasked, the node acknowledges by asking, and is answered, all of it
// under ESP: natively, and in an IPv4-only network in IPv4. Then the home agent wants to be left, and is (RFC 5142).
func TestPrefixesUnderESP(t *testing.T) {
	spec.Covers(t, "RFC6275-10.6.2", "RFC5142-5.2")
	for _, net := range []string{"six", "four", "nat"} {
		t.Run(net, func(t *testing.T) {
			r := newRoam(t, roamOptions{seed: 4, protection: ipsec.ESP, anchor: func(c *anchor.Config) {
				c.Discovery = anchor.Discovery{On: true, MinPrefixInterval: 2 * time.Second, MaxPrefixInterval: 4 * time.Second}
			}})
			var said []string
			r.ha.Emits = func(_ core.Now, e core.Emit) {
				if e.Name == "prefixes" || e.Name == "home-agent-switch" || e.Name == "failed" || e.Name == "message-ignored" {
					said = append(said, fmt.Sprintf("%s %s %s", e.Name, e.To, e.Why))
				}
			}
			r.mn.Iface("wl0").Attach(r.nets[net])
			r.bound(5 * sec)
			has := func(what string) func() bool {
				return func() bool { return strings.Contains(strings.Join(said, "|"), what) }
			}
			if !r.RunUntil(10*sec, has("prefixes sent unsolicited|prefixes sent solicited")) {
				t.Errorf("said %q", said)
			}
			out, err := r.ha.Command(core.Switch{ID: "mn1@example.net", To: []netip.Addr{netip.MustParseAddr("2001:db8:a::2")}})
			if err != nil || out.(core.Switched).Told != 1 {
				t.Fatalf("%+v %v", out, err)
			}
			if !r.RunUntil(30*sec, has("home-agent-switch done deregistered")) {
				t.Errorf("the node stays; said %q", said)
			}
			if has("failed")() || has("message-ignored")() {
				t.Errorf("said %q", said)
			}
		})
	}
}
