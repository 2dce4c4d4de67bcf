package ipsec

import (
	"net/netip"
	"testing"
)

// TestTwoAgentsOfOneHomeAddress: a node that may be served by two home agents protects its tests with the one that has its binding;
// each has associations of its own.
func TestTwoAgentsOfOneHomeAddress(t *testing.T) {
	second := netip.MustParseAddr("2001:db8:1::2")
	peer := func(name string, at netip.Addr, spi uint32) Peer {
		return Peer{Name: name, Addresses: []netip.Prefix{netip.PrefixFrom(at, 128)}, Own: []netip.Addr{home1}, Protection: ESP,
			SAs: []SA{testSA(t, Signalling, "aes128-sha256", spi), testSA(t, ReturnRoutability, "aes128-sha256", spi+2)}}
	}
	mn := mustNew(t, &Volatile{}, peer("ha1", agent, 0x300), peer("ha2", second, 0x400))
	for at, name := range map[netip.Addr]string{agent: "ha1", second: "ha2"} {
		if v := mn.Policy(Traffic{Local: careOf, LocalHome: home1, Remote: at, Proto: 135, Type: 5, Out: true}); v.Peer != name || v.Action != Protect {
			t.Errorf("BU to %s: %+v", at, v)
		}
	}
	hoti := Traffic{Local: home1, Remote: cn, Proto: 135, Type: 1, Out: true}
	for _, c := range []struct {
		name   string
		remote netip.Addr
		want   Verdict
	}{
		{"ha2", second, Verdict{Protect, "ha2", ReturnRoutability}},
		{"ha2", netip.Addr{}, Verdict{Bypass, "ha1", 0}},
		{"ha1", agent, Verdict{Protect, "ha1", ReturnRoutability}},
	} {
		if err := mn.UpdateEndpoint(c.name, home1, careOf, c.remote); err != nil {
			t.Fatal(err)
		}
		if v := mn.Policy(hoti); v != c.want {
			t.Errorf("%s at %s: %+v, want %+v", c.name, c.remote, v, c.want)
		}
	}
}

// TestNewHomeAddress: after a renumbering the policy is the same for the new home address, from when the machine names it.
func TestNewHomeAddress(t *testing.T) {
	_, mn := pair(t, "aes128-sha256")
	bu := Traffic{Local: careOf, LocalHome: other, Remote: agent, Proto: 135, Type: 5, Out: true}
	if v := mn.Policy(bu); v.Action != Discard {
		t.Errorf("before: %+v", v)
	}
	if err := mn.UpdateEndpoint("ha1", other, netip.Addr{}, netip.Addr{}); err != nil {
		t.Fatal(err)
	}
	if v := mn.Policy(bu); v != (Verdict{Protect, "ha1", Signalling}) {
		t.Errorf("after: %+v", v)
	}
	if !mn.Guards(other) || !mn.Guards(home1) || mn.Guards(home2) {
		t.Error("guards")
	}
}

// TestAgentSomewhere: a home agent that is found by itself is known by a prefix. Nothing to it or from it that an association
// protects goes in the clear, whatever address of ours it is for.
func TestAgentSomewhere(t *testing.T) {
	_, known := pair(t, "aes128-sha256")
	sas := known.peers["ha1"].SAs
	mn := mustNew(t, &Volatile{}, Peer{Name: "ha1", Addresses: []netip.Prefix{netip.MustParsePrefix("2001:db8:1::/64")}, Own: []netip.Addr{home1}, Protection: ESP, SAs: sas})
	for _, c := range []struct {
		name string
		t    Traffic
		want Verdict
	}{
		{"BU", Traffic{Local: careOf, LocalHome: home1, Remote: agent, Proto: 135, Type: 5, Out: true}, Verdict{Protect, "ha1", Signalling}},
		{"BA", Traffic{Local: careOf, LocalHome: home1, Remote: agent, Proto: 135, Type: 6}, Verdict{Protect, "ha1", Signalling}},
		{"BA to the care-of address", Traffic{Local: careOf, Remote: agent, Proto: 135, Type: 6}, Verdict{Discard, "ha1", 0}},
		{"MPA to the care-of address", Traffic{Local: careOf, Remote: agent, Proto: 58, Type: 147}, Verdict{Discard, "ha1", 0}},
		{"answer to the search for it", Traffic{Local: careOf, Remote: agent, Proto: 58, Type: 145}, Verdict{}},
		{"BA of a correspondent node", Traffic{Local: careOf, LocalHome: home1, Remote: cn, Proto: 135, Type: 6}, Verdict{Bypass, "ha1", 0}},
	} {
		if v := mn.Policy(c.t); v != c.want {
			t.Errorf("%s: %+v, want %+v", c.name, v, c.want)
		}
	}
}
