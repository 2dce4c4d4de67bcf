package optimize

import (
	"bytes"
	"net/netip"
	"slices"
	"testing"
	"time"

	"kedge/internal/core"
	"kedge/wire/mobility"
)

// TestRestart: what correspondents hold outlives the process: their data is let in before anything else is known, leaves directly as
// soon as the care-of address is there, and the binding is renewed.
func TestRestart(t *testing.T) {
	r := established(t, traffic())
	r.run(30 * sec)
	before := r.m.find(cn)
	r.forget()
	r.boot(traffic())
	if !r.letsIn(cn, coa1) {
		t.Fatal("data is not let in")
	}
	if e := r.m.find(cn); e.id != before.id || e.seq != before.seq+seqMargin || e.lives > before.lives+sec || e.lives < before.lives-sec {
		t.Errorf("entry of session %d, number %d, until %v; was %d, %d, %v", e.id, e.seq, e.lives, before.id, before.seq, before.lives)
	}
	r.wantDirect(cn, netip.Addr{})
	r.away(coa1)
	r.wantDirect(cn, coa1)
	r.run(homeRTT + rtt)
	r.wantDirect(cn, coa1)
	if got := r.messages(); len(got) != 3 {
		t.Errorf("sent %v", got)
	}
	if r.m.find(cn).bind.expires < r.now.Boot+400*sec {
		t.Error("the binding is not renewed")
	}
	// The correspondent was restarted as well: an answer says so, and nothing is lost for long.
	r.boot(traffic())
	r.correspondent(cn)
	r.away(coa1)
	r.run(homeRTT + rtt)
	if r.boundAt(cn) != coa1 {
		t.Errorf("the correspondent has %v", r.boundAt(cn))
	}
	// Elsewhere.
	r.boot(traffic())
	r.away(coa2)
	r.wantDirect(cn, netip.Addr{})
	if !r.letsIn(cn, coa1) {
		t.Error("what comes to the old address is not let in")
	}
	r.run(homeRTT + rtt)
	r.wantDirect(cn, coa2)
}

// TestSecretsStayOut: neither tokens, cookies nor keys are stored, told or shown.
func TestSecretsStayOut(t *testing.T) {
	r := established(t, traffic())
	e := r.m.find(cn)
	if len(e.care) != 1 || !e.home.ok {
		t.Fatal("no tokens")
	}
	for _, secret := range [][]byte{e.home.value[:], e.care[0].value[:], e.upd.sent[0].key} {
		if bytes.Contains(r.store, secret) {
			t.Error("a secret is in the record")
		}
	}
	if bytes.Contains(r.store, []byte("oken")) {
		t.Errorf("record %s", r.store[1:])
	}
	b := r.m.Bindings(r.now, "n1", "")
	if len(b) != 1 {
		t.Fatalf("rows %+v", b)
	}
	want := core.Binding{ID: "n1", Session: e.id, State: "direct", Kind: "host", Families: []string{"v6"}, Home: []netip.Prefix{single(hoa)}, Anchor: cn, Dialect: "rfc6275",
		Since: start.Add(homeRTT + rtt), Sequence: e.bind.seq, CareOf: coa1, Framing: "ip", Protection: "return-routability",
		Lifetime: MaxBindingLifetime, Expires: start.Add(homeRTT + MaxBindingLifetime)}
	if !b[0].Since.Equal(want.Since) || !b[0].Expires.Equal(want.Expires) {
		t.Errorf("since %v, expires %v", b[0].Since, b[0].Expires)
	}
	b[0].Since, b[0].Expires = want.Since, want.Expires
	if !slices.Equal(b[0].Families, want.Families) || !slices.Equal(b[0].Home, want.Home) || b[0].CareOf != want.CareOf || b[0].State != want.State || b[0].Anchor != cn {
		t.Errorf("row %+v, want %+v", b[0], want)
	}
	for filter, n := range map[string]int{"n1": 1, "2001:db8:d::99": 1, "2000::5": 1, "nobody": 0} {
		if got := len(r.m.Bindings(r.now, "n1", filter)); got != n {
			t.Errorf("filter %q: %d rows", filter, got)
		}
	}
}

// TestRestoreBad: a record that is none changes nothing, one that does not fit is left out.
func TestRestoreBad(t *testing.T) {
	r := established(t, traffic())
	fresh := func() *Machine {
		m, err := New(traffic(), r.rng, Hooks{Session: func() core.ID { return 1 }})
		if err != nil {
			t.Fatal(err)
		}
		return m
	}
	for _, val := range [][]byte{nil, {}, {2}, {1}, []byte("\x01{"), []byte("\x01[]")} {
		if m := fresh(); m.Restore(r.now, hoa, val) == nil || len(m.list) != 0 {
			t.Errorf("record %q is taken", val)
		}
	}
	if m := fresh(); m.Restore(r.now, ha, r.store) != nil || len(m.list) != 0 {
		t.Error("the record of another home address is taken")
	}
	later := r.now
	later.Wall = later.Wall.Add(MaxBindingLifetime + time.Minute)
	if m := fresh(); m.Restore(later, hoa, r.store) != nil || len(m.list) != 0 {
		t.Error("a binding that has ended is taken")
	}
	later.Wall = r.now.Wall.Add(-time.Hour) // the clock was set back
	if m := fresh(); m.Restore(later, hoa, r.store) != nil || len(m.list) != 0 {
		t.Error("a binding that lives for too long is taken")
	}
	for old, new := range map[string]string{`"2001:db8:d::99"`: `"ff02::1"`, `"wire":"2001:db8:f1::7"`: `"wire":"::1"`, `"session":`: `"sessiox":`} {
		val := bytes.ReplaceAll(r.store, []byte(old), []byte(new))
		if bytes.Equal(val, r.store) {
			t.Fatalf("%s is not in %s", old, r.store[1:])
		}
		if m := fresh(); m.Restore(r.now, hoa, val) != nil || len(m.list) != 0 {
			t.Errorf("with %s it is taken", new)
		}
	}
}

// TestFarewell: correspondents are told that the node ends, if it has a home keygen token, and nobody waits.
func TestFarewell(t *testing.T) {
	r := established(t, traffic())
	r.forget()
	r.effects(r.m.Stop(r.now, r.m.Farewell(r.now, nil)))
	r.run(rtt)
	if len(r.sent) != 1 || r.boundAt(cn).IsValid() || len(r.m.list) != 0 || len(r.data) != 0 {
		t.Errorf("sent %v, bound at %v, sessions %v", r.messages(), r.boundAt(cn), r.data)
	}
	if _, due := r.m.Deadline(); due {
		t.Error("something is due")
	}
	r = established(t, traffic())
	r.m.find(cn).home.at -= MaxTokenLifetime
	r.forget()
	r.effects(r.m.Farewell(r.now, nil))
	r.wantMessages()
}

// TestStop: sessions go; nothing is sent and nothing is due.
func TestStop(t *testing.T) {
	r := established(t, traffic())
	r.forget()
	r.effects(r.m.Stop(r.now, nil))
	if len(r.m.list) != 0 || len(r.data) != 0 || len(r.sent) != 0 {
		t.Errorf("%d entries, sessions %v, sent %v", len(r.m.list), r.data, r.messages())
	}
}

// FuzzRestore: no record makes the machine panic, or hold more than its limit.
func FuzzRestore(f *testing.F) {
	r := established(f, traffic())
	f.Add(r.store)
	f.Add([]byte("\x01{}"))
	f.Add([]byte(`` + "\x01" + `{"home":"2001:db8:2000::5","entries":[{"peer":"2001:db8::1","wire":"2001:db8::2","session":1,"lives":"2026-03-01T12:01:00Z"}]}`))
	f.Fuzz(func(t *testing.T, val []byte) {
		m, err := New(Config{Use: Traffic, Limit: 4}, r.rng, Hooks{Session: func() core.ID { return 1 }})
		if err != nil {
			t.Fatal(err)
		}
		_ = m.Restore(r.now, hoa, val)
		if len(m.list) > 4 {
			t.Errorf("%d entries", len(m.list))
		}
		out := m.Start(r.now, nil)
		for i := range 50 {
			at, ok := m.Deadline()
			if !ok {
				return
			}
			now := core.Now{Boot: max(at, r.now.Boot), Wall: r.now.Wall}
			out = m.Handle(now, core.Tick{}, out[:0])
			if i == 49 && at < r.now.Boot {
				t.Error("it does not come to rest")
			}
		}
	})
}

// FuzzMessages: whatever correspondents, and those who say they are, send, the machine does not panic, and data leaves directly only
// with a binding.
func FuzzMessages(f *testing.F) {
	r := established(f, traffic())
	for _, s := range append(slices.Clone(r.sent), r.heard...) {
		f.Add(s.raw, uint8(0))
	}
	f.Add([]byte{59, 2, 7, 0, 0, 0, 1, 0, 0x20, 1, 0xd, 0xb8, 0x20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 5}, uint8(1))
	f.Fuzz(func(t *testing.T, raw []byte, how uint8) {
		r := established(t, traffic())
		path := core.Path{If: 2, Local: addrPort(coa1), Remote: addrPort(cn)}
		dst := coa1
		switch how % 3 {
		case 1:
			path.Own, dst = hoa, hoa
		case 2:
			path.Local, path.Outer, dst = addrPort(hoa), tunnel, hoa
		}
		raw = slices.Clone(raw)
		if mobility.SetChecksum(raw, cn, dst) != nil {
			return
		}
		body, err := mobility.Parse(raw, cn, dst)
		if err != nil {
			return
		}
		msg := core.Message{Path: path, Body: body, Raw: raw}
		if r.m.Takes(&msg) {
			r.handle(msg)
		}
		if r.directTo(cn).IsValid() && !r.m.find(cn).bind.ok() {
			t.Error("data leaves directly without a binding")
		}
		r.run(sec)
		if r.boundAt(cn) != coa1 {
			t.Error("the binding is gone")
		}
		r.run(2 * time.Minute)
		r.wantDirect(cn, coa1)
	})
}
