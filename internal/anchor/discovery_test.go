package anchor

import (
	"net/netip"
	"slices"
	"testing"
	"time"

	"kedge/internal/access"
	"kedge/internal/anchor/homelist"
	"kedge/internal/core"
	"kedge/internal/spec"
	"kedge/wire"
	"kedge/wire/mobility"
	"kedge/wire/nd"
)

var (
	homeSubnet = pfx("2001:db8:1000:10::/64")
	agent2     = netip.MustParseAddr("fe80::a2")
	addr2      = netip.MustParseAddr("2001:db8:1000:10::a2")
)

// discovering is a home agent on a real home link that answers who looks for it.
func discovering(c *Config) {
	homeLink(c)
	c.HomePort.DADTransmits = -1
	c.Discovery = Discovery{On: true, Preference: 5, Advertise: true}
}

// bodies takes the messages of a type that were sent since the last time, through the wire and back where it is one of ND.
func bodies[T any](r *rig) (out []T, paths []core.Path) {
	r.t.Helper()
	rest := r.sent[:0]
	for _, s := range r.sent {
		b, ok := s.Body.(T)
		if !ok {
			rest = append(rest, s)
			continue
		}
		if m, ok := s.Body.(nd.Message); ok {
			dst := s.Path.Remote.Addr()
			if s.Path.Home.IsValid() {
				dst = s.Path.Home
			}
			raw, err := nd.Append(nil, m, s.Path.Local.Addr(), dst)
			if err != nil {
				r.t.Fatal(err)
			}
			back, err := nd.Parse(raw, nd.Envelope{Src: s.Path.Local.Addr(), Dst: dst})
			if err != nil {
				r.t.Fatal(err)
			}
			b = back.(T)
		}
		out, paths = append(out, b), append(paths, s.Path)
	}
	r.sent = rest
	return out, paths
}

func (r *rig) request(from, to netip.Addr, id uint16) *nd.HomeAgentAddressDiscoveryReply {
	r.t.Helper()
	r.handle(core.Message{Path: core.Path{Local: netip.AddrPortFrom(to, 0), Remote: netip.AddrPortFrom(from, 0)}, Body: &nd.HomeAgentAddressDiscoveryRequest{ID: id}})
	got, paths := bodies[*nd.HomeAgentAddressDiscoveryReply](r)
	if len(got) == 0 {
		return nil
	}
	if len(got) > 1 || paths[0].Remote.Addr() != from || paths[0].Local.Addr() != lmaa || paths[0].Outer.N != 0 {
		r.t.Fatalf("%d answers, %+v", len(got), paths)
	}
	return got[0]
}

// other is the advertisement of the other home agent of the link.
func other(lifetime, preference uint16) access.Frame {
	return access.Frame{Src: otherMAC, SrcIP: agent2, DstIP: nd.AllNodes, Body: &nd.RouterAdvertisement{HomeAgent: true, RouterLifetime: 1800, Options: nd.Options{
		nd.HomeAgentInformation{Preference: preference, Lifetime: lifetime},
		&nd.PrefixInformation{Prefix: netip.PrefixFrom(addr2, 64), OnLink: true, Autonomous: true, RouterAddr: true, Valid: 2592000, Preferred: 604800},
	}}}
}

// TestDiscoverHomeAgents: requests to the anycast address of a home subnet are answered from a unicast one, with the home agents
// that were heard on the link.
func TestDiscoverHomeAgents(t *testing.T) {
	spec.Covers(t, "RFC6275-10.5")
	r := startHosts(t, discovering)
	anycast := nd.HomeAgentsAnycast(homeSubnet)
	if !slices.ContainsFunc(r.host, func(o core.HostOp) bool {
		return o == core.HostOp{Kind: "anycast", Prefix: netip.PrefixFrom(anycast, 128), Name: "home0"}
	}) {
		t.Errorf("the anycast address is not taken: %+v", r.host)
	}
	if got := r.request(coa1, anycast, 7); got == nil || got.ID != 7 || !slices.Equal(got.Addresses, []netip.Addr{lmaa}) {
		t.Fatalf("alone: %+v", got)
	}
	r.overhear(other(100, 9))
	if got := r.request(coa1, anycast, 8); got == nil || !slices.Equal(got.Addresses, []netip.Addr{addr2, lmaa}) {
		t.Fatalf("with another: %+v", got)
	}
	if s := r.m.status(); len(s.HomeAgents) != 1 || s.HomeAgents[0].LinkLocal != agent2 || s.HomeAgents[0].Left != 100*time.Second {
		t.Errorf("%+v", s.HomeAgents)
	}
	r.pass(100 * time.Second)
	if got := r.request(coa1, anycast, 9); got == nil || !slices.Equal(got.Addresses, []netip.Addr{lmaa}) {
		t.Fatalf("it has expired: %+v", got)
	}
}

// TestDiscoverRefused: what is no request of a node in an IPv6 network, or is too much, is not answered.
func TestDiscoverRefused(t *testing.T) {
	r := startHosts(t, discovering)
	anycast := nd.HomeAgentsAnycast(homeSubnet)
	give := func(p core.Path, body any) {
		r.handle(core.Message{Path: p, Body: body})
	}
	path := core.Path{Local: netip.AddrPortFrom(anycast, 0), Remote: netip.AddrPortFrom(coa1, 0)}
	tunnel, hao, elsewhere := path, path, path
	tunnel.Outer.N = 1
	hao.Home = hoa1
	elsewhere.Local = netip.AddrPortFrom(ip("2001:db8:a::2"), 0) // an address of the anchor, and none of a home agent
	for _, c := range []struct {
		path core.Path
		body any
		want wire.Reason
	}{
		{tunnel, &nd.HomeAgentAddressDiscoveryRequest{}, wire.NotSignalling},
		{hao, &nd.HomeAgentAddressDiscoveryRequest{}, wire.BadSource},
		{elsewhere, &nd.HomeAgentAddressDiscoveryRequest{}, wire.BadDestination},
		{path, &nd.HomeAgentAddressDiscoveryReply{}, wire.Unsolicited},
		{path, &nd.MobilePrefixAdvertisement{}, wire.Unsolicited},
	} {
		was := r.m.refused[c.want]
		give(c.path, c.body)
		if r.m.refused[c.want] != was+1 {
			t.Errorf("%T by %+v: counted %v, want %s", c.body, c.path, r.m.refused, c.want)
		}
		if got, _ := bodies[*nd.HomeAgentAddressDiscoveryReply](r); len(got) != 0 {
			t.Errorf("%T by %+v is answered", c.body, c.path)
		}
	}
	r.pass(2 * time.Second)
	events := len(r.emits)
	for range 10000 {
		give(path, &nd.HomeAgentAddressDiscoveryRequest{})
	}
	if got, _ := bodies[*nd.HomeAgentAddressDiscoveryReply](r); len(got) != homelist.DiscoveriesPerNetwork || r.m.refused[wire.RateLimit] == 0 || len(r.emits) != events {
		t.Errorf("%d answers to a flood, %d events", len(got), len(r.emits)-events)
	}
	off := startHosts(t)
	if off.request(coa1, lmaa, 1) != nil || off.m.refused[wire.ServiceDisabled] != 1 {
		t.Error("answered though it is off")
	}
}

func (r *rig) solicit(p core.Path, id uint16) ([]*nd.MobilePrefixAdvertisement, []core.Path) {
	r.t.Helper()
	r.handle(core.Message{Path: p, Body: &nd.MobilePrefixSolicitation{ID: id}})
	return bodies[*nd.MobilePrefixAdvertisement](r)
}

// TestPrefixSolicitation: answered by the way that it came, under ESP, with the home prefix (RFC 6275 10.6); and over IPv4 in
// IPv4 (S004-2.1-02).
func TestPrefixSolicitation(t *testing.T) {
	spec.Covers(t, "RFC6275-6.7", "RFC6275-10.6.3", "S004-2.1-02", "S004-2.1-03")
	r := startHosts(t, discovering)
	bound := native(hoa1, coa1).path()
	away := native(hoa2, coa2).path()
	v4 := in41(hoa2, v4coa).path()
	plain := core.Path{Local: netip.AddrPortFrom(lmaa, 0), Remote: netip.AddrPortFrom(hoa3, 0), Auth: peerOf(hoa3)}
	plain.Outer.N, plain.Outer.Layer[0] = 1, core.Layer{Local: netip.AddrPortFrom(ha4, 0), Remote: netip.AddrPortFrom(v4coa, 0)}
	r.status(native(hoa1, coa1), 0)
	for n, p := range []core.Path{bound, away, plain, v4} {
		r.pass(2 * time.Second)
		got, paths := r.solicit(p, uint16(100+n))
		if len(got) != 1 || got[0].ID != uint16(100+n) || paths[0] != p {
			t.Fatalf("%d: %+v by %+v, want it by %+v", n, got, paths, p)
		}
		if o := got[0].Options[0].(*nd.PrefixInformation); o.Prefix.Masked() != homeSubnet || o.Valid != 2592000 {
			t.Errorf("%+v", o)
		}
	}
	for _, c := range []struct {
		name   string
		path   core.Path
		change func(*core.Path)
		want   wire.Reason
	}{
		{"unprotected", bound, func(p *core.Path) { p.Auth = core.Auth{Kind: "none"} }, wire.Unprotected},
		{"of another peer", bound, func(p *core.Path) { p.Auth = peerOf(hoa2) }, wire.WrongAssociation},
		{"of nobody", bound, func(p *core.Path) { p.Home, p.Auth = ip("2001:db8:1000:10::99"), core.Auth{Kind: "none"} }, wire.UnknownPeer},
		{"without home address", bound, func(p *core.Path) { p.Home = netip.Addr{} }, wire.MissingHome},
		{"not to the home agent", bound, func(p *core.Path) { p.Local = netip.AddrPortFrom(ip("2001:db8:a::2"), 0) }, wire.BadDestination},
		{"of a subscriber without the service", bound, func(p *core.Path) { p.Home, p.Auth = hoa5, peerOf(hoa5) }, wire.ServiceDisabled},
		{"over IPv4 in the clear", native(hoa6, coa1).path(), func(p *core.Path) { p.Outer = v4.Outer }, wire.Unprotected},
		{"in the clear, not bound", native(hoa6, coa1).path(), func(*core.Path) {}, wire.UnknownHome},
	} {
		r.pass(2 * time.Second)
		was := r.m.refused[c.want]
		c.change(&c.path)
		if got, _ := r.solicit(c.path, 1); len(got) != 0 || r.m.refused[c.want] != was+1 {
			t.Errorf("%s: %d answers, last %+v", c.name, len(got), r.tail())
		}
	}
	if e, p := bodies[*mobility.BindingError](r); len(e) != 1 || e[0].Status != mobility.UnknownBinding || e[0].Home != hoa6 || p[0].Home.IsValid() || p[0].Remote.Addr() != coa1 {
		t.Errorf("Binding Errors %+v by %+v (RFC 6275 9.3.1)", e, p)
	}
	r.status(native(hoa6, coa1), 0)
	if got, _ := r.solicit(native(hoa6, coa1).path(), 1); len(got) != 1 {
		t.Error("in the clear, bound, as the config allows: not answered")
	}
	for range 100 {
		if got, _ := r.solicit(native(hoa6, coa1).path(), 2); len(got) != 0 {
			t.Fatal("two answers in a second")
		}
	}
	r.pass(time.Second)
	if got, _ := bodies[*nd.MobilePrefixAdvertisement](r); len(got) != 1 || got[0].ID != 2 {
		t.Errorf("%+v after the second", got)
	}
	silent := startHosts(t, discovering, func(c *Config) { c.Discovery.NoPrefixes = true })
	if got, _ := silent.solicit(bound, 1); len(got) != 0 || silent.m.refused[wire.ServiceDisabled] != 1 {
		t.Error("answered though prefixes are not to be advertised")
	}
}

// TestPrefixDeprecated: what a router on the home link says of the home prefix is told to bound nodes, under ESP, with a type 2
// routing header to their care-of addresses; and bounds their bindings (RFC 6275 10.3.1, 10.6.2, 10.6.4).
func TestPrefixDeprecated(t *testing.T) {
	spec.Covers(t, "RFC6275-10.6.2", "RFC6275-10.6.4")
	r := startHosts(t, discovering, func(c *Config) { c.Discovery.Advertise = false; c.Timers.LifetimeMax = 10 * time.Hour })
	long := func(b bu) bu { return b.with(func(b *bu) { b.lifetime = 7200 }) } // 8 h
	r.status(long(native(hoa1, coa1)), 0)
	if got, _ := r.solicit(native(hoa1, coa1).path(), 1); len(got) != 1 { // nothing is owed to it
		t.Fatal("not answered")
	}
	r.overhear(other(60000, 0))
	r.pass(20 * time.Minute)
	if got, _ := bodies[*nd.MobilePrefixAdvertisement](r); len(got) != 0 {
		t.Fatalf("nothing changed, and %+v is sent", got)
	}
	withdrawn := other(60000, 0)
	o := withdrawn.Body.(*nd.RouterAdvertisement).Options[1].(*nd.PrefixInformation)
	o.Valid, o.Preferred = 0, 0
	r.overhear(withdrawn)
	r.pass(601 * time.Second)
	r.pass(600 * time.Second)
	got, paths := bodies[*nd.MobilePrefixAdvertisement](r)
	if len(got) != 1+homelist.PrefixAdvRetries {
		t.Fatalf("%d sent, want one and %d again", len(got), homelist.PrefixAdvRetries)
	}
	if p := got[0].Options[0].(*nd.PrefixInformation); p.Preferred != 0 || p.Valid > 7200 || p.Valid < 6000 {
		t.Errorf("%+v", p)
	}
	if want := native(hoa1, coa1).path(); paths[0] != want {
		t.Errorf("by %+v, want %+v", paths[0], want)
	}
	// Two hours are left of the prefix, and the binding of eight hours ends with it.
	if b := r.one(mn1); !b.Expires.Before(r.now.Wall.Add(2 * time.Hour)) {
		t.Errorf("expires %v, now is %v", b.Expires, r.now.Wall)
	}
	if a := r.status(long(native(hoa1, coa1)), 0); a.Lifetime > 1800 || a.Lifetime < 1000 {
		t.Errorf("granted %d units, beyond the prefix", a.Lifetime)
	}
	r.pass(2 * time.Hour)
	if list := r.m.bindings(""); len(list) != 0 {
		t.Errorf("bound after the prefix: %+v", list)
	}
}

// TestPrefixInvalid: with a prefix that is valid no more nobody registers.
func TestPrefixInvalid(t *testing.T) {
	r := startHosts(t, discovering, func(c *Config) {
		c.Discovery.Prefixes = []homelist.Prefix{{Prefix: homeSubnet, OnLink: true, Explicit: true}}
	})
	r.status(native(hoa1, coa1), mobility.NotHomeSubnet)
	r.status(native(hoa4, coa1), 0) // of another prefix
}

// TestDiscoveryRestart: after a restart all who are registered are told of prefixes that the config has deprecated meanwhile.
func TestDiscoveryRestart(t *testing.T) {
	r := startHosts(t, discovering)
	r.status(native(hoa1, coa1), 0)
	r.cfg.Discovery.Prefixes = []homelist.Prefix{{Prefix: homeSubnet, OnLink: true, Valid: time.Hour, Explicit: true}}
	r.restart()
	r.seq += sequenceMargin
	r.pass(25 * time.Second)
	r.status(native(hoa1, coa1), 0)
	r.sent = nil
	for range 60 { // it stays registered
		r.pass(20 * time.Second)
		r.status(native(hoa1, coa1), 0)
	}
	got, _ := bodies[*nd.MobilePrefixAdvertisement](r)
	if len(got) == 0 || got[0].Options[0].(*nd.PrefixInformation).Preferred != 0 {
		t.Errorf("%d sent within the time that RFC 6275 10.6.2 gives", len(got))
	}
}

// TestForgedAdvertisements: what fails the tests of RFC 4861 6.1.2 lists nobody.
func TestForgedAdvertisements(t *testing.T) {
	spec.Covers(t, "RFC6275-10.5.1")
	r := startHosts(t, discovering)
	f := other(1000, 9)
	f.Dst = core.MAC{0x33, 0x33, 0, 0, 0, 1}
	good, err := f.Append(nil)
	if err != nil {
		t.Fatal(err)
	}
	give := func(b []byte) int {
		back, err := access.Decode(b)
		m := core.Message{Path: core.Path{If: 7}, Err: err, Raw: b}
		if back != nil {
			m.Body = back
		}
		r.handle(m)
		return len(r.m.status().HomeAgents)
	}
	for name, change := range map[string]func(b []byte){
		"routed here":          func(b []byte) { b[14+7] = 254 },
		"checksum":             func(b []byte) { b[14+42]++ },
		"code":                 func(b []byte) { b[14+41] = 1; b[14+42]-- },
		"option of length 0":   func(b []byte) { b[14+57] = 0 },
		"global source":        func(b []byte) { b[14+8], b[14+9] = 0x20, 1 },
		"of our own interface": func(b []byte) { copy(b[6:12], linkMAC[:]) },
	} {
		b := slices.Clone(good)
		change(b)
		if n := give(b); n != 0 {
			t.Errorf("%s: %d listed", name, n)
		}
	}
	for n := range good {
		if give(good[:n]) != 0 {
			t.Errorf("cut to %d: listed", n)
		}
	}
	r.handle(core.Message{Path: core.Path{If: 8}, Body: &f})
	if len(r.m.status().HomeAgents) != 0 {
		t.Error("heard on another link")
	}
	if n := give(good); n != 1 {
		t.Errorf("the good one: %d", n)
	}
}

// TestStopIsSaid: an anchor that ends for good says so on its home link; one that does not advertise has nothing to say.
func TestStopIsSaid(t *testing.T) {
	for _, advertise := range []bool{true, false} {
		r := startHosts(t, func(c *Config) { discovering(c); c.Discovery.Advertise = advertise })
		r.pass(time.Minute)
		r.frames()
		if r.handle(core.Command{Ref: 9, Body: core.Stop{}}); r.reply.Err != nil {
			t.Fatal(r.reply.Err)
		}
		var last []*nd.RouterAdvertisement
		for _, f := range r.frames() {
			last = append(last, f.Body.(*nd.RouterAdvertisement))
		}
		if advertise && (len(last) != 1 || last[0].HomeAgent || last[0].RouterLifetime != 0) || !advertise && len(last) > 0 {
			t.Errorf("advertise %v: %+v", advertise, last)
		}
	}
}
