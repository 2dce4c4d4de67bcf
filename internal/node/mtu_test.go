package node

import (
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"kedge/internal/core"
	"kedge/wire"
	"kedge/wire/ip"
)

// large are the outer sizes of the large echoes so far.
func (r *rig) large() (sizes []int) {
	for _, s := range r.sent {
		if e, ok := s.Body.(*ip.Echo); ok && len(e.Data) > 8 {
			sizes = append(sizes, len(e.Data)+48+r.m.bind.framing.overhead())
		}
	}
	return sizes
}

// TestPathMTUIsProbed: a path that drops large packets without a word is found out, in every framing.
func TestPathMTUIsProbed(t *testing.T) {
	for _, c := range []struct {
		addr   string
		nat    int
		link   int
		path   int
		sizes  []int
		device int
		chain  uint16
	}{
		{"2001:db8:1::7", 0, 1500, 0, []int{1500}, 1460, 0},
		{"2001:db8:1::7", 0, 1500, 1400, []int{1500, 1500, 1500, 1492, 1492, 1460, 1460, 1420, 1420, 1380}, 1340, 1380},
		{"2001:db8:1::7", 0, 1500, 1280, []int{1500, 1500, 1500, 1492, 1492, 1460, 1460, 1420, 1420, 1380, 1380, 1340, 1340}, 1280, 1280},
		{"192.0.2.7", 0, 1500, 1492, []int{1500, 1500, 1500, 1492}, 1472, 1492},
		{"192.0.2.7", 1, 1500, 1470, []int{1500, 1500, 1500, 1492, 1492, 1460}, 1432, 1460},
		{"192.0.2.7", 1, 1280, 0, nil, 1280, 0}, // nothing to find out: 1,280 octets pass in fragments
		{"2001:db8:1::7", 0, 9000, 0, []int{9000}, 8960, 0},
		{"2001:db8:1::7", 0, 9000, 1500, []int{9000, 9000, 9000, 1500}, 1460, 1500},
	} {
		r := newRig(t, nil)
		n := r.net(1, c.addr)
		n.care.MTU, n.ownMTU, n.nat = c.link, c.path, c.nat
		r.show(n)
		r.run(5 * sec)
		if got := r.large(); !slices.Equal(got, c.sizes) {
			t.Errorf("%+v: tried %v", c, got)
		}
		if got := r.m.deviceMTU(); got != c.device || r.m.session.chain.MTU != c.chain || r.host[name(&r.m.desired()[0])].MTU != c.device {
			t.Errorf("%+v: device %d, chain %d", c, got, r.m.session.chain.MTU)
		}
		if !r.ok() {
			t.Errorf("%+v: not bound: %s", c, r.story())
		}
		// Ten minutes later, and after a refresh, what is known still holds, and more is tried.
		n.ownMTU = 0
		r.run(500 * sec)
		if r.m.session.chain.MTU != c.chain {
			t.Errorf("%+v: after a refresh %d", c, r.m.session.chain.MTU)
		}
		r.run(mtuRaise)
		if r.m.session.chain.MTU != 0 {
			t.Errorf("%+v: the path grew, the tunnel did not: %d", c, r.m.session.chain.MTU)
		}
	}
}

// TestDeadPathSaysNothingOfSizes: the search waits until small echoes come back again.
func TestDeadPathSaysNothingOfSizes(t *testing.T) {
	r := newRig(t, nil)
	n := r.net(1, "2001:db8:1::7")
	r.show(n)
	r.run(41 * ms) // the first large echo is on its way
	n.down = true
	r.run(2 * time.Minute)
	n.down = false
	r.run(40 * sec)
	if !r.ok() || r.m.bind.mtu != 0 {
		t.Errorf("MTU %d: %s", r.m.bind.mtu, r.story())
	}
}

// TestPathShrinks: a path that comes to drop what it carried, without a word, is found out in half a minute. One that loses a fifth
// of all packets is no smaller one.
func TestPathShrinks(t *testing.T) {
	for _, addr := range []string{"2001:db8:1::7", "192.0.2.7"} {
		for _, first := range []int{0, 1460} {
			r := newRig(t, nil)
			n := r.net(1, addr)
			n.ownMTU = first
			r.show(n)
			r.run(95 * sec)
			r.forget()
			r.run(60 * sec)
			if got := len(r.large()); got != 3 || r.m.bind.mtu != first {
				t.Errorf("%s: %d large echoes in a minute, MTU %d", addr, got, r.m.bind.mtu)
			}
			n.ownMTU = 1400
			r.run(30 * sec)
			if got := r.m.session.chain.MTU; got != 1380 || !r.ok() {
				t.Errorf("%s: MTU %d half a minute after the path shrank: %s", addr, got, r.story())
			}
			n.ownMTU = 0
			r.run(mtuRaise + 10*sec)
			if got := r.m.session.chain.MTU; got != 0 {
				t.Errorf("%s: MTU %d after the path grew", addr, got)
			}
		}
	}
	r, n := v6rig(t, nil)
	r.run(5 * sec)
	n.loss = 0.2
	shrunk := 0
	for range 1000 {
		r.run(sec)
		if r.m.bind.mtu != 0 {
			shrunk++
		}
	}
	if shrunk > 0 {
		t.Errorf("a lossy path counted as a smaller one for %d of 1,000 seconds", shrunk)
	}
}

// TestTooLargeIsNoFailure: an echo that this host itself finds too large for the path is part of the search; what failed beside it is
// told.
func TestTooLargeIsNoFailure(t *testing.T) {
	r := newRig(t, nil)
	large := fmt.Errorf("signalling of 1460 octets: %w", core.ErrTooLarge)
	down := errors.New("network is down")
	for _, c := range []struct {
		err           error
		large, failed uint64
	}{
		{large, 1, 0},
		{errors.Join(large, large), 2, 0},
		{fmt.Errorf("mh port: %w", errors.Join(large, errors.Join(nil, down), large)), 2, 1},
		{down, 0, 1},
	} {
		clear(r.m.counts)
		r.forget()
		r.handle(core.Done{Err: c.err})
		if got := r.m.counts[string(wire.TooBig)]; got != c.large || r.m.counts["failed-effect"] != c.failed || uint64(len(r.emits)) != c.failed {
			t.Errorf("%v: %d too large, told %v", c.err, got, r.emits)
		}
	}
}
