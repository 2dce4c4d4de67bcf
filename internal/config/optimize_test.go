package config

import (
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

const optimizing = `version: 1
name: laptop
security: { peers: [ { name: ha1, esp: { spi-in: 0x102, spi-out: 0x101, key-file: keys/laptop.there } } ] }
node:
  anchor: { name: ha1, addresses: ["2001:db8:a::1", 198.51.100.1] }
  home: { v6: "2001:db8:2000::5/64" }
  links: [ { match: "en*" } ]
`

// TestRouteOptimization: off without its section, for all with an empty one, and as it says else.
func TestRouteOptimization(t *testing.T) {
	p := netip.MustParsePrefix
	for text, want := range map[string]Optimization{
		"":                           {},
		"  route-optimization: {}\n": {Use: OptimizeTraffic, Limit: 64, Lifetime: 7 * time.Minute},
		"  route-optimization: { use: traffic, limit: 1024, lifetime: 40s }\n": {Use: OptimizeTraffic, Limit: 1024, Lifetime: 40 * time.Second},
		"  route-optimization: { use: never, correspondents: [ { prefix: \"2001:db8:d::99\", use: always }, { prefix: \"2001:db8:d::/64\", use: traffic } ] }\n": {
			Use: OptimizeNever, Limit: 64, Lifetime: 7 * time.Minute, Rules: []OptimizationRule{{p("2001:db8:d::99/128"), OptimizeAlways}, {p("2001:db8:d::/64"), OptimizeTraffic}}},
	} {
		c, warnings, err := Parse("n.yaml", []byte(optimizing+text))
		if err != nil || len(warnings) > 0 {
			t.Errorf("%q: %v %v", text, warnings, err)
			continue
		}
		if diff := cmp.Diff(want, c.Node.Optimization, plain); diff != "" {
			t.Errorf("%q: -want +got:\n%s", text, diff)
		}
	}
	c, warnings, err := Parse("n.yaml", []byte(optimizing+"  route-optimization: { use: never }\n"))
	if err != nil || c == nil || len(warnings) != 1 || warnings[0].Kind != UnusedSetting {
		t.Errorf("use: never alone: %v %v", warnings, err)
	}
}

// TestRouteOptimizationBad: each mistake is named, with what to write instead.
func TestRouteOptimizationBad(t *testing.T) {
	for text, want := range map[string][]string{
		"{ use: always }":   {"always", "traffic"},
		"{ limit: 0 }":      {"1 to 1024"},
		"{ limit: 1025 }":   {"1 to 1024"},
		"{ lifetime: 8m }":  {"4s to 7m"},
		"{ lifetime: 10s }": {"no multiple of 4s", "write 12s"},
		"{ correspondents: [ { prefix: \"2001:db8:d::/64\", use: always } ] }":                                                     {"always is for single addresses", "traffic"},
		"{ correspondents: [ { prefix: \"2001:db8:d::1/64\", use: never } ] }":                                                     {"bits behind its length", "2001:db8:d::/64"},
		"{ correspondents: [ { prefix: 192.0.2.0/24, use: never } ] }":                                                             {"is not of IPv6", "leave it out"},
		"{ correspondents: [ { prefix: cn1, use: never } ] }":                                                                      {"no prefix and no address"},
		"{ correspondents: [ { prefix: \"fe80::1\", use: always } ] }":                                                             {"no global address"},
		"{ correspondents: [ { prefix: \"2001:db8:a::1\", use: always } ] }":                                                       {"is no correspondent"},
		"{ correspondents: [ { prefix: \"2001:db8:d::/64\", use: never }, { prefix: \"2001:db8:d::/64\", use: traffic } ] }":       {"stands twice"},
		"{ correspondents: [ { prefix: \"2001:db8:d::1\", use: always }, { prefix: \"2001:db8:d::2\", use: always } ], limit: 1 }": {"2 correspondents are always told", "at least 2"},
		"{ correspondents: [] }":                                  {"is empty"},
		"{ correspondents: [ { prefix: \"2001:db8:d::/64\" } ] }": {"use"},
	} {
		_, _, err := Parse("n.yaml", []byte(optimizing+"  route-optimization: "+text+"\n"))
		if err == nil {
			t.Errorf("%s is taken", text)
			continue
		}
		for _, w := range append(want, "n.yaml:8") {
			if !strings.Contains(err.Error(), w) {
				t.Errorf("%s: %v: does not say %q", text, err, w)
			}
		}
	}
}
