package loop

import (
	"context"
	"errors"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"kedge/internal/core"
)

// asker asks as often as it is told to, and notes the answers.
type asker struct {
	times   int
	answers []core.Answer
}

func (a *asker) Handle(_ core.Now, ev core.Event, out []core.Effect) []core.Effect {
	switch ev := ev.(type) {
	case core.Restored:
		for i := range a.times {
			out = append(out, core.Ask{Ref: core.Ref(i + 1), Body: "who"})
		}
	case core.Answer:
		a.answers = append(a.answers, ev)
	}
	return out
}

func (a *asker) Deadline() (time.Duration, bool) { return 0, false }

// TestAsk: questions are answered beside the loop, as many at a time as there is room for; the others are refused, and none that is
// open outlives the loop.
func TestAsk(t *testing.T) {
	for _, c := range []struct {
		name     string
		times    int
		answer   Answerer
		ok, busy int
		other    error
	}{
		{"answered", 3, func(context.Context, any) (any, error) { return "me", nil }, 3, 0, nil},
		{"nobody answers", 2, nil, 0, 0, errors.ErrUnsupported},
		{"too many", maxAsks + 4, func(ctx context.Context, _ any) (any, error) {
			select {
			case <-time.After(time.Minute):
				return "late", nil
			case <-ctx.Done():
				return nil, ctx.Err()
			}
		}, maxAsks, 4, nil},
		{"never", 1, func(ctx context.Context, _ any) (any, error) { <-ctx.Done(); return nil, ctx.Err() }, 0, 0, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m := &asker{times: c.times}
				l := New(Config{Name: "x", Machine: m, Host: &twinHost{begin: time.Now()}, Answer: c.answer})
				ctx, cancel := context.WithCancel(t.Context())
				done := make(chan error, 1)
				go func() { done <- l.Run(ctx) }()
				time.Sleep(2 * time.Minute)
				cancel()
				if err := <-done; err != nil {
					t.Fatal(err)
				}
				count := func(f func(core.Answer) bool) int {
					return len(slices.DeleteFunc(slices.Clone(m.answers), func(a core.Answer) bool { return !f(a) }))
				}
				if n := count(func(a core.Answer) bool { return a.Err == nil && a.Body != nil }); n != c.ok {
					t.Errorf("%d answers, want %d: %v", n, c.ok, m.answers)
				}
				if n := count(func(a core.Answer) bool { return errors.Is(a.Err, errBusy) }); n != c.busy {
					t.Errorf("%d refused, want %d", n, c.busy)
				}
				if n := count(func(a core.Answer) bool { return c.other != nil && errors.Is(a.Err, c.other) }); c.other != nil && n != c.times {
					t.Errorf("%d %v, want %d", n, c.other, c.times)
				}
			})
		})
	}
}
