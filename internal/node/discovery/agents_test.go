package discovery

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"
	"time"

	"kedge/internal/spec"
)

const sec = time.Second

var (
	ha1   = netip.MustParseAddr("2001:db8:2000::1")
	ha2   = netip.MustParseAddr("2001:db8:2000::2")
	ha3   = netip.MustParseAddr("2001:db8:9::3")
	coa   = netip.MustParseAddr("2001:db8:c::77")
	other = netip.MustParseAddr("2001:db8:d::77")
	home  = netip.MustParsePrefix("2001:db8:2000::/64")
)

func addrs(n int) (out []netip.Addr) {
	for i := range n {
		a := ha1.As16()
		a[14], a[15] = byte((i+1)>>8), byte(i+1)
		out = append(out, netip.AddrFrom16(a))
	}
	return out
}

func agents(m Means, known ...Agent) *Agents {
	return NewAgents(AgentsConfig{Means: m, Known: known}, rand.NewChaCha8([32]byte{1}))
}

// requests runs the clock and notes when something is sent.
func requests(a *Agents, now *time.Duration, until time.Duration, from netip.Addr) (at []time.Duration, ids []uint16) {
	for {
		d := a.Deadline()
		if d > until {
			*now = until
			return at, ids
		}
		*now = max(*now, d)
		if rq, ok := a.Due(*now, from); ok {
			at, ids = append(at, *now), append(ids, rq.ID)
		}
	}
}

func (a *Agents) current(t *testing.T) netip.Addr {
	t.Helper()
	g, _, _ := a.Current()
	return g.V6
}

// TestSearchSchedule: the same request at 0, 3, 9, 21 and 45 s, and no more; then another search after a while, with an identifier of
// its own, and ever more seldom.
func TestSearchSchedule(t *testing.T) {
	spec.Covers(t, "RFC6275-11.4.1")
	a := agents(DHAAD)
	if _, _, ok := a.Current(); ok || a.Deadline() != never {
		t.Fatal("a home agent out of nothing")
	}
	now := 100 * sec
	a.Seek(now)
	a.Seek(now)
	at, ids := requests(a, &now, 1000*sec, coa)
	want := []time.Duration{100, 103, 109, 121, 145, 203, 206, 212, 224, 248, 316, 319, 325, 337, 361, 449, 452, 458, 470, 494, 622, 625, 631, 643, 667, 875, 878, 884, 896, 920}
	for i := range want {
		want[i] *= sec
	}
	if !slices.Equal(at, want) {
		t.Errorf("requests at %v, want %v", at, want)
	}
	for i := range ids {
		if same := ids[i] == ids[i/5*5]; !same {
			t.Errorf("request %d has another identifier than its first: %v", i, ids)
		}
	}
	if ids[0] == ids[5] {
		t.Error("another search has the same identifier")
	}
}

// TestNoDiscoveryWithoutIPv6: nothing is asked from an IPv4-only network, and at once from the next one.
func TestNoDiscoveryWithoutIPv6(t *testing.T) {
	spec.Covers(t, "S004-2.1-04")
	a := agents(DHAAD)
	now := sec
	a.Seek(now)
	if at, _ := requests(a, &now, 5000*sec, netip.Addr{}); len(at) > 0 {
		t.Errorf("requests at %v", at)
	}
	a.Moved(now, netip.Addr{})
	if a.Deadline() != never {
		t.Error("still nobody can be asked")
	}
	a.Moved(now, coa)
	if at, _ := requests(a, &now, now+2*sec, coa); len(at) != 1 {
		t.Errorf("requests at %v", at)
	}
}

// TestMoved: from another network the search begins anew, but never sooner than 3 s after the last request.
func TestMoved(t *testing.T) {
	a := agents(DHAAD)
	now := sec
	a.Seek(now)
	requests(a, &now, 30*sec, coa) // at 1, 4, 10, 22
	a.Moved(now, coa)
	if a.Deadline() != 46*sec {
		t.Errorf("the same network: next at %v", a.Deadline())
	}
	a.Moved(now, other)
	if a.Deadline() != 30*sec {
		t.Errorf("another network: next at %v", a.Deadline())
	}
	_, ok := a.Due(now, other)
	for range 100 { // whatever the links do
		a.Moved(now, coa)
		a.Moved(now, other)
	}
	if !ok || a.Deadline() != 33*sec {
		t.Errorf("flapping: next at %v", a.Deadline())
	}
}

// TestReplies: what is taken of answers.
func TestReplies(t *testing.T) {
	spec.Covers(t, "RFC6275-11.4.1")
	for _, c := range []struct {
		name  string
		addrs []netip.Addr
		want  []netip.Addr
	}{
		{"one", []netip.Addr{ha1}, []netip.Addr{ha1}},
		{"in order", []netip.Addr{ha2, ha1}, []netip.Addr{ha2, ha1}},
		{"twice", []netip.Addr{ha2, ha1, ha2}, []netip.Addr{ha2, ha1}},
		{"nobody", nil, nil},
		{"what cannot be", []netip.Addr{netip.MustParseAddr("ff02::1"), netip.MustParseAddr("fe80::1"), netip.MustParseAddr("::"), netip.MustParseAddr("::1"),
			netip.MustParseAddr("::ffff:192.0.2.1"), netip.MustParseAddr("192.0.2.1"), {}}, nil},
		{"200", addrs(200), addrs(MaxAgents)},
	} {
		a := agents(DHAAD)
		a.Seek(0)
		rq, _ := a.Due(0, coa)
		if got := a.Replied(sec, rq.ID, c.addrs); got != (c.want != nil) {
			t.Errorf("%s: taken: %v", c.name, got)
		}
		var list []netip.Addr
		for _, g := range a.List() {
			list = append(list, g.V6)
		}
		if !slices.Equal(list, c.want) {
			t.Errorf("%s: %v", c.name, list)
		}
		if c.want == nil && a.Deadline() != InitialTimeout {
			t.Errorf("%s: an answer without a home agent ends the search: next at %v", c.name, a.Deadline())
		}
	}
}

// TestForgedReplies: late, repeated and guessed ones change nothing.
func TestForgedReplies(t *testing.T) {
	a := agents(DHAAD)
	if a.Replied(0, 0, []netip.Addr{ha3}) {
		t.Error("nobody asked")
	}
	a.Seek(0)
	if a.Replied(0, a.find.id, []netip.Addr{ha3}) {
		t.Error("nobody asked yet")
	}
	rq, _ := a.Due(0, coa)
	for id := range 1 << 16 {
		if uint16(id) != rq.ID && a.Replied(sec, uint16(id), []netip.Addr{ha3}) {
			t.Fatalf("%d is not %d", id, rq.ID)
		}
	}
	if !a.Replied(2*sec, rq.ID, []netip.Addr{ha1}) {
		t.Fatal("the answer is not taken")
	}
	for range 1000 {
		if a.Replied(3*sec, rq.ID, []netip.Addr{ha3}) {
			t.Fatal("answered already")
		}
	}
	if a.current(t) != ha1 || len(a.List()) != 1 {
		t.Errorf("%v", a.List())
	}
}

// TestUsable: nobody is taken for a home agent whom the node has no keys for.
func TestUsable(t *testing.T) {
	a := NewAgents(AgentsConfig{Means: DHAAD, Usable: func(x netip.Addr) bool { return home.Contains(x) }}, rand.NewChaCha8([32]byte{}))
	a.Seek(0)
	rq, _ := a.Due(0, coa)
	if a.Replied(0, rq.ID, []netip.Addr{ha3}) || !a.Replied(0, rq.ID, []netip.Addr{ha3, ha2}) || a.current(t) != ha2 {
		t.Errorf("%v", a.List())
	}
}

// TestInTurn: the list is tried in its order; when all have failed it is asked for again, and meanwhile the last one goes on being
// asked. What served of late is left for others even if it is still listed first.
func TestInTurn(t *testing.T) {
	spec.Covers(t, "RFC6275-11.4.1")
	a := agents(DHAAD)
	a.Seek(0)
	rq, _ := a.Due(0, coa)
	a.Replied(0, rq.ID, []netip.Addr{ha1, ha2, ha3})
	var order []netip.Addr
	now := time.Duration(0)
	for range 3 {
		order = append(order, a.current(t))
		now += 10 * sec
		a.Failed(now)
	}
	if !slices.Equal(order, []netip.Addr{ha1, ha2, ha3}) || a.current(t) != ha3 || !a.Searching() {
		t.Errorf("%v, then %v, searching %v", order, a.current(t), a.Searching())
	}
	now = max(now, a.Deadline())
	if rq, ok := a.Due(now, coa); !ok || !a.Replied(now, rq.ID, []netip.Addr{ha1, ha2, ha3}) {
		t.Fatal("not asked again")
	}
	if a.current(t) != ha1 {
		t.Errorf("%v begins another round", a.current(t)) // all have failed: the first is as good as any
	}
	a.Accepted(now)
	if a.Failed(now); a.current(t) != ha2 {
		t.Errorf("%v after the first", a.current(t))
	}
	a.Accepted(now)
	a.Failed(now + sec)
	if a.current(t) != ha1 && a.current(t) != ha3 {
		t.Errorf("%v", a.current(t))
	}
}

// TestDeadIsLast: the home agent that died is still in the list of the others.
func TestDeadIsLast(t *testing.T) {
	a := agents(DHAAD)
	a.Seek(0)
	rq, _ := a.Due(0, coa)
	a.Replied(0, rq.ID, []netip.Addr{ha1})
	a.Accepted(0)
	if a.Failed(100 * sec) {
		t.Error("there is no other one yet")
	}
	now := a.Deadline()
	rq, ok := a.Due(now, coa)
	if !ok || !a.Replied(now, rq.ID, []netip.Addr{ha1, ha2}) || a.current(t) != ha2 {
		t.Errorf("%v", a.current(t))
	}
}

// TestWhoServesStays: an answer that comes while a home agent serves changes the list and not the home agent (RFC 6275 11.4.1: MUST).
func TestWhoServesStays(t *testing.T) {
	a := agents(DHAAD, Agent{V6: ha1, V4: netip.MustParseAddr("198.51.100.1")})
	a.Seek(0)
	rq, _ := a.Due(0, coa)
	a.Accepted(0)
	a.Seek(sec)
	rq2, _ := a.Due(max(sec, a.Deadline()), coa)
	if rq.ID == rq2.ID || !a.Replied(2*sec, rq2.ID, []netip.Addr{ha2, ha3}) {
		t.Fatal("not taken")
	}
	if g, by, _ := a.Current(); g.V6 != ha1 || by != "config" || !g.V4.IsValid() || len(a.List()) != 3 {
		t.Errorf("%v by %s of %v", g, by, a.List())
	}
	if a.Failed(3 * sec); a.current(t) != ha2 {
		t.Errorf("%v follows", a.current(t))
	}
}

// TestConfigured: with fixed home agents nobody is ever asked.
func TestConfigured(t *testing.T) {
	a := agents(Config, Agent{V6: ha1})
	a.Seek(0)
	if !a.Alone() || a.Searching() || a.Failed(0) || a.current(t) != ha1 || a.Deadline() != never || a.Replied(0, 0, []netip.Addr{ha2}) || a.Resolved(0, []netip.Addr{ha2}, nil) {
		t.Errorf("%+v", a)
	}
	a = agents(Config, Agent{V6: ha1}, Agent{V6: ha2})
	for i, want := range []netip.Addr{ha2, ha1, ha2, ha1} {
		if other := a.Failed(time.Duration(i) * 10 * sec); !other || a.current(t) != want {
			t.Errorf("%d: %v, %v", i, other, a.current(t))
		}
	}
}

// TestNames: addresses of both families; asked again every hour, sooner when it fails, and when the home agent does.
func TestNames(t *testing.T) {
	spec.Covers(t, "RFC5555-2.1")
	a := agents(DNS)
	now := sec
	a.Seek(now)
	rq, ok := a.Due(now, netip.MustParseAddr("192.0.2.7"))
	if !ok || !rq.Names {
		t.Fatal("not asked")
	}
	if a.Resolved(now, nil, errors.New("server misbehaving")) || a.Deadline() != now+pauseFirst {
		t.Errorf("next at %v", a.Deadline())
	}
	now = a.Deadline()
	if _, ok = a.Due(now, coa); !ok {
		t.Fatal("not asked again")
	}
	if a.Resolved(now, []netip.Addr{netip.MustParseAddr("198.51.100.1")}, nil) {
		t.Error("without an IPv6 address nothing can be registered")
	}
	now = a.Deadline()
	a.Due(now, coa)
	v4a, v4b := netip.MustParseAddr("198.51.100.1"), netip.MustParseAddr("198.51.100.2")
	if !a.Resolved(now, []netip.Addr{v4b, ha2, v4a, ha1}, nil) || !slices.Equal(a.List(), []Agent{{ha1, v4a}, {ha2, v4b}}) {
		t.Errorf("%v", a.List())
	}
	a.Accepted(now)
	if a.Deadline() != now+refreshNames {
		t.Errorf("looked up again at %v", a.Deadline()-now)
	}
	now = a.Deadline()
	a.Due(now, coa)
	if !a.Resolved(now, []netip.Addr{ha3}, nil) || a.current(t) != ha1 {
		t.Errorf("%v serves, %v", a.current(t), a.List())
	}
	if a.Failed(now); a.current(t) != ha3 {
		t.Errorf("%v follows", a.current(t))
	}
	if a.Failed(now + 10*sec); !a.Searching() {
		t.Error("not looked up again")
	}
}

// TestNamesNeverAnswered: a question that is lost is asked again.
func TestNamesNeverAnswered(t *testing.T) {
	a := agents(DNS)
	now := time.Duration(0)
	a.Seek(now)
	at, _ := requests(a, &now, 100*sec, coa)
	if !slices.Equal(at, []time.Duration{0, 30 * sec, 60 * sec, 90 * sec}) {
		t.Errorf("asked at %v", at)
	}
}

// TestSwitch: RFC 5142 6.2: those of the home link first, in order; without any, discovery.
func TestSwitch(t *testing.T) {
	spec.Covers(t, "RFC5142-6.2")
	a := agents(DHAAD, Agent{V6: ha1})
	a.Accepted(0)
	if !a.Switch(0, []netip.Addr{ha3, ha2}, home) || a.current(t) != ha2 {
		t.Errorf("%v first of %v", a.current(t), a.List())
	}
	if a.Failed(0); a.current(t) != ha3 {
		t.Errorf("%v second", a.current(t))
	}
	a = agents(DHAAD, Agent{V6: ha1})
	a.Accepted(0)
	if a.Switch(0, nil, home) || !a.Searching() || a.Deadline() != 0 {
		t.Error("an empty list is no reason to discover")
	}
	a = agents(Config, Agent{V6: ha1})
	if a.Switch(0, nil, home) || a.current(t) != ha1 {
		t.Error("there is no other one")
	}
	if a.Switch(0, []netip.Addr{ha1}, home) || a.current(t) != ha1 {
		t.Error("it names itself")
	}
	if !a.Switch(0, addrs(200), home) || len(a.List()) > MaxAgents+1 || a.current(t) == ha1 {
		t.Errorf("%d are known", len(a.List()))
	}
}

// TestAdopt: a restart goes on with the one that was used.
func TestAdopt(t *testing.T) {
	a := agents(DHAAD, Agent{V6: ha1, V4: netip.MustParseAddr("198.51.100.1")})
	a.Adopt([]Agent{{V6: ha2, V4: ha3}, {V6: ha1}, {V6: ha2}, {V6: netip.MustParseAddr("ff02::1")}}, "dhaad")
	if g, by, _ := a.Current(); g.V6 != ha2 || g.V4.IsValid() || by != "dhaad" || len(a.List()) != 2 || !a.List()[1].V4.IsValid() {
		t.Errorf("%v by %s of %v", g, by, a.List())
	}
}

// TestRandom: whatever happens, the current one is one of the list, the list is bounded, and nothing asks faster than it may.
func TestRandom(t *testing.T) {
	for seed := range uint64(200) {
		rng := rand.New(rand.NewPCG(seed, 1))
		m := Means(rng.IntN(3))
		a := agents(m, Agent{V6: ha1})
		now, last := time.Duration(0), -time.Hour
		for range 300 {
			now += time.Duration(rng.IntN(5000)) * time.Millisecond
			from := []netip.Addr{{}, coa, other}[rng.IntN(3)]
			what := rng.IntN(8)
			switch what {
			case 0:
				a.Seek(now)
			case 1:
				a.Failed(now)
			case 2:
				a.Accepted(now)
			case 3:
				a.Replied(now, a.find.id, addrs(rng.IntN(30)))
			case 4:
				a.Resolved(now, addrs(rng.IntN(30)), nil)
			case 5:
				a.Switch(now, addrs(rng.IntN(5)), home)
			case 6:
				a.Moved(now, from)
			case 7:
				if _, ok := a.Due(now, from); ok && m == DHAAD {
					if now-last < InitialTimeout && last > 0 {
						t.Fatalf("seed %d: two requests within %v", seed, now-last)
					}
					last = now
				}
			}
			if len(a.List()) > MaxAgents+2 || a.cur >= len(a.list) || a.cur < 0 {
				t.Fatalf("seed %d: %s: current %d of %d", seed, fmt.Sprint(what), a.cur, len(a.list))
			}
		}
	}
}

// TestTranslated: an address that a name server made up for a translator is no home agent's.
func TestTranslated(t *testing.T) {
	spec.Covers(t, "RFC5555-2.1")
	a := agents(DNS)
	a.Seek(0)
	a.Due(0, coa)
	if a.Resolved(0, []netip.Addr{netip.MustParseAddr("64:ff9b::c633:6401"), netip.MustParseAddr("::ffff:198.51.100.1")}, nil) {
		t.Errorf("%v", a.List())
	}
}

// TestNamesTurn: the IPv4 address of a home agent that serves is not changed by another answer; that of one that failed is.
func TestNamesTurn(t *testing.T) {
	spec.Covers(t, "RFC5555-2.1")
	a := agents(DNS)
	v4a, v4b := netip.MustParseAddr("198.51.100.1"), netip.MustParseAddr("198.51.100.2")
	now := sec
	answer := func(v4 netip.Addr) Agent {
		t.Helper()
		a.Due(now, coa)
		a.Resolved(now, []netip.Addr{ha1, v4}, nil)
		g, _, _ := a.Current()
		return g
	}
	a.Seek(now)
	answer(v4a)
	a.Accepted(now)
	now = a.Deadline()
	if g := answer(v4b); g.V4 != v4a {
		t.Errorf("%v while it serves", g)
	}
	a.Failed(now)
	now = a.Deadline()
	if g := answer(v4b); g.V4 != v4b {
		t.Errorf("%v after it failed", g)
	}
}
