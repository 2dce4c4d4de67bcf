package system

import (
	"context"
	"errors"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"kedge/internal/core"
	"kedge/internal/system/netns"
)

func pfx(s string) netip.Prefix { return netip.MustParsePrefix(s) }
func addr(s string) netip.Addr  { return netip.MustParseAddr(s) }

var must = netns.Must

func newHost(t *testing.T, ns *netns.NS, opts ...func(*Options)) *Host {
	t.Helper()
	o := Options{NS: ns}
	for _, f := range opts {
		f(&o)
	}
	h, err := NewHost(o)
	must(t, err)
	t.Cleanup(func() { h.Close() })
	return h
}

// ip runs iproute2 as an oracle.
func ip(t *testing.T, ns *netns.NS, args ...string) string {
	t.Helper()
	out, err := ns.Run(context.Background(), "ip", args...)
	must(t, err)
	return out
}

// pair is a namespace with link d0 (192.0.2.1/24, 2001:db8::1/64) to another one's d1.
func pair(t *testing.T, prepare ...func(ns *netns.NS)) (a, b *netns.NS) {
	t.Helper()
	a, b = netns.Test(t, "a"), netns.Test(t, "b")
	for _, f := range prepare {
		f(a)
		f(b)
	}
	netns.TestVeth(t,
		netns.End{NS: a, Name: "d0", Addrs: []netip.Prefix{pfx("192.0.2.1/24"), pfx("2001:db8::1/64")}},
		netns.End{NS: b, Name: "d1", Addrs: []netip.Prefix{pfx("192.0.2.2/24"), pfx("2001:db8::2/64")}})
	return a, b
}

var applyCases = []struct {
	name string
	op   core.HostOp
	show []string // arguments of ip
	want string   // a part of what it says
}{
	{"IPv6 route to a device", core.HostOp{Kind: "route", Prefix: pfx("2001:db8:1000::/36"), Name: "d0"}, []string{"-6", "route"}, "2001:db8:1000::/36 dev d0 proto 107"},
	{"IPv4 route to a device", core.HostOp{Kind: "route", Prefix: pfx("10.20.0.0/16"), Name: "d0"}, []string{"route"}, "10.20.0.0/16 dev d0 proto 107 scope link"},
	{"host bits are cut off", core.HostOp{Kind: "route", Prefix: pfx("10.20.3.4/16"), Name: "d0"}, []string{"route"}, "10.20.0.0/16 dev d0 proto 107"},
	{"IPv6 route by a gateway", core.HostOp{Kind: "route", Prefix: pfx("2001:db8:2000::/36"), Via: addr("2001:db8::2")}, []string{"-6", "route"}, "2001:db8:2000::/36 via 2001:db8::2 dev d0 proto 107"},
	{"IPv4 route by a gateway", core.HostOp{Kind: "route", Prefix: pfx("10.30.0.0/16"), Via: addr("192.0.2.2"), Name: "d0"}, []string{"route"}, "10.30.0.0/16 via 192.0.2.2 dev d0 proto 107"},
	{"IPv4 route by an IPv6 gateway", core.HostOp{Kind: "route", Prefix: pfx("10.31.0.0/16"), Via: addr("2001:db8::2"), Name: "d0"}, []string{"route"}, "10.31.0.0/16 via inet6 2001:db8::2 dev d0 proto 107"},
	{"route with MTU in a table", core.HostOp{Kind: "route", Prefix: pfx("::/0"), Name: "d0", Table: 77, MTU: 1400}, []string{"-6", "route", "show", "table", "77"}, "default dev d0 proto 107 metric 1024 mtu 1400"},
	{"route in a large table", core.HostOp{Kind: "route", Prefix: pfx("0.0.0.0/0"), Name: "d0", Table: 70000}, []string{"route", "show", "table", "70000"}, "default dev d0 proto 107"},
	{"IPv6 default route by a router on the link", core.HostOp{Kind: "route", Prefix: pfx("::/0"), Via: addr("fe80::1"), Name: "d0", Table: 77, Metric: 20, Src: addr("2001:db8::1")}, []string{"-6", "route", "show", "table", "77"}, "default via fe80::1 dev d0 proto 107 src 2001:db8::1 metric 20"},
	{"IPv4 default route by a router outside the prefix", core.HostOp{Kind: "route", Prefix: pfx("0.0.0.0/0"), Via: addr("198.51.100.9"), Name: "d0", Table: 77, Metric: 20, Src: addr("192.0.2.1")}, []string{"route", "show", "table", "77"}, "default via 198.51.100.9 dev d0 proto 107 src 192.0.2.1 metric 20 onlink"},
	{"IPv4 default route", core.HostOp{Kind: "route", Prefix: pfx("0.0.0.0/0"), Via: addr("192.0.2.2"), Name: "d0", Metric: 30, MTU: 1400, Value: "advmss 1300"}, []string{"route"}, "default via 192.0.2.2 dev d0 proto 107 metric 30 mtu 1400 advmss 1300"},
	{"IPv6 MTU and segment size", core.HostOp{Kind: "route", Prefix: pfx("2001:db8:5000::/36"), Name: "d0", MTU: 1400, Value: "advmss 1220"}, []string{"-6", "route"}, "2001:db8:5000::/36 dev d0 proto 107 metric 1024 mtu 1400 advmss 1220"},
	{"IPv6 unreachable", core.HostOp{Kind: "route", Prefix: pfx("2001:db8:3000::/36"), Value: "unreachable"}, []string{"-6", "route"}, "unreachable 2001:db8:3000::/36 dev lo proto 107"},
	{"IPv4 unreachable", core.HostOp{Kind: "route", Prefix: pfx("10.40.0.0/16"), Value: "unreachable"}, []string{"route"}, "unreachable 10.40.0.0/16 proto 107"},
	{"IPv4 blackhole", core.HostOp{Kind: "route", Prefix: pfx("10.41.0.0/16"), Value: "blackhole"}, []string{"route"}, "blackhole 10.41.0.0/16 proto 107"},
	{"IPv6 prohibit", core.HostOp{Kind: "route", Prefix: pfx("2001:db8:4000::/36"), Value: "prohibit"}, []string{"-6", "route"}, "prohibit 2001:db8:4000::/36 dev lo proto 107"},
	{"IPv6 rule from", core.HostOp{Kind: "rule", Prefix: pfx("2001:db8:1000::/36"), Table: 77}, []string{"-6", "rule"}, "10700:\tfrom 2001:db8:1000::/36 lookup 77 proto 107"},
	{"IPv4 rule to, in by a link", core.HostOp{Kind: "rule", Prefix: pfx("10.20.0.0/16"), Name: "d0", Table: 300, Value: "to priority 42"}, []string{"rule"}, "42:\tfrom all to 10.20.0.0/16 iif d0 lookup 300 proto 107"},
	{"rule that jumps", core.HostOp{Kind: "rule", Prefix: pfx("::/1"), Value: "from priority 901 goto 32766"}, []string{"-6", "rule"}, "901:\tfrom ::/1 goto 32766 proto 107"},
	{"rule for all IPv6 without the default routes", core.HostOp{Kind: "rule", Prefix: pfx("::/0"), Table: 254, Value: "suppress 0 priority 900"}, []string{"-6", "rule"}, "900:\tfrom all lookup main suppress_prefixlength 0 proto 107"},
	{"IPv4 rule for a port", core.HostOp{Kind: "rule", Prefix: pfx("0.0.0.0/0"), Table: 300, Value: "dport 53 priority 901"}, []string{"rule"}, "901:\tfrom all dport 53 lookup 300 proto 107"},
	{"IPv6 rule to", core.HostOp{Kind: "rule", Prefix: pfx("2001:db8:a::1/128"), Table: 300, Value: "to priority 902"}, []string{"-6", "rule"}, "902:\tfrom all to 2001:db8:a::1 lookup 300 proto 107"},
	{"IPv6 home address on a link", core.HostOp{Kind: "address", Prefix: pfx("2001:db8:b::2/64"), Name: "d0", Value: "nodad noprefixroute"}, []string{"addr", "show", "d0"}, "inet6 2001:db8:b::2/64 scope global nodad noprefixroute"},
	{"deprecated IPv6 address", core.HostOp{Kind: "address", Prefix: pfx("2001:db8:c::3/64"), Name: "d0", Value: "nodad deprecated"}, []string{"addr", "show", "d0"}, "inet6 2001:db8:c::3/64 scope global nodad deprecated"},
	{"deprecated IPv4 address", core.HostOp{Kind: "address", Prefix: pfx("198.51.100.3/24"), Name: "d0", Value: "deprecated noprefixroute"}, []string{"addr", "show", "d0"}, "inet 198.51.100.3/24 scope global deprecated noprefixroute d0"},
	{"IPv4 address", core.HostOp{Kind: "address", Prefix: pfx("198.51.100.1/32"), Name: "lo"}, []string{"addr", "show", "lo"}, "inet 198.51.100.1/32"},
	{"IPv6 address", core.HostOp{Kind: "address", Prefix: pfx("2001:db8:a::1/128"), Name: "d0", Value: "nodad"}, []string{"addr", "show", "d0"}, "inet6 2001:db8:a::1/128 scope global nodad"},
	{"IPv6 neighbour", core.HostOp{Kind: "neighbour", Prefix: pfx("2001:db8::9/128"), Name: "d0", MAC: core.MAC{2, 0, 0, 0, 0, 9}}, []string{"-6", "neigh"}, "2001:db8::9 dev d0 lladdr 02:00:00:00:00:09 PERMANENT proto 107"},
	{"IPv4 neighbour", core.HostOp{Kind: "neighbour", Prefix: pfx("192.0.2.9/32"), Name: "d0", MAC: core.MAC{2, 0, 0, 0, 0, 9}}, []string{"neigh"}, "192.0.2.9 dev d0 lladdr 02:00:00:00:00:09 PERMANENT proto 107"},
	{"IPv6 proxy", core.HostOp{Kind: "proxy", Prefix: pfx("2001:db8::77/128"), Name: "d0"}, []string{"-6", "neigh", "show", "proxy"}, "2001:db8::77 dev d0  proxy proto 107"},
	{"IPv6 proxy of a router", core.HostOp{Kind: "proxy", Prefix: pfx("2001:db8::78/128"), Name: "d0", Value: "router"}, []string{"-6", "neigh", "show", "proxy"}, "2001:db8::78 dev d0  router proxy proto 107"},
	{"IPv4 proxy", core.HostOp{Kind: "proxy", Prefix: pfx("192.0.2.77/32"), Name: "d0"}, []string{"neigh", "show", "proxy"}, "192.0.2.77 dev d0  proxy proto 107"},
}

func TestApplyAndRemove(t *testing.T) {
	a, _ := pair(t)
	h := newHost(t, a)
	for _, c := range applyCases {
		t.Run(c.name, func(t *testing.T) {
			before, _ := a.Run(t.Context(), "ip", c.show...) // a table that does not exist yet is an error
			for range 2 {                                    // the second changes nothing
				must(t, h.Apply([]core.HostOp{c.op}))
				squeeze := func(s string) string { return strings.Join(strings.Fields(s), " ") }
				if out := ip(t, a, c.show...); strings.Count(squeeze(out), squeeze(c.want)) != 1 {
					t.Fatalf("ip %v says\n%swant once: %s", c.show, out, c.want)
				}
			}
			del := c.op
			del.Del = true
			for range 2 {
				must(t, h.Apply([]core.HostOp{del}))
			}
			if after, _ := a.Run(t.Context(), "ip", c.show...); after != before {
				t.Fatalf("after removing, ip says\n%swant\n%s", after, before)
			}
		})
	}
}

func TestByIndex(t *testing.T) {
	a, _ := pair(t)
	h := newHost(t, a)
	ifi := a.Index("d0")
	must(t, h.Apply([]core.HostOp{
		{Kind: "route", Prefix: pfx("10.20.0.0/16"), If: ifi},
		{Kind: "proxy", Prefix: pfx("2001:db8::77/128"), If: ifi},
		{Kind: "address", Prefix: pfx("198.51.100.1/32"), If: ifi},
		{Kind: "link", If: ifi, MTU: 1400},
	}))
	if out := ip(t, a, "route"); !strings.Contains(out, "10.20.0.0/16 dev d0") {
		t.Error(out)
	}
	if v, err := a.GetSysctl("net.ipv6.conf.d0.proxy_ndp"); v != "1" {
		t.Errorf("proxy_ndp = %q, %v: the kernel will not answer", v, err)
	}
}

func TestProxyIsAnswered(t *testing.T) {
	a, b := pair(t)
	h := newHost(t, a)
	must(t, h.Apply([]core.HostOp{
		{Kind: "sysctl", Name: "net.ipv6.conf.all.forwarding", Value: "1"},
		{Kind: "sysctl", Name: "net.ipv4.ip_forward", Value: "1"},
		{Kind: "route", Prefix: pfx("192.0.2.77/32"), Name: "lo"},
		{Kind: "proxy", Prefix: pfx("2001:db8::77/128"), Name: "d0"},
		{Kind: "proxy", Prefix: pfx("192.0.2.77/32"), Name: "d0"},
	}))
	for _, dst := range []string{"2001:db8::77", "192.0.2.77"} {
		_, _ = b.Run(t.Context(), "ping", "-c1", "-W3", dst)
		if out := ip(t, b, "neigh", "show", dst); !strings.Contains(out, "lladdr") {
			t.Errorf("%s was not resolved: %s", dst, out)
		}
	}
}

func TestLinkAndSysctl(t *testing.T) {
	a, _ := pair(t)
	h := newHost(t, a)
	mac := core.MAC{2, 0, 0x5e, 0, 0, 1}
	for range 2 {
		must(t, h.Apply([]core.HostOp{
			{Kind: "link", Name: "d0", MTU: 1300, MAC: mac, Value: "down"},
			{Kind: "sysctl", Name: "net.ipv4.conf.d0.rp_filter", Value: "2"},
		}))
	}
	l, err := a.Link("d0")
	must(t, err)
	if at := l.Attrs(); at.MTU != 1300 || at.HardwareAddr.String() != mac.String() || at.RawFlags&1 != 0 {
		t.Errorf("link is %+v", at)
	}
	if v, _ := a.GetSysctl("net.ipv4.conf.d0.rp_filter"); v != "2" {
		t.Errorf("rp_filter = %s", v)
	}
	must(t, h.Apply([]core.HostOp{{Kind: "sysctl", Name: "net.ipv4.conf.d0.rp_filter", Del: true}, {Kind: "link", Name: "d0", Value: "up"}}))
	if v, _ := a.GetSysctl("net.ipv4.conf.d0.rp_filter"); v == "2" {
		t.Errorf("rp_filter was not put back")
	}
}

func TestNothingForeignIsReplacedOrRemoved(t *testing.T) {
	a, _ := pair(t)
	h := newHost(t, a)
	ip(t, a, "route", "add", "10.20.0.0/16", "via", "192.0.2.2", "proto", "bird")
	ip(t, a, "-6", "route", "add", "2001:db8:1000::/36", "via", "2001:db8::2", "proto", "bird")
	ip(t, a, "neigh", "add", "192.0.2.9", "lladdr", "02:00:00:00:00:01", "dev", "d0")
	ip(t, a, "-6", "neigh", "add", "proxy", "2001:db8::77", "dev", "d0")
	ip(t, a, "rule", "add", "from", "10.20.0.0/16", "lookup", "77")
	ip(t, a, "addr", "add", "198.51.100.1/32", "dev", "lo")
	show := func() string {
		return ip(t, a, "route") + ip(t, a, "-6", "route") + ip(t, a, "neigh", "show", "nud", "permanent") +
			ip(t, a, "-6", "neigh", "show", "proxy") + ip(t, a, "rule") + ip(t, a, "addr", "show", "lo")
	}
	before := show()
	refused := []core.HostOp{
		{Kind: "route", Prefix: pfx("10.20.0.0/16"), Name: "d0"},
		{Kind: "route", Prefix: pfx("2001:db8:1000::/36"), Name: "d0"},
		{Kind: "neighbour", Prefix: pfx("192.0.2.9/32"), Name: "d0", MAC: core.MAC{2, 0, 0, 0, 0, 9}},
		{Kind: "proxy", Prefix: pfx("2001:db8::77/128"), Name: "d0"},
	}
	for _, op := range refused {
		err := h.Apply([]core.HostOp{op})
		if !errors.Is(err, os.ErrExist) || !strings.Contains(err.Error(), op.Prefix.Addr().String()) || !strings.Contains(err.Error(), "set by protocol") {
			t.Errorf("%s: error %v", describe(op), err)
		}
		op.Del = true
		must(t, h.Apply([]core.HostOp{op}))
	}
	// An address that is there already is as good as set, and stays when it is no longer wanted.
	own := core.HostOp{Kind: "address", Prefix: pfx("198.51.100.1/32"), Name: "lo"}
	must(t, h.Apply([]core.HostOp{own}))
	own.Del = true
	must(t, h.Apply([]core.HostOp{own, {Kind: "rule", Del: true, Prefix: pfx("10.20.0.0/16"), Table: 77}}))
	if _, err := h.Sweep(); err != nil {
		t.Error(err)
	}
	// The prohibition concerns what is permanent: an entry that the kernel learned gives way.
	if after := show(); after != before {
		t.Errorf("before\n%safter\n%s", before, after)
	}
	ip(t, a, "neigh", "replace", "192.0.2.8", "lladdr", "02:00:00:00:00:01", "dev", "d0", "nud", "stale")
	must(t, h.Apply([]core.HostOp{{Kind: "neighbour", Prefix: pfx("192.0.2.8/32"), Name: "d0", MAC: core.MAC{2, 0, 0, 0, 0, 8}}}))
	if out := ip(t, a, "neigh", "show", "192.0.2.8"); !strings.Contains(out, "02:00:00:00:00:08 PERMANENT") {
		t.Error(out)
	}
}

func TestErrors(t *testing.T) {
	a, _ := pair(t)
	h := newHost(t, a)
	for _, c := range []struct {
		op   core.HostOp
		want []string
	}{
		{core.HostOp{Kind: "route", Prefix: pfx("10.20.0.0/16"), Name: "nosuch"}, []string{"set route 10.20.0.0/16 dev nosuch", "no such interface"}},
		{core.HostOp{Kind: "route", Prefix: pfx("10.20.0.0/16"), Via: addr("203.0.113.1")}, []string{"via 203.0.113.1", "must be on a network of this host"}},
		{core.HostOp{Kind: "route", Name: "d0"}, []string{"no prefix"}},
		{core.HostOp{Kind: "route", Prefix: pfx("10.20.0.0/16")}, []string{"no interface given"}},
		{core.HostOp{Kind: "route", Prefix: pfx("10.20.0.0/16"), Name: "d0", Value: "nirvana"}, []string{`"nirvana"`, "unreachable"}},
		{core.HostOp{Kind: "rule", Prefix: pfx("10.20.0.0/16")}, []string{"needs a table"}},
		{core.HostOp{Kind: "rule", Table: 7}, []string{"prefix or an interface"}},
		{core.HostOp{Kind: "rule", Table: 7, Name: "d0", Value: "priority x"}, []string{`"x"`}},
		{core.HostOp{Kind: "rule", Table: 7, Name: "d0", Value: "sideways"}, []string{"sideways"}},
		{core.HostOp{Kind: "address", Name: "d0"}, []string{"no prefix"}},
		{core.HostOp{Kind: "address", Name: "d0", Prefix: pfx("10.0.0.1/32"), Value: "x"}, []string{"nodad"}},
		{core.HostOp{Kind: "address", Name: "nosuch", Prefix: pfx("10.0.0.1/32")}, []string{"no such interface"}},
		{core.HostOp{Kind: "proxy", Name: "d0", Prefix: pfx("10.0.0.0/24")}, []string{"not a single address"}},
		{core.HostOp{Kind: "neighbour", Name: "d0", Prefix: pfx("10.0.0.1/32")}, []string{"no MAC"}},
		{core.HostOp{Kind: "link", Name: "d0", Value: "sideways"}, []string{"neither up nor down"}},
		{core.HostOp{Kind: "link", Name: "d0", Del: true}, []string{"not removed"}},
		{core.HostOp{Kind: "link", Name: "d0", MTU: 1 << 20}, []string{"mtu 1048576", "dev d0"}},
		{core.HostOp{Kind: "sysctl", Name: "kernel.panic", Value: "1"}, []string{"no network setting"}},
		{core.HostOp{Kind: "sysctl", Name: "net/../kernel/panic", Value: "1"}, []string{"no network setting"}},
		{core.HostOp{Kind: "sysctl", Name: "net.ipv4.nosuch", Value: "1"}, []string{"net.ipv4.nosuch", "check the name"}},
		{core.HostOp{Kind: "teapot"}, []string{`"teapot"`}},
	} {
		err := h.Apply([]core.HostOp{{Kind: "sysctl", Name: "net.ipv4.ip_forward", Value: "0"}, c.op, {Kind: "teapot"}})
		var oe *core.OpError
		var he *HostError
		if !errors.As(err, &oe) || oe.Index != 1 || !errors.As(err, &he) || he.Op != c.op {
			t.Errorf("%+v: error %#v, want a *core.OpError at 1 around a *HostError", c.op, err)
			continue
		}
		for _, w := range c.want {
			if !strings.Contains(err.Error(), w) {
				t.Errorf("%+v: error %q lacks %q", c.op, err, w)
			}
		}
	}
	// What was on a link that is gone is gone.
	for _, k := range []string{"route", "address", "neighbour", "proxy"} {
		must(t, h.Apply([]core.HostOp{{Kind: k, Del: true, Prefix: pfx("10.0.0.1/32"), Name: "nosuch"}}))
	}
}

func TestSweepAfterCrash(t *testing.T) {
	// Without duplicate address detection the state before stays as it is.
	a, _ := pair(t, func(ns *netns.NS) { must(t, ns.Sysctl("net.ipv6.conf.default.accept_dad", "0")) })
	journal := filepath.Join(t.TempDir(), "run", "journal")
	with := func(o *Options) { o.Journal = journal }
	state := func() string {
		s := ip(t, a, "route", "show", "table", "all") + ip(t, a, "-6", "route", "show", "table", "all") + ip(t, a, "rule") + ip(t, a, "-6", "rule") +
			ip(t, a, "neigh", "show", "nud", "permanent") + ip(t, a, "neigh", "show", "proxy") + ip(t, a, "-6", "neigh", "show", "proxy") +
			ip(t, a, "-o", "addr") + ip(t, a, "-o", "link")
		for _, k := range []string{"net.ipv4.ip_forward", "net.ipv6.conf.d0.proxy_ndp", "net.ipv4.conf.d0.rp_filter"} {
			v, err := a.GetSysctl(k)
			must(t, err)
			s += k + "=" + v + "\n"
		}
		return s
	}
	must(t, a.Sysctl("net.ipv4.ip_forward", "0"))
	// The kernel adds the local routes of new addresses in its own time.
	for deadline := time.Now().Add(5 * time.Second); ; {
		s := state()
		if strings.Contains(s, "local fe80::") && strings.Contains(s, "local 2001:db8::1 ") {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("the namespace does not settle:\n%s", s)
		}
	}
	before := state()
	h := newHost(t, a, with)
	var ops []core.HostOp
	for _, c := range applyCases {
		if c.name != "host bits are cut off" {
			ops = append(ops, c.op)
		}
	}
	ops = append(ops,
		core.HostOp{Kind: "sysctl", Name: "net.ipv4.ip_forward", Value: "1"},
		core.HostOp{Kind: "sysctl", Name: "net.ipv4.conf.d0.rp_filter", Value: "2"},
		core.HostOp{Kind: "link", Name: "d0", MTU: 1400},
		core.HostOp{Kind: "link", Name: "d0", MTU: 1300}) // the journal keeps the first value
	must(t, h.Apply(ops))
	h.Close()
	// The crash tore the last line apart.
	f, err := os.OpenFile(journal, os.O_APPEND|os.O_WRONLY, 0)
	must(t, err)
	_, _ = f.WriteString(`{"version":1,"ns":"`)
	f.Close()

	// The next run wants a part of it again, before it sweeps.
	keep := []core.HostOp{ops[0], {Kind: "proxy", Prefix: pfx("2001:db8::77/128"), Name: "d0"}, {Kind: "sysctl", Name: "net.ipv4.ip_forward", Value: "1"}}
	h2 := newHost(t, a, with)
	must(t, h2.Apply(keep))
	gone, err := h2.Sweep()
	must(t, err)
	for _, op := range gone {
		if op.Kind == "route" && op.Prefix == ops[0].Prefix {
			t.Errorf("swept away what is wanted: %s", describe(op))
		}
	}
	out := state()
	for _, want := range []string{"2001:db8:1000::/36 dev d0 proto 107", "2001:db8::77 dev d0", "net.ipv4.ip_forward=1", "net.ipv6.conf.d0.proxy_ndp=1"} {
		if !strings.Contains(out, want) {
			t.Errorf("%q is gone from\n%s", want, out)
		}
	}
	if strings.Contains(out, "10.20.0.0/16") || strings.Contains(out, "mtu 1300") || strings.Contains(out, "rp_filter=2") {
		t.Errorf("left over:\n%s", out)
	}

	// A run that wants nothing leaves nothing.
	h3 := newHost(t, a, with)
	_, err = h3.Sweep()
	must(t, err)
	if after := state(); after != before {
		t.Errorf("before\n%safter\n%s", before, after)
	}
	if gone, err := h3.Sweep(); err != nil || len(gone) != 0 {
		t.Errorf("a second sweep removed %v, %v", gone, err)
	}
	if _, err := os.Stat(journal); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the journal is still there: %v", err)
	}
}

func TestSweepSeesOnlyItsTag(t *testing.T) {
	a, _ := pair(t)
	other := newHost(t, a, func(o *Options) { o.Tag = 108 })
	for _, c := range applyCases {
		must(t, other.Apply([]core.HostOp{c.op}))
	}
	gone, err := newHost(t, a).Sweep()
	if err != nil || len(gone) != 0 {
		t.Errorf("swept %d things of another daemon: %v, %v", len(gone), gone, err)
	}
	// Without a journal the kernel's tags alone tell, those of addresses included.
	gone, err = newHost(t, a, func(o *Options) { o.Tag = 108 }).Sweep()
	if err != nil || len(gone) != len(applyCases)-1 {
		t.Errorf("swept %d of %d own things: %v", len(gone), len(applyCases)-1, err)
	}
}

func TestJournalOfAnotherNamespace(t *testing.T) {
	a, b := pair(t)
	journal := filepath.Join(t.TempDir(), "journal")
	h := newHost(t, a, func(o *Options) { o.Journal = journal })
	must(t, h.Apply([]core.HostOp{{Kind: "sysctl", Name: "net.ipv4.conf.all.rp_filter", Value: "2"}}))
	must(t, b.Sysctl("net.ipv4.conf.all.rp_filter", "2"))
	gone, err := newHost(t, b, func(o *Options) { o.Journal = journal }).Sweep()
	if v, _ := b.GetSysctl("net.ipv4.conf.all.rp_filter"); err != nil || len(gone) != 0 || v != "2" {
		t.Errorf("put %s back, swept %v, %v", v, gone, err)
	}
}

func TestNowRuns(t *testing.T) {
	h := newHost(t, nil)
	a := h.Now()
	b := h.Now()
	if a.Boot <= 0 || b.Boot < a.Boot || a.Wall.IsZero() {
		t.Errorf("%v, then %v", a, b)
	}
	if n := testing.AllocsPerRun(100, func() { h.Now() }); n != 0 {
		t.Errorf("Now allocates %v times", n)
	}
}
