package anchor

import (
	"bytes"
	"encoding/binary"
	"net/netip"
	"slices"
	"testing"

	"kedge/internal/core"
	"kedge/wire/mobility"
)

// FuzzMachine gives the anchor octets as two gateways might send them, one message after another. Whatever comes: no
// panic, every answer can be built, the parts agree, and nothing is left when all lifetimes are over.
func FuzzMachine(f *testing.F) {
	r := start(f)
	frame := func(from byte, b []byte) []byte {
		return append(binary.BigEndian.AppendUint16([]byte{from}, uint16(len(b))), b...)
	}
	var all []byte
	dereg := attach(mag1, h1, mac1)
	dereg.lifetime = 0
	sel := attach(mag1, h1, mac1)
	sel.lifetime, sel.hnp = 0, nil
	draft := attach(mag2, "static@example.net", nil)
	draft.v4 = draft29("10.20.0.10", 32)
	bad := attach(mag2, h1, mac2)
	bad.hnp = []netip.Prefix{pfx("2001:db8:1000::/64"), zeroHNP, pfx("::/64")}
	bad.more = []mobility.Value{mobility.LinkLocalAddress{Addr: netip.IPv6Unspecified()}, mobility.AlternateCareOf{Addr: mag2}, mobility.RawOption{Opt: 200, Data: []byte{1}}}
	for _, p := range []pbu{attach(mag1, h1, mac1), attach(mag2, h1, mac2), sel, dereg, draft, bad} {
		p.noTS = true // or no seed would be in order
		from := byte(1)
		if p.from == mag2 {
			from = 2
		}
		b := frame(from, r.message(p).Raw)
		all = append(all, b...)
		f.Add(b)
	}
	f.Add(all)
	hb, err := mobility.Append(nil, &mobility.Heartbeat{Sequence: 1}, mag1, lmaa)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(frame(1, hb))
	f.Fuzz(func(t *testing.T, in []byte) {
		r := start(t)
		for n := 0; len(in) >= 3 && n < 20; n++ {
			from := mag1
			if in[0]%2 == 0 {
				from = mag2
			}
			size := min(int(binary.BigEndian.Uint16(in[1:])), len(in)-3)
			b := bytes.Clone(in[3 : 3+size])
			in = in[3+size:]
			if len(b) >= 8 { // a right checksum, or nothing comes further
				b[4], b[5] = 0, 0
				binary.BigEndian.PutUint16(b[4:], checksum(b, from, lmaa))
			}
			msg, err := mobility.Parse(b, from, lmaa)
			m := core.Message{Path: path(lmaa, from), Err: err, Raw: b}
			if msg != nil {
				m.Body = msg
			}
			sent := len(r.sent)
			r.handle(m)
			clear(b) // the machine keeps nothing of it
			for _, s := range r.sent[sent:] {
				if _, err := mobility.Append(nil, s.Body.(mobility.Message), lmaa, from); err != nil {
					t.Fatalf("an answer that cannot be built: %v", err)
				}
			}
		}
		for i := range r.m.cache.All() {
			for _, k := range r.m.cache.Homes(i).Keys() {
				if r.keys[k].ID != r.m.cache.At(i).ID {
					t.Fatalf("%v is not forwarded", k)
				}
			}
		}
		before := r.m.bindings("")
		r.restart()
		after := r.m.bindings("")
		if !slices.EqualFunc(before, after, func(a, b core.Binding) bool { return a.Session == b.Session && a.ID == b.ID && a.IPv4 == b.IPv4 }) {
			t.Fatalf("restored %v, was %v", after, before)
		}
		r.leakless()
	})
}

// FuzzRecord reads records of the store: what is accepted is written back octet by octet equal.
func FuzzRecord(f *testing.F) {
	r := start(f)
	r.ok(attach(mag1, h1, mac1))
	r.ok(attach(mag2, "three@example.net", nil))
	for _, v := range r.store {
		f.Add(v)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		rec, err := decode(b)
		if err != nil {
			return
		}
		cfg := testConfig()
		m, err := New(cfg, bytes.NewReader(nil))
		if err != nil {
			t.Fatal(err)
		}
		m.now = core.Now{Wall: rec.expires}
		i := m.cache.Add(rec.entry, rec.node, rec.linkLayer)
		if m.cache.SetHomes(i, rec.homes) != nil {
			return // a prefix twice
		}
		e := m.cache.At(i)
		e.State = rec.state
		if rec.gateway.IsValid() && !rec.gateway.IsUnspecified() {
			e.Gateway, _ = m.gateways.enter(rec.gateway, lmaa, "")
		}
		if got := m.encode(i); !bytes.Equal(got, b) {
			t.Fatalf("%x\nwas %x", got, b)
		}
	})
}
