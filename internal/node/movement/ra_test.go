package movement

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"kedge/internal/access"
	"kedge/internal/core"
	"kedge/internal/spec"
	"kedge/wire"
	"kedge/wire/nd"
)

// attached is a rig on network A after duplicate address detection.
func attached(t *testing.T, cfg Config) (*rig, *network4test) {
	t.Helper()
	r := newRig(t, cfg)
	n := newNet(1, netA)
	r.add(2, "eth0", false)
	r.carrier(2, n)
	r.run(3 * time.Second)
	r.want("eth0 2001:db8:a::/64")
	return r, n
}

// advertise lets the network's first router say something else.
func (n *network4test) advertise(r *rig, change func(*nd.RouterAdvertisement)) {
	ra := *n.routers[0].ra
	ra.Options = slices.Clone(ra.Options)
	change(&ra)
	n.routers[0].ra = &ra
	n.routers[0].advertise(r, n, 2, nil)
	r.run(wireDelay)
}

// setPrefix replaces the prefix options.
func setPrefix(all ...*nd.PrefixInformation) func(*nd.RouterAdvertisement) {
	return func(ra *nd.RouterAdvertisement) {
		ra.Options = slices.DeleteFunc(ra.Options, func(o nd.Option) bool { _, ok := o.(*nd.PrefixInformation); return ok })
		for _, p := range all {
			ra.Options = append(ra.Options, p)
		}
	}
}

// TestPrefixRules: which prefix options make an address (RFC 4862 5.5.3, RFC 4861 6.3.4).
func TestPrefixRules(t *testing.T) {
	spec.Covers(t, "RFC4862-5.5.3")
	option := func(p string, l, a bool, valid, preferred uint32) *nd.PrefixInformation {
		return &nd.PrefixInformation{Prefix: netip.MustParsePrefix(p), OnLink: l, Autonomous: a, Valid: valid, Preferred: preferred}
	}
	for _, c := range []struct {
		name   string
		o      *nd.PrefixInformation
		want   string
		reason wire.Reason
	}{
		{"good", option(netA, true, true, 100, 50), "eth0 2001:db8:a::/64 optimistic", ""},
		{"infinite", option(netA, true, true, nd.Infinity, nd.Infinity), "eth0 2001:db8:a::/64 optimistic", ""},
		{"host bits", option("2001:db8:a::77/64", true, true, 100, 50), "eth0 2001:db8:a::/64 optimistic", ""},
		{"off link", option(netA, false, true, 100, 50), "eth0 2001:db8:a::/64 optimistic", ""},
		{"deprecated", option(netA, true, true, 100, 0), "eth0 2001:db8:a::/64 optimistic deprecated", ""},
		{"not autonomous", option(netA, true, false, 100, 50), "", ""},
		{"neither", option(netA, false, false, 100, 50), "", ""},
		{"lifetime 0", option(netA, true, true, 0, 0), "", ""},
		{"preferred longer than valid", option(netA, true, true, 50, 51), "", wire.BadValue},
		{"link-local", option("fe80::/64", true, true, 100, 50), "", wire.BadValue},
		{"multicast", option("ff0e::/64", true, true, 100, 50), "", wire.BadValue},
		{"unspecified", option("::/64", true, true, 100, 50), "", wire.BadValue},
		{"loopback", option("::1/128", true, true, 100, 50), "", wire.BadValue},
		{"/48", option("2001:db8:a::/48", true, true, 100, 50), "", wire.BadPrefixLength},
		{"/65", option("2001:db8:a::/65", true, true, 100, 50), "", wire.BadPrefixLength},
		{"/128", option("2001:db8:a::1/128", true, true, 100, 50), "", wire.BadPrefixLength},
		{"everything", option("::/0", true, true, 100, 50), "", wire.BadValue},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := newRig(t, Config{})
			n := newNet(1)
			n.routers[0].ra.Options = append(n.routers[0].ra.Options, c.o)
			r.add(2, "eth0", false)
			r.carrier(2, n)
			r.run(3 * wireDelay)
			r.want(c.want)
			for _, x := range r.kernel.links[2].addrs {
				if want := map[bool]string{true: "optimistic", false: "optimistic noprefixroute"}[c.o.OnLink]; x.ours && x.flags != want {
					t.Errorf("set as %q, want %q", x.flags, want)
				}
			}
			local := 0
			for _, op := range r.kernel.routes {
				if op.Prefix == c.o.Prefix.Masked() && op.Prefix.Bits() == 64 {
					local++
				}
			}
			if want := boolRank(c.want != "" && c.o.OnLink); local != want {
				t.Errorf("%d on-link routes, want %d: %v", local, want, r.kernel.routes)
			}
			if got := r.m.Counters(); c.reason != "" && got[string(c.reason)] != 1 || c.reason == "" && len(got) > 0 {
				t.Errorf("counted %v, want %q", got, c.reason)
			}
		})
	}
}

// TestTwoHours: who is not authenticated can shorten a lifetime to two hours and no further (RFC 4862 5.5.3 e).
func TestTwoHours(t *testing.T) {
	spec.Covers(t, "RFC4862-5.5.3")
	for _, c := range []struct {
		name        string
		left, heard uint32
		want        time.Duration
	}{
		{"longer", 3600, 7000, 7000 * time.Second},
		{"more than two hours, though less than what is left", 90000, 7201, 7201 * time.Second},
		{"much less than a long one", 90000, 60, twoHours},
		{"less than a short one", 3600, 60, 3600 * time.Second},
		{"zero", 7200, 0, 7200 * time.Second},
		{"infinite", 3600, nd.Infinity, never},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := newRig(t, Config{})
			n := newNet(1)
			n.routers[0].ra.Options = append(n.routers[0].ra.Options, pi(netA, c.left, 0))
			r.add(2, "eth0", false)
			r.carrier(2, n)
			r.run(2 * wireDelay)
			n.advertise(r, setPrefix(pi(netA, c.heard, 0)))
			got := r.m.links[2].prefixes[0].valid
			if got != never {
				got -= r.now
			}
			if d := got - c.want; d > 0 || d < -2*wireDelay {
				t.Errorf("valid for %s, want %s", got, c.want)
			}
		})
	}
}

// TestLifetimesEnd: preferred, valid and router lifetimes run out at their times.
func TestLifetimesEnd(t *testing.T) {
	spec.Covers(t, "RFC4861-6.3.5")
	r := newRig(t, Config{})
	n := newNet(1)
	n.routers[0].ra.Options = append(n.routers[0].ra.Options, pi(netA, 100, 50))
	r.add(2, "eth0", false)
	r.carrier(2, n)
	r.run(2 * wireDelay)
	n.routers[0].ra = nil
	r.run(50*time.Second - 1)
	r.want("eth0 2001:db8:a::/64")
	r.run(1)
	r.want("eth0 2001:db8:a::/64 deprecated")
	r.run(50*time.Second - 1)
	r.want("eth0 2001:db8:a::/64 deprecated")
	r.run(1)
	r.want("")
	r.run(0)
	if len(r.kernel.links[2].addrs) != 1 || len(r.kernel.rules) > 0 || len(r.kernel.routes) > 0 {
		t.Errorf("left: %v %v %v", r.kernel.links[2].addrs, r.kernel.rules, r.kernel.routes)
	}

	r, n = attached(t, Config{})
	n.advertise(r, func(ra *nd.RouterAdvertisement) { ra.RouterLifetime = 30 })
	n.routers[0].ra = nil
	r.run(30*time.Second - 1)
	r.want("eth0 2001:db8:a::/64")
	r.sent = nil
	r.run(1)
	r.want("")
	if len(r.frames("rs")) != 1 {
		t.Errorf("solicited at %v", r.frames("rs"))
	}

	r, n = attached(t, Config{})
	r.sent = nil
	n.routers[0].deaf = true
	n.advertise(r, func(ra *nd.RouterAdvertisement) { ra.RouterLifetime = 0 })
	r.want("")
	if len(r.frames("rs")) != 1 {
		t.Errorf("solicited at %v", r.frames("rs"))
	}
}

// TestPreference: of two routers with the same prefix, the preferred one is used (RFC 4191 3.2), and an equal one never
// takes over; when it is gone, the other one does, and the address stays.
func TestPreference(t *testing.T) {
	spec.Covers(t, "RFC4191-3.2", "RFC6275-11.5.4")
	for bits, want := range map[uint8]string{0: "fe80::1", 1: "fe80::2", 2: "fe80::1", 3: "fe80::1"} {
		r, n := attached(t, Config{})
		was := r.m.CareOfs()[0]
		second := newNet(2, netA).routers[0]
		second.ra.Preference = bits
		n.routers = append(n.routers, second)
		second.advertise(r, n, 2, nil)
		r.run(3 * time.Second)
		got := r.m.CareOfs()
		if len(got) != 1 || got[0].Router.String() != want || got[0].Addr != was.Addr {
			t.Errorf("preference %02b: %+v, want %s", bits, got, want)
		}
		r.wantWay(got[0])
		n.routers[0].silent, n.routers[0].ra = got[0].Router == n.routers[0].ll, nil
		second.silent = !n.routers[0].silent
		r.effects(r.m.Suspect(r.clock(), was.Addr, nil))
		r.run(2 * time.Second)
		if after := r.m.CareOfs(); len(after) != 1 || after[0].Router == got[0].Router || after[0].Addr != was.Addr {
			t.Errorf("preference %02b: after its router went: %q by %+v", bits, r.list(), after)
		}
	}
}

// TestLinkParameters: MTU and hop limit, and what of them is not believed.
func TestLinkParameters(t *testing.T) {
	spec.Covers(t, "RFC4861-6.3.4")
	r, n := attached(t, Config{})
	hop := func() string { return r.kernel.sysctl["net/ipv6/conf/eth0/hop_limit"] }
	n.advertise(r, func(ra *nd.RouterAdvertisement) { ra.CurHopLimit = 80; ra.Options = append(ra.Options, nd.MTU(1400)) })
	if r.m.CareOfs()[0].MTU != 1400 || hop() != "80" {
		t.Errorf("%+v, hop limit %s", r.m.CareOfs(), hop())
	}
	mtu := 0
	for _, op := range r.kernel.routes {
		mtu = max(mtu, op.MTU)
	}
	if mtu != 1400 {
		t.Errorf("routes %v", r.kernel.routes)
	}
	for _, bad := range []nd.MTU{0, 1279, 1501, 0xffffffff} {
		n.advertise(r, func(ra *nd.RouterAdvertisement) { ra.CurHopLimit = 5; ra.Options[len(ra.Options)-1] = bad })
	}
	n.advertise(r, func(ra *nd.RouterAdvertisement) { ra.CurHopLimit = 0; ra.Options = ra.Options[:len(ra.Options)-1] })
	if r.m.CareOfs()[0].MTU != 1400 || hop() != "80" {
		t.Errorf("%+v, hop limit %s", r.m.CareOfs(), hop())
	}
	if c := r.m.Counters(); c["bad-value"] != 4 || c["bad-hop-limit"] != 4 {
		t.Errorf("counted %v", c)
	}
	r.kernel.links[2].op.MTU = 1300
	r.handle(core.HostChanged{Op: r.kernel.links[2].op, Up: true})
	if r.m.CareOfs()[0].MTU != 1300 {
		t.Errorf("%+v", r.m.CareOfs())
	}
}

// TestForged: advertisements that must not change anything, each with its reason (RFC 4861 6.1.2).
func TestForged(t *testing.T) {
	spec.Covers(t, "RFC4861-6.1.2")
	good := func(src, router core.MAC, from string, ra nd.RouterAdvertisement) []byte {
		f := &access.Frame{Dst: multicastMAC(nd.AllNodes), Src: src, SrcIP: netip.MustParseAddr(from), DstIP: nd.AllNodes, Body: &ra}
		ra.Options = append(nd.Options{nd.SourceLinkLayer(router)}, ra.Options...)
		b, err := f.Append(nil)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	x, own, group := core.MAC{2, 0, 0, 0, 9, 9}, core.MAC{2, 0, 0, 0, 0, 2}, core.MAC{3, 0, 0, 0, 9, 9}
	ra := nd.RouterAdvertisement{RouterLifetime: 1800, Options: nd.Options{pi(netB, 7200, 3600)}}
	change := func(at int, v byte) []byte {
		b := good(x, x, "fe80::9", ra)
		b[at] = v
		return b
	}
	long := ra
	for range nd.MaxOptions {
		long.Options = append(long.Options, pi(netB, 7200, 3600))
	}
	for _, c := range []struct {
		name   string
		b      []byte
		reason wire.Reason
	}{
		{"hop limit 254: from another link", change(14+7, 254), wire.BadHopLimit},
		{"checksum", change(14+40+2, 0), wire.BadChecksum},
		{"global source", good(x, x, "2001:db8::9", ra), wire.BadSource},
		{"truncated", good(x, x, "fe80::9", ra)[:14+40+10], wire.Truncated},
		{"65 options", good(x, x, "fe80::9", long), wire.TooManyOptions},
		{"our own MAC as the router's", good(x, own, "fe80::9", ra), wire.BadSource},
		{"a group as the router's", good(x, group, "fe80::9", ra), wire.BadSource},
	} {
		t.Run(c.name, func(t *testing.T) {
			r, _ := attached(t, Config{})
			f, err := access.Decode(c.b)
			var body any
			if f != nil {
				body = f
			}
			r.handle(core.Message{Path: core.Path{If: 2}, Body: body, Err: err})
			r.run(time.Second)
			r.want("eth0 2001:db8:a::/64")
			if got := r.m.Counters(); got[string(c.reason)] != 1 || len(got) != 1 {
				t.Errorf("counted %v, want %s", got, c.reason)
			}
			if at := slices.IndexFunc(r.emits, func(e core.Emit) bool { return e.Name == "message-ignored" && e.Why == string(c.reason) }); at < 0 {
				t.Errorf("nothing told of it")
			}
		})
	}
	t.Run("looped back", func(t *testing.T) {
		r, _ := attached(t, Config{})
		f, err := access.Decode(good(own, x, "fe80::9", ra))
		r.handle(core.Message{Path: core.Path{If: 2}, Body: f, Err: err})
		r.want("eth0 2001:db8:a::/64")
	})
	t.Run("on a link that is not managed, or without IPv6", func(t *testing.T) {
		for _, name := range []string{"lo", "wl0"} {
			r := newRig(t, Config{Links: []Pattern{{Match: "wl*", V4: true}}})
			r.add(2, name, true)
			f, _ := access.Decode(good(x, x, "fe80::9", ra))
			r.handle(core.Message{Path: core.Path{If: 2}, Body: f})
			if len(r.kernel.sysctl) > 0 || len(r.sent) > 0 || len(r.m.links[2].prefixes) > 0 {
				t.Errorf("%s: %v %v", name, r.kernel.sysctl, r.sent)
			}
		}
	})
}

// TestStorm: a thousand prefixes by a hundred routers that do not exist. Tables and work stay bounded, what is in use stays
// in use, and afterwards a true router is still taken in.
func TestStorm(t *testing.T) {
	for _, c := range []struct {
		name  string
		first bool // the storm is there before the true router
	}{{"while attached", false}, {"before", true}} {
		t.Run(c.name, func(t *testing.T) {
			r := newRig(t, Config{})
			r.check = r.invariants
			n := newNet(1, netA)
			r.add(2, "eth0", false)
			n.routers[0].silent = c.first
			r.carrier(2, n)
			r.run(3 * time.Second)
			var forged []*testRouter
			for i := range 100 {
				rt := newNet(0x1000 + i).routers[0]
				rt.mac, rt.silent = core.MAC{2, 6, 6, 6, 6, byte(i)}, true
				rt.ra.Options = nd.Options{nd.SourceLinkLayer(rt.mac)}
				for j := range 10 {
					rt.ra.Options = append(rt.ra.Options, pi(fmt.Sprintf("2001:db8:%x::/64", 0x1000+10*i+j), nd.Infinity, nd.Infinity))
				}
				forged = append(forged, rt)
			}
			changes := 0
			for round := range 20 {
				for _, rt := range forged {
					rt.advertise(r, n, 2, nil)
				}
				if !c.first {
					n.routers[0].advertise(r, n, 2, nil)
				}
				r.run(100 * time.Millisecond)
				if !c.first && !strings.Contains(r.list(), netA) {
					t.Fatalf("round %d: %q", round, r.list())
				}
			}
			changes = len(r.kernel.rules)
			if changes > MaxAddresses {
				t.Errorf("%d rules", changes)
			}
			counts := r.m.Counters()
			if counts["rate-limit"] < 1000 || counts["prefix-limit"] == 0 {
				t.Errorf("counted %v", counts)
			}
			if n := strings.Count(strings.Join(r.emitted("message-ignored"), " "), ">"); n < 1000 {
				t.Errorf("told of %d", n)
			}
			if len(r.sent) > 400 { // 16 routers, each asked a few times
				t.Errorf("the storm made us send %d frames", len(r.sent))
			}
			if !c.first && r.m.links[2].routers[0].lastRA < r.now-200*time.Millisecond {
				t.Errorf("the storm drowned the router in use: last heard %s ago", r.now-r.m.links[2].routers[0].lastRA)
			}
			n.routers[0].silent = false
			for range 20 { // at most once in a second, as routers do
				n.routers[0].advertise(r, n, 2, nil)
				r.run(time.Second)
			}
			if !strings.Contains(r.list(), netA) {
				t.Errorf("after the storm: %q, counted %v", r.list(), r.m.Counters())
			}
			if list := r.m.CareOfs(); len(list) != 1 {
				t.Errorf("addresses of the storm are still offered: %q", r.list())
			}
		})
	}
}

// TestManyRouters: sixteen that answer are kept; a seventeenth is refused, until one of them dies.
func TestManyRouters(t *testing.T) {
	r := newRig(t, Config{})
	r.check = r.invariants
	n := newNet(1, netA)
	for i := 2; i <= MaxRouters; i++ {
		n.routers = append(n.routers, newNet(i, netA).routers...)
	}
	r.add(2, "eth0", false)
	r.carrier(2, n)
	r.run(3 * time.Second)
	n.routers = append(n.routers, newNet(MaxRouters+1, netA).routers...)
	n.routers[MaxRouters].advertise(r, n, 2, nil)
	r.run(wireDelay)
	if c := r.m.Counters(); len(r.m.links[2].routers) != MaxRouters || c["router-limit"] != 1 {
		t.Fatalf("%d routers, counted %v", len(r.m.links[2].routers), c)
	}
	n.routers[3].silent = true
	r.run(DefaultVerify + 3*time.Second)
	n.routers[MaxRouters].advertise(r, n, 2, nil)
	r.run(wireDelay)
	if r.m.links[2].findRouter(n.routers[MaxRouters].ll) == nil {
		t.Errorf("the seventeenth found no room: %+v", r.m.Links())
	}
}

// TestManyPrefixes: one router advertises forty; thirty-two are kept and eight of them make addresses.
func TestManyPrefixes(t *testing.T) {
	r := newRig(t, Config{})
	r.check = r.invariants
	n := newNet(1)
	for i := range 40 {
		n.routers[0].ra.Options = append(n.routers[0].ra.Options, pi(fmt.Sprintf("2001:db8:1:%x::/64", i), 7200, 3600))
	}
	r.add(2, "eth0", false)
	r.carrier(2, n)
	r.run(3 * time.Second)
	if len(r.m.CareOfs()) != MaxAddresses || len(r.m.links[2].prefixes) != MaxPrefixes {
		t.Errorf("%d addresses, %d prefixes", len(r.m.CareOfs()), len(r.m.links[2].prefixes))
	}
	if c := r.m.Counters(); c["prefix-limit"] != 8+24 {
		t.Errorf("counted %v", c)
	}
}

// TestSharedAddress: the next network's router has the same link-local and MAC address (RFC 6275 11.5.1). It answers in the
// old one's place, so its advertisements decide: at once with the R flag, else when the second lacks the old prefix.
func TestSharedAddress(t *testing.T) {
	spec.Covers(t, "RFC6275-11.5.1")
	for _, flag := range []bool{false, true} {
		r := newRig(t, Config{})
		a, b := newNet(1, netA), newNet(1, netB)
		for _, n := range []*network4test{a, b} {
			p := n.routers[0].ra.Options[1].(*nd.PrefixInformation)
			p.RouterAddr = flag
			if flag {
				p.Prefix = netip.PrefixFrom(p.Prefix.Addr().Next(), 64)
			}
		}
		r.add(2, "eth0", false)
		r.carrier(2, a)
		r.run(3 * time.Second)
		r.roam(2, b)
		b.routers[0].advertise(r, b, 2, nil)
		r.run(wireDelay)
		if flag {
			r.want("eth0 2001:db8:b::/64 optimistic")
			continue
		}
		r.want("eth0 2001:db8:a::/64, eth0 2001:db8:b::/64 optimistic")
		r.run(2 * wireDelay) // solicited
		r.want("eth0 2001:db8:b::/64 optimistic")
	}
}

// TestPartialAdvertisement: a router that leaves a prefix out once keeps it (RFC 4861 6.3.4).
func TestPartialAdvertisement(t *testing.T) {
	spec.Covers(t, "RFC4861-6.3.4")
	r, n := attached(t, Config{})
	n.advertise(r, setPrefix(pi(netA, 7200, 3600), pi(netB, 7200, 3600)))
	whole := n.routers[0].ra
	n.advertise(r, setPrefix(pi(netB, 7200, 3600)))
	n.routers[0].ra = whole
	r.run(5 * time.Second)
	r.want("eth0 2001:db8:a::/64, eth0 2001:db8:b::/64")
	// One without any prefix says nothing, ever so often.
	for range 5 {
		n.advertise(r, setPrefix())
	}
	r.want("eth0 2001:db8:a::/64, eth0 2001:db8:b::/64")
}

// TestAdvertisementInterval: a router that announces how often it advertises and does not is asked (RFC 6275 11.5.1).
func TestAdvertisementInterval(t *testing.T) {
	spec.Covers(t, "RFC6275-7.3")
	r, n := attached(t, Config{Verify: time.Hour})
	n.advertise(r, func(ra *nd.RouterAdvertisement) {
		ra.Options = append(ra.Options, nd.AdvertisementInterval(2000))
	})
	n.routers[0].silent = true
	r.sent = nil
	r.run(5*time.Second - 1)
	r.want("eth0 2001:db8:a::/64")
	r.run(time.Second + 1)
	r.want("eth0 2001:db8:a::/64 suspect")
	r.run(2 * time.Second)
	r.want("")
}

// TestAnotherMAC: a known router advertises, or says by an override, another MAC address. It is asked there, at once, and
// counts as usable meanwhile; also if it was not to be used before.
func TestAnotherMAC(t *testing.T) {
	for _, by := range []string{"advertisement", "override", "no override", "advertisement after carrier"} {
		t.Run(by, func(t *testing.T) {
			r, n := attached(t, Config{})
			rt := n.routers[0]
			was, other := rt.mac, core.MAC{2, 0, 0, 0, 8, 8}
			if by == "advertisement after carrier" {
				n.lose = func() bool { return true }
				r.carrier(2, nil)
				r.carrier(2, n)
				r.run(100 * time.Millisecond)
				r.want("")
				n.lose = nil
			}
			r.sent = nil
			rt.mac = other
			switch by {
			case "override", "no override":
				n.send(r, 2, &access.Frame{Dst: multicastMAC(nd.AllNodes), Src: other, SrcIP: rt.ll, DstIP: nd.AllNodes,
					Body: &nd.NeighborAdvertisement{Router: true, Override: by == "override", Target: rt.ll, Options: nd.Options{nd.TargetLinkLayer(other)}}})
				r.run(wireDelay)
			default:
				n.advertise(r, func(ra *nd.RouterAdvertisement) { ra.Options[0] = nd.SourceLinkLayer(other) })
			}
			r.want("eth0 2001:db8:a::/64")
			if by == "no override" {
				if got := r.m.links[2].routers[0].mac; got != was || len(r.sent) > 0 {
					t.Errorf("%s: %s, sent %v", by, got, r.sent)
				}
				return
			}
			if len(r.sent) != 1 || r.sent[0].f.Dst != other {
				t.Errorf("%s: sent %+v", by, r.sent)
			}
			if c := r.m.CareOfs()[0]; c.Network != "2001:db8:a::/64 "+other.String() {
				t.Errorf("%s: %+v", by, c)
			}
			r.run(2 * wireDelay)
			if got := r.m.Links()[0].Routers[0].State; got != "reachable" {
				t.Errorf("%s: %s", by, got)
			}
		})
	}
}

// TestNoRouterAnyMore: an answer without the Router flag (RFC 4861 7.2.5).
func TestNoRouterAnyMore(t *testing.T) {
	spec.Covers(t, "RFC4861-7.2.5")
	r, n := attached(t, Config{})
	n.routers[0].noRouter, n.routers[0].ra = true, nil
	r.effects(r.m.Suspect(r.clock(), r.m.CareOfs()[0].Addr, nil))
	r.run(2 * wireDelay)
	r.want("")
}

// TestSolicitations: at once, a second later, and backed off without end; after the advertisement none (RFC 4861 6.3.7).
func TestSolicitations(t *testing.T) {
	spec.Covers(t, "RFC4861-6.3.7")
	r := newRig(t, Config{})
	n := newNet(1, netA)
	n.routers[0].silent = true
	r.add(2, "eth0", false)
	r.carrier(2, n)
	r.run(3 * time.Minute)
	// The jitter of this rig is the least: nine tenths.
	want := []time.Duration{0, 900, 2700, 6300, 13500, 27900, 56700, 110700, 164700}
	for i := range want {
		want[i] *= time.Millisecond
	}
	if got := r.frames("rs"); !slices.Equal(got, want) {
		t.Errorf("solicited at %v, want %v", got, want)
	}
	n.routers[0].silent = false
	r.run(time.Minute)
	r.want("eth0 2001:db8:a::/64")
	count := len(r.frames("rs"))
	r.run(10 * time.Minute)
	if got := r.frames("rs"); len(got) != count {
		t.Errorf("solicited at %v", got)
	}
	// The carrier flaps a thousand times in a second: few solicitations.
	r.sent = nil
	for range 500 {
		r.carrier(2, nil)
		r.run(time.Millisecond)
		r.carrier(2, n)
		r.run(time.Millisecond)
	}
	if got := r.frames("rs"); len(got) > solicitBurst+solicitRate+1 {
		t.Errorf("solicited %d times: %v", len(got), got)
	}
	r.run(2 * time.Second)
	r.want("eth0 2001:db8:a::/64")
}
