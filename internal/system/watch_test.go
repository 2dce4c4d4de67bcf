package system

import (
	"context"
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"kedge/internal/core"
	"kedge/internal/system/netns"
)

// watching collects the changes of a Watch; next waits for one that ok accepts.
type watching struct {
	t  *testing.T
	ch chan core.HostChanged
}

func startWatch(t *testing.T, h *Host, gate <-chan struct{}) *watching {
	t.Helper()
	w := &watching{t: t, ch: make(chan core.HostChanged, 1<<16)}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error)
	go func() {
		ended <- h.Watch(ctx, func(c core.HostChanged) {
			w.ch <- c
			if gate != nil && c.Synced {
				<-gate
			}
		})
	}()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("Watch ended with %v", err)
		}
	})
	return w
}

func (w *watching) next(what string, ok func(core.HostChanged) bool) core.HostChanged {
	w.t.Helper()
	deadline := time.After(5 * time.Second)
	var seen []string
	for {
		select {
		case c := <-w.ch:
			if ok(c) {
				return c
			}
			seen = append(seen, fmt.Sprintf("%+v", c))
		case <-deadline:
			w.t.Fatalf("no %s came; these did:\n%s", what, strings.Join(seen, "\n"))
		}
	}
}

// dump reads up to Synced.
func (w *watching) dump() (all []core.HostChanged) {
	w.t.Helper()
	w.next("Synced", func(c core.HostChanged) bool { all = append(all, c); return c.Synced })
	return all
}

func TestWatchDumpAndChanges(t *testing.T) {
	a, b := pair(t)
	ip(t, a, "route", "add", "10.20.0.0/16", "via", "192.0.2.2")
	ip(t, a, "neigh", "add", "192.0.2.9", "lladdr", "02:00:00:00:00:09", "dev", "d0")
	h := newHost(t, a)
	w := startWatch(t, h, nil)
	ifi := a.Index("d0")
	has := func(all []core.HostChanged, want core.HostChanged) bool {
		for _, c := range all {
			if c.Op.Kind == "link" {
				c.Op.MAC = core.MAC{}
			}
			if c == want {
				return true
			}
		}
		return false
	}
	dump := w.dump()
	for _, want := range []core.HostChanged{
		{Op: core.HostOp{Kind: "link", If: ifi, Name: "d0", MTU: 1500, Value: "up"}, Up: true},
		{Op: core.HostOp{Kind: "address", If: ifi, Name: "d0", Prefix: pfx("192.0.2.1/24")}, Up: true},
		{Op: core.HostOp{Kind: "address", If: ifi, Name: "d0", Prefix: pfx("2001:db8::1/64")}, Up: true},
		{Op: core.HostOp{Kind: "route", If: ifi, Name: "d0", Prefix: pfx("10.20.0.0/16"), Via: addr("192.0.2.2"), Table: 254, Proto: 3}, Up: true},
		{Op: core.HostOp{Kind: "route", If: ifi, Name: "d0", Prefix: pfx("2001:db8::/64"), Table: 254, Metric: 256, Proto: 2}, Up: true},
		{Op: core.HostOp{Kind: "neighbour", If: ifi, Name: "d0", Prefix: pfx("192.0.2.9/32"), MAC: core.MAC{2, 0, 0, 0, 0, 9}, Value: "permanent"}, Up: true},
	} {
		if !has(dump, want) {
			t.Errorf("the dump lacks %+v", want)
		}
	}

	ip(t, a, "addr", "add", "2001:db8::7/64", "dev", "d0") // with duplicate address detection
	is7 := func(c core.HostChanged) bool { return c.Op.Kind == "address" && c.Op.Prefix == pfx("2001:db8::7/64") }
	if c := w.next("address", is7); !c.Tentative || c.Up {
		t.Errorf("a new address is %+v, want tentative", c)
	}
	if c := w.next("address", is7); c.Tentative || !c.Up {
		t.Errorf("an address after detection is %+v", c)
	}
	ip(t, a, "addr", "del", "2001:db8::7/64", "dev", "d0")
	if c := w.next("address", is7); !c.Gone {
		t.Errorf("a removed address is %+v", c)
	}

	must(t, b.Down("d1"))
	link := func(c core.HostChanged) bool { return c.Op.Kind == "link" && c.Op.If == ifi }
	if c := w.next("link", link); c.Up || c.Op.Value != "up" || c.Gone {
		t.Errorf("without carrier the link is %+v", c)
	}
	must(t, b.Up("d1"))
	w.next("link with carrier", func(c core.HostChanged) bool { return link(c) && c.Up })

	// The kernel says nothing about IPv4 routes of a link that is set down.
	must(t, a.Down("d0"))
	w.next("route that went with the link's state", func(c core.HostChanged) bool {
		return c.Gone && c.Op.Kind == "route" && c.Op.Prefix == pfx("10.20.0.0/16")
	})
	must(t, a.Up("d0"))
	must(t, a.DeleteLink("d0"))
	w.next("link that is gone", func(c core.HostChanged) bool { return link(c) && c.Gone && !c.Up })
}

func TestWatchDuplicateAddress(t *testing.T) {
	a, _ := pair(t)
	w := startWatch(t, newHost(t, a), nil)
	w.dump()
	ip(t, a, "addr", "add", "2001:db8::2/64", "dev", "d0") // the other end has it
	w.next("failed detection", func(c core.HostChanged) bool { return c.Op.Prefix == pfx("2001:db8::2/64") && c.Tentative })
	for deadline := time.After(1500 * time.Millisecond); ; {
		select {
		case c := <-w.ch:
			if c.Op.Prefix == pfx("2001:db8::2/64") && c.Up {
				t.Fatal("a duplicate address was reported as usable")
			}
			continue
		case <-deadline:
		}
		break
	}
}

func TestWatchBridgePortIsNoLinkThatGoes(t *testing.T) {
	a, _ := pair(t)
	must(t, a.Bridge("br0", "d0"))
	w := startWatch(t, newHost(t, a), nil)
	w.dump()
	must(t, a.Detach("d0"))
	must(t, a.SetMTU("d0", 1400))
	w.next("the link's MTU, and no end of the link before it", func(c core.HostChanged) bool {
		if c.Op.Kind == "link" && c.Gone {
			t.Errorf("leaving a bridge was taken for %+v", c)
		}
		return c.Op.Kind == "link" && c.Op.MTU == 1400
	})
}

func TestWatchSurvivesOverrun(t *testing.T) {
	a, _ := pair(t)
	h := newHost(t, a)
	h.watchBuffer = 4096
	gate := make(chan struct{})
	w := startWatch(t, h, gate)
	ip(t, a, "route", "add", "10.99.0.0/16", "dev", "d0")
	state := make(map[netip.Prefix]bool)
	for _, c := range w.dump() {
		if c.Op.Kind == "route" {
			state[c.Op.Prefix] = true
		}
	}
	// The watch is held at its first Synced; far more happens than its buffer holds.
	var ops []core.HostOp
	for i := range 600 {
		ops = append(ops, core.HostOp{Kind: "route", Prefix: netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 20, byte(i >> 8), byte(i)}), 32), Name: "d0"})
	}
	must(t, h.Apply(ops))
	for i := range ops[:300] {
		ops[i].Del = true
	}
	must(t, h.Apply(ops[:300]))
	ip(t, a, "route", "del", "10.99.0.0/16")
	close(gate)
	w.next("Synced after the overrun", func(c core.HostChanged) bool {
		if c.Op.Kind == "route" {
			state[c.Op.Prefix] = !c.Gone
		}
		return c.Synced
	})
	for i, op := range ops {
		if state[op.Prefix] != (i >= 300) {
			t.Fatalf("after the overrun route %d, %s, is known: %v", i, op.Prefix, state[op.Prefix])
		}
	}
	if state[pfx("10.99.0.0/16")] {
		t.Error("a route that went during the overrun is still believed")
	}
	// And it goes on.
	must(t, h.Apply([]core.HostOp{{Kind: "route", Prefix: pfx("10.77.0.0/16"), Name: "d0"}}))
	w.next("route after the overrun", func(c core.HostChanged) bool { return c.Op.Prefix == pfx("10.77.0.0/16") && !c.Gone })
}

func TestWatchEndsWhileBlocked(t *testing.T) {
	n := netns.Test(t, "n")
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error)
	h := newHost(t, n)
	synced := make(chan struct{})
	go func() {
		done <- h.Watch(ctx, func(c core.HostChanged) {
			if c.Synced {
				close(synced)
			}
		})
	}()
	<-synced
	cancel()
	if err := <-done; err != nil {
		t.Errorf("Watch = %v, want nil", err)
	}
}

// TestWatchLinkReplacedDuringOverrun: a link that went and came with another index while nothing was heard is told to be gone
// first, and to be there last.
func TestWatchLinkReplacedDuringOverrun(t *testing.T) {
	a, b := pair(t)
	h := newHost(t, a)
	h.watchBuffer = 4096
	gate := make(chan struct{})
	w := startWatch(t, h, gate)
	old := a.Index("d0")
	w.dump()
	var ops []core.HostOp
	for i := range 600 {
		ops = append(ops, core.HostOp{Kind: "route", Prefix: netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 20, byte(i >> 8), byte(i)}), 32), Name: "d0"})
	}
	must(t, h.Apply(ops))
	must(t, a.DeleteLink("d0"))
	netns.TestVeth(t, netns.End{NS: a, Name: "d0"}, netns.End{NS: b, Name: "d1"})
	if a.Index("d0") == old {
		t.Fatal("the link has its old index: the test shows nothing")
	}
	close(gate)
	var told []core.HostChanged
	w.next("Synced after the overrun", func(c core.HostChanged) bool {
		if c.Op.Kind == "link" && c.Op.Name == "d0" {
			told = append(told, c)
		}
		return c.Synced
	})
	if len(told) < 2 {
		t.Fatalf("told of d0: %+v, want its end and its return", told)
	}
	if last := told[len(told)-1]; last.Gone || last.Op.If != a.Index("d0") {
		t.Errorf("told of d0: %+v; the last word is not that it is there", told)
	}
}

// TestWatchFlap: the kernel tells of a carrier that was away for a moment only that it is there. The watch tells both.
func TestWatchFlap(t *testing.T) {
	a, b := pair(t)
	w := startWatch(t, newHost(t, a), nil)
	w.next("end of the dump", func(c core.HostChanged) bool { return c.Synced })
	link := func(up bool) func(core.HostChanged) bool {
		return func(c core.HostChanged) bool {
			return c.Op.Kind == "link" && c.Op.Name == "d0" && c.Up == up && !c.Gone
		}
	}
	for range 5 {
		must(t, b.Down("d1"))
		must(t, b.Up("d1"))
		w.next("loss of carrier", link(false))
		w.next("carrier", link(true))
	}
}
