package rfc4285

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha1"
	"errors"
	"net/netip"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"kedge/internal/spec"
	"kedge/wire"
	"kedge/wire/mobility"
)

var (
	agent  = netip.MustParseAddr("2001:db8:1::1")
	home   = netip.MustParseAddr("2001:db8:1::100")
	careOf = netip.MustParseAddr("2001:db8:2::5")
	assoc  = Association{SPI: 0x1234, Key: []byte("0123456789abcdef")}
)

func update(tb testing.TB, opts ...mobility.Value) []byte {
	tb.Helper()
	m := &mobility.BindingUpdate{Sequence: 7, Flags: mobility.BUAck | mobility.BUHome, Lifetime: 15, Options: mobility.Options{}.Add(opts...)}
	b, err := mobility.Append(nil, m, home, agent)
	if err != nil {
		tb.Fatal(err)
	}
	return b
}

func TestSignAndVerify(t *testing.T) {
	spec.Covers(t, "RFC4285-5.1")
	for _, opts := range [][]mobility.Value{
		nil,
		{mobility.AlternateCareOf{Addr: careOf}, mobility.MobileNodeID{Subtype: 1, ID: "mn@example.net"}},
		{mobility.MessageID{Timestamp: 5}},
		{mobility.RawOption{Opt: mobility.OptIPv4HomeAddress, Data: []byte{0, 0, 10, 0, 0, 1}}},
	} {
		b := update(t, append(opts, assoc.Option())...)
		if err := assoc.Sign(b, careOf, home, home, agent); err != nil {
			t.Fatal(err)
		}
		if _, err := mobility.Parse(b, home, agent); err != nil {
			t.Errorf("the signed message has a wrong form or checksum: %v", err)
		}
		if spi, ok, err := SPI(b); spi != assoc.SPI || !ok || err != nil {
			t.Error(spi, ok, err)
		}
		if err := assoc.Verify(b, careOf, home); err != nil {
			t.Error(err)
		}
		// By hand, from the text of the RFC.
		at := bytes.Index(b, []byte{9, 17, 1, 0, 0, 0x12, 0x34})
		m := hmac.New(sha1.New, assoc.Key)
		m.Write(careOf.AsSlice())
		m.Write(home.AsSlice())
		data := bytes.Clone(b[:at+7])
		data[4], data[5] = 0, 0
		m.Write(data)
		if !bytes.Equal(m.Sum(nil)[:12], b[at+7:at+19]) {
			t.Errorf("%x", b[at+7:at+19])
		}
		for i := range b[:at+19] {
			if i == 4 || i == 5 {
				continue // the checksum is not authenticated
			}
			b[i] ^= 1
			if err := assoc.Verify(b, careOf, home); err == nil {
				t.Errorf("octet %d changed", i)
			}
			b[i] ^= 1
		}
		wrong := assoc
		wrong.Key = []byte("0123456789abcdeX")
		for name, err := range map[string]error{
			"care-of address": assoc.Verify(b, agent, home), "home address": assoc.Verify(b, careOf, agent), "key": wrong.Verify(b, careOf, home),
		} {
			var w *wire.Error
			if !errors.As(err, &w) || w.Reason != wire.AuthFailed || w.Status != 146 {
				t.Errorf("wrong %s: %v", name, err)
			}
		}
	}
}

func TestOptionErrors(t *testing.T) {
	auth := assoc.Option()
	short := auth
	short.Authenticator = short.Authenticator[:11]
	aaa := auth
	aaa.Subtype = mobility.SubtypeMNAAA
	for _, c := range []struct {
		name string
		mh   []byte
		want wire.Reason
	}{
		{"no option", update(t), wire.Unprotected},
		{"MN-AAA only", update(t, aaa), wire.Unprotected},
		{"not the last", update(t, auth, mobility.AlternateCareOf{Addr: careOf}), wire.BadValue},
		{"two", update(t, auth, auth), wire.BadValue},
		{"short", update(t, short), wire.BadOptionLength},
		{"empty", nil, wire.Truncated},
		{"header only", update(t)[:8], wire.Truncated},
		{"option beyond the end", append(update(t)[:12], 9, 200, 1, 0), wire.BadOptionLength},
		{"one octet of an option", append(update(t)[:12], 9), wire.BadOptionLength},
	} {
		if err := assoc.Verify(c.mh, careOf, home); !errors.Is(err, c.want) {
			t.Errorf("%s: %v, want %s", c.name, err, c.want)
		}
	}
	if err := assoc.Sign(update(t), careOf, home, home, agent); err == nil {
		t.Error("signed a message without the option")
	}
	if _, ok, err := SPI(update(t)); ok || err != nil {
		t.Error(ok, err)
	}
	other := assoc
	other.SPI++
	if err := other.Sign(update(t, auth), careOf, home, home, agent); err == nil {
		t.Error("signed with another association than the option names")
	}
}

func TestAssociation(t *testing.T) {
	for want, a := range map[string]Association{
		"":         assoc,
		"reserved": {SPI: 255, Key: assoc.Key},
		"want 16":  {SPI: 256, Key: assoc.Key[:15]},
		"window":   {SPI: 256, Key: assoc.Key, Window: 3 * time.Second},
	} {
		if err := a.Check(); (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v", want, err)
		}
	}
}

func FuzzVerify(f *testing.F) {
	signed := update(f, mobility.MessageID{Timestamp: 5}, assoc.Option())
	if err := assoc.Sign(signed, careOf, home, home, agent); err != nil {
		f.Fatal(err)
	}
	f.Add(signed)
	f.Add(update(f))
	f.Add(update(f, assoc.Option(), assoc.Option()))
	f.Fuzz(func(t *testing.T, b []byte) {
		spi, ok, err := SPI(b)
		if ok && err != nil {
			t.Fatal(err)
		}
		if verr := assoc.Verify(b, careOf, home); verr == nil && (!ok || spi != assoc.SPI) {
			t.Fatalf("%x verified without the option", b)
		}
	})
}

func TestNTP(t *testing.T) {
	for _, c := range []struct {
		at   string
		want uint64
	}{
		{"1970-01-01T00:00:00Z", 0x83aa7e80 << 32},
		{"1970-01-01T00:00:00.5Z", 0x83aa7e80<<32 | 1<<31},
		{"2036-02-07T06:28:16Z", 0}, // the era ends
		{"2036-02-07T06:28:15Z", 0xffffffff << 32},
	} {
		at, err := time.Parse(time.RFC3339Nano, c.at)
		if err != nil {
			t.Fatal(err)
		}
		if got := NTP(at); got != c.want {
			t.Errorf("%s: %#x, want %#x", c.at, got, c.want)
		}
		for _, off := range []time.Duration{0, 50 * 365 * 24 * time.Hour, -50 * 365 * 24 * time.Hour} {
			if got := FromNTP(c.want, at.Add(off)); !got.Equal(at) {
				t.Errorf("%s seen from %v away: %v", c.at, off, got)
			}
		}
	}
}

func TestJudge(t *testing.T) {
	spec.Covers(t, "RFC4285-6")
	now := time.Unix(1_700_000_000, 300_000_000)
	last := NTP(now.Add(-2 * time.Second))
	for _, c := range []struct {
		name   string
		at     time.Duration
		window time.Duration
		want   wire.Reason
	}{
		{"now", 0, 0, ""}, {"7 s ahead", 7 * time.Second, 0, ""}, {"over 7 s ahead", 7*time.Second + time.Microsecond, 0, wire.TimestampMismatch},
		{"over 7 s behind", -8 * time.Second, 0, wire.TimestampMismatch}, {"as the last", -2 * time.Second, 0, wire.TimestampOld},
		{"before the last", -3 * time.Second, 0, wire.TimestampOld}, {"just after the last", -2*time.Second + time.Microsecond, 0, ""},
		{"wider window", 20 * time.Second, 30 * time.Second, ""},
	} {
		ts := NTP(now.Add(c.at))
		echo, reason := Judge(ts, last, now, c.window)
		want := ts
		if c.want != "" {
			want = NTP(now)>>32<<32 | ts&0xffffffff // 6: our high half, the low half copied
		}
		if reason != c.want || echo != want {
			t.Errorf("%s: %q %#x, want %q %#x", c.name, reason, echo, c.want, want)
		}
	}
}

// TestClock: whatever the two clocks say and however often the node's jumps, one answer with status 144 puts it right.
func TestClock(t *testing.T) {
	spec.Covers(t, "RFC4285-6")
	rapid.Check(t, func(t *rapid.T) {
		agentNow := time.Unix(1_700_000_000, 0).Add(time.Duration(rapid.Int64Range(0, 1<<60).Draw(t, "agent")))
		off := time.Duration(rapid.Int64Range(-1<<57, 1<<57).Draw(t, "off"))
		var c Clock
		var last uint64
		for range rapid.IntRange(1, 20).Draw(t, "updates") {
			agentNow = agentNow.Add(time.Duration(rapid.Int64Range(int64(8*time.Second), int64(time.Hour)).Draw(t, "later")))
			if rapid.IntRange(0, 5).Draw(t, "step") == 0 {
				off = time.Duration(rapid.Int64Range(-1<<57, 1<<57).Draw(t, "new off"))
			}
			tries := 0
			for {
				ts := c.Next(agentNow.Add(off))
				echo, reason := Judge(ts, last, agentNow, 0)
				if reason == "" {
					last = ts
					break
				}
				if tries++; tries > 1 {
					t.Fatalf("refused again: %s", reason)
				}
				c.Adjust(echo, agentNow.Add(off))
			}
		}
	})
}

func TestClockRises(t *testing.T) {
	var c Clock
	now := time.Unix(1_700_000_000, 0)
	a := c.Next(now)
	b := c.Next(now)
	d := c.Next(now.Add(-time.Hour))
	if a >= b || b >= d {
		t.Errorf("%#x %#x %#x", a, b, d)
	}
}
