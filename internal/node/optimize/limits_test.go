package optimize

import (
	"errors"
	"net/netip"
	"strings"
	"testing"
	"time"

	"kedge/internal/core"
	"kedge/wire"
	"kedge/wire/mobility"
)

func numbered(i int) netip.Addr {
	a := netip.MustParseAddr("2001:db8:e::").As16()
	a[14], a[15] = byte(i>>8), byte(i)
	return netip.AddrFrom16(a)
}

// TestRoom: a full table gives up what is of least use, and nothing that carries data.
func TestRoom(t *testing.T) {
	r := newRig(t, Config{Use: Traffic, Limit: 3})
	busy := map[netip.Addr]bool{cn: true, cn2: true}
	r.count = func(id core.ID) core.Counter {
		for _, e := range r.m.list {
			if e.id == id && busy[e.peer] {
				n := uint64(r.elapsed() / sec)
				return core.Counter{PacketsIn: n, PacketsOut: n}
			}
		}
		return core.Counter{}
	}
	r.away(coa1)
	r.report(cn)
	r.report(cn2)
	r.run(sec)
	r.report(numbered(1)) // does not answer
	r.run(sec)
	r.report(numbered(2))
	if r.m.find(numbered(2)) != nil || r.reason(wire.SessionLimit) != 1 {
		t.Error("one that is being tried had no time")
	}
	r.run(5 * sec)
	r.report(numbered(2)) // takes the place of the one that nobody talks to any more
	if r.m.find(numbered(2)) == nil || r.m.find(numbered(1)) != nil {
		t.Errorf("entries %v", r.m.States())
	}
	r.correspondent(numbered(3))
	r.run(10 * sec)
	r.report(numbered(3))
	r.run(sec)
	r.wantDirect(numbered(3), coa1)
	r.wantDirect(cn, coa1)
	r.wantDirect(cn2, coa1)

	// All three have bindings; the one without traffic is deleted before another gets its place.
	busy[numbered(3)] = true
	r.correspondent(numbered(4))
	r.report(numbered(4))
	r.run(sec)
	if r.m.find(numbered(4)) != nil {
		t.Error("one in use was given up")
	}
	busy[cn2] = false
	r.run(Idle + watchEvery)
	r.report(numbered(4))
	r.run(rtt)
	if r.boundAt(cn2).IsValid() {
		t.Error("the binding of the one that goes is not deleted")
	}
	r.run(grace)
	r.report(numbered(4))
	r.run(homeRTT + rtt)
	r.wantDirect(numbered(4), coa1)
	r.wantDirect(cn, coa1)
	if len(r.m.list) != 3 {
		t.Errorf("%d entries", len(r.m.list))
	}
}

// TestFlood: who makes a node talk to many addresses makes it send a bounded number of messages.
func TestFlood(t *testing.T) {
	r := newRig(t, traffic())
	r.away(coa1)
	for i := range 10_000 {
		r.report(numbered(i))
		r.run(ms)
	}
	if len(r.m.list) > DefaultLimit || r.reason(wire.RateLimit) == 0 {
		t.Errorf("%d entries, counters %v", len(r.m.list), r.m.Counters())
	}
	// 16 at once and 4 a second, with two tests of up to four messages each.
	if n := len(r.sent); n > 2*4*(entriesBurst+4*10) {
		t.Errorf("%d messages in ten seconds", n)
	}
}

// TestMoveOfMany: after a move all correspondents are told, and no faster than the rate for tests.
func TestMoveOfMany(t *testing.T) {
	const many = 160
	r := newRig(t, Config{Use: Traffic, Limit: many})
	r.count = func(core.ID) core.Counter {
		n := uint64(r.elapsed() / sec)
		return core.Counter{PacketsIn: n, PacketsOut: n}
	}
	r.away(coa1)
	for i := range many {
		r.correspondent(numbered(i))
		r.report(numbered(i))
		r.run(sec / entriesPerSecond)
	}
	r.run(sec)
	if n := r.m.States()["direct"]; n != many {
		t.Fatalf("states %v", r.m.States())
	}
	r.run(3 * time.Minute)
	r.forget()
	r.away(coa2)
	n := 0
	for _, s := range r.sent {
		if isType(s.body, mobility.TypeCareOfTestInit) {
			n++
		}
	}
	if n == 0 || n > testsBurst {
		t.Errorf("%d at once", n)
	}
	r.run((many/testsPerSecond + 1) * sec)
	if n := r.m.States()["direct"]; n != many {
		t.Errorf("states %v", r.m.States())
	}
	if n := strings.Count(strings.Join(r.messages(), " "), "Home Test Init"); n > many/2 {
		t.Errorf("%d home tests", n)
	}
}

// TestUpdateRate: however a node moves, a correspondent gets three messages of a type in a second (11.8).
func TestUpdateRate(t *testing.T) {
	r := established(t, traffic())
	r.run(10 * sec)
	r.forget()
	a := coa1
	for i := range 100 {
		if a = numbered(0x1000 + i%7); i%2 == 0 {
			r.run(rtt - ms)
		} else {
			r.run(rtt + 2*ms)
		}
		r.away(a)
	}
	r.run(5 * sec)
	for _, typ := range []mobility.Type{mobility.TypeHomeTestInit, mobility.TypeCareOfTestInit, mobility.TypeBindingUpdate} {
		var at []time.Duration
		for _, s := range r.sent {
			if isType(s.body, typ) {
				at = append(at, s.at)
			}
		}
		for i := MaxUpdateRate; i < len(at); i++ {
			if d := at[i] - at[i-MaxUpdateRate]; d < sec {
				t.Errorf("four of type %v within %v", typ, d)
			}
		}
	}
	r.wantDirect(cn, a)
	if r.boundAt(cn) != a {
		t.Errorf("the correspondent has %v", r.boundAt(cn))
	}
}

// TestForwardingFails: without forwarding nothing is said to the correspondent, and data goes through the home agent.
func TestForwardingFails(t *testing.T) {
	r := newRig(t, traffic())
	r.failed = func(ops []core.Op) error {
		for _, op := range ops {
			if _, ok := op.(core.SetSession); ok {
				return errors.New("no rules for route optimization")
			}
		}
		return nil
	}
	r.away(coa1)
	r.report(cn)
	r.run(10 * sec)
	if e := r.m.find(cn); e.why != wire.ForwardingFailed || r.state(cn) != "held" || len(r.data) != 0 {
		t.Errorf("state %s, sessions %v", r.state(cn), r.data)
	}
	r.failed = nil
	for range 40 {
		r.report(cn)
		r.run(sec)
	}
	r.wantDirect(cn, coa1)
}

// TestConfig: what cannot be.
func TestConfig(t *testing.T) {
	p := netip.MustParsePrefix
	for want, c := range map[string]Config{
		"": {}, "named by a single address": {Use: Always},
		"single address":     {Correspondents: []Rule{{p("2001:db8::/64"), Always}}},
		"without bits":       {Correspondents: []Rule{{p("2001:db8::1/64"), Traffic}}},
		"IPv6 prefix":        {Correspondents: []Rule{{p("192.0.2.0/24"), Never}}},
		"global unicast":     {Correspondents: []Rule{{p("fe80::1/128"), Always}}},
		"use 7":              {Correspondents: []Rule{{p("2001:db8::/64"), 7}}},
		"want 1 to 1024":     {Use: Traffic, Limit: 1025},
		"2 correspondents":   {Limit: 1, Correspondents: []Rule{{single(cn), Always}, {single(cn2), Always}}},
		"want a multiple":    {Use: Traffic, Lifetime: 5 * sec},
		"of 4s up to 7m0s":   {Use: Traffic, Lifetime: 424 * sec},
		"lifetime -4s: want": {Use: Traffic, Lifetime: -4 * sec},
	} {
		_, err := New(c, nil, Hooks{})
		if (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("%+v: error %v, want %q", c, err, want)
		}
	}
	if c := (Config{Correspondents: []Rule{{single(cn), Never}}}); !c.Off() {
		t.Error("it is on, for nobody")
	}
	if c := (Config{Correspondents: []Rule{{single(cn), Always}}}); c.Off() {
		t.Error("it is off")
	}
}
