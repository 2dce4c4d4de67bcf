package movement

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"kedge/internal/core"
	"kedge/wire/nd"
)

// invariants hold after every event: nothing is offered that cannot work, and every table stays within its limit.
func (r *rig) invariants() {
	tables := make(map[int]netip.Addr)
	seen := make(map[netip.Addr]bool)
	for _, c := range r.m.CareOfs() {
		l := r.kernel.links[c.If]
		switch {
		case l == nil || !l.up || l.op.Value == "down":
			r.t.Fatalf("%+v is offered on a link that is down", c)
		case c.Link != l.op.Name:
			r.t.Fatalf("%+v: the link is called %s", c, l.op.Name)
		case seen[c.Addr]:
			r.t.Fatalf("%s is offered twice", c.Addr)
		case tables[c.Table].IsValid():
			r.t.Fatalf("%s and %s share table %d", c.Addr, tables[c.Table], c.Table)
		case c.Since > r.now:
			r.t.Fatalf("%+v is offered since a time to come", c)
		case c.Addr.Is4() && c.Addr.IsLinkLocalUnicast() || slices.Contains(r.m.cfg.Home, c.Addr):
			r.t.Fatalf("%+v is no care-of address", c)
		}
		seen[c.Addr], tables[c.Table] = true, c.Addr
		if rule := (opKey{kind: "rule", prefix: netip.PrefixFrom(c.Addr, c.Addr.BitLen()), table: c.Table}); r.kernel.rules[rule].Kind == "" {
			r.t.Fatalf("%+v is offered without a rule: %v", c, r.kernel.rules)
		}
		// The kernel tells what it lost and what is a duplicate at the same instant; within it, machine and kernel may differ.
		if h, ok := r.m.links[c.If].holds(c.Addr); !ok || h.tentative || h.failed {
			r.t.Fatalf("%+v is offered, and the kernel says %+v", c, h)
		}
		if c.Router.IsValid() {
			if rt := r.m.links[c.If].findRouter(c.Router); rt == nil || !rt.offered() || r.now > rt.expires {
				r.t.Fatalf("%+v is offered by the router %+v", c, rt)
			}
		}
	}
	used := 0
	for _, u := range r.m.tables {
		if u {
			used++
		}
	}
	addrs := 0
	for _, l := range r.m.links {
		if l.pat == nil && (len(l.addrs) > 0 || len(l.routers) > 0) {
			r.t.Fatalf("%s is not managed, and has %d addresses", l.name, len(l.addrs))
		}
		v6, advertised := 0, 0
		for _, x := range l.addrs {
			addrs++
			if x.a.Is6() {
				v6++
			}
		}
		for _, rt := range l.routers {
			if rt.advertised {
				advertised++
			}
		}
		if v6 > MaxAddresses || advertised > MaxRouters || len(l.prefixes) > MaxPrefixes || len(l.addrs) > MaxAddresses+MaxIPv4 {
			r.t.Fatalf("%s: %d addresses, %d routers, %d prefixes", l.name, v6, advertised, len(l.prefixes))
		}
		for _, p := range l.prefixes {
			if len(p.by) == 0 {
				r.t.Fatalf("%s is advertised by nobody", p.p)
			}
			for _, v := range p.by {
				if !slices.Contains(l.routers, v.r) {
					r.t.Fatalf("%s is advertised by a router that is forgotten", p.p)
				}
			}
		}
	}
	if used != addrs {
		r.t.Fatalf("%d tables for %d addresses", used, addrs)
	}
	if at, ok := r.m.Deadline(); len(r.m.order) > 0 && !r.m.closed && !ok {
		r.t.Fatalf("no deadline: %v", at)
	}
	if !r.m.changed && !slices.Equal(r.m.list, r.m.compile()) {
		r.t.Fatalf("the list is stale: %v", r.m.list)
	}
}

// TestRandom: any sequence of events, and the node is never told of an address that is gone. In the end the links are plugged
// into a good network: it is offered within the back-off; and a stop leaves nothing behind.
func TestRandom(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		cfg := Config{
			Home: []netip.Addr{netip.MustParseAddr("2001:db8:1::5"), netip.MustParseAddr("203.0.113.5")}, HomeTable: 900,
			HomePrefix6: netip.MustParsePrefix("2001:db8:1::/64"), HomePrefix4: netip.MustParsePrefix("203.0.113.0/24"),
			NoOptimistic: rapid.Bool().Draw(t, "no optimistic"),
			Links:        []Pattern{{Match: "eth*", Prefer: 10}, {Match: "wl*", Prefer: 5}, {Match: "wwan*", Prefer: 20}},
		}
		r := newRig(failer{t}, cfg)
		r.check = r.invariants
		loss := 0
		drop := func() bool { return loss > 0 && rapid.IntRange(0, 99).Draw(t, "lost") < loss }
		bad := false
		r.refuse = func(core.HostOp) error {
			if bad && rapid.IntRange(0, 3).Draw(t, "refused") == 0 {
				return errors.New("no")
			}
			return nil
		}
		names := []string{"eth0", "wlan0", "wwan0", "eth1", "lo"}
		var nets []*network4test
		for i, p := range []string{"2001:db8:a::/64", "2001:db8:b::/64", "2001:db8:1::/64", "2001:db8:a::/64"} {
			n := newNet(i%2+1, p)
			n.routers[0].v4, n.lose = netip.MustParseAddr("192.168.1.1"), drop
			n.routers[0].mac[4] = byte(i + 1)
			n.routers[0].ra.Options[0] = nd.SourceLinkLayer(n.routers[0].mac)
			nets = append(nets, n)
		}
		unlucky := false
		r.kernel.taken = func(netip.Addr) bool { return unlucky && rapid.Bool().Draw(t, "taken") }
		pick := func() (int, *klink) {
			i := rapid.IntRange(1, len(names)).Draw(t, "link")
			return i, r.kernel.links[i]
		}
		events := map[string]func(*rapid.T){
			"add": func(*rapid.T) {
				if i, l := pick(); l == nil {
					r.add(i, names[i-1], r.nets[i] != nil)
				}
			},
			"remove": func(*rapid.T) {
				if i, l := pick(); l != nil {
					r.remove(i)
				}
			},
			"rename": func(*rapid.T) {
				if _, l := pick(); l != nil && rapid.Bool().Draw(t, "really") {
					op := l.op
					op.Name += "x"
					l.op = op
					r.handle(core.HostChanged{Op: op, Up: l.up})
				}
			},
			"plug": func(*rapid.T) {
				if i, l := pick(); l != nil && l.op.Value == "up" {
					r.carrier(i, nets[rapid.IntRange(0, len(nets)-1).Draw(t, "net")])
				}
			},
			"roam": func(*rapid.T) {
				if i, l := pick(); l != nil && r.nets[i] != nil {
					r.roam(i, nets[rapid.IntRange(0, len(nets)-1).Draw(t, "net")])
				}
			},
			"unplug": func(*rapid.T) {
				if i, l := pick(); l != nil {
					r.carrier(i, nil)
				}
			},
			"down": func(*rapid.T) {
				if i, l := pick(); l != nil && l.op.Value == "up" {
					r.setDown(i)
				}
			},
			"up": func(*rapid.T) {
				if i, l := pick(); l != nil && l.op.Value == "down" {
					r.setUp(i)
				}
			},
			"dhcp": func(*rapid.T) {
				i, l := pick()
				if l == nil {
					return
				}
				a := rapid.SampledFrom([]string{"192.168.1.7/24", "192.168.1.8/24", "169.254.3.3/16", "203.0.113.5/24", "203.0.113.9/24"}).Draw(t, "address")
				r.dhcp(i, a, rapid.SampledFrom([]string{"192.168.1.1", "", "203.0.113.1"}).Draw(t, "gateway"))
			},
			"undhcp": func(*rapid.T) {
				if i, l := pick(); l != nil {
					for a, x := range l.addrs {
						if a.Is4() && !x.ours {
							r.undhcp(i, x.p.String(), "192.168.1.1")
							return
						}
					}
				}
			},
			"advertise": func(*rapid.T) {
				i, l := pick()
				n := r.nets[i]
				if l == nil || n == nil {
					return
				}
				if rapid.IntRange(0, 3).Draw(t, "other lifetimes") == 0 {
					ra := *n.routers[0].ra
					ra.RouterLifetime = uint16(rapid.SampledFrom([]int{0, 1, 1800}).Draw(t, "router"))
					ra.Options = slices.Clone(ra.Options)
					p := *ra.Options[1].(*nd.PrefixInformation)
					p.Valid, p.Preferred = rapid.SampledFrom([]uint32{0, 1, 30, 7200, 90000}).Draw(t, "valid"), 0
					p.OnLink, p.Autonomous = rapid.Bool().Draw(t, "L"), rapid.Bool().Draw(t, "A")
					ra.Options[1] = &p
					rt := *n.routers[0]
					rt.ra = &ra
					rt.advertise(r, n, i, nil)
					return
				}
				n.routers[0].advertise(r, n, i, nil)
			},
			"silence": func(*rapid.T) {
				rt := nets[rapid.IntRange(0, len(nets)-1).Draw(t, "net")].routers[0]
				rt.silent = !rt.silent
			},
			"loss":    func(*rapid.T) { loss = rapid.SampledFrom([]int{0, 20, 100}).Draw(t, "percent") },
			"refuse":  func(*rapid.T) { bad = !bad },
			"unlucky": func(*rapid.T) { unlucky = !unlucky },
			"sleep":   func(*rapid.T) { r.sleep(time.Duration(rapid.IntRange(1, 90000).Draw(t, "ms")) * time.Millisecond) },
			"suspect": func(*rapid.T) {
				if cs := r.m.CareOfs(); len(cs) > 0 {
					r.effects(r.m.Suspect(r.clock(), cs[0].Addr, nil))
				}
			},
			"asked": func(*rapid.T) { r.m.Changed() },
			"confirm": func(*rapid.T) {
				if cs := r.m.CareOfs(); len(cs) > 0 {
					r.m.Confirm(r.clock(), cs[0].Addr)
				}
			},
			"home": func(*rapid.T) {
				if c, ok := r.m.AtHome(); ok {
					home := []netip.Prefix{netip.MustParsePrefix("2001:db8:1::5/64"), netip.MustParsePrefix("203.0.113.5/24")}
					if rapid.Bool().Draw(t, "claim") {
						r.effects(r.m.ClaimHome(r.clock(), c.If, home, nil))
					} else {
						r.effects(r.m.ExpectHome(r.clock(), c.If, home, nil))
					}
				} else {
					r.effects(r.m.ReleaseHome(r.clock(), nil))
				}
			},
		}
		var kinds []string
		for k := range events {
			kinds = append(kinds, k)
		}
		slices.Sort(kinds)
		for i, name := range names {
			r.add(i+1, name, false)
		}
		for range rapid.IntRange(5, 40).Draw(t, "events") {
			kind := rapid.SampledFrom(kinds).Draw(t, "event")
			events[kind](t)
			r.run(time.Duration(rapid.SampledFrom([]int{0, 1, 3, 100, 900, 3000, 20000}).Draw(t, "ms")) * time.Millisecond)
		}
		// All is well from now on: a link in network A.
		loss, bad, unlucky = 0, false, false
		for _, n := range nets {
			n.routers[0].silent = false
		}
		if r.kernel.links[1] == nil || !strings.HasPrefix(r.kernel.links[1].op.Name, "eth") {
			if r.kernel.links[1] != nil {
				r.remove(1)
			}
			r.add(1, "eth0", r.nets[1] != nil)
		}
		if r.kernel.links[1].op.Value == "down" {
			r.setUp(1)
		}
		r.carrier(1, nil)
		r.run(time.Millisecond)
		r.carrier(1, nets[0])
		r.run(retryMax + 2*time.Second)
		at := slices.IndexFunc(r.m.CareOfs(), func(c CareOf) bool { return c.If == 1 && c.Prefix == netip.MustParsePrefix("2001:db8:a::/64") })
		if at < 0 {
			t.Fatalf("stuck: %q, links %+v", r.list(), r.m.Links())
		}
		r.wantWay(r.m.CareOfs()[at])
		if len(r.m.host.bad) > 0 {
			t.Fatalf("still refused: %v", r.m.host.bad)
		}
		r.effects(r.m.ReleaseHome(r.clock(), nil))
		r.effects(r.m.Close(r.clock(), nil))
		r.run(time.Second)
		for k, op := range r.kernel.routes { // ReleaseHome leaves these to the parent
			if op.Table == 900 && op.Prefix.Bits() == 0 {
				delete(r.kernel.routes, k)
			}
		}
		r.clean()
	})
}

// failer lets a rig fail a rapid test.
type failer struct{ *rapid.T }

func (f failer) Fatalf(format string, a ...any) {
	f.T.Helper()
	panic(fmt.Sprintf(format, a...))
}
