package peer

import (
	"net/netip"
	"testing"
	"time"

	"kedge/internal/core"
	"kedge/internal/spec"
	"kedge/wire/mobility"
)

// TestBindingError: data with a Home Address option that is not bound to its source is told to that source (RFC 6275 9.3.3).
func TestBindingError(t *testing.T) {
	r := start(t)
	report := func(reason string, from, home netip.Addr) []core.Send {
		r.handle(core.Reported{Reason: reason, HomeAddress: true, Outer: core.Layer{Local: ap(self), Remote: ap(from)}, Inner: core.Match{Src: single(home), Dst: single(self)}})
		return sends(r.last)
	}
	s := report("wrong-tunnel", coa, hoa)
	if len(s) != 1 {
		t.Fatalf("%+v", r.last)
	}
	be := s[0].Body.(*mobility.BindingError)
	if be.Status != mobility.UnknownBinding || be.Home != hoa || s[0].Path.Remote != ap(coa) || s[0].Path.Local != ap(self) || s[0].Path.Home.IsValid() {
		t.Errorf("%+v by %+v", be, s[0].Path)
	}
	if len(r.m.cache.byKey) != 0 {
		t.Error("a Home Address option changed the cache (RFC 6275 9.1)")
	}
	for name, s := range map[string][]core.Send{
		"another reason":     report("wrong-source", coa, hoa),
		"a source of no use": report("wrong-tunnel", netip.MustParseAddr("fe80::1"), hoa),
		"a multicast source": report("wrong-tunnel", netip.MustParseAddr("ff0e::1"), hoa),
		"an IPv4 address":    report("wrong-tunnel", netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("192.0.2.9")),
		"no home address":    report("wrong-tunnel", coa, netip.Addr{}),
		"an IPv4 one":        report("wrong-tunnel", coa, netip.MustParseAddr("192.0.2.9")),
		"not by an option": func() []core.Send {
			r.handle(core.Reported{Reason: "wrong-tunnel", Outer: core.Layer{Local: ap(self), Remote: ap(coa)}, Inner: core.Match{Src: single(hoa)}})
			return sends(r.last)
		}(),
		"not to one of ours": func() []core.Send {
			r.handle(core.Reported{Reason: "wrong-tunnel", HomeAddress: true, Outer: core.Layer{Local: ap(coa2), Remote: ap(coa)}, Inner: core.Match{Src: single(hoa)}})
			return sends(r.last)
		}(),
	} {
		if len(s) != 0 {
			t.Errorf("%s: %+v", name, s)
		}
	}
	n := 0
	for i := range 10_000 {
		n += len(report("wrong-tunnel", stranger(i), hoa))
	}
	if n > bindingErrorRate {
		t.Errorf("%d Binding Errors at once", n)
	}
	r.pass(time.Second)
	if len(report("wrong-tunnel", coa, hoa)) != 1 {
		t.Error("none a second later")
	}
	spec.Covers(t, "RFC6275-9.3.3")
}

// TestRefreshRequest: a binding that carries packets is asked for at three quarters of its lifetime, and again after 2 and 4 s, at the
// home address; one that carries none ends.
func TestRefreshRequest(t *testing.T) {
	r := start(t)
	n := r.tested(hoa, coa)
	n.lifetime = 25 // 100 s
	r.is(n, mobility.Accepted)
	begin := r.now.Boot
	packets := uint64(3)
	var asked []time.Duration
	gone := time.Duration(0)
	for r.now.Boot < begin+101*time.Second {
		at, ok := r.m.Deadline()
		if !ok {
			break
		}
		r.advance(at)
		out := r.handle(core.Tick{})
		for i := 0; i < len(out); i++ {
			switch e := out[i].(type) {
			case core.Ask:
				if ids := e.Body.(core.CountSessions); len(ids) != 1 || ids[0] != 1 {
					t.Errorf("%+v", e)
				}
				packets += 2
				out = append(out, r.handle(core.Answer{Ref: e.Ref, Body: []core.Counter{{PacketsOut: packets}}})...)
			case core.Send:
				if _, ok := e.Body.(*mobility.BindingRefreshRequest); !ok || e.Path.Remote != ap(hoa) || e.Path.Local != ap(self) || e.Path.Home.IsValid() || e.Path.If != 7 {
					t.Errorf("%+v", e)
				}
				asked = append(asked, r.now.Boot-begin)
			case core.Emit:
				if e.Name == "session" {
					gone = r.now.Boot - begin
				}
			}
		}
	}
	if len(asked) != 3 || asked[0] != 75*time.Second || asked[1] != 77*time.Second || asked[2] != 81*time.Second || gone != 100*time.Second {
		t.Errorf("asked %v, gone %v", asked, gone)
	}

	// A Binding Update ends the asking, and one that carried nothing is not asked for.
	idle := r.tested(farHome, coa)
	idle.lifetime = 25
	r.is(idle, mobility.Accepted)
	for _, e := range r.pass(100 * time.Second) {
		switch e := e.(type) {
		case core.Ask:
			r.handle(core.Answer{Ref: e.Ref, Body: []core.Counter{{PacketsIn: 9}}})
		case core.Send:
			t.Errorf("%+v", e)
		}
	}
	spec.Covers(t, "RFC6275-9.5.5")
}

// TestRoutes: the host's packets of one own address lead to the data plane, others of it do not, and nothing is left behind.
func TestRoutes(t *testing.T) {
	r := start(t)
	set := map[string]core.HostOp{}
	apply := func() {
		t.Helper()
		for _, e := range r.last {
			c, ok := e.(core.Change)
			if !ok {
				continue
			}
			for _, op := range c.Ops {
				k := op.Kind + " " + op.Prefix.String() + " " + op.Value + " " + string(rune('a'+op.Table-r.m.cfg.Table))
				if op.Del {
					if _, there := set[k]; !there {
						t.Errorf("%s is removed, and was never set", k)
					}
					delete(set, k)
					continue
				}
				set[k] = op
			}
		}
	}
	n := r.tested(hoa, coa)
	r.is(n, mobility.Accepted)
	apply()
	if op := set["route "+hoa.String()+"/128  b"]; op.Name != "kedge0" || op.Src != self {
		t.Errorf("%+v", set)
	}
	if _, ok := set["rule "+self.String()+"/128 from priority 10690 b"]; !ok || len(set) != 6 {
		t.Errorf("%d: %+v", len(set), set)
	}
	u := n.update()
	u.Peer = other
	p := n.path()
	p.Local = ap(other)
	r.receive(p, u)
	apply()
	if _, ok := set["rule "+other.String()+"/128 from priority 10690 c"]; !ok || len(set) != 9 {
		t.Errorf("%d: %+v", len(set), set)
	}
	n.seq, n.lifetime = 8, 0
	r.is(n, mobility.Accepted)
	apply()
	// Sockets without an address get the same route, and no copy of it: Packet Too Big is told to one.
	if _, ok := set["rule ::/0 from priority 10692 c"]; !ok || set["route "+hoa.String()+"/128  c"].Src != other || len(set) != 6 {
		t.Errorf("%d: %+v", len(set), set)
	}
	r.last = r.pass(time.Hour)
	apply()
	if len(set) != 0 {
		t.Errorf("left: %+v", set)
	}
}

// TestCommands: what kedge status and kedge bindings show.
func TestCommands(t *testing.T) {
	r := start(t)
	n := r.tested(hoa, coa)
	r.is(n, mobility.Accepted)
	r.pass(10 * time.Second)
	ask := func(body any) any {
		r.handle(core.Command{Ref: 5, Body: body})
		for _, e := range r.last {
			if reply, ok := e.(core.Reply); ok && reply.Ref == 5 && reply.Err == nil {
				return reply.Body
			}
		}
		t.Fatalf("%T: %+v", body, r.last)
		return nil
	}
	list := ask(core.GetBindings{}).([]core.Binding)
	if len(list) != 1 || list[0].CareOf != coa || list[0].Home[0] != single(hoa) || list[0].Kind != "host" || list[0].State != "active" ||
		list[0].Lifetime != 120*time.Second || list[0].Expires != r.now.Wall.Add(110*time.Second) || list[0].Protection != "return-routability" {
		t.Errorf("%+v", list)
	}
	if l := ask(core.GetBindings{Filter: "3000"}).([]core.Binding); len(l) != 0 {
		t.Errorf("%+v", l)
	}
	if s := ask(core.GetStatus{}).(core.Status); s.Role != "peer" || s.Sessions["active"] != 1 {
		t.Errorf("%+v", s)
	}
	if x := ask(core.Explain{ID: hoa.String()}).(core.Explanation); len(x.Bindings) != 1 || len(x.History) != 1 || x.History[0].What != "new" {
		t.Errorf("%+v", x)
	}
	for _, bad := range []any{core.Explain{ID: "alice"}, core.Roam{}, nil} {
		r.handle(core.Command{Ref: 6, Body: bad})
		if reply := r.last[0].(core.Reply); reply.Err == nil {
			t.Errorf("%T is answered with %+v", bad, reply)
		}
	}
	r.pass(time.Hour)
	for i := range 3 * historySize {
		r.m.past.add(core.Past{What: "x"}, stranger(i))
	}
	if len(r.m.past.ring) != historySize {
		t.Error(len(r.m.past.ring))
	}
}
