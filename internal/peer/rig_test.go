package peer

import (
	"crypto/sha256"
	"encoding/binary"
	"io"
	"net/netip"
	"testing"
	"time"

	"kedge/internal/core"
	"kedge/wire/mobility"
)

var (
	self    = netip.MustParseAddr("2001:db8:d::99")
	other   = netip.MustParseAddr("2001:db8:d::98")
	hoa     = netip.MustParseAddr("2001:db8:2000::5")
	coa     = netip.MustParseAddr("2001:db8:b::5")
	coa2    = netip.MustParseAddr("2001:db8:c::5")
	farHome = netip.MustParseAddr("2001:db8:3000::5")
)

// numbers is randomness that is the same in every run.
type numbers struct{ n uint64 }

func (r *numbers) Read(b []byte) (int, error) {
	for i := 0; i < len(b); i += sha256.Size {
		var seed [8]byte
		r.n++
		binary.BigEndian.PutUint64(seed[:], r.n)
		s := sha256.Sum256(seed[:])
		copy(b[i:], s[:])
	}
	return len(b), nil
}

// rig runs a machine as the loop does, message by message in wire form.
type rig struct {
	t    testing.TB
	m    *Machine
	now  core.Now
	last []core.Effect // of the last event
}

func start(t testing.TB, edits ...func(*Config)) *rig {
	t.Helper()
	cfg := Config{Addresses: []netip.Addr{self, other}}
	for _, f := range edits {
		f(&cfg)
	}
	m, err := New(cfg, io.Reader(&numbers{}))
	if err != nil {
		t.Fatal(err)
	}
	return &rig{t: t, m: m, now: core.Now{Boot: time.Hour, Wall: time.Unix(1_800_000_000, 0)}}
}

func (r *rig) handle(ev core.Event) []core.Effect {
	r.last = r.m.Handle(r.now, ev, nil)
	return r.last
}

// pass lets time go by, with a Tick whenever the machine wants one.
func (r *rig) pass(d time.Duration) (out []core.Effect) {
	r.t.Helper()
	end := r.now.Boot + d
	for range 10_000 {
		at, ok := r.m.Deadline()
		if !ok || at > end {
			r.advance(end)
			return out
		}
		r.advance(max(at, r.now.Boot))
		out = append(out, r.m.Handle(r.now, core.Tick{}, nil)...)
	}
	r.t.Fatal("the machine wants ticks without end")
	return nil
}

func (r *rig) advance(to time.Duration) {
	r.now = core.Now{Boot: to, Wall: r.now.Wall.Add(to - r.now.Boot)}
}

func ap(a netip.Addr) netip.AddrPort { return netip.AddrPortFrom(a, 0) }

// receive gives a message from src to the machine, home in its Home Address option, and what the machine sends.
func (r *rig) receive(p core.Path, m mobility.Message, mangle ...func([]byte)) []core.Send {
	r.t.Helper()
	from, to := p.Remote.Addr(), p.Local.Addr()
	if p.Home.IsValid() {
		from = p.Home
	}
	if p.Own.IsValid() {
		to = p.Own
	}
	b, err := mobility.Append(nil, m, from, to)
	if err != nil {
		r.t.Fatal(err)
	}
	for _, f := range mangle {
		f(b)
		if err := mobility.SetChecksum(b, from, to); err != nil {
			r.t.Fatal(err)
		}
	}
	body, err := mobility.Parse(b, from, to)
	ev := core.Message{Path: p, Raw: b, Err: err}
	if body != nil {
		ev.Body = body
	}
	return sends(r.handle(ev))
}

func sends(out []core.Effect) (s []core.Send) {
	for _, e := range out {
		if m, ok := e.(core.Send); ok {
			s = append(s, m)
		}
	}
	return s
}

func ops(out []core.Effect) (all []core.Op) {
	for _, e := range out {
		if f, ok := e.(core.Forward); ok {
			all = append(all, f.Ops...)
		}
	}
	return all
}

func emits(out []core.Effect, name string) (why []string) {
	for _, e := range out {
		if m, ok := e.(core.Emit); ok && m.Name == name {
			why = append(why, m.Why)
		}
	}
	return why
}

func direct(from netip.Addr) core.Path { return core.Path{If: 7, Local: ap(self), Remote: ap(from)} }

func withHome(from, home netip.Addr) core.Path {
	p := direct(from)
	p.Home = home
	return p
}

// test gets a token.
func (r *rig) test(from netip.Addr, careOf bool) *mobility.Test {
	r.t.Helper()
	s := r.receive(direct(from), &mobility.TestInit{CareOf: careOf, Cookie: [8]byte{1, 2, 3}})
	if len(s) != 1 {
		r.t.Fatalf("a test is answered with %+v", r.last)
	}
	return s[0].Body.(*mobility.Test)
}

// mobile is a mobile node with its tokens.
type mobile struct {
	home, careOf netip.Addr
	h, c         *mobility.Test
	seq          uint16
	lifetime     uint16
	flags        mobility.BUFlags
}

// tested is one that has done return routability.
func (r *rig) tested(home, careOf netip.Addr) *mobile {
	r.t.Helper()
	return &mobile{home: home, careOf: careOf, h: r.test(home, false), c: r.test(careOf, true), seq: 7, lifetime: 30, flags: mobility.BUAck}
}

// update is its Binding Update.
func (n *mobile) update(opts ...mobility.Value) *mobility.Authorized {
	a := &mobility.Authorized{
		Message: &mobility.BindingUpdate{Sequence: n.seq, Flags: n.flags, Lifetime: n.lifetime, Options: mobility.Options(nil).Add(opts...)},
		Nonces:  &mobility.NonceIndices{Home: n.h.NonceIndex, CareOf: n.c.NonceIndex}, Peer: self,
		Key: mobility.BindingKey(n.h.Token, n.c.Token), CareOf: n.careOf,
	}
	if n.lifetime == 0 {
		a.Key, a.CareOf = mobility.DeregistrationKey(n.h.Token), n.home
	}
	return a
}

func (n *mobile) path() core.Path { return withHome(n.careOf, n.home) }

// ack sends the update and wants one acknowledgement, authorized unless its status has no key.
func (r *rig) ack(n *mobile, opts ...mobility.Value) *mobility.BindingAck {
	r.t.Helper()
	return r.acked(n, r.receive(n.path(), n.update(opts...)))
}

func (r *rig) acked(n *mobile, s []core.Send) *mobility.BindingAck {
	r.t.Helper()
	if len(s) != 1 {
		r.t.Fatalf("answered with %+v", r.last)
	}
	if p := s[0].Path; p.Remote != ap(n.careOf) || p.Local != ap(self) || p.Home != n.home || p.If != 7 {
		r.t.Errorf("acknowledged by %+v", p)
	}
	a, ok := s[0].Body.(*mobility.Authorized)
	if !ok {
		return s[0].Body.(*mobility.BindingAck)
	}
	ba := a.Message.(*mobility.BindingAck)
	b, err := mobility.Append(nil, a, self, n.home)
	if err != nil {
		r.t.Fatal(err)
	}
	u := n.update()
	if err := mobility.VerifyAuthorization(b, u.Key, u.CareOf, self); err != nil {
		r.t.Errorf("acknowledgement: %v", err)
	}
	return ba
}

// is wants a status, with authorization data or without.
func (r *rig) is(n *mobile, want mobility.Status, opts ...mobility.Value) {
	r.t.Helper()
	if got := r.ack(n, opts...); got.Status != want {
		r.t.Fatalf("status %v, want %v: %+v", got.Status, want, r.last)
	}
	_, proven := sends(r.last)[0].Body.(*mobility.Authorized)
	if none := want >= mobility.ExpiredHomeNonce && want <= mobility.ExpiredNonces; proven == none {
		r.t.Errorf("status %v with authorization data: %v", want, proven)
	}
}

// silent wants no answer, and a reason.
func (r *rig) silent(p core.Path, m mobility.Message, reason string, mangle ...func([]byte)) {
	r.t.Helper()
	if s := r.receive(p, m, mangle...); len(s) > 0 || len(ops(r.last)) > 0 {
		r.t.Errorf("answered with %+v", r.last)
	}
	if why := emits(r.last, "message-ignored"); len(why) != 1 || why[0] != reason {
		r.t.Errorf("ignored because of %v, want %s", why, reason)
	}
}
