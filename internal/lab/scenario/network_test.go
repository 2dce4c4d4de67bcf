package scenario

import (
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"
)

// mobileValid uses every part of the language that is about LANs and mobile nodes.
const mobileValid = `version: 1
scenario: roaming
links:
  net: { prefix: ["2001:db8:a::/64", 198.51.100.0/24] }
  home: { lan: true }
  cafe: { lan: true, mtu: 1400 }
  far: { prefix: 203.0.113.0/24, blackhole: 1300 }
nodes:
  ha1: { kedge: homeagent.yaml, router: { v6: "2001:db8:2000::/64", v4: 10.20.0.0/24, home-agent: true, dhcp: false }, on: { net: ["2001:db8:a::1", 198.51.100.1], home: home0 } }
  rcafe: { web: true, router: { v4: 192.168.1.0/24, v6: "2001:db8:51::/64", nat: true, udp-timeout: 3s, ra-interval: 1s, lease: 5m, leases: 1, block: [ip4, ip41], portal: true, names: { a.example: 192.0.2.1 } }, on: { net: [198.51.100.53, "2001:db8:a::53"], cafe: lan0 } }
  cn: { host: static, web: true, names: { b.example: 192.0.2.2 }, on: { net: "2001:db8:a::99" } }
  n1: { kedge: node.yaml, at: [home, cafe], mac: ["02:00:00:00:00:05", "02:00:00:00:00:15"], id: n1@example.net, protection: esp, suite: aes256-sha512, mobile: { v6: "2001:db8:2000::5/64", v4: 10.20.0.5/24, dialect: draft-soliman-00, subscriber: { networks: [] } } }
  n2: { kedge: node.yaml, host: dhclient, at: cafe, mac: "02:00:00:00:00:06", mobile: { v6: "2001:db8:2000::6/64", v4: dynamic } }
  w1: { host: udhcpc, at: cafe, mac: "02:00:00:00:00:07", wireguard: { server: ha1, endpoint: v4, address: 10.99.0.2/32, to: 203.0.113.99/32 } }
steps:
  - wait: { binding: { host: n1, state: active, care-of: 192.0.2.0/24, framing: udp, nat: true, port: ">= 20000", home: 10.20.0.5 }, n1: [ { lookup: a.example@rcafe.v4, answer: 192.0.2.1 }, { fetch: cn.v6, says: this is cn }, { reaches: cn.v6, from: any }, { clean: true } ], within: 5s }
  - start: { download: { name: d, from: n1, to: cn.v6 }, ping: { name: p, from: n1, to: "2001:db8:a::99", source: any } }
  - network: { at: rcafe, do: rebind }
  - network: { at: rcafe, do: renumber, v6: "2001:db8:52::/64" }
  - fault: { node: n1, do: suspend, for: 60s }
  - fault: { node: n1, do: end }
  - send: { from: cn, replay: bu, corrupt: true, count: 2 }
  - send: { from: cn, src: cn.v6, dst: ha1.v6, bu: { home: n1.v6, lifetime: 0s } }
  - send: { from: cn, src: cn.v6, dst: ha1.v6, port: 4191, size: 0 }
  - stop: [d, p]
  - row: { name: a move, of: { kedge: [d], other: [p] } }
  - row: { name: a path, figure: rtt, of: { kedge: p } }
`

func TestParseMobile(t *testing.T) {
	s, err := Parse("x.yaml", []byte(mobileValid))
	if err != nil {
		t.Fatal(err)
	}
	if l := s.Link("cafe"); !l.LAN || !l.Access || l.MTU != 1400 {
		t.Errorf("a LAN is %+v", l)
	}
	if l := s.Link("far"); !l.User || l.MTU != 0 || l.Impair.MTU != 1300 {
		t.Errorf("a link that swallows large packets is %+v", l)
	}
	r := s.Node("rcafe").Serve
	if r == nil || !r.NAT || r.UDPTimeout != 3*time.Second || r.RAInterval != time.Second || r.Lease != 5*time.Minute || r.Leases != 1 || !slices.Equal(r.Block, []string{"ip4", "ip41"}) ||
		!r.Portal || r.Names["a.example"] != netip.MustParseAddr("192.0.2.1") || r.V4 != netip.MustParsePrefix("192.168.1.0/24") {
		t.Errorf("router %+v", r)
	}
	if h := s.Node("ha1"); h.Serve == nil || !h.Serve.HomeAgent || !h.Serve.NoDHCP || h.On[1].Iface != "home0" {
		t.Errorf("home agent %+v", h)
	}
	n := s.Node("n1")
	if m := n.Mobile; m == nil || m.V6 != netip.MustParsePrefix("2001:db8:2000::5/64") || m.V4 != netip.MustParsePrefix("10.20.0.5/24") || m.Dialect != "draft-soliman-00" || n.Suite != "aes256-sha512" || n.Protection != "esp" || n.Host != "udhcpc" {
		t.Errorf("node %+v", n)
	}
	if m := s.Node("n2").Mobile; !m.Dynamic4 || m.Dialect != "rfc5555" || s.Node("n2").Host != "dhclient" {
		t.Errorf("node %+v", m)
	}
	if w := s.Node("w1").WireGuard; w.Server != "ha1" || w.Endpoint != "v4" || len(w.To) != 1 {
		t.Errorf("tunnel %+v", w)
	}
	st := s.Steps
	if p := st[1].Start; p[0].Kind != "download" || p[0].Any || !p[1].Any || p[1].Family != "v6" {
		t.Errorf("probes %+v", p)
	}
	if x := st[3].Network; x.Do != "renumber" || x.At != "rcafe" || x.V6 != netip.MustParsePrefix("2001:db8:52::/64") || x.V4.IsValid() {
		t.Errorf("change %+v", x)
	}
	if f := st[4].Fault; f.Do != "suspend" || f.For != time.Minute {
		t.Errorf("fault %+v", f)
	}
	if a, b, c := st[6].Send, st[7].Send, st[8].Send; a.Replay != "bu" || !a.Corrupt || b.BU.Home != "n1.v6" || b.BU.Lifetime != 0 || c.Port != 4191 || c.Size != 0 {
		t.Errorf("frames %+v %+v %+v", a, b, c)
	}
	if x := st[11].Row; x.Figure != "rtt" || len(x.Systems) != 1 {
		t.Errorf("row %+v", x)
	}
	if x := st[10].Row; x.Name != "a move" || len(x.Systems) != 2 || x.Systems[0].Name != "kedge" || x.Systems[1].Probes[0] != "p" {
		t.Errorf("row %+v", x)
	}
}

// TestMobileMistakes changes one thing each and wants it named.
func TestMobileMistakes(t *testing.T) {
	for _, tt := range []struct{ old, new, want string }{
		{"home: { lan: true }", "home: { lan: true, access: true }", "an access link of gateways or a LAN, not both"},
		{"home: { lan: true }", "home: { lan: true, delay: 1ms }", "an access link has no impairments"},
		{"v6: \"2001:db8:2000::/64\", v4", "v6: \"2001:db8:2000::/72\", v4", "want an IPv6 prefix"},
		{"v4: 192.168.1.0/24, v6", "v4: 192.168.1.7/24, v6", "want an IPv4 network"},
		{"router: { v4: 192.168.1.0/24, v6: \"2001:db8:51::/64\", nat: true", "router: { nat: true", "want v6, v4 or both"},
		{"router: { v4: 192.168.1.0/24, v6", "router: { v6", "a NAT needs v4"},
		{"block: [ip4, ip41]", "block: [ip4, tpc]", "want one of ip4, ip41"},
		{"leases: 1,", "leases: 500,", "want a whole number from 1 to 190"},
		{", cafe: lan0 } }", " } }", "a router is on one LAN"},
		{"cafe: lan0 }", "cafe: \"lan 0\" }", "want the name of the access interface"},
		{"mobile: { v6: \"2001:db8:2000::5/64\", v4", "mobile: { v4", "v6 is missing: the home address"},
		{"v4: dynamic", "v4: any", "want an IPv4 home address with a length"},
		{"dialect: draft-soliman-00", "dialect: mip4", "want one of rfc5555, draft-soliman-00"},
		{"protection: esp", "protection: ah", "want one of esp, rfc4285, none"},
		{"suite: aes256-sha512", "suite: des", "want one of aes128-sha256"},
		{"host: dhclient, at: cafe", "host: dhcpcd, at: cafe", "the DHCP client of a mobile node is udhcpc or dhclient"},
		{"host: dhclient, at: cafe", "count: 2, at: cafe", "mobile nodes come one by one"},
		{"n2: { kedge: node.yaml, host: dhclient, at: cafe, mac: \"02:00:00:00:00:06\"", "n2: { kedge: node.yaml, on: { net: \"2001:db8:a::6\" }", "a mobile node needs kedge (its config template) and at"},
		{"n2: { kedge: node.yaml, host: dhclient, at: cafe, mac: \"02:00:00:00:00:06\"", "n2: { kedge: node.yaml, host: dhclient, at: cafe, mac: \"02:00:00:00:00:06\", on: { net: \"2001:db8:a::6\" }, router: { v6: \"2001:db8:99::/64\" }", "a mobile router is on its one LAN"},
		{"server: ha1", "server: n1", "\"n1\" is no node with an address that stays"},
		{"care-of: 192.0.2.0/24", "care-of: here", "want an address or a network"},
		{"nat: true, port", "nat: maybe, port", "want true or false"},
		{"a.example@rcafe.v4", "a.example", "want NAME@SERVER"},
		{", answer: 192.0.2.1", "", "want lookup and answer, or neither"},
		{", says: this is cn", "", "want fetch and says, or neither"},
		{"from: any", "from: nowhere", "want one of any, home"},
		{"at: rcafe, do: rebind", "at: cn, do: rebind", "\"cn\" is no router of a LAN"},
		{"at: rcafe, do: rebind", "at: ha1, do: rebind", "only a NAT can be rebound"},
		{"do: renumber, v6: \"2001:db8:52::/64\"", "do: renumber", "want the new v6, v4 or both"},
		{"do: rebind", "do: explode", "want one of rebind, v6-off"},
		{"do: suspend, for: 60s", "do: suspend", "for is how long to suspend"},
		{"do: end }", "do: end, for: 3s }", "for is how long to suspend"},
		{"do: suspend, for: 60s", "do: flush", "flush needs a mobile node, and what"},
		{"do: suspend, for: 60s", "do: flush, what: links", "want one of rules, addresses, routes"},
		{"replay: bu", "replay: dhcp", "want one of pbu, pba, bu, ba, esp"},
		{"port: 4191", "port: 0", "want a whole number from 1"},
		{"kedge: [d], other", "kedge: [x], other", "\"x\" was not started"},
		{"name: a move, of", "of", "want name and of"},
		{"figure: rtt", "figure: best", "want one of rtt, rate, set-up"},
		{"of: { kedge: p }", "of: { kedge: [p, d] }", "a figure is of one probe"},
	} {
		if !strings.Contains(mobileValid, tt.old) {
			t.Errorf("the scenario has no %q", tt.old)
			continue
		}
		_, err := Parse("x.yaml", []byte(strings.Replace(mobileValid, tt.old, tt.new, 1)))
		if err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%q for %q: %v, want %q", tt.new, tt.old, err, tt.want)
		}
	}
}
