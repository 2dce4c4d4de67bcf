package homelist

import (
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"io"
	"net/netip"
	"slices"
	"testing"
	"time"

	"kedge/internal/spec"
	"kedge/wire"
	"kedge/wire/nd"
)

// stream is randomness that is the same in every run.
type stream struct{ n uint64 }

func (s *stream) Read(b []byte) (int, error) {
	s.n++
	h := sha256.Sum256(binary.BigEndian.AppendUint64(nil, s.n))
	return copy(b, h[:]), nil
}

func (r *rig) ask(q nd.HomeAgentAddressDiscoveryRequest) *nd.HomeAgentAddressDiscoveryReply {
	r.t.Helper()
	reply, from, reason := r.m.Discover(r.now, careOf, nd.HomeAgentsAnycast(link), &q)
	if reason != "" || from != own || reply.ID != q.ID {
		r.t.Fatalf("%+v from %v, %v", reply, from, reason)
	}
	r.now.Boot += time.Second
	return reply
}

// TestDiscoverOrder: by preference, and at random among equals; each order comes.
func TestDiscoverOrder(t *testing.T) {
	spec.Covers(t, "RFC6275-10.5.1", "RFC6275-6.6")
	r := newRig(t, &stream{}, func(c *Config) { c.Preference = 5 })
	low := netip.MustParseAddr("2001:db8:1::c")
	a := agent(addrA, 60000, 5)
	a.Options = append(a.Options, &nd.PrefixInformation{Prefix: netip.MustParsePrefix("2001:db8:2::a/64"), RouterAddr: true, Valid: 99999, Preferred: 1})
	r.heard(agentA, a)
	r.heard(agentB, agent(addrB, 60000, 9))
	r.heard(netip.MustParseAddr("fe80::c"), agent(low, 60000, 4))
	orders := map[string]int{}
	for n := range 200 {
		got := r.ask(nd.HomeAgentAddressDiscoveryRequest{ID: uint16(n)}).Addresses
		if len(got) != 5 || got[0] != addrB || got[4] != low {
			t.Fatalf("%v", got)
		}
		orders[fmt.Sprint(got[1:4])]++
	}
	// The agents of preference 5 in both orders, and the addresses of the one that has two in both.
	if len(orders) != 4 {
		t.Errorf("orders %v", orders)
	}
	for o, n := range orders {
		if n < 20 {
			t.Errorf("%s only %d times of 200", o, n)
		}
	}
}

// TestDiscoverMobile is RFC 3963 7.2.
func TestDiscoverMobile(t *testing.T) {
	spec.Covers(t, "RFC3963-7.2")
	r := newRig(t, &stream{}, func(c *Config) { c.Preference = 100 })
	r.heard(agentA, agent(addrA, 60000, 5))
	q := nd.HomeAgentAddressDiscoveryRequest{ID: 1, Mobile: true}
	if got := r.ask(q); got.Mobile || len(got.Addresses) != 2 {
		t.Errorf("nobody serves mobile routers: %+v", got)
	}
	b := agent(addrB, 60000, 1)
	b.Options[1] = nd.HomeAgentInformation{Mobile: true, Preference: 1, Lifetime: 60000}
	r.heard(agentB, b)
	if got := r.ask(q); !got.Mobile || !slices.Equal(got.Addresses, []netip.Addr{addrB}) {
		t.Errorf("one does: %+v", got)
	}
	if got := r.ask(nd.HomeAgentAddressDiscoveryRequest{ID: 2}); got.Mobile || len(got.Addresses) != 3 {
		t.Errorf("for a mobile node: %+v", got)
	}
}

// TestDiscoverSource: a reply comes from a unicast address, that of the subnet that was asked where there is one.
func TestDiscoverSource(t *testing.T) {
	r := newRig(t, constant(0), func(c *Config) { c.Addresses = []netip.Addr{own2, own} })
	for to, want := range map[netip.Addr]netip.Addr{
		own: own, own2: own2, nd.HomeAgentsAnycast(link): own, nd.HomeAgentsAnycast(second): own2,
	} {
		if _, from, reason := r.m.Discover(r.now, careOf, to, &nd.HomeAgentAddressDiscoveryRequest{}); from != want || reason != "" {
			t.Errorf("asked at %v: from %v, want %v, %s", to, from, want, reason)
		}
		r.now.Boot += time.Second
	}
	for _, from := range []string{"fe80::1", "::1", "::", "ff02::1", "::ffff:10.0.0.1"} {
		if _, _, reason := r.m.Discover(r.now, netip.MustParseAddr(from), own, &nd.HomeAgentAddressDiscoveryRequest{}); reason != wire.BadSource {
			t.Errorf("from %s: %q", from, reason)
		}
	}
}

// TestDiscoverFlood: so many are answered in a second, and few of one network; the next second is another one.
func TestDiscoverFlood(t *testing.T) {
	r := newRig(t, constant(0), func(c *Config) { c.Requests = 50 })
	flood := func(nets int) (n int) {
		for i := range 1000 {
			from := netip.MustParseAddr(fmt.Sprintf("2001:db8:f:%x::%x", i%nets, i+1))
			if _, _, reason := r.m.Discover(r.now, from, own, &nd.HomeAgentAddressDiscoveryRequest{}); reason == "" {
				n++
			} else if reason != wire.RateLimit {
				t.Fatal(reason)
			}
		}
		if len(r.m.requests.from) > 50 {
			t.Errorf("remembers %d networks", len(r.m.requests.from))
		}
		return n
	}
	if n := flood(1); n != DiscoveriesPerNetwork {
		t.Errorf("%d answered of one network", n)
	}
	if n := flood(500); n != 50-DiscoveriesPerNetwork {
		t.Errorf("%d answered of many in the same second", n)
	}
	r.now.Boot += time.Second - 1
	if n := flood(500); n != 0 {
		t.Errorf("%d more answered in the same second", n)
	}
	r.now.Boot++
	if n := flood(500); n != 50 {
		t.Errorf("%d answered of many in the next second", n)
	}
}

// TestRetired: an anchor that sends its nodes away is not found while others are.
func TestRetired(t *testing.T) {
	r := newRig(t, constant(0), func(c *Config) { c.Advertise = true; c.Preference = 9 })
	r.sent()
	r.now.Boot += time.Minute
	r.m.Retire(r.now, true)
	if got := r.ask(nd.HomeAgentAddressDiscoveryRequest{}); !slices.Equal(got.Addresses, []netip.Addr{own}) {
		t.Errorf("alone: %+v", got)
	}
	r.heard(agentA, agent(addrA, 60000, 5))
	if got := r.ask(nd.HomeAgentAddressDiscoveryRequest{}); !slices.Equal(got.Addresses, []netip.Addr{addrA}) {
		t.Errorf("with another: %+v", got)
	}
	r.pass(time.Second)
	sent := r.sent()
	if len(sent) == 0 || sent[0].HomeAgent {
		t.Fatalf("advertised %+v", sent)
	}
	if _, ok := sent[0].Options.HomeAgent(); ok {
		t.Error("the option without the H flag")
	}
	r.m.Retire(r.now, false)
	r.pass(3 * time.Second)
	if sent := r.sent(); len(sent) == 0 || !sent[len(sent)-1].HomeAgent {
		t.Errorf("advertised %+v", sent)
	}
}

var _ io.Reader = (*stream)(nil)
