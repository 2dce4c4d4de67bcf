package uml

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"kedge/internal/ipsec"
	"kedge/internal/spec"
	"kedge/internal/system/netns"
	"kedge/wire/ip"
)

// spiToAgent and spiToNode are of what the home agent and the mobile node get.
const spiToAgent, spiToNode = 0x1001, 0x1002

// protected are states and policies of Binding Updates from a home address and of their answers: ESP in transport mode inside of the Home
// Address option and the type 2 routing header (RFC 3776 3.1, 4.2). ours says which of the keys is for what the home agent gets.
func (s *site) protected(mobile bool, k keyed, agent, home, careOf netip.Addr) {
	s.Helper()
	bu, ba := "out", "in"
	if !mobile {
		bu, ba = ba, bu
	}
	const window = "replay-window 32"
	s.ip(fmt.Sprintf("xfrm state add src %v dst %v proto hao mode ro coa %v", home, agent, careOf),
		fmt.Sprintf("xfrm state add src %v dst %v proto route2 mode ro coa %v", agent, home, careOf),
		fmt.Sprintf("xfrm state add src %v dst %v proto esp spi %#x mode transport %s %s", home, agent, spiToAgent, window, k.algorithms(mobile)),
		fmt.Sprintf("xfrm state add src %v dst %v proto esp spi %#x mode transport %s %s", agent, home, spiToNode, window, k.algorithms(!mobile)),
		fmt.Sprintf("xfrm policy add src %v/128 dst %v/128 proto 135 type 5 dir %s tmpl src %v dst %v proto esp mode transport level required tmpl proto hao mode ro level required",
			home, agent, bu, home, agent),
		fmt.Sprintf("xfrm policy add src %v/128 dst %v/128 proto 135 type 6 dir %s tmpl src %v dst %v proto esp mode transport level required tmpl proto route2 mode ro level required",
			agent, home, ba, agent, home))
}

// suites are those that static keys may have.
var suites = []ipsec.Suite{"aes128-sha256", "aes256-sha384", "aes256-sha512", "null-sha256", "aes128-sha1"}

var espModules = []string{"xfrm_user", "mip6", "esp6", "ip6_tunnel", "cbc", "hmac", "authenc", "sha1_generic", "sha512_generic", "crypto_null", "echainiv", "drbg"}

// TestUpdatesOfGuest: the ESP of this kernel's Binding Updates is opened by our home agent, and its own opens our answers; then its tunnel carries
// data. What is repeated or altered on the way counts at either end and does nothing.
func TestUpdatesOfGuest(t *testing.T) {
	t.Parallel()
	spec.Covers(t, "S004-2.2.1-06", "S004-2.2.1-11", "S004-4-02")
	s := newSite(t, espModules...)
	s.tunnelled()
	far := newSpace(t)
	netns.TestVeth(t, netns.End{NS: s.edge, Name: "net0", MTU: wireMTU}, netns.End{NS: far, Name: "eth0", MTU: wireMTU})
	netns.Must(t, s.edge.Sysctl("net.ipv6.conf.all.forwarding", "1"))
	s.at(s.edge, fmt.Sprintf("addr add %v/64 dev eth0 nodad", lmaa6), "addr add 2001:db8:c::1/64 dev net0 nodad")
	s.at(far, fmt.Sprintf("addr add %v/64 dev eth0 nodad", cn6), "route add ::/0 via 2001:db8:c::1")
	s.ip(fmt.Sprintf("addr add %v/64 dev vec0 nodad", coa6), fmt.Sprintf("addr add %v/128 dev lo nodad home", hoa6))
	s.ip(tunnels[1].lines(false)...)
	s.ip(fmt.Sprintf("route add %v dev t0 src %v", cn6, hoa6))
	cn := side{"correspondent", far}
	s.echoes(cn, cn6)
	s.echoes(guestSide, hoa6)
	r := s.record()
	for _, suite := range suites {
		t.Run(string(suite), func(t *testing.T) {
			s, dir := s.on(t), t.TempDir()
			k := newKeys(t, dir, "guest", suite)
			d := s.daemon(dir, "ha1", fmt.Sprintf(`
security: { peers: [ { name: guest, esp: { spi-in: %#x, spi-out: %#x, suite: %s, key-file: %s } } ] }
anchor:
  addresses: ["%v"]
  pools: [ { name: home6, prefix: "2001:db8:1000::/48" } ]
  home-link: { dad-transmits: 0 }
  services: { dsmip6: {} }
  subscribers: { list: [ { id: guest@example.net, hoa: "%v/64", peer: guest, v4: none } ] }
`, spiToAgent, spiToNode, suite, k.File, lmaa6, hoa6))
			t.Cleanup(func() { s.ip("xfrm state flush", "xfrm policy flush") })
			s.protected(true, k, lmaa6, hoa6, coa6)
			before := s.refused()
			s.update(1, "400s", "status 0 sequence 1 lifetime 6m40s")
			d.Bound("active", coa6)
			s.talk(guestSide, cn6, 1<<18, "1000", "4000")
			s.talk(cn, hoa6, 1<<18, "1000", "4000")
			s.update(1, "400s", "status 135 sequence 1 lifetime 0s") // not newer, RFC 6275 9.5.1
			s.update(2, "400s", "status 0 sequence 2 lifetime 6m40s")

			bu, ba := r.last(coa6, lmaa6, ip.DstOpts), r.last(lmaa6, coa6, ip.Routing)
			for _, f := range [][]byte{bu, altered(bu)} {
				netns.Must(t, r.out.Write(f))
			}
			for _, f := range [][]byte{ba, altered(ba)} {
				netns.Must(t, r.in.Write(f))
			}
			s.until(func() error {
				if a := d.Association(spi(spiToAgent)); a.Packets != 3 || a.BadICV != 1 || a.Replayed != 1 {
					return fmt.Errorf("our association is %+v, want 3 packets, one replayed and one altered", a)
				}
				return nil
			})
			s.until(func() error { return before.and(s.refused(), "XfrmInStateSeqError", "XfrmInStateProtoError") })
			if b := d.Bound("active", coa6); b.CareOf != coa6 {
				t.Errorf("%+v", b)
			}
			s.update(3, "0s", "status 0 sequence 3 lifetime 0s")
			d.Bound("deprecated", netip.Addr{})
			if err := before.and(s.refused(), "XfrmInStateSeqError", "XfrmInStateProtoError"); err != nil {
				t.Error(err)
			}
		})
	}
}

// update has the guest send a Binding Update and wants the answer.
func (s *site) update(sequence int, lifetime, want string) {
	s.Helper()
	out, err := s.tool(guestSide, "update", hoa6.String(), lmaa6.String(), coa6.String(), fmt.Sprint(sequence), lifetime)
	if err != nil || strings.TrimSpace(out) != want {
		s.Errorf("update %d: %q, %v; want %q", sequence, out, err, want)
	}
}

// refusals are the kernel's counters of what its xfrm refused, by name.
type refusals map[string]int

func (s *site) refused() refusals {
	s.Helper()
	out, err := s.g.Run(context.WithoutCancel(s.Context()), "cat", "/proc/net/xfrm_stat")
	netns.Must(s, err)
	r := refusals{}
	for line := range strings.Lines(out) {
		name, n := "", 0
		if _, err := fmt.Sscan(line, &name, &n); err != nil {
			s.Fatalf("xfrm_stat: %q", line)
		}
		r[name] = n
	}
	return r
}

// and says what differs from these counters and one more of each name.
func (r refusals) and(now refusals, names ...string) error {
	for name, n := range now {
		want := r[name]
		if slices.Contains(names, name) {
			want++
		}
		if n != want {
			return fmt.Errorf("the guest's %s is %d, want %d", name, n, want)
		}
	}
	return nil
}
