package anchor

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"testing"
	"time"

	"kedge/internal/anchor/revocation"
	"kedge/internal/core"
	"kedge/internal/heartbeat"
	"kedge/internal/spec"
	"kedge/wire"
	"kedge/wire/mobility"
)

// bris are the indications sent since n, by way of the codec.
func (r *rig) bris(n int) (out []core.Send) {
	r.t.Helper()
	for _, s := range r.sent[n:] {
		if m, ok := s.Body.(*mobility.Revocation); ok && !m.Ack {
			s.Body = r.wire(m, s.Path.Local.Addr(), s.Path.Remote.Addr())
			out = append(out, s)
		}
	}
	return out
}

// bri wants exactly one since n, to a gateway.
func (r *rig) bri(n int, to netip.Addr) *mobility.Revocation {
	r.t.Helper()
	bs := r.bris(n)
	if len(bs) != 1 || bs[0].Path.Remote.Addr() != to || bs[0].Path.Local.Addr() != lmaa {
		r.t.Fatalf("indications %+v, want one to %v", bs, to)
	}
	return bs[0].Body.(*mobility.Revocation)
}

func (r *rig) wire(m mobility.Message, from, to netip.Addr) mobility.Message {
	r.t.Helper()
	b, err := mobility.Append(nil, m, from, to)
	if err != nil {
		r.t.Fatal(err)
	}
	back, err := mobility.Parse(b, from, to)
	if err != nil {
		r.t.Fatal(err)
	}
	return back
}

// hear gives the machine a message of the core network.
func (r *rig) hear(from netip.Addr, m mobility.Message) {
	r.t.Helper()
	r.handle(core.Message{Path: path(lmaa, from), Body: r.wire(m, from, lmaa)})
}

func bra(b *mobility.Revocation, status uint8) *mobility.Revocation {
	a := &mobility.Revocation{Ack: true, Code: status, Sequence: b.Sequence, Proxy: b.Proxy, IPv4Only: b.IPv4Only}
	if id, ok := b.Options.MobileNodeID(); ok {
		a.Options = a.Options.Add(id)
	}
	return a
}

// last is the end of the newest revocation that was told.
func (r *rig) last() (to, why string) {
	for _, e := range slices.Backward(r.emits) {
		if e.Name == "revocation" {
			return e.To, e.Why
		}
	}
	return "", ""
}

// TestRevocation: a handover tells the former gateway which registration is over, once, behind the answer to the new one.
func TestRevocation(t *testing.T) {
	spec.Covers(t, "RFC5846-3.4.1", "RFC5846-8.1", "RFC5846-5.1")
	for name, c := range map[string]struct {
		change  func(first, second *pbu)
		trigger uint8
		v       bool
		v4      mobility.OptionType
	}{
		"dual stack":          {func(_, _ *pbu) {}, mobility.TriggerHandoverSameType, false, 0},
		"another access type": {func(_, s *pbu) { s.att, s.hi = mobility.AccessWLAN, mobility.HandoffInterfaces }, mobility.TriggerHandoverOtherType, false, 0},
		"IPv6 only":           {func(f, s *pbu) { f.v4, s.v4 = nil, nil }, mobility.TriggerHandoverSameType, false, 0},
		"IPv4 only":           {func(f, s *pbu) { f.hnp, s.hnp = nil, nil }, mobility.TriggerHandoverSameType, true, mobility.OptIPv4HomeAddressRequest},
		"IPv4 only, draft": {func(f, s *pbu) {
			f.hnp, s.hnp = nil, nil
			f.v4 = []mobility.Value{mobility.IPv4HomeAddress{Addr: ip("0.0.0.0")}}
		}, mobility.TriggerHandoverSameType, true, mobility.OptIPv4HomeAddress},
		"another interface":   {func(_, s *pbu) { s.ll, s.hi = mac2, mobility.HandoffInterfaces }, mobility.TriggerHandoverSameType, false, 0},
		"IPv6 is given up":    {func(_, s *pbu) { s.hnp = nil }, mobility.TriggerHandoverSameType, false, 0},
		"three prefixes":      {func(f, s *pbu) { f.id, s.id = "three@example.net", "three@example.net" }, mobility.TriggerHandoverSameType, false, 0},
		"ordered by sequence": {func(f, s *pbu) { f.noTS, s.noTS = true, true }, mobility.TriggerHandoverSameType, false, 0},
	} {
		t.Run(name, func(t *testing.T) {
			r := start(t)
			first, second := attach(mag1, h1, mac1), attach(mag2, h1, mac1)
			c.change(&first, &second)
			r.pass(time.Millisecond)
			stamp := mobility.TimestampOf(r.now.Wall)
			a := r.sendNow(first)
			if a == nil || a.Status != 0 {
				t.Fatalf("answer %+v", a)
			}
			n := len(r.sent)
			r.ok(second)
			b := r.bri(n, mag1)
			if _, isAck := r.sent[n].Body.(*mobility.BindingAck); !isAck {
				t.Error("the new gateway waits for the former one to be told")
			}
			id, _ := b.Options.MobileNodeID()
			ll, _ := b.Options.LinkLayerID()
			ts, stamped := b.Options.Timestamp()
			if b.Ack || b.Code != c.trigger || !b.Proxy || b.Global || b.IPv4Only != c.v || id.ID != first.id || !slices.Equal(ll.ID, mac1) {
				t.Errorf("%+v of %q, %x", b, id.ID, ll.ID)
			}
			if stamped == first.noTS || stamped && ts != stamp {
				t.Errorf("timestamp %v %v, want %v", ts, stamped, stamp)
			}
			if got := slices.Collect(b.Options.HomeNetworkPrefixes()); !slices.Equal(got, prefixes(a)) {
				t.Errorf("prefixes %v, want %v", got, prefixes(a))
			}
			for _, o := range []mobility.OptionType{mobility.OptIPv4HomeAddressRequest, mobility.OptIPv4HomeAddress} {
				if b.Options.Has(o) != (o == c.v4) {
					t.Errorf("option %d: %v", o, b.Options.Has(o))
				}
			}
			if v, ok := b.Options.IPv4HomeAddressRequest(); ok && v.Addr != v4of(t, a) {
				t.Errorf("address %v", v)
			}
			if v, ok := b.Options.IPv4HomeAddress(); ok && v.Addr != v4of(t, a) {
				t.Errorf("address %v", v)
			}
			r.hear(mag1, bra(b, 0))
			if to, _ := r.last(); to != "done" {
				t.Errorf("told as %q", to)
			}
			r.pass(10 * time.Second)
			if len(r.bris(n)) != 1 {
				t.Error("sent again after the answer")
			}
			r.leakless()
		})
	}
}

// TestNoRevocation: who need not be told, is not.
func TestNoRevocation(t *testing.T) {
	r := start(t)
	n := len(r.sent)
	r.ok(attach(mag1, h1, mac1))
	r.ok(attach(mag1, h1, mac1)) // refresh
	p := attach(mag1, h1, mac1)
	p.att, p.hi = mobility.AccessWLAN, mobility.HandoffInterfaces
	r.ok(p)
	p.att = mobility.AccessEthernet
	r.ok(p)
	p.att, p.hi = mobility.AccessWLAN, mobility.HandoffUnknown
	r.silent(p) // waits for itself
	d := attach(mag1, h1, mac1)
	d.lifetime = 0
	r.ok(d)
	r.ok(attach(mag2, h1, mac1)) // the former gateway deregistered it
	r.silent(d)                  // late
	r.is(attach(mag3, h1, mac1), mobility.MAGNotAuthorized)
	if bs := r.bris(n); len(bs) != 0 {
		t.Errorf("sent %+v", bs)
	}
	r = start(t, func(c *Config) { c.PMIP6.NoRevocation = true })
	r.ok(attach(mag1, h1, mac1))
	n = len(r.sent)
	r.ok(attach(mag2, h1, mac1))
	r.pass(10 * time.Second)
	if bs := r.bris(n); len(bs) != 0 {
		t.Errorf("sent %+v", bs)
	}
	r.hear(mag1, &mobility.Revocation{Ack: true, Proxy: true})
	if be, ok := r.sent[len(r.sent)-1].Body.(*mobility.BindingError); !ok || be.Status != mobility.UnrecognizedMHType {
		t.Error("switched off, the type is not known")
	}
}

// TestRevocationTimes: 1 s, then given up after 2 s more; the session is not touched by any of it, nor by any answer.
func TestRevocationTimes(t *testing.T) {
	spec.Covers(t, "RFC5846-6.3", "RFC5846-8.1")
	moved := func(t *testing.T) (*rig, int, netip.Addr) {
		r := start(t)
		a := r.ok(attach(mag1, h1, mac1))
		n := len(r.sent)
		r.ok(attach(mag2, h1, mac1))
		return r, n, v4of(t, a)
	}
	unchanged := func(r *rig, hoa netip.Addr) {
		r.t.Helper()
		if b := r.one(h1); b.State != "active" || b.ProxyCoA != mag2 || r.delivered(hoa) != mag2 {
			r.t.Errorf("%+v, delivered to %v", b, r.delivered(hoa))
		}
	}
	t.Run("no answer", func(t *testing.T) {
		r, n, hoa := moved(t)
		r.pass(time.Second - 1)
		first := r.bri(n, mag1)
		r.pass(1)
		bs := r.bris(n)
		if len(bs) != 2 || fmt.Sprint(bs[1].Body) != fmt.Sprint(first) {
			t.Fatalf("%d indications at 1 s", len(bs))
		}
		r.pass(2*time.Second - 1)
		if to, _ := r.last(); to != "sent" {
			t.Errorf("told %q", to)
		}
		r.pass(1)
		if to, why := r.last(); to != "unanswered" || why != string(wire.NoAnswer) || r.m.refused[wire.NoAnswer] != 1 {
			t.Errorf("told %q, %q", to, why)
		}
		unchanged(r, hoa)
		r.hear(mag1, bra(first, 0)) // too late
		if r.m.refused[wire.SequenceMismatch] != 1 {
			t.Error("not counted")
		}
		r.pass(time.Minute)
		if len(r.bris(n)) != 2 {
			t.Error("sent again")
		}
		unchanged(r, hoa)
		r.leakless()
	})
	for status, want := range map[uint8][2]string{
		mobility.RevocationSuccess:           {"done", "acknowledged"},
		mobility.RevocationPartial:           {"done", "acknowledged"},
		mobility.RevocationNoBinding:         {"done", string(wire.UnknownHost)},
		mobility.RevocationNodeAttached:      {"refused", string(wire.StillAttached)},
		mobility.RevocationProxyNotSupported: {"refused", string(wire.UnsupportedMessage)},
		mobility.RevocationIPv4HomeRequired:  {"refused", string(wire.RefusedByGateway)},
		mobility.RevocationIdentityRequired:  {"refused", string(wire.RefusedByGateway)},
	} {
		r, n, hoa := moved(t)
		b := r.bri(n, mag1)
		r.hear(mag1, bra(b, status))
		if to, why := r.last(); to != want[0] || why != want[1] {
			t.Errorf("status %d: told %q, %q", status, to, why)
		}
		unchanged(r, hoa)
		r.pass(10 * time.Second)
		if len(r.bris(n)) != 1 {
			t.Errorf("status %d: sent again", status)
		}
		r.leakless()
	}
}

// TestRevocationForged: answers of others, or about others, end nothing; indications of gateways are refused.
func TestRevocationForged(t *testing.T) {
	spec.Covers(t, "RFC5846-6.2.2")
	r := start(t)
	r.ok(attach(mag1, h1, mac1))
	n := len(r.sent)
	r.ok(attach(mag2, h1, mac1))
	b := r.bri(n, mag1)
	quiet := len(r.sent)
	for from, want := range map[netip.Addr]wire.Reason{none: wire.UnknownPeer, mag3: wire.UnknownPeer, mag2: wire.UnknownPeer} {
		before := r.m.refused[want]
		r.hear(from, bra(b, 0))
		if r.m.refused[want] != before+1 {
			t.Errorf("from %v: not counted as %s: %v", from, want, r.m.refused)
		}
	}
	other := bra(b, 0)
	other.Options = mobility.Options(nil).Add(mobility.MobileNodeID{Subtype: 1, ID: "other@example.net"})
	r.hear(mag1, other)
	other = bra(b, 0)
	other.Sequence++
	r.hear(mag1, other)
	if r.m.refused[wire.IdentifierMismatch] != 1 || r.m.refused[wire.SequenceMismatch] != 1 {
		t.Errorf("counted %v", r.m.refused)
	}
	if len(r.sent) != quiet || r.m.revocations.Outstanding() != 1 {
		t.Errorf("answered, or ended: %+v", r.sent[quiet:])
	}
	for _, m := range []*mobility.Revocation{b, {Code: mobility.TriggerPeerPolicy, Proxy: true, Global: true, Sequence: 5}} {
		want := mobility.RevocationFunctionNotSupported
		if m.Global {
			want = mobility.RevocationGlobalNotAuthorized
		}
		r.hear(mag2, m)
		a, ok := r.sent[len(r.sent)-1].Body.(*mobility.Revocation)
		if !ok || !a.Ack || a.Code != want || a.Sequence != m.Sequence || !a.Proxy || a.Global != m.Global {
			t.Errorf("answered %+v", r.sent[len(r.sent)-1].Body)
		}
		n := len(r.sent)
		r.hear(mag3, m) // a peer that is no gateway
		r.hear(none, m)
		if len(r.sent) != n {
			t.Error("strangers are answered")
		}
	}
	if b := r.one(h1); b.ProxyCoA != mag2 || b.State != "active" {
		t.Errorf("%+v", b)
	}
	r.hear(mag1, bra(b, 0))
	if r.m.revocations.Outstanding() != 0 {
		t.Error("the right answer ends it")
	}
	r.leakless()
}

// TestRevocationAndReturn: the host goes on, or back, before the former gateway answers.
func TestRevocationAndReturn(t *testing.T) {
	spec.Covers(t, "RFC5846-8.1")
	r := start(t)
	a := r.ok(attach(mag1, h1, mac1))
	n := len(r.sent)
	r.ok(attach(mag2, h1, mac1))
	out := r.bri(n, mag1)
	n = len(r.sent)
	r.ok(attach(mag1, h1, mac1)) // back: the first ends, the other gateway is told
	back := r.bri(n, mag2)
	if back.Sequence == out.Sequence || r.m.revocations.Outstanding() != 1 {
		t.Errorf("numbers %d and %d, %d outstanding", out.Sequence, back.Sequence, r.m.revocations.Outstanding())
	}
	r.hear(mag1, bra(out, mobility.RevocationNodeAttached)) // which it said before it was back, or after
	if r.m.refused[wire.SequenceMismatch] != 1 || r.m.revocations.Outstanding() != 1 {
		t.Error("an answer about what is over")
	}
	n = len(r.sent)
	r.pass(10 * time.Second)
	for _, s := range r.bris(n) {
		if s.Path.Remote.Addr() == mag1 {
			t.Error("the serving gateway is told to give up")
		}
	}
	if r.delivered(v4of(t, a)) != mag1 {
		t.Error("forwarding follows a revocation")
	}
	r.leakless()
}

// TestRevocationNotDurable: while a handover is not durable nobody is told; when it fails, nobody ever is.
func TestRevocationNotDurable(t *testing.T) {
	for name, fail := range map[string]func(r *rig, on bool){
		"store":      func(r *rig, on bool) { r.failStore = on },
		"forwarding": func(r *rig, on bool) { r.failForward = on },
	} {
		t.Run(name, func(t *testing.T) {
			r := start(t)
			r.ok(attach(mag1, h1, mac1))
			n := len(r.sent)
			fail(r, true)
			r.silent(attach(mag2, h1, mac1))
			fail(r, false)
			r.pass(10 * time.Second)
			if bs := r.bris(n); len(bs) != 0 || r.m.revocations.Outstanding() != 0 {
				t.Errorf("sent %+v, %d outstanding", bs, r.m.revocations.Outstanding())
			}
			if b := r.one(h1); b.ProxyCoA != mag1 {
				t.Errorf("%+v", b)
			}
			r.ok(attach(mag2, h1, mac1))
			r.bri(n, mag1)
			r.leakless()
		})
	}
}

// TestGatewayWithoutRevocation: a Binding Error, and the gateway is left alone until it restarts. Heartbeats, of which the
// same is true, are told apart.
func TestGatewayWithoutRevocation(t *testing.T) {
	spec.Covers(t, "RFC5846-6.2")
	hearts := func(c *Config) { c.Heartbeat = Heartbeat{Config: heartbeat.Config{Interval: time.Minute}} }
	unknown := &mobility.BindingError{Status: mobility.UnrecognizedMHType, Home: netip.IPv6Unspecified()}
	to := func(r *rig) string { return r.tail()[len(r.tail())-1].To }
	moves := func(r *rig) bool {
		r.t.Helper()
		n := len(r.sent)
		r.ok(attach(mag1, h1, mac1))
		for _, s := range r.bris(n) { // the other gateway knows it
			r.hear(mag2, bra(s.Body.(*mobility.Revocation), 0))
		}
		n = len(r.sent)
		r.ok(attach(mag2, h1, mac1))
		return len(r.bris(n)) == 1
	}
	t.Run("no heartbeats", func(t *testing.T) {
		r := start(t)
		r.hear(mag1, unknown)
		if r.m.refused[wire.Unsolicited] != 1 {
			t.Error("a Binding Error for nothing")
		}
		if !moves(r) {
			t.Fatal("not told")
		}
		r.hear(mag1, unknown)
		if to(r) != "no-revocation" {
			t.Errorf("%+v", r.tail())
		}
		n := len(r.sent)
		if moves(r) {
			t.Error("told again")
		}
		if w, why := r.last(); w != "not-sent" || why != string(wire.UnsupportedMessage) {
			t.Errorf("told as %s, %s", w, why)
		}
		r.pass(revocation.UnsupportedFor - 10*time.Second)
		for _, s := range r.bris(n) {
			if s.Path.Remote.Addr() == mag1 {
				t.Error("sent again")
			}
		}
		r.pass(10 * time.Second)
		if !moves(r) {
			t.Error("it may be another program by now")
		}
	})
	t.Run("heartbeats known", func(t *testing.T) {
		r := start(t, hearts)
		r.ok(attach(mag1, "other@example.net", mac2)) // keeps the gateway watched
		r.pass(2 * time.Minute)
		var hb *mobility.Heartbeat
		for _, s := range r.sent {
			if h, ok := s.Body.(*mobility.Heartbeat); ok && s.Path.Remote.Addr() == mag1 {
				hb = h
			}
		}
		counter := func(v uint32) mobility.Options { return mobility.Options(nil).Add(mobility.RestartCounter{Value: v}) }
		r.hear(mag1, &mobility.Heartbeat{Response: true, Sequence: hb.Sequence, Options: counter(1)})
		if !moves(r) {
			t.Fatal("not told")
		}
		r.hear(mag1, unknown)
		if to(r) != "no-revocation" {
			t.Errorf("%+v", r.tail())
		}
		if moves(r) {
			t.Error("told again")
		}
		r.hear(mag1, &mobility.Heartbeat{Response: true, Unsolicited: true, Options: counter(2)})
		if !moves(r) {
			t.Error("it has restarted")
		}
	})
	t.Run("heartbeats not known either", func(t *testing.T) {
		r := start(t, hearts)
		r.ok(attach(mag1, h1, mac1))
		p := attach(mag1, "other@example.net", mac2) // keeps the gateway watched
		r.ok(p)
		r.pass(7 * time.Second) // the first heartbeat is out
		if !moves(r) {
			t.Fatal("not told")
		}
		r.hear(mag1, unknown)
		if to(r) != "no-heartbeat" {
			t.Errorf("%+v", r.tail())
		}
		r.hear(mag1, unknown)
		if to(r) != "no-revocation" {
			t.Errorf("%+v", r.tail())
		}
	})
	t.Run("before the store is read", func(t *testing.T) {
		m, err := New(testConfig(), zeroReader{})
		if err != nil {
			t.Fatal(err)
		}
		now := core.Now{Boot: time.Hour, Wall: day}
		m.Handle(now, core.Message{Path: path(lmaa, mag1), Body: unknown}, nil)
		if m.refused[wire.Unsolicited] != 1 {
			t.Errorf("%v", m.refused)
		}
	})
}

type zeroReader struct{}

func (zeroReader) Read(b []byte) (int, error) { clear(b); return len(b), nil }

// TestRevocationConfig: the delay that RFC 5846 11 forbids.
func TestRevocationConfig(t *testing.T) {
	spec.Covers(t, "RFC5846-11")
	for d, ok := range map[time.Duration]bool{0: true, revocation.LeastDelay: true, revocation.LeastDelay - 1: false, -1: false} {
		c := testConfig()
		c.Revocation.MinDelay = d
		if _, err := New(c, zeroReader{}); (err == nil) != ok {
			t.Errorf("%v: %v", d, err)
		}
	}
}

// TestRevocationByCareOf: another care-of address of the same gateway is no handover between gateways.
func TestRevocationByCareOf(t *testing.T) {
	r := start(t, func(c *Config) { c.Peers[0].Addresses = append(c.Peers[0].Addresses, pfx("2001:db8:a:1::/64")) })
	alt := ip("2001:db8:a:1::11")
	p := attach(mag1, h1, mac1)
	p.more = []mobility.Value{mobility.AlternateCareOf{Addr: alt}}
	r.ok(p)
	n := len(r.sent)
	r.ok(attach(mag1, h1, mac1))
	if bs := r.bris(n); len(bs) != 0 {
		t.Errorf("told its own gateway: %+v", bs)
	}
	r.ok(p)
	n = len(r.sent)
	r.ok(attach(mag2, h1, mac1))
	b := r.bri(n, alt) // to the care-of address, RFC 5846 8.1
	r.hear(alt, bra(b, 0))
	if r.m.revocations.Outstanding() != 0 {
		t.Error("its answer does not count")
	}
}

// TestSupposedHandover: while a request of unknown handoff state waits, the former gateway is asked; its answer decides at
// once, and without one the wait ends as it always did.
func TestSupposedHandover(t *testing.T) {
	spec.Covers(t, "RFC5846-8.1")
	type waiting struct {
		*rig
		first *mobility.BindingAck
		n     int
		b     *mobility.Revocation
	}
	begin := func(t *testing.T, change ...func(*Config)) waiting {
		w := waiting{rig: start(t, change...)}
		w.first = w.ok(attach(mag1, h1, mac1))
		w.n = len(w.sent)
		w.silent(attach(mag2, h1, mac2))
		w.b = w.bri(w.n, mag1)
		if ts, ok := w.b.Options.Timestamp(); !ok || ts.Value == 0 || w.b.Code != mobility.TriggerHandoverUnknown {
			t.Errorf("%+v", w.b)
		}
		return w
	}
	for _, status := range []uint8{mobility.RevocationSuccess, mobility.RevocationPartial, mobility.RevocationNoBinding} {
		w := begin(t)
		n := len(w.emits)
		w.hear(mag1, bra(w.b, status))
		a := w.answerTo(w.n, mag2)
		if a == nil || a.Status != 0 || v4of(t, a) != v4of(t, w.first) || !slices.Equal(prefixes(a), prefixes(w.first)) {
			t.Fatalf("status %d: answer %+v", status, a)
		}
		if want, got := []string{"active -> deprecated revoked", "pending -> none deregistered", "deprecated -> active returned"}, w.events(n); !slices.Equal(got, want) {
			t.Errorf("%v", got)
		}
		if b := w.one(h1); b.ProxyCoA != mag2 || w.delivered(v4of(t, a)) != mag2 {
			t.Errorf("%+v", b)
		}
		w.pass(5 * time.Second)
		if len(w.bris(w.n)) != 1 {
			t.Error("the gateway is told what it said itself")
		}
		w.restart()
		if b := w.one(h1); b.ProxyCoA != mag2 {
			t.Errorf("after a restart: %+v", b)
		}
		w.leakless()
	}
	t.Run("still attached", func(t *testing.T) {
		w := begin(t)
		w.hear(mag1, bra(w.b, mobility.RevocationNodeAttached))
		a := w.answerTo(w.n, mag2)
		if a == nil || a.Status != 0 || v4of(t, a) == v4of(t, w.first) || len(w.bindings(h1)) != 2 {
			t.Fatalf("answer %+v, %d sessions", a, len(w.bindings(h1)))
		}
		if w.delivered(v4of(t, w.first)) != mag1 {
			t.Error("the first interface lost its session")
		}
		w.leakless()
	})
	for name, answer := range map[string]func(w waiting){
		"no answer": func(waiting) {},
		"refused":   func(w waiting) { w.hear(mag1, bra(w.b, mobility.RevocationTriggerNotSupported)) },
		"not supported": func(w waiting) {
			w.hear(mag1, &mobility.BindingError{Status: mobility.UnrecognizedMHType, Home: netip.IPv6Unspecified()})
		},
		"forged": func(w waiting) { w.hear(mag2, bra(w.b, 0)); w.hear(none, bra(w.b, 0)) },
		"refreshed by the former gateway meanwhile": func(w waiting) {
			p := attach(mag1, h1, mac1)
			p.hi, p.hnp = mobility.HandoffReRegistration, prefixes(w.first)
			w.ok(p)
			w.hear(mag1, bra(w.b, 0)) // too late
		},
	} {
		t.Run(name, func(t *testing.T) {
			w := begin(t)
			until := w.now.Boot + 1500*time.Millisecond
			answer(w)
			w.pass(until - w.now.Boot - 1)
			if a := w.answerTo(w.n, mag2); a != nil {
				t.Fatalf("answered %+v", a)
			}
			w.pass(1)
			if a := w.answerTo(w.n, mag2); a == nil || a.Status != 0 || len(w.bindings(h1)) != 2 {
				t.Fatalf("answer %+v", a)
			}
			w.leakless()
		})
	}
	t.Run("deregistered first", func(t *testing.T) {
		w := begin(t)
		d := attach(mag1, h1, mac1)
		d.lifetime = 0
		w.ok(d)
		if w.m.revocations.Outstanding() != 0 {
			t.Error("the gateway is still being asked")
		}
		w.hear(mag1, bra(w.b, 0))
		if b := w.one(h1); b.ProxyCoA != mag2 {
			t.Errorf("%+v", b)
		}
		w.leakless()
	})
	t.Run("two requests, one question", func(t *testing.T) {
		w := begin(t)
		p := attach(mag2, h1, []byte{2, 0, 0, 0, 0, 0x0c})
		w.silent(p)
		w.silent(attach(mag2, h1, mac2)) // retransmitted
		if len(w.bris(w.n)) != 1 {
			t.Errorf("%d questions", len(w.bris(w.n)))
		}
		w.hear(mag1, bra(w.b, 0))
		w.pass(2 * time.Second)
		if n := len(w.bindings(h1)); n == 0 || len(w.m.waiting.byKey) != 0 {
			t.Errorf("%d sessions, %d wait", n, len(w.m.waiting.byKey))
		}
		w.leakless()
	})
	t.Run("while a change is under way", func(t *testing.T) {
		w := begin(t)
		w.hold = true
		p := attach(mag1, h1, mac1)
		p.hi, p.att, p.hnp = mobility.HandoffInterfaces, mobility.AccessWLAN, prefixes(w.first)
		w.sendNow(p)
		w.m.revocations.Revoke(w.now, revocation.Registration{ID: w.one(h1).Session, Node: h1, Gateway: mag1, Anchor: lmaa, CareOf: mag1}, 4)
		b := *w.b
		b.Sequence++
		w.hear(mag1, bra(&b, 0))
		if b := w.one(h1); b.State != "active" {
			t.Errorf("%+v", b)
		}
		w.flush()
		w.leakless()
	})
}

// TestRevokeCommand: an administrator ends sessions; their gateways are told, others are not touched, and the host may
// come back.
func TestRevokeCommand(t *testing.T) {
	spec.Covers(t, "RFC5846-3.4.1", "RFC5846-8.1")
	revoke := func(r *rig, id string) (core.Revoked, error) {
		r.t.Helper()
		r.handle(core.Command{Ref: 9, Body: core.Revoke{ID: id}})
		out, _ := r.reply.Body.(core.Revoked)
		return out, r.reply.Err
	}
	for name, id := range map[string]func(a *mobility.BindingAck) string{
		"identifier": func(*mobility.BindingAck) string { return h1 },
		"address":    func(a *mobility.BindingAck) string { return v4of(t, a).String() },
		"prefix":     func(a *mobility.BindingAck) string { return prefixes(a)[0].String() },
	} {
		t.Run(name, func(t *testing.T) {
			r := start(t)
			a := r.ok(attach(mag1, h1, mac1))
			other := r.ok(attach(mag1, "other@example.net", mac2))
			n := len(r.sent)
			out, err := revoke(r, id(a))
			if want := (core.Revoked{Sessions: 1, Told: 1}); err != nil || out != want {
				t.Fatalf("%+v %v", out, err)
			}
			b := r.bri(n, mag1)
			if b.Code != mobility.TriggerAdministrative || !b.Options.Has(mobility.OptTimestamp) {
				t.Errorf("%+v", b)
			}
			if s := r.one(h1); s.State != "deprecated" || r.delivered(v4of(t, a)) != netip.IPv6Unspecified() || r.delivered(v4of(t, other)) != mag1 {
				t.Errorf("%+v", s)
			}
			r.hear(mag1, bra(b, 0))
			if _, err := revoke(r, h1); !errors.Is(err, wire.UnknownHost) {
				t.Errorf("again: %v", err)
			}
			r.restart()
			if s := r.one(h1); s.State != "deprecated" {
				t.Errorf("after a restart: %+v", s)
			}
			if back := r.ok(attach(mag2, h1, mac1)); v4of(t, back) != v4of(t, a) || r.delivered(v4of(t, a)) != mag2 {
				t.Errorf("back with %v", v4of(t, back))
			}
			if bs := r.bris(n); len(bs) != 1 {
				t.Errorf("%d indications", len(bs))
			}
			r.leakless()
		})
	}
	r := start(t)
	r.ok(attach(mag1, h1, mac1))
	p := attach(mag2, h1, mac2)
	p.hi = mobility.HandoffNewInterface
	r.ok(p)
	n := len(r.sent)
	if out, err := revoke(r, h1); err != nil || out.Sessions != 2 || out.Told != 2 || len(r.bris(n)) != 2 {
		t.Errorf("two interfaces: %+v %v", out, err)
	}
	for _, id := range []string{"nobody@example.net", "", "10.20.99.99", "192.0.2.1", "2001:db8:1000:fff::/64"} {
		if _, err := revoke(r, id); !errors.Is(err, wire.UnknownHost) {
			t.Errorf("%q: %v", id, err)
		}
	}
	r = start(t, func(c *Config) { c.PMIP6.NoRevocation = true })
	r.ok(attach(mag1, h1, mac1))
	if out, err := revoke(r, h1); err != nil || out != (core.Revoked{Sessions: 1}) {
		t.Errorf("without revocation: %+v %v", out, err)
	}
	r.leakless()
	r = start(t)
	r.hold = true
	r.sendNow(attach(mag1, h1, mac1))
	if _, err := revoke(r, h1); err == nil || errors.Is(err, wire.UnknownHost) {
		t.Errorf("while it is not durable: %v", err)
	}
	r.flush()
	if out, err := revoke(r, h1); err != nil || out.Sessions != 1 {
		t.Errorf("%+v %v", out, err)
	}
	r.leakless()
}
