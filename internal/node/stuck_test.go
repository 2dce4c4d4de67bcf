package node

import (
	"flag"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"strings"
	"testing"
	"time"
)

var stuckSeeds = flag.Int("stuck.seeds", 500, "seeds of TestNeverStuck")

// TestNeverStuck: after any random events that end in a usable network, node and home agent agree on a binding within the time
// to notice a dead path, two round trips and the cap of the back-off.
func TestNeverStuck(t *testing.T) {
	worst, sum := time.Duration(0), time.Duration(0)
	for seed := range uint64(*stuckSeeds) {
		took := stuckRun(t, seed)
		worst, sum = max(worst, took), sum+took
		if t.Failed() {
			return
		}
	}
	t.Logf("until bound: mean %v, worst %v", sum/time.Duration(*stuckSeeds), worst)
}

func stuckRun(t *testing.T, seed uint64) time.Duration {
	r := newRig(t, func(c *Config) {
		if seed%3 == 1 {
			c.Unreachable = Pass
		}
		if seed%5 == 2 {
			c.Home.IPv4, c.Home.V4 = IPv4Dynamic, netip.Prefix{}
		}
	})
	if r.m.cfg.Home.IPv4 == IPv4Dynamic {
		r.agent.lease = hoa4
	}
	r.rng = rand.New(rand.NewPCG(seed, 42))
	rng := rand.New(rand.NewPCG(seed, 43))
	var script strings.Builder
	say := func(format string, args ...any) {
		fmt.Fprintf(&script, "%v: "+format+"\n", append([]any{r.elapsed()}, args...)...)
	}
	all := []*netw{r.net(1, "2001:db8:1::7"), r.net(1, "192.0.2.7"), r.net(2, "2001:db8:2::7"), r.net(2, "10.1.1.7"), r.net(3, "203.0.113.9")}
	homeNet := r.net(4, "2001:db8:2000::99")
	homeNet.care.Home = true
	all = append(all, homeNet)
	all[3].nat = 1
	visible := map[*netw]bool{}
	show := func() {
		var vs []*netw
		for _, n := range all {
			if visible[n] {
				vs = append(vs, n)
			}
		}
		rng.Shuffle(len(vs), func(i, j int) { vs[i], vs[j] = vs[j], vs[i] })
		r.show(vs...)
	}
	for range 20 {
		n := all[rng.IntN(len(all))]
		switch rng.IntN(13) {
		case 0, 1, 2:
			visible[n] = !visible[n]
			say("%v visible %v", n.care.Addr, visible[n])
			show()
		case 3:
			n.down = !n.down
			say("%v down %v", n.care.Addr, n.down)
		case 4:
			n.loss = float64(rng.IntN(3)) * 0.3
			say("%v loss %v", n.care.Addr, n.loss)
		case 5:
			if n.care.Addr.Is4() {
				n.nat = rng.IntN(4)
				say("%v NAT %v", n.care.Addr, n.nat)
			}
		case 6:
			n.noPlain = !n.noPlain
			say("%v no plain %v", n.care.Addr, n.noPlain)
		case 7:
			n.noUp = !n.noUp
			say("%v no up %v", n.care.Addr, n.noUp)
		case 8:
			n.noDown = !n.noDown
			say("%v no down %v", n.care.Addr, n.noDown)
		case 9:
			r.agent.down = !r.agent.down
			if rng.IntN(2) == 0 {
				r.agent.net, r.agent.seqKnown = nil, rng.IntN(2) == 0
			}
			say("agent down %v", r.agent.down)
		case 10:
			say("suspend")
			r.advance(r.now.Boot + 60*time.Second)
		case 11:
			n.noTunnel = !n.noTunnel
			say("%v no tunnel %v", n.care.Addr, n.noTunnel)
		case 12:
			n.delay = time.Duration(1+rng.IntN(400)) * time.Millisecond
			say("%v delay %v", n.care.Addr, n.delay)
		}
		r.run(time.Duration(rng.IntN(20_000)) * time.Millisecond / time.Duration(1+rng.IntN(20)))
	}
	// It ends in a usable network.
	r.agent.down = false
	n := all[rng.IntN(len(all))]
	nat, done := n.nat, r.ok
	if n == homeNet {
		done = func() bool {
			return r.m.state == home && !r.agent.bound() && r.links.claims[len(r.links.claims)-1][:5] == "claim"
		}
	}
	for _, n := range all {
		n.down, n.loss, n.noUp, n.noDown, n.noTunnel = rng.IntN(2) == 0, 0, false, false, false
	}
	n.down, n.nat, n.delay = false, nat, 20*time.Millisecond
	visible[homeNet] = n == homeNet
	visible[n] = true
	say("usable: %v", n.care.Addr)
	show()
	start := r.elapsed()
	bound := r.m.cfg.Timers.DeadPath + 2*40*time.Millisecond + r.m.cfg.Timers.RetransmitMax
	if !r.until(bound, done) {
		t.Errorf("seed %d: not bound after %v: state %v, bind %v %v, agent bound %v; race %+v; path %+v\n%s\n%s", seed, bound, r.m.state, r.m.bind.careOf.Addr,
			r.m.bind.framing, r.agent.bound(), r.m.race, r.m.path, script.String(), r.story())
		return 0
	}
	// And stays so.
	r.run(10 * time.Second)
	if !r.until(10*time.Second, done) {
		t.Errorf("seed %d: bound and lost: state %v, bind %v; race %+v; path %+v\n%s\n%s", seed, r.m.state, r.m.bind.careOf.Addr, r.m.race, r.m.path, script.String(), r.story())
	}
	return r.elapsed() - start - 10*time.Second
}
