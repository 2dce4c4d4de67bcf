package probe

import (
	"context"
	"net/netip"
	"testing"
	"time"

	"kedge/internal/system/netns"
)

func pair(t *testing.T) (a, b *netns.NS) {
	a, b = netns.Test(t, "a"), netns.Test(t, "b")
	netns.TestVeth(t,
		netns.End{NS: a, Name: "eth0", Addrs: []netip.Prefix{netip.MustParsePrefix("192.0.2.1/24"), netip.MustParsePrefix("2001:db8::1/64")}},
		netns.End{NS: b, Name: "eth0", Addrs: []netip.Prefix{netip.MustParsePrefix("192.0.2.2/24"), netip.MustParsePrefix("2001:db8::2/64")}})
	return a, b
}

// until polls a probe.
func until(t *testing.T, p *Probe, what string, ok func(Stats) bool) Stats {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	for {
		s := p.Stats()
		if ok(s) {
			return s
		}
		select {
		case <-ctx.Done():
			t.Fatalf("%s never came: %+v", what, s)
		case <-time.After(5 * time.Millisecond):
		}
	}
}

func TestProbesCountAnInterruption(t *testing.T) {
	for _, tt := range []struct {
		kind string
		dst  string
	}{
		{"ping", "192.0.2.2"}, {"ping", "2001:db8::2"}, {"udp", "192.0.2.2"}, {"udp", "2001:db8::2"}, {"tcp", "192.0.2.2"}, {"tcp", "2001:db8::2"},
		{"download", "192.0.2.2"},
	} {
		t.Run(tt.kind+" "+tt.dst, func(t *testing.T) {
			t.Parallel()
			a, b := pair(t)
			p, err := Start(Spec{Kind: tt.kind, From: a, To: b, Dst: netip.MustParseAddr(tt.dst), Every: 5 * time.Millisecond, Size: 64})
			if err != nil {
				t.Fatal(err)
			}
			defer p.Stop()
			until(t, p, "traffic", func(s Stats) bool { return s.Received > 20 || s.Octets > 1000 })
			// Cut the far end for a while: the near end keeps its route and its connection.
			netns.Must(t, b.Down("eth0"))
			until(t, p, "a gap", func(s Stats) bool { return s.Gap > 300*time.Millisecond })
			stream := tt.kind == "tcp" || tt.kind == "download"
			if !stream {
				until(t, p, "a loss", func(s Stats) bool { return s.Lost > 10 })
			}
			netns.Must(t, b.Up("eth0"))
			if netip.MustParseAddr(tt.dst).Is6() {
				netns.Must(t, b.AddAddr("eth0", netip.MustParsePrefix("2001:db8::2/64")))
			}
			s := until(t, p, "life", func(s Stats) bool { return s.Alive })
			if s.Resets != 0 || s.Duplicates != 0 || s.Gap < 300*time.Millisecond {
				t.Errorf("after the interruption: %+v", s)
			}
			p.Stop()
			s = p.Stats()
			if !stream && (s.Sent != s.Received+s.Lost || s.Lost < 10) {
				t.Errorf("at the end: %+v: sent must be received plus lost", s)
			}
			if tt.kind == "ping" && s.RTT50 <= 0 {
				t.Errorf("round trip %v", s.RTT50)
			}
		})
	}
}

// TestBulk: a connection that is as fast as it can be, and a rate that does not change once it is over.
func TestBulk(t *testing.T) {
	a, b := pair(t)
	p, err := Start(Spec{Kind: "bulk", From: a, To: b, Dst: netip.MustParseAddr("2001:db8::2")})
	if err != nil {
		t.Fatal(err)
	}
	until(t, p, "octets", func(s Stats) bool { return s.Octets > 1e6 && s.Alive })
	p.Stop()
	if x, y := p.Stats(), p.Stats(); x != y || x.Rate <= 0 || x.Alive {
		t.Errorf("%+v, then %+v", x, y)
	}
}

func TestTCPReset(t *testing.T) {
	a, b := pair(t)
	p, err := Start(Spec{Kind: "tcp", From: a, To: b, Dst: netip.MustParseAddr("192.0.2.2"), Every: 5 * time.Millisecond, Size: 100})
	if err != nil {
		t.Fatal(err)
	}
	defer p.Stop()
	until(t, p, "traffic", func(s Stats) bool { return s.Octets > 1000 })
	// A host that lost its address and got another: the kernel kills nothing, but resets what comes when the socket is gone.
	if _, err := b.Run(t.Context(), "ss", "-K", "dst", "192.0.2.1"); err != nil {
		t.Fatal(err)
	}
	s := until(t, p, "the reset", func(s Stats) bool { return s.Resets == 1 })
	if s.Alive {
		t.Errorf("alive after a reset: %+v", s)
	}
}

func TestUnreachableIsLost(t *testing.T) {
	a, b := pair(t)
	p, err := Start(Spec{Kind: "ping", From: a, To: b, Dst: netip.MustParseAddr("203.0.113.1"), Every: 5 * time.Millisecond, Size: 56})
	if err != nil {
		t.Fatal(err)
	}
	until(t, p, "requests", func(s Stats) bool { return s.Sent > 10 })
	p.Stop()
	if s := p.Stats(); s.Lost != s.Sent || s.Received != 0 || s.Alive {
		t.Errorf("no route: %+v, want all lost", s)
	}
}

func TestQuantile(t *testing.T) {
	ds := []time.Duration{5, 1, 4, 2, 3}
	if Quantile(ds, 0.5) != 3 || Quantile(ds, 0.99) != 5 || Quantile(nil, 0.5) != 0 || ds[0] != 5 {
		t.Error("quantiles are wrong, or the input was changed")
	}
}

// TestSilenceAtTheEnd: what is lost after the last arrival is a gap too, although nothing ends it.
func TestSilenceAtTheEnd(t *testing.T) {
	q := &series{}
	t0 := time.Unix(1000, 0)
	for i := range 10 {
		at := t0.Add(time.Duration(i) * time.Second)
		if n := q.send(at); i < 4 {
			q.arrive(n, at.Add(time.Millisecond))
		}
	}
	q.end()
	if s := q.stats(t0.Add(time.Minute)); s.Lost != 6 || s.Gap != 6*time.Second-time.Millisecond {
		t.Errorf("%+v", s)
	}
}
