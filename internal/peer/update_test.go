package peer

import (
	"net/netip"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"kedge/internal/core"
	"kedge/internal/spec"
	"kedge/wire/mobility"
)

var equal = cmpopts.EquateComparable(netip.Addr{}, netip.AddrPort{}, netip.Prefix{})

// TestRegistration: from the tests to the session, a movement, and the end, with everything that the machine wants of others.
func TestRegistration(t *testing.T) {
	r := start(t)
	n := r.tested(hoa, coa)
	n.lifetime = 0xffff
	a := r.ack(n)
	if a.Status != mobility.Accepted || a.Sequence != 7 || a.Lifetime != 105 || a.Flags != 0 {
		t.Errorf("acknowledged %+v, want 420 s", a)
	}
	layer := func(c netip.Addr) (x [2]core.Layer) {
		x[0] = core.Layer{Local: ap(self), Remote: ap(c)}
		return x
	}
	want := []core.Op{
		core.SetSession{ID: 1, Chain: core.Chain{RO: 1, Layer: layer(coa)}},
		core.SetKey{Match: core.Match{Dst: netip.PrefixFrom(hoa, 128), Src: netip.PrefixFrom(self, 128)}, ID: 1, Up: true, Down: true},
	}
	if d := cmp.Diff(want, ops(r.last), equal); d != "" {
		t.Errorf("-want +got:\n%s", d)
	}
	if _, last := r.last[len(r.last)-1].(core.Send); !last {
		t.Error("the acknowledgement does not wait for the forwarding")
	}
	if c, ok := r.m.CareOf(self, hoa); !ok || c != coa {
		t.Errorf("bound to %v %v", c, ok)
	}

	// A refresh changes no forwarding.
	n.seq++
	r.is(n, mobility.Accepted)
	if len(ops(r.last)) > 0 {
		t.Errorf("%+v", r.last)
	}

	// A movement keeps the home keygen token (RFC 6275 5.2.7).
	n.seq, n.careOf, n.c = n.seq+1, coa2, r.test(coa2, true)
	r.is(n, mobility.Accepted)
	if d := cmp.Diff([]core.Op{core.SetSession{ID: 1, Chain: core.Chain{RO: 1, Layer: layer(coa2)}, Grace: 500 * time.Millisecond}}, ops(r.last), equal); d != "" {
		t.Errorf("-want +got:\n%s", d)
	}

	// Deregistration: from the home address, with the home keygen token only.
	n.seq, n.lifetime, n.careOf = n.seq+1, 0, hoa
	u := n.update()
	u.Nonces.CareOf = 0
	s := r.receive(direct(hoa), u)
	if d := cmp.Diff([]core.Op{core.Drop{ID: 1}}, ops(r.last), equal); d != "" {
		t.Errorf("-want +got:\n%s", d)
	}
	if len(s) != 1 || s[0].Path.Home.IsValid() || s[0].Path.Remote != ap(hoa) {
		t.Errorf("a node without Home Address option is answered by %+v", s)
	} else if ba := s[0].Body.(*mobility.Authorized).Message.(*mobility.BindingAck); ba.Status != mobility.Accepted || ba.Lifetime != 0 {
		t.Errorf("%+v", ba)
	}
	if _, ok := r.m.CareOf(self, hoa); ok {
		t.Error("the binding is still there")
	}
	spec.Covers(t, "RFC6275-9.5.2", "RFC6275-9.5.3", "RFC6275-9.5.4")
}

// TestNoAcknowledgement: without the A flag a success is silent, and an error is not (RFC 6275 9.5.4).
func TestNoAcknowledgement(t *testing.T) {
	r := start(t)
	n := r.tested(hoa, coa)
	n.flags = 0
	if s := r.receive(n.path(), n.update()); len(s) != 0 || len(ops(r.last)) != 2 {
		t.Errorf("%+v", r.last)
	}
	r.is(n, mobility.SequenceOutOfWindow)
	n.h.NonceIndex += 100
	r.is(n, mobility.ExpiredHomeNonce)
	n.h.NonceIndex -= 100
	n.seq, n.lifetime = n.seq+1, 0
	if s := r.receive(n.path(), n.update()); len(s) != 0 || len(ops(r.last)) != 1 {
		t.Errorf("%+v", r.last)
	}
}

// TestSilent: what RFC 6275 9.5.1 wants silently discarded leaves no trace but a count.
func TestSilent(t *testing.T) {
	r := start(t)
	n := r.tested(hoa, coa)
	addr := netip.MustParseAddr
	at := func(home, careOf netip.Addr) core.Path { return withHome(careOf, home) }
	bare := func(opts ...mobility.Value) mobility.Message {
		return &mobility.BindingUpdate{Sequence: 7, Flags: mobility.BUAck, Lifetime: 30, Options: mobility.Options(nil).Add(opts...)}
	}
	flip := func(b []byte) { b[len(b)-1] ^= 1 }
	key := n.update()
	key.Key[3] ^= 1
	elsewhere := n.update()
	elsewhere.CareOf = coa2
	toOther := n.update()
	toOther.Peer = other
	noNonces := n.update()
	noNonces.Nonces = nil
	home := n.update()
	home.Message.(*mobility.BindingUpdate).Flags |= mobility.BUHome
	swapped := n.update()
	swapped.Key = mobility.BindingKey(n.c.Token, n.h.Token)
	dereg := n.update() // a registration's key does not delete
	dereg.Message.(*mobility.BindingUpdate).Lifetime = 0
	for _, c := range []struct {
		name   string
		p      core.Path
		m      mobility.Message
		reason string
		mangle func([]byte)
	}{
		{"link-local home address", at(addr("fe80::5"), coa), n.update(), "bad-home-address", nil},
		{"multicast home address", at(addr("ff0e::5"), coa), n.update(), "bad-home-address", nil},
		{"mapped home address", at(addr("::ffff:192.0.2.1"), coa), n.update(), "bad-home-address", nil},
		{"our own address as home address", at(self, coa), n.update(), "bad-home-address", nil},
		{"another one of our addresses as home address", at(other, coa), n.update(), "bad-home-address", nil},
		{"multicast source", at(hoa, addr("ff0e::5")), n.update(), "bad-source", nil},
		{"link-local source", at(hoa, addr("fe80::5")), n.update(), "bad-source", nil},
		{"alternate care-of address that is none", n.path(), n.update(mobility.AlternateCareOf{Addr: addr("ff0e::1")}), "bad-care-of-address", nil},
		{"no options", n.path(), bare(), "nonce-indices", nil},
		{"authorization without nonces", n.path(), noNonces, "nonce-indices", nil},
		{"nonces without authorization", n.path(), bare(mobility.NonceIndices{Home: n.h.NonceIndex, CareOf: n.c.NonceIndex}), "missing-binding-authorization-data", nil},
		{"expired nonces without authorization", n.path(), bare(mobility.NonceIndices{Home: 1, CareOf: 1}), "missing-binding-authorization-data", nil},
		{"nonces in a home registration", n.path(), home, "nonce-indices", nil},
		{"a bit of the authenticator", n.path(), n.update(), "authentication-failed", flip},
		{"a bit of the sequence number", n.path(), n.update(), "authentication-failed", func(b []byte) { b[7] ^= 1 }},
		{"another lifetime", n.path(), n.update(), "authentication-failed", func(b []byte) { b[11] ^= 1 }},
		{"another key", n.path(), key, "authentication-failed", nil},
		{"tokens changed places", n.path(), swapped, "authentication-failed", nil},
		{"another care-of address", n.path(), elsewhere, "authentication-failed", nil},
		{"from another care-of address", at(hoa, coa2), n.update(), "authentication-failed", nil},
		{"for another home address", at(farHome, coa), n.update(), "authentication-failed", nil},
		{"for another correspondent", n.path(), toOther, "authentication-failed", nil},
		{"a registration's key in a deregistration", n.path(), dereg, "authentication-failed", nil},
		{"to an address that is not ours", core.Path{Local: ap(addr("2001:db8:d::77")), Remote: ap(coa), Home: hoa}, n.update(), "bad-destination", nil},
		{"to multicast", core.Path{Local: ap(addr("ff0e::77")), Remote: ap(coa), Home: hoa}, n.update(), "bad-destination", nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			r.t = t
			var mangle []func([]byte)
			if c.mangle != nil {
				mangle = append(mangle, c.mangle)
			}
			r.silent(c.p, c.m, c.reason, mangle...)
			if len(r.m.cache.byKey) != 0 {
				t.Error("it left a binding")
			}
		})
	}
	r.t = t
	r.is(n, mobility.Accepted)
	spec.Covers(t, "RFC6275-9.5.1")
}

// TestSequence compares modulo 2^16 (RFC 6275 9.5.1).
func TestSequence(t *testing.T) {
	r := start(t)
	n := r.tested(hoa, coa)
	n.seq = 100
	r.is(n, mobility.Accepted)
	for _, seq := range []uint16{100, 99, 32868} {
		n.seq = seq
		if a := r.ack(n); a.Status != mobility.SequenceOutOfWindow || a.Sequence != 100 {
			t.Errorf("%d: %v, last %d", seq, a.Status, a.Sequence)
		}
	}
	n.seq = 101
	r.is(n, mobility.Accepted)
}

// TestStatuses of refusals that are authorized, and of those that cannot be.
func TestStatuses(t *testing.T) {
	r := start(t, func(c *Config) { c.Accept = []netip.Prefix{netip.MustParsePrefix("2001:db8:2000::/48")} })
	n := r.tested(hoa, coa)
	plain := func(flags mobility.BUFlags, want mobility.Status) {
		t.Helper()
		s := r.receive(n.path(), &mobility.BindingUpdate{Sequence: 9, Flags: flags, Lifetime: 30})
		if len(s) != 1 || s[0].Body.(*mobility.BindingAck).Status != want || s[0].Path.Home != hoa {
			t.Errorf("%v: %+v, want %v", flags, r.last, want)
		}
	}
	plain(mobility.BUHome|mobility.BUAck, mobility.HomeRegistrationNotSupported)
	r.is(n, mobility.Accepted)
	plain(mobility.BUHome|mobility.BUAck, mobility.TypeChangeDisallowed)

	r.is(r.tested(farHome, coa), mobility.AdministrativelyProhibited)
	// K is ignored, and never answered (RFC 6275 6.1.7, 6.1.8).
	n.seq, n.flags = n.seq+1, mobility.BUAck|mobility.BUKeyMgmt|mobility.BULinkLocal
	r.is(n, mobility.Accepted)

	same := r.tested(netip.MustParseAddr("2001:db8:2000::6"), netip.MustParseAddr("2001:db8:2000::6"))
	r.is(same, mobility.InvalidCareOf)
	ours := r.tested(netip.MustParseAddr("2001:db8:2000::7"), other)
	r.is(ours, mobility.InvalidCareOf)
	if len(r.m.cache.byKey) != 1 {
		t.Errorf("%d bindings", len(r.m.cache.byKey))
	}
}

// TestAlternateCareOf: the option's address is bound and tested, the acknowledgement goes to the source.
func TestAlternateCareOf(t *testing.T) {
	r := start(t)
	n := r.tested(hoa, coa2)
	u := n.update(mobility.AlternateCareOf{Addr: coa2})
	s := r.receive(withHome(coa, hoa), u)
	if len(s) != 1 || s[0].Path.Remote != ap(coa) || s[0].Body.(*mobility.Authorized).Message.(*mobility.BindingAck).Status != mobility.Accepted {
		t.Fatalf("%+v", r.last)
	}
	if c, _ := r.m.CareOf(self, hoa); c != coa2 {
		t.Errorf("bound to %v", c)
	}
	// The token of the source is not that of the option.
	n2 := r.tested(farHome, coa)
	r.silent(withHome(coa, farHome), n2.update(mobility.AlternateCareOf{Addr: coa2}), "authentication-failed")
}

// TestOwnAddresses: each own address has bindings of its own (RFC 6275 9.1).
func TestOwnAddresses(t *testing.T) {
	r := start(t)
	n := r.tested(hoa, coa)
	r.is(n, mobility.Accepted)
	u := n.update()
	u.Peer = other
	p := n.path()
	p.Local = ap(other)
	if s := r.receive(p, u); len(s) != 1 {
		t.Fatalf("%+v", r.last)
	}
	if _, ok := r.m.CareOf(other, hoa); !ok || len(r.m.cache.byKey) != 2 {
		t.Error("no second binding")
	}
	n.seq, n.lifetime = n.seq+1, 0
	r.is(n, mobility.Accepted)
	if _, ok := r.m.CareOf(other, hoa); !ok {
		t.Error("the other address's binding went")
	}
}

// TestMobileCorrespondent: a correspondent that is mobile itself is known by its home address, which a type 2 routing header has.
func TestMobileCorrespondent(t *testing.T) {
	r := start(t)
	n := r.tested(hoa, coa)
	p := n.path()
	p.Local, p.Own = ap(netip.MustParseAddr("2001:db8:e::1")), self
	s := r.receive(p, n.update())
	if len(s) != 1 || s[0].Path != p {
		t.Fatalf("answered by %+v", s)
	}
	if _, ok := r.m.CareOf(self, hoa); !ok {
		t.Error("not bound")
	}
}

// TestForwardingFails: a binding without forwarding is none.
func TestForwardingFails(t *testing.T) {
	r := start(t)
	n := r.tested(hoa, coa)
	r.is(n, mobility.Accepted)
	r.handle(core.Done{Ref: 1, Err: mobilityError{}})
	if _, ok := r.m.CareOf(self, hoa); ok || len(emits(r.last, "failed")) != 1 {
		t.Errorf("%+v", r.last)
	}
	n.seq++
	r.is(n, mobility.Accepted)
	if s := ops(r.last)[0].(core.SetSession); s.ID != 2 {
		t.Errorf("the number of the session that ended is used again: %+v", s)
	}
	r.handle(core.Done{Ref: 1, Err: mobilityError{}}) // of the first: too late
	if _, ok := r.m.CareOf(self, hoa); !ok {
		t.Error("another session's failure ended it")
	}
}

type mobilityError struct{}

func (mobilityError) Error() string { return "no" }

// TestEmbedded: with Forward the parent hears of each change before the answer, and makes the sessions.
func TestEmbedded(t *testing.T) {
	var heard []Binding
	r := start(t, func(c *Config) {
		c.Forward = func(b Binding) []core.Effect {
			heard = append(heard, b)
			return []core.Effect{core.Emit{Name: "parent"}}
		}
	})
	n := r.tested(hoa, coa)
	r.is(n, mobility.Accepted)
	if len(r.last) != 3 || r.last[0] != (core.Effect)(core.Emit{Name: "parent"}) {
		t.Errorf("%+v", r.last)
	}
	n.seq, n.careOf, n.c = 8, coa2, r.test(coa2, true)
	r.is(n, mobility.Accepted)
	n.seq++
	r.is(n, mobility.Accepted) // a refresh is nothing new
	if out := r.m.Only(r.now, self, nil); len(out) > 0 {
		t.Errorf("%+v", out)
	}
	out := r.m.Only(r.now, other, nil)
	want := []Binding{{1, hoa, self, coa}, {1, hoa, self, coa2}, {1, hoa, self, netip.Addr{}}}
	if d := cmp.Diff(want, heard, equal); d != "" || len(ops(out)) > 0 || len(emits(out, "session")) != 1 {
		t.Errorf("-want +got:\n%s\n%+v", d, out)
	}
	if !Takes(&mobility.TestInit{}) || !Takes(&mobility.BindingUpdate{}) || Takes(&mobility.Test{}) || Takes(&mobility.BindingAck{}) {
		t.Error("Takes")
	}
}
