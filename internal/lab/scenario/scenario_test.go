package scenario

import (
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"kedge/internal/core"
)

// valid is a scenario that uses every part of the language.
const valid = `version: 1
scenario: everything
about: all parts of the language
figure: document 001, figure 2
budget: 15s
matrix: true
covers: [S001-1-01, S001-3.1-01, RFC5213-5.3.1]
links:
  core: { prefix: ["2001:db8:a::/64", 198.51.100.0/24], delay: 5ms, jitter: 1ms, loss: 1.5%, duplicate: 0.01, reorder: 2%, rate: 10M, mtu: 1280 }
  air1: { access: true }
  air2: { access: true }
nodes:
  lma1: { kedge: anchor.yaml, on: { core: ["2001:db8:a::1", 198.51.100.1] }, config: { anchor: { timers: { lifetime-max: 20s } } }, routes: { 203.0.113.0/24: 198.51.100.99 } }
  mag1: { kedge: gateway.yaml, on: { core: "2001:db8:a::11", air1: acc0 } }
  mag2: { kedge: gateway.yaml, on: { core: "2001:db8:a::12", air2: { interface: acc0, technology: wlan } }, down: true }
  cn: { host: static, forward: true, on: { core: ["2001:db8:a::99", 198.51.100.99] } }
  h1: { host: dhclient, at: air1, mac: "02:00:00:00:00:0a" }
  crowd: { host: udhcpc, at: air1, mac: "02:00:00:00:00:ff", count: 3, families: [v4] }
  two: { host: udhcpc, at: [air1, air2], mac: ["02:00:00:00:01:0a", "02:00:00:00:01:0b"], id: bob@example.net, profile: { pools: [a, b] } }
steps:
  - wait: { h1: { v4: 10.20.0.10, v6: "2001:db8:1000::/36" }, within: 5s }
  - start: { ping: { name: p4, from: cn, to: h1.v4, every: 10ms }, tcp: { name: t6, from: h1, to: cn, family: v6 } }
  - move: { node: h1, to: air2, how: flap }
  - wait: { binding: { id: "02-00-00-00-00-0a@example.net", at: mag2, state: active }, within: 1s }
  - expect: { p4: { lost: "<= 20" }, t6: { alive: true, resets: 0 }, h1: { same: [v4, v6] } }
  - fault: { node: mag1, do: kill }
  - fault: { link: core, do: drop, match: pba, count: 2 }
  - attach: { host: h1, at: mag2, previous: mag1 }
  - send: { from: h1, src: crowd-1.v4, dst: 198.51.100.99, count: 3 }
  - repeat: { times: 3, steps: [ { say: again } ] }
  - stop: [p4, t6]
  - fault: { node: mag1, link: air1, do: unplug }
  - fault: { node: h1, interface: eth0, do: off }
  - send: { from: cn, src: cn.v4, dst: 10.20.0.77, via: lma1 }
  - expect: { cn: { trace: h1.v4, hops: [lma1, "*", 10.20.0.10] }, route: { on: lma1, to: h1.v4, dev: kedge0 } }
expect-at-end: { wire: { tshark-errors: 0 }, leaks: none, counters: { kedge_drops_total: { reason: wrong-source, is: 0 } } }
`

func TestParse(t *testing.T) {
	src := strings.Replace(valid, "src: crowd-1.v4", "src: h1.v4", 1)
	s, err := Parse("x.yaml", []byte(src))
	if err != nil {
		t.Fatal(err)
	}
	core0 := s.Link("core")
	if i := core0.Impair; i.Delay != 5*time.Millisecond || i.Jitter != time.Millisecond || i.Loss != 0.015 || i.Duplicate != 0.01 || i.Reorder != 0.02 || i.Rate != 10_000_000 || i.MTU != 1280 || !core0.User {
		t.Errorf("impairments %+v", i)
	}
	if s.Budget != 15*time.Second || !s.Matrix || len(s.Covers) != 3 || len(s.Steps) != 15 || len(s.Nodes) != 7 {
		t.Errorf("scenario %+v", s)
	}
	crowd := s.Node("crowd")
	if n := crowd.Names(); len(n) != 3 || n[2] != "crowd-3" {
		t.Errorf("crowd %v", n)
	}
	if m := crowd.HostMAC(1, 0); m != (core.MAC{2, 0, 0, 0, 1, 0}) {
		t.Errorf("second MAC of the crowd %v: octets carry over", m)
	}
	if id := crowd.Identity(0); id != "02-00-00-00-00-ff@example.net" {
		t.Errorf("identity %q", id)
	}
	if id := s.Node("two").Identity(0); id != "bob@example.net" || s.Node("two").HostMAC(0, 1)[5] != 0x0b {
		t.Errorf("two interfaces: %q", id)
	}
	st := s.Steps[1].Start
	if len(st) != 2 || st[0].To != "h1" || st[0].Family != "v4" || st[0].Every != 10*time.Millisecond || st[1].Family != "v6" {
		t.Errorf("probes %+v", st)
	}
	c := s.Steps[4].Check.Conds
	if len(c) != 3 || c[0].Kind != "probe" || c[0].Want["lost"].Cmp.String() != "<= 20" || c[2].Kind != "host" {
		t.Errorf("conditions %+v", c)
	}
	if e := s.End; e.TsharkErrors == nil || !e.TsharkErrors.Holds(0) || !e.Leaks || len(e.Conds) != 1 || e.Conds[0].Want["labels"].Map["reason"] != "wrong-source" {
		t.Errorf("end %+v", e)
	}
	if n := s.Node("lma1"); n.Routes[netip.MustParsePrefix("203.0.113.0/24")] != netip.MustParseAddr("198.51.100.99") || !s.Node("cn").Forward {
		t.Errorf("routes %v, forward %v", n.Routes, s.Node("cn").Forward)
	}
	if p := s.Node("mag2").On[1]; p.Iface != "acc0" || p.Technology != "wlan" {
		t.Errorf("port %+v", p)
	}
	if f := s.Steps[12].Fault; f.Iface != "eth0" || s.Steps[13].Send.Via != "lma1" || len(s.Steps[14].Check.Conds[0].Want["hops"].List) != 3 {
		t.Errorf("fault %+v", f)
	}
	if s.Steps[2].Line != 23 {
		t.Errorf("the move is in line %d, want 23", s.Steps[2].Line)
	}
}

// TestMistakes changes one thing each and wants it named with its line.
func TestMistakes(t *testing.T) {
	good := strings.Replace(valid, "src: crowd-1.v4", "src: h1.v4", 1)
	for _, tt := range []struct{ old, new, want string }{
		{"version: 1", "version: 2", "1:1: version: want a whole number from 1 to 1"},
		{"version: 1\n", "", "version is missing"},
		{"scenario: everything", "scenario: Every Thing", "2:1: scenario: want a name"},
		{"budget: 15s", "budgt: 15s", "5:1: budgt: unknown key; here may stand about, budget"},
		{"budget: 15s", "budget: soon", "5:1: budget: want a duration"},
		{"S001-1-01,", "S9-1,", "\"S9-1\" is no requirement id"},
		{"delay: 5ms", "delay: 5", "9:"},
		{"loss: 1.5%", "loss: 150%", "loss: want a share"},
		{"rate: 10M", "rate: fast", "rate: want bits a second"},
		{"mtu: 1280", "mtu: 100", "mtu: want a whole number from 1280"},
		{"air1: { access: true }", "air1: { access: true, delay: 1ms }", "an access link has no impairments"},
		{"air1: { access: true }", "binding: { access: true }", "name \"binding\" is a condition's"},
		{"[\"2001:db8:a::1\", 198.51.100.1]", "[\"2001:db8:b::1\"]", "2001:db8:b::1 is in no prefix of link core"},
		{"mag1: { kedge: gateway.yaml, on: { core:", "mag1: { kedge: gateway.yaml, on: { cor:", "\"cor\" is no link"},
		{"host: dhclient, at: air1", "host: dhcp, at: air1", "want one of static, slaac, dhclient"},
		{"host: dhclient, at: air1", "host: dhclient, at: core", "\"core\" is no access link"},
		{"mac: \"02:00:00:00:00:0a\"", "mac: \"03:00:00:00:00:0a\"", "is a group address"},
		{", mac: \"02:00:00:00:00:0a\"", "", "mac is missing"},
		{"\"02:00:00:00:01:0b\"]", "]", "want a MAC address for each link"},
		{"cn: { host: static, forward", "cn: { forward", "want either kedge"},
		{"h1: { v4: 10.20.0.10", "h9: { v4: 10.20.0.10", "21:13: steps[0].wait.h9: neither a node"},
		{"v4: 10.20.0.10,", "v4: tenten,", "\"tenten\": want an address, a network, any or none"},
		{", within: 5s }", " }", "within is missing"},
		{"from: cn, to: h1.v4", "from: cx, to: h1.v4", "\"cx\" is no node"},
		{"to: h1.v4, every", "to: h1.v5, every", "want NODE, NODE.v4"},
		{"every: 10ms }", "every: 10ms, evry: 1 }", "unknown key"},
		{"name: t6", "name: p4", "probe \"p4\" exists already"},
		{"how: flap", "how: fly", "want one of flap, silent, break, second"},
		{"how: flap", "how: second", "mac is that of a second interface"},
		{"to: air2, how", "to: core, how", "\"core\" is no access link"},
		{"state: active }", "state: active, sate: 1 }", "unknown key"},
		{"lost: \"<= 20\"", "lost: \"about 20\"", "is no bound"},
		{"same: [v4, v6]", "same: [v4, v7]", "\"v7\": want v4 or v6"},
		{"do: kill", "do: explode", "want one of kill, stop"},
		{"{ node: mag1, do: kill }", "{ node: h1, do: kill }", "kill needs a kedge node"},
		{"link: core, do: drop", "link: air1, do: drop", "links that are no access links"},
		{"at: mag2, previous", "at: h1, previous", "\"h1\" is no gateway"},
		{"[p4, t6]", "[p4, t9]", "\"t9\" was not started"},
		{"times: 3", "times: 0", "want a whole number from 1"},
		{"{ say: again }", "{ say: again, stop: [p4] }", "a step does one thing: 2"},
		{"leaks: none", "leaks: some", "want one of none"},
		{"203.0.113.0/24: 198", "203.0.113.1/24: 198", "want a network and a next hop of its family"},
		{"24: 198.51.100.99 }", "24: \"::1\" }", "want a network and a next hop of its family"},
		{"mac: \"02:00:00:00:00:0a\" }", "mac: \"02:00:00:00:00:0a\", forward: true }", "hosts on access links learn their routes"},
		{"technology: wlan", "tech: wlan", "unknown key; here may stand interface, technology"},
		{"interface: acc0, tech", "interface: \"acc 0\", tech", "want the name of the access interface"},
		{"link: air1, do: unplug", "link: air2, do: unplug", "unplug needs a node and a link that it is on"},
		{"trace: h1.v4, hops: [lma1, \"*\", 10.20.0.10]", "trace: h1.v4", "want trace and hops, or neither"},
		{"hops: [lma1,", "hops: [lma9,", "\"lma9\": want NODE"},
		{", dev: kedge0", "", "dev is missing"},
		{"reason: wrong-source, is: 0", "reason: wrong-source", "is is missing"},
		{"steps:\n", "steps: {}\n", ""},
		{"figure: document", "figure: [", ""},
	} {
		if !strings.Contains(good, tt.old) {
			t.Fatalf("%q is not in the scenario", tt.old)
		}
		_, err := Parse("x.yaml", []byte(strings.Replace(good, tt.old, tt.new, 1)))
		if err == nil || !strings.Contains(err.Error(), tt.want) || !strings.HasPrefix(err.Error(), "x.yaml:") {
			t.Errorf("%q -> %q: error %v\nwant %q", tt.old, tt.new, err, tt.want)
		}
	}
}

// TestAllMistakesAtOnce: one run names every mistake.
func TestAllMistakesAtOnce(t *testing.T) {
	_, err := Parse("x.yaml", []byte("version: 1\nscenario: a\nlinks: { core: { mtu: 1 } }\nnodes: { n: { host: x } }\nbogus: 1\n"))
	if err == nil || strings.Count(err.Error(), "x.yaml:") < 4 {
		t.Errorf("errors: %v", err)
	}
}

func TestCompare(t *testing.T) {
	for _, tt := range []struct {
		text string
		v    float64
		want bool
	}{
		{"5", 5, true}, {"5", 6, false}, {"<= 20", 20, true}, {"<20", 20, false}, {">= 1", 0, false}, {"> 1", 2, true}, {"!= 0", 1, true},
		{"<= 200ms", 0.1, true}, {"<= 200ms", 0.3, false}, {"== 3", 3, true},
	} {
		c, err := ParseCompare(tt.text)
		if err != nil || c.Holds(tt.v) != tt.want {
			t.Errorf("%q of %v: %v, %v", tt.text, tt.v, !tt.want, err)
		}
		if again, err := ParseCompare(c.String()); err != nil || again.Op != c.Op || again.Val != c.Val {
			t.Errorf("%q reads back as %+v, %v", c.String(), again, err)
		}
	}
	for _, bad := range []string{"", "<=", "x", "<= 5 apples", "=> 3"} {
		if _, err := ParseCompare(bad); err == nil {
			t.Errorf("%q was taken", bad)
		}
	}
}

// FuzzParse: no input panics; a scenario without an error has what the runner relies on.
func FuzzParse(f *testing.F) {
	f.Add([]byte(valid))
	f.Add([]byte(mobileValid))
	files, err := filepath.Glob("../../../lab/scenarios/*.yaml")
	if err != nil || len(files) == 0 {
		f.Fatal("no scenario files: ", err)
	}
	for _, file := range files {
		b, err := os.ReadFile(file)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		s, err := Parse("fuzz.yaml", b)
		if (s == nil) == (err == nil) {
			t.Fatal("want either a scenario or an error")
		}
		if err != nil {
			return
		}
		for i := range s.Nodes {
			n := &s.Nodes[i]
			for k := range n.Names() {
				for j := range n.Ifaces {
					_ = n.HostMAC(k, j)
				}
				if n.OnAccess() {
					_ = n.Identity(k)
				}
			}
			for _, p := range n.On {
				if s.Link(p.Link) == nil {
					t.Fatalf("node %s is on link %q, which is none", n.Name, p.Link)
				}
			}
		}
		_ = fmt.Sprint(s)
	})
}
