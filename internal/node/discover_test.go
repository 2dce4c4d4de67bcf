package node

import (
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"kedge/internal/core"
	"kedge/internal/node/discovery"
	"kedge/internal/spec"
	"kedge/wire/mobility"
	"kedge/wire/nd"
)

var (
	haA     = netip.MustParseAddr("2001:db8:2000::a")
	haB     = netip.MustParseAddr("2001:db8:2000::b")
	anycast = netip.MustParseAddr("2001:db8:2000::fdff:ffff:ffff:fffe")
)

// discovering is a node with two home agents on its home link, of which it knows no address.
func discovering(t *testing.T, change func(*Config)) (*rig, *netw) {
	t.Helper()
	r := newRig(t, func(c *Config) {
		c.Anchor.V6, c.Anchor.V4, c.Anchor.Discover = netip.Addr{}, netip.Addr{}, true
		c.Home.IPv4, c.Home.V4 = IPv4None, netip.Prefix{}
		c.Anchor.Peers = []Peer{{Name: "ha1", Protection: "esp", Addresses: []netip.Prefix{host(haA)}}, {Name: "ha2", Protection: "esp", Addresses: []netip.Prefix{host(haB)}}}
		if change != nil {
			change(c)
		}
	})
	r.more = map[netip.Addr]*agent{haA: {r: r, auth: core.Auth{Kind: "esp", Peer: "ha1"}}, haB: {r: r, auth: core.Auth{Kind: "esp", Peer: "ha2"}}}
	return r, r.net(1, "2001:db8:c1::9")
}

// replying makes the home link answer discovery with a list.
func (r *rig) replying(addrs ...netip.Addr) {
	r.more[anycast] = &agent{r: r, other: func(n *netw, _ seenAt, f framing, s core.Send) bool {
		rq, ok := s.Body.(*nd.HomeAgentAddressDiscoveryRequest)
		if ok {
			path := core.Path{If: s.Path.If, Local: s.Path.Local, Remote: addrPort(addrs[0]), Auth: core.Auth{Kind: "none"}}
			r.deliver(n, seenAt{}, f, path, &nd.HomeAgentAddressDiscoveryReply{ID: rq.ID, Addresses: addrs})
		}
		return ok
	}}
}

// queries are the times of discovery requests.
func (r *rig) queries() (at []time.Duration) {
	for i, s := range r.sent {
		if _, ok := s.Body.(*nd.HomeAgentAddressDiscoveryRequest); ok {
			at = append(at, r.times[i])
		}
	}
	return at
}

// bus are the Binding Updates as "home agent at time".
func (r *rig) bus() (to []netip.Addr, at []time.Duration) {
	us, at := r.updates()
	for _, u := range us {
		to = append(to, u.Path.Remote.Addr())
	}
	return to, at
}

func (r *rig) notes() string {
	b, _ := r.command(core.GetStatus{})
	return strings.Join(b.(core.Status).Notes, "\n")
}

// TestDiscovery: one request to the anycast address from the care-of address, and the first of the answer is registered with at once.
func TestDiscovery(t *testing.T) {
	spec.Covers(t, "RFC6275-11.4.1")
	r, n := discovering(t, nil)
	r.replying(haB, haA)
	r.show(n)
	if got := r.queries(); !slices.Equal(got, []time.Duration{0}) {
		t.Fatalf("asked at %v", got)
	}
	want := core.Path{If: 1, Local: addrPort(n.care.Addr), Remote: addrPort(anycast), Auth: core.Auth{Kind: "none"}}
	if r.sent[0].Path != want {
		t.Errorf("asked by %+v", r.sent[0].Path)
	}
	r.wantState(detached)
	if !strings.Contains(r.notes(), "no home agent is known yet: asking by home agent address discovery") {
		t.Error(r.notes())
	}
	r.run(20 * ms)
	if to, at := r.bus(); !slices.Equal(to, []netip.Addr{haB}) || at[0] != 20*ms {
		t.Errorf("registered with %v at %v", to, at)
	}
	r.run(20 * ms)
	r.wantState(active)
	if r.m.ha.name != "ha2" || r.m.session.chain.Layer[0].Remote.Addr() != haB {
		t.Errorf("%+v, %+v", r.m.ha, r.m.session.chain)
	}
	if s, _ := r.lastUpdate(); s.Path.Auth.Peer != "ha2" {
		t.Errorf("protected as %+v", s.Path.Auth)
	}
	if !strings.Contains(r.notes(), "home agent "+haB.String()+" of ha2, found by dhaad, of 2 known") {
		t.Error(r.notes())
	}
	b := r.list()
	if b[0].Anchor != haB {
		t.Errorf("%+v", b[0])
	}
	r.run(time.Hour)
	if len(r.queries()) != 1 {
		t.Errorf("asked at %v", r.queries())
	}
}

// TestDiscoveryUnanswered: 3, 6, 12, 24 s between the same requests; then it is left for a while.
func TestDiscoveryUnanswered(t *testing.T) {
	spec.Covers(t, "RFC6275-11.4.1")
	r, n := discovering(t, nil)
	r.show(n)
	r.run(200 * sec)
	want := []time.Duration{0, 3 * sec, 9 * sec, 21 * sec, 45 * sec, 103 * sec, 106 * sec, 112 * sec, 124 * sec, 148 * sec}
	if got := r.queries(); !slices.Equal(got, want) {
		t.Errorf("asked at %v, want %v", got, want)
	}
}

// TestNoDiscoveryFromIPv4: nothing is asked, and the status says why; with an address of the config, that one serves.
func TestNoDiscoveryFromIPv4(t *testing.T) {
	spec.Covers(t, "S004-2.1-04")
	r, _ := discovering(t, nil)
	r.show(r.net(2, "192.0.2.7"))
	r.run(300 * sec)
	if len(r.queries()) > 0 || len(r.sent) > 0 {
		t.Errorf("sent %+v", r.sent)
	}
	if !strings.Contains(r.notes(), "not discovered from IPv4 networks") {
		t.Error(r.notes())
	}
	r, _ = discovering(t, func(c *Config) {
		c.Anchor.V6, c.Anchor.V4 = haA, ha4
	})
	r.show(r.net(2, "192.0.2.7"))
	r.run(300 * sec)
	if r.wantState(active); len(r.queries()) > 0 || r.m.ha.v4 != ha4 {
		t.Errorf("asked at %v", r.queries())
	}
}

// TestNextOfTheList: the first is silent. It gets its three Binding Updates, and the next its chance after 10 s.
func TestNextOfTheList(t *testing.T) {
	spec.Covers(t, "RFC6275-11.4.1")
	r, n := discovering(t, nil)
	r.replying(haA, haB)
	r.more[haA].down = true
	r.show(n)
	r.run(15 * sec)
	to, at := r.bus()
	if !slices.Equal(to, []netip.Addr{haA, haA, haA, haB}) || !slices.Equal(at, []time.Duration{20 * ms, 1520 * ms, 4520 * ms, 10020 * ms}) {
		t.Errorf("%v at %v", to, at)
	}
	r.wantState(active)
	if len(r.queries()) != 1 {
		t.Errorf("asked at %v", r.queries())
	}
}

// TestRefusedByTheFirst: whatever refuses for reasons of its own is left for the next, InitialBindackTimeoutFirstReg later.
func TestRefusedByTheFirst(t *testing.T) {
	spec.Covers(t, "RFC6275-11.4.1")
	for _, status := range []mobility.Status{mobility.AdministrativelyProhibited, mobility.InsufficientResources, mobility.NotHomeAgent, mobility.DADFailed} {
		r, n := discovering(t, nil)
		r.replying(haA, haB)
		r.more[haA].status = status
		r.show(n)
		r.run(3 * sec)
		to, at := r.bus()
		if !slices.Equal(to, []netip.Addr{haA, haB}) || at[1]-at[0] != 20*ms+InitialBindackTimeoutFirstReg {
			t.Errorf("%v: %v at %v", status, to, at)
		}
		r.wantState(active)
	}
}

// TestNobodyServes: a list of which nobody serves is asked for again and again, at a rate, and the first that comes back is found.
func TestNobodyServes(t *testing.T) {
	r, n := discovering(t, nil)
	r.replying(haA, haB)
	r.more[haA].down, r.more[haB].down = true, true
	r.show(n)
	r.run(time.Hour)
	if q := r.queries(); len(q) < 3 || len(q) > 60 {
		t.Errorf("asked %d times", len(q))
	}
	us, _ := r.updates()
	if len(us) < 100 || len(us) > 1200 {
		t.Errorf("%d Binding Updates in an hour", len(us))
	}
	r.more[haB].down = false
	if !r.until(time.Minute, func() bool { return r.m.state == active }) {
		t.Errorf("not found: %s", r.story())
	}
}

// TestHomeAgentDies: the tunnel falls silent; the registration is tried with that home agent first, then with the next.
func TestHomeAgentDies(t *testing.T) {
	spec.Covers(t, "RFC6275-11.4.1")
	r, n := discovering(t, nil)
	r.replying(haA, haB)
	r.show(n)
	r.run(10 * sec)
	r.wantState(active)
	r.forget()
	r.more[haA].down = true
	if !r.until(20*sec, func() bool { return r.m.ha.v6 == haB && r.m.state == active }) {
		t.Fatalf("still with %v: %s", r.m.ha.v6, r.story())
	}
	to, at := r.bus()
	first := slices.Index(to, haB)
	if first != 4 || at[first]-at[0] != agentPatience { // at 0, 1, 3 and 7 s
		t.Errorf("%v at %v", to, at)
	}
	if len(r.queries()) > 0 {
		t.Error("asked, though another one was known")
	}
	if !slices.ContainsFunc(r.emits, func(e core.Emit) bool {
		return e.Name == "home-agent" && e.From == haA.String() && e.To == haB.String()
	}) {
		t.Error("nobody was told")
	}
	if r.m.session.chain.Layer[0].Remote.Addr() != haB {
		t.Errorf("the tunnel goes to %v", r.m.session.chain.Layer[0].Remote)
	}
	if _, ok := r.host[name(&core.HostOp{Kind: "rule", Prefix: host(haB), Table: n.care.Table, Value: "to priority 10710"})]; !ok {
		t.Errorf("the way to the new home agent leads into its own tunnel: %v", r.host)
	}
	// The one that served is asked first after a move.
	r.more[haA].down = false
	m := r.net(2, "2001:db8:c2::9")
	r.show(m)
	r.run(sec)
	if to, _ := r.bus(); to[len(to)-1] != haB {
		t.Errorf("moved to %v", to)
	}
}

// TestNetworkDies: without any care-of address whose router answers nobody is given up; in a network that carries nothing the list is
// tried, and the node comes back to whoever answers.
func TestNetworkDies(t *testing.T) {
	r, n := discovering(t, nil)
	r.replying(haA, haB)
	r.show(n)
	r.run(10 * sec)
	r.show()
	r.run(time.Minute)
	if r.m.ha.v6 != haA {
		t.Errorf("with %v", r.m.ha.v6)
	}
	r.show(n)
	r.run(sec)
	r.wantState(active)
	n.down = true
	r.run(5 * time.Minute)
	n.down = false
	if !r.until(40*sec, func() bool { return r.m.state == active }) {
		t.Errorf("not back: %s", r.story())
	}
}

// TestDiscoveryFlood: replies that nobody asked for are counted, and told of once a second.
func TestDiscoveryFlood(t *testing.T) {
	r, n := discovering(t, nil)
	r.replying(haA, haB)
	r.show(n)
	r.run(sec)
	r.forget()
	path := core.Path{If: 1, Local: addrPort(n.care.Addr), Remote: addrPort(haB)}
	for i := range 20000 {
		r.handle(core.Message{Path: path, Body: &nd.HomeAgentAddressDiscoveryReply{ID: uint16(i), Addresses: []netip.Addr{haB}}})
		if i%10 == 0 {
			r.advance(r.now.Boot + ms)
		}
	}
	told := 0
	for _, e := range r.emits {
		if e.Name == "message-ignored" {
			told++
		}
	}
	if r.m.ha.v6 != haA || told > 3 || r.m.counts["unsolicited"] < 20000 {
		t.Errorf("with %v, told %d times, counted %d", r.m.ha.v6, told, r.m.counts["unsolicited"])
	}
}

// TestDiscoveryReplyElsewhere: to an address that is not ours, in a tunnel, or with a routing header it answers nothing.
func TestDiscoveryReplyElsewhere(t *testing.T) {
	r, n := discovering(t, nil)
	r.show(n)
	id := r.sent[0].Body.(*nd.HomeAgentAddressDiscoveryRequest).ID
	good := core.Path{If: 1, Local: addrPort(n.care.Addr), Remote: addrPort(haA)}
	for _, change := range []func(*core.Path){
		func(p *core.Path) { p.Local = addrPort(netip.MustParseAddr("2001:db8:c1::8")) },
		func(p *core.Path) { p.Own = hoa6 },
		func(p *core.Path) { p.Outer = core.Chain{N: 1} },
	} {
		p := good
		change(&p)
		r.handle(core.Message{Path: p, Body: &nd.HomeAgentAddressDiscoveryReply{ID: id, Addresses: []netip.Addr{haA}}})
		if r.m.ha.v6.IsValid() {
			t.Fatalf("taken by %+v", p)
		}
	}
	r.handle(core.Message{Path: good, Body: &nd.HomeAgentAddressDiscoveryReply{ID: id, Addresses: []netip.Addr{haA}}})
	if r.m.ha.v6 != haA {
		t.Error("the good one is not taken")
	}
}

// TestDiscoveryRemembered: another run goes on with the home agent of the last one, and its tunnel.
func TestDiscoveryRemembered(t *testing.T) {
	spec.Covers(t, "RFC6275-11.4.1")
	r, n := discovering(t, nil)
	r.replying(haB, haA)
	r.show(n)
	r.run(10 * sec)
	chain, cfg := r.m.session.chain, r.m.cfg
	r.forget()
	r.boot(cfg)
	if r.m.ha.v6 != haB || len(r.ops) == 0 || r.ops[0].(core.SetSession).Chain != chain {
		t.Fatalf("%+v, %+v", r.m.ha, r.ops)
	}
	r.show(n)
	r.run(sec)
	if r.wantState(active); len(r.queries()) > 0 {
		t.Errorf("asked at %v", r.queries())
	}
	if len(r.m.agents.List()) != 2 {
		t.Errorf("%v", r.m.agents.List())
	}
	cfg.Anchor.Peers = cfg.Anchor.Peers[:1] // and not with one whom the config does not trust any more
	r.boot(cfg)
	if r.m.ha.v6 == haB {
		t.Errorf("%+v", r.m.ha)
	}
}

// TestNamedHomeAgent: the question goes out at once from the care-of addresses, and again when the home agent does not answer.
func TestNamedHomeAgent(t *testing.T) {
	spec.Covers(t, "RFC5555-2.1")
	r, _ := discovering(t, func(c *Config) { c.Anchor.Discover, c.Anchor.Host = false, "ha.example.net" })
	n := r.net(2, "192.0.2.7")
	r.show(n)
	if len(r.asked) != 1 || r.asked[0].Body.(core.Resolve).Host != "ha.example.net" || !slices.Equal(r.asked[0].Body.(core.Resolve).From, []netip.Addr{n.care.Addr}) {
		t.Fatalf("asked %+v", r.asked)
	}
	r.handle(core.Answer{Ref: r.asked[0].Ref, Body: []netip.Addr{ha4, haA}})
	r.run(sec)
	r.wantState(active)
	if r.m.ha.v4 != ha4 || r.m.ha.by != "dns" || !strings.Contains(r.notes(), "found by dns") {
		t.Errorf("%+v\n%s", r.m.ha, r.notes())
	}
	r.more[haA].down = true
	if !r.until(time.Minute, func() bool { return len(r.asked) == 2 }) {
		t.Fatalf("not asked again: %s", r.story())
	}
	// It has moved, in both families.
	v4 := netip.MustParseAddr("198.51.100.2")
	r.handle(core.Answer{Ref: r.asked[1].Ref, Body: []netip.Addr{v4, haB}})
	r.run(2 * sec)
	if r.wantState(active); r.m.ha.v6 != haB || r.m.ha.v4 != v4 {
		t.Errorf("%+v", r.m.ha)
	}
}

// TestUnknownName: a name without an address is a note, asked again ever more seldom, and told once.
func TestUnknownName(t *testing.T) {
	r, n := discovering(t, func(c *Config) { c.Anchor.Discover, c.Anchor.Host = false, "ha.example.net" })
	r.show(n)
	for range 3600 {
		if k := len(r.asked); k > 0 { // those that nobody waits for change nothing
			r.handle(core.Answer{Ref: r.asked[k-1].Ref, Err: core.ErrTooLarge})
		}
		r.run(sec)
	}
	warned := 0
	for _, e := range r.emits {
		if e.Name == "warning" {
			warned++
		}
	}
	if len(r.asked) < 8 || len(r.asked) > 20 || warned != 1 || !strings.Contains(r.notes(), core.ErrTooLarge.Error()) {
		t.Errorf("asked %d times, warned %d times: %s", len(r.asked), warned, r.notes())
	}
	// An answer that was not asked for by this machine is none.
	r.handle(core.Answer{Ref: 7, Body: []netip.Addr{haA}})
	if r.m.ha.v6.IsValid() {
		t.Error("taken")
	}
}

// TestAtHomeWithoutHomeAgent: a node that begins on its home link needs none.
func TestAtHomeWithoutHomeAgent(t *testing.T) {
	r, n := discovering(t, nil)
	at := n.care
	at.Addr, at.Home = hoa6, true
	r.links.list, r.links.changed = append(r.links.list, at), true
	r.handle(core.HostChanged{})
	r.run(time.Minute)
	r.wantState(home)
	if us, _ := r.updates(); len(us) > 0 || len(r.queries()) > 0 {
		t.Errorf("%v, %v", us, r.queries())
	}
}

// TestDiscoveryMeans: the config's two ways.
func TestDiscoveryMeans(t *testing.T) {
	for _, c := range []struct {
		a    Anchor
		want discovery.Means
	}{{Anchor{V6: ha6}, discovery.Config}, {Anchor{Discover: true}, discovery.DHAAD}, {Anchor{Host: "x.y"}, discovery.DNS}} {
		if got := (&Config{Anchor: c.a}).discovers(); got != c.want {
			t.Errorf("%+v: %v", c.a, got)
		}
	}
}

// TestHalfDead: what forwards at the home agent goes on, but nobody answers Binding Updates: it gets a minute.
func TestHalfDead(t *testing.T) {
	r, n := discovering(t, nil)
	r.replying(haA, haB)
	r.show(n)
	r.run(10 * sec)
	r.more[haA].mute = true
	r.forget()
	r.handle(core.Message{Path: core.Path{If: 1, Local: addrPort(n.care.Addr), Remote: addrPort(haA), Own: hoa6, Auth: core.Auth{Kind: "esp", Peer: "ha1"}},
		Body: &mobility.BindingRefreshRequest{}})
	r.until(2*time.Minute, func() bool { return r.m.ha.v6 == haB })
	to, at := r.bus()
	if first := slices.Index(to, haB); first < 0 || at[first]-at[0] != echoPatience {
		t.Errorf("%v at %v", to, at)
	}
	r.run(sec)
	r.wantState(active)
}
