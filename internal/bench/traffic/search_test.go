package traffic

import (
	"errors"
	"math"
	"testing"
)

// link is a way that carries up to a capacity and drops the rest; its sender reaches a rate.
type link struct {
	capacity, sender float64
	probes, long     int
	fail             error
	always           float64 // lost of everything
	stalls           float64 // above this rate long probes lose some
}

func (l *link) probe(rate float64, long bool) (Probe, error) {
	l.probes++
	if long {
		l.long++
	}
	offered := l.sender
	if rate > 0 {
		offered = min(rate, l.sender)
	}
	const seconds = 0.1
	carried := min(offered, l.capacity) * (1 - l.always)
	if long && l.stalls > 0 && offered > l.stalls {
		carried *= 0.99
	}
	return Probe{Sent: uint64(offered * seconds), Received: uint64(carried * seconds), Sending: seconds, Seconds: seconds}, l.fail
}

func TestSearch(t *testing.T) {
	for _, c := range []struct {
		name      string
		l         link
		hint      float64
		want, off float64 // off: relative
		probes    int
	}{
		{"the sender is the limit", link{capacity: 1e6, sender: 8e5}, 0, 8e5, 0, 1},
		{"no hint", link{capacity: 3e5, sender: 1e6}, 0, 3e5, 0.03, 12},
		{"a good hint", link{capacity: 3e5, sender: 1e6}, 2.9e5, 3e5, 0.03, 9},
		{"the hint is too high", link{capacity: 1e5, sender: 1e6}, 4e5, 1e5, 0.05, 14},
		{"the hint is too low", link{capacity: 5e5, sender: 1e6}, 4.5e5, 5e5, 0.03, 12},
		{"hint above the sender", link{capacity: 5e5, sender: 6e5}, 9e5, 5e5, 0.03, 12},
		{"a little is always lost", link{capacity: 3e5, sender: 1e6, always: 0.0005}, 0, 3e5, 0.03, 12},
		{"too much is always lost", link{capacity: 3e5, sender: 1e6, always: 0.01}, 0, 0, 0, 40},
		{"a busy machine", link{capacity: 3e5, sender: 1e6, stalls: 2.5e4}, 0, 2.5e4, 0.5, 40},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, err := Search(c.l.probe, c.hint)
			if err != nil || math.Abs(got-c.want) > c.off*c.want+1e-9 && !(c.off == 0 && math.Abs(got-c.want) < 100) || got > c.l.capacity {
				t.Errorf("%.0f, %v; want %.0f", got, err, c.want)
			}
			if c.l.probes > c.probes {
				t.Errorf("%d probes, at most %d", c.l.probes, c.probes)
			}
			if c.l.long == 0 {
				t.Error("what was found is confirmed by no long probe")
			}
		})
	}
	broken := link{fail: errors.New("no route")}
	if _, err := Search(broken.probe, 0); err == nil || broken.probes != 1 {
		t.Errorf("%v after %d probes of a broken way", err, broken.probes)
	}
}

func TestProbe(t *testing.T) {
	p := Probe{Sent: 1000, Received: 999, Sending: 0.5, Seconds: 0.6}
	if math.Abs(p.Loss()-0.001) > 1e-9 || p.Offered() != 2000 || math.Abs(p.Rate()-1665) > 0.01 {
		t.Errorf("loss %v, offered %v, rate %v", p.Loss(), p.Offered(), p.Rate())
	}
	if (Probe{}).Loss() != 1 {
		t.Error("a probe that sent nothing lost nothing")
	}
}
