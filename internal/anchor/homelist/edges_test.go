package homelist

import (
	"fmt"
	"net/netip"
	"testing"
	"time"

	"kedge/internal/spec"
	"kedge/wire/nd"
)

func linkOption(p netip.Prefix, valid, preferred uint32) *nd.PrefixInformation {
	return &nd.PrefixInformation{Prefix: p, OnLink: true, Autonomous: true, Valid: valid, Preferred: preferred}
}

// agentWith is a home agent that tells prefixes.
func agentWith(options ...nd.Option) *nd.RouterAdvertisement {
	return &nd.RouterAdvertisement{HomeAgent: true, RouterLifetime: 9000, Options: options}
}

// TestShorterValidLifetime: a valid lifetime above two hours is taken as it is told, also where it is shorter than before (RFC 4862
// 5.5.3 e).
func TestShorterValidLifetime(t *testing.T) {
	spec.Covers(t, "RFC6275-10.6.2")
	r := newRig(t, constant(0))
	r.heard(agentA, agentWith(linkOption(second, 2592000, 100)))
	want(t, "shorter", r.heard(agentA, agentWith(linkOption(second, 10800, 100))), []string{"prefix-changed"})
	if valid, _, _ := r.m.Lifetimes(r.now, second.Addr().Next()); valid != 3*time.Hour {
		t.Errorf("valid for %v", valid)
	}
}

// TestPrefixFlags: a flag that changes is told to nodes (RFC 6275 10.6.2).
func TestPrefixFlags(t *testing.T) {
	spec.Covers(t, "RFC6275-10.6.2")
	r := newRig(t, constant(0))
	o := linkOption(second, 9000, 900)
	r.heard(agentA, agentWith(o))
	off := *o
	off.OnLink = false
	want(t, "off link", r.heard(agentA, agentWith(&off)), []string{"prefix-changed"})
}

// TestNestedPrefixes: the longest prefix around a home address is that of the address.
func TestNestedPrefixes(t *testing.T) {
	r := newRig(t, constant(0))
	wide := netip.MustParsePrefix("2001:db8:2::/48")
	r.heard(agentA, agentWith(linkOption(wide, 9000, 900), linkOption(second, 7300, 700)))
	if valid, _, ok := r.m.Lifetimes(r.now, second.Addr().Next()); !ok || valid != 7300*time.Second {
		t.Errorf("valid for %v", valid)
	}
}

// TestSourcesLimit: no more routers than the limit are remembered for a prefix.
func TestSourcesLimit(t *testing.T) {
	r := newRig(t, constant(0))
	for i := range MaxSources + 5 {
		r.heard(netip.MustParseAddr(fmt.Sprintf("fe80::5:%x", i)), agentWith(linkOption(second, 9000, 900)))
	}
	if n := len(r.m.prefixes.known[second].sources); n != MaxSources {
		t.Errorf("%d sources", n)
	}
}

// TestAdvertisementHolds: the prefix of a home address that nobody knows counts among those that one packet takes.
func TestAdvertisementHolds(t *testing.T) {
	spec.Covers(t, "RFC6275-6.8")
	r := newRig(t, constant(0))
	for i := range MaxPrefixes {
		r.heard(agentA, agentWith(linkOption(netip.MustParsePrefix(fmt.Sprintf("2001:db8:5:%x::/64", i)), 9000, 900)))
	}
	if a := r.m.Advertisement(r.now, netip.MustParsePrefix("2001:db8:77::5/64"), 1); len(a.Options) != MaxAdvertised {
		t.Errorf("%d prefixes", len(a.Options))
	}
}

// TestMobileWithoutAddress: a home agent that serves mobile routers and tells no address is none to be found (RFC 3963 7.2).
func TestMobileWithoutAddress(t *testing.T) {
	spec.Covers(t, "RFC3963-7.2")
	r := newRig(t, constant(0))
	r.heard(agentA, agentWith(nd.HomeAgentInformation{Mobile: true, Lifetime: 1800}))
	if list, serve := r.m.Candidates(true, false); serve || len(list) != 1 || list[0] != own {
		t.Errorf("%v, %v", list, serve)
	}
}

// TestBoundLongAfter: a node that registers when the last advertisement to it is older than the longest interval has one planned at
// random, as a new one (RFC 6275 10.6.2).
func TestBoundLongAfter(t *testing.T) {
	spec.Covers(t, "RFC6275-10.6.2")
	p := newPostman(t, 0)
	p.s.Solicited(p.now, home, Owed{ID: 1})
	p.now.Boot += day + time.Hour
	p.s.Bound(p.now, home)
	if at := p.s.byHome[home].at - p.now.Boot; at != 600*time.Second {
		t.Errorf("planned in %v", at)
	}
}
