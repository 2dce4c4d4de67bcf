package homelist

import (
	"fmt"
	"net/netip"
	"testing"
	"time"

	"kedge/internal/core"
	"kedge/internal/spec"
)

// postman drives Deliveries and notes what goes out, by seconds since the start.
type postman struct {
	t         *testing.T
	s         *Deliveries
	now       core.Now
	begin     time.Duration
	preferred time.Duration
	out       []string
}

func newPostman(t *testing.T, b byte) *postman {
	p := &postman{t: t, now: core.Now{Boot: time.Hour}, begin: time.Hour, preferred: DefaultPreferred}
	p.s = NewDeliveries(DeliveryConfig{Preferred: func(core.Now, netip.Addr) time.Duration { return p.preferred }}, constant(b))
	return p
}

func (p *postman) pass(d time.Duration) {
	p.t.Helper()
	end := p.now.Boot + d
	for range 10000 {
		at, ok := p.s.Deadline()
		if !ok || at > end {
			p.now.Boot = end
			return
		}
		p.now.Boot = max(at, p.now.Boot)
		for x, ok := p.s.Due(p.now); ok; x, ok = p.s.Due(p.now) {
			what := fmt.Sprintf("unsolicited %d", x.Sends)
			if x.Answer != nil {
				what = fmt.Sprintf("answer %d", x.Answer.ID)
			}
			p.out = append(p.out, fmt.Sprintf("%v %s", (p.now.Boot-p.begin).Seconds(), what))
		}
	}
	p.t.Fatal("it never rests")
}

func (p *postman) want(what string, list ...string) {
	p.t.Helper()
	want(p.t, what, p.out, list)
	p.out = nil
}

const day = 24 * time.Hour

// TestDelivery is the schedule of RFC 6275 10.6.2 for one node.
func TestDelivery(t *testing.T) {
	spec.Covers(t, "RFC6275-10.6.2")
	p := newPostman(t, 0) // the random part is 0
	p.s.Bound(p.now, home)
	p.pass(600*time.Second - 1)
	p.want("before the least interval")
	p.pass(22 * time.Second)
	p.want("sent, and three times again", "600 unsolicited 0", "603 unsolicited 1", "609 unsolicited 2", "621 unsolicited 3")
	p.s.Changed(p.now, home)
	p.pass(time.Hour)
	p.want("not acknowledged, and then changed", "645 unsolicited 0", "648 unsolicited 1", "654 unsolicited 2", "666 unsolicited 3")
}

// TestDeliverySilent: who did not acknowledge is told again when it registers again, and not otherwise before a day has passed.
func TestDeliverySilent(t *testing.T) {
	p := newPostman(t, 0)
	p.s.Bound(p.now, home)
	p.pass(12 * time.Hour)
	p.want("told", "600 unsolicited 0", "603 unsolicited 1", "609 unsolicited 2", "621 unsolicited 3")
	p.s.Bound(p.now, home)
	p.pass(0)
	p.want("registered again", "43200 unsolicited 0")
	if p.s.Solicited(p.now, home, Owed{ID: 7}) {
		t.Error("two advertisements in a second")
	}
	p.pass(time.Minute)
	p.want("acknowledged by a solicitation", "43201 answer 7")
	p.s.Bound(p.now, home)
	p.pass(day - time.Hour)
	p.want("acknowledged: nothing more within a day")
	p.pass(2 * time.Hour)
	p.out = p.out[:1]
	p.want("the longest interval is over", fmt.Sprintf("%v unsolicited 0", 43201+86400+600))
}

// TestDeliverySilentChanged: a change is told to who was silent, too; and one that is bound for longer than the longest interval
// without a word is told again then.
func TestDeliverySilentChanged(t *testing.T) {
	spec.Covers(t, "RFC6275-10.6.2")
	p := newPostman(t, 0)
	p.s.Bound(p.now, home)
	p.pass(time.Hour)
	p.want("told", "600 unsolicited 0", "603 unsolicited 1", "609 unsolicited 2", "621 unsolicited 3")
	p.s.Changed(p.now, home)
	p.pass(time.Hour)
	p.want("changed", "4200 unsolicited 0", "4203 unsolicited 1", "4209 unsolicited 2", "4221 unsolicited 3")
	p.pass(day)
	at := 4221 + 86400 + 600
	p.want("a day later", fmt.Sprintf("%d unsolicited 0", at), fmt.Sprintf("%d unsolicited 1", at+3), fmt.Sprintf("%d unsolicited 2", at+9), fmt.Sprintf("%d unsolicited 3", at+21))
}

// TestDeliverySpread: the random part is between the intervals, or up to the end of the preferred lifetime (RAND_ADV_DELAY).
func TestDeliverySpread(t *testing.T) {
	for _, c := range []struct{ preferred, longest time.Duration }{{DefaultPreferred, day}, {time.Hour, time.Hour}, {0, 1200 * time.Second}, {Forever, day}} {
		p := newPostman(t, 0)
		p.s.rand, p.preferred = &stream{}, c.preferred
		first, last := Forever, time.Duration(0)
		for n := range 500 {
			a := netip.AddrFrom16([16]byte{0x20, 1, 0xd, 0xb8, 14: byte(n >> 8), 15: byte(n)})
			p.s.Bound(p.now, a)
			at := p.s.byHome[a].at - p.now.Boot
			first, last = min(first, at), max(last, at)
		}
		least := 600 * time.Second
		if first < least || last > c.longest || last-first < (c.longest-least)*9/10 {
			t.Errorf("preferred %v: from %v to %v, want all of %v to %v", c.preferred, first, last, least, c.longest)
		}
	}
}

// TestDeliverySolicited: an answer at once, and no more than one a second; the newest question counts.
func TestDeliverySolicited(t *testing.T) {
	spec.Covers(t, "RFC6275-6.8")
	p := newPostman(t, 0)
	if !p.s.Solicited(p.now, home, Owed{ID: 1}) {
		t.Error("not at once")
	}
	for id := range uint16(100) {
		p.now.Boot += time.Millisecond
		if p.s.Solicited(p.now, home, Owed{ID: 100 + id}) {
			t.Error("a second one at once")
		}
	}
	p.pass(900*time.Millisecond - 1)
	p.want("within the second")
	p.pass(1)
	p.want("after it", "1 answer 199")
	p.pass(time.Second)
	if p.s.Len() != 0 {
		t.Error("one that is not bound is remembered")
	}
	// A scheduled one is not needed after an answer: all prefixes were in it.
	p.s.Bound(p.now, home)
	p.s.Solicited(p.now, home, Owed{ID: 2})
	p.pass(day - time.Minute)
	p.want("answered")
}

// TestDeliveryEnds: when a registration ends nothing is sent any more, also in the middle of repetitions.
func TestDeliveryEnds(t *testing.T) {
	p := newPostman(t, 0)
	p.s.Unbound(p.now, home)
	p.s.Changed(p.now, home)
	p.s.Bound(p.now, home)
	p.pass(604 * time.Second)
	p.want("told twice", "600 unsolicited 0", "603 unsolicited 1")
	p.s.Unbound(p.now, home)
	p.s.Changed(p.now, home)
	p.pass(day)
	p.want("it is over")
	if p.s.Len() != 0 {
		t.Errorf("%d entries left", p.s.Len())
	}
	p.s.Bound(p.now, home)
	p.s.Solicited(p.now, home, Owed{ID: 1})
	p.s.Unbound(p.now, home)
	if p.s.Solicited(p.now, home, Owed{ID: 2}) {
		t.Error("the end of a registration lets a second one out within a second")
	}
	p.s.Bound(p.now, home)
	p.s.Unbound(p.now, home)
	p.pass(day)
	if p.s.Len() != 0 {
		t.Errorf("%d entries left", p.s.Len())
	}
}
