package peer

import (
	"encoding/binary"
	"net/netip"
	"runtime"
	"testing"
	"time"

	"kedge/internal/core"
	"kedge/wire"
	"kedge/wire/mobility"
)

// stranger is an address of the n-th network.
func stranger(n int) netip.Addr {
	a := [16]byte{0x20, 0x01, 0x0d, 0xb8, 0xff}
	binary.BigEndian.PutUint16(a[6:], uint16(n))
	binary.BigEndian.PutUint32(a[12:], uint32(n)+1)
	return netip.AddrFrom16(a)
}

// TestFloodOfTests: 200,000 tests of as many addresses leave nothing behind, and get no more answers than the rate.
func TestFloodOfTests(t *testing.T) {
	r := start(t)
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	answers := 0
	init := &mobility.TestInit{}
	for i := range 200_000 {
		init.CareOf = i%2 == 1
		out := r.m.Handle(r.now, core.Message{Path: direct(stranger(i)), Body: init}, nil)
		answers += len(sends(out))
		if i%100 == 99 {
			r.advance(r.now.Boot + time.Millisecond) // 100,000 in a second
		}
	}
	runtime.GC()
	runtime.ReadMemStats(&after)
	if answers < 2900 || answers > 3000 {
		t.Errorf("%d answers in two seconds at 1,000/s with a burst of as many", answers)
	}
	if len(r.m.cache.byKey) != 0 || r.m.nonces.n != 1 {
		t.Errorf("%d entries, %d nonces", len(r.m.cache.byKey), r.m.nonces.n)
	}
	if grown := int64(after.HeapAlloc) - int64(before.HeapAlloc); grown > 1<<20 {
		t.Errorf("%d octets more", grown)
	}
	if n := r.m.counts[string(wire.RateLimit)]; n != uint64(200_000-answers) {
		t.Errorf("%d counted", n)
	}
}

// TestOneNetwork: who asks too much gets a tenth, others go on, and Binding Updates have a rate of their own.
func TestOneNetwork(t *testing.T) {
	r := start(t)
	n := r.tested(hoa, coa)
	r.pass(2 * time.Second)
	answers := 0
	for i := range 5000 {
		a := coa2.As16()
		binary.BigEndian.PutUint32(a[12:], uint32(i))
		answers += len(r.receive(direct(netip.AddrFrom16(a)), &mobility.TestInit{CareOf: true}))
	}
	if answers != 100 {
		t.Errorf("%d answers to one network at once", answers)
	}
	r.test(farHome, false)
	r.is(n, mobility.Accepted)

	// A flood of updates that prove nothing costs those of others nothing, either.
	u := n.update()
	u.Key[0] ^= 1
	for range 5000 {
		r.receive(withHome(coa2, hoa), u)
	}
	n.seq++
	r.is(n, mobility.Accepted)
}

// TestCacheIsFull: of a full cache the binding that was renewed longest ago goes, if it carries nothing and its nonces are old;
// else the new one is refused with status 130.
func TestCacheIsFull(t *testing.T) {
	const limit = 10
	r := start(t, func(c *Config) { c.Limits.Bindings = limit })
	bind := func(i int) mobility.Status {
		n := r.tested(stranger(i), coa)
		n.lifetime = 105
		return r.ack(n).Status
	}
	for i := range limit {
		if s := bind(i); s != mobility.Accepted {
			t.Fatal(s)
		}
		r.pass(time.Second)
	}
	for i := range 20 {
		if s := bind(limit + i); s != mobility.InsufficientResources {
			t.Fatalf("binding %d: %v", limit+i, s)
		}
	}
	if len(r.m.cache.byKey) != limit {
		t.Errorf("%d bindings", len(r.m.cache.byKey))
	}
	// At 210 s all are looked at: the first carries packets.
	for _, e := range r.pass(230 * time.Second) {
		if ask, ok := e.(core.Ask); ok {
			n := uint64(0)
			if ask.Ref == 1 {
				n = 5
			}
			r.handle(core.Answer{Ref: ask.Ref, Body: []core.Counter{{PacketsOut: n}}})
		}
	}
	r.pass(10 * time.Second)
	if s := bind(100); s != mobility.Accepted {
		t.Fatal(s)
	}
	if _, ok := r.m.CareOf(self, stranger(0)); !ok {
		t.Error("the binding in use had to go")
	}
	if _, ok := r.m.CareOf(self, stranger(1)); ok || len(r.m.cache.byKey) != limit {
		t.Errorf("the one renewed longest ago is still there, of %d", len(r.m.cache.byKey))
	}
	if w := emits(r.last, "session"); len(w) != 2 || w[0] != "replaced" {
		t.Errorf("%v", w)
	}
}

// TestRateOfUnreadable: what cannot be read has a rate as well, and is answered only where its type is not known.
func TestRateOfUnreadable(t *testing.T) {
	r := start(t)
	raw := func(n int) []core.Send {
		return r.receive(withHome(coa, hoa), &mobility.Raw{MHType: 99, Data: make([]byte, n)})
	}
	s := raw(18)
	if len(s) != 1 {
		t.Fatalf("%+v", r.last)
	}
	be := s[0].Body.(*mobility.BindingError)
	if be.Status != mobility.UnrecognizedMHType || be.Home != hoa || s[0].Path != direct(coa) {
		t.Errorf("%+v by %+v", be, s[0].Path)
	}
	if s := raw(10); len(s) != 0 {
		t.Errorf("16 octets are answered with 24: %+v", s)
	}
	answers := 0
	for range 3000 {
		answers += len(raw(18))
	}
	if answers > 10 {
		t.Errorf("%d Binding Errors to one network at once", answers)
	}
	r.silent(direct(stranger(1)), &mobility.Test{}, "unsupported-message")
	r.silent(direct(stranger(1)), &mobility.BindingAck{}, "unsupported-message")
	r.silent(direct(stranger(1)), &mobility.BindingError{Status: 1, Home: hoa}, "unsupported-message")
}

// TestAllocations: a test costs the token's HMAC and the answer, and nothing that stays.
func TestAllocations(t *testing.T) {
	r := start(t)
	init := &mobility.TestInit{CareOf: true}
	ev := core.Event(core.Message{Path: direct(coa), Body: init})
	out := make([]core.Effect, 0, 8)
	if n := testing.AllocsPerRun(200, func() {
		r.advance(r.now.Boot + 20*time.Millisecond)
		if out = r.m.Handle(r.now, ev, out[:0]); len(out) != 1 {
			t.Fatal(out)
		}
	}); n > 12 {
		t.Errorf("%v allocations", n)
	} else {
		t.Logf("%v allocations", n)
	}
}
