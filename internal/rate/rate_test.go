package rate

import (
	"testing"
	"time"

	"pgregory.net/rapid"
)

const (
	sec = time.Second
	ms  = time.Millisecond
)

func TestBucket(t *testing.T) {
	for _, c := range []struct {
		name     string
		n, burst float64
		at       []time.Duration // of attempts
		want     []bool
	}{
		{"a burst, then one each time", 10, 2, []time.Duration{5 * sec, 5 * sec, 5 * sec, 5*sec + 99*ms, 5*sec + 100*ms, 5*sec + 150*ms, 5*sec + 200*ms}, []bool{true, true, false, false, true, false, true}},
		{"a second's worth at once", 3, 3, []time.Duration{0, 0, 0, 0, sec / 3, sec / 3}, []bool{true, true, true, false, true, false}},
		{"full again, and no fuller", 10, 2, []time.Duration{0, 0, sec, sec, sec}, []bool{true, true, true, true, false}},
		{"refusals cost nothing", 1, 1, []time.Duration{0, 500 * ms, 999 * ms, sec}, []bool{true, false, false, true}},
		{"less than one a second", 0.1, 0.1, []time.Duration{0, 9 * sec, 10 * sec, 11 * sec}, []bool{true, false, true, false}},
	} {
		l, b := PerSecond(c.n, c.burst), Bucket(0)
		for i, at := range c.at {
			if got := b.Take(at, l); got != c.want[i] {
				t.Errorf("%s: %d. at %v: %v", c.name, i+1, at, got)
			}
		}
	}
}

// TestBucketSpend: what cannot wait makes what follows wait, by exactly its share.
func TestBucketSpend(t *testing.T) {
	l, b := PerSecond(10, 2), Bucket(0)
	for i, want := range []time.Duration{sec, sec, sec + 100*ms, sec + 200*ms} {
		if got := b.Free(sec, l); got != want {
			t.Errorf("after %d: free at %v, want %v", i, got, want)
		}
		b.Spend(sec, l)
	}
}

// TestBucketCounts holds a bucket against one that counts its tokens.
func TestBucketCounts(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		every := time.Duration(rapid.IntRange(1, 50).Draw(t, "every")) * ms
		burst := rapid.IntRange(1, 5).Draw(t, "burst")
		l, b := Limit{every: every, window: time.Duration(burst) * every}, Bucket(0)
		tokens, now := time.Duration(burst)*every, sec // a token is as many parts as every is long
		for range rapid.IntRange(1, 60).Draw(t, "steps") {
			step := time.Duration(rapid.IntRange(0, 100).Draw(t, "step")) * ms
			now, tokens = now+step, min(tokens+step, l.window)
			want := tokens >= every
			if want {
				tokens -= every
			}
			if got := b.Take(now, l); got != want {
				t.Fatalf("%v at %v, with %v of %v left", got, now, tokens, every)
			}
		}
	})
}

// TestUpdates: never more than MAX_UPDATE_RATE in any second, and no later than that wants.
func TestUpdates(t *testing.T) {
	var u Updates
	if u.Latest() > -time.Minute {
		t.Errorf("none went, at %v", u.Latest())
	}
	for i, c := range []struct{ now, free time.Duration }{
		{5 * sec, 5 * sec}, {5*sec + 100*ms, 5*sec + 100*ms}, {5*sec + 200*ms, 5*sec + 200*ms}, {5*sec + 300*ms, 6 * sec},
		{6 * sec, 6*sec + 100*ms}, {7 * sec, 7 * sec},
	} {
		if got := u.Free(c.now); got != c.free {
			t.Errorf("%d. at %v: free at %v, want %v", i+1, c.now, got, c.free)
		}
		at := max(c.now, c.free)
		u.Spend(at)
		if u.Latest() != at {
			t.Errorf("the latest is that of %v, want %v", u.Latest(), at)
		}
	}
}
