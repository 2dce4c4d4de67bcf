package anchor

import (
	"testing"
	"time"

	"kedge/internal/core"
	"kedge/internal/spec"
	"kedge/wire/mobility"
)

// TestTimestamps is RFC 5213 5.5 at the machine: an old message of the former gateway does not take the session back.
func TestTimestamps(t *testing.T) {
	spec.Covers(t, "S001-3.3.2-24", "S001-3.2.2-31")
	r := start(t)
	r.ok(attach(mag1, h1, mac1))
	r.pass(time.Second)
	late := attach(mag1, h1, mac1)
	ts := mobility.TimestampOf(r.now.Wall)
	late.ts = &ts
	r.pass(50 * time.Millisecond)
	p := attach(mag2, h1, mac1)
	r.pass(time.Millisecond)
	sent := mobility.TimestampOf(r.now.Wall)
	p.ts = &sent
	a := r.ok(p)
	if got, _ := a.Options.Timestamp(); got != sent {
		t.Errorf("timestamp %v in the answer, want the request's", got.Time())
	}
	if a := r.is(late, mobility.TimestampLowerThanPrevious); a.Sequence != r.seq {
		t.Error("the sequence number is copied, not processed")
	}
	if r.one(h1).ProxyCoA != mag2 {
		t.Fatal("an old message moved the session")
	}
	dup := p // the network doubles a message
	r.is(dup, mobility.TimestampLowerThanPrevious)
	// Timestamps of all sessions of the mobile node count (5.5 (6)).
	other := attach(mag1, h1, mac2)
	other.hi, other.ts = mobility.HandoffNewInterface, &ts
	r.is(other, mobility.TimestampLowerThanPrevious)
	other.ts = nil
	r.ok(other) // a second session: now that one has the newest
	before := mobility.TimestampOf(r.now.Wall.Add(-time.Millisecond / 2))
	p.ts = &before
	r.is(p, mobility.TimestampLowerThanPrevious)
	// Within the window, behind the anchor's clock but ahead of the last: fine.
	r.pass(time.Second)
	slow := attach(mag2, h1, mac1)
	ts3 := mobility.TimestampOf(r.now.Wall.Add(-290 * time.Millisecond))
	slow.ts = &ts3
	r.ok(slow)
}

// TestMobileNodeTimestamps: with MobileNodeGeneratedTimestampInUse timestamps only have to grow.
func TestMobileNodeTimestamps(t *testing.T) {
	r := start(t, func(c *Config) { c.PMIP6.MobileNodeTimestamps = true })
	for _, step := range []struct {
		value uint64
		want  mobility.Status
	}{{5, 0}, {6, 0}, {6, 157}, {4, 157}, {1 << 60, 0}} {
		p := attach(mag1, h1, mac1)
		p.ts = &mobility.Timestamp{Value: step.value}
		r.is(p, step.want)
	}
}

// TestSequenceNumbers order requests without a Timestamp option, modulo 2^16 (RFC 6275 9.5.1), also of a deregistered
// session; a session that nobody knows accepts any.
func TestSequenceNumbers(t *testing.T) {
	r := start(t)
	for _, step := range []struct {
		seq   uint16
		want  mobility.Status
		dereg bool
	}{
		{seq: 15, want: 0}, {seq: 15, want: 135}, {seq: 14, want: 135}, {seq: 65535, want: 135}, {seq: 32783, want: 135},
		{seq: 32782, want: 0}, {seq: 65535, want: 0}, {seq: 1, want: 0}, {seq: 2, want: 0, dereg: true}, {seq: 2, want: 135}, {seq: 3, want: 0},
	} {
		p := attach(mag1, h1, mac1)
		p.noTS, p.seq = true, step.seq
		if step.dereg {
			p.lifetime = 0
		}
		a := r.send(p)
		if a == nil || a.Status != step.want {
			t.Fatalf("sequence %d: %v, want %d", step.seq, a, step.want)
		}
		if a.Options.Has(mobility.OptTimestamp) {
			t.Error("a Timestamp option though none was in the request")
		}
	}
	p := attach(mag1, "h2@example.net", mac2)
	p.noTS, p.seq = true, 1
	r.ok(p)
}

// TestRestartMargin: what was accepted and not written is not accepted again after a restart, and the next honest request
// is.
func TestRestartMargin(t *testing.T) {
	t.Run("sequence", func(t *testing.T) {
		r := start(t)
		p := attach(mag1, h1, mac1)
		p.noTS, p.seq = true, 100
		r.ok(p)
		r.keepLazy = true
		p.seq = 101
		r.ok(p)
		replay := p
		r.keepLazy = false
		r.restart()
		a := r.is(replay, mobility.SequenceOutOfWindow)
		if a.Sequence != 100+sequenceMargin {
			t.Errorf("told %d, want %d", a.Sequence, 100+sequenceMargin)
		}
		p.seq = a.Sequence + 1
		r.ok(p)
	})
	t.Run("timestamp", func(t *testing.T) {
		r := start(t)
		r.ok(attach(mag1, h1, mac1))
		r.pass(time.Minute)
		r.keepLazy = true
		p := attach(mag1, h1, mac1)
		ts := mobility.TimestampOf(r.now.Wall)
		p.ts = &ts
		r.sendNow(p)
		r.keepLazy = false
		r.restart()
		r.is(p, mobility.TimestampLowerThanPrevious)
		r.ok(attach(mag1, h1, mac1))
	})
}

// TestClockStep: boot time runs the timers, so a step of the wall clock ends nothing.
func TestClockStep(t *testing.T) {
	r := start(t)
	r.ok(attach(mag1, h1, mac1))
	r.now.Wall = r.now.Wall.Add(10 * time.Hour)
	r.handle(core.Tick{})
	if n := len(r.bindings(h1)); n != 1 {
		t.Fatalf("%d sessions after the clock jumped ahead", n)
	}
	r.ok(attach(mag1, h1, mac1))
}

// TestClockSetBack: a timestamp of the future that a clock left behind shuts nobody out, neither the host that gave it
// nor, after a restart with a wrong clock, all the others; and within the session the new time orders as the old did.
func TestClockSetBack(t *testing.T) {
	back := func(r *rig) { r.now.Wall = r.now.Wall.Add(-time.Hour) }
	check := func(t *testing.T, r *rig) {
		t.Helper()
		old := attach(mag1, h1, mac1)
		ts := mobility.TimestampOf(r.now.Wall)
		old.ts = &ts
		r.pass(10 * time.Millisecond)
		r.ok(attach(mag2, h1, mac1))
		r.is(old, mobility.TimestampLowerThanPrevious)
		if got := r.one(h1).ProxyCoA; got != mag2 {
			t.Errorf("the session is at %v", got)
		}
		r.leakless()
	}
	t.Run("running", func(t *testing.T) {
		r := start(t)
		r.ok(attach(mag1, h1, mac1))
		back(r)
		check(t, r)
	})
	t.Run("restarted with a clock that was ahead", func(t *testing.T) {
		r := start(t)
		p := attach(mag1, h1, mac1)
		p.lifetime = 900
		r.ok(p)
		r.now.Wall = r.now.Wall.Add(time.Hour)
		r.restart()
		back(r)
		check(t, r)
	})
	t.Run("restarted with a clock that was set back meanwhile", func(t *testing.T) {
		r := start(t)
		r.ok(attach(mag1, h1, mac1))
		back(r)
		replay := attach(mag1, h1, mac1)
		ts := mobility.TimestampOf(r.now.Wall)
		replay.ts = &ts
		r.restart()
		r.is(replay, mobility.TimestampLowerThanPrevious)
		check(t, r)
	})
	t.Run("hosts' clocks", func(t *testing.T) {
		r := start(t, func(c *Config) { c.PMIP6.MobileNodeTimestamps = true })
		r.ok(attach(mag1, h1, mac1))
		back(r)
		r.is(attach(mag1, h1, mac1), mobility.TimestampLowerThanPrevious)
	})
}

// TestClockOffset tells how far a gateway's clock is off, at most once a minute.
func TestClockOffset(t *testing.T) {
	r := start(t)
	for range 10 {
		p := attach(mag1, h1, mac1)
		ts := mobility.TimestampOf(r.now.Wall.Add(200 * time.Millisecond))
		p.ts = &ts
		r.ok(p)
		r.pass(10 * time.Second)
	}
	if len(r.clocks) != 2 {
		t.Fatalf("%d reports in 100 s", len(r.clocks))
	}
	f := r.clocks[0].Fields.(map[string]any)
	if off := f["offset_ms"].(float64); f["peer"] != "mag1" || off < 198 || off > 200 {
		t.Errorf("report %v", f)
	}
}
