package node

import (
	"encoding/json"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"
	"time"

	"kedge/internal/core"
	"kedge/wire/mobility"
)

// TestRestart: another run keeps the tunnel, goes on with a greater number, and registers at once.
func TestRestart(t *testing.T) {
	r, n := v6rig(t, nil)
	r.run(10 * sec)
	chain, seq, secret := r.m.session.chain, r.m.seq, slices.Clone(r.m.secret)
	r.forget()
	r.run(5 * sec) // it is dead
	r.forget()
	r.boot(baseConfig())
	want := []core.Op{
		core.SetSession{ID: 1, Chain: chain, Grace: 5 * sec},
		core.SetKey{ID: 1, Match: core.Match{Src: host(hoa6)}, Up: true, Down: true},
		core.SetKey{ID: 1, Match: core.Match{Src: host(hoa4)}, Up: true, Down: true},
	}
	if !slices.Equal(r.ops, want) {
		t.Errorf("forwarding %+v, want %+v", r.ops, want)
	}
	r.wantState(detached)
	r.show(n)
	r.wantState(updating)
	_, bu := r.lastUpdate()
	if d := bu.Sequence - seq; d == 0 || d > 2*seqMargin {
		t.Errorf("number %d after %d", bu.Sequence, seq)
	}
	r.run(20 * ms)
	if !r.ok() || len(r.ops) != len(want) {
		t.Errorf("not bound, or the tunnel was touched: %+v; %s", r.ops, r.story())
	}
	if !slices.Equal(r.m.secret, secret) {
		t.Error("interface identifiers would change")
	}
	r.show(r.net(2, "192.0.2.7"))
	r.run(sec)
	if !r.ok() || r.m.session.id != 1 {
		t.Errorf("session %d", r.m.session.id)
	}
}

// TestRestartUnanswered: the tunnel of an earlier run works, and more links appear. The registration is repeated until it is answered
// all the same: without the answer nobody knows of a NAT, or when to refresh.
func TestRestartUnanswered(t *testing.T) {
	r, n := v6rig(t, nil)
	r.run(10 * sec)
	r.boot(baseConfig())
	r.forget()
	r.agent.mute = true
	r.show(n)
	r.run(5 * ms)
	r.show(n, r.net(2, "192.0.2.7"))
	r.run(200 * ms)
	r.agent.mute = false
	r.run(2 * sec)
	if us, _ := r.updates(); !r.ok() || len(us) != 2 || r.m.bind.refreshAt == never {
		t.Errorf("%d Binding Updates, refresh at %v; %s", len(us), r.m.bind.refreshAt, r.story())
	}
}

// TestRestartElsewhere: the network is another one by now.
func TestRestartElsewhere(t *testing.T) {
	r, _ := v6rig(t, nil)
	r.run(sec)
	r.boot(baseConfig())
	r.show(r.net(2, "192.0.2.7"))
	r.run(sec)
	if !r.ok() {
		t.Errorf("not bound: %s", r.story())
	}
}

// TestRestartAfterTheEnd: of a binding that expired meanwhile nothing is taken over.
func TestRestartAfterTheEnd(t *testing.T) {
	r, _ := v6rig(t, nil)
	r.run(sec)
	r.advance(r.now.Boot + time.Hour)
	r.forget()
	r.boot(baseConfig())
	if len(r.ops) != 0 || r.m.bound() {
		t.Errorf("forwarding %+v", r.ops)
	}
	// Session ids of another run are other ones.
	r.show(r.net(2, "192.0.2.7"))
	r.run(sec)
	if id := r.m.session.id; !r.ok() || id != 1<<32|1 {
		t.Errorf("session %x", uint64(id))
	}
}

// TestRestartWithoutRecord: whatever number the home agent has, the node finds it by status 135.
func TestRestartWithoutRecord(t *testing.T) {
	r, n := v6rig(t, nil)
	r.run(sec)
	r.store = nil
	r.boot(baseConfig())
	r.forget()
	r.show(n)
	r.run(60 * ms)
	if us, _ := r.updates(); !r.ok() || len(us) > 2 {
		t.Errorf("%d Binding Updates; %s", len(us), r.story())
	}
}

// TestRestartUnderAnotherHomeAddress: the record is of another node; only what was learned of networks counts.
func TestRestartUnderAnotherHomeAddress(t *testing.T) {
	r, _ := v6rig(t, nil)
	r.run(sec)
	r.forget()
	cfg := baseConfig()
	cfg.Home.V6 = netip.MustParsePrefix("2001:db8:2000::6/64")
	r.boot(cfg)
	if len(r.ops) != 0 || r.m.bound() || len(r.m.nets.list) == 0 {
		t.Errorf("forwarding %+v", r.ops)
	}
}

// TestReturnHomeAfterRestart: that a binding may be left is known across the restart.
func TestReturnHomeAfterRestart(t *testing.T) {
	r, _ := v6rig(t, nil)
	r.run(sec)
	r.boot(baseConfig())
	at := r.net(4, "2001:db8:2000::99")
	at.care.Home = true
	r.agent.down = true
	r.show(at)
	r.run(60 * sec)
	r.wantState(returning)
}

// TestMemoryIsBounded: of a thousand networks the last ones are remembered.
func TestMemoryIsBounded(t *testing.T) {
	r := newRig(t, nil)
	for i := range 1000 {
		n := r.net(i+1, netip.AddrFrom16([16]byte{0x20, 1, 0xd, 0xb8, byte(i >> 8), byte(i), 15: 7}).String())
		r.show(n)
		r.run(400 * ms)
		if i%100 == 99 && !r.ok() {
			t.Fatal("not bound")
		}
	}
	var rec record
	if err := json.Unmarshal(r.store[1:], &rec); err != nil {
		t.Fatal(err)
	}
	if len(rec.Networks) != maxNetworks || rec.Networks[maxNetworks-1].Name != "net1000 v6" {
		t.Errorf("%d networks, the last is %s", len(rec.Networks), rec.Networks[len(rec.Networks)-1].Name)
	}
	if len(r.m.history) > historyDepth || len(r.m.sent) > maxSent || len(r.store) > 32<<10 {
		t.Errorf("history %d, sent %d, record %d octets", len(r.m.history), len(r.m.sent), len(r.store))
	}
}

// FuzzRecord: whatever the store gives back, the node starts and registers.
func FuzzRecord(f *testing.F) {
	f.Add([]byte(nil))
	f.Add([]byte{recordVersion})
	f.Add([]byte{recordVersion + 1, '{', '}'})
	t := &testing.T{}
	for _, addr := range []string{"2001:db8:1::7", "192.0.2.7"} {
		r := newRig(t, nil)
		r.show(r.net(1, addr))
		r.run(10 * sec)
		f.Add(slices.Clone(r.store))
		f.Add(slices.Clone(r.store[:len(r.store)/2]))
	}
	f.Fuzz(func(t *testing.T, val []byte) {
		m, err := New(baseConfig(), rand.NewChaCha8([32]byte{7}))
		if err != nil {
			t.Fatal(err)
		}
		m.strict = true
		r := &rig{t: t, now: core.Now{Boot: begin, Wall: wall}, rng: rand.New(rand.NewPCG(1, 2)), links: &links{}, host: map[string]core.HostOp{}, m: m}
		r.agent = &agent{r: r}
		r.handle(core.Restored{Key: []byte(recordKey), Val: val})
		m.move = r.links
		r.handle(core.Restored{Last: true})
		r.show(r.net(1, "2001:db8:1::7"))
		if !r.until(40*sec, r.ok) {
			t.Errorf("not bound: %s", r.story())
		}
		if _, bu := r.lastUpdate(); bu.Flags&mobility.BUHome == 0 {
			t.Error("no home registration")
		}
	})
}
