package subscriber

import (
	"net/netip"
	"strings"
	"testing"
)

func TestFind(t *testing.T) {
	list := []Profile{{ID: "a@x", V4: netip.MustParseAddr("10.0.0.1"), Gateways: []string{"mag1"}, Families: V4, Services: DSMIP6, HNPCount: 2}}
	for _, accept := range []bool{false, true} {
		d, err := New(Config{Accept: accept, List: list})
		if err != nil {
			t.Fatal(err)
		}
		p, listed, ok := d.Find("a@x")
		if !ok || !listed || p.ID != "a@x" || p.Has(V6) || !p.Has(V4) || p.May(PMIP6) || !p.May(DSMIP6) || p.Via("mag2") || !p.Via("mag1") || p.Prefixes() != 2 {
			t.Errorf("listed: %+v %v %v", p, listed, ok)
		}
		p, listed, ok = d.Find("A@x") // an identifier is octets
		if ok != accept || listed {
			t.Errorf("accept %v: %v %v", accept, listed, ok)
		}
		if ok && (!p.Has(V4) || !p.Has(V6) || !p.May(PMIP6) || !p.Via("any") || p.Prefixes() != 1) {
			t.Errorf("default profile %+v", p)
		}
		n := 0
		d.All(func(*Profile) { n++ })
		if n != 1 {
			t.Errorf("%d profiles", n)
		}
	}
}

func TestErrors(t *testing.T) {
	v4, hnp := netip.MustParseAddr("10.0.0.1"), netip.MustParsePrefix("2001:db8::/64")
	for want, c := range map[string]Config{
		"has no id":          {List: []Profile{{}}},
		"listed twice":       {List: []Profile{{ID: "a"}, {ID: "a"}}},
		"10.0.0.1/32 is":     {List: []Profile{{ID: "a", V4: v4}, {ID: "b", V4: v4}}},
		"2001:db8::/64 is":   {List: []Profile{{ID: "a", HNP: []netip.Prefix{hnp}}, {ID: "b", HNP: []netip.Prefix{hnp}}}},
		"no IPv4 address":    {List: []Profile{{ID: "a", V4: netip.MustParseAddr("::1")}}},
		"no IPv6 prefix":     {List: []Profile{{ID: "a", HNP: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/24")}}}},
		"::1/64 is no IPv6":  {List: []Profile{{ID: "a", HNP: []netip.Prefix{netip.MustParsePrefix("2001:db8::1/64")}}}},
		"everybody's":        {Default: Profile{V4: v4}},
		"would be everybody": {Default: Profile{HNP: []netip.Prefix{hnp}}},
	} {
		if _, err := New(c); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("error %v, want one with %q", err, want)
		}
	}
	if _, err := New(Config{List: []Profile{{ID: "a", V4: v4}, {ID: "b", V4: v4, Domain: 1}}}); err != nil {
		t.Errorf("one address in two domains: %v", err)
	}
}
