package system

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"kedge/internal/core"
	"kedge/internal/system/netns"
)

// keeping runs Keep and collects what it says.
type keeping struct {
	t  *testing.T
	ns *netns.NS
	ch chan core.Emit
}

func startKeep(t *testing.T, h *Host, ns *netns.NS) *keeping {
	t.Helper()
	k := &keeping{t: t, ns: ns, ch: make(chan core.Emit, 1<<12)}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error)
	go func() { ended <- h.Keep(ctx, func(e core.Emit) { k.ch <- e }) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("Keep ended with %v", err)
		}
	})
	return k
}

// until waits for what Keep says until ok holds.
func (k *keeping) until(what string, ok func() bool) (said []core.Emit) {
	k.t.Helper()
	deadline := time.After(5 * time.Second)
	for !ok() {
		select {
		case e := <-k.ch:
			said = append(said, e)
		case <-deadline:
			k.t.Fatalf("not %s; said: %v\n%s", what, said, kernel(k.t, k.ns))
		}
	}
	return said
}

// kernel is what the kernel has of ours, as iproute2 shows it.
func kernel(t *testing.T, ns *netns.NS) string {
	t.Helper()
	var out []string
	for _, fam := range []string{"-4", "-6"} {
		out = append(out, ip(t, ns, fam, "route", "show", "table", "all", "proto", "107"))
		for l := range strings.Lines(ip(t, ns, fam, "rule")) {
			if strings.Contains(l, "proto 107") {
				out = append(out, l)
			}
		}
	}
	as, err := newHost(t, ns).addresses(0)
	must(t, err)
	for _, a := range as {
		if a.proto == Protocol {
			out = append(out, fmt.Sprintf("%v on %d, flags %x", a.prefix, a.ifi, a.flags))
		}
	}
	var lines []string
	for l := range strings.Lines(strings.Join(out, "\n")) {
		if l = strings.TrimSpace(l); l != "" {
			lines = append(lines, l)
		}
	}
	slices.Sort(lines)
	return strings.Join(lines, "\n")
}

// nodeOps are what a mobile node sets: addresses, a table that prefers them, rules, and the way of a care-of address.
func nodeOps(link int) []core.HostOp {
	return []core.HostOp{
		{Kind: "address", Prefix: pfx("2001:db8:2000::5/128"), Name: "k0", Value: "nodad"},
		{Kind: "address", Prefix: pfx("10.20.0.5/32"), Name: "k0"},
		{Kind: "route", Prefix: pfx("::/0"), Table: 700, Name: "k0", Src: addr("2001:db8:2000::5"), MTU: 1400},
		{Kind: "route", Prefix: pfx("0.0.0.0/0"), Table: 700, Name: "k0", Src: addr("10.20.0.5"), MTU: 1400},
		{Kind: "route", Prefix: pfx("10.99.0.0/16"), Table: 700, Value: "unreachable"},
		{Kind: "rule", Prefix: pfx("2001:db8:2000::5/128"), Table: 700, Value: "priority 690"},
		{Kind: "rule", Prefix: pfx("10.20.0.5/32"), Table: 700, Value: "priority 690"},
		{Kind: "rule", Prefix: pfx("::/0"), Table: 254, Value: "suppress 0 priority 720"},
		{Kind: "rule", Prefix: pfx("::/0"), Table: 700, Value: "priority 730"},
		{Kind: "address", If: link, Prefix: pfx("2001:db8:51::7/64"), Value: "nodad noprefixroute"},
		{Kind: "route", If: link, Prefix: pfx("fe80::/64"), Table: 800},
		{Kind: "route", If: link, Prefix: pfx("::/0"), Via: addr("fe80::1"), Table: 800},
		{Kind: "rule", Prefix: pfx("2001:db8:51::7/128"), Table: 800},
	}
}

// keptNode is a namespace that a node has set up, and is looked after.
func keptNode(t *testing.T, change ...func(*Host)) (*netns.NS, *Host, *keeping) {
	t.Helper()
	a, _ := pair(t)
	ip(t, a, "link", "add", "k0", "type", "veth", "peer", "name", "k1")
	ip(t, a, "link", "set", "k0", "up")
	h := newHost(t, a)
	for _, f := range change {
		f(h)
	}
	must(t, h.Apply(nodeOps(a.Index("d0"))))
	return a, h, startKeep(t, h, a)
}

// TestKeepPutsBack: whatever another program removes of ours is there again within a moment, as it was.
func TestKeepPutsBack(t *testing.T) {
	for _, c := range []struct {
		name string
		cmds []string
		says string // a field of the event
	}{
		{"rules", []string{"rule flush", "-6 rule flush"}, "rules"},
		{"one rule", []string{"-6 rule del priority 730"}, "rules"},
		{"addresses of the tunnel", []string{"addr flush dev k0"}, "addresses"},
		{"IPv6 address of the tunnel", []string{"addr del 2001:db8:2000::5/128 dev k0"}, "addresses"},
		{"IPv4 address of the tunnel, and silently its route", []string{"addr del 10.20.0.5/32 dev k0"}, "routes"},
		{"care-of address", []string{"addr del 2001:db8:51::7/64 dev d0"}, "addresses"},
		{"table of the home addresses", []string{"route flush table 700", "-6 route flush table 700"}, "routes"},
		{"table of the care-of address", []string{"-6 route flush table 800"}, "routes"},
		{"a link down and up", []string{"link set k0 down", "link set k0 up"}, "routes"},
		{"another link down and up", []string{"link set d0 down", "link set d0 up"}, "addresses"},
		{"a route of somebody else that came and went", []string{"route replace default dev k0 table 700 proto static", "route del default table 700"}, "routes"},
	} {
		t.Run(c.name, func(t *testing.T) {
			a, _, k := keptNode(t)
			want := kernel(t, a)
			for _, cmd := range c.cmds {
				ip(t, a, strings.Fields(cmd)...)
			}
			since := time.Now()
			said := k.until("as before", func() bool { return kernel(t, a) == want })
			if d := time.Since(since); d > time.Second {
				t.Errorf("it took %v", d)
			}
			// It may have looked between two commands, and said what it saw then.
			for late := time.After(5 * time.Second); !slices.ContainsFunc(said, func(e core.Emit) bool {
				n, _ := e.Fields.(map[string]any)[c.says].(int)
				return e.Name == "restored" && n > 0
			}); {
				select {
				case e := <-k.ch:
					said = append(said, e)
					continue
				case <-late:
				}
				t.Fatalf("said %+v, want some %s restored", said, c.says)
			}
		})
	}
}

// TestKeepRefusesToReplace: a route of somebody else in the place of ours is told of and left; ours comes back when it goes.
func TestKeepRefusesToReplace(t *testing.T) {
	a, _, k := keptNode(t)
	want := kernel(t, a)
	ip(t, a, "route", "replace", "default", "dev", "k0", "table", "700", "proto", "static")
	if e := <-k.ch; e.Name != "failed" || !strings.Contains(fmt.Sprint(e.Fields), "set by protocol 4") {
		t.Errorf("said %+v", e)
	}
	if out := ip(t, a, "route", "show", "table", "700"); !strings.Contains(out, "proto static") {
		t.Errorf("a route of somebody else was replaced:\n%s", out)
	}
	ip(t, a, "route", "del", "default", "table", "700")
	k.until("as before", func() bool { return kernel(t, a) == want })
}

// TestKeepBacksOff: a program that removes a rule whenever it is there is answered more and more slowly, and the event says how.
func TestKeepBacksOff(t *testing.T) {
	a, _, k := keptNode(t)
	var holds []float64
	since := time.Now()
	for len(holds) < 7 {
		ip(t, a, "-6", "rule", "del", "priority", "730")
		for _, e := range k.until("put back", func() bool { return strings.Contains(ip(t, a, "-6", "rule"), "730:") }) {
			holds = append(holds, e.Fields.(map[string]any)["hold_ms"].(float64))
		}
		if len(holds) == 0 { // the event comes after the rule
			holds = append(holds, (<-k.ch).Fields.(map[string]any)["hold_ms"].(float64))
		}
	}
	if !slices.Equal(holds, []float64{25, 50, 100, 200, 400, 800, 1600}) {
		t.Errorf("holds %v", holds)
	}
	if d := time.Since(since); d < 1575*time.Millisecond {
		t.Errorf("seven times within %v", d)
	}
	// Others are not held up by it.
	ip(t, a, "rule", "del", "priority", "690")
	since = time.Now()
	k.until("put back", func() bool { return strings.Contains(ip(t, a, "rule"), "690:") })
	if d := time.Since(since); d > time.Second {
		t.Errorf("another rule took %v", d)
	}
}

// TestKeepAndApply: while one program sets and removes and another flushes, what is there at the end is what was applied last.
// Nothing comes back that Apply has removed.
func TestKeepAndApply(t *testing.T) {
	a, h, k := keptNode(t)
	rng := rand.New(rand.NewPCG(3, 4))
	all := nodeOps(a.Index("d0"))
	on := make([]bool, len(all))
	for i := range on {
		on[i] = true
	}
	flushes := [][]string{{"rule", "flush"}, {"-6", "rule", "flush"}, {"addr", "flush", "dev", "k0"}, {"route", "flush", "table", "700"}, {"-6", "route", "flush", "table", "800"}}
	for range 150 {
		if rng.IntN(3) == 0 {
			ip(t, a, flushes[rng.IntN(len(flushes))]...)
			continue
		}
		i := rng.IntN(len(all))
		op := all[i]
		op.Del = on[i]
		if h.Apply([]core.HostOp{op}) == nil { // a route whose source is away is refused
			on[i] = !on[i]
		}
	}
	for i := range all { // half of it goes, in the end
		op := all[i]
		if op.Del = i%2 == 0; op.Del {
			must(t, h.Apply([]core.HostOp{op}))
			on[i] = false
		}
	}
	wanted := func() string {
		h.mu.Lock()
		defer h.mu.Unlock()
		missing, err := h.missing(true)
		must(t, err)
		var there, extra int
		v, err := h.inventory(true)
		must(t, err)
		for _, rs := range v.rules {
			there += len(rs)
		}
		there += len(v.routes)
		as, err := h.addresses(0)
		must(t, err)
		for _, x := range as {
			if x.proto == h.opt.Tag {
				there++
			}
		}
		n := 0
		for _, yes := range on {
			if yes {
				n++
			}
		}
		if extra = there - n; extra != 0 || len(missing) != 0 || len(h.kept) != n {
			return fmt.Sprintf("%d there, %d wanted, %d missing, %d looked after", there, n, len(missing), len(h.kept))
		}
		return ""
	}
	deadline := time.After(90 * time.Second)
	for why := wanted(); why != ""; why = wanted() {
		select {
		case <-k.ch:
		case <-deadline:
			t.Fatalf("%s\n%s", why, kernel(t, a))
		}
	}
}

// TestKeepAfterOverrun: what a full queue of the kernel's messages swallowed is found out.
func TestKeepAfterOverrun(t *testing.T) {
	a, h, k := keptNode(t, func(h *Host) { h.watchBuffer = 1 })
	want := kernel(t, a)
	ip(t, a, "rule", "del", "priority", "690")
	<-k.ch // it has looked after everything
	var b strings.Builder
	for i := range 400 {
		fmt.Fprintf(&b, "route add 10.77.%d.%d/32 dev d0 table 701\n", i>>8, i&255)
	}
	batch := filepath.Join(t.TempDir(), "batch")
	must(t, os.WriteFile(batch, []byte(b.String()), 0o600))
	h.mu.Lock() // Keep reads the first message of these, and has to wait
	ip(t, a, "-batch", batch)
	ip(t, a, "route", "flush", "table", "700")
	h.mu.Unlock()
	k.until("as before", func() bool { return kernel(t, a) == want })
}

// TestKeepAndLinks: what was on a link by its index goes with it; what was on it by its name comes back when one of that name does.
func TestKeepAndLinks(t *testing.T) {
	a, h, k := keptNode(t)
	must(t, h.Apply([]core.HostOp{{Kind: "sysctl", Name: "net/ipv6/conf/k0/accept_ra", Value: "0"}}))
	byName := func() string { return ip(t, a, "addr", "show", "dev", "k0") }
	ip(t, a, "link", "del", "k0")
	ip(t, a, "link", "del", "d0")
	ip(t, a, "link", "add", "k0", "type", "veth", "peer", "name", "k1")
	ip(t, a, "link", "set", "k0", "up")
	k.until("there again", func() bool {
		return strings.Contains(byName(), "10.20.0.5/32") && strings.Contains(byName(), "2001:db8:2000::5/128") &&
			strings.Contains(ip(t, a, "-6", "route", "show", "table", "700"), "src 2001:db8:2000::5") &&
			strings.Contains(ip(t, a, "route", "show", "table", "700"), "src 10.20.0.5")
	})
	if v, err := a.GetSysctl("net.ipv6.conf.k0.accept_ra"); err != nil || v != "0" {
		t.Errorf("accept_ra of the new link is %q, %v", v, err)
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	for o, op := range h.kept {
		if op.If != 0 && op.Name == "" {
			t.Errorf("%v is waited for, whose link is gone", o)
		}
	}
}
