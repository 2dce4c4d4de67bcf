package subscriber

import (
	"net/netip"
	"strings"
	"testing"
)

func TestHome(t *testing.T) {
	home := netip.MustParsePrefix("2001:db8:1::10/64")
	d, err := New(Config{Accept: true, List: []Profile{
		{ID: "a", HoA: home, Peer: "a", V4: netip.MustParseAddr("10.0.0.9"), HNP: []netip.Prefix{netip.MustParsePrefix("2001:db8:1::/64")}},
		{ID: "b", Domain: 1, V4: netip.MustParseAddr("10.0.0.9")},
	}})
	if err != nil {
		t.Fatal(err)
	}
	if p, ok := d.Home(home.Addr()); !ok || p.ID != "a" {
		t.Errorf("%+v %v", p, ok)
	}
	if p, ok := d.Home(netip.MustParseAddr("2001:db8:1::11")); ok || p != nil {
		t.Errorf("%+v: the default profile has no home address", p)
	}
	if _, ok := d.Home(netip.Addr{}); ok {
		t.Error("no address is somebody's")
	}
	for a, want := range map[string]bool{"2001:db8:1::10": true, "2001:db8:1::11": false, "10.0.0.9": true, "10.0.0.8": false} {
		if got := d.IsHome(0, netip.MustParseAddr(a)); got != want {
			t.Errorf("%s: %v", a, got)
		}
	}
	if d.IsHome(1, home.Addr()) || !d.IsHome(1, netip.MustParseAddr("10.0.0.9")) {
		t.Error("domains are mixed up")
	}
}

func TestHostErrors(t *testing.T) {
	home := netip.MustParsePrefix("2001:db8:1::10/64")
	p := func(s string) []netip.Prefix { return []netip.Prefix{netip.MustParsePrefix(s)} }
	for want, list := range map[string][]Profile{
		"needs a hoa":          {{ID: "a", Peer: "a"}},
		"it needs a hoa":       {{ID: "a", Networks: p("10.0.0.0/24")}},
		"no global IPv6":       {{ID: "a", HoA: netip.MustParsePrefix("fe80::1/64"), Peer: "a"}},
		"10.0.0.1 is no":       {{ID: "a", HoA: netip.MustParsePrefix("10.0.0.1/24"), Peer: "a"}},
		"length of its home":   {{ID: "a", HoA: netip.MustParsePrefix("2001:db8:1::10/0"), Peer: "a"}},
		"has no peer":          {{ID: "a", HoA: home}},
		"no mobile network":    {{ID: "a", HoA: home, Peer: "a", Networks: p("10.0.0.1/24")}},
		"224.0.0.0/24 is no":   {{ID: "a", HoA: home, Peer: "a", Networks: p("224.0.0.0/24")}},
		"128.0.0.0/1 is no":    {{ID: "a", HoA: home, Peer: "a", Networks: p("128.0.0.0/1")}},
		"of its own router":    {{ID: "a", HoA: home, Peer: "a", Networks: p("2001:db8:1::/48")}},
		"is already given":     {{ID: "a", HoA: home, Peer: "a"}, {ID: "b", HoA: home, Peer: "b", Domain: 1}},
		"lies in 10.0.0.0/24":  {{ID: "a", HoA: home, Peer: "a", Networks: p("10.0.0.0/24")}, {ID: "b", V4: netip.MustParseAddr("10.0.0.9")}},
		"lies in 2001:db8:2::": {{ID: "a", HoA: home, Peer: "a", Networks: p("2001:db8:2::/48")}, {ID: "b", HNP: p("2001:db8:2:1::/64")}},
		"::10/128 lies in":     {{ID: "a", HoA: home, Peer: "a"}, {ID: "b", HNP: p("2001:db8:1::/64")}},
	} {
		if _, err := New(Config{List: list}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("error %v, want one with %q", err, want)
		}
	}
	if _, err := New(Config{List: []Profile{
		{ID: "a", HoA: home, Peer: "a", Networks: p("10.0.0.0/24")}, {ID: "b", Domain: 1, V4: netip.MustParseAddr("10.0.0.9")},
		{ID: "c", HoA: netip.MustParsePrefix("2001:db8:1::11/64"), Peer: "a", Networks: []netip.Prefix{netip.MustParsePrefix("10.0.1.0/24"), netip.MustParsePrefix("10.0.1.0/28")}},
	}}); err != nil {
		t.Error(err)
	}
	for _, def := range []Profile{{HoA: home}, {Networks: p("10.0.0.0/24")}} {
		if _, err := New(Config{Default: def}); err == nil {
			t.Error("the default profile has somebody's address")
		}
	}
}
