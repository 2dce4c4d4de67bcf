package anchor

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"kedge/internal/core"
	"kedge/internal/pool"
	"kedge/internal/spec"
	"kedge/internal/subscriber"
	"kedge/wire"
	"kedge/wire/mobility"
)

// short is the option of draft-soliman-v4v6-mipv6-00 with its literal Length octet, or the one that counts octets.
func short(s string, length uint8) mobility.Value {
	return mobility.IPv4HomeAddress{Addr: ip(s), Short: length}
}

// TestHostIPv4Statuses: each status of the IPv4 address acknowledgement with the request that provokes it. The IPv6 home
// address is bound all the same.
func TestHostIPv4Statuses(t *testing.T) {
	spec.Covers(t, "S004-3.2.1-02", "S004-3.2.1-06", "S004-3.2.1-07", "S004-3.2.1-08", "S004-3.2.1-09", "S004-3.2.1-10", "S004-3.2.1-12",
		"S004-3.4-06", "S004-3.4-08", "S004-3.1.1-03", "S004-3.1.1-04", "S004-3.1.1-05")
	two := func(c *Config) {
		for n := range c.Pools {
			if c.Pools[n].Name == "v4b" {
				c.Pools[n].Prefix = pfx("10.30.0.0/30") // router and one host
			}
		}
	}
	full := func(r *rig) {
		r.status(native(hoa2, coa2, dynamic29), 0)
	}
	for _, c := range []struct {
		name   string
		change func(*Config)
		first  func(*rig)
		home   netip.Addr
		ask    mobility.IPv4HomeAddress
		want   mobility.IPv4AddressAck
		reason wire.Reason
	}{
		{"0 static", nil, nil, hoa1, mobility.IPv4HomeAddress{Addr: ip("10.20.0.21"), PrefixLen: 32}, mobility.IPv4AddressAck{Addr: ip("10.20.0.21"), PrefixLen: 32}, ""},
		{"0 static, with the length of the home network", nil, nil, hoa1, mobility.IPv4HomeAddress{Addr: ip("10.20.0.21"), PrefixLen: 16}, mobility.IPv4AddressAck{Addr: ip("10.20.0.21"), PrefixLen: 32}, ""},
		{"0 dynamic is static", nil, nil, hoa1, mobility.IPv4HomeAddress{Addr: ip("0.0.0.0"), PrefixLen: 32}, mobility.IPv4AddressAck{Addr: ip("10.20.0.21"), PrefixLen: 32}, ""},
		{"0 dynamic", nil, nil, hoa2, mobility.IPv4HomeAddress{Addr: ip("0.0.0.0"), PrefixLen: 32}, mobility.IPv4AddressAck{Addr: ip("10.30.0.2"), PrefixLen: 32}, ""},
		{"0 prefix", nil, nil, hoa4, mobility.IPv4HomeAddress{Addr: ip("10.99.1.0"), PrefixLen: 24, P: true}, mobility.IPv4AddressAck{Addr: ip("10.99.1.0"), PrefixLen: 24}, ""},
		{"0 prefix, refreshed", nil, nil, hoa4, mobility.IPv4HomeAddress{Addr: ip("10.99.1.0"), PrefixLen: 24}, mobility.IPv4AddressAck{Addr: ip("10.99.1.0"), PrefixLen: 24}, ""},
		{"0 any prefix", nil, nil, hoa4, mobility.IPv4HomeAddress{Addr: ip("0.0.0.0"), PrefixLen: 24, P: true}, mobility.IPv4AddressAck{Addr: ip("10.99.1.0"), PrefixLen: 24}, ""},
		{"0 any prefix, another length", nil, nil, hoa4, mobility.IPv4HomeAddress{Addr: ip("0.0.0.0"), PrefixLen: 29, P: true}, mobility.IPv4AddressAck{Addr: ip("10.99.0.0"), PrefixLen: 28}, ""},
		{"128 prefix length 0", nil, nil, hoa1, mobility.IPv4HomeAddress{Addr: ip("10.20.0.21")}, mobility.IPv4AddressAck{Status: 128, Addr: ip("10.20.0.21")}, wire.PrefixLengthZero},
		{"129 no IPv4 for the subscriber", nil, nil, hoa3, mobility.IPv4HomeAddress{Addr: ip("0.0.0.0"), PrefixLen: 32}, mobility.IPv4AddressAck{Status: 129, Addr: ip("0.0.0.0")}, wire.IPv4Disabled},
		{"129 no IPv4 for anybody", func(c *Config) { c.DSMIP6.NoIPv4 = true }, nil, hoa1, mobility.IPv4HomeAddress{Addr: ip("10.20.0.21"), PrefixLen: 32}, mobility.IPv4AddressAck{Status: 129, Addr: ip("10.20.0.21")}, wire.IPv4Disabled},
		{"130 another's static", nil, nil, hoa1, mobility.IPv4HomeAddress{Addr: ip("10.20.0.10"), PrefixLen: 32}, mobility.IPv4AddressAck{Status: 130, Addr: ip("10.20.0.10")}, wire.IPv4NotAuthorized},
		{"130 another's static, asked for by who has a pool", nil, nil, hoa2, mobility.IPv4HomeAddress{Addr: ip("10.20.0.21"), PrefixLen: 32}, mobility.IPv4AddressAck{Status: 130, Addr: ip("10.20.0.21")}, wire.IPv4NotAuthorized},
		{"130 another's dynamic", nil, full, hoa1, mobility.IPv4HomeAddress{Addr: ip("10.30.0.2"), PrefixLen: 32}, mobility.IPv4AddressAck{Status: 130, Addr: ip("10.30.0.2")}, wire.IPv4NotAuthorized},
		{"130 free, but not his", nil, nil, hoa2, mobility.IPv4HomeAddress{Addr: ip("10.30.0.77"), PrefixLen: 32}, mobility.IPv4AddressAck{Status: 130, Addr: ip("10.30.0.77")}, wire.IPv4NotAuthorized},
		{"130 the router's", nil, nil, hoa2, mobility.IPv4HomeAddress{Addr: ip("10.30.0.1"), PrefixLen: 32}, mobility.IPv4AddressAck{Status: 130, Addr: ip("10.30.0.1")}, wire.IPv4NotAuthorized},
		{"130 of nobody here", nil, nil, hoa2, mobility.IPv4HomeAddress{Addr: ip("192.0.2.1"), PrefixLen: 32}, mobility.IPv4AddressAck{Status: 130, Addr: ip("192.0.2.1")}, wire.IPv4NotAuthorized},
		{"131 multicast", nil, nil, hoa1, mobility.IPv4HomeAddress{Addr: ip("224.0.0.1"), PrefixLen: 32}, mobility.IPv4AddressAck{Status: 131, Addr: ip("224.0.0.1")}, wire.NotUnicast},
		{"131 broadcast", nil, nil, hoa1, mobility.IPv4HomeAddress{Addr: ip("255.255.255.255"), PrefixLen: 32}, mobility.IPv4AddressAck{Status: 131, Addr: ip("255.255.255.255")}, wire.NotUnicast},
		{"131 loopback", nil, nil, hoa1, mobility.IPv4HomeAddress{Addr: ip("127.0.0.1"), PrefixLen: 32}, mobility.IPv4AddressAck{Status: 131, Addr: ip("127.0.0.1")}, wire.NotUnicast},
		{"131 link-local", nil, nil, hoa1, mobility.IPv4HomeAddress{Addr: ip("169.254.0.1"), PrefixLen: 32}, mobility.IPv4AddressAck{Status: 131, Addr: ip("169.254.0.1")}, wire.NotUnicast},
		{"131 broadcast of the home network", nil, nil, hoa2, mobility.IPv4HomeAddress{Addr: ip("10.30.0.255"), PrefixLen: 32}, mobility.IPv4AddressAck{Status: 131, Addr: ip("10.30.0.255")}, wire.NotUnicast},
		{"132 pool is empty", two, func(r *rig) { r.ok(attach(mag1, "static2@example.net", mac1).with4("10.30.0.2")) }, hoa2,
			mobility.IPv4HomeAddress{Addr: ip("0.0.0.0"), PrefixLen: 32}, mobility.IPv4AddressAck{Status: 132, Addr: ip("0.0.0.0")}, wire.PoolExhausted},
		{"132 no pool", func(c *Config) { c.Pools = slices.DeleteFunc(c.Pools, isV4Free); dropStatic(c) }, nil, hoa2,
			mobility.IPv4HomeAddress{Addr: ip("0.0.0.0"), PrefixLen: 32}, mobility.IPv4AddressAck{Status: 132, Addr: ip("0.0.0.0")}, wire.PoolExhausted},
		{"132 the store is lost", func(c *Config) { c.FirstStart = false }, nil, hoa2,
			mobility.IPv4HomeAddress{Addr: ip("0.0.0.0"), PrefixLen: 32}, mobility.IPv4AddressAck{Status: 132, Addr: ip("0.0.0.0")}, wire.StoreLost},
		{"133 another's prefix", nil, nil, hoa1, mobility.IPv4HomeAddress{Addr: ip("10.99.1.0"), PrefixLen: 24, P: true}, mobility.IPv4AddressAck{Status: 133, Addr: ip("10.99.1.0")}, wire.NetworkRefused},
		{"133 part of his prefix", nil, nil, hoa4, mobility.IPv4HomeAddress{Addr: ip("10.99.1.0"), PrefixLen: 25, P: true}, mobility.IPv4AddressAck{Status: 133, Addr: ip("10.99.1.0")}, wire.NetworkRefused},
		{"133 no prefixes", nil, nil, hoa2, mobility.IPv4HomeAddress{Addr: ip("0.0.0.0"), PrefixLen: 28, P: true}, mobility.IPv4AddressAck{Status: 133, Addr: ip("0.0.0.0")}, wire.NetworkRefused},
		// The same in the older dialect, whose option has no prefix length.
		{"draft: 0 static", nil, nil, hoa1, mobility.IPv4HomeAddress{Addr: ip("10.20.0.21"), Short: 1}, mobility.IPv4AddressAck{Addr: ip("10.20.0.21"), Short: 1}, ""},
		{"draft: 0 static, octets", nil, nil, hoa1, mobility.IPv4HomeAddress{Addr: ip("10.20.0.21"), Short: 4}, mobility.IPv4AddressAck{Addr: ip("10.20.0.21")}, ""},
		{"draft: 0 dynamic", nil, nil, hoa2, mobility.IPv4HomeAddress{Addr: ip("0.0.0.0"), Short: 1}, mobility.IPv4AddressAck{Addr: ip("10.30.0.2"), Short: 1}, ""},
		{"draft: 129", nil, nil, hoa3, mobility.IPv4HomeAddress{Addr: ip("0.0.0.0"), Short: 1}, mobility.IPv4AddressAck{Status: 129, Addr: ip("0.0.0.0"), Short: 1}, wire.IPv4Disabled},
		{"draft: 130", nil, nil, hoa1, mobility.IPv4HomeAddress{Addr: ip("10.20.0.10"), Short: 1}, mobility.IPv4AddressAck{Status: 130, Addr: ip("10.20.0.10"), Short: 1}, wire.IPv4NotAuthorized},
		{"draft: 131", nil, nil, hoa1, mobility.IPv4HomeAddress{Addr: ip("224.0.0.1"), Short: 4}, mobility.IPv4AddressAck{Status: 131, Addr: ip("224.0.0.1")}, wire.NotUnicast},
	} {
		for framing, b := range map[string]bu{
			"native": native(c.home, coa1, c.ask),
			"UDP":    udp(c.home, ip("10.0.0.7"), netip.MustParseAddrPort("203.0.113.5:50123"), c.ask),
			"41":     in41(c.home, v4coa, c.ask),
		} {
			t.Run(c.name+", "+framing, func(t *testing.T) {
				r := startHosts(t, c.change)
				if c.first != nil {
					c.first(r)
				}
				keys := len(r.keys)
				a := r.status(b, mobility.Accepted)
				if got := acks(a); !slices.Equal(got, []mobility.IPv4AddressAck{c.want}) {
					t.Fatalf("acknowledged %+v, want %+v", got, c.want)
				}
				if _, ok := r.chain(c.home); !ok {
					t.Error("the IPv6 home address is not bound")
				}
				if c.reason == "" {
					if k := netip.PrefixFrom(c.want.Addr, max(int(c.want.PrefixLen), 1)); c.ask.Short == 0 && !r.keys[k].Down {
						t.Errorf("%v is not bound: %v", k, r.keys)
					}
					if len(r.keys) != keys+2 {
						t.Errorf("keys %v", r.keys)
					}
				} else if len(r.keys) != keys+1 || r.m.refused[c.reason] != 1 {
					t.Errorf("keys %v, refused %v", r.keys, r.m.refused)
				}
				r.leakless()
			})
		}
	}
}

// with4 asks for an IPv4 home address in a Proxy Binding Update.
func (p pbu) with4(s string) pbu {
	p.v4 = want36(s, 32)
	return p
}

// isV4Free and dropStatic leave an anchor without IPv4 pools.
func isV4Free(p pool.Config) bool { return p.Prefix.Addr().Is4() }

func dropStatic(c *Config) {
	for n := range c.Subscribers.List {
		s := &c.Subscribers.List[n]
		s.V4, s.V4Pools = netip.Addr{}, nil
	}
}

// TestHostDynamic: an address is allocated, stored with the home address, refreshed by its name or by 0.0.0.0, kept over a
// move and a restart, given back and not given to another for a while.
func TestHostDynamic(t *testing.T) {
	spec.Covers(t, "S004-2.4-02", "S004-3.4-04", "S004-3.4-07")
	r := startHosts(t)
	got := acks(r.status(native(hoa2, coa1, dynamic29), mobility.Accepted))[0]
	if got.Status != 0 || !pfx("10.30.0.0/24").Contains(got.Addr) {
		t.Fatalf("allocated %+v", got)
	}
	r.reaches(got.Addr, layer6(coa1))
	seen := netip.MustParseAddrPort("203.0.113.5:50123")
	for _, b := range []bu{
		native(hoa2, coa1, opt29(got.Addr.String(), 32)),
		native(hoa2, coa1, dynamic29),
		native(hoa2, coa2, opt29(got.Addr.String(), 32)),
		udp(hoa2, ip("10.0.0.7"), seen, dynamic29),
		in41(hoa2, v4coa, short(got.Addr.String(), 1)),
	} {
		if a := acks(r.status(b, mobility.Accepted)); len(a) != 1 || a[0].Status != 0 || a[0].Addr != got.Addr {
			t.Fatalf("%+v, want %v again", a, got.Addr)
		}
	}
	r.restart()
	if a := acks(r.status(native(hoa2, coa1, opt29(got.Addr.String(), 32)).numbered(1000), mobility.Accepted)); a[0].Status != 0 {
		t.Fatalf("%+v after a restart", a)
	}
	// Ended, it rests: its node gets it back, by its name too, and nobody else does.
	r.pass(10 * time.Minute)
	r.unreached(got.Addr)
	if a := acks(r.status(native(hoa1, coa1, opt29(got.Addr.String(), 32)), mobility.Accepted)); a[0].Status != mobility.AddressIncorrect {
		t.Fatalf("%+v for another node", a)
	}
	r.status(native(hoa2, coa1).numbered(1001), mobility.Accepted)
	r.status(native(hoa2, coa1, dynamic29).numbered(1002), mobility.Accepted)
	r.leakless()
}

// TestHostDynamicAgain: within MinDelayBeforeBCEDelete after the end an address is still its node's, and after that as long as nobody
// needs it: by its name, by asking for any, and after a restart that found the registration over. Others get others.
func TestHostDynamicAgain(t *testing.T) {
	r := startHosts(t)
	first := acks(r.status(native(hoa2, coa1, dynamic29), mobility.Accepted))[0].Addr
	r.pass(301 * time.Second)
	a := acks(r.status(native(hoa2, coa1, opt29(first.String(), 32)), mobility.Accepted))
	if a[0].Status != 0 || a[0].Addr != first {
		t.Errorf("%+v, want %v back", a, first)
	}
	r.status(native(hoa2, coa1), mobility.Accepted) // without: given up
	r.pass(11 * time.Second)
	if a := acks(r.status(native(hoa1, coa1, opt29(first.String(), 32)), mobility.Accepted)); a[0].Status != mobility.AddressIncorrect {
		t.Errorf("another gets it by its name: %+v", a)
	}
	if said := fmt.Sprintf("%+v", r.tail()); !strings.Contains(said, "is free, but was not his") {
		t.Errorf("refused with %s", said)
	}
	if a := acks(r.status(native(hoa2, coa1, opt29(first.String(), 32)), mobility.Accepted)); a[0].Status != 0 || a[0].Addr != first {
		t.Errorf("by its name: %+v, want %v back", a, first)
	}
	r.status(native(hoa2, coa1), mobility.Accepted)
	r.pass(time.Hour)
	if a := acks(r.status(native(hoa2, coa1, dynamic29), mobility.Accepted)); a[0].Status != 0 || a[0].Addr != first {
		t.Errorf("asked for any: %+v, want %v back", a, first)
	}
	r.now.Wall = r.now.Wall.Add(24 * time.Hour)
	r.restart()
	if a := acks(r.status(native(hoa4, coa1, dynamic29), mobility.Accepted)); a[0].Addr == first {
		t.Errorf("another one got %v", first)
	}
	if a := acks(r.status(native(hoa2, coa1, dynamic29).numbered(1000), mobility.Accepted)); a[0].Status != 0 || a[0].Addr != first {
		t.Errorf("after a restart: %+v, want %v back", a, first)
	}
	r.leakless()
}

// TestHostSeveral: several addresses and prefixes in one Binding Update, each with its own acknowledgement, in their order;
// the next one replaces them as a whole.
func TestHostSeveral(t *testing.T) {
	r := startHosts(t, func(c *Config) { c.Pools[len(c.Pools)-1].Prefix = pfx("10.40.0.0/24") })
	ask := []mobility.Value{dynamic29, opt29p("10.99.0.0", 28), opt29("10.20.0.10", 32), opt29p("0.0.0.0", 24), dynamic29, opt29("224.0.0.1", 32), opt29p("0.0.0.0", 24)}
	a := acks(r.status(native(hoa4, coa1, ask...), mobility.Accepted))
	want := []mobility.IPv4AddressAck{
		{Addr: ip("10.40.0.2"), PrefixLen: 32},
		{Addr: ip("10.99.0.0"), PrefixLen: 28},
		{Status: 130, Addr: ip("10.20.0.10")},
		{Addr: ip("10.99.1.0"), PrefixLen: 24},
		{Addr: ip("10.40.0.3"), PrefixLen: 32},
		{Status: 131, Addr: ip("224.0.0.1")},
		{Status: 133, Addr: ip("0.0.0.0")},
	}
	if !slices.Equal(a, want) {
		t.Errorf("acknowledged %+v", a)
	}
	for _, s := range []string{"10.40.0.2", "10.40.0.3", "10.99.0.5", "10.99.1.200"} {
		r.reaches(ip(s), layer6(coa1))
	}
	if b := r.one(mn4); len(b.Home) != 5 || b.IPv4 != pfx("10.40.0.2/32") {
		t.Errorf("binding %+v", b)
	}
	// The same twice is one.
	a = acks(r.status(native(hoa4, coa1, opt29("10.40.0.3", 32), opt29("10.40.0.3", 32), opt29p("10.99.0.0", 28), opt29("10.99.0.0", 28)), mobility.Accepted))
	if len(a) != 4 || a[0] != a[1] || a[2] != a[3] || a[0].Status != 0 || a[2].Status != 0 {
		t.Errorf("acknowledged %+v", a)
	}
	if len(r.keys) != 3 {
		t.Errorf("keys %v", r.keys)
	}
	r.unreached(ip("10.40.0.2"))
	r.unreached(ip("10.99.1.200"))
	r.leakless()
}

// TestHostTooMany: one registration cannot empty a pool.
func TestHostTooMany(t *testing.T) {
	r := startHosts(t)
	a := acks(r.status(native(hoa2, coa1, slices.Repeat([]mobility.Value{dynamic29}, 20)...), mobility.Accepted))
	for n, v := range a {
		if want := mobility.DynamicAddressNotAvailable; n < maxDynamic && v.Status != 0 || n >= maxDynamic && v.Status != want {
			t.Errorf("%d: %+v", n, v)
		}
	}
	if len(a) != 20 || len(r.keys) != 1+maxDynamic {
		t.Errorf("%d acknowledgements, keys %v", len(a), r.keys)
	}
	r.leakless()
}

// TestHostDialects: a registration is answered in the dialect that it came in, and remembers it.
func TestHostDialects(t *testing.T) {
	only := func(ds ...DSMIPDialect) func(*Config) { return func(c *Config) { c.DSMIP6.Dialects = ds } }
	dialect := func(r *rig, want string) {
		t.Helper()
		if got := r.one(mn1).Dialect; got != want {
			t.Errorf("dialect %s, want %s", got, want)
		}
	}
	r := startHosts(t)
	r.status(native(hoa1, coa1, short("10.20.0.21", 1)), mobility.Accepted)
	dialect(r, "draft-soliman-00")
	r.status(native(hoa1, coa1, opt29("10.20.0.21", 32)), mobility.Accepted)
	dialect(r, "rfc5555")
	r.status(in41(hoa1, v4coa), mobility.Accepted)
	dialect(r, "draft-soliman-00")
	r.restart()
	dialect(r, "draft-soliman-00")

	// The draft is answered only where it is asked for.
	r = startHosts(t, only())
	r.ignored(in41(hoa1, v4coa))
	r.status(udp(hoa1, v4coa, netip.AddrPortFrom(v4coa, port4191)), mobility.Accepted)
	if a := acks(r.status(native(hoa1, coa1, short("10.20.0.21", 1)), mobility.Accepted)); len(a) != 0 {
		t.Errorf("acknowledged %+v: an option that is not understood is skipped", a)
	}
	r = startHosts(t, only(Soliman00))
	r.ignored(udp(hoa1, v4coa, netip.AddrPortFrom(v4coa, port4191)))
	r.status(in41(hoa1, v4coa), mobility.Accepted)
	if a := acks(r.status(native(hoa1, coa1, opt29("10.20.0.21", 32)), mobility.Accepted)); len(a) != 0 {
		t.Errorf("acknowledged %+v", a)
	}
}

// TestHostConfig: what is wrong with home addresses is said at the start.
func TestHostConfig(t *testing.T) {
	home := pfx("2001:db8:1000:77::10/64")
	add := func(p subscriber.Profile) func(*Config) {
		return func(c *Config) { c.Subscribers.List = append(c.Subscribers.List, p) }
	}
	for want, change := range map[string]func(*Config){
		`there is no peer "nobody"`: add(subscriber.Profile{ID: "a", HoA: home, Peer: "nobody"}),
		"is in no pool":             add(subscriber.Profile{ID: "a", HoA: pfx("2001:db8:2000::1/64"), Peer: "mn1"}),
		"no IPv6 address of the anchor": func(c *Config) {
			c.DSMIP6.HomeAgents = []netip.Addr{ip("2001:db8::9")}
		},
		"an address of the anchor itself": add(subscriber.Profile{ID: "a", HoA: netip.PrefixFrom(lmaa, 64), Peer: "mn1"}),
		"10.20.200.1/32 of pool": func(c *Config) {
			c.Addresses = append(c.Addresses, ip("10.20.200.1"))
			c.Subscribers.List = append(c.Subscribers.List, subscriber.Profile{ID: "a", V4: ip("10.20.200.1")})
		},
		`holds all of pool "lease"`: add(subscriber.Profile{ID: "a", HoA: home, Peer: "mn1", Networks: []netip.Prefix{pfx("10.40.0.0/23")}}),
		`holds all of pool "v4b"`:   add(subscriber.Profile{ID: "a", HoA: home, Peer: "mn1", Networks: []netip.Prefix{pfx("10.28.0.0/14")}}),
		"an id has 253 octets":      add(subscriber.Profile{ID: strings.Repeat("a", 254)}),
		"has more than 255 octets": func(c *Config) {
			c.Peers = append(c.Peers, Peer{Name: strings.Repeat("a", 256), Addresses: c.Peers[0].Addresses})
		},
		"cannot be forced":    func(c *Config) { c.DSMIP6.ForceUDP, c.DSMIP6.NoForcedUDP = true, true },
		"none of a home":      func(c *Config) { c.DSMIP6.Dialects = []DSMIPDialect{9} },
		"negative":            func(c *Config) { c.DSMIP6.RefreshAdvice = -1 },
		"MAC and an IPv6":     func(c *Config) { c.HomeLink, c.HomePort = "eth9", HomePort{If: 9} },
		"more than 2^28 unit": add(subscriber.Profile{ID: "a", HoA: home, Peer: "mn1", Networks: []netip.Prefix{pfx("2001:db9::/32")}}),
	} {
		cfg := startHosts(t).cfg
		cfg.Pools = append(cfg.Pools, pool.Config{Name: "large", Prefix: pfx("2001:db9::/32")})
		cfg.DSMIP6.HomeAgents = nil
		cfg.Subscribers.List = slices.Clone(cfg.Subscribers.List)
		change(&cfg)
		if _, err := New(cfg, zeroes{}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("error %v, want one with %q", err, want)
		}
	}
	// On a real home link the home addresses need no pool.
	cfg := startHosts(t).cfg
	cfg.HomeLink = "eth9"
	add(subscriber.Profile{ID: "a", HoA: pfx("2001:db8:2000::1/64"), Peer: "mn1"})(&cfg)
	if _, err := New(cfg, zeroes{}); err != nil {
		t.Error(err)
	}
	// Around them are home networks all the same: who is nobody there is told so.
	r := startHosts(t, func(c *Config) { c.HomeLink, c.Subscribers = cfg.HomeLink, cfg.Subscribers })
	for a, want := range map[string]mobility.Status{"2001:db8:2000::2": mobility.NotHomeAgent, "2001:db8:2000:1::1": mobility.NotHomeSubnet} {
		r.status(native(ip(a), coa1).with(func(b *bu) { b.auth = peerOf(hoa1) }), want)
	}
	// Home networks of nodes are nobody's home network prefix.
	r = startHosts(t)
	for range 20 {
		r.ok(attach(mag1, "x@example.net", nil))
		r.pass(time.Hour)
	}
	r.is(pbu{from: mag1, id: "x@example.net", lifetime: 75, hnp: []netip.Prefix{pfx("2001:db8:1000:10::/64")}, hi: 1, att: 4, ll: mac1}, mobility.NotAuthorizedForHNP)
}

type zeroes struct{}

func (zeroes) Read(b []byte) (int, error) { return len(b), nil }

// TestHostRoutes: mobile networks lead to the device, unless their pool does.
func TestHostRoutes(t *testing.T) {
	r := startHosts(t)
	for _, p := range []string{"10.99.0.0/28", "10.99.1.0/24", "2001:db8:99::/48", "2001:db8:1000::/36", "10.20.0.0/16"} {
		if !slices.Contains(r.host, core.HostOp{Kind: "route", Prefix: pfx(p), Name: "kedge0"}) {
			t.Errorf("no route to %s: %v", p, r.host)
		}
	}
}

// TestHostPrefixFlagRefresh: flag P "must be ignored for binding refreshes" (RFC 5555 3.1.1): it makes no prefix of an address
// that is bound, and one of what is not.
func TestHostPrefixFlagRefresh(t *testing.T) {
	r := startHosts(t)
	v4 := acks(r.status(native(hoa2, coa1, dynamic29), mobility.Accepted))[0].Addr
	a := acks(r.status(native(hoa2, coa1, opt29p(v4.String(), 32)), mobility.Accepted))
	if want := (mobility.IPv4AddressAck{Addr: v4, PrefixLen: 32}); a[0] != want {
		t.Errorf("%+v, want %+v", a, want)
	}
	r.reaches(v4, layer6(coa1))
	if a := acks(r.status(native(hoa1, coa1, opt29p("10.20.0.21", 32)), mobility.Accepted)); a[0].Status != mobility.AddressPrefixAllocNotAllowed {
		t.Errorf("%+v", a)
	}
	r.status(native(hoa4, coa1, opt29p("0.0.0.0", 28)), mobility.Accepted)
	if a := acks(r.status(native(hoa4, coa1, opt29p("10.99.0.0", 28)), mobility.Accepted)); a[0] != (mobility.IPv4AddressAck{Addr: ip("10.99.0.0"), PrefixLen: 28}) {
		t.Errorf("%+v", a)
	}
	r.leakless()
}

// TestHostOwnAddress: an address of the anchor that lies in a pool is nobody's home address.
func TestHostOwnAddress(t *testing.T) {
	r := startHosts(t, func(c *Config) { c.Addresses = append(c.Addresses, ip("10.30.0.2")) })
	if a := acks(r.status(native(hoa2, coa1, dynamic29), mobility.Accepted)); a[0].Addr != ip("10.30.0.3") {
		t.Errorf("%+v", a)
	}
	r.leakless()
}

// TestHostRace: of two nodes that ask at once for the last address, one has it, whatever becomes of the store meanwhile.
func TestHostRace(t *testing.T) {
	last := func(c *Config) {
		for n := range c.Pools {
			if c.Pools[n].Name == "lease" {
				c.Pools[n].Prefix = pfx("10.40.0.0/30")
			}
		}
		profileOf(c, mn2).V4Pools = []string{"lease"}
	}
	for _, fails := range []bool{false, true} {
		r := startHosts(t, last)
		r.hold, r.failStore = true, fails
		r.handle(r.hostMessage(native(hoa2, coa1, dynamic29)))
		r.failStore = false
		a := acks(r.status(native(hoa4, coa2, dynamic29), mobility.Accepted))
		if a[0].Status != mobility.DynamicAddressNotAvailable {
			t.Errorf("%+v: it is being given to another", a)
		}
		r.flush()
		if fails { // it never was
			a = acks(r.status(native(hoa4, coa2, dynamic29), mobility.Accepted))
			if a[0].Status != 0 || a[0].Addr != ip("10.40.0.2") {
				t.Errorf("%+v", a)
			}
		} else {
			r.reaches(ip("10.40.0.2"), layer6(coa1))
		}
		r.leakless()
	}
}

// TestHostLost: a change that gave an address up, and failed after another node had got it, does not bring it back.
func TestHostLost(t *testing.T) {
	r := startHosts(t, func(c *Config) {
		c.Pools = slices.Clone(c.Pools)
		for n := range c.Pools {
			if c.Pools[n].Name == "lease" {
				c.Pools[n].Prefix = pfx("10.40.0.0/30")
			}
		}
		profileOf(c, mn2).V4Pools = []string{"lease"}
	})
	only := ip("10.40.0.2")
	r.status(native(hoa2, coa1, dynamic29), mobility.Accepted)
	r.hold, r.failStore = true, true
	r.handle(r.hostMessage(native(hoa2, coa1)))
	r.failStore = false
	r.pass(11 * time.Second) // it has rested
	if a := acks(r.status(native(hoa4, coa2, dynamic29), mobility.Accepted)); a[0].Addr != only {
		t.Fatalf("%+v", a)
	}
	r.flush()
	r.reaches(only, layer6(coa2))
	r.reaches(hoa2, layer6(coa1))
	if b := r.one(mn2); len(b.Home) != 1 {
		t.Errorf("%+v", b)
	}
	r.leakless()
}

// TestHostForeignProxy: a gateway gets no address that another subscriber's node has.
func TestHostForeignProxy(t *testing.T) {
	r := startHosts(t)
	v4 := acks(r.status(native(hoa2, coa1, dynamic29), mobility.Accepted))[0].Addr
	if a := r.send(attach(mag1, "x@example.net", mac1).with4(v4.String())); a == nil || a.Status.Accepted() {
		t.Errorf("%+v", a)
	}
	r.reaches(v4, layer6(coa1))
	r.leakless()
}
