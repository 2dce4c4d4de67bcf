package anchor

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"kedge/internal/pool"
	"kedge/internal/spec"
	"kedge/internal/subscriber"
	"kedge/wire/mobility"
)

// want36 asks for an address in RFC 5844's option.
func want36(a string, plen uint8) []mobility.Value {
	return []mobility.Value{mobility.IPv4HomeAddressRequest{Addr: ip(a), PrefixLen: plen}}
}

// TestStaticAddresses come from the profile, for ALL_ZERO and when named, and go to nobody else.
func TestStaticAddresses(t *testing.T) {
	spec.Covers(t, "S001-3.3.1-02")
	const id = "static@example.net"
	r := start(t)
	a := r.ok(attach(mag1, id, mac1))
	if v4of(t, a) != ip("10.20.0.10") || !slices.Equal(prefixes(a), []netip.Prefix{pfx("2001:db8:1000:a::/64"), pfx("2001:db8:1000:b::/64")}) {
		t.Errorf("answer %v %v", v4of(t, a), prefixes(a))
	}
	for _, hnp := range prefixes(a) {
		if r.delivered(hnp.Addr()) != mag1 {
			t.Errorf("%v is not delivered", hnp)
		}
	}
	// All prefixes, in another order, are the session's set.
	p := attach(mag2, id, mac1)
	p.hnp = []netip.Prefix{pfx("2001:db8:1000:b::/64"), pfx("2001:db8:1000:a::/64")}
	if got := prefixes(r.ok(p)); len(got) != 2 {
		t.Errorf("prefixes %v", got)
	}
	// Static only: a second interface finds nothing.
	q := attach(mag1, id, mac2)
	q.hi = mobility.HandoffNewInterface
	r.is(q, mobility.InsufficientResources)
	// 10.20.0.8 and .9 are dynamic, .10 and .11 static, so the third dynamic one is .12.
	var got []string
	for i := range 3 {
		got = append(got, v4of(t, r.ok(attach(mag1, fmt.Sprintf("h%d@example.net", i), mac1))).String())
	}
	if !slices.Equal(got, []string{"10.20.0.8", "10.20.0.9", "10.20.0.12"}) {
		t.Errorf("dynamic addresses %v", got)
	}
	r.leakless()
	if v4of(t, r.ok(attach(mag1, id, mac1))) != ip("10.20.0.10") {
		t.Error("the static address is lost after a session")
	}
}

// TestHints: a free address or prefix of the subscriber's pools is given when asked for.
func TestHints(t *testing.T) {
	spec.Covers(t, "S001-3.2.2-06", "S001-3.2.2-37")
	for _, draft := range []bool{false, true} {
		r := start(t)
		p := attach(mag1, h1, mac1)
		p.hnp, p.v4 = []netip.Prefix{pfx("2001:db8:1fff:ffff::/64"), pfx("2001:db8:1000:77::/64")}, want36("10.20.99.99", 32)
		if draft {
			p.v4 = draft29("10.20.99.99", 32)
		}
		a := r.ok(p)
		if v4of(t, a) != ip("10.20.99.99") || !slices.Equal(prefixes(a), p.hnp) {
			t.Errorf("answer %v %v", v4of(t, a), prefixes(a))
		}
		r.leakless()
	}
}

// TestPrefixesPartlyNamed: an ALL_ZERO option beside named prefixes asks for more (RFC 5213 5.3.2 (1)), and the same
// request, sent again because the answer was lost, finds the session that it made.
func TestPrefixesPartlyNamed(t *testing.T) {
	a, b := pfx("2001:db8:1000:a::/64"), pfx("2001:db8:1000:b::/64")
	free := pfx("2001:db8:1000:77::/64")
	for _, row := range []struct {
		id   string
		ask  []netip.Prefix
		want []netip.Prefix
	}{
		{h1, []netip.Prefix{free, zeroHNP}, []netip.Prefix{free, pfx("2001:db8:1000::/64")}},
		{h1, []netip.Prefix{zeroHNP, free, pfx("::/64")}, []netip.Prefix{free, pfx("2001:db8:1000::/64")}},
		{h1, []netip.Prefix{zeroHNP, zeroHNP}, []netip.Prefix{pfx("2001:db8:1000::/64")}},
		{"three@example.net", []netip.Prefix{free, zeroHNP}, []netip.Prefix{free, pfx("2001:db8:1000::/64"), pfx("2001:db8:1000:1::/64")}},
		{"static@example.net", []netip.Prefix{b, zeroHNP}, []netip.Prefix{b, a}},
	} {
		r := start(t)
		p := attach(mag1, row.id, mac1)
		p.hnp = row.ask
		for range 2 {
			if got := prefixes(r.ok(p)); !slices.Equal(got, row.want) {
				t.Errorf("%s asks for %v: got %v, want %v", row.id, row.ask, got, row.want)
			}
		}
		if n := len(r.bindings(row.id)); n != 1 {
			t.Errorf("%s asks for %v: %d sessions", row.id, row.ask, n)
		}
		r.leakless()
	}
	r := start(t) // eight are named: there is no room for what the anchor would add
	p := attach(mag1, h1, mac1)
	p.hnp = []netip.Prefix{zeroHNP}
	for i := range 8 {
		p.hnp = append(p.hnp, netip.PrefixFrom(netip.AddrFrom16([16]byte{0x20, 1, 0xd, 0xb8, 0x10, 0, 1, byte(i)}), 64))
	}
	r.is(p, mobility.InsufficientResources)
	if used, _ := r.m.pools.ByName("hnp").Used(r.now); used != 0 {
		t.Errorf("%d prefixes are used after a refusal", used)
	}
}

// TestRefusalKeepsRest: an address that rests for its last host goes on resting when his request is refused.
func TestRefusalKeepsRest(t *testing.T) {
	r := start(t, func(c *Config) {
		c.Pools = []pool.Config{{Name: "hnp", Prefix: pfx("2001:db8:1000::/64")}, {Name: "v4", Prefix: pfx("10.20.0.0/30")}}
		c.Subscribers.List = nil
	})
	p := attach(mag1, h1, mac1)
	p.lifetime = 1
	r.ok(p)
	r.pass(4 * time.Second)
	p.hnp, p.v4 = []netip.Prefix{pfx("2001:db8:1000::/64")}, want36("192.0.2.1", 32)
	r.is(p, mobility.NotAuthorizedForIPv4HoA)
	other := attach(mag1, "h2@example.net", mac2)
	other.v4 = nil
	r.is(other, mobility.InsufficientResources)
	p.v4 = nil
	r.ok(p)
}

// TestNetworkRequest asks for an address out of a network (notes B17).
func TestNetworkRequest(t *testing.T) {
	spec.Covers(t, "S001-3.2.2-07")
	for _, row := range []struct {
		plen uint8
		net  string
		in   string
	}{{24, "10.20.7.0", "10.20.7.0/24"}, {24, "10.30.0.0", "10.30.0.0/24"}, {16, "10.20.0.0", "10.20.0.0/16"}, {29, "10.20.8.8", "10.20.8.8/29"}} {
		r := start(t)
		p := attach(mag1, h1, mac1)
		p.v4 = draft29(row.net, row.plen)
		got := v4of(t, r.ok(p))
		p.id = "h2@example.net"
		other := v4of(t, r.ok(p))
		if !pfx(row.in).Contains(got) || !pfx(row.in).Contains(other) || got == other {
			t.Errorf("%s/%d: got %v and %v", row.net, row.plen, got, other)
		}
	}
	r := start(t) // a network that is not here
	p := attach(mag1, h1, mac1)
	p.v4 = draft29("192.168.0.0", 24)
	r.is(p, mobility.InsufficientResources)
}

// TestDraftAnswers is section 3.3.2 of the draft with the codes of RFC 5555 in option 30, and partial success.
func TestDraftAnswers(t *testing.T) {
	spec.Covers(t, "S001-3.3.2-11", "S001-3.3.2-28", "S001-3.3.2-30", "S001-3.3.2-33")
	for _, row := range []struct {
		name   string
		id     string
		v4     []mobility.Value
		v6     bool
		status mobility.Status
		option mobility.AddressStatus
		addr   string
		plen   uint8
	}{
		{"accepted", h1, draft29("0.0.0.0", 0), true, 0, 0, "10.20.0.8", 16},
		{"accepted, IPv4 alone", h1, draft29("0.0.0.0", 0), false, 0, 0, "10.20.0.8", 16},
		{"not authorised, IPv6 remains", "v6@example.net", draft29("0.0.0.0", 0), true, 0, 129, "0.0.0.0", 0},
		{"not authorised, nothing remains", "v6@example.net", draft29("0.0.0.0", 0), false, 129, 129, "0.0.0.0", 0},
		{"not the static address, IPv6 remains", "static@example.net", draft29("10.20.0.77", 32), true, 0, 129, "10.20.0.77", 0},
		{"not the static address", "static@example.net", draft29("10.20.0.77", 32), false, 129, 129, "10.20.0.77", 0},
		{"not of this anchor, IPv6 remains", h1, draft29("192.0.2.1", 32), true, 0, 130, "192.0.2.1", 0},
		{"not of this anchor", h1, draft29("192.0.2.1", 32), false, 129, 130, "192.0.2.1", 0},
		{"another's static address", h1, draft29("10.20.0.10", 32), false, 129, 130, "10.20.0.10", 0},
		{"the router", h1, draft29("10.20.0.1", 32), false, 129, 130, "10.20.0.1", 0},
		{"multicast", h1, draft29("224.0.0.1", 32), false, 129, 131, "224.0.0.1", 0},
		{"broadcast", h1, draft29("255.255.255.255", 32), true, 0, 131, "255.255.255.255", 0},
		{"broadcast of the home network", h1, draft29("10.20.255.255", 32), false, 129, 131, "10.20.255.255", 0},
	} {
		t.Run(row.name, func(t *testing.T) {
			r := start(t)
			p := attach(mag1, row.id, mac1)
			p.v4 = row.v4
			if !row.v6 {
				p.hnp = nil
			}
			a := r.is(p, row.status)
			v, ok := a.Options.IPv4AddressAck()
			if !ok || v.Status != row.option || v.Addr != ip(row.addr) || v.PrefixLen != row.plen {
				t.Errorf("option 30 %+v %v, want %d %s/%d", v, ok, row.option, row.addr, row.plen)
			}
			for _, o := range []mobility.OptionType{mobility.OptIPv4HomeAddressReply, mobility.OptIPv4DefaultRouter, mobility.OptIPv4DHCPSupportMode} {
				if a.Options.Has(o) {
					t.Errorf("option %d of the other dialect in the answer", o)
				}
			}
			if a.Status == 0 {
				b := r.one(row.id)
				if b.IPv4.IsValid() != (row.option == 0) || (len(b.Prefixes) > 0) != row.v6 || b.Dialect != "draft-pmip6-v4-02" {
					t.Errorf("binding %+v", b)
				}
			} else if len(r.bindings(row.id)) != 0 {
				t.Error("a refused host has a session")
			}
			r.leakless()
		})
	}
}

// TestDraftExhausted: without an address left the request is refused, whatever else is in it.
func TestDraftExhausted(t *testing.T) {
	spec.Covers(t, "S001-3.3.2-13", "S001-3.3.2-33")
	for _, v6 := range []bool{true, false} {
		for ask, want := range map[string]mobility.AddressStatus{"0.0.0.0": mobility.DynamicAddressNotAvailable, "10.20.0.0": mobility.DynamicAddressNotAvailable} {
			r := start(t, func(c *Config) {
				c.Pools = []pool.Config{c.Pools[0], {Name: "v4", Prefix: pfx("10.20.0.0/30")}}
				c.Subscribers.List = nil
			})
			p := attach(mag1, h1, mac1)
			p.v4 = draft29("0.0.0.0", 0)
			r.ok(p)
			p.id, p.v4 = "h2@example.net", draft29(ask, 30)
			if !v6 {
				p.hnp = nil
			}
			n := len(r.keys)
			a := r.is(p, mobility.InsufficientResources)
			if v, _ := a.Options.IPv4AddressAck(); v.Status != want || !v.Addr.IsUnspecified() || v.PrefixLen != 0 {
				t.Errorf("%s, IPv6 %v: option 30 %+v, want status %d and 0.0.0.0", ask, v6, v, want)
			}
			if len(r.bindings("h2@example.net")) != 0 || len(r.keys) != n {
				t.Errorf("%s, IPv6 %v: the refused host has something", ask, v6)
			}
			r.leakless()
		}
	}
}

// TestDialectDisabled: an option of a dialect that is not served is unknown, so it is skipped; IPv4 alone gives 158,
// which tells the gateway to try the other (notes (a)).
func TestDialectDisabled(t *testing.T) {
	r := start(t, func(c *Config) { c.PMIP6.Dialects = []Dialect{RFC5844} })
	p := attach(mag1, h1, mac1)
	p.hnp, p.v4 = nil, draft29("0.0.0.0", 0)
	a := r.is(p, mobility.MissingHNPOption)
	if _, there := v4Status(a); there {
		t.Error("an IPv4 option of a dialect that is not served")
	}
	r = start(t, func(c *Config) { c.PMIP6.Dialects = []Dialect{Draft02} })
	p = attach(mag1, h1, mac1)
	p.hnp = nil
	r.is(p, mobility.MissingHNPOption)
	p.v4 = draft29("0.0.0.0", 0)
	r.ok(p)
}

// TestAddressChange: a gateway may register another address for the session (the server changed its mind, S001-3.2.2-49).
func TestAddressChange(t *testing.T) {
	r := start(t)
	p := attach(mag1, h1, mac1)
	p.v4 = draft29("10.20.5.5", 32)
	r.ok(p)
	id := r.one(h1).Session
	p.ll, p.hnp, p.v4 = mac1, prefixes(r.ok(p)), draft29("10.20.5.6", 32)
	if got := v4of(t, r.ok(p)); got != ip("10.20.5.6") {
		t.Errorf("got %v", got)
	}
	if b := r.one(h1); b.Session != id || b.IPv4.Addr() != ip("10.20.5.6") {
		t.Errorf("binding %+v", b)
	}
	if r.delivered(ip("10.20.5.5")).IsValid() || r.delivered(ip("10.20.5.6")) != mag1 {
		t.Error("forwarding did not follow")
	}
	r.leakless()
}

// TestQuarantine: an address whose session expired rests for MinDelayBeforeBCEDelete, for everybody but its last host.
func TestQuarantine(t *testing.T) {
	small := func(c *Config) {
		c.Pools = []pool.Config{c.Pools[0], {Name: "v4", Prefix: pfx("10.20.0.0/30")}} // one host
		c.Subscribers.List = nil
	}
	r := start(t, small)
	p := attach(mag1, h1, mac1)
	p.lifetime = 1
	r.ok(p)
	r.pass(4 * time.Second)
	other := attach(mag1, "h2@example.net", mac2)
	r.is(other, mobility.InsufficientResources)
	p.v4 = want36("10.20.0.2", 32)
	r.ok(p) // asks for its own
	r.pass(4 * time.Second)
	r.pass(10*time.Second - 2*time.Millisecond)
	r.is(other, mobility.InsufficientResources)
	r.ok(other)
	r.leakless()
}

// TestSeveralPrefixes gives a subscriber as many /64 as his profile says.
func TestSeveralPrefixes(t *testing.T) {
	r := start(t)
	a := r.ok(attach(mag1, "three@example.net", mac1))
	if n := len(prefixes(a)); n != 3 {
		t.Errorf("%d prefixes", n)
	}
	for _, p := range prefixes(a) {
		if r.delivered(p.Addr()) != mag1 {
			t.Errorf("%v is not delivered", p)
		}
	}
	r.restart()
	if b := r.one("three@example.net"); !slices.Equal(b.Prefixes, prefixes(a)) {
		t.Errorf("restored %v", b.Prefixes)
	}
	r.leakless()
}

// TestUnique registers 200 hosts in turn from two gateways with hints and statics in between: no address twice.
func TestUnique(t *testing.T) {
	spec.Covers(t, "S001-3.3.2-12")
	r := start(t)
	seen := map[netip.Prefix]string{}
	claim := func(id string, a *mobility.BindingAck) {
		if v4 := v4of(t, a); !pfx("10.20.0.0/16").Contains(v4) {
			t.Errorf("%v is not in the home network", v4)
		}
		for _, k := range append(prefixes(a), netip.PrefixFrom(v4of(t, a), 32)) {
			if o := seen[k]; o != "" && o != id {
				t.Fatalf("%v is %s's and %s's", k, o, id)
			}
			seen[k] = id
		}
	}
	for i := range 200 {
		id := fmt.Sprintf("u%d@example.net", i)
		p := attach([]netip.Addr{mag1, mag2}[i%2], id, mac1)
		switch i {
		case 50:
			id, p.id = "static@example.net", "static@example.net"
		case 100:
			p.v4 = want36("10.20.0.150", 32)
		}
		claim(id, r.ok(p))
	}
	if len(seen) != 401 {
		t.Errorf("%d addresses and prefixes, want 401", len(seen))
	}
	r.leakless()
}

// TestConfigErrors names what cannot be, and is given the numbers.
func TestConfigErrors(t *testing.T) {
	for _, row := range []struct {
		name   string
		change func(*Config)
		want   string
	}{
		{"no IPv6 address", func(c *Config) { c.Addresses = []netip.Addr{ip("192.0.2.1")} }, "no IPv6 address"},
		{"multicast address", func(c *Config) { c.Addresses = append(c.Addresses, ip("ff02::1")) }, "ff02::1"},
		{"overlapping pools", func(c *Config) {
			c.Pools = append(c.Pools, pool.Config{Name: "x", Prefix: pfx("10.20.128.0/17")})
		}, "overlaps 10.20.0.0/16"},
		{"pool twice", func(c *Config) { c.Pools = append(c.Pools, c.Pools[0]) }, "twice"},
		{"peer twice", func(c *Config) { c.Peers = append(c.Peers, c.Peers[0]) }, "mag1"},
		{"address of two peers", func(c *Config) {
			c.Peers = append(c.Peers, Peer{Name: "x", Addresses: c.Peers[0].Addresses})
		}, "2001:db8:a::11/128"},
		{"gateway that is no peer", func(c *Config) { c.PMIP6.Gateways = []string{"x"} }, `"x" is no peer`},
		{"static outside pools", func(c *Config) { c.Subscribers.List[0].V4 = ip("192.0.2.1") }, "in no pool"},
		{"static on the router", func(c *Config) { c.Subscribers.List[0].V4 = ip("10.20.0.1") }, "taken"},
		{"static of another length", func(c *Config) { c.Subscribers.List[0].HNP = []netip.Prefix{pfx("2001:db8:1000::/56")} }, "units of /64"},
		{"one address of two subscribers", func(c *Config) { c.Subscribers.List[1].V4 = ip("10.20.0.10") }, "already given"},
		{"subscriber twice", func(c *Config) { c.Subscribers.List = append(c.Subscribers.List, c.Subscribers.List[0]) }, "twice"},
		{"unknown pool", func(c *Config) { c.Subscribers.List[2].V4Pools = []string{"x"} }, `no pool "x"`},
		{"static default", func(c *Config) { c.Subscribers.Default.V4 = ip("10.20.0.9") }, "default profile"},
		{"nine prefixes", func(c *Config) { c.Subscribers.List[2] = subscriber.Profile{ID: "x", HNPCount: 9} }, "8 home network prefixes"},
		{"lifetime", func(c *Config) { c.Timers.LifetimeMax = 100 * time.Hour }, "lifetime-max"},
		{"negative limit", func(c *Config) { c.Limits.Sessions = -1 }, "negative"},
		{"link-local", func(c *Config) { c.LinkLocal = ip("2001:db8::1") }, "link-local"},
	} {
		cfg := testConfig()
		row.change(&cfg)
		if _, err := New(cfg, strings.NewReader("")); err == nil || !strings.Contains(err.Error(), row.want) {
			t.Errorf("%s: error %v, want one with %q", row.name, err, row.want)
		}
	}
}
