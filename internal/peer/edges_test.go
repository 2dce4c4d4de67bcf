package peer

import (
	"io"
	"net/netip"
	"testing"
	"time"

	"kedge/internal/core"
	"kedge/wire"
	"kedge/wire/mobility"
)

// TestEveryAddress: without a list, what comes to whatever address is for it, and care-of addresses are nobody's own but that one.
func TestEveryAddress(t *testing.T) {
	r := start(t, func(c *Config) { c.Addresses = nil })
	r.is(r.tested(hoa, coa), mobility.Accepted)
	r.is(r.tested(farHome, self), mobility.InvalidCareOf)
	n := r.tested(hoa, coa)
	r.silent(withHome(coa, self), n.update(), "bad-home-address")
	p := n.path()
	p.Local = ap(netip.MustParseAddr("fe80::1"))
	r.silent(p, n.update(), "bad-destination")
}

// TestWhatIsTold: events, counters, times and decisions of a binding's life.
func TestWhatIsTold(t *testing.T) {
	r := start(t)
	n := r.tested(hoa, coa)
	told := func(want string) {
		t.Helper()
		if why := emits(r.last, "session"); len(why) != 1 || why[0] != want {
			t.Errorf("told %v, want %s", why, want)
		}
	}
	status := func(active, remembered int) {
		t.Helper()
		if s := r.m.Status(); s.Sessions["active"] != active || s.Sessions["remembered"] != remembered || len(r.m.cache.byID) != active+remembered {
			t.Errorf("%+v, %d numbers", s.Sessions, len(r.m.cache.byID))
		}
	}
	since := func(ago time.Duration) {
		t.Helper()
		if l := r.m.list(""); len(l) != 1 || l[0].Since != r.now.Wall.Add(-ago) {
			t.Errorf("%+v", l)
		}
	}
	began := r.now.Wall
	r.is(n, mobility.Accepted)
	told("new")
	r.pass(5 * time.Second)
	n.seq++
	r.is(n, mobility.Accepted)
	told("refreshed")
	status(1, 0)
	since(5 * time.Second)
	n.seq, n.careOf, n.c = n.seq+1, coa2, r.test(coa2, true)
	r.is(n, mobility.Accepted)
	told("moved")
	r.is(n, mobility.SequenceOutOfWindow)
	d := *n
	d.seq, d.lifetime = n.seq+1, 0
	r.is(&d, mobility.Accepted)
	told("deregistered")
	status(0, 1)
	n.seq += 2
	r.is(n, mobility.Accepted)
	told("new")
	since(0)
	status(1, 0)
	r.pass(time.Hour)
	status(0, 0)
	if s := r.m.Status(); s.Counters[string(wire.SequenceOld)] != 1 || !s.Since.Equal(began) {
		t.Errorf("%+v", s)
	}
	refused := false
	for _, p := range r.m.past.of(hoa) {
		refused = refused || p.Reason == string(wire.SequenceOld)
	}
	if !refused {
		t.Errorf("%+v", r.m.past.of(hoa))
	}
}

// TestOvertakenByDeletion: an update that was sent before a deletion, and comes behind it, binds nothing, as long as its token is good.
func TestOvertakenByDeletion(t *testing.T) {
	r := start(t)
	n := r.tested(hoa, coa)
	r.is(n, mobility.Accepted)
	r.pass(100 * time.Second)
	n.h, n.c = r.test(hoa, false), r.test(coa, true)
	late := *n
	late.seq = 8
	d := *n
	d.seq, d.lifetime = 9, 0
	r.is(&d, mobility.Accepted)
	for range 239 {
		r.receive(late.path(), late.update())
		if len(ops(r.last)) > 0 {
			t.Fatalf("bound: %+v", r.last)
		}
		r.pass(time.Second)
	}
	if len(r.m.cache.byKey) != 1 {
		t.Error("forgotten too soon")
	}
	r.pass(2 * time.Second)
	if len(r.m.cache.byKey) != 0 {
		t.Error("remembered for too long")
	}
}

// TestDeletedTwice: a deletion by a newer token, of what has ended, is remembered as long as that token.
func TestDeletedTwice(t *testing.T) {
	r := start(t)
	n := r.tested(hoa, coa)
	n.lifetime = 1
	r.is(n, mobility.Accepted)
	r.pass(100 * time.Second)
	n.h, n.c = r.test(hoa, false), r.test(coa, true)
	d := *n
	d.seq, d.lifetime = 9, 0
	r.is(&d, mobility.Accepted)
	r.pass(200 * time.Second)
	n.seq = 8
	r.is(n, mobility.SequenceOutOfWindow)
	// Where nothing is, there is nothing to delete, and nothing to remember.
	r.pass(time.Hour)
	d.h = r.test(hoa, false)
	r.is(&d, mobility.Accepted)
	if len(r.m.cache.byKey) != 0 {
		t.Errorf("%d entries", len(r.m.cache.byKey))
	}
}

// TestForwardingOfTheSecondLife: a binding that came back fails under its new number.
func TestForwardingOfTheSecondLife(t *testing.T) {
	r := start(t)
	n := r.tested(hoa, coa)
	r.is(n, mobility.Accepted)
	d := *n
	d.seq, d.lifetime = 8, 0
	r.is(&d, mobility.Accepted)
	n.seq = 9
	r.is(n, mobility.Accepted)
	r.handle(core.Done{Ref: 2, Err: mobilityError{}})
	if _, ok := r.m.CareOf(self, hoa); ok {
		t.Error("still bound")
	}
}

// TestRestartBesideOthers: that others have been tested since makes tokens of an earlier life no less expired.
func TestRestartBesideOthers(t *testing.T) {
	r := start(t)
	n := r.tested(hoa, coa)
	m, err := New(r.m.cfg, &numbers{n: 1000})
	if err != nil {
		t.Fatal(err)
	}
	r.m = m
	r.tested(farHome, coa2)
	r.is(n, mobility.ExpiredNonces)
}

// TestLateTick: nonces end by the clock, not by the Tick that comes some time later.
func TestLateTick(t *testing.T) {
	r := start(t)
	n := r.tested(hoa, coa)
	r.advance(r.now.Boot + maxNonceLifetime)
	r.is(n, mobility.ExpiredNonces)
	first := r.test(hoa, false)
	r.advance(r.now.Boot + nonceInterval)
	if r.test(hoa, false).NonceIndex == first.NonceIndex {
		t.Error("a nonce makes tokens for more than 30 s")
	}
	r.advance(r.now.Boot + time.Hour)
	r.test(hoa, false)
	if r.m.nonces.n != 1 {
		t.Errorf("%d nonces", r.m.nonces.n)
	}
}

// TestRandomnessEnds: half a secret is none.
func TestRandomnessEnds(t *testing.T) {
	for _, n := range []int64{0, 3, 4, 11} {
		if _, err := New(Config{}, io.LimitReader(&numbers{}, n)); err == nil {
			t.Errorf("%d octets are enough", n)
		}
	}
	for _, n := range []int64{0, mobility.NodeKeyLen, mobility.NodeKeyLen + mobility.NonceLen - 1} {
		r := start(t)
		r.m.rand = io.LimitReader(&numbers{}, n)
		if s := r.receive(direct(coa), &mobility.TestInit{}); len(s) != 0 || r.m.nonces.n != 0 || r.m.counts["failed-randomness"] != 1 {
			t.Errorf("%d octets are enough: %+v", n, s)
		}
	}
}

// TestReplacedInTurn: who renewed his binding last is not the one that has to go; no more than a few are looked at.
func TestReplacedInTurn(t *testing.T) {
	const limit = candidates + 2
	r := start(t, func(c *Config) { c.Limits.Bindings = limit })
	var all []*mobile
	for i := range limit {
		n := r.tested(stranger(i), coa)
		n.lifetime = 105
		r.is(n, mobility.Accepted)
		all = append(all, n)
	}
	// The first one renews it with the token that it has, so that its nonce ends with the others'.
	all[0].seq++
	r.is(all[0], mobility.Accepted)
	r.pass(maxNonceLifetime)
	r.is(r.tested(stranger(100), coa), mobility.Accepted)
	if _, ok := r.m.CareOf(self, stranger(1)); ok {
		t.Error("another one had to go")
	}
	for i := range candidates {
		r.m.cache.byKey[key{self, stranger(i + 2)}].busy = true
	}
	r.is(r.tested(stranger(101), coa), mobility.InsufficientResources)
	r.m.cache.byKey[key{self, stranger(candidates + 1)}].busy = false
	r.is(r.tested(stranger(101), coa), mobility.Accepted)
	if _, ok := r.m.CareOf(self, stranger(candidates+1)); ok {
		t.Error("another one had to go")
	}
}

// TestAnsweredByTheWay: an answer goes back the same way, and nobody's word for the question is taken along.
func TestAnsweredByTheWay(t *testing.T) {
	r := start(t)
	p := direct(coa)
	p.Auth = core.Auth{Kind: "esp", Peer: "somebody"}
	p.Outer.N = 1
	s := r.receive(p, &mobility.TestInit{CareOf: true})
	if want := p; len(s) != 1 || s[0].Path.Auth != (core.Auth{}) || s[0].Path.Outer != want.Outer || s[0].Path.Remote != want.Remote {
		t.Errorf("%+v", s)
	}
	// A message of an unknown type without a home address: none in the Binding Error (RFC 6275 9.3.3).
	s = r.receive(direct(coa), &mobility.Raw{MHType: 99, Data: make([]byte, 18)})
	if len(s) != 1 || s[0].Body.(*mobility.BindingError).Home != netip.IPv6Unspecified() {
		t.Errorf("%+v", s)
	}
	if why := emits(r.last, "binding-error"); len(why) != 1 || why[0] != string(wire.UnknownType) {
		t.Errorf("%v", why)
	}
	r.receive(core.Path{Local: ap(coa2), Remote: ap(coa)}, &mobility.Raw{MHType: 99, Data: make([]byte, 18)})
	if len(sends(r.last)) != 0 {
		t.Errorf("answered for somebody else: %+v", r.last)
	}
	r.handle(core.Reported{Reason: "tunnel-error"})
	if r.m.counts["tunnel-error"] != 1 {
		t.Errorf("%v", r.m.counts)
	}
}

// TestBudgetOfAll: what the rate of all refuses is not taken from a network's own.
func TestBudgetOfAll(t *testing.T) {
	l := newLimiter(20, [8]byte{1})
	now := time.Hour
	for i := range 100 {
		l.take(now, stranger(i))
	}
	for range 10 {
		if l.take(now, stranger(1000)) {
			t.Fatal("more than there is for all")
		}
	}
	now += 500 * time.Millisecond
	for i := range 2 {
		if !l.take(now, stranger(1000)) {
			t.Errorf("the %d. of two", i+1)
		}
	}
	if l.take(now, stranger(1000)) {
		t.Error("more than a network has")
	}
}

// TestAddressGone: bindings for an address that the host has no more end, with all that leads packets to them; those for others stay.
func TestAddressGone(t *testing.T) {
	r := start(t)
	n, far := r.tested(hoa, coa), r.tested(farHome, coa)
	r.is(n, mobility.Accepted)
	r.is(far, mobility.Accepted)
	u, p := n.update(), n.path()
	u.Peer, p.Local = other, ap(other)
	r.receive(p, u)
	gone := core.HostChanged{Gone: true, Op: core.HostOp{Kind: "address", If: 2, Prefix: netip.PrefixFrom(self, 64)}}
	for _, ev := range []core.HostChanged{{Op: gone.Op}, {Gone: true, Op: core.HostOp{Kind: "route", Prefix: netip.PrefixFrom(self, 64)}}, {Synced: true}} {
		if out := r.handle(ev); len(out) > 0 {
			t.Errorf("%+v: %+v", ev, out)
		}
	}
	r.handle(gone)
	if why := emits(r.last, "session"); len(why) != 2 || why[0] != "address-gone" || len(r.m.routes.own) != 1 || r.m.cache.recent.Len() != 1 {
		t.Errorf("%+v", r.last)
	}
	if _, ok := r.m.CareOf(other, hoa); !ok {
		t.Error("the other address's binding went")
	}
	n.seq++ // it is there again
	r.is(n, mobility.Accepted)
	// A mobile node's home address goes and comes as its machine says.
	r = start(t, func(c *Config) { c.Forward = func(Binding) []core.Effect { return nil } })
	r.is(r.tested(hoa, coa), mobility.Accepted)
	if out := r.handle(gone); len(out) > 0 {
		t.Errorf("%+v", out)
	}
}
