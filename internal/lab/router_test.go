package lab

import (
	"fmt"
	"strings"
	"testing"

	"kedge/internal/lab/scenario"
)

// lans is a small world of ordinary networks without any daemon of ours: an IPv6 network, one behind a NAT, one with both,
// and a second NAT with the same private addresses.
const lans = `
version: 1
scenario: lans
budget: 40s
links:
  net: { prefix: ["2001:db8:a::/64", 198.51.100.0/24] }
  dc: { prefix: ["2001:db8:d::/64", 203.0.113.0/24] }
  six: { lan: true }
  nat: { lan: true }
  dual: { lan: true }
  twin: { lan: true }
nodes:
  gw: { host: static, forward: true, on: { net: ["2001:db8:a::1", 198.51.100.1], dc: ["2001:db8:d::1", 203.0.113.1] } }
  cn: { host: static, on: { dc: ["2001:db8:d::99", 203.0.113.99] } }
  r6: { router: { v6: "2001:db8:51::/64" }, on: { net: "2001:db8:a::51", six: lan0 } }
  r4: { router: { v4: 192.168.1.0/24, nat: true, udp-timeout: 3s%s }, on: { net: 198.51.100.54, nat: lan0 } }
  rt: { router: { v4: 192.168.1.0/24, nat: true }, on: { net: 198.51.100.55, twin: lan0 } }
  rd: { router: { v6: "2001:db8:52::/64", v4: 192.0.2.0/24 }, on: { net: ["2001:db8:a::52", 198.51.100.52], dual: lan0 } }
  h1: { host: udhcpc, at: six, mac: "02:00:00:00:00:01" }
  h2: { host: udhcpc, at: nat, mac: "02:00:00:00:00:02" }
  h3: { host: dhclient, at: dual, mac: "02:00:00:00:00:03" }
  h4: { host: udhcpc, at: twin, mac: "02:00:00:00:00:02" }
steps:
%s
expect-at-end: { wire: { tshark-errors: 0 } }
`

// TestLANs: hosts as they come get addresses from radvd and dnsmasq, reach the other end of the world, and see what happens
// to their network.
func TestLANs(t *testing.T) {
	for name, tt := range map[string]struct{ router, steps string }{
		"addresses": {"", `
  - wait: { h1: { v6: "2001:db8:51::/64", v4: none }, h2: { v4: 192.168.1.0/24, v6: none }, h3: { v4: 192.0.2.0/24, v6: "2001:db8:52::/64" }, h4: { v4: 192.168.1.0/24 }, within: 8s }
  - wait: { h1: { reaches: cn.v6 }, h2: { reaches: cn.v4 }, h3: { reaches: cn }, h4: { reaches: cn.v4 }, within: 5s }
  - expect:
      cn: [ { reaches: h3.v4 }, { reaches: h1.v6 } ]
      capture: [ { link: net, filter: "icmp && ip.src == 198.51.100.54" }, { link: net, filter: "ip.addr == 192.168.0.0/16", count: 0 } ]`},
		"moves": {"", `
  - wait: { h1: { v6: "2001:db8:51::/64" }, within: 8s }
  - move: { node: h1, to: nat, how: flap }
  - wait: { h1: { v4: 192.168.1.0/24, reaches: cn.v4 }, h2: { v4: any, reaches: h1.v4 }, within: 8s }
  - move: { node: h1, to: dual, how: break }
  - wait: { h1: { v4: 192.0.2.0/24, v6: "2001:db8:52::/64", reaches: cn.v4 }, within: 8s }`},
		"changes": {"", `
  - wait: { h3: { v4: any, v6: any, reaches: cn }, within: 8s }
  - network: { at: rd, do: v6-off }
  - wait: { h3: { v6: none }, within: 3s }
  - network: { at: rd, do: v6-on }
  - wait: { h3: { v6: any, reaches: cn }, within: 3s }
  - network: { at: rd, do: renumber, v6: "2001:db8:57::/64" }
  - wait: { h3: { v6: "2001:db8:57::/64" }, within: 5s }
  - network: { at: rd, do: v4-off }
  - start: { ping: { name: dead, from: h3, to: cn.v4, every: 20ms } }
  - wait: { dead: { lost: ">= 5" }, within: 4s }
  - network: { at: rd, do: v4-on }
  - wait: { h3: { reaches: cn.v4 }, dead: { alive: true }, within: 6s }
  - network: { at: rd, do: silence }
  - wait: { dead: { alive: false }, within: 4s }`},
		"rebind": {"", `
  - wait: { h2: { v4: any, reaches: cn.v4 }, within: 8s }
  - start: { udp: { name: up, from: h2, to: cn.v4, every: 10ms } }
  - wait: { up: { received: ">= 20" }, within: 3s }
  - expect: { capture: [ { link: net, filter: "udp && ip.src == 198.51.100.54 && udp.srcport >= 21000 && udp.srcport < 22000", count: 0 } ] }
  - network: { at: r4, do: rebind }
  - wait: { capture: { link: net, filter: "udp && ip.src == 198.51.100.54 && udp.srcport >= 21000 && udp.srcport < 22000", count: ">= 5" }, within: 3s }`},
		"portal": {", portal: true, block: [ip41]", `
  - wait: { h2: { v4: any }, within: 8s }
  - start: { ping: { name: p, from: h2, to: cn.v4, every: 20ms } }
  - wait: { p: { lost: ">= 5" }, within: 3s }
  - expect: { p: { received: 0 } }
  - network: { at: r4, do: open }
  - wait: { p: { alive: true }, within: 3s }`},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s, err := scenario.Parse("lans.yaml", fmt.Appendf(nil, lans, tt.router, strings.Trim(tt.steps, "\n")))
			if err != nil {
				t.Fatal(err)
			}
			if res := runTiny(t, s); !res.OK {
				t.Error(res.Failure)
			}
		})
	}
}
