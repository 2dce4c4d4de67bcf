package uml

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"kedge/internal/spec"
	"kedge/internal/system/netns"
)

// spiTestsToAgent and spiTestsToNode are of return routability, in tunnel mode.
const spiTestsToAgent, spiTestsToNode = 0x2001, 0x2002

// tests are states and policies of ESP in tunnel mode around the home tests of a home address, between care-of address and home agent
// (RFC 6275 5.2.5, RFC 3776 4.3). An agent forwards them, the mobile node sends and gets them. The type of a message is left out of the selectors
// of what comes in: this kernel finds it only behind exactly one extension header (docs/interop.md), and there is none in the tunnel.
func (s *site) tests(mobile bool, k keyed, agent, home, careOf netip.Addr) {
	s.Helper()
	// Forwarded packets are looked at as they come in by "fwd", and as they leave by "out".
	hoti, hot := "type 1 dir out", "dir in"
	if !mobile {
		hoti, hot = "dir fwd", "dir out"
	}
	s.ip(fmt.Sprintf("xfrm state add src %v dst %v proto esp spi %#x mode tunnel replay-window 32 %s", careOf, agent, spiTestsToAgent, k.algorithms(mobile)),
		fmt.Sprintf("xfrm state add src %v dst %v proto esp spi %#x mode tunnel replay-window 32 %s", agent, careOf, spiTestsToNode, k.algorithms(!mobile)),
		fmt.Sprintf("xfrm policy add src %v/128 dst ::/0 proto 135 %s priority 10 tmpl src %v dst %v proto esp mode tunnel level required", home, hoti, careOf, agent),
		fmt.Sprintf("xfrm policy add src ::/0 dst %v/128 proto 135 %s priority 10 tmpl src %v dst %v proto esp mode tunnel level required", home, hot, agent, careOf))
}

// straight lets nothing of tunnels through any more, and wants two sides to talk all the same.
func (s *site) straight(from side, own, to netip.Addr, back side, backTo netip.Addr) {
	s.Helper()
	s.nft(s.g.Wire, "table bridge straight { chain f { type filter hook forward priority 5; ip6 nexthdr { 41, 50 } drop; }; }")
	defer s.nft(s.g.Wire, "delete table bridge straight")
	s.talkFrom(from, own, to, 1<<20, lengths...)
	s.talk(back, backTo, 1<<20, lengths...)
}

// TestHomeTestsOfGuest: a mobile node whose ESP, Home Address options and routing headers are this kernel's registers with our home agent
// and, by return routability, with our correspondent; then they exchange data without a tunnel.
func TestHomeTestsOfGuest(t *testing.T) {
	t.Parallel()
	spec.Covers(t, "S004-2.3-01")
	s, dir := newSite(t, espModules...), t.TempDir()
	s.tunnelled()
	far := newSpace(t)
	netns.TestVeth(t, netns.End{NS: s.edge, Name: "net0", MTU: wireMTU}, netns.End{NS: far, Name: "eth0", MTU: wireMTU})
	netns.Must(t, s.edge.Sysctl("net.ipv6.conf.all.forwarding", "1"))
	s.at(s.edge, fmt.Sprintf("addr add %v/64 dev eth0 nodad", lmaa6), "addr add 2001:db8:c::1/64 dev net0 nodad")
	s.at(far, fmt.Sprintf("addr add %v/64 dev eth0 nodad", cn6), "route add ::/0 via 2001:db8:c::1")
	s.ip(fmt.Sprintf("addr add %v/64 dev vec0 nodad", coa6), fmt.Sprintf("addr add %v/128 dev lo nodad home", hoa6), fmt.Sprintf("route add ::/0 via %v dev vec0", lmaa6))
	s.ip(tunnels[1].lines(false)...)
	s.ip("route add ::/0 dev t0 table 100")
	_, err := s.g.Run(t.Context(), "ip", "-6", "rule", "add", "from", hoa6.String(), "lookup", "100", "priority", "1000")
	netns.Must(t, err)
	cn := side{"correspondent", far}
	k, rr := newKeys(t, dir, "guest", "aes128-sha256"), newKeys(t, dir, "guest-rr", "aes128-sha256")
	ha := s.daemon(dir, "ha1", fmt.Sprintf(`
security:
  peers:
    - name: guest
      esp:
        { spi-in: %#x, spi-out: %#x, key-file: %s, return-routability: { spi-in: %#x, spi-out: %#x, key-file: %s } }
anchor:
  addresses: ["%v"]
  pools: [ { name: home6, prefix: "2001:db8:1000::/48" } ]
  home-link: { dad-transmits: 0 }
  services: { dsmip6: {} }
  subscribers: { list: [ { id: guest@example.net, hoa: "%v/64", peer: guest, v4: none } ] }
`, spiToAgent, spiToNode, k.File, spiTestsToAgent, spiTestsToNode, rr.File, lmaa6, hoa6))
	peer := s.daemonIn(far, dir, "server", "peer: {}\n")
	s.echoes(cn, cn6)
	s.protected(true, k, lmaa6, hoa6, coa6)
	s.tests(true, rr, lmaa6, hoa6, coa6)
	before := s.refused()
	s.update(1, "400s", "status 0 sequence 1 lifetime 6m40s")
	ha.Bound("active", coa6)
	s.echoes(guestSide, hoa6)
	s.talkFrom(guestSide, hoa6, cn6, 1<<18, "1000")

	s.optimized(hoa6, cn6, coa6)
	s.optimize(1, "400s", "status 0 sequence 1 lifetime 6m40s")
	if b := peer.Bound("active", coa6); len(b.Home) != 1 || b.Home[0].Addr() != hoa6 {
		t.Errorf("%+v", b)
	}
	for _, index := range []uint32{spiTestsToAgent, spiTestsToNode} {
		if a := ha.Association(spi(index)); a.Packets != 1 || a.BadICV != 0 || a.Replayed != 0 {
			t.Errorf("association %#x of the home tests: %+v", index, a)
		}
	}
	s.straight(guestSide, hoa6, cn6, cn, hoa6)
	s.optimize(1, "400s", "status 135 sequence 1 lifetime 0s")
	s.optimize(2, "400s", "status 0 sequence 2 lifetime 6m40s")
	s.optimize(3, "0s", "status 0 sequence 3 lifetime 0s")
	if err := before.and(s.refused()); err != nil {
		t.Error(err)
	}
}

// TestHomeTestsThroughGuest: this kernel is the home agent, and the router of both networks; our mobile node and our correspondent exchange home
// tests through its tunnel and its ESP, and then data without.
func TestHomeTestsThroughGuest(t *testing.T) {
	t.Parallel()
	spec.Covers(t, "S004-2.3-01")
	s, dir := newSiteOf(t, 2, espModules...), t.TempDir()
	s.tunnelled()
	far := newSpace(t)
	_, err := s.g.Connect(1, far, "eth0", wireMTU)
	netns.Must(t, err)
	s.at(far, fmt.Sprintf("addr add %v/64 dev eth0 nodad", cn6), "route add ::/0 via 2001:db8:c::1")
	s.at(s.edge, fmt.Sprintf("addr add %v/64 dev eth0 nodad", coa6), fmt.Sprintf("route add ::/0 via %v", lmaa6))
	netns.Must(t, s.g.Sysctl(t.Context(), "net/ipv6/conf/all/forwarding=1"))
	s.ip(fmt.Sprintf("addr add %v/64 dev vec0 nodad", lmaa6), "link set vec1 up", "addr add 2001:db8:c::1/64 dev vec1 nodad")
	s.ip(tunnels[1].lines(true)...)
	s.ip(fmt.Sprintf("route add %v dev t0", hoa6))
	app, cn := side{"mobile node", s.edge}, side{"correspondent", far}
	k, rr := newKeys(t, dir, "ha1", "aes128-sha256"), newKeys(t, dir, "ha1-rr", "aes256-sha512")
	s.protected(false, k, lmaa6, hoa6, coa6)
	s.tests(false, rr, lmaa6, hoa6, coa6)
	before := s.refused()
	s.serve(guestSide, "agent", lmaa6.String())
	peer := s.daemonIn(far, dir, "server", "peer: {}\n")
	s.echoes(cn, cn6)
	node := s.daemon(dir, "laptop", fmt.Sprintf(`
security:
  peers:
    - name: ha1
      esp:
        { spi-in: %#x, spi-out: %#x, key-file: %s, return-routability: { spi-in: %#x, spi-out: %#x, suite: aes256-sha512, key-file: %s } }
node:
  anchor: { name: ha1, addresses: ["%v"] }
  home: { v6: "%v/64", v4: none }
  links: [ { match: "eth*" } ]
  route-optimization: {}
  timers: { lifetime: 400s }
`, spiToNode, spiToAgent, k.File, spiTestsToNode, spiTestsToAgent, rr.File, lmaa6, hoa6))
	node.Bound("active", coa6)
	s.echoes(app, hoa6)
	s.talk(app, cn6, 1<<18, "1000")
	if b := peer.Bound("active", coa6); len(b.Home) != 1 || b.Home[0].Addr() != hoa6 {
		t.Errorf("%+v", b)
	}
	for _, index := range []uint32{spiTestsToAgent, spiTestsToNode} {
		if a := node.Association(spi(index)); a.Packets == 0 || a.BadICV != 0 || a.Replayed != 0 {
			t.Errorf("association %#x of the home tests: %+v", index, a)
		}
	}
	s.straight(app, hoa6, cn6, cn, hoa6)
	if err := before.and(s.refused()); err != nil {
		t.Error(err)
	}
}

// optimized are states and policies of data between a home address of the guest and a correspondent; those of home tests come first.
func (s *site) optimized(home, peer, careOf netip.Addr) {
	s.Helper()
	s.ip(fmt.Sprintf("xfrm state add src %v dst %v proto hao mode ro coa %v", home, peer, careOf),
		fmt.Sprintf("xfrm state add src %v dst %v proto route2 mode ro coa %v", peer, home, careOf),
		fmt.Sprintf("xfrm policy add src %v/128 dst %v/128 proto 135 type 6 dir in priority 5 tmpl proto route2 mode ro level required", peer, home),
		fmt.Sprintf("xfrm policy add src %v/128 dst %v/128 dir out priority 20 tmpl proto hao mode ro level required", home, peer),
		fmt.Sprintf("xfrm policy add src %v/128 dst %v/128 dir in priority 20 tmpl proto route2 mode ro level use", peer, home))
}

// optimize has the guest register with the correspondent, and wants the answer.
func (s *site) optimize(sequence int, lifetime, want string) {
	s.Helper()
	out, err := s.tool(guestSide, "optimize", hoa6.String(), cn6.String(), coa6.String(), fmt.Sprint(sequence), lifetime)
	if err != nil || strings.TrimSpace(out) != want {
		s.Errorf("correspondent registration %d: %q, %v; want %q", sequence, out, err, want)
	}
}
