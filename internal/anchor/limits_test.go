package anchor

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"kedge/internal/core"
	"kedge/internal/heartbeat"
	"kedge/wire"
	"kedge/wire/mobility"
)

// TestHundredThousandIdentities: one gateway cannot fill the anchor; others go on, and its own hosts are still served.
func TestHundredThousandIdentities(t *testing.T) {
	r := start(t, func(c *Config) { c.Limits.SessionsPerGateway = 1000; c.Limits.RequestsPerPeer = 1_000_000 })
	r.ok(attach(mag1, "honest@example.net", mac2))
	refused := 0
	for i := range 100_000 {
		p := attach(mag1, fmt.Sprintf("x%d@example.net", i), mac1)
		if a := r.sendNow(p); a.Status == mobility.InsufficientResources {
			refused++
		}
		r.sent, r.emits = r.sent[:0], r.emits[:0]
	}
	if n := r.m.cache.Len(); n != 1000 || refused != 99_001 {
		t.Errorf("%d sessions, %d refused", n, refused)
	}
	if n := r.m.refused[wire.PeerSessionLimit]; n != 99_001 {
		t.Errorf("counted %d", n)
	}
	if n := len(r.m.past.ring); n > historySize {
		t.Errorf("history of %d", n)
	}
	r.ok(attach(mag1, "honest@example.net", mac2))
	r.ok(attach(mag2, "other@example.net", mac1))
	r.leakless()
}

// TestInterfacesOfOneNode: each request looks at all sessions of its mobile node, so they are few; others are served.
func TestInterfacesOfOneNode(t *testing.T) {
	r := start(t)
	for i := range maxInterfaces + 1 {
		p := attach(mag1, h1, []byte{2, 0, 0, 0, 1, byte(i)})
		p.v4, p.hi = nil, mobility.HandoffNewInterface
		if i < maxInterfaces {
			r.ok(p)
			continue
		}
		r.is(p, mobility.InsufficientResources)
	}
	if n := r.m.refused[wire.SessionLimit]; n != 1 {
		t.Errorf("counted %d", n)
	}
	r.ok(attach(mag1, "h2@example.net", mac1))
	r.leakless()
}

// TestOddIdentifiers: an identifier is a row of octets, of any content and of any length that fits the option; what the
// anchor keeps, stores and answers is the same row.
func TestOddIdentifiers(t *testing.T) {
	r := start(t)
	every := make([]byte, 254)
	for i := range every {
		every[i] = byte(i)
	}
	ids := []string{"\x00", "\x00\x00", "\xff\xfe@\x80", "h\n@x", "\x1b[2J@example.net", strings.Repeat("a", 15), strings.Repeat("a", 16), strings.Repeat("\x00", 253), strings.Repeat("a", 254), string(every)}
	for round := range 2 {
		for _, id := range ids {
			a := r.ok(attach(mag1, id, mac1))
			if got, _ := a.Options.MobileNodeID(); got.ID != id {
				t.Errorf("%q is answered as %q", id, got.ID)
			}
			if n := len(r.bindings(id)); n != 1 {
				t.Errorf("round %d: %d sessions of %q", round, n, id)
			}
		}
		r.restart()
	}
	r.leakless()
}

// TestRequestRate drops, silently, what a peer sends beyond its rate, and forgets nothing when it slows down.
func TestRequestRate(t *testing.T) {
	r := start(t, func(c *Config) { c.Limits.RequestsPerPeer = 10 })
	r.pass(time.Hour)
	answered := 0
	for i := range 30 {
		if r.sendNow(attach(mag1, fmt.Sprintf("x%d@example.net", i), mac1)) != nil {
			answered++
		}
	}
	if answered != 10 || r.m.refused[wire.RateLimit] != 20 {
		t.Errorf("%d answered, %d dropped", answered, r.m.refused[wire.RateLimit])
	}
	r.ok(attach(mag2, h1, mac1)) // another peer has its own
	r.pass(97 * time.Millisecond)
	r.silent(attach(mag1, h1, mac1))
	r.pass(100 * time.Millisecond)
	r.ok(attach(mag1, h1, mac1))
}

// TestUnknownTypes: a type that is not known gets a Binding Error (RFC 6275 9.2), strangers at a rate, and never more octets
// than they sent.
func TestUnknownTypes(t *testing.T) {
	r := start(t)
	sized := func(from netip.Addr, typ mobility.Type, data int) core.Message {
		b, err := mobility.Append(nil, &mobility.Raw{MHType: typ, Data: make([]byte, data)}, from, lmaa)
		if err != nil {
			t.Fatal(err)
		}
		msg, err := mobility.Parse(b, from, lmaa)
		return core.Message{Path: path(lmaa, from), Body: msg, Err: err, Raw: b}
	}
	raw := func(from netip.Addr, typ mobility.Type) core.Message { return sized(from, typ, 18) }
	for data := 2; data < 18; data += 8 {
		r.handle(sized(none, 99, data))
		if len(r.sent) > 0 {
			t.Errorf("%d octets are answered with %d", 6+data, bindingErrorSize)
		}
		r.handle(sized(mag1, 99, data))
		if len(r.sent) != 1 {
			t.Errorf("a peer's %d octets are not answered", 6+data)
		}
		r.sent = nil
		r.pass(time.Second)
	}
	r.pass(time.Second)
	for _, from := range []netip.Addr{mag1, none} {
		n := len(r.sent)
		r.handle(raw(from, 99))
		be, ok := r.sent[len(r.sent)-1].Body.(*mobility.BindingError)
		if len(r.sent) != n+1 || !ok || be.Status != 2 || !be.Home.IsUnspecified() || r.sent[n].Path.Remote.Addr() != from {
			t.Errorf("%v: sent %+v", from, r.sent[n:])
		}
	}
	n := len(r.sent)
	for range 100 {
		r.handle(raw(none, 99))
	}
	if got := len(r.sent) - n; got != strangerRate-1 {
		t.Errorf("%d Binding Errors to strangers in no time, want %d", got, strangerRate-1)
	}
	r.pass(time.Minute)
	n = len(r.sent)
	for _, m := range []mobility.Message{&mobility.BindingRefreshRequest{}, &mobility.TestInit{}, &mobility.Test{}, &mobility.BindingAck{}, &mobility.BindingError{Status: 1, Home: lmaa}} {
		r.handle(core.Message{Path: path(lmaa, mag1), Body: m})
	}
	if len(r.sent) != n {
		t.Errorf("answered %+v", r.sent[n:])
	}
	if got := r.m.refused[wire.UnsupportedMessage] + r.m.refused[wire.Unsolicited]; got != 5 {
		t.Errorf("counted %d", got)
	}
}

// TestMalformed counts decode errors by reason and answers none.
func TestMalformed(t *testing.T) {
	r := start(t)
	n := len(r.sent)
	good := r.message(attach(mag1, h1, mac1)).Raw
	for cut := range len(good) {
		msg, err := mobility.Parse(good[:cut], mag1, lmaa)
		if err == nil {
			continue
		}
		m := core.Message{Path: path(lmaa, mag1), Err: err, Raw: good[:cut]}
		if msg != nil {
			m.Body = msg
		}
		r.handle(m)
	}
	bad := append([]byte(nil), good...)
	bad[20] ^= 0xff
	_, err := mobility.Parse(bad, mag1, lmaa)
	r.handle(core.Message{Path: path(lmaa, mag1), Err: err, Raw: bad})
	r.handle(core.Message{Path: path(lmaa, mag1), Err: errors.New("something else"), Raw: bad})
	r.handle(core.Message{Path: path(lmaa, mag1)})
	if len(r.sent) != n || r.m.cache.Len() != 0 {
		t.Error("a malformed message was answered")
	}
	for _, reason := range []wire.Reason{wire.Truncated, wire.BadChecksum, wire.Malformed, wire.UnsupportedMessage} {
		if r.m.refused[reason] == 0 {
			t.Errorf("%s is not counted: %v", reason, r.m.refused)
		}
	}
}

// TestHeartbeats goes to gateways with active sessions only, answers always, and tells restarts (RFC 5847).
func TestHeartbeats(t *testing.T) {
	r := start(t, func(c *Config) {
		c.Heartbeat = Heartbeat{Config: heartbeat.Config{Interval: 10 * time.Second, MaxMissing: 2}}
	})
	r.pass(time.Minute)
	if n := beats(r, mag1); len(n) != 0 {
		t.Fatalf("%d requests to a gateway without sessions", len(n))
	}
	p := attach(mag1, h1, mac1)
	p.lifetime = 900
	r.ok(p)
	r.pass(time.Second)
	reqs := beats(r, mag1)
	if len(reqs) != 1 {
		t.Fatalf("%d requests, want the first within a tenth of the interval", len(reqs))
	}
	answer := func(counter uint32) {
		hb := beats(r, mag1)
		last := hb[len(hb)-1]
		r.handle(core.Message{Path: path(lmaa, mag1), Body: &mobility.Heartbeat{Response: true, Sequence: last.Sequence,
			Options: mobility.Options(nil).Add(mobility.RestartCounter{Value: counter})}})
	}
	peerEvents := func(n int) (out []string) {
		for _, e := range r.emits[n:] {
			if e.Name == "peer" {
				out = append(out, e.To)
			}
		}
		return out
	}
	n := len(r.emits)
	answer(3)
	r.pass(10 * time.Second)
	answer(4)
	if ev := strings.Join(peerEvents(n), " "); ev != "alive restarted" {
		t.Errorf("events %q", ev)
	}
	if s := r.m.status().Peers[0]; !s.Alive || s.Restarts != 4 || s.Sessions != 1 {
		t.Errorf("status %+v", s)
	}
	if b := r.one(h1); b.State != "active" {
		t.Error("a restarted gateway's session must stay: its host still has the addresses")
	}
	n = len(r.emits)
	r.pass(time.Minute)
	if ev := strings.Join(peerEvents(n), " "); ev != "dead" {
		t.Errorf("events %q", ev)
	}
	// A request is answered, with the restart counter, also when it comes from a gateway without sessions.
	r.handle(core.Message{Path: path(lmaa, mag2), Body: &mobility.Heartbeat{Sequence: 77}})
	hb := beats(r, mag2)
	if c, ok := hb[0].Options.RestartCounter(); len(hb) != 1 || !hb[0].Response || hb[0].Sequence != 77 || !ok || c.Value != r.m.store.restart {
		t.Errorf("answer %+v", hb)
	}
	// A gateway that does not understand is not asked again.
	r.handle(core.Message{Path: path(lmaa, mag1), Body: &mobility.BindingError{Status: 2, Home: netip.IPv6Unspecified()}})
	n = len(beats(r, mag1))
	r.pass(time.Minute)
	if got := len(beats(r, mag1)); got != n {
		t.Errorf("%d more requests", got-n)
	}
	d := attach(mag1, h1, mac1)
	d.lifetime = 0
	r.ok(d)
	q := attach(mag2, "h2@example.net", mac1)
	q.lifetime = 900
	r.ok(q)
	r.restart()
	n = len(beats(r, mag2))
	r.pass(2 * time.Second)
	if got := len(beats(r, mag2)); got != n+1 {
		t.Errorf("%d requests after a restart, want one", got-n)
	}
}

func beats(r *rig, to netip.Addr) (out []*mobility.Heartbeat) {
	for _, s := range r.sent {
		if hb, ok := s.Body.(*mobility.Heartbeat); ok && s.Path.Remote.Addr() == to {
			out = append(out, hb)
		}
	}
	return out
}

// TestCommands is what the API shows.
func TestCommands(t *testing.T) {
	r := start(t)
	a := r.ok(attach(mag1, h1, mac1))
	r.ok(attach(mag2, h1, mac1))
	r.is(func() pbu { p := attach(mag1, "v6@example.net", mac2); return p }(), 170)
	ask := func(body any) any {
		r.handle(core.Command{Ref: 5, Body: body})
		if r.reply.Ref != 5 {
			t.Fatalf("reply %+v", r.reply)
		}
		return r.reply.Body
	}
	s := ask(core.GetStatus{}).(core.Status)
	if s.Role != "anchor" || s.Sessions["active"] != 1 || s.Counters["ipv4-service-disabled"] != 1 || len(s.Peers) != 2 || s.Peers[1].Sessions != 1 {
		t.Errorf("status %+v", s)
	}
	if p := s.Pools[1]; p.Name != "v4" || p.Used != 1 || p.Free != 1<<16-8-2-1-1 { // reserved, static, used, broadcast
		t.Errorf("pool %+v", p)
	}
	for filter, want := range map[string]int{"": 1, "h1@": 1, "10.20.0.8": 1, "2001:db8:1000::": 1, "2001:db8:1000::5": 1, "nobody": 0} {
		if n := len(ask(core.GetBindings{Filter: filter}).([]core.Binding)); n != want {
			t.Errorf("filter %q: %d", filter, n)
		}
	}
	for _, id := range []string{h1, v4of(t, a).String(), prefixes(a)[0].String()} {
		x := ask(core.Explain{ID: id}).(core.Explanation)
		if x.ID != h1 || len(x.Bindings) != 1 || len(x.History) != 2 || !strings.Contains(x.History[1].What, "handoff") || !strings.Contains(x.History[1].Detail, "5.4.1.2 (2)") {
			t.Errorf("%s: %+v", id, x)
		}
	}
	x := ask(core.Explain{ID: "v6@example.net"}).(core.Explanation)
	if len(x.History) != 1 || x.History[0].Reason != "ipv4-service-disabled" || !strings.Contains(x.History[0].What, "refused 170") || !strings.HasPrefix(x.Profile, "listed") {
		t.Errorf("%+v", x)
	}
	if ask(core.Attach{}); r.reply.Err == nil {
		t.Error("an anchor has no access links")
	}
	// Reports of the data plane are counted and name the subscriber.
	r.handle(core.Reported{ID: r.one(h1).Session, Reason: "wrong-source"})
	if last := r.emits[len(r.emits)-1]; last.Name != "dropped" || last.Fields.(Fields).Sub != h1 || r.m.refused[wire.WrongSource] != 1 {
		t.Errorf("event %+v", last)
	}
}
