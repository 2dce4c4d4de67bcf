package gateway

import (
	"net/netip"
	"testing"
	"time"

	"kedge/internal/core"
	"kedge/internal/heartbeat"
	"kedge/internal/spec"
	"kedge/wire"
	"kedge/wire/mobility"
)

func heartbeatConfig() Config {
	cfg := testConfig()
	cfg.HeartbeatOff = false
	cfg.Heartbeat = heartbeat.Config{Interval: 10 * sec, MaxMissing: 2}
	cfg.Timers.Lifetime = 400 * sec
	return cfg
}

// heartbeats takes the heartbeats sent since message n.
func (b *bench) heartbeats(n int) (all []*mobility.Heartbeat) {
	for _, s := range b.out[n:] {
		if hb, ok := s.body.(*mobility.Heartbeat); ok {
			all = append(all, hb)
		}
	}
	return all
}

func response(seq, restarts uint32) *mobility.Heartbeat {
	return &mobility.Heartbeat{Response: true, Sequence: seq, Options: mobility.Options(nil).Add(mobility.RestartCounter{Value: restarts})}
}

// Heartbeats go to an anchor while it has sessions; a changed restart counter brings all of them back at once, spread
// over a second, as initial registrations with what the hosts had.
func TestAnchorRestart(t *testing.T) {
	spec.Covers(t, "RFC5847-3", "RFC5847-3.2")
	b := newBenchRand(t, heartbeatConfig(), &counting{})
	b.until(100 * sec)
	if len(b.heartbeats(0)) != 0 {
		t.Error("heartbeats without a session")
	}
	var macs []core.MAC
	for i := range 20 {
		mac := core.MAC{2, 0, 0, 0, 1, byte(i)}
		macs = append(macs, mac)
		b.mld(3, mac)
		b.answer(b.pbu(), reply{hnp: []netip.Prefix{netip.PrefixFrom(netip.AddrFrom16([16]byte{0x20, 1, 0xd, 0xb8, 0x10, 0, 0, byte(i)}), 64)},
			v4: netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 20, 1, byte(i + 1)}), 16)})
	}
	b.until(102 * sec)
	hbs := b.heartbeats(0)
	if len(hbs) != 1 {
		t.Fatalf("%d heartbeats", len(hbs))
	}
	b.receive(lmaa, response(hbs[0].Sequence, 5))
	b.until(112 * sec)
	b.pbus()
	hbs = b.heartbeats(0)
	start := b.now.Boot
	b.receive(lmaa, response(hbs[len(hbs)-1].Sequence, 6))
	b.until(start + sec)
	us := b.pbus()
	if len(us) != len(macs) {
		t.Fatalf("%d updates after the restart, want %d", len(us), len(macs))
	}
	times := map[time.Duration]bool{}
	for _, u := range us {
		times[u.at] = true
		if u.handoff() != mobility.HandoffUnknown || len(u.hnps()) != 1 || u.hnps()[0].Bits() != 64 || u.v4().Addr().IsUnspecified() || u.Lifetime == 0 {
			t.Errorf("update %v", u)
		}
		b.answer(u, reply{})
	}
	if len(times) < len(macs)/2 {
		t.Errorf("%d updates at %d different times: no jitter", len(us), len(times))
	}
	for _, mac := range macs {
		b.state(mac, active)
	}
	if e := b.emitted("peer"); len(e) != 2 || e[0].To != "alive" || e[1].To != "restarted" {
		t.Errorf("told %+v", e)
	}
	if alive, c, _ := b.m.monitor.Status(lmaa); !alive || c != 6 {
		t.Errorf("status %v %d", alive, c)
	}
	// The last session ends, and so do the heartbeats.
	for _, mac := range macs {
		b.do(core.Command{Body: core.Detach{If: "acc0", MAC: mac}})
	}
	b.until(b.now.Boot + 2*sec)
	n := len(b.out)
	b.until(b.now.Boot + 100*sec)
	if len(b.heartbeats(n)) != 0 {
		t.Error("heartbeats without a session")
	}
}

// counting is a reader whose 32-bit words differ.
type counting struct{ n uint32 }

func (c *counting) Read(b []byte) (int, error) {
	for i := range b {
		if i%4 == 0 {
			c.n = c.n*1664525 + 1013904223
		}
		b[i] = byte(c.n >> (24 - 8*(i%4)))
	}
	return len(b), nil
}

// An unsolicited response says so at once. Forged ones, and those of strangers, do not.
func TestAnchorAnnouncesRestart(t *testing.T) {
	b := newBench(t, heartbeatConfig())
	b.bind(3, macA)
	b.until(sec)
	b.receive(lmaa, response(b.heartbeats(0)[0].Sequence, 5))
	stranger := netip.MustParseAddr("2001:db8:a::66")
	for _, from := range []netip.Addr{stranger, lmaa} {
		b.receive(from, response(77, 9))
		b.until(b.now.Boot + 5*sec)
		b.none()
	}
	b.counted(wire.Unsolicited, 2)
	b.receive(lmaa, heartbeat.New(heartbeat.Config{}, 6, zeros{}).Announcement())
	b.until(b.now.Boot + sec/2)
	b.answer(b.pbu(), reply{})
	b.state(macA, active)
}

func TestAnchorDead(t *testing.T) {
	spec.Covers(t, "RFC5847-3.1")
	b := newBench(t, heartbeatConfig())
	b.bind(3, macA)
	b.until(40 * sec)
	e := b.emitted("peer")
	if len(e) != 1 || e[0].To != "dead" {
		t.Fatalf("told %+v", e)
	}
	if s := b.m.status(); s.Peers[0].Alive || s.Peers[0].Sessions != 1 {
		t.Errorf("status %+v", s.Peers)
	}
	b.state(macA, active) // the path may come back before the binding ends
	hbs := b.heartbeats(0)
	b.receive(lmaa, response(hbs[len(hbs)-1].Sequence, 1))
	if e := b.emitted("peer"); len(e) != 2 || e[1].To != "alive" {
		t.Errorf("told %+v", e)
	}
}

func TestAnchorWithoutHeartbeat(t *testing.T) {
	spec.Covers(t, "RFC5847-3")
	b := newBench(t, heartbeatConfig())
	b.bind(3, macA)
	be := &mobility.BindingError{Status: 2, Home: netip.IPv6Unspecified()}
	b.receive(netip.MustParseAddr("2001:db8:a::66"), be)
	b.counted(wire.UnknownPeer, 1)
	b.until(sec)
	b.receive(lmaa, be)
	n := len(b.out)
	b.until(300 * sec)
	if len(b.heartbeats(n)) != 0 {
		t.Error("asked again")
	}
	b.receive(lmaa, be)
	b.counted(wire.Unsolicited, 1)
}

// Message types that a gateway does not understand are counted and answered by a Binding Error 2; strangers and binding
// errors get no answer.
func TestUnsupportedMessages(t *testing.T) {
	for _, m := range []mobility.Message{
		&mobility.BindingRefreshRequest{}, &mobility.BindingUpdate{Sequence: 1, Lifetime: 1},
		&mobility.TestInit{},
	} {
		b := newBench(t, testConfig())
		b.receive(netip.MustParseAddr("2001:db8:a::66"), m)
		if len(b.out) != 0 {
			t.Errorf("%T of a stranger was answered", m)
		}
		b.receive(lmaa, m)
		b.counted(wire.UnsupportedMessage, 1)
		if len(b.out) != 1 || b.out[0].body.(*mobility.BindingError).Status != 2 || b.out[0].to != lmaa {
			t.Errorf("%T: answered %+v", m, b.out)
		}
	}
	b := newBench(t, testConfig())
	raw := &mobility.Raw{MHType: 99, Data: make([]byte, 10)}
	for i, from := range []netip.Addr{lmaa2, lmaa} {
		b.do(core.Message{Path: core.Path{Local: netip.AddrPortFrom(coa, 0), Remote: netip.AddrPortFrom(from, 0)}, Body: raw,
			Err: &wire.Error{Msg: "MH type 99", Reason: wire.UnknownType}})
		if len(b.out) != i {
			t.Errorf("unknown type from %v: %d answers", from, len(b.out))
		}
	}
	b.out = nil
	b.receive(lmaa, &mobility.BindingError{Status: 1, Home: netip.MustParseAddr("2001:db8::1")})
	if len(b.out) != 0 {
		t.Error("an error was answered by an error")
	}
	// What could not be read is counted with its reason.
	b.do(core.Message{Path: core.Path{Remote: netip.AddrPortFrom(lmaa, 0)}, Err: &wire.Error{Msg: "Binding Acknowledgement", Reason: wire.BadChecksum}})
	b.counted(wire.BadChecksum, 1)
}
