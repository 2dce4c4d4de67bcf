package peer

import (
	"errors"
	"net/netip"
	"testing"
	"time"

	"kedge/internal/core"
	"kedge/internal/spec"
	"kedge/wire/mobility"
)

// TestTests: each test is answered to its source, with the cookie and the token of its kind, whatever came before.
func TestTests(t *testing.T) {
	r := start(t)
	for _, careOf := range []bool{false, true} {
		s := r.receive(direct(coa), &mobility.TestInit{CareOf: careOf, Cookie: [8]byte{9, 8, 7, 6, 5, 4, 3, 2}})
		if len(s) != 1 {
			t.Fatalf("%+v", r.last)
		}
		got := s[0].Body.(*mobility.Test)
		g := r.m.nonces.find(r.now.Boot, got.NonceIndex)
		if got.CareOf != careOf || got.Cookie != [8]byte{9, 8, 7, 6, 5, 4, 3, 2} || got.Token != mobility.KeygenToken(g.kcn[:], g.nonce[:], coa, careOf) {
			t.Errorf("%+v", got)
		}
		if s[0].Path != direct(coa) {
			t.Errorf("answered by %+v", s[0].Path)
		}
		// The answer is no amplification: eight octets more, once.
		in, _ := mobility.Append(nil, &mobility.TestInit{}, coa, self)
		out, _ := mobility.Append(nil, got, self, coa)
		if len(out) != len(in)+8 {
			t.Errorf("%d octets are answered with %d", len(in), len(out))
		}
	}
	r.silent(withHome(coa, hoa), &mobility.TestInit{}, "home-address-in-test")
	r.silent(withHome(coa, hoa), &mobility.TestInit{CareOf: true}, "home-address-in-test")
	spec.Covers(t, "RFC6275-9.4.1", "RFC6275-9.4.2", "RFC6275-9.4.3", "RFC6275-9.4.4")
}

// TestNonceLifetime: a token is good for 210 s at least and 240 s at most, by the nonce's first use.
func TestNonceLifetime(t *testing.T) {
	for _, c := range []struct {
		used, after time.Duration // since the nonce's first use, and since the token was given
		good        bool
	}{
		{0, 240*time.Second - 1, true},
		{0, 240 * time.Second, false},
		{30*time.Second - 1, 210 * time.Second, true},
		{30*time.Second - 1, 210*time.Second + 1, false},
	} {
		r := start(t)
		r.test(farHome, false) // the first use
		r.pass(c.used)
		n := r.tested(hoa, coa)
		r.pass(c.after)
		want := mobility.ExpiredNonces
		if c.good {
			want = mobility.Accepted
		}
		r.is(n, want)
	}
	spec.Covers(t, "RFC6275-5.2.7")
}

// TestExpiredNonces: each index by itself, an unknown one like an old one, and no care-of nonce where a binding is deleted.
func TestExpiredNonces(t *testing.T) {
	r := start(t)
	old := r.tested(hoa, coa)
	r.pass(200 * time.Second)
	fresh := r.tested(hoa, coa)
	r.pass(100 * time.Second)
	mix := func(h, c *mobile) *mobile { n := *h; n.c = c.c; return &n }
	r.is(mix(old, fresh), mobility.ExpiredHomeNonce)
	r.is(mix(fresh, old), mobility.ExpiredCareOfNonce)
	r.is(old, mobility.ExpiredNonces)
	unknown := *fresh
	unknown.h = &mobility.Test{NonceIndex: fresh.h.NonceIndex + 1, Token: fresh.h.Token}
	r.is(&unknown, mobility.ExpiredHomeNonce)
	if len(r.m.cache.byKey) != 0 {
		t.Error("a refused update left a binding")
	}
	r.is(fresh, mobility.Accepted)
	d := mix(fresh, old)
	d.seq, d.lifetime = 8, 0
	r.is(d, mobility.Accepted)
	e := mix(old, fresh)
	e.lifetime = 0
	r.is(e, mobility.ExpiredHomeNonce)
	spec.Covers(t, "RFC6275-6.1.8")
}

// TestNoncesAreFew: one every 30 s while there are tests, none while there are not, eight at most; old ones are wiped.
func TestNoncesAreFew(t *testing.T) {
	r := start(t)
	if _, ok := r.m.Deadline(); ok {
		t.Error("an idle correspondent has something to do")
	}
	seen := map[uint16]bool{}
	for range 600 {
		seen[r.test(hoa, false).NonceIndex] = true
		if r.m.nonces.n > 8 {
			t.Fatalf("%d nonces", r.m.nonces.n)
		}
		r.pass(time.Second)
	}
	if len(seen) != 20 || seen[0] {
		t.Errorf("%d nonces in 600 s", len(seen))
	}
	r.pass(240 * time.Second)
	if _, ok := r.m.Deadline(); ok || r.m.nonces.n != 0 {
		t.Errorf("%d nonces are left", r.m.nonces.n)
	}
	for i := range r.m.nonces.list {
		if r.m.nonces.list[i] != (generation{}) {
			t.Error("a key is left in memory")
		}
	}
	for n := range uint64(200_000) {
		if g := (generation{number: n}); g.index() == 0 {
			t.Fatalf("index 0 for nonce %d", n)
		}
	}
}

// TestRestart: tokens of an earlier life are expired, and data of its bindings is told so.
func TestRestart(t *testing.T) {
	r := start(t)
	n := r.tested(hoa, coa)
	r.is(n, mobility.Accepted)
	cfg := r.m.cfg
	m, err := New(cfg, &numbers{n: 1000})
	if err != nil {
		t.Fatal(err)
	}
	r.m = m
	n.seq++
	r.is(n, mobility.ExpiredNonces)
	r.handle(core.Reported{Reason: "wrong-tunnel", HomeAddress: true, Outer: core.Layer{Local: ap(self), Remote: ap(coa)}, Inner: core.Match{Src: single(hoa), Dst: single(self)}})
	if s := sends(r.last); len(s) != 1 {
		t.Errorf("%+v", r.last)
	}
	r.is(r.tested(hoa, coa), mobility.Accepted)
}

type broken struct{}

func (broken) Read([]byte) (int, error) { return 0, errors.New("none left") }

// TestNoRandomness: without it nothing is answered, and nothing is guessed.
func TestNoRandomness(t *testing.T) {
	if _, err := New(Config{}, nil); err == nil {
		t.Error("no source is taken")
	}
	if _, err := New(Config{}, broken{}); err == nil {
		t.Error("a broken source is taken")
	}
	r := start(t)
	r.m.rand = broken{}
	if s := r.receive(direct(coa), &mobility.TestInit{}); len(s) != 0 || len(emits(r.last, "failed")) != 1 {
		t.Errorf("%+v", r.last)
	}
	r.m.rand = &numbers{}
	r.test(coa, true)
}

func TestConfigRefused(t *testing.T) {
	for name, c := range map[string]Config{
		"IPv4 address":       {Addresses: []netip.Addr{netip.MustParseAddr("192.0.2.1")}},
		"link-local address": {Addresses: []netip.Addr{netip.MustParseAddr("fe80::1")}},
		"IPv4 prefix":        {Accept: []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24")}},
		"lifetime":           {LifetimeMax: 421 * time.Second},
		"no lifetime":        {LifetimeMax: time.Second},
		"limit":              {Limits: Limits{Bindings: -1}},
		"rate":               {Limits: Limits{Requests: -1}},
	} {
		if _, err := New(c, &numbers{}); err == nil {
			t.Errorf("%s is taken", name)
		}
	}
}
