package anchor

import (
	"net/netip"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"kedge/internal/access"
	"kedge/internal/binding"
	"kedge/internal/core"
	"kedge/internal/pool"
	"kedge/wire/mobility"
	"kedge/wire/nd"
)

// hostWorld is a naive model of nodes: each believes the acknowledgements that reached it, and nothing else. What was
// acknowledged must be true, whatever fails or restarts, until its lifetime ends, it is deregistered or another request of the
// same node may have been taken.
type hostWorld struct {
	*rig
	nodes map[netip.Addr]*hostBelief
	read  int // of rig.sent
}

type hostBelief struct {
	id    string
	seq   uint16
	asked map[uint16]bu
	bound bool
	layer core.Layer
	v4    []netip.Prefix
	until time.Duration
}

// listen reads the answers that left since the last time.
func (w *hostWorld) listen(t *rapid.T) {
	for ; w.read < len(w.sent); w.read++ {
		s := w.sent[w.read]
		ack, ok := s.Body.(*mobility.BindingAck)
		if !ok || ack.Flags&mobility.BAProxy != 0 {
			continue
		}
		home := s.Path.Remote.Addr()
		if s.Path.Home.IsValid() {
			home = s.Path.Home
		}
		n := w.nodes[home]
		if n == nil {
			continue // a gateway's
		}
		if ack.Status == mobility.SequenceOutOfWindow {
			if int16(ack.Sequence-n.seq) > 0 {
				n.seq = ack.Sequence
			}
			continue
		}
		req, ok := n.asked[ack.Sequence]
		if !ok || s.Path != req.path() {
			t.Fatalf("an answer to nothing: %+v by %+v", ack, s.Path)
		}
		if !ack.Status.Accepted() {
			continue // what was bound stays bound
		}
		n.believe(t, req, ack, w.now.Boot)
	}
}

func (n *hostBelief) believe(t *rapid.T, req bu, ack *mobility.BindingAck, now time.Duration) {
	if req.lifetime == 0 {
		n.bound = false
		return
	}
	if ack.Lifetime == 0 || ack.Lifetime > req.lifetime || len(acks(ack)) != len(req.v4) {
		t.Fatalf("%+v answers %+v", ack, req)
	}
	n.bound, n.v4, n.until = true, nil, now+time.Duration(ack.Lifetime)*4*time.Second
	for _, a := range acks(ack) {
		if a.Status == 0 {
			n.v4 = append(n.v4, netip.PrefixFrom(a.Addr, max(int(a.PrefixLen), 32*int(a.Short))))
		}
	}
	switch nat, _ := ack.Options.NATDetection(); {
	case nat.F:
		n.layer = layerUDP(req.seen)
	case req.seen.IsValid():
		n.layer = layer4(req.seen.Addr())
	default:
		n.layer = layer6(req.src)
	}
}

// check compares the belief with where packets go, and the parts with each other.
func (w *hostWorld) check(t *rapid.T) {
	w.listen(t)
	owner := map[netip.Prefix]string{}
	for home, n := range w.nodes {
		if !n.bound || n.until <= w.now.Boot {
			continue
		}
		for _, k := range append(slices.Clone(n.v4), netip.PrefixFrom(home, 128)) {
			if o := owner[k]; o != "" && o != n.id {
				t.Fatalf("%v is given to %s and %s", k, o, n.id)
			}
			owner[k] = n.id
			if got, ok := w.chain(k.Addr()); !ok || got != n.layer {
				t.Fatalf("%s: %v is tunnelled by %+v (%v), was acknowledged by %+v; %v", n.id, k, got, ok, n.layer, w.bindings(n.id))
			}
		}
	}
	if w.failStore || w.failForward || len(w.m.flights.again)+len(w.m.flights.broken)+len(w.pending) > 0 {
		return // what failed is repeated later
	}
	for h := range w.m.hosts.table.All() {
		for _, k := range h.Keys() {
			got, there := w.shares[k][h.ID]
			want := h.State == binding.Active
			if dark := want || !w.m.onHomeLink(0); there != dark || got.Up != want || got.Down != want {
				t.Fatalf("%v of %s registration %d is forwarded as %+v (%v)", k, h.State, h.ID, got, there)
			}
		}
	}
	for i := range w.m.cache.All() {
		e := w.m.cache.At(i)
		for _, k := range w.m.cache.Homes(i).Keys() {
			h := w.m.hosts.table.ByHome(0, k)
			active := e.State == binding.Active
			down := active && (h == nil || h.State != binding.Active)
			if got := w.shares[k][e.ID]; got.Up != active || got.Down != down {
				t.Fatalf("%v of session %d is forwarded as %+v", k, e.ID, got)
			}
		}
	}
}

// TestHostModel runs random requests, moves, framings, gateways beside them, time, failures and restarts against the model.
func TestHostModel(t *testing.T) {
	homes := []netip.Addr{hoa1, hoa2, hoa4}
	ids := []string{mn1, mn2, mn4}
	rapid.Check(t, func(rt *rapid.T) {
		real := rapid.Bool().Draw(rt, "home link")
		w := &hostWorld{nodes: map[netip.Addr]*hostBelief{}}
		w.rig = startHosts(t, func(c *Config) {
			for n := range c.Pools {
				switch c.Pools[n].Name {
				case "v4b": // two addresses for two nodes and their gateways
					c.Pools[n] = pool.Config{Name: "v4b", Prefix: pfx("10.30.0.0/29"), Reserve: []netip.Prefix{pfx("10.30.0.4/30")}}
				}
			}
			profileOf(c, mn4).V4Pools = []string{"v4b"}
			c.Limits.Sessions = 6
			if real {
				homeLink(c)
				c.HomePort.RetransTimer = 50 * time.Millisecond
			}
		})
		for i, h := range homes {
			w.nodes[h] = &hostBelief{id: ids[i], asked: map[uint16]bu{}}
		}
		w.after = func() { w.listen(rt) }
		send := func(rt *rapid.T, b bu) {
			n := w.nodes[b.home]
			n.seq++
			b.seq, b.exact = n.seq, true
			n.asked[b.seq] = b
			w.pass(time.Millisecond)
			w.handle(w.hostMessage(b))
			if w.hold && (w.failStore || w.failForward) {
				// Until the failure is known a later request may confirm this one along with itself; that is as if
				// its answer had been lost, which the model has no word for.
				n.bound = false
			}
		}
		register := func(rt *rapid.T) {
			home := rapid.SampledFrom(homes).Draw(rt, "home")
			var v4 []mobility.Value
			for range rapid.IntRange(0, 3).Draw(rt, "options") {
				v4 = append(v4, rapid.SampledFrom([]mobility.Value{
					dynamic29, opt29("10.20.0.21", 32), opt29("10.30.0.2", 32), opt29("10.30.0.3", 32), opt29p("0.0.0.0", 28), opt29p("10.99.1.0", 24), opt29("224.0.0.1", 32), opt29("10.20.0.21", 0),
				}).Draw(rt, "v4"))
			}
			var b bu
			switch rapid.IntRange(0, 3).Draw(rt, "framing") {
			case 0:
				b = native(home, rapid.SampledFrom([]netip.Addr{coa1, coa2}).Draw(rt, "coa"), v4...)
			case 1:
				b = udp(home, v4coa, netip.AddrPortFrom(v4coa, port4191), v4...)
			case 2:
				b = udp(home, ip("10.0.0.7"), netip.AddrPortFrom(ip("203.0.113.5"), uint16(rapid.IntRange(50000, 50001).Draw(rt, "port"))), v4...)
			case 3:
				b = in41(home, v4coa, v4...)
			}
			b.lifetime = rapid.SampledFrom([]uint16{1, 5, 75}).Draw(rt, "lifetime")
			if rapid.IntRange(0, 3).Draw(rt, "L") == 0 && home != hoa4 { // whose link-local address is that of another
				b.flags |= mobility.BULinkLocal
			}
			send(rt, b)
		}
		rt.Repeat(map[string]func(*rapid.T){
			"register":   register,
			"register 2": register,
			"refresh": func(rt *rapid.T) {
				n := w.nodes[rapid.SampledFrom(homes).Draw(rt, "home")]
				if b, ok := n.asked[n.seq]; ok && b.lifetime > 0 {
					send(rt, b)
				}
			},
			"leave": func(rt *rapid.T) {
				home := rapid.SampledFrom(homes).Draw(rt, "home")
				b := atHome(home)
				if rapid.Bool().Draw(rt, "away") {
					b = native(home, coa1)
					b.lifetime = 0
				}
				send(rt, b)
			},
			"stranger": func(rt *rapid.T) {
				b := native(hoa1, coa2)
				b.auth = core.Auth{Kind: rapid.SampledFrom([]string{"", "none", "esp"}).Draw(rt, "kind"), Peer: rapid.SampledFrom([]string{"", "mn2", "mag1"}).Draw(rt, "peer")}
				b.seq, b.exact = uint16(rapid.IntRange(0, 65535).Draw(rt, "seq")), true
				w.handle(w.hostMessage(b))
			},
			"copy": func(rt *rapid.T) {
				n := w.nodes[rapid.SampledFrom(homes).Draw(rt, "home")]
				if b, ok := n.asked[n.seq-uint16(rapid.IntRange(0, 3).Draw(rt, "back"))]; ok {
					seq := n.seq
					w.handle(w.hostMessage(b))
					n.seq = max(seq, n.seq)
					if w.hold && (w.failStore || w.failForward) {
						n.bound = false
					}
				}
			},
			"gateway": func(rt *rapid.T) {
				p := attach(mag1, rapid.SampledFrom(ids).Draw(rt, "id"), mac1)
				p.lifetime = rapid.SampledFrom([]uint16{0, 1, 75}).Draw(rt, "lifetime")
				p.hi = uint8(rapid.IntRange(1, 5).Draw(rt, "hi"))
				if rapid.Bool().Draw(rt, "no v4") {
					p.v4 = nil
				}
				w.pass(time.Millisecond)
				w.handle(w.message(p))
			},
			"time": func(rt *rapid.T) {
				w.flush() // results take milliseconds, not the seconds of this
				w.pass(time.Duration(rapid.IntRange(1, 25_000).Draw(rt, "ms")) * time.Millisecond)
			},
			"conflict": func(rt *rapid.T) {
				w.overhear(access.Frame{Src: otherMAC, SrcIP: ip("::"), Body: &nd.NeighborSolicitation{Target: rapid.SampledFrom(homes).Draw(rt, "target")}})
			},
			"revoke": func(rt *rapid.T) {
				n := w.nodes[rapid.SampledFrom(homes).Draw(rt, "home")]
				if w.failStore || w.failForward {
					return // ends at once, and is put in order later
				}
				w.handle(core.Command{Ref: 9, Body: core.Revoke{ID: n.id}})
				if w.reply.Err == nil {
					n.bound = false
				}
			},
			"store":        func(rt *rapid.T) { w.failStore = rapid.IntRange(0, 2).Draw(rt, "fails") == 0 },
			"forward":      func(rt *rapid.T) { w.failForward = rapid.IntRange(0, 2).Draw(rt, "fails") == 0 },
			"lazy":         func(rt *rapid.T) { w.keepLazy = rapid.Bool().Draw(rt, "kept") },
			"late results": func(rt *rapid.T) { w.hold = true },
			"results":      func(rt *rapid.T) { w.flush() },
			"restart": func(rt *rapid.T) {
				w.failStore, w.failForward = false, false
				if slices.ContainsFunc(w.pending, func(ev core.Event) bool { return ev.(core.Done).Err != nil }) {
					w.flush()
				}
				// What a failed change left in the store and could not be put in order there may stand after a crash.
				for _, b := range w.m.flights.broken {
					if h := w.m.hosts.table.ByID(b.id); h != nil {
						w.nodes[h.Home].bound = false
					}
				}
				w.restart()
			},
			"": w.check,
		})
		w.failStore, w.failForward = false, false
		w.flush()
		if l := w.leaks(); len(l) > 0 {
			rt.Fatal(l)
		}
	})
}
