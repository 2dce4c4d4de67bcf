package config

import (
	"net/netip"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// TestPeer: a correspondent needs no key, may say all, and may stand beside a mobile node.
func TestPeer(t *testing.T) {
	def := Correspondent{Table: 10900, LifetimeMax: 420 * time.Second, Bindings: 10_000, Requests: 1000}
	minimal, warnings := load(t, "../../examples/peer-minimal.yaml")
	if diff := cmp.Diff(&def, minimal.Peer, plain); diff != "" || len(warnings) > 0 {
		t.Errorf("%v -want +got:\n%s", warnings, diff)
	}
	whole, warnings := load(t, "../../examples/peer.yaml")
	want := def
	want.Addresses, want.Accept = []netip.Addr{netip.MustParseAddr("2001:db8:d::99")}, []netip.Prefix{netip.MustParsePrefix("2001:db8:2000::/48")}
	if diff := cmp.Diff(&want, whole.Peer, plain); diff != "" || len(warnings) > 0 {
		t.Errorf("%v -want +got:\n%s", warnings, diff)
	}
	node := `version: 1
name: laptop
security: { peers: [ { name: ha1, esp: { spi-in: 0x102, spi-out: 0x101, key-file: keys/laptop.there } } ] }
node: { anchor: { name: ha1, addresses: ["2001:db8:a::1", 198.51.100.1] }, home: { v6: "2001:db8:2000::5/64" }, links: [ { match: "en*" } ] }
`
	c, warnings, err := Parse("n.yaml", []byte(node+"peer: { accept: [\"2001:db8::/32\"] }\n"))
	if err != nil || c.Peer == nil || c.Node == nil || len(warnings) > 0 {
		t.Errorf("%v %v", warnings, err)
	}
	if _, _, err = Parse("n.yaml", []byte(node+"peer: { addresses: [\"2001:db8:2000::6\"] }\n")); err == nil {
		t.Error("an address that is not the node's home address is taken")
	}
	_, warnings, err = Parse("n.yaml", []byte(node+"peer: { table: 11000 }\n"))
	if err != nil || len(warnings) != 1 || warnings[0].Kind != UnusedSetting {
		t.Errorf("%v %v", warnings, err)
	}
}
