package node

import (
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"kedge/internal/core"
	"kedge/internal/spec"
	"kedge/wire/mobility"
	"kedge/wire/nd"
)

var (
	oldPrefix = netip.MustParsePrefix("2001:db8:2000::/64")
	newPrefix = netip.MustParsePrefix("2001:db8:2001::/64")
	newHoA    = netip.MustParseAddr("2001:db8:2001::5")
)

// homeNet is the home network of a rig: a home agent that has a binding for each home address, and advertises prefixes.
type homeNet struct {
	r       *rig
	per     map[netip.Addr]*agent
	refuse  map[netip.Addr]mobility.Status
	options nd.Options
	asked   []time.Duration
	by      []core.Path
	ids     []uint16
	mute    bool
}

func info(p netip.Prefix, preferred, valid uint32) *nd.PrefixInformation {
	return &nd.PrefixInformation{Prefix: p, OnLink: true, Autonomous: true, Preferred: preferred, Valid: valid}
}

// renumbering is a node that is away, at a home agent that knows its home addresses on two prefixes.
func renumbering(t *testing.T, change func(*Config)) (*rig, *netw, *homeNet) {
	t.Helper()
	r := newRig(t, func(c *Config) {
		c.Home.IPv4, c.Home.V4 = IPv4None, netip.Prefix{}
		c.Home.Prefixes = []netip.Prefix{newPrefix}
		if change != nil {
			change(c)
		}
	})
	h := &homeNet{r: r, per: map[netip.Addr]*agent{hoa6: {r: r}, newHoA: {r: r}}, refuse: map[netip.Addr]mobility.Status{}}
	r.agent.other = func(n *netw, seen seenAt, f framing, s core.Send) bool {
		home := s.Path.Local.Addr()
		if s.Path.Own.IsValid() {
			home = s.Path.Own
		}
		if m, ok := s.Body.(*nd.MobilePrefixSolicitation); ok {
			h.asked, h.by, h.ids = append(h.asked, r.elapsed()), append(h.by, s.Path), append(h.ids, m.ID)
			if !h.mute {
				h.advertise(n, seen, f, s.Path, m.ID)
			}
			return true
		}
		g := h.per[home]
		g.status = h.refuse[home]
		g.take(n, seen, f, s)
		return true
	}
	n := r.net(1, "2001:db8:c1::9")
	r.show(n)
	r.run(sec)
	r.wantState(active)
	return r, n, h
}

func (h *homeNet) advertise(n *netw, seen seenAt, f framing, path core.Path, id uint16) {
	path.Auth = core.Auth{Kind: "esp", Peer: "ha1"}
	h.r.deliver(n, seen, f, path, &nd.MobilePrefixAdvertisement{ID: id, Options: h.options})
}

// tell sends an advertisement that nobody asked for.
func (h *homeNet) tell(n *netw) {
	h.advertise(n, seenAt{}, inIPv6, core.Path{If: 1, Local: addrPort(n.care.Addr), Remote: addrPort(ha6), Own: h.r.m.hoa()}, 0)
}

// address is a home address on the tunnel's device, as it was set; "" = it is not there.
func (r *rig) address(a netip.Addr) string {
	op, ok := r.host[name(&core.HostOp{Kind: "address", Prefix: host(a), Name: DefaultDevice})]
	if !ok {
		return ""
	}
	return "set " + op.Value
}

// keyed says whether the data plane has a home address in the session.
func (r *rig) keyed(a netip.Addr) bool { return slices.Contains(r.m.session.keys, host(a)) }

// TestRenumbering: an unsolicited advertisement is answered by a solicitation, and its answer deprecates the prefix. The new home
// address is registered beside the old one, preferred when that is acknowledged, and the old one lives on until it is not valid.
func TestRenumbering(t *testing.T) {
	spec.Covers(t, "RFC6275-11.4.2", "RFC6275-11.4.3")
	r, n, h := renumbering(t, nil)
	h.options = nd.Options{info(oldPrefix, 0, 100), info(newPrefix, 1000, 4000)}
	begun := r.elapsed()
	r.forget()
	h.tell(n)
	r.run(10 * ms)
	r.run(20 * ms)
	if len(h.asked) != 1 || h.by[0].Own != hoa6 || h.by[0].Local.Addr() != n.care.Addr || h.by[0].Auth != (core.Auth{Kind: "esp", Peer: "ha1"}) {
		t.Fatalf("asked at %v by %+v", h.asked, h.by)
	}
	// Not preferred yet: the new one is there, but nothing takes it.
	if r.m.hoa() != hoa6 || r.address(newHoA) != "set nodad deprecated" || r.address(hoa6) != "set nodad" || r.keyed(newHoA) {
		t.Errorf("%v, %q, %q", r.m.hoa(), r.address(newHoA), r.address(hoa6))
	}
	us, at := r.updates()
	if len(us) != 1 || us[0].Path.Own != newHoA || at[0]-begun != 30*ms {
		t.Fatalf("%d Binding Updates at %v", len(us), at)
	}
	r.run(20 * ms)
	r.wantState(active)
	if r.m.hoa() != newHoA || r.address(newHoA) != "set nodad" || r.address(hoa6) != "set nodad deprecated" || !r.keyed(newHoA) || !r.keyed(hoa6) {
		t.Errorf("%v, %q, %q, keys %v", r.m.hoa(), r.address(newHoA), r.address(hoa6), r.m.session.keys)
	}
	if id := r.m.session.id; id != 1 || slices.ContainsFunc(r.ops, func(o core.Op) bool { _, ok := o.(core.Drop); return ok }) {
		t.Errorf("session %d, %+v", id, r.ops)
	}
	if !slices.ContainsFunc(r.emits, func(e core.Emit) bool {
		return e.Name == "home-address" && e.From == hoa6.String() && e.To == newHoA.String()
	}) {
		t.Error("nobody was told")
	}
	for _, a := range []netip.Addr{hoa6, newHoA} {
		if _, ok := r.host[name(&core.HostOp{Kind: "rule", Prefix: host(a), Table: DefaultTable, Value: "priority 10690"})]; !ok {
			t.Errorf("no rule from %v", a)
		}
	}
	if !strings.Contains(r.notes(), "other home address "+hoa6.String()+": preferred 0s, valid 1m40s") {
		t.Error(r.notes())
	}
	// A move takes both along.
	m := r.net(2, "2001:db8:c2::9")
	r.show(m)
	r.run(60 * ms)
	for a, g := range h.per {
		if g.net != m {
			t.Errorf("%v is still bound to %v", a, g.net.care.Addr)
		}
	}
	if !r.keyed(hoa6) || !r.keyed(newHoA) {
		t.Errorf("keys %v", r.m.session.keys)
	}
	// The binding of the old one never outlives its prefix (RFC 6275 11.4.2).
	if end := h.per[hoa6].expires - begin; end > begun+30*ms+101*sec {
		t.Errorf("bound until %v", end)
	}
	r.run(101 * sec)
	r.wantState(active)
	if r.address(hoa6) != "" || r.keyed(hoa6) || !r.keyed(newHoA) || r.m.path.dead {
		t.Errorf("the old one is still there: %q, %v", r.address(hoa6), r.m.session.keys)
	}
}

// TestRenumberedWhileRefreshed: bindings of both are refreshed, and the echoes of the tunnel come from the new one.
func TestRenumberedWhileRefreshed(t *testing.T) {
	r, n, h := renumbering(t, nil)
	h.options = nd.Options{info(oldPrefix, 0, 7200), info(newPrefix, 1<<32-1, 1<<32-1)}
	h.tell(n)
	r.run(sec)
	r.forget()
	r.run(time.Hour)
	r.wantState(active)
	got := map[netip.Addr]int{}
	us, _ := r.updates()
	for _, u := range us {
		got[u.Path.Own]++
	}
	if got[hoa6] < 7 || got[hoa6] > 9 || got[newHoA] < 7 || got[newHoA] > 9 {
		t.Errorf("refreshed %v", got)
	}
	if !h.per[hoa6].bound() || !h.per[newHoA].bound() {
		t.Error("a binding has ended")
	}
}

// TestRenumberingRefused: a new home address that the home agent does not know changes nothing.
func TestRenumberingRefused(t *testing.T) {
	r, n, h := renumbering(t, nil)
	h.refuse[newHoA] = mobility.NotHomeAgent
	h.options = nd.Options{info(oldPrefix, 0, 7000), info(newPrefix, 7000, 7000)}
	h.tell(n)
	r.run(time.Minute)
	r.wantState(active)
	if r.m.hoa() != hoa6 || r.address(newHoA) != "" || r.address(hoa6) != "set nodad" {
		t.Errorf("%v, %q", r.m.hoa(), r.address(newHoA))
	}
	if us, _ := r.updates(); len(us) > 3 {
		t.Errorf("%d Binding Updates", len(us))
	}
}

// TestRenumberingLost: the acknowledgement of the new home address is lost; it is repeated, and nothing is disturbed.
func TestRenumberingLost(t *testing.T) {
	r, n, h := renumbering(t, nil)
	h.options = nd.Options{info(oldPrefix, 0, 7000), info(newPrefix, 7000, 7000)}
	h.per[newHoA].mute = true
	r.forget()
	h.tell(n)
	r.run(5 * sec)
	if us, at := r.updates(); len(us) != 3 || at[1]-at[0] != 1500*ms || at[2]-at[1] != 3*sec || r.m.hoa() != hoa6 {
		t.Errorf("%d at %v", len(us), at)
	}
	h.per[newHoA].mute = false
	r.run(10 * sec)
	if r.wantState(active); r.m.hoa() != newHoA {
		t.Errorf("%v", r.m.hoa())
	}
}

// TestPrefixNotNamed: a prefix of the home network that the config does not name is a note.
func TestPrefixNotNamed(t *testing.T) {
	r, n, h := renumbering(t, func(c *Config) { c.Home.Prefixes = nil })
	h.options = nd.Options{info(oldPrefix, 0, 7000), info(newPrefix, 7000, 7000)}
	h.tell(n)
	r.run(sec)
	h.tell(n)
	r.run(10 * sec)
	warned := 0
	for _, e := range r.emits {
		if e.Name == "warning" {
			warned++
		}
	}
	if r.m.hoa() != hoa6 || warned != 1 || !strings.Contains(r.notes(), newPrefix.String()+", which node.home.prefixes does not name") {
		t.Errorf("warned %d times: %s", warned, r.notes())
	}
}

// TestForgedAdvertisements: from another address, without protection, without a routing header, for another home address, at a time
// when nobody asked.
func TestForgedAdvertisements(t *testing.T) {
	spec.Covers(t, "RFC6275-11.4.3")
	r, n, h := renumbering(t, nil)
	h.mute = true
	r.m.prefixes.Ask(r.now.Boot)
	r.run(20 * ms)
	if len(h.ids) != 1 {
		t.Fatal("not asked")
	}
	good := core.Path{If: 1, Local: addrPort(n.care.Addr), Remote: addrPort(ha6), Own: hoa6, Auth: core.Auth{Kind: "esp", Peer: "ha1"}}
	a := &nd.MobilePrefixAdvertisement{ID: h.ids[0], Options: nd.Options{info(oldPrefix, 0, 0), info(newPrefix, 100, 100)}}
	for what, change := range map[string]func(*core.Path){
		"source":         func(p *core.Path) { p.Remote = addrPort(haA) },
		"unprotected":    func(p *core.Path) { p.Auth = core.Auth{Kind: "none"} },
		"another peer":   func(p *core.Path) { p.Auth.Peer = "ha2" },
		"routing header": func(p *core.Path) { p.Own = netip.Addr{} },
		"home address":   func(p *core.Path) { p.Own = newHoA },
	} {
		p := good
		change(&p)
		r.handle(core.Message{Path: p, Body: a})
		if x, _ := r.m.prefixes.Find(hoa6); x.Valid != never || len(r.m.also) > 0 {
			t.Errorf("%s: %+v", what, x)
		}
	}
	r.handle(core.Message{Path: good, Body: a})
	if x, _ := r.m.prefixes.Find(newHoA); x.Valid == 0 {
		t.Error("the good one is not taken")
	}
}

// TestSolicitationInIPv4: IPv6 in IPv4, from the home address with the option, protected; or not at all.
func TestSolicitationInIPv4(t *testing.T) {
	spec.Covers(t, "S004-2.1-02", "S004-2.1-03", "RFC5555-2.2")
	for _, protection := range []string{"esp", "none"} {
		r, _, h := renumbering(t, func(c *Config) { c.Anchor.Protection = protection })
		n := r.net(2, "192.0.2.7")
		r.show(n)
		r.run(sec)
		r.wantState(active)
		r.m.prefixes.Ask(r.now.Boot)
		r.run(20 * ms)
		if protection == "none" {
			if len(h.asked) > 0 {
				t.Errorf("asked without an association: %+v", h.by)
			}
			continue
		}
		want := core.Path{Local: addrPort(hoa6), Own: hoa6, Remote: addrPort(ha6), Outer: r.m.chain(n.care.Addr, inIPv4), Auth: core.Auth{Kind: "esp", Peer: "ha1"}}
		if len(h.by) != 1 || h.by[0] != want {
			t.Errorf("asked by %+v, want %+v", h.by, want)
		}
	}
}

// TestDiscoveryNecessary: status 1 of an acknowledgement is a reason to ask.
func TestDiscoveryNecessary(t *testing.T) {
	spec.Covers(t, "RFC6275-11.7.3")
	r, n, h := renumbering(t, nil)
	h.refuse[hoa6] = mobility.AcceptedPrefixDiscovery
	h.options = nd.Options{info(oldPrefix, 100, 200)}
	r.show(r.net(2, "2001:db8:c2::9"), n)
	r.m.requested("test")
	r.run(sec)
	if len(h.asked) != 1 {
		t.Errorf("asked at %v: %s", h.asked, r.story())
	}
	// From then on it asks before the lifetime is over.
	r.run(89 * sec)
	if len(h.asked) < 2 {
		t.Errorf("asked at %v", h.asked)
	}
}

// TestHomePrefixEnds: when nothing takes its place the home address is given up, and the node waits for somebody who knows.
func TestHomePrefixEnds(t *testing.T) {
	spec.Covers(t, "RFC6275-11.4.2")
	r, n, h := renumbering(t, nil)
	h.options = nd.Options{info(oldPrefix, 50, 100)}
	h.tell(n)
	r.run(sec)
	h.mute = true
	r.run(110 * sec)
	r.wantState(refused)
	if r.m.bound() || len(r.m.session.keys) > 0 {
		t.Errorf("%+v", r.m.session)
	}
	r.forget()
	r.run(time.Hour)
	if us, _ := r.updates(); len(us) > 0 {
		t.Errorf("%d Binding Updates for an address that is not valid", len(us))
	}
	if _, err := r.command(core.Roam{}); err != nil {
		t.Fatal(err)
	}
	r.run(sec)
	if r.wantState(active); r.m.hoa() != hoa6 {
		t.Errorf("%v", r.m.hoa())
	}
}

// TestRenumberingRemembered: another run has the same home addresses, in the same tunnel.
func TestRenumberingRemembered(t *testing.T) {
	r, n, h := renumbering(t, nil)
	h.options = nd.Options{info(oldPrefix, 0, 7000), info(newPrefix, 70000, 1<<32-1)}
	h.tell(n)
	r.run(10 * sec)
	cfg, chain := r.m.cfg, r.m.session.chain
	r.forget()
	r.boot(cfg)
	if r.m.hoa() != newHoA || len(r.m.also) != 1 || r.m.session.chain != chain || !r.keyed(newHoA) || !r.keyed(hoa6) {
		t.Fatalf("%v, %v, keys %v", r.m.hoa(), r.m.also, r.m.session.keys)
	}
	if r.address(newHoA) != "set nodad" || r.address(hoa6) != "set nodad deprecated" {
		t.Errorf("%q, %q", r.address(newHoA), r.address(hoa6))
	}
	r.show(n)
	r.run(10 * sec)
	if r.wantState(active); !h.per[hoa6].bound() || !h.per[newHoA].bound() {
		t.Error("not registered")
	}
	if x, _ := r.m.prefixes.Find(hoa6); x.Valid == never || x.Preferred > r.now.Boot {
		t.Errorf("%+v", x)
	}
	// Who writes the new one into the config begins with it.
	cfg.Home.V6, cfg.Home.Prefixes = netip.PrefixFrom(newHoA, 64), nil
	r.boot(cfg)
	if r.m.hoa() != newHoA || len(r.m.also) != 0 {
		t.Errorf("%v, %v", r.m.hoa(), r.m.also)
	}
}

// TestIPv4StaysWhereItIs: the IPv4 home address goes with the IPv6 one that it was given with, then with the one that is left.
func TestIPv4StaysWhereItIs(t *testing.T) {
	r, n, h := renumbering(t, func(c *Config) { c.Home.IPv4, c.Home.V4 = IPv4Static, netip.PrefixFrom(hoa4, 16) })
	h.options = nd.Options{info(oldPrefix, 0, 100), info(newPrefix, 1<<32-1, 1<<32-1)}
	h.tell(n)
	r.run(10 * sec)
	if !r.keyed(hoa4) || h.per[hoa6].ipv4 != hoa4 || h.per[newHoA].ipv4.IsValid() {
		t.Errorf("keys %v, %v and %v", r.m.session.keys, h.per[hoa6].ipv4, h.per[newHoA].ipv4)
	}
	r.show(r.net(2, "2001:db8:c2::9"))
	r.run(10 * sec)
	if !r.keyed(hoa4) || !h.per[hoa6].bound() {
		t.Errorf("keys %v", r.m.session.keys)
	}
	r.run(110 * sec)
	r.m.requested("test")
	r.run(sec)
	if !r.keyed(hoa4) || h.per[newHoA].ipv4 != hoa4 {
		t.Errorf("keys %v, %v: %s", r.m.session.keys, h.per[newHoA].ipv4, r.story())
	}
}

// TestHomeWithTwoAddresses: on the home link both are taken home.
func TestHomeWithTwoAddresses(t *testing.T) {
	r, n, h := renumbering(t, nil)
	h.options = nd.Options{info(oldPrefix, 0, 7000), info(newPrefix, 7000, 7000)}
	h.tell(n)
	r.run(10 * sec)
	at := r.net(3, newHoA.String())
	at.care.Home = true
	r.show(at)
	r.run(sec)
	r.wantState(home)
	last := r.links.claims[len(r.links.claims)-1]
	if !strings.Contains(last, newHoA.String()) || !strings.Contains(last, hoa6.String()) {
		t.Errorf("claimed %s", last)
	}
	if h.per[newHoA].bound() || h.per[hoa6].bound() {
		t.Error("a binding is left at the home agent, which goes on defending the address")
	}
}

// TestStopWithTwoAddresses: both bindings end.
func TestStopWithTwoAddresses(t *testing.T) {
	r, n, h := renumbering(t, nil)
	h.options = nd.Options{info(oldPrefix, 0, 7000), info(newPrefix, 7000, 7000)}
	h.tell(n)
	r.run(10 * sec)
	r.handle(core.Command{Ref: 5, Body: core.Stop{}})
	r.run(sec)
	r.wantState(stopped)
	if h.per[newHoA].bound() || h.per[hoa6].bound() || len(r.host) > 1 { // the device stays
		t.Errorf("left: %v", r.host)
	}
}
