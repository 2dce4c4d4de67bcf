package peer

import (
	"testing"
	"time"

	"kedge/internal/core"
	"kedge/internal/spec"
	"kedge/wire/mobility"
)

// TestUnreachable: errors end a binding when they persist, sooner when nothing comes from the mobile node (RFC 6275 9.3.4).
func TestUnreachable(t *testing.T) {
	for name, c := range map[string]struct {
		every time.Duration // between errors
		in    uint64        // packets that come from the mobile node in between
		renew time.Duration // when it renews its binding
		wrong bool          // the errors are about another care-of address
		why   string        // of the report
		ends  time.Duration // 0 = not
	}{
		"mute":              {every: time.Second, ends: 5 * time.Second},
		"heard":             {every: time.Second, in: 1, ends: 30 * time.Second},
		"no mobile node":    {every: time.Second, why: "tunnel-error", ends: 5 * time.Second},
		"now and then":      {every: 10 * time.Second},
		"renewed":           {every: time.Second, renew: 4 * time.Second, ends: 9 * time.Second},
		"another address":   {every: time.Second, wrong: true},
		"slow, but no rest": {every: 9 * time.Second, ends: 9 * time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			r := start(t)
			n := r.tested(hoa, coa)
			n.lifetime = 105
			r.is(n, mobility.Accepted)
			begin, in := r.now.Boot, uint64(9)
			report := core.Reported{ID: 1, Reason: core.ReportUnreachable, Outer: core.Layer{Local: ap(self), Remote: ap(coa)}, Inner: core.Match{Src: single(self), Dst: single(hoa)}}
			if c.why != "" {
				report.Reason = c.why
			}
			if c.wrong {
				report.Outer.Remote = ap(coa2)
			}
			for r.now.Boot < begin+100*time.Second {
				out := r.handle(report)
				for i := 0; i < len(out); i++ {
					if ask, ok := out[i].(core.Ask); ok {
						out = append(out, r.handle(core.Answer{Ref: ask.Ref, Body: []core.Counter{{PacketsIn: in}}})...)
					}
				}
				if why := emits(out, "session"); len(why) > 0 {
					if got := r.now.Boot - begin; got != c.ends || why[0] != "unreachable" {
						t.Errorf("%v after %v, want %v", why, got, c.ends)
					}
					if len(ops(out)) != 1 || ops(out)[0] != (core.Op)(core.Drop{ID: 1}) {
						t.Errorf("%+v", ops(out))
					}
					r.handle(report) // too late
					return
				}
				in += c.in
				r.pass(c.every)
				if c.renew > 0 && r.now.Boot == begin+c.renew {
					n.seq++
					r.is(n, mobility.Accepted)
				}
			}
			if c.ends != 0 {
				t.Error("still bound")
			}
		})
	}
	spec.Covers(t, "RFC6275-9.3.4")
}

// TestUnreachableAsksApart: what is asked because of errors is no look at the use of a binding.
func TestUnreachableAsksApart(t *testing.T) {
	r := start(t)
	n := r.tested(hoa, coa)
	r.is(n, mobility.Accepted)
	r.handle(core.Reported{ID: 1, Reason: core.ReportUnreachable, Outer: core.Layer{Local: ap(self), Remote: ap(coa)}})
	r.handle(core.Answer{Ref: 1, Body: []core.Counter{{PacketsOut: 5}}})
	if e := r.m.cache.byID[1]; e.busy || e.used != 0 {
		t.Errorf("%+v", e)
	}
	// A parent makes the sessions, with its own numbers, where the machine is embedded.
	r = start(t, func(c *Config) { c.Forward = func(Binding) []core.Effect { return nil } })
	r.is(r.tested(hoa, coa), mobility.Accepted)
	if out := r.handle(core.Reported{ID: 1, Reason: core.ReportUnreachable, Outer: core.Layer{Local: ap(self), Remote: ap(coa)}}); len(out) > 0 {
		t.Errorf("%+v", out)
	}
}
