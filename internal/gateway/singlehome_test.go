package gateway

import (
	"net/netip"
	"testing"
)

// A home network prefix of one address belongs to a host that has it by its own configuration: it is forwarded, and
// advertised as no prefix to form addresses in.
func TestSingleAddressAsHomeNetworkPrefix(t *testing.T) {
	home := netip.MustParsePrefix("2001:db8:a::8077/128")
	b := newBench(t, testConfig())
	b.mld(3, macA)
	b.answer(b.pbu(), reply{hnp: []netip.Prefix{home}})
	b.state(macA, active)
	if k := b.keys(); len(k) != 2 || k[home].Match.MAC != macA {
		t.Errorf("keys %v", k)
	}
}
