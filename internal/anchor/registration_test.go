package anchor

import (
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"kedge/internal/core"
	"kedge/internal/spec"
	"kedge/wire/mobility"
)

const h1 = "h1@example.net"

// TestInitialRegistration is RFC 5213 5.3.2 and RFC 5844 3.1.2.2: entry, forwarding, answer.
func TestInitialRegistration(t *testing.T) {
	spec.Covers(t, "S001-3.3.1-01", "S001-3.3.1-04", "S001-3.3.2-07", "S001-3.3.2-10", "S001-3.3.2-14", "S001-3.2.2-05", "S001-3.2.2-08", "S001-3.1-18", "S001-3.3.2-22", "S001-3.3.2-29")
	r := start(t)
	p := attach(mag1, h1, mac1)
	p.seq = 4711
	a := r.ok(p)
	if got := r.sent[len(r.sent)-1].Path; got != path(lmaa, mag1) { // mirrored, no type 2 routing header
		t.Errorf("answered on %+v", got)
	}
	hnp, hoa := pfx("2001:db8:1000::/64"), ip("10.20.0.8")
	if got := prefixes(a); len(got) != 1 || got[0] != hnp {
		t.Errorf("prefixes %v, want %v", got, hnp)
	}
	if v, _ := a.Options.IPv4HomeAddressReply(); v != (mobility.IPv4HomeAddressReply{PrefixLen: 16, Addr: hoa}) {
		t.Errorf("option 37 %+v", v)
	}
	if v, _ := a.Options.IPv4DefaultRouter(); v.Addr != ip("10.20.0.1") {
		t.Errorf("option 38 %+v", v)
	}
	if v, _ := a.Options.IPv4DHCPSupportMode(); !v.Server {
		t.Errorf("option 39 %+v", v)
	}
	if a.Sequence != 4711 || a.Lifetime != 75 {
		t.Errorf("sequence %d lifetime %d", a.Sequence, a.Lifetime)
	}
	want := core.Binding{
		ID: h1, State: "active", Families: []string{"v4", "v6"}, Prefixes: []netip.Prefix{hnp}, IPv4: pfx("10.20.0.8/16"),
		Router4: ip("10.20.0.1"), ProxyCoA: mag1, Gateway: "mag1", Anchor: lmaa, Dialect: "rfc5844", ATT: 3, LinkLayer: "02:00:00:00:00:0a",
		Lifetime: 300 * time.Second, Expires: r.now.Wall.Add(300 * time.Second), Since: r.now.Wall, Sequence: 4711,
		Protection: "none", Kind: "proxy", Home: []netip.Prefix{hnp, pfx("10.20.0.8/32")}, CareOf: mag1, Framing: "ip",
	}
	got := r.one(h1)
	id := got.Session
	got.Session = 0
	if d := cmp.Diff(want, got, cmp.Comparer(func(a, b netip.Addr) bool { return a == b }), cmp.Comparer(func(a, b netip.Prefix) bool { return a == b })); d != "" {
		t.Errorf("binding (-want +got):\n%s", d)
	}
	set := core.SetSession{ID: id, Chain: core.Chain{N: 1, Layer: [2]core.Layer{{Local: netip.AddrPortFrom(lmaa, 0), Remote: netip.AddrPortFrom(mag1, 0)}}}}
	if r.tuns[id] != set {
		t.Errorf("tunnel %+v\nwant %+v", r.tuns[id], set)
	}
	for _, k := range []netip.Prefix{hnp, pfx("10.20.0.8/32")} {
		if want := (core.SetKey{Match: core.Match{Dst: k}, ID: id, Up: true, Down: true}); r.keys[k] != want {
			t.Errorf("key %+v\nwant %+v", r.keys[k], want)
		}
	}
	r.leakless()
}

// TestFamilies registers each family alone and both; none needs the other.
func TestFamilies(t *testing.T) {
	spec.Covers(t, "S001-1-02", "S001-3-05", "S001-3.3.2-02", "S001-3.3.2-03")
	for _, draft := range []bool{false, true} {
		r := start(t)
		v4, v6, both := attach(mag1, "v4only@example.net", mac1), attach(mag1, "v6only@example.net", mac1), attach(mag1, "both@example.net", mac1)
		if draft {
			v4.v4, both.v4 = draft29("0.0.0.0", 0), draft29("0.0.0.0", 0)
			v4.without = []mobility.OptionType{mobility.OptHandoffIndicator} // figure 4 has none
		}
		v4.hnp, v6.v4 = nil, nil
		a := r.ok(v4)
		if len(prefixes(a)) != 0 || r.delivered(v4of(t, a)) != mag1 {
			t.Errorf("IPv4 only: prefixes %v", prefixes(a))
		}
		a = r.ok(v6)
		if _, there := v4Status(a); there || len(prefixes(a)) != 1 {
			t.Errorf("IPv6 only: option 37 or 30 %v, prefixes %v", there, prefixes(a))
		}
		a = r.ok(both)
		if len(prefixes(a)) != 1 || !v4of(t, a).IsValid() {
			t.Errorf("both: prefixes %v", prefixes(a))
		}
		if n := len(r.bindings("both@example.net")); n != 1 {
			t.Errorf("%d entries for both families, want one (RFC 5844 3.1.2.2)", n)
		}
		r.leakless()
	}
}

// TestRefresh is the extension without handoff, RFC 5213 5.3.3: same addresses, new lifetime, no forwarding touched.
func TestRefresh(t *testing.T) {
	spec.Covers(t, "S001-3.3.2-08", "S001-3.3.2-32")
	r := start(t)
	first := r.ok(attach(mag1, h1, mac1))
	before := r.one(h1)
	r.pass(100 * time.Second)
	p := attach(mag1, h1, mac1)
	p.hi, p.hnp, p.v4 = mobility.HandoffReRegistration, prefixes(first), []mobility.Value{mobility.IPv4HomeAddressRequest{PrefixLen: 32, Addr: v4of(t, first)}}
	p.lifetime = 10
	n := len(r.emits)
	a := r.ok(p)
	if !slices.Equal(prefixes(a), prefixes(first)) || v4of(t, a) != v4of(t, first) || a.Lifetime != 10 {
		t.Errorf("answer has %v %v lifetime %d", prefixes(a), v4of(t, a), a.Lifetime)
	}
	after := r.one(h1)
	if after.Session != before.Session || !after.Expires.Equal(r.now.Wall.Add(40*time.Second)) {
		t.Errorf("session %d -> %d, expires %v", before.Session, after.Session, after.Expires)
	}
	if len(r.emits) != n {
		t.Errorf("a refresh is no change of state: %v", r.emits[n:])
	}
	r.pass(40*time.Second - 1)
	if len(r.bindings(h1)) != 1 {
		t.Fatal("the session ended before its lifetime")
	}
	r.pass(1)
	if len(r.bindings(h1)) != 0 {
		t.Fatal("the session outlives its lifetime")
	}
	r.leakless()
}

// TestLifetime is capped and never longer than asked for.
func TestLifetime(t *testing.T) {
	spec.Covers(t, "S001-3.3.2-34")
	r := start(t, func(c *Config) { c.Timers.LifetimeMax = 200 * time.Second })
	for asked, want := range map[uint16]uint16{1: 1, 50: 50, 51: 50, 65535: 50} {
		p := attach(mag1, h1, mac1)
		p.lifetime = asked
		p.seq = 40000 + want + asked%7
		a := r.ok(p)
		if a.Lifetime != want {
			t.Errorf("asked %d, granted %d, want %d", asked, a.Lifetime, want)
		}
		if a.Sequence != p.seq { // and the harness reads every answer off the wire: padding, checksum
			t.Errorf("sequence %d, want %d", a.Sequence, p.seq)
		}
	}
}

// TestHandoff is RFC 5213 5.3.4 and RFC 5844 3.1.2.4: the addresses stay, one operation moves the session, and the former
// tunnel is let in for the grace.
func TestHandoff(t *testing.T) {
	spec.Covers(t, "S001-3.3.2-05", "S001-3.3.2-09", "S001-3.3.2-17")
	for name, ask := range map[string]func(*pbu, *mobility.BindingAck){
		"unknown gateway state, same interface": func(p *pbu, _ *mobility.BindingAck) { p.hi = mobility.HandoffUnknown },
		"context of the former gateway": func(p *pbu, a *mobility.BindingAck) {
			p.hi, p.hnp = mobility.HandoffGateways, prefixes(a)
		},
		"alternate care-of address": func(p *pbu, _ *mobility.BindingAck) {
			p.more = []mobility.Value{mobility.AlternateCareOf{Addr: mag2}}
		},
	} {
		t.Run(name, func(t *testing.T) {
			r := start(t)
			first := r.ok(attach(mag1, h1, mac1))
			hoa := v4of(t, first)
			if got := r.delivered(hoa); got != mag1 {
				t.Fatalf("delivered to %v", got)
			}
			p, n := attach(mag2, h1, mac1), len(r.emits)
			ask(&p, first)
			a := r.ok(p)
			if v4of(t, a) != hoa || !slices.Equal(prefixes(a), prefixes(first)) {
				t.Errorf("the addresses changed: %v %v", v4of(t, a), prefixes(a))
			}
			if got := r.delivered(hoa); got != mag2 {
				t.Errorf("delivered to %v, want mag2", got)
			}
			b := r.one(h1)
			if b.ProxyCoA != mag2 || b.Gateway != "mag2" {
				t.Errorf("binding at %v %s", b.ProxyCoA, b.Gateway)
			}
			if g := r.tuns[b.Session].Grace; g != 500*time.Millisecond {
				t.Errorf("grace %v", g)
			}
			if ev := r.events(n); !slices.Equal(ev, []string{"active -> active handoff"}) {
				t.Errorf("events %v", ev)
			}
			r.leakless()
		})
	}
}

// TestSupersededRefresh: a gateway that another one has relieved cannot take the session back by a refresh that comes
// late, only by saying that it has the host.
func TestSupersededRefresh(t *testing.T) {
	r := start(t)
	first := r.ok(attach(mag1, h1, mac1))
	hoa := v4of(t, first)
	r.ok(attach(mag2, h1, mac1))
	p := attach(mag1, h1, mac1)
	p.hi, p.hnp = mobility.HandoffReRegistration, prefixes(first)
	a := r.is(p, mobility.TimestampLowerThanPrevious)
	if ts, ok := a.Options.Timestamp(); !ok || ts.Value != mobility.TimestampOf(r.now.Wall).Value {
		t.Errorf("timestamp %v: the gateway would think its clock wrong", ts)
	}
	if got := r.delivered(hoa); got != mag2 {
		t.Errorf("delivered to %v, want mag2", got)
	}
	p.hi = mobility.HandoffUnknown
	r.ok(p)
	if got := r.delivered(hoa); got != mag1 {
		t.Errorf("delivered to %v, want mag1", got)
	}
	p.hi = mobility.HandoffReRegistration
	r.ok(p)
	r.leakless()
}

// TestHandoffReleasesFamily: a new gateway that asks for one family only takes the other away (RFC 5844 3.1.2.4), the
// same gateway does not.
func TestHandoffReleasesFamily(t *testing.T) {
	r := start(t)
	first := r.ok(attach(mag1, h1, mac1))
	hnp, hoa := prefixes(first)[0], v4of(t, first)
	p := attach(mag1, h1, mac1)
	p.hnp = nil
	r.ok(p)
	if b := r.one(h1); len(b.Prefixes) != 1 {
		t.Error("a refresh of IPv4 took the prefix")
	}
	p = attach(mag2, h1, mac1)
	p.hnp = nil
	a := r.ok(p)
	if len(prefixes(a)) != 0 || v4of(t, a) != hoa {
		t.Errorf("answer %v %v", prefixes(a), v4of(t, a))
	}
	if b := r.one(h1); len(b.Prefixes) != 0 {
		t.Errorf("prefixes %v are kept", b.Prefixes)
	}
	if got := r.delivered(hnp.Addr()); got.IsValid() {
		t.Errorf("the released prefix is delivered to %v", got)
	}
	// It rests: nobody else gets it, the host gets it back.
	other := attach(mag1, "h2@example.net", mac2)
	other.hnp = []netip.Prefix{hnp}
	r.is(other, mobility.NotAuthorizedForHNP)
	p = attach(mag1, h1, mac1)
	p.v4 = nil
	if got := prefixes(r.ok(p)); len(got) != 1 {
		t.Errorf("prefixes %v", got)
	}
	if got := r.delivered(hoa); got.IsValid() {
		t.Errorf("the released address is delivered to %v", got)
	}
	r.leakless()
}

// TestExtendFamily adds IPv4 to an IPv6 session and the other way round, RFC 5844 3.1.2.1.
func TestExtendFamily(t *testing.T) {
	r := start(t)
	v6 := attach(mag1, h1, mac1)
	v6.v4 = nil
	first := r.ok(v6)
	id := r.one(h1).Session
	a := r.ok(attach(mag1, h1, mac1))
	if !slices.Equal(prefixes(a), prefixes(first)) || !v4of(t, a).IsValid() {
		t.Errorf("answer %v %v", prefixes(a), v4of(t, a))
	}
	if b := r.one(h1); b.Session != id || !b.IPv4.IsValid() {
		t.Errorf("binding %+v", b)
	}
	if r.delivered(v4of(t, a)) != mag1 {
		t.Error("the added address is not delivered")
	}
	r.leakless()
}

// TestDeregistration is RFC 5213 5.3.5 with exact times: dropped silently for MinDelayBeforeBCEDelete, then gone.
func TestDeregistration(t *testing.T) {
	spec.Covers(t, "S001-3.3.2-32")
	r := start(t)
	first := r.ok(attach(mag1, h1, mac1))
	hoa, hnp := v4of(t, first), prefixes(first)
	p := attach(mag1, h1, mac1)
	p.lifetime, p.hnp, p.v4 = 0, hnp, []mobility.Value{mobility.IPv4HomeAddressRequest{PrefixLen: 32, Addr: hoa}}
	n := len(r.emits)
	a := r.ok(p)
	told := func(a *mobility.BindingAck) {
		t.Helper()
		v, _ := a.Options.IPv4HomeAddressReply()
		router, _ := a.Options.IPv4DefaultRouter()
		if a.Lifetime != 0 || v != (mobility.IPv4HomeAddressReply{PrefixLen: 16, Addr: hoa}) || router.Addr != ip("10.20.0.1") || !slices.Equal(prefixes(a), hnp) {
			t.Errorf("answer: lifetime %d, %+v, router %v, %v", a.Lifetime, v, router.Addr, prefixes(a))
		}
	}
	told(a)
	if r.one(h1).State != "deprecated" || !r.delivered(hoa).IsUnspecified() {
		t.Errorf("state %s, delivered to %v, want a silent drop", r.one(h1).State, r.delivered(hoa))
	}
	if at, _ := r.m.Deadline(); at != r.now.Boot+10*time.Second {
		t.Errorf("deadline in %v", at-r.now.Boot)
	}
	r.pass(4 * time.Second)
	told(r.ok(p)) // its answer was lost: the same again
	p.hnp, p.v4 = []netip.Prefix{zeroHNP}, []mobility.Value{zeroV4}
	told(r.ok(p)) // whatever the gateway knows
	r.pass(6*time.Second - 2*time.Millisecond - 1)
	if len(r.bindings(h1)) != 1 {
		t.Fatal("deleted early")
	}
	r.pass(1)
	if len(r.bindings(h1)) != 0 || r.delivered(hoa).IsValid() {
		t.Fatal("not deleted after MinDelayBeforeBCEDelete")
	}
	want := []string{"active -> deprecated deregistered", "deprecated -> none delay-over"}
	if ev := r.events(n); !slices.Equal(ev, want) {
		t.Errorf("events %v", ev)
	}
	r.leakless()
}

// TestReturn: a registration within MinDelayBeforeBCEDelete ends the wait, from either gateway, whatever it knows.
func TestReturn(t *testing.T) {
	for _, gw := range []netip.Addr{mag1, mag2} {
		for _, ll := range [][]byte{mac1, mac2} { // another interface: HI 4 and one session, which is deregistered
			r := start(t)
			first := r.ok(attach(mag1, h1, mac1))
			p := attach(mag1, h1, mac1)
			p.lifetime = 0
			r.ok(p)
			r.pass(9 * time.Second)
			n := len(r.emits)
			a := r.ok(attach(gw, h1, ll))
			if v4of(t, a) != v4of(t, first) || !slices.Equal(prefixes(a), prefixes(first)) {
				t.Error("the addresses changed")
			}
			if got := r.delivered(v4of(t, a)); got != gw {
				t.Errorf("delivered to %v, want %v", got, gw)
			}
			if ev := r.events(n); !slices.Equal(ev, []string{"deprecated -> active returned"}) {
				t.Errorf("events %v", ev)
			}
			r.pass(20 * time.Second)
			if r.one(h1).State != "active" {
				t.Error("the wait was not ended")
			}
			r.leakless()
		}
	}
}

// TestSelectiveDeregistration takes one family away and leaves the other alone, RFC 5844 3.1.2.5.
func TestSelectiveDeregistration(t *testing.T) {
	r := start(t)
	first := r.ok(attach(mag1, h1, mac1))
	hoa, hnp := v4of(t, first), prefixes(first)[0]
	p := attach(mag1, h1, mac1)
	p.lifetime, p.hnp = 0, nil
	n := len(r.emits)
	a := r.ok(p)
	if v4of(t, a) != hoa || a.Lifetime != 0 || len(prefixes(a)) != 0 {
		t.Errorf("answer %v %d %v", v4of(t, a), a.Lifetime, prefixes(a))
	}
	b := r.one(h1)
	if b.State != "active" || b.IPv4.IsValid() || len(b.Prefixes) != 1 || b.Router4.IsValid() {
		t.Errorf("binding %+v", b)
	}
	if r.delivered(hoa).IsValid() || r.delivered(hnp.Addr()) != mag1 {
		t.Errorf("delivered: %v %v", r.delivered(hoa), r.delivered(hnp.Addr()))
	}
	if ev := r.events(n); !slices.Equal(ev, []string{"active -> active partly-deregistered"}) {
		t.Errorf("events %v", ev)
	}
	r.ok(p) // repeated: nothing more happens
	if b := r.one(h1); len(b.Prefixes) != 1 || b.State != "active" {
		t.Errorf("repeated: %+v", b)
	}
	p.hnp, p.v4 = []netip.Prefix{hnp}, nil
	r.ok(p)
	if b := r.one(h1); b.State != "deprecated" {
		t.Errorf("the last family: %+v", b)
	}
	r.leakless()
}

// TestUnknownHandoff is MaxDelayBeforeNewBCEAssign of RFC 5213 5.4.1.2 (4): the request waits for the deregistration of
// the former gateway, and becomes a new session when none comes.
func TestUnknownHandoff(t *testing.T) {
	t.Run("deregistered in time", func(t *testing.T) {
		r := start(t, func(c *Config) { c.PMIP6.NoRevocation = true })
		first := r.ok(attach(mag1, h1, mac1))
		p := attach(mag2, h1, mac2)
		n, sent := len(r.emits), len(r.sent)
		r.silent(p)
		if at, _ := r.m.Deadline(); at != r.now.Boot+1500*time.Millisecond {
			t.Errorf("deadline in %v", at-r.now.Boot)
		}
		r.pass(1400 * time.Millisecond)
		d := attach(mag1, h1, mac1)
		d.lifetime = 0
		r.ok(d)
		a := r.answerTo(sent, mag2)
		if a == nil || a.Status != 0 || v4of(t, a) != v4of(t, first) || !slices.Equal(prefixes(a), prefixes(first)) {
			t.Fatalf("answer %v", a)
		}
		want := []string{"none -> pending waits", "active -> deprecated deregistered", "pending -> none deregistered", "deprecated -> active returned"}
		if ev := r.events(n); !slices.Equal(ev, want) {
			t.Errorf("events %v", ev)
		}
		if b := r.one(h1); b.ProxyCoA != mag2 || b.LinkLayer != "02:00:00:00:00:0b" {
			t.Errorf("binding %+v", b)
		}
		r.leakless()
	})
	t.Run("never deregistered", func(t *testing.T) {
		r := start(t)
		first := r.ok(attach(mag1, h1, mac1))
		sent := len(r.sent)
		r.silent(attach(mag2, h1, mac2))
		r.pass(time.Second)
		r.silent(attach(mag2, h1, mac2)) // retransmitted: waits no longer than the first
		if n := len(r.m.waiting.byKey); n != 1 {
			t.Errorf("%d requests wait, want one", n)
		}
		r.pass(500*time.Millisecond - time.Millisecond - 1)
		if a := r.answerTo(sent, mag2); a != nil {
			t.Fatal("answered early")
		}
		r.pass(1)
		a := r.answerTo(sent, mag2)
		if a == nil || a.Status != 0 {
			t.Fatalf("answer %v; %v", a, r.tail())
		}
		if v4of(t, a) == v4of(t, first) || slices.Equal(prefixes(a), prefixes(first)) {
			t.Error("two sessions with one address")
		}
		if a.Sequence != r.seq {
			t.Errorf("sequence %d, want the newer request's %d", a.Sequence, r.seq)
		}
		if n := len(r.bindings(h1)); n != 2 {
			t.Errorf("%d sessions", n)
		}
		r.leakless()
	})
	t.Run("expired meanwhile", func(t *testing.T) {
		r := start(t)
		p := attach(mag1, h1, mac1)
		p.lifetime = 1
		r.ok(p)
		r.pass(3500 * time.Millisecond)
		sent := len(r.sent)
		r.silent(attach(mag2, h1, mac2))
		r.pass(499*time.Millisecond - 1)
		if a := r.answerTo(sent, mag2); a != nil {
			t.Fatal("answered early")
		}
		r.pass(1)
		if a := r.answerTo(sent, mag2); a == nil || a.Status != 0 {
			t.Fatalf("answer %v", a)
		}
		r.leakless()
	})
	t.Run("without waiting", func(t *testing.T) {
		r := start(t, func(c *Config) { c.Timers.MaxDelayBeforeNewBCEAssign = -1 })
		r.ok(attach(mag1, h1, mac1))
		r.ok(attach(mag2, h1, mac2))
		if n := len(r.bindings(h1)); n != 2 {
			t.Errorf("%d sessions", n)
		}
	})
	t.Run("a decided request replaces it", func(t *testing.T) {
		r := start(t)
		r.ok(attach(mag1, h1, mac1))
		sent := len(r.sent)
		r.silent(attach(mag2, h1, mac2))
		p := attach(mag2, h1, mac2)
		p.hi = mobility.HandoffInterfaces
		r.ok(p)
		r.pass(2 * time.Second)
		n := 0
		for _, s := range r.sent[sent:] {
			if _, ok := s.Body.(*mobility.BindingAck); ok {
				n++
			}
		}
		if n != 1 || len(r.bindings(h1)) != 1 {
			t.Errorf("%d answers, %d sessions, want one of each", n, len(r.bindings(h1)))
		}
		r.leakless()
	})
}

// TestSeveralInterfaces: one session each, with addresses of different IPv4 home networks; one ends without the other.
func TestSeveralInterfaces(t *testing.T) {
	spec.Covers(t, "S001-3-03", "S001-3-04", "S001-3.3.2-06")
	r := start(t)
	p := attach(mag1, h1, mac1)
	p.hi = mobility.HandoffNewInterface
	q := attach(mag2, h1, mac2)
	q.hi, q.att = mobility.HandoffNewInterface, mobility.AccessWLAN
	a, b := r.ok(p), r.ok(q)
	if x, y := v4of(t, a), v4of(t, b); !pfx("10.20.0.0/16").Contains(x) || !pfx("10.30.0.0/24").Contains(y) {
		t.Errorf("addresses %v and %v, want one of each home network", x, y)
	}
	if prefixes(a)[0] == prefixes(b)[0] {
		t.Error("one prefix for both interfaces")
	}
	third := attach(mag2, h1, []byte{2, 0, 0, 0, 0, 0xc})
	third.hi = mobility.HandoffNewInterface
	r.is(third, mobility.InsufficientResources) // no third home network
	q.lifetime = 0
	r.ok(q)
	r.pass(11 * time.Second)
	if bs := r.bindings(h1); len(bs) != 1 || r.delivered(v4of(t, a)) != mag1 {
		t.Errorf("after one interface left: %v", bs)
	}
	r.leakless()
}

// TestInterfaceHandoff moves a session to another interface of another technology: handoff indicator 2.
func TestInterfaceHandoff(t *testing.T) {
	r := start(t)
	first := r.ok(attach(mag1, h1, mac1))
	p := attach(mag2, h1, mac2)
	p.hi, p.att = mobility.HandoffInterfaces, mobility.AccessWLAN
	a := r.ok(p)
	if v4of(t, a) != v4of(t, first) || !slices.Equal(prefixes(a), prefixes(first)) {
		t.Error("the addresses changed")
	}
	if b := r.one(h1); b.ATT != mobility.AccessWLAN || b.LinkLayer != "02:00:00:00:00:0b" {
		t.Errorf("binding %+v", b)
	}
	r.leakless()
}

// TestIPv4Key finds a session by its IPv4 home address, RFC 5844 3.1.2.7 and the draft's 3.3.2.
func TestIPv4Key(t *testing.T) {
	spec.Covers(t, "S001-3.3.2-18", "S001-3.3.2-19", "S001-3.3.2-20")
	for _, draft := range []bool{false, true} {
		opt := func(a netip.Addr) []mobility.Value {
			if draft {
				return []mobility.Value{mobility.IPv4HomeAddress{PrefixLen: 32, Addr: a}}
			}
			return []mobility.Value{mobility.IPv4HomeAddressRequest{PrefixLen: 32, Addr: a}}
		}
		zero := opt(netip.IPv4Unspecified())
		r := start(t)
		p := attach(mag1, h1, mac1)
		p.hnp, p.v4 = nil, zero
		hoa := v4of(t, r.ok(p))
		// Handover with the address alone.
		p = attach(mag2, h1, mac1)
		p.hnp, p.v4, p.hi = nil, opt(hoa), mobility.HandoffGateways
		if got := v4of(t, r.ok(p)); got != hoa || r.one(h1).ProxyCoA != mag2 {
			t.Errorf("draft %v: %v at %v", draft, got, r.one(h1).ProxyCoA)
		}
		// The prefix finds it too, with 0.0.0.0 beside it.
		d := attach(mag1, "dual@example.net", mac1)
		d.v4 = zero
		first := r.ok(d)
		d = attach(mag2, "dual@example.net", mac1)
		d.hnp, d.v4 = prefixes(first), zero
		if got := v4of(t, r.ok(d)); got != v4of(t, first) {
			t.Errorf("draft %v: the prefix found %v", draft, got)
		}
		// Another mobile node's address is not updated.
		p = attach(mag1, "h2@example.net", mac1)
		p.hnp, p.v4, p.hi = nil, opt(hoa), mobility.HandoffInterfaces // enough, were it his
		want := mobility.NotAuthorizedForIPv4HoA
		if draft {
			want = mobility.AdministrativelyProhibited
		}
		a := r.is(p, want)
		if st, _ := v4Status(a); draft && st != mobility.AddressIncorrect || !draft && st != mobility.AddressProhibited {
			t.Errorf("draft %v: option status %d", draft, st)
		}
		if r.one(h1).ProxyCoA != mag2 {
			t.Error("the session moved")
		}
		r.leakless()
	}
}

// TestLinkLocal is option 26, RFC 5213 5.3.6.
func TestLinkLocal(t *testing.T) {
	r := start(t)
	ask := func(from netip.Addr, ll string) netip.Addr {
		p := attach(from, h1, mac1)
		p.more = []mobility.Value{mobility.LinkLocalAddress{Addr: ip(ll)}}
		v, ok := r.ok(p).Options.LinkLocalAddress()
		if !ok {
			t.Fatal("no option 26 in the answer")
		}
		return v.Addr
	}
	if r.ok(attach(mag1, h1, mac1)).Options.Has(mobility.OptLinkLocalAddress) {
		t.Error("option 26 though nobody asked")
	}
	if got := ask(mag1, "::"); got != ip("fe80::200:5eff:fe00:5213") {
		t.Errorf("generated %v, want RFC 6543's", got)
	}
	if got := ask(mag2, "fe80::77"); got != ip("fe80::77") {
		t.Errorf("got %v, want the request's", got)
	}
	if got := ask(mag1, "::"); got != ip("fe80::77") {
		t.Errorf("got %v, want the session's", got)
	}
	p := attach(mag1, "v4@example.net", mac1)
	p.more = []mobility.Value{mobility.LinkLocalAddress{Addr: ip("fe80::9")}}
	if v, ok := r.is(p, 172).Options.LinkLocalAddress(); !ok || v.Addr != ip("fe80::9") {
		t.Error("a refusal must copy option 26")
	}
}
