package optimize

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"strings"
	"testing"
	"time"

	"kedge/internal/core"
	"kedge/wire/mobility"
)

// TestNothingLost: whatever is lost, late or out of order, and however the node moves, no packet is lost that route optimization could
// have saved: what leaves directly is for a correspondent that has the binding when it arrives, and what correspondents send directly
// is let in when it arrives at an address that the node has.
func TestNothingLost(t *testing.T) {
	places := []netip.Addr{coa1, coa2, numbered(1), numbered(2)}
	for seed := range uint64(20) {
		rng := rand.New(rand.NewPCG(seed, 1))
		r := newRig(t, traffic())
		r.count = func(core.ID) core.Counter {
			n := uint64(r.elapsed() / sec)
			return core.Counter{PacketsIn: n, PacketsOut: n}
		}
		loss := rng.Float64() * 0.4
		r.drop = func(string, mobility.Message) bool { return rng.Float64() < loss }
		r.late = func(string, mobility.Message) time.Duration { return time.Duration(rng.IntN(60)) * ms }
		r.away(coa1)
		for end := 10 * time.Minute; r.elapsed() < end; {
			switch n := rng.IntN(100); {
			case n < 5: // to another network, the old one gone or not
				if a := places[rng.IntN(len(places))]; rng.IntN(2) == 0 {
					r.away(a)
				} else {
					r.away(a, places[rng.IntN(len(places))])
				}
			case n < 6: // home
				r.at(Place{At: AtHome, Home: hoa, Anchor: ha, If: 3})
			case n < 7: // IPv4 only
				r.at(Place{At: Away, Home: hoa, Anchor: ha, Tunnel: tunnel, Until: r.now.Boot + time.Hour})
			case n < 8: // nowhere, with or without its address
				r.at(Place{Home: hoa, Anchor: ha, Own: r.place.Own})
			}
			if r.place.At == Away && !r.directTo(cn).IsValid() {
				r.report(cn)
			}
			r.packet()
			r.run(time.Duration(rng.IntN(800)) * ms)
			if t.Failed() {
				t.Fatalf("seed %d, loss %.2f: %v\n%v", seed, loss, strings.Join(r.past[max(0, len(r.past)-12):], "\n"), r.tail(20))
			}
		}
		// In the end it works.
		r.drop, r.late = nil, nil
		r.away(coa2)
		for range 120 {
			r.report(cn)
			r.run(sec)
		}
		r.wantDirect(cn, coa2)
		if r.boundAt(cn) != coa2 {
			t.Fatalf("seed %d: the correspondent has %v", seed, r.boundAt(cn))
		}
	}
}

// tail is the end of the story.
func (r *rig) tail(n int) string {
	var b strings.Builder
	for _, m := range r.sent[max(0, len(r.sent)-n):] {
		fmt.Fprintln(&b, m, m.path.Local.Addr())
	}
	for _, op := range r.ops[max(0, len(r.ops)-n):] {
		if s, ok := op.(core.SetSession); ok {
			fmt.Fprintln(&b, s.ID, s.Chain.Layer[0].Local.Addr(), s.Grace)
		}
	}
	return b.String()
}

// packet sends one packet of data each way.
func (r *rig) packet() {
	r.t.Helper()
	if from := r.directTo(cn); from.IsValid() {
		sent := r.elapsed()
		r.after(direct, func() {
			if has := r.boundAt(cn); has != from {
				// What was sent before a binding ended or moved may come after: see package peer's Grace.
				if e := r.m.find(cn); e == nil || r.elapsed()-sent > direct || e.bind.careOf == from && e.bind.expires > r.now.Boot {
					r.t.Errorf("%v: a packet that left at %v from %v arrives at a correspondent that has %v", r.elapsed(), sent, from, has)
				}
			}
		})
	}
	if to := r.boundAt(cn); to.IsValid() {
		sent := r.elapsed()
		r.after(direct, func() {
			for _, a := range r.place.Own {
				if a == to && !r.letsIn(cn, to) {
					r.t.Errorf("%v: a packet that was sent at %v to %v is not let in: %+v", r.elapsed(), sent, to, r.sessionOf(cn))
				}
			}
		})
	}
}
