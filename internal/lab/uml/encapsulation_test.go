package uml

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"kedge/internal/core"
	"kedge/internal/dataplane/user"
	"kedge/internal/spec"
	"kedge/internal/system/netns"
)

// tunnel is one way to carry packets: our chain and the devices of the guest.
type tunnel struct {
	name string
	// layers are those of the mobile node, innermost first; the home agent's have the ends exchanged.
	layers []core.Layer
	// devices make them in the guest, between LOCAL6 and REMOTE6, LOCAL4 and REMOTE4; KEYIN and KEYOUT are keys as the guest sees them.
	devices []string
	// four and six are the devices that carry IPv4 and IPv6; "" = that family does not go this way.
	four, six string
}

var (
	over6 = core.Layer{Local: ap(coa6), Remote: ap(lmaa6)}
	over4 = core.Layer{Local: ap(coa4), Remote: ap(lmaa4)}
)

func gre(l core.Layer, up, down uint32) core.Layer {
	l.GRE, l.KeyUp, l.KeyDown = true, up, down
	return l
}

var tunnels = []tunnel{
	{"IPv6 with a tunnel encapsulation limit", []core.Layer{over6},
		[]string{"link add t0 type ip6tnl mode any local LOCAL6 remote REMOTE6 encaplimit 4 tclass inherit"}, "t0", "t0"},
	{"IPv6", []core.Layer{over6},
		[]string{"link add t0 type ip6tnl mode any local LOCAL6 remote REMOTE6 encaplimit none tclass inherit"}, "t0", "t0"},
	{"IPv4, sit and ipip", []core.Layer{over4},
		[]string{"link add t0 type sit local LOCAL4 remote REMOTE4 tos inherit ttl 64", "link add t1 type ipip local LOCAL4 remote REMOTE4 tos inherit ttl 64"}, "t1", "t0"},
	{"IPv4, sit of both", []core.Layer{over4},
		[]string{"link add t0 type sit mode any local LOCAL4 remote REMOTE4 tos inherit ttl 64"}, "t0", "t0"},
	{"GRE over IPv6", []core.Layer{gre(over6, 0, 0)},
		[]string{"link add t0 type ip6gre local LOCAL6 remote REMOTE6 encaplimit none tclass inherit"}, "t0", "t0"},
	{"GRE with keys over IPv6", []core.Layer{gre(over6, 0xfedc0001, 7)},
		[]string{"link add t0 type ip6gre local LOCAL6 remote REMOTE6 encaplimit none tclass inherit ikey KEYIN okey KEYOUT"}, "t0", "t0"},
	{"GRE over IPv4", []core.Layer{gre(over4, 0, 0)},
		[]string{"link add t0 type gre local LOCAL4 remote REMOTE4 tos inherit ttl 64"}, "t0", "t0"},
	{"GRE with keys over IPv4", []core.Layer{gre(over4, 0xfedc0001, 7)},
		[]string{"link add t0 type gre local LOCAL4 remote REMOTE4 tos inherit ttl 64 ikey KEYIN okey KEYOUT"}, "t0", "t0"},
	{"IPv6 in IPv4", []core.Layer{over6, over4},
		[]string{"link add u0 type sit local LOCAL4 remote REMOTE4 tos inherit ttl 64", "link set u0 up", "route add REMOTE6 dev u0",
			"link add t0 type ip6tnl mode any local LOCAL6 remote REMOTE6 encaplimit none tclass inherit"}, "t0", "t0"},
}

// lines are the devices from one end; anchor: the guest is the home agent.
func (w tunnel) lines(anchor bool) (out []string) {
	l6, r6, l4, r4 := coa6, lmaa6, coa4, lmaa4
	up, down := w.layers[0].KeyUp, w.layers[0].KeyDown
	if anchor {
		l6, r6, l4, r4, up, down = r6, l6, r4, l4, down, up
	}
	r := strings.NewReplacer("LOCAL6", l6.String(), "REMOTE6", r6.String(), "LOCAL4", l4.String(), "REMOTE4", r4.String(),
		"KEYIN", fmt.Sprint(down), "KEYOUT", fmt.Sprint(up))
	for _, d := range w.devices {
		out = append(out, r.Replace(d))
	}
	for _, d := range w.names() {
		out = append(out, "link set "+d+" mtu "+fmt.Sprint(w.mtu())+" up")
	}
	return out
}

func (w tunnel) names() []string {
	if w.four == w.six {
		return []string{w.six}
	}
	return []string{w.six, w.four}
}

// mtu is what fits into the wire; the guest chooses less where the path is small, and then no IPv6 at all.
func (w tunnel) mtu() (n int) {
	n = wireMTU
	for _, l := range w.layers {
		n -= 20
		if l.Remote.Addr().Is6() {
			n -= 20
		}
		if l.GRE {
			n -= 4
		}
		if l.KeyUp != 0 {
			n -= 4
		}
	}
	if strings.Contains(w.devices[len(w.devices)-1], "encaplimit 4") {
		n -= 8
	}
	return n
}

// downs take the devices away.
func (w tunnel) downs() (out []string) {
	for _, d := range w.devices {
		if f := strings.Fields(d); f[0] == "link" && f[1] == "add" {
			out = append(out, "link del "+f[2])
		}
	}
	return out
}

// chains are that of the mobile node and that of its home agent.
func (w tunnel) chains() (node, anchor core.Chain) {
	node, anchor = chain(w.layers...), chain(w.layers...)
	for i := range w.layers {
		l := &anchor.Layer[i]
		l.Local, l.Remote = l.Remote, l.Local
	}
	return node, anchor
}

// lengths of datagrams: small ones, what just fits or does not, and what its sender cuts into fragments.
var lengths = []string{"1", "1000", "1232", "1400", "1452", "1472", "4000", "20000"}

// tunnelled drops on the first wire what a home address sends or gets outside of a tunnel.
func (s *site) tunnelled() {
	s.Helper()
	rules := ""
	for _, m := range []string{"ip6 saddr 2001:db8:1000::/36", "ip6 daddr 2001:db8:1000::/36", "ip saddr 10.20.0.0/16", "ip daddr 10.20.0.0/16"} {
		rules += "iifname { tap0, " + s.port + " } " + m + " drop; "
	}
	s.nft(s.g.Wire, "table bridge tunnelled { chain f { type filter hook forward priority 0; "+rules+"}; }")
}

// mobileNode is a site whose guest is at the care-of address and has home addresses; the data plane at the home agent is ours, and
// behind it is a correspondent.
func mobileNode(t *testing.T, limit uint8) (s *site, p *user.Plane, cn side) {
	t.Helper()
	s = newSite(t, "ip6_tunnel", "sit", "ipip", "ip_gre", "ip6_gre")
	s.tunnelled()
	far := newSpace(t)
	netns.TestVeth(t, netns.End{NS: s.edge, Name: "net0", MTU: wireMTU}, netns.End{NS: far, Name: "eth0", MTU: wireMTU})
	netns.Must(t, s.edge.Sysctl("net.ipv4.ip_forward", "1"))
	netns.Must(t, s.edge.Sysctl("net.ipv6.conf.all.forwarding", "1"))
	s.at(s.edge, fmt.Sprintf("addr add %v/64 dev eth0 nodad", lmaa6), fmt.Sprintf("addr add %v/24 dev eth0", lmaa4), "addr add 2001:db8:c::1/64 dev net0 nodad", "addr add 203.0.113.1/24 dev net0")
	s.at(far, fmt.Sprintf("addr add %v/64 dev eth0 nodad", cn6), fmt.Sprintf("addr add %v/24 dev eth0", cn4), "route add ::/0 via 2001:db8:c::1", "route add 0.0.0.0/0 via 203.0.113.1")
	s.ip(fmt.Sprintf("addr add %v/64 dev vec0 nodad", coa6), fmt.Sprintf("addr add %v/24 dev vec0", coa4), fmt.Sprintf("addr add %v/128 dev lo nodad", hoa6), fmt.Sprintf("addr add %v/32 dev lo", hoa4))
	p = s.plane(s.edge, user.Config{Role: user.Anchor, Local: []netip.Addr{lmaa6, lmaa4}, EncapsulationLimit: limit})
	s.at(s.edge, "route add 2001:db8:1000::/36 dev "+p.Device(), "route add 10.20.0.0/16 dev "+p.Device())
	cn = side{"correspondent", far}
	s.echoes(cn, cn6, cn4)
	s.echoes(guestSide, hoa6, hoa4)
	return s, p, cn
}

// homeAgent is a site whose guest is the home agent, and the correspondent as well; our data plane is the mobile node's.
func homeAgent(t *testing.T, limit uint8) (s *site, p *user.Plane, app side) {
	t.Helper()
	s = newSite(t, "ip6_tunnel", "sit", "ipip", "ip_gre", "ip6_gre")
	s.tunnelled()
	s.ip(fmt.Sprintf("addr add %v/64 dev vec0 nodad", lmaa6), fmt.Sprintf("addr add %v/24 dev vec0", lmaa4), fmt.Sprintf("addr add %v/128 dev lo nodad", cn6), fmt.Sprintf("addr add %v/32 dev lo", cn4))
	s.at(s.edge, fmt.Sprintf("addr add %v/64 dev eth0 nodad", coa6), fmt.Sprintf("addr add %v/24 dev eth0", coa4))
	p = s.plane(s.edge, user.Config{Role: user.Node, DeviceMTU: wireMTU, EncapsulationLimit: limit})
	d := p.Device()
	s.at(s.edge, fmt.Sprintf("addr add %v/128 dev %s nodad", hoa6, d), fmt.Sprintf("addr add %v/32 dev %s", hoa4, d),
		fmt.Sprintf("route add 2001:db8:c::/64 dev %s src %v", d, hoa6), fmt.Sprintf("route add 203.0.113.0/24 dev %s src %v", d, hoa4))
	app = side{"mobile node", s.edge}
	s.echoes(app, hoa6, hoa4)
	s.echoes(guestSide, cn6, cn4)
	return s, p, app
}

func (s *site) echoes(at side, addrs ...netip.Addr) {
	s.Helper()
	for _, a := range addrs {
		s.serve(at, "echo", a.String(), port)
	}
}

// tunnel puts both ends into one encapsulation, until the test ends: the session of the plane, and devices and routes of the guest.
func (s *site) tunnel(p *user.Plane, w tunnel, anchor bool) {
	s.Helper()
	chain, top := w.chains()
	match := func(a netip.Addr) core.Match { return core.Match{Src: single(a)} }
	if !anchor {
		chain, match = top, func(a netip.Addr) core.Match { return core.Match{Dst: single(a)} }
	}
	ops := []core.Op{core.SetSession{ID: 1, Chain: chain}}
	for _, a := range []netip.Addr{hoa6, hoa4} {
		ops = append(ops, core.SetKey{ID: 1, Match: match(a), Up: true, Down: true})
	}
	netns.Must(s, s.edge.Do(func() error { return p.Update(ops) }))
	s.ip(w.lines(anchor)...)
	s.Cleanup(func() { s.ip(w.downs()...) })
	if anchor {
		s.ip(fmt.Sprintf("route add %v dev %s src %v", hoa6, w.six, cn6), fmt.Sprintf("route add %v dev %s src %v", hoa4, w.four, cn4))
	} else {
		s.ip(fmt.Sprintf("route add 2001:db8:c::/64 dev %s src %v", w.six, hoa6), fmt.Sprintf("route add 203.0.113.0/24 dev %s src %v", w.four, hoa4))
	}
	s.drops(p)
}

// on is the same site for a part of the test.
func (s *site) on(t *testing.T) *site {
	c := *s
	c.T = t
	return &c
}

// TestGuestAsMobileNode: a Linux kernel at the care-of address, our data plane at the home agent, in every plain encapsulation that both have.
func TestGuestAsMobileNode(t *testing.T) {
	t.Parallel()
	spec.Covers(t, "S004-1-01")
	s, p, cn := mobileNode(t, 4)
	for _, w := range tunnels {
		t.Run(w.name, func(t *testing.T) {
			s := s.on(t)
			s.tunnel(p, w, false)
			s.talk(guestSide, cn6, 1<<20, lengths...)
			s.talk(guestSide, cn4, 1<<20, lengths...)
			s.talk(cn, hoa6, 1<<20, lengths...)
			s.talk(cn, hoa4, 1<<20, lengths...)
			s.classes(cn, hoa6, hoa4)
		})
	}
}

// TestGuestAsHomeAgent: our data plane is the mobile node's, and a Linux kernel the other end.
func TestGuestAsHomeAgent(t *testing.T) {
	t.Parallel()
	spec.Covers(t, "S004-1-01")
	s, p, app := homeAgent(t, 4)
	for _, w := range tunnels {
		t.Run(w.name, func(t *testing.T) {
			s := s.on(t)
			s.tunnel(p, w, true)
			s.talk(app, cn6, 1<<20, lengths...)
			s.talk(app, cn4, 1<<20, lengths...)
			s.talk(guestSide, hoa6, 1<<20, lengths...)
			s.talk(guestSide, hoa4, 1<<20, lengths...)
			s.classes(app, cn6, cn4)
		})
	}
}

// classes sends traffic classes from a namespace through the tunnel to addresses of the guest: they arrive as they were sent; where
// a router on the way says that there is congestion, who can hear it hears it, and the packets of those who cannot are lost (RFC 6040 4.2).
func (s *site) classes(from side, to ...netip.Addr) {
	s.Helper()
	class := func(a netip.Addr, sent, want string) {
		s.Helper()
		if _, err := s.tool(from, "udp", a.String(), port, sent, want, "500"); err != nil {
			s.Errorf("traffic class %s to %v, wanted %s: %v", sent, a, want, err)
		}
	}
	for _, a := range to {
		class(a, "0xb8", "0xb8")
		class(a, "0x2a", "0x2a")
	}
	s.nft(s.g.Wire, "table bridge congested { chain f { type filter hook forward priority 10; oifname tap0 ip6 ecn set ce; oifname tap0 ip ecn set ce; }; }")
	defer s.nft(s.g.Wire, "delete table bridge congested")
	for _, a := range to {
		class(a, "0x2a", "0x2b")
	}
	class(to[0], "0x28", "lost")
}

// TestSmallPath: where the path takes 1,280 octets, what hosts may always send is cut outside of the tunnel by ours (RFC 2473 7.1, RFC 4213 3.2) and
// put together by the guest; over IPv4 the guest does so too. Its ip6_tunnel and ip6_gre do not: they lose such packets, which
// is written down in docs/interop.md, so its way into IPv6 is left at 1,500.
func TestSmallPath(t *testing.T) {
	t.Parallel()
	few := []tunnel{tunnels[0], tunnels[2], tunnels[5], tunnels[7]}
	for _, c := range []struct {
		name                 string
		anchor               bool
		site                 func(*testing.T, uint8) (*site, *user.Plane, side)
		there, back, at, far []netip.Addr
	}{
		{"guest as mobile node", false, mobileNode, []netip.Addr{hoa6, hoa4}, []netip.Addr{cn6, cn4}, []netip.Addr{lmaa6, lmaa4}, []netip.Addr{coa6, coa4}},
		{"guest as home agent", true, homeAgent, []netip.Addr{cn6, cn4}, []netip.Addr{hoa6, hoa4}, []netip.Addr{coa6, coa4}, []netip.Addr{lmaa6, lmaa4}},
	} {
		t.Run(c.name, func(t *testing.T) {
			s, p, other := c.site(t, 4)
			small := func(to netip.Addr, dev string) string {
				return fmt.Sprintf("route replace %v/%d dev %s mtu lock 1280", to, to.BitLen(), dev)
			}
			s.at(s.edge, small(c.far[0], "eth0"), small(c.far[1], "eth0"))
			s.ip(small(c.at[1], "vec0"))
			for _, w := range few {
				t.Run(w.name, func(t *testing.T) {
					s := s.on(t)
					s.tunnel(p, w, c.anchor)
					for i := range c.there {
						s.talk(other, c.there[i], 256<<10, lengths...)
						s.talk(guestSide, c.back[i], 256<<10, lengths...)
					}
				})
			}
			t.Run("what the guest does not cut", func(t *testing.T) {
				s := s.on(t)
				s.tunnel(p, tunnels[1], c.anchor)
				s.ip(small(c.at[0], "vec0"))
				if _, err := s.tool(guestSide, "udp", c.back[0].String(), port, "0", "0", "1180"); err != nil {
					t.Error(err)
				}
				if out, err := s.tool(guestSide, "udp", c.back[0].String(), port, "0", "lost", "1232"); err != nil {
					t.Errorf("ip6_tunnel of the guest does what docs/interop.md says that it does not: %v %s", err, out)
				}
			})
		})
	}
}
