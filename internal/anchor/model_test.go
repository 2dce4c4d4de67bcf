package anchor

import (
	"fmt"
	"net/netip"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"kedge/internal/core"
	"kedge/internal/pool"
	"kedge/internal/spec"
	"kedge/wire/mobility"
)

// world is a naive model: it believes what gateways were told in acknowledgements, and nothing else. What was
// acknowledged must be true, whatever fails or restarts, until its lifetime ends or it is deregistered.
type world struct {
	*rig
	sessions []*believed
	asked    map[uint16]pbu // by sequence number
	read     int            // of rig.sent
}

// believed is a session as the gateway that has it sees it.
type believed struct {
	id    string
	as    core.ID // the anchor's name of it: a handoff may replace all addresses
	gw    netip.Addr
	v4    netip.Addr
	v6    []netip.Prefix
	until time.Duration
}

func (b *believed) has(v4 netip.Addr, v6 []netip.Prefix) bool {
	return b.v4.IsValid() && b.v4 == v4 || slices.ContainsFunc(b.v6, func(p netip.Prefix) bool { return slices.Contains(v6, p) })
}

// listen reads the answers that left since the last time.
func (w *world) listen(t *rapid.T) {
	for ; w.read < len(w.sent); w.read++ {
		ack, ok := w.sent[w.read].Body.(*mobility.BindingAck)
		if !ok || ack.Status != mobility.Accepted {
			continue
		}
		req, ok := w.asked[ack.Sequence]
		if !ok {
			t.Fatalf("an answer to nothing: sequence %d", ack.Sequence)
		}
		if to := w.sent[w.read].Path.Remote.Addr(); to != req.from {
			t.Fatalf("the answer went to %v", to)
		}
		w.believe(t, req, ack)
	}
}

func (w *world) believe(t *rapid.T, req pbu, ack *mobility.BindingAck) {
	v6 := prefixes(ack)
	var v4 netip.Addr
	refusedV4 := false
	if st, there := v4Status(ack); there {
		if refusedV4 = st != 0; !refusedV4 {
			v4 = v4of(t, ack)
		}
	}
	w.forgetOld()
	as := w.holder(v4, v6)
	n := slices.IndexFunc(w.sessions, func(b *believed) bool { return b.has(v4, v6) || as != 0 && b.as == as })
	if req.lifetime == 0 {
		if n < 0 {
			return // told already
		}
		b := w.sessions[n]
		if len(req.v4) > 0 {
			b.v4 = netip.Addr{}
		}
		if len(req.hnp) > 0 {
			b.v6 = nil
		}
		if !b.v4.IsValid() && len(b.v6) == 0 {
			w.sessions = slices.Delete(w.sessions, n, n+1)
		}
		return
	}
	if ack.Lifetime == 0 || ack.Lifetime > req.lifetime {
		t.Fatalf("lifetime %d for a request of %d", ack.Lifetime, req.lifetime)
	}
	if n < 0 {
		w.sessions = append(w.sessions, &believed{})
		n = len(w.sessions) - 1
	}
	b := w.sessions[n]
	if b.id != "" && b.id != req.id {
		t.Fatalf("%v %v is given to %s, but %s has it until %v (now %v)", v4, v6, req.id, b.id, b.until, w.now.Boot)
	}
	if b.gw != req.from { // a handoff takes away what the new gateway does not ask for
		b.v4, b.v6 = netip.Addr{}, nil
	}
	b.id, b.as, b.gw, b.until = req.id, as, req.from, w.now.Boot+time.Duration(ack.Lifetime)*4*time.Second
	if v4.IsValid() || refusedV4 {
		b.v4 = v4
	}
	if len(v6) > 0 {
		b.v6 = v6
	}
	for i, o := range w.sessions {
		if i != n && o.has(b.v4, b.v6) {
			t.Fatalf("%s and %s have one address: %+v %+v", b.id, o.id, b, o)
		}
	}
}

// holder is the session that has one of the addresses, 0 if none.
func (w *world) holder(v4 netip.Addr, v6 []netip.Prefix) core.ID {
	if v4.IsValid() {
		v6 = append(slices.Clone(v6), netip.PrefixFrom(v4, 32))
	}
	for _, k := range v6 {
		if i, ok := w.m.cache.ByHome(0, k); ok {
			return w.m.cache.At(i).ID
		}
	}
	return 0
}

func (w *world) forgetOld() {
	w.sessions = slices.DeleteFunc(w.sessions, func(b *believed) bool { return b.until <= w.now.Boot })
}

// check compares the belief with where packets go.
func (w *world) check(t *rapid.T) {
	w.listen(t)
	w.forgetOld()
	for _, b := range w.sessions {
		for _, p := range b.v6 {
			if got := w.delivered(p.Addr()); got != b.gw {
				t.Fatalf("%s: %v is delivered to %v, was acknowledged to %v; bindings %+v", b.id, p, got, b.gw, w.bindings(b.id))
			}
		}
		if b.v4.IsValid() {
			if got := w.delivered(b.v4); got != b.gw {
				t.Fatalf("%s: %v is delivered to %v, was acknowledged to %v; bindings %+v", b.id, b.v4, got, b.gw, w.bindings(b.id))
			}
		}
	}
	if w.failStore || w.failForward || len(w.m.flights.again) > 0 || len(w.pending) > 0 {
		return // what failed is repeated later
	}
	for i := range w.m.cache.All() { // the parts agree
		for _, k := range w.m.cache.Homes(i).Keys() {
			if key, ok := w.keys[k]; !ok || key.ID != w.m.cache.At(i).ID {
				t.Fatalf("%v of session %d is forwarded as %+v", k, w.m.cache.At(i).ID, key)
			}
		}
	}
	want := 0
	for i := range w.m.cache.All() {
		want += len(w.m.cache.Homes(i).Keys())
	}
	if len(w.keys) != want {
		t.Fatalf("%d keys are forwarded, the cache has %d", len(w.keys), want)
	}
}

// TestModel runs random requests of several gateways and hosts, time, failures and restarts against the naive model: no
// address twice, nothing acknowledged is lost, nothing leaks.
func TestModel(t *testing.T) {
	spec.Covers(t, "S001-3.3.2-12")
	ids := []string{"a@example.net", "b@example.net", "c@example.net", "static@example.net", "static2@example.net", "v4@example.net", "v6@example.net", "three@example.net"}
	gws := []netip.Addr{mag1, mag2}
	lls := [][]byte{nil, mac1, mac2}
	rapid.Check(t, func(rt *rapid.T) {
		w := &world{asked: map[uint16]pbu{}}
		w.rig = start(t, func(c *Config) {
			c.Pools = []pool.Config{
				{Name: "hnp", Prefix: pfx("2001:db8:1000::/60")},
				{Name: "v4", Prefix: pfx("10.20.0.8/29")},
				{Name: "v4b", Prefix: pfx("10.30.0.0/30")},
			}
			c.Limits.Sessions, c.Limits.PendingPerPeer = 9, 3
		})
		w.after = func() { w.listen(rt) }
		request := func(rt *rapid.T) pbu {
			p := attach(rapid.SampledFrom(gws).Draw(rt, "from"), rapid.SampledFrom(ids).Draw(rt, "id"), rapid.SampledFrom(lls).Draw(rt, "ll"))
			p.hi = uint8(rapid.IntRange(1, 5).Draw(rt, "hi"))
			p.att = uint8(rapid.IntRange(3, 4).Draw(rt, "att"))
			p.lifetime = rapid.SampledFrom([]uint16{1, 5, 75}).Draw(rt, "lifetime")
			p.noTS = rapid.IntRange(0, 9).Draw(rt, "ts") == 0
			a := fmt.Sprintf("10.20.0.%d", rapid.IntRange(8, 15).Draw(rt, "hint"))
			switch rapid.IntRange(0, 4).Draw(rt, "v4") {
			case 0:
				p.v4 = nil
			case 1:
				p.v4 = want36(a, 32)
			case 2:
				p.v4 = draft29(a, 32)
			case 3:
				p.v4 = draft29("0.0.0.0", 0)
			}
			switch rapid.IntRange(0, 3).Draw(rt, "v6") {
			case 0:
				p.hnp = nil
			case 1:
				p.hnp = []netip.Prefix{netip.PrefixFrom(netip.AddrFrom16([16]byte{0x20, 1, 0xd, 0xb8, 0x10, 0, 0, byte(rapid.IntRange(0, 15).Draw(rt, "hnp"))}), 64)}
			}
			return p
		}
		send := func(rt *rapid.T, p pbu) {
			w.pass(time.Millisecond)
			w.asked[w.seq+1] = p
			w.handle(w.message(p))
			if w.hold && (w.failStore || w.failForward) {
				// Until the failure is known a later request may confirm this one along with itself; that is as if
				// its answer had been lost, which the model has no word for.
				w.sessions = slices.DeleteFunc(w.sessions, func(b *believed) bool { return b.id == p.id })
			}
		}
		rt.Repeat(map[string]func(*rapid.T){
			"register":   func(rt *rapid.T) { send(rt, request(rt)) },
			"register 2": func(rt *rapid.T) { send(rt, request(rt)) },
			"refresh": func(rt *rapid.T) {
				w.listen(rt)
				w.forgetOld()
				if len(w.sessions) == 0 {
					return
				}
				b := w.sessions[rapid.IntRange(0, len(w.sessions)-1).Draw(rt, "session")]
				p := request(rt)
				p.id, p.hnp, p.v4 = b.id, b.v6, nil
				if b.v4.IsValid() {
					p.v4 = want36(b.v4.String(), 32)
				}
				if rapid.Bool().Draw(rt, "same gateway") {
					p.from = b.gw
				}
				send(rt, p)
			},
			"deregister": func(rt *rapid.T) {
				w.listen(rt)
				w.forgetOld()
				if len(w.sessions) == 0 {
					return
				}
				b := w.sessions[rapid.IntRange(0, len(w.sessions)-1).Draw(rt, "session")]
				p := request(rt)
				p.id, p.from, p.lifetime, p.hnp, p.v4, p.hi = b.id, b.gw, 0, b.v6, nil, mobility.HandoffInterfaces
				if b.v4.IsValid() {
					p.v4 = want36(b.v4.String(), 32)
				}
				switch rapid.IntRange(0, 3).Draw(rt, "which") {
				case 0:
					if len(p.v4) > 0 {
						p.hnp = nil
					}
				case 1:
					if len(p.hnp) > 0 {
						p.v4 = nil
					}
				}
				send(rt, p)
			},
			"time": func(rt *rapid.T) {
				w.flush() // results take milliseconds, not the seconds of this
				w.pass(time.Duration(rapid.IntRange(1, 25_000).Draw(rt, "ms")) * time.Millisecond)
			},
			"store":        func(rt *rapid.T) { w.failStore = rapid.IntRange(0, 2).Draw(rt, "fails") == 0 },
			"forward":      func(rt *rapid.T) { w.failForward = rapid.IntRange(0, 2).Draw(rt, "fails") == 0 },
			"late results": func(rt *rapid.T) { w.hold = true },
			"results":      func(rt *rapid.T) { w.flush() },
			"restart": func(rt *rapid.T) {
				w.failStore, w.failForward = false, false
				// A change that is durable, could not be forwarded and was never answered may stand after a crash or
				// not: the model has no word for that.
				if slices.ContainsFunc(w.pending, func(ev core.Event) bool { return ev.(core.Done).Err != nil }) {
					w.flush()
				}
				w.restart()
			},
			"": w.check,
		})
		w.failStore, w.failForward = false, false
		w.flush()
		w.leakless()
		if t.Failed() {
			rt.FailNow()
		}
	})
}
