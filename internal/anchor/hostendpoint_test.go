package anchor

import (
	"bytes"
	"errors"
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"

	"kedge/internal/core"
	"kedge/internal/spec"
)

// endpoints handles an event and gives the tunnels of associations that moved, and whether one came before the answer.
func (r *rig) endpoints(ev core.Event) (moved []core.Endpoint, sentFirst bool) {
	r.t.Helper()
	var done []core.Done
	for _, e := range r.m.Handle(r.now, ev, nil) {
		switch e := e.(type) {
		case core.Endpoint:
			moved = append(moved, e)
		case core.Send:
			sentFirst = sentFirst || len(moved) == 0
			if e.Ref != 0 {
				done = append(done, core.Done{Ref: e.Ref})
			}
		case core.Forward:
			if e.Ref != 0 {
				done = append(done, core.Done{Ref: e.Ref})
			}
		}
	}
	for _, d := range done {
		r.m.Handle(r.now, d, nil)
	}
	return moved, sentFirst
}

// TestEndpointsFollowBindings: of a Binding Update that ESP protected, and of no other; before its answer leaves.
func TestEndpointsFollowBindings(t *testing.T) {
	spec.Covers(t, "RFC4877-4.3")
	at := func(local, remote netip.Addr) []core.Endpoint {
		return []core.Endpoint{{Peer: "mn1", Home: hoa1, Local: local, Remote: remote}}
	}
	r := startHosts(t)
	seen := netip.AddrPortFrom(v4coa, 5000)
	for _, c := range []struct {
		name string
		bu   bu
		want []core.Endpoint
	}{
		{"new", native(hoa1, coa1), at(lmaa, coa1)},
		{"refresh", native(hoa1, coa1), nil},
		{"movement", native(hoa1, coa2), at(lmaa, coa2)},
		{"over IPv4", udp(hoa1, v4coa, seen), at(ha4, v4coa)},
		{"back", native(hoa1, coa1), at(lmaa, coa1)},
		{"of another node's key", native(hoa1, coa2).with(func(b *bu) { b.auth.Peer = "mn2" }), nil},
		{"home", atHome(hoa1), at(netip.Addr{}, netip.Addr{})},
		{"again", atHome(hoa1), nil},
	} {
		got, late := r.endpoints(r.hostMessage(c.bu))
		if d := cmp.Diff(c.want, got, cmp.Comparer(func(a, b netip.Addr) bool { return a == b })); d != "" || late && len(c.want) > 0 {
			t.Errorf("%s: answered first: %v, (-want +got)\n%s", c.name, late, d)
		}
	}
	if got, _ := r.endpoints(r.hostMessage(native(hoa6, coa1))); got != nil {
		t.Errorf("nobody protected it: %v", got)
	}
}

// TestEndpointsEndWithBindings: when the lifetime is over, and after a restart they are as the bindings that are left.
func TestEndpointsEndWithBindings(t *testing.T) {
	r := startHosts(t)
	r.ok0(native(hoa1, coa1))
	m, err := New(r.cfg, bytes.NewReader(bytes.Repeat([]byte{7}, 1<<16)))
	if err != nil {
		t.Fatal(err)
	}
	var restored []core.Effect
	for k, v := range r.store {
		restored = m.Handle(r.now, core.Restored{Key: []byte(k), Val: v}, restored)
	}
	restored = m.Handle(r.now, core.Restored{Last: true}, restored)
	if got := only(restored); len(got) != 1 || got[0] != (core.Endpoint{Peer: "mn1", Home: hoa1, Local: lmaa, Remote: coa1}) {
		t.Errorf("restored: %v", got)
	}
	at, ok := m.Deadline()
	for n := 0; ok && n < 100; n++ {
		r.now.Wall = r.now.Wall.Add(at - r.now.Boot)
		r.now.Boot = at
		if got := only(m.Handle(r.now, core.Tick{}, nil)); len(got) > 0 {
			if got[0] != (core.Endpoint{Peer: "mn1", Home: hoa1}) {
				t.Errorf("expired: %v", got)
			}
			return
		}
		at, ok = m.Deadline()
	}
	t.Error("the binding expired, and the tunnel did not end")
}

// TestEndpointsOfWhatFailed: a registration that could not be stored leaves the tunnel where the former one has it.
func TestEndpointsOfWhatFailed(t *testing.T) {
	r := startHosts(t)
	r.ok0(native(hoa1, coa1))
	var refs []core.Ref
	for _, e := range r.m.Handle(r.now, r.hostMessage(native(hoa1, coa2)), nil) {
		if f, ok := e.(core.Forward); ok && f.Ref != 0 {
			refs = append(refs, f.Ref)
		}
	}
	var got []core.Endpoint
	for _, ref := range refs {
		got = append(got, only(r.m.Handle(r.now, core.Done{Ref: ref, Err: errors.New("disk full")}, nil))...)
	}
	if len(got) != 1 || got[0] != (core.Endpoint{Peer: "mn1", Home: hoa1, Local: lmaa, Remote: coa1}) {
		t.Errorf("undone: %v", got)
	}
}

// ok0 wants a request to be accepted.
func (r *rig) ok0(b bu) {
	r.t.Helper()
	r.status(b, 0)
}

func only(effects []core.Effect) (out []core.Endpoint) {
	for _, e := range effects {
		if e, ok := e.(core.Endpoint); ok {
			out = append(out, e)
		}
	}
	return out
}
