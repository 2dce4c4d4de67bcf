package simnet

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"kedge/internal/anchor"
	"kedge/internal/gateway"
)

// short lets bindings live 40 s, so that refreshes come soon, and quiet hosts be noticed soon.
func short(o *options) {
	o.gateway = func(_ int, c *gateway.Config) {
		c.Timers.Lifetime = 40 * sec
		c.Timers.NUDReachable = 10 * sec
	}
	o.anchor = func(c *anchor.Config) { c.Timers.LifetimeMax = 40 * sec }
}

// phase is one step of a host's life.
type phase struct {
	name string
	do   func(d *domain, h *Host)
	took time.Duration
	// ok holds at the end of the phase, whatever single fault there was.
	ok func(d *domain, h *Host) error
}

// reachable says what is wrong with a host that should be at gateway i and reach everybody.
func (d *domain) reachable(h *Host, i int) error {
	bs := d.bindings(d.lma, h)
	if len(bs) != 1 || bs[0].State != "active" || bs[0].ProxyCoA != magAddr(i) {
		return fmt.Errorf("the anchor has %+v, want one active binding at mag%d", bs, i+1)
	}
	gs := d.bindings(d.mags[i], h)
	if len(gs) != 1 || gs[0].State != "active" && gs[0].State != "refreshing" {
		return fmt.Errorf("mag%d has %+v, want one active session", i+1, gs)
	}
	if gs[0].IPv4 != bs[0].IPv4 || fmt.Sprint(gs[0].Prefixes) != fmt.Sprint(bs[0].Prefixes) {
		return fmt.Errorf("mag%d has %v %v, the anchor %v %v", i+1, gs[0].IPv4, gs[0].Prefixes, bs[0].IPv4, bs[0].Prefixes)
	}
	if h.Addr4 != bs[0].IPv4 || h.Addr6() == (gs[0].ProxyCoA) || len(h.Addrs6) != 1 || h.Addrs6[0].Prefix != bs[0].Prefixes[0] {
		return fmt.Errorf("the host has %v %v, its binding %v %v", h.Addr4, h.Addrs6, bs[0].IPv4, bs[0].Prefixes)
	}
	before, back := len(h.Replies), len(d.cn.Replies)
	h.Ping(cn4, 7)
	h.Ping(cn6, 7)
	d.cn.Ping(h.Addr4.Addr(), 8)
	d.cn.Ping(h.Addr6(), 8)
	d.Run(100 * ms)
	if a, b := len(h.Replies)-before, len(d.cn.Replies)-back; a != 2 || b != 2 {
		return fmt.Errorf("%d and %d of 2 pings were answered", a, b)
	}
	return nil
}

var life = []phase{
	{"attach", func(d *domain, h *Host) { h.Move(d.airs[0]) }, 13 * sec, func(d *domain, h *Host) error { return d.reachable(h, 0) }},
	{"handover", func(d *domain, h *Host) { h.Move(d.airs[1]) }, 13 * sec, func(d *domain, h *Host) error { return d.reachable(h, 1) }},
	{"refresh", func(d *domain, h *Host) {}, 45 * sec, func(d *domain, h *Host) error { return d.reachable(h, 1) }},
	{"and back", func(d *domain, h *Host) { h.Move(d.airs[0]) }, 13 * sec, func(d *domain, h *Host) error { return d.reachable(h, 0) }},
	{"detach", func(d *domain, h *Host) { h.Move(nil) }, 70 * sec, func(d *domain, h *Host) error {
		for _, n := range d.Nodes() {
			if bs := d.bindings(n, h); len(bs) != 0 {
				return fmt.Errorf("%s still has %+v", n.Name, bs)
			}
			if ops := n.Engine.Ops(); len(ops) != 0 {
				return fmt.Errorf("%s still forwards %+v", n.Name, ops)
			}
		}
		return nil
	}},
}

// live runs a host's life with one fault on packet number n (0 = none) and gives the packets of each phase.
func live(t *testing.T, what string, n int, r Router, note *string) (counts []int, seen []string) {
	t.Helper()
	o := options{seed: 1, quiet: true}
	short(&o)
	d := newDomain(t, o)
	hit := func(p *Packet) Verdict {
		if p.N != n {
			return Verdict{}
		}
		*note = p.What()
		return r(p)
	}
	if n > 0 {
		d.core.Fault(hit)
		for _, a := range d.airs {
			a.Fault(hit)
		}
	}
	d.Tap = func(p *Packet) { seen = append(seen, p.What()) }
	h := d.host(10)
	for _, ph := range life {
		ph.do(d, h)
		d.Run(ph.took)
		if err := ph.ok(d, h); err != nil {
			t.Errorf("%s of packet %d (%s): after %s: %v; events %v", what, n, *note, ph.name, err, h.Events)
			t.Logf("what happened:\n%s", d.Trace)
			return nil, nil
		}
		counts = append(counts, len(seen))
	}
	return counts, seen
}

// TestEverySingleFault: every packet of a host's life, on the core and on the air, is lost, doubled at once or later, late
// by less and by more than a retransmission, damaged - one in each run. After each step the host is where it should be,
// with its addresses, and reaches everybody; at the end nothing is left.
func TestEverySingleFault(t *testing.T) {
	var note string
	counts, seen := live(t, "no fault", 0, Pass, &note)
	if t.Failed() {
		return
	}
	t.Logf("packets up to the end of each phase: %v", counts)
	faults := []struct {
		name string
		r    Router
		core bool // of the core network only
	}{
		{"loss", Lose, false}, {"copy", Twice(0), false}, {"copy 1 ms later", Twice(ms), false}, {"copy 3 s later", Twice(3 * sec), false},
		{"copy 15 s later", Twice(15 * sec), true}, {"delay by 20 ms", Late(20 * ms), false}, {"delay by 900 ms", Late(900 * ms), false},
		{"delay by 2.5 s", Late(2500 * ms), false}, {"delay by 20 s", Late(20 * sec), true},
		{"damage at the end", Flip(-1), false}, {"damage in the middle", Flip(30), false},
	}
	runs, kinds := 0, map[string]int{}
	for _, f := range faults {
		for n := 1; n <= counts[len(counts)-1]; n++ {
			if strings.HasPrefix(seen[n-1], "tunnel") || strings.HasPrefix(seen[n-1], "echo") {
				continue // the test's own pings
			}
			if f.core && !strings.HasPrefix(seen[n-1], "PB") && !strings.HasPrefix(seen[n-1], "BR") && !strings.HasPrefix(seen[n-1], "heartbeat") {
				continue // a frame of a host that has long left would rightly be believed
			}
			note = ""
			live(t, f.name, n, f.r, &note)
			if t.Failed() {
				return
			}
			runs++
			kinds[strings.Fields(note)[0]]++
		}
	}
	t.Logf("%d runs: %v", runs, kinds)
	for _, k := range []string{"PBU", "PBA", "BRI", "BRA", "heartbeat", "ra", "rs", "mld", "dhcp", "ns", "na"} {
		if kinds[k] == 0 {
			t.Errorf("no %s was hit: the test shows nothing about it", k)
		}
	}
}
