package homelist

import (
	"fmt"
	"net/netip"
	"testing"
	"time"

	"kedge/internal/spec"
)

func (p *postman) switching(s *Switch, d time.Duration) {
	p.t.Helper()
	end := p.now.Boot + d
	for range 10000 {
		at, ok := s.Deadline()
		if !ok || at > end {
			break
		}
		p.now.Boot = max(at, p.now.Boot)
		for a, sends, ok := s.Due(p.now); ok; a, sends, ok = s.Due(p.now) {
			p.out = append(p.out, fmt.Sprintf("%v %v %d", (p.now.Boot-p.begin).Seconds(), a, sends))
		}
	}
	p.now.Boot = end
}

// TestSwitch: told once a second in turn, again after 5 s, 10 s and then every 20 s until they have gone (RFC 5142 5.2, 7, 8).
func TestSwitch(t *testing.T) {
	spec.Covers(t, "RFC5142-5.2", "RFC5142-7")
	p, s := newPostman(t, 0), NewSwitch()
	a, b, c := netip.MustParseAddr("::a"), netip.MustParseAddr("::b"), netip.MustParseAddr("::c")
	for _, x := range []netip.Addr{a, b, c} {
		s.Add(p.now, x)
	}
	if s.Has(a) {
		t.Error("told already")
	}
	p.switching(s, 0)
	p.want("at once", "0 ::a 0")
	if !s.Has(a) || s.Has(b) {
		t.Error("told: want a only")
	}
	p.switching(s, time.Second-1)
	p.want("within the second")
	p.switching(s, 4*time.Second)
	p.want("in turn", "1 ::b 0", "2 ::c 0")
	if !s.Deaf(c) || s.Deaf(netip.MustParseAddr("::d")) {
		t.Error("deaf")
	}
	p.switching(s, 56*time.Second+1)
	p.want("again", "5 ::a 1", "6 ::b 1", "15 ::a 2", "16 ::b 2", "35 ::a 3", "36 ::b 3", "55 ::a 4", "56 ::b 4")
	if all, told, deaf := s.Counts(); all != 3 || told != 3 || deaf != 1 {
		t.Error(all, told, deaf)
	}
	if !s.Gone(a) || s.Gone(a) {
		t.Error("gone")
	}
	s.Add(p.now, c) // once more from the start, on command
	p.switching(s, time.Second)
	p.want("begins anew", "61 ::c 0")
	s.Stop()
	p.switching(s, time.Hour)
	p.want("ended")
	if all, _, _ := s.Counts(); all != 0 || s.Has(b) {
		t.Error("somebody is left")
	}
	s.Rate = 100
	for n := range 500 {
		s.Add(p.now, netip.AddrFrom16([16]byte{14: byte(n >> 8), 15: byte(n)}))
	}
	p.switching(s, time.Second-1)
	if len(p.out) != 100 {
		t.Errorf("%d in a second, want 100", len(p.out))
	}
}
