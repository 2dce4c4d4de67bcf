package movement

import (
	"slices"
	"testing"
	"time"

	"kedge/internal/core"
	"kedge/internal/spec"
	"kedge/wire/nd"
)

const (
	netA = "2001:db8:a::/64"
	netB = "2001:db8:b::/64"
)

// TestAttach: carrier, solicitation at once, and the care-of address is there after one round trip on the link, optimistic.
func TestAttach(t *testing.T) {
	r := newRig(t, Config{})
	r.add(2, "eth0", false)
	r.want("")
	r.run(time.Second)
	if len(r.sent) > 0 {
		t.Fatalf("sent %v without carrier", r.sent)
	}
	r.carrier(2, newNet(1, netA))
	r.run(2 * wireDelay)
	r.want("eth0 2001:db8:a::/64 optimistic")
	if got := r.frames("rs"); !slices.Equal(got, []time.Duration{time.Second}) {
		t.Errorf("solicitations at %v", got)
	}
	if !r.m.Changed() || r.m.Changed() {
		t.Error("Changed must be true once")
	}
	r.run(time.Second)
	r.want("eth0 2001:db8:a::/64")
	c := r.m.CareOfs()[0]
	if c.Router.String() != "fe80::1" || c.If != 2 || c.MTU != 1500 || c.Prefer != 10 || c.Network != "2001:db8:a::/64 02:00:00:00:01:01" {
		t.Errorf("care-of %+v", c)
	}
	r.wantWay(c)
	if r.kernel.sysctl["net/ipv6/conf/eth0/accept_ra"] != "0" || r.kernel.sysctl["net/ipv6/conf/eth0/autoconf"] != "0" {
		t.Errorf("sysctls %v", r.kernel.sysctl)
	}
	r.effects(r.m.Close(r.clock(), nil))
	r.run(0)
	r.want("")
	r.clean()
	if at, ok := r.m.Deadline(); ok {
		t.Errorf("closed, and wants a tick at %s", at)
	}
}

// wantWay fails unless the kernel has the table and the rule of a care-of address.
func (r *rig) wantWay(c CareOf) {
	r.t.Helper()
	def := false
	for _, op := range r.kernel.routes {
		def = def || op.Table == c.Table && op.Prefix.Bits() == 0 && op.Via == c.Router && op.If == c.If
	}
	rule := false
	for _, op := range r.kernel.rules {
		rule = rule || op.Table == c.Table && op.Prefix.Addr() == c.Addr && op.Prefix.IsSingleIP()
	}
	if !def || !rule {
		r.t.Fatalf("no way for %s: routes %v, rules %v", c.Addr, r.kernel.routes, r.kernel.rules)
	}
}

// TestFlap: the carrier comes back within milliseconds to the same network. The address is not offered until its router
// answers, and is the same then, without another test.
func TestFlap(t *testing.T) {
	spec.Covers(t, "RFC6275-11.5.1")
	r, n := attached(t, Config{})
	was := r.m.CareOfs()[0]
	r.carrier(2, nil)
	r.want("")
	r.run(5 * time.Millisecond)
	n.routers[0].ra = nil // no advertisement: the answer to the question alone must do
	r.sent = nil
	r.carrier(2, n)
	r.want("")
	r.run(2 * wireDelay)
	r.want("eth0 2001:db8:a::/64")
	if is := r.m.CareOfs()[0]; is.Addr != was.Addr || is.Network != was.Network || is.Table != was.Table {
		t.Errorf("was %+v, is %+v", was, is)
	}
	if ns := r.frames("ns"); len(ns) != 1 {
		t.Errorf("solicitations of neighbours at %v", ns)
	}
	for _, s := range r.sent {
		if s.f.Kind() == "ns" && s.f.Dst != n.routers[0].mac {
			t.Errorf("the router is asked at %s", s.f.Dst)
		}
	}
}

// TestFlapAdvertisement: the advertisement of the old router is as good as its answer (RFC 6059 5.4). If it does not hear us,
// it is dead after the questions all the same.
func TestFlapAdvertisement(t *testing.T) {
	r, n := attached(t, Config{})
	n.routers[0].deaf = true
	r.carrier(2, nil)
	r.carrier(2, n)
	r.want("")
	n.routers[0].advertise(r, n, 2, nil)
	r.run(wireDelay)
	r.want("eth0 2001:db8:a::/64")
	r.run(fastProbes * askAgain)
	r.want("")
	// Dead, and suspected again: it is asked at once, by a question to all.
	r.sent, n.routers[0].deaf = nil, false
	r.run(100 * time.Millisecond)
	r.effects(r.m.Suspect(r.clock(), r.m.links[2].addrs[0].a, nil))
	asked := slices.IndexFunc(r.sent, func(s sentFrame) bool { return s.f.Kind() == "ns" })
	if len(r.frames("ns")) != 1 || r.sent[asked].f.Dst != multicastMAC(nd.SolicitedNode(n.routers[0].ll)) {
		t.Errorf("sent %v", r.sent)
	}
	r.run(2 * wireDelay)
	r.want("eth0 2001:db8:a::/64")
}

// TestMoved: the carrier comes back to another network. The new address is there after one round trip, the old one goes when
// its router is found missing.
func TestMoved(t *testing.T) {
	spec.Covers(t, "RFC6275-11.5.4")
	r := newRig(t, Config{})
	r.add(2, "eth0", false)
	r.carrier(2, newNet(1, netA))
	r.run(3 * time.Second)
	r.carrier(2, nil)
	r.run(5 * time.Millisecond)
	r.carrier(2, newNet(2, netB))
	r.run(2 * wireDelay)
	r.want("eth0 2001:db8:b::/64 optimistic")
	r.run(fastProbes * askAgain)
	if len(r.kernel.links[2].addrs) != 2 { // link-local and the new one
		t.Errorf("addresses %v", r.kernel.links[2].addrs)
	}
	r.want("eth0 2001:db8:b::/64")
	if len(r.kernel.rules) != 1 {
		t.Errorf("rules %v", r.kernel.rules)
	}
}

// TestSilentMove: another network without any sign of the link. A new router with other prefixes makes the machine ask the
// old one, four times in a second; then the old address is gone (RFC 6275 11.5.1).
func TestSilentMove(t *testing.T) {
	spec.Covers(t, "RFC6275-11.5.1")
	r := newRig(t, Config{})
	r.add(2, "eth0", false)
	r.carrier(2, newNet(1, netA))
	r.run(3 * time.Second)
	b := newNet(2, netB)
	r.roam(2, b)
	b.routers[0].advertise(r, b, 2, nil)
	r.run(wireDelay)
	r.want("eth0 2001:db8:a::/64, eth0 2001:db8:b::/64 optimistic")
	r.run(askAgain)
	r.want("eth0 2001:db8:a::/64 suspect, eth0 2001:db8:b::/64 optimistic")
	r.run((fastProbes - 1) * askAgain)
	r.want("eth0 2001:db8:b::/64")
}

// TestAnotherRouterIsNoMove: a second router on the same link, and the first still answers (RFC 6275 11.5.1).
func TestAnotherRouterIsNoMove(t *testing.T) {
	spec.Covers(t, "RFC6275-11.5.1")
	r, n := attached(t, Config{})
	was := r.m.CareOfs()[0]
	n.routers = append(n.routers, newNet(2, netB).routers...)
	n.routers[1].advertise(r, n, 2, nil)
	r.run(3 * time.Second)
	r.want("eth0 2001:db8:a::/64, eth0 2001:db8:b::/64")
	if r.m.CareOfs()[0] != was {
		t.Errorf("was %+v, is %+v", was, r.m.CareOfs()[0])
	}
	// Each leaves by its own router.
	for _, c := range r.m.CareOfs() {
		r.wantWay(c)
	}
	if a, b := r.m.CareOfs()[0].Router, r.m.CareOfs()[1].Router; a == b {
		t.Errorf("both by %s", a)
	}
}

// TestSuspect: nothing comes back, so the router is asked at once; it is dead a second later, and comes back.
func TestSuspect(t *testing.T) {
	r, n := attached(t, Config{})
	n.routers[0].silent = true
	r.effects(r.m.Suspect(r.clock(), r.m.CareOfs()[0].Addr, nil))
	r.want("eth0 2001:db8:a::/64")
	r.run(askAgain)
	r.want("eth0 2001:db8:a::/64 suspect")
	r.run((fastProbes-1)*askAgain - 1)
	r.want("eth0 2001:db8:a::/64 suspect")
	r.run(1)
	r.want("")
	r.run(time.Minute)
	n.routers[0].silent = false
	r.run(deadAgain + 5*time.Second)
	r.want("eth0 2001:db8:a::/64")
}

// TestConfirm: while upper layers see answers, the router is never asked (RFC 4861 7.3.1); without them, every ten seconds.
func TestConfirm(t *testing.T) {
	spec.Covers(t, "RFC4861-7.3.1")
	r, n := attached(t, Config{})
	a := r.m.CareOfs()[0].Addr
	r.sent = nil
	for range 20 {
		r.run(3 * time.Second)
		r.m.Confirm(r.clock(), a)
	}
	if len(r.sent) > 0 {
		t.Errorf("%d frames although all is well: %v", len(r.sent), r.frames("ns"))
	}
	r.run(DefaultVerify - 1)
	if len(r.sent) > 0 {
		t.Errorf("asked too early: %v", r.frames("ns"))
	}
	r.run(1)
	if len(r.frames("ns")) != 1 {
		t.Errorf("asked %v", r.frames("ns"))
	}
	// It dies by three unanswered questions a second apart.
	r.run(2 * wireDelay)
	n.routers[0].silent = true
	r.run(DefaultVerify + 3*time.Second - 1)
	r.want("eth0 2001:db8:a::/64 suspect")
	r.run(1)
	r.want("")
}

// TestSleep: the host slept for a minute, and is elsewhere.
func TestSleep(t *testing.T) {
	for _, moved := range []bool{false, true} {
		r := newRig(t, Config{})
		r.add(2, "eth0", false)
		r.carrier(2, newNet(1, netA))
		r.run(3 * time.Second)
		want := "eth0 2001:db8:a::/64"
		if moved {
			r.roam(2, newNet(2, netB))
			want = "eth0 2001:db8:b::/64"
		}
		r.sleep(time.Minute)
		r.sent = nil
		r.handle(core.Tick{})
		r.want("eth0 2001:db8:a::/64")
		if len(r.frames("ns")) != 1 || len(r.frames("rs")) != 1 {
			t.Fatalf("asked %v, solicited %v", r.frames("ns"), r.frames("rs"))
		}
		if !moved {
			r.run(2 * wireDelay)
			r.want(want)
		}
		r.run(1500 * time.Millisecond)
		r.want(want)
	}
}

// TestVerdictIsNotPutOff: doubts that keep coming do not put the verdict off; a sign of life from above ends them at once.
func TestVerdictIsNotPutOff(t *testing.T) {
	r, n := attached(t, Config{})
	a := r.m.CareOfs()[0].Addr
	n.routers[0].silent = true
	for range 3 {
		r.effects(r.m.Suspect(r.clock(), a, nil))
		r.run(200 * time.Millisecond)
	}
	r.want("eth0 2001:db8:a::/64 suspect")
	r.m.Changed()
	r.m.Confirm(r.clock(), a)
	r.want("eth0 2001:db8:a::/64")
	if at, ok := r.m.Deadline(); !r.m.Changed() || !ok || at < r.now+200*time.Millisecond {
		t.Errorf("after the sign of life: deadline in %s", at-r.now)
	}
	for range 5 {
		r.effects(r.m.Suspect(r.clock(), a, nil))
		r.run(200 * time.Millisecond)
	}
	r.want("")
	r.m.Confirm(r.clock(), a) // nothing can have come through a router that is given up
	r.want("")
}

// TestDeadRouter: it is asked ever more seldom. Its advertisements to all show that it can be heard, and no more; one to us
// alone answers our solicitation.
func TestDeadRouter(t *testing.T) {
	r, n := attached(t, Config{})
	n.routers[0].deaf = true
	r.effects(r.m.Suspect(r.clock(), r.m.CareOfs()[0].Addr, nil))
	r.run(fastProbes * askAgain)
	r.want("")
	since := r.now - start
	r.sent = nil
	r.run(2 * time.Minute)
	// Nine tenths of 1, 2, 4, 8, 16 and 30 s.
	want := []time.Duration{900, 2700, 6300, 13500, 27900, 54900, 81900, 108900}
	for i := range want {
		want[i] = since + want[i]*time.Millisecond
	}
	if got := r.frames("ns"); !slices.Equal(got, want) {
		t.Errorf("asked at %v, want %v", got, want)
	}
	if got := r.emitted("link"); !slices.Equal(got, []string{"down>up"}) {
		t.Errorf("told %v", got)
	}
	n.routers[0].advertise(r, n, 2, nil)
	r.run(wireDelay)
	r.want("")
	n.routers[0].unicast = true
	n.routers[0].advertise(r, n, 2, r.lastFrame("rs"))
	r.run(wireDelay)
	r.want("eth0 2001:db8:a::/64")
}

// TestRetransTimer: what a router advertises is how long its answer may take, within bounds (RFC 4861 6.3.4).
func TestRetransTimer(t *testing.T) {
	for advertised, want := range map[uint32]time.Duration{0: time.Second, 100: time.Second, 250: 250 * time.Millisecond, 2000: 2 * time.Second, 3600000: maxRetrans} {
		r := newRig(t, Config{})
		n := newNet(1, netA)
		n.routers[0].ra.RetransTimer = advertised
		r.add(2, "eth0", false)
		r.carrier(2, n)
		r.run(3 * time.Second)
		n.routers[0].silent = true
		r.sent = nil
		r.run(DefaultVerify + 20*time.Second)
		got := r.frames("ns")
		if len(got) < 3 || got[1]-got[0] != want || got[2]-got[1] != want {
			t.Errorf("%d: asked at %v, want every %s", advertised, got, want)
		}
	}
}
