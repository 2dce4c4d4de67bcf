package mobility

import (
	"testing"
	"time"

	"pgregory.net/rapid"
)

func TestTimestamp(t *testing.T) {
	for _, c := range []struct {
		at   time.Time
		want uint64
	}{
		{time.Unix(0, 0), 0},
		{time.Unix(1, 0), 0x10000},
		{time.Unix(1, 500_000_000), 0x18000},
		{time.Unix(1, 999_999_999), 0x1ffff},
		{time.Unix(1_700_000_000, 15_258), 1_700_000_000 << 16},
		{time.Unix(1_700_000_000, 15_259), 1_700_000_000<<16 | 1}, // 1/65536 s is 15258.8 ns
		{time.Unix(1<<32, 0), 1 << 48},                            // after 2106
	} {
		if got := TimestampOf(c.at); got.Value != c.want {
			t.Errorf("%v: %#x, want %#x", c.at, got.Value, c.want)
		}
	}
	if got := (Timestamp{0x18000}).Time(); !got.Equal(time.Unix(1, 500_000_000)) || got.Location() != time.UTC {
		t.Error(got)
	}
}

// TestTimestampBack gives any timestamp back, and keeps the order of times.
func TestTimestampBack(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		v := Timestamp{rapid.Uint64Range(0, 1<<52).Draw(t, "v")}
		if got := TimestampOf(v.Time()); got != v {
			t.Fatalf("%#x -> %v -> %#x", v.Value, v.Time(), got.Value)
		}
		at := time.Unix(0, rapid.Int64Range(0, 1<<62).Draw(t, "ns"))
		back := TimestampOf(at).Time()
		if back.After(at) || at.Sub(back) > 15259 {
			t.Fatalf("%v -> %v", at, back)
		}
	})
}
