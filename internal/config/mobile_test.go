package config

import (
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// TestMobileDefaults: what minimal files of a home agent and a node mean.
func TestMobileDefaults(t *testing.T) {
	ip, px := netip.MustParseAddr, netip.MustParsePrefix
	n, _ := load(t, "../../examples/node-minimal.yaml")
	wantPeer := Peer{Name: "ha1", Protection: ProtectionESP, ESP: ESP{SPIIn: 0x102, SPIOut: 0x101, Suite: "aes128-sha256", KeyFile: "../../examples/keys/laptop.there"}}
	if diff := cmp.Diff([]Peer{wantPeer}, n.Peers, plain); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
	wantNode := &Node{
		Anchor: NodeAnchor{Name: "ha1", IPv6: ip("2001:db8:a::1"), IPv4: ip("198.51.100.1"), Dialect: DialectRFC5555},
		Home:   Home{V6: px("2001:db8:2000::5/64"), Dynamic4: true},
		Links:  []Link{{Match: "en*", Prefer: 10, Families: Families{true, true}}, {Match: "wl*", Prefer: 20, Families: Families{true, true}}},
		Table:  10700,
		Timers: NodeTimers{FirstTimeout: 1500 * time.Millisecond, Lifetime: 10 * time.Minute, RefreshAt: 0.8, DeadPath: 3 * time.Second, FamilyFallback: 300 * time.Millisecond,
			NATRefresh: 110 * time.Second, RetransmitFirst: time.Second, RetransmitMax: 32 * time.Second},
	}
	if diff := cmp.Diff(wantNode, n.Node, plain); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
	a, _ := load(t, "../../examples/homeagent-minimal.yaml")
	if diff := cmp.Diff(&DSMIP6{Families: Families{true, true}, Dialects: []string{DialectRFC5555}, NATRefresh: 110 * time.Second, MessageIDWindow: 7 * time.Second}, a.Anchor.DSMIP6, plain); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
	wantSub := []Subscriber{{ID: "laptop@example.net", Families: Families{true, true}, NoPMIP6: true, Prefixes: 1, HoA: px("2001:db8:2000::5/64"), Peer: "laptop"}}
	if diff := cmp.Diff(wantSub, a.Anchor.Subscribers.List, plain); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
}

// TestMobileValues: what is written arrives.
func TestMobileValues(t *testing.T) {
	px := netip.MustParsePrefix
	n, _ := load(t, "testdata/node.yaml")
	if n.Node.ID != "laptop@example.net" || len(n.Node.Exclude) != 2 || n.Node.Links[1].Families != (Families{V4: true}) || n.Node.PassUnreachable || n.Node.DNSDirect {
		t.Errorf("%+v", n.Node)
	}
	b, err := os.ReadFile("testdata/node.yaml")
	if err != nil {
		t.Fatal(err)
	}
	text := strings.NewReplacer("v4: dynamic", "v4: 10.20.0.5/16", "unreachable: block", "unreachable: pass\n  udp: always", "dns: tunnel", "dns: direct",
		"keys/ha1.laptop", "/etc/keys/ha1", "dialect: rfc5555", "dialect: draft-soliman-00, option-length: octets").Replace(string(b))
	c, _, err := Parse("/etc/kedge/n.yaml", []byte(text))
	if err != nil {
		t.Fatal(err)
	}
	if c.Node.Home.V4 != px("10.20.0.5/16") || c.Node.Home.Dynamic4 || !c.Node.PassUnreachable || !c.Node.DNSDirect || !c.Node.ForceUDP ||
		c.Peers[0].ESP.KeyFile != "/etc/keys/ha1" || c.Node.Anchor.Dialect != DialectSoliman00 || !c.Node.Anchor.OctetLengths {
		t.Errorf("%+v %+v", c.Node, c.Peers)
	}
	a, _ := load(t, "testdata/homeagent.yaml")
	if p := a.Peers[1]; p.Protection != ProtectionRFC4285 || p.RFC4285 != (RFC4285{SPI: 0x201, KeyFile: "/etc/kedge/keys/phone"}) {
		t.Errorf("%+v", p)
	}
	if s := a.Anchor.Subscribers.List[2]; s.Families.V4 || s.HoA != px("2001:db8:2000::7/64") || s.Peer != "phone" {
		t.Errorf("%+v", s)
	}
}

// TestMobileWarnings: what starts, but cuts a node off or is weak.
func TestMobileWarnings(t *testing.T) {
	for _, c := range []struct{ file, old, new, want string }{
		{"homeagent", ", 198.51.100.1]", "]", "anchor.addresses: there is no IPv4 address: mobile nodes are cut off in IPv4-only networks (no-ipv4)"},
		{"homeagent", "aes256-sha512", "aes128-sha1", "security.peers[2].esp.suite: HMAC-SHA1-96 is for peers that know nothing better (RFC 8221 6) (weak-suite)"},
		{"node", `["2001:db8:a::1", 198.51.100.1], dialect`, `["2001:db8:a::1"], dialect`, "node.anchor.addresses: there is no IPv4 address of the home agent: the node is cut off in IPv4-only networks (no-ipv4)"},
		{"homeagent", "{ name: laptop, esp", "{ name: tablet, protection: none }\n    - { name: laptop, esp", ""},
		{"node", "dead-path: 3s", "dead-path: 600ms", "node.timers.dead-path: paths with round trips above 200ms will look dead (short-timer)"},
		{"node", "first: 1s", "first: 200ms", "node.timers.retransmit.first: INITIAL_BINDACK_TIMEOUT is 1s (RFC 6275 12) (beyond-rfc)"},
		{"node", "esp: { spi-in: 0x102, spi-out: 0x101, key-file: keys/ha1.laptop }", "protection: none", "security.peers[0].protection: signalling with peer ha1 is neither authenticated nor encrypted (unprotected)"},
	} {
		b, err := os.ReadFile("testdata/" + c.file + ".yaml")
		if err != nil {
			t.Fatal(err)
		}
		_, before, err := Parse("a.yaml", b)
		if err != nil || len(before) != 0 {
			t.Fatalf("%s: %v %v", c.file, before, err)
		}
		_, warnings, err := Parse("a.yaml", []byte(strings.Replace(string(b), c.old, c.new, 1)))
		if c.want == "" { // two at once
			if len(warnings) != 2 || !strings.HasSuffix(warnings[1].String(), "peer tablet has no addresses and may register no home address: nobody is it (unused)") {
				t.Errorf("%v", warnings)
			}
			continue
		}
		if err != nil || len(warnings) != 1 || !strings.HasSuffix(warnings[0].String(), c.want) {
			t.Errorf("%s: %v %v, want %s", c.new, err, warnings, c.want)
		}
	}
}

// TestDomainWithNode: a home agent and a node that do not fit would be silent on the wire; here it is said why.
func TestDomainWithNode(t *testing.T) {
	const prefixed = `,
        prefix-discovery: { spi-in: 0x106, spi-out: 0x105, key-file: keys/laptop-prefix-discovery.there } }`
	const esped = `esp: { spi-in: 0x102, spi-out: 0x101, suite: aes128-sha256, key-file: keys/laptop.there,
        return-routability: { spi-in: 0x104, spi-out: 0x103, key-file: keys/laptop-return-routability.there }` + prefixed
	a, _ := load(t, "../../examples/homeagent.yaml")
	b, err := os.ReadFile("../../examples/node.yaml")
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ old, new, want string }{
		{"", "", ""},
		{`addresses: ["2001:db8:a::1", 198.51.100.1]`, `addresses: ["2001:db8:a::2", 198.51.100.1]`, ""}, // another home agent
		{`198.51.100.1]`, `198.51.100.2]`, "198.51.100.2 is no address of ha1"},
		{`2000:1::5/64`, `2000:1::6/64`, "ha1 knows no host with the home address 2001:db8:2000:1::6"},
		{`2000:1::5/64`, `2000:1::5/60`, "ha1 has the home prefix 2001:db8:2000:1::/64 for laptop@example.net"},
		{`v4: dynamic`, `v4: 10.20.0.9/16`, "ha1 has an address from a pool for laptop@example.net"},
		{"    v4: dynamic", "    networks: [\"2001:db8:3000::/56\"]\n    v4: dynamic", "ha1 has no network 2001:db8:3000::/56 for laptop@example.net"},
		{"spi-in: 0x104", "spi-in: 0x114", "is 0x114 here, but spi-out is 0x104 in ../../examples/homeagent.yaml for laptop"},
		{"spi-out: 0x105", "spi-out: 0x115", "is 0x115 here, but spi-in is 0x105 in ../../examples/homeagent.yaml for laptop"},
		{", spi-out: 0x103", ", spi-out: 0x103, suite: aes256-sha512", "is aes256-sha512 here, and aes128-sha256 in ../../examples/homeagent.yaml for laptop"},
		{prefixed, " }", "has no prefix-discovery, but ../../examples/homeagent.yaml has it for laptop: what comes without that is dropped there"},
		{"spi-in: 0x102", "spi-in: 0x112", "is 0x112 here, but spi-out is 0x102 in ../../examples/homeagent.yaml for laptop"},
		{"spi-out: 0x101", "spi-out: 0x104", "is 0x104 here, but spi-in is 0x101 in ../../examples/homeagent.yaml for laptop"},
		{"suite: aes128-sha256", "suite: aes256-sha256", "is aes256-sha256 here, and aes128-sha256 in ../../examples/homeagent.yaml for laptop"},
		{esped, "rfc4285: { spi: 0x201, key-file: x }", "protection is rfc4285 here, and esp in ../../examples/homeagent.yaml for laptop"},
		{`2000:1::5/64`, `2000:3::5/64`, "ha1 has no IPv4 for testbed@example.net\nprotection is esp here, and none in ../../examples/homeagent.yaml for testbed"},
	} {
		n, _, err := Parse("laptop.yaml", []byte(strings.Replace(string(b), c.old, c.new, 1)))
		if err != nil {
			t.Fatal(err)
		}
		errs, warnings := CheckDomain([]*Config{a, n})
		var got []string
		for _, w := range warnings {
			got = append(got, w.Text)
		}
		if len(errs) > 0 || strings.Join(got, "\n") != c.want {
			t.Errorf("%s: %v %q, want %q", c.new, errs, got, c.want)
		}
	}
}

// TestGuide: the files of docs/dsmip6.md are right, warn of nothing, and fit each other.
func TestGuide(t *testing.T) {
	b, err := os.ReadFile("../../docs/dsmip6.md")
	if err != nil {
		t.Fatal(err)
	}
	var whole []*Config
	var homeAgent string
	for i, block := range strings.Split(string(b), "```yaml\n")[1:] {
		text, _, ok := strings.Cut(block, "```")
		if !ok {
			t.Fatal("a block without end")
		}
		if !strings.HasPrefix(text, "version:") { // the variant with a home link: keys of the first file are replaced
			pools := text[strings.Index(text, "  home-link:"):strings.Index(text, "  ...")]
			sub := text[strings.Index(text, "      - {"):]
			old := homeAgent[strings.Index(homeAgent, "  pools:"):strings.Index(homeAgent, "  services:")]
			oldSub := homeAgent[strings.Index(homeAgent, "      - {"):]
			text = strings.NewReplacer(old, pools, oldSub, sub).Replace(homeAgent)
		}
		c, warnings, err := Parse("guide.yaml", []byte(text))
		if err != nil || len(warnings) > 0 {
			t.Fatalf("block %d: %v %v\n%s", i, err, warnings, text)
		}
		if c.Anchor != nil && homeAgent == "" {
			homeAgent = text
		}
		if len(whole) < 2 {
			whole = append(whole, c)
		}
	}
	if errs, warnings := CheckDomain(whole); len(whole) != 2 || whole[1].Node == nil || len(errs)+len(warnings) > 0 {
		t.Errorf("%d files: %v %v", len(whole), errs, warnings)
	}
}
