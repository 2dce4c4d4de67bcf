package simnet

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"kedge/internal/anchor"
	"kedge/internal/core"
	"kedge/internal/gateway"
	"kedge/internal/spec"
	"kedge/wire/mobility"
)

// sightings are the times of what a test listens to.
type sightings struct{ at []time.Duration }

func (d *domain) listen(m Match) *sightings {
	s := &sightings{}
	old := d.Tap
	d.Tap = func(p *Packet) {
		if old != nil {
			old(p)
		}
		if m(p) {
			s.at = append(s.at, p.At)
		}
	}
	return s
}

// sessions listens to changes of sessions at a node: "from -> to why" by time.
func (d *domain) sessions(n *Node) map[string]time.Duration {
	seen := map[string]time.Duration{}
	n.Emits = func(_ core.Now, e core.Emit) {
		if e.Name == "session" {
			seen[e.From+" -> "+e.To+" "+e.Why] = d.Elapsed()
		}
	}
	return seen
}

// quiet is a domain without heartbeats, and with one dialect, so that every message has its cause.
func quietDomain(t *testing.T, change ...func(*options)) *domain {
	o := options{noHearts: true, gateway: func(_ int, c *gateway.Config) { c.Anchors[0].Dialect = gateway.RFC5844 }}
	for _, f := range change {
		f(&o)
	}
	return newDomain(t, o)
}

// TestRetransmissionTimes: INITIAL_BINDACK_TIMEOUT 1 s, doubled up to MAX_BINDACK_TIMEOUT 32 s, for as long as it takes
// (RFC 5213 6.9.4, RFC 6275 11.8); each with a new sequence number and a new timestamp.
func TestRetransmissionTimes(t *testing.T) {
	spec.Covers(t, "RFC5213-6.9.4")
	d := quietDomain(t)
	d.core.SetDown(true)
	pbus := d.listen(All(PBU, From("mag1")))
	var seqs []uint16
	var stamps []uint64
	old := d.Tap
	d.Tap = func(p *Packet) {
		old(p)
		if bu, ok := p.Message().(*mobility.BindingUpdate); ok {
			ts, _ := bu.Options.Timestamp()
			seqs, stamps = append(seqs, bu.Sequence), append(stamps, ts.Value)
		}
	}
	h := d.host(10, func(c *HostConfig) { c.No4 = true })
	d.Run(sec)
	h.Move(d.airs[0])
	d.Run(200 * sec)
	first := sec + airLatency
	var want []time.Duration
	for _, s := range []int{0, 1, 3, 7, 15, 31, 63, 95, 127, 159, 191} {
		want = append(want, first+time.Duration(s)*sec)
	}
	if !slices.Equal(pbus.at, want) {
		t.Errorf("updates at %v, want %v", pbus.at, want)
	}
	for i := 1; i < len(seqs); i++ {
		if seqs[i] != seqs[i-1]+1 || stamps[i] <= stamps[i-1] {
			t.Errorf("update %d: sequence %d after %d, timestamp %d after %d", i, seqs[i], seqs[i-1], stamps[i], stamps[i-1])
		}
	}
	d.core.SetDown(false)
	d.Run(32 * sec)
	d.at(h, 0)
}

// TestLifetimeTimes: a binding that nobody extends ends at the anchor one lifetime after the update was accepted, and at
// the gateway one lifetime after it was sent.
func TestLifetimeTimes(t *testing.T) {
	d := quietDomain(t)
	anchor, mag := d.sessions(d.lma), d.sessions(d.mags[0])
	h := d.host(10, func(c *HostConfig) { c.No4 = true })
	refresh := d.listen(All(PBU, From("mag1")))
	h.Move(d.airs[0])
	d.Run(sec)
	d.at(h, 0)
	d.core.SetDown(true)
	for range 400 { // the host stays, so it is worth to extend
		h.Ping(cn6, 1)
		d.Run(sec)
	}
	sent := airLatency
	if got := anchor["active -> none expired"]; got != sent+oneWay+300*sec {
		t.Errorf("the anchor's binding ended at %v, want %v", got, sent+oneWay+300*sec)
	}
	if got := mag["refreshing -> registering binding expired"]; got != sent+300*sec {
		t.Errorf("the gateway's binding ended at %v, want %v (%v)", got, sent+300*sec, mag)
	}
	// The refresh comes at half of the lifetime, up to a tenth earlier.
	if at := refresh.at[1] - sent; at < 135*sec || at > 150*sec {
		t.Errorf("first refresh after %v", at)
	}
	if len(h.valid6()) != 0 {
		t.Errorf("the host still has %v", h.Addrs6)
	}
	d.core.SetDown(false)
	d.Run(40 * sec)
	d.at(h, 0)
}

// TestDeleteDelay: MinDelayBeforeBCEDelete, 10 s (RFC 5213 5.3.5, 9.1). Meanwhile packets are dropped without a word; a
// registration in time keeps the entry and the addresses.
func TestDeleteDelay(t *testing.T) {
	spec.Covers(t, "RFC5213-5.3.5")
	for _, back := range []time.Duration{0, 9900 * ms} {
		d := quietDomain(t)
		seen := d.sessions(d.lma)
		h := d.host(10)
		h.Move(d.airs[0])
		d.Run(5 * sec)
		addr := h.Addr6()
		home4 := h.Addr4
		d.airs[0].Carrier(false)
		gone := d.Elapsed() + gateway.DefaultLinkGrace + oneWay
		h.Move(nil)
		d.Run(5 * sec)
		if got := seen["active -> deprecated deregistered"]; got != gone {
			t.Fatalf("deregistered at %v, want %v", got, gone)
		}
		var words int
		d.lma.Native = func([]byte) { words++ }
		d.cn.Ping(addr, 1)
		d.cn.Ping(home4.Addr(), 1)
		d.Run(sec)
		if words != 0 {
			t.Errorf("%d packets came back from the anchor, want silence", words)
		}
		if back != 0 {
			d.Run(gone + back - d.Elapsed())
			h.Move(d.airs[1])
			d.Run(20 * sec)
			d.at(h, 1)
			if h.Addr6() != addr || h.Addr4 != home4 {
				t.Errorf("back in time, but with %v %v instead of %v %v", h.Addr6(), h.Addr4, addr, home4)
			}
			continue
		}
		d.Run(20 * sec)
		if got := seen["deprecated -> none delay-over"]; got != gone+10*sec {
			t.Errorf("deleted at %v, want %v", got, gone+10*sec)
		}
	}
}

// alice has two interfaces, which every gateway knows as hers.
func alice(o *options) {
	o.gateway = func(_ int, c *gateway.Config) {
		c.Anchors[0].Dialect = gateway.RFC5844
		c.Access[0].Identity.Table = map[core.MAC]string{{2, 0, 0, 0, 0, 10}: "alice@example.net", {2, 0, 0, 0, 0, 11}: "alice@example.net"}
	}
}

// TestAssignDelay: MaxDelayBeforeNewBCEAssign, 1.5 s (RFC 5213 5.4.1.2, 9.1): another interface of a node with one session
// attaches with unknown handoff state. Unless the first is deregistered meanwhile, it gets a session of its own, then.
// (With revocation the wait is shorter: TestSupposedHandover.)
func TestAssignDelay(t *testing.T) {
	spec.Covers(t, "RFC5213-5.4.1.2")
	for _, leaves := range []bool{false, true} {
		d := quietDomain(t, alice, func(o *options) { o.anchor = func(c *anchor.Config) { c.PMIP6.NoRevocation = true } })
		answers := d.listen(All(PBA, To("mag2")))
		one, two := d.host(10, func(c *HostConfig) { c.No4 = true }), d.host(11, func(c *HostConfig) { c.No4 = true })
		one.Move(d.airs[0])
		d.Run(sec)
		first := one.Addrs6[0].Prefix
		two.Move(d.airs[1])
		asked := d.Elapsed() + airLatency + oneWay
		want := asked + 1500*ms
		if leaves {
			d.Run(500 * ms)
			if _, err := d.mags[0].Command(core.Detach{If: "acc0", MAC: one.MAC}); err != nil {
				t.Fatal(err)
			}
			want = d.Elapsed() + oneWay // the deregistration's arrival
		}
		d.Run(5 * sec)
		if len(answers.at) == 0 || answers.at[0] != want {
			t.Errorf("leaves %v: answered at %v, want %v", leaves, answers.at, want)
		}
		if same := two.Addrs6[0].Prefix == first; same != leaves {
			t.Errorf("leaves %v: the second interface has %v", leaves, two.Addrs6)
		}
	}
}

// TestTimestampWindow: TimestampValidityWindow, 300 ms (RFC 5213 5.5, 9.1), to the millisecond, both ways.
func TestTimestampWindow(t *testing.T) {
	spec.Covers(t, "RFC5213-5.5")
	for _, c := range []struct {
		offset time.Duration // of the gateway's clock
		ok     bool
	}{
		{0, true}, {300*ms + oneWay, true}, {301*ms + oneWay, false}, {-300*ms + oneWay, true}, {-301*ms + oneWay, false},
		{time.Hour, false}, {-time.Hour, false},
	} {
		d := quietDomain(t)
		d.mags[0].Offset = c.offset
		var status []mobility.Status
		d.Tap = func(p *Packet) {
			if ack, ok := p.Message().(*mobility.BindingAck); ok {
				status = append(status, ack.Status)
			}
		}
		h := d.host(10, func(c *HostConfig) { c.No4 = true })
		h.Move(d.airs[0])
		d.Run(500 * ms)
		if len(status) == 0 || (status[0] == mobility.Accepted) != c.ok || !c.ok && status[0] != mobility.TimestampMismatch {
			t.Errorf("clock off by %v: statuses %v, want accepted %v", c.offset, status, c.ok)
		}
		if !c.ok { // people set the clock; the next try succeeds
			d.mags[0].Offset = 0
			d.Run(6 * sec)
			d.at(h, 0)
		}
	}
}

// TestDeregistrationUnanswered: a gateway waits INITIAL_BINDACK_TIMEOUT, 1 s, for the answer, then forgets (RFC 5213
// 6.9.1.4).
func TestDeregistrationUnanswered(t *testing.T) {
	spec.Covers(t, "RFC5213-6.9.1.4")
	d := quietDomain(t)
	seen := d.sessions(d.mags[0])
	pbus := d.listen(All(PBU, From("mag1")))
	h := d.host(10, func(c *HostConfig) { c.No4 = true })
	h.Move(d.airs[0])
	d.Run(5 * sec)
	d.core.SetDown(true)
	at, n := d.Elapsed(), len(pbus.at)
	if _, err := d.mags[0].Command(core.Detach{If: "acc0", MAC: h.MAC}); err != nil {
		t.Fatal(err)
	}
	h.Move(nil)
	d.Run(10 * sec)
	if got := seen["deregistering -> gone deregistration unanswered"]; got != at+sec {
		t.Errorf("forgotten at %v, want %v (%v)", got, at+sec, seen)
	}
	if fmt.Sprint(pbus.at[n:]) != fmt.Sprint([]time.Duration{at}) {
		t.Errorf("updates at %v, want one at %v", pbus.at[n:], at)
	}
	if ops := d.mags[0].Engine.Ops(); len(ops) != 0 {
		t.Errorf("still forwards %v", ops)
	}
}
