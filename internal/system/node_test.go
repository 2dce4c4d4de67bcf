package system

import (
	"strings"
	"testing"

	"kedge/internal/core"
)

// TestAddressChangesItsFlags: preferred and deprecated in turn, while the address stays.
func TestAddressChangesItsFlags(t *testing.T) {
	a, _ := pair(t)
	h := newHost(t, a)
	w := startWatch(t, h, nil)
	w.dump()
	op := core.HostOp{Kind: "address", Prefix: pfx("2001:db8:5::7/64"), Name: "d0", Value: "nodad noprefixroute"}
	is := func(c core.HostChanged) bool { return c.Op.Kind == "address" && c.Op.Prefix == op.Prefix }
	must(t, h.Apply([]core.HostOp{op}))
	if c := w.next("the address", is); c.Op.Value != "" || !c.Up {
		t.Errorf("it came as %+v", c)
	}
	for range 2 {
		op.Value = "nodad noprefixroute deprecated"
		must(t, h.Apply([]core.HostOp{op}))
		if c := w.next("the address", is); c.Gone || c.Op.Value != "deprecated" {
			t.Errorf("it became %+v", c)
		}
		op.Value = "nodad noprefixroute"
		must(t, h.Apply([]core.HostOp{op}))
		if c := w.next("the address", is); c.Gone || c.Op.Value != "" {
			t.Errorf("it became %+v", c)
		}
	}
	if out := ip(t, a, "-6", "route"); strings.Contains(out, "2001:db8:5::/64") {
		t.Errorf("it has a prefix route:\n%s", out)
	}
	if gone, err := newHost(t, a).Sweep(); err != nil || len(gone) != 1 || gone[0].Prefix != op.Prefix {
		t.Errorf("a later run swept %+v, %v", gone, err)
	}
}

// TestOptimisticAddress: usable while duplicate address detection runs (RFC 4429), and told so.
func TestOptimisticAddress(t *testing.T) {
	a, b := pair(t)
	h := newHost(t, a)
	must(t, h.Apply([]core.HostOp{
		{Kind: "sysctl", Name: "net/ipv6/conf/d0/optimistic_dad", Value: "1"},
		{Kind: "sysctl", Name: "net/ipv6/conf/d0/use_optimistic", Value: "1"},
	}))
	w := startWatch(t, h, nil)
	w.dump()
	op := core.HostOp{Kind: "address", Prefix: pfx("2001:db8:5::7/64"), Name: "d0", Value: "optimistic noprefixroute"}
	must(t, h.Apply([]core.HostOp{op}))
	is := func(c core.HostChanged) bool { return c.Op.Kind == "address" && c.Op.Prefix == op.Prefix }
	if c := w.next("the address", is); c.Op.Value != "tentative optimistic" || !c.Up || c.Tentative {
		t.Errorf("it came as %+v", c)
	}
	if c := w.next("the end of detection", is); c.Op.Value != "" || !c.Up {
		t.Errorf("it became %+v", c)
	}
	// A duplicate is told as one.
	ip(t, b, "addr", "add", "2001:db8:5::8/64", "dev", "d1", "nodad")
	op.Prefix = pfx("2001:db8:5::8/64")
	must(t, h.Apply([]core.HostOp{op}))
	w.next("failed detection", func(c core.HostChanged) bool {
		return is(c) && strings.Contains(c.Op.Value, "dadfailed") && c.Tentative
	})
	if err := h.Apply([]core.HostOp{{Kind: "address", Prefix: op.Prefix, Name: "d0", Value: "optimistic nodad"}}); err == nil {
		t.Error("optimistic and nodad together were taken")
	}
}

// TestDefaultRoutesAreTold: with router, link, metric and who set them.
func TestDefaultRoutesAreTold(t *testing.T) {
	a, _ := pair(t)
	w := startWatch(t, newHost(t, a), nil)
	w.dump()
	ip(t, a, "route", "add", "default", "via", "192.0.2.2", "metric", "600", "proto", "dhcp", "src", "192.0.2.1")
	ip(t, a, "-6", "route", "add", "default", "via", "fe80::9", "dev", "d0", "proto", "ra", "metric", "100")
	ip(t, a, "-6", "route", "add", "default", "via", "fe80::9", "dev", "d0", "proto", "ra", "metric", "200")
	ifi := a.Index("d0")
	for _, want := range []core.HostOp{
		{Kind: "route", If: ifi, Name: "d0", Prefix: pfx("0.0.0.0/0"), Via: addr("192.0.2.2"), Src: addr("192.0.2.1"), Table: 254, Metric: 600, Proto: 16},
		{Kind: "route", If: ifi, Name: "d0", Prefix: pfx("::/0"), Via: addr("fe80::9"), Table: 254, Metric: 100, Proto: 9},
		{Kind: "route", If: ifi, Name: "d0", Prefix: pfx("::/0"), Via: addr("fe80::9"), Table: 254, Metric: 200, Proto: 9},
	} {
		if c := w.next("a default route", func(c core.HostChanged) bool { return c.Op.Kind == "route" && c.Op.Prefix.Bits() == 0 }); c.Op != want || !c.Up {
			t.Errorf("told %+v,\nwant %+v", c.Op, want)
		}
	}
	ip(t, a, "-6", "route", "del", "default", "metric", "200")
	if c := w.next("the end of one", func(c core.HostChanged) bool { return c.Gone }); c.Op.Metric != 200 {
		t.Errorf("gone: %+v", c.Op)
	}
}

// TestRoutesOfOneTableByMetric: those to one prefix stand beside each other, are removed alone, and each is swept alone.
func TestRoutesOfOneTableByMetric(t *testing.T) {
	a, _ := pair(t)
	route := func(p string, metric int) core.HostOp {
		return core.HostOp{Kind: "route", Prefix: pfx(p), Name: "d0", Table: 77, Metric: metric}
	}
	first := newHost(t, a)
	for _, p := range []string{"::/0", "0.0.0.0/0"} {
		fam := map[bool]string{true: "-6", false: "-4"}[p == "::/0"]
		show := func() string { return ip(t, a, fam, "route", "show", "table", "77") }
		must(t, first.Apply([]core.HostOp{route(p, 10), route(p, 20), route(p, 10)}))
		if out := show(); strings.Count(out, "default") != 2 {
			t.Errorf("routes:\n%s", out)
		}
		del := route(p, 10)
		del.Del = true
		must(t, first.Apply([]core.HostOp{del}))
		if out := show(); strings.Count(out, "default") != 1 || !strings.Contains(out, "metric 20") {
			t.Errorf("routes after one was removed:\n%s", out)
		}
		must(t, first.Apply([]core.HostOp{route(p, 10)}))
	}
	next := newHost(t, a)
	must(t, next.Apply([]core.HostOp{route("::/0", 10), route("0.0.0.0/0", 20)}))
	gone, err := next.Sweep()
	if err != nil || len(gone) != 2 {
		t.Errorf("swept %+v, %v", gone, err)
	}
	for _, op := range gone {
		if op.Metric != map[bool]int{true: 10, false: 20}[op.Prefix.Addr().Is4()] {
			t.Errorf("swept %+v", op)
		}
	}
	// A route of somebody else with another metric is not in the way.
	ip(t, a, "-6", "route", "add", "default", "via", "fe80::9", "dev", "d0", "proto", "ra", "metric", "100")
	for range 2 {
		must(t, next.Apply([]core.HostOp{{Kind: "route", Prefix: pfx("::/0"), Name: "d0", Via: addr("fe80::7"), Metric: 50}}))
	}
	if err := next.Apply([]core.HostOp{{Kind: "route", Prefix: pfx("::/0"), Name: "d0", Via: addr("fe80::7"), Metric: 100}}); err == nil {
		t.Error("a route of somebody else was replaced")
	}
}

// TestSweepKeepsRulesByMeaning: a restarted node keeps the rules that it has set again.
func TestSweepKeepsRulesByMeaning(t *testing.T) {
	a, _ := pair(t)
	rule := func(p, value string) core.HostOp {
		return core.HostOp{Kind: "rule", Prefix: pfx(p), Table: 77, Value: value}
	}
	all := []core.HostOp{
		rule("::/0", "suppress 0 priority 900"), rule("::/0", "priority 901"), rule("0.0.0.0/0", "priority 901"), rule("::/0", "dport 53 priority 902"),
		rule("2001:db8::5/128", "priority 903"), rule("2001:db8::5/128", "to priority 903"),
	}
	must(t, newHost(t, a).Apply(all))
	next := newHost(t, a)
	must(t, next.Apply([]core.HostOp{all[0], all[2], rule("2001:db8::5/128", "from priority 903")}))
	gone, err := next.Sweep()
	if err != nil || len(gone) != 3 {
		t.Errorf("swept %+v, %v", gone, err)
	}
	if out := ip(t, a, "-6", "rule"); strings.Count(out, "proto 107") != 2 || !strings.Contains(out, "suppress") || !strings.Contains(out, "from 2001:db8::5 lookup 77") {
		t.Errorf("IPv6 rules:\n%s", out)
	}
	if out := ip(t, a, "-4", "rule"); strings.Count(out, "proto 107") != 1 {
		t.Errorf("IPv4 rules:\n%s", out)
	}
}

func TestNodeOperationsRefused(t *testing.T) {
	a, _ := pair(t)
	h := newHost(t, a)
	for _, c := range []struct {
		op   core.HostOp
		want string
	}{
		{core.HostOp{Kind: "address", Prefix: pfx("2001:db8:5::1/64"), Name: "d0", Value: "nodad shiny"}, "want nodad, optimistic"},
		{core.HostOp{Kind: "route", Prefix: pfx("::/0"), Name: "d0", Value: "advmss"}, "advmss N"},
		{core.HostOp{Kind: "route", Prefix: pfx("::/0"), Name: "d0", Value: "advmss many"}, "many"},
		{core.HostOp{Kind: "route", Prefix: pfx("::/0"), Name: "d0", Src: addr("192.0.2.1")}, "another family"},
		{core.HostOp{Kind: "rule", Prefix: pfx("::/0"), Table: 7, Value: "dport 70000"}, "70000"},
		{core.HostOp{Kind: "rule", Prefix: pfx("::/0"), Table: 7, Value: "suppress"}, "suppress N"},
		{core.HostOp{Kind: "rule", Prefix: pfx("::/0"), Value: "goto"}, "goto N"},
		{core.HostOp{Kind: "rule", Prefix: pfx("::/0"), Value: "priority 900"}, "goto N"},
		{core.HostOp{Kind: "rule", Prefix: pfx("::/0"), Table: 7, Value: "priority -1"}, "-1"},
	} {
		if err := h.Apply([]core.HostOp{c.op}); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%+v: %v, want %q", c.op, err, c.want)
		}
	}
}
