package config

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

const esped = `version: 1
name: laptop
security: { peers: [ { name: ha1, esp: { spi-in: 0x102, spi-out: 0x101, key-file: keys/a, return-routability: { spi-in: 0x302, spi-out: 0x301, key-file: keys/b },
  prefix-discovery: { spi-in: 0x402, spi-out: 0x401, suite: aes256-sha512, key-file: /etc/keys/c } } } ] }
node: { anchor: { name: ha1, addresses: ["2001:db8:a::1", 198.51.100.1] }, home: { v6: "2001:db8:2000::5/64" }, links: [ { match: "en*" } ] }
`

// TestAssociations: what protects return routability and prefix discovery arrives, and what cannot be is refused.
func TestAssociations(t *testing.T) {
	c, warnings, err := Parse("/etc/kedge/n.yaml", []byte(esped))
	if err != nil || len(warnings) > 0 {
		t.Fatal(err, warnings)
	}
	want := ESP{SPIIn: 0x102, SPIOut: 0x101, Suite: "aes128-sha256", KeyFile: "/etc/kedge/keys/a",
		ReturnRoutability: &Association{SPIIn: 0x302, SPIOut: 0x301, Suite: "aes128-sha256", KeyFile: "/etc/kedge/keys/b"},
		PrefixDiscovery:   &Association{SPIIn: 0x402, SPIOut: 0x401, Suite: "aes256-sha512", KeyFile: "/etc/keys/c"}}
	if d := cmp.Diff(want, c.Peers[0].ESP); d != "" {
		t.Error(d)
	}
	for _, x := range []struct{ old, new, want string }{
		{"key-file: keys/b }", "key-file: keys/b, suite: null-sha256 }", "null-sha256"},
		{"key-file: keys/b", "key-file: keys/a", "is the key file of another association already; make keys of its own: kedge keys ha1 --uses all"},
		{"/etc/keys/c", "keys/b", "is the key file of another association already"},
		{"spi-in: 0x302", "spi-in: 0x102", "0x102 belongs to peer \"ha1\" already"},
		{"spi-in: 0x402", "spi-in: 0x302", "0x302 belongs to peer \"ha1\" already"},
		{"spi-in: 0x302", "spi-in: 0x80000302", "write 256 to 2147483647 (RFC 4303 2.1: 1 to 255 are reserved; 2^31 and up is for data)"},
		{"spi-in: 0x302, spi-out: 0x301, ", "", "\"spi-in\" is missing"},
		{"name: ha1, esp", "name: mag1, addresses: [\"2001:db8:a::11\"], esp: { spi-in: 0x502, spi-out: 0x501, key-file: keys/d, prefix-discovery: { spi-in: 0x602, spi-out: 0x601, key-file: keys/e } } }, { name: ha1, esp",
			"is for mobile nodes and their home agents, and peer \"mag1\" is neither; name the peer in anchor.subscribers or node.anchor, or leave this out"},
	} {
		_, _, err := Parse("n.yaml", []byte(strings.Replace(esped, x.old, x.new, 1)))
		if err == nil || !strings.Contains(err.Error(), x.want) {
			t.Errorf("%s: %v, want %s", x.new, err, x.want)
		}
	}
}
