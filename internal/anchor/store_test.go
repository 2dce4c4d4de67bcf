package anchor

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"testing"
	"time"

	"kedge/internal/core"
	"kedge/internal/pool"
	"kedge/wire"
	"kedge/wire/mobility"
)

// TestEffectOrder: durable, then forwarded, then answered; a refresh is written behind and waits for nothing.
func TestEffectOrder(t *testing.T) {
	r := start(t)
	kinds := func(p pbu) (out []string) {
		r.pass(time.Millisecond)
		for _, e := range r.m.Handle(r.now, r.message(p), nil) {
			switch e := e.(type) {
			case core.Persist:
				out = append(out, fmt.Sprintf("persist lazy=%v", e.Lazy))
			case core.Forward:
				out = append(out, fmt.Sprintf("forward %d ref=%v", len(e.Ops), e.Ref != 0))
			case core.Send:
				out = append(out, fmt.Sprintf("send ref=%v", e.Ref != 0))
			case core.Emit:
			default:
				out = append(out, fmt.Sprintf("%T", e))
			}
			if ref := refOf(e); ref != 0 {
				defer r.handle(core.Done{Ref: ref})
			}
		}
		return out
	}
	both := []string{"persist lazy=false", "forward 3 ref=true", "send ref=true"}
	if got := kinds(attach(mag1, h1, mac1)); !slices.Equal(got, both) {
		t.Errorf("new: %v", got)
	}
	r.m.flights = newFlights() // landed
	if got := kinds(attach(mag1, h1, mac1)); !slices.Equal(got, []string{"persist lazy=true", "send ref=false"}) {
		t.Errorf("refresh: %v", got)
	}
	if got := kinds(attach(mag2, h1, mac1)); !slices.Equal(got, append(slices.Clone(both), "send ref=false")) { // the revocation, last
		t.Errorf("handoff: %v", got)
	}
	r.m.flights = newFlights()
	d := attach(mag2, h1, mac1)
	d.lifetime = 0
	if got := kinds(d); !slices.Equal(got, both) {
		t.Errorf("deregistration: %v", got)
	}
}

func refOf(e core.Effect) core.Ref {
	switch e := e.(type) {
	case core.Forward:
		return e.Ref
	case core.Send:
		return e.Ref
	}
	return 0
}

// TestFailureUndoes: what cannot be stored or forwarded is not answered and did not happen; the request sent again works.
func TestFailureUndoes(t *testing.T) {
	for _, how := range []string{"store", "forwarding"} {
		t.Run(how, func(t *testing.T) {
			r := start(t)
			fail := func(on bool) { r.failStore, r.failForward = on && how == "store", on && how == "forwarding" }
			snapshot := func() string {
				bs := r.bindings(h1)
				for i := range bs {
					bs[i].Expires = bs[i].Expires.Round(time.Second)
				}
				return fmt.Sprint(bs)
			}
			try := func(name string, p pbu) {
				t.Helper()
				before := snapshot()
				fail(true)
				if a := r.send(p); a != nil {
					t.Fatalf("%s: answered %d though nothing is durable", name, a.Status)
				}
				fail(false)
				r.pass(retryEnding) // what could not even be undone is tried again
				if got := snapshot(); got != before {
					t.Fatalf("%s is not undone:\n%s\nwas\n%s", name, got, before)
				}
				if r.m.refused[wire.StoreFailed]+r.m.refused[wire.ForwardingFailed] == 0 {
					t.Errorf("%s: not counted", name)
				}
				r.ok(p)
			}
			try("registration", attach(mag1, h1, mac1))
			if used, _ := r.m.pools.ByName("v4").Used(r.now); used != 1 {
				t.Errorf("%d addresses used", used)
			}
			try("handoff", attach(mag2, h1, mac1))
			sel := attach(mag2, h1, mac1)
			sel.lifetime, sel.hnp = 0, nil
			try("selective deregistration", sel)
			try("extension", attach(mag2, h1, mac1))
			d := attach(mag2, h1, mac1)
			d.lifetime = 0
			try("deregistration", d)
			try("return", attach(mag1, h1, mac1))
			r.leakless()
		})
	}
}

// TestRefreshBeforeCommit: a refresh that comes while the registration is not durable yet fails with it, so that no
// answer confirms a session that is undone.
func TestRefreshBeforeCommit(t *testing.T) {
	for _, fails := range []bool{true, false} {
		r := start(t)
		r.hold, r.failStore = true, fails
		r.send(attach(mag1, h1, mac1))
		r.pass(time.Millisecond)
		n := len(r.sent)
		r.sendNow(attach(mag1, h1, mac1))
		r.hold, r.failStore = false, false
		if fails && len(r.sent) != n {
			t.Error("the refresh was answered")
		}
		for _, d := range r.pending {
			r.handle(d)
		}
		if got := len(r.bindings(h1)); (got == 0) != fails {
			t.Errorf("failed %v: %d sessions", fails, got)
		}
		r.leakless()
	}
}

// TestFlights covers the orders in which results of two changes of one session can come.
func TestFlights(t *testing.T) {
	const id core.ID = 5
	rec := func(s string) []byte { return []byte(s) }
	for _, row := range []struct {
		name    string
		results []bool // of the first and the second change, first the forwarding, then the answer
		swap    bool   // forwarding of both, then the answers
		want    string // record that the session goes back to; "-" = stays, "" = goes
	}{
		{"both land", []bool{true, true}, false, "-"},
		{"both fail", []bool{false, false}, true, ""},
		{"the first fails, the second says it all", []bool{false, true}, true, "-"},
		{"the second fails", []bool{true, false}, true, "A"},
	} {
		f := newFlights()
		a := f.begin(id, nil, rec("A"))
		b := f.begin(id, rec("A"), rec("B"))
		var order []core.Ref
		if row.swap {
			order = []core.Ref{a, b, a + 1, b + 1}
		} else {
			order = []core.Ref{a, a + 1, b, b + 1}
		}
		got := "-"
		for _, ref := range order {
			ok := row.results[0]
			if ref >= b {
				ok = row.results[1]
			}
			if _, back, undo := f.landed(ref, ok); undo {
				got = string(back)
			}
		}
		if got != row.want {
			t.Errorf("%s: back to %q, want %q", row.name, got, row.want)
		}
		if len(f.byID)+len(f.byRef) != 0 {
			t.Errorf("%s: left over %v", row.name, f)
		}
	}
	f := newFlights()
	if _, _, undo := f.landed(77, false); undo {
		t.Error("a result of nothing undoes something")
	}
}

// TestRestart keeps sessions, states, ids and addresses, and gives nobody's address to another.
func TestRestart(t *testing.T) {
	r := start(t)
	a := r.ok(attach(mag1, h1, mac1))
	r.ok(attach(mag2, "static@example.net", mac1))
	gone := attach(mag1, "gone@example.net", mac1)
	r.ok(gone)
	gone.lifetime = 0
	r.ok(gone)
	before, gb := r.one(h1), r.one("gone@example.net")
	counter := r.m.store.restart
	r.pass(5 * time.Second)
	n := len(r.emits)
	r.restart()
	after := r.one(h1)
	if after.Session != before.Session || after.ProxyCoA != mag1 || after.IPv4 != before.IPv4 || after.Router4 != before.Router4 || after.LinkLayer != before.LinkLayer || !after.Since.Equal(before.Since) {
		t.Errorf("restored %+v\nwas %+v", after, before)
	}
	if !after.Expires.Equal(r.now.Wall.Add(300 * time.Second)) {
		t.Errorf("expires %v, want a whole lifetime from the restart", after.Expires)
	}
	for _, e := range r.emits[n:] {
		if e.Name == "session" {
			t.Errorf("a restart tells of each session: %v; a million of them would drown everything", e)
		}
	}
	if r.delivered(v4of(t, a)) != mag1 || !r.delivered(gb.IPv4.Addr()).IsUnspecified() {
		t.Error("forwarding is not what it was")
	}
	if r.m.store.restart != counter {
		t.Error("the restart counter moved though nothing was lost (RFC 5847 3.2)")
	}
	p := attach(mag1, "h2@example.net", mac2)
	if got := v4of(t, r.ok(p)); got == v4of(t, a) || got == gb.IPv4.Addr() {
		t.Errorf("%v was given twice", got)
	}
	if id := r.one("h2@example.net").Session; id <= max(before.Session, gb.Session) {
		t.Errorf("session id %d is used again", id)
	}
	r.pass(10 * time.Second)
	if len(r.bindings("gone@example.net")) != 0 {
		t.Error("the deregistered session stays")
	}
	// The restored session is refreshed and moved as before.
	if got := v4of(t, r.ok(attach(mag2, h1, mac1))); got != v4of(t, a) {
		t.Errorf("got %v", got)
	}
	r.leakless()
}

// TestRestartLater: a session whose lifetime is over twice is gone; once over may be a refresh that was not written.
func TestRestartLater(t *testing.T) {
	for late, want := range map[time.Duration]int{290 * time.Second: 1, 590 * time.Second: 1, 610 * time.Second: 0} {
		r := start(t)
		r.ok(attach(mag1, h1, mac1))
		r.now.Wall, r.now.Boot = r.now.Wall.Add(late), r.now.Boot+late
		r.restart()
		if n := len(r.bindings(h1)); n != want {
			t.Errorf("%v later: %d sessions, want %d", late, n, want)
		}
		r.leakless()
	}
}

// TestRestartWithOtherConfig ends sessions whose addresses are not the anchor's any more, and says so.
func TestRestartWithOtherConfig(t *testing.T) {
	r := start(t)
	r.ok(attach(mag1, h1, mac1))
	r.cfg.Pools = []pool.Config{{Name: "hnp", Prefix: pfx("2001:db8:1000::/36")}, {Name: "new", Prefix: pfx("10.99.0.0/16")}}
	r.cfg.Subscribers.List = nil
	n := len(r.emits)
	r.restart()
	if len(r.bindings(h1)) != 0 || r.emits[n].Name != "failed" {
		t.Errorf("sessions %v, events %v", r.bindings(h1), r.emits[n:])
	}
	r.leakless()
}

// TestDamagedRecords are reported and change nothing else.
func TestDamagedRecords(t *testing.T) {
	r := start(t)
	r.ok(attach(mag1, h1, mac1))
	good := r.store[string(sessionKey(r.one(h1).Session))]
	for n := range good {
		if _, err := decode(good[:n]); err == nil {
			t.Errorf("a record cut to %d of %d octets is accepted", n, len(good))
		}
	}
	if _, err := decode(append(slices.Clone(good), 0)); err == nil {
		t.Error("a record with an octet too many is accepted")
	}
	r.store[string(sessionKey(1))] = []byte{recordVersion + 1, 2, 3}
	r.store[string(sessionKey(2))] = good[:20]
	r.store["s/twice"] = good
	r.store["other"] = nil
	n := len(r.emits)
	r.restart()
	failed := 0
	for _, e := range r.emits[n:] {
		if e.Name == "failed" {
			failed++
		}
	}
	if failed != 4 || len(r.bindings(h1)) != 1 {
		t.Errorf("%d reports, %d sessions, want 4 and 1", failed, len(r.bindings(h1)))
	}
	if len(r.m.status().Notes) < 4 {
		t.Error("the status does not tell")
	}
}

// TestLostStore: hints are honoured, nothing dynamic is handed out for one maximum lifetime, gateways are told at once.
func TestLostStore(t *testing.T) {
	r := start(t, func(c *Config) { c.Heartbeat.Off = false; c.Timers.LifetimeMax = 10 * time.Minute })
	a := r.ok(attach(mag1, h1, mac1))
	counter := r.m.store.restart
	clear(r.store)
	r.cfg.FirstStart = false
	r.pass(3 * time.Second)
	sent := len(r.sent)
	r.restart()
	var told []netip.Addr
	for _, s := range r.sent[sent:] {
		if hb, ok := s.Body.(*mobility.Heartbeat); ok && hb.Unsolicited {
			c, _ := hb.Options.RestartCounter()
			if c.Value <= counter {
				t.Errorf("restart counter %d, was %d", c.Value, counter)
			}
			told = append(told, s.Path.Remote.Addr())
		}
	}
	if !slices.Equal(told, []netip.Addr{mag1, mag2}) {
		t.Errorf("told %v, want all gateways", told)
	}
	at := r.now.Boot
	r.is(attach(mag1, "new@example.net", mac2), mobility.InsufficientResources)
	if n := r.m.refused[wire.StoreLost]; n != 1 {
		t.Errorf("counter %d", n)
	}
	v4only := attach(mag1, "new@example.net", mac2)
	v4only.hnp = nil
	r.is(v4only, mobility.InsufficientResources)
	hint := attach(mag1, h1, mac1)
	hint.hnp, hint.v4 = prefixes(a), want36(v4of(t, a).String(), 32)
	if got := v4of(t, r.ok(hint)); got != v4of(t, a) {
		t.Errorf("got %v for the hint", got)
	}
	r.ok(attach(mag1, "static@example.net", mac1))
	// It is remembered across another restart.
	r.restart()
	r.pass(at + 10*time.Minute - r.now.Boot - 2*time.Millisecond)
	r.is(attach(mag1, "new@example.net", mac2), mobility.InsufficientResources)
	n := len(r.emits)
	r.pass(time.Millisecond)
	if len(r.emits) <= n || !slices.ContainsFunc(r.emits[n:], func(e core.Emit) bool { return e.Name == "store" && e.To == "ready" }) {
		t.Errorf("events %v", r.emits[n:])
	}
	r.ok(attach(mag1, "new@example.net", mac2))
}

// TestFirstStart hands out at once, and an anchor that knows its store does too.
func TestFirstStart(t *testing.T) {
	r := start(t)
	r.cfg.FirstStart = false
	r.restart() // the store knows the anchor, without any session
	r.ok(attach(mag1, h1, mac1))
}

// TestRoutes makes the home prefixes reachable at the start, and defends addresses on the home link.
func TestRoutes(t *testing.T) {
	r := start(t)
	want := []core.HostOp{
		{Kind: "route", Prefix: pfx("2001:db8:1000::/36"), Name: "kedge0"},
		{Kind: "route", Prefix: pfx("10.20.0.0/16"), Name: "kedge0"},
		{Kind: "route", Prefix: pfx("10.30.0.0/24"), Name: "kedge0"},
	}
	if !slices.Equal(r.host, want) {
		t.Errorf("host %+v", r.host)
	}
	r.handle(core.Done{Ref: routesRef, Err: errors.New("no such device")})
	if n := r.m.status().Notes; !slices.Contains(n, "no such device") {
		t.Errorf("notes %v", n)
	}

	r = start(t, func(c *Config) { c.HomeLink = "home0" })
	r.host = nil
	p := attach(mag1, h1, mac1)
	r.ok(p)
	r.ok(attach(mag2, h1, mac1))
	op := core.HostOp{Kind: "proxy", Prefix: pfx("10.20.0.8/32"), Name: "home0"}
	if !slices.Equal(r.host, []core.HostOp{op}) {
		t.Errorf("defended %+v", r.host)
	}
	r.restart()
	if !slices.Contains(r.host, op) {
		t.Errorf("not defended after a restart: %+v", r.host)
	}
	r.host = nil
	r.leakless()
	op.Del = true
	if !slices.Equal(r.host, []core.HostOp{op}) {
		t.Errorf("undefended %+v", r.host)
	}
}
